"""What people would use instead: timm's loader and step, and Lightning with a plain module.

The engine's opponents beside the plain recipe, where they are installed (`.[peers]`). Same network,
images, batch size and optimizer settings; crop and flip by torchvision on a DataLoader's workers;
channels_last and the engine's arithmetic as automatic mixed precision. Nothing of the engine is
used, and neither is slowed down by records: no logger, no checkpoints.

`python -m benchmarks.peers RECIPE [key=value …]` trains and validates one run: what a
sweep of small runs is made of for those who use them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import plain
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.compute import device
from resnet_cifar.compute.device import Compute
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import CropFlip
from resnet_cifar.data.datasets import Split

Batches = DataLoader[tuple[Tensor, int]]


class Recipe(ABC):
    """A way to train a configuration's network on a configuration's images.

    Args:
        workers: of its DataLoader.
    """

    NAME: str
    PACKAGE: str | None = None  # which it needs

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        self.config, self.split, self.compute, self.workers = config, split, compute, workers
        assert isinstance(config.augmentation, CropFlip)  # the benchmark has no other
        self.augmentation: CropFlip = config.augmentation
        self.model = config.build_model().to(compute.device)

    @classmethod
    def installed(cls) -> bool:
        return cls.PACKAGE is None or importlib.util.find_spec(cls.PACKAGE) is not None

    @abstractmethod
    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        """Train for `epochs` (None: without end); the images of each step."""

    @abstractmethod
    def accuracy(self) -> float:
        """On the validation images, a fraction."""

    def optimizer(self) -> torch.optim.Optimizer:
        groups = self.config.regularization.parameter_groups(self.model)
        return self.config.optimizer.build(groups, fused=False)

    def training_batches(self) -> Batches:
        transform = plain.augmented(self.config.data.NORMALISATION, self.augmentation)
        return self._batches(self.split.train, transform, shuffle=True)

    def validation_batches(self) -> Batches:
        transform = plain.clean(self.config.data.NORMALISATION)
        return self._batches(self.split.val, transform, shuffle=False)

    def _batches(self, images: Any, transform: Any, shuffle: bool) -> Batches:
        size, place = self.config.trainer.batch_size, self.compute.device
        return plain.loader(images, transform, size, self.workers, shuffle, place)


def _epochs(count: int | None) -> Iterator[int]:
    yield from range(sys.maxsize if count is None else count)


class Plain(Recipe):
    """The recipe of PyTorch's own pages."""

    NAME = "plain"

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        batches, optimizer = self.training_batches(), self.optimizer()
        for _ in _epochs(epochs):
            for step in plain.epoch(self.model, batches, optimizer, self.compute.device):
                yield step.images

    def accuracy(self) -> float:
        return plain.evaluate(self.model, self.validation_batches(), self.compute.device)[0]


class Timm(Recipe):
    """timm's loader, which normalises batches on the device, and the step of its training script.

    As `train.py --amp --amp-dtype bfloat16 --channels-last --opt momentum` sets it, with crop and
    flip in place of ImageNet's augmentation. The script is not in timm's wheel, so the step is
    written out.
    """

    NAME = PACKAGE = "timm"

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        super().__init__(config, split, compute, workers)
        self.model.to(memory_format=torch.channels_last)

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        from timm.utils import AverageMeter

        batches, optimizer = self.training_batches(), self.optimizer()
        criterion, losses = nn.CrossEntropyLoss(), AverageMeter()
        self.model.train()
        for _ in _epochs(epochs):
            for x, y in batches:
                x = x.contiguous(memory_format=torch.channels_last)
                with self.compute.autocast():
                    loss = criterion(self.model(x), y)
                losses.update(loss.item(), len(y))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                yield len(y)

    @torch.no_grad()
    def accuracy(self) -> float:
        from timm.utils import AverageMeter, accuracy

        self.model.eval()
        meter = AverageMeter()
        for x, y in self.validation_batches():
            x = x.contiguous(memory_format=torch.channels_last)
            with self.compute.autocast():
                logits = self.model(x)
            meter.update(accuracy(logits, y, topk=(1,))[0].item(), len(y))
        return float(meter.avg) / 100

    def _batches(self, images: Any, transform: Any, shuffle: bool) -> Batches:
        from timm.data import create_loader
        from timm.data.transforms import ToNumpy

        mean, std = self.config.data.NORMALISATION
        place = self.compute.device
        dataset = plain.PlainImages(images, transform)
        loader = create_loader(
            dataset,
            input_size=(3, 32, 32),
            batch_size=self.config.trainer.batch_size,
            is_training=shuffle,
            mean=mean,
            std=std,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=place.type == "cuda",
            device=place,
        )
        parts: list[Any] = [ToNumpy()]  # the loader makes tensors of whole batches
        if shuffle:
            flip = transforms.RandomHorizontalFlip(self.augmentation.flip_probability)
            crop = transforms.RandomCrop(32, padding=self.augmentation.crop_padding)
            parts = [crop, flip, *parts]
        dataset.transform = transforms.Compose(parts)
        return loader  # type: ignore[no-any-return]


class Lightning(Recipe):
    """Lightning's Trainer with a module of a dozen lines."""

    NAME = PACKAGE = "lightning"

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        super().__init__(config, split, compute, workers)
        self.model.to(memory_format=torch.channels_last)

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        """The Trainer has the loop: it runs in a thread, which waits after every step."""
        turns = _turns()
        trainer = self._trainer(epochs, callbacks=[turns])

        def fit() -> None:
            torch.set_num_threads(self.compute.threads)  # each thread has its own number
            try:
                trainer.fit(self._module(), self.training_batches())
            except _Over:
                pass
            except BaseException as error:
                turns.error = error
            turns.over = True
            turns.done.release()

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        try:
            while True:
                turns.go.release()
                turns.done.acquire()
                if turns.error is not None:
                    raise turns.error
                if turns.over:
                    return
                yield turns.images
        finally:
            turns.over = True
            turns.go.release()
            thread.join()

    def accuracy(self) -> float:
        (found,) = self._trainer(1).validate(
            self._module(), self.validation_batches(), verbose=False
        )
        return float(found["accuracy"])

    def _trainer(self, epochs: int | None, callbacks: Any = None) -> Any:
        import lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        cuda = self.compute.device.type == "cuda"
        precision = {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(self.compute.precision)
        return lightning.Trainer(
            max_epochs=-1 if epochs is None else epochs,
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            precision=precision or "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )

    def _module(self) -> Any:
        import lightning

        recipe = self

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = recipe.model

            def training_step(self, batch: Any, index: int) -> Tensor:
                x, y = batch
                loss = nn.functional.cross_entropy(self.model(self._last(x)), y)
                self.log("loss", loss)
                return loss

            def validation_step(self, batch: Any, index: int) -> None:
                x, y = batch
                right = self.model(self._last(x)).argmax(1) == y
                self.log("accuracy", right.float().mean(), batch_size=len(y))

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return recipe.optimizer()

            @staticmethod
            def _last(x: Tensor) -> Tensor:
                return x.contiguous(memory_format=torch.channels_last)

        return Module()


class _Over(Exception):
    """Ends the Trainer's loop from outside."""


def _turns() -> Any:
    import lightning

    class Turns(lightning.Callback):
        """Lets the Trainer take one step at a time."""

        def __init__(self) -> None:
            self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
            self.images, self.over = 0, False
            self.error: BaseException | None = None

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            self.go.acquire()
            if self.over:
                raise _Over
            self.images = len(batch[1])

        def on_train_batch_end(self, *_: Any) -> None:
            self.done.release()

    return Turns()


RECIPES: dict[str, type[Recipe]] = {recipe.NAME: recipe for recipe in (Plain, Timm, Lightning)}
PEERS = tuple(name for name, recipe in RECIPES.items() if recipe.PACKAGE)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the advice that these libraries give about workers and loggers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(arguments: list[str] | None = None) -> int:
    """Train and validate one run; the process's exit code."""
    parser = Parser(
        prog="python -m benchmarks.peers",
        description="Train and validate one run by another recipe than the engine's.",
    )
    parser.add_argument("recipe", choices=list(RECIPES))
    parser.add_argument("override", nargs="*", help="of the configuration: key=value")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader (2)")
    return run_command(parser, _train, arguments)


def _train(options: argparse.Namespace) -> None:
    config = compose(options.override)
    compute = device.resolve(config.trainer)
    torch.set_num_threads(compute.threads)
    torch.manual_seed(config.seed)
    with quietly():
        recipe = RECIPES[options.recipe](config, config.data.load(), compute, options.workers)
        for _ in recipe.steps(config.trainer.epochs):
            pass
        print(f"{options.recipe}: seed {config.seed}, val {100 * recipe.accuracy():.2f} %")


if __name__ == "__main__":
    sys.exit(main())
