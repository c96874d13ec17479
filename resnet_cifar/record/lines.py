"""metrics.jsonl and probe.jsonl: lines that belong to epochs."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from resnet_cifar.errors import UserError, shorten
from resnet_cifar.files import is_at, open_regular, write_atomically
from resnet_cifar.record import schema
from resnet_cifar.record.layout import METRICS, PROBE
from resnet_cifar.record.schema import Metrics, RecordError

TEXTS = ("layer", "kind")  # of a PROBE; the rest are numbers
KEYS = {METRICS: ("epoch",), PROBE: ("epoch", "layer")}  # what tells the lines apart


def read_metrics(path: Path) -> list[Metrics]:
    """Read a METRICS, one flat dict an epoch, or a PROBE, as `parse_lines`; [] without a file."""
    return parse_lines(schema.read_content(path) or b"", path)


def parse_lines(content: bytes, path: Path) -> list[Metrics]:
    """Parse the `content` of the file at `path`; of lines with the same key the last one stays.

    A kill may have torn the last line, and an earlier version left an epoch twice. Raises
    RecordError: a line is damaged. Names the line.
    """
    whole, _, _ = content.rpartition(b"\n")
    keys = KEYS[path.name]
    lines: dict[tuple[Any, ...], Metrics] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            value = schema.parse_json(line)
            _check(value, path, f"line {number}")
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: line {number} is damaged: {shorten(str(error))}") from error
        lines[tuple(value[k] for k in keys)] = value
    return list(lines.values())


class LinesFile:
    """Appends lines that belong to epochs; after a resume those to be trained again are dropped.

    Args:
        path: a METRICS or a PROBE; there is no file before the first line.
        epochs_done: lines of later epochs are dropped, with the first `append` or `trim`.
        sha256: of the other lines, where it is known. Raises RecordError: they have another.
    """

    def __init__(self, path: Path, epochs_done: int, sha256: str | None = None) -> None:
        self.lines = [line for line in read_metrics(path) if line["epoch"] <= epochs_done]
        self.path = path
        content = _encode(self.lines)
        self._sha256, self._bytes = hashlib.sha256(content), len(content)
        self._file: int | None = None
        if sha256 is not None and self.sum().sha256 != sha256:
            changed = f"{path} was changed: its lines are not those of the checkpoint"
            raise RecordError(f"{changed}; {schema.START_AGAIN}")

    def append(self, *lines: Metrics) -> None:
        """Write one epoch's lines and wait for the disk.

        Raises OSError; UserError: the file was changed since, or these would not be read back.
        """
        lines = tuple(map(schema.finite, lines))
        try:
            for line in lines:
                _check(line, self.path, f"epoch {line['epoch']}")
        except ValueError as error:
            raise UserError(f"{self.path} can't hold this: {shorten(str(error))}") from error
        content = _encode(lines)
        if self._file is None:
            self.trim()
            self._file = open_regular(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        elif not is_at(self._file, self.path) or os.fstat(self._file).st_size != self._bytes:
            refuse_changed(self.path)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self.lines += lines
        self._sha256.update(content)
        self._bytes += len(content)

    def trim(self) -> None:
        """Drop from the file what `lines` has not; there stays none where there was none."""
        if self.path.exists():
            write_atomically(self.path, _encode(self.lines))

    def sum(self) -> schema.FileSum:
        """Checksum and size of the lines so far, which a checkpoint and the record keep."""
        return schema.FileSum(self._sha256.hexdigest(), self._bytes)

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def refuse_changed(path: Path) -> NoReturn:
    """Raise UserError: somebody else wrote to a file that this process was writing."""
    what = f"{path} was changed or removed during training, so this run stops"
    raise UserError(f"{what}; put it back as it was, and the same command goes on")


def _check(line: Metrics, path: Path, where: str) -> None:
    """Raise ValueError unless all of a line is numbers, but for a PROBE's texts."""
    texts = TEXTS if path.name == PROBE else ()
    named = all(type(line.get(text)) is str for text in texts)
    schema.expect(named, f"{where} has no layer or kind")
    schema.check_metrics({k: v for k, v in line.items() if k not in texts}, where)


def _encode(lines: Iterable[Metrics]) -> bytes:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
