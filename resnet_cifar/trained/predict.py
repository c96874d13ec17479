"""Classify a person's own images: `resnet-cifar predict outputs/<cell>/seed=0 photos/`.

Several runs answer together: their probabilities are averaged.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, ask_for_weights, run_command
from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import result
from resnet_cifar.runs.find import find_cell_runs
from resnet_cifar.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnet_cifar.trained.model import TrainedModel
    from resnet_cifar.trained.photos import Photo


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and predict; the process's exit code: 1 if an image was left out."""
    parser = Parser(
        prog=paths.command_name("predict"),
        description="Classify PNG and JPEG files with a trained run. Several runs, or a cell with "
        "its seeds, answer together: their probabilities are averaged.",
        epilog="An image that is not 32 x 32 is resized, its shorter side to 32 pixels, and its "
        "centre is taken. One that can't be read is named and left out, and the exit code is 1.",
    )
    text = "runs (<cell>/seed=<n>), image files, and folders of them, in any order"
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=text)
    ask_for_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs, every class's probability")
    form.add_argument("--csv", action="store_true", help="for spreadsheets, the same")
    return run_command(parser, _predict, arguments)


def _predict(options: argparse.Namespace) -> None:
    from resnet_cifar.trained import photos

    runs, others = sort_out(options.paths)
    models = load_models(runs, options.weights, options.device)
    files = list(dict.fromkeys(file for path in others for file in photos.find(path)))
    if not files:
        raise UserError(f"{', '.join(map(str, others)) or 'the command'} names no PNG or JPEG file")
    found, left_out = [], {}
    for file in files:
        try:
            found.append(photos.read(file))
        except UserError as error:
            left_out[str(file)] = str(error)
            print(printable(f"error: {describe(error)}"), file=sys.stderr)
    predictions = Predictions(models, found, averaged(models, found), left_out)
    if options.json:
        print_json(predictions)
    elif options.csv:
        print_csv(predictions)
    else:
        show(predictions)
    if left_out:
        raise SystemExit(1)


def sort_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The runs among `paths`, those of a cell one by one, and the others.

    Raises:
        UserError: there is no run, or a path that is nothing.
    """
    runs: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if (path / RUN).is_file():
            runs.append(path)
        elif path.is_dir() and (inside := _runs_in(path)):
            runs += inside
        elif path.exists() or path.suffix:
            others.append(path)
        else:
            raise UserError(f"{path} is not there: give runs, image files and folders of images")
    if not runs:
        given = ", ".join(map(str, paths))
        raise UserError(f"no run among {given}: give a directory <cell>/seed=<n> with run.json")
    return list(dict.fromkeys(runs)), others


def _runs_in(directory: Path) -> list[Path]:
    """The runs of a cell, or of a folder of copies, but for those set aside."""
    runs = [run for run in find_cell_runs(directory) if not run.is_set_aside]
    return [run.path for run in runs if (run.path / RUN).is_file()]


def load_models(runs: Sequence[Path], weights: str, device: str) -> list[TrainedModel]:
    """The networks of runs that tell the same classes apart.

    Raises:
        UserError: as `load_model`; or two of them were trained on different data sets.
    """
    from resnet_cifar.trained.model import load_model

    models = [load_model(run, weights, device) for run in runs]
    first = models[0]
    for model in models:
        if (model.config.data.NAME, model.classes) != (first.config.data.NAME, first.classes):
            raise UserError(
                f"{first.directory} was trained on {first.config.data.NAME}, {model.directory} on "
                f"{model.config.data.NAME}: only runs of one data set can answer together"
            )
    return models


def averaged(models: Sequence[TrainedModel], found: Sequence[Photo]) -> NDArray[np.float64]:
    """The models' mean probabilities: [images, classes]."""
    import numpy as np

    if not found:
        return np.zeros((0, len(models[0].classes)))
    pixels = np.stack([photo.pixels for photo in found])
    mean: NDArray[np.float64] = np.mean([m.probabilities(pixels) for m in models], axis=0)
    return mean


class Predictions(NamedTuple):
    """What is said of some images."""

    models: list[TrainedModel]
    photos: list[Photo]
    probabilities: NDArray[np.float64]  # [images, classes]
    left_out: dict[str, str]  # by path, why

    def rows(self) -> list[dict[str, Any]]:
        """One an image: its path, size, whether it was resized, class, probabilities by class."""
        return [
            {
                "image": str(photo.path),
                "class": self.models[0].classes[values.argmax()],
                "probability": float(values.max()),
                "width": photo.width,
                "height": photo.height,
                "resized": photo.resized,
                "probabilities": dict(zip(self.models[0].classes, values.tolist(), strict=True)),
            }
            for photo, values in zip(self.photos, self.probabilities, strict=True)
        ]


def print_json(predictions: Predictions) -> None:
    """One object: the runs, the images, what was left out and why."""
    runs = [
        {"run": str(model.directory), "weights": model.weights, "epoch": model.epoch}
        for model in predictions.models
    ]
    whole = {"runs": runs, "images": predictions.rows(), "left_out": predictions.left_out}
    print(json.dumps(whole, indent=2))


def print_csv(predictions: Predictions) -> None:
    """One line an image; a column for every class."""
    classes = predictions.models[0].classes
    first = ("image", "class", "probability", "width", "height", "resized")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*first, *(f"probability of {name}" for name in classes)])
    for row in predictions.rows():
        writer.writerow([*(row[key] for key in first), *row["probabilities"].values()])


def show(predictions: Predictions) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    from resnet_cifar.text import wide_console

    console = wide_console()
    for model in predictions.models:
        reached = result(model.record) if model.weights == "last" else ""
        state = "" if model.record.finished else f", {model.record.status}"
        text = f"{model.directory}  {model.weights} weights, epoch {model.epoch}{state}{reached}"
        console.print(printable(text), markup=False)
    table = Table("image", "class", "%", "or", "%", "pixels")
    table.columns[0].overflow = "fold"
    for column in (table.columns[2], table.columns[4]):
        column.justify = "right"
    for row in predictions.rows():
        (best, p), (second, q) = sorted(row["probabilities"].items(), key=lambda kv: -kv[1])[:2]
        size = f"{row['width']}×{row['height']}" + (", resized" if row["resized"] else "")
        name = Text(printable(row["image"]))
        table.add_row(name, best, f"{100 * p:.1f}", second, f"{100 * q:.1f}", size)
    console.print(table)
    if resized := sum(photo.resized for photo in predictions.photos):
        console.print(
            f"{resized} of {len(predictions.photos)} images are not 32×32: shorter side resized to "
            "32 pixels, centre taken",
            markup=False,
        )


if __name__ == "__main__":
    sys.exit(main())
