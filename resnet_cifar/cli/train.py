"""The command `train` and its edge, which Hydra shares: one configuration, or a sweep with -m."""

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
from resnet_cifar.cli.edge import FULL_ERROR, ONE_LINE, VERSION, _exit_code, _Failed, _flush
from resnet_cifar.cli.help import help_page
from resnet_cifar.config.compose import CONF, from_dictconfig, register
from resnet_cifar.errors import ConfigError, Interrupted


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(composed: DictConfig) -> float:
    """What Hydra calls, once or for every job of a sweep that it runs itself."""
    with job():
        config = from_dictconfig(composed)
        from resnet_cifar.training.run import (
            run,  # torch comes with it: not for --help and completion
        )

        return run(config)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line says; the process's exit code."""
    if arguments is not None:
        sys.argv[1:] = arguments

    def registered() -> None:
        register()
        train()

    return guard(registered)


@contextlib.contextmanager
def job() -> Iterator[None]:
    """Around the work inside @hydra.main: in a single run an error goes straight to `guard`.

    In a sweep it stays an Exception, which is what launchers deal with; and a job that was
    interrupted ends its process, whoever's that is.
    """
    from resnet_cifar.config.compose import check_launcher, is_sweep_job

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
    from resnet_cifar.training.interrupt import stop_with_parent

    arguments = sys.argv[1:]
    before = {name: os.environ.get(name) for name in (FULL_ERROR, ONE_LINE, paths.USER_CONFIG)}
    traceback = before[FULL_ERROR] == "1" and before[ONE_LINE] is None
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing and exiting
    if not traceback:
        os.environ[ONE_LINE] = "1"
    stop_with_parent()
    own, rest = _without("--config-dir", "-cd", arguments)
    if own:
        paths.use_config_directory(own)

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
        from resnet_cifar.config.compose import refusal

        return refusal(error, sys.argv[1:]) or error

    try:
        return _exit_code(work, traceback, explain)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


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
        from resnet_cifar.training.run import run

        run(config)

    return guard(main)


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
    from resnet_cifar.config.quoting import with_quotes

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
    own = paths.user_config_directory()
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
