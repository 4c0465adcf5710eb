"""Stub until merged."""

from pathlib import Path
from typing import Any, NamedTuple

from .splits import Samples


class Asked(NamedTuple):
    labels: str
    root: str
    task: str = "auto"
    image_column: str | None = None
    label_columns: list[str] | None = None
    label_delimiter: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    weight_column: str | None = None
    outside: bool = False
    log_target: bool = False


class Table(NamedTuple):
    root: Path
    samples: Samples
    settled: dict[str, Any]
    remark: str


def read_labels(asked: Asked) -> Table:
    raise NotImplementedError
