"""What the report shows of several labels: scores of each, thresholds, labels together, the worst samples."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..engine.reliability import DRAWS, calibration
from . import _report_figures as shared
from . import _samples
from ._page import INK, cell, figure, figures, note, shortened, table
from ._predictions import OfLabels, rankings, ranks
from ._report_figures import MANY
from ._results import Run
from ._words import A_ONE, NOUN, ONE

GRID = np.linspace(0, 1, 201)  # of thresholds
NAMED = 2  # labels in a caption that are missing, and surplus


def cards(split: str, p: OfLabels) -> list[tuple[str, str, str]]:
    """The headline scores of a split."""
    scores = p.scores()
    return [
        (f"{split} mAP", cell(scores["mAP"], 3), shared.between(p.interval())),
        (f"{split} macro F1", cell(scores["macro F1"], 3), f"{len(p.paths):,} {NOUN}"),
    ]


def score_cells(p: OfLabels) -> list[object]:
    """The scores as a table shows them."""
    return [*p.scores().values()]


def remark(p: OfLabels) -> str:
    """How to read the scores."""
    text = "F1 and exact match are by 0.5 on validation, as logged, and on the test by the thresholds chosen there. "
    return f"{text}The interval of mAP is that of {DRAWS:,} bootstrap draws of the {NOUN}."


def evaluation(p: OfLabels) -> str:
    """What the predictions of a split are worth: each label, thresholds, labels together, calibration."""
    parts = [
        f"<h3>Labels</h3>{by_label(p)}",
        f"<h3>Thresholds</h3>{figures(f1_by_threshold(p), precision_and_recall(p))}",
        f"<h3>Labels together</h3>{together(p)}" if len(p.labels) > 1 else "",
        f"<h3>Labels of {A_ONE}, and calibration</h3>{figures(labels_per_sample(p), *reliability(p))}",
        shared.calibration_scores(p),
    ]
    return "".join(parts)


def by_label(p: OfLabels) -> str:
    """Support, threshold, precision, recall, F1 and average precision of each label; the worst first of many."""
    _, recall = rankings(p.predicted, p.has_NK, p.weight_N)
    precision_K, recall_K, f1_K = p.per_label(p.thresholds_K)
    _, _, f1_at_half_K = p.per_label(0.5)
    support_K = p.has_NK.sum(0)
    ap_K = np.array([average_precision(p, recall, k) for k in range(len(p.labels))])
    scores_K6 = np.stack([p.thresholds_K, precision_K, recall_K, f1_K, f1_at_half_K, ap_K], axis=1)
    order = np.argsort(ap_K, kind="stable") if len(p.labels) > MANY else np.arange(len(p.labels))
    rows: list[list[object]] = []
    for k in order.tolist():
        share = f"{support_K[k] / len(p.paths):.1%}"
        rows.append([p.labels[k], int(support_K[k]), share, *scores_K6[k].tolist()])
    if len(rows) > 1:
        means = [mean_of_known(scores_K) for scores_K in scores_K6.T[1:]]
        rows.append(["mean over labels", "", "", "", *means])
    text = f"Support: {NOUN} that have the label, and their share. AP: average precision; guesses have that share. "
    text += "A dash: nothing to divide by, left out of the mean. "
    if p.settled_here:
        text += f"The thresholds were chosen on these {NOUN}, so F1 by them flatters. "
    if len(p.labels) > MANY:
        text += "Lowest average precision first."
    header = ["label", "support", "share", "threshold", "precision", "recall", "F1", "F1 at 0.5", "AP"]
    return table(header, rows) + note(text.strip())


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of what is no NaN; NaN where all is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def average_precision(p: OfLabels, recall: dict[int, Any], k: int) -> float:
    """Return the average precision of a label: 1 where every sample has it, NaN where none does."""
    if k in recall:
        return recall[k].area
    return 1.0 if p.has_NK[:, k].any() else np.nan


def f1_by_threshold(p: OfLabels) -> tuple[Any, str]:
    """Draw F1 against the threshold: the mean over the labels, and the labels of the smallest F1."""
    canvas, axes = figure(4.2, 4.2)
    on_grid = {k: f1_on_grid(p, k) for k in np.flatnonzero(p.has_NK.any(0)).tolist()}
    _, _, f1_K = p.per_label(p.thresholds_K)
    worst = shared.worst_of({k: f1_K[k] for k in on_grid})
    if len(on_grid) <= MANY:
        for k in on_grid.keys() - worst:
            axes.plot(GRID, on_grid[k], color=INK, alpha=0.2, linewidth=0.8)
    for number, k in enumerate(worst):
        text = f"{shared.named(p.labels, k)}: {p.thresholds_K[k]:.2f}"
        axes.plot(GRID, on_grid[k], color=f"C{number}", linewidth=1.2, label=text)
        axes.plot(p.thresholds_K[k], f1_K[k], color=f"C{number}", marker="o", markersize=5)
    if len(on_grid) > 1:
        axes.plot(GRID, np.mean([*on_grid.values()], axis=0), color=INK, linewidth=2, label="macro F1")
    if on_grid:
        canvas.legend(title="threshold", loc="outside upper center", ncols=2)
    axes.set(xlabel="threshold", ylabel="F1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    chosen = "0.5, as the run chose none" if p.settled is None else "chosen on validation"
    return canvas, f"F1 against the threshold: the labels of the smallest F1. A dot is the threshold, {chosen}."


def f1_on_grid(p: OfLabels, k: int) -> np.ndarray:
    """Return the F1 of a label at each threshold of the grid."""
    order, last_S = ranks(p.predicted[:, k])
    true_S = np.append(0, (p.weight_N * p.has_NK[:, k])[order].cumsum()[last_S])
    all_S = np.append(0, p.weight_N[order].cumsum()[last_S])
    reached = np.searchsorted(-p.predicted[order[last_S], k], -GRID, side="right")
    return 2 * true_S[reached] / (all_S[reached] + true_S[-1])


def precision_and_recall(p: OfLabels) -> tuple[Any, str]:
    """Draw the precision-recall curves, with the chosen points."""
    _, curves = rankings(p.predicted, p.has_NK, p.weight_N)
    names = ("labels", "Precision and recall", "average precision", "recall", "precision")
    canvas, caption = shared.ranking(p.labels, curves, *names)
    precision_K, recall_K, _ = p.per_label(p.thresholds_K)
    for number, k in enumerate(shared.worst_of({k: of_label.area for k, of_label in curves.items()})):
        canvas.axes[0].plot(recall_K[k], precision_K[k], color=f"C{number}", marker="o", markersize=5)
    return canvas, f"{caption} A dot is the point that the threshold takes."


def together(p: OfLabels) -> str:
    """Which labels stand together, in truth and as predicted, and which are said instead of others."""
    drawn = []
    has_NK, said_NK = p.has_NK.astype(np.float32), p.said_NK.astype(np.float32)
    for shown_NK, axis, what in ((has_NK, "true", "have"), (said_NK, "predicted", "are said to have")):
        share_KK = 100 * (has_NK.T @ shown_NK) / np.maximum(has_NK.sum(0), 1)[:, None]
        canvas = shared.matrix(share_KK, p.labels, f"% of the row's {NOUN}", f"{axis} label", "true label")
        text = f"Of the {NOUN} that have the row's label, how many {what} the column's."
        if shown_NK is said_NK:
            text += " The diagonal is the recall."
        if len(p.labels) > MANY:
            text += " Labels by number, in the order of the data."
        drawn.append((canvas, text))
    return figures(*drawn) + confusions(p)


def labels_per_sample(p: OfLabels) -> tuple[Any, str]:
    """Draw how many labels samples have, and how many are predicted."""
    true_N, said_N = p.has_NK.sum(1), p.said_NK.sum(1)
    most = int(max(true_N.max(), said_N.max()))
    canvas, axes = figure(4.2, 3.2)
    edges = np.arange(most + 2) - 0.5
    axes.hist([true_N, said_N], edges, rwidth=0.85, color=["C0", "C1"], label=["true", "predicted"])
    axes.set(xlabel=f"labels of {A_ONE}", ylabel=NOUN)
    axes.xaxis.get_major_locator().set_params(integer=True)
    canvas.legend(loc="outside upper center", ncols=2)
    right = int((p.has_NK == p.said_NK).all(1).sum())
    text = f"How many labels {NOUN} have: {true_N.mean():.2f} on average, {said_N.mean():.2f} predicted. Of"
    return canvas, f"{text} {len(true_N):,} {NOUN} {right:,} have every label right."


def confusions(p: OfLabels, most: int = 10) -> str:
    """The pairs of labels of which one is missed and the other said where it is not, most often."""
    missed_NK = (p.has_NK & ~p.said_NK).astype(np.float32)
    surplus_NK = (p.said_NK & ~p.has_NK).astype(np.float32)
    count_KK = (missed_NK.T @ surplus_NK).astype(int)
    rows = shared.worst_pairs(count_KK, p.has_NK.sum(0), p.labels, most)
    header = ["label missed", "label said instead", NOUN, "of those that have the missed one"]
    return table(header, rows) if rows else note(f"No {ONE} misses one label and is said to have another instead.")


def reliability(p: OfLabels) -> Iterator[tuple[Any, str]]:
    """Draw how often labels are there of which the network says how probable they are."""
    weight_N = np.repeat(p.weight_N, len(p.labels))
    share = float(np.average(p.has_NK.ravel(), weights=weight_N))
    for stage, of_stage in p.before_and_after().items():
        error, share_B = calibration(of_stage.predicted.ravel(), p.has_NK.ravel(), weight_N)
        canvas = shared.reliability(share_B, "probability", "share", stage)
        sure = float(np.average(of_stage.predicted.ravel(), weights=weight_N))
        means = f"mean probability {sure:.3f}, share that is there {share:.3f}"
        yield (
            canvas,
            f"How often a label is there that is so probable, all labels together: error {error:.3f}; {means}.",
        )


def examples(p: OfLabels, data: Any, model: Any, most: int = 12) -> str:
    """The samples of the greatest loss: labels that are missing or too many, and what spoke for the worst."""
    loss_N = p.loss_NK.mean(1)
    captions, worst = [], np.argsort(-loss_N, kind="stable")[:most]
    for i in worst.tolist():
        missing = np.flatnonzero(p.has_NK[i] & ~p.said_NK[i]).tolist()
        surplus = np.flatnonzero(p.said_NK[i] & ~p.has_NK[i]).tolist()
        parts = []
        if missing:
            parts.append(f"missing {listed(p, i, sorted(missing, key=lambda k: p.predicted[i, k]))}")
        if surplus:
            parts.append(f"surplus {listed(p, i, sorted(surplus, key=lambda k: -p.predicted[i, k]))}")
        if not parts:
            parts.append(f"every label right, least surely {listed(p, i, [int(p.loss_NK[i].argmax())])}")
        captions.append((p.paths[i], "; ".join(parts)))
    costliest = p.loss_NK[worst].argmax(1).tolist()
    return _samples.tiles(f"{NOUN.capitalize()} of the greatest loss", captions, data, model, costliest) + note(
        f"Labels that the {ONE} has and are missed, labels that are said and are not there, and how probable each was."
    )


def listed(p: OfLabels, i: int, labels: Iterable[int]) -> str:
    """Name labels of a sample with their probabilities, the first few."""
    found = [f"{shortened(p.labels[k], 24)} ({p.predicted[i, k]:.2f})" for k in labels]
    return ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")


def balance(run: Run) -> str:
    """How many samples have each label in each split."""
    assert run.target is not None
    canvas, counts_3K = shared.bars(run, "label")
    targets = [run.splits[split][1] for split in shared.SPLITS]
    rarest = int(counts_3K[0].argmin())
    text = f"In training {run.target.names[rarest]!r} is the rarest label, in {counts_3K[0, rarest]:,} of"
    text += f" {len(targets[0]):,} {NOUN}."
    if len(run.target.names) > 1:
        text += f" The most frequent one is in {counts_3K[0].max():,}."
    rows = [[name, *counts_3K[:, k].tolist()] for k, name in enumerate(run.target.names)]
    rows.append(["without a label", *(int((target_NK.sum(1) == 0).sum()) for target_NK in targets)])
    rows.append([f"all {NOUN}", *map(len, targets)])
    return shared.balance("Balance of the labels", text, canvas, "label", rows)
