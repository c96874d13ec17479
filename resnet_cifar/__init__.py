"""A controlled hyperparameter study of ResNet-18 on CIFAR-10.

What other programs use of it is imported when it is asked for (docs/api.md): reading results takes
no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compose", "load_metrics", "load_model", "load_predictions", "load_runs", "train"]
_HOMES = {"compose": "config", "train": "trained", "load_model": "trained"}  # else results

if TYPE_CHECKING:
    from resnet_cifar.config import compose
    from resnet_cifar.results import load_metrics, load_predictions, load_runs
    from resnet_cifar.trained import load_model, train


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'results')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
