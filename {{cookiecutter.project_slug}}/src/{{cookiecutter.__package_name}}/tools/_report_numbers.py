"""What the report shows of numbers: predicted against true, residuals, error by bin, the worst samples.

All is in the user's unit. Where the logarithm is learned, ratios stand in for differences.
"""

from html import escape
from typing import Any, NamedTuple

import numpy as np

from ..engine.calibrating import covered
from ..engine.calibration import OfNumbers as Intervals
from ..engine.reliability import DRAWS
from . import _report_figures as shared
from . import _samples
from ._page import INK, amount, cell, figure, figures, label, note, table
from ._predictions import OfNumbers
from ._report_figures import SPLIT_NAMES
from ._results import Run
from ._words import NOUN, ONE

DENSE = 1000  # points from which on their number is drawn
DRAWN = 6  # numbers that have figures
BINS = 10  # of the true values
IN_A_BIN = 10  # samples, at least
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals


def cards(split: str, p: OfNumbers) -> list[tuple[str, str, str]]:
    """The headline scores of a split."""
    scores = p.scores()
    several = f"mean over {len(p.target.names)} numbers" if len(p.target.names) > 1 else f"{len(p.paths):,} {NOUN}"
    return [
        (f"{split} RMSE", amount(scores["RMSE"]), shared.between(p.interval(), amount)),
        (f"{split} R²", cell(scores["R²"], 3), several),
    ]


def score_cells(p: OfNumbers) -> list[object]:
    """The scores as a table shows them."""
    scores = p.scores()
    return [amount(scores["RMSE"]), amount(scores["MAE"]), scores["R²"], scores["Spearman"]]


def remark(p: OfNumbers) -> str:
    """How to read the scores."""
    text = "RMSE and MAE are in the unit of the data; R² is 0 where always saying the mean would do as well. "
    if len(p.target.names) > 1:
        text += "Scores are means over the numbers, which count the same whatever their units; each stands below. "
    return f"{text}The interval of the RMSE is that of {DRAWS:,} bootstrap draws of the {NOUN}."


def evaluation(p: OfNumbers) -> str:
    """What the predictions of a split are worth: of each number its scores, figures and error by bin."""
    each = [p.of(number) for number in range(len(p.target.names))]
    parts = []
    if len(each) > 1:
        rows = [[one.target.names[0], *score_cells(one)] for one in each]
        rows.append(["mean over numbers", *score_cells(p)])
        parts.append(table(["number", *p.scores()], rows))
    worst = sorted(each, key=lambda one: one.scores()["R²"])[:DRAWN]
    if len(each) > DRAWN:
        parts.append(note(f"Below are the {DRAWN} of the smallest R²."))
    parts += [of_one(one) for one in (each if len(each) <= DRAWN else worst)]
    return "".join(parts)


def of_one(p: OfNumbers) -> str:
    """The figures of one number, and its error by bin."""
    [name] = p.target.names
    drawn = (predicted_against_true(p), residuals(p), residuals_against_predicted(p), error_by_bin(p))
    return f"<h3>{escape(name)}</h3>{figures(*drawn)}{table_of_bins(bins(p))}{intervals(p)}"


def intervals(p: OfNumbers) -> str:
    """Show how wide the intervals of several levels are, and how often those hold the true number."""
    of = p.calibration
    if not isinstance(of, Intervals):
        return ""
    levels = [level for level in LEVELS if level <= of.highest]
    if not levels:
        return note(f"{of.samples} validation {NOUN} are too few for an interval.")
    rows, [name] = [], p.target.names
    predicted, targets, _ = p.counted
    for level in levels:
        [half] = of.half_widths(level)
        width = f"a factor of {amount(float(np.exp(half)))}" if p.target.log else f"± {amount(float(half))}"
        found = covered(of, targets, predicted, level)[name]
        share = f"{found['share']:.1%}"
        if not p.settled_here:
            share += " ({:.1%} to {:.1%})".format(*found["interval"])
        rows.append([f"{level:.0%}", width, share])
    text = f"Intervals by the residuals of {of.samples:,} validation {NOUN} (split conformal; predict --interval 0.9)"
    text += ", which these are." if p.settled_here else "; in brackets the exact 95 % interval of each share."
    return table(["interval", "width", "holds the true number"], rows) + note(text)


def scatter(axes: Any, x_N: np.ndarray, y_N: np.ndarray, x_scale: str, y_scale: str) -> str:
    """Draw points, or where there are many how many lie where; returns what the caption says of that."""
    if len(x_N) < DENSE:
        axes.plot(x_N, y_N, linestyle="", marker="o", markersize=3.5, alpha=0.7, markeredgewidth=0, color="C0")
        axes.set(xscale=x_scale, yscale=y_scale)
        return ""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    # From a light blue on: a cell that holds a single sample is to be seen, on a dark page, too.
    ramp = LinearSegmentedColormap.from_list("ramp", [to_rgba("C0", alpha) for alpha in (0.25, 1)])
    kept = {"xscale": x_scale, "yscale": y_scale}
    cells = axes.hexbin(x_N, y_N, gridsize=45, bins="log", mincnt=1, cmap=ramp, linewidths=0, rasterized=True, **kept)
    axes.figure.set_dpi(200)
    axes.figure.colorbar(cells, ax=axes, shrink=0.8, label=NOUN).outline.set_visible(False)
    return f" The stronger the colour, the more {NOUN}."


def scale_of(p: OfNumbers) -> str:
    """The scale of an axis of values."""
    return "log" if p.target.log else "linear"


def predicted_against_true(p: OfNumbers) -> tuple[Any, str]:
    """Draw what is predicted against what is true, and where both are the same."""
    [name] = p.target.names
    true_N, said_N = p.targets[:, 0], p.predicted[:, 0]
    canvas, axes = figure(4.2, 3.8)
    dense = scatter(axes, true_N, said_N, scale_of(p), scale_of(p))
    ends = [min(true_N.min(), said_N.min()), max(true_N.max(), said_N.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.9, linestyle="--", label="predicted = true")
    axes.set(xlabel=label(f"true {name}", 36), ylabel=label(f"predicted {name}", 40))
    canvas.legend(loc="outside upper center")
    return canvas, f"Predicted against true, on one scale.{dense}"


def residual_N(p: OfNumbers) -> np.ndarray:
    """By how much predictions are off: the difference, or of logarithms the ratio."""
    return p.predicted[:, 0] / p.targets[:, 0] if p.target.log else p.error_NT[:, 0]


def residual_name(p: OfNumbers) -> str:
    """What that is called."""
    return "predicted / true" if p.target.log else "predicted − true"


def edges_over(values: np.ndarray, samples: int, log: bool) -> np.ndarray:
    """Return the edges of the bars of a histogram, the more the more samples there are."""
    low, high = values.min(), values.max()
    if low == high:
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.5, high + 0.5)
    count = int(np.clip(1.5 * samples**0.5, 8, 40)) + 1
    return np.geomspace(low, high, count) if log else np.linspace(low, high, count)


def ratios(axis: Any, values: np.ndarray) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, so many that they do not touch."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    is_narrow = values.max() < 100 * values.min()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def residuals(p: OfNumbers) -> tuple[Any, str]:
    """Draw how far predictions are off how often."""
    off_N = residual_N(p)
    canvas, axes = figure(4.2, 3.2)
    edges = edges_over(off_N, len(off_N), p.target.log)
    axes.hist(off_N, edges, rwidth=0.92, color="C0")
    axes.axvline(1 if p.target.log else 0, color=INK, linewidth=0.9, linestyle="--")
    axes.set(xlabel=residual_name(p), ylabel=NOUN, xscale=scale_of(p))
    if p.target.log:
        ratios(axes.xaxis, off_N)
    mean = p.error_NT[:, 0].mean()
    bias = f"on average {amount(abs(mean))} too {'high' if mean >= 0 else 'low'}"
    half, most = np.quantile(np.abs(np.log(off_N) if p.target.log else off_N), [0.5, 0.9])
    text = f"half are at most {amount(half)} off, nine of ten at most {amount(most)}"
    if p.target.log:
        text = f"half are off by a factor of {amount(np.exp(half))} at most, nine of ten by {amount(np.exp(most))}"
    return canvas, f"Residuals: {text}; {bias}."


def residuals_against_predicted(p: OfNumbers) -> tuple[Any, str]:
    """Draw how far predictions are off against what they are."""
    [name] = p.target.names
    canvas, axes = figure(4.2, 3.2)
    dense = scatter(axes, p.predicted[:, 0], residual_N(p), scale_of(p), scale_of(p))
    axes.axhline(1 if p.target.log else 0, color=INK, linewidth=0.9, linestyle="--")
    axes.set(xlabel=label(f"predicted {name}", 40), ylabel=residual_name(p))
    if p.target.log:
        ratios(axes.yaxis, residual_N(p))
    return canvas, f"Residuals against what is predicted: a slope or a fan is something left to learn.{dense}"


class Bin(NamedTuple):
    """The samples whose true values lie side by side, and the errors of them."""

    least: float
    most: float
    samples: int
    mean: float
    mae: float
    rmse: float


def bins(p: OfNumbers, relative: bool = False) -> list[Bin]:
    """Return the error by the true value, or its share of that, in bins of as many samples each."""
    true_N, error_N = p.targets[:, 0], p.error_NT[:, 0]
    error_N = error_N / true_N if relative else error_N
    count = int(np.clip(len(true_N) // IN_A_BIN, 1, BINS))
    edges = np.unique(np.quantile(true_N, np.linspace(0, 1, count + 1)))
    bin_N = np.searchsorted(edges[1:-1], true_N, side="right")
    found = []
    for number in np.unique(bin_N).tolist():
        true, error, weight = true_N[bin_N == number], error_N[bin_N == number], p.weight_N[bin_N == number]
        if weight.sum():
            mean, mae, square = (float(np.average(what, weights=weight)) for what in (error, np.abs(error), error**2))
            found.append(Bin(float(true.min()), float(true.max()), len(true), mean, mae, square**0.5))
    return found


def error_by_bin(p: OfNumbers) -> tuple[Any, str]:
    """Draw the error by the true value."""
    [name] = p.target.names
    found = bins(p, relative=p.target.log)
    canvas, axes = figure(4.2, 3.2)
    place = range(len(found))
    axes.bar(place, [of_bin.mae for of_bin in found], 0.8, color="C0", label="MAE")
    axes.plot(place, [of_bin.mean for of_bin in found], color="C1", marker="o", markersize=4, label="mean error")
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_xticks(place, [amount(of_bin.least) for of_bin in found], rotation=90 if len(found) > 5 else 0)
    axes.set(xlabel=label(f"true {name}, from", 40), ylabel="error / true" if p.target.log else "error")
    axes.grid(False, axis="x")
    canvas.legend(loc="outside upper center", ncols=2)
    fewest, most = min(of_bin.samples for of_bin in found), max(of_bin.samples for of_bin in found)
    count = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return canvas, f"The error by the true value, in bins of {count} {NOUN}; below 0 is too low."


def table_of_bins(found: list[Bin]) -> str:
    """Show the same in figures."""
    rows = [
        [f"{amount(of_bin.least)} to {amount(of_bin.most)}", of_bin.samples, *map(amount, of_bin[3:])]
        for of_bin in found
    ]
    shown = table(["true value", NOUN, "mean error", "MAE", "RMSE"], rows)
    return f"<details><summary>Error by the true value</summary>{shown}</details>"


def examples(p: OfNumbers, data: Any, model: Any, most: int = 12) -> str:
    """The samples whose numbers are furthest off: true ones, predicted ones, and what spoke for greater ones."""
    names = p.target.names
    off_NT = np.abs(p.target.learned(p.predicted) - p.target.learned(p.targets))
    off_NT = off_NT / np.maximum(off_NT.mean(0), np.finfo(float).tiny)  # so that units do not matter
    captions, numbers = [], []
    for i in np.argsort(-off_NT.max(1), kind="stable")[:most].tolist():
        number = int(off_NT[i].argmax())
        numbers.append(number)
        of = f"{names[number]}: " if len(names) > 1 else ""
        captions.append((p.paths[i], f"{of}true {amount(p.targets[i, number])}, said {amount(p.predicted[i, number])}"))
    text = "The true number and the predicted one"
    text += f": of each {ONE} that which is furthest off, by the mean error of its kind." if len(names) > 1 else "."
    return _samples.tiles(f"{NOUN.capitalize()} furthest off", captions, data, model, numbers) + note(text)


def balance(run: Run) -> str:
    """How the numbers are distributed in each split."""
    assert run.target is not None
    names, log = run.target.names, getattr(run.target, "log", False)
    targets = [run.splits[split][1] for split in shared.SPLITS]
    drawn = [
        distribution(name, [target_NT[:, t] for target_NT in targets], log) for t, name in enumerate(names[:DRAWN])
    ]
    rows = []
    for t, name in enumerate(names):
        for split, target_NT in zip(SPLIT_NAMES, targets, strict=True):
            of_split = target_NT[:, t]
            if len(of_split):
                shown = [*np.quantile(of_split, [0, 0.25, 0.5, 0.75, 1]), of_split.mean(), of_split.std()]
                rows.append([name, split, len(of_split), *map(amount, shown)])
    header = ["number", "split", NOUN, "least", "25 %", "median", "75 %", "most", "mean", "deviation"]
    text = f"Figures of the first {DRAWN} numbers alone." if len(names) > DRAWN else ""
    return f"<h3>Distribution of the numbers</h3>{figures(*drawn)}{note(text) if text else ''}{table(header, rows)}"


def distribution(name: str, values: list[np.ndarray], log: bool) -> tuple[Any, str]:
    """Draw the share of each split's samples that lies where."""
    canvas, axes = figure(4.2, 2.7)
    smallest = min(len(of_split) for of_split in values if len(of_split))
    edges = edges_over(np.concatenate(values), smallest, log)
    for of_split, split in zip(values, SPLIT_NAMES, strict=True):
        if len(of_split):
            counts, _ = np.histogram(of_split, edges)
            axes.stairs(100 * counts / len(of_split), edges, label=split, linewidth=1.4)
    axes.set(xlabel=label(name, 40), ylabel="% of the split", xscale="log" if log else "linear", ylim=(0, None))
    canvas.legend(loc="outside upper center", ncols=3)
    return canvas, ""
