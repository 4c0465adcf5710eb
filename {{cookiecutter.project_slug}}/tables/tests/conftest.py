"""What the tests share: a small table that they draw, and commands on it (sandbox.py)."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from deprecations import pytest_collection as pytest_collection
from deprecations import pytest_runtest_protocol as pytest_runtest_protocol
from sandbox import exit_code
from sandbox import finished_runs as finished_runs
from sandbox import own_folder as own_folder
from sandbox import run as run
from sandbox import trained as trained

from project_package.data import TableData
from project_package.engine.loading import SplitData

pytest.register_assert_rewrite("suites")

COLOURS = ("red", "green", "blue")
TARGETS = {"multiclass": ["size"], "multilabel": ["sturdy", "cheap"], "regression": ["price", "age"]}


def draw(file: Path, number: int = 120, seed: int = 0) -> Path:
    """Draw a table: two numbers, one of them with missing cells, two categories, and targets that follow from them.

    ``size`` is a class, ``sturdy`` and ``cheap`` are labels, ``price`` and ``age`` are numbers.
    """
    rng = np.random.default_rng(seed)
    length_N, mass_N = rng.normal(30, 8, number).round(2), rng.lognormal(1, 0.7, number).round(3)
    colour_N, shop_N = rng.integers(0, len(COLOURS), number), rng.integers(0, 12, number)
    size_N = np.digitize(length_N + rng.normal(0, 1, number), [26, 34])
    price_N = (20 * mass_N + 5 * colour_N + length_N + rng.normal(0, 1, number)).round(2)
    columns = {
        "length": [f"{value:g}" for value in length_N],
        "mass": ["" if row % 11 == 5 else f"{value:g}" for row, value in enumerate(mass_N)],
        "colour": [COLOURS[value] for value in colour_N],
        "shop": [f"shop {value:02d}" for value in shop_N],
        "size": [("small", "middle", "large")[value] for value in size_N],
        "sturdy": [str(int(value > 3)) for value in mass_N],
        "cheap": [str(int(value < 90)) for value in price_N],
        "price": [f"{value:g}" for value in price_N],
        "age": [f"{value:.3f}" for value in shop_N + rng.normal(0, 0.5, number)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([columns.keys(), *zip(*columns.values(), strict=True)])
    return file


@pytest.fixture(scope="session")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 120 rows."""
    return draw(tmp_path_factory.mktemp("data") / "goods.csv")


def flags_of(task: str) -> tuple[str, ...]:
    """Return the flags that make a target of the columns of a task, and drop those of the other tasks."""
    others = [name for other, names in TARGETS.items() if other != task for name in names]
    return (f"--data.target=[{', '.join(TARGETS[task])}]", f"--data.drop=[{', '.join(others)}]")


@pytest.fixture
def drawn(goods: Path) -> Path:
    """Where the data of the suites lie."""
    return goods


@pytest.fixture
def small_data(goods: Path) -> Callable[[], SplitData]:
    """Make the data module of the drawn table, with classes."""
    others = [*TARGETS["multilabel"], *TARGETS["regression"]]
    return lambda: TableData(str(goods), target="size", drop=others, batch_size=16)


def _command(goods: Path, name: str, *flags: str, task: str = "multiclass") -> int:
    small = ["--data.table", str(goods), "--trainer.accelerator=cpu", "--name=small"]
    if name == "fit":
        small += ["--trainer.max_epochs=2", "--data.batch_size=16", "--trainer.log_every_n_steps=2", *flags_of(task)]
        small += ["--model.network.width=8", "--trainer.logger=false", "--report=false"]
    return exit_code([name, *small, *flags])


@pytest.fixture(scope="session")
def small_command(goods: Path) -> Callable[..., int]:
    """Run a command on the drawn table; ``task`` says which of its targets is learned."""
    return partial(_command, goods)
