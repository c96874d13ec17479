"""A data set on the device, from which augmented batches are gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cifar.data.augmentation import Augmentation, Draws
from resnet_cifar.data.datasets import Images, Normalisation

SIZE = 32  # pixels


class DeviceImages:
    """uint8 images, zero-padded once, on `device`; batches come in `memory_format`.

    The padding is black in raw pixels, i.e. applied before normalising, as torchvision's
    RandomCrop(32, padding=4) ahead of ToTensor does it.

    Args:
        classes: how many labels there are; as many as `images` show, unless given.
    """

    def __init__(
        self,
        images: Images,
        normalisation: Normalisation,
        augmentation: Augmentation,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
        classes: int | None = None,
    ) -> None:
        pixels, padding = torch.from_numpy(images.pixels), augmentation.padding
        count, height, width, channels = pixels.shape
        self.padded = torch.zeros(
            (count, height + 2 * padding, width + 2 * padding, channels),
            dtype=torch.uint8,
            device=device,
        )
        self.padded[:, padding : padding + height, padding : padding + width] = pixels.to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.positions = images.positions
        self.classes = classes or int(images.labels.max()) + 1
        self.augmentation = augmentation
        self.device = device
        self.memory_format = memory_format
        # (pixel/255 − mean)/std as one multiplication and one addition per value.
        mean, std = (torch.tensor(values, device=device) for values in normalisation)
        self.scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self.shift = (-mean / std).view(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self) -> Tensor:
        """The images as they came: uint8 [n, 32, 32, 3]."""
        padding = self.augmentation.padding
        inner = slice(padding, padding + SIZE)
        return self.padded[:, inner, inner]

    def batch(self, draws: Draws, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Positions start…stop of a view.

        Args:
            draws: the view, on this device.

        Returns:
            float32 [n, 3, 32, 32], normalised; labels int64 [n], or float32 [n, classes] where
            the augmentation mixes them.
        """
        part = draws.part(start, stop)
        span = torch.arange(SIZE, device=self.device)
        rows = part.offset[:, :1] + span
        columns = part.offset[:, 1:] + torch.where(part.flip[:, None], SIZE - 1 - span, span)
        # One gather crops and flips; its result is [n, 32, 32, 3], which is channels_last.
        pixels = self.padded[part.order[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = pixels.permute(0, 3, 1, 2).float().mul_(self.scale).add_(self.shift)
        x = x.contiguous(memory_format=self.memory_format)
        return self.augmentation.apply(x, self.labels[part.order], part, self.classes)
