"""`python -m resnet_cifar` lists the commands, `python -m resnet_cifar COMMAND …` runs one."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from pathlib import Path

from resnet_cifar import cli
from resnet_cifar.errors import ConfigError

TRAIN = Path(__file__).parents[1] / "train.py"
COMMANDS = {
    "train": "train one configuration, or a sweep with -m",
    "plan": "what a sweep consists of, what is done and how long the rest takes here",
    "runs": "list and compare runs; verify, archive, remove; the command that trains one",
    "report": "put runs beside the published study: tables, intervals, verdicts, figures",
    "evaluate": "measure a trained network: both views of validation, the test set when asked",
    "benchmark": "time the training loop against the usual recipe on this machine",
}
PAGE = """\
ResNet-18 on CIFAR-10: a controlled hyperparameter study, and what to ask the next question with.

usage: python -m resnet_cifar COMMAND ...

{commands}

python -m resnet_cifar COMMAND --help says more. `train` is python train.py, `plan` is
python train.py --plan, and the others are modules: python -m resnet_cifar.runs, and so on.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names; the process's exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    name, *rest = given or ["--help"]
    if name == "train":
        return train(rest)
    if name == "plan":
        return train(["--plan", *rest])
    if name in COMMANDS:
        module = import_module(f"resnet_cifar.{name}")
        if hasattr(module, "__path__"):
            module = import_module(f"resnet_cifar.{name}.__main__")
        return int(module.main(rest))
    parser = cli.Parser(prog="python -m resnet_cifar", add_help=False)
    return cli.command(parser, lambda _: page(name), ["--version"] if name == "--version" else [])


def page(name: str) -> None:
    """The list of commands; ConfigError where `name` asks for something else."""
    if name not in ("-h", "--help"):
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        raise ConfigError(f"{name} is no command: {hint}")
    commands = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
    print(PAGE.format(commands=commands), end="")


def train(arguments: list[str]) -> int:
    """What `python train.py` does with `arguments`."""
    import runpy

    sys.argv[:] = [str(TRAIN), *arguments]
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
