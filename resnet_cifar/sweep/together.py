"""Several narrow runs at once on a CPU, or one after the other with all its threads: measured.

A process of its own, `python -m resnet_cifar.together WIDTH PRECISION RUNS THREADS [ROOT]`: a sweep
asks it before its first run, and has no torch itself. Prints the figures as JSON. With ROOT they
are kept there, and so is what it finds of the precision: the runs need not measure that again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from resnet_cifar.compute.cpu import Figures, cpu_name, kept, measured

CLEARLY = 1.1  # times as much work done is worth the memory of several
ROUNDS, SECONDS = 3, 0.2
START, PATIENCE = 60.0, 4.0  # seconds, for the first answer and for any other
POSSIBLE = sys.platform == "linux"  # elsewhere processes that use torch can't be forked safely


class Question(NamedTuple):
    """How much several get done at once, and one."""

    width: int  # of the network
    precision: str  # as configured
    runs: int  # at once
    threads: int  # of the CPU

    def key(self) -> dict[str, Any]:
        """What the figures depend on."""
        found = {"what": "runs at once", "cpu": cpu_name(), "torch": version("torch")}
        return found | self._asdict()


def pays(question: Question, root: Path, keep: bool, say: Callable[[str], None]) -> bool:
    """Whether so many at once, each with its share of the threads, get clearly more done.

    Args:
        root: of the runs, where the answer is kept unless `keep` is false.
        say: tells the user a line, before what takes seconds.
    """
    if not POSSIBLE:
        return False
    found = kept(root, question.key())
    if found is None:
        say(f"measuring whether {question.runs} runs at once get more done …")
        command = [sys.executable, "-m", __name__, *map(str, question), *[str(root)] * keep]
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        env = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        try:
            found = {str(k): float(v) for k, v in json.loads(done.stdout).items()}
        except ValueError:  # then as if there were nothing to gain
            return False
    return found.get("together", 0.0) > CLEARLY * found.get("alone", 0.0)


def _main(question: Question, root: Path | None) -> None:
    from resnet_cifar.compute import device

    fork = multiprocessing.get_context("fork")  # before anything here has computed
    width, precision, runs, threads = question
    workers = []
    for share in (threads, *[max(1, threads // runs)] * runs):
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_work, args=(theirs, width, share), daemon=True)
        process.start()  # a daemon ends with this process
        workers.append(ours)
    if precision == "auto":
        precision = device.faster(device.precision_seconds(width, root))
    found = measured(root, question.key(), lambda: _measure(workers[1:], workers[:1], precision))
    print(json.dumps(found))


def _measure(together: list[Connection], alone: list[Connection], precision: str) -> Figures:
    """Passes per second of the convolutions of such a network: by several processes, and by one.

    They take turns, and the best of each counts. One whose threads wait for each other because
    others are on their cores may take minutes for a pass: it is not waited for.
    """
    best = {"together": 0.0, "alone": 0.0}
    for number in range(1 + ROUNDS):  # in the first, processes begin and kernels are chosen
        for name, those in (("together", together), ("alone", alone)):
            patience = PATIENCE if number or name == "alone" else START
            for worker in those:
                worker.send(precision)
            rates = [worker.recv() if worker.poll(patience) else 0.0 for worker in those]
            if not all(rates):
                return best
            if number:
                best[name] = max(best[name], sum(rates))
            else:
                best[name] = min(rates)  # something, if it is all there will be
    return best


def _work(channel: Connection, width: int, threads: int) -> None:
    import torch

    from resnet_cifar.compute import device

    device.keep_freed_memory()
    torch.set_num_threads(threads)
    passes = device.convolutions(width, device.cpu_layout(width, threads))
    while True:
        precision = channel.recv()
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < SECONDS:
            passes(precision)
            count += 1
        channel.send(count / (time.perf_counter() - start))


if __name__ == "__main__":
    _width, _precision, _runs, _threads, *_root = sys.argv[1:]
    _question = Question(int(_width), _precision, int(_runs), int(_threads))
    _main(_question, Path(*_root) if _root else None)
