"""Type the configuration: one part per group, with the rules that concern several."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from resnet_cifar.compute.options import Trainer
from resnet_cifar.data.augmentation import Augmentation
from resnet_cifar.data.datasets import Dataset
from resnet_cifar.errors import ConfigError, Interrupted, describe, require
from resnet_cifar.files import read_regular
from resnet_cifar.identity import execution, items, number
from resnet_cifar.model.options import Model, Norm
from resnet_cifar.optim.optimizer import Optimizer
from resnet_cifar.optim.regularization import Regularization
from resnet_cifar.optim.scheduler import Scheduler
from resnet_cifar.paths import refuse_url, user_config_directory
from resnet_cifar.probe.options import Probe
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.logger import Logger

if TYPE_CHECKING:
    from torch import nn

VALIDATION_COST = 1 / 3  # of a training image's arithmetic: no backward pass
SEEDS = ("seed", "data.split_seed")  # numbers that count nothing: any 64 bits will do

CROP_AND_FLIP = ("augmentation.crop_padding", "augmentation.flip_probability")
# Beside these values that one alone: with any other, two cells would have the same bits.
WITHOUT_EFFECT: tuple[tuple[dict[str, Any], str, Any], ...] = (
    ({"optimizer": "sgd", "optimizer.momentum": 0}, "optimizer.dampening", 0),
    ({"regularization.weight_decay": 0}, "regularization.decay_norm_and_bias", True),
    ({"augmentation": "crop_flip", **dict.fromkeys(CROP_AND_FLIP, 0)}, "augmentation", "none"),
)


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
        self.output_root = os.path.expanduser(self.output_root)
        for key, value in items(self, everything=True):
            if isinstance(value, int):  # too large for its use
                most = 2**63 - 1 if key in SEEDS else 2**31 - 1
                require(abs(value) <= most, key, value, f"at most {most}")
            elif not isinstance(value, float) or not math.isfinite(value):
                try:  # a path, say, or a file name's undecodable byte fits into no record
                    json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
                except (TypeError, ValueError):
                    rule = "made of finite numbers, text in UTF-8, true, false, null, and lists "
                    require(False, key, ascii(value), rule + "and mappings of these")
        require(self.seed >= 0, "seed", self.seed, "a whole number, 0 or more")
        require(bool(self.output_root.strip()), "output_root", "''", "a directory")
        require(self.when_busy in ("wait", "skip"), "when_busy", self.when_busy, "wait or skip")
        self.norm.check(self.model.width)
        epochs, warmup = self.trainer.epochs, self.scheduler.warmup_epochs
        key, allowed = "scheduler.warmup_epochs", f"less than trainer.epochs={epochs}"
        require(warmup < epochs, key, warmup, allowed)
        size, batch = self.data.training_images, self.trainer.batch_size
        require(batch <= size, "trainer.batch_size", batch, f"at most the {size} training images")

    def check_new(self, directory: Path) -> None:
        """Check what a run must meet to be trained; one begun in `directory` goes on as it is.

        Raises ConfigError: a path is a URL, or a value has no effect.
        """
        flat = dict(items(self, everything=True))
        for key in ("output_root", "data.root"):
            refuse_url(flat.get(key, ""), key)
        if os.path.lexists(directory / RUN):
            return
        for key, value in flat.items():
            require(repr(value) != "-0.0", key, value, "0")
        for beside, key, only in WITHOUT_EFFECT:
            where = ", ".join(f"{name}={value}" for name, value in beside.items() if name != key)
            rule = f"{number(only)}: it has no effect beside {where}"
            idle = beside.items() <= flat.items() and flat.get(key, only) != only
            require(not idle, key, flat.get(key), rule)
        kind, epochs, steps = self.scheduler.NAME, self.trainer.epochs, self.steps_per_epoch
        warmup, rule = self.scheduler.warmup_epochs, f"0, or at least 1.5 of {steps} steps an epoch"
        require(not warmup or round(warmup * steps) > 1, "scheduler.warmup_epochs", warmup, rule)
        if kind == "constant" or (kind, epochs) == ("cosine", 1):  # nothing to set in its place
            return
        rate = self.scheduler.shape(self.optimizer.lr, epochs, steps)
        # Most schedules differ from a constant at the end.
        changes = any(rate(step) != self.optimizer.lr for step in reversed(range(epochs * steps)))
        rule = f"constant: {self.scheduler} is constant over trainer.epochs={epochs}"
        require(changes, "scheduler", kind, f"{rule}; or change its values")

    def build_model(self) -> "nn.Module":
        """Make the network, its weights drawn: float [N, 3, 32, 32] to logits [N, classes]."""
        return self.model.build(self.norm.build, len(self.data.CLASSES))

    def multiply_accumulates(self) -> int:
        """Count the multiplications of one image's forward pass."""
        return self.model.multiply_accumulates(len(self.data.CLASSES))

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return math.ceil(self.data.training_images / self.trainer.batch_size)

    @property
    def shorter(self) -> list[str]:
        """Overrides by which this run takes less time."""
        ways = {
            "model.width=16": getattr(self.model, "width", 0) > 16,
            "trainer.epochs=15": self.trainer.epochs > 15,
            "data=synthetic": self.data.NAME != "synthetic",
        }
        return [way for way, less in ways.items() if less]

    def images(self, epochs: int) -> float:
        """Measure the work of `epochs` epochs in training images: a validated one is a third."""
        views = epochs + -(-epochs // self.trainer.augmented_val_every)
        validated = views * self.data.val_size
        return float(epochs * self.data.training_images + VALIDATION_COST * validated)


TYPES: dict[str, type[Any]] = get_type_hints(Config)
PARTS = {name: kind for name, kind in TYPES.items() if dataclasses.is_dataclass(kind)}  # by group


def groups() -> dict[str, tuple[type[Any], ...]]:
    """List each group's options: those in OPTIONS of its type's module, and a person's own.

    Raises ConfigError: these can't be imported, or have the name of another.
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


# What a file with options has, and a script or a setup.py beside it has not.
DERIVED = re.compile(rb"^\s*class \w+.*\(", re.MULTILINE)
NAMED = re.compile(rb"^[ \t]+NAME\s*(:.*)?=", re.MULTILINE)


@functools.cache
def _options_in(directory: str) -> tuple[type[Any], ...]:
    """Import the classes with a NAME that the Python files of a directory define."""
    options: list[type[Any]] = []
    if directory not in sys.path:  # for good: a sweep's jobs unpickle these classes
        sys.path.append(directory)
    for path in sorted(Path(directory).glob("[!.]*.py")):
        try:
            source = b"" if path.is_dir() else read_regular(path.resolve())
            if not (DERIVED.search(source) and NAMED.search(source)):
                continue
            printed = io.StringIO()  # kept out of a command's answer, which may be JSON
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                module = importlib.import_module(path.stem)
        except (KeyboardInterrupt, Interrupted):
            raise
        except BaseException as error:  # also SystemExit, which would end the command as done
            raise ConfigError(f"{path} can't be imported: {describe(error)}") from error
        print(printed.getvalue(), end="", file=sys.stderr)
        if path.resolve() != Path(getattr(module, "__file__", None) or directory).resolve():
            raise ConfigError(f"{path} can't be imported: another module has its name")
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        options += [c for c in classes if c.__module__ == path.stem and "NAME" in vars(c)]
    return tuple(options)
