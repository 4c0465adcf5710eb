"""What every data module of a table shares: rows in memory as tensors, vocabularies of training, new rows to predict.

A batch is one index into these tensors. Shapes: N rows, F columns (numbers, then codes of categories).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .batches import Batch
from .builtin_tables import TARGETS, built_in, is_built_in
from .encoding import Columns
from .leaks import constant, doubts, same_rows
from .loading import READ_BY, Plain, SplitData
from .mistakes import Mistake
from .new_rows import read_rows
from .oversampling import oversampled
from .splits import Samples
from .tables import Asked, Table, fingerprint, read_table
from .targets import Classes, Target, Task


class TableDataset(Dataset[Batch]):
    """Rows of a table.

    Args:
        x_NF: Raw rows, of this split and of others.
        rows_N: Which of them are of this split.
        keys: Of each row of the split.
        targets: Likewise.
        weights: Likewise, or None.
    """

    def __init__(
        self,
        x_NF: Tensor,
        rows_N: np.ndarray,
        keys: Sequence[str],
        targets: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        self.x_NF, self.rows_N, self.keys = x_NF, torch.from_numpy(rows_N), keys
        self.y = torch.from_numpy(np.ascontiguousarray(targets))
        self.weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        batch = self.__getitems__([key])
        weight = None if batch.weight is None else batch.weight[0]
        return Batch(batch.x[0], batch.y[0], batch.position[0], weight=weight)

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> Batch:
        """Fetch a batch. A training key has a seed for augmentation, which rows do not use."""
        position = torch.tensor([key[0] if isinstance(key, tuple) else key for key in keys])
        weight = None if self.weights is None else self.weights[position]
        return Batch(self.x_NF[self.rows_N[position]], self.y[position], position, weight=weight)


class TableFiles(SplitData):
    """Rows of a table. Its numbers and categories are found out, and said before training, or named by flags.

    Args:
        table: The file, or the name of a built-in table.
        target: The column that is learned, or several.
        numbers: Columns that are numbers.
        categories: Columns that are categories, though they may look like numbers.
        drop: Columns that are not learned from.
        id: The column that names the rows, in predictions too; null finds one called id, none counts the rows.
        group: The column of groups (a patient, a shop) whose rows stay in one split; null finds one called group.
        split_column: The column of train, val and test; null finds one called split.
        weight: The column of weights of the rows in the loss and the scores; null finds one called weight. Of these
            four none means that there is none, whatever columns are called.
        missing: Words that mean a missing cell, beside empty ones, NA, NaN, null and None.
        drop_missing_target: Whether rows without a target are left out.
        log_target: Whether the logarithm of the numbers is learned: what counts is then the ratio.
        predict_table: The rows that predict reads, with a target or without.
        balance: Against rare classes: as below, or smote, new rows between neighbours (Chawla et al. 2002).
        num_workers: Loader processes per device; rows lie in memory, so that none is fastest.
        options: What every data module takes, see engine/loading.py.
    """

    noun, one, key = "rows", "row", "row"
    places = ("table", "predict_table")
    of_a_table = frozenset(Asked.names()) - {"table", "task"}
    to_predict = ("--data.predict_table", "FILE")

    def __init__(
        self,
        table: str,
        target: list[str] | str | None = None,
        numbers: list[str] | str | None = None,
        categories: list[str] | str | None = None,
        drop: list[str] | str | None = None,
        id: str | None = None,
        group: str | None = None,
        split_column: str | None = None,
        weight: str | None = None,
        missing: list[str] | str | None = None,
        drop_missing_target: bool = False,
        log_target: bool = False,
        predict_table: str | None = None,
        balance: Literal["none", "sampler", "class_weights", "effective_weights", "smote"] = "none",
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(balance=balance, num_workers=num_workers, **options)  # pyright: ignore[reportArgumentType]
        given = {"table": table, "target": target, "numbers": numbers, "categories": categories, "drop": drop}
        given |= {"id": id, "group": group, "split_column": split_column, "weight": weight, "missing": missing}
        given |= {"drop_missing_target": drop_missing_target, "log_target": log_target, "task": self.task}
        self.asked = Asked.by(given)
        self.predict_table = predict_table
        self.outside = True  # a row's key is no path
        self.read: Table | None = None  # what the file says, while its columns are needed
        self.columns = Columns([], {}, [])  # known after ``setup``
        self.x_NF = torch.zeros(0, 0)
        self.row_of: dict[str, int] = {}  # by its key
        self.twins: list[list[int]] = []  # rows that are equal

    @classmethod
    def task_of_table(cls, settings: Mapping[str, Any]) -> Task | None:
        """Return what the table holds to predict."""
        return read_table(_there(Asked.by(settings))).samples.target.task if settings.get("table") else None

    @classmethod
    def check_new(cls, flag: str, place: str) -> None:
        if not Path(place).is_file():
            raise Mistake(f"{flag}={place!r} is no file, so there is nothing to predict; give a table of new rows.")

    @property
    def file(self) -> Path:
        """The file of the table; a built-in one is written first."""
        return Path(_there(self.asked).table)

    def table(self) -> Table:
        """Read the table."""
        return read_table(_there(self.asked))

    def fetch(self) -> None:
        _there(self.asked)

    def read_splits(self, stage: str) -> None:
        if self.manifest is None and stage != "predict":
            self.read = self.table()
            self.row_of = {key: row for row, key in enumerate(self.read.samples.keys)}
            self.twins = same_rows(self.read.columns, self.read.samples.targets) if stage == "fit" else []
        super().read_splits(stage)
        if self.read is not None and stage == "fit" and self.correction == "smote":
            self._oversample()
        self.read = None  # its columns are in x_NF now

    def samples(self) -> Samples:
        """List the rows and their targets."""
        read = self.read or self.table()
        self.settled |= {**read.settled, "table": str(self.file.absolute())}
        self.inferred = read.summary
        return read.samples

    def check_there(self, keys: list[str]) -> None:
        """Refuse a table whose rows are not those of the manifest: its row 7 may be another one by now.

        Raises:
            Mistake: A row is gone, or has another target or weight.
        """
        if self.read is not None:  # predict reads other rows
            self._check_manifest(READ_BY[self.stage])

    def check_agrees(self, samples: Samples) -> None:
        if self.manifest_path is not None:
            self._check_manifest(READ_BY["fit"])

    def _check_manifest(self, splits: Sequence[str]) -> None:
        assert self.manifest is not None
        assert self.read is not None
        if not self.manifest.agrees_with(self.read.samples, splits):
            raise Mistake(
                f"--data.table={self.asked.table!r} has other rows, targets or weights than the manifest "
                f"{self.manifest_path!r}, so other rows would be scored than were held out; give the table that the "
                "run began with, or train anew without --data.manifest."
            )

    def inputs(self, keys: list[str]) -> dict[str, Any]:
        """Settle the columns: of categories the values that training rows have, which are kept as the manifest has them
        in all that follows training.

        Raises:
            Mistake: No column is left to learn from.
        """
        assert self.manifest is not None
        known = self.manifest.schema.inputs
        if self.read is None or (known and self.stage != "fit"):
            self.columns = Columns.from_inputs(known)
            return self.columns.as_dict()
        rows_N = self._rows(keys)
        columns = [column for column in self.read.columns if constant(column, rows_N) is None]
        if not columns:
            raise Mistake(
                f"--data.table={self.asked.table!r} has no column that differs between training rows, so there is "
                "nothing to learn from; give one that does."
            )
        numbers = [column for column in columns if column.kind == "number"]
        categories = {
            column.name: sorted(column.words[code] for code in np.unique(column.values_N[rows_N]).tolist())
            for column in columns
            if column.kind == "category"
        }
        missing = [column.name for column in numbers if np.isnan(column.values_N[rows_N]).any()]
        self.columns = Columns([column.name for column in numbers], categories, missing)
        self.remarks = doubts(self.read, rows_N)
        return self.columns.as_dict()

    def before_reading(self, training: bool) -> None:
        """Lay the columns into one tensor."""
        if self.read is None:
            return
        by_name = {column.name: column for column in self.read.columns}
        samples = self.read.samples
        names = [*self.columns.numbers, *self.columns.categories]
        x_NF = np.empty((len(samples.keys), len(names)), np.float32)
        for place, name in enumerate(names):
            column = by_name[name]
            if place < len(self.columns.numbers):
                x_NF[:, place] = column.values_N
            else:
                code_of = {word: code + 1 for code, word in enumerate(self.columns.categories[name])}
                x_NF[:, place] = np.array([code_of.get(word, 0) for word in column.words])[column.values_N]
        self.x_NF = torch.from_numpy(x_NF)

    def _rows(self, keys: Sequence[str]) -> np.ndarray:
        return np.fromiter((self.row_of.get(key, -1) for key in keys), np.int64, len(keys))

    def dataset(self, keys: list[str], targets: np.ndarray, weights: np.ndarray | None = None) -> TableDataset:
        """Make the data set of some rows."""
        return TableDataset(self.x_NF, self._rows(keys), keys, targets, weights)

    @property
    def training_inputs(self) -> Tensor | None:
        """The training rows that count, raw: what scaling and embeddings are fitted on. None outside of a training."""
        if self.stage != "fit":
            return None
        rows_N = self._rows(self.train_keys)
        counts_N = rows_N >= 0  # SMOTE's rows are made of them
        if self.train_weights is not None:
            counts_N &= self.train_weights > 0
        return self.x_NF[torch.from_numpy(rows_N[counts_N])]

    def _oversample(self) -> None:
        if self.is_weighted:
            raise Mistake(
                "--data.balance=smote makes rows without a weight, and the rows of the table have weights, so they "
                "would not count as it says; give --data.balance sampler, or --data.weight none."
            )
        assert isinstance(self.target, Classes)
        x_NF = self.x_NF[torch.from_numpy(self._rows(self.train_keys))].numpy()
        known = len(self.train_keys)
        x_MF, target_M = oversampled(x_NF, self.train_targets, len(self.columns.numbers), self.target.names, self.seed)
        self.train_keys = [*self.train_keys, *(f"smote {number}" for number in range(len(x_MF) - known))]
        self.train_targets = target_M
        self.train = TableDataset(torch.from_numpy(x_MF), np.arange(len(x_MF)), self.train_keys, target_M)
        self.remarks.append(f"smote: {len(x_MF) - known:,} rows between neighbours beside {known:,} of the table")

    def corrections_of(self, target: Target) -> tuple[str, ...]:
        return (*target.corrections, "smote") if isinstance(target, Classes) else target.corrections

    def example(self, count: int) -> Tensor:
        """Return rows of training."""
        rows_N = self._rows(self.train_keys[:1])
        return self.x_NF[torch.from_numpy(np.resize(rows_N, count))]

    def same(self, keys: list[str]) -> list[list[int]]:
        """Return the positions of rows that are equal, which must not stand in two splits."""
        place_of = {row: place for place, row in enumerate(self._rows(keys).tolist())} if self.twins else {}
        found = [[place_of[row] for row in twins if row in place_of] for twins in self.twins]
        return [places for places in found if len(places) > 1]

    def fingerprint_of(self, samples: Samples) -> str:
        """Return a hash of all cells that are learned from, of targets and of keys."""
        return fingerprint(self.read or self.table())

    def plain(self, keys: list[str]) -> Plain:
        """Return rows as other libraries' models take them."""
        is_category_F = np.arange(self.x_NF.shape[1]) >= len(self.columns.numbers)
        return Plain(self.x_NF[torch.from_numpy(self._rows(keys))].numpy().astype(np.float64), is_category_F)

    def unlabelled(self) -> TableDataset:
        """Make the data set that ``predict`` reads.

        Raises:
            Mistake: No table is given, or a column is not there or of another kind.
        """
        flag, _ = self.to_predict
        if self.predict_table is None:
            raise Mistake(f"{flag} is not given, so there is nothing to predict; give a table of new rows.")
        new = read_rows(flag, self.predict_table, self.columns, self.asked.id, self.asked.missing)
        for remark in new.remarks:
            print(remark)
        x_NF = torch.from_numpy(np.column_stack(new.columns).astype(np.float32))
        return TableDataset(x_NF, np.arange(len(new.keys)), new.keys, np.full(len(new.keys), -1))


def _there(asked: Asked) -> Asked:
    """Return what is asked of a table that is there: a built-in one is written first, and its target is known."""
    if not is_built_in(asked.table):
        return asked
    target = asked.target or [TARGETS[asked.table]]
    return asked._replace(table=str(built_in(asked.table)), target=target)
