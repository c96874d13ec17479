"""What a report says, in order: claims, the published study, every question, the bookkeeping.

Every section returns the blocks it consists of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar import scores
from resnet_cifar.errors import UserError
from resnet_cifar.identity import number
from resnet_cifar.report import claims, figures, flow
from resnet_cifar.report import tables as t
from resnet_cifar.report.claims import Judgement
from resnet_cifar.report.document import (
    Block,
    Columns,
    Document,
    Heading,
    Notes,
    Picture,
    Row,
    Table,
    Text,
    Verdict,
    Verdicts,
)
from resnet_cifar.report.groups import AUGMENTED, VAL, Group, groups, settings, title
from resnet_cifar.report.study import Claim, Published, Question
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, Estimate, mcnemar, seeds_to_resolve
from resnet_cifar.runs.table import Predictions, any_text, load_predictions, records

Column = Callable[[Row], str]

READING = (
    "Accuracies and losses are the last epoch's, on the validation images, which a run was not "
    "trained on; the clean view unless the augmented one is named. a ± b is the mean over n runs "
    "(seeds) with its 95 % t-interval; one run has no interval. Differences are paired by seed, "
    "which fixes initialisation, order and augmentation. Intervals are of single comparisons; "
    "where several are judged together, the verdict corrected for their number (Holm) stands "
    "beside the plain one. Only completed runs enter a mean. Figures show an interval from three "
    "runs on; below that, two values say next to nothing of a spread."
)
ROTATION = (
    "Rotation of the filters per update, measured over √(2·lr·wd/(1+m)), the prediction for scale-"
    "invariant weights in equilibrium: median and range over convolutions; grey, within 10 %."
)
FIRST_ROWS = 10  # of the ranked table on the first screen
MOST_DRAWN = 8  # questions and settings that get figures


@any_text
def build(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    questions: Sequence[Question],
    published: Sequence[Published],
    title: str = "Report",
    probe: pd.DataFrame | None = None,
    made: str = "",
) -> Document:
    """The report on `runs` (`load_runs`), their `curves` (`load_metrics`) and `load_probe`.

    Args:
        made: when and by which code, for the line below the title.
    """
    probe = pd.DataFrame() if probe is None else probe
    skipped: dict[str, str] = {}
    for table in (runs, curves, probe):
        skipped |= table.attrs.get("skipped", {})
    found = groups(runs, questions)
    answers = [t.tabulate(group, curves, published) for group in found]
    rankings = [t.tabulate(group, curves, published) for group in settings(runs)]
    judgements = claims.judge_all(found, published)
    full: list[Block] = []
    other: list[Block] = []
    drawn = _largest(answers)
    for answer in answers:
        blocks = question_section(answer, skipped, answer in drawn)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(answer.group.runs["cell"]) < set(group.runs["cell"]) for group in found):
            blocks += gradient_flow(answer.group, curves, probe)
        (full if answer.cells["verdict"].any() else other).extend(blocks)
    blocks = [
        first_screen(judgements, rankings),
        *notes(runs, judgements, answers),
        Heading("How to read this"),
        Text(READING),
        *rankings_section(rankings),
        *claims_section(judgements),
        *_left_undrawn(answers, drawn),
        Heading("Beside the published study"),
        *published_section(runs, published),
        *full,
        *([Heading("Other settings: smaller nets, shorter runs, other data")] if other else []),
        *other,
        *bookkeeping(runs, skipped),
    ]
    subtitle = ". ".join(part for part in (counts(runs), made) if part)
    return Document(title, subtitle, blocks)


def _largest(answers: Sequence[Tables]) -> list[Tables]:
    """Those that get figures: of a thousand figures nobody would look at one."""
    asked = [answer for answer in answers if answer.group.asked]
    return sorted(asked, key=lambda answer: len(answer.group.runs), reverse=True)[:MOST_DRAWN]


def _left_undrawn(answers: Sequence[Tables], drawn: Sequence[Tables]) -> list[Block]:
    rest = sum(answer.group.asked for answer in answers) - len(drawn)
    if not rest:
        return []
    sentence = (
        f"The {len(drawn)} questions and settings with most runs have figures, the other {rest} "
        "tables only. A report on fewer directories draws them."
    )
    return [Text(sentence)]


def counts(runs: pd.DataFrame) -> str:
    """How many runs there are, by status."""
    if runs.empty:
        return "No runs"
    states = ", ".join(
        f"{count} {status}" for status, count in runs["status"].value_counts().items()
    )
    return f"{len(runs)} runs in {runs['cell'].nunique()} cells: {states}"


# The first screen --------------------------------------------------------------------------------


def first_screen(judgements: Sequence[Judgement], rankings: Sequence[Tables]) -> Columns:
    """What the runs say of the claims; which cell is best, and whether that is real."""
    left: list[Block] = [Heading("What the runs say")]
    if judgements:
        left.append(Verdicts(tuple(verdict(judgement) for judgement in judgements)))
    else:
        left.append(Text("No claim of the study is about these runs."))
    right: list[Block] = [Heading("Which is best?")]
    compared = [ranking for ranking in rankings if (ranking.cells["n"] > 0).sum() > 1]
    if not compared:
        right.append(Text("There are not yet two cells with a completed run in one setting."))
        return Columns(left, right)
    right += [Text(best_in_words(compared[0])), ranking_table(compared[0], FIRST_ROWS)]
    caption = (
        "Each setting's cells, best first. A dot is a run; bars are 95 % intervals, from three "
        "runs on."
    )
    if any(len(ranking.cells) > figures.MOST_ROWS for ranking in compared):
        caption += f" The best {figures.MOST_ROWS} of each are drawn."
    right.append(Picture("overview", figures.overview(compared), caption))
    return Columns(left, right)


def verdict(judgement: Judgement) -> Verdict:
    """A claim as a sentence: what it says, its verdict, where and on what grounds."""
    claim = judgement.claim
    grounds = "; ".join(
        f"{comparison.name}: {difference_in_words(comparison.difference, claim)}"
        for comparison in judgement.comparisons
    )
    detail = ". ".join(
        part for part in (judgement.group.setting, grounds, judgement.remark) if part
    )
    if judgement.verdict != judgement.verdict_among:
        detail += f". Undecided when corrected for the {judgement.among} claims judged here"
    return Verdict(judgement.verdict, claim.claim, detail)


def difference_in_words(e: Estimate, claim: Claim) -> str:
    """`+1.20 ± 2.05 points (n = 3)`."""
    unit = " points" if claim.metric.startswith("accuracy/") else " nats"
    unit = "" if claim.relative or claim.predictor else unit
    shown = _in_unit(e, claim.metric, claim.relative, bool(claim.predictor))
    return f"{shown}{unit} (n = {e.n})"


def best_in_words(ranking: Tables) -> str:
    """Which cell of a setting is best, and whether its distance to the next means anything."""
    group = ranking.group
    best, second = records(ranking.ranks)[:2]
    mean = f"{percent(best[VAL])} % ({_runs(best['n'])})"
    start = f"{group.setting}: best is {best['label']} with {mean}."
    next_one = f"the next, {second['label']},"
    pairs = second["pairs"]
    if math.isnan(pairs):
        return f"{start} It and {next_one} share no seed, so their difference is not judged."
    e = Estimate(int(pairs), -second["difference"], math.nan, -second["high"], -second["low"])
    ahead = f"{start} It is ahead of {next_one} by {interval(e).removeprefix('+')} points"
    if pairs == 1:
        return f"{ahead} at one seed: nothing says whether that is more than chance."
    if second["p/holm"] < 1 - CONFIDENCE:
        return f"{ahead} (n = {e.n}): more than chance."
    difference = seeds_to_resolve(second["difference"], _sd(ranking, second["cell"]))
    needed = f"; about {difference} seeds would tell" if difference else ""
    return f"{ahead} (n = {e.n}): that may be chance{needed}."


def _sd(ranking: Tables, cell: str) -> float:
    table = ranking.differences
    return float(table.loc[table["cell"] == cell, "sd"].iloc[0])


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def ranking_table(ranking: Tables, most: int | None = None) -> Table:
    """The cells of a setting, best first, with their distance to the best; the first `most`."""
    frame = ranking.ranks
    columns: dict[str, Column] = {
        "rank": plain("rank"),
        "cell": plain("label"),
        "n": plain("n"),
        "val %": mean_of(VAL),
        "behind the best": _behind,
        "more than chance?": _more_than_chance,
    }
    caption = (
        "Points of validation accuracy, paired by seed; corrected for the number of cells (Holm)."
    )
    if most is not None and len(frame) > most:
        caption += f" The first {most} of {len(frame)} cells."
        frame = frame.iloc[:most]
    name = f"ranking-{ranking.group.name}" + ("-first" if most is not None else "")
    return Table(name, frame, columns, caption, words=("cell", "more than chance?"))


def _behind(row: Row) -> str:
    if math.isnan(row["pairs"]):
        return ""
    e = Estimate(int(row["pairs"]), row["difference"], math.nan, row["low"], row["high"])
    return interval(e)


def _more_than_chance(row: Row) -> str:
    if math.isnan(row["pairs"]):
        return ""
    if row["pairs"] == 1:
        return "one pair"
    return "yes" if row["p/holm"] < 1 - CONFIDENCE else "undecided"


def rankings_section(rankings: Sequence[Tables]) -> list[Block]:
    """What the first screen had no room for: further settings, and the rest of a long table."""
    compared = [ranking for ranking in rankings if (ranking.cells["n"] > 0).sum() > 1]
    blocks: list[Block] = []
    for i, ranking in enumerate(compared):
        if i > 0 or len(ranking.cells) > FIRST_ROWS:
            blocks += [
                Heading(ranking.group.setting, 3),
                Text(best_in_words(ranking)),
                ranking_table(ranking),
            ]
    return [Heading("Which is best, setting by setting?"), *blocks] if blocks else []


def notes(
    runs: pd.DataFrame, judgements: Sequence[Judgement], answers: Sequence[Tables]
) -> list[Block]:
    """What to know before believing a number, each thing said once."""
    lines = []
    single = sum(judgement.n == 1 for judgement in judgements)
    if single:
        lines.append(
            f"{single} of {len(judgements)} verdicts rest on one pair of runs somewhere and stay "
            "undecided: nothing is known of the spread between seeds."
        )
    edges = {
        f"{title(key)} ({answer.group.setting})": None
        for answer in answers
        for key in t.keys_at_edge(answer)
    }
    if edges:
        lines.append(
            "The best value lies at the edge of those tried, so the optimum may lie beyond: "
            + "; ".join(edges)
            + "."
        )
    for key, cells in t.mixed(runs).items():
        kinds = sorted({kind for found in cells.values() for kind in found})
        which = f" ({', '.join(kinds)})" if key != "versions" else ""
        count = (
            f"{len(cells)} cells mix" if len(cells) > 1 else f"One cell, {next(iter(cells))}, mixes"
        )
        lines.append(f"{count} runs of several {_PLURAL[key]}{which}.")
    return [Notes(tuple(lines))] if lines else []


_PLURAL = {
    "code": "states of the code",
    "versions": "versions of the libraries",
    "device": "devices",
    "precision": "precisions",
}


# Claims ------------------------------------------------------------------------------------------


def claims_section(judgements: Sequence[Judgement]) -> list[Block]:
    """The differences behind every verdict."""
    return [Heading("Does the claim hold?"), claims_table(judgements)] if judgements else []


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
        "claim": plain("claim"),
        "setting": plain("setting"),
        "verdict": plain("verdict"),
        "Holm": plain("verdict/holm"),
        "comparison": plain("comparison"),
        "difference": _difference,
        "n": plain("n"),
    }
    if frame["published"].notna().any():
        columns["published"] = _published_difference
    if frame["seeds"].notna().any():
        columns["seeds needed"] = lambda row: _count(row["seeds"])
    if frame["why"].any():
        columns["remark"] = plain("why")
    return Table(
        "claims",
        frame,
        columns,
        "Differences in points of accuracy (losses in nats, or per cent where relative), first "
        "minus second, paired by seed. Holm: the verdict corrected for the number of claims judged "
        "here. Seeds needed: pairs that would resolve differences of this size and spread with "
        "probability 0.8.",
        words=("claim", "setting", "verdict", "Holm", "comparison", "remark"),
    )


def _difference(row: Row) -> str:
    e = Estimate(row["n"], row["difference"], math.nan, row["low"], row["high"])
    return _in_unit(e, row["metric"], row["relative"], row["predictor"])


def _published_difference(row: Row) -> str:
    e = Estimate(1, row["published"], math.nan, math.nan, math.nan)
    return _in_unit(e, row["metric"], row["relative"], row["predictor"])


def _in_unit(e: Estimate, metric: str, relative: bool, predictor: bool) -> str:
    """A claim's difference: points of accuracy, nats, per cent, or R²."""
    if predictor:
        return interval(e, 1, 3)
    if relative:
        return interval(e, 100, 1) + (" %" if math.isfinite(e.mean) else "")
    return interval(e) if metric.startswith("accuracy/") else interval(e, 1, 4)


# Beside the published study, and all cells at a glance --------------------------------------------


def published_section(runs: pd.DataFrame, published: Sequence[Published]) -> list[Block]:
    """The runs at the published setting beside the published values and their replications."""
    table = t.study_table(runs, published)
    if not table["n"].sum():
        sentence = (
            "No completed run is at the published setting (CIFAR-10, width 64, the full budget), "
            "so nothing here is judged against the published values."
        )
        return [Text(sentence)]
    columns: dict[str, Column] = {
        "cell": plain("cell"),
        "published %": per_cent("published"),
        "replications %": _range("replications"),
        "predicted %": _range("prediction"),
        "ours %": mean_of(AUGMENTED),
        "n": plain("n"),
        "verdict": plain("verdict"),
        "ours, clean %": mean_of(VAL),
        "test, published %": per_cent("published/test"),
        "test, ours %": per_cent("accuracy/test"),
    }
    caption = (
        "Published validation and its replications were measured in the augmented view, so ours in "
        "that view is judged. Replications: their range and number. Predicted: where the mean of n "
        "runs should lie with 95 % if they were drawn like the replications (Student's t; the "
        "standard deviation of the 300-epoch BatchNorm cells is pooled over them)."
    )
    return [Table("published", table, columns, caption, words=("cell", "verdict"))]


# Questions ---------------------------------------------------------------------------------------


def question_section(answer: Tables, skipped: dict[str, str], draw: bool = True) -> list[Block]:
    """One question in one setting: its cells, their differences, curves, what early says.

    Args:
        skipped: predictions that can't be read are added to it.
        draw: with figures, not tables alone.
    """
    group = answer.group
    blocks: list[Block] = [
        Heading(f"{group.question.question} – {group.setting}", 3),
        cells_table(answer),
        *_differences(answer, draw),
    ]
    if not draw:
        return blocks
    caption = (
        "Validation (strong; thin, its single runs; from three seeds on with a 95 % band), "
        "training (faint: running mean in training mode on augmented images) and the augmented "
        "validation view (crosses)."
    )
    if len(group.labels) > figures.MOST_LINES:
        caption += f" The best {figures.MOST_LINES} of {len(group.labels)} cells are drawn."
    blocks.append(Picture(f"curves-{group.name}", figures.learning_curves(answer), caption))
    blocks += _early(answer)
    if answer.grid is not None:
        caption = "Mean validation accuracy; dashed, lines of equal product."
        blocks.append(Picture(f"map-{group.name}", figures.product_map(answer.grid), caption))
    return blocks + _predictions(group, skipped)


def cells_table(answer: Tables) -> Table:
    """The cells of a group with everything measured at their last epoch."""
    group, frame = answer.group, answer.cells
    columns: dict[str, Column] = {title(key): value_of(key) for key in group.vary}
    columns = columns or {"cell": plain("cell")}
    words = (*columns, "verdict")
    known = frame["verdict"].any()
    columns["n"] = plain("n")
    if known:
        columns |= {
            "published %": per_cent("published"),
            "replications %": _range("replications"),
            "predicted %": _range("prediction"),
        }
    columns |= {
        "val %": mean_of(VAL),
        "val augmented %": mean_of(AUGMENTED),
        "train %": mean_of("accuracy/train"),
        "val loss": mean_of("loss/val", 1, 4),
        "train loss": mean_of("loss/train", 1, 4),
    }
    if known:
        columns["verdict"] = plain("verdict")
    return Table(f"cells-{group.name}", frame, columns, words=words)


def _differences(answer: Tables, draw: bool) -> list[Block]:
    group, frame = answer.group, answer.differences
    if frame.empty:
        return []
    columns: dict[str, Column] = {
        "cell": plain("label"),
        "against": plain("against"),
        "points": lambda row: interval(
            Estimate(row["n"], row["difference"], row["sd"], row["low"], row["high"])
        ),
        "n": plain("n"),
    }
    if frame["seeds"].notna().any():
        columns["seeds needed"] = lambda row: _count(row["seeds"])
    table = Table(
        f"differences-{group.name}",
        frame,
        columns,
        "Validation accuracy against the best cell, paired by seed.",
        words=("cell", "against"),
        detail=True,
    )
    if not draw or (len(frame) == 1 and frame["n"].max() == 1):
        return [table]  # a single dot tells nothing
    caption = (
        "Differences to the best cell, paired by seed; a dot is a pair, a bar a 95 % interval, "
        "from three pairs on."
    )
    return [table, Picture(f"differences-{group.name}", figures.differences(answer), caption)]


def _early(answer: Tables) -> list[Block]:
    picks = answer.picks
    if picks.empty:
        return []
    last, best = int(picks["epoch"].iloc[-1]), picks["label"].iloc[-1]
    wrong = picks[~picks["right"]]
    if wrong.empty:
        return [Text(f"Deciding at any epoch would have picked {best}, as the last epoch does.")]
    worst = records(wrong.sort_values("behind"))[-1]
    sentence = (
        f"Deciding early: from epoch {t.settled(picks)} of {last} on the pick is {best}, as at the "
        f"end. At epoch {worst['epoch']} it would have been {worst['label']}, which ends "
        f"{100 * worst['behind']:.2f} points lower."
    )
    caption = "Ranks of the cells' mean validation accuracy by epoch."
    picture = Picture(f"ranks-{answer.group.name}", figures.pick_by_epoch(answer), caption)
    return [Text(sentence), picture]


def _predictions(group: Group, skipped: dict[str, str]) -> list[Block]:
    """Calibration, and nets compared image by image, where runs left their predictions."""
    found: dict[str, dict[int, Predictions]] = {}
    for run in records(group.runs):
        try:
            stored = load_predictions(run["directory"])
        except UserError as error:
            skipped[run["directory"]] = str(error)
            continue
        if stored is not None:
            found.setdefault(run["cell"], {})[run["seed"]] = stored
    found = {cell: found[cell] for cell in group.labels if cell in found}
    if not found:
        return []
    nets = {cell: list(seeds.values()) for cell, seeds in found.items()}
    caption = "Accuracy by confidence. Below the diagonal: surer than right."
    picture = Picture(f"calibration-{group.name}", figures.calibration(group, nets), caption)
    blocks: list[Block] = [Heading("Calibration", 4), _calibration_table(group, nets), picture]
    tests = per_image(group, found)
    if len(tests):
        blocks.append(_images_table(group, tests))
    return blocks


def _calibration_table(group: Group, nets: dict[str, list[Predictions]]) -> Table:
    rows = []
    for cell, found in nets.items():
        errors = [scores.expected_calibration_error(p.logits["val"], p.labels) for p in found]
        surest = [np.exp(scores.log_softmax(p.logits["val"])).max(axis=1).mean() for p in found]
        rows.append(
            {
                "cell": cell,
                "label": group.labels[cell],
                "n": len(found),
                "calibration_error": float(np.mean(errors)),
                "confidence": float(np.mean(surest)),
            }
        )
    columns: dict[str, Column] = {
        "cell": plain("label"),
        "n": plain("n"),
        "mean confidence %": per_cent("confidence"),
        "expected calibration error %": per_cent("calibration_error"),
    }
    caption = "15 bins of equal width, clean validation images."
    name = f"calibration-{group.name}"
    return Table(name, pd.DataFrame(rows), columns, caption, words=("cell",), detail=True)


def _images_table(group: Group, tests: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "first": plain("first"),
        "second": plain("second"),
        "seed": plain("seed"),
        "only first right": plain("only_first"),
        "only second right": plain("only_second"),
        "McNemar's p": lambda row: f"{row['p']:.2g}" if row["p"] > 0 else "< 1e-300",
    }
    caption = (
        "Image by image, one pair of nets a row (exact test). It tells these two nets apart, not "
        "the configurations: another seed is another net."
    )
    words = ("first", "second")
    return Table(f"images-{group.name}", tests, columns, caption, words=words, detail=True)


def per_image(group: Group, found: dict[str, dict[int, Predictions]]) -> pd.DataFrame:
    """McNemar's test for every claimed pair of cells and every seed both have."""
    rows, seen = [], set()
    for claim in group.question.claims:
        for a, b in ((group.find(x), group.find(y)) for x, y in claim.pairs):
            if len(a) != 1 or len(b) != 1 or (a[0], b[0]) in seen:
                continue
            seen.add((a[0], b[0]))
            names = {"first": group.labels[a[0]], "second": group.labels[b[0]]}
            first, second = found.get(a[0], {}), found.get(b[0], {})
            for seed in sorted(first.keys() & second.keys()):
                x, y = first[seed], second[seed]
                if not np.array_equal(x.positions, y.positions):
                    continue  # different splits share no images in order
                right = [p.logits["val"].argmax(axis=1) == p.labels for p in (x, y)]
                rows.append({**names, "seed": seed, **mcnemar(*right)._asdict()})
    return pd.DataFrame(rows)


# Gradient flow -----------------------------------------------------------------------------------


def gradient_flow(group: Group, curves: pd.DataFrame, probe: pd.DataFrame) -> list[Block]:
    """What the probe saw; all of it where a group's cells differ in how statistics are detached."""
    rotation = flow.rotation_figure(group, probe)
    turned: list[Block] = []
    if rotation is not None:
        turned = [Picture(f"rotation-{group.name}", rotation, ROTATION)]
    found = flow.medians(group, probe)
    if "norm.detach" not in group.vary or found.empty:
        return turned
    table = flow.table(group, found, curves)
    columns: dict[str, Column] = {
        "cell": plain("label"),
        "n": plain("n"),
        "cos(∂L/∂x, 1)": lambda row: _small(row["sum_cosine"]),
        "cos(∂L/∂x, x̂)": lambda row: _small(row["xhat_cosine"]),
        "cos(w, ∂L/∂w)": lambda row: _small(row["radial_rms"]),
        "|μ|/σ": lambda row: f"{row['mean_over_std/first']:.2f} → {row['mean_over_std']:.2f}",
        "‖w‖": lambda row: f"{row['weight_norm/first']:.2f} → {row['weight_norm']:.2f}",
        "lag": lambda row: f"{row['running_mean_gap']:.2f}",
        "train loss": lambda row: f"{row['loss/train']:.3f}",
        "val loss": lambda row: f"{row['loss/val']:.3f}",
        "its own statistics": lambda row: f"{row['loss/val_batch_statistics']:.3f}",
        "largest val loss": lambda row: f"{row['loss/val/largest']:.2f}",
    }
    medians = (
        "Medians over layers at the last probed epoch (→: from the first probed one), means over "
        "seeds. Cosines are absolute, root mean square over channels or filters. Lag: |running "
        "mean − μ|/σ. Its own statistics: the validation loss normalised by each validation batch "
        "itself."
    )
    panels = (
        "Median over layers, a line a run. Dotted: below it an identity holds, up to rounding and "
        "eps."
    )
    losses = (
        "Where validation explodes but not with its own statistics, the running statistics lag; "
        "where both do, the network itself is broken."
    )
    return [
        Heading("Gradient flow", 4),
        Text(_in_words(table)),
        Table(f"flow-{group.name}", table, columns, medians, words=("cell",)),
        Picture(f"flow-{group.name}", flow.figure(group, found), panels),
        Picture(f"losses-{group.name}", flow.losses_figure(group, curves), losses),
        *turned,
    ]


def _in_words(table: pd.DataFrame) -> str:
    """Which identities the probe found broken, cell by cell."""
    names = dict(zip(flow.IDENTITIES, ("Σ∂L/∂x = 0", "⟨∂L/∂x, x̂⟩ = 0", "w·∂L/∂w = 0"), strict=True))
    found: dict[str, list[str]] = {}
    for row in records(table):
        broken = [name for key, name in names.items() if not flow.holds(row[key])]
        found.setdefault(", ".join(broken), []).append(row["label"])
    parts = [
        f"{'; '.join(cells)}: {'broken are ' + broken if broken else 'every identity holds'}."
        for broken, cells in found.items()
    ]
    return "BatchNorm's identities, median layer, last probed epoch. " + " ".join(parts)


# Bookkeeping -------------------------------------------------------------------------------------


def bookkeeping(runs: pd.DataFrame, skipped: dict[str, str]) -> list[Block]:
    """All runs, what they took, and what is in no mean."""
    blocks: list[Block] = []
    cost = t.cost_table(runs)
    if len(cost):
        blocks += [Heading("Cost"), _cost_table(cost)]
    if len(runs):
        blocks += [Heading("All runs"), runs_table(runs)]
    rest = runs[runs["status"] != "completed"] if len(runs) else runs
    if len(rest) or skipped:
        blocks.append(Heading("Left out of every mean"))
    if len(rest):
        blocks.append(_left_out_table(rest))
    if skipped:
        frame = pd.DataFrame(sorted(skipped.items()), columns=["path", "why"])
        columns: dict[str, Column] = {"path": plain("path"), "why": plain("why")}
        caption = (
            "Runs that can't be read or are there twice, and files of runs that can't be read."
        )
        blocks.append(Table("skipped", frame, columns, caption, words=("path", "why")))
    return blocks


def runs_table(runs: pd.DataFrame) -> Table:
    """Every run with its outcome and whatever of the configuration differs between runs."""
    frame, keys = t.run_table(runs)
    columns: dict[str, Column] = {title(key): value_of(key) for key in keys}
    columns["seed"] = plain("seed")
    columns["status"] = plain("status")
    columns["epochs"] = lambda row: f"{row['epochs_done']}/{row['epochs']}"
    for name, metric in (
        ("val %", VAL),
        ("val augmented %", AUGMENTED),
        ("train %", "accuracy/train"),
    ):
        if metric in frame:
            columns[name] = per_cent(metric)
    if "loss/val" in frame:
        columns["val loss"] = lambda row: _decimals(row["loss/val"], 4)
    columns["minutes"] = lambda row: _decimals(row["seconds"] / 60, 1)
    columns["run"] = lambda row: f"{row['cell']}/seed={row['seed']}"
    caption = (
        "The best last epoch first. Of the configuration the columns that differ between these "
        "runs; the CSV has more."
    )
    words = ("status", "run", *(title(key) for key in keys if not _is_number(frame[key])))
    return Table("runs", frame, columns, caption, words=words, detail=True)


def _is_number(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _decimals(value: Any, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _cost_table(frame: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "device": plain("device"),
        "data": plain("data"),
        "width": value_of("model.width"),
        "precision": plain("precision"),
        "threads": plain("threads"),
        "runs": plain("runs"),
        "epochs": plain("epochs_done"),
        "hours": lambda row: f"{row['hours']:.2f}",
        "images/s": lambda row: f"{row['images_per_second']:,.0f}",
        "share of matmul rate %": lambda row: percent(row["share_of_matmul_rate"], 0),
    }
    caption = "Hours of all sessions, one device each; images/s in training, median over runs."
    return Table("cost", frame, columns, caption, words=("device", "data", "precision"))


def _left_out_table(rest: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "cell": plain("cell"),
        "seed": plain("seed"),
        "status": plain("status"),
        "epochs": lambda row: f"{row['epochs_done']}/{row['epochs']}",
        "cause": plain("error"),
    }
    kept = ["cell", "seed", "status", "epochs_done", "epochs", "error", "directory"]
    return Table("left-out", rest[kept], columns, words=("cell", "status", "cause"))


# Numbers for people ------------------------------------------------------------------------------


def plain(key: str) -> Column:
    """A column that shows a value as it is."""
    return lambda row: str(row[key])


def value_of(key: str) -> Column:
    """A column that shows a configuration value; a dash where a cell has no such key."""

    def show(row: Row) -> str:
        value = row[key]
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return "–" if missing else number(value)

    return show


def per_cent(key: str) -> Column:
    """A column that shows a fraction in per cent."""
    return lambda row: percent(row[key])


def mean_of(metric: str, scale: float = 100, digits: int = 2) -> Column:
    """A column `95.06 ± 0.12` of a `cell_table`; the mean alone with one run."""

    def show(row: Row) -> str:
        if math.isnan(row[metric]):
            return ""
        mean = f"{scale * row[metric]:.{digits}f}"
        half = (row[f"{metric}/high"] - row[f"{metric}/low"]) / 2
        return mean if math.isnan(half) else f"{mean} ± {scale * half:.{digits}f}"

    return show


def percent(fraction: float, digits: int = 2) -> str:
    """0.9506 as 95.06; nothing for NaN."""
    return "" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def interval(e: Estimate, scale: float = 100, digits: int = 2) -> str:
    """`+0.47 ± 0.46`."""
    if math.isnan(e.mean):
        return ""
    mean = f"{scale * e.mean:+.{digits}f}".replace("-", "−")
    return mean if e.n < 2 else f"{mean} ± {scale * e.half_width:.{digits}f}"


def _range(of: str) -> Column:
    """A column `92.19 to 92.54 (4)` of what the replications span or predict."""

    def show(row: Row) -> str:
        if math.isnan(row[f"{of}/low"]):
            return ""
        count = f" ({row[f'{of}/n']})" if f"{of}/n" in row else ""
        return f"{percent(row[f'{of}/low'])} to {percent(row[f'{of}/high'])}{count}"

    return show


def _count(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.0f}"


def _small(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"
