"""The number of a sweep's runs that share a CPU: by cores and memory, nothing measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TINY

from resnet_cifar.compute import cpu
from resnet_cifar.config.compose import compose_untyped
from resnet_cifar.sweep import job
from resnet_cifar.sweep.job import RunJob, peak_memory

FREE = [override for override in TINY if not override.startswith("trainer.threads")]


def jobs(count: int, root: Path, *overrides: str) -> list[RunJob]:
    composed = compose_untyped([*FREE, f"output_root={root}", *overrides])
    found = []
    for seed in range(count):
        composed.seed = seed
        found.append(RunJob(composed, []))
    return found


@pytest.mark.parametrize(
    ("count", "cpus", "runs", "last"),
    [
        (8, 4, 4, 7),
        (3, 4, 3, 5),
        (2, 4, 2, 0),  # two threads each: they would wait for one another
        (1, 4, 1, 0),
        (8, 1, 1, 0),
    ],
)
def test_as_many_as_cores(tmp_path: Path, count: int, cpus: int, runs: int, last: int) -> None:
    assert RunJob.at_once(jobs(count, tmp_path), cpus) == (runs, last)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [(2.5, (2, 0)), (1.5, (1, 0)), (0.5, (1, 0)), (4.5, (4, 4)), (5.5, (4, 5)), (None, (1, 0))],
)
def test_as_many_as_memory_allows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: float | None,
    expected: tuple[int, int],
) -> None:
    eight = jobs(8, tmp_path)
    room = None if memory is None else memory * peak_memory(eight[0].run)
    monkeypatch.setattr(job, "available_memory", lambda: room)
    assert RunJob.at_once(eight, 4) == expected


@pytest.mark.parametrize(("threads", "expected"), [(2, (2, 0)), (1, (4, 7)), (8, (1, 0))])
def test_runs_with_threads_of_their_own(
    tmp_path: Path, threads: int, expected: tuple[int, int]
) -> None:
    assert RunJob.at_once(jobs(8, tmp_path, f"trainer.threads={threads}"), 4) == expected


def test_memory_of_the_study_s_network() -> None:
    """2.1 GB were seen at width 64."""
    full = RunJob(compose_untyped(["trainer.device=cpu"]), []).run
    assert 2.0e9 < peak_memory(full) < 2.6e9


def test_available_memory_is_a_number_of_bytes() -> None:
    memory = cpu.available_memory()
    assert memory is not None
    assert memory > 1e8


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 CPUs, two a core, in place of this one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(cpu, "TOPOLOGY", tmp_path)
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    return tmp_path


def test_two_cpus_of_a_core_are_one(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (RunJob.cpus(), cpu.available_cpus()) == (4, 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 5})
    assert (RunJob.cpus(), cpu.available_cpus()) == (2, 3)
    monkeypatch.setattr(cpu, "TOPOLOGY", machine / "nowhere")
    assert RunJob.cpus() == 3


@pytest.mark.parametrize(
    ("limit", "told", "cores"),
    [("200000 100000", None, 2), ("max 100000", "3", 3), ("150000 100000", "99", 2), ("", "0", 4)],
)
def test_cores_of_a_container_and_as_openmp_is_told(
    machine: Path, monkeypatch: pytest.MonkeyPatch, limit: str, told: str | None, cores: int
) -> None:
    (machine / "cpu.max").write_text(limit + "\n")
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert RunJob.cpus() == cores


@pytest.mark.parametrize("said", ["abc", "", "0", "-1", "1.5", "²", "9" * 5000, "1,2"])
def test_threads_that_are_no_number_are_not_said(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cpu.omp_num_threads() is None
    assert cpu.available_cores() >= 1
