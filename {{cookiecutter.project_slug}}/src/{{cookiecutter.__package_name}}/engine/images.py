"""Images: read and normalise them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor, nn
from torch.utils.data import Dataset

from .batches import Batch
from .decoding import MEGAPIXELS, BeyondLimit, Unreadable, decode
from .files import is_gone
from .mistakes import Mistake, RunFailed, all_such
from .preprocessing import MEAN, STD, Fit, Interpolation
from .workers import shortage

TILE = 64  # pixels of an image in a grid, at least


class Decoding(NamedTuple):
    """How an image file becomes a square of pixels, see ``decode``."""

    channels: int
    size: int
    fit: Fit = "crop"
    background: str = "white"
    value_range: tuple[float, float] = (0, 255)
    interpolation: Interpolation = "bilinear"
    resize: int | None = None
    max_megapixels: float = MEGAPIXELS  # the last one, which changes no pixel: a cache does not ask for it


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


# What an image that cannot be read does to each command; a score counts what the manifest names, and nothing less.
CONSEQUENCES = {
    "fit": "training with it would be wrong",
    "validate": "the score would be that of fewer images",
    "test": "the score would be that of fewer images",
    "predict": "nothing can be said of it",
}


def refusal(error: Unreadable, command: str) -> Mistake | RunFailed:
    """Word that a command cannot go on without an image: by what it does, and by what is wrong with the file."""
    cause = error.__cause__
    if isinstance(cause, OSError | MemoryError) and (failed := shortage(cause)):
        return failed
    if is_gone(cause):
        remedy = "bring it back, or give the folder that holds it: --data.root NEW"
    elif isinstance(cause, PermissionError):
        remedy = "give yourself the right to read it"
    elif isinstance(error, BeyondLimit):
        remedy = "raise the limit, or convert the image"
    elif command == "fit":
        remedy = f"replace it, or remove it and start a new run{all_such()}"
    else:
        remedy = "put a whole copy in its place"
    kind = RunFailed if command == "fit" and is_gone(cause) else Mistake  # it was there when fit began
    return kind(f"{error}, so {CONSEQUENCES[command]}; {remedy}.")


def read(path: str | Path, decoding: Decoding, command: str = "fit") -> np.ndarray:
    """Read an image as ``decode`` does.

    Raises:
        Mistake: The file cannot be read to its end as an image.
        RunFailed: The disk or the machine fails, or in fit the file is there no more.
    """
    try:
        return decode(path, *decoding)
    except Unreadable as error:
        raise refusal(error, command) from error


class Indexable(Protocol):
    """Images (HWC, uint8) by position."""

    def __getitem__(self, index: int) -> np.ndarray: ...


class ImageDataset(Dataset[Batch]):
    """The images of one split.

    Args:
        root: The folder that ``keys`` are relative to.
        keys: The path of each sample.
        targets: One target per sample.
        weights: One weight per sample, or None.
        decoding: How a file becomes pixels.
        view: Takes an image (HWC, uint8) and a seed; None, the deterministic view, for an unseeded sample.
        decoded: The images by position, where they need no decoding.
        command: What they are read for: fit, validate or test end where an image cannot be read; predict goes on, with
            a black image and the reason in the batch.
    """

    def __init__(
        self,
        root: str | Path,
        keys: list[str],
        targets: np.ndarray,
        decoding: Decoding,
        view: Callable[[np.ndarray, int | None], np.ndarray],
        decoded: Indexable | None = None,
        command: str = "fit",
        weights: np.ndarray | None = None,
    ) -> None:
        self.root, self.keys, self.targets = Path(root), keys, targets
        self.weights = None if weights is None else weights.astype(np.float32)
        self.decoding, self.view, self.decoded = decoding, view, decoded
        self.command = command

    def __len__(self) -> int:
        return len(self.keys)

    def _image(self, key: int | tuple[int, int]) -> tuple[np.ndarray, int, str]:
        """Return an image (CHW), its position, and why it could not be read; nothing where it could."""
        # Lightning's overfit_batches swaps our sampler for one that yields plain integers.
        index, seed = key if isinstance(key, tuple) else (key, None)
        image, why = self._decoded(index)
        return self.view(image, seed).transpose(2, 0, 1), index, why

    def _decoded(self, index: int) -> tuple[np.ndarray, str]:
        if self.decoded is not None:
            return self.decoded[index], ""
        path = self.root / self.keys[index]
        if self.command != "predict":
            return read(path, self.decoding, self.command), ""
        try:
            return decode(path, *self.decoding), ""
        except Unreadable as error:
            side = self.decoding.size
            return np.zeros((side, side, self.decoding.channels), np.uint8), str(error).removeprefix(f"{path} ")

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        image, index, why = self._image(key)
        errors = (why,) if why else ()
        weight = None if self.weights is None else torch.tensor(self.weights[index])
        x, y = torch.from_numpy(image.copy()), torch.tensor(self.targets[index])
        return Batch(x, y, torch.tensor(index), errors, weight)

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> Batch:
        """Fetch a batch into one array, which spares collating its samples."""
        images, indices, errors = zip(*map(self._image, keys), strict=True)
        index = np.array(indices)
        x, y, position = map(torch.from_numpy, (np.stack(images), self.targets[index], index))
        weight = None if self.weights is None else torch.from_numpy(self.weights[index])
        return Batch(x, y, position, errors if any(errors) else (), weight)


def grid(x_NCHW: np.ndarray) -> np.ndarray:
    """Return images (uint8) side by side, eight in a row, enlarged where they are small: (H, W, 3)."""
    side = x_NCHW.shape[-1]
    tile = side * max(1, TILE // side)
    picture = Image.new("RGB", (8 * (tile + 2), -(-len(x_NCHW) // 8) * (tile + 2)), "white")
    for number, x_CHW in enumerate(x_NCHW):
        image = Image.fromarray(x_CHW.transpose(1, 2, 0).squeeze()).resize((tile, tile), Image.Resampling.NEAREST)
        picture.paste(image, (number % 8 * (tile + 2) + 1, number // 8 * (tile + 2) + 1))
    return np.asarray(picture)


class Normalise(nn.Module):
    """Turns images (uint8, on the device) into what a network takes, by a mean and a deviation per channel.

    Args:
        channels: 1 for grey, 3 for RGB.
        channels_last: Whether the result has the channels last in memory, as convolutions on tensor cores prefer.
        mean: The mean of each channel, of pixels from 0 to 1: three, or one for all; grey takes the mean of them.
        std: Their deviation, likewise.
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(
        self,
        channels: int,
        channels_last: bool = False,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else None
        given = (torch.tensor([*map(float, values)]).view(1, -1, 1, 1) for values in (mean, std))
        mean_1C11, std_1C11 = (values.expand(1, 3, 1, 1) for values in given)
        if channels == 1:
            mean_1C11, std_1C11 = mean_1C11.mean(1, keepdim=True), std_1C11.mean(1, keepdim=True)
        self.register_buffer("mean_1C11", mean_1C11 * 255, persistent=False)
        self.register_buffer("std_1C11", std_1C11 * 255, persistent=False)

    @classmethod
    def as_declared(cls, inputs: Mapping[str, Any], channels_last: bool = False) -> "Normalise":
        """Make it as the inputs of a schema say; those of earlier versions, which say nothing, mean ImageNet's."""
        values = {name: inputs[name] for name in ("mean", "std") if name in inputs}
        return cls(inputs["channels"], channels_last, **values)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = (x_NCHW - self.mean_1C11) / self.std_1C11
        return x_NCHW.contiguous(memory_format=self.layout) if self.layout else x_NCHW
