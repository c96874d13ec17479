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
from resnet_cifar.runs import housekeeping, listing
from resnet_cifar.runs.diff import print_differences
from resnet_cifar.runs.find import LAST, STATUSES, Run, find_runs
from resnet_cifar.text import print_csv, print_json

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
    for condition in options.where or ():
        name, equals, values = condition.partition("=")
        if not equals or not name:
            raise UserError(f"--where {condition}: not of the form key=value")
        key = listing.match_key(name, runs)
        chosen = [run for run in chosen if listing.meets(run.row, key, values)]
    return chosen


def _list(options: argparse.Namespace) -> None:
    runs = select(find_runs(options.root), options)
    if options.sort:
        runs = listing.sort_runs(runs, listing.match_key(options.sort, runs), options.reverse)
    names = [name.strip() for name in (options.columns or "").split(",") if name.strip()]
    if options.columns and not names:
        raise UserError(f"--columns {options.columns!r}: give keys, with a comma between them")
    keys = list(dict.fromkeys(listing.match_key(name, runs) for name in names))
    if options.json:
        print_json([{key: run.row.get(key) for key in keys or run.row} for run in runs])
    elif options.csv:
        every = dict.fromkeys(key for run in runs for key in run.row)  # rows differ
        print_csv(keys or sorted(every, key=LAST.__contains__), [run.row for run in runs])
    else:
        listing.print_runs(runs, [listing.make_column(key, key, runs) for key in keys])


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
    listing.print_runs(chosen)
    size = listing.format_size(sum(run.bytes for run in chosen))
    question = f"{options.action} these {len(chosen)} runs, {size}?"
    if not options.yes and not sys.stdin.isatty():
        raise UserError(f"{question} Not asked without a terminal: add --yes to go on")
    if not options.yes and input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing done")
        return
    failed = False
    for run in chosen:
        try:
            if options.action == "remove":
                housekeeping.remove(run.path, options.root)
                print(f"removed {run.path}")
            else:
                print(f"{run.path} is now {housekeeping.archive(run.path, options.root)}")
        except LockHeld as busy:
            print(f"{run.path}: {busy.holder} is at it, left alone")
        except (UserError, OSError) as error:  # the others are not to suffer
            failed = True
            print(f"error: {describe(error)}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def _clean(options: argparse.Namespace) -> None:
    find_runs(options.root)  # refuses what is no directory
    left = housekeeping.leftovers(options.root)
    for path in left:
        print(path)
    if not left:
        print("nothing was left behind")
    elif not options.yes:
        print("left by processes that were killed; --yes deletes them")
    else:
        for path in left:
            with contextlib.suppress(LockHeld):
                housekeeping.clean(path)
        print(f"deleted {len(left)}")


def _verify(options: argparse.Namespace) -> None:
    """Look at every file of every run; exit with 1 where one is not as its run left it."""
    damaged = 0
    runs = find_runs(options.root)
    for run in runs:
        problems = [run.problem] if run.record is None else damage(run.path, run.record)
        damaged += bool(problems)
        for line in problems:
            print(line)
    print(f"{len(runs)} runs, {damaged} of them damaged")
    if damaged:
        raise SystemExit(1)


def _print_command(options: argparse.Namespace) -> None:
    from resnet_cifar.config.saved import load, reproduce_command

    print(reproduce_command(load(options.run / CONFIG)))


# Each action: what it is for, and the function that does it.
ACTIONS = {
    "list": ("what there is (the default)", _list),
    "verify": ("look whether every file is as its run left it", _verify),
    "archive": (
        "move runs to <outputs>.archive/, where nothing looks; moving back restores",
        _archive_or_remove,
    ),
    "remove": ("delete runs, after asking", _archive_or_remove),
    "clean": ("what killed processes left behind; --yes deletes it", _clean),
    "diff": (
        "in what two runs, or two cells, differ: configuration and outcome",
        lambda options: print_differences(options.first, options.second),
    ),
    "command": ("the command that trains the configuration of a run again", _print_command),
}


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of days: 0 or more")
    return days


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in (*ACTIONS, "-h", "--help", "--version"):
        arguments = ["list", *arguments]
    parser = Parser(
        prog=paths.command_name("runs"),
        description="List, check and tidy up runs, or print the command that trains one.",
    )
    actions = parser.add_subparsers(dest="action", metavar=" | ".join(ACTIONS))
    parsers = {}
    for action, (text, work) in ACTIONS.items():
        parsers[action] = sub = actions.add_parser(action, help=text, description=text)
        sub.set_defaults(work=work)
        if action not in ("diff", "command"):
            sub.add_argument("root", nargs="?", type=Path, default=Path("outputs"))
        if action in ("list", "archive", "remove"):
            sub.add_argument("--status", action="append", choices=STATUSES)
            sub.add_argument("--cell", action="append", help="how its name begins; * and ? match")
            sub.add_argument("--seed", action="append")
            sub.add_argument("--older-than", type=_days, metavar="DAYS")
            text = "any key of a run: optimizer.lr=0.1, scheduler=cosine,step, 'device=*H100*'"
            sub.add_argument("--where", action="append", metavar="KEY=VALUE", help=text)
        if action in ("archive", "remove"):
            sub.add_argument("--all", action="store_true", help="every run below the directory")
        if action in ("archive", "remove", "clean"):
            sub.add_argument("--yes", action="store_true", help="don't ask")
    sub = parsers["list"]
    sub.add_argument("--sort", metavar="KEY", help="by any key, such as accuracy/val")
    sub.add_argument("--reverse", action="store_true", help="the largest first")
    sub.add_argument("--columns", metavar="KEY,KEY", help="these, instead of the usual")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every key, for programs")
    form.add_argument("--csv", action="store_true", help="every key, for spreadsheets")
    text = "a run, <cell>/seed=<n>, or a cell, <cell>"
    parsers["diff"].add_argument("first", type=Path, help=text)
    parsers["diff"].add_argument("second", type=Path)
    text = "a run directory, <cell>/seed=<n>"
    parsers["command"].add_argument("run", type=Path, help=text)
    return run_command(parser, lambda options: options.work(options), arguments)
