"""Runs as tables, for notebooks and programs: the public name of `runs.table`'s loaders."""

from resnet_cifar.runs.table import (
    Predictions,
    load_metrics,
    load_predictions,
    load_probe,
    load_runs,
    records,
)

__all__ = [
    "Predictions",
    "load_metrics",
    "load_predictions",
    "load_probe",
    "load_runs",
    "records",
]
