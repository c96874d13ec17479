"""A Hydra launcher for one machine: a process per job, a pool of devices × jobs per device.

    hydra/launcher=local hydra.launcher.devices=[0,1] hydra.launcher.jobs_per_device=2

Hydra's basic launcher runs every job in one process and hydra-joblib-launcher assigns no GPUs. Here

- each job sees exactly one device (CUDA_VISIBLE_DEVICES) and its share of the CPU threads;
- jobs that share a GPU may do so by NVIDIA's Multi-Process Service (`mps=true`);
- the whole grid is composed, checked and merged before the first job starts;
- jobs that have their outcome are skipped; one that another process is at is looked at later;
- a failing job leaves the others alone; the end names each failure;
- Ctrl-C and SIGTERM reach every job as SIGTERM, and the pool ends after the last one;
- with `minutes`, only what can end in time is started, and at the end of it the rest saves;
- a job's standard input closes when the pool dies, however it dies, so that it can stop too.

What a job is for a project (its name, its process, whether it is done, how far it is) says a
subclass of `Job` named by `hydra.launcher.job`; without one, every job is run by the program's own
command line and nothing is known of its progress. The launcher's options are `LocalPoolConf`; their
values belong into a YAML file of the project, conf/hydra/launcher/local.yaml here.

Nothing in this package knows the project it lies in.
"""

from hydra_plugins.local_pool._job import AtOnce, Job, Outcome, Progress, SweepFailed
from hydra_plugins.local_pool._source import JobSource

__all__ = ["AtOnce", "Job", "JobSource", "Outcome", "Progress", "SweepFailed"]
