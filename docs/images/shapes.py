"""Draw `docs/images/shapes`, pictures to try `predict` on: python docs/images/shapes.py

Of each class of the synthetic data the first image of a stream that no run draws from, four times
as large.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from resnet_cifar.data.synthetic import CLASSES, SIZE, draw

SCALE = 4


def draw_shapes(folder: Path) -> None:
    """Write `<class>.png` for every class."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = draw(1000, seed=0, stream="pictures")
    for label, name in enumerate(CLASSES):
        image = Image.fromarray(pixels[(labels == label).argmax()])
        large = image.resize((SCALE * SIZE, SCALE * SIZE), Image.Resampling.NEAREST)
        large.save(folder / f"{name.replace(' ', '_')}.png", optimize=True)


if __name__ == "__main__":
    draw_shapes(Path(*sys.argv[1:2]) if sys.argv[1:] else Path(__file__).parent / "shapes")
