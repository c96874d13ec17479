"""A search as the source of a pool's jobs, one for each trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.trial import TrialState

from hydra_plugins.local_pool import Job, JobSource, Outcome
from hydra_plugins.search import _space
from hydra_plugins.search._study import STATES, SearchStudy, Trial


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

    def stop(self, job: Job) -> str:
        curve = list(job.curve())
        pruned = [self.study.report(trial.number, curve) for trial in self._trials[job.key]]
        return f"pruned after step {curve[-1][0]}, at {curve[-1][1]:.4g}" if any(pruned) else ""

    def ended(self, job: Job, outcome: Outcome) -> None:
        for trial in self._trials.pop(job.key):
            self.study.tell(trial.number, outcome.value)

    def stopped(self, job: Job) -> None:
        for trial in self._trials.pop(job.key):
            self.study.tell(trial.number, None, TrialState.PRUNED)
