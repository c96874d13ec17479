"""The precision of a run whose configuration says `auto`: that of other runs, before a new one.

A run's record is where the answer is kept. One that was begun goes on in its precision, and a new
one takes that of the runs beside it, so that what is compared was computed alike.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from pathlib import Path

from resnet_cifar.compute.cpu import cpu_name
from resnet_cifar.config.schema import Config
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import RunRecord, record_or_reason

VOTES = 9  # runs that are enough
MOST_READ = 200  # records, at 2 ms each


def known_precision(config: Config, record: RunRecord | None) -> str | None:
    """The precision that `auto` already stands for on this CPU; None: it has to be measured.

    Args:
        record: the run's own, if it was begun.
    """
    if config.trainer.precision != "auto" or config.trainer.device not in ("auto", "cpu"):
        return None
    begun = record.precision_on("cpu") if record else None
    return begun or recorded_precision(Path(config.output_root), config.model.width)


def recorded_precision(root: Path, width: int) -> str | None:
    """The precision that runs of this width below `root` had on this CPU; None where there is none.

    The latest ones are asked, begun and finished alike, that had `auto` and this version of torch.
    Where they differ, which a measurement near its threshold may, the majority decides, in doubt
    for float32.
    """
    dated = []
    with contextlib.suppress(OSError):
        for path in root.glob(f"*/seed=*/{RUN}"):
            with contextlib.suppress(OSError):  # gone meanwhile
                dated.append((path.lstat().st_mtime_ns, path.parent))
    votes: list[str] = []
    for _, directory in sorted(dated, reverse=True)[:MOST_READ]:
        record = record_or_reason(directory)
        vote = None if isinstance(record, str) else _vote(record, width)
        votes += [vote] if vote else []
        if len(votes) == VOTES:
            break
    if not votes:
        return None
    return "bf16" if votes.count("bf16") > votes.count("fp32") else "fp32"


def _vote(record: RunRecord, width: int) -> str | None:
    asked = {"model.width": width, "trainer.precision": "auto"}
    if not record.sessions or any(record.config.get(k) != v for k, v in asked.items()):
        return None
    last = record.sessions[-1]
    here = (last.device, last.versions.get("torch")) == (cpu_name(), version("torch"))
    return last.precision if here and last.device_type == "cpu" else None
