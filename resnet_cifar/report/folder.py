"""A report's folder: its files are written, and files of an earlier report removed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import write_atomically, write_json
from resnet_cifar.report import canvas
from resnet_cifar.report.document import Report
from resnet_cifar.report.page import render_page

LIST = "report-files.json"


def write_report(report: Report, folder: Path) -> None:
    """Write report.md, report.html, figures/*.svg and *.png, tables/*.csv (full precision).

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
    for table in report.tables:
        text = table.frame.to_csv(index=False)
        files[f"tables/{table.name}.csv"] = text.encode(errors="backslashreplace")
    for picture in report.pictures:
        files[f"figures/{picture.name}.svg"] = picture.svg.encode()
        files[f"figures/{picture.name}.png"] = canvas.draw_png(picture.figure)
    before = _read_list(folder)
    for name in files:
        _check_free(folder, name, name in before)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the files: a report that is killed knows its own all the same.
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_json(folder / LIST, {"files": before | sums})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, content)
    for name in before.keys() - files.keys():
        old = folder / name
        if _is_regular(old) and hashlib.sha256(old.read_bytes()).hexdigest() == before[name]:
            old.unlink()
    write_json(folder / LIST, {"files": sums})


def _read_list(folder: Path) -> dict[str, str]:
    """The files that an earlier report wrote there, with their SHA-256."""
    path = folder / LIST
    if not os.path.lexists(path):
        return {}
    allowed = re.compile(r"report\.(md|html)|figures/[\w.-]+\.(svg|png)|tables/[\w.-]+\.csv")
    try:
        if not _is_regular(path):
            raise ValueError("it is not a file")
        listed = json.loads(path.read_bytes())["files"]
        if not all(allowed.fullmatch(name) for name in listed):
            raise ValueError("it lists what no report writes")
        return {str(name): str(total) for name, total in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not the list of a report's files: {describe(error)}; "
            "choose another folder with --to"
        ) from error


def _check_free(folder: Path, name: str, ours: bool) -> None:
    """Raise UserError where a file that is not ours lies in the way of `name`."""
    path = folder / name
    for above in (folder, *([path.parent] if path.parent != folder else [])):
        if os.path.lexists(above) and (
            not above.is_dir() or (above.is_symlink() and above != folder)
        ):
            raise UserError(
                f"{above} is not a directory of a report: choose another folder with --to"
            )
    if os.path.lexists(path) and not (ours and _is_regular(path)):
        raise UserError(
            f"{path} is there and was not written by a report (it is not in {folder / LIST}): "
            "move it, or choose another folder with --to"
        )


def _is_regular(path: Path) -> bool:
    """True if a file itself lies there, not a link."""
    return path.is_file() and not path.is_symlink()
