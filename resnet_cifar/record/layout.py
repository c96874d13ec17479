"""The names of a run's files."""

from __future__ import annotations

import re
from pathlib import Path

RUN, METRICS, PROBE, LOCK = "run.json", "metrics.jsonl", "probe.jsonl", ".lock"
PREDICTIONS, CONFIG, LOG = "predictions.npz", "config.yaml", "train.log"
LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"
# What can be asked for: of the last epoch, of the best one, the averaged ones of the last.
WEIGHTS = {"last": LAST, "best": BEST, "ema": LAST}
# What answers are made of: run.json knows each by its checksum when a run has ended.
SUMMED = (METRICS, PROBE, PREDICTIONS, CONFIG, LAST, BEST)
_OURS = re.compile(
    r"run\.json|metrics\.jsonl|probe\.jsonl|predictions\.npz|config\.yaml|train\.log|\.lock"
    r"|(last|last\.previous|best)\.pt|evaluation-[\w-]+\.json|events\.out\.tfevents\..+"
)
# What `write_atomically` writes beside a file: .NAME.HOST.PROCESS.tmp
_LEFTOVER = re.compile(rf"\.({_OURS.pattern}|\.last\.pt\.new)\..+\.\d+\.tmp|\.last\.pt\.new")


def is_ours(name: str) -> bool:
    """Whether this program writes files of this name into a run directory."""
    return _OURS.fullmatch(name) is not None or is_leftover(name)


def is_leftover(name: str) -> bool:
    """Whether a file of this name was being written when its writer was killed, or is right now."""
    return _LEFTOVER.fullmatch(name) is not None


def leftovers(directory: Path) -> list[Path]:
    """What killed writers left in a run directory; those of a living one, unless it is locked."""
    found = [path for path in directory.iterdir() if is_leftover(path.name)]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())
