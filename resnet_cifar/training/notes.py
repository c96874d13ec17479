"""Lines a run prints: opening, expected time, epochs, the best one."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from resnet_cifar.compute import device
from resnet_cifar.config.saved import to_yaml
from resnet_cifar.config.schema import Config
from resnet_cifar.model.options import training_flop
from resnet_cifar.paths import command_name
from resnet_cifar.record.schema import OBJECTIVE, finished
from resnet_cifar.training.state import State

LONG = 3600.0  # seconds; a run expected to take longer says so before it starts
ACHIEVED = 0.6  # share of the matmul rate a step reaches, for that expectation (0.5 to 0.75 seen)


def expected_seconds(config: Config, epochs_done: int, matmul_rate: float | None) -> float:
    """Time left to train, by its arithmetic and the device's `matmul_rate` (FLOP/s)."""
    flop = training_flop(config.multiply_accumulates())
    left = config.images(config.trainer.epochs - epochs_done)
    return flop * left / (ACHIEVED * (matmul_rate or math.inf))


def best_line(best: dict[str, Any], epochs: int) -> str:
    """The best epoch beside the last one, which is what counts: choosing it flatters."""
    if best["epoch"] == epochs:
        return "the last epoch was the best"
    found = f"{100 * best[OBJECTIVE]:.2f} %"
    return f"the best epoch was {best['epoch']} of {epochs} (val {found}): best.pt"


def shorter_run(directory: Path, epochs: int) -> str | None:
    """What becomes of the shorter run that somebody means to go on with by raising the epochs.

    Args:
        directory: of the run about to begin; one whose label differs in its epochs is looked for.
    """
    label, seed = directory.parent.name.rpartition("-")[0], directory.name
    same = re.escape(label).replace(f"_{epochs}ep", r"_(\d+)ep") + "-[0-9a-f]{8}"
    done = [
        (int(found[1]), cell)
        for cell in directory.parents[1].glob("*ep*")
        if (found := re.fullmatch(same, cell.name)) and finished(cell / seed)
    ]
    shorter = max(((n, cell) for n, cell in done if n < epochs), default=None)
    if shorter is None:
        return None
    return (
        f"{shorter[1] / seed} stays as it is: {epochs} epochs are a run of their own, from the "
        "start, since a schedule depends on its length"
    )


def config_file(config: Config, directory: Path) -> str:
    """config.yaml: the configuration under a line that says how to run it again."""
    return (
        f"# {command_name('runs')} command {directory}\n"
        "# prints the command that trains this configuration again.\n" + to_yaml(config)
    )


def opening(
    config: Config, directory: Path, compute: device.Compute, state: State, steps: int
) -> list[str]:
    """What is about to happen, on what."""
    on = [compute.name, compute.precision]
    if compute.device.type == "cpu":
        on.append(f"{compute.threads} threads")
    if compute.compile:
        on.append("compiled")
    lines = [f"{directory}", ", ".join(on)]
    if compute.caution:
        lines.append(compute.caution)
    if state.epoch == config.trainer.epochs:
        lines.append("every epoch was trained before; what else a finished run has is made now")
    elif state.epoch or state.step:
        lines.append(
            f"resumed at epoch {state.epoch + 1} of {config.trainer.epochs}, "
            f"step {state.step} of {steps}"
        )
    return lines


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """An epoch for people: per cent."""
    width = len(str(epochs))
    parts = [
        f"epoch {metrics['epoch']:>{width}}/{epochs}",
        f"train {100 * metrics['accuracy/train']:6.2f} %, loss {metrics['loss/train']:.4f}",
        f"val {100 * metrics['accuracy/val']:6.2f} %, loss {metrics['loss/val']:.4f}",
    ]
    for view, name in (("val_augmented", "augmented"), ("val_ema", "averaged")):
        if f"accuracy/{view}" in metrics:
            accuracy, loss = metrics[f"accuracy/{view}"], metrics[f"loss/{view}"]
            parts.append(f"{name} {100 * accuracy:6.2f} %, loss {loss:.4f}")
    parts.append(f"lr {metrics['lr']:.4g}")
    if (speed := metrics["speed/images_per_second"]) is not None:
        parts.append(f"{speed:,.0f} images/s")
    return "  ".join(parts)
