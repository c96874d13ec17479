"""The probe: what it measures is right, and training never notices it."""

import copy
import dataclasses
import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Program, Trained
from test_run import directory, interrupt_at, lines, record
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.config.compose import compose
from resnet_cifar.config.saved import load
from resnet_cifar.data.augmentation import PROBE, CropFlip
from resnet_cifar.data.datasets import THE_STUDYS
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import ConfigError
from resnet_cifar.identity import cell_name
from resnet_cifar.model.options import DETACH, BatchNorm, ResNet18
from resnet_cifar.probe import gradient_flow as flow
from resnet_cifar.probe import views
from resnet_cifar.probe.options import Probe
from resnet_cifar.record.integrity import read_run_lines
from resnet_cifar.record.layout import METRICS
from resnet_cifar.record.layout import PROBE as PROBE_FILE
from resnet_cifar.record.lines import LinesFile, read_metrics

AUGMENTATION = CropFlip(4, 0.5)

BATCH_STATISTICS = {
    f"{score}/val_batch_{which}"
    for score in ("accuracy", "loss")
    for which in ("statistics", "mean", "variance")
}


# By what a view of validation normalises: the batch's own mean, its own variance.
OWN = {
    "_batch_statistics": (True, True),
    "_batch_mean": (True, False),
    "_batch_variance": (False, True),
}


# The identities, inside the network.


def network(detach: str, eps: float = 1e-5, dtype: torch.dtype = torch.float64) -> nn.Module:
    """ResNet-18 of width 3 whose norm layers have a γ and β of their own."""
    torch.manual_seed(0)
    net = ResNet18(3).build(BatchNorm(detach=detach, eps=1e-5, momentum=0.1).build, 10).to(dtype)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = eps
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
    return net


def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 32, 32, generator=source, dtype=dtype) + 0.5, torch.arange(8)


def inspect(net: nn.Module) -> dict[str, dict[str, Any]]:
    x, y = images(next(net.parameters()).dtype)
    return {row["layer"]: row for row in flow.inspect(net, x, y, F.cross_entropy)}


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b; 0 for a channel that no gradient reaches."""
    return torch.where(b == 0, 0.0, a / b)


def rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def by_hand(net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """For each norm layer: its input x, ∂L/∂x, and the filter before it with its gradient."""
    net.train()
    inputs: dict[str, Tensor] = {}
    filters: dict[str, nn.Conv2d] = {}
    latest: list[nn.Conv2d] = []
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda c, *_: latest.append(c)))
        if isinstance(module, nn.BatchNorm2d):

            def keep(_: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name) -> None:
                inputs[name], filters[name] = args[0], latest[-1]

            handles.append(module.register_forward_hook(keep))
    x, y = images(next(net.parameters()).dtype)
    loss = F.cross_entropy(net(x), y)
    gradients = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True)
    net.zero_grad()
    loss.backward()
    for handle in handles:
        handle.remove()
    return {
        name: {
            "x": inputs[name].detach().transpose(0, 1).flatten(1),
            "dx": dx.transpose(0, 1).flatten(1),
            "w": filters[name].weight.detach().flatten(1),
            "dw": filters[name].weight.grad.flatten(1),
        }
        for name, dx in zip(inputs, gradients, strict=True)
    }


@pytest.mark.parametrize("eps", [1e-30, 1e-5])
@pytest.mark.parametrize("detach", DETACH)
def test_the_identities_as_the_probe_sees_them(detach: str, eps: float) -> None:
    """Each cosine is its closed form in γ, σ, ∂L/∂γ, ∂L/∂β, to rounding; or vanishes, to rounding.

    Σ∂L/∂x = (γ/σ) ∂L/∂β where the mean is detached, else 0. ⟨∂L/∂x, x̂⟩ = (γ/σ) ∂L/∂γ where the
    variance is, else (γ/σ) ∂L/∂γ · eps/σ². w·∂L/∂w = σ⟨∂L/∂x, x̂⟩ + μ Σ∂L/∂x, filter by filter.
    """
    net = network(detach, eps)
    rows = inspect(net)
    parts = by_hand(net)
    assert len(parts) == 20
    conv_of = {"norm": "stem"}
    for name, part in parts.items():
        norm = net.get_submodule(name)
        x, dx, w, dw = part["x"], part["dx"], part["w"], part["dw"]
        var, mean = torch.var_mean(x, 1, correction=0)
        sigma = torch.sqrt(var + eps)
        scale = norm.weight.detach() / sigma
        total = scale * norm.bias.grad if detach in ("mean", "both") else torch.zeros_like(mean)
        left = 1.0 if detach in ("var", "both") else eps / sigma**2
        inner = scale * norm.weight.grad * left
        xhat_norm = torch.sqrt(x.shape[1] * var) / sigma
        length = dx.norm(dim=1)
        expected = {
            "sum_cosine": rms(ratio(total, length * math.sqrt(x.shape[1]))),
            "xhat_cosine": rms(ratio(inner, length * xhat_norm)),
        }
        for key, closed in expected.items():
            assert rows[name][key] == pytest.approx(closed, rel=1e-8, abs=1e-13), (name, key)
        conv = conv_of.get(name) or name.replace("norm", "conv").replace("shortcut.1", "shortcut.0")
        radial = sigma * inner + mean * total
        cosine = ratio(radial, w.norm(dim=1) * dw.norm(dim=1))
        assert rows[conv]["radial_rms"] == pytest.approx(rms(cosine), rel=1e-7, abs=1e-12)
        whole = radial.sum() / (w.norm() * dw.norm())
        assert rows[conv]["radial"] == pytest.approx(whole.item(), rel=1e-6, abs=1e-12)

        # What vanishes and what does not, in numbers.
        assert (rows[name]["sum_cosine"] < 1e-13) == (detach in ("none", "var"))
        if detach in ("mean", "both"):
            assert rows[name]["sum_cosine"] > 1e-3
        if detach in ("var", "both"):
            assert rows[name]["xhat_cosine"] > 1e-4
        else:
            assert rows[name]["xhat_cosine"] < (1e-12 if eps < 1e-20 else 1e-3)
        if detach == "none":
            assert rows[conv]["radial_rms"] < (1e-12 if eps < 1e-20 else 1e-3)
        else:
            assert rows[conv]["radial_rms"] > 1e-4


@pytest.mark.parametrize("detach", DETACH)
def test_float32_tells_a_broken_identity_from_one_that_holds(detach: str) -> None:
    """What a run computes: at least two orders of magnitude lie between the two."""
    rows = inspect(network(detach, dtype=torch.float32)).values()
    sums = [row["sum_cosine"] for row in rows if row["kind"] == "norm"]
    assert max(sums) < 1e-6 if detach in ("none", "var") else min(sums) > 1e-3


def test_the_other_quantities_by_hand() -> None:
    net = network("none")
    rows = inspect(net)
    before = {name: b.clone() for name, b in net.named_buffers()}
    parts = by_hand(net)
    for name, part in parts.items():
        row, norm = rows[name], net.get_submodule(name)
        x = part["x"]
        var, mean = torch.var_mean(x, 1, correction=0)
        sigma = torch.sqrt(var + norm.eps)
        unbiased = x.var(1)
        expected = {
            "gradient_norm": part["dx"].norm().item(),
            "mean_over_std": rms(mean / sigma),
            "std_min": sigma.min().item(),
            "std_max": sigma.max().item(),
            "running_mean_gap": rms((before[f"{name}.running_mean"] - mean) / sigma),
            "running_var_gap": rms(
                torch.log((before[f"{name}.running_var"] + norm.eps) / (unbiased + norm.eps))
            ),
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    head = net.head.weight
    row = rows["head"]
    assert row["kind"] == "linear"
    assert row["weight_norm"] == pytest.approx(head.norm().item())
    assert row["gradient_norm"] == pytest.approx(head.grad.norm().item())
    kinds = [row["kind"] for row in rows.values()]
    assert [kinds.count(k) for k in ("conv", "linear", "norm", "activation")] == [20, 1, 20, 17]
    assert list(rows)[:4] == ["stem", "norm", "relu", "stages.0.0.conv1"]  # in the order of use


def test_activations_and_the_dead_among_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head = nn.ReLU(), nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(x).mean((2, 3)))

    x = -torch.ones(2, 4, 2, 2, dtype=torch.float64)
    x[0, 1, 0, 0] = 8.0  # one place of one image is enough to be alive
    x[:, 2] = 2.0
    rows = flow.inspect(Net(), x, torch.tensor([0, 1]), F.cross_entropy)
    values = x.clamp(min=0)
    assert rows[0] == {
        "layer": "relu",
        "kind": "activation",
        "activation_mean": pytest.approx(values.mean().item()),
        "activation_std": pytest.approx(values.std(correction=0).item()),
        "activation_dead": 0.5,
    }


@pytest.mark.parametrize("detach", DETACH)
def test_the_model_is_left_as_it_is(detach: str) -> None:
    net = network(detach).eval()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    state = {name: t.clone() for name, t in net.state_dict().items()}
    generator = torch.random.get_rng_state()
    inspect(net)
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert [p.grad is not None for p in net.parameters()].count(True) == 1
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_gradients_that_a_model_brings_have_no_part_in_it() -> None:
    net = network("none")
    clean = inspect(net)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert inspect(net) == clean


# The angular update.


def test_a_rotation_with_a_known_angle() -> None:
    """Filters turned by angles down to a microradian, and stretched, which is no rotation."""
    angles = torch.tensor([0.3, 1e-3, 1e-6], dtype=torch.float64)
    before = torch.zeros(3, 5, 1, 1, dtype=torch.float64)
    before[:, 0] = 2.0
    after = torch.zeros_like(before)
    after[:, 0, 0, 0], after[:, 1, 0, 0] = 7 * torch.cos(angles), 7 * torch.sin(angles)
    for angle, *pair in zip(angles, before, after, strict=True):
        turned = flow.rotation(*(w[None] for w in pair)).sqrt().item()
        assert turned == pytest.approx(angle.item(), rel=1e-9)
    mean_square = angles.square().mean().item()
    assert flow.rotation(before, after).item() == pytest.approx(mean_square, rel=1e-9)
    assert flow.rotation(before, -before).item() == pytest.approx(math.pi**2)


def test_the_account_averages_squares_over_updates() -> None:
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5, weight_decay=0.2)
    account = flow.empty_rotations(net)
    weight = net[0].weight

    def turn(to: float) -> None:
        with torch.no_grad():
            weight.copy_(torch.tensor([[math.cos(to), math.sin(to)]]) * 2)

    turn(0.0)
    for to in (0.3, 0.7):
        with flow.add_rotation(net, account):
            turn(to)
    (found,) = flow.angular_updates(net, optimizer, account, lr=0.1).values()
    assert found["angular_update"] == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 2), rel=1e-6)
    assert found["angular_update_predicted"] == pytest.approx(math.sqrt(2 * 0.1 * 0.2 / 1.5))
    assert found["effective_lr"] == pytest.approx(0.1 / 4)
    nothing = flow.empty_rotations(net)
    assert flow.angular_updates(net, optimizer, nothing, 0.1)["0"]["angular_update"] is None


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_prediction_is_where_a_scale_invariant_weight_ends(momentum: float) -> None:
    """SGD on gradients that are orthogonal to the filter, scale as 1/‖w‖ and are else noise: from
    filters far too long and far too short to √(2·lr·wd/(1+m)) a step.
    """
    source = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 40, bias=False))
    weight = net[0].weight
    with torch.no_grad():
        weight.normal_(generator=source).mul_(torch.logspace(-1, 1, 40)[:, None])
    lr, decay = 0.1 * (1 - momentum), 0.02
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    account = flow.empty_rotations(net)
    for step in range(3000):
        noise = torch.randn(weight.shape, generator=source)
        direction = F.normalize(weight.detach())
        tangent = noise - (noise * direction).sum(1, keepdim=True) * direction
        weight.grad = tangent / weight.detach().norm(dim=1, keepdim=True)
        if step < 2000 or step % 10:
            optimizer.step()
        else:
            with flow.add_rotation(net, account):
                optimizer.step()
    (found,) = flow.angular_updates(net, optimizer, account, lr).values()
    assert found["angular_update"] == pytest.approx(found["angular_update_predicted"], rel=0.02)


def test_no_prediction_where_none_is_known() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    for optimizer in (
        torch.optim.AdamW(parameters, weight_decay=0.1),
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ):
        assert flow.predicted_rotation(optimizer.param_groups[0], 0.1) is None


# Whole runs.

SMALL = [*TINY, "trainer.epochs=3", "optimizer.lr=0.1", "regularization.weight_decay=0.01"]
SMALL += ["data.train_size=48"]  # 3 updates an epoch


def training(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor], bytes]:
    """What training left: the metrics but for the probe's, the weights, the predictions."""
    metrics = [{k: v for k, v in line.items() if k not in BATCH_STATISTICS} for line in lines(path)]
    weights = torch.load(path / "last.pt", weights_only=True)["model"]
    return metrics, weights, np.load(path / "predictions.npz")["logits_val"].tobytes()


def assert_same_training(a: Path, b: Path) -> None:
    ours, theirs = training(a), training(b)
    assert ours[0] == theirs[0]
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in theirs[1])
    assert ours[2] == theirs[2]


@pytest.mark.parametrize("detach", ["none", "mean", "both"])
def test_training_is_the_same_to_the_last_bit(trained: Trained, detach: str) -> None:
    runs = {}
    options = ("off", "full") if detach == "mean" else ("off", "default", "full")
    for option in options:
        # At width 8 the layout is channels_last, as in real runs.
        wide = [*SMALL, f"norm.detach={detach}", "model.width=8"]
        runs[option] = trained(*wide, f"probe={option}")
        assert runs[option].parts[-2:] == runs["off"].parts[-2:]  # the same name
        assert_same_training(runs[option], runs["off"])
    assert not (runs["off"] / PROBE_FILE).exists()
    probed = {
        option: sorted({row["epoch"] for row in read_run_lines(run, PROBE_FILE)})
        for option, run in runs.items()
    }
    expected = {"off": [], "default": [1, 3], "full": [1, 2, 3]}
    assert probed == {option: expected[option] for option in options}
    for option, epochs in probed.items():
        for line in read_metrics(runs[option] / METRICS):
            extra = BATCH_STATISTICS | {"speed/probe_seconds"}
            assert extra & line.keys() == (extra if line["epoch"] in epochs else set())


@pytest.mark.parametrize(("detach", "step"), [("none", 1), ("both", 2)])
def test_interrupted_and_resumed_with_the_probe(
    program: Program, trained: Trained, detach: str, step: int
) -> None:
    """Also what the probe measured is what it had been: the rotations before the interruption are
    in the checkpoint.
    """
    more = [*SMALL, f"norm.detach={detach}", "probe=full"]
    undisturbed = trained(*more)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, step, signal.SIGTERM)
        stopped = program(*more)
    assert stopped.code == 128 + signal.SIGTERM
    assert program(*more).code == 0
    run = directory(*more)
    assert_same_training(run, undisturbed)
    assert lines(run) == lines(undisturbed)
    assert (run / PROBE_FILE).read_text() == (undisturbed / PROBE_FILE).read_text()
    rows = read_run_lines(run, PROBE_FILE)
    assert len({(row["epoch"], row["layer"]) for row in rows}) == len(rows) == 3 * 58


def test_interrupted_in_the_probe(program: Program, trained: Trained) -> None:
    undisturbed = trained("probe=full")
    original = flow.inspect

    def inspect_and_signal(*args: Any) -> list[dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "inspect", inspect_and_signal)
        assert program(*TINY, "probe=full").code == 128 + signal.SIGTERM
    assert program(*TINY, "probe=full").code == 0
    assert lines(directory()) == lines(undisturbed)
    assert (directory() / PROBE_FILE).read_text() == (undisturbed / PROBE_FILE).read_text()


def test_the_probe_looks_at_the_same_images_every_epoch(program: Program) -> None:
    """The first of the view that is drawn for epoch 0."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = flow.inspect

    def note(model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> list[dict[str, Any]]:
        seen.append((x, y))
        return original(model, x, y, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "inspect", note)
        assert program(*TINY, "probe=full", "probe.images=24", "seed=3").code == 0
    data = compose(TINY).data
    train = DeviceImages(
        data.load().train, THE_STUDYS, AUGMENTATION, torch.device("cpu"), torch.contiguous_format
    )
    expected = train.batch(train.view(AUGMENTATION.draws(3, PROBE, 0, 64)), slice(24))
    assert len(seen) == 2
    for images_and_labels in seen:
        assert all(map(torch.equal, images_and_labels, expected))


def test_rates_are_those_of_the_measured_updates(trained: Trained) -> None:
    """effective_lr is lr/‖w‖², of the mean rate of the updates whose rotation is measured."""
    run = trained("scheduler=one_cycle", "probe=full", "probe.angular_steps=2")
    schedule = compose(["scheduler=one_cycle"]).scheduler.build(0.01, 2, 4)
    means = {1: (schedule(1) + schedule(3)) / 2, 2: (schedule(5) + schedule(7)) / 2}
    rows = [row for row in read_run_lines(run, PROBE_FILE) if "weight_norm" in row]
    assert {row["epoch"] for row in rows} == {1, 2}
    for row in rows:
        rate = row["effective_lr"] * row["weight_norm"] ** 2
        assert rate == pytest.approx(means[row["epoch"]], rel=1e-4)


def test_a_run_begun_without_the_probe_goes_on_with_it(program: Program, trained: Trained) -> None:
    off = trained(*SMALL)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*SMALL)
    assert program(*SMALL, "probe=full").code == 0
    run = directory(*SMALL)
    assert_same_training(run, off)
    assert {row["epoch"] for row in read_run_lines(run, PROBE_FILE)} == {2, 3}


def test_what_stands_in_a_row(trained: Trained) -> None:
    rows = read_run_lines(trained(*SMALL, "probe=full", "optimizer.momentum=0.5"), PROBE_FILE)
    everywhere = {"epoch", "step", "layer", "kind"}
    weights = {"weight_norm", "gradient_norm", "radial", "radial_rms", "effective_lr"}
    weights |= {"angular_update", "angular_update_predicted"}
    of_kind = {
        "conv": weights,
        "linear": weights,
        "norm": {
            "gradient_norm", "sum_cosine", "xhat_cosine", "mean_over_std", "std_min", "std_max",
            "running_mean_gap", "running_var_gap",
        },
        "activation": {"activation_mean", "activation_std", "activation_dead"},
    }  # fmt: skip
    for row in rows:
        assert set(row) == everywhere | of_kind[row["kind"]]
        assert row["step"] == 3 * row["epoch"]
        assert all(math.isfinite(v) for k, v in row.items() if k not in ("layer", "kind"))
        if row["kind"] == "conv":
            predicted = math.sqrt(2 * 0.1 * 0.01 / 1.5)
            assert row["angular_update_predicted"] == pytest.approx(predicted)
            assert 1e-3 < row["angular_update"] < 1


@pytest.mark.parametrize("option", ["norm=none", "norm=groupnorm", "optimizer=adamw"])
def test_other_networks_and_optimizers(trained: Trained, option: str) -> None:
    more = ["norm.groups=2"] if option == "norm=groupnorm" else []
    run = trained(option, *more, "probe=full", "trainer.epochs=1")
    rows = read_run_lines(run, PROBE_FILE)
    assert ("norm" in {row["kind"] for row in rows}) == (option == "optimizer=adamw")
    (line,) = lines(run)
    assert (line.keys() >= BATCH_STATISTICS) == (option == "optimizer=adamw")


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("detach", ["none", "both"])
def test_each_layer_normalises_by_one_statistic_of_its_batch(detach: str, buffer: str) -> None:
    """By the formula in float64, batch after batch, with an eps that counts."""
    net = network(detach, eps=0.1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    changed = copy.deepcopy(net).eval()
    flow.normalise_by_batch(changed, buffer)
    norms = [m for m in changed.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: list[tuple[Tensor, Tensor]] = []
    for norm in norms:
        norm.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    x, _ = images()
    with torch.no_grad():
        changed(x)
        changed(2 * x + 1)
    originals = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(seen) == 2 * len(originals) == 40
    for norm, (x, y) in zip(originals * 2, seen, strict=True):
        values = x.transpose(0, 1).flatten(1)
        mean = values.mean(1) if buffer == "running_mean" else norm.running_mean
        var = values.var(1, correction=0) if buffer == "running_var" else norm.running_var
        weight, bias, mean, var = (
            v[:, None, None] for v in (norm.weight.detach(), norm.bias.detach(), mean, var)
        )
        torch.testing.assert_close(y, weight * (x - mean) / torch.sqrt(var + 0.1) + bias)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    kept = {"running_mean": "running_var", "running_var": "running_mean"}[buffer]
    for norm, original in zip(norms, originals, strict=True):
        assert torch.equal(getattr(norm, kept), getattr(original, kept))


def test_the_statistics_of_a_bfloat16_batch_are_float32() -> None:
    """In bfloat16 the mean, near 301, would be a multiple of 2."""
    source = torch.Generator().manual_seed(0)
    x = (301 + 3 * torch.randn(16, 2, 8, 8, generator=source)).bfloat16()
    norm = nn.BatchNorm2d(2).eval()
    flow.normalise_by_batch(norm, "running_mean")
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    mean = x.double().mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-6, atol=0)


def test_validation_with_batch_statistics_by_hand(trained: Trained) -> None:
    """Clean images in equal batches no larger than training's: 30 as 15 and 15, not 16 and 14."""
    more = ["probe=full", "probe.val_images=30"]
    run = trained(*more)
    config = compose([*TINY, *more])
    model = config.model.build(config.norm.build, 10)
    saved = torch.load(run / "last.pt", weights_only=True)["model"]
    model.load_state_dict(saved)
    part = config.data.load().val
    val = DeviceImages(part, THE_STUDYS, AUGMENTATION, torch.device("cpu"), torch.contiguous_format)
    view = val.view(CropFlip(4, 0.5).clean(32))
    batches = [val.batch(view, slice(start, start + 15)) for start in (0, 15)]
    last = lines(run)[-1]
    found = {name: last[f"loss/val{name}"] for name in ("", *OWN)}
    for name, (own_mean, own_var) in OWN.items():

        def normalise(
            norm: nn.BatchNorm2d, args: tuple[Tensor], _: Tensor, own: Any = (own_mean, own_var)
        ) -> Tensor:
            x = args[0]
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            mean = mean if own[0] else norm.running_mean.double()
            var = var if own[1] else norm.running_var.double()
            return F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)

        exact = copy.deepcopy(model).double().eval()
        for module in exact.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(normalise)
        with torch.no_grad():
            logits = torch.cat([exact(x.double()) for x, _ in batches])
        labels = torch.cat([y for _, y in batches])
        loss = F.cross_entropy(logits, labels).item()
        assert found[name] == pytest.approx(loss, rel=1e-5)
        correct = (logits.argmax(1) == labels).double().mean().item()
        assert last[f"accuracy/val{name}"] == pytest.approx(correct)
    # They tell the four apart.
    assert min(abs(a - b) / b for a, b in itertools.combinations(found.values(), 2)) > 1e-4


def test_the_record_of_a_diverged_run(trained: Trained) -> None:
    run = trained("optimizer.lr=1e30", "probe=full")
    assert record(run)["status"] == "diverged"


# The file, and who reads it.


def test_the_file_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "probe.jsonl"
    opened = LinesFile(path, 0)
    assert not path.exists()
    opened.append(*({"epoch": 1, "layer": layer, "kind": "conv", "x": 1.0} for layer in "ab"))
    opened.append(*({"epoch": 2, "layer": layer, "kind": "conv", "x": math.inf} for layer in "ab"))
    opened.close()
    with path.open("a") as file:
        file.write('{"epoch": 3, "layer": "a", "x"')  # torn
    assert [row["x"] for row in LinesFile(path, 9).lines] == [1.0, 1.0, None, None]
    LinesFile(path, 1).trim()
    expected = [{"epoch": 1, "layer": layer, "kind": "conv", "x": 1.0} for layer in "ab"]
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected


def test_readers_need_no_torch() -> None:
    code = (
        "import sys, resnet_cifar.probe.views, resnet_cifar.record.lines;"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_tensorboard_gets_curves_and_a_heat_map(program: Program) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 3, 1, signal.SIGTERM)
        program(*SMALL, "probe=full")
    program(*SMALL, "probe=full")
    run = directory(*SMALL)
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()
    curves = [tag for tag in tags["scalars"] if tag.startswith("probe/")]
    assert set(curves) == {
        f"probe/{name}/{which}" for name in views.CURVES for which in ("median", "worst")
    }
    assert len(curves) <= 24
    for tag in [*curves, *BATCH_STATISTICS]:
        assert [scalar.step for scalar in events.Scalars(tag)] == [1, 2, 3]
    rows = [row for row in read_run_lines(run, PROBE_FILE) if row["epoch"] == 2]
    drawn = events.Scalars("probe/sum_cosine/worst")[1].value
    assert drawn == pytest.approx(max(r["sum_cosine"] for r in rows if r["kind"] == "norm"))
    assert set(tags["images"]) == {"probe/layers_by_epochs"}
    (image,) = events.Images("probe/layers_by_epochs")
    assert image.step == 3
    assert image.width > image.height > 500


def test_curves_and_table_of_a_hand_made_epoch() -> None:
    rows = [
        {"epoch": 5, "layer": "a", "kind": "conv", "angular_update": 0.02, "radial_rms": 0.1,
         "angular_update_predicted": 0.01, "gradient_norm": 1.0},
        {"epoch": 5, "layer": "b", "kind": "conv", "angular_update": 0.001, "radial_rms": None,
         "angular_update_predicted": 0.01, "gradient_norm": 3.0},
        {"epoch": 5, "layer": "c", "kind": "linear", "radial_rms": 0.9, "gradient_norm": 9.0},
        {"epoch": 5, "layer": "d", "kind": "norm", "gradient_norm": 100.0},
    ]  # fmt: skip
    curves = views.curves(rows)
    assert curves["probe/angular_ratio/worst"] == pytest.approx(0.1)  # a tenth is worse than twice
    assert curves["probe/radial_rms/worst"] == 0.1
    assert curves["probe/gradient_norm/median"] == 2.0
    assert "probe/weight_norm/median" not in curves
    rows.append(rows[0] | {"epoch": 7, "gradient_norm": -2.0})
    layers, table = views.table(rows, "gradient_norm")
    assert layers == ["a", "b", "c"]
    np.testing.assert_array_equal(table, [[1, 2], [3, math.nan], [9, math.nan]])
    assert views.heat_map(rows).shape[2] == 3


# The options.


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", -1), ("images", 1), ("val_images", 1), ("angular_steps", 0)],
)
def test_what_is_not_allowed_is_said_in_one_line(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^probe\.{key}={value}: must be .*or more$"):
        compose([f"probe.{key}={value}"])


def test_the_probe_is_no_part_of_a_run_s_name() -> None:
    """The names of the runs that exist."""
    probes = [compose([f"probe={option}"]).probe for option in ("off", "default", "full")]
    assert len(set(map(str, probes))) == 3
    composed = functools.cache(lambda *overrides: compose([*overrides]))
    for path in (ROOT / "experiments" / "results" / "runs").iterdir():
        (recorded,) = path.glob("seed=0")
        flat = json.loads((recorded / "run.json").read_text())["config"]
        augmentation = flat.get("augmentation", "crop_flip")  # records from before it lack it
        config = composed(f"scheduler={flat['scheduler']}", f"augmentation={augmentation}")
        keys = ("optimizer.lr", "norm.detach", "regularization.weight_decay")
        for key in (*keys, "regularization.ema_decay", "model.width", "trainer.epochs"):
            part, name = key.split(".")
            changed = dataclasses.replace(getattr(config, part), **{name: flat.get(key, 0.0)})
            config = dataclasses.replace(config, **{part: changed})
        for probe in probes:
            assert cell_name(dataclasses.replace(config, probe=probe)) == path.name
    for field in dataclasses.fields(Probe):
        assert field.metadata["execution"]


def test_a_configuration_from_before_the_probe_can_be_read(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    from resnet_cifar.config.saved import to_yaml

    config = compose(TINY)
    plain = OmegaConf.create(to_yaml(config))
    del plain["probe"]
    OmegaConf.save(plain, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config


def test_when_and_which_updates() -> None:
    probe = Probe(epochs=5, images=2, val_images=2, angular_steps=4)
    assert [e for e in range(1, 13) if probe.due(e, 12)] == [1, 5, 10, 12]
    assert not any(dataclasses.replace(probe, epochs=0).due(e, 12) for e in range(1, 13))
    assert probe.measured_steps(100) == [24, 49, 74, 99]
    assert probe.measured_steps(3) == [0, 1, 2]


def test_the_batch_is_the_seed_s_alone() -> None:
    first, again, other = (CropFlip(4, 0.5).draws(seed, PROBE, 0, 50) for seed in (3, 3, 4))
    assert torch.equal(first.order, again.order)
    assert torch.equal(first.offset, again.offset)
    assert not torch.equal(first.order, other.order)
