"""How far probabilities mean what they say: calibration error, log loss, Brier score, and their bootstrap intervals.

Shapes: N samples, K classes or labels, B bins, D draws, S scores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .targets import Target

BINS = 15  # of the confidence, as Guo et al. 2017 have it
DRAWS = 1000  # of the bootstrap
MOST_DRAWN = 100_000  # values of a split: of more, a bootstrap would take longer than all else
LEAST = 1e-12  # of a probability whose logarithm is taken
SCORES = ("ECE", "NLL", "Brier")


def calibration(sure_N: np.ndarray, right_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the expected calibration error, and the share that is right in each bin, (B,); NaN of an empty one.

    It is Σ_b n_b / N · |right_b − sure_b| over 15 bins of equal width (Guo et al. 2017). (Not by torchmetrics, which
    shows no bins, and puts a confidence of 1, frequent in float32, into a sixteenth.)
    """
    bin_N = _bins(sure_N)
    weight_B = np.bincount(bin_N, weight_N, BINS)
    right_B = np.bincount(bin_N, right_N * weight_N, BINS)
    sure_B = np.bincount(bin_N, sure_N * weight_N, BINS)
    error = np.abs(right_B - sure_B).sum() / weight_N.sum()
    with np.errstate(invalid="ignore"):
        return float(error), right_B / weight_B


def _bins(sure: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)


class Terms(NamedTuple):
    """What each sample adds to the scores."""

    gap_NB: np.ndarray  # in each bin how much more is right than was said
    loss_N: np.ndarray
    square_N: np.ndarray


def terms(target: Target, predicted_NK: np.ndarray, targets: np.ndarray) -> Terms:
    """Return what each sample adds: of classes by the most probable one, of labels the mean over the labels.

    Args:
        target: What is predicted: classes or labels.
        predicted_NK: The probabilities.
        targets: The true ones.
    """
    p_NK = predicted_NK.astype(np.float64)
    if target.is_exclusive:
        rows = np.arange(len(p_NK))
        said_N, true_N = p_NK.argmax(1), p_NK[rows, targets]
        sure_NK, right_NK = p_NK[rows, said_N][:, None], (said_N == targets)[:, None]
        loss_N = -np.log(np.maximum(true_N, LEAST))
        square_N = (p_NK**2).sum(1) - 2 * true_N + 1
    else:
        sure_NK, right_NK = p_NK, targets == 1
        loss_N = -np.log(np.maximum(np.where(right_NK, p_NK, 1 - p_NK), LEAST)).mean(1)
        square_N = ((p_NK - right_NK) ** 2).mean(1)
    cell = _bins(sure_NK) + BINS * np.arange(len(p_NK))[:, None]
    gap = np.bincount(cell.ravel(), (right_NK - sure_NK).ravel(), BINS * len(p_NK))
    return Terms(gap.reshape(-1, BINS) / sure_NK.shape[1], loss_N, square_N)


def measured(of: Terms, weight_ND: np.ndarray) -> np.ndarray:
    """Return ECE, NLL and Brier score, (3, D), by what each sample weighs."""
    total_D = weight_ND.sum(0)
    error_D = np.abs(of.gap_NB.T @ weight_ND).sum(0)
    return np.stack([error_D, of.loss_N @ weight_ND, of.square_N @ weight_ND]) / total_D


def compared(
    target: Target, targets: np.ndarray, weight_N: np.ndarray, **predicted: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the scores of several predictions of the same samples, by their names, with 95 % intervals.

    Args:
        target: What is predicted: classes or labels.
        targets: The true ones.
        weight_N: The weight of each sample, above 0.
        predicted: The probabilities, (N, K), by a name.
    """
    of_each = [terms(target, predicted_NK, targets) for predicted_NK in predicted.values()]
    values_S = np.concatenate([measured(of, weight_N[:, None])[:, 0] for of in of_each]).tolist()
    intervals_S = intervals(weight_N, 1, lambda weight_ND: np.concatenate([measured(of, weight_ND) for of in of_each]))
    found = [{"value": value, "interval": interval} for value, interval in zip(values_S, intervals_S, strict=True)]
    return {
        name: dict(zip(SCORES, found[first : first + len(SCORES)], strict=True))
        for name, first in zip(predicted, range(0, len(found), len(SCORES)), strict=True)
    }


def bootstrap(
    weight_N: np.ndarray, columns: int, score_of_draws: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float] | None:
    """Return the 2.5th and 97.5th percentile of a score over draws of as many samples, with replacement.

    Args:
        weight_N: The weight of each sample.
        columns: How many values a sample has.
        score_of_draws: Returns the score (D,) of draws, by what each sample weighs in them, (N, D).

    Returns:
        The bounds; None for too much data, or a score that is not defined.
    """
    return intervals(weight_N, columns, lambda weight_ND: score_of_draws(weight_ND)[None])[0]


def intervals(
    weight_N: np.ndarray, columns: int, scores_of_draws: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[float, float] | None]:
    """Return what ``bootstrap`` does of several scores, which ``scores_of_draws`` returns as (S, D)."""
    count = len(weight_N)
    if not 2 <= count * columns <= MOST_DRAWN:
        return [None] * len(scores_of_draws(weight_N[:, None]))
    rng = np.random.default_rng(0)
    at_once = max(1, 1_000_000 // count)
    found = []
    for start in range(0, DRAWS, at_once):
        drawn_DN = rng.integers(count, size=(min(at_once, DRAWS - start), count))
        times_ND = np.stack([np.bincount(drawn_N, minlength=count) for drawn_N in drawn_DN], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(scores_of_draws(times_ND * weight_N[:, None]))
    bounds: list[tuple[float, float] | None] = []
    for score_D in np.concatenate(found, axis=1):
        defined = score_D[np.isfinite(score_D)]
        low_high = np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else None
        bounds.append((low_high[0], low_high[1]) if low_high else None)
    return bounds
