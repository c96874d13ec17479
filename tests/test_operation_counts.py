"""Golden counts of a training step's operations: one that somebody adds shows here.

Counted on a CPU, in bfloat16, of ResNet-18 in an epoch's second step: forward, backward, update.
A GPU does the same, by cuDNN where it can. Views and allocations launch nothing and are left out.
"""

from __future__ import annotations

from collections import Counter

import pytest
from test_fake_cuda import NORMS, OPTIMIZERS, SURROUNDINGS, Trace, together, trace

from resnet_cifar.model.options import ResNet18

__all__ = ["trace"]  # the fixture

ALLOCATIONS = {"empty", "empty_like", "new_empty_strided"}

NETWORK = {
    "convolution": 20,
    "convolution_backward": 20,
    "relu": 17,
    "threshold_backward": 17,
    "add": 16,  # 8 blocks: what the shortcut brings; the gradients of the block's two ways
    "mean": 1,  # pooling, and its gradient
    "div": 1,
    "addmm": 1,  # the head, and its gradients by input, weight and bias
    "mm": 2,
    "sum": 1,
    "_log_softmax": 1,  # the loss, and its gradient
    "nll_loss_forward": 1,
    "ones_like": 1,
    "nll_loss_backward": 1,
    "_log_softmax_backward_data": 1,
    # Casts. Forward: 21 weights and a bias, each once; the images; the logits. Backward: the
    # gradients of all these but the images. No activation is copied or cast.
    "_to_copy": 24 + 23,
}
BATCHNORM = {"native_batch_norm": 20, "native_batch_norm_backward": 20}
OF_NORM: dict[str, dict[str, int]] = {  # of 20 layers; no addition counts their batches
    "norm=batchnorm": BATCHNORM,
    "norm=groupnorm": {"native_group_norm": 20, "native_group_norm_backward": 20},
    "norm=none": {},
    # γ/σ, times Σ g, over n; added in place.
    "norm.detach=mean": {**BATCHNORM, "mul": 40, "div": 20, "add_": 20},
    # γ/σ, times 1/σ, times Σ g x̂, over n: the slope, minus that, times μ; a line; added in place.
    "norm.detach=var": {**BATCHNORM, "mul": 80, "div": 20, "neg": 20, "addcmul": 20, "add_": 20},
    # γ/σ, times g.
    "norm.detach=both": {**BATCHNORM, "mul": 40},
}
OF_OPTIMIZER = {  # all parameters at once
    "optimizer=sgd": {"_fused_sgd_": 1},
    "optimizer=adamw": {"_fused_adamw_": 1, "_foreach_add_": 1},  # that counts its steps
}
OF_SURROUNDING = {
    # The mean of the log-probabilities beside the label's, and its gradient: PyTorch's own.
    "regularization.label_smoothing=0.1": {
        **{"mul": 4, "sum": 3, "add": 2, "neg": 2, "div": 2},
        **{"eq": 1, "masked_fill_": 1, "bitwise_not": 1, "masked_fill": 1},
    },
    "regularization.ema_decay=0.9": {"_foreach_lerp_": 1},
    # The norm of all gradients, and of the norms; the factor, at most 1; the sums of an epoch.
    "regularization.clip_norm=1": {
        **{"_foreach_norm": 1, "stack": 2, "linalg_vector_norm": 1},
        **{"add": 1, "reciprocal": 1, "mul": 2, "clamp": 1, "_foreach_mul_": 1},
        **{"abs": 1, "ne": 1, "eq": 1, "gt": 1, "bitwise_and": 1},
        **{"scalar_tensor": 1, "where": 1, "add_": 1},
    },
}


@pytest.mark.parametrize(
    ("norm", "optimizer", "surrounding"), together(NORMS, OPTIMIZERS, SURROUNDINGS)
)
def test_a_step(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, norm: str, optimizer: str, surrounding: str
) -> None:
    monkeypatch.setattr(ResNet18, "BLOCKS", (2, 2, 2, 2))
    options = ["model.width=32", "trainer.precision=bf16", norm, optimizer, surrounding]
    _, second = trace("cpu", options).inside
    done = Counter(name.split(".")[1] for name in second)
    expected = Counter(NETWORK)
    for part in (OF_NORM[norm], OF_OPTIMIZER[optimizer], OF_SURROUNDING[surrounding]):
        expected.update(part)
    assert {name: n for name, n in done.items() if name not in ALLOCATIONS} == expected
