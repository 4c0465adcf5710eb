"""Predictions that mean what they say: temperatures of probabilities (Guo et al. 2017), intervals around numbers (split
conformal prediction; Vovk et al. 2005, Lei et al. 2018). Both are fitted on the validation split.

They work on what a model predicts, not on its logits, which only some networks have: log p is a logit but for what all
classes have in common. No decision changes: not where rounding makes two probabilities the same, nor where one is 0 or
1. Shapes: N samples, K classes or labels, T numbers, R ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .mistakes import Mistake
from .targets import Classes, Numbers, Target

TINY = float(np.finfo(np.float32).tiny)  # of a probability: the least whose logarithm is taken
BELOW_1 = 1 - 2**-24  # the float32 next to 1; times it, a float32 is the next smaller one
COLDEST, HOTTEST = 0.01, 100.0  # the temperatures that are looked for
RANKS = 10_000  # residuals that are kept of a number, at most
LEVEL = 0.9  # of an interval, unless asked for


class Temperature(nn.Module):
    """Calibrates the probabilities of classes: softmax(log p / T).

    Args:
        temperature: T; above 1 makes them less sure.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, probabilities_NK: Tensor) -> Tensor:
        """Return calibrated probabilities, of which the same class is the greatest."""
        p_NK = _exact(probabilities_NK)
        q_NK = (p_NK.clamp_min(TINY).log() / self.temperature).softmax(1)
        first_N1 = p_NK.argmax(1, keepdim=True)
        is_first_NK = torch.arange(p_NK.shape[1], device=p_NK.device) == first_N1
        below_N1 = q_NK.gather(1, first_N1) * BELOW_1  # rounding may have made two classes the same
        return torch.where(is_first_NK, q_NK, torch.minimum(q_NK, below_N1))


class Temperatures(nn.Module):
    """Calibrates the probability of each label: sigmoid(logit p / T).

    Args:
        temperature_K: T of each label.
        threshold_K: From which probability on each is predicted; ``calibrated_K`` has the same of calibrated ones.
    """

    temperature_K: Tensor
    threshold_K: Tensor
    narrow_K: Tensor
    calibrated_K: Tensor

    def __init__(self, temperature_K: Sequence[float], threshold_K: Sequence[float]) -> None:
        super().__init__()
        threshold = np.array(threshold_K, np.float64)
        narrow = threshold.astype(np.float32)
        narrow = np.where(narrow < threshold, np.nextafter(narrow, np.float32(2)), narrow)  # what reaches the one ...
        self.register_buffer("temperature_K", torch.tensor(temperature_K, dtype=torch.float64))
        self.register_buffer("threshold_K", torch.from_numpy(threshold))
        self.register_buffer("narrow_K", torch.from_numpy(narrow))  # ... reaches the other
        moved_K = self._moved(self.threshold_K).clamp(1e-30, BELOW_1)
        self.register_buffer("calibrated_K", moved_K.float())

    def _moved(self, p: Tensor) -> Tensor:
        logit = p.clamp_min(TINY).log() - (-p.clamp_max(BELOW_1)).log1p()
        return (logit / self.temperature_K.to(p.dtype)).sigmoid()

    def forward(self, probabilities_NK: Tensor) -> Tensor:
        """Return calibrated probabilities, of which those that reached their threshold reach the calibrated one."""
        p_NK = _exact(probabilities_NK)
        threshold_K = self.threshold_K if p_NK.dtype == torch.float64 else self.narrow_K
        q_NK, least_K = self._moved(p_NK), self.calibrated_K.to(p_NK.dtype)
        return torch.where(p_NK >= threshold_K, torch.maximum(q_NK, least_K), torch.minimum(q_NK, least_K * BELOW_1))


def _exact(probabilities_NK: Tensor) -> Tensor:
    """Return them in 64 bits, where the device has them; an export computes in 32, which every runtime has."""
    narrow = probabilities_NK.device.type == "mps" or torch.compiler.is_exporting()
    return probabilities_NK.to(torch.float32 if narrow else torch.float64)


@dataclass(frozen=True)
class OfProbabilities:
    """What calibrates probabilities.

    Args:
        target: What is predicted: classes or labels.
        temperature: Of classes one, of labels one each.
    """

    target: Target
    temperature: list[float]

    def module(self, settled: Sequence[float] | None) -> Temperature | Temperatures:
        """Return what turns probabilities into calibrated ones, given what the model chose on validation."""
        if isinstance(self.target, Classes):
            return Temperature(self.temperature[0])
        return Temperatures(self.temperature, self.target.thresholds(settled) or [])

    def settled(self, settled: Sequence[float] | None) -> list[float] | None:
        """Return what decisions of calibrated probabilities go by: the thresholds of labels."""
        if settled is None:  # 0.5 is where it was
            return None
        module = self.module(settled)
        return module.calibrated_K.tolist() if isinstance(module, Temperatures) else None

    def calibrated(self, probabilities_NK: np.ndarray, settled: Sequence[float] | None) -> np.ndarray:
        """Return calibrated probabilities."""
        return self.module(settled)(torch.from_numpy(np.array(probabilities_NK))).numpy()

    def __str__(self) -> str:
        values = [f"{value:.3g}" for value in self.temperature]
        if len(values) == 1:
            return f"temperature {values[0]}"
        return f"temperatures {min(self.temperature):.3g} to {max(self.temperature):.3g}"


def fit_temperature(
    target: Target, targets: np.ndarray, probabilities: np.ndarray, weight_N: np.ndarray
) -> list[float]:
    """Return the temperatures of the least negative log-likelihood.

    It is convex in 1/T, so Newton's method between two bounds finds the one that there is. Where every sample is right
    there is none, as surer would always be better: then a target is not 1 but 1 − 1/(N + 2), as if of N + 2 samples
    one were wrong (Platt 1999).

    Args:
        target: What is predicted: classes or labels.
        targets: The true ones.
        probabilities: The predicted ones, (N, K).
        weight_N: The weight of each sample, above 0.
    """
    doubt = np.where(_all_right(target, targets, probabilities), 1 / (len(targets) + 2), 0.0)
    of_kind = _slopes_of_classes if target.is_exclusive else _slopes_of_labels
    slopes = partial(of_kind, targets, doubt, probabilities, weight_N)
    count = 1 if target.is_exclusive else len(target.names)
    low, high, at = np.full(count, 1 / HOTTEST), np.full(count, 1 / COLDEST), np.ones(count)
    for _ in range(100):
        slope, curvature = slopes(at)
        low, high = np.where(slope < 0, at, low), np.where(slope < 0, high, at)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = at - slope / curvature
        between = np.where((low < newton) & (newton < high), newton, np.sqrt(low * high))
        before, at = at, np.where(slope == 0, at, between)
        if (np.abs(at - before) <= 1e-10 * at).all():
            break
    return (1 / at).tolist()


def _all_right(target: Target, targets: np.ndarray, p_NK: np.ndarray) -> np.ndarray:
    if target.is_exclusive:
        return np.array([(p_NK[np.arange(len(p_NK)), targets] >= p_NK.max(1)).all()])
    return np.all(np.where(targets == 1, p_NK >= 0.5, p_NK <= 0.5), axis=0)


def _parts(p_NK: np.ndarray) -> list[slice]:
    rows = max(1, 1_000_000 // p_NK.shape[1])  # at once, so that the memory holds it
    return [slice(start, start + rows) for start in range(0, len(p_NK), rows)]


def _slopes_of_classes(
    target_N: np.ndarray, doubt: np.ndarray, p_NK: np.ndarray, weight_N: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second derivative of Σ w (log Σ exp(z/T) − z_y/T) by 1/T.

    With a doubt z_y is a mean, in which the other classes have that share together.
    """
    slope = curvature = 0.0
    others = max(1, p_NK.shape[1] - 1)
    for part in _parts(p_NK):
        z_NK = np.log(np.maximum(p_NK[part].astype(np.float64), TINY))
        q_NK = np.exp(at * (z_NK - z_NK.max(1, keepdims=True)))
        q_NK /= q_NK.sum(1, keepdims=True)
        mean_N = (q_NK * z_NK).sum(1)
        true_N = z_NK[np.arange(len(z_NK)), target_N[part]]
        true_N = (1 - doubt) * true_N + doubt * (z_NK.sum(1) - true_N) / others
        slope += weight_N[part] @ (mean_N - true_N)
        curvature += weight_N[part] @ (q_NK * (z_NK - mean_N[:, None]) ** 2).sum(1)
    return np.array([slope]), np.array([curvature])


def _slopes_of_labels(
    target_NK: np.ndarray, doubt_K: np.ndarray, p_NK: np.ndarray, weight_N: np.ndarray, at_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of each label, (K,)."""
    slope_K, curvature_K = np.zeros_like(at_K), np.zeros_like(at_K)
    for part in _parts(p_NK):
        given_NK = p_NK[part].astype(np.float64)
        z_NK = np.log(np.maximum(given_NK, TINY)) - np.log1p(-np.minimum(given_NK, BELOW_1))
        q_NK = 1 / (1 + np.exp(-np.clip(at_K * z_NK, -700, 700)))
        slope_K += weight_N[part] @ ((q_NK - np.where(target_NK[part] == 1, 1 - doubt_K, doubt_K)) * z_NK)
        curvature_K += weight_N[part] @ (q_NK * (1 - q_NK) * z_NK**2)
    return slope_K, curvature_K


@dataclass(frozen=True)
class OfNumbers:
    """What gives numbers intervals: the residuals of validation.

    Where the logarithm is learned they are those of the logarithm: what such a model gets wrong is a share of the
    number, and an interval of shares is wide where numbers are large and never goes below 0.

    Args:
        target: The numbers.
        samples: How many had residuals.
        rank_R: Which of the sorted residuals are kept, from 1 on.
        residual_TR: Their absolute values.
    """

    target: Numbers
    samples: int
    rank_R: np.ndarray
    residual_TR: np.ndarray

    @classmethod
    def fitted(cls, target: Numbers, targets: np.ndarray, predicted: np.ndarray) -> "OfNumbers":
        """Keep the residuals of predictions; of very many a part, with all of the largest: intervals widen a little."""
        residual_TN = np.sort(np.abs(target.learned(targets) - target.learned(predicted)).T, axis=1)
        count = residual_TN.shape[1]
        rank_R = np.ceil(np.linspace(1, count, min(count, RANKS))).astype(int)
        rank_R = np.union1d(rank_R, np.arange(max(1, count - RANKS // 10), count + 1))
        return cls(target, count, rank_R, residual_TN[:, rank_R - 1])

    def only(self, number: int) -> "OfNumbers":
        """Return what gives one of the numbers intervals."""
        one = Numbers([self.target.names[number]], self.target.log)
        return OfNumbers(one, self.samples, self.rank_R, self.residual_TR[[number]])

    @property
    def highest(self) -> float:
        """The highest level that so many samples allow."""
        return self.samples / (self.samples + 1)

    def half_widths(self, level: float) -> np.ndarray:
        """Return the residual of rank ⌈(n + 1) · level⌉ of each number, (T,).

        A new sample lies within with at least this probability, if it is drawn as those of validation were.

        Raises:
            Mistake: So few samples do not allow the level.
        """
        check_level(level)
        rank = max(1, math.ceil((self.samples + 1) * level - 1e-9))
        if rank > self.samples:
            lower, wanted = math.floor(self.highest * 1e4) / 1e4, math.ceil(level / (1 - level) - 1e-9)
            raise Mistake(
                f"--interval={level:g} takes a validation split of {wanted:,} samples or more, and it has "
                f"{self.samples:,}, so the interval would have no end; give {lower:g} or less."
            )
        return self.residual_TR[:, np.searchsorted(self.rank_R, rank)]

    def bounds(self, predicted_NT: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and the upper end of the interval around each prediction, (N, T)."""
        half_T, learned_NT = self.half_widths(level), self.target.learned(predicted_NT)
        return self.target.unlearned(learned_NT - half_T), self.target.unlearned(learned_NT + half_T)


def check_level(level: float) -> None:
    """Refuse what is no level of an interval.

    Raises:
        Mistake: It is none.
    """
    if not 0 < level < 1:
        raise Mistake(
            f"--interval={level:g} is no share between 0 and 1, so it says nothing of how often a number lies within; "
            "give one such as 0.9."
        )


def binomial_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    ways = log_factorial[count] - log_factorial - log_factorial[::-1]

    def at_most(most: int, share: float) -> float:
        number = np.arange(most + 1)
        return float(np.exp(ways[: most + 1] + number * np.log(share) + (count - number) * np.log1p(-share)).sum())

    def bound(most: int, chance: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(most, middle) > chance else (low, middle)
        return (low + high) / 2

    tail = (1 - level) / 2
    return (bound(hits - 1, 1 - tail) if hits else 0.0, bound(hits, tail) if hits < count else 1.0)


def fit(target: Target, targets: np.ndarray, predicted: np.ndarray, weight_N: np.ndarray) -> dict[str, Any]:
    """Fit what ``read`` reads, as plain values.

    Args:
        target: What is predicted.
        targets: The true ones.
        predicted: The predicted ones, finite.
        weight_N: The weight of each sample, above 0. It counts for temperatures; residuals count the same, as an
            interval promises something of samples as they are drawn.
    """
    if isinstance(target, Numbers):
        of = OfNumbers.fitted(target, targets, predicted)
        return {"samples": of.samples, "ranks": of.rank_R.tolist(), "residuals": of.residual_TR.tolist()}
    return {"samples": len(targets), "temperature": fit_temperature(target, targets, predicted, weight_N)}


def read(target: Target, content: dict[str, Any]) -> "OfProbabilities | OfNumbers":
    """Return what ``fit`` fitted.

    Raises:
        KeyError, TypeError, ValueError: It is nothing like that, or of another target.
    """
    if isinstance(target, Numbers):
        rank_R, residual_TR = np.array(content["ranks"]), np.array(content["residuals"], dtype=np.float64)
        samples = content["samples"]
        fits = rank_R.dtype.kind == "i" and residual_TR.shape == (len(target.names), len(rank_R)) and len(rank_R)
        if type(samples) is not int or not fits or rank_R[-1] != samples or (np.diff(rank_R) < 1).any():
            raise ValueError("its residuals are not those of the target")
        if rank_R[0] < 1 or not np.isfinite(residual_TR).all() or (np.diff(residual_TR, axis=1) < 0).any():
            raise ValueError("its residuals are no sorted numbers")
        return OfNumbers(target, samples, rank_R, residual_TR)
    temperature = [float(value) for value in content["temperature"]]
    if len(temperature) != (1 if target.is_exclusive else len(target.names)):
        raise ValueError("its temperatures are not those of the target")
    if not all(COLDEST / 2 < value < HOTTEST * 2 for value in temperature):
        raise ValueError("its temperatures are none")
    return OfProbabilities(target, temperature)
