"""The grid: the jobs of Hydra's basic sweeper, each as Hydra would have composed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.local_pool._grid import Composer
from hydra_plugins.local_pool.sweeper import Grid

from .hydra_toy import Sweep

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
    sweep: Sweep,
    arguments: list[str],
) -> None:
    compare(*sweep(*arguments), arguments)


def compare(config: DictConfig, context: HydraContext, arguments: Sequence[str]) -> None:
    theirs = [argument for argument in arguments if not argument.startswith("hydra")]
    parser = OverridesParser.create(config_loader=context.config_loader)
    (expected,) = BasicSweeper.split_arguments(parser.parse_overrides(theirs), None)
    grid = Grid(params={}, union="")
    grid.config, grid.context = config, context
    assert grid._expand(theirs) == expected

    composer = Composer(config, context.config_loader)
    for overrides in {tuple(expected[n]): 0 for n in (0, -1)}:
        ours = composer._quickly(overrides)
        assert ours is not None  # it was not left to Hydra
        ours.hydra.job.num = 7  # as a sweep does: the next one must not have it
        ours = composer.compose(overrides)
        hydras = context.config_loader.load_sweep_config(config, list(overrides))
        hydras.hydra.job.num = ours.hydra.job.num = 0
        assert whole(ours) == whole(hydras)
