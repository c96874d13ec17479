"""The door: Hydra's composed configuration comes in, a typed Config goes out.

Past this module there is plain Python only. YAML under conf/ holds every value, the dataclasses
registered here hold types and rules; a dataclass without a YAML value is an error, not a default.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_cifar.data import Cifar10, Synthetic
from resnet_cifar.errors import ConfigError, require
from resnet_cifar.identity import execution, items
from resnet_cifar.model import ResNet18
from resnet_cifar.norm import BatchNorm, GroupNorm, NoNorm
from resnet_cifar.optimizer import SGD, AdamW
from resnet_cifar.regularization import Regularization
from resnet_cifar.scheduler import Constant, Cosine, OneCycle, Step
from resnet_cifar.trainer import Trainer

CONF = Path(__file__).parents[1] / "conf"
PARTS: dict[str, tuple[type, ...]] = {
    "data": (Cifar10, Synthetic),
    "model": (ResNet18,),
    "norm": (BatchNorm, GroupNorm, NoNorm),
    "optimizer": (SGD, AdamW),
    "scheduler": (Constant, Cosine, Step, OneCycle),
    "regularization": (Regularization,),
    "trainer": (Trainer,),
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
        size = self.data.train_size if isinstance(self.data, Synthetic) else None
        require(
            size is None or self.trainer.batch_size <= size,
            "trainer.batch_size",
            self.trainer.batch_size,
            f"at most data.train_size={size}",
        )


def register() -> None:
    """Tell Hydra the schemas. Idempotent; `train.py` calls it before composing."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, kinds in PARTS.items():
        for kind in kinds:
            store.store(group=f"schema/{group}", name=kind.NAME, node=kind)  # type: ignore[attr-defined]
    OmegaConf.register_new_resolver("scratch_directory", _scratch, replace=True)


def _scratch() -> str:
    """Hydra insists on writing multirun.yaml somewhere: a directory that ends with the process."""
    global _scratch_directory
    if _scratch_directory is None:
        import tempfile

        _scratch_directory = tempfile.TemporaryDirectory(prefix="resnet-cifar-")
    return _scratch_directory.name


_scratch_directory: Any = None


def from_dictconfig(composed: DictConfig) -> Config:
    """The typed configuration, its rules checked.

    Raises:
        ConfigError: a value is missing, of the wrong type, or not allowed.
    """
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    if not isinstance(config, Config):
        raise ConfigError("the configuration does not start from conf/config.yaml")
    return config


def compose(overrides: list[str]) -> Config:
    """The configuration `python train.py <overrides>` would run (one run, no sweep)."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    register()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return from_dictconfig(hydra_compose("config", overrides=overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error


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
        for group, kinds in PARTS.items():
            values = dict(plain[group])
            name = values.pop("name")
            kind = next(kind for kind in kinds if kind.NAME == name)  # type: ignore[attr-defined]
            schema = OmegaConf.structured(kind)
            for field in dataclasses.fields(kind):
                if "absent" in field.metadata:
                    values.setdefault(field.name, field.metadata["absent"])
            plain[group] = OmegaConf.merge(schema, values)
        return from_dictconfig(OmegaConf.merge(OmegaConf.structured(Config), plain))  # type: ignore[arg-type]
    except StopIteration as error:
        raise ConfigError(f"{path}: {group}.name={name} is unknown here") from error
    except (OSError, KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} can't be read as a configuration: {one_line(error)}") from error
    except Exception as error:  # PyYAML's errors share no useful base with the rest
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is damaged: {one_line(error)}") from error


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


def one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf error as one line naming the key, the value and what is allowed."""
    import difflib

    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += "\n" + str(error.__cause__)
    key = getattr(error, "full_key", None) or ""
    found = re.search(r"full_key: (\S+)", text)
    if found:
        key = found.group(1)

    missing = re.search(r"Could not find '([^']+)'", text)
    options = re.search(r"Available options in '([^']*)':\n((?:\t.*\n?)+)", text)
    if missing and options:
        names = ", ".join(options.group(2).split())
        group, _, option = missing.group(1).rpartition("/")
        return f"{group}={option} is not an option: choose from {names}"
    if missing:
        return f"{missing.group(1)} is not an option: there is no such configuration"
    override = re.search(r"Could not override '([^']+)'", text)
    group_missing = re.search(r"No match in the defaults list", text)
    if override and ("not in" in text or group_missing or "ConfigAttributeError" in text):
        wrong = override.group(1)
        known = [key for key, _ in items(_any_config(), everything=True)] + ["cell", "experiment"]
        close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "python train.py --help lists them"
        return f"{wrong} is no key of this configuration: {hint}"
    if "Ambiguous value for argument" in text:
        argument = re.search(r"argument '([^']+)'", text)
        name = argument.group(1) if argument else "an argument"
        return f"{name} has several values: add -m to sweep over them"
    invalid = re.search(r"Value '(.*?)' of type '.*?' could not be converted to (\w+)", text)
    if invalid:
        allowed = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        kind = allowed.get(invalid.group(2), invalid.group(2))
        return f"{key}={invalid.group(1)} is not allowed: {kind}"
    if "Missing mandatory value" in text or "MissingMandatoryValue" in type(error).__name__:
        return f"{key or text.rpartition(': ')[2]} has no value"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
