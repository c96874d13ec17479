"""Runs as a list, for people and for programs: its columns and order. No torch here."""

import difflib
import fnmatch
import operator
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from rich.filesize import decimal

from resnet_cifar.errors import UserError, shorten
from resnet_cifar.identity import COORDINATES, number, varying_keys
from resnet_cifar.runs.find import STATUSES, Row, Run
from resnet_cifar.text import duration, plural, print_table, printable, terminal_width

Column = tuple[str, list[str], bool]  # its head, a text a run, True if these are words, set left
# What else stands before a value in a condition than = and !=: for numbers.
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def match_key(name: str, rows: Sequence[Row]) -> str:
    """A key as people write it: `val` for accuracy/val, `loss` for loss/val, `lr` by its end.

    Raises UserError where no row has such a key, or several keys end so.
    """
    known = dict.fromkeys(key for row in rows for key in row)
    for key in (name, f"accuracy/{name}", f"{name}/val"):
        if key in known or not rows:
            return key
    tails = {key: key.rpartition(".")[2] for key in known}
    meant = [key for key, tail in tails.items() if tail == name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(f"{name} may be {' or '.join(meant)}: give the whole key")
    close = difflib.get_close_matches(name, [*known, *tails.values(), "val", "loss"], n=1)
    hint = f": did you mean {close[0]}?" if close else "; --json shows every key there is"
    raise UserError(f"no run has {name!r}{hint}")


def meets(row: Row, key: str, relation: str, values: str) -> bool:
    """True if a row's value has the `relation` to `values`; without the key it is null.

    Those are a number for `COMPARISONS`, else `a,b`, any of them; text may have * and ?. A list has
    commas of its own: [150,225],[1].
    """
    if relation in COMPARISONS:
        return is_number(row.get(key)) and COMPARISONS[relation](row[key], float(values))
    parts = values.split(",")
    spans = combinations(range(len(parts) + 1), 2)
    is_one = any(_equals(row.get(key), ",".join(parts[a:b]).strip()) for a, b in spans)
    return is_one == (relation == "=")


def is_number(value: Any) -> bool:
    """True for a number; to Python true is one, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equals(value: Any, wanted: str) -> bool:
    if value is None or isinstance(value, bool):
        return wanted.lower() in (number(value), str(value).lower())  # null and none
    if isinstance(value, (int, float)):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return value == wanted.replace(", ", ",") or fnmatch.fnmatchcase(str(value), wanted)


def sort_rows(rows: Sequence[Row], key: str, reverse: bool = False) -> list[Row]:
    """Accuracies with the best first, all else from small to large, numbers before text.

    `reverse` turns that round; rows without a value are last in either order.
    """
    known = [row for row in rows if row.get(key) is not None]
    falls = key.removeprefix("best/").startswith("accuracy")
    known.sort(key=lambda row: (isinstance(row[key], str), row[key]), reverse=reverse != falls)
    return [*known, *(row for row in rows if row.get(key) is None)]


def group_rows(runs: Sequence[Run], keys: Sequence[str]) -> list[Row]:
    """A row a group of the counted runs that agree in `keys`: what they share, how many ended how.

    And the mean of each metric over the `n` that completed, with half its 95 % t-interval where
    these are of one cell, and three or more.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    cells: dict[str, str] = {}  # by hash: one may be there under two labels
    for run in runs:
        if run.record and run.left_out is None:
            cell = cells.setdefault(run.record.key[0], run.record.cell)
            row = {**run.row, "cell": cell}  # a copy's directory has any name
            groups.setdefault(tuple(repr(row.get(key)) for key in keys), []).append(row)
    rows = []
    for group in groups.values():
        same = {key for key in group[0] if len({repr(each.get(key)) for each in group}) == 1}
        row = {key: value for key, value in group[0].items() if key in same and "/" not in key}
        ended = Counter(each["status"] for each in group)
        done = [each for each in group if each["status"] == "completed"]
        row |= {"cells": len({each["cell"] for each in group}), "n": len(done)}
        row |= {status: ended[status] for status in STATUSES[1:-1]}
        for key in dict.fromkeys(key for each in done for key in each if "/" in key):
            values = [each[key] for each in done if is_number(each.get(key))]
            if len(values) < len(done):  # a mean of fewer than the n it would stand beside
                row[key] = None
                continue
            row[key] = fmean(values)
            if len(values) > 2 and row["cells"] == 1 and key.startswith(("accuracy/", "loss/")):
                from resnet_cifar.runs.statistics import estimate  # takes a second: scipy

                row[f"{key}_interval"] = estimate(values).half_width
        rows.append(row)
    return rows


def make_column(key: str, head: str, rows: Sequence[Row]) -> Column:
    """The column of a key of the rows."""
    values = [row.get(key) for row in rows]
    words = any(isinstance(value, str) for value in values)
    return head, [_show(key, value) for value in values], words


def _show(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key.removeprefix("best/").startswith("accuracy"):
        return f"{100 * value:.2f}"
    if key == "size":
        return decimal(value)
    return duration(value) if key == "age" else printable(number(value))


def usual_columns(runs: Sequence[Run], rows: Sequence[Row], by: Sequence[str] = ()) -> list[Column]:
    """The columns of the `rows` of `runs`, or of their groups `by` keys; the result comes first."""
    from resnet_cifar.config.keys import execution_keys

    execution = execution_keys()
    configs = [run.record.config for run in runs if run.record]
    found = varying_keys([{k: v for k, v in c.items() if k not in execution} for c in configs])
    varying = {k: found[k] for k in (*COORDINATES, *found) if k in found and k != "seed"}
    shown = {"accuracy/val": "val %"}
    if by:
        some = [state for state in STATUSES if any(row.get(state) for row in rows)]
        shown |= {"accuracy/val_interval": "±", "n": "n"}
        shown |= varying if "cell" in by else {key: key for key in (*by, "cells")}
        shown |= dict(zip(some, some, strict=True))
    else:
        rows = list(map(_with_words, rows))
        varying.pop("trainer.epochs", None)  # the epochs done are shown of how many
        shown |= varying | {"seed": "seed", "status": "status", "done": "epochs"}
    shown |= {"accuracy/val_augmented": "augm. %", "cell": "cell"}
    shown |= {} if by else {"size": "size", "age": "age"}
    every = {key for row in rows for key in row} if by else shown
    return [make_column(key, head, rows) for key, head in shown.items() if key in every]


def _with_words(row: Row) -> Row:
    done = "" if row["epochs"] is None else f"{row['epochs_done']}/{row['epochs']}"
    # Of what does not lie in <cell>/seed=<n>, a copy for one, the directory is its name.
    in_place = row["directory"].endswith(f"{row['cell']}/seed={row['seed']}")
    status = row["status"] + ", damaged" * row["damaged"]
    return row | {"done": done, "status": status, "cell": row["cell" if in_place else "directory"]}


def print_runs(runs: Sequence[Run], columns: Sequence[Column] = ()) -> None:
    """Print a table, by default of a line a run, their sum and what is wrong with any."""
    columns = columns or usual_columns(runs, [run.row for run in runs])
    heads, texts, words = zip(*columns, strict=True)
    numbers = [head for head, is_text in zip(heads, words, strict=True) if not is_text]
    lines = zip(*texts, strict=True)
    print_table(heads, lines, numbers, cut=True, more="--columns picks, --csv has all")
    counts = Counter(run.status for run in runs)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    total = decimal(sum(run.bytes for run in runs))
    print(f"{plural(len(runs), 'run')}, {total}" + (f": {parts}" if parts else ""))
    for run in runs:
        if run.record is None and not run.closed:
            print(printable(run.problem))
        if run.record and run.record.error:
            path, cause = printable(str(run.path)), printable(run.record.error)
            if len(line := f"{path} failed: {cause}") > (width := terminal_width()):
                line = f"{path} failed (all of it: train.log):\n  {shorten(cause, int(width) - 2)}"
            print(line)
        for line in run.damaged:
            print(printable(line))
    print_repeats(runs)


def print_repeats(runs: Sequence[Run]) -> None:
    """Print a line for each run that is another's copy; `count_runs` has found them."""
    for run in runs:
        if run.left_out and run.record and not run.is_set_aside:
            print(printable(f"{run.path} is not counted: {run.left_out}"))
