"""Text for people and programs: durations, printable lines, consoles, tables, JSON and CSV."""

import contextlib
import csv
import json
import math
import os
import re
import sys
import textwrap
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


def long_line(what: str, seconds: float, shorter: Iterable[str]) -> str:
    """Say that something takes longer than LONG here, and the overrides that take less."""
    time = f"{what} takes about {duration(seconds)} here; Ctrl-C saves, the same command goes on"
    ways = " ".join(dict.fromkeys(shorter))
    return f"{time}. Shorter: add {ways}, or some of these" if ways else time


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


WORD_WIDTH = 18  # characters of a column of words, at least, where a table has little room
# TensorBoard smooths unless told otherwise, and a smoothed curve does not end at its last value.
CURVES = "http://localhost:6006/?smoothing=0#timeseries"
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
    error: "ValidationError", value: Any, kind: "type[Struct]"
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
            part = _find_key(error, value, here, kind) if any_key else int(index) if index else name
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


def _find_key(error: "ValidationError", whole: Any, mapping: Any, kind: "type[Struct]") -> str:
    """Find the key, `[...]` to msgspec, that the error is about; the mapping keeps no other."""
    import msgspec

    for key, value in dict(mapping).items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(whole, kind)
        except msgspec.ValidationError as again:
            if str(again) == str(error):
                return str(key)
    raise LookupError


def wide_console() -> "Console":
    """Make a console for tables: as wide as the terminal, or without one 200 columns."""
    from rich.console import Console

    # Text is text: no [markup] and no :emoji: in what people have named.
    width = None if on_terminal() else 200  # rich's own 80 are too few for the name of a cell
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def terminal_width() -> float:
    """Characters of a line of the terminal; infinite where standard output is none."""
    return wide_console().width if on_terminal() else math.inf


def on_terminal() -> bool:
    """True if standard output is a terminal. There may be none at all (`>&-`, pythonw)."""
    return sys.stdout is not None and sys.stdout.isatty()


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" + "s" * (count != 1)


def print_table(
    heads: Sequence[str],
    lines: Iterable[Sequence[str]],
    numbers: Collection[str] = (),
    cut: bool = False,
    more: str = "a wider window or a pipe shows all",
) -> None:
    """Print a table: on a terminal as wide as fits, elsewhere as plain lines, `-` for no value.

    On a terminal `numbers`, by their heads, are set right and stay whole. Where there is little
    room words take several lines or, with `cut`, lose their middle; at last columns are left out
    from the right, and a line says which, and what shows `more`.
    """
    rows = [list(map(visible, line)) for line in (heads, *lines)]
    if not on_terminal():
        rows[1:] = [[field or "-" for field in row] for row in rows[1:]]
        lengths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(map(str.ljust, row, lengths)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    console = wide_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns = [list(column) for column in zip(*rows, strict=True)]
    words = [head not in numbers for head in heads]
    widths = _fit(columns, words, console.width)
    for column, are_words, width in zip(columns, words, widths, strict=False):
        if cut and are_words:
            column[1:] = cut_middles(column[1:], width)
        table.add_column(Text(column[0]), width=width, no_wrap=cut or not are_words)
        table.columns[-1].justify = "left" if are_words else "right"
        table.columns[-1].overflow = "ellipsis" if cut else "fold"
    for line in [*zip(*columns[: len(widths)], strict=True)][1:]:
        table.add_row(*map(Text, line))
    console.print(table)
    if left_out := heads[len(widths) :]:
        note = f"{plural(len(left_out), 'more column')}: {', '.join(left_out)}; {more}"
        print(textwrap.fill(visible(note), console.width))


def _fit(columns: list[list[str]], words: list[bool], room: int) -> list[int]:
    """The widths of the columns that fit; where not all do as they are, heads get more lines."""
    from rich.cells import cell_len

    whole = [max(map(cell_len, column)) for column in columns]
    if sum(whole) + 2 * len(whole) - 2 <= room:
        return whole
    widths = []
    for column, are_words in zip(columns, words, strict=True):
        column[0] = re.sub(r"([_./])(?=\w)", "\\1\n", column[0])
        value = max(map(cell_len, ("", *column[1:])))
        least = min(value, WORD_WIDTH) if are_words else value
        widths.append(max(least, *map(cell_len, column[0].split("\n"))))
    while len(widths) > 1 and sum(widths) + 2 * len(widths) - 2 > room:
        widths.pop()
    room -= sum(widths) + 2 * len(widths) - 2
    for i, width in enumerate(widths):
        widths[i] += max(0, min(room, whole[i] - width)) if words[i] else 0
        room -= widths[i] - width
    return widths


def cut_middles(texts: Sequence[str], width: int) -> list[str]:
    """Texts of at most `width` characters: without their middle where they are longer.

    The hash at the end of cells' names goes first, where the rest tells them apart; then whatever
    leaves most texts different.
    """
    if max(map(len, texts), default=0) <= width:
        return list(texts)
    bare = [re.sub(r"-[0-9a-f]{8}$", "", text) for text in texts]
    texts = bare if len(set(bare)) == len(set(texts)) else texts
    begins = sorted(range(width - 1), key=lambda begin: abs(2 * begin + 1 - width))
    ends = [(begin, begin + 1 - width) for begin in begins]
    ways = ([t if len(t) <= width else f"{t[:a]}…{t[b:]}" for t in texts] for a, b in ends)
    return max(ways, key=lambda way: len(set(way)))


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
