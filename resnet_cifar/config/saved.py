"""Write a configuration to config.yaml and read it back; print the command that trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_cifar.config.compose import compose, from_dictconfig
from resnet_cifar.config.hydra_errors import one_line
from resnet_cifar.config.quoting import literally, quoted
from resnet_cifar.config.schema import Config, groups
from resnet_cifar.data.augmentation import CropFlip
from resnet_cifar.errors import ConfigError
from resnet_cifar.files import read_regular
from resnet_cifar.identity import MOVED, items
from resnet_cifar.paths import USER_CONFIG, command_name
from resnet_cifar.probe.options import Probe
from resnet_cifar.record.schema import RunRecord
from resnet_cifar.record.tracker import TensorBoard

OF_ONE_CALL = ("rerun", "when_busy")  # they say what to do about a run, not which run it is


def to_yaml(config: Config) -> str:
    """Write `config` as YAML: the parts with their kind first, then the root's own values."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_part = field.name in groups()
        plain[field.name] = {"name": value.NAME, **dataclasses.asdict(value)} if is_part else value
    return OmegaConf.to_yaml(OmegaConf.create(_all_literally(plain)))


def _all_literally(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _all_literally(inner) for key, inner in value.items()}
    return literally(value) if isinstance(value, str) else value


def load(path: Path) -> Config:
    """Read what `to_yaml` wrote, also by an earlier version of the program.

    Raises:
        ConfigError: the file is missing, damaged, or holds what this version doesn't know.
    """
    try:
        text = read_regular(path).decode()  # a pipe in its place would hang
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it refers to itself by aliases")  # a few lines can mean gigabytes
        plain = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(plain, dict):
            raise ValueError("not a mapping")
        _bring_up_to_date(plain)
        for group, kinds in groups().items():
            values = dict(plain[group])
            name = values.pop("name")
            kind = next((kind for kind in kinds if name == kind.NAME), None)
            if kind is None:
                where = f"{USER_CONFIG} says where options of your own are"
                raise ConfigError(f"{group}.name={name} is unknown here; {where}")
            plain[group] = OmegaConf.merge(OmegaConf.structured(kind), values)
        composed = OmegaConf.merge(OmegaConf.structured(Config), plain)
        assert isinstance(composed, DictConfig)
        return from_dictconfig(composed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = one_line(error)
        raise ConfigError(f"{path} can't be read as a configuration: {reason}") from error


def _bring_up_to_date(plain: dict[Any, Any]) -> None:
    """Bring what an earlier version wrote to this version's keys, in place.

    A key that names the run is filled in by what its field declares for its absence; one that
    only says how to execute it, by today's default.
    """
    default = compose([])
    if plain and "probe" not in plain:  # runs without one
        plain["probe"] = {"name": Probe.NAME}
    if plain and "logger" not in plain:
        plain["logger"] = {"name": TensorBoard.NAME}
    if plain and "augmentation" not in plain:
        plain["augmentation"] = {"name": CropFlip.NAME}
        for key, before in MOVED.items():
            part, name = before.split(".")
            plain["augmentation"][key.partition(".")[2]] = dict(plain[part])[name]
            plain[part] = {k: v for k, v in dict(plain[part]).items() if k != name}
    for group, kinds in groups().items():
        for kind in kinds:
            if dict(plain[group]).get("name") == kind.NAME:
                plain[group] = _fill_in(dict(plain[group]), kind, getattr(default, group))
    plain.update(_fill_in(plain, Config, default))


def _fill_in(values: dict[Any, Any], kind: type[Any], default: object) -> dict[Any, Any]:
    for field in dataclasses.fields(kind):
        if "absent" in field.metadata:
            values.setdefault(field.name, field.metadata["absent"])
        elif field.metadata.get("execution") and hasattr(default, field.name):
            values.setdefault(field.name, getattr(default, field.name))
    return values


def with_absent(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat configuration with what its keys stood for that were not there yet."""
    whole = dict(flat)
    for group, kinds in groups().items():
        kind = next((k for k in kinds if flat.get(group, group) == k.NAME), None)
        for field in dataclasses.fields(kind) if kind else ():
            if "absent" in field.metadata:
                whole.setdefault(f"{group}.{field.name}", field.metadata["absent"])
    return whole


def fill_in_absent(record: RunRecord) -> RunRecord:
    """Give a record's configuration, in place, the keys that were added after it was written.

    Whatever compares configurations calls it: the reader of records knows no options.
    """
    record.config = with_absent(record.config)
    return record


def reproduce_command(config: Config) -> str:
    """Print the command that trains `config`: only what differs from conf/."""
    import shlex

    default = dict(items(compose([]), everything=True))
    overrides: list[str] = []
    for group in groups():
        kind = getattr(config, group).NAME
        if kind != default.get(group, kind):
            overrides.append(f"{group}={kind}")
    default = dict(items(compose(overrides), everything=True))
    for key, value in items(config, everything=True):
        if value != default[key] and key not in OF_ONE_CALL:
            overrides.append(f"{key}={_typed(value)}")
    return " ".join([command_name("train"), *map(shlex.quote, overrides)])


def _typed(value: object) -> str:
    """Write `value` so that Hydra reads one of its type."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if isinstance(value, (int, float)) else quoted(str(value))
