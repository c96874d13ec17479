"""Classify PNG, JPEG, WebP and BMP files: `resnet-cifar predict outputs/<cell>/seed=0 photos/`.

Several runs, or a cell with its seeds, answer together: their probabilities are averaged. An image
that is not 32 x 32 is resized, its shorter side to 32 pixels, and its centre is taken: the table
says how much is cut off. One that can't be read is named and left out, and the exit code is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, ask_for_weights, complain, run_command
from resnet_cifar.errors import UserError
from resnet_cifar.record.schema import result
from resnet_cifar.runs.find import runs_at
from resnet_cifar.text import print_csv, print_json, print_table, printable

if TYPE_CHECKING:
    from resnet_cifar.trained.model import TrainedModel
    from resnet_cifar.trained.photos import Photo


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and predict; the process's exit code: 1 if an image was left out."""
    parser = Parser(prog=paths.command_name("predict"), description=__doc__)
    text = "runs (<cell>/seed=<n>), image files, and folders of them, in any order"
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=text)
    ask_for_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:<n>")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs, every class's probability")
    form.add_argument("--csv", action="store_true", help="for spreadsheets, the same")
    return run_command(parser, _predict, arguments)


def _predict(options: argparse.Namespace) -> None:
    from resnet_cifar.trained.model import load_model
    from resnet_cifar.trained.photos import NAMES, list_image_files, read_photo

    runs, others, left_out = sort_out(options.paths)
    models = []
    for run in runs:
        try:
            models.append(load_model(run, options.weights, options.device))
        except UserError as error:  # a seed of a cell; what was asked for by name has to be there
            if run in options.paths or len(runs) == 1:
                raise
            left_out[str(run)] = str(error)
    if not models:
        raise UserError("; ".join(left_out.values()))
    for model in models:
        data, first = model.config.data, models[0].config.data
        if (data.NAME, data.CLASSES) != (first.NAME, first.CLASSES):
            rule = "only runs of one data set can answer together"
            raise UserError(f"{model.directory} is of {data.NAME}, not of {first.NAME}: {rule}")
    files: list[Path] = []
    for path in others:
        found, problems = list_image_files(path)
        files += found
        left_out |= problems
    photos = []
    for file in dict.fromkeys(files):
        try:
            photos.append(read_photo(file))
        except UserError as error:
            left_out[str(file)] = str(error)
    for problem in left_out.values():
        complain(problem)
    if not files:
        raise UserError(f"{', '.join(map(str, others)) or 'the command'} names no {NAMES} file")
    rows = _classify(models, photos) if photos else []
    if options.json:
        used = [{"run": str(m.directory), "weights": m.weights, "epoch": m.epoch} for m in models]
        print_json({"runs": used, "images": rows, "left_out": left_out})
    elif options.csv:
        for row in rows:
            row |= {f"probability of {name}": p for name, p in row["probabilities"].items()}
        columns = ["image", "class", "probability", "width", "height", "resized"]
        print_csv([*columns, *(f"probability of {name}" for name in models[0].classes)], rows)
    else:
        _print_classes(models, rows)
    if left_out:
        raise SystemExit(1)


def sort_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path], dict[str, str]]:
    """The runs among `paths`, as `runs_at`; the others; and why runs are left out, by directory.

    Raises UserError: there is no run, or a path is nothing.
    """
    chosen: list[Path] = []
    others: list[Path] = []
    left_out: dict[str, str] = {}
    for path in paths:
        runs, problems = runs_at(path)
        chosen += runs
        left_out |= problems
        if not runs and not path.exists() and not path.suffix:
            raise UserError(f"{path} is not there: give runs, image files and folders of images")
        others += [] if runs else [path]
    if not chosen:
        given = "; ".join(left_out.values()) or f"no run among {', '.join(map(str, paths))}"
        raise UserError(f"{given}: give a directory <cell>/seed=<n> with run.json")
    return list(dict.fromkeys(chosen)), others, left_out


def _classify(models: Sequence["TrainedModel"], photos: Sequence["Photo"]) -> list[dict[str, Any]]:
    """One row an image, with the mean of the models' probabilities by class."""
    import numpy as np

    from resnet_cifar.data.images import SIZE

    pixels = np.stack([photo.pixels for photo in photos])
    mean = np.mean([model.probabilities(pixels) for model in models], axis=0)
    classes = models[0].classes
    return [
        {
            "image": str(photo.path),
            "class": classes[values.argmax()],
            "probability": float(values.max()),
            "width": photo.width,
            "height": photo.height,
            "resized": (photo.width, photo.height) != (SIZE, SIZE),  # or cropped
            "probabilities": dict(zip(classes, values.tolist(), strict=True)),
        }
        for photo, values in zip(photos, mean, strict=True)
    ]


def _print_classes(models: Sequence["TrainedModel"], rows: Sequence[dict[str, Any]]) -> None:
    """Print the runs by cell, and the two likeliest classes of every image."""
    from resnet_cifar.data.images import SIZE

    cell = None
    for model in models:
        if model.directory.parent != cell:
            cell = model.directory.parent
            print(printable(str(cell)))
        reached = result(model.record) if model.weights == "last" else ""
        state = "" if model.record.finished else f", {model.record.status}"
        weights = f"{model.weights} weights, epoch {model.epoch}"
        print(f"  {printable(model.directory.name)}  {weights}{state}{reached}")
    lines = []
    for row in rows:
        (best, p), (second, q) = sorted(row["probabilities"].items(), key=lambda kv: -kv[1])[:2]
        shorter, longer = sorted((row["width"], row["height"]))
        cut = round(100 * (1 - shorter / longer))
        size = f"{row['width']}×{row['height']}" + (f", {cut} % cut off" if cut else "")
        size += ", enlarged" if shorter < SIZE else ""
        lines.append([row["image"], best, f"{100 * p:5.1f}", second, f"{100 * q:5.1f}", size])
    print(f"\nmean of the {len(models)} runs' probabilities" if len(models) > 1 else "")
    print_table(["image", "class", "%", "or", "%", "pixels"], lines, numbers=["%"])
