"""The data: which samples there are, and which view of one the network gets. engine/loading.py splits and batches them.

To use labels from elsewhere than folders, change ``samples``; the rest does not know where they came from. With a file
of lines PATH,CLASS beside the images, for example::

    rows = [line.split(",") for line in (self.root / "labels.csv").read_text().split()]
    return Samples.labelled([path for path, _ in rows], [name for _, name in rows])

Paths are relative to the root; a third argument names the split of each, where the file does.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from .augment import Augment, check_name
from .engine.builtin import is_built_in, write_built_in
from .engine.cache import opened_cache
from .engine.contents import copies, fingerprint
from .engine.folders import Layout, find, list_images
from .engine.images import Decoding, Fit, ImageDataset, check_colour, look_at, remarks, settled
from .engine.loading import SplitData
from .engine.mistakes import Mistake, require
from .engine.splits import Samples


class ImageData(SplitData):
    """Images of a folder as seeded, split and augmented batches.

    Args:
        root: The folder: ROOT/CLASS/IMAGE or ROOT/{train,val,test}/CLASS/IMAGE; or digits or cifar10, which are written
            to data/ first.
        layout: Whether the folders in it are classes or splits; auto sees it, where there is one way to see it.
        image_size: Side of the network's input, in pixels; null follows the images, up to 64.
        stored_size: Side at which images are decoded, for pipelines that crop; null means image_size.
        channels: 1 for grey, 3 for RGB; null follows the images.
        fit: What is done to an image that is not square: crop its longer sides, pad its shorter ones, or stretch it.
        background: The colour behind transparent parts and beside padded images: white, black, '#808080'.
        value_range: The values that become black and white, of greys of more than 8 bits; null follows the images.
        augment: The pipeline of the training images, see augment.py.
        flip: Whether a mirror image keeps its label; never for digits and letters.
        cache_gb: Gigabytes that decoded images may take on the disk, see engine/cache.py; null is half of the memory
            and of the disk, 0 decodes images again in every epoch.
        cache_root: Where they lie, and the hashes by which copies of an image are told.
        predict_root: The images that predict reads, labelled or not: a folder or a file.
        options: What every data module takes, see engine/loading.py.
    """

    noun = "images"

    def __init__(
        self,
        root: str = "data/images",
        layout: Layout = "auto",
        image_size: int | None = None,
        stored_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Fit = "crop",
        background: str = "white",
        value_range: tuple[float, float] | None = None,
        augment: str = "light",
        flip: bool = False,
        cache_gb: float | None = None,
        cache_root: str = "data/cache",
        predict_root: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_name(augment)
        check_colour(background)
        for flag, side in (("--data.image_size", image_size), ("--data.stored_size", stored_size)):
            require(side is None or side >= 1, flag, side, "x ≥ 1", "images would have no pixels")
        self.built_in = root if is_built_in(root) else None
        self.root = Path("data", root) if self.built_in else Path(root)
        self.image_size, self.stored_size = image_size, stored_size
        self.channels = channels
        self.augment, self.flip = augment, flip
        self.predict_root = predict_root
        self.layout: Layout = layout
        self.fit: Fit = fit
        self.background, self.value_range = background, value_range
        self.cache_gb, self.cache_root = cache_gb, Path(cache_root)

    def prepare_data(self) -> None:
        if self.built_in:
            write_built_in(self.built_in, self.root)

    def samples(self) -> Samples:
        """List the images, their labels and classes."""
        return find(self.root, self.layout, self.allow_conflicts)

    def inputs(self, keys: list[str]) -> dict[str, Any]:
        """Settle size and channels, which follow the training images unless they are given.

        Raises:
            Mistake: An image cannot be read, or the stored size leaves nothing to crop.
        """
        looks, given = look_at(self.root, keys), self.value_range is not None
        chosen = settled(looks, self.image_size, self.channels, self.value_range)
        self.image_size, self.channels, self.value_range = chosen
        self.stored_size = self.stored_size or self.image_size
        if self.stored_size < self.image_size:
            raise Mistake(
                f"--data.stored_size={self.stored_size} is smaller than --data.image_size={self.image_size}, so no "
                "crop fits; raise it."
            )
        self.view = Augment(self.augment, self.image_size, self.flip)
        self.decoding = Decoding(self.channels, self.stored_size, self.fit, self.background, self.value_range)
        self.remarks = remarks(looks, self.decoding, given)
        sizes = {"channels": self.channels, "image_size": self.image_size, "stored_size": self.stored_size}
        return {**sizes, "fit": self.fit, "background": self.background, "value_range": list(self.value_range)}

    def before_reading(self, training: bool) -> None:
        """Open the cache of decoded training and validation images; before training it is built."""
        assert self.manifest is not None
        keys = [key for split in ("train", "val") for key in self.manifest.splits[split][0]]
        self.cache = opened_cache(self.cache_root, self.root, keys, self.decoding, self.cache_gb, build=training)

    def same(self, keys: list[str]) -> list[list[int]]:
        """Return the positions of copies of an image, which must not stand in two splits."""
        return copies(self.root, keys, self.cache_root / "hashes.npy")

    def fingerprint_of(self, samples: Samples) -> str:
        """Return a hash of the paths, classes and sizes of the images: a run goes on only with those it began with."""
        return fingerprint(samples, self.root)

    def dataset(self, keys: list[str], targets: np.ndarray) -> ImageDataset:
        """Make the data set of some images; they come from the cache if there is one and it holds them."""
        decoded = self.cache.pixels(keys) if self.cache else None
        return self._images(self.root, keys, targets, decoded)

    def unlabelled(self) -> ImageDataset:
        """Make the data set that ``predict`` reads.

        Raises:
            Mistake: There are no images.
        """
        root = Path(self.predict_root or "")
        if root.is_file():
            return self._images(root.parent, [root.name], np.full(1, -1))
        paths = list_images(root).paths if self.predict_root else []
        if not paths:
            raise Mistake(
                f"--data.predict_root={self.predict_root!r} holds no images, so there is nothing to predict; "
                "give a folder of images: predict --data.predict_root FOLDER."
            )
        return self._images(root, paths, np.full(len(paths), -1))

    def _images(self, root: Path, paths: list[str], targets: np.ndarray, decoded: Any = None) -> ImageDataset:
        return ImageDataset(root, paths, targets, self.decoding, self.view, decoded)
