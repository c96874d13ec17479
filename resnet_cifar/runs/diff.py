"""Differences of two runs, or two cells: `python -m resnet_cifar runs diff A B`. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_cifar.errors import UserError
from resnet_cifar.identity import number
from resnet_cifar.record.schema import OBJECTIVE, Metrics, RunRecord, Session
from resnet_cifar.runs.find import count_runs, find_cell_runs, read_run
from resnet_cifar.text import duration, print_table, printable

WHERE = ("output_root", "rerun", "when_busy")  # of one call, not of a run


class Side(NamedTuple):
    """One of the two that are compared: a run, or the runs of a cell by seed."""

    path: Path
    records: dict[int, RunRecord]
    is_cell: bool
    unread: list[str]  # why, of each run that can't be read


class Quantity(NamedTuple):
    """A metric that is compared, of the last epoch or of the best."""

    name: str
    key: str
    digits: int
    scale: float = 1.0
    best: bool = False

    def value(self, record: RunRecord) -> float | None:
        """The metric of a run, None where it was not measured."""
        metrics: Metrics = (record.best if self.best else record.final) or {}
        value = metrics.get(self.key)
        return None if value is None else self.scale * float(value)


QUANTITIES = (
    Quantity("val %, last epoch", "accuracy/val", 2, 100),
    Quantity("val %, augmented view", "accuracy/val_augmented", 2, 100),
    Quantity("val %, best epoch", OBJECTIVE, 2, 100, best=True),
    Quantity("train %", "accuracy/train", 2, 100),
    Quantity("loss, validation", "loss/val", 4),
    Quantity("loss, training", "loss/train", 4),
)


def read_side(path: Path) -> Side:
    """The run at `path`, or the runs of the cell.

    Raises:
        UserError: neither a run nor a cell that has one; or a run whose record can't be read.
    """
    record = read_run(path)
    if record is not None:
        return Side(path, {record.seed: record}, False, [])
    runs = find_cell_runs(path) if path.is_dir() else []
    unread = [run.reason for run in runs if run.record is None and not run.is_set_aside]
    known = [run.record for run in count_runs(runs)[0] if run.record]
    records = {record.seed: record for record in known}
    if len({record.cell for record in known}) != 1:
        why = f": {unread[0]}" if unread else ""
        raise UserError(f"{path} is neither a run, <cell>/seed=<n>, nor a cell with runs{why}")
    return Side(path, records, True, unread)


def print_differences(first: Path, second: Path) -> None:
    """Print in what two runs or cells differ. Raises UserError as `read_side`."""
    sides = read_side(first), read_side(second)
    for name, side in zip("AB", sides, strict=True):
        seeds = f", seeds {', '.join(map(str, sorted(side.records)))}" if side.is_cell else ""
        print(printable(f"{name}: {side.path}{seeds}"))
    print()
    lines = compare_configurations(sides)
    if lines:
        print_table(["configuration", "A", "B"], lines, [True, True, True])
    else:
        print("the configurations are the same")
    print()
    print_table(["outcome", "A", "B", "B - A"], compare_outcomes(sides), [True, True, True, True])
    lines = compare_circumstances(sides)
    if lines:
        print()
        print_table(["how it was computed", "A", "B"], lines, [True, True, True])
    if any(side.is_cell for side in sides):
        print(
            "\nMeans over the seeds that completed, with 95 % t-intervals; B - A over the seeds "
            "that both have, pair by pair."
        )
    for side in sides:
        for reason in side.unread:
            print(printable(reason))


def compare_configurations(sides: Sequence[Side]) -> list[list[str]]:
    """Key and both values, of the keys that differ."""
    keys = dict.fromkeys(key for s in sides for r in s.records.values() for key in r.config)
    several = any(side.is_cell for side in sides)
    left_out = (*WHERE, "seed") if several else WHERE
    lines = []
    for key in keys:
        values = [_join(r.config.get(key) for r in side.records.values()) for side in sides]
        if values[0] != values[1] and key not in left_out:
            lines.append([printable(key), *values])
    return lines


def compare_outcomes(sides: Sequence[Side]) -> list[list[str]]:
    """Status, then every quantity that either has: A, B, B − A."""
    epochs = [_join(record.epochs_done for record in side.records.values()) for side in sides]
    lines = [["status", *map(_show_statuses, sides), ""], ["epochs", *epochs, ""]]
    for quantity in QUANTITIES:
        a, b = (_measure(side, quantity) for side in sides)
        if not a and not b:
            continue
        if all(side.is_cell for side in sides):
            changes = [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]
        else:
            changes = [_mean(b) - _mean(a)] if a and b else []
        texts = [_show_mean(list(values.values()), quantity.digits) for values in (a, b)]
        lines.append([quantity.name, *texts, _show_mean(changes, quantity.digits, "+")])
    seconds = [sum(s.seconds for r in side.records.values() for s in r.sessions) for side in sides]
    return [*lines, ["time trained", *map(duration, seconds), ""]]


def compare_circumstances(sides: Sequence[Side]) -> list[list[str]]:
    """Devices, versions and code where they differ: they are no part of the configuration."""
    told = [[_describe_session(session) for session in _sessions(side)] for side in sides]
    names = dict.fromkeys(name for sessions in told for session in sessions for name in session)
    lines = []
    for name in names:
        values = [_join(session.get(name) for session in sessions) for sessions in told]
        if values[0] != values[1]:
            lines.append([name, *values])
    return lines


def _describe_session(session: Session) -> dict[str, Any]:
    git = session.git
    return {
        "device": session.device,
        "precision": session.precision,
        "threads": session.threads,
        "code": " + ".join(filter(None, (git.get("commit"), git.get("uncommitted")))),
        **dict(sorted(session.versions.items())),
    }


def _sessions(side: Side) -> list[Session]:
    return [session for record in side.records.values() for session in record.sessions]


def _join(values: Iterable[Any]) -> str:
    texts = dict.fromkeys("" if value is None else printable(number(value)) for value in values)
    return " | ".join(text for text in texts if text)


def _show_statuses(side: Side) -> str:
    statuses = [record.status for record in side.records.values()]
    if not side.is_cell:
        return statuses[0]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def _measure(side: Side, quantity: Quantity) -> dict[int, float]:
    """By seed. Of a cell only the runs that completed, of a run whatever it has reached."""
    values = {
        seed: quantity.value(record)
        for seed, record in side.records.items()
        if record.status == "completed" or not (side.is_cell or record.status == "diverged")
    }
    return {seed: value for seed, value in values.items() if value is not None}


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def _show_mean(values: Sequence[float], digits: int, sign: str = "") -> str:
    """`95.06 ± 0.12 (n=3)`; a single value alone, without the second that scipy takes."""
    if len(values) < 2:
        return "".join(f"{value:{sign}.{digits}f}" for value in values)
    from resnet_cifar.runs.statistics import estimate, plus_minus

    e = estimate(values)
    return f"{plus_minus(e.mean, e.half_width, digits, sign)} (n={e.n})"
