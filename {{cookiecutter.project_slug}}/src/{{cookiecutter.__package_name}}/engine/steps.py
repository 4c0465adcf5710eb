"""Where a run is: whether a step was made, whether it is one after which the run logs, whether its time is up."""

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


def step_is_made(trainer: Trainer) -> bool:
    """Tell whether the batch that was just trained on ended an optimizer step, or accumulation goes on."""
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return ready % trainer.accumulate_grad_batches == 0 or ready == trainer.num_training_batches


def ends_epoch(trainer: Trainer) -> bool:
    """Tell whether the batch that was just trained on is the last of its epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def is_log_point(trainer: Trainer) -> bool:
    """Tell whether the optimizer step that was just made is one after which the run logs."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
    return bool(every) and trainer.global_step % every == 0 and step_is_made(trainer)


def is_out_of_time(trainer: Trainer) -> bool:
    """Tell whether --trainer.max_time has stopped the run, which then has not ended."""
    timers = [timer for timer in trainer.callbacks if isinstance(timer, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
    remaining = [timer.time_remaining() for timer in timers]
    return any(seconds is not None and seconds <= 0 for seconds in remaining)


def why_no_validation(trainer: Trainer) -> str:
    """Say what leaves a training without any validation; nothing where one comes, or where it cannot be known."""
    settings: Any = trainer  # set by connectors
    every, batches, check = settings.check_val_every_n_epoch, trainer.num_training_batches, settings.val_check_batch
    if not trainer.enable_validation:
        return "--trainer.limit_val_batches 0"
    if check is None or math.inf in (batches, check):  # by the clock, or without a known length
        return ""
    first = check if every is None else (every - 1) * batches + check
    last, limit = math.inf, ""
    if trainer.max_epochs not in (None, -1):
        last, limit = trainer.max_epochs * batches, f"--trainer.max_epochs {trainer.max_epochs}"
    if trainer.max_steps != -1:
        of_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        epochs, steps = divmod(trainer.max_steps, of_epoch)
        if (end := epochs * batches + steps * trainer.accumulate_grad_batches) < last:
            last, limit = end, f"--trainer.max_steps {trainer.max_steps}"
    if first <= last:
        return ""
    by_interval = f"--trainer.val_check_interval {settings.val_check_interval}"
    flag = by_interval if every in (None, 1) else f"--trainer.check_val_every_n_epoch {every}"
    return f"the first would come after {first} batches ({flag}), the run ends after {last} ({limit})"
