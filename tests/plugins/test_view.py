"""The view of a sweep: lines that stay, and a live table that fits its window."""

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich.console
from rich.text import Text

from hydra_plugins.local_pool import Job, Progress
from hydra_plugins.local_pool._view import LiveLines, SweepConsole, SweepView, duration

from .toys import Script, make_pool


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
    """A terminal that folds its lines anew when its width changes, as most do."""

    def __init__(self, width: int) -> None:
        self.width, self.lines, self._stream = width, [""], io.StringIO()
        self.console = SweepConsole()
        self.console.file = self._stream
        self.console.size = rich.console.ConsoleDimensions(width, 20)

    def resize(self, width: int) -> None:
        self._take()
        self.width = width
        self.console.size = rich.console.ConsoleDimensions(width, 20)

    def rows(self) -> list[str]:
        self._take()
        rows = []
        for line in self.lines[:-1]:
            rows += [line[i : i + self.width] for i in range(0, max(1, len(line)), self.width)]
        return rows

    def _take(self) -> None:
        for part in re.split(r"(\r\x1b\[\d+A\x1b\[J|\n)", self._stream.getvalue()):
            if part == "\n":
                self.lines.append("")
            elif up := re.match(r"\r\x1b\[(\d+)A", part):
                kept = self.rows_of(int(up[1]))
                self.lines = [*kept, ""]
            else:
                self.lines[-1] += part
        self._stream.seek(0)
        self._stream.truncate()

    def rows_of(self, up: int) -> list[str]:
        """The lines that stay when so many rows are erased."""
        lines = self.lines[:-1]
        while up > 0:
            up -= max(1, -(-len(lines.pop()) // self.width))
        assert up == 0, "the erasure begins in the middle of a line"
        return lines


@pytest.mark.parametrize("widths", [(120, 40, 120), (40, 39, 13, 200)])
def test_no_ghosts_when_the_window_shrinks(widths: tuple[int, ...]) -> None:
    window = Window(widths[0])
    window.console.print("an old line")
    live = LiveLines(window.console)
    for width in widths:
        window.resize(width)
        live.draw([Text("x" * 100), Text("y" * 30)])
        assert [row[0] for row in window.rows()][-2:] == ["x", "y"]
        assert "".join(window.rows()).count("y") == min(30, width - 1)
    live.clear()
    assert window.rows() == ["an old line"]


class Half(Script):
    def progress(self) -> Progress | None:
        return Progress(3, 6, "epoch 3/6", "val 84.10 %")

    def cost(self) -> float:
        return 2.0


@pytest.mark.parametrize(("width", "detail"), [(120, True), (80, False), (48, False)])
def test_what_stays_visible_in_a_narrow_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int, detail: bool
) -> None:
    jobs: list[Job] = [Half(tmp_path / ("a" * 45), "30"), Half(tmp_path / "b", "0")]
    view = SweepView("live", jobs)
    view._console.file = out = io.StringIO()
    view._console.size = rich.console.ConsoleDimensions(width, 20)
    view.begin(jobs, {}, 1)
    now = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: now)
    process = SimpleNamespace(job=jobs[0], slot="", started=time.monotonic() - 30, at_start=None)
    jobs[0].cost = lambda: 1.0  # type: ignore[method-assign]
    view.refresh([process], [jobs[1]])  # type: ignore[list-item]
    row, last = out.getvalue().splitlines()[-2:]
    assert max(len(row), len(last)) < width
    assert row.startswith("[1/2] aaaaaa")
    assert "━━━━━─────  epoch 3/6  30 s left" in row
    assert ("val 84.10 %" in row) == detail
    assert "0 of 2 ended, 1 running, about 3 min left"[: width - 12] in last
