"""Optuna's study in a file, and its trials as jobs of a pool."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler, GridSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.local_pool import Job, JobSource, Outcome
from hydra_plugins.local_pool._job import one_line
from hydra_plugins.search import _space
from hydra_plugins.search._space import Point, Space

STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@contextlib.contextmanager
def silent_optuna() -> Iterator[None]:
    """Silence Optuna's log and its warnings that parts of it are new."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Trial(NamedTuple):
    """A point of the space under its number, from 0."""

    number: int
    point: Point


class Grid(GridSampler):
    """Optuna's grid, which would end `Study.optimize` when it is done: nobody calls that here."""

    def after_trial(self, *arguments: Any) -> None:
        pass


class SearchStudy:
    """A study of one question. Refuses options that are not Optuna's, or don't go with the space.

    Args:
        storage: from `open_storage`.
        options: the sweeper's, a SearchConf.
        question: whatever else the command sets, in words. With space and options it makes the
            study's name.
    """

    @silent_optuna()
    def __init__(self, storage: BaseStorage, space: Space, options: Any, question: str) -> None:
        self.space, self.options = space, options
        self._storage = storage
        self.name = _name(space, options, question)
        with _refuse("pruner"):
            pruner = instantiate(options.pruner)
        self._study = optuna.create_study(
            storage=storage,
            sampler=self._make_sampler(0),
            pruner=pruner,
            study_name=self.name,
            direction=StudyDirection[options.direction.upper()],
            load_if_exists=True,
        )
        self._id = storage.get_study_id_from_name(self.name)
        for trial in self._study.get_trials(deepcopy=False):
            if trial.params.keys() != space.keys() and not trial.state.is_finished():
                self._study.tell(trial.number, state=TrialState.FAIL)  # killed while it asked

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that have their point."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.params.keys() == self.space.keys()]

    def open(self) -> list[Trial]:
        """The trials that were asked for and have not been told."""
        return [self._trial(t) for t in self.trials if t.state not in STATES]

    def completed(self) -> list[Point]:
        """The points of the trials that ran to their end."""
        return [self._trial(t).point for t in self.trials if t.state == TrialState.COMPLETE]

    @property
    def most(self) -> float:
        """The number of trials there can be."""
        if not issubclass(get_class(self.options.sampler._target_), GridSampler):
            return math.inf
        return math.prod(len(_space.list_values(of) or ()) for of in self.space.values())

    @silent_optuna()
    def ask(self) -> Trial:
        """Propose a new trial."""
        self._study.sampler = self._make_sampler(len(self._study.get_trials(deepcopy=False)))
        return self._trial(self._study.ask(dict(self.space)))

    def _trial(self, trial: FrozenTrial | optuna.Trial) -> Trial:
        """Make a trial of Optuna's one, its keys in the order of the space, as they were typed."""
        return Trial(trial.number, {key: trial.params[key] for key in self.space})

    @silent_optuna()
    def report(self, number: int, curve: list[tuple[int, float]]) -> bool:
        """Report a trial's values by step, each once; return True if one has pruned it for good."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        trial = self._storage.get_trial(trial_id)
        for step, value in curve if not trial.state.is_finished() else ():
            if step in trial.intermediate_values:
                continue
            self._storage.set_trial_intermediate_value(trial_id, step, value)
            if self._study.pruner.prune(self._study, self._storage.get_trial(trial_id)):
                self._study.tell(number, state=TrialState.PRUNED)
                return True
        return trial.state == TrialState.PRUNED

    @silent_optuna()
    def tell(self, number: int, value: float | None, state: TrialState | None = None) -> None:
        """Tell the outcome of a trial, or the `state` it is left in."""
        self._study.tell(number, value, state=state, skip_if_finished=True)

    def _make_sampler(self, number: int) -> BaseSampler:
        """Make the sampler of trial `number`, anew: nothing it knows is lost with a process."""
        options, seed = self.options.sampler, self.options.seed
        with _refuse("sampler"):
            if not issubclass(get_class(options._target_), GridSampler):
                of_trial = np.random.SeedSequence([seed, number]).generate_state(1)
                return cast(BaseSampler, instantiate(options, seed=int(of_trial[0])))
            columns = {key: _space.list_values(of) for key, of in self.space.items()}
            for key, column in columns.items():
                if column is None:
                    message = f"{key} is an interval, which has no grid: choice(…) or range(…)"
                    raise ConfigCompositionException(f"hydra/sweeper/sampler=grid: {message}")
            return Grid({key: column or [] for key, column in columns.items()}, seed)


class Search(JobSource):
    """Jobs for the trials of a study, until there are `n_trials`.

    Args:
        make: makes a job of overrides; raises where its configuration is not allowed.
        say: tells the user a line.
    """

    def __init__(
        self,
        study: SearchStudy,
        n_trials: int,
        kind: type[Job],
        make: Callable[[Sequence[str]], Job],
        say: Callable[[str], None],
    ) -> None:
        self.study, self.kind, self._make, self._say = study, kind, make, say
        self.total = n_trials
        self.before = sum(trial.state in STATES for trial in study.trials)
        self._again = study.open()
        self._trials: dict[str, list[Trial]] = {}  # by the key of a job that has not ended

    def next(self) -> Job | None:
        while True:
            if self._again:
                trial = self._again.pop(0)
            elif len(self.study.trials) < self.total:
                trial = self.study.ask()
            else:
                return None
            try:
                job = self._make(_space.overrides(trial.point))
            except Exception as error:  # a combination that is not allowed; its values are
                self._say(f"{_space.label(trial.point)}: not tried: {self.kind.cause(error)}")
                self.study.tell(trial.number, None, TrialState.FAIL)
                continue
            if job.key in self._trials:  # it runs already
                self._trials[job.key].append(trial)
                continue
            self._trials[job.key] = [trial]
            return job

    def label(self, job: Job) -> str:
        return _space.label(self._trials[job.key][0].point)

    def count(self, job: Job) -> int:
        return len(self._trials[job.key])

    def stop(self, job: Job) -> str:
        curve = list(job.curve())
        pruned = [self.study.report(trial.number, curve) for trial in self._trials[job.key]]
        return f"pruned after step {curve[-1][0]}, at {curve[-1][1]:.4g}" if any(pruned) else ""

    def ended(self, job: Job, outcome: Outcome) -> None:
        for trial in self._trials.pop(job.key):
            self.study.tell(trial.number, outcome.value)

    def stopped(self, job: Job) -> None:
        del self._trials[job.key]


@contextlib.contextmanager
def _refuse(what: str) -> Iterator[None]:
    """Let Optuna make something of its options; its complaint becomes one line."""
    try:
        yield
    except ConfigCompositionException:
        raise
    except Exception as error:
        cause = one_line(str(error.__cause__ or error))
        raise ConfigCompositionException(f"hydra.sweeper.{what}: {cause}") from None


def _name(space: Space, options: Any, question: str) -> str:
    """Name a study: the keys for people, then a hash of the question."""
    asked = {
        "space": {key: distribution_to_json(of) for key, of in space.items()},
        "direction": options.direction,
        "seed": options.seed,
        "sampler": OmegaConf.to_container(options.sampler, resolve=True),
        "pruner": OmegaConf.to_container(options.pruner, resolve=True),
        "question": question,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([*(key.rpartition(".")[2] for key in space), digest])


class _Held(JournalFileOpenLock):
    """The journal's lock, which has nothing to do: the whole search holds the file."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def open_storage(path: Path | None) -> Iterator[BaseStorage]:
    """Open the file of studies and hold it; None: nothing is kept.

    Raises ConfigCompositionException where another search has it, or it is not one of Optuna's.
    """
    if path is None:
        yield InMemoryStorage()
        return
    other = "hydra.sweeper.storage=<another file>"
    misuse = ConfigCompositionException(f"{path} is not a journal of Optuna's: {other}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe would hang
            raise misuse
        file = open(path, "ab+")  # noqa: SIM115 (closed below)
    except OSError as error:
        message = f"{path} can't be written: {error.strerror}"
        raise ConfigCompositionException(message) from None
    with file:
        with contextlib.suppress(ImportError):  # Windows: nothing tells two searches apart
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # held, or a file system without locks
                held = isinstance(error, BlockingIOError)
                why = "another search has" if held else f"no lock ({error.strerror}) on"
                message = f"{why} {path}: {'wait for it, or ' * held}{other}"
                raise ConfigCompositionException(message) from None
        file.seek(0)
        content = file.read()
        if content and not content.startswith(b'{"op_code":'):
            raise misuse  # and the file is left alone
        # A last line that a full disk or a crash has cut off goes: Optuna would go on in it.
        file.truncate(content.rfind(b"\n") + 1)
        try:
            storage = JournalStorage(JournalFileBackend(str(path), _Held(str(path))))
        except Exception:
            raise misuse from None
        yield storage
