"""Trained networks: train one, load one, and use it with its preprocessing and class names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_cifar import scores
from resnet_cifar.config.saved import load
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import Augmentation, NoAugmentation
from resnet_cifar.data.datasets import Images, Normalisation
from resnet_cifar.errors import UserError, require
from resnet_cifar.identity import cell_hash, cell_name, run_directory
from resnet_cifar.record.layout import CONFIG, WEIGHTS
from resnet_cifar.record.schema import Metrics, RunRecord
from resnet_cifar.runs.find import read_run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resnet_cifar.compute.device import Compute
    from resnet_cifar.data.images import DeviceImages, View

BATCH = 250  # images at once


def train(config: Config) -> Path:
    """Train the run that `config` names, or what is left of it; return its directory.

    Raises UserError: it can't be run here; Interrupted: a signal came; the same call goes on.
    """
    from resnet_cifar.training.run import run

    run(config)
    return run_directory(config)


def open_run(directory: Path) -> tuple[RunRecord, Config]:
    """The record and configuration of a run. Raises UserError: none, damaged, or not one run's."""
    record = read_run(directory)
    if record is None:
        raise UserError(f"{directory} is not a run: give a directory <cell>/seed=<n> with run.json")
    config = load(directory / CONFIG)
    if (cell_hash(cell_name(config)), config.seed) != record.key:
        path = directory / CONFIG
        raise UserError(f"{path} is of {cell_name(config)}/seed={config.seed}, another run")
    return record, config


def load_model(run: str | Path, weights: str = "last", device: str = "auto") -> TrainedModel:
    """The network that a run has trained, ready to be used, in float32.

    Args:
        run: a run directory, `<cell>/seed=<n>`.
        weights: "last", "best" (epoch on validation) or "ema" (the last's averaged ones).
        device: auto, cpu, mps, cuda or cuda:<n>.

    Raises UserError: no such run or weights; they are damaged, another run's or have diverged.
    """
    from resnet_cifar.compute.device import resolve

    require(weights in WEIGHTS, "weights", weights, f"one of {', '.join(WEIGHTS)}")
    directory = Path(run)
    record, config = open_run(directory)
    options = dataclasses.replace(config.trainer, device=device, precision="fp32", compile="false")
    model = restore_model(directory, record, config, weights, resolve(options))
    if not all(tensor.isfinite().all() for tensor in model.network.state_dict().values()):
        raise UserError(f"{directory}: the network of epoch {model.epoch} is not finite")
    return model


def restore_model(
    directory: Path, record: RunRecord, config: Config, weights: str, compute: Compute
) -> TrainedModel:
    """Build the network of a run that was opened, on its device. Raises as `load_model`."""
    from resnet_cifar.compute.device import place
    from resnet_cifar.record.checkpoint import compare_weights, load_weights

    saved = load_weights(directory, weights, record)
    network = config.build_model()
    try:
        compare_weights(saved, {"model": network.state_dict()})
    except ValueError as error:
        path = directory / WEIGHTS[weights]
        raise UserError(f"{path} does not fit the network: {error}") from error
    network.load_state_dict(saved["model"])
    network.requires_grad_(False).eval()
    place(network, compute)
    return TrainedModel(network, config, record, directory, weights, saved["epoch"], compute)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with the run it is of, and where it computes."""

    network: nn.Module  # evaluation mode: float32 [n, 3, 32, 32], preprocessed, to [n, classes]
    config: Config
    record: RunRecord
    directory: Path
    weights: str  # "last", "best" or "ema"
    epoch: int  # whose weights they are
    compute: Compute

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""
        return self.config.data.CLASSES

    @property
    def normalisation(self) -> Normalisation:
        """Per channel (RGB), of pixels scaled to [0, 1]: what is subtracted, then divided by."""
        return self.config.data.NORMALISATION

    @property
    def metrics(self) -> Metrics:
        """Its epoch's metrics, as far as the record has them."""
        metrics = self.record.best if self.weights == "best" else self.record.final
        if not metrics or metrics["epoch"] != self.epoch:
            return {}
        if self.weights == "ema":
            averaged = {k.removesuffix("_ema"): v for k, v in metrics.items() if k.endswith("_ema")}
            return {"epoch": self.epoch, **averaged}
        return metrics

    def preprocess(self, images: NDArray[np.uint8]) -> Tensor:
        """RGB images uint8 [n, 32, 32, 3] as the network takes them: float32 [n, 3, 32, 32].

        Raises UserError: they have another type or shape.
        """
        placed = self._place_pixels(images)
        return placed.batch(placed.clean_view(), slice(None))[0]

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 [n, classes] of RGB images uint8 [n, 32, 32, 3], `BATCH` at a time.

        Raises UserError: the images have another type or shape, or a logit is not finite.
        """
        from resnet_cifar.compute.device import tf32

        placed = self._place_pixels(images)
        with tf32(False):
            return self.predict(placed, placed.clean_view(), BATCH).numpy()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities float64 [n, classes]: the softmax of `logits`."""
        return scores.softmax(self.logits(images))

    def predict(self, images: DeviceImages, view: View, batch_size: int) -> Tensor:
        """Logits float32 [n, classes] of a view, on the host. Raises UserError: not finite."""
        from resnet_cifar.compute.step import predict

        logits = predict(self.network, images, view, self.compute, batch_size)
        if not logits.isfinite().all():
            what = f"the network of epoch {self.epoch} answers with numbers that are not finite"
            raise UserError(f"{self.directory}: {what}: it diverged, and has no accuracy")
        return logits

    def place_images(self, images: Images, augmentation: Augmentation) -> DeviceImages:
        """`images` on the network's device, in its layout, ready to be augmented and normalised."""
        from resnet_cifar.compute.device import memory_format
        from resnet_cifar.data.images import DeviceImages

        layout = memory_format(self.compute, self.network)
        device, classes = self.compute.device, len(self.classes)
        return DeviceImages(images, self.normalisation, augmentation, device, layout, classes)

    def _place_pixels(self, images: NDArray[np.uint8]) -> DeviceImages:
        shape = tuple(images.shape)
        if images.dtype != np.uint8 or shape[1:] != (32, 32, 3) or not shape[0]:
            raise UserError(f"images are {images.dtype} {shape}: uint8 [n, 32, 32, 3]")
        positions = np.arange(len(images))
        unlabelled = Images(np.ascontiguousarray(images), np.zeros_like(positions), positions)
        return self.place_images(unlabelled, NoAugmentation())
