"""Data sets: uint8 images and labels, split. No torch past the loading of CIFAR-10.

Images are uint8 [n, 32, 32, 3] (height, width, RGB), labels int64 [n].
"""

import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_cifar.data.synthetic import CLASSES, draw
from resnet_cifar.errors import UserError, describe, require
from resnet_cifar.identity import execution
from resnet_cifar.paths import installing


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel (RGB), of pixels scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# The study's values for CIFAR-10. This std is the mean of the images' own stds; the std over all
# pixels of the training set would be (0.2470, 0.2435, 0.2616).
THE_STUDYS = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Images(NamedTuple):
    """Labelled images, with their positions in the data set's own order."""

    pixels: NDArray[np.uint8]  # [n, 32, 32, 3]
    labels: NDArray[np.int64]  # [n]
    positions: NDArray[np.int64]  # [n]


class Split(NamedTuple):
    """The images that training may see. Evaluation alone loads the test set."""

    train: Images
    val: Images


def split_permutation(count: int, seed: int) -> NDArray[Any]:
    """Draw the permutation whose first entries are the training images: int64 [count].

    Drawn from sorted 64-bit Philox words rather than Generator.permutation, whose stream numpy may
    change between versions: the split is part of the study.
    """
    words = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)


@dataclass
class Dataset(ABC):
    """Labelled 32 × 32 images in three parts: training, validation, test."""

    NAME: ClassVar[str]
    CLASSES: ClassVar[tuple[str, ...]]  # their names, in the order of the labels
    NORMALISATION: ClassVar[Normalisation]
    split_seed: int
    val_size: int

    def __post_init__(self) -> None:
        require(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")

    @property
    @abstractmethod
    def training_images(self) -> int:
        """Images of an epoch."""

    @abstractmethod
    def load(self) -> Split:
        """Load the images that training may see. Raises UserError if they can't be had."""

    def prepare(self) -> None:  # noqa: B027 (most have nothing to get)
        """Get what `load` reads, once for the runs of a sweep. Raises as `load`."""

    @abstractmethod
    def load_test(self) -> Images:
        """Load the test images. Raises as `load`."""


@dataclass
class Cifar(Dataset):
    """A data set of the CIFAR family through torchvision: download, md5, the original files."""

    TITLE: ClassVar[str]  # what people call it; NAME in capitals is its class in torchvision
    ORIGINAL: ClassVar[int] = 50_000  # images that are split into training and validation
    root: str = execution()
    download: bool = execution()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = os.path.expanduser(self.root)
        most = self.ORIGINAL - 1000
        require(1 <= self.val_size <= most, "data.val_size", self.val_size, f"1 to {most}")

    @property
    def training_images(self) -> int:
        return self.ORIGINAL - self.val_size

    def load(self) -> Split:
        pixels, labels = self._read(train=True)
        order, count = split_permutation(len(labels), self.split_seed), self.training_images
        # Sorted, so that memory is read in order; the order of training is drawn per epoch anyway.
        parts = (np.sort(order[:count]), np.sort(order[count:]))
        return Split(*(Images(pixels[part], labels[part], part) for part in parts))

    def prepare(self) -> None:
        # A look at the sizes (186.2 and 186.3 MB) is enough, and quicker than an import.
        files = Path(self.root).glob(f"cifar-{self.NAME[5:]}-*/*")
        if sum(path.stat().st_size for path in files if path.is_file()) < 186e6:
            self._read(train=True)

    def load_test(self) -> Images:
        pixels, labels = self._read(train=False)
        return Images(pixels, labels, np.arange(len(labels)))

    def _source(self) -> Any:
        try:
            from torchvision import datasets
        except Exception as error:  # RuntimeError, too: built for another torch
            remedy = f"install it and torch from one source: {installing()}"
            message = f"torchvision, which reads {self.TITLE}, can't be imported"
            raise UserError(f"{message} ({describe(error)}): {remedy}") from error
        return getattr(datasets, self.NAME.upper())

    @property
    def folder(self) -> Path:
        """The directory of the original files; data.root is the one above it."""
        root, source = Path(self.root).absolute(), self._source()
        folder = root / str(source.base_folder)
        taken_for_root = root.name in (folder.name, source.filename) and not folder.is_dir()
        return root.with_name(folder.name) if taken_for_root else folder

    def _read(self, train: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        from resnet_cifar.files import Lock

        source, folder = self._source(), self.folder
        root = folder.parent
        put = f"put the extracted files into {folder}/ or {source.filename} into {root}/"
        remedy = f"{put}, set data.root, or train on synthetic images with data=synthetic"
        try:
            dataset = source(root, train=train, download=False)
        except RuntimeError:  # torchvision: "not found or corrupted"
            files = sorted(path.name for path in folder.glob("*"))
            damage = f"{folder} is damaged or incomplete (found {', '.join(files)})"
            problem = damage if files else f"there is no {self.TITLE} in {folder}"
            if not self.download:
                problem = f"data.download=false and {problem} (md5 sums checked)"
                raise UserError(f"{problem}: {remedy}") from None
            print(f"downloading {self.TITLE}, 170 MB, to {root}", file=sys.stderr, flush=True)
            try:
                # One process downloads; others find the files when they get in.
                with Lock(root / ".lock"):
                    dataset = source(root, train=train, download=True)
            except (OSError, RuntimeError, EOFError) as error:
                failed = f"downloading {source.url} failed ({describe(error)})"
                raise UserError(f"{problem}, and {failed}: {remedy}") from error
        except Exception as error:
            raise UserError(f"{folder} can't be read ({describe(error)}): {remedy}") from error
        return dataset.data, np.asarray(dataset.targets, dtype=np.int64)


@dataclass
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 photographs of ten things."""

    NAME: ClassVar[str] = "cifar10"
    TITLE: ClassVar[str] = "CIFAR-10"
    NORMALISATION: ClassVar[Normalisation] = THE_STUDYS
    CLASSES: ClassVar[tuple[str, ...]] = tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
    )


@dataclass
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 photographs of a hundred things."""

    NAME: ClassVar[str] = "cifar100"
    TITLE: ClassVar[str] = "CIFAR-100"
    # Mean and standard deviation over all pixels of the training set, as the field uses them.
    NORMALISATION: ClassVar[Normalisation] = Normalisation(
        (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    )
    CLASSES: ClassVar[tuple[str, ...]] = tuple(
        Path(__file__).with_name("cifar100.txt").read_text(encoding="utf-8").split()
    )


@dataclass
class Synthetic(Dataset):
    """Ten classes of synthetic images, see synthetic.py."""

    NAME: ClassVar[str] = "synthetic"
    CLASSES: ClassVar[tuple[str, ...]] = CLASSES
    NORMALISATION: ClassVar[Normalisation] = THE_STUDYS  # near enough
    train_size: int
    test_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_size", "val_size", "test_size"):
            value = getattr(self, name)
            require(10 <= value <= 1_000_000, f"data.{name}", value, "10 to 1000000")

    @property
    def training_images(self) -> int:
        return self.train_size

    def load(self) -> Split:
        return Split(self._draw("train", self.train_size), self._draw("val", self.val_size))

    def load_test(self) -> Images:
        return self._draw("test", self.test_size)

    def _draw(self, stream: str, size: int) -> Images:
        pixels, labels = draw(size, self.split_seed, stream)
        return Images(pixels, labels, np.arange(size))


OPTIONS: tuple[type[Dataset], ...] = (Cifar10, Cifar100, Synthetic)
