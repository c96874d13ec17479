"""The engine's opponents: the plain recipe, timm's loader and step, Lightning with a plain module.

The libraries are measured where they are installed (the extra `peers`). All have the same network,
images, batch size and optimizer settings; torchvision crops and flips in the DataLoader's workers.
None uses the engine or writes logs or checkpoints.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import plain
from resnet_cifar.compute.device import Compute
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import CropFlip
from resnet_cifar.data.datasets import Split


class Plain:
    """The recipe of PyTorch's own pages (plain.py), with `workers` in its DataLoader."""

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        self.config, self.split, self.compute, self.workers = config, split, compute, workers
        assert isinstance(config.augmentation, CropFlip)  # the benchmark has no other
        self.augmentation: CropFlip = config.augmentation
        self.model = config.build_model().to(compute.device)

    def steps(self) -> Generator[int, None, None]:
        """Train without end; yields the number of images of each step."""
        batches, optimizer = self.batches(), self.optimizer()
        while True:
            for step in plain.epoch(self.model, batches, optimizer, self.compute.device):
                yield step.images

    def optimizer(self) -> torch.optim.Optimizer:
        groups = self.config.regularization.parameter_groups(self.model)
        return self.config.optimizer.build(groups, fused=False)

    def batches(self) -> DataLoader[tuple[Tensor, int]]:
        """Load the training images, shuffled and augmented."""
        size, where = self.config.trainer.batch_size, self.compute.device
        transform = plain.augmented(self.config.data.NORMALISATION, self.augmentation)
        return plain.loader(self.split.train, transform, size, self.workers, True, where)


class Tuned(Plain):
    """Settings that people make by hand for speed: channels_last and mixed precision."""

    def __init__(self, config: Config, split: Split, compute: Compute, workers: int) -> None:
        super().__init__(config, split, compute, workers)
        self.model.to(memory_format=torch.channels_last)

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

    def steps(self) -> Generator[int, None, None]:
        from timm.utils import AverageMeter

        batches, optimizer = self.batches(), self.optimizer()
        criterion, losses = nn.CrossEntropyLoss(), AverageMeter()
        self.model.train()
        while True:
            for x, y in batches:
                with self.compute.autocast():
                    loss = criterion(self.logits(x), y)
                losses.update(loss.item(), len(y))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                yield len(y)

    def batches(self) -> DataLoader[tuple[Tensor, int]]:
        from timm.data import create_loader
        from timm.data.transforms import ToNumpy

        mean, std = self.config.data.NORMALISATION
        crop = transforms.RandomCrop(32, self.augmentation.crop_padding)
        flip = transforms.RandomHorizontalFlip(self.augmentation.flip_probability)
        loader = create_loader(
            dataset := plain.PlainImages(self.split.train, ToNumpy()),
            input_size=(3, 32, 32),
            batch_size=self.config.trainer.batch_size,
            is_training=True,
            mean=mean,
            std=std,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.compute.device.type == "cuda",
            device=self.compute.device,
        )
        # In place of ImageNet's. The loader makes tensors of whole batches.
        dataset.transform = transforms.Compose([crop, flip, ToNumpy()])
        return loader  # type: ignore[no-any-return]


class Lightning(Tuned):
    """Lightning's Trainer with a module of a dozen lines."""

    def steps(self) -> Generator[int, None, None]:
        """Run the Trainer in a thread that waits before every step: the Trainer has the loop."""
        from lightning.pytorch.callbacks import LambdaCallback

        requests: SimpleQueue[bool] = SimpleQueue()  # True: take a step; False: stop
        answers: SimpleQueue[int | BaseException] = SimpleQueue()

        def wait(*_: Any) -> None:
            if not requests.get():
                raise GeneratorExit

        def answer(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            answers.put(len(batch[1]))

        def fit() -> None:
            torch.set_num_threads(self.compute.threads)  # each thread has its own number
            turns = LambdaCallback(on_train_batch_start=wait, on_train_batch_end=answer)
            try:
                self._trainer(turns).fit(self._module(), self.batches())
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
                yield images
        finally:
            requests.put(False)
            thread.join()

    def _trainer(self, turns: Any) -> Any:
        import lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        cuda = self.compute.device.type == "cuda"
        precision = {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(self.compute.precision)
        return lightning.Trainer(
            max_epochs=-1,
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


RECIPES = {"plain": Plain, "timm": Timm, "lightning": Lightning}  # by the library's name
