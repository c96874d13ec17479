"""Classify a person's own images: `resnet-cifar predict outputs/<cell>/seed=0 photos/`.

Several runs answer together: their probabilities are averaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, ask_for_weights, run_command
from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import result
from resnet_cifar.text import print_csv, print_json, print_table, printable

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
    from resnet_cifar.trained.photos import list_image_files, read_photo

    runs, others = sort_out(options.paths)
    models = load_models(runs, options.weights, options.device)
    files = list(dict.fromkeys(file for path in others for file in list_image_files(path)))
    if not files:
        raise UserError(f"{', '.join(map(str, others)) or 'the command'} names no PNG or JPEG file")
    photos, left_out = [], {}
    for file in files:
        try:
            photos.append(read_photo(file))
        except UserError as error:
            left_out[str(file)] = str(error)
            print(printable(f"error: {describe(error)}"), file=sys.stderr)
    classified = ClassifiedPhotos(models, photos, average_probabilities(models, photos), left_out)
    if options.json:
        print_json(classified.as_plain())
    elif options.csv:
        print_csv(classified.csv_columns(), classified.csv_rows())
    else:
        print_classes(classified)
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
    """The runs of a cell, or of a folder of copies, each once and without those set aside.

    Raises:
        UserError: a run among them can't be read.
    """
    from resnet_cifar.runs.find import count_runs, find_cell_runs

    runs = find_cell_runs(directory)
    for run in runs:
        if run.record is None and not run.is_set_aside and (run.path / RUN).exists():
            raise UserError(run.reason)
    return [run.path for run in count_runs(runs)[0]]


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


def average_probabilities(
    models: Sequence[TrainedModel], photos: Sequence[Photo]
) -> NDArray[np.float64]:
    """The models' mean probabilities: float64 [images, classes]."""
    import numpy as np

    if not photos:
        return np.zeros((0, len(models[0].classes)))
    pixels = np.stack([photo.pixels for photo in photos])
    mean: NDArray[np.float64] = np.mean([m.probabilities(pixels) for m in models], axis=0)
    return mean


class ClassifiedPhotos(NamedTuple):
    """Images with the probabilities of their classes."""

    models: list[TrainedModel]
    photos: list[Photo]
    probabilities: NDArray[np.float64]  # [images, classes]
    left_out: dict[str, str]  # by path, why

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return self.models[0].classes

    def rows(self) -> list[dict[str, Any]]:
        """One an image: its path, size, whether it was resized, class, probabilities by class."""
        return [
            {
                "image": str(photo.path),
                "class": self.classes[values.argmax()],
                "probability": float(values.max()),
                "width": photo.width,
                "height": photo.height,
                "resized": photo.resized,
                "probabilities": dict(zip(self.classes, values.tolist(), strict=True)),
            }
            for photo, values in zip(self.photos, self.probabilities, strict=True)
        ]

    def as_plain(self) -> dict[str, Any]:
        """One object for JSON: the runs, the images, what was left out and why."""
        runs = [
            {"run": str(model.directory), "weights": model.weights, "epoch": model.epoch}
            for model in self.models
        ]
        return {"runs": runs, "images": self.rows(), "left_out": self.left_out}

    def csv_columns(self) -> list[str]:
        """The columns of `csv_rows`."""
        classes = [f"probability of {name}" for name in self.classes]
        return ["image", "class", "probability", "width", "height", "resized", *classes]

    def csv_rows(self) -> list[dict[str, Any]]:
        """`rows` with a column for every class."""
        return [
            row | {f"probability of {name}": p for name, p in row["probabilities"].items()}
            for row in self.rows()
        ]


def print_classes(classified: ClassifiedPhotos) -> None:
    """Print the runs, and the two likeliest classes of every image."""
    for model in classified.models:
        reached = result(model.record) if model.weights == "last" else ""
        state = "" if model.record.finished else f", {model.record.status}"
        weights = f"{model.weights} weights, epoch {model.epoch}"
        print(f"{printable(str(model.directory))}  {weights}{state}{reached}")
    lines = []
    for row in classified.rows():
        (best, p), (second, q) = sorted(row["probabilities"].items(), key=lambda kv: -kv[1])[:2]
        size = f"{row['width']}×{row['height']}" + (", resized" if row["resized"] else "")
        image = printable(row["image"])
        lines.append([image, best, f"{100 * p:.1f}", second, f"{100 * q:.1f}", size])
    print()
    heads = ["image", "class", "%", "or", "%", "pixels"]
    print_table(heads, lines, [True, True, False, True, False, True], folded=0)
    if resized := sum(photo.resized for photo in classified.photos):
        print(
            f"{resized} of {len(lines)} images are not 32×32: shorter side resized to 32 pixels, "
            "centre taken"
        )


if __name__ == "__main__":
    sys.exit(main())
