"""What goes wrong during training, stopped before it is saved: numbers, without waiting for the device, and data."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from .internals import loss_scale, withhold_update
from .mistakes import RunFailed
from .steps import is_log_point

OVERFLOWS_IN_A_ROW = 20


class NumericalFaults(Callback):
    """Stops a run whose loss or weights are no longer finite, before a checkpoint is overwritten with them.

    A flag on the device notes the first such step. It is read at log points and before every validation and save, so
    that no step waits for the device; on a CPU, where reading is free, at once and before the update. Fused optimizers
    withhold the updates in between. Under fp16 a gradient that overflows is skipped by the scaler and no fault, unless
    twenty in a row are.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_batch = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self.rates: list[float] = []  # since the flag was last read
        self.finite = torch.tensor(True, device=pl_module.device)
        self.finite_batches = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self.reads_at_once = pl_module.device.type == "cpu" and trainer.world_size == 1
        self.finite_batches_before = 0  # counted without the device
        self.scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scale: Tensor | None = None
        self.overflows = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self.most_overflows = self.overflows.clone()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.scaler is not None:
            return
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        if self.reads_at_once and math.isfinite(loss.item()):
            self.finite_batches_before += 1
            return
        self.finite = self.finite & loss.detach().isfinite()
        self.finite_batches += self.finite
        if self.reads_at_once:
            self.check(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.scaler is None and not self.reads_at_once and optimizer.defaults.get("fused"):
            withhold_update(optimizer, self.finite)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if self.scaler is not None:
            scale = loss_scale(self.scaler)
            if scale is not None:
                lowered = torch.zeros_like(self.overflows) if self.scale is None else (scale < self.scale).long()
                self.overflows = (self.overflows + lowered) * lowered
                self.most_overflows = torch.maximum(self.most_overflows, self.overflows)
                self.scale = scale.clone()
        if is_log_point(trainer):
            self.check(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.check(trainer, pl_module, weights=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and hasattr(self, "finite"):
            self.check(trainer, pl_module, weights=True)

    def check(self, trainer: Trainer, pl_module: Any, weights: bool = False) -> None:
        """Read the flag, on every rank.

        Raises:
            RunFailed: A loss or, if asked for, a weight is not finite, or fp16 overflowed twenty times in a row.
        """
        finite = self.finite
        if weights:
            norm = torch.nn.utils.get_total_norm([p.detach() for p in pl_module.parameters()])
            finite = finite & norm.isfinite()
        seen = torch.stack((finite.long(), self.finite_batches, -self.most_overflows))
        finite, batches, overflows = trainer.strategy.reduce(seen, reduce_op="min").tolist()
        rates, self.rates = self.rates, []
        if finite and -overflows < OVERFLOWS_IN_A_ROW:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        folders = {str(getattr(callback, "dirpath", None) or "") for callback in trainer.checkpoint_callbacks} - {""}
        saved = sorted({str(path.resolve()) for folder in folders for path in Path(folder).glob("*.ckpt")})
        kept = f"the checkpoints before it are kept: {', '.join(saved)}" if saved else "nothing was saved yet"
        if -overflows >= OVERFLOWS_IN_A_ROW:
            raise RunFailed(
                f"{-overflows} steps in a row before step {trainer.global_step} overflowed fp16 (rate {rate:.3g}), so "
                f"nothing was learned and the run was stopped; {kept}. Use --trainer.precision bf16-mixed or lower the "
                "rate."
            )
        begun = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        # Under fp16 losses are not looked at, the scaler sees to them: it is a weight.
        where = begun if self.scaler is not None else self.first_batch + batches + self.finite_batches_before
        epoch, batch_idx = divmod(where, int(trainer.num_training_batches))
        step = where // trainer.accumulate_grad_batches
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        seen = data.samples_of(epoch, batch_idx) if data else []
        shown = ", ".join(seen[:8]) + (f" … ({len(seen)})" if len(seen) > 8 else "")
        shown = f"{data.noun} {shown}" if seen else "samples unknown"
        behind = begun - where
        what, rate = ("the loss", rates[-behind]) if behind else ("a weight", rate)
        raise RunFailed(
            f"{what} is not finite at step {step} (epoch {epoch}, batch {batch_idx}, rate {rate:.3g}, {shown})"
            f", so the run was stopped; {kept}. Lower the rate, warm up or clip gradients (--config stabilise), or "
            "look at these samples."
        )


class ChangedData(Callback):
    """Stops a run whose data is replaced while it is read, before a checkpoint is overwritten with what it learned.

    Looked at after each epoch and each validation, by the first rank for all, for a hundredth of the time at most
    (a million files take a second or two); in any case before the run ends.
    """

    SHARE = 0.01

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.next = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.next = 0.0
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Look, on every rank.

        Raises:
            RunFailed: Samples are others than before training.
        """
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not hasattr(data, "changed"):  # a script's own
            return
        change, began = "", time.monotonic()
        if trainer.is_global_zero and began >= self.next:
            change = data.changed()
            now = time.monotonic()
            self.next = now + (now - began) / self.SHARE
        change = trainer.strategy.broadcast(change)
        if change:
            raise RunFailed(
                f"{change} since the run began, so the numbers would be of two data sets and the run was stopped; "
                "put the old data back and go on with --resume auto, or start a new run."
            )
