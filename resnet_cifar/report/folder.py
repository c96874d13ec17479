"""A report's folder: its files are written, and files of an earlier report removed."""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

from resnet_cifar.errors import UserError
from resnet_cifar.files import check_writable, read_regular, write_atomically, write_json
from resnet_cifar.report.document import Picture, Report, Table, unfold
from resnet_cifar.report.page import render_page
from resnet_cifar.text import PATHS, csv_field

LIST = "report-files.json"
# Of earlier versions also PNG files.
_NAME = re.compile(r"report\.(md|html)|figures/[\w.-]+\.(svg|png)|tables/[\w.-]+\.csv")


def write_report(report: Report, folder: Path) -> None:
    """Write report.md, report.html, figures/*.svg, tables/*.csv (full precision).

    A list of these files and their checksums is kept in the folder. What an earlier report wrote
    and this one does not goes; whatever else is there, or was changed since, stays: UserError, with
    nothing written, where it lies in the way.
    """
    files: dict[str, bytes] = {
        "report.md": report.markdown().encode(),
        "report.html": render_page(report).encode(),
    }
    for part in unfold(report.parts):
        if isinstance(part, Table):
            frame = part.frame.rename(columns=csv_field)
            for key in frame.select_dtypes(exclude="number"):
                frame[key] = [csv_field(value, key in PATHS) for value in frame[key]]
            files[f"tables/{part.name}.csv"] = frame.to_csv(index=False).encode()
        elif isinstance(part, Picture):
            files[f"figures/{part.name}.svg"] = part.svg.encode()
    sums = {name: _sum(content) for name, content in files.items()}
    known = _read_list(folder)
    both = {name: f"{known.get(name, '')} {sums[name]}".strip() for name in files}
    for name in files:
        _check_free(folder, folder / name, both[name])
    folder.mkdir(parents=True, exist_ok=True)
    # Before the files: a report that is killed knows its own all the same.
    write_json(folder / LIST, {"files": known | both})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        check_writable(folder / name)  # what a killed report left half written goes
        write_atomically(folder / name, content)
    for name in known.keys() - files.keys():
        with contextlib.suppress(OSError):  # it is gone, or no file
            if _sum(read_regular(folder / name)) in known[name]:
                (folder / name).unlink()
    write_json(folder / LIST, {"files": sums})


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_list(folder: Path) -> dict[str, str]:
    """The files that earlier reports wrote there, with the SHA-256 that each may have.

    There are several, with a space between, where a report was killed before its files were whole.
    """
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    try:
        listed = json.loads(read_regular(path))["files"]
        if all(map(_NAME.fullmatch, listed)):
            return {name: "" + sums for name, sums in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is not the list of a report's files: choose another folder with --to")


def _check_free(folder: Path, path: Path, known: str) -> None:
    """Raise UserError where a file whose checksum is not `known` lies in the way of `path`."""
    for above in (folder, path.parent):
        link = above.is_symlink() and above != folder
        if os.path.lexists(above) and (link or not above.is_dir()):
            raise UserError(
                f"{above} is not a directory of a report: choose another folder with --to"
            )
    if not os.path.lexists(path):
        return
    with contextlib.suppress(OSError):  # a link, a pipe, a directory
        if _sum(read_regular(path)) in known:
            return
    raise UserError(
        f"{path} is not as a report wrote it (by its checksum in {folder / LIST}): move it to keep "
        "it, delete it, or choose another folder with --to"
    )
