"""What `auto` means on a machine."""

import contextlib
import dataclasses
import inspect
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from resnet_cifar.compute import cpu as machine
from resnet_cifar.compute import device
from resnet_cifar.compute.options import Trainer
from resnet_cifar.config.compose import compose
from resnet_cifar.errors import ConfigError, describe
from resnet_cifar.record.schema import Session
from resnet_cifar.training.notes import opening


def trainer(*overrides: str) -> Trainer:
    return compose(["trainer.device=cpu", *overrides]).trainer


def resolved(*overrides: str) -> device.Compute:
    return device.resolve(trainer(*overrides))


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8)],
)
def test_cpus_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cpus: int
) -> None:
    """Its limit is on the time of all CPUs, which it sees all the same."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    assert machine.available_cpus() == 8
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert machine.available_cpus() == cpus


def test_no_more_threads_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_cpus", lambda: 1)
    assert resolved().threads == 1
    assert resolved("trainer.threads=3").threads == 3


@pytest.mark.parametrize("here", [True, False])
def test_compiled_on_a_gpu_where_it_can_be(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(device.shutil, "which", lambda _: "/bin/cc" if here else None)
    gpu = device.resolve(compose([]).trainer)
    assert (gpu.device.type, gpu.precision, gpu.compile) == ("cuda", "bf16", here)
    assert device.resolve(compose(["trainer.compile=true"]).trainer).compile
    assert not device.resolve(compose(["trainer.compile=false"]).trainer).compile
    assert not resolved().compile  # on a CPU its start-up outweighs most runs


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_a_gpu_without_bfloat16_gets_float16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(device, "_can_compile", lambda: False)
    found = device.resolve(compose([]).trainer)
    assert found.precision == precision
    assert found.scaler().is_enabled() == (precision == "fp16")
    tf32 = compose(["trainer.precision=tf32"]).trainer
    if capability >= (8, 0):
        assert device.resolve(tf32).precision == "tf32"
    else:
        with pytest.raises(ConfigError, match="Ampere"):
            device.resolve(tf32)


def test_an_apple_gpu_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compose(["trainer.device=mps", "trainer.threads=1"])
    with pytest.raises(ConfigError, match="=mps is not here"):
        device.resolve(asked.trainer)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    gpu = device.resolve(asked.trainer)
    assert (gpu.device.type, gpu.precision, gpu.compile) == ("mps", "fp32", False)
    lines = opening(asked, Path("run"), gpu, Session("2026-01-01", "GPU", "mps"))
    assert "tried" in lines[2]
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3))
    assert device.memory_format(gpu, network) is torch.contiguous_format
    chosen = device.resolve(compose(["trainer.precision=fp32"]).trainer)
    assert chosen.device.type != "mps"


@pytest.mark.parametrize(
    ("told", "threads"), [("3", 3), ("99", 8), ("2,1", 5), ("0", 5), ("", 5), (None, 5)]
)
def test_threads_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, told: str | None, threads: int
) -> None:
    """As it is now, not as it was when OpenMP was loaded: a sweep's runs are forked after that."""
    monkeypatch.setattr(device, "available_cpus", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    if told is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    options = dataclasses.replace(compose(["trainer.precision=fp32"]).trainer, threads=0)
    assert device.resolve(options).threads == threads
    assert device.resolve(dataclasses.replace(options, threads=2)).threads == 2


@pytest.mark.parametrize(
    ("channels", "threads", "fits"),
    [(4, 1, False), (8, 1, True), (8, 2, False), (12, 4, False), (16, 2, True), (64, 8, True)],
)
def test_the_layout_of_narrow_networks_depends_on_the_threads(
    channels: int, threads: int, fits: bool
) -> None:
    chosen = device.resolve(compose([f"trainer.threads={threads}", "trainer.device=cpu"]).trainer)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2 * channels, 3), torch.nn.Conv2d(2 * channels, channels, 3)
    )
    layout = torch.channels_last if fits else torch.contiguous_format
    assert device.place(network, chosen) is layout
    assert network[1].weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_settings_are_put_back(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def read() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
        )

    monkeypatch.setattr(torch.cuda, "device", lambda gpu: contextlib.nullcontext())
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = read()
    assert before[1:3] == (False, False)
    chosen = device.Compute(torch.device(kind), "", "tf32", before[0] + 2, compile=False)
    for deterministic, wanted in ((True, True), (False, True), (False, False)):
        chosen = dataclasses.replace(chosen, cudnn_benchmark=wanted)
        with device.settings(chosen, deterministic):
            tuned = kind == "cuda" and wanted and not deterministic
            tf32 = "high" if kind == "cuda" else before[3]
            assert read() == (before[0] + 2, deterministic, tuned, tf32)
        assert read() == before


def test_cudnn_tunes_unless_told_otherwise() -> None:
    assert resolved().cudnn_benchmark
    assert not resolved("trainer.cudnn_benchmark=false").cudnn_benchmark


def test_the_matrix_product_is_of_random_numbers_no_run_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of ones a GPU makes more than of weights and images: they take less power."""
    factors: list[torch.Tensor] = []

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        factors.extend((a, b))
        time.sleep(0.1)

    monkeypatch.setattr(torch, "mm", multiply)
    before = torch.get_rng_state()
    measure = inspect.unwrap(device.matmul_rate)  # other tests keep what it measured
    assert 0 < measure(resolved("trainer.precision=bf16")) < 2 * 1024**3 / 0.1
    assert torch.equal(torch.get_rng_state(), before)
    for factor in factors:
        assert factor.dtype == torch.bfloat16
        assert factor.float().std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ],
)
def test_autocast_to_the_precision(precision: str, dtype: torch.dtype) -> None:
    chosen = device.Compute(torch.device("cpu"), "", precision, threads=1, compile=False)
    a = torch.ones(2, 2)
    with chosen.autocast():
        assert torch.mm(a, a).dtype == dtype


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_a_gpu_and_tf32_as_the_compiler_reads_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, tf32: bool
) -> None:
    """Both of PyTorch's interfaces agree, else these reads raise; no GPU is needed to see that."""
    current = [0]

    @contextlib.contextmanager
    def make_current(gpu: torch.device) -> Iterator[None]:
        current.append(gpu.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", make_current)

    def read() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cuda.matmul.fp32_precision == "tf32",
            cudnn.allow_tf32,
            cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        )

    before = read()
    gpu = device.Compute(torch.device("cuda:1"), "a GPU", precision, threads=1, compile=False)
    with device.settings(gpu, deterministic=False):
        assert current[-1] == 1
        assert read() == (tf32,) * 4
        with device.tf32(False):
            assert read() == (False,) * 4
        assert read() == (tf32,) * 4
    assert read() == before
    assert current == [0]


def test_a_compiler_that_fails_says_what_does_without_it() -> None:
    from torch._inductor.exc import InductorError

    said = describe(InductorError(RuntimeError("no compiler\nhere"), None))
    assert said == (
        "InductorError: RuntimeError: no compiler here "
        "(trainer.compile=false does without the compiler)"
    )
