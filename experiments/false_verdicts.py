"""How often the report is wrong: its own functions on made-up studies whose truth is known.

Cells of n runs are normal draws of one mean, wide ones of three times the spread. Two more detach
the mean, which keeps them out of the shared variance. Prints Markdown: per cent by the report's
rules, in brackets by those before: paired t, completed runs only, no correction within a claim.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from resnet_cifar.report.claims import FAILS, HOLDS, UNDECIDED, judge_all
from resnet_cifar.report.groups import Group, Spreads
from resnet_cifar.report.study import VAL, Claim, Question
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import holm

SURE = 0.05  # a verdict's p lies below
APART = {"mean": 1, "both": 3}  # the cells that detach the mean, and their spreads
CLAIMED = ((0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (0, 3))  # pairs, from and to


class Design(NamedTuple):
    """A kind of study."""

    cells: int
    n: int
    wide: int = 0  # the first cells, those of threefold spread
    ahead: float = 0  # standard deviations by which the last cell is ahead of the others
    diverged: int = 0  # seeds of the last cell


def draw(design: Design, rng: np.random.Generator) -> tuple[Group, np.ndarray]:
    """A study as a group of the report, with six claims, and its accuracies [cells, n]."""
    cells, n, wide, ahead, diverged = design
    spreads = np.array([*[3] * wide, *[1] * (cells - wide), *APART.values()])
    values = 0.8 + 0.004 * rng.normal(size=(len(spreads), n)) * spreads[:, None]
    values[cells - 1] += ahead * 0.004
    values[cells - 1, n - diverged :] = np.nan
    cell = np.repeat(np.arange(len(spreads)), n)
    runs = pd.DataFrame({"cell": cell.astype(str), "optimizer.lr": 1.0 * cell, VAL: values.ravel()})
    runs = runs.assign(data="cifar10", precision="fp32", directory=runs.index, seed=runs.index % n)
    runs["norm.detach"] = np.repeat(["none"] * cells + list(APART), n)
    runs["status"] = np.where(runs[VAL].notna(), "completed", "diverged")
    lr = [{"optimizer.lr": [1.0 * i]} for i in range(max(cells, 8))]
    claims = tuple(Claim("", pairs=tuple((lr[-1 - k], lr[k]) for k in range(*x))) for x in CLAIMED)
    question = Question("", {}, ("optimizer.lr",), name="", claims=claims)
    group = Group(question, "", runs, question.vary, Spreads(runs))
    return group, values


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sided p of paired t-tests [pairs, n], each of the runs that both have."""
    differences, n = first - second, np.isfinite(first - second).sum(1)
    t = np.nanmean(differences, 1) / np.nanstd(differences, 1, ddof=1) * np.sqrt(n)
    return np.asarray(2 * stats.t.sf(abs(t), n - 1))


def judge_pairs(design: Design, rng: np.random.Generator) -> dict[str, Any]:
    """Two cells differ: any two, by how many are wide, beside a detached one, the last beside."""
    (group, values), (cells, _, wide, *_) = draw(design, rng), design
    a, b = np.triu_indices(len(values), 1)
    p = [group.compare(str(i), str(j)).p() for i, j in zip(a, b, strict=True)]
    sure = np.stack((np.array(p) < SURE, paired(values[a], values[b]) < SURE), 1)
    any_two, wides = b < cells, 0 + (a < wide) + (b < wide)
    kinds = {"any": any_two} | {f"{x} wide": any_two & (wides == x) for x in range(3)}
    kinds |= {name: (b == i) & (a < cells) for i, name in enumerate(APART, cells)}
    kinds |= {"mean, wide": kinds["mean"] & (a < wide), "last": (b == cells - 1) & (a >= wide)}
    return {kind: sure[of].mean(0) if of.any() else [np.nan] * 2 for kind, of in kinds.items()}


def judge_best(design: Design, rng: np.random.Generator) -> dict[str, Any]:
    """The best cell is ahead of the next, or of any other, by more than chance."""
    group, values = draw(design, rng)
    runs = group.everything[group.everything["norm.detach"] == "none"]
    group = Group(group.question, "", runs, group.vary, group.spreads)
    now = Tables(group, pd.DataFrame(), ()).ranks["p"].to_numpy()[1:] < SURE
    best, *rest = np.argsort(-values[: design.cells].mean(axis=1))
    before = np.array(holm(paired(values[[best] * len(rest)], values[rest]))) < SURE
    return {"next": (now[0], before[0]), "any": (now.any(), before.any())}


def judge_claims(design: Design, rng: np.random.Generator) -> dict[str, Any]:
    """A claim of one, two, three pairs is decided; any of six claims is, after Holm."""
    group, values = draw(design, rng)
    now, last = judge_all([group]), design.cells - 1
    p, ahead = paired(values[last:3:-1], values[:4]), np.nanmean(values[last:3:-1] - values[:4], 1)
    holds, fails = np.where(ahead > 0, p, 1), np.where(ahead < 0, p, 1)
    before = [(holds[i:j].max(), fails[i:j].min()) for i, j in CLAIMED]
    decided = any(judgement.verdict != UNDECIDED for judgement in now)
    return {"any of 6": (decided, min(holm([min(p) for p in before])) < SURE)} | {
        f"{count} {verdict}": (now[i].alone == verdict, before[i][place] < SURE)
        for i, count in ((0, 1), (-2, 2), (-1, 3))
        for place, verdict in enumerate((HOLDS, FAILS))
    }


def estimate(judge: Any, design: Design, studies: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The shares [now, before] of what is judged, in per cent."""
    rng = np.random.default_rng(seed)
    found = pd.DataFrame([judge(design, rng) for _ in range(studies)])
    return {str(key): 100 * np.mean([*found[key]], axis=0) for key in found}


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the report is wrong, by Monte Carlo.")
    parser.add_argument("--studies", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    for judge, designs in PLAN.items():
        print(f"\n{judge.__doc__}\n")
        for i, design in enumerate(designs):
            found = estimate(judge, design, **options)
            if i == 0:
                print("", *Design._fields, *found, "\n|" + "---|" * (5 + len(found)), sep="|")
            shares = [f"{now:.1f} ({before:.1f})" for now, before in found.values()]
            print("", *design, *shares, "", sep=" | ", flush=True)


NULL = [Design(c, n, x * max(c // 4, 1)) for x in (0, 1) for c in (2, 8, 16) for n in (2, 3, 5)]
PLAN = {
    judge_pairs: NULL + [design._replace(ahead=2) for design in NULL if not design.wide],
    judge_best: NULL,
    judge_claims: NULL[3:6] + NULL[12:15] + [Design(8, n, 0, x, 1) for x in (0, 5) for n in (3, 5)],
}

if __name__ == "__main__":
    main()
