"""Parameter groups and learning-rate schedules.

A schedule is a torch scheduler made with (optimizer, total_steps, *, options); the model counts total_steps, the
optimizer steps of the whole run, over devices, accumulation and epochs. To add one, write the class here;
``--model.schedule NAME`` then knows it.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

ScheduleFactory = Callable[[Optimizer, int], LRScheduler]


class Cosine(CosineAnnealingLR):
    """From the optimizer's rate to ``min_lr`` along half a cosine, step by step.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Optimizer steps of the run.
        min_lr: The last rate.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, min_lr: float = 0.0) -> None:
        super().__init__(optimizer, total_steps, min_lr)


class OneCycle(OneCycleLR):
    """Up to the optimizer's rate, then down to nearly nothing, step by step (Smith and Topin 2018).

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
        rates = [group["lr"] for group in optimizer.param_groups]
        super().__init__(
            optimizer,
            rates,
            total_steps=total_steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            cycle_momentum=False,
        )


class Plateau(ReduceLROnPlateau):
    """Lowers the rate when the monitored metric stops improving, after each validation.

    Args:
        optimizer: Holds the starting rate.
        total_steps: Not used: this schedule has no end.
        mode: Whether the metric should fall or rise; follows ``--monitor``.
        factor: What the rate is multiplied with.
        patience: Validations without improvement before that.
        min_lr: The lowest rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 5,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(optimizer, mode=mode, factor=factor, patience=patience, min_lr=min_lr)  # pyright: ignore


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Part the trainable parameters into those that weight decay acts on and those it must leave alone.

    Norms, biases and other vectors are not decayed: decay would shrink a scale, not a function's complexity.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"name": "weights", "params": [p for p in trainable if p.ndim > 1]},
        {"name": "norms_and_biases", "params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
