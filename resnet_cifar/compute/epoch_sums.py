"""Running sums of loss and correct predictions of one epoch, kept on the device and read once."""

import torch
from torch import Tensor


class EpochSums:
    """Summed loss and correct predictions of the updates made so far in an epoch.

    The device keeps a row for each update: its batch's summed loss, then 1 for each image it got
    right. The host reads the rows in one piece and adds the losses in the order of the updates, in
    float64, which not every device has.
    """

    def __init__(self, steps: int, batch_size: int, device: torch.device) -> None:
        self._rows = torch.zeros(steps, 1 + batch_size, device=device)  # float32
        self._numbers = torch.arange(steps, device=device)
        self.clear()

    def clear(self) -> None:
        """Begin an epoch."""
        self._loss, self._correct, self._read = 0.0, 0.0, 0

    def keep(self, step: int | Tensor, loss: Tensor, correct: Tensor) -> None:
        """Note update `step`, in two kernels and without waiting for the device.

        `step` may be on the device, int64 [1], in five kernels. `loss` [] is the batch's mean,
        and `correct` [n] the `correctness` of its images.
        """
        count = len(correct)
        if isinstance(step, Tensor):
            noted = torch.cat([(loss * count)[None], correct])  # in float32
            rows, here = self._rows[:, : 1 + count], (self._numbers == step)[:, None]
            # Not index_copy_: deterministic, it may read the index's range on the host.
            torch.where(here, noted, rows, out=rows)
            return
        row = self._rows[step]
        torch.mul(loss, count, out=row[0])
        row[1 : 1 + count].copy_(correct)

    def read(self, steps: int) -> tuple[float, float]:
        """Summed loss (nats) and correct images of the first `steps` updates; waits for them."""
        for loss, *correct in self._rows[self._read : steps].cpu().tolist():
            self._loss += loss
            self._correct += sum(correct)
        self._read = steps
        return self._loss, self._correct

    def totals(self, steps: int) -> Tensor:
        """The sums of the first `steps` updates for a checkpoint: float64 [2] on the host."""
        return torch.tensor(self.read(steps), dtype=torch.float64)

    def restore(self, totals: Tensor, steps: int) -> None:
        """Go on from `totals` of the first `steps` updates."""
        (self._loss, self._correct), self._read = totals.tolist(), steps
