"""The files of a run that programs read, and the one reader of them. No torch here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import re
import types
import typing
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import AppendedFile, is_held, read_regular, write_atomically, write_json
from resnet_cifar.identity import MOVED

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
FINAL = ("completed", "diverged")  # outcomes: never trained again
STATUSES = (*FINAL, "running", "interrupted", "failed")
OBJECTIVE = "accuracy/val"
START_AGAIN = "rerun=true sets the run aside and starts again"
VERSION = 2  # of the record; 1 had neither a version nor checksums

Value = str | int | float | bool | None
Metrics = dict[str, Any]  # an epoch's flat numbers: "epoch" whole, None where one was not finite

# The record --------------------------------------------------------------------------------------
# A field with a default came after the first records, or is not known from the start: the default
# is what its absence means.


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
        from resnet_cifar.config import with_absent  # which reads YAML: only where it is needed

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


# Files -------------------------------------------------------------------------------------------


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


def sums(directory: Path, names: Iterable[str]) -> dict[str, FileSum]:
    """The checksums of a run's files, those that are there."""
    found = {}
    for name in names:
        if (directory / name).exists():
            content = read_regular(directory / name)
            found[name] = FileSum(hashlib.sha256(content).hexdigest(), len(content))
    return found


def read_summed(directory: Path, name: str, record: RunRecord | None) -> bytes | None:
    """The content of a run's file, None where there is none.

    The record knows the files of a run that has ended by their checksums. Of one that has not it
    knows the lines so far: more may have been appended since, so the file has to begin with them.

    Raises:
        RecordError: it is not the file that the run wrote, as its record tells.
    """
    path = directory / name
    content = _content(path)
    if content is None or record is None or _fits(content, name, record):
        return content
    if not record.finished and (newer := read_record(directory)) is not None:
        content = _content(path)  # the run went on between the two looks: once more
        if content is None or _fits(content, name, newer):
            return content
    raise RecordError(f"{path} was changed: its checksum in {RUN} does not fit")


def _fits(content: bytes, name: str, record: RunRecord) -> bool:
    known = record.files.get(name)
    if known is None:
        return True
    if name in KEYS and not record.finished:
        content = content[: known.bytes]
    return (len(content), hashlib.sha256(content).hexdigest()) == (known.bytes, known.sha256)


def damage(directory: Path, record: RunRecord, names: Iterable[str] | None = None) -> list[str]:
    """What of a run's files (all, unless `names` are given) is not as the run left it, a line each.

    Weights, predictions and configuration may be absent: a record is carried away without them.
    A file whose checksum the record does not have is read through, as far as that can be.
    """
    found: list[str] = []
    for name in dict.fromkeys((*SUMMED, *record.files)) if names is None else names:
        try:
            content = read_summed(directory, name, record)
            if content is None:
                if name == METRICS or (name == PROBE and name in record.files):
                    _require(not record.epochs_done, f"{directory / name} is missing")
            elif name in record.files and (record.finished or name not in KEYS):
                continue  # what has its checksum needs no reading
            elif name in KEYS:
                lines = parse_lines(content, KEYS[name], directory / name)
                if name == METRICS:
                    _check_lines(lines, record, directory / name)
            elif name.endswith((".pt", ".npz")):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    bad = archive.testzip()
                    _require(bad is None, f"{directory / name} is damaged: {bad}")
        except (RecordError, ValueError) as error:
            found.append(str(error))
        except Exception as error:  # zipfile raises many kinds
            found.append(f"{directory / name} is damaged: {describe(error)}")
    return found


def wrong_sizes(directory: Path, record: RunRecord) -> list[str]:
    """What of `damage` can be seen without reading weights: quick enough for every list."""
    small = damage(directory, record, (METRICS, PROBE, CONFIG))
    for name, known in record.files.items():
        with contextlib.suppress(OSError):
            size = os.lstat(directory / name).st_size
            if name not in (METRICS, PROBE, CONFIG) and size != known.bytes:
                small.append(f"{directory / name} has {size} bytes, not {known.bytes}")
    return small


def read_run_lines(directory: Path, name: str) -> list[Metrics]:
    """The lines of a run's METRICS or PROBE; [] where there is no file and none is needed.

    Raises:
        RecordError: the file was changed, is damaged, or lacks epochs that the run has behind it.
    """
    record = read_record(directory)
    lines = parse_lines(read_summed(directory, name, record) or b"", KEYS[name], directory / name)
    if record and name == METRICS:
        try:
            _check_lines(lines, record, directory / name)
        except ValueError as error:
            raise RecordError(str(error)) from error
    return lines


def _check_lines(lines: list[Metrics], record: RunRecord, path: Path) -> None:
    """Every epoch that the record has behind it, and the last as the record has it."""
    epochs = {line["epoch"]: line for line in lines}
    lost = sorted(set(range(1, record.epochs_done + 1)) - epochs.keys())
    some = ", ".join(map(str, lost[:5])) + ("…" if lost[5:] else "")
    _require(not lost, f"{path} has no line of epoch {some} of {record.epochs_done}")
    if record.finished and record.final is not None:
        fits = max(epochs, default=0) == record.epochs_done
        fits = fits and epochs[record.epochs_done] == record.final
        _require(fits, f"{path} does not end with the epoch that {RUN} calls final")


# Lines -------------------------------------------------------------------------------------------


KEYS = {METRICS: ("epoch",), PROBE: ("epoch", "layer")}  # what tells the lines apart


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl, one flat dict an epoch; [] where there is no file.

    A last line torn by a kill is left out.

    Raises:
        RecordError: a line is damaged. Names the line.
    """
    return _read_lines(path, KEYS[METRICS])


def read_probe(path: Path) -> list[Metrics]:
    """The lines of a probe.jsonl, one flat dict for each epoch and layer; [] without a file.

    `pandas.DataFrame(read_probe(path))` is the table. gradient_flow.py says what the numbers are.

    Raises:
        RecordError: a line is damaged. Names the line.
    """
    return _read_lines(path, KEYS[PROBE])


def _read_lines(path: Path, key: tuple[str, ...]) -> list[Metrics]:
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RecordError(f"{path} can't be read: {describe(error)}") from error
    return parse_lines(content, key, path)


def parse_lines(content: bytes, key: tuple[str, ...], path: Path) -> list[Metrics]:
    """The lines in `content` of the file at `path`; the last one of a key stays.

    A kill may have torn the last line, and an earlier version left an epoch twice.
    """
    whole, _, _ = content.rpartition(b"\n")
    found: dict[tuple[Any, ...], Metrics] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            value = json.loads(line.decode(), parse_constant=_no_constant)
            _require(isinstance(value, dict), "not a mapping")
            texts = {k: v for k, v in value.items() if k in ("layer", "kind")}
            _require(all(type(text) is str for text in texts.values()), "layer is not text")
            _require("layer" not in key or len(texts) == 2, "it has no layer or kind")
            _check_metrics({k: v for k, v in value.items() if k not in texts}, f"line {number}")
        except (ValueError, RecursionError) as error:
            what = f"line {number} is damaged: {_one_line(error)}"
            raise RecordError(f"{path}: {what}") from error
        found[tuple(value[k] for k in key)] = value
    return list(found.values())


def finite(metrics: Mapping[str, Any]) -> Metrics:
    """`metrics` with null for what is not a finite number: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }


class LinesFile:
    """Appends lines that belong to epochs; after a resume those to be trained again are dropped.

    Args:
        path: there is no file before the first line.
        epochs_done: lines of later epochs are dropped, with the first `append` or `trim`.
        key: what tells the lines of the file apart; the last one of a key stays.
        sha256: what `sum()` was after `epochs_done` epochs, where that is known.

    Raises:
        RecordError: a line is damaged, or the lines are not those of `sha256`.
    """

    def __init__(
        self,
        path: Path,
        epochs_done: int,
        key: tuple[str, ...] = ("epoch",),
        sha256: str | None = None,
    ) -> None:
        self.lines = [line for line in _read_lines(path, key) if line["epoch"] <= epochs_done]
        self.path = path
        self._sha256, self._bytes = hashlib.sha256(), 0
        self._count(_text(self.lines).encode())
        if sha256 is not None and self.sum().sha256 != sha256:
            raise RecordError(
                f"{path} was changed: its lines to epoch {epochs_done} are not those that the "
                f"checkpoint was written after; {START_AGAIN}"
            )
        self._file: AppendedFile | None = None

    def append(self, *lines: Metrics) -> None:
        """Write and flush one epoch's lines. Raises OSError when the disk is full."""
        lines = tuple(finite(line) for line in lines)
        content = _text(lines).encode()
        if self._file is None:
            self.trim()
            self._file = AppendedFile(self.path)
        self._file.append(content)
        self.lines += lines
        self._count(content)

    def trim(self) -> None:
        """Drop from the file what `lines` has not; there stays none where there was none."""
        if self.path.exists():
            write_atomically(self.path, _text(self.lines))

    def in_place(self) -> bool:
        """Whether the file that was written to still lies at its path."""
        return self._file is None or self._file.in_place()

    def intact(self) -> bool:
        """Whether the file says what was written to it."""
        with contextlib.suppress(OSError):
            return read_regular(self.path) == _text(self.lines).encode()
        return not self.lines

    def restore(self) -> None:
        """Write every line again, to a new file."""
        self.close()
        write_atomically(self.path, _text(self.lines))

    def sum(self) -> FileSum:
        """The lines so far: what a checkpoint and the record know the file by."""
        return FileSum(self._sha256.hexdigest(), self._bytes)

    def _count(self, content: bytes) -> None:
        self._sha256.update(content)
        self._bytes += len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _text(lines: Iterable[Metrics]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
