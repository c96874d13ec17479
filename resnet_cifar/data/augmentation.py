"""All randomness of a run, drawn on the CPU from (seed, stream, epoch).

Nothing carries state from one epoch to the next. So a resumed run needs no generator state, every
cell sees the same draws at the same seed, and every device sees the same data.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def generator(seed: int, stream: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Draws(NamedTuple):
    """One view of n images: the order they come in, and how each position is augmented."""

    order: Tensor  # int64 [n], a permutation
    offset: Tensor  # int64 [n, 2], row and column of the crop in the padded image
    flip: Tensor  # bool [n]

    def to(self, device: torch.device) -> Draws:
        return Draws(*(tensor.to(device, non_blocking=True) for tensor in self))


def training_draws(seed: int, epoch: int, count: int, padding: int, flip: float) -> Draws:
    """Order, crops and flips of epoch `epoch` (from 1)."""
    order = torch.randperm(count, generator=generator(seed, "order", epoch))
    return Draws(order, *_augmentation(seed, "augmentation", epoch, count, padding, flip))


def validation_draws(seed: int, epoch: int, count: int, padding: int, flip: float) -> Draws:
    """The augmented view of validation at `epoch`, images in their own order."""
    augmentation = _augmentation(seed, "augmentation/val", epoch, count, padding, flip)
    return Draws(torch.arange(count), *augmentation)


def probe_draws(seed: int, count: int, padding: int, flip: float) -> Draws:
    """Order, crops and flips of which the probe's batch is the first part: all epochs' the same."""
    order = torch.randperm(count, generator=generator(seed, "order/probe"))
    return Draws(order, *_augmentation(seed, "augmentation/probe", 0, count, padding, flip))


def clean(count: int, padding: int) -> Draws:
    """The view without augmentation: centre crop, no flip, images in their own order."""
    offset = torch.full((count, 2), padding)
    return Draws(torch.arange(count), offset, torch.zeros(count, dtype=torch.bool))


def _augmentation(
    seed: int, stream: str, epoch: int, count: int, padding: int, flip: float
) -> tuple[Tensor, Tensor]:
    # Flips first: they are then the same draws whatever the padding.
    source = generator(seed, stream, epoch)
    flips = torch.rand(count, generator=source) < flip
    offset = torch.randint(0, 2 * padding + 1, (count, 2), generator=source)
    return offset, flips
