"""The launcher's pool on its own: devices, failures, signals, with processes that cost nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hydra_plugins.local_pool import Job, JobSource, Outcome, _pool, _process
from hydra_plugins.local_pool._pool import Pool

from .toys import STUBBORN, Script, make_pool, send_signals


def read_span(path: Path) -> tuple[str, float, float]:
    device, start, end = json.loads(path.read_text())
    return device, start, end


def test_eight_jobs_on_four_devices(tmp_path: Path) -> None:
    """Never two on one device, every device used, as many at once as there are devices."""
    jobs = [Script(tmp_path / f"job{i}", "0.4") for i in range(8)]
    make_pool(list(jobs), ["0", "1", "2", "3"]).run()
    spans = [read_span(job.path) for job in jobs]
    assert {device for device, _, _ in spans} == {"0", "1", "2", "3"}
    for device in "0123":
        own = sorted((start, end) for d, start, end in spans if d == device)
        assert len(own) == 2
        assert own[0][1] <= own[1][0]
    at_once = [sum(s <= start < e for _, s, e in spans) for _, start, _ in spans]
    assert max(at_once) == 4


def test_two_jobs_share_a_device_where_asked(tmp_path: Path) -> None:
    jobs = [Script(tmp_path / f"job{i}", "0.4") for i in range(4)]
    make_pool(list(jobs), ["5", "5"]).run()
    spans = [read_span(job.path) for job in jobs]
    assert {device for device, _, _ in spans} == {"5"}
    assert max(sum(s <= start < e for _, s, e in spans) for _, start, _ in spans) == 2


def test_what_a_job_prints_is_read_as_it_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever encoding the environment asks for: Windows' is not UTF-8, nor is every locale's."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    job = Script(tmp_path / "job", script="raise SystemExit('error: Läufe × 2')")
    pool = make_pool([job], [""])
    pool.run()
    assert pool.failures == {job.key: "Läufe × 2"}


@pytest.mark.parametrize(
    ("jobs", "slots", "spare", "most"),
    [(3, 2, 1, 3), (5, 2, 1, 3), (7, 2, 3, 3), (3, 2, 0, 2), (5, 3, 1, 4)],
)
def test_the_last_jobs_share_what_the_others_have(
    tmp_path: Path, jobs: int, slots: int, spare: int, most: int
) -> None:
    """Never more than `slots` while as many are left to start; then the odd ones beside them."""
    several = [Script(tmp_path / f"job{i}", "0.8") for i in range(jobs)]
    pool = Pool(several, {}, [""] * slots, {}, "quiet", spare=[""] * spare)
    pool.run()
    assert len(pool.outcomes) == jobs
    spans = sorted(read_span(job.path)[1:] for job in several)
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
    pool = make_pool(jobs, [""])
    pool.run()
    assert set(pool.outcomes) == {str(tmp_path / "good0"), str(tmp_path / "good1")}
    assert pool.failures == {
        str(tmp_path / "raises"): "no more paper",
        str(tmp_path / "killed"): "ended by signal 9 (SIGKILL)",
        str(tmp_path / "silent"): "exit code 7, nothing printed",
        str(tmp_path / "empty"): "its process ended without an error and without a result",
    }
    out = capfd.readouterr().out
    assert "6 runs: 2 done, 4 failed" in out
    assert "failed: raises: no more paper" in out
    assert "tries the failed ones again" in out


def test_what_is_done_is_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [Script(tmp_path / f"job{i}", "0") for i in range(3)]
    ran_before = jobs[1].path
    ran_before.write_text("kept")
    make_pool(list(jobs), [""]).run()
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
    pool = make_pool([taken, free], [""])
    pool.run()
    assert taken.path.read_text() == "by another"
    assert set(pool.outcomes) == {taken.key, free.key}
    out = capfd.readouterr().out
    assert out.index("another process is running it") < out.index("free: started")
    assert "taken: completed (elsewhere)" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_job_and_starts_no_other(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [Script(tmp_path / f"job{i}", "polite", script=STUBBORN) for i in range(4)]
    ready = [tmp_path / f"job{i}.ready" for i in range(2)]
    sender = send_signals(lambda: all(path.exists() for path in ready), number)
    pool = make_pool(list(jobs), ["", ""])
    pool.run()
    sender.join()
    assert pool.interrupted == number
    asked = sorted(path.name for path in tmp_path.glob("*.asked"))
    assert asked == ["job0.asked", "job1.asked"]
    assert not pool.failures
    assert "4 not finished" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_ends_what_does_not_listen(tmp_path: Path) -> None:
    job = Script(tmp_path / "job", "rude", script=STUBBORN)
    sender = send_signals((tmp_path / "job.ready").exists, signal.SIGINT, signal.SIGINT)
    pool = make_pool([job], [""])
    pool.run()
    sender.join()
    assert pool.interrupted == signal.SIGINT
    assert (tmp_path / "job.asked").exists()


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
    pool = make_pool(list(jobs), [""], minutes=1)
    pool.run()
    assert pool.outcomes.keys() == {jobs[1].key, jobs[2].key}
    assert [job.label for job in pool.left] == ["long", "longer"]
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
    pool = make_pool([pupil, teacher], [""], minutes=1)
    pool.run()
    assert pool.outcomes.keys() == {pupil.key, teacher.key}


def test_at_the_deadline_what_runs_saves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [Script(tmp_path / f"job{i}", "polite", script=STUBBORN) for i in range(2)]
    pool = make_pool(list(jobs), [""], minutes=0.02)
    pool.run()
    assert (tmp_path / "job0.asked").exists()
    assert not (tmp_path / "job1.ready").exists()
    assert [job.label for job in pool.left] == ["job0", "job1"]
    assert (pool.failures, pool.interrupted) == ({}, 0)
    assert "the time is up" in capfd.readouterr().out


HANDED = "import sys; open(sys.argv[1], 'w').write(sys.stdin.readline())"


def test_a_job_finds_what_it_is_handed(tmp_path: Path) -> None:
    class Handed(Script):
        def handed(self) -> str:
            return "x" * 200_000 + "\n"  # more than a pipe holds

    jobs = [Handed(tmp_path / "reads", script=HANDED), Handed(tmp_path / "ends", script="1")]
    pool = make_pool(list(jobs), [""])
    pool.run()
    assert len((tmp_path / "reads").read_text()) == 200_001
    assert pool.failures.keys() == {jobs[1].key}


def test_a_full_disk_behind_the_log_fails_nothing(tmp_path: Path) -> None:
    """In a process of its own, which must also end well."""
    program = (
        f"import sys; sys.path[:0] = {sys.path}\n"
        "from pathlib import Path; from plugins.toys import Script, make_pool\n"
        f"pool = make_pool([Script(Path({str(tmp_path)!r}, 'job'), '0')], [''])\n"
        "pool.run(); sys.exit(0 if pool.outcomes and not pool.failures else 3)"
    )
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", program], stdout=full).returncode == 0


def test_jobs_that_wait_for_a_teacher_keep_their_order_and_run_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Pupil(Script):
        def seconds(self) -> float | None:
            return 1.0 if (tmp_path / "teacher").exists() else 3600.0

    pupils = [Pupil(tmp_path / f"pupil{i}", "0") for i in range(3)]
    pool = make_pool([*pupils, Script(tmp_path / "teacher", "0")], [""], minutes=1)
    pool.run()
    assert len(pool.outcomes) == 4
    lines = [line.split("] ")[1] for line in capfd.readouterr().out.splitlines() if "] " in line]
    order = [f"pupil{i}: {what}" for i in range(3) for what in ("started", "completed")]
    assert lines == ["teacher: started", "teacher: completed", *order]


class Shared(Script):
    """Another process is at it from the moment its own process looks, for a while."""

    looks = 0

    def busy(self) -> bool:
        self.looks += 1
        if self.looks == 4:
            self.path.write_text("by another")
        return 1 < self.looks < 4  # not when it is chosen


@pytest.mark.parametrize(("script", "code"), [("", 0), ("raise SystemExit(7)", 7)])
def test_a_job_that_leaves_its_work_to_another_process_waits_unless_it_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str, code: int
) -> None:
    job = Shared(tmp_path / "shared", script=script)
    pool = make_pool([job], [""])
    pool.run()
    out = capfd.readouterr().out
    if code:
        assert pool.failures == {job.key: "exit code 7, nothing printed"}
        assert "another process" not in out
    else:
        assert (pool.failures, pool.outcomes.keys()) == ({}, {job.key})
        assert out.count("another process is running it: later") == 1
        assert "shared: completed (elsewhere)" in out
        assert out.count("shared: started") == 1


def test_an_outcome_that_another_process_leaves_at_the_last_moment_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Late(Script):
        looks = 0

        def outcome(self) -> Outcome | None:
            self.looks += 1
            if self.looks == 4:  # by then the other one has let go of it
                self.path.write_text("by another")
            return super().outcome()

    job = Late(tmp_path / "late", script="")
    pool = make_pool([job], [""])
    pool.run()
    assert (pool.failures, pool.outcomes.keys()) == ({}, {job.key})
    assert "late: completed (elsewhere)" in capfd.readouterr().out


@pytest.mark.parametrize("kind", ["polite", "stubborn"])
def test_an_error_of_the_pool_s_own_ends_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A job that does not listen is killed after a time; none is left behind."""
    monkeypatch.setattr(_process, "PATIENCE", 0.5)

    class Broken(Script):
        def busy(self) -> bool:
            if (tmp_path / "job.ready").exists():
                raise ZeroDivisionError
            return False

    job = Script(tmp_path / "job", kind, script=STUBBORN)
    until = f"while not os.path.exists({str(tmp_path / 'job.ready')!r}): time.sleep(0.05)"
    waits = Script(tmp_path / "waits", script=f"import os, time\n{until}")
    pool = make_pool([job, waits, Broken(tmp_path / "broken", "0")], ["", ""])
    with pytest.raises(ZeroDivisionError):
        pool.run()
    assert (tmp_path / "job.asked").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "job.pid").read_text()), 0)


def test_a_signal_ends_jobs_that_do_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "PATIENCE", 0.5)
    job = Script(tmp_path / "job", "stubborn", script=STUBBORN)
    pool = make_pool([job], [""])
    sender = send_signals((tmp_path / "job.ready").exists, signal.SIGTERM)
    again = threading.Timer(60, os.kill, (os.getpid(), signal.SIGTERM))  # or it would hang
    again.start()
    began = time.monotonic()
    pool.run()
    again.cancel()
    sender.join()
    assert time.monotonic() - began < 50
    assert pool.interrupted == signal.SIGTERM
    assert (tmp_path / "job.asked").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "job.pid").read_text()), 0)


def test_a_cause_is_one_short_line(tmp_path: Path) -> None:
    long = Script(tmp_path / "long", script="print('word ' * 20_000 + 'end'); raise SystemExit(1)")
    pool = make_pool([long], [""])
    pool.run()
    (cause,) = pool.failures.values()
    assert len(cause) <= 300
    assert (cause[:4], cause[-3:]) == ("word", "end")
    assert len(Job.cause(RuntimeError("a\n" * 50_000))) <= 300


def test_without_process_groups_standard_input_tells_jobs_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows lacks these names: there the first signal closes it, the second kills."""
    monkeypatch.delattr(os, "killpg")
    monkeypatch.delattr(signal, "SIGKILL")
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: os.kill(self.pid, 9))
    monkeypatch.setattr("hydra_plugins.local_pool._pool.HANGUP", None)
    ready = "import sys, time\nopen(sys.argv[1] + '.ready', 'w').close()\n"
    listens = ready + "sys.stdin.read()\nopen(sys.argv[1] + '.saved', 'w').close()"
    jobs = [
        Script(tmp_path / "listens", script=listens),
        Script(tmp_path / "deaf", script=ready + "time.sleep(60)"),
    ]
    both = [tmp_path / "listens.ready", tmp_path / "deaf.ready"]
    numbers = (signal.SIGINT, signal.SIGINT)
    sender = send_signals(lambda: all(path.exists() for path in both), *numbers)
    pool = make_pool(jobs, ["", ""])
    began = time.monotonic()
    pool.run()
    sender.join()
    assert (tmp_path / "listens.saved").exists()
    assert time.monotonic() - began < 30
    assert not pool.failures


class Proposals(JobSource):
    """Proposes the same job again and again, under other names, until told to end."""

    kind, total, before = Script, 5, 0

    def __init__(self, make: Callable[[int], Job], behind: Path) -> None:
        self.jobs: list[Job] = []
        self._make, self._behind = make, behind
        self.stopped_jobs: list[Job] = []

    def next(self) -> Job | None:
        if self.stopped_jobs:
            return None
        self.jobs.append(self._make(len(self.jobs)))
        return self.jobs[-1]

    def label(self, job: Job) -> str:
        return job.label

    def stop(self, job: Job) -> str:
        return "behind" if self._behind.exists() else ""

    def ended(self, job: Job, outcome: Outcome) -> None:
        raise AssertionError

    def stopped(self, job: Job) -> None:
        self.stopped_jobs.append(job)


def test_a_source_is_asked_for_no_more_where_one_job_takes_too_long(tmp_path: Path) -> None:
    def make(number: int) -> Job:
        job = Known(tmp_path / f"job{number}", "0")
        job.estimate = 3600.0
        return job

    source = Proposals(make, tmp_path / "never")
    pool = Pool([], {}, [""], {}, "quiet", time.monotonic() + 60, source)
    pool.run()
    assert len(source.jobs) == 1
    assert pool.left == source.jobs


def test_a_pruned_job_has_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "WATCH", 0.0)
    slow = STUBBORN.replace("raise SystemExit(143)", "time.sleep(0.5); raise SystemExit(143)")

    def make(number: int) -> Job:
        return Script(tmp_path / f"job{number}", "polite", script=slow)

    source = Proposals(make, tmp_path / "job0.ready")
    pool = Pool([], {}, [""], {}, "quiet", source=source)
    pool.run()
    assert (pool.failures, pool.pruned) == ({}, {source.jobs[0].key: "behind"})
    assert source.stopped_jobs == source.jobs[:1]
