"""metrics.jsonl and probe.jsonl: lines that belong to epochs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from resnet_cifar.errors import UserError
from resnet_cifar.files import AppendedFile, write_atomically
from resnet_cifar.record.layout import METRICS, PROBE
from resnet_cifar.record.schema import (
    START_AGAIN,
    FileSum,
    Metrics,
    RecordError,
    check_metrics,
    expect,
    finite,
    parse_json,
    read_content,
    shorten,
)

KEYS = {METRICS: ("epoch",), PROBE: ("epoch", "layer")}  # what tells the lines apart


def read_metrics(path: Path) -> list[Metrics]:
    """Read a metrics.jsonl, one flat dict an epoch; [] where there is no file.

    A last line torn by a kill is left out.

    Raises:
        RecordError: a line is damaged. Names the line.
    """
    return parse_lines(read_content(path) or b"", KEYS[METRICS], path)


def parse_lines(content: bytes, key: tuple[str, ...], path: Path) -> list[Metrics]:
    """Parse the `content` of the file at `path`; of lines with the same key the last one stays.

    A kill may have torn the last line, and an earlier version left an epoch twice.

    Raises:
        RecordError: a line is damaged. Names the line.
    """
    whole, _, _ = content.rpartition(b"\n")
    lines: dict[tuple[Any, ...], Metrics] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            value = parse_json(line)
            texts = {k: v for k, v in value.items() if k in ("layer", "kind")}
            expect(all(type(text) is str for text in texts.values()), "layer is not text")
            expect("layer" not in key or len(texts) == 2, "it has no layer or kind")
            check_metrics({k: v for k, v in value.items() if k not in texts}, f"line {number}")
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: line {number} is damaged: {shorten(error)}") from error
        lines[tuple(value[k] for k in key)] = value
    return list(lines.values())


class LinesFile:
    """Appends lines that belong to epochs; after a resume those to be trained again are dropped.

    Args:
        path: a METRICS or a PROBE; there is no file before the first line.
        epochs_done: lines of later epochs are dropped, with the first `append` or `trim`.

    Raises:
        RecordError: a line is damaged.
    """

    def __init__(self, path: Path, epochs_done: int) -> None:
        lines = parse_lines(read_content(path) or b"", KEYS[path.name], path)
        self.lines = [line for line in lines if line["epoch"] <= epochs_done]
        self.path = path
        self._sha256, self._bytes = hashlib.sha256(), 0
        self._count(_encode(self.lines))
        self._file: AppendedFile | None = None

    def expect(self, sha256: str | None) -> None:
        """Raise RecordError unless the lines so far have this checksum; None: it is not known."""
        if sha256 is not None and self.sum().sha256 != sha256:
            raise RecordError(
                f"{self.path} was changed: its lines are not those that the checkpoint was "
                f"written after; {START_AGAIN}"
            )

    def append(self, *lines: Metrics) -> None:
        """Write and flush one epoch's lines.

        Raises:
            OSError: the disk is full.
            UserError: the file was changed since the last `append`.
        """
        lines = tuple(finite(line) for line in lines)
        content = _encode(lines)
        if self._file is None:
            self.trim()
            self._file = AppendedFile(self.path)
        elif not self._file.in_place():
            refuse_changed(self.path)
        self._file.append(content)
        self.lines += lines
        self._count(content)

    def trim(self) -> None:
        """Drop from the file what `lines` has not; there stays none where there was none."""
        if self.path.exists():
            write_atomically(self.path, _encode(self.lines))

    def sum(self) -> FileSum:
        """Checksum and size of the lines so far, which a checkpoint and the record keep."""
        return FileSum(self._sha256.hexdigest(), self._bytes)

    def _count(self, content: bytes) -> None:
        self._sha256.update(content)
        self._bytes += len(content)

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def refuse_changed(path: Path) -> NoReturn:
    """Raise UserError: somebody else wrote to a file that this process was writing."""
    raise UserError(
        f"{path} was changed or removed during training, so this run stops and leaves it as it "
        "is; put back as it was, the same command goes on from the last checkpoint"
    )


def _encode(lines: Iterable[Metrics]) -> bytes:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
