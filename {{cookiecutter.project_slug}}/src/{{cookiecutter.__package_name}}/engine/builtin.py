"""The built-in data sets: written out as folders of images, so that they walk the same way as your own."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from .mistakes import Mistake

DIGITS = Path(__file__).with_name("digits.csv.gz")


def is_built_in(root: str) -> bool:
    """Tell whether a root names a built-in set, and no folder of that name hides it."""
    return root in WRITERS and not os.path.isdir(root)


def write_built_in(name: str, folder: Path) -> None:
    """Write a built-in set, unless its folder is there."""
    if not folder.exists():
        WRITERS[name](folder)


def write_digits(root: Path) -> None:
    """Write 1,797 handwritten digits (8 × 8, grey) as ``root/DIGIT/NUMBER.png``: those of scikit-learn.

    They are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998), UCI Machine
    Learning Repository, https://archive.ics.uci.edu/dataset/80, CC BY 4.0.
    """
    rows = np.loadtxt(DIGITS, dtype=np.uint8, delimiter=",")  # 64 greys of 0 to 16, then the digit
    images = (rows[:, :-1] * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    with _whole_folder(root) as folder:
        _write(folder, zip(images, rows[:, -1].astype(str), strict=True))


def write_cifar10(root: Path) -> None:
    """Write CIFAR-10 as ``root/{train,test}/CLASS/NUMBER.png``; torchvision downloads it unless it is there."""
    from torchvision.datasets import CIFAR10

    archive = root.parent / f"{root.name}-archive"
    with _whole_folder(root) as folder:
        for split in ("train", "test"):
            try:
                data = CIFAR10(str(archive), train=split == "train", download=True)
            except (OSError, RuntimeError) as error:
                raise Mistake(
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


WRITERS: dict[str, Callable[[Path], None]] = {"digits": write_digits, "cifar10": write_cifar10}
