"""What ``test`` and ``predict`` write: a row for each sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .files import write_rows
from .mistakes import RunFailed
from .runs import Run
from .targets import Classes
from .watching import matrix, show

MOST_CLASSES = 2000  # of a confusion matrix


class Row(NamedTuple):
    """A sample by its position: the target, the predictions, and why it could not be read."""

    position: int
    target: int
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
    """Writes the predictions of ``test`` and ``predict`` as CSV: path, label, one column per class.

    ``label`` is the predicted class. ``test`` adds the true one as ``target``, and writes the confusion matrix (a row
    for each true class, a column for each predicted one). Files that exist are replaced.

    Where ``predict`` could not read a sample, its row has nothing but the path and, in one more column at the end,
    ``error``, the reason; without such samples there is no such column.

    Args:
        run: The run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[Row] = []
        self.unread: SomeUnread | None = None  # what predict could not read; known on every rank

    def _collect(self, outputs: dict[str, torch.Tensor], errors: Sequence[str] = ()) -> None:
        index = outputs["position"].tolist()
        targets = outputs["y"].tolist() if "y" in outputs else [-1] * len(index)
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
        target: Classes = data.target
        keys, _ = data.split("test")
        rows_of_csv = [
            [keys[index], target.decide(predicted), target.write(true), *written(predicted)]
            for index, true, predicted, _ in rows
        ]
        write_rows(self.run.test_predictions, [["path", "label", "target", *target.columns], *rows_of_csv])
        print(f"predictions: {self.run.test_predictions}")
        if len(target.names) > MOST_CLASSES:
            print(f"confusion matrix: left out, for {len(target.names)} classes it would fill the memory")
            return
        label_N = np.array([np.argmax(row.predicted) for row in rows])
        counts_KK = target.confusion(np.array([row.target for row in rows]), label_N)
        named = [[name, *row] for name, row in zip(target.names, counts_KK.tolist(), strict=True)]
        write_rows(self.run.confusion_matrix, [["target", *target.names], *named])
        show(trainer, "test/confusion", matrix(counts_KK, target.names))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, data = self._gathered(trainer), trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        paths = data.predict.paths
        if unread := [f"{paths[row.position]} {row.error}" for row in rows if row.error]:
            self.unread = SomeUnread(unread, f"{len(rows)} {data.noun}", self.run.predictions)
        if not trainer.is_global_zero:
            return
        target: Classes = data.target
        write_predictions(
            self.run.predictions,
            target.columns,
            [
                (paths[index], [target.decide(predicted), *written(predicted)], error)
                for index, _, predicted, error in rows
            ],
        )
        print(f"predictions: {self.run.predictions}")
        if data.left_out:
            print(f"left out: {data.left_out}")


def write_predictions(file: Path, columns: list[str], rows: Sequence[tuple[str, list[Any], str]]) -> None:
    """Write the predictions of new samples, in the form that PredictionWriter describes.

    Args:
        file: The file.
        columns: The name of each probability.
        rows: Of each sample the path, the label with the probabilities, and why it could not be read.
    """
    has_errors = any(error for _, _, error in rows)
    table = [["path", "label", *columns, *(["error"] if has_errors else [])]]
    for path, cells, error in rows:
        known = [""] * len(cells) if error else cells
        table.append([path, *known, *([error] if has_errors else [])])
    write_rows(file, table)


def written(predictions: list[float]) -> list[str]:
    """Write numbers with the digits that float32 has."""
    return [f"{value:.9g}" for value in predictions]
