"""The command `train`: one configuration, or a sweep with -m. `python train.py` is the same."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from resnet_cifar import cli
from resnet_cifar.config import CONF, from_dictconfig, register


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(composed: DictConfig) -> float:
    """What Hydra calls, once or for every job of a sweep that it runs itself."""
    with cli.job():
        config = from_dictconfig(composed)
        from resnet_cifar.run import run  # torch comes with it: not for --help and completion

        return run(config)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line says; the process's exit code."""
    if arguments is not None:
        sys.argv[1:] = arguments

    def registered() -> None:
        register()
        train()

    return cli.guard(registered)


if __name__ == "__main__":
    sys.exit(main())
