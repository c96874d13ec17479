"""The study in the minutes there are: cells in the order of what they teach, for a borrowed GPU.

    python experiments/run_study.py --minutes 25 --to carried
    python experiments/run_study.py --minutes 3 -- data=synthetic model.width=4 trainer.epochs=2

Benchmarks briefly, then trains what is missing: every cell once, then more seeds, then the lr × wd
grid, each as a sweep whose launcher starts only what can end in time (`hydra.launcher.minutes`), so
the next call finds whole runs and goes on. Once every cell is there the test set is read for the
baseline and for the cell that validation selects, once each. What is carried away are the run
directories without weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from resnet_cifar.config.compose import compose  # noqa: E402
from resnet_cifar.errors import UserError  # noqa: E402
from resnet_cifar.identity import run_directory  # noqa: E402
from resnet_cifar.record.schema import finished, objective  # noqa: E402

SHORT = "lr_0.01,lr_0.1,lr_0.001"
LONG = "cosine_wd_1e-2,cosine_wd_5e-4,baseline,cosine,detached_bn"
# Sweeps in the order of what they teach; within one, the first key varies slowest.
ORDER = (
    (f"cell={SHORT},{LONG}", "seed=0"),
    (f"cell={SHORT}", "seed=1,2,3,4"),
    ("seed=1,2", f"cell={LONG}"),
    ("experiment=lr_x_wd", "seed=0"),
    ("experiment=lr_x_wd", "seed=1"),
    ("experiment=lr_x_wd", "seed=2"),
)
RESERVE = 60.0  # seconds kept for evaluating and copying
WEIGHTS = "*.pt"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # for `python -m` from any directory


def train(deadline: float, at_once: int, extra: Sequence[str]) -> int:
    """The sweeps one after the other until `deadline`; the first exit code that is not 0, or 0."""
    code = 0
    for sweep in ORDER:
        minutes = (deadline - time.monotonic()) / 60
        if minutes <= 0:
            print(f"left for the next call: {' '.join(sweep)}")
            continue
        print(f"{' '.join(sweep)}: {minutes:.1f} minutes left", flush=True)
        pool = [f"hydra.launcher.minutes={minutes}", f"hydra.launcher.jobs_per_device={at_once}"]
        command = [sys.executable, str(ROOT / "train.py"), "-m", *sweep, *extra, *pool]
        ended = subprocess.run(command, check=False).returncode
        code = code or ended
        if ended >= 128:  # somebody's signal
            break
    return code


def evaluate(extra: Sequence[str]) -> None:
    """The protocol's two looks at the test set, once every cell has its first seed."""
    cells = [*SHORT.split(","), *LONG.split(",")]
    directories = {cell: run_directory(compose([f"cell={cell}", *extra])) for cell in cells}
    records = {cell: finished(path) for cell, path in directories.items()}
    if not all(records.values()):
        print("test set: not read before every cell is there")
        return
    scores = {cell: objective(record) for cell, record in records.items() if record}
    selected = max(scores, key=lambda cell: scores[cell])
    for cell in dict.fromkeys((selected, "baseline")):
        record, path = records[cell], directories[cell]
        if record and any(e.split == "test" for e in record.evaluations):
            continue  # once
        if not (path / "last.pt").exists():
            print(f"test set: {cell} was selected but its weights are gone; train it again")
            continue
        command = [sys.executable, "-m", "resnet_cifar", "evaluate", str(path), "--test"]
        subprocess.run(command, env=ENVIRONMENT, check=True)


def carry(root: Path, to: Path) -> None:
    """Copy every recorded run to `to`, without weights."""
    ignore = shutil.ignore_patterns(WEIGHTS, ".lock", ".*.tmp")
    for directory in sorted(root.glob("*/seed=*")):
        if finished(directory):
            target = to / directory.relative_to(root)
            shutil.copytree(directory, target, ignore=ignore, dirs_exist_ok=True)


def benchmark(to: Path, minutes: float, overrides: Sequence[str]) -> None:
    """A short benchmark into `to`/benchmark.json; its failure doesn't cost the runs."""
    to.mkdir(parents=True, exist_ok=True)
    width = next((o.split("=")[1] for o in overrides if o.startswith("model.width=")), "64")
    command = [sys.executable, "-m", "benchmarks", "--width", width]
    command += ["--out", str(to / "benchmark.json")]
    try:
        subprocess.run(command, env=ENVIRONMENT, timeout=60 * minutes / 5, check=True)
    except subprocess.SubprocessError as error:
        print(f"no benchmark: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what fits; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="all there are")
    parser.add_argument("--to", type=Path, help="copy run directories without weights here")
    parser.add_argument("--at-once", type=int, default=1, help="runs that share a device (1)")
    parser.add_argument("--no-benchmark", action="store_true")
    parser.add_argument("overrides", nargs="*", help="after --: for every run")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes - RESERVE
    try:
        root = Path(compose(options.overrides).output_root)
        if options.to and not options.no_benchmark:
            benchmark(options.to, options.minutes, options.overrides)
        code = train(deadline, options.at_once, options.overrides)
        evaluate(options.overrides)
        if options.to:
            carry(root, options.to)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("python -m resnet_cifar report puts all together")
    return code


if __name__ == "__main__":
    sys.exit(main())
