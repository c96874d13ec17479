"""What a launcher gives back to the sweeper."""

from __future__ import annotations

from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.local_pool._job import Job


class _Returned(JobReturn):
    """Hydra's, but it raises a failure without printing the overrides first."""

    @property
    def return_value(self) -> Any:
        if self.status == JobStatus.COMPLETED:
            return self._return_value
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def returned(job: Job, status: JobStatus, value: Any) -> JobReturn:
    """`value` is what the job returned, or the exception it failed with."""
    result = _Returned(overrides=job.overrides, cfg=job.config, status=status)
    result.return_value = value
    return result
