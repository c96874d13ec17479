"""metrics.jsonl and probe.jsonl: lines that belong to epochs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_cifar.errors import describe
from resnet_cifar.files import AppendedFile, read_regular, write_atomically
from resnet_cifar.record.layout import METRICS, PROBE
from resnet_cifar.record.schema import (
    START_AGAIN,
    FileSum,
    Metrics,
    RecordError,
    _check_metrics,
    _no_constant,
    _one_line,
    _require,
    finite,
)

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
