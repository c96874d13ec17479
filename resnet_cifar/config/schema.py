"""Type the configuration: one part per group, with the rules that concern several."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from resnet_cifar.compute.options import Trainer
from resnet_cifar.data.augmentation import Augmentation
from resnet_cifar.data.datasets import Dataset
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
SEEDS = ("seed", "data.split_seed")  # numbers that count nothing: any 64 bits will do


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
        """Check the rules that concern every part, or more than one."""
        for key, value in items(self, everything=True):
            if isinstance(value, float):
                require(math.isfinite(value), key, value, "a finite number")
            elif isinstance(value, int):  # too large for its use
                most = 2**63 - 1 if key in SEEDS else 2**31 - 1
                require(abs(value) <= most, key, value, f"at most {most}")
            try:  # a path, say, or a file name's undecodable byte fits into no record
                json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
            except (TypeError, ValueError):
                allowed = "finite numbers, text that UTF-8 can hold, true, false, null, and lists "
                require(False, key, ascii(value), allowed + "and mappings of these")
        self.output_root = os.path.expanduser(self.output_root)
        require(self.seed >= 0, "seed", self.seed, "a whole number, 0 or more")
        require(bool(self.output_root.strip()), "output_root", "''", "a directory")
        require(self.when_busy in ("wait", "skip"), "when_busy", self.when_busy, "wait or skip")
        self.norm.check(self.model.width)
        epochs, warmup = self.trainer.epochs, self.scheduler.warmup_epochs
        key, allowed = "scheduler.warmup_epochs", f"less than trainer.epochs={epochs}"
        require(warmup < epochs, key, warmup, allowed)
        size, batch = self.data.training_images, self.trainer.batch_size
        require(batch <= size, "trainer.batch_size", batch, f"at most the {size} training images")

    def build_model(self) -> nn.Module:
        """Make the network, its weights drawn: float [N, 3, 32, 32] to logits [N, classes]."""
        return self.model.build(self.norm.build, len(self.data.CLASSES))

    def multiply_accumulates(self) -> int:
        """Count the multiplications of one image's forward pass."""
        return self.model.multiply_accumulates(len(self.data.CLASSES))

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return math.ceil(self.data.training_images / self.trainer.batch_size)

    def images(self, epochs: int) -> float:
        """Measure the work of `epochs` epochs in training images: a validated one is a third."""
        views = epochs + -(-epochs // self.trainer.augmented_val_every)
        validated = views * self.data.val_size
        return float(epochs * self.data.training_images + VALIDATION_COST * validated)


TYPES: dict[str, type[Any]] = get_type_hints(Config)
PARTS = {name: kind for name, kind in TYPES.items() if dataclasses.is_dataclass(kind)}  # by group


def groups() -> dict[str, tuple[type[Any], ...]]:
    """List each group's options: those in OPTIONS of its type's module, and a person's own.

    Raises:
        ConfigError: these can't be imported, or have the name of another.
    """
    theirs = user_config_directory()
    more = _options_in(str(theirs)) if theirs else ()
    options = {}
    for group, part in PARTS.items():
        kinds = [*sys.modules[part.__module__].OPTIONS, *more]
        options[group] = tuple(kind for kind in kinds if issubclass(kind, part))
        names = [kind.NAME for kind in options[group]]
        for twice in {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"{theirs}: another option of {group} is called {twice} already")
    return options


@functools.cache
def _options_in(directory: str) -> tuple[type[Any], ...]:
    """Import the classes with a NAME that the Python files of a directory define."""
    options: list[type[Any]] = []
    if directory not in sys.path:  # for good: a sweep's jobs unpickle these classes
        sys.path.append(directory)
    for path in sorted(Path(directory).glob("*.py")):
        try:
            module = importlib.import_module(path.stem)
        except Exception as error:
            raise ConfigError(f"{path} can't be imported: {describe(error)}") from error
        if path.resolve() != Path(module.__file__ or directory).resolve():
            raise ConfigError(f"{path} can't be imported: another module has its name")
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        options += [c for c in classes if c.__module__ == path.stem and "NAME" in vars(c)]
    return tuple(options)
