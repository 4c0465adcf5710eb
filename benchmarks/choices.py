"""Why the default run on the digits is as it is: its length, its augmentation, and which weights are kept.

    python benchmarks/choices.py [--seeds 10 11 …] [--kept FOLDER]

Trains the default network in a plain loop, with a project's own data, schedule and optimizer, for each seed in each of
VARIANTS. The weights of the training and three moving averages of them are scored on the validation split every second
epoch; nothing reads the test split. "Chosen" is what a choice of the checkpoint by the least validation loss is worth:
chosen on one half of the validation split, scored on the other, over ten halvings. Writes results/choices.md, with the
paired difference from the first variant and its 95 % interval (Student's t). What was trained is kept in FOLDER.
"""

import argparse
import copy
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cookiecutter.main import cookiecutter
from scipy import stats
from torch.nn import functional

HERE = Path(__file__).parent
DECAYS = (0.98, 0.99, 0.995)  # of the moving averages
LEAST = 1e-4  # of a probability: they are kept in 16 bits
HALVINGS = 10


def wider(A: Any, size: int, flip: bool) -> list[Any]:
    """``light`` with half as much again of everything."""
    ranges: dict[str, Any] = {"translate_percent": (-0.12, 0.12), "rotate": (-15, 15), "shear": (-15, 15)}
    return [A.Affine(**ranges, scale=(0.8, 1.2), p=0.9), A.RandomCrop(size, size)]


VARIANTS: dict[str, dict[str, Any]] = {
    "light, 70 epochs": {"epochs": 70, "warmup": 0.301},
    "light, 35 epochs": {"epochs": 35, "warmup": 0.2},
    "wider, 35 epochs": {"epochs": 35, "warmup": 0.2, "augment": wider},
}


def trained(seed: int, epochs: int, warmup: float, augment: Any = None) -> dict[str, np.ndarray]:
    """Train for a seed; returns the validation probabilities by kind of weights, (epochs, N, K), and what is true."""
    from lightning.pytorch import seed_everything
    from my_project.augment import PIPELINES  # pyright: ignore[reportMissingImports]
    from my_project.data import ImageData  # pyright: ignore[reportMissingImports]
    from my_project.engine.images import Normalise  # pyright: ignore[reportMissingImports]
    from my_project.engine.optimizers import (  # pyright: ignore[reportMissingImports]
        make_optimizer,
        parameter_groups,
        with_warmup,
    )
    from my_project.engine.sampling import derived_seed  # pyright: ignore[reportMissingImports]
    from my_project.networks import SmallCNN  # pyright: ignore[reportMissingImports]
    from my_project.optim import Cosine  # pyright: ignore[reportMissingImports]

    seed_everything(seed, verbose=False)
    if augment is not None:
        PIPELINES["tried"] = augment
    data = ImageData("digits", num_workers=0, augment="light" if augment is None else "tried")
    data.prepare_data()
    data.setup("fit")
    loader: Any = data.loader(data.train, training=True)
    normalise = Normalise(1)
    validation = [(normalise(batch.x), batch.y) for batch in data.val_dataloader()]
    x_NCHW, y_N = torch.cat([x for x, _ in validation]), torch.cat([y for _, y in validation])
    torch.manual_seed(derived_seed(seed, 1))
    network = SmallCNN(1, 10, width=24)
    adamw = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.2)
    optimizer = make_optimizer(adamw, parameter_groups(network), torch.device("cpu"))
    steps = len(loader) * epochs
    schedules = with_warmup(optimizer, Cosine, steps, int(warmup * steps))
    weights: dict[str, Any] = {"raw": network, **{str(decay): copy.deepcopy(network) for decay in DECAYS}}
    values = {name: [v for v in of.state_dict().values() if v.is_floating_point()] for name, of in weights.items()}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in weights}
    began = time.process_time()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = functional.cross_entropy(network(normalise(batch.x)), batch.y)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            for schedule in schedules:
                schedule.step()
            for decay in DECAYS:
                for average, value in zip(values[str(decay)], values["raw"], strict=True):
                    average.lerp_(value.detach(), 1 - decay)
        if epoch % 2 == 1 or epoch >= epochs - 3:
            for name, of in weights.items():
                of.eval()
                with torch.no_grad():
                    kept[name].append(of(x_NCHW).softmax(1).half().numpy())
            network.train()
    found = {name: np.stack(parts) for name, parts in kept.items()}
    return {**found, "y": y_N.numpy(), "sec": np.array(time.process_time() - began)}


def accuracy(p_NK: np.ndarray, y_N: np.ndarray) -> float:
    """Return the share of right classes."""
    return float((p_NK.argmax(1) == y_N).mean())


def chosen(p_ENK: np.ndarray, y_N: np.ndarray) -> float:
    """Return the accuracy on one half of the epoch that has the least loss on the other."""
    rng, found = np.random.default_rng(0), []
    loss_EN = -np.log(np.maximum(p_ENK[:, np.arange(len(y_N)), y_N].astype(np.float64), LEAST))
    for _ in range(HALVINGS):
        halves = np.array_split(rng.permutation(len(y_N)), 2)
        for by, on in (halves, halves[::-1]):
            found.append(accuracy(p_ENK[loss_EN[:, by].mean(1).argmin()][on], y_N[on]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10, 27)])
    parser.add_argument("--kept", type=Path, default=Path(tempfile.mkdtemp(prefix="choices-")))
    options = parser.parse_args()
    kept = options.kept.absolute()
    folder = Path(tempfile.mkdtemp(prefix="choices-"))
    project = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder)))
    sys.path.insert(0, str(project / "src"))
    os.chdir(folder)
    kept.mkdir(parents=True, exist_ok=True)
    scores: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for variant, how in VARIANTS.items():
        for seed in options.seeds:
            file = kept / f"{variant.replace(', ', '_').replace(' ', '_')}_{seed}.npz"
            if not file.exists():
                np.savez(file, **trained(seed, **how))  # pyright: ignore[reportArgumentType]
            run = np.load(file)
            seconds.setdefault(variant, []).append(float(run["sec"]))
            for name in ("raw", *map(str, DECAYS)):
                scores.setdefault((variant, name), []).append(accuracy(run[name][-1], run["y"]))
                scores.setdefault((variant, f"{name} chosen"), []).append(chosen(run[name], run["y"]))
    first = np.array(next(iter(scores.values())))
    lines = [
        "| augmentation, length | weights | val accuracy | minus the first row | seconds |",
        "|---|---|---|---|---|",
    ]
    for (variant, name), values in scores.items():
        decay, _, is_chosen = name.partition(" ")
        kind = "plain" if decay == "raw" else f"average, decay {decay}"
        weights = f"{kind}, {is_chosen or 'last epoch'}"
        difference = np.array(values) - first
        half = stats.t.ppf(0.975, len(first) - 1) * difference.std(ddof=1) / len(first) ** 0.5
        versus = f"{difference.mean():+.4f} ± {half:.4f}" if difference.any() else ""
        lines.append(f"| {variant} | {weights} | {np.mean(values):.4f} | {versus} | {np.mean(seconds[variant]):.0f} |")
    lines.append(
        f"\n{len(first)} seeds, {min(options.seeds)} to {max(options.seeds)}; seconds of one processor, one thread"
    )
    (HERE / "results" / "choices.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
