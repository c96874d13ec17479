"""A report's Markdown as one HTML page that needs no other file, and parts of it in a notebook.

Everything can be read without the script (page.js), which makes tables sortable and curves tell
their values. The page's frame, figures and tables are the templates beside this file.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from string import Template

from markdown_it.tree import SyntaxTreeNode

from resnet_cifar.report.document import (
    MARKS,
    Part,
    Picture,
    Report,
    join_markdown,
    parse,
    plain_text,
    read_verdict,
)
from resnet_cifar.report.drawing import collect_points, restyle_svg
from resnet_cifar.text import printable

# A table with more rows gets a field to filter them, and with many more its own scroll bar.
FILTER_ROWS, TALL_ROWS = 12, 40
_CLASSES = {"holds": "holds", "does not hold": "fails", "undecided": "undecided"}


def render_page(report: Report) -> str:
    """The report as one page; light or dark as the reader's system."""
    headings = (block for part in report.rest if isinstance(part, str) for block in parse(part))
    chapters = [plain_text(block) for block in headings if block.tag == "h2"]
    links = "".join(f'<li><a href="#{_anchor(text)}">{_escape(text)}</a></li>' for text in chapters)
    return _template("page.html").substitute(
        title=_escape(printable(report.title)),
        subtitle=_escape(printable(report.subtitle)),
        style=_file("style.css"),
        script=_file("page.js"),
        first_screen=_columns(report.claims, report.best),
        contents=links,
        rest=render(report.rest),
    )


class Shown:
    """Parts of a report as the output of a notebook's cell, with the page's style and script.

    Args:
        columns: lists of parts that stand side by side, above the others.
    """

    def __init__(self, *parts: Part, columns: Sequence[Sequence[Part]] = ()) -> None:
        self.parts = parts
        self.columns = columns

    def _repr_html_(self) -> str:
        style = f"<style>\n{_file('style.css')}</style>"
        script = f"<script>\n{_file('page.js')}</script>"
        body = _columns(*self.columns) + render(self.parts)
        return f'<div class="report">{style}{body}{script}</div>'


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    return Template(_file(name))


def render(parts: Iterable[Part]) -> str:
    """Render parts as HTML, by way of their Markdown; pictures stand in it as SVG."""
    parts = list(parts)
    pictures = {part.name: part for part in parts if isinstance(part, Picture)}
    blocks = iter(parse(join_markdown(parts)))
    return "\n".join(_render(block, blocks, pictures) for block in blocks)


def _columns(*columns: Sequence[Part]) -> str:
    """Lists of parts side by side where there is room."""
    sides = "".join(f"<div>{render(parts)}</div>" for parts in columns)
    return f'<div class="columns">{sides}</div>' if columns else ""


def _render(
    block: SyntaxTreeNode, following: Iterator[SyntaxTreeNode], pictures: dict[str, Picture]
) -> str:
    """Render a block; below a table or a picture the next block is its caption."""
    text = _escape(plain_text(block))
    match block.type:
        case "heading":
            anchor = _anchor(plain_text(block))
            return f'<{block.tag} id="{anchor}">{text}</{block.tag}>'
        case "bullet_list":
            return f'<ul class="verdicts">\n{"".join(map(_verdict, block.children))}</ul>'
        case "blockquote":
            items = "".join(
                f"<li>{_escape(plain_text(item))}</li>" for item in block.children[0].children
            )
            return f'<aside class="notes" aria-label="Notes"><ul>{items}</ul></aside>'
        case "table":
            return _table(block, next(following))
    image = next((node for node in block.walk() if node.type == "image"), None)
    if image is None:
        return f"<p>{text}</p>"
    picture = pictures[PurePosixPath(str(image.attrs["src"])).stem]
    return _figure(picture, plain_text(next(following)))


def _verdict(item: SyntaxTreeNode) -> str:
    verdict, sentence, detail = read_verdict(item)
    sentence, detail = _escape(sentence), _escape(detail)
    return f"<li>{_mark(verdict)} <span>{sentence} <small>{detail}</small></span></li>\n"


def _mark(verdict: str) -> str:
    return f'<b class="mark {_CLASSES[verdict]}">{MARKS[verdict]} {verdict}</b>'


def _table(table: SyntaxTreeNode, below: SyntaxTreeNode) -> str:
    """A table and its caption, without the link to a CSV that a single file has not beside it."""
    link = next(node for node in below.walk() if node.type == "link")
    caption = _escape(plain_text(below).removesuffix(plain_text(link)).strip())
    head, *rows = [row.children for row in table.walk() if row.type == "tr"]
    # A row that continues the one above, with nothing in its first cell, has to stay below it.
    sortable = len(rows) > 1 and all(plain_text(row[0]) for row in rows)
    kinds = "sortable" * sortable + " filter" * (sortable and len(rows) > FILTER_ROWS)
    lines = ("".join(map(_cell, row)) for row in rows)
    region = _template("table.html").substitute(
        tall=" tall" * (len(rows) > TALL_ROWS),
        label=caption or PurePosixPath(str(link.attrs["href"])).stem,
        kinds=kinds,
        head="".join(map(_cell, head)),
        body="".join(f"<tr>{line}</tr>\n" for line in lines),
    )
    return region + (f'<p class="caption">{caption}</p>' if caption else "")


def _cell(cell: SyntaxTreeNode) -> str:
    text = plain_text(cell)
    word = "style" not in cell.attrs  # numbers are set right
    kinds = ["word"] * word + ["long"] * (len(text) > 24)
    attributes = ' scope="col"' * (cell.tag == "th")
    attributes += f' class="{" ".join(kinds)}"' if kinds else ""
    inner = _mark(text) if text in MARKS else _escape(text)
    return f"<{cell.tag}{attributes}>{inner}</{cell.tag}>"


def _figure(picture: Picture, caption: str) -> str:
    return (
        _template("figure.html")
        .substitute(
            caption=_escape(caption),
            drawing=restyle_svg(picture.svg),
            points=collect_points(picture.figure),
        )
        .strip()
    )


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


def _escape(text: str) -> str:
    return html.escape(text)
