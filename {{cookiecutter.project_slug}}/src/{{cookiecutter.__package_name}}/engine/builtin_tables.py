"""The built-in tables: written out as CSV, so that they walk the same way as your own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .files import made_anew
from .installing import of_extra
from .mistakes import Mistake

DIABETES = Path(__file__).with_name("diabetes.csv")
TARGETS = {"diabetes": "progression", "california": "median_house_value"}


def is_built_in(table: str) -> bool:
    """Tell whether a table is a built-in one, and no file of that name hides it."""
    return table in WRITERS and not os.path.exists(table)


def built_in(name: str) -> Path:
    """Return the file of a built-in table, below the working folder; it is written unless it is there."""
    path = Path("data", f"{name}.csv")
    if not path.exists():
        content = WRITERS[name]().encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with made_anew(path) as file:
            file.write(content)
    return path


def diabetes() -> str:
    """Return 442 patients as CSV: ten measurements, and the progression of diabetes a year later.

    Efron, Hastie, Johnstone and Tibshirani, "Least Angle Regression", Annals of Statistics 2004, in the units of the
    clinic: those of scikit-learn, which has them from https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html.
    """
    return DIABETES.read_text(encoding="utf-8")


def california() -> str:
    """Return 20,640 districts of California in the census of 1990 as CSV, with the median value of a house in each.

    Pace and Barry 1997, as scikit-learn has them; it downloads them once.

    Raises:
        Mistake: They could not be downloaded, or scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import fetch_california_housing  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise Mistake(
            "--data.table=california needs scikit-learn, which is not installed, so nothing was downloaded; install "
            f"the project's extra: {of_extra('california')}"
        ) from error
    try:
        data: Any = fetch_california_housing(data_home="data/california-archive")
    except OSError as error:
        raise Mistake(
            f"--data.table=california could not be downloaded ({error}), so there is nothing to train on; connect to a "
            "network for the first run, or give a table of your own: --data.table FILE.csv --data.target NAME."
        ) from error
    names = ["median_income", "house_age", "average_rooms", "average_bedrooms", "population", "average_occupancy"]
    dollars_N = data.target * 100_000
    names += ["latitude", "longitude", TARGETS["california"]]
    return _csv(names, np.column_stack([data.data, dollars_N]))


WRITERS: dict[str, Callable[[], str]] = {"diabetes": diabetes, "california": california}


def _csv(names: list[str], rows: np.ndarray) -> str:
    lines = [",".join(names), *(",".join(f"{value:.12g}" for value in row) for row in rows.tolist())]
    return "\n".join(lines) + "\n"
