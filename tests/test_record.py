"""The record: written by one, read by one, and what is wrong with it said in a line."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from made_up import make_run

from resnet_cifar.files import Lock
from resnet_cifar.record import integrity
from resnet_cifar.record.integrity import damage, read_run_lines, read_summed
from resnet_cifar.record.lines import LinesFile, read_metrics, read_probe
from resnet_cifar.record.schema import (
    VERSION,
    Evaluation,
    FileSum,
    RecordError,
    RunRecord,
    _content,
    objective,
    read_record,
    record_or_reason,
    write_record,
)

COMMITTED = sorted((ROOT / "experiments" / "results" / "runs").glob("*/seed=*"))
TINY = ["data=synthetic", "model.width=8", "trainer.epochs=3"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, TINY, 0, 0.5, curve=[0.3, 0.4, 0.5])


def change(directory: Path, **values: Any) -> None:
    path = directory / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def said(directory: Path) -> str:
    with pytest.raises(RecordError) as caught:
        read_record(directory)
    line = str(caught.value)
    assert line.startswith(str(directory / "run.json"))
    assert "\n" not in line
    assert record_or_reason(directory) == line
    return line


def test_every_committed_record_is_read() -> None:
    assert len(COMMITTED) >= 30
    for directory in COMMITTED:
        record = read_record(directory)
        assert record is not None
        assert record.finished
        assert f"{record.cell}/seed={record.seed}" == "/".join(directory.parts[-2:])
        plain = json.loads((directory / "run.json").read_text())
        assert record.final == plain["final"]
        assert record.best == plain["best"]
        assert [session.seconds for session in record.sessions] == [
            session["seconds"] for session in plain["sessions"]
        ]
        if "data.crop_padding" in plain["config"]:
            assert (
                record.config["augmentation.crop_padding"] == plain["config"]["data.crop_padding"]
            )
            assert not {"data.crop_padding", "data.flip_probability"} & record.config.keys()
        metrics = read_metrics(directory / "metrics.jsonl")
        assert [line["epoch"] for line in metrics] == list(range(1, record.epochs + 1))
        read_probe(directory / "probe.jsonl")


@pytest.mark.parametrize("directory", COMMITTED[:3], ids=lambda path: path.parent.name)
def test_what_is_written_is_read_back(tmp_path: Path, directory: Path) -> None:
    record = read_record(directory)
    assert record is not None
    record.version = VERSION
    record.files = {"last.pt": FileSum("0" * 64, 7)}
    record.evaluations.append(
        Evaluation("test", "last", 5, "2026-01-01T00:00:00+00:00", {"accuracy/test": 0.5})
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    plain = json.loads((tmp_path / "run.json").read_text())
    assert plain["evaluations"][-1]["accuracy/test"] == 0.5  # flat in the file


def test_a_changed_record_is_noticed(tmp_path: Path, run: Path) -> None:
    record = read_record(run)
    assert record is not None
    record.version = VERSION
    write_record(run, record)
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"accuracy/val": 0.5', '"accuracy/val": 0.6'))
    assert "its checksum does not fit" in said(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seed": 0}', "NaN", "\x00", "[" * 100_000])
def test_a_foreign_file(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    said(run)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"status": "fine"}, "status='fine'"),
        ({"status": None}, "status=None is not text"),
        ({"epochs": "many"}, "epochs='many' is not a whole number"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs_done": 4}, "epochs_done=4 of 3"),
        ({"epochs_done": 2}, "it says completed with epochs_done=2 of 3"),
        ({"final": None}, "it says completed"),
        ({"final": [1]}, "final=[1] is not a mapping"),
        ({"final": {"epoch": 3, "accuracy/val": "high"}}, "accuracy/val='high' is not a number"),
        ({"final": {"epoch": 3, "accuracy/val": 1.5}}, "accuracy/val=1.5 is not between 0 and 1"),
        ({"best": {"epoch": None}}, "best: epoch=None"),
        ({"sessions": {}}, "sessions={} is not a list"),
        ({"sessions": [{"start": 3}]}, "it has no sessions[0].device"),
        ({"sessions": [{"start": 3, "device": "", "device_type": ""}]}, "sessions[0].start=3"),
        ({"evaluations": [{"split": "test"}]}, "it has no evaluations[0].weights"),
        ({"config": {"a": [1]}}, "config.a=[1]"),
        ({"surprise": 1}, "surprise is unknown here"),
        ({"version": 99}, "version=99 is of a later program"),
        ({"seed": 1}, "another run"),
        ({"cell": "lr1-00000000"}, "another run"),
    ],
)
def test_a_wrong_value_is_named(run: Path, values: dict[str, Any], what: str) -> None:
    change(run, **values)
    assert what in said(run)


def test_bytes_that_are_not_text(run: Path) -> None:
    (run / "run.json").write_bytes(b'{"status": "\xff"}')
    said(run)


def test_a_copy_may_have_any_name(tmp_path: Path, run: Path) -> None:
    assert read_record(run.rename(tmp_path / "my best")) is not None


def test_no_record_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None
    assert "has no run.json" in str(record_or_reason(tmp_path))


def test_running_without_a_lock_was_killed(run: Path) -> None:
    change(run, status="running")
    found = read_record(run)
    assert found is not None
    assert found.status == "interrupted"
    with Lock(run / ".lock"):
        found = read_record(run)
    assert found is not None
    assert found.status == "running"


def test_a_network_of_nan_of_an_earlier_version_is_diverged(run: Path) -> None:
    final = {"epoch": 3, "accuracy/val": 0.1, "loss/val": None}
    change(run, final=final)
    record = read_record(run)
    assert isinstance(record, RunRecord)
    assert record.status == "diverged"
    assert objective(record) == 0


@pytest.mark.parametrize(
    "line",
    [
        '{"epoch": 2, "a"',
        "[]",
        '{"a": 1}',
        '{"epoch": 0}',
        '{"epoch": 2, "loss/val": "low"}',
        "",
        "\x00",
    ],
)
def test_a_damaged_line_is_named(run: Path, line: str) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2], ""]))
    with pytest.raises(RecordError, match=r"metrics.jsonl: line 2 is damaged"):
        read_metrics(path)


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    assert [line["epoch"] for line in read_metrics(path)] == [1, 2]


# A run that has not ended: its record knows the lines so far -------------------------------------


@pytest.fixture
def going_on(run: Path) -> Path:
    """A run with two of its three epochs behind it."""
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    record = read_record(run)
    assert record is not None
    record.status, record.epochs_done, record.version = "interrupted", 2, VERSION
    record.files = {path.name: LinesFile(path, 2).sum()}
    write_record(run, record)
    return run


def test_lines_may_follow_those_that_the_record_knows(going_on: Path) -> None:
    record = read_record(going_on)
    assert record is not None
    with (going_on / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "accuracy/val": 0.5}\n{"epoch": 4, "accu')
    lines = read_run_lines(going_on, "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert damage(going_on, record) == []


@pytest.mark.parametrize("change", [("0.3", "0.4"), ('{"epoch": 1', '{"epoch": 9')])
def test_other_lines_may_not(going_on: Path, change: tuple[str, str]) -> None:
    record = read_record(going_on)
    assert record is not None
    path = going_on / "metrics.jsonl"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(RecordError, match=r"metrics.jsonl was changed"):
        read_run_lines(going_on, "metrics.jsonl")
    assert len(damage(going_on, record)) == 1


def test_a_run_that_goes_on_between_two_looks_is_not_damaged(
    going_on: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken up an epoch earlier after run.json was read and before its lines are."""
    record = read_record(going_on)
    assert record is not None
    original, looks = _content, []

    def content(path: Path) -> bytes | None:
        if path.name == "metrics.jsonl" and not looks:
            looks.append(path)
            path.write_text(path.read_text().splitlines(keepends=True)[0])
            record.epochs_done = 1
            record.files = {path.name: LinesFile(path, 1).sum()}
            write_record(going_on, record)
        return original(path)

    monkeypatch.setattr(integrity, "_content", content)
    found = read_summed(going_on, "metrics.jsonl", read_record(going_on))
    assert looks
    assert found is not None
    assert found.count(b"\n") == 1
