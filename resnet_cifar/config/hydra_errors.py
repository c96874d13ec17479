"""Translate Hydra's and OmegaConf's errors into one line, by the texts of refusals.yaml."""

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from resnet_cifar.config.keys import MAPPING, PRESETS, key_kind, known_keys
from resnet_cifar.config.schema import groups
from resnet_cifar.identity import MOVED
from resnet_cifar.paths import command_name, installing


@functools.cache
def _refusals() -> Any:
    return yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text("utf-8"))


def one_line(error: BaseException, argv: Sequence[str] = ()) -> str:
    """Explain `error` in one line; `argv` is the command line, for what it does not name."""
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += f"\n{error.__cause__}"
    if hasattr(error, "override") and not re.match("Error parsing|Lexer", text):
        text = f"Error parsing override '{error.override}'\n{text}"
    full_key = re.search(r"full_key: (\S+)", text)
    key = full_key[1] if full_key else getattr(error, "full_key", None)
    if said := _explain_argument(argv):
        return said
    for message in _refusals()["messages"]:
        if match := re.search(message["fits"], text, re.DOTALL):
            install = {extra: installing(extra) for extra in ("slurm", "ray", "search")}
            said = str(message["say"])
            return said.format(*match.groups(), key=key or "a value", install=install)
    return _explain_name(text, full_key) or " ".join(text.split())


def _explain_argument(argv: Sequence[str]) -> str | None:
    """Find an argument that removes a key, or that gives a group something other than a name."""
    for argument in argv:
        name, given, value = argument.partition("=")
        if re.search(r"\d{309}", value):  # no float is so large, nor any file so named
            return f"{name}: must be a number of fewer than 309 digits"
        if key_kind(name[1:].rpartition(".")[0]) == MAPPING:
            continue
        if name.startswith("~") and name[1:] not in PRESETS:
            if name[1:] not in known_keys():
                return unknown_key(name[1:])
            return f"{argument}: must stay: every key of the configuration is needed"
        if name.lstrip("+") not in (*groups(), *PRESETS):
            continue
        if given and re.fullmatch(r"null|[^a-zA-Z{]*|\[.*", value):
            return f"{argument}: must be the name of an option of {name.lstrip('+')}"
    return None


def _explain_name(text: str, full_key: re.Match[str] | None) -> str | None:
    """Name what there is in place of an option or a key that there is not."""
    if match := re.search(r"Could not find '([^']+)'", text):
        options = re.search(r"Available options in '([^']*)':\n((?:\t[^\n]*\n?)+)", text)
        group = options[1] if options else match[1].rpartition("/")[0]
        listed = f"choose from {', '.join(options[2].split())}" if options else "no such file"
        return f"{group}={match[1].removeprefix(f'{group}/')} is not an option: {listed}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(match[1])
    if match := re.search(r"Key '([^']+)' not in '\w+'", text):
        return unknown_key((full_key or match)[1])
    return None


def unknown_key(key: str) -> str:
    """Say that `key` belongs to no configuration, and what it may have been meant to be."""
    known = known_keys()
    for now, before in MOVED.items():
        if key == before:
            return f"{key} is now {now}"
    if key in known and "." not in key:
        return f"{key} can't be set in this configuration, which is not the packaged config.yaml"
    if key in known:
        group = key.partition(".")[0]
        return f"{key} is not a key of the {group} chosen: another option of {group} has it"
    last = key.rpartition(".")[2]
    for meant, names in _refusals()["other names"].items():
        if last.lower().replace("-", "_") in names.split():
            meant = meant if " " in meant else f"did you mean {meant}?"
            return f"{key} is not a key of the configuration: {meant}"
    # The right name in the wrong group says more than a name that looks like it.
    close = [name for name in known if name.rpartition(".")[2] == last]
    if not close:
        tail = {name.rpartition(".")[2]: name for name in known}
        close = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
        close += [tail[t] for t in difflib.get_close_matches(key, tail, n=2, cutoff=0.8)]
        close = [name for name in dict.fromkeys(close) if "." not in key or name not in groups()]
    listed = f"{command_name('train')} --help lists them"
    hint = f"did you mean {' or '.join(close)}?" if close else listed
    return f"{key} is not a key of the configuration: {hint}"
