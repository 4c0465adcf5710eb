"""The models: for classes, for several labels, for numbers. Each has its step, its scores, its prediction;
engine/task.py does the rest. Which one is trained follows the data (--data.task); cli.py names them.

A batch has ``x`` (the inputs), ``y`` (the targets) and ``position`` (of each sample in its split: a loss that keeps
something for each training sample looks it up by that). ``training_loss(…, NAME=value_N)`` logs train/NAME; a metric
is logged as val/NAME and test/NAME, and ``--monitor val/NAME`` chooses the best checkpoint by it. A value
of your own is logged in ``score`` with ``self.log(f"{split}/NAME", value)``. Parameters of a second head or of a loss
are trained if the module is an attribute. Task has hooks of its own, so in one of yours call super first.

Shapes: N samples, C channels, H × W pixels, K classes or labels, T numbers. Images stay uint8 until they are on the
device.
"""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp, RandomApply, RandomChoice

from .combinations import RULES
from .engine import scores
from .engine.images import Normalise
from .engine.loading import Batch
from .engine.mistakes import require
from .engine.optimizers import ScheduleFactory
from .engine.per_sample import PerSample
from .engine.schema import Schema
from .engine.targets import Balance, Standardised
from .engine.task import Task
from .losses import MSE, BinaryCrossEntropy, CrossEntropy, LossFactory, NumberLossFactory
from .metrics import MEASURES, metrics, metrics_of_labels
from .networks import NetworkFactory, SmallCNN
from .optim import Cosine


class ImageTask(Task):
    """What the models of this file share: a network for images, and batches that may be mixed.

    A subclass sets ``make_network``, which makes the network from (in_channels, outputs), and ``make_loss``.

    Args:
        schedule: Makes the learning-rate schedule from (optimizer, total_steps); null keeps the rate constant.
        mixup: α of MixUp's Beta distribution (Zhang et al. 2018); 0 is off.
        cutmix: α of CutMix's Beta distribution (Yun et al. 2019); 0 is off. With both, each batch takes one of them.
        mix_probability: The share of batches that are mixed.
        unmixed_epochs: Epochs at the end without mixing.
        channels_last: Keep images and weights in the memory layout that convolutions on tensor cores prefer.
        options: What every model takes, see engine/task.py.
    """

    rules = RULES
    make_network: NetworkFactory

    def __init__(
        self,
        schedule: ScheduleFactory | None = Cosine,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        unmixed_epochs: int = 0,
        channels_last: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(schedule=schedule, **options)
        require(mixup >= 0, "--model.mixup", mixup, "x ≥ 0", "no share could be drawn")
        require(cutmix >= 0, "--model.cutmix", cutmix, "x ≥ 0", "no share could be drawn")
        require(unmixed_epochs >= 0, "--model.unmixed_epochs", unmixed_epochs, "x ≥ 0", "no epoch would be unmixed")
        require(0 <= mix_probability <= 1, "--model.mix_probability", mix_probability, "0 ≤ x ≤ 1", "it is no share")

    def build(self, schema: Schema, balance: Any) -> None:
        channels, outputs, hparams = schema.inputs["channels"], len(schema.target.names), self.hparams
        self.network = self.make_network(channels, outputs)
        self.follow(schema.inputs)
        self.normalised = Normalise.as_declared(schema.inputs, hparams.channels_last)
        kinds = ((MixUp, hparams.mixup), (CutMix, hparams.cutmix))
        mixers = [kind(alpha=alpha, num_classes=outputs) for kind, alpha in kinds if alpha]
        self.mix = RandomApply([RandomChoice(mixers)], hparams.mix_probability) if mixers else None

    def follow(self, inputs: dict[str, Any]) -> None:
        """Tell the network, if it asks, the side of the images that it is trained on; runs of before were not told."""
        if hasattr(self.network, "follow"):
            self.network.follow(inputs["image_size"] if "mean" in inputs else 0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.follow(checkpoint["hyper_parameters"]["schema"]["inputs"])  # not the side of what is evaluated

    def prepared(self, x_NCHW: Tensor) -> Tensor:
        """Normalise images (uint8): what the network takes."""
        return self.normalised(x_NCHW)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into outputs of the network, (N, K) or (N, T)."""
        return self.network(self.prepared(x_NCHW))

    def mixed(self, x_NCHW: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a normalised batch with itself, if this epoch does; targets of classes are soft then."""
        last_mixed = (self.trainer.max_epochs or 0) - self.hparams.unmixed_epochs
        if self.mix is None or (self.hparams.unmixed_epochs and self.current_epoch >= last_mixed):
            return x_NCHW, target
        return self.mix(x_NCHW, target)


class Classifier(ImageTask):
    """Trains a network to tell classes apart.

    Args:
        network: Makes the network from (in_channels, num_classes).
        loss: Makes the loss from the class weights and the class shares.
        options: What every model takes, see ImageTask above and engine/task.py.
    """

    def __init__(self, network: NetworkFactory = SmallCNN, loss: LossFactory = CrossEntropy, **options: Any) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Balance) -> None:
        super().build(schema, balance)
        self.loss = self.make_loss(*balance)
        self.keep_scores(metrics(len(schema.target.names)))

    def predict(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into probabilities_NK: what predictions and exports hold."""
        return self(x_NCHW).float().softmax(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_NCHW, target = self.mixed(self.prepared(batch.x), batch.y)
        logits_NK = self.network(x_NCHW)
        hits_N = logits_NK.argmax(1) == batch.y  # hard labels, also where training mixes them
        return self.training_loss(batch, self.loss(logits_NK, target), self.loss.weights(target), accuracy=hits_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and probabilities_NK."""
        logits_NK = self(batch.x)
        probabilities_NK = logits_NK.float().softmax(1)
        self.scores[split].update(probabilities_NK, batch.y, weight=batch.weight)
        return self.loss(logits_NK, batch.y), self.loss.weights(batch.y), probabilities_NK


class Tagger(ImageTask):
    """Trains a network to tell which labels an image has: any number of them.

    Args:
        network: Makes the network from (in_channels, labels).
        loss: Makes the loss from the weights of positive examples and the shares of the labels.
        options: What every model takes, see ImageTask above and engine/task.py.
    """

    def __init__(
        self, network: NetworkFactory = SmallCNN, loss: LossFactory = BinaryCrossEntropy, **options: Any
    ) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Balance) -> None:
        super().build(schema, balance)
        self.loss = self.make_loss(*balance)
        self.loss.several_labels = True
        self.keep_scores(metrics_of_labels(), settles=scores.best_thresholds)

    def predict(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into probabilities_NK: what predictions and exports hold."""
        return self(x_NCHW).float().sigmoid()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_NCHW, target_NK = self.mixed(self.prepared(batch.x), batch.y.float())
        logits_NK = self.network(x_NCHW)
        right_N = ((logits_NK > 0) == (batch.y > 0)).float().mean(1)
        loss_N = self.loss(logits_NK, target_NK)
        return self.training_loss(batch, loss_N, self.loss.weights(target_NK), accuracy=right_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and probabilities_NK."""
        logits_NK, target_NK = self(batch.x), batch.y.float()
        probabilities_NK = logits_NK.float().sigmoid()
        self.scores[split].update(probabilities_NK, batch.y, weight=batch.weight)
        return self.loss(logits_NK, target_NK), self.loss.weights(target_NK), probabilities_NK


class Regressor(ImageTask):
    """Trains a network to estimate numbers: standardised ones, so that the loss has no unit; what it says is in yours.

    Args:
        network: Makes the network from (in_channels, numbers).
        loss: Makes the loss, of standardised numbers: one of losses.py, or of torch.nn.
        options: What every model takes, see ImageTask above and engine/task.py.
    """

    def __init__(self, network: NetworkFactory = SmallCNN, loss: NumberLossFactory = MSE, **options: Any) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Standardised) -> None:
        super().build(schema, balance)
        self.loss = PerSample(self.make_loss())
        self.standardised = balance
        self.keep_scores(scores.by_target(MEASURES, schema.target.names))

    def predict(self, x_NCHW: Tensor) -> Tensor:
        """Turn images (uint8) into values_NT in the user's unit: what predictions and exports hold."""
        return self.standardised.restored(self(x_NCHW))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_NCHW, target_NT = self.mixed(self.prepared(batch.x), self.standardised(batch.y))
        values_NT = self.network(x_NCHW)
        error_N = (self.standardised.restored(values_NT.detach()) - batch.y).abs().mean(1)
        loss_N = self.loss(values_NT.float(), target_NT)
        return self.training_loss(batch, loss_N, torch.ones_like(loss_N), mae=error_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and values_NT."""
        outputs_NT = self(batch.x)
        values_NT = self.standardised.restored(outputs_NT)
        self.scores[split].update(values_NT, batch.y, weight=batch.weight)
        loss_N = self.loss(outputs_NT.float(), self.standardised(batch.y))
        return loss_N, torch.ones_like(loss_N), values_NT
