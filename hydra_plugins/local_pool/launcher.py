"""The launcher Hydra finds."""

# No `from __future__ import annotations`: Hydra executes plugin modules before they are in
# sys.modules, where dataclasses look up annotations that are strings.
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig

from hydra_plugins.local_pool._grid import jobs_of
from hydra_plugins.local_pool._job import SweepFailed
from hydra_plugins.local_pool._mps import TOOL, available, mps
from hydra_plugins.local_pool._returned import returned

# Of Hydra's own settings, those that say how this process sweeps; the rest go on to the jobs.
OURS = ("hydra.mode", "hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", "hydra.run")


@dataclass
class LocalPoolConf:
    """Configuration of hydra/launcher=local_pool."""

    _target_: str = "hydra_plugins.local_pool.launcher.LocalPool"
    # "auto": the GPUs this process may use, or the CPU; or a list of visible-device numbers.
    devices: Any = "auto"
    jobs_per_device: int = 1
    # Share a device by NVIDIA's Multi-Process Service, started for the sweep and ended with it.
    mps: bool = False
    # CPU threads a job may use; 0 shares the CPUs out among the jobs that run at once.
    threads: int = 0
    # Dotted path of a subclass of hydra_plugins.local_pool.Job.
    job: str = "hydra_plugins.local_pool.Job"
    # Environment variables for every job.
    env: dict[str, str] = field(default_factory=dict)
    # auto: a live view on a terminal, lines elsewhere. Or live, plain, quiet.
    progress: str = "auto"
    # Show what would be done and end.
    plan: bool = False


ConfigStore.instance().store(group="hydra/launcher", name="local_pool", node=LocalPoolConf)


class LocalPool(Launcher):
    """See the package's docstring; the arguments are those of LocalPoolConf."""

    def __init__(
        self,
        devices: Any,
        jobs_per_device: int,
        mps: bool,
        threads: int,
        job: str,
        env: dict[str, str],
        progress: str,
        plan: bool,
    ) -> None:
        if jobs_per_device < 1:
            raise _refused("jobs_per_device", jobs_per_device, "1 or more")
        if mps and not available():
            raise _refused("mps", mps, f"false on this machine, which has no {TOOL}")
        if threads < 0:
            raise _refused("threads", threads, "0 or more")
        if progress not in ("auto", "live", "plain", "quiet"):
            raise _refused("progress", progress, "one of auto, live, plain, quiet")
        self.slots = visible_devices(devices) * jobs_per_device
        self.mps, self.threads, self.job, self.env = mps, threads, job, dict(env)
        self.progress, self.plan = progress, plan
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context = config, hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self.config is not None
        assert self.context is not None
        setup_globals()
        jobs = jobs_of(get_class(self.job), self.config, self.context, job_overrides)
        distinct = list(dict.fromkeys(jobs))
        running_at_once = min(len(self.slots), len(distinct))
        threads = self.threads or max(1, _cpus() // running_at_once)
        if self.plan:
            type(distinct[0]).plan(distinct, running_at_once, threads)
            if not self.config.hydra.sweeper._target_.endswith(".BasicSweeper"):
                print("These are the first of a search, which chooses the next by what they reach.")
                raise SystemExit(0)
            return [returned(job, JobStatus.COMPLETED, None) for job in jobs]

        from hydra_plugins.local_pool._pool import Pool

        sharing: contextlib.AbstractContextManager[dict[str, str]]
        sharing = mps() if self.mps else contextlib.nullcontext({})
        with sharing as shared:
            pool = Pool(
                distinct,
                self.slots,
                command=[sys.executable, sys.argv[0], *_forwarded(sys.argv[1:])],
                arguments=self._hydra_overrides(),
                env={"OMP_NUM_THREADS": str(threads), **shared, **self.env},
                progress=self.progress,
            )
            pool.run()
        if pool.interrupted:
            raise SystemExit(128 + pool.interrupted)
        failed = len(pool.failures)
        error = SweepFailed(f"{failed} of {len(distinct)} runs failed; see above for each")
        return [
            returned(job, JobStatus.COMPLETED, pool.outcomes[job.key].value)
            if job.key in pool.outcomes
            else returned(job, JobStatus.FAILED, error)
            for job in jobs
        ]

    def _hydra_overrides(self) -> list[str]:
        assert self.config is not None
        given = self.config.hydra.overrides.hydra
        return [o for o in given if not o.lstrip("+~").startswith(OURS)] + ["hydra.mode=RUN"]


def _refused(key: str, value: object, allowed: str) -> Exception:
    message = f"hydra.launcher.{key}={value} is not allowed: {allowed}"
    return ConfigCompositionException(message)


def visible_devices(wanted: Any) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is set to, job by job; [""] where there is no GPU."""
    if wanted != "auto":
        try:
            devices = [str(device) for device in wanted]
        except TypeError:
            devices = []
        if isinstance(wanted, str) or not devices or len(set(devices)) < len(devices):
            allowed = "auto, or a list of different device numbers such as [0,1]"
            raise _refused("devices", wanted, allowed)
        return devices
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(_nvidia_smi())
    return [device for device in visible.split(",") if device.strip()] or [""]


def _nvidia_smi() -> list[str]:
    """The numbers of the GPUs here. Asked of the driver's own tool: no need to load PyTorch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def _cpus() -> int:
    """CPUs this process may run on, and no more threads than it was told to use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(here, int(told)) if told.isdigit() and int(told) > 0 else here


def _forwarded(argv: list[str]) -> list[str]:
    """The options that say where the configuration is; jobs need the same."""
    names = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
    found: list[str] = []
    for position, argument in enumerate(argv):
        if argument in names:
            found += argv[position : position + 2]
        elif argument.startswith(tuple(f"{name}=" for name in names if name.startswith("--"))):
            found.append(argument)
    return found
