"""Schedules equal PyTorch's, where PyTorch has them; and a run follows its schedule."""

import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY, Program
from test_run import directory, lines
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resnet_cifar.config.compose import compose
from resnet_cifar.errors import ConfigError
from resnet_cifar.optim import scheduler
from resnet_cifar.optim.regularization import Regularization

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


# The rates that the updates of a run are made with ------------------------------------------------

RUN_EPOCHS, RUN_STEPS = 4, 4  # 64 images in batches of 16
RATES = (0.05, 0.002)  # of two parameter groups, matrices and vectors
# By schedule: its options, and the share of a group's own rate at an update of the run (from 0).
FORMULAS: dict[str, tuple[list[str], Callable[[int, float], float]]] = {
    "constant": ([], lambda update, lr: lr),
    "cosine": (
        ["scheduler.eta_min=0.001"],
        lambda update, lr: (
            0.001 + (lr - 0.001) * (1 + math.cos(math.pi * (update // RUN_STEPS) / RUN_EPOCHS)) / 2
        ),
    ),
    "step": (
        ["scheduler.step_size=2", "scheduler.gamma=0.3"],
        lambda update, lr: lr * 0.3 if update >= 2 * RUN_STEPS else lr,
    ),
    "milestones": (
        ["scheduler.milestones=[1,3]", "scheduler.factor=0.5"],
        lambda update, lr: lr * 0.5 ** ((update >= RUN_STEPS) + (update >= 3 * RUN_STEPS)),
    ),
    "one_cycle": (
        ["scheduler.pct_start=0.5", "scheduler.div_factor=10", "scheduler.final_div_factor=100"],
        lambda update, lr: (
            lr / 10 + (lr - lr / 10) * (1 - math.cos(math.pi * update / 7)) / 2
            if update <= 7
            else lr / 1000 + (lr - lr / 1000) * (1 + math.cos(math.pi * (update - 7) / 8)) / 2
        ),
    ),
}


@pytest.mark.parametrize("interrupted_after", [None, 6])
@pytest.mark.parametrize("kind", scheduler.OPTIONS, ids=lambda kind: kind.NAME)
def test_every_update_of_a_run_has_its_rate(
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[scheduler.Scheduler],
    interrupted_after: int | None,
) -> None:
    """In each parameter group, also of a run that was interrupted within its second epoch."""
    more, formula = FORMULAS[kind.NAME]
    options = [f"scheduler={kind.NAME}", "scheduler.warmup_epochs=0.75", *more]
    options += [f"trainer.epochs={RUN_EPOCHS}", f"optimizer.lr={RATES[0]}"]
    trace: list[list[float]] = []

    def groups(_: Regularization, model: nn.Module) -> list[dict[str, Any]]:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        return [{"params": matrices}, {"params": vectors, "lr": RATES[1]}]

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if all(bool((p.grad == 1).all()) for p in optimizer.param_groups[0]["params"]):
            return  # no update: it shows which form a checkpoint has to have
        trace.append([group["lr"] for group in optimizer.param_groups])
        if len(trace) == interrupted_after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Regularization, "parameter_groups", groups)
    hook = register_optimizer_step_pre_hook(note)
    try:
        codes = [program(*TINY, *options).code for _ in range(2 if interrupted_after else 1)]
    finally:
        hook.remove()
    assert codes == ([143, 0] if interrupted_after else [0])
    expected = [
        [formula(update, lr) * min(1.0, (update + 1) / 3) for lr in RATES]
        for update in range(RUN_EPOCHS * RUN_STEPS)
    ]
    assert trace == [pytest.approx(rates, rel=1e-9) for rates in expected]
    recorded = [line["lr"] for line in lines(directory(*options))]
    assert recorded == [trace[epoch * RUN_STEPS - 1][0] for epoch in range(1, RUN_EPOCHS + 1)]
