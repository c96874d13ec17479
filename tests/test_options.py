"""Options beyond the study's own: each against an independent computation, and trained with."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Program, Trained
from test_run import interrupt_at
from torch import Tensor, nn

from resnet_cifar.__main__ import main
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import (
    TRAINING,
    Augmentation,
    AugmentationDraw,
    CropFlip,
    Cutout,
    NoAugmentation,
    generator,
)
from resnet_cifar.data.datasets import THE_STUDYS, Images
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import UserError
from resnet_cifar.identity import run_directory
from resnet_cifar.model.options import Model, ResNet18, ResNet34
from resnet_cifar.optim.scheduler import Milestones

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "option",
    ["augmentation=none", "augmentation=cutout", "scheduler=milestones", "model=resnet34"],
)
def test_an_option_trains(program: Program, option: str) -> None:
    more = ["scheduler.milestones=[1]"] if "milestones" in option else []
    outcome = program(*TINY, option, *more)
    assert outcome.code == 0, outcome.err
    assert "completed" in outcome.out


STEP, MILESTONES, CYCLE = (f"scheduler={name}" for name in ("step", "milestones", "one_cycle"))
# At two epochs of four updates: values without effect, whose line it is, and a run of their bits.
IDLE = [
    (STEP, "scheduler=step: must be constant: Step(warmup_epochs=0.0, step_size=100", ""),
    (f"{STEP} scheduler.step_size=2", "step_size=2, gamma=0.1) is constant over", ""),
    (f"{STEP} scheduler.step_size=1 scheduler.gamma=1", "gamma=1.0) is constant", ""),
    (f"{STEP} trainer.epochs=1", "is constant over trainer.epochs=1", "trainer.epochs=1"),
    (MILESTONES, "milestones=[150, 225], factor=0.1) is constant over trainer.epochs=2", ""),
    (f"{MILESTONES} scheduler.milestones=[2]", "milestones=[2], factor=0.1) is constant", ""),
    (f"{MILESTONES} scheduler.milestones=[1] scheduler.factor=1", "factor=1.0) is constant", ""),
    ("scheduler=cosine scheduler.eta_min=0.01", "scheduler=cosine: must be constant", ""),
    (
        f"{CYCLE} scheduler.div_factor=1 scheduler.final_div_factor=1",
        "scheduler=one_cycle: must be constant",
        "",
    ),
    (f"{STEP} scheduler.warmup_epochs=1", "is constant over", "scheduler.warmup_epochs=1"),
    (
        "optimizer.momentum=0 optimizer.dampening=0.5",
        "optimizer.dampening=0.5: must be 0: it has no effect beside optimizer=sgd, opt",
        "optimizer.momentum=0",
    ),
    ("regularization.decay_norm_and_bias=false", "decay_norm_and_bias=False: must be true", ""),
    (
        "augmentation.crop_padding=0 augmentation.flip_probability=0",
        "augmentation=crop_flip: must be",
        "augmentation=none",
    ),
]
FELT = [
    *("scheduler=cosine trainer.epochs=1", "scheduler=constant", "optimizer.momentum=0"),
    *(f"{STEP} scheduler.step_size=1", f"{MILESTONES} scheduler.milestones=[1,225]"),
    *("scheduler=cosine scheduler.eta_min=0.02", "scheduler.warmup_epochs=0.4"),
    *(f"{CYCLE} scheduler.div_factor=1", f"{CYCLE} scheduler.final_div_factor=1"),
    *("optimizer.dampening=0.5", "augmentation.crop_padding=0", "augmentation.flip_probability=0"),
    "regularization.decay_norm_and_bias=false regularization.weight_decay=0.1",
    *(f"augmentation={kind} augmentation.crop_padding=0 augmentation.flip_probability=0"
      for kind in ("cutout", "mixup")),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), [(options, said) for options, said, _ in IDLE])
def test_a_value_without_effect_is_refused(program: Program, options: str, said: str) -> None:
    for more in ((), ("-m",), ("--plan",)):
        outcome = program(*TINY, *options.split(), *more)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert said in outcome.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("options", FELT)
def test_a_value_with_an_effect_is_not(options: str) -> None:
    compose([*TINY, *options.split()]).check_new(Path("new"))


def bits(trained: Trained, options: str) -> list[str]:
    """The metrics of a run, without speeds and the rate that is only noted."""
    lines = (trained(*options.split()) / "metrics.jsonl").read_text().splitlines()
    return [re.sub(r'"speed/\w+": [^,}]+,?', "", line) for line in lines]


@pytest.mark.soak
@pytest.mark.parametrize(("options", "same"), [(options, same) for options, _, same in IDLE])
def test_without_effect_means_the_same_bits(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, options: str, same: str
) -> None:
    monkeypatch.setattr(Config, "check_new", lambda *of: None)
    assert bits(trained, options) == bits(trained, same)


@pytest.mark.soak
@pytest.mark.parametrize("options", [each for each in FELT if "=constant" not in each])
def test_an_effect_means_other_bits(trained: Trained, options: str) -> None:
    short = "trainer.epochs=1" in options
    assert (bits(trained, options) == bits(trained, "trainer.epochs=1" if short else "")) == short


def test_a_run_that_is_begun_goes_on_without_effect(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an earlier version began is resumed, skipped, planned, swept over and evaluated."""
    options = [*TINY, STEP]
    with monkeypatch.context() as before:
        before.setattr(Config, "check_new", lambda *of: None)
        interrupt_at(before, 2, 1, signal.SIGTERM)
        assert program(*options).code == 143
    run = run_directory(compose(options))
    assert "resumed" in program(*options).out
    assert "completed before, skipped" in program(*options).out
    for more in (["--plan"], ["-m", "seed=0"]):
        assert program(*options, *more).code == 0
    assert program(*options, "-m", "seed=0,1").code == 2  # the second would be new
    for command in (["evaluate", run], ["runs", "verify", "outputs"], ["runs", "command", run]):
        assert main([str(each) for each in command]) == 0
    assert program(*options, "rerun=true").code == 0


def images(count: int) -> Images:
    source = np.random.default_rng(0)
    pixels = source.integers(1, 255, (count, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, source.integers(0, 10, count), np.arange(count))


def batch(
    data: Images, augmentation: Augmentation, draws: AugmentationDraw
) -> tuple[Tensor, Tensor]:
    """All that is drawn."""
    on_device = DeviceImages(data, THE_STUDYS, augmentation, CPU)
    return on_device.batch(on_device.view(draws), slice(None))


def test_no_augmentation_is_the_images_in_a_drawn_order() -> None:
    none, data = NoAugmentation(), images(40)
    draws = none.draws(3, TRAINING, 2, 40)
    assert torch.equal(draws.order, CropFlip(4, 0.5).draws(3, TRAINING, 2, 40).order)
    x, y = batch(data, none, draws)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in THE_STUDYS)
    for position, i in enumerate(draws.order.tolist()):
        plain = torch.from_numpy(data.pixels[i]).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(x[position], (plain - mean) / std, rtol=1e-5, atol=1e-5)
        assert y[position] == data.labels[i]


@pytest.mark.parametrize("size", [1, 7, 16])
def test_cutout_is_crop_and_flip_with_a_square_of_zeros(size: int) -> None:
    data, plain, cut = images(200), CropFlip(4, 0.5), Cutout(4, 0.5, size)
    a, b = plain.draws(1, TRAINING, 1, 200), cut.draws(1, TRAINING, 1, 200)
    assert torch.equal(a.offset, b.offset)
    assert torch.equal(a.flip, b.flip)
    x, _ = batch(data, plain, a)
    z, _ = batch(data, cut, b)
    source = generator(1, "augmentation/cutout", 1)
    centres = torch.randint(0, 32, (200, 2), generator=source).tolist()
    for position, (row, column) in enumerate(centres):
        expected = x[position].clone()
        top, left = row - size // 2, column - size // 2
        expected[:, max(0, top) : top + size, max(0, left) : left + size] = 0
        assert torch.equal(z[position], expected)
    clean = cut.clean(200)
    assert torch.equal(batch(data, cut, clean)[0], batch(data, plain, clean)[0])


def test_milestones_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.3)
    ours = Milestones(warmup_epochs=0.0, milestones=[2, 5], factor=0.3).build(0.1, 8, 10)
    for epoch in range(8):
        for step in range(10):
            assert ours(10 * epoch + step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("value", ["[3,1]", "[2,2]", "[]", "[0,3]", "[a]", "3"])
def test_milestones_rise(program: Program, value: str) -> None:
    outcome = program("scheduler=milestones", f"scheduler.milestones={value}")
    assert outcome.code == 2
    assert "scheduler.milestones" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("kind", [ResNet18, ResNet34])
@pytest.mark.parametrize("width", [1, 8])
def test_a_formula_gives_what_counting_gives(kind: type[ResNet18], width: int) -> None:
    option = kind(width)
    assert option.multiply_accumulates(7) == Model.multiply_accumulates(option, 7)  # counted


def test_resnet34_has_its_parameters() -> None:
    with torch.device("meta"):
        net = ResNet34(64).build(nn.BatchNorm2d, 1000)
    # torchvision's, 21,797,672 with a thousand classes, has a 7 × 7 stem.
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters == 21_797_672 - 64 * 3 * (49 - 9)


def test_a_link_that_leads_nowhere_among_the_data_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").symlink_to(tmp_path / "nothing")
    data = compose([f"data.root={tmp_path}", "data.download=false"]).data
    with pytest.raises(UserError, match=r"damaged or incomplete \(found data_batch_1\)"):
        data.prepare()  # as a sweep does, before its first run


def test_cifar100(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up files of its format, their checksums put in place of the original's."""
    from torchvision.datasets import CIFAR100

    original = compose(["data=cifar100"]).data
    assert original.training_images == 40_000
    names = list(original.CLASSES)
    assert names == sorted(names)  # the order of the original's labels
    monkeypatch.setattr("resnet_cifar.data.datasets.Cifar.ORIGINAL", 1100)
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    source = np.random.default_rng(0)
    sums = {}
    contents = {"meta": {"fine_label_names": names}}
    for name, count in (("train", 1100), ("test", 200)):
        pixels = source.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [i % 100 for i in range(count)]
        contents[name] = {"data": pixels, "fine_labels": labels}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    meta = {**CIFAR100.meta, "md5": sums["meta"]}
    monkeypatch.setattr(CIFAR100, "meta", meta)
    tiny = [o for o in TINY if not o.startswith("data")]
    outcome = program(*tiny, "data=cifar100", "data.val_size=100", "data.download=false")
    assert outcome.code == 0, outcome.err
    (directory,) = (tmp_path / "outputs").glob("*_cifar100_*/seed=0")
    record = json.loads((directory / "run.json").read_text())
    assert record["final"]["loss/val"] == pytest.approx(np.log(100), rel=0.2)
    with np.load(directory / "predictions.npz") as stored:
        assert stored["logits_val"].shape == (100, 100)
    assert len(names) == 100
