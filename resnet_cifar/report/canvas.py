"""The style of all figures, and the files made of them. Nothing global is touched.

Text and lines are drawn in INK and on PAPER, which the HTML page replaces by its own colours, so
that a figure is at home in light and dark. Whoever draws takes matplotlib from here.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_cifar.text import no_backend

with no_backend():
    import matplotlib
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.ticker import LogFormatter
    from matplotlib.ticker import MaxNLocator as MaxNLocator

_STYLE = matplotlib.rc_params_from_file(
    str(Path(__file__).with_name("figures.mplstyle")), use_default_template=False
)
INK, FAINT, PAPER = (_STYLE[key] for key in ("text.color", "axes.edgecolor", "axes.facecolor"))
# After Okabe and Ito's palette (distinguishable with any colour vision), in shades that stand out
# on light and on dark.
COLORS = ("#2b8cce", "#dd6426", "#149c78", "#c470a6", "#7d83d6", "#cc9515")
STYLES = ("-", "--", ":", "-.")


@contextmanager
def panels(width: float, height: float, **subplots: Any) -> Iterator[tuple[Figure, Any]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A label may be in any script; an SVG's text is drawn by the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def draw_svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    buffer = io.StringIO()
    with _drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it has its places; to find them again takes half the time
    return re.sub(r"<[^>]+>", _shorten_numbers, buffer.getvalue())


def _shorten_numbers(tag: re.Match[str]) -> str:
    """A tag with its places to a hundredth of a point. What people read stands between tags."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group())


def draw_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with _drawing():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def label_epochs(axis: Axes) -> None:
    """The x axis counts epochs: whole ones."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def set_log_scale(axis: Axes) -> None:
    """A logarithmic y axis, labelled 0.1 and 1e-07: without powers, which are formulas."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(LogFormatter())
    axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
