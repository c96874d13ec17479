"""Find the files that are no code; name the commands: in a checkout, and outside of one.

conf/ and experiments/ are at the top of a checkout; the build puts their YAML into the package.
"""

import os
import re
from pathlib import Path

from resnet_cifar.errors import ConfigError, require

_PACKAGE = Path(__file__).parent
USER_CONFIG = "RESNET_CIFAR_CONFIG_DIR"  # a person's own options; `train --config-dir` sets it


def resource_directory(name: str) -> Path:
    """Find the directory `conf` or `experiments`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def checkout() -> Path | None:
    """Find the checkout that this program runs from, if any: also of an editable installation."""
    return None if resource_directory("conf").parent == _PACKAGE else _PACKAGE.parent


def command_name(name: str) -> str:
    """Return the words that run a command of this program here: `python train.py`, for one."""
    if checkout() is None:
        return f"resnet-cifar {name}"
    return "python train.py" if name == "train" else f"python -m resnet_cifar {name}"


def installing(extra: str = "") -> str:
    """Return the command that installs this program here, with one of pyproject.toml's extras."""
    extra = extra and f"[{extra}]"
    if checkout() is None:
        return f'pip install "resnet-cifar{extra}"'
    return f'pip install -c constraints.txt -e ".{extra}"'


def refuse_url(text: str, key: str = "") -> None:
    """Raise ConfigError if `text`, given where a path belongs, is a URL: s3://bucket/runs."""
    if url := re.match(r"\s*([a-z][a-z0-9+.-]+)://(.*)", text, re.IGNORECASE):
        meant = f"write {url[2]}" if url[1].lower() == "file" else "mount or copy what is there"
        named = f"{key}={text}" if key else text
        raise ConfigError(f"{named} is a URL, and a path of this machine is needed: {meant}")


def local_path(text: str) -> Path:
    """Return the path that an argument of a command names. Raises ConfigError for a URL."""
    refuse_url(text)
    return Path(text).expanduser()


def user_config_directory() -> Path | None:
    """Return the directory of a person's own options, if named. Raises ConfigError: it is none."""
    named = os.environ.get(USER_CONFIG)
    if not named:
        return None
    refuse_url(named, USER_CONFIG)
    directory = Path(named).expanduser().absolute()
    require(directory.is_dir(), USER_CONFIG, directory, "a directory (train: --config-dir)")
    return directory
