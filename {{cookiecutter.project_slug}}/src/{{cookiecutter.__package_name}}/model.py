"""The model: its network, its step, its metrics. engine/task.py does the rest.

A batch has ``x`` (the inputs), ``y`` (the targets) and ``position`` (of each sample in its split: a loss that keeps
something for each training sample looks it up by that). ``training_loss(…, NAME=value_N)`` logs train/NAME; a metric of
``metrics`` is logged as val/NAME and test/NAME, and ``--monitor val/NAME`` chooses the best checkpoint by it. A value
of your own is logged in ``score`` with ``self.log(f"{split}/NAME", value)``. Parameters of a second head or of a loss
are trained if the module is an attribute. Task has hooks of its own, so in one of yours call super first.

Shapes: N samples, C channels, H × W pixels, K classes. Images stay uint8 until they are on the device.
"""

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchvision.transforms.v2 import CutMix, MixUp, RandomApply, RandomChoice

from .combinations import RULES
from .engine.images import Normalise
from .engine.loading import Batch
from .engine.mistakes import require
from .engine.optimizers import ScheduleFactory
from .engine.schema import Schema
from .engine.targets import Balance
from .engine.task import Task
from .losses import CrossEntropy, LossFactory
from .networks import NetworkFactory, SmallCNN
from .optim import Cosine


def metrics(num_classes: int) -> MetricCollection:
    """The metrics of a validation or test: add yours here, from (probabilities_NK, target_N)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
            "auroc": MulticlassAUROC(num_classes),
        }
    )


class Classifier(Task):
    """Trains a network to tell classes apart.

    Args:
        network: Makes the network from (in_channels, num_classes).
        loss: Makes the loss from the class weights and the class shares.
        schedule: Makes the learning-rate schedule from (optimizer, total_steps); null keeps the rate constant.
        mixup: α of MixUp's Beta distribution (Zhang et al. 2018); 0 is off.
        cutmix: α of CutMix's Beta distribution (Yun et al. 2019); 0 is off. With both, each batch takes one of them.
        mix_probability: The share of batches that are mixed.
        unmixed_epochs: Epochs at the end without mixing.
        options: What every model takes, see engine/task.py.
    """

    rules = RULES

    def __init__(
        self,
        network: NetworkFactory = SmallCNN,
        loss: LossFactory = CrossEntropy,
        schedule: ScheduleFactory | None = Cosine,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        unmixed_epochs: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(schedule=schedule, **options)
        self.make_network, self.make_loss = network, loss
        require(mixup >= 0, "--model.mixup", mixup, "x ≥ 0", "no share could be drawn")
        require(cutmix >= 0, "--model.cutmix", cutmix, "x ≥ 0", "no share could be drawn")
        require(unmixed_epochs >= 0, "--model.unmixed_epochs", unmixed_epochs, "x ≥ 0", "no epoch would be unmixed")
        require(0 <= mix_probability <= 1, "--model.mix_probability", mix_probability, "0 ≤ x ≤ 1", "it is no share")

    def build(self, schema: Schema, balance: Balance) -> None:
        """Make what depends on the data."""
        channels, count, hparams = schema.inputs["channels"], len(schema.target.names), self.hparams
        self.network = self.make_network(channels, count)
        self.loss = self.make_loss(*balance)
        self.normalised = Normalise(channels, hparams.channels_last)
        self.keep_scores(metrics(count))
        kinds = ((MixUp, hparams.mixup), (CutMix, hparams.cutmix))
        mixers = [kind(alpha=alpha, num_classes=count) for kind, alpha in kinds if alpha]
        self.mix = RandomApply([RandomChoice(mixers)], hparams.mix_probability) if mixers else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into logits_NK."""
        return self.network(self.normalised(x_NCHW))

    def predict(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into probabilities_NK: what predictions and exports hold."""
        return self(x_NCHW).float().softmax(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_NCHW, target = self.normalised(batch.x), batch.y
        last_mixed = (self.trainer.max_epochs or 0) - self.hparams.unmixed_epochs
        if self.mix is not None and not (self.hparams.unmixed_epochs and self.current_epoch >= last_mixed):
            x_NCHW, target = self.mix(x_NCHW, target)
        logits_NK = self.network(x_NCHW)
        hits_N = logits_NK.argmax(1) == batch.y  # hard labels, also where training mixes them
        return self.training_loss(self.loss(logits_NK, target), self.loss.weights(target).sum(), accuracy=hits_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, their weight, and probabilities_NK."""
        logits_NK = self(batch.x)
        probabilities_NK = logits_NK.float().softmax(1)
        self.scores[split].update(probabilities_NK, batch.y)
        return self.loss(logits_NK, batch.y), self.loss.weights(batch.y).sum(), probabilities_NK
