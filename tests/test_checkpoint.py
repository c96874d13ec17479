"""A checkpoint is looked at whole: every part of one, taken away or made another, is noticed.

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
from resnet_cifar.record.checkpoint import FORM, ExpectedRun
from resnet_cifar.training.state import State

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
        found: list[tuple[ExpectedRun, State]] = []

        def stop_at_check(owner: ExpectedRun, *_: object) -> None:
            found.append((owner, owner.compare.__self__))
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 2, 2, signal.SIGTERM)
            with pytest.raises(BaseException, match="signal"):
                train(config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ExpectedRun, "check", stop_at_check)
            with pytest.raises(KeyboardInterrupt):
                train(config)
        self.owner, self.state = found[0]


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


def free(place: Place) -> bool:
    """The parts without which, or with others, the same numbers come out; and times."""
    if place[:2] == ("optimizer", "param_groups"):  # the configuration says them
        return len(place) >= 4 and place[3] != "params"
    return place[0] in ("digests", FORM)


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
    run.owner.check(whole, Path("last.pt"))
    # One of an earlier version has no checksum of its parts.
    earlier = changed(whole, (FORM,), None)
    run.owner.check(earlier, Path("last.pt"))
    file, accepted = run.directory.parent / "tampered.pt", set()
    for place, name in chosen(cases(whole)):
        change = tampered(at(whole, place))[name]
        torch.save(changed(whole, place, change), file)
        try:
            run.owner.check(checkpoint.load(file), file)
            accepted.add((place, name))
        except UserError as error:
            if "\n" in str(error):
                raise
    for place, name in chosen(cases(earlier)):
        if free(place):
            continue
        change = tampered(at(earlier, place))[name]
        try:
            run.owner.check(changed(earlier, place, change), file)
            accepted.add((place, name))
        except (UserError, ValueError):  # ValueError: `load` would have said it
            pass
    # Another number of the same kind in its place is not to be seen; the archive's checksums are.
    numbers = {(place, name) for place, name in accepted if name in ("a fraction", "whole")}
    no_scaler = {(("scaler",), "taken away")}  # of another machine: in an earlier version's
    assert accepted - numbers - no_scaler == set()
    assert {place[0] for place, _ in numbers} <= {"best", "optimizer", "scaler"}


def test_some_parts_are_looked_at(run: Interrupted) -> None:
    look_at_every_part(run, lambda cases: random.Random(0).sample(cases, 40))


@pytest.mark.soak
def test_every_part_is_looked_at(run: Interrupted) -> None:
    look_at_every_part(run, lambda cases: cases)


MOMENTUM = ("optimizer", "state", 3, "momentum_buffer")
TAMPERED: dict[str, tuple[Place, Callable[[Any], Any] | None, str]] = {
    "nothing": (("epoch",), lambda x: x, ""),
    "momentum of another shape": (MOMENTUM, lambda x: torch.zeros(10**6), "float32 [1000000], not"),
    "no momentum": (MOMENTUM, None, "state[3].momentum_buffer is missing"),
    "no state": (("optimizer", "state"), lambda x: {}, "optimizer.state[0] is missing"),
    "no rotations": (("rotations",), None, "rotations is missing, not float64"),
    "no sums": (("totals",), None, "totals is missing, not float64 [2]"),
    "complex weights": (("model", "stem.weight"), lambda x: x.cfloat(), "stem.weight is complex64"),
    "half weights": (("model", "stem.weight"), lambda x: x.half(), "stem.weight is float16"),
    "a weight more": (("model",), lambda x: {**x, "bias": torch.zeros(2)}, "model.bias is none of"),
    "average of others": (("ema_updates",), lambda x: x + 1, "with 8 averaged updates"),
    "a best of 7": (("best", "accuracy/val"), lambda x: 7.0, "accuracy/val=7.0 is not between"),
    "other weights' groups": (
        ("optimizer", "param_groups", 0, "params"), lambda x: x[::-1], "are of other weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_part_that_is_not_this_run_s_is_named(sgd: Interrupted, name: str) -> None:
    place, change, said = TAMPERED[name]
    state = changed(checkpoint.load(sgd.directory / "last.pt"), place, change)
    with_form = state.get(FORM) == checkpoint._form(state)
    assert with_form == (name in ("nothing", "average of others", "a best of 7",
                                  "other weights' groups"))  # fmt: skip
    del state[FORM]
    if said:
        assert said in refusal(lambda: sgd.owner.check(state, Path("last.pt")))
    else:
        sgd.owner.check(state, Path("last.pt"))


@pytest.mark.parametrize(
    ("name", "form", "both"),
    [
        ("nothing", False, False),
        ("momentum of another shape", False, False),
        ("momentum of another shape", True, False),
        ("half weights", False, True),
    ],
)
def test_the_previous_one_is_used_or_none(
    sgd: Interrupted, trained: Trained, program: Program,
    name: str, form: bool, both: bool,
) -> None:  # fmt: skip
    """The numbers are those of an undisturbed run."""
    copied = Path("outputs", *sgd.directory.parts[-2:])
    shutil.copytree(sgd.directory, copied)
    place, change, _ = TAMPERED[name]
    for file in ("last.pt", "last.previous.pt")[: 1 + both]:
        state = changed(torch.load(copied / file, weights_only=True), place, change)
        torch.save(state if form else changed(state, (FORM,), None), copied / file)
    told = program(*KINDS["sgd"], "trainer.progress=plain")
    assert "Traceback" not in told.err
    if both:
        assert told.code == 1
        assert told.err.count("\n") == 1
        assert "no other is left: rerun=true sets the run aside" in told.err
    else:
        assert (told.code, told.err) == (0, "")
        assert ("checkpoint" in told.out) == (name != "nothing")
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
