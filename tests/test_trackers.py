"""Trackers beside TensorBoard: read back by their own means, without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from conftest import TINY, Program
from test_run import interrupt_at
from test_sweep import ENVIRONMENT, start

from resnet_cifar.config.compose import compose
from resnet_cifar.config.saved import load, to_yaml
from resnet_cifar.errors import UserError
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.record import checkpoint, logger, tracker
from resnet_cifar.record.logger import TensorBoard, WandB
from resnet_cifar.record.schema import Tracked, read_record
from resnet_cifar.record.tensorboard import Board
from resnet_cifar.record.tracker import TrackedRun, Tracker
from resnet_cifar.results import load_runs
from resnet_cifar.runs.command import main as runs
from resnet_cifar.sweep.answer import print_answer
from resnet_cifar.sweep.job import RunJob

RUN = run_directory(compose(TINY))


def interrupted_once(program: Program, *options: str) -> None:
    """A run of two epochs, stopped by a signal in the second and taken up again."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        assert program(*TINY, *options).code == 143
    time.sleep(1)  # W&B calls a session's folder by the second; a person's sessions are apart
    outcome = program(*TINY, *options)
    assert outcome.code == 0, outcome.err
    assert "goes on without it" not in outcome.out


def tracked() -> list[Tracked]:
    record = read_record(RUN)
    assert record is not None
    return [session.tracked for session in record.sessions if session.tracked]


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("default")
def test_mlflow_has_one_run_of_it_with_each_epoch_once(program: Program) -> None:
    pytest.importorskip("mlflow", reason='needs pip install -e ".[mlflow]"')
    interrupted_once(program, "logger=mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("resnet-cifar")
    (found,) = client.search_runs([experiment.experiment_id])
    assert [t.id for t in tracked()] == [found.info.run_id] * 2
    assert found.info.status == "FINISHED"
    assert found.info.run_name == str(RUN.relative_to("outputs"))
    assert found.data.params["optimizer.lr"] == "0.01"
    assert found.data.tags["cell"] == RUN.parent.name
    for name in ("accuracy/val", "loss/train", "lr"):
        history = client.get_metric_history(found.info.run_id, name)
        assert [m.step for m in history] == [1, 2]
        assert [m.value for m in history] == pytest.approx([line[name] for line in lines()])


@pytest.mark.filterwarnings("default")
def test_wandb_offline_has_one_run_of_it_with_each_epoch_once(program: Program) -> None:
    pytest.importorskip("wandb", reason='needs pip install -e ".[wandb]"')
    interrupted_once(program, "logger=wandb", "logger.mode=offline")
    (identity,) = {t.id for t in tracked()}
    files = sorted(Path("outputs/wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2  # a session each, of one id: `wandb sync` makes one run of them
    rows: dict[int, dict[str, Any]] = {}
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_id == identity
                assert record.run.display_name == str(RUN.relative_to("outputs"))
            elif record.WhichOneof("record_type") == "history":
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                assert row["_step"] not in rows
                rows[row["_step"]] = row
    assert sorted(rows) == [1, 2]
    for line in lines():
        for name in ("accuracy/val", "loss/train", "lr"):
            assert rows[line["epoch"]][name] == pytest.approx(line[name])


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, block = path.read_bytes(), 32768
    assert content.startswith(b":W&B")
    found, at, parts = [], 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:  # no room for a header: the rest of the block is filled up
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


class Notebook(Tracker):
    """Keeps what it is told, run by run; fails where it is told to."""

    runs: ClassVar[dict[str, list[int]]]
    fails_at: int | None

    def __init__(self, run: TrackedRun) -> None:
        self.id = run.id or f"run{len(self.runs)}"
        self.runs.setdefault(self.id, [])

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        if metrics["epoch"] == self.fails_at:
            raise OSError("no ink")
        self.runs[self.id].append(metrics["epoch"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    class Ours(Notebook):
        runs: ClassVar[dict[str, list[int]]] = {}
        fails_at = None

    monkeypatch.setattr(TensorBoard, "open", lambda self, run: Ours(run))
    return Ours


def test_a_tracker_that_fails_is_said_once_and_given_the_rest_later(
    program: Program, notebook: type[Notebook]
) -> None:
    notebook.fails_at = 2
    long = [*TINY, "trainer.epochs=5"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 4, 1, signal.SIGTERM)
        outcome = program(*long)
    assert outcome.out.count("logger=tensorboard: OSError: no ink; the run goes on without it") == 1
    assert notebook.runs == {"run0": [1]}
    notebook.fails_at = None
    outcome = program(*long)
    assert "completed" in outcome.out
    assert notebook.runs == {"run0": [1, 2, 3, 4, 5]}


def test_an_epoch_trained_again_is_not_told_twice_and_a_new_run_is_a_new_one(
    program: Program, notebook: type[Notebook]
) -> None:
    original = checkpoint.save

    def die(path: Path, state: dict[str, Any], *rest: Any) -> None:
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        original(path, state, *rest)

    with pytest.MonkeyPatch.context() as patch:  # after an epoch's numbers, before its checkpoint
        patch.setattr(checkpoint, "save", die)
        program(*TINY)
    assert notebook.runs == {"run0": [1, 2]}
    assert program(*TINY).code == 0
    assert notebook.runs == {"run0": [1, 2]}
    assert program(*TINY, "rerun=true").code == 0
    assert notebook.runs == {"run0": [1, 2], "run1": [1, 2]}


def test_tensorboard_can_fail_too(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Board, metrics: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Board, "scalars", full)
    outcome = program(*TINY)
    assert outcome.code == 0
    assert outcome.out.count("TensorBoard: OSError: disk full; the run goes on without it") == 1
    assert len(lines()) == 2


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_extra_is_said_before_anything_is_written(
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    sweep: list[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    outcome = program(*TINY, f"logger={package}", *sweep)
    assert outcome.code == 1
    said = f'logger={package} needs more packages: pip install -c constraints.txt -e ".[{package}]"'
    assert outcome.err == f"error: {said}\n"
    assert list(tmp_path.iterdir()) == []


def test_names_and_old_files_know_nothing_of_it(tmp_path: Path) -> None:
    plain, chosen = compose(TINY), compose([*TINY, "logger=wandb", "logger.mode=offline"])
    assert cell_name(plain) == cell_name(chosen)
    assert flatten(chosen)["logger.mode"] == "offline"
    text = to_yaml(plain)
    assert "logger:\n  name: tensorboard\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("logger:\n  name: tensorboard\n", ""))
    assert load(tmp_path / "config.yaml") == plain


# Trackers that give no answer, and what they missed ----------------------------------------------

OFFLINE = ("logger=wandb", "logger.mode=offline")
METHODS = [name for name, of in vars(Tracker).items() if callable(of)]


class Silent(Tracker):
    """Keeps what it is told; the method `hangs` gives no answer, that named `refuses` fails."""

    given: ClassVar[list[Any]] = []
    opened: ClassVar[list[str]] = []
    hangs: ClassVar[str] = ""
    refuses: ClassVar[str] = ""
    fails_with: ClassVar[BaseException] = OSError("the server is down")
    waiting: ClassVar[threading.Event]

    def __init__(self, run: TrackedRun) -> None:
        self._meet("open")
        self.id = run.id or f"run{len(self.opened)}"
        self.opened.append(self.id)

    def _meet(self, name: str) -> None:
        if name == self.hangs:
            self.waiting.set()
            threading.Event().wait()
        if name == self.refuses:
            raise self.fails_with

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        self._meet("scalars")
        self.given.append(metrics["epoch"])

    def image(self, *of: Any) -> None:
        self._meet("image")

    def histograms(self, *of: Any) -> None:
        self._meet("histograms")

    def end(self, status: str) -> None:
        self._meet("end")
        self.given.append(status)

    def close(self) -> None:
        self._meet("close")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> type[Silent]:
    """The tracker of logger=wandb, offline."""

    class Ours(Silent):
        given: ClassVar[list[Any]] = []
        opened: ClassVar[list[str]] = []
        waiting = threading.Event()

    monkeypatch.setattr(WandB, "open", lambda self, run: Ours(run))
    monkeypatch.setattr(tracker, "LIMIT", 0.3)
    return Ours


@pytest.mark.parametrize("method", ["open", *METHODS])
def test_a_tracker_that_gives_no_answer_holds_no_run_and_is_given_the_rest_later(
    program: Program, silent: type[Silent], method: str
) -> None:
    silent.hangs = method
    run = [*TINY, *OFFLINE, f"trainer.histogram_epochs={int(method == 'histograms')}"]
    run.append(f"probe.epochs={int(method == 'image')}")  # which draws a picture
    outcome = program(*run)
    assert outcome.code == 0
    said = "logger=wandb: TimeoutError: no answer within 0 seconds; the run goes on without it; "
    assert outcome.out.count(said + "the same command hands it in later") == 1
    assert "completed: " in outcome.out
    silent.hangs = ""
    again = program(*run)
    assert again.code == 0
    assert "completed before, skipped" in again.out
    assert ("handed in" in again.out) == (method != "close")
    assert silent.given == [1, 2, "completed"]
    assert len(set(silent.opened)) == 1


@pytest.mark.parametrize(
    "error", [OSError("down"), SystemExit(1), KeyboardInterrupt(), MemoryError()]
)
def test_whatever_a_tracker_raises_ends_no_run(
    program: Program, silent: type[Silent], error: BaseException
) -> None:
    silent.refuses, silent.fails_with = "scalars", error
    outcome = program(*TINY, *OFFLINE)
    assert outcome.code == 0
    assert f"logger=wandb: {type(error).__name__}" in outcome.out


@pytest.mark.parametrize(
    ("when", "method"),
    [("training", "open"), ("training", "scalars"), ("training", "end"), ("afterwards", "scalars")],
)
def test_a_signal_ends_the_wait_for_a_tracker(
    program: Program,
    silent: type[Silent],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    method: str,
) -> None:
    if when == "afterwards":
        silent.refuses = "open"
        program(*TINY, *OFFLINE)
        silent.refuses = ""
    monkeypatch.setattr(tracker, "LIMIT", 600.0)
    monkeypatch.setattr(tracker, "GRACE", 0.1)
    silent.hangs = method

    def interrupt() -> None:
        silent.waiting.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=interrupt)
    sender.start()
    began = time.monotonic()
    outcome = program(*TINY, *OFFLINE)
    sender.join()
    assert time.monotonic() - began < 200
    ended = when == "training" and method == "end"  # at the end there is nothing left to interrupt
    assert outcome.code == (0 if ended else 143), outcome.err
    record = read_record(RUN)
    assert record is not None
    assert record.finished == (ended or when == "afterwards")
    silent.hangs = ""
    assert program(*TINY, *OFFLINE).code == 0
    assert silent.given == [1, 2, "completed"]


def test_what_only_reads_hands_nothing_in(
    program: Program, silent: type[Silent], capsys: pytest.CaptureFixture[str]
) -> None:
    silent.refuses = "scalars"
    program(*TINY, *OFFLINE)
    silent.refuses = ""
    before = sorted((path, path.stat().st_mtime_ns) for path in RUN.iterdir())
    opened = len(silent.opened)
    runs(["outputs"])
    runs(["verify", "outputs"])
    assert len(load_runs("outputs")) == 1
    plan = program("--plan", *TINY, *OFFLINE)
    assert "1 cell" in plan.out
    assert "measured now" not in plan.out
    program(*TINY)  # with TensorBoard alone
    assert (silent.given, len(silent.opened)) == ([], opened)
    assert sorted((path, path.stat().st_mtime_ns) for path in RUN.iterdir()) == before
    # A sweep has it done by the run's process, and says at its end how many lack something.
    job = RunJob.__new__(RunJob)
    job.run, job.directory, job.exit_code = compose([*TINY, *OFFLINE]), RUN, None
    assert job.outcome() is None
    job.exit_code = 0
    assert job.outcome() is not None
    capsys.readouterr()
    print_answer([job.run])
    assert "logger=wandb lacks 1 run: the same command hands them in" in capsys.readouterr().out
    assert "handed in what it had missed of 2 epochs" in program(*TINY, *OFFLINE).out
    job.exit_code = None
    assert job.outcome() is not None
    print_answer([job.run])
    assert "lacks" not in capsys.readouterr().out


def test_a_changed_run_is_not_handed_in(program: Program, silent: type[Silent]) -> None:
    silent.refuses = "scalars"
    program(*TINY, *OFFLINE)
    silent.refuses = ""
    with (RUN / "metrics.jsonl").open("a") as file:
        file.write("\n")
    outcome = program(*TINY, *OFFLINE)
    assert outcome.code == 0
    assert "nothing is handed in to logger=wandb: " in outcome.out
    assert "metrics.jsonl was changed" in outcome.out
    assert silent.given == []


def test_another_tracker_keeps_what_is_known_of_the_first(
    program: Program, silent: type[Silent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger.MLflow, "open", lambda self, run: silent(run))
    monkeypatch.setattr(logger.MLflow, "check", lambda self: None)
    for choice in ((), OFFLINE, ("logger=mlflow",), OFFLINE, ("logger=mlflow",)):
        outcome = program(*TINY, *choice)
        assert outcome.code == 0
    assert "handed in" not in outcome.out
    assert silent.given == 2 * [1, 2, "completed"]


def test_a_tracker_that_knows_what_it_has_is_believed(
    program: Program, silent: type[Silent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights & Biases takes an epoch before it has sent it; MLflow may have one unheard of."""
    silent.hangs = "end"
    program(*TINY, *OFFLINE)
    silent.hangs = ""
    silent.given.clear()
    monkeypatch.setattr(silent, "epoch", 1)
    assert program(*TINY, *OFFLINE).code == 0
    assert silent.given == [2, "completed"]


@pytest.mark.soak
def test_a_process_ends_although_its_tracker_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a library waits for its own threads when the interpreter ends; in a sweep too."""
    (tmp_path / "wandb.py").write_text(
        "import atexit, threading\n"
        "def init(**settings):\n"
        "    atexit.register(threading.Event().wait)\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise OSError('down')\n"
        "Settings = dict\n"
    )
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(tmp_path))
    sweep = ("-m", "seed=1,2")
    for options, said in (((), "completed: "), (sweep, "lacks 2 runs: the same command")):
        process = start(tmp_path, *TINY, *OFFLINE, *options, log="log")
        assert process.wait(timeout=90) == 0
        assert said in (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("OSError: down") == 3


# The environment, where an option is not set -----------------------------------------------------


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is logged in."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "NETRC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    if "resnet_cifar.record.wandb_tracker" in sys.modules:
        sys.modules["resnet_cifar.record.wandb_tracker"].require_key.cache_clear()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, [], ("resnet-cifar", None, "online", "outputs")),
        (
            {"WANDB_PROJECT": "p", "WANDB_MODE": "offline", "WANDB_DIR": "d"},
            [],
            ("p", None, "offline", "d"),
        ),
        ({"WANDB_PROJECT": "", "WANDB_MODE": "", "WANDB_DIR": ""}, [],
         ("resnet-cifar", None, "online", "outputs")),
        ({"WANDB_MODE": "dryrun"}, ["logger.entity=e"],
         ("resnet-cifar", "e", "offline", "outputs")),
        ({"WANDB_PROJECT": "p", "WANDB_MODE": "offline"},
         ["logger.project=q", "logger.mode=online"], ("q", None, "online", "outputs")),
        ({"WANDB_MODE": "online"}, ["logger.mode=offline"],
         ("resnet-cifar", None, "offline", "outputs")),
        ({"WANDB_MODE": "disabled"}, [], None),
    ],
)  # fmt: skip
def test_wandb_s_environment_counts_where_an_option_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    options: list[str],
    expected: tuple[str, ...] | None,
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        wandb, "init", lambda **given: asked.update(given) or SimpleNamespace(starting_step=4)
    )
    chosen = compose(["logger=wandb", *options]).logger
    opened = chosen.open(TrackedRun("cell/seed=0", "cell", Path("outputs"), {}, "same"))
    if expected is None:
        assert (opened, asked) == (None, {})
        assert not chosen.lacks(read_record(RUN))
        return
    found = (asked["project"], asked["entity"], asked["mode"], str(asked["dir"]))
    assert found == expected
    assert opened.epoch == (3 if expected[2] == "online" else None)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, [], ("sqlite:///", "resnet-cifar")),
        ({"MLFLOW_TRACKING_URI": "http://a", "MLFLOW_EXPERIMENT_NAME": "n"}, [], ("http://a", "n")),
        ({"MLFLOW_EXPERIMENT_ID": "7"}, [], ("sqlite:///", "id 7")),
        ({"MLFLOW_EXPERIMENT_NAME": "n", "MLFLOW_EXPERIMENT_ID": "7"}, [], ("sqlite:///", "n")),
        (
            {"MLFLOW_TRACKING_URI": "http://a", "MLFLOW_EXPERIMENT_NAME": "n",
             "MLFLOW_EXPERIMENT_ID": "7"},
            ["logger.uri=http://b", "logger.experiment=e"],
            ("http://b", "e"),
        ),
        ({"MLFLOW_EXPERIMENT_NAME": "", "MLFLOW_TRACKING_URI": ""}, [],
         ("sqlite:///", "resnet-cifar")),
    ],
)  # fmt: skip
def test_mlflow_s_environment_counts_where_an_option_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    options: list[str],
    expected: tuple[str, str],
) -> None:
    """With a stand-in for the package, which says what it was asked."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: dict[str, Any] = {}

    class Client:
        def __init__(self, uri: str | None) -> None:
            asked["uri"] = uri or os.environ["MLFLOW_TRACKING_URI"]

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=name)

        def create_experiment(self, name: str, place: str | None) -> str:
            raise AssertionError(name)

        def create_run(self, experiment: str, **settings: Any) -> Any:
            named = experiment if not experiment.isdigit() else f"id {experiment}"
            asked["experiment"] = named
            return SimpleNamespace(info=SimpleNamespace(run_id="new"))

        def get_run(self, identity: str) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id=identity))

        def get_metric_history(self, identity: str, name: str) -> Any:
            return [SimpleNamespace(step=1), SimpleNamespace(step=2)]

        def log_batch(self, *of: Any, **settings: Any) -> None: ...

        def update_run(self, *of: Any, **settings: Any) -> None: ...

    for name, attributes in {
        "mlflow": {"MlflowClient": Client},
        "mlflow.entities": {"Param": lambda *of: of, "Metric": lambda *of: of},
        "mlflow.exceptions": {"MlflowException": LookupError},
    }.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    chosen = compose(["logger=mlflow", *options]).logger
    assert chosen.open(TrackedRun("cell/seed=0", "cell", tmp_path, {}, "")).epoch == 0
    assert asked["uri"].startswith(expected[0])
    assert asked["experiment"] == expected[1]
    assert chosen.open(TrackedRun("cell/seed=0", "cell", tmp_path, {}, "same")).epoch == 2


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_without_a_key_nothing_is_trained(
    program: Program, tmp_path: Path, sweep: list[str]
) -> None:
    pytest.importorskip("wandb")
    outcome = program(*TINY, "logger=wandb", *sweep)
    assert outcome.code == 1
    assert outcome.err.startswith("error: logger=wandb can't log in (there is no key): set ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("environment", "netrc", "code"),
    [
        ({"WANDB_API_KEY": 40 * "0"}, "", 0),
        ({"WANDB_IDENTITY_TOKEN_FILE": "token"}, "", 0),
        (
            {"WANDB_BASE_URL": "https://api.wandb.ai"},
            f"machine api.wandb.ai login user password {40 * '0'}",
            0,
        ),
        ({"WANDB_API_KEY": ""}, f"machine elsewhere.org login user password {40 * '0'}", 1),
        ({}, "no netrc at all", 1),
        ({"WANDB_API_KEY": "short"}, "", 1),
        ({"WANDB_MODE": "offline"}, "", 0),
        ({"WANDB_MODE": "disabled"}, "", 0),
        ({"WANDB_MODE": "onlin"}, "", 2),
    ],
)
def test_a_key_is_found_where_wandb_looks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    netrc: str,
    code: int,
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home" / ".netrc").write_text(netrc)
    (tmp_path / "home" / ".netrc").chmod(0o600)
    chosen = compose(["logger=wandb"]).logger
    wandb.teardown()  # it has read the environment
    with pytest.raises(UserError) if code else nullcontext() as refused:
        chosen.check()
    wandb.teardown()
    assert code == (refused.value.exit_code if refused else 0)
