"""One training step, one pass over a view, the scores of logits.

Training, evaluation, the probe and the benchmark share them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.compute.device import Compute
from resnet_cifar.data.augmentation import AugmentationDraw
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.optim.optimizer_step import OptimizerStep


def update(
    x: Tensor,
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer_step: OptimizerStep,
    compute: Compute,
) -> tuple[Tensor, Tensor]:
    """Forward, backward, optimizer step on images [n, 3, 32, 32] and labels [n] or [n, classes].

    Returns:
        The batch's loss [] and logits [n, classes], without a graph; nothing waits for the device.
    """
    with compute.autocast():
        logits = forward(x)
        loss = loss_function(logits, y)
    optimizer_step.step(loss)
    return loss.detach(), logits.detach()


def correctness(logits: Tensor, y: Tensor) -> Tensor:
    """Per-image correctness [n]; for mixed labels, the label's share of the predicted class."""
    predicted = logits.argmax(1)
    return predicted == y if y.ndim == 1 else y.gather(1, predicted[:, None])[:, 0]


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: DeviceImages,
    draws: AugmentationDraw,
    compute: Compute,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
    training: bool = False,
) -> Tensor:
    """Compute the logits float32 [n, classes] of a view, in evaluation mode; on the host.

    Args:
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

    Computed in float64, which not every device has.
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
