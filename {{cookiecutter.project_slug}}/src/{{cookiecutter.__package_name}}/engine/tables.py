"""Tables: what a file of rows says. Which column is the target, which are inputs, which rows stay together.

How a file is read stands in arrow.py, what a column is in kinds.py, which columns give the target away in leaks.py.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .arrow import Missing, RawColumn, read_columns, row_numbers
from .delimited import RawTable, ReadOnce, asked_of, open_table, refused_rows, write_offenders
from .files import check_path
from .kinds import Column, Judge, Kind, Role, keys_of
from .mistakes import Mistake, Mistakes, all_such, shown, some, unknown
from .outcomes import Outcome
from .splits import SPLIT_WORDS, Samples, split_words
from .summaries import Line, lines_of, summary_of
from .targets import FEW, AskedTask, check_task

ID_NAMES = ("id", "Id", "ID")
FLAG = "--data.table"

__all__ = ["Asked", "Column", "Table", "fingerprint", "read_table"]


class Asked(NamedTuple):
    """What was asked of a table: the flags, ``--data.NAME``."""

    table: str
    target: list[str] | None = None
    task: AskedTask | str = "auto"
    numbers: list[str] | None = None
    categories: list[str] | None = None
    drop: list[str] | None = None
    group: str | None = None
    split_column: str | None = None
    weight: str | None = None
    id: str | None = None
    missing: list[str] | None = None
    drop_missing_target: bool = False
    log_target: bool = False

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the flags."""
        return cls._fields

    @classmethod
    def by(cls, settings: Mapping[str, Any]) -> "Asked":
        """Return what is asked of a table by settings, of which others may be among them."""
        return cls(**asked_of(cls.names(), settings, lists=("target", "numbers", "categories", "drop", "missing")))


class Table(NamedTuple):
    """What a table says.

    Args:
        samples: The rows: their keys, targets, given splits, groups and weights.
        columns: The inputs.
        settled: The flags, by name, with what was inferred, as a run's config keeps them.
        summary: What each column was taken for, in lines for people.
        lines: The same, by column.
        positions: Which rows of the file they are, where those without a target are left out; None where it is all.
    """

    samples: Samples
    columns: list[Column]
    settled: dict[str, Any]
    summary: str
    lines: Sequence[Line] = ()
    positions: np.ndarray | None = None


_last: ReadOnce[Table] = ReadOnce()


def read_table(asked: Asked) -> Table:
    """Read a table.

    What was read is kept for the next call alone: the command line asks for the task, the data module for the samples.

    Args:
        asked: The flags.

    Raises:
        Mistake: It cannot be read, a column could be more than one thing, or some rows cannot be used.
    """
    check_path(FLAG, asked.table)
    path = Path(asked.table)
    return _last(path, asked, lambda: _Reading(asked, path).table())


class _Roles(NamedTuple):
    """The names of the columns that are no inputs; None for what there is not."""

    target: list[str]
    id: str | None
    group: str | None
    split: str | None
    weight: str | None

    def others(self) -> list[str]:
        return [name for name in self[1:] if name is not None]


class _Reading:
    """Reads a table, and collects what is to be said of it."""

    def __init__(self, asked: Asked, path: Path) -> None:
        self.asked, self.path = asked, path
        self.flag = f"{FLAG}={asked.table!r}"
        check_task(asked.task)
        self.raw: RawTable = open_table(FLAG, path)
        self.positions: np.ndarray | None = None  # in the file, of the rows that are used
        self.remarks: list[str] = []
        self.notes: list[str] = []

    def table(self) -> Table:
        """Return what the table says.

        Raises:
            Mistake: It cannot be used.
        """
        asked, names = self.asked, [name for name in self.raw.names if name]
        if unnamed := len(self.raw.names) - len(names):
            self.remarks.append(
                f"{unnamed} column{'s' if unnamed > 1 else ''} without a name, or without text and numbers, left out"
            )
        self._check_names(names)
        roles = self._roles(names)
        dropped = set(asked.drop or ())
        first = [*roles.target, *roles.others()]
        wanted = [*first, *(name for name in names if name not in dropped and name not in first)]
        words = {*roles.target, *(asked.categories or ()), *(role for role in roles[1:4] if role is not None)}
        read = read_columns(FLAG, self.raw, wanted, words, asked.missing, roles.target)
        columns = {column.name: column for column in islice(read, len(first))}
        count = len(columns[first[0]])
        if count < 2:
            raise Mistake(
                f"{self.flag} has {'a header and no rows' if not count else 'one row'}, so there is nothing to learn; "
                "give a table with a row for each sample."
            )
        roles = self._settled(roles, columns)
        outcome = Outcome(asked, self.flag, self._judge("target"), roles.split is not None)
        target, targets, has_none = outcome.read([columns.pop(name) for name in roles.target])
        self.remarks += outcome.remarks
        self.notes += outcome.notes
        if has_none.any():
            keeps, targets = ~has_none, targets[~has_none]
            self.positions = np.flatnonzero(keeps)
            columns = {name: column.kept(keeps) for name, column in columns.items()}
            read = (column.kept(keeps) for column in read)
        outcome.check(target, targets)
        for name, values_N in zip(target.names, targets.T, strict=True) if asked.log_target else ():
            if (values_N <= 0).any():
                self._refuse(name, np.flatnonzero(values_N <= 0), values_N, f"{name} has no logarithm")
        keys = self._keys(roles, columns, len(targets))
        given, groups = self._given(roles, columns), self._groups(roles, columns)
        weights = self._weights(roles, columns)
        no_splits = [column for name, column in columns.items() if name not in roles.others()]
        inputs, lines = self._inputs(chain(no_splits, read))
        inputs.sort(key=lambda column: names.index(column.name))
        settled = {
            "target": roles.target,
            "task": target.task,
            "numbers": [column.name for column in inputs if column.kind == "number"],
            "categories": [column.name for column in inputs if column.kind == "category"],
            "drop": [name for name in names if name in dropped or lines.get(name, _INPUT).kind == "dropped"],
            "group": roles.group or "none",
            "split_column": roles.split or "none",
            "weight": roles.weight or "none",
            "id": roles.id or "none",
        }
        samples = Samples(keys, targets, target, given, "", groups, weights, self.remarks)
        lines |= {name: Line(name, "dropped", about="by --data.drop") for name in names if name in dropped}
        lines |= lines_of(roles.target, target, targets)
        said = [lines[name] for name in names if name in lines]
        return Table(samples, inputs, settled, self._summary(roles, samples, said), said, self.positions)

    # Which column is what

    def _check_names(self, names: list[str]) -> None:
        asked = self.asked
        if len(names) < 2:
            raise Mistake(f"{self.flag} has one column, so there is nothing to learn from; give inputs and a target.")
        for flag in ("target", "numbers", "categories", "drop"):
            for name in getattr(asked, flag) or ():
                if name not in names:
                    raise Mistake(unknown(f"--data.{flag}", name, names))
        for flag in ("group", "split_column", "weight", "id"):
            name = getattr(asked, flag)
            if name is not None and name not in names and name != "none":
                raise Mistake(unknown(f"--data.{flag}", name, names))
        roles = [getattr(asked, flag) for flag in ("group", "split_column", "weight", "id")]
        target = ["target"] if asked.target is None and "target" in names else []
        lists = [name for flag in ("target", "numbers", "categories", "drop") for name in getattr(asked, flag) or ()]
        lists += target
        counts = Counter([*lists, *(name for name in roles if name in names)])
        if twice := [name for name, count in counts.items() if count > 1]:
            raise Mistake(
                f"the column {twice[0]!r} of {self.flag} is asked to be two things, so one of them would be wrong; "
                "name it in one flag, and once."
            )

    def _roles(self, names: list[str]) -> _Roles:
        asked = self.asked
        target = asked.target
        if target is None:
            if "target" not in names:
                raise Mistake(
                    f"{self.flag} has the columns {', '.join(map(shown, names[:20]))}{' …' if len(names) > 20 else ''} "
                    "and none is called target, so it is not known what to learn; give --data.target NAME."
                )
            target = ["target"]
            self.notes.append("the column of that name")
        if not target:
            raise Mistake("--data.target='[]' names no column, so there is nothing to learn; give --data.target NAME.")
        taken = {*target, *(asked.numbers or ()), *(asked.categories or ()), *(asked.drop or ())}
        taken |= {asked.group, asked.split_column, asked.weight, asked.id}
        if asked.weight is None and "weight" in names and "weight" not in taken:
            raise Mistake(
                f"the column 'weight' of {self.flag} may be how much each row counts, or something that is known of "
                "it, so a guess could learn the wrong thing; give --data.weight weight, or --data.weight none."
            )

        def chosen(asked_for: str | None, *known: str) -> str | None:
            if asked_for is not None:
                return asked_for if asked_for in names else None
            return next((name for name in known if name in names and name not in taken), None)

        return _Roles(
            target,
            chosen(asked.id, *ID_NAMES),
            chosen(asked.group, "group"),
            chosen(asked.split_column, "split"),
            chosen(asked.weight),
        )

    def _settled(self, roles: _Roles, columns: dict[str, RawColumn]) -> _Roles:
        """Leave out what was found by its name and holds other things than its name says."""
        if roles.id is not None and self.asked.id is None:
            column = columns[roles.id]
            if len(column.words) < len(column) or column.is_missing_N.any():
                name = roles.id
                raise Mistake(
                    f"the values of the column {name!r} of {self.flag} recur or are missing, so it does not name the "
                    f"rows; say what it is: --data.group {name} if rows of one must not be parted, --data.drop "
                    f"'[{name}]', or --data.categories '[{name}]'."
                )
        if roles.split is not None and self.asked.split_column is None:
            words = columns[roles.split].words.to_pylist() if len(columns[roles.split].words) < FEW else [""]
            if not all(word.casefold() in SPLIT_WORDS for word in words) or columns[roles.split].is_missing_N.any():
                self.remarks.append(
                    f"the column {roles.split!r} names no splits (train, val, test) and is taken for an input"
                )
                return roles._replace(split=None)
        return roles

    # The rows

    def _rows(self, positions: Sequence[int]) -> list[int]:
        """Return the numbers of rows as a spreadsheet counts."""
        in_file = positions if self.positions is None else self.positions[list(positions)].tolist()
        return row_numbers(self.raw, in_file)

    def _refuse(self, name: str, wrong: np.ndarray, cells: Any, reason: str) -> None:
        """Refuse rows by the cells of a column, which are given or those that the column has."""
        positions = wrong.tolist()
        if isinstance(cells, RawColumn):
            values = cells.cells(positions)
        else:
            values = [f"{cells[position]:.12g}" for position in positions]
        offenders = [(row, name, value, reason) for row, value in zip(self._rows(positions), values, strict=True)]
        raise refused_rows(FLAG, self.path, "column", offenders, f"mend them or take them away{all_such()}")

    def _keys(self, roles: _Roles, columns: dict[str, RawColumn], count: int) -> list[str]:
        if roles.id is None:
            positions = range(count) if self.positions is None else self.positions.tolist()
            return [str(position) for position in positions]
        column = columns[roles.id]
        return keys_of(column, lambda wrong, reason: self._refuse(column.name, wrong, column, reason))

    def _given(self, roles: _Roles, columns: dict[str, RawColumn]) -> list[str] | None:
        if roles.split is None:
            return None
        column = columns[roles.split]
        means, takes_flags = split_words(column.name)
        splits = [*(means.get(word.casefold(), "") for word in column.words.to_pylist()), ""]
        is_wrong = np.array([not split for split in splits])[column.codes_N]
        if is_wrong.any():
            what = "train, val or test" + (", or true or false" if takes_flags else "")
            self._refuse(column.name, np.flatnonzero(is_wrong), column, f"{column.name} names no split ({what})")
        if "train" not in splits:
            raise Mistake(
                f"the column {column.name!r} of {self.flag} names no row for training, so there is nothing to train "
                "on; write train there, or give --data.split_column none if it is no split."
            )
        return [splits[code] for code in column.codes_N.tolist()]

    def _groups(self, roles: _Roles, columns: dict[str, RawColumn]) -> np.ndarray | None:
        if roles.group is None:
            return None
        column = columns[roles.group]
        if column.is_missing_N.any():
            self._refuse(column.name, np.flatnonzero(column.is_missing_N), column, f"{column.name} names no group")
        return column.codes_N.astype(np.int64)

    def _weights(self, roles: _Roles, columns: dict[str, RawColumn]) -> np.ndarray | None:
        if roles.weight is None:
            return None
        column = columns[roles.weight]
        found = column if column.numbers_N is not None else self._judge("weight").as_numbers(column)
        assert found is not None
        assert found.numbers_N is not None
        weights_N = found.numbers_N
        with np.errstate(invalid="ignore"):
            is_right = np.isfinite(weights_N) & (weights_N >= 0)
        if not is_right.all():
            self._refuse(column.name, np.flatnonzero(~is_right), column, f"{column.name} is no number from 0 up")
        if not weights_N.any():
            raise Mistake(
                f"the weights in the column {column.name!r} of {self.flag} are all 0, so nothing would count; give one "
                "above 0."
            )
        return weights_N

    # The inputs

    def _judge(self, role: Role = "input") -> Judge:
        def note(offenders: list[tuple[int, str, str, str]]) -> str:
            return f"; {write_offenders(self.path, 'column', offenders)}"

        return Judge(self.flag, Missing.of(self.asked.missing), self._rows, note, role)

    def _inputs(self, columns: Iterable[RawColumn]) -> tuple[list[Column], dict[str, Line]]:
        """Tell what each column is."""
        asked: dict[str, Kind] = dict.fromkeys(self.asked.numbers or (), "number")
        asked |= dict.fromkeys(self.asked.categories or (), "category")
        inputs, lines, problems, judge = [], {}, [], self._judge()
        for column in columns:
            try:
                judged = judge.judge(column, asked.get(column.name))
            except Mistake as mistake:
                problems.append((column.name, mistake))
                continue
            lines[column.name] = judged.line
            self.remarks += judged.remarks
            inputs += [judged.column] if judged.column is not None else []
        if problems:
            others = [name for name, _ in problems[1:]]
            more = f" (So it is with {len(others)} more: {shown(some(others))}.)" if others else ""
            each: list[tuple[str, str]] = []
            for name, mistake in problems:
                each += [(f"column {shown(name)}", str(mistake)), *getattr(mistake, "each", ())]
            raise Mistakes(f"{problems[0][1]}{more}", each, [name for name, _ in problems])
        if not inputs:
            why = "; ".join(f"{shown(line.name)} {line.about}" for line in list(lines.values())[:4])
            raise Mistake(
                f"{self.flag} has no column to learn from ({why or 'all are left out'}); give the flag that keeps one, "
                "--data.numbers '[NAME]' or --data.categories '[NAME]'."
            )
        return inputs, lines

    def _summary(self, roles: _Roles, samples: Samples, lines: list[Line]) -> str:
        target = samples.target
        what = {"multiclass": f"{len(target.names)} classes", "multilabel": f"{len(target.names)} labels"}
        kind = what.get(target.task, "a number" if len(target.names) == 1 else f"{len(target.names)} numbers")
        log = [", of which the logarithm is learned"] if self.asked.log_target else []
        notes = "".join([*log, *(f"; {note}" for note in self.notes)])
        said = [f"{len(samples.keys):,} rows", f"target {some(roles.target, counted=True)} ({kind}{notes})"]
        by_role = {"id": roles.id, "splits": roles.split, "groups": roles.group, "weights": roles.weight}
        said += [f"{role} by {name}" for role, name in by_role.items() if name]
        return shown(f"table: {self.asked.table}: " + ", ".join(said)) + "\n" + summary_of(lines)


_INPUT = Line("", "number")


def fingerprint(table: Table) -> str:
    """Return a hash of the inputs, the targets, the keys and the weights of a table."""
    digest, samples = hashlib.sha256(), table.samples
    for column in table.columns:
        digest.update(json.dumps([column.name, column.kind, column.words]).encode())
        values_N = column.values_N
        if column.kind == "number":  # one NaN for all, and one zero
            values_N = np.where(np.isnan(values_N), np.float32(np.nan), values_N + np.float32(0))
        digest.update(np.ascontiguousarray(values_N).tobytes())
    digest.update(json.dumps(samples.target.as_dict()).encode())
    digest.update(np.ascontiguousarray(samples.targets).tobytes())
    digest.update("\0".join(samples.keys).encode())
    if samples.weights is not None:
        digest.update(np.ascontiguousarray(samples.weights).tobytes())
    return digest.hexdigest()
