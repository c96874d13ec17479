"""Schedules equal PyTorch's, where PyTorch has them."""

import pytest
import torch
from torch.optim import lr_scheduler

from resnet_cifar.config.compose import compose
from resnet_cifar.errors import ConfigError

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


@pytest.mark.parametrize("start", [0.05, 0.25, 0.3, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 20])
def test_one_cycle_of_few_steps(steps: int, start: float) -> None:
    """Also where the rise or the fall is shorter than a step, and where PyTorch divides by zero."""
    schedule = compose(["scheduler=one_cycle", f"scheduler.pct_start={start}"]).scheduler
    found = [schedule.build(LR, 1, steps)(step) for step in range(steps)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    arguments = {"max_lr": LR, "total_steps": steps, "cycle_momentum": False}
    if start * steps == 1:
        assert found[0] == LR
        assert found[-1] == pytest.approx(LR if steps == 1 else LR / 25 / 1e4)
        return
    theirs = lr_scheduler.OneCycleLR(optimizer, pct_start=start, **arguments)
    expected = [theirs.get_last_lr()[0]]
    for _ in range(steps - 1):
        optimizer.step()
        theirs.step()
        expected.append(theirs.get_last_lr()[0])
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_step_schedule_may_keep_its_rate() -> None:
    assert ours("scheduler=step", "scheduler.gamma=1") == [LR] * EPOCHS * STEPS


@pytest.mark.parametrize("value", ["-0.1", "0", "1.001", "2"])
def test_gamma_only_lowers_the_rate(value: str) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.gamma=.* above 0, at most 1"):
        ours("scheduler=step", f"scheduler.gamma={value}")


@pytest.mark.parametrize("name", ["div_factor", "final_div_factor"])
def test_factors_of_one_cycle_are_one_or_more(name: str) -> None:
    rates = ours("scheduler=one_cycle", f"scheduler.{name}=1")
    assert max(rates) == pytest.approx(LR, rel=1e-2)
    for value in ("0.999", "0.5", "0", "-2", "inf", "nan"):
        with pytest.raises(ConfigError, match=rf"scheduler\.{name}=.*1 or more"):
            ours("scheduler=one_cycle", f"scheduler.{name}={value}")
