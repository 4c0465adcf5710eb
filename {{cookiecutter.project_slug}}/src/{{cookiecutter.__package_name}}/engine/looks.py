"""A look at some images: what they tell of size, channels and values, and what is lost or inferred."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .decoding import MEGAPIXELS, Unreadable, is_deep, opened
from .images import Decoding, refusal
from .mistakes import Mistake


class Look(NamedTuple):
    """What a look at an image file tells.

    Args:
        width: In pixels, upright or not.
        height: In pixels.
        is_grey: Whether it has no colour.
        values: The least and the greatest value, where it has more than 8 bits of grey.
        stated: The range of these values by the file's own tags, where they name one.
        colours: The greatest value of 255, where it has 16 bits a colour: Pillow reads the upper 8.
        is_transparent: Whether it has transparent parts.
        pages: How many it has.
    """

    width: int
    height: int
    is_grey: bool
    values: tuple[float, float] | None
    stated: tuple[float, float] | None
    colours: int | None
    is_transparent: bool
    pages: int


def look(path: str | Path, max_megapixels: float = MEGAPIXELS, command: str = "fit") -> Look:
    """Look at an image.

    Raises:
        Mistake: The file is not there, or is no image.
    """
    try:
        with opened(path, max_megapixels) as image:
            deep = is_deep(image)
            tiles: Any = getattr(image, "tile", ())  # they are there until the image is loaded
            is_wide = not deep and any(";16" in str(tile) for tile in tiles)
            pages = getattr(image, "n_frames", 1)
            stated = _stated(image) if deep else None
            limits = _extremes(np.asarray(image)) if deep else None
            colours = max(high for _, high in image.convert("RGB").getextrema()) if is_wide else None  # pyright: ignore
            grey = image.mode in ("1", "L") or deep
            return Look(*image.size, grey, limits, stated, colours, image.has_transparency_data, pages)
    except Unreadable as error:
        raise refusal(error, command) from error


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest value; Pillow's own getextrema does not know every mode, and stops at NaN."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _stated(image: Image.Image) -> tuple[float, float] | None:
    """Return the range of an image's greys that its tags name."""
    tags, bits = getattr(image, "tag_v2", {}), _significant_bits(image)
    # SMinSampleValue and SMaxSampleValue, of any type; MinSampleValue and MaxSampleValue, of whole numbers.
    low, high = (next((np.ravel(tags[n])[0] for n in names if n in tags), None) for names in ((340, 280), (341, 281)))
    if high is not None:
        return (0.0 if low is None else float(low)), float(high)
    return (0.0, 2.0**bits - 1) if bits is not None else None


def _significant_bits(image: Image.Image) -> int | None:
    """Return how many bits a grey of 16 really has: by BitsPerSample of a TIFF, or by the chunk sBIT of a PNG."""
    if image.format == "TIFF":
        bits = int(np.ravel(image.tag_v2.get(258, 16))[0])  # pyright: ignore[reportAttributeAccessIssue]
        return bits if 8 < bits < 16 else None
    if image.format == "PNG":
        with open(image.filename, "rb") as file:  # pyright: ignore[reportAttributeAccessIssue]  (Pillow drops sBIT)
            file.seek(8)
            while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
                length = int.from_bytes(head[:4], "big")
                if head[4:] == b"sBIT" and length:
                    return int(file.read(1)[0])
                file.seek(length + 4, 1)
    return None


# Where the values of an image of more than 8 bits usually end: of floats 1, else a number of bits.
RANGES = [(0.0, 1.0), (-1.0, 1.0), *((0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16))]


def look_at(
    root: Path, paths: list[str], max_megapixels: float = MEGAPIXELS, command: str = "fit", most: int = 32
) -> list[Look]:
    """Look at a few of many images, the same ones each time."""
    picked = np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
    return [look(root / paths[i], max_megapixels, command) for i in picked]


def check_colours(looks: list[Look]) -> None:
    """Refuse colours of 16 bits that use the lower ones alone: read by their upper 8 they would be black.

    Raises:
        Mistake: They do.
    """
    seen = [look.colours for look in looks if look.colours is not None]
    if seen and max(seen) < 64:
        raise Mistake(
            f"{len(seen)} of {len(looks)} images that were looked at have 16 bits a colour and use the lower ones "
            f"(12 of 16, say): of their upper 8, which are read, none exceeds {max(seen)} of 255, so they would be all "
            "but black; convert them to 8 bits."
        )


def stated_range(looks: list[Look]) -> tuple[float, float] | None:
    """Return the range that the tags of all deep images name; None where they differ, as minima and maxima of each do.

    A range that does not hold what was seen is none.
    """
    deep = [look for look in looks if look.values is not None]
    named = {look.stated for look in deep}
    if len(named) != 1 or (limits := named.pop()) is None or limits[0] >= limits[1]:
        return None
    holds = all(limits[0] <= look.values[0] and look.values[1] <= limits[1] for look in deep if look.values)
    return limits if holds else None


def settled(
    looks: list[Look], image_size: int | None, channels: int | None, value_range: Sequence[float] | None
) -> tuple[int, int, tuple[float, float]]:
    """Choose what is not given: the side of the network's input, the channels, and the value range.

    The side is the median of the shorter sides, up to 64 pixels. The channels are 1 where all are grey. The range is
    that of the files' tags, or the least usual one that holds all that was seen; (0, 255) of images of 8 bits.
    """
    side = image_size or min(64, int(np.median([min(look.width, look.height) for look in looks])))
    if value_range is not None:
        limits = value_range[0], value_range[1]
    elif stated := stated_range(looks):
        limits = stated
    elif seen := [look.values for look in looks if look.values is not None]:
        low, high = min(values[0] for values in seen), max(values[1] for values in seen)
        usual = (limits for limits in RANGES if limits[0] <= low and high <= limits[1])
        limits = next(usual, (low, high if high > low else low + 1))
    else:
        limits = 0, 255
    return side, channels or (1 if all(look.is_grey for look in looks) else 3), limits


def remarks(looks: list[Look], decoding: Decoding, given_range: bool) -> list[str]:
    """Say what of the images is lost or was inferred, from a look at some of them."""
    if not looks:
        return []
    said, count = [], len(looks)
    deep = sum(x.values is not None for x in looks)
    several = sum(x.pages > 1 for x in looks)
    lost = float(np.median([1 - min(x.width, x.height) / max(x.width, x.height) for x in looks]))
    if deep and not given_range:
        low, high = decoding.value_range
        source = ", as their tags say" if stated_range(looks) else ""
        said.append(
            f"{deep} of {count} images that were looked at have more than 8 bits of grey: values from {low:g} to "
            f"{high:g} become black to white in 256 steps{source}; --data.value_range '[LOW, HIGH]' gives other ends"
        )
    wide = sum(x.colours is not None for x in looks)
    if wide:
        said.append(
            f"{wide} of {count} images that were looked at have 16 bits a colour, of which the upper 8 are read"
        )
    if lost > 0.25 and decoding.fit == "crop":
        said.append(
            f"the median image loses {lost:.0%} at its longer sides by --data.fit crop; --data.fit pad and --data.fit "
            "stretch keep them"
        )
    transparent = sum(x.is_transparent for x in looks)
    if transparent:
        said.append(
            f"{transparent} of {count} images that were looked at have transparent parts, which turn "
            f"{decoding.background}; --data.background gives another colour"
        )
    if several:
        said.append(f"{several} of {count} images that were looked at have several pages, of which the first is read")
    return said
