"""The verdicts of a report: its first list, and the tables of claims and of published passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from resnet_cifar.report import claims, document, numbers
from resnet_cifar.report.claims import Comparison, Judgement
from resnet_cifar.report.document import Column, Part, Table, heading
from resnet_cifar.report.study import Claim
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, Estimate
from resnet_cifar.runs.table import records

DIFFERS = "differs"
SHOWN = 6  # comparisons that no claim asked for, of one question
_NONE = Estimate(0, math.nan, math.nan, math.nan)
NOTHING = Comparison("", _NONE, _NONE)  # of a claim of which nothing can be compared


def claims_part(judgements: Sequence[Judgement], answers: Sequence[Tables]) -> list[Part]:
    """The claims, and what was varied without one, as sentences with verdict and grounds."""
    claimed = {judgement.group for judgement in judgements}
    decided = sorted(judgements, key=lambda judgement: judgement.verdict == claims.UNDECIDED)
    lines = list(map(_describe_judgement, decided))
    for answer in answers:
        if answer.group not in claimed:
            lines += _describe_differences(answer)
    nothing = "Nothing is compared yet: a setting needs two cells with completed runs."
    return [heading("What the runs say"), "\n".join(lines) or nothing]


def _describe_differences(answer: Tables) -> list[str]:
    """A line for each comparison that no claim asked for, the clearest first; at most `SHOWN`."""
    lines = []
    for row in records(answer.differences.sort_values("p", kind="stable"))[:SHOWN]:
        verdict = DIFFERS if row["p/holm"] < 1 - CONFIDENCE else claims.UNDECIDED
        lost = f". Seeds diverged: {row['lost']}" if row["lost"] else ""
        detail = f"{answer.group.setting}. {numbers.difference_column(row)} points (n = {row['n']})"
        lines.append(document.verdict_line(verdict, row["name"], detail + lost))
    return lines


def _describe_judgement(judgement: Judgement) -> str:
    """A line of Markdown: verdict, claim, setting, differences (n), remarks."""
    claim = judgement.claim
    unit = "" if claim.relative or claim.predictor else f" {claim.unit}".rstrip()
    grounds = [
        f"{comparison.name}: {_show_comparison(claim, comparison)}{unit} "
        f"(n = {comparison.difference.n})"
        for comparison in judgement.comparisons
    ]
    parts = (judgement.group.setting, "; ".join(grounds), judgement.remark, claim.note)
    detail = ". ".join(part for part in parts if part)
    if judgement.verdict != judgement.alone:
        detail += f". Alone: {judgement.alone}; corrected for the {judgement.among} claims tested"
    return document.verdict_line(judgement.verdict, claim.claim, detail)


def _show_comparison(claim: Claim, comparison: Comparison) -> str:
    """A difference with its interval; of two pairs both values."""
    if comparison.paired:
        return numbers.list_differences(claim, comparison.pairs)
    e = comparison.difference
    return numbers.format_difference(claim, e.mean, e.low, e.high)


def claims_table(judgements: Sequence[Judgement]) -> Table:
    """Every claim in every setting: verdict, n, the differences behind it."""
    rows = []
    for judgement in judgements:
        claim = judgement.claim
        same = {
            "claim": claim.claim,
            "declared": claim.declared,
            "setting": judgement.group.setting,
            "verdict": judgement.verdict,
            "alone": judgement.alone,
            "p": judgement.p,
            "p/holm": judgement.p_among,
            "seeds needed": "{} to {}".format(*judgement.seeds) if judgement.seeds else "",
            "why": "; ".join(filter(None, (judgement.remark, claim.note))),
        }
        for comparison in judgement.comparisons or [NOTHING]:
            e = comparison.difference
            measured = {
                "comparison": comparison.name,
                "shown": _show_comparison(claim, comparison),
                "pairs": numbers.list_differences(claim, comparison.pairs),
                "n": e.n,
                "difference": e.mean,
                "low": e.low,
                "high": e.high,
            }
            rows.append(same | measured)
    frame = pd.DataFrame(rows)
    first = ("claim", "declared", "setting", "verdict", "comparison")
    keys = [*first, "shown", "n", "pairs", "seeds needed", "why"]
    titles = {"shown": "difference", "pairs": "paired by seed", "why": "remark"}
    columns: dict[str, Column] = {
        titles.get(key, key): key for key in keys if frame[key].astype(bool).any()
    }
    caption = (
        "Differences in points of accuracy (losses in nats, or per cent where relative), first "
        "minus second, two-sample: these intervals judge, but where two metrics of the same runs "
        "are compared. Paired by seed: up to two values, of more the mean with its 95 % "
        "t-interval, to look at. Seeds needed: runs a cell that would resolve a difference of this "
        "size with probability 0.8, for the ends of what is known of the spread."
    )
    return Table("claims", frame, columns, caption)


def passes_table(rows: Sequence[tuple[Claim, str, dict[str, float]]]) -> Table:
    """The document's own claims within each published pass of the study."""
    frame = pd.DataFrame(
        {
            "claim": claim.claim,
            "comparison": name,
            "difference": numbers.list_differences(claim, list(passes.values())),
            "n": len(passes),
            "passes": ", ".join(passes),
        }
        for claim, name, passes in rows
    )
    caption = (
        "The same differences in the published passes, augmented view, paired within a pass, with "
        "95 % t-intervals from three on. The first is the document's run; the sources of the "
        "others are in published.yaml. None is a laboratory of its own."
    )
    return Table("passes", frame, {str(title): str(title) for title in frame}, caption)
