"""Names that runs have on people's disks: they never change."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from resnet_cifar.config.compose import compose
from resnet_cifar.identity import MOVED, cell_name

RECORDS = sorted((ROOT / "experiments" / "results" / "runs").glob("*/seed=*/run.json"))
# A name and its overrides to a line, as earlier versions made them: many before there was a group
# `augmentation`, and of each field that labels do not show another value.
NAMES = (ROOT / "tests" / "names.txt").read_text().splitlines()


@pytest.mark.parametrize("line", NAMES)
def test_a_cell_keeps_its_name(line: str) -> None:
    name, *overrides = line.split()
    assert cell_name(compose(overrides)) == name


def test_the_committed_runs_keep_their_names() -> None:
    """Each from the configuration that its record has, under today's keys."""
    now = {before: key for key, before in MOVED.items()}
    made: dict[str, str] = {}  # name by what is composed: seeds of a cell differ in nothing else
    for path in RECORDS:
        written = json.loads(path.read_text())["config"]
        flat = {now.get(key, key): value for key, value in written.items() if key != "seed"}
        overrides = " ".join(f"{key}={value}" for key, value in flat.items())
        if overrides not in made:
            made[overrides] = cell_name(compose(overrides.split(" ")))
        assert made[overrides] == path.parents[1].name
    assert len(set(made.values())) >= 18
