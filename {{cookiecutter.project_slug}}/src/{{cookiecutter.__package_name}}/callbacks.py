"""The callbacks of a run, and those that Lightning lacks.

On the command line each is a flag: ``--callbacks.early_stopping.patience 5``, ``--callbacks.early_stopping null``. To
add your own, write the class here and give Callbacks an argument for it. In a script:
``Trainer(callbacks=standard())``.
"""

import csv
import sys
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch.callbacks as lightning_callbacks
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
    WeightAveraging,
)

from . import checkpoints
from .mistakes import require
from .watching import Pictures, Projector, matrix, show


class EarlyStopping(lightning_callbacks.EarlyStopping):
    """Stops when the monitored metric no longer improves.

    Args:
        monitor: The metric; follows --monitor.
        mode: Whether it should fall or rise; follows --mode.
        patience: Validations without improvement before stopping.
        min_delta: The least change that counts as improvement.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 20,
        min_delta: float = 0.0,
    ) -> None:
        # After the validation: at the epoch's end a run resumed in between would miss its metrics.
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:  # the run was killed after the decision to stop
            trainer.should_stop = True


def _prepare(trainer: Trainer, stage: str, folder: str | Path) -> None:
    """Before training, refuse a folder that cannot be written, and save whole files alone from here on."""
    if stage != "fit" or trainer.fast_dev_run:  # pyright: ignore
        return
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = checkpoints.WholeFile()
    if not trainer.is_global_zero:
        return
    probe = Path(folder) / ".probe"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"checkpoints cannot be written to {str(folder)!r} ({error}), so nothing would be kept; make room or give "
            "another folder."
        ) from error


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation as best.ckpt.

    Args:
        monitor: The metric; follows --monitor.
        mode: Whether it should fall or rise; follows --mode.
        dirpath: The folder; the run's checkpoints folder unless given.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min", dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath,
            "best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        _prepare(trainer, stage, self.dirpath or "")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best score, also where the run's folder was moved; without its file it starts anew."""
        here = Path(self.dirpath or "") / "best.ckpt"
        if state_dict["best_model_path"] and here.is_file():
            scores = dict.fromkeys([str(here)], state_dict["best_model_score"])
            moved = {"dirpath": self.dirpath, "best_model_path": str(here), "kth_best_model_path": str(here)}
            super().load_state_dict({**state_dict, **moved, "best_k_models": scores})


class LastCheckpoint(Checkpoint):
    """Keeps the newest checkpoint as last.ckpt, at the end of every epoch and as often as asked for in between.

    (ModelCheckpoint's save_last, with a metric, keeps the best one instead; and it saves before the validation that
    falls on the same step, which a resumed run would then miss.)

    Args:
        every_n_train_steps: Optimizer steps between saves within an epoch; null saves none.
        dirpath: The folder; the run's checkpoints folder unless given.
    """

    def __init__(self, every_n_train_steps: int | None = None, dirpath: str | None = None) -> None:
        if every_n_train_steps is not None:
            require(every_n_train_steps >= 1, "callbacks.last.every_n_train_steps", every_n_train_steps, "x ≥ 1")
        self.every_n_train_steps, self.dirpath = every_n_train_steps, dirpath
        self.saved_step, self.due = 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        best = next((c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        self.dirpath = self.dirpath or str(best or Path(trainer.default_root_dir) / "checkpoints")
        _prepare(trainer, stage, self.dirpath)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # pyright: ignore
            return
        for logger in trainer.loggers:  # what is logged before a checkpoint is not logged again after a resume
            logger.save()
        self.saved_step, self.due = trainer.global_step, False
        trainer.save_checkpoint(Path(self.dirpath or "") / "last.ckpt", weights_only=False)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step, loop = trainer.global_step, trainer.fit_loop.epoch_loop
        if self.every_n_train_steps and step % self.every_n_train_steps == 0 and step != self.saved_step:
            self.due = True
            if not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # pyright: ignore
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)


class SWA(WeightAveraging):
    """Stochastic weight averaging: evaluates and keeps the mean of the weights since an epoch (Izmailov et al. 2018).

    Until that epoch ends the weights are those of the training. Statistics of BatchNorm are averaged with the weights.
    An epoch's weights enter the mean after its validation.

    Args:
        start_epoch: The first epoch whose last weights count.
    """

    def __init__(self, start_epoch: int = 10) -> None:
        super().__init__(use_buffers=True, avg_fn=self._mean)
        self.start_epoch = start_epoch
        self.epoch, self.epoch_ended = 0, False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        self.epoch_ended = epoch_idx is not None
        return self.epoch > self.start_epoch if self.epoch_ended else self.epoch <= self.start_epoch

    def _mean(self, average: torch.Tensor, current: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        counted = self.epoch - self.start_epoch if self.epoch_ended else 0
        return average + (current - average) / (counted + 1) if counted else current


class CheckMetric(Callback):
    """Stops a run whose monitored metric nobody logs right after the sanity check, before the first step.

    Args:
        monitor: The metric; follows --monitor.
    """

    def __init__(self, monitor: str = "val/loss") -> None:
        self.monitor = monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"monitor={self.monitor!r} is not logged, so no best checkpoint could be chosen; "
                f"choose from {', '.join(sorted(trainer.callback_metrics))}."
            )


class ProgressBar(TQDMProgressBar):
    """A bar on a terminal; elsewhere (a log file, a batch job) one line per validation.

    (Lightning's counts batches between refreshes, too many of a fast run's and too few of a slow one's, and at each
    refresh reads the metrics from the device.)

    Args:
        every_seconds: Seconds between two refreshes of the bar.
    """

    def __init__(self, every_seconds: float = 0.2) -> None:
        self.lines = not sys.stdout.isatty()  # where Lightning shows its bar
        super().__init__(refresh_rate=0 if self.lines else 1)
        self.every_seconds, self.refreshed, self.read_step = every_seconds, 0.0, -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.is_enabled and every and step % every == 0 and step != self.read_step:
            self.read_step = step
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_enabled:
            return
        now, bar = time.monotonic(), self.train_progress_bar
        if now - self.refreshed >= self.every_seconds or batch_idx + 1 == bar.total:
            self.refreshed, bar.n = now, batch_idx + 1
            bar.refresh()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.lines and trainer.is_global_zero and not trainer.sanity_checking and trainer.state.fn == "fit":
            scores = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
            shown = " ".join(f"{name}={value:.4f}" for name, value in scores.items() if not name.startswith("lr-"))
            print(f"epoch {trainer.current_epoch} step {trainer.global_step}: {shown}", flush=True)


class Callbacks:
    """Switches and options of the callbacks; a null one is off.

    Args:
        best: Keeps the best checkpoint.
        last: Keeps the newest checkpoint.
        check_metric: Refuses a monitored metric that nobody logs.
        early_stopping: Stops when the metric no longer improves.
        lr_monitor: Logs the learning rate.
        progress_bar: Shows the progress.
        averaging: Evaluates and keeps averaged weights: EMAWeightAveraging or SWA.
        device_stats: Logs memory and load of the device (needs psutil on a CPU).
        pictures: Shows the loggers training images and the confusion matrix.
        projector: Hands embeddings of validation images to TensorBoard's projector.
    """

    def __init__(
        self,
        best: BestCheckpoint | None = None,
        last: LastCheckpoint | None = None,
        check_metric: CheckMetric | None = None,
        early_stopping: EarlyStopping | None = None,
        lr_monitor: LearningRateMonitor | None = None,
        progress_bar: ProgressBar | None = None,
        averaging: WeightAveraging | None = None,
        device_stats: DeviceStatsMonitor | None = None,
        pictures: Pictures | None = None,
        projector: Projector | None = None,
    ) -> None:
        given = (best, last, check_metric, early_stopping, lr_monitor, progress_bar, averaging, device_stats)
        given += (pictures, projector)
        self.items: list[Callback] = [callback for callback in given if callback is not None]


def standard(monitor: str = "val/loss", mode: Literal["min", "max"] = "min") -> list[Callback]:
    """Return the callbacks of the preset ``standard``, for a script."""
    return Callbacks(
        best=BestCheckpoint(monitor, mode),
        last=LastCheckpoint(),
        check_metric=CheckMetric(monitor),
        early_stopping=EarlyStopping(monitor, mode),
        lr_monitor=LearningRateMonitor(),
        progress_bar=ProgressBar(),
        pictures=Pictures(),
    ).items


class PredictionWriter(Callback):
    """Writes the probabilities of ``test`` and ``predict`` as CSV: path, label, one column per class.

    ``label`` is the predicted class. ``test`` adds the true one as ``target``, and writes the confusion matrix (a row
    for each true class, a column for each predicted one). Files that exist are replaced.

    Args:
        folder: Where test_predictions.csv, confusion_matrix.csv and predictions.csv are written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[tuple[int, int, list[float]]] = []

    def _collect(self, outputs: dict[str, torch.Tensor]) -> None:
        index = outputs["index_N"].tolist()
        targets = outputs["y_N"].tolist() if "y_N" in outputs else [-1] * len(index)
        self.rows += zip(index, targets, outputs["probabilities_NK"].tolist(), strict=True)

    def _write(self, trainer: Trainer, file_name: str, paths: list[str], classes: list[str]) -> None:
        with_target = file_name.startswith("test")
        gathered = [self.rows]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, self.rows)
        self.rows = []
        if not trainer.is_global_zero:
            return
        with (self.folder / file_name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", *(["target"] if with_target else []), *classes])
            for index, target, probabilities in sorted(row for rows in gathered for row in rows):
                label = classes[max(range(len(classes)), key=probabilities.__getitem__)]
                true = [classes[target]] if with_target else []
                writer.writerow([paths[index], label, *true, *(f"{p:.9g}" for p in probabilities)])
        print(f"predictions: {self.folder / file_name}")

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self._collect(outputs)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self._collect(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self._write(trainer, "test_predictions.csv", data.split("test").paths, data.class_names)
        counts = pl_module.confusion.compute().tolist()  # pyright: ignore  (on every rank: it gathers)
        if trainer.is_global_zero:
            with (self.folder / "confusion_matrix.csv").open("w", newline="", encoding="utf-8") as file:
                rows = ([name, *row] for name, row in zip(data.class_names, counts, strict=True))
                csv.writer(file).writerows([["target", *data.class_names], *rows])
            show(trainer, "test/confusion", matrix(np.array(counts), data.class_names))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self._write(trainer, "predictions.csv", data.predict.paths, data.class_names)
