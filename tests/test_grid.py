"""The grid: the jobs of Hydra's basic sweeper, each as Hydra would have composed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from conftest import ROOT
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.local_pool._grid import Composer
from hydra_plugins.local_pool.sweeper import Grid
from resnet_cifar.config.compose import register

Sweep = Callable[..., tuple[DictConfig, HydraContext]]


# A program's configuration that has what this project's does not: packages, interpolated defaults.
SMALL = {
    "config": """
        defaults:
          - _self_
          - db@first: mysql
          - db@second: mysql
          - size: small
          - optional for: ${db@second}_${size}
          - override hydra/launcher: local_pool
          - override hydra/sweeper: grid_schema  # this project renames Hydra's own
        name: ${first.host}/${hydra:runtime.choices.size}/${hydra:job.num}
        when: ${now:%f}
        """,
    "db/mysql": "{host: here, port: 1}",
    "db/sqlite": "{host: '${name}', file: x}",
    "size/small": "n: 1",
    "size/large": "n: 2",
    "for/sqlite_large": "{special: true, b: {a: 1}}",
}


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sweep]:
    """`sweep(conf, "seed=0,1")`: what a launcher is given of that command line."""
    monkeypatch.chdir(tmp_path)
    for name, text in SMALL.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def begin(conf: Path, *arguments: str) -> tuple[DictConfig, HydraContext]:
        GlobalHydra.instance().clear()
        search = create_config_search_path(str(conf))
        hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search)
        config = hydra.compose_config("config", list(arguments), run_mode=RunMode.MULTIRUN)
        return config, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())

    yield begin
    GlobalHydra.instance().clear()


GRIDS = {
    "values": ["first.port=3,4", "++second.port=range(0,4,2)", "size.n=choice(2,3)", "size.n=4,5"],
    "groups": ["size=large,small", "db@second=glob(*)", "db@first=sqlite"],
    "interpolations": [
        "name='${second.port}/${hydra:runtime.choices.size}',plain",
        "when='${now:%f}/${hydra:job.override_dirname}'",
        "db@second=sqlite,mysql",
    ],
    "packages": ["+db@third.inner=sqlite,mysql", "~db@first", "+db@fourth=mysql"],
    "additions": ["+mine=1,2", "++n=5", "+first.new=[1,2],{a:b}", "++other.a.b=x"],
    "deletions": ["~db@first", "~second.port", "~when", "+n=1,2"],
    "dictionaries": ["first={port:5},{port:2,host:0}", "+size={n:7}", "second={}"],
    "of Hydra's own": ["hydra.launcher.threads=1", "hydra.job.name=x", "size.n=0,1"],
    "quotes": ["name='a, b',c", "when='x=y'", 'first.host="\'"'],
    "order": ["db@first=sqlite,mysql", "first.host=2,3", "first={host:4}", "first.host=5"],
}
OURS = {
    "the study": ["scheduler=cosine,step", "optimizer.lr=0.1,0.2", "experiment=detach"],
    "a cell": ["cell=cosine,detached_bn", "output_root='${hydra:runtime.choices.norm}'"],
}


def whole(config: DictConfig) -> Any:
    """All of it: values as they are written, in their order, with each node's type and flags."""

    def walk(node: Any) -> Any:
        flags = [node._get_flag(name) for name in ("struct", "readonly", "allow_objects")]
        kind = OmegaConf.get_type(node), node._metadata.ref_type, flags
        if not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation():
            return kind, node._value()
        return kind, [(key, walk(node._get_node(key))) for key in node]

    with open_dict(config):
        hydra = config.pop("hydra")  # it stands first there and last here; nobody looks
    return walk(config), walk(hydra)


@pytest.mark.parametrize("arguments", GRIDS.values(), ids=GRIDS)
def test_the_jobs_of_hydra_s_sweeper_as_hydra_composes_them(
    sweep: Sweep, tmp_path: Path, arguments: list[str]
) -> None:
    compare(*sweep(tmp_path / "conf", *arguments), arguments)


@pytest.mark.parametrize("arguments", OURS.values(), ids=OURS)
def test_this_project_s_too(sweep: Sweep, arguments: list[str]) -> None:
    register()
    compare(*sweep(ROOT / "conf", *arguments), arguments)


def compare(config: DictConfig, context: HydraContext, arguments: Sequence[str]) -> None:
    theirs = [argument for argument in arguments if not argument.startswith("hydra")]
    parser = OverridesParser.create(config_loader=context.config_loader)
    (expected,) = BasicSweeper.split_arguments(parser.parse_overrides(theirs), None)
    grid = Grid(params={}, union="")
    grid.config, grid.context = config, context
    assert grid._product(theirs) == expected

    composer = Composer(config, context.config_loader)
    for overrides in {tuple(expected[n]): 0 for n in (0, -1)}:
        ours = composer._quickly(overrides)
        assert ours is not None  # it was not left to Hydra
        ours.hydra.job.num = 7  # as a sweep does: the next one must not have it
        ours = composer.compose(overrides)
        hydras = context.config_loader.load_sweep_config(config, list(overrides))
        hydras.hydra.job.num = ours.hydra.job.num = 0
        assert whole(ours) == whole(hydras)
