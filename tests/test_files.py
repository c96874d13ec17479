"""Whole at every instant: atomic writes, checkpoints with a spare, the lock, metrics lines."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import ROOT
from made_up import make_run

from resnet_cifar import files
from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock, LockHeld, is_held, write_atomically
from resnet_cifar.record import checkpoint
from resnet_cifar.record.lines import LinesFile, read_metrics
from resnet_cifar.record.schema import RunRecord, finite


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    files.write_json(path, {"a": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Not the one beside it, nor none, as a full disk does."""

    def full(*names: object) -> None:
        raise OSError(
            28, "No space left on device", *[str(name) for name in names if step != "fsync"]
        )

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match="No space") as caught:
        files.write_json(tmp_path / "file.json", {"a": 2})
    assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path / 'file.json'}'"


@pytest.mark.parametrize("ending", [*files.MOST, ".png", ".npz", ""])
def test_what_is_too_large_is_not_read(tmp_path: Path, ending: str) -> None:
    path, most = tmp_path / f"file{ending}", files.MOST.get(ending, files.MOST_OF_OTHERS)
    path.touch()
    os.truncate(path, most + 1)
    with pytest.raises(OSError, match=f"has {most + 1:,} bytes; {most:,} are the most"):
        files.read_regular(path)
    os.truncate(path, 5)
    assert files.read_regular(path, 5) == bytes(5)
    with pytest.raises(OSError, match="has 5 bytes; 4 are the most"):
        files.read_regular(path, 4)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert finite({"a": float("inf"), "b": 1.5, "c": "x"}) == {
        "a": None,
        "b": 1.5,
        "c": "x",
    }


def state(value: float) -> dict:
    return {"model": {"w": torch.full((1000,), float(value))}, "epoch": int(value)}


RECORD = RunRecord("running", "lr0.1-12345678", 0, epochs=2, config={}, device="")


def test_the_spare_is_used_when_killed_between_the_two_renames(tmp_path: Path) -> None:
    whole = {"cell": RECORD.cell, "seed": RECORD.seed, "best": {"epoch": 1}, "optimizer": {}}
    checkpoint.save_last(tmp_path, whole | state(1))
    checkpoint.save_last(tmp_path, whole | state(2))
    (tmp_path / "last.pt").rename(tmp_path / "last.previous.pt")  # the moment in between
    found, notes = checkpoint.load_last(tmp_path, RECORD, 4)
    assert found is not None
    assert found["epoch"] == 2
    assert notes == []


@pytest.mark.parametrize("where", [0, 10, 500, -500, -10])
def test_any_damage_is_noticed(tmp_path: Path, where: int) -> None:
    """Cut off, or one byte changed: never a silent wrong weight."""
    path = tmp_path / "last.pt"
    checkpoint.save_last(tmp_path, state(1))
    content = path.read_bytes()
    path.write_bytes(content[: where or 5])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)
    data_at = content.index(torch.full((1000,), 1.0).numpy().tobytes())
    flipped = bytearray(content)
    flipped[data_at + 100] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"checksum|damaged"):
        checkpoint.load(path)


class Attack:
    """What it does when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": {}, "epoch": Attack(tmp_path / "ran")}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt"):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [["model"], "model", {"weights": 1}, {}])
def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not one of this program's"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_failed_save_leaves_the_last_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_last(tmp_path, state(1))
    original = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == "last.previous.pt":
            raise OSError(5, "Input/output error")
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output"):
        checkpoint.save_last(tmp_path, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.load_last(tmp_path, RECORD, 4) == (None, [])


def hold(path: str, seconds: float) -> None:
    with Lock(Path(path)):
        time.sleep(seconds)


def test_one_holder_at_a_time_and_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    assert not is_held(path)
    assert not path.parent.exists()
    told: list[str] = []
    with Lock(path):
        assert is_held(path)
        with pytest.raises(LockHeld, match=f"process {os.getpid()}"), Lock(path, wait=False):
            pass
        waiter = threading.Thread(target=lambda: Lock(path, on_wait=told.append).__enter__())
        waiter.start()
        time.sleep(0.6)
        assert waiter.is_alive()
    waiter.join(5)
    assert not waiter.is_alive()
    assert told == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_a_full_disk_leaves_nothing_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"), Lock(path):
            pass
    assert not is_held(path)
    with Lock(path, wait=False):
        assert is_held(path)


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(str(path), 60))
    holder.start()
    deadline = time.monotonic() + 30
    while not is_held(path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    holder.kill()
    holder.join()
    with Lock(path, wait=False):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="has no locks"), Lock(tmp_path / ".lock"):
        pass
    assert not is_held(tmp_path / ".lock")


def test_a_lock_survives_its_directory_being_set_aside(tmp_path: Path) -> None:
    run = tmp_path / "seed=0"
    with Lock(run / ".lock"):
        run.rename(tmp_path / "aside")
        with Lock(run / ".lock", wait=False):  # a new directory, a new lock
            assert is_held(tmp_path / "aside" / ".lock")


@pytest.mark.parametrize("refusals", [0, 1, 5, 6])
@pytest.mark.parametrize("change", ["open", "replace", "rename"])
def test_an_open_file_is_waited_for(
    refusals: int, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace and to move what another process has open for a moment."""
    original, left, slept = getattr(os, change), [refusals], []

    def refuse(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = 32  # type: ignore[attr-defined]
            raise error
        return original(*arguments)

    monkeypatch.setattr(time, "sleep", slept.append)
    run = tmp_path / "seed=0"
    with Lock(run / ".lock") as lock:
        write_atomically(run / "a", "before")
        monkeypatch.setattr(os, change, refuse)
        try:
            write_atomically(run / "a", "after")
            lock.move_directory(tmp_path / "aside")
        except OSError:
            assert refusals == 6
        monkeypatch.undo()
    place = tmp_path / "aside" if refusals < 6 else run
    expected = "before" if refusals == 6 and change != "rename" else "after"
    assert (place / "a").read_text() == expected
    assert sorted(path.name for path in place.iterdir()) == [".lock", "a"]
    assert sum(slept) < 1.5


def test_a_right_that_is_missing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", None)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a", "after")
    assert not list(tmp_path.iterdir())


def test_metrics_file_drops_what_will_be_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "a": 1}\n{"epoch": 2, "a": 2}\n{"epoch": 3, "a"')
    opened = LinesFile(path, epochs_done=1)
    opened.append({"epoch": 2, "a": float("nan")})
    opened.close()
    assert path.read_text() == '{"epoch": 1, "a": 1}\n{"epoch": 2, "a": null}\n'
    assert read_metrics(path)[1] == {"epoch": 2, "a": None}


def test_a_line_that_json_cannot_hold_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    opened = LinesFile(path, epochs_done=0)
    opened.append({"epoch": 1, "a": 1.0})
    with pytest.raises(UserError, match=r"can't hold this: epoch 2: a=\[nan\] is not a number"):
        opened.append({"epoch": 2, "a": [float("nan")]})
    opened.close()
    assert path.read_text() == '{"epoch": 1, "a": 1.0}\n'


def test_results_are_read_without_posix(tmp_path: Path) -> None:
    """Where there is no fcntl (Windows), reading needs no lock that is not there."""
    make_run(tmp_path, ["data=synthetic", "model.width=8", "trainer.epochs=2"])
    code = (
        "import sys\n"
        "sys.modules['fcntl'] = None\n"
        "from resnet_cifar.runs import command as runs\n"
        "from resnet_cifar.results import load_metrics, load_runs\n"
        f"assert len(load_metrics(load_runs({str(tmp_path)!r}))) == 2\n"
        f"assert runs.main(['verify', {str(tmp_path)!r}]) == 0\n"
        f"assert runs.main([{str(tmp_path)!r}]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_locks_without_posix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no fcntl, and msvcrt's locks of a byte, which a descriptor takes with it."""
    held: dict[int, int] = {}  # by inode: the descriptor
    original = os.close

    def locking(file: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1)
        assert os.lseek(file, 0, os.SEEK_CUR) > 10_000  # not where anything is read
        if held.setdefault(os.fstat(file).st_ino, file) != file:
            raise OSError(errno.EACCES, "Permission denied")

    def close(file: int) -> None:
        for inode, holder in list(held.items()):
            if holder == file:
                del held[inode]
        original(file)

    fake = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(os, "close", close)
    path = tmp_path / ".lock"
    with Lock(path):
        assert is_held(path)
        with pytest.raises(LockHeld, match=f"process {os.getpid()}"), Lock(path, wait=False):
            pass
    assert not is_held(path)
    with Lock(path, wait=False):
        pass
