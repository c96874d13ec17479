"""Images on the device: the split, the draws, and crop and flip against torchvision's meaning."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

from resnet_cifar.config.compose import compose
from resnet_cifar.data import datasets
from resnet_cifar.data.augmentation import (
    PROBE,
    TRAINING,
    VALIDATION,
    Augmentation,
    CropFlip,
    Cutout,
    Mixup,
)
from resnet_cifar.data.datasets import THE_STUDYS
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import ConfigError

AUGMENTATION = CropFlip(4, 0.5)

CPU = torch.device("cpu")


def random_images(count: int) -> datasets.Images:
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return datasets.Images(pixels, source.integers(0, 10, count), np.arange(count))


def plain(pixels: np.ndarray, top: int, left: int, flip: bool, padding: int) -> torch.Tensor:
    """One image the way torchvision does it: pad, crop, flip, ToTensor, Normalize."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    image = F.pad(image, (padding,) * 4)[:, top : top + 32, left : left + 32]
    if flip:
        image = image.flip(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in datasets.THE_STUDYS)
    return (image.float() / 255 - mean) / std


@pytest.mark.parametrize("padding", [0, 4, 16])
def test_every_image_gets_its_own_crop_and_flip(padding: int) -> None:
    images = random_images(50)
    device_images = DeviceImages(images, THE_STUDYS, CropFlip(padding, 0.5), CPU)
    draws = CropFlip(padding, 0.5).draws(0, TRAINING, 3, 50)
    x, y = device_images.batch(device_images.view(draws), slice(10, 42))
    assert x.shape == (32, 3, 32, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for position in range(32):
        chosen = int(draws.order[10 + position])
        top, left = draws.offset[10 + position].tolist()
        expected = plain(images.pixels[chosen], top, left, bool(draws.flip[10 + position]), padding)
        torch.testing.assert_close(x[position], expected, rtol=1e-5, atol=1e-5)
        assert int(y[position]) == images.labels[chosen]
    if padding:
        assert len({tuple(o) for o in draws.offset.tolist()}) > 10


def test_the_clean_view_is_the_images() -> None:
    images = random_images(5)
    device_images = DeviceImages(images, THE_STUDYS, AUGMENTATION, CPU)
    x, y = device_images.batch(device_images.view(AUGMENTATION.clean(5)), slice(5))
    for position in range(5):
        expected = plain(images.pixels[position], 4, 4, False, 4)
        torch.testing.assert_close(x[position], expected, rtol=1e-5, atol=1e-5)
    assert y.tolist() == images.labels.tolist()


def test_draws_depend_on_seed_stream_and_epoch_alone() -> None:
    def key(draws) -> tuple:
        return tuple(t.numpy().tobytes() for t in (draws.order, draws.offset, draws.flip))

    first = CropFlip(4, 0.5).draws(0, TRAINING, 1, 1000)
    torch.randn(10)  # the global generator has no part in it
    assert key(CropFlip(4, 0.5).draws(0, TRAINING, 1, 1000)) == key(first)
    others = [
        CropFlip(4, 0.5).draws(1, TRAINING, 1, 1000),
        CropFlip(4, 0.5).draws(0, TRAINING, 2, 1000),
        CropFlip(4, 0.5).draws(0, VALIDATION, 1, 1000),
    ]
    assert len({key(draws) for draws in [first, *others]}) == 4
    assert len({draws.offset.numpy().tobytes() for draws in [first, *others]}) == 4


# The order, crops and flips of eight images, for (seed, epoch). They make a run what it is: every
# recorded run was trained on these, and pairs by seed with whatever is trained later.
FIXED = [
    (
        CropFlip(4, 0.5).draws(3, TRAINING, 5, 8),
        [2, 6, 4, 0, 1, 5, 3, 7],
        [8, 7, 8, 3, 2, 4, 2, 0, 2, 1, 5, 8, 6, 7, 6, 4],
        [0, 1, 0, 0, 0, 0, 0, 0],
    ),
    (
        CropFlip(4, 0.5).draws(3, VALIDATION, 5, 8),
        [0, 1, 2, 3, 4, 5, 6, 7],
        [5, 1, 5, 2, 5, 5, 0, 1, 6, 0, 0, 2, 1, 7, 7, 5],
        [1, 1, 1, 1, 1, 1, 1, 0],
    ),
    (
        CropFlip(4, 0.5).draws(3, PROBE, 0, 8),
        [3, 4, 6, 1, 7, 0, 5, 2],
        [4, 4, 3, 5, 7, 0, 0, 4, 2, 6, 3, 8, 2, 1, 2, 2],
        [1, 0, 1, 0, 0, 1, 0, 1],
    ),
    (
        CropFlip(4, 0.5).draws(0, TRAINING, 1, 8),
        [4, 6, 7, 0, 1, 3, 2, 5],
        [7, 0, 5, 2, 8, 2, 8, 8, 8, 4, 5, 0, 8, 2, 6, 8],
        [1, 1, 0, 0, 1, 1, 0, 0],
    ),
]


@pytest.mark.parametrize(("draws", "order", "offset", "flip"), FIXED)
def test_the_draws_are_what_recorded_runs_were_trained_on(draws, order, offset, flip) -> None:
    assert draws.order.tolist() == order
    assert draws.offset.flatten().tolist() == offset
    assert draws.flip.int().tolist() == flip


def test_a_flip_has_its_probability_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform draws lie in [0, 1), so below p, not at p."""
    drawn = torch.tensor([0.0, 0.25, 0.5, 0.75])
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: drawn)
    for probability, expected in ((0.0, [0, 0, 0, 0]), (0.5, [1, 1, 0, 0]), (1.0, [1, 1, 1, 1])):
        flips = CropFlip(4, probability).draws(0, TRAINING, 1, 4).flip
        assert flips.int().tolist() == expected


@pytest.mark.parametrize("make", [CropFlip, lambda *a: Cutout(*a, 8), lambda *a: Mixup(*a, 1.0)])
def test_padding_and_flips_have_their_ranges(make: Callable[[int, float], Augmentation]) -> None:
    """In every option that crops and flips."""
    for padding, flip in ((0, 0.0), (16, 1.0)):
        make(padding, flip)
    for padding in (-1, 17):
        with pytest.raises(ConfigError, match=rf"^augmentation\.crop_padding={padding}: .*0 to 16"):
            make(padding, 0.5)
    for flip in (-0.01, 1.01):
        with pytest.raises(ConfigError, match=rf"^augmentation\.flip_probability={flip}: .*0 to 1"):
            make(4, flip)


def test_only_training_s_images_are_mixed() -> None:
    mixup = Mixup(4, 0.5, 1.0)
    drawn = {stream: mixup.draws(0, stream, 1, 8) for stream in (TRAINING, VALIDATION, PROBE)}
    assert drawn[TRAINING].more.keys() == {"rank", "share"}
    assert not drawn[VALIDATION].more
    assert not drawn[PROBE].more
    # Streams of its own, too: crops and flips are crop_flip's, and the mixing another epoch's not.
    assert torch.equal(drawn[TRAINING].flip, CropFlip(4, 0.5).draws(0, TRAINING, 1, 8).flip)
    for other in (mixup.draws(0, TRAINING, 2, 8), mixup.draws(1, TRAINING, 1, 8)):
        assert not torch.equal(drawn[TRAINING].more["share"], other.more["share"])


def test_an_epoch_s_view_is_the_one_drawn_for_it() -> None:
    images = DeviceImages(random_images(20), THE_STUDYS, AUGMENTATION, CPU)
    x, y = images.batch(images.draw_view(3, VALIDATION, 5), slice(20))
    drawn = images.view(AUGMENTATION.draws(3, VALIDATION, 5, 20))
    assert torch.equal(x, images.batch(drawn, slice(20))[0])
    assert torch.equal(y, images.batch(drawn, slice(20))[1])


def test_draws_are_uniform() -> None:
    draws = CropFlip(4, 0.5).draws(0, TRAINING, 1, 81_000)
    assert torch.equal(draws.order.sort().values, torch.arange(81_000))
    counts = torch.bincount(draws.offset[:, 0] * 9 + draws.offset[:, 1], minlength=81).double()
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert 40 < chi_squared < 135  # 80 degrees of freedom: about one in 10,000 outside
    assert abs(float(draws.flip.double().mean()) - 0.5) < 0.008
    assert not CropFlip(4, 0.0).draws(0, TRAINING, 1, 100).flip.any()
    assert CropFlip(4, 1.0).draws(0, TRAINING, 1, 100).flip.all()


def test_the_flips_are_the_same_whatever_the_padding() -> None:
    a, b = CropFlip(4, 0.5).draws(0, TRAINING, 1, 100), CropFlip(0, 0.5).draws(0, TRAINING, 1, 100)
    assert torch.equal(a.flip, b.flip)
    assert torch.equal(a.order, b.order)


def test_split_permutation_is_fixed() -> None:
    order = datasets.split_permutation(50_000, 0)
    assert np.array_equal(np.sort(order), np.arange(50_000))
    digest = hashlib.sha256(order.tobytes()).hexdigest()[:16]
    assert digest == "102a4e5751951639"
    assert not np.array_equal(order, datasets.split_permutation(50_000, 1))


def test_synthetic_splits_are_disjoint_and_deterministic() -> None:
    config = compose(["data=synthetic", "data.train_size=300", "data.val_size=100"]).data
    split, again = config.load(), config.load()
    assert np.array_equal(split.train.pixels, again.train.pixels)
    assert split.train.pixels.shape == (300, 32, 32, 3)
    assert split.train.pixels.dtype == np.uint8
    test = config.load_test()
    seen = [{image.tobytes() for image in part.pixels} for part in (split.train, split.val, test)]
    assert len(seen[0] | seen[1] | seen[2]) == sum(map(len, seen))
    other = compose(["data=synthetic", "data.train_size=300", "data.split_seed=1"]).data.load()
    assert not np.array_equal(split.train.pixels, other.train.pixels)


def test_a_linear_model_does_not_learn_the_drawn_images() -> None:
    """Ridge regression on pixels. On all 10,000 images it gets 20 % right, a narrow net 90 %."""
    config = compose(["data=synthetic", "data.train_size=1500", "data.val_size=500"]).data
    train, val = config.load()
    x, held_out = (part.pixels.reshape(len(part.labels), -1) / 255 - 0.5 for part in (train, val))
    targets = np.eye(10)[train.labels] - 0.1
    for penalty in (10.0, 100.0, 1000.0):
        dual = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), targets)
        right = (held_out @ x.T @ dual).argmax(1) == val.labels
        assert right.mean() < 0.3


REAL = Path(ROOT, "data")


@pytest.mark.skipif(not (REAL / "cifar-10-batches-py").is_dir(), reason="no CIFAR-10 in data/")
def test_the_real_cifar10() -> None:
    config = compose([f"data.root={REAL}", "data.download=false"]).data
    split = config.load()
    assert len(split.train.labels) == 40_000
    assert len(split.val.labels) == 10_000
    assert not np.intersect1d(split.train.positions, split.val.positions).size
    assert abs(np.bincount(split.val.labels) - 1000).max() < 120
    pixels = np.concatenate([split.train.pixels, split.val.pixels])
    assert np.allclose(pixels.mean((0, 1, 2)) / 255, datasets.THE_STUDYS.mean, atol=1e-3)
    per_image = pixels.reshape(-1, 1024, 3).std(1).mean(0) / 255
    assert np.allclose(per_image, datasets.THE_STUDYS.std, atol=1e-3)
    assert config.load_test().pixels.shape == (10_000, 32, 32, 3)
