"""The metric that a run is judged by."""

import re
from typing import Literal

from .mistakes import Mistake

MONITOR = "val/loss"  # unless --monitor says otherwise
MEASURED_IN_LOSS = ("model.loss", "data.balance", "data.log_target")  # settings that change what a loss measures
FALLING = {"mae", "rmse", "mse", "nll", "brier", "ece"}
RISING = {"accuracy", "auroc", "f1", "map", "r2", "spearman"}


def direction(monitor: str, mode: str | None = None) -> Literal["min", "max"]:
    """Return whether a metric should fall ("min") or rise ("max"), as its name says unless ``mode`` does.

    The first word of it that is known counts: val/r2_error is the R² of a target that is called error.
    """
    if mode is None:
        words = re.split(r"[/_]", monitor.lower())
        known = next((word for word in words if word in FALLING | RISING), None)
        falls = known in FALLING if known else re.search(r"loss|error", monitor.lower())
        return "min" if falls else "max"
    if mode not in ("min", "max"):
        raise Mistake(f"--mode={mode} is no direction, so the worst could be kept for the best; give min or max.")
    return mode
