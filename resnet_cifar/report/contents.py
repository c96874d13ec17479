"""The contents of a report, in order: claims, the published study, every question, the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from resnet_cifar.report import answer, bookkeeping, claims, flow, numbers
from resnet_cifar.report.claims import Judgement
from resnet_cifar.report.document import (
    Column,
    Part,
    Report,
    Row,
    Table,
    escape,
    heading,
    note_line,
)
from resnet_cifar.report.groups import group_by_question, group_by_setting, name_key
from resnet_cifar.report.question import question_part
from resnet_cifar.report.study import AUGMENTED, VAL, Published, Question
from resnet_cifar.report.tables import (
    Tables,
    find_keys_at_edge,
    find_mixed_cells,
    study_table,
    tabulate,
)
from resnet_cifar.runs.statistics import Estimate
from resnet_cifar.runs.table import any_text

READING = (
    "Accuracies and losses are the last epoch's, on the validation images, which a run was not "
    "trained on; the clean view unless the augmented one is named. a ± b is the mean over n runs "
    "(seeds) with its 95 % t-interval; one run has no interval. Differences are paired by seed, "
    "which fixes initialisation, order and augmentation. Intervals are of single comparisons; "
    "where several are judged together, the verdict corrected for their number (Holm) stands "
    "beside the plain one. Only completed runs enter a mean. Figures show an interval from three "
    "runs on; below that, two values say next to nothing of a spread."
)
MOST_DRAWN = 8  # questions and settings that get figures


@any_text
def build_report(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    questions: Sequence[Question],
    published: Sequence[Published],
    title: str = "Report",
    probe: pd.DataFrame | None = None,
    origin: str = "",
) -> Report:
    """Build the report on `runs` (`load_runs`), their `curves` (`load_metrics`) and `load_probe`.

    Args:
        origin: when and by which code, for the line below the title.
    """
    probe = pd.DataFrame() if probe is None else probe
    skipped: dict[str, str] = {}
    for table in (runs, curves, probe):
        skipped |= table.attrs.get("skipped", {})
    groups = group_by_question(runs, questions)
    answers = [tabulate(group, curves, published) for group in groups]
    rankings = [tabulate(group, curves, published) for group in group_by_setting(runs)]
    judgements = claims.judge_all(groups, published)
    full: list[Part] = []
    other: list[Part] = []
    drawn = _choose_drawn(answers)
    for each in answers:
        parts = question_part(each, skipped, each in drawn)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(each.group.runs["cell"]) < set(group.runs["cell"]) for group in groups):
            parts += flow.flow_part(each.group, curves, probe)
        (full if each.cells["verdict"].any() else other).extend(parts)
    if other:
        other.insert(0, heading("Other settings: smaller nets, shorter runs, other data"))
    rest = [
        *notes_part(runs, judgements, answers),
        heading("How to read this"),
        escape(READING),
        *answer.rankings_part(rankings),
        *claims_table_part(judgements),
        *_undrawn_part(answers, drawn),
        heading("Beside the published study"),
        published_part(runs, published),
        *full,
        *other,
        *bookkeeping.bookkeeping_part(runs, skipped),
    ]
    subtitle = ". ".join(part for part in (count_runs(runs), origin) if part)
    first_screen = answer.claims_part(judgements), answer.best_part(rankings)
    return Report(title, subtitle, *first_screen, rest)


def _choose_drawn(answers: Sequence[Tables]) -> list[Tables]:
    """The questions that get figures: of a thousand figures nobody would look at one."""
    asked = [each for each in answers if each.group.asked]
    return sorted(asked, key=lambda each: len(each.group.runs), reverse=True)[:MOST_DRAWN]


def _undrawn_part(answers: Sequence[Tables], drawn: Sequence[Tables]) -> list[Part]:
    rest = sum(each.group.asked for each in answers) - len(drawn)
    if not rest:
        return []
    sentence = (
        f"The {len(drawn)} questions and settings with most runs have figures, the other {rest} "
        "tables only. A report on fewer directories draws them."
    )
    return [escape(sentence)]


def count_runs(runs: pd.DataFrame) -> str:
    """The number of runs, by status."""
    if runs.empty:
        return "No runs"
    states = ", ".join(
        f"{count} {status}" for status, count in runs["status"].value_counts().items()
    )
    return f"{len(runs)} runs in {runs['cell'].nunique()} cells: {states}"


# Notes -------------------------------------------------------------------------------------------

_PLURAL = {
    "code": "states of the code",
    "versions": "versions of the libraries",
    "device": "devices",
    "precision": "precisions",
}


def notes_part(
    runs: pd.DataFrame, judgements: Sequence[Judgement], answers: Sequence[Tables]
) -> list[Part]:
    """The warnings to know before believing a number, each thing said once."""
    notes = []
    single = sum(judgement.n == 1 for judgement in judgements)
    if single:
        notes.append(
            f"{single} of {len(judgements)} verdicts rest on one pair of runs somewhere and stay "
            "undecided: nothing is known of the spread between seeds."
        )
    edges = {
        f"{name_key(key)} ({each.group.setting})": None
        for each in answers
        for key in find_keys_at_edge(each)
    }
    if edges:
        notes.append(
            "The best value lies at the edge of those tried, so the optimum may lie beyond: "
            + "; ".join(edges)
            + "."
        )
    for key, cells in find_mixed_cells(runs).items():
        kinds = sorted({kind for several in cells.values() for kind in several})
        which = f" ({', '.join(kinds)})" if key != "versions" else ""
        count = (
            f"{len(cells)} cells mix" if len(cells) > 1 else f"One cell, {next(iter(cells))}, mixes"
        )
        notes.append(f"{count} runs of several {_PLURAL[key]}{which}.")
    return ["\n".join(note_line(note) for note in notes)] if notes else []


# Claims ------------------------------------------------------------------------------------------


def claims_table_part(judgements: Sequence[Judgement]) -> list[Part]:
    """The differences behind every verdict."""
    return [heading("Does the claim hold?"), claims_table(judgements)] if judgements else []


def claims_table(judgements: Sequence[Judgement]) -> Table:
    """Every claim in every setting: verdict, n, the differences behind it, the published one."""
    nothing = claims.Comparison("", Estimate(0, *[math.nan] * 4), math.nan)
    rows = []
    for judgement in judgements:
        claim = judgement.claim
        for comparison in judgement.comparisons or (nothing,):
            e = comparison.difference
            rows.append(
                {
                    "claim": claim.claim,
                    "setting": judgement.group.setting,
                    "verdict": judgement.verdict,
                    "p": judgement.p,
                    "p/holm": judgement.p_among,
                    "verdict/holm": judgement.verdict_among,
                    "comparison": comparison.name,
                    "n": e.n,
                    "difference": e.mean,
                    "low": e.low,
                    "high": e.high,
                    "published": comparison.published,
                    "seeds": judgement.seeds,
                    "why": judgement.remark,
                    "metric": claim.metric,
                    "relative": claim.relative,
                    "predictor": bool(claim.predictor),
                }
            )
    frame = pd.DataFrame(rows)
    columns: dict[str, Column] = {
        "claim": "claim",
        "setting": "setting",
        "verdict": "verdict",
        "Holm": "verdict/holm",
        "comparison": "comparison",
        "difference": lambda row: _show_difference(row, row["difference"], row["low"], row["high"]),
        "n": "n",
    }
    if frame["published"].notna().any():
        columns["published"] = lambda row: _show_difference(row, row["published"])
    if frame["seeds"].notna().any():
        columns["seeds needed"] = numbers.count_column("seeds")
    if frame["why"].any():
        columns["remark"] = "why"
    caption = (
        "Differences in points of accuracy (losses in nats, or per cent where relative), first "
        "minus second, paired by seed. Holm: the verdict corrected for the number of claims judged "
        "here. Seeds needed: pairs that would resolve differences of this size and spread with "
        "probability 0.8."
    )
    words = ("claim", "setting", "verdict", "Holm", "comparison", "remark")
    return Table("claims", frame, columns, caption, words)


def _show_difference(row: Row, mean: float, low: float = math.nan, high: float = math.nan) -> str:
    return numbers.format_difference(
        mean, low, high, row["metric"], row["relative"], row["predictor"]
    )


# Beside the published study ----------------------------------------------------------------------


def published_part(runs: pd.DataFrame, published: Sequence[Published]) -> Part:
    """The runs at the published setting beside the published values and their replications."""
    table = study_table(runs, published)
    if not table["n"].sum():
        return escape(
            "No completed run is at the published setting (CIFAR-10, width 64, the full budget), "
            "so nothing here is judged against the published values."
        )
    columns: dict[str, Column] = {
        "cell": "cell",
        "published %": numbers.percent_column("published"),
        "replications %": numbers.range_column("replications"),
        "predicted %": numbers.range_column("prediction"),
        "ours %": numbers.mean_column(AUGMENTED),
        "n": "n",
        "verdict": "verdict",
        "ours, clean %": numbers.mean_column(VAL),
        "test, published %": numbers.percent_column("published/test"),
        "test, ours %": numbers.percent_column("accuracy/test"),
    }
    caption = (
        "Published validation and its replications were measured in the augmented view, so ours in "
        "that view is judged. Replications: their range and number. Predicted: where the mean of n "
        "runs should lie with 95 % if they were drawn like the replications (Student's t; the "
        "standard deviation of the 300-epoch BatchNorm cells is pooled over them)."
    )
    return Table("published", table, columns, caption, words=("cell", "verdict"))
