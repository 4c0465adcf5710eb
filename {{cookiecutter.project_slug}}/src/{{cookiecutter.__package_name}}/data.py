"""The LightningDataModule: split → dataset → sampler → loader.

To use labels from elsewhere than folders (a CSV file, say), change ``samples``; the rest does not know where they came
from.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from .augment import Augment, check_name, one_thread
from .cache import Cache
from .images import Batch, ImageDataset, Samples, collate, find, list_images, look, write_cifar10, write_digits
from .mistakes import require
from .sampling import EpochSampler, TrainLoader, run_seed
from .splits import Manifest, fingerprint, make, stratified_part

WRITERS: dict[str, Callable[[Path], None]] = {"digits": write_digits, "cifar10": write_cifar10}


class ImageData(LightningDataModule):
    """Images of a folder as seeded, split and augmented batches.

    Args:
        root: The folder: ROOT/CLASS/IMAGE or ROOT/{train,val,test}/CLASS/IMAGE; or digits or cifar10, which are written
            to data/ first.
        image_size: Side of the network's input, in pixels; null follows the images, up to 64.
        stored_size: Side at which images are decoded, for pipelines that crop; null means image_size.
        channels: 1 for grey, 3 for RGB; null follows the images.
        batch_size: Samples of one optimizer step: devices × per-device batch × accumulate_grad_batches.
        val_fraction: Validation share of what the folder does not split itself.
        test_fraction: Test share of the same.
        split_seed: Seed of the splits; null means the run's seed.
        group_pattern: Regular expression; images whose paths match alike (a patient, a video) stay in one split.
        train_fraction: Stratified share of the training split to train on.
        manifest: A manifest.json to take the splits from instead of drawing them.
        balance: Against rare classes: draw them as often as others (sampler), or weigh their loss by the inverse of
            their number (class_weights) or of their effective number (effective_weights, Cui et al. 2019).
        augment: The pipeline of the training images, see augment.py.
        flip: Whether a mirror image keeps its label; never for digits and letters.
        num_workers: Loader processes per device; null chooses by the machine's cores.
        cache_gb: Gigabytes that decoded images may take on the disk, see cache.py; null is half of the memory and of
            the disk, 0 decodes images again in every epoch.
        cache_root: Where they lie, and the hashes by which copies of an image are told.
        predict_root: The folder of images that predict reads, labelled or not.
    """

    def __init__(
        self,
        root: str = "data/images",
        image_size: int | None = None,
        stored_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int | None = None,
        group_pattern: str | None = None,
        train_fraction: float = 1.0,
        manifest: str | None = None,
        balance: Literal["none", "sampler", "class_weights", "effective_weights"] = "none",
        augment: str = "light",
        flip: bool = False,
        num_workers: int | None = None,
        cache_gb: float | None = None,
        cache_root: str = "data/cache",
        predict_root: str | None = None,
    ) -> None:
        super().__init__()
        self.built_in = root if root in WRITERS and not os.path.isdir(root) else None
        self.root = Path("data", root) if self.built_in else Path(root)
        self.image_size, self.stored_size, self.channels = image_size, stored_size, channels
        self.augment, self.flip, self.predict_root = augment, flip, predict_root
        self.batch_size, self.train_fraction, self.balance = batch_size, train_fraction, balance
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.group_pattern, self.manifest_path = group_pattern, manifest
        self.cache_gb, self.cache_root = cache_gb, cache_root
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.num_workers = min(8, cores - 1) if num_workers is None else num_workers
        check_name(augment)
        require(batch_size >= 1, "data.batch_size", batch_size, "x ≥ 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "x ≥ 0")
        require(0 < train_fraction <= 1, "data.train_fraction", train_fraction, "0 < x ≤ 1")
        self.manifest: Manifest | None = None
        self.cache: Cache | None = None
        self.fingerprint = ""  # which images of which size there are; known after setup("fit")

    @property
    def seed(self) -> int:
        """The seed of the splits."""
        return run_seed() if self.split_seed is None else self.split_seed

    @property
    def hash_index(self) -> Path:
        """The file that keeps the hashes by which copies of an image are told."""
        return Path(self.cache_root, "hashes.npy")

    @property
    def class_names(self) -> list[str]:
        """The class names; a label is a position in this list. Known after ``setup``."""
        assert self.manifest is not None
        return self.manifest.classes

    @property
    def class_counts(self) -> np.ndarray:
        """The training samples of each class, (K,)."""
        return np.bincount(self.train.labels, minlength=len(self.class_names))

    @property
    def class_weights(self) -> Tensor:
        """The loss weight of each class, (K,): in inverse proportion to its (effective) number, with mean 1 over
        samples.

        The effective number of n samples is (1 − β^n) / (1 − β) with β = 0.999.
        """
        counts = self.class_counts
        weights = np.ones(len(counts))
        if self.balance == "class_weights":
            weights = 1 / counts
        elif self.balance == "effective_weights":
            weights = (1 - 0.999) / (1 - 0.999**counts)
        return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)

    @property
    def draw_weights(self) -> Tensor | None:
        """The weight of each training sample in the draw, or None where all are taken."""
        if self.balance != "sampler":
            return None
        return torch.from_numpy(1.0 / self.class_counts[self.train.labels])  # per sample, not per class

    @property
    def class_prior(self) -> Tensor:
        """The share of each class in the training split, (K,)."""
        return torch.tensor(self.class_counts / self.class_counts.sum(), dtype=torch.float32)

    def samples(self) -> Samples:
        """List the samples of the data set: their paths, labels and classes."""
        return find(self.root)

    def prepare_data(self) -> None:
        if self.built_in and not self.root.exists():
            WRITERS[self.built_in](self.root)

    def setup(self, stage: str) -> None:
        samples = None
        if self.manifest is None:
            if self.manifest_path is not None:
                self.manifest = Manifest.load(self.manifest_path)
            else:
                samples = self.samples()
                fractions = self.val_fraction, self.test_fraction
                grouped = self.group_pattern, self.hash_index
                self.manifest = make(samples, self.root, *fractions, self.seed, *grouped)
            paths, labels = self.manifest.splits["train"]
            self._follow_images(paths)
            if self.train_fraction < 1:
                kept = stratified_part(labels, self.train_fraction, self.seed)
                paths, labels = [paths[i] for i in kept], labels[kept]
            self._decode_once(build=stage == "fit")
            self.train = self.dataset(self.root, paths, labels)
        if stage == "fit" and not self.fingerprint:
            self.fingerprint = fingerprint(samples or self.samples(), self.root)
        if stage == "predict":
            root = Path(self.predict_root or "")
            paths = list_images(root) if self.predict_root else []
            if not paths:
                raise ValueError(
                    f"data.predict_root={self.predict_root!r} holds no images, so there is nothing to predict; "
                    "give a folder of images: predict --data.predict_root FOLDER."
                )
            self.predict = self.dataset(root, paths, np.full(len(paths), -1))

    def _follow_images(self, paths: list[str]) -> None:
        """Choose the size and channels that are not given by a look at a few images, and make the view of them."""
        if self.image_size is None or self.channels is None:
            picked = np.unique(np.linspace(0, len(paths) - 1, 32).astype(int))
            sides, grey = zip(*(look(self.root / paths[i]) for i in picked), strict=True)
            self.image_size = self.image_size or min(64, int(np.median(sides)))
            self.channels = self.channels or (1 if all(grey) else 3)
        self.stored_size = self.stored_size or self.image_size
        if self.stored_size < self.image_size:
            raise ValueError(
                f"data.stored_size={self.stored_size} is smaller than image_size={self.image_size}, so no crop fits; "
                "raise it."
            )
        self.view = Augment(self.augment, self.image_size, self.flip)

    def _decode_once(self, build: bool) -> None:
        """Open the cache of decoded training and validation images, if there is one; before training it is built."""
        assert self.manifest is not None
        paths = [path for split in ("train", "val") for path in self.manifest.splits[split][0]]
        if self.cache_gb != 0:
            cache = Cache(self.cache_root, self.root, paths, self.channels, self.stored_size)  # pyright: ignore
            self.cache = cache if (cache.build(self.cache_gb) if build else cache.is_whole()) else None

    def dataset(self, root: Path, paths: list[str], labels: np.ndarray) -> ImageDataset:
        """Make the data set of one split; its images come from the cache if there is one and it holds them."""
        decoded = self.cache.pixels(paths) if self.cache and root == self.root else None
        return ImageDataset(root, paths, labels, self.channels, self.stored_size, self.view, decoded)  # pyright: ignore

    def split(self, name: str) -> ImageDataset:
        """Return the validation or test split.

        Raises:
            ValueError: The split is empty.
        """
        assert self.manifest is not None
        paths, labels = self.manifest.splits[name]
        if not paths:
            raise ValueError(
                f"the {name} split is empty, so there is nothing to score; raise data.{name}_fraction above 0 in a new "
                "run."
            )
        return self.dataset(self.root, paths, labels)

    def _loader(self, dataset: ImageDataset, training: bool = False) -> DataLoader[Batch]:
        ranks, rank, accumulated = 1, 0, 1
        if self.trainer is not None:
            ranks, rank, accumulated = (
                self.trainer.world_size,
                self.trainer.global_rank,
                self.trainer.accumulate_grad_batches,
            )
        share = ranks * (accumulated if training else 1)
        if training and self.batch_size % share:
            raise ValueError(
                f"data.batch_size={self.batch_size} does not divide by {ranks} device(s) × {accumulated} accumulated "
                f"batches, so a step would not hold what you asked for; give a multiple of {share}."
            )
        if training and self.batch_size > len(dataset):
            raise ValueError(
                f"data.batch_size={self.batch_size} exceeds the {len(dataset)} training images, "
                f"so there would be no step to take; lower it to {len(dataset)} or less."
            )
        weights = self.draw_weights if training else None
        sampler = EpochSampler(dataset, self.batch_size if training else None, run_seed(), weights, ranks, rank)
        options: dict[str, Any] = {"persistent_workers": True, "worker_init_fn": one_thread} if self.num_workers else {}
        if training and self.trainer is not None:
            trainer, progress = self.trainer, self.trainer.fit_loop.epoch_loop.batch_progress
            options["position"] = lambda: (trainer.current_epoch, progress.current.ready)
        return (TrainLoader if training else DataLoader)(
            dataset,
            batch_size=max(1, self.batch_size // share),
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            **options,
        )

    def images_of(self, epoch: int, batch_idx: int) -> list[str]:
        """Return the paths of a training batch, over all ranks; none where overfit_batches has taken over the order."""
        if self.trainer is not None and self.trainer.overfit_batches:  # pyright: ignore
            return []
        sampler = EpochSampler(self.train, self.batch_size, run_seed(), self.draw_weights)
        share = self.batch_size // (self.trainer.accumulate_grad_batches if self.trainer else 1)
        order, _ = sampler.order(epoch)
        return [self.train.paths[i] for i in order[batch_idx * share : (batch_idx + 1) * share].tolist()]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data than the run began with.

        Raises:
            ValueError: Images were added, removed, renamed or changed in size since.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and state_dict["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"the images of data.root={str(self.root)!r} are not those that the run began with, so its splits and "
                "its order would be others; bring them back, or start a new run from these weights: "
                "--model.weights CHECKPOINT."
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.split("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.split("test"))

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.predict)
