"""The contents of a report, in order: claims, the published study, every question, bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from resnet_cifar.report import claims, document, flow, numbers, tables
from resnet_cifar.report.claims import Judgement
from resnet_cifar.report.document import Column, Part, Picture, Report, Row, Table, escape, heading
from resnet_cifar.report.figures import MOST_ROWS, draw_overview
from resnet_cifar.report.groups import group_by_question, group_by_setting, name_key
from resnet_cifar.report.question import question_part
from resnet_cifar.report.study import AUGMENTED, VAL, Published, Question
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, Estimate, seeds_to_resolve
from resnet_cifar.runs.table import any_text, records

READING = (
    "Accuracies and losses are the last epoch's, on the validation images, which a run was not "
    "trained on; the clean view unless the augmented one is named. a ± b is the mean over n runs "
    "(seeds) with its 95 % t-interval; one run has no interval. Differences are paired by seed, "
    "which fixes initialisation, order and augmentation. Intervals are of single comparisons; "
    "where several are judged together, the verdict corrected for their number (Holm) stands "
    "beside the plain one. Only completed runs enter a mean. Figures show an interval from three "
    "runs on; below that, two values say next to nothing of a spread."
)
FIRST_ROWS = 10  # of the ranked table on the first screen
MOST_DRAWN = 12  # questions and settings that get figures: at a thousand nobody would look
_PLURAL = {
    "code": "states of the code",
    "versions": "versions of the libraries",
    "device": "devices",
    "precision": "precisions",
}


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

    The `origin`, when and by which code, stands in the line below the title.
    """
    probe = pd.DataFrame() if probe is None else probe
    skipped: dict[str, str] = {}
    for table in (runs, curves, probe):
        skipped |= table.attrs.get("skipped", {})
    groups = group_by_question(runs, questions)
    answers = [tables.tabulate(group, curves, published) for group in groups]
    settings = [tables.tabulate(group, curves, published) for group in group_by_setting(runs)]
    rankings = [each for each in settings if (each.cells["n"] > 0).sum() > 1]
    judgements = claims.judge_all(groups, published)
    asked = [each for each in answers if each.group.asked]
    drawn = sorted(asked, key=lambda each: len(each.group.runs), reverse=True)[:MOST_DRAWN]
    full: list[Part] = []
    other: list[Part] = []
    for each in answers:
        parts = question_part(each, skipped, each in drawn)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(each.group.runs["cell"]) < set(group.runs["cell"]) for group in groups):
            parts += flow.flow_part(each.group, curves, probe)
        (full if each.cells["verdict"].any() else other).extend(parts)
    if other:
        other.insert(0, heading("Other settings: smaller nets, shorter runs, other data"))
    rest = [
        *_notes_part(runs, judgements, answers),
        heading("How to read this"),
        escape(READING),
        *rankings_part(rankings),
    ]
    if judgements:
        rest += [heading("Does the claim hold?"), claims_table(judgements)]
    if len(drawn) < len(asked):
        sentence = (
            f"The {len(drawn)} questions and settings with most runs have figures, the other "
            f"{len(asked) - len(drawn)} tables only. A report on fewer directories draws them."
        )
        rest.append(escape(sentence))
    rest += [heading("Beside the published study"), _published_part(runs, published)]
    rest += [*full, *other, *_bookkeeping_part(runs, skipped)]
    subtitle = ". ".join(part for part in (count_runs(runs), origin) if part)
    first_screen = claims_part(judgements), best_part(rankings)
    return Report(title, subtitle, *first_screen, rest)


def count_runs(runs: pd.DataFrame) -> str:
    """The number of runs, by status."""
    if runs.empty:
        return "No runs"
    counts = runs["status"].value_counts()
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(runs)} runs in {runs['cell'].nunique()} cells: {states}"


# The first screen --------------------------------------------------------------------------------


def claims_part(judgements: Sequence[Judgement]) -> list[Part]:
    """The claims as sentences, each with its verdict and the grounds for it."""
    lines = "\n".join(map(_describe_judgement, judgements))
    return [heading("What the runs say"), lines or "No claim of the study is about these runs."]


def _describe_judgement(judgement: Judgement) -> str:
    """A line of Markdown: verdict, claim, setting, differences (n), remarks."""
    claim = judgement.claim
    unit = " points" if claim.metric.startswith("accuracy/") else " nats"
    if claim.relative or claim.predictor:
        unit = ""
    grounds = []
    for comparison in judgement.comparisons:
        e = comparison.difference
        text = numbers.format_difference(
            e.mean, e.low, e.high, claim.metric, claim.relative, bool(claim.predictor)
        )
        grounds.append(f"{comparison.name}: {text}{unit} (n = {e.n})")
    parts = (judgement.group.setting, "; ".join(grounds), judgement.remark)
    detail = ". ".join(part for part in parts if part)
    if judgement.verdict != judgement.verdict_among:
        detail += f". Undecided when corrected for the {judgement.among} claims judged here"
    return document.verdict_line(judgement.verdict, claim.claim, detail)


def best_part(rankings: Sequence[Tables]) -> list[Part]:
    """The fullest setting's best cells in words and in a table, all settings in a figure."""
    title = heading("Which is best?")
    if not rankings:
        return [title, "There are not yet two cells with a completed run in one setting."]
    caption = (
        "Each setting's cells, best first. A dot is a run; bars are 95 % intervals, from three "
        "runs on."
    )
    if any(len(ranking.cells) > MOST_ROWS for ranking in rankings):
        caption += f" The best {MOST_ROWS} of each are drawn."
    return [
        title,
        escape(describe_best(rankings[0])),
        ranking_table(rankings[0], FIRST_ROWS),
        Picture("overview", draw_overview(rankings), caption),
    ]


def rankings_part(rankings: Sequence[Tables]) -> list[Part]:
    """Rank the settings and cells that the first screen has no room for."""
    parts: list[Part] = []
    for i, ranking in enumerate(rankings):
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
    frame = ranking.ranks.iloc[:most]
    caption = (
        "Points of validation accuracy, paired by seed; corrected for the number of cells (Holm)."
    )
    if len(frame) < len(ranking.ranks):
        caption += f" The first {most} of {len(ranking.ranks)} cells."
    return Table(
        f"ranking-{ranking.group.name}" + ("-first" if most is not None else ""),
        frame,
        {
            "rank": "rank",
            "cell": "label",
            "n": "n",
            "val %": numbers.mean_column(VAL),
            "behind the best": numbers.difference_column,
            "more than chance?": _describe_chance,
        },
        caption,
        words=("more than chance?",),
    )


def _describe_chance(row: Row) -> str:
    if math.isnan(row["pairs"]):
        return ""
    if row["pairs"] == 1:
        return "one pair"
    return "yes" if row["p/holm"] < 1 - CONFIDENCE else "undecided"


# The rest ----------------------------------------------------------------------------------------


def _notes_part(
    runs: pd.DataFrame, judgements: Sequence[Judgement], answers: Sequence[Tables]
) -> list[Part]:
    """The warnings to know before believing a number, each thing said once."""
    notes = []
    if single := sum(judgement.n == 1 for judgement in judgements):
        notes.append(
            f"{single} of {len(judgements)} verdicts rest on one pair of runs somewhere and stay "
            "undecided: nothing is known of the spread between seeds."
        )
    edges = [
        f"{name_key(key)} ({each.group.setting})"
        for each in answers
        for key in tables.find_keys_at_edge(each)
    ]
    if edges:
        notes.append(
            "The best value lies at the edge of those tried, so the optimum may lie beyond: "
            f"{'; '.join(dict.fromkeys(edges))}."
        )
    for key, cells in tables.find_mixed_cells(runs).items():
        kinds = sorted({kind for several in cells.values() for kind in several})
        which = f" ({', '.join(kinds)})" if key != "versions" else ""
        one = f"One cell, {next(iter(cells))}, mixes"
        count = one if len(cells) == 1 else f"{len(cells)} cells mix"
        notes.append(f"{count} runs of several {_PLURAL[key]}{which}.")
    return ["\n".join(map(document.note_line, notes))] if notes else []


def claims_table(judgements: Sequence[Judgement]) -> Table:
    """Every claim in every setting: verdict, n, the differences behind it, the published one."""
    nothing = claims.Comparison("", Estimate(0, *[math.nan] * 4), math.nan)
    frame = pd.DataFrame(
        {
            "claim": judgement.claim.claim,
            "setting": judgement.group.setting,
            "verdict": judgement.verdict,
            "p": judgement.p,
            "p/holm": judgement.p_among,
            "verdict/holm": judgement.verdict_among,
            "comparison": comparison.name,
            "n": comparison.difference.n,
            "difference": comparison.difference.mean,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
            "published": comparison.published,
            "seeds": judgement.seeds,
            "why": judgement.remark,
            "metric": judgement.claim.metric,
            "relative": judgement.claim.relative,
            "predictor": bool(judgement.claim.predictor),
        }
        for judgement in judgements
        for comparison in judgement.comparisons or (nothing,)
    )
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
    return Table("claims", frame, columns, caption)


def _show_difference(row: Row, mean: float, low: float = math.nan, high: float = math.nan) -> str:
    return numbers.format_difference(
        mean, low, high, row["metric"], row["relative"], row["predictor"]
    )


def _published_part(runs: pd.DataFrame, published: Sequence[Published]) -> Part:
    """The runs at the published setting beside the published values and their replications."""
    table = tables.study_table(runs, published)
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
    return Table("published", table, columns, caption)


# Bookkeeping -------------------------------------------------------------------------------------


def _bookkeeping_part(runs: pd.DataFrame, skipped: dict[str, str]) -> list[Part]:
    """Cost, all runs, runs that did not complete, and files that can't be read."""
    parts: list[Part] = []
    columns: dict[str, Column]
    if len(runs):
        columns = {
            "device": "device",
            "data": "data",
            "width": numbers.value_column("model.width"),
            "precision": "precision",
            "threads": lambda row: row["threads"],
            "runs": "runs",
            "epochs": "epochs_done",
            "hours": lambda row: f"{row['hours']:.2f}",
            "images/s": lambda row: f"{row['images_per_second']:,.0f}",
            "share of matmul rate %": numbers.percent_column("share_of_matmul_rate", 0),
        }
        caption = "Hours of all sessions, one device each; images/s in training, median over runs."
        cost = Table("cost", tables.cost_table(runs), columns, caption)
        parts += [heading("Cost"), cost, heading("All runs"), runs_table(runs)]
    rest = runs[runs["status"] != "completed"] if len(runs) else runs
    if len(rest) or skipped:
        parts.append(heading("Left out of every mean"))
    if len(rest):
        columns = {
            "cell": "cell",
            "seed": "seed",
            "status": "status",
            "epochs": _show_epochs,
            "cause": "error",
        }
        kept = ["cell", "seed", "status", "epochs_done", "epochs", "error", "directory"]
        parts.append(Table("left-out", rest[kept], columns))
    if skipped:
        frame = pd.DataFrame(sorted(skipped.items()), columns=["path", "why"])
        caption = (
            "Runs that can't be read, are there twice or were set aside, and files of runs that "
            "can't be read."
        )
        parts.append(Table("skipped", frame, {"path": "path", "why": "why"}, caption))
    return parts


def runs_table(runs: pd.DataFrame) -> Table:
    """Every run with its outcome and whatever of the configuration differs between runs."""
    frame, keys = tables.run_table(runs)
    columns: dict[str, Column] = {name_key(key): numbers.value_column(key) for key in keys}
    columns |= {"seed": "seed", "status": "status", "epochs": _show_epochs}
    accuracies = {"val %": VAL, "val augmented %": AUGMENTED, "train %": "accuracy/train"}
    for name, metric in accuracies.items():
        if metric in frame:
            columns[name] = numbers.percent_column(metric)
    if "loss/val" in frame:
        columns["val loss"] = lambda row: numbers.decimals(row["loss/val"], 4)
    columns["minutes"] = lambda row: numbers.decimals(row["seconds"] / 60, 1)
    columns["run"] = lambda row: f"{row['cell']}/seed={row['seed']}"
    caption = (
        "The best last epoch first. Of the configuration the columns that differ between these "
        "runs; the CSV has more."
    )
    words = [name_key(str(key)) for key in frame[keys].select_dtypes(exclude="number")]
    return Table("runs", frame, columns, caption, (*words, "run"), detail=True)


def _show_epochs(row: Row) -> str:
    return f"{row['epochs_done']}/{row['epochs']}"
