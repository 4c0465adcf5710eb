"""What the tests share: a small data set that they draw, and the command line run in this process."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from project_package.__main__ import main
from project_package.data import ImageData
from project_package.engine.loading import SplitData

pytest.register_assert_rewrite("suites")
torch.set_num_threads(1)  # for networks as small as these, threads cost more than they bring


def draw(folder: Path, name: str, number: int, side: int = 16) -> None:
    """Draw one grey image of a class: bright on the left, on the right, or in the middle."""
    rng = np.random.default_rng([ord(name[0]), number])
    pixels = rng.integers(0, 120, (side, side), dtype=np.uint8)
    start = {"left": 0, "middle": side // 3, "right": 2 * side // 3}[name]
    pixels[:, start : start + side // 3] += 120
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 × 24 images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    for name in ("left", "middle", "right"):
        for number in range(24):
            draw(root / name, name, number)
    return root


@pytest.fixture
def drawn(shapes: Path) -> Path:
    """Where the data of the suites lie."""
    return shapes


@pytest.fixture
def small_data(shapes: Path) -> Callable[[], SplitData]:
    """Make the data module of the drawn images."""
    return lambda: ImageData(str(shapes), batch_size=8, num_workers=0)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = dict(os.environ)
    with contextlib.chdir(folder):
        yield
    os.environ.clear()  # Lightning keeps the seed there
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path) -> Iterator[None]:
    with _working_in(tmp_path):
        yield


def _command(shapes: Path, name: str, *flags: str) -> int:
    small = ["--data.root", str(shapes), "--data.num_workers=0", "--trainer.accelerator=cpu", "--name=small"]
    if name == "fit":
        small += ["--trainer.max_epochs=2", "--data.batch_size=8", "--trainer.log_every_n_steps=2"]
        small += ["--model.network.width=8", "--trainer.logger=false", "--report=false"]
    try:
        return main([name, *small, *flags])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def run(shapes: Path) -> Callable[..., int]:
    """Run a command as its user would, on the drawn images, small and without workers; returns the exit code."""
    return partial(_command, shapes)


@pytest.fixture(scope="session")
def _runs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with _working_in(folder):
        assert _command(shapes, "fit") == 0
    return folder / "runs"


@pytest.fixture
def trained(_runs: Path, _own_folder: None) -> Path:
    """The folder of a finished ``run("fit")``: a copy, in the test's own working folder."""
    shutil.copytree(_runs, "runs")
    return Path("runs/small/version_0")
