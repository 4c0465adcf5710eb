"""The one sampler: which sample comes when, as a pure function of (seed, epoch, position)."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


@functools.lru_cache(maxsize=64)
def derived_seed(*parts: int) -> int:
    """Mix integers into a seed below 2**32 that shares nothing with its neighbours'."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def run_seed() -> int:
    """Return the seed of the run, which Lightning's ``seed_everything`` leaves in the environment."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Yields (index, augmentation seed); every rank takes its stride of one global order.

    It subclasses DistributedSampler because Lightning leaves those alone, but pads nothing: ranks may differ by one
    sample in evaluation. Training drops what does not fill the last batch of an optimizer step.

    Args:
        dataset: What to draw from.
        batch_size: The samples of one optimizer step over all ranks, for training; None for evaluation: every sample
            once, in order.
        seed: The seed of the order, of the draws and of the augmentations.
        weights: One weight per sample to draw with replacement, or None for a shuffle.
        num_replicas: The number of ranks.
        rank: This rank.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = None,
        seed: int = 0,
        weights: torch.Tensor | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        size = len(dataset)  # pyright: ignore[reportArgumentType]
        self.length = size if batch_size is None else size // batch_size * batch_size
        self.training = batch_size is not None
        self.weights = weights
        self.start = 0  # samples of this rank that a resumed epoch has behind it

    def __len__(self) -> int:
        return (self.length - self.rank + self.num_replicas - 1) // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int] | int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self.training:
            yield from range(self.rank, self.length, self.num_replicas)
            return
        order, seeds = self.order(self.epoch)
        mine = slice(self.rank + self.start * self.num_replicas, self.length, self.num_replicas)
        yield from zip(order[mine].tolist(), seeds[mine].tolist(), strict=True)

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the samples of an epoch over all ranks in their order, and the seed of each one's augmentation."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        if self.weights is None:
            order = torch.randperm(len(self.dataset), generator=generator)  # pyright: ignore[reportArgumentType]
        else:
            order = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator)
        return order, torch.randint(2**31, (len(order),), generator=generator)


class TrainLoader(DataLoader[Any]):
    """A loader that starts at its first batch, when Lightning has set the epoch and restored the position in it.

    (Lightning makes the iterator before it does either, and workers then read ahead in the order of epoch 0.)

    Args:
        position: Returns the epoch and the batches of it that the run has behind it.
    """

    def __init__(self, *args: Any, position: Callable[[], tuple[int, int]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.position = position

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        epoch, batches = self.position() if self.position else (0, 0)
        if self.position and isinstance(self.sampler, EpochSampler):
            self.sampler.set_epoch(epoch)
            self.sampler.start = batches * (self.batch_size or 1)
            batches = 0
        yield from itertools.islice(super().__iter__(), batches, None)  # overfit_batches swaps the sampler
