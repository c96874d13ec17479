"""A report in parts: Markdown, tables and pictures. Its Markdown is report.md.

page.py makes the HTML page of the parts, terminal.py what is printed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from resnet_cifar.report.figures import Figure, draw_svg
from resnet_cifar.runs.table import records
from resnet_cifar.text import printable

Row = dict[str, Any]
Column = str | Callable[[Row], str]  # a key of the row, whose value is shown as it is, or its text

MARKS = {"holds": "✓", "does not hold": "✗", "differs": "≠", "undecided": "?"}


@dataclass(frozen=True)
class Table:
    """Numbers as they are (`frame`, which goes into the CSV) and as people read them."""

    name: str  # of the CSV file
    frame: pd.DataFrame
    columns: dict[str, Column]  # by title
    caption: str = ""
    words: tuple[str, ...] = ()  # titles of columns that are set left, as those of texts are
    detail: bool = False  # too much for a terminal

    def is_left(self, title: str) -> bool:
        """True if the column holds words, which are set left, and numbers right."""
        key = self.columns[title]
        texts = isinstance(key, str) and not pd.api.types.is_numeric_dtype(self.frame[key])
        return texts or title in self.words

    def rows(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        keys, rows = self.columns.values(), records(self.frame)
        return [
            [printable(str(row[x] if isinstance(x, str) else x(row))) for x in keys] for row in rows
        ]

    def markdown(self) -> str:
        """The table, and below it a paragraph: its caption and a link to the CSV."""
        titles = list(self.columns)
        lines = [[escape(text) for text in line] for line in (titles, *self.rows())]
        lines.insert(1, ["---" if self.is_left(title) else "--:" for title in titles])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{table}\n\n" + f"{escape(self.caption)} [CSV](tables/{self.name}.csv)".strip()


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    name: str  # of the SVG file
    figure: Figure
    caption: str

    @cached_property
    def svg(self) -> str:
        return draw_svg(self.figure)

    def markdown(self) -> str:
        """The image, and below it a paragraph: the caption in italics."""
        caption = escape(self.caption)
        return f"![{caption}](figures/{self.name}.svg)\n\n*{caption}*"


Part = str | Table | Picture  # text is Markdown: headings, paragraphs, verdicts, notes


@dataclass(frozen=True)
class Report:
    """All parts of a report. The first screen shows `claims` beside `best`."""

    title: str
    subtitle: str  # number of runs, date, code
    claims: Sequence[Part] = ()
    best: Sequence[Part] = ()
    rest: Sequence[Part] = ()

    @property
    def parts(self) -> list[Part]:
        return [*self.claims, *self.best, *self.rest]

    def markdown(self) -> str:
        """report.md: pictures and full-precision tables are linked files."""
        texts = (part if isinstance(part, str) else part.markdown() for part in self.parts)
        return "\n\n".join([f"# {escape(self.title)}", escape(self.subtitle), *texts]) + "\n"


# Writing Markdown --------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Write `text` so that Markdown shows it as it is, and no HTML in it is obeyed."""
    text = html.escape(printable(text), quote=False)
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word it means nothing
    text = re.sub(r"(?<=\s)#+$", r"\\\g<0>", text)  # no end of a heading
    return re.sub(r"^(#*|-*|=*|\d+)([-+#=.)])(?=\s|$)", r"\1\\\2", text)  # no list, no heading


def heading(text: str, level: int = 2) -> str:
    return f"{'#' * level} {escape(text)}"


def verdict_line(verdict: str, sentence: str, detail: str) -> str:
    """A claim as an item of a list: mark, verdict, claim, and the grounds."""
    return f"- {MARKS[verdict]} **{verdict}**: {escape(sentence)}. {escape(detail)}"


def note_line(text: str) -> str:
    """A warning as an item of the list that is set off from the text."""
    return f"> - {escape(text)}"


# Reading Markdown --------------------------------------------------------------------------------


_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


def parse(markdown: str) -> list[SyntaxTreeNode]:
    """Parse Markdown into its blocks: headings, paragraphs, lists, tables."""
    return SyntaxTreeNode(_PARSER.parse(markdown)).children


def plain_text(node: SyntaxTreeNode) -> str:
    """The text of a block without its marks, that of links and images included."""
    return "".join(text.content for text in node.walk() if text.type == "text").strip()


def read_verdict(item: SyntaxTreeNode) -> tuple[str, str, str]:
    """Take a `verdict_line` apart: verdict, claim, grounds (after the first full stop)."""
    strong = next(node for node in item.walk() if node.type == "strong")
    verdict = plain_text(strong)
    sentence, _, detail = plain_text(item).partition(f"{verdict}: ")[2].partition(". ")
    return verdict, sentence, detail
