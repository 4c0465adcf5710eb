"""Settings that contradict each other: refused or warned of before training.

Add your own to RULES. A model class has them by ``rules = RULES``; one of your own says so, too.
"""

from typing import Any

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from .engine.factories import recipe
from .engine.internals import finds_unused_parameters, synchronises_batch_norm
from .engine.rules import Rule
from .engine.stages import BATCH_NORMS, stages
from .losses import Focal, LogitAdjusted


def _single_batch_norm(model: Any, data: Any, trainer: Any) -> bool:
    norms = any(isinstance(module, BATCH_NORMS) for module in model.network.modules())
    return data.device_batch == 1 and norms and not synchronises_batch_norm(trainer.strategy)


def _several(loss: Any) -> bool:
    return getattr(loss, "several_labels", False)


def _of_numbers(model: Any) -> bool:
    return model.schema.target.task == "regression"


RULES = [
    Rule(
        "several labels + a loss for one class",
        True,
        "its probabilities add up to 1, so a second label would count against the first; use BinaryCrossEntropy, Focal "
        "or Asymmetric, or --data.task multiclass",
        lambda model, data, trainer: _several(model.loss) and getattr(model.loss, "needs_classes", False),
    ),
    Rule(
        "one class per sample + a loss for several labels",
        True,
        "it decides each class on its own, so the probabilities of a sample would mean nothing; use CrossEntropy or "
        "Focal, or --data.task multilabel",
        lambda model, data, trainer: not _several(model.loss) and getattr(model.loss, "needs_labels", False),
    ),
    Rule(
        "weighted sampler or class weights + logit adjustment",
        True,
        "both correct the class shares, so rare classes would count twice; drop one",
        lambda model, data, trainer: data.correction != "none" and recipe(model.make_loss).makes(LogitAdjusted),
    ),
    Rule(
        "weighted sampler + focal loss",
        False,
        "both favour rare classes; measure against one of them alone",
        lambda model, data, trainer: data.correction == "sampler" and recipe(model.make_loss).makes(Focal),
    ),
    Rule(
        "mixed samples + a loss for hard labels",
        True,
        "mixed labels are soft, so the loss would fail or be wrong; use one of losses.py or turn mixing off",
        lambda model, data, trainer: model.mix is not None and getattr(model.loss, "hard_labels_only", False),
    ),
    Rule(
        "mixed samples + label smoothing",
        False,
        "both soften the labels; the network may end up unsure of everything",
        lambda model, data, trainer: model.mix is not None and getattr(model.loss, "label_smoothing", 0) > 0,
    ),
    Rule(
        "mixed samples + numbers",
        False,
        "numbers are interpolated, also between samples that are far apart (C-Mixup is not built in); compare with a "
        "run without",
        lambda model, data, trainer: model.mix is not None and _of_numbers(model),
    ),
    Rule(
        "mixed samples + sample weights",
        True,
        "a mixed sample has two weights, so neither would count as the table says; turn mixing off or drop the weights",
        lambda model, data, trainer: model.mix is not None and data.is_weighted,
    ),
    Rule(
        "sample weights + accumulated batches",
        False,
        "each batch is divided by its own weights before they are added up, so samples of light batches count more; "
        "use --trainer.accumulate_grad_batches 1",
        lambda model, data, trainer: data.is_weighted and trainer.accumulate_grad_batches > 1,
    ),
    Rule(
        "numbers or sample weights + half precision throughout",
        True,
        "targets and weights would be rounded to three digits; use --trainer.precision bf16-mixed",
        lambda model, data, trainer: (
            trainer.precision in ("bf16-true", "16-true") and (_of_numbers(model) or data.is_weighted)
        ),
    ),
    Rule(
        "early stopping + one-cycle",
        False,
        "a run that stops early never sees the low rates that one-cycle ends with; --callbacks.early_stopping null",
        lambda model, data, trainer: (
            bool(trainer.early_stopping_callbacks) and recipe(model.make_schedule).makes(OneCycleLR)
        ),
    ),
    Rule(
        "plateau + no validation",
        True,
        "the schedule would never see the metric that it waits for; validate, or choose another schedule",
        lambda model, data, trainer: (
            recipe(model.make_schedule).makes(ReduceLROnPlateau) and trainer.limit_val_batches == 0
        ),
    ),
    Rule(
        "BatchNorm + one sample per device",
        True,
        "a batch of one has no variance; raise --data.batch_size, use --trainer.sync_batchnorm true or another norm",
        _single_batch_norm,
    ),
    Rule(
        "unfreezing + nothing frozen",
        True,
        "--model.unfreeze_every has nothing to unfreeze; add --model.freeze true",
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
            and not finds_unused_parameters(trainer.strategy)
        ),
    ),
]
