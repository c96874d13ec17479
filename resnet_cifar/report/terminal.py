"""A report in a terminal: sentences and the main tables; the rest is in the files."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markdown import Markdown
from rich.table import Table as RichTable
from rich.text import Text

from resnet_cifar.report.document import Report, Table
from resnet_cifar.text import printable

WORD_WIDTH = 20  # of a column of words, at least, where a table has to be narrow
_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Print all but the pictures and the tables that are too much for a terminal."""
    console.print(Text(printable(report.subtitle)))
    for part in report.parts:
        if isinstance(part, str):
            console.print(Markdown(part), soft_wrap=False)
        elif isinstance(part, Table) and not part.detail:
            _print_table(part, console)


def _print_table(table: Table, console: Console) -> None:
    """Print a table; one that is too wide in parts.

    Every part begins with the columns that tell the rows apart. A number is never broken, words may
    take several lines of `WORD_WIDTH`.
    """
    left = list(map(table.is_left, table.columns))
    rows = [list(map(printable, table.columns)), *table.rows()]
    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) + 3 for column in columns]
    widths = [min(w, WORD_WIDTH + 3) if word else w for w, word in zip(widths, left, strict=True)]
    first = 1
    while first < len(left) and left[first] and sum(widths[: first + 1]) <= console.width / 2:
        first += 1
    parts = [list(range(first))]
    for i in range(first, len(columns)):
        if sum(widths[j] for j in [*parts[-1], i]) + 1 > console.width and len(parts[-1]) > first:
            parts.append(list(range(first)))
        parts[-1].append(i)
    for positions in parts:
        shown = RichTable()
        for i in positions:
            title = Text(columns[i][0])  # as a string it would be read as markup
            justify: JustifyMethod = "left" if left[i] else "right"
            shown.add_column(title, justify=justify, overflow="fold", no_wrap=not left[i])
        for row in zip(*(columns[i][1:] for i in positions), strict=True):
            shown.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
        console.print(shown)
