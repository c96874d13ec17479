"""The study for a borrowed GPU: its order, its deadline, what it leaves."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY


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
    first, *others = script.ORDER
    cells = {path.stem for path in (ROOT / "conf" / "cell").glob("*.yaml")}
    assert set(first[0].removeprefix("cell=").split(",")) == cells
    assert first[1] == "seed=0"
    seeds = {cell: {0} for cell in cells}
    for sweep in others:
        values = {k: v.split(",") for k, _, v in (part.partition("=") for part in sweep)}
        for cell, seed in itertools.product(values.get("cell", []), values["seed"]):
            assert int(seed) not in seeds[cell]  # nothing is asked for twice
            seeds[cell].add(int(seed))
    assert all(len(seeds[cell]) >= 3 for cell in cells)


def test_the_study_in_the_minutes_there_are(
    script: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "SHORT", "lr_0.01")
    monkeypatch.setattr(script, "LONG", "baseline,cosine")
    monkeypatch.setattr(script, "ORDER", [("cell=lr_0.01,baseline,cosine", "seed=0")])
    command = ["--to", "carried", "--no-benchmark", "--at-once", "2"]
    assert script.main(["--minutes", "0.01", *command, "--", *TINY]) == 0
    assert "left for the next call: cell=lr_0.01" in capfd.readouterr().out
    assert not list(Path("carried").glob("*/*"))

    assert script.main(["--minutes", "30", *command, "--", *TINY]) == 0
    shown = capfd.readouterr().out
    assert "2 runs: 0 done before" in shown  # at equal budgets two cells are one
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
    assert "2 done before, 0 to do" in capfd.readouterr().out
    again = [json.loads((path / "run.json").read_text())["evaluations"] for path in carried]
    assert sum(e["split"] == "test" for found in again for e in found) == tests  # once


def test_a_wrong_override_is_one_line(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--minutes", "1", "--", "optimizer.lrr=1"]) == 2
    assert "optimizer.lrr is not a key" in capsys.readouterr().err
