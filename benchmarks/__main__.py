"""The command `python -m benchmarks`, to be run in a checkout.

Times the engine against the plain recipe (plain.py) and other libraries' (peers.py): the same
network on the same data in one run, taking turns; and where an epoch's time goes. Prints Markdown
and saves JSON.
"""

from __future__ import annotations

import argparse
import math
import shlex
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
PEERS = ("timm", "lightning")  # not taken from peers.py, which imports torch: --help is quick


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; the process's exit code."""
    parser = Parser(
        prog="python -m benchmarks",
        description="The engine against the plain recipe, and where an epoch's time goes. Prints "
        "Markdown, saves JSON. Needs a checkout.",
    )
    add = parser.add_argument
    add("--data", choices=("cifar10", "synthetic"), default="cifar10")
    for name, key in KEYS.items():
        add(f"--{name}", metavar="VALUE", help=f"{key}, as in conf/")
    workers = "numbers of DataLoader workers; the plain recipe is measured with each (2 4)"
    add("--workers", nargs="+", type=int, default=[2, 4], help=workers)
    peers = (
        "recipes of other libraries, with the most workers, where installed (all); none: --peers"
    )
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS), help=peers)
    add("--seconds", type=float, default=10.0, help="per measurement (10)")
    add("--rounds", type=int, default=5, help="measurements of each (5)")
    add("--out", type=Path, default=Path("outputs/benchmark.json"))
    words = sys.argv[1:] if arguments is None else arguments
    parser.set_defaults(command=shlex.join(["python", "-m", "benchmarks", *words]))
    return run_command(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> None:
    require(0 < options.seconds < math.inf, "--seconds", options.seconds, "above 0, finite")
    require(options.rounds >= 1, "--rounds", options.rounds, "1 or more")
    require(min(options.workers) >= 1, "--workers", min(options.workers), "1 or more")
    from benchmarks.measure import measure

    results = {"command": options.command, **measure(overrides(options), options)}
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


if __name__ == "__main__":
    sys.exit(main())
