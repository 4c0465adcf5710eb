"""The metric that a run is judged by."""

import re
from typing import Literal

from .mistakes import Mistake

MONITOR = "val/loss"  # unless --monitor says otherwise


def direction(monitor: str, mode: str | None = None) -> Literal["min", "max"]:
    """Return whether a metric should fall ("min") or rise ("max"), as its name says unless ``mode`` does."""
    if mode is None:
        return "min" if re.search(r"loss|error", monitor) else "max"
    if mode not in ("min", "max"):
        raise Mistake(f"--mode={mode} is no direction, so the worst could be kept for the best; give min or max.")
    return mode
