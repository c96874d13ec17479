"""The answer after a sweep: cells ranked, the best in words, the commands to look further."""

import dataclasses
import functools
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

from resnet_cifar import text
from resnet_cifar.config.keys import execution_keys
from resnet_cifar.config.schema import Config, groups
from resnet_cifar.identity import cell_name, items, number, run_directory, varying_keys
from resnet_cifar.paths import checkout, command_name
from resnet_cifar.record.schema import objective
from resnet_cifar.runs.find import Run


def varying(configs: Sequence[Config], but: Sequence[str] = ()) -> list[list[str]]:
    """The values in which configurations differ, for each of them: ["lr=0.1", "cosine", "seed=0"].

    The keys in `but` are left out.
    """
    flat = [dict(items(config, everything=True)) for config in configs]
    apart = execution_keys() | {*but}
    names = varying_keys([{k: v for k, v in f.items() if k not in apart} for f in flat])
    begins = {key: "" if key in groups() else f"{name}=" for key, name in names.items()}
    return [[begins[key] + number(f[key]) for key in begins if key in f] for f in flat]


SHOWN = 10  # cells of the ranking; `runs` lists all


@dataclasses.dataclass
class RankedCell:
    """A cell of a sweep and its runs."""

    label: str
    config: dict[str, Any]
    runs: list[Run]

    @functools.cached_property
    def values(self) -> list[float]:
        """The last epoch's accuracies on validation, per cent."""
        records = [run.record for run in self.runs if run.record]
        return [100 * objective(record) for record in records if record.status == "completed"]

    @property
    def diverged(self) -> int:
        """The number of seeds that have."""
        return sum(run.status == "diverged" for run in self.runs)

    @functools.cached_property
    def setting(self) -> list[object]:
        """Whatever cells must have in common to share a variance, their runs' precision too."""
        from resnet_cifar.runs.statistics import is_of_setting

        precisions = {s.precision for run in self.runs if run.record for s in run.record.sessions}
        return [precisions, *(item for item in self.config.items() if is_of_setting(item[0]))]

    @property
    def mean(self) -> float:
        return fmean(self.values or [-1.0])

    @property
    def result(self) -> str:
        """The mean with the half width of its 95 % t-interval, or up to two values."""
        if len(self.values) < 3:  # and without the second that scipy takes
            return ", ".join(f"{value:.2f}" for value in self.values) or "diverged"
        from resnet_cifar.runs.statistics import estimate, plus_minus

        return plus_minus(self.mean, estimate(self.values).half_width)


def ranked_cells(configs: Sequence[Config]) -> list[RankedCell]:
    """The cells of a sweep that have results, best first; one with a diverged seed after others."""
    by_cell: dict[str, list[Config]] = {}
    for config in configs:
        by_cell.setdefault(f"{config.output_root}/{cell_name(config)}", []).append(config)
    labels = varying([cell[0] for cell in by_cell.values()], but=("seed",))
    ranked = []
    for label, same in zip(labels, by_cell.values(), strict=True):
        runs = [Run(run_directory(config)) for config in same]
        cell = RankedCell(" ".join(label) or "this cell", dict(items(same[0])), runs)
        if cell.values or cell.diverged:
            ranked.append(cell)
    return sorted(ranked, key=lambda cell: (cell.diverged > 0, -cell.mean))


def verdict(ranked: Sequence[RankedCell]) -> str:
    """Say in words how far the first cell is ahead of the next, and if the seeds can tell.

    As the report does: two-sample, with the variance that the cells of a setting share; it was
    picked among all of them. Only one that is ahead by more than chance is called the best.
    """
    best, other = ranked[:2]
    reached = best.result if len(best.values) > 2 else f"{best.mean:.2f}"
    name = f"{best.label}, {reached} %"
    if not other.values:
        return f"Best: {name}; {other.label} diverged."
    alike = [c for c in ranked if round(best.mean - c.mean, 2) == 0 and c.diverged == best.diverged]
    if other in alike:
        tied = " and ".join(cell.label for cell in alike)
        return f"No best: {tied} have the same mean, {best.mean:.2f} %."
    if min(len(best.values), len(other.values)) == 1:
        ahead = f"{best.mean - other.mean:.2f} points ahead of {other.label}"
        return f"Highest: {name}; {ahead}; one run can't tell if by chance (try seed=0,1,2)."
    from resnet_cifar.runs import statistics

    alike = [each for each in ranked if not each.diverged and not statistics.collapses(each.config)]
    pools = []
    for cell in (best, other):
        # Averaging changes no update: cells that differ in it alone are one.
        like = {
            repr([x for x in each.config.items() if "ema_decay" not in x[0]]): each.values
            for each in sorted(alike, key=lambda cell: len(cell.values))  # the fullest stays
            if each.setting == cell.setting
        }
        pools.append(statistics.pool(like.values() if cell in alike else []))
    lead = statistics.compare([(1, best.values, pools[0]), (-1, other.values, pools[1])])
    ahead = f"{statistics.plus_minus(lead.mean, lead.half_width)} points ahead of {other.label}"
    ahead = f"{name}; {ahead}"
    ran = sum(bool(cell.values) for cell in ranked)
    if other.diverged or best.diverged:
        return f"Highest: {ahead}: undecided, as seeds diverged."
    if lead.p_of_best(ran) < 1 - statistics.CONFIDENCE:
        return f"Best: {ahead}: more than chance between seeds, as the best of {ran} (Tukey)."
    needed = statistics.seeds_needed(lead.mean, pools[0]) if lead.n > 2 else None
    low, high = needed or (0, 0)
    more = f"; {low} to {high} seeds would tell, if it is that large" if high > lead.n else ""
    return f"Highest: {ahead}: undecided, as the highest of {ran} (Tukey){more}."


def _from_here(command: str) -> str:
    """The command as it works in this shell, also where this Python's environment is not active."""
    program, _, arguments = command.partition(" ")
    own, found = Path(sys.executable).with_name(program), shutil.which(program)
    active = found and (checkout() is None or Path(found).absolute().parent == own.parent)
    if active or not own.exists():
        return command
    near = os.path.relpath(own)
    return f"{shlex.quote(str(own) if near.startswith('..') else near)} {arguments}"


def print_answer(configs: Sequence[Config]) -> None:
    """Print the sweep's runs ranked, the best in words, and the commands to look further."""
    ranked = ranked_cells(configs)
    if not ranked:
        return
    console = text.wide_console()
    labels = [cell.label for cell in ranked[:SHOWN]]
    labels = text.cut_middles(labels, max(text.WORD_WIDTH, console.width - 40))
    seeds = len({config.seed for config in configs}) > 1
    console.print()
    console.print("accuracy on validation, last epoch, %" + ", mean ± 95 % t-interval" * seeds)
    for place, (cell, label) in enumerate(zip(ranked, labels, strict=False), 1):
        line = f"{place:>3}  {label:<{max(map(len, labels))}}  {cell.result}"
        if seeds and cell.values:
            line += f"  n = {len(cell.values)}"
        if cell.diverged and cell.values:
            line += f", {cell.diverged} diverged"
        console.print(text.visible(line))
    if len(ranked) > SHOWN:
        console.print(f"     and {len(ranked) - SHOWN} more")
    best = ranked[0]
    if len(ranked) > 1 and best.values:
        console.print(fill(text.printable(verdict(ranked)), min(console.width, 100)))
    root = configs[0].output_root
    console.print("\nLook further")
    look = [(command_name("runs"), root), (command_name("report"), root)]
    trained = [str(run.path) for run in best.runs if run.status == "completed"]
    look += [(command_name("evaluate"), path) for path in trained[:1]]
    for command, directory in (*look, ("tensorboard --logdir", root)):
        console.print(f"  {_from_here(command)} {text.visible(shlex.quote(directory))}")
    console.print(f"    {text.CURVES}  (untick Ignore outliers)")
    logger, records = configs[0].logger, [run.record for cell in ranked for run in cell.runs]
    if lacking := sum(bool(r and r.finished and logger.lacks(r)) for r in records):
        missed = f"logger={logger.NAME} lacks {text.plural(lacking, 'run')}: the same command"
        console.print(f"{missed} hands them in; after a search, each run's own (runs command)")
