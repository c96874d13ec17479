"""What a report says, in order: claims, the published study, every question, the bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resnet_cifar import scores
from resnet_cifar.identity import number
from resnet_cifar.report import analysis, figures, flow
from resnet_cifar.report.analysis import AUGMENTED, VAL, Group, Judgement
from resnet_cifar.report.document import Document, Heading, Picture, Row, Table, Text
from resnet_cifar.report.statistics import Estimate, mcnemar
from resnet_cifar.report.study import Published, Question
from resnet_cifar.results import Predictions, load_predictions, records

READING = (
    "Accuracies and losses are the last epoch's, on the validation images, which a run was not "
    "trained on; the clean view unless the augmented one is named. a ± b is the mean over n runs "
    "(seeds) with its 95 % t-interval; one run has no interval. Differences are paired by seed, "
    "which fixes initialisation, order and augmentation. Intervals are of single comparisons, not "
    "corrected for their number. Only completed runs enter a mean."
)


def build(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    questions: Sequence[Question],
    published: Sequence[Published],
    title: str = "Report",
    probe: pd.DataFrame | None = None,
) -> Document:
    """The report on `runs` (`load_runs`), their `curves` (`load_metrics`) and `load_probe`."""
    probe = pd.DataFrame() if probe is None else probe
    document = Document(title)
    counts = runs["status"].value_counts() if len(runs) else pd.Series(dtype=int)
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    cells = runs["cell"].nunique() if len(runs) else 0
    document.add(Text(f"{len(runs)} runs in {cells} cells: {states}."), Text(READING))

    found = analysis.groups(runs, questions)
    judgements = [
        judgement
        for group in found
        for claim in group.question.claims
        if (judgement := analysis.judge(claim, group, published)) is not None
    ]
    if judgements:
        document.add(Heading("Does the claim hold?"), claims_table(judgements))
        if any(judgement.n == 1 for judgement in judgements):
            document.add(Text("A claim with one pair of runs stays undecided: nothing is known of "
                              "the spread between seeds."))  # fmt: skip
    _published(document, runs, published)
    answered = [group for group in found if len(group.runs) and group.question.name != "other"]
    if answered:
        figure = figures.overview(answered, published)
        caption = "Last-epoch validation accuracy. A dot is a run; bars are 95 % intervals."
        document.add(Heading("Overview"), Picture("overview", figure, caption))
    for group in found:
        _question(document, group, curves, published)
        # The same runs answer several questions; the one with most of them shows the probe.
        if not any(set(group.runs["cell"]) < set(other.runs["cell"]) for other in found):
            _gradient_flow(document, group, curves, probe)
    _bookkeeping(document, runs)
    return document


def claims_table(judgements: Sequence[Judgement]) -> Table:
    """Every claim in every setting: verdict, n, the differences behind it, the published one."""
    rows = []
    for judgement in judgements:
        claim = judgement.claim
        for i, (name, e) in enumerate(judgement.seen or (("", Estimate(0, *[math.nan] * 4)),)):
            value = judgement.published[i] if i < len(judgement.published) else math.nan
            first = i == 0
            rows.append({
                "claim": claim.claim, "setting": judgement.group.setting,
                "verdict": judgement.verdict, "comparison": name, "n": e.n,
                "difference": e.mean, "low": e.low, "high": e.high, "published": value,
                "seeds": judgement.seeds, "why": judgement.why, "metric": claim.metric,
                "relative": claim.relative, "predictor": bool(claim.predictor), "first": first,
            })  # fmt: skip

    def if_first(show: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: show(row) if row["first"] else ""

    columns: dict[str, Callable[[Row], str]] = {
        "claim": if_first(lambda r: r["claim"]),
        "setting": if_first(lambda r: r["setting"]),
        "verdict": if_first(lambda r: r["verdict"]),
        "comparison": lambda r: r["comparison"],
        "difference": _difference,
        "n": lambda r: str(r["n"]),
        "published": _published_difference,
        "seeds needed": if_first(lambda r: _count(r["seeds"])),
        "remark": if_first(lambda r: r["why"]),
    }
    frame = pd.DataFrame(rows)
    for title, key in (("remark", "why"), ("published", "published"), ("seeds needed", "seeds")):
        if not frame[key].replace("", None).notna().any():
            del columns[title]
    return Table(
        "claims", frame, columns,
        "Differences in points of accuracy (losses in nats, or per cent where relative), first "
        "minus second, paired by seed. Seeds needed: pairs that would resolve differences of this "
        "size and spread with probability 0.8.",
        words=("claim", "setting", "verdict", "comparison", "remark"),
    )  # fmt: skip


def _published(document: Document, runs: pd.DataFrame, published: Sequence[Published]) -> None:
    document.add(Heading("Beside the published study"))
    table = analysis.study_table(runs, published)
    if not table["n"].sum():
        document.add(Text(
            "No completed run is at the published setting (CIFAR-10, width 64, the full budget), "
            "so nothing here is judged against the published values."
        ))  # fmt: skip
        return
    columns: dict[str, Callable[[Row], str]] = {
        "cell": lambda r: r["cell"],
        "published %": lambda r: percent(r["published"]),
        "replications %": _replications,
        "ours, augmented %": lambda r: spread(r, AUGMENTED),
        "ours, clean %": lambda r: spread(r, VAL),
        "n": lambda r: str(r["n"]),
        "verdict": lambda r: r["verdict"],
        "published test %": lambda r: percent(r["published/test"]),
        "ours, test %": lambda r: percent(r["accuracy/test"]),
    }
    document.add(Table(
        "published", table, columns,
        "Published validation and its replications were measured in the augmented view; the "
        "verdict compares our mean in that view with their range.", words=("cell", "verdict"),
    ))  # fmt: skip


def _question(
    document: Document, group: Group, curves: pd.DataFrame, published: Sequence[Published]
) -> None:
    document.add(Heading(f"{group.question.question} – {group.setting}"))
    table = group_table(group, published)
    document.add(table)
    _edges(document, group)
    compared = analysis.difference_table(group)
    if len(compared):
        document.add(differences_table(group, compared))
        if len(compared) > 1 or (compared["n"] > 1).any():
            picture = figures.differences(group)
            assert picture is not None  # there are differences
            caption = "Differences to the best cell, paired by seed; a dot is a pair."
            document.add(Picture(f"differences-{group.name}", picture, caption))
    if len(group.runs) and group.question.name != "other":
        document.add(Picture(
            f"curves-{group.name}", figures.learning_curves(group, curves),
            "Validation (strong), its 95 % band over seeds, training (faint: running mean in "
            "training mode on augmented images) and the augmented validation view (crosses).",
        ))  # fmt: skip
    _early(document, group, curves)
    picture = figures.product_map(group)
    if picture is not None:
        caption = "Mean validation accuracy; dashed, lines of equal product."
        document.add(Picture(f"map-{group.name}", picture, caption))
    _predictions(document, group)


def group_table(group: Group, published: Sequence[Published] = ()) -> Table:
    """The cells of a group with everything measured at their last epoch."""
    frame = analysis.cell_table(group, published)
    columns: dict[str, Callable[[Row], str]] = {
        analysis.title(key): lambda r, key=key: _value(r[key])  # type: ignore[misc]
        for key in group.vary
    } or {"cell": lambda r: r["cell"]}
    words = (*columns, "verdict")
    columns["n"] = lambda r: str(r["n"])
    if frame["verdict"].any():
        columns |= {
            "published %": lambda r: percent(r["published"]),
            "replications %": _replications,
        }
    columns |= {
        "val %": lambda r: spread(r, VAL),
        "val augmented %": lambda r: spread(r, AUGMENTED),
        "train %": lambda r: spread(r, "accuracy/train"),
        "val loss": lambda r: spread(r, "loss/val", 1, 4),
        "train loss": lambda r: spread(r, "loss/train", 1, 4),
    }
    if frame["verdict"].any():
        columns["verdict"] = lambda r: r["verdict"]
    return Table(f"cells-{group.name}", frame, columns, words=words)


def differences_table(group: Group, frame: pd.DataFrame) -> Table:
    """As from `analysis.difference_table`."""
    columns: dict[str, Callable[[Row], str]] = {
        "cell": lambda r: r["label"],
        "against": lambda r: r["against"],
        "points": lambda r: interval(
            Estimate(r["n"], r["difference"], r["sd"], r["low"], r["high"])
        ),
        "n": lambda r: str(r["n"]),
        "seeds needed": lambda r: _count(r["seeds"]),
    }
    if frame["seeds"].isna().all():
        del columns["seeds needed"]
    return Table(f"differences-{group.name}", frame, columns,
                 "Validation accuracy against the best cell, paired by seed.",
                 words=("cell", "against"), detail=True)  # fmt: skip


def _edges(document: Document, group: Group) -> None:
    table = analysis.grid(group)
    edges = analysis.on_edge(table) if table is not None else []
    if analysis.edge_of_line(group):
        edges = list(group.vary)
    if edges:
        names = " and ".join(analysis.title(key) for key in edges)
        document.add(Text(f"The best cell lies on the edge of the values tried for {names}: the "
                          "optimum may lie beyond.", warning=True))  # fmt: skip


def _early(document: Document, group: Group, curves: pd.DataFrame) -> None:
    table = analysis.picks(group, curves)
    if table.empty or group.question.name == "other":
        return
    last = int(table["epoch"].iloc[-1])
    settled = analysis.settled(table)
    wrong = table[~table["right"]]
    best = table["label"].iloc[-1]
    if wrong.empty:
        text = f"Deciding at any epoch would have picked {best}, as the last epoch does."
    else:
        worst = records(wrong.sort_values("behind"))[-1]
        text = (
            f"Deciding early: from epoch {settled} of {last} on the pick is {best}, as at the end. "
            f"At epoch {worst['epoch']} it would have been {worst['label']}, which ends "
            f"{100 * worst['behind']:.2f} points lower."
        )
    document.add(Text(text))
    picture = figures.pick_by_epoch(group, curves)
    if picture is not None and len(wrong):
        document.add(Picture(f"ranks-{group.name}", picture,
                             "Ranks of the cells' mean validation accuracy by epoch."))  # fmt: skip


def _predictions(document: Document, group: Group) -> None:
    found: dict[str, dict[int, Predictions]] = {}
    for run in group.runs.to_dict("records"):
        stored = load_predictions(run["directory"])
        if stored is not None:
            found.setdefault(run["cell"], {})[run["seed"]] = stored
    found = {cell: found[cell] for cell, _ in group.cells() if cell in found}
    if not found or group.question.name == "other":
        return
    table = pd.DataFrame(
        {
            "cell": cell, "label": dict(group.cells())[cell], "n": len(seeds),
            "calibration_error": float(np.mean([
                scores.expected_calibration_error(p.logits["val"], p.labels)
                for p in seeds.values()
            ])),
            "confidence": float(np.mean([
                np.exp(scores.log_softmax(p.logits["val"])).max(axis=1).mean()
                for p in seeds.values()
            ])),
        }
        for cell, seeds in found.items()
    )  # fmt: skip
    document.add(
        Heading("Calibration", 3),
        Table(f"calibration-{group.name}", table, {
            "cell": lambda r: r["label"],
            "n": lambda r: str(r["n"]),
            "mean confidence %": lambda r: percent(r["confidence"]),
            "expected calibration error %": lambda r: percent(r["calibration_error"]),
        }, "15 bins of equal width, clean validation images.", words=("cell",), detail=True),
        Picture(f"calibration-{group.name}",
                figures.calibration(group, {c: list(s.values()) for c, s in found.items()}),
                "Accuracy by confidence. Below the diagonal: surer than right."),
    )  # fmt: skip
    tests = per_image(group, found)
    if len(tests):
        document.add(Table(f"images-{group.name}", tests, {
            "first": lambda r: r["first"],
            "second": lambda r: r["second"],
            "seed": lambda r: str(r["seed"]),
            "only first right": lambda r: str(r["only_first"]),
            "only second right": lambda r: str(r["only_second"]),
            "McNemar's p": lambda r: f"{r['p']:.2g}" if r["p"] > 0 else "< 1e-300",
        }, "Image by image, one pair of nets a row (exact test). It tells these two nets apart, "
           "not the configurations: another seed is another net.",
           words=("first", "second"), detail=True))  # fmt: skip


def per_image(group: Group, found: dict[str, dict[int, Predictions]]) -> pd.DataFrame:
    """McNemar's test for every claimed pair of cells and every seed both have."""
    labels = dict(group.cells())
    rows, seen = [], set()
    for claim in group.question.claims:
        for a, b in ((group.find(x), group.find(y)) for x, y in claim.pairs):
            if len(a) != 1 or len(b) != 1 or (a[0], b[0]) in seen:
                continue
            seen.add((a[0], b[0]))
            first, second = found.get(a[0], {}), found.get(b[0], {})
            for seed in sorted(first.keys() & second.keys()):
                x, y = first[seed], second[seed]
                if not np.array_equal(x.positions, y.positions):
                    continue  # different splits share no images in order
                right = [p.logits["val"].argmax(axis=1) == p.labels for p in (x, y)]
                rows.append({"first": labels[a[0]], "second": labels[b[0]], "seed": seed,
                             **mcnemar(*right)._asdict()})  # fmt: skip
    return pd.DataFrame(rows)


def _gradient_flow(
    document: Document, group: Group, curves: pd.DataFrame, probe: pd.DataFrame
) -> None:
    """What the probe saw, where a group's cells differ in how statistics are detached."""
    if "norm.detach" not in group.vary:
        picture = flow.rotation_figure(group, probe)
        if picture is not None:
            document.add(Picture(f"rotation-{group.name}", picture, ROTATION))
        return
    table = flow.table(group, probe, curves)
    if table.empty:
        return
    document.add(Heading("Gradient flow", 3), Text(_in_words(table)))
    columns: dict[str, Callable[[Row], str]] = {
        "cell": lambda r: r["label"],
        "n": lambda r: str(r["n"]),
        "cos(∂L/∂x, 1)": lambda r: _small(r["sum_cosine"]),
        "cos(∂L/∂x, x̂)": lambda r: _small(r["xhat_cosine"]),
        "cos(w, ∂L/∂w)": lambda r: _small(r["radial_rms"]),
        "|μ|/σ": lambda r: f"{r['mean_over_std/first']:.2f} → {r['mean_over_std']:.2f}",
        "‖w‖": lambda r: f"{r['weight_norm/first']:.2f} → {r['weight_norm']:.2f}",
        "lag": lambda r: f"{r['running_mean_gap']:.2f}",
        "train loss": lambda r: f"{r['loss/train']:.3f}",
        "val loss": lambda r: f"{r['loss/val']:.3f}",
        "its own statistics": lambda r: f"{r['loss/val_batch_statistics']:.3f}",
        "largest val loss": lambda r: f"{r['loss/val/largest']:.2f}",
    }
    document.add(
        Table(f"flow-{group.name}", table, columns,
              "Medians over layers at the last probed epoch (→: from the first probed one), means "
              "over seeds. Cosines are absolute, root mean square over channels or filters. Lag: "
              "|running mean − μ|/σ. Its own statistics: the validation loss normalised by each "
              "validation batch itself.", words=("cell",)),
        Picture(f"flow-{group.name}", flow.figure(group, probe),
                "Median over layers, a line a run. Dotted: below it an identity holds, up to "
                "rounding and eps."),
        Picture(f"losses-{group.name}", flow.losses_figure(group, curves),
                "Where validation explodes but not with its own statistics, the running statistics "
                "lag; where both do, the network itself is broken."),
    )  # fmt: skip
    picture = flow.rotation_figure(group, probe)
    if picture is not None:
        document.add(Picture(f"rotation-{group.name}", picture, ROTATION))


ROTATION = (
    "Rotation of the filters per update, measured over √(2·lr·wd/(1+m)), the prediction for scale-"
    "invariant weights in equilibrium: median and range over convolutions; grey, within 10 %."
)


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


def _small(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"


def _bookkeeping(document: Document, runs: pd.DataFrame) -> None:
    table = analysis.cost_table(runs)
    if len(table):
        document.add(Heading("Cost"), Table("cost", table, {
            "device": lambda r: str(r["device"]),
            "data": lambda r: str(r["data"]),
            "width": lambda r: _value(r["model.width"]),
            "precision": lambda r: str(r["precision"]),
            "threads": lambda r: str(r["threads"]),
            "runs": lambda r: str(r["runs"]),
            "epochs": lambda r: str(r["epochs_done"]),
            "hours": lambda r: f"{r['hours']:.2f}",
            "images/s": lambda r: f"{r['images_per_second']:,.0f}",
            "share of matmul rate %": lambda r: percent(r["share_of_matmul_rate"], 0),
        }, "Hours of all sessions, one device each; images/s in training, median over runs.",
           words=("device", "data", "precision")))  # fmt: skip
    for line in analysis.mixed(runs):
        document.add(Text(line, warning=True))
    rest = runs[runs["status"] != "completed"] if len(runs) else runs
    skipped = runs.attrs.get("skipped", {})
    if len(rest) or skipped:
        document.add(Heading("Left out of every mean"))
    if len(rest):
        document.add(Table("left-out", rest[_LEFT_OUT], {
            "cell": lambda r: r["cell"],
            "seed": lambda r: str(r["seed"]),
            "status": lambda r: r["status"],
            "epochs": lambda r: f"{r['epochs_done']}/{r['epochs']}",
            "cause": lambda r: r["error"],
        }, words=("cell", "status", "cause")))  # fmt: skip
    if skipped:
        frame = pd.DataFrame(sorted(skipped.items()), columns=["directory", "why"])
        document.add(Table("skipped", frame, {
            "directory": lambda r: r["directory"], "why": lambda r: r["why"],
        }, "Not readable as runs, or there twice.", words=("directory", "why")))  # fmt: skip


_LEFT_OUT = ["cell", "seed", "status", "epochs_done", "epochs", "error", "directory"]


# Numbers for people ------------------------------------------------------------------------------


def percent(fraction: float, digits: int = 2) -> str:
    """0.9506 as 95.06; nothing for NaN."""
    return "" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def spread(row: Row, metric: str, scale: float = 100, digits: int = 2) -> str:
    """`95.06 ± 0.12` of a row of `cell_table`; the mean alone with one run."""
    if math.isnan(row[metric]):
        return ""
    mean = f"{scale * row[metric]:.{digits}f}"
    half = (row[f"{metric}/high"] - row[f"{metric}/low"]) / 2
    return mean if math.isnan(half) else f"{mean} ± {scale * half:.{digits}f}"


def interval(e: Estimate, scale: float = 100, digits: int = 2) -> str:
    """`+0.47 ± 0.46`."""
    if math.isnan(e.mean):
        return ""
    mean = f"{scale * e.mean:+.{digits}f}".replace("-", "−")
    return mean if e.n < 2 else f"{mean} ± {scale * e.half_width:.{digits}f}"


def _difference(row: Row) -> str:
    e = Estimate(row["n"], row["difference"], math.nan, row["low"], row["high"])
    if row["predictor"]:
        return interval(e, 1, 3)
    if row["relative"]:
        return interval(e, 100, 1) + (" %" if e.n else "")
    return interval(e) if row["metric"].startswith("accuracy") else interval(e, 1, 4)


def _published_difference(row: Row) -> str:
    return "" if math.isnan(row["published"]) else _difference(row | {
        "n": 1, "difference": row["published"], "low": math.nan, "high": math.nan,
    })  # fmt: skip


def _replications(row: Row) -> str:
    if math.isnan(row["replications/low"]):
        return ""
    count = f" ({row['replications/n']})" if "replications/n" in row else ""
    return f"{percent(row['replications/low'])} to {percent(row['replications/high'])}{count}"


def _count(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.0f}"


def _value(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else number(value)
