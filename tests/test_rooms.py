"""The house: imports run one way, nothing imports a command, and no room outgrows its bound."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("resnet_cifar", "hydra_plugins", "benchmarks")
# From the top to the bottom: a room imports those of lower lines, and of its own without a circle.
ORDER = (
    ("report", "trained", "sweep"),
    ("runs",),
    ("cli",),
    ("training",),
    ("config",),
    ("record",),
    ("probe",),
    ("compute",),
    ("data", "model", "optim"),
    ("files", "identity", "errors", "paths", "text", "scores"),
)
FRONT = ("", "__main__", "results")  # the package as other programs and people see it
# Imports that run upwards, inside a function: the importing module, the room, the reason.
EXCEPTIONS = {("cli.train", "sweep"): "a sweep begins with its plan and ends with its answer"}
COMMANDS = (
    *("cli.train", "runs.command", "runs.__main__", "report.__main__", "__main__"),
    *("trained.evaluate", "trained.predict", "trained.export"),
)
HYDRA = {f"resnet_cifar/{name}.py" for name in ("cli/train", "config/compose", "config/saved")}

LONGEST_FUNCTION = 80
LONGEST_FILE = 450
FLAT_FILES = 10
LINES = {"resnet_cifar": 13_200, "hydra_plugins": 2_300, "benchmarks": 1_400, "experiments": 400}
LINES_OF_CODE = {"resnet_cifar": 9_050}  # docstrings, comments and blank lines are none
SPOKEN = re.compile(r"(What|Whether|How|Where)\b")  # a docstring begins with a verb or a noun


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    paths = {}
    for path in [*files("resnet_cifar"), *files("hydra_plugins")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
    return paths


@cache
def imports() -> dict[str, set[str]]:
    """Of each module the modules of this repository it imports, at the top or inside a function."""
    known = modules()
    return {name: imported(ast.walk(tree(path)), known, name) for name, path in known.items()}


def imported(nodes: Iterator[ast.AST], known: dict[str, Path], name: str) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {each if each in known else node.module for each in full}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {each for each in names if each in known and each != name}


def room(module: str) -> str:
    """The room of a module of the package, or the flat file that it is; "" for the package."""
    return module.partition(".")[2].partition(".")[0]


def arrows() -> list[tuple[str, str]]:
    """The imports between rooms of the package, module by module."""
    return [
        (name, other)
        for name, others in imports().items()
        for other in others
        if name.startswith("resnet_cifar") and other.startswith("resnet_cifar")
        if room(name) not in FRONT and room(name) != room(other)
    ]


def test_imports_run_one_way() -> None:
    order = list(TopologicalSorter(imports()).static_order())  # raises CycleError on a circle
    assert order.index("resnet_cifar.errors") < order.index("resnet_cifar.training.engine")


def test_every_room_has_its_place() -> None:
    rooms = {room(name) for name in modules() if name.startswith("resnet_cifar")}
    assert rooms == {*FRONT, *(name for level in ORDER for name in level)}


def test_rooms_are_in_order() -> None:
    level = {name: height for height, rooms in enumerate(ORDER) for name in rooms}
    upwards = []
    for name, other in arrows():
        if other == "resnet_cifar":  # its version
            continue
        if room(other) not in level or level[room(other)] < level[room(name)]:
            upwards.append((name.removeprefix("resnet_cifar."), room(other)))
    assert not set(upwards) - EXCEPTIONS.keys()


def test_there_is_no_circle_of_rooms() -> None:
    """Also where two rooms stand side by side, whose modules alone make none."""
    rooms: dict[str, set[str]] = {}
    for name, other in arrows():
        if (name.removeprefix("resnet_cifar."), room(other)) not in EXCEPTIONS:
            rooms.setdefault(room(name), set()).add(room(other))
    assert len(list(TopologicalSorter(rooms).static_order())) >= 10


def test_exceptions_wait_until_they_are_called() -> None:
    known = modules()
    for name, other in EXCEPTIONS:
        top = iter(tree(known[f"resnet_cifar.{name}"]).body)
        assert not [each for each in imported(top, known, name) if room(each) == other]


def test_nothing_imports_a_command() -> None:
    commands = {f"resnet_cifar.{name}" for name in COMMANDS}
    assert commands <= modules().keys()
    # `python -m resnet_cifar.runs` is another name of a command.
    assert not [name for name, of in imports().items() if of & commands and name not in commands]


def test_the_plugins_know_nothing_of_the_project() -> None:
    for name, of in imports().items():
        if name.startswith("hydra_plugins"):
            assert not [each for each in of if each.startswith("resnet_cifar")], name


def test_hydra_stays_at_the_door() -> None:
    """Hydra and OmegaConf are imported by `train` and the door, nowhere else in the package."""
    importing = re.compile(r"^\s*(?:from|import) (?:hydra|omegaconf)\b", re.MULTILINE)
    using = {
        str(path.relative_to(ROOT))
        for path in [ROOT / "train.py", *files("resnet_cifar"), *files("benchmarks")]
        if importing.search(path.read_text(encoding="utf-8"))
    }
    assert using == HYDRA


def test_few_files_lie_flat() -> None:
    assert len(list((ROOT / "resnet_cifar").glob("*.py"))) <= FLAT_FILES


@pytest.mark.parametrize("folder", LINES)
def test_no_function_and_no_file_is_too_long(folder: str) -> None:
    long = []
    for path in files(folder):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long += [(path.name, lines)] if lines > LONGEST_FILE else []
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [(f"{path.name}: {node.name}", lines)] if lines > LONGEST_FUNCTION else []
    assert not long


@pytest.mark.parametrize("folder", LINES)
def test_a_folder_keeps_its_bound(folder: str) -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(folder))
    assert 0 < lines <= LINES[folder]


@pytest.mark.parametrize("folder", LINES_OF_CODE)
def test_a_folder_keeps_its_bound_of_code(folder: str) -> None:
    lines = sum(map(lines_of_code, files(folder)))
    assert 0 < lines <= LINES_OF_CODE[folder]


def lines_of_code(path: Path) -> int:
    """Lines of a file that hold a token of code."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (
            *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
            *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
        ):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in documented(path):
        text_node = node.body[0]
        lines -= set(range(text_node.lineno, (text_node.end_lineno or 0) + 1))
    return len(lines)


def test_lines_of_code_are_counted(tmp_path: Path) -> None:
    source = '"""Text,\nof two lines."""\n\n# why\nx = [\n    1,\n]\n\n\ndef f():\n    """Do."""\n'
    (tmp_path / "a.py").write_text(source)
    assert lines_of_code(tmp_path / "a.py") == 4


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(path: Path) -> Iterator[Documented]:
    """The modules, classes and functions of a file that have a docstring."""
    for node in ast.walk(tree(path)):
        if isinstance(node, Documented) and ast.get_docstring(node):
            yield node


@pytest.mark.parametrize("folder", PACKAGES)
def test_a_docstring_says_what_its_thing_does(folder: str) -> None:
    spoken = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in files(folder)
        for text in map(ast.get_docstring, documented(path))
        if text and SPOKEN.match(text)
    ]
    assert not spoken
