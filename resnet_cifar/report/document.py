"""A report as a list of blocks, and what it looks like in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from resnet_cifar.files import write_atomically
from resnet_cifar.report import figures
from resnet_cifar.results import records

Row = dict[str, Any]


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Numbers as they are (`frame`, what goes into the CSV) and as people read them (`columns`)."""

    name: str  # of the CSV file
    frame: pd.DataFrame
    columns: dict[str, Callable[[Row], str]]  # title → cell text of a row
    caption: str = ""
    words: tuple[str, ...] = ()  # titles of the columns that hold words: set left
    detail: bool = False  # too much for a terminal

    def _repr_html_(self) -> str:  # in a notebook
        return _html_block(self)

    def rows(self) -> list[list[str]]:
        return [[show(row) for show in self.columns.values()] for row in records(self.frame)]


@dataclass(frozen=True)
class Picture:
    name: str  # of the SVG and PNG files
    figure: Figure
    caption: str

    @cached_property
    def svg(self) -> str:
        return figures.svg(self.figure)

    def _repr_html_(self) -> str:  # in a notebook
        return _html_block(self)


Block = Heading | Text | Table | Picture


@dataclass(frozen=True)
class Document:
    title: str
    blocks: list[Block]

    def tables(self) -> list[Table]:
        return [block for block in self.blocks if isinstance(block, Table)]

    def pictures(self) -> list[Picture]:
        return [block for block in self.blocks if isinstance(block, Picture)]


# Markdown ----------------------------------------------------------------------------------------


def to_markdown(document: Document, figures_at: str = "figures", tables_at: str = "tables") -> str:
    """The document as Markdown; pictures and full-precision tables are linked files."""
    parts = [f"# {document.title}"]
    for block in document.blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Text(text, warning):
                parts.append(f"**Note:** {text}" if warning else text)
            case Picture(name, _, caption):
                parts.append(f"![{caption}]({figures_at}/{name}.svg)")
                parts.append(f"*{caption}*")
            case Table():
                parts.append(_markdown_table(block))
                source = f"[CSV]({tables_at}/{block.name}.csv)"
                parts.append(f"{block.caption} {source}".strip())
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    titles = list(table.columns)
    rule = ["---" if title in table.words else "--:" for title in titles]
    lines = [titles, rule, *table.rows()]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


# HTML --------------------------------------------------------------------------------------------

_CSS = Path(__file__).with_name("style.css")


def to_html(document: Document) -> str:
    """The document as one page that needs no other file; light or dark as the reader's system."""
    chapters = [b.text for b in document.blocks if isinstance(b, Heading) and b.level == 2]
    nav = "".join(f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in chapters)
    body = "\n".join(_html_block(block) for block in document.blocks)
    title = html.escape(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_CSS.read_text()}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<nav>{nav}</nav>\n{body}\n</body>\n</html>\n"
    )


def _html_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{_anchor(text)}">{_inline(text)}</h{level}>'
        case Text(text, warning):
            return f"<p{' class=warning' if warning else ''}>{_inline(text)}</p>"
        case Picture(_, _, caption):
            alt = html.escape(caption, quote=True)
            return (
                f'<figure role="img" aria-label="{alt}">{_inline_svg(block.svg)}'
                f"<figcaption>{_inline(caption)}</figcaption></figure>"
            )
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    def cell(tag: str, title: str, text: str) -> str:
        kinds = ["word"] * (title in table.words) + ["long"] * (len(text) > 24)
        kinds += [k for k, v in (("holds", "holds"), ("fails", "does not hold")) if v == text]
        attribute = f' class="{" ".join(kinds)}"' if kinds else ""
        return f"<{tag}{attribute}>{_inline(text)}</{tag}>"

    titles = list(table.columns)
    lines = ["".join(cell("th", title, title) for title in titles)]
    lines += [
        "".join(cell("td", title, text) for title, text in zip(titles, row, strict=True))
        for row in table.rows()
    ]
    rows = "".join(f"<tr>{line}</tr>\n" for line in lines)
    caption = f'<p class="caption">{_inline(table.caption)}</p>' if table.caption else ""
    return f'<div class="scroll"><table>\n{rows}</table></div>{caption}'


def _inline_svg(text: str) -> str:
    """A figure's SVG in the page's own colours, and scaled by its style sheet."""
    text = text[text.index("<svg") :]
    text = text.replace(figures.INK, "var(--ink, currentColor)").replace(figures.PAPER, "none")
    width = re.search(r'width="([\d.]+)pt"', text)
    points = float(width.group(1)) if width else 600.0
    return text.replace("<svg", f'<svg style="max-width: {points * 4 / 3:.0f}px"', 1)


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


# Terminal ----------------------------------------------------------------------------------------


def show(document: Document, console: Console) -> None:
    """Headings, sentences and the main tables; the rest is in the files."""
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    for block in document.blocks:
        match block:
            case Heading(text, 2):
                console.print()
                console.print(RichText(text, style="bold underline"))
            case Text(text, warning):
                console.print(RichText(text, style="yellow" if warning else ""), soft_wrap=False)
            case Table(detail=False):
                table = RichTable(title=None)
                for name in block.columns:
                    words = name in block.words
                    side: Literal["left", "right"] = "left" if words else "right"
                    table.add_column(name, justify=side, overflow="fold", no_wrap=not words)
                for row in block.rows():
                    table.add_row(*(RichText(text, style=_STYLES.get(text, "")) for text in row))
                console.print(table)
            case _:
                pass


_STYLES = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


# Files -------------------------------------------------------------------------------------------


def write(document: Document, folder: Path) -> None:
    """report.md, report.html, figures/*.svg and *.png, tables/*.csv (full precision) in `folder`.

    Pictures and tables an earlier report left in those two sub-folders go.

    Raises:
        OSError: it can't be written.
    """
    files: dict[Path, str | bytes] = {
        folder / "report.md": to_markdown(document),
        folder / "report.html": to_html(document),
    }
    for table in document.tables():
        files[folder / "tables" / f"{table.name}.csv"] = table.frame.to_csv(index=False)
    for picture in document.pictures():
        files[folder / "figures" / f"{picture.name}.svg"] = picture.svg
        files[folder / "figures" / f"{picture.name}.png"] = figures.png(picture.figure)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    for pattern in ("figures/*.svg", "figures/*.png", "tables/*.csv"):
        for path in folder.glob(pattern):
            if path not in files:
                path.unlink()
