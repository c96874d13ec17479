"""The door: Hydra's composed configuration comes in, a typed Config goes out.

Past this module there is plain Python only. YAML under conf/ holds every value, the dataclasses
registered here hold types and rules; a dataclass without a YAML value is an error, not a default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_cifar.data.datasets import Cifar10, Synthetic
from resnet_cifar.errors import ConfigError, require
from resnet_cifar.hydra_errors import one_line, unknown_key
from resnet_cifar.identity import execution, items
from resnet_cifar.model.options import BatchNorm, GroupNorm, NoNorm, ResNet18
from resnet_cifar.optim.optimizer import SGD, AdamW
from resnet_cifar.optim.regularization import Regularization
from resnet_cifar.optim.scheduler import Constant, Cosine, OneCycle, Step
from resnet_cifar.probe.options import Probe
from resnet_cifar.trainer import Trainer

CONF = Path(__file__).parents[1] / "conf"
PARTS: dict[str, tuple[Any, ...]] = {
    "data": (Cifar10, Synthetic),
    "model": (ResNet18,),
    "norm": (BatchNorm, GroupNorm, NoNorm),
    "optimizer": (SGD, AdamW),
    "scheduler": (Constant, Cosine, Step, OneCycle),
    "regularization": (Regularization,),
    "trainer": (Trainer,),
    "probe": (Probe,),
}


@dataclasses.dataclass
class Config:
    """One run, complete. The parts are typed by the option chosen for each group."""

    data: Any  # omegaconf 2.3 has no union of dataclasses; from_dictconfig() checks
    model: Any
    norm: Any
    optimizer: Any
    scheduler: Any
    regularization: Any
    trainer: Any
    probe: Any
    seed: int
    output_root: str = execution()
    rerun: bool = execution()
    when_busy: str = execution()

    def __post_init__(self) -> None:
        """Rules that concern more than one part."""
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number, 0 or more")
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
        size, batch = self.data.train_size, self.trainer.batch_size
        require(batch <= size, "trainer.batch_size", batch, f"at most the {size} training images")


def register() -> None:
    """Tell Hydra the schemas. Idempotent; `train.py` calls it before composing."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="hydra/schema", name="config", node=Config)
    for group, kinds in PARTS.items():
        for kind in kinds:
            store.store(group=f"hydra/schema/{group}", name=kind.NAME, node=kind)
    _make_room(store)
    OmegaConf.register_new_resolver("scratch_directory", _scratch, replace=True)


def _make_room(store: Any) -> None:
    """Rename two plugins' schemas: Hydra refuses a YAML file that has the name of a schema."""
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the plugins, which store their schemas
    for group, name in (("launcher", "ray"), ("sweeper", "optuna")):
        options = store.repo["hydra"].get(group, {})
        if f"{name}.yaml" in options:
            options[f"{name}_plugin.yaml"] = options.pop(f"{name}.yaml")


def _scratch() -> str:
    """Hydra insists on writing multirun.yaml somewhere: a directory that ends with the process."""
    global _scratch_directory
    if _scratch_directory is None:
        import tempfile

        _scratch_directory = tempfile.TemporaryDirectory(prefix="resnet-cifar-")
    return str(_scratch_directory.name)


_scratch_directory: Any = None


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
    for group, kinds in PARTS.items():
        part = getattr(config, group)
        allowed = "an option of this group: " + ", ".join(kind.NAME for kind in kinds)
        require(type(part) in kinds, group, part, allowed)
    # Hydra's +key=value adds keys even to a typed configuration.
    for prefix, part in (("", config), *((f"{g}.", getattr(config, g)) for g in PARTS)):
        for name in vars(part).keys() - {field.name for field in dataclasses.fields(part)}:
            raise ConfigError(unknown_key(prefix + name, known_keys()))
    return config


def known_keys() -> list[str]:
    """Every key some configuration has, and the preset groups."""
    keys = [field.name for field in dataclasses.fields(Config)] + ["cell", "experiment"]
    for group, kinds in PARTS.items():
        for kind in kinds:
            keys += [f"{group}.{field.name}" for field in dataclasses.fields(kind)]
    return sorted(set(keys))


def compose(overrides: list[str]) -> Config:
    """The configuration `python train.py <overrides>` would run (one run, no sweep).

    Raises:
        ConfigError: it can't be composed or is not allowed.
    """
    return from_dictconfig(compose_untyped(overrides))


def compose_untyped(overrides: list[str]) -> DictConfig:
    """As `compose`, before conversion: what Hydra hands to train.py's main."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    register()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error, known_keys(), overrides)) from error


def compose_yaml(overrides: list[str]) -> str:
    """As `compose`, for people to read: every key with its value."""
    return OmegaConf.to_yaml(compose_untyped(overrides))


def is_sweep_job() -> bool:
    """Whether the code inside @hydra.main runs as one job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def refusal(error: Exception, argv: list[str]) -> ConfigError | None:
    """What Hydra or OmegaConf complain about, in one line; None for anybody else's error."""
    from hydra.errors import HydraException, InstantiationException

    if isinstance(error, InstantiationException) and isinstance(error.__cause__, HydraException):
        error = error.__cause__  # what a launcher refuses, without the wrapping
    foreign = isinstance(error, (HydraException, OmegaConfBaseException))
    if not foreign and "Config group override" not in str(error):  # a ValueError, for data=3
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


def to_yaml(config: Config) -> str:
    """`config` as YAML: the parts with their kind first, then the root's own values."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_part = field.name in PARTS
        plain[field.name] = {"name": value.NAME, **dataclasses.asdict(value)} if is_part else value
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def load(path: Path) -> Config:
    """Read what `to_yaml` wrote, also by an earlier version of the program.

    Raises:
        ConfigError: the file is missing, damaged, or holds what this version doesn't know.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(plain, dict):
            raise ValueError("not a mapping")
        if plain and "probe" not in plain:  # added after runs exist, which had none
            plain["probe"] = {"name": Probe.NAME, **dataclasses.asdict(compose([]).probe)}
        for group, kinds in PARTS.items():
            values = dict(plain[group])
            name = values.pop("name")
            kind = next(kind for kind in kinds if name == kind.NAME)
            schema = OmegaConf.structured(kind)
            for field in dataclasses.fields(kind):
                if "absent" in field.metadata:
                    values.setdefault(field.name, field.metadata["absent"])
            plain[group] = OmegaConf.merge(schema, values)
        return from_dictconfig(OmegaConf.merge(OmegaConf.structured(Config), plain))  # type: ignore[arg-type]
    except StopIteration as error:
        raise ConfigError(f"{path}: {group}.name={name} is unknown here") from error
    except (OSError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        what = one_line(error, known_keys())
        raise ConfigError(f"{path} can't be read as a configuration: {what}") from error


def command(config: Config) -> str:
    """The command that trains `config`, from the repository: only what differs from conf/."""
    import shlex

    default = dict(items(compose([]), everything=True))
    overrides: list[str] = []
    for group in PARTS:
        kind = getattr(config, group).NAME
        if kind != default.get(group, kind):
            overrides.append(f"{group}={kind}")
    default = dict(items(compose(overrides), everything=True))
    for key, value in items(config, everything=True):
        if value != default[key]:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            plain = re.fullmatch(r"[\w.+/-]+", text)
            overrides.append(f"{key}={text}" if plain else f"{key}='{text}'")
    return " ".join(["python train.py", *map(shlex.quote, overrides)])
