"""Gradient flow, layer by layer: gradients, scale invariance, batch statistics, rotation.

The probe works on a copy of the model, so that training can't notice it. The identities, with
y = γx̂ + β and x̂ = (x − μ)/σ per channel: BatchNorm's gradient satisfies Σ ∂L/∂x = 0,
⟨∂L/∂x, x̂⟩ = 0 and w·∂L/∂w = 0 for each bias-free filter w before it (up to eps); detached
statistics break them one by one (detached_batchnorm.py).
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Weighted = nn.Conv2d | nn.Linear
Loss = Callable[[Tensor, Tensor], Tensor]
Row = dict[str, Any]  # of probe.jsonl


# Views of validation by what the network normalises by, and the running statistic that the batch's
# own replaces; None: both, which is training mode.
BATCH_STATISTICS = {
    "val_batch_statistics": None,
    "val_batch_mean": "running_mean",
    "val_batch_variance": "running_var",
}


def normalise_by_batch(model: nn.Module, buffer: str) -> None:
    """Let each BatchNorm of `model`, in evaluation mode, normalise by one statistic of its batch.

    `buffer`, running_mean or running_var, is overwritten by the batch's mean or biased variance
    before each batch; the other one stays as it is.
    """

    def overwrite(norm: Any, args: tuple[Tensor]) -> None:
        mean, variance = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
        # As the layer does in training, in float32 also of bfloat16. It writes unbiased variances.
        nn.functional.batch_norm(
            args[0], mean, variance, norm.weight, norm.bias, training=True, momentum=1.0
        )
        variance *= 1 - len(mean) / args[0].numel()
        setattr(norm, buffer, mean if buffer == "running_mean" else variance)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(overwrite)


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """List the layers that have filters, by name, in the order of definition."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Weighted)}


def inspect(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> list[Row]:
    """Measure every layer of `model`, by one batch forward and backward in training mode.

    `model` is left as it is. The arithmetic is the parameters' own, float32 in a run: identities
    that hold leave 1e-6 or less there, broken ones 1e-3 and more, and float64 would cost three
    times as much (128 images at width 16 on one core: 1.45 s against 0.47).

    Takes images x [n, 3, height, width], in the parameters' dtype, and labels y int64 [n]. Returns
    rows with `layer`, `kind` (conv, linear, norm, activation) and the numbers of `measure_weight`,
    `measure_norm` and `measure_activation`. Only BatchNorm has rows of kind norm.
    """
    model = copy.deepcopy(model).train()  # its parameters come without gradients
    rows: dict[str, Row] = {}
    for name, module in model.named_modules():
        kind = next((kind for kind, layer in KINDS.items() if isinstance(module, layer)), None)
        if kind is not None:
            row = rows[name] = {"layer": name, "kind": kind}
            if kind == "norm":
                _watch_norm(module, row)
            elif kind == "activation":
                _watch_relu(module, row)
    torch.autograd.backward(loss(model(x), y))
    for name, layer in weighted_layers(model).items():
        rows[name] |= measure_weight(layer.weight)
    # Read last: a read per number within the pass would make the device wait for the host.
    return [
        {key: v.item() if isinstance(v, Tensor) else v for key, v in row.items()}
        for row in rows.values()
    ]


def _watch_norm(norm: Any, row: Row) -> None:
    before = norm.running_mean.clone(), norm.running_var.clone()  # the forward pass moves them

    def see(_: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        x = args[0].detach()  # what the hook holds must not hold the graph that holds the hook
        args[0].register_hook(  # type: ignore[no-untyped-call]
            lambda dx: row.update(measure_norm(x, dx, norm.eps, *before))
        )

    norm.register_forward_hook(see)


def _watch_relu(relu: nn.Module, row: Row) -> None:
    relu.register_forward_hook(lambda _, args, out: row.update(measure_activation(out.detach())))


KINDS = {"conv": nn.Conv2d, "linear": nn.Linear, "norm": nn.BatchNorm2d, "activation": nn.ReLU}


def measure_weight(weight: Tensor) -> dict[str, Tensor]:
    """Measure a weight w [out, …] and its gradient ∇w (of the loss alone, without weight decay).

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


def measure_norm(
    x: Tensor, dx: Tensor, eps: float, running_mean: Tensor, running_var: Tensor
) -> dict[str, Tensor]:
    """Measure a norm layer's input x and its gradient ∂L/∂x, float [N, C, H, W].

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


def measure_activation(out: Tensor) -> dict[str, Tensor]:
    """Measure a ReLU's output float [N, C, H, W]: mean and standard deviation of its values, and
    the share of dead channels, those that are zero at every position of every image of the batch.
    """
    return {
        "activation_mean": out.mean(),
        "activation_std": out.std(correction=0),
        "activation_dead": (_by_channel(out).sum(0) == 0).to(out.dtype).mean(),
    }


def _by_channel(x: Tensor) -> Tensor:
    """Reshape [N, C, H, W] to [N·H·W, C]: no copy of channels_last, and the quicker reductions."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Divide a by b, giving 0 where both are: a channel without gradient breaks no identity."""
    return torch.where((a == 0) & (b == 0), 0.0, a / b)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between a and b, along the last dimension."""
    return _ratio((a * b).sum(-1), a.norm(dim=-1) * b.norm(dim=-1))


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def empty_rotations(model: nn.Module) -> Tensor:
    """Sums of an epoch's rotations, all zero: float64 [1 + layers] on the host.

    The number of measured updates, then for each of `weighted_layers` the sum over these updates of
    its filters' mean square rotation (rad²). A checkpoint holds them, so that a run interrupted
    within a probed epoch reports the same angles.
    """
    return torch.zeros(1 + len(weighted_layers(model)), dtype=torch.float64)


@contextmanager
def add_rotation(model: nn.Module, rotations: Tensor) -> Iterator[None]:
    """Add to `rotations` by what angles the update made inside turns the weights."""
    # Compared on the host, in float64, which not every device has.
    weights = [layer.weight.detach() for layer in weighted_layers(model).values()]
    before = [weight.to("cpu", copy=True) for weight in weights]
    yield
    rotations[0] += 1
    after = [weight.cpu() for weight in weights]
    rotations[1:] += torch.stack(list(map(rotation, before, after)))


def rotation(before: Tensor, after: Tensor) -> Tensor:
    """Mean square angle (rad², float64 []) between the filters of two weights [out, …].

    Per filter, as it is filters that are scale invariant, and unweighted, so that the prediction,
    which is the same for each, is one for the mean. From the chord: the arc cosine of nearly 1 has
    no digits left.
    """
    a, b = (nn.functional.normalize(w.double().flatten(1)) for w in (before, after))
    half_chord = (a - b).norm(dim=1) / 2
    return (2 * torch.asin(half_chord.clamp(max=1.0))).square().mean()


def angular_updates(
    model: nn.Module, optimizer: torch.optim.Optimizer, rotations: Tensor, lr: float
) -> dict[str, Row]:
    """Summarise the measured rotations of an epoch by layer, at the learning rate `lr`.

    angular_update: root mean square rotation (rad) over filters and measured updates; None if there
        was no update.
    angular_update_predicted: see `predicted_rotation`.
    effective_lr: lr/‖w‖².
    """
    count, *sums = rotations.tolist()
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {
        name: {
            "angular_update": math.sqrt(total / count) if count else None,
            "angular_update_predicted": predicted_rotation(groups[id(layer.weight)], lr),
            "effective_lr": lr / layer.weight.detach().square().sum().item(),
        }
        for (name, layer), total in zip(weighted_layers(model).items(), sums, strict=True)
    }


def predicted_rotation(group: dict[str, Any], lr: float) -> float | None:
    """Predict √(2·lr·wd/(1+m)): the root mean square angle (rad) by which SGD with momentum m turns
    a scale-invariant weight per step once its norm is in equilibrium; None for other optimizers.

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
