"""Look after runs: `python -m resnet_cifar runs outputs` lists them; verify, archive, remove, …."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import LockHeld
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.layout import CONFIG
from resnet_cifar.runs import listing
from resnet_cifar.runs.diff import print_differences
from resnet_cifar.runs.find import STATUSES, Run, find_runs
from resnet_cifar.runs.housekeeping import archive, clean, leftovers, remove
from resnet_cifar.runs.row import listed_row
from resnet_cifar.text import print_csv, print_json, printable

DAY = 86400.0  # seconds


def select(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """The runs that meet every condition given. Raises UserError for a key that no run has."""
    chosen = [
        run
        for run in runs
        if (not options.status or run.status in options.status)
        and (not options.cell or any(fnmatch.fnmatch(run.cell, f"{c}*") for c in options.cell))
        and (not options.seed or run.seed in options.seed)
        and (options.older_than is None or run.age > options.older_than * DAY)
    ]
    if options.where:
        rows = listing.filter_rows([listed_row(run) for run in runs], options.where)
        met = {row["directory"] for row in rows}
        chosen = [run for run in chosen if str(run.path) in met]
    if getattr(options, "sort", None):
        by_path = {str(run.path): run for run in chosen}
        rows = [listed_row(run) for run in chosen]
        rows = listing.sort_rows(rows, options.sort, options.reverse)
        chosen = [by_path[row["directory"]] for row in rows]
    return chosen


def print_runs(runs: Sequence[Run], options: argparse.Namespace | None = None) -> None:
    """Print the runs and their sum, in the form that the list's options ask for."""
    rows = [listed_row(run) for run in runs]
    chosen = listing.chosen_columns(rows, options.columns) if options and options.columns else {}
    if options and options.json:
        print_json([{key: row.get(key) for key in chosen or row} for row in rows])
    elif options and options.csv:
        print_csv(list(chosen) or listing.csv_columns(rows), rows)
    else:
        configs = [run.record.config for run in runs if run.record]
        columns = list(chosen.values()) or listing.default_columns(rows, configs)
        listing.print_rows(rows, columns)
        _print_sum(runs)


def _print_sum(runs: Sequence[Run]) -> None:
    """Print how many runs there are, of which status, and what is wrong with any."""
    counts = [(status, sum(run.status == status for run in runs)) for status in STATUSES]
    parts = [f"{count} {status}" for status, count in counts if count]
    total = listing.format_size(sum(run.bytes for run in runs))
    print(f"{len(runs)} runs, {total}" + (f": {', '.join(parts)}" if parts else ""))
    for run in runs:
        if run.record is None:
            print(printable(run.reason))
        elif run.status == "failed" and run.record.error:
            print(printable(f"{run.path} failed: {run.record.error}"))
        for line in run.damaged:
            print(printable(line))


def _confirm(question: str, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Not asked without a terminal: add --yes to go on")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _archive_or_remove(options: argparse.Namespace) -> None:
    conditions = (options.status, options.cell, options.seed, options.older_than, options.where)
    if not options.all and not any(given is not None for given in conditions):
        raise UserError(
            f"{options.action} what? Select runs by --status, --cell, --seed, --older-than or "
            "--where, or take --all"
        )
    chosen = select(find_runs(options.root), options)
    if not chosen:
        print("no run meets that")
        return
    print_runs(chosen)
    size = listing.format_size(sum(run.bytes for run in chosen))
    if not _confirm(f"{options.action} these {len(chosen)} runs, {size}?", options.yes):
        print("nothing done")
        return
    failed = False
    for run in chosen:
        try:
            if options.action == "remove":
                remove(run.path, options.root)
                print(f"removed {run.path}")
            else:
                print(f"{run.path} is now {archive(run.path, options.root)}")
        except LockHeld as busy:
            print(f"{run.path}: {busy.holder} is at it, left alone")
        except (UserError, OSError) as error:  # the others are not to suffer
            failed = True
            print(f"error: {describe(error)}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def _clean(root: Path, yes: bool) -> None:
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    left = leftovers(root)
    for path in left:
        print(path)
    if not left:
        print("nothing was left behind")
    elif not yes:
        print("left by processes that were killed; --yes deletes them")
    else:
        for path in left:
            with contextlib.suppress(LockHeld):
                clean(path)
        print(f"deleted {len(left)}")


def _verify(root: Path) -> None:
    """Look at every file of every run; exit with 1 where one is not as its run left it."""
    damaged = 0
    runs = find_runs(root)
    for run in runs:
        problems = [run.reason] if run.record is None else damage(run.path, run.record)
        damaged += bool(problems)
        for line in problems:
            print(line)
    print(f"{len(runs)} runs, {damaged} of them damaged")
    if damaged:
        raise SystemExit(1)


ACTIONS = {
    "list": "what there is (the default)",
    "verify": "look whether every file is as its run left it",
    "archive": "move runs to <outputs>.archive/, where nothing looks; moving back restores",
    "remove": "delete runs, after asking",
    "clean": "what killed processes left behind; --yes deletes it",
}


OTHERS = ("diff", "command")


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of days: 0 or more")
    return days


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in (*ACTIONS, *OTHERS, "-h", "--help", "--version"):
        arguments = ["list", *arguments]
    parser = Parser(
        prog=paths.command_name("runs"),
        description="List, check and tidy up runs, or print the command that trains one.",
    )
    actions = parser.add_subparsers(dest="action", metavar=" | ".join((*ACTIONS, *OTHERS)))
    for action, text in ACTIONS.items():
        sub = actions.add_parser(action, help=text, description=text)
        sub.add_argument("root", nargs="?", type=Path, default=Path("outputs"))
        if action in ("list", "archive", "remove"):
            sub.add_argument("--status", action="append", choices=STATUSES)
            sub.add_argument("--cell", action="append", help="how its name begins; * and ? match")
            sub.add_argument("--seed", action="append")
            sub.add_argument("--older-than", type=_days, metavar="DAYS")
            text = "any key of a run: optimizer.lr=0.1, scheduler=cosine,step, 'device=*H100*'"
            sub.add_argument("--where", action="append", metavar="KEY=VALUE", help=text)
        if action == "list":
            sub.add_argument("--sort", metavar="KEY", help="by any key, such as accuracy/val")
            sub.add_argument("--reverse", action="store_true", help="the largest first")
            sub.add_argument("--columns", metavar="KEY,KEY", help="these, instead of the usual")
            form = sub.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", help="every key, for programs")
            form.add_argument("--csv", action="store_true", help="every key, for spreadsheets")
        if action in ("archive", "remove"):
            sub.add_argument("--all", action="store_true", help="every run below the directory")
        if action in ("archive", "remove", "clean"):
            sub.add_argument("--yes", action="store_true", help="don't ask")
    text = "in what two runs, or two cells, differ: configuration and outcome"
    sub = actions.add_parser("diff", help=text, description=text)
    sub.add_argument("first", type=Path, help="a run, <cell>/seed=<n>, or a cell, <cell>")
    sub.add_argument("second", type=Path)
    text = "the command that trains the configuration of a run again"
    sub = actions.add_parser("command", help=text, description=text)
    sub.add_argument("run", type=Path, help="a run directory, <cell>/seed=<n>")
    return run_command(parser, _run_action, arguments)


def _run_action(options: argparse.Namespace) -> None:
    if options.action == "command":
        from resnet_cifar.config.saved import load, reproduce_command

        print(reproduce_command(load(options.run / CONFIG)))
    elif options.action == "list":
        print_runs(select(find_runs(options.root), options), options)
    elif options.action == "diff":
        print_differences(options.first, options.second)
    elif options.action == "verify":
        _verify(options.root)
    elif options.action == "clean":
        _clean(options.root, options.yes)
    else:
        _archive_or_remove(options)
