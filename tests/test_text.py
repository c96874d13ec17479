"""Text of people's, names of files above all: shown as it is, obeyed by nobody, given back."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rich.console
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from made_up import make_run

from hydra_plugins.local_pool._view import SweepConsole, fit
from resnet_cifar import text
from resnet_cifar.__main__ import main
from resnet_cifar.cli import edge
from resnet_cifar.training.live import Display

EVIL = "w[old] [red]x[/red] :fire: \x1b[31m \x9b31m \x07 \udcff \udcfe"
UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@pytest.mark.parametrize(
    "show",
    [
        lambda: Display("plain").say(EVIL),
        lambda: SweepConsole().print(EVIL),
        lambda: print(fit(EVIL, 200)),
        lambda: text.print_table([EVIL], [[EVIL]]),
        lambda: print(text.visible(EVIL)),
        lambda: print(text.printable(EVIL)),
        lambda: edge.complain(EVIL),
        lambda: edge.complain(ValueError(EVIL)),
        lambda: edge.run_to_exit_code(lambda: 1 / 0, lambda error: ValueError(EVIL)),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_text(
    show: object,
    terminal: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert callable(show)
    monkeypatch.setattr(text, "on_terminal", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    show()
    shown = "".join(capsys.readouterr())
    assert not UNSEEN.search(shown)
    seen = r"w[old] [red]x[/red] :fire: \x1b[31m \x9b31m \x07 \udcff \udcfe"
    assert seen in shown or seen in re.sub(r"\s+", " ", shown)


def test_every_console_takes_text_for_text() -> None:
    """rich reads [markup] and :emoji: out of whatever it prints, unless it is told not to."""
    making = re.compile(r"(?:\bConsole|_Console|super\(\)\.__init__)\((.*?highlight.*?)\)")
    paths = [
        path for room in ("resnet_cifar", "hydra_plugins") for path in (ROOT / room).rglob("*.py")
    ]
    made = [(path, how) for path in paths for how in making.findall(path.read_text("utf-8"))]
    assert {path.name for path, _ in made} == {"text.py", "_view.py"}
    for path, how in made:
        assert "markup=False" in how, path
        assert "emoji=False" in how, path


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (120, "epoch 12/15  val 84.10 %  ━━━───────  120/352  2.4 h left  1,234 images/s"),
        (80, "epoch 12/15  val 84.10 %  ━━━───────  120/352  2.4 h left  1,234 images/s"),
        (73, "epoch 12/15  val 84.10 %  120/352  2.4 h left  1,234 images/s"),
        (60, "epoch 12/15  val 84.10 %  120/352  2.4 h left"),
        (45, "epoch 12/15  val 84.10 %  2.4 h left"),
        (30, "epoch 12/15  val 84.10 %"),
    ],
)
def test_the_live_line_fits_and_keeps_the_accuracy(
    width: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar goes first, then images/s, the step, the time left; of an epoch's line its end."""
    display = Display("live")
    display.console.file = written = io.StringIO()
    display.console.size = rich.console.ConsoleDimensions(width, 24)
    display.start(15, 352)
    parts = ["epoch 11/15", "val  84.10 %, loss 0.5123", "train  88.12 %, loss 0.4123", "lr 0.01"]
    display.epoch(parts, 0.841)
    display.step(12, 120, 1234, 2.4 * 3600)
    shown = re.sub(r"\x1b(\[[?\d;]*[A-Za-z]|[78])", "\n", written.getvalue()).split("\n")
    lines = [line.strip() for line in shown if line.strip()]
    assert lines[-1] == expected
    assert lines[1].startswith("epoch 11/15  val  84.10 %, loss 0.5123")
    assert len(lines[1]) <= max(width, 38)
    assert lines[1].endswith(("loss 0.5123", "loss 0.4123", "lr 0.01"))


def test_a_run_leaves_signs_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a sweep that watches: the time of its log, now and then."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = tmp_path / "train.log"
    with Display("quiet") as display:
        display.alive()  # there is no log yet
        display.log_to(log)
        for seconds, later in ((10.0, True), (1.0, False), (1.5, True)):
            os.utime(log, (0, 0))
            now += seconds
            display.alive()
            assert (log.stat().st_mtime > 0) == later


def give_back(field: str, path: bool) -> str:
    """Read a field of a CSV as the documentation says."""
    if "\\" in field:
        field = field.encode("latin-1", "backslashreplace").decode("unicode_escape")
    return field.removeprefix("./" if path else "'")


FORMULAS = [f"{sign}{rest}" for sign in "=+-@'\t\r" for rest in ("cmd|' /C calc'!A0", "1.png", "")]


@given(st.text(st.characters(codec=None), max_size=20))
@example("\\x41")
@example("\udcff\\udcfe")
@example(" =1+1")
@example("＝1")
def test_a_field_of_a_csv_is_obeyed_by_nobody_and_comes_back(name: str) -> None:
    for value in (name, *(sign + name for sign in FORMULAS)):
        for path in (False, True):
            field = text.csv_field(value, path)
            assert not UNSEEN.search(field)
            assert field.lstrip()[:1] not in tuple("=+-@＝＋－＠")
            field.encode()
            back = give_back(field, path)
            assert back == value or (path and value == f"./{back}")


def test_names_that_are_not_utf_8_stay_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the list of runs, as CSV and JSON, and from the report's tables."""
    monkeypatch.chdir(tmp_path)
    names = ["\udcff", "\udcfe", "=1+1", "+x", "-y", "@z", "\x1b[31mred", "'a", "a\\udcff", "[old]"]
    for name in names:
        make_run(Path("outputs") / name, ["data=synthetic", "trainer.epochs=2"])
    paths = {str(next(Path("outputs", name).glob("*/seed=0"))) for name in names}
    roots = [f"./{Path('outputs', name)}" for name in names]
    assert main(["report", *roots, "--to", "paper", "--quiet"]) == 0
    with Path("paper/tables/skipped.csv").open(encoding="utf-8") as file:
        listed = [give_back(row["path"], True) for row in csv.DictReader(file)]
    assert len(listed) == len(set(listed)) == len(names) - 1
    assert set(listed) < paths
    capsys.readouterr()
    monkeypatch.chdir("outputs")
    for name in names:
        root = f"./{name}"
        assert main(["runs", "list", root, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert Path(row["directory"], "run.json").exists()
        assert main(["runs", "list", root, "--csv"]) == 0
        out = capsys.readouterr().out
        assert not UNSEEN.search(out)
        (row,) = csv.DictReader(io.StringIO(out))
        assert not row["directory"].startswith(("=", "+", "-", "@"))
        assert Path(give_back(row["directory"], True), "run.json").exists()
        for action in ("list", "verify"):
            assert main(["runs", action, root]) == 0
            assert not UNSEEN.search("".join(capsys.readouterr()))


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_no_control_code_reaches_a_terminal(tmp_path: Path) -> None:
    """`runs` on a terminal of its own, in every form, on a cell with a code in its name."""
    make_run(tmp_path / "o" / "\x1b]0;title\x07", ["data=synthetic", "trainer.epochs=2"])
    (tmp_path / "o" / "\x1b[31m" / "seed=0").mkdir(parents=True)
    script = "import sys; from resnet_cifar.runs.command import main as m; " + "; ".join(
        f"m({line!r})"
        for line in (["o"], ["o", "--csv"], ["o", "--json"], ["verify", "o"], ["clean", "o"],
                     ["o/\x1b[31m"], ["diff", "o", "o/\x1b[31m"], ["\x1b[31m"],
                     ["archive", "o", "--all", "--yes"], ["remove", "o.archive", "--all", "--yes"])
    )  # fmt: skip
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=theirs, stderr=theirs, stdin=theirs, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so that nobody writes any more
                part = b""
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert rb"\x1b[31m" in shown
    assert b"\x1b]" not in shown
    assert b"\x1b[31m" not in shown
    assert b"\x07" not in shown
