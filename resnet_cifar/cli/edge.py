"""Run a command: arguments in, one line and an exit code out, whatever the streams are."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from resnet_cifar import __version__
from resnet_cifar.errors import ConfigError, Interrupted, describe, shorten
from resnet_cifar.paths import local_path
from resnet_cifar.text import printable

VERSION = f"resnet-cifar {__version__}"


class CarriedError(BaseException):
    """Carry an error, its argument, past Hydra, which prints about every Exception it meets."""


class Parser(argparse.ArgumentParser):
    """Parse a command line and refuse it in one line; `--version` is the project's.

    An empty argument, what a shell makes of a variable that is not set, is refused: as a condition
    it would mean every run, as a path the working directory.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The types of arguments that are text or a path.
        self.register("type", None, not_empty)
        self.register("type", Path, lambda text: local_path(not_empty(text)))
        self.add_argument("--version", action="version", version=VERSION)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {self.prog} --help")


def not_empty(text: str) -> str:
    """Return an argument's text as it is. Raises ArgumentTypeError where there is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty (a variable that is not set?)")
    return text


def ask_for_weights(parser: Parser) -> None:
    """Add `--weights` to a command that uses a trained network."""
    from resnet_cifar.record.layout import WEIGHTS

    text = "of the last epoch (default), of the best on validation, or the last's averaged ones"
    parser.add_argument("--weights", choices=WEIGHTS, default="last", help=text)


def run_command(
    parser: Parser, work: Callable[[argparse.Namespace], Any], arguments: Sequence[str] | None
) -> int:
    """Parse `arguments` (None: the process's), do the `work` and return the exit code.

    0 done, 1 failed, 2 refused before anything was done, 128 + n ended by signal n; 141 where the
    reader of the output went away. With HYDRA_FULL_ERROR=1, errors keep their traceback.
    """

    def parse_and_work() -> None:
        options = parser.parse_args(arguments)
        with contextlib.ExitStack() as stack:
            # Raised, these two leave no file half written. Windows has one, other threads none.
            for name in ("SIGTERM", "SIGHUP"):
                with contextlib.suppress(AttributeError, ValueError):
                    number = getattr(signal, name)
                    if signal.getsignal(number) == signal.SIG_DFL:
                        stack.callback(signal.signal, number, signal.signal(number, _end))
            work(options)

    return run_to_exit_code(parse_and_work)


def _end(number: int, frame: object) -> None:
    raise Interrupted(number)


def run_to_exit_code(
    work: Callable[[], Any], explain: Callable[[Exception], Exception] = lambda error: error
) -> int:
    """Do `work` and return the exit code; print an error, as `explain` puts it, in one line."""
    _prepare_streams()
    try:
        work()
        flush_output()
        return 0
    except Interrupted as interrupted:
        if interrupted.__cause__:  # of a failure that came with the signal
            complain(interrupted.__cause__, "interrupted: ")
        return interrupted.exit_code
    except SystemExit as ended:  # of a launcher, of argparse
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        complain(shorten(str(ended.code)))  # as Python would: text is a failure
        return 1
    except KeyboardInterrupt:
        complain("interrupted", "")
        return 130
    except BrokenPipeError:
        return 128 + 13  # what SIGPIPE would have ended it with
    except (Exception, CarriedError) as raised:
        error = raised.args[0] if isinstance(raised, CarriedError) else raised
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise error from None
        error = explain(error)
        complain(error)
        return getattr(error, "exit_code", 1)
    finally:
        with contextlib.suppress(OSError):
            flush_output()


def _prepare_streams() -> None:
    """Make the standard streams writable, whatever the shell and the locale gave.

    A closed one (`>&-`) becomes the null device: Python has None in its place, and the next file
    opened would get its number. A letter that the encoding lacks is written as a question mark.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the null device gets the lowest free number: this one
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))
        if mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def flush_output() -> None:
    """Write out what was printed. After an OSError the process ends without trying that again."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise


def complain(error: BaseException | str, kind: str = "error: ") -> None:
    """Print an error, or a line about one, on standard error."""
    text = error if isinstance(error, str) else describe(error)
    with contextlib.suppress(OSError):  # there may be nobody to complain to
        print(printable(f"{kind}{text}"), file=sys.stderr, flush=True)


def fail_for(problems: Sequence[BaseException | str]) -> None:
    """Print what a command could not do or look at; the process ends with 1 if there is any."""
    for problem in problems:
        complain(problem)
    if problems:
        raise SystemExit(1)
