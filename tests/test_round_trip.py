"""Every option there is, with values of its type: trained, and read by everything that reads runs.

Groups, options and fields are found, and values for them by the fields' types. A person's own
options are among them: one with a field of every type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shlex
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from conftest import TINY, Program
from omegaconf import OmegaConf
from PIL import Image
from test_run import interrupt_at

from resnet_cifar.__main__ import main
from resnet_cifar.config.compose import CONF, compose, compose_untyped
from resnet_cifar.config.keys import known_identity_keys
from resnet_cifar.config.saved import OF_ONE_CALL, check_readable, load, reproduce_command
from resnet_cifar.config.schema import Config, groups
from resnet_cifar.errors import ConfigError
from resnet_cifar.identity import flatten, number, run_directory
from resnet_cifar.paths import USER_CONFIG
from resnet_cifar.record.schema import check_readable as check_record
from resnet_cifar.record.schema import read_record
from resnet_cifar.results import load_metrics, load_runs
from resnet_cifar.runs import listing
from resnet_cifar.runs.find import find_runs
from resnet_cifar.sweep import plan
from resnet_cifar.sweep.answer import print_answer, varying
from resnet_cifar.training.run import begin_record

OWN = """
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from resnet_cifar.identity import added, execution
from resnet_cifar.optim.optimizer import SGD


@dataclass
class Typed(SGD):
    NAME: ClassVar[str] = "typed"
    flag: bool
    whole: int
    real: float
    text: str
    maybe_whole: Optional[int]
    maybe_text: str | None
    maybe_list: list[int] | None
    wholes: list[int]
    reals: list[float]
    texts: list[str]
    nested: list[list[int]]
    pair: tuple[int, int]
    many: tuple[float, ...]
    table: dict[str, float]
    by_number: dict[int, str]
    deep: dict[str, list[int]]
    untyped: list
    anything: Any
    either: int | str
    note: str = execution()
    notes: list[str] = execution()
    since: list[int] = added([])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pair = tuple(self.pair)
"""
OWN_VALUES = """
defaults:
  - /hydra/schema/optimizer/typed@_here_
lr: 0.01
momentum: 0.9
dampening: 0.0
nesterov: false
flag: true
whole: 3
real: 0.5
text: plain
maybe_whole: null
maybe_text: null
maybe_list: null
wholes: [3]
reals: [0.5]
texts: [a]
nested: [[3]]
pair: [3, 4]
many: [0.5]
table: {a: 0.5}
by_number: {1: a}
deep: {a: [3]}
untyped: [3, a]
anything: a
either: 3
note: plain
notes: [a]
since: []
"""
# As people type them, without quotes.
TEXTS = [
    *("2026.10", "1e3", "true", "NULL", "0x10", "1_000", "on", "2026-10-01", "1:30", "inf", "~"),
    *("a b", "it's", "[old]", "{new}", "runs (copy)", "choice", "a=b", "#1", "$HOME", "ü", "-1"),
    *("\\", "C:\\runs\\", "a\\", "%", "@x", "!", "&", "null and void", '5"', "None", ".5", "*"),
]
# Fields of which a machine without a GPU, or a minute, leaves little choice.
HERE: dict[str, list[Any]] = {
    "trainer.device": ["auto"],
    "trainer.compile": ["false"],
    "trainer.precision": ["bf16"],
    "trainer.progress": ["quiet"],
    "trainer.epochs": [3],
    "scheduler.milestones": [[1]],
    "scheduler.step_size": [1],
}
# What can't be trained with here, its files are missing or another program's server; and keys that
# say what to do about a run and where, not which.
UNTRAINED = ("data=cifar10", "data=cifar100", "logger=mlflow", "logger=wandb")
OF_A_CALL = (*OF_ONE_CALL, "output_root")
CHECK_NEW = Config.check_new  # which the tests leave out where they can
ROOT = "2026.10"  # of the trained runs

Called = Callable[..., str]
Part = tuple[str, type[Any]]  # a group and one of its options; "" and Config: the root
Parts = dict[Part, tuple[str, Any]]  # of each option the name of its file, and its values there


def proposals(hint: Any, now: Any) -> list[Any]:
    """Values of a type, more than a field needs: which are allowed is the field's business."""
    inside = [each for each in get_args(hint) if each not in (NoneType, ...)]
    kind = get_origin(hint) or hint
    if NoneType in get_args(hint):
        return [*proposals(inside[0], now), None]
    if kind in (list, tuple):
        first, second = proposals(inside[0], None)[:2] if inside else (1, 2)
        return [[first, second], [first], [second], []]
    if kind is dict:
        values = proposals(inside[1], None)[:2] if inside[1] is not str else ["x", "y"]
        names = [1, 2] if inside[0] is int else ["b", "layer1.0"]
        return [dict(zip(names, itertools.cycle(values), strict=False))]
    near = {int: lambda x: [x + 1, x - 1], float: lambda x: [x / 2]}
    first = near[hint](now) if hint in near and type(now) is hint else []
    return {
        bool: [True, False],
        int: [*first, 1, 2, 0],
        float: [*first, 0.25, 1e-05, 0.5, 1.0, 1.5, 0.0],
        str: TEXTS,
        Any: ["x", None, 2.5, ["a", None, [True]], {"a": [1, {"b": "x"}]}],
    }.get(kind, [7, "x"])  # of several types


def typed(value: Any) -> str:
    """A value as a person types it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{typed(each)}' for key, each in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def find_parts(own: Path | None = None) -> Parts:
    """Every option, of this project and of one's own directory."""
    parts: Parts = {("", Config): ("", None)}
    for group, kinds in groups().items():
        folders = [CONF / group, *([own / group] if own else [])]
        for path in sorted(path for each in folders for path in each.glob("*.yaml")):
            values = compose_untyped([f"{group}={path.stem}"])[group]
            for key, value in (word.split("=") for word in TINY if word.startswith(f"{group}.")):
                if (name := key.partition(".")[2]) in values:
                    values[name] = value
            parts.setdefault((group, OmegaConf.get_type(values)), (path.stem, values))
        assert {kind for name, kind in parts if name == group} == set(kinds)
    return parts


def fields(part: Part) -> dict[str, Any]:
    """The fields of an option, each with its type."""
    hints = get_type_hints(part[1])
    names = [field.name for field in dataclasses.fields(part[1])]
    return {name: hints[name] for name in names if part[1] is not Config or name not in groups()}


def option(config: Config, group: str) -> Any:
    return getattr(config, group) if group else config


def put(config: Config, group: str, name: str, value: Any) -> Config:
    """The configuration with another value of a field. Raises ConfigError."""
    changed: Any = dataclasses.replace(option(config, group), **{name: value})
    return dataclasses.replace(config, **{group: changed}) if group else changed


def choose(config: Config, part: Part, parts: Parts) -> Config | None:
    """The configuration with another option, one of its values another one if it has to be."""
    group, kind = part
    if not group:
        return config
    values = OmegaConf.to_container(parts[part][1])
    assert isinstance(values, dict)
    others = [{name: v} for name, hint in fields(part).items() for v in proposals(hint, 1)]
    for other in ({}, *others):
        with contextlib.suppress(ConfigError):
            return dataclasses.replace(config, **{group: kind(**(values | other))})
    return None


def other_values(config: Config, part: Part, name: str, trained: bool = False) -> list[Any]:
    """The values of a field other than the configuration's that are allowed.

    A field for which only some words are allowed says in its refusal which.
    """
    group, _ = part
    key, hint, now = f"{group}.{name}".lstrip("."), fields(part)[name], option(config, group)
    now = getattr(now, name)
    proposed = HERE.get(key, []) if trained and key in HERE else proposals(hint, now)
    if hint is str:
        try:
            put(config, group, name, "none of these")
        except ConfigError as refused:
            allowed = re.findall(r"[a-z0-9_]+", str(refused).partition(": must be")[2])
            proposed = proposed if trained and key in HERE else allowed
    found = []
    for value in proposed:
        with contextlib.suppress(ConfigError):
            put(config, group, name, value)
            found += [value] * (repr(value) != repr(now) and value not in found)
    return found


def cover(
    parts: Parts, chosen: Iterable[Part], trained: bool = False, most: int = 99
) -> list[Config]:
    """Configurations that together have every option chosen, and other values of its fields.

    Args:
        trained: leave out what can't be trained with here.
        most: values of a field.
    """
    base, starts = compose(TINY), itertools.count(0, most)
    pending: dict[Part, dict[str, list[Any]]] = {}
    for part in chosen:
        if trained and f"{part[0]}={part[1].NAME if part[0] else ''}" in UNTRAINED:
            continue
        config = choose(base, part, parts)
        assert config is not None, f"{part} is allowed with no value"
        names = [name for name in fields(part) if not (trained and name in OF_A_CALL)]
        values = {name: other_values(config, part, name, trained) for name in names}
        assert all(values.values()), f"{part} has a field without a second value: {values}"
        pending[part] = {"": [None]}
        for name, each in values.items():
            start = 0 if trained else next(starts) % len(each)  # other words for another field
            pending[part][name] = [*each[start:], *each[:start]][:most]
    covered: list[Config] = []
    while any(any(values.values()) for values in pending.values()):
        config, news = base, 0
        for group in dict.fromkeys(group for group, _ in pending):
            mine = [part for part in pending if part[0] == group]
            part = max(mine, key=lambda each: sum(map(len, pending[each].values())))
            other = choose(config, part, parts)
            config = other or config
            for name, values in pending[part].items() if other else ():
                for value in values:
                    with contextlib.suppress(ConfigError):
                        config = put(config, group, name, value) if name else config
                        values.remove(value)
                        news += 1
                        break
        assert news, f"in no configuration: {pending}"
        covered.append(config)
    return covered


def command(config: Config, parts: Parts) -> list[str]:
    """The command line that a person types for a configuration, with every field of it."""
    words = [f"{g}={parts[g, type(option(config, g))][0]}" for g in groups()]
    for group in ("", *groups()):
        part = (group, type(option(config, group)))
        for name in fields(part):
            key, value = f"{group}.{name}".lstrip("."), getattr(option(config, group), name)
            if isinstance(value, dict):  # Hydra merges: what is in the file goes by its name
                before = parts[part][1][name]
                words += [f"~{key}.{n}" for n in before if n not in value and type(n) is str]
            words.append(f"{key}={typed(value)}")
    return words


@pytest.fixture(autouse=True)
def _also_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow every combination of values: which have an effect is tested with the options."""
    monkeypatch.setattr(Config, "check_new", lambda *of: None)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of one's own options: one with a field of every type."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "optimizer").mkdir()
    (folder / "own_typed.py").write_text(OWN)
    (folder / "optimizer" / "typed.yaml").write_text(OWN_VALUES)
    return folder


@pytest.fixture
def own(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That directory, in use."""
    monkeypatch.setenv(USER_CONFIG, str(own_folder))
    return own_folder


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Called:
    """`called("runs", "outputs")` is what a command prints, which must end well."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.mark.usefixtures("_repeated_work_once")
def test_every_value_is_typed_kept_and_written_as_a_command() -> None:
    parts = find_parts()
    check_values(parts, parts, most=6)


def check_values(parts: Parts, chosen: Iterable[Part], most: int) -> None:
    for config in cover(parts, chosen, most=most):
        assert compose(command(config, parts)) == config
        check_written(config)


def check_written(config: Config) -> None:
    """It comes back from config.yaml, run.json and the command that is printed."""
    check_readable(config)
    check_record(run_directory(config), begin_record(config))
    again = compose(shlex.split(reproduce_command(config))[2:])
    assert again == dataclasses.replace(config, rerun=False, when_busy="wait")
    assert run_directory(again) == run_directory(config)


def test_own_values_are_typed_kept_and_written_as_a_command(own: Path) -> None:
    parts = find_parts(own)
    check_values(parts, [part for part in parts if part[1].__name__ == "Typed"], most=3)
    for name, value in {  # for which a person needs quotes, or a key of its own
        "texts": ["${x}", "\\", 'a"b', "it's", "a,b", "", "null", "???!", "\n"],
        "table": {"b1": 1e-300, "a": -0.0, "p q:r": 1e22},
        "deep": {},
        "nested": [],
        "either": "7",
        "anything": {"a": ["1e3", {"k": "null"}]},
    }.items():
        check_written(put(compose(["optimizer=typed"]), "optimizer", name, value))
    with pytest.raises(ConfigError, match=r"no command line can hold .* config\.yaml"):
        reproduce_command(put(compose(["optimizer=typed"]), "optimizer", "table", {"1": 0.5}))


def test_every_option_is_trained_and_read(
    program: Program, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One other value for every field: train, skip, interrupt, resume, and every reader."""
    parts = find_parts()
    check_all(program, called, parts, list(parts), monkeypatch)


def test_own_options_are_trained_and_read(
    program: Program, called: Called, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = find_parts(own)
    mine = [part for part in parts if part[1].__name__ == "Typed"]
    check_all(program, called, parts, mine, monkeypatch)
    sweep = ["optimizer=typed", "optimizer.texts=[1e3,b],[true]", "optimizer.text=1_000"]
    outcome = program("-m", *TINY, *sweep, "output_root=swept", "trainer.progress=plain")
    assert outcome.code == 0, outcome.err
    assert {'texts=["1e3","b"]', 'texts=["true"]'} <= set(outcome.out.split())
    assert {row["optimizer.text"] for row in json.loads(called("runs", "swept", "--json"))} == {
        "1_000"
    }


@pytest.mark.soak
@pytest.mark.parametrize("group", ["", *groups()])
def test_every_value_is_trained_swept_and_searched(
    program: Program, called: Called, own: Path, group: str
) -> None:
    """All values of all fields, one after the other; processes and trials that train."""
    parts = find_parts(own)
    mine = [part for part in parts if part[0] == group]
    check_trained(program, called, parts, cover(parts, mine, trained=True))
    for part in mine:
        if f"{group}={part[1].NAME if group else ''}" in UNTRAINED:
            continue
        config = choose(compose(TINY), part, parts)
        assert config is not None
        for name in [name for name in fields(part) if name not in OF_A_CALL]:
            usual = getattr(option(config, group), name)
            other = other_values(config, part, name, trained=True)[0]
            if not has_effect(config) or not has_effect(with_value(config, group, name, other)):
                continue  # a process refuses it
            key = f"{group}.{name}".lstrip(".")
            swept = f"{key}={typed(usual)},{typed(other)}"
            words = [word for word in command(config, parts) if not word.startswith(f"{key}=")]
            for more in (["-m"], ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]):
                root = f"output_root={name}-{len(more)}"
                outcome = program(*more, "trainer.progress=plain", *words, swept, root)
                assert outcome.code == 0, (swept, outcome.err)


def with_value(config: Config, group: str, name: str, value: Any) -> Config:
    """The configuration with another value of a field of its option of `group`, or of its own."""
    if not group:
        return dataclasses.replace(config, **{name: value})
    part = dataclasses.replace(getattr(config, group), **{name: value})
    return dataclasses.replace(config, **{group: part})


def has_effect(config: Config) -> bool:
    """True unless a new run of it is refused."""
    with contextlib.suppress(ConfigError):
        CHECK_NEW(config, Path("not begun"))
        return True
    return False


def check_all(
    program: Program,
    called: Called,
    parts: Parts,
    chosen: list[Part],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "find_speed", lambda *of: (1e6, ""))
    configs = cover(parts, chosen, trained=True, most=1)
    for config in configs:
        check_searched(program, config, parts)
    check_trained(program, called, parts, configs)


def check_searched(program: Program, config: Config, parts: Parts) -> None:
    """Search over every field at once, between its usual value and the configuration's."""
    usual = compose(TINY)
    for part in [part for part in parts if part[0]]:
        if type(option(config, part[0])) is part[1]:
            usual = choose(usual, part, parts) or usual
    words, both = [command(each, parts) for each in (usual, config)], []
    values = [dict(w.split("=", 1) for w in each if not w.startswith("~")) for each in words]
    for key, first in values[0].items():
        other = values[1][key]
        both.append(f"{key}={first}" + f",{other}" * (other != first))
        if other != first and key in known_identity_keys():
            value = flatten(config)[key]
            assert f"={number(value)}" in " ".join(varying([usual, config])[1]), key
            assert known_identity_keys()[key].takes(value)
    outcome = program("--plan", "hydra/sweeper=optuna", *both)
    assert outcome.code == 0, outcome.err
    assert "the first runs of a search" in outcome.out


def check_trained(program: Program, called: Called, parts: Parts, configs: list[Config]) -> None:
    named: dict[Path, Config] = {}
    for config in configs:
        config = dataclasses.replace(config, output_root=ROOT)
        while run_directory(config) in named:  # they differ in how they are executed only
            config = dataclasses.replace(config, seed=config.seed + 1000)
        named[run_directory(config)] = config
    configs = list(named.values())
    image = Path("image.png")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    for config in configs:
        words, directory = command(config, parts), run_directory(config)
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 1, 0, signal.SIGTERM)
            assert program(*words).code == 128 + signal.SIGTERM
        assert status(directory) == "interrupted"
        outcome = program(*words)
        assert outcome.code == 0, outcome.err
        assert status(directory) == "completed"
        log = (directory / "train.log").read_text()
        assert "resumed at epoch 1" in log
        assert "goes on without it" not in log  # TensorBoard, or a tracker
        before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
        assert program(*words).code == 0
        assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
        record = read_record(directory)
        assert record is not None
        assert record.config == flatten(config)
        assert load(directory / "config.yaml") == config
        assert called("runs", "command", directory).strip() == reproduce_command(config)
        called("evaluate", directory, "--test")
        called("predict", directory, image)
        called("export", directory, f"{directory.parent.name}_{directory.name}.safetensors")
    check_readers(called, configs)


def status(directory: Path) -> str:
    record = read_record(directory)
    assert record is not None
    return record.status


def check_readers(called: Called, configs: list[Config]) -> None:
    """Whatever reads all runs, with every key that they have."""
    assert "0 of them damaged" in called("runs", "verify", ROOT)
    runs = find_runs(Path(ROOT))
    assert len(runs) == len({run_directory(config) for config in configs})
    keys = dict.fromkeys(key for run in runs for key in run.row)
    listed = called("runs", ROOT, "--columns", ",".join(keys))
    rows = json.loads(called("runs", ROOT, "--json"))
    assert len(rows) == len(called("runs", ROOT, "--csv").splitlines()) - 1 == len(runs)
    frame = load_runs(ROOT)
    assert len(load_metrics(frame)) >= 2 * len(runs)
    for config in configs:
        flat = flatten(config)
        row = next(row for row in rows if row["directory"] == str(run_directory(config)))
        for key, value in flat.items():
            shown = number(value) if isinstance(value, (list, dict)) else value
            assert row[key] == shown or key == "output_root"
            if value not in (None, "") and "," not in str(value).replace(", ", ""):
                said = number(value) if isinstance(value, (list, dict)) else typed(value)
                found = [r for r in runs if listing.meets(r.row, key, "=", said)]
                assert str(run_directory(config)) in map(str, (r.path for r in found)), key
            assert value is None or isinstance(value, float) or number(value) in listed
    for key in keys:
        assert len(listing.sort_rows(rows, key, reverse=True)) == len(runs)
    for key in frame.columns:
        frame.groupby(key, dropna=False).size()
        frame.drop_duplicates(key).sort_values(key, key=lambda column: column.astype(str))
    for a, b in itertools.pairwise(configs):
        said = called("runs", "diff", run_directory(a), run_directory(b))
        flats = flatten(a), flatten(b)
        for key in flats[0].keys() & flats[1].keys() - {"output_root"}:
            if flats[0][key] != flats[1][key]:
                assert f"\n{key} " in said
    print_answer(configs)
    called("report", ROOT, "--quiet")
