"""Lines that a run prints: opening, epochs, ending. And the first lines of config.yaml."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from resnet_cifar.compute import device
from resnet_cifar.config.saved import to_yaml
from resnet_cifar.config.schema import Config
from resnet_cifar.model.options import training_flop
from resnet_cifar.paths import command_name
from resnet_cifar.record.schema import OBJECTIVE, RunRecord, Session, result
from resnet_cifar.text import duration
from resnet_cifar.training.state import State

LONG = 3600.0  # seconds; a run expected to take longer says so before it starts
ACHIEVED = 0.6  # share of the matmul rate a step reaches, for that expectation (0.5 to 0.75 seen)


def config_file(config: Config, directory: Path) -> str:
    """Write config.yaml: the configuration under a line that says how to run it again."""
    return (
        f"# {command_name('runs')} command {directory}\n"
        "# prints the command that trains this configuration again.\n" + to_yaml(config)
    )


def shorter_run_note(shorter: Path, epochs: int) -> str:
    """Tell somebody who raised the epochs that the shorter run is not gone on with."""
    return (
        f"{shorter} stays as it is: {epochs} epochs are a run of their own, from the "
        "start, since a schedule depends on its length"
    )


def opening(
    config: Config, directory: Path, compute: device.Compute, state: State, session: Session
) -> list[str]:
    """Describe the run's start: directory, device, precision, where it resumes, how long."""
    epochs = config.trainer.epochs
    on = [compute.name, compute.precision]
    if compute.device.type == "cpu":
        on.append(f"{compute.threads} threads")
    if compute.compile:
        on.append("compiled")
    lines = [f"{directory}", ", ".join(on)]
    if compute.caution:
        lines.append(compute.caution)
    if state.epoch == epochs:
        lines.append("every epoch was trained before; what else a finished run has is made now")
    elif state.epoch or state.step:
        steps = config.steps_per_epoch
        lines.append(
            f"resumed at epoch {state.epoch + 1} of {epochs}, step {state.step} of {steps}"
        )
    expected = expected_seconds(config, state.epoch, session.matmul_flops_per_second)
    if expected > LONG:
        lines.append(
            f"this will take about {duration(expected)} on {compute.name}, "
            f"{compute.threads} threads; it can be interrupted and resumed at any time. "
            "Shorter: model.width=16, trainer.epochs=15, data=synthetic"
        )
    return lines


def expected_seconds(config: Config, epochs_done: int, matmul_rate: float | None) -> float:
    """Estimate the time left to train, by arithmetic and the device's `matmul_rate` (FLOP/s)."""
    flop = training_flop(config.multiply_accumulates())
    left = config.images(config.trainer.epochs - epochs_done)
    return flop * left / (ACHIEVED * (matmul_rate or math.inf))


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """Format an epoch's metrics for people: accuracies in per cent."""
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


def interruption(directory: Path, state: State) -> str:
    """Say where an interrupted run stopped, and that it can go on."""
    return (
        f"interrupted in epoch {state.epoch + 1}, step {state.step}: "
        f"saved in {directory}; the same command goes on"
    )


def closing(directory: Path, record: RunRecord, status: str) -> list[str]:
    """Describe the run's end: its outcome, and the best epoch beside the last one.

    The last epoch is what counts: choosing the best by its validation accuracy flatters.
    """
    lines = [f"{status}: {directory}{result(record)}"]
    if status == "completed" and (best := record.best) is not None:
        if best["epoch"] == record.epochs:
            lines.append("the last epoch was the best")
        else:
            accuracy = f"{100 * best[OBJECTIVE]:.2f} %"
            epoch = f"{best['epoch']} of {record.epochs}"
            lines.append(f"the best epoch was {epoch} (val {accuracy}): best.pt")
    return lines
