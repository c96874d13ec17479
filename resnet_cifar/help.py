"""The page `python train.py --help` prints. Hydra's own takes twice as long and lists schemas."""

from __future__ import annotations

from textwrap import fill

from resnet_cifar.config import CONF, compose_yaml

PAGE = """\
Train ResNet-18 on CIFAR-10: one configuration, or a sweep; every run recorded and resumable.

usage: python train.py [-m] [group=option ...] [key=value ...]

Examples
  python train.py data=synthetic model.width=8 trainer.epochs=8     a few minutes, no download
  python train.py trainer.epochs=15                                 one cell of the study
  python train.py cell=cosine_wd_1e-2                               the study's best: 95 %
  python train.py -m optimizer.lr=0.001,0.01,0.1 trainer.epochs=15  a sweep: experiment 1
  python train.py experiment=learning_rate                          the same, by its name
  python train.py --plan experiment=study                           what it would take, here
  python train.py cell=cosine seed=3 output_root=/scratch/runs      another seed, another place

The same command again goes on where it stopped; finished runs are skipped. Afterwards
  python -m resnet_cifar.runs outputs                               what there is
  python -m resnet_cifar.evaluate outputs/<cell>/seed=<n>           what it reached; --test: on test
  tensorboard --logdir outputs                                      curves

Groups and their options
{options}

The configuration: every key of the options chosen, with its value
  {configuration}

conf/ says what each key means. Tab completion: eval "$(python train.py -sc install=bash)"
All that Hydra can do: python train.py --hydra-help
"""


def page(overrides: list[str]) -> str:
    """The help page, with the configuration that `overrides` give.

    Raises:
        ConfigError: they can't be composed.
    """
    options = []
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        names = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        hanging = " " * 18
        first = f"  {group.name + ':':<16}"
        options.append(fill(names, 98, initial_indent=first, subsequent_indent=hanging))
    configuration = compose_yaml(overrides).strip().splitlines()
    return PAGE.format(options="\n".join(options), configuration="\n  ".join(configuration))
