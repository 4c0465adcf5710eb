"""What a checkpoint says of the samples of a split, and what that is worth: of classes, of several labels, of numbers.

It draws nothing. The scores are those that a run logs, with the samples' weights where they have any. Shapes: N
samples, K classes or labels, T numbers, S distinct predictions of one class or label, B bins, D draws.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np

from ..engine import calibration as calibrations
from ..engine import scores
from ..engine.reliability import LEAST, bootstrap, calibration
from ..engine.targets import Classes, Numbers, Target


@dataclass(frozen=True)
class Predictions:
    """What a checkpoint says of the N samples of a split; a subclass for each kind of target says what it is worth.

    Args:
        target: What is predicted.
        paths: Of each sample.
        targets: The true ones, as ``target`` has them.
        predicted: The predicted ones: (N, K) probabilities or (N, T) numbers.
        weights: The weight of each sample, (N,); None where all count the same.
        settled: What validation chose: the threshold of each label.
        settled_here: Whether it was chosen on these very samples, so that scores by it would flatter.
        calibration: What calibrates the checkpoint; None where nothing is known.
        uncalibrated: What this was before it was calibrated; None where it is not.
    """

    target: Target
    paths: list[str]
    targets: np.ndarray
    predicted: np.ndarray
    weights: np.ndarray | None = None
    settled: list[float] | None = None
    settled_here: bool = False
    calibration: calibrations.OfProbabilities | calibrations.OfNumbers | None = None
    uncalibrated: Self | None = None

    headline: ClassVar[str]  # the score that is shown first
    settles: ClassVar[bool] = False  # whether what validation chose matters

    @property
    def weight_N(self) -> np.ndarray:
        """The weight of each sample, ones where there are none."""
        return np.ones(len(self.paths)) if self.weights is None else self.weights

    @property
    def counted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What scores are made of: the predictions in 64 bits, targets and weights of the samples that count."""
        counts_N = self.weight_N > 0
        return self.predicted[counts_N].astype(np.float64), self.targets[counts_N], self.weight_N[counts_N]

    def calibrated(self) -> Self:
        """Return the same, calibrated; itself where nothing calibrates it."""
        of = self.calibration
        if self.uncalibrated is not None or not isinstance(of, calibrations.OfProbabilities):
            return self
        predicted, settled = of.calibrated(self.predicted, self.settled), of.settled(self.settled)
        return replace(self, predicted=predicted, settled=settled, uncalibrated=self)

    def before_and_after(self) -> dict[str, Self]:
        """Return what is known: before calibration, and after it."""
        after = self.calibrated()
        return {"": self} if after.uncalibrated is None else {"before": after.uncalibrated, "after": after}

    def scores(self) -> dict[str, float]:
        """Return the scores by their names."""
        raise NotImplementedError

    def interval(self) -> tuple[float, float] | None:
        """Return the bounds between which the headline score lies with 95 %, or None where that takes too long."""
        raise NotImplementedError


class OfClasses(Predictions):
    """Probabilities of K classes, of which each sample has one."""

    headline = "accuracy"
    target: Classes  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.target.names

    @property
    def label_N(self) -> np.ndarray:
        """The predicted classes."""
        return self.predicted.argmax(1)

    @property
    def confidence_N(self) -> np.ndarray:
        """The probability of the predicted class."""
        return self.predicted.max(1)

    @property
    def hit_N(self) -> np.ndarray:
        """Whether it is the true one."""
        return self.label_N == self.targets

    @property
    def has_NK(self) -> np.ndarray:
        """Whether a sample is of a class."""
        return self.targets[:, None] == np.arange(len(self.classes))

    @property
    def counts_KK(self) -> np.ndarray:
        """The confusion matrix: a row for each true class, a column for each predicted one."""
        return self.target.confusion(self.targets, self.label_N)

    def scores(self) -> dict[str, float]:
        """Return accuracy, macro F1, macro AUROC, log loss and expected calibration error; absent classes do not
        count.
        """
        _, _, f1_K = self.per_class()
        error, _ = self.calibration_error()
        true_N = np.take_along_axis(self.predicted, self.targets[:, None], 1)[:, 0]
        return {
            "accuracy": float(np.average(self.hit_N, weights=self.weight_N)),
            "macro F1": float(np.nanmean(f1_K)),
            "macro AUROC": float(scores.auroc_of_classes(*self.counted)),
            "log loss": float(np.average(-np.log(np.maximum(true_N, LEAST)), weights=self.weight_N)),
            "ECE": error,
        }

    def per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return precision, recall and F1 of each class, (K,) each; NaN where there is nothing to divide by."""
        return precision_recall_f1(self.label_N[:, None] == np.arange(len(self.classes)), self.has_NK, self.weight_N)

    def calibration_error(self) -> tuple[float, np.ndarray]:
        """Return the expected calibration error, and the accuracy of each bin of confidence, NaN of an empty one."""
        return calibration(self.confidence_N, self.hit_N, self.weight_N)

    def interval(self, z: float = 1.96) -> tuple[float, float] | None:
        """Return the 95 % interval of the accuracy: Wilson's of a share (1927), where the samples have no weights."""
        if self.weights is not None:
            return bootstrap(self.weight_N, 1, lambda weight_ND: self.hit_N @ weight_ND / weight_ND.sum(0))
        share, count = self.scores()["accuracy"], len(self.paths)
        centre = share + z**2 / (2 * count)
        spread = z * (share * (1 - share) / count + (z / count) ** 2 / 4) ** 0.5
        low, high = ((centre + sign * spread) / (1 + z**2 / count) for sign in (-1, 1))
        return low, high


class OfLabels(Predictions):
    """Probabilities of K labels, of which each sample has any number."""

    headline = "mAP"
    settles = True

    @property
    def labels(self) -> list[str]:
        """The names of the labels."""
        return self.target.names

    @property
    def has_NK(self) -> np.ndarray:
        """Whether a sample has a label."""
        return self.targets == 1

    @property
    def thresholds_K(self) -> np.ndarray:
        """From which probability on a label is predicted: as validation chose it, or 0.5."""
        return np.array(self.target.thresholds(self.settled))

    @property
    def said_NK(self) -> np.ndarray:
        """Whether a label is predicted of a sample."""
        return self.predicted >= self.thresholds_K

    @property
    def loss_NK(self) -> np.ndarray:
        """The binary cross entropy of each label, without any weights."""
        of_what_is = np.where(self.has_NK, self.predicted, 1 - self.predicted)
        return -np.log(np.maximum(of_what_is, LEAST))

    def scores(self) -> dict[str, float]:
        """Return mAP, macro and micro F1, macro AUROC and exact match; labels that never occur do not count.

        F1 and exact match are by the thresholds that validation chose, but on validation itself by 0.5, as logged.
        """
        thresholds = 0.5 if self.settled_here else self.thresholds_K
        return {
            "mAP": float(scores.mean_average_precision(*self.counted)),
            "macro F1": float(scores.f1_macro(*self.counted, thresholds=thresholds)),
            "micro F1": float(scores.f1_micro(*self.counted, thresholds=thresholds)),
            "macro AUROC": float(scores.auroc(*self.counted)),
            "exact match": float(scores.exact_match(*self.counted, thresholds=thresholds)),
        }

    def per_label(self, thresholds: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return precision, recall and F1 of each label, (K,) each; NaN where there is nothing to divide by."""
        return precision_recall_f1(self.predicted >= thresholds, self.has_NK, self.weight_N)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of mAP, by a bootstrap over the samples."""
        predicted_NK, has_NK, weight_N = self.counted

        def of_draws(weight_ND: np.ndarray) -> np.ndarray:
            by_label = []
            for predicted_N, has_N in zip(predicted_NK.T, has_NK.T == 1, strict=True):
                if has_N.any():
                    score_D = average_precision_of_draws(predicted_N, has_N, weight_ND)
                    # A draw without a rare label says nothing of it.
                    [of_all] = average_precision_of_draws(predicted_N, has_N, weight_N[:, None])
                    by_label.append(np.where(np.isnan(score_D), of_all, score_D))
            return np.mean(by_label, axis=0)

        return bootstrap(weight_N, len(self.labels), of_draws) if has_NK.any() else None


class OfNumbers(Predictions):
    """T numbers, in the user's unit."""

    headline = "RMSE"
    target: Numbers  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def error_NT(self) -> np.ndarray:
        """By how much a prediction is too high."""
        return self.predicted - self.targets

    def of(self, number: int) -> "OfNumbers":
        """Return what is said of one of the numbers."""
        one = Numbers([self.target.names[number]], self.target.log)
        intervals = self.calibration.only(number) if isinstance(self.calibration, calibrations.OfNumbers) else None
        targets, predicted = self.targets[:, [number]], self.predicted[:, [number]]
        return replace(self, target=one, targets=targets, predicted=predicted, calibration=intervals)

    def scores(self) -> dict[str, float]:
        """Return RMSE, MAE, R² and Spearman's rank correlation; of several numbers the means."""
        return {
            "RMSE": float(scores.rmse(*self.counted)),
            "MAE": float(scores.mae(*self.counted)),
            "R²": float(scores.r2(*self.counted)),
            "Spearman": float(scores.spearman(*self.counted)),
        }

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the RMSE, by a bootstrap over the samples."""
        predicted_NT, target_NT, weight_N = self.counted
        squares_NT = (predicted_NT - target_NT) ** 2

        def of_draws(weight_ND: np.ndarray) -> np.ndarray:
            return np.sqrt(squares_NT.T @ weight_ND / weight_ND.sum(0)).mean(0)

        return bootstrap(weight_N, len(self.target.names), of_draws)


KINDS: dict[str, type[Predictions]] = {"multiclass": OfClasses, "multilabel": OfLabels, "regression": OfNumbers}


def average_precision_of_draws(predicted_N: np.ndarray, has_N: np.ndarray, weight_ND: np.ndarray) -> np.ndarray:
    """Return the average precision of a label in each draw, (D,); NaN where no sample of a draw has it.

    Precision changes recall only where samples have the label: at P of the distinct predictions.
    """
    order, last_S = ranks(predicted_N)
    first_S = np.append(0, last_S[:-1] + 1)
    has_label_S = np.add.reduceat(has_N[order], first_S) > 0
    last_P = last_S[has_label_S]
    first_P = np.append(0, last_P[:-1] + 1)
    positive = np.flatnonzero(has_N[order])
    weight_ND = weight_ND[order[: last_P[-1] + 1]]
    all_PD = np.add.reduceat(weight_ND, first_P, axis=0).cumsum(0)
    gained_PD = np.add.reduceat(weight_ND[positive], np.searchsorted(positive, first_P), axis=0)
    true_PD = gained_PD.cumsum(0)
    precision_PD = np.divide(true_PD, all_PD, out=np.zeros_like(true_PD), where=all_PD > 0)
    return (gained_PD * precision_PD).sum(0) / true_PD[-1]


def ranks(predicted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order from high to low, (N,), and where in it each distinct value is the last time, (S,)."""
    order = np.argsort(-predicted_N, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(predicted_N[order])), len(order) - 1)


def precision_recall_f1(
    said_NK: np.ndarray, has_NK: np.ndarray, weight_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of each class or label, (K,) each; NaN where there is nothing to divide by."""
    right_K = weight_N @ (said_NK & has_NK)
    said_K, has_K = weight_N @ said_NK, weight_N @ has_NK
    with np.errstate(invalid="ignore"):
        return right_K / said_K, right_K / has_K, 2 * right_K / (said_K + has_K)


class Ranked(NamedTuple):
    """A ROC or precision-recall curve of a class or label against the rest, and the area below it."""

    x: np.ndarray
    y: np.ndarray
    area: float


def rankings(predicted_NK: np.ndarray, has_NK: np.ndarray, weight_N: np.ndarray) -> tuple[dict, dict]:
    """Return the ROC and the precision-recall curves, Ranked, of those that some samples have and others have not.

    The area under precision and recall is the average precision Σ (R_s − R_s−1) P_s, without interpolation.
    """
    roc_curves, recall_curves = {}, {}
    for k in np.flatnonzero(has_NK.any(0) & ~has_NK.all(0)).tolist():
        order, last_S = ranks(predicted_NK[:, k])
        true_S = (weight_N * has_NK[:, k])[order].cumsum()[last_S]
        false_S = (weight_N * ~has_NK[:, k])[order].cumsum()[last_S]
        if not (true_S[-1] and false_S[-1]):
            continue  # the samples of one side have no weight
        recall_S, precision_S = true_S / true_S[-1], true_S / np.maximum(true_S + false_S, LEAST)
        rise_S, false_rate_S = np.append(0, recall_S), np.append(0, false_S / false_S[-1])
        roc_curves[k] = Ranked(false_rate_S, rise_S, float(np.trapezoid(rise_S, false_rate_S)))
        # The curve begins at the precision of the highest value: a precision of 1 at a recall of 0 has no threshold.
        area = float((np.diff(recall_S, prepend=0) * precision_S).sum())
        recall_curves[k] = Ranked(rise_S, np.append(precision_S[0], precision_S), area)
    return roc_curves, recall_curves
