"""Images: look at them, read and normalise them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor, nn
from torch.utils.data import Dataset

from .batches import Batch
from .decoding import Unreadable, decode, is_deep, opened
from .mistakes import Mistake

Fit = Literal["crop", "pad", "stretch"]


class Decoding(NamedTuple):
    """How an image file becomes a square of pixels, see ``decode``."""

    channels: int
    size: int
    fit: Fit = "crop"
    background: str = "white"
    value_range: tuple[float, float] = (0, 255)


def check_colour(name: str) -> None:
    """Refuse a colour that Pillow does not know.

    Raises:
        Mistake: It is none.
    """
    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise Mistake(
            f"--data.background={name!r} is no colour, so transparent parts would have none; give white, black or "
            "'#808080'."
        ) from error


class Look(NamedTuple):
    """What a look at an image file tells.

    Args:
        width: In pixels, upright or not.
        height: In pixels.
        is_grey: Whether it has no colour.
        values: The least and the greatest value, where it has more than 8 bits of grey.
        is_transparent: Whether it has transparent parts.
        pages: How many it has.
    """

    width: int
    height: int
    is_grey: bool
    values: tuple[float, float] | None
    is_transparent: bool
    pages: int


def look(path: str | Path) -> Look:
    """Look at an image.

    Raises:
        Mistake: The file is no image.
    """
    try:
        with opened(path) as image:
            grey = image.mode in ("1", "L") or is_deep(image)
            pages = getattr(image, "n_frames", 1)
            limits = image.getextrema() if is_deep(image) else None
            return Look(*image.size, grey, limits, image.has_transparency_data, pages)  # pyright: ignore
    except Unreadable as error:
        raise _refused(error) from error


# Where the values of an image of more than 8 bits usually end: of floats 1, else a number of bits.
RANGES = [(0.0, 1.0), (-1.0, 1.0), *((0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16))]


def look_at(root: Path, paths: list[str], most: int = 32) -> list[Look]:
    """Look at a few of many images, the same ones each time."""
    picked = np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
    return [look(root / paths[i]) for i in picked]


def settled(
    looks: list[Look], image_size: int | None, channels: int | None, value_range: Sequence[float] | None
) -> tuple[int, int, tuple[float, float]]:
    """Choose what is not given: the side of the network's input, the channels, and the value range.

    The side is the median of the shorter sides, up to 64 pixels. The channels are 1 where all are grey. The range is
    the least usual one that holds all that was seen; (0, 255) of images of 8 bits.
    """
    side = image_size or min(64, int(np.median([min(look.width, look.height) for look in looks])))
    if value_range is not None:
        limits = value_range[0], value_range[1]
    elif seen := [look.values for look in looks if look.values is not None]:
        low, high = min(values[0] for values in seen), max(values[1] for values in seen)
        usual = (limits for limits in RANGES if limits[0] <= low and high <= limits[1])
        limits = next(usual, (low, high if high > low else low + 1))
    else:
        limits = 0, 255
    return side, channels or (1 if all(look.is_grey for look in looks) else 3), limits


def remarks(looks: list[Look], decoding: Decoding, given_range: bool) -> list[str]:
    """Say what of the images is lost or was inferred, from a look at some of them."""
    said, count = [], len(looks)
    deep = sum(x.values is not None for x in looks)
    several = sum(x.pages > 1 for x in looks)
    lost = float(np.median([1 - min(x.width, x.height) / max(x.width, x.height) for x in looks]))
    if deep and not given_range:
        low, high = decoding.value_range
        said.append(
            f"{deep} of {count} images that were looked at have more than 8 bits of grey: values from {low:g} to "
            f"{high:g} become black to white; --data.value_range '[LOW, HIGH]' gives other ends"
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


def read(path: str | Path, decoding: Decoding) -> np.ndarray:
    """Read an image as ``decode`` does.

    Raises:
        Mistake: The file cannot be read to its end as an image.
    """
    try:
        return decode(path, *decoding)
    except Unreadable as error:
        raise _refused(error) from error


def _refused(error: Unreadable) -> Mistake:
    return Mistake(f"{error}, so training on it would be wrong; replace or remove it.")


class Indexable(Protocol):
    """Images (HWC, uint8) by position."""

    def __getitem__(self, index: int) -> np.ndarray: ...


class ImageDataset(Dataset[Batch]):
    """The images of one split.

    Args:
        root: The folder that ``paths`` are relative to.
        paths: One path per sample.
        targets: One target per sample.
        decoding: How a file becomes pixels.
        view: Takes an image (HWC, uint8) and a seed; None, the deterministic view, for an unseeded sample.
        decoded: The images by position, where they need no decoding.
    """

    def __init__(
        self,
        root: str | Path,
        paths: list[str],
        targets: np.ndarray,
        decoding: Decoding,
        view: Callable[[np.ndarray, int | None], np.ndarray],
        decoded: Indexable | None = None,
    ) -> None:
        self.root, self.paths, self.targets = Path(root), paths, targets
        self.decoding, self.view, self.decoded = decoding, view, decoded

    def __len__(self) -> int:
        return len(self.paths)

    def _image(self, key: int | tuple[int, int]) -> tuple[np.ndarray, int]:
        # Lightning's overfit_batches swaps our sampler for one that yields plain integers.
        index, seed = key if isinstance(key, tuple) else (key, None)
        return self.view(self._decoded(index), seed).transpose(2, 0, 1), index

    def _decoded(self, index: int) -> np.ndarray:
        if self.decoded is not None:
            return self.decoded[index]
        return read(self.root / self.paths[index], self.decoding)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        image, index = self._image(key)
        return Batch(torch.from_numpy(image.copy()), torch.tensor(self.targets[index]), torch.tensor(index))

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> Batch:
        """Fetch a batch into one array, which spares collating its samples."""
        images, indices = zip(*map(self._image, keys), strict=True)
        index = np.array(indices)
        return Batch(*map(torch.from_numpy, (np.stack(images), self.targets[index], index)))


class Normalise(nn.Module):
    """Turns images (uint8, on the device) into what a network takes: with ImageNet's mean and deviation per channel.

    They are what torchvision's weights expect; grey takes their mean.

    Args:
        channels: 1 for grey, 3 for RGB.
        channels_last: Whether the result has the channels last in memory, as convolutions on tensor cores prefer.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(self, channels: int, channels_last: bool = False) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else None
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.MEAN, self.STD))
        if channels == 1:
            mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)
        self.register_buffer("mean_1C11", mean * 255, persistent=False)
        self.register_buffer("std_1C11", std * 255, persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = (x_NCHW - self.mean_1C11) / self.std_1C11
        return x_NCHW.contiguous(memory_format=self.layout) if self.layout else x_NCHW
