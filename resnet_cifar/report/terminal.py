"""A report in a terminal: headings, sentences and the main tables; the rest is in the files."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from resnet_cifar.report.document import (
    MARKS,
    Report,
    Table,
    parse,
    plain_text,
    read_verdict,
)
from resnet_cifar.text import printable

WORD_WIDTH = 20  # of a column of words, at least, where a table has to be narrow
_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Print all but the pictures and the tables that are too much for a terminal."""
    console.print(Text(printable(report.subtitle)))
    for part in report.parts:
        if isinstance(part, str):
            _print_markdown(part, console)
        elif isinstance(part, Table) and not part.detail:
            rows = [list(map(printable, row)) for row in part.rows()]
            for positions in _split_columns(part, rows, console.width):
                console.print(_make_table(part, rows, positions))


def _print_markdown(markdown: str, console: Console) -> None:
    for block in parse(markdown):
        if block.type == "heading" and block.tag == "h2":
            console.print()
            console.print(Text(plain_text(block), style="bold underline"))
        elif block.type == "paragraph":
            console.print(Text(plain_text(block)), soft_wrap=False)
        elif block.type == "blockquote":
            for item in block.children[0].children:
                console.print(Text(plain_text(item), style="yellow"), soft_wrap=False)
        elif block.type == "bullet_list":
            for item in block.children:
                verdict, sentence, detail = read_verdict(item)
                mark = Text(f"{MARKS[verdict]} {verdict}", style=_STYLES[verdict])
                console.print(mark + Text(f"  {sentence}. {detail}"), soft_wrap=False)


def _split_columns(table: Table, rows: list[list[str]], width: int) -> list[list[int]]:
    """Positions of the columns of each part of a table that is too wide for the terminal.

    Every part begins with the columns that tell the rows apart. A number is never broken, words may
    take several lines of `WORD_WIDTH`.
    """
    titles = list(table.columns)
    widths = [max(map(cell_len, texts)) + 3 for texts in zip(titles, *rows, strict=True)]
    for position, title in enumerate(titles):
        if title in table.words:
            widths[position] = min(widths[position], WORD_WIDTH + 3)
    first = [0]
    while len(first) < len(titles) and titles[len(first)] in table.words:
        if sum(widths[: len(first) + 1]) > width / 2:
            break
        first.append(len(first))
    parts = [list(first)]
    for position in range(len(first), len(titles)):
        if sum(widths[i] for i in [*parts[-1], position]) + 1 > width and parts[-1] != first:
            parts.append(list(first))
        parts[-1].append(position)
    return parts


def _make_table(table: Table, rows: list[list[str]], positions: list[int]) -> RichTable:
    result = RichTable()
    for title in (list(table.columns)[position] for position in positions):
        words = title in table.words
        result.add_column(
            Text(printable(title)),  # as a string it would be read as markup
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
        )
    for row in rows:
        texts = [row[position] for position in positions]
        result.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    return result
