"""Lines that a run prints: opening, epochs, ending."""

import math
from pathlib import Path
from typing import Any

from resnet_cifar.compute.device import Compute
from resnet_cifar.config.schema import Config
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.schema import OBJECTIVE, RunRecord, Session, result
from resnet_cifar.text import LONG, long_line

VIEWS = {"val": "val", "train": "train", "val_augmented": "augmented", "val_ema": "averaged"}
ACHIEVED = 0.6  # share of the matmul rate a step reaches, for that expectation (0.5 to 0.75 seen)


def opening(
    config: Config, directory: Path, compute: Compute, session: Session, uncaptured: str | None = ""
) -> list[str]:
    """Describe the run's start: directory, device, precision, where it resumes, how long.

    `uncaptured` is the `obstacle` to capturing steps.
    """
    epochs, steps = config.trainer.epochs, config.steps_per_epoch
    on = [compute.name, compute.precision]
    on += [f"{compute.threads} threads"] if compute.device.type == "cpu" else []
    on += ["compiled"] if compute.compile else []
    on += ["captured"] if uncaptured is None else []
    lines = [f"{directory}", ", ".join(on)]
    if uncaptured:
        lines.append(f"steps are not captured in CUDA graphs: {uncaptured}")
    if compute.device.type == "mps":
        lines.append("no training on an Apple GPU has been tried: compare a short one with the CPU")
    if (session.epoch or session.step) and session.epoch < epochs:
        at = f"epoch {session.epoch + 1} of {epochs}, step {session.step} of {steps}"
        lines.append(f"resumed at {at}")
    # By arithmetic and the rate at which the device multiplies.
    flop = training_flop(config.multiply_accumulates()) * config.images(epochs - session.epoch)
    expected = flop / (ACHIEVED * (session.matmul_flops_per_second or math.inf))
    if expected > LONG:
        lines.append(long_line("this run", expected, config.shorter))
    return lines


def epoch_parts(metrics: dict[str, Any], epochs: int) -> list[str]:
    """Format an epoch's metrics for people, the first ones first: accuracies in per cent."""
    parts = [f"epoch {metrics['epoch']:>{len(str(epochs))}}/{epochs}"]
    for view, name in VIEWS.items():
        if f"accuracy/{view}" in metrics:
            accuracy, loss = metrics[f"accuracy/{view}"], metrics[f"loss/{view}"]
            parts.append(f"{name} {100 * accuracy:6.2f} %, loss {loss:.4f}")
    parts.append(f"lr {metrics['lr']:.4g}")
    if (speed := metrics["speed/images_per_second"]) is not None:
        parts.append(f"{speed:,.0f} images/s")
    return parts


def closing(directory: Path, record: RunRecord, status: str) -> list[str]:
    """Describe the run's end: its outcome, and the best epoch beside the last one.

    The last epoch is what counts: choosing the best by its validation accuracy flatters.
    """
    lines = [f"{status}: {directory}{result(record)}"]
    if status == "completed" and (best := record.best) is not None:
        accuracy, epoch = f"{100 * best[OBJECTIVE]:.2f} %", f"{best['epoch']} of {record.epochs}"
        lines.append(f"the best epoch was {epoch} (val {accuracy}): best.pt")
    return lines
