"""Runs as tables: what is read, what is passed over, and that it is said."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made_up import change_record, make_run

from resnet_cifar.errors import UserError
from resnet_cifar.runs.find import find_runs
from resnet_cifar.runs.table import (
    identity_keys,
    load_metrics,
    load_predictions,
    load_runs,
    records,
)

TINY = ["data=synthetic", "model.width=8", "trainer.epochs=3"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (1, 0):
        make_run(tmp_path, TINY, seed, 0.5 + seed / 10, curve=[0.3, 0.4, 0.5 + seed / 10])
    make_run(tmp_path, [*TINY, "optimizer.lr=0.1"], 0, 0.9, loss=0.25)
    return tmp_path


def test_a_row_is_a_run(runs: Path) -> None:
    table = load_runs(runs)
    assert list(table["seed"]) == [0, 1, 0]
    assert list(table["optimizer.lr"]) == [0.01, 0.01, 0.1]
    assert list(table["accuracy/val"]) == [0.5, 0.6, 0.9]
    assert list(table["status"]) == ["completed"] * 3
    row = table.iloc[2]
    assert (row["epochs"], row["epochs_done"], row["loss/val"]) == (3, 3, 0.25)
    assert (row["seconds"], row["images_per_second"]) == (3600, pytest.approx(100))
    assert (row["device"], row["code"], row["test_evaluations"]) == ("a CPU", "0123456789", 0)
    assert table.attrs["skipped"] == {}


def test_the_table_says_what_the_list_says(runs: Path) -> None:
    make_run(runs, TINY, 4, status="failed")
    listed = {row["directory"]: row for row in (run.row for run in find_runs(runs))}
    table = load_runs(runs)
    assert len(table) == len(listed) == 4
    for row in records(table):
        other = listed[row["directory"]]
        shared = row.keys() & other.keys()
        assert {"optimizer.lr", "accuracy/val", "best/accuracy/val", "seconds"} <= shared
        assert {key: row[key] or None for key in shared} == {k: other[k] or None for k in shared}


def test_a_committed_record_is_read(runs: Path) -> None:
    table = load_runs(ROOT / "experiments" / "results" / "runs")
    assert len(table) >= 11
    curves = load_metrics(table)
    assert set(curves["directory"]) == set(table["directory"])
    last = curves.groupby("directory").last()["accuracy/val"]
    assert (table.set_index("directory")["accuracy/val"] == last).all()


def test_what_is_no_run_is_named(runs: Path) -> None:
    cell = next(path for path in runs.iterdir())
    (runs / "notes").mkdir()
    (runs / "notes" / "seed=1").mkdir()  # foreign
    (runs / "file").write_text("")
    broken = cell / "seed=7"
    broken.mkdir()
    (broken / "run.json").write_text('{"status": "comp')
    odd = cell / "seed=8"
    odd.mkdir()
    (odd / "run.json").write_text('{"status": "completed", "version": 2}')
    old = cell / "seed=9"
    old.mkdir()
    (old / "run.json").write_text('{"status": "completed"}')
    shutil.copytree(cell / "seed=0", cell / "seed=0.2026-01-01T00-00-00")  # set aside
    table = load_runs(runs)
    assert len(table) == 3
    skipped = table.attrs["skipped"]
    aside = str(cell / "seed=0.2026-01-01T00-00-00")
    unread = {str(runs / "notes" / "seed=1"), str(broken), str(odd), str(old)}
    assert set(skipped) == {*unread, aside}
    assert skipped[aside] == "set aside"
    assert "has no run.json" in skipped[str(runs / "notes" / "seed=1")]
    assert "is not a record" in skipped[str(broken)]
    assert "its checksum does not fit" in skipped[str(odd)]
    assert "version 1, written before checksums" in skipped[str(old)]


def test_a_run_in_two_roots_counts_once(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("copy"))
    table = load_runs(runs, copy)
    assert len(table) == 3
    assert all("the same run as" in why for why in table.attrs["skipped"].values())
    assert len(table.attrs["skipped"]) == 3


def test_unfinished_runs_say_so(runs: Path) -> None:
    make_run(runs, TINY, 2, status="running")
    make_run(runs, TINY, 3, status="failed")
    table = load_runs(runs).set_index("seed", append=True)
    assert sorted(table["status"]) == [*["completed"] * 3, "failed", "interrupted"]


def test_one_run_s_own_directory_can_be_given(runs: Path) -> None:
    directory = load_runs(runs)["directory"][0]
    assert len(load_runs(directory)) == 1


def test_nothing_there(tmp_path: Path) -> None:
    assert load_runs(tmp_path).empty
    assert load_metrics(tmp_path).empty
    with pytest.raises(UserError, match="is not a directory"):
        load_runs(tmp_path / "nowhere")


def test_a_line_is_an_epoch(runs: Path) -> None:
    curves = load_metrics(runs)
    assert list(curves.columns[:3]) == ["directory", "cell", "seed"]
    first = curves[curves["seed"] == 1]
    assert list(first["epoch"]) == [1, 2, 3]
    assert list(first["accuracy/val"]) == [0.3, 0.4, 0.6]
    assert first["accuracy/val_augmented"].isna().tolist() == [True, True, False]


def test_torn_repeated_and_null_lines(runs: Path) -> None:
    directory = Path(load_runs(runs)["directory"][0])
    path = directory / "metrics.jsonl"
    again = json.loads(path.read_text().splitlines()[1]) | {"accuracy/val": 0.45, "loss/val": None}
    path.write_text(path.read_text() + json.dumps(again) + '\n{"epoch": 4, "accur')
    assert str(path) in load_metrics(runs).attrs["skipped"]
    change_record(directory, files={})  # where no checksum tells
    mine = load_metrics(runs)
    mine = mine[mine["directory"] == str(directory)].set_index("epoch")
    assert list(mine.index) == [1, 2, 3]
    assert mine.loc[2, "accuracy/val"] == 0.45
    assert np.isnan(mine.loc[2, "loss/val"])


def test_many_epochs_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of 5,000 runs at 300 epochs is 1.5 million lines: no dictionary of each is kept."""

    def read(directory: Path, name: str) -> list[dict[str, float]]:
        return [{"epoch": 1, **{f"m/{i}": i + epoch / 3 for i in range(15)}} for epoch in range(50)]

    monkeypatch.setattr("resnet_cifar.runs.table.read_run_lines", read)
    several = {"directory": [f"/x/{i}" for i in range(200)], "cell": "c", "seed": range(200)}
    load_metrics(pd.DataFrame(several).iloc[:1])
    tracemalloc.start()
    table = load_metrics(pd.DataFrame(several))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.shape == (10_000, 19)
    assert peak < 80 * table.size  # bytes: a float, its place in a list, its place in the table


def test_predictions(runs: Path, tmp_path: Path) -> None:
    logits, labels = np.eye(4), np.arange(4)
    directory = make_run(tmp_path / "more", TINY, 0, logits=logits, labels=labels)
    found = load_predictions(directory)
    assert found is not None
    assert (found.logits["val"] == logits).all()
    assert (found.labels == labels).all()
    assert load_predictions(load_runs(runs)["directory"][0]) is None
    whole = (directory / "predictions.npz").read_bytes()
    (directory / "predictions.npz").write_bytes(whole + b"?")
    with pytest.raises(UserError, match=r"predictions\.npz was changed"):
        load_predictions(directory)
    change_record(directory, files={})  # where no checksum tells
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:200] + b"?" + whole[201:]):
        (directory / "predictions.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"predictions\.npz can't be read"):
            load_predictions(directory)
    arrays = {"logits_val": logits, "logits_val_augmented": logits}
    arrays |= {"labels": labels, "index": labels}
    for wrong in (
        {"labels": np.arange(3)},
        {"labels": np.full(4, 9)},
        {"index": np.eye(4)},
        {"logits_val": np.full((4, 4), np.nan)},
    ):
        np.savez(directory / "predictions.npz", **(arrays | wrong))
        with pytest.raises(UserError, match=r"predictions\.npz can't be read"):
            load_predictions(directory)
    (directory / "predictions.npz").unlink()
    (directory / "predictions.npz").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        load_predictions(directory)


def test_identity_is_told_from_execution(runs: Path) -> None:
    keys = identity_keys(load_runs(runs))
    assert {"data", "model.width", "optimizer.lr", "trainer.epochs", "scheduler"} <= set(keys)
    assert not {"trainer.device", "trainer.threads", "seed", "accuracy/val"} & set(keys)


def test_reading_runs_imports_no_torch(runs: Path) -> None:
    code = (
        "import sys; from resnet_cifar.results import load_metrics, load_runs\n"
        f"from resnet_cifar.report.__main__ import main\n"
        f"assert main([{str(runs)!r}, '--to', {str(runs / 'report')!r}, '--quiet']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
