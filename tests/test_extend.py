"""Adding one of each kind of thing: one class and one YAML file, or an entry of a file."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, Program
from made_up import make_run
from torch import Tensor, nn

from resnet_cifar.__main__ import main
from resnet_cifar.compute import step
from resnet_cifar.config.compose import CONF, compose
from resnet_cifar.config.schema import PARTS
from resnet_cifar.data import augmentation, datasets
from resnet_cifar.data.augmentation import AugmentationDraw, CropFlip, Stream
from resnet_cifar.data.datasets import THE_STUDYS, Dataset, Images, Normalisation, Split
from resnet_cifar.identity import added, cell_name, execution
from resnet_cifar.model import options as model_options
from resnet_cifar.model.options import Model, Norm
from resnet_cifar.optim import optimizer, regularization, scheduler
from resnet_cifar.optim.optimizer import Optimizer
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.optim.regularization import Regularization
from resnet_cifar.optim.scheduler import Schedule, Scheduler
from resnet_cifar.record import logger, provenance
from resnet_cifar.record.lines import read_metrics
from resnet_cifar.record.logger import Logger
from resnet_cifar.record.schema import read_record
from resnet_cifar.record.tracker import TrackedRun, Tracker
from resnet_cifar.report.groups import group_by_question
from resnet_cifar.results import load_runs
from resnet_cifar.training.live import Display


@dataclass
class Stripes(Dataset):
    """Two classes: stripes that lie and stripes that stand."""

    NAME: ClassVar[str] = "stripes"
    CLASSES: ClassVar[tuple[str, ...]] = ("lying", "standing")
    NORMALISATION: ClassVar[Normalisation] = THE_STUDYS
    thickness: int

    @property
    def training_images(self) -> int:
        return 64

    def load(self) -> Split:
        return Split(self._images(64), self._images(self.val_size))

    def load_test(self) -> Images:
        return self._images(20)

    def _images(self, count: int) -> Images:
        lying = np.arange(32)[:, None] // self.thickness % 2 * np.full(32, 255)
        labels = np.arange(count) % 2
        pixels = np.where(labels[:, None, None], lying.T, lying).astype(np.uint8)
        return Images(np.repeat(pixels[..., None], 3, -1), labels, np.arange(count))


@dataclass
class Noise(CropFlip):
    """Crop, flip, and noise on the device, its strength drawn for each image."""

    NAME: ClassVar[str] = "noise"
    strength: float

    def draws(self, seed: int, stream: Stream, epoch: int, count: int) -> AugmentationDraw:
        plain = super().draws(seed, stream, epoch, count)
        source = augmentation.generator(seed, f"{stream.augmentation}/noise", epoch)
        noise = self.strength * torch.rand(count, generator=source)
        return AugmentationDraw(plain.order, plain.offset, plain.flip, {"noise": noise})

    def apply(
        self, x: Tensor, y: Tensor, draws: AugmentationDraw, classes: int
    ) -> tuple[Tensor, Tensor]:
        if "noise" in draws.more:
            x = x + draws.more["noise"][:, None, None, None] * torch.sign(x)
        return x, y


@dataclass
class Linear(Model):
    """A linear classifier of `width` × 3 averaged patches, after one norm layer."""

    NAME: ClassVar[str] = "linear"

    def build(self, norm: Any, classes: int) -> nn.Module:
        stem = nn.Conv2d(3, self.width, 8, stride=8, bias=False)
        return nn.Sequential(
            stem, norm(self.width), nn.Flatten(), nn.Linear(16 * self.width, classes)
        )


@dataclass
class Shift(Norm):
    """A bias and nothing else."""

    NAME: ClassVar[str] = "shift"

    def build(self, channels: int) -> nn.Module:
        return nn.Conv2d(channels, channels, 1, groups=channels)


@dataclass
class Sign(Optimizer):
    """Steps of one length along the gradient's signs."""

    NAME: ClassVar[str] = "sign"

    def build(self, groups: list[dict[str, Any]], fused: bool = True) -> torch.optim.Optimizer:
        return torch.optim.Rprop(groups, lr=self.lr, etas=(0.9, 1.1))


@dataclass
class Linearly(Scheduler):
    """η falls along a straight line."""

    NAME: ClassVar[str] = "linearly"

    def shape(self, lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        return lambda step: lr * (1 - step / (epochs * steps_per_epoch))


@dataclass
class Temperate(Regularization):
    """A loss of one's own, cross-entropy at a temperature, and a metric per epoch: ‖weights‖."""

    NAME: ClassVar[str] = "temperate"
    temperature: float

    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        plain = super().loss()
        return lambda logits, labels: plain(logits / self.temperature, labels)

    def build_step(self, model: nn.Module, optimizer: Any, scaler: Any = None) -> OptimizerStep:
        class Measured(OptimizerStep):
            def metrics(self) -> dict[str, float]:
                squares = sum(float(p.detach().square().sum()) for p in model.parameters())
                return {**super().metrics(), "weight_norm/train": squares**0.5}

        return Measured(optimizer, self.clip_norm, None, scaler)


@dataclass
class Kept(Logger):
    """Numbers in a file of one's own."""

    NAME: ClassVar[str] = "kept"
    file: str = execution()

    def open(self, run: TrackedRun) -> Tracker:
        class Lines(Tracker):
            def scalars(tracker, metrics: Mapping[str, Any]) -> None:  # noqa: N805
                with open(self.file, "a") as file:
                    print(run.name, metrics["accuracy/val"], file=file)

        return Lines()


ADDED: list[tuple[Any, str, type[Any], str]] = [
    (datasets, "data", Stripes, "split_seed: 0\nval_size: 32\nthickness: 4\n"),
    (augmentation, "augmentation", Noise, "crop_padding: 0\nflip_probability: 0\nstrength: 0.1\n"),
    (model_options, "model", Linear, "width: 4\n"),
    (model_options, "norm", Shift, ""),
    (optimizer, "optimizer", Sign, "lr: 0.01\n"),
    (scheduler, "scheduler", Linearly, "warmup_epochs: 0.0\n"),
    (
        regularization,
        "regularization",
        Temperate,
        "weight_decay: 0\ndecay_norm_and_bias: true\nlabel_smoothing: 0\nema_decay: 0\n"
        "clip_norm: 0\ntemperature: 2.0\n",
    ),
    (logger, "logger", Kept, "file: kept\n"),
]


def test_one_class_and_one_yaml_file_each(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each group one, all trained with together."""
    for module, group, kind, values in ADDED:
        monkeypatch.setattr(module, "OPTIONS", (*module.OPTIONS, kind))
        file = tmp_path / "conf" / group / f"{kind.NAME}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"defaults:\n  - /hydra/schema/{group}/{kind.NAME}@_here_\n{values}")
    chosen = [f"{group}={kind.NAME}" for _, group, kind, _ in ADDED]
    tiny = [o for o in TINY if not o.startswith(("data", "model"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "step", lambda *of: os.kill(os.getpid(), signal.SIGTERM))
        stopped = program(f"--config-dir={tmp_path / 'conf'}", *chosen, *tiny, "trainer.epochs=8")
        assert stopped.code == 128 + signal.SIGTERM
    outcome = program(f"--config-dir={tmp_path / 'conf'}", *chosen, *tiny, "trainer.epochs=8")
    assert outcome.code == 0, outcome.err
    assert "resumed at epoch 1 of 8, step 1 of 4" in outcome.out
    (directory,) = (tmp_path / "outputs").glob("*/seed=0")
    parts = directory.parent.name.rpartition("-")[0].split("_")
    assert set(parts) >= {"stripes", "noise", "linear", "shift", "sign", "linearly"}
    record = json.loads((directory / "run.json").read_text())
    assert record["config"]["data.thickness"] == 4
    assert record["multiply_accumulates"] == 16 * (8 * 8 * 3 * 4) + 16 * 4 * 2
    assert record["final"]["accuracy/val"] == 1.0  # lying and standing are told apart
    assert record["final"]["lr"] == pytest.approx(0.01 / 32)
    assert record["final"]["weight_norm/train"] > 0
    told = (tmp_path / "kept").read_text().splitlines()
    assert len(told) == 8
    assert told[-1] == f"{directory.relative_to(tmp_path / 'outputs')} 1.0"
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(tmp_path / "conf"))
    for some, label in (
        (["data=stripes", "trainer.batch_size=8", "data.thickness=8"], "stripes_bs8_thickness8"),
        (["augmentation=noise"], "noise_crop_padding0_flip_probability0_strength0.1"),
        (["regularization=temperate"], "temperate_temperature2"),
    ):
        assert f"ep_{label}-" in cell_name(compose(some))
    # The same command finds its run: the options of this process name and read it.
    again = program(f"--config-dir={tmp_path / 'conf'}", *chosen, *tiny, "trainer.epochs=8")
    assert "completed before, skipped" in again.out


@dataclass
class Extended(Regularization):
    """An existing part, with a field of each type that is added when runs exist."""

    gate: bool = added(False)
    ramp: float = added(0.0)
    depth2: int = added(1)
    shape: str = added("plain")
    cap: float | None = added(None)
    stages: list[int] = added([])  # noqa: RUF009


# Of each field another value, the part of a label that says so, and the difference in words.
FIELDS = {
    "gate": ("true", "gate", "gate true − false"),
    "ramp": ("0.5", "ramp0.5", "ramp 0.5 − 0"),
    "depth2": ("3", "depth2=3", "depth2 3 − 1"),
    "shape": ("/a b", "shape=a-b", "shape /a b − plain"),
    "cap": ("2.5", "cap2.5", "cap 2.5 − no cap"),
    "stages": ("[3,4]", "stages=3-4", "stages \\[3,4\\] − \\[\\]"),
}


def test_a_field_that_is_added_is_in_labels_lists_and_reports_and_spoils_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A field declared by `added` in an existing class, its value in YAML, and nothing else."""
    monkeypatch.chdir(tmp_path)
    base = ["data=synthetic", "model.width=8", "trainer.epochs=3"]
    before = {make_run(tmp_path / "runs", base, seed, 0.5 + seed / 100).parent for seed in (0, 1)}
    assert len(before) == 1
    monkeypatch.setattr(regularization, "OPTIONS", (Extended,))
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(tmp_path / "own"))
    file = tmp_path / "own" / "regularization" / "none.yaml"
    file.parent.mkdir(parents=True)
    usual = "gate: false\nramp: 0\ndepth2: 1\nshape: plain\ncap: null\nstages: []\n"
    file.write_text(f"{(CONF / 'regularization' / 'none.yaml').read_text()}\n{usual}")
    assert {make_run(tmp_path / "runs", [*base, "seed=2"], 2, 0.52).parent} == before
    for field, (value, part, _) in FIELDS.items():
        for seed in range(3):
            override = f"regularization.{field}={value}"
            directory = make_run(tmp_path / "runs", [*base, override], seed, 0.7 + seed / 100)
        (old,) = before
        assert re.sub("-[^-]{8}$", "", directory.parent.name) == f"{old.name[:-9]}_{part}"
    capsys.readouterr()
    assert main(["runs", "runs"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert set(table[0].split()) >= FIELDS.keys()
    assert main(["report", "runs", "--to", "after", "--quiet"]) == 0
    report = Path("after/report.md").read_text(encoding="utf-8")
    for field, (_, _, difference) in FIELDS.items():
        assert difference in report
        (curves,) = Path("after/figures").glob(f"curves-by-regularization.{field}-*.svg")
        assert len(re.findall(field, curves.name)) == 1
        others = FIELDS.keys() - {field}
        assert not any(other in curves.name for other in others)
        assert f"{field} " in curves.read_text(encoding="utf-8")
    assert "synthetic data, width 8, 3 epochs, val size 2000: highest is " in report


QUICK = ("data", "model", "trainer")
REST = [
    pytest.param(group, marks=pytest.mark.soak)
    for group in sorted(PARTS.keys() - {*QUICK, "logger"})
]


@pytest.mark.parametrize("group", [*QUICK, *REST])
def test_a_field_that_is_added_to_any_part_is_compared(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every group, to its first kind; of data it makes a setting, which names it."""
    module = sys.modules[PARTS[group].__module__]
    kind = next(kind for kind in module.OPTIONS if issubclass(kind, PARTS[group]))
    extended = make_dataclass("Extended", [("own", float, added(0.0))], bases=(kind,))
    kinds = tuple(extended if each is kind else each for each in module.OPTIONS)
    schema = f"/hydra/schema/{group}/{kind.NAME}@_here_"
    (plain,) = (path for path in (CONF / group).iterdir() if schema in path.read_text())
    base = [f"optimizer.lr=0.0{list(PARTS).index(group) + 1}", "trainer.epochs=3"]
    old = make_run(tmp_path / "runs", base).parent
    monkeypatch.setattr(module, "OPTIONS", kinds)
    monkeypatch.setenv("RESNET_CIFAR_CONFIG_DIR", str(tmp_path / "own"))
    (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "own" / group / plain.name).write_text(f"{plain.read_text()}\nown: 0\n")
    new = make_run(tmp_path / "runs", [*base, f"{group}.own=0.5"]).parent
    assert new.name[:-9] == f"{old.name[:-9]}_own0.5"
    assert make_run(tmp_path / "runs", [*base, "seed=1"], 1).parent == old
    found = group_by_question(load_runs(tmp_path / "runs"), [])
    if group == "data":
        assert sorted("own 0.5" in each.setting for each in found) == [False, True]
        assert sorted("own" in each.setting for each in found) == [False, True]
    else:
        (asked,) = found
        assert list(asked.labels.values()) == ["own 0", "own 0.5"]
        assert "own" not in asked.setting


def test_a_metric_of_one_s_own_is_claimed_shown_and_evaluated(
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line in `score`, one entry of a file."""
    plain = step.score

    def more(logits: Tensor, labels: Tensor) -> dict[str, float]:
        best = logits.topk(5).indices == labels[:, None]
        norm = logits.norm().item()
        return {
            **plain(logits, labels),
            "accuracy_top5": best.sum().item() / len(labels),
            "n": norm,
        }

    monkeypatch.setattr(step, "score", more)
    cells = ("optimizer.lr=0.001", "optimizer.lr=0.3")
    for cell in cells:
        for seed in range(3):
            assert program(*TINY, cell, f"seed={seed}", "trainer.epochs=1").code == 0
    claim = """
    - claim: {metric}
      metric: {metric}
      pairs: [[{{optimizer.lr: 0.3}}, {{optimizer.lr: 0.001}}]]"""
    metrics = ("accuracy_top5/val", "n/val", "accuracy_top5/vla")
    Path("mine.yaml").write_text(
        "mine:\n  question: Own?\n  where: {}\n  vary: [optimizer.lr]\n  claims:"
        + "".join(claim.format(metric=metric) for metric in metrics)
    )
    arguments = ["--questions", "mine.yaml", "--to", "report", "--quiet"]
    assert main(["report", "outputs", *arguments]) == 0
    report = Path("report/report.md").read_text(encoding="utf-8")
    assert re.search(r"- accuracy_top5/val\..* points \(n\s=\s3\)", report)
    assert re.search(r"- n/val\..*: [+−][\d.]+\s±\s[\d.]+ \(n\s=\s3\)", report)
    assert re.search("no run has accuracy_top5/vla; there is .*accuracy_top5/val[,.; ]", report)
    heads = next(line for line in report.splitlines() if line.startswith("| lr | n |"))
    assert heads.endswith("| accuracy_top5/val\xa0% | n/val |")
    (cells_table,) = Path("report/tables").glob("cells-mine-*.csv")
    frame = pd.read_csv(cells_table)
    runs = load_runs("outputs")
    for metric in metrics[:2]:
        means = runs.groupby("optimizer.lr")[metric].mean()
        assert list(frame[metric]) == pytest.approx(list(means))
        judged = pd.read_csv("report/tables/claims.csv")
        (row,) = judged[judged["claim"] == metric].itertuples()
        assert row.difference == pytest.approx(means[0.3] - means[0.001])
        assert row.n == 3
        assert not math.isnan(row.p)
    assert metrics[0] in pd.read_csv("report/tables/runs.csv")
    capsys.readouterr()
    (run,) = Path("outputs").glob("lr0.3*/seed=0")
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    (heads,) = (line for line in said.splitlines() if line.startswith("view "))
    (values,) = (line for line in said.splitlines() if line.startswith("val  "))
    scores = read_metrics(run / "metrics.jsonl")[-1]
    assert re.split("  +", heads)[4:6] == ["accuracy top5 %", "n"]
    shown = [f"{100 * scores['accuracy_top5/val']:.2f}", f"{scores['n/val']:.4f}"]
    assert values.split()[4:6] == shown


def test_a_claim_is_an_entry_of_a_file(tmp_path: Path) -> None:
    """A question with what is expected of its cells; the report judges it."""
    (tmp_path / "mine.yaml").write_text(
        "momentum:\n"
        "  question: Does momentum pay?\n"
        "  where: {scheduler: constant}\n"
        "  vary: [optimizer.momentum]\n"
        "  claims:\n"
        "    - claim: momentum 0.9 ends above none\n"
        "      pairs: [[{optimizer.momentum: 0.9}, {optimizer.momentum: 0.0}]]\n"
    )
    for seed in range(3):
        make_run(tmp_path / "runs", ["cell=lr_0.01"], seed, 0.8 + 0.001 * seed)
        make_run(tmp_path / "runs", ["cell=lr_0.01", "optimizer.momentum=0"], seed, 0.6)
    arguments = ["--questions", str(tmp_path / "mine.yaml"), "--to", str(tmp_path / "report")]
    assert main(["report", str(tmp_path / "runs"), "--quiet", *arguments]) == 0
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Does momentum pay?" in report
    assert any("momentum 0.9 ends above none" in x and "holds" in x for x in report.splitlines())


def test_a_launcher_s_settings_are_a_yaml_file(program: Program, tmp_path: Path) -> None:
    """Seen from its refusal: nothing has to run."""
    file = tmp_path / "conf" / "hydra" / "launcher" / "night.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults:\n  - local\nminutes: -1\n")
    outcome = program(f"--config-dir={tmp_path / 'conf'}", "-m", *TINY, "hydra/launcher=night")
    assert outcome.code == 2
    assert "hydra.launcher.minutes=-1" in outcome.err


ODD = """
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

from resnet_cifar.identity import execution
from resnet_cifar.optim.optimizer import SGD

Color = Enum("Color", "RED BLUE")


@dataclass
class Block:
    width: int


@dataclass
class Odd(SGD):
    NAME: ClassVar[str] = "odd"
    x: {hint}

    def __post_init__(self) -> None:
        self.x = {made}
"""


@pytest.mark.parametrize(
    ("hint", "value", "made", "said"),
    [
        ("Path", "a/b", "self.x", "optimizer.x=PosixPath('a/b')"),
        ("Path = execution()", "a/b", "self.x", "optimizer.x=PosixPath('a/b')"),
        ("list[Path]", "[a]", "self.x", "optimizer.x=[PosixPath('a')]"),
        ("Color", "RED", "self.x", "optimizer.x=<Color.RED: 1>"),
        ("dict[Color, int]", "{RED: 1}", "self.x", "optimizer.x={<Color.RED: 1>: 1}"),
        ("bytes", "!!binary YQ==", "self.x", "optimizer.x=b'a'"),
        ("Block", "{width: 1}", "self.x", "optimizer.x=Block(width=1)"),
        ("list[float]", "[.nan]", "self.x", "optimizer.x=[nan]"),
        ("dict[str, Any]", "{a: [.inf]}", "self.x", "optimizer.x={'a': [inf]}"),
        ("dict", "{a: 1, 2: 1}", "self.x", "optimizer.x={'a': 1, 2: 1}"),
        ("int", "1", "{1, 2}", "optimizer.x={1, 2}"),
        ("Literal['a']", "a", "self.x", "Odd.x is of the type Literal[a], which no option can"),
        ("set[int]", "[1]", "self.x", "Odd.x is of the type set[int], which no option can have"),
        ("date", "2026-01-01", "self.x", "Odd.x is of the type date, which no option can have"),
        ("float", "0.5", "2 * self.x", "optimizer.x=1.0: must be what config.yaml gives"),
    ],
)
def test_a_value_that_would_not_come_back_is_refused_before_anything_is_written(
    program: Program, tmp_path: Path, hint: str, value: str, made: str, said: str
) -> None:
    folder = tmp_path / "own"
    (folder / "optimizer").mkdir(parents=True)
    (folder / f"odd{zlib.crc32(hint.encode() + made.encode())}.py").write_text(
        ODD.format(hint=hint, made=made)
    )
    (folder / "optimizer" / "odd.yaml").write_text(
        "defaults:\n  - /hydra/schema/optimizer/odd@_here_\n"
        f"lr: 0.1\nmomentum: 0.0\ndampening: 0.0\nnesterov: false\nx: {value}\n"
    )
    outcome = program(f"--config-dir={folder}", *TINY, "optimizer=odd")
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_a_record_that_its_reader_refuses_is_refused_before_anything_is_written(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "multiply_accumulates", lambda *of: 0.5)
    monkeypatch.setattr(model_options.ResNet18, "multiply_accumulates", lambda *of: 0.5)
    outcome = program(*TINY)
    assert outcome.code == 2
    assert "run.json could not be read back: multiply_accumulates=0.5: must" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [97.3, True, "high", [0.5], {}])
def test_a_metric_that_no_reader_takes_ends_the_first_epoch(
    program: Program, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(OptimizerStep, "metrics", lambda self: {"accuracy/top3": value})
    outcome = program(*TINY)
    assert outcome.code == 1
    assert f"metrics.jsonl can't hold this: epoch 1: accuracy/top3={value!r} is not" in outcome.err
    (directory,) = Path("outputs").glob("*/seed=0")
    record = read_record(directory)
    assert record is not None
    assert (record.status, record.epochs_done) == ("failed", 0)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_a_metric_may_be_numpys_or_torchs_number(
    program: Program, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(OptimizerStep, "metrics", lambda self: {"accuracy/top3": value})
    assert program(*TINY).code == 0
    (directory,) = Path("outputs").glob("*/seed=0")
    assert read_metrics(directory / "metrics.jsonl")[-1]["accuracy/top3"] == 0.5


@pytest.mark.parametrize("lacking", [lambda package: None, {}.__getitem__])
def test_a_package_may_lack_its_version(
    program: Program, monkeypatch: pytest.MonkeyPatch, lacking: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(provenance, "version", lacking)
    assert program(*TINY).code == 0
    (directory,) = Path("outputs").glob("*/seed=0")
    assert read_record(directory) is not None
