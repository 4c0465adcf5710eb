"""What a stride in the first layers of the default network costs in accuracy and saves in seconds, by the image's side.

    python benchmarks/sizes.py [SIDE:STRIDE ...] [--seed 10] [--epochs 20] [FLAG ...]

Draws 2,780 images of 128 × 128 pixels: five shapes, each in stripes or in checks, in any colour, place and size, among
spots, under noise. Bakes a project for folders of images and trains it on them at each side and stride; further
flags go to ``fit``. Nothing reads the test split. Seconds are those of the processor in ``fit``, on one thread.
Writes results/sizes.md.
"""

import argparse
import csv
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cookiecutter.main import cookiecutter
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
IMAGES, SIDE = 2780, 128
SHAPES = {"circle": 40, "triangle": 3, "square": 4, "star": 10, "hexagon": 6}  # by their corners
TEXTURES = ("stripes", "checks")


def drawn(shape: str, texture: str, rng: np.random.Generator) -> Image.Image:
    """Draw one image."""
    side = 2 * SIDE  # of which every four pixels become one
    image = Image.new("RGB", (side, side), colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 6)):
        (x, y), (width, height) = rng.uniform(0, side, 2), rng.uniform(0.02, 0.12, 2) * side
        spot = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        spot([x - width, y - height, x + width, y + height], fill=colour(rng))
    radius, turn = rng.uniform(0.22, 0.38) * side, rng.uniform(0, 2 * math.pi)
    centre = rng.uniform(radius, side - radius, 2)
    corners = SHAPES[shape]
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    radii = radius * np.where((shape == "star") & (np.arange(corners) % 2 == 1), 0.45, 1.0)
    outline = centre + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline.tolist()], fill=255)
    image.paste(pattern(texture, side, rng), (0, 0), mask)
    noise = rng.normal(0, 12, (SIDE, SIDE, 3))
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw a colour."""
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def pattern(texture: str, side: int, rng: np.random.Generator) -> Image.Image:
    """Draw stripes, or checks, of two colours that differ."""
    first, second = rng.integers(0, 256, (2, 3))
    while np.abs(first - second).sum() < 150:
        first, second = rng.integers(0, 256, (2, 3))
    y, x = np.mgrid[:side, :side] / side
    turn, waves = rng.uniform(0, math.pi), 2 * math.pi * rng.uniform(4, 7)
    wave = np.cos(waves * (x * math.cos(turn) + y * math.sin(turn)))
    if texture == "checks":
        wave *= np.cos(waves * (y * math.cos(turn) - x * math.sin(turn)))
    return Image.fromarray(np.where(wave[..., None] > 0, first, second).astype(np.uint8))


def write_images(root: Path, seed: int) -> None:
    """Write the images into a folder for each class."""
    rng = np.random.default_rng(seed)
    for number in range(IMAGES):
        shape, texture = list(SHAPES)[number % 5], TEXTURES[number // 5 % 2]
        folder = root / f"{shape}_of_{texture}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn(shape, texture, rng).save(folder / f"{number:04d}.png")


def best_accuracy(metrics: Path) -> float:
    """Return the accuracy of the validation whose loss was least."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/accuracy")]
    return float(min(rows, key=lambda row: float(row["val/loss"]))["val/accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=["32:1", "32:2", "64:1", "64:2", "64:4", "128:2", "128:4"])
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    options, flags = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="sizes-"))
    answers = {"data": "image_folder"}
    project = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder), extra_context=answers))
    sys.path.insert(0, str(project / "src"))
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from my_project.__main__ import main as command  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    write_images(folder / "drawn", options.seed)
    lines = ["| side | stride | accuracy | seconds |", "|---|---|---|---|"]
    here = ["--data.root=drawn", "--data.num_workers=0", "--report=false", f"--seed_everything={options.seed}"]
    length = [f"--trainer.max_epochs={options.epochs}", "--callbacks.early_stopping=null"]
    for pair in options.pairs:
        side, stride = pair.split(":")
        sized = [f"--data.image_size={side}", f"--model.network.stem_stride={stride}", f"--name={side}_{stride}"]
        began = time.process_time()
        assert command(["fit", *here, *sized, *length, *flags]) == 0
        seconds = time.process_time() - began
        accuracy = best_accuracy(folder / f"runs/{side}_{stride}/version_0/metrics.csv")
        lines.append(f"| {side} | {stride} | {accuracy:.3f} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    lines.append(f"\n{options.epochs} epochs, seed {options.seed}, {platform.machine()}, one thread")
    (HERE / "results" / "sizes.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
