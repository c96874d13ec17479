"""Write a configuration to config.yaml and read it back; print the command that trains it."""

import contextlib
import dataclasses
import os
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_cifar.config.compose import compose, from_dictconfig, literally, quoted
from resnet_cifar.config.hydra_errors import one_line
from resnet_cifar.config.schema import PARTS, Config, groups
from resnet_cifar.errors import ConfigError, describe, require
from resnet_cifar.files import read_regular
from resnet_cifar.identity import USUAL, flatten, items
from resnet_cifar.paths import USER_CONFIG, command_name
from resnet_cifar.record.integrity import read_summed
from resnet_cifar.record.layout import CONFIG, RUN
from resnet_cifar.record.schema import RunRecord, record_or_reason

OF_YAML = (YAMLError, OmegaConfBaseException, RecursionError)
OF_ONE_CALL = ("rerun", "when_busy")  # they say what to do about a run, not which run it is


def to_yaml(config: Config) -> str:
    """Write `config` as YAML: the parts with their kind first, then the root's own values."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_part = field.name in groups()
        plain[field.name] = {"name": value.NAME, **dataclasses.asdict(value)} if is_part else value
    return OmegaConf.to_yaml(OmegaConf.create(literally(plain)))


def load(path: Path) -> Config:
    """Read what `to_yaml` wrote, also by an earlier version of the program.

    A key that it did not know yet: if it names the run, what its field declares for its absence; if
    it only says how to execute it, today's default.

    Raises:
        ConfigError: the file is missing, damaged, or holds what this version doesn't know.
        RecordError: it is not the one that the run beside it ended with.
    """
    default = compose()
    record = record_or_reason(path.parent)
    content = read_summed(path.parent, path.name, None if isinstance(record, str) else record)
    try:
        return _parse(read_regular(path) if content is None else content, default)
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{path} can't be read as a configuration: {describe(error)}") from error


def from_record(record: RunRecord, directory: Path) -> Config:
    """Read a run's configuration from its record. Raises ConfigError, as `load`."""
    plain: dict[str, Any] = {group: {"name": kinds[0].NAME} for group, kinds in groups().items()}
    for key, value in record.config.items():
        group, _, name = (key, "", "name") if key in groups() else key.rpartition(".")
        (plain[group] if group else plain)[name] = value
    try:
        return _parse(OmegaConf.to_yaml(OmegaConf.create(literally(plain))).encode(), compose())
    except ConfigError as error:
        raise ConfigError(f"{directory / RUN} has no whole configuration: {error}") from error


def check_readable(config: Config) -> None:
    """Raise ConfigError, naming key and value, unless config.yaml gives `config` back."""
    again = flatten(_parse(to_yaml(config).encode()))
    for key, value in flatten(config).items():
        read = again.get(key)
        require(read == value, key, value, f"what config.yaml gives back: {read}")


def _parse(content: bytes, default: Config | None = None) -> Config:
    """Read YAML; keys of execution that it lacks are those of `default`."""
    try:
        plain = OmegaConf.to_container(OmegaConf.create(content.decode()))
        if not isinstance(plain, dict):
            raise ValueError("not a mapping")
        for group, kinds in groups().items():
            values = dict(plain.get(group) or {"name": kinds[0].NAME})  # of what can have none
            name = values.pop("name")
            kind = next((kind for kind in kinds if name == kind.NAME), None)
            if kind is None:
                where = f"{USER_CONFIG} says where options of your own are"
                raise ConfigError(f"{group}.name={name} is not known here; {where}")
            whole = _absent(kind, getattr(default, group, None)) | values
            plain[group] = OmegaConf.merge(OmegaConf.structured(kind), whole)
        plain = _absent(Config, default) | plain
        composed = OmegaConf.merge(OmegaConf.structured(Config), plain)
        assert isinstance(composed, DictConfig)
        return from_dictconfig(composed)
    except (LookupError, TypeError, ValueError, *OF_YAML) as error:
        raise ConfigError(one_line(error)) from error


def _absent(kind: type[Any], default: object = None) -> dict[Any, Any]:
    """Return by name the values that fields of `kind` have where a file lacks them."""
    values = {}
    for field in dataclasses.fields(kind):
        if "absent" in field.metadata:
            values[field.name] = field.metadata["absent"]
        elif field.metadata.get("execution") and hasattr(default, field.name):
            values[field.name] = getattr(default, field.name)
    return values


def fill_in_absent(record: RunRecord) -> RunRecord:
    """Give a record's configuration, in place, the keys that were added after it was written."""
    chosen = tuple(f"{group}={record.config.get(group, group)}" for group in PARTS)
    record.config |= _added(chosen, os.environ.get(USER_CONFIG)) | record.config  # new ones last
    return record


@cache  # a list of runs asks thousands of times
def _added(chosen: tuple[str, ...], own_options: str | None) -> dict[str, Any]:
    kinds = [(group, kind) for group, options in groups().items() for kind in options]
    mine = [(group, kind) for group, kind in kinds if f"{group}={kind.NAME}" in chosen]
    return {f"{group}.{k}": value for group, kind in mine for k, value in _absent(kind).items()}


def usual_values() -> dict[str, Any]:
    """Map keys to their usual values: identity's table, and of added fields that of absence."""
    kinds = [("", Config), *((f"{group}.", kind) for group in groups() for kind in groups()[group])]
    return {p + name: v for p, kind in kinds for name, v in _absent(kind).items()} | USUAL


def reproduce_command(config: Config) -> str:
    """Print the command that trains `config`: only what differs from conf/.

    Raises ConfigError where there is none: Hydra's grammar lacks some names of a mapping.
    """
    default = compose()
    kinds = {group: getattr(config, group).NAME for group in groups()}
    overrides = [f"{g}={kind}" for g, kind in kinds.items() if kind != getattr(default, g).NAME]
    usual = dict(items(compose(overrides), everything=True))
    wanted = {key: each for key, each in items(config, everything=True) if key not in OF_ONE_CALL}
    for key, value in wanted.items():
        if isinstance(before := usual[key], dict) and isinstance(value, dict):
            overrides += [f"~{key}.{name}" for name in before if name not in value]
        if repr(value) != repr(before):  # -0.0 is another value
            overrides.append(f"{key}={quoted(value)}")
    with contextlib.suppress(ConfigError):
        if wanted.items() <= dict(items(compose(overrides), everything=True)).items():
            return " ".join([command_name("train"), *map(shlex.quote, overrides)])
    raise ConfigError(f"no command line can hold {' '.join(overrides)}: use the run's {CONFIG}")
