"""What every LightningModule here shares: built once the data is known, any optimizer, means kept on the device, exact
resume.

A subclass writes ``build``, ``training_step``, ``score`` and ``predict``. Shapes: N samples.
"""

import copy
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection

from . import VERSION, checkpoints, guard
from .factories import recipe, written
from .faults import ChangedData, NumericalFaults
from .internals import INSTANTIATE, INSTANTIATOR, classes_start_afresh, skip_overflow_on_device
from .loading import Batch
from .metrics import MONITOR
from .mistakes import Mistake, not_compiled, require, shown
from .optimizers import ScheduleFactory, StepPlateau, make_optimizer, parameter_groups, with_warmup
from .quantisation import Ranges, read_ranges
from .rules import Rule, check
from .sampling import derived_seed, run_seed
from .schema import Schema
from .scores import decide_at, gathered, weighted
from .stages import names_of, stages
from .steps import is_log_point, step_is_made
from .together import is_rank_zero
from .weights import initialise, load_weights

LEAST = 1e-30  # of a weight to divide by: samples of no weight have no loss, and their mean is 0


class Task(LightningModule):
    """Trains a network; what the data is made of comes from the data module at a run's start, and from the checkpoint
    later.

    Args:
        optimizer: Makes the optimizer from the parameters.
        schedule: Makes the learning-rate schedule from (optimizer, total_steps); null keeps the rate constant.
        warmup_steps: Optimizer steps in which the rate rises to the schedule's first one; below 1 a share of the run.
        layer_decay: The rate of each stage of the network over that of the next one towards the head.
        backbone_lr_factor: The rate of everything but the head over that of the head.
        l1: Adds l1 × Σ|w| over weights (not norms and biases) to the loss.
        init: Draws the first weights: he, xavier or orthogonal; null leaves the network's own.
        weights: Where a fresh run starts from: a file, an earlier run's checkpoint, or a name of published weights.
        freeze: Train the head alone; everything else gets no gradient and keeps its BatchNorm statistics.
        unfreeze_every: With freeze, epochs after which the next stage before the head is trained too; null never.
        compile: Compile the network with torch.compile; checkpoints stay the same.
        monitor: The metric that Plateau watches; follows --monitor.
        mode: Whether it should fall or rise; follows --mode.
        schema: Filled in from the data.
    """

    rules: Sequence[Rule] = ()  # which settings contradict each other
    network: Any  # an nn.Module, None until the schema is known
    loss: Any
    hparams: Any  # pyright: ignore[reportIncompatibleMethodOverride]  (a property: the arguments, by name)
    losses: Any
    scores: Any
    settled: list[float] | None = None  # what validation chose: a threshold for each label
    ranges: Ranges | None = None  # what quantisation-aware training found, see engine/quantisation.py
    is_weighted: bool = False  # whether samples have weights
    training_inputs: Any = None  # what ``build`` may fit a preprocessing on; None where a checkpoint has it
    sums: Tensor | None = None
    grad_norm: Tensor

    def __init__(
        self,
        optimizer: OptimizerCallable = AdamW,
        schedule: ScheduleFactory | None = None,
        warmup_steps: float = 0.0,
        layer_decay: float = 1.0,
        backbone_lr_factor: float = 1.0,
        l1: float = 0.0,
        init: Literal["he", "xavier", "orthogonal"] | None = None,
        weights: str | None = None,
        freeze: bool = False,
        unfreeze_every: int | None = None,
        compile: bool = False,
        monitor: str = MONITOR,
        mode: Literal["min", "max"] = "min",
        schema: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        # A checkpoint holds plain values alone; a factory given in a script is written as the command line would.
        self.hparams.update({n: written(n, value) for n, value in self.hparams.items() if callable(value)})
        self.hparams.setdefault(INSTANTIATOR, INSTANTIATE)
        require(warmup_steps >= 0, "--model.warmup_steps", warmup_steps, "x ≥ 0", "the rate could not rise over them")
        worse = "stages would not train as the flag says"
        require(0 < layer_decay <= 1, "--model.layer_decay", layer_decay, "0 < x ≤ 1", worse)
        require(0 <= backbone_lr_factor <= 1, "--model.backbone_lr_factor", backbone_lr_factor, "0 ≤ x ≤ 1", worse)
        require(l1 >= 0, "--model.l1", l1, "x ≥ 0", "weights would grow without end")
        every = unfreeze_every
        require(every is None or every >= 1, "--model.unfreeze_every", every, "x ≥ 1", "no stage would ever be due")
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.network, self.settles = None, None
        self.schema = None if schema is None else _read_schema(schema)
        self.resumed: dict[str, Any] = {}  # what a checkpoint says of the run that goes on
        self.measured: tuple[str, ...] = ()  # what the sums hold beside the loss

    # What a subclass writes.

    def build(self, schema: Schema, balance: Any) -> None:
        """Make ``network``, ``loss`` and the metrics (``keep_scores``), now that the data is known.

        Args:
            schema: What a sample is and what is predicted of it.
            balance: What the training split tells a loss, see engine/targets.py.
        """
        raise NotImplementedError

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split ("val" or "test"); returns the loss of each sample, the weight of each in it,
        and the predictions.
        """
        raise NotImplementedError

    def prepared(self, x: Any, /) -> Any:
        """Turn inputs of a batch into what the network takes."""
        return x

    def predict(self, x: Tensor, /) -> Tensor:
        """Turn inputs into predictions, a column for each of the target's."""
        raise NotImplementedError

    # What it may use.

    def keep_scores(self, metrics: MetricCollection, settles: Callable[..., Any] | None = None) -> None:
        """Keep metrics for validation and test, and log them at the end of each.

        Args:
            metrics: What is logged.
            settles: Chooses from the predictions, targets and weights of each validation what decisions go by; it is
                kept as ``settled``, in the checkpoint, too.
        """
        if self.is_weighted:
            metrics = weighted(metrics)
        self.scores = nn.ModuleDict({split: metrics.clone(prefix=f"{split}/") for split in ("val", "test")})
        self.losses = nn.ModuleDict({split: MeanMetric() for split in ("val", "test")})
        self.settles = settles

    def training_loss(self, batch: Batch, loss_N: Tensor, weight_N: Tensor, **measures_N: Tensor) -> Tensor:
        """Return the loss of a step: Σ loss / Σ weight over all ranks, and what --model.l1 adds.

        Args:
            batch: The samples, which may have weights of their own.
            loss_N: The loss of each sample, weighted as its class is.
            weight_N: The weight of each sample by its class.
            measures_N: What else to log of training: the mean of each as ``train/NAME``.
        """
        share_N = batch.weight
        total, weight = _totals(batch, loss_N, weight_N)
        if share_N is not None:
            measures_N = {name: value_N.float() * share_N for name, value_N in measures_N.items()}
        with torch.no_grad():
            summed = total.detach().float()  # as half precision counts no further than 256
            measured = [value_N.float().sum() for value_N in measures_N.values()]
            count = torch.full_like(summed, len(loss_N)) if share_N is None else share_N.float().sum()
            sums = torch.stack((summed, weight.float(), *measured, count))
            self.measured = tuple(measures_N)
            if self.sums is None or len(self.sums) != len(sums):
                self.sums = torch.zeros_like(sums)
            self.sums += sums
        if self.trainer.world_size > 1 and (share_N is not None or getattr(self.loss, "weighted", True)):
            # DDP averages gradients over ranks: scale so that the result is the mean over all ranks' samples.
            weight = self.trainer.strategy.reduce(weight.clone(), reduce_op="sum") / self.trainer.world_size
        loss = total / weight
        if self.hparams.l1:
            loss = loss + self.hparams.l1 * sum(p.abs().sum() for p in self.network.parameters() if p.ndim > 1)
        return loss

    # The machinery.

    @property
    def attached(self) -> Trainer | None:
        """The trainer, if there is one."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    @property
    def fitting(self) -> bool:
        """Whether a trainer fits this model."""
        return self.attached is not None and self.trainer.state.fn == "fit"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Task":
        # Averaging copies a model. What makes its parts holds the command line, and with it the trainer.
        memo.update({id(value): value for value in vars(self).values() if isinstance(value, partial)})
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    @property
    def is_built(self) -> bool:
        """Whether the network is there."""
        return self.network is not None

    def configure_model(self) -> None:
        """Build the network once the schema is known: from the data at a run's start, from a checkpoint otherwise."""
        if self.is_built:
            return
        hparams, data = self.hparams, getattr(self.attached, "datamodule", None)
        if data is not None:
            self.schema = data.schema
            hparams.update(schema=data.schema.as_dict())
        assert self.schema, "build the model from data or a checkpoint"
        # The first weights depend on the seed, not on what was drawn before, and not on the device, where Lightning
        # would draw them. MixUp's shares, too, are drawn on the CPU from here on: each draw on a GPU would wait for it.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self.build_for(data)
            if hparams.init:
                initialise(self.network, hparams.init, getattr(self.network, "activation", "relu"))
        if self.fitting:
            check(self.rules, self, data, self.trainer)
            self._name_stages()
            if hparams.weights and not self.resumed:
                load_weights(self.network, hparams.weights)
        if hparams.freeze and not hparams.unfreeze_every:
            self._freeze()  # before DDP looks which parameters need a gradient
        if hparams.get("channels_last"):
            self.network.to(memory_format=torch.channels_last)
        if hparams.compile:
            try:
                self.network.compile()  # in place: a wrapper would change the names in checkpoints
            except RuntimeError as error:  # torch.compile does not know this Python, or this system
                raise not_compiled(error) from error

    def build_for(self, data: Any) -> None:
        """Build the network as the seed has it: for a data module, or None for weights of a checkpoint."""
        assert self.schema
        balance = self.schema.target.balance(None) if data is None else data.loss_balance
        self.is_weighted = data is not None and data.is_weighted
        self.training_inputs = None if data is None else data.training_inputs
        torch.manual_seed(derived_seed(run_seed(), 1))
        self.build(self.schema, balance)
        self.training_inputs = None

    def _name_stages(self) -> None:
        """Say which stages a flag acts on."""
        hparams = self.hparams
        if self.trainer.is_global_zero and (hparams.freeze or hparams.layer_decay * hparams.backbone_lr_factor != 1):
            parts = stages(self.network, fine=not hparams.freeze)
            print(f"stages, the head last: {', '.join(names_of(self.network, parts))}")

    def trained_stages(self) -> list[nn.Module]:
        """The stages of a frozen network that the current epoch trains: a function of the epoch alone."""
        every = self.hparams.unfreeze_every
        thawed = 1 + (self.current_epoch // every if every else 0)
        parts = stages(self.network)
        return [self.network] if thawed >= len(parts) else parts[-thawed:]

    def _freeze(self) -> None:
        """Let the current epoch train its stages alone; a frozen BatchNorm keeps its statistics."""
        self.network.requires_grad_(False).eval()
        for part in self.trained_stages():
            part.requires_grad_(True).train()

    def on_train_start(self) -> None:
        # No buffer: DDP would overwrite those of every rank by rank zero's.
        self.sums, kept = None, self.resumed.get("sums")
        if kept is not None and len(kept) == self.trainer.world_size:
            self.sums = kept[self.global_rank].to(self.device)
        elif kept is not None and self.global_rank == 0:
            self.sums = kept.sum(0).to(self.device)
        self.resumed = {}
        if self.hparams.freeze:  # a run that goes on within an epoch does not start it
            self._freeze()

    def on_train_epoch_start(self) -> None:
        if self.hparams.freeze:
            self._freeze()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends on where the run is, not on how it came there: a resumed run draws what an unbroken one draws.
        seed = derived_seed(run_seed(), 2, self.current_epoch, self.global_rank) + batch_idx
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":  # torch.manual_seed would note a stack trace for every kind of device not in use
            torch.get_device_module(self.device).manual_seed(seed)

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        skip_overflow_on_device(optimizer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        if every and (self.trainer.global_step + 1) % every == 0:  # before clipping
            self.grad_norm = get_total_norm([p.grad for p in self.parameters() if p.grad is not None])

    def log_means(self) -> None:
        """Read the means since the last log point and the step's gradient norm from the device, and log them."""
        if self.sums is None:  # a training_step of the user's own
            return
        sums = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        loss, weight, *measured, count, grad_norm = torch.cat((sums, self.grad_norm.reshape(1))).tolist()
        self.sums.zero_()
        means = {"train/loss": loss / max(weight, LEAST)}
        means |= {
            f"train/{name}": total / max(count, LEAST) for name, total in zip(self.measured, measured, strict=True)
        }
        means["train/grad_norm"] = grad_norm
        self.log("train/loss", means["train/loss"], prog_bar=True, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics({**means, "epoch": self.current_epoch}, self.trainer.global_step - 1)

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Tensor]:
        loss_N, weight_N, predictions = self.score(batch, split)
        total, weight = _totals(batch, loss_N, weight_N)
        self.losses[split].update(total / weight, weight)
        return {"position": batch.position, "y": batch.y, "predictions": predictions}

    def _log_scores(self, split: str) -> None:
        if split == "test":  # of a validation they would flatter: it chose them
            decide_at(self.scores[split], self.settled)
        self.log(f"{split}/loss", self.losses[split], prog_bar=True)
        self.log_dict(self.scores[split])

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        predictions = self.predict(batch.x)
        if any(batch.errors):  # nothing is known of what could not be read
            unread_N = torch.tensor([bool(why) for why in batch.errors], device=predictions.device)
            predictions = predictions.masked_fill(unread_N[:, None], torch.nan)
        return {"position": batch.position, "predictions": predictions}

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")
        if self.settles is not None and self.fitting and not self.trainer.sanity_checking:
            kept = gathered(self.scores["val"])
            self.settled = None if kept is None else self.settles(*kept).tolist()

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        hparams, trainer = self.hparams, self.trainer
        groups = parameter_groups(
            self.network, hparams.layer_decay, hparams.backbone_lr_factor, others=self.parameters()
        )
        optimizer = make_optimizer(self.make_optimizer, groups, self.device)
        steps = trainer.estimated_stepping_batches if self.make_schedule or hparams.warmup_steps else 0
        if steps == float("inf"):
            raise Mistake(
                "--trainer.max_epochs=-1 gives the run no end, so the schedule has no length; "
                "give --trainer.max_epochs or --trainer.max_steps, or --model.schedule null --model.warmup_steps 0."
            )
        warmup = int(hparams.warmup_steps * steps if hparams.warmup_steps < 1 else hparams.warmup_steps)
        schedule, plateau = self.make_schedule, recipe(self.make_schedule).makes(ReduceLROnPlateau)
        if plateau and not recipe(schedule).arguments.get("mode"):
            schedule = partial(schedule, mode=hparams.mode)  # pyright: ignore[reportArgumentType, reportCallIssue]
        configs: list[Any] = []
        for scheduler in with_warmup(optimizer, schedule, int(steps), warmup):
            configs.append({"scheduler": scheduler, "interval": "step", "monitor": hparams.monitor})
            if isinstance(scheduler, ReduceLROnPlateau):
                configs[-1]["frequency"] = sys.maxsize  # StepPlateau steps it
        self.horizon = [int(steps) if schedule is not None and not plateau else 0, warmup]
        if self.resumed.get("horizon", self.horizon) != self.horizon:
            raise Mistake(
                f"the run has another length: its schedule of (steps, warm-up) {self.resumed['horizon']} would be bent "
                f"to {self.horizon} in the middle; keep the length, or start a new run from these weights: "
                "--model.weights CHECKPOINT."
            )
        return [optimizer], configs

    def configure_callbacks(self) -> list[Callback]:
        return [NumericalFaults(), ChangedData(), StepPlateau(), LogMeans()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["engine"] = VERSION
        if self.fitting and hasattr(self, "horizon"):
            if self.settled is not None:
                checkpoint["settled"] = self.settled
            checkpoint["resume"] = {"horizon": self.horizon, "between_steps": step_is_made(self.trainer)}
            if self.sums is not None:
                rows = self.all_gather(self.sums).reshape(-1, len(self.sums))  # pyright: ignore  (a row each rank)
                checkpoint["resume"]["sums"] = rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        theirs = checkpoint["hyper_parameters"].get("schema")
        if theirs is None:
            raise Mistake(
                "the checkpoint says nothing of its data, as those of earlier versions, so its classes are unknown; "
                "start a new run from its weights: --model.weights CHECKPOINT."
            )
        target = _read_schema(theirs).target
        self.settled = _read_settled(checkpoint.get("settled"))
        self.ranges = read_ranges(checkpoint.get("ranges"))
        if self.schema is None or target != self.schema.target:
            raise Mistake(
                f"the checkpoint knows {target}, the data has {self.schema and self.schema.target}, so its scores "
                "would be wrong; give the data it was trained on, or start a new run from its weights: --model.weights "
                "CHECKPOINT."
            )
        if self.fitting:
            data: Any = getattr(self.trainer, "datamodule", None)
            if hasattr(data, "check_goes_on"):
                data.check_goes_on(_read_schema(theirs).inputs)
            self.resumed = checkpoint.get("resume", {})
            checkpoint["callbacks"].pop("Timer", None)  # max_time is that of one launch
            if checkpoint.get("engine") != VERSION and is_rank_zero():
                made_by = _said_version(checkpoint.get("engine"))
                print(
                    f"resume: {made_by} made the checkpoint, and this is {VERSION}: the rest of the run may differ in "
                    "its last digits from what it would have been"
                )

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Take over weights, as torch does.

        Raises:
            Mistake: They are those of another network.
        """
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            raise Mistake(
                f"the checkpoint does not fit the model ({' '.join(str(error).split())[:300]} …), so its code or its "
                "config is no longer that of the run; bring it back."
            ) from error

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", *args: Any, **kwargs: Any) -> Any:
        """Load a model as Lightning does, of a checkpoint that ``checkpoints.read`` finds harmless.

        It lies on the CPU unless ``map_location`` says otherwise, wherever it was trained.
        """
        with guard.open_to(guard.TRUSTED), classes_start_afresh():
            content = checkpoints.read(checkpoint_path, cls)
            options = {**kwargs, "weights_only": True}
            if content["is_renamed"]:  # Lightning reads the file itself
                checkpoint_path = io.BytesIO()
                torch.save(content, checkpoint_path)
                checkpoint_path.seek(0)
            return super().load_from_checkpoint(checkpoint_path, map_location, *args, **options)


def _totals(batch: Batch, loss_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and the weight of a batch, added up: with the weights of its samples, if they have any."""
    if batch.weight is None:
        return loss_N.sum(), weight_N.sum()
    return (loss_N * batch.weight).sum(), (weight_N * batch.weight).sum().clamp_min(LEAST)


def _read_schema(content: dict[str, Any]) -> Schema:
    try:
        return Schema.from_dict(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise Mistake(
            f"--model.schema={content} is no schema ({error!r}), so the model would not fit the data; leave it out, it "
            "is filled in from the data."
        ) from error


def _said_version(version: Any) -> str:
    return f"version {shown(version)[:40]} of engine/" if isinstance(version, str) else "an earlier version of engine/"


def _read_settled(values: Any) -> list[float] | None:
    if values is None or (isinstance(values, list) and all(isinstance(value, float) for value in values)):
        return values
    raise Mistake(
        "the checkpoint holds thresholds that are no numbers, so its decisions would be wrong; give one that this "
        "project wrote."
    )


class LogMeans(Callback):
    """Logs the training means at log points; a callback, so that it comes before the checkpoint of the same step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if is_log_point(trainer):
            pl_module.log_means()
