"""Figures on the page: their SVG in the page's colours, and the points the pointer finds."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from resnet_cifar.report import canvas
from resnet_cifar.report.canvas import Axes, Figure
from resnet_cifar.text import printable

# Points of a line the pointer can find. Sixty are one every ten pixels of a panel.
MOST_POINTS = 60


def restyle_svg(svg: str) -> str:
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


def collect_points(figure: Figure) -> str:
    """Every panel whose x axis counts epochs, with its labelled lines, as a script of JSON.

    Places are in units of the SVG's viewBox, which are points from the upper left corner. The
    figure has to be drawn already: its layout is made then.
    """
    panels = []
    for axis in figure.axes:
        lines = [_line(figure, axis, line) for line in axis.lines if _is_labelled(line)]
        lines = [line for line in lines if line["x"]]
        if axis.get_xlabel() == "epoch" and lines:
            x, y = _convert_to_svg(figure, axis.get_window_extent().get_points())
            box = [x[0], y[1], x[1], y[0]]
            title = axis.get_title("left") or axis.get_title() or axis.get_ylabel()
            panels.append({"box": box, "title": printable(title), "lines": lines})
    if not panels:
        return ""
    data = json.dumps(panels, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="points">{data}</script>'


def _is_labelled(line: Any) -> bool:
    """True if there is something to point at: matplotlib's labels of nothing begin with `_`."""
    return not str(line.get_label()).startswith("_")


def _line(figure: Figure, axis: Axes, line: Any) -> dict[str, Any]:
    data = np.asarray(line.get_xydata(), dtype=np.float64)
    data = data[np.isfinite(data).all(axis=1)]
    if axis.get_yscale() == "log":
        data = data[data[:, 1] > 0]
    if len(data) > MOST_POINTS:  # both ends stay
        data = data[np.linspace(0, len(data) - 1, MOST_POINTS).round().astype(int)]
    x, y = _convert_to_svg(figure, axis.transData.transform(data) if len(data) else data)
    return {
        "label": printable(str(line.get_label())),
        "x": x,
        "y": y,
        "epoch": [int(epoch) for epoch in data[:, 0]],
        "value": [f"{value:.4g}" for value in data[:, 1]],
    }


def _convert_to_svg(figure: Figure, places: Any) -> tuple[list[float], list[float]]:
    """matplotlib's pixels [n, 2], counted from below, as x and y of the SVG."""
    points = np.asarray(places, dtype=np.float64) * 72 / figure.dpi
    top = 72 * figure.get_figheight()
    return points[:, 0].round(1).tolist(), (top - points[:, 1]).round(1).tolist()
