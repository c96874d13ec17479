"""The sweeper Hydra finds: a grid, composed once and by the launcher alone."""

# No `from __future__ import annotations`: see launcher.py.
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridConf:
    """The options, one line each; their values are one line each of YAML."""

    params: dict[str, Any]  # key by key what would stand on the command line, which comes after it
    # A config group of presets that may bring `params` of their own: group=first,second sweeps
    # over the union of their grids. "": none does.
    union: str
    _target_: str = "hydra_plugins.local_pool.sweeper.Grid"


ConfigStore.instance().store(group="hydra/sweeper", name="grid_schema", node=GridConf)


class LaunchingSweeper(Sweeper):
    """A sweeper with the launcher that was chosen beside it."""

    config: DictConfig  # by setup, as the next two
    context: HydraContext
    launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """Parse command-line arguments by Hydra's grammar."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        return parser.parse_overrides(list(arguments))


class Grid(LaunchingSweeper):
    """Hydra's basic sweeper without its detours; the arguments are those of GridConf.

    The basic sweeper composes every job before the launcher does so again, writes a file into a
    directory of its own, and takes a list of presets for a list of empty grids.
    """

    def __init__(self, params: dict[str, Any], union: str) -> None:
        self.params, self.union = dict(params), union

    def sweep(self, arguments: list[str]) -> Any:
        jobs: list[list[str]] = []
        for presets, params in self._grids(arguments):
            swept = [f"{key}={value}" for key, value in params.items()]
            jobs += self._expand([*swept, *presets])
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what the job failed with
        return [results]

    def _grids(self, arguments: list[str]) -> list[tuple[list[str], dict[str, Any]]]:
        """Split several presets at once: a command line for each, and the grid it brings."""
        several = [
            override
            for override in self.parse(arguments)
            if override.key_or_group == self.union and override.is_discrete_sweep()
        ]
        if not several:
            return [(arguments, self.params)]
        line, key = str(several[-1].input_line), several[-1].get_key_element()
        others = [argument for argument in arguments if argument != line]
        grids = []
        for option in several[-1].sweep_string_iterator():
            preset = f"{key}={option}"
            composed = self.context.config_loader.load_configuration(
                config_name=self.config.hydra.job.config_name,
                overrides=[*self.config.hydra.overrides.hydra, preset, *others],
                run_mode=RunMode.MULTIRUN,
            )
            if composed.hydra.sweeper._target_ != GridConf._target_:
                message = f"{preset} is not a grid: run it alone, not with others"
                raise ConfigCompositionException(message)
            grids.append(([preset, *others], dict(composed.hydra.sweeper.params)))
        return grids

    def _expand(self, arguments: list[str]) -> list[list[str]]:
        """Expand a grid to the command lines of its jobs.

        The first argument varies slowest; of several with one key the last counts.
        """
        values: dict[str, list[str]] = {}
        for override in self.parse(arguments):
            key = override.get_key_element()
            if not override.is_sweep_override():
                values[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                kind = override.value_type.name.lower() if override.value_type else "that"
                message = f"{override.input_line}: a grid has no {kind}; hydra/sweeper=optuna does"
                raise ConfigCompositionException(message)
            if not values[key]:
                raise ConfigCompositionException(f"{override.input_line}: must give a value")
        return [list(job) for job in itertools.product(*values.values())]
