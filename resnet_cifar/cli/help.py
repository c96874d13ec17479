"""Write the page of `train --help`: examples, options, the configuration as composed."""

from textwrap import fill

from resnet_cifar import paths
from resnet_cifar.config.compose import CONF, compose_yaml
from resnet_cifar.text import CURVES

# Hydra's own page takes twice as long and lists schemas.
PAGE = """\
Train ResNet-18 on CIFAR-10: one configuration, or a sweep; every run recorded and resumable.

usage: {train} [-m] [--config-dir DIRECTORY] [group=option ...] [key=value ...]

Examples
  {train} data=synthetic model.width=8 trainer.epochs=8     a few minutes, no download
  {train} trainer.epochs=15                                 one cell of the study
  {train} cell=cosine_wd_1e-2                               the study's best: 95 %
  {train} -m optimizer.lr=0.001,0.01,0.1 trainer.epochs=15  a sweep: experiment 1
  {train} experiment=learning_rate                          the same, by its name
  {train} --plan experiment=study                           what it would take, here
  {train} cell=cosine seed=3 output_root=/scratch/runs      another seed, another place

The same command again goes on where it stopped; finished runs are skipped. Afterwards
  {runs:<{width}}  what there is
  {evaluate:<{width}}  what it reached; --test: on test
  {tensorboard:<{width}}  curves, at
    {curves}

Groups and their options
{options}

The configuration: every key of the options chosen, with its value
  {configuration}

{conf} says what each key means; --config-dir adds a directory of options of your own.
{completion}\
Every command of this project: python -m resnet_cifar. All that Hydra can do: --hydra-help
"""
COMPLETION = 'Tab completion: eval "$(python train.py -sc install=bash)"\n'


def help_page(overrides: list[str]) -> str:
    """Write the help page, with the configuration of `overrides`; ConfigError if there is none."""
    configuration = compose_yaml(overrides).strip().splitlines()
    roots = [CONF, *([own] if (own := paths.user_config_directory()) else [])]
    groups: dict[str, set[str]] = {}
    for path in (path for root in roots for path in root.glob("*/*.yaml")):
        groups.setdefault(path.parent.name, set()).add(path.stem)
    options = [
        fill(f"  {group + ':':<16}{', '.join(sorted(names))}", 98, subsequent_indent=18 * " ")
        for group, names in sorted(groups.items())
    ]
    train = paths.command_name("train")
    return PAGE.format(
        train=train,
        width=len(train) + 49,
        runs=f"{paths.command_name('runs')} outputs",
        evaluate=f"{paths.command_name('evaluate')} outputs/<cell>/seed=<n>",
        tensorboard="tensorboard --logdir outputs",
        curves=CURVES,
        options="\n".join(options),
        configuration="\n  ".join(configuration),
        conf="conf/" if paths.checkout() else CONF,
        completion=COMPLETION if paths.checkout() else "",
    )
