"""Evaluation: agrees with training, reads the test set only when asked, is counted."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from conftest import TINY, Program

from resnet_cifar import scores
from resnet_cifar.compute.step import score
from resnet_cifar.config.compose import compose
from resnet_cifar.data.datasets import Synthetic
from resnet_cifar.files import Lock
from resnet_cifar.identity import run_directory
from resnet_cifar.trained import evaluate

RUN = run_directory(compose(TINY))


def record() -> dict:
    return json.loads((RUN / "run.json").read_text())


def test_validation_equals_the_last_epoch(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(*TINY)
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
    program(*TINY)
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


def test_best_weights_on_request(program: Program) -> None:
    program(*TINY)
    assert evaluate.main([str(RUN), "--weights", "best"]) == 0
    found = json.loads((RUN / "evaluation-validation-best.json").read_text())
    assert found["epoch"] == record()["best"]["epoch"]
    assert found["views"]["val"]["accuracy"] == record()["best"]["accuracy/val"]


def test_refusals_are_one_line(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert evaluate.main(list(arguments)) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is not a run" in refused("nowhere")
    program(*TINY)
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


def test_a_run_that_cannot_be_written_is_validated_all_the_same(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk, say. The test set is not looked at: the look can't be counted."""
    program(*TINY)
    before = {path.name: path.read_bytes() for path in RUN.iterdir()}

    def read_only(self: Lock) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.path))

    monkeypatch.setattr(Lock, "__enter__", read_only)
    assert evaluate.main([str(RUN)]) == 0
    assert "not recorded: the run can't be written" in capsys.readouterr().out
    monkeypatch.setattr(Synthetic, "load_test", lambda self: pytest.fail("the test set was read"))
    assert evaluate.main([str(RUN), "--test"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "every look at the test set is counted there" in said
    assert {path.name: path.read_bytes() for path in RUN.iterdir()} == before
