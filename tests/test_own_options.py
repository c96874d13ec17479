"""A directory of one's own options: what is imported from it, and whose YAML counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import TINY, Program
from made_up import make_run

from resnet_cifar import load_model, load_runs
from resnet_cifar.__main__ import main
from resnet_cifar.config.compose import CONF, compose
from resnet_cifar.config.schema import groups
from resnet_cifar.errors import ConfigError

OPTION = """
import dataclasses
from typing import ClassVar
from resnet_cifar.optim.optimizer import SGD

@dataclasses.dataclass
class Mine(SGD):
    NAME: ClassVar[str] = "{name}"
"""
# Files that define no option, in whose import a command would end, print or fail.
BESIDE = {
    "setup.py": "from setuptools import setup\nsetup(name='mine')\n",
    "conftest.py": "import nothing_there\n",
    "script.py": "raise SystemExit\n",
    "quit.py": "import sys\nsys.exit(0)\n",
    "parse.py": "import argparse\nargparse.ArgumentParser().parse_args(['--no'])\n",
    "loud.py": "print('not JSON')\n",
    "old.py": "print 'Python 2'\n",
    "latin.py": "x = '\udce4'\n",
    "nulls.py": "\0\n",
    "notebook.py": "%matplotlib inline\n",
    "constant.py": "NAME = 'mine'\nraise SystemExit\n",
    "settings.py": "class Settings:\n    NAME = 'mine'\nraise SystemExit\n",
    "contract.py": "class A(object):\n    NAME: str\nraise SystemExit\n",
    "beside.py": "class Odd(Exception):\n    pass\n\n\nNAME = 'mine'\nraise SystemExit\n",
    "my-script.v2.py": "raise SystemExit\n",
    ".#lock.py": "raise SystemExit\n",
}
# The ends of files that do define one: each is a line that names the file.
BROKEN = {
    "SystemExit": "raise SystemExit",
    "SystemExit: 0": "import sys; sys.exit(0)",
    "SystemExit: 2": "import argparse; argparse.ArgumentParser().parse_args(['--no'])",
    "KeyError": "{}['key']",
    "BaseException: odd": "raise BaseException('odd')",
    "GeneratorExit": "raise GeneratorExit",
    "RecursionError": "def f(): f()\nf()",
    "No module named": "import nothing_there",
    "SyntaxError": "def",
    "null bytes": "\0",
    "unicode": "x = '\udce4'",  # Latin-1
}
COMMANDS = (
    *(["train", *TINY], ["train", "-m", *TINY, "seed=0,1"], ["plan", *TINY], ["train", "--help"]),
    *(["runs", "runs"], ["runs", "--json", "runs"], ["runs", "verify", "runs"]),
    *(["runs", "command", "RUN"], ["report", "runs"], ["evaluate", "RUN"]),
    *(["predict", "RUN", "picture.png"], ["export", "RUN", "net.pt2"]),
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of options, named in the environment; `run` is a run beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_run(tmp_path / "made", TINY).rename(tmp_path / "run")
    directory = tmp_path / "mine"
    directory.mkdir()
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(directory))
    return directory


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_what_defines_no_option_is_not_imported(
    mine: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in BESIDE.items():
        write(mine / name, text)
    (mine / "directory.py").mkdir()
    write(mine / "own_one.py", "print('said')\n" + OPTION.format(name="own_one"))
    assert "own_one" in [kind.NAME for kind in groups()["optimizer"]]
    capsys.readouterr()
    assert main(["runs", "--json", "."]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    outcome = program(*TINY, "trainer.progress=quiet")
    assert outcome.code == 0
    assert outcome.err == ""
    assert list(Path("outputs").glob("*/seed=0/run.json"))


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_option_is_one_line_for_every_command(
    mine: Path, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{list(BROKEN).index(said)}"
    loud = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n"
    file = write(mine / f"{name}.py", loud + OPTION.format(name=name) + BROKEN[said] + "\n")
    monkeypatch.setattr("sys.argv", ["python"])
    Path("run").rename("runs")
    make_run(Path("more"), TINY, 1).rename("runs/seed=1")
    for command in COMMANDS:
        code = main([word.replace("RUN", "runs/seed=1") for word in command])
        out, err = capsys.readouterr()
        assert code in (1, 2), command
        assert out == "", command
        assert err.startswith("error: "), command
        assert err.count("\n") == 1, err
        assert f"{file} can't be imported" in err, command
        assert said in err
    for call in (lambda: load_runs("runs"), lambda: load_model("runs/seed=1"), compose):
        with pytest.raises(ConfigError, match=f"{name}.py can't be imported"):
            call()
    assert sorted(path.name for path in Path().iterdir()) == ["made", "mine", "more", "runs"]


PACKAGED = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml"))


@pytest.mark.parametrize("place", PACKAGED, ids=str)
def test_one_s_own_yaml_comes_first(mine: Path, place: Path) -> None:
    """For every file of conf/: one of its name that can't be read is what is read."""
    write(mine / f"{place}.yaml", "{")
    chosen = [f"{place.parent}={place.name}"] if place.parent.name else []
    if len(place.parts) == 4:  # of a sweeper that is not the default
        chosen = ["hydra/sweeper=optuna", *chosen]
    with pytest.raises(ConfigError, match=f"mine/{place}.yaml"):
        compose(chosen)


SGD_AT_HALF = (CONF / "optimizer" / "sgd.yaml").read_text().replace("lr: 0.01", "lr: 0.5")


@pytest.mark.parametrize("option", ["--config-dir=mine", "--config-dir mine", "-cd mine", ""])
def test_every_way_to_name_the_directory(
    program: Program, mine: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    if option:
        monkeypatch.delenv("RESNET_CIFAR_CONFIG_DIR")
    file = write(mine / "optimizer" / "sgd.yaml", SGD_AT_HALF)
    write(mine / "optimizer" / "other.yaml", "defaults: [sgd]\ndampening: 0.6\n")
    for choice in ((), ("optimizer=other",)):
        outcome = program(*option.split(), *choice, "--cfg", "job")
        assert "\n  lr: 0.5\n" in outcome.out
        assert ("dampening: 0.6" in outcome.out) == bool(choice)
        assert outcome.err == f"{file} is used in place of the packaged file\n"
    if option:  # what is composed without it, in the same process, is as it was
        assert compose().optimizer.lr == 0.01
        assert "\n  lr: 0.01\n" in program("--cfg", "job").out


def test_a_run_a_sweep_and_a_plan_take_it(program: Program, mine: Path) -> None:
    path = write(mine / "optimizer" / "sgd.yaml", SGD_AT_HALF)
    said = f"{path} is used in place of the packaged file\n"
    swept = program(*TINY, "-m", "seed=0,1", "trainer.progress=quiet")
    assert swept.code == 0, swept.err
    assert swept.err == said
    assert len(list(Path("outputs").glob("lr0.5_*/seed=*/run.json"))) == 2
    single = program(*TINY)
    assert single.out.count("completed before, skipped") == 1
    assert single.err == said
    plan = program(*TINY, "--plan", "seed=0,1")
    assert "lr0.5_" in plan.out
    assert plan.err == said


def test_one_s_own_file_that_can_t_stand_in(program: Program, mine: Path) -> None:
    """What people try: to extend the packaged file of the same name, to keep a config.yaml."""
    for name, text, said in (
        ("optimizer/sgd", "defaults: [sgd]\nlr: 0.5\n", "can't extend the packaged one in whose"),
        ("config", "seed: 3\n", "config.yaml lacks the defaults of conf/config.yaml: rename it"),
        ("config", "- \xff\n", "config.yaml lacks the defaults of conf/config.yaml: rename it"),
    ):
        file = write(mine / f"{name}.yaml", text)
        outcome = program("seed=1")
        assert outcome.code == 2
        note, error = outcome.err.splitlines()
        assert note == f"{file} is used in place of the packaged file"
        assert said in error
        with pytest.raises(ConfigError, match=f"{said[:30]}"):
            compose()
        file.unlink()
    write(mine / "config.yaml", (CONF / "config.yaml").read_text().replace("seed: 0", "seed: 3"))
    assert "\nseed: 3\n" in program("--cfg", "job").out


def test_a_directory_that_is_not_there_is_refused(
    mine: Path,
    program: Program,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for named in ("nowhere", "run/run.json"):
        assert program(*TINY, f"--config-dir={named}").err.startswith(
            f"error: --config-dir={named}: must be a directory"
        )
        monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", named)
        assert main(["runs", "."]) == 2
        assert "RESNET_CIFAR_CONFIG_DIR=" in capsys.readouterr().err
