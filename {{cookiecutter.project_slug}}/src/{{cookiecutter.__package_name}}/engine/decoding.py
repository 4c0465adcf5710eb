"""Reads an image file as the network's evaluation sees it.

The command ``export`` ships this file as it stands, so it needs nothing of the project.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class Unreadable(ValueError):
    """A file that cannot be read to its end as an image."""


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with it becomes an Unreadable that names the file.

    Raises:
        Unreadable: The file cannot be read to its end as an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(f"{path} cannot be read as an image ({error})") from error


def decode(path: str | Path, channels: int, size: int) -> np.ndarray:
    """Read one image as the network's evaluation sees it: upright, scaled and cropped at the centre to a square.

    A JPEG of at least twice that size is decoded at a half, a quarter or an eighth of its own.

    Args:
        path: The file, of any mode that Pillow reads. Transparent parts turn white; 16-bit greys keep their upper byte.
        channels: 1 for grey, 3 for RGB.
        size: The side of the square, in pixels.

    Returns:
        A uint8 array of shape (size, size, channels).

    Raises:
        Unreadable: The file cannot be read to its end as an image.
    """
    with opened(path) as file:
        file.draft(None, (size, size))  # pyright: ignore[reportArgumentType]  (the mode stays)
        ImageOps.exif_transpose(file, in_place=True)
        image, mode = file, "L" if channels == 1 else "RGB"
        if image.mode.startswith("I"):  # Pillow clips 16-bit greys at 255: every pixel would turn white
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image if image.mode == mode else image.convert(mode)  # which would copy it
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)
