"""Data sets: uint8 images and labels, split. No torch past the loading of CIFAR-10.

Images are uint8 [n, 32, 32, 3] (height, width, RGB), labels int64 [n].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_cifar.errors import UserError, describe, require
from resnet_cifar.identity import execution

# Per channel, of pixels scaled to [0, 1]. The study's values: this std is the mean of the images'
# own stds; the std over all pixels of the training set would be (0.2470, 0.2435, 0.2616).
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


class Images(NamedTuple):
    """A set of labelled images; `positions` is where each one is in the file it came from."""

    pixels: NDArray[np.uint8]  # [n, 32, 32, 3]
    labels: NDArray[np.int64]  # [n]
    positions: NDArray[np.int64]  # [n]


class Split(NamedTuple):
    """What training may see. The test set is loaded by evaluation alone."""

    train: Images
    val: Images


def _require_augmentation(crop_padding: int, flip_probability: float) -> None:
    require(0 <= crop_padding <= 16, "data.crop_padding", crop_padding, "0 to 16 pixels")
    flip = flip_probability
    require(0 <= flip <= 1, "data.flip_probability", flip, "0 to 1")


def split_permutation(count: int, seed: int) -> NDArray[Any]:
    """The permutation whose first entries are the training images. int64 [count].

    Drawn from sorted 64-bit Philox words rather than Generator.permutation, whose stream numpy may
    change between versions: the split is part of the study.
    """
    words = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)


@dataclass
class Cifar10:
    """CIFAR-10 through torchvision: download, md5, the original files."""

    NAME: ClassVar[str] = "cifar10"
    CLASSES: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    split_seed: int
    val_size: int
    crop_padding: int
    flip_probability: float
    root: str = execution()
    download: bool = execution()

    def __post_init__(self) -> None:
        require(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")
        require(1 <= self.val_size <= 49_000, "data.val_size", self.val_size, "1 to 49000")
        _require_augmentation(self.crop_padding, self.flip_probability)

    @property
    def train_size(self) -> int:
        return 50_000 - self.val_size

    def load(self) -> Split:
        """The 50,000 training images, split.

        Raises:
            UserError: the files are absent or damaged and can't be downloaded.
        """
        pixels, labels = self._read(train=True)
        order = split_permutation(len(labels), self.split_seed)
        # Sorted, so that memory is read in order; the order of training is drawn per epoch anyway.
        train, val = np.sort(order[: self.train_size]), np.sort(order[self.train_size :])
        return Split(
            Images(pixels[train], labels[train], train), Images(pixels[val], labels[val], val)
        )

    def load_test(self) -> Images:
        """The 10,000 test images. Raises as `load`."""
        pixels, labels = self._read(train=False)
        return Images(pixels, labels, np.arange(len(labels)))

    def _read(self, train: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        from torchvision.datasets import CIFAR10

        from resnet_cifar.files import Lock

        folder = Path(self.root) / CIFAR10.base_folder
        where = (
            f"put the extracted files into {folder}/ or {CIFAR10.filename} into {self.root}/, "
            "set data.root, or train on drawn images with data=synthetic"
        )
        try:
            dataset = CIFAR10(self.root, train=train, download=False)
        except RuntimeError:  # torchvision: "not found or corrupted"
            found = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
            state = f"is damaged or incomplete (found {', '.join(found)})" if found else "is not"
            if not self.download:
                at = f"{folder} {state}" if found else f"there is no CIFAR-10 in {folder}"
                raise UserError(
                    f"data.download=false and {at} (md5 sums checked): {where}"
                ) from None
            try:
                # One process downloads; the others of a sweep find the files when they get in.
                with Lock(Path(self.root) / ".lock"):
                    dataset = CIFAR10(self.root, train=train, download=True)
            except (OSError, RuntimeError, EOFError) as error:
                at = f"{folder} {state}" if found else f"there is no CIFAR-10 in {folder}"
                raise UserError(
                    f"{at}, and downloading {CIFAR10.url} failed ({describe(error)}): {where}"
                ) from error
        except Exception as error:
            raise UserError(f"{folder} can't be read ({describe(error)}): {where}") from error
        return dataset.data, np.asarray(dataset.targets, dtype=np.int64)


@dataclass
class Synthetic:
    """Ten classes of drawn images, see `resnet_cifar.data.synthetic`."""

    NAME: ClassVar[str] = "synthetic"
    train_size: int
    val_size: int
    test_size: int
    split_seed: int
    crop_padding: int
    flip_probability: float

    def __post_init__(self) -> None:
        for name in ("train_size", "val_size", "test_size"):
            value = getattr(self, name)
            require(10 <= value <= 1_000_000, f"data.{name}", value, "10 to 1000000")
        require(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")
        _require_augmentation(self.crop_padding, self.flip_probability)

    @property
    def CLASSES(self) -> tuple[str, ...]:
        from resnet_cifar.data.synthetic import CLASSES

        return CLASSES

    def load(self) -> Split:
        """Training and validation images, drawn."""
        return Split(self._draw("train", self.train_size), self._draw("val", self.val_size))

    def load_test(self) -> Images:
        """The test images, drawn."""
        return self._draw("test", self.test_size)

    def _draw(self, stream: str, size: int) -> Images:
        from resnet_cifar.data.synthetic import draw

        pixels, labels = draw(size, self.split_seed, stream)
        return Images(pixels, labels, np.arange(size))


def steps_per_epoch(train_size: int, batch_size: int) -> int:
    """Updates in an epoch; the last batch may be smaller."""
    return math.ceil(train_size / batch_size)
