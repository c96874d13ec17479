"""The sweeper Hydra finds. Optuna is imported when it is used."""

# No `from __future__ import annotations`: see local_pool/launcher.py.
import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class
from omegaconf import OmegaConf

from hydra_plugins.local_pool import AtOnce, Job, Outcome
from hydra_plugins.local_pool._grid import Composer, make_jobs
from hydra_plugins.local_pool._view import SweepConsole
from hydra_plugins.local_pool.launcher import LocalPool, check_options
from hydra_plugins.local_pool.sweeper import LaunchingSweeper

if TYPE_CHECKING:
    from hydra_plugins.search._study import Search, SearchStudy

OLDEST = 4  # of Optuna: its journals' names


@dataclass
class SearchConf:
    """The options, one line each; their values and what they mean are one line each of YAML."""

    params: dict[str, Any]  # key by key what would stand on the command line, which comes after it
    direction: str
    n_trials: int
    seed: int
    batch: int
    storage: str
    sampler: Any
    pruner: Any
    _target_: str = "hydra_plugins.search.sweeper.OptunaSearch"
    _recursive_: bool = False

    def __post_init__(self) -> None:
        a_file = bool(self.storage.strip()) and "://" not in self.storage
        check_options(
            self,
            "hydra.sweeper",
            n_trials=(self.n_trials >= 1, "1 or more"),
            batch=(self.batch >= 1, "1 or more"),
            seed=(self.seed >= 0, "0 or more"),
            direction=(self.direction in ("maximize", "minimize"), "maximize or minimize"),
            storage=(a_file, "a file, a journal of Optuna's; no URL"),
        )


def available() -> bool:
    try:
        return int(importlib.metadata.version("optuna").partition(".")[0]) >= OLDEST
    except importlib.metadata.PackageNotFoundError:
        return False


if available():  # else a configuration that asks for it can't be composed
    ConfigStore.instance().store(group="hydra/sweeper", name="search_schema", node=SearchConf)


class OptunaSearch(LaunchingSweeper):
    """See the package's docstring; the arguments are those of SearchConf."""

    def __init__(self, **options: Any) -> None:
        self.options = SearchConf(**options)
        self._console = SweepConsole()

    def sweep(self, arguments: list[str]) -> None:
        from hydra_plugins.search import _space, _study

        fixed, space = self._split(arguments)
        job = OmegaConf.select(self.config, "hydra.launcher.job")
        kind: type[Job] = get_class(job) if job else Job
        composer = Composer(self.config, self.context.config_loader)

        def make(overrides: Sequence[str]) -> Job:
            return make_jobs(kind, self.config, self.context, [[*fixed, *overrides]], composer)[0]

        # Before anything is written: every extreme value is tried, and the options are Optuna's.
        first, *others = [make(_space.overrides(point)) for point in _space.list_corners(space)]
        with _study.open_storage(None) as nowhere:
            _study.SearchStudy(nowhere, space, self.options, "")
        quiet = OmegaConf.select(self.config, "hydra.launcher.progress") == "quiet"
        planned = isinstance(self.launcher, LocalPool) and self.launcher.options.plan
        if isinstance(self.launcher, LocalPool) and not planned:
            kind.prepare([first, *others], AtOnce(0), 0)
        file = None if planned else Path(self.options.storage).expanduser()
        with _study.open_storage(file) as storage:
            study = _study.SearchStudy(storage, space, self.options, first.label)
            n_trials = int(min(self.options.n_trials, study.most))
            search = _study.Search(study, n_trials, kind, make, self._console.print)
            try:
                if isinstance(self.launcher, LocalPool):
                    self.launcher.search(search)
                else:
                    self._search_in_batches(search)
            finally:
                if not planned and not quiet:
                    self._summarize(study, file)
        if not quiet:
            jobs = [make(_space.overrides(point)) for point in study.completed()]
            kind.answer([*{job.key: job for job in jobs}.values()])  # a point may be tried twice

    def _split(self, arguments: list[str]) -> tuple[list[str], "dict[str, Any]"]:
        """Split the command line into what every job has and the space."""
        from hydra_plugins.search._space import distribution

        params = [f"{key}={value}" for key, value in self.options.params.items()]
        # The last one of a key counts.
        last = {o.get_key_element(): o for o in self.parse([*params, *arguments])}
        fixed = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
        space = {key: distribution(o) for key, o in last.items() if o.is_sweep_override()}
        if not space:
            message = "hydra/sweeper=optuna has nothing to search: key=interval(…) or choice(…)"
            raise ConfigCompositionException(message)
        return fixed, space

    def _search_in_batches(self, search: "Search") -> None:
        """Search on a launcher that takes a list of jobs and returns when all have ended."""
        if not self.options.pruner._target_.endswith(".NopPruner"):
            self._console.print("without pruning: this launcher tells nothing of running jobs")
        index = 0
        while batch := [j for _ in range(self.options.batch) if (j := search.next())]:
            results = self.launcher.launch([job.overrides for job in batch], index)
            index += len(batch)
            for job, result in zip(batch, results, strict=True):
                search.ended(job, Outcome(result.return_value, ""))  # raises what it failed with

    def _summarize(self, study: "SearchStudy", file: Path | None) -> None:
        counts = Counter(trial.state.name for trial in study.trials)
        names = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "refused", "RUNNING": "open"}
        parts = [f"{counts[name]} {word}" for name, word in names.items() if counts[name]]
        said = f"{len(study.trials)} trials: {', '.join(parts)}; {study.name} in {file}"
        self._console.print(said)
