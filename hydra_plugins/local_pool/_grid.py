"""A sweep's grid before anything runs: composed, checked, merged."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from hydra_plugins.local_pool._job import Job


def jobs_of(
    make: type[Job],
    config: DictConfig,
    context: HydraContext,
    job_overrides: Sequence[Sequence[str]],
) -> list[Job]:
    """A job for each list of overrides. Those that are the same work are the same object.

    Raises:
        Exception: a configuration can't be composed or is not allowed.
    """
    distinct: dict[str, Job] = {}
    jobs = []
    for overrides in job_overrides:
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        job = make(composed, [o for o in overrides if not o.startswith("hydra.")])
        jobs.append(distinct.setdefault(job.key, job))
    return jobs
