"""A report as a list of blocks, and what it looks like in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from resnet_cifar.display import printable
from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import write_atomically, write_json
from resnet_cifar.report import canvas
from resnet_cifar.report.canvas import Figure
from resnet_cifar.results import records

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
        return canvas.svg(self.figure)

    def _repr_html_(self) -> str:  # in a notebook
        return _html_block(self)


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


_MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}

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
                    f"- {_MARKS[v.verdict]} **{v.verdict}**: {_markdown(v.sentence)}. "
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


# HTML --------------------------------------------------------------------------------------------

_CSS = Path(__file__).with_name("style.css")


def to_html(document: Document) -> str:
    """The document as one page that needs no other file; light or dark as the reader's system."""
    chapters = [b.text for b in document.flat() if isinstance(b, Heading) and b.level == 2]
    nav = "".join(f'<a href="#{_anchor(text)}">{_inline(text)}</a>' for text in chapters)
    body = "\n".join(_html_block(block) for block in document.blocks)
    title = _inline(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_CSS.read_text()}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<p>{_inline(document.subtitle)}</p>\n<nav>{nav}</nav>\n{body}\n</body>\n</html>\n"
    )


def _html_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{_anchor(text)}">{_inline(text)}</h{level}>'
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Verdicts(items):
            lines = (
                f'<li><span class="{v.verdict.replace(" ", "-")}">{_MARKS[v.verdict]} {v.verdict}'
                f"</span> {_inline(v.sentence)}. <small>{_inline(v.detail)}</small></li>"
                for v in items
            )
            return f'<ul class="verdicts">{"".join(lines)}</ul>'
        case Notes(notes):
            lines = (f"<li>{_inline(note)}</li>" for note in notes)
            return f'<ul class="warning">{"".join(lines)}</ul>'
        case Columns(left, right):
            return "\n".join(_html_block(inner) for inner in [*left, *right])
        case Picture(_, _, caption):
            alt = _inline(caption)
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
    text = text.replace(canvas.INK, "var(--ink, currentColor)").replace(canvas.PAPER, "none")
    width = re.search(r'width="([\d.]+)pt"', text)
    points = float(width.group(1)) if width else 600.0
    return text.replace("<svg", f'<svg style="max-width: {points * 4 / 3:.0f}px"', 1)


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


def _inline(text: str) -> str:
    return html.escape(printable(text))


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
                    mark = RichText(f"{_MARKS[v.verdict]} {v.verdict}", style=_STYLES[v.verdict])
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


# Files -------------------------------------------------------------------------------------------

LIST = "report-files.json"


def write(document: Document, folder: Path) -> None:
    """report.md, report.html, figures/*.svg and *.png, tables/*.csv (full precision) in `folder`.

    A list of these files is kept in the folder. What an earlier report wrote and this one does not
    goes; whatever else is there stays.

    Raises:
        UserError: a file that no report wrote lies where one belongs. Nothing is written.
        OSError: it can't be written.
    """
    files: dict[str, bytes] = {
        "report.md": to_markdown(document).encode(),
        "report.html": to_html(document).encode(),
    }
    for table in document.tables():
        text = table.frame.to_csv(index=False)
        files[f"tables/{table.name}.csv"] = text.encode(errors="backslashreplace")
    for picture in document.pictures():
        files[f"figures/{picture.name}.svg"] = picture.svg.encode()
        files[f"figures/{picture.name}.png"] = canvas.png(picture.figure)
    before = _listed(folder)
    for name in files:
        _check_free(folder, name, name in before)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the files: a report that is killed knows its own all the same.
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_json(folder / LIST, {"files": before | sums})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, content)
    for name in before.keys() - files.keys():
        old = folder / name
        if _is_plain(old) and hashlib.sha256(old.read_bytes()).hexdigest() == before[name]:
            old.unlink()
    write_json(folder / LIST, {"files": sums})


def _listed(folder: Path) -> dict[str, str]:
    """The files that an earlier report wrote there, with their SHA-256."""
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    allowed = re.compile(r"report\.(md|html)|figures/[\w.-]+\.(svg|png)|tables/[\w.-]+\.csv")
    try:
        if not _is_plain(path):
            raise ValueError("it is not a file")
        listed = json.loads(path.read_bytes())["files"]
        if not all(allowed.fullmatch(name) for name in listed):
            raise ValueError("it lists what no report writes")
        return {str(name): str(total) for name, total in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not the list of a report's files: {describe(error)}; "
            "choose another folder with --to"
        ) from error


def _check_free(folder: Path, name: str, ours: bool) -> None:
    """Raise UserError where a file that is not ours lies in the way of `name`."""
    path = folder / name
    for above in (folder, *([path.parent] if path.parent != folder else [])):
        if os.path.lexists(above) and (
            not above.is_dir() or (above.is_symlink() and above != folder)
        ):
            raise UserError(
                f"{above} is not a directory of a report: choose another folder with --to"
            )
    if os.path.lexists(path) and not (ours and _is_plain(path)):
        raise UserError(
            f"{path} is there and was not written by a report (it is not in {folder / LIST}): "
            "move it, or choose another folder with --to"
        )


def _is_plain(path: Path) -> bool:
    """Whether a file itself lies there, not a link, in a directory that is no link either."""
    return path.is_file() and not path.is_symlink()
