"""Hydra's and OmegaConf's errors as one line: the key, the value, what is allowed.

Their messages are made for several lines and for people who know both libraries. The texts matched
here are those of hydra-core 1.3 and omegaconf 2.3; one that isn't known is passed on, folded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from resnet_cifar.identity import MOVED
from resnet_cifar.paths import command_name, installing

# What hydra/launcher=slurm and the like build on, and the extra of pyproject.toml that brings it.
EXTRAS = {
    "hydra/launcher/cluster_slurm": ("hydra/launcher=slurm", "slurm"),
    "hydra/launcher/cluster_slurm_local": ("hydra/launcher=slurm_local", "slurm"),
    "hydra/launcher/cluster_ray": ("hydra/launcher=ray", "ray"),
    "hydra/sweeper/search_schema": ("hydra/sweeper=optuna", "search"),
}
PRESETS = ("cell", "experiment")
# What people type for a key, from papers and other programs.
OTHER_NAMES = {"wd": "weight_decay", "learning_rate": "lr", "bs": "batch_size", "gpu": "device"}
KINDS = {"Integer": "a whole number", "Float": "a number", "int": "a whole number"}


def one_line(error: BaseException, known: Iterable[str] = (), argv: Iterable[str] = ()) -> str:
    """What went wrong.

    Args:
        known: the keys a configuration may have, for "did you mean".
        argv: the command line, where the message alone doesn't name the argument.
    """
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += f"\n{error.__cause__}"

    def find(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, text, re.DOTALL)

    full_key = find(r"full_key: (\S+)")
    key = full_key.group(1) if full_key else getattr(error, "full_key", None) or "a value"
    known, argv = list(known), list(argv)
    groups = {name.partition(".")[0] for name in known if "." in name} | set(PRESETS)

    if removed := [a for a in argv if a.startswith("~") and a[1:] not in PRESETS]:
        name = removed[0][1:].partition("=")[0]
        if name not in known:
            return unknown_key(name, known)
        return f"{removed[0]} is not allowed: every key of the configuration is needed"
    for argument in argv:  # before what follows from a group without an option
        name, given, value = argument.partition("=")
        if name.startswith("++") and name[2:] in groups:
            return f"{argument} is not allowed: write it without the ++"
        if given and name.lstrip("+") in groups and re.fullmatch(r"null|[^a-zA-Z{]*|\[.*", value):
            return f"{argument} is not allowed: a group takes the name of an option"
    found = find(r"Could not (?:find|load) '([^']+)'")
    if found and found.group(1) in EXTRAS:
        option, extra = EXTRAS[found.group(1)]
        return f"{option} needs more packages: {installing(extra)}"
    if found := find(r"Could not find '([^']+)'"):
        group, _, option = found.group(1).rpartition("/")
        for argument in argv:  # an option with a / in it
            if argument.lstrip("+").replace("=", "/", 1) == found.group(1):
                group, _, option = argument.lstrip("+").partition("=")
        options = find(r"Available options in '[^']*':\n((?:\t[^\n]*\n?)+)")
        if options:
            names = ", ".join(options.group(1).split())
            return f"{group}={option} is not an option: choose from {names}"
        return f"{group}={option} is not an option: there is no such file"
    if (found := find(r"Could not override '([^']+)'")) and found.group(1) in groups:
        return f"{found.group(1)} can't be chosen in this configuration (--config-name)"
    if found := find(r"Could not override '([^']+)'"):
        return unknown_key(found.group(1), known)
    if (found := find(r"Key '([^']+)' not in '\w+'")) and found.group(1) in PRESETS:
        preset = found.group(1)
        return f"a file of conf/{preset}/ has to begin with the line: # @package _global_"
    if found := find(r"Key '([^']+)' not in '\w+'"):
        return unknown_key(key if full_key else found.group(1), known)
    if found := find(r"Multiple values for ([\w/]+)\. .*: ([^']+)'"):
        group, option = found.groups()
        if any(argument.startswith(f"+{group}=") for argument in argv):
            return f"{group} has an option already: write {group}={option}, without the +"
        return f"{group} is chosen twice: a file says `override /{group}: {option}` to change it"
    if found := find(r"Ambiguous value for argument '([^']+)'"):
        return f"{found.group(1)} has several values: add -m to sweep over them"
    if found := find(r"Sweep parameters '([^']+)' requires --multirun"):
        return f"{found.group(1)} has several values: add -m to sweep over them"
    if found := find(r"Environment variable '([^']+)' not found"):
        return f"{key}: the environment variable {found.group(1)} is not set"
    if found := find(r"Interpolation key '([^']+)' not found"):
        return f"{key}: ${{{found.group(1)}}} is no key of the configuration"
    if found := find(r"Unsupported interpolation type (\S+)"):
        return f"{key}: there is no ${{{found.group(1)}:…}}"
    if found := find(r"Value '(.*?)'(?: of type '\w+')? could not be converted to (\w+)"):
        return f"{key}={found.group(1)} is not allowed: {KINDS.get(found.group(2), 'another type')}"
    if found := find(r"Value '(.*?)' is not a valid bool"):
        return f"{key}={found.group(1)} is not allowed: true or false"
    if find(r"does not support deletion"):
        return f"~{key} is not allowed: every key of the configuration is needed"
    if find(r"is not Optional"):
        return f"{key}=null is not allowed: it needs a value"
    if found := find(r"In '([^']+)': .*(?:is not a subclass of|Cannot merge \w+ with)"):
        return f"conf/{found.group(1)}.yaml has a value where a group's keys belong, or a list"
    if found := find(r"missing \d+ required positional arguments?: '(\w+)'"):
        return f"{found.group(1)} has no value"
    if found := find(r"Invalid value '(.*?)', expected one of \[(.*?)\]"):
        return f"{key}={found.group(1)} is not allowed: one of {found.group(2)}"
    if found := find(r"Cannot (?:convert '(?:list|dict)' to string|assign \w+ to)"):
        said = find(r"Error merging override ([^\n]+)")
        return f"{said.group(1) if said else key} is not allowed: a value of another type"
    if find(r"Missing mandatory value") or type(error).__name__ == "MissingMandatoryValue":
        named = find(r"Missing mandatory value: (\S+)")
        return f"{named.group(1) if named else key} has no value"
    if found := find(r"Error parsing override '(.*?)'\n"):
        return f"{found.group(1)} can't be read: write key=value, and quote special characters"
    if found := find(r"^Lexer\w+: ([^\n]*)"):
        return f"{found.group(1)} can't be read: write key=value, quotes in pairs"
    if find(r"hydra\.cc/docs/\S*/override_grammar"):
        typed = getattr(error, "override", None) or "the command line"
        return f"{typed} can't be read: write key=value, and quote special characters"
    if found := find(r"An item is already at '([^']+)'"):
        return f"{found.group(1)} exists already: write it without the +"
    if found := find(r"Cannot find primary config '([^']+)'"):
        return f"--config-name {found.group(1)}: there is no such configuration"
    if found := find(r"Primary config directory not found.*?'([^']+)'"):
        return f"--config-path: there is no directory {found.group(1)}"
    if find(r"Config group override must be a string"):
        return "a group takes the name of an option"
    return _folded(text)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`key` belongs to no configuration; say what it may have been meant to be."""
    known = list(known)
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


def _folded(text: str) -> str:
    return " ".join(text.split())
