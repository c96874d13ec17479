"""Runs as a list, for people and for programs: its columns and order. No torch here.

Whatever stands in a run's row can be shown, sorted by and selected by.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from rich.filesize import decimal

from resnet_cifar.errors import UserError
from resnet_cifar.identity import number, varying_keys
from resnet_cifar.runs.find import STATUSES, Row, Run
from resnet_cifar.text import duration, print_table, printable, terminal_width

Column = tuple[str, list[str], bool]  # its head, a text a run, True if these are words, set left
LESS = ("size", "age", "cell", "augm. %")  # what is left out where a terminal is narrow, in order
NAME_WIDTH = 20  # characters, at least, for a cell's name to be folded into


def match_key(name: str, runs: Sequence[Run]) -> str:
    """A key as people write it: whole, or its last part where no other ends so (`lr`).

    Raises UserError where no run has such a key, or several keys end so.
    """
    known = dict.fromkeys(key for run in runs for key in run.row)
    if name in known or not runs:
        return name
    tails = {key: key.rpartition(".")[2] for key in known}
    meant = [key for key, tail in tails.items() if tail == name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(f"{name} may be {' or '.join(meant)}: give the whole key")
    close = difflib.get_close_matches(name, [*known, *tails.values()], n=1)
    hint = f": did you mean {close[0]}?" if close else "; --json shows every key there is"
    raise UserError(f"no run has {name!r}{hint}")


def meets(row: Row, key: str, values: str) -> bool:
    """True if a row has the key and one of the `values`: `a,b`; text may have * and ?.

    A list has commas of its own: [150,225],[1].
    """
    parts = values.split(",")
    spans = combinations(range(len(parts) + 1), 2)
    return key in row and any(_equals(row[key], ",".join(parts[a:b])) for a, b in spans)


def _equals(value: Any, wanted: str) -> bool:
    if value is None or isinstance(value, bool):
        return wanted.lower() in (number(value), str(value).lower())  # null and none
    if isinstance(value, (int, float)):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return value == wanted.replace(", ", ",") or fnmatch.fnmatchcase(str(value), wanted)


def sort_runs(runs: Sequence[Run], key: str, reverse: bool) -> list[Run]:
    """Sorted by a key, numbers before text; runs without a value are last in either order."""
    known = [run for run in runs if run.row.get(key) is not None]
    known.sort(key=lambda run: (isinstance(run.row[key], str), run.row[key]), reverse=reverse)
    return [*known, *(run for run in runs if run.row.get(key) is None)]


def make_column(key: str, head: str, runs: Sequence[Run]) -> Column:
    """The column of a key of the runs' rows."""
    values = [run.row.get(key) for run in runs]
    words = any(isinstance(value, str) for value in values)
    return head, [_show(key, value) for value in values], words


def _show(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key.removeprefix("best/").startswith("accuracy/"):
        return f"{100 * value:.2f}"
    if key == "size":
        return decimal(value)
    return duration(value) if key == "age" else printable(number(value))


def default_columns(runs: Sequence[Run]) -> list[Column]:
    """Columns of what the runs differ in, then of how they went; their names last."""
    from resnet_cifar.config.keys import execution_keys

    execution = execution_keys()
    configs = [run.record.config for run in runs if run.record]
    varying = varying_keys([{k: v for k, v in c.items() if k not in execution} for c in configs])
    varying.pop("trainer.epochs", None)  # the epochs done are shown of how many
    varying.setdefault("seed", "seed")
    statuses, epochs, names = [], [], []
    for row in (run.row for run in runs):
        statuses.append(row["status"] + (", damaged" if row["damaged"] else ""))
        epochs.append("" if row["epochs"] is None else f"{row['epochs_done']}/{row['epochs']}")
        # Of what does not lie in <cell>/seed=<n>, a copy for one, the directory is its name.
        in_place = row["directory"].endswith(f"{row['cell']}/seed={row['seed']}")
        names.append(printable(row["cell" if in_place else "directory"]))
    return [
        *(make_column(key, head, runs) for key, head in varying.items()),
        ("status", statuses, True),
        ("epochs", epochs, False),
        make_column("accuracy/val", "val %", runs),
        make_column("accuracy/val_augmented", "augm. %", runs),
        make_column("size", "size", runs),
        make_column("age", "age", runs),
        ("cell", names, True),
    ]


def print_runs(runs: Sequence[Run], columns: Sequence[Column] = ()) -> None:
    """Print a line a run, their sum and what is wrong with any; the default columns unless given.

    A narrow terminal goes without those of `LESS`.
    """
    columns = columns or default_columns(runs)
    widths = {head: max(map(len, (head, *texts))) for head, texts, _ in columns}
    widths |= {"cell": min(widths["cell"], NAME_WIDTH)} if "cell" in widths else {}
    left_out, width = [], terminal_width()
    for head in LESS:
        needed = sum(widths.values()) + 2 * len(widths)
        if needed > width and len(widths) > 1 and widths.pop(head, None) is not None:
            left_out.append(head)
    heads, texts, words = zip(*(c for c in columns if c[0] not in left_out), strict=True)
    numbers = [head for head, is_text in zip(heads, words, strict=True) if not is_text]
    print_table(heads, list(zip(*texts, strict=True)), numbers)
    if left_out:
        print(f"not at this width: {', '.join(left_out)}; --columns picks, a pipe has them all")
    counts = Counter(run.status for run in runs)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    total = decimal(sum(run.bytes for run in runs))
    print(f"{len(runs)} runs, {total}" + (f": {parts}" if parts else ""))
    for run in runs:
        if run.record is None and not run.closed:
            print(printable(run.problem))
        if run.record and run.record.error:
            print(printable(f"{run.path} failed: {run.record.error}"))
        for line in run.damaged:
            print(printable(line))
    print_repeats(runs)


def print_repeats(runs: Sequence[Run]) -> None:
    """Print a line for each run that is another's copy; `count_runs` has found them."""
    for run in runs:
        if run.left_out and run.record and not run.is_set_aside:
            print(printable(f"{run.path} is not counted: {run.left_out}"))
