"""Write a trained network for other programs: `resnet-cifar export <run> model.onnx`.

As weights (.safetensors), ONNX (.onnx) or torch.export's program (.pt2), float32, any batch size.
What was trained, how, its accuracy, class names and normalisation go along. Programs are compared
with the network before they are written. Input: RGB, pixels / 255, minus mean, over std, [n, 3, 32,
32]; output: logits.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_cifar import paths
from resnet_cifar.cli.edge import VERSION, Parser, ask_for_weights, run_command
from resnet_cifar.errors import UserError
from resnet_cifar.files import check_writable, write_atomically
from resnet_cifar.text import printable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resnet_cifar.trained.model import TrainedModel

OPSET = 18  # of ONNX: what torch's exporter is made for
TOLERANCE = 1e-3  # of the largest logit: how far another program's may be from the network's
# Our modules, and parts of a block, as torchvision's ResNets name them.
_MODULES = {"stem": "conv1", "norm": "bn1", "head": "fc"}
_PARTS = {"conv": "conv", "norm": "bn", "shortcut.": "downsample."}
_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(conv|norm|shortcut\.)(\d)")
# The kinds of files, and the packages that the extra `export` brings for them.
KINDS = {".safetensors": "safetensors", ".onnx": "onnx onnxscript onnxruntime", ".pt2": ""}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and export; the process's exit code."""
    parser = Parser(prog=paths.command_name("export"), description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, <cell>/seed=<n>")
    text = "what to write; the ending says what: " + ", ".join(KINDS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=text)
    ask_for_weights(parser)
    text = "of the weights in a .safetensors file: torchvision's are conv1, bn1, layer1.0.conv1, …"
    parser.add_argument("--names", choices=("ours", "torchvision"), default="ours", help=text)
    parser.add_argument("--overwrite", action="store_true", help="files that are there already")
    return run_command(parser, _export, arguments)


def _export(options: argparse.Namespace) -> None:
    from resnet_cifar.trained.model import load_model

    for file in options.files:
        _refuse_unwritable(file, options.names, options.overwrite)
    model = load_model(options.run, options.weights, "cpu")
    described = metadata(model, options.names)
    writers = {".safetensors": _to_safetensors, ".onnx": _to_onnx, ".pt2": _to_pt2}
    for file in dict.fromkeys(options.files):
        with warnings.catch_warnings(action="ignore"):  # of exporters, for their own developers
            content = writers[file.suffix.lower()](model, described)
        write_atomically(file, content)
        written = f"{file}: {len(content):,} bytes, {model.weights} weights, epoch {model.epoch}"
        print(printable(written))


def _refuse_unwritable(file: Path, names: str, overwrite: bool) -> None:
    """Raise UserError where `file` can't be written, before any work."""
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{file}: the name must end in one of {', '.join(KINDS)}")
    if names != "ours" and kind != ".safetensors":
        raise UserError(f"--names={names} is for .safetensors files, which are weights by name")
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file} can't be written: it is a directory, or its directory is missing")
    if os.path.lexists(file) and not overwrite:
        raise UserError(f"{file} is there already: --overwrite replaces it")
    for package in KINDS[kind].split():
        if find_spec(package) is None:
            install = paths.installing("export")
            raise UserError(f"{file} needs {package}, which is not here: {install}")
    try:
        check_writable(file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from error


def metadata(model: TrainedModel, names: str = "ours") -> dict[str, str]:
    """Text by name that goes along with a network; lists and mappings as JSON."""
    from resnet_cifar.config.saved import reproduce_command

    record, (mean, std) = model.record, model.normalisation
    scores = {k: v for k, v in model.metrics.items() if k.startswith(("accuracy/", "loss/"))}
    for entry in record.evaluations:
        if (entry.split, entry.weights, entry.epoch) == ("test", model.weights, model.epoch):
            scores |= entry.scores
    return {
        "format": "pt",
        "program": VERSION,
        "run": f"{record.cell}/seed={record.seed}",
        "status": record.status,
        "weights": model.weights,
        "names": names,
        "epoch": str(model.epoch),
        "epochs": str(record.epochs),
        **{name: str(value) for name, value in sorted(scores.items())},
        "data": model.config.data.NAME,
        "classes": json.dumps(model.classes),
        "input": "float32 [n, 3, 32, 32]: RGB, pixels / 255, minus mean, over std",
        "output": "float32 [n, classes]: logits",
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "config": json.dumps(record.config),
        "command": reproduce_command(model.config),
    }


def torchvision_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's state dict as torchvision's are. Raises UserError: it is no ResNet's."""
    renamed = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        if block := _BLOCK.fullmatch(module):
            stage, position, part, number = block.groups()
            theirs = f"layer{int(stage) + 1}.{position}.{_PARTS[part]}{number}"
        elif module in _MODULES:
            theirs = _MODULES[module]
        else:
            raise UserError(f"--names=torchvision: {name} is not a weight of a ResNet")
        renamed[f"{theirs}.{leaf}"] = tensor
    return renamed


def _to_safetensors(model: TrainedModel, described: dict[str, str]) -> bytes:
    from safetensors import torch as safetensors

    weights = {k: v.contiguous() for k, v in model.network.state_dict().items()}
    if described["names"] == "torchvision":
        weights = torchvision_names(weights)
    return bytes(safetensors.save(weights, described))


def _to_onnx(model: TrainedModel, described: dict[str, str]) -> bytes:
    import onnxruntime
    import torch

    network = model.network.to(memory_format=torch.contiguous_format)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 32, 32),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )
    assert program is not None
    program.model.metadata_props.update(described)
    content: bytes = program.model_proto.SerializeToString()  # of 2 GB at most
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    check_answers("ONNX", network, run)
    return content


def _to_pt2(model: TrainedModel, described: dict[str, str]) -> bytes:
    import torch

    network = model.network.to(memory_format=torch.contiguous_format)
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(described)})
    buffer.seek(0)
    check_answers("torch.export", network, torch.export.load(buffer).module())
    return buffer.getvalue()


def check_answers(what: str, network: nn.Module, other: Callable[[Tensor], Tensor]) -> None:
    """Raise UserError unless `other` answers as `network` does, whatever the batch."""
    import torch

    from resnet_cifar.data.augmentation import generator

    for count in (1, 2, 7):
        images = torch.randn(count, 3, 32, 32, generator=generator(0, "export"))
        with torch.inference_mode():
            expected, answer = network(images), other(images)
        gap = (answer - expected).abs().max() / expected.abs().max().clamp(min=1)
        if not gap <= TOLERANCE:  # also where one is not finite
            raise UserError(f"{what} answers otherwise than the network: {gap:.2g} of its logits")
