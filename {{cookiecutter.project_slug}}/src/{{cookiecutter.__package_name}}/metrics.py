"""The metrics that validation and test log: of classes, of several labels, of numbers.

One of torchmetrics' or a Score goes into a collection below; it is logged as val/NAME and test/NAME, and ``--monitor
val/NAME`` chooses the best checkpoint by it. Shapes: N samples, K classes or labels, T numbers.
"""

from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from .engine import scores
from .engine.scores import Score


def metrics(num_classes: int) -> MetricCollection:
    """The metrics of classes: add yours here, from (probabilities_NK, target_N)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            "auroc": MulticlassAUROC(num_classes),
        }
    )


def metrics_of_labels() -> MetricCollection:
    """The metrics of several labels: add yours here, a Score of (probabilities_NK, target_NK, weight_N)."""
    return MetricCollection(
        {
            "map": Score(scores.mean_average_precision),
            "f1_macro": Score(scores.f1_macro),
            "f1_micro": Score(scores.f1_micro),
            "auroc": Score(scores.auroc),
            "exact_match": Score(scores.exact_match),
        }
    )


# The measures of numbers: add yours here, from (values_NT, target_NT, weight_N) in the user's unit.
MEASURES = {"rmse": scores.rmse, "mae": scores.mae, "r2": scores.r2, "spearman": scores.spearman}
