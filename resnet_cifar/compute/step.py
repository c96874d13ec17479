"""One training step, one pass over a view, the scores of logits."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.compute.captured import Captured
from resnet_cifar.compute.device import Compute
from resnet_cifar.data.images import SIZE, DeviceImages, View
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

    Returns its loss [] and logits [n, classes], without a graph. Nothing waits for the device.
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


def infer(
    model: nn.Module, images: DeviceImages, compute: Compute, view: View, at: slice | Tensor
) -> Tensor:
    """Compute the logits float32 [n, classes] of positions `at` of a view."""
    x = images.batch(view, at)[0]
    with compute.autocast():
        logits: Tensor = model(x).float()
    return logits


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: DeviceImages,
    view: View,
    compute: Compute,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
    training: bool = False,
    captured: Captured | None = None,
) -> Tensor:
    """Compute the logits float32 [n, classes] of a view, in evaluation mode; on the host.

    Args:
        batch_size: 0: as `eval_batch` says.
        between: called after every batch; it may raise to stop.
        training: in training mode instead, which changes the model's running statistics.
        captured: runs `infer` in batches of this size.
    """
    model.train(training)
    size = batch_size or eval_batch(model, compute)
    parts = []
    for number in range(math.ceil(len(view) / size)):
        at = slice(number * size, (number + 1) * size)
        part = captured(view, number) if captured else infer(model, images, compute, view, at)
        parts.append(part.clone() if captured else part)
        between()
    return torch.cat(parts).cpu()


def eval_batch(model: nn.Module, compute: Compute) -> int:
    """Choose the images of a batch: 500 on a CPU, on a GPU what a sixteenth of its memory holds.

    2,500 at most. Of the memory there is, not of what is free: a resumed run computes the same.
    """
    if compute.device.type != "cuda":
        return 500
    channels = (m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    # Six activations of the first stage in float32; a model of one's own may have no convolution.
    image = 6 * 4 * SIZE**2 * min(channels, default=64)
    memory = torch.cuda.get_device_properties(compute.device).total_memory
    return max(100, min(2500, memory // 16 // image))


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of logits [n, classes] on the host."""
    # In float64, which not every device has.
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
