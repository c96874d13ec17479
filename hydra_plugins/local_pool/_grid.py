"""A sweep's grid before anything runs: composed, resolved, checked, merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

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
    setup_globals()
    distinct: dict[str, Job] = {}
    jobs = []
    now: dict[str, Any] = {}  # ${now:…} is one moment for the whole sweep
    for number, overrides in enumerate(job_overrides):
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        OmegaConf.set_cache(composed, {"now": now})
        plain = _resolved(composed, number)
        now = {**now, **OmegaConf.get_cache(composed).get("now", {})}
        job = make(plain, [o for o in overrides if not o.startswith("hydra.")])
        jobs.append(distinct.setdefault(job.key, job))
    return jobs


def _resolved(composed: DictConfig, number: int) -> DictConfig:
    """`composed` without Hydra's node, every ${…} replaced by what it means now."""
    with read_write(composed), open_dict(composed.hydra):
        composed.hydra.job.num, composed.hydra.job.id = number, str(number)
        composed.hydra.runtime.output_dir = os.getcwd()  # jobs are given no other
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)
    try:
        for name in [name for name in composed if name != "hydra"]:
            if OmegaConf.is_missing(composed, name):
                continue  # for whoever checks the configuration
            if OmegaConf.is_interpolation(composed, str(name)):
                composed[name] = composed[name]
            elif OmegaConf.is_config(composed[name]):
                OmegaConf.resolve(composed[name])
    finally:
        HydraConfig.instance().cfg = before
    with open_dict(composed):
        del composed["hydra"]
    return composed
