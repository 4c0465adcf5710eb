"""Scores of a whole split, exact on any number of devices, with sample weights as scikit-learn has them.

A measure is a function of (predictions, target, weight_N), float64 arrays, that returns one number, for labels also of
``thresholds``; ``Score(measure)`` is a metric that model.py lists. Weights are above 0. Add your own measure anywhere:

    def worst(predictions_NT, target_NT, weight_N):
        return np.abs(predictions_NT - target_NT).max()

    MetricCollection({"rmse": Score(rmse), "worst": Score(worst)})

A score that is not defined is nan: a rank correlation with a constant, an average over labels that never occur.
Shapes: N samples, K classes or labels, T numbers, S distinct predictions of one label.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchmetrics.utilities.distributed import gather_all_tensors

from .mistakes import Mistake

Measure = Callable[..., float]


class Score(Metric):
    """A measure of all samples of a split. Metrics of one collection share what they keep.

    Args:
        measure: Returns the score from (predictions, target, weight_N).
        column: The only target that counts; None takes all.
        thresholds: From which probability on a label is predicted, one for all or (K,), for a measure that takes them;
            None leaves the measure's own. May be set later.
    """

    predictions: Any  # lists of tensors, which a sync over ranks turns into tensors
    target: Any
    weight: Any
    full_state_update = False

    def __init__(self, measure: Measure, column: int | None = None, thresholds: Any = None) -> None:
        super().__init__(dist_sync_fn=_gather)
        self.measure, self.column, self.thresholds = measure, column, thresholds
        for state in ("predictions", "target", "weight"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Keep a batch.

        Args:
            predictions: Probabilities (N, K), or numbers (N, T).
            target: Classes (N,), labels (N, K) of 0 and 1, or numbers (N, T).
            weight: The weight of each sample, (N,); None gives all the same.
        """
        self.predictions.append(predictions.detach())
        self.target.append(target.detach())
        self.weight.append(predictions.new_ones(len(predictions)) if weight is None else weight.detach())

    def compute(self) -> Tensor:
        """Return the score."""
        return torch.tensor(float(self._measured()), dtype=torch.float32, device=self.device)

    def _measured(self) -> float:
        predictions, target, weight_N = self._kept()
        if not len(weight_N) or np.isnan(predictions).any():
            return np.nan
        if self.column is not None:
            predictions, target = predictions[:, [self.column]], target[:, [self.column]]
        if self.thresholds is None:
            return self.measure(predictions, target, weight_N)
        return self.measure(predictions, target, weight_N, thresholds=np.asarray(self.thresholds, np.float64))

    def gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the predictions, targets and weights of all ranks; every rank must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._kept()

    def _kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts_N = _joined(self.weight) > 0  # a sample of weight 0 is as if it were not there
        predictions, target, weight_N = (
            _joined(state)[counts_N] for state in (self.predictions, self.target, self.weight)
        )
        return predictions, target, weight_N


def gathered(metrics: MetricCollection) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the predictions, targets and weights that a collection keeps, of all ranks; every rank must call it.

    None where no metric of it is a Score.
    """
    kept = next((metric for metric in metrics.values() if isinstance(metric, Score)), None)
    return None if kept is None else kept.gathered()


def decide_at(metrics: MetricCollection, thresholds: Sequence[float] | None) -> None:
    """Let the scores that take thresholds take these; None leaves them theirs."""
    for metric in metrics.values():
        if isinstance(metric, Score) and "thresholds" in inspect.signature(metric.measure).parameters:
            metric.thresholds = thresholds


def by_target(measures: Mapping[str, Measure], names: Sequence[str]) -> MetricCollection:
    """Return scores of numbers: the mean of each over all targets, and of several targets also each one's, NAME_TARGET.

    Args:
        measures: The measures by name.
        names: The names of the targets.
    """
    scores: dict[str, Any] = {name: Score(measure) for name, measure in measures.items()}
    endings = [name.replace(".", "_") for name in names]  # a module's name has no dot
    if len(set(endings)) < len(endings):
        endings = [f"{ending}_{column}" for column, ending in enumerate(endings)]
    for column, ending in enumerate(endings if len(names) > 1 else []):
        scores |= {f"{name}_{ending}": Score(measure, column) for name, measure in measures.items()}
    return MetricCollection(scores)


def weighted(metrics: MetricCollection) -> MetricCollection:
    """Return the metrics as samples with weights need them.

    torchmetrics' metrics know no weights and would leave them out in silence: accuracy, macro F1 and AUROC are replaced
    by scores of the same name, what takes ``weight`` stays.

    Raises:
        Mistake: A metric takes no weights.
    """
    replaced: dict[str, Any] = {}
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        measure = measure_of(metric)
        if measure is None and "weight" not in inspect.signature(metric.update).parameters:
            raise Mistake(
                f"the metric {name} ({type(metric).__name__}) takes no sample weights, so it would count all samples "
                "the same; leave it out, or write it as a Score, see engine/scores.py."
            )
        replaced[name] = metric if measure is None else Score(measure)
    return MetricCollection(replaced, prefix=metrics.prefix, postfix=metrics.postfix)


def measure_of(metric: Metric) -> Measure | None:
    """Return the measure that is a metric of torchmetrics with weights."""
    measures = {
        (MulticlassAccuracy, "micro"): accuracy,
        (MulticlassF1Score, "macro"): f1_of_classes,
        (MulticlassAUROC, "macro"): auroc_of_classes,
    }
    usual = {"top_k": 1, "ignore_index": None, "multidim_average": "global", "max_fpr": None, "thresholds": None}
    if any(getattr(metric, option, value) != value for option, value in usual.items()):
        return None
    return measures.get((type(metric), getattr(metric, "average", None)))


# Of classes, from probabilities_NK and target_N


def accuracy(probabilities_NK: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray) -> float:
    """Σ w [most probable class = target] / Σ w."""
    return np.average(probabilities_NK.argmax(1) == target_N, weights=weight_N)


def f1_of_classes(probabilities_NK: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray) -> float:
    """The mean F1 of the classes that occur or are predicted."""
    count = probabilities_NK.shape[1]
    return _f1(_one_hot(probabilities_NK.argmax(1), count), _one_hot(target_N, count), weight_N, "macro")


def auroc_of_classes(probabilities_NK: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray) -> float:
    """The mean area under the ROC curve of each class against all others, of the classes that occur."""
    return auroc(probabilities_NK, _one_hot(target_N, probabilities_NK.shape[1]), weight_N)


# Of several labels, from probabilities_NK and target_NK


def mean_average_precision(probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray) -> float:
    """The mean average precision of the labels that occur."""
    return _mean(average_precisions(probabilities_NK, target_NK, weight_N))


def average_precisions(probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Return Σ_s (recall_s − recall_s−1) precision_s of each label, (K,); nan where a label never occurs."""

    def average_precision(_: np.ndarray, true_S: np.ndarray, false_S: np.ndarray) -> float:
        return (np.diff(true_S, prepend=0) * true_S / (true_S + false_S)).sum() / true_S[-1]

    return _of_each(average_precision, probabilities_NK, target_NK, weight_N)


def auroc(probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray) -> float:
    """The mean area under the ROC curve, of the labels that some samples have and others have not."""

    def area(_: np.ndarray, true_S: np.ndarray, false_S: np.ndarray) -> float:
        if not false_S[-1]:
            return np.nan
        height_S = true_S - np.diff(true_S, prepend=0) / 2  # ties count half
        return (np.diff(false_S, prepend=0) * height_S).sum() / (true_S[-1] * false_S[-1])

    return _mean(_of_each(area, probabilities_NK, target_NK, weight_N))


def f1_macro(probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray, thresholds: Any = 0.5) -> float:
    """The mean F1 of the labels that occur or are predicted."""
    return _f1(probabilities_NK >= thresholds, target_NK.astype(bool), weight_N, "macro")


def f1_micro(probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray, thresholds: Any = 0.5) -> float:
    """The F1 of all labels counted together."""
    return _f1(probabilities_NK >= thresholds, target_NK.astype(bool), weight_N, "micro")


def exact_match(
    probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray, thresholds: Any = 0.5
) -> float:
    """The share of samples of which every label is right."""
    return np.average(((probabilities_NK >= thresholds) == target_NK.astype(bool)).all(1), weights=weight_N)


def best_thresholds(
    probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray | None = None
) -> np.ndarray:
    """Return the threshold of each label with the highest F1 on these samples, (K,); 0.5 where a label never occurs.

    A label is predicted from its threshold on. A threshold lies midway between two probabilities that occur, or below
    the least, so that no rounding changes what is predicted; of several that are as good it is the one nearest to 0.5.
    """

    def best(value_S: np.ndarray, true_S: np.ndarray, false_S: np.ndarray) -> float:
        cut_S = (value_S + np.append(value_S[1:], 0.0)) / 2
        f1_S = 2 * true_S / (true_S + false_S + true_S[-1])
        cuts = cut_S[f1_S >= f1_S.max() * (1 - 1e-12)]  # as sums of weights are rounded
        return cuts[np.abs(cuts - 0.5).argmin()]

    weight_N = np.ones(len(target_NK)) if weight_N is None else weight_N
    best_K = _of_each(best, probabilities_NK, target_NK, weight_N)
    return np.where(np.isnan(best_K), 0.5, best_K)


# Of numbers, from values_NT and target_NT: the mean over targets


def rmse(values_NT: np.ndarray, target_NT: np.ndarray, weight_N: np.ndarray) -> float:
    """The root of Σ w (value − target)² / Σ w, in the target's unit."""
    return np.sqrt(np.average((values_NT - target_NT) ** 2, axis=0, weights=weight_N)).mean()


def mae(values_NT: np.ndarray, target_NT: np.ndarray, weight_N: np.ndarray) -> float:
    """Σ w |value − target| / Σ w, in the target's unit."""
    return np.average(np.abs(values_NT - target_NT), axis=0, weights=weight_N).mean()


def r2(values_NT: np.ndarray, target_NT: np.ndarray, weight_N: np.ndarray) -> float:
    """1 − Σ w (value − target)² / Σ w (target − mean)²; of a constant target 1 if it is met exactly, else 0.

    nan with less than two samples. As scikit-learn's r2_score.
    """
    if len(target_NT) < 2:
        return np.nan
    unexplained_T = np.average((values_NT - target_NT) ** 2, axis=0, weights=weight_N)
    variance_T = np.average(
        (target_NT - np.average(target_NT, axis=0, weights=weight_N)) ** 2, axis=0, weights=weight_N
    )
    of_constant_T = np.where(unexplained_T == 0, 1.0, 0.0)
    share_T = np.divide(unexplained_T, variance_T, out=1 - of_constant_T, where=variance_T > 0)
    return (1 - share_T).mean()


def spearman(values_NT: np.ndarray, target_NT: np.ndarray, weight_N: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, where ties have their mean rank.

    Weights weigh the samples of that correlation; a rank counts samples, not weights. nan where either is constant.
    """
    correlations = []
    for value_N, number_N in zip(values_NT.T, target_NT.T, strict=True):
        ranks_2N = np.stack((_ranks(value_N), _ranks(number_N)))
        centred_2N = ranks_2N - np.average(ranks_2N, axis=1, weights=weight_N)[:, None]
        (a, both), (_, b) = (weight_N * centred_2N) @ centred_2N.T
        correlations.append(both / np.sqrt(a * b) if a > 0 and b > 0 else np.nan)
    return float(np.mean(correlations))


# What they share


def _of_each(
    curve: Callable[..., float], probabilities_NK: np.ndarray, target_NK: np.ndarray, weight_N: np.ndarray
) -> np.ndarray:
    """Return what a function of (value_S, true_S, false_S) gives for each label, (K,); nan where a label never occurs.

    Args:
        curve: Takes the distinct probabilities, from high to low, and the weight of the samples that are at least as
            probable and have the label (true), or have it not (false).
        probabilities_NK: The probability of each label.
        target_NK: 1 where a sample has a label.
        weight_N: The weight of each sample.
    """
    found = []
    # Contiguous, as reading a column of a large array costs more than sorting it.
    columns = np.ascontiguousarray(probabilities_NK.T), np.ascontiguousarray(target_NK.T.astype(bool))
    for probability_N, has_N in zip(*columns, strict=True):
        if not has_N.any():
            found.append(np.nan)
            continue
        order = np.argsort(-probability_N)
        value_N, true_N = probability_N[order], weight_N[order] * has_N[order]
        last_S = np.append(np.flatnonzero(np.diff(value_N)), len(order) - 1)  # the last of those that are as probable
        true_S = true_N.cumsum()[last_S]
        found.append(curve(value_N[last_S], true_S, (weight_N[order] - true_N).cumsum()[last_S]))
    return np.array(found)


def _f1(predicted_NK: np.ndarray, has_NK: np.ndarray, weight_N: np.ndarray, average: str) -> float:
    """Return 2 true positives / (predicted + occurring), of each label or of all together."""
    right_K = weight_N @ (predicted_NK & has_NK)
    either_K = weight_N @ predicted_NK + weight_N @ has_NK
    if average == "micro":
        right_K, either_K = right_K.sum(keepdims=True), either_K.sum(keepdims=True)
    return _mean(np.divide(2 * right_K, either_K, out=np.full(len(right_K), np.nan), where=either_K > 0))


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is defined."""
    defined = values[~np.isnan(values)]
    return defined.mean() if len(defined) else np.nan


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Return the rank of each value, that of equal values their mean."""
    _, group_N, count_S = np.unique(values_N, return_inverse=True, return_counts=True)
    return (count_S.cumsum() - (count_S - 1) / 2)[group_N]


def _one_hot(class_N: np.ndarray, count: int) -> np.ndarray:
    return class_N[:, None] == np.arange(count)


def _joined(state: Any) -> np.ndarray:
    """Return what a metric keeps, a list or a tensor, as an array; fractions in float64."""
    tensor = state if isinstance(state, Tensor) else torch.cat(state) if state else torch.zeros(0)
    tensor = tensor.cpu()  # first, as not every device knows float64
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _gather(value: Tensor, group: Any = None) -> list[Tensor]:
    """Gather a tensor from all ranks, as torchmetrics does.

    A rank without samples hands over an empty tensor of another rank and type, at which torchmetrics would fail.
    """
    known: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(known, (value.shape[1:], value.dtype) if len(value) else None, group)
    shape, dtype = next(filter(None, known), (value.shape[1:], value.dtype))
    return gather_all_tensors(value if len(value) else value.new_zeros((0, *shape), dtype=dtype), group)
