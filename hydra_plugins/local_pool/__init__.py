"""A Hydra launcher for one machine: a process per job, a pool of devices × jobs per device.

    hydra/launcher=local hydra.launcher.devices=[0,1] hydra.launcher.jobs_per_device=2

A project describes its jobs in a subclass of `Job`. README.md beside these packages has the
promises, the options and an example. Nothing in this package knows the project it lies in.
"""

from hydra_plugins.local_pool._job import (
    AtOnce,
    Job,
    JobSource,
    Outcome,
    Progress,
    SweepFailed,
)

__all__ = ["AtOnce", "Job", "JobSource", "Outcome", "Progress", "SweepFailed"]
