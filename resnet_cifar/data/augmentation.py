"""Augmentation, and all randomness of a run: drawn on the CPU from (seed, stream, epoch).

Nothing carries state from one epoch to the next. So a resumed run needs no generator state, every
cell sees the same draws at the same seed, and every device sees the same data.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from resnet_cifar.errors import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Batch = tuple[Tensor, Tensor]  # images and labels


class Stream(NamedTuple):
    """Names of the random streams of a use of images; different names are independent."""

    augmentation: str
    order: str | None  # None: the images' own order


TRAINING = Stream("augmentation", "order")
VALIDATION = Stream("augmentation/val", None)
PROBE = Stream("augmentation/probe", "order/probe")  # one fixed batch: drawn for epoch 0


def generator(seed: int, stream: str, epoch: int = 0) -> torch.Generator:
    """Make a CPU generator that depends on its arguments alone."""
    import torch

    # Hashed, so that neighbouring seeds and epochs share nothing.
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class AugmentationDraw:
    """Random numbers of one view of n images: their order, and each position's augmentation."""

    order: Tensor  # int64 [n], positions in the data set
    offset: Tensor  # int64 [n, 2], row and column of the crop in the padded image
    flip: Tensor  # bool [n], mirrored left to right
    more: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # [n, ...], an option's own

    def to(self, device: torch.device) -> AugmentationDraw:
        """Copy to `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, at: slice | Tensor) -> AugmentationDraw:
        """Select positions, a slice of them or those of int64 [n]."""
        return self._each(lambda tensor: tensor[at])

    def _each(self, do: Callable[[Tensor], Tensor]) -> AugmentationDraw:
        more = {name: do(tensor) for name, tensor in self.more.items()}
        return AugmentationDraw(do(self.order), do(self.offset), do(self.flip), more)


@dataclass
class Augmentation(ABC):
    """Variation of training images. An option draws on the CPU and applies on the device."""

    NAME: ClassVar[str]

    @property
    def padding(self) -> int:
        """Pixels of black the images carry on each side, for crops that reach beyond them."""
        return 0

    @abstractmethod
    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        """Draw the augmented view of `count` images at `epoch` (from 1)."""

    def clean(self, count: int) -> AugmentationDraw:
        """Make the view without augmentation: centre crop, no flip, images in their own order."""
        import torch

        offset = torch.full((count, 2), self.padding)
        return AugmentationDraw(torch.arange(count), offset, torch.zeros(count, dtype=torch.bool))

    def apply(self, x: Tensor, y: Tensor, draws: AugmentationDraw, classes: int) -> Batch:
        """Change a batch that has been cropped, flipped and normalised; by default, nothing.

        Args:
            x: float32 [n, 3, 32, 32].
            y: labels int64 [n], below `classes`.
            draws: of these n positions; a clean view's have no `more`.

        Returns images and labels: int64 [n], or float32 [n, classes], shares of several classes.
        """
        return x, y


@dataclass
class CropFlip(Augmentation):
    """Random crop from a padded image, and a horizontal flip: the study's augmentation."""

    NAME: ClassVar[str] = "crop_flip"
    crop_padding: int
    flip_probability: float

    def __post_init__(self) -> None:
        padding, flip = self.crop_padding, self.flip_probability
        require(0 <= padding <= 16, "augmentation.crop_padding", padding, "0 to 16 pixels")
        require(0 <= flip <= 1, "augmentation.flip_probability", flip, "0 to 1")

    @property
    def padding(self) -> int:
        return self.crop_padding

    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        import torch

        order = torch.arange(count)
        if stream.order is not None:
            order = torch.randperm(count, generator=generator(seed, stream.order, epoch))
        # Flips first: they are then the same draws whatever the padding.
        source = generator(seed, stream.augmentation, epoch)
        flip = torch.rand(count, generator=source) < self.flip_probability
        offset = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=source)
        return AugmentationDraw(order, offset, flip)


@dataclass
class NoAugmentation(Augmentation):
    """The images as they are, in a drawn order."""

    NAME: ClassVar[str] = "none"

    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        return CropFlip(0, 0.0).draws(seed, stream, epoch, count)


@dataclass
class Cutout(CropFlip):
    """Crop and flip, then a square of zeros (DeVries & Taylor 2017), its centre anywhere.

    After normalising, as theirs; the part of the square beyond the image is cut off.
    """

    NAME: ClassVar[str] = "cutout"
    size: int  # pixels of a side

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.size <= 64, "augmentation.size", self.size, "1 to 64 pixels")

    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        import torch

        # A generator of its own: crops and flips are those of crop_flip at the same seed.
        source = generator(seed, f"{stream.augmentation}/cutout", epoch)
        centre = torch.randint(0, 32, (count, 2), generator=source)
        plain = super().draws(seed, stream, epoch, count)
        # Which rows and columns it covers, bool [count, 2, 32]: worked out here, not at each step.
        distance = torch.arange(32) - (centre - self.size // 2)[:, :, None]
        covered = (distance >= 0) & (distance < self.size)
        return dataclasses.replace(plain, more={"covered": covered})

    def apply(self, x: Tensor, y: Tensor, draws: AugmentationDraw, classes: int) -> Batch:
        if "covered" not in draws.more:
            return x, y
        rows, columns = draws.more["covered"].unbind(1)
        return x.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0.0), y


@dataclass
class Mixup(CropFlip):
    """Crop and flip, then each image mixed with another of its batch (Zhang et al. 2018):

    x̃ = λx + (1 − λ)x′, and its label likewise a share λ of its own class and 1 − λ of the other's.
    λ ~ Beta(alpha, alpha) for each image, as the paper's equation has it; its code draws one for a
    batch. The expected loss is the same, and one batch differs less from the next.

    In training alone: what is looked at, by validation or by the probe, has one label an image.
    """

    NAME: ClassVar[str] = "mixup"
    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.alpha <= 1000, "augmentation.alpha", self.alpha, "above 0, at most 1000")

    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        plain = super().draws(seed, stream, epoch, count)
        if stream != TRAINING:
            return plain
        import torch
        from scipy.special import betaincinv

        # A generator of its own: crops and flips are those of crop_flip at the same seed.
        source = generator(seed, f"{stream.augmentation}/mixup", epoch)
        # The order of the ranks within a batch is a random permutation of it, whatever its size.
        rank = torch.randperm(count, generator=source)
        # By the inverse of the distribution function: one number an image, the same for any alpha.
        quantile = torch.rand(count, generator=source, dtype=torch.float64)
        share = torch.from_numpy(betaincinv(self.alpha, self.alpha, quantile.numpy())).float()
        return dataclasses.replace(plain, more={"rank": rank, "share": share})

    def apply(self, x: Tensor, y: Tensor, draws: AugmentationDraw, classes: int) -> Batch:
        import torch

        if "share" not in draws.more:
            return x, y
        partner, share = draws.more["rank"].argsort(), draws.more["share"]
        own = (y[:, None] == torch.arange(classes, device=y.device)).float()
        mixed = torch.lerp(x[partner], x, share[:, None, None, None])
        return mixed, torch.lerp(own[partner], own, share[:, None])


OPTIONS: tuple[type[Augmentation], ...] = (CropFlip, NoAugmentation, Cutout, Mixup)
