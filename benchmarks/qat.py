"""What does quantisation-aware training bring over quantising after training? Accuracy of the files that export writes.

    python benchmarks/qat.py [--seeds 0 1 2 3 4] [--sets digits gratings mobilenet] [--split test]

For each seed a network is trained; then the recipe ``qat`` goes on from its best checkpoint, and, to tell rounding from
more training, the same recipe without rounding. What is compared are model.onnx and model.int8.onnx of the three runs,
each in onnxruntime: int8 of the first two is quantised after training. Sets: the digits; gratings in noise, 20 × 20, 10
classes, drawn here with a fixed seed; and these with torchvision's mobilenet_v3_small, whose depthwise convolutions
quantising is known to hurt. Writes results/qat.md with paired 95 % intervals (Student's t). The recipe was chosen on
validation, seeds from 10 on; --split val prints that and writes nothing.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cookiecutter.main import cookiecutter
from PIL import Image
from scipy import stats

HERE = Path(__file__).parent
SMALL = ("--model.network.width=8",)
MOBILENET = ("--model.network=Backbone", "--model.network.name=mobilenet_v3_small", "--data.batch_size=32")
SETS: dict[str, tuple[str, tuple[str, ...], int]] = {  # the data, the network, the epochs
    "digits": ("digits", SMALL, 12),
    "gratings": ("gratings", SMALL, 15),
    "mobilenet": ("gratings", MOBILENET, 30),
}
PLAIN = (
    "--data.test_fraction=0.4",
    "--trainer.accelerator=cpu",
    "--data.num_workers=0",
    "--report=false",
    "--trainer.logger=false",
)
WAYS = ("float", "int8 after training", "float, trained on", "int8 after training on", "int8, qat")


def draw_gratings(root: Path, each: int = 150, side: int = 20) -> None:
    """Draw gratings of five directions and two wavelengths, faint in noise, beside a bright square of no meaning."""
    rng = np.random.default_rng(18)
    y, x = np.mgrid[:side, :side]
    for number in range(10):
        folder = root / f"{number}"
        folder.mkdir(parents=True)
        for image in range(each):
            angle = np.pi * (number % 5 + rng.uniform(-0.4, 0.4)) / 5
            wavelength = (5.0, 7.5)[number // 5] * rng.uniform(0.9, 1.1)
            wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + rng.uniform(0, 6.3))
            pixels = 110 + rng.uniform(15, 30) * wave + rng.normal(0, 60, (side, side))
            top, left = rng.integers(0, side - 4, 2)
            pixels[top : top + 4, left : left + 4] = 250
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{image:03d}.png")


def scores(export: Path, data: Any, split: str) -> dict[str, np.ndarray]:
    """Return accuracy and log loss of the two files of an export on a split."""
    import onnxruntime

    dataset = data.dataset(*data.manifest.splits[split])
    batches = list(data.loader(dataset))
    target_N = np.concatenate([batch.y.numpy() for batch in batches])
    found = {}
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(export / name, providers=["CPUExecutionProvider"])
        parts = [np.asarray(session.run(None, {"images": batch.x.numpy()})[0]) for batch in batches]
        p_NK = np.concatenate(parts)
        of_true_N = p_NK[np.arange(len(target_N)), target_N]
        found[name] = np.array([(p_NK.argmax(1) == target_N).mean(), -np.log(of_true_N.clip(1e-12)).mean()])
    return found


def measure(folder: Path, name: str, seed: int, split: str, more: list[str]) -> np.ndarray:
    """Train, train on with and without rounding, and export; returns the scores of each way, (5, 2)."""
    from my_project.__main__ import main as command  # pyright: ignore[reportMissingImports]
    from my_project.cli import CLI  # pyright: ignore[reportMissingImports]

    data, network, epochs = SETS[name]
    start = f"{name}-{seed}"
    shared = [f"--data.root={folder / data}", f"--seed_everything={seed}", *network, *PLAIN]
    weights = f"--model.weights=runs/{start}/version_0/checkpoints/best.ckpt"
    on = ["--config=qat", weights, *more]
    runs = {
        start: [f"--trainer.max_epochs={epochs}"],
        f"{start}-on": [*on, "--callbacks.qat=null"],
        f"{start}-qat": on,
    }
    found = []
    for run, flags in runs.items():
        assert command(["fit", *shared, *flags, f"--name={run}"]) == 0
        assert command(["export", f"--name={run}"]) == 0
        where = Path(f"runs/{run}/version_0")
        module = CLI(["validate", f"--ckpt_path={where}/checkpoints/best.ckpt", "--verbose=false"]).datamodule
        found.append(scores(where / "export", module, split))
    first, longer, qat = found
    return np.stack([*first.values(), *longer.values(), qat["model.int8.onnx"]])


def interval(gain_S: np.ndarray, digits: int = 4) -> str:
    """Write the mean and the 95 % interval of paired differences."""
    if len(gain_S) < 2 or not gain_S.std():
        return f"{gain_S.mean():+.{digits}f}"
    low, high = stats.t.interval(0.95, len(gain_S) - 1, gain_S.mean(), stats.sem(gain_S))
    return f"{gain_S.mean():+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def table(found: dict[str, np.ndarray]) -> str:
    """Write the means and the paired differences of each set, (seeds, ways, 2)."""
    lines = ["| set | score | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 2) + "|"]
    for name, score_SW2 in found.items():
        for column, score in enumerate(("accuracy", "log loss")):
            means = " | ".join(f"{value:.4f}" for value in score_SW2[:, :, column].mean(0))
            lines.append(f"| {name} | {score} | {means} |")
    lines += ["", "| set | score | int8 after training − float | qat − int8 after training | qat − the same on |"]
    lines.append("|---" * 5 + "|")
    for name, score_SW2 in found.items():
        for column, score in enumerate(("accuracy", "log loss")):
            of_S = score_SW2[:, :, column]
            pairs = ((1, 0), (4, 1), (4, 3))
            cells = " | ".join(interval(of_S[:, one] - of_S[:, other]) for one, other in pairs)
            lines.append(f"| {name} | {score} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--split", choices=("val", "test"), default="test")
    options, more = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="qat-"))
    project = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder)))
    sys.path.insert(0, str(project / "src"))
    os.chdir(folder)
    from my_project.engine.builtin import write_digits  # pyright: ignore[reportMissingImports]

    write_digits(folder / "digits")
    draw_gratings(folder / "gratings")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in options.sets}
    for seed in options.seeds:
        for name, of_set in rows.items():
            of_set.append(measure(folder, name, seed, options.split, more))
            print(f"MEASURED {name} {seed}\n{np.array2string(of_set[-1].T, precision=4)}", flush=True)
        text = table({name: np.stack(of_set) for name, of_set in rows.items()})
        count = len(of_set)
        said = f"Means of {count} seeds on the test splits, read once; differences with 95 % intervals.\n\n{text}"
        if options.split == "test":
            (HERE / "results" / "qat.md").write_text(said)
    print(text)


if __name__ == "__main__":
    main()
