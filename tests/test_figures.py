"""The report's figures and the README's: colours, labels, panels, and what they say of the runs."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made_up import FULL, make_run
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from resnet_cifar.report import contents, document, figures, flow, tables
from resnet_cifar.report.groups import group_by_question, group_by_setting
from resnet_cifar.report.study import VAL, load_published, load_questions, matches
from resnet_cifar.runs.table import load_metrics, load_probe, load_runs

LR, WD = "optimizer.lr", "regularization.weight_decay"
SHORT = ["model.width=16", "trainer.epochs=5"]
SETTING = "CIFAR-10, width 16, 15 epochs"
QUESTIONS = ("learning_rate", "schedule", "lr_x_wd", "detach")

# Colour ------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), severity 1, in linear RGB:
# www.inf.ufrgs.br/~oliveira/pubs_files/CVD_Simulation/CVD_Simulation.html
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
# CIE 15: sRGB's primaries in XYZ, and its white D65.
XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
WHITE = XYZ.sum(axis=1)
# 2.3 is just noticeable side by side. Thin lines apart need more: these are six times that.
KINDS_APART, VALUES_APART = 15.0, 7.0


def linear(color: str) -> np.ndarray:
    shade = np.array(to_rgb(color))
    return np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """By WCAG 2: 3 for what one has to see, 4.5 for what one has to read."""
    low, high = sorted(float(XYZ[1] @ linear(color)) for color in (first, second))
    return (high + 0.05) / (low + 0.05)


def distance(first: str, second: str, vision: str) -> float:
    """CIE 1976 ΔE of two colours as seen with a kind of colour vision."""
    places = []
    for color in (first, second):
        t = XYZ @ (VISIONS[vision] @ linear(color)).clip(0, 1) / WHITE
        x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
        places.append(np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]))
    return float(np.linalg.norm(places[0] - places[1]))


def schemes() -> list[tuple[str, str]]:
    """Ink and paper, light and dark: the file's own, and the page's."""
    style = (ROOT / "resnet_cifar/report/style.css").read_text()
    inks, papers = (re.findall(rf"--{name}: (#[0-9a-f]{{6}})", style) for name in ("ink", "paper"))
    assert len(inks) == len(papers) == 2
    return [(figures.INK, figures.PAPER), *zip(inks, papers, strict=True)]


def test_the_distances_are_those_of_the_literature() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example
    assert distance("#ffffff", "#000000", "all cones") == pytest.approx(100, abs=0.01)
    assert distance("#ff0000", "#00ff00", "all cones") == pytest.approx(170.6, abs=0.1)
    red_green = [distance("#c00000", "#6a6a00", vision) for vision in ("all cones", "protanopia")]
    assert red_green[1] < red_green[0] / 2


@pytest.mark.parametrize("vision", VISIONS)
def test_kinds_are_told_apart_with_any_colour_vision(vision: str) -> None:
    for ink, _ in schemes():
        colors = [ink if color == figures.INK else color for color in figures.COLORS]
        for first, second in itertools.combinations(colors, 2):
            assert distance(first, second, vision) > KINDS_APART, (first, second)


@pytest.mark.parametrize("count", [4, 5])
def test_values_are_told_apart_in_their_order(count: int) -> None:
    colors = list(figures.color_values([10.0**-i for i in range(count)]).values())
    lightness = [float(XYZ[1] @ linear(color)) for color in colors]
    assert lightness == sorted(lightness)
    for vision in VISIONS:
        assert min(map(distance, colors, colors[1:], itertools.repeat(vision))) > VALUES_APART


def test_every_colour_stands_out_on_every_paper() -> None:
    for ink, paper in schemes():
        assert contrast(ink, paper) > 7
        for color in figures.COLORS[:-1]:
            assert contrast(color, paper) > 3, (color, paper)
        for color in figures.color_values(range(8)).values():
            assert contrast(color, paper) > 2.4, (color, paper)


def test_numbers_keep_their_colours_in_order_and_kinds_their_own() -> None:
    assert list(figures.color_values(["b", "a"])) == ["b", "a"]
    assert list(figures.color_values([0.1, 0.01])) == ["0.01", "0.1"]
    assert list(figures.color_values([0.1, 0.01]).values()) == list(figures.COLORS[:2])
    assert figures.color_values([True, False, None])  # of one key some cells may have no value
    assert list(figures.color_values([0.3, math.nan, 0.1])) == ["0.1", "0.3", "nan"]
    many = figures.color_values([5e-4, 1e-2, 1e-3, 5e-3])
    assert list(many) == ["0.0005", "0.001", "0.005", "0.01"]
    assert not set(many.values()) & set(figures.COLORS)


# Every figure of a report ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers() -> dict[str, tables.Tables]:
    """Committed runs at width 16: four questions by name, and all cells of 15 epochs as "best".

    Three cells; two; sixteen and eight of two keys; many of several keys and of unequal seeds.
    """
    asked = [q for q in load_questions() if q.name in QUESTIONS]
    runs = load_runs(ROOT / "experiments" / "results" / "runs")
    runs = runs[(runs["model.width"] == 16) & (runs["trainer.epochs"] <= 15)]
    runs = runs[np.any([matches(runs, q.where) for q in asked], axis=0)]
    curves, published = load_metrics(runs), load_published()
    groups = sorted(group_by_question(runs, asked), key=lambda group: len(group.runs))
    groups += group_by_setting(runs)[:1]
    found = {g.question.name: tables.tabulate(g, curves, published) for g in groups}
    return {name: found[name] for name in (*QUESTIONS, "best")}


@pytest.fixture(scope="module")
def pictures(answers: dict[str, tables.Tables]) -> dict[str, Figure]:
    """Every figure that a report has of these, drawn, by its file's name."""
    before = dict(mpl.rcParams)
    parts = contents.best_part([answers["best"]])
    for name in ("learning_rate", "lr_x_wd", "detach"):
        parts += contents.question_part(answers[name])
    asked, probe = answers["detach"], load_probe(answers["detach"].group.runs)
    parts += flow.flow_part(asked.group, asked.runs, probe)
    found = [part for part in parts if isinstance(part, document.Picture)]
    assert all(part.svg.startswith("<?xml") for part in found)  # drawn
    assert dict(mpl.rcParams) == before  # nothing global is touched
    kinds = {part.name.partition("-")[0] for part in found}
    assert kinds == {"overview", "curves", "ranks", "map", "flow", "losses", "rotation"}
    return {part.name: part.figure for part in found}


def texts(axis: Axes) -> list[str]:
    ticks = [*axis.get_xticklabels(which="both"), *axis.get_yticklabels(which="both")]
    return [tick.get_text() for tick in ticks]


def test_the_setting_stands_in_every_figure(pictures: dict[str, Figure]) -> None:
    for name, figure in pictures.items():
        title = "" if figure._suptitle is None else figure._suptitle.get_text()
        if name == "overview":
            titles = [axis.get_title("right") for axis in figure.axes]
            assert SETTING in titles
            labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
            assert all("(n = " in label for label in labels)
        else:
            assert re.search(r"CIFAR-10, width \d+, \d+ epochs.*; n = \d", " ".join(title.split()))


def test_ticks_are_written_as_people_do(pictures: dict[str, Figure]) -> None:
    logarithmic = 0
    for figure in pictures.values():
        for axis in figure.axes:
            logarithmic += axis.get_yscale() == "log"
            for text in texts(axis):
                assert not re.search(r"e(\+|-0?[1-4]$)|\$", text), text
    assert logarithmic > 10


@pytest.mark.parametrize(
    ("limits", "expected"), [((0.5, 2.2), ["0.6", "1", "2"]), ((0.002, 90), ["0.01", "0.1", "10"])]
)
def test_a_logarithmic_axis(limits: tuple[float, float], expected: list[str]) -> None:
    with figures.panels(3, 2) as (figure, axis):
        figures.set_log_scale(axis)
        axis.set_ylim(limits)
    FigureCanvasAgg(figure).draw()
    seen = [tick.get_text() for tick in axis.get_yticklabels(which="both")]
    assert set(expected) <= set(seen)


# Labels at the ends of lines ---------------------------------------------------------------------


def ends(axis: Axes) -> list[Annotation]:
    return [text for text in axis.texts if isinstance(text, Annotation)]


def overlapping(figure: Figure) -> Iterator[tuple[str, str]]:
    """Pairs of labels, or a label and a panel, of which one covers the other."""
    renderer, boxes = FigureCanvasAgg(figure).get_renderer(), {}
    for axis in figure.axes:
        boxes[axis.get_title("center") or axis.get_ylabel(), id(axis)] = axis.bbox
        for label in ends(axis):
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # the words alone
            boxes[label.get_text(), id(label)] = box
            inside = box.x0 >= axis.bbox.x1 and box.x1 <= figure.bbox.x1
            assert inside, label.get_text()
    for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
        if first.shrunk(0.98, 0.98).overlaps(second.shrunk(0.98, 0.98)):
            yield a[0], b[0]


def test_no_label_covers_another(pictures: dict[str, Figure]) -> None:
    labelled = 0
    for figure in pictures.values():
        labelled += sum(len(ends(axis)) for axis in figure.axes)
        assert not list(overlapping(figure))
        assert not any(axis.get_legend() for axis in figure.axes)  # none lies over the data
    assert labelled > 40


@pytest.mark.parametrize("count", [2, 5, 12])
def test_labels_of_equal_ends_are_moved_apart_and_stay_in_order(count: int) -> None:
    with figures.panels(4, 3) as (figure, axis):
        figures.label_epochs(axis)
        for i in range(count):
            axis.plot([1, 2], [0, 1 + i / 1e4])
            figures.label_end(axis, 1 + i / 1e4, f"lr 0.00{i}", "black")
    assert not list(overlapping(figure))
    heights = [label.xyann[1] + 1e-4 * i for i, label in enumerate(ends(axis))]
    assert heights == sorted(heights)
    assert sum(label.arrow_patch is not None for label in ends(axis)) == count  # a thin connector


def test_a_label_that_is_alone_stays_at_its_line() -> None:
    with figures.panels(4, 3) as (_, axis):
        for y in (0, 1):
            axis.plot([1, 2], [0.5, y])
            figures.label_end(axis, y, f"{y}", "black")
    assert [label.xyann[1] for label in ends(axis)] == pytest.approx([0, 0])


def test_a_long_label_loses_its_middle_and_no_number() -> None:
    label = "lr 0.01, cosine, weight decay 0.01, ema decay 0.999, augmentation cutout"
    assert figures.shorten_label(label) == "lr 0.01, …, augmentation cutout"
    assert figures.shorten_label("lr 0.01, cosine") == "lr 0.01, cosine"
    assert len(figures.shorten_label("x" * 300)) <= 52


# Panels ------------------------------------------------------------------------------------------


def panels_of(figure: Figure, quantity: str = "accuracy (%)") -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_ylabel() == quantity]


def cells_drawn(axis: Axes) -> set[str]:
    """The cells whose mean or single run is drawn to be looked at, not grey behind the others."""
    labels = (str(x.get_label()) for x in axis.lines if x.get_color() != figures.FAINT)
    return {re.sub(r", (mean of \d+|seed \d+)$", "", x) for x in labels if re.search(r"\d$", x)}


def test_few_cells_share_one_panel(answers: dict[str, tables.Tables]) -> None:
    accuracy, loss = figures.draw_curves(answers["learning_rate"]).axes
    names = ["lr 0.001", "lr 0.01", "lr 0.1"]
    for axis in (accuracy, loss):
        assert [label.get_text() for label in ends(axis)] == names
        assert cells_drawn(axis) >= set(names)
    colors = {to_hex(str(line.get_color())) for line in accuracy.lines}
    assert colors == set(figures.COLORS[:3])


@pytest.mark.parametrize(("question", "titles", "cells"), [("lr_x_wd", 4, 4), ("detach", 2, 4)])
def test_two_keys_have_a_panel_for_each_value_of_one(
    question: str, titles: int, cells: int, answers: dict[str, tables.Tables]
) -> None:
    answer = answers[question]
    figure = figures.draw_curves(answer)
    for quantity in ("accuracy (%)", "loss (nats)"):
        axes = panels_of(figure, quantity)
        shown = [axis.get_title("center") for axis in axes]
        assert shown == [f"weight decay {value:g}" for value in sorted(answer.grid.index)]
        assert len(shown) == titles
        assert len({axis.get_ylim() for axis in axes}) == 1  # one scale
        for axis in axes:
            names = {label.get_text() for label in ends(axis)}
            assert len(names) == len(cells_drawn(axis)) == cells
            assert {cell.partition(",")[0] for cell in cells_drawn(axis)} == names
            grey = [line for line in axis.lines if line.get_color() == figures.FAINT]
            assert len(grey) == (titles - 1) * cells
            assert all(str(line.get_label()).startswith("_") for line in grey)


def test_one_cell_has_a_figure(answers: dict[str, tables.Tables]) -> None:
    answer = answers["schedule"]
    runs = answer.group.everything
    mine = runs[runs["scheduler"] == "cosine"]
    alone = dataclasses.replace(answer.group, everything=mine, vary=())
    axis, _ = figures.draw_curves(tables.tabulate(alone, answer.runs)).axes
    assert [end.get_text() for end in ends(axis)] == list(alone.labels.values())


def test_from_six_cells_on_each_has_a_panel(answers: dict[str, tables.Tables]) -> None:
    """Cells of several keys: the best sixteen, in the group's order; accuracy alone."""
    answer = answers["best"]
    best = set(answer.cells.nlargest(figures.MOST_PANELS, VAL)["cell"])
    cells = [cell for cell in answer.group.labels if cell in best]
    assert len(cells) == 16 < len(answer.group.labels)
    axes = figures.draw_curves(answer).axes
    for axis, cell in zip(axes, cells, strict=True):
        label = answer.group.labels[cell]
        assert axis.get_title("center") == figures.shorten_label(label, 38)
        assert cells_drawn(axis) == {label}
        assert sum(line.get_color() == figures.FAINT for line in axis.lines) == len(axes) - 1
        assert axis.get_ylabel() == "accuracy (%)"
        assert axis.get_xlabel() == "epoch"  # pointing at a line tells its value
        mean = answer.group.values(cell, VAL).mean()
        assert [end.get_text() for end in ends(axis)] == [f"{100 * mean:.3g}"]


# Deciding early, the map, dots -------------------------------------------------------------------


def test_picks_are_over_the_seeds_of_the_table(answers: dict[str, tables.Tables]) -> None:
    """The table's means are what is ranked, however many seeds each cell has."""
    assert answers["best"].cells["n"].nunique() > 1
    for answer in answers.values():
        means = answer.cells.set_index("cell")[VAL]
        last = answer.picks.iloc[-1]
        ranks = {cell: last[f"rank/{cell}"] for cell in means.index}
        assert ranks == means.rank(ascending=False, method="min").to_dict()
        assert last["cell"] == means.idxmax()
        for row in answer.picks[~answer.picks["right"]].to_dict("records"):
            assert row["behind"] == pytest.approx(means.max() - means[row["cell"]])
        title = figures.draw_ranks(answer)._suptitle
        assert title is not None
        seeds = sorted(answer.group.runs["seed"].unique())
        words = " ".join(title.get_text().split())
        assert words.endswith(f", seeds {', '.join(map(str, seeds))}")


def test_ranks_of_many_cells_show_what_was_picked(answers: dict[str, tables.Tables]) -> None:
    answer = answers["lr_x_wd"]
    figure = figures.draw_ranks(answer)
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    colored = {name for name, line in lines.items() if line.get_color() != figures.FAINT}
    picked = list(answer.picks["label"])
    assert picked[-1] in colored
    assert answer.picks.sort_values("behind")["label"].iloc[-1] in colored  # the sentence names it
    assert colored <= set(picked)
    assert len({line.get_color() for line in lines.values()}) == len(colored) + 1
    assert figure.axes[0].get_yticks()[0] == 1


def test_a_map_s_words_can_be_read_on_every_colour(pictures: dict[str, Figure]) -> None:
    maps = [figure for name, figure in pictures.items() if name.startswith("map")]
    for figure in maps:
        axis = figure.axes[0]
        (mesh,) = (each for each in axis.collections if isinstance(each, QuadMesh))
        values = np.ma.masked_invalid(mesh.get_array()).compressed()
        words = {text.get_text(): str(text.get_color()) for text in axis.texts}
        assert set(words) == {f"{value:.1f}" for value in values}
        for value in values:
            assert contrast(to_hex(mesh.to_rgba(value)), words[f"{value:.1f}"]) >= 4.5
    assert maps


def test_words_on_any_shade_of_the_map(answers: dict[str, tables.Tables]) -> None:
    shades = pd.DataFrame(np.linspace(0, 1, 64).reshape(8, 8))
    shades = shades.rename_axis(index=WD, columns=LR)
    answer = tables.Tables(answers["lr_x_wd"].group, answers["lr_x_wd"].runs, ())
    answer.__dict__["grid"] = shades
    axis = figures.draw_map(answer).axes[0]
    (mesh,) = (each for each in axis.collections if isinstance(each, QuadMesh))
    for value, text in zip(shades.to_numpy().flat, axis.texts, strict=True):
        assert contrast(to_hex(mesh.to_rgba(100 * value)), str(text.get_color())) >= 4.5


def test_a_map_s_axes_are_in_order(tmp_path: Path) -> None:
    """Also of words, and where cells are missing."""
    cells = [("constant", "0.0"), ("constant", "0.01"), ("cosine", "0.0"), ("cosine", "5e-4")]
    for schedule, wd in [*cells, ("cosine", "0.01")]:
        make_run(tmp_path, [*SHORT, f"scheduler={schedule}", f"{WD}={wd}"], 0, 0.5)
    questions = [q for q in load_questions() if q.name == "schedule_x_wd"]
    (group, *_) = group_by_question(load_runs(tmp_path), questions)
    grid = tables.tabulate(group, load_metrics(tmp_path)).grid
    assert grid is not None
    assert list(grid.columns) == ["constant", "cosine"]
    assert list(grid.index) == [0, 0.0005, 0.01]
    assert math.isnan(grid.loc[0.0005, "constant"])


def test_a_dot_tells_its_run_and_a_bar_what_it_is(tmp_path: Path) -> None:
    for cell, seed in itertools.product(FULL[:2], range(3)):
        make_run(tmp_path, [cell], seed, 0.84 + seed / 100, augmented=0.83 + seed / 100)
    (group,) = group_by_setting(load_runs(tmp_path))
    answer = tables.tabulate(group, load_metrics(tmp_path), load_published())
    overview = figures.draw_overview([answer])
    labels = [str(line.get_label()) for line in overview.axes[0].lines]
    kinds = [*(f"seed {i}" for i in range(3)), "mean and interval"]
    assert sorted(labels) == sorted(f"{lr}, {x}" for lr in ("lr 0.001", "lr 0.01") for x in kinds)
    assert all("(n = 3)" in text.get_text() for text in overview.axes[0].get_yticklabels())
    low, high = overview.axes[0].transData.transform([(0, 0), (0, 1)])[:, 1]
    assert high - low > 8 * overview.dpi / 72  # rows of eight points stand apart
    (legend,) = overview.legends
    shown = {
        text.get_text(): line for text, line in zip(legend.texts, legend.get_lines(), strict=True)
    }
    assert set(shown) == {"a run", "mean, 95 % interval (n ≥ 3)"}
    lines = {str(line.get_label()).partition(", ")[2]: line for line in overview.axes[0].lines}
    drawn = lines["seed 0"], lines["mean and interval"]
    for key, line in zip(shown.values(), drawn, strict=True):
        assert (key.get_color(), key.get_marker()) == (line.get_color(), line.get_marker())
    assert len({line.get_marker() for line in drawn}) == 2  # told apart by their shape


# The README's pictures ---------------------------------------------------------------------------


def words(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_the_readme_s_pictures_are_those_of_the_committed_records() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "images" / "make.py"))
    records = load_runs(made["RUNS"])
    first, second = (
        {name: figures.draw_svg(draw(records)) for name, draw in made["PICTURES"].items()}
        for _ in range(2)
    )
    assert first == second  # the same bytes
    assert set(first) == {"published.svg", "questions.svg"}
    for name, svg in first.items():
        committed = (ROOT / "docs" / "images" / name).read_text()
        assert words(committed) == words(svg), "python docs/images/make.py"
        assert re.search(r'<svg [^>]*width="600pt"', committed)  # 800 pixels
        for text in (svg, committed):
            sizes = re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", text)
            assert min(map(float, sizes)) >= 11 / 800 * 600
        assert figures.PAPER in committed  # a paper of its own, on any page
    published = words(first["published.svg"])
    assert {cell.removeprefix("cell=") for cell in FULL} == {
        text.partition(",")[0] for text in published if text.endswith("epochs")
    }
    trained = [text for text in published if "n = " in text]
    assert len(trained) + published.count("not trained yet") == len(FULL)
    assert {"published, one run", "a public repetition", "their range", "a run here"} <= {
        *published
    }
    assert "mean with its 95 % interval (three runs or more)" in words(first["questions.svg"])
