"""A report as one HTML page that needs no other file, and parts of it in a notebook.

Everything can be read without the script (page.js), which makes tables sortable, plots two of their
columns and lets curves tell their values. The page's frame, figures and tables are the templates
beside this file.
"""

import json
import re
from collections.abc import Iterable
from html import escape
from itertools import repeat
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from resnet_cifar.report import document
from resnet_cifar.report.document import BETWEEN, MARKS, Fold, Item, Part, Picture, Report, Table
from resnet_cifar.report.figures import INK, PAPER, Affine2D, Axes, Figure, Line2D
from resnet_cifar.text import printable

FILTER_ROWS = 12  # a table with more rows gets a field to filter them
WIDE = 120  # characters of a row that on paper need a page on its side
# Points of a line the pointer can find. Sixty are one every ten pixels of a panel.
MOST_POINTS = 60
EPOCH = "epoch"  # the x axis of panels whose lines tell y
_MARKDOWN = MarkdownIt("commonmark", {"html": False})
_NOTES = '<aside class="notes" aria-label="Notes">'
_CLASSES = {"does not hold": "fails", "differs": "holds"}  # of other verdicts: the same word


def render_page(report: Report) -> str:
    """The report as one page; light or dark as the reader's system."""
    return _fill(
        "page.html",
        title=_text(report.title),
        subtitle=_text(report.subtitle),
        style=_file("style.css"),
        script=_file("page.js"),
        claims=render(report.claims),
        best=render(report.best),
        contents=_list_contents(report.rest),
        rest=render(report.rest),
    )


def render_notebook(parts: Iterable[Part]) -> str:
    """Parts of a report as the output of a notebook's cell, with the page's style and script."""
    style = f"<style>\n{_file('style.css')}</style>"
    script = f"<script>\n{_file('page.js')}</script>"
    return f'<div class="report">{style}{render(parts)}{script}</div>'


def _text(text: str) -> str:
    """Write `text` as HTML that shows it as it is."""
    return escape(document.unbroken(text))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _fill(template: str, **values: str) -> str:
    return Template(_file(template)).substitute(values)


def render(parts: Iterable[Part]) -> str:
    """Render parts as HTML; pictures stand in it as SVG."""
    return "\n".join(map(_render, parts))


def _list_contents(parts: Iterable[Part], above: str = "") -> str:
    """Links to the sections and those within; of a question's settings only the first names it."""
    lines = []
    for part in parts:
        if isinstance(part, Fold):
            question, _, setting = part.title.partition(BETWEEN)
            text = setting if question == above and setting else part.title
            above = question
            link = f'<a href="#{_anchor(part.title)}">{_text(text)}</a>'
            lines.append(f"<li>{link}{_list_contents(part.parts)}</li>")
    return f"<ol>{''.join(lines)}</ol>" if lines else ""


def _render(part: Part) -> str:
    match part:
        case str():
            text: str = _MARKDOWN.render(part).replace("<blockquote>", _NOTES)
            return text.replace("</blockquote>", "</aside>").strip()
        case list():
            return f'<ul class="verdicts">\n{"".join(map(_item, part))}</ul>'
        case Fold():
            return _render_fold(part)
        case Table():
            return _render_table(part)
    drawing = restyle_svg(part)  # before its points are collected: it lays the figure out
    points, caption = collect_points(part.figure), _text(part.caption)
    return _fill("figure.html", caption=caption, drawing=drawing, points=points).strip()


def _render_fold(fold: Fold) -> str:
    title, kind, place = _text(fold.title), "", ""
    if fold.level:
        title = f"<h{fold.level}>{title}</h{fold.level}>"
        # The place is inside: a link to what is folded away unfolds it, without a script too.
        kind, place = ' class="section"', f' id="{_anchor(fold.title)}"'
    title = " ".join([title, *map(_mark, fold.verdicts)])
    start = f"<details{kind}{' open' * fold.open}><summary>{title}</summary>"
    return f"{start}<div{place}>\n{render(fold.parts)}\n</div></details>"


def _item(item: Item) -> str:
    marks = f"<span>{' '.join(map(_mark, item.verdicts))}</span> " if item.verdicts else ""
    text = f"{_text(item.sentence)} <small>{_text(item.grounds)}</small>"
    if item.items:
        inner = "".join(map(_item, item.items))
        text = f'<details><summary>{text}</summary><ul class="verdicts">\n{inner}</ul></details>'
    return f"<li>{marks}<div>{text}</div></li>\n"


def _mark(verdict: str) -> str:
    kind = _CLASSES.get(verdict, verdict)
    return f'<b class="mark {kind}">{MARKS[verdict]} {verdict}</b>'


def _render_table(table: Table) -> str:
    rows = table.rows()
    left = list(map(table.is_left, table.columns))
    # A row that continues the one above, with nothing in its first cell, has to stay below it.
    sortable = len(rows) > 1 and all(row[0] for row in rows)
    longest = (max(map(len, column)) for column in zip(table.columns, *rows, strict=True))
    caption = _text(table.caption)
    return _fill(
        "table.html",
        wide=" wide" * (sum(min(length, 30) for length in longest) > WIDE),
        label=caption or table.name,
        kinds="sortable" * sortable + " filter" * (sortable and len(rows) > FILTER_ROWS),
        plot=_text(table.plot),
        head="".join(map(_cell, repeat('th scope="col"'), table.columns, left)),
        body="".join(f"<tr>{''.join(map(_cell, repeat('td'), row, left))}</tr>\n" for row in rows),
        caption=f'<p class="caption">{caption}</p>' if caption else "",
    )


def _cell(tag: str, text: str, left: bool) -> str:
    long = "long" if " " in text else "name"  # a name breaks on paper alone
    kinds = " ".join(["word"] * left + [long] * (len(text) > 24))
    inner = _mark(text) if text in MARKS else _text(text)
    kinds = f' class="{kinds}"' if kinds else ""
    return f"<{tag}{kinds}>{inner}</{tag[:2]}>"


def _anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


# Figures -----------------------------------------------------------------------------------------


def restyle_svg(picture: Picture) -> str:
    """A picture's SVG in the page's own colours, and scaled by its style sheet."""
    svg = picture.svg[picture.svg.index("<svg") :].strip()
    svg = svg.replace(INK, "var(--ink, currentColor)").replace(PAPER, "none")
    # Names of parts, the same in every figure, which nothing refers to.
    svg = re.sub(r'<g id="\w+_\d+">', "<g>", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    width = 96 * picture.figure.get_figwidth()  # inches in pixels
    return svg.replace("<svg", f'<svg style="max-width: {width:.0f}px"', 1)


def collect_points(figure: Figure) -> str:
    """Every panel's labelled lines, as a script of JSON: y by epoch, or else x alone.

    Places are in units of the SVG's viewBox, which are points from the upper left corner. The
    figure has to be drawn already: its layout is made then.
    """
    scale = 72 / figure.dpi
    to_svg = Affine2D().scale(scale, -scale).translate(0, 72 * figure.get_figheight())
    panels = []
    for axis in figure.axes:
        # matplotlib's labels of nothing begin with `_`.
        named = (line for line in axis.lines if not str(line.get_label()).startswith("_"))
        if lines := [points for line in named if (points := _read_line(axis, line, to_svg))]:
            (left, bottom), (right, top) = to_svg.transform(axis.get_window_extent()).round(1)
            title = axis.get_xlabel()
            if title == EPOCH:
                title = axis.get_title("left") or axis.get_ylabel()
            box = [left, top, right, bottom]
            panels.append({"box": box, "title": printable(title), "lines": lines})
    if not panels:
        return ""
    data = json.dumps(panels, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="points">{data}</script>'


def _read_line(axis: Axes, line: Line2D, to_svg: Affine2D) -> dict[str, Any]:
    """The label and the points of a line; nothing where it has no point."""
    data = np.asarray(line.get_xydata(), dtype=np.float64)
    data = data[np.isfinite(data).all(axis=1)]
    if axis.get_yscale() == "log":
        data = data[data[:, 1] > 0]
    if not len(data):
        return {}
    if len(data) > MOST_POINTS:  # both ends stay
        data = data[np.linspace(0, len(data) - 1, MOST_POINTS).round().astype(int)]
    x, y = (axis.transData + to_svg).transform(data).round(1).T
    epochs = axis.get_xlabel() == EPOCH
    return {
        "label": printable(str(line.get_label())),
        "x": x.tolist(),
        "y": y.tolist(),
        "epoch": data[:, 0].astype(int).tolist() if epochs else [],
        "value": [f"{value:.4g}" for value in data[:, int(epochs)]],
    }
