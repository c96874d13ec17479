"""List the configuration's keys: all of them, those that name a run, those of execution only."""

import dataclasses
import math
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from resnet_cifar.config.schema import Config, groups

PRESETS = ("cell", "experiment")  # groups of values of the other groups' keys
TEXT, TEXTS, MAPPING, ANY = "text", "a list of text", "a mapping", "a value"
_KINDS = {str: TEXT, float: "a number", int: "a whole number", bool: "true or false"}


class IdentityKey(NamedTuple):
    """The values that a configuration key may hold."""

    kind: str  # in words: see `describe_type`, or an option of a group
    options: tuple[str, ...] = ()  # of a group
    optional: bool = False

    @property
    def allowed(self) -> str:
        words = f"one of {', '.join(self.options)}" if self.options else self.kind
        return words + " or null" * self.optional

    def takes(self, value: object) -> bool:
        """True if `value` is of this kind."""
        if value is None or self.options:
            return self.optional if value is None else value in self.options
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.kind in (_KINDS[int], _KINDS[float], ANY) and math.isfinite(value)
        return self.kind == ANY or self.kind.startswith(describe_type(type(value)))


def describe_type(hint: Any) -> str:
    """Say in words what a field of a type holds, null apart."""
    inside = [each for each in get_args(hint) if each not in (NoneType, ...)]
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return describe_type(inside[0]) if len(inside) == 1 else ANY
    if kind in (list, tuple):
        return TEXTS if set(inside) == {str} else "a list"
    return MAPPING if kind is dict else _KINDS.get(hint, ANY)


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


def key_kind(key: str) -> str | None:
    """Say in words what a key holds in every option that has it; None where none has."""
    return _table()[key][0].kind if key in _table() else None


def _table() -> dict[str, tuple[IdentityKey, bool]]:
    """Every key of every option: what it may hold, and True if it is of execution only."""
    return _tabulate(tuple(groups().items()))


@cache
def _tabulate(groups: tuple[Any, ...]) -> dict[str, tuple[IdentityKey, bool]]:
    options = dict(groups)
    table: dict[str, tuple[IdentityKey, bool]] = {}
    for prefix, part in [("", Config), *((f"{g}.", kind) for g in options for kind in options[g])]:
        types = get_type_hints(part)
        for field in dataclasses.fields(part):
            key = prefix + field.name
            names = tuple(option.NAME for option in options.get(key, ()))
            kind = "an option" if names else describe_type(types[field.name])
            kind = kind if key not in table or table[key][0].kind == kind else ANY
            holds = IdentityKey(kind, names, NoneType in get_args(types[field.name]))
            table[key] = holds, bool(field.metadata.get("execution"))
    return table
