"""A campaign of bad command lines over every entry point: each ends in one line, and no trace.

bad_command_lines.txt has a line for each: what is typed (after the options of a tiny run, where it
is for `train`), a tab, and what the line must say.
"""

import random
import re
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Program

from benchmarks.__main__ import main as benchmark
from resnet_cifar.__main__ import main

TEXT = (ROOT / "tests" / "bad_command_lines.txt").read_text("utf-8")
ALWAYS, CAMPAIGN, OTHERS = (
    [tuple(line.split("\t")) for line in section.splitlines()[1:]]
    for section in re.split("^# ", TEXT, flags=re.MULTILINE)[1:]
)

# What is too long, or too deep; and what the line says, which is not.
LONG = {
    f"optimizer.lr={'9' * 400}": "optimizer.lr: must be a number of fewer than 309 digits",
    f"seed={'9' * 400}": "999: must be at most 922337203",
    f"data.train_size={'9' * 400}": "999: must be",
    f"trainer.device={'x' * 5000}": "xxx: must be auto, cpu, mps, cuda or cuda:<n>",
    f"trainer.epochs=-{'9' * 5000}": "trainer.epochs: must be a number of fewer than 309 digits",
    f"-m seed=0,{'9' * 5000}": "seed: must be a number of fewer than 309 digits",
    f"optimizer.lr={'[' * 2000}{']' * 2000}": "a value is nested too deeply",
    f"optimizer={'x' * 5000}": "the name of an option or of a key is too long",
    f"{'x' * 5000}=1": "the name of an option or of a key is too long",
}


# Files of one's own, and what is said of them.
FILES = {
    "no_package": ("optimizer: {lr: 0.1}\n", "has to begin with the line: # @package _global_"),
    "twice": (
        "# @package _global_\ndefaults:\n  - /scheduler: cosine\n",
        "scheduler is chosen twice: write scheduler=cosine without a +, or in a file `override",
    ),
    "typo": ("# @package _global_\noptimizer: {lrr: 0.1}\n", "did you mean optimizer.lr?"),
    "brace": ("# @package _global_\noptimizer: {lr: 0.1\n", "expected ',' or '}'"),
    "list": ("# @package _global_\noptimizer: [1, 2]\n", "conf/experiment/list.yaml has a value"),
    "top": ("# @package _global_\n- a\n", "conf/experiment/top.yaml has a value"),
    "bytes": ("# @package _global_\n\udcff\n", "can't decode byte 0xff"),
    "option": (
        "# @package _global_\ndefaults:\n  - override /scheduler: cosin\n",
        "scheduler=cosin is not an option",
    ),
    "round": ("# @package _global_\ndefaults: [round]\n", "the defaults of a YAML file lead back"),
    "class": (
        "# @package _global_\ndefaults:\n  - /hydra/schema/model/vgg@model\n",
        'experiment/class.yaml needs a class of model with NAME = "vgg": no Python file direct',
    ),
    "file": (
        "# @package _global_\ndefaults: [nothing]\n",
        "experiment/file.yaml needs experiment/nothing.yaml, which is not there",
    ),
    "value": ("# @package _global_\nseed: x\n", "seed=x: must be a whole number"),
    "grid": (
        '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {optimizer.lrr: "1,2"}}}\n',
        "did you mean optimizer.lr?",
    ),
}


def refused(outcome: tuple[int, str, str], said: str, codes: tuple[int, ...] = (2,)) -> None:
    """One line on standard error that has `said`, and nothing else printed."""
    code, out, err = outcome
    assert code in codes, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert said in err
    assert out == ""


@pytest.mark.parametrize(("typed", "said"), [*ALWAYS, *random.Random(0).sample(CAMPAIGN, 20)])
def test_a_bad_line_is_refused(program: Program, tmp_path: Path, typed: str, said: str) -> None:
    refused(program(*TINY, *typed.split(" ")), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize(("typed", "said"), CAMPAIGN)
def test_every_bad_line_is_refused(program: Program, tmp_path: Path, typed: str, said: str) -> None:
    refused(program(*TINY, *typed.split(" ")), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("typed", "said"), LONG.items(), ids=lambda each: each[:20])
def test_a_long_line_is_refused_in_a_short_one(
    program: Program, tmp_path: Path, typed: str, said: str
) -> None:
    outcome = program(*TINY, *typed.split(" "))
    refused(outcome, said)
    assert len(outcome.err) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_blank_directory_is_refused(program: Program, tmp_path: Path) -> None:
    refused(program(*TINY, "output_root= "), "output_root='': must be a directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_bad_experiment_file_is_refused(program: Program, tmp_path: Path, name: str) -> None:
    content, said = FILES[name]
    path = tmp_path / "mine" / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    outcome = program(*TINY, "--config-dir", str(tmp_path / "mine"), f"experiment={name}")
    refused(outcome, said)
    assert [child.name for child in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("typed", "said"), OTHERS)
def test_every_other_command_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["python"])
    Path("folder").mkdir()
    Path("file").write_bytes(b"\xff")
    command, *rest = typed.split(" ")
    code = benchmark(rest) if command == "benchmark" else main([command, *rest])
    refused((code, *capsys.readouterr()), said, codes=(1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert list(Path("folder").iterdir()) == []
