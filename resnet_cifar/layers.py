"""Batch normalisation with batch statistics kept out of the graph.

With y = γ x̂ + β, x̂ = (x − μ)/σ and g = ∂L/∂y, over N, H, W of each channel:

    none    ∂L/∂x = (γ/σ) (g − mean g − x̂ mean(g x̂))
    var     ∂L/∂x = (γ/σ) (g − mean g)
    mean    ∂L/∂x = (γ/σ) (g          − x̂ mean(g x̂))
    both    ∂L/∂x = (γ/σ)  g

The forward pass is the same for all four. PyTorch has fused kernels for the first (training mode)
and the last (evaluation mode, fed with the batch's own statistics); the other two are these plus or
minus a term that is zero forward and (γ/σ) mean g backward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DetachedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch mean, variance, or both are constants in the backward pass.

    Input and output: float [N, C, H, W]. Evaluation mode is BatchNorm2d's. Running statistics are
    updated as BatchNorm2d does: momentum 0.1 by default, unbiased variance.

    Args:
        detach: "mean", "var" or "both".

    Raises:
        ValueError: an unknown `detach`; in training, one value per channel (as BatchNorm2d).
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
            return super().forward(x)
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(f"expected more than 1 value per channel, got shape {tuple(x.shape)}")
        dims = (0, 2, 3)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        with torch.no_grad():
            # Statistics in float32 at least: under autocast x may be bfloat16.
            wide = x if x.dtype == torch.float64 else x.float()
            var, mean = torch.var_mean(wide, dim=dims, correction=0)
        if self.detach == "mean":
            # The training kernel updates running mean and variance itself.
            y = F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=True,
                momentum=self.momentum or 0.0,
                eps=self.eps,
            )
        else:
            self._update_running_statistics(mean, var * (count / (count - 1)))
            y = F.batch_norm(
                x, mean, var, self.weight, self.bias, training=False, momentum=0.0, eps=self.eps
            )
        if self.detach == "both":
            return y
        live = x.mean(dims)
        scale = (self.weight * torch.rsqrt(var + self.eps)).detach()
        zero = ((live - live.detach()) * scale)[None, :, None, None].to(y.dtype)
        return y + zero if self.detach == "mean" else y - zero

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum or 0.0)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), self.momentum or 0.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, detach={self.detach}"  # type: ignore[no-untyped-call]
