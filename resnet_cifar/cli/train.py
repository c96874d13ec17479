"""The command `train`: one configuration, or a sweep with -m. Hydra reads the command line."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from omegaconf import DictConfig

from resnet_cifar import paths
from resnet_cifar.cli.edge import (
    FULL_ERROR,
    ONE_LINE,
    VERSION,
    CarriedError,
    flush_output,
    run_to_exit_code,
)
from resnet_cifar.cli.help import help_page
from resnet_cifar.config.compose import (
    CONF,
    check_launcher,
    from_dictconfig,
    is_sweep_job,
    refusal,
    register,
)
from resnet_cifar.config.quoting import with_quotes
from resnet_cifar.errors import ConfigError, Interrupted


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(composed: DictConfig) -> float:
    """Train `composed`. Hydra calls this, once or for every job of a sweep that it runs itself."""
    with job_errors():
        config = from_dictconfig(composed)
        from resnet_cifar.training.run import run  # imports torch: not for --help and completion

        return run(config)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line says; the process's exit code."""
    if arguments is not None:
        sys.argv[1:] = arguments

    def compose_and_train() -> None:
        register()
        train()

    return run_training_command(compose_and_train)


@contextlib.contextmanager
def job_errors() -> Iterator[None]:
    """Raise errors inside @hydra.main in the form that passes Hydra or the launcher unharmed.

    A single run's goes straight to `run_training_command`. In a sweep it stays an Exception, which
    is what launchers deal with; and a job that was interrupted ends its process, whoever's that is.
    """
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
        raise CarriedError(error) from error


def _require_no_directories(arguments: list[str]) -> None:
    """Refuse directories for Hydra, which owns none here."""
    for argument in arguments:
        if argument.lstrip("+~").startswith(("hydra.run.dir=", "hydra.sweep.", "hydra.job.chdir=")):
            raise ConfigError(f"{argument} is not allowed: runs go to output_root=<directory>")


def run_training_command(work: Callable[[], Any]) -> int:
    """Do the `work` that the process's arguments ask for and return the exit code.

    Exit codes and tracebacks are those of `edge.run_command`. --version and --help end here.
    """
    from resnet_cifar.training.interrupt import stop_with_parent

    arguments = sys.argv[1:]
    before = {name: os.environ.get(name) for name in (FULL_ERROR, ONE_LINE, paths.USER_CONFIG)}
    traceback = before[FULL_ERROR] == "1" and before[ONE_LINE] is None
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing and exiting
    if not traceback:
        os.environ[ONE_LINE] = "1"
    stop_with_parent()
    own, rest = _take_option("--config-dir", "-cd", arguments)
    if own:
        paths.use_config_directory(own)

    def answer_or_work() -> None:
        if "--version" in arguments:
            print(VERSION)
        elif {"-h", "--help"}.intersection(arguments):
            print(help_page([a for a in rest if not a.startswith("-")]), end="")
        else:
            sys.argv[1:] = _hydra_arguments(rest)
            with _mended_argparse():
                work()
            with contextlib.suppress(OSError):  # the record is the result, not what was printed
                flush_output()

    def explain(error: Exception) -> Exception:
        return refusal(error, sys.argv[1:]) or error

    try:
        return run_to_exit_code(answer_or_work, traceback, explain)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def train_handed() -> int:
    """Train the configuration that a sweep composed and checked: the process of one of its runs.

    It comes on standard input, pickled in one line of base64 (`sweep.RunJob.handed`); nothing is
    composed here. Internal: only `sweep.RunJob` starts such a process.
    """
    line = sys.stdin.readline()
    if not line:  # the sweep was killed in between
        return 143
    config = pickle.loads(base64.b64decode(line))

    def train_it() -> None:
        from resnet_cifar.training.run import run

        run(config)

    return run_training_command(train_it)


def _take_option(name: str, short: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take one of Hydra's options out of `argv`: its value, if it is there, and the rest."""
    value, rest, arguments = None, [], iter(argv)
    for argument in arguments:
        option, equals, given = argument.partition("=")
        mine = option in (name, short)
        if mine and (following := given if equals else next(arguments, None)):
            value = following
        else:  # Hydra says that the value is missing
            rest.append(argument)
    return value, rest


def _hydra_arguments(argv: list[str]) -> list[str]:
    """Turn a command line as people type it into one as Hydra takes it."""
    path, argv = _take_option("--config-path", "-cp", argv)
    rest = [with_quotes(argument) for argument in argv if argument != "--plan"]
    if path:  # as seen from here; Hydra looks for it in the package
        rest.append(f"--config-path={Path(path).expanduser().absolute()}")
    if "--plan" in argv:  # a sweep that the launcher shows in place of running it, whoever would
        if any(a.startswith("hydra/launcher=") and a != "hydra/launcher=local" for a in rest):
            rest = [a for a in rest if not a.startswith(("hydra/launcher=", "hydra.launcher."))]
        rest += ["hydra.mode=MULTIRUN", "hydra/launcher=local", "hydra.launcher.plan=true"]
    elif any(a.startswith(("hydra/launcher=", "hydra/sweeper=")) for a in rest):
        rest.append("hydra.mode=MULTIRUN")  # else Hydra would train a single run here
    own = paths.user_config_directory()
    return [f"--config-dir={own}", *rest] if own else rest


@contextlib.contextmanager
def _mended_argparse() -> Iterator[None]:
    """Let Hydra's parser complain by ConfigErrors, take options anywhere and help texts as text.

    Left alone, argparse wants -m and --config-dir before or after all overrides. hydra-core 1.3.8
    passes an object as a help text, which argparse of Python 3.14 refuses
    (facebookresearch/hydra#3121).
    """
    parser = argparse.ArgumentParser
    error, add_argument, parse_args = parser.error, parser.add_argument, parser.parse_args

    def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {paths.command_name('train')} --help")

    def add(self: argparse.ArgumentParser, *names: Any, **settings: Any) -> argparse.Action:
        if not isinstance(settings.get("help"), str | None):
            settings["help"] = f"see {paths.command_name('train')} --help"
        return add_argument(self, *names, **settings)

    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument = add  # type: ignore[assignment,method-assign]
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        parser.error, parser.add_argument = error, add_argument  # type: ignore[method-assign]
        parser.parse_args = parse_args  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
