"""The trainer's options: how long, in which arithmetic, on what."""

import re
from dataclasses import dataclass
from typing import ClassVar

from resnet_cifar.errors import require
from resnet_cifar.identity import execution

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # and auto, which chooses among them


@dataclass
class Trainer:
    """Budget and arithmetic (identity), then how it is executed."""

    NAME: ClassVar[str] = "trainer"
    epochs: int
    batch_size: int
    precision: str
    deterministic: bool

    device: str = execution()
    threads: int = execution()
    compile: str = execution()
    capture: str = execution()
    eval_batch_size: int = execution()
    augmented_val_every: int = execution()
    checkpoint_epochs: int = execution()
    checkpoint_seconds: float = execution()
    histogram_epochs: int = execution()
    progress: str = execution()

    def __post_init__(self) -> None:
        self.compile = self.compile.lower()  # YAML's true arrives as "True"
        self.capture = "off" if self.capture == "False" else self.capture  # as YAML's off does
        for name in ("epochs", "augmented_val_every", "checkpoint_epochs"):
            require(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "1 or more")
        for name in ("threads", "eval_batch_size", "histogram_epochs", "checkpoint_seconds"):
            require(getattr(self, name) >= 0, f"trainer.{name}", getattr(self, name), "0 or more")
        require(self.threads <= 1024, "trainer.threads", self.threads, "0 to 1024")
        # BatchNorm would accept one image, whose last stage has 16 values a channel; but then the
        # batch statistics would be the image's.
        require(self.batch_size >= 2, "trainer.batch_size", self.batch_size, "2 or more")
        for name, allowed in (
            ("precision", ("auto", *PRECISIONS)),
            ("compile", ("auto", "true", "false")),
            ("capture", ("auto", "off")),
            ("progress", ("auto", "live", "plain", "quiet")),
        ):
            value = getattr(self, name)
            require(value in allowed, f"trainer.{name}", value, "one of " + ", ".join(allowed))
        known = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device) is not None
        require(known, "trainer.device", self.device, "auto, cpu, mps, cuda or cuda:<n>")


OPTIONS: tuple[type[Trainer], ...] = (Trainer,)
