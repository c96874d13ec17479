"""run.json: its types, the one reader that checks it and the one writer. No torch here."""

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from resnet_cifar.errors import ConfigError, UserError, describe, shorten
from resnet_cifar.files import is_held, read_regular, write_json
from resnet_cifar.identity import cell_hash
from resnet_cifar.record.layout import LOCK, RUN
from resnet_cifar.text import explain_mismatch

FINAL = ("completed", "diverged")  # outcomes: never trained again
STATUSES = (*FINAL, "running", "interrupted", "failed")
OBJECTIVE = "accuracy/val"
START_AGAIN = "rerun=true sets the run aside and starts again"
VERSION = 2  # of the record; 1 had neither a version nor checksums

Metrics = dict[str, Any]  # an epoch's flat numbers: "epoch" whole, None where one was not finite


class Tracked(msgspec.Struct, forbid_unknown_fields=True):
    """The run's counterpart at a tracker beside TensorBoard (`logger=…`)."""

    tracker: str  # the option
    id: str  # by which the run is found there
    epoch: int = 0  # the last one it was given
    ended: bool = True  # it was told the outcome; taken for granted in records without this field


class Session(msgspec.Struct, forbid_unknown_fields=True):
    """One process's work on a run."""

    start: str  # UTC, ISO 8601
    device: str
    device_type: str
    epoch: int = 0  # where it took the run up: epochs and further steps done
    step: int = 0
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES
    precision: str | None = None
    # Where `auto` was measured, what it was chosen by: CPU seconds of the same work.
    precision_seconds: dict[str, float] = {}
    threads: int | None = None
    compile: bool | None = None
    host: str | None = None
    pid: int | None = None
    matmul_flops_per_second: float | None = None
    versions: dict[str, str] = {}
    git: dict[str, str | None] = {}
    end: str | None = None
    seconds: float = 0.0
    images_trained: int = 0
    images_per_second: float | None = None  # while it trained, from its second epoch on
    model_flops_per_second: float | None = None
    share_of_matmul_rate: float | None = None
    peak_memory_bytes: int | None = None
    tracked: Tracked | None = None


class Evaluation(msgspec.Struct, forbid_unknown_fields=True):
    """One look at a split; `scores` are `accuracy/<view>` and `loss/<view>`, flat in the file."""

    split: str
    weights: str
    epoch: int
    made: str
    scores: dict[str, float] = {}


class FileSum(msgspec.Struct, forbid_unknown_fields=True):
    """A file's checksum and size when it was written."""

    sha256: str
    bytes: int


class RunRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The content of run.json."""

    status: str
    cell: str
    seed: int
    epochs: int  # its budget
    config: dict[str, Any]  # flattened
    device: str
    error: str | None = None
    parameters: int | None = None
    multiply_accumulates: int | None = None  # forward, an image
    epochs_done: int = 0
    final: Metrics | None = None  # the last epoch's metrics
    best: Metrics | None = None  # of the best epoch so far
    sessions: list[Session] = []
    evaluations: list[Evaluation] = []
    files: dict[str, FileSum] = {}  # see `read_summed`
    version: int = VERSION
    handed_in: list[Tracked] = []  # when the run had its outcome: what trackers had missed

    @property
    def finished(self) -> bool:
        """True if the run has its outcome."""
        return self.status in FINAL

    @property
    def ended(self) -> str | None:
        """The time the record was last brought up to date: UTC, ISO 8601."""
        return (self.sessions[-1].end or self.sessions[-1].start) if self.sessions else None

    @property
    def tracked(self) -> dict[str, Tracked]:
        """The last word on each tracker, by its option."""
        given = [session.tracked for session in self.sessions if session.tracked]
        return {each.tracker: each for each in [*given, *self.handed_in]}

    @property
    def key(self) -> tuple[str, int]:
        """The run's identity, whatever the label of its cell."""
        return cell_hash(self.cell), self.seed

    def precision_on(self, device_type: str) -> str | None:
        """The precision it was last trained in on such a device."""
        used = [s.precision for s in self.sessions if s.device_type == device_type and s.precision]
        return used[-1] if used else None


class RecordError(UserError):
    """A run's files are not what this program writes: names the file and what is wrong with it."""


def read_content(path: Path) -> bytes | None:
    """Read a file of a run; None where there is none. Raises RecordError if it can't be read."""
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"{path} can't be read: {describe(error)}") from error


def read_record(directory: Path) -> RunRecord | None:
    """Read run.json of a run directory; None where there is none.

    A run that says "running" while no process holds its lock was killed: it is "interrupted".
    That is asked of the file system, not of this machine's processes: the run may be on another
    host. Raises RecordError: it is damaged, another run's, or not one of this program's.
    """
    path = directory / RUN
    if (content := read_content(path)) is None:
        return None
    try:
        record = _parse(content, directory.resolve())
    except (ValueError, RecursionError) as error:
        problem = shorten(str(error))
        raise RecordError(f"{path} is not a record of this program: {problem}") from error
    if record.status == "running" and not is_held(directory / LOCK):
        record.status = "interrupted"
    return record


def record_or_reason(directory: Path) -> RunRecord | str:
    """Read a run's record, or say in one line why there is none, for callers that go on."""
    try:
        return read_record(directory) or f"{directory} has no {RUN}"
    except RecordError as error:
        return str(error)


def write_record(directory: Path, record: RunRecord) -> None:
    """Write run.json, whole at every instant, with a checksum of itself."""
    write_json(directory / RUN, _encode(record))


def check_readable(directory: Path, record: RunRecord) -> None:
    """Raise ConfigError, naming key and value, unless the reader takes what would be written."""
    try:
        _parse(json.dumps(_encode(record)).encode(), directory.resolve())
    except (TypeError, ValueError) as error:
        reason = shorten(str(error))
        raise ConfigError(f"{directory / RUN} could not be read back: {reason}") from error


def _encode(record: RunRecord) -> dict[str, Any]:
    plain = msgspec.to_builtins(record, enc_hook=float)  # NumPy's numbers
    for entry in plain["evaluations"]:
        entry |= entry.pop("scores")
    return seal(plain)


def seal(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's plain content with the checksum of it, in place of an earlier one."""
    content = {key: value for key, value in plain.items() if key != "sha256"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def result(record: RunRecord) -> str:
    """The last epoch's validation accuracies, for the end of a line."""
    final, names = record.final or {}, {"val": "val", "augmented": "val_augmented"}
    accuracies = {name: final.get(f"accuracy/{view}") for name, view in names.items()}
    known = [f"{name} {100 * x:.2f} %" for name, x in accuracies.items() if x is not None]
    return f" ({', '.join(known)})" if known else ""


def objective(record: RunRecord | None) -> float:
    """The number a search maximises: the last epoch's validation accuracy; 0 without a result."""
    if record is None or record.status == "diverged" or not record.final:
        return 0.0
    return float(record.final.get(OBJECTIVE) or 0.0)


def finite(metrics: Mapping[str, Any]) -> Metrics:
    """Return `metrics` in Python's numbers, null for what is not finite: JSON has no NaN."""
    plain = {key: v.item() if hasattr(v, "item") else v for key, v in metrics.items()}
    bad = [k for k, v in plain.items() if isinstance(v, float) and not math.isfinite(v)]
    return {**plain, **dict.fromkeys(bad)}


def _parse(content: bytes, directory: Path) -> RunRecord:
    """Raise ValueError on what is no record, can't be, or is another run's than the directory's."""
    plain = parse_json(content)
    version = plain.get("version", 1)
    expect(version != 1, "it is of version 1, written before checksums, which is read no more")
    expect(version == VERSION, f"version={version!r} is of a later program; this one has {VERSION}")
    sealed = plain.get("sha256") == seal(plain)["sha256"]
    expect(sealed, "its checksum does not fit: it was changed after it was written")
    del plain["sha256"]
    entries = plain.get("evaluations")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            names = [name for name in entry if name not in Evaluation.__struct_fields__]
            entry["scores"] = {name: entry.pop(name) for name in names}
    try:
        record = msgspec.convert(plain, RunRecord)
    except msgspec.ValidationError as error:
        path, value, allowed = explain_mismatch(error, plain, RunRecord)
        key = ".".join(map(str, path))
        problem = f"{key}={reprlib.repr(value)}: must be {allowed}" if path else allowed
        raise ValueError(problem) from error
    expect(record.status in STATUSES, f"status={record.status!r} is none of {STATUSES}")
    expect(record.seed >= 0, f"seed={record.seed} is negative")
    done = f"epochs_done={record.epochs_done} of {record.epochs}"
    expect(record.epochs >= 1 and 0 <= record.epochs_done <= record.epochs, f"{done} can't be")
    for name, metrics in (("final", record.final), ("best", record.best)):
        if metrics is not None:
            check_metrics(metrics, name)
    if record.status == "completed":
        final = record.final or {}
        whole = record.epochs_done == record.epochs == final.get("epoch") and OBJECTIVE in final
        expect(whole, f"it says completed with {done} and final={record.final}")
    # A copy of a run may have any name that is not like a run's: a folder of networks, say.
    seed = re.fullmatch(r"seed=(\d+)(\..*)?", directory.name)
    parent = directory.parent.name
    cell = record.cell if cell_hash(parent) == parent else parent
    own = record.key == (cell_hash(cell), int(seed[1]) if seed else record.seed)
    expect(own, f"it is the record of {record.cell}/seed={record.seed}, another run")
    record.cell = cell  # its label may have been another then
    return record


def check_metrics(metrics: Metrics, where: str) -> None:
    """Raise ValueError unless `metrics` are an epoch and numbers that can be."""
    epoch = metrics.get("epoch")
    expect(type(epoch) is int and epoch >= 1, f"{where}: epoch={epoch!r} is no epoch")
    for key, value in metrics.items():
        if value is not None:
            number = type(value) is int or (type(value) is float and math.isfinite(value))
            expect(number, f"{where}: {key}={value!r} is not a number")
            if key.startswith("accuracy/"):
                expect(0 <= value <= 1, f"{where}: {key}={value} is not between 0 and 1")


def parse_json(content: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError or RecursionError on anything else."""
    plain: dict[str, Any] = json.loads(content.decode(), parse_int=_whole)
    expect(isinstance(plain, dict), "it is not a mapping")
    return plain


def _whole(digits: str) -> int:
    if len(digits) > 300:  # for a float, in the end
        raise ValueError(f"{digits[:20]}… is too large a number")
    return int(digits)


def expect(condition: bool, problem: str) -> None:
    """Raise ValueError, saying the `problem`, unless `condition` holds."""
    if not condition:
        raise ValueError(problem)
