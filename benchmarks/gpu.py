"""The command `python -m benchmarks.gpu`: how fast a GPU makes the engine's steps, in little time.

Trains short epochs by every mode of the step, one run and several at once: in processes, in
processes under CUDA's Multi-Process Service, or in one process (streams.py). Each measurement has
processes of its own, which are ended at its limit. Prints Markdown, saves JSON at every figure.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.compute.cpu import available_cpus
from resnet_cifar.errors import ConfigError, UserError, describe, require
from resnet_cifar.files import write_atomically, write_json
from resnet_cifar.paths import checkout
from resnet_cifar.record.provenance import git_state, versions

MODES = {
    "captured": ("trainer.capture=auto", "trainer.compile=false"),
    "captured-compiled": ("trainer.capture=auto", "trainer.compile=true"),
    "compiled": ("trainer.capture=off", "trainer.compile=true"),
    "eager": ("trainer.capture=off", "trainer.compile=false"),
    "untuned": ("trainer.capture=auto", "trainer.compile=false", "trainer.cudnn_benchmark=false"),
}
EXTRA = ("eager", "untuned")  # cheap, but they matter least
STREAMS, MPS, PROCESSES = "streams", "MPS", "processes"
CONTROL = "nvidia-cuda-mps-control"
DATA = ("data=synthetic", "data.train_size=1000", "data.val_size=1000")  # repeated to an epoch
FIXED = ("trainer.epochs=10000", "trainer.checkpoint_seconds=1e9")
DRY = (
    *("trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32"),
    *("trainer.batch_size=8", "model.width=8"),
)
SHARE = 1 / 3  # of the time, which an entry that compiles nothing may take
ENDING = 5.0  # seconds in which a killed process is gone
PRELOAD = ["benchmarks.streams"]
HEAD = "| step | runs | by | images/s | of each | epochs | first epoch, s | validation, images/s "
Work = Callable[..., Iterator[dict[str, Any]]]


class Entry(NamedTuple):
    """A measurement: so many runs at once, in a mode of the step, beside each other in one way."""

    mode: str
    runs: int
    by: str


def parts(*job: Any) -> Iterator[dict[str, Any]]:
    """Measure as `streams.parts` does, which imports torch: this module does not."""
    from benchmarks import streams

    yield from streams.parts(*job)


def serve(connection: Connection, limit: float, place: str, work: Work, *job: Any) -> None:
    """Run in a process: send the parts of the work. The system ends it, if need be, at `limit`."""
    if hasattr(os, "setsid"):  # so that the compiler's processes can be ended with this one
        os.setsid()
        signal.alarm(math.ceil(limit))
    os.environ["CUDA_MPS_PIPE_DIRECTORY"] = place
    with contextlib.suppress(EOFError, ConnectionError):  # the other side is gone
        try:
            for part in work(connection, place, *job):
                connection.send(part)
        except Exception as error:
            connection.send({"error": describe(error), "code": getattr(error, "exit_code", 1)})


class Job:
    """A process that works, by `serve`. `close` ends it, whatever it does."""

    def __init__(self, *job: Any) -> None:
        # As in contenders.py: forked from a process that has imported torch and used no CUDA.
        context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
        context.set_forkserver_preload(PRELOAD)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *job))
        self._process.start()
        theirs.close()

    def answer(self, until: float) -> dict[str, Any]:
        """Wait for its next part. Raises UserError: none came until then, or an error did."""
        try:
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                raise UserError("not done in its time, ended")
            answer: dict[str, Any] = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(ENDING)
            raise UserError(f"its process died (exit code {self._process.exitcode})") from None
        if "error" in answer:
            raise (ConfigError if answer["code"] == 2 else UserError)(answer["error"])
        return answer

    def train_until(self, end: float) -> None:
        """Have it train from now on."""
        with contextlib.suppress(OSError):  # it died: `answer` says so
            self._connection.send(end)

    def close(self) -> None:
        """End the process and those that it started."""
        self._connection.close()
        with contextlib.suppress(AttributeError, OSError):  # on Windows; where it has none
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(ENDING)


@contextlib.contextmanager
def folder(by: str) -> Iterator[str]:
    """A folder for an entry's files; under MPS its daemon, ended with the entry, listens there."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        if by != MPS:  # no daemon of the machine's is used unasked: none listens here
            yield place
            return
        places = {"CUDA_MPS_PIPE_DIRECTORY": place, "CUDA_MPS_LOG_DIRECTORY": place}
        null = subprocess.DEVNULL  # a pipe would wait for the daemon's end
        how: Any = {"env": os.environ | places, "timeout": ENDING, "stdout": null, "stderr": null}
        try:
            subprocess.run([CONTROL, "-d"], check=True, **how)
            yield place
        finally:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([CONTROL], input=b"quit -t 2\n", check=False, **how)
            with contextlib.suppress(OSError, ValueError):  # its file is gone when it has quit
                for _ in range(20):
                    daemon = int(Path(place, f"{CONTROL}.pid").read_text())
                    time.sleep(0.1)
                os.kill(daemon, signal.SIGKILL)


def plan(modes: Sequence[str], runs: Sequence[int], mps: bool) -> list[Entry]:
    """Order the entries: the cheapest first, but numbers in between and EXTRA at the end."""
    entries = []
    for mode in modes:
        entries += [Entry(mode, 1, PROCESSES)] * (1 in runs)
        # Only a captured step leaves an interpreter the time for other runs.
        ways = [STREAMS] * ("trainer.capture=auto" in MODES[mode]) + [MPS] * mps + [PROCESSES]
        for count in sorted({*runs} - {1}, reverse=True):
            entries += [Entry(mode, count, by) for by in ways]
    return sorted(entries, key=lambda each: (each.mode in EXTRA, 1 < each.runs < max(runs)))


def reason_to_skip(entry: Entry, before: Sequence[dict[str, Any]], left: float) -> str | None:
    """Say why an entry is not started, by what was seen before it; None: it is."""
    mine = [found for found in before if found["mode"] == entry.mode]
    if any("error" in found and "of_each" not in found for found in mine if found["runs"] == 1):
        return "not started: its mode failed alone"
    whole = [found for found in before if not {"error", "skipped"} & found.keys()]
    # A mode that is new takes the shortest's time at least, another that of its last.
    needed = min((found["seconds"] for found in whole), default=0.0)
    for last in [found for found in whole if found in mine][-1:]:
        # What was compiled then is kept in the compiler's cache.
        compiling = max(last["first_epoch_seconds"]) if "compiled" in entry.mode else 0.0
        needed = last["seconds"] - compiling
    if left <= 0:
        return "not started: no time is left"
    reason = f"not started: takes about {needed:.0f} s, {left:.0f} s are left"
    return reason if needed > left else None


def measure(
    entry: Entry, work: Work, overrides: Sequence[str], each: float, until: float
) -> Iterator[dict[str, Any]]:
    """Measure an entry: its figures, as they come. Raises UserError as `Job.answer`."""
    streams = entry.runs if entry.by == STREAMS else 1
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(folder(entry.by))
        what = (until - time.monotonic() + ENDING, place, work, overrides, streams)
        count = entry.runs // streams
        jobs = [stack.enter_context(contextlib.closing(Job(*what))) for _ in range(count)]
        yield joined([job.answer(until) for job in jobs])
        end = time.monotonic() + each
        for job in jobs:  # all train until then; what they end later does not count
            job.train_until(end)
        found = joined([job.answer(until) for job in jobs])
        yield {"images_per_second": sum(found["of_each"]), **found}
        while entry.runs == 1 and (part := jobs[0].answer(until)):
            yield part


def joined(answers: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Join the lists of an entry's processes, key by key."""
    return {key: [value for answer in answers for value in answer[key]] for key in answers[0]}


def row(found: dict[str, Any]) -> str:
    """An entry as a row of the table."""
    rates, first = found.get("of_each"), found.get("first_epoch_seconds")
    memory, validation = found.get("memory_bytes"), found.get("validation_images_per_second")
    remarks = [found[key] for key in ("skipped", "error") if key in found]
    cells = (
        *(found["mode"], found["runs"], found["by"]),
        f"{sum(rates):,.0f}" if rates else "",
        f"{min(rates):,.0f} to {max(rates):,.0f}" if rates else "",
        min(map(len, found["epoch_seconds"])) if rates else "",
        f"{max(first):.1f}" if first else "",
        f"{validation:,.0f}" if validation else "",
        f"{max(memory) / 1e6:,.0f}" if memory and max(memory) else "",
        "; ".join([*found.get("notes", ()), *remarks]),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: list[str] | None = None, work: Work = parts) -> int:
    """Parse the command line and measure, by `work`; the process's exit code."""
    parser = Parser(
        prog="python -m benchmarks.gpu",
        description="Images/s by mode of the step and number of runs at once. Needs a checkout and "
        "a CUDA device. Stops at its time; Ctrl-C leaves what was measured.",
    )
    parser.add_argument("override", nargs="*", help="after --, of the configuration: key=value")
    parser.add_argument("--seconds", type=float, default=45.0, help="in all (45)")
    parser.add_argument("--each", type=float, default=2.0, help="of training that counts (2)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="(all)")
    parser.add_argument("--runs", nargs="+", type=int, default=[1, 2, 3], help="at once (1 2 3)")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu.json"))
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a tiny network")
    parser.set_defaults(work=work)
    return run_command(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> None:
    until = time.monotonic() + options.seconds
    for name in ("seconds", "each"):
        value = getattr(options, name)
        require(0 < value < math.inf, f"--{name}", value, "above 0, finite")
    require(min(options.runs) >= 1, "--runs", min(options.runs), "1 or more")
    data = () if any(word.startswith("data") for word in options.override) else DATA
    words = (*FIXED, *data, *(DRY if options.dry_run else ()))
    with folder(PROCESSES) as place:  # a mistake in the overrides ends it here
        job = Job(options.seconds + ENDING, place, options.work, (*words, *options.override), 0)
        with contextlib.closing(job):
            machine = {"cores": available_cpus(), **versions(), **job.answer(until)}
    results = {"seconds": options.seconds, "each": options.each, "overrides": options.override}
    results |= {"machine": machine, "git": git_state(checkout()), "entries": []}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"\n{HEAD}| memory, MB | |\n{'|---' * 10}|", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    mps = shutil.which(CONTROL) is not None and not options.dry_run
    for entry in plan(options.modes, options.runs, mps):
        add(entry, words, options, until, results)
    if not mps:
        print(f"\nWithout MPS, for want of {CONTROL}.")


def add(
    entry: Entry, words: Sequence[str], options: argparse.Namespace, until: float, results: Any
) -> None:
    """Measure an entry, or note why it failed or is not started; save it with the others."""
    start = time.monotonic()
    found = {**entry._asdict(), "overrides": MODES[entry.mode], "machine": results["machine"]}
    reason = reason_to_skip(entry, results["entries"], until - start)
    results["entries"].append(found)
    try:
        if reason:
            found["skipped"] = reason
            return
        threads = f"trainer.threads={max(1, available_cpus() // entry.runs)}"
        overrides = (threads, *words, *options.override, *MODES[entry.mode])
        share = until if "compiled" in entry.mode else start + SHARE * options.seconds
        for part in measure(entry, options.work, overrides, options.each, min(until, share)):
            if table := part.pop("table", None):
                write_atomically(options.out.with_suffix(f".{entry.mode}.txt"), table)
            found |= part
            write_json(options.out, results)
    except BaseException as error:
        found["error"] = describe(error)
        if not isinstance(error, Exception):
            raise
    finally:
        found["seconds"] = round(time.monotonic() - start, 2)
        write_json(options.out, results)
        print(row(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
