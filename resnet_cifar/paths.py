"""Find the files that are no code; name the commands: in a checkout, and outside of one.

conf/ and experiments/ are at the top of a checkout; the build puts their YAML into the package.
"""

from __future__ import annotations

import os
from pathlib import Path

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


def installing(extra: str) -> str:
    """Return the command that installs one of pyproject.toml's extras here."""
    if checkout() is None:
        return f'pip install "resnet-cifar[{extra}]"'
    return f'pip install -c constraints.txt -e ".[{extra}]"'


def user_config_directory() -> Path | None:
    """Return the directory of a person's own options, if they have named one."""
    named = os.environ.get(USER_CONFIG)
    return Path(named).expanduser().absolute() if named else None
