"""The launcher Hydra finds."""

# No `from __future__ import annotations`: Hydra executes plugin modules before they are in
# sys.modules, where dataclasses look up annotations that are strings.
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig

from hydra_plugins.local_pool._grid import make_jobs
from hydra_plugins.local_pool._job import AtOnce, Job, JobSource, Outcome, SweepFailed

if TYPE_CHECKING:
    from hydra_plugins.local_pool._pool import Pool

VIEWS = ("auto", "live", "plain", "quiet")


@dataclass
class LocalPoolConf:
    """The options, one line each; their values and what they mean are one line each of YAML."""

    devices: Any  # "auto", or a list of visible-device numbers
    jobs_per_device: Any  # "auto", or how many
    threads: int
    minutes: float
    progress: str
    plan: bool
    job: str  # dotted path of a subclass of hydra_plugins.local_pool.Job
    env: dict[str, str]  # for every job
    _target_: str = "hydra_plugins.local_pool.launcher.LocalPool"

    def __post_init__(self) -> None:
        number = type(self.jobs_per_device) is int and 1 <= self.jobs_per_device <= 1024
        several = not isinstance(self.devices, str) and isinstance(self.devices, Sequence)
        distinct = several and 0 < len(self.devices) == len({str(d) for d in self.devices})
        listed = "auto, or a list of different device numbers such as [0,1]"
        check_options(
            self,
            "hydra.launcher",
            jobs_per_device=(number or self.jobs_per_device == "auto", "auto, or 1 to 1024"),
            threads=(0 <= self.threads <= 1024, "0 to 1024"),
            minutes=(0 <= self.minutes < math.inf, "0 or more"),
            progress=(self.progress in VIEWS, f"one of {', '.join(VIEWS)}"),
            devices=(self.devices == "auto" or distinct, listed),
        )


def check_options(options: object, group: str, **rules: tuple[bool, str]) -> None:
    """Refuse an option whose rule does not hold; a rule is a truth, and what is allowed."""
    for key, (holds, allowed) in rules.items():
        if not holds:
            value = getattr(options, key)
            raise ConfigCompositionException(f"{group}.{key}={value}: must be {allowed}")


ConfigStore.instance().store(group="hydra/launcher", name="local_pool", node=LocalPoolConf)


class LocalPool(Launcher):
    """See the package's docstring; the arguments are those of LocalPoolConf."""

    config: DictConfig  # by setup, as the next one
    context: HydraContext

    def __init__(self, **options: Any) -> None:
        self.options = LocalPoolConf(**options)
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
        jobs = make_jobs(get_class(self.options.job), self.config, self.context, job_overrides)
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
        error = SweepFailed(f"{len(pool.failures)} of {len(distinct)} runs failed: see above")
        return make_returns(jobs, pool.outcomes, error)

    def search(self, source: JobSource) -> None:
        """Run the jobs that `source` proposes, every slot busy as long as there are any.

        Raises SweepFailed; SystemExit at a signal, when the time is up, and after the plan.
        """
        if self.options.plan:
            print("These are the first runs of a search; it chooses the next by their results.")
            self._plan([job for _ in self._slots()[0] if (job := source.next())])
        pool = self._run([], source.total, source)
        if pool.interrupted:
            raise SystemExit(128 + pool.interrupted)
        if pool.failures:
            raise SweepFailed(f"{len(pool.failures)} runs failed: see above")
        if pool.left:
            raise SystemExit(0)

    def _slots(self, to_do: Sequence[Job] = ()) -> tuple[list[str], list[str]]:
        """A device for each job that may run at once, and for more of them when they are the last.

        The number is set here, once for the whole sweep.
        """
        devices = visible_devices(self.options.devices)
        count = self.options.jobs_per_device
        if count != "auto":
            return devices * int(count), []
        if any(devices) or self.options.threads or len(to_do) < 2:
            return devices, []  # several on a GPU, or of a chosen size: only where asked for
        kind = type(to_do[0])
        at_once = kind.at_once(to_do, kind.cpus())
        return devices * at_once.runs, devices * max(0, at_once.last - at_once.runs)

    def _threads(self, at_once: int) -> int:
        kind: type[Job] = get_class(self.options.job)
        return self.options.threads or max(1, kind.cpus() // at_once)

    def _plan(self, jobs: Sequence[Job]) -> None:
        to_do = [job for job in jobs if job.outcome() is None]
        slots, spare = self._slots(to_do)
        at_once = AtOnce(max(1, min(len(slots), len(jobs))), len(slots) + len(spare))
        if jobs:
            type(jobs[0]).plan(jobs, at_once, self._threads(at_once.runs))
        raise SystemExit(0)

    def _run(self, jobs: Sequence[Job], count: int, source: JobSource | None = None) -> "Pool":
        """Run `jobs` and what the source proposes, `count` in all; return the pool that did."""
        from hydra_plugins.local_pool._fork_server import AVAILABLE, ForkServer
        from hydra_plugins.local_pool._pool import Pool

        done = {job.key: outcome for job in jobs if (outcome := job.outcome())}
        to_do = [job for job in jobs if job.key not in done]
        slots, spare = self._slots(to_do)
        threads = self._threads(min(len(slots), count))
        env = {"OMP_NUM_THREADS": str(threads)}
        env |= {**self.options.env, **self.config.hydra.job.env_set}
        several = source.total - source.before if source else len(to_do)
        kind: type[Job] = get_class(self.options.job)
        if to_do:
            kind.prepare(to_do, AtOnce(min(len(slots), len(to_do)), len(slots + spare)), threads)
        # Not with GPUs: that a fork is safe for CUDA has not been tried on one.
        forks = AVAILABLE and kind.entry and several > 1 and not any(slots)
        server = ForkServer(kind.preload, env) if forks else None
        try:
            pool = Pool(
                jobs,
                done,
                slots,
                env,
                self.options.progress,
                deadline=self._deadline,
                source=source,
                server=server,
                spare=spare,
            )
            pool.run()
        finally:
            if server:
                server.close()
        return pool


class _Returned(JobReturn):
    """Hydra's result, but it raises a failure without printing the overrides first."""

    @property
    def return_value(self) -> Any:
        if self.status == JobStatus.COMPLETED:
            return self._return_value
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def make_returns(
    jobs: Sequence[Job], outcomes: Mapping[str, Outcome], error: Exception
) -> list[JobReturn]:
    """Make Hydra's results of jobs; one whose key has no outcome raises `error`."""
    results: list[JobReturn] = []
    for job in jobs:
        outcome = outcomes.get(job.key)
        status = JobStatus.COMPLETED if outcome else JobStatus.FAILED
        results.append(_Returned(overrides=job.overrides, cfg=job.config, status=status))
        results[-1].return_value = outcome.value if outcome else error
    return results


def visible_devices(wanted: Any) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES, one for each device; [""] where there is no GPU."""
    if wanted != "auto":
        return [str(device) for device in wanted]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and (tool := shutil.which("nvidia-smi")):  # no need to load PyTorch
        query = [tool, "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
        visible = "" if done.returncode else ",".join(done.stdout.split())
    # As CUDA reads it: what is no device (-1, NoDevFiles) hides itself and those after it.
    names = (name.strip() for name in (visible or "").split(","))
    return list(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names)) or [""]
