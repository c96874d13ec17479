"""The probe's options: its epochs, images and updates. gradient_flow.py measures."""

from dataclasses import dataclass
from typing import ClassVar

from resnet_cifar.errors import require
from resnet_cifar.identity import execution


@dataclass
class Probe:
    """Execution only: training is the same to the last bit whatever stands here."""

    NAME: ClassVar[str] = "probe"
    epochs: int = execution()
    images: int = execution()
    val_images: int = execution()
    angular_steps: int = execution()

    def __post_init__(self) -> None:
        # Batch statistics need two images, as trainer.batch_size does.
        for name, least in (("epochs", 0), ("images", 2), ("val_images", 2), ("angular_steps", 1)):
            value = getattr(self, name)
            require(value >= least, f"probe.{name}", value, f"{least} or more")

    def due(self, epoch: int, epochs: int) -> bool:
        """True if epoch `epoch` (from 1) of `epochs` is probed."""
        return self.epochs > 0 and (epoch in (1, epochs) or epoch % self.epochs == 0)

    def measured_steps(self, steps: int) -> list[int]:
        """Choose the updates (from 0) of a probed epoch of `steps` whose rotation is measured.

        Evenly spread and not consecutive: momentum makes neighbours resemble each other. The last
        one is among them.
        """
        count = min(self.angular_steps, steps)
        return [steps * (i + 1) // count - 1 for i in range(count)]


OPTIONS: tuple[type[Probe], ...] = (Probe,)
