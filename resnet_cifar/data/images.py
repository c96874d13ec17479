"""A data set on the device, from which augmented batches are gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cifar.data import datasets
from resnet_cifar.data.augmentation import Draws

SIZE = 32  # pixels


class DeviceImages:
    """uint8 images, zero-padded once, on `device`; batches come in `memory_format`.

    The padding is black in raw pixels, i.e. applied before normalising, as torchvision's
    RandomCrop(32, padding=4) ahead of ToTensor does it.
    """

    def __init__(
        self,
        images: datasets.Images,
        padding: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        pixels = torch.from_numpy(images.pixels)
        count, height, width, channels = pixels.shape
        self.padded = torch.zeros(
            (count, height + 2 * padding, width + 2 * padding, channels),
            dtype=torch.uint8,
            device=device,
        )
        self.padded[:, padding : padding + height, padding : padding + width] = pixels.to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.padding = padding
        self.device = device
        self.memory_format = memory_format
        # (pixel/255 − mean)/std as one multiplication and one addition per value.
        std = torch.tensor(datasets.STD, device=device)
        self.scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self.shift = (-torch.tensor(datasets.MEAN, device=device) / std).view(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self) -> Tensor:
        """The images as they came: uint8 [n, 32, 32, 3]."""
        inner = slice(self.padding, self.padding + SIZE)
        return self.padded[:, inner, inner]

    def batch(self, draws: Draws, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Positions start…stop of a view.

        Args:
            draws: the view, on this device.

        Returns:
            float32 [n, 3, 32, 32], normalised; labels int64 [n].
        """
        chosen = draws.order[start:stop]
        offset, flip = draws.offset[start:stop], draws.flip[start:stop]
        span = torch.arange(SIZE, device=self.device)
        rows = offset[:, :1] + span
        columns = offset[:, 1:] + torch.where(flip[:, None], SIZE - 1 - span, span)
        # One gather crops and flips; its result is [n, 32, 32, 3], which is channels_last.
        pixels = self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = pixels.permute(0, 3, 1, 2).float().mul_(self.scale).add_(self.shift)
        return x.contiguous(memory_format=self.memory_format), self.labels[chosen]
