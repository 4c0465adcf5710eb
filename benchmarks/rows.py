"""Rows of a table: what helps rare classes, what a step costs over a raw loop, how a million rows start.

    python benchmarks/rows.py rare [--seeds 0 1 2 …]
    python benchmarks/rows.py speed
    python benchmarks/rows.py million [--file FILE.csv]

``rare`` draws a table of 8,000 rows with 2 % positives for each seed (six numbers, two categories; the positives lie in
two regions that overlap with the rest), splits it 40/20/40 and trains with nothing, the sampler, class weights, the
focal loss, logit adjustment, and SMOTE. Scored on the test split: average precision, and balanced accuracy at a probability of 0.5. A
gain is the paired difference from nothing, with the 95 % interval of Student's t. Writes results/rare_rows.md.

``speed`` times epochs of the default MLP through ``fit`` and in a raw loop over the same tensors, interleaved, and
prints the ratio of rows per second. ``million`` prints seconds and memory of a start with a million rows of 50 columns.
"""

import argparse
import csv
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cookiecutter.main import cookiecutter
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score

HERE = Path(__file__).parent
METHODS = {
    "nothing": [],
    "sampler": ["--data.balance=sampler"],
    "class weights": ["--data.balance=class_weights"],
    "focal loss": ["--model.loss=Focal"],
    "logit adjustment": ["--model.loss=LogitAdjusted"],
    "SMOTE": ["--data.balance=smote"],
}


def draw(file: Path, seed: int, rows: int = 8000) -> Path:
    """Draw a table with 2 % positives and the split of each row."""
    rng = np.random.default_rng(seed)
    is_rare_N = rng.random(rows) < 0.02
    x_NF = rng.normal(size=(rows, 6))
    side_N = rng.choice([-1, 1], rows)
    x_NF[is_rare_N, 0] += 1.6 * side_N[is_rare_N]
    x_NF[is_rare_N, 1] += 1.2 * side_N[is_rare_N]
    x_NF[is_rare_N, 2] += 1.0
    kind_N = np.where(is_rare_N & (rng.random(rows) < 0.5), 0, rng.integers(0, 4, rows))
    shop_N = rng.integers(0, 20, rows)
    split_N = rng.choice(["train", "val", "test"], rows, p=[0.4, 0.2, 0.4])
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow([*(f"x{i}" for i in range(6)), "kind", "shop", "split", "target"])
        columns = zip(x_NF, kind_N, shop_N, split_N, is_rare_N, strict=True)
        for x_F, kind, shop, split, is_rare in columns:
            numbers = [f"{value:.4f}" for value in x_F]
            table.writerow([*numbers, "abcd"[kind], f"shop {shop}", split, "yes" if is_rare else "no"])
    return file


def project(data: str, folder: Path) -> Any:
    """Bake a project, and return what runs its commands in this process."""
    made = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder), extra_context={"data": data}))
    sys.path.insert(0, str(made / "src"))
    os.chdir(folder)
    from my_project.__main__ import main as command  # pyright: ignore[reportMissingImports]

    return command


def rare(seeds: list[int], folder: Path) -> None:
    """Train each method on the table of each seed, and write the gains."""
    command = project("table", folder)
    scores = np.zeros((len(seeds), len(METHODS), 2))
    for row, seed in enumerate(seeds):
        file = draw(folder / f"rare-{seed}.csv", seed)
        for column, (method, flags) in enumerate(METHODS.items()):
            name = f"{method.replace(' ', '_')}-{seed}"
            common = [f"--data.table={file}", f"--seed_everything={seed}", f"--name={name}", "--report=false"]
            common += ["--callbacks.progress_bar=null", "--trainer.enable_model_summary=false"]
            assert command(["fit", *common, *flags]) == 0
            assert command(["test", f"--name={name}"]) == 0
            with (folder / f"runs/{name}/version_0/test_predictions.csv").open(newline="") as opened:
                rows = list(csv.DictReader(opened))
            true_N = np.array([each["target"] == "yes" for each in rows])
            said_N = np.array([float(each["yes"]) for each in rows])
            scores[row, column] = (
                average_precision_score(true_N, said_N),
                balanced_accuracy_score(true_N, said_N > 0.5),
            )
        print(f"seed {seed}: {scores[row].round(4).tolist()}", flush=True)
    lines = [
        "| method | average precision | gain | 95 % | balanced accuracy | gain | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for column, method in enumerate(METHODS):
        cells = [method]
        for metric in (0, 1):
            gain = scores[:, column, metric] - scores[:, 0, metric]
            low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain) or 1e-12)
            cells.append(f"{scores[:, column, metric].mean():.4f}")
            cells += [f"{gain.mean():+.4f}", f"{low:+.4f} to {high:+.4f}"] if column else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\n{len(seeds)} drawn tables with 2 % positives, default answers otherwise; balanced accuracy at 0.5.\n"
    )
    print("\n".join(lines))
    (HERE / "results" / "rare_rows.md").write_text("\n".join(lines))


def speed(folder: Path, rounds: int = 5) -> None:
    """Compare the rows per second of ``fit`` with those of a raw loop."""
    import torch

    command = project("diabetes", folder)
    from lightning.pytorch import Callback, Trainer
    from my_project.data import TableData  # pyright: ignore[reportMissingImports]
    from my_project.engine.keepers import EMAWeightAveraging  # pyright: ignore[reportMissingImports]
    from my_project.model import Regressor  # pyright: ignore[reportMissingImports]

    assert command
    rng, rows = np.random.default_rng(0), 40_000
    x_NF = rng.normal(size=(rows, 12))
    y_N = x_NF[:, 0] * x_NF[:, 1] + x_NF[:, 2] + rng.normal(size=rows)
    with (folder / "many.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows(
            [[*(f"x{i}" for i in range(12)), "target"], *np.column_stack([x_NF, y_N]).round(5)]
        )

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.ended.append(time.perf_counter())

        ended: list[float]

    def through_fit(batch: int) -> float:
        watch = Watch()
        watch.ended = []
        data = TableData("many.csv", batch_size=batch)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        averaging = EMAWeightAveraging(decay=0.95)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            callbacks=[watch, averaging],
            gradient_clip_val=1.0,
            **options,
        )
        trainer.fit(Regressor(), data)
        return batch * (len(watch.ended) - 11) / (watch.ended[-1] - watch.ended[10])

    def raw(batch: int) -> float:
        data = TableData("many.csv", batch_size=batch)
        data.setup("fit")
        model = Regressor()
        model.schema = data.schema
        model.build_for(data)
        averaged = torch.optim.swa_utils.AveragedModel(
            model.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95)
        )
        x, y = data.train.x_NF[data.train.rows_N], model.standardised(data.train.y)
        optimizer = torch.optim.AdamW(model.network.parameters(), lr=1e-3, fused=True)
        order, ended = torch.randperm(len(x)), []
        for first in range(0, len(x) - batch + 1, batch):
            index = order[first : first + batch]
            loss = torch.nn.functional.mse_loss(model.network(model.encoding(x[index])), y[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
            optimizer.step()
            averaged.update_parameters(model.network)
            ended.append(time.perf_counter())
        return batch * (len(ended) - 11) / (ended[-1] - ended[10])

    for batch in (128, 512):
        ratios = []
        for _ in range(rounds):
            ours, theirs = through_fit(batch), raw(batch)
            ratios.append(ours / theirs)
            print(
                f"batch {batch}: {ours:,.0f} rows/s through fit, {theirs:,.0f} raw, ratio {ours / theirs:.3f}",
                flush=True,
            )
        print(
            f"batch {batch}: median ratio {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True
        )


def million(file: Path, folder: Path) -> None:
    """Print what a start with a large table takes: reading, all else up to the first step, and the most memory."""
    project("table", folder)
    from my_project.data import TableData  # pyright: ignore[reportMissingImports]
    from my_project.engine.table_files import TableFiles  # pyright: ignore[reportMissingImports]
    from my_project.model import Regressor  # pyright: ignore[reportMissingImports]

    if not file.exists():
        rng = np.random.default_rng(0)
        with file.open("w") as opened:
            opened.write(",".join([*(f"n{i}" for i in range(44)), *(f"c{i}" for i in range(5)), "target"]) + "\n")
            for _ in range(1000):
                numbers, codes = rng.normal(size=(1000, 45)), rng.integers(0, 30, (1000, 5))
                for number_F, code_C in zip(numbers, codes, strict=True):
                    cells = [f"{value:.5f}" for value in number_F[:44]] + [f"word{code}" for code in code_C]
                    opened.write(",".join([*cells, f"{number_F[44]:.5f}"]) + "\n")
    seconds: dict[str, float] = {}
    reading = TableFiles.table

    def timed(self: Any) -> Any:
        began = time.perf_counter()
        found = reading(self)
        seconds["reading"] = seconds.get("reading", 0) + time.perf_counter() - began
        return found

    TableFiles.table = timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    data = TableData(str(file), batch_size=1024)
    data.setup("fit")
    model = Regressor()
    model.schema = data.schema
    model.build_for(data)
    whole = time.perf_counter() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    held = data.x_NF.numel() * 4 / 2**20
    print(f"file {file.stat().st_size / 2**20:.0f} MiB, as float32 {held:.0f} MiB")
    print(f"reading {seconds['reading']:.1f} s, beyond it {whole - seconds['reading']:.1f} s, peak {peak:.0f} MiB more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rare", "speed", "million"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rows-"))
    if options.part == "rare":
        rare(options.seeds, folder)
    elif options.part == "speed":
        speed(folder)
    else:
        million((options.file or folder / "million.csv").absolute(), folder)


if __name__ == "__main__":
    main()
