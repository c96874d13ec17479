"""The figures of the README and the lab book are those of the committed records.

A table is recomputed, or `UNCHECKED` for a reason; so are the decimals of the README's results.
"""

import functools
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from scipy import stats

from resnet_cifar.report import claims
from resnet_cifar.report.groups import Group, group_by_question
from resnet_cifar.report.study import load_published, load_questions
from resnet_cifar.results import load_metrics, load_runs
from resnet_cifar.runs.statistics import estimate, plus_minus

RESULTS = ROOT / "experiments" / "results" / "runs"
README, BOOK = ((ROOT / path).read_text() for path in ("README.md", "experiments/README.md"))
PUBLISHED = yaml.safe_load((ROOT / "experiments" / "published.yaml").read_text())["cells"]
VAL, AUGMENTED, EMA = "accuracy/val", "accuracy/val_augmented", "accuracy/val_ema"
NAMES = "scheduler optimizer.lr regularization.weight_decay regularization.ema_decay norm.detach"
NAMES += " seed augmentation trainer.epochs model.width"
KEYS = {name.rpartition(".")[2]: name for name in NAMES.split()}
Cell = dict[str, Any]


def tables(pages: str) -> dict[str, list[list[str]]]:
    """Tables, header first, by the first word of their heading and their last column."""
    found = {}
    pages = re.sub(r"^```.*?^```$", "", pages, flags=re.M | re.S)  # a shell's comments look alike
    for block in re.finditer(r"(?:^\|.*\n)+", pages, re.M):
        heading = re.findall(r"^#+ (\S+)", pages[: block.start()], re.M)[-1]
        rows = [re.split(r" *\| *", line[1:-1].strip()) for line in block[0].splitlines()]
        name = f"{heading} {rows[0][-1]}"
        assert name not in found
        found[name] = [rows[0], *rows[2:]]
    return found


@functools.cache
def records() -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = load_runs(RESULTS)
    assert not runs.attrs["skipped"]
    return runs, load_metrics(runs)


def cell(lr: float = 0.01, scheduler: str = "cosine", decay: float = 0, **more: Any) -> Cell:
    """A cell of width 16 and 15 epochs, except for what is said."""
    known = {"scheduler": scheduler, "augmentation": "crop_flip", "ema_decay": 0, "detach": "none"}
    known |= {"lr": lr, "weight_decay": decay, "epochs": 15, "width": 16} | more
    return {KEYS[key]: value for key, value in known.items()}


def selected(wanted: Cell) -> pd.DataFrame:
    runs = records()[0]
    return runs[(runs[list(wanted)] == list(wanted.values())).all(axis=1)].sort_values("seed")


def values(wanted: Cell, key: str = VAL) -> pd.Series:
    """The last epoch's, by seed; accuracies in %."""
    return (100 if "accuracy" in key else 1) * selected(wanted).set_index("seed")[key]


def curves(wanted: Cell, key: str = VAL) -> pd.DataFrame:
    epochs = records()[1].merge(selected(wanted)[["directory"]])
    return epochs.pivot_table(index="epoch", columns="seed", values=key)


def public(name: str) -> tuple[float, list[float]]:
    """The published augmented accuracy in %, and its repetitions without the published run."""
    cell = PUBLISHED[name]
    found = [each["measured"] for each in cell["repetitions"] if "left_out" not in each]
    return 100 * cell["published"][AUGMENTED], [100 * each[AUGMENTED] for each in found]


def text(found: Any, digits: int = 2, joint: str = ", ") -> str:
    return joint.join(f"{each:.{digits}f}".replace("-", "−") for each in np.atleast_1d(found))


def spanned(found: Any) -> str:
    return text((min(found), max(found)) if len(found) > 1 else found, joint=" to ")


def decimals(prose: str) -> list[str]:
    return re.findall(r"\d+\.\d+", re.sub(r"\]\(.*?\)|`.*?`", "", prose))


def paired(found: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(found) - 1) * found.std() / len(found) ** 0.5
    return text((found.mean(), half), joint=" ± ")


PRODUCT = "(0.05, 5e-4) ends at least 1 point above (0.005, 5e-3), which has the same product"


@functools.cache
def groups() -> list[Group]:
    return group_by_question(records()[0], load_questions())


def lead(question: str, first: Cell, second: Cell) -> str:
    """The report's own comparison of two cells, in points; no interval where it has none."""
    sides = [{key: [value] for key, value in side.items()} for side in (first, second)]
    asked = [group for group in groups() if group.question.name == question]
    (e,) = [
        group.compare(*(name for (name,) in found))
        for group in asked
        if all(found := [group.find(side) for side in sides])
    ]
    assert e
    return plus_minus(100 * e.mean, 100 * e.half_width)


def judged(claim: str) -> claims.Judgement:
    """The report's judgement of a claim, after 15 epochs at width 16."""
    short = "CIFAR-10, width 16, 15 epochs"
    settings = (short, f"{short}, lr 0.01", f"{short}, cosine")
    (found,) = [
        each
        for each in claims.judge_all(groups())
        if each.claim.claim == claim and each.group.setting in settings
    ]
    return found


def passes(difference: str) -> str:
    """A difference within the public passes: "0.47 ± 0.46 (4 passes)", of two its ends."""
    (found,) = [
        list(values.values())
        for claim, name, values in claims.judge_published(load_questions(), load_published())
        if name == difference and claim.metric == VAL
    ]
    e = estimate([100 * each for each in found])
    ends = plus_minus(e.mean, e.half_width) if e.n > 2 else spanned(100 * np.array(found))
    return f"{ends} ({e.n} passes)"


def beside(wanted: Cell, key: str, value: Any) -> pd.Series:
    return (values(wanted) - values(wanted | {KEYS[key]: value})).dropna()


COLUMNS = {
    "n": lambda wanted: str(len(values(wanted))),
    "largest val loss": lambda wanted: spanned(curves(wanted, "loss/val").max()),
    "seeds 0 to 4": lambda wanted: text(beside(wanted, "detach", "none")),
    "mean ± half the 95 % interval": lambda wanted: paired(beside(wanted, "detach", "none")),
    "below crop_flip, same seed": lambda wanted: text(-beside(wanted, "augmentation", "crop_flip")),
    "averaged − last, points": lambda wanted: text(values(wanted, EMA) - values(wanted)),
}
MEASURED = {
    "Full val loss augmented": cell(scheduler="constant", width=64),
    "Width val loss augmented": cell(scheduler="constant"),
    "2. val loss, seeds 0 to 2": cell(),
    "3. val loss": cell(),
    "4. val loss": cell(decay=0.01),
    "5. val loss": cell(),
    "7. train %, seeds 0 to 2": cell(decay=0.01),
    "8. val loss ema": cell(decay=0.01, ema_decay=0.999),
    "9. largest val loss": cell(epochs=5),
    "9. mean ± half the 95 % interval": cell(epochs=5),
}
BY_ROW = {"The width 16", "6. 1e-2", "6. Spearman correlation", "6. apart"}
UNCHECKED = {"Train two CPU cores": "estimates for GPUs, one machine's time for the CPU"}
UNCHECKED |= {"Records records up to": "float32 records that only the history has"}
UNCHECKED |= {"resnet-cifar here, at a quarter of the width": "`answers` has its sentences"}
UNCHECKED |= {"Lab section": "its decimals are compared with those of the other tables"}
TABLES = tables(README + BOOK)


@pytest.mark.parametrize("name", MEASURED)
def test_a_table_of_cells(name: str) -> None:
    """Each value up to n = 2 or where seeds are listed, else mean ± standard deviation."""
    header, *rows = TABLES[name]
    for row in rows:
        wanted, made = dict(MEASURED[name]), []
        for column, entry in zip(header, row, strict=True):
            if key := KEYS.get(column.replace(" ", "_")):
                wanted[key] = float(entry) if re.match(r"\d", entry) else entry
                made.append(entry)
            elif column in COLUMNS:
                made.append(entry and COLUMNS[column](wanted))
            else:
                metric = "_".join(re.sub("%|loss|,.*", "", column).split())
                found = values(wanted, f"{'accuracy' if '%' in column else 'loss'}/{metric}")
                digits = len(re.split("[ ,]", entry.partition(".")[2])[0])
                spread = text((found.mean(), found.std()), digits, " ± ")
                few = len(found) < 3 or "seeds" in column
                made.append(text(found, digits) if few else spread)
        assert made == row


def rows_of_their_own_kind() -> list[str]:
    """The study of the README; section 6: the map, what fits it, and cells of equal products."""
    made: list[str] = []
    for name, entry in PUBLISHED.items():
        lr, schedule, decay, detach, epochs = entry["selector"].values()
        shown = f"{decay:.0e}".replace("e-0", "e-").replace("0e+00", "0")
        varies = [f"lr {lr:g}", schedule, f"decay {shown}" * (decay > 0)]
        varies += ["detached" * (detach != "none"), f"{epochs} epochs"]
        value, others = public(name)
        row = f"`{name}` | {', '.join(filter(None, varies))} | {text(value)}"
        row += f" | {spanned(others)} ({'n = ' * (not made)}{len(others)})"
        for length, width in ((epochs, 64), (min(epochs, 30), 16)):  # the study, and its replica
            wanted = cell(lr, schedule, decay, detach=detach, epochs=length, width=width)
            runs = values(wanted, AUGMENTED)
            row += f" | {text(runs.mean())} ({len(runs)})" if len(runs) else " | –"
        made.append(row)
    grid = [(lr, d) for lr in (0.005, 0.01, 0.05, 0.1) for d in (0.0005, 0.001, 0.005, 0.01)]
    found = np.array([values(cell(*(lr, "cosine", d), seed=0))[0] for lr, d in grid])
    made += [f"{grid[i][0]} | {text(found[i : i + 4], joint=' | ')}" for i in range(0, 16, 4)]
    lr, wd = np.array(grid).T
    for name, x in {"lr·wd": lr * wd, "lr": lr, "wd": wd, "lr²·wd": lr**2 * wd}.items():
        x = np.log10(x).round(9)
        fit = np.corrcoef(np.polyval(np.polyfit(x, found, 2), x), found)[0, 1] ** 2
        made.append(f"{name} | {fit:.3f} | {text(stats.spearmanr(x, found).statistic)}")
    for name in ("5e-6", "2.5e-5", "5e-5", "1e-4", "5e-4"):
        same = found[np.isclose(lr * wd, float(name))]
        made.append(f"{name} | {text(same)} | {text(np.ptp(same))}")
    return made


def test_every_table_is_known_and_those_of_their_own_kind() -> None:
    assert set(TABLES) == MEASURED.keys() | BY_ROW | UNCHECKED.keys()
    printed = [" | ".join(row).strip(" |") for name in BY_ROW for row in TABLES[name][1:]]
    assert sorted(printed) == sorted(rows_of_their_own_kind())


def answers() -> list[str]:
    """The README's first table, from the public passes and by the report's own comparisons."""
    rate = {lr: cell(lr, "constant") for lr in (0.1, 0.01, 0.001)}
    rates = [lead("learning_rate", rate[a], rate[b]) for a, b in ((0.1, 0.01), (0.01, 0.001))]
    annealed = [
        lead("schedule", cell(epochs=e), cell(scheduler="constant", epochs=e)) for e in (15, 30)
    ]
    decays = [(5, 0.01, 0), (15, 0.01, 0), (15, 5e-4, 0), (15, 0.01, 5e-4)]
    decays += [(30, 5e-4, 0), (30, 0.01, 5e-4)]
    steps = [
        lead("weight_decay", cell(decay=high, epochs=e), cell(decay=low, epochs=e))
        for e, high, low in decays
    ]
    order = judged("lr 0.01 ends above 0.1 and above 0.001")
    both = lead("schedule_x_wd", cell(decay=0.01), cell(scheduler="constant"))
    short = cell(decay=0.01, epochs=5)
    detached = lead("batchnorm", short, short | {KEYS["detach"]: "both"})
    rows = [
        f"0.01: ahead of 0.1 by {passes('lr 0.01 − 0.1').partition(' (')[0]}, of 0.001 by "
        f"{passes('lr 0.01 − 0.001')} | {order.verdict}: 0.1 ahead of 0.01 by {rates[0]}; 0.01 is "
        f"ahead of 0.001 by {rates[1]} (15 epochs, n = 3)",
        f"{passes('cosine − constant')} | {annealed[0]} (15 epochs, n = 3); open at 30: "
        f"{annealed[1]} (n = 1)",
        f"5e-4: {passes('weight decay 0.0005 − 0').partition(' (')[0]}; 1e-2 another "
        f"{passes('weight decay 0.01 − 0.0005')} | 1e-2: {steps[0]} (5 epochs, n = 5), {steps[1]} "
        f"(15, n = 3). In steps: 5e-4 {steps[2]}, 1e-2 another {steps[3]} (15, n = 3); open at 30: "
        f"{steps[4]}, {steps[5]} (n = 1)",
        f"{passes('cosine − constant, weight decay 0.01 − 0')} | {both} (15 epochs, n = 3)",
        f"it fails: {passes('detach none − both').replace(' (', ' lower (')} | it fails: "
        f"{detached} lower (5 epochs, n = 5)",
    ]
    return rows


def test_the_answers_of_the_readme() -> None:
    first = README.partition("## Start")[0]
    for row in answers():
        assert row in first
    assert decimals(first) == decimals(" ".join(answers()))


def test_what_is_beyond_the_study() -> None:
    ema = cell(decay=0.01, ema_decay=0.999)
    flat = lead("schedule_x_wd", cell(scheduler="constant"), cell(0.01, "constant", 0.01))
    steep = lead("weight_decay", cell(decay=0.01), cell())
    adds = judged("weight decay 1e-2 adds more along the cosine than at a constant rate")
    e = adds.comparisons[0].difference
    more = plus_minus(100 * e.mean, 100 * e.half_width)
    fits = [text(float(row[1])) for row in TABLES["6. Spearman correlation"][1:4]]
    equal = judged(PRODUCT).comparisons[0].difference
    apart = plus_minus(100 * equal.mean, 100 * equal.half_width)
    lower = [row[2].split(", ") for row in TABLES["7. train %, seeds 0 to 2"][2:]]
    expected = ["0.01", *flat.split(" ± "), *steep.split(" ± "), *more.split(" ± "), *fits]
    expected += ["0.05", *apart.split(" ± "), "0.005", *lower[0], *lower[1]]
    expected += [text(each) for each in values(ema) - values(ema, EMA)] + ["95.11"]
    results = README.partition("## Beyond the study")[2].partition("\n## ")[0]
    assert decimals(results) == expected
    plain = " ".join(results.split())
    assert f"1e-2 ends {flat} points below none, along the cosine {steep} above" in plain
    assert f"differ by {more}, as was claimed before (n = {e.n})" in plain
    assert f"(0.05, 5e-4) ends {apart} above (0.005, 5e-3) (n = {equal.n})" in plain
    assert adds.verdict == "holds"
    ends = {}
    for detach in ("none", "var", "mean", "both"):
        short = [values(cell(decay=d, epochs=5, detach=detach)) for d in (0, 0.01)]
        ends[detach] = f"{min(map(min, short)):.0f} to {max(map(max, short)):.0f}"
    assert f"BatchNorm has {ends['none']} %. Without the variance's gradient it is" in plain
    assert f"it is {ends['var']} %, without the mean's {ends['mean']} %, without either" in plain
    assert f"without either {ends['both']} %" in plain


def test_the_lab_book_s_summary() -> None:
    ema = cell(decay=0.01, ema_decay=0.999)
    led = (curves(ema, EMA) > curves(ema))[::-1].idxmax()
    assert f"ahead until epoch {led[0]} and {led[1]}, at the end" in str(TABLES["Lab section"])
    rate = {lr: cell(lr, "constant") for lr in (0.1, 0.01, 0.001)}
    for a, b in ((0.1, 0.01), (0.01, 0.001)):
        assert lead("learning_rate", rate[a], rate[b]) in " ".join(BOOK.split())
    known = {text(values(each).mean()) for each in rate.values()}
    known |= {text(100 * pair) for pair in judged(PRODUCT).comparisons[0].pairs}
    tabled = decimals(str([TABLES[name] for name in MEASURED.keys() | BY_ROW]))
    known |= {*tabled, *(text(float(each)) for each in tabled)}
    assert not set(decimals(str(TABLES["Lab section"]))) - known
