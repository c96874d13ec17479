"""The contents of a report, in order: claims, the published study, every question, bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from resnet_cifar.report import claims, document, flow, numbers, tables, verdicts
from resnet_cifar.report.claims import Judgement
from resnet_cifar.report.document import Column, Part, Picture, Report, Row, Table, escape, heading
from resnet_cifar.report.figures import MOST_ROWS, draw_overview
from resnet_cifar.report.groups import OTHER, group_by_question, group_by_setting, name_key
from resnet_cifar.report.question import question_part
from resnet_cifar.report.study import AUGMENTED, VAL, Published, Question
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, seeds_needed
from resnet_cifar.runs.table import any_text, records

# The rules of docs/report.md, a line each.
READING = (
    "Accuracies and losses are the last epoch's, on the validation images, which a run was not "
    "trained on; the clean view unless the augmented one is named. Only completed runs enter a "
    "mean. From three runs on a ± b is the mean with its 95 % t-interval; of two runs both values "
    "stand.",
    "Two cells are compared by a two-sample t-test. A cell's variance is drawn towards the one "
    "that the cells of its setting share (Smyth 2004); cells that collapse or diverge stay out of "
    "it. At n = 2 that takes 8 degrees of freedom of the setting; one run decides nothing.",
    "Nothing is compared across settings: data, model, epochs and the precision used.",
    "The verdict on a claim is corrected for the number of claims judged here (Holm). A claim of "
    "several pairs fails by its smallest p times their number. Comparisons that no claim asked for "
    "are a family of their own; the best of many cells is judged by Tukey's range.",
    "A comparison with diverged seeds is decided only if these, counted at chance level, do not "
    "change the verdict. Runs that started before a claim was declared are exploration.",
    "Looking after every added seed until something shows makes an error rate of 5 % one of 9 % at "
    "three seeds and 20 % at ten: decide how many before, in the claim's seeds.",
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
    runs, mixed = leave_out_mixed(runs)
    skipped |= mixed
    groups = group_by_question(runs, questions)
    answers = [tables.tabulate(group, curves, published) for group in groups]
    settings = [tables.tabulate(group, curves, published) for group in group_by_setting(runs)]
    rankings = [each for each in settings if (each.cells["n"] > 0).sum() > 1]
    judgements = claims.judge_all(groups)
    tables.correct_differences(answers)
    asked = [a for a in answers if a.group.question is not OTHER and len(a.group.runs)]
    drawn = sorted(asked, key=lambda each: len(each.group.runs), reverse=True)[:MOST_DRAWN]
    full: list[Part] = []
    other: list[Part] = []
    for each in answers:
        parts = question_part(each, each in drawn)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(each.group.runs["cell"]) < set(group.runs["cell"]) for group in groups):
            parts += flow.flow_part(each.group, curves, probe)
        (full if each.cells["verdict"].any() else other).extend(parts)
    if other:
        other.insert(0, heading("Other settings: smaller nets, shorter runs, other data"))
    rest = [
        *_notes_part(runs, judgements, answers),
        heading("How to read this"),
        "\n".join(f"- {escape(rule)}" for rule in READING),
        *rankings_part(rankings),
    ]
    if judgements:
        rest += [heading("Does the claim hold?"), verdicts.claims_table(judgements)]
    if len(drawn) < len(asked):
        sentence = (
            f"The {len(drawn)} questions and settings with most runs have figures, the other "
            f"{len(asked) - len(drawn)} tables only. A report on fewer directories draws them."
        )
        rest.append(escape(sentence))
    rest += [heading("Beside the published study"), _published_part(runs, published)]
    passes = claims.judge_published(questions, published)
    if passes and any(each.cells["verdict"].any() for each in answers):
        rest.append(verdicts.passes_table(passes))
    rest += [*full, *other, *_bookkeeping_part(runs, skipped)]
    subtitle = ". ".join(part for part in (count_runs(runs), origin) if part)
    claimed = verdicts.claims_part(judgements, answers)
    return Report(title, subtitle, claimed, best_part(rankings), rest)


def leave_out_mixed(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The runs of one precision each, and the others' directories with the reason.

    A run trained in two arithmetics belongs to neither.
    """
    if runs.empty:
        return runs, {}
    mixed = runs["precision"].astype(str).str.contains(" | ", regex=False)
    why = "trained in two precisions: " + runs["precision"][mixed].astype(str)
    return runs[~mixed], dict(zip(runs["directory"][mixed], why, strict=True))


def count_runs(runs: pd.DataFrame) -> str:
    """The number of runs, by status."""
    if runs.empty:
        return "No runs"
    counts = runs["status"].value_counts()
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(runs)} runs in {runs['cell'].nunique()} cells: {states}"


# The first screen --------------------------------------------------------------------------------


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
    ahead = numbers.plus_minus(abs(second["difference"]), second["low"], second["high"])
    start += f" It is ahead of the next, {second['label']}, by {ahead} points"
    ran = int((ranking.ranks["n"] > 0).sum())
    biased = (
        f" The best of {ran} was picked on the images it is measured on, so its accuracy is too "
        "high by chance: look at the test set once, by evaluate --test."
    )
    if best["diverged"] or second["diverged"]:
        return f"{start}: undecided, as seeds diverged.{biased}"
    if math.isnan(second["p"]):
        return f"{start}: too few runs to say whether that is more than chance.{biased}"
    if second["p"] < 1 - CONFIDENCE:
        return f"{start}: more than chance.{biased}"
    pool = ranking.group.pool(best["cell"])
    seeds = seeds_needed(second["difference"], pool) if min(best["n"], second["n"]) > 2 else None
    would = f"; {seeds[0]} to {seeds[1]} runs a cell would tell" if seeds else ""
    return f"{start}: that may be chance{would}.{biased}"


def ranking_table(ranking: Tables, most: int | None = None) -> Table:
    """The cells of a setting, best first, with their distance to the best; the first `most`."""
    frame = ranking.ranks.iloc[:most]
    caption = "Points of validation accuracy, two-sample; the best of many judged by Tukey's range."
    if len(frame) < len(ranking.ranks):
        caption += f" The first {most} of {len(ranking.ranks)} cells."
    columns: dict[str, Column] = {
        "rank": "rank",
        "cell": "label",
        "n": "n",
        "val %": numbers.mean_column(VAL),
        "behind the best": numbers.difference_column,
        "more than chance?": numbers.chance_column("p"),
    }
    if frame["diverged"].any():
        columns["diverged"] = numbers.diverged_column
    name = f"ranking-{ranking.group.name}" + ("-first" if most is not None else "")
    return Table(name, frame, columns, caption, words=("more than chance?",))


# The rest ----------------------------------------------------------------------------------------


def _notes_part(
    runs: pd.DataFrame, judgements: Sequence[Judgement], answers: Sequence[Tables]
) -> list[Part]:
    """The warnings to know before believing a number, each thing said once."""
    notes = []
    if single := sum(judgement.n == 1 for judgement in judgements):
        notes.append(
            f"{single} of {len(judgements)} verdicts rest on a cell with a single run and stay "
            "undecided."
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


def _published_part(runs: pd.DataFrame, published: Sequence[Published]) -> Part:
    """The runs at the published setting beside the published values and their repetitions."""
    table = tables.study_table(runs, published)
    if not table["n"].sum():
        return escape(
            "No completed run is at the published setting (CIFAR-10, width 64, the full budget), "
            "so nothing here is judged against the published values."
        )
    columns: dict[str, Column] = {
        "cell": "cell",
        "published %": numbers.percent_column("published"),
        "repetitions %": numbers.range_column("repetitions"),
        "predicted %": numbers.range_column("prediction"),
        "ours %": numbers.mean_column(AUGMENTED),
        "n": "n",
        "verdict": "verdict",
        "ours, clean %": numbers.mean_column(VAL),
        "test, published %": numbers.percent_column("published/test"),
        "test, ours %": numbers.percent_column("accuracy/test"),
    }
    shared = [list(known.values(AUGMENTED).values()) for known in published if known.pooled]
    equal = f"{stats.bartlett(*shared).pvalue:.3f}" if len(shared) > 1 else "–"
    caption = (
        "Published validation and its repetitions were measured in the augmented view, so ours in "
        "that view is judged. Repetitions: their range and number; the published value is not one "
        "of its own. Predicted: where the mean of n runs should lie with 95 % if they were drawn "
        "like the repetitions (Student's t). The standard deviation of the 300-epoch BatchNorm "
        f"cells is pooled, though Bartlett's test doubts that theirs are equal (p = {equal}), and "
        "never below the binomial one of 10,000 images."
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
