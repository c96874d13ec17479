"""The edge of every command: the list of them, versions, one line for bad input, odd streams."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, Program

from benchmarks import __main__ as benchmark
from resnet_cifar import __main__ as package
from resnet_cifar import __version__
from resnet_cifar.config.compose import compose
from resnet_cifar.identity import run_directory
from resnet_cifar.report import __main__ as report
from resnet_cifar.runs import command as runs
from resnet_cifar.runs.table import load_runs
from resnet_cifar.trained import evaluate, export, predict

COMMANDS = {
    "runs": runs,
    "evaluate": evaluate,
    "report": report,
    "predict": predict,
    "export": export,
    "benchmark": benchmark,
}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_they_are_listed(arguments, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(arguments) == 0
    out = capsys.readouterr().out
    for name in package.COMMANDS:
        assert f"\n  {name} " in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(("typed", "said"), [("run", "runs"), ("trian", "train"), ("x", "plan")])
def test_an_unknown_command_is_refused(typed, said, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main([typed]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {typed} is not a command")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_command_is_run_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["runs", str(tmp_path)]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert package.main(["report", str(tmp_path)]) == 1
    assert "no runs there" in capsys.readouterr().err


def test_every_command_says_the_project_s_version(capsys: pytest.CaptureFixture[str]) -> None:
    for module in (package, *COMMANDS.values()):
        assert module.main(["--version"]) == 0
        assert capsys.readouterr().out == f"resnet-cifar {__version__}\n"


def test_the_version_of_train(program: Program) -> None:
    assert program("--version") == (0, f"resnet-cifar {__version__}\n", "")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`line` in a shell, with $PYTHON and the project on the path."""
    variables = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_training_and_the_plan_are_commands(tmp_path: Path) -> None:
    for command in ("train", "plan"):
        ended = shell(f"$PYTHON -m resnet_cifar {command} optimizer.lrr=1", tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: optimizer.lrr is not a key")
    assert list(tmp_path.iterdir()) == []


def test_runs_and_report_are_modules_too(tmp_path: Path) -> None:
    for command in ("runs", "report"):
        ended = shell(f"$PYTHON -m resnet_cifar.{command} --help", tmp_path)
        assert ended.stdout.startswith(f"usage: python -m resnet_cifar {command}")


# Commands with -- between them, one after the other in one process.
PROGRAM = """
import itertools, sys
from resnet_cifar.__main__ import main
for between, words in itertools.groupby(sys.argv[1:], lambda word: word == "--"):
    if not between and (code := main(list(words))):
        sys.exit(code)
"""
IN_TURN = f"$PYTHON -c {shlex.quote(PROGRAM)}"
RUN = f"$PYTHON {ROOT}/train.py {' '.join(TINY)}"
LIST = f"$PYTHON -m resnet_cifar runs {ROOT}/experiments/results/runs"


@pytest.mark.parametrize("streams", ["< /dev/null >&- 2>&-", "> /dev/full 2> /dev/full"])
def test_a_run_needs_nobody_who_listens(streams: str, tmp_path: Path) -> None:
    """Standard output closed, or its disk full: what counts is the record."""
    ended = shell(f"{RUN} {streams}", tmp_path)
    assert ended.returncode == 0
    run = tmp_path / run_directory(compose(TINY))
    assert load_runs(tmp_path / "outputs")["status"].tolist() == ["completed"]
    log = (run / "train.log").read_text(encoding="utf-8")
    assert log.count("epoch ") >= 2
    for line in log.splitlines():
        assert line[:4].isdigit(), line  # nothing else got the number of a closed stream


def test_nothing_is_printed_into_a_file_that_has_the_number_of_a_closed_stream(
    tmp_path: Path,
) -> None:
    program = """
taken = open("taken", "w")
assert taken.fileno() == 1
from resnet_cifar.cli.edge import run_to_exit_code
run_to_exit_code(lambda: print("said"))
"""
    ended = shell(f"$PYTHON -c {shlex.quote(program)} >&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "taken").read_text() == ""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"{LIST} >&-", 0),
        (f"{LIST} > /dev/full", 1),
        (f"{LIST} nowhere >&- 2>&-", 2),
        (f"{LIST} | true; exit ${{PIPESTATUS[0]}}", None),
        (f"PYTHONUNBUFFERED=1 {LIST} | head -1 > first; exit ${{PIPESTATUS[0]}}", None),
        (f"$PYTHON {ROOT}/train.py --help | head -1 > first", 0),
        ("$PYTHON -m resnet_cifar > /dev/full", 1),
        (f"$PYTHON {ROOT}/train.py --help > /dev/full", 1),
    ],
)
def test_odd_streams_of_a_list(line: str, code: int | None, tmp_path: Path) -> None:
    ended = shell(line, tmp_path)
    assert ended.returncode in ((0, 1, 141) if code is None else (code,)), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert ended.stderr.count("\n") <= 1
    if code == 1:
        assert ended.stderr == "error: OSError: [Errno 28] No space left on device\n"


def test_a_locale_without_the_letters(tmp_path: Path) -> None:
    """A question mark in place of a letter, a path's bytes written out, never an error."""
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    (cell, *_) = (ROOT / "experiments" / "results" / "runs").iterdir()
    shutil.copytree(cell, tmp_path / "Läufe" / cell.name)
    ended = shell(f"{IN_TURN} runs L* -- report L* --to ü", tmp_path, **ascii_only)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1].startswith(r"\udcc3\udcbc/report.html: ")
    assert (tmp_path / "ü" / "report.html").exists()


def test_help_texts_are_checked_when_they_are_added(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.14's argparse expands each help text once; here any Python's does."""
    original = argparse.ArgumentParser.add_argument

    def add_argument(self: argparse.ArgumentParser, *names: Any, **settings: Any) -> Any:
        action = original(self, *names, **settings)
        if action.help:
            try:
                self._get_formatter()._expand_help(action)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError("badly formed help string") from error
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_argument)
    if sys.version_info < (3, 14):  # there `in` comes first, and refuses what is no string
        expand = argparse.HelpFormatter._expand_help

        def expand_strictly(self: argparse.HelpFormatter, action: argparse.Action) -> str:
            return expand(self, action) if "%" in action.help else action.help  # type: ignore

        monkeypatch.setattr(argparse.HelpFormatter, "_expand_help", expand_strictly)
    assert program(*TINY).code == 0
    assert program("-m", *TINY, "seed=0,1", "--plan").code == 0
    for module in COMMANDS.values():
        assert module.main(["--version"]) == 0


def test_the_end_of_a_run_and_a_longer_one(program: Program) -> None:
    """The last epoch, the best one; and raising the epochs begins a run of its own."""
    out = program(*TINY).out
    lines = out.splitlines()
    assert lines[-2].startswith("completed: ")
    assert re.fullmatch(
        r"the best epoch was [12] of 2 \(val \d+\.\d+ %\): best\.pt",
        lines[-1],
    )
    assert re.search(r"epoch 2/2  val +\d+\.\d+ %, loss \d\.\d{4}  train +\d+\.\d+ %, loss ", out)
    run = run_directory(compose(TINY))
    before = (run / "run.json").read_bytes()
    longer = program(*TINY, "trainer.epochs=3")
    assert "epoch 1/3  " in longer.out
    assert (run / "run.json").read_bytes() == before
