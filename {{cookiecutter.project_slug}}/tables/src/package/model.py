"""The models: for classes, for several labels, for numbers. Each has its step, its scores, its prediction;
engine/task.py does the rest. Which one is trained follows the data (--data.task); cli.py names them.

A batch has ``x`` (raw rows, see engine/encoding.py), ``y`` (the targets) and ``position`` (of each row in its split).
``training_loss(…, NAME=value_N)`` logs train/NAME; a metric of metrics.py is logged as val/NAME and test/NAME, and
``--monitor val/NAME`` chooses the best checkpoint by it. A value of your own is logged in ``score`` with
``self.log(f"{split}/NAME", value)``. Parameters of another module are trained if it is an attribute. Task has hooks of
its own, so in one of yours call super first.

A network may have several heads (TabM): the loss and what is predicted are means over them; one that has none counts as
one. Shapes: N rows, F columns, H heads, K classes or labels, T numbers.
"""

from typing import Any

import torch
from torch import Tensor

from .augment import mixed, noisy, swapped, without_columns
from .combinations import RULES
from .engine import scores
from .engine.encoding import Columns, Encoded, Encoding, Scaling
from .engine.heads import each_head, over_heads
from .engine.loading import Batch
from .engine.mistakes import require
from .engine.optimizers import ScheduleFactory
from .engine.per_sample import PerSample
from .engine.schema import Schema
from .engine.targets import Balance, Standardised
from .engine.task import Task
from .losses import MSE, BinaryCrossEntropy, CrossEntropy, LossFactory, NumberLossFactory
from .metrics import MEASURES, metrics, metrics_of_labels
from .networks import MLP, NetworkFactory
from .optim import Cosine


class TableTask(Task):
    """What the models of this file share: scaled numbers and coded categories, a network for them, augmented rows.

    A subclass sets ``make_network``, which makes the network from (inputs, outputs), and ``make_loss``.

    Args:
        schedule: Makes the learning-rate schedule from (optimizer, total_steps); null keeps the rate constant.
        scaling: How numbers are scaled: by median and quartiles (robust), or to a normal distribution by quantiles.
        swap_noise: The share of cells that take the value of another row in training.
        column_dropout: The share of cells that training hides.
        noise: The deviation of Gaussian noise on scaled numbers.
        mixup: α of MixUp's Beta distribution.
        options: What every model takes, see engine/task.py.
    """

    rules = RULES
    make_network: NetworkFactory

    def __init__(
        self,
        schedule: ScheduleFactory | None = Cosine,
        scaling: Scaling = "robust",
        swap_noise: float = 0.0,
        column_dropout: float = 0.0,
        noise: float = 0.0,
        mixup: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(schedule=schedule, **options)
        require(0 <= swap_noise < 1, "--model.swap_noise", swap_noise, "0 ≤ x < 1", "no cell would be its own")
        require(0 <= column_dropout < 1, "--model.column_dropout", column_dropout, "0 ≤ x < 1", "nothing would be seen")
        require(noise >= 0, "--model.noise", noise, "x ≥ 0", "it is no deviation")
        require(mixup >= 0, "--model.mixup", mixup, "x ≥ 0", "no share could be drawn")

    def build(self, schema: Schema, balance: Any) -> None:
        columns = Columns.from_inputs(schema.inputs)
        self.numbers = len(columns.numbers)
        self.encoding = Encoding(columns, self.hparams.scaling, self.training_inputs)
        self.network = self.make_network(self.encoding.inputs(self.training_inputs), len(schema.target.names))
        self.mix = self.hparams.mixup or None

    def prepared(self, x_NF: Tensor) -> Encoded:
        """Scale and code raw rows: what the network takes."""
        return self.encoding(x_NF)

    def forward(self, x_NF: Tensor) -> Tensor:
        """Turn raw rows into outputs of the network, (N, H, K) or (N, H, T)."""
        return each_head(self.network(self.prepared(x_NF)))

    def augmented(self, x_NF: Tensor, target: Tensor) -> tuple[Encoded, Tensor]:
        """Augment a batch of training; targets are classes (N,), shares (N, K) or standardised numbers (N, T)."""
        hparams = self.hparams
        x_NF = without_columns(swapped(x_NF, hparams.swap_noise), self.numbers, hparams.column_dropout)
        return mixed(noisy(self.prepared(x_NF), hparams.noise), target, hparams.mixup)


class Classifier(TableTask):
    """Trains a network to tell classes apart.

    Args:
        network: Makes the network from (inputs, num_classes).
        loss: Makes the loss from the class weights and the class shares.
        options: What every model takes, see TableTask above and engine/task.py.
    """

    def __init__(self, network: NetworkFactory = MLP, loss: LossFactory = CrossEntropy, **options: Any) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Balance) -> None:
        super().build(schema, balance)
        self.loss = self.make_loss(*balance)
        self.keep_scores(metrics(len(schema.target.names)))

    def predict(self, x_NF: Tensor) -> Tensor:
        """Turn raw rows into probabilities_NK: what predictions and exports hold."""
        return self(x_NF).float().softmax(2).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rows, target = self.augmented(batch.x, self.loss.soft(batch.y) if self.mix else batch.y)
        logits_NHK = each_head(self.network(rows))
        hits_N = logits_NHK.mean(1).argmax(1) == batch.y  # hard labels, also where training mixes them
        loss_N = over_heads(self.loss, logits_NHK, target)
        return self.training_loss(batch, loss_N, self.loss.weights(target), accuracy=hits_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and probabilities_NK."""
        logits_NHK = self(batch.x)
        probabilities_NK = logits_NHK.float().softmax(2).mean(1)
        self.scores[split].update(probabilities_NK, batch.y, weight=batch.weight)
        return over_heads(self.loss, logits_NHK, batch.y), self.loss.weights(batch.y), probabilities_NK


class Tagger(TableTask):
    """Trains a network to tell which labels a row has: any number of them.

    Args:
        network: Makes the network from (inputs, labels).
        loss: Makes the loss from the weights of positive examples and the shares of the labels.
        options: What every model takes, see TableTask above and engine/task.py.
    """

    def __init__(self, network: NetworkFactory = MLP, loss: LossFactory = BinaryCrossEntropy, **options: Any) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Balance) -> None:
        super().build(schema, balance)
        self.loss = self.make_loss(*balance)
        self.loss.several_labels = True
        self.keep_scores(metrics_of_labels(), settles=scores.best_thresholds)

    def predict(self, x_NF: Tensor) -> Tensor:
        """Turn raw rows into probabilities_NK: what predictions and exports hold."""
        return self(x_NF).float().sigmoid().mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rows, target_NK = self.augmented(batch.x, batch.y.float())
        logits_NHK = each_head(self.network(rows))
        right_N = ((logits_NHK.mean(1) > 0) == (batch.y > 0)).float().mean(1)
        loss_N = over_heads(self.loss, logits_NHK, target_NK)
        return self.training_loss(batch, loss_N, self.loss.weights(target_NK), accuracy=right_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and probabilities_NK."""
        logits_NHK, target_NK = self(batch.x), batch.y.float()
        probabilities_NK = logits_NHK.float().sigmoid().mean(1)
        self.scores[split].update(probabilities_NK, batch.y, weight=batch.weight)
        return over_heads(self.loss, logits_NHK, target_NK), self.loss.weights(target_NK), probabilities_NK


class Regressor(TableTask):
    """Trains a network to estimate numbers: standardised ones, so that the loss has no unit; what it says is in yours.

    Args:
        network: Makes the network from (inputs, numbers).
        loss: Makes the loss, of standardised numbers: one of losses.py, or of torch.nn.
        options: What every model takes, see TableTask above and engine/task.py.
    """

    def __init__(self, network: NetworkFactory = MLP, loss: NumberLossFactory = MSE, **options: Any) -> None:
        super().__init__(**options)
        self.make_network, self.make_loss = network, loss

    def build(self, schema: Schema, balance: Standardised) -> None:
        super().build(schema, balance)
        self.loss = PerSample(self.make_loss())
        self.standardised = balance
        self.keep_scores(scores.by_target(MEASURES, schema.target.names))

    def predict(self, x_NF: Tensor) -> Tensor:
        """Turn raw rows into values_NT in the user's unit: what predictions and exports hold."""
        return self.standardised.restored(self(x_NF).mean(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rows, target_NT = self.augmented(batch.x, self.standardised(batch.y))
        values_NHT = each_head(self.network(rows))
        error_N = (self.standardised.restored(values_NHT.detach().mean(1)) - batch.y).abs().mean(1)
        loss_N = over_heads(self.loss, values_NHT.float(), target_NT)
        return self.training_loss(batch, loss_N, torch.ones_like(loss_N), mae=error_N)

    def score(self, batch: Batch, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Update the metrics of a split; returns the loss of each sample, the weight of each, and values_NT."""
        outputs_NHT = self(batch.x)
        values_NT = self.standardised.restored(outputs_NHT.mean(1))
        self.scores[split].update(values_NT, batch.y, weight=batch.weight)
        loss_N = over_heads(self.loss, outputs_NHT.float(), self.standardised(batch.y))
        return loss_N, torch.ones_like(loss_N), values_NT
