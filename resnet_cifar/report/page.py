"""A report as one HTML page that needs no other file, and its blocks in a notebook.

Everything can be read without the script (page.js), which makes tables sortable and curves tell
their values.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from resnet_cifar.report import canvas
from resnet_cifar.report.canvas import Axes, Figure
from resnet_cifar.report.document import (
    MARKS,
    Block,
    Columns,
    Document,
    Heading,
    Notes,
    Picture,
    Table,
    Text,
    Verdict,
    Verdicts,
)
from resnet_cifar.text import printable

# Points of a line the pointer can find. Sixty are one every ten pixels of a panel.
MOST_POINTS = 60
# A table with more rows gets a field to filter them, and with many more its own scroll bar.
FILTER_ROWS, TALL_ROWS = 12, 40
_CLASSES = {"holds": "holds", "does not hold": "fails", "undecided": "undecided"}


def to_html(document: Document) -> str:
    """The document as one page; light or dark as the reader's system."""
    first = next((i for i, b in enumerate(document.blocks, 1) if isinstance(b, Columns)), 0)
    chapters = [b.text for b in document.blocks[first:] if isinstance(b, Heading) and b.level == 2]
    links = "".join(f'<li><a href="#{_anchor(text)}">{_text(text)}</a></li>' for text in chapters)
    contents = f'<nav aria-label="Contents"><h2>Contents</h2><ol>{links}</ol></nav>'
    answer = "\n".join(map(_block, document.blocks[:first]))
    rest = "\n".join(map(_block, document.blocks[first:]))
    title = _text(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_file('style.css')}</style>\n</head>\n"
        f'<body class="report">\n<header><h1>{title}</h1>\n<p>{_text(document.subtitle)}</p>'
        f"</header>\n<main>\n{answer}\n{contents if links else ''}\n{rest}\n</main>\n"
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>\n"
    )


class Shown:
    """Blocks as the output of a notebook's cell, with the page's style and script."""

    def __init__(self, *blocks: Block) -> None:
        self.blocks = blocks

    def _repr_html_(self) -> str:
        body = "\n".join(map(_block, self.blocks))
        style = f"<style>\n{_file('style.css')}</style>"
        return f'<div class="report">{style}{body}<script>\n{_file("page.js")}</script></div>'


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{_anchor(text)}">{_text(text)}</h{level}>'
        case Text(text):
            return f"<p>{_text(text)}</p>"
        case Verdicts(items):
            return f'<ul class="verdicts">\n{"".join(map(_verdict, items))}</ul>'
        case Notes(lines):
            inner = "".join(f"<li>{_text(line)}</li>" for line in lines)
            return f'<aside class="notes" aria-label="Notes"><ul>{inner}</ul></aside>'
        case Columns(left, right):
            sides = ("\n".join(map(_block, side)) for side in (left, right))
            return (
                '<div class="columns">' + "".join(f"<div>{side}</div>" for side in sides) + "</div>"
            )
        case Picture():
            return _figure(block)
        case Table():
            return _table(block)


def _verdict(item: Verdict) -> str:
    return (
        f"<li>{_mark(item.verdict)} <span>{_text(item.sentence)} "
        f"<small>{_text(item.detail)}</small></span></li>\n"
    )


def _mark(verdict: str) -> str:
    return f'<b class="mark {_CLASSES[verdict]}">{MARKS[verdict]} {verdict}</b>'


# Tables ------------------------------------------------------------------------------------------


def _table(table: Table) -> str:
    titles, rows = list(table.columns), table.rows()
    head = "".join(_cell("th", title, title, table.words, ' scope="col"') for title in titles)
    lines = (
        "".join(
            _cell("td", title, text, table.words) for title, text in zip(titles, row, strict=True)
        )
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    # A row that continues the one above, with nothing in its first cell, has to stay below it.
    sortable = len(rows) > 1 and all(row[0] for row in rows)
    kinds = "sortable" * sortable + " filter" * (sortable and len(rows) > FILTER_ROWS)
    label = _text(table.caption or table.name)
    caption = f'<p class="caption">{_text(table.caption)}</p>' if table.caption else ""
    return (
        f'<div class="scroll{" tall" * (len(rows) > TALL_ROWS)}" tabindex="0" role="region" '
        f'aria-label="{label}">'
        f'<table class="{kinds}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>'
        f"</div>{caption}"
    )


def _cell(tag: str, title: str, text: str, words: tuple[str, ...], more: str = "") -> str:
    kinds = ["word"] * (title in words) + ["long"] * (len(text) > 24)
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    inner = _mark(text) if text in MARKS else _text(text)
    return f"<{tag}{more}{attribute}>{inner}</{tag}>"


# Figures -----------------------------------------------------------------------------------------


def _figure(picture: Picture) -> str:
    drawing = _drawing(picture.svg)
    points = _points(picture.figure)
    data = json.dumps(points, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    script = f'<script type="application/json" class="points">{data}</script>' if points else ""
    caption = _text(picture.caption)
    return (
        f'<figure><div class="plot" role="img" aria-label="{caption}">{drawing}</div>{script}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _drawing(svg: str) -> str:
    """A figure's SVG in the page's own colours, and scaled by its style sheet."""
    svg = svg[svg.index("<svg") :].strip()
    svg = svg.replace(canvas.INK, "var(--ink, currentColor)").replace(canvas.PAPER, "none")
    # Names of parts, the same in every figure, which nothing refers to.
    svg = re.sub(r'<g id="\w+_\d+">', "<g>", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    points = float(width.group(1)) if width else 600.0
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg style="max-width: {points * 4 / 3:.0f}px"', 1)


def _points(figure: Figure) -> list[dict[str, Any]]:
    """What the pointer finds: every panel whose x axis counts epochs, and its labelled lines.

    Places are in units of the SVG's viewBox, which are points from the upper left corner. The
    figure has to be drawn already: its layout is made then.
    """
    panels = []
    for axis in figure.axes:
        lines = [_line(figure, axis, line) for line in axis.lines if _is_named(line)]
        lines = [line for line in lines if line["x"]]
        if axis.get_xlabel() == "epoch" and lines:
            x, y = _in_svg(figure, axis.get_window_extent().get_points())
            box = [x[0], y[1], x[1], y[0]]
            title = axis.get_title("left") or axis.get_title() or axis.get_ylabel()
            panels.append({"box": box, "title": printable(title), "lines": lines})
    return panels


def _is_named(line: Any) -> bool:
    """Whether it is something to point at: matplotlib's labels of nothing begin with `_`."""
    return not str(line.get_label()).startswith("_")


def _line(figure: Figure, axis: Axes, line: Any) -> dict[str, Any]:
    data = np.asarray(line.get_xydata(), dtype=np.float64)
    data = data[np.isfinite(data).all(axis=1)]
    if axis.get_yscale() == "log":
        data = data[data[:, 1] > 0]
    if len(data) > MOST_POINTS:  # both ends stay
        data = data[np.linspace(0, len(data) - 1, MOST_POINTS).round().astype(int)]
    x, y = _in_svg(figure, axis.transData.transform(data) if len(data) else data)
    return {
        "label": printable(str(line.get_label())),
        "x": x,
        "y": y,
        "epoch": [int(epoch) for epoch in data[:, 0]],
        "value": [f"{value:.4g}" for value in data[:, 1]],
    }


def _in_svg(figure: Figure, places: Any) -> tuple[list[float], list[float]]:
    """matplotlib's pixels [n, 2], counted from below, as x and y of the SVG."""
    points = np.asarray(places, dtype=np.float64) * 72 / figure.dpi
    top = 72 * figure.get_figheight()
    return points[:, 0].round(1).tolist(), (top - points[:, 1]).round(1).tolist()


# Text --------------------------------------------------------------------------------------------


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


def _text(text: str) -> str:
    return html.escape(printable(text))
