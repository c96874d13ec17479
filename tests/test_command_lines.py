"""A campaign of bad command lines over every entry point: each ends in one line, and no trace.

bad_command_lines.txt has a line for each: what is typed after the options of a tiny run, a tab, and
what the line must say.
"""

import random
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Program

from resnet_cifar import __main__ as package

TRAIN = [
    tuple(line.split("\t"))
    for line in (ROOT / "tests" / "bad_command_lines.txt").read_text("utf-8").splitlines()
]
HANDFUL = random.Random(0).sample(TRAIN, 20)
OTHERS = [
    ("trian", "trian is no command: did you mean train?"),
    ("--frob", "--frob is no command"),
    ("RUNS", "RUNS is no command"),
    ("train optimizer.lrr=1", "did you mean optimizer.lr"),
    ("plan optimizer.lrr=1", "did you mean optimizer.lr"),
    ("plan experiment=nothing", "experiment=nothing is not an option"),
    ("runs nowhere", "nowhere is not a directory"),
    ("runs file", "file is not a directory"),
    ("runs --frob", "unrecognized arguments: --frob"),
    ("runs list folder more", "unrecognized arguments: more"),
    ("runs --status done", "argument --status: invalid choice: 'done'"),
    ("runs --status", "argument --status: expected one argument"),
    ("runs --older-than x", "argument --older-than: invalid days value: 'x'"),
    ("runs --older-than nan", "argument --older-than: nan is no number of days"),
    ("runs --where x folder", "--where x: not of the form key=value"),
    ("runs --json --csv folder", "argument --csv: not allowed with argument --json"),
    ("runs verify nowhere", "nowhere is not a directory"),
    ("runs clean nowhere", "nowhere is not a directory"),
    ("runs diff", "the following arguments are required: first, second"),
    ("runs diff nowhere folder", "nowhere is neither a run"),
    ("runs archive folder", "archive what?"),
    ("runs remove folder", "remove what?"),
    ("runs remove nowhere --all", "nowhere is not a directory"),
    ("runs command", "the following arguments are required: run"),
    ("runs command nowhere", "nowhere/config.yaml"),
    ("runs command folder", "folder/config.yaml"),
    ("runs command file", "file/config.yaml"),
    ("evaluate", "the following arguments are required: run"),
    ("evaluate nowhere", "nowhere is not a run"),
    ("evaluate folder", "folder is not a run"),
    ("evaluate file", "file is not a run"),
    ("evaluate folder --weights middle", "argument --weights: invalid choice: 'middle'"),
    ("evaluate folder --frob", "unrecognized arguments: --frob"),
    ("evaluate folder --device", "argument --device: expected one argument"),
    ("report nowhere", "nowhere is not a directory"),
    ("report folder", "no runs there"),
    ("report file", "file is not a directory"),
    ("report --to", "argument --to: expected one argument"),
    ("report --frob", "unrecognized arguments: --frob"),
    ("report folder --questions nowhere", "nowhere"),
    ("report folder --questions folder", "folder"),
    ("report folder --questions file", "file can't be read"),
    ("predict", "the following arguments are required: PATH"),
    ("predict nowhere", "nowhere is not there"),
    ("predict folder", "no run among folder"),
    ("predict file", "no run among file"),
    ("predict folder --weights middle", "argument --weights: invalid choice: 'middle'"),
    ("predict folder --json --csv", "argument --csv: not allowed with argument --json"),
    ("predict folder --frob", "unrecognized arguments: --frob"),
    ("export", "the following arguments are required: run, FILE"),
    ("export folder", "the following arguments are required: FILE"),
    ("export folder net.onnx", "folder is not a run"),
    ("export nowhere net.pt2", "nowhere is not a run"),
    ("export folder net", "net: its ending says what it is to be"),
    ("export folder nowhere/net.pt2", "in one that is not there"),
    ("export folder net.pt2 --names torchvision", "is for .safetensors files"),
    ("export folder net.pt2 --names timm", "argument --names: invalid choice: 'timm'"),
    ("benchmark --width x", "model.width=x is not allowed: a whole number"),
    ("benchmark --width 0", "model.width=0 is not allowed"),
    ("benchmark --rounds 0", "--rounds=0 is not allowed: 1 or more"),
    ("benchmark --rounds x", "argument --rounds: invalid int value: 'x'"),
    ("benchmark --seconds 0", "--seconds=0.0 is not allowed: above 0"),
    ("benchmark --seconds inf", "--seconds=inf is not allowed"),
    ("benchmark --seconds nan", "--seconds=nan is not allowed"),
    ("benchmark --workers 0", "--workers=0 is not allowed: 1 or more"),
    ("benchmark --workers x", "argument --workers: invalid int value: 'x'"),
    ("benchmark --workers", "argument --workers: expected at least one argument"),
    ("benchmark --options nothing", "argument --options: invalid choice: 'nothing'"),
    ("benchmark --data mnist", "argument --data: invalid choice: 'mnist'"),
    ("benchmark --threads -1", "trainer.threads=-1 is not allowed"),
    ("benchmark --precision fp8", "trainer.precision=fp8 is not allowed"),
    ("benchmark --device tpu", "trainer.device=tpu is not allowed"),
    ("benchmark --batch-size 1", "trainer.batch_size=1 is not allowed"),
    ("benchmark --compile perhaps", "trainer.compile=perhaps is not allowed"),
    ("benchmark --out", "argument --out: expected one argument"),
]
# Experiment files of somebody's own, and what is said of them.
FILES = {
    "no_package": ("optimizer: {lr: 0.1}\n", "has to begin with the line: # @package _global_"),
    "twice": (
        "# @package _global_\ndefaults:\n  - /scheduler: cosine\n",
        "scheduler is chosen twice: a file says `override /scheduler: cosine`",
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
    "value": ("# @package _global_\nseed: x\n", "seed=x is not allowed: a whole number"),
    "grid": (
        '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {optimizer.lrr: "1,2"}}}\n',
        "did you mean optimizer.lr?",
    ),
}


def refused(code: int, out: str, err: str, said: str) -> None:
    assert code in (1, 2), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert said in err
    assert out == ""


@pytest.mark.parametrize(("typed", "said"), HANDFUL)
def test_a_handful_of_bad_lines(program: Program, tmp_path: Path, typed: str, said: str) -> None:
    refused(*program(*TINY, *typed.split(" ")), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize(("typed", "said"), TRAIN)
def test_every_bad_line(program: Program, tmp_path: Path, typed: str, said: str) -> None:
    refused(*program(*TINY, *typed.split(" ")), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_of_one_s_own(program: Program, tmp_path: Path, name: str) -> None:
    content, said = FILES[name]
    path = tmp_path / "mine" / "experiment" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    outcome = program(*TINY, "--config-dir", str(tmp_path / "mine"), f"experiment={name}")
    refused(*outcome, said)
    assert [child.name for child in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("typed", "said"), OTHERS)
def test_every_other_command(
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
    code = package.main(typed.split(" "))
    refused(code, *capsys.readouterr(), said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert list(Path("folder").iterdir()) == []
