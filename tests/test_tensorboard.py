"""What people see in TensorBoard, asked of TensorBoard itself over its HTTP API."""

from __future__ import annotations

import json
import signal
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Program
from tensorboard.util import tensor_util
from test_run import interrupt_at
from werkzeug.test import Client

from resnet_cifar.config.compose import compose
from resnet_cifar.identity import items, run_directory
from resnet_cifar.record import checkpoint
from resnet_cifar.record.tensorboard import Board, columns

Get = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.fixture
def tensorboard(program: Program, tmp_path: Path) -> Get:
    """A server's answers on three runs: completed (interrupted once), completed, diverged."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*TINY)
    for lr in ("0.01", "0.02", "1e9"):
        assert program(*TINY, f"optimizer.lr={lr}").code == 0
    return server(tmp_path / "outputs")


def server(logdir: Path) -> Get:
    """`get(path, body=None, **query)`: JSON, or bytes, from TensorBoard's web application."""
    from tensorboard import default, program
    from tensorboard.backend import application
    from tensorboard.backend.event_processing import data_ingester

    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["", "--logdir", str(logdir), "--load_fast", "false",
                          "--reload_interval", "0"])  # fmt: skip
    ingester = data_ingester.LocalDataIngester(board.flags)
    ingester.start()
    web = Client(
        application.TensorBoardWSGIApp(
            board.flags, board.plugin_loaders, ingester.data_provider, board.assets_zip_provider,
            ingester.deprecated_multiplexer,
        )
    )  # fmt: skip

    def get(path: str, body: Any = None, **query: str) -> Any:
        url = f"/data/{path}?{urllib.parse.urlencode(query)}"
        answer = web.get(url) if body is None else web.post(url, json=body)
        assert answer.status_code == 200, (url, answer.status)
        return json.loads(answer.data) if "json" in answer.content_type else answer.data

    return get


def test_every_tab(tensorboard: Get) -> None:
    runs = tensorboard("runs")
    assert len(runs) == 3
    assert all(name.endswith("/seed=0") for name in runs)
    ordinary = next(name for name in runs if name.startswith("lr0.01_constant_wd0_bn_2ep"))

    # SCALARS: the names of metrics.jsonl, each epoch once although the run was resumed.
    tags = tensorboard("plugin/scalars/tags")[ordinary]
    assert {"accuracy/val", "accuracy/val_augmented", "loss/train", "lr"} <= set(tags)
    points = tensorboard("plugin/scalars/scalars", run=ordinary, tag="accuracy/val")
    assert [step for _, step, _ in points] == [1, 2]

    # CUSTOM SCALARS: training and both validation views in one chart.
    layout = tensorboard("plugin/custom_scalars/layout")
    charts = {c["title"]: c for part in layout["category"] for c in part["chart"]}
    (pattern,) = charts["accuracy"]["multiline"]["tag"]
    found = tensorboard("plugin/custom_scalars/scalars", run=ordinary, tag=pattern)
    assert found["regex_valid"]
    assert set(found["tag_to_events"]) == {
        "accuracy/train", "accuracy/val", "accuracy/val_augmented",
    }  # fmt: skip


def test_a_reader_follows_a_resumed_run_and_sees_each_epoch_once(program: Program) -> None:
    """TensorBoard's own reader, open since before the resume; no file it reads goes away."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    run = run_directory(compose(TINY))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*TINY)
    (first,) = run.glob("events.out.tfevents.*")
    reader = EventAccumulator(str(run)).Reload()
    assert [event.step for event in reader.Tensors("accuracy/val")] == [1]

    # A kill after an epoch's numbers and before its checkpoint: the epoch is trained again.
    original = checkpoint.save

    def die(path: Path, state: dict[str, Any], *rest: Any) -> None:
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        original(path, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", die)
        program(*TINY)
    assert [event.step for event in reader.Reload().Tensors("accuracy/val")] == [1, 2]
    program(*TINY)
    assert first.exists()
    for late in (reader, EventAccumulator(str(run))):
        late.Reload()
        for tag in ("accuracy/val", "loss/train", "lr"):
            assert [event.step for event in late.Tensors(tag)] == [1, 2]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = tensor_util.make_ndarray(reader.Tensors("loss/train")[1].tensor_proto)
    assert found == pytest.approx(lines[1]["loss/train"])


@pytest.mark.parametrize("back", [0, 60, 86_400, 40 * 365 * 86_400])
def test_a_later_session_s_file_is_read_last_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: int
) -> None:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    real = time.time
    names: list[str] = []
    for session in range(3):  # each of two epochs, its clock set back since the one before
        monkeypatch.setattr(time, "time", lambda since=session: real() - back * since)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        board = Board(tmp_path, 2 * session, {})
        for epoch in (2 * session + 1, 2 * session + 2):
            board.scalars({"epoch": epoch, "accuracy/val": 0.5})
        if session == 0:
            reader = EventAccumulator(str(tmp_path)).Reload()
        board.close()
        assert all(path.read_bytes() == content for path, content in before.items())
        names += [path.name for path in tmp_path.iterdir() if path.name not in names]
        for late in (reader, EventAccumulator(str(tmp_path))):
            steps = [event.step for event in late.Reload().Tensors("accuracy/val")]
            assert steps == list(range(1, 2 * session + 3))
    stamps = [int(name.split(".")[3]) for name in names]  # the rest of a name is any machine's
    assert sorted(set(stamps)) == stamps


def test_the_hparams_tab_has_the_columns_people_vary() -> None:
    def shown(*overrides: str) -> list[str]:
        return list(columns({**dict(items(compose(list(overrides)))), "seed": 0}))

    usual = shown()
    assert len(usual) == 10
    assert shown("optimizer.lr=0.3", "scheduler=cosine", "norm=detached_batchnorm") == usual
    assert shown("optimizer.momentum=0.8") == [*usual, "optimizer.momentum"]
    assert "optimizer.beta2" in shown("optimizer=adamw")
    assert "augmentation" in shown("augmentation=cutout")


def test_the_hparams_tab_has_its_columns_and_true_statuses(tensorboard: Get) -> None:
    experiment = tensorboard("plugin/hparams/experiment", body={"experimentName": ""})
    names = {column["name"] for column in experiment["hparamInfos"]}
    assert {"optimizer.lr", "scheduler", "regularization.weight_decay", "norm.detach", "seed",
            "model.width", "trainer.epochs"} <= names  # fmt: skip
    assert experiment["hparamInfos"][0]["name"] == "optimizer.lr"  # what differs comes first
    metrics = {metric["name"]["tag"] for metric in experiment["metricInfos"]}
    assert {"accuracy/val", "loss/val", "accuracy/val_augmented"} <= metrics
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
        "colParams": [{"hparam": "optimizer.lr", "order": "ORDER_ASC"}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    groups = tensorboard("plugin/hparams/session_groups", body=body)["sessionGroups"]
    assert len(groups) == 3  # a row a run
    rows = [(g["hparams"]["optimizer.lr"], g["sessions"][0]["status"]) for g in groups]
    assert rows == [
        (0.01, "STATUS_SUCCESS"), (0.02, "STATUS_SUCCESS"), (1e9, "STATUS_FAILURE"),
    ]  # fmt: skip
    values = {value["name"]["tag"] for value in groups[0]["metricValues"]}
    assert {"accuracy/val", "loss/val"} <= values


def test_lists_stand_in_hparams_as_people_write_them(tmp_path: Path) -> None:
    Board(tmp_path, 0, {"scheduler.milestones": [150, 225]}).close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert b"[150,225]" in file.read_bytes()
