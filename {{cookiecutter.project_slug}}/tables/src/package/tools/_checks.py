"""What ``verify`` looks for in a table: cells, rows and columns, as training reads them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.arrow import row_numbers
from ..engine.delimited import open_table
from ..engine.kinds import Column
from ..engine.leaks import MANY, equal_rows, idle, leaks, unseen
from ..engine.mistakes import Mistake, Mistakes, shown
from ..engine.splits import Samples
from ..engine.summaries import summary_of
from ..engine.table_files import TableFiles
from ..engine.tables import FLAG, Table
from ..engine.targets import Numbers
from ._findings import Findings, Kind, in_line, without_rows

CONSTANT = Kind("warning", "constant columns", "they tell nothing, and are left out")
UNIQUE = Kind("note", "columns that name rows", "nearly every row has a value of its own, so they are left out")
RARE_WORDS = Kind("warning", "columns of rare values", "few rows share one, so little can be learned of each")
MISSING = Kind("note", "missing values", "read as missing, which the model learns too")
MOSTLY_MISSING = Kind("warning", "mostly missing", "little is known of these columns; --data.drop leaves them out")
OUTLIER = Kind("warning", "outliers", "far from all others: a slip, another unit, a code for a missing value?")
LONG_TAIL = Kind("note", "long tails", "many values lie far out")
LEAK = Kind("warning", "like the target", "is it known before the target is? --data.drop leaves it out")
IDLE = Kind("warning", "constant in training", "other rows differ, but nothing can be learned of it")
UNSEEN = Kind("note", "values that training lacks", "read as unknown")
COPIES = Kind("warning", "equal rows", "each counts as often as it is there")
FEW = Kind("note", "equal rows", "the table has few combinations of values")
AMBIGUOUS = Kind("note", "equal inputs, other target", "no model can tell them apart")

FAR = 12.0  # robust deviations from the median
FEW_OUTLIERS = 0.005  # the share of rows up to which far values are outliers, and no long tail
SHARED = 3  # rows that share a value of a category, in the mean
MOST_LISTED = 1000  # rows of one finding


class Checks:
    """Looks at the rows and columns of a table.

    Args:
        data: The data module.
        found: Takes what is found.
    """

    def __init__(self, data: Any, found: Findings) -> None:
        if not isinstance(data, TableFiles):
            raise Mistake(f"{type(data).__name__} holds no table, which is what verify reads here.")
        self.data, self.found = data, found
        self.keys: list[str] = []
        self.same: list[list[int]] = []
        self.numbers: list[int] = []  # of the rows, as a spreadsheet counts
        self.last = 0  # that of the last row
        self.table: Table | None = None
        self.drops_missing = self.data.asked.drop_missing_target
        self.refused: list[str] = []  # columns

    @property
    def place(self) -> str:
        """The data, as they were named."""
        return str(self.data.file)

    @property
    def of_list(self) -> str:
        """What the list of what could be removed holds."""
        return f"rows of {in_line(self.place)}"

    def holds(self, file: Path) -> bool:
        """Tell whether a file is the table."""
        return file == Path(os.path.realpath(self.data.asked.table))

    def name(self, i: int) -> str:
        """Return what a row is called."""
        return f"row {self.numbers[i]}"

    def removable(self, i: int) -> str:
        """Return the number of a row."""
        return str(self.numbers[i])

    def command(self, file: Path, is_odd: bool) -> str:
        """Return the command that makes a table without the rows of a list."""
        return without_rows(file, self.data.file, self.last)

    def read(self) -> Samples | None:
        """Read the table; returns None where fit would refuse all that could be read of it."""
        self.table = self._read_what_can_be()
        if self.table is None:
            return None
        table, data = self.table, self.data
        data.read = table  # as setup has it
        data.row_of = {key: row for row, key in enumerate(table.samples.keys)}
        samples = data.samples()
        if not self.drops_missing:  # else these rows were found above
            samples = replace(samples, remarks=[each for each in samples.remarks if not each.startswith("left out")])
        self.keys = samples.keys
        raw = open_table(FLAG, data.file)
        positions = range(len(self.keys)) if table.positions is None else table.positions.tolist()
        self.numbers = row_numbers(raw, positions)
        self.last = max(self.numbers[-1], *(number for number in map(_number, self._places()) if number), 0)
        self._look_at_columns(table)
        self._look_for_outliers(table)
        self._look_for_equal_rows(table)
        return samples

    def _places(self) -> list[str]:
        return [each.where for each in self.found.found]

    def _read_what_can_be(self) -> Table | None:
        """Read the table as fit does; what is refused is noted and left out, as long as a table remains."""
        data, said = self.data, set()
        while True:
            try:
                return data.table()
            except Mistake as mistake:
                if str(mistake) in said:
                    return None
                said.add(str(mistake))
                self.found.add_refusal(mistake, self.place)
                if not isinstance(mistake, Mistakes):
                    if len(said) == 1:  # nothing is known of the rows
                        raise
                    return None
                if mistake.targets:  # as if these rows had none
                    missing = [*(data.asked.missing or ()), *mistake.targets]
                    data.asked = data.asked._replace(missing=missing, drop_missing_target=True)
                    self.found.to_remove += [str(_number(place)) for place, _ in mistake.each]
                elif mistake.columns:
                    self.refused += mistake.columns
                    data.asked = data.asked._replace(drop=[*(data.asked.drop or ()), *mistake.columns])
                elif not data.asked.drop_missing_target:
                    self.found.to_remove += [str(number) for place, _ in mistake.each if (number := _number(place))]
                    data.asked = data.asked._replace(drop_missing_target=True)
                else:
                    return None

    def _look_at_columns(self, table: Table) -> None:
        count = len(self.keys)
        for line in table.lines:
            if line.name in self.refused or line.about == "by --data.drop":
                continue
            where = f"column {shown(line.name)}"
            if line.kind == "dropped" and (line.about.endswith("in all rows") or line.about == "has no values"):
                self.found.add(CONSTANT, where, line.about)
            elif line.kind == "dropped":
                self.found.add(UNIQUE, where, line.about)
            elif line.missing:
                kind = MOSTLY_MISSING if 2 * line.missing > count else MISSING
                self.found.add(kind, where, f"{line.missing:,} of {count:,} rows ({line.missing / count:.1%})")
            if line.kind == "category" and line.distinct * SHARED > count - line.missing:
                self.found.add(RARE_WORDS, where, f"{line.distinct:,} different values in {count:,} rows")

    def _look_for_outliers(self, table: Table) -> None:
        columns = [(column.name, column.values_N) for column in table.columns if column.kind == "number"]
        if isinstance(table.samples.target, Numbers):
            columns += list(zip(table.samples.target.names, table.samples.targets.T, strict=True))
        for name, values_N in columns:
            far = np.flatnonzero(is_outlier(values_N.astype(np.float64)))
            present_N = values_N[~np.isnan(values_N)]
            usual = f"the median is {np.median(present_N):.6g}" if len(present_N) else ""
            if len(far) > max(3, FEW_OUTLIERS * len(values_N)):
                values, counts = np.unique(values_N[far], return_counts=True)
                most = f"{values[counts.argmax()]:.6g} in {counts.max():,} of them, " if counts.max() > 1 else ""
                detail = f"{len(far):,} values from {values[0]:.6g} to {values[-1]:.6g}, {most}{usual}"
                self.found.add(LONG_TAIL, f"column {shown(name)}", detail)
            else:
                for i in far.tolist():
                    self.found.add(OUTLIER, self.name(i), f"{shown(name)} is {values_N[i]:.6g}, {usual}")

    def _look_for_equal_rows(self, table: Table) -> None:
        samples, count = table.samples, len(self.keys)
        equal = equal_rows(table.columns, samples.targets)
        if (number := sum(map(len, equal))) > MANY * count:
            self.found.add(FEW, "", f"{number:,} of {count:,} rows are equal to another one")
        else:
            self.same = [group.tolist() for group in equal]
        alike = equal_rows(table.columns, np.zeros(count))
        other = [group for group in alike if (samples.targets[group] != samples.targets[group[0]]).any()]
        if (number := sum(map(len, other))) > MANY * count:
            self.found.add(AMBIGUOUS, "", f"{number:,} of {count:,} rows have the inputs of one with another target")
            return
        for first, *rest in (group.tolist() for group in other):
            for i in rest:
                if np.any(samples.targets[i] != samples.targets[first]):
                    told = ["; ".join(samples.target.told(samples.targets[j])) for j in (i, first)]
                    self.found.add(AMBIGUOUS, self.name(i), " and ".join(told), self.name(first))

    def compare(self, samples: Samples, split_of: dict[str, str]) -> None:
        """Find what tells of the target, or of nothing, by the training rows."""
        train = np.flatnonzero([split_of.get(key) == "train" for key in samples.keys])
        if self.table is None or not len(train):
            return
        columns: list[Column] = self.table.columns
        said = {
            LEAK: leaks(columns, samples.targets, samples.target, train),
            IDLE: idle(columns, train),
            UNSEEN: unseen(columns, train, share=0.0),
        }
        for kind, lines in said.items():
            for line in lines:
                self.found.add(kind, "", line.removeprefix("leak? "))

    def summary(self) -> str:
        """Say what was read."""
        if self.table is None:
            return f"verify: {in_line(self.place)} could not be read as a table of samples"
        first = self.table.summary.splitlines()[0].removeprefix("table: ")
        lines = [
            each._replace(about="refused, see below") if each.name in self.refused else each
            for each in self.table.lines
        ]
        return f"verify: {first}\n{summary_of(lines)}"


def is_outlier(values_N: np.ndarray) -> np.ndarray:
    """Tell which values lie far from the others, in robust deviations; of positive ones in their logarithm, too.

    The deviation is that between the quartiles, as large as the standard deviation of normal numbers; on each side that
    of this side.
    """
    is_far = _is_far(values_N)
    if is_far.any() and np.nanmin(values_N) > 0:
        is_far &= _is_far(np.log(values_N))
    return is_far


def _is_far(values_N: np.ndarray) -> np.ndarray:
    present_N = values_N[~np.isnan(values_N)]
    if len(present_N) < 10:
        return np.zeros(len(values_N), bool)
    low, median, high = np.quantile(present_N, [0.25, 0.5, 0.75])
    if low == median or median == high:  # of many equal values nothing is known of the rest
        return np.zeros(len(values_N), bool)
    deviation_N = np.where(values_N > median, high - median, median - low) / 0.6745
    with np.errstate(invalid="ignore"):
        return np.abs(values_N - median) > FAR * deviation_N


def _number(place: str) -> int:
    """Return the number of the row that a finding is about; 0 if it is about none."""
    return int(place.removeprefix("row ")) if place.startswith("row ") else 0
