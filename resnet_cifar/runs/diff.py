"""Differences of two runs, or two cells: `python -m resnet_cifar runs diff A B`. No torch here."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_cifar.cli.edge import fail_for
from resnet_cifar.errors import UserError
from resnet_cifar.record.schema import RunRecord
from resnet_cifar.runs.find import code, flat_row, join, read_run, runs_at
from resnet_cifar.text import duration, print_table, printable

LEFT_OUT = ("output_root", "rerun", "when_busy", "seed")  # of one call; the seed of a run
# What is compared: a key of `flat_row`, and the digits that are shown. Accuracies are in per cent.
QUANTITIES = {
    "val %, last epoch": ("accuracy/val", 2),
    "val %, augmented view": ("accuracy/val_augmented", 2),
    "val %, best epoch": ("best/accuracy/val", 2),
    "train %": ("accuracy/train", 2),
    "loss, validation": ("loss/val", 4),
    "loss, training": ("loss/train", 4),
}


class Side(NamedTuple):
    """One of the two that are compared: a run, or a cell."""

    path: Path
    records: dict[int, RunRecord]  # by seed
    is_cell: bool
    unread: list[str]  # why, of each run that can't be read


def read_side(path: Path) -> Side:
    """The run at `path`, or the runs of the cell. Raises UserError where there is neither."""
    runs, unread = runs_at(path)
    known = [record for run in runs if (record := read_run(run))]
    if len({record.cell for record in known}) != 1:
        why = "".join(f": {reason}" for reason in list(unread.values())[:1])
        raise UserError(f"{path} is neither a run, <cell>/seed=<n>, nor a cell with runs{why}")
    by_seed = {record.seed: record for record in known}
    return Side(path, by_seed, path not in runs, list(unread.values()))


def print_differences(options: argparse.Namespace) -> None:
    """Print in what two runs or cells differ. Raises UserError as `read_side`."""
    sides = read_side(options.first), read_side(options.second)
    cells = any(side.is_cell for side in sides)
    for name, side in zip("AB", sides, strict=True):
        seeds = f", seeds {', '.join(map(str, sorted(side.records)))}" if side.is_cell else ""
        print(printable(f"{name}: {side.path}{seeds}"))
    configs = [[record.config for record in side.records.values()] for side in sides]
    left_out = LEFT_OUT if cells else LEFT_OUT[:-1]
    configured = [line for line in _compare(configs) if line[0] not in left_out]
    if not configured:
        print("\nthe configurations are the same")
    for heads, lines in (
        (["configuration", "A", "B"], configured),
        (["outcome", "A", "B", "B - A"], _compare_outcomes(sides)),
        (["how it was computed", "A", "B"], _compare(list(map(_describe_sessions, sides)))),
    ):
        if lines:
            print()
            print_table(heads, lines)
    if cells:
        means = "Means over the seeds that completed, with 95 % t-intervals"
        pairs = "; B - A over the seeds that both have, pair by pair"
        print(f"\n{means}{pairs * all(side.is_cell for side in sides)}.")
    # What it says is not of all runs that there are.
    fail_for([reason for side in sides for reason in side.unread])


def _compare(sides: Sequence[Sequence[dict[str, Any]]]) -> list[list[str]]:
    """Key and the values of both sides' mappings, of the keys in which they differ."""
    lines = []
    for key in dict.fromkeys(key for side in sides for each in side for key in each):
        values = [join(each.get(key) for each in side) for side in sides]
        if values[0] != values[1]:
            lines.append([printable(key), *values])
    return lines


def _compare_outcomes(sides: Sequence[Side]) -> list[list[str]]:
    """Status, then every quantity that either has: A, B, B − A."""
    epochs = [join(record.epochs_done for record in side.records.values()) for side in sides]
    statuses = [join(record.status for record in side.records.values()) for side in sides]
    lines = [["status", *statuses, ""], ["epochs", *epochs, ""]]
    for name, (key, digits) in QUANTITIES.items():
        a, b = (_measure(side, key) for side in sides)
        if not a and not b:
            continue
        if all(side.is_cell for side in sides):
            changes = [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]
        else:
            changes = [sum(b.values()) / len(b) - sum(a.values()) / len(a)] if a and b else []
        texts = [_show_mean(list(values.values()), digits) for values in (a, b)]
        lines.append([name, *texts, _show_mean(changes, digits, "+")])
    seconds = [sum(s.seconds for r in side.records.values() for s in r.sessions) for side in sides]
    return [*lines, ["time trained", *map(duration, seconds), ""]]


def _describe_sessions(side: Side) -> list[dict[str, Any]]:
    """Devices, versions and code, which are no part of the configuration."""
    sessions = [session for record in side.records.values() for session in record.sessions]
    keys = ("device", "precision", "threads")
    return [{k: getattr(s, k) for k in keys} | {"code": code(s.git)} | s.versions for s in sessions]


def _measure(side: Side, key: str) -> dict[int, float]:
    """By seed. Of a cell only the runs that completed, of a run whatever it has reached."""
    scale = 100 if "accuracy/" in key else 1
    return {
        seed: scale * value
        for seed, record in side.records.items()
        if record.status == "completed" or not (side.is_cell or record.status == "diverged")
        if (value := flat_row(record).get(key)) is not None
    }


def _show_mean(values: Sequence[float], digits: int, sign: str = "") -> str:
    """`95.06 ± 0.12 (n=3)`; a single value alone, without the second that scipy takes."""
    if len(values) < 2:
        return "".join(f"{value:{sign}.{digits}f}" for value in values)
    from resnet_cifar.runs.statistics import estimate, plus_minus

    e = estimate(values)
    return f"{plus_minus(e.mean, e.half_width, digits, sign)} (n={e.n})"
