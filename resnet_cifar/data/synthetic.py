"""Ten classes of drawn 32 × 32 images: a data set without a download.

Each image is one of ten shapes at a random place, size and tilt, in random colours, over a random
gradient with two distracting blobs and noise. The colours of shape and ground are exchangeable and
drawn alike for every class, so neither colour nor brightness tells the class, and no pixel does:
a linear model stays at chance. What is left is the outline, which takes convolutions to see. Every
class is its own mirror image, so flips are harmless, and crops cut away little but ground.

Deterministic: the numbers are raw words of the counter-based generator Philox, keyed by seed and
stream, in chunks of 1,000 images. Image i therefore depends on (seed, stream, i) alone.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 32  # pixels
CHUNK = 1000  # images drawn at a time
NOISE = 0.15  # half width of the noise added to every value, of a range of 1
CONTRAST = 0.5, 0.9  # smallest and largest distance between the colours of shape and ground
RADIUS = 6.0, 10.0  # pixels
PLACE = 3.0  # pixels the centre may be away from the middle, each way
TILT = 0.3  # radians the shape may be turned, each way

Floats = NDArray[np.floating]


def _radius(u: Floats, v: Floats) -> Any:
    return np.sqrt(u**2 + v**2)


def _square(u: Floats, v: Floats) -> Any:
    return np.maximum(np.abs(u), np.abs(v))


def _bar(u: Floats, v: Floats, half: float) -> Any:
    return np.maximum(np.abs(u) - 1, np.abs(v) - half)


# Distance from each shape's outline at (u, v), about, in radii; negative inside.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda u, v: _radius(u, v) - 0.85,
    "ring": lambda u, v: np.abs(_radius(u, v) - 0.72) - 0.2,
    "square": lambda u, v: _square(u, v) - 0.75,
    "frame": lambda u, v: np.abs(_square(u, v) - 0.65) - 0.18,
    "triangle": lambda u, v: np.maximum(
        -v - 0.5, np.float32(np.sqrt(0.75)) * np.abs(u) + 0.5 * v - 0.5
    ),
    "cross": lambda u, v: np.minimum(_bar(u, v, 0.28), _bar(v, u, 0.28)),
    "star": lambda u, v: _radius(u, v) - (0.68 + 0.3 * np.cos(5 * np.arctan2(u, v))),
    "bar": lambda u, v: _bar(u, v, 0.35),
    "pair": lambda u, v: _radius(np.abs(u) - 0.58, v) - 0.42,
    "half disc": lambda u, v: np.maximum(_radius(u, v) - 0.95, v - 0.1),
}
CLASSES = tuple(SHAPES)


def draw(count: int, seed: int, stream: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the first `count` images of a stream; different names give independent images.

    Returns uint8 [count, 32, 32, 3] (RGB) and labels int64 [count]; every 1,000 images have as
    many of each class.
    """
    chunks = [_draw_chunk(seed, stream, number) for number in range(-(-count // CHUNK))]
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True))
    return images, labels


def _draw_chunk(seed: int, stream: str, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    digest = hashlib.sha256(f"{seed}/{stream}/{number}".encode()).digest()
    source = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def uniform(low: float, high: float, *shape: int) -> Floats:
        words = source.random_raw(CHUNK * int(np.prod(shape, dtype=int)))
        unit = (words >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        return (low + (high - low) * unit).reshape(CHUNK, *shape).astype(np.float32)

    labels = np.argsort(source.random_raw(CHUNK), kind="stable").astype(np.int64) % len(CLASSES)

    # The shape: an anti-aliased mask in its own, turned and scaled coordinates.
    angle, radius = uniform(-TILT, TILT, 1, 1), uniform(*RADIUS, 1, 1)
    x, y = _grid(uniform(-PLACE, PLACE, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (cos * x + sin * y) / radius, (cos * y - sin * x) / radius
    distance = np.empty_like(u)
    for label, outline in enumerate(SHAPES.values()):
        mine = labels == label
        distance[mine] = outline(u[mine], v[mine])
    mask = np.clip(0.5 - distance * radius, 0, 1)[..., None]

    # Colours: two drawn alike, their difference stretched to a random contrast; then who is who.
    ground, other = uniform(0.2, 0.8, 1, 1, 3), uniform(0.2, 0.8, 1, 1, 3)
    difference = other - ground
    length = np.sqrt((difference**2).sum(-1, keepdims=True)) + np.float32(1e-3)
    shape = ground + difference * (uniform(*CONTRAST, 1, 1, 1) / length)
    swap = uniform(0, 1, 1, 1, 1) < 0.5
    ground, shape = np.where(swap, shape, ground), np.where(swap, ground, shape)

    slope = uniform(-0.012, 0.012, 1, 1, 2, 3)
    x, y = _grid(np.zeros((CHUNK, 2), np.float32))
    image = ground + x[..., None] * slope[..., 0, :] + y[..., None] * slope[..., 1, :]
    for _ in range(2):  # distractors: soft blobs, anywhere
        x, y = _grid(uniform(-16, 16, 2))
        blob = np.exp(-(x**2 + y**2) / uniform(4, 20, 1, 1))[..., None]
        image += blob * uniform(-0.4, 0.4, 1, 1, 3)
    image += mask * (shape - image)

    # Noise of a triangular distribution: the difference of two bytes of the same generator.
    noise = source.random_raw(CHUNK * SIZE * SIZE * 3 // 4).view(np.uint8)
    noise = noise.reshape(2, CHUNK, SIZE, SIZE, 3).astype(np.int16)
    image += (noise[0] - noise[1]).astype(np.float32) * np.float32(NOISE / 255)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), labels


def _grid(centre: Floats) -> tuple[Floats, Floats]:
    """Compute pixel coordinates relative to each image's `centre` [n, 2], in pixels."""
    span = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    x, y = np.broadcast_arrays(span - centre[:, :1, None], span[:, None] - centre[:, 1:, None])
    return x, y
