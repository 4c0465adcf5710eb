"""What every data module of image files shares: size and values, copies, the cache, and what ``predict`` reads."""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from . import preprocessing
from .builtin import is_built_in, write_built_in
from .cache import Cache, opened_cache
from .contents import check_there, copies, file_stats, fingerprint
from .decoding import MEGAPIXELS
from .files import check_path
from .folders import new_images
from .images import Decoding, ImageDataset, check_colour, grid
from .labels import Asked, Table, read_labels
from .loading import Plain, SplitData
from .looks import check_colours, look_at, remarks, settled
from .mistakes import Mistake, require, some
from .preprocessing import Fit, Interpolation, check_values
from .splits import Samples
from .targets import Task

SHOWN = 64  # images of a batch, at most, that a logger is shown

PLAIN_SIDE = 16  # pixels, at most, of an image as a row of numbers
PORTION = 64  # images that a thread makes small at a time


class View(Protocol):
    """What of an image the network gets."""

    def __call__(self, image: np.ndarray, seed: int | None) -> np.ndarray:
        """Take an image (HWC, uint8); without a seed the view is the one of evaluation."""
        ...


class ImageFiles(SplitData):
    """Image files below a root; a subclass lists its ``samples`` and makes the ``view``.

    Args:
        root: The folder that the keys of the samples, their paths, are relative to; or the name of a built-in set.
        image_size: Side of the network's input, in pixels; null follows the images, up to 64. Where the network
            declares its preprocessing, null here and in stored_size, resize_size, fit, interpolation, mean and std
            follows that.
        stored_size: Side at which images are decoded, for pipelines that crop; null means image_size.
        resize_size: Side that the shorter side is scaled to before the centre of stored_size is cut, pixel for pixel as
            torchvision does; null cuts and scales at once.
        channels: 1 for grey, 3 for RGB; null follows the images.
        fit: What is done to an image that is not square: crop its longer sides (null, unless the network declares
            another), pad its shorter ones, or stretch it.
        interpolation: The filter that images are scaled with; null is bilinear.
        mean: The mean that pixels from 0 to 1 are normalised with: three numbers, or one for all; null is ImageNet's.
        std: Their deviation, likewise.
        background: The colour behind transparent parts and beside padded images: white, black, '#808080'.
        value_range: The values that become black and white, of greys of more than 8 bits; null follows the files' tags,
            or else the images.
        max_megapixels: Millions of pixels that an image may have; more are refused, for a small file may unpack to more
            than the memory holds.
        cache_gb: Gigabytes that decoded images may take on the disk, see engine/cache.py; null is half of the memory
            and of the disk, 0 decodes images again in every epoch.
        cache_root: Where they lie, and the hashes by which copies of an image are told.
        predict_root: The images that predict reads, labelled or not: a folder or a file.
        labels: A table of labels beside the images (CSV, TSV, Parquet), instead of folders that are classes.
        image_column: Its column of paths, relative to the root or to the table, with or without a suffix.
        label_columns: Its columns of classes, labels or numbers.
        label_delimiter: What stands between the labels of one image, where they stand in one column.
        split_column: Its column of train, val and test; one called split or is_valid is found.
        group_column: Its column of groups (a patient, a video) that stay in one split; one called group is found.
        weight_column: Its column of weights of the samples in the loss and the scores; one called weight is found. Of
            these three none means that there is none, whatever columns are called.
        log_target: Whether the logarithm of the numbers is learned: what counts is then the ratio.
        outside: Whether paths in the table may lead out of the root.
        options: What every data module takes, see engine/loading.py.
    """

    noun, one, key = "images", "image", "path"
    baselines = ("neighbours", "linear")
    to_predict = ("--data.predict_root", "FOLDER")
    places = ("root", "predict_root", "labels")
    of_a_table = frozenset(Asked.names()) - {"root", "task", "outside"}

    def __init__(
        self,
        root: str,
        image_size: int | None = None,
        stored_size: int | None = None,
        resize_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Fit | None = None,
        interpolation: Interpolation | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        background: str = "white",
        value_range: tuple[float, float] | None = None,
        max_megapixels: float = MEGAPIXELS,
        cache_gb: float | None = None,
        cache_root: str = "data/cache",
        predict_root: str | None = None,
        labels: str | None = None,
        image_column: str | None = None,
        label_columns: list[str] | str | None = None,
        label_delimiter: str | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
        weight_column: str | None = None,
        log_target: bool = False,
        outside: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_colour(background)
        for name, side in (("image_size", image_size), ("stored_size", stored_size), ("resize_size", resize_size)):
            require(side is None or side >= 1, f"--data.{name}", side, "x ≥ 1", "images would have no pixels")
        for name, values, least in (("mean", mean, -math.inf), ("std", std, 0)):
            if values is not None:
                check_values(f"--data.{name}", values, least)
        require(max_megapixels > 0, "--data.max_megapixels", max_megapixels, "x > 0", "no image could be read")
        low, high = value_range or (0, 1)
        is_range = low < high and math.isfinite(high - low)
        require(is_range, "--data.value_range", value_range, "LOW < HIGH, both finite", "no value would be a grey")
        check_path("--data.root", root)
        check_path("--data.cache_root", cache_root)
        check_path("--data.predict_root", predict_root)
        self.built_in = root if is_built_in(root) and labels is None else None
        self.root = Path("data", root) if self.built_in else Path(root)
        self.image_size, self.stored_size, self.resize_size = image_size, stored_size, resize_size
        self.channels = channels
        self.fit, self.interpolation = fit, interpolation
        self.mean, self.std = mean, std
        self.background, self.value_range = background, value_range
        self.max_megapixels = max_megapixels
        self.cache_gb, self.cache_root = cache_gb, Path(cache_root)
        self.cache: Cache | None = None
        self.seen: tuple[list[str], np.ndarray] | None = None
        self.read_anew: tuple[list[str], np.ndarray] | None = None  # files that training reads in every epoch
        self.predict_root = predict_root
        self.outside = outside
        check_path("--data.labels", labels)
        self.labels: Asked | None = None
        self.table: Table | None = None  # what it says, until it is asked for
        asked = {"image_column": image_column, "label_columns": label_columns, "label_delimiter": label_delimiter}
        asked |= {"split_column": split_column, "group_column": group_column, "weight_column": weight_column}
        asked |= {"log_target": log_target, "outside": outside}
        unused = [name for name, value in asked.items() if value]
        if labels is None and unused:
            raise Mistake(
                f"--data.{unused[0]}={asked[unused[0]]} is of a table, and none is given, so it would do nothing; give "
                "--data.labels TABLE.csv, or leave it out."
            )
        if labels is not None:
            self.labels = Asked.by({"labels": labels, "root": root, "task": self.task, **asked})

    @classmethod
    def task_of_table(cls, settings: Mapping[str, Any]) -> Task | None:
        """Return what the table of labels holds, if one is given."""
        return read_labels(Asked.by(settings)).samples.target.task if settings.get("labels") else None

    @classmethod
    def check_new(cls, flag: str, place: str) -> None:
        new_images(flag, place)

    def of_table(self) -> Samples:
        """Return what the table of labels says, see engine/labels.py."""
        assert self.labels is not None
        table, self.table = self.table or read_labels(self.labels), None
        self.settled |= {**table.settled, "labels": str(Path(self.labels.labels).absolute())}
        self.inferred = "\n".join([table.remark, *table.samples.remarks])
        return table.samples

    def read_splits(self, stage: str) -> None:
        if stage == "fit":  # later the run's config names the folder
            self.find_root()
        super().read_splits(stage)

    def find_root(self) -> None:
        """Take the folder of the images from the table of labels, where there is one."""
        if self.labels is not None:
            self.table = read_labels(self.labels)
            self.root = self.table.root

    def make_view(self, size: int) -> View:
        """Make what turns a decoded image into the network's input, a square of this side."""
        raise NotImplementedError

    def fetch(self) -> None:
        if self.built_in:
            write_built_in(self.built_in, self.root)

    def check_there(self, keys: list[str]) -> None:
        """Refuse images that are gone, before any of them is read."""
        check_there(self.root, keys)

    def check_agrees(self, samples: Samples) -> None:
        """Refuse a table that says something else than the manifest, by which the run would be trained.

        Raises:
            Mistake: It does.
        """
        assert self.manifest is not None
        if self.labels is None or self.manifest_path is None:
            return
        if not self.manifest.agrees_with(samples):
            raise Mistake(
                f"--data.manifest={self.manifest_path!r} has other images, targets or weights than "
                f"--data.labels={self.labels.labels!r}, so what is trained on would not be what the table says; leave "
                "the manifest out, or give the table that it was drawn from."
            )

    def inputs(self, keys: list[str]) -> dict[str, Any]:
        """Settle size, channels and values, which follow the network and the training images unless they are given.

        Raises:
            Mistake: An image cannot be read, the network does not take the size, or there is nothing to crop.
        """
        fed, declared = self._asked()
        asked = {name: getattr(self, name) for name in preprocessing.NAMES}
        feed = preprocessing.followed(asked, fed)
        size = feed["image_size"] or (declared.what.size if declared is not None else None)
        given = size, self.channels, self.value_range
        # A run's config holds them all: its test and its predictions need no training image.
        is_looked_at = self.stage == "fit" or None in given
        looks = look_at(self.root, keys, self.max_megapixels, self.stage) if is_looked_at else []
        check_colours(looks)
        size, self.channels, self.value_range = settled(looks, *given)
        values = preprocessing.settled(feed, declared, size)
        for name, value in values.items():
            setattr(self, name, value)
        self.view = self.make_view(size)
        self.decoding = Decoding(
            channels=self.channels,
            size=values["stored_size"],
            fit=values["fit"],
            background=self.background,
            value_range=self.value_range,
            interpolation=values["interpolation"],
            resize=values["resize_size"],
            max_megapixels=self.max_megapixels,
        )
        said = [] if declared is None else [preprocessing.said(feed, declared, values)]
        self.remarks = [*said, *remarks(looks, self.decoding, given_range=given[2] is not None)]
        others = {"background": self.background, "value_range": list(self.value_range)}
        found = {"channels": self.channels, **values, **others}
        self.settled |= found
        return found

    def _asked(self) -> tuple[Mapping[str, Any], preprocessing.Declared | None]:
        """Return what the model's network was fed so far, and what it declares if it is to be trained afresh."""
        model: Any = self.model or getattr(self.trainer, "lightning_module", None)
        if model is None:
            return {}, None
        resumed, schema = getattr(model, "resumed", {}), getattr(model, "schema", None)
        if self.stage == "fit" and "from" in resumed:
            return preprocessing.inputs_of(resumed["from"]) or {}, None
        if schema is not None:
            return schema.inputs, None
        return {}, preprocessing.declared(model) if self.stage == "fit" else None

    def check_goes_on(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on with a run that was fed otherwise, as by a script that gives a checkpoint.

        Raises:
            Mistake: It was.
        """
        preprocessing.check_same(inputs, self.schema.inputs)

    def before_reading(self, training: bool) -> None:
        """Open the cache of decoded training and validation images; before training it is built."""
        assert self.manifest is not None
        keys = [key for split in ("train", "val") for key in self.manifest.splits[split][0]]
        self.cache = opened_cache(self.cache_root, self.root, keys, self.decoding, self.cache_gb, build=training)

    def example(self, count: int) -> Tensor:
        """Return images of noise."""
        size = (count, self.schema.inputs["channels"], *[self.schema.inputs["image_size"]] * 2)
        return torch.randint(256, size, dtype=torch.uint8)

    def picture(self, x: Tensor) -> np.ndarray:
        """Draw the first images of a batch side by side."""
        return grid(x[:SHOWN].cpu().numpy())

    def same(self, keys: list[str]) -> list[list[int]]:
        """Return the positions of copies of an image, which must not stand in two splits."""
        return copies(self.root, keys, self._stats(keys), self.cache_root / "hashes.npy")

    def _stats(self, keys: list[str]) -> np.ndarray:
        """Return sizes and times of files; those of one list are asked for once, for a million take seconds."""
        if self.seen is None or self.seen[0] is not keys:
            self.seen = keys, file_stats(self.root, keys)
        return self.seen[1]

    def fingerprint_of(self, samples: Samples) -> str:
        """Return a hash of the paths, classes and sizes of the images: a run goes on only with those it began with."""
        stats = self._stats(samples.keys)
        self.read_anew = (samples.keys, stats) if self.cache is None else None
        self.seen = None
        return fingerprint(samples, stats)

    def changed(self) -> str:
        """Say which files have another size or time of change; of a cache none are read any more."""
        if self.read_anew is None:
            return ""
        keys, before = self.read_anew
        now = file_stats(self.root, keys)
        # Whole seconds: some network's file systems forget the rest.
        is_other = (now[:, 0] != before[:, 0]) | (now[:, 1] // 10**9 != before[:, 1] // 10**9)
        others = np.flatnonzero(is_other).tolist()
        if not others:
            return ""
        names = some([str(self.root / keys[i]) for i in others[:5]])
        return f"{len(others)} of {len(keys)} images were replaced, changed or removed ({names})"

    def dataset(self, keys: list[str], targets: np.ndarray, weights: np.ndarray | None = None) -> ImageDataset:
        """Make the data set of some images; they come from the cache if there is one and it holds them."""
        decoded = self.cache.pixels(keys) if self.cache else None
        return ImageDataset(self.root, keys, targets, self.decoding, self.view, decoded, self.stage, weights)

    def plain(self, keys: list[str]) -> Plain:
        """Return images as rows of pixels, from 0 to 1: as evaluation sees them, averaged to 16 × 16 at most.

        Raises:
            Mistake: An image cannot be read.
        """
        assert self.image_size is not None
        images, area_SH = self.dataset(keys, np.zeros(len(keys))), averaging(self.image_size)

        def small(first: int) -> np.ndarray:
            x_NCHW = images.__getitems__([*range(first, min(first + PORTION, len(keys)))]).x.numpy()
            return np.einsum("sh,nchw,tw->nstc", area_SH, x_NCHW, area_SH, optimize=True) / 255

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
            x_NSSC = np.concatenate([*pool.map(small, range(0, len(keys), PORTION))])
        x_NF = x_NSSC.reshape(len(keys), -1)
        return Plain(x_NF, np.zeros(x_NF.shape[1], bool))

    def unlabelled(self) -> ImageDataset:
        """Make the data set that ``predict`` reads.

        Raises:
            Mistake: There are no images.
        """
        root, listing = new_images("--data.predict_root", self.predict_root)
        self.left_out, paths = listing.said(), listing.paths
        return ImageDataset(root, paths, np.full(len(paths), -1), self.decoding, self.view, command="predict")


def averaging(size: int, most: int = PLAIN_SIDE) -> np.ndarray:
    """Return how much of each pixel of a line goes into each of at most so many means of equal parts, (S, size)."""
    side = min(size, most)
    edges, pixel = np.linspace(0, size, side + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(0) * side / size
