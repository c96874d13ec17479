"""The launchers Hydra finds. The engines are imported when one is used."""

import importlib
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, make_dataclass
from itertools import zip_longest
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write

from hydra_plugins.local_pool import Job, Outcome, SweepFailed
from hydra_plugins.local_pool._grid import make_jobs
from hydra_plugins.local_pool._view import SweepConsole
from hydra_plugins.local_pool.launcher import make_returns, visible_devices

SWEEPER = re.compile(r"\W*hydra[./]sweeper")  # an override that chooses or sets the sweeper
# ${where_gpu:x} is x where this machine has a GPU, else 0.
OmegaConf.register_new_resolver(
    "where_gpu", lambda share: share if any(visible_devices("auto")) else 0, replace=True
)


@dataclass
class HandedConfigurations:
    """A task function for an engine's jobs that gives each the configuration checked here.

    The engines compose it again wherever the job runs, from files that may have changed.
    """

    task_function: TaskFunction
    configurations: list[DictConfig]

    def __call__(self, composed_again: DictConfig) -> Any:
        return self.task_function(self.configurations[HydraConfig.get().job.num])


class ClusterLauncher(Launcher):
    """An engine behind the checks.

    Args:
        job: dotted path of a subclass of hydra_plugins.local_pool.Job.
        settings: the options of the engine's own schema.
    """

    ENGINE: ClassVar[str]
    SCHEMA: ClassVar[tuple[str, str]]  # of the engine's options: module and class
    # For a person who ends this command early.
    LEFT_ALONE: ClassVar[str] = "the runs end with this command; the same command goes on"
    config: DictConfig  # by setup, as the next two
    context: HydraContext
    task_function: TaskFunction

    def __init__(self, job: str, **settings: Any) -> None:
        self.job: type[Job] = get_class(job)
        self.engine: Launcher = get_class(self.ENGINE)(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context, self.task_function = config, hydra_context, task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        jobs = make_jobs(self.job, self.config, self.context, job_overrides)
        distinct = list(dict.fromkeys(jobs))
        done = {job.key: outcome for job in distinct if (outcome := job.outcome())}
        left = [job for job in distinct if job.key not in done]
        label = dict(zip(distinct, self.job.labels(distinct), strict=True))
        console = SweepConsole()
        runs = f"{len(distinct)} run" + "s" * (len(distinct) != 1)
        console.print(f"{runs}: {len(done)} done before, {len(left)} to do")
        for job in distinct:
            if job.key in done:
                console.print(f"{label[job]}: skipped, {done[job.key].text}")
        results: Sequence[JobReturn] = []
        cause = "see above for each"
        try:
            if left:
                results = self._engine_launch(left)
        except KeyboardInterrupt:
            console.print(self.LEFT_ALONE)
            raise
        except Exception as error:  # one job that was killed is enough for that
            cause = self.job.cause(error).partition(" Error stream")[0]
        for job, result in zip_longest(left, results):
            ended, text = self._conclude(job, result)
            if ended:
                done[job.key] = ended
            console.print(f"{label[job]}: {text}")
        missing = len(distinct) - len(done)
        console.print(f"{runs}: {len(done)} done" + f", {missing} not" * (missing > 0))
        if "n_trials" not in self.config.hydra.sweeper:  # a search is not over yet
            self.job.answer(distinct)
        failure = SweepFailed(f"{missing} of {len(distinct)} runs are not done: {cause}")
        return make_returns(jobs, done, failure)

    def _engine_launch(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        # The engines make hydra.sweep.dir in every job, and compose there what is not used: with
        # no sweeper but the default, since a preset that has chosen another one is not among it.
        theirs = deepcopy(self.config)
        with read_write(theirs), open_dict(theirs):
            theirs.hydra.sweep.dir = "."
            theirs.hydra.overrides.hydra = [
                *(line for line in theirs.hydra.overrides.hydra if not SWEEPER.match(line)),
                *("hydra.sweep.dir=.", "hydra.mode=MULTIRUN"),
            ]
        handed = HandedConfigurations(self.task_function, [job.config for job in jobs])
        self.engine.setup(hydra_context=self.context, task_function=handed, config=theirs)
        # Without overrides: what they would compose there is not used.
        return self.engine.launch([[] for _ in jobs], initial_job_idx=0)

    def _conclude(self, job: Job, result: JobReturn | None) -> tuple[Outcome | None, str]:
        """Decide by the engine's word and the job's record if it is done, and say it in words."""
        job.exit_code = 0
        outcome = job.outcome()
        if result is not None and result.status == JobStatus.COMPLETED:
            # The record may lag behind where the file system is another machine's.
            outcome = Outcome(result.return_value, outcome.text if outcome else "completed")
        if outcome:
            return outcome, outcome.text
        if result is not None:
            return None, f"FAILED: {job.cause(result._return_value)}"
        return None, "running" if job.busy() else "no outcome"


class Slurm(ClusterLauncher):
    """An array job, waited for."""

    ENGINE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    SCHEMA = ("hydra_plugins.hydra_submitit_launcher.config", "SlurmQueueConf")
    LEFT_ALONE = "the jobs go on without this command: squeue shows them, scancel ends them"


class SlurmLocal(ClusterLauncher):
    """`Slurm` as processes of this machine, all at once: to try it, and for tests."""

    ENGINE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
    SCHEMA = ("hydra_plugins.hydra_submitit_launcher.config", "LocalQueueConf")


class Ray(ClusterLauncher):
    """Tasks of a Ray cluster, or of one that is started here for the sweep."""

    ENGINE = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    SCHEMA = ("hydra_plugins.hydra_ray_launcher._config", "RayLauncherConf")


def _store(name: str, launcher: type[ClusterLauncher]) -> None:
    """Store the schema of hydra/launcher=`name`: the engine's, if it is installed, and `job`."""
    module, schema = launcher.SCHEMA
    try:
        engine_s = getattr(importlib.import_module(module), schema)
    except ImportError:
        return
    target = f"{__name__}.{launcher.__name__}"
    ours = [("job", str, MISSING), ("_target_", str, target)]
    node = make_dataclass(f"{launcher.__name__}Conf", ours, bases=(engine_s,))
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node)


_store("cluster_slurm", Slurm)
_store("cluster_slurm_local", SlurmLocal)
_store("cluster_ray", Ray)
