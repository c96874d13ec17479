"""Files that are whole at every instant."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside `path`, flush to disk, rename over it.

    Raises:
        OSError: nothing was changed and nothing is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    # Host and process id keep two writers (a run and its evaluation, say) out of each other's way.
    beside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically. Raises ValueError on NaN: JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
