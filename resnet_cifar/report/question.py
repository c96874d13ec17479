"""One question in one setting: its cells, their differences, curves, and deciding early."""

from __future__ import annotations

from resnet_cifar.report import figures, numbers
from resnet_cifar.report.document import Column, Part, Picture, Table, escape, heading
from resnet_cifar.report.groups import name_key
from resnet_cifar.report.images import images_part
from resnet_cifar.report.study import AUGMENTED, VAL
from resnet_cifar.report.tables import Tables, find_settled_epoch
from resnet_cifar.runs.table import records


def question_part(answer: Tables, skipped: dict[str, str], draw: bool = True) -> list[Part]:
    """The section of a question: tables, and figures where there is room for them.

    Args:
        skipped: predictions that can't be read are added to it.
        draw: with figures, not tables alone.
    """
    group = answer.group
    title = heading(f"{group.question.question} – {group.setting}", 3)
    parts: list[Part] = [title, cells_table(answer), *_differences_part(answer, draw)]
    if not draw:
        return parts
    caption = (
        "Validation (strong; thin, its single runs; from three seeds on with a 95 % band), "
        "training (faint: running mean in training mode on augmented images) and the augmented "
        "validation view (crosses)."
    )
    if len(group.labels) > figures.MOST_LINES:
        caption += f" The best {figures.MOST_LINES} of {len(group.labels)} cells are drawn."
    parts.append(Picture(f"curves-{group.name}", figures.draw_curves(answer), caption))
    parts += _early_part(answer)
    if answer.grid is not None:
        caption = "Mean validation accuracy; dashed, lines of equal product."
        parts.append(Picture(f"map-{group.name}", figures.draw_map(answer.grid), caption))
    return parts + images_part(group, skipped)


def cells_table(answer: Tables) -> Table:
    """The cells of a group with everything measured at their last epoch."""
    group, frame = answer.group, answer.cells
    columns: dict[str, Column] = {name_key(key): numbers.value_column(key) for key in group.vary}
    columns = columns or {"cell": "cell"}
    words = (*columns, "verdict")
    known = frame["verdict"].any()
    columns["n"] = "n"
    if known:
        columns |= {
            "published %": numbers.percent_column("published"),
            "replications %": numbers.range_column("replications"),
            "predicted %": numbers.range_column("prediction"),
        }
    columns |= {
        "val %": numbers.mean_column(VAL),
        "val augmented %": numbers.mean_column(AUGMENTED),
        "train %": numbers.mean_column("accuracy/train"),
        "val loss": numbers.mean_column("loss/val", 1, 4),
        "train loss": numbers.mean_column("loss/train", 1, 4),
    }
    if known:
        columns["verdict"] = "verdict"
    return Table(f"cells-{group.name}", frame, columns, words=words)


def _differences_part(answer: Tables, draw: bool) -> list[Part]:
    group, frame = answer.group, answer.differences
    if frame.empty:
        return []
    columns: dict[str, Column] = {
        "cell": "label",
        "against": "against",
        "points": numbers.difference_column,
        "n": "n",
    }
    if frame["seeds"].notna().any():
        columns["seeds needed"] = numbers.count_column("seeds")
    caption = "Validation accuracy against the best cell, paired by seed."
    name, words = f"differences-{group.name}", ("cell", "against")
    table = Table(name, frame, columns, caption, words, detail=True)
    if not draw or (len(frame) == 1 and frame["n"].max() == 1):
        return [table]  # a single dot tells nothing
    caption = (
        "Differences to the best cell, paired by seed; a dot is a pair, a bar a 95 % interval, "
        "from three pairs on."
    )
    return [table, Picture(name, figures.draw_differences(answer), caption)]


def _early_part(answer: Tables) -> list[Part]:
    """The cell that deciding at an earlier epoch picks, in words and in a figure of ranks."""
    picks = answer.picks
    if picks.empty:
        return []
    last, best = int(picks["epoch"].iloc[-1]), picks["label"].iloc[-1]
    wrong = picks[~picks["right"]]
    if wrong.empty:
        text = f"Deciding at any epoch would have picked {best}, as the last epoch does."
        return [escape(text)]
    worst = records(wrong.sort_values("behind"))[-1]
    sentence = (
        f"Deciding early: from epoch {find_settled_epoch(picks)} of {last} on the pick is {best}, "
        f"as at the end. At epoch {worst['epoch']} it would have been {worst['label']}, which ends "
        f"{100 * worst['behind']:.2f} points lower."
    )
    caption = "Ranks of the cells' mean validation accuracy by epoch."
    picture = Picture(f"ranks-{answer.group.name}", figures.draw_ranks(answer), caption)
    return [escape(sentence), picture]
