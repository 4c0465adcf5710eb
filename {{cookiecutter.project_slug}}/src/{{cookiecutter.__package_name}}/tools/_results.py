"""What the tools read of a run: its curves and the predictions of a split. It draws nothing."""

import contextlib
import csv
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback
from tqdm import tqdm

from ..cli import CLI
from ..engine import PACKAGE, checkpoints, guard, runs
from ..engine.configs import CONFIGS, flat, read_config
from ..engine.files import plain_table, read_text, reading
from ..engine.metrics import MONITOR, direction
from ..engine.mistakes import Mistake, shown
from ..engine.parser import Options
from ..engine.splits import Manifest
from ..engine.targets import Target
from ._predictions import KINDS, Predictions


def add_run_options(parser: Options) -> None:
    """Add --name and --run_root, which choose the newest run where none is given."""
    defaults = {"name": "default", "run_root": "runs"} | read_config(CONFIGS / "base.yaml")
    parser.add_argument("--name", default=defaults["name"], help="where no RUN is given: the newest of this name")
    parser.add_argument("--run_root", default=defaults["run_root"], help="where runs are kept")


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
        with contextlib.redirect_stdout(io.StringIO()):
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


class Collect(Callback):
    """Keeps what a validation says of each sample."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, np.ndarray]] = []
        self.settled: list[float] | None = None

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.settled = getattr(pl_module, "settled", None)
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
        position_N = kept("position")
        weights = data.manifest.weights.get("val")
        return worth_scoring(
            data.target,
            [paths[position] for position in position_N],
            kept("y"),
            kept("predictions"),
            None if weights is None else weights[position_N],
            self.settled,
            settled_here=True,
        )


def worth_scoring(
    target: Target, paths: list[str], targets: np.ndarray, predicted: np.ndarray, *args: Any, **kwargs: Any
) -> Predictions | str:
    """Return predictions as those of their kind of target, or that they cannot be scored."""
    broken = int((~np.isfinite(predicted)).any(1).sum())
    if broken:
        return f"Of {len(paths):,} predictions {broken:,} are not finite, so they are not scored."
    return KINDS[target.task](target, paths, targets, predicted, *args, **kwargs)


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
        weights: The weight of each sample of each split, by the same; empty where all count the same.
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
        self.weights = manifest.weights if manifest else {}
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
            other = f"{file.name} is not of this run's test split, so it is not shown. Test again: {again}"
            target = self.target
            if target is None:
                return other
            first_true = 1 + len(target.decision)
            first = first_true + len(target.truth)
            paths, targets = self.splits["test"]
            if header[first:] != target.columns or [row[0] for row in rows] != paths:
                return other
            predicted = np.array([row[first:] for row in rows], dtype=float)
            if [row[first_true:first] for row in rows] != [target.told(true) for true in targets]:
                return other
            settled = None
            if KINDS[target.task].settles:
                settled = self.settled_for(predicted, [row[1:first_true] for row in rows])
            return worth_scoring(target, paths, targets, predicted, self.weights.get("test"), settled)
        except (ValueError, IndexError, csv.Error) as error:
            return f"{file.name} cannot be read ({error}), so it is not shown. Test again: {again}"

    def settled_for(self, predicted: np.ndarray, decided: list[list[str]]) -> list[float] | None:
        """Return what the checkpoint settled by which predictions were decided; None for what a model begins with.

        Raises:
            ValueError: They were decided by no checkpoint of the run.
        """
        assert self.target is not None
        found: list[list[float] | None] = []
        for checkpoint in (self.best, self.last):
            if checkpoint.is_file():
                with guard.open_to(guard.TRUSTED):
                    content = checkpoints.read(checkpoint, CLI.tasks[self.target.task])
                found.append(content.get("settled"))
        for settled in (*found, None):
            with contextlib.suppress(TypeError, ValueError):  # a checkpoint may hold anything
                if [self.target.decided(values, settled) for values in predicted.tolist()] == decided:
                    return settled
        raise ValueError("its labels are by the thresholds of another checkpoint than the best and the last")


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
