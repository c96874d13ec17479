"""The command `python -m benchmarks`, to be run in a checkout.

Times the engine against the plain recipe (plain.py) and other libraries' (peers.py): the same
network on the same data in one run, taking turns; what each of the engine's options is worth; where
an epoch's time goes; and a sweep of small runs as a whole. Prints Markdown and saves JSON.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from benchmarks.markdown import markdown
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.errors import require
from resnet_cifar.files import write_json

SYNTHETIC = ("data.train_size=4000", "data.val_size=1000")  # CIFAR-10's proportion
KEYS = {  # options of the command line that set a key of the configuration
    "width": "model.width",
    "batch-size": "trainer.batch_size",
    "device": "trainer.device",
    "threads": "trainer.threads",
    "precision": "trainer.precision",
    "compile": "trainer.compile",
    "data-root": "data.root",
}
# Named here and not taken from measure.py and peers.py, which import torch: --help is quick.
SWITCHES = ("precision", "layout", "compile", "cuda_graphs", "data", "fused")
PEERS = ("timm", "lightning")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; the process's exit code."""
    parser = Parser(
        prog="python -m benchmarks",
        description="The engine against the plain recipe, what each option is worth, and where "
        "an epoch's time goes. Prints Markdown, saves JSON. Needs a checkout.",
    )
    parser.add_argument("--data", choices=("cifar10", "synthetic"), default="cifar10")
    for name, key in KEYS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{key}, as in conf/")
    parser.add_argument(
        "--workers",
        nargs="+",
        type=int,
        default=[2, 4],
        help="numbers of DataLoader workers; the plain recipe is measured with each (2 4)",
    )
    parser.add_argument(
        "--options",
        nargs="*",
        choices=SWITCHES,
        default=list(SWITCHES),
        help="options of the engine to switch, one at a time (all); none: --options",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        help="recipes of other libraries, with the most workers; the output names those that are "
        "not installed (all); none: --peers",
    )
    parser.add_argument(
        "--small-runs",
        type=int,
        default=0,
        help="also time a sweep of so many small runs, by every recipe (0: none)",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement (10)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark.json"))
    return run_command(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> None:
    require(0 < options.seconds < math.inf, "--seconds", options.seconds, "above 0, finite")
    require(options.rounds >= 1, "--rounds", options.rounds, "1 or more")
    require(min(options.workers) >= 1, "--workers", min(options.workers), "1 or more")
    require(options.small_runs >= 0, "--small-runs", options.small_runs, "0 or more")
    from benchmarks.measure import measure

    results = {"command": command_line(options), **measure(overrides(options), options)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, results)
    print(markdown(results))


def overrides(options: argparse.Namespace) -> tuple[str, ...]:
    """The configuration to measure, as overrides of the command `train`."""
    values = {key: getattr(options, name.replace("-", "_")) for name, key in KEYS.items()}
    return (
        f"data={options.data}",
        *(SYNTHETIC if options.data == "synthetic" else ()),
        *(f"{key}={value}" for key, value in values.items() if value is not None),
        "trainer.progress=quiet",
    )


def command_line(options: argparse.Namespace) -> str:
    """The command that measures the same again; `--out` is left out."""
    words = ["python -m benchmarks"]
    for name, value in vars(options).items():
        values = value if isinstance(value, list) else [value]
        if name != "out" and value is not None:
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
