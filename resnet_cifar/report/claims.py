"""Verdicts on claims from the runs of a setting: holds, does not hold, or undecided."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnet_cifar.identity import SHORT
from resnet_cifar.report.groups import Group, describe_value, name_key
from resnet_cifar.report.study import AUGMENTED, VAL, Claim, Published, Selector, agrees
from resnet_cifar.runs.statistics import (
    CONFIDENCE,
    Estimate,
    estimate,
    holm,
    p_value,
    paired_differences,
    r_squared,
    seeds_to_resolve,
)

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
        return self.verdict if self.p_among < 1 - CONFIDENCE else UNDECIDED

    @property
    def n(self) -> int:
        """Pairs of the comparison that has fewest."""
        return min((c.difference.n for c in self.comparisons), default=0)

    @property
    def seeds(self) -> int | None:
        """Pairs that would resolve every difference seen; None where one can't be resolved."""
        needed = [
            seeds_to_resolve(_distance_to_change(self.claim, c.difference.mean), c.difference.sd)
            for c in self.comparisons
        ]
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
    corrected = holm([judgement.p for judgement in judgements])
    among = sum(not math.isnan(p) for p in corrected)
    return [
        dataclasses.replace(judgement, among=among, p_among=p)
        for judgement, p in zip(judgements, corrected, strict=True)
    ]


def judge(claim: Claim, group: Group, published: Sequence[Published] = ()) -> Judgement | None:
    """Judge a claim in a setting; None where the cells it is about are not there."""
    if claim.predictor:
        return _judge_predictor(claim, group)
    comparisons, verdicts, remarks = [], [], []
    for first, second in claim.pairs:
        a, b = group.find(first), group.find(second)
        if not a or not b:
            continue  # a setting may hold some of a claim's pairs: those are judged
        name, against = _name_pair(first, second), claim.against or claim.metric
        if against != claim.metric:
            name += f", {claim.metric.partition('/')[2]} − {against.partition('/')[2]}"
        if len(a) > 1 or len(b) > 1:
            remarks.append(f"{name}: several cells match")
            verdicts.append(UNDECIDED)
            continue
        x, y = group.values(a[0], claim.metric), group.values(b[0], against)
        differences = paired_differences(x, y)
        if claim.relative:
            differences = differences / y.loc[differences.index]
        differences = differences[np.isfinite(differences)]
        if not len(differences):
            missing = [m for m in (claim.metric, against) if m not in group.runs]
            why = f"no run has {missing[0]}" if missing else "no seed completed in both"
            remarks.append(f"{name}: {why}")
            verdicts.append(UNDECIDED)
            continue
        e = estimate(differences)
        known = _published_difference(claim, group, a[0], b[0], published)
        comparisons.append(Comparison(name, e, known))
        verdicts.append(_judge_difference(claim, e))
    if not verdicts:
        return None
    verdict = _combine(verdicts)
    if len(verdicts) < len(claim.pairs):
        remarks.append(f"{len(verdicts)} of its {len(claim.pairs)} comparisons are there")
    whole = len(comparisons) == len(claim.pairs)
    verdict = UNDECIDED if verdict == HOLDS and not whole else verdict
    p = _p_value(claim, [c.difference for c in comparisons], whole)
    return Judgement(claim, group, verdict, tuple(comparisons), p, "; ".join(remarks))


def _p_value(claim: Claim, seen: Sequence[Estimate], whole: bool) -> float:
    """p of a claim: below 0.05 exactly where its verdict is not undecided; NaN without a test.

    It holds where every comparison does, so the largest of theirs counts; it fails where one does.
    """
    tested = [e for e in seen if e.n > 1]
    if not tested:
        return math.nan
    holds = max(_p_holds(claim, e) for e in tested) if whole and len(tested) == len(seen) else 1.0
    return min(holds, *(_p_fails(claim, e) for e in tested))


def _p_holds(claim: Claim, e: Estimate) -> float:
    if claim.within is not None:
        return max(p_value(e, -claim.within, above=True), p_value(e, claim.within, above=False))
    return p_value(e, claim.sign * claim.margin, above=claim.sign > 0)


def _p_fails(claim: Claim, e: Estimate) -> float:
    if claim.within is not None:
        return min(p_value(e, claim.within, above=True), p_value(e, -claim.within, above=False))
    return p_value(e, claim.sign * claim.margin, above=claim.sign < 0)


def _name_pair(first: Selector, second: Selector) -> str:
    """`lr 0.01 − 0.1`, `detach none − var, weight decay 0.01`."""
    parts = []
    for key in first | second:
        a, b = _describe_side(key, first), _describe_side(key, second)
        shared = f"{name_key(key)} "
        parts.append(a if a == b else f"{a} − {b.removeprefix(shared)}")
    return ", ".join(sorted(parts, key=lambda part: "−" not in part))


def _describe_side(key: str, selector: Selector) -> str:
    return " or ".join(describe_value(key, value) for value in selector.get(key, [None]))


def _judge_difference(claim: Claim, e: Estimate) -> str:
    if e.n < 2:
        return UNDECIDED
    if claim.within is not None:
        if max(abs(e.low), abs(e.high)) < claim.within:
            return HOLDS
        return FAILS if e.low > claim.within or e.high < -claim.within else UNDECIDED
    low, high = sorted((claim.sign * e.low, claim.sign * e.high))
    return HOLDS if low > claim.margin else FAILS if high < claim.margin else UNDECIDED


def _distance_to_change(claim: Claim, mean: float) -> float:
    """The distance of a mean difference from the value at which the verdict changes."""
    if claim.within is not None:
        return claim.within - abs(mean)
    return claim.sign * mean - claim.margin


def _combine(verdicts: Sequence[str]) -> str:
    if FAILS in verdicts:
        return FAILS
    return UNDECIDED if UNDECIDED in verdicts else HOLDS


def _published_difference(
    claim: Claim, group: Group, a: str, b: str, published: Sequence[Published]
) -> float:
    """The same difference between the published values; NaN outside the published cells.

    Published validation is in the augmented view.
    """
    if claim.against:
        return math.nan  # nothing of that kind was published
    metric = {VAL: AUGMENTED, "loss/val": "loss/val_augmented"}.get(claim.metric)
    pair = []
    for cell in (a, b):
        run = group.configurations[cell]
        known = next((p for p in published if agrees(run, p.selector)), None)
        value = known.published.get(metric or claim.metric) if known else None
        pair.append(math.nan if value is None else value)
    difference = pair[0] - pair[1]
    if not claim.relative:
        return difference
    return difference / pair[1] if pair[1] else math.nan


def _judge_predictor(claim: Claim, group: Group) -> Judgement | None:
    """Per seed: R² of a quadratic in log10 of the product, minus the best single key's."""
    keys = list(claim.predictor)
    if any(column not in group.runs for column in (claim.metric, *keys)):
        return None
    runs = group.runs.dropna(subset=[claim.metric])
    runs = runs[(runs[keys] > 0).all(axis=1)]
    if any(runs[key].nunique() < 3 for key in keys):
        return None  # a quadratic goes through any two points
    advantage = []
    for _, part in runs.groupby("seed"):
        if any(part[key].nunique() < 3 for key in keys):
            continue
        logs = {key: np.log10(part[key].to_numpy(dtype=np.float64)) for key in keys}
        y = part[claim.metric].to_numpy(dtype=np.float64)
        single = max(r_squared(y, x) for x in logs.values())
        advantage.append(r_squared(y, np.sum(list(logs.values()), axis=0)) - single)
    advantage = [value for value in advantage if math.isfinite(value)]  # NaN: all results equal
    if not advantage:
        return None
    e = estimate(advantage)
    product = "·".join(SHORT.get(key, name_key(key)) for key in keys)
    seen = Comparison(f"R² of {product} minus the best single one's", e, math.nan)
    return Judgement(claim, group, _judge_difference(claim, e), (seen,), _p_value(claim, [e], True))
