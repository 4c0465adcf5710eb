"""Find, decode and write images.

A data set is a folder: ``root/class/**/image.jpg``, or ``root/{train,val,test}/class/**/image.jpg`` where the splits
are given. The built-in sets are written out as such folders, so they walk the same way as your own.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, default_collate

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
GIVEN_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Samples:
    """The images of a data set, in the order of their paths.

    Args:
        paths: One path per sample, relative to the root.
        labels: One class index per sample; -1 where the class is not known.
        classes: The class names, sorted.
        given: The split that the folder names for each sample, or None where the folder gives none.
    """

    paths: list[str]
    labels: np.ndarray
    classes: list[str]
    given: list[str] | None = None


class Batch(NamedTuple):
    """What a data loader yields: images as uint8, labels, and the position of each sample in its split."""

    x_NCHW: Tensor
    y_N: Tensor
    index_N: Tensor


def list_images(root: Path) -> list[str]:
    """Return the paths of all images below ``root``, relative to it and sorted, hidden files left out."""
    found = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        found += [
            prefix + name
            for name in files
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
        ]
    return sorted(found)


def file_stats(root: str | Path, paths: list[str]) -> np.ndarray:
    """Return the size in bytes and the time of change in nanoseconds of each file, (N, 2); -1 where there is none."""
    stats, prefix = np.full((len(paths), 2), -1, dtype=np.int64), os.path.join(root, "")
    for i, path in enumerate(paths):
        try:
            found = os.stat(prefix + path)
        except OSError:
            continue
        stats[i] = found.st_size, found.st_mtime_ns
    return stats


def find(root: str | Path) -> Samples:
    """List a labelled folder of images.

    Raises:
        ValueError: The folder is missing, holds no images, or fewer than two classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"data.root={str(root)!r} is not a folder, so there is nothing to train on; "
            "give the folder that holds one folder of images per class."
        )
    paths = list_images(root)
    top = {path.split("/", 1)[0] for path in paths if "/" in path}
    is_split = "train" in top and top <= set(GIVEN_SPLITS)
    depth = 1 if is_split else 0
    paths = [path for path in paths if path.count("/") > depth]
    if not paths:
        raise ValueError(
            f"data.root={str(root)!r} holds no images in class folders, so there is nothing to train on; "
            f"it must look like ROOT/CLASS/IMAGE with images of the types {' '.join(sorted(EXTENSIONS))}."
        )
    classes = sorted({path.split("/", depth + 1)[depth] for path in paths})
    if len(classes) < 2:
        raise ValueError(
            f"data.root={str(root)!r} holds one class, {classes[0]!r}, so there is nothing to tell apart; "
            "give the folder above it, or add a second class."
        )
    number = {name: index for index, name in enumerate(classes)}
    given = [GIVEN_SPLITS[path.split("/", 1)[0]] for path in paths] if is_split else None
    labels = (number[path.split("/", depth + 1)[depth]] for path in paths)
    return Samples(paths, np.fromiter(labels, np.int64, len(paths)), classes, given)


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with it becomes a ValueError that names the file.

    Raises:
        ValueError: The file cannot be read to its end as an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}), so training on it would be wrong; replace or remove it."
        ) from error


def look(path: str | Path) -> tuple[int, bool]:
    """Return the shorter side of an image in pixels, and whether it is grey."""
    with opened(path) as image:
        return min(image.size), image.mode in ("1", "L") or image.mode.startswith("I")


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
        ValueError: The file cannot be read to its end as an image.
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


class Indexable(Protocol):
    """Images (HWC, uint8) by position."""

    def __getitem__(self, index: int) -> np.ndarray: ...


class ImageDataset(Dataset[Batch]):
    """The images of one split.

    Args:
        root: The folder that ``paths`` are relative to.
        paths: One path per sample.
        labels: One class index per sample.
        channels: 1 for grey, 3 for RGB.
        size: The side in pixels at which an image is decoded.
        transform: Takes an image (HWC, uint8) and a seed; None, the deterministic view, for an unseeded sample.
        decoded: The images by position, where they need no decoding.
    """

    def __init__(
        self,
        root: str | Path,
        paths: list[str],
        labels: np.ndarray,
        channels: int,
        size: int,
        transform: Callable[[np.ndarray, int | None], np.ndarray],
        decoded: Indexable | None = None,
    ) -> None:
        self.root = Path(root)
        self.paths = paths
        self.labels = labels
        self.channels = channels
        self.size = size
        self.transform = transform
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.paths)

    def _image(self, key: int | tuple[int, int]) -> tuple[np.ndarray, int]:
        # Lightning's overfit_batches swaps our sampler for one that yields plain integers.
        index, seed = key if isinstance(key, tuple) else (key, None)
        if self.decoded is None:
            image = decode(self.root / self.paths[index], self.channels, self.size)
        else:
            image = self.decoded[index]
        return self.transform(image, seed).transpose(2, 0, 1), index

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        image, index = self._image(key)
        return Batch(torch.from_numpy(image.copy()), torch.tensor(self.labels[index]), torch.tensor(index))

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> Batch:
        """Fetch a batch into one array, which spares collating its samples."""
        images, indices = zip(*map(self._image, keys), strict=True)
        index = np.array(indices)
        return Batch(*map(torch.from_numpy, (np.stack(images), self.labels[index], index)))


def collate(batch: Any) -> Any:
    """Collate the samples of a data set that does not fetch whole batches."""
    return batch if isinstance(batch, Batch) else default_collate(batch)


def write_digits(root: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits (8 × 8, grey) as ``root/DIGIT/NUMBER.png``."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]  (the extra `digits`)

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    with _whole_folder(root) as folder:
        _write(folder, zip(images, labels.astype(str), strict=True))


def write_cifar10(root: Path) -> None:
    """Write CIFAR-10 as ``root/{train,test}/CLASS/NUMBER.png``; torchvision downloads it unless it is there."""
    from torchvision.datasets import CIFAR10

    archive = root.parent / f"{root.name}-archive"
    with _whole_folder(root) as folder:
        for split in ("train", "test"):
            try:
                data = CIFAR10(str(archive), train=split == "train", download=True)
            except (OSError, RuntimeError) as error:
                raise ValueError(
                    f"CIFAR-10 could not be loaded ({error}), so there is nothing to train on; "
                    f"connect to a network or put cifar-10-python.tar.gz into {archive}."
                ) from error
            _write(
                folder / split,
                ((image, data.classes[label]) for image, label in zip(data.data, data.targets, strict=True)),
            )


def _write(folder: Path, images: Iterable[tuple[np.ndarray, str]]) -> None:
    for number, (image, name) in enumerate(images):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{number:05d}.png")


@contextmanager
def _whole_folder(root: Path) -> Iterator[Path]:
    """Yield a folder to fill that becomes ``root`` in one step, so that a killed run leaves no half of a data set."""
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield folder
        folder.chmod(0o755)
        try:
            folder.rename(root)
        except OSError:  # another run wrote the same set at the same moment
            if not root.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
