"""What does quantisation-aware training bring over quantising after training? Accuracy of the files that export writes.

    python benchmarks/qat.py [--seeds 0 1 2 3 4] [--sets digits gratings separable] [--split test]

For each seed a network is trained; then it goes on from its best checkpoint as the recipe ``qat`` does, and, to tell
rounding from more training, once more without rounding. What is compared are model.onnx and model.int8.onnx of the
three, each in onnxruntime: int8 of the first two is quantised after training. Sets: the digits; gratings in noise,
20 × 20, 10 classes, drawn here with a fixed seed; and these with a network of depthwise separable convolutions (Howard
et al. 2017), which quantising is known to hurt. Writes results/qat.md with paired 95 % intervals (Student's t).
--split val, with seeds from 10 on, is for choices; it writes nothing.
"""

import argparse
import inspect
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cookiecutter.main import cookiecutter
from PIL import Image
from scipy import stats
from torch import Tensor, nn

HERE = Path(__file__).parent
SETS = {"digits": ("digits", 12), "gratings": ("gratings", 15), "separable": ("gratings", 25)}  # the data, the epochs
WAYS = ("float", "int8 after training", "float, trained on", "int8 after training on", "int8, qat")


class Separable(nn.Module):
    """Depthwise convolutions, each followed by one of 1 × 1, as in MobileNet."""

    activation = "relu"

    def __init__(self, in_channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.blocks = nn.Sequential()
        for channels in (width, 2 * width, 4 * width, 4 * width):
            out = min(2 * channels, 4 * width)
            depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
            pointwise = nn.Conv2d(channels, out, 1, bias=False)
            for conv in (depthwise, pointwise):
                self.blocks.extend([conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6()])
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x_NCHW)).mean((2, 3)))


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

    batches = list(data.loader(data.dataset(*data.manifest.splits[split])))
    target_N = np.concatenate([batch.y.numpy() for batch in batches])
    found = {}
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(export / name, providers=["CPUExecutionProvider"])
        p_NK = np.concatenate([np.asarray(session.run(None, {"images": batch.x.numpy()})[0]) for batch in batches])
        of_true_N = p_NK[np.arange(len(target_N)), target_N]
        found[name] = np.array([(p_NK.argmax(1) == target_N).mean(), -np.log(of_true_N.clip(1e-12)).mean()])
    return found


def measure(folder: Path, name: str, seed: int, split: str) -> np.ndarray:
    """Train, train on with and without rounding, and export; returns the scores of each way, (5, 2)."""
    import my_project.networks as networks  # pyright: ignore[reportMissingImports]
    import my_project.tools.export as export  # pyright: ignore[reportMissingImports]
    from lightning.pytorch import Trainer, seed_everything
    from my_project.data import ImageData  # pyright: ignore[reportMissingImports]
    from my_project.engine.keepers import BestCheckpoint  # pyright: ignore[reportMissingImports]
    from my_project.engine.quantisation import QuantisationAware  # pyright: ignore[reportMissingImports]
    from my_project.model import Classifier  # pyright: ignore[reportMissingImports]
    from torch.optim import AdamW

    images, epochs = SETS[name]
    network = networks.Separable if name == "separable" else partial(networks.SmallCNN, width=8)
    quiet: dict[str, Any] = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "gradient_clip_val": 1.0}
    first = folder / f"{name}-{seed}/first"
    found = []
    for way in ("first", "on", "qat"):
        seed_everything(seed)
        where = first.with_name(way)
        data = ImageData(str(folder / images), batch_size=32, num_workers=0, test_fraction=0.4)
        options: dict[str, Any] = {"weights": None if way == "first" else str(first / "best.ckpt")}
        rate = 0.003 if way == "first" else 0.0003  # the recipe's
        model = Classifier(network=network, optimizer=partial(AdamW, lr=rate), **options)
        callbacks = [BestCheckpoint(dirpath=str(where)), *([QuantisationAware()] if way == "qat" else [])]
        Trainer(max_epochs=epochs if way == "first" else 5, callbacks=callbacks, **quiet).fit(model, data)
        model = Classifier.load_from_checkpoint(where / "best.ckpt", network=network).eval()
        export.write_models(model, nn.Identity(), data, {"opset": export.OPSET}, where)
        if way == "qat":
            export.write_trained_integers(model, where)
        else:
            export.quantise(model, data, where)
        found.append(scores(where, data, split))
    plain, longer, qat = found
    return np.stack([*plain.values(), *longer.values(), qat["model.int8.onnx"]])


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
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qat-"))
    project = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder)))
    with (project / "src/my_project/networks.py").open("a") as file:  # where a checkpoint may name it
        file.write("\n\n" + inspect.getsource(Separable))
    sys.path.insert(0, str(project / "src"))
    os.chdir(folder)
    from my_project.engine.builtin import write_digits  # pyright: ignore[reportMissingImports]

    write_digits(folder / "digits")
    draw_gratings(folder / "gratings")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in options.sets}
    for seed in options.seeds:
        for name, of_set in rows.items():
            of_set.append(measure(folder, name, seed, options.split))
            print(f"MEASURED {name} {seed}\n{np.array2string(of_set[-1].T, precision=4)}", flush=True)
        found = {name: np.stack(of_set) for name, of_set in rows.items()}
        print(table(found), flush=True)
        if options.split == "test":
            about = (
                f"Means of {len(found[options.sets[0]])} seeds on the test splits, read once; differences have 95 % "
            )
            (HERE / "results" / "qat.md").write_text(f"{about}intervals.\n\n{table(found)}")


if __name__ == "__main__":
    main()
