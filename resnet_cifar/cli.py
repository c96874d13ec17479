"""The edge of the program: arguments in, one line and an exit code out; the page of --help.

`guard` is the edge of training, which Hydra shares, `run_command` that of every other command.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from resnet_cifar import __version__, places
from resnet_cifar.errors import ConfigError, Interrupted, describe

VERSION = f"resnet-cifar {__version__}"

FULL_ERROR = "HYDRA_FULL_ERROR"  # "1" from the user: errors keep their traceback
# Says that the other one was set here: a sweep's jobs inherit both.
ONE_LINE = "RESNET_CIFAR_ONE_LINE_ERRORS"


class _Failed(BaseException):
    """Carries a job's error past Hydra, which would print about every Exception it meets."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def job() -> Iterator[None]:
    """Around the work inside @hydra.main: in a single run an error goes straight to `guard`.

    In a sweep it stays an Exception, which is what launchers deal with; and a job that was
    interrupted ends its process, whoever's that is.
    """
    from resnet_cifar.config import check_launcher, is_sweep_job

    try:
        if not is_sweep_job():
            check_launcher()
            _require_no_directories(sys.argv[1:])
        yield
    except Interrupted as interrupted:
        if is_sweep_job():
            raise SystemExit(interrupted.exit_code) from None
        raise
    except Exception as error:
        if is_sweep_job():
            raise
        raise _Failed(error) from error


def _require_no_directories(arguments: list[str]) -> None:
    """Refuse directories for Hydra, which owns none here."""
    for argument in arguments:
        if argument.lstrip("+~").startswith(("hydra.run.dir=", "hydra.sweep.", "hydra.job.chdir=")):
            raise ConfigError(f"{argument} is not allowed: runs go to output_root=<directory>")


def guard(main: Callable[[], Any]) -> int:
    """Run `main` and return the process's exit code.

    0 done, 1 failed, 2 refused before anything was done, 128 + n ended by signal n.
    With HYDRA_FULL_ERROR=1 in the environment, errors keep their traceback.
    """
    from resnet_cifar.interrupt import stop_with_parent

    arguments = sys.argv[1:]
    before = {name: os.environ.get(name) for name in (FULL_ERROR, ONE_LINE, places.OWN)}
    traceback = before[FULL_ERROR] == "1" and before[ONE_LINE] is None
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing and exiting
    if not traceback:
        os.environ[ONE_LINE] = "1"
    stop_with_parent()
    own, rest = _without("--config-dir", "-cd", arguments)
    if own:
        places.use_own(own)

    def work() -> None:
        if "--version" in arguments:
            print(VERSION)
        elif {"-h", "--help"}.intersection(arguments):
            print(help_page([a for a in rest if not a.startswith("-")]), end="")
        else:
            sys.argv[1:] = _arguments(rest)
            with _argparse_as_it_should_be():
                main()
            with contextlib.suppress(OSError):  # the record is the result, not what was printed
                _flush()

    def explain(error: Exception) -> Exception:
        from resnet_cifar.config import refusal

        return refusal(error, sys.argv[1:]) or error

    try:
        return _exit_code(work, traceback, explain)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Parser(argparse.ArgumentParser):
    """A command line that is refused in one line; `--version` is the project's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument("--version", action="version", version=VERSION)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"invalid _(\w+) value", r"invalid \1 value", message)  # a function's name
        raise ConfigError(f"{message}: see {self.prog} --help")


def ask_for_weights(parser: Parser) -> None:
    """Add `--weights` to a command that uses a trained network."""
    from resnet_cifar.record.run_files import WEIGHTS

    text = "of the last epoch (default), of the best on validation, or the last's averaged ones"
    parser.add_argument("--weights", choices=WEIGHTS, default="last", help=text)


def run_command(
    parser: Parser, work: Callable[[argparse.Namespace], Any], arguments: Sequence[str] | None
) -> int:
    """Parse `arguments` (None: the process's) and do the `work`; the process's exit code.

    As `guard`'s; 141 where the reader of the output went away.
    """

    def parse_and_work() -> None:
        options = parser.parse_args(arguments)
        for name, value in vars(options).items():  # --to=~/x, which a shell leaves alone
            if isinstance(value, Path):
                setattr(options, name, value.expanduser())
        work(options)

    return _exit_code(parse_and_work, os.environ.get(FULL_ERROR) == "1")


def _exit_code(
    work: Callable[[], Any],
    traceback: bool,
    explain: Callable[[Exception], Exception] = lambda error: error,
) -> int:
    """How `work` ends, said in one line where it ends badly, as an exit code."""
    _prepare_streams()
    try:
        work()
        _flush()
        return 0
    except Interrupted as interrupted:
        return interrupted.exit_code
    except SystemExit as ended:  # of a launcher, of argparse
        return ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        return 128 + 13  # what SIGPIPE would have ended it with
    except (Exception, _Failed) as failure:
        error = failure.error if isinstance(failure, _Failed) else failure
        if traceback:
            raise error from None
        error = explain(error)
        _complain(f"error: {describe(error)}")
        return getattr(error, "exit_code", 1)
    finally:
        with contextlib.suppress(OSError):
            _flush()


def _prepare_streams() -> None:
    """Standard streams one can write to, whatever the shell and the locale gave.

    A closed one (`>&-`) becomes the null device: Python has None in its place, and the next file
    opened would get its number. What an encoding can't say is written as a question mark.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                nowhere = os.open(os.devnull, os.O_RDWR)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
        elif mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def _flush() -> None:
    """Write out what was printed.

    Raises:
        OSError: it can't be; the process then ends without trying, and complaining, again.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # there may be nobody to complain to
        print(text, file=sys.stderr, flush=True)


def train_handed() -> int:
    """The process of a sweep's run: train the configuration that was composed and checked there.

    It comes on standard input, pickled in one line of base64 (`sweep.RunJob.handed`); nothing is
    composed here. Internal: only `sweep.RunJob` starts such a process.
    """
    line = sys.stdin.readline()
    if not line:  # the sweep was killed in between
        return 143
    config = pickle.loads(base64.b64decode(line))

    def main() -> None:
        from resnet_cifar.run import run

        run(config)

    return guard(main)


def prepare_handed(handed: str) -> None:
    """In what a sweep's runs are forked from: load what the run that is `handed` shares with them.

    Internal, as `train_handed`.
    """
    from resnet_cifar.run import prepare

    prepare(pickle.loads(base64.b64decode(handed)))


def _without(name: str, short: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """What an option of Hydra's says in `argv`, if it is there, and the rest of them."""
    rest: list[str] = []
    found, arguments = None, iter(argv)
    for argument in arguments:
        option, given, value = argument.partition("=")
        following = None
        if option in (name, short):
            following = value if given else next(arguments, None)
        if following:
            found = following
        else:  # Hydra says that the value is missing
            rest.append(argument)
    return found, rest


def _arguments(argv: list[str]) -> list[str]:
    """The command line as Hydra takes it."""
    from resnet_cifar.config import with_quotes

    path, argv = _without("--config-path", "-cp", argv)
    rest = [with_quotes(argument) for argument in argv if argument != "--plan"]
    if path:  # as seen from here; Hydra looks for it in the package
        rest.append(f"--config-path={Path(path).expanduser().absolute()}")
    if "--plan" in argv:  # a sweep that the launcher shows in place of running it, whoever would
        if any(a.startswith("hydra/launcher=") and a != "hydra/launcher=local" for a in rest):
            rest = [a for a in rest if not a.startswith(("hydra/launcher=", "hydra.launcher."))]
        rest += ["hydra.mode=MULTIRUN", "hydra/launcher=local", "hydra.launcher.plan=true"]
    elif any(a.startswith(("hydra/launcher=", "hydra/sweeper=")) for a in rest):
        rest.append("hydra.mode=MULTIRUN")  # else Hydra would train a single run here
    own = places.own()
    return [f"--config-dir={own}", *rest] if own else rest


@contextlib.contextmanager
def _argparse_as_it_should_be() -> Iterator[None]:
    """For the parser Hydra makes: complaints as ConfigErrors, options anywhere, help texts as text.

    Left alone, argparse wants -m and --config-dir before or after all overrides. hydra-core 1.3.8
    passes an object as a help text, which argparse of Python 3.14 refuses
    (facebookresearch/hydra#3121).
    """
    parser = argparse.ArgumentParser
    error, add_argument, parse_args = parser.error, parser.add_argument, parser.parse_args

    def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {places.command_name('train')} --help")

    def add(self: argparse.ArgumentParser, *names: Any, **settings: Any) -> argparse.Action:
        if not isinstance(settings.get("help"), str | None):
            settings["help"] = f"see {places.command_name('train')} --help"
        return add_argument(self, *names, **settings)

    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument = add  # type: ignore[assignment,method-assign]
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        parser.error, parser.add_argument = error, add_argument  # type: ignore[method-assign]
        parser.parse_args = parse_args  # type: ignore[method-assign]


# Hydra's own page takes twice as long and lists schemas.
PAGE = """\
Train ResNet-18 on CIFAR-10: one configuration, or a sweep; every run recorded and resumable.

usage: {train} [-m] [--config-dir DIRECTORY] [group=option ...] [key=value ...]

Examples
{examples}

The same command again goes on where it stopped; finished runs are skipped. Afterwards
{afterwards}

Groups and their options
{options}

The configuration: every key of the options chosen, with its value
  {configuration}

{conf} says what each key means; --config-dir adds a directory of options of your own.
{completion}\
Every command of this project: python -m resnet_cifar. All that Hydra can do: --hydra-help
"""
COMPLETION = 'Tab completion: eval "$(python train.py -sc install=bash)"\n'
EXAMPLES = {
    "data=synthetic model.width=8 trainer.epochs=8": "a few minutes, no download",
    "trainer.epochs=15": "one cell of the study",
    "cell=cosine_wd_1e-2": "the study's best: 95 %",
    "-m optimizer.lr=0.001,0.01,0.1 trainer.epochs=15": "a sweep: experiment 1",
    "experiment=learning_rate": "the same, by its name",
    "--plan experiment=study": "what it would take, here",
    "cell=cosine seed=3 output_root=/scratch/runs": "another seed, another place",
}


def help_page(overrides: list[str]) -> str:
    """The help page, with the configuration that `overrides` give.

    Raises:
        ConfigError: they can't be composed.
    """
    from resnet_cifar.config import CONF, compose_yaml

    configuration = compose_yaml(overrides).strip().splitlines()
    roots = [CONF, *([own] if (own := places.own()) else [])]
    options = []
    for group in sorted({path.parent.name for root in roots for path in root.glob("*/*.yaml")}):
        names = {path.stem for root in roots for path in (root / group).glob("*.yaml")}
        hanging = " " * 18
        first = f"  {group + ':':<16}"
        line = fill(", ".join(sorted(names)), 98, initial_indent=first, subsequent_indent=hanging)
        options.append(line)
    train = places.command_name("train")
    examples = {f"{train} {arguments}": text for arguments, text in EXAMPLES.items()}
    afterwards = {
        f"{places.command_name('runs')} outputs": "what there is",
        f"{places.command_name('evaluate')} outputs/<cell>/seed=<n>": "what it reached; "
        "--test: on test",
        "tensorboard --logdir outputs": "curves",
    }
    width = max(map(len, examples))
    return PAGE.format(
        train=train,
        examples="\n".join(f"  {typed:<{width}}  {text}" for typed, text in examples.items()),
        afterwards="\n".join(f"  {typed:<{width}}  {text}" for typed, text in afterwards.items()),
        options="\n".join(options),
        configuration="\n  ".join(configuration),
        conf="conf/" if places.checkout() else CONF,
        completion=COMPLETION if places.checkout() else "",
    )
