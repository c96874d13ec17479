"""Look after runs: `python -m resnet_cifar.runs outputs` lists them; verify, archive, remove, …."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from resnet_cifar import cli
from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import Busy
from resnet_cifar.record import run_files, upkeep
from resnet_cifar.record.run_files import RunRecord

DAY = 86400.0  # seconds
STATUSES = ("completed", "diverged", "running", "interrupted", "failed", "unreadable")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path
    status: str
    record: RunRecord | None
    reason: str  # why there is no record
    damaged: list[str]  # files that are not as the run left them, as far as their sizes tell
    bytes: int
    age: float  # seconds since the record was last brought up to date

    @property
    def cell(self) -> str:
        return self.path.parent.name

    @property
    def seed(self) -> str:
        """`0`, or `0.2026-11-24T10-00-00` of a run that was set aside."""
        return self.path.name.removeprefix("seed=")


def find(root: Path) -> list[Run]:
    """Every run below `root`, by cell and seed. Anything else is passed over.

    Where `root` is itself a run directory, that one.

    Raises:
        UserError: there is no such directory.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    if (root / run_files.RUN).is_file():
        return [_read(root)]
    return [_read(path) for path in sorted(root.glob("*/seed=*")) if path.is_dir()]


def _read(path: Path) -> Run:
    found = run_files.record_or_reason(path)
    size = 0
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a run that is writing renames its files
            size += file.lstat().st_size
    if isinstance(found, str):
        return Run(path, "unreadable", None, found, [], size, _age(None, path))
    damaged = run_files.wrong_sizes(path, found)
    return Run(path, found.status, found, "", damaged, size, _age(found.ended, path))


def _age(when: str | None, path: Path) -> float:
    """Seconds since `when`; without a record, since the directory last changed."""
    try:
        then = datetime.fromisoformat(when or "").timestamp()
    except ValueError:
        then = path.stat().st_mtime
    return max(0.0, time.time() - then)


def select(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """The runs that meet every condition given."""
    return [
        run
        for run in runs
        if (not options.status or run.status in options.status)
        and (not options.cell or any(fnmatch.fnmatch(run.cell, f"{c}*") for c in options.cell))
        and (not options.seed or run.seed in options.seed)
        and (options.older_than is None or run.age > options.older_than * DAY)
    ]


def show(runs: Sequence[Run]) -> None:
    """Print a table of runs and what they add up to."""
    from rich.table import Table

    from resnet_cifar.display import duration, wide_console

    console = wide_console()
    table = Table("status", "cell", "seed", "epochs", "val %", "augmented %", "size", "age")
    table.columns[1].overflow = "fold"
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for run in runs:
        final = (run.record and run.record.final) or {}
        epochs = f"{run.record.epochs_done}/{run.record.epochs}" if run.record else ""
        views = [_percent(final.get(key)) for key in ("accuracy/val", "accuracy/val_augmented")]
        status = run.status + (", damaged" if run.damaged else "")
        table.add_row(
            status, run.cell, run.seed, epochs, *views, _size(run.bytes),
            duration(run.age),
        )  # fmt: skip
    console.print(table)
    counts = [(status, sum(run.status == status for run in runs)) for status in STATUSES]
    parts = [f"{count} {status}" for status, count in counts if count]
    total = _size(sum(run.bytes for run in runs))
    console.print(f"{len(runs)} runs, {total}" + (f": {', '.join(parts)}" if parts else ""))
    for run in runs:
        if run.record is None:
            console.print(run.reason, markup=False)
        elif run.status == "failed" and run.record.error:
            console.print(f"{run.path} failed: {run.record.error}", markup=False)
        for line in run.damaged:
            console.print(line, markup=False)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _size(count: float) -> str:
    """Decimal units: 45 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _agreed(question: str, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Not asked without a terminal: add --yes to go on")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _change(options: argparse.Namespace) -> None:
    conditions = (options.status, options.cell, options.seed, options.older_than)
    if not options.all and not any(given is not None for given in conditions):
        raise UserError(
            f"{options.action} what? Select runs by --status, --cell, --seed or --older-than, "
            "or take --all"
        )
    chosen = select(find(options.root), options)
    if not chosen:
        print("no run meets that")
        return
    show(chosen)
    size = _size(sum(run.bytes for run in chosen))
    if not _agreed(f"{options.action} these {len(chosen)} runs, {size}?", options.yes):
        print("nothing done")
        return
    failed = False
    for run in chosen:
        try:
            if options.action == "remove":
                upkeep.remove(run.path, options.root)
                print(f"removed {run.path}")
            else:
                print(f"{run.path} is now {upkeep.archive(run.path, options.root)}")
        except Busy as busy:
            print(f"{run.path}: {busy.holder} is at it, left alone")
        except (UserError, OSError) as error:  # the others are not to suffer
            failed = True
            print(f"error: {describe(error)}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def _clean(root: Path, yes: bool) -> None:
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    found = upkeep.leftovers(root)
    for path in found:
        print(path)
    if not found:
        print("nothing was left behind")
    elif not yes:
        print("left by processes that were killed; --yes deletes them")
    else:
        for path in found:
            with contextlib.suppress(Busy):
                upkeep.clean(path)
        print(f"deleted {len(found)}")


def _verify(root: Path) -> None:
    """Look at every file of every run; 1 where one is not as its run left it."""
    damaged, unknown = 0, 0
    runs = find(root)
    for run in runs:
        if run.record is None:
            found = [run.reason]
        else:
            found = run_files.damage(run.path, run.record)
            unknown += run.record.finished and not run.record.files
        damaged += bool(found)
        for line in found:
            print(line)
    print(f"{len(runs)} runs, {damaged} of them damaged")
    if unknown:
        print(
            f"{unknown} were recorded by an earlier version, without checksums: "
            "only what does not fit together can be seen in them"
        )
    if damaged:
        raise SystemExit(1)


ACTIONS = {
    "list": "what there is (the default)",
    "verify": "look whether every file is as its run left it",
    "archive": "move runs to <outputs>.archive/, where nothing looks; moving back restores",
    "remove": "delete runs, after asking",
    "clean": "what killed processes left behind; --yes deletes it",
}


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of days: 0 or more")
    return days


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in (*ACTIONS, "command", "-h", "--help", "--version"):
        arguments = ["list", *arguments]
    parser = cli.Parser(
        prog="python -m resnet_cifar.runs",
        description="List, check and tidy up runs, or print the command that trains one.",
    )
    actions = parser.add_subparsers(dest="action", metavar=" | ".join((*ACTIONS, "command")))
    for action, text in ACTIONS.items():
        sub = actions.add_parser(action, help=text, description=text)
        sub.add_argument("root", nargs="?", type=Path, default=Path("outputs"))
        if action in ("list", "archive", "remove"):
            sub.add_argument("--status", action="append", choices=STATUSES)
            sub.add_argument("--cell", action="append", help="how its name begins; * and ? match")
            sub.add_argument("--seed", action="append")
            sub.add_argument("--older-than", type=_days, metavar="DAYS")
        if action in ("archive", "remove"):
            sub.add_argument("--all", action="store_true", help="every run below the directory")
        if action in ("archive", "remove", "clean"):
            sub.add_argument("--yes", action="store_true", help="don't ask")
    text = "the command that trains the configuration of a run again"
    sub = actions.add_parser("command", help=text, description=text)
    sub.add_argument("run", type=Path, help="a run directory, <cell>/seed=<n>")
    return cli.command(parser, _do, arguments)


def _do(options: argparse.Namespace) -> None:
    if options.action == "command":
        from resnet_cifar.config import command, load

        print(command(load(options.run / run_files.CONFIG)))
    elif options.action == "list":
        show(select(find(options.root), options))
    elif options.action == "verify":
        _verify(options.root)
    elif options.action == "clean":
        _clean(options.root, options.yes)
    else:
        _change(options)


if __name__ == "__main__":
    sys.exit(main())
