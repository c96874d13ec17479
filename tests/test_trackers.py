"""Trackers beside TensorBoard: read back by their own means, without a network."""

from __future__ import annotations

import importlib.util
import json
import signal
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import TINY, Program
from test_run import interrupt_at

from resnet_cifar.config.compose import compose
from resnet_cifar.config.saved import load, to_yaml
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.record.logger import TensorBoard
from resnet_cifar.record.schema import Tracked, read_record
from resnet_cifar.record.tensorboard import Board
from resnet_cifar.record.tracker import TrackedRun, Tracker
from resnet_cifar.training.engine import Engine

RUN = run_directory(compose(TINY))


def interrupted_once(program: Program, *options: str) -> None:
    """A run of two epochs, stopped by a signal in the second and taken up again."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        assert program(*TINY, *options).code == 143
    outcome = program(*TINY, *options)
    assert outcome.code == 0, outcome.err
    assert "goes on without it" not in outcome.out


def tracked() -> list[Tracked]:
    record = read_record(RUN)
    assert record is not None
    return [session.tracked for session in record.sessions if session.tracked]


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("default")
def test_mlflow_has_one_run_of_it_with_each_epoch_once(program: Program) -> None:
    pytest.importorskip("mlflow", reason='needs pip install -e ".[mlflow]"')
    interrupted_once(program, "logger=mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("resnet-cifar")
    (found,) = client.search_runs([experiment.experiment_id])
    assert [t.id for t in tracked()] == [found.info.run_id] * 2
    assert found.info.status == "FINISHED"
    assert found.info.run_name == str(RUN.relative_to("outputs"))
    assert found.data.params["optimizer.lr"] == "0.01"
    assert found.data.tags["cell"] == RUN.parent.name
    for name in ("accuracy/val", "loss/train", "lr"):
        history = client.get_metric_history(found.info.run_id, name)
        assert [m.step for m in history] == [1, 2]
        assert [m.value for m in history] == pytest.approx([line[name] for line in lines()])
    pictures = {file.path for file in client.list_artifacts(found.info.run_id, "confusion")}
    assert pictures == {"confusion/val.png"}


@pytest.mark.filterwarnings("default")
def test_wandb_offline_has_one_run_of_it_with_each_epoch_once(program: Program) -> None:
    pytest.importorskip("wandb", reason='needs pip install -e ".[wandb]"')
    interrupted_once(program, "logger=wandb", "logger.mode=offline")
    (identity,) = {t.id for t in tracked()}
    files = sorted(Path("outputs/wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2  # a session each, of one id: `wandb sync` makes one run of them
    rows: dict[int, dict[str, Any]] = {}
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_id == identity
                assert record.run.display_name == str(RUN.relative_to("outputs"))
            elif record.WhichOneof("record_type") == "history":
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                assert row["_step"] not in rows
                rows[row["_step"]] = row
    assert sorted(rows) == [1, 2]
    for line in lines():
        for name in ("accuracy/val", "loss/train", "lr"):
            assert rows[line["epoch"]][name] == pytest.approx(line[name])
    assert rows[2]["confusion/val._type"] == "image-file"


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, block = path.read_bytes(), 32768
    assert content.startswith(b":W&B")
    found, at, parts = [], 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:  # no room for a header: the rest of the block is filled up
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


class Notebook(Tracker):
    """Keeps what it is told, run by run; fails where it is told to."""

    runs: ClassVar[dict[str, list[int]]]
    fails_at: int | None

    def __init__(self, run: TrackedRun) -> None:
        self.id = run.id or f"run{len(self.runs)}"
        self.runs.setdefault(self.id, [])

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        if metrics["epoch"] == self.fails_at:
            raise OSError("no ink")
        self.runs[self.id].append(metrics["epoch"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    class Ours(Notebook):
        runs: ClassVar[dict[str, list[int]]] = {}
        fails_at = None

    monkeypatch.setattr(TensorBoard, "open", lambda self, run: Ours(run))
    return Ours


def test_a_tracker_that_fails_is_said_once_and_given_the_rest_later(
    program: Program, notebook: type[Notebook]
) -> None:
    notebook.fails_at = 2
    long = [*TINY, "trainer.epochs=5"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 4, 1, signal.SIGTERM)
        outcome = program(*long)
    assert outcome.out.count("logger=tensorboard: OSError: no ink; the run goes on without it") == 1
    assert notebook.runs == {"run0": [1]}
    notebook.fails_at = None
    outcome = program(*long)
    assert "completed" in outcome.out
    assert notebook.runs == {"run0": [1, 2, 3, 4, 5]}


def test_an_epoch_trained_again_is_not_told_twice_and_a_new_run_is_a_new_one(
    program: Program, notebook: type[Notebook]
) -> None:
    original = Engine.save

    def die(self: Engine) -> None:
        if self.state.epoch == 2:
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:  # after an epoch's numbers, before its checkpoint
        patch.setattr(Engine, "save", die)
        program(*TINY)
    assert notebook.runs == {"run0": [1, 2]}
    assert program(*TINY).code == 0
    assert notebook.runs == {"run0": [1, 2]}
    assert program(*TINY, "rerun=true").code == 0
    assert notebook.runs == {"run0": [1, 2], "run1": [1, 2]}


def test_tensorboard_can_fail_too(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Board, metrics: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Board, "scalars", full)
    outcome = program(*TINY)
    assert outcome.code == 0
    assert outcome.out.count("TensorBoard: OSError: disk full; the run goes on without it") == 1
    assert len(lines()) == 2


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_extra_is_said_before_anything_is_written(
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    sweep: list[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    outcome = program(*TINY, f"logger={package}", *sweep)
    assert outcome.code == 1
    said = f'logger={package} needs more packages: pip install -c constraints.txt -e ".[{package}]"'
    assert outcome.err == f"error: {said}\n"
    assert list(tmp_path.iterdir()) == []


def test_names_and_old_files_know_nothing_of_it(tmp_path: Path) -> None:
    plain, chosen = compose(TINY), compose([*TINY, "logger=wandb", "logger.mode=offline"])
    assert cell_name(plain) == cell_name(chosen)
    assert flatten(chosen)["logger.mode"] == "offline"
    text = to_yaml(plain)
    assert "logger:\n  name: tensorboard\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("logger:\n  name: tensorboard\n", ""))
    assert load(tmp_path / "config.yaml") == plain
