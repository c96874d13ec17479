"""The study as data: published values, questions and claims, from experiments/*.yaml.

Both files have a schema. A file that does not fit it is refused in one line that names the file,
the place in it, the value and what is allowed there: a misspelt key never makes a question vanish.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pandas as pd
import yaml

from resnet_cifar.config.keys import known_identity_keys
from resnet_cifar.config.saved import usual_values
from resnet_cifar.errors import UserError, describe, shorten
from resnet_cifar.files import read_regular
from resnet_cifar.identity import number
from resnet_cifar.paths import resource_directory
from resnet_cifar.record.schema import OBJECTIVE
from resnet_cifar.runs.statistics import pooled_variance
from resnet_cifar.text import explain_mismatch, printable

EXPERIMENTS = resource_directory("experiments")
# The report's longer texts, by what they are about, and the columns of its tables.
WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
VAL, AUGMENTED = OBJECTIVE, "accuracy/val_augmented"
IMAGES = 10_000  # of the published validation and test sets
Selector = dict[str, Any]  # configuration keys and the values they may have, each a list once read
Contrast = tuple[tuple[int, Selector], ...]  # cells, each with the sign it is added with
PUBLISHED = "published"
ABSENT = (None, math.nan)  # how a table shows that a run has no such key

_METRIC = re.compile(r"[^\s/]+(/[^\s/]+)+")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_NotEmpty = msgspec.Meta(min_length=1)
_TwoOrMore = msgspec.Meta(min_length=2)
_Pair = tuple[Selector, Selector]


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding that runs can contradict. See experiments/questions.yaml."""

    claim: str
    declared: str = ""  # when, or "published": only runs that started later count
    where: Selector = {}  # the runs it is about, where that is not every setting of the question
    metric: str = VAL
    against: str | None = None  # the metric of a pair's second cell, where it is another one
    pairs: Annotated[tuple[_Pair, ...], _NotEmpty] = ()
    interaction: Annotated[tuple[_Pair, ...], msgspec.Meta(min_length=2, max_length=2)] = ()
    seeds: Annotated[tuple[int, ...], _TwoOrMore] = ()  # planned: no verdict before they are there
    margin: float = 0.0
    within: float | None = None
    relative: bool = False
    predictor: Annotated[tuple[str, ...], _TwoOrMore] = ()
    note: str = ""  # such as an earlier claim that it replaces, and why

    @property
    def contrasts(self) -> list[Contrast]:
        """Its comparisons, each a sum of cells with signs: A − B, or (A − B) − (C − D)."""
        if self.interaction:
            (a, b), (c, d) = self.interaction
            return [((1, a), (-1, b), (-1, c), (1, d))]
        return [((1, a), (-1, b)) for a, b in self.pairs]

    @property
    def since(self) -> datetime | None:
        """When it was declared; None where it was published, or bears no date."""
        dated = self.declared not in ("", PUBLISHED)
        return datetime.fromisoformat(self.declared) if dated else None

    @property
    def sign(self) -> int:
        """1 where more is better, −1 for a loss."""
        return -1 if self.metric.startswith("loss") and not self.predictor else 1

    @property
    def unit(self) -> str:
        """The unit of its differences: points, nats, or none for a metric of another kind."""
        kind = re.match("accuracy|loss", self.metric)
        return {"accuracy": "points", "loss": "nats"}[kind[0]] if kind else ""


class _QuestionNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runs that are compared, the keys they differ in, and the claims about them."""

    question: str
    where: Selector
    vary: Annotated[tuple[str, ...], _NotEmpty]
    claims: Annotated[tuple[Any, ...], _NotEmpty] = ()


class Question(_QuestionNode, frozen=True, kw_only=True):
    """A question of the file, its claims read."""

    name: str
    claims: tuple[Claim, ...] = ()


class Repetition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public repetition of a published cell."""

    by: str  # one of the file's sources
    measured: dict[str, float]
    left_out: str = ""  # why it is not counted


class _PublishedNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell of the published study."""

    selector: Selector
    published: dict[str, float]
    repetitions: tuple[Repetition, ...] = ()

    def values(self, metric: str, published: bool = False) -> dict[str, float]:
        """The counted repetitions' values, by source; the `published` one on request."""
        every = [(PUBLISHED, self.published)] * published
        every += [(each.by, each.measured) for each in self.repetitions if not each.left_out]
        return {by: measured[metric] for by, measured in every if metric in measured}


class Published(_PublishedNode, frozen=True):
    """A cell of the file, its selector completed by the setting."""

    name: str = ""
    pooled: bool = False  # True if its repetitions share their standard deviation with others'
    sd: float = math.nan  # of their accuracy/val_augmented, pooled where that is declared
    freedom: int = 0  # its degrees of freedom


class _PublishedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """published.yaml, its cells not yet read."""

    setting: Selector
    sources: Annotated[dict[str, str], _NotEmpty]
    cells: Annotated[dict[str, Any], _NotEmpty]
    pooled_sd: Annotated[tuple[str, ...], _TwoOrMore] = ()


# Selecting runs ----------------------------------------------------------------------------------


def matches(runs: pd.DataFrame, selector: Selector) -> "pd.Series[bool]":
    """Compare `runs` (configuration keys as columns) with a selector: bool [rows]."""
    chosen = pd.Series(True, index=runs.index)
    for key, values in selector.items():
        chosen &= runs[key].isin(values) if key in runs else None in values
    return chosen


# Reading -----------------------------------------------------------------------------------------


def load_questions(path: Path = EXPERIMENTS / "questions.yaml") -> list[Question]:
    """Read the questions, in the file's order. Raises UserError where they don't fit the schema."""
    return [_read_question(*each) for each in _list_named(str(path), _read(path))]


def load_published(path: Path = EXPERIMENTS / "published.yaml") -> list[Published]:
    """Read the published values and their repetitions. Raises as `load_questions`."""
    file = _convert(_read(path), _PublishedFile, str(path))
    setting = _usual_setting() | _read_selector(f"{path}: setting", file.setting)
    named = _list_named(f"{path}: cells", file.cells)
    cells = {name: _read_cell(place, node, file.sources) for place, name, node in named}
    shared = file.pooled_sd
    once = set(shared) <= set(cells) and len(set(shared)) == len(shared)
    _check(once, f"{path}: pooled_sd", shared, f"cells, each once: {', '.join(cells)}")
    published = []
    for name, cell in cells.items():
        alike = shared if name in shared else (name,)
        measured = (cells[each].values(AUGMENTED).values() for each in alike)
        variance, freedom = pooled_variance(map(list, measured))
        # Ten thousand images alone leave a spread: three results that are closer were lucky.
        share = cell.published[AUGMENTED]
        sd = max(math.sqrt(variance), math.sqrt(share * (1 - share) / IMAGES))
        whole = (setting | cell.selector, cell.published, cell.repetitions)
        published.append(Published(*whole, name, name in shared, sd, freedom))
    return published


def _usual_setting() -> Selector:
    """Select each key's usual value, or its absence; the precision is told beside the results."""
    free = ("trainer.precision", "trainer.deterministic")
    return {k: [*_as_in_tables([x]), *ABSENT] for k, x in usual_values().items() if k not in free}


def _read_question(place: str, name: str, node: object) -> Question:
    read = _convert(node, _QuestionNode, place)
    _check_line(f"{place}: question", read.question)
    where = _read_selector(f"{place}: where", read.where) if read.where else {}
    for i, key in enumerate(read.vary):
        at = f"{place}: vary[{i + 1}]"
        _check_key(at, key, key)
        _check(key not in read.vary[:i], at, key, "each key once")
        _check(len(where.get(key, (1, 2))) > 1, at, key, "where fixes it to one value")
    claims: list[Claim] = []
    for i, node in enumerate(read.claims, 1):
        at = f"{place}: claims[{i}]"
        claim = _read_claim(at, node, where, read.vary)
        # A claim that stood twice would count twice where verdicts are corrected for their number.
        _check(claim not in claims, at, claim.claim, "each claim once")
        claims.append(claim)
    return Question(read.question, where, read.vary, claims=tuple(claims), name=name)


def _read_claim(place: str, node: object, where: Selector, vary: tuple[str, ...]) -> Claim:
    claim = _convert(node, Claim, place)
    _check_line(f"{place}: claim", claim.claim)
    kinds = [bool(claim.pairs), bool(claim.interaction), bool(claim.predictor)]
    _check(sum(kinds) == 1, place, node, "give one of pairs, interaction and predictor")
    _check_date(f"{place}: declared", claim.declared)
    if claim.note:
        _check_line(f"{place}: note", claim.note)
    _check(len(set(claim.seeds)) == len(claim.seeds), f"{place}: seeds", claim.seeds, "each once")
    quantity = claim.metric.partition("/")[0]
    share = claim.relative or claim.predictor or claim.unit == "points"
    most, limit = (10, "less than 10 nats") if claim.unit else (math.inf, "finite")
    most, limit = (1, "a fraction less than 1") if share else (most, limit)
    margin, within, against = claim.margin, claim.within, claim.against or claim.metric
    like = _METRIC.fullmatch(against) and against.startswith(f"{quantity}/")
    numeric = [key for key in vary if known_identity_keys()[key].kind.endswith("number")]
    alone, known = "not beside predictor", "as metrics.jsonl names it"
    usual = "accuracy/… or loss/…"
    for fits, key, allowed in (
        (_METRIC.fullmatch(claim.metric), "metric", f"{usual} or another, {known}"),
        (not claim.predictor or quantity in ("accuracy", "loss"), "metric", f"{usual}, {known}"),
        (like, "against", f"{quantity}/…, {known}"),
        (not (claim.predictor and claim.against), "against", alone),
        (not (claim.interaction and claim.against), "against", "not beside interaction"),
        (not (claim.predictor and claim.relative), "relative", alone),
        (not (margin and within), "within", "give either margin or within"),
        (0 <= margin < most, "margin", f"0 or more, {limit}"),
        (within is None or 0 < within < most, "within", f"above 0, {limit}"),
        (set(claim.predictor) <= set(numeric), "predictor", f"numeric keys of vary: {numeric}"),
        (len(set(claim.predictor)) == len(claim.predictor), "predictor", "each key once"),
    ):
        _check(fits, f"{place}: {key}", getattr(claim, key), allowed)
    read: dict[str, Any] = {}
    if claim.where:
        read["where"] = _read_selector(f"{place}: where", claim.where)
    for part in ("pairs", "interaction"):
        pairs: list[_Pair] = []
        for i, sides in enumerate(getattr(claim, part), 1):
            at = f"{place}: {part}[{i}]"
            first, second = (_read_selector(at, side, where, vary) for side in sides)
            differs = first != second or against != claim.metric
            new = differs and (first, second) not in pairs
            _check(new, at, list(sides), "two different cells, each pair once")
            pairs.append((first, second))
        read[part] = tuple(pairs)
    return msgspec.structs.replace(claim, **read)


def _read_cell(place: str, node: object, sources: Collection[str]) -> _PublishedNode:
    cell = _convert(node, _PublishedNode, place)
    _check_measured(f"{place}: published", cell.published, {AUGMENTED})
    for i, repetition in enumerate(cell.repetitions, 1):
        at = f"{place}: repetitions[{i}]"
        _check(repetition.by in sources, f"{at}: by", repetition.by, f"one of {[*sources]}")
        _check_measured(f"{at}: measured", repetition.measured, {AUGMENTED, "accuracy/test"})
    names = [repetition.by for repetition in cell.repetitions]
    _check(len(set(names)) == len(names), f"{place}: repetitions", names, "each source once")
    selector = _read_selector(f"{place}: selector", cell.selector)
    return msgspec.structs.replace(cell, selector=selector)


def _check_measured(place: str, measured: dict[str, float], needed: Collection[str]) -> None:
    """Refuse values that are no accuracies or losses, or lack what is compared."""
    _check(measured.keys() & needed, place, measured, f"a mapping with {AUGMENTED}")
    for metric, value in measured.items():
        at = f"{place}: {metric}"
        _check(_METRIC.fullmatch(metric), at, value, "a metric is accuracy/… or loss/…")
        if metric.startswith("accuracy/"):
            _check(0 <= value <= 1, at, value, "a fraction from 0 to 1")
        _check(0 <= value < math.inf, at, value, "nats, 0 or more")


def _read_selector(
    place: str, node: Selector, where: Selector | None = None, vary: Collection[str] = ()
) -> Selector:
    """Check configuration keys, of `vary` if given, and their values; each becomes a list.

    A value outside what the question's `where` fixes would select nothing.
    """
    _check(node, place, node, "a mapping with at least one key")
    selector: Selector = {}
    for key, value in node.items():
        at = f"{place}: {key}"
        _check_key(at, key, value, vary)
        values = value if isinstance(value, list) else [value]
        _check(values, at, value, "a list [ ] of 1 or more values")
        known = known_identity_keys()[key]
        for i, one in enumerate(values, 1):
            _check(known.takes(one), f"{at}[{i}]" if one is not value else at, one, known.allowed)
        values = _as_in_tables(values)
        fixed = (where or {}).get(key, values)
        _check(all(one in fixed for one in values), at, value, f"where has {key} in {fixed} only")
        selector[key] = values
    return selector


def _as_in_tables(values: Sequence[Any]) -> list[Any]:
    return [number(x) if isinstance(x, (list, dict)) else x for x in values]


# Checks ------------------------------------------------------------------------------------------


def _convert(node: object, kind: type[_Struct], place: str) -> _Struct:
    try:
        return msgspec.convert(node, kind)
    except msgspec.ValidationError as error:
        path, value, allowed = explain_mismatch(error, node, kind)
        for part in path:
            place += f"[{part + 1}]" if isinstance(part, int) else f": {part}"
        raise _refusal(place, value, allowed) from error


def _refusal(place: str, value: object, allowed: str) -> UserError:
    # A rule that is a sentence of its own stands alone.
    must = "" if re.match("each |give |where |a (metric|name|pair) ", allowed) else "must be "
    return UserError(f"{place}={shorten(repr(value), 60)}: {must}{allowed}")


def _check(condition: object, place: str, value: object, allowed: str) -> None:
    """Raise UserError naming the place, the value and what is allowed, unless `condition`."""
    if not condition:
        raise _refusal(place, value, allowed)


def _list_named(place: str, nodes: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """List place, name and content of a mapping's entries, whose names become parts of files'."""
    seen = {"other"}  # small letters: to some file systems capitals are the same
    for name, node in nodes.items():
        fits = re.fullmatch(r"[A-Za-z0-9][\w.-]{0,59}", name, re.ASCII) and name.lower() not in seen
        allowed = "a name is up to 60 of A-Z, a-z, 0-9, '_', '-' and '.', and not 'other'; "
        allowed += "two names differ in more than capitals"
        _check(fits, f"{place}: {name}", node, allowed)
        seen.add(name.lower())
        yield f"{place}: {name}", name, node


def _check_key(place: str, key: str, value: object, vary: Collection[str] = ()) -> None:
    """Refuse what is no configuration key that names a cell, or none of `vary`."""
    known = vary or known_identity_keys()
    allowed = "a configuration key that names a cell, such as optimizer.lr"
    if vary:
        allowed = f"a pair selects by the keys of vary: {', '.join(vary)}"
    if close := difflib.get_close_matches(key, known, 1):
        allowed += f"; did you mean {close[0]}"
    _check(key in known, place, value, allowed)


def _check_line(place: str, text: str) -> None:
    """Refuse what would not be one line of a page: nothing but spaces, or control characters."""
    fits = text and printable(text) == text
    _check(fits, place, text, "text of one line, without control characters")


def _check_date(place: str, text: str) -> None:
    allowed = f"{PUBLISHED}, or a date and time such as 2026-11-24T12:28Z"
    try:
        fits = text in ("", PUBLISHED) or datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        fits = False
    _check(fits, place, text, allowed)


class _Loader(yaml.SafeLoader):
    """YAML whose keys are text and stand once, and whose values are written where they are used.

    An alias of an alias of an alias is a file of a line that takes all memory to read.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name): write the value where it is used")
        if self.flow_level + len(self.indents) > 50:  # the time to read it grows with the square
            raise yaml.YAMLError("lists and mappings lie too deep in each other")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            line = f"line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.YAMLError(f"{line}: a key is text; quote it")
            if key.value in seen:
                raise yaml.YAMLError(f"{line}: {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# A date stays as it is written: one that is none is refused like any other value.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))
# To YAML 1.1 a number like 5e-4 is text: its decimal point is missing.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        content = yaml.load(read_regular(path).decode(), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {describe(error)}") from error
    filled = isinstance(content, dict) and content
    _check(filled, str(path), content, "a mapping with at least one key")
    return dict(content)
