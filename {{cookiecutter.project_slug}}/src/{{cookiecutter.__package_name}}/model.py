"""The LightningModule: a step, its metrics, the optimizer and its schedule.

Shapes: N samples, C channels, H × W pixels, K classes. Images stay uint8 until they are on the device.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW, Optimizer
from torchmetrics import ConfusionMatrix, MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchvision.transforms.v2 import CutMix, MixUp, RandomApply, RandomChoice

from . import checkpoints
from .combinations import check
from .faults import NumericalFaults, is_log_point
from .images import Batch
from .losses import CrossEntropy, LossFactory
from .mistakes import require
from .networks import NetworkFactory, SmallCNN, initialise, load_weights, stages
from .optim import Cosine, Plateau, ScheduleFactory, StepPlateau, parameter_groups, with_warmup
from .sampling import derived_seed, run_seed

# ImageNet's statistics per channel: what torchvision's weights expect; grey takes their mean.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def metrics(num_classes: int) -> MetricCollection:
    """The metrics of a validation or test: add yours here, from (probabilities_NK, target_N)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            "auroc": MulticlassAUROC(num_classes),
        }
    )


class Classifier(LightningModule):
    """Trains a network to tell classes apart.

    The classes and channels come from the data module when a run starts, and travel in the checkpoint.

    Args:
        network: Makes the network from (in_channels, num_classes).
        loss: Makes the loss from the class weights and the class shares.
        optimizer: Makes the optimizer from the parameters.
        schedule: Makes the learning-rate schedule from (optimizer, total_steps); null keeps the rate constant.
        warmup_steps: Optimizer steps in which the rate rises to the schedule's first one; below 1 a share of the run.
        layer_decay: The rate of each stage of the network over that of the next one towards the head.
        backbone_lr_factor: The rate of everything but the head over that of the head.
        l1: Adds l1 × Σ|w| over weights (not norms and biases) to the loss.
        init: Draws the first weights: he, xavier or orthogonal; null leaves the network's own.
        weights: Where a fresh run starts from: a file, an earlier run's checkpoint, or a name of torchvision's weights.
        freeze: Train the head alone; everything else gets no gradient and keeps its BatchNorm statistics.
        unfreeze_every: With freeze, epochs after which the next stage before the head is trained too; null never.
        mixup: α of MixUp's Beta distribution (Zhang et al. 2018); 0 is off.
        cutmix: α of CutMix's Beta distribution (Yun et al. 2019); 0 is off. With both, each batch takes one of them.
        mix_probability: The share of batches that are mixed.
        unmixed_epochs: Epochs at the end without mixing.
        channels_last: Keep images and weights in the memory layout that convolutions on tensor cores prefer.
        compile: Compile the network with torch.compile; checkpoints stay the same.
        monitor: The metric that Plateau watches; follows --monitor.
        mode: Whether it should fall or rise; follows --mode.
        class_names: Filled in from the data.
        in_channels: Filled in from the data.
    """

    network: Any  # an nn.Module, None until the classes are known
    hparams: Any  # pyright: ignore[reportIncompatibleMethodOverride]  (a property: the arguments above, by name)
    mean_1C11: Tensor
    std_1C11: Tensor
    sums: Tensor
    grad_norm: Tensor
    losses: Any
    scores: Any

    def __init__(
        self,
        network: NetworkFactory = SmallCNN,
        loss: LossFactory = CrossEntropy,
        optimizer: OptimizerCallable = AdamW,
        schedule: ScheduleFactory | None = Cosine,
        warmup_steps: float = 0,
        layer_decay: float = 1.0,
        backbone_lr_factor: float = 1.0,
        l1: float = 0.0,
        init: Literal["he", "xavier", "orthogonal"] | None = None,
        weights: str | None = None,
        freeze: bool = False,
        unfreeze_every: int | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        unmixed_epochs: int = 0,
        channels_last: bool = False,
        compile: bool = False,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        class_names: list[str] | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        # A checkpoint holds plain values alone; a factory given in a script is written as the command line would.
        factories = {"network": network, "loss": loss, "optimizer": optimizer, "schedule": schedule}
        for name, factory in factories.items():
            if not isinstance(self.hparams[name], dict | None):
                self.hparams[name] = class_path(name, factory)
        self.hparams.setdefault("_instantiator", "lightning.pytorch.cli.instantiate_module")
        require(warmup_steps >= 0, "model.warmup_steps", warmup_steps, "x ≥ 0")
        require(0 < layer_decay <= 1, "model.layer_decay", layer_decay, "0 < x ≤ 1")
        require(0 <= backbone_lr_factor <= 1, "model.backbone_lr_factor", backbone_lr_factor, "0 ≤ x ≤ 1")
        require(l1 >= 0, "model.l1", l1, "x ≥ 0")
        require(mixup >= 0, "model.mixup", mixup, "x ≥ 0")
        require(cutmix >= 0, "model.cutmix", cutmix, "x ≥ 0")
        require(0 <= mix_probability <= 1, "model.mix_probability", mix_probability, "0 ≤ x ≤ 1")
        self.make_network, self.make_loss = network, loss
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.class_names, self.in_channels = class_names, in_channels
        self.network = None
        self.resumed: dict[str, Any] = {}  # what a checkpoint says of the run that goes on

    def configure_model(self) -> None:
        """Build the network once the classes are known: from the data at a run's start, from a checkpoint otherwise."""
        if self.network is not None:
            return
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            self.class_names, self.in_channels = data.class_names, data.channels
            self.hparams.update(class_names=self.class_names, in_channels=self.in_channels)
        assert self.class_names, "build the model from data or a checkpoint"
        assert self.in_channels
        count, hparams = len(self.class_names), self.hparams
        with torch.random.fork_rng(devices=[]):  # the first weights depend on the seed, not on what was drawn before
            torch.manual_seed(derived_seed(run_seed(), 1))
            self.network = self.make_network(self.in_channels, count)
            if hparams.init:
                initialise(self.network, hparams.init, getattr(self.network, "activation", "relu"))
        none = torch.ones(count)
        self.loss = self.make_loss(*((none, none / count) if data is None else (data.class_weights, data.class_prior)))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        if self.in_channels == 1:
            mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)
        self.register_buffer("mean_1C11", mean * 255, persistent=False)
        self.register_buffer("std_1C11", std * 255, persistent=False)
        scores = metrics(count)
        self.scores = nn.ModuleDict({s: scores.clone(prefix=f"{s}/") for s in ("val", "test")})
        self.losses = nn.ModuleDict({s: MeanMetric() for s in ("val", "test")})
        self.confusion = ConfusionMatrix("multiclass", num_classes=count)
        kinds = ((MixUp, hparams.mixup), (CutMix, hparams.cutmix))
        mixers = [kind(alpha=alpha, num_classes=count) for kind, alpha in kinds if alpha]
        self.mix = RandomApply([RandomChoice(mixers)], hparams.mix_probability) if mixers else None
        if self._trainer is not None and self.trainer.state.fn == "fit":
            check(self, data, self.trainer)
            if hparams.weights and not self.resumed:
                load_weights(self.network, hparams.weights)
        if hparams.freeze and not hparams.unfreeze_every:
            self._freeze()  # before DDP looks which parameters need a gradient
        if hparams.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if hparams.compile:
            self.network.compile()  # in place: a wrapper would change the names in checkpoints

    def normalised(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into what the network takes."""
        x_NCHW = (x_NCHW - self.mean_1C11) / self.std_1C11
        return x_NCHW.contiguous(memory_format=torch.channels_last) if self.hparams.channels_last else x_NCHW

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into logits_NK."""
        return self.network(self.normalised(x_NCHW))

    def trained_stages(self) -> list[nn.Module]:
        """The stages of a frozen network that the current epoch trains: a function of the epoch alone."""
        every = self.hparams.unfreeze_every
        thawed = 1 + (self.current_epoch // every if every else 0)
        parts = stages(self.network)
        return [self.network] if thawed >= len(parts) else parts[-thawed:]

    def on_train_start(self) -> None:
        # No buffer: DDP would overwrite those of every rank by rank zero's.
        self.sums = torch.zeros(4, device=self.device)
        if "sums" in self.resumed:
            sums = self.resumed["sums"].to(self.device)
            of_rank_zero = sums.sum(0) if self.global_rank == 0 else self.sums
            self.sums += sums[self.global_rank] if len(sums) == self.trainer.world_size else of_rank_zero
        self.resumed = {}

    def on_train_epoch_start(self) -> None:
        if self.hparams.freeze:
            self._freeze()

    def _freeze(self) -> None:
        """Let the current epoch train its stages alone; a frozen BatchNorm keeps its statistics."""
        self.network.requires_grad_(False).eval()
        for part in self.trained_stages():
            part.requires_grad_(True).train()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends on where the run is, not on how it came there: a resumed run draws what an unbroken one draws.
        seed = derived_seed(run_seed(), 2, self.current_epoch, self.global_rank) + batch_idx
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":  # torch.manual_seed would note a stack trace for every kind of device not in use
            torch.get_device_module(self.device).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_NCHW, target = self.normalised(batch.x_NCHW), batch.y_N
        last_mixed = (self.trainer.max_epochs or 0) - self.hparams.unmixed_epochs
        if self.mix is not None and not (self.hparams.unmixed_epochs and self.current_epoch >= last_mixed):
            x_NCHW, target = self.mix(x_NCHW, target)
        logits_NK = self.network(x_NCHW)
        total = self.loss(logits_NK, target).sum()
        weight = self.loss.normaliser(target)
        with torch.no_grad():
            hits = (logits_NK.argmax(1) == batch.y_N).float().sum()  # hard labels, also where training mixes them
            self.sums += torch.stack((total.detach(), weight, hits, torch.full_like(hits, len(logits_NK))))
        if self.trainer.world_size > 1 and self.loss.weighted:
            # DDP averages gradients over ranks: scale so that the result is the mean over all ranks' samples.
            weight = self.trainer.strategy.reduce(weight.clone(), reduce_op="sum") / self.trainer.world_size
        loss = total / weight
        if self.hparams.l1:
            loss = loss + self.hparams.l1 * sum(p.abs().sum() for p in self.network.parameters() if p.ndim > 1)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        if every and (self.trainer.global_step + 1) % every == 0:  # before clipping
            self.grad_norm = get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])

    def log_means(self) -> None:
        """Read the means since the last log point and the step's gradient norm from the device, and log them."""
        sums = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        loss, weight, hits, count, grad_norm = torch.cat((sums, self.grad_norm.reshape(1))).tolist()
        self.sums.zero_()
        means = {"train/loss": loss / weight, "train/accuracy": hits / count, "train/grad_norm": grad_norm}
        self.log("train/loss", means["train/loss"], prog_bar=True, logger=False)
        step = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in self.trainer.loggers:
            logger.log_metrics({**means, "epoch": self.current_epoch}, step)

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        logits_NK = self(batch.x_NCHW)
        probabilities_NK = logits_NK.float().softmax(1)
        weight = self.loss.normaliser(batch.y_N)
        self.losses[split].update(self.loss(logits_NK, batch.y_N).sum() / weight, weight)
        self.scores[split].update(probabilities_NK, batch.y_N)
        return {"index_N": batch.index_N, "y_N": batch.y_N, "probabilities_NK": probabilities_NK}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        output = self._evaluate(batch, "test")
        self.confusion.update(output["probabilities_NK"], batch.y_N)
        return output

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"index_N": batch.index_N, "probabilities_NK": self(batch.x_NCHW).float().softmax(1)}

    def _log_scores(self, split: str) -> None:
        self.log(f"{split}/loss", self.losses[split], prog_bar=True)
        self.log_dict(self.scores[split])

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        hparams = self.hparams
        groups = parameter_groups(self.network, hparams.layer_decay, hparams.backbone_lr_factor)
        # One kernel for all parameters. fused is None unless it was asked for or ruled out.
        kind, given = made_by(self.make_optimizer)
        can_fuse = "fused" in inspect.signature(kind).parameters and self.device.type in ("cpu", "cuda", "mps")
        options = {"fused": True} if can_fuse and given.get("fused") is given.get("foreach") is None else {}
        try:
            optimizer = self.make_optimizer(groups, **options)
        except ValueError as error:
            raise ValueError(f"model.optimizer cannot be made ({error}); give values in its range.") from error
        optimizer._step_supports_amp_scaling = False  # pyright: ignore  (it would forbid clipping in mixed precision)
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_factor"]
        steps = self.trainer.estimated_stepping_batches if self.make_schedule or hparams.warmup_steps else 0
        if steps == float("inf"):
            raise ValueError(
                "trainer.max_epochs=-1 gives the run no end, so the schedule has no length; "
                "give --trainer.max_epochs or --trainer.max_steps, or --model.schedule null --model.warmup_steps 0."
            )
        warmup = int(hparams.warmup_steps * steps if hparams.warmup_steps < 1 else hparams.warmup_steps)
        schedulers = with_warmup(optimizer, self.make_schedule, int(steps), warmup)
        configs: list[Any] = []
        for scheduler in schedulers:
            plateau = isinstance(scheduler, Plateau)
            if plateau:
                scheduler.watch(hparams.mode)
            configs.append({"scheduler": scheduler, "interval": "step", "monitor": hparams.monitor})
            if plateau:
                configs[-1]["frequency"] = sys.maxsize  # StepPlateau steps it
        has_horizon = self.make_schedule is not None and not any(isinstance(s, Plateau) for s in schedulers)
        self.horizon = [int(steps) if has_horizon else 0, warmup]
        if self.resumed.get("horizon", self.horizon) != self.horizon:
            raise ValueError(
                f"the run has another length: its schedule of (steps, warm-up) {self.resumed['horizon']} would be bent "
                f"to {self.horizon} in the middle; keep the length, or start a new run from these weights: "
                "--model.weights CHECKPOINT."
            )
        return [optimizer], configs

    def configure_callbacks(self) -> list[Callback]:
        return [NumericalFaults(), StepPlateau(), LogMeans()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if hasattr(self, "sums"):  # a run is being trained
            checkpoint["resume"] = {
                "horizon": self.horizon,
                "sums": self.all_gather(self.sums).reshape(-1, len(self.sums)),  # pyright: ignore  (a row each rank)
                "between_steps": not self.trainer.fit_loop.epoch_loop._should_accumulate(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        theirs = checkpoint["hyper_parameters"].get("class_names")
        if theirs != self.class_names:
            raise ValueError(
                f"the checkpoint knows the classes {_some(theirs)}, the data has {_some(self.class_names)}, "
                "so its scores would be wrong; give the data it was trained on, "
                "or start a new run from its weights with --model.weights CHECKPOINT."
            )
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.resumed = checkpoint.get("resume", {})
            checkpoint["callbacks"].pop("Timer", None)  # max_time is that of one launch

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "Classifier":
        """Load a model as Lightning does, of a checkpoint that ``checkpoints.read`` finds harmless."""
        checkpoints.read(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **kwargs})


class LogMeans(Callback):
    """Logs the training means at log points; a callback, so that it comes before the checkpoint of the same step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if is_log_point(trainer):
            pl_module.log_means()


def class_path(name: str, factory: Callable[..., Any]) -> dict[str, Any]:
    """Write a factory as the plain class path and arguments that the command line would have made it from.

    Raises:
        ValueError: The factory is neither a class nor a functools.partial of one.
    """
    kind, arguments = made_by(factory)
    if not isinstance(kind, type):
        raise ValueError(
            f"{name}={factory!r} cannot be written into a checkpoint, so it could not be loaded again; "
            "give a class, or functools.partial of a class with plain arguments."
        )
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def made_by(factory: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class that a factory makes objects of, and the arguments that it gives them."""
    if not isinstance(factory, functools.partial):
        return factory, {}
    # jsonargparse hands over partial(instantiator, class, **arguments)
    return factory.func if isinstance(factory.func, type) else factory.args[-1], dict(factory.keywords)


def _some(names: list[str] | None) -> str:
    names = names or []
    return ", ".join(names[:4]) + (f" … ({len(names)})" if len(names) > 4 else "")
