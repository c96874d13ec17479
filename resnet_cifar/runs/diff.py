"""In what two runs, or two cells, differ: `python -m resnet_cifar runs diff A B`. No torch here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_cifar.config.saved import fill_in_absent
from resnet_cifar.errors import UserError
from resnet_cifar.identity import number
from resnet_cifar.record.schema import OBJECTIVE, RunRecord, Session, read_record, record_or_reason
from resnet_cifar.runs.listing import print_table
from resnet_cifar.text import duration, printable

WHERE = ("output_root", "rerun", "when_busy")  # of one call, not of a run


class Side(NamedTuple):
    """What is compared: a run, or the runs of a cell by seed."""

    path: Path
    records: dict[int, RunRecord]
    is_cell: bool
    unread: list[str]  # why, of each run that can't be read


class Quantity(NamedTuple):
    """What is measured of a run that has its outcome."""

    name: str
    value: Callable[[RunRecord], float | None]
    text: Callable[[float], str]


def _of_final(key: str, scale: float = 1.0) -> Callable[[RunRecord], float | None]:
    def value(record: RunRecord) -> float | None:
        found = (record.final or {}).get(key)
        return None if found is None else scale * found

    return value


def _best(record: RunRecord) -> float | None:
    found = (record.best or {}).get(OBJECTIVE)
    return None if found is None else 100 * float(found)


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


QUANTITIES = (
    Quantity("val %, last epoch", _of_final("accuracy/val", 100), _fixed(2)),
    Quantity("val %, augmented view", _of_final("accuracy/val_augmented", 100), _fixed(2)),
    Quantity("val %, best epoch", _best, _fixed(2)),
    Quantity("train %", _of_final("accuracy/train", 100), _fixed(2)),
    Quantity("loss, validation", _of_final("loss/val"), _fixed(4)),
    Quantity("loss, training", _of_final("loss/train"), _fixed(4)),
)


def side(path: Path) -> Side:
    """What lies at `path`.

    Raises:
        UserError: neither a run nor a cell that has one; or a run whose record can't be read.
    """
    record = read_record(path)
    if record is not None:
        return Side(path, {record.seed: fill_in_absent(record)}, False, [])
    records, unread = {}, []
    for run in sorted(path.glob("seed=*")) if path.is_dir() else ():
        if not run.name.removeprefix("seed=").isdecimal():
            continue  # set aside
        found = record_or_reason(run)
        if isinstance(found, str):
            unread.append(found)
        else:
            records[found.seed] = fill_in_absent(found)
    if not records:
        why = f": {unread[0]}" if unread else ""
        raise UserError(f"{path} is neither a run, <cell>/seed=<n>, nor a cell with runs{why}")
    return Side(path, records, True, unread)


def show(first: Path, second: Path) -> None:
    """Print the differences. Raises UserError as `side`."""
    sides = side(first), side(second)
    for name, one in zip("AB", sides, strict=True):
        seeds = f", seeds {', '.join(map(str, sorted(one.records)))}" if one.is_cell else ""
        print(printable(f"{name}: {one.path}{seeds}"))
    print()
    lines = configuration(sides)
    if lines:
        print_table(["configuration", "A", "B"], lines, [True, True, True])
    else:
        print("the configurations are the same")
    print()
    print_table(["outcome", "A", "B", "B - A"], outcome(sides), [True, True, True, True])
    lines = circumstances(sides)
    if lines:
        print()
        print_table(["how it was computed", "A", "B"], lines, [True, True, True])
    if any(one.is_cell for one in sides):
        print(
            "\nMeans over the seeds that completed, with 95 % t-intervals; B - A over the seeds "
            "that both have, pair by pair."
        )
    for one in sides:
        for reason in one.unread:
            print(printable(reason))


def configuration(sides: Sequence[Side]) -> list[list[str]]:
    """Key and both values, of the keys that differ."""
    keys = dict.fromkeys(k for one in sides for r in one.records.values() for k in r.config)
    several = any(one.is_cell for one in sides)
    found = []
    for key in keys:
        if key in WHERE or (key == "seed" and several):
            continue
        values = [_joined(r.config.get(key) for r in one.records.values()) for one in sides]
        if values[0] != values[1]:
            found.append([printable(key), *values])
    return found


def outcome(sides: Sequence[Side]) -> list[list[str]]:
    """Status, then every quantity that either has: A, B, B − A."""
    epochs = [_joined(record.epochs_done for record in one.records.values()) for one in sides]
    lines = [["status", *map(_status, sides), ""], ["epochs", *epochs, ""]]
    for quantity in QUANTITIES:
        values = [_measured(one, quantity) for one in sides]
        if not any(values):
            continue
        a, b = values
        if all(one.is_cell for one in sides):
            changes = [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]
        else:
            changes = [_mean(b) - _mean(a)] if a and b else []
        texts = [_estimate(list(each.values()), quantity.text) for each in values]
        change = _estimate(changes, quantity.text)
        if changes and not change.startswith("-"):
            change = f"+{change}"
        lines.append([quantity.name, *texts, change])
    seconds = [sum(s.seconds for r in one.records.values() for s in r.sessions) for one in sides]
    return [*lines, ["time trained", *map(duration, seconds), ""]]


def circumstances(sides: Sequence[Side]) -> list[list[str]]:
    """Devices, versions and code where they differ: they are no part of the configuration."""
    asked: list[tuple[str, Callable[[Session], Any]]] = [
        ("device", lambda session: session.device),
        ("precision", lambda session: session.precision),
        ("threads", lambda session: session.threads),
        ("code", _code),
    ]
    names = sorted({n for one in sides for s in _sessions(one) for n in s.versions})
    asked += [(name, functools.partial(_version, name)) for name in names]
    found = []
    for name, ask in asked:
        values = [_joined(ask(session) for session in _sessions(one)) for one in sides]
        if values[0] != values[1]:
            found.append([name, *values])
    return found


def _version(name: str, session: Session) -> str | None:
    return session.versions.get(name)


def _code(session: Session) -> str:
    return " + ".join(filter(None, (session.git.get("commit"), session.git.get("uncommitted"))))


def _sessions(one: Side) -> list[Session]:
    return [session for record in one.records.values() for session in record.sessions]


def _joined(values: Iterable[Any]) -> str:
    texts = dict.fromkeys("" if value is None else printable(number(value)) for value in values)
    return " | ".join(text for text in texts if text)


def _status(one: Side) -> str:
    statuses = [record.status for record in one.records.values()]
    if not one.is_cell:
        return statuses[0]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def _measured(one: Side, quantity: Quantity) -> dict[int, float]:
    """By seed. Of a cell only the runs that completed, of a run whatever it has reached."""
    found = {
        seed: quantity.value(record)
        for seed, record in one.records.items()
        if record.status == "completed" or not (one.is_cell or record.status == "diverged")
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def _estimate(values: Sequence[float], text: Callable[[float], str]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return text(values[0])
    from resnet_cifar.runs.statistics import estimate

    found = estimate(values)
    return f"{text(found.mean)} ± {text(found.half_width)} (n={found.n})"
