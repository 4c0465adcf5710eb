"""Pictures beside the curves, for loggers that take them: TensorBoard and Weights & Biases.

Shapes: N samples, C channels, H × W pixels, K classes, D features.
"""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .loading import Batch
from .stages import last_layer
from .targets import Classes

NAMED = 30  # classes; a matrix of more is drawn without names and counts


def show(trainer: Trainer, name: str, image_HWC: np.ndarray) -> None:
    """Hand a picture to the loggers that take one, at the step of the curves' values of the same moment."""
    step = max(0, trainer.global_step - 1)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image_HWC, step, dataformats="HWC")
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [image_HWC], step)  # pyright: ignore


def takes_pictures(trainer: Trainer) -> bool:
    """Tell whether a logger takes pictures, and the run goes on to write them."""
    able = any(isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image") for logger in trainer.loggers)
    return able and trainer.state.fn == "fit" and not trainer.sanity_checking


def matrix(counts_KK: np.ndarray, names: list[str]) -> np.ndarray:
    """Return a confusion matrix as a picture (H, W, 3): rows are true classes, the darker the larger their share."""
    count, text = len(names), [f"{value:.0f}" for value in counts_KK.ravel().tolist()]
    font: Any = ImageFont.load_default(12)
    named = count <= NAMED
    heads = [name if name == str(number) else f"{number}  {name}"[:24] for number, name in enumerate(names)]
    cell = max(20, 12 + int(max(font.getlength(word) for word in text))) if named else max(1, 512 // count)
    left = 12 + int(max(font.getlength(head) for head in heads)) if named else 20
    top = 40
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    light_KK = (255 * (1 - share_KK)).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    blue = np.stack((light_KK, light_KK // 2 + 127, np.full_like(light_KK, 255)), 2)
    picture = Image.new("RGB", (max(left + count * cell, 220), top + count * cell), "white")
    picture.paste(Image.fromarray(blue), (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 4), "rows: true class, columns: predicted", "black", font)
    for row, head in enumerate(heads if named else []):
        middle = top + row * cell + cell // 2
        draw.text((4, middle), head, "black", font, anchor="lm")
        draw.text((left + row * cell + cell // 2, top - 4), str(row), "black", font, anchor="mb")
        for column in range(count):
            shown = text[row * count + column]
            ink = "white" if share_KK[row, column] > 0.6 else "black"
            if shown != "0":
                draw.text((left + column * cell + cell // 2, middle), shown, ink, font, anchor="mm")
    return np.asarray(picture)


class Pictures(Callback):
    """Shows the loggers what training sees and what validation mixes up; without such a logger it does nothing.

    The first batch as the network gets it (before MixUp), once, if it can be seen; of classes the confusion matrix of
    each validation that is the best so far.
    """

    counts: Tensor | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == batch_idx == 0 and takes_pictures(trainer) and trainer.is_global_zero:
            data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            if (picture := data.picture(batch.x)) is not None:
                show(trainer, f"train/{data.noun}", picture)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        target = pl_module.schema.target
        drawn = isinstance(target, Classes) and takes_pictures(trainer)
        self.counts = torch.zeros(len(target.names) ** 2, device=pl_module.device) if drawn else None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if self.counts is not None and outputs:  # a validation_step of the user's own may return nothing
            cell_N = outputs["y"] * len(pl_module.schema.target.names) + outputs["predictions"].argmax(1)
            self.counts.index_add_(0, cell_N, torch.ones_like(cell_N, dtype=torch.float))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.counts is not None and is_best(trainer):
            counts = trainer.strategy.reduce(self.counts, reduce_op="sum").cpu().numpy()
            if trainer.is_global_zero:
                names = pl_module.schema.target.names
                show(trainer, "val/confusion", matrix(counts.reshape(len(names), -1), names))
        self.counts = None


def is_best(trainer: Trainer) -> bool:
    """Tell whether the validation that just ended is the best so far; asked before it is saved, on every rank."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor in trainer.callback_metrics:
            return callback.check_monitor_top_k(trainer, trainer.callback_metrics[callback.monitor])
    return False


class Projector(Callback):
    """Hands the embeddings of validation samples to TensorBoard's projector at the end of training.

    They are those of the best validation of this launch: what the last layer sees, with the targets and the samples,
    where they are images. With several devices those of the first are shown.

    Args:
        samples: How many, at most.
    """

    def __init__(self, samples: int = 1000) -> None:
        self.samples = samples
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.best: list[tuple[Tensor, Tensor, Tensor]] = []
        self.hook: Any = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen, self.features = [], []
        if takes_pictures(trainer) and trainer.is_global_zero:
            layer = last_layer(pl_module.network)[1]
            self.hook = layer.register_forward_pre_hook(lambda _, inputs: self.features.append(inputs[0].flatten(1)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *args: Any, **kwargs: Any
    ) -> None:
        if self.hook and sum(len(x_ND) for x_ND, _, _ in self.seen) < self.samples:
            self.seen.append((self.features[-1].float().cpu(), batch.x.cpu(), batch.y.cpu()))
        self.features.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.hook:
            self.hook.remove()
            self.hook = None
        if trainer.state.fn == "fit" and not trainer.sanity_checking and (is_best(trainer) or not self.best):
            self.best = self.seen

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for logger in trainer.loggers if self.best else []:
            if isinstance(logger, TensorBoardLogger):
                x_ND, x, y_N = (torch.cat(part)[: self.samples] for part in zip(*self.best, strict=True))
                names = [", ".join(pl_module.schema.target.told(value)) or "none" for value in y_N.numpy()]
                images = x.expand(-1, 3, -1, -1) / 255 if x.ndim == 4 else None
                logger.experiment.add_embedding(x_ND, names, images, trainer.global_step, "validation")
