"""Images of a network's errors, for trackers: confusion matrix and surest mistakes.

Drawn with Pillow: importing matplotlib would take longer than a small run's last epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnet_cifar.scores import Floats, Integers, confusion_matrix, log_softmax

Pixels = NDArray[np.uint8]
CELL, ZOOM, CAPTION, GAP = 46, 3, 30, 8  # pixels
SMALLEST, LARGEST = 10, 1000  # of a confusion matrix: a cell, all cells in a row
INK, PAPER, BLUE = (20, 20, 20), (255, 255, 255), np.array([33, 102, 172])


def confusion(logits: Floats, labels: Integers, classes: Sequence[str]) -> Pixels:
    """Draw the confusion matrix: a row a true class, shaded by share of the row; counts inside.

    Takes logits [n, classes] and labels [n], returns uint8 [height, width, 3].
    """
    matrix = confusion_matrix(logits, labels)
    share = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    # A hundred classes get small cells, shaded alone.
    cell = min(CELL, max(SMALLEST, LARGEST // len(classes)))
    font = ImageFont.load_default(min(13, cell))
    left = top = max(int(font.getlength(name)) for name in classes) + 3 * GAP
    size = cell * len(classes)
    image = Image.new("RGB", (left + size + GAP, top + size + GAP), PAPER)
    draw = ImageDraw.Draw(image)
    for i, name in enumerate(classes):
        middle = cell * i + cell // 2
        draw.text((left - GAP, top + middle), name, fill=INK, font=font, anchor="rm")
        upright = Image.new("RGB", (top, cell), PAPER)
        ImageDraw.Draw(upright).text((GAP, cell // 2), name, fill=INK, font=font, anchor="lm")
        image.paste(upright.rotate(90, expand=True), (left + cell * i, 0))
        for j in range(len(classes)):
            x, y = left + cell * j, top + cell * i
            shade = tuple(np.rint(255 + (BLUE - 255) * share[i, j]).astype(int).tolist())
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
            if cell == CELL:
                ink = PAPER if share[i, j] > 0.5 else INK
                centre = (x + cell // 2 - 1, y + cell // 2 - 1)
                draw.text(centre, str(matrix[i, j]), fill=ink, font=font, anchor="mm")
    title = ImageFont.load_default(11)
    draw.text((GAP, top - GAP), "true \\ predicted", fill=INK, font=title, anchor="lb")
    return np.asarray(image)


def mistakes(pixels: Pixels, logits: Floats, labels: Integers, classes: Sequence[str]) -> Pixels:
    """Draw the 32 surest mistakes, eight to a row, each with its truth and what was predicted.

    Takes uint8 pixels [n, height, width, 3], logits [n, classes] and labels [n]; returns uint8
    [height, width, 3].
    """
    predicted = logits.argmax(axis=1)
    confidence = np.exp(log_softmax(logits).max(axis=1))
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:32]
    columns = 8
    rows = max(1, -(-len(chosen) // columns))
    side = pixels.shape[1] * ZOOM
    size = columns * (side + GAP) + GAP, rows * (side + CAPTION + GAP) + GAP
    image = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for place, i in enumerate(chosen):
        x = GAP + place % columns * (side + GAP)
        y = GAP + place // columns * (side + CAPTION + GAP)
        large = Image.fromarray(pixels[i]).resize((side, side), Image.Resampling.NEAREST)
        image.paste(large, (x, y))
        sure = f"{100 * confidence[i]:.0f} %"
        draw.text((x, y + side + 2), classes[labels[i]], fill=INK, font=font)
        draw.text((x, y + side + 15), f"not {classes[predicted[i]]} {sure}", fill=INK, font=font)
    return np.asarray(image)
