"""What every data module here shares: samples → splits → data set → sampler → loader."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .batches import Batch as Batch
from .batches import collate, set_up_worker
from .mistakes import Mistake, require
from .sampling import EpochSampler, TrainLoader, run_seed
from .schema import Schema
from .splits import Manifest, Samples, check_conflicts, draw_splits, group, stratified_part
from .targets import AskedTask, Correction, Target, Task
from .together import are_connected, together
from .workers import affordable, bytes_of_sample

# The splits that each command reads.
READ_BY = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ()}


class Plain(NamedTuple):
    """Samples as a table of numbers, for models that are no networks.

    Args:
        x_NF: A row for each sample, float64: a number, NaN where it is missing, or the code of a category, from 0 on.
        is_category_F: Which columns hold codes.
    """

    x_NF: np.ndarray
    is_category_F: np.ndarray


class SplitData(LightningDataModule):
    """Seeded, split and balanced samples as batches.

    A subclass lists its ``samples`` and makes the ``dataset`` of a split; what else it may say stands below these two.

    Args:
        batch_size: Samples of one optimizer step: devices × per-device batch × accumulate_grad_batches.
        val_fraction: Validation share of what the data does not split itself.
        test_fraction: Test share of the same.
        split_seed: Seed of the splits; null means the run's seed.
        group_pattern: Regular expression; samples whose keys (paths) match alike (a patient, a video) stay in one
            split.
        train_fraction: Stratified share of the training split to train on.
        manifest: A manifest.json to take the splits from instead of drawing them.
        balance: Against rare classes and labels: draw them as often as others (sampler), or weigh their loss by the
            inverse of their number (class_weights) or of their effective number (effective_weights, Cui et al. 2019).
            Of numbers the sampler takes rare values as often as others.
        task: What is predicted: one of several classes (multiclass), any of several labels (multilabel), or numbers
            (regression); auto follows the data.
        allow_conflicts: Whether samples of equal content may have different targets, and class names may look alike.
        num_workers: Loader processes per device; null chooses by the machine's cores.
    """

    noun: ClassVar[str] = "samples"  # what they are called in messages,
    one: ClassVar[str] = "sample"  # and one of them
    key: ClassVar[str] = "key"  # what the column of their keys is called
    baselines: ClassVar[tuple[str, ...]] = ("linear", "trees")  # of linear, neighbours, trees: what is fitted beside it
    places: ClassVar[tuple[str, ...]] = ()  # flags that name files and folders
    of_a_table: ClassVar[frozenset[str]] = frozenset()  # flags that say how a table is read; a run keeps what was read
    to_predict: ClassVar[tuple[str, str]] = ("", "")  # the flag that names what is new, and what it names

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int | None = None,
        group_pattern: str | None = None,
        train_fraction: float = 1.0,
        manifest: str | None = None,
        balance: Correction = "none",
        task: AskedTask = "auto",
        allow_conflicts: bool = False,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train_fraction = train_fraction
        self.correction: Correction = balance
        self.task = task
        self.outside = False  # whether keys may lead out of the data's folder
        self.allow_conflicts = allow_conflicts
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed = split_seed
        self.group_pattern = group_pattern
        self.manifest_path = manifest
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.num_workers = min(8, cores - 1) if num_workers is None else num_workers
        require(batch_size >= 1, "--data.batch_size", batch_size, "x ≥ 1", "a step would see no sample")
        require(self.num_workers >= 0, "--data.num_workers", self.num_workers, "x ≥ 0", "no batch could be loaded")
        require(0 < train_fraction <= 1, "--data.train_fraction", train_fraction, "0 < x ≤ 1", "there is no such part")
        require(split_seed is None or split_seed >= 0, "--data.split_seed", split_seed, "x ≥ 0", "nothing is drawn")
        self.manifest: Manifest | None = None
        self.model: Any = None  # that is trained on it, where it is known before there is a trainer
        self.stage = "fit"  # the command that the data is for, as setup is told
        self.left_out = ""  # of the data set, for people
        self.inferred = ""  # from a table, likewise
        self.doubts = ""  # about targets, likewise
        self.remarks: list[str] = []  # what of the samples is lost or was inferred, likewise
        self.settled: dict[str, Any] = {}  # arguments that followed the data, as a run's config keeps them
        self.grouped: tuple[list[str], np.ndarray] | None = None  # the keys, and the group that the data gives each
        self.fingerprint = ""  # of the whole data set; known after setup("fit")
        self.unfetched: Exception | None = None  # why the data is not on this host
        self.workers: int | None = None  # those that have room for their batches; known with the first loader

    def samples(self) -> Samples:
        """List the samples of the data set."""
        raise NotImplementedError

    @classmethod
    def task_of_table(cls, settings: Mapping[str, Any]) -> Task | None:
        """Return what a table holds to predict; None where no table is given.

        Args:
            settings: Flags, ``--data.NAME``, by their names.
        """
        return None

    @classmethod
    def check_new(cls, flag: str, place: str) -> None:
        """Refuse what cannot be predicted, before the work.

        Args:
            flag: The flag that names it.
            place: What it names.

        Raises:
            Mistake: It is not there, or holds nothing to predict.
        """

    def dataset(self, keys: list[str], targets: np.ndarray, weights: np.ndarray | None = None) -> Dataset[Batch]:
        """Make the data set of some of the samples."""
        raise NotImplementedError

    def unlabelled(self) -> Dataset[Batch]:
        """Make the data set that ``predict`` reads; its targets are -1."""
        raise NotImplementedError

    def plain(self, keys: list[str]) -> Plain:
        """Return samples as a table of numbers, as evaluation sees them, for models that are no networks.

        Raises:
            Mistake: The data module does not say how.
        """
        raise Mistake(
            f"{type(self).__name__} has no method plain, so nothing but a network can be fitted on its samples; write "
            "one that returns Plain, see engine/loading.py."
        )

    def check_there(self, keys: list[str]) -> None:
        """Refuse samples of a manifest that are no longer there."""

    def corrections_of(self, target: Target) -> tuple[str, ...]:
        """Return what --data.balance may be for a target."""
        return target.corrections

    def check_agrees(self, samples: Samples) -> None:
        """Refuse samples whose targets are not those of the manifest."""

    def inputs(self, keys: list[str]) -> dict[str, Any]:
        """Say what a sample is, from the training split alone."""
        return {}

    def check_goes_on(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on with a run that was fed otherwise: the inputs of its schema are these."""

    def same(self, keys: list[str]) -> list[list[int]]:
        """Return the positions of samples of equal content, which must not stand in two splits."""
        return []

    @property
    def training_inputs(self) -> Any:
        """What a model fits its preprocessing on, from the training split alone; None where nothing is fitted."""
        return None

    def fingerprint_of(self, samples: Samples) -> str:
        """Return a hash of the data set: a run goes on only with the one that it began with."""
        return ""

    def changed(self) -> str:
        """Say which samples are others than they were before training; nothing where none are, or memory holds them."""
        return ""

    def before_reading(self, training: bool) -> None:
        """Get ready to make data sets, once the splits and the inputs are known."""

    def example(self, count: int) -> Tensor:
        """Return inputs as a batch has them, whatever their values, to measure how long a step takes."""
        raise NotImplementedError

    def picture(self, x: Tensor) -> np.ndarray | None:
        """Draw the inputs of a batch for loggers that show pictures, (H, W, 3); None where there is nothing to see."""
        return None

    @property
    def seed(self) -> int:
        """The seed of the splits."""
        return run_seed() if self.split_seed is None else self.split_seed

    @property
    def schema(self) -> Schema:
        """What a sample is and what is predicted of it. Known after ``setup``."""
        assert self.manifest is not None
        return self.manifest.schema

    @property
    def target(self) -> Target:
        """What is predicted. Known after ``setup``."""
        return self.schema.target

    @property
    def is_weighted(self) -> bool:
        """Whether samples have weights. Known after ``setup``."""
        return bool(self.manifest and self.manifest.weights)

    @property
    def loss_balance(self) -> Any:
        """What the model is told of the training split, see ``Target.balance``."""
        if self.train_weights is None:
            return self.target.balance(self.train_targets, self.correction)
        counts_N = self.train_weights > 0  # a sample of weight 0 is as if it were not there
        return self.target.balance(self.train_targets[counts_N], self.correction, self.train_weights[counts_N])

    @property
    def draw_weights(self) -> Tensor | None:
        """The weight of each training sample in the draw, or None where all are taken."""
        return self.target.draw_weights(self.train_targets) if self.correction == "sampler" else None

    @property
    def passes(self) -> int:
        """Forward passes that one optimizer step is made of: devices × accumulated batches."""
        if self.trainer is None:
            return 1
        accumulated = self.trainer.accumulate_grad_batches
        require(accumulated >= 1, "--trainer.accumulate_grad_batches", accumulated, "x ≥ 1", "no step could be made")
        return self.trainer.world_size * accumulated

    @property
    def device_batch(self) -> int:
        """Samples of one forward pass on one device."""
        return self.batch_size // self.passes

    def groups(self, keys: list[str]) -> np.ndarray:
        """Number the groups of samples that must not be torn apart, (N,). Known after ``setup("fit")``."""
        given = None
        if self.grouped is not None:
            of_key = dict(zip(*self.grouped, strict=True))
            given = np.array([of_key.get(key, -1 - i) for i, key in enumerate(keys)])
        return group(keys, self.group_pattern, self.same(keys), given)

    def drawn(self, samples: Samples, same: Sequence[Sequence[int]]) -> Manifest:
        """Draw the splits.

        Args:
            samples: The data set.
            same: Positions of samples that are equal, for each such set: they stay in one split.

        Raises:
            Mistake: They cannot be drawn as it is asked for.
        """
        groups = group(samples.keys, self.group_pattern, same, samples.groups)
        return draw_splits(samples, self.val_fraction, self.test_fraction, self.seed, groups, self.outside)

    def fetch(self) -> None:
        """Bring the data to this host, once."""

    def prepare_data(self) -> None:
        try:
            self.fetch()
        except Exception as error:
            if not are_connected():
                raise
            self.unfetched = error  # the other ranks wait; they hear of it in setup

    def setup(self, stage: str) -> None:
        with together():  # a host may lack the data
            if self.unfetched is not None:
                raise self.unfetched
            self.read_splits(stage)

    def read_splits(self, stage: str) -> None:
        """Read what a command needs of the data."""
        samples, self.stage = None, stage
        if self.manifest is None:
            if self.manifest_path is not None:
                self.manifest = manifest = Manifest.load(self.manifest_path, self.outside)
                self.check_there([key for split in READ_BY[stage] for key in manifest.splits[split][0]])
            else:
                samples = self.samples()
                same = self.same(samples.keys)
                if not self.allow_conflicts:
                    self.doubts = check_conflicts(samples, same)
                manifest = self.drawn(samples, same)
            self.manifest = manifest
            self._check_task(manifest.target)
            keys, targets = manifest.splits["train"]
            weights = manifest.weights.get("train")
            schema = Schema(self.inputs(keys), manifest.target)
            self.manifest = replace(manifest, schema=schema)
            self.settled["task"] = self.target.task
            if self.train_fraction < 1:
                kept = stratified_part(self.target.strata(targets), self.train_fraction, self.seed)
                keys, targets = [keys[i] for i in kept], targets[kept]
                weights = None if weights is None else weights[kept]
            self.train_keys, self.train_targets, self.train_weights = keys, targets, weights
            self.before_reading(training=stage == "fit")
            self.train = self.dataset(keys, targets, weights)
        if stage == "fit" and not self.fingerprint:
            samples = samples or self.samples()
            self.check_agrees(samples)
            self.grouped = None if samples.groups is None else (samples.keys, samples.groups)
            self.fingerprint, self.left_out = self.fingerprint_of(samples), samples.left_out
        if stage == "predict":
            self.predict = self.unlabelled()

    def _check_task(self, target: Target) -> None:
        if self.task not in ("auto", target.task):
            raise Mistake(
                f"--data.task={self.task} is not what the data holds: {target} ({target.task}); leave it out, or give "
                "--data.labels a table of such targets."
            )
        known = self.corrections_of(target)
        if self.correction not in known:
            raise Mistake(
                f"--data.balance={self.correction} weighs classes, and {target} has none; give {' or '.join(known)}."
            )

    def summary(self) -> str:
        """Say what there is to train on and to score. Known after ``setup``."""
        assert self.manifest is not None
        splits = {**self.manifest.splits, "train": (self.train_keys, self.train_targets)}
        sizes = ", ".join(f"{len(keys)} {split}" for split, (keys, _) in splits.items())
        lines = [f"data: {sizes}", self.target.table({split: targets for split, (_, targets) in splits.items()})]
        lines[1:1] = [self.inferred] if self.inferred else []
        lines += [self.doubts] if self.doubts else []
        lines += [f"left out: {self.left_out}"] if self.left_out else []
        return "\n".join([*lines, *self.remarks])

    def split(self, name: str) -> tuple[list[str], np.ndarray]:
        """Return the keys and targets of the validation or test split.

        Raises:
            Mistake: The split is empty.
        """
        assert self.manifest is not None
        keys, targets = self.manifest.splits[name]
        if not keys:
            remedy = f"raise --data.{name}_fraction above 0 in a new run"
            if self.stage == "fit":
                remedy = f"raise --data.{name}_fraction above 0, or train without: --trainer.limit_val_batches 0"
            raise Mistake(f"the {name} split is empty, so there is nothing to score; {remedy}.")
        return keys, targets

    def loader(self, dataset: Dataset[Batch], training: bool = False) -> DataLoader[Batch]:
        """Make the loader of a data set.

        Raises:
            Mistake: The batch does not divide over devices and accumulation, or exceeds the training split.
        """
        trainer, size = self.trainer, len(dataset)  # pyright: ignore[reportArgumentType]
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        if training and self.batch_size % self.passes:
            raise Mistake(
                f"--data.batch_size={self.batch_size} does not divide by {ranks} device(s) × "
                f"{self.passes // ranks} accumulated batches, so a step would not hold what you asked for; give a "
                f"multiple of {self.passes}."
            )
        if training and self.batch_size > size:
            raise Mistake(
                f"--data.batch_size={self.batch_size} exceeds the {size} training {self.noun}, so there would be no "
                f"step to take; lower it to {size} or less."
            )
        weights = self.draw_weights if training else None
        sampler = EpochSampler(dataset, self.batch_size if training else None, run_seed(), weights, ranks, rank)
        if self.workers is None:
            self.workers = self._affordable(dataset, ranks)
        options: dict[str, Any] = {"persistent_workers": True, "worker_init_fn": set_up_worker} if self.workers else {}
        if training and trainer is not None:
            progress = trainer.fit_loop.epoch_loop.batch_progress
            options["position"] = lambda: (trainer.current_epoch, progress.current.ready)
        return (TrainLoader if training else DataLoader)(
            dataset,
            batch_size=self.device_batch if training else max(1, self.batch_size // ranks),
            sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            **options,
        )

    def _affordable(self, dataset: Dataset[Batch], ranks: int) -> int:
        """Return how many of the workers that are asked for have room for their batches."""
        if not self.num_workers or not len(dataset):  # pyright: ignore[reportArgumentType]
            return self.num_workers
        samples = max(1, self.batch_size // ranks) + (self.device_batch if self.stage == "fit" else 0)
        here = ranks // (self.trainer.num_nodes if self.trainer is not None else 1)
        return affordable(self.num_workers, samples * bytes_of_sample(dataset), max(1, here))

    def samples_of(self, epoch: int, batch_idx: int) -> list[str]:
        """Return the keys of a training batch, over all ranks; none where overfit_batches has taken over the order."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # pyright: ignore[reportAttributeAccessIssue]
            return []
        sampler = EpochSampler(self.train, self.batch_size, run_seed(), self.draw_weights)
        share = self.device_batch * (trainer.world_size if trainer is not None else 1)
        order, _ = sampler.order(epoch)
        return [self.train_keys[i] for i in order[batch_idx * share : (batch_idx + 1) * share].tolist()]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data than the run began with.

        Raises:
            Mistake: Samples were added, removed, renamed or changed since.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and state_dict["fingerprint"] != self.fingerprint:
            raise Mistake(
                f"the {self.noun} are not those that the run began with, so its splits and its order would be others; "
                "bring them back, or start a new run from these weights: --model.weights CHECKPOINT."
            )

    def evaluated(self, name: str) -> Dataset[Batch]:
        """Make the data set of the validation or test split."""
        assert self.manifest is not None
        return self.dataset(*self.split(name), self.manifest.weights.get(name))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        is_exact = isinstance(batch, Batch) and batch.y.dtype == torch.float64
        if is_exact and self.trainer.strategy.root_device.type == "mps":  # which has no 64 bits
            return batch._replace(y=batch.y.float())
        return batch

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader(self.train, training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader(self.evaluated("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader(self.evaluated("test"))

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.loader(self.predict)
