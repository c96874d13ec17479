"""Verdicts on claims from the runs of a setting: holds, does not hold, or undecided."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnet_cifar.identity import SHORT
from resnet_cifar.report.groups import Group, describe_value, name_key
from resnet_cifar.report.study import AUGMENTED, VAL, Claim, Published, Selector, find_published
from resnet_cifar.runs import statistics
from resnet_cifar.runs.statistics import Estimate

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True, eq=False)
class Comparison:
    """One of the differences a claim is about."""

    name: str  # `lr 0.01 − 0.1`
    difference: Estimate  # first minus second, paired by seed
    published: float  # the same difference of the published values; NaN outside the published cells


@dataclass(frozen=True, eq=False)
class Judgement:
    """The verdict of one setting's runs on one claim, with its grounds."""

    claim: Claim
    group: Group
    verdict: str  # HOLDS, FAILS or UNDECIDED
    comparisons: tuple[Comparison, ...]
    p: float  # of the verdict: the smaller, the surer; 1 where it is undecided for want of pairs
    remark: str = ""
    among: int = 1  # claims judged together
    p_among: float = math.nan  # p corrected for their number

    @property
    def verdict_among(self) -> str:
        """The verdict, corrected for the number of claims judged together (Holm)."""
        return self.verdict if self.p_among < 1 - statistics.CONFIDENCE else UNDECIDED

    @property
    def n(self) -> int:
        """Pairs of the comparison that has fewest."""
        return min((c.difference.n for c in self.comparisons), default=0)

    @property
    def seeds(self) -> int | None:
        """Pairs that would resolve every difference seen; None where one can't be resolved."""
        claim, needed = self.claim, []
        for e in (c.difference for c in self.comparisons):
            distance = claim.sign * e.mean - claim.margin  # of the mean from the verdict's change
            if claim.within is not None:
                distance = claim.within - abs(e.mean)
            needed.append(statistics.seeds_to_resolve(distance, e.sd))
        known = [n for n in needed if n is not None]
        return max(known) if known and len(known) == len(needed) else None


def judge_all(groups: Sequence[Group], published: Sequence[Published]) -> list[Judgement]:
    """Every claim of the groups' questions that there are runs for, in order."""
    judgements = [
        judgement
        for group in groups
        for claim in group.question.claims
        if (judgement := judge(claim, group, published)) is not None
    ]
    corrected = statistics.holm([judgement.p for judgement in judgements])
    among = sum(not math.isnan(p) for p in corrected)
    return [
        dataclasses.replace(judgement, among=among, p_among=p)
        for judgement, p in zip(judgements, corrected, strict=True)
    ]


def judge(claim: Claim, group: Group, published: Sequence[Published] = ()) -> Judgement | None:
    """Judge a claim in a setting; None where the cells it is about are not there."""
    if claim.predictor:
        return _judge_predictor(claim, group)
    comparisons, remarks = [], []
    against = claim.against or claim.metric
    for first, second in claim.pairs:
        a, b = group.find(first), group.find(second)
        if not a or not b:
            continue  # a setting may hold some of a claim's pairs: those are judged
        name = _name_pair(first, second)
        if against != claim.metric:
            name += f", {claim.metric.partition('/')[2]} − {against.partition('/')[2]}"
        if len(a) > 1 or len(b) > 1:
            remarks.append(f"{name}: several cells match")
            continue
        x, y = group.values(a[0], claim.metric), group.values(b[0], against)
        differences = statistics.paired_differences(x, y)
        if claim.relative:
            differences = differences / y.loc[differences.index]
        differences = differences[np.isfinite(differences)]
        if len(differences):
            known = _published_difference(claim, group, a[0], b[0], published)
            comparisons.append(Comparison(name, statistics.estimate(differences), known))
        else:
            missing = [m for m in (claim.metric, against) if m not in group.runs]
            why = f"no run has {missing[0]}" if missing else "no seed completed in both"
            remarks.append(f"{name}: {why}")
    there = len(comparisons) + len(remarks)
    if not there:
        return None
    if there < len(claim.pairs):
        remarks.append(f"{there} of its {len(claim.pairs)} comparisons are there")
    seen = [c.difference for c in comparisons]
    verdict, p = _decide(claim, seen, whole=len(seen) == len(claim.pairs))
    return Judgement(claim, group, verdict, tuple(comparisons), p, "; ".join(remarks))


def _decide(claim: Claim, seen: Sequence[Estimate], whole: bool) -> tuple[str, float]:
    """The verdict on the differences of a claim, and its p: NaN without a test.

    A claim holds where every comparison does, so the largest p counts; it fails where one does.
    """
    tested = [e for e in seen if e.n > 1]
    if not tested:
        return UNDECIDED, math.nan
    p_values = [_p_values(claim, e) for e in tested]
    holds = max(p for p, _ in p_values) if whole and len(tested) == len(seen) else 1.0
    fails = min(p for _, p in p_values)
    sure = 1 - statistics.CONFIDENCE
    verdict = FAILS if fails < sure else HOLDS if holds < sure else UNDECIDED
    return verdict, min(holds, fails)


def _p_values(claim: Claim, e: Estimate) -> tuple[float, float]:
    """The p of a difference's being as claimed, and of its being otherwise."""
    p = functools.partial(statistics.p_value, e)
    if claim.within is None:
        null, up = claim.sign * claim.margin, claim.sign > 0
        return p(null, up), p(null, not up)
    low, high = -claim.within, claim.within
    return max(p(low, True), p(high, False)), min(p(high, True), p(low, False))


def _name_pair(first: Selector, second: Selector) -> str:
    """`lr 0.01 − 0.1`, `detach none − var, weight decay 0.01`."""
    parts = []
    for key in first | second:
        a, b = (
            " or ".join(describe_value(key, value) for value in side.get(key, [None]))
            for side in (first, second)
        )
        parts.append(a if a == b else f"{a} − {b.removeprefix(f'{name_key(key)} ')}")
    return ", ".join(sorted(parts, key=lambda part: "−" not in part))


def _published_difference(
    claim: Claim, group: Group, a: str, b: str, published: Sequence[Published]
) -> float:
    """The same difference between the published values; NaN outside the published cells."""
    if claim.against:
        return math.nan  # nothing of that kind was published
    # Published validation is in the augmented view.
    metric = {VAL: AUGMENTED, "loss/val": "loss/val_augmented"}.get(claim.metric, claim.metric)
    cells = [find_published(group.configurations[cell], published) for cell in (a, b)]
    first, second = (
        known.published.get(metric, math.nan) if known else math.nan for known in cells
    )
    if not claim.relative:
        return first - second
    return (first - second) / second if second else math.nan


def _judge_predictor(claim: Claim, group: Group) -> Judgement | None:
    """Per seed: R² of a quadratic in log10 of the product, minus the best single key's."""
    keys = list(claim.predictor)
    if any(column not in group.runs for column in (claim.metric, *keys)):
        return None
    runs = group.runs.dropna(subset=[claim.metric])
    runs = runs[(runs[keys] > 0).all(axis=1)]
    advantage = []
    for _, part in runs.groupby("seed"):
        if any(part[key].nunique() < 3 for key in keys):
            continue  # a quadratic goes through any two points
        logs = [np.log10(part[key].to_numpy(dtype=np.float64)) for key in keys]
        y = part[claim.metric].to_numpy(dtype=np.float64)
        single = max(statistics.r_squared(y, x) for x in logs)
        advantage.append(statistics.r_squared(y, np.sum(logs, axis=0)) - single)
    advantage = [value for value in advantage if math.isfinite(value)]  # NaN: all results equal
    if not advantage:
        return None
    e = statistics.estimate(advantage)
    product = "·".join(SHORT.get(key, name_key(key)) for key in keys)
    seen = Comparison(f"R² of {product} minus the best single one's", e, math.nan)
    verdict, p = _decide(claim, [e], whole=True)
    return Judgement(claim, group, verdict, (seen,), p)
