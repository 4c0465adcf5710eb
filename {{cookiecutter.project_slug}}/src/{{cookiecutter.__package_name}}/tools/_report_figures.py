"""Figures and tables of the report that serve more than one kind of target. Shapes: K classes or labels, N samples."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..engine.calibrating import with_interval
from ..engine.reliability import BINS, SCORES, compared
from ..engine.splits import SPLITS
from ._page import INK, curve, figure, figures, label, note, table
from ._predictions import OfClasses, OfLabels, Ranked
from ._results import Run
from ._words import NOUN

MANY = 20  # classes from which on a figure no longer names all of them
SPLIT_NAMES = ("training", "validation", "test")


def worst_pairs(counts_KK: np.ndarray, support_K: np.ndarray, names: list[str], most: int) -> list[list[object]]:
    """Return the largest counts of a matrix as rows: the names of its row and column, the count, its share.

    Args:
        counts_KK: How many samples of each name are taken for each other.
        support_K: How many samples each name has.
        names: Of the rows and the columns.
        most: How many rows, at most.
    """
    worst = np.argsort(-counts_KK, axis=None, kind="stable")[: min(most, np.count_nonzero(counts_KK))]
    rows: list[list[object]] = []
    for true, said in zip(*np.unravel_index(worst, counts_KK.shape), strict=True):
        count = int(counts_KK[true, said])
        rows.append([names[true], names[said], count, f"{count / support_K[true]:.1%}"])
    return rows


def matrix(shown_KK: np.ndarray, names: list[str], unit: str, x_name: str, y_name: str) -> Any:
    """Draw a matrix with a row and a column for each name.

    Args:
        shown_KK: The values, from 0 on.
        names: Of the rows and the columns.
        unit: Of the values.
        x_name: What a column is.
        y_name: What a row is.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import MaxNLocator

    count = len(names)
    most = max(float(np.nan_to_num(shown_KK).max()), 1)
    canvas, axes = figure(4.4, 3.8)
    # From nothing to blue: on a dark page, too, an empty cell is the page.
    ramp = LinearSegmentedColormap.from_list("ramp", [to_rgba("C0", alpha) for alpha in (0, 1)])
    image = axes.imshow(shown_KK, cmap=ramp, vmin=0, vmax=most, interpolation="none")
    if count <= 12:
        for (row, column), value in np.ndenumerate(shown_KK):
            if value and not np.isnan(value):
                ink = "white" if value > 0.55 * most else INK
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    if count <= MANY:
        short = [label(name, 14) for name in names]
        axes.set_xticks(range(count), short, rotation=90 if max(map(len, short)) > 2 else 0)
        axes.set_yticks(range(count), short)
    axes.grid(False)
    axes.set(xlabel=x_name, ylabel=y_name)
    scale = canvas.colorbar(image, ax=axes, shrink=0.8, label=unit, ticks=MaxNLocator(5, integer=True))
    scale.outline.set_visible(False)
    return canvas


def named(names: list[str], number: int, length: int = 16) -> str:
    """Return a name for a legend: with its number where it is too long, as names may differ in the middle."""
    return label(names[number] if len(names[number]) <= length else f"{number} {names[number]}", length)


def ranking(
    names: list[str], by_name: dict[int, Ranked], several: str, title: str, area: str, x_name: str, y_name: str
) -> tuple[Any, str]:
    """Draw one kind of curve of each class or label against the rest: the mean, and the worst of them by name."""
    canvas, axes = figure(4.2, 4.2)
    grid = np.linspace(0, 1, 201)
    on_grid = {k: np.interp(grid, of_one.x, of_one.y) for k, of_one in by_name.items()}
    worst = worst_of({k: of_one.area for k, of_one in by_name.items()})
    if len(by_name) <= MANY:
        for k in by_name.keys() - worst:
            axes.plot(grid, on_grid[k], color=INK, alpha=0.2, linewidth=0.8)
    for number, k in enumerate(worst):
        text = f"{named(names, k)}: {by_name[k].area:.3f}"
        curve(axes, by_name[k].x, by_name[k].y, color=f"C{number}", linewidth=1.2, label=text)
    if len(by_name) > 1:
        text = f"mean: {np.mean([of_one.area for of_one in by_name.values()]):.3f}"
        axes.plot(grid, np.mean([*on_grid.values()], axis=0), color=INK, linewidth=2, label=text)
    if by_name:
        canvas.legend(title=area, loc="outside upper center", ncols=2)
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return canvas, f"{title}: the mean over the {several}, and those of the smallest area."


def between(bounds: tuple[float, float] | None, write: Callable[[float], str] = "{:.3f}".format) -> str:
    """Write the interval of a score, nothing where there is none."""
    return f"95 %: {write(bounds[0])} to {write(bounds[1])}" if bounds else ""


def worst_of(by_name: dict[int, float], most: int = 4) -> list[int]:
    """Return those of the smallest value."""
    return sorted(by_name, key=by_name.__getitem__)[:most]


def reliability(right_B: np.ndarray, x_name: str, y_name: str, stage: str = "") -> Any:
    """Draw how often something is right in each bin of how sure the network is, before or after calibration."""
    edges = np.linspace(0, 1, BINS + 1)
    canvas, axes = figure(4.2, 3.2)
    if stage:
        axes.set_title(f"{stage} calibration", fontsize="medium")
    axes.bar(edges[:-1], right_B, 0.92 / BINS, align="edge", color="C0", label=y_name)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--", label=f"{y_name} = {x_name}")
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1.02))
    canvas.legend(loc="outside upper center", ncols=2)
    return canvas


def calibration_scores(p: OfClasses | OfLabels) -> str:
    """Show the scores of probabilities before calibration and after it, with their intervals."""
    known = p.before_and_after()
    _, targets, weight_N = p.counted
    scores = compared(p.target, targets, weight_N, **{stage or "now": of.counted[0] for stage, of in known.items()})
    rows = []
    for stage, of_stage in scores.items():
        cells = [with_interval(score) for score in of_stage.values()]
        rows.append([{"now": "as predicted"}.get(stage, f"{stage} calibration"), *cells])
    text = (
        "In brackets the 95 % interval of a bootstrap. NLL: negative log-likelihood; Brier: the mean square of what a "
    )
    text += "probability is off. Less is better."
    if len(rows) > 1:
        text = f"By the {p.calibration} that validation gave. {text}"
        text += " On validation, where it was fitted, it flatters." if p.settled_here else ""
    return table(["probabilities", *SCORES], rows) + note(text)


def bars(run: Run, noun: str) -> tuple[Any, np.ndarray]:
    """Draw how many samples of each class or label stand in each split; returns these numbers, too, (3, K)."""
    assert run.target is not None
    names = run.target.names
    counts_3K = np.stack([run.target.counts(run.splits[split][1]) for split in SPLITS])
    canvas, axes = figure(4.2, 1.1 + 0.24 * len(names) if len(names) <= MANY else 2.7)
    if len(names) <= MANY:
        before_3K = counts_3K.cumsum(0) - counts_3K
        for counts_K, before_K, split in zip(counts_3K, before_3K, SPLIT_NAMES, strict=True):
            axes.barh(range(len(names)), counts_K, 0.75, before_K, label=split)
        axes.set(xlabel=NOUN, ylabel=noun, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.grid(False, axis="y")
    else:
        order = counts_3K.sum(0).argsort()[::-1]
        for counts_K, split in zip(counts_3K, SPLIT_NAMES, strict=True):
            axes.step(range(1, len(names) + 1), counts_K[order], where="mid", label=split)
        axes.set(xlabel=f"{noun}, from the most {NOUN} to the fewest", ylabel=NOUN, ylim=(0, None))
    canvas.legend(loc="outside upper center", ncols=3)
    return canvas, counts_3K


def balance(title: str, text: str, canvas: Any, noun: str, rows: Iterable[Sequence[object]]) -> str:
    """Return what is in each split, as HTML."""
    return f"<h3>{title}</h3>{note(text)}{figures((canvas, ''))}{table([noun, *SPLIT_NAMES], rows)}"
