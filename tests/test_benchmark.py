"""The benchmark's command, and that what it compares is the same training."""

import json
import multiprocessing
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from scipy import stats
from torch import nn

from benchmarks import __main__ as benchmark
from benchmarks import peers, plain
from benchmarks.contenders import Contender, Process
from resnet_cifar.compute import device
from resnet_cifar.compute.step import score_views, update
from resnet_cifar.config.compose import compose
from resnet_cifar.data import datasets, synthetic
from resnet_cifar.data.augmentation import TRAINING, CropFlip, generator
from resnet_cifar.data.datasets import THE_STUDYS
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import UserError
from resnet_cifar.optim.optimizer_step import OptimizerStep
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

AUGMENTATION = CropFlip(4, 0.5)

CPU = torch.device("cpu")
TINY_COMMAND = [
    "--data=synthetic", "--width=2", "--batch-size=16", "--device=cpu", "--threads=1",
    "--seconds=0.1", "--rounds=2", "--workers=1", "--precision=fp32",
]  # fmt: skip


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "SYNTHETIC", ("data.train_size=64", "data.val_size=32"))
    out = tmp_path / "new" / "benchmark.json"
    code = benchmark.main([*TINY_COMMAND, "--peers", f"--out={out}"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert not multiprocessing.active_children()

    found = json.loads(out.read_text())
    assert set(found["contenders"]) == {"engine", "plain, 1 workers"}
    rates = {name: v["images_per_second"] for name, v in found["contenders"].items()}
    assert all(len(rate) == 2 and min(rate) > 0 for rate in rates.values())
    assert found["ratio"]["rounds"] == pytest.approx(
        [a / b for a, b in zip(rates["engine"], rates["plain, 1 workers"], strict=True)]
    )
    assert found["ratio"]["median"] == pytest.approx(np.median(found["ratio"]["rounds"]))
    for contender in found["contenders"].values():
        assert min(contender["peak_memory_bytes"]) > 50e6  # PyTorch alone is more
        assert contender["first_step_seconds"] > 0
    flops = 6 * found["multiply_accumulates"] * np.array(rates["engine"])
    shares = flops / found["contenders"]["engine"]["matmul_flops_per_second"]
    assert found["share_of_matmul_rate"]["rounds"] == pytest.approx(list(shares))

    assert found["command"].startswith("python -m benchmarks --data=synthetic --width=2 ")

    epoch = found["epoch"]
    whole = epoch["whole_epoch_seconds"]
    assert min(whole.values()) > 0
    assert set(whole) == {"steps", "validation", "records and checkpoint"}
    steps, validation = (epoch["seconds"][part] for part in ("steps", "validation"))
    assert whole["steps"] == pytest.approx(steps * 64 / epoch["train_images"])
    assert whole["validation"] == pytest.approx(validation * 32 / epoch["val_images"])

    assert f"**Ratio, engine over plain, 1 workers: {found['ratio']['median']:.2f}" in said.out


@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("name", peers.RECIPES)
def test_another_recipe_trains_the_same_network(
    name: str,
) -> None:
    """One step at a time, for longer than an epoch."""
    pytest.importorskip("torch" if name == "plain" else name)
    small = ["data=synthetic", "data.train_size=200", "data.val_size=100", "model.width=8"]
    config = compose([*small, "trainer.batch_size=20", "trainer.threads=1"])
    one = peers.RECIPES[name](config, config.data.load(), device.resolve(config.trainer), 0)
    before = {key: value.clone() for key, value in one.model.state_dict().items()}
    steps = one.steps()
    assert [next(steps) for _ in range(11)] == [20] * 11
    steps.close()
    after = one.model.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert after["norm.num_batches_tracked"] == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seconds 0", "--seconds=0.0: must be above 0"),
        ("--seconds inf", "--seconds=inf: must be"),
        ("--seconds nan", "--seconds=nan: must be"),
        ("--rounds 0", "--rounds=0: must be 1 or more"),
        ("--rounds x", "argument --rounds: invalid int value: 'x'"),
        ("--workers 2 0", "--workers=0: must be 1 or more"),
        ("--workers x", "argument --workers: invalid int value: 'x'"),
        ("--workers", "argument --workers: expected at least one argument"),
        ("--data mnist", "argument --data: invalid choice: 'mnist'"),
        ("--out", "argument --out: expected one argument"),
        ("--width 0", "model.width=0: must be 1 to 1024"),
        ("--width x", "model.width=x: must be a whole number"),
        ("--batch-size 1", "trainer.batch_size=1: must be 2 or more"),
        ("--threads -1", "trainer.threads=-1: must be"),
        ("--precision fp8", "trainer.precision=fp8: must be"),
        ("--device tpu", "trainer.device=tpu: must be"),
        ("--compile perhaps", "trainer.compile=perhaps: must be"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data=synthetic", f"--out={tmp_path / 'b.json'}", *arguments.split()]
    assert benchmark.main(command) in (1, 2)
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_a_contender_that_cannot_be_built_says_why() -> None:
    compute = device.resolve(compose(TINY).trainer)
    with pytest.raises(UserError, match=r"broken: .*model.width=0"):
        Process(Contender("broken", ("model.width=0",), compute))
    assert not multiprocessing.active_children()


def drawn(count: int, stream: str = "train") -> datasets.Images:
    return datasets.Images(*synthetic.draw(count, 0, stream), np.arange(count))


def after_steps(
    fast: bool, dtype: torch.dtype, steps: int, layout: torch.memory_format, smooth: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the last update over lr (SGD's momentum), float64 vectors, on given batches.

    Args:
        smooth: softplus in place of every ReLU.
    """
    config = compose([*TINY, "model.width=8", "regularization.weight_decay=5e-4"])
    compute = device.resolve(compose(TINY).trainer)
    torch.manual_seed(0)
    model = config.model.build(config.norm.build, 10).to(dtype)
    for module in list(model.modules()) if smooth else []:
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    groups = config.regularization.parameter_groups(model)
    optimizer = config.optimizer.build(groups, fused=fast)
    images = DeviceImages(drawn(32 * steps), THE_STUDYS, AUGMENTATION, CPU, torch.contiguous_format)
    view = images.view(AUGMENTATION.draws(0, TRAINING, 1, len(images)))
    batches = [images.batch(view, slice(32 * step, 32 * (step + 1))) for step in range(steps)]
    batches = [(x.to(dtype), y) for x, y in batches]
    if fast:
        model.to(memory_format=layout)
        for x, y in batches:
            x = x.contiguous(memory_format=layout)
            update(x, y, model, config.regularization.loss(), OptimizerStep(optimizer), compute)
    else:
        assert len(list(plain.epoch(model, batches, optimizer, CPU))) == steps
    momentum = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    weights = [p.detach() for p in model.parameters()]
    return vector(weights), vector(momentum)


def vector(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])


@pytest.mark.parametrize(
    ("dtype", "layout", "smooth", "steps", "tolerance"),
    [
        (torch.float32, torch.contiguous_format, False, 1, 1e-5),
        # In channels_last other sums are rounded. On the CPU a channel's statistics are off by 2e-6
        # of the output (float32's eps times the values that one sum takes in turn), in each of 20
        # norm layers: 4e-5. A ReLU would make more of it: one in a million flips, or none, which
        # differs by machine and is worth 1e-3 to 1e-2 of the update. A smooth function has no such
        # place; float64 has it too seldom to matter.
        (torch.float32, torch.channels_last, True, 1, 4e-5),
        (torch.float64, torch.channels_last, False, 1, 1e-12),
        (torch.float64, torch.channels_last, False, 4, 1e-12),
    ],
)
def test_an_update_of_the_engine_is_one_of_the_plain_recipe(
    dtype: torch.dtype, layout: torch.memory_format, smooth: bool, steps: int, tolerance: float
) -> None:
    """Relative, in the L2 norm, on the same batches; both weights and update."""
    ours = after_steps(True, dtype, steps, layout, smooth)
    theirs = after_steps(False, dtype, steps, torch.contiguous_format, smooth)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


def test_both_see_the_same_pixels() -> None:
    images = drawn(20)
    device_images = DeviceImages(images, THE_STUDYS, AUGMENTATION, CPU)
    x, y = device_images.batch(device_images.view(AUGMENTATION.clean(20)), slice(20))
    (batch,) = plain.loader(images, plain.clean(THE_STUDYS), 20, 0, shuffle=False, device=CPU)
    torch.testing.assert_close(x.contiguous(), batch[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(y, batch[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_one_host_sync_an_epoch(compiled: str, tmp_path: Path) -> None:
    """The one that reads the epoch's sums. The first epochs compile, capture and tune."""
    config = compose([*TINY, "trainer.device=cuda", f"trainer.compile={compiled}"])
    compute = device.resolve(config.trainer)
    with device.settings(compute, deterministic=False), Display("quiet") as display:
        engine = assemble(config, tmp_path, compute, config.data.load(), display, Interrupt())
        for epoch in (1, 2, 3):
            engine.train_epoch(epoch)
            engine.state.step = 0
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.train_epoch(4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            engine.recorder.end("completed")
    syncs = [w for w in caught if "synchronizing" in str(w.message)]
    assert len(syncs) == 1


# When so narrow a net leaves chance depends on the order of its images: with this many an epoch
# that is over before the first point of the curve, and the seeds differ little.
CURVE = [
    "data=synthetic", "data.train_size=32768", "data.val_size=1000", "model.width=8",
    "optimizer.lr=0.02", "scheduler=cosine", "trainer.epochs=4", "trainer.batch_size=64",
    "trainer.augmented_val_every=4", "trainer.threads=1", "trainer.device=cpu",
    "trainer.compile=true", "trainer.precision=bf16",
]  # fmt: skip
SEEDS = range(6)
BOUNDS = {"accuracy/val": 0.05, "loss/train": 0.1}  # of a curve's mean over the epochs


def equivalence(differences: np.ndarray, bound: float) -> float:
    """p of the two one-sided t-tests (Schuirmann 1987): small where the mean is within ±bound."""
    low = stats.ttest_1samp(differences, -bound, alternative="greater").pvalue
    high = stats.ttest_1samp(differences, bound, alternative="less").pvalue
    return float(max(low, high))


def test_equivalence_is_not_the_absence_of_a_difference() -> None:
    noise = np.array([-0.02, -0.01, 0.0, 0.0, 0.01, 0.02])
    assert equivalence(noise, 0.05) < 0.05
    assert equivalence(noise + 0.05, 0.05) == pytest.approx(0.5)
    assert equivalence(noise - 0.1, 0.05) > 0.95
    assert equivalence(noise * 10, 0.05) > 0.05  # undecided is not equivalent


@pytest.mark.soak
def test_the_same_learning_curve(tmp_path: Path) -> None:
    """The fast path (bf16, compiled, augmenting on the device) and the plain recipe, n = 6 seeds.

    The two share their initial weights and nothing else: order, crops and flips are their own.
    Equivalent at 5 % within BOUNDS, in each.
    """
    curves: dict[str, list[np.ndarray]] = {key: [] for key in BOUNDS}
    for seed in SEEDS:
        fast = fast_curve(seed, tmp_path / str(seed))
        slow = plain_curve(seed)
        for key, pairs in curves.items():
            pairs.append(np.array([[epoch[key] for epoch in curve] for curve in (fast, slow)]))
    found = {}
    for key, bound in BOUNDS.items():
        both = np.array(curves[key])  # [seed, path, epoch]
        differences = (both[:, 0] - both[:, 1]).mean(1)
        found[key] = p = equivalence(differences, bound)
        print(
            f"{key} {both.mean(0).round(4).tolist()}: fast − plain {differences.mean():+.4f}, "
            f"sd {differences.std(ddof=1):.4f}, n = {len(differences)}, ±{bound}: p = {p:.2g}"
        )
    assert max(found.values()) < 0.05, found
    accuracy = np.array(curves["accuracy/val"])
    assert accuracy[:, :, -1].mean() > 0.9, "nothing learnt, nothing compared"


def fast_curve(seed: int, directory: Path) -> list[dict[str, float]]:
    config = compose([*CURVE, f"seed={seed}"])
    compute = device.resolve(config.trainer)
    directory.mkdir()
    found = []
    with device.settings(compute, deterministic=False), Display("quiet") as display:
        engine = assemble(config, directory, compute, config.data.load(), display, Interrupt())
        try:
            for epoch in range(1, config.trainer.epochs + 1):
                metrics = {"epoch": epoch, **engine.train_epoch(epoch)}
                metrics |= score_views(engine.validate(epoch), engine.val.labels)
                engine.finish_epoch(epoch, metrics)
                found.append(metrics)
        finally:
            engine.recorder.end("completed")
    return found


def plain_curve(seed: int) -> list[dict[str, float]]:
    config = compose([*CURVE, f"seed={seed}"])
    split = config.data.load()
    torch.random.set_rng_state(generator(seed, "initialisation").get_state())
    model = config.model.build(config.norm.build, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.optimizer.lr, momentum=0.9)
    transform = plain.augmented(THE_STUDYS, config.augmentation)
    size = config.trainer.batch_size
    train = plain.loader(split.train, transform, size, 0, shuffle=True, device=CPU)
    val = plain.loader(split.val, plain.clean(THE_STUDYS), 500, 0, shuffle=False, device=CPU)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.trainer.epochs)
    found = []
    for _ in range(config.trainer.epochs):
        steps = list(plain.epoch(model, train, optimizer, CPU))
        cosine.step()
        loss = sum(step.loss * step.images for step in steps) / len(split.train.labels)
        found.append({"loss/train": loss, "accuracy/val": accuracy(model, val)})
    return found


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    model.eval()
    hits = [model(x).argmax(1) == y for x, y in batches]
    return float(torch.cat(hits).float().mean())
