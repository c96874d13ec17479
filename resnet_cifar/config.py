"""The door: Hydra's composed configuration comes in, a typed Config goes out.

Past this module there is plain Python only. YAML under conf/ holds every value, the dataclasses
registered here hold types and rules; a dataclass without a YAML value is an error, not a default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_cifar.data.augmentation import Augmentation, CropFlip
from resnet_cifar.data.datasets import Dataset, steps_per_epoch
from resnet_cifar.errors import ConfigError, describe, require
from resnet_cifar.files import read_regular
from resnet_cifar.hydra_errors import one_line, unknown_key
from resnet_cifar.identity import MOVED, execution, items
from resnet_cifar.model.options import Model, Norm
from resnet_cifar.optim.optimizer import Optimizer
from resnet_cifar.optim.regularization import Regularization
from resnet_cifar.optim.scheduler import Scheduler
from resnet_cifar.places import OWN, command_name, own, place
from resnet_cifar.probe.options import Probe
from resnet_cifar.record.logger import Logger, TensorBoard
from resnet_cifar.trainer import Trainer

if TYPE_CHECKING:
    from torch import nn

CONF = place("conf")
OF_ONE_CALL = ("rerun", "when_busy")  # what to do about a run that is there, not what it is
VALIDATION_COST = 1 / 3  # of a training image's arithmetic: no backward pass


@dataclasses.dataclass
class Config:
    """One run, complete. A part is of one of the options that its own module lists."""

    data: Dataset
    augmentation: Augmentation
    model: Model
    norm: Norm
    optimizer: Optimizer
    scheduler: Scheduler
    regularization: Regularization
    trainer: Trainer
    probe: Probe
    seed: int
    logger: Logger = execution()
    output_root: str = execution()
    rerun: bool = execution()
    when_busy: str = execution()

    def __post_init__(self) -> None:
        """Rules that concern every part, or more than one."""
        for key, value in items(self, everything=True):
            _require_sane(key, value)
        self.output_root = os.path.expanduser(self.output_root)
        require(self.seed >= 0, "seed", self.seed, "a whole number, 0 or more")
        require(bool(self.output_root.strip()), "output_root", "''", "a directory")
        require(self.when_busy in ("wait", "skip"), "when_busy", self.when_busy, "wait or skip")
        self.norm.check(self.model.width)
        epochs = self.trainer.epochs
        warmup = self.scheduler.warmup_epochs
        require(
            warmup < epochs,
            "scheduler.warmup_epochs",
            warmup,
            f"less than trainer.epochs={epochs}",
        )
        size, batch = self.data.training_images, self.trainer.batch_size
        require(batch <= size, "trainer.batch_size", batch, f"at most the {size} training images")

    def build_model(self) -> nn.Module:
        """The network: float [N, 3, 32, 32] to logits [N, classes]. Draws its weights."""
        return self.model.build(self.norm.build, len(self.data.CLASSES))

    def multiply_accumulates(self) -> int:
        """Of one image's forward pass."""
        return self.model.multiply_accumulates(len(self.data.CLASSES))

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch; the last batch may be smaller."""
        return steps_per_epoch(self.data.training_images, self.trainer.batch_size)

    def images(self, epochs: int) -> float:
        """The work of `epochs` epochs, in training images: a validated one counts a third."""
        views = epochs + -(-epochs // self.trainer.augmented_val_every)
        validated = views * self.data.val_size
        return float(epochs * self.data.training_images + VALIDATION_COST * validated)


@functools.cache
def _parts() -> dict[str, type[Any]]:
    """The groups of the configuration: Config's fields that are dataclasses, and their types."""
    types = get_type_hints(Config)
    return {name: types[name] for name in types if dataclasses.is_dataclass(types[name])}


def groups() -> dict[str, tuple[type[Any], ...]]:
    """By group its options: the classes that the module of the group's type lists as OPTIONS.

    And those of a person's own directory.

    Raises:
        ConfigError: these can't be imported, or have the name of another.
    """
    theirs = own()
    more = _options_in(str(theirs)) if theirs else ()
    found = {}
    for name, part in _parts().items():
        kinds = [*sys.modules[part.__module__].OPTIONS, *more]
        found[name] = tuple(kind for kind in kinds if issubclass(kind, part))
        names = [kind.NAME for kind in found[name]]
        for twice in {each for each in names if names.count(each) > 1}:
            raise ConfigError(f"{theirs}: another option of {name} is called {twice} already")
    return found


@functools.cache
def _options_in(directory: str) -> tuple[type[Any], ...]:
    """The classes with a NAME that the Python files of a directory define."""
    found: list[type[Any]] = []
    if directory not in sys.path:  # for good: a sweep's jobs unpickle these classes
        sys.path.append(directory)
    for path in sorted(Path(directory).glob("*.py")):
        try:
            module = importlib.import_module(path.stem)
        except Exception as error:
            raise ConfigError(f"{path} can't be imported: {describe(error)}") from error
        if path.resolve() != Path(module.__file__ or directory).resolve():
            raise ConfigError(f"{path} can't be imported: another module has its name")
        found += [
            each
            for each in vars(module).values()
            if isinstance(each, type) and each.__module__ == path.stem and "NAME" in vars(each)
        ]
    return tuple(found)


SEEDS = ("seed", "data.split_seed")  # the numbers that count nothing


def _require_sane(key: str, value: object) -> None:
    """No number of any part is infinite, nor larger than what it is used in can hold."""
    if isinstance(value, float):
        require(math.isfinite(value), key, value, "a finite number")
    elif isinstance(value, int):
        most = 2**63 - 1 if key in SEEDS else 2**31 - 1
        require(abs(value) <= most, key, value, f"at most {most}")


def register() -> None:
    """Tell Hydra the schemas. Idempotent; to be called before composing."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="hydra/schema", name="config", node=Config)
    for group, kinds in groups().items():
        for kind in kinds:
            store.store(group=f"hydra/schema/{group}", name=kind.NAME, node=kind)
    _make_room(store)


def _make_room(store: Any) -> None:
    """Rename plugins' schemas: Hydra refuses a YAML file that has the name of a schema."""
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the plugins, which store their schemas
    for path in (CONF / "hydra").glob("**/*.yaml"):
        options: Any = store.repo["hydra"]
        for group in path.relative_to(CONF / "hydra").parts[:-1]:
            options = options.get(group, {})
        if path.name in options:
            options[f"{path.stem}_plugin.yaml"] = options.pop(path.name)


def from_dictconfig(composed: DictConfig) -> Config:
    """The typed configuration, its rules checked.

    Raises:
        ConfigError: a value is missing, of the wrong type, or not allowed.
    """
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error, known_keys())) from error
    if not isinstance(config, Config):
        raise ConfigError("the configuration does not start from conf/config.yaml")
    for group, kinds in groups().items():
        part = getattr(config, group)
        allowed = "an option of this group: " + ", ".join(kind.NAME for kind in kinds)
        require(type(part) in kinds, group, part, allowed)
    # Hydra's +key=value adds keys even to a typed configuration.
    for prefix, part in (("", config), *((f"{g}.", getattr(config, g)) for g in groups())):
        for name in vars(part).keys() - {field.name for field in dataclasses.fields(part)}:
            raise ConfigError(unknown_key(prefix + name, known_keys()))
    return config


def known_keys() -> list[str]:
    """Every key some configuration has, and the preset groups."""
    keys = [field.name for field in dataclasses.fields(Config)] + ["cell", "experiment"]
    for group, kinds in groups().items():
        for kind in kinds:
            keys += [f"{group}.{field.name}" for field in dataclasses.fields(kind)]
    return sorted(set(keys))


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that `resnet-cifar train <overrides>` would run (one run, no sweep).

    Options of your own come from the directory in $RESNET_CIFAR_CONFIG_DIR.

    Raises:
        ConfigError: it can't be composed or is not allowed.
    """
    return from_dictconfig(compose_untyped(overrides))


def compose_untyped(overrides: Sequence[str]) -> DictConfig:
    """As `compose`, before conversion: what Hydra hands to `training.train`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    register()
    quoted_paths = [with_quotes(o) for o in overrides]
    if theirs := own():
        require(theirs.is_dir(), OWN, theirs, "a directory")
        quoted_paths.append(f"hydra.searchpath=[{quoted(theirs.as_uri())}]")
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=quoted_paths)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error, known_keys(), overrides)) from error


PATHS = ("output_root", "data.root")


def with_quotes(override: str) -> str:
    """A path as people type it, `~/my runs`, in the quotes that Hydra wants around it."""
    key, _, value = override.partition("=")
    if key not in PATHS or not value or value[0] in "'\"[{" or re.search(r"[,(]|\$\{", value):
        return override  # quoted already, or something to compute or to sweep over
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """`text` as Hydra reads it on a command line: quoted and escaped where need be."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", text):
        return text
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and "\\'"), _literally(text))
    return f"'{text}'"


def _literally(text: str) -> str:
    """`text` with nothing in it that OmegaConf would interpolate."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def compose_yaml(overrides: Sequence[str]) -> str:
    """As `compose`, for people to read: every key with its value."""
    return OmegaConf.to_yaml(compose_untyped(overrides))


def is_sweep_job() -> bool:
    """Whether the code inside @hydra.main runs as one job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def check_launcher() -> None:
    """Refuse options of the launcher that are not allowed, though a single run doesn't use it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    instantiate(HydraConfig.get().launcher)


def refusal(error: Exception, argv: list[str]) -> ConfigError | None:
    """What Hydra or OmegaConf complain about, in one line; None for anybody else's error."""
    from hydra.errors import HydraException, InstantiationException

    if isinstance(error, InstantiationException) and isinstance(error.__cause__, HydraException):
        error = error.__cause__  # what a launcher refuses, without the wrapping
    if not isinstance(error, (HydraException, OmegaConfBaseException)) and not _raised_there(error):
        return None
    arguments = [argument for argument in argv if not argument.startswith("-")]
    if "Ambiguous value" in str(error):
        # Hydra misses the -m before it looks at the keys; a wrong key matters more.
        with contextlib.suppress(Exception):
            try:
                compose([argument.split(",")[0] for argument in arguments])
            except ConfigError as deeper:
                return deeper
    return ConfigError(one_line(error, known_keys(), arguments))


def _raised_there(error: BaseException) -> bool:
    """Whether it is Hydra's own complaint, as some ValueErrors are, or its YAML reader's."""
    if isinstance(error, (YAMLError, UnicodeDecodeError)):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return str(module).startswith(("hydra.", "omegaconf."))


def to_yaml(config: Config) -> str:
    """`config` as YAML: the parts with their kind first, then the root's own values."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_part = field.name in groups()
        plain[field.name] = {"name": value.NAME, **dataclasses.asdict(value)} if is_part else value
    return OmegaConf.to_yaml(OmegaConf.create(_all_literally(plain)))


def _all_literally(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _all_literally(inner) for key, inner in value.items()}
    return _literally(value) if isinstance(value, str) else value


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
                where = f"{OWN} says where options of your own are"
                raise ConfigError(f"{group}.name={name} is unknown here; {where}")
            plain[group] = OmegaConf.merge(OmegaConf.structured(kind), values)
        composed = OmegaConf.merge(OmegaConf.structured(Config), plain)
        assert isinstance(composed, DictConfig)
        return from_dictconfig(composed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        what = one_line(error, known_keys())
        raise ConfigError(f"{path} can't be read as a configuration: {what}") from error


def _bring_up_to_date(plain: dict[Any, Any]) -> None:
    """What earlier versions wrote, in this version's keys; in place.

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


def with_absent(flat: dict[str, Any]) -> dict[str, Any]:
    """A flat configuration of an earlier version, with what its missing keys stood for."""
    found = dict(flat)
    for group, kinds in groups().items():
        kind = next((k for k in kinds if flat.get(group, group) == k.NAME), None)
        for field in dataclasses.fields(kind) if kind else ():
            if "absent" in field.metadata:
                found.setdefault(f"{group}.{field.name}", field.metadata["absent"])
    return found


def reproduce_command(config: Config) -> str:
    """The command that trains `config`: only what differs from conf/."""
    import shlex

    default = dict(items(compose([]), everything=True))
    overrides: list[str] = []
    for group in groups():
        kind = getattr(config, group).NAME
        if kind != default.get(group, kind):
            overrides.append(f"{group}={kind}")
    default = dict(items(compose(overrides), everything=True))
    for key, value in items(config, everything=True):
        if value == default[key] or key in OF_ONE_CALL:
            continue
        if isinstance(value, list):
            overrides.append(f"{key}=[{','.join(quoted(str(each)) for each in value)}]")
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            overrides.append(f"{key}={quoted(text)}")
    return " ".join([command_name("train"), *map(shlex.quote, overrides)])
