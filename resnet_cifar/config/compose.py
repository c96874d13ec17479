"""Compose YAML with Hydra and convert it, once, to a typed Config; quote text for Hydra.

YAML under conf/ holds every value, the dataclasses types and rules; none of them has a default.
"""

import dataclasses
import errno
import json
import re
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_cifar.config.hydra_errors import one_line, unknown_key
from resnet_cifar.config.keys import MAPPING, TEXT, TEXTS, key_kind
from resnet_cifar.config.schema import PARTS, Config, groups
from resnet_cifar.errors import ConfigError
from resnet_cifar.paths import resource_directory, user_config_directory

CONF = resource_directory("conf")
_QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
# Numbers (1_000 and inf are some), booleans and null: Hydra makes other text of them, or none.
_NO_TEXT = re.compile(r"[+-]?(\.?\d[\d_.]*(e[+-]?[\d_]+)?|inf|nan)|true|false|null", re.IGNORECASE)

# The classes, by group, that Hydra knows: a person's own come with their directory.
_registered: dict[str, tuple[type[Any], ...]] = {}


def register() -> None:
    """Register with Hydra the schemas, and where YAML is looked for: first in a person's own."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OwnFirst(SearchPathPlugin):  # Hydra itself would look there last
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            if theirs := user_config_directory():
                main = theirs / "config.yaml"
                if main.is_file() and b"/hydra/schema/config@_here_" not in main.read_bytes():
                    raise ConfigError(f"{main} lacks the defaults of conf/config.yaml: rename it")
                search_path.prepend("own", f"file://{theirs}")

    kinds_of = groups()
    if kinds_of == _registered:
        return
    store = ConfigStore.instance()
    store.store(group="hydra/schema", name="config", node=Config)
    for group, kinds in kinds_of.items():
        for kind in kinds:
            store.store(group=f"hydra/schema/{group}", name=kind.NAME, node=kind)
    # Make room for conf/hydra/: Hydra refuses a YAML file that has the name of a schema.
    plugins = Plugins.instance()  # imports the plugins, which store their schemas
    if not _registered:
        plugins.register(OwnFirst)
    for path in (CONF / "hydra").glob("**/*.yaml"):
        options: Any = store.repo["hydra"]
        for group in path.relative_to(CONF / "hydra").parts[:-1]:
            options = options.get(group, {})
        if path.name in options:
            options[f"{path.stem}_plugin.yaml"] = options.pop(path.name)
    _registered.update(kinds_of)


def from_dictconfig(composed: DictConfig) -> Config:
    """Make what Hydra composed a typed configuration. Raises ConfigError: it is not allowed."""
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    if not isinstance(config, Config):
        raise ConfigError("the configuration does not start from conf/config.yaml")
    # Hydra's +key=value adds keys even to a typed configuration.
    for prefix, part in (("", config), *((f"{g}.", getattr(config, g)) for g in PARTS)):
        for name in vars(part).keys() - {field.name for field in dataclasses.fields(part)}:
            raise ConfigError(unknown_key(prefix + name))
    return config


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose the configuration that `resnet-cifar train <overrides>` would run (no sweep).

    Options of your own come from the directory in $RESNET_CIFAR_CONFIG_DIR. Raises ConfigError:
    it can't be composed or is not allowed.
    """
    return from_dictconfig(compose_untyped(overrides))


def compose_untyped(overrides: Sequence[str]) -> DictConfig:
    """Compose without converting: the form in which Hydra hands a configuration to `train`."""
    import hydra

    arguments = [with_quotes(override) for override in overrides]
    try:
        register()
        with hydra.initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return hydra.compose("config", overrides=arguments)
    except Exception as error:
        if explained := refusal(error, overrides):
            raise explained from error
        raise


def compose_yaml(overrides: Sequence[str]) -> str:
    """Compose for people to read: every key with its value."""
    return OmegaConf.to_yaml(compose_untyped(overrides))


def refusal(error: Exception, argv: Sequence[str]) -> ConfigError | None:
    """Translate a complaint of Hydra's or OmegaConf's; None for anybody else's error."""
    from hydra.errors import HydraException, InstantiationException

    if isinstance(error, InstantiationException) and isinstance(error.__cause__, HydraException):
        error = error.__cause__  # what a launcher refuses, without the wrapping
    theirs = (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError, RecursionError)
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    module = str(innermost.f_globals.get("__name__"))  # some of theirs are ValueErrors
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG  # as a file's name
    ours = not module.startswith(("hydra.", "omegaconf.")) and not too_long
    if ours and not isinstance(error, theirs):
        return None
    arguments = [argument for argument in argv if not argument.startswith("-")]
    return ConfigError(one_line(error, arguments))


def with_quotes(override: str) -> str:
    """Quote text as people type it, `output_root=~/my runs`, where Hydra would misread it.

    That is the value of a key that holds text, or the texts of a list. Left alone are those that
    are quoted already or that Hydra computes, and null, which is the absence of a value.
    """
    from hydra.core.override_parser.overrides_parser import create_functions

    key, equals, value = override.partition("=")
    kind = key_kind(key.lstrip("+"))
    if kind == MAPPING and value.startswith("{") and not key.startswith("+"):
        return f"++{override}"  # or it could have no entry that the file doesn't have
    if kind not in (TEXT, TEXTS) or not equals:
        return override
    functions = "|".join(create_functions().functions)
    if re.match(rf"({functions})\s*\(.*\)\Z|.*\${{", value, re.DOTALL):
        return override
    ends = "," if kind == TEXT else r",[\]"  # several values are to be swept over
    until = rf"(?=\s*[{ends}]|\Z)"
    element = rf"((?<=[{ends}])\s*|\A)({_QUOTED}{until}|null{until}|([^{ends}]+?){until})"
    return f"{key}={re.sub(element, lambda m: quoted(m[3]) if m[3] else m[2], value)}"


def quoted(value: Any) -> str:
    """Return a value as it stands on Hydra's command line, text quoted where need be."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, dict):
        escape = partial(re.sub, r"([\\()\[\]{}:=, \t])", r"\\\1")
        pairs = (f"{escape(str(key))}:{quoted(each)}" for key, each in value.items())
        return f"{{{','.join(pairs)}}}"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", value) and not _NO_TEXT.fullmatch(value):
        return value
    # Double quotes, because a shell wants single ones around the argument. Backslashes count only
    # before one of them.
    text = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + (m[2] and '\\"'), literally(value))
    return f'"{text}"'


def literally(value: Any) -> Any:
    """Return `value` with nothing in its texts that OmegaConf would interpolate."""
    if isinstance(value, dict):
        return {key: literally(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(literally, value))
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
