"""A report as a list of blocks, and what it looks like in Markdown and in a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from resnet_cifar.report import canvas
from resnet_cifar.report.canvas import Figure
from resnet_cifar.runs.table import records
from resnet_cifar.text import printable

Row = dict[str, Any]


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Verdict:
    """What becomes of one claim."""

    verdict: str  # holds, does not hold, undecided
    sentence: str  # the claim
    detail: str  # the setting, and the differences behind the verdict


@dataclass(frozen=True)
class Verdicts:
    """The claims as sentences, each with its verdict as a mark."""

    items: tuple[Verdict, ...]


@dataclass(frozen=True)
class Notes:
    """What to know before believing a number: all warnings in one box."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Numbers as they are (`frame`, what goes into the CSV) and as people read them (`columns`)."""

    name: str  # of the CSV file
    frame: pd.DataFrame
    columns: dict[str, Callable[[Row], str]]  # title → cell text of a row
    caption: str = ""
    words: tuple[str, ...] = ()  # titles of the columns that hold words: set left
    detail: bool = False  # too much for a terminal

    def rows(self) -> list[list[str]]:
        return [[show(row) for show in self.columns.values()] for row in records(self.frame)]


@dataclass(frozen=True)
class Picture:
    name: str  # of the SVG and PNG files
    figure: Figure
    caption: str

    @cached_property
    def svg(self) -> str:
        return canvas.svg(self.figure)


@dataclass(frozen=True)
class Columns:
    """Blocks side by side where there is room: what the first screen shows."""

    left: list[Block]
    right: list[Block]


Block = Heading | Text | Table | Picture | Verdicts | Notes | Columns


@dataclass(frozen=True)
class Document:
    title: str
    subtitle: str  # of how many runs, when, and by which code
    blocks: list[Block]

    def flat(self) -> list[Block]:
        """The blocks one below the other."""
        flat: list[Block] = []
        for block in self.blocks:
            flat += [*block.left, *block.right] if isinstance(block, Columns) else [block]
        return flat

    def tables(self) -> list[Table]:
        return [block for block in self.flat() if isinstance(block, Table)]

    def pictures(self) -> list[Picture]:
        return [block for block in self.flat() if isinstance(block, Picture)]


MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}

# Markdown ----------------------------------------------------------------------------------------


def to_markdown(document: Document, figures_at: str = "figures", tables_at: str = "tables") -> str:
    """The document as Markdown; pictures and full-precision tables are linked files."""
    parts = [f"# {_markdown(document.title)}", _markdown(document.subtitle)]
    for block in document.flat():
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_markdown(text)}")
            case Text(text):
                parts.append(_markdown(text))
            case Verdicts(items):
                lines = (
                    f"- {MARKS[v.verdict]} **{v.verdict}**: {_markdown(v.sentence)}. "
                    f"{_markdown(v.detail)}"
                    for v in items
                )
                parts.append("\n".join(lines))
            case Notes(notes):
                parts.append("\n".join(f"> - {_markdown(note)}" for note in notes))
            case Columns():
                pass
            case Picture(name, _, caption):
                parts.append(f"![{_markdown(caption)}]({figures_at}/{name}.svg)")
                parts.append(f"*{_markdown(caption)}*")
            case Table():
                parts.append(_markdown_table(block))
                source = f"[CSV]({tables_at}/{block.name}.csv)"
                parts.append(f"{_markdown(block.caption)} {source}".strip())
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    titles = list(table.columns)
    rule = ["---" if title in table.words else "--:" for title in titles]
    lines = [[_markdown(text) for text in line] for line in (titles, *table.rows())]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown(text: str) -> str:
    """`text` so that Markdown shows it as it is, and no HTML in it is obeyed."""
    text = html.escape(printable(text), quote=False)
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word it means nothing
    return re.sub(r"^(#*|-*|=*|\d+)([-+#=.)])(?=\s|$)", r"\1\\\2", text)  # no list, no heading


# Terminal ----------------------------------------------------------------------------------------


def show(document: Document, console: Console) -> None:
    """Headings, sentences and the main tables; the rest is in the files."""
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    console.print(RichText(printable(document.subtitle)))
    for block in document.flat():
        match block:
            case Heading(text, 2):
                console.print()
                console.print(RichText(printable(text), style="bold underline"))
            case Text(text):
                console.print(RichText(printable(text)), soft_wrap=False)
            case Verdicts(items):
                for v in items:
                    mark = RichText(f"{MARKS[v.verdict]} {v.verdict}", style=_STYLES[v.verdict])
                    line = f"  {printable(v.sentence)}. {printable(v.detail)}"
                    console.print(mark + RichText(line), soft_wrap=False)
            case Notes(notes):
                for note in notes:
                    console.print(RichText(printable(note), style="yellow"), soft_wrap=False)
            case Table(detail=False):
                table = RichTable(title=None)
                for name in block.columns:
                    words = name in block.words
                    side: Literal["left", "right"] = "left" if words else "right"
                    header = RichText(printable(name))  # as text it would be read as markup
                    table.add_column(header, justify=side, overflow="fold", no_wrap=not words)
                for row in block.rows():
                    row = [printable(text) for text in row]
                    table.add_row(*(RichText(text, style=_STYLES.get(text, "")) for text in row))
                console.print(table)
            case _:
                pass


_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}
