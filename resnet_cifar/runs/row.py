"""A run as one flat row, of which `runs` and `load_runs` take their columns. No pandas here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from resnet_cifar.record.schema import RunRecord
from resnet_cifar.runs.find import Run

Row = dict[str, Any]
# What every row of `runs` begins with, and ends with.
FIRST = ("directory", "cell", "seed", "status", "damaged", "error", "epochs_done", "epochs")
LAST = ("size", "age", "ended")
# Columns of `flat_row` that `runs` does not list, or, the last three, lists of the last session.
_NOT_LISTED = (
    *("step", "lr", "test_evaluations", "accuracy/test", "loss/test", "sessions", "started"),
    *("images_trained", "share_of_matmul_rate", "device_type", "precision", "threads"),
    *("versions", "code", "parameters", "device", "seconds", "images_per_second"),
)


def flat_row(record: RunRecord) -> Row:
    """A record under flat keys: outcome, configuration, metrics, cost; None for what is not known.

    Keys of the configuration are its dotted ones (`optimizer.lr`), the last epoch's metrics have
    their names (`accuracy/val`), the best epoch's `best/` before them. The learning rate of the
    last epoch is there twice, as `lr` and as `last/lr`.
    """
    final, best, sessions = record.final or {}, record.best or {}, record.sessions
    row: Row = {
        "cell": record.cell,
        "seed": record.seed,
        "status": record.status,
        "error": record.error,
        "epochs": record.epochs,
        "epochs_done": record.epochs_done,
        "parameters": record.parameters,
    }
    row |= {key: value for key, value in record.config.items() if key != "seed"}
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
    shares = [s.share_of_matmul_rate for s in sessions if s.share_of_matmul_rate is not None]
    return row | {
        "sessions": len(sessions),
        "started": sessions[0].start if sessions else None,
        "seconds": sum(s.seconds for s in sessions),
        "images_trained": images,
        "images_per_second": images / sum(n / rate for n, rate in rates) if images else None,
        "share_of_matmul_rate": shares[-1] if shares else None,
        "device": _join(s.device for s in sessions),
        "device_type": _join(s.device_type for s in sessions),
        "precision": _join(s.precision for s in sessions),
        "threads": _join(s.threads for s in sessions),
        "versions": _join(json.dumps(s.versions or None, sort_keys=True) for s in sessions),
        "code": _join(code(s.git) for s in sessions),
    }


def listed_row(run: Run) -> Row:
    """A run as `runs` lists it: columns of `flat_row`, and what its files and its age say.

    Device and speed are the last session's. Without a record, as much as the directory says.
    """
    record = run.record
    row: Row = dict.fromkeys(FIRST)
    row |= {"directory": str(run.path), "cell": run.cell, "status": run.status}
    row |= {"damaged": bool(run.damaged), "error": run.reason or None}
    if record:
        flat = flat_row(record)
        row |= {key: value for key, value in flat.items() if key not in _NOT_LISTED}
        speeds = [s.images_per_second for s in record.sessions if s.images_per_second]
        row |= {
            "device": record.device,
            "parameters": record.parameters,
            "seconds": round(flat["seconds"], 1),
            "images_per_second": speeds[-1] if speeds else None,
        }
    row["seed"] = int(run.seed) if run.seed.isdecimal() else run.seed
    ended = record.ended if record else None
    return row | {"size": run.bytes, "age": round(run.age), "ended": ended}


def code(git: dict[str, str | None]) -> str:
    """A session's commit in ten digits, and of the uncommitted difference eight of its hash."""
    if not git.get("commit"):
        return "unknown"
    changed = git.get("uncommitted")
    return str(git["commit"])[:10] + (f"+{str(changed)[:8]}" if changed else "")


def _join(values: Iterable[Any]) -> str:
    return " | ".join(dict.fromkeys(str(value) for value in values if value is not None))
