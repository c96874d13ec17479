"""Checksums of a run's files, and the damage they show."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from resnet_cifar.errors import describe
from resnet_cifar.files import read_regular
from resnet_cifar.record.layout import CONFIG, METRICS, PROBE, RUN, SUMMED
from resnet_cifar.record.lines import KEYS, parse_lines
from resnet_cifar.record.schema import (
    FileSum,
    Metrics,
    RecordError,
    RunRecord,
    expect,
    read_content,
    read_record,
)


def sums(directory: Path, names: Iterable[str]) -> dict[str, FileSum]:
    """Compute the checksums of a run's files, of those that are there."""
    contents = {
        name: read_regular(directory / name) for name in names if (directory / name).exists()
    }
    return {
        name: FileSum(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in contents.items()
    }


def read_summed(directory: Path, name: str, record: RunRecord | None) -> bytes | None:
    """Read a run's file and check it against the record; None where there is no file.

    The record knows the files of a run that has ended by their checksums. Of one that has not it
    knows the lines so far: more may have been appended since, so the file has to begin with them.

    Raises:
        RecordError: it is not the file that the run wrote, by its checksum in the record.
    """
    path = directory / name
    content = read_content(path)
    if content is None or record is None or _fits(content, name, record):
        return content
    if not record.finished and (newer := read_record(directory)) is not None:
        content = read_content(path)  # the run went on between the two looks: once more
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
    """List the files of a run (all, or `names`) that are not as the run left them, a line each.

    Weights, predictions and configuration may be absent: a record is carried away without them.
    A file whose checksum the record does not have is read through, as far as that can be.
    """
    problems: list[str] = []
    for name in dict.fromkeys((*SUMMED, *record.files)) if names is None else names:
        try:
            content = read_summed(directory, name, record)
            if content is None:
                if name == METRICS or (name == PROBE and name in record.files):
                    expect(not record.epochs_done, f"{directory / name} is missing")
            elif name in record.files and (record.finished or name not in KEYS):
                continue  # what has its checksum needs no reading
            elif name in KEYS:
                lines = parse_lines(content, KEYS[name], directory / name)
                if name == METRICS:
                    _check_lines(lines, record, directory / name)
            elif name.endswith((".pt", ".npz")):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    bad = archive.testzip()
                    expect(bad is None, f"{directory / name} is damaged: {bad}")
        except (RecordError, ValueError) as error:
            problems.append(str(error))
        except Exception as error:  # zipfile raises many kinds
            problems.append(f"{directory / name} is damaged: {describe(error)}")
    return problems


def wrong_sizes(directory: Path, record: RunRecord) -> list[str]:
    """List of `damage` what is seen without reading weights: quick enough for every list."""
    problems = damage(directory, record, (METRICS, PROBE, CONFIG))
    for name, known in record.files.items():
        with contextlib.suppress(OSError):
            size = os.lstat(directory / name).st_size
            if name not in (METRICS, PROBE, CONFIG) and size != known.bytes:
                problems.append(f"{directory / name} has {size} bytes, not {known.bytes}")
    return problems


def read_run_lines(directory: Path, name: str) -> list[Metrics]:
    """Read a run's METRICS or PROBE; [] where there is no file and none is needed.

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
    """Raise ValueError unless every epoch done has its line, the last as the record has it."""
    epochs = {line["epoch"]: line for line in lines}
    lost = sorted(set(range(1, record.epochs_done + 1)) - epochs.keys())
    some = ", ".join(map(str, lost[:5])) + ("…" if lost[5:] else "")
    expect(not lost, f"{path} has no line of epoch {some} of {record.epochs_done}")
    if record.finished and record.final is not None:
        fits = max(epochs, default=0) == record.epochs_done
        fits = fits and epochs[record.epochs_done] == record.final
        expect(fits, f"{path} does not end with the epoch that {RUN} calls final")
