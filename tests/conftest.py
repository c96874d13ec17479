"""What the tests share: the program in one process, and runs small enough to train in seconds."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import re
import sys
from collections.abc import Callable
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
    *("gpu_benchmark", "writer", "captured", "operation_counts"),
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


def _read_the_project_s_yaml_once() -> None:
    """Keep what Hydra makes of conf/ for each choice of groups; values it puts in every time."""
    from hydra._internal import config_loader_impl
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import (
        CachingConfigRepository,
        ConfigRepository,
        IConfigRepository,
    )
    from hydra._internal.defaults_list import DefaultsList
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override
    from hydra.plugins.config_source import ConfigResult

    from resnet_cifar.config.compose import CONF

    read = ConfigRepository.load_config
    choose = config_loader_impl.create_defaults_list
    merge = ConfigLoaderImpl._compose_config_from_defaults_list
    contents: dict[str, bytes] = {}
    chosen: dict[tuple[str, ...], DefaultsList] = {}
    merged: dict[str, DictConfig] = {}

    def has_others(files: IConfigRepository) -> bool:
        return not {place.path for place in files.get_sources()} <= {"hydra.conf", str(CONF), ""}

    def load_config(files: ConfigRepository, config_path: str) -> ConfigResult | None:
        if has_others(files) or re.match("hydra/(launcher|sweeper)", config_path):
            return read(files, config_path)
        if config_path not in contents:
            contents[config_path] = pickle.dumps(read(files, config_path))
        return pickle.loads(contents[config_path])  # a copy, in a third of the time

    def create_defaults_list(
        repo: IConfigRepository, config_name: str, overrides_list: list[Override], **rest: bool
    ) -> DefaultsList:
        choices, values = [], []
        for override in overrides_list:  # by Hydra's own rule
            if override.is_sweep_override():
                continue
            is_dict = isinstance(override.value(), dict)
            is_choice = repo.group_exists(override.key_or_group) and not is_dict
            (choices if is_choice else values).append(override)
        lines = [choice.input_line for choice in choices]
        # `rest` matters to choices that are missing.
        if has_others(repo) or any(
            re.match(r"\+*hydra/(?!launcher=local$)|.*\?\?\?", line) for line in lines
        ):
            return choose(repo, config_name, overrides_list, **rest)
        key = (config_name, *lines)
        if key not in chosen:
            chosen[key] = choose(repo, config_name, overrides_list, **rest)
        return dataclasses.replace(chosen[key], config_overrides=values)

    def compose_from(
        loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        if has_others(repo):
            return merge(loader, defaults, repo)
        key = repr(defaults)
        if key not in merged:
            merged[key] = merge(loader, defaults, repo)
        return copy.deepcopy(merged[key])

    ConfigRepository.load_config = load_config
    config_loader_impl.create_defaults_list = create_defaults_list
    ConfigLoaderImpl._compose_config_from_defaults_list = compose_from

    def keep(files: CachingConfigRepository, delegate: IConfigRepository) -> None:
        files.delegate, files.cache = copy.copy(delegate), {}  # Hydra's copy is a deep one

    CachingConfigRepository.__init__ = keep


@pytest.fixture(scope="session")
def _repeated_work_once() -> None:
    """Keep, for the runs of a process, what is drawn and measured the same for each of them."""
    import gc

    import torch

    from resnet_cifar.cli import train as training
    from resnet_cifar.compute import device
    from resnet_cifar.data import datasets, synthetic

    training.end_without_trackers = lambda code: None  # the process is pytest's

    measure = device.matmul_rate
    rates: dict[tuple[object, ...], float] = {}

    @functools.wraps(measure)
    def matmul_rate(compute: device.Compute) -> float:
        key = (compute.device, compute.precision, torch.get_num_threads())
        return rates[key] if key in rates else rates.setdefault(key, measure(compute))

    device.matmul_rate = matmul_rate
    draw = functools.lru_cache(maxsize=16)(synthetic.draw)
    datasets.draw = lambda *of: tuple(array.copy() for array in draw(*of))

    _read_the_project_s_yaml_once()
    # A collection goes through half a million objects of torch's: without them, and seldom.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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
