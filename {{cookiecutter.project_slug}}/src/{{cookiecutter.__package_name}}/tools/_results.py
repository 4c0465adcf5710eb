"""What the tools read of a run: its curves, the predictions of a split, and what these are worth. It draws nothing."""

import csv
import io
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback
from torchmetrics.functional import classification
from tqdm import tqdm

from ..cli import CLI
from ..engine import PACKAGE, runs
from ..engine.configs import CONFIGS, flat, read_config
from ..engine.files import plain_table, read_text, reading
from ..engine.metrics import MONITOR, direction
from ..engine.mistakes import Mistake, shown
from ..engine.parser import Options
from ..engine.splits import Manifest
from ..engine.targets import Classes

BINS = 15  # of the confidence, as Guo et al. 2017 have it


def add_run_options(parser: Options) -> None:
    """Add --name and --run_root, which choose the newest run where none is given."""
    defaults = {"name": "default", "run_root": "runs"} | read_config(CONFIGS / "base.yaml")
    parser.add_argument("--name", default=defaults["name"], help="where no RUN is given: the newest of this name")
    parser.add_argument("--run_root", type=Path, default=defaults["run_root"], help="where runs are kept")


def not_by_torchrun(command: str) -> None:
    """Refuse to be one of many ranks.

    Raises:
        Mistake: torchrun has started this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise Mistake(
            f"torchrun starts one run, {command} several, so each rank would make all of them; start it without "
            "torchrun, with --trainer.devices."
        )


def hush() -> None:
    """Leave out what Lightning says at the start of each of many runs."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


class FromCheckpoint(CLI):
    """What the tools score with: whether there was anything to score they say themselves."""

    def before_validate(self) -> None:
        """Refuse nothing."""


def from_checkpoint(command: str, checkpoint: Path | str, *flags: str, callbacks: Sequence[Callback] = ()) -> CLI:
    """Run ``validate`` or ``predict`` from a checkpoint, in silence, on one device: in this process alone."""
    alone = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    silent = ["--trainer.profiler=null", "--callbacks.progress_bar=null"]
    if command == "validate":
        silent.append("--verbose=false")
    logging.disable(logging.INFO)  # of the device and the checkpoint
    try:
        with redirect_stdout(io.StringIO()):
            return FromCheckpoint([command, f"--ckpt_path={checkpoint}", *alone, *silent, *flags], callbacks=callbacks)
    finally:
        logging.disable(logging.NOTSET)


class Curve(NamedTuple):
    """A column of metrics.csv where it has values: steps_N and values_N."""

    steps: np.ndarray
    values: np.ndarray


NO_CURVE = Curve(np.array([]), np.array([]))


class Validation(NamedTuple):
    """What the monitored metric was after a step."""

    step: int
    value: float


class Durations(NamedTuple):
    """The columns of timing.csv: at each log point (N,) what training took since the one before.

    Args:
        steps: The optimizer steps.
        seconds: The time.
        waiting: The seconds of it in which training waited for data.
        samples: The samples that were trained on.
    """

    steps: np.ndarray
    seconds: np.ndarray
    waiting: np.ndarray
    samples: np.ndarray


class Predictions(NamedTuple):
    """What a checkpoint says of the N images of a split, in K classes."""

    classes: list[str]
    paths: list[str]
    target_N: np.ndarray
    probabilities_NK: np.ndarray

    @property
    def label_N(self) -> np.ndarray:
        """The predicted classes."""
        return self.probabilities_NK.argmax(1)

    @property
    def confidence_N(self) -> np.ndarray:
        """The probability of the predicted class."""
        return self.probabilities_NK.max(1)

    @property
    def hit_N(self) -> np.ndarray:
        """Whether it is the true one."""
        return self.label_N == self.target_N

    @property
    def counts_KK(self) -> np.ndarray:
        """The confusion matrix: a row for each true class, a column for each predicted one."""
        return Classes(self.classes).confusion(self.target_N, self.label_N)


class Collect(Callback):
    """Keeps what a validation says of each image."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, np.ndarray]] = []

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.bar = tqdm(desc="validation", total=int(sum(trainer.num_val_batches)), leave=False)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self.bar.update()
        if outputs:  # a validation_step of the user's own may return nothing
            self.outputs.append({name: tensor.cpu().numpy() for name, tensor in outputs.items()})

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.bar.close()

    def predictions(self, data: Any) -> Predictions | str:
        """Return what was kept, or that there is nothing."""
        if not self.outputs:
            return "The run's config validates nothing (--trainer.limit_val_batches 0?), so nothing was scored."

        def kept(name: str) -> np.ndarray:
            return np.concatenate([output[name] for output in self.outputs])

        paths, _ = data.split("val")
        in_order = [paths[position] for position in kept("position")]
        return Predictions(data.target.names, in_order, kept("y"), kept("predictions"))


class Run(runs.Run):
    """The files of a run and what they say.

    Attributes:
        name: The run's name and version, as people call it.
        settings: config.yaml by dotted names.
        monitor: The metric that the run is judged by.
        sign: 1 where that should rise, -1 where it should fall.
        curves: metrics.csv by columns.
        target: What is predicted, by manifest.json; None where there is none.
        splits: The keys and targets of each split, by manifest.json; empty where there is none.
        durations: timing.csv; None where there is none or nothing in it.
        error: Why the run failed, in a line; empty where it did not.
        traceback: Where in the code, if that was at fault.

    Args:
        folder: Its folder.

    Raises:
        Mistake: It is no run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not self.config.is_file():
            raise Mistake(
                f"{str(folder)!r} is no run's folder (it holds no {self.config.name}), so it says nothing; give "
                "one like runs/NAME/version_0."
            )
        self.name = "/".join(folder.absolute().parts[-2:])
        self.settings = dict(flat(read_config(self.config)))
        self.monitor = self.setting("monitor", MONITOR)
        self.sign = -1 if direction(self.monitor, self.setting("mode")) == "min" else 1
        with reading(self.metrics):
            self.curves = read_curves(self.metrics)
        manifest = Manifest.load(self.manifest) if self.manifest.is_file() else None
        self.target = manifest.target if manifest else None
        self.splits = manifest.splits if manifest else {}
        with reading(self.timing):
            self.durations = read_durations(self.timing)
        with reading(self.failure):
            failure = shown(read_text(self.failure).strip()) if self.failure.is_file() else ""
        self.error, _, self.traceback = failure.partition("\n")

    def setting(self, name: str, default: Any = None) -> Any:
        """Return a setting of the config, such as ``data.batch_size``; the default where it is null.

        Raises:
            Mistake: It is of another kind than the default.
        """
        value = self.settings.get(name)
        if value is None:
            return default
        kind = (int, float) if isinstance(default, int | float) else type(default)
        if default is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise Mistake(f"{self.config} has {name} as {value!r}, which it cannot be; bring the run's config back.")
        return value

    @property
    def best_validation(self) -> Validation | None:
        """The best validation, as the monitored metric has it."""
        steps, values = self.curves.get(self.monitor, NO_CURVE)
        finite = np.flatnonzero(np.isfinite(values))
        if not len(finite):
            return None
        best = finite[(self.sign * values[finite]).argmax()]
        return Validation(int(steps[best]), float(values[best]))

    def epoch(self, step: float) -> str:
        """Return the epoch that a step lies in, counted from 0 as the run's lines do."""
        steps, epochs = self.curves.get("epoch", NO_CURVE)
        return f"{max(epochs[steps <= step], default=0):.0f}"  # the greatest: a row of ``test`` says 0

    def last_value(self, metric: str, step: float) -> float:
        """Return the last value of a metric up to a step; NaN where it has none."""
        steps, values = self.curves.get(metric, NO_CURVE)
        return float(values[steps <= step][-1]) if (steps <= step).any() else float("nan")

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, or else the last."""
        return next((path for path in (self.best, self.last) if path.is_file()), None)

    def tested(self) -> Predictions | str:
        """Return what ``test`` saved, or why there is nothing to show."""
        file = self.test_predictions
        again = f"python -m {PACKAGE} test --ckpt_path {self.checkpoint or 'FILE'}"
        if not file.is_file():
            return f"No test results yet; they come with: {again}"
        try:
            with file.open(newline="", encoding="utf-8") as opened:
                header, *rows = csv.reader(opened)
            classes = header[3:]  # by position: a class may be called "label"
            paths = [row[0] for row in rows]
            if self.target is None or classes != self.target.names or paths != self.splits["test"][0]:
                return f"{file.name} is not of this run's test split, so it is not shown. Test again: {again}"
            target_N = np.array([classes.index(row[2]) for row in rows])
            return Predictions(classes, paths, target_N, np.array([row[3:] for row in rows], dtype=float))
        except (ValueError, IndexError, csv.Error) as error:
            return f"{file.name} cannot be read ({error}), so it is not shown. Test again: {again}"


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the columns of metrics.csv, none where there is no such file."""
    points: dict[str, list[tuple[float, float]]] = {}
    if path.is_file():
        with plain_table(path) as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if row.get("step") and value and name != "step":
                        points.setdefault(name, []).append((float(row["step"]), float(value)))
    return {name: Curve(*np.array(pairs).T) for name, pairs in points.items()}


def read_durations(path: Path) -> Durations | None:
    """Return the columns of timing.csv, None where there is no such file or no whole row in it."""
    text = read_text(path) if path.is_file() else ""
    rows = [line.split(",") for line in text.splitlines()[1:]]
    whole = [row for row in rows if len(row) == 4 and row[3]]  # the last one may be cut off
    return Durations(*np.array(whole, dtype=float).T) if whole else None


def scores(p: Predictions) -> dict[str, float]:
    """Return accuracy, macro F1, macro AUROC, log loss and expected calibration error; absent classes do not count."""
    _, _, f1_K = per_class(p)
    roc, _ = ranking(p)
    error, _ = calibration(p)
    true_N = np.take_along_axis(p.probabilities_NK, p.target_N[:, None], 1)
    return {
        "accuracy": float(p.hit_N.mean()),
        "macro F1": float(np.nanmean(f1_K)),
        "macro AUROC": float(np.mean([curve.area for curve in roc.values()])) if roc else float("nan"),
        "log loss": float(-np.log(np.maximum(true_N, 1e-12)).mean()),
        "ECE": error,
    }


def per_class(p: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of each class, (K,) each; NaN where there is nothing to divide by."""
    hits_K = np.diag(p.counts_KK)
    predicted_K = p.counts_KK.sum(0)
    support_K = p.counts_KK.sum(1)
    with np.errstate(invalid="ignore"):
        return hits_K / predicted_K, hits_K / support_K, 2 * hits_K / (predicted_K + support_K)


def calibration(p: Predictions) -> tuple[float, np.ndarray]:
    """Return the expected calibration error, and the accuracy of each bin of confidence, NaN of an empty one.

    It is Σ_b n_b / N · |accuracy_b − confidence_b| over 15 bins of equal width (Guo et al. 2017). (Not by torchmetrics,
    which shows no bins, and puts a confidence of 1, frequent in float32, into a sixteenth.)
    """
    bin_N = np.clip(np.ceil(p.confidence_N * BINS).astype(int) - 1, 0, BINS - 1)
    count_B = np.bincount(bin_N, minlength=BINS)
    hits_B = np.bincount(bin_N, p.hit_N, BINS)
    confidence_B = np.bincount(bin_N, p.confidence_N, BINS)
    error = np.abs(hits_B - confidence_B).sum() / len(bin_N)
    with np.errstate(invalid="ignore"):
        return float(error), hits_B / count_B


def interval(share: float, count: int, z: float = 1.96) -> str:
    """Write the 95 % interval of a share of ``count`` images (Wilson 1927)."""
    centre = share + z**2 / (2 * count)
    spread = z * (share * (1 - share) / count + (z / count) ** 2 / 4) ** 0.5
    low, high = ((centre + sign * spread) / (1 + z**2 / count) for sign in (-1, 1))
    return f"95 %: {low:.3f} to {high:.3f}"


class Ranked(NamedTuple):
    """A ROC or precision-recall curve of a class against the rest, and the area below it."""

    x: np.ndarray
    y: np.ndarray
    area: float


def ranking(p: Predictions) -> tuple[dict[int, Ranked], dict[int, Ranked]]:
    """Return the ROC and the precision-recall curves of the classes that are there, one against the rest.

    The area under precision and recall is the average precision Σ (R_t − R_t−1) P_t, without interpolation.
    """
    roc_curves, recall_curves = {}, {}
    count_K = np.bincount(p.target_N, minlength=len(p.classes))
    for k in np.flatnonzero((count_K > 0) & (count_K < len(p.target_N))).tolist():
        score_N = torch.from_numpy(p.probabilities_NK[:, k])
        is_k_N = torch.from_numpy(p.target_N == k).long()
        false, true, _ = classification.binary_roc(score_N, is_k_N)
        area = classification.binary_auroc(score_N, is_k_N)
        roc_curves[k] = Ranked(false.numpy(), true.numpy(), float(area))
        precision, recall, _ = classification.binary_precision_recall_curve(score_N, is_k_N)
        precision[-1] = precision[-2]  # torchmetrics lets the curve begin at a precision of 1, which no threshold has
        area = classification.binary_average_precision(score_N, is_k_N)
        recall_curves[k] = Ranked(recall.numpy()[::-1], precision.numpy()[::-1], float(area))
    return roc_curves, recall_curves
