"""The view of a sweep: lines that stay, and a live table that fits its window."""

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console
from rich.text import Text

from hydra_plugins.local_pool import Job, Progress
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._view import LiveLines, SweepConsole, SweepView, duration

from .toys import Script, make_pool, wait_for


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (720, "12 min"),
        (3599, "60 min"),
        (3700, "1.03 h"),
        (86400, "1 days"),
        (180000, "2.08 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_live_view(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a terminal: the running jobs, then the lines that stay."""
    jobs: list[Job] = [Script(tmp_path / f"job{i}", "0.8") for i in range(2)]
    make_pool(jobs, [""], "live").run()
    out = capfd.readouterr().out
    assert "job0: completed" in out
    assert "2 runs: 2 done" in out


class Window:
    """A terminal that folds its lines anew when its width changes and keeps a history, as tmux."""

    def __init__(self, width: int, height: int = 8) -> None:
        self.width, self.height, self.row, self.column = width, height, 0, 0
        self.lines = [""] * height  # the last of them are the screen's
        self.folded: set[int] = set()  # of the lines, those that go on in the next
        self.folds = True
        self.console = SweepConsole()
        self.console.file = self._stream = io.StringIO()
        self._set_size()

    def _set_size(self) -> None:
        self.console.size = rich.console.ConsoleDimensions(self.width, self.height)

    @property
    def top(self) -> int:
        return len(self.lines) - self.height

    def resize(self, width: int, told: bool = True) -> None:
        """Change the width; the program may be `told` later."""
        self.show()
        at, lines, folded, joined = self.top + self.row, [], set(), ""
        for number, line in enumerate(self.lines):
            start = len(lines) if not joined else start  # noqa: F821
            joined += line
            if number == at:
                cursor = start
            if number in self.folded:
                continue
            rows = [joined[i : i + width] for i in range(0, max(1, len(joined)), width)]
            folded |= {len(lines) + i for i in range(len(rows) - 1)}
            lines, joined = [*lines, *rows], ""
        self.width, self.lines, self.folded = width, lines, folded
        self.lines += [""] * (self.height - len(lines))
        self.row = max(0, cursor - self.top)
        if told:
            self._set_size()

    def show(self) -> list[str]:
        """The history and the screen, without blank rows at the end."""
        written = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        assert "\x1b[J" not in written  # tmux would put the screen into its history
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\x1b[78]|[^\x1b]", written):
            self._obey(part)
        return "\n".join(self.lines).rstrip().split("\n")

    def _obey(self, part: str) -> None:
        number = int((re.findall(r"\d+", part) or ["1"])[0])
        at = self.top + self.row
        if part == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == self.height:
                self.lines.append("")
                self.row -= 1
        elif part == "\r":
            self.column = 0
        elif part == "\x1b7":
            self.saved = self.row, self.column
        elif part == "\x1b8":
            self.row, self.column = self.saved
        elif part.startswith("\x1b"):
            if part[-1] in "ABE":
                step = -number if part[-1] == "A" else number
                self.row = min(self.height - 1, max(0, self.row + step))
                self.column = 0 if part[-1] == "E" else self.column
            elif part[-1] == "H":
                self.row, self.column = min(number, self.height) - 1, 0
            elif part[-1] == "K":
                self.lines[at] = self.lines[at][: 0 if number == 2 else self.column]
                self.folded.discard(at)
            else:
                assert part in ("\x1b[?7l", "\x1b[?7h"), part
                self.folds = part[-1] == "h"
        elif self.column < self.width:
            self.lines[at] = self.lines[at][: self.column].ljust(self.column) + part
            self.column += 1
        elif self.folds:
            self._obey("\n")
            self._obey(part)


@pytest.mark.parametrize("widths", [(120, 40, 120), (40, 39, 13, 200), (200, 90, 60, 50, 40, 30)])
@pytest.mark.parametrize("before", [1, 20])
def test_no_copies_when_the_window_shrinks(widths: tuple[int, ...], before: int) -> None:
    """Not on the screen, not in the history; what was printed stays, each line once."""
    window = Window(widths[0])
    printed = [f"line {number}" for number in range(before)]
    for line in printed:
        window.console.print(line)
    live = LiveLines(window.console)

    def draw() -> None:
        live.draw([Text(f"x{'-' * 100}"), Text(f"y{'-' * 100}")])

    for number, width in enumerate(widths):
        window.resize(width, told=False)
        draw()
        window.show()
        window._set_size()
        draw()
        rows = [row for row in window.show() if row]
        assert [row[0] for row in rows[-2:]] == ["x", "y"]
        assert max(map(len, rows[-2:])) == min(101, width - 1)
        assert rows[:-2] == printed
        live.draw([])
        window.console.print(f"event {number}")
        draw()
        printed.append(f"event {number}")
    live.draw([])
    assert [row for row in window.show() if row] == printed


class Half(Script):
    sign = 0.0

    def progress(self) -> Progress | None:
        return Progress(3, 6, "epoch 3/6", "val 84.10 %")

    def cost(self) -> float:
        return 2.0

    def last_sign(self) -> float:
        return self.sign


def describe(
    monkeypatch: pytest.MonkeyPatch, path: Path, width: int, silence: float = 0.0
) -> list[str]:
    """Draw a sweep of two runs of which one runs on GPU 0; return the last two rows."""
    jobs: list[Job] = [Half(path / f"lr={'0' * 35}1 seed=2"), Half(path / "b")]
    view = SweepView("live", jobs)
    view._console.file = out = io.StringIO()
    view._console.size = rich.console.ConsoleDimensions(width, 20)
    view.begin(jobs, {}, 1)
    now = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: now)
    process: Any = SimpleNamespace(
        job=jobs[0], slot="0", started=now - 30, at_start=None, silence=lambda: silence
    )
    jobs[0].cost = lambda: 1.0  # type: ignore[method-assign]
    view.refresh([process], [jobs[1]])
    drawn = re.sub(r"\x1b\[[?\d;]*[A-DF-Za-z]|\x1b[78]", "", out.getvalue())
    return drawn.splitlines()[-1].split("\x1b[E")[:-1]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            120,
            f"[1/2] lr={'0' * 35}1 seed=2  epoch 3/6  val 84.10 %  ━━━━━─────  30 s left  GPU 0",
        ),
        (80, f"[1/2] lr={'0' * 13}…{'0' * 13}1 seed=2  epoch 3/6  val 84.10 %  30 s left"),
        (60, "[1/2] lr=000…0001 seed=2  epoch 3/6  val 84.10 %  30 s left"),
        (46, "[1/2] …eed=2  epoch 3/6  val 84.10 %"),
    ],
)
def test_a_narrow_window_keeps_the_accuracy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int, expected: str
) -> None:
    """The bar goes first, then the device, the middle of the name, the time left."""
    row, last = describe(monkeypatch, tmp_path, width)
    assert max(len(row), len(last)) < width
    assert row == expected
    assert last.startswith("────────── 0 of 2 ended, 1 running, about 3 min left"[: width - 1])


def test_a_run_that_stands_still_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row, _ = describe(monkeypatch, tmp_path, 80, silence=120)
    assert row.endswith("val 84.10 %  no step for 2 min")


@pytest.mark.parametrize(
    ("signs", "silence", "told"),
    [
        ([2, 4, 6, 8, 10, 12], 25, False),  # least: 30 s
        ([2, 4, 6, 8, 10, 12], 35, True),
        ([20, 40, 60, 80, 100], 190, False),  # ten times the usual
        ([20, 40, 60, 80, 100], 210, True),
        ([], 110, False),  # it starts
        ([], 130, True),
    ],
)
def test_silence_is_measured_by_what_is_usual(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signs: list[int], silence: int, told: bool
) -> None:
    job = Half(tmp_path / "a", script="")
    start = now = time.time()
    process = JobProcess(job, "", {}, None, lambda job, line: None)
    monkeypatch.setattr(time, "time", lambda: now)
    for sign in signs:
        job.sign = now = start + sign
        assert process.silence() == 0
    now += silence
    assert bool(process.silence()) == told
    monkeypatch.undo()
    wait_for(lambda: process.poll() is not None, "the process ends")


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_can_t_move_its_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch, term: str, live: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert bool(SweepView("auto", [])._live) == live
