"""Recipes of other libraries: timm's loader and step, and Lightning with a plain module.

They are opponents of the engine beside the plain recipe, where they are installed (the extra
`peers`). All have the same network, images, batch size and optimizer settings; torchvision crops
and flips in the DataLoader's workers. None uses the engine or writes logs or checkpoints.

`python -m benchmarks.peers RECIPE [key=value …]` trains and validates one run. A loop over such
commands is the sweep of somebody who uses these libraries.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from queue import SimpleQueue
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
from resnet_cifar.data.datasets import Images, Split


class Recipe(ABC):
    """A way to train the network of a configuration on its images, with `workers` in a DataLoader.

    NAME is its name on the command line, PACKAGE the library that it needs.
    """

    NAME: str
    PACKAGE: str | None = None

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        self.config, self.split, self.compute, self.workers = config, split, compute, workers
        assert isinstance(config.augmentation, CropFlip)  # the benchmark has no other
        self.augmentation: CropFlip = config.augmentation
        self.model = config.build_model().to(compute.device)

    @classmethod
    def installed(cls) -> bool:
        """True if its library is there."""
        return cls.PACKAGE is None or importlib.util.find_spec(cls.PACKAGE) is not None

    @abstractmethod
    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        """Train for `epochs` (None: without end); yields the number of images of each step."""

    def accuracy(self) -> float:
        """Accuracy on the validation images, a fraction."""
        batches = self.batches(self.split.val, training=False)
        return plain.evaluate(self.model, batches, self.compute.device)[0]

    def optimizer(self) -> torch.optim.Optimizer:
        groups = self.config.regularization.parameter_groups(self.model)
        return self.config.optimizer.build(groups, fused=False)

    def batches(self, images: Images, training: bool) -> DataLoader[tuple[Tensor, int]]:
        """Load `images`, for `training` shuffled and augmented."""
        size, norm = self.config.trainer.batch_size, self.config.data.NORMALISATION
        transform = plain.augmented(norm, self.augmentation) if training else plain.clean(norm)
        return plain.loader(images, transform, size, self.workers, training, self.compute.device)


def _epochs(count: int | None) -> Iterator[int]:
    yield from range(sys.maxsize if count is None else count)


class Plain(Recipe):
    """The recipe of PyTorch's own pages."""

    NAME = "plain"

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        batches, optimizer = self.batches(self.split.train, training=True), self.optimizer()
        for _ in _epochs(epochs):
            for step in plain.epoch(self.model, batches, optimizer, self.compute.device):
                yield step.images


class Tuned(Recipe):
    """Settings that people make by hand for speed: channels_last and mixed precision."""

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        super().__init__(config, split, compute, workers)
        self.model.to(memory_format=torch.channels_last)

    def accuracy(self) -> float:
        with self.compute.autocast():
            return super().accuracy()

    def logits(self, x: Tensor) -> Tensor:
        """Run the network on a batch as the loader made it."""
        logits: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return logits


class Timm(Tuned):
    """timm's loader, which normalises batches on the device, and the step of its training script.

    As `train.py --amp --amp-dtype bfloat16 --channels-last --opt momentum` sets it, with crop and
    flip in place of ImageNet's augmentation. The script is not in timm's wheel, so the step is
    written out.
    """

    NAME = PACKAGE = "timm"

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        from timm.utils import AverageMeter

        batches, optimizer = self.batches(self.split.train, training=True), self.optimizer()
        criterion, losses = nn.CrossEntropyLoss(), AverageMeter()
        self.model.train()
        for _ in _epochs(epochs):
            for x, y in batches:
                with self.compute.autocast():
                    loss = criterion(self.logits(x), y)
                losses.update(loss.item(), len(y))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                yield len(y)

    def batches(self, images: Images, training: bool) -> DataLoader[tuple[Tensor, int]]:
        from timm.data import create_loader
        from timm.data.transforms import ToNumpy

        mean, std = self.config.data.NORMALISATION
        parts: list[Any] = [ToNumpy()]  # the loader makes tensors of whole batches
        if training:
            flip = transforms.RandomHorizontalFlip(self.augmentation.flip_probability)
            parts = [transforms.RandomCrop(32, self.augmentation.crop_padding), flip, *parts]
        loader = create_loader(
            dataset := plain.PlainImages(images, ToNumpy()),
            input_size=(3, 32, 32),
            batch_size=self.config.trainer.batch_size,
            is_training=training,
            mean=mean,
            std=std,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.compute.device.type == "cuda",
            device=self.compute.device,
        )
        dataset.transform = transforms.Compose(parts)  # in place of ImageNet's
        return loader  # type: ignore[no-any-return]


class Lightning(Tuned):
    """Lightning's Trainer with a module of a dozen lines."""

    NAME = PACKAGE = "lightning"

    def steps(self, epochs: int | None) -> Generator[int, None, None]:
        """Run the Trainer in a thread that waits before every step: the Trainer has the loop."""
        from lightning.pytorch.callbacks import LambdaCallback

        requests: SimpleQueue[bool] = SimpleQueue()  # True: take a step; False: stop
        answers: SimpleQueue[int | BaseException | None] = SimpleQueue()  # None: no more steps

        def wait(*_: Any) -> None:
            if not requests.get():
                raise GeneratorExit

        def answer(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            answers.put(len(batch[1]))

        def fit() -> None:
            torch.set_num_threads(self.compute.threads)  # each thread has its own number
            turns = LambdaCallback(on_train_batch_start=wait, on_train_batch_end=answer)
            try:
                batches = self.batches(self.split.train, training=True)
                self._trainer(epochs, turns).fit(self._module(), batches)
                answers.put(None)
            except BaseException as error:
                answers.put(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        try:
            while True:
                requests.put(True)
                images = answers.get()
                if isinstance(images, BaseException):
                    raise images
                if images is None:
                    return
                yield images
        finally:
            requests.put(False)
            thread.join()

    def _trainer(self, epochs: int | None, turns: Any) -> Any:
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
            callbacks=turns,
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
                loss = nn.functional.cross_entropy(recipe.logits(x), y)
                self.log("loss", loss)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return recipe.optimizer()

        return Module()


RECIPES: dict[str, type[Recipe]] = {recipe.NAME: recipe for recipe in (Plain, Timm, Lightning)}


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
    with warnings.catch_warnings(action="ignore"):  # advice of libraries on workers and loggers
        recipe = RECIPES[options.recipe](config, config.data.load(), compute, options.workers)
        for _ in recipe.steps(config.trainer.epochs):
            pass
        print(f"{options.recipe}: seed {config.seed}, val {100 * recipe.accuracy():.2f} %")


if __name__ == "__main__":
    sys.exit(main())
