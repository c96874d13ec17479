"""Runs as a list, for people and for programs: its columns, rows and order. No torch here.

A run is a flat row. Whatever stands in it can be shown, sorted by and selected by: the
configuration's keys, the last epoch's metrics (`accuracy/val`), `status`, `seed`, `age`, …
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import fnmatch
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_cifar.errors import UserError
from resnet_cifar.identity import number, varying_keys
from resnet_cifar.record.schema import RunRecord

Row = dict[str, Any]
ALWAYS = ("directory", "cell", "seed", "status", "damaged", "error", "epochs_done", "epochs")
LAST = ("size", "age", "ended")


def row(
    directory: Path, status: str, record: RunRecord | str, damaged: bool, size: int, age: float
) -> Row:
    """One run.

    Args:
        record: or why it can't be read.
        size: bytes.
        age: seconds since the record was last brought up to date.
    """
    seed = directory.name.removeprefix("seed=")
    found: Row = dict.fromkeys(ALWAYS)
    found |= {"directory": str(directory), "cell": directory.parent.name, "status": status}
    found |= {"seed": int(seed) if seed.isdecimal() else seed, "damaged": damaged}
    if isinstance(record, str):
        found["error"] = record
    else:
        found |= {"cell": record.cell, "error": record.error}
        found |= {"epochs_done": record.epochs_done, "epochs": record.epochs}
        found |= {key: value for key, value in record.config.items() if key not in found}
        final, best = record.final or {}, record.best or {}
        found |= {key: value for key, value in final.items() if "/" in key}
        found["last/lr"] = final.get("lr")  # `lr` alone is the optimizer's
        found |= {f"best/{key}": value for key, value in best.items()}
        found |= {"device": record.device, "parameters": record.parameters}
        found["seconds"] = round(sum(session.seconds for session in record.sessions), 1)
        found["images_per_second"] = next(
            (s.images_per_second for s in reversed(record.sessions) if s.images_per_second), None
        )
    ended = None if isinstance(record, str) else record.ended
    return found | {"size": size, "age": round(age), "ended": ended}


# Rows --------------------------------------------------------------------------------------------


def key_of(name: str, rows: Sequence[Row]) -> str:
    """A key as people write it: whole, or its last part where no other ends so (`lr`).

    Raises:
        UserError: no run has such a key, or several keys end so.
    """
    known = dict.fromkeys(key for each in rows for key in each)
    tails = [key for key in known if key.rpartition(".")[2] == name]
    if name in known or len(tails) == 1 or not rows:
        return name if name in known or not rows else tails[0]
    if tails:
        raise UserError(f"{name} may be {' or '.join(tails)}: give the whole key")
    close = difflib.get_close_matches(name, [*known, *(k.rpartition(".")[2] for k in known)], n=1)
    raise UserError(
        f"no run has {name!r}"
        + (f": did you mean {close[0]}?" if close else "; --json shows every key there is")
    )


def where(rows: Sequence[Row], conditions: Iterable[str]) -> list[Row]:
    """The rows that meet every `key=value`; `key=a,b` is either, text may have * and ?.

    Raises:
        UserError: it is not of this form, or no run has the key.
    """
    left = list(rows)
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals or not name:
            raise UserError(f"--where {condition}: not of the form key=value")
        key = key_of(name, rows)
        left = [r for r in left if key in r and any(_meets(r[key], t) for t in text.split(","))]
    return left


def _meets(value: Any, text: str) -> bool:
    if value is None:
        return text.lower() in ("null", "none", "")
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, (int, float)):
        try:
            return float(text) == value
        except ValueError:
            return False
    return fnmatch.fnmatchcase(str(value), text)


def in_order(rows: Sequence[Row], name: str, reverse: bool) -> list[Row]:
    """Sorted by a key, numbers before text; rows without a value are last in either order."""
    key = key_of(name, rows)
    there = [each for each in rows if each.get(key) is not None]
    without = [each for each in rows if each.get(key) is None]

    def place(each: Row) -> tuple[bool, Any]:
        return isinstance(each[key], str), each[key]

    return sorted(there, key=place, reverse=reverse) + without


# Columns -----------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of the table."""

    head: str
    text: Callable[[Row], str]
    words: bool = False  # else it is set flush right


def columns(rows: Sequence[Row], configs: Sequence[Mapping[str, Any]]) -> list[Column]:
    """What the runs differ in, then how they went; their names, which say it all again, last.

    Args:
        configs: the runs' flat configurations, of those that have one.
    """
    execution = execution_keys()
    varying = varying_keys([{k: v for k, v in c.items() if k not in execution} for c in configs])
    varying.pop("trainer.epochs", None)  # the epochs done are shown of how many
    varying.setdefault("seed", "seed")
    return [
        *(Column(short, _shown(key), _has_words(key, rows)) for key, short in varying.items()),
        Column("status", _status, words=True),
        Column("epochs", _epochs),
        Column("val %", _shown("accuracy/val")),
        Column("augm. %", _shown("accuracy/val_augmented")),
        Column("size", _shown("size")),
        Column("age", _shown("age")),
        Column("cell", _shown("cell"), words=True),
    ]


def chosen(rows: Sequence[Row], names: str) -> tuple[list[str], list[Column]]:
    """The keys, and the columns, of `--columns a,b`. Raises UserError as `key_of`."""
    keys = [key_of(name.strip(), rows) for name in names.split(",") if name.strip()]
    if not keys:
        raise UserError(f"--columns {names!r}: give keys, with a comma between them")
    return keys, [Column(key, _shown(key), _has_words(key, rows)) for key in keys]


def _has_words(key: str, rows: Sequence[Row]) -> bool:
    return any(isinstance(each.get(key), str) for each in rows)


@functools.cache
def execution_keys() -> frozenset[str]:
    """The configuration's keys that only say where and how a result is computed."""
    from resnet_cifar.config.schema import Config, groups

    parts = [(f"{group}.", option) for group, options in groups().items() for option in options]
    return frozenset(
        prefix + field.name
        for prefix, part in [("", Config), *parts]
        for field in dataclasses.fields(part)
        if field.metadata.get("execution")
    )


def _shown(key: str) -> Callable[[Row], str]:
    return functools.partial(_text, key)


def _text(key: str, each: Row) -> str:
    from resnet_cifar.text import duration, printable

    value = each.get(key)
    if value is None:
        return ""
    if key.rpartition("best/")[2].startswith("accuracy/"):
        return f"{100 * value:.2f}"
    if key == "size":
        return size(value)
    if key == "age":
        return duration(value)
    return printable(number(value))


def _status(each: Row) -> str:
    return f"{each['status']}, damaged" if each["damaged"] else str(each["status"])


def _epochs(each: Row) -> str:
    return "" if each["epochs"] is None else f"{each['epochs_done']}/{each['epochs']}"


def size(count: float) -> str:
    """Decimal units: 45 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


# Output ------------------------------------------------------------------------------------------


LESS = ("size", "age", "cell", "augm. %")  # what is left out where a terminal is narrow, in order
NAME_WIDTH = 20  # characters, at least, for a cell's name to be folded into


def show(rows: Sequence[Row], shown: Sequence[Column]) -> None:
    """A line a run; on a narrow terminal without the columns that people miss least."""
    lines = {column: [column.text(each) for each in rows] for column in shown}
    left_out = _too_wide({column.head: texts for column, texts in lines.items()})
    kept = [column for column in shown if column.head not in left_out]
    print_table(
        [column.head for column in kept],
        list(zip(*(lines[column] for column in kept), strict=True)),
        [column.words for column in kept],
    )
    if left_out:
        print(f"not at this width: {', '.join(left_out)}; --columns picks, a pipe has them all")


def _too_wide(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """The heads of columns to leave out so that the others fit."""
    from resnet_cifar.text import on_terminal, wide_console

    widths = {head: max(map(len, (head, *column))) for head, column in texts.items()}
    if "cell" in widths:
        widths["cell"] = min(widths["cell"], NAME_WIDTH)
    left_out: list[str] = []
    for head in LESS if on_terminal() else ():
        if sum(widths.values()) + 2 * len(widths) <= wide_console().width:
            break
        if widths.pop(head, None) is not None:
            left_out.append(head)
    return left_out


def print_table(
    heads: Sequence[str], lines: Sequence[Sequence[str]], words: Sequence[bool]
) -> None:
    """A table on a terminal, its last column folded; elsewhere plain lines, `-` for no value."""
    from resnet_cifar.text import on_terminal, wide_console

    if not on_terminal():
        plain = [heads, *([field or "-" for field in line] for line in lines)]
        widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
        for line in plain:
            cells = (field.ljust(width) for field, width in zip(line, widths, strict=True))
            print("  ".join(cells).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, (head, left) in enumerate(zip(heads, words, strict=True)):
        name = left and position == len(heads) - 1
        table.add_column(
            Text(head),
            justify="left" if left else "right",
            no_wrap=not name,
            overflow="fold" if name else "ellipsis",  # a number is never cut without a mark
        )
    for line in lines:
        table.add_row(*map(Text, line))
    wide_console().print(table)


def print_json(rows: Sequence[Row], keys: Sequence[str] | None = None) -> None:
    """A list of flat objects, whole or of `keys`; accuracies are fractions."""
    picked = [each if keys is None else {key: each.get(key) for key in keys} for each in rows]
    print(json.dumps(picked, indent=1))


def print_csv(rows: Sequence[Row], keys: Sequence[str] | None = None) -> None:
    """A table for programs: the keys of all rows, or `keys`; accuracies are fractions."""
    names = list(keys or dict.fromkeys(key for each in rows for key in each))
    ends = [name for name in LAST if name in names and keys is None]
    names = [name for name in names if name not in ends] + ends
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
