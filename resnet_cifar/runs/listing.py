"""Runs as a list, for people and for programs: its columns, rows and order. No torch here.

A run is a flat row. Whatever stands in it can be shown, sorted by and selected by: the
configuration's keys, the last epoch's metrics (`accuracy/val`), `status`, `seed`, `age`, …
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from resnet_cifar.errors import UserError
from resnet_cifar.identity import number, varying_keys
from resnet_cifar.runs.row import LAST, Row
from resnet_cifar.text import duration, print_table, printable, terminal_width

# Rows --------------------------------------------------------------------------------------------


def match_key(name: str, rows: Sequence[Row]) -> str:
    """A key as people write it: whole, or its last part where no other ends so (`lr`).

    Raises:
        UserError: no run has such a key, or several keys end so.
    """
    known = dict.fromkeys(key for row in rows for key in row)
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


def filter_rows(rows: Sequence[Row], conditions: Iterable[str]) -> list[Row]:
    """The rows that meet every `key=value`; `key=a,b` is either, text may have * and ?.

    Raises:
        UserError: it is not of this form, or no run has the key.
    """
    left = list(rows)
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not equals or not name:
            raise UserError(f"--where {condition}: not of the form key=value")
        key = match_key(name, rows)
        wanted = values.split(",")
        left = [row for row in left if key in row and any(_equals(row[key], w) for w in wanted)]
    return left


def _equals(value: Any, wanted: str) -> bool:
    if value is None:
        return wanted.lower() in ("null", "none", "")
    if isinstance(value, bool):
        return wanted.lower() == str(value).lower()
    if isinstance(value, (int, float)):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return fnmatch.fnmatchcase(str(value), wanted)


def sort_rows(rows: Sequence[Row], name: str, reverse: bool) -> list[Row]:
    """Sorted by a key, numbers before text; rows without a value are last in either order."""
    key = match_key(name, rows)
    known = [row for row in rows if row.get(key) is not None]
    unknown = [row for row in rows if row.get(key) is None]

    def rank(row: Row) -> tuple[bool, Any]:
        return isinstance(row[key], str), row[key]

    return sorted(known, key=rank, reverse=reverse) + unknown


# Columns -----------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of the table."""

    head: str
    show: Callable[[Row], str]
    words: bool = False  # else it is set flush right


def default_columns(rows: Sequence[Row], configs: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of what the runs differ in, then of how they went; their names last.

    Args:
        configs: the runs' flat configurations, of those that have one.
    """
    from resnet_cifar.config.keys import execution_keys

    execution = execution_keys()
    varying = varying_keys([{k: v for k, v in c.items() if k not in execution} for c in configs])
    varying.pop("trainer.epochs", None)  # the epochs done are shown of how many
    varying.setdefault("seed", "seed")
    return [
        *(_make_column(key, short, rows) for key, short in varying.items()),
        Column("status", _show_status, words=True),
        Column("epochs", _show_epochs),
        _make_column("accuracy/val", "val %"),
        _make_column("accuracy/val_augmented", "augm. %"),
        _make_column("size", "size"),
        _make_column("age", "age"),
        Column("cell", _show_cell, words=True),
    ]


def chosen_columns(rows: Sequence[Row], names: str) -> dict[str, Column]:
    """By key, the columns of `--columns a,b`. Raises UserError as `match_key`."""
    keys = [match_key(name.strip(), rows) for name in names.split(",") if name.strip()]
    if not keys:
        raise UserError(f"--columns {names!r}: give keys, with a comma between them")
    return {key: _make_column(key, key, rows) for key in keys}


def _make_column(key: str, head: str, rows: Sequence[Row] = ()) -> Column:
    words = any(isinstance(row.get(key), str) for row in rows)
    return Column(head, functools.partial(_show_value, key), words)


def _show_value(key: str, row: Row) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if key.removeprefix("best/").startswith("accuracy/"):
        return f"{100 * value:.2f}"
    if key == "size":
        return format_size(value)
    if key == "age":
        return duration(value)
    return printable(number(value))


def _show_status(row: Row) -> str:
    return f"{row['status']}, damaged" if row["damaged"] else str(row["status"])


def _show_cell(row: Row) -> str:
    """The cell's name; of what does not lie in `<cell>/seed=<n>`, a copy for one, the directory."""
    in_place = row["directory"].endswith(f"{row['cell']}/seed={row['seed']}")
    return printable(row["cell" if in_place else "directory"])


def _show_epochs(row: Row) -> str:
    return "" if row["epochs"] is None else f"{row['epochs_done']}/{row['epochs']}"


def format_size(count: float) -> str:
    """Bytes in decimal units: 45 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


# Output ------------------------------------------------------------------------------------------


LESS = ("size", "age", "cell", "augm. %")  # what is left out where a terminal is narrow, in order
NAME_WIDTH = 20  # characters, at least, for a cell's name to be folded into


def print_rows(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Print a line a run; on a narrow terminal without the columns that people miss least."""
    fields = {column: [column.show(row) for row in rows] for column in columns}
    left_out = _choose_left_out({column.head: texts for column, texts in fields.items()})
    kept = [column for column in columns if column.head not in left_out]
    print_table(
        [column.head for column in kept],
        list(zip(*(fields[column] for column in kept), strict=True)),
        [column.words for column in kept],
    )
    if left_out:
        print(f"not at this width: {', '.join(left_out)}; --columns picks, a pipe has them all")


def _choose_left_out(fields: Mapping[str, Sequence[str]]) -> list[str]:
    """The heads of columns to leave out so that the others fit."""
    width = terminal_width()
    widths = {head: max(map(len, (head, *column))) for head, column in fields.items()}
    if "cell" in widths:
        widths["cell"] = min(widths["cell"], NAME_WIDTH)
    left_out: list[str] = []
    for head in LESS if width is not None else ():
        if sum(widths.values()) + 2 * len(widths) <= (width or 0):
            break
        if widths.pop(head, None) is not None:
            left_out.append(head)
    return left_out


def csv_columns(rows: Sequence[Row]) -> list[str]:
    """The keys of all rows; those that every row ends with are last."""
    names = dict.fromkeys(key for row in rows for key in row)
    return [*(name for name in names if name not in LAST), *(n for n in LAST if n in names)]
