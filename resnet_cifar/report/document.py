"""A report in parts: Markdown, verdicts, tables, pictures and folds. Its Markdown is report.md.

page.py makes the HTML page of the parts, terminal.py what is printed.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from resnet_cifar.report.figures import Figure, draw_svg
from resnet_cifar.report.numbers import FORMS
from resnet_cifar.report.study import WORDS as WORDS
from resnet_cifar.runs.table import records
from resnet_cifar.text import printable

# A key of the row, whose value is shown as it is; or one of numbers.FORMS and the key it shows.
Column = str | Sequence[str]

COLUMNS: dict[str, dict[str, Column]] = WORDS["columns"]
BETWEEN = " – "  # in a title: a question and its setting
MARKS = {"holds": "✓", "does not hold": "✗", "differs": "≠", "undecided": "?"}


@dataclass(frozen=True)
class Table:
    """Numbers as they are (`frame`, which goes into the CSV) and as people read them."""

    name: str  # of the CSV file
    frame: pd.DataFrame
    columns: Mapping[str, Column]  # by title
    caption: str = ""
    words: tuple[str, ...] = ()  # titles of columns that are set left, as those of texts are
    plot: str = ""  # the title of a column against which the page plots the first one

    def is_left(self, title: str) -> bool:
        """True if the column holds words, which are set left, and numbers right."""
        key = self.columns[title]
        if isinstance(key, str) and not pd.api.types.is_numeric_dtype(self.frame[key]):
            return True
        return title in self.words or key[0] == "chance"

    def rows(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        shown = [
            [
                row[x] if isinstance(x, str) else FORMS[x[0]](row, x[1])
                for x in self.columns.values()
            ]
            for row in records(self.frame)
        ]
        return [[printable(str(value)) for value in row] for row in shown]

    def compact(self, *kept: str) -> Table:
        """The table without columns that are the same in every row, which its caption says."""
        columns = dict(zip(self.columns, zip(*self.rows(), strict=True), strict=False))
        same = {
            title: texts[0]
            for title, texts in columns.items()
            if len(set(texts)) == 1 and title not in kept and (len(texts) > 1 or not texts[0])
        }
        said = ", ".join(f"{title} {text}" for title, text in same.items() if text)
        caption = f"{self.caption} The same in every row: {said}." if said else self.caption
        varied = {title: column for title, column in self.columns.items() if title not in same}
        return dataclasses.replace(self, columns=varied, caption=caption.strip())

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


@dataclass(frozen=True)
class Item:
    """A line of a list: its verdicts, each once, a sentence, the grounds, and lines below it."""

    verdicts: Sequence[str]
    sentence: str
    grounds: str = ""
    items: Sequence[Item] = ()

    def markdown(self) -> str:
        marks = ", ".join(f"{MARKS[verdict]} **{verdict}**" for verdict in self.verdicts)
        line = f"{escape(self.sentence)}. {escape(self.grounds)}"
        start = f"- {marks}: {line}" if marks else f"- {line}"
        return "\n  ".join([start, *(item.markdown() for item in self.items)])


@dataclass(frozen=True)
class Fold:
    """Parts behind a line that unfolds: a section with a heading, or without a level a detail."""

    title: str
    parts: Sequence[Part]
    level: int = 0
    open: bool = False  # from the start; on paper all are
    apart: bool = False  # too much for a terminal
    verdicts: Sequence[str] = ()  # beside the title

    def markdown(self) -> str:
        text = join_markdown(self.parts)
        if self.level:
            return f"{heading(self.title, self.level)}\n\n{text}"
        start = f"<details{' open' * self.open}>\n<summary>{html.escape(unbroken(self.title))}"
        return f"{start}</summary>\n\n{text}\n\n</details>"


Part = str | list[Item] | Table | Picture | Fold  # text is Markdown: headings, paragraphs, notes


def join_markdown(parts: Iterable[Part]) -> str:
    """Write parts one after the other; the items of a list a line each."""
    return "\n\n".join(map(_write_part, parts))


def _write_part(part: Part) -> str:
    if isinstance(part, list):
        return "\n".join(map(Item.markdown, part))
    return part if isinstance(part, str) else part.markdown()


def unfold(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts that are no folds, and those within folds, in order."""
    for part in parts:
        yield from unfold(part.parts) if isinstance(part, Fold) else [part]


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
        start = f"# {escape(self.title)}\n\n{escape(self.subtitle)}"
        return f"{start}\n\n{join_markdown(self.parts)}\n"


# Writing Markdown --------------------------------------------------------------------------------


def unbroken(text: str) -> str:
    """One printable line of `text`, with no-break spaces in `95 %`, `1 ± 2` and `n = 3`."""
    text = printable(text)
    for together in (" %", " ± ", "n = "):
        text = text.replace(together, together.replace(" ", "\u00a0"))
    return text


def escape(text: str) -> str:
    """Write `text` so that Markdown shows it as it is, and no HTML in it is obeyed."""
    text = html.escape(unbroken(text), quote=False)
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word it means nothing
    text = re.sub(r"(?<=\s)#+$", r"\\\g<0>", text)  # no end of a heading
    return re.sub(r"^(#*|-*|=*|\d+)([-+#=.)])(?=\s|$)", r"\1\\\2", text)  # no list, no heading


def heading(text: str, level: int = 2) -> str:
    return f"{'#' * level} {escape(text)}"


def listing(texts: Iterable[str], start: str = "- ") -> str:
    """A list of `texts`; one of notes, which is set off from the text, by the start `> - `."""
    return "\n".join(start + escape(text) for text in texts)
