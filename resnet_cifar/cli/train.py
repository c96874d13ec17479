"""The command `train`: one configuration, or a sweep with -m. Hydra reads the command line."""

import argparse
import base64
import contextlib
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from resnet_cifar import paths
from resnet_cifar.cli.edge import CarriedError, Parser, flush_output, run_to_exit_code
from resnet_cifar.cli.help import help_page
from resnet_cifar.config.compose import CONF, from_dictconfig, refusal, register, with_quotes
from resnet_cifar.errors import ConfigError, Interrupted, require

DIRECTORIES = ("hydra.run.dir=", "hydra.sweep.", "hydra.job.chdir=")  # Hydra owns none here
END = 1.0  # seconds


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(composed: DictConfig) -> float:
    """Train `composed`. Hydra calls this, once or for every job of a sweep that it runs itself.

    A single run's error passes Hydra as a CarriedError. In a sweep it stays an Exception, which is
    what launchers deal with; and a job that was interrupted ends its process, whoever's that is.
    """
    sweep_job = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if not sweep_job:
            instantiate(HydraConfig.get().launcher)  # not used, but its options are to be allowed
            for argument in sys.argv[1:]:
                if argument.lstrip("+~").startswith(DIRECTORIES):
                    raise ConfigError(f"{argument}: must not be set: runs go to output_root")
        config = from_dictconfig(composed)
        from resnet_cifar.training.run import run  # imports torch: not for --help and completion

        return run(config)
    except Interrupted as interrupted:
        if sweep_job:
            raise SystemExit(interrupted.exit_code) from None
        raise
    except Exception as error:
        if sweep_job:
            raise
        raise CarriedError(error) from error


class HydraParser(argparse.ArgumentParser):
    """Hydra's parser, but its options may stand anywhere and its complaint is a ConfigError."""

    parse_args = argparse.ArgumentParser.parse_intermixed_args

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {paths.command_name('train')} --help")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        # hydra-core 1.3.8 has an object as a help text, which argparse of Python 3.14 refuses
        # (facebookresearch/hydra#3121).
        if not isinstance(settings.get("help"), str | None):
            settings["help"] = "tab completion"
        if "--config-path" in names:  # as seen from here; Hydra looks for it in the package
            settings["type"] = lambda path: str(Path(path).expanduser().absolute())
        return super().add_argument(*names, **settings)


def main(arguments: list[str] | None = None) -> int:
    """Train what the command line says; the process's exit code."""
    if arguments is not None:
        sys.argv[1:] = arguments

    def compose_and_train() -> None:
        # Hydra's own parser wants options before or after all overrides; errors it would print.
        ours: Any = SimpleNamespace(ArgumentParser=HydraParser)
        hydra_utils.argparse = ours  # type: ignore[attr-defined]
        hydra_utils.run_and_report = lambda func: func()
        register()
        for path in replaced():
            print(f"{path} is used in place of the packaged file", file=sys.stderr)
        train()

    return run_training_command(compose_and_train)


def replaced() -> list[Path]:
    """List the YAML files of a person's own that stand in for one of conf/."""
    theirs = paths.user_config_directory()
    if theirs is None or theirs.samefile(CONF):
        return []
    own = (theirs / path.relative_to(CONF) for path in sorted(CONF.rglob("*.yaml")))
    return [path for path in own if path.is_file()]


def run_training_command(work: Callable[[], Any]) -> int:
    """Do the `work` that the process's arguments ask for and return the exit code.

    Exit codes and tracebacks are those of `edge.run_command`. --version and --help end here.
    """
    from resnet_cifar.training.interrupt import stop_with_parent

    stop_with_parent()
    before = os.environ.get(paths.USER_CONFIG, "")

    def answer_or_work() -> None:
        parser = Parser(prog=paths.command_name("train"), add_help=False, allow_abbrev=False)
        parser.add_argument("-h", "--help", action="store_true")
        parser.add_argument("--config-dir", type=Path)
        # -cd is Hydra's short form, whose directory would have no classes and come last.
        typed = [re.sub("^-cd(?==|$)", "--config-dir", argument) for argument in sys.argv[1:]]
        options, rest = parser.parse_known_args(typed)
        if own := options.config_dir:  # in the environment, for the processes of a sweep's jobs
            require(own.is_dir(), "--config-dir", own, "a directory")
            os.environ[paths.USER_CONFIG] = str(own.absolute())
        if options.help:
            print(help_page([a for a in rest if not a.startswith("-")]), end="")
            return
        sys.argv[1:] = _hydra_arguments(rest)
        work()
        with contextlib.suppress(OSError):  # the record is the result, not what was printed
            flush_output()

    try:
        code = run_to_exit_code(answer_or_work, lambda error: refusal(error, sys.argv[1:]) or error)
    finally:
        os.environ[paths.USER_CONFIG] = before
    end_without_trackers(code)
    return code


def end_without_trackers(code: int) -> None:
    """Let the process end in END seconds where a tracker was given up, whatever still runs."""
    from resnet_cifar.record.tracker import GIVEN_UP

    def end() -> None:
        threading.main_thread().join()  # it is over before the interpreter's end begins
        time.sleep(END)
        os._exit(code)

    if GIVEN_UP.is_set():
        threading.Thread(target=end, daemon=True).start()


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


def _hydra_arguments(argv: list[str]) -> list[str]:
    """Turn a command line as people type it into one as Hydra takes it."""
    rest = [with_quotes(argument) for argument in argv if argument != "--plan"]
    if "--plan" in argv:  # a sweep that the launcher shows in place of running it, whoever would
        if any(a.startswith("hydra/launcher=") and a != "hydra/launcher=local" for a in rest):
            rest = [a for a in rest if not a.startswith(("hydra/launcher=", "hydra.launcher."))]
        rest += ["hydra.mode=MULTIRUN", "hydra/launcher=local", "hydra.launcher.plan=true"]
    elif any(a.startswith(("hydra/launcher=", "hydra/sweeper=")) for a in rest):
        rest.append("hydra.mode=MULTIRUN")  # else Hydra would train a single run here
    return rest
