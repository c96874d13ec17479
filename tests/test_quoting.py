"""Any path can be typed and comes back: through Hydra's command line, config.yaml and commands."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from resnet_cifar.config.compose import compose, quoted, with_quotes
from resnet_cifar.config.keys import ANY, MAPPING, TEXT, TEXTS
from resnet_cifar.config.saved import load, reproduce_command, to_yaml
from resnet_cifar.errors import ConfigError

# What Hydra reads as something other than text, and what it takes for its grammar.
NUMBERS = [
    *(
        "2026.10",
        "1e3",
        "1E-3",
        "0x1F",
        "0b1",
        "007",
        "1_000",
        "-5",
        "+5",
        ".5",
        "5.",
        "1:30",
        "_1",
    ),
    *("inf", "-Inf", "NaN", "true", "False", "TRUE", "NULL", "Null", "~", "on", "2026-11-27"),
]
SIGNS = [
    *(" ", "\t", "\n", "'", '"', "\\", "$", "${", "${x}", "{", "}", "[", "]", "(", ")", ",", "="),
    *(":", ";", "#", "%", "@", "?", "*", "|", "&", "<", "!", "+", "-", "/", ".", "..", "a", "ü"),
]
written = st.one_of(
    st.text(min_size=1),
    st.sampled_from(NUMBERS),
    st.lists(st.sampled_from([*SIGNS, *NUMBERS, "null"]), min_size=1, max_size=6).map("".join),
    st.one_of(st.integers(), st.floats(), st.dates(), st.datetimes(), st.times()).map(str),
    st.integers().map(hex),
)
# A path can't be blank; ??? is OmegaConf's word for a value that is missing.
PATHS = written.filter(lambda text: text.strip() and text != "???" and "\0" not in text)
drawn = settings(deadline=None, derandomize=True, database=None)


@dataclass
class Typed:
    output_root: str


def read(argument: str) -> str:
    """The value of output_root as Hydra and OmegaConf read it."""
    value = OverridesParser.create().parse_override(argument).value()
    config = OmegaConf.structured(Typed("before"))
    OmegaConf.update(config, "output_root", value)
    return str(config.output_root)


def is_computed(text: str) -> bool:
    """True if Hydra has something to do with it: quoted already, null, a function, a grid."""
    return text == "null" or text[0] in "'\"" or any(sign in text for sign in (",", "${"))


@settings(drawn, max_examples=400)
@given(PATHS)
@example("null")
def test_quoted_text_is_read_as_it_is(text: str) -> None:
    assert read(f"output_root={quoted(text)}") == text


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | PATHS
NAMES = st.from_regex(r"[A-Za-z_.(\[{:=, \\-][A-Za-z0-9_.()\[\]{}:=, \\-]*", fullmatch=True)
WORDS = ("true", "false", "null", "inf", "nan")


def is_number(text: str) -> bool:
    """True for -1 and .0: as a key on Hydra's command line it is a number, and can't be quoted."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@settings(drawn, max_examples=400)
@given(
    st.recursive(
        SCALARS.filter(lambda value: value not in (float("inf"), -float("inf"))),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                NAMES.filter(lambda n: n.lower() not in WORDS and not is_number(n)),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_a_quoted_value_of_any_type_is_read_as_it_is(value: Any) -> None:
    argument = f"key={quoted(value)}"
    parsed = OverridesParser.create().parse_override(argument).value()
    found = OmegaConf.to_container(OmegaConf.create({"key": parsed}), resolve=True)
    assert isinstance(found, dict)
    assert repr(found["key"]) == repr(value)


@pytest.mark.parametrize(
    ("typed", "kind", "quoted"),
    [
        ("[1e3, a b,null]", TEXTS, '["1e3","a b",null]'),
        ("[a],[1_000,on]", TEXTS, '[a],["1_000",on]'),
        ("['a,b',1e3]", TEXTS, "['a,b',\"1e3\"]"),
        ("[]", TEXTS, "[]"),
        ("null", TEXTS, "null"),
        ("choice([a],[b])", TEXTS, "choice([a],[b])"),
        ("[old]", TEXT, '"[old]"'),
        ("runs (copy)", TEXT, '"runs (copy)"'),
        ("runs(1)", TEXT, '"runs(1)"'),
        ("a,'1e3',1e3,it's", TEXT, 'a,\'1e3\',"1e3","it\'s"'),
        ("1e3", "a number", "1e3"),
        ("1e3", ANY, "1e3"),
        ("{a:1}", MAPPING, "{a:1}"),
    ],
)
def test_text_is_quoted_by_the_type_of_its_key(
    monkeypatch: pytest.MonkeyPatch, typed: str, kind: str, quoted: str
) -> None:
    monkeypatch.setattr(sys.modules[compose.__module__], "key_kind", lambda key: kind)
    assert with_quotes(f"a.key={typed}").lstrip("+") == f"a.key={quoted}"


@settings(drawn, max_examples=400)
@given(PATHS.filter(lambda text: not is_computed(text)))
def test_a_typed_path_is_that_path(text: str) -> None:
    assert read(with_quotes(f"output_root={text}")) == text


@pytest.mark.parametrize("typed", ["'a b'", "null", "", "${oc.env:HOME}", "glob(*)", "a,"])
def test_what_is_hydras_is_left_to_hydra(typed: str) -> None:
    assert with_quotes(f"output_root={typed}") == f"output_root={typed}"


def test_paths_to_sweep_over_stay_paths() -> None:
    assert with_quotes("output_root=runs, 2026.10,1e3") == 'output_root=runs,"2026.10","1e3"'
    assert with_quotes("++output_root=1e3") == '++output_root="1e3"'
    assert with_quotes("optimizer.lr=1e-3,1e-2") == "optimizer.lr=1e-3,1e-2"


@settings(drawn, max_examples=3)
@given(st.lists(PATHS, min_size=4, max_size=4))
@example(["2026.10", "1e3", "true", "NULL"])
@example([" a", "b ", "it's", "my ü"])
@example(["~/x", "a:b", "\\", "0x1F"])
def test_any_path_comes_back_from_file_and_command(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """`~` is the home directory; `runs command` prints the command that trains the run again."""
    options = ["data=cifar10", "logger=mlflow"]
    keys = ("output_root", "data.root", "logger.uri", "logger.experiment")
    typed = [
        f"{key}={quoted(text) if is_computed(text) else text}"
        for key, text in zip(keys, texts, strict=True)
    ]
    config = compose([*options, *typed])
    assert config.output_root == os.path.expanduser(texts[0])
    assert [config.data.root, config.logger.uri] == [os.path.expanduser(texts[1]), texts[2]]
    assert config.logger.experiment == texts[3]
    assert compose(shlex.split(reproduce_command(config))[2:]) == config
    file = tmp_path_factory.mktemp("saved") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load(file) == config


def test_the_home_directory_may_be_called_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/it's me")
    config = compose(["output_root=~/x"])
    assert config.output_root == "/home/it's me/x"
    assert compose(shlex.split(reproduce_command(config))[2:]) == config


def test_a_name_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output_root='runs\\udcff': must be"):
        compose(["output_root=runs\udcff"])
