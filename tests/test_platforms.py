"""Other platforms, as far as one can show them: names hidden, files that can't be moved while open.

What a real Windows does beyond that, no test here knows (docs/engineering.md says what was tried).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from PIL import Image

PLATFORMS = ("win32", "darwin")
RUN = [*TINY, "trainer.progress=plain", "trainer.epochs=1"]
# Commands of one process, one after the other: importing torch takes longer than all of them.
IN_TURN = """
import itertools, pathlib, sys
import benchmarks.contenders, benchmarks.measure
from resnet_cifar.__main__ import main

steps = [list(words) for last, words in itertools.groupby(sys.argv[1:], "--".__eq__) if not last]
for words in steps:
    run = next(pathlib.Path().glob("outputs/*/seed=0"), "")
    code = main([word.replace("RUN", str(run)) for word in words])
    print("ended with", code, words[0], flush=True)
    if code:
        sys.exit(code)
"""


def seen_as(platform: str) -> dict[str, str]:
    path = os.pathsep.join(map(str, (ROOT / "tests" / "elsewhere", ROOT)))
    return {**os.environ, "SEEN_AS": platform, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(platform: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=seen_as(platform),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def test_what_is_hidden(tmp_path: Path) -> None:
    """The stand-in for a platform hides what it says, and only from this project."""
    (tmp_path / "a").touch()
    check = """
import ctypes, importlib.util, os, pathlib, resnet_cifar.files, signal, sys
print(os.name, sys.platform, hasattr(os, "killpg"), hasattr(signal, "SIGHUP"), sep=",")
print(resnet_cifar.files.fcntl, importlib.util.find_spec("resource"))
with open("a"):
    replace, unlink = lambda: os.replace("a", "b"), pathlib.Path("a").unlink
    for change in (replace, unlink, lambda: ctypes.CDLL(None)):
        try:
            change()
        except Exception as error:
            print(type(error).__name__, hasattr(error, "winerror"))
os.replace("a", "b")
"""
    said, _ = start("win32", tmp_path, "-c", check).communicate(timeout=60)
    expected = "nt,win32,False,False|None None|" + "PermissionError True|" * 2 + "TypeError False|"
    assert said.replace("\n", "|") == expected


@pytest.mark.parametrize("platform", ["win32", pytest.param("darwin", marks=pytest.mark.soak)])
def test_every_command(platform: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    steps = [
        ["train", *RUN],
        ["train", *RUN, "rerun=true"],
        ["train", *RUN, "seed=1"],
        ["runs", "verify"],
        ["evaluate", "RUN"],
        ["export", "RUN", "net.safetensors"],
        ["predict", "RUN", "a.png"],
        ["report", "--quiet"],
        ["report", "--quiet"],
        ["runs", "archive", "outputs", "--seed", "1", "--yes"],
        ["runs", "remove", "outputs", "--seed", "0", "--yes"],
        ["runs", "clean"],
        ["runs"],
    ]
    words = [word for step in steps for word in (*step, "--")]
    said, _ = start(platform, tmp_path, "-c", IN_TURN, *words).communicate(timeout=200)
    assert re.findall(r"ended with (\d+) (\w+)", said) == [("0", step[0]) for step in steps], said
    assert "Traceback" not in said
    assert "1 run, " in said.splitlines()[-2]  # the one that rerun=true has set aside
    assert list(tmp_path.glob("outputs.archive/*/seed=1/run.json"))


@pytest.mark.soak
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("several", [True, False])
def test_interrupted_and_resumed(platform: str, several: bool, tmp_path: Path) -> None:
    """Ctrl-C at a run; and at a sweep, whose jobs hear of it without signals."""
    long = [*TINY, "trainer.progress=plain", "trainer.epochs=100"]
    words = [str(ROOT / "train.py"), *(["-m", *long, "seed=0,1"] if several else long)]
    process = start(platform, tmp_path, *words)
    end = time.monotonic() + 120
    while not any(len(p.read_text().splitlines()) > 2 for p in tmp_path.rglob("metrics.jsonl")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "; the same command goes on" in said
    process = start(platform, tmp_path, *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "resum" in said
    assert len(list(tmp_path.rglob("predictions.npz"))) == 1 + several


@pytest.mark.soak
@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_name_is_used_that_python_lacks_there(platform: str, tmp_path: Path) -> None:
    """mypy knows the names of Python's library by platform."""
    mypy = [sys.executable, "-m", "mypy", "--platform", platform, "--cache-dir", str(tmp_path)]
    checked = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "checked 1" in checked.stdout, checked
    # Where there is a fork server, killpg and fcntl, these names are there as well.
    asked_before = r"_fork_server\.py|_process\.py.*SIGKILL|_study\.py.*(flock|LOCK_)"
    missing = [line for line in checked.stdout.splitlines() if "[attr-defined]" in line]
    assert [line for line in missing if not re.search(asked_before, line)] == []
