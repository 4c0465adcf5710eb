"""What ``test`` and ``predict`` write: a row for each sample."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .calibrating import Kept, tested
from .calibration import OfNumbers, OfProbabilities
from .files import write, write_rows
from .mistakes import Mistake, RunFailed
from .runs import Run
from .submission import Submission
from .targets import Classes, Target
from .watching import matrix, show

MOST_CLASSES = 2000  # of a confusion matrix


class Row(NamedTuple):
    """A sample by its position: the target, the predictions, and why it could not be read."""

    position: int
    target: Any
    predicted: list[float]
    error: str


class SomeUnread(RunFailed):
    """Some samples could not be read; what could be is predicted and written.

    Args:
        unread: The path and the reason of each.
        of: How many of what were to be read.
        file: Where the predictions are.
    """

    def __init__(self, unread: Sequence[str], of: str, file: Path) -> None:
        super().__init__(
            f"{len(unread)} of {of} could not be read, the first: {unread[0]}; {file} names each, with the reason in "
            "the column error, and holds the predictions of all others."
        )


class PredictionWriter(Callback):
    """Writes the predictions of ``test`` and ``predict`` as CSV: the sample's key, label, one column per class.

    ``label`` is the predicted class. ``test`` adds the true one as ``target``, and writes the confusion matrix (a row
    for each true class, a column for each predicted one). Of several labels there is ``labels``, those that reach the
    thresholds that validation chose; of numbers a column each, and in ``test`` the true one as ``true_NAME``. Files
    that exist are replaced.

    Where ``predict`` could not read a sample, its row has nothing but the path and, in one more column at the end,
    ``error``, the reason; without such samples there is no such column.

    ``test`` writes what the checkpoint says, and how far that is calibrated beside it, in test_calibration.json.

    Args:
        run: The run's files.
        like: A sample submission: ``predict`` also writes submission.csv, with its columns, and its rows in its order.
        calibration: Calibrates what ``predict`` writes; what ``test`` tells of.
        level: Of the intervals of numbers: ``predict`` also writes low_NAME and high_NAME.
    """

    def __init__(
        self, run: Run, like: str | None = None, calibration: Kept | None = None, level: float | None = None
    ) -> None:
        self.run, self.like, self.calibration, self.level = run, like, calibration, level
        self.submission: Submission | None = None
        self.rows: list[Row] = []
        self.unread: SomeUnread | None = None  # what predict could not read; known on every rank

    def _collect(self, outputs: dict[str, torch.Tensor], errors: Sequence[str] = ()) -> None:
        index = outputs["position"].tolist()
        targets = outputs["y"].cpu().numpy() if "y" in outputs else [None] * len(index)
        self.rows += map(Row, index, targets, outputs["predictions"].tolist(), errors or [""] * len(index))

    def _gathered(self, trainer: Trainer) -> list[Row]:
        """Return the rows of all ranks in the order of their samples, on every rank."""
        gathered = [self.rows]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self.rows)
        self.rows = []
        return sorted((row for rows in gathered for row in rows), key=lambda row: row.position)

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self._collect(outputs)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._collect(outputs, getattr(batch, "errors", ()))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, data = self._gathered(trainer), trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not trainer.is_global_zero:
            return
        target: Target = data.target
        keys, _ = data.split("test")
        header = [data.key, *target.decision, *target.truth, *target.columns]
        settled = getattr(pl_module, "settled", None)
        rows_of_csv = [
            [keys[index], *target.decided(predicted, settled), *target.told(true), *target.written(predicted)]
            for index, true, predicted, _ in rows
        ]
        write_rows(self.run.test_predictions, [header, *rows_of_csv])
        print(f"predictions: {self.run.test_predictions}")
        if isinstance(target, Classes):
            self._write_confusion(trainer, target, rows)
        self._tell_calibration(data, rows, settled)

    def _tell_calibration(self, data: Any, rows: list[Row], settled: list[float] | None) -> None:
        targets, predicted = np.array([row.target for row in rows]), np.array([row.predicted for row in rows])
        weights = data.manifest.weights.get("test")
        weights = None if weights is None else weights[[row.position for row in rows]]
        about, lines = tested(data.target, targets, predicted, weights, self.calibration, settled, self.level)
        for line in lines:
            print(f"calibration: {line}")
        write(self.run.tested_calibration, json.dumps(about, indent=1) + "\n")

    def _write_confusion(self, trainer: Trainer, target: Classes, rows: list[Row]) -> None:
        if len(target.names) > MOST_CLASSES:
            print(f"confusion matrix: left out, for {len(target.names)} classes it would fill the memory")
            return
        label_N = np.array([np.argmax(row.predicted) for row in rows])
        counts_KK = target.confusion(np.array([row.target for row in rows]), label_N)
        named = [[name, *row] for name, row in zip(target.names, counts_KK.tolist(), strict=True)]
        write_rows(self.run.confusion_matrix, [["target", *target.names], *named])
        show(trainer, "test/confusion", matrix(counts_KK, target.names))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if twice := sorted(set(self._bounds(data.target)) & {data.key, *data.target.columns}):
            raise Mistake(
                f"--interval={self.level:g} would write a second column {twice[0]!r}, so it would not be clear which "
                "is which; leave it out, or train with other names."
            )
        if self.like is not None:  # refused before the work, not after it
            self.submission = Submission(self.like, data.predict.keys, data.target, data.noun, data.to_predict)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, data = self._gathered(trainer), trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        keys = data.predict.keys
        if unread := [f"{keys[row.position]} {row.error}" for row in rows if row.error]:
            self.unread = SomeUnread(unread, f"{len(rows)} {data.noun}", self.run.predictions)
        if not trainer.is_global_zero:
            return
        target: Target = data.target
        rows, ends, settled = self._calibrated(rows, getattr(pl_module, "settled", None))
        write_predictions(
            self.run.predictions,
            data.key,
            target,
            [
                (
                    keys[row.position],
                    [*target.decided(row.predicted, settled), *target.written(row.predicted), *target.written(of_row)],
                    row.error,
                )
                for row, of_row in zip(rows, ends, strict=True)
            ],
            self._bounds(target),
        )
        print(f"predictions: {self.run.predictions}")
        if self.submission is not None and self.unread is not None:
            print(f"submission:  not written, as {len(unread)} {data.noun} could not be read")
        elif self.submission is not None:
            chosen = [target.chosen(row.predicted, settled) for row in rows]
            values = [target.written(row.predicted) for row in rows]
            write_rows(self.run.submission, self.submission.rows(values, chosen))
            print(f"submission:  {self.run.submission}")
        if data.left_out:
            print(f"left out: {data.left_out}")

    def _bounds(self, target: Target) -> list[str]:
        """Return the columns of the intervals."""
        has_intervals = self.calibration is not None and isinstance(self.calibration.of, OfNumbers)
        return [f"{end}_{name}" for name in target.names for end in ("low", "high")] if has_intervals else []

    def _calibrated(
        self, rows: list[Row], settled: list[float] | None
    ) -> tuple[list[Row], list[list[float]], list[float] | None]:
        """Return the rows calibrated, the ends of the intervals of each, and what decisions go by then."""
        no_ends: list[list[float]] = [[] for _ in rows]
        if self.calibration is None or not rows:
            return rows, no_ends, settled
        of, predicted = self.calibration.of, np.array([row.predicted for row in rows])
        if isinstance(of, OfProbabilities):
            values = of.calibrated(predicted, settled).tolist()
            return (
                [row._replace(predicted=value) for row, value in zip(rows, values, strict=True)],
                no_ends,
                of.settled(settled),
            )
        assert self.level is not None
        ends_NT2 = np.stack(of.bounds(predicted, self.level), axis=2)
        return rows, ends_NT2.reshape(len(rows), -1).tolist(), settled


def write_predictions(
    file: Path, key: str, target: Target, rows: Sequence[tuple[str, list[Any], str]], more: Sequence[str] = ()
) -> None:
    """Write the predictions of new samples, in the form that PredictionWriter describes.

    Args:
        file: The file.
        key: What the column of the keys is called.
        target: What is predicted.
        rows: Of each sample the key, what is predicted of it in cells, and why it could not be read.
        more: Columns after those of the target.
    """
    has_errors = any(error for _, _, error in rows)
    table = [[key, *target.decision, *target.columns, *more, *(["error"] if has_errors else [])]]
    for name, cells, error in rows:
        known = [""] * len(cells) if error else cells
        table.append([name, *known, *([error] if has_errors else [])])
    write_rows(file, table)
