"""The page of a run of several labels and of one of numbers: its scores are scikit-learn's, and diagnose knows both.

One run of each is trained; what else is shown is made from their files.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, rows
from PIL import Image
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from test_diagnose import write
from test_report import Page

LABELS = ["red", "<b>&$x^$", "a label with a name of rather many words", "rare"]
NUMBERS = ["light in <i>$cd$", "_redness"]
KINDS = ("labels", "numbers")
RUNS = {kind: Path("runs", kind, "version_0") for kind in KINDS}


def draw(folder: Path) -> None:
    """Draw 90 images whose channels and corner say which labels they have and which numbers, with weights."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[object]]] = {"labels": [], "numbers": []}
    for number in range(90):
        has = [*(rng.random(3) < (0.6, 0.5, 0.4)), number % 9 == 0]
        pixels = rng.integers(0, 60, (10, 10, 3))
        pixels[..., :3] += 120 * np.array(has[:3])
        pixels[:4, :4] = 255 * has[3]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"images/{number:02d}.png")
        weight = [round(float(rng.uniform(0.2, 2)), 3)]
        tables["labels"].append([f"{number:02d}.png", *map(int, has), *weight])
        light, redness = pixels.mean() * 1000, pixels[..., 0].mean() / 255
        tables["numbers"].append([f"{number:02d}.png", f"{light:.1f}", f"{redness:.4f}", *weight])
    for kind, names in zip(KINDS, (LABELS, NUMBERS), strict=True):
        with (folder / f"{kind}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image", *names, "weight"], *tables[kind]])


@pytest.fixture(scope="module")
def ended(project, command, tmp_path_factory) -> Path:
    """A folder with both runs, tested, and their pages."""
    folder = tmp_path_factory.mktemp("targets")
    draw(folder)
    lines = []
    for kind in KINDS:
        table = ("--data.root", folder / "images", "--data.labels", folder / f"{kind}.csv", "--name", kind)
        lines += [("fit", *table, *TINY), ("test", "--name", kind), ("report", "--name", kind)]
    for line, done in zip(lines, command.each(project, folder, lines), strict=True):
        assert done.code == 0, (line, done.output)
    return folder


@pytest.fixture(scope="module")
def pages(ended) -> dict[str, Page]:
    """The pages."""
    return {kind: Page(ended / RUNS[kind] / "report.html") for kind in KINDS}


@pytest.fixture
def copied(ended, tmp_path) -> Path:
    """A copy of that folder, to spoil."""
    shutil.copytree(ended, tmp_path / "copy")
    return tmp_path / "copy"


def weights(folder: Path, kind: str) -> np.ndarray:
    """Return the weights of the test images."""
    manifest = json.loads((folder / RUNS[kind] / "manifest.json").read_text())
    return np.array([row[2] for row in manifest["splits"]["test"]])


def row_of(page: Page, name: str, count: int, after: str = "Test") -> list[float]:
    """Return the figures of a row of a table, the first one after a cell."""
    at = page.cells.index(name, page.cells.index(after))
    return [float(cell.replace(",", "")) for cell in page.cells[at + 1 : at + 1 + count]]


def test_the_pages_show_what_belongs_to_their_targets_and_stay_inert(pages):
    for page in pages.values():
        assert {"Summary", "Curves", "Validation", "Test", "Data", "Timing", "Reproduce"} <= set(page.titles)
        assert "script" not in page.tags
        assert "<b>" not in page.source.replace("<b>0", "")
        assert "<i>" not in page.source
        assert all(link.startswith(("#", "data:image/")) for link in page.links)
        assert len(page.images) >= 12 + 5 * 8  # the worst, augmentation
        assert "The samples have weights" in page.text
        assert "1,000 bootstrap draws" in page.text
    assert set(LABELS) <= set(pages["labels"].cells)
    assert set(NUMBERS) <= set(pages["numbers"].cells)
    axes = ("threshold", "F1", "recall", "predicted label", "labels of an image", "probability")
    assert all(f">{name}</text>" in pages["labels"].source for name in axes)
    axes = ("predicted − true", "predicted _redness", "true _redness", "% of the split", "error")
    assert all(f">{name}</text>" in pages["numbers"].source for name in axes)
    for title in ("Thresholds", "Labels together", "Images of the greatest loss", "Balance of the labels"):
        assert title in pages["labels"].text
    # Of validation and of test; the numbers are of too few images for an interval of 95 %.
    for stage in ("before", "after"):
        assert pages["labels"].source.count(f">{stage} calibration</text>") == 2
        assert pages["labels"].cells.count(f"{stage} calibration") == 2
    assert pages["numbers"].text.count("Intervals by the residuals of") == 2 * len(NUMBERS)
    for title in ("Images furthest off", "Distribution of the numbers", "Error by the true value"):
        assert title in pages["numbers"].text
    assert "Class balance" not in pages["labels"].text + pages["numbers"].text


def test_the_scores_of_labels_are_those_of_the_saved_predictions(ended, pages):
    saved, weight_N = rows(ended / RUNS["labels"] / "test_predictions.csv"), weights(ended, "labels")
    has_NK = np.array([[name in row["target"].split(";") for name in LABELS] for row in saved])
    said_NK = np.array([[name in row["labels"].split(";") for name in LABELS] for row in saved])
    p_NK = np.array([[float(row[name]) for name in LABELS] for row in saved])
    expected = [
        average_precision_score(has_NK, p_NK, average="macro", sample_weight=weight_N),
        f1_score(has_NK, said_NK, average="macro", sample_weight=weight_N),
        f1_score(has_NK, said_NK, average="micro", sample_weight=weight_N),
        roc_auc_score(has_NK, p_NK, average="macro", sample_weight=weight_N),
        accuracy_score(has_NK, said_NK, sample_weight=weight_N),
    ]
    page = pages["labels"]
    assert row_of(page, "Test", 6) == pytest.approx([len(saved), *expected], abs=1e-4)
    of_test = page.cells[page.cells.index("mean over labels") + 1 :]  # the first table is that of validation
    for k, name in enumerate(LABELS):
        at = of_test.index(name)
        options: dict[str, Any] = {"sample_weight": weight_N, "zero_division": np.nan}
        both = has_NK[:, k], said_NK[:, k]
        precision, recall, f1, _ = precision_recall_fscore_support(*both, average="binary", **options)
        f1_at_half = f1_score(has_NK[:, k], p_NK[:, k] >= 0.5, **options)
        ap = average_precision_score(has_NK[:, k], p_NK[:, k], sample_weight=weight_N)
        assert of_test[at + 1] == str(has_NK[:, k].sum())
        shown = [np.nan if cell == "–" else float(cell) for cell in of_test[at + 4 : at + 9]]
        assert shown == pytest.approx([precision, recall, f1, f1_at_half, ap], abs=1e-4, nan_ok=True), name
        threshold = float(of_test[at + 3])
        assert (p_NK[said_NK[:, k], k] >= threshold - 1e-4).all()
        assert (p_NK[~said_NK[:, k], k] <= threshold + 1e-4).all()


def test_the_scores_of_numbers_are_those_of_the_saved_predictions(ended, pages):
    saved, weight_N = rows(ended / RUNS["numbers"] / "test_predictions.csv"), weights(ended, "numbers")
    said_NT = np.array([[float(row[name]) for name in NUMBERS] for row in saved])
    true_NT = np.array([[float(row[f"true_{name}"]) for name in NUMBERS] for row in saved])
    each = []
    for t, name in enumerate(NUMBERS):
        both = true_NT[:, t], said_NT[:, t]
        covariance = np.cov(rankdata(both[0]), rankdata(both[1]), aweights=weight_N)
        expected = [
            score(*both, sample_weight=weight_N) for score in (root_mean_squared_error, mean_absolute_error, r2_score)
        ]
        expected.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
        each.append(expected)
        of_test = pages["numbers"].cells[pages["numbers"].cells.index("mean over numbers") + 1 :]
        at = of_test.index(name)
        shown = [float(cell.replace(",", "")) for cell in of_test[at + 1 : at + 5]]
        assert shown == pytest.approx(expected, rel=1e-3, abs=1e-4), name
    assert row_of(pages["numbers"], "Test", 5) == pytest.approx(
        [len(saved), *np.mean(each, axis=0)], rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("labels", ("map", "f1_macro", "f1_micro", "auroc", "exact_match")),
        ("numbers", ("rmse", "mae", "r2", "spearman")),
    ],
)
def test_the_validation_is_scored_as_the_run_scored_its_best_epoch(kind, metrics, ended, pages):
    logged = [row for row in rows(ended / RUNS[kind] / "metrics.csv") if row["val/loss"]]
    best = min(logged, key=lambda row: float(row["val/loss"]))
    shown = row_of(pages[kind], "Validation", 1 + len(metrics))[1:]
    assert shown == pytest.approx([float(best[f"val/{name}"]) for name in metrics], rel=1e-3, abs=1e-4)


def test_the_interval_of_a_score_holds_the_score(pages):
    for page, name in ((pages["labels"], "mAP"), (pages["numbers"], "RMSE")):
        for split in ("Test", "Validation"):
            words = page.text.partition(f"{split} {name} ")[2].split()
            score, low, high = (float(words[i].replace(",", "")) for i in (0, 3, 5))
            assert words[1:3] == ["95", "%:"]
            assert low <= score <= high
            assert low < high


def test_predictions_of_another_checkpoint_or_that_are_not_finite_are_not_shown(copied, project, command):
    saved = []
    for kind in KINDS:
        saved = rows(copied / RUNS[kind] / "test_predictions.csv")
        every = ";".join(LABELS)
        other = {"labels": every if saved[0]["labels"] != every else ""} if kind == "labels" else {NUMBERS[0]: "nan"}
        write(copied / RUNS[kind] / "test_predictions.csv", [saved[0] | other, *saved[1:]])
    [done] = command.each(project, copied, [("report", *RUNS.values())])
    page = Page(copied / "comparison.html")
    assert done.code == 0, done.output
    assert "by the thresholds of another checkpoint than the best and the last" in page.text
    assert f"Of {len(saved)} predictions 1 are not finite" in page.text


def test_runs_of_different_targets_are_compared_with_a_word_on_it(ended, project, command):
    [done] = command.each(project, ended, [("report", *RUNS.values(), "--output=both.html")])
    page = Page(ended / "both.html")
    assert done.code == 0, done.output
    assert "The runs predict different things (labels/version_0 the labels red" in page.text
    assert page.cells.index("labels/version_0") < page.cells.index("numbers/version_0")
    assert {"mAP", "RMSE"} <= set(page.text.split())


def test_smote_is_refused(ended, project, command):
    wrong = {("smote", "--name", kind): "predicts none (--data.task" for kind in KINDS}
    command.refuses(project, ended, wrong)


# diagnose


FALLING, RISING = 0.05 + 0.6 * 0.7 ** np.arange(20), np.linspace(0.3, 0.95, 20)
HEALTHY: dict[str, dict[str, object]] = {
    "labels": {"val/map": RISING, "val/f1_macro": RISING, "val/f1_micro": RISING},
    "numbers": {"val/r2": RISING, "val/mae": 100 * FALLING, "train/mae": 100 * FALLING},
}


def made(folder: Path, name: str, kind: str, **curves: object) -> Path:
    """Make a run of 20 validations from one that was trained.

    Args:
        folder: Where the runs lie.
        name: Of the new run.
        kind: Which run it is made from.
        curves: What differs from a healthy run's metrics.csv, a value or 20 of them; ``val_map`` is val/map.
    """
    run = folder / "runs" / name / "version_0"
    shutil.copytree(folder / RUNS[kind], run)
    columns = {"train/loss": FALLING, "val/loss": FALLING, **HEALTHY[kind]}
    columns |= {key.replace("_", "/", 1): values for key, values in curves.items()}
    values_20 = {key: np.broadcast_to(np.asarray(values, float), 20) for key, values in columns.items()}
    steps = [{"step": str(10 * i), "epoch": str(i)} for i in range(20)]
    kept = [step | {key: str(values[i]) for key, values in values_20.items()} for i, step in enumerate(steps)]
    write(run / "metrics.csv", kept)
    return run


def with_loss(run: Path, loss: str) -> Path:
    """Give a run of numbers another loss."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("my_project.losses.MSE", loss))
    return run


def with_outlier(run: Path) -> Path:
    """Make one number of the training split ten thousand times as large."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["splits"]["train"][0][1][1] *= 10_000
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def train_targets(folder: Path, kind: str) -> list:
    """Return the targets of the training split as the manifest has them."""
    manifest = json.loads((folder / RUNS[kind] / "manifest.json").read_text())
    return [row[1] for row in manifest["splits"]["train"]]


def diagnosed(command, project, folder: Path, runs: list[Path]) -> list[list[str]]:
    """Return the lines that diagnose prints of each run."""
    done = command.each(project, folder, [("diagnose", run) for run in runs])
    assert all(result.code == 0 for result in done), done
    return [[line for line in result.output.splitlines()[1:] if line] for result in done]


def test_each_fault_of_labels_and_of_numbers_is_named_and_a_healthy_run_has_none(copied, project, command):
    rises = np.concatenate([np.geomspace(0.6, 0.2, 10), np.linspace(0.2, 0.5, 10)])
    expected = {
        made(copied, "good-labels", "labels"): "",
        made(copied, "good-numbers", "numbers"): "",
        made(copied, "rare", "labels", val_f1_macro=0.6, val_f1_micro=0.9): "labels never predicted",
        made(copied, "none", "labels", val_f1_macro=0, val_f1_micro=0): "labels never predicted",
        made(copied, "mean", "numbers", val_r2=0.01, train_loss=0.99, val_loss=1.01): "collapsed to the mean",
        with_outlier(made(copied, "outlier", "numbers")): "outliers rule the loss",
        made(copied, "by-heart-labels", "labels", val_loss=rises): "overfitting",
        made(copied, "by-heart-numbers", "numbers", val_loss=rises): "overfitting",
    }
    for run, lines in zip(expected, diagnosed(command, project, copied, list(expected)), strict=True):
        faults = [line.partition(":")[0] for line in lines if not line.startswith("  try")]
        assert faults == ([expected[run]] if expected[run] else ["no fault found"]), (run, lines)
        assert not expected[run] or "--" in lines[1]
    said = dict(zip(expected.values(), diagnosed(command, project, copied, list(expected)), strict=True))
    assert (
        "training images have 'red'" in said["labels never predicted"][0]
        or "hardly any" in said["labels never predicted"][0]
    )
    assert "--data.log_target true" in said["outliers rule the loss"][1]
    assert "mixup" not in said["overfitting"][1]


def test_the_chance_loss_is_that_of_the_best_constant(copied, project, command):
    has_NK = np.array([[name in target for name in LABELS] for target in train_targets(copied, "labels")])
    y_NT = np.array(train_targets(copied, "numbers"))
    z_NT = (y_NT - y_NT.mean(0)) / y_NT.std(0)
    shares_NK = np.broadcast_to(has_NK.mean(0), has_NK.shape)
    of_labels = np.mean([log_loss(has_NK[:, k], shares_NK[:, k]) for k in range(len(LABELS))])

    def of_numbers(loss) -> float:
        return float(np.mean([min(loss(z_N - c).mean() for c in np.linspace(-2, 2, 2001)) for z_N in z_NT.T]))

    expected = {
        made(copied, "labels-100", "labels", train_loss=100): of_labels,
        made(copied, "mse", "numbers", train_loss=100): 1.0,
        with_loss(made(copied, "mae", "numbers", train_loss=100), "my_project.losses.MAE"): of_numbers(np.abs),
        with_loss(made(copied, "l1", "numbers", train_loss=100), "torch.nn.L1Loss"): of_numbers(np.abs),
        with_loss(made(copied, "huber", "numbers", train_loss=100), "my_project.losses.Huber"): of_numbers(
            lambda e: np.where(abs(e) < 1, e**2 / 2, abs(e) - 0.5)
        ),
    }
    for run, lines in zip(expected, diagnosed(command, project, copied, list(expected)), strict=True):
        assert lines[0].startswith("rate too high: train/loss 100 at step 0"), (run, lines)
        assert float(lines[0].rpartition(" ")[2]) == pytest.approx(expected[run], rel=0.01), run
