"""Verdicts on claims from the runs of a setting: holds, does not hold, or undecided.

The rules and their reasons: docs/report.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from resnet_cifar.identity import SHORT
from resnet_cifar.report.groups import CHANCE, Group, describe_value, name_key
from resnet_cifar.report.study import (
    AUGMENTED,
    PUBLISHED,
    VAL,
    Claim,
    Contrast,
    Published,
    Question,
    find_published,
)
from resnet_cifar.runs import statistics
from resnet_cifar.runs.statistics import Difference

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True, eq=False)
class Comparison:
    """One of the differences a claim is about; of logarithms where the claim is relative."""

    name: str  # `lr 0.01 − 0.1`
    difference: Difference
    with_diverged: Difference  # the same with diverged seeds at chance level
    pool: statistics.Pool  # by which its cells' variances were moderated
    published: tuple[float, ...] = ()  # the same difference of each published pass, sources aside
    values: tuple[float, ...] = ()  # the pairs, where it is paired


@dataclass(frozen=True, eq=False)
class Judgement:
    """The verdict of one setting's runs on one claim, with its grounds."""

    claim: Claim
    group: Group
    alone: str  # HOLDS, FAILS or UNDECIDED, were it the only claim
    comparisons: tuple[Comparison, ...]
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
        if not known or len(known) < len(needed) or self.n < 3:
            return None
        return max(low for low, _ in known), max(high for _, high in known)


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
    rows = group.everything
    there = pd.Series(True, index=rows.index)
    for key, values in claim.where.items():
        there &= rows[key].isin(values) if key in rows else False
    counted = there.copy()
    if claim.seeds:
        counted &= rows["seed"].isin(claim.seeds)
    if claim.since:
        counted &= pd.to_datetime(rows["started"], utc=True) >= claim.since
    compare = _compare_predictor if claim.predictor else _compare_cells
    comparisons, remarks = compare(claim, group.select(counted), published)
    if not comparisons:
        # Runs that suggested a claim are shown and decide nothing.
        comparisons, early = compare(claim, group.select(there), published)
        if not comparisons and not early:
            return None
        if comparisons:
            remarks = [*early, "from runs before it was declared, or of other seeds: exploration"]
        return Judgement(
            claim, group, UNDECIDED, comparisons, math.nan, "; ".join(remarks or early)
        )
    if left := int((there & ~counted).sum()):
        remarks.append(f"not counted, as started earlier or of other seeds: {left} runs")
    alone, p = _decide(claim, [c.difference for c in comparisons])
    at_chance, p_chance = _decide(claim, [c.with_diverged for c in comparisons])
    if alone != at_chance:
        alone, p = UNDECIDED, math.nan
        remarks.append("undecided, as the diverged seeds at chance level change the verdict")
    missing = sorted(set(claim.seeds) - _seeds_everywhere(claim, group.select(counted)))
    if missing:
        alone, p = UNDECIDED, math.nan
        remarks.append(f"planned seeds still missing: {', '.join(map(str, missing))}")
    p = max(p, p_chance) if alone != UNDECIDED else p
    return Judgement(claim, group, alone, comparisons, p, "; ".join(remarks))


def _seeds_everywhere(claim: Claim, group: Group) -> set[int]:
    """The seeds that ended, completed or diverged, in every cell the claim is about."""
    ended = group.everything[group.everything["status"].isin(("completed", "diverged"))]
    cells = {
        cell for contrast in claim.contrasts for _, side in contrast for cell in group.find(side)
    }
    seeds = [set(ended[ended["cell"] == cell]["seed"]) for cell in cells]
    return set.intersection(*seeds) if seeds else set(ended["seed"])


def _compare_cells(
    claim: Claim, group: Group, published: Sequence[Published]
) -> tuple[tuple[Comparison, ...], list[str]]:
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
            if lost := group.diverged(cell):
                seeds = lost + len(group.values(cell, VAL))
                remarks.append(f"{group.labels[cell]}: {lost} of {seeds} seeds diverged")
        comparison = _compare(claim, group, name, contrast, cells)
        if comparison is None:
            missing = [m for m in (claim.metric, against) if m not in group.runs]
            why = f"no run has {missing[0]}" if missing else "a cell has no completed run"
            if len(set(cells)) == 1 and against == claim.metric:
                why = "both are the same cell"
            remarks.append(f"{name}: {why}")
            continue
        known = [find_published(group.configurations[cell], published) for cell in cells]
        passes = difference_by_pass(claim, contrast, known)
        comparisons.append(dataclasses.replace(comparison, published=tuple(passes.values())))
    if 0 < there < len(claim.contrasts):
        remarks.append(f"{there} of its {len(claim.contrasts)} comparisons are there")
    return tuple(comparisons), remarks


def _compare(
    claim: Claim, group: Group, name: str, contrast: Contrast, cells: Sequence[str]
) -> Comparison | None:
    """Compare cells by a claim's metric; None where one of them has no value."""
    weights: dict[tuple[str, str], int] = {}  # a cell may stand on both sides of an interaction
    for (sign, _), cell in zip(contrast, cells, strict=True):
        key = cell, claim.metric if sign > 0 else claim.against or claim.metric
        weights[key] = weights.get(key, 0) + sign
    samples = {}
    for key in (key for key, weight in weights.items() if weight):
        values = group.values(*key)
        # A share of a difference of losses is a difference of their logarithms.
        samples[key] = values[values > 0].map(math.log) if claim.relative else values
    if not samples or not all(map(len, samples.values())):
        return None
    if len({cell for cell, _ in samples}) == 1:  # two measurements of the same runs
        first, second = samples.values()
        values = statistics.paired_differences(first, second)
        if values.empty:
            return None
        lost = [*values, *[0.0] * group.diverged(cells[0])]
        paired, with_lost = map(statistics.compare_paired, (list(values), lost))
        return Comparison(name, paired, with_lost, statistics.EMPTY, values=tuple(values))
    chance = CHANCE if claim.metric.startswith("accuracy/") else -math.log(CHANCE)
    chance = math.log(chance) if claim.relative else chance
    terms, lost_terms = [], []
    for (cell, metric), values in samples.items():
        pool, weight = group.pool(cell, metric, claim.relative), weights[cell, metric]
        terms.append((weight, list(values), pool))
        lost_terms.append((weight, [*values, *[chance] * group.diverged(cell)], pool))
    least = min((pool for _, _, pool in terms), key=lambda pool: pool.freedom)
    whole, with_lost = statistics.compare(terms), statistics.compare(lost_terms)
    return Comparison(name, whole, with_lost, least)


def _decide(claim: Claim, seen: Sequence[Difference]) -> tuple[str, float]:
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


def _p_values(claim: Claim, e: Difference) -> tuple[float, float]:
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
    """`lr 0.01 − 0.1`, `detach none − var, weight decay 0.01`; two in brackets."""
    sides = [selector for _, selector in contrast]
    names = []
    for first, second in zip(sides[::2], sides[1::2], strict=True):
        parts = []
        for key in first | second:
            a, b = (
                " or ".join(describe_value(key, value) for value in side.get(key, [None]))
                for side in (first, second)
            )
            parts.append(a if a == b else f"{a} − {b.removeprefix(f'{name_key(key)} ')}")
        names.append(", ".join(sorted(parts, key=lambda part: "−" not in part)))
    return names[0] if len(names) == 1 else " − ".join(f"({name})" for name in names)


# The published passes ----------------------------------------------------------------------------


def difference_by_pass(
    claim: Claim, contrast: Contrast, cells: Sequence[Published | None]
) -> dict[str, float]:
    """The difference of a claim within each pass of the study that has all its cells, by source.

    A pass trained every cell once; so did the document. Differences of logarithms where the claim
    is relative.
    """
    if claim.against or None in cells:
        return {}
    # Published validation is in the augmented view.
    metric = {VAL: AUGMENTED, "loss/val": "loss/val_augmented"}.get(claim.metric, claim.metric)
    values = [cell.values(metric, published=True) for cell in cells if cell]
    signs = [sign for sign, _ in contrast]
    return {
        source: sum(
            sign * (math.log(each[source]) if claim.relative else each[source])
            for sign, each in zip(signs, values, strict=True)
        )
        for source in values[0]
        if all(source in each for each in values)
    }


def judge_published(
    questions: Sequence[Question], published: Sequence[Published]
) -> list[tuple[Claim, str, dict[str, float]]]:
    """The document's own claims, each comparison with its difference within every pass."""
    rows = []
    for question in questions:
        for claim in question.claims:
            for contrast in claim.contrasts if claim.declared == PUBLISHED else ():
                for cells in _published_cells(question, contrast, published):
                    if passes := difference_by_pass(claim, contrast, cells):
                        rows.append((claim, _name_contrast(contrast), passes))
    return rows


def _published_cells(
    question: Question, contrast: Contrast, published: Sequence[Published]
) -> list[list[Published]]:
    """The published cells of each side of a contrast, once for every setting that has them all."""
    settings: dict[str, list[list[Published]]] = {}
    for side, (_, selector) in enumerate(contrast):
        asked = question.where | selector
        for cell in published:
            known = cell.selector
            if all(set(known[key]) <= set(asked[key]) for key in known if key in asked):
                rest = repr([known[key] for key in sorted(known) if key not in question.vary])
                settings.setdefault(rest, [[] for _ in contrast])[side].append(cell)
    return [[side[0] for side in sides] for sides in settings.values() if all(map(len, sides))]


# A predictor -------------------------------------------------------------------------------------


def _compare_predictor(
    claim: Claim, group: Group, published: Sequence[Published]
) -> tuple[tuple[Comparison, ...], list[str]]:
    """Per seed: R² of a quadratic in log10 of the product, minus the best single key's."""
    keys = list(claim.predictor)
    if any(column not in group.runs for column in (claim.metric, *keys)):
        return (), []
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
    seen = pd.Series([value for value in advantage if math.isfinite(value)], dtype=float)
    if seen.empty:  # NaN: all results equal
        return (), []
    difference = statistics.compare_paired(list(seen))
    product = "·".join(SHORT.get(key, name_key(key)) for key in keys)
    name = f"R² of {product} minus the best single one's"
    return (Comparison(name, difference, difference, statistics.EMPTY, values=tuple(seen)),), []
