"""An epoch's sums: added up as they have been since the first recorded run, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resnet_cifar.compute.epoch_sums import EpochSums

CPU = torch.device("cpu")
COUNTS = [7] * 40 + [3]  # images in each batch


def drawn() -> list[tuple[Tensor, Tensor]]:
    """A mean loss float32 [] and correct bool [n] for each batch; sums that float32 would round."""
    source = torch.Generator().manual_seed(0)
    return [
        (10 ** (8 * torch.rand((), generator=source) - 4), torch.rand(n, generator=source) < 0.3)
        for n in COUNTS
    ]


def by_step(batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Summed in float64 at every step, which is how a device did it that has float64."""
    totals = torch.zeros(2, dtype=torch.float64)
    for loss, correct in batches:
        totals[0] += loss * len(correct)
        totals[1] += correct.sum()
    return totals.tolist()


def test_read_once_or_at_every_step_the_same_bits() -> None:
    batches = drawn()
    once, often = EpochSums(len(COUNTS), 7, CPU), EpochSums(len(COUNTS), 7, CPU)
    for step, batch in enumerate(batches):
        once.keep(step, *batch)
        often.keep(step, *batch)
        assert list(often.read(step + 1)) == by_step(batches[: step + 1])
    assert list(once.read(len(COUNTS))) == by_step(batches)
    in_float32 = torch.stack([loss * len(correct) for loss, correct in batches]).sum()
    assert in_float32.item() != by_step(batches)[0]


@pytest.mark.parametrize("at", [0, 1, 17, len(COUNTS)])
def test_a_checkpoint_s_totals_are_gone_on_from(at: int) -> None:
    """Checkpoints hold float64 [2], from the first version on: summed loss, correct images."""
    batches = drawn()
    saved = torch.tensor(by_step(batches[:at]), dtype=torch.float64)
    epoch_sums = EpochSums(len(COUNTS), 7, CPU)
    epoch_sums.restore(saved, at)
    assert torch.equal(epoch_sums.totals(at), saved)
    assert epoch_sums.totals(at).dtype == torch.float64
    for step, batch in enumerate(batches[at:], at):
        epoch_sums.keep(step, *batch)
    assert epoch_sums.totals(len(COUNTS)).tolist() == by_step(batches)


def test_the_next_epoch_begins_with_nothing() -> None:
    batches = drawn()
    epoch_sums = EpochSums(len(COUNTS), 7, CPU)
    for epoch in (batches, batches[::-1][1:] + batches[-1:]):
        for step, batch in enumerate(epoch):
            epoch_sums.keep(step, *batch)
        assert list(epoch_sums.read(len(COUNTS))) == by_step(epoch)
        epoch_sums.clear()
        assert epoch_sums.read(0) == (0.0, 0.0)


def test_a_number_on_the_device_names_the_same_row() -> None:
    """As captured steps have it; also where an update gets shares of images right, by mixup."""
    by_host, by_device = EpochSums(len(COUNTS), 7, CPU), EpochSums(len(COUNTS), 7, CPU)
    for step, (loss, correct) in enumerate(drawn()):
        worth = correct if step % 2 else correct * 0.3
        by_host.keep(step, loss, worth)
        by_device.keep(torch.tensor([step]), loss, worth)
    assert by_device.read(len(COUNTS)) == by_host.read(len(COUNTS))
