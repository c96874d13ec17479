"""The contents of a report, in order: claims, the best cells, every question, bookkeeping."""

import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from resnet_cifar.report import claims, document, figures, flow, numbers, tables, verdicts
from resnet_cifar.report.document import COLUMNS, WORDS, Column, Fold, Part, Report, Table, escape
from resnet_cifar.report.groups import OTHER, group_by_question, group_by_setting, name_key
from resnet_cifar.report.study import AUGMENTED, VAL, Published, Question
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, seeds_needed
from resnet_cifar.runs.table import any_text, records, varying
from resnet_cifar.text import plural

FIRST_ROWS = 5  # of the ranked table on the first screen
MOST_OPEN = 2  # questions with a verdict that are unfolded from the start; without any, the first
MOST_DRAWN = 12  # questions and settings that get figures: at a thousand nobody would look


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

    The `origin`, when and by which code, stands in the line below the title. Raises UserError where
    there are no runs.
    """
    varying(runs)  # refuses none
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
    sections: list[Part] = []
    decided = {each.group: verdicts.list_verdicts(judgements, each) for each in answers}
    opened = [each for each in answers if decided[each.group]][:MOST_OPEN] or answers[:1]
    for each in sorted(answers, key=lambda each: not each.cells["verdict"].any()):
        parts = question_part(each, each in drawn)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(each.group.runs["cell"]) < set(group.runs["cell"]) for group in groups):
            parts += flow.flow_part(each.group, curves, probe)
        name = f"{each.group.question.question}{document.BETWEEN}{each.group.setting}"
        sections.append(Fold(name, parts, 3, each in opened, verdicts=decided[each.group]))
    rest = _notes_part(runs, answers)
    if judgements:
        claimed = [verdicts.claims_table(judgements)]
        rest.append(Fold("Does the claim hold?", claimed, 2, apart=True))
    rest.append(Fold("How to read this", [document.listing(WORDS["reading"])], 2, apart=True))
    rest += rankings_part(rankings)
    beside = _published_part(runs, published)
    passes = claims.judge_published(questions, published)
    if passes and any(each.cells["verdict"].any() for each in answers):
        beside.append(Fold(WORDS["own claims"], [verdicts.passes_table(passes)], 3, apart=True))
    rest.append(Fold("Beside the published study", beside, 2, True))
    if len(drawn) < len(asked):
        few = WORDS["few drawn"].format(drawn=len(drawn), others=len(asked) - len(drawn))
        sections.insert(0, escape(few))
    if sections:
        rest.append(Fold("Question by question", sections, 2, True))
    rest += _bookkeeping_part(runs, skipped)
    subtitle = ". ".join(part for part in (count_runs(runs), origin) if part)
    first = verdicts.claims_part(judgements, answers)
    return Report(title, subtitle, first, best_part(rankings), rest)


def leave_out_mixed(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The runs of one precision each, and the others' directories with the reason.

    A run trained in two arithmetics belongs to neither.
    """
    mixed = runs["precision"].astype(str).str.contains(" | ", regex=False)
    why = "trained in two precisions: " + runs["precision"][mixed].astype(str)
    return runs[~mixed], dict(zip(runs["directory"][mixed], why, strict=True))


def count_runs(runs: pd.DataFrame) -> str:
    """The number of runs, by status."""
    counts = runs["status"].value_counts()
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    cells = plural(runs["cell"].nunique(), "cell")
    return ": ".join(filter(None, [f"{plural(len(runs), 'run')} in {cells}", states]))


# The first screen --------------------------------------------------------------------------------


def best_part(rankings: Sequence[Tables]) -> list[Part]:
    """The fullest setting's best cells in words and in a table, all settings in a figure."""
    title = document.heading("Which is best?")
    if not rankings:
        return [title, "There are not yet two cells with a completed run in one setting."]
    caption = WORDS["overview"]
    if any(len(ranking.cells) > figures.MOST_ROWS for ranking in rankings):
        caption += f" The best {figures.MOST_ROWS} of each are drawn."
    return [
        title,
        escape(describe_best(rankings[0])),
        ranking_table(rankings[0], FIRST_ROWS),
        document.Picture("overview", figures.draw_overview(rankings), caption),
    ]


def rankings_part(rankings: Sequence[Tables]) -> list[Part]:
    """Rank the settings and cells that the first screen has no room for."""
    parts = [
        Fold(each.group.setting, [escape(describe_best(each)), ranking_table(each)], 3)
        for i, each in enumerate(rankings)
        if i > 0 or len(each.cells) > FIRST_ROWS
    ]
    return [Fold("Which is best, setting by setting?", parts, 2, True, apart=True)] if parts else []


def describe_best(ranking: Tables) -> str:
    """Name the best cell of a setting, and say if its distance to the next means anything."""
    best, second = records(ranking.ranks)[:2]
    mean = f"{numbers.percent(best[VAL])} % ({plural(best['n'], 'run')})"
    word = "best" if second["p"] < 1 - CONFIDENCE else "highest"  # a tie crowns nobody
    start = f"{ranking.group.setting}: {word} is {best['label']} with {mean}."
    ahead = numbers.plus_minus(abs(second["difference"]), second["low"], second["high"])
    start += f" It is ahead of the next, {second['label']}, by {ahead} points"
    ran = int((ranking.ranks["n"] > 0).sum())
    biased = f" {WORDS['picked'].format(ran=ran)}"
    if best["diverged"] or second["diverged"]:
        return f"{start}: undecided, as seeds diverged.{biased}"
    if math.isnan(second["p"]):
        return f"{start}: too few runs to say whether that is more than chance.{biased}"
    if second["p"] < 1 - CONFIDENCE:
        return f"{start}: more than chance.{biased}"
    pool = ranking.group.pool(best["cell"])
    n = min(best["n"], second["n"])
    seeds = verdicts.name_seeds(n, seeds_needed(second["difference"], pool)) if n > 2 else ""
    return f"{start}: that may be chance{seeds and f'; {seeds} would tell'}.{biased}"


def ranking_table(ranking: Tables, most: int | None = None) -> Table:
    """The cells of a setting, best first, with their distance to the best; the first `most`."""
    frame = ranking.ranks.iloc[:most]
    which = "ranking" if len(frame) == len(ranking.ranks) else "ranking's first"
    caption = WORDS[which].format(most=most, of=len(ranking.ranks))
    columns = COLUMNS["ranking"] | (COLUMNS["diverged"] if frame["diverged"].any() else {})
    name = f"ranking-{ranking.group.name}" + ("-first" if most is not None else "")
    return Table(name, frame, columns, caption)


# A question in a setting --------------------------------------------------------------------------


def question_part(answer: Tables, draw: bool = True) -> list[Part]:
    """The section of a question: tables, and figures if it is to `draw` them."""
    group = answer.group
    parts: list[Part] = [cells_table(answer)]
    if len(answer.differences):
        name, columns = f"differences-{group.name}", COLUMNS["differences"]
        parts.append(Table(name, answer.differences, columns, WORDS["differences"]))
    if not draw:
        return parts
    caption = WORDS["curves"]
    ran = int((answer.cells["n"] > 0).sum())
    if ran > (drawn := sum(len(cells) for _, cells in figures.arrange(answer))):
        caption += f" The best {drawn} of {ran} cells are drawn."
    parts.append(document.Picture(f"curves-{group.name}", figures.draw_curves(answer), caption))
    parts += _early_part(answer)
    if answer.grid is not None:
        parts.append(document.Picture(f"map-{group.name}", figures.draw_map(answer), WORDS["map"]))
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
    worst |= {"points": 100 * worst["behind"], "settled": tables.find_settled_epoch(picks)}
    sentence = WORDS["early"].format(last=last, best=best, **worst)
    name = f"ranks-{answer.group.name}"
    picture = document.Picture(name, figures.draw_ranks(answer), WORDS["ranks"])
    return [escape(sentence), picture]


# The rest ----------------------------------------------------------------------------------------


def _notes_part(runs: pd.DataFrame, answers: Sequence[Tables]) -> list[Part]:
    """The warnings to know before believing a number, each thing said once."""
    notes = []
    edges = [
        f"{name_key(key)} ({each.group.setting})"
        for each in answers
        for key in tables.find_keys_at_edge(each)
    ]
    if edges:
        notes.append(f"{WORDS['edges']} {'; '.join(dict.fromkeys(edges))}.")
    for key, cells in tables.find_mixed_cells(runs).items():
        kinds = sorted({kind for several in cells.values() for kind in several})
        which = f" ({', '.join(kinds)})" if key != "versions" else ""
        one = f"One cell, {next(iter(cells))}, mixes"
        count = one if len(cells) == 1 else f"{len(cells)} cells mix"
        notes.append(f"{count} runs of several {WORDS['kinds'][key]}{which}.")
    return [document.listing(notes, "> - ")] if notes else []


def _published_part(runs: pd.DataFrame, published: Sequence[Published]) -> list[Part]:
    """The runs at the published setting beside the published values and their repetitions."""
    table = tables.study_table(runs, published)
    if not table["n"].sum():
        return [escape(WORDS["not published"])]
    shared = [list(known.values(AUGMENTED).values()) for known in published if known.pooled]
    equal = f"{stats.bartlett(*shared).pvalue:.3f}" if len(shared) > 1 else "–"
    return [Table("published", table, COLUMNS["published"], WORDS["published"].format(p=equal))]


# Bookkeeping -------------------------------------------------------------------------------------


def _bookkeeping_part(runs: pd.DataFrame, skipped: dict[str, str]) -> list[Part]:
    """Cost, all runs, runs that did not complete, and files that can't be read."""
    parts: list[Part] = []
    if len(runs):
        cost = Table("cost", tables.cost_table(runs), COLUMNS["cost"], WORDS["cost"])
        cost = cost.compact("device", "runs")
        parts.append(Fold("Cost", [cost], 2, True, apart=True))
        parts.append(Fold("All runs", [runs_table(runs)], 2, True, apart=True))
    if len(rest := runs[runs["status"] != "completed"]):
        kept = ["cell", "seed", "status", "epochs_done", "epochs", "error", "directory"]
        table = Table("left-out", rest[kept], COLUMNS["left-out"])
        parts.append(Fold("Left out of every mean", [table], 2, True))
    if skipped:
        frame = pd.DataFrame(sorted(skipped.items()), columns=["path", "why"])
        table = Table("skipped", frame, {"path": "path", "why": "why"}, WORDS["skipped"])
        parts.append(Fold("Not read, or not counted", [table], 2, True))
    return parts


def runs_table(runs: pd.DataFrame) -> Table:
    """Every run with its outcome and whatever of the configuration differs between runs."""
    frame, keys = tables.run_table(runs)
    named = {name_key(key): key for key in keys}
    accuracies = {"val %": VAL, "val augmented %": AUGMENTED, "train %": "accuracy/train"}
    columns: dict[str, Column] = {
        name: ("percent", key) for name, key in accuracies.items() if key in frame
    }
    columns |= {"val loss": ("loss", "loss/val")} if "loss/val" in frame else {}
    columns |= {name: ("value", key) for name, key in named.items()} | COLUMNS["runs"]
    numeric = [name for name, key in named.items() if pd.api.types.is_numeric_dtype(frame[key])]
    words = [name for name in named if name not in numeric]
    plot = numeric[0] if len(named) > 1 and numeric else ""
    table = Table("runs", frame, columns, WORDS["runs"], (*words, "run"), plot)
    return table.compact("val %", "run")
