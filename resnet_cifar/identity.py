"""The name of a run: a function of its configuration, a dataclass of parts with a NAME each.

A field is identity, it changes the result, unless it is declared by `execution()`. One that is
added after runs exist is declared by `added(absent)`, so that they keep their names.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# A label shows a coordinate of the study always, another value where it is not the usual one.
COORDINATES = ("optimizer.lr", "scheduler", "regularization.weight_decay", "norm", "norm.detach")
_NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))
USUAL: dict[str, Any] = _NAMES["usual"]
SHORT: dict[str, str] = _NAMES["short"]
MOVED: dict[str, str] = _NAMES["moved"]
UNNAMED = {f"{kind}.{name}" for kind, names in _NAMES["unnamed"].items() for name in names}
LABEL_LENGTH = 100  # characters; values that do not fit are told apart by the hash alone


def execution() -> Any:
    """Declare a field that does not change the result."""
    return dataclasses.field(metadata={"execution": True})


def added(absent: object) -> Any:
    """Declare an identity field when runs exist already; `absent` is the value they had."""
    return dataclasses.field(metadata={"absent": absent})


def items(config: Any, everything: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of the identity fields of `config`, or of all its fields.

    A part is listed by its kind under its own key (where there is a choice of kinds), then its
    fields. The seed is no part of a cell and only listed with `everything`.
    """
    for field in dataclasses.fields(config):
        value, declared = getattr(config, field.name), field.metadata
        apart = declared.get("execution") or ("absent" in declared and declared["absent"] == value)
        if not everything and (apart or field.name == "seed"):
            continue
        kind: str | None = getattr(value, "NAME", None)
        if kind != field.name:
            yield field.name, kind or value
        if kind:
            for key, inner in items(value, everything):
                yield f"{field.name}.{key}", inner


def flatten(config: Any) -> dict[str, Any]:
    """Return every field of `config` under its dotted key, its value as JSON gives it back."""
    flat: dict[str, Any] = json.loads(json.dumps(dict(items(config, everything=True))))
    return flat


def varying_keys(flat: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Find the keys in which flat configurations differ, each with its shortest plain name.

    A value that only follows from a group's option, where that varies, says nothing more: left out.
    """
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: [repr(each.get(key)) for each in flat] for key in keys}
    chosen = [key for key in keys if len(set(values[key])) > 1]
    for key in chosen.copy():
        group = key.partition(".")[0]
        if group != key and group in chosen:
            pairs = set(zip(values[group], values[key], strict=True))
            if len(pairs) == len(set(values[group])):
                chosen.remove(key)
    tails = [key.rpartition(".")[2] for key in chosen]
    return {k: t if tails.count(t) == 1 else k for t, k in zip(tails, chosen, strict=True)}


def number(value: Any) -> str:
    """Write a value as people do: 0.01, 5e-04 as 0.0005, true, null; a list as JSON, [150,225]."""
    if isinstance(value, (list, tuple, dict)):  # with every digit: tables group by what is written
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else "null" if value is None else str(value).lower()


def label(cell: dict[str, Any]) -> str:
    """Make the readable part of a cell's name: the study's coordinates, then unusual values."""
    detach = cell.get("norm.detach", "none")
    norm = SHORT.get(cell["norm"], cell["norm"])
    parts = [
        f"lr{number(cell['optimizer.lr'])}",
        cell["scheduler"],
        f"wd{number(cell['regularization.weight_decay'])}",
        {"none": norm, "both": f"detached_{norm}"}.get(detach, f"{norm}_detach_{detach}"),
        f"{number(cell['trainer.epochs'])}ep",
    ]
    for key in [*USUAL, *(key for key in cell if key not in USUAL)]:
        value = cell.get(key, USUAL.get(key))
        group, _, name = key.rpartition(".")
        usual = USUAL[key] == value if key in USUAL else f"{cell.get(group)}.{name}" in UNNAMED
        of_data = key == "data.val_size" and cell["data"] != USUAL["data"]
        if key in COORDINATES or key == "trainer.epochs" or usual or of_data:
            continue
        short = SHORT.get(key, name)
        if not group and isinstance(value, str):  # a kind
            part = SHORT.get(f"{key}={value}", value)
        elif value is True:
            part = short
        elif key in USUAL or (type(value) in (int, float) and not name[-1].isdigit()):
            part = short + number(value)
        else:  # any text, or a list, as a part of a directory's name
            part = f"{short}={'-'.join(re.findall(r'[A-Za-z0-9_.+-]+', number(value)))}"
        if len("_".join([*parts, part])) <= LABEL_LENGTH:
            parts.append(part)
    return "_".join(parts)


def cell_name(config: Any) -> str:
    """Name a cell: its label and 32 bits of its identity's SHA-256, `lr0.01_[…]_300ep-1a2b3c4d`."""
    cell = dict(items(config))
    hashed = {MOVED.get(key, key): value for key, value in cell.items()}
    if cell.get("augmentation") == USUAL["augmentation"]:  # the only one there was
        del hashed["augmentation"]
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{label(cell)}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def cell_hash(name: str) -> str:
    """Return what identifies a cell in its name, the hash; a name without one as it is."""
    hashed = re.fullmatch(r".+-([0-9a-f]{8})", name)
    return hashed[1] if hashed else name


def run_directory(config: Any) -> Path:
    """Return `<output_root>/<cell>/seed=<n>`, relative to the working directory.

    A run that is there under the same hash and another label stays where it is: labels may change.
    """
    root, cell, seed = Path(config.output_root), cell_name(config), f"seed={config.seed}"
    names = [cell]
    with contextlib.suppress(OSError):  # the reader of records says why it can't be looked at
        if not os.path.lexists(root / cell / seed):
            there = os.stat(root)
            alike = _list_cells(str(root), there.st_ino, there.st_mtime_ns).get(cell_hash(cell), ())
            names += [name for name in alike if name != cell and _is_of(root / name, config)]
    places = sorted((root / name for name in names), key=Path.is_dir, reverse=True)
    return next((p / seed for p in places if os.path.lexists(p / seed)), places[0] / seed)


@functools.lru_cache(maxsize=4)  # a plan asks thousands of times
def _list_cells(root: str, inode: int, changed: int) -> dict[str, list[str]]:
    """List the names in a directory that has not `changed`, by the hash of a cell in them."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(root)):
        names.setdefault(cell_hash(name), []).append(name)
    return names


def _is_of(cell: Path, config: Any) -> bool:
    """True unless a record there is another configuration's: 32 bits agree by chance, too."""
    wanted = json.loads(json.dumps(dict(items(config))))
    for record in cell.glob("seed=*/run.json"):
        with contextlib.suppress(Exception):  # the reader of records says what is wrong with it
            had = json.loads(record.read_bytes())["config"]
            return all(had[key] == wanted[key] for key in had.keys() & wanted)
    return True
