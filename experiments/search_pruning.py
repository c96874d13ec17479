"""What pruning saves a search, and what it costs: the same searches with and without.

    python experiments/search_pruning.py --seeds 4 --to pruning hydra.sweeper.n_trials=12

For each seed of the search two searches of `experiment=search`, alike but for the pruner, each with
runs of its own. Prints the epochs trained and the best run found. What comes after the options goes
to both. The same command goes on; finished searches are only read.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from resnet_cifar.record import run_files

TRAIN = Path(__file__).parents[1] / "train.py"


class Found(NamedTuple):
    """What a search came to."""

    epochs: int  # trained, those of pruned runs included
    best: float  # accuracy on validation after the last epoch, of runs trained to it
    pruned: int


def search(root: Path, pruner: str, seed: int, more: list[str]) -> Found:
    """Search, or what is left of it, and read its runs."""
    command = [
        *(sys.executable, str(TRAIN), "experiment=search", f"hydra/sweeper/pruner={pruner}"),
        *(f"hydra.sweeper.seed={seed}", f"output_root={root}", *more),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    records = [run_files.read_record(path.parent) for path in root.glob("*/seed=*/run.json")]
    known = [record for record in records if record]
    best = max(run_files.objective(record) for record in known if record.finished)
    pruned = sum(not record.finished for record in known)
    return Found(sum(record.epochs_done for record in known), best, pruned)


def main() -> None:
    parser = argparse.ArgumentParser(description="A search with pruning beside the same without.")
    parser.add_argument("--seeds", type=int, default=4, help="how many seeds of the search")
    parser.add_argument("--pruner", default="median", help="an option of hydra/sweeper/pruner")
    parser.add_argument("--to", type=Path, default=Path("pruning"), help="where the runs go")
    options, more = parser.parse_known_args()
    rows = []
    print(f"seed   without: epochs, best %   {options.pruner}: epochs, best %, runs pruned")
    for seed in range(options.seeds):
        pair = [
            search(options.to / name / f"search={seed}", name, seed, more)
            for name in ("none", options.pruner)
        ]
        rows.append(pair)
        plain, pruned = pair
        print(
            f"{seed:>4}   {plain.epochs:>8} {100 * plain.best:>12.2f}   "
            f"{pruned.epochs:>8} {100 * pruned.best:>12.2f} {pruned.pruned:>8}",
            flush=True,
        )
    share = statistics.fmean(pruned.epochs / plain.epochs for plain, pruned in rows)
    lost = [100 * (pruned.best - plain.best) for plain, pruned in rows]
    spread = f", sd {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
    print(f"{100 * share:.0f} % of the epochs; best {statistics.fmean(lost):+.2f} points{spread}")
    print(f"n = {len(rows)} seeds of the search")


if __name__ == "__main__":
    main()
