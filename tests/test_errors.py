"""Bad input: one clear line that names the key and what is allowed; no trace is left."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Program

from resnet_cifar import files
from resnet_cifar.cli.edge import run_to_exit_code
from resnet_cifar.config.compose import compose
from resnet_cifar.data.datasets import Cifar10
from resnet_cifar.errors import ConfigError, UserError, describe, shorten
from resnet_cifar.identity import run_directory
from resnet_cifar.record.schema import read_record
from resnet_cifar.training.engine import Engine


def fails(outcome, *parts: str) -> None:
    """One line on stderr that has all `parts`, after one that something begins; exit code 1."""
    assert outcome.code == 1
    assert len(re.findall("^(?!downloading ).+$", outcome.err, re.MULTILINE)) == 1, outcome.err
    for part in parts:
        assert part in outcome.err, outcome.err


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network here")


CIFAR = [*TINY[4:], "data=cifar10"]


def test_no_data(program: Program, tmp_path: Path) -> None:
    outcome = program(*CIFAR, "data.download=false")
    fails(outcome, "data/cifar-10-batches-py", "data.download=false", "data=synthetic", "data.root")
    assert list(tmp_path.iterdir()) == []


def test_no_data_and_no_network(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    outcome = program(*CIFAR)
    fails(outcome, "no network here", "cifar-10-python.tar.gz", "data=synthetic", "data.root")
    assert outcome.err.startswith("downloading CIFAR-10, 170 MB, to ")
    assert not (tmp_path / "outputs").exists()


def test_damaged_data(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"not what md5 expects")
    outcome = program(*CIFAR, "data.download=false")
    fails(outcome, "damaged or incomplete", "data_batch_1", "data=synthetic")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("given", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_the_data_s_own_directory_as_root(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Nothing is downloaded into it: the directory above it is meant."""
    folder = tmp_path / "my data" / "cifar-10-batches-py"
    asked = []

    def download(url: str, root: str, **more: object) -> None:
        asked.append(Path(root))
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    for make in (lambda: None, lambda: folder.mkdir(parents=True)):
        make()
        fails(program(*CIFAR, f"data.root={folder.parent / given}"), f"in {folder}", "no network")
    assert asked == [folder.parent] * 2
    assert list(folder.iterdir()) == []
    # One into which an earlier version has downloaded stays what it is.
    inner = folder / folder.name
    inner.mkdir()
    assert compose([*CIFAR, f"data.root={folder}"]).data.folder == inner


def test_a_url_is_no_data_root(program: Program, tmp_path: Path) -> None:
    for more in ((), ("-m", "seed=0,1"), ("--plan",)):
        outcome = program(*CIFAR, *more, "data.root=s3://bucket/data")
        assert outcome.code == 2
        assert outcome.err.startswith("error: data.root=s3://bucket/data is a URL")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "ModuleNotFoundError"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms does not exist"),
        ("raise OSError('libcudart.so.13: cannot open')", "OSError: libcudart.so.13"),
        ("import nothing_there", "nothing_there"),
    ],
)
def test_torchvision_is_missing_or_broken(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, said: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if source is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    outcome = program(*CIFAR)
    fails(outcome, "CIFAR-10, can't be imported", said, "pip install -c constraints.txt -e")
    assert not (tmp_path / "outputs").exists()
    assert program(*TINY, "--plan").code == 0  # whatever needs no file does without it


def test_output_root_is_a_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = program(*TINY, "output_root=file")
    fails(outcome, "file/lr0.01", "can't be written")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_root_is_not_writable(program: Program, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    fails(program(*TINY, "output_root=closed"), "closed", "can't be written", "Permission")


def test_every_checkpoint_damaged(program: Program) -> None:
    from test_run import interrupt_at

    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*TINY)
    run = run_directory(compose(TINY))
    metrics = (run / "metrics.jsonl").read_bytes()
    for path in run.glob("last*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    outcome = program(*TINY)
    fails(outcome, "last.pt is damaged", "last.previous.pt is damaged", "rerun=true")
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert program(*TINY, "rerun=true").code == 0


def test_a_checkpoint_of_something_else(program: Program) -> None:
    import torch

    run = run_directory(compose(TINY))
    run.mkdir(parents=True)
    torch.save({"weights": torch.zeros(1)}, run / "last.pt")
    fails(program(*TINY), "last.pt", "not one of this program's")


def test_a_full_disk_keeps_what_was_written(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the second epoch: one line; the first epoch's files stay whole."""
    original = files.os.fsync
    armed = {"on": False}

    def fsync(file: int) -> None:
        if armed["on"]:
            raise OSError(28, "No space left on device")
        original(file)

    from resnet_cifar.training.engine import Engine

    train_epoch = Engine.train_epoch

    def fill_up(self: Engine, epoch: int):
        self.recorder.wait()  # for the files of the first epoch
        armed["on"] = epoch == 2
        return train_epoch(self, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        patch.setattr(Engine, "train_epoch", fill_up)
        fails(program(*TINY), "No space left on device", "intact")
    assert program(*TINY, "output_root=undisturbed").code == 0
    outcome = program(*TINY)
    assert outcome.code == 0
    assert "resumed at epoch 2" in outcome.out
    from test_run import directory, lines

    assert lines(directory()) == lines(directory("output_root=undisturbed"))


def test_a_file_size_limit_met_for_real(tmp_path: Path) -> None:
    """The kernel refuses the checkpoint (EFBIG): a real write error, in a real process."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, str(ROOT / "train.py"), *TINY]
    ended = subprocess.run(
        command, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "File too large" in line
    run = tmp_path / run_directory(compose(TINY))
    assert not (run / "last.pt").exists()
    assert not list(run.glob(".*.tmp"))
    assert '"status": "failed"' in (run / "run.json").read_text()


def test_hydra_full_error_shows_the_traceback(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    from resnet_cifar.errors import ConfigError

    with pytest.raises(ConfigError):
        program(*TINY, "optimizer.lr=-1")


def test_help_is_a_page_for_newcomers(program: Program) -> None:
    outcome = program("--help")
    assert outcome.code == 0
    for part in (
        "python train.py -m optimizer.lr=0.001,0.01,0.1",
        "optimizer:",
        "adamw, sgd",
        "batch_size: 128",
        "resnet_cifar",
        "runs",
        "resnet_cifar evaluate",
    ):
        assert part in outcome.out
    assert "schema" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 110


def test_help_and_completion_load_no_torch() -> None:
    """What makes them quick. The times themselves are in the README."""
    script = (
        "import sys; sys.argv = ['train.py', '--help']; sys.path.insert(0, '.')\n"
        "from resnet_cifar.cli import train as training\n"
        "training.main(); print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "False False"


# A cause is one short line -----------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Compilers(RuntimeError):
    """As those of torch, whose messages hold the compiler's own output."""

    __module__ = "torch._inductor.exc"


def chained() -> Exception:
    try:
        try:
            raise OSError("first\n" * 1000)
        except OSError as error:
            raise ValueError("second\n" * 1000) from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (RuntimeError("a\nb\tc\r\n  d"), ["RuntimeError: a b c d"]),
        (RuntimeError("word" * 25_000), ["RuntimeError: word", "word"]),
        (RuntimeError("begun " + "\n" * 100_000 + " ended"), ["RuntimeError: begun", "ended"]),
        (Compilers("g++: failed\n" * 8_000), ["Compilers: g++", "(trainer.compile=false"]),
        (RuntimeError("\x1b[31mred\x07\u202e\udcff"), [r"\x1b[31mred\x07\u202e\udcff"]),
        (RuntimeError(), ["RuntimeError"]),
        (Unspeakable(), ["Unspeakable: its message can't be shown"]),
        (SystemExit("text"), ["SystemExit: text"]),
        (SystemExit({"a": 1}), ["SystemExit: {'a': 1}"]),
        (KeyError("key"), ["KeyError: 'key'"]),
        (chained(), ["ValueError: second"]),
        (ExceptionGroup("both", [chained()]), ["ExceptionGroup: both"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), ["UnicodeDecodeError: 'utf-8'"]),
        (UserError("in words"), ["in words"]),
        (UserError(), ["UserError"]),
    ],
)
def test_a_cause_is_one_short_line(error: BaseException, parts: list[str]) -> None:
    said = describe(error)
    assert len(said) <= 300
    assert said.isprintable()
    assert all(part in said for part in parts), said
    assert said.startswith((type(error).__name__, parts[0]))


def test_a_message_for_people_may_hold_a_cause_and_a_remedy() -> None:
    cause = describe(RuntimeError("x" * 1000))
    said = f"it can't be read ({cause}): put it there"
    assert describe(UserError(said)) == said
    assert len(describe(UserError("x" * 100_000))) <= 1200
    assert len(shorten(said)) == 300


def test_a_long_cause_is_cut_wherever_it_is_shown(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*of: object) -> None:
        raise Compilers("\x1b[31mg++: failed\n" * 8_000)

    monkeypatch.setattr(Engine, "step", fail)
    outcome = program(*TINY)
    fails(outcome, "g++: failed", "trainer.compile=false")
    assert len(outcome.err) < 320
    run = run_directory(compose(TINY))
    record = read_record(run)
    assert record is not None
    assert record.error == outcome.err.removeprefix("error: ").rstrip("\n")
    assert (run / "train.log").read_text().count("g++: failed") >= 8_000


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(0), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("no more paper"), 1, "error: no more paper\n"),
        (SystemExit(["no", "more"]), 1, "error: ['no', 'more']\n"),
    ],
)
def test_whatever_a_process_ends_with_is_an_exit_code(
    ended: SystemExit, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise ended

    assert run_to_exit_code(work) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "sweep",
    [["-m", "seed=0,1,2"], ["hydra/sweeper=optuna", "optimizer.lr=interval(0.01,0.1)"]],
    ids=["grid", "search"],
)
def test_a_sweep_asks_for_its_data_once(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sweep: list[str]
) -> None:
    """Before its first job, and a sweep that can't have it starts none."""
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    outcome = program(*CIFAR, *sweep)
    fails(outcome, "there is no CIFAR-10 in", "no network here", "data=synthetic", "data.root")
    assert outcome.err.count("downloading CIFAR-10") == 1
    assert "started" not in outcome.out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("less", "read"), [(0, False), (1000_000, True)])
def test_data_that_is_there_needs_no_second_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, less: int, read: bool
) -> None:
    """One by its sizes: torchvision's import would take seconds of every sweep's start."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, size in enumerate((186_218_122 - 5_000 - less, 5_000)):
        with open(folder / str(number), "wb") as file:
            file.truncate(size)
    asked: list[bool] = []
    monkeypatch.setattr(Cifar10, "_read", lambda self, train: asked.append(train))
    compose([f"data.root={tmp_path}"]).data.prepare()
    assert asked == [True] * read


def test_refusals_have_one_form() -> None:
    """The key and its value, then what they must be; "not allowed: 1 or more" is its opposite."""
    with pytest.raises(ConfigError, match=r"^model.width=16.5: must be a whole number$"):
        compose(["model.width=16.5"])
    with pytest.raises(ConfigError, match=r"^model.width=0: must be 1 to 1024$"):
        compose(["model.width=0"])
    for room in ("resnet_cifar", "hydra_plugins", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            assert not re.search(r"[^.] not allowed:", path.read_text("utf-8")), path
