"""Write a trained network for other programs: `resnet-cifar export <run> model.onnx`.

The file's ending says what it is. What was written is read back and compared with the network.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnet_cifar import paths
from resnet_cifar.cli.edge import VERSION, Parser, ask_for_weights, run_command
from resnet_cifar.errors import UserError, describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resnet_cifar.trained.model import TrainedModel

NAMES = ("ours", "torchvision")
OPSET = 18  # of ONNX: what torch's exporter is made for
TOLERANCE = 1e-3  # of the largest logit: how far another program's may be from the network's
# Ours, and what torchvision's ResNets call the same.
_TORCHVISION = (
    (r"stem", "conv1"),
    (r"norm", "bn1"),
    (r"head", "fc"),
    (r"stages\.(\d+)\.(\d+)\.conv(\d)", r"layer{}.\2.conv\3"),
    (r"stages\.(\d+)\.(\d+)\.norm(\d)", r"layer{}.\2.bn\3"),
    (r"stages\.(\d+)\.(\d+)\.shortcut\.(\d)", r"layer{}.\2.downsample.\3"),
)


class Kind(NamedTuple):
    """A kind of file."""

    write: Callable[[TrainedModel, dict[str, str], str], bytes]  # metadata and names given
    needs: tuple[str, ...]  # packages that the extra `export` brings


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and export; the process's exit code."""
    parser = Parser(
        prog=paths.command_name("export"),
        description="Write a trained network as weights (.safetensors), ONNX (.onnx) or "
        "torch.export's program (.pt2), float32, any batch size. What was trained, how, its "
        "accuracy, class names and normalisation go along.",
        epilog="Input: RGB, pixels / 255, minus mean, over std, [n, 3, 32, 32]; output: logits.",
    )
    parser.add_argument("run", type=Path, help="a run directory, <cell>/seed=<n>")
    text = "what to write; the ending says what: " + ", ".join(KINDS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=text)
    ask_for_weights(parser)
    text = "of the weights in a .safetensors file: torchvision's are conv1, bn1, layer1.0.conv1, …"
    parser.add_argument("--names", choices=NAMES, default="ours", help=text)
    parser.add_argument("--overwrite", action="store_true", help="files that are there already")
    return run_command(parser, _export, arguments)


def _export(options: argparse.Namespace) -> None:
    from resnet_cifar.files import write_atomically
    from resnet_cifar.trained.model import load_model

    for file in options.files:
        _refuse_unwritable(file, options.names, options.overwrite)
    model = load_model(options.run, options.weights, "cpu")
    for file in options.files:
        described = metadata(model, options.names)
        content = KINDS[file.suffix].write(model, described, options.names)
        if file.exists() and not options.overwrite:
            raise UserError(f"{file} is there already: --overwrite replaces it")
        write_atomically(file, content)
        print(f"{file}: {len(content):,} bytes, {model.weights} weights, epoch {model.epoch}")


def _refuse_unwritable(file: Path, names: str, overwrite: bool) -> None:
    """Raise UserError where `file` can't be written, before any work."""
    if file.suffix not in KINDS:
        raise UserError(f"{file}: its ending says what it is to be: one of {', '.join(KINDS)}")
    if names != "ours" and file.suffix != ".safetensors":
        raise UserError(f"--names={names} is for .safetensors files, which are weights by name")
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file} can't be written: a directory, or in one that is not there")
    if file.exists() and not overwrite:
        raise UserError(f"{file} is there already: --overwrite replaces it")
    for package in KINDS[file.suffix].needs:
        try:
            import_module(package)
        except ImportError:
            install = paths.installing("export")
            raise UserError(f"{file} needs {package}, which is not here: {install}") from None


def metadata(model: TrainedModel, names: str = "ours") -> dict[str, str]:
    """Text by name that goes along with a network; lists and mappings as JSON."""
    from resnet_cifar.config.saved import reproduce_command

    record, (mean, std) = model.record, model.normalisation
    tests = [
        entry.scores
        for entry in record.evaluations
        if (entry.split, entry.weights, entry.epoch) == ("test", model.weights, model.epoch)
    ]
    scores = {k: v for k, v in model.metrics.items() if k.startswith(("accuracy/", "loss/"))}
    for more in tests[-1:]:
        scores |= more
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
    """Rename the state dict of one of our ResNets as torchvision's are named.

    Raises:
        UserError: a name is none of a ResNet's.
    """
    renamed = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        for pattern, theirs in _TORCHVISION:
            if match := re.fullmatch(pattern, module):
                stage = str(int(match[1]) + 1) if match.groups() else ""
                renamed[f"{match.expand(theirs.replace('{}', stage))}.{leaf}"] = tensor
                break
        else:
            raise UserError(f"--names=torchvision: {name} is no weight of a ResNet")
    return renamed


def _write_safetensors(model: TrainedModel, described: dict[str, str], names: str) -> bytes:
    from safetensors import torch as safetensors

    weights = {k: v.contiguous() for k, v in model.network.state_dict().items()}
    if names == "torchvision":
        weights = torchvision_names(weights)
    content: bytes = safetensors.save(weights, described)
    back = safetensors.load(content)
    if back.keys() != weights.keys() or not all(back[k].equal(v) for k, v in weights.items()):
        raise UserError("the weights do not come back from safetensors as they were")
    return content


def _write_onnx(model: TrainedModel, described: dict[str, str], names: str) -> bytes:
    import onnx
    import onnxruntime
    import torch

    network, example = _to_contiguous(model.network), _draw_images(2)
    with _ignore_warnings():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
        assert program is not None
        proto = program.model_proto
    onnx.helper.set_model_props(proto, described)
    onnx.checker.check_model(proto)
    try:
        content: bytes = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf's and onnxruntime's own, past 2 GB
        raise UserError(f"ONNX can't hold this network: {describe(error)}") from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    check_answers("ONNX", network, run)
    return content


def _write_pt2(model: TrainedModel, described: dict[str, str], names: str) -> bytes:
    import torch

    network, buffer = _to_contiguous(model.network), io.BytesIO()
    with _ignore_warnings():
        shapes = ({0: torch.export.Dim("n")},)
        program = torch.export.export(network, (_draw_images(2),), dynamic_shapes=shapes)
        torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(described)})
        buffer.seek(0)
        check_answers("torch.export", network, torch.export.load(buffer).module())
    return buffer.getvalue()


KINDS = {
    ".safetensors": Kind(_write_safetensors, ("safetensors",)),
    ".onnx": Kind(_write_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": Kind(_write_pt2, ()),
}


def _to_contiguous(network: nn.Module) -> nn.Module:
    """Move `network` to the memory layout that every program expects."""
    import torch

    return network.to(memory_format=torch.contiguous_format)


def _draw_images(count: int) -> Tensor:
    """Random images [count, 3, 32, 32] with the mean and spread of preprocessed ones."""
    import torch

    from resnet_cifar.data.augmentation import generator

    return torch.randn(count, 3, 32, 32, generator=generator(0, "export"))


def check_answers(what: str, network: nn.Module, other: Callable[[Tensor], Tensor]) -> None:
    """Raise UserError unless `other` answers as `network` does, whatever the batch."""
    import torch

    for count in (1, 2, 7):
        images = _draw_images(count)
        with torch.inference_mode():
            expected, answer = network(images), other(images)
        gap = (answer - expected).abs().max() / expected.abs().max().clamp(min=1)
        if not gap <= TOLERANCE:  # also where one is not finite
            raise UserError(
                f"{what} answers otherwise than the network: by {gap:.2g} of its logits"
            )


def _ignore_warnings() -> warnings.catch_warnings[None]:
    """Silence what exporters warn their own developers of."""
    return warnings.catch_warnings(action="ignore")


if __name__ == "__main__":
    sys.exit(main())
