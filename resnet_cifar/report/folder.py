"""A report's folder: its files are written, and files of an earlier report removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

from resnet_cifar.errors import UserError
from resnet_cifar.files import check_writable, read_regular, write_atomically, write_json
from resnet_cifar.report.document import Picture, Report, Table
from resnet_cifar.report.page import render_page

LIST = "report-files.json"
# Of earlier versions also PNG files.
_NAME = re.compile(r"report\.(md|html)|figures/[\w.-]+\.(svg|png)|tables/[\w.-]+\.csv")


def write_report(report: Report, folder: Path) -> None:
    """Write report.md, report.html, figures/*.svg, tables/*.csv (full precision).

    A list of these files is kept in the folder. What an earlier report wrote and this one does not
    goes; whatever else is there stays.

    Raises:
        UserError: a file that no report wrote lies where one belongs. Nothing is written.
        OSError: it can't be written.
    """
    files: dict[str, bytes] = {
        "report.md": report.markdown().encode(),
        "report.html": render_page(report).encode(),
    }
    for part in report.parts:
        if isinstance(part, Table):
            text = part.frame.to_csv(index=False)
            files[f"tables/{part.name}.csv"] = text.encode(errors="backslashreplace")
        elif isinstance(part, Picture):
            files[f"figures/{part.name}.svg"] = part.svg.encode()
    before = _read_list(folder)
    for name in files:
        _check_free(folder, folder / name, name in before)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the files: a report that is killed knows its own all the same.
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_json(folder / LIST, {"files": before | sums})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        check_writable(folder / name)  # what a killed report left half written goes
        write_atomically(folder / name, content)
    for name in before.keys() - files.keys():
        with contextlib.suppress(OSError):  # it is gone, or no file
            if hashlib.sha256(read_regular(folder / name)).hexdigest() == before[name]:
                (folder / name).unlink()
    write_json(folder / LIST, {"files": sums})


def _read_list(folder: Path) -> dict[str, str]:
    """The files that an earlier report wrote there, with their SHA-256."""
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    try:
        listed = json.loads(read_regular(path))["files"]
        if all(map(_NAME.fullmatch, listed)):
            return dict(listed)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is not the list of a report's files: choose another folder with --to")


def _check_free(folder: Path, path: Path, ours: bool) -> None:
    """Raise UserError where a file that is not ours lies in the way of `path`."""
    for above in (folder, path.parent):
        link = above.is_symlink() and above != folder
        if os.path.lexists(above) and (link or not above.is_dir()):
            raise UserError(
                f"{above} is not a directory of a report: choose another folder with --to"
            )
    if os.path.lexists(path) and not (ours and path.is_file() and not path.is_symlink()):
        raise UserError(
            f"{path} is there and was not written by a report (it is not in {folder / LIST}): "
            "move it, or choose another folder with --to"
        )
