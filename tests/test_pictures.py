"""The pictures show what they say."""

import numpy as np

from resnet_cifar.record import pictures

NAMES = ("cat", "dog", "ship")


def test_a_perfect_net_shades_the_diagonal_alone() -> None:
    labels = np.repeat(np.arange(3), 4)
    logits = np.eye(3)[labels] * 9
    image = pictures.confusion(logits, labels, NAMES)
    assert image.dtype == np.uint8
    side = pictures.CELL
    corner = np.array(image.shape[:2]) - pictures.GAP - 3 * side
    shades = np.array([
        [image[corner[0] + side * i + 2, corner[1] + side * j + 2] for j in range(3)]
        for i in range(3)
    ])  # fmt: skip
    assert (shades[np.eye(3, dtype=bool)] == pictures.BLUE).all()
    assert (shades[~np.eye(3, dtype=bool)] == 255).all()


def test_mistakes_come_surest_first() -> None:
    pixels = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (10, 60, 110, 160)])
    labels = np.array([0, 1, 2, 0])
    logits = np.array([[0, 1, 0], [0, 5, 0], [0, 9, 0], [0, 0, 4.0]])  # 1 is right
    image = pictures.mistakes(pixels, logits, labels, NAMES)
    side = 32 * pictures.ZOOM
    row = image[pictures.GAP + 5, pictures.GAP + 5 :: side + pictures.GAP, 0]
    assert row[:4].tolist() == [110, 160, 10, 255]


def test_a_net_without_mistakes() -> None:
    labels = np.array([0, 1])
    image = pictures.mistakes(np.zeros((2, 32, 32, 3), np.uint8), np.eye(3)[:2], labels, NAMES)
    assert (image == 255).all()


def test_a_hundred_classes_fit_a_screen() -> None:
    labels = np.arange(100)
    names = [f"class {i}" for i in labels]
    image = pictures.confusion(np.eye(100), labels, names)
    assert max(image.shape[:2]) < 1200
    blue = (image == pictures.BLUE).all(axis=2).sum()
    side = pictures.SMALLEST - 1
    assert blue == 100 * side**2  # the diagonal, without counts
