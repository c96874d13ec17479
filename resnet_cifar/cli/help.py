"""Write the page of `train --help`: examples, options, the configuration as composed."""

from pathlib import Path
from textwrap import fill

from resnet_cifar import paths
from resnet_cifar.config.compose import CONF, compose_yaml
from resnet_cifar.text import CURVES

# Hydra's own page takes twice as long and lists schemas.
PAGE = Path(__file__).with_name("help.txt")
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
    return PAGE.read_text(encoding="utf-8").format(
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
