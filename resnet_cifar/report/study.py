"""The study as data: published values, questions and claims, from experiments/*.yaml.

Both files have a schema. What does not fit it is refused in one line that names the file, the place
in it, the value and what is allowed there, so that a misspelt key never makes a question vanish.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import yaml

from resnet_cifar.config.keys import IdentityKey, known_identity_keys
from resnet_cifar.errors import UserError, describe
from resnet_cifar.paths import resource_directory
from resnet_cifar.runs.statistics import Spread, pooled
from resnet_cifar.text import printable

EXPERIMENTS = resource_directory("experiments")
Scalar = str | float | bool
Selector = dict[str, list[Scalar]]  # configuration keys and the values they may have

_METRIC = re.compile(r"(accuracy|loss)/[a-z][a-z_]*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,59}", re.ASCII)  # it becomes part of files' names


@dataclass(frozen=True)
class Published:
    """A cell of the published study."""

    name: str
    selector: Selector  # the full setting included
    published: dict[str, float]
    replications: dict[str, list[float]]
    spread: Spread  # of the replications' accuracy/val_augmented, pooled where that is declared


@dataclass(frozen=True)
class Claim:
    """A finding, as something that can be found false. See experiments/questions.yaml."""

    claim: str
    metric: str = "accuracy/val"
    pairs: tuple[tuple[Selector, Selector], ...] = ()
    margin: float = 0.0
    within: float | None = None
    relative: bool = False
    predictor: tuple[str, ...] = ()
    against: str | None = None  # the metric of a pair's second cell, where it is another one

    @property
    def sign(self) -> int:
        """1 where more is better, −1 for a loss."""
        return -1 if self.metric.startswith("loss/") and not self.predictor else 1


@dataclass(frozen=True)
class Question:
    """Which runs are compared, what they differ in, and what is claimed of them."""

    name: str
    question: str
    where: Selector
    vary: tuple[str, ...]
    claims: tuple[Claim, ...] = ()


# Selecting runs ----------------------------------------------------------------------------------


def matches(runs: pd.DataFrame, selector: Selector) -> pd.Series[bool]:
    """Which rows of `runs` (configuration keys as columns) a selector means: bool [rows]."""
    chosen = pd.Series(True, index=runs.index)
    for key, values in selector.items():
        chosen &= runs[key].isin(values) if key in runs else False
    return chosen


def agrees(cell: dict[str, Any], selector: Selector) -> bool:
    """Whether one cell's values are among those `selector` means."""
    return all(key in cell and cell[key] in values for key, values in selector.items())


# Reading -----------------------------------------------------------------------------------------


def load_questions(path: Path = EXPERIMENTS / "questions.yaml") -> list[Question]:
    """The questions, in the file's order.

    Raises:
        UserError: the file can't be read, or does not fit its schema.
    """
    keys = known_identity_keys()
    return [_question(name, node, keys) for name, node in _read(path).mapping().items()]


def load_published(path: Path = EXPERIMENTS / "published.yaml") -> list[Published]:
    """The published values and their replications.

    Raises:
        UserError: the file can't be read, or does not fit its schema.
    """
    keys = known_identity_keys()
    top = _read(path).mapping(required=("setting", "cells"), optional=("pooled_sd",))
    setting = _selector(top["setting"], keys)
    cells = {
        name: _cell(name, node, setting, keys) for name, node in top["cells"].mapping().items()
    }
    together: list[str] = []
    for node in top["pooled_sd"].items("cells", 2) if "pooled_sd" in top else ():
        if node.text() not in cells or node.value in together:
            node.refuse(f"cells, each once: {', '.join(cells)}")
        together.append(node.value)
    samples = {name: cell.replications[AUGMENTED] for name, cell in cells.items()}
    common = pooled([samples[name] for name in together]) if together else None
    return [
        dataclasses.replace(cell, spread=common) if common and name in together else cell
        for name, cell in cells.items()
    ]


def _cell(name: str, node: _Node, setting: Selector, keys: dict[str, IdentityKey]) -> Published:
    node.check_name(name)
    parts = node.mapping(required=("selector", "published", "replications"))
    published = {
        metric: value.measured(metric)
        for metric, value in parts["published"].mapping(required=_NEEDED).items()
    }
    replications = {
        metric: [value.measured(metric) for value in values.items("numbers", 2)]
        for metric, values in parts["replications"].mapping(required=_NEEDED).items()
    }
    selector = _selector(parts["selector"], keys) | setting
    return Published(name, selector, published, replications, pooled([replications[AUGMENTED]]))


AUGMENTED = "accuracy/val_augmented"
_NEEDED = (AUGMENTED,)


@dataclass(frozen=True)
class _Node:
    """A value of a YAML file and its place there."""

    path: Path
    place: str
    value: Any

    def refuse(self, allowed: str) -> NoReturn:
        shown = " ".join(repr(self.value).split())
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        place = f"{self.path}: {self.place}" if self.place else f"{self.path}"
        raise UserError(f"{place}={shown} is not allowed: {allowed}")

    def at(self, key: str, value: Any) -> _Node:
        return _Node(self.path, f"{self.place}: {key}" if self.place else key, value)

    def mapping(
        self, required: Sequence[str] = (), optional: Sequence[str] | None = ()
    ) -> dict[str, _Node]:
        """The parts by key. Without `required` any key may be there, with it also the optional."""
        if not isinstance(self.value, dict) or not self.value:
            self.refuse("a mapping with " + (", ".join(required) or "at least one key"))
        for key, value in self.value.items():
            if not isinstance(key, str):
                self.at(str(key), value).refuse("a key is text; quote it")
        for key in required:
            if key not in self.value:
                self.at(key, None).refuse(f"{key} is missing")
        known = (*required, *(optional or ()))
        for key, value in self.value.items():
            if required and required is not _NEEDED and key not in known:
                self.at(key, value).refuse(f"the keys here are {', '.join(known)}")
        return {key: self.at(key, value) for key, value in self.value.items()}

    def items(self, what: str, least: int = 1, most: int | None = None) -> list[_Node]:
        """The parts of a list."""
        if (
            not isinstance(self.value, list)
            or len(self.value) < least
            or (most is not None and len(self.value) > most)
        ):
            count = f"{least}" if most == least else f"{least} or more"
            self.refuse(f"a list [ ] of {count} {what}")
        return [
            _Node(self.path, f"{self.place}[{i}]", part) for i, part in enumerate(self.value, 1)
        ]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            self.refuse("text")
        if printable(self.value) != self.value:
            self.refuse("text of one line, without control characters")
        return self.value

    def yes_or_no(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def number(self, allowed: str, low: float, high: float) -> float:
        """A number of [low, high)."""
        number = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if not number or not low <= self.value < high:
            self.refuse(allowed)
        return float(self.value)

    def measured(self, metric: str) -> float:
        """A value of a metric: an accuracy is a fraction."""
        if not _METRIC.fullmatch(metric):
            self.refuse("a metric is accuracy/… or loss/…")
        if metric.startswith("accuracy/"):
            return self.number("a fraction from 0 to 1", 0, math.nextafter(1, 2))
        return self.number("a number of nats, 0 or more", 0, math.inf)

    def check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name == "other":
            self.refuse(
                "a name is up to 60 letters, digits, '_', '-' and '.', starts with a letter or "
                "digit, and is not 'other'"
            )


def _question(name: str, node: _Node, keys: dict[str, IdentityKey]) -> Question:
    node.check_name(name)
    parts = node.mapping(required=("question", "where", "vary"), optional=("claims",))
    where: Selector = {}
    if parts["where"].value != {}:
        where = _selector(parts["where"], keys)
    vary = _keys(parts["vary"], keys)
    for key in vary:
        if len(where.get(key, (1, 2))) < 2:
            parts["vary"].refuse(f"where fixes {key} to one value, so it can't vary")
    claims: list[Claim] = []
    if "claims" in parts:
        for part in parts["claims"].items("claims"):
            claim = _claim(part, where, vary, keys)
            if claim in claims:
                part.refuse("the same claim stands there before")
            claims.append(claim)
    return Question(name, parts["question"].text(), where, vary, tuple(claims))


def _claim(
    node: _Node, where: Selector, vary: tuple[str, ...], keys: dict[str, IdentityKey]
) -> Claim:
    optional = ("metric", "against", "pairs", "margin", "within", "relative", "predictor")
    parts = node.mapping(required=("claim",), optional=optional)
    if ("pairs" in parts) == ("predictor" in parts):
        node.refuse("give either pairs or predictor")
    if "margin" in parts and "within" in parts:
        node.refuse("give either margin or within")
    metric = parts["metric"].text() if "metric" in parts else Claim.metric
    if not _METRIC.fullmatch(metric):
        parts["metric"].refuse("accuracy/… or loss/…, as metrics.jsonl names it")
    against = parts["against"].text() if "against" in parts else None
    quantity = metric.partition("/")[0]
    if against and not (_METRIC.fullmatch(against) and against.startswith(f"{quantity}/")):
        parts["against"].refuse(f"{quantity}/…, as metrics.jsonl names it")
    if against and "predictor" in parts:
        parts["against"].refuse("not beside predictor, which has no second cell")
    relative = parts["relative"].yes_or_no() if "relative" in parts else False
    if relative and "predictor" in parts:
        parts["relative"].refuse("not beside predictor, whose differences are of R²")
    share = relative or metric.startswith("accuracy/") or "predictor" in parts
    allowed = "a fraction less than 1: 0.2 is 20 points" if share else "less than 10 nats"
    most = 1.0 if share else 10.0
    margin = 0.0
    if "margin" in parts:
        margin = parts["margin"].number(f"0 or more, {allowed}", 0, most)
    within = None
    if "within" in parts:
        within = parts["within"].number(f"above 0, {allowed}", 5e-324, most)
    predictor: tuple[str, ...] = ()
    if "predictor" in parts:
        predictor = _keys(parts["predictor"], keys, least=2)
        for key in predictor:
            if key not in vary or keys[key].kind not in ("a number", "a whole number"):
                parts["predictor"].refuse(f"{key} is not a numeric key of vary")
    pairs = []
    for pair in parts["pairs"].items("pairs") if "pairs" in parts else ():
        first, second = (
            _selector(side, keys, where, vary) for side in pair.items("selectors", 2, 2)
        )
        same = first == second and against in (None, metric)
        if same or (first, second) in pairs:
            pair.refuse("two different cells, each pair once")
        pairs.append((first, second))
    text = parts["claim"].text()
    return Claim(text, metric, tuple(pairs), margin, within, relative, predictor, against)


def _keys(node: _Node, keys: dict[str, IdentityKey], least: int = 1) -> tuple[str, ...]:
    """A list of different configuration keys."""
    found: list[str] = []
    for part in node.items("configuration keys", least):
        key = part.text()
        if key not in keys:
            part.refuse(_no_key(key, keys))
        if key in found:
            part.refuse("each key once")
        found.append(key)
    return tuple(found)


def _selector(
    node: _Node,
    keys: dict[str, IdentityKey],
    where: Selector | None = None,
    vary: Sequence[str] | None = None,
) -> Selector:
    """Configuration keys with the values they may have.

    Args:
        where: what the question fixes already; a value outside it would select nothing.
        vary: the keys that may be there; any where not given.
    """
    found: Selector = {}
    for key, part in node.mapping().items():
        if key not in keys:
            part.refuse(_no_key(key, keys))
        if vary is not None and key not in vary:
            part.refuse(f"a pair selects by the keys of vary: {', '.join(vary)}")
        parts = part.items("values") if isinstance(part.value, list) else [part]
        for one in parts:
            if not keys[key].takes(one.value):
                one.refuse(keys[key].allowed)
        values = [one.value for one in parts]
        beyond = [value for value in values if value not in (where or {}).get(key, values)]
        if beyond:
            part.refuse(f"where has {key} in {(where or {})[key]} only")
        found[key] = values
    return found


def _no_key(key: str, keys: dict[str, IdentityKey]) -> str:
    import difflib

    close = difflib.get_close_matches(key, keys, 1)
    hint = f"; did you mean {close[0]}" if close else ""
    return f"a configuration key that names a cell, such as optimizer.lr{hint}"


class _Loader(yaml.SafeLoader):
    """YAML whose keys stand once and whose values are written where they are used.

    An alias of an alias of an alias is a file of a line that takes all memory to read.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name): write the value where it is used")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key is text")
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# To YAML 1.1 a number like 5e-4 is text: its decimal point is missing.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(path: Path) -> _Node:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} can't be read: it is not a file")
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {describe(error)}") from error
    return _Node(path, "", content)
