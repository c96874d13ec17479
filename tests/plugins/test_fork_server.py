"""Jobs that are forked: like programs, and none the worse for the end of their server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.local_pool import _fork_server
from hydra_plugins.local_pool._fork_server import AVAILABLE, ForkServer
from hydra_plugins.local_pool._pool import Pool
from hydra_plugins.local_pool._process import JobProcess

from .toys import STUBBORN, Forked, send_signals, wait_for

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="no fork server here")
Start = Callable[..., JobProcess]


@pytest.fixture
def servers() -> Iterator[list[ForkServer]]:
    """Those that a test has started."""
    started: list[ForkServer] = []
    yield started
    for server in started:
        server.close()


@pytest.fixture
def make_server(servers: list[ForkServer]) -> Callable[..., ForkServer]:
    def make(preload: Sequence[str] = Forked.preload, **env: str) -> ForkServer:
        servers.append(ForkServer(preload, env))
        wait_for(servers[-1].settled, "it is not settled")
        return servers[-1]

    return make


@pytest.fixture
def start(tmp_path: Path, make_server: Callable[..., ForkServer]) -> Start:
    """`start("name", "what")`: a job on a server of the test's own."""
    server = make_server()

    def begin(name: str, what: str, slot: str = "", **env: str) -> JobProcess:
        job = Forked(tmp_path / name, what)
        return JobProcess(job, slot, env, server, lambda job, line: None)

    begin.server = server  # type: ignore[attr-defined]
    return begin


def wait_for_end(process: JobProcess) -> int:
    wait_for(lambda: process.poll() is not None, "it does not end", 30)
    code = process.poll()
    assert code is not None
    return code


def read_seen(process: JobProcess) -> dict[str, Any]:
    """Read what the job has found; nothing where its program was started instead."""
    path = Path(f"{process.job.key}.seen")
    wait_for(lambda: path.exists() or process.poll() is not None, "it does nothing")
    return dict(json.loads(path.read_text())) if path.exists() else {}


def test_a_forked_job_finds_what_a_program_would(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = start("good", "ends", "7", A_WORD="said", LONG="x" * 100_000)
    assert wait_for_end(good) == 0
    seen = read_seen(good)
    expected = {**os.environ, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": "7"}
    expected |= {"A_WORD": "said", "LONG": "x" * 100_000}
    assert seen["environment"] == expected
    assert seen["arguments"] == ["good"]
    assert seen["folder"] == str(tmp_path)
    assert (seen["group"], seen["imported"], seen["interrupts"]) == (True, True, True)
    assert seen["start method"] is None  # the default
    assert seen["main"] == "__main__"  # the file of the program that forks was not run again
    assert list(good.tail) == ["a word"]
    assert (tmp_path / "good.left").exists()


@pytest.mark.parametrize(
    ("what", "code", "cause"),
    [
        ("dies", -signal.SIGKILL, "ended by signal 9 (SIGKILL)"),
        ("refuses", 1, "no more paper"),
        ("raises", 1, "ValueError: paper jam"),
        ("255", 255, "a word"),
        ("daemon", 0, ""),
    ],
)
def test_exit_codes_and_causes_are_a_program_s(
    start: Start, what: str, code: int, cause: str
) -> None:
    process = start("job", what)
    assert wait_for_end(process) == code
    assert code == 0 or process.explain(code) == cause


def test_threads_of_a_forked_job_are_waited_for(start: Start, tmp_path: Path) -> None:
    assert wait_for_end(start("thread", "thread")) == 0
    assert (tmp_path / "thread.late").exists()


def test_a_forked_job_gets_signals_and_notices_the_pool_s_end(start: Start) -> None:
    first, second = start("first", "stays"), start("second", "stays")
    first.stop()  # maybe before it has a process group of its own
    assert wait_for_end(first) == -signal.SIGTERM
    assert second.poll() is None
    second._close_stdin()  # as when the pool is gone
    assert wait_for_end(second) == 3


def test_libraries_read_the_sweep_s_environment(
    make_server: Callable[..., ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules imported before the fork find it there; the pool keeps its own."""
    code = "import os, pathlib\nnames = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')\n"
    code += (
        f"pathlib.Path({str(tmp_path / 'found')!r}).write_text(str([os.environ[n] for n in names]))"
    )
    (tmp_path / "library.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(os.environ)
    make_server(("library",), OMP_NUM_THREADS="3")
    assert (tmp_path / "found").read_text() == "['3', '1']"
    assert dict(os.environ) == before


@pytest.mark.parametrize("odd", ["thread", "gpu"])
def test_nothing_is_forked_from_what_has_a_thread_or_a_gpu(
    make_server: Callable[..., ForkServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    odd: str,
) -> None:
    driver = tmp_path / "nvidia0"
    driver.touch()
    monkeypatch.setattr(_fork_server, "DRIVER", str(driver))
    code = {
        "thread": "from threading import Event, Thread\n"
        "Thread(target=Event().wait, daemon=True).start()",
        "gpu": f"driver = open({str(driver)!r})",
    }
    (tmp_path / f"odd_{odd}.py").write_text(code[odd])
    monkeypatch.syspath_prepend(str(tmp_path))
    server = make_server((f"odd_{odd}",))
    process = JobProcess(Forked(tmp_path / "job", "ends"), "", {}, server, lambda job, line: None)
    assert wait_for_end(process) == 0
    assert read_seen(process) == {}  # it was a program
    assert (tmp_path / "job").exists()


def test_the_program_s_folder_comes_before_the_working_directory(
    make_server: Callable[..., ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decimal.py").write_text("raise SystemExit('somebody else\\'s decimal')")
    monkeypatch.chdir(tmp_path)
    server = make_server()
    process = JobProcess(Forked(tmp_path / "job", "ends"), "", {}, server, lambda job, line: None)
    assert wait_for_end(process) == 0
    assert read_seen(process)["imported"]


# The server's end --------------------------------------------------------------------------------


def test_jobs_outlive_a_server_that_is_killed(start: Start, tmp_path: Path) -> None:
    """Their exit codes are their own; later jobs are programs."""
    told, stays = start("told", "told"), start("stays", "stays")
    os.kill(read_seen(told)["parent"], signal.SIGKILL)
    read_seen(stays)
    time.sleep(0.3)
    assert (told.poll(), stays.poll()) == (None, None)
    later = start("later", "ends")
    assert wait_for_end(later) == 0
    assert read_seen(later) == {}
    told._close_stdin()
    assert wait_for_end(told) == 0
    stays.stop()
    assert stays.explain(wait_for_end(stays)).startswith("ended by a signal, it is not known which")


def test_a_server_that_stands_still_holds_nobody(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork_server, "PATIENCE", 0.5)
    told, stays = start("told", "told"), start("stays", "stays")
    os.kill(read_seen(told)["parent"], signal.SIGSTOP)
    read_seen(stays)
    told._close_stdin()
    assert wait_for_end(told) == 0
    stays.stop()
    assert stays.explain(wait_for_end(stays)).startswith("ended by a signal, it is not known which")
    began = time.monotonic()
    later = start("later", "ends")
    assert wait_for_end(later) == 0
    assert time.monotonic() - began < 10
    assert read_seen(later) == {}


def test_a_pool_goes_on_when_its_server_is_killed(
    make_server: Callable[..., ForkServer], tmp_path: Path
) -> None:
    jobs = [Forked(tmp_path / f"job{i}", "waits") for i in range(4)]
    seen = [Path(f"{job.path}.seen") for job in jobs]

    def disturb() -> None:
        wait_for(lambda: seen[0].exists() and seen[1].exists(), "they do not start")
        os.kill(json.loads(seen[0].read_text())["parent"], signal.SIGKILL)
        time.sleep(0.5)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=disturb)
    killer.start()
    pool = Pool(jobs, {}, ["", ""], {}, "plain", server=make_server())
    pool.run()
    killer.join()
    assert (pool.failures, pool.outcomes.keys()) == ({}, {job.key for job in jobs})
    assert [path.exists() for path in seen] == [True, True, False, False]


def test_a_server_that_is_never_ready_is_given_up(
    servers: list[ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fork_server, "IMPORTS", 0.3)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    servers.append(ForkServer(("slow",), {}))
    jobs = [Forked(tmp_path / f"job{i}", "ends") for i in range(2)]
    pool = Pool(jobs, {}, [""], {}, "quiet", server=servers[0])
    began = time.monotonic()
    pool.run()
    assert pool.outcomes.keys() == {job.key for job in jobs}
    assert time.monotonic() - began < 3


def test_a_signal_while_the_server_imports_ends_the_pool(
    servers: list[ForkServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slower.py").write_text("import time\ntime.sleep(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    servers.append(ForkServer(("slower",), {}))
    pool = Pool(
        [Forked(tmp_path / "job", "ends", script=STUBBORN)],
        {},
        [""],
        {},
        "quiet",
        server=servers[0],
    )
    began = time.monotonic()
    sender = send_signals(lambda: time.monotonic() - began > 0.3, signal.SIGINT)
    pool.run()
    sender.join()
    assert time.monotonic() - began < 2
    assert pool.interrupted == signal.SIGINT
    assert not list(tmp_path.glob("job*"))
    wait_for(servers[0].settled, "it is not settled")


def test_every_job_is_forked_the_first_ones_too(servers: list[ForkServer], tmp_path: Path) -> None:
    """Those that could start at once wait for the imports."""
    servers.append(ForkServer(Forked.preload, {}))
    jobs = [Forked(tmp_path / f"job{i}", "ends") for i in range(3)]
    pool = Pool(jobs, {}, ["", ""], {}, "plain", server=servers[0])
    pool.run()
    assert pool.outcomes.keys() == {job.key for job in jobs}
    assert all(Path(f"{job.path}.seen").exists() for job in jobs)
