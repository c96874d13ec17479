"""Translate Hydra's and OmegaConf's errors into one line: the key, the value, what is allowed.

Their messages are made for several lines and for people who know both libraries. The texts matched
here are those of hydra-core 1.3 and omegaconf 2.3; one that isn't known is passed on, folded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from resnet_cifar.config.keys import PRESETS, known_keys
from resnet_cifar.identity import MOVED
from resnet_cifar.paths import command_name, installing

# What hydra/launcher=slurm and the like build on, and the extra of pyproject.toml that brings it.
EXTRAS = {
    "hydra/launcher/cluster_slurm": ("hydra/launcher=slurm", "slurm"),
    "hydra/launcher/cluster_slurm_local": ("hydra/launcher=slurm_local", "slurm"),
    "hydra/launcher/cluster_ray": ("hydra/launcher=ray", "ray"),
    "hydra/sweeper/search_schema": ("hydra/sweeper=optuna", "search"),
}
# What people type for a key, from papers and other programs.
OTHER_NAMES = {"wd": "weight_decay", "learning_rate": "lr", "bs": "batch_size", "gpu": "device"}
# By a text of theirs the line to say, with the text's groups and the `key` it is about. The first
# that fits is taken.
NOT_ALLOWED = "{key}={0} is not allowed: "
MESSAGES = {
    r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'": (
        "{0} has several values: add -m to sweep over them"
    ),
    r"Value '(.*?)'(?: of type '\w+')? could not be converted to (?:Integer|int)": (
        NOT_ALLOWED + "a whole number"
    ),
    r"Value '(.*?)'(?: of type '\w+')? could not be converted to Float": NOT_ALLOWED + "a number",
    r"Value '(.*?)' is not a valid bool": NOT_ALLOWED + "true or false",
    r"is not Optional": "{key}=null is not allowed: it needs a value",
    r"Error merging override ([^\n]+).*Cannot (?:convert|assign)": (
        "{0} is not allowed: a value of another type"
    ),
    r"In '([^']+)': .*(?:is not a subclass of|Cannot merge \w+ with)": (
        "conf/{0}.yaml has a value where a group's keys belong, or a list"
    ),
    r"missing \d+ required positional arguments?: '(\w+)'": "{0} has no value",
    r"[Mm]issing mandatory value": "{key} has no value",
    r"Error parsing override '(.*?)'\n": (
        "{0} can't be read: write key=value, and quote special characters"
    ),
    r"^Lexer\w+: ([^\n]*)": "{0} can't be read: write key=value, quotes in pairs",
    r"An item is already at '([^']+)'": "{0} exists already: write it without the +",
    r"Cannot find primary config '([^']+)'": "--config-name {0}: there is no such configuration",
    r"Config group override must be a string": "a group takes the name of an option",
}


def one_line(error: BaseException, argv: Iterable[str] = ()) -> str:
    """Explain `error` in one line.

    Args:
        argv: the command line, where the message alone doesn't name the argument.
    """
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += f"\n{error.__cause__}"
    if hasattr(error, "override") and not re.match("Error parsing|Lexer", text):
        text = f"Error parsing override '{error.override}'\n{text}"
    full_key = re.search(r"full_key: (\S+)", text)
    argv = list(argv)
    return (
        _explain_argument(argv)  # before what follows from it
        or _explain_option(text, argv)
        or _explain_key(text, full_key[1] if full_key else None)
        or _look_up(text, full_key[1] if full_key else getattr(error, "full_key", None))
        or " ".join(text.split())
    )


def _groups() -> set[str]:
    return {name.partition(".")[0] for name in known_keys() if "." in name} | set(PRESETS)


def _explain_argument(argv: list[str]) -> str | None:
    """Find an argument that removes a key, or that gives a group something other than a name."""
    groups = _groups()
    if removed := [a for a in argv if a.startswith("~") and a[1:] not in PRESETS]:
        name = removed[0][1:].partition("=")[0]
        if name not in known_keys():
            return unknown_key(name)
        return f"{removed[0]} is not allowed: every key of the configuration is needed"
    for argument in argv:
        name, given, value = argument.partition("=")
        if name.startswith("++") and name[2:] in groups:
            return f"{argument} is not allowed: write it without the ++"
        if given and name.lstrip("+") in groups and re.fullmatch(r"null|[^a-zA-Z{]*|\[.*", value):
            return f"{argument} is not allowed: a group takes the name of an option"
    return None


def _explain_option(text: str, argv: list[str]) -> str | None:
    """Name the options of a group of which one was asked for that there is not, or twice."""
    if found := re.search(r"Could not (find|load) '([^']+)'", text):
        path = found[2]
        if path in EXTRAS:
            option, extra = EXTRAS[path]
            return f"{option} needs more packages: {installing(extra)}"
        if found[1] == "load":
            return None
        group, _, option = path.rpartition("/")
        for argument in argv:  # an option with a / in it
            if argument.lstrip("+").replace("=", "/", 1) == path:
                group, _, option = argument.lstrip("+").partition("=")
        options = re.search(r"Available options in '[^']*':\n((?:\t[^\n]*\n?)+)", text)
        hint = (
            f"choose from {', '.join(options[1].split())}" if options else "there is no such file"
        )
        return f"{group}={option} is not an option: {hint}"
    if found := re.search(r"Multiple values for ([\w/]+)\. .*: ([^']+)'", text, re.DOTALL):
        group, option = found.groups()
        if any(argument.startswith(f"+{group}=") for argument in argv):
            return f"{group} has an option already: write {group}={option}, without the +"
        return f"{group} is chosen twice: a file says `override /{group}: {option}` to change it"
    return None


def _explain_key(text: str, full_key: str | None) -> str | None:
    """Say of a key that it is none, and what was meant."""
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in _groups():
            return f"{found[1]} can't be chosen in this configuration (--config-name)"
        return unknown_key(found[1])
    if found := re.search(r"Key '([^']+)' not in '\w+'", text):
        if found[1] in PRESETS:
            return f"a file of conf/{found[1]}/ has to begin with the line: # @package _global_"
        return unknown_key(full_key or found[1])
    return None


def _look_up(text: str, key: str | None) -> str | None:
    for pattern, message in MESSAGES.items():
        if found := re.search(pattern, text, re.DOTALL):
            return message.format(*found.groups(), key=key or "a value")
    return None


def unknown_key(key: str) -> str:
    """Say that `key` belongs to no configuration, and what it may have been meant to be."""
    known = known_keys()
    for now, before in MOVED.items():
        if key == before:
            return f"{key} is now {now}"
    if key in known:
        group = key.partition(".")[0]
        return f"{key} is no key of the {group} chosen: another option of {group} has it"
    last = key.rpartition(".")[2]
    last = OTHER_NAMES.get(last, last)
    # The right name in the wrong group says more than a name that looks like it.
    close = [name for name in known if name.rpartition(".")[2] == last]
    if not close:
        tail = {name.rpartition(".")[2]: name for name in known}
        close = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
        close += [tail[t] for t in difflib.get_close_matches(key, tail, n=2, cutoff=0.8)]
        groups = {name.partition(".")[0] for name in known if "." in name}
        close = [name for name in dict.fromkeys(close) if "." not in key or name not in groups]
    listed = f"{command_name('train')} --help lists them"
    hint = f"did you mean {' or '.join(close)}?" if close else listed
    return f"{key} is no key of the configuration: {hint}"
