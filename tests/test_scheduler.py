"""Schedules equal PyTorch's, where PyTorch has them."""

import pytest
import torch
from torch.optim import lr_scheduler

from resnet_cifar.config import compose

EPOCHS, STEPS, LR = 12, 7, 0.02


def ours(*overrides: str) -> list[float]:
    config = compose(list(overrides))
    schedule = config.scheduler.build(LR, EPOCHS, STEPS)
    return [schedule(step) for step in range(EPOCHS * STEPS)]


def theirs(make, every_step: bool) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(optimizer)
    values = []
    for step in range(EPOCHS * STEPS):
        values.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step + 1 < EPOCHS * STEPS and (every_step or (step + 1) % STEPS == 0):
            scheduler.step()
    return values


def test_constant() -> None:
    assert ours() == [LR] * EPOCHS * STEPS


@pytest.mark.parametrize("eta_min", [0.0, 0.003])
def test_cosine(eta_min: float) -> None:
    expected = theirs(
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS, eta_min=eta_min), False
    )
    assert ours("scheduler=cosine", f"scheduler.eta_min={eta_min}") == pytest.approx(
        expected, rel=1e-9
    )


def test_step() -> None:
    expected = theirs(lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.2), False)
    found = ours("scheduler=step", "scheduler.step_size=5", "scheduler.gamma=0.2")
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("start", [0.3, 0.11])
def test_one_cycle(start: float) -> None:
    expected = theirs(
        lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=LR, total_steps=EPOCHS * STEPS, pct_start=start, cycle_momentum=False
        ),
        True,
    )
    found = ours("scheduler=one_cycle", f"scheduler.pct_start={start}")
    assert found == pytest.approx(expected, rel=1e-9)


def test_warmup_rises_linearly_and_then_leaves_the_schedule_alone() -> None:
    plain, warm = ours("scheduler=cosine"), ours("scheduler=cosine", "scheduler.warmup_epochs=2")
    assert warm[: 2 * STEPS] == pytest.approx(
        [value * (step + 1) / (2 * STEPS) for step, value in enumerate(plain[: 2 * STEPS])]
    )
    assert warm[2 * STEPS :] == plain[2 * STEPS :]


def test_one_cycle_of_one_step_has_no_division_by_zero() -> None:
    schedule = compose(["scheduler=one_cycle"]).scheduler.build(LR, 1, 1)
    assert 0 < schedule(0) <= LR
