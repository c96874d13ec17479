"""The launchers Hydra finds. The engines are imported when one is used."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import zip_longest
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.local_pool import Job, Outcome, SweepFailed
from hydra_plugins.local_pool._grid import jobs_of
from hydra_plugins.local_pool._returned import returned
from hydra_plugins.local_pool.launcher import visible_devices
from resnet_cifar.errors import describe

# ${where_gpu:x} is x where this machine has a GPU, else 0.
OmegaConf.register_new_resolver(
    "where_gpu", lambda share: share if any(visible_devices("auto")) else 0, replace=True
)


class ClusterLauncher(Launcher):
    """An engine behind the checks. The arguments are those of the engine's own schema."""

    ENGINE: ClassVar[str]
    LEFT_ALONE: ClassVar[str]  # what a person should know who ends this command early

    def __init__(self, **settings: Any) -> None:
        self.engine: Launcher = get_class(self.ENGINE)(**settings)
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context = config, hydra_context
        # The engines make hydra.sweep.dir in every job, wherever that runs: not the scratch
        # directory of this process.
        theirs = deepcopy(config)
        with read_write(theirs), open_dict(theirs):
            theirs.hydra.sweep.dir = "."
            theirs.hydra.overrides.hydra.append("hydra.sweep.dir=.")
        self.engine.setup(hydra_context=hydra_context, task_function=task_function, config=theirs)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from resnet_cifar.display import Display
        from resnet_cifar.sweep import RunJob

        assert self.config is not None
        assert self.context is not None
        setup_globals()
        jobs = jobs_of(RunJob, self.config, self.context, job_overrides)
        overrides = dict(zip(jobs, job_overrides, strict=True))  # of equal jobs, one is enough
        done = {job: outcome for job in overrides if (outcome := job.outcome())}
        left = [job for job in overrides if job not in done]
        cause = "see above for each"
        with Display("plain") as display:
            display.say(f"{len(overrides)} runs: {len(done)} done before, {len(left)} to do")
            for job, outcome in done.items():
                display.say(f"{job.label}: skipped, {outcome.text}")
            results: Sequence[JobReturn] = []
            try:
                if left:
                    results = self.engine.launch([overrides[job] for job in left], initial_job_idx)
            except KeyboardInterrupt:
                display.say(self.LEFT_ALONE)
                raise
            except Exception as error:  # one job that was killed is enough for that
                cause = describe(error).partition(" Error stream")[0]
            for job, result in zip_longest(left, results):
                outcome, text = self._ended(job, result)
                if outcome:
                    done[job] = outcome
                display.say(f"{job.label}: {text}")
            ended = f"{len(overrides)} runs: {len(done)} done"
            missing = len(overrides) - len(done)
            display.say(f"{ended}, {missing} not" if missing else ended)
        failure = SweepFailed(f"{missing} of {len(overrides)} runs are not done: {cause}")
        return [
            returned(job, JobStatus.COMPLETED, done[job].value)
            if job in done
            else returned(job, JobStatus.FAILED, failure)
            for job in jobs
        ]

    def _ended(self, job: Job, result: JobReturn | None) -> tuple[Outcome | None, str]:
        """What came of a job, by the engine's account and its own record; and in words."""
        job.exit_code = 0
        outcome = job.outcome()
        if result is not None and result.status == JobStatus.COMPLETED:
            # The record may lag behind where the file system is another machine's.
            outcome = Outcome(result.return_value, outcome.text if outcome else "completed")
        if outcome:
            return outcome, outcome.text
        if result is not None:
            return None, f"FAILED: {describe(result._return_value)}"
        return None, "running" if job.busy() else "no outcome"


class Slurm(ClusterLauncher):
    """An array job, waited for."""

    ENGINE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    LEFT_ALONE = "the jobs go on without this command: squeue shows them, scancel ends them"


class SlurmLocal(ClusterLauncher):
    """What `Slurm` does, as processes of this machine, all at once: to try it, and for tests."""

    ENGINE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
    LEFT_ALONE = "the runs end with this command; the same command goes on"


class Ray(ClusterLauncher):
    """Tasks of a Ray cluster, or of one that is started here for the sweep."""

    ENGINE = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    LEFT_ALONE = "the runs end with this command; the same command goes on"
