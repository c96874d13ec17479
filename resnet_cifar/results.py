"""Runs as tables, for notebooks and programs: the public name of `runs.table`'s loaders."""

from resnet_cifar.runs.table import load_metrics, load_predictions, load_probe, load_runs

__all__ = ["load_metrics", "load_predictions", "load_probe", "load_runs"]
