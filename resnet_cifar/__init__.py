"""A controlled hyperparameter study of ResNet-18 on CIFAR-10.

The functions for other programs (docs/api.md) are imported when they are asked for: reading results
takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compose", "load_metrics", "load_model", "load_predictions", "load_runs", "train"]
_HOMES = {"compose": "config", "train": "trained.model", "load_model": "trained.model"}

if TYPE_CHECKING:
    from resnet_cifar.config.compose import compose
    from resnet_cifar.runs.table import load_metrics, load_predictions, load_runs
    from resnet_cifar.trained.model import load_model, train


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'runs.table')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
