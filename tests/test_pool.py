"""The launcher's pool on its own: devices, failures, signals, with processes that cost nothing."""

import ast
import atexit
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console
import yaml
from conftest import ROOT
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.text import Text

from hydra_plugins.local_pool import Job, Outcome, Progress
from hydra_plugins.local_pool._mps import TOOL, mps
from hydra_plugins.local_pool._nursery import Nursery
from hydra_plugins.local_pool._pool import Pool
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._terminal import LiveLines, SweepConsole
from hydra_plugins.local_pool._view import SweepView
from hydra_plugins.local_pool.launcher import LocalPool, LocalPoolConf

# A job: writes when it ran and which device it saw.
RECORD = """
import json, os, sys, time
start = time.time()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "w") as file:
    json.dump([os.environ.get("CUDA_VISIBLE_DEVICES"), start, time.time()], file)
"""


class Script(Job):
    """A python script with its arguments; done when the file it writes is there."""

    def __init__(self, path: Path, *arguments: str, script: str = RECORD) -> None:
        super().__init__(OmegaConf.create(), [])
        self.path, self._arguments, self.script = path, arguments, script

    @property
    def key(self) -> str:
        return str(self.path)

    @property
    def label(self) -> str:
        return self.path.name

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", self.script, str(self.path), *self._arguments]

    def outcome(self) -> Outcome | None:
        return Outcome(1.0, "completed") if self.path.exists() else None


def pool(jobs: list[Job], slots: list[str], view: str = "plain", minutes: float = 0) -> Pool:
    done = {job.key: outcome for job in jobs if (outcome := job.outcome())}
    return Pool(jobs, done, slots, {}, view, time.monotonic() + 60 * minutes if minutes else None)


def ran(path: Path) -> tuple[str, float, float]:
    device, start, end = json.loads(path.read_text())
    return device, start, end


def test_eight_jobs_on_four_devices(tmp_path: Path) -> None:
    """Never two on one device, every device used, as many at once as there are devices."""
    jobs = [Script(tmp_path / f"job{i}", "0.4") for i in range(8)]
    pool(list(jobs), ["0", "1", "2", "3"]).run()
    spans = [ran(job.path) for job in jobs]
    assert {device for device, _, _ in spans} == {"0", "1", "2", "3"}
    for device in "0123":
        own = sorted((start, end) for d, start, end in spans if d == device)
        assert len(own) == 2
        assert own[0][1] <= own[1][0]
    at_once = [sum(s <= start < e for _, s, e in spans) for _, start, _ in spans]
    assert max(at_once) == 4


def test_two_jobs_share_a_device_where_asked(tmp_path: Path) -> None:
    jobs = [Script(tmp_path / f"job{i}", "0.4") for i in range(4)]
    pool(list(jobs), ["5", "5"]).run()
    spans = [ran(job.path) for job in jobs]
    assert {device for device, _, _ in spans} == {"5"}
    assert max(sum(s <= start < e for _, s, e in spans) for _, start, _ in spans) == 2


@pytest.mark.parametrize(("jobs", "spare", "most"), [(3, 1, 3), (5, 1, 3), (7, 3, 3), (3, 0, 2)])
def test_the_last_jobs_share_what_the_others_have(
    tmp_path: Path, jobs: int, spare: int, most: int
) -> None:
    """Never more than two while two are left to start; then the odd one beside them."""
    several = [Script(tmp_path / f"job{i}", "0.8") for i in range(jobs)]
    ours = Pool(several, {}, ["", ""], {}, "quiet", spare=[""] * spare)
    ours.run()
    assert len(ours.outcomes) == jobs
    spans = sorted(ran(job.path)[1:] for job in several)
    at_once = [sum(s <= start < e for s, e in spans) for start, _ in spans]
    assert max(at_once) == most
    assert at_once.index(most) >= jobs - most


def test_a_failure_leaves_the_others_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Job] = [
        Script(tmp_path / "good0", "0"),
        Script(tmp_path / "raises", script="print('error: no more paper'); raise SystemExit(1)"),
        Script(tmp_path / "killed", script="import os; os.kill(os.getpid(), 9)"),
        Script(tmp_path / "silent", script="raise SystemExit(7)"),
        Script(tmp_path / "empty", script="print('all is well')"),
        Script(tmp_path / "good1", "0"),
    ]
    ours = pool(jobs, [""])
    ours.run()
    assert set(ours.outcomes) == {str(tmp_path / "good0"), str(tmp_path / "good1")}
    assert ours.failures == {
        str(tmp_path / "raises"): "no more paper",
        str(tmp_path / "killed"): "ended by signal 9 (SIGKILL)",
        str(tmp_path / "silent"): "exit code 7, without a word",
        str(tmp_path / "empty"): "its process ended well and left no outcome",
    }
    out = capfd.readouterr().out
    assert "6 runs: 2 done, 4 failed" in out
    assert "failed: raises: no more paper" in out
    assert "tries the failed ones again" in out


def test_what_is_done_is_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [Script(tmp_path / f"job{i}", "0") for i in range(3)]
    ran_before = jobs[1].path
    ran_before.write_text("kept")
    pool(list(jobs), [""]).run()
    assert ran_before.read_text() == "kept"
    assert all(job.path.exists() for job in jobs)
    assert "job1: skipped" in capfd.readouterr().out


class Taken(Script):
    """Another process is at it, for the first looks."""

    looks = 0

    def busy(self) -> bool:
        self.looks += 1
        if self.looks == 3:  # the other one gets it done
            self.path.write_text("by another")
        return self.looks < 3


def test_a_busy_job_is_put_off_and_counted_when_the_other_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    taken = Taken(tmp_path / "taken", "0")
    free = Script(tmp_path / "free", "0")
    ours = pool([taken, free], [""])
    ours.run()
    assert taken.path.read_text() == "by another"
    assert set(ours.outcomes) == {taken.key, free.key}
    out = capfd.readouterr().out
    assert out.index("another process is at it") < out.index("free: started")
    assert "taken: completed (elsewhere)" in out


STUBBORN = """
import signal, sys, time
def note(number, frame):
    open(sys.argv[1] + ".asked", "w").close()
    if sys.argv[2] == "polite":
        raise SystemExit(143)
signal.signal(signal.SIGTERM, note)
open(sys.argv[1] + ".ready", "w").close()
while True:
    time.sleep(0.05)
"""


def signals(when: Callable[[], bool], *numbers: int) -> threading.Thread:
    """Send this process the signals once `when` holds, half a second apart."""

    def send() -> None:
        deadline = time.monotonic() + 20
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_job_and_starts_no_other(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [Script(tmp_path / f"job{i}", "polite", script=STUBBORN) for i in range(4)]
    ready = [tmp_path / f"job{i}.ready" for i in range(2)]
    sender = signals(lambda: all(path.exists() for path in ready), number)
    ours = pool(list(jobs), ["", ""])
    ours.run()
    sender.join()
    assert ours.interrupted == number
    asked = sorted(path.name for path in tmp_path.glob("*.asked"))
    assert asked == ["job0.asked", "job1.asked"]
    assert not ours.failures
    assert "4 not finished" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_ends_what_does_not_listen(tmp_path: Path) -> None:
    job = Script(tmp_path / "job", "rude", script=STUBBORN)
    sender = signals((tmp_path / "job.ready").exists, signal.SIGINT, signal.SIGINT)
    ours = pool([job], [""])
    ours.run()
    sender.join()
    assert ours.interrupted == signal.SIGINT
    assert (tmp_path / "job.asked").exists()


def test_live_view(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a terminal: the running jobs, then the lines that stay."""
    jobs: list[Job] = [Script(tmp_path / f"job{i}", "0.8") for i in range(2)]
    pool(jobs, [""], "live").run()
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
    window.console.say("an old line")
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


CONTROL = """#!/bin/sh
echo "$@" "$(cat)" "${CUDA_VISIBLE_DEVICES-all}" "$CUDA_MPS_PIPE_DIRECTORY" >> "$MPS_CALLS"
test -d "$CUDA_MPS_PIPE_DIRECTORY" && test -d "$CUDA_MPS_LOG_DIRECTORY" || exit 3
test -z "$MPS_REFUSES" || { echo "no GPU, no MPS" >&2; exit 1; }
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in for NVIDIA's tool writes how it was called."""
    tool, found = tmp_path / "bin" / TOOL, tmp_path / "calls"
    tool.parent.mkdir()
    tool.write_text(CONTROL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MPS_CALLS", str(found))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    return found


def test_mps_lasts_as_long_as_the_sweep(calls: Path) -> None:
    with mps() as clients:
        pipe = clients["CUDA_MPS_PIPE_DIRECTORY"]
        assert calls.read_text() == f"-d  all {pipe}\n"
    assert calls.read_text().splitlines()[1:] == [f"quit all {pipe}"]
    assert not Path(pipe).exists()


def test_mps_ends_with_a_sweep_that_fails(calls: Path) -> None:
    with pytest.raises(KeyboardInterrupt), mps():
        raise KeyboardInterrupt
    assert "quit" in calls.read_text()


def test_mps_that_does_not_start(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPS_REFUSES", "1")
    with pytest.raises(RuntimeError, match="no GPU, no MPS"), mps():
        raise AssertionError("nothing may start")
    assert "quit" not in calls.read_text()


def options(**changed: Any) -> dict[str, Any]:
    """The launcher's, as the project's YAML has them."""
    values = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "local.yaml").read_text())
    del values["defaults"]
    return values | changed


def test_an_option_is_one_line_of_a_dataclass_and_one_of_yaml() -> None:
    fields = {field.name for field in dataclasses.fields(LocalPoolConf)} - {"_target_"}
    assert options().keys() == fields


def test_no_mps_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HydraException, match=rf"mps=True is not allowed: .* no {TOOL}"):
        LocalPool(**options(mps=True))


def test_the_plugins_know_nothing_of_the_project() -> None:
    for path in (ROOT / "hydra_plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("resnet_cifar")], path
        assert "resnet_cifar" not in path.read_text(), path


class Known(Script):
    """A job whose length is known."""

    def seconds(self) -> float | None:
        return self.estimate

    estimate: float | None = None


def test_only_what_can_end_in_time_is_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [Known(tmp_path / name, "0") for name in ("long", "unknown", "short", "longer")]
    for job, estimate in zip(jobs, (3600.0, None, 1.0, 7200.0), strict=True):
        job.estimate = estimate
    ours = pool(list(jobs), [""], minutes=1)
    ours.run()
    assert ours.outcomes.keys() == {jobs[1].key, jobs[2].key}
    assert [job.label for job in ours.left] == ["long", "longer"]
    out = capfd.readouterr().out
    assert out.index("unknown: started") < out.index("short: started")  # the order given
    assert "4 runs: 2 done, 2 not finished" in out
    assert "left: long\n" in out
    assert "left: longer\n" in out


def test_what_one_job_has_taught_lets_another_start(tmp_path: Path) -> None:
    class Pupil(Script):
        def seconds(self) -> float | None:
            return 1.0 if (tmp_path / "teacher").exists() else 3600.0

    pupil, teacher = Pupil(tmp_path / "pupil", "0"), Script(tmp_path / "teacher", "0")
    ours = pool([pupil, teacher], [""], minutes=1)
    ours.run()
    assert ours.outcomes.keys() == {pupil.key, teacher.key}


def test_at_the_deadline_what_runs_saves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [Script(tmp_path / f"job{i}", "polite", script=STUBBORN) for i in range(2)]
    ours = pool(list(jobs), [""], minutes=0.02)
    ours.run()
    assert (tmp_path / "job0.asked").exists()
    assert not (tmp_path / "job1.ready").exists()
    assert [job.label for job in ours.left] == ["job0", "job1"]
    assert (ours.failures, ours.interrupted) == ({}, 0)
    assert "the time is up" in capfd.readouterr().out


HANDED = "import sys; open(sys.argv[1], 'w').write(sys.stdin.readline())"


def test_a_job_finds_what_it_is_handed(tmp_path: Path) -> None:
    class Handed(Script):
        def handed(self) -> str:
            return "x" * 200_000 + "\n"  # more than a pipe holds

    jobs = [Handed(tmp_path / "reads", script=HANDED), Handed(tmp_path / "ends", script="1")]
    ours = pool(list(jobs), [""])
    ours.run()
    assert len((tmp_path / "reads").read_text()) == 200_001
    assert ours.failures.keys() == {jobs[1].key}


def test_a_full_disk_behind_the_log_fails_nothing(tmp_path: Path) -> None:
    """In a process of its own, which must also end well."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from pathlib import Path; from test_pool import Script, pool\n"
        f"ours = pool([Script(Path({str(tmp_path)!r}, 'job'), '0')], [''])\n"
        "ours.run(); sys.exit(0 if ours.outcomes and not ours.failures else 3)"
    )
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", program], stdout=full).returncode == 0


class Forked(Script):
    """A job with a way to be forked; `busy_work` below is what it does there."""

    entry = "test_pool:busy_work"
    preload = ("decimal",)


def busy_work() -> int:
    """Write what a child finds; end, or wait, as it is told."""
    path, what = sys.stdin.readline().split()
    seen = [os.getpgrp() == os.getpid(), sys.argv[1], os.environ.get("CUDA_VISIBLE_DEVICES")]
    seen.append(os.environ.get("A_WORD"))
    atexit.register(Path(path + ".left").touch)
    forked = "hydra_plugins.local_pool._nursery" in sys.modules
    print("a word", flush=True)
    Path(path + ".seen").write_text(json.dumps([*seen, forked, "decimal" in sys.modules]))
    if what == "stays":
        sys.stdin.read()  # until the pool is gone
        return 0
    if what == "thread":
        threading.Timer(0.3, Path(path + ".late").touch).start()
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raises":
        raise SystemExit("error: no more paper")
    Path(path).write_text("")
    return 0


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    ours = Nursery(Forked.preload, Forked.entry, {})
    deadline = time.monotonic() + 60
    while not ours.settled() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ours.ready
    yield ours
    ours.close()


def forked(nursery: Nursery, path: Path, what: str, lines: list[str], slot: str = "") -> JobProcess:
    job = Forked(path, "0")
    job.handed = lambda: f"{path} {what}\n"  # type: ignore[method-assign]
    return JobProcess(job, slot, {"A_WORD": "said"}, nursery, lambda job, line: lines.append(line))


def ended(process: JobProcess) -> int:
    deadline = time.monotonic() + 30
    while (code := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_a_forked_job_is_like_a_started_one(nursery: Nursery, tmp_path: Path) -> None:
    lines: list[str] = []
    good = forked(nursery, tmp_path / "good", "ends", lines, "7")
    assert ended(good) == 0
    assert json.loads((tmp_path / "good.seen").read_text()) == [
        True,
        "good",
        "7",
        "said",
        True,
        True,
    ]
    assert lines == ["a word"]
    assert (tmp_path / "good.left").exists()
    killed = forked(nursery, tmp_path / "killed", "dies", lines)
    assert killed.cause(ended(killed)) == "ended by signal 9 (SIGKILL)"
    raises = forked(nursery, tmp_path / "raises", "raises", lines)
    assert raises.cause(ended(raises)) == "no more paper"


def test_forked_jobs_get_signals_and_notice_the_pool_s_end(
    nursery: Nursery, tmp_path: Path
) -> None:
    first, second = (forked(nursery, tmp_path / f"job{i}", "stays", []) for i in range(2))
    first.send(signal.SIGTERM)  # maybe before it is known by its number
    assert ended(first) == -signal.SIGTERM
    assert second.poll() is None
    second._stdin.close()  # as when the pool is gone
    assert ended(second) == 0


@pytest.mark.parametrize(
    "odd", ["import threading; threading.Thread(target=input, daemon=True).start()", "nvidia"]
)
def test_nothing_is_forked_that_has_a_thread_or_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Such a nursery ends; the pool starts its jobs as programs."""
    if odd == "nvidia":  # a file that is called so
        odd = "import os; link = os.readlink; os.readlink = lambda p: '/dev/nvidia0'"
    (tmp_path / "odd.py").write_text(odd.replace("target=input", "target=threading.Event().wait"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    ours = Nursery(("odd",), "odd:__name__", {})
    assert ours._process.wait(60) == 0
    lines: list[str] = []
    started = forked(ours, tmp_path / "started", "0", lines)
    assert ended(started) == 0
    assert not ours.ready
    ours.close()


def test_without_its_nursery_a_pool_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    lines: list[str] = []
    stays = forked(nursery, tmp_path / "stays", "stays", lines)
    nursery._process.kill()
    assert ended(stays) == -signal.SIGKILL
    started = forked(nursery, tmp_path / "started", "0", lines)  # by its command
    assert ended(started) == 0
    assert not (tmp_path / "started.seen").exists()
    assert (tmp_path / "started").exists()


def test_every_job_is_forked_the_first_ones_too(nursery: Nursery, tmp_path: Path) -> None:
    jobs = [Forked(tmp_path / f"job{i}", "0") for i in range(3)]
    for job in jobs:
        job.handed = lambda path=job.path: f"{path} ends\n"  # type: ignore[misc,method-assign]
    ready = iter([False, False, True])  # as it is while it imports
    nursery.settled = lambda: next(ready, True)  # type: ignore[method-assign]
    ours = Pool(jobs, {}, ["", ""], {}, "plain", nursery=nursery)
    ours.run()
    assert ours.outcomes.keys() == {job.key for job in jobs}
    assert next(ready, None) is None  # it was waited for
    assert all(Path(f"{job.path}.seen").exists() for job in jobs)


def test_a_forked_job_s_threads_are_waited_for(nursery: Nursery, tmp_path: Path) -> None:
    thread = forked(nursery, tmp_path / "thread", "thread", [])
    assert ended(thread) == 0
    assert (tmp_path / "thread.late").exists()
