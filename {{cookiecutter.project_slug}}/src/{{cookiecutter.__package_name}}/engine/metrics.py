"""The metric that a run is judged by."""

import re
from typing import Literal

MONITOR = "val/loss"  # unless --monitor says otherwise


def direction(monitor: str, mode: str | None = None) -> Literal["min", "max"]:
    """Return whether a metric should fall ("min") or rise ("max"), as its name says unless ``mode`` does."""
    if mode in ("min", "max"):
        return mode
    return "min" if re.search(r"loss|error", monitor) else "max"
