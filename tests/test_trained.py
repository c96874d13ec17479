"""What other programs use: the functions of `resnet_cifar`, and docs/api.md, whose examples run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY

import resnet_cifar
from resnet_cifar import compose, load_model, load_predictions, train
from resnet_cifar.errors import UserError
from resnet_cifar.record import checkpoint
from resnet_cifar.trained.model import TrainedModel
from resnet_cifar.training import engine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = f"output_root={tmp_path_factory.mktemp('trained')}"
    return train(compose([*TINY, root, "trainer.progress=quiet"]))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Of the run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_the_page_s_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one program."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    program = "".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
    names = {"__name__": "page"}
    exec(compile(program, "api.md", "exec"), names)
    for name in resnet_cifar.__all__:
        assert re.search(rf"\b{name}\(", program), name
    assert "val" in capsys.readouterr().out


def test_everything_is_imported_when_it_is_asked_for() -> None:
    program = (
        "import sys, resnet_cifar\n"
        "heavy = {'torch', 'numpy', 'pandas', 'hydra', 'omegaconf'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(resnet_cifar.__all__) <= set(dir(resnet_cifar))\n"
        "from resnet_cifar import compose, load_metrics, load_predictions, load_runs\n"
        "from resnet_cifar import load_model, train\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = resnet_cifar.load_modle
    assert (ROOT / "resnet_cifar" / "py.typed").exists()


def test_a_loaded_network_answers_as_the_run_did(run: Path) -> None:
    model = load_model(run)
    assert not model.network.training
    split = compose(TINY).data.load()
    logits = model.logits(split.val.pixels)
    stored = load_predictions(run)
    assert stored is not None
    # Stored in float16, which rounds by half a unit of its last place: 2**-11 of a value.
    kept = stored.logits["val"].astype(np.float32)
    np.testing.assert_allclose(logits, kept, rtol=2**-11, atol=2**-13 * np.abs(kept).max())
    # By hand: what the words "minus mean, over std" mean.
    scaled = (split.val.pixels / 255 - model.normalisation.mean) / model.normalisation.std
    images = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
    torch.testing.assert_close(model.preprocess(split.val.pixels), images, rtol=1e-5, atol=1e-5)
    assert model.probabilities(split.val.pixels).sum(1) == pytest.approx(np.ones(32))
    assert model.classes == compose(TINY).data.CLASSES
    assert model.metrics["accuracy/val"] == pytest.approx(
        (logits.argmax(1) == split.val.labels).mean()
    )


def test_the_best_epoch_s_weights(run: Path) -> None:
    best = load_model(str(run), weights="best")
    assert best.epoch == best.metrics["epoch"]
    with pytest.raises(UserError, match="weights=middle: must be one of last, best"):
        load_model(run, weights="middle")


def test_averaged_weights(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no averaged weights"):
        load_model(run, "ema")
    averaging = ["regularization.ema_decay=0.9", "trainer.progress=quiet", "trainer.epochs=1"]
    averaged = train(compose([*TINY, *averaging, f"output_root={tmp_path}"]))
    ema, last = load_model(averaged, "ema"), load_model(averaged)
    assert not ema.network.stem.weight.equal(last.network.stem.weight)
    assert ema.metrics["accuracy/val"] == last.metrics["accuracy/val_ema"]
    split = compose(TINY).data.load()
    right = ema.logits(split.val.pixels).argmax(1) == split.val.labels
    assert right.mean() == pytest.approx(ema.metrics["accuracy/val"])


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (32, 32, 3), (0, 32, 32, 3), (1, 28, 28, 3)])
def test_images_of_another_shape_are_refused(run: Path, shape: tuple[int, ...]) -> None:
    model = load_model(run)
    with pytest.raises(UserError, match=r"images are uint8 \(.*\): uint8 \[n, 32, 32, 3\]"):
        model.preprocess(np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="images are float64"):
        model.logits(np.zeros((1, 32, 32, 3)))


def test_what_is_no_network_is_refused(copy: Path) -> None:
    def refused() -> str:
        with pytest.raises(UserError) as caught:
            load_model(copy)
        return str(caught.value)

    with pytest.raises(UserError, match="nowhere is not a run"):
        load_model("nowhere")
    content = (copy / "last.pt").read_bytes()
    (copy / "last.pt").write_bytes(content[:-100] + bytes(100))
    assert "last.pt was changed: its checksum in run.json does not fit" in refused()
    (copy / "last.pt").unlink()
    assert "has no last.pt" in refused()


def test_of_a_diverged_run_it_is_said_which_epoch_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "losses_are_finite", lambda metrics: metrics["epoch"] < 2)
    diverged = train(compose([*TINY, "trainer.progress=quiet", f"output_root={tmp_path}"]))
    said = r"last\.pt is of epoch 1, not of epoch 2, in which it diverged"
    with pytest.raises(UserError, match=said):
        load_model(diverged)
    assert load_model(diverged, "best").epoch == 1


def test_a_network_that_is_not_finite_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(run)
    assert isinstance(model, TrainedModel)
    saved = checkpoint.load(run / "last.pt")
    monkeypatch.setattr(checkpoint, "load_weights", lambda *_: saved)
    saved["model"]["stem.weight"][0] = float("nan")
    with pytest.raises(UserError, match="the network of epoch 2 is not finite"):
        load_model(run)
    saved["model"]["stem.weight"][0] = 0
    saved["model"]["head.weight"][:] = 3e38  # finite, but not what comes of it
    images = np.full((1, 32, 32, 3), 255, np.uint8)
    with pytest.raises(UserError, match="answers with numbers that are not finite"):
        load_model(run).logits(images)
