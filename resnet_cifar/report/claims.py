"""Verdicts on claims from the runs of a setting: holds, does not hold, or undecided.

The rules and their reasons: docs/report.md.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from resnet_cifar.identity import SHORT, varying_keys
from resnet_cifar.record.schema import FINAL
from resnet_cifar.report import study
from resnet_cifar.report.groups import Group, name_difference, name_key
from resnet_cifar.report.study import ABSENT, Claim, Contrast, Published, Question, Selector
from resnet_cifar.runs import statistics

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """One of the differences a claim is about; of logarithms where the claim is relative."""

    name: str  # `lr 0.01 − 0.1`
    difference: statistics.Estimate
    with_diverged: statistics.Estimate  # the same with diverged seeds at chance level
    pool: statistics.Pool = statistics.EMPTY  # by which its cells' variances were moderated
    pairs: Sequence[float] = ()  # the differences within the seeds that all its cells have
    paired: bool = False  # True if these judge: two measurements of the same runs


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement:
    """The verdict of one setting's runs on one claim, with its grounds."""

    claim: Claim
    group: Group
    alone: str  # HOLDS, FAILS or UNDECIDED, were it the only claim
    comparisons: Sequence[Comparison]
    p: float  # of that verdict: the smaller, the surer; NaN where nothing could be tested
    remark: str = ""
    among: int = 1  # claims judged together
    p_among: float = math.nan  # p corrected for their number

    @property
    def verdict(self) -> str:
        """The verdict, corrected for the number of claims judged together (Holm)."""
        p = self.p if self.among == 1 else self.p_among
        return self.alone if p < 1 - statistics.CONFIDENCE else UNDECIDED

    @property
    def n(self) -> int:
        """Runs of the cell that has fewest."""
        return min((c.difference.n for c in self.comparisons), default=0)

    @property
    def seeds(self) -> tuple[int, int] | None:
        """Runs a cell that would resolve every difference seen; None where nothing tells."""
        claim, needed = self.claim, []
        cells = 4 if claim.interaction else 2
        for comparison in self.comparisons:
            mean = comparison.difference.mean
            distance = mean - _null(claim)  # of the mean from the verdict's change
            if claim.within is not None:
                distance = abs(_null(claim)) - abs(mean)
            needed.append(statistics.seeds_needed(distance, comparison.pool, cells))
        known = [each for each in needed if each is not None]
        if len(known) < len(needed) or self.n < 3:
            return None
        return max(low for low, _ in known), max(high for _, high in known)


def judge_all(groups: Sequence[Group]) -> list[Judgement]:
    """Every claim of the groups' questions that there are runs for, in order."""
    claims = ((claim, group) for group in groups for claim in group.question.claims)
    judged = [judgement for claim, group in claims if (judgement := judge(claim, group))]
    corrected = statistics.holm([judgement.p for judgement in judged])
    among = sum(not math.isnan(p) for p in corrected)
    pairs = zip(judged, corrected, strict=True)
    return [dataclasses.replace(each, among=among, p_among=p) for each, p in pairs]


def judge(claim: Claim, group: Group) -> Judgement | None:
    """Judge a claim in a setting; None where the cells it is about are not there."""
    rows = group.everything
    there = study.matches(rows, claim.where)
    if claim.contrasts:  # only the cells that it is about
        sides = [side for contrast in claim.contrasts for _, side in contrast]
        there &= functools.reduce(operator.or_, (study.matches(rows, side) for side in sides))
    counted = there.copy()
    if claim.seeds:
        counted &= rows["seed"].isin(claim.seeds)
    if claim.since:
        started = pd.to_datetime(rows["started"], utc=True, format="ISO8601", errors="coerce")
        counted &= started >= claim.since
    compare = _compare_predictor if claim.predictor else _compare_cells
    comparisons, remarks = compare(claim, dataclasses.replace(group, everything=rows[counted]))
    if not comparisons:
        # Runs that suggested a claim are shown and decide nothing.
        comparisons, remarks = compare(claim, dataclasses.replace(group, everything=rows[there]))
        if not comparisons and not remarks:
            return None
        if comparisons:
            remarks.append("from runs before it was declared, or of other seeds: exploration")
        return Judgement(claim, group, UNDECIDED, comparisons, math.nan, "; ".join(remarks))
    if left := int((there & ~counted).sum()):
        remarks.append(f"runs not counted, as started earlier or of other seeds: {left}")
    alone, p = _decide(claim, [c.difference for c in comparisons])
    at_chance, p_chance = _decide(claim, [c.with_diverged for c in comparisons])
    if alone != at_chance:
        alone, p = UNDECIDED, math.nan
        unknown = math.isnan(_chance(claim, group))
        count = f"have no {claim.metric} and" if unknown else "at chance level"
        remarks.append(f"undecided, as the diverged seeds {count} change the verdict")
    ended = rows[counted & rows["status"].isin(FINAL)]
    cells = ended.groupby("seed")["cell"].nunique()
    missing = [s for s in sorted(claim.seeds) if cells.get(s, 0) < rows[there]["cell"].nunique()]
    if missing:
        alone, p = UNDECIDED, math.nan
        remarks.append(f"planned seeds still missing: {', '.join(map(str, missing))}")
    p = max(p, p_chance) if alone != UNDECIDED else p
    return Judgement(claim, group, alone, comparisons, p, "; ".join(remarks))


def _compare_cells(claim: Claim, group: Group) -> tuple[list[Comparison], list[str]]:
    """The differences a claim is about, and remarks on those that are not there."""
    comparisons, remarks = [], []
    against = claim.against or claim.metric
    there = 0
    for contrast in claim.contrasts:
        found = [group.find(selector) for _, selector in contrast]
        if not all(found):
            continue  # a setting may hold some of a claim's pairs: those are judged
        there += 1
        name = _name_contrast(contrast)
        if against != claim.metric:
            name += f", {claim.metric.partition('/')[2]} − {against.partition('/')[2]}"
        if any(len(cells) > 1 for cells in found):
            remarks.append(f"{name}: several cells match")
            continue
        cells = [cells[0] for cells in found]
        for cell in dict.fromkeys(cells):
            if lost := group.diverged[cell]:
                seeds = lost + len(group.values(cell, study.VAL))
                remarks.append(f"{group.labels[cell]}: {lost} of {seeds} seeds diverged")
        if comparison := _compare(claim, group, name, contrast, cells):
            comparisons.append(comparison)
            continue
        why = _name_missing(group, claim.metric, against) or "a cell has no completed run"
        if len(set(cells)) == 1 and against == claim.metric:
            why = "both are the same cell"
        remarks.append(f"{name}: {why}")
    if 0 < there < len(claim.contrasts):
        remarks.append(f"comparisons that are there: {there} of {len(claim.contrasts)}")
    return comparisons, remarks


def _name_missing(group: Group, *metrics: str) -> str:
    """Say which metric no run has, and which ones there are; nothing where all are there."""
    measured = group.runs.dropna(axis="columns", how="all")
    there = [key for key in map(str, measured) if "/" in key]
    missing = [f"no run has {metric}" for metric in metrics if there and metric not in there]
    plain = [key for key in there if not key.startswith(("best/", "speed/"))]
    return f"{missing[0]}; there is {', '.join(plain)}" if missing else ""


def _compare(
    claim: Claim, group: Group, name: str, contrast: Contrast, cells: Sequence[str]
) -> Comparison | None:
    """Compare cells by a claim's metric; None where one of them has no value."""
    weights: Counter[tuple[str, str]] = Counter()  # an interaction may have a cell on both sides
    for (sign, _), cell in zip(contrast, cells, strict=True):
        weights[cell, claim.metric if sign > 0 else claim.against or claim.metric] += sign
    used = {key: weight for key, weight in weights.items() if weight}
    logs = claim.relative  # a share of a difference of losses is a difference of their logarithms
    if len({cell for cell, _ in used}) == 1:  # two measurements of the same runs
        first, second = (group.values(*key, logs) for key in used)
        values = list((first - second).dropna())
        lost = [0.0] * group.diverged[cells[0]]
        return _compare_pairs(name, values, values + lost) if values else None
    seen, at_chance = (group.combine(used, logs, lost) for lost in (None, _chance(claim, group)))
    if seen is None or at_chance is None:
        return None
    pools = (group.pool(*key, logs) for key in used)
    seeds = [group.values(*key, logs) * weight for key, weight in used.items()]
    pairs = list(functools.reduce(operator.add, seeds).dropna())
    return Comparison(name, seen, at_chance, min(pools, key=lambda pool: pool.freedom), pairs)


def _compare_pairs(name: str, values: list[float], with_diverged: list[float]) -> Comparison:
    seen, at_chance = map(statistics.compare_paired, (values, with_diverged))
    return Comparison(name, seen, at_chance, pairs=values, paired=True)


def _chance(claim: Claim, group: Group) -> float:
    """The value of a claim's metric for a run that diverged; NaN of a metric of one's own."""
    chances = {"accuracy": group.chance, "loss": -math.log(group.chance)}
    chance = chances.get(claim.metric.partition("/")[0], math.nan)
    return math.log(chance) if claim.relative else chance


def _decide(claim: Claim, seen: Sequence[statistics.Estimate]) -> tuple[str, float]:
    """The verdict on the differences of a claim, and its p: NaN without a test.

    A claim holds where every comparison does, so the largest p counts. It fails where one does: of
    several the smallest p, times their number.
    """
    tested = [e for e in seen if e.judged]
    if not tested:
        return UNDECIDED, math.nan
    p_values = [_p_values(claim, e) for e in tested]
    whole = len(tested) == max(len(claim.contrasts), 1)
    holds = max(p for p, _ in p_values) if whole else 1.0
    fails = min(1.0, len(tested) * min(p for _, p in p_values))
    sure = 1 - statistics.CONFIDENCE
    verdict = FAILS if fails < sure else HOLDS if holds < sure else UNDECIDED
    return verdict, min(holds, fails)


def _p_values(claim: Claim, e: statistics.Estimate) -> tuple[float, float]:
    """The p of a difference's being as claimed, and of its being otherwise."""
    null, up = _null(claim), claim.sign > 0
    if claim.within is None:
        return e.p(null, up), e.p(null, not up)
    low, high = math.log1p(-claim.within) if claim.relative else -claim.within, null
    return max(e.p(low, True), e.p(high, False)), min(e.p(high, True), e.p(low, False))


def _null(claim: Claim) -> float:
    """The difference at which a verdict changes; the upper of two where it is `within`."""
    null = claim.sign * claim.margin if claim.within is None else claim.within
    return math.log1p(null) if claim.relative else null


def _name_contrast(contrast: Contrast) -> str:
    """Name each pair by what differs in it; two in brackets."""
    sides = [selector for _, selector in contrast]
    names = list(map(name_difference, sides[::2], sides[1::2]))
    return names[0] if len(names) == 1 else " − ".join(f"({name})" for name in names)


# The published passes ----------------------------------------------------------------------------


def judge_published(
    questions: Sequence[Question], published: Sequence[Published]
) -> list[tuple[Claim, str, dict[str, float]]]:
    """The document's own claims, each comparison with its difference within every pass."""
    rows = []
    own = [(q, c) for q in questions for c in q.claims if c.declared == study.PUBLISHED]
    for question, claim in [(q, c) for q, c in own if not c.against]:
        for contrast in claim.contrasts:
            where = question.where | claim.where
            sides = [_find_published(where | side, published) for _, side in contrast]
            for cells in itertools.product(*sides):
                selectors = [cell.selector for cell in cells]
                in_one_setting = varying_keys(selectors).keys() <= {*question.vary}
                if in_one_setting and (passes := _compare_by_pass(claim, contrast, cells)):
                    rows.append((claim, _name_contrast(contrast), passes))
    return rows


def _find_published(asked: Selector, published: Sequence[Published]) -> list[Published]:
    """The published cells that have only what is asked."""
    return [
        cell
        for cell in published
        if all({*had} <= set(asked.get(k) or had) | {*ABSENT} for k, had in cell.selector.items())
    ]


def _compare_by_pass(
    claim: Claim, contrast: Contrast, cells: Sequence[Published]
) -> dict[str, float]:
    """The difference of a claim within each pass of the study that has all its cells, by source.

    A pass trained every cell once; so did the document.
    """
    # Published validation is in the augmented view.
    augmented = {study.VAL: study.AUGMENTED, "loss/val": "loss/val_augmented"}
    measure = math.log if claim.relative else float
    metric = augmented.get(claim.metric, claim.metric)
    values = [cell.values(metric, published=True) for cell in cells]
    terms = [(sign, each) for (sign, _), each in zip(contrast, values, strict=True)]
    common = [source for source in values[0] if all(source in each for each in values)]
    return {by: sum(sign * measure(each[by]) for sign, each in terms) for by in common}


# A predictor -------------------------------------------------------------------------------------


def _compare_predictor(claim: Claim, group: Group) -> tuple[list[Comparison], list[str]]:
    """Compare a product of keys with the best of them: R² of quadratics in their log10."""
    if missing := _name_missing(group, claim.metric):
        return [], [missing]
    every = group.everything
    diverged = every["status"] == "diverged"
    values = every.get(claim.metric, pd.Series(math.nan, every.index))
    every = every.assign(**{claim.metric: values.mask(diverged, _chance(claim, group))})
    seen, with_diverged = (
        _advantages(claim, every[every["status"].isin(of)]) for of in (["completed"], FINAL)
    )
    if not seen:
        return [], []
    product = "·".join(SHORT.get(key, name_key(key)) for key in claim.predictor)
    name = f"R² of {product} minus the best single one's"
    remarks = [f"runs that diverged: {diverged.sum()}"] if diverged.any() else []
    return [_compare_pairs(name, seen, with_diverged)], remarks


def _advantages(claim: Claim, runs: pd.DataFrame) -> list[float]:
    """R² of a claim's product minus that of the best single key, of each seed with every cell."""
    runs = runs[(runs[[*claim.predictor]] > 0).all(axis=1)].dropna(subset=[claim.metric])
    advantages = []
    for _, part in runs.groupby("seed"):
        logs = [np.log10(part[key].to_numpy(dtype=np.float64)) for key in claim.predictor]
        logs.append(np.sum(logs, axis=0))
        few = any(len(np.unique(x.round(9))) < 3 for x in logs)  # a quadratic fits any two points
        if few or part["cell"].nunique() < runs["cell"].nunique():
            continue
        *single, product = (statistics.r_squared(part[claim.metric].to_numpy(), x) for x in logs)
        advantages.append(product - max(single))
    return [each for each in advantages if math.isfinite(each)]  # NaN: all results equal
