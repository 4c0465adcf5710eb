"""The callbacks of a run.

On the command line each is a flag: ``--callbacks.early_stopping.patience 5``, ``--callbacks.early_stopping null``. To
add your own, write the class here and give Callbacks an argument for it. In a script:
``Trainer(callbacks=standard())``.
"""

from typing import Literal

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor, WeightAveraging

from .engine.keepers import (
    SWA,
    BestCheckpoint,
    CheckMetric,
    EarlyStopping,
    EMAWeightAveraging,
    LastCheckpoint,
    ProgressBar,
)
from .engine.metrics import MONITOR
from .engine.quantisation import QuantisationAware
from .engine.watching import Pictures, Projector


class Callbacks:
    """Switches and options of the callbacks; a null one is off.

    Args:
        best: Keeps the best checkpoint.
        last: Keeps the newest checkpoint.
        check_metric: Refuses a monitored metric that nobody logs.
        early_stopping: Stops when the metric no longer improves.
        lr_monitor: Logs the learning rate.
        progress_bar: Shows the progress.
        averaging: Evaluates and keeps averaged weights: EMAWeightAveraging or SWA.
        device_stats: Logs memory and load of the device (needs psutil on a CPU).
        pictures: Shows the loggers the confusion matrix, and training samples where they can be seen.
        projector: Hands embeddings of validation samples to TensorBoard's projector.
        qat: Trains for 8-bit integers, which export writes.
    """

    def __init__(
        self,
        best: BestCheckpoint | None = None,
        last: LastCheckpoint | None = None,
        check_metric: CheckMetric | None = None,
        early_stopping: EarlyStopping | None = None,
        lr_monitor: LearningRateMonitor | None = None,
        progress_bar: ProgressBar | None = None,
        averaging: EMAWeightAveraging | SWA | WeightAveraging | None = None,
        device_stats: DeviceStatsMonitor | None = None,
        pictures: Pictures | None = None,
        projector: Projector | None = None,
        qat: QuantisationAware | None = None,
    ) -> None:
        given = (best, last, check_metric, early_stopping, lr_monitor, progress_bar)
        given += (averaging, device_stats, pictures, projector, qat)
        self.items: list[Callback] = [callback for callback in given if callback is not None]


def standard(monitor: str = MONITOR, mode: Literal["min", "max"] = "min") -> list[Callback]:
    """Return the callbacks of the preset ``standard``, for a script."""
    return Callbacks(
        best=BestCheckpoint(monitor, mode),
        last=LastCheckpoint(),
        check_metric=CheckMetric(monitor),
        early_stopping=EarlyStopping(monitor, mode),
        lr_monitor=LearningRateMonitor(),
        progress_bar=ProgressBar(),
        pictures=Pictures(),
    ).items
