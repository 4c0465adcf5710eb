"""``preview``: write preview.png, a grid of augmented training images.

Takes the flags of ``fit``.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..cli import CLI
from ..engine.images import grid


def main(args: list[str]) -> None:
    """Run the command."""
    cli = CLI(args, run=False)
    write_preview(cli.datamodule, "preview.png")
    print("preview: preview.png")


def write_preview(data: Any, path: str | Path, rows: int = 8) -> None:
    """Write a grid: in each row one training image as evaluation sees it, then augmented in different ways."""
    data.prepare_data()
    data.setup("fit")
    picked = np.linspace(0, len(data.train_keys) - 1, rows).astype(int).tolist()
    keys: list[Any] = []
    for row, index in enumerate(picked):
        keys.append(index)  # without a seed: as evaluation sees it
        keys += [(index, row * 8 + column) for column in range(1, 8)]
    images = np.stack([data.train[key].x.numpy() for key in keys])
    Image.fromarray(grid(images)).save(path)
