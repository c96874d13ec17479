"""A search space from Hydra's sweep syntax."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import ConfigCompositionException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Axis = CategoricalDistribution | FloatDistribution | IntDistribution
Space = Mapping[str, Axis]
Point = Mapping[str, Any]


def distribution(override: Override) -> Axis:
    """Read the sweep over one key as a distribution of Optuna's. Refuses what has none."""

    def require(condition: bool, allowed: str) -> None:
        if not condition:
            raise ConfigCompositionException(f"{override.input_line}: must {allowed}")

    value = override.value()
    tags: set[str] = getattr(value, "tags", set())
    require(tags <= {"log"}, f"have no tag but log, not {', '.join(sorted(tags))}")
    log = "log" in tags
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        require(low < high, "go from the smaller to the larger value")
        require(not log or low > 0, "begin above 0: its scale is log")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    require(not log, "be an interval: its scale is log")
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range()) if value.step else []
        require(bool(numbers), "give a value")
        low, high, step = numbers[0], numbers[-1], abs(value.step)
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(int(low), int(high), step=int(step))
        return FloatDistribution(low, high, step=step)
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    require(bool(choices), "give a value")
    return CategoricalDistribution(choices)


def list_values(axis: Axis) -> list[Any] | None:
    """List every value of an axis of the space; None if they can't be counted."""
    if isinstance(axis, CategoricalDistribution):
        return list(axis.choices)
    if axis.step and not axis.log:
        count = round((axis.high - axis.low) / axis.step) + 1
        return [axis.low + number * axis.step for number in range(count)]
    return None


def list_corners(space: Space) -> list[Point]:
    """List a few points that together have every extreme value of every key."""
    columns: dict[str, Sequence[Any]] = {
        key: axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)
        for key, axis in space.items()
    }
    count = max(map(len, columns.values()))
    rows = zip(*(islice(cycle(column), count) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def overrides(point: Point) -> list[str]:
    """Write a point of the space as a command line."""
    return [f"{key}={value}" for key, value in point.items()]


def label(point: Point) -> str:
    """Write a point for people: "lr=0.0125 weight_decay=0.0014"."""
    tails = [key.rpartition(".")[2] for key in point]
    names = [
        tail if tails.count(tail) == 1 else key for key, tail in zip(point, tails, strict=True)
    ]
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in zip(names, point.values(), strict=True)
    )
