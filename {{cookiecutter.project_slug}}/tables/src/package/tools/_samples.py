"""Rows on a page: those that a network gets wrong, and what training makes of rows."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..engine.encoding import Columns
from ._page import note, table

SHOWN = 12  # columns


def tiles(
    title: str, chosen: Iterable[tuple[str, str]], data: Any, model: Any = None, outputs: Iterable[int] = ()
) -> str:
    """Return rows of the validation split with captions as HTML.

    Args:
        title: What they are.
        chosen: The key of each and its caption.
        data: The data module.
        model: Is not asked: of a row there is nothing to show of where it looked.
        outputs: Are not, either.
    """
    split = data.dataset(*data.split("val"))
    position = {key: i for i, key in enumerate(split.keys)}
    names = [*data.columns.numbers, *data.columns.categories]
    rows = []
    for key, caption in chosen:
        x_F = split[position[key]].x.numpy()
        rows.append([key, caption, *cells(x_F[:SHOWN], data.columns)])
    if not rows:
        return f"<h3>{title}</h3>{note('None.')}"
    left = len(names) - SHOWN
    more = note(f"The first {SHOWN} of {len(names)} columns.") if left > 0 else ""
    return f"<h3>{title}</h3>{table([data.key, 'what is said', *names[:SHOWN]], rows)}{more}"


def cells(x_F: np.ndarray, columns: Columns) -> list[str]:
    """Return the first values of a row as its file has them."""
    vocabularies = list(columns.categories.values())
    written = []
    for place, value in enumerate(x_F.tolist()):
        category = place - len(columns.numbers)
        if category < 0:
            written.append("missing" if np.isnan(value) else f"{value:.7g}")
        elif value == 0:
            written.append("unknown")
        else:
            written.append(vocabularies[category][int(value) - 1] or "missing")
    return written


def augmentation(data: Any) -> str:
    """Return nothing: rows are augmented by the model, and "Reproduce" shows its flags."""
    return ""
