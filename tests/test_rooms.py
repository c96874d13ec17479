"""The house: imports run one way, nothing imports a command, plugins do not know the project."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import ROOT

COMMANDS = (
    *("cli.train", "runs.command", "runs.__main__", "report.__main__", "__main__"),
    *("trained.evaluate", "trained.predict", "trained.export"),
)


def modules() -> dict[str, Path]:
    found = {}
    for package in ("resnet_cifar", "hydra_plugins"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports() -> dict[str, set[str]]:
    """Of each module the modules of this repository it imports, at the top or inside a function."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {each if each in known else node.module for each in named}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] = {each for each in found[name] if each in known and each != name}
    return found


def test_imports_run_one_way() -> None:
    order = list(TopologicalSorter(imports()).static_order())  # raises CycleError on a circle
    assert order.index("resnet_cifar.errors") < order.index("resnet_cifar.training.engine")


def test_nothing_imports_a_command() -> None:
    commands = {f"resnet_cifar.{name}" for name in COMMANDS}
    assert commands <= modules().keys()
    # `python -m resnet_cifar.runs` is another name of a command.
    assert not [name for name, of in imports().items() if of & commands and name not in commands]


def test_the_plugins_know_nothing_of_the_project() -> None:
    for name, of in imports().items():
        if name.startswith("hydra_plugins"):
            assert not [each for each in of if each.startswith("resnet_cifar")], name
