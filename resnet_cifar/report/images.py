"""Predictions image by image: calibration of the runs, and nets compared on the same images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from resnet_cifar import scores
from resnet_cifar.errors import UserError
from resnet_cifar.report import numbers
from resnet_cifar.report.document import Column, Part, Picture, Table, heading
from resnet_cifar.report.figures import draw_calibration
from resnet_cifar.report.groups import Group
from resnet_cifar.runs.statistics import mcnemar
from resnet_cifar.runs.table import Predictions, load_predictions, records

Stored = dict[str, dict[int, Predictions]]  # by cell and seed


def images_part(group: Group, skipped: dict[str, str]) -> list[Part]:
    """Calibration and paired tests of the runs that left their predictions.

    Args:
        skipped: predictions that can't be read are added to it.
    """
    stored = _load_all(group, skipped)
    if not stored:
        return []
    nets = {cell: list(seeds.values()) for cell, seeds in stored.items()}
    caption = "Accuracy by confidence. Below the diagonal: surer than right."
    picture = Picture(f"calibration-{group.name}", draw_calibration(group, nets), caption)
    parts: list[Part] = [heading("Calibration", 4), _calibration_table(group, nets), picture]
    tests = compare_nets(group, stored)
    return [*parts, _tests_table(group, tests)] if len(tests) else parts


def _load_all(group: Group, skipped: dict[str, str]) -> Stored:
    """The predictions of a group's runs, cells in the group's order."""
    stored: Stored = {}
    for run in records(group.runs):
        try:
            predictions = load_predictions(run["directory"])
        except UserError as error:
            skipped[run["directory"]] = str(error)
            continue
        if predictions is not None:
            stored.setdefault(run["cell"], {})[run["seed"]] = predictions
    return {cell: stored[cell] for cell in group.labels if cell in stored}


def _calibration_table(group: Group, nets: dict[str, list[Predictions]]) -> Table:
    rows = []
    for cell, seeds in nets.items():
        errors = [scores.expected_calibration_error(p.logits["val"], p.labels) for p in seeds]
        surest = [np.exp(scores.log_softmax(p.logits["val"])).max(axis=1).mean() for p in seeds]
        rows.append(
            {
                "cell": cell,
                "label": group.labels[cell],
                "n": len(seeds),
                "calibration_error": float(np.mean(errors)),
                "confidence": float(np.mean(surest)),
            }
        )
    columns: dict[str, Column] = {
        "cell": "label",
        "n": "n",
        "mean confidence %": numbers.percent_column("confidence"),
        "expected calibration error %": numbers.percent_column("calibration_error"),
    }
    caption = "15 bins of equal width, clean validation images."
    name = f"calibration-{group.name}"
    return Table(name, pd.DataFrame(rows), columns, caption, words=("cell",), detail=True)


def _tests_table(group: Group, tests: pd.DataFrame) -> Table:
    columns: dict[str, Column] = {
        "first": "first",
        "second": "second",
        "seed": "seed",
        "only first right": "only_first",
        "only second right": "only_second",
        "McNemar's p": lambda row: f"{row['p']:.2g}" if row["p"] > 0 else "< 1e-300",
    }
    caption = (
        "Image by image, one pair of nets a row (exact test). It tells these two nets apart, not "
        "the configurations: another seed is another net."
    )
    words = ("first", "second")
    return Table(f"images-{group.name}", tests, columns, caption, words=words, detail=True)


def compare_nets(group: Group, stored: Stored) -> pd.DataFrame:
    """McNemar's test for every claimed pair of cells and every seed both have."""
    rows, seen = [], set()
    for claim in group.question.claims:
        for a, b in ((group.find(x), group.find(y)) for x, y in claim.pairs):
            if len(a) != 1 or len(b) != 1 or (a[0], b[0]) in seen:
                continue
            seen.add((a[0], b[0]))
            names = {"first": group.labels[a[0]], "second": group.labels[b[0]]}
            first, second = stored.get(a[0], {}), stored.get(b[0], {})
            for seed in sorted(first.keys() & second.keys()):
                x, y = first[seed], second[seed]
                if not np.array_equal(x.positions, y.positions):
                    continue  # different splits share no images in order
                right = [p.logits["val"].argmax(axis=1) == p.labels for p in (x, y)]
                rows.append({**names, "seed": seed, **mcnemar(*right)._asdict()})
    return pd.DataFrame(rows)
