"""Train one configuration, or a sweep with -m. `python train.py --help` shows how."""

import sys

import hydra
from omegaconf import DictConfig

from resnet_cifar import cli
from resnet_cifar.config import from_dictconfig, register


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> float:
    with cli.job():
        config = from_dictconfig(composed)
        from resnet_cifar.run import run  # torch comes with it: not for --help and completion

        return run(config)


if __name__ == "__main__":
    register()
    sys.exit(cli.guard(main))
