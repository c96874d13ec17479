"""The precision of `auto` on a CPU: measured once, then what the runs' records say."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY as FLOAT32
from conftest import Program
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cifar.compute import device
from resnet_cifar.compute.cpu import cpu_name
from resnet_cifar.compute.device import convolutions, faster, precision_seconds
from resnet_cifar.compute.options import Trainer
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.record.schema import VERSION, RunRecord, Session, write_record
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.run import MOST_READ, VOTES, known_precision

TINY = [option for option in FLOAT32 if not option.startswith("trainer.precision")]


@pytest.fixture(autouse=True)
def _nothing_measured_before() -> Iterator[None]:
    precision_seconds.cache_clear()
    yield
    precision_seconds.cache_clear()


def trainer(*overrides: str) -> Trainer:
    return compose(["trainer.device=cpu", *overrides]).trainer


def measures(patch: pytest.MonkeyPatch, bf16: float) -> None:
    """Have the measurement find that float32 takes a second and bfloat16 so many."""
    found = {"fp32": 1.0, "bf16": bf16}
    patch.setattr(device, "precision_seconds", lambda *of: found)


def refuse(*of: Any) -> None:
    raise AssertionError("it was measured")


@pytest.mark.parametrize(
    ("bf16", "expected"),
    [
        (0.5, "bf16"),  # AVX512-BF16 on AMD, AMX
        (0.86, "bf16"),
        (0.88, "fp32"),  # not clearly faster: then the digits count
        (1.5, "fp32"),  # AVX512-BF16 on a Xeon without AMX
    ],
)
def test_bfloat16_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, expected: str
) -> None:
    measures(monkeypatch, bf16)
    found = device.resolve(trainer())
    assert (found.precision, found.precision_seconds) == (expected, {"fp32": 1.0, "bf16": bf16})
    for begun in ("fp32", "bf16"):
        again = device.resolve(trainer(), begun=begun)
        assert (again.precision, again.precision_seconds) == (begun, {})
        assert device.resolve(trainer(f"trainer.precision={begun}")).precision == begun


@pytest.mark.parametrize(
    "seconds", [{}, {"fp32": 0.0, "bf16": 0.0}, {"fp32": 0.1, "bf16": 0.0}, {"fp32": 1.0}]
)
def test_float32_in_doubt(seconds: dict[str, float]) -> None:
    assert faster(seconds) == "fp32"


def test_no_instructions_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: False)
    monkeypatch.setattr(device, "convolutions", refuse)
    assert device.resolve(trainer()).precision == "fp32"


def test_a_measurement_leaves_threads_and_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: True)
    monkeypatch.setattr(device, "MEASURED_SECONDS", 0.001)
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(3)
    try:
        found = precision_seconds(2, torch.contiguous_format)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert found.keys() == {"fp32", "bf16"}
    assert all(0 < seconds < 60 for seconds in found.values())
    assert torch.equal(torch.get_rng_state(), drawn)
    monkeypatch.setattr(device, "convolutions", refuse)
    assert precision_seconds(2, torch.contiguous_format) == found  # once a process


@pytest.mark.parametrize("step", [1e-6, 0.0156, 100.0])
@pytest.mark.parametrize("one_pass", [0.0005, 0.005, 0.05])
@pytest.mark.parametrize(("bf16", "expected"), [(1.0, "fp32"), (0.95, "fp32"), (0.75, "bf16")])
def test_a_coarse_clock_tells_them_apart_too(
    monkeypatch: pytest.MonkeyPatch, step: float, one_pass: float, bf16: float, expected: str
) -> None:
    """Passes that vary by a tenth, by a clock that goes on in steps, as on Windows, or stands."""
    draws = random.Random(1)
    now = [0.0]

    def passes(width: int, layout: Any) -> Callable[[str], None]:
        def run_pass(name: str) -> None:
            seconds = one_pass * (bf16 if name == "bf16" else 1.0)
            now[0] += seconds * draws.uniform(0.95, 1.05)

        return run_pass

    def thread_time() -> float:
        now[0] += 1e-6  # to look at it takes time, too
        return now[0] // step * step

    if step > 1e-3:
        monkeypatch.setattr(device, "TURN_SECONDS", 0.3)  # as on Windows
    monkeypatch.setattr(device, "has_bf16", lambda: True)
    monkeypatch.setattr(device, "convolutions", passes)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", thread_time)
    for _ in range(10):
        now[0] += draws.random()  # a measurement begins anywhere in a step
        found = precision_seconds.__wrapped__(8, torch.channels_last)
        assert faster(found) == (expected if step < 1 else "fp32")
    if step < 1:
        assert found["fp32"] == pytest.approx(one_pass, rel=0.12)
        assert found["bf16"] == pytest.approx(bf16 * one_pass, rel=0.12)


@pytest.mark.parametrize(("width", "images"), [(4, 64), (16, 32), (64, 8), (128, 8)])
def test_the_convolutions_are_those_of_the_stages(width: int, images: int) -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.ops.aten.convolution.default:
                x, weight, bias, stride, padding = args[:5]
                seen.append((tuple(x.shape), tuple(weight.shape), bias, stride, padding, x.dtype))
            return func(*args, **(kwargs or {}))

    run_pass = convolutions(width, torch.channels_last)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen.clear()
        with Watch():
            run_pass(name)
        assert seen == [
            ((images, c, s, s), (c, c, 3, 3), None, [1, 1], [1, 1], dtype)
            for c, s in ((width, 32), (2 * width, 16), (4 * width, 8), (8 * width, 4))
        ]


# What the records say ----------------------------------------------------------------------------


def record(config: Config, precision: str, status: str = "completed", **changed: Any) -> Path:
    """A run beside others, trained on this CPU in this precision."""
    directory = run_directory(config)
    directory.mkdir(parents=True)
    session = {"start": "2026-01-01", "device": cpu_name(), "device_type": "cpu"}
    session |= {"precision": precision, "versions": {"torch": version("torch")}, **changed}
    epochs = config.trainer.epochs
    entry = RunRecord(status, cell_name(config), config.seed, epochs, flatten(config), "CPU")
    entry.sessions, entry.version = [Session(**session)], VERSION
    if status == "completed":
        entry.epochs_done = epochs
        entry.final = {"epoch": epochs, "accuracy/val": 0.5, "loss/val": 1.0}
    write_record(directory, entry)
    return directory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@functools.cache
def seeded(*overrides: str) -> Config:
    return compose([*TINY, *overrides])


def test_a_new_run_takes_what_others_of_its_width_have(here: Path) -> None:
    assert known_precision(seeded(), None) is None
    record(seeded("seed=1"), "bf16", status="interrupted")  # a begun one counts
    record(seeded("seed=2", "model.width=4"), "fp32")
    assert known_precision(seeded(), None) == "bf16"
    assert known_precision(seeded("model.width=4", "optimizer.lr=0.3"), None) == "fp32"
    assert known_precision(seeded("model.width=8"), None) is None
    assert known_precision(seeded("trainer.precision=fp32"), None) is None
    assert known_precision(seeded("trainer.device=cuda"), None) is None
    assert known_precision(seeded("output_root=elsewhere"), None) is None


@pytest.mark.parametrize(
    "other",
    [
        {"device": "another CPU"},
        {"device_type": "cuda"},
        {"versions": {"torch": "1.0"}},
        {"precision": None},
    ],
)
def test_runs_of_elsewhere_say_nothing(here: Path, other: dict[str, Any]) -> None:
    record(seeded("seed=1"), **{"precision": "bf16", **other})
    record(seeded("seed=2", "trainer.precision=bf16"), "bf16")  # nobody had found that
    odd = here / "cell" / "seed=0"
    odd.mkdir(parents=True)
    (odd / "run.json").write_text("[" * 100_000)
    assert known_precision(seeded(), None) is None


def test_where_they_differ_the_majority_decides(here: Path) -> None:
    for seed, was in enumerate(("bf16", "fp32")):
        record(dataclasses.replace(seeded(), seed=seed), was)
    assert known_precision(seeded(), None) == "fp32"  # in doubt
    record(seeded("seed=7"), "bf16")
    assert known_precision(seeded(), None) == "bf16"
    for seed in range(10, 10 + VOTES):  # and the latest are asked
        directory = record(dataclasses.replace(seeded(), seed=seed), "fp32")
        os.utime(directory / "run.json", (4e9, 4e9))
    assert known_precision(seeded(), None) == "fp32"


def test_reading_records_has_an_end(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_cifar.training import run as recorded

    assert MOST_READ >= 20 * VOTES
    monkeypatch.setattr(recorded, "MOST_READ", 3)
    oldest = record(seeded("seed=0"), "bf16")
    os.utime(oldest / "run.json", (1, 1))
    for seed in (1, 2):
        record(seeded(f"seed={seed}", "model.width=4"), "fp32")
    assert known_precision(seeded(), None) == "bf16"
    record(seeded("seed=3", "model.width=4"), "fp32")
    assert known_precision(seeded(), None) is None


def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, 0.5)
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "validate", lambda *a, **k: (_ for _ in ()).throw(OSError("full")))
        assert program(*TINY).code == 1
    measures(monkeypatch, 2.0)
    assert program(*TINY).code == 0
    assert program(*TINY, "seed=1").code == 0  # another run goes by the first one's record
    assert program(*TINY, "output_root=elsewhere").code == 0  # one elsewhere by what is measured
    found = {
        str(path.parent.parent.parent.name) + path.parent.name: [
            (s["precision"], s["precision_seconds"])
            for s in json.loads(path.read_text())["sessions"]
        ]
        for path in tmp_path.glob("*/*/seed=*/run.json")
    }
    assert found == {
        "outputsseed=0": [("bf16", {"fp32": 1.0, "bf16": 0.5}), ("bf16", {})],
        "outputsseed=1": [("bf16", {})],
        "elsewhereseed=0": [("fp32", {"fp32": 1.0, "bf16": 2.0})],
    }
    # Nothing is kept beside the runs.
    assert all(path.is_dir() for path in (tmp_path / "outputs").iterdir())
