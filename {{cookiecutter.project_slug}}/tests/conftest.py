"""What the tests share: a small data set that they draw, and commands on it (sandbox.py)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from deprecations import pytest_collection as pytest_collection
from deprecations import pytest_runtest_protocol as pytest_runtest_protocol
from PIL import Image
from sandbox import exit_code
from sandbox import finished_runs as finished_runs
from sandbox import own_folder as own_folder
from sandbox import run as run
from sandbox import trained as trained

from project_package.data import ImageData
from project_package.engine.loading import SplitData

pytest.register_assert_rewrite("suites")


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


def _command(shapes: Path, name: str, *flags: str) -> int:
    small = ["--data.root", str(shapes), "--data.num_workers=0", "--trainer.accelerator=cpu", "--name=small"]
    if name == "fit":
        small += ["--trainer.max_epochs=2", "--data.batch_size=8", "--trainer.log_every_n_steps=2"]
        small += ["--model.network.width=8", "--trainer.logger=false", "--report=false"]
    return exit_code([name, *small, *flags])


@pytest.fixture(scope="session")
def small_command(shapes: Path) -> Callable[..., int]:
    """Run a command on the drawn images."""
    return partial(_command, shapes)
