"""Optuna's study in a file: ask, report, tell."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

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

from hydra_plugins.search import _space
from hydra_plugins.search._space import Point, Space

if TYPE_CHECKING:
    from hydra_plugins.search.sweeper import SearchConf

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
    """A study of one question.

    Args:
        storage: from `open_storage`.
        question: whatever else the command sets, in words. With space and options it makes the
            study's name.

    Raises:
        ConfigCompositionException: the options are not Optuna's, or don't go with the space.
    """

    @silent_optuna()
    def __init__(
        self, storage: BaseStorage, space: Space, options: SearchConf, question: str
    ) -> None:
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
        """Report a trial's values by step; return True if it should be pruned at one of them."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        known = self._storage.get_trial(trial_id).intermediate_values
        for step, value in curve:
            if step in known:
                continue
            self._storage.set_trial_intermediate_value(trial_id, step, value)
            if self._study.pruner.prune(self._study, self._storage.get_trial(trial_id)):
                return True
        return False

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


@contextlib.contextmanager
def _refuse(what: str) -> Iterator[None]:
    """Let Optuna make something of its options; its complaint becomes one line."""
    try:
        yield
    except ConfigCompositionException:
        raise
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise ConfigCompositionException(f"hydra.sweeper.{what}: {cause}") from None


def _name(space: Space, options: SearchConf, question: str) -> str:
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

    Raises:
        ConfigCompositionException: another search has it, or it is not one of Optuna's.
    """
    if path is None:
        yield InMemoryStorage()
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe would hang
            raise ConfigCompositionException(_describe_misuse(path))
        file = open(path, "ab+")  # noqa: SIM115 (closed below)
    except OSError as error:
        message = f"{path} can't be written: {error.strerror}"
        raise ConfigCompositionException(message) from None
    with file:
        _hold(file, path)
        file.seek(0)
        content = file.read()
        if content and not content.startswith(b'{"op_code":'):
            raise ConfigCompositionException(_describe_misuse(path))  # and is left alone
        # A last line that a full disk or a crash has cut off goes: Optuna would go on in it.
        file.truncate(content.rfind(b"\n") + 1)
        try:
            storage = JournalStorage(JournalFileBackend(str(path), _Held(str(path))))
        except Exception:
            raise ConfigCompositionException(_describe_misuse(path)) from None
        yield storage


def _describe_misuse(path: Path) -> str:
    return f"{path} is not a journal of Optuna's: hydra.sweeper.storage=<another file>"


def _hold(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nothing tells two searches on one file apart
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"another search has {path}: wait for it, or hydra.sweeper.storage=<another file>"
        raise ConfigCompositionException(message) from None
