"""Reads an image file as the network's evaluation sees it.

The command ``export`` ships this file as it stands, so it needs nothing of the project.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Formats that Pillow knows and that no image of a data set has: documents that start a program, films, mere headers.
NO_IMAGES = {"EPS", "PDF", "WMF", "EMF", "MPEG", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "GBR", "IPTC", "CUR", "PCD"}
BEYOND = 0.25  # of the pixels may lie beyond the value range
MEGAPIXELS = 90.0  # a little more than Pillow's own limit

# Too many pixels are refused below; a filter around each image would not be safe among threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(ValueError):
    """A file that cannot be read to its end as an image."""


class BeyondLimit(Unreadable):
    """A whole image that is beyond a limit which a flag sets."""


def formats() -> list[str]:
    """Return Pillow's names of the formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in NO_IMAGES]


@contextmanager
def opened(path: str | Path, max_megapixels: float = MEGAPIXELS) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with it becomes an Unreadable that names the file.

    Raises:
        Unreadable: The file is not there, or cannot be read to its end as an image.
        BeyondLimit: It has too many pixels: a small file may unpack to more than the memory holds.
    """
    most = int(max_megapixels * 1e6)
    # Pillow has one limit for a process. It is raised here, where workers and exports come by, and never lowered.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, for ever
            raise Unreadable(f"{path} cannot be read (it is no plain file)")
        with Image.open(path, formats=formats()) as image:
            if image.width * image.height > most:
                raise Image.DecompressionBombError(f"it has {image.width * image.height / 1e6:.1f} megapixels")
            yield image
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise BeyondLimit(
            f"{path} cannot be read: {error}, more than --data.max_megapixels {max_megapixels:g}"
        ) from error
    except Exception as error:  # on a damaged file Pillow's plugins raise almost anything
        raise Unreadable(f"{path} {_why(path, error)}") from error


def _why(path: str | Path, error: Exception) -> str:
    """Tell a file that is not there from one that may not be read, and from one that is no image."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "is not there"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, UnidentifiedImageError):
        is_empty = os.path.isfile(path) and not os.path.getsize(path)
        return f"cannot be read as an image (it is {'empty' if is_empty else 'none of a kind that is read'})"
    return f"cannot be read as an image ({error or type(error).__name__})"


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
    interpolation: str = "bilinear",
    resize: int | None = None,
    max_megapixels: float = MEGAPIXELS,
) -> np.ndarray:
    """Read one image as the network's evaluation sees it: upright, in 8 bits, scaled to a square.

    A JPEG of at least twice that size is decoded at a half, a quarter or an eighth of its own (with ``resize``, of six
    times that size). Of several pages the first is read.

    Args:
        path: The file, of any mode that Pillow reads.
        channels: 1 for grey, 3 for RGB.
        size: The side of the square, in pixels.
        fit: What is done to an image that is not square: "crop" its longer sides, "pad" its shorter ones with the
            background, or "stretch" it.
        background: The colour behind transparent parts and beside padded images.
        value_range: The values of greys of more than 8 bits that become black and white.
        interpolation: Pillow's name of the filter: nearest, box, bilinear, hamming, bicubic or lanczos.
        resize: The side that an image is scaled to before the centre of ``size`` is cut, pixel for pixel as
            torchvision's Resize and CenterCrop do (a large JPEG nearly so); None cuts and scales at once.
        max_megapixels: How many pixels an image may have, against files that unpack to more than the memory holds.

    Returns:
        A uint8 array of shape (size, size, channels).

    Raises:
        Unreadable: The file is not there, or cannot be read to its end as an image.
        BeyondLimit: It has too many pixels, or many of its values lie beyond the range.
    """
    with opened(path, max_megapixels) as file:
        most = int(max_megapixels * 1e6)
        whole, method = (resize or size, resize or size), Image.Resampling[interpolation.upper()]
        drafted = _drafted(*file.size, resize) if resize else whole
        file.draft(None, drafted)  # pyright: ignore[reportArgumentType]  (the mode stays)
        ImageOps.exif_transpose(file, in_place=True)
        image, mode = file, "L" if channels == 1 else "RGB"
        if is_deep(image):  # Pillow would clip at 255: every pixel would turn white, or black
            image = Image.fromarray(_scaled(np.asarray(image), value_range, path))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
        image = image if image.mode == mode else image.convert(mode)  # which would copy it
        if fit == "crop" and resize:
            image = image.resize(_sides(*image.size, resize, most), method)
        elif fit == "crop":
            image = ImageOps.fit(image, whole, method)
        elif fit == "pad":
            image = ImageOps.pad(image, whole, method, color=background)
        else:
            image = image.resize(whole, method)
        if resize:
            left, top = round((image.width - size) / 2), round((image.height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels)


def _drafted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the least size at which a JPEG may be decoded for its pixels to stay those of torchvision, or nearly so.

    It has no part of a pixel at its edges, and three times the side that it is scaled to.
    """
    shares = (share for share in (8, 4, 2) if width % share == height % share == 0)
    share = next((share for share in shares if min(width, height) >= 3 * side * share), 1)
    return width // share, height // share


def _sides(width: int, height: int, shorter: int, most: int) -> tuple[int, int]:
    """Return the sides of an image whose shorter one is scaled, as torchvision's Resize rounds them."""
    longer = shorter * max(width, height) // min(width, height)
    if shorter * longer > most:
        raise Image.DecompressionBombError(f"it would be scaled to {shorter * longer / 1e6:.1f} megapixels")
    return (shorter, longer) if width <= height else (longer, shorter)


def _scaled(values: np.ndarray, value_range: tuple[float, float], path: str | Path) -> np.ndarray:
    """Turn greys of more than 8 bits into 8."""
    low, high = value_range
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    if ((scaled < -0.5) | (scaled > 255.5)).mean() > BEYOND:
        raise BeyondLimit(
            f"{path} cannot be read: its values reach from {values.min():g} to {values.max():g}, beyond the value "
            f"range {low:g} to {high:g} (--data.value_range)"
        )
    return scaled.clip(0, 255).round().astype(np.uint8)
