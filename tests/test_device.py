"""What `auto` means on a machine."""

import pytest
import torch

from resnet_cifar import device
from resnet_cifar.config import compose


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


def test_settings_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with device.settings(resolved("trainer.threads=1"), deterministic=True):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
