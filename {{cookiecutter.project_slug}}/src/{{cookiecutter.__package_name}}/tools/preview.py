"""``preview``: write preview.png, a grid of augmented training images.

Takes the flags of ``fit``.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ..cli import CLI
from ..data import ImageData


def main(args: list[str]) -> None:
    """Run the command."""
    cli = CLI(args, run=False)
    write_preview(cli.datamodule, "preview.png")
    print("preview: preview.png")


def write_preview(data: ImageData, path: str | Path, rows: int = 8, columns: int = 8) -> None:
    """Write a grid: in each row one training image as evaluation sees it, then augmented in different ways."""
    data.prepare_data()
    data.setup("fit")
    train = data.train
    picked = np.linspace(0, len(train) - 1, rows).astype(int).tolist()
    tile = max(64, train.size)
    grid = Image.new("L" if data.channels == 1 else "RGB", (columns * (tile + 4), rows * (tile + 4)), "white")
    for row, index in enumerate(picked):
        for column in range(columns):
            key = (index, row * columns + column) if column else index
            image = Image.fromarray(train[key].x_NCHW.numpy().transpose(1, 2, 0).squeeze())
            grid.paste(
                image.resize((tile, tile), Image.Resampling.NEAREST), (column * (tile + 4) + 2, row * (tile + 4) + 2)
            )
    grid.save(path)
