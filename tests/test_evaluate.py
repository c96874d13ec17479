"""Evaluation: agrees with training, reads the test set only when asked, is counted."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Program

from resnet_cifar import compose, scores, train
from resnet_cifar.compute.step import score
from resnet_cifar.data.datasets import Cifar, Synthetic
from resnet_cifar.files import Lock
from resnet_cifar.identity import run_directory
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.schema import read_record
from resnet_cifar.trained import evaluate

RUN = run_directory(compose(TINY))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    train(compose([*TINY, "trainer.progress=quiet", f"output_root={root}"]))
    return root


@pytest.fixture(autouse=True)
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained run lies at RUN."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "outputs")


def record() -> dict:
    return json.loads((RUN / "run.json").read_text())


def test_validation_equals_the_last_epoch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Synthetic, "load_test", lambda self: pytest.fail("the test set was read"))
        assert evaluate.main([str(RUN)]) == 0
    found = json.loads((RUN / "evaluation-validation.json").read_text())
    final = record()["final"]
    for view in ("val", "val_augmented"):
        assert found["views"][view]["accuracy"] == final[f"accuracy/{view}"]
        assert found["views"][view]["loss"] == pytest.approx(final[f"loss/{view}"], rel=1e-6)
        confusion = np.array(found["views"][view]["confusion_matrix"])
        assert confusion.sum() == 32
        assert confusion.trace() / 32 == found["views"][view]["accuracy"]
    assert not (RUN / "evaluation-test.json").exists()
    assert [e["split"] for e in record()["evaluations"]] == ["validation"]
    printed = capsys.readouterr().out
    assert "val_augmented" in printed
    assert "half disc" in printed


def test_every_look_at_the_test_set_is_counted(program: Program) -> None:
    for _ in range(2):
        assert evaluate.main([str(RUN), "--test"]) == 0
    looks = [e for e in record()["evaluations"] if e["split"] == "test"]
    assert len(looks) == 2
    found = json.loads((RUN / "evaluation-test.json").read_text())
    assert found["views"]["test"]["images"] == 32
    assert found["epoch"] == 2
    assert found["complete"]
    # Training again does not forget what was looked at.
    assert "skipped" in program(*TINY).out
    assert len(record()["evaluations"]) == 4


def test_best_weights_on_request() -> None:
    assert evaluate.main([str(RUN), "--weights", "best"]) == 0
    found = json.loads((RUN / "evaluation-validation-best.json").read_text())
    assert found["epoch"] == record()["best"]["epoch"]
    assert found["views"]["val"]["accuracy"] == record()["best"]["accuracy/val"]


def test_refusals_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert evaluate.main(list(arguments)) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is not a run" in refused("nowhere")
    assert "has no files" in refused(str(RUN), "--data-root", "elsewhere")
    assert "CUDA" in refused(str(RUN), "--device", "cuda:99")
    with Lock(RUN / ".lock"):
        assert "is being trained by process" in refused(str(RUN))
    (RUN / "last.pt").write_bytes(b"damaged")
    assert "last.pt was changed" in refused(str(RUN))
    (RUN / "last.pt").unlink()
    assert "has no last.pt" in refused(str(RUN))
    (RUN / "config.yaml").write_text("{")
    assert "config.yaml" in refused(str(RUN))
    assert record()["evaluations"] == []


def test_data_that_are_not_there_are_not_downloaded(
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says where it looked, from another directory than the run's too, and what to do."""
    images = np.random.default_rng(0).integers(0, 256, (1100, 32, 32, 3), np.uint8)
    tiny = [each for each in TINY if not each.startswith("data")]
    with monkeypatch.context() as made_up:
        made_up.setattr(Cifar, "ORIGINAL", 1100)
        made_up.setattr(Cifar, "_read", lambda self, train: (images, np.arange(1100) % 10))
        assert program(*tiny, "data=cifar10", "data.val_size=99").code == 0
    (run,) = tmp_path.glob("outputs/*_val_size99_*/seed=0")
    asked = []
    monkeypatch.setattr(
        "torchvision.datasets.cifar.download_and_extract_archive", lambda *at, **_: asked.append(at)
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for given, root in ([], "data"), (["--data-root", "x"], "x"), (["--data-root=~/y"], "~/y"):
        assert evaluate.main([str(run), *given, "--test"]) == 1
        folder = elsewhere / Path(root).expanduser() / "cifar-10-batches-py"
        assert capsys.readouterr().err == (
            f"error: there is no CIFAR-10 in {folder}: --data-root=<directory> says where it is; "
            "nothing is downloaded\n"
        )
    assert not asked
    assert not list(elsewhere.iterdir())
    assert json.loads((run / "run.json").read_text())["evaluations"] == []


def test_scores_by_hand() -> None:
    """Three images, two classes, worked out on paper."""
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=np.float64))
    labels = np.array([0, 1, 1])
    found = score(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found["accuracy"] == 2 / 3
    assert found["loss"] == pytest.approx(-(np.log(0.9) + np.log(0.4) + np.log(0.8)) / 3)
    assert scores.confusion_matrix(logits, labels).tolist() == [[1, 0], [1, 1]]
    # Confidences 0.9, 0.6, 0.8 fall into bins of their own: |1−0.9|, |0−0.6|, |1−0.8| over 3.
    assert scores.expected_calibration_error(logits, labels, bins=10) == pytest.approx(0.9 / 3)


def test_calibration_of_certain_and_right_is_zero() -> None:
    logits = np.eye(10, dtype=np.float16) * 60
    assert scores.expected_calibration_error(logits, np.arange(10)) == pytest.approx(0, abs=1e-9)
    assert scores.expected_calibration_error(logits, np.roll(np.arange(10), 1)) == pytest.approx(1)


def test_a_run_that_cannot_be_written_is_not_evaluated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk, say. No image is looked at: the look can't be counted."""
    before = {path.name: path.read_bytes() for path in RUN.iterdir()}

    def read_only(self: Lock) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.path))

    monkeypatch.setattr(Lock, "__enter__", read_only)
    for name in ("load", "load_test"):
        monkeypatch.setattr(Synthetic, name, lambda self: pytest.fail("images were read"))
    for options in ((), ("--test",)):
        assert evaluate.main([str(RUN), *options]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: OSError: ")
        assert said.count("\n") == 1
        assert str(RUN / ".lock") in said
    assert {path.name: path.read_bytes() for path in RUN.iterdir()} == before


class Killed(BaseException):
    """As SIGKILL, but that the process stays."""


def test_killed_at_any_write_the_run_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a look that was made is counted, whatever was written of it."""
    assert evaluate.main([str(RUN), "--test"]) == 0
    for at in itertools.count():
        before = len(record()["evaluations"])
        calls = itertools.count()

        def dying(original: Callable[..., None], calls: Any = calls, at: int = at) -> Any:
            def step(*arguments: Any) -> None:
                if next(calls) == at:
                    raise Killed
                original(*arguments)

            return step

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                evaluate.evaluate(RUN, "test")
                break
            except Killed:
                pass
        left = read_record(RUN)
        assert left is not None
        assert damage(RUN, left) == []
        written = json.loads((RUN / "evaluation-test.json").read_text())
        looks = [entry.made for entry in left.evaluations if entry.split == "test"]
        assert written["made"] in looks
        assert len(left.evaluations) - before in (0, 1)
    assert at >= 6
    left = read_record(RUN)
    assert left is not None
    assert damage(RUN, left) == []
    assert "evaluation-test.json" in left.files


def test_a_cell_is_its_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 10, 2):
        train(compose([*TINY, "trainer.progress=quiet", f"seed={seed}"]))
    seeds = [RUN.with_name(f"seed={seed}") for seed in (0, 1, 10, 2)]
    shutil.copytree(RUN, RUN.with_name("seed=0.2026-01-01T00-00-00"))  # set aside
    assert evaluate.main([str(RUN.parent), "--test"]) == 0
    out = capsys.readouterr().out
    printed = [line.split()[0] for line in out.splitlines() if "last weights, epoch" in line]
    assert printed == [str(seed) for seed in seeds for _ in range(2)]
    for seed in seeds:
        assert [entry.split for entry in read_record(seed).evaluations] == ["validation", "test"]
    # One that can't be read is named; the others are evaluated.
    (seeds[1] / "run.json").write_text("{")
    (seeds[2] / "last.pt").unlink()
    assert evaluate.main([str(RUN.parent)]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[1].removesuffix("/run.json") for line in err.splitlines()] == [
        str(seed) for seed in seeds[1:3]
    ]
    assert out.count("last weights, epoch") == 2
    Path("empty").mkdir()
    for nothing in ("empty", "outputs"):
        assert evaluate.main([nothing]) == 1
        assert f"{nothing} is not a run: give a directory" in capsys.readouterr().err
