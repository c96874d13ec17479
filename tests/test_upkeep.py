"""Archive, remove, clean, verify: only what is this program's own, and a kill costs nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_up import make_small_run as make

from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock, LockHeld
from resnet_cifar.record.integrity import sums
from resnet_cifar.record.layout import SUMMED
from resnet_cifar.record.lines import LinesFile
from resnet_cifar.record.schema import read_record, write_record
from resnet_cifar.runs.command import main
from resnet_cifar.runs.find import find_runs
from resnet_cifar.runs.housekeeping import REMOVED, archive_root, clean

CELL = "lr0.1_a-11111111"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(Path("outputs"), CELL, 0, "completed")
    make(Path("outputs"), CELL, 1, "completed")
    return Path("outputs")


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    """A pipe in a file's place must not be waited for."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


class Killed(BaseException):
    pass


# Renaming and deleting are all there is.
STEPS = ("rename", "unlink", "rmdir", "mkdir", "fsync")


def killed_at(count: int, patch: pytest.MonkeyPatch) -> None:
    """Die before the n-th change of the file system."""
    left = [count]

    def guarded(name: str) -> Callable[..., object]:
        original = getattr(os, name)

        def step(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*args, **kwargs)

        return step

    for name in STEPS:
        patch.setattr(os, name, guarded(name))


@pytest.mark.parametrize("action", ["archive", "remove"])
def test_killed_at_every_step_and_asked_again(root: Path, action: str) -> None:
    (root / CELL / "seed=0" / ".run.json.host.1.tmp").write_text("{")
    shutil.copytree(root, "original")
    whole = tree(Path("original") / CELL / "seed=0")
    del whole[".run.json.host.1.tmp"]
    archived = Path("outputs.archive") / CELL / "seed=0"
    for count in range(100):
        for place in (root, Path("outputs.archive")):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree("original", root)
        killed = False
        with pytest.MonkeyPatch.context() as patch:
            killed_at(count, patch)
            try:
                main([action, "outputs", "--seed", "0", "--yes"])
            except Killed:
                killed = True
        # Nothing is half: what shows as a run is one, here or there.
        places = [root / CELL / "seed=0", archived]
        there = [place for place in places if place.exists()]
        assert there or action == "remove"
        for place in there:
            found = {k: v for k, v in tree(place).items() if not k.endswith(".tmp")}
            assert found == whole
        assert main([action, "outputs", "--seed", "0", "--yes"]) == 0
        assert main(["clean", "outputs", "--yes"]) == 0
        assert not (root / CELL / "seed=0").exists()
        assert [path.name for path in (root / CELL).iterdir()] == ["seed=1"]
        if action == "archive":
            assert {k: v for k, v in tree(archived).items() if not k.endswith(".tmp")} == whole
            assert [path.name for path in archived.parent.iterdir()] == ["seed=0"]
        if not killed:
            assert count > 2
            return
    pytest.fail("never ran to its end")


def test_an_archive_on_another_disk_is_left_to_mv(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line that is printed does it, and nothing was moved, made or lost before."""

    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    before = tree(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert main(["archive", "outputs", "--seed", "0", "--yes"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is on another disk than outputs/" in said
    assert tree(root) == before
    assert not Path("outputs.archive").exists()
    by_hand = said.partition("not touched; ")[2].partition(" would move it")[0]
    subprocess.run(by_hand, shell=True, check=True)
    assert sorted(path.name for path in (root / CELL).iterdir()) == ["seed=1"]
    moved = tree(Path("outputs.archive") / CELL / "seed=0")
    assert moved == {k.removeprefix(f"{CELL}/seed=0/"): v for k, v in before.items() if "=0/" in k}


def test_what_is_in_no_cell_is_not_archived(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its archive would lie where runs are looked for."""
    before = tree(root)
    assert main(["archive", f"outputs/{CELL}", "--all", "--yes"]) == 1
    assert main(["archive", f"outputs/{CELL}/seed=0", "--all", "--yes"]) == 1
    assert main(["remove", f"outputs/{CELL}/seed=0", "--all", "--yes"]) == 1
    assert capsys.readouterr().err.count("\n") == 4
    assert tree(root) == before
    assert main(["remove", f"outputs/{CELL}", "--seed", "0", "--yes"]) == 0
    assert [path.name for path in (root / CELL).iterdir()] == ["seed=1"]


def test_another_run_of_that_name_in_the_archive(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make(Path("outputs.archive"), CELL, 0, "failed")
    before = tree(other)
    assert main(["archive", "outputs", "--all", "--yes"]) == 1
    said = capsys.readouterr()
    assert "exists already" in said.err
    assert said.err.count("\n") == 1
    assert "seed=1 is now" in said.out  # one failure does not end the rest
    assert tree(other) == before
    assert (root / CELL / "seed=0").exists()


def test_dots_and_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(root, "backup")
    os.symlink(Path("backup").resolve(), "linked")
    assert main(["archive", "linked", "--seed", "0", "--yes"]) == 0
    assert Path("backup.archive", CELL, "seed=0").is_dir()  # beside the real directory
    monkeypatch.chdir(root)
    assert main(["archive", ".", "--seed", "0", "--yes"]) == 0
    monkeypatch.chdir(CELL)
    assert main(["archive", "..", "--seed", "1", "--yes"]) == 0
    monkeypatch.chdir(root.parent)
    with pytest.raises(UserError, match="root of a file system"):
        archive_root(Path("/"))


@pytest.mark.parametrize("action", ["archive", "remove"])
def test_what_is_not_ours_stays(
    root: Path, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links, pipes, other people's files and directories, records that can't be read."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("a cat")
    foreign = root / "photos" / "seed=holiday"
    foreign.mkdir(parents=True)
    (foreign / "cat.jpg").write_text("a cat")
    elsewhere = make(tmp_path / "elsewhere", "lr0.2_b-22222222", 0, "completed")
    os.symlink(elsewhere.parent, root / "lr0.2_b-22222222")
    os.symlink(elsewhere, root / CELL / "seed=2")
    broken = make(root, CELL, 3, "completed")
    (broken / "run.json").write_text("{")
    with_link = make(root, CELL, 4, "completed")
    os.symlink(photos / "cat.jpg", with_link / "train.log")
    with_pipe = make(root, CELL, 5, "completed")
    os.mkfifo(with_pipe / "probe.jsonl")
    with_folder = make(root, CELL, 6, "completed")
    (with_folder / "notes").mkdir()
    copied = make(root, CELL, 7, "completed")
    (copied / "run.json").write_text((root / CELL / "seed=0" / "run.json").read_text())
    with_lock = make(root, CELL, 8, "completed")
    os.symlink(photos / "cat.jpg", with_lock / ".lock")
    with_file = make(root, CELL, 9, "completed")
    (with_file / "paper.pdf").write_text("a paper")

    def odd() -> dict[Path, dict[str, bytes]]:
        places = [photos, foreign, elsewhere, broken, with_link, with_folder, copied]
        return {place: tree(place) for place in places}

    before = odd()
    assert main([action, "outputs", "--all", "--yes"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert len(err.splitlines()) == (10 if action == "remove" else 9)
    assert odd() == before
    assert with_pipe.exists()
    assert with_lock.exists()
    assert (photos / "cat.jpg").read_text() == "a cat"
    assert with_file.exists() == (action == "remove")  # moving takes it along
    assert not (root / CELL / "seed=0").exists()
    assert not (root / CELL / "seed=1").exists()


def test_a_removal_that_was_killed_does_not_block_the_next(root: Path) -> None:
    left = root / CELL / ".removed-seed=0"
    shutil.copytree(root / CELL / "seed=0", left)
    assert main(["remove", "outputs", "--seed", "0", "--yes"]) == 0
    assert not left.exists()
    left.mkdir()
    (left / "thesis.tex").write_text("")
    assert main(["clean", "outputs", "--yes"]) == 0
    assert left.exists()  # not ours, whatever its name


@pytest.mark.parametrize("days", ["nan", "-1", "inf", "soon"])
def test_older_than_is_a_number_of_days(
    root: Path, days: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remove", "outputs", f"--older-than={days}", "--yes"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert days in said
    assert len(find_runs(root)) == 2


LEFT = (
    ".run.json.host.example.org.12.tmp",
    "..last.pt.new.host.12.tmp",
    ".last.pt.new",
    ".best.pt.host.12.tmp",
    ".metrics.jsonl.host.12.tmp",
    ".evaluation-test.json.host.12.tmp",
)


def test_clean_takes_what_the_dead_left_and_nothing_of_the_living(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, living = root / CELL / "seed=0", root / CELL / "seed=1"
    before = tree(root)
    for run in (dead, living):
        for name in LEFT:
            (run / name).write_text("half")
        for name in (".notes.tmp", ".thesis.tex.host.12.tmp", "x.tmp"):  # somebody else's
            (run / name).write_text("mine")
    shutil.copytree(dead, root / CELL / f"{REMOVED}seed=2")
    (root / CELL / f"{REMOVED}seed=2" / "x.tmp").unlink()
    (root / CELL / f"{REMOVED}seed=2" / ".notes.tmp").unlink()
    (root / CELL / f"{REMOVED}seed=2" / ".thesis.tex.host.12.tmp").unlink()
    with Lock(living / ".lock"):
        assert main(["clean", "outputs"]) == 0
        assert capsys.readouterr().out.count(str(dead.resolve())) == len(LEFT)
        assert all((dead / name).exists() for name in LEFT)  # it only said
        assert main(["clean", "outputs", "--yes"]) == 0
        assert not any((dead / name).exists() for name in LEFT)
        assert all((living / name).exists() for name in LEFT)
        with pytest.raises(LockHeld):
            clean(living / LEFT[0])
    assert main(["clean", "outputs", "--yes"]) == 0
    assert {name for name, text in tree(root).items() if text == b"mine"} == {
        f"{CELL}/seed={seed}/{name}"
        for seed in (0, 1)
        for name in (".notes.tmp", ".thesis.tex.host.12.tmp", "x.tmp")
    }
    assert {k: v for k, v in tree(root).items() if v != b"mine"} == before


@pytest.mark.parametrize("name", [".lock", "run.json", "metrics.jsonl", "last.pt", "config.yaml"])
@pytest.mark.parametrize("kind", ["link", "circle", "pipe", "directory", "unreadable"])
def test_the_list_goes_on_with_the_rest(
    root: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Something that is no regular file in the place of a run's file."""
    Path("precious").write_text("precious")
    path = root / CELL / "seed=0" / name
    path.unlink(missing_ok=True)
    put(kind, path)
    for action in ("list", "verify"):
        assert main([action, "outputs"]) in (0, 1)
        said = capsys.readouterr()
        assert said.err == ""
        assert "2 runs" in said.out
        if (name, action) != (".lock", "list") and name != ".lock" and kind != "unreadable":
            assert str(path) in said.out or (name == "last.pt" and action == "list")
    assert Path("precious").read_text() == "precious"


def put(kind: str, path: Path) -> None:
    if kind == "link":
        os.symlink(Path("precious").resolve(), path)
    elif kind == "circle":
        os.symlink(path.name, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("")
        path.chmod(0)


@pytest.mark.parametrize("kind", ["link", "circle", "pipe", "directory"])
def test_no_lock_is_taken_through_what_is_no_file(tmp_path: Path, kind: str) -> None:
    os.chdir(tmp_path)
    Path("precious").write_text("precious")
    put(kind, tmp_path / ".lock")
    with pytest.raises(OSError, match="not a regular file"), Lock(tmp_path / ".lock"):
        pass
    assert Path("precious").read_text() == "precious"


def test_a_lock_that_waits_goes_on_when_it_is_free(tmp_path: Path) -> None:
    told: list[str] = []
    with Lock(tmp_path / ".lock"):
        waiting = threading.Thread(
            target=lambda: (
                Lock(tmp_path / ".lock", on_wait=told.append).__enter__().__exit__(None, None, None)
            )
        )
        waiting.start()
    waiting.join(5)
    assert not waiting.is_alive()


def test_weights_left_out_of_a_record_are_absent_not_damaged(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / CELL / "seed=0"
    record = read_record(run)
    assert record is not None
    assert record.final is not None
    lines = [{**record.final, "epoch": epoch} for epoch in (1, 2, 3)]
    file = LinesFile(run / "metrics.jsonl", 0)
    file.append(*lines)
    file.close()
    record.files = sums(run, SUMMED)
    assert set(record.files) == {"metrics.jsonl", "last.pt"}
    write_record(run, record)
    (run / "last.pt").unlink()
    shutil.rmtree(root / CELL / "seed=1")
    assert main(["verify", "outputs"]) == 0
    (run / "last.pt").write_bytes(b"1" * 1000)  # as long as it was
    assert main(["verify", "outputs"]) == 1
    assert "last.pt was changed" in capsys.readouterr().out
    (run / "last.pt").write_bytes(b"1")
    assert main(["list", "outputs"]) == 0
    assert "completed, damaged" in capsys.readouterr().out
