"""One training step, one pass over a view, and what logits are worth.

What training, evaluation, the probe and the benchmark have in common.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.data.augmentation import Draws
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.device import Compute


def update(
    x: Tensor,
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    compute: Compute,
) -> tuple[Tensor, Tensor]:
    """Forward, backward, optimizer step on images [n, 3, 32, 32] and labels [n].

    Returns:
        The batch's loss [] and logits [n, classes], without a graph, still on their way.
    """
    with compute.autocast():
        logits = forward(x)
        loss = loss_function(logits, y)
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), logits.detach()


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: DeviceImages,
    draws: Draws,
    compute: Compute,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
    training: bool = False,
) -> Tensor:
    """Logits float32 [n, classes] of a view, in evaluation mode; on the host, by one read.

    Args:
        draws: of `images`, on the host.
        between: called after every batch; it may raise to stop.
        training: in training mode instead, which changes the model's running statistics.
    """
    model.train(training)
    view = images.view(draws)
    parts = []
    for start in range(0, len(view), batch_size):
        x, _ = images.batch(view, start, start + batch_size)
        with compute.autocast():
            parts.append(model(x).float())
        between()
    return torch.cat(parts).cpu()


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of logits [n, classes] on the host.

    In float64, which not every device has.
    """
    loss = F.cross_entropy(logits.double(), labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": accuracy.item(), "loss": loss.item()}


def score_views(logits: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    """`score` of every view, as metrics: `accuracy/<view>`, `loss/<view>`."""
    return {
        f"{name}/{view}": value
        for view, of_view in logits.items()
        for name, value in score(of_view, labels).items()
    }
