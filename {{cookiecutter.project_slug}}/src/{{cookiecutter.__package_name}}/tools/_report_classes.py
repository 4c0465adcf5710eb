"""What the report shows of classes: confusions, scores of each, rankings, calibration, the surest mistakes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..engine.reliability import BINS, DRAWS
from . import _report_figures as shared
from . import _samples
from ._page import figure, figures, note, table
from ._predictions import OfClasses, rankings
from ._report_figures import MANY
from ._results import Run
from ._words import NOUN, ONE


def cards(split: str, p: OfClasses) -> list[tuple[str, str, str]]:
    """The headline scores of a split."""
    scores = p.scores()
    return [
        (f"{split} accuracy", f"{scores['accuracy']:.3f}", shared.between(p.interval())),
        (f"{split} macro F1", f"{scores['macro F1']:.3f}", f"{len(p.paths):,} {NOUN}"),
    ]


def score_cells(p: OfClasses) -> list[object]:
    """The scores as a table shows them."""
    return [*p.scores().values()]


def remark(p: OfClasses) -> str:
    """How to read the scores."""
    return "" if p.weights is None else f"The interval of accuracy is that of {DRAWS:,} bootstrap draws of the {NOUN}."


def evaluation(p: OfClasses) -> str:
    """What the predictions of a split are worth: confusions, classes, rankings, calibration."""
    roc, recall = rankings(p.predicted, p.has_NK, p.weight_N)
    of_rank = (
        shared.ranking(p.classes, roc, "classes", "ROC", "AUROC", "false-positive rate", "true-positive rate"),
        shared.ranking(
            p.classes, recall, "classes", "Precision and recall", "average precision", "recall", "precision"
        ),
    )
    return (
        f"<h3>Confusion matrix</h3>{figures(confusion(p, False), confusion(p, True))}{confusions(p)}"
        f"<h3>Classes</h3>{classes(p)}<h3>Each class against the rest</h3>{figures(*of_rank)}"
        f"<h3>Calibration</h3>{figures(*reliability(p))}{shared.calibration_scores(p)}"
    )


def confusion(p: OfClasses, share: bool) -> tuple[Any, str]:
    """Draw the confusion matrix, in samples or in percent of the true class."""
    counts_KK = p.counts_KK
    shown_KK, unit = counts_KK, NOUN
    if share:
        shown_KK = 100 * counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
        unit = "% of the true class"
    canvas = shared.matrix(shown_KK, p.classes, unit, "predicted class", "true class")
    where = "" if len(p.classes) <= MANY else " Classes by number, in the order of their names."
    return canvas, ("Each row adds up to 100 %." if share else "A row for each true class.") + where


def confusions(p: OfClasses, most: int = 10) -> str:
    """The pairs of classes that are taken for each other most often."""
    wrong_KK = p.counts_KK * (1 - np.eye(len(p.classes), dtype=int))
    rows = shared.worst_pairs(wrong_KK, p.counts_KK.sum(1), p.classes, most)
    header = ["true class", "taken for", NOUN, "of the true class"]
    return table(header, rows) if rows else note(f"No {ONE} is taken for another class.")


def classes(p: OfClasses) -> str:
    """Precision, recall, F1 and support of each class; the worst first where there are many."""
    scores_K3 = np.stack(p.per_class(), axis=1)
    support_K = p.counts_KK.sum(1)
    many = len(p.classes) > MANY
    order = np.argsort(scores_K3[:, 2], kind="stable") if many else np.arange(len(p.classes))
    rows = [[p.classes[k], *scores_K3[k].tolist(), int(support_K[k])] for k in order.tolist()]
    means = [float(np.mean(scores_K[~np.isnan(scores_K)])) for scores_K in scores_K3.T]
    rows.append(["mean over classes", *means, len(p.paths)])
    text = f"Support: {NOUN} of the class. A dash: nothing to divide by, left out of the mean."
    if many:
        text += " Lowest F1 first."
    return table(["class", "precision", "recall", "F1", "support"], rows) + note(text)


def reliability(p: OfClasses) -> Iterator[tuple[Any, str]]:
    """Draw how often the network is right where it is how sure, and how sure it is how often."""
    for stage, of_stage in p.before_and_after().items():
        error, accuracy_B = of_stage.calibration_error()
        sure, accuracy = float(of_stage.confidence_N.mean()), float(of_stage.hit_N.mean())
        how = "over" if sure > accuracy else "under"
        means = f"mean confidence {sure:.3f}, accuracy {accuracy:.3f}: {how}-confident"
        canvas = shared.reliability(accuracy_B, "confidence", "accuracy", stage)
        yield canvas, f"Expected calibration error {error:.3f} ({BINS} bins of equal width, Guo et al. 2017); {means}."
    canvas, axes = figure(4.2, 3.2)
    both = [p.confidence_N[p.hit_N], p.confidence_N[~p.hit_N]]
    edges = np.linspace(0, 1, BINS + 1)
    axes.hist(both, edges, stacked=True, rwidth=0.92, color=["C0", "C1"], label=["right", "wrong"])
    axes.set(xlabel="confidence", ylabel=NOUN, xlim=(0, 1))
    canvas.legend(loc="outside upper center", ncols=2)
    yield canvas, f"How sure the network is how often: {len(both[0]):,} {NOUN} right, {len(both[1]):,} wrong."


def examples(p: OfClasses, data: Any, model: Any, most: int = 12) -> str:
    """The surest mistakes, and where the network looked, and the least sure hits, as the network saw them."""
    least_sure_first = np.argsort(p.confidence_N, kind="stable")
    hit_N = p.hit_N[least_sure_first]
    hits = least_sure_first[hit_N]
    mistakes = least_sure_first[~hit_N][::-1]
    parts = []
    for title, chosen, looked in (("Surest mistakes", mistakes, model), ("Least sure hits", hits, None)):
        captions = []
        for i in chosen[:most].tolist():
            text = p.classes[p.targets[i]]
            if not p.hit_N[i]:
                text += f", not {p.classes[p.label_N[i]]}"
            captions.append((p.paths[i], f"{text} ({p.confidence_N[i]:.2f})"))
        parts.append(_samples.tiles(title, captions, data, looked, p.label_N[chosen[:most]].tolist()))
    return "".join(parts) + note("The true class, what it was taken for, and how sure the network was of that.")


def balance(run: Run) -> str:
    """How many samples of each class stand in each split."""
    assert run.target is not None
    canvas, counts_3K = shared.bars(run, "class")
    ratio = counts_3K[0].max() / max(counts_3K[0].min(), 1)
    text = f"In training the largest class has {ratio:.1f} times the {NOUN} of the smallest."
    rows = [[name, *counts_3K[:, k].tolist()] for k, name in enumerate(run.target.names)]
    rows.append(["all", *counts_3K.sum(1).tolist()])
    return shared.balance("Class balance", text, canvas, "class", rows)
