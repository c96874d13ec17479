"""What `auto` means on a machine."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from resnet_cifar import device
from resnet_cifar.config import compose
from resnet_cifar.errors import ConfigError, describe


def resolved(*overrides: str) -> device.Compute:
    return device.resolve(compose(["trainer.device=cpu", *overrides]).trainer)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        (["avx2"], "fp32"),
        (["avx512f", "avx512_bf16"], "fp32"),  # half the speed of float32, measured
        (["avx512_bf16", "amx_tile", "amx_bf16"], "bf16"),
    ],
)
def test_bfloat16_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], precision: str
) -> None:
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    assert resolved().precision == precision
    assert resolved("trainer.precision=fp32").precision == "fp32"
    assert resolved("trainer.precision=bf16").precision == "bf16"


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
    assert "tried" in str(gpu.caution)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3))
    assert device.memory_format(gpu, network) is torch.contiguous_format
    chosen = device.resolve(compose([]).trainer)
    assert chosen.device.type != "mps"
    assert chosen.caution is None


def test_settings_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with device.settings(resolved("trainer.threads=1"), deterministic=True):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


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
        with device.full_float32():
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
