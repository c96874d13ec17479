"""The launcher Hydra finds."""

# No `from __future__ import annotations`: Hydra executes plugin modules before they are in
# sys.modules, where dataclasses look up annotations that are strings.
import contextlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig

from hydra_plugins.local_pool._grid import jobs_of
from hydra_plugins.local_pool._job import AtOnce, Job, SweepFailed
from hydra_plugins.local_pool._mps import TOOL, available, mps
from hydra_plugins.local_pool._returned import returned
from hydra_plugins.local_pool._source import JobSource

if TYPE_CHECKING:
    from hydra_plugins.local_pool._nursery import Nursery
    from hydra_plugins.local_pool._pool import Pool

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container
VIEWS = ("auto", "live", "plain", "quiet")


@dataclass
class LocalPoolConf:
    """The options, one line each; their values and what they mean are one line each of YAML.

    Raises:
        ConfigCompositionException: a value is not allowed.
    """

    devices: Any  # "auto", or a list of visible-device numbers
    jobs_per_device: Any  # "auto", or how many
    mps: bool
    threads: int
    minutes: float
    progress: str
    plan: bool
    job: str  # dotted path of a subclass of hydra_plugins.local_pool.Job
    env: dict[str, str]  # for every job
    _target_: str = "hydra_plugins.local_pool.launcher.LocalPool"

    def __post_init__(self) -> None:
        number = type(self.jobs_per_device) is int and self.jobs_per_device >= 1
        self._require(
            number or self.jobs_per_device == "auto", "jobs_per_device", "auto, or 1 or more"
        )
        self._require(
            not self.mps or available(), "mps", f"false on this machine, which has no {TOOL}"
        )
        self._require(self.threads >= 0, "threads", "0 or more")
        self._require(0 <= self.minutes < math.inf, "minutes", "0 or more")
        self._require(self.progress in VIEWS, "progress", f"one of {', '.join(VIEWS)}")
        several = not isinstance(self.devices, str) and isinstance(self.devices, Sequence)
        distinct = several and 0 < len(self.devices) == len({str(d) for d in self.devices})
        allowed = "auto, or a list of different device numbers such as [0,1]"
        self._require(self.devices == "auto" or distinct, "devices", allowed)

    def _require(self, condition: bool, key: str, allowed: str) -> None:
        if not condition:
            value = getattr(self, key)
            message = f"hydra.launcher.{key}={value} is not allowed: {allowed}"
            raise ConfigCompositionException(message)


ConfigStore.instance().store(group="hydra/launcher", name="local_pool", node=LocalPoolConf)


class LocalPool(Launcher):
    """See the package's docstring; the arguments are those of LocalPoolConf."""

    def __init__(self, **options: Any) -> None:
        self.options = LocalPoolConf(**options)
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None
        self._deadline: float | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context = config, hydra_context
        if self.options.minutes:  # for a search, which launches again and again, all in all
            self._deadline = time.monotonic() + 60 * self.options.minutes

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self.config is not None
        assert self.context is not None
        jobs = jobs_of(get_class(self.options.job), self.config, self.context, job_overrides)
        distinct = list(dict.fromkeys(jobs))
        if self.options.plan:
            self._plan(distinct)
        pool = self._run(distinct, len(distinct))
        if pool.interrupted:
            raise SystemExit(128 + pool.interrupted)
        if self.options.progress != "quiet":
            type(distinct[0]).answer(distinct)
        if pool.left and not pool.failures:
            raise SystemExit(0)
        failed = len(pool.failures)
        error = SweepFailed(f"{failed} of {len(distinct)} runs failed; see above for each")
        return [
            returned(job, JobStatus.COMPLETED, pool.outcomes[job.key].value)
            if job.key in pool.outcomes
            else returned(job, JobStatus.FAILED, error)
            for job in jobs
        ]

    def search(self, source: JobSource) -> None:
        """Run what `source` comes up with, every slot busy as long as there is something.

        Raises:
            SystemExit: a signal came, the time is up, or only the plan was asked for.
            SweepFailed: jobs failed.
        """
        if self.options.plan:
            print("These are the first of a search, which chooses the next by what they reach.")
            slots, _ = self._slots(visible_devices(self.options.devices))
            self._plan([job for _ in slots if (job := source.next())])
        pool = self._run([], source.total, source)
        if pool.interrupted:
            raise SystemExit(128 + pool.interrupted)
        if pool.failures:
            raise SweepFailed(f"{len(pool.failures)} runs failed; see above for each")
        if pool.left:
            raise SystemExit(0)

    def _slots(self, devices: list[str], to_do: Sequence[Job] = ()) -> tuple[list[str], list[str]]:
        """A device for each job that may run at once, and for more when they are the last."""
        count = self.options.jobs_per_device
        if count != "auto":
            return devices * int(count), []
        if any(devices) or self.options.threads or _cpus() < 2 or len(to_do) < 2:
            return devices, []  # several on a GPU, or of a chosen size: only where asked for
        kind = type(to_do[0])
        at_once = kind.at_once(to_do, kind.cpus())
        return devices * at_once.runs, devices * max(0, at_once.last - at_once.runs)

    def _threads(self, at_once: int) -> int:
        return self.options.threads or max(1, _cpus() // at_once)

    def _plan(self, jobs: Sequence[Job]) -> None:
        to_do = [job for job in jobs if job.outcome() is None]
        slots, spare = self._slots(visible_devices(self.options.devices), to_do)
        at_once = AtOnce(max(1, min(len(slots), len(jobs))), len(slots) + len(spare))
        if jobs:
            type(jobs[0]).plan(jobs, at_once, self._threads(at_once.runs))
        raise SystemExit(0)

    def _run(self, jobs: Sequence[Job], count: int, source: JobSource | None = None) -> "Pool":
        """The pool, when it has run `jobs` and what the source had, `count` in all."""
        from hydra_plugins.local_pool._pool import Pool

        assert self.config is not None
        done = {job.key: outcome for job in jobs if (outcome := job.outcome())}
        to_do = [job for job in jobs if job.key not in done]
        devices = visible_devices(self.options.devices)
        with contextlib.ExitStack() as stack:
            env = stack.enter_context(mps()) if self.options.mps else {}
            env |= {**self.options.env, **self.config.hydra.job.env_set}
            nursery = None if any(devices) else _nursery(to_do, source, env)
            if nursery:
                stack.callback(nursery.close)
            slots, spare = self._slots(devices, to_do)
            threads = self._threads(min(len(slots), count))
            env = {"OMP_NUM_THREADS": str(threads), **env}
            pool = Pool(
                jobs,
                done,
                slots,
                env,
                self.options.progress,
                deadline=self._deadline,
                source=source,
                nursery=nursery,
                spare=spare,
            )
            pool.run()
        return pool


def _nursery(
    to_do: Sequence[Job], source: JobSource | None, env: Mapping[str, str]
) -> "Nursery | None":
    """Where jobs can be forked, if there are several.

    Not with GPUs: that a fork is safe for CUDA has not been tried on one.
    """
    from hydra_plugins.local_pool._nursery import AVAILABLE, Nursery

    count = source.total - source.before if source else len(to_do)
    if not AVAILABLE or count < 2:
        return None
    kind = source.kind if source else type(to_do[0])
    warm = (kind.warm, to_do[0].handed()) if kind.warm and to_do else None
    return Nursery(kind.preload, kind.entry, env, warm) if kind.entry else None


def visible_devices(wanted: Any) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is set to, job by job; [""] where there is no GPU."""
    if wanted != "auto":
        return [str(device) for device in wanted]
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
    """CPUs this process may run on, in a container too, and no more threads than it was told."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no limit
        quota, period = QUOTA.read_text().split()
        here = min(here, max(1, math.ceil(int(quota) / int(period))))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(here, int(told)) if told.isdigit() and int(told) > 0 else here
