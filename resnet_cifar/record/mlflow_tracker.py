"""MLflow, by its client: nothing global, and no run of a process's own."""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_cifar.files import Lock
from resnet_cifar.record.tracker import TrackedRun, Tracker

# Unless they are set: nobody's usage is reported, and a server that is away is soon given up.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}
EXPERIMENT = "resnet-cifar"
STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}  # the rest is a failure


class MLflowTracker(Tracker):
    """A run of an experiment, of conf/logger/mlflow.yaml; both are made where there are none."""

    def __init__(self, run: TrackedRun, uri: str, experiment: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        own = not (uri or os.environ.get("MLFLOW_TRACKING_URI"))
        if own:
            uri = f"sqlite:///{(run.root / 'mlflow.db').absolute()}"
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or ""
        identity = "" if name else os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        # Runs that start at once would all make the database's tables.
        with Lock(run.root / ".mlflow.lock"):
            self._client = MlflowClient(uri or None)
            if not identity:
                known = self._client.get_experiment_by_name(name or EXPERIMENT)
                pictures = (run.root / "mlflow").absolute().as_uri() if own else None
                create = self._client.create_experiment
                identity = known.experiment_id if known else create(name or EXPERIMENT, pictures)
        self.epoch = 0
        if run.id:
            try:
                self.id = self._client.get_run(run.id).info.run_id
                self._client.update_run(self.id, status="RUNNING")
                history = self._client.get_metric_history(self.id, "lr")
                self.epoch = max((metric.step for metric in history), default=0)
            except MlflowException:  # of another store, or deleted
                self.id = ""
        if not self.id:
            new = self._client.create_run(identity, tags={"cell": run.cell}, run_name=run.name)
            self.id = new.info.run_id
            parameters = [Param(key, str(value)) for key, value in run.config.items()]
            self._client.log_batch(self.id, params=parameters)  # it takes 100 in one call

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now, epoch = round(1000 * time.time()), metrics["epoch"]
        known = {k: float(v) for k, v in metrics.items() if v is not None and k != "epoch"}
        self._client.log_batch(self.id, [Metric(k, v, now, epoch) for k, v in known.items()])

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._client.log_image(self.id, pixels, f"{name}.png")

    def end(self, status: str) -> None:
        self._client.set_terminated(self.id, STATUS.get(status, "FAILED"))
