"""What the tests share: the program in one process, and runs small enough to train in seconds."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# The same examples on every machine, however busy it is.
settings.register_profile("tests", derandomize=True, deadline=None, database=None)
settings.load_profile("tests")

# 4 updates an epoch, a net of 11 thousand parameters.
TINY = [
    "data=synthetic",
    "data.train_size=64",
    "data.val_size=32",
    "data.test_size=32",
    "model.width=2",
    "trainer.epochs=2",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.deterministic=true",
    "trainer.device=cpu",
    "trainer.precision=fp32",  # what is measured on a busy machine is not the same twice
]


# Files that take longest are begun first, so that none is left at the end.
LONGEST = (
    *("sweep", "kill", "readme", "engines", "benchmark", "experiments", "damage", "probe"),
    *("export", "search", "run", "report", "regularization", "cli", "command_lines", "notebook"),
    *("run_study", "scheduler", "pool", "launcher", "errors", "package", "fake_cuda"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: with xdist's --no-loadscope-reorder they are begun first."""
    order = {f"test_{name}": position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Program = Callable[..., Outcome]


@pytest.fixture(scope="session")
def _repeated_work_once() -> None:
    """Keep, for the runs of a process, what is drawn and measured the same for each of them."""
    import gc

    import torch
    from hydra._internal.hydra import Hydra

    from resnet_cifar.compute import device
    from resnet_cifar.data import datasets, synthetic
    from resnet_cifar.paths import user_config_directory

    measure = device.matmul_rate
    rates: dict[tuple[object, ...], float] = {}

    def matmul_rate(compute: device.Compute) -> float:
        key = (compute.device, compute.precision, torch.get_num_threads())
        return rates[key] if key in rates else rates.setdefault(key, measure(compute))

    device.matmul_rate = matmul_rate
    draw = functools.lru_cache(maxsize=16)(synthetic.draw)
    datasets.draw = lambda *of: tuple(array.copy() for array in draw(*of))

    composing = importlib.import_module("resnet_cifar.config.compose")  # not the function
    untyped = composing.compose_untyped
    of_the_project = functools.lru_cache(maxsize=256)(untyped)

    def compose_untyped(overrides: Sequence[str]) -> DictConfig:
        own = user_config_directory()
        return untyped(overrides) if own else of_the_project(tuple(overrides))

    composing.compose_untyped = compose_untyped

    learn_mode = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> object:
        """Hydra composes all of it once more to learn the mode, which only some groups set."""
        sets_it = any(re.match(r"\+*(hydra|experiment|cell)\b", each) for each in overrides)
        return learn_mode(hydra, config_name, overrides) if sets_it else None

    Hydra.get_mode = get_mode
    gc.freeze()  # half a million objects of torch's, gone through again and again


@pytest.fixture
def program(
    _repeated_work_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    """`program("optimizer.lr=0.1")` is `python train.py optimizer.lr=0.1` in an empty folder."""
    from resnet_cifar.cli import train as training

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        capsys.readouterr()
        code = training.main()
        return Outcome(code, *capsys.readouterr())

    return call


Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(_repeated_work_once: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained("seed=1")` is the directory of such a tiny run, trained once for a module's tests.

    It is only to be read: a test that changes a run trains its own.
    """
    from resnet_cifar.config.compose import compose
    from resnet_cifar.identity import run_directory
    from resnet_cifar.training.run import run

    @functools.cache
    def train(*overrides: str) -> Path:
        root = tmp_path_factory.mktemp("trained")
        config = compose([*TINY, "trainer.progress=quiet", *overrides, f"output_root={root}"])
        run(config)
        return run_directory(config)

    return train
