"""What is said of a table before training: a line for each column, aligned as a terminal shows it."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .arrow import DAYS, EXACT
from .mistakes import shown, some
from .targets import Classes, Labels, Target

MOST_LINES = 40  # of the summary


class Line(NamedTuple):
    """What is said of a column: a line of the summary."""

    name: str
    kind: str
    missing: int = 0
    distinct: int = 0
    about: str = ""


def lines_of(names: list[str], target: Target, targets: np.ndarray) -> dict[str, Line]:
    """Return what is said of the columns of the target."""
    if isinstance(target, Classes):
        counts = target.counts(targets)
        return {names[0]: Line(names[0], "target", 0, len(counts), most_frequent(target.names, counts))}
    lines = {}
    for name, values_N in zip(names, targets.T, strict=True):
        values, counts = np.unique(values_N, return_counts=True)
        words = [f"{value}" for value in values.tolist()] if isinstance(target, Labels) else []
        lines[name] = Line(name, "target", 0, len(values), most_frequent(words, counts) if words else range_of(values))
    return lines


def summary_of(lines: list[Line]) -> str:
    """Write a line for each column, or of many columns how many there are of each kind."""
    if len(lines) > MOST_LINES:
        return _shorter(lines)
    header = ("column", "kind", "missing", "distinct", "")
    rows = [
        (
            cut(line.name, 30),
            line.kind,
            "" if line.kind == "dropped" else f"{line.missing:,}",
            "" if line.kind == "dropped" else f"{line.distinct:,}",
            line.about,
        )
        for line in lines
    ]
    widths = [max(width(row[i]) for row in [header, *rows]) for i in range(4)]
    written = []
    for name, kind, missing, distinct, about in [header, *rows]:
        name += " " * (widths[0] - width(name))
        row = f"  {name}  {kind:<{widths[1]}}  {missing:>{widths[2]}}  {distinct:>{widths[3]}}  {about}"
        written.append(row.rstrip())
    return "\n".join(written)


def _shorter(lines: list[Line]) -> str:
    """Write a line for each kind of column, and for each reason for which some are left out."""
    numbers, categories = ([line for line in lines if line.kind == kind] for kind in ("number", "category"))
    written = []
    for what, of_kind in (("number", numbers), ("category", categories)):
        if of_kind:
            names = some([cut(line.name, 30) for line in of_kind])
            missing = sum(line.missing > 0 for line in of_kind)
            distinct = [line.distinct for line in of_kind]
            written.append(
                f"  {what:<8}  {len(of_kind):>6,}  {names}: {missing:,} with missing cells, {min(distinct):,} to "
                f"{max(distinct):,} distinct values"
            )
    dropped = [line for line in lines if line.kind == "dropped"]
    if dropped:
        reasons = [f"{cut(line.name, 30)} {line.about}" for line in dropped]
        written.append(
            f"  {'dropped':<8}  {len(dropped):>6,}  {'; '.join(reasons[:6])}{' …' if len(reasons) > 6 else ''}"
        )
    return "\n".join(written)


def range_of(ordered: np.ndarray, unit: str = "") -> str:
    """Name the first and the last of numbers in their order."""
    if unit == DAYS:
        first, last = (np.datetime64(int(np.floor(days)), "D") for days in ordered[[0, -1]])
        return f"{first} to {last}, as days since 1970" if last > first else f"{first}"
    ends = [f"{end:,.0f}" if end == np.floor(end) and abs(end) < EXACT else f"{end:,.6g}" for end in ordered[[0, -1]]]
    return " to ".join(dict.fromkeys(ends)) + (f" {unit}" if unit else "")


def most_frequent(words: Sequence[str], counts: np.ndarray) -> str:
    """Name the most frequent of some words, and how often they are there."""
    most: list[int] = np.argsort(-counts, kind="stable")[:4].tolist()
    return " · ".join(f"{cut(words[i], 20)} ({counts[i]:,})" for i in most) + (" …" if len(words) > 4 else "")


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else not unicodedata.combining(letter) for letter in text
    )


def cut(text: str, most: int) -> str:
    """Return a text in one line, of so many letters at most."""
    text = shown(text.replace("\n", " ").replace("\t", " "))
    return text if len(text) <= most else f"{text[: most - 1]}…"
