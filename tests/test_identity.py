"""The name of a run is a function of what changes its result."""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Program
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import change_record

from resnet_cifar.__main__ import main
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config, groups
from resnet_cifar.identity import (
    LABEL_LENGTH,
    USUAL,
    added,
    cell_name,
    execution,
    items,
    number,
    run_directory,
)
from resnet_cifar.model.options import DETACH
from resnet_cifar.results import load_runs
from resnet_cifar.training.live import Display


def name(*overrides: str) -> str:
    return cell_name(compose(list(overrides)))


def test_label_and_hash() -> None:
    assert re.fullmatch(r"lr0\.01_cosine_wd0\.01_bn_300ep-[0-9a-f]{8}", name("cell=cosine_wd_1e-2"))
    assert name("cell=detached_bn").startswith("lr0.01_cosine_wd0.01_detached_bn_300ep-")
    assert name("norm.detach=var").startswith("lr0.01_constant_wd0_bn_detach_var_300ep-")
    assert name("model.width=16").startswith("lr0.01_constant_wd0_bn_300ep_w16-")
    assert name(*TINY, "optimizer=adamw").startswith(
        "lr0.001_constant_wd0_bn_2ep_synthetic_w2_adamw_bs16_fp32_deterministic-"
    )


def test_names_are_stable() -> None:
    """Runs exist under these names: a change here orphans them."""
    assert name("cell=lr_0.01", "model.width=16") == "lr0.01_constant_wd0_bn_15ep_w16-d463366c"


def test_the_usual_is_the_study() -> None:
    """What labels leave out is what the defaults say, as long as those are the study's."""
    baseline = dict(items(compose([])))
    assert {key: baseline.get(key, USUAL[key]) for key in USUAL} == USUAL


@pytest.mark.parametrize(
    "override",
    [
        "data.root=elsewhere",
        "data.download=false",
        "trainer.device=cpu",
        "trainer.compile=true",
        "trainer.capture=off",
        "trainer.threads=1",
        "trainer.progress=quiet",
        "trainer.eval_batch_size=100",
        "trainer.augmented_val_every=1",
        "trainer.checkpoint_epochs=1",
        "trainer.checkpoint_seconds=1",
        "trainer.histogram_epochs=1",
        "output_root=elsewhere",
        "rerun=true",
        "when_busy=skip",
        "seed=1",
        "optimizer.lr=1e-2",
        "optimizer.lr=.01",
        "norm=batchnorm",
        "cell=baseline",
        "regularization=none",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_name(override: str) -> None:
    assert name(override) == name()


def test_every_identity_field_changes_the_name() -> None:
    """One field at a time, over every option: a field the hash forgets would merge two runs."""
    options = ["data=synthetic", "optimizer=adamw", "norm=groupnorm", "scheduler=cosine"]
    for overrides in ([], *([o] for o in [*options, "scheduler=step", "scheduler=one_cycle"])):
        config = compose(overrides)
        seen = {cell_name(config)}
        for group in groups():
            part = getattr(config, group)
            for field in dataclasses.fields(part):
                if field.metadata.get("execution"):
                    continue
                changed = dataclasses.replace(config)
                other = dataclasses.replace(part)
                value = getattr(part, field.name)
                new = (
                    not value
                    if isinstance(value, bool)
                    else f"{value}x"
                    if isinstance(value, str)
                    else value + 1
                )
                object.__setattr__(other, field.name, new)
                setattr(changed, group, other)
                seen.add(cell_name(changed))
                assert len(seen) > 1
        identity = {
            f"{group}.{field.name}"
            for group in groups()
            for field in dataclasses.fields(getattr(config, group))
            if not field.metadata.get("execution")
        }
        assert len(seen) == 1 + len(identity)
        assert identity >= {key for key, _ in items(config) if "." in key}


def test_two_options_with_equal_fields_differ() -> None:
    assert len({name(), name("norm=none"), name("scheduler=cosine"), name("norm=groupnorm")}) == 4


@dataclasses.dataclass
class Part:
    NAME = "part"
    old: int
    new: float = added(absent=0.0)
    how: str = execution()


@dataclasses.dataclass
class Root:
    part: Part
    seed: int = 0


def test_a_field_added_later_is_absent_at_its_absent_value() -> None:
    assert dict(items(Root(Part(1, 0.0, "a")))) == {"part.old": 1}
    assert dict(items(Root(Part(1, 0.5, "b")))) == {"part.old": 1, "part.new": 0.5}


def test_run_directory() -> None:
    config = compose(["seed=7", "output_root=some/where"])
    assert run_directory(config).parts == ("some", "where", cell_name(config), "seed=7")


def test_a_run_is_found_by_its_hash_whatever_its_label(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, interrupted, planned, swept, listed, verified, reported: one run, trained once."""
    sweep = ("-m", "seed=0,1", "hydra/launcher=basic", "trainer.progress=quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "step", lambda *of: os.kill(os.getpid(), signal.SIGTERM))
        assert program(*TINY, "seed=1").code == 128 + signal.SIGTERM
    assert program(*TINY).code == 0
    (cell,) = Path("outputs").iterdir()
    renamed = cell.rename(cell.with_name(f"in_other_words-{cell.name[-8:]}"))
    assert "completed before, skipped" in program(*TINY).out
    plan = program(*TINY, "--plan", "seed=0,1").out.splitlines()
    head, line = (next(x for x in plan if word in x) for word in (" done", cell.name[-8:]))
    counts = dict(zip(head.split(), re.split("  +", line), strict=True))
    assert (counts["runs"], counts["done"], counts["partial"]) == ("2", "1", "1")
    resumed = program(*TINY, "seed=1")
    assert resumed.code == 0
    assert "resumed at epoch 1" in resumed.out
    swept = program(*TINY, *sweep)
    assert swept.code == 0, swept.err
    assert list(Path("outputs").glob("*-*")) == [renamed]
    table = load_runs("outputs")
    assert list(table["cell"]) == [renamed.name] * 2
    assert list(table["status"]) == ["completed"] * 2
    for command in (["runs", "verify", "outputs"], ["evaluate", str(renamed / "seed=1")]):
        assert main(command) == 0
    assert "2 runs, 0 of them damaged" in capsys.readouterr().out
    # A cell may lie under two labels: each run where it is, a new one under the label of today.
    config = compose(TINY)
    cell.mkdir()
    (renamed / "seed=0").rename(cell / "seed=0")
    places = [run_directory(dataclasses.replace(config, seed=seed)) for seed in range(3)]
    assert [place.parent.name for place in places] == [cell.name, renamed.name, cell.name]
    assert load_runs("outputs")["cell"].nunique() == 1
    assert len(load_runs("outputs")) == 2
    shutil.copytree(cell / "seed=0", renamed / "seed=0")
    assert run_directory(config).parent.name == cell.name
    assert len(load_runs("outputs")) == 2
    assert len(load_runs("outputs").attrs["skipped"]) == 1
    # Of another configuration whose hash is the same by chance.
    shutil.rmtree(cell)
    record = json.loads((renamed / "seed=0" / "run.json").read_text())["config"]
    for run in renamed.iterdir():
        change_record(run, config=record | {"optimizer.lr": 3.0})
    assert run_directory(config).parent.name == cell.name


def changed(values: dict[str, Any]) -> Config:
    """The baseline with other values, whatever they are: names are made of any."""
    config = copy.deepcopy(BASELINE)
    for key, value in values.items():
        group, _, name = key.partition(".")
        object.__setattr__(getattr(config, group), name, value)
    return config


BASELINE = compose([])
NUMBERS = {
    float: st.floats(0, 1e9) | st.sampled_from([0.1, 0.10000000000000002, 1e-300]),
    int: st.integers(0, 2**63),
    bool: st.booleans(),
}
NUMERIC = {k: NUMBERS[type(v)] for k, v in items(BASELINE) if type(v) in NUMBERS}
CELLS = st.fixed_dictionaries({}, optional=NUMERIC | {"norm.detach": st.sampled_from(DETACH)})


@settings(deadline=None, derandomize=True, database=None)
@given(CELLS, CELLS)
def test_distinct_cells_have_distinct_names(one: dict[str, Any], other: dict[str, Any]) -> None:
    cells = [changed(one), changed(other)]
    keys = [repr(list(items(cell))) for cell in cells]
    assert (cell_name(cells[0]) == cell_name(cells[1])) == (keys[0] == keys[1])


@settings(deadline=None, derandomize=True, database=None)
@given(CELLS)
def test_a_name_is_a_short_folder(values: dict[str, Any]) -> None:
    name = cell_name(changed(values))
    assert len(name) <= LABEL_LENGTH + len("-1a2b3c4d")
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+-[0-9a-f]{8}", name)
    assert cell_name(changed(values)) == name


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LISTS = [st.lists(each, max_size=3) for each in (st.integers(), FLOATS, st.text(max_size=3))]
NESTED = [*LISTS, *(st.lists(each, max_size=3) for each in LISTS)]


@settings(max_examples=300)
@given(st.one_of(*(st.tuples(each, each) for each in NESTED)))
def test_two_lists_are_never_written_alike(both: tuple[list[Any], list[Any]]) -> None:
    """Tables group by what is written."""
    one, other = both
    assert (number(one) == number(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ([150, 225], "[150,225]"),
        ((0.9, 0.9999999), "[0.9,0.9999999]"),
        ([[1], []], "[[1],[]]"),
        (["a", "b,c", ""], '["a","b,c",""]'),
        ({"a": 1e-05, 2: None}, '{"a":1e-05,"2":null}'),
        ([True, None, 1.0], "[true,null,1.0]"),
        ("ReLU", "ReLU"),
        (0.00050, "0.0005"),
    ],
)
def test_values_are_written_as_people_write_them(value: Any, written: str) -> None:
    assert number(value) == written
