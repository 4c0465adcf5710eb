"""Images: look at them, read and normalise them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .decoding import Unreadable, decode, opened
from .loading import Batch
from .mistakes import Mistake


def follow(root: Path, paths: list[str], image_size: int | None, channels: int | None) -> tuple[int, int]:
    """Choose the side of the network's input and the channels, where they are not given, by a look at a few images.

    The side is the median of the shorter sides, up to 64 pixels; the channels are 1 where all are grey.
    """
    if image_size is None or channels is None:
        picked = np.unique(np.linspace(0, len(paths) - 1, 32).astype(int))
        sides, grey = zip(*(look(root / paths[i]) for i in picked), strict=True)
        image_size = image_size or min(64, int(np.median(sides)))
        channels = channels or (1 if all(grey) else 3)
    return image_size, channels


def look(path: str | Path) -> tuple[int, bool]:
    """Return the shorter side of an image in pixels, and whether it is grey.

    Raises:
        Mistake: The file is no image.
    """
    try:
        with opened(path) as image:
            return min(image.size), image.mode in ("1", "L") or image.mode.startswith("I")
    except Unreadable as error:
        raise _refused(error) from error


def read(path: str | Path, channels: int, size: int) -> np.ndarray:
    """Read an image as ``decode`` does.

    Raises:
        Mistake: The file cannot be read to its end as an image.
    """
    try:
        return decode(path, channels, size)
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
        channels: 1 for grey, 3 for RGB.
        size: The side in pixels at which an image is decoded.
        view: Takes an image (HWC, uint8) and a seed; None, the deterministic view, for an unseeded sample.
        decoded: The images by position, where they need no decoding.
    """

    def __init__(
        self,
        root: str | Path,
        paths: list[str],
        targets: np.ndarray,
        channels: int,
        size: int,
        view: Callable[[np.ndarray, int | None], np.ndarray],
        decoded: Indexable | None = None,
    ) -> None:
        self.root, self.paths, self.targets = Path(root), paths, targets
        self.channels, self.size = channels, size
        self.view, self.decoded = view, decoded

    def __len__(self) -> int:
        return len(self.paths)

    def _image(self, key: int | tuple[int, int]) -> tuple[np.ndarray, int]:
        # Lightning's overfit_batches swaps our sampler for one that yields plain integers.
        index, seed = key if isinstance(key, tuple) else (key, None)
        if self.decoded is None:
            image = read(self.root / self.paths[index], self.channels, self.size)
        else:
            image = self.decoded[index]
        return self.view(image, seed).transpose(2, 0, 1), index

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
