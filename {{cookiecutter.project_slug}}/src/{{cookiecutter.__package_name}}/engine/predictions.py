"""What ``test`` and ``predict`` write: a row for each sample."""

import csv
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .runs import Run
from .targets import Classes
from .watching import matrix, show


class PredictionWriter(Callback):
    """Writes the predictions of ``test`` and ``predict`` as CSV: path, label, one column per class.

    ``label`` is the predicted class. ``test`` adds the true one as ``target``, and writes the confusion matrix (a row
    for each true class, a column for each predicted one). Files that exist are replaced.

    Args:
        run: The run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[tuple[int, int, list[float]]] = []

    def _collect(self, outputs: dict[str, torch.Tensor]) -> None:
        index = outputs["position"].tolist()
        targets = outputs["y"].tolist() if "y" in outputs else [-1] * len(index)
        self.rows += zip(index, targets, outputs["predictions"].tolist(), strict=True)

    def _gathered(self, trainer: Trainer) -> list[tuple[int, int, list[float]]]:
        """Return the rows of all ranks in the order of their samples, on every rank."""
        gathered = [self.rows]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self.rows)
        self.rows = []
        return sorted(row for rows in gathered for row in rows)

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self._collect(outputs)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self._collect(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, data = self._gathered(trainer), trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not trainer.is_global_zero:
            return
        target: Classes = data.target
        keys, _ = data.split("test")
        header = ["path", "label", "target", *target.columns]
        with self.run.test_predictions.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for index, true, predicted in rows:
                writer.writerow([keys[index], target.decide(predicted), target.write(true), *written(predicted)])
        print(f"predictions: {self.run.test_predictions}")
        label_N = np.array([np.argmax(predicted) for _, _, predicted in rows])
        counts_KK = target.confusion(np.array([true for _, true, _ in rows]), label_N)
        with self.run.confusion_matrix.open("w", newline="", encoding="utf-8") as file:
            named = ([name, *row] for name, row in zip(target.names, counts_KK.tolist(), strict=True))
            csv.writer(file).writerows([["target", *target.names], *named])
        show(trainer, "test/confusion", matrix(counts_KK, target.names))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, data = self._gathered(trainer), trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not trainer.is_global_zero:
            return
        target: Classes = data.target
        with self.run.predictions.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", *target.columns])
            for index, _, predicted in rows:
                writer.writerow([data.predict.paths[index], target.decide(predicted), *written(predicted)])
        print(f"predictions: {self.run.predictions}")


def written(predictions: list[float]) -> list[str]:
    """Write numbers with the digits that float32 has."""
    return [f"{value:.9g}" for value in predictions]
