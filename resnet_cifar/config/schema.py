"""The typed configuration: one part per group, with the rules that concern several."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from resnet_cifar.compute.options import Trainer
from resnet_cifar.data.augmentation import Augmentation
from resnet_cifar.data.datasets import Dataset, steps_per_epoch
from resnet_cifar.errors import ConfigError, describe, require
from resnet_cifar.identity import execution, items
from resnet_cifar.model.options import Model, Norm
from resnet_cifar.optim.optimizer import Optimizer
from resnet_cifar.optim.regularization import Regularization
from resnet_cifar.optim.scheduler import Scheduler
from resnet_cifar.paths import user_config_directory
from resnet_cifar.probe.options import Probe
from resnet_cifar.record.logger import Logger

if TYPE_CHECKING:
    from torch import nn


VALIDATION_COST = 1 / 3  # of a training image's arithmetic: no backward pass


@dataclasses.dataclass
class Config:
    """One run, complete. A part is of one of the options that its own module lists."""

    data: Dataset
    augmentation: Augmentation
    model: Model
    norm: Norm
    optimizer: Optimizer
    scheduler: Scheduler
    regularization: Regularization
    trainer: Trainer
    probe: Probe
    seed: int
    logger: Logger = execution()
    output_root: str = execution()
    rerun: bool = execution()
    when_busy: str = execution()

    def __post_init__(self) -> None:
        """Rules that concern every part, or more than one."""
        for key, value in items(self, everything=True):
            _require_sane(key, value)
        self.output_root = os.path.expanduser(self.output_root)
        require(self.seed >= 0, "seed", self.seed, "a whole number, 0 or more")
        require(bool(self.output_root.strip()), "output_root", "''", "a directory")
        require(self.when_busy in ("wait", "skip"), "when_busy", self.when_busy, "wait or skip")
        self.norm.check(self.model.width)
        epochs = self.trainer.epochs
        warmup = self.scheduler.warmup_epochs
        require(
            warmup < epochs,
            "scheduler.warmup_epochs",
            warmup,
            f"less than trainer.epochs={epochs}",
        )
        size, batch = self.data.training_images, self.trainer.batch_size
        require(batch <= size, "trainer.batch_size", batch, f"at most the {size} training images")

    def build_model(self) -> nn.Module:
        """The network: float [N, 3, 32, 32] to logits [N, classes]. Draws its weights."""
        return self.model.build(self.norm.build, len(self.data.CLASSES))

    def multiply_accumulates(self) -> int:
        """Of one image's forward pass."""
        return self.model.multiply_accumulates(len(self.data.CLASSES))

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return steps_per_epoch(self.data.training_images, self.trainer.batch_size)

    def images(self, epochs: int) -> float:
        """The work of `epochs` epochs, in training images: a validated one counts a third."""
        views = epochs + -(-epochs // self.trainer.augmented_val_every)
        validated = views * self.data.val_size
        return float(epochs * self.data.training_images + VALIDATION_COST * validated)


@functools.cache
def _parts() -> dict[str, type[Any]]:
    """The groups of the configuration: Config's fields that are dataclasses, and their types."""
    types = get_type_hints(Config)
    return {name: types[name] for name in types if dataclasses.is_dataclass(types[name])}


def groups() -> dict[str, tuple[type[Any], ...]]:
    """By group its options: the classes that the module of the group's type lists as OPTIONS.

    And those of a person's own directory.

    Raises:
        ConfigError: these can't be imported, or have the name of another.
    """
    theirs = user_config_directory()
    more = _options_in(str(theirs)) if theirs else ()
    found = {}
    for name, part in _parts().items():
        kinds = [*sys.modules[part.__module__].OPTIONS, *more]
        found[name] = tuple(kind for kind in kinds if issubclass(kind, part))
        names = [kind.NAME for kind in found[name]]
        for twice in {each for each in names if names.count(each) > 1}:
            raise ConfigError(f"{theirs}: another option of {name} is called {twice} already")
    return found


@functools.cache
def _options_in(directory: str) -> tuple[type[Any], ...]:
    """The classes with a NAME that the Python files of a directory define."""
    found: list[type[Any]] = []
    if directory not in sys.path:  # for good: a sweep's jobs unpickle these classes
        sys.path.append(directory)
    for path in sorted(Path(directory).glob("*.py")):
        try:
            module = importlib.import_module(path.stem)
        except Exception as error:
            raise ConfigError(f"{path} can't be imported: {describe(error)}") from error
        if path.resolve() != Path(module.__file__ or directory).resolve():
            raise ConfigError(f"{path} can't be imported: another module has its name")
        found += [
            each
            for each in vars(module).values()
            if isinstance(each, type) and each.__module__ == path.stem and "NAME" in vars(each)
        ]
    return tuple(found)


SEEDS = ("seed", "data.split_seed")  # the numbers that count nothing


def _require_sane(key: str, value: object) -> None:
    """No number of any part is infinite, nor larger than what it is used in can hold."""
    if isinstance(value, float):
        require(math.isfinite(value), key, value, "a finite number")
    elif isinstance(value, int):
        most = 2**63 - 1 if key in SEEDS else 2**31 - 1
        require(abs(value) <= most, key, value, f"at most {most}")
