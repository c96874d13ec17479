"""The files of a run that programs read, and the one reader of them. No torch here."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import is_held, read_regular, write_json
from resnet_cifar.identity import MOVED
from resnet_cifar.record.layout import LOCK, RUN

FINAL = ("completed", "diverged")  # outcomes: never trained again
STATUSES = (*FINAL, "running", "interrupted", "failed")
OBJECTIVE = "accuracy/val"
START_AGAIN = "rerun=true sets the run aside and starts again"
VERSION = 2  # of the record; 1 had neither a version nor checksums


Value = str | int | float | bool | None


Metrics = dict[str, Any]  # an epoch's flat numbers: "epoch" whole, None where one was not finite


@dataclass
class Tracked:
    """What a tracker beside TensorBoard has of the run (`logger=…`)."""

    tracker: str  # the option
    id: str  # by which the run is found there
    epoch: int = 0  # the last one it was given


@dataclass
class Session:
    """One process's work on a run."""

    start: str  # UTC, ISO 8601
    device: str
    device_type: str
    epoch: int = 0  # where it took the run up: epochs and further steps done
    step: int = 0
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES
    precision: str | None = None
    # What it was chosen by, where `auto` was measured: CPU seconds of the same work.
    precision_seconds: dict[str, float] = field(default_factory=dict)
    threads: int | None = None
    compile: bool | None = None
    host: str | None = None
    pid: int | None = None
    matmul_flops_per_second: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, str | None] = field(default_factory=dict)
    end: str | None = None
    seconds: float = 0.0
    images_trained: int = 0
    images_per_second: float | None = None  # while it trained
    model_flops_per_second: float | None = None
    share_of_matmul_rate: float | None = None
    peak_memory_bytes: int | None = None
    tracked: Tracked | None = None


@dataclass
class Evaluation:
    """One look at a split; `scores` are its `accuracy/<view>` and `loss/<view>`."""

    split: str
    weights: str
    epoch: int
    made: str
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class FileSum:
    """What a file was when it was written."""

    sha256: str
    bytes: int


@dataclass
class RunRecord:
    """run.json."""

    status: str
    cell: str
    seed: int
    epochs: int  # its budget
    config: dict[str, Value]  # flattened
    device: str
    error: str | None = None
    parameters: int | None = None
    multiply_accumulates: int | None = None  # forward, an image
    epochs_done: int = 0
    final: Metrics | None = None  # the last epoch's metrics
    best: Metrics | None = None  # of the best epoch so far
    sessions: list[Session] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    files: dict[str, FileSum] = field(default_factory=dict)  # see `read_summed`
    version: int = 1

    @property
    def finished(self) -> bool:
        """Whether the run has its outcome."""
        return self.status in FINAL

    @property
    def ended(self) -> str | None:
        """When the record was last brought up to date: UTC, ISO 8601."""
        return (self.sessions[-1].end or self.sessions[-1].start) if self.sessions else None

    def precision_on(self, device_type: str) -> str | None:
        """In which it was last trained on such a device."""
        used = [s.precision for s in self.sessions if s.device_type == device_type and s.precision]
        return used[-1] if used else None


class RecordError(UserError):
    """A run's files are not what this program writes: names the file and what is wrong with it."""


def _content(path: Path) -> bytes | None:
    """What a file of a run holds; None where there is none. RecordError where it can't be read."""
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"{path} can't be read: {describe(error)}") from error


def read_record(directory: Path) -> RunRecord | None:
    """run.json of a run directory; None where there is none.

    A run that says "running" while no process holds its lock was killed: it is "interrupted". That
    is asked of the file system, not of this machine's processes: the run may be on another host.

    Raises:
        RecordError: it is damaged, another run's, or not one of this program's.
    """
    path = directory / RUN
    content = _content(path)
    if content is None:
        return None
    try:
        record = _parse(content)
        _check(record)
        _check_place(record, directory)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a record of this program: {_one_line(error)}") from error
    if record.status == "running" and not is_held(directory / LOCK):
        record.status = "interrupted"
    return record


def record_or_reason(directory: Path) -> RunRecord | str:
    """The record of a run, or in one line why there is none: for whoever goes on with the rest."""
    try:
        return read_record(directory) or f"{directory} has no {RUN}"
    except RecordError as error:
        return str(error)


def write_record(directory: Path, record: RunRecord) -> None:
    """Write run.json, whole at every instant, with a checksum of itself."""
    plain = dataclasses.asdict(record)
    plain["evaluations"] = [
        {**{k: v for k, v in entry.items() if k != "scores"}, **entry["scores"]}
        for entry in plain["evaluations"]
    ]
    write_json(directory / RUN, {**plain, "sha256": _own_sum(plain)})


def finished(directory: Path) -> RunRecord | None:
    """The record of a run that has its outcome, else None. Raises RecordError as `read_record`."""
    record = read_record(directory)
    return record if record and record.finished else None


def result(record: RunRecord) -> str:
    """The last epoch's validation accuracies, for the end of a line."""
    final = record.final or {}
    views = [
        f"{name} {100 * final[key]:.2f} %"
        for name, key in (("val", "accuracy/val"), ("augmented", "accuracy/val_augmented"))
        if final.get(key) is not None
    ]
    return f" ({', '.join(views)})" if views else ""


def objective(record: RunRecord | None) -> float:
    """What a search maximises: the last epoch's clean validation accuracy, or the worst there is.

    That is 0: of a run without a result, and of one whose network is no longer finite.
    """
    if record is None or record.status == "diverged" or not record.final:
        return 0.0
    return float(record.final.get(OBJECTIVE) or 0.0)


def _parse(content: bytes) -> RunRecord:
    plain = json.loads(content.decode(), parse_constant=_no_constant)
    if not isinstance(plain, dict):
        raise ValueError("it is not a mapping")
    stated = plain.pop("sha256", None)
    version = plain.get("version", 1)
    if type(version) is int and version > VERSION:
        raise ValueError(f"version={version} is of a later program; this one knows {VERSION}")
    if stated != (None if version == 1 else _own_sum(plain)):
        raise ValueError("its checksum does not fit: it was changed after it was written")
    entries = plain.get("evaluations")
    if isinstance(entries, list):
        names = {each.name for each in dataclasses.fields(Evaluation)}
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                scores = {key: value for key, value in entry.items() if key not in names}
                entries[position] = {k: v for k, v in entry.items() if k in names}
                entries[position]["scores"] = scores
    config = plain.get("config")
    if isinstance(config, dict) and "data.crop_padding" in config:
        now = {before: key for key, before in MOVED.items()}
        config = {now.get(key, key): value for key, value in config.items()}
        plain["config"] = {"augmentation": "crop_flip", **config}
    if isinstance(config, dict):
        from resnet_cifar.config.saved import with_absent

        plain["config"] = with_absent(plain["config"])
    record: RunRecord = _typed(plain, RunRecord, "")
    lost = record.final is not None and record.final.get("loss/val", 0.0) is None
    if record.status == "completed" and lost:
        record.status = "diverged"  # version 1 looked at the training loss alone
    return record


def _own_sum(plain: Mapping[str, Any]) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check(record: RunRecord) -> None:
    """What the types don't say."""
    _require(record.status in STATUSES, f"status={record.status!r} is none of {STATUSES}")
    _require(record.seed >= 0, f"seed={record.seed} is negative")
    done = f"epochs_done={record.epochs_done} of {record.epochs}"
    _require(record.epochs >= 1 and 0 <= record.epochs_done <= record.epochs, f"{done} can't be")
    for name, metrics in (("final", record.final), ("best", record.best)):
        if metrics is not None:
            _check_metrics(metrics, name)
    if record.status == "completed":
        final = record.final or {}
        whole = record.epochs_done == record.epochs == final.get("epoch") and OBJECTIVE in final
        _require(whole, f"it says completed with {done} and final={record.final}")


def _check_metrics(metrics: Metrics, where: str) -> None:
    """An epoch's metrics: a whole epoch, and numbers that can be."""
    epoch = metrics.get("epoch")
    _require(type(epoch) is int and epoch >= 1, f"{where}: epoch={epoch!r} is no epoch")
    for key, value in metrics.items():
        if value is not None:
            number = type(value) in (int, float) and math.isfinite(value)
            _require(number, f"{where}: {key}={value!r} is not a number")
            if key.startswith("accuracy/"):
                _require(0 <= value <= 1, f"{where}: {key}={value} is not between 0 and 1")


def _check_place(record: RunRecord, directory: Path) -> None:
    """A directory that is named like a run holds that run.

    A copy of a run may have any other name: a person's folder of networks, say.
    """
    places = (directory.absolute(), directory.resolve())
    for place in places:
        seed = re.fullmatch(r"seed=(\d+)(\..*)?", place.name)
        cell = re.fullmatch(r".+-[0-9a-f]{8}", place.parent.name)
        if (not seed or int(seed[1]) == record.seed) and (
            not cell or place.parent.name == record.cell
        ):
            return
    raise ValueError(f"it is the record of {record.cell}/seed={record.seed}, another run")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_NAMES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "a boolean"}


def _typed(value: Any, kind: Any, where: str) -> Any:
    """`value` from JSON as `kind`: a dataclass, a list, a dict, a union or a scalar.

    Raises:
        ValueError: it is of another type, or a key is missing or unknown. Names the key.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [each for each in arguments if each is not type(None)]
        for each in inner:
            try:
                return _typed(value, each, where)
            except ValueError:
                if len(inner) == 1:
                    raise
        raise ValueError(f"{where}={_short(value)} is of no type that belongs there")
    if dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), f"{where or 'it'}={_short(value)} is not a mapping")
        hints, fields = _fields(typing.cast(type, kind))
        dot = f"{where}." if where else ""
        for name in value.keys() - fields.keys():
            raise ValueError(f"{dot}{name[:100]} is unknown here")
        for name, each in fields.items():
            bare = each.default is each.default_factory is dataclasses.MISSING
            _require(name in value or not bare, f"it has no {dot}{name}")
        parts = {name: _typed(part, hints[name], dot + name) for name, part in value.items()}
        return kind(**parts)  # type: ignore[operator]
    if origin is list:
        _require(isinstance(value, list), f"{where}={_short(value)} is not a list")
        return [_typed(part, arguments[0], f"{where}[{i}]") for i, part in enumerate(value)]
    if origin is dict:
        _require(isinstance(value, dict), f"{where}={_short(value)} is not a mapping")
        return {key: _typed(part, arguments[1], f"{where}.{key}") for key, part in value.items()}
    fits = type(value) is kind or (kind is float and type(value) is int)
    _require(fits, f"{where}={_short(value)} is not {_NAMES.get(kind, kind)}")
    _require(kind is not float or math.isfinite(value), f"{where}={value} is not finite")
    return value


@functools.cache
def _fields(kind: type[Any]) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """The types of a dataclass's fields, and the fields, by name."""
    return typing.get_type_hints(kind), {each.name: each for each in dataclasses.fields(kind)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def finite(metrics: Mapping[str, Any]) -> Metrics:
    """`metrics` with null for what is not a finite number: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
