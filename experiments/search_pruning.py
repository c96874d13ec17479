r"""What pruning saves a search, and what it costs: the same searches with and without.

    python experiments/search_pruning.py --seeds 4 --to pruning hydra.sweeper.n_trials=12
    python experiments/search_pruning.py --seeds 200 --replay experiments/results/runs \
        --cells '*_cosine_*_15ep_w16-*'

For each seed of the search two searches of `experiment=search`, alike but for the pruner, each with
runs of its own. Prints the epochs trained and the best run found. What comes after the options goes
to both. The same command goes on; finished searches are only read.

With --replay nothing is trained: recorded runs are taken in a random order, one at a time, and the
pruner sees their epochs as it would have, had they been a search over a grid.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from hydra_plugins.search import _study
from resnet_cifar.config.compose import CONF
from resnet_cifar.record.integrity import read_run_lines
from resnet_cifar.record.layout import METRICS
from resnet_cifar.record.schema import OBJECTIVE, finished, objective, read_record

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
    records = [read_record(path.parent) for path in root.glob("*/seed=*/run.json")]
    known = [record for record in records if record]
    best = max(objective(record) for record in known if record.finished)
    pruned = sum(not record.finished for record in known)
    return Found(sum(record.epochs_done for record in known), best, pruned)


def replayed(curves: dict[str, list[float]], pruner: str, seed: int) -> Found:
    """The search over a grid of recorded runs.

    Args:
        curves: by cell, the accuracy on validation after each epoch.
    """
    space = {"cell": CategoricalDistribution(list(curves))}
    files = (
        CONF / "hydra/sweeper" / name for name in ("sampler/grid.yaml", f"pruner/{pruner}.yaml")
    )
    sampler, stops = (DictConfig(OmegaConf.load(file)) for file in files)
    with _study.opened(None) as storage:
        study = _study.SearchStudy(
            storage, space, _study.Options("maximize", seed, sampler, stops), ""
        )
        epochs, best, pruned = 0, 0.0, 0
        for _ in curves:
            trial = study.ask()
            curve = curves[trial.point["cell"]]
            if study.report(trial.number, list(enumerate(curve[:-1], 1))):
                study.tell(trial.number, None, TrialState.PRUNED)
                epochs += max(study.trials[trial.number].intermediate_values)
                pruned += 1
            else:
                study.tell(trial.number, curve[-1])
                epochs, best = epochs + len(curve), max(best, curve[-1])
    return Found(epochs, best, pruned)


def recorded(root: Path, cells: str) -> dict[str, list[float]]:
    """The curves of the completed runs of seed 0 whose cell is like `cells`."""
    found = {}
    for path in sorted(root.glob(f"{cells}/seed=0")):
        if finished(path):
            lines = read_run_lines(path, METRICS)
            found[path.parent.name] = [line[OBJECTIVE] or 0.0 for line in lines]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="A search with pruning beside the same without.")
    parser.add_argument("--seeds", type=int, default=4, help="how many seeds of the search")
    parser.add_argument("--pruner", default="median", help="an option of hydra/sweeper/pruner")
    parser.add_argument("--to", type=Path, default=Path("pruning"), help="where the runs go")
    parser.add_argument("--replay", type=Path, help="recorded runs, in place of training")
    parser.add_argument("--cells", default="*", help="which of them: a pattern of names")
    options, more = parser.parse_known_args()
    rows = []
    curves = recorded(options.replay, options.cells) if options.replay else {}
    if options.replay:
        print(f"{len(curves)} recorded runs of {max(map(len, curves.values()))} epochs")
    print(f"seed   without: epochs, best %   {options.pruner}: epochs, best %, runs pruned")
    for seed in range(options.seeds):
        pair = [
            replayed(curves, name, seed)
            if options.replay
            else search(options.to / name / f"search={seed}", name, seed, more)
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
    missed = sum(value < 0 for value in lost)
    spread = f", sd {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
    print(f"{100 * share:.0f} % of the epochs; best {statistics.fmean(lost):+.2f} points{spread}")
    print(f"n = {len(rows)} seeds of the search, worse with pruning in {missed}")


if __name__ == "__main__":
    main()
