"""Damaged and foreign files in the place of a run's: noticed, said in a line, never a wrong number.

Every file of a finished, an interrupted and a running run, damaged in every way that comes to mind;
then everything that reads runs is asked, and the run is trained on.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Program
from test_run import interrupt_at

from resnet_cifar.config.compose import compose
from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock
from resnet_cifar.identity import run_directory
from resnet_cifar.record import checkpoint
from resnet_cifar.record.layout import leftovers
from resnet_cifar.record.lines import LinesFile, read_metrics
from resnet_cifar.record.schema import RunRecord, read_record, seal, write_record
from resnet_cifar.runs.command import main
from resnet_cifar.runs.table import load_metrics, load_predictions, load_probe, load_runs
from resnet_cifar.trained import evaluate
from resnet_cifar.trained.model import load_model
from resnet_cifar.training.engine import Engine

COMMON = [*TINY, "probe=full", "trainer.progress=quiet"]
FINISHED, INTERRUPTED = [*COMMON, "seed=0"], [*COMMON, "seed=2"]
OTHERS = {"seed": [*COMMON, "seed=1"], "cell": [*COMMON, "optimizer.lr=0.1"]}
FILES = ("run.json", "metrics.jsonl", "probe.jsonl", "predictions.npz", "config.yaml", "last.pt",
         "best.pt", ".lock", "train.log")  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with a finished and an interrupted run; others to take files from; the whole one."""
    from resnet_cifar.cli import train as training

    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def call(*arguments: str) -> int:
            patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
            return training.main()

        assert call(*FINISHED) == 0
        assert call(*INTERRUPTED, "output_root=whole") == 0
        for name, overrides in OTHERS.items():
            assert call(*overrides, f"output_root=other-{name}") == 0
        with pytest.MonkeyPatch.context() as inner:
            interrupt_at(inner, 2, 1, signal.SIGTERM)
            assert call(*INTERRUPTED) == 128 + signal.SIGTERM
        # Some bytes of a person's own, to be found unchanged.
        (folder / "precious").write_text("precious")
    return folder


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


Damage = Callable[[Path, random.Random], object]


def cut(share: float) -> Damage:
    def damage(path: Path, source: random.Random) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def flip(path: Path, source: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(content)


def zero(path: Path, source: random.Random) -> None:
    """What a crashed file system leaves: the length is right, the content is not there."""
    path.write_bytes(bytes(path.stat().st_size))


def digit(path: Path, source: random.Random) -> None:
    """A number that is another number: nothing but a checksum sees it."""
    content = bytearray(path.read_bytes())
    places = [i for i, byte in enumerate(content) if chr(byte) in "12345678"]
    if places:
        content[source.choice(places)] += 1
        path.write_bytes(content)


def other(name: str) -> Damage:
    def damage(path: Path, source: random.Random) -> None:
        run = Path(f"other-{name}") / run_directory(compose(OTHERS[name])).relative_to("outputs")
        shutil.copyfile(run / path.name, path)

    return damage


def without(action: Callable[[Path], object]) -> Damage:
    def damage(path: Path, source: random.Random) -> None:
        path.unlink()
        action(path)

    return damage


def with_value(key: str, value: Any) -> Damage:
    """run.json with another value, its own checksum made to fit."""

    def damage(path: Path, source: random.Random) -> None:
        plain = json.loads(path.read_text())
        path.write_text(json.dumps(seal(plain | {key: value})))

    return damage


DAMAGES: dict[str, Damage] = {
    "deleted": without(lambda path: None),
    "empty": cut(0),
    "half": cut(0.5),
    "cut short": cut(0.97),
    "a bit": flip,
    "another bit": flip,
    "a digit": digit,
    "zeros": zero,
    "random": lambda path, source: path.write_bytes(source.randbytes(3000)),
    "more": lambda path, source: path.write_bytes(path.read_bytes() + b"\xff\xfe{more"),
    "a line more": lambda path, source: path.write_bytes(path.read_bytes() + b'{"epoch": 7}\n'),
    "huge": lambda path, source: os.truncate(path, 300_000_000),
    "brackets": lambda path, source: path.write_text("[" * 20_000),
    "JSON": lambda path, source: path.write_text('{"epoch": {"a": [null]}}\n'),
    "another seed's": other("seed"),
    "another cell's": other("cell"),
    "a link": without(lambda path: os.symlink(Path("precious").resolve(), path)),
    "a circle": without(lambda path: os.symlink(path.name, path)),
    "a pipe": without(lambda path: os.mkfifo(path)),
    "a directory": without(lambda path: path.mkdir()),
}
RECORDS: dict[str, Damage] = {
    f"{key}={value!r}": with_value(key, value)
    for key, value in (
        ("status", "fine"), ("seed", 1), ("seed", "0"), ("cell", "lr1-00000000"), ("epochs", 1),
        ("epochs", None), ("epochs_done", 99), ("epochs_done", -1), ("final", [1]), ("best", {}),
        ("final", {"epoch": 2, "accuracy/val": "high"}), ("sessions", None), ("sessions", [{}]),
        ("sessions", {"start": 1}), ("evaluations", 3), ("evaluations", [{"split": 1}]),
        ("config", []), ("config", {"seed": {}}), ("files", {"last.pt": 1}), ("version", "two"),
        ("version", 99), ("surprise", True), ("device", 1), ("error", 1),
    )
}  # fmt: skip
STATES = ("finished", "interrupted", "running")


class Case(NamedTuple):
    state: str
    file: str
    damage: str

    def __str__(self) -> str:
        return "-".join(self)


CASES = [
    Case(state, file, damage)
    for state in STATES
    for file in FILES
    for damage in (*DAMAGES, *(RECORDS if file == "run.json" else ()))
    if not (state != "finished" and file == "predictions.npz")
]


def answers(directory: Path) -> dict[str, Any]:
    """What tables say of a run; of what is odd they say that it is, and nothing else."""
    found: dict[str, Any] = {}
    table = load_runs("outputs")
    found["said"] = table.attrs["skipped"].get(str(directory), "")
    rows = table[table["directory"] == str(directory)]
    if len(rows):
        row = rows.iloc[0]
        found["row"] = [row["accuracy/val"], row["best/accuracy/val"], row["status"] == "completed"]
        curves, probe = load_metrics(rows), load_probe(rows)
        found["said"] += "".join([*curves.attrs["skipped"].values()])
        found["said"] += "".join([*probe.attrs["skipped"].values()])
        if len(curves):
            found["curve"] = curves[["epoch", "accuracy/val", "loss/train"]].values.tolist()
        if len(probe):
            found["probe"] = float(probe["weight_norm"].sum())
        try:
            predictions = load_predictions(directory)
            if predictions is not None:
                found["predictions"] = predictions.logits["val"].tobytes()
        except UserError as error:
            found["said"] += str(error)
    return found


def weights(directory: Path) -> dict[str, bytes]:
    state = torch.load(directory / "last.pt", weights_only=True)["model"]
    return {name: each.numpy().tobytes() for name, each in state.items()}


def try_case(case: Case, prepared: Path, tmp_path: Path, program: Program, capsys: Any) -> None:
    shutil.rmtree("outputs", ignore_errors=True)
    for name in ("outputs", "other-seed", "other-cell"):
        shutil.copytree(prepared / name, tmp_path / name, dirs_exist_ok=True)
    Path("precious").write_text("precious")
    overrides = FINISHED if case.state == "finished" else INTERRUPTED
    directory = run_directory(compose(overrides))
    if case.state == "running":
        record = read_record(directory)
        assert record is not None
        record.status = "running"
        write_record(directory, record)
    path = directory / case.file
    before = answers(directory)
    assert before["said"] == ""
    whole = path.read_bytes()

    damage = (RECORDS if case.damage in RECORDS else DAMAGES)[case.damage]
    damage(path, random.Random(str(case)))
    same = path.is_file() and not path.is_symlink() and path.read_bytes() == whole

    def one_line(text: str) -> None:
        assert "Traceback" not in text, text
        assert all(line.startswith("error: ") for line in text.splitlines()), text

    def look() -> bool:
        """Ask everything that reads; whether the damage was noticed."""
        capsys.readouterr()
        noticed = False
        for arguments in (["list"], ["verify"], ["list", "--status", "completed"]):
            code = main([*arguments, "outputs"])
            out, err = capsys.readouterr()
            one_line(err)
            assert code in (0, 1)
            assert arguments[0] != "list" or code == 0  # one odd run is one line of the list
            noticed |= arguments == ["verify"] and code == 1 and str(directory) in out
        assert main(["command", str(directory)]) in (0, 1, 2)
        one_line(capsys.readouterr().err)
        found = answers(directory)
        for key in found.keys() - {"said"}:
            assert found[key] == before[key], key  # no other number than before
        return noticed or bool(found["said"])

    if case.state == "running":
        if case.file == ".lock":
            look()
        else:
            with Lock(directory / ".lock"):
                look()
    noticed = look()

    if case.state == "finished":
        capsys.readouterr()
        code = evaluate.main([str(directory)])
        err = capsys.readouterr().err
        one_line(err)
        assert (code == 0) == (not err)
        if code == 0:
            left = json.loads((directory / "evaluation-validation.json").read_text())
            assert left["views"]["val"]["accuracy"] == before["row"][0]
        noticed |= code != 0
    trained = program(*overrides)
    one_line(trained.err)
    assert trained.code in (0, 1)
    noticed |= trained.code != 0
    if trained.code == 0 and case.state != "finished":
        # Then what is there is all there is, and as it would have been without the damage.
        completed = answers(directory)
        wholly = Path("whole") / directory.relative_to("outputs")
        lines = [
            [line["epoch"], line["accuracy/val"], line["loss/train"]]
            for line in read_metrics(prepared / wholly / "metrics.jsonl")
        ]
        assert completed["said"] == ""
        assert completed["curve"] == lines
        assert weights(directory) == weights(prepared / wholly)
        state = read_record(directory)
        assert state is not None
        assert state.status == "completed"
    assert Path("precious").read_text() == "precious"

    # Absent is not damaged: weights and predictions may have been left out of what was carried.
    absent = case.damage == "deleted" and case.file in (
        "last.pt", "best.pt", "predictions.npz", "config.yaml", "train.log", ".lock",
    )  # fmt: skip
    matters = case.file not in (".lock", "train.log")
    if case.state == "finished" and matters and not absent and not same:
        assert noticed, "nobody noticed"


def quick() -> list[Case]:
    huge = [Case("finished", name, "huge") for name in ("config.yaml", "predictions.npz")]
    huge += [Case("interrupted", name, "huge") for name in ("last.pt", "run.json", ".lock")]
    deep = [Case(state, "config.yaml", "brackets") for state in STATES[:2]]
    return [*random.Random(3).sample(CASES, 6), *huge, *deep]


@pytest.mark.parametrize("case", quick(), ids=str)
def test_some_damage(
    case: Case, prepared: Path, tmp_path: Path, program: Program,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    try_case(case, prepared, tmp_path, program, capsys)


@pytest.mark.soak
@pytest.mark.parametrize("case", random.Random(4).sample(CASES, 240), ids=str)
def test_much_damage(
    case: Case, prepared: Path, tmp_path: Path, program: Program,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    try_case(case, prepared, tmp_path, program, capsys)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def claiming(shape: tuple[int, ...], content: bytes) -> bytes:
    """predictions.npz whose clean logits have a header that promises more than there is."""
    header, buffer = io.BytesIO(), io.BytesIO()
    described = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if "val.npy" in name else old.read(name))
    return buffer.getvalue()


def packed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    old = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("zeros.npy", bytes(10_000_000))
    return buffer.getvalue()


def test_predictions_that_promise_more_than_they_hold(prepared: Path, tmp_path: Path) -> None:
    """In a run whose record does not know their checksum."""
    run = shutil.copytree(prepared / run_directory(compose(FINISHED)), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    del record["files"]["predictions.npz"]
    (run / "run.json").write_text(json.dumps(seal(record)))
    path = run / "predictions.npz"
    whole = path.read_bytes()
    right = load_predictions(run)
    assert right is not None
    with np.load(path) as stored:
        arrays = dict(stored)
        np.testing.assert_array_equal(right.logits["val"], stored["logits_val"])
        assert right.labels.dtype == right.positions.dtype == np.int64
    columns = arrays | {"logits_val": np.asfortranarray(arrays["logits_val"])}
    path.write_bytes(npz(**columns))
    np.testing.assert_array_equal(load_predictions(run).logits["val"], right.logits["val"])
    n = len(right.labels)
    for content, said in (
        (claiming((10**13, 10), whole), ""),
        (claiming((10**13, 0), whole), "don't belong together"),
        (claiming((-1, 10), whole), "ValueError"),
        (packed(whole), "unpacks to more than it is"),
        (npz(**arrays | {"labels": np.array([None] * n)}), "Object arrays"),
        (npz(**arrays | {"labels": np.zeros(n, "S5")}), "'S', "),
        (npz(**arrays | {"logits_val": arrays["logits_val"] * 1j}), "('c', "),
        (npz(**arrays | {"index": arrays["index"][:-1]}), "don't belong together"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"predictions.npz can't be read") as caught:
            load_predictions(run)
        assert said in str(caught.value)


def bomb(kind: str) -> bytes:
    """A file that a checkpoint's name could have, small and with much in it."""
    buffer, state = io.BytesIO(), {"model": {"w": torch.zeros(1_000_000)}}
    if kind == "shared parts":
        part: Any = [0]
        for _ in range(60):
            part = [part, part]
        torch.save({"model": {}, "epoch": part}, buffer)
    elif kind == "a circle":
        part = {"model": {}}
        part["epoch"] = part
        torch.save(part, buffer)
    elif kind == "a view of one number":
        torch.save({"model": {"w": torch.zeros(1).expand(10**13)}}, buffer)
    else:
        torch.save(state, buffer)
        old = zipfile.ZipFile(io.BytesIO(buffer.getvalue()))
        buffer = io.BytesIO()
        packing = zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", packing) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name)[: None if kind == "packed" else 1000])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["packed", "shorter", "shared parts", "a circle", "a view of one number"]
)
def test_a_checkpoint_that_promises_more_than_it_holds(
    prepared: Path, tmp_path: Path, kind: str
) -> None:
    run = shutil.copytree(prepared / run_directory(compose(INTERRUPTED)), tmp_path / "run")
    (run / "last.pt").write_bytes(bomb(kind))
    with pytest.raises(UserError, match=r"last.pt is (damaged|of another run)"):
        load_model(run)


def test_there_are_enough() -> None:
    assert len(CASES) >= 150


# Checkpoints that do not belong here, files that go away while it trains -------------------------


@pytest.fixture
def interrupted(prepared: Path, program: Program) -> Path:
    for name in ("outputs", "other-seed", "other-cell"):
        shutil.copytree(prepared / name, name)
    return run_directory(compose(INTERRUPTED))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "of another run, .*/seed=1"),
        ({"cell": "lr1-00000000"}, "of another run, lr1"),
        ({"cell": ...}, "of another run, None"),
        ({"epoch": 3}, "at epoch 3"),
        ({"epoch": -1}, "at epoch -1"),
        ({"epoch": "1"}, "at epoch 1"),
        ({"step": 5}, "at step 5"),
        ({"step": -1}, "at step -1"),
        ({"step": 1.0}, r"at step 1\.0"),
        ({"epoch": 2, "step": 1}, "at step 1 after the last epoch"),
        ({"epoch": ...}, "at epoch None"),
        ({"optimizer": ...}, "without its optimizer"),
    ],
)
def test_a_checkpoint_that_cannot_be_gone_on_from(change: dict[str, Any], said: str) -> None:
    record = RunRecord("running", "lr0.1-12345678", 0, epochs=2, config={}, device="")

    def check(state: dict[str, Any]) -> None:
        checkpoint.check_owner(state, Path("last.pt"), record, steps=4)

    right = {"cell": "lr0.1-12345678", "seed": 0, "epoch": 1, "step": 4, "best": {"epoch": 1}}
    check({**right, "optimizer": {}})
    check({**right, "epoch": 2, "step": 0})  # finished: weights alone
    del right["step"]
    check({**right, "epoch": 2})
    check({**right, "epoch": 0, "best": None, "optimizer": {}})
    state = {**right, "step": 4, "optimizer": {}, **change}
    with pytest.raises(UserError, match=said):
        check({k: v for k, v in state.items() if v is not ...})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "of another run"),
        ({"digests": {"metrics.jsonl": "0"}}, "metrics.jsonl was changed"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run(
    interrupted: Path, program: Program, change: dict[str, Any], said: str
) -> None:
    for path in interrupted.glob("last*.pt"):
        torch.save(torch.load(path, weights_only=True) | change, path)
    before = {path: path.read_bytes() for path in interrupted.iterdir() if path.name != ".lock"}
    outcome = program(*INTERRUPTED)
    assert outcome.code == 1
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    after = {path: path.read_bytes() for path in interrupted.iterdir() if path.name != ".lock"}
    assert {p for p in before if before[p] != after.get(p)} <= {interrupted / "train.log"}
    assert program(*INTERRUPTED, "rerun=true").code == 0  # what the line advises


def during_training(patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something to the files in the first step of the second epoch that is trained."""
    original = Engine.step

    def step(self: Engine, draws: Any, at: int, of_run: int) -> None:
        if (self.state.epoch, at) == (1, 2):
            self.recorder.wait()  # for the files of the first one
            action()
        original(self, draws, at, of_run)

    patch.setattr(Engine, "step", step)


@pytest.mark.parametrize(
    ("name", "how"),
    [("metrics.jsonl", how) for how in ("removed", "replaced", "shortened")]
    + [("probe.jsonl", "replaced")],
)
def test_lines_that_change_while_it_trains_stop_the_run(
    program: Program, name: str, how: str
) -> None:
    directory = run_directory(compose(COMMON))
    path, whole = directory / name, []

    def act() -> None:
        whole.append(path.read_bytes())
        if how != "shortened":
            path.unlink()
        if how != "removed":
            path.write_text("{}\n")

    with pytest.MonkeyPatch.context() as patch:
        during_training(patch, act)
        outcome = program(*COMMON)
    assert outcome.code == 1
    assert f"{path} was changed or removed during training" in outcome.err
    assert outcome.err.count("\n") == 1
    left = path.read_text() if path.exists() else None
    assert left == (None if how == "removed" else "{}\n")  # nobody wrote into it
    record = read_record(directory)
    assert record is not None
    assert record.status == "failed"
    assert "was changed or removed" in str(record.error)
    assert main(["verify", "outputs"]) == 1
    path.write_bytes(whole[0])
    assert program(*COMMON).code == 0
    assert main(["verify", "outputs"]) == 0


def test_a_line_that_changes_while_it_trains_is_no_result(program: Program) -> None:
    """As long as before: only the checksum at the end sees it."""
    path = run_directory(compose(COMMON)) / "metrics.jsonl"

    def act() -> None:
        text = path.read_text()
        path.write_text(text.replace('"epoch": 1', '"epoch": 9'))

    with pytest.MonkeyPatch.context() as patch:
        during_training(patch, act)
        outcome = program(*COMMON)
    assert outcome.code == 1
    assert "metrics.jsonl was changed or removed during training" in outcome.err
    record = read_record(path.parent)
    assert record is not None
    assert record.status == "interrupted"  # it never said that it had completed


def test_a_run_that_another_process_takes_up_while_it_trains_stops(program: Program) -> None:
    """Its lock was removed."""
    directory = run_directory(compose(COMMON))
    stack: list[Lock] = []

    def act() -> None:
        (directory / ".lock").unlink()
        stack.append(Lock(directory / ".lock").__enter__())
        LinesFile(directory / "metrics.jsonl", 1).trim()  # as every session begins

    with pytest.MonkeyPatch.context() as patch:
        during_training(patch, act)
        outcome = program(*COMMON)
    assert outcome.code == 1
    assert "metrics.jsonl was changed or removed during training" in outcome.err
    assert outcome.err.count("\n") == 1
    for lock in stack:
        lock.__exit__(None, None, None)
    assert len(read_metrics(directory / "metrics.jsonl")) == 1  # it stopped writing
    assert program(*COMMON).code == 0
    record = read_record(directory)
    assert record is not None
    assert record.status == "completed"


def test_decoration_never_ends_a_run(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture can't be drawn: the run is completed all the same, and says what is missing."""
    from resnet_cifar.probe import views

    def broken(*args: object) -> np.ndarray:
        raise RuntimeError("no colours")

    monkeypatch.setattr(views, "heat_map", broken)
    outcome = program(*COMMON, "trainer.progress=plain")
    assert outcome.code == 0
    assert outcome.out.count("a picture for TensorBoard is missing: RuntimeError: no colours") == 1
    record = read_record(run_directory(compose(COMMON)))
    assert record is not None
    assert record.status == "completed"


def test_leftovers_go_at_the_next_start(interrupted: Path, program: Program) -> None:
    for name in (".run.json.host.1.tmp", "..last.pt.new.host.1.tmp", ".last.pt.new"):
        (interrupted / name).write_text("half")
    assert program(*INTERRUPTED).code == 0
    assert leftovers(interrupted) == []


def test_weights_of_nan_have_no_accuracy(
    interrupted: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in interrupted.glob("last*.pt"):
        state = torch.load(path, weights_only=True)
        for weight in state["model"].values():
            if weight.is_floating_point():
                weight.fill_(float("nan"))
        torch.save(state, path)
    assert evaluate.main([str(interrupted)]) == 1
    said = capsys.readouterr().err
    assert "it diverged, and has no accuracy" in said
    assert said.count("\n") == 1


def test_evaluation_goes_on_with_the_rest(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_directory(compose(FINISHED))
    assert evaluate.main(["nowhere", str(whole)]) == 1
    out, err = capsys.readouterr()
    assert "nowhere is not a run" in err
    assert str(whole) in out


def test_the_best_weights_are_those_of_the_best_epoch(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_directory(compose(FINISHED))
    state = torch.load(whole / "best.pt", weights_only=True)
    torch.save(state | {"epoch": 3 - state["epoch"]}, whole / "best.pt")
    assert evaluate.main([str(whole), "--weights", "best"]) == 1
    assert "best.pt was changed" in capsys.readouterr().err
