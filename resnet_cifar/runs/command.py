"""List, check and tidy up runs, or print the command that trains one."""

import argparse
import contextlib
import difflib
import fnmatch
import math
import os
import re
import sys
from collections.abc import Sequence
from os.path import normpath
from pathlib import Path

from rich.filesize import decimal

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, complain, fail_for, not_empty, run_command
from resnet_cifar.errors import ConfigError, UserError, shorten
from resnet_cifar.files import LockHeld
from resnet_cifar.identity import number
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.layout import CONFIG
from resnet_cifar.record.schema import read_record
from resnet_cifar.runs import housekeeping, listing
from resnet_cifar.runs.diff import print_differences
from resnet_cifar.runs.find import LAST, STATUSES, Run, count_runs, find_runs
from resnet_cifar.text import plural, print_csv, print_json, printable, visible


def select(options: argparse.Namespace) -> list[Run]:
    """The runs that meet every condition given, and whatever can't be looked at: it may hold some.

    A condition that no run meets is said. Raises UserError for a key that no run has.
    """
    there = find_runs(options.root)
    count_runs(there)
    runs = [run for run in there if not run.closed]
    days = -1.0 if options.older_than is None else options.older_than
    chosen = {run for run in runs if run.age > 86400 * days}
    if options.status:
        chosen &= {run for run in runs if run.status in options.status}
    # A cell is also known by its path, and a copy by its own: so they are listed.
    cells = {run: [run.cell, str(run.path.parent), str(run.path)] for run in runs}
    seeds = {run: [run.seed] for run in runs}
    for option, wanted, names in (("--cell", options.cell, cells), ("--seed", options.seed, seeds)):
        if wanted:
            chosen &= {run for text in wanted for run in _match(option, normpath(text), names)}
    for name, relation, values in options.where or ():
        rows = [run.row for run in runs]
        key = listing.match_key(name, rows)
        found = {run for run in runs if listing.meets(run.row, key, relation, values)}
        known = [row[key] for row in listing.sort_rows(rows, key) if row.get(key) is not None]
        condition, texts = f"--where {name}{relation}{values}", list(map(number, known))
        if relation in listing.COMPARISONS and known and not any(map(listing.is_number, known)):
            some = shorten(", ".join(dict.fromkeys(texts)))
            raise UserError(f"{condition}: {key} is no number: {some}")
        if relation in listing.COMPARISONS and "accuracy" in key and float(values) > 1:
            hint = f"{name}{relation}{float(values) / 100:g}"
            raise UserError(f"{condition}: must be a fraction, 0 to 1; {values} % is {hint}")
        if runs and not found:
            _note(condition, values if relation == "=" else condition, texts)
        chosen &= found
    return [*filter(chosen.__contains__, runs), *(run for run in there if run.closed)]


def _match(option: str, wanted: str, names: dict[Run, list[str]]) -> list[Run]:
    """The runs that have this name, or else one that matches it as a pattern."""
    found = [run for run, its in names.items() if wanted in its]
    found = found or [run for run, its in names.items() if fnmatch.filter(its, wanted)]
    if names and not found:
        _note(f"{option} {wanted}", wanted, [its[0] for its in names.values()])
    return found


def _note(condition: str, wanted: str, known: Sequence[str]) -> None:
    """Say that no run meets a condition, and what there is that is like it."""
    there = list(dict.fromkeys(known))
    begin = [name for name in there if name.startswith(wanted)]
    some = shorten(", ".join(begin or difflib.get_close_matches(wanted, there) or there))
    pattern = f"; {wanted}* takes all that begin so" * bool(begin)
    complain(f"{condition}: no run matches; there is {some}{pattern}", "note: ")


def _list(options: argparse.Namespace) -> None:
    runs = select(options)
    rows = [run.row for run in runs]
    by = [listing.match_key(name, rows) for name in options.group or ()]
    rows = listing.group_rows(runs, by) if by else rows
    if options.sort or by:
        key = listing.match_key(options.sort, rows) if options.sort else "accuracy/val"
        rows = listing.sort_rows(rows, key, options.reverse)
    keys = list(dict.fromkeys(listing.match_key(name, rows) for name in options.columns or ()))
    if options.json:
        print_json([{key: row.get(key) for key in keys or row} for row in rows])
    elif options.csv:
        every = dict.fromkeys(key for row in rows for key in row)  # rows differ
        print_csv(keys or sorted(every, key=LAST.__contains__), rows)
    else:
        columns = [listing.make_column(key, key, rows) for key in keys]
        listing.print_runs(runs, columns or listing.usual_columns(runs, rows, by))
        if by:
            print("means over n completed runs; ±: half the 95 % t-interval, from n = 3 on")
    fail_for([run.problem for run in runs if run.closed])


def _archive_or_remove(options: argparse.Namespace) -> None:
    conditions = (options.status, options.cell, options.seed, options.older_than, options.where)
    if not options.all and not any(given is not None for given in conditions):
        ways = "--status, --cell, --seed, --older-than or --where, or take --all"
        raise UserError(f"{options.action} what? Select runs by {ways}")
    values = [value for *_, value in options.where or ()]
    if {"*"} in map(set, (*(options.cell or ()), *(options.seed or ()), *values)):
        raise ConfigError("* means every run (was a variable before it not set?): use --all")
    found = select(options)
    problems: list[BaseException | str] = [run.problem for run in found if run.closed]
    chosen = [run for run in found if not run.closed]  # of those nobody knows what they meet
    if not chosen:
        print("no run fits these conditions")
        fail_for(problems)
        return
    listing.print_runs(chosen)
    size = decimal(sum(run.bytes for run in chosen))
    question = f"{options.action} {plural(len(chosen), 'run')}, {size}?"
    if not options.yes and not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to answer on: add --yes")
    if not options.yes and input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing done")
        return
    for run in chosen:
        try:
            if options.action == "remove":
                housekeeping.remove(run.path, options.root)
                done = f"removed {run.path}"
            else:
                done = f"{run.path} is now {housekeeping.archive(run.path, options.root)}"
            print(printable(done))
        except LockHeld as busy:
            print(printable(f"{run.path}: {busy} is training it, not touched"))
        except (UserError, OSError) as error:  # the others are not to suffer
            problems.append(error)
    fail_for(problems)


def _clean(options: argparse.Namespace) -> None:
    find_runs(options.root)  # refuses what is no directory
    left, problems = housekeeping.leftovers(options.root)
    for path in left:
        print(visible(str(path)))
    if not left:
        print("nothing was left behind")
    elif not options.yes:
        print("left by processes that were killed; --yes deletes them")
    else:
        for path in left:
            with contextlib.suppress(LockHeld, OSError):
                housekeeping.clean(path)
        kept = [path for path in left if os.path.lexists(path)]
        print(f"deleted {len(left) - len(kept)}")
        problems += [f"{path} is still there: in use, or no right to delete it" for path in kept]
    fail_for(problems)


def _verify(options: argparse.Namespace) -> None:
    """Look at every file of every run; exit with 1 where one is not as its run left it."""
    damaged = 0
    runs = find_runs(options.root)
    for run in runs:
        problems = [run.problem] if run.record is None else damage(run.path, run.record)
        damaged += bool(problems)
        for line in problems:
            print(printable(line))
    print(f"{plural(len(runs), 'run')}, {damaged} of them damaged")
    count_runs(runs)
    listing.print_repeats(runs)
    if damaged:
        raise SystemExit(1)


def _print_command(options: argparse.Namespace) -> None:
    from resnet_cifar.config.saved import from_record, load, reproduce_command

    path = options.run / CONFIG
    record = None if path.exists() else read_record(options.run)  # records are copied alone
    print(reproduce_command(from_record(record, options.run) if record else load(path)))


# Each action: what it is for, and the function that does it.
ACTIONS = {
    "list": ("what there is (the default)", _list),
    "verify": ("look whether every file is as its run left it", _verify),
    "archive": ("move runs to <outputs>.archive/; moving back restores", _archive_or_remove),
    "remove": ("delete runs, after asking", _archive_or_remove),
    "clean": ("what killed processes left behind; --yes deletes it", _clean),
    "diff": ("in what two runs, or cells, differ: configuration, outcome", print_differences),
    "command": ("the command that trains the configuration of a run again", _print_command),
}


def _root(text: str) -> Path:
    close = difflib.get_close_matches(text.lower(), ACTIONS, n=1)
    if close and text.isalpha() and not os.path.lexists(text):
        raise ConfigError(f"{text} is neither an action nor a directory: did you mean {close[0]}?")
    return paths.local_path(not_empty(text))


def _condition(text: str) -> tuple[str, str, str]:
    name, relation, values = (*re.split("([<>=!]+)", text, maxsplit=1), "", "")[:3]
    relations = ("=", "==", "!=", *listing.COMPARISONS)
    if not name.strip() or relation not in relations or not all(map(str.strip, values.split(","))):
        problem = f"{text!r} is not of the form key=value or 'key>value', in quotes"
        raise argparse.ArgumentTypeError(f"{problem} (a run without a value has null)")
    with contextlib.suppress(ValueError):
        if relation not in listing.COMPARISONS or math.isfinite(float(values)):
            return name.strip(), relation.replace("==", "="), values.strip()
    raise argparse.ArgumentTypeError(f"{text!r}: {relation} needs one number, not {values!r}")


def _keys(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of keys with commas between them")
    return names


def days(text: str) -> float:
    """Read a number of days; argparse shows this function's name where it is no number."""
    count = float(text)
    if not 0 <= count < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of days: 0 or more")
    return count


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in (*ACTIONS, "-h", "--help", "--version"):
        arguments = ["list", *arguments]
    parser = Parser(prog=paths.command_name("runs"), description=__doc__)
    actions = parser.add_subparsers(dest="action", metavar=" | ".join(ACTIONS))
    actions.type = str  # an empty argument of an action is the action's own to refuse
    parsers = {}
    for action, (text, work) in ACTIONS.items():
        parsers[action] = sub = actions.add_parser(action, help=text, description=text)
        sub.set_defaults(work=work)
        if action not in ("diff", "command"):
            sub.add_argument("root", nargs="?", type=_root, default=Path("outputs"))
        if action in ("list", "archive", "remove"):
            sub.add_argument("--status", action="append", choices=STATUSES)
            sub.add_argument("--cell", action="append", help="its name, or a pattern: 'lr0.1_*'")
            sub.add_argument("--seed", action="append")
            sub.add_argument("--older-than", type=days, metavar="DAYS")
            text = "any key: lr=0.1, scheduler=cosine,step, 'device=*H100*', 'status!=failed', "
            text += "'lr<0.1', 'val>=0.85' (a fraction); in quotes: < > ! * are the shell's, too"
            more = sub.add_argument("--where", action="append", metavar="KEY=VALUE", help=text)
            more.type = _condition
        if action in ("archive", "remove"):
            sub.add_argument("--all", action="store_true", help="every run below the directory")
        if action in ("archive", "remove", "clean"):
            sub.add_argument("--yes", action="store_true", help="don't ask")
    sub = parsers["list"]
    text = "a line a group, with means, intervals and counts: cell, or any keys; best first"
    sub.add_argument("--group", type=_keys, action="extend", metavar="KEY,KEY", help=text)
    text = "by any key: lr; val (accuracy/val: best first), loss (loss/val: smallest first)"
    sub.add_argument("--sort", metavar="KEY", help=text)
    sub.add_argument("--reverse", action="store_true", help="the other way round")
    text = "instead of the usual"
    sub.add_argument("--columns", type=_keys, action="extend", metavar="KEY,KEY", help=text)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every key, for programs")
    form.add_argument("--csv", action="store_true", help="every key, for spreadsheets")
    parsers["diff"].add_argument("first", type=Path, help="a run, <cell>/seed=<n>, or a cell")
    parsers["diff"].add_argument("second", type=Path)
    parsers["command"].add_argument("run", type=Path, help="a run, <cell>/seed=<n>")
    return run_command(parser, lambda options: options.work(options), arguments)
