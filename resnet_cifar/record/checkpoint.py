"""Checkpoints: atomic, checked, and with one spare."""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import read_regular, write_atomically
from resnet_cifar.identity import cell_hash
from resnet_cifar.record.integrity import check_archive, read_summed
from resnet_cifar.record.layout import BEST, LAST, PREVIOUS, WEIGHTS
from resnet_cifar.record.schema import START_AGAIN, RecordError, RunRecord, expect

FORM = "form"  # the key that has the checksum of the parts beside it
MOST_PARTS = 100_000  # ResNet-18 with AdamW and averaged weights has 500


def save(path: Path, state: dict[str, Any], spare: Path | None = None) -> None:
    """Write `state` (plain containers and tensors) as, and raise as, `write_atomically`."""
    # torch.save to a file turns a full disk into a RuntimeError; memory first, then one write.
    buffer = io.BytesIO()
    torch.save({**state, FORM: _form(state)}, buffer)
    write_atomically(path, buffer.getvalue(), spare)  # the buffer's own bytes: no copy


def on_host(value: Any, copies: dict[int, torch.Tensor]) -> Any:
    """Copy the parts of a checkpoint to the host, for a writer: training goes on over its own.

    A tensor that is there twice is one in `copies`, which is empty at first, and is written once.
    """
    if isinstance(value, torch.Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.detach().to("cpu", copy=True)
        return copies[id(value)]
    if isinstance(value, dict):
        return {key: on_host(part, copies) for key, part in value.items()}
    return [on_host(part, copies) for part in value] if isinstance(value, list) else value


def kinds(state: Any) -> dict[str, str]:
    """Name every part of a checkpoint with its kind: its type, and a tensor's dtype and shape.

    Raises ValueError: a tensor is not plain numbers in memory, or there are too many parts.
    """
    found = list(itertools.islice(_parts(state, ""), MOST_PARTS))
    # Parts that are shared, and shared again, double with every level.
    expect(len(found) < MOST_PARTS, f"it has {MOST_PARTS:,} parts or more")
    return dict(found)


def _parts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise ValueError(f"{name} is no plain tensor")
        yield name, f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    elif isinstance(value, (dict, list, tuple)):
        yield name, "a mapping" if isinstance(value, dict) else "a list"
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _parts(part, f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]")
    else:
        yield name, type(value).__name__


def _form(state: dict[str, Any]) -> str:
    """The checksum of what parts a checkpoint has; of their values the archive has checksums."""
    parts = kinds({key: value for key, value in state.items() if key not in (FORM, "digests")})
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


def compare_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise ValueError, naming the part, unless `found` has the weights in `expected`, alike."""
    wanted = kinds(expected)
    there = kinds({name: found[name] for name in expected if name in found})
    for name in wanted | there:
        has, needed = there.get(name, "missing"), wanted.get(name, "in this network")
        expect(has == needed, f"{name[1:]} is {has}, not {needed}")


def save_last(directory: Path, state: dict[str, Any]) -> None:
    """Write `state` as the last checkpoint and keep the one before it as the spare."""
    save(directory / LAST, state, directory / PREVIOUS)


def load(path: Path, parameters: int | None = None, content: bytes | None = None) -> dict[str, Any]:
    """Read a checkpoint of a network of so many `parameters`, its tensors on the host.

    `content` is that of the file, where it was read before. Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged (the archive's checksums are verified first).
    """
    try:
        # Of a parameter 4 bytes each for itself, its average, a momentum …: 64 numbers are enough.
        most = 256 * parameters + (1 << 28) if parameters else None
        content = read_regular(path, most) if content is None else content
        check_archive(content).close()
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        weights = state.get("model") if isinstance(state, dict) else None
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
            raise UserError(f"checkpoint {path} is not one of this program's")
        if (form := _form(state)) != state.get(FORM, form):
            raise UserError(f"checkpoint {path} is damaged: parts are missing or of another kind")
        return state
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # zipfile and torch raise many kinds on a truncated file
        raise UserError(f"checkpoint {path} is damaged: {describe(error)}") from error


def check_owner(state: dict[str, Any], path: Path, record: RunRecord, steps: int) -> None:
    """Raise UserError unless a run of so many `steps` an epoch can go on from `state`."""
    cell, seed, step = state.get("cell"), state.get("seed"), state.get("step", 0)
    epoch, epochs = state.get("epoch"), record.epochs
    problems = {
        f"of another run, {cell}/seed={seed}": (cell_hash(str(cell)), seed) != record.key,
        f"at epoch {epoch}": type(epoch) is not int or not 0 <= epoch <= epochs,
        f"at step {step}": type(step) is not int or not 0 <= step <= steps,
        f"at step {step} after the last epoch": epoch == epochs and step,
        "without its optimizer": epoch != epochs and "optimizer" not in state,
    }
    if problem := next((text for text, applies in problems.items() if applies), ""):
        run = f"a run of {epochs} epochs of {steps} steps"
        raise UserError(f"checkpoint {path} is {problem}: not one that {run} can go on from")


def load_last(
    directory: Path,
    record: RunRecord,
    steps: int,
    restore: Callable[[dict[str, Any]], None] = lambda state: None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Load and `restore` the newest checkpoint that can be read and is one of this run.

    Returns the state, None where the run has no checkpoint yet, and what to tell the user.
    Raises UserError: there are checkpoints and none can be gone on from.
    """
    notes: list[str] = []
    for path in (directory / LAST, directory / PREVIOUS):
        try:
            state = load(path, record.parameters)
            check_owner(state, path, record, steps)
            restore(state)  # the one before is restored over it, where that fails in the middle
            return state, notes
        except FileNotFoundError:
            continue
        except UserError as error:
            notes.append(str(error))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            notes.append(f"checkpoint {path} is not as this run writes it ({describe(error)})")
    if notes:
        raise UserError(f"{'; '.join(notes)}; no other is left: {START_AGAIN}")
    return None, notes


def load_weights(directory: Path, weights: str, record: RunRecord) -> dict[str, Any]:
    """Load weights of a run, one of `WEIGHTS`: "model", a state dict, and "epoch".

    Raises UserError: there are none, or they are damaged, changed or not the record's.
    """
    name = WEIGHTS[weights]
    path = directory / name
    if (content := read_summed(directory, name, record)) is None:
        raise RecordError(f"{directory} has no {name}: {record.status}")
    state = load(path, content=content)
    cell, seed, epoch = state.get("cell"), state.get("seed"), state.get("epoch")
    if (cell_hash(str(cell)), seed) != record.key:
        raise RecordError(f"{path} is of another run, {cell}/seed={seed}")
    best = record.best["epoch"] if record.best else None
    recorded = best if name == BEST else record.epochs_done
    # Of a run that goes on, the record is ahead of both files.
    if record.finished and epoch != recorded:
        end = ", in which it diverged" if record.status == "diverged" and name == LAST else ""
        raise RecordError(f"{path} is of epoch {epoch}, not of epoch {recorded}{end}")
    if weights == "ema":
        if "ema" not in state:
            raise RecordError(f"{directory} has no averaged weights: regularization.ema_decay=0")
        state["model"] = state.pop("ema")
    return state
