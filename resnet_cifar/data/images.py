"""Images on the device, gathered there into augmented batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_cifar.data.augmentation import Augmentation, AugmentationDraw, Stream
from resnet_cifar.data.datasets import Images, Normalisation

SIZE = 32  # pixels


@dataclass(frozen=True)
class View:
    """A view on the device, with the indices that gather its batches, computed once."""

    draws: AugmentationDraw
    rows: Tensor  # int64 [n, 32], the first pixel of each row of a crop, in all images' pixels
    columns: Tensor  # int64 [n, 32], a crop's columns, from right to left where it is flipped
    labels: Tensor  # int64 [n]

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> list[Tensor]:
        """List all it consists of, in a fixed order."""
        drawn = [self.draws.order, self.draws.offset, self.draws.flip, *self.draws.more.values()]
        return [*drawn, self.rows, self.columns, self.labels]


class DeviceImages:
    """Holds uint8 images on `device`, zero-padded once, and gathers batches in `memory_format`.

    The padding is black in raw pixels, i.e. applied before normalising, as torchvision's
    RandomCrop(32, padding=4) ahead of ToTensor does it. There are `classes` labels, or as many as
    `images` show.
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
        pixels, padding = torch.from_numpy(images.pixels).to(device), augmentation.padding
        self.padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
        self.labels = torch.from_numpy(images.labels)  # on the host, int64 [n]
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

    def draw_view(self, seed: int, stream: Stream, epoch: int) -> View:
        """Draw the augmented view of an epoch and send it to the device."""
        return self.view(self.augmentation.draws(seed, stream, epoch, len(self)))

    def clean_view(self) -> View:
        """The images as they are, in their own order."""
        return self.view(self.augmentation.clean(len(self)))

    def view(self, draws: AugmentationDraw) -> View:
        """Send draws of these images from the host to the device: 512 bytes of indices each."""
        labels = self.labels[draws.order].to(self.device, non_blocking=True)
        draws = draws.to(self.device)
        _, height, width, _ = self.padded.shape
        span = torch.arange(SIZE, device=self.device)
        top, left = draws.offset[:, :1], draws.offset[:, 1:]
        rows = (draws.order[:, None] * height + top + span) * width
        columns = left + torch.where(draws.flip[:, None], SIZE - 1 - span, span)
        return View(draws, rows, columns, labels)

    def batch(self, view: View, at: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Gather positions of a view, a slice of them in four kernels, or those of int64 [n].

        Returns float32 [n, 3, 32, 32], normalised; and labels int64 [n], or float32 [n, classes]
        where the augmentation mixes them.
        """
        # One gather crops and flips; its result is [n, 32, 32, 3], which is channels_last.
        index = view.rows[at][:, :, None] + view.columns[at][:, None, :]
        pixels = self.padded.view(-1, 3).index_select(0, index.view(-1)).view(*index.shape, 3)
        # Two roundings, not the one of a fused multiplication and addition: the same bits anywhere.
        x = torch.mul(pixels.permute(0, 3, 1, 2), self.scale).add_(self.shift)
        x = x.contiguous(memory_format=self.memory_format)
        return self.augmentation.apply(x, view.labels[at], view.draws.part(at), self.classes)
