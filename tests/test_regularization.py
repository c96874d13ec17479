"""Mixed labels, clipped gradients, averaged weights, scaled losses: formulas, and exact resumes."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Program, Trained
from scipy import stats
from test_options import CPU, images
from test_run import directory, interrupt_at, lines, record
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from resnet_cifar.compute.step import correctness
from resnet_cifar.config.compose import compose
from resnet_cifar.data.augmentation import PROBE, TRAINING, VALIDATION, CropFlip, Mixup
from resnet_cifar.data.datasets import THE_STUDYS
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import UserError
from resnet_cifar.model.detached_batchnorm import DetachedBatchNorm2d
from resnet_cifar.optim.optimizer_step import Average, OptimizerStep
from resnet_cifar.runs.table import load_runs
from resnet_cifar.trained import evaluate

EMA = "regularization.ema_decay=0.7"
CLIP = "regularization.clip_norm=1.5"
MIXUP = ["augmentation=mixup", "trainer.batch_size=24"]  # the last batch is of 16
# 3 updates an epoch of few images: CPUs are slow at it.
FP16 = ["trainer.precision=fp16", "data.train_size=20", "trainer.batch_size=8", CLIP]


@pytest.mark.parametrize(
    ("options", "epoch", "step"),
    [
        ([*MIXUP, EMA, "probe=full", "regularization.label_smoothing=0.1"], 2, 1),
        ([*FP16, EMA], 2, 1),
    ],
)
def test_interrupted_and_resumed_equals_undisturbed(
    program: Program, trained: Trained, options: list[str], epoch: int, step: int
) -> None:
    undisturbed = trained(*options)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, epoch, step, signal.SIGTERM)
        assert program(*TINY, *options).code == 128 + signal.SIGTERM
    outcome = program(*TINY, *options)
    assert "resumed at epoch" in outcome.out
    run = directory(*options)
    assert lines(run) == lines(undisturbed)
    ours, theirs = weights(run / "last.pt"), weights(undisturbed / "last.pt")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Everything a finished run keeps: by `model.…` and, where there is one, `ema.…`."""
    saved = torch.load(path, weights_only=True)
    kept = [kind for kind in ("model", "ema") if kind in saved]
    return {f"{kind}.{key}": value for kind in kept for key, value in saved[kind].items()}


# Mixup -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "stop"), [(0, 64), (64, 128), (128, 150)])
def test_mixup_mixes_each_image_with_one_of_its_batch(start: int, stop: int) -> None:
    data, plain, mixup = images(150), CropFlip(4, 0.5), Mixup(4, 0.5, 0.5)
    a, b = plain.draws(1, TRAINING, 1, 150), mixup.draws(1, TRAINING, 1, 150)
    for name in ("order", "offset", "flip"):  # pairs by seed with crop_flip
        assert torch.equal(getattr(a, name), getattr(b, name))
    plainly = DeviceImages(data, THE_STUDYS, plain, CPU)
    x, labels = plainly.batch(plainly.view(a), slice(start, stop))
    mixing = DeviceImages(data, THE_STUDYS, mixup, CPU, classes=12)
    z, shares = mixing.batch(mixing.view(b), slice(start, stop))
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert shares.shape == (stop - start, 12)
    ranks = b.more["rank"][start:stop].tolist()
    partners = sorted(range(stop - start), key=ranks.__getitem__)
    for i, j in enumerate(partners):
        share = b.more["share"][start + i].double()
        mixed = share * x[i].double() + (1 - share) * x[j].double()
        torch.testing.assert_close(z[i].double(), mixed, rtol=1e-5, atol=1e-6)
        expected = np.zeros(12)
        expected[labels[i]] += share
        expected[labels[j]] += 1 - share
        np.testing.assert_allclose(shares[i], expected, atol=1e-6)
    assert sum(i == j for i, j in enumerate(partners)) < 8  # one is expected


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_s_shares_are_beta_distributed(alpha: float) -> None:
    draws = Mixup(4, 0.5, alpha).draws(0, TRAINING, 3, 5000)
    share = draws.more["share"].double().numpy()
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert sorted(draws.more["rank"].tolist()) == list(range(5000))
    again = Mixup(4, 0.5, alpha).draws(0, TRAINING, 3, 5000)
    assert torch.equal(again.more["share"], draws.more["share"])
    assert torch.equal(again.more["rank"], draws.more["rank"])
    other = Mixup(4, 0.5, alpha).draws(0, TRAINING, 4, 5000)
    assert not torch.equal(other.more["share"], draws.more["share"])


def test_mixup_is_for_training_alone() -> None:
    mixup = Mixup(4, 0.5, 1.0)
    assert not mixup.clean(8).more
    for stream in (VALIDATION, PROBE):
        draws = mixup.draws(0, stream, 1, 8)
        assert not draws.more
        assert torch.equal(draws.offset, CropFlip(4, 0.5).draws(0, stream, 1, 8).offset)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_label_is_the_mixed_loss(smoothing: float) -> None:
    """As the paper writes it: λ ℓ(f(x̃), y) + (1 − λ) ℓ(f(x̃), y′)."""
    data, mixup = images(40), Mixup(0, 0.5, 1.0)
    draws = mixup.draws(0, TRAINING, 1, 40)
    mixing = DeviceImages(data, THE_STUDYS, mixup, CPU, classes=10)
    _, shares = mixing.batch(mixing.view(draws), slice(40))
    labels = torch.from_numpy(data.labels)[draws.order]
    other, share = labels[draws.more["rank"].argsort()], draws.more["share"]
    logits = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    one, two = (
        F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
        for y in (labels, other)
    )
    loss = compose([f"regularization.label_smoothing={smoothing}"]).regularization.loss()
    torch.testing.assert_close(loss(logits, shares), (share * one + (1 - share) * two).mean())
    predicted = logits.argmax(1)
    expected = share * (predicted == labels) + (1 - share) * (predicted == other)
    torch.testing.assert_close(correctness(logits, shares), expected)
    assert torch.equal(correctness(logits, labels), predicted == labels)


def test_mixup_trains_in_bfloat16_too(trained: Trained) -> None:
    (line,) = lines(trained(*MIXUP, "trainer.precision=bf16", "trainer.epochs=1"))
    assert line["loss/train"] == pytest.approx(np.log(10), rel=0.2)
    assert line["accuracy/train"] * 64 % 1 > 0  # shares, not images


@pytest.mark.parametrize("alpha", ["0", "-1", "inf", "1001"])
def test_mixup_refuses(program: Program, alpha: str) -> None:
    outcome = program("augmentation=mixup", f"augmentation.alpha={alpha}")
    assert outcome.code == 2
    assert "augmentation.alpha" in outcome.err
    assert outcome.err.count("\n") == 1


# Averaged weights --------------------------------------------------------------------------------


def test_an_average_is_the_weighted_mean_of_what_was() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer_step = OptimizerStep(torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9))
    optimizer_step.average = Average(network, 0.8)
    seen: list[dict[str, torch.Tensor]] = []
    for _ in range(6):
        optimizer_step.step(network(torch.randn(5, 3, 4, 4)).square().sum())
        optimizer_step.follow()
        seen.append({key: value.double() for key, value in network.state_dict().items()})
        averaged = dict(optimizer_step.average.network.named_parameters())
        heavy = [0.8**age for age in reversed(range(len(seen)))]
        for key, value in averaged.items():
            expected = sum(w * each[key] for w, each in zip(heavy, seen, strict=True)) / sum(heavy)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), DetachedBatchNorm2d(4)])
def test_averaged_weights_have_running_statistics_of_their_own(norm: nn.BatchNorm2d) -> None:
    """The mean of the batches' own, whatever they were before; the network's are left alone."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    average = Average(network, 0.8)
    batches = [torch.randn(n, 3, 6, 6) * n for n in (5, 5, 2)]
    seen = [network[0](x).detach().double().transpose(0, 1).flatten(1) for x in batches]
    for _ in range(2):
        average.update_batchnorm_statistics(batches, contextlib.nullcontext())
        for of_batch, name in ((torch.mean, "running_mean"), (torch.var, "running_var")):
            expected = torch.stack([of_batch(each, 1) for each in seen]).mean(0)
            found = average.network.state_dict()[f"1.{name}"].double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert norm.num_batches_tracked == 0
    assert average.network[1].momentum == 0.1
    nothing = Average(nn.Conv2d(3, 4, 3), 0.8)
    nothing.update_batchnorm_statistics(iter(()), contextlib.nullcontext())


def test_averaging_is_not_noticed_by_training(trained: Trained) -> None:
    plain, averaged = lines(trained()), lines(trained(EMA))
    beside = {"accuracy/val_ema", "loss/val_ema"}
    for a, b in zip(plain, averaged, strict=True):
        assert b.keys() - a.keys() == beside
        assert {k: v for k, v in b.items() if k not in beside} == a
        assert b["loss/val_ema"] != b["loss/val"]
    assert not any(key.startswith("ema.") for key in weights(trained() / "last.pt"))
    assert "_ema0.7_" in trained(EMA).parent.name


def test_the_averaged_weights_are_evaluated_when_asked(
    program: Program, trained: Trained, tmp_path: Path
) -> None:
    program(*TINY, EMA)
    run = directory(EMA)
    final = record(run)["final"]
    found: dict[str, Any] = evaluate.evaluate(run, "validation", "ema")
    assert found["views"]["val"]["accuracy"] == final["accuracy/val_ema"]
    assert found["views"]["val"]["loss"] == pytest.approx(final["loss/val_ema"], rel=1e-5)
    assert json.loads((run / "evaluation-validation-ema.json").read_text())["weights"] == "ema"
    assert record(run)["evaluations"][0]["weights"] == "ema"
    evaluate.evaluate(run, "test", "ema")
    runs = load_runs(tmp_path / "outputs")
    assert "accuracy/test" not in runs or runs["accuracy/test"].isna().all()  # of the raw weights
    with pytest.raises(UserError, match=r"no averaged weights: regularization.ema_decay=0$"):
        evaluate.evaluate(trained(), "validation", "ema")


def test_records_of_earlier_versions_say_what_they_lacked(tmp_path: Path) -> None:
    from made_up import change_record, make_run

    from resnet_cifar.runs.find import find_runs

    run = make_run(tmp_path, TINY)
    flat = json.loads((run / "run.json").read_text())["config"]
    lacking = {key: value for key, value in flat.items() if key != "regularization.ema_decay"}
    change_record(run, config=lacking)
    (row,) = load_runs(tmp_path).to_dict("records")
    assert row["regularization.ema_decay"] == 0.0
    (shown,) = find_runs(tmp_path)
    assert shown.row["regularization.ema_decay"] == 0.0


@pytest.mark.parametrize(
    ("key", "value"), [("ema_decay", "-0.1"), ("ema_decay", "1"), ("clip_norm", "-1")]
)
def test_values_out_of_range(program: Program, key: str, value: str) -> None:
    outcome = program(f"regularization.{key}={value}")
    assert outcome.code == 2
    assert f"regularization.{key}" in outcome.err
    assert outcome.err.count("\n") == 1


# Clipped gradients, scaled losses ----------------------------------------------------------------


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def loss_of(network: nn.Module, step: int, factor: float = 1.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(step)
    x = torch.randn(12, 3, 8, 8, generator=source)
    y = torch.randint(5, (12,), generator=source)
    return F.cross_entropy(factor * network(x).float(), y)


def gradients_of(loss: torch.Tensor, network: nn.Module) -> list[torch.Tensor]:
    """What the network's own backward pass is about to find; its graph stays.

    A second network's would not do: weights that differ in their last digit round to other float16
    values, and the two train apart by 2**-10 of an update at every step, more or less by machine.
    """
    return list(torch.autograd.grad(loss, list(network.parameters()), retain_graph=True))


def assert_same_weights(ours: nn.Module, theirs: nn.Module, steps: int) -> None:
    """Equal up to float32's rounding, of two ways to write the same `steps` updates.

    The gradients being the same numbers, an update is some ten roundings (clipping, momentum or
    Adam's moments, decay, step), each by half an eps of a weight or of a term that is smaller than
    the largest weight. In the worst case all go one way, and momentum 0.9 carries what is wrong
    with a gradient into ten updates: 10 eps of the largest weight for each step.
    """
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        bound = 10 * steps * torch.finfo(torch.float32).eps * float(b.detach().abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=bound)


def test_a_gradient_is_shortened_to_the_norm_and_its_norm_recorded() -> None:
    network, theirs = small(), small()
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    ours = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer_step = OptimizerStep(ours, clip_norm=1.5)
    norms = []
    for step in range(8):
        factor = 0.2 if step % 2 else 3.0  # short gradients and long ones
        loss = loss_of(network, step, factor)
        gradients = gradients_of(loss, network)
        optimizer_step.step(loss)
        flat = np.concatenate([g.double().numpy().ravel() for g in gradients])
        norms.append(float(np.sqrt((flat**2).sum())))
        for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
            parameter.grad = gradient * min(1.0, 1.5 / norms[-1])
        reference.step()
        assert_same_weights(network, theirs, steps=step + 1)
    found = optimizer_step.metrics()
    assert found["gradient_norm/train"] == pytest.approx(np.mean(norms), rel=1e-4)
    share = np.mean([norm > 1.5 for norm in norms])
    assert 0 < share < 1
    assert found["clipped/train"] == share
    assert optimizer_step.dump()["gradient_norms"].tolist()[2] == 8
    optimizer_step.end_epoch()
    assert optimizer_step.metrics()["gradient_norm/train"] == 0


@pytest.mark.parametrize("clip", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_step_whose_gradients_overflow_is_left_out(
    monkeypatch: pytest.MonkeyPatch, kind: str, clip: float
) -> None:
    """Also the very first one, and without asking the device."""

    def build(network: nn.Module, fused: bool) -> torch.optim.Optimizer:
        optimizer = compose([f"optimizer={kind}", "optimizer.lr=0.02"]).optimizer
        return optimizer.build([{"params": list(network.parameters())}], fused=fused)

    def refuse(*_: object) -> None:
        raise AssertionError("the scaler reads from the device")

    monkeypatch.setattr(GradScaler, "_maybe_opt_step", refuse)
    network, theirs = small(), small()
    reference = build(theirs, fused=False)
    scale, skipped = 2.0**24, []
    scaler = GradScaler("cpu", init_scale=scale, growth_interval=3)
    optimizer_step = OptimizerStep(build(network, fused=True), clip, None, scaler)
    count = 0
    for step in range(20):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(network, step)
        scaled = gradients_of(loss * scale, network)
        optimizer_step.step(loss)
        gradients = [gradient / scale for gradient in scaled]
        finite = all(gradient.isfinite().all() for gradient in gradients)
        skipped.append(not finite)
        if finite:
            for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
                parameter.grad = gradient
            if clip:
                nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            reference.step()
        count = count + 1 if finite else 0
        scale *= (2.0 if count == 3 else 1.0) if finite else 0.5
        count %= 3
        assert_same_weights(network, theirs, steps=step + 1)
        assert scaler.get_scale() == scale
    assert skipped[0]
    assert 2 <= sum(skipped) <= 15
    if clip:
        assert optimizer_step.dump()["gradient_norms"][2] == 20 - sum(skipped)
        assert np.isfinite(list(optimizer_step.metrics().values())).all()


def test_fp16_is_recorded_and_its_scale_kept(program: Program) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 1, 1, signal.SIGTERM)
        program(*TINY, *FP16)
    run = directory(*FP16)
    assert record(run)["sessions"][0]["precision"] == "fp16"
    saved = torch.load(run / "last.pt", weights_only=True)
    assert saved["scaler"]["scale"] <= 65536
    saved["scaler"] |= {"scale": 8.0}
    torch.save(saved, run / "last.pt")
    assert program(*TINY, *FP16).code == 0
    first, last = lines(run)
    assert first["loss_scale/train"] == last["loss_scale/train"] == 8.0
    assert last["gradient_norm/train"] > 0
    assert 0 <= last["clipped/train"] <= 1
