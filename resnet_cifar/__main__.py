"""List the commands, or run one: `resnet-cifar COMMAND …`, `python -m resnet_cifar COMMAND …`."""

import difflib
import sys
from importlib import import_module
from pathlib import Path

from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.errors import ConfigError

COMMANDS = {
    "train": "train one configuration, or a sweep with -m",
    "plan": "what a sweep consists of, what is done and how long the rest takes here",
    "runs": "list and compare runs; verify, archive, remove; the command that trains one",
    "report": "put runs beside the published study: tables, intervals, verdicts, figures",
    "evaluate": "measure a trained network: both views of validation, the test set when asked",
    "predict": "classify your own PNG and JPEG files with one run, or several",
    "export": "write a trained network as safetensors, ONNX or torch.export's .pt2",
}
# The modules of those that are not in trained/ under their own name.
MODULES = {"train": "cli.train", "runs": "runs.command", "report": "report.__main__"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names; the process's exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    name, *rest = given or ["--help"]
    other, ours = Path("resnet_cifar", "__main__.py"), Path(__file__)
    if other.is_file() and not other.samefile(ours):  # the script runs the clone that is installed
        what = f"this is the program of {ours.parents[1]}; python -m resnet_cifar runs that of"
        print(f"note: {what} {other.absolute().parents[1]}", file=sys.stderr)
    if name == "plan":
        name, rest = "train", ["--plan", *rest]
    if name in COMMANDS:
        module = import_module(f"resnet_cifar.{MODULES.get(name, f'trained.{name}')}")
        return int(module.main(rest))

    def list_commands(_: object) -> None:
        if name not in ("-h", "--help"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
            raise ConfigError(f"{name} is not a command: {hint}")
        commands = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
        page = ours.parent / "cli" / "commands.txt"
        print(page.read_text(encoding="utf-8").format(commands=commands), end="")

    rest = ["--version"] if name == "--version" else []
    return run_command(Parser(prog="resnet-cifar", add_help=False), list_commands, rest)


if __name__ == "__main__":
    sys.exit(main())
