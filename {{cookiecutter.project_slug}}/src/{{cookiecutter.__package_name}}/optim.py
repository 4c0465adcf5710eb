"""Learning-rate schedules.

A schedule is a torch scheduler made with (optimizer, total_steps, *, options); total_steps are the optimizer steps of
the run, over devices, accumulation and epochs, without those of the warm-up in front (``--model.warmup_steps``). It
steps after each optimizer step. To add one, write the class here; ``--model.schedule NAME`` then knows it.
"""

import math
from typing import Literal

from torch.optim import Optimizer, lr_scheduler


class Step(lr_scheduler.StepLR):
    """Multiplies the rate by ``gamma`` at equal distances.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        drops: How often, at equal distances: three drops part the run into four.
        gamma: The factor of one drop.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, drops: int = 2, gamma: float = 0.1) -> None:
        super().__init__(optimizer, step_size=math.ceil(total_steps / (drops + 1)), gamma=gamma)


class Exponential(lr_scheduler.ExponentialLR):
    """Multiplies the rate by the same factor at every step, down to ``final_factor``.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        final_factor: The last rate over the first.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, final_factor: float = 0.01) -> None:
        super().__init__(optimizer, gamma=final_factor ** (1 / total_steps))


class Linear(lr_scheduler.LinearLR):
    """From the optimizer's rate to ``final_factor`` of it along a line.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        final_factor: The last rate over the first.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, final_factor: float = 0.01) -> None:
        super().__init__(optimizer, start_factor=1.0, end_factor=final_factor, total_iters=total_steps)


class Cosine(lr_scheduler.CosineAnnealingLR):
    """From the optimizer's rate to ``min_lr`` along half a cosine.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        min_lr: The last rate.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, min_lr: float = 0.0) -> None:
        super().__init__(optimizer, total_steps, min_lr)


class CosineRestarts(lr_scheduler.CosineAnnealingWarmRestarts):
    """Half cosines one after the other, each starting anew at the optimizer's rate (Loshchilov and Hutter 2017).

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        cycles: How many half cosines of equal length.
        min_lr: The last rate of each.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, cycles: int = 3, min_lr: float = 0.0) -> None:
        super().__init__(optimizer, T_0=math.ceil(total_steps / cycles), eta_min=min_lr)


class Cyclic(lr_scheduler.CyclicLR):
    """Up and down along a triangle (Smith 2017); the momentum stays.

    Args:
        optimizer: Holds the highest rate.
        total_steps: Optimizer steps of the run.
        cycles: How many triangles.
        lowest_factor: The lowest rate over the highest.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, cycles: int = 4, lowest_factor: float = 0.1) -> None:
        highest = [group["lr"] for group in optimizer.param_groups]
        half = max(1, math.ceil(total_steps / (2 * cycles)))
        lowest = [rate * lowest_factor for rate in highest]
        super().__init__(optimizer, lowest, highest, step_size_up=half, cycle_momentum=False)  # pyright: ignore


class OneCycle(lr_scheduler.OneCycleLR):
    """Up to the optimizer's rate, then down to nearly nothing (Smith and Topin 2018); the momentum stays.

    Args:
        optimizer: Holds the highest rate.
        total_steps: Optimizer steps of the run.
        pct_start: The share of the run that rises.
        div_factor: The highest rate over the first.
        final_div_factor: The first rate over the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        super().__init__(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            cycle_momentum=False,
        )


class Plateau(lr_scheduler.ReduceLROnPlateau):
    """Lowers the rate when the monitored metric stops improving, after each validation.

    (A schedule of yours that subclasses ReduceLROnPlateau is made with ``mode``, too.)

    Args:
        optimizer: Holds the starting rate.
        total_steps: Not used: this schedule has no end.
        factor: What the rate is multiplied with.
        patience: Validations without improvement before that.
        min_lr: The lowest rate.
        mode: Whether the metric should fall or rise; null follows --mode.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        factor: float = 0.1,
        patience: int = 5,
        min_lr: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        super().__init__(optimizer, mode or "min", factor, patience, min_lr=min_lr)
