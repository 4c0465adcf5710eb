"""The models take raw columns, as metadata.json has them under columns, for any number of rows: ``numbers`` (N, F),
float32 in the table's unit, NaN where one is missing, dates as days since 1970; and ``categories`` (N, C), int64: 0 for
a value that training has not seen, i + 1 for value i of the column. An input without columns is left out. What scales
and codes them is inside. preprocessing.py turns rows of text, such as those of a CSV, into these two. model.int8.onnx
is written with --int8 alone: such networks are small, and 8 bits are coarse for numbers.
"""

import runpy
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from torch import Tensor, nn

from ..engine import kinds
from ..engine.arrow import DAYS, Missing, pc, read_columns
from ..engine.delimited import encoding_of, is_parquet, open_table

PACKAGES: tuple[str, ...] = ()  # that what is exported needs, beside those that every export does
ARGUMENT = "FILE.csv"  # of example.py
INT8 = False  # whether model.int8.onnx is written unless told


class Predict(nn.Module):
    """What is exported: all that the model's ``predict`` does, calibrated: raw columns → predictions (float32)."""

    def __init__(self, model: Any, calibrates: nn.Module) -> None:
        super().__init__()
        self.model, self.calibrates = model, calibrates

    def forward(self, columns: Tensor, categories: Tensor | None = None) -> Tensor:
        """Predict of numbers and categories, or of those that there are."""
        x_NF = columns.float()  # codes are below 2^24, which 32 bits hold
        if categories is not None:
            x_NF = torch.cat([x_NF, categories.float()], 1)
        return self.calibrates(self.model.predict(x_NF).float())


def inputs(x_NF: Tensor, data: Any) -> dict[str, Tensor]:
    """Return the inputs of a batch by the names that the exported models give them."""
    numbers = len(data.columns.numbers)
    given = {"numbers": x_NF[:, :numbers].contiguous(), "categories": x_NF[:, numbers:].long()}
    return {name: of_kind for name, of_kind in given.items() if of_kind.shape[1]}


def facts(model: Any, data: Any) -> dict[str, Any]:
    """Describe the inputs, as values of JSON."""
    raw, asked = open_table("--data.table", data.file), data.asked
    missing = Missing.of(asked.missing)
    names = data.columns.numbers
    written = read_columns("--data.table", raw, names, names, asked.missing) if names else []
    columns: list[dict[str, Any]] = [{"name": column.name, "kind": "number", **form_of(column)} for column in written]
    columns += [
        {"name": name, "kind": "category", "values": values} for name, values in data.columns.categories.items()
    ]
    return {
        "columns": columns,
        "id": None if asked.id == "none" else asked.id,
        "missing_words": missing.words.to_pylist(),
        "missing_numbers": missing.numbers,
        "encoding": encoding_of(_head(raw.path)) if raw.delimiter else "utf-8",
    }


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def form_of(column: Any) -> dict[str, str]:
    """Return what the text of a column of numbers does not say by itself: whether it holds dates, what a comma is."""
    if kinds.numbers_of(column.words).unit:
        return {"unit": DAYS}
    for comma, pattern in (("thousands", kinds.THOUSANDS), ("decimal", kinds.DECIMAL_COMMA)):
        if pc.any(pc.match_substring_regex(column.words, pattern)).as_py():
            return {"comma": comma}
    return {}


def weights(model: Any) -> dict[str, Tensor]:
    """Return what model.safetensors holds: the network, and what scales and codes its inputs."""
    return {name: value for name, value in model.state_dict().items() if name.startswith(("encoding.", "network."))}


def write_example(about: dict[str, Any], folder: Path) -> None:
    """Write preprocessing.py and example.py."""
    for name in ("preprocessing", "example"):
        shutil.copyfile(Path(__file__).with_name(f"_{name}.py"), folder / f"{name}.py")


def from_files(
    data: Any, about: dict[str, Any], keys: Sequence[str], folder: Path
) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """Return what makes inputs of rows by their positions with nothing but preprocessing.py, from the table itself.

    Args:
        data: The data module.
        about: What the models say of themselves.
        keys: The rows.
        folder: Where preprocessing.py lies.
    """
    code, path = runpy.run_path(str(folder / "preprocessing.py")), data.file
    names, wanted = [column["name"] for column in about["columns"]], set(keys)
    kept: dict[str, dict[str, Any]] = {}
    for position, row in enumerate(_rows_of_parquet(path) if is_parquet(path) else code["read"](path, about)):
        key = str(row[about["id"]]) if about["id"] else str(position)
        if key in wanted:
            kept[key] = {name: row[name] for name in names}
    return lambda positions: code["preprocess"]([kept[keys[position]] for position in positions], about)


def _rows_of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
        yield from batch.to_pylist()
