"""The plain recipe: training on CIFAR-10 as the tutorials of PyTorch and torchvision teach it.

It is the engine's opponent in the benchmark, and the reference that the engine's updates must
equal. Images pass one by one through torchvision's transforms in the worker processes of a
DataLoader; float32 as PyTorch sets it (on CUDA convolutions then use TF32), contiguous layout,
`.item()` at every step. It uses nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet_cifar.data.augmentation import CropFlip
from resnet_cifar.data.datasets import Images, Normalisation


class PlainImages(Dataset[tuple[Tensor, int]]):
    """A data set like torchvision.datasets.CIFAR10: every image through PIL and `transform`."""

    def __init__(self, images: Images, transform: Callable[[Any], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images.pixels[index])
        return self.transform(image), int(self.images.labels[index])


def augmented(normalisation: Normalisation, augmentation: CropFlip) -> Callable[[Any], Tensor]:
    """Crop, flip, normalise: PIL image to float32 [3, 32, 32]."""
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.RandomCrop(32, padding=augmentation.crop_padding),
            transforms.RandomHorizontalFlip(augmentation.flip_probability),
            clean(normalisation),
        ]
    )


def clean(normalisation: Normalisation) -> Callable[[Any], Tensor]:
    """Normalise: PIL image to float32 [3, 32, 32]."""
    normalise = transforms.Normalize(*normalisation)
    return transforms.Compose([transforms.ToTensor(), normalise])  # type: ignore[no-any-return]


def loader(
    images: Images,
    transform: Callable[[Any], Tensor],
    batch_size: int,
    workers: int,
    shuffle: bool,
    device: torch.device,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches, from `workers` processes that live as long as the loader (0: in this process)."""
    return DataLoader(
        PlainImages(images, transform),
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )


class Step(NamedTuple):
    """One training step: images in the batch, its mean loss in nats, correct predictions."""

    images: int
    loss: float
    correct: int


def epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> Iterator[Step]:
    """One pass over `batches` of images [n, 3, 32, 32] and labels [n], a step at a time."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        yield Step(len(y), loss.item(), int((logits.argmax(1) == y).sum().item()))
