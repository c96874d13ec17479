"""The study as files: grids, cells and published values say the same thing."""

import itertools
from typing import Any

import pytest
import yaml
from conftest import ROOT, Program

from hydra_plugins.local_pool import AtOnce
from hydra_plugins.search.sweeper import available
from resnet_cifar.config.compose import CONF, compose
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, flatten, items
from resnet_cifar.sweep import job as sweeps

PUBLISHED = yaml.safe_load((ROOT / "experiments" / "published.yaml").read_text())
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
CELLS = list(PUBLISHED["cells"])

Sweep = Any


@pytest.fixture
def sweep(program: Program, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """`sweep("-m", "seed=0,1")`: the configurations that command would run."""
    seen: list[Config] = []

    def keep(configs: list[Config], at_once: AtOnce, threads: int) -> None:
        seen[:] = configs

    monkeypatch.setattr(sweeps, "show_plan", keep)

    def call(*arguments: str) -> list[Config]:
        outcome = program("--plan", *arguments)
        assert outcome.code == 0, outcome.err
        return list(seen)

    return call


def cells(configs: list[Config]) -> set[str]:
    return {cell_name(config) for config in configs}


def test_the_readme_s_sweep_is_experiment_1(sweep: Sweep) -> None:
    configs = sweep("-m", "optimizer.lr=0.001,0.01,0.1", "trainer.epochs=15")
    assert len(configs) == 3
    wanted = [compose([f"cell={name}"]) for name in ("lr_0.001", "lr_0.01", "lr_0.1")]
    assert configs == wanted
    baseline = dict(items(compose([])))
    for config, lr in zip(configs, (0.001, 0.01, 0.1), strict=True):
        assert dict(items(config)) == baseline | {"optimizer.lr": lr, "trainer.epochs": 15}
        assert config.seed == 0


@pytest.mark.parametrize(
    ("experiment", "wanted"),
    [
        ("learning_rate", ["lr_0.001", "lr_0.01", "lr_0.1"]),
        ("schedule", ["baseline", "cosine"]),
        ("weight_decay", ["cosine", "cosine_wd_5e-4", "cosine_wd_1e-2"]),
        ("batchnorm", ["cosine_wd_1e-2", "detached_bn"]),
        ("study", CELLS),
    ],
)
def test_the_published_tables(sweep: Sweep, experiment: str, wanted: list[str]) -> None:
    configs = sweep(f"experiment={experiment}", "seed=7")
    assert cells(configs) == cells([compose([f"cell={name}"]) for name in wanted])
    assert len(configs) == len(wanted)


def test_the_replica_is_the_study_s_long_cells_in_small(sweep: Sweep) -> None:
    small = ["model.width=16", "trainer.epochs=30"]
    long = [name for name in CELLS if not name.startswith("lr_")]
    names = [cell_name(compose([f"cell={name}", *small])) for name in long]
    found = [(cell_name(config), config.seed) for config in sweep("experiment=replica")]
    assert found == list(itertools.product(names, range(3)))


def test_the_demo_is_around_the_study_s_best_cell(sweep: Sweep) -> None:
    configs = sweep("experiment=quickstart")
    assert [(config.optimizer.lr, config.seed) for config in configs] == list(
        itertools.product((0.0001, 0.001, 0.01), (0, 1, 2))
    )
    best = flatten(compose(["cell=cosine_wd_1e-2"]))
    rest = ("data", "augmentation", "model.width", "trainer", "optimizer.lr", "output_root", "seed")
    for config in configs:
        flat = flatten(config)
        different = {key for key in best.keys() | flat.keys() if best.get(key) != flat.get(key)}
        assert not [key for key in different if not key.startswith(rest)]


def test_an_experiment_carries_its_seeds(sweep: Sweep) -> None:
    configs = sweep("experiment=batchnorm")
    assert sorted(config.seed for config in configs) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("experiment", "keys", "values"),
    [
        (
            "schedule_x_wd",
            ("scheduler", "regularization.weight_decay"),
            (("constant", "cosine"), (0.0, 5e-4, 1e-2)),
        ),
        (
            "lr_x_wd",
            ("optimizer.lr", "regularization.weight_decay"),
            ((0.005, 0.01, 0.05, 0.1), (5e-4, 1e-3, 5e-3, 1e-2)),
        ),
        (
            "detach",
            ("norm.detach", "regularization.weight_decay"),
            (("none", "mean", "var", "both"), (0.0, 1e-2)),
        ),
        (
            "detach_x_lr",
            ("norm.detach", "optimizer.lr", "regularization.weight_decay"),
            (("none", "mean", "var", "both"), (0.001, 0.01, 0.1), (0.0, 1e-2)),
        ),
        ("augmentation", ("augmentation",), (("none", "crop_flip", "cutout", "mixup"),)),
        (
            "averaging",
            ("scheduler", "regularization.ema_decay"),
            (("constant", "cosine"), (0.99, 0.999)),
        ),
        ("depth", ("model",), (("resnet18", "resnet34"),)),
    ],
)
def test_grids(
    sweep: Sweep, experiment: str, keys: tuple[str, ...], values: tuple[tuple[Any, ...], ...]
) -> None:
    found = {
        tuple(flatten(config)[key] for key in keys)
        for config in sweep(f"experiment={experiment}", "seed=0")
    }
    assert found == set(itertools.product(*values))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_says_its_question_and_takes_overrides(
    sweep: Sweep, experiment: str
) -> None:
    if experiment == "search" and not available():
        pytest.skip('needs pip install -e ".[search]"')
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert "?" in "".join(lines[1:4]) or experiment == "study"
    assert any(f"python train.py experiment={experiment}" in line for line in lines)
    changed = ["data=synthetic", "model.width=4", "trainer.epochs=2", "seed=1"]
    for config in sweep(f"experiment={experiment}", *changed):
        flat = flatten(config)
        assert (flat["data"], flat["model.width"], flat["seed"]) == ("synthetic", 4, 1)
        assert flat["trainer.epochs"] == 2


def test_equal_configurations_are_merged(sweep: Sweep) -> None:
    short = ["experiment=study", "data=synthetic", "model.width=8", "trainer.epochs=2"]
    assert len(sweep(*short, "seed=0,1")) == 14  # lr_0.01 and baseline differ in epochs alone
    assert len(sweep("experiment=study", "seed=0")) == 8


@pytest.mark.parametrize("name", CELLS)
def test_a_published_value_belongs_to_its_cell_and_no_other(name: str) -> None:
    selector = PUBLISHED["cells"][name]["selector"] | PUBLISHED["setting"]
    matching = [
        cell for cell in CELLS if selector.items() <= flatten(compose([f"cell={cell}"])).items()
    ]
    assert matching == [name]


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_s_header_shows_the_published_values(name: str) -> None:
    header = (CONF / "cell" / f"{name}.yaml").read_text()
    for key, value in PUBLISHED["cells"][name]["published"].items():
        shown = f"{100 * value:.2f} %" if key.startswith("accuracy") else f"{value:.4f}"
        assert shown in header
    assert "?" in header  # its question


def test_a_published_value_is_none_of_its_repetitions() -> None:
    for cell in PUBLISHED["cells"].values():
        assert "document" not in [each["by"] for each in cell["repetitions"]]


def test_there_is_a_file_for_every_cell() -> None:
    assert {path.stem for path in (CONF / "cell").glob("*.yaml")} == set(CELLS)
