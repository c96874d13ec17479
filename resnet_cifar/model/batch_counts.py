"""The number of batches that BatchNorm layers were trained on, known without counting."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from resnet_cifar.model.detached_batchnorm import DetachedBatchNorm2d


class BatchCounts:
    """The `num_batches_tracked` of a network's BatchNorm layers, which they have in files alone.

    A layer that has it adds 1 in every training pass: a kernel, of 20 in ResNet-18, for a number
    that nothing in training reads and that the updates made tell as well. So it is taken away.
    A derived layer, which may need it, keeps it, and so does one without a momentum, which does.
    """

    def __init__(self, network: nn.Module) -> None:
        self._at_first: dict[Any, Any] = {}
        layers: Iterator[Any] = network.modules()
        for layer in layers:
            plain = type(layer) in (nn.BatchNorm2d, DetachedBatchNorm2d)
            if plain and layer.track_running_stats and layer.momentum is not None:
                self._at_first[layer] = layer.num_batches_tracked
                layer.num_batches_tracked = None

    @contextmanager
    def after(self, updates: int) -> Iterator[None]:
        """Give the layers, inside, the numbers that they have after so many updates."""
        for layer, at_first in self._at_first.items():
            layer.num_batches_tracked = at_first + updates
        try:
            yield
        finally:
            for layer in self._at_first:
                layer.num_batches_tracked = None
