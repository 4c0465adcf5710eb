"""Settings that contradict each other: refused or warned of before training."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from .losses import Focal, LogitAdjusted
from .networks import stages


class Rule(NamedTuple):
    """One contradiction.

    Args:
        name: What meets what.
        refused: Whether the run is refused; else it is warned of.
        reason: Why, and what to do.
        holds: Tells whether a run has it, from its model, data and trainer.
    """

    name: str
    refused: bool
    reason: str
    holds: Callable[[Any, Any, Any], bool]


def _is(factory: Any, kind: type) -> bool:
    """Tell whether a factory makes a kind of object: a class, a partial of one, or what jsonargparse wraps one in."""
    candidates = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    return any(isinstance(candidate, type) and issubclass(candidate, kind) for candidate in candidates)


def _single_batch_norm(model: Any, data: Any, trainer: Any) -> bool:
    per_device = data.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.network.modules())
    return per_device == 1 and norms and getattr(trainer.strategy, "_layer_sync", None) is None


RULES = [
    Rule(
        "weighted sampler or class weights + logit adjustment",
        True,
        "both correct the class shares, so rare classes would count twice; drop one",
        lambda model, data, trainer: data.balance != "none" and _is(model.make_loss, LogitAdjusted),
    ),
    Rule(
        "weighted sampler + focal loss",
        False,
        "both favour rare classes; measure against one of them alone",
        lambda model, data, trainer: data.balance == "sampler" and _is(model.make_loss, Focal),
    ),
    Rule(
        "MixUp or CutMix + a loss for hard labels",
        True,
        "mixed labels are soft, so the loss would fail or be wrong; use one of losses.py or turn mixing off",
        lambda model, data, trainer: model.mix is not None and getattr(model.loss, "hard_labels_only", False),
    ),
    Rule(
        "MixUp or CutMix + label smoothing",
        False,
        "both soften the labels; the network may end up unsure of everything",
        lambda model, data, trainer: model.mix is not None and getattr(model.loss, "label_smoothing", 0) > 0,
    ),
    Rule(
        "early stopping + one-cycle",
        False,
        "a run that stops early never sees the low rates that one-cycle ends with; --callbacks.early_stopping null",
        lambda model, data, trainer: bool(trainer.early_stopping_callbacks) and _is(model.make_schedule, OneCycleLR),
    ),
    Rule(
        "plateau + no validation",
        True,
        "the schedule would never see the metric that it waits for; validate, or choose another schedule",
        lambda model, data, trainer: _is(model.make_schedule, ReduceLROnPlateau) and trainer.limit_val_batches == 0,
    ),
    Rule(
        "BatchNorm + one sample per device",
        True,
        "a batch of one has no variance; raise data.batch_size, use --trainer.sync_batchnorm true or another norm",
        _single_batch_norm,
    ),
    Rule(
        "unfreezing + nothing frozen",
        True,
        "unfreeze_every has nothing to unfreeze; add --model.freeze true",
        lambda model, data, trainer: model.hparams.unfreeze_every is not None and not model.hparams.freeze,
    ),
    Rule(
        "freezing + random weights",
        True,
        "the frozen part would stay random; give --model.weights",
        lambda model, data, trainer: model.hparams.freeze and not model.hparams.weights,
    ),
    Rule(
        "freezing everything",
        True,
        "no parameter would be trained; use a network with a head of its own behind the frozen part",
        lambda model, data, trainer: model.hparams.freeze and len(stages(model.network)) < 2,
    ),
    Rule(
        "weights + another initialisation",
        True,
        "the loaded weights would replace the drawn ones; drop one",
        lambda model, data, trainer: bool(model.hparams.weights and model.hparams.init),
    ),
    Rule(
        "gradual unfreezing + plain DDP",
        True,
        "DDP expects a gradient of every parameter; use --trainer.strategy ddp_find_unused_parameters_true",
        lambda model, data, trainer: (
            model.hparams.unfreeze_every is not None
            and trainer.world_size > 1
            and not getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters")
        ),
    ),
]


def check(model: Any, data: Any, trainer: Any) -> None:
    """Refuse or warn of what contradicts itself.

    Raises:
        ValueError: A refused combination.
    """
    for rule in RULES:
        if rule.holds(model, data, trainer):
            if rule.refused:
                raise ValueError(f"{rule.name}: {rule.reason}.")
            warnings.warn(f"{rule.name}: {rule.reason}.", stacklevel=2)
