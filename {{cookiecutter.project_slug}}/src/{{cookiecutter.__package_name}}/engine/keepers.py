"""Callbacks that Lightning lacks, or has in a form that a resumed run would not survive."""

import sys
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch.callbacks as lightning_callbacks
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, TQDMProgressBar, WeightAveraging

from . import checkpoints
from .files import write
from .internals import validates_after_this_batch
from .metrics import MONITOR
from .mistakes import Mistake, require
from .runs import BEST, LAST, Run
from .steps import ends_epoch, why_no_validation


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
        monitor: str = MONITOR,
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
        write(probe, b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise Mistake(
            f"checkpoints cannot be written to {str(folder)!r} ({error}), so nothing would be kept; make room, or give "
            "another folder with --run_root."
        ) from error


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation as best.ckpt.

    Args:
        monitor: The metric; follows --monitor.
        mode: Whether it should fall or rise; follows --mode.
        dirpath: The folder; the run's checkpoints folder unless given.
    """

    def __init__(self, monitor: str = MONITOR, mode: Literal["min", "max"] = "min", dirpath: str | None = None) -> None:
        super().__init__(
            dirpath,
            Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        _prepare(trainer, stage, self.dirpath or "")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.best_model_path or trainer.fast_dev_run or not trainer.is_global_zero:  # pyright: ignore
            return
        if why := why_no_validation(trainer):
            kept = any(isinstance(callback, LastCheckpoint) for callback in trainer.checkpoint_callbacks)
            remedy = "the last one serves: --ckpt_path last" if kept else "nothing will be kept: --callbacks.last null"
            print(f"no validation will run, so there will be no best checkpoint and no early stop: {why}; {remedy}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best score, also where the run's folder was moved; without its file it starts anew."""
        here = Path(self.dirpath or "") / BEST
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
            flag = "--callbacks.last.every_n_train_steps"
            require(every_n_train_steps >= 1, flag, every_n_train_steps, "x ≥ 1", "no step would be saved")
        self.every_n_train_steps, self.dirpath = every_n_train_steps, dirpath
        self.saved_step, self.due = 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        best = next((c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        self.dirpath = self.dirpath or str(best or Run(trainer.default_root_dir).checkpoints)
        _prepare(trainer, stage, self.dirpath)

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return Path(self.dirpath or "") / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step

    def save(self, trainer: Trainer) -> None:
        """Save now."""
        if trainer.fast_dev_run:  # pyright: ignore
            return
        for logger in trainer.loggers:  # what is logged before a checkpoint is not logged again after a resume
            logger.save()
        self.saved_step, self.due = trainer.global_step, False
        trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if self.every_n_train_steps and step % self.every_n_train_steps == 0 and step != self.saved_step:
            self.due = True
            if not ends_epoch(trainer) and not validates_after_this_batch(trainer):
                self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)


class EMAWeightAveraging(lightning_callbacks.EMAWeightAveraging):
    """Lightning's exponential moving average of the weights; what is constant stays what it is, to the last bit.

    (decay × m + (1 − decay) × m is not m: Lightning's lets the mean and the deviation that normalise images drift.)

    Args:
        decay: The share of the average that each update keeps.
        update_every_n_steps: Optimizer steps between updates.
        update_starting_at_step: The first step that counts; null is the first of all.
        update_starting_at_epoch: The first epoch whose end counts; null is none.
        warmup: Keep less at first, at most (1 + n) / (10 + n) at step n since the first that counts, so that a short
            run does not end with an average of its first weights.
        device: Where the average is kept; null is where the weights are.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        warmup: bool = False,
        device: str | None = None,
    ) -> None:
        WeightAveraging.__init__(self, device, avg_fn=self._mean)
        self.decay, self.update_every_n_steps = decay, update_every_n_steps
        self.warmup, self.kept = warmup, decay
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if self.warmup and step_idx is not None:
            steps = max(0, step_idx - (self.update_starting_at_step or 0))
            self.kept = min(self.decay, (1 + steps) / (10 + steps))
        return super().should_update(step_idx, epoch_idx)

    def _mean(self, average: torch.Tensor, current: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        return average + (1 - self.kept) * (current - average)


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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch  # a run that goes on within an epoch does not start it

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

    def __init__(self, monitor: str = MONITOR) -> None:
        self.monitor = monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise Mistake(
                f"--monitor={self.monitor!r} is not logged, so no best checkpoint could be chosen; "
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
