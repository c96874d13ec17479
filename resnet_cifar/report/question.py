"""One question in one setting: cells, differences, curves, deciding early."""

from resnet_cifar.report import figures
from resnet_cifar.report.document import COLUMNS, WORDS, Column, Part, Picture, Table, escape
from resnet_cifar.report.groups import name_key
from resnet_cifar.report.tables import Tables, find_settled_epoch
from resnet_cifar.runs.table import records


def question_part(answer: Tables, draw: bool = True) -> list[Part]:
    """The section of a question: tables, and figures if it is to `draw` them."""
    group = answer.group
    parts: list[Part] = [cells_table(answer)]
    if len(answer.differences):
        name, words = f"differences-{group.name}", ("more than chance?",)
        columns, caption = COLUMNS["differences"], WORDS["differences"]
        parts.append(Table(name, answer.differences, columns, caption, words))
    if not draw:
        return parts
    caption = WORDS["curves"]
    ran = int((answer.cells["n"] > 0).sum())
    if ran > (drawn := sum(len(cells) for _, cells in figures.arrange(answer))):
        caption += f" The best {drawn} of {ran} cells are drawn."
    parts.append(Picture(f"curves-{group.name}", figures.draw_curves(answer), caption))
    parts += _early_part(answer)
    if answer.grid is not None:
        parts.append(Picture(f"map-{group.name}", figures.draw_map(answer), WORDS["map"]))
    return parts


def cells_table(answer: Tables) -> Table:
    """The cells of a group with everything measured at their last epoch."""
    group, frame = answer.group, answer.cells
    columns: dict[str, Column] = {name_key(key): ("value", key) for key in group.vary}
    columns = columns or {"cell": "cell"}
    words = tuple(columns)
    columns |= COLUMNS["cells"]
    columns |= {m + " %" * m.startswith("accuracy"): ("mean", m) for m in answer.claimed}
    columns |= COLUMNS["diverged"] if frame["diverged"].any() else {}
    caption = WORDS["own view"] if "augmentation" in group.vary else ""
    table = Table(f"cells-{group.name}", frame, columns, caption, words=words)
    return table.compact(*words, "n", "val %")


def _early_part(answer: Tables) -> list[Part]:
    """The cell that deciding at an earlier epoch picks, in words and in a figure of ranks."""
    picks = answer.picks
    if picks.empty:
        return []
    last, best = picks["epoch"].iloc[-1], picks["label"].iloc[-1]
    if picks["right"].all():
        return [escape(f"Deciding at any epoch would have picked {best}, as the last epoch does.")]
    worst = records(picks[~picks["right"]].sort_values("behind"))[-1]
    sentence = (
        f"Deciding early: from epoch {find_settled_epoch(picks)} of {last} on the pick is {best}, "
        f"as at the end. At epoch {worst['epoch']} it would have been {worst['label']}, which ends "
        f"{100 * worst['behind']:.2f} points lower."
    )
    name = f"ranks-{answer.group.name}"
    picture = Picture(name, figures.draw_ranks(answer), WORDS["ranks"])
    return [escape(sentence), picture]
