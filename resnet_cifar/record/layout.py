"""The names of a run's files."""

import re
from pathlib import Path

RUN, METRICS, PROBE, LOCK = "run.json", "metrics.jsonl", "probe.jsonl", ".lock"
PREDICTIONS, CONFIG = "predictions.npz", "config.yaml"
LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"
# Weights that can be asked for: of the last epoch, of the best one, the averaged ones of the last.
WEIGHTS = {"last": LAST, "best": BEST, "ema": LAST}
# Files that answers are made of: run.json has the checksum of each when a run has ended.
SUMMED = (METRICS, PROBE, PREDICTIONS, CONFIG, LAST, BEST)
_OURS = re.compile(
    r"run\.json|metrics\.jsonl|probe\.jsonl|predictions\.npz|config\.yaml|train\.log|\.lock"
    r"|(last|last\.previous|best)\.pt|evaluation-[\w-]+\.json|events\.out\.tfevents\..+"
)
# `write_atomically` writes .NAME.HOST.PROCESS.tmp beside a file; .last.pt.new was written earlier.
_LEFTOVER = re.compile(rf"\.({_OURS.pattern}|\.last\.pt\.new)\..+\.\d+\.tmp|\.last\.pt\.new")


def is_ours(name: str) -> bool:
    """True if this program writes files of this name into a run directory."""
    return any(pattern.fullmatch(name) for pattern in (_OURS, _LEFTOVER))


def leftovers(directory: Path) -> list[Path]:
    """List what killed writers left in a run directory; a living one's too, unless it is locked."""
    half = [path for path in directory.iterdir() if _LEFTOVER.fullmatch(path.name)]
    return sorted(path for path in half if path.is_file() and not path.is_symlink())
