"""The rate at every step of a run equals a closed form, whatever makes up its steps."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from project_package import optim
from project_package.callbacks import LastCheckpoint
from project_package.data import ImageData
from project_package.model import Classifier
from project_package.networks import SmallMLP

LR = 0.5
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def cosine(s, total, low=0.0):
    return low + (LR - low) * (1 + math.cos(math.pi * s / total)) / 2


def one_cycle(s, total):
    peak = 0.3 * total - 1
    low, last = LR / 25, LR / 25 / 1e4
    if s <= peak:
        return LR + (low - LR) * (1 + math.cos(math.pi * s / peak)) / 2
    return last + (LR - last) * (1 + math.cos(math.pi * (s - peak) / (total - 1 - peak))) / 2


def cyclic(s, total):
    half = max(1, math.ceil(total / 8))
    share = abs(((s / half) % 2) - 1)
    return LR * (1 - 0.9 * share)


CLOSED = {
    "Step": lambda s, total: LR * 0.1 ** (s // math.ceil(total / 3)),
    "Exponential": lambda s, total: LR * 0.01 ** (s / total),
    "Linear": lambda s, total: LR * (1 - 0.99 * s / total),
    "Cosine": cosine,
    "CosineRestarts": lambda s, total: cosine(s % math.ceil(total / 3), math.ceil(total / 3)),
    "Cyclic": cyclic,
    "OneCycle": one_cycle,
}


class Rates(Callback):
    """Writes down the rate of each optimizer step; fails at the start of an epoch if told so."""

    def __init__(self, fail_at: int | None = None):
        self.rates = []
        self.fail_at = fail_at

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.fail_at:
            raise RuntimeError("as planned")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates(shapes, schedule, warmup_steps=0, ckpt_path=None, fail_at=None, **flags):
    data = ImageData(str(shapes), num_workers=0, batch_size=8)
    network, optimizer = partial(SmallMLP, width=4), partial(SGD, lr=LR)
    make = getattr(optim, schedule) if schedule else None
    model = Classifier(network, optimizer=optimizer, schedule=make, warmup_steps=warmup_steps)
    seen = Rates(fail_at)
    callbacks = [seen, LastCheckpoint(dirpath="checkpoints")]
    trainer = Trainer(callbacks=callbacks, **QUIET, **{"max_epochs": 4, **flags})
    with pytest.raises(RuntimeError, match="as planned") if fail_at else nullcontext():
        trainer.fit(model, data, ckpt_path=ckpt_path)
    return seen.rates


@pytest.mark.parametrize("schedule", CLOSED)
@pytest.mark.parametrize("warmup", [0, 5])
def test_it_equals_its_closed_form(schedule, warmup, shapes):
    seen = rates(shapes, schedule, warmup)
    assert len(seen) == 4 * 6
    first = CLOSED[schedule](0, 24 - warmup)
    rise = [first * (s + 1) / (warmup + 1) for s in range(warmup)]
    assert seen == pytest.approx(
        rise + [CLOSED[schedule](s, 24 - warmup) for s in range(24 - warmup)], rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ({"max_steps": 10, "max_epochs": -1}, 10),
        ({"accumulate_grad_batches": 2, "max_epochs": 3}, 18),
        ({"limit_train_batches": 3}, 12),
    ],
)
def test_its_length_follows_the_run(flags, steps, shapes):
    assert rates(shapes, "OneCycle", **flags) == pytest.approx([one_cycle(s, steps) for s in range(steps)], rel=1e-6)


@pytest.mark.parametrize("schedule", CLOSED)
def test_it_goes_on_after_a_resume(schedule, shapes):
    whole = rates(shapes, schedule, 5)
    begun = rates(shapes, schedule, 5, fail_at=2)
    rest = rates(shapes, schedule, 5, ckpt_path="checkpoints/last.ckpt")
    assert begun + rest == whole


def test_without_a_schedule_the_rate_is_constant(shapes):
    assert rates(shapes, None) == [LR] * 24
    for warmup in (3, 0.125):
        assert rates(shapes, None, warmup)[:5] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR])


def test_plateau_watches_the_monitored_metric(shapes):
    data = ImageData(str(shapes), num_workers=0, batch_size=8)
    network, optimizer = partial(SmallMLP, width=4), partial(SGD, lr=1e-6)
    plateau = partial(optim.Plateau, patience=0, factor=0.5)
    model = Classifier(network, optimizer=optimizer, schedule=plateau, monitor="val/accuracy", mode="max")
    trainer = Trainer(max_epochs=4, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.best == trainer.callback_metrics["val/accuracy"]
    assert (scheduler.mode, scheduler.mode_worse) == ("max", -math.inf)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-6 / 8)  # lowered after epochs 1, 2 and 3
