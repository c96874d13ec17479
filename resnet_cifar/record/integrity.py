"""Checksums of a run's files, and the damage they show."""

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from resnet_cifar.errors import describe
from resnet_cifar.files import read_regular
from resnet_cifar.record import schema
from resnet_cifar.record.layout import CONFIG, METRICS, PROBE, RUN, SUMMED
from resnet_cifar.record.lines import KEYS, parse_lines
from resnet_cifar.record.schema import FileSum, Metrics, RecordError, RunRecord, read_content


def sums(directory: Path, names: Iterable[str]) -> dict[str, FileSum]:
    """Compute the checksums of a run's files, of those that are there."""
    paths = (directory / name for name in names)
    return {path.name: _sum(read_regular(path)) for path in paths if path.exists()}


def _sum(content: bytes) -> FileSum:
    return FileSum(hashlib.sha256(content).hexdigest(), len(content))


def read_summed(directory: Path, name: str, record: RunRecord | None) -> bytes | None:
    """Read a run's file and check it against the record; None where there is no file.

    Of a run that has not ended the record knows the lines so far, which the file has to begin
    with. Raises RecordError: it is not the file that the run wrote, or its lines are gone.
    """
    path = directory / name
    known = record.files.get(name) if record else None
    # Of another size it is another file: no need to read it, whatever it has become.
    with contextlib.suppress(OSError):
        size = os.lstat(path).st_size
        if record and record.finished and known and size != known.bytes:
            raise RecordError(f"{path} was changed: it has {size:,} bytes, not {known.bytes:,}")
    content = read_content(path)
    if content is None and record and record.epochs_done and name in KEYS and known:
        raise RecordError(f"{path} is missing")
    if content is None or record is None or _fits(content, name, record):
        return content
    if not record.finished and (newer := schema.read_record(directory)) is not None:
        content = read_content(path)  # the run went on between the two looks: once more
        if content is None or _fits(content, name, newer):
            return content
    raise RecordError(f"{path} was changed: its checksum in {RUN} does not fit")


def _fits(content: bytes, name: str, record: RunRecord) -> bool:
    known = record.files.get(name)
    if known and name in KEYS and not record.finished:
        content = content[: known.bytes]
    return known is None or known == _sum(content)


def check_archive(content: bytes) -> zipfile.ZipFile:
    """Open the zip archive that torch or numpy has written, its checksums verified.

    They compress nothing: what says it is larger than the file is a bomb. Raises ValueError, or
    what zipfile raises: it is damaged, or none of theirs.
    """
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    fits = plain and sum(entry.file_size for entry in entries) <= len(content)
    schema.expect(fits, "it unpacks to more than it is")
    bad = archive.testzip()
    schema.expect(bad is None, f"{bad} fails its checksum")
    return archive


def damage(directory: Path, record: RunRecord, quick: bool = False) -> list[str]:
    """List the files of a run that are not as the run left them, a line each.

    Weights, predictions and configuration may be absent: a record is carried away without them.
    A `quick` look, made for every list of runs, only compares sizes of weights and predictions.
    """
    problems: list[str] = []
    for name in dict.fromkeys((*SUMMED, *record.files)):
        path, known = directory / name, record.files.get(name)
        try:
            if quick and name not in (METRICS, PROBE, CONFIG):
                size = os.lstat(path).st_size if os.path.lexists(path) else None
                if known and size not in (None, known.bytes):
                    problems.append(f"{path} has {size} bytes, not {known.bytes}")
            elif name in KEYS and not (known and record.finished):
                read_run_lines(directory, name, record)
            else:
                content = read_summed(directory, name, record)
                if content is not None and not known and name.endswith((".pt", ".npz")):
                    check_archive(content)
        except RecordError as error:
            problems.append(str(error))
        except Exception as error:  # zipfile raises many kinds
            problems.append(f"{path} is damaged: {describe(error)}")
    return problems


def read_run_lines(directory: Path, name: str, record: RunRecord | None = None) -> list[Metrics]:
    """Read a run's METRICS or PROBE; [] where there is no file and none is needed.

    Raises RecordError: it was changed, is damaged, or lacks epochs that the run has behind it.
    """
    path, record = directory / name, record or schema.read_record(directory)
    lines = parse_lines(read_summed(directory, name, record) or b"", path)
    if record and name == METRICS:
        wanted = set(range(1, record.epochs_done + 1))
        if lost := sorted(wanted - {line["epoch"] for line in lines}):
            some = ", ".join(map(str, lost[:5])) + ("…" if lost[5:] else "")
            raise RecordError(f"{path} has no line of epoch {some} of {record.epochs_done}")
        if record.finished and record.final is not None and lines[-1:] != [record.final]:
            raise RecordError(f"{path} does not end with the epoch that {RUN} calls final")
    return lines
