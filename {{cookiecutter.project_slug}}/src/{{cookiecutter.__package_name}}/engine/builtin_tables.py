"""The built-in tables: written out as CSV, so that they walk the same way as your own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import made_anew
from .mistakes import Mistake

TARGETS = {"diabetes": "progression", "california": "median_house_value"}


def is_built_in(table: str) -> bool:
    """Tell whether a table is a built-in one, and no file of that name hides it."""
    return table in WRITERS and not os.path.exists(table)


def built_in(name: str) -> Path:
    """Return the file of a built-in table, below the working folder; it is written unless it is there."""
    path = Path("data", f"{name}.csv")
    if not path.exists():
        names, rows = WRITERS[name]()
        path.parent.mkdir(parents=True, exist_ok=True)
        with made_anew(path) as file:
            file.write(_csv(names, rows).encode())
    return path


def diabetes() -> tuple[list[str], np.ndarray]:
    """Return scikit-learn's 442 patients: ten measurements, and the progression of diabetes a year later.

    Efron et al. 2004, in the units of the clinic.
    """
    from sklearn.datasets import load_diabetes  # pyright: ignore[reportMissingImports]  (the extra `builtin`)

    data: Any = load_diabetes(scaled=False)
    named = {"bp": "blood_pressure", "s1": "cholesterol", "s2": "ldl", "s3": "hdl", "s4": "cholesterol_to_hdl"}
    named |= {"s5": "log_triglycerides", "s6": "glucose"}
    names = [named.get(name, name) for name in map(str, data.feature_names)]
    return [*names, TARGETS["diabetes"]], np.column_stack([data.data, data.target])


def california() -> tuple[list[str], np.ndarray]:
    """Return 20,640 districts of California in the census of 1990, with the median value of a house in each.

    Pace and Barry 1997, as scikit-learn has them; it downloads them once.

    Raises:
        Mistake: They could not be downloaded.
    """
    from sklearn.datasets import fetch_california_housing  # pyright: ignore[reportMissingImports]

    try:
        data: Any = fetch_california_housing(data_home="data/california-archive")
    except OSError as error:
        raise Mistake(
            f"--data.table=california could not be downloaded ({error}), so there is nothing to train on; connect to a "
            "network for the first run, or give a table of your own: --data.table FILE.csv --data.target NAME."
        ) from error
    names = ["median_income", "house_age", "average_rooms", "average_bedrooms", "population", "average_occupancy"]
    dollars_N = data.target * 100_000
    return [*names, "latitude", "longitude", TARGETS["california"]], np.column_stack([data.data, dollars_N])


WRITERS: dict[str, Callable[[], tuple[list[str], np.ndarray]]] = {"diabetes": diabetes, "california": california}


def _csv(names: list[str], rows: np.ndarray) -> str:
    lines = [",".join(names), *(",".join(f"{value:.12g}" for value in row) for row in rows.tolist())]
    return "\n".join(lines) + "\n"
