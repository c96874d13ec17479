"""The record: written by one, read by one, and what is wrong with it said in a line."""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from made_up import change_record, make_run, write_lines

from resnet_cifar.files import Lock
from resnet_cifar.record import integrity
from resnet_cifar.record.integrity import damage, read_run_lines, read_summed
from resnet_cifar.record.lines import LinesFile, read_metrics
from resnet_cifar.record.schema import (
    Evaluation,
    FileSum,
    RecordError,
    RunRecord,
    Session,
    Tracked,
    objective,
    read_content,
    read_record,
    record_or_reason,
    seal,
    write_record,
)

COMMITTED = sorted((ROOT / "experiments" / "results" / "runs").glob("*/seed=*"))
TINY = ["data=synthetic", "model.width=8", "trainer.epochs=3"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, TINY, 0, 0.5, curve=[0.3, 0.4, 0.5])


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
        assert "metrics.jsonl" in record.files
        assert ("probe.jsonl" in record.files) == (directory / "probe.jsonl").exists()
        metrics = read_run_lines(directory, "metrics.jsonl")
        assert [line["epoch"] for line in metrics] == list(range(1, record.epochs + 1))
        assert damage(directory, record) == []


TEXT = st.text(max_size=20)
WHOLE = st.integers(0, 2**70)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.none() | st.booleans() | st.integers() | NUMBER | TEXT
VALUE = st.recursive(
    SCALAR, lambda e: st.lists(e, max_size=3) | st.dictionaries(TEXT, e), max_leaves=5
)


@st.composite
def metrics(draw: st.DrawFn, epoch: int) -> dict[str, Any]:
    names = st.sampled_from(["loss/val", "lr", "speed/epoch_seconds", "ä b"])
    share = st.none() | st.floats(0, 1)
    numbers = draw(st.dictionaries(names, st.none() | NUMBER | st.integers()))
    return {"epoch": epoch, **numbers, "accuracy/val": draw(share)}


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    """Any record that the recorder may write."""
    epochs = draw(st.integers(1, 400))
    status = draw(st.sampled_from(["completed", "diverged", "interrupted", "failed"]))
    done = epochs if status == "completed" else draw(st.integers(0, epochs))
    final = draw(metrics(done)) if done else None
    best = draw(st.none() | metrics(draw(st.integers(1, done)))) if done else None
    sessions = st.builds(
        Session,
        precision_seconds=st.dictionaries(TEXT, NUMBER, max_size=2),
        git=st.dictionaries(TEXT, st.none() | TEXT, max_size=2),
        seconds=NUMBER, images_per_second=st.none() | NUMBER,
        matmul_flops_per_second=st.none() | NUMBER, model_flops_per_second=st.none() | NUMBER,
        share_of_matmul_rate=st.none() | NUMBER,
    )  # fmt: skip
    scores = st.dictionaries(st.sampled_from(["accuracy/test", "loss/test"]), NUMBER)
    return RunRecord(
        status, draw(TEXT), draw(WHOLE), epochs,
        draw(st.dictionaries(TEXT, VALUE, max_size=5)),
        draw(TEXT), draw(st.none() | TEXT), draw(st.none() | WHOLE), draw(st.none() | WHOLE), done,
        final, best, draw(st.lists(sessions, max_size=2)),
        draw(st.lists(st.builds(Evaluation, scores=scores), max_size=2)),
        draw(st.dictionaries(TEXT, st.builds(FileSum), max_size=2)),
        handed_in=draw(st.lists(st.builds(Tracked), max_size=2)),
    )  # fmt: skip


@given(record=records())
def test_any_record_that_is_written_is_read_back(record: RunRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), record)
        assert read_record(Path(folder)) == record


@given(data=st.data())
def test_a_record_with_any_other_value_is_refused_in_one_line(data: st.DataObject) -> None:
    """One value, wherever it stands, replaced by any: a record, or a line; never anything else."""
    plain = json.loads((COMMITTED[-1] / "run.json").read_text())
    at: Any = plain
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(st.recursive(SCALAR, lambda e: st.lists(e) | st.dictionaries(TEXT, e)))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_text(json.dumps(seal(plain)))
        found = record_or_reason(Path(folder))
        if isinstance(found, str):
            assert "is not a record of this program: " in found
            assert len(found.splitlines()) == 1
        else:
            write_record(Path(folder), found)
            assert read_record(Path(folder)) == found


@pytest.mark.parametrize("directory", COMMITTED[:3], ids=lambda path: path.parent.name)
def test_what_is_written_is_read_back(tmp_path: Path, directory: Path) -> None:
    record = read_record(directory)
    assert record is not None
    record.files = {"last.pt": FileSum("0" * 64, 7)}
    record.evaluations.append(
        Evaluation("test", "last", 5, "2026-01-01T00:00:00+00:00", {"accuracy/test": 0.5})
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    plain = json.loads((tmp_path / "run.json").read_text())
    assert plain["evaluations"][-1]["accuracy/test"] == 0.5  # flat in the file


def test_a_changed_record_is_noticed(run: Path) -> None:
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
        ({"status": None}, "status=None: must be text"),
        ({"epochs": "many"}, "epochs='many': must be a whole number"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs_done": 4}, "epochs_done=4 of 3"),
        ({"epochs_done": 2}, "it says completed with epochs_done=2 of 3"),
        ({"final": None}, "it says completed"),
        ({"final": [1]}, "final=[1]: must be a mapping"),
        ({"final": {"epoch": 3, "accuracy/val": "high"}}, "accuracy/val='high' is not a number"),
        ({"final": {"epoch": 3, "accuracy/val": 1.5}}, "accuracy/val=1.5 is not between 0 and 1"),
        ({"final": {"epoch": 3, "accuracy/val": 10**200}}, "final: accuracy/val=1000"),
        ({"final": {"epoch": 3, "lr": 10**400}}, "10000000000000000000… is too large a number"),
        ({"best": {"epoch": None}}, "best: epoch=None"),
        ({"sessions": {}}, "sessions={}: must be a list"),
        ({"sessions": [{"start": ""}]}, "sessions.0.device=None: must be given"),
        ({"sessions": [{"start": 3, "device": "", "device_type": ""}]}, "sessions.0.start=3: must"),
        ({"evaluations": [{"split": "test"}]}, "evaluations.0.weights=None: must be given"),
        ({"config": [1]}, "config=[1]: must be a mapping"),
        (
            {"files": {"a.pt": 1, "last.pt": {"sha256": "", "bytes": "7"}}},
            "files.a.pt=1: must be a mapping",
        ),
        ({"files": {"last.pt": {"sha256": "", "bytes": "7"}}}, "files.last.pt.bytes='7': must"),
        ({"a - at `$.sessions[9]": 1}, "a - at `$.sessions[9]"),  # a key like msgspec's paths
        ({"epochs": 10**200}, "epochs_done=3 of 1000"),
        ({"surprise": 1}, "surprise=1: must be left out: the keys here are"),
        ({"version": 99}, "version=99 is of a later program"),
        ({"version": "two"}, "version='two'"),
        ({"version": 1}, "version 1, written before checksums"),
        ({"seed": 1}, "another run"),
        ({"cell": "lr1-00000000"}, "another run"),
    ],
)
def test_a_wrong_value_is_named(run: Path, values: dict[str, Any], what: str) -> None:
    change_record(run, **values)
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
    change_record(run, status="running")
    found = read_record(run)
    assert found is not None
    assert found.status == "interrupted"
    with Lock(run / ".lock"):
        found = read_record(run)
    assert found is not None
    assert found.status == "running"


def test_a_diverged_run_is_worth_the_least(run: Path) -> None:
    change_record(run, status="diverged")
    record = read_record(run)
    assert record is not None
    assert record.final is not None
    assert record.final["accuracy/val"] == 0.5
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


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("probe.jsonl", '{"epoch": 2}'),
        ("probe.jsonl", '{"epoch": 2, "layer": "stem"}'),
        ("probe.jsonl", '{"epoch": 2, "layer": "stem", "kind": 1}'),
        ("probe.jsonl", '{"epoch": 2, "layer": ["stem"], "kind": "conv"}'),
        ("metrics.jsonl", '{"epoch": 2, "layer": "stem", "kind": "conv"}'),
    ],
)
def test_layers_are_text_and_a_probe_s_alone(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(RecordError, match=f"{name}: line 1 is damaged"):
        read_metrics(tmp_path / name)


@given(lines=st.integers(0, 6).flatmap(lambda n: st.tuples(*(metrics(e + 1) for e in range(n)))),
       share=st.floats(0, 1))  # fmt: skip
def test_a_torn_last_line_is_left_out(lines: tuple[dict[str, Any], ...], share: float) -> None:
    """Cut off at any byte: the lines that are whole are read, and a resume goes on from them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        write_lines(path, lines)
        content = path.read_bytes()
        left = content[: round(share * len(content))]
        path.write_bytes(left)
        whole = list(lines[: left.count(b"\n")])
        assert read_metrics(path) == whole
        opened = LinesFile(path, len(whole))
        opened.append({"epoch": len(whole) + 1})
        opened.close()
        assert read_metrics(path) == [*whole, {"epoch": len(whole) + 1}]
        assert path.read_bytes().startswith(content[: content[: len(left)].rfind(b"\n") + 1])


# A run that has not ended: its record knows the lines so far -------------------------------------


@pytest.fixture
def going_on(run: Path) -> Path:
    """A run with two of its three epochs behind it."""
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    record = read_record(run)
    assert record is not None
    record.status, record.epochs_done = "interrupted", 2
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
    original, looks = read_content, []

    def content(path: Path) -> bytes | None:
        if path.name == "metrics.jsonl" and not looks:
            looks.append(path)
            path.write_text(path.read_text().splitlines(keepends=True)[0])
            record.epochs_done = 1
            record.files = {path.name: LinesFile(path, 1).sum()}
            write_record(going_on, record)
        return original(path)

    monkeypatch.setattr(integrity, "read_content", content)
    found = read_summed(going_on, "metrics.jsonl", read_record(going_on))
    assert looks
    assert found is not None
    assert found.count(b"\n") == 1


def test_damage_without_a_checksum_names_the_file(going_on: Path) -> None:
    """A checkpoint of a run under way: only the archive's own checksums tell."""
    record = read_record(going_on)
    assert record is not None
    with zipfile.ZipFile(going_on / "last.pt", "w") as archive:
        archive.writestr("part", "weights")
    content = (going_on / "last.pt").read_bytes()
    assert damage(going_on, record) == []
    (going_on / "last.pt").write_bytes(content.replace(b"weights", b"wEights"))
    (problem,) = damage(going_on, record)
    assert problem.startswith(f"{going_on / 'last.pt'} is damaged: ")
    assert "part fails its checksum" in problem
