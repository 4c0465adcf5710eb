"""Optimizers and schedules as a run uses them: parameter groups, fused kernels, a warm-up in front."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from .factories import recipe
from .internals import allow_clipping
from .mistakes import Mistake, require, said_by
from .stages import stages

ScheduleFactory = Callable[[Optimizer, int], LRScheduler]


@contextmanager
def _in_range(flag: str) -> Iterator[None]:
    """Word what torch says of values; a fault in a class of the user's own passes."""
    try:
        yield
    except ValueError as error:
        if not said_by(error, "torch.optim"):
            raise
        raise Mistake(f"{flag} cannot be made ({error}); give values in its range.") from error


def make_optimizer(factory: Callable[..., Optimizer], groups: list[dict[str, Any]], device: torch.device) -> Optimizer:
    """Make an optimizer of parameter groups, with one kernel for all parameters where torch has one.

    Raises:
        Mistake: A value is out of the optimizer's range.
    """
    kind, given = recipe(factory)
    # fused is None unless it was asked for or ruled out.
    open_choice = "fused" in inspect.signature(kind).parameters and given.get("fused") is given.get("foreach") is None
    with _in_range("--model.optimizer"):
        options = {"fused": True} if open_choice and _has_fused_kernel(factory, device) else {}
        optimizer = factory(groups, **options)
    allow_clipping(optimizer)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]
    return optimizer


def _has_fused_kernel(factory: Callable[..., Optimizer], device: torch.device) -> bool:
    """Tell whether torch has one kernel for all parameters, by a step: it differs by optimizer, device and version."""
    parameter = nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        factory([parameter], fused=True).step()
    except RuntimeError:
        return False
    return True


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
    most = f"x < {total_steps}, the steps of the run"
    require(
        make is None or warmup_steps < total_steps,
        "--model.warmup_steps",
        warmup_steps,
        most,
        "the rate would never reach the schedule",
    )
    # The schedule comes first: OneCycle and Cyclic set the rate to start from.
    with _in_range("--model.schedule"):
        after = [make(optimizer, total_steps - warmup_steps)] if make else []
    if warmup_steps == 0:
        return after
    rise = lr_scheduler.LinearLR(optimizer, 1 / (warmup_steps + 1), total_iters=warmup_steps)
    if not after or isinstance(after[0], lr_scheduler.ReduceLROnPlateau):
        return [rise, *after]
    return [lr_scheduler.SequentialLR(optimizer, [rise, *after], [warmup_steps])]


def parameter_groups(
    network: nn.Module,
    layer_decay: float = 1.0,
    backbone_lr_factor: float = 1.0,
    others: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Part the trainable parameters by what weight decay and which rate act on them.

    Norms, biases and other vectors are not decayed: decay would shrink a scale, not a function's complexity. Neither is
    what a network names itself, such as embeddings of positions.

    Args:
        network: Whose parameters.
        layer_decay: The rate of each stage over that of the next one towards the head (Clark et al. 2020).
        backbone_lr_factor: The rate of everything but the head over that of the head.
        others: Parameters outside of the network, such as those of a loss; they have the rate of the head.

    Returns:
        Groups with ``lr_factor``, which multiplies the optimizer's rate.
    """
    parts = stages(network, fine=True)
    said = getattr(network, "no_weight_decay", None)
    kept = {network.get_parameter(name) for name in said()} if said else set()
    depth_of = dict.fromkeys(network.parameters(), 0)
    depth_of |= {parameter: depth for depth, part in enumerate(parts) for parameter in part.parameters()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in dict.fromkeys([*network.parameters(), *others]):
        if not parameter.requires_grad:
            continue
        from_head = len(parts) - 1 - depth_of.get(parameter, len(parts) - 1)
        factor = layer_decay**from_head * (backbone_lr_factor if from_head else 1.0)
        decayed = parameter.ndim > 1 and parameter not in kept
        name = f"{'weights' if decayed else 'norms_and_biases'}{'' if factor == 1 else f'_x{factor:.3g}'}"
        group = groups.setdefault((factor, decayed), {"name": name, "params": [], "lr_factor": factor})
        group["params"].append(parameter)
        if not decayed:
            group["weight_decay"] = 0.0
    return list(groups.values())
