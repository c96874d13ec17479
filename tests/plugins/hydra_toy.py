"""A program's configuration, as Hydra hands it to a sweeper and a launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

Sweep = Callable[..., tuple[DictConfig, HydraContext]]


# It has packages and interpolated defaults.
SMALL = {
    "config": """
        defaults:
          - _self_
          - db@first: mysql
          - db@second: mysql
          - size: small
          - optional for: ${db@second}_${size}
          - override hydra/launcher: local_pool
          - override hydra/sweeper: grid_schema
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
    """`sweep("first.port=0,1")`: what a launcher is given of that command line."""
    monkeypatch.chdir(tmp_path)
    for name, text in SMALL.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def begin(*arguments: str, conf: Path = tmp_path / "conf") -> tuple[DictConfig, HydraContext]:
        GlobalHydra.instance().clear()
        search = create_config_search_path(str(conf))
        hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search)
        config = hydra.compose_config("config", list(arguments), run_mode=RunMode.MULTIRUN)
        return config, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())

    yield begin
    GlobalHydra.instance().clear()
