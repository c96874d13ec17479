"""Text for people and programs: durations, printable lines, consoles, tables, JSON and CSV."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import json
import math
import operator
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import Struct, ValidationError
    from rich.console import Console


LONG = 3600.0  # seconds; what is expected to take longer says so before it starts


def duration(seconds: float) -> str:
    """Write a duration to plan by: 45 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size * (1.0 if unit != "min" else 1.5):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def long_line(what: str, seconds: float) -> str:
    """Say that something takes longer than LONG here, and what takes less."""
    time = f"{what} takes about {duration(seconds)} here; Ctrl-C saves, the same command goes on"
    return f"{time}. Shorter: add model.width=16 trainer.epochs=15 data=synthetic, or some of these"


def printable(text: str) -> str:
    """Fold `text` into one line, control characters written out: it may be from anybody's file.

    An escape sequence would be obeyed by a terminal, and half a surrogate pair, a file name's
    undecodable byte, can be written nowhere.
    """
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """Write out what can't be seen in `text`, as Python does: `\\x1b`, `\\udcff`."""
    return "".join(  # a wide or no-break space is part of a name
        c if c.isprintable() or (c > "\x9f" and c.isspace()) else repr(c)[1:-1] for c in text
    )


PATHS = ("directory", "image", "path")  # the columns of a CSV that lead to files


def csv_field(value: Any, path: bool = False) -> Any:
    """Write a field of a CSV so that no terminal and no spreadsheet obeys it; numbers stay.

    What can't be seen is written out as by `visible`, and a backslash as two (on Windows only
    beside it), so that `unicode_escape` gives it back. Before what a spreadsheet takes for a
    formula, and before the mark itself, stands `'`; before a `path` `./`: the same file.
    """
    if not isinstance(value, str):
        return value
    plain = value.isprintable() and ("\\" not in value or os.sep == "\\")
    text = value if plain else visible(value.replace("\\", "\\\\"))
    if text.lstrip()[:1] in tuple("=+-@'＝＋－＠"):
        return f"./{text}" if path else f"'{text}"
    return text


_WORDS = {
    "array": "a list [ ]",
    "object": "a mapping",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing (null)",
}


def explain_mismatch(
    error: ValidationError, value: Any, kind: type[Struct]
) -> tuple[list[str | int], Any, str]:
    """Take msgspec's complaint about `value` apart: path to the fault, what is there, what may be.

    Of a `value` that is no `kind` it says "Expected `int`, got `str` - at `$.sessions[0].threads`".
    """
    import msgspec

    problem, _, at = str(error).partition(" - at `")
    steps = re.findall(r"\.(\w+)|\[(\d+)\]|\[(\.\.\.)\]", at)
    path: list[str | int] = []
    here = value
    try:
        for name, index, any_key in steps:
            part = _find_key(error, value, path, kind) if any_key else int(index) if index else name
            path.append(part)
            here = here[part]
    except (LookupError, TypeError):  # an unknown key that looks like a path
        return [], value, str(error)
    if field := re.fullmatch(r"Object .* (required|unknown) field `(.*)`", problem, re.DOTALL):
        known = ", ".join(kind.__struct_fields__) if not path else ""
        unknown = f"left out: the keys here are {known}" if known else "left out: no such key"
        allowed = "given" if field[1] == "required" else unknown
        return [*path, field[2]], here.get(field[2]), allowed
    if expected := re.match(r"Expected `([^`]*)`(?: of length (>= )?(\d+))?", problem):
        names = " or ".join(_WORDS.get(name, name) for name in expected[1].split(" | "))
        if names == "a mapping" and not path:
            required = [each.name for each in msgspec.structs.fields(kind) if each.required]
            names += f" with {', '.join(required)}"
        least = " or more" if expected[2] else ""
        return path, here, names + (f" of {expected[3]}{least}" if expected[3] else "")
    return path, here, problem


def _find_key(error: ValidationError, whole: Any, path: list[Any], kind: type[Struct]) -> str:
    """Find the key of the mapping at `path` that the error is about: to msgspec any is `[...]`."""
    import msgspec

    whole = copy.deepcopy(whole)
    mapping = functools.reduce(operator.getitem, path, whole)
    for key, value in dict(mapping).items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(whole, kind)
        except msgspec.ValidationError as again:
            if str(again) == str(error):
                return str(key)
    raise LookupError


def wide_console() -> Console:
    """Make a console for tables: as wide as the terminal, or without one 200 columns.

    rich assumes 80 columns for a file or a pipe, too few for the name of a cell.
    """
    from rich.console import Console

    # Text is text: no [markup] and no :emoji: in what people have named.
    width = None if on_terminal() else 200
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def terminal_width() -> float:
    """Characters of a line of the terminal; infinite where standard output is none."""
    return wide_console().width if on_terminal() else math.inf


def on_terminal() -> bool:
    """True if standard output is a terminal. There may be none at all (`>&-`, pythonw)."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_table(
    heads: Sequence[str],
    lines: Iterable[Sequence[str]],
    numbers: Collection[str] = (),
    folded: int = -1,
) -> None:
    """Print a table: on a terminal as wide as fits, elsewhere as plain lines, `-` for no value.

    On a terminal `numbers`, by their heads, are set right, and the column at `folded`, if it holds
    words, takes several lines where there is little room.
    """
    heads, *lines = [list(map(visible, line)) for line in (heads, *lines)]
    if not on_terminal():
        plain = [heads, *([field or "-" for field in line] for line in lines)]
        widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
        for line in plain:
            print("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        folds = head == heads[folded] and head not in numbers
        table.add_column(
            Text(head),
            justify="right" if head in numbers else "left",
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",  # a number is never cut without a mark
        )
    for line in lines:
        table.add_row(*map(Text, line))
    wide_console().print(table)


def print_json(value: object) -> None:
    """Print `value` for programs; accuracies are fractions."""
    print(json.dumps(value, indent=1))


def print_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the `columns` of `rows` for programs, as `csv_field`; nothing for what a row lacks."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(csv_field, columns))
    writer.writerows([csv_field(row.get(key), key in PATHS) for key in columns] for row in rows)


@contextlib.contextmanager
def no_backend() -> Iterator[None]:
    """Import matplotlib inside: MPLBACKEND may name a backend that is not installed here.

    Figures need none; the pictures of the notebook they are shown in may.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    yield
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            sys.modules["matplotlib"].rcParams["backend"] = backend
