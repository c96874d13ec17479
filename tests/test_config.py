"""The configuration: YAML holds every value once, dataclasses type it, the study composes."""

import dataclasses
import re
import shlex

import pytest
import yaml
from conftest import TINY

from resnet_cifar.config.compose import CONF, compose
from resnet_cifar.config.saved import load, reproduce_command, to_yaml
from resnet_cifar.config.schema import Config, groups
from resnet_cifar.errors import ConfigError
from resnet_cifar.identity import flatten

OPTIONS = [
    (group, path.stem) for group in groups() for path in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_builds(group: str, option: str) -> None:
    config = compose(
        [f"{group}={option}", "norm.groups=2"] if option == "groupnorm" else [f"{group}={option}"]
    )
    if group in ("data", "trainer", "probe"):
        return  # test_data, test_run and test_probe build these
    model = dataclasses.replace(config.model, width=4).build(config.norm.build, 10)
    groups = config.regularization.parameter_groups(model)
    optimizer = config.optimizer.build(groups)
    schedule = config.scheduler.build(config.optimizer.lr, 10, 5)
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) > 0
    assert all(0 < schedule(step) <= config.optimizer.lr for step in range(50))


@pytest.mark.parametrize("group", groups())
def test_yaml_keys_are_the_dataclass_fields(group: str) -> None:
    """No default in Python, no key without a type: a file that defines a part defines all of it."""
    fields = {kind.NAME: {f.name for f in dataclasses.fields(kind)} for kind in groups()[group]}
    for kind in groups()[group]:
        for field in dataclasses.fields(kind):
            assert field.default is dataclasses.MISSING, f"{kind.__name__}.{field.name}"
    for path in (CONF / group).glob("*.yaml"):
        text = yaml.safe_load(path.read_text())
        keys = set(text) - {"defaults"}
        schema = [d for d in text["defaults"] if isinstance(d, str) and "schema" in d]
        if schema:
            name = re.search(r"(\w+)@_here_", schema[0]).group(1)
            assert keys == fields[name], path
        else:
            assert any(keys <= names for names in fields.values()), path


def test_root_yaml_keys_are_the_root_fields() -> None:
    keys = set(yaml.safe_load((CONF / "config.yaml").read_text())) - {"defaults", "hydra"}
    assert keys | set(groups()) == {field.name for field in dataclasses.fields(Config)}


def test_defaults_are_the_baseline_cell() -> None:
    assert compose([]) == compose(["cell=baseline"])


# study.md's table: lr, scheduler, weight decay, detach, epochs.
STUDY = {
    "lr_0.001": (0.001, "constant", 0.0, "none", 15),
    "lr_0.01": (0.01, "constant", 0.0, "none", 15),
    "lr_0.1": (0.1, "constant", 0.0, "none", 15),
    "baseline": (0.01, "constant", 0.0, "none", 300),
    "cosine": (0.01, "cosine", 0.0, "none", 300),
    "cosine_wd_5e-4": (0.01, "cosine", 5e-4, "none", 300),
    "cosine_wd_1e-2": (0.01, "cosine", 1e-2, "none", 300),
    "detached_bn": (0.01, "cosine", 1e-2, "both", 300),
}


def study_values(config: Config) -> dict[str, object]:
    """What the study says of every cell, beside the five coordinates."""
    flat = flatten(config)
    everywhere = {
        "data": "cifar10",
        "data.val_size": 10_000,
        "augmentation.crop_padding": 4,
        "augmentation.flip_probability": 0.5,
        "model": "resnet18",
        "model.width": 64,
        "norm": "batchnorm",
        "norm.eps": 1e-5,
        "norm.momentum": 0.1,
        "optimizer": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.dampening": 0.0,
        "optimizer.nesterov": False,
        "scheduler.warmup_epochs": 0.0,
        "regularization.decay_norm_and_bias": True,
        "regularization.label_smoothing": 0.0,
        "trainer.batch_size": 128,
        "seed": 0,
    }
    assert {key: flat[key] for key in everywhere} == everywhere
    if flat["scheduler"] == "cosine":
        assert flat["scheduler.eta_min"] == 0
    return flat


@pytest.mark.parametrize("cell", STUDY)
def test_cells_are_the_study(cell: str) -> None:
    flat = study_values(compose([f"cell={cell}"]))
    keys = ("optimizer.lr", "scheduler", "regularization.weight_decay", "norm.detach")
    assert (*(flat[key] for key in keys), flat["trainer.epochs"]) == STUDY[cell]


def test_the_command_of_experiment_1_composes_its_cells() -> None:
    """python train.py -m optimizer.lr=0.001,0.01,0.1 trainer.epochs=15"""
    for lr in ("0.001", "0.01", "0.1"):
        composed = compose([f"optimizer.lr={lr}", "trainer.epochs=15"])
        study_values(composed)
        assert composed == compose([f"cell=lr_{lr}"])


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["cell=detached_bn", "seed=3", "output_root=some where/runs"],
        [*TINY, "optimizer=adamw", "scheduler=one_cycle", "optimizer.lr=3e-4"],
        ["norm=groupnorm", "norm.groups=8", "trainer.compile=true", "rerun=true"],
        ["scheduler=milestones", "scheduler.milestones=[5,10]", "when_busy=skip"],
        ["norm=none", "scheduler=step", "scheduler.warmup_epochs=2.5"],
    ],
)
def test_config_survives_its_file_and_its_command(overrides: list[str], tmp_path) -> None:
    config = compose(overrides)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load(path) == config
    words = shlex.split(reproduce_command(config))
    assert words[:2] == ["python", "train.py"]
    # These two are of one call, not of the run.
    assert compose(words[2:]) == dataclasses.replace(config, rerun=False, when_busy="wait")


@pytest.mark.parametrize("text", ["", "data: 3", "{", "data: {name: imagenet}", "[1, 2]"])
def test_a_damaged_config_file_is_named(text: str, tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load(path)
