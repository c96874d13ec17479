"""The study as data: published values, questions and claims, from experiments/*.yaml.

Both files have a schema. A file that does not fit it is refused in one line that names the file,
the place in it, the value and what is allowed there: a misspelt key never makes a question vanish.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pandas as pd
import yaml

from resnet_cifar.config.keys import known_identity_keys
from resnet_cifar.errors import UserError, describe
from resnet_cifar.paths import resource_directory
from resnet_cifar.record.schema import OBJECTIVE
from resnet_cifar.runs.statistics import Spread, pooled
from resnet_cifar.text import printable

EXPERIMENTS = resource_directory("experiments")
VAL, AUGMENTED = OBJECTIVE, "accuracy/val_augmented"
Selector = dict[str, Any]  # configuration keys and the values they may have, each a list once read

_METRIC = re.compile(r"(accuracy|loss)/[a-z][a-z_]*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,59}", re.ASCII)  # it becomes part of files' names
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_NotEmpty = msgspec.Meta(min_length=1)
_TwoOrMore = msgspec.Meta(min_length=2)


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding that runs can contradict. See experiments/questions.yaml."""

    claim: str
    metric: str = VAL
    against: str | None = None  # the metric of a pair's second cell, where it is another one
    pairs: Annotated[tuple[tuple[Selector, Selector], ...], _NotEmpty] = ()
    margin: float = 0.0
    within: float | None = None
    relative: bool = False
    predictor: Annotated[tuple[str, ...], _TwoOrMore] = ()

    def __post_init__(self) -> None:
        _check_text("claim", self.claim)
        if bool(self.pairs) == bool(self.predictor):
            raise ValueError("give either pairs or predictor")
        if self.margin and self.within is not None:
            raise ValueError("give either margin or within")
        metric = _METRIC.fullmatch(self.metric)
        _require(metric, "metric", self.metric, "accuracy/… or loss/…, as metrics.jsonl names it")
        quantity = self.metric.partition("/")[0]
        if self.against is not None:
            like = _METRIC.fullmatch(self.against) and self.against.startswith(f"{quantity}/")
            why = "not beside predictor, which has no second cell"
            _require(like, "against", self.against, f"{quantity}/…, as metrics.jsonl names it")
            _require(not self.predictor, "against", self.against, why)
        alone = not (self.relative and self.predictor)
        _require(alone, "relative", True, "not beside predictor, whose differences are of R²")
        share = self.relative or quantity == "accuracy" or bool(self.predictor)
        limit = "a fraction less than 1: 0.2 is 20 points" if share else "less than 10 nats"
        most = 1 if share else 10
        _require(0 <= self.margin < most, "margin", self.margin, f"0 or more, {limit}")
        some = self.within is None or 0 < self.within < most
        _require(some, "within", self.within, f"above 0, {limit}")

    @property
    def sign(self) -> int:
        """1 where more is better, −1 for a loss."""
        return -1 if self.metric.startswith("loss/") and not self.predictor else 1


class _QuestionNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question of questions.yaml. Once it is made, its selectors hold lists."""

    question: str
    where: Selector
    vary: Annotated[tuple[str, ...], _NotEmpty]
    claims: Annotated[tuple[Claim, ...], _NotEmpty] = ()

    def __post_init__(self) -> None:
        _check_text("question", self.question)
        where = _read_selector("where", self.where) if self.where else {}
        _check_keys("vary", self.vary)
        for key in self.vary:
            why = f"where fixes {key} to one value, so it can't vary"
            _require(len(where.get(key, (1, 2))) > 1, "vary", list(self.vary), why)
        claims: list[Claim] = []
        for i, claim in enumerate(self.claims, 1):
            try:
                claims.append(_complete_claim(claim, where, self.vary))
            except ValueError as error:
                raise ValueError(f"claims[{i}]: {error}") from error
            new = claims[-1] not in claims[:-1]
            _require(new, f"claims[{i}]", claim.claim, "the same claim stands there before")
        msgspec.structs.force_setattr(self, "where", where)
        msgspec.structs.force_setattr(self, "claims", tuple(claims))


def _complete_claim(claim: Claim, where: Selector, vary: Sequence[str]) -> Claim:
    """Check a claim's keys against those of its question; its selectors become lists."""
    keys = _known_keys()
    _check_keys("predictor", claim.predictor)
    for key in claim.predictor:
        numeric = key in vary and keys[key].kind in ("a number", "a whole number")
        why = f"{key} is not a numeric key of vary"
        _require(numeric, "predictor", list(claim.predictor), why)
    pairs: list[tuple[Selector, Selector]] = []
    for i, sides in enumerate(claim.pairs, 1):
        place = f"pairs[{i}]"
        first, second = (_read_selector(place, side, where, vary) for side in sides)
        same = first == second and claim.against in (None, claim.metric)
        new = not same and (first, second) not in pairs
        _require(new, place, list(sides), "two different cells, each pair once")
        pairs.append((first, second))
    return msgspec.structs.replace(claim, pairs=tuple(pairs)) if pairs else claim


@dataclass(frozen=True)
class Question:
    """The runs that are compared, the keys they differ in, and the claims about them."""

    name: str
    question: str
    where: Selector
    vary: tuple[str, ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Published:
    """A cell of the published study."""

    name: str
    selector: Selector  # the full setting included
    published: dict[str, float]
    replications: dict[str, list[float]]
    spread: Spread  # of the replications' accuracy/val_augmented, pooled where that is declared


class _PublishedCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell of published.yaml."""

    selector: Selector
    published: dict[str, Any]
    replications: dict[str, Annotated[list[Any], _TwoOrMore]]

    def __post_init__(self) -> None:
        for place, metrics in (("published", self.published), ("replications", self.replications)):
            allowed = f"a mapping with {AUGMENTED}: {AUGMENTED} is missing"
            _require(AUGMENTED in metrics, place, metrics, allowed)
        for metric, value in self.published.items():
            _check_measured(f"published: {metric}", metric, value)
        for metric, values in self.replications.items():
            for i, value in enumerate(values, 1):
                _check_measured(f"replications: {metric}[{i}]", metric, value)
        msgspec.structs.force_setattr(self, "selector", _read_selector("selector", self.selector))


class _PublishedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """published.yaml, its cells not yet read."""

    setting: Selector
    cells: Annotated[dict[str, Any], _NotEmpty]
    pooled_sd: Annotated[tuple[str, ...], _TwoOrMore] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "setting", _read_selector("setting", self.setting))


# Selecting runs ----------------------------------------------------------------------------------


def matches(runs: pd.DataFrame, selector: Selector) -> pd.Series[bool]:
    """Compare `runs` (configuration keys as columns) with a selector: bool [rows]."""
    chosen = pd.Series(True, index=runs.index)
    for key, values in selector.items():
        chosen &= runs[key].isin(values) if key in runs else False
    return chosen


def agrees(cell: dict[str, Any], selector: Selector) -> bool:
    """True if one cell's values are among those of `selector`."""
    return all(key in cell and cell[key] in values for key, values in selector.items())


# Reading -----------------------------------------------------------------------------------------


def load_questions(path: Path = EXPERIMENTS / "questions.yaml") -> list[Question]:
    """Read the questions, in the file's order.

    Raises:
        UserError: the file can't be read, or does not fit its schema.
    """
    questions = []
    for name, node in _read(path).items():
        _check_name(str(path), name, node)
        read = _convert(node, _QuestionNode, f"{path}: {name}")
        questions.append(Question(name, read.question, read.where, read.vary, read.claims))
    return questions


def load_published(path: Path = EXPERIMENTS / "published.yaml") -> list[Published]:
    """Read the published values and their replications.

    Raises:
        UserError: the file can't be read, or does not fit its schema.
    """
    file = _convert(_read(path), _PublishedFile, str(path))
    cells: dict[str, _PublishedCell] = {}
    for name, node in file.cells.items():
        _check_name(f"{path}: cells", name, node)
        cells[name] = _convert(node, _PublishedCell, f"{path}: cells: {name}")
    for i, name in enumerate(file.pooled_sd, 1):
        if name not in cells or name in file.pooled_sd[: i - 1]:
            allowed = f"cells, each once: {', '.join(cells)}"
            raise UserError(_describe_refusal(f"{path}: pooled_sd[{i}]", name, allowed))
    samples = {name: cell.replications[AUGMENTED] for name, cell in cells.items()}
    common = pooled([samples[name] for name in file.pooled_sd]) if file.pooled_sd else None
    return [
        Published(
            name,
            cell.selector | file.setting,
            cell.published,
            cell.replications,
            common if common and name in file.pooled_sd else pooled([samples[name]]),
        )
        for name, cell in cells.items()
    ]


def _convert(node: object, kind: type[_Struct], place: str) -> _Struct:
    """Make a struct of a file's node.

    Raises:
        UserError: it does not fit; the line names the place, the value and what is allowed.
    """
    try:
        return msgspec.convert(node, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        if error.__cause__ is not None:  # a rule of this module, which names its key itself
            text = str(error.__cause__)
    value: Any = node
    fields = ("at least one key",) if at else kind.__struct_fields__
    if re.fullmatch(r"\.claims\[\d+\]`", at):
        fields = Claim.__struct_fields__
    for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", at):
        value = value[key] if key else value[int(index)]
        place += f": {key}" if key else f"[{int(index) + 1}]"
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", text):
        text = _describe_refusal(missing[1], None, f"{missing[1]} is missing")
    elif unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        allowed = f"the keys here are {', '.join(fields)}"
        text = _describe_refusal(unknown[1], value[unknown[1]], allowed)
    elif expected := re.match(r"Expected `(\w+)[^`]*`(?: of length (?:>= )?(\d+))?", text):
        allowed = _WORDS[expected[1]]
        if expected[1] == "object":
            allowed += f" with {', '.join(fields)}"
        elif expected[2]:
            allowed += f" of {expected[2]}{' or more' * ('>=' in text)}"
        raise UserError(_describe_refusal(place, value, allowed))
    raise UserError(f"{place}: {text}")


# What msgspec calls the parts of a file.
_WORDS = {
    "array": "a list [ ]",
    "object": "a mapping",
    "str": "text",
    "bool": "true or false",
    "float": "a number",
}


def _describe_refusal(place: str, value: object, allowed: str) -> str:
    shown = " ".join(repr(value).split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{place}={shown} is not allowed: {allowed}"


def _require(condition: object, place: str, value: object, allowed: str) -> None:
    """Raise ValueError naming the place, the value and what is allowed, unless `condition`."""
    if not condition:
        raise ValueError(_describe_refusal(place, value, allowed))


def _check_text(key: str, text: str) -> None:
    """Refuse what can't be shown in one line."""
    plain = text.strip() and printable(text) == text
    _require(plain, key, text, "text of one line, without control characters")


def _check_name(place: str, name: str, node: object) -> None:
    if not _NAME.fullmatch(name) or name == "other":
        allowed = (
            "a name is up to 60 letters, digits, '_', '-' and '.', starts with a letter or digit, "
            "and is not 'other'"
        )
        raise UserError(_describe_refusal(f"{place}: {name}", node, allowed))


def _check_measured(place: str, metric: str, value: Any) -> None:
    """Refuse a value that its metric can't have: an accuracy is a fraction."""
    _require(_METRIC.fullmatch(metric), place, value, "a metric is accuracy/… or loss/…")
    fraction = metric.startswith("accuracy/")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    allowed = "a fraction from 0 to 1" if fraction else "a number of nats, 0 or more"
    most = 1 if fraction else sys.float_info.max
    _require(number and 0 <= value <= most, place, value, allowed)


def _check_keys(place: str, keys: Sequence[str]) -> None:
    """Refuse what is no configuration key that names a cell, and keys that stand twice."""
    for i, key in enumerate(keys, 1):
        _check_key(f"{place}[{i}]", key, key)
        _require(key not in keys[: i - 1], f"{place}[{i}]", key, "each key once")


def _check_key(place: str, key: str, value: object) -> None:
    if key not in _known_keys():
        close = difflib.get_close_matches(key, _known_keys(), 1)
        hint = f"; did you mean {close[0]}" if close else ""
        allowed = f"a configuration key that names a cell, such as optimizer.lr{hint}"
        _require(False, place, value, allowed)


_known_keys = cache(known_identity_keys)


def _read_selector(
    place: str, node: Selector, where: Selector | None = None, vary: Sequence[str] | None = None
) -> Selector:
    """Check configuration keys and the values they may have; each becomes a list.

    Args:
        where: what the question fixes already; a value outside it would select nothing.
        vary: the keys that may be there; any where not given.
    """
    _require(node, place, node, "a mapping with at least one key")
    selector: Selector = {}
    for key, value in node.items():
        at = f"{place}: {key}"
        _check_key(at, key, value)
        if vary is not None:
            allowed = f"a pair selects by the keys of vary: {', '.join(vary)}"
            _require(key in vary, at, value, allowed)
        values = value if isinstance(value, list) else [value]
        _require(values, at, value, "a list [ ] of 1 or more values")
        known = _known_keys()[key]
        for i, one in enumerate(values, 1):
            _require(known.takes(one), f"{at}[{i}]" if one is not value else at, one, known.allowed)
        fixed = (where or {}).get(key, values)
        inside = all(one in fixed for one in values)
        _require(inside, at, value, f"where has {key} in {fixed} only")
        selector[key] = values
    return selector


class _Loader(yaml.SafeLoader):
    """YAML whose keys are text and stand once, and whose values are written where they are used.

    An alias of an alias of an alias is a file of a line that takes all memory to read.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name): write the value where it is used")
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


# To YAML 1.1 a number like 5e-4 is text: its decimal point is missing.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} can't be read: it is not a file")
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {describe(error)}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(_describe_refusal(str(path), content, "a mapping with at least one key"))
    return content
