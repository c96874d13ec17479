"""The configuration's keys: all, those that name a run, those of execution only."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import NamedTuple

from resnet_cifar.config.schema import Config, groups


def known_keys() -> list[str]:
    """Every key some configuration has, and the preset groups."""
    keys = [field.name for field in dataclasses.fields(Config)] + ["cell", "experiment"]
    for group, kinds in groups().items():
        for kind in kinds:
            keys += [f"{group}.{field.name}" for field in dataclasses.fields(kind)]
    return sorted(set(keys))


class IdentityKey(NamedTuple):
    """What a configuration key that belongs to a cell's identity may hold."""

    kind: str  # in words: text, a number, a whole number, true or false, or an option of a group
    options: tuple[str, ...] = ()  # of a group

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.options)}" if self.options else self.kind

    def takes(self, value: object) -> bool:
        """Whether `value` is of this kind."""
        if self.options:
            return value in self.options
        if isinstance(value, bool) or self.kind == "true or false":
            return isinstance(value, bool) and self.kind == "true or false"
        if isinstance(value, (int, float)):
            return self.kind.endswith("number") and math.isfinite(value)
        return isinstance(value, str) and self.kind == "text"


_KINDS = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


def known_identity_keys() -> dict[str, IdentityKey]:
    """Every configuration key that belongs to a cell's identity, with what it may hold."""
    return {key: known for key, (known, execution) in _known_keys().items() if not execution}


def execution_keys() -> set[str]:
    """The configuration keys that only say where and how a result is computed."""
    root = {field.name for field in dataclasses.fields(Config) if field.metadata.get("execution")}
    return root | {key for key, (_, execution) in _known_keys().items() if execution}


def _known_keys() -> dict[str, tuple[IdentityKey, bool]]:
    """Every key of the configuration's groups, and whether it is of execution only."""
    from resnet_cifar.config.schema import Config, groups

    parts = {field.name: field.metadata for field in dataclasses.fields(Config)}
    keys: dict[str, tuple[IdentityKey, bool]] = {}
    for group, options in groups().items():
        names = tuple(option.NAME for option in options)
        if names != (group,):
            keys[group] = IdentityKey("an option", names), bool(parts[group].get("execution"))
        for option in options:
            types = typing.get_type_hints(option)
            for field in dataclasses.fields(option):
                kind = _KINDS.get(types[field.name], "text")
                execution = bool(field.metadata.get("execution"))
                keys[f"{group}.{field.name}"] = IdentityKey(kind), execution
    return keys
