"""The README's pictures.

    python docs/images/make.py          published.svg and questions.svg, from committed records
    python docs/images/make.py --demo   sweep.svg and answer.svg: the demo, trained in tmux

A picture is 800 pixels wide, on paper of its own. The same records give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package of this checkout, whatever is installed

from resnet_cifar.identity import number  # noqa: E402
from resnet_cifar.report import figures  # noqa: E402
from resnet_cifar.report.figures import COLORS, FAINT, INK, Figure, Line2D  # noqa: E402
from resnet_cifar.report.groups import group_by_question, last_values  # noqa: E402
from resnet_cifar.report.study import (  # noqa: E402
    AUGMENTED,
    VAL,
    Selector,
    load_published,
    load_questions,
    matches,
)
from resnet_cifar.report.tables import FEWEST_FOR_A_BAND, tabulate  # noqa: E402
from resnet_cifar.runs.table import load_runs, records  # noqa: E402

IMAGES, RUNS = ROOT / "docs" / "images", ROOT / "experiments" / "results" / "runs"
WIDTH, SMALL = 600 / 72, 8.5  # inches, and points: 800 pixels and 11.3
LR, WD, DETACH = "optimizer.lr", "regularization.weight_decay", "norm.detach"
SHORT = {"data": ["cifar10"], "model.width": [16], "trainer.epochs": [15]}
# The study's questions at width 16: title, question, the key that varies, the runs that are shown.
QUESTIONS: tuple[tuple[str, str, str, Selector], ...] = (
    ("learning rate\n15 epochs, constant", "learning_rate", LR, SHORT),
    ("schedule\n15 epochs, lr 0.01", "schedule", "scheduler", SHORT | {LR: [0.01]}),
    ("weight decay\n15 epochs, lr 0.01, cosine", "weight_decay", WD, SHORT | {LR: [0.01]}),
    (
        "gradient stopped through\n(BatchNorm), 5 epochs,\nlr 0.01, cosine, decay 0.01",
        *("detach", DETACH, SHORT | {"trainer.epochs": [5], WD: [0.01]}),
    ),
)
DEMO = "python train.py experiment=quickstart"
WORDS = {"none": "nothing", "var": "variance", "both": "both"}
RUN = {"marker": "o", "ms": 5, "ls": "", "color": COLORS[0], "alpha": 0.85}
MEAN = {"marker": "|", "ms": 12, "lw": 1.8, "color": COLORS[0], "markevery": [1]}
RANGE = {"color": FAINT, "lw": 7, "alpha": 0.5, "solid_capstyle": "butt"}
SOFT = "#62625e"
REPETITION = {"marker": "|", "ms": 8, "ls": "", "color": SOFT}
PUBLISHED = {"marker": "D", "ms": 5, "ls": "", "color": INK}


def draw_published(runs: pd.DataFrame) -> Figure:
    """Every cell of the study: the published value, the repetitions' range, and a dot a run here.

    The axis is broken: the detached cell ends some seventy points below the others.
    """
    cells, done = load_published(), runs[runs["status"] == "completed"]
    title = (
        "The study's eight cells (ResNet-18, width 64, CIFAR-10): validation accuracy at the last "
        "epoch, augmented images, %"
    )
    grid = {"ncols": 3, "sharey": True, "width_ratios": (1, 3.4, 1.1)}
    with figures.panels(WIDTH, 3.7, title, **grid) as (figure, axes):
        for y, cell in enumerate(cells):
            repeated = [100 * value for value in cell.values(AUGMENTED).values()]
            ours = 100 * last_values(done[matches(done, cell.selector)], AUGMENTED)
            for axis in axes[:2]:
                axis.plot([min(repeated), max(repeated)], [y + 0.15] * 2, **RANGE)
                axis.plot(repeated, [y + 0.15] * len(repeated), **REPETITION)
                axis.plot(ours, [y + 0.15] * len(ours), **RUN)
                axis.plot(100 * cell.published[AUGMENTED], y - 0.2, **PUBLISHED)
            text = f"{ours.mean():.2f}  (n = {len(ours)})" if len(ours) else "not trained yet"
            axes[2].text(0, y, text, va="center", color=INK if len(ours) else SOFT)
        for axis, ends in zip(axes, ((19, 29), (79.5, 96), (0, 1)), strict=True):
            axis.set_xlim(ends)
            axis.set_ylim(len(cells) - 0.5, -0.6)
            axis.grid(axis="y", visible=False)
            axis.tick_params(left=False)
        axes[1].spines["left"].set_visible(False)
        for axis, x in ((axes[0], 1), (axes[1], 0)):  # where the axis is broken
            cut = {"marker": [(-1, -2), (1, 2)], "ms": 8, "color": FAINT, "clip_on": False}
            axis.plot(x, 0, transform=axis.transAxes, **cut)
        axes[2].set_axis_off()
        axes[2].text(0, -1, "trained here", va="center", fontweight="bold")
        epochs = [cell.selector["trainer.epochs"][0] for cell in cells]
        labels = [f"{cell.name}, {count} epochs" for cell, count in zip(cells, epochs, strict=True)]
        axes[0].set_yticks(range(len(cells)), labels)
        names = {
            "published, one run": PUBLISHED,
            "a public repetition": REPETITION,
            "their range": RANGE,
            "a run here": RUN,
        }
        draw_key(figure, names)
    return figure


def draw_questions(runs: pd.DataFrame) -> Figure:
    """The study's questions at width 16: a dot a run, from three runs the mean's interval."""
    title = (
        "The study's questions at width 16 (CIFAR-10): validation accuracy at the last epoch, "
        "clean images, %"
    )
    questions = {question.name: question for question in load_questions()}
    with figures.panels(WIDTH, 2.9, title, ncols=len(QUESTIONS)) as (figure, axes):
        for axis, (name, question, key, selector) in zip(axes, QUESTIONS, strict=True):
            asked = questions[question]
            shown = runs[matches(runs, asked.where | selector)]
            group = max(group_by_question(shown, [asked]), key=lambda group: len(group.runs))
            table = tabulate(group, group.runs, ()).cells
            for y, row in enumerate(records(table)):
                seen = 100 * group.values(row["cell"], VAL)
                axis.plot(seen, [y] * len(seen), **RUN)
                if row["n"] >= FEWEST_FOR_A_BAND:
                    ends = [100 * row[end] for end in (f"{VAL}/low", VAL, f"{VAL}/high")]
                    axis.plot(ends, [y] * 3, **MEAN)
            axis.set_yticks(range(len(table)), [WORDS.get(v, number(v)) for v in table[key]])
            axis.set_ylim(len(table) - 0.4, -0.6)
            axis.grid(axis="y", visible=False)
            axis.set_title(name, fontsize=SMALL, x=-0.3)
        draw_key(figure, {"a run": RUN, "mean with its 95 % interval (three runs or more)": MEAN})
    return figure


def draw_key(figure: Figure, looks: dict[str, dict[str, Any]]) -> None:
    """Say below the figure what its marks are."""
    lines = [Line2D([0, 0, 0], [0, 0, 0], **look, label=name) for name, look in looks.items()]
    figure.legend(handles=lines, loc="outside lower left", ncols=4, fontsize=SMALL)


PICTURES = {"published.svg": draw_published, "questions.svg": draw_questions}


def record_demo(to: Path) -> None:
    """Train the demo in a terminal of 100 columns; its screen while it trains, and at its end."""
    tmux = ("tmux", "-L", f"pictures-{os.getpid()}")
    with tempfile.TemporaryDirectory() as folder:
        # In an empty folder: the demo's own is neither used nor named.
        # As in an activated environment: the answer's commands begin with `python`.
        path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
        command = shlex.join(["env", path, "python", str(ROOT / "train.py"), *DEMO.split()[2:]])
        size = ("-x", "100", "-y", "20", "-c", folder)
        output(
            *tmux, "new-session", "-d", *size, command, ";", "set-option", "remain-on-exit", "on"
        )
        screens: list[str] = []
        while output(*tmux, "display-message", "-p", "#{pane_dead}").strip() != "1":
            screens.append(output(*tmux, "capture-pane", "-e", "-p"))
            time.sleep(1)
        screens.append(output(*tmux, "capture-pane", "-e", "-p", "-S", "-"))  # with what scrolled
        output(*tmux, "kill-server")
    for name, screen in (("sweep", screens[5 * len(screens) // 6]), ("answer", screens[-1])):
        screen = re.sub(r"\n.*Pane is dead.*", "", screen)
        svg = output(sys.executable, str(IMAGES / "terminal.py"), DEMO, input=screen)
        (to / f"{name}.svg").write_text(svg, encoding="utf-8")


def output(*command: str, input: str = "") -> str:
    """Run a command, and return its output."""
    return subprocess.run(command, input=input, stdout=-1, text=True, check=True).stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--demo", action="store_true", help="the demo's pictures, too (minutes)")
    parser.add_argument("--to", type=Path, default=IMAGES, help="another folder")
    chosen = parser.parse_args()
    committed = load_runs(RUNS)
    for file, draw in PICTURES.items():
        (chosen.to / file).write_text(figures.draw_svg(draw(committed)), encoding="utf-8")
    if chosen.demo:
        record_demo(chosen.to)
