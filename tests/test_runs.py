"""Looking after runs: list, archive, remove, and the command of a run."""

import argparse
import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, Program
from made_up import make_run
from made_up import make_small_run as make

from resnet_cifar.__main__ import COMMANDS
from resnet_cifar.__main__ import main as whole
from resnet_cifar.cli import edge
from resnet_cifar.config.compose import compose
from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock
from resnet_cifar.identity import cell_name, run_directory
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
    assert "1 run, " in capsys.readouterr().out


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
    lines = capsys.readouterr().out.splitlines()[1:5]
    names = [re.split(" {2,}", line)[5] for line in lines]
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
    assert f"{said}\n" in capsys.readouterr().err
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
    assert "not touched" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["remove", "outputs"], "--status, --cell, --seed, --older-than or --where"),
        (["list", "nowhere"], "nowhere is not a directory"),
        (["command", "outputs/lr0.1_a-11111111/seed=0"], "run.json has no whole configuration"),
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


@pytest.mark.parametrize("run", sorted((ROOT / "experiments/results/runs").glob("*/*"))[::13])
def test_a_committed_record_has_its_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that left only run.json and its metrics."""
    assert not (run / "config.yaml").exists()
    assert main(["command", str(run)]) == 0
    again = compose(shlex.split(capsys.readouterr().out)[2:])
    assert (cell_name(again), f"seed={again.seed}") == (run.parent.name, run.name)


# Arguments ----------------------------------------------------------------------------------------


def list_arguments(parser: argparse.ArgumentParser, prefix: list[str]) -> Iterator[list[str]]:
    """Command lines in which one argument, each of them once, is empty."""
    asked = [each for each in parser._actions if each.nargs != 0]
    words = {each: [*each.option_strings[:1], "x"] for each in asked}
    for action in asked:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from list_arguments(sub, [*prefix, name])
        else:
            needed = [words[each] for each in asked if each.required and each is not action]
            yield [*prefix, *chain(*needed), *action.option_strings[:1], ""]


def test_an_empty_argument_is_refused_by_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every command; the shell makes one of a variable that is not set."""
    parsers: list[argparse.ArgumentParser] = []
    commands = [name for name in COMMANDS if name not in ("train", "plan")]
    with monkeypatch.context() as patch:
        patch.setattr(edge.Parser, "parse_args", lambda self, _: parsers.append(self))
        for command in commands:
            whole([command])
    found = zip(commands, parsers, strict=True)
    lines = [line for name, parser in found for line in list_arguments(parser, [name])]
    assert len(lines) > 30
    assert ["runs", "remove", "--cell", ""] in lines
    capsys.readouterr()
    for line in lines:
        assert whole(line) == 2, line
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: argument ")
        assert err.count("\n") == 1
        named = [word for word in line if word.startswith("--")][-1:]
        assert not named or f"{named[0]}" in err
    assert len(find_runs(tree)) == 4


@pytest.mark.parametrize(
    "condition", ["--where lr=", "--where =1", "--where lr=1,", "--where lr= ", "--columns a,",
                  "--columns ,", "--cell  ", "--sort  "],
)  # fmt: skip
def test_a_condition_without_a_value_is_refused(
    tree: Path, condition: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option, _, value = condition.partition(" ")
    assert main(["list", option, value]) == 2
    assert f"argument {option}: " in capsys.readouterr().err


def test_no_root_is_not_the_working_directory(tree: Path) -> None:
    with pytest.raises(UserError, match="'' is not a directory"):
        load_runs("")


@pytest.mark.parametrize("pattern", ["--cell=*", "--seed=*", "--cell=**", "--where=cell=*"])
def test_every_run_is_taken_by_its_own_option(
    tree: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`"$CELL*"` without a CELL."""
    assert main(["remove", "outputs", pattern, "--yes"]) == 2
    assert "use --all" in capsys.readouterr().err
    assert len(find_runs(tree)) == 4


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("--cell=lr0.1", "lr0.1_a-11111111; lr0.1* takes all that begin so"),
        ("--cell=lr0.1_a-11111112", "there is lr0.1_a-11111111\n"),
        ("--cell=?", "there is lr0.01_b-22222222, lr0.1_a-11111111\n"),
        ("--seed=7", "there is 0, 1\n"),
        ("--where=epochs=7", "there is 3"),
        ("--where=val>0.6", "val>0.6: no run matches; there is 0.5\n"),
    ],
)
def test_a_condition_that_no_run_meets_is_said(
    tree: Path, condition: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["list"], ["list", "--json"], ["remove", "--yes"]):
        assert main([arguments[0], "outputs", condition, *arguments[1:]]) == 0
        out, err = capsys.readouterr()
        assert err.startswith("note: ")
        assert said in err
        assert "--json" not in arguments or json.loads(out) == []


def test_a_cell_is_taken_by_its_whole_name(tmp_path: Path) -> None:
    """Also where it begins another, or looks like a pattern that another matches."""
    for cell in ("a_wd0", "a_wd0.1", "a[1]", "a1"):
        make(tmp_path / "o", cell, 0, "completed")
    asked = {"a_wd0": ["a_wd0"], "a[1]": ["a[1]"], "a1": ["a1"], "a?": ["a1"]}
    for cell, taken in {**asked, "a_*": ["a_wd0", "a_wd0.1"], "a[01]": ["a1"]}.items():
        assert main(["archive", str(tmp_path / "o"), "--cell", cell, "--yes"]) == 0
        archived = tmp_path / "o.archive"
        assert sorted(path.name for path in archived.iterdir()) == taken
        shutil.copytree(archived, tmp_path / "o", dirs_exist_ok=True)
        shutil.rmtree(archived)


def test_a_directory_that_is_named_like_an_action(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["Lst"]) == 2
    assert (
        capsys.readouterr().err
        == "error: Lst is neither an action nor a directory: did you mean list?\n"
    )
    tree.rename("Lst")
    assert main(["Lst", "--status", "completed"]) == 0
    assert "1 run, " in capsys.readouterr().out


# What can't be looked at --------------------------------------------------------------------------


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Take all rights to a directory away, from root, too."""

    def closing(closed: Path) -> None:
        for name in ("listdir", "scandir", "stat", "lstat", "open", "mkdir", "rename"):
            original = getattr(os, name)

            def guarded(
                path: Any, *args: Any, name: str = name, do: Any = original, **kw: Any
            ) -> Any:
                inside = isinstance(path, (str, Path)) and closed.absolute() in (
                    Path(path).absolute().parents if name not in ("listdir", "scandir")
                    else (Path(path).absolute(), *Path(path).absolute().parents)
                )  # fmt: skip
                if inside:
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return do(path, *args, **kw)

            monkeypatch.setattr(os, name, guarded)

    return closing


LOOKING = (
    *("list", "list --json", "list --csv", "list --json --columns seed", "list --status failed"),
    *("verify", "clean", "clean --yes", "archive --all --yes", "remove --cell lr0.1_* --yes"),
    *("remove --status completed --yes", "report"),
)


@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize("place", ["cell", "run", "copy"])
def test_what_is_closed_is_named_and_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    close: Callable[[Path], None],
    place: str,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for lr in ("0.01", "0.1"):
        last = make_run(
            Path("outputs"), ["data=synthetic", "trainer.epochs=2", f"optimizer.lr={lr}"]
        )
    first = next(Path("outputs").glob("lr0.01*/seed=0"))
    closed = {"cell": first.parent, "run": first, "copy": first.with_name("mine")}[place]
    if place == "copy":
        shutil.copytree(first, closed)
    close(closed)
    action, *rest = command.split()
    arguments = ["--to", "paper", "--quiet"] if action == "report" else rest
    code = whole([*(["report"] if action == "report" else ["runs", action]), "outputs", *arguments])
    assert code == 1
    out, err = capsys.readouterr()
    assert str(closed) in out + err
    assert "Traceback" not in err
    assert last.exists() == (action not in ("archive", "remove"))  # the others' answers come
    if command == "list --json":
        assert {row["status"] for row in json.loads(out)} == {"completed", "unreadable"}
    if action == "report":
        table = Path("paper/tables/skipped.csv").read_text()
        assert str(closed) in table


@pytest.mark.parametrize("action", ["archive", "remove"])
def test_what_was_closed_for_a_moment_stays(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """Nobody knew whether it meets the condition: that it can be looked at later is no answer."""
    last = find_runs(tree)[-1].path

    def find_closed(root: Path) -> list[find.Run]:
        shut = find.Run(last, f"{last}: Input/output error", closed=True)
        return [*find_runs(root)[:-1], shut]

    monkeypatch.setattr("resnet_cifar.runs.command.find_runs", find_closed)
    assert main([action, "outputs", "--cell", find_runs(tree)[0].cell, "--yes"]) == 1
    assert f"error: {last}: Input/output error" in capsys.readouterr().err
    assert last.exists()
    assert main([action, "outputs", "--cell", last.parent.name, "--yes"]) == 1
    assert last.exists()


@pytest.mark.parametrize("kind", ["loop", "nothing"])
def test_a_link_that_leads_nowhere_is_named(
    tree: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell on a disk that is not there."""
    (tree / "lr1").symlink_to("lr1" if kind == "loop" else "/nowhere/lr1")
    (tree / ".#lock").symlink_to("me@host.7")  # of an editor
    for action in ("list", "verify"):
        # No run can be behind a loop.
        assert main([action, "outputs"]) == int(action == "verify" or kind == "nothing")
        out, err = capsys.readouterr()
        assert "outputs/lr1'" in out + err
        assert ".#lock" not in out + err
    table = load_runs(tree)
    assert "outputs/lr1" in table.attrs["skipped"]
    assert len(table.attrs["closed"]) == int(kind == "nothing")


def test_a_run_that_is_asked_about_is_looked_at(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify <cell>/seed=<n>` with something odd at run.json, or nothing."""
    cell = tree / "lr0.01_b-22222222"
    (cell / "mine").mkdir()
    for run in (cell / "seed=1", cell / "seed=0", cell / "mine"):
        (run / "run.json").unlink(missing_ok=True)
        if run.name != "seed=1":
            os.mkfifo(run / "run.json")
        assert main(["verify", str(run)]) == 1
        out = capsys.readouterr().out
        assert str(run) in out
        assert "1 run, 1 of them damaged" in out


@pytest.mark.parametrize(
    "command", ["list", "list --json", "verify", "archive --all --yes", "remove --all --yes"]
)
def test_a_run_that_vanishes_meanwhile_stops_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def find_and_lose(root: Path) -> list[find.Run]:
        runs = find_runs(root)
        shutil.rmtree(tree / "lr0.1_a-11111111")
        return runs

    monkeypatch.setattr("resnet_cifar.runs.command.find_runs", find_and_lose)
    action, *rest = command.split()
    assert main([action, "outputs", *rest]) == int(action not in ("list",))
    out, err = capsys.readouterr()
    assert "lr0.1_a-11111111/seed=1" in out + err
    assert "lr0.01_b-22222222/seed=0" in out + err or action in ("list", "verify")
    left = (tree / "lr0.01_b-22222222" / "seed=0").exists()
    assert left == (action in ("list", "verify"))


def test_a_directory_that_goes_while_it_is_listed_is_none(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*original(path), "seed=9", "gone"])
    assert len(find_runs(tree)) == 4


# Copies -------------------------------------------------------------------------------------------


def test_whatever_is_listed_is_told_the_same_everywhere(
    copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted once, or named with the reason: by the table, the list, verify, the report."""
    root, cell = Path("outputs"), copies.parent
    for name in ("seed=0.old", "seed=0 (copy)", "seed=7", "seed=0.2026-01-01T00-00-00"):
        shutil.copytree(copies, cell / name)
    shutil.copytree(cell, root / f"{cell.name}.bak")
    shutil.copytree(cell, root / "other-12345678")
    (root / "seed=3").symlink_to(copies.resolve())
    table = load_runs(root, root, cell)
    told = {*table["directory"], *table.attrs["skipped"]}
    assert told == {str(run.path) for run in find_runs(root)}
    assert list(table["directory"]) == [str(copies)]
    assert str(copies) not in table.attrs["skipped"]
    assert table.attrs["skipped"][str(cell / "seed=0.old")] == f"the same run as {copies}"
    whole(["runs", "list", "outputs", "--json"])
    listed = {row["directory"]: row["left_out"] for row in json.loads(capsys.readouterr().out)}
    assert {path: why for path, why in listed.items() if why} == table.attrs["skipped"]
    for action in ("list", "verify"):
        main([action, "outputs"])
        out = capsys.readouterr().out
        for path, why in table.attrs["skipped"].items():
            assert (why in out and path in out) or why == "set aside"
    assert whole(["report", "outputs", "--to", "paper", "--quiet"]) == 0
    reported = Path("paper/tables/skipped.csv").read_text()
    assert all(path in reported for path in table.attrs["skipped"])


def test_of_several_the_finished_one_counts(tmp_path: Path) -> None:
    """A run that was interrupted here, and finished where it was copied to."""
    setting = ["data=synthetic", "trainer.epochs=2"]
    begun = make_run(tmp_path / "a", setting, curve=[0.5, 0.5], status="interrupted")
    ended = make_run(tmp_path / "b", setting, accuracy=0.7)
    table = load_runs(tmp_path / "a", tmp_path / "b")
    assert list(table["directory"]) == [str(ended)]
    assert table.attrs["skipped"][str(begun)] == f"the same run as {ended}, with another result"
