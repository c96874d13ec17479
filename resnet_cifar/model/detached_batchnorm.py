"""Batch normalisation with batch statistics kept out of the graph.

With y = γ x̂ + β, x̂ = (x − μ)/σ and g = ∂L/∂y, over N, H, W of each channel:

    none    ∂L/∂x = (γ/σ) (g − mean g − x̂ mean(g x̂))
    var     ∂L/∂x = (γ/σ) (g − mean g)
    mean    ∂L/∂x = (γ/σ) (g          − x̂ mean(g x̂))
    both    ∂L/∂x = (γ/σ)  g

The forward pass is the same for all four, and so are ∂L/∂γ = Σ g x̂ and ∂L/∂β = Σ g, which PyTorch's
backward kernel returns beside the first line's ∂L/∂x. So one more pass over the activations gives
each of the other lines.

Detaching what is written to the running statistics is a well-known wrong implementation: those are
outside the graph anyway, and the layer is BatchNorm. The identities tell: in BatchNorm Σ ∂L/∂x = 0
(the mean's term) and ⟨∂L/∂x, x̂⟩ = 0 but for eps (the variance's). With the mean detached the first
becomes (γ/σ) ∂L/∂β, with the variance detached the second becomes (γ/σ) ∂L/∂γ.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class DetachedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch mean, variance, or both are constants in the backward pass.

    Input and output: float [N, C, H, W]. Evaluation mode is BatchNorm2d's. Running statistics are
    updated as BatchNorm2d does: momentum 0.1 by default, unbiased variance.

    Raises ValueError: `detach` is not "mean", "var" or "both"; in training, one value per channel.
    """

    def __init__(
        self, channels: int, detach: str = "both", eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        if detach not in ("mean", "var", "both"):
            raise ValueError(f"detach={detach!r}: mean, var or both")
        self.detach = detach

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # running statistics are constants: nothing to detach
        if x.numel() // x.shape[1] < 2:
            raise ValueError(f"expected more than 1 value per channel, got shape {tuple(x.shape)}")
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.momentum)
        y: Tensor = _Normalise.apply(x, self.weight, self.bias, *running, self.eps, self.detach)
        return y


class _Normalise(torch.autograd.Function):
    """Training-mode batch normalisation, backward with the terms of `detach` left out."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor,
        running_var: Tensor, momentum: float, eps: float, detach: str,
    ) -> Tensor:  # fmt: skip
        y, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        # The batch's statistics, in float32 also where x is bfloat16; x̂ is computed from x again.
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.eps, ctx.detach = eps, detach
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        both = ctx.detach == "both"
        # PyTorch's own kernel sums Σ g and Σ g x̂ in any case. Its ∂L/∂x, which costs another pass
        # over the activations, is asked for only where one of the two terms stays.
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, inverse_std, True, ctx.eps, [not both, True, True]
        )
        scale = weight * inverse_std  # γ/σ
        count = x.numel() // x.shape[1]
        if both:
            dx = g * _per_channel(scale)
        elif ctx.detach == "mean":  # give back (γ/σ) mean g: Σ ∂L/∂x is no longer 0
            dx += _per_channel(scale * dbias / count)
        else:  # give back (γ/σ) x̂ mean(g x̂), x̂ = (x − μ)/σ being a line in x: ⟨∂L/∂x, x̂⟩ is not 0
            slope = scale * inverse_std * dweight / count
            dx += torch.addcmul(_per_channel(-slope * mean), x, _per_channel(slope))
        return dx, dweight, dbias, None, None, None, None, None


def _per_channel(values: Tensor) -> Tensor:
    """Reshape [C] to [1, C, 1, 1]."""
    return values[None, :, None, None]
