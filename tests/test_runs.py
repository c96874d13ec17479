"""Looking after runs: list, archive, remove, and the command of a run."""

import errno
import os
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import TINY, Program
from made_up import make_run
from made_up import make_small_run as make

from resnet_cifar.config.compose import compose
from resnet_cifar.files import Lock
from resnet_cifar.identity import run_directory
from resnet_cifar.runs import find
from resnet_cifar.runs.command import main
from resnet_cifar.runs.find import find_runs
from resnet_cifar.runs.table import load_runs
from resnet_cifar.sweep.plan import recorded_speeds
from resnet_cifar.trained.predict import sort_out


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = Path("outputs")
    make(root, "lr0.1_a-11111111", 0, "completed")
    make(root, "lr0.1_a-11111111", 1, "failed")
    make(root, "lr0.01_b-22222222", 0, "interrupted", days=9)
    (root / "lr0.01_b-22222222" / "seed=1").mkdir()  # a directory without a record
    (root / "notes").mkdir()
    return root


def test_list(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "4 runs" in out
    assert "1 completed, 1 interrupted, 1 failed, 1 unreadable" in out
    assert "seed=1 failed: OSError: no space" in out
    assert main(["outputs", "--status", "failed"]) == 0
    assert "1 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (["--status", "failed"], 3),
        (["--status", "failed", "--status", "completed"], 2),
        (["--cell", "lr0.1"], 4),
        (["--cell", "lr0.1*"], 2),
        (["--cell", "lr0.1_a-11111111"], 2),
        (["--cell", "outputs/lr0.1_a-11111111/"], 2),
        (["--cell", "*-22222222"], 3),
        (["--seed", "1"], 3),
        (["--older-than", "7"], 3),
        (["--cell", "lr0.1_a-11111111", "--seed", "0"], 3),
        (["--cell", "nothing"], 4),
        (["--where", "accuracy/val=0.5", "--where", "epochs_done=3"], 3),
        (["--all"], 1),
    ],
)
@pytest.mark.parametrize("action", ["remove", "archive"])
def test_selection(tree: Path, action: str, selection: list[str], left: int) -> None:
    unknown = tree / "lr0.01_b-22222222" / "seed=1"  # no record: never taken for a run
    chosen = selection in (["--cell", "*-22222222"], ["--seed", "1"], ["--all"])
    assert main([action, "outputs", *selection, "--yes"]) == int(chosen)
    assert len(find_runs(tree)) == left
    assert unknown.exists()
    archived = list(Path("outputs.archive").glob("*/seed=*"))
    assert len(archived) == (4 - left if action == "archive" else 0)
    assert (tree / "notes").exists()


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a copy beside it, one in a folder of somebody's own, one at the top."""
    monkeypatch.chdir(tmp_path)
    root = Path("outputs")
    run = make_run(root, ["data=synthetic", "trainer.epochs=2"])
    for copy in (run.with_name("a copy"), root / "best of all" / "net", root / "a net"):
        shutil.copytree(run, copy)
    return run


def test_a_copied_run_is_a_run_everywhere(copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, cell = Path("outputs"), copies.parent
    runs = find_runs(root)
    assert [run.path for run in runs] == [
        root / "a net",
        root / "best of all" / "net",
        copies,
        cell / "a copy",
    ]
    assert {(run.status, run.seed) for run in runs} == {("completed", "0")}
    assert main(["outputs"]) == 0
    names = [line.rpartition("  ")[2] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert names == ["outputs/a net", "outputs/best of all/net", cell.name, f"{cell}/a copy"]
    assert main(["verify", "outputs"]) == 0
    assert capsys.readouterr().out.startswith("4 runs, 0 of them damaged\n")
    table = load_runs(root)
    assert list(table["directory"]) == [str(copies)]  # the original, wherever it comes in order
    assert table.attrs["skipped"] == {
        str(run.path): f"the same run as {copies}" for run in runs if run.path != copies
    }
    assert load_runs(root / "best of all")["directory"][0] == str(root / "best of all" / "net")
    assert load_runs(cell)["directory"][0] == str(copies)
    assert sort_out([root / "best of all", cell])[0] == [
        root / "best of all" / "net",
        copies,
    ]
    assert main(["diff", "outputs/best of all", str(copies)]) == 0
    assert "the configurations are the same" in capsys.readouterr().out
    assert recorded_speeds(compose(["data=synthetic", "trainer.epochs=2"])) == [100.0]


def test_what_is_set_aside_is_listed_and_answers_nothing(copies: Path) -> None:
    root = Path("outputs")
    shutil.rmtree(root / "a net")
    shutil.rmtree(root / "best of all")
    (copies.parent / "a copy").rename(copies.parent / "seed=0.2026-01-01T00-00-00")
    shutil.copytree(copies.parent, root / ".hidden" / copies.parent.name)
    shutil.copytree(copies.parent, root / ".kept")
    shutil.copytree(copies, copies.parent / ".removed-seed=1")  # on its way out: no run at all
    aside = [run.is_set_aside for run in find_runs(root)]
    assert aside == [True, True, False, True]
    table = load_runs(root)
    assert len(table) == 1
    assert list(table.attrs["skipped"].values()) == ["set aside"] * 3
    assert sort_out([copies.parent])[0] == [copies]


def test_runs_are_found_without_reading_them(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "read_record", lambda path: pytest.fail(f"{path} was read"))
    assert len(find_runs(Path("outputs"))) == 4


def test_a_directory_that_cannot_be_looked_at_is_named(
    copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, closed = os.listdir, Path("outputs") / "best of all"

    def listdir(path: Path) -> list[str]:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "listdir", listdir)
    said = f"PermissionError: [Errno 13] Permission denied: '{closed}'"
    assert load_runs("outputs").attrs["skipped"][str(closed)] == said
    assert main([]) == 1
    assert f"{said}\n" in capsys.readouterr().out
    assert main(["verify"]) == 1
    assert f"{said}\n4 runs, 1 of them damaged\n" in capsys.readouterr().out


def test_an_archived_run_can_be_put_back(tree: Path) -> None:
    path = tree / "lr0.1_a-11111111" / "seed=0"
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    main(["archive", "outputs", "--status", "completed", "--yes"])
    Path("outputs.archive/lr0.1_a-11111111/seed=0").rename(path)
    before[".lock"] = b""
    after = {file.name: file.read_bytes() for file in path.iterdir()}
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


def test_it_asks_first(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remove", "outputs", "--all"]) == 1  # no terminal to ask on
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["remove", "outputs", "--all"]) == 0
    assert len(find_runs(tree)) == 4
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["remove", "outputs", "--status", "completed"]) == 0
    assert len(find_runs(tree)) == 3


def test_a_run_that_is_being_trained_is_left_alone(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lock(tree / "lr0.1_a-11111111" / "seed=0" / ".lock"):
        assert main(["remove", "outputs", "--cell", "lr0.1_*", "--yes"]) == 0
    assert [run.path.name for run in find_runs(tree) if "lr0.1_a" in str(run.path)] == ["seed=0"]
    assert "left alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["remove", "outputs"], "--status, --cell, --seed, --older-than or --where"),
        (["list", "nowhere"], "nowhere is not a directory"),
        (["command", "outputs/lr0.1_a-11111111/seed=0"], "config.yaml"),
    ],
)
def test_refused_in_one_line(
    tree: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert len(find_runs(tree)) == 4


def test_command(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [*TINY, "optimizer.lr=0.1", "norm=detached_batchnorm"]
    program(*wanted)
    capsys.readouterr()
    assert main(["command", str(run_directory(compose(wanted)))]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:2] == ["python", "train.py"]
    assert run_directory(compose(words[2:])) == run_directory(compose(wanted))
