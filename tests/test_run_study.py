"""The study for a borrowed GPU: its order, its deadline, what it leaves."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

from resnet_cifar.config import compose
from resnet_cifar.identity import cell_name


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(
        "run_study", ROOT / "experiments" / "run_study.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_study", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def test_every_cell_once_before_more_seeds(script: Any) -> None:
    runs = list(script.order())
    assert len(set(runs)) == len(runs) == 8 + 4 * 3 + 2 * 5 + 3 * 16
    cells = {path.stem for path in (ROOT / "conf" / "cell").glob("*.yaml")}
    assert {run[0].removeprefix("cell=") for run in runs[:8]} == cells
    assert all("seed=0" in run for run in runs[:8])
    # The grid is that of experiment=lr_x_wd.
    point = compose(list(runs[-1]))
    assert cell_name(point).startswith("lr0.1_cosine_wd0.01_bn_60ep")


def test_the_study_in_the_minutes_there_are(
    script: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "SHORT", ("lr_0.01",))
    monkeypatch.setattr(script, "LONG", ("baseline", "cosine"))
    monkeypatch.setattr(script, "SEEDS", 1)
    monkeypatch.setattr(script, "GRID", [])
    monkeypatch.setattr(script, "order", lambda: iter([
        ("cell=lr_0.01", "seed=0"), ("cell=baseline", "seed=0"), ("cell=cosine", "seed=0"),
    ]))  # fmt: skip
    command = ["--to", "carried", "--no-benchmark", "--at-once", "2"]
    assert script.main(["--minutes", "0.01", *command, "--", *TINY]) == 0
    assert "2 runs to do" in capfd.readouterr().out  # at equal budgets two cells are one
    assert not list(Path("carried").glob("*/*"))

    assert script.main(["--minutes", "30", *command, "--", *TINY]) == 0
    shown = capfd.readouterr().out
    assert shown.count("started") == 2
    carried = sorted(Path("carried").glob("*/seed=0"))
    assert len(carried) == 2
    tests = 0
    for directory in carried:
        names = {path.name for path in directory.iterdir()}
        assert {"run.json", "metrics.jsonl", "predictions.npz", "config.yaml"} <= names
        assert not [name for name in names if name.endswith((".pt", ".lock"))]
        evaluations = json.loads((directory / "run.json").read_text())["evaluations"]
        tests += len([e for e in evaluations if e["split"] == "test"])
    assert tests in (1, 2)  # the baseline, and the selected cell if it is another

    assert script.main(["--minutes", "30", *command, "--", *TINY]) == 0
    assert "0 runs to do" in capfd.readouterr().out
    again = [json.loads((path / "run.json").read_text())["evaluations"] for path in carried]
    assert sum(e["split"] == "test" for found in again for e in found) == tests  # once


def test_a_wrong_override_is_one_line(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--minutes", "1", "--", "optimizer.lrr=1"]) == 2
    assert "optimizer.lrr is no key" in capsys.readouterr().err
