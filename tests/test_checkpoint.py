"""A checkpoint is looked at whole: every part of one, taken away or made another, is noticed.

By its checksum of the parts; one of an earlier version has none, and is taken as torch loads it.

The tampering is derived from checkpoints that runs have written, part by part.
"""

from __future__ import annotations

import copy
import functools
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Program, Trained
from test_run import interrupt_at, lines

from resnet_cifar import compose, load_model, train
from resnet_cifar.errors import UserError
from resnet_cifar.identity import run_directory
from resnet_cifar.record import checkpoint
from resnet_cifar.record.checkpoint import FORM
from resnet_cifar.record.schema import read_record

Place = tuple[Any, ...]  # the keys on the way to a part

WHOLE = [*TINY, "probe=full", "regularization.ema_decay=0.9", "regularization.clip_norm=1"]
KINDS = {
    "sgd": [*WHOLE, "regularization.weight_decay=0.01", "regularization.decay_norm_and_bias=false"],
    "adamw": [*WHOLE, "optimizer=adamw"],
    "fp16": [*WHOLE, "trainer.precision=fp16"],
}


class Interrupted:
    """A run that was interrupted in the middle of its second epoch, and what takes it up."""

    def __init__(self, overrides: list[str], root: Path) -> None:
        self.overrides = [*overrides, f"output_root={root}", "trainer.progress=quiet"]
        config = compose(self.overrides)
        self.directory = run_directory(config)
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 2, 2, signal.SIGTERM)
            with pytest.raises(BaseException, match="signal"):
                train(config)
        record = read_record(self.directory)
        assert record is not None
        self.record, self.steps = record, config.steps_per_epoch

    def check(self, state: dict[str, Any]) -> None:
        checkpoint.check_owner(state, Path("last.pt"), self.record, self.steps)


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory: pytest.TempPathFactory, _repeated_work_once: None) -> Any:
    return functools.cache(lambda kind: Interrupted(KINDS[kind], tmp_path_factory.mktemp(kind)))


SLOW = pytest.param("fp16", marks=pytest.mark.soak)  # without a GPU


@pytest.fixture(params=["sgd", "adamw", SLOW])
def run(request: pytest.FixtureRequest, of_kind: Callable[[str], Interrupted]) -> Interrupted:
    return of_kind(request.param)


@pytest.fixture
def sgd(of_kind: Callable[[str], Interrupted]) -> Interrupted:
    return of_kind("sgd")


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every part of a checkpoint: containers and leaves."""
    if place:
        yield place
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def test_the_places_are_all_there(run: Interrupted) -> None:
    state = checkpoint.load(run.directory / "last.pt")
    names = set(checkpoint.kinds(state))
    assert len(names) > len(list(places(state))) > 400


def at(state: Any, place: Place) -> Any:
    for key in place:
        state = state[key]
    return state


def changed(state: Any, place: Place, change: Callable[[Any], Any] | None) -> Any:
    """`state` with the part at `place` changed, or without it; nothing else is copied."""
    key, *rest = place
    parts = copy.copy(state)
    if rest:
        parts[key] = changed(parts[key], tuple(rest), change)
    elif change is None:
        del parts[key]
    else:
        parts[key] = change(parts[key])
    return parts


def tampered(value: Any) -> dict[str, Callable[[Any], Any] | None]:
    """What is done to a part, by the part."""
    ways: dict[str, Callable[[Any], Any] | None] = {
        "taken away": None,
        "None": lambda _: None if value is not None else 0,
        "text": lambda _: "text" if not isinstance(value, str) else 1,
        "a list": lambda _: [1.0] if not isinstance(value, list) else {},
    }
    if isinstance(value, torch.Tensor):
        ways |= {
            "another shape": lambda x: torch.zeros([*x.shape, 2], dtype=x.dtype),
            "a part": lambda x: x.flatten()[:-1] if x.numel() > 1 else x.reshape(1, 1),
            "half": lambda x: x.half(),
            "whole numbers": lambda x: x.int(),
            "complex": lambda x: x.to(torch.complex64),
            "sparse": lambda x: x.reshape(-1).to_sparse(),
            "meta": lambda x: x.to("meta"),
            "huge": lambda x: torch.zeros(1, dtype=x.dtype).expand(10**12),
        }
    elif isinstance(value, (dict, list)):
        ways["empty"] = lambda x: type(x)() if x else type(x)([(1, 2)])
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        ways |= {"a truth": lambda _: True, "a fraction": lambda x: x + 0.5}
        ways["whole"] = lambda x: int(x) if isinstance(x, float) else -1 - x
    return ways


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cases(state: Any) -> list[tuple[Place, str]]:
    """Every way to tamper with every part that matters."""
    return [
        (place, name)
        for place in places(state)
        for name in tampered(at(state, place))
        if place[0] not in ("digests", FORM)
    ]


def look_at_every_part(run: Interrupted, chosen: Callable[[list[Any]], list[Any]]) -> None:
    whole = checkpoint.load(run.directory / "last.pt")
    run.check(whole)
    file, accepted = run.directory.parent / "tampered.pt", set()
    for place, name in chosen(cases(whole)):
        change = tampered(at(whole, place))[name]
        torch.save(changed(whole, place, change), file)
        try:
            run.check(checkpoint.load(file))
            accepted.add((place, name))
        except UserError as error:
            if "\n" in str(error):
                raise
    # Another number of the same kind in its place is not to be seen; the archive's checksums are.
    numbers = {(place, name) for place, name in accepted if name in ("a fraction", "whole")}
    assert accepted - numbers == set()
    assert {place[0] for place, _ in numbers} <= {
        *("best", "best_weights", "ema_updates", "optimizer", "scaler")
    }


def test_some_parts_are_looked_at(run: Interrupted) -> None:
    look_at_every_part(run, lambda cases: random.Random(0).sample(cases, 40))


@pytest.mark.soak
def test_every_part_is_looked_at(run: Interrupted) -> None:
    look_at_every_part(run, lambda cases: cases)


MOMENTUM = ("optimizer", "state", 3, "momentum_buffer")
STEM, EMA, GROUPS = ("model", "stem.weight"), ("ema", "norm.bias"), ("optimizer", "param_groups")
# Of both checkpoints, what is done to a part, if the checksum of the parts stays, what is said.
DAMAGED = "is damaged: parts are missing or of another kind"
TAMPERED: dict[str, tuple[bool, Place, Callable[[Any], Any] | None, bool, str]] = {
    "nothing": (False, ("epoch",), lambda x: x, False, ""),
    "momentum": (False, MOMENTUM, lambda x: torch.zeros(10**6), True, DAMAGED),
    "half weights": (True, STEM, lambda x: x.half(), False, "model.stem.weight is float16 [2, 3"),
    "complex weights": (True, STEM, lambda x: x.cfloat(), False, "model.stem.weight is complex64"),
    "a weight more": (
        True, STEM[:1], lambda x: {**x, "bias": torch.zeros(2)}, False, "[2], not in this network",
    ),
    "a short average": (False, EMA, lambda x: x[:-1], False, "ema.norm.bias is float32 [1], not"),
    "no average": (False, EMA[:1], None, False, "ema is missing"),
    "no sums": (False, ("totals",), None, False, "writes it (KeyError: 'totals')"),
    "no groups": (False, GROUPS, lambda x: [], False, "writes it (ValueError: "),
    "no epoch": (False, ("epoch",), None, False, "is at epoch None: not one that a run of 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_the_previous_one_is_used_or_none(
    sgd: Interrupted, trained: Trained, program: Program, name: str
) -> None:
    """The numbers are those of an undisturbed run."""
    copied = Path("outputs", *sgd.directory.parts[-2:])
    shutil.copytree(sgd.directory, copied)
    both, place, change, form, said = TAMPERED[name]
    for file in ("last.pt", "last.previous.pt")[: 1 + both]:
        state = changed(torch.load(copied / file, weights_only=True), place, change)
        torch.save(state if form else changed(state, (FORM,), None), copied / file)
    told = program(*KINDS["sgd"], "trainer.progress=plain")
    assert "Traceback" not in told.err
    if both:
        assert told.code == 1
        assert told.err.count("\n") == 1
        assert said in told.err
        assert "no other is left: rerun=true sets the run aside" in told.err
    else:
        assert (told.code, told.err) == (0, "")
        assert said in told.out
        assert told.out.count("checkpoint") == (name != "nothing")
        assert lines(copied) == lines(trained(*KINDS["sgd"][len(TINY) :]))


def test_weights_that_do_not_fit_the_network_are_named(sgd: Interrupted, tmp_path: Path) -> None:
    """A person's own under the right names, in the place of a run's that goes on."""
    for weights, file in (("last", "last.pt"), ("best", "best.pt"), ("ema", "last.pt")):
        key = "ema" if weights == "ema" else "model"
        ways = tampered(torch.zeros(2))
        for name in (
            ("taken away", "a part", "half", "complex", "sparse")
            if weights == "last"
            else ("half",)
        ):
            copied = tmp_path / "run"
            shutil.copytree(sgd.directory, copied)
            state = torch.load(copied / file, weights_only=True)
            state = changed(state, (key, "norm.weight"), ways[name])
            del state[FORM]
            torch.save(state, copied / file)
            assert file in refusal(functools.partial(load_model, copied, weights)), name
            shutil.rmtree(copied)
