"""Where the files lie that are no code, and what a person types: in a checkout, and outside of one.

`conf/` and `experiments/` lie at the top of a checkout. An installation has the YAML files of both
inside the package, where the build puts them (setup.py).
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent
USER_CONFIG = "RESNET_CIFAR_CONFIG_DIR"  # a person's own options; `train --config-dir` sets it


def resource_directory(name: str) -> Path:
    """The directory `conf` or `experiments`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def checkout() -> Path | None:
    """The checkout that this program runs from, editable installations included; else None."""
    return None if resource_directory("conf").parent == _PACKAGE else _PACKAGE.parent


def command_name(name: str) -> str:
    """What a person types to run a command of this program: `python train.py`, for one."""
    if checkout() is None:
        return f"resnet-cifar {name}"
    return "python train.py" if name == "train" else f"python -m resnet_cifar {name}"


def installing(extra: str) -> str:
    """What a person types to install one of pyproject.toml's extras."""
    if checkout() is None:
        return f'pip install "resnet-cifar[{extra}]"'
    return f'pip install -c constraints.txt -e ".[{extra}]"'


def user_config_directory() -> Path | None:
    """The directory of a person's own options, where they have named one."""
    return (
        Path(os.environ[USER_CONFIG]).expanduser().absolute()
        if os.environ.get(USER_CONFIG)
        else None
    )


def use_config_directory(directory: str) -> None:
    """Name that directory, for this process and those it starts."""
    os.environ[USER_CONFIG] = str(Path(directory).expanduser().absolute())
