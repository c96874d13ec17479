"""The page on gradient flow: its tables and figures, computed again from the committed records."""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from resnet_cifar.report.flow import medians
from resnet_cifar.results import load_metrics, load_probe, load_runs

PAGE = ROOT / "experiments" / "gradient_flow.md"
RUNS = ROOT / "experiments" / "results" / "runs"
KEYS = {"norm.detach": "detach", "regularization.weight_decay": "decay"}
CELLS = [(detach, decay) for decay in (0.0, 0.01) for detach in ("none", "var", "mean", "both")]
ROTATION = "lr0.1_constant_wd0.0005_bn_8ep_w16-f0bca22d"


@cache
def study() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The runs of 5 epochs: metrics by epoch, medians over layers by epoch, the probe's rows."""
    runs = load_runs(RUNS)
    setting = {"epochs": 5, "model.width": 16, "optimizer.lr": 0.01, "scheduler": "cosine"}
    runs = runs[(runs[[*setting]] == pd.Series(setting)).all(axis=1)]
    probe = load_probe(runs)
    cells = runs.rename(columns=KEYS)[["directory", *KEYS.values()]]
    metrics, layers, rows = (t.merge(cells) for t in (load_metrics(runs), medians(probe), probe))
    return metrics, layers, rows


def each_cell(table: pd.DataFrame) -> Iterator[tuple[list[str], pd.DataFrame]]:
    for detach, decay in CELLS:
        part = table[(table["detach"] == detach) & (table["decay"] == decay)]
        yield [detach, f"{decay:g}"], part


def spread(values: pd.Series, form: str) -> str:
    """The smallest and the largest value, once if they read the same."""
    return " to ".join(dict.fromkeys(format(v, form) for v in (values.min(), values.max())))


def measured() -> Iterator[list[str]]:
    metrics, layers, probe = study()
    tables = zip(each_cell(metrics), each_cell(layers), each_cell(probe), strict=True)
    for (cell, epochs), (_, medians_), (_, rows) in tables:
        last, first, end = (
            t[t["epoch"] == e] for t, e in ((epochs, 5), (medians_, 1), (medians_, 5))
        )
        worst = rows.groupby(["epoch", "seed"])["mean_over_std"].max().groupby("epoch").mean()
        percent = [100 * last[f"accuracy/{part}"] for part in ("train", "val")]
        drift, length = (
            [t[name].mean() for t in (first, end)] for name in ("mean_over_std", "weight_norm")
        )
        yield [
            *cell,
            str(last["seed"].nunique()),
            *(f"{of.mean():.1f} ± {of.std():.1f}" for of in percent),
            spread(epochs.groupby("seed")["loss/val"].max(), ".1f"),
            *(spread(end[name], ".0e") for name in ("sum_cosine", "xhat_cosine", "radial_rms")),
            "{:.2f} → {:.2f}".format(*drift),
            f"{worst[1]:.1f} → {worst[5]:.1f}",
            "{:.2f} → {:.2f}".format(*length),
        ]


OWN = [f"loss/val_batch_{which}" for which in ("statistics", "mean", "variance")]


def largest() -> Iterator[list[str]]:
    metrics, _, probe = study()
    for (cell, epochs), (_, rows) in zip(each_cell(metrics), each_cell(probe), strict=True):
        found = epochs.loc[epochs["loss/val"].idxmax()]
        then = rows[(rows["seed"] == found["seed"]) & (rows["epoch"] == found["epoch"])]
        losses = [found[name] for name in ("loss/train", "loss/val", *OWN)]
        yield [
            *cell,
            *(str(found[name]) for name in ("seed", "epoch")),
            *("–" if pd.isna(loss) else f"{loss:.2f}" for loss in losses),
            *(f"{then[f'running_{which}_gap'].max():.2f}" for which in ("mean", "var")),
        ]


def separated() -> Iterator[list[str]]:
    for cell, epochs in each_cell(study()[0]):
        known = epochs.dropna(subset=OWN)
        if known.empty:  # no run of the cell is recent enough to have them
            continue
        both, mean, variance = (known[name] for name in OWN)
        excess = known["loss/val"] - both
        large = excess > 0.5
        shares = [((own - both) / excess)[large] for own in (mean, variance)]
        seeds = [share.groupby(known["seed"][large]).median() for share in shares]
        views = ["loss/val", *OWN]
        right = [known[view.replace("loss", "accuracy")][large].median() for view in views]
        figures = [
            *(f"{100 * share.median():.0f} %" for share in shares),
            *(f"{100 * accuracy:.0f}" for accuracy in right),
            f"{(shares[0] < shares[1]).sum()} of {large.sum()}",
            f"{(seeds[0] < seeds[1]).sum()} of {len(seeds[0])}",
        ]
        count = [str(known["seed"].nunique()), f"{large.sum()} of {len(known)}"]
        yield [*cell, *count, *(figures if large.any() else ["–"] * len(figures))]


@cache
def turning() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The run whose rotation is shown: its metrics, and the probe's rows."""
    runs = load_runs(RUNS)
    runs = runs[runs["cell"] == ROTATION]
    return load_metrics(runs), load_probe(runs)


def ratios(probe: pd.DataFrame) -> pd.Series:
    """Of each convolution and epoch its rotation, as a multiple of the prediction."""
    mine = probe[probe["kind"] == "conv"].set_index(["seed", "epoch"])
    return mine["angular_update"] / mine["angular_update_predicted"]


def rotation() -> Iterator[list[str]]:
    metrics, probe = turning()
    for epoch, ratio in ratios(probe).groupby("epoch"):
        (line,) = metrics[metrics["epoch"] == epoch].to_dict("records")
        yield [
            str(epoch),
            *(f"{100 * line[f'accuracy/{part}']:.1f}" for part in ("train", "val")),
            f"{ratio.median():.3f}",
            str(((ratio - 1).abs() <= 0.1).sum()),
            f"{ratio.min():.2f}",
            f"{ratio.max():.2f}",
        ]


COLLAPSE = "lr0.01_constant_wd0.01_detached_bn_5ep-2db27452"


@cache
def at_full_width() -> pd.DataFrame:
    """By epoch the metrics of the run at width 64, and its layers' medians and largest values."""
    runs = load_runs(RUNS)
    runs = runs[runs["cell"] == COLLAPSE]
    probe = load_probe(runs)
    layers = medians(probe).set_index("epoch")[["radial_rms", "weight_norm"]]
    worst = probe.groupby("epoch")[["mean_over_std", "running_mean_gap"]].max().add_prefix("worst/")
    return load_metrics(runs).set_index("epoch").join(layers).join(worst)


def collapse() -> Iterator[list[str]]:
    for epoch, line in at_full_width().iterrows():
        views = ("train", "val", "val_batch_statistics")
        seen = [(100 * line[f"accuracy/{v}"], line[f"loss/{v}"]) for v in views]
        yield [
            str(epoch),
            *(text for right, loss in seen for text in (f"{right:.1f}", f"{loss:.2f}")),
            *(f"{line[name]:.2f}" for name in ("radial_rms", "weight_norm")),
            f"{line['worst/mean_over_std']:.1f}",
            f"{line['worst/running_mean_gap']:.2f}",
        ]


@cache
def tables() -> dict[str, list[list[str]]]:
    """The rows of every table of the page, by the title of its last column."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.M):
        lines = (re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines())
        titles, _, *rows = ([text.strip() for text in line] for line in lines)
        found[titles[-1]] = rows
    return found


TABLES: dict[str, Any] = {
    "‖w‖": measured,
    r"worst \|ln(running variance/σ²)\|": largest,
    "so in seeds": separated,
    "largest": rotation,
    r"worst \|running mean − μ\|/σ": collapse,
}


@pytest.mark.parametrize("title", TABLES)
def test_a_table_is_what_the_records_give(title: str) -> None:
    assert tables()[title] == list(TABLES[title]())


def test_no_table_of_numbers_is_left_out() -> None:
    (formulas,) = tables().keys() - TABLES.keys()
    assert not re.search(r"\d\.\d", str(tables()[formulas]))


def said() -> Iterator[str]:
    """Figures of the text, in its words: where detaching leads."""
    metrics, _, _ = study()
    last = metrics[metrics["epoch"] == 5].set_index(["detach", "decay", "seed"]).sort_index()
    val, own = (100 * last[f"accuracy/{view}"] for view in ("val", "val_batch_statistics"))
    behind = {decay: val["none", decay] - val["var", decay] for decay in (0.0, 0.01)}
    yield (
        f"{spread(behind[0.0], '.0f')} points below BatchNorm without decay. With decay 1e-2 it "
        f"ends {spread(behind[0.01], '.0f')} points below"
    )
    both = spread(val["both", 0.01], ".0f")
    yield f"with decay its gradients end up largely radial (0.5) and the network at {both} %"
    yield (
        f"`mean` has {spread(own['mean', 0.0], '.0f')} % of validation right after 5 epochs "
        f"(decay 0; {spread(own['mean', 0.01], '.0f')} % at decay 1e-2) and `both` "
        f"{spread(own['both', 0.0], '.0f')} % ({spread(own['both', 0.01], '.0f')} %), where "
        f"BatchNorm has {spread(own['none'], '.0f')} % (n = {len(own['none', 0.0])} each)"
    )
    loss = last["loss/val"]["both", 0.01]
    yield f"validation loss after epoch 5 ({spread(loss, '.2f')}) is within 0.05"
    gap = loss - last["loss/train"]["both", 0.01]
    assert gap.abs().max() < 0.05
    yield (
        f"validation accuracy is {spread(val['none'], '.0f')} % with BatchNorm (two decays, five "
        f"seeds), {spread(val['var'], '.0f')} % without the variance's gradient, "
        f"{spread(val['mean'], '.0f')} % without the mean's and {spread(val['both'], '.0f')} % "
        "without both"
    )
    by_cell = val.unstack("detach")
    assert (by_cell[["none", "var", "both", "mean"]].diff(axis=1).iloc[:, 1:] < 0).all(axis=None)
    yield "at every seed the order is none, var, both, mean"


def said_of_identities() -> Iterator[str]:
    """Figures of the text, in its words: which identities hold, and the drift."""
    last = study()[1]
    last = last[last["epoch"] == 5].set_index("detach")
    breaks = {
        "sum_cosine": ["mean", "both"],
        "xhat_cosine": ["var", "both"],
        "radial_rms": ["var", "mean", "both"],
    }
    broken, whole = (
        pd.concat([pick(last[name], cells) for name, cells in breaks.items()])
        for pick in (lambda of, cells: of[cells], lambda of, cells: of.drop(cells))
    )
    yield (
        f"Those that hold leave {spread(whole, '.0e')} (rounding and eps); those that are broken, "
        f"{broken.min():.0e} to {broken.max():.1f}"
    )
    yield f"A pull of {spread(100 * last['sum_cosine']['mean'], '.0f')} % of the gradient"
    drift: dict[str, list[list[str]]] = {detach: [] for detach in ("none", "mean", "both")}
    for row in measured():
        drift.get(row[0], []).append(row[-2].split(" → "))
    usual, large = (
        sorted(float(each) for cell in cells for each in cell)
        for cells in (drift["none"], drift["mean"] + drift["both"])
    )
    yield f"Its |μ|/σ is {large[0]} to {large[-1]}, with BatchNorm {usual[0]} to {usual[-1]}"
    grows = drift["mean"]
    yield (
        f"the worst layer's grows from {grows[0][0]} to {grows[0][1]} (decay 0) and from "
        f"{grows[1][0]} to {grows[1][1]} (decay 1e-2)"
    )


def said_of_spikes() -> Iterator[str]:
    """Figures of the text, in its words: mean and variance apart."""
    rows = [row for row in separated() if row[0] in ("mean", "both")]
    counts, seeds = ([row[i].split(" of ") for row in rows] for i in (10, 11))
    shares = [pd.Series([float(row[i].rstrip(" %")) for row in rows]) for i in (4, 5)]
    yield (
        f"With its own mean alone {spread(shares[0], '.0f')} % of the excess is left, with its own "
        f"variance alone {spread(shares[1], '.0f')} %"
    )
    less, epochs = (sum(int(count[i]) for count in counts) for i in (0, 1))
    n = spread(pd.Series([int(row[2]) for row in rows]), "d")
    yield f"the mean leaves less in {less} of {epochs} epochs and at each seed (n = {n} a cell)"
    assert all(few == of for few, of in seeds)
    top = {row[0] + row[1]: row for row in largest()}
    most = max(top.values(), key=lambda row: float(row[5]))
    yield f"The largest loss of all, {most[5]} nats, is {most[7]} with the one and {most[8]} with"
    usual_mean, usual_var, mean, var = (
        spread(pd.Series([float(r[i]) for r in top.values() if r[0] in cells]), ".2f")
        for cells, i in (
            (("none", "var"), 9),
            (("none",), 10),
            (("mean", "both"), 9),
            (("mean", "both"), 10),
        )
    )
    yield f"running mean is off by {mean} σ in the worst layer, against {usual_mean} in the cells"
    yield f"the running variance is off by less: its logarithm by {var}, with BatchNorm {usual_var}"


def said_of_rotation() -> Iterator[str]:
    """Figures of the text, in its words: the rotation of the weights."""
    for lr, decay in (("0.1", "5e-4"), ("0.01", "1e-2")):
        steps = (1 - 0.9) / (2 * float(lr) * float(decay))
        yield f"{steps:,.0f} at lr {lr} and decay {decay}"
    yield f"predicted {math.sqrt(2 * 0.1 * 5e-4 / (1 + 0.9)):.5f} rad"
    metrics, probe = turning()
    last = metrics.iloc[-1]
    medians_ = ratios(probe).groupby("epoch").median()
    yield f"comes down from {medians_[1]:.3f} to {medians_[8]:.3f} times the prediction"
    yield f"{last['step']:,} steps, {last['step'] / 1000:.1f} time constants"
    norms = probe[probe["kind"] == "conv"].groupby("epoch")["weight_norm"].median()
    yield f"median ‖w‖ grows from {norms[1]:.2f} after epoch 1 to {norms[8]:.2f}"
    assert probe["std_min"].min() > 0.1
    yield "no channel's σ is below 0.1 after any epoch"
    rows = study()[2]
    slow = rows[(rows["detach"] == "none") & (rows["decay"] == 0.01)]
    most = ratios(slow).groupby(["seed", "epoch"]).median().max()
    yield f"at most {most:.2f} times the prediction (n = {slow['seed'].nunique()})"


def said_of_the_collapse() -> Iterator[str]:
    """Figures of the text, in its words: the run at the study's width."""
    lines = at_full_width()
    own = 100 * lines["accuracy/val_batch_statistics"]
    yield f"{own[1]:.0f} % of validation right by its own statistics, after epoch 3 {own[3]:.0f} %"
    yield f"{spread(lines['loss/train'].loc[3:], '.2f')} in epochs 3 to 5"
    losses = [lines[f"loss/{view}"][1] for view in ("val", "val_batch_statistics")]
    yield (
        "the validation loss is {:.2f} with them and {:.2f} without, and the accuracy ".format(
            *losses
        )
        + f"{100 * lines['accuracy/val'][1]:.0f} % and {own[1]:.0f} %"
    )
    yield f"the running mean is within {lines['worst/running_mean_gap'].loc[3:].max():.2f} σ"
    radial = lines["radial_rms"]
    yield f"a cosine of {radial[1]:.2f} after epoch 1, {radial[5]:.2f} after epoch 5"
    assert 0.45 < lines["weight_norm"][5] / lines["weight_norm"][1] < 0.55


def test_the_text_says_what_the_records_give() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for sentence in (
        *said(),
        *said_of_identities(),
        *said_of_spikes(),
        *said_of_rotation(),
        *said_of_the_collapse(),
    ):
        assert sentence in text
