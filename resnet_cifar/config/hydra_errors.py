"""Translate Hydra's and OmegaConf's errors into one line: the key, the value, what is allowed.

The texts are those of hydra-core 1.3 and omegaconf 2.3; one that isn't known is passed on, folded.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from resnet_cifar.config.keys import MAPPING, PRESETS, key_kind, known_keys
from resnet_cifar.config.schema import groups
from resnet_cifar.identity import MOVED
from resnet_cifar.paths import command_name, installing, user_config_directory

# What hydra/launcher=slurm and the like build on, and the extra of pyproject.toml that brings it.
EXTRAS = {
    "hydra/launcher/cluster_slurm": ("hydra/launcher=slurm", "slurm"),
    "hydra/launcher/cluster_slurm_local": ("hydra/launcher=slurm_local", "slurm"),
    "hydra/launcher/cluster_ray": ("hydra/launcher=ray", "ray"),
    "hydra/sweeper/search_schema": ("hydra/sweeper=optuna", "search"),
}
OTHER_NAMES = Path(__file__).with_name("other_names.yaml")
# By a text of theirs the line to say, with the text's groups and the `key` it is about. The first
# that fits is taken.
MUST_BE = "{key}={0}: must be "
_VALUE = r"Value '(.*?)'(?: of type '\w+')? (?:could not be converted to|is not a valid) "
_PARSING = r"Error parsing override '(.*?)'\n"
MESSAGES = {
    r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'": (
        "{0} has several values: add -m to sweep over them"
    ),
    _VALUE + "(?:Integer|int)": MUST_BE + "a whole number",
    _VALUE + "Float": MUST_BE + "a number",
    _VALUE + "bool": MUST_BE + "true or false",
    r"Unexpected type annotation: ([^\n]+).*object_type=(\w+)": (
        "{1}.{key} is of the type {0}, which no option can have: bool, int, float, str, list, "
        "tuple, dict, or one of them | None"
    ),
    r"is not Optional": "{key}=null: must have a value",
    r"merging override ([^\n]+).*Cannot [ca]": "{0}: must be of the type that it has in conf/",
    r"In '([^']+)': .*(?:is not a subclass of|Cannot merge \w+ with)": (
        "conf/{0}.yaml has a value where a group's keys belong, or a list"
    ),
    r"missing \d+ required positional arguments?: '(\w+)'": "{0} has no value",
    r"[Mm]issing mandatory value": "{key} has no value",
    _PARSING + r"[^\n]* while evaluating .*NoneType": "{0}: must be a value other than null",
    _PARSING + r"[^\n]* while evaluating '.*?': ([^\n]*)": (
        "{0} can't be read: {1} (text with a parenthesis needs quotes)"
    ),
    r"maximum recursion depth": (
        "a value is nested too deeply, or the defaults of a YAML file lead back to itself: a file "
        "can't extend the packaged one in whose place it stands"
    ),
    r"File name too long": "the name of an option or of a key is too long",
    _PARSING: "{0} can't be read: write key=value, and quote special characters",
    r"^Lexer\w+: ([^\n]*)": "{0} can't be read: write key=value, quotes in pairs",
    r"An item is already at '([^']+)'": "{0} exists already: write it without the +",
    r"Config group override must be a string": "a group takes the name of an option",
}


def one_line(error: BaseException, argv: Sequence[str] = ()) -> str:
    """Explain `error` in one line; `argv` is the command line, for what it does not name."""
    text = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text += f"\n{error.__cause__}"
    if hasattr(error, "override") and not re.match("Error parsing|Lexer", text):
        text = f"Error parsing override '{error.override}'\n{text}"
    full_key = re.search(r"full_key: (\S+)", text)
    key = full_key[1] if full_key else getattr(error, "full_key", None)
    if said := _explain_argument(argv) or _explain_name(text, argv, full_key):
        return said
    for pattern, message in MESSAGES.items():
        if match := re.search(pattern, text, re.DOTALL):
            return message.format(*match.groups(), key=key or "a value")
    return " ".join(text.split())


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


def _explain_name(text: str, argv: Sequence[str], full_key: re.Match[str] | None) -> str | None:
    """Name what there is in place of an option or a key that there is not, or twice."""
    if match := re.search(r"Could not (find|load) '([^']+)'", text):
        path = match[2]
        if path in EXTRAS:
            option, extra = EXTRAS[path]
            return f"{option} needs more packages: {installing(extra)}"
        if match[1] == "load":
            asking = re.search("In '([^']+)'", text)
            file = f"{asking[1] if asking else 'config'}.yaml"
            if kind := re.fullmatch("hydra/schema/([^/]+)/(.+)", path):
                own = user_config_directory() or "a directory of your own (--config-dir)"
                needs = f'a class of {kind[1]} with NAME = "{kind[2]}"'
                return f"{file} needs {needs}: no Python file directly in {own} defines it"
            return f"{file} needs {path}.yaml, which is not there"
        group, _, option = path.rpartition("/")
        for argument in argv:  # an option with a / in it
            if argument.lstrip("+").replace("=", "/", 1) == path:
                group, _, option = argument.lstrip("+").partition("=")
        options = re.search(r"Available options in '[^']*':\n((?:\t[^\n]*\n?)+)", text)
        listed = f"choose from {', '.join(options[1].split())}" if options else "no such file"
        return f"{group}={option} is not an option: {listed}"
    if match := re.search(r"Multiple values for ([\w/]+)\. .*: ([^']+)'", text, re.DOTALL):
        group, option = match.groups()
        if any(argument.startswith(f"+{group}=") for argument in argv):
            return f"{group} has an option already: write {group}={option}, without the +"
        return f"{group} is chosen twice: a file says `override /{group}: {option}` to change it"
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(match[1])
    if match := re.search(r"Key '([^']+)' not in '\w+'", text):
        if match[1] in PRESETS:
            return f"a file of conf/{match[1]}/ has to begin with the line: # @package _global_"
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
    for meant, names in yaml.safe_load(OTHER_NAMES.read_text(encoding="utf-8")).items():
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
