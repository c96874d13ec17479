"""List the configuration's keys: all of them, those that name a run, those of execution only."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, get_type_hints

from resnet_cifar.config.schema import Config, groups

PRESETS = ("cell", "experiment")  # groups of values of the other groups' keys
_KINDS = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


class IdentityKey(NamedTuple):
    """The values that a configuration key may hold."""

    kind: str  # in words: text, a number, a whole number, true or false, or an option of a group
    options: tuple[str, ...] = ()  # of a group

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.options)}" if self.options else self.kind

    def takes(self, value: object) -> bool:
        """True if `value` is of this kind."""
        if self.options:
            return value in self.options
        if isinstance(value, (bool, str)):
            return self.kind == _KINDS[type(value)]
        numeric = self.kind.endswith("number")
        return numeric and isinstance(value, (int, float)) and math.isfinite(value)


def known_keys() -> list[str]:
    """List every key some configuration has, and the preset groups."""
    return sorted([*_table(), *PRESETS])


def known_identity_keys() -> dict[str, IdentityKey]:
    """List the keys that belong to a cell's identity, each with what it may hold."""
    return {
        key: holds
        for key, (holds, execution) in _table().items()
        # A group with one option, of the group's own name, leaves nothing to choose.
        if not execution and key != "seed" and holds.options != (key,)
    }


def execution_keys() -> set[str]:
    """List the keys that only say how a result is computed."""
    return {key for key, (_, execution) in _table().items() if execution}


def _table() -> dict[str, tuple[IdentityKey, bool]]:
    """Every key of every option: what it may hold, and True if it is of execution only."""
    options = groups()
    table: dict[str, tuple[IdentityKey, bool]] = {}
    for prefix, part in [("", Config), *((f"{g}.", kind) for g in options for kind in options[g])]:
        types = get_type_hints(part)
        for field in dataclasses.fields(part):
            key = prefix + field.name
            names = tuple(option.NAME for option in options.get(key, ()))
            kind = "an option" if names else _KINDS.get(types[field.name], "text")
            table[key] = IdentityKey(kind, names), bool(field.metadata.get("execution"))
    return table
