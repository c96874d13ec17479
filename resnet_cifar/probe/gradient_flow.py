"""What the probe measures, layer by layer: gradients, scale invariance, batch statistics.

Everything happens in a copy of the model, so that training cannot notice. The identities, with
y = γx̂ + β and x̂ = (x − μ)/σ per channel: BatchNorm's gradient satisfies Σ ∂L/∂x = 0,
⟨∂L/∂x, x̂⟩ = 0 and w·∂L/∂w = 0 for each bias-free filter w before it (up to eps); detached
statistics break them one by one (detached_batchnorm.py).
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cifar.compute.device import Compute, full_float32
from resnet_cifar.compute.step import predict, score
from resnet_cifar.data.augmentation import PROBE
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.optim.scheduler import Schedule
from resnet_cifar.probe.options import Probe

Weighted = nn.Conv2d | nn.Linear


@dataclass
class GradientFlow:
    """The probe of one run: which epochs and updates it looks at, and what it sees there."""

    options: Probe
    epochs: int
    steps: int  # updates in an epoch
    seed: int
    loss: Callable[[Tensor, Tensor], Tensor]
    schedule: Schedule
    train: DeviceImages
    val: DeviceImages
    batch_size: int
    compute: Compute
    model: nn.Module
    account: Tensor  # this epoch's measured rotations: `rotations`

    def due(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 1) is looked at."""
        return self.options.due(epoch, self.epochs)

    def watch(self, epoch: int, step: int) -> contextlib.AbstractContextManager[None]:
        """Around an update: measures by what angles it turns the weights, if it is one of those."""
        if self.due(epoch) and step in self.options.measured_steps(self.steps):
            return rotating(self.model, self.account)
        return contextlib.nullcontext()

    def examine(
        self, epoch: int, optimizer: torch.optim.Optimizer, between: Callable[[], None]
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Look at the network as `epoch` left it.

        Args:
            between: called after every batch of validation; it may raise to stop.

        Returns:
            Rows for probe.jsonl, one a layer; metrics of the epoch.
        """
        start = time.perf_counter()
        draws = self.train.augmentation.draws(self.seed, PROBE, 0, len(self.train))
        x, y = self.train.batch(self.train.view(draws), 0, self.options.images)
        with full_float32():
            rows = inspect(self.model, x, y, self.loss)
        measured = self.options.measured_steps(self.steps)
        rates = [self.schedule((epoch - 1) * self.steps + step) for step in measured]
        turned = angular_updates(self.model, optimizer, self.account, sum(rates) / len(rates))
        batchnorm = any(row["kind"] == "norm" for row in rows)
        metrics = self._validate_with_batch_statistics(between) if batchnorm else {}
        where = {"epoch": epoch, "step": epoch * self.steps}
        rows = [where | row | turned.get(row["layer"], {}) for row in rows]
        return rows, {**metrics, "speed/probe_seconds": time.perf_counter() - start}

    def _validate_with_batch_statistics(self, between: Callable[[], None]) -> dict[str, float]:
        """Clean validation, normalised as in training: batches about as large, their statistics.

        Where `loss/val` is large and this is not, it is the running statistics that lag.
        """
        images = min(self.options.val_images, len(self.val))
        size = math.ceil(images / math.ceil(images / self.batch_size))  # no small last batch
        draws = self.val.augmentation.clean(len(self.val)).part(0, images)
        model = copy.deepcopy(self.model)  # in training mode it moves its running statistics
        logits = predict(model, self.val, draws, self.compute, size, between, training=True)
        scores = score(logits, self.val.labels[:images])
        return {f"{name}/val_batch_statistics": value for name, value in scores.items()}


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """The layers that have filters, by name, in the order of definition."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Weighted)}


def inspect(
    model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> list[dict[str, Any]]:
    """One row per layer of `model`, from one batch forward and backward in training mode.

    `model` is left as it is. The arithmetic is the parameters' own, float32 in a run: identities
    that hold leave 1e-6 or less there, broken ones 1e-3 and more, and float64 would cost three
    times as much (128 images at width 16 on one core: 1.45 s against 0.47).

    Args:
        x: images [n, 3, height, width], in the parameters' dtype.
        y: labels int64 [n].

    Returns:
        Rows with `layer`, `kind` (conv, linear, norm, activation) and numbers as `_weights`,
        `_norm` and `_activation` give them. Only BatchNorm has rows of kind norm.
    """
    model = copy.deepcopy(model).train()
    model.zero_grad(set_to_none=True)
    rows: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        kind = next((kind for kind, of in KINDS.items() if isinstance(module, of)), None)
        if kind is not None:
            rows[name] = {"layer": name, "kind": kind}
            if kind in WATCH:
                WATCH[kind](module, rows[name])
    torch.autograd.backward(loss(model(x), y))
    for name, layer in weighted_layers(model).items():
        rows[name] |= _weights(layer.weight)
    return [
        {key: v.item() if isinstance(v, Tensor) else v for key, v in row.items()}
        for row in rows.values()
    ]


def _watch_norm(norm: nn.BatchNorm2d, row: dict[str, Any]) -> None:
    running = norm.running_mean, norm.running_var
    assert running[0] is not None
    assert running[1] is not None
    before = running[0].clone(), running[1].clone()  # the forward pass moves them

    def see(_: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        x = args[0].detach()  # what the hook holds must not hold the graph that holds the hook
        args[0].register_hook(  # type: ignore[no-untyped-call]
            lambda dx: row.update(_norm(x, dx, norm.eps, *before))
        )

    norm.register_forward_hook(see)


def _watch_relu(relu: nn.ReLU, row: dict[str, Any]) -> None:
    relu.register_forward_hook(lambda _, args, out: row.update(_activation(out.detach())))


KINDS = {"conv": nn.Conv2d, "linear": nn.Linear, "norm": nn.BatchNorm2d, "activation": nn.ReLU}
WATCH: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "norm": _watch_norm,
    "activation": _watch_relu,
}


def _weights(weight: Tensor) -> dict[str, Tensor]:
    """Of a weight w [out, …] with a gradient ∇w (of the loss alone, without weight decay):

    weight_norm, gradient_norm: ‖w‖, ‖∇w‖.
    radial: w·∇w/(‖w‖‖∇w‖) of the whole layer; below 0, a step along −∇w lengthens w.
    radial_rms: the same of each filter, root mean square over filters. It is filters that BatchNorm
        makes scale invariant, and a layer's sum could cancel.
    """
    assert weight.grad is not None
    w, g = weight.detach().flatten(1), weight.grad.flatten(1)
    return {
        "weight_norm": w.norm(),
        "gradient_norm": g.norm(),
        "radial": _cosine(w.flatten(), g.flatten()),
        "radial_rms": _rms(_cosine(w, g)),
    }


def _norm(
    x: Tensor, dx: Tensor, eps: float, running_mean: Tensor, running_var: Tensor
) -> dict[str, Tensor]:
    """Of a norm layer's input x and its gradient ∂L/∂x, float [N, C, H, W].

    Cosines and gaps are per channel, then the root mean square over channels. σ = √(var + eps),
    which is what the layer divides by.

    gradient_norm: ‖∂L/∂x‖ of the whole layer.
    sum_cosine: Σ∂L/∂x/(‖∂L/∂x‖‖1‖), the cosine of the gradient with a shift.
    xhat_cosine: ⟨∂L/∂x, x̂⟩/(‖∂L/∂x‖‖x̂‖), the cosine with a scaling.
    mean_over_std: |μ|/σ.
    std_min, std_max: the channels' smallest and largest σ.
    running_mean_gap: |running mean − μ|/σ.
    running_var_gap: |ln((running variance + eps)/(v + eps))|, v the unbiased variance of the batch.
    """
    x, dx = _by_channel(x), _by_channel(dx)
    count = len(x)
    mean = x.mean(0)
    centred = x - mean
    var = centred.square().mean(0)
    std = torch.sqrt(var + eps)
    unbiased = var * (count / (count - 1))
    length = dx.square().sum(0).sqrt()
    return {
        "gradient_norm": length.norm(),
        "sum_cosine": _rms(_ratio(dx.sum(0), length * math.sqrt(count))),
        "xhat_cosine": _rms(_ratio((centred * dx).sum(0), length * torch.sqrt(count * var))),
        "mean_over_std": _rms(mean / std),
        "std_min": std.min(),
        "std_max": std.max(),
        "running_mean_gap": _rms((running_mean - mean) / std),
        "running_var_gap": _rms(torch.log((running_var + eps) / (unbiased + eps))),
    }


def _activation(out: Tensor) -> dict[str, Tensor]:
    """Of a ReLU's output float [N, C, H, W]: mean and standard deviation of its values, and the
    share of dead channels, those that are zero at every place of every image of the batch.
    """
    return {
        "activation_mean": out.mean(),
        "activation_std": out.std(correction=0),
        "activation_dead": (_by_channel(out).sum(0) == 0).to(out.dtype).mean(),
    }


def _by_channel(x: Tensor) -> Tensor:
    """[N, C, H, W] as [N·H·W, C]: no copy of channels_last, and the quicker reductions."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where both are: a channel without gradient breaks no identity."""
    return torch.where((a == 0) & (b == 0), 0.0, a / b)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Along the last dimension."""
    return _ratio((a * b).sum(-1), a.norm(dim=-1) * b.norm(dim=-1))


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def rotations(model: nn.Module) -> Tensor:
    """An empty account for `rotating`: float64 [1 + layers] on the host, updates counted and then,
    for each of `weighted_layers`, the sum over these updates of the filters' mean square rotation
    (rad²).
    """
    return torch.zeros(1 + len(weighted_layers(model)), dtype=torch.float64)


@contextlib.contextmanager
def rotating(model: nn.Module, account: Tensor) -> Iterator[None]:
    """Enter in `account` by what angles the update made inside turns the weights.

    They are read before it and after, to be compared in float64, which not every device has.
    """
    layers = list(weighted_layers(model).values())
    before = _read(layers)
    yield
    account[0] += 1
    pairs = zip(before, _read(layers), strict=True)
    account[1:] += torch.stack([rotation(*pair) for pair in pairs])


def _read(layers: list[Weighted]) -> list[Tensor]:
    """Copies of the layers' weights on the host, by one read."""
    weights = [layer.weight.detach() for layer in layers]
    flat = torch.cat([weight.flatten() for weight in weights]).cpu()
    parts = torch.split(flat, [weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def rotation(before: Tensor, after: Tensor) -> Tensor:
    """Mean square angle (rad², float64 []) between the filters of two weights [out, …].

    Per filter, as it is filters that are scale invariant, and unweighted, so that the prediction,
    which is the same for each, is one for the mean. From the chord: the arc cosine of nearly 1 has
    no digits left.
    """
    a, b = (nn.functional.normalize(w.double().flatten(1)) for w in (before, after))
    chord = (a - b).norm(dim=1)
    return (2 * torch.asin((chord / 2).clamp(max=1.0))).square().mean()


def angular_updates(
    model: nn.Module, optimizer: torch.optim.Optimizer, account: Tensor, lr: float
) -> dict[str, dict[str, Any]]:
    """By layer, at the learning rate `lr`:

    angular_update: root mean square rotation (rad) over filters and measured updates; None if there
        was no update.
    angular_update_predicted: see `predicted_rotation`.
    effective_lr: lr/‖w‖².
    """
    count, *sums = account.tolist()
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {
        name: {
            "angular_update": math.sqrt(total / count) if count else None,
            "angular_update_predicted": predicted_rotation(group_of[id(layer.weight)], lr),
            "effective_lr": lr / layer.weight.detach().square().sum().item(),
        }
        for (name, layer), total in zip(weighted_layers(model).items(), sums, strict=True)
    }


def predicted_rotation(group: dict[str, Any], lr: float) -> float | None:
    """√(2·lr·wd/(1+m)): the root mean square angle (rad) by which SGD with momentum m turns a
    scale-invariant weight per step once its norm is in equilibrium; None for other optimizers.

    Kosson et al. 2024, "Rotational equilibrium"; Wan et al. 2021, "Spherical motion dynamics". A
    gradient g ⊥ w moves w by lr·g/(1 − m) in all, so ‖w‖² grows by lr²‖g‖²/(1 − m)² and decays by
    2·lr·wd‖w‖²/(1 − m) per step: ‖g‖²/‖w‖² = 2·wd(1 − m)/lr at equilibrium. One step is
    lr·Σ mᵏ g₋ₖ, of mean square lr²‖g‖²/(1 − m²) if successive gradients are uncorrelated. That they
    are, and that w feeds a norm layer with live statistics, is what the prediction rests on.
    """
    if "momentum" not in group or group["nesterov"]:
        return None
    lr = lr * (1 - group["dampening"])
    return math.sqrt(2 * lr * group["weight_decay"] / (1 + group["momentum"]))
