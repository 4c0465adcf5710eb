"""What is predicted of a sample: how it is written, which strata a split keeps, how it is balanced, its columns.

There are three: one of several classes, any of several labels, one or more numbers. The rest of the house asks a target
and does not know which it is. Shapes: N samples, K classes or labels, T numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from . import scores
from .mistakes import Mistake, some

FEW = 20  # classes that are listed one by one
BETWEEN = ";"  # of the labels of a sample, where they stand in one cell
Task = Literal["multiclass", "multilabel", "regression"]
AskedTask = Literal["auto", "multiclass", "multilabel", "regression"]
Correction = Literal["none", "sampler", "class_weights", "effective_weights"]


def check_task(task: str) -> None:
    """Refuse what --data.task does not know.

    Raises:
        Mistake: It is unknown.
    """
    known = get_args(AskedTask)
    if task not in known:
        raise Mistake(f"--data.task={task!r} is unknown, so nothing can be learned; give {', '.join(known)}.")


class Balance(NamedTuple):
    """What a loss knows of the training split: the weight of each class or label, and its share; (K,) each."""

    weights_K: Tensor
    prior_K: Tensor


@dataclass(frozen=True)
class Target:
    """What the three kinds share.

    Args:
        names: The names of the classes, labels or numbers: the columns of a prediction.
    """

    names: list[str]

    task: ClassVar[Task]  # as --data.task has it
    noun: ClassVar[str]  # of one name
    is_exclusive: ClassVar[bool] = False  # whether of two targets of one sample one must be wrong
    decision: ClassVar[list[str]] = []  # the columns of what a prediction comes to
    digits: ClassVar[int] = 9  # of a predicted value: what float32 has
    predicted: ClassVar[str] = "probabilities"  # what the columns of a prediction hold
    difference: ClassVar[str] = "of a probability"  # what ``differences`` measures
    loss_unit: ClassVar[str]  # of the usual losses
    score: ClassVar[str]  # by which two models are compared in short, see engine/scores.py
    corrections: ClassVar[tuple[Correction, ...]] = ("none", "sampler", "class_weights", "effective_weights")

    def __str__(self) -> str:
        return f"the {self.nouns if len(self.names) > 1 else self.noun} {some(self.names, counted=True)}"

    @property
    def nouns(self) -> str:
        """Of several names."""
        return "classes" if self.noun == "class" else f"{self.noun}s"

    @property
    def columns(self) -> list[str]:
        """The name of each column of a prediction."""
        return self.names

    @property
    def truth(self) -> list[str]:
        """The columns of a true target, beside those of a prediction."""
        return ["target"]

    @property
    def to_learn(self) -> list[str]:
        """Of what each split must have a sample; training, so that it can be learned, the others to be scored."""
        return self.names

    def write(self, value: Any) -> Any:
        """Return a target as plain values, as files have it."""
        raise NotImplementedError

    def read(self, written: Sequence[Any]) -> np.ndarray:
        """Return targets from what ``write`` gave.

        Raises:
            KeyError, TypeError, ValueError: It gave nothing like that.
        """
        raise NotImplementedError

    def told(self, value: Any) -> list[str]:
        """Return the cells of a true target."""
        return [str(self.write(value))]

    def chosen(self, predicted: Sequence[float], settled: Sequence[float] | None = None) -> list[str]:
        """Return what a prediction comes to: the class, the labels, or the numbers as they are written.

        Args:
            predicted: A value for each column.
            settled: What the model chose on validation, see ``Task.settled``.
        """
        return self.written(predicted)

    def decided(self, predicted: Sequence[float], settled: Sequence[float] | None = None) -> list[str]:
        """Return the cells of what a prediction comes to, where that is more than the prediction itself."""
        return [BETWEEN.join(self.chosen(predicted, settled))] if self.decision else []

    def written(self, predicted: Sequence[float]) -> list[str]:
        """Return the cells of a prediction, with the digits that it has."""
        return [f"{value:.{self.digits}g}" for value in predicted]

    def thresholds(self, settled: Sequence[float] | None = None) -> list[float] | None:
        """Return from which value on each column counts; None where none is decided on its own."""
        return None

    def measure(self, settled: Sequence[float] | None = None) -> scores.Measure:
        """Return what ``score`` is the name of."""
        raise NotImplementedError

    def alike(self, one: np.ndarray, other: np.ndarray, settled: Sequence[float] | None = None) -> float | None:
        """Return the share of samples of which two predictions come to the same; None where they come to nothing."""
        return None

    def differences(self, one: np.ndarray, other: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return how far two predictions are apart, as large as they are, in a unit in which 1 is much.

        Args:
            one: Predictions.
            other: Others of the same samples.
            targets: The true ones, of these samples or of more.
        """
        return np.abs(one - other)

    def holds(self, targets: np.ndarray, index: int) -> np.ndarray:
        """Tell which samples are examples of a name, (N,)."""
        raise NotImplementedError

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the stratum of each sample, (N,), or to which of several it belongs, (N, L): a split keeps the share
        of each.
        """
        raise NotImplementedError

    def counts(self, targets: np.ndarray) -> np.ndarray:
        """Return the samples of each class or label, (K,)."""
        return np.array([np.count_nonzero(self.holds(targets, index)) for index in range(len(self.to_learn))])

    def table(self, targets: dict[str, np.ndarray]) -> str:
        """Write the samples of each class or label in each split, a line each, or of many a summary."""
        counts = {split: self.counts(target).tolist() for split, target in targets.items()}
        if len(self.names) > FEW:
            ranges = (f"{min(count_K)} to {max(count_K)} {split}" for split, count_K in counts.items())
            return f"  {len(self.names)} {self.nouns}, each of {', '.join(ranges)}: {self.names[0]} … {self.names[-1]}"
        width = max(map(len, self.names))
        rows = zip(self.names, *counts.values(), strict=True)
        return "\n".join(f"  {name:<{width}}  {' / '.join(map(str, numbers))}" for name, *numbers in rows)

    def balance(
        self, targets: np.ndarray | None, correction: Correction = "none", weight_N: np.ndarray | None = None
    ) -> Any:
        """Return what a loss is told of the training split.

        Args:
            targets: The training samples; None for a model that is loaded without data.
            correction: Against rare classes.
            weight_N: The weight of each sample, above 0; it counts for the scale of numbers.
        """
        raise NotImplementedError

    def draw_weights(self, targets: np.ndarray) -> Tensor:
        """Return the weight of each sample in a draw that takes rare ones as often as others, (N,)."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, a checkpoint or an export."""
        return {"kind": type(self).__name__.lower(), "names": list(self.names)}


class Classes(Target):
    """One of several classes; a target is a position in ``names``, (N,)."""

    task, noun, decision = "multiclass", "class", ["label"]
    is_exclusive = True
    loss_unit, score = "nats per sample", "accuracy"

    def write(self, value: int) -> str:
        return self.names[value]

    def read(self, written: Sequence[str]) -> np.ndarray:
        number = {name: index for index, name in enumerate(self.names)}
        return np.fromiter((number[name] for name in written), np.int64, len(written))

    def chosen(self, predicted: Sequence[float], settled: Sequence[float] | None = None) -> list[str]:
        return [self.names[max(range(len(self.names)), key=predicted.__getitem__)]]

    def measure(self, settled: Sequence[float] | None = None) -> scores.Measure:
        return scores.accuracy

    def alike(self, one: np.ndarray, other: np.ndarray, settled: Sequence[float] | None = None) -> float:
        return float((one.argmax(1) == other.argmax(1)).mean())

    def holds(self, targets: np.ndarray, index: int) -> np.ndarray:
        return targets == index

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def counts(self, targets: np.ndarray) -> np.ndarray:
        return np.bincount(targets, minlength=len(self.names))

    def confusion(self, target_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
        """Return the confusion matrix, (K, K): a row for each true class, a column for each predicted one."""
        count = len(self.names)
        return np.bincount(target_N * count + label_N, minlength=count**2).reshape(count, count)

    def balance(
        self, targets: np.ndarray | None, correction: Correction = "none", weight_N: np.ndarray | None = None
    ) -> Balance:
        """Return the loss weight of each class, with mean 1 over samples, and its share.

        Weights are in inverse proportion to the number of samples (class_weights) or to their effective number
        (1 − β^n) / (1 − β) with β = 0.999 (effective_weights; Cui et al. 2019). Without data they are ones.
        """
        if targets is None:
            ones = torch.ones(len(self.names))
            return Balance(ones, ones / len(self.names))
        counts = self.counts(targets)
        weights = np.ones(len(counts))
        if correction == "class_weights":
            weights = 1 / counts
        elif correction == "effective_weights":
            weights = 1 / _effective(counts)
        scaled = weights * counts.sum() / (weights * counts).sum()
        return Balance(torch.tensor(scaled, dtype=torch.float32), torch.tensor(counts / counts.sum()).float())

    def draw_weights(self, targets: np.ndarray) -> Tensor:
        return torch.from_numpy(1.0 / self.counts(targets)[targets])  # per sample, not per class


class Labels(Target):
    """Any of several labels; a target has a 1 for each label that the sample has, (N, K)."""

    task, noun, decision = "multilabel", "label", ["labels"]
    loss_unit, score = "nats per label", "f1_micro"

    def write(self, value: np.ndarray) -> list[str]:
        return [self.names[index] for index in np.flatnonzero(value)]

    def read(self, written: Sequence[Iterable[str]]) -> np.ndarray:
        number = {name: index for index, name in enumerate(self.names)}
        target_NK = np.zeros((len(written), len(self.names)), np.uint8)
        for row, names in enumerate(written):
            if isinstance(names, str):
                raise TypeError(f"{names!r} is no list of labels")
            target_NK[row, [number[name] for name in names]] = 1
        return target_NK

    def told(self, value: np.ndarray) -> list[str]:
        return [BETWEEN.join(self.write(value))]

    def chosen(self, predicted: Sequence[float], settled: Sequence[float] | None = None) -> list[str]:
        """Return the labels whose probability reaches their threshold."""
        found = zip(self.names, predicted, self.thresholds(settled), strict=True)
        return [name for name, probability, least in found if probability >= least]

    def thresholds(self, settled: Sequence[float] | None = None) -> list[float]:
        """Return those of validation, 0.5 where none were chosen."""
        return list(settled or [0.5] * len(self.names))

    def measure(self, settled: Sequence[float] | None = None) -> scores.Measure:
        return partial(scores.f1_micro, thresholds=self.thresholds(settled))

    def alike(self, one: np.ndarray, other: np.ndarray, settled: Sequence[float] | None = None) -> float:
        thresholds_K = np.array(self.thresholds(settled))
        return float(((one >= thresholds_K) == (other >= thresholds_K)).all(1).mean())

    def holds(self, targets: np.ndarray, index: int) -> np.ndarray:
        return targets[:, index] == 1

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def counts(self, targets: np.ndarray) -> np.ndarray:
        return targets.sum(0, dtype=np.int64)

    def table(self, targets: dict[str, np.ndarray]) -> str:
        none = {split: int((target.sum(1) == 0).sum()) for split, target in targets.items()}
        text = super().table(targets)
        return f"{text}\n  without a label: {' / '.join(map(str, none.values()))}" if any(none.values()) else text

    def balance(
        self, targets: np.ndarray | None, correction: Correction = "none", weight_N: np.ndarray | None = None
    ) -> Balance:
        """Return the weight of each label's positive examples, and its share.

        Weights are ones, or the number of samples without the label over the number with it (class_weights), or the
        same of their effective numbers (effective_weights). Without data they are ones.
        """
        if targets is None:
            ones = torch.ones(len(self.names))
            return Balance(ones, ones / 2)
        positive = self.counts(targets).astype(float)
        negative, weights = len(targets) - positive, np.ones(len(positive))
        if correction == "class_weights":
            weights = np.maximum(negative, 1) / positive
        elif correction == "effective_weights":
            weights = _effective(np.maximum(negative, 1)) / _effective(positive)
        return Balance(torch.tensor(weights, dtype=torch.float32), torch.tensor(positive / len(targets)).float())

    def draw_weights(self, targets: np.ndarray) -> Tensor:
        """Weigh a sample by its rarest label; one without any as the most frequent label."""
        counts = np.maximum(self.counts(targets), 1)
        weights_N = (targets / counts).max(1)
        return torch.from_numpy(np.maximum(weights_N, 1.0 / counts.max()))


@dataclass(frozen=True)
class Numbers(Target):
    """One or more numbers, in the user's unit, (N, T).

    Args:
        names: The name of each.
        log: Whether their logarithm is learned: what counts is then the ratio, not the difference.
    """

    log: bool = False

    task, noun = "regression", "number"
    predicted, difference = "values", "of a value in standard deviations"
    loss_unit, score = "of standardised numbers", "rmse"
    digits: ClassVar[int] = 12
    corrections: ClassVar[tuple[Correction, ...]] = ("none", "sampler")
    BINS: ClassVar[int] = 10

    @property
    def truth(self) -> list[str]:
        return [f"true_{name}" for name in self.names]

    @property
    def to_learn(self) -> list[str]:
        return []

    def write(self, value: np.ndarray) -> list[float]:
        return [float(number) for number in value]

    def read(self, written: Sequence[Sequence[float]]) -> np.ndarray:
        values = np.array(written)
        if values.dtype.kind not in "fiu":
            raise TypeError("a target is no list of numbers")
        target_NT = values.astype(np.float64).reshape(len(written), len(self.names))
        if not np.isfinite(target_NT).all() or (self.log and (target_NT <= 0).any()):
            raise ValueError("a target is no finite number, or has no logarithm")
        return target_NT

    def told(self, value: np.ndarray) -> list[str]:
        return self.written(value.tolist())

    def learned(self, targets: np.ndarray) -> np.ndarray:
        """Return what is learned of targets, before it is standardised."""
        return np.log(targets) if self.log else targets

    def unlearned(self, values: np.ndarray) -> np.ndarray:
        """Return what is learned in the user's unit again."""
        return np.exp(values) if self.log else values

    def measure(self, settled: Sequence[float] | None = None) -> scores.Measure:
        return scores.rmse

    def differences(self, one: np.ndarray, other: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the differences of what is learned, in standard deviations of the targets."""
        return np.abs(self.learned(one) - self.learned(other)) / self.learned(targets).std(0)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the bin of each sample between quantiles; of several numbers to which bin of each it belongs."""
        count = int(
            np.clip(len(targets) // 20, 1, self.BINS)
        )  # so many that a split of a few per cent has some of each
        bins_NT = np.stack([_quantile_bins(values_N, count) for values_N in targets.T], axis=1)
        if len(self.names) == 1:
            return bins_NT[:, 0]
        return np.concatenate([np.eye(count, dtype=np.uint8)[bins_N] for bins_N in bins_NT.T], axis=1)

    def table(self, targets: dict[str, np.ndarray]) -> str:
        width, lines = max(map(len, self.names)), []
        for index, name in enumerate(self.names):
            parts = [
                f"{values_N.min():.4g} to {values_N.max():.4g}, mean {values_N.mean():.4g}" if len(values_N) else "none"
                for values_N in (target[:, index] for target in targets.values())
            ]
            lines.append(f"  {name:<{width}}  {' / '.join(parts)}")
        return "\n".join(lines)

    def balance(
        self, targets: np.ndarray | None, correction: Correction = "none", weight_N: np.ndarray | None = None
    ) -> "Standardised":
        """Return what standardises the numbers, by the mean and the deviation of these; without data by 0 and 1.

        Raises:
            Mistake: A number is the same in all training samples.
        """
        if targets is None:
            return Standardised(np.zeros(len(self.names)), np.ones(len(self.names)), self.log)
        learned_NT = self.learned(targets)
        if weight_N is None:
            centre_T, scale_T = learned_NT.mean(0), learned_NT.std(0)
        else:
            centre_T = np.average(learned_NT, axis=0, weights=weight_N)
            scale_T = np.average((learned_NT - centre_T) ** 2, axis=0, weights=weight_N) ** 0.5
        for name, values_N in zip(self.names, targets.T, strict=True):
            if values_N.min() == values_N.max():
                raise Mistake(
                    f"{name!r} is {values_N[0]:g} in all training samples, so there is nothing to learn of it; leave "
                    "it out of what is learned, or give data in which it differs."
                )
        for name, of_name in zip(self.names, np.stack([np.abs(centre_T), scale_T], axis=1), strict=True):
            if not (of_name < 1e37).all() or of_name[1] < 1e-37:
                raise Mistake(
                    f"{name!r} has a mean of {of_name[0]:.3g} and a deviation of {of_name[1]:.3g}, more or less than "
                    "32 bits hold, so it could not be learned; give it in another unit, or --data.log_target true."
                )
        return Standardised(centre_T, scale_T, self.log)

    def draw_weights(self, targets: np.ndarray) -> Tensor:
        """Weigh a sample by the rarest of the bins that its numbers lie in: of equal width, over what is learned."""
        weights_NT = []
        for values_N in self.learned(targets).T:
            edges = np.linspace(values_N.min(), values_N.max(), self.BINS + 1)[1:-1]
            bin_N = np.searchsorted(edges, values_N)
            weights_NT.append(1.0 / np.bincount(bin_N)[bin_N])
        return torch.from_numpy(np.max(weights_NT, axis=0))

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "log": self.log}


class Standardised(nn.Module):
    """Turns numbers in the user's unit into standardised ones, which a network learns well, and back.

    Its values travel in the checkpoint: they are those of the training split, whatever the model is tested on.

    Args:
        centre_T: The mean of what is learned, over the training split.
        scale_T: Its deviation.
        log: Whether the logarithm is learned.
    """

    centre_T: Tensor
    centre_rest_T: Tensor
    scale_T: Tensor

    def __init__(self, centre_T: np.ndarray, scale_T: np.ndarray, log: bool = False) -> None:
        super().__init__()
        self.register_buffer("centre_T", torch.tensor(centre_T).float())
        # What 32 bits lose of it: of times in seconds, say, more than they differ by.
        self.register_buffer("centre_rest_T", (torch.tensor(centre_T) - self.centre_T).float())
        self.register_buffer("scale_T", torch.tensor(scale_T).float())
        self.log = log

    def forward(self, y_NT: Tensor) -> Tensor:
        """Return targets as standardised ones (float32)."""
        learned_NT = y_NT.log() if self.log else y_NT
        return ((learned_NT - self.centre_T - self.centre_rest_T) / self.scale_T).float()

    def restored(self, values_NT: Tensor) -> Tensor:
        """Return standardised values in the user's unit, in 64 bits where the device has them.

        An export computes in 32 bits, which every runtime has.
        """
        narrow = values_NT.device.type == "mps" or torch.compiler.is_exporting()
        exact = torch.float32 if narrow else torch.float64
        learned_NT = values_NT.to(exact) * self.scale_T + self.centre_rest_T + self.centre_T
        return learned_NT.exp() if self.log else learned_NT


def _effective(counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    return (1 - beta**counts) / (1 - beta)


def _quantile_bins(values_N: np.ndarray, count: int) -> np.ndarray:
    edges = np.quantile(values_N, np.linspace(0, 1, count + 1)[1:-1]) if len(values_N) else np.empty(0)
    return np.searchsorted(np.unique(edges), values_N, side="left")


def target_from(content: dict[str, Any]) -> Classes | Labels | Numbers:
    """Return the target that ``as_dict`` described.

    Raises:
        KeyError, TypeError: It describes none.
    """
    names, kind = content["names"], content["kind"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"target {content!r}")
    if len(set(names)) < len(names):
        raise TypeError("two of its names are the same")
    if kind == "numbers":
        if not isinstance(content["log"], bool):
            raise TypeError(f"target {content!r}")
        return Numbers(list(names), content["log"])
    if kind not in ("classes", "labels"):
        raise TypeError(f"target {content!r}")
    return (Classes if kind == "classes" else Labels)(list(names))
