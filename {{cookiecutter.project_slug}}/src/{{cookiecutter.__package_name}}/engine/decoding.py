"""Reads an image file as the network's evaluation sees it.

The command ``export`` ships this file as it stands, so it needs nothing of the project.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Formats that Pillow knows and that no image of a data set has: documents that start a program, films, mere headers.
NO_IMAGES = {"EPS", "PDF", "WMF", "EMF", "MPEG", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "GBR", "IPTC", "CUR", "PCD"}
BEYOND = 0.25  # of the pixels may lie beyond the value range


class Unreadable(ValueError):
    """A file that cannot be read to its end as an image."""


def formats() -> list[str]:
    """Return Pillow's names of the formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in NO_IMAGES]


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with it becomes an Unreadable that names the file.

    Raises:
        Unreadable: The file cannot be read to its end as an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats()) as image:
                yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(f"{path} cannot be read as an image ({error})") from error


def is_deep(image: Image.Image) -> bool:
    """Tell whether an image holds more than 8 bits of grey."""
    return image.mode == "F" or image.mode.startswith("I")


def decode(
    path: str | Path,
    channels: int,
    size: int,
    fit: str = "crop",
    background: str = "white",
    value_range: tuple[float, float] = (0, 255),
) -> np.ndarray:
    """Read one image as the network's evaluation sees it: upright, in 8 bits, scaled to a square.

    A JPEG of at least twice that size is decoded at a half, a quarter or an eighth of its own. Of several pages the
    first is read.

    Args:
        path: The file, of any mode that Pillow reads.
        channels: 1 for grey, 3 for RGB.
        size: The side of the square, in pixels.
        fit: What is done to an image that is not square: "crop" its longer sides, "pad" its shorter ones with the
            background, or "stretch" it.
        background: The colour behind transparent parts and beside padded images.
        value_range: The values of greys of more than 8 bits that become black and white.

    Returns:
        A uint8 array of shape (size, size, channels).

    Raises:
        Unreadable: The file cannot be read to its end as an image, or most of its values lie beyond the range.
    """
    with opened(path) as file:
        file.draft(None, (size, size))  # pyright: ignore[reportArgumentType]  (the mode stays)
        ImageOps.exif_transpose(file, in_place=True)
        image, mode = file, "L" if channels == 1 else "RGB"
        if is_deep(image):  # Pillow would clip at 255: every pixel would turn white, or black
            image = Image.fromarray(_scaled(np.asarray(image), value_range))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
        image = image if image.mode == mode else image.convert(mode)  # which would copy it
        side = (size, size)
        if fit == "crop":
            image = ImageOps.fit(image, side, Image.Resampling.BILINEAR)
        elif fit == "pad":
            image = ImageOps.pad(image, side, Image.Resampling.BILINEAR, color=background)
        else:
            image = image.resize(side, Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)


def _scaled(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Turn greys of more than 8 bits into 8."""
    low, high = value_range
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    if ((scaled < -0.5) | (scaled > 255.5)).mean() > BEYOND:
        raise ValueError(
            f"its values reach from {values.min():g} to {values.max():g}, beyond the value range {low:g} to {high:g}"
        )
    return scaled.clip(0, 255).round().astype(np.uint8)
