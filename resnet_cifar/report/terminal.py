"""A report in a terminal: the first screen and the main table of each question."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import accumulate

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markdown import Markdown
from rich.table import Table as RichTable
from rich.text import Text

from resnet_cifar.report.document import MARKS, Fold, Item, Part, Report, Table
from resnet_cifar.text import printable

WORD_WIDTH = 16  # of a column of words, at least, where a table has to be narrow
MOST_ITEMS = 5  # of what is folded
_STYLES = {"holds": "green", "differs": "green", "does not hold": "red", "undecided": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Print the first screen, and of each question its first table; the page has the rest."""
    console.print(Text(printable(report.subtitle)))
    _print_parts(report.parts, console)


def _print_parts(parts: Iterable[Part], console: Console) -> None:
    for part in parts:
        match part:
            case str():
                console.print(Markdown(part), soft_wrap=False)
            case list():
                _print_items(part, console)
            case Table():
                _print_table(part, console)
            case Fold(apart=False):
                title = Text.assemble("\n", (printable(part.title), "bold"), "  ")
                console.print(title + _mark(part.verdicts, "  "), soft_wrap=False)
                lists = [each for each in part.parts if isinstance(each, list)]
                tables = [each for each in part.parts if isinstance(each, Table)]
                # Of a question the first table, of what is folded the first lines.
                few: list[Part] = [*(each[:MOST_ITEMS] for each in lists), *tables[:1]]
                _print_parts(part.parts if part.level == 2 else few, console)
                _print_more(sum(len(each) - MOST_ITEMS for each in lists), "", console)


def _print_more(count: int, what: str, console: Console) -> None:
    if count > 0:
        console.print(Text(f"{count} more{what} in report.html", style="dim"))


def _mark(verdicts: Sequence[str], between: str = "\n") -> Text:
    marks = [Text(f"{MARKS[each]} {each}", style=_STYLES[each]) for each in verdicts]
    return Text(between).join(marks)


def _sentence(item: Item) -> Text:
    return Text.assemble(printable(item.sentence), ". ", (printable(item.grounds), "dim"))


def _print_items(items: Sequence[Item], console: Console) -> None:
    """Print a line for each claim, and those of its settings that disagree."""
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for item in items:
        grid.add_row(_mark(item.verdicts) if item.verdicts else Text("•"), _sentence(item))
        for each in item.items:
            if each.verdicts:
                grid.add_row("", Text("  ") + _mark(each.verdicts) + Text(" ") + _sentence(each))
    console.print(grid)


def _print_table(table: Table, console: Console) -> None:
    """Print a table as far as it fits; how many columns do not is said.

    No number is broken. Words take several lines, and a name is shortened in its middle.
    """
    columns = list(zip(map(printable, table.columns), *table.rows(), strict=True))
    left = list(map(table.is_left, table.columns))
    # A title may take several lines.
    most = [max(map(cell_len, [*title.split(), *texts])) for title, *texts in columns]
    widths = [min(w, WORD_WIDTH) if word else w for w, word in zip(most, left, strict=True)]
    # Between two columns are three characters.
    room = [console.width - total - 3 * i for i, total in enumerate(accumulate(widths))]
    shown = max(1, sum(each >= 0 for each in room))
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    spare = max(0, room[shown - 1])
    for i in range(shown):
        more = min(most[i] - widths[i], spare)
        widths[i] += more
        spare -= more
        title = Text("\n".join(textwrap.wrap(columns[i][0], widths[i])))  # no markup
        side: JustifyMethod = "left" if left[i] else "right"
        grid.add_column(title, justify=side, width=widths[i], overflow="fold")
    for row in zip(*(column[1:] for column in columns[:shown]), strict=True):
        cells = map(_fit, row, widths)
        grid.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in cells))
    console.print(grid)
    hidden = len(columns) - shown
    _print_more(hidden, " columns" if hidden > 1 else " column", console)


def _fit(text: str, width: int) -> str:
    """The text, words that are longer than `width` shortened in their middle."""
    start, end = width // 2, (width - 1) // 2
    words = text.split(" ")
    return " ".join(w if cell_len(w) <= width else f"{w[:start]}…{w[-end:]}" for w in words)
