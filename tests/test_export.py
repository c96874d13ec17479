"""Files for other programs: they answer as the network does, and say what they are."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import torch
from conftest import TINY, Outcome
from safetensors.torch import load_file
from torch import Tensor, nn

from resnet_cifar import compose, load_model, train
from resnet_cifar.errors import UserError
from resnet_cifar.record.schema import Evaluation
from resnet_cifar.trained import export

SHORT = [*TINY, "data.val_size=100", "trainer.progress=quiet", "optimizer.lr=0.1"]
NORMS = ("batchnorm", "detached_batchnorm", "groupnorm", "none")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run for every norm."""
    root = f"output_root={tmp_path_factory.mktemp('runs')}"
    fitting = ("norm=groupnorm", "norm.groups=2")
    chosen = {norm: fitting if norm == "groupnorm" else (f"norm={norm}",) for norm in NORMS}
    return {norm: train(compose([*SHORT, root, *of])) for norm, of in chosen.items()}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    capsys.readouterr()
    code = export.main([str(argument) for argument in arguments])
    return Outcome(code, *capsys.readouterr())


@pytest.mark.parametrize("norm", NORMS)
def test_files_answer_as_the_network_does(
    norm: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On validation images, in batches of every size; the class wherever it is not a near tie."""
    files = [tmp_path / f"net{kind}" for kind in export.KINDS]
    outcome = call(capsys, runs[norm], *files)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count(" bytes, last weights, epoch 2\n") == 3
    assert sorted(tmp_path.iterdir()) == sorted(files)
    model = load_model(runs[norm], device="cpu")
    images = model.preprocess(compose(SHORT).data.load().val.pixels)
    with torch.inference_mode():
        logits = model.network(images)
    best, second = logits.topk(2).values.T
    sure = best - second > 1e-3
    assert sure.sum() > 50
    extra = {"metadata.json": ""}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    for part in (slice(0, 1), slice(1, 8), slice(0, 100)):
        (found,) = session.run(None, {"images": images[part].contiguous().numpy()})
        np.testing.assert_allclose(found, logits[part], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(program(images[part]), logits[part], rtol=1e-4, atol=1e-4)
    assert (torch.from_numpy(found).argmax(1) == logits.argmax(1))[sure].all()
    weights = load_file(tmp_path / "net.safetensors")
    assert weights.keys() == model.network.state_dict().keys()
    fresh = model.config.build_model().eval()
    fresh.load_state_dict(weights)
    torch.testing.assert_close(fresh(images), logits, rtol=1e-5, atol=1e-5)
    # The same metadata in all three.
    said = export.metadata(model)
    assert json.loads(extra["metadata.json"]) == said
    assert {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props} == said
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as stored:
        assert stored.metadata() == said


class Block(nn.Module):
    """torchvision's names: what a state dict of theirs is loaded into."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or before != channels:
            conv = nn.Conv2d(before, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class Theirs(nn.Module):
    """ResNet-18 for 32 × 32 images, written as torchvision's is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(4):
            first = Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2)
            stage = nn.Sequential(first, Block(sizes[i + 1], sizes[i + 1], 1))
            self.add_module(f"layer{i + 1}", stage)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("norm", ["batchnorm", "detached_batchnorm"])
def test_under_torchvision_s_names(
    norm: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "theirs.safetensors"
    assert call(capsys, runs[norm], file, "--names", "torchvision").code == 0
    net = Theirs(width=2).eval()
    net.load_state_dict(load_file(file))
    model = load_model(runs[norm], device="cpu")
    images = model.preprocess(compose(SHORT).data.load().val.pixels)
    torch.testing.assert_close(net(images), model.network(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"conv.weight is not a weight of a ResNet"):
        export.torchvision_names({"conv.weight": torch.zeros(1)})


def test_what_was_trained_goes_along(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["batchnorm"]
    record = json.loads((run / "run.json").read_text())
    weights = tmp_path / "net.safetensors"
    assert call(capsys, run, weights, "--weights", "best").code == 0
    with safetensors.safe_open(weights, "pt") as stored:
        said = stored.metadata()
    assert said["run"] == f"{record['cell']}/seed=0"
    assert (said["weights"], said["epoch"]) == ("best", str(record["best"]["epoch"]))
    assert float(said["accuracy/val"]) == record["best"]["accuracy/val"]
    model = load_model(run, "best")
    assert tuple(json.loads(said["classes"])) == model.classes
    assert json.loads(said["mean"]) == list(model.normalisation.mean)
    assert json.loads(said["config"])["optimizer.lr"] == 0.1
    assert "optimizer.lr=0.1" in said["command"]
    for weights, accuracy in (("best", 0.25), ("last", 0.5)):
        scores = {"accuracy/test": accuracy}
        seen = Evaluation("test", weights, model.epoch, "2026-01-01", scores)
        model.record.evaluations.append(seen)
    assert export.metadata(model)["accuracy/test"] == "0.25"


def test_nothing_is_overwritten_or_half_written(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, file = runs["batchnorm"], tmp_path / "net.safetensors"

    def refused(*arguments: object) -> str:
        outcome = call(capsys, run, *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.count("\n") == 1
        return outcome.err

    file.write_text("somebody's")
    other = tmp_path / "other.safetensors"
    assert "net.safetensors is there already: --overwrite replaces it" in refused(other, file)
    assert not other.exists()  # all are looked at before one is written
    assert file.read_text() == "somebody's"
    assert call(capsys, run, file, "--overwrite").code == 0
    assert load_file(file)
    assert "the name must end in one of .safe" in refused(tmp_path / "net.pth")
    assert "its directory is missing" in refused(tmp_path / "no" / "net.onnx")
    assert "is for .safetensors files" in refused("a.onnx", "--names", "torchvision")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert 'needs onnxscript, which is not here: pip install -c constraints.txt -e ".[export]"' in (
        refused(tmp_path / "net.onnx")
    )
    monkeypatch.setattr(export, "check_answers", _differ)
    assert "answers otherwise" in refused(tmp_path / "net.pt2")
    assert sorted(tmp_path.iterdir()) == [file]


def _differ(*_: object) -> None:
    raise UserError("answers otherwise")


def test_another_answer_is_noticed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    export.check_answers("the same", net, net)
    for other in (lambda x: net(x) + 0.1, lambda x: net(x) * float("nan")):
        with pytest.raises(UserError, match="answers otherwise than the network"):
            export.check_answers("another", net, other)


def test_the_target_is_tried_before_the_work(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resnet_cifar import files
    from resnet_cifar.trained import model

    file = tmp_path / "NET.Safetensors"
    # Of writers that were killed: the next one of the same file takes them away, and no others.
    host, gone = platform.node(), 2**22 + 1  # above the largest process id
    left = [
        tmp_path / f".{name}.{owner}.{number}.tmp"
        for name, owner, number in (
            (file.name, host, gone), (file.name, host, os.getppid()), (file.name, "else", gone),
            ("other.onnx", host, gone), (file.name, host, "x"),
        )
    ]  # fmt: skip
    for path in left:
        path.write_text("half")
    assert call(capsys, runs["none"], file, file).code == 0  # the same file twice is one
    assert load_file(file)
    assert sorted(tmp_path.iterdir()) == sorted([file, *left[1:]])

    def refuse(*_: object) -> None:
        pytest.fail("it worked first")

    def read_only(path: Path, flags: int) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(model, "load_model", refuse)
        patch.setattr(files, "open_regular", read_only)
        outcome = call(capsys, runs["none"], tmp_path / "a.pt2")
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert f"{tmp_path}/a.pt2 can't be written: Read-only file system" in outcome.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ended_by_a_signal_it_leaves_nothing(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    # Under nohup the first is ignored, in the background of a script the second.
    usual = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    usual_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), number))
    assert call(capsys, runs["none"], tmp_path / "a.safetensors").code == 128 + number
    signal.signal(signal.SIGHUP, usual)
    signal.signal(signal.SIGINT, usual_int)
    assert list(tmp_path.iterdir()) == []
    assert before == {each: signal.getsignal(each) for each in before}
