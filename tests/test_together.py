"""How many runs share a CPU: as many as get more done, where memory allows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY

from hydra_plugins.local_pool import launcher
from hydra_plugins.local_pool._job import AtOnce, Job, Outcome
from resnet_cifar.compute import cpu as machine
from resnet_cifar.compute import device
from resnet_cifar.config.compose import compose_untyped
from resnet_cifar.sweep import job, together
from resnet_cifar.sweep.job import RunJob, memory

FREE = [override for override in TINY if not override.startswith("trainer.threads")]


def jobs(count: int, root: Path, *overrides: str) -> list[RunJob]:
    composed = compose_untyped([*FREE, f"output_root={root}", *overrides])
    found = []
    for seed in range(count):
        composed.seed = seed
        found.append(RunJob(composed, []))
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of a measurement that is in favour of several."""
    calls: list[Any] = []
    monkeypatch.setattr(together, "pays", lambda *a: calls.append(a[:-1]) or True)
    return calls


def test_as_many_as_cores_and_memory_allow(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = jobs(8, tmp_path)
    assert RunJob.at_once(eight, 4, True, print) == (4, 7)
    assert asked.pop() == ((2, "auto", 4, 4), tmp_path, True)
    assert RunJob.at_once(eight[:3], 4, False, print) == (3, 5)
    assert asked.pop() == ((2, "auto", 3, 4), tmp_path, False)
    room = 2.5 * memory(eight[0].run)
    monkeypatch.setattr(job, "available_memory", lambda: room)
    assert RunJob.at_once(eight, 4, True, print) == (2, 0)
    monkeypatch.setattr(job, "available_memory", lambda: room / 2)
    asked.clear()
    assert RunJob.at_once(eight, 4, True, print) == (1, 0)
    assert asked == []  # there is nothing to decide


def test_one_where_that_is_as_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "pays", lambda *a: False)
    assert RunJob.at_once(jobs(8, tmp_path), 4, True, print) == (1, 0)


def test_runs_with_threads_of_their_own(tmp_path: Path, asked: list[Any]) -> None:
    for threads, several in ((2, (2, 0)), (1, (4, 7))):
        runs = jobs(8, tmp_path, f"trainer.threads={threads}")
        assert RunJob.at_once(runs, 4, True, print) == several
    assert asked == []


def test_memory_of_the_study_s_network(tmp_path: Path) -> None:
    """2.1 GB were seen at width 64."""
    full = RunJob(compose_untyped(["trainer.device=cpu"]), []).run
    assert 2.0e9 < memory(full) < 2.6e9


@pytest.mark.parametrize(
    ("said", "several"),
    [
        ('{"together": 3.0, "alone": 2.0}', True),
        ('{"together": 2.1, "alone": 2.0}', False),
        ("{}", False),
        ('{"together": 2.0, "alone": 0.0}', True),  # its threads waited for each other for ever
    ],
)
def test_what_a_measurement_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, several: bool
) -> None:
    calls = []

    def run(command: list[str], **settings: Any) -> SimpleNamespace:
        calls.append(command)
        return SimpleNamespace(stdout=said)

    monkeypatch.setattr(together.subprocess, "run", run)
    monkeypatch.setattr(together, "POSSIBLE", True)
    lines: list[str] = []
    asked = together.Question(8, "auto", 2, 2), tmp_path
    assert together.pays(*asked, False, lines.append) == several
    assert together.pays(*asked, True, lines.append) == several
    assert lines == ["measuring whether 2 runs at once get more done …"] * 2
    assert [call[3:] for call in calls] == [
        ["8", "auto", "2", "2"],
        ["8", "auto", "2", "2", str(tmp_path)],
    ]
    said = "Traceback: no torch here"
    assert not together.pays(*asked, True, print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not together.POSSIBLE, reason="no fork here that torch stands")
def test_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; and the runs find what it found of their precision."""
    asked = together.Question(8, "auto", 2, 1), tmp_path, True, print
    several = together.pays(*asked)
    entries = {
        e["what"]: e["figures"] for e in json.loads((tmp_path / ".measured.json").read_text())
    }
    found = entries["runs at once"]
    assert found.keys() == {"together", "alone"}
    assert found["together"] > 0
    monkeypatch.setattr(together.subprocess, "run", None)
    assert together.pays(*asked) == several
    if machine.has_bf16():
        monkeypatch.setattr(device, "_measure_precision", None)
        assert device.precision_seconds(8, tmp_path) == entries["precision"]


class Counted(Job):
    def outcome(self) -> Outcome | None:
        return Outcome(1.0, "done") if self.overrides == ["done"] else None

    @classmethod
    def at_once(cls, jobs: Any, threads: int, keep: bool, say: Any) -> AtOnce:
        return AtOnce(10 * len(jobs), 10 * len(jobs) + threads)


@pytest.mark.parametrize(
    ("devices", "cpus", "changed", "slots", "spare"),
    [
        ([""], 4, {}, 20, 4),  # of two that are left
        ([""], 1, {}, 1, 0),
        (["0", "1"], 4, {}, 2, 0),
        ([""], 4, {"threads": 2}, 1, 0),
        ([""], 4, {"jobs_per_device": 3}, 3, 0),
        (["0", "1"], 4, {"jobs_per_device": 3}, 6, 0),
    ],
)
def test_auto_asks_the_jobs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    cpus: int,
    changed: Any,
    slots: int,
    spare: int,
) -> None:
    values = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "local.yaml").read_text())
    del values["defaults"]
    assert values["jobs_per_device"] == "auto"
    monkeypatch.setattr(launcher, "_cpus", lambda: cpus)
    pool = launcher.LocalPool(**{**values, **changed})
    three = [Counted(None, [name]) for name in ("a", "done", "b")]  # type: ignore[arg-type]
    assert [len(part) for part in pool._slots(devices, three[::2])] == [slots, spare]
    assert len(pool._slots(devices, three[:1])[0]) <= max(len(devices), slots)


def test_available_memory_is_a_number_of_bytes() -> None:
    assert machine.available_memory() > 1e8
