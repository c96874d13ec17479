"""The one discovery of runs, and a run as one flat row: commands and loaders begin here. No torch.

A run is a directory with run.json, whatever its name: the directory that is asked about, one in it
(a cell's runs, a folder of copies) or one in its subdirectories (`<root>/<cell>/seed=<n>`). A
directory that is named like a run, `seed=…`, and has no run.json is a run without a record. A run
directory whose name begins with a dot is none: it is on its way out (`housekeeping`).
"""

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_cifar.errors import UserError, describe
from resnet_cifar.identity import number
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import FINAL, RunRecord, read_record, record_or_reason
from resnet_cifar.record.schema import STATUSES as RECORDED

STATUSES = (*RECORDED, "unreadable")
Row = dict[str, Any]
# A run's row begins and ends with these.
FIRST = ("directory", "cell", "seed", "status", "damaged", "error", "epochs_done", "epochs")
LAST = ("size", "age", "ended")
# Columns of `flat_row` that a run's row has not.
_NOT_LISTED = (
    *("step", "lr", "test_evaluations", "accuracy/test", "loss/test", "sessions", "started"),
    *("images_trained", "share_of_matmul_rate", "device_type", "precision", "threads"),
    *("versions", "code"),
)


@dataclass(eq=False)
class Run:
    """A run directory. What takes time to learn is learned when it is first asked for."""

    path: Path
    problem: str = ""  # why there is no record, in one line, once that was asked for
    closed: bool = False  # it can't be looked at: nobody knows which runs, if any, are there
    left_out: str | None = None  # why it is not counted, once `count_runs` has looked

    @cached_property
    def record(self) -> RunRecord | None:
        """run.json; None where it can't be read: `problem` says why."""
        found = self.problem or record_or_reason(self.path)
        if not isinstance(found, str):
            return _complete(found)
        self.problem = found
        return None

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return self.record.status if self.record else "unreadable"

    @property
    def cell(self) -> str:
        """The name of the directory that the run lies in: its cell's, unless it was copied."""
        return self.path.parent.name

    @property
    def seed(self) -> str:
        """`0`, or `0.2026-11-24T10-00-00` of a run that was set aside."""
        if self.record and not self.path.name.startswith("seed="):
            return str(self.record.seed)
        return self.path.name.removeprefix("seed=")

    @property
    def is_set_aside(self) -> bool:
        """True if commands list it and no table or comparison counts it.

        `rerun=true` has set it aside under a dated name, seed=0.2026-11-24T10-00-00, or it lies in
        a directory whose name begins with a dot.
        """
        dated = r"seed=\d+\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d"
        hidden = self.cell.startswith(".") and self.cell != ".."
        return hidden or re.fullmatch(dated, self.path.name) is not None

    @property
    def is_copy(self) -> bool:
        """True if it does not lie where its record says, in `<cell>/seed=<n>`."""
        place = (self.cell, self.path.name)
        return not self.record or place != (self.record.cell, f"seed={self.record.seed}")

    @cached_property
    def damaged(self) -> list[str]:
        """A line for each file that is not as the run left it, as far as sizes tell."""
        return damage(self.path, self.record, quick=True) if self.record else []

    @cached_property
    def bytes(self) -> int:
        """The size of its files."""
        size = 0
        with contextlib.suppress(OSError), os.scandir(self.path) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # a run that writes renames its files
                    size += file.stat(follow_symlinks=False).st_size
        return size

    @cached_property
    def age(self) -> float:
        """Seconds since the record was last brought up to date; without one, the directory."""
        ended = self.record.ended if self.record else None
        try:
            then = datetime.fromisoformat(ended).timestamp() if ended else self.path.stat().st_mtime
        except (OSError, ValueError):
            return 0.0
        return max(0.0, time.time() - then)

    @cached_property
    def row(self) -> Row:
        """The run as `runs` lists it: columns of `flat_row`, and what its directory says."""
        record = self.record
        row: Row = dict.fromkeys(FIRST)
        row |= {"directory": str(self.path), "cell": self.cell, "status": self.status}
        row |= {"damaged": bool(self.damaged), "error": self.problem or None}
        row |= {"left_out": self.left_out}
        if record:
            row |= {k: value for k, value in flat_row(record).items() if k not in _NOT_LISTED}
        row["seed"] = int(self.seed) if self.seed.isdecimal() else self.seed
        return row | {"size": self.bytes, "age": round(self.age), "ended": record and record.ended}


def find_runs(root: Path) -> list[Run]:
    """Every run at or below `root`, in the order of the directories' names.

    Nothing of a run is read before it is asked for. A directory that can't be looked at is listed
    as a run without a record, `closed`. Raises UserError where `root` is none.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    with contextlib.suppress(OSError):  # a closed one is listed as what is in it, closed
        if is_run_directory(root, asked=True):
            return [Run(root)]
    return find_cell_runs(root, deeper=True)


def find_cell_runs(directory: Path, deeper: bool = False) -> list[Run]:
    """The runs directly in a directory, as `find_runs`: those of a cell, or of a folder of copies.

    Directories that are named like a run come first: a copy beside its original is the second. With
    `deeper` those in the other directories there are among them.
    """
    try:
        names = sorted(os.listdir(directory), key=lambda name: (not name.startswith("seed="), name))
    except FileNotFoundError:  # archived or removed meanwhile
        return []
    except OSError as error:
        return [Run(directory, describe(error), closed=True)]
    runs = []
    for path in map(directory.joinpath, names):
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                continue
            if is_run_directory(path):
                runs.append(Run(path))
            elif deeper:
                runs += find_cell_runs(path)
        except OSError as error:
            gone = not path.is_symlink() or path.name.startswith(".")  # `.#x` is an editor's
            if not (gone and isinstance(error, FileNotFoundError)):
                # There is no run behind a loop of links.
                runs.append(Run(path, describe(error), closed=error.errno != errno.ELOOP))
    return runs


def runs_at(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The runs that a path stands for: a run itself, or those that count of a cell.

    Returns their directories; and by directory why one has no record.
    """
    if os.path.isfile(path / RUN):
        return [path], {}
    runs = [run for run in (find_cell_runs(path) if path.is_dir() else []) if not run.is_set_aside]
    counted = [run.path for run in count_runs(runs)]
    return counted, {str(run.path): run.problem for run in runs if run.record is None}


def count_runs(runs: Iterable[Run]) -> list[Run]:
    """Choose the runs that tables and comparisons count: each once, finished, in its place.

    The others get the reason as their `left_out`.
    """
    counted: dict[tuple[str, int], Run] = {}
    given: dict[str, Run] = {}
    for run in runs:  # roots may overlap
        given.setdefault(os.path.abspath(run.path), run)
    for run in sorted(given.values(), key=lambda run: (run.status not in FINAL, run.is_copy)):
        if run.is_set_aside:
            run.left_out = "set aside"
        elif run.record is None:
            run.left_out = run.problem
        elif (same := counted.setdefault(run.record.key, run)) is not run:
            differs = same.record is None or same.record.final != run.record.final
            run.left_out = f"the same run as {same.path}" + ", with another result" * differs
    return list(counted.values())


def is_run_directory(path: Path, asked: bool = False) -> bool:
    """True if a directory is a run's, or is named like one. Raises OSError where it is closed.

    One whose name begins with a dot is none, unless it was `asked` for.
    """
    if path.name.startswith(".") and not asked:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path / RUN)
        return True
    return path.name.startswith("seed=")


def read_run(directory: Path) -> RunRecord | None:
    """run.json, with what keys that later versions added stood for. As `read_record` otherwise."""
    record = read_record(directory)
    return record and _complete(record)


def _complete(record: RunRecord) -> RunRecord:
    from resnet_cifar.config.saved import fill_in_absent  # and Hydra, which a page of help spares

    return fill_in_absent(record)


def flat_row(record: RunRecord) -> Row:
    """A record under flat keys: outcome, configuration, metrics, cost; None for what is not known.

    Lists and mappings are as people write them, [150,225]: text, which tables can group and sort.
    Keys of the configuration are its dotted ones (`optimizer.lr`), the last epoch's metrics have
    their names (`accuracy/val`), the best epoch's `best/` before them; `last/lr` is `lr`.
    """
    final, best, sessions = record.final or {}, record.best or {}, record.sessions
    outcome = ("cell", "seed", "status", "error", "epochs", "epochs_done", "parameters")
    row: Row = {key: getattr(record, key) for key in outcome}
    row |= {k: number(v) if isinstance(v, (list, dict)) else v for k, v in record.config.items()}
    row |= {key: value for key, value in final.items() if key != "epoch"}
    row["last/lr"] = final.get("lr")
    row |= {f"best/{key}": value for key, value in best.items()}
    tests = [entry for entry in record.evaluations if entry.split == "test"]
    row["test_evaluations"] = len(tests)
    for entry in tests:
        if entry.weights == "last":
            row |= {key: entry.scores.get(key) for key in ("accuracy/test", "loss/test")}
    rates = [(s.images_trained, s.images_per_second) for s in sessions if s.images_per_second]
    images = sum(count for count, _ in rates)
    joined = ("device", "device_type", "precision", "threads")
    shares = [s.share_of_matmul_rate for s in sessions if s.share_of_matmul_rate is not None]
    return row | {
        "sessions": len(sessions),
        "started": sessions[0].start if sessions else None,
        "seconds": round(sum(s.seconds for s in sessions), 3),
        "images_trained": images,
        "images_per_second": images / sum(n / rate for n, rate in rates) if images else None,
        "share_of_matmul_rate": shares[-1] if shares else None,
        **{key: join(getattr(s, key) for s in sessions) for key in joined},
        "versions": join(json.dumps(s.versions or None, sort_keys=True) for s in sessions),
        "code": join(code(s.git) for s in sessions),
    }


def code(git: dict[str, str | None]) -> str:
    """A session's commit in ten digits, and of the uncommitted difference eight of its hash."""
    if not git.get("commit"):
        return "unknown"
    changed = git.get("uncommitted")
    return str(git["commit"])[:10] + (f"+{str(changed)[:8]}" if changed else "")


def join(values: Iterable[Any]) -> str:
    """Write each value once, as people do, with " | " between them; nothing for None."""
    return " | ".join(dict.fromkeys(number(value) for value in values if value is not None))
