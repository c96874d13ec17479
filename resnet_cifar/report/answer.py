"""The first screen: does each claim hold, which cell is best, and is that more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_cifar.report import numbers
from resnet_cifar.report.claims import Judgement
from resnet_cifar.report.document import (
    Column,
    Part,
    Picture,
    Row,
    Table,
    escape,
    heading,
    verdict_line,
)
from resnet_cifar.report.figures import MOST_ROWS, draw_overview
from resnet_cifar.report.study import VAL
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, Estimate, seeds_to_resolve
from resnet_cifar.runs.table import records

FIRST_ROWS = 10  # of the ranked table on the first screen


def claims_part(judgements: Sequence[Judgement]) -> list[Part]:
    """The claims as sentences, each with its verdict and the grounds for it."""
    title = heading("What the runs say")
    if not judgements:
        return [title, "No claim of the study is about these runs."]
    return [title, "\n".join(describe_judgement(judgement) for judgement in judgements)]


def describe_judgement(judgement: Judgement) -> str:
    """A line of Markdown: verdict, claim, setting, differences, remarks."""
    grounds = "; ".join(
        f"{comparison.name}: {describe_difference(comparison.difference, judgement)}"
        for comparison in judgement.comparisons
    )
    parts = (judgement.group.setting, grounds, judgement.remark)
    detail = ". ".join(part for part in parts if part)
    if judgement.verdict != judgement.verdict_among:
        detail += f". Undecided when corrected for the {judgement.among} claims judged here"
    return verdict_line(judgement.verdict, judgement.claim.claim, detail)


def describe_difference(e: Estimate, judgement: Judgement) -> str:
    """`+1.20 ± 2.05 points (n = 3)`."""
    claim = judgement.claim
    unit = " points" if claim.metric.startswith("accuracy/") else " nats"
    unit = "" if claim.relative or claim.predictor else unit
    text = numbers.format_difference(
        e.mean, e.low, e.high, claim.metric, claim.relative, bool(claim.predictor)
    )
    return f"{text}{unit} (n = {e.n})"


def best_part(rankings: Sequence[Tables]) -> list[Part]:
    """The fullest setting's best cells in words and in a table, all settings in a figure."""
    title = heading("Which is best?")
    compared = list_compared(rankings)
    if not compared:
        return [title, "There are not yet two cells with a completed run in one setting."]
    caption = (
        "Each setting's cells, best first. A dot is a run; bars are 95 % intervals, from three "
        "runs on."
    )
    if any(len(ranking.cells) > MOST_ROWS for ranking in compared):
        caption += f" The best {MOST_ROWS} of each are drawn."
    return [
        title,
        escape(describe_best(compared[0])),
        ranking_table(compared[0], FIRST_ROWS),
        Picture("overview", draw_overview(compared), caption),
    ]


def list_compared(rankings: Sequence[Tables]) -> list[Tables]:
    """The settings with two cells or more that have a completed run."""
    return [ranking for ranking in rankings if (ranking.cells["n"] > 0).sum() > 1]


def rankings_part(rankings: Sequence[Tables]) -> list[Part]:
    """Rank the settings and cells that the first screen has no room for."""
    parts: list[Part] = []
    for i, ranking in enumerate(list_compared(rankings)):
        if i > 0 or len(ranking.cells) > FIRST_ROWS:
            title = heading(ranking.group.setting, 3)
            parts += [title, escape(describe_best(ranking)), ranking_table(ranking)]
    return [heading("Which is best, setting by setting?"), *parts] if parts else []


def describe_best(ranking: Tables) -> str:
    """Name the best cell of a setting, and say if its distance to the next means anything."""
    best, second = records(ranking.ranks)[:2]
    count = f"{best['n']} run" if best["n"] == 1 else f"{best['n']} runs"
    mean = f"{numbers.percent(best[VAL])} % ({count})"
    start = f"{ranking.group.setting}: best is {best['label']} with {mean}."
    next_one = f"the next, {second['label']},"
    pairs = second["pairs"]
    if math.isnan(pairs):
        return f"{start} It and {next_one} share no seed, so their difference is not judged."
    ahead = numbers.signed(-second["difference"], -second["high"], -second["low"]).removeprefix("+")
    ahead = f"{start} It is ahead of {next_one} by {ahead} points"
    if pairs == 1:
        return f"{ahead} at one seed: nothing says whether that is more than chance."
    ahead += f" (n = {pairs:.0f})"
    if second["p/holm"] < 1 - CONFIDENCE:
        return f"{ahead}: more than chance."
    spread = ranking.differences.set_index("cell").loc[second["cell"], "sd"]
    seeds = seeds_to_resolve(second["difference"], float(spread))
    return f"{ahead}: that may be chance{f'; about {seeds} seeds would tell' if seeds else ''}."


def ranking_table(ranking: Tables, most: int | None = None) -> Table:
    """The cells of a setting, best first, with their distance to the best; the first `most`."""
    frame = ranking.ranks
    columns: dict[str, Column] = {
        "rank": "rank",
        "cell": "label",
        "n": "n",
        "val %": numbers.mean_column(VAL),
        "behind the best": numbers.difference_column,
        "more than chance?": _describe_chance,
    }
    caption = (
        "Points of validation accuracy, paired by seed; corrected for the number of cells (Holm)."
    )
    if most is not None and len(frame) > most:
        caption += f" The first {most} of {len(frame)} cells."
        frame = frame.iloc[:most]
    name = f"ranking-{ranking.group.name}" + ("-first" if most is not None else "")
    return Table(name, frame, columns, caption, words=("cell", "more than chance?"))


def _describe_chance(row: Row) -> str:
    if math.isnan(row["pairs"]):
        return ""
    if row["pairs"] == 1:
        return "one pair"
    return "yes" if row["p/holm"] < 1 - CONFIDENCE else "undecided"
