"""What is predicted of a sample: how it is written, which strata a split keeps, how it is balanced, its columns.

Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

FEW = 20  # classes that are listed one by one
Correction = Literal["none", "sampler", "class_weights", "effective_weights"]


class Balance(NamedTuple):
    """What a loss knows of the training split: the weight of each class, and its share; (K,) each."""

    weights_K: Tensor
    prior_K: Tensor


@dataclass(frozen=True)
class Classes:
    """One of several classes; a target is a position in ``names``.

    Args:
        names: The class names.
    """

    names: list[str]
    task = "multiclass"

    def __str__(self) -> str:
        return f"the classes {', '.join(self.names[:4])}" + (f" … ({len(self.names)})" if len(self.names) > 4 else "")

    @property
    def columns(self) -> list[str]:
        """The name of each column of a prediction: a probability per class."""
        return self.names

    def write(self, value: int) -> str:
        """Return a target as people and files have it."""
        return self.names[value]

    def read(self, written: Sequence[str]) -> np.ndarray:
        """Return targets (N,) from what ``write`` gave.

        Raises:
            KeyError: A class is not known.
        """
        number = {name: index for index, name in enumerate(self.names)}
        return np.fromiter((number[name] for name in written), np.int64, len(written))

    def decide(self, probabilities_K: Sequence[float]) -> str:
        """Return what a prediction comes to: the most probable class."""
        return self.names[max(range(len(self.names)), key=probabilities_K.__getitem__)]

    def strata(self, target_N: np.ndarray) -> np.ndarray:
        """Return the stratum of each sample, (N,): a split keeps the share of each."""
        return target_N

    def counts(self, target_N: np.ndarray) -> np.ndarray:
        """Return the samples of each class, (K,)."""
        return np.bincount(target_N, minlength=len(self.names))

    def confusion(self, target_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
        """Return the confusion matrix, (K, K): a row for each true class, a column for each predicted one."""
        count = len(self.names)
        return np.bincount(target_N * count + label_N, minlength=count**2).reshape(count, count)

    def table(self, targets: dict[str, np.ndarray]) -> str:
        """Write the samples of each class in each split, a line a class, or of many classes a summary."""
        counts = {split: self.counts(target_N).tolist() for split, target_N in targets.items()}
        if len(self.names) > FEW:
            ranges = (f"{min(count_K)} to {max(count_K)} {split}" for split, count_K in counts.items())
            return f"  {len(self.names)} classes, each of {', '.join(ranges)}: {self.names[0]} … {self.names[-1]}"
        width = max(map(len, self.names))
        rows = zip(self.names, *counts.values(), strict=True)
        return "\n".join(f"  {name:<{width}}  {' / '.join(map(str, numbers))}" for name, *numbers in rows)

    def balance(self, target_N: np.ndarray | None, correction: Correction = "none") -> Balance:
        """Return the loss weight of each class, with mean 1 over samples, and its share.

        Weights are in inverse proportion to the number of samples (class_weights) or to their effective number
        (1 − β^n) / (1 − β) with β = 0.999 (effective_weights; Cui et al. 2019).

        Args:
            target_N: The training samples; None for a model that is loaded without data: weights are then ones.
            correction: Against rare classes.
        """
        if target_N is None:
            ones = torch.ones(len(self.names))
            return Balance(ones, ones / len(self.names))
        counts = self.counts(target_N)
        weights = np.ones(len(counts))
        if correction == "class_weights":
            weights = 1 / counts
        elif correction == "effective_weights":
            weights = (1 - 0.999) / (1 - 0.999**counts)
        scaled = weights * counts.sum() / (weights * counts).sum()
        return Balance(torch.tensor(scaled, dtype=torch.float32), torch.tensor(counts / counts.sum()).float())

    def draw_weights(self, target_N: np.ndarray) -> Tensor:
        """Return the weight of each sample in a draw that takes all classes equally often, (N,)."""
        return torch.from_numpy(1.0 / self.counts(target_N)[target_N])  # per sample, not per class

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, a checkpoint or an export."""
        return {"kind": "classes", "names": list(self.names)}


@dataclass(frozen=True)
class Labels:
    """Several labels per sample; a target is a row of 0 and 1.

    Args:
        names: The names of the labels.
    """

    names: list[str]
    task = "multilabel"

    @property
    def columns(self) -> list[str]:
        """The name of each column of a prediction."""
        return self.names


@dataclass(frozen=True)
class Numbers:
    """One or more numbers per sample, in the user's unit.

    Args:
        names: The names of the numbers.
        log: Whether their logarithm is learned.
    """

    names: list[str]
    log: bool = False
    task = "regression"

    @property
    def columns(self) -> list[str]:
        """The name of each column of a prediction."""
        return self.names


Target = Classes | Labels | Numbers


def target_from(content: dict[str, Any]) -> Classes:
    """Return the target that ``as_dict`` described.

    Raises:
        KeyError, TypeError: It describes none.
    """
    names = content["names"]
    if content["kind"] != "classes" or not all(isinstance(name, str) for name in names):
        raise TypeError(f"target {content!r}")
    return Classes(list(names))
