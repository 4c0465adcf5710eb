"""Parameter groups and learning-rate schedules.

A schedule is a torch scheduler made with (optimizer, total_steps, *, options); the model counts total_steps, the
optimizer steps of the whole run, over devices, accumulation and epochs. It steps after each optimizer step. To add
one, write the class here; ``--model.schedule NAME`` then knows it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from .mistakes import require
from .networks import stages

ScheduleFactory = Callable[[Optimizer, int], LRScheduler]


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

    Args:
        optimizer: Holds the starting rate.
        total_steps: Not used: this schedule has no end.
        factor: What the rate is multiplied with.
        patience: Validations without improvement before that.
        min_lr: The lowest rate.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, factor: float = 0.1, patience: int = 5, min_lr: float = 0.0
    ) -> None:
        super().__init__(optimizer, factor=factor, patience=patience, min_lr=min_lr)

    def watch(self, mode: Literal["min", "max"]) -> None:
        """Say whether the metric should fall or rise, before the first step."""
        self._init_is_better(mode, self.threshold, self.threshold_mode)
        self._reset()


class StepPlateau(Callback):
    """Steps Plateau after each validation, before a checkpoint is saved.

    (Lightning would step it after an epoch's last checkpoint, which a resumed run would then miss.)
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and not trainer.sanity_checking:
                config.scheduler.step(trainer.callback_metrics[config.monitor])  # pyright: ignore


def with_warmup(
    optimizer: Optimizer, make: ScheduleFactory | None, total_steps: int, warmup_steps: int
) -> list[LRScheduler]:
    """Make a schedule with a linear warm-up in front; it then has the remaining steps.

    Step s of the warm-up has (s + 1) / (warmup_steps + 1) of the rate that the schedule starts with.

    Returns:
        The schedulers of the run: at most one, but for Plateau with a warm-up two, which do not disturb each other.
    """
    require(make is None or warmup_steps < total_steps, "model.warmup_steps", warmup_steps, f"x < {total_steps} steps")
    # The schedule comes first: OneCycle and Cyclic set the rate to start from.
    after = [make(optimizer, total_steps - warmup_steps)] if make else []
    if warmup_steps == 0:
        return after
    rise = lr_scheduler.LinearLR(optimizer, 1 / (warmup_steps + 1), total_iters=warmup_steps)
    if not after or isinstance(after[0], lr_scheduler.ReduceLROnPlateau):
        return [rise, *after]
    return [lr_scheduler.SequentialLR(optimizer, [rise, *after], [warmup_steps])]


def parameter_groups(
    network: nn.Module, layer_decay: float = 1.0, backbone_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Part the trainable parameters by what weight decay and which rate act on them.

    Norms, biases and other vectors are not decayed: decay would shrink a scale, not a function's complexity.

    Args:
        network: Whose parameters.
        layer_decay: The rate of each stage over that of the next one towards the head (Clark et al. 2020).
        backbone_lr_factor: The rate of everything but the head over that of the head.

    Returns:
        Groups with ``lr_factor``, which multiplies the optimizer's rate.
    """
    parts = stages(network)
    depth_of = {parameter: depth for depth, part in enumerate(parts) for parameter in part.parameters()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        from_head = len(parts) - 1 - depth_of.get(parameter, 0)
        factor = layer_decay**from_head * (backbone_lr_factor if from_head else 1.0)
        decayed = parameter.ndim > 1
        name = f"{'weights' if decayed else 'norms_and_biases'}{'' if factor == 1 else f'_x{factor:.3g}'}"
        group = groups.setdefault((factor, decayed), {"name": name, "params": [], "lr_factor": factor})
        group["params"].append(parameter)
        if not decayed:
            group["weight_decay"] = 0.0
    return list(groups.values())
