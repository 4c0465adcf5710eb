"""A training that its platform may stop: it ends within a step, saved, and alike on all ranks."""

from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from . import signals
from .internals import timeout_of, validates_after_this_batch, validation_is_due
from .keepers import LastCheckpoint
from .steps import ends_epoch, step_is_made


class StopOnSignal(Checkpoint):
    """Saves last.ckpt and ends the training once a signal was noted on any rank.

    Between two steps, never between the accumulated batches of one; of an epoch whose training is complete, before its
    validation or within it, and the run that goes on validates from the start. (A Checkpoint, for these come last:
    what is saved has the whole step in it.)
    """

    number, is_validating, common_batches = 0, False, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.check()
        self.last = next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
        self.group: Any = None
        if trainer.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Between hosts, so that no step waits for its device.
            self.group = torch.distributed.new_group(backend="gloo", timeout=timeout_of(trainer.strategy))
        launcher: Any = trainer.strategy.launcher
        signals.note_only(getattr(launcher, "kill", None))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # What validates or ends the epoch next stops there, for else the run that goes on would leave that out.
        if ends_epoch(trainer) or not step_is_made(trainer):
            return
        if self._shared(trainer) and not validates_after_this_batch(trainer):
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loop = trainer.fit_loop.epoch_loop.val_loop
        self.is_validating = step_is_made(trainer)
        if self.is_validating and self._shared(trainer, int(min(sum(loop.max_batches), 2**31))):
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # A rank may have one batch more than another, which would wait for it.
        if self.is_validating and batch_idx + 1 < self.common_batches and self._shared(trainer, self.common_batches):
            for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, WeightAveraging):  # gives the weights of the training back
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_validating = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shared(trainer):  # LastCheckpoint has saved
            raise signals.Stopped(self.number)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.is_validating and self.number:
            validation_is_due(checkpoint)

    def _shared(self, trainer: Trainer, batches: int = 0) -> int:
        """Return the signal that a rank has noted, if any has; alike on all ranks, which must all ask.

        Args:
            trainer: The trainer.
            batches: Of this rank's validation; the fewest of all ranks are kept.
        """
        self.number, self.common_batches = signals.noted(), batches
        if trainer.world_size > 1:
            seen = torch.tensor([-self.number, batches])
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MIN, self.group)
            self.number, self.common_batches = -int(seen[0]), int(seen[1])
        return self.number

    def _stop(self, trainer: Trainer) -> None:
        if self.last is not None and (self.is_validating or self.last.saved_step != trainer.global_step):
            self.last.save(trainer)
        raise signals.Stopped(self.number)
