"""The verdicts of a report: its first list, and the tables of claims and of published passes."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from resnet_cifar.report import claims, numbers
from resnet_cifar.report.claims import Comparison, Judgement
from resnet_cifar.report.document import COLUMNS, WORDS, Fold, Item, Part, Table, heading
from resnet_cifar.report.study import VAL, Claim
from resnet_cifar.report.tables import Tables
from resnet_cifar.runs.statistics import CONFIDENCE, Estimate, seeds_needed
from resnet_cifar.runs.table import records

DIFFERS = "differs"
SHOWN = 6  # comparisons that no claim asked for, of one question
_NONE = Estimate(0, math.nan, math.nan, math.nan)
NOTHING = Comparison("", _NONE, _NONE)  # of a claim of which nothing can be compared


def claims_part(judgements: Sequence[Judgement], answers: Sequence[Tables]) -> list[Part]:
    """The claims, and what was varied without one: a line each, the undecided ones folded."""
    claimed = {judgement.group for judgement in judgements}
    settings: dict[tuple[str, str], list[Judgement]] = {}
    for each in sorted(judgements, key=lambda each: each.verdict == claims.UNDECIDED):
        settings.setdefault((each.group.question.name, each.claim.claim), []).append(each)
    items = list(map(_describe_claim, settings.values()))
    for answer in answers:
        if answer.group not in claimed:
            items += _describe_differences(answer)
    undecided = [item for item in items if [*item.verdicts] == [claims.UNDECIDED]]
    decided = [item for item in items if item not in undecided]
    parts: list[Part] = [heading("What the runs say"), *([decided] if decided else [])]
    if undecided:
        them = "it" if len(undecided) == 1 else "them"
        title = f"{len(undecided)} undecided: what would decide {them}"
        parts.append(Fold(title, [list(map(_unmark, undecided))], open=not decided))
    if not items:
        parts.append("Nothing is compared yet: a setting needs two cells with completed runs.")
    return parts


def _unmark(item: Item) -> Item:
    """The line without its verdicts, which the list above it says."""
    return Item((), item.sentence, item.grounds, list(map(_unmark, item.items)))


def list_verdicts(judgements: Sequence[Judgement], answer: Tables) -> list[str]:
    """The decided verdicts on a question in a setting, each once; without a claim `DIFFERS`."""
    mine = [judgement.verdict for judgement in judgements if judgement.group is answer.group]
    if not mine and (answer.differences["p/holm"] < 1 - CONFIDENCE).any():
        mine = [DIFFERS]
    return [verdict for verdict in dict.fromkeys(mine) if verdict != claims.UNDECIDED]


def _describe_differences(answer: Tables) -> list[Item]:
    """A line for each comparison that no claim asked for, the clearest first; at most `SHOWN`."""
    items = []
    for row in records(answer.differences.sort_values("p", kind="stable"))[:SHOWN]:
        n, points = row["n"], numbers.FORMS["points"](row, "difference")
        grounds = f"{answer.group.setting}: {points} points (n = {n})"
        verdict = DIFFERS if row["p/holm"] < 1 - CONFIDENCE else claims.UNDECIDED
        if row["lost"]:
            grounds += f". Seeds diverged: {row['lost']}"
        elif verdict != DIFFERS:
            pools = (answer.group.pool(row[side]) for side in ("first", "second"))
            pool = min(pools, key=lambda pool: pool.freedom)
            grounds += f". Would decide: {_name_runs(n, seeds_needed(row['difference'], pool))}"
        items.append(Item([verdict], row["name"], grounds))
    return items


def _describe_claim(judgements: Sequence[Judgement]) -> Item:
    """A claim in the settings in which it is judged: a line, and below it one for each of them."""
    counts = Counter(judgement.verdict for judgement in judgements)
    settings = [
        Item([each.verdict], each.group.setting, _show_grounds(each)) for each in judgements
    ]
    claim = judgements[0].claim.claim
    if len(settings) == 1:
        grounds = f"{settings[0].sentence}: {settings[0].grounds}"
        return Item([*counts], claim, grounds)
    words = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
    grounds = f"{words} of {len(judgements)} settings"
    if [*counts] == [claims.UNDECIDED]:
        wanted = Counter(map(name_what_decides, judgements))
        grounds = f"{grounds}. Would decide most: {wanted.most_common(1)[0][0]}"
    return Item([*counts], claim, grounds, settings)


def _show_grounds(judgement: Judgement) -> str:
    """The differences behind a verdict, named where there are several, and what would decide it."""
    claim, comparisons = judgement.claim, judgement.comparisons
    unit = "" if claim.relative or claim.predictor else f" {claim.unit}".rstrip()
    differences = "; ".join(
        f"{comparison.name}: " * (len(comparisons) > 1)
        + f"{_show_comparison(claim, comparison)}{unit} (n = {comparison.difference.n})"
        for comparison in comparisons
    )
    diverged = [part for part in judgement.remark.split("; ") if "diverged" in part]
    parts = [differences, *diverged]
    if judgement.verdict == claims.UNDECIDED:
        parts.append(f"Would decide: {name_what_decides(judgement)}")
    return ". ".join(filter(None, parts))


def name_what_decides(judgement: Judgement) -> str:
    """Name the runs that would decide a claim that is undecided, in a few words."""
    claim, remark, there = judgement.claim, judgement.remark, len(judgement.comparisons)
    if "exploration" in remark:
        planned = f" of seeds {', '.join(map(str, claim.seeds))}" if claim.seeds else ""
        return f"new runs{planned}: those from before the claim don't count"
    if not there or "planned seeds" in remark:
        return remark.rpartition("; ")[2] if there else remark
    if 0 < there < len(claim.contrasts):
        return f"cells for its other comparisons ({there} of {len(claim.contrasts)} are there)"
    if judgement.verdict != judgement.alone:
        return f"more runs: alone it {judgement.alone}, not among {judgement.among} claims"
    sides = [side for contrast in claim.contrasts for _, side in contrast]
    cells = dict.fromkeys(cell for side in sides for cell in judgement.group.find(side))
    few = [c for c in cells if len(judgement.group.values(c, VAL)) == judgement.n]
    runs = _name_runs(judgement.n, judgement.seeds, [judgement.group.labels[c] for c in few])
    return f"a new claim, since its planned seeds are all trained: {runs}" if claim.seeds else runs


def _name_runs(n: int, seeds: tuple[int, int] | None, cells: Sequence[str] = ()) -> str:
    """Name the runs that are missing, of up to two `cells` that have too few."""
    if n < 3:
        of = f" of {' and '.join(cells)}" if 0 < len(cells) < 3 else ""
        return f"a {'second and ' * (n == 1)}third run{of} (n = {n})"
    if told := name_seeds(n, seeds):
        return f"{told}, if the difference is as large as it seems"
    return "more runs" + "; how many, the spread does not tell yet" * (seeds is None)


def name_seeds(n: int, seeds: tuple[int, int] | None) -> str:
    """`4 to 9 runs a cell`: the range that would tell, as far as it is above the `n` there are."""
    if not seeds or seeds[1] <= n:
        return ""
    return f"{numbers.span(max(n + 1, seeds[0]), seeds[1])} runs a cell"


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
            "seeds needed": numbers.span(*judgement.seeds) if judgement.seeds else "",
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
    table = Table("claims", pd.DataFrame(rows), COLUMNS["claims"], WORDS["claims"])
    return table.compact("claim", "verdict", "n")


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
    return Table("passes", frame, {str(key): str(key) for key in frame}, WORDS["passes"])
