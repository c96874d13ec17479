"""Evaluate trained runs: loss, accuracy, accuracy per class, confusion matrix and calibration.

Validation in both views by default; the test set only when asked for, since every look at it is
one more selection on it. Writes evaluation-<split>.json beside the run and counts it in run.json.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, ask_for_weights, fail_for, run_command
from resnet_cifar.errors import UserError
from resnet_cifar.text import print_table, printable

if TYPE_CHECKING:
    from resnet_cifar.data.datasets import Images
    from resnet_cifar.trained.model import TrainedModel


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and evaluate; the process's exit code."""
    parser = Parser(prog=paths.command_name("evaluate"), description=__doc__)
    parser.add_argument("run", nargs="+", type=Path, help="runs, <cell>/seed=<n>, and cells")
    parser.add_argument("--test", action="store_true", help="read the test set, too; is recorded")
    ask_for_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:<n>")
    text = "where CIFAR-10 lies, if not where it was, as seen from here; nothing is downloaded"
    parser.add_argument("--data-root", type=Path, help=text)
    return run_command(parser, _evaluate, arguments)


def _evaluate(options: argparse.Namespace) -> None:
    from resnet_cifar.runs.find import runs_at

    runs: list[Path] = []
    problems: list[BaseException | str] = []
    for path in options.run:
        seeds, unread = runs_at(path)
        runs += seeds or ([] if unread else [path])
        problems += unread.values()
    for run in runs:
        try:
            for split in ("validation", "test") if options.test else ("validation",):
                given = (options.weights, options.device, options.data_root)
                _print_evaluation(evaluate(run, split, *given))
        except (UserError, OSError) as error:  # the others are evaluated all the same
            if len(runs) == 1 and not problems:
                raise
            problems.append(error)
    fail_for(problems)


def evaluate(
    directory: Path,
    split: str,
    weights: str = "last",
    device: str = "auto",
    data_root: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate one run and record it.

    Args:
        split: "validation" (clean and augmented view) or "test" (clean).
        weights, device: as of `load_model`.
        data_root: the directory of the data set's files, if no longer that of the configuration.

    Returns what was written to evaluation-<split>.json (evaluation-<split>-best.json, -ema.json),
    and under "run" where.

    Raises:
        UserError: no such run, no weights, being trained, or its data are missing.
        OSError: the run can't be written.
    """
    from resnet_cifar.compute.device import resolve, settings
    from resnet_cifar.data.datasets import Cifar
    from resnet_cifar.files import Lock, LockHeld
    from resnet_cifar.record.layout import LOCK
    from resnet_cifar.record.recorder import now, record_evaluation
    from resnet_cifar.trained.model import open_run, restore_model

    record, config = open_run(directory)
    if isinstance(data := config.data, Cifar):
        root = data.root if data_root is None else str(data_root)
        config.data = data = dataclasses.replace(data, root=root, download=False)
        if not data.folder.is_dir():
            where = "--data-root=<directory> says where it is; nothing is downloaded"
            raise UserError(f"there is no {data.TITLE} in {data.folder}: {where}")
    elif data_root is not None:
        raise UserError(f"--data-root={data_root}: data={data.NAME} has no files")
    trainer = dataclasses.replace(config.trainer, device=device)
    compute = resolve(trainer, config.model.width, begun=record.precision_on("cpu"))
    try:
        with Lock(directory / LOCK, wait=False):
            images = config.data.load_test() if split == "test" else config.data.load().val
            model = restore_model(directory, record, config, weights, compute)
            with settings(compute, config.trainer.deterministic):
                views = _evaluate_views(model, images, split)
            evaluation = {
                "split": split,
                "weights": weights,
                "epoch": model.epoch,
                "complete": record.status == "completed",
                "made": now(),
                "device": compute.name,
                "precision": compute.precision,
                "cell": record.cell,
                "seed": record.seed,
                "classes": list(model.classes),
                "views": views,
            }
            record_evaluation(directory, evaluation)
    except LockHeld as busy:
        raise UserError(f"{directory} is being trained by {busy}: wait for it") from None
    return {"run": str(directory), **evaluation}


def _evaluate_views(model: "TrainedModel", images: "Images", split: str) -> dict[str, Any]:
    """Every view's scores, by view. The augmented one is what training saw at that epoch."""
    from resnet_cifar import scores
    from resnet_cifar.compute.step import score
    from resnet_cifar.data.augmentation import VALIDATION

    labels, placed = images.labels, model.place_images(images, model.config.augmentation)
    views = {"test" if split == "test" else "val": placed.clean_view()}
    if split == "validation":
        views["val_augmented"] = placed.draw_view(model.config.seed, VALIDATION, model.epoch)
    scored = {}
    for name, view in views.items():
        tensor = model.predict(placed, view, model.config.trainer.eval_batch_size)
        logits = tensor.numpy()
        confusion = scores.confusion_matrix(logits, labels)
        scored[name] = {
            "images": len(labels),
            **score(tensor, placed.labels),
            "expected_calibration_error": scores.expected_calibration_error(logits, labels),
            "accuracy_per_class": (confusion.diagonal() / confusion.sum(1).clip(min=1)).tolist(),
            "confusion_matrix": confusion.tolist(),
        }
    return scored


def _print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the scores of every view, and the accuracy of every class."""
    weights, epoch, views = (evaluation[key] for key in ("weights", "epoch", "views"))
    print(f"{printable(evaluation['run'])}  {weights} weights, epoch {epoch}")
    lines: list[list[str]] = []
    for view, value in views.items():
        row = {"view": view, "images": f"{value['images']:,}"}
        for name, x in value.items():
            if isinstance(x, float):  # what `score` returns, and the calibration
                share = name.startswith(("accuracy", "expected"))
                title = name.removeprefix("expected_").replace("_", " ") + " %" * share
                row[title] = f"{100 * x:.2f}" if share else f"{x:.4f}"
        heads, lines = [*row], [*lines, [*row.values()]]
    print()
    print_table(heads, lines, numbers=heads[1:])
    by_view = [[f"{100 * a:.1f}" for a in v["accuracy_per_class"]] for v in views.values()]
    print("\naccuracy per class %")
    print_table(["class", *views], zip(evaluation["classes"], *by_view, strict=True), [*views])
