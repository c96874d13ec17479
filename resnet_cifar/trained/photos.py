"""A person's own PNG, JPEG, WebP and BMP files as the networks see images: RGB, 32 × 32.

Resized as is usual for evaluation: the shorter side to 32 pixels (bilinear, antialiased), then the
centre. Upright by EXIF; what is transparent becomes white, grey becomes RGB, 16 bits become 8.
"""

import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_cifar.data.images import SIZE
from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import read_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
NAMES = "PNG, JPEG, WebP or BMP"
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib")
# Pictures too, but films, pages, or without an agreed way to become 8-bit RGB.
OTHERS = (
    *(".gif", ".apng", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".ico"),
    *(".psd", ".tga", ".ppm", ".pgm", ".pbm", ".exr", ".dng", ".raw", ".cr2", ".nef", ".arw"),
)


class Photo(NamedTuple):
    """An image file, read."""

    path: Path
    pixels: NDArray[np.uint8]  # [32, 32, 3]
    width: int  # as it is shown, in pixels
    height: int


def list_image_files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """List the image files below a directory, in order, without hidden ones; a file is itself.

    Returns them, and by path why a picture or a folder is left out.
    """
    if not path.is_dir():
        return [path], {}
    files: list[Path] = []
    left_out: dict[str, str] = {}

    def note(error: OSError) -> None:
        left_out[str(error.filename)] = f"{error.filename} can't be read: {describe(error)}"

    for folder, folders, names in os.walk(path, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                files.append(file)
            elif file.suffix.lower() in OTHERS:
                left_out[str(file)] = f"{file} is not a {NAMES} file: convert it"
        for link in (Path(folder, name) for name in folders):
            if link.is_symlink():
                left_out[str(link)] = f"{link} is a link to a folder: give that folder itself"
    return sorted(files), left_out


def read_photo(path: Path) -> Photo:
    """Read an image file as the networks see it. Raises UserError: none, damaged or too large."""
    try:
        content = read_regular(path.resolve())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata nobody needs
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as stored:
                image = _to_rgb(ImageOps.exif_transpose(stored))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a {NAMES} file") from error
    except Exception as error:  # Pillow raises many kinds on a damaged file
        raise UserError(f"{path} can't be read: {describe(error)}") from error
    width, height = image.size
    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)
    return Photo(path, np.asarray(image), width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    """`image` in 8-bit RGB, on white."""
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
