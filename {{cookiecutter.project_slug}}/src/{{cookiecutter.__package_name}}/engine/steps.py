"""Where a run is: whether a step was made, whether it is one after which the run logs, whether its time is up."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


def step_is_made(trainer: Trainer) -> bool:
    """Tell whether the batch that was just trained on ended an optimizer step, or accumulation goes on."""
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return ready % trainer.accumulate_grad_batches == 0 or ready == trainer.num_training_batches


def is_log_point(trainer: Trainer) -> bool:
    """Tell whether the optimizer step that was just made is one after which the run logs."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
    return bool(every) and trainer.global_step % every == 0 and step_is_made(trainer)


def is_out_of_time(trainer: Trainer) -> bool:
    """Tell whether --trainer.max_time has stopped the run, which then has not ended."""
    timers = [timer for timer in trainer.callbacks if isinstance(timer, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
    remaining = [timer.time_remaining() for timer in timers]
    return any(seconds is not None and seconds <= 0 for seconds in remaining)
