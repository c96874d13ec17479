"""A report in a terminal: headings, sentences and the main tables; the rest is in the files."""

from __future__ import annotations

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

_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Print all but the pictures and the tables that are too much for a terminal."""
    console.print(Text(printable(report.subtitle)))
    for part in report.parts:
        if isinstance(part, str):
            _print_markdown(part, console)
        elif isinstance(part, Table) and not part.detail:
            console.print(_make_table(part))


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


def _make_table(table: Table) -> RichTable:
    result = RichTable()
    for title in table.columns:
        words = title in table.words
        result.add_column(
            Text(printable(title)),  # as a string it would be read as markup
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
        )
    for row in table.rows():
        texts = map(printable, row)
        result.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    return result
