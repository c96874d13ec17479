"""The study as data: published values, questions and claims, from experiments/*.yaml."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from resnet_cifar.errors import UserError, describe

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
Selector = dict[str, Any]  # configuration keys and the value, or the list of values, they may have


@dataclass(frozen=True)
class Published:
    """A cell of the published study."""

    name: str
    selector: Selector  # the full setting included
    published: dict[str, float]
    replications: dict[str, list[float]]


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

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.predictor):
            raise ValueError(f"claim {self.claim!r}: give either pairs or predictor")
        if any(len(pair) != 2 for pair in self.pairs):
            raise ValueError(f"claim {self.claim!r}: a pair is two selectors")
        if not self.metric.startswith(("accuracy/", "loss/")):
            raise ValueError(f"claim {self.claim!r}: metric={self.metric}: accuracy/… or loss/…")

    @property
    def sign(self) -> int:
        """1 where more is better, −1 for a loss."""
        return -1 if self.metric.startswith("loss/") else 1


@dataclass(frozen=True)
class Question:
    """Which runs are compared, what they differ in, and what is claimed of them."""

    name: str
    question: str
    where: Selector
    vary: tuple[str, ...]
    claims: tuple[Claim, ...] = ()


def load_published(path: Path = EXPERIMENTS / "published.yaml") -> list[Published]:
    """The published values and their replications.

    Raises:
        UserError: the file can't be read as such.
    """
    content = _read(path)
    try:
        return [
            Published(
                name,
                cell["selector"] | content["setting"],
                dict(cell["published"]),
                {key: list(values) for key, values in cell["replications"].items()},
            )
            for name, cell in content["cells"].items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {describe(error)}") from error


def load_questions(path: Path = EXPERIMENTS / "questions.yaml") -> list[Question]:
    """The questions, in the file's order.

    Raises:
        UserError: an unknown or missing key, named with its question.
    """
    questions = []
    for name, content in _read(path).items():
        try:
            claims = tuple(_claim(claim) for claim in content.pop("claims", []))
            content["vary"] = tuple(content["vary"])
            questions.append(Question(name=name, claims=claims, **content))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: {name}: {describe(error)}") from error
    return questions


def _claim(content: dict[str, Any]) -> Claim:
    allowed = [field.name for field in dataclasses.fields(Claim)]
    for key in content.keys() - set(allowed):
        raise ValueError(f"{key} is no key of a claim: {', '.join(allowed)}")
    pairs = tuple(tuple(pair) for pair in content.pop("pairs", ()))
    return Claim(pairs=pairs, predictor=tuple(content.pop("predictor", ())), **content)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read: {describe(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a mapping")
    return {key: _numbers(value) for key, value in content.items()}


def _numbers(value: Any) -> Any:
    """`value` with 5e-4 read as a number: to YAML 1.1 it is text without a decimal point."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        return float(value)
    return value


def matches(runs: pd.DataFrame, selector: Selector) -> pd.Series[bool]:
    """Which rows of `runs` (configuration keys as columns) a selector means: bool [rows]."""
    chosen = pd.Series(True, index=runs.index)
    for key, wanted in selector.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        chosen &= runs[key].isin(values) if key in runs else False
    return chosen


def agrees(cell: Selector, selector: Selector) -> bool:
    """Whether one cell's values are among those `selector` means."""
    return all(
        key in cell and cell[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in selector.items()
    )
