"""What is learned of a table: its target, by one column or several, and the task that these mean."""

from typing import TYPE_CHECKING

import numpy as np

from .arrow import RawColumn
from .cells import FLAGS, class_name, in_order, look_alike
from .kinds import Judge, numbers_of
from .mistakes import CONTROL, Mistake, Mistakes, all_such, shown, some
from .targets import FEW, Classes, Labels, Numbers, Task

if TYPE_CHECKING:
    from .tables import Asked

PER_VALUE = 10  # rows of one value from which on integers may be classes


class Outcome:
    """Reads the target of a table.

    Args:
        asked: The flags.
        flag: The flag that named the table, and its value.
        judge: Tells numbers.
        is_split: Whether the table gives the splits.
    """

    def __init__(self, asked: "Asked", flag: str, judge: Judge, is_split: bool) -> None:
        self.asked, self.flag, self.judge, self.is_split = asked, flag, judge, is_split
        self.remarks: list[str] = []
        self.notes: list[str] = []

    def read(self, columns: list[RawColumn]) -> tuple[Classes | Labels | Numbers, np.ndarray, np.ndarray]:
        """Return the target, its values (of no meaning where they are missing), and which rows lack it.

        Raises:
            Mistake: It could be more than one thing, or cannot be learned.
        """
        columns = [_without_none(column) for column in columns]
        has_none = np.logical_or.reduce([column.is_missing_N for column in columns])
        if has_none.all():
            raise Mistake(f"the target of {self.flag} is missing in all rows, so there is nothing to learn; give one.")
        if has_none.any():
            self._check_missing([column.name for column in columns], has_none)
        task = self._task(columns)
        if task == "regression":
            judge = self.judge
            numbers = []
            for column in columns:
                found = judge.as_numbers(column)
                assert found is not None
                assert found.numbers_N is not None
                if found.unit:
                    raise Mistake(
                        f"the target {column.name!r} of {self.flag} holds dates, and numbers are learned; give a "
                        "column of numbers, such as the days since a date."
                    )
                judge.check_numbers(found)
                numbers.append(found.numbers_N)
            names = [column.name for column in columns]
            if twice := sorted({f"true_{name}" for name in names} & set(names)):
                raise Mistake(
                    f"the target {twice[0]!r} of {self.flag} would have the name that predictions give the true value "
                    "of another; rename it."
                )
            return Numbers(names, self.asked.log_target), np.stack(numbers, axis=1), has_none
        if self.asked.log_target:
            raise Mistake(
                f"--data.log_target=true is for numbers, and --data.task is {task}, so there is no logarithm to learn; "
                "leave it out."
            )
        if task == "multilabel":
            return self._labels(columns, has_none)
        return self._classes(columns[0], has_none)

    def _task(self, columns: list[RawColumn]) -> Task:
        task, names = self.asked.task, [column.name for column in columns]
        if len(columns) > 1:
            are_flags, are_numbers = (all(map(check, columns)) for check in (_is_flag, _is_numbers))
            if task == "multiclass":
                raise Mistake(
                    f"--data.task=multiclass learns one column and --data.target names {len(columns)}; give one of "
                    f"them, or --data.task multilabel or regression."
                )
            if task == "auto" and not are_flags and not are_numbers:
                kinds = ", ".join(f"{column.name} {_called(column)}" for column in columns[:4])
                raise Mistake(
                    f"the targets of {self.flag} are of several kinds ({kinds}), and one model learns numbers or "
                    "labels (columns of 0 and 1); give targets of one kind."
                )
            if task == "auto":
                return "multilabel" if are_flags else "regression"
            return task  # pyright: ignore[reportReturnType]
        if task != "auto":
            return task  # pyright: ignore[reportReturnType]
        column, distinct = columns[0], len(columns[0].words)
        if _is_flag(column):
            return "multiclass"
        found = numbers_of(column.words)
        rows = int(np.count_nonzero(column.codes_N >= 0))
        if found.is_number_W.any() and not found.is_number_W.all():
            of_numbers = np.append(found.is_number_W, False)[column.codes_N].sum()
            if 2 * of_numbers >= rows:
                return "regression"  # which says what is no number
        if not found.is_number_W.all() or not distinct:
            if 2 * distinct > rows:
                raise self._ambiguous(names[0], "holds text of which most stands in one row alone, as classes do not")
            return "multiclass"
        if found.unit or found.unclear:
            return "regression"  # which says why it cannot be
        if not (found.values_W == np.floor(found.values_W)).all():
            return "regression"
        has_points = any("." in word for word in column.words[:1000].to_pylist())
        if distinct <= FEW and 2 * distinct <= rows:
            if has_points:
                raise self._ambiguous(names[0], "holds integers written as fractions, which may be classes or numbers")
            self.notes.append("as numbers: --data.task regression")
            return "multiclass"
        if (distinct > FEW and rows < PER_VALUE * distinct) or has_points:
            self.notes.append("as classes: --data.task multiclass")
            return "regression"
        raise self._ambiguous(names[0], f"holds {distinct} different integers, which may be classes or numbers")

    def _ambiguous(self, name: str, what: str) -> Mistake:
        return Mistake(
            f"the target {name!r} of {self.flag} {what}, so a guess could learn the wrong thing; give --data.task "
            "multiclass or regression, which decides."
        )

    def _labels(self, columns: list[RawColumn], has_none: np.ndarray) -> tuple[Labels, np.ndarray, np.ndarray]:
        flags = []
        for column in columns:
            if not _is_flag(column):
                word = next(word for word in column.words.to_pylist() if word.casefold() not in FLAGS)
                raise Mistake(
                    f"--data.task=multilabel reads columns of 0 and 1, and the target {column.name!r} of {self.flag} "
                    f"holds {shown(word)[:60]!r}; give the columns that do: --data.target '[A, B]'."
                )
            flag_W = np.array([*(FLAGS[word.casefold()] for word in column.words.to_pylist()), 0], np.uint8)
            flags.append(flag_W[column.codes_N])
        return Labels([column.name for column in columns]), np.stack(flags, axis=1), has_none

    def _classes(self, column: RawColumn, has_none: np.ndarray) -> tuple[Classes, np.ndarray, np.ndarray]:
        written = column.words.to_pylist()
        if wrong := [word for word in written if CONTROL.search(word)]:
            raise Mistake(
                f"the target {column.name!r} of {self.flag} holds {shown(wrong[0])[:60]!r}, with control characters, "
                "which would change a terminal; take them out."
            )
        found = numbers_of(column.words)
        is_whole = bool((found.values_W == np.floor(found.values_W)).all()) and not found.unit and not found.unclear
        is_whole = is_whole and all(set(word) <= set("+-0123456789.") for word in written)
        called = [class_name(word, is_whole and "." in word) for word in written]
        names = in_order(set(called))
        place = {name: i for i, name in enumerate(names)}
        self.remarks += look_alike(names)
        code_W = np.array([*(place[name] for name in called), 0], np.int64)
        return Classes(names), code_W[column.codes_N], has_none

    def _check_missing(self, names: list[str], has_none: np.ndarray) -> None:
        count, name = int(has_none.sum()), some(names)
        if self.asked.drop_missing_target:
            self.remarks.append(f"left out for want of {name}: {count:,} of {len(has_none):,} rows")
            return
        all_rows = self.judge.rows(np.flatnonzero(has_none).tolist())
        rows, each = all_rows[:3], [(f"row {row}", f"has no target: {name} is missing") for row in all_rows]
        line = (
            f"the target {name} of {self.flag} is missing in {count:,} of {len(has_none):,} rows (row"
            f"{'s' if count > 1 else ''} {', '.join(map(str, rows))}{' …' if count > 3 else ''}), so they can be "
            "neither learned nor scored; fill it in, or leave these rows out: --data.drop_missing_target "
            f"true{all_such()}."
        )
        raise Mistakes(line, each)

    def check(self, target: Classes | Labels | Numbers, targets: np.ndarray) -> None:
        """Refuse a target of which nothing can be learned, once the rows without it are gone.

        Raises:
            Mistake: It is the same in all rows, or a class stands in one row alone.
        """
        if isinstance(target, Numbers):
            for name, values_N in zip(target.names, targets.T, strict=True):
                if (values_N == values_N[0]).all():
                    raise self._constant(name, f"{values_N[0]:g}")
            return
        counts = target.counts(targets).tolist()
        if isinstance(target, Classes) and len(target.names) < 2:
            raise self._constant(self.asked.target[0] if self.asked.target else "target", target.names[0])
        if isinstance(target, Labels):
            for name, count in zip(target.names, counts, strict=True):
                if count in (0, len(targets)):
                    raise self._constant(name, f"{int(count > 0)}")
        once = [name for name, count in zip(target.names, counts, strict=True) if count == 1]
        if once and not self.is_split:
            what = f"{target.nouns if len(once) > 1 else target.noun} {shown(some(once, counted=True))}"
            line = (
                f"the {what} of {self.flag}: one row alone has it, so it could be learned or scored, not both; add "
                f"rows of it, join it to another, or take its rows away{all_such()}."
            )
            first = [int(target.holds(targets, target.names.index(name)).argmax()) for name in once]
            each = [
                (f"row {row}", f"the only one of {target.noun} {shown(name)}")
                for row, name in zip(self.judge.rows(first), once, strict=True)
            ]
            raise Mistakes(line, each, targets=once)

    def _constant(self, name: str, value: str) -> Mistake:
        return Mistake(
            f"the target {name!r} of {self.flag} is {shown(value)[:60]!r} in all rows, so there is nothing to learn; "
            "give another, or other rows."
        )


def _without_none(column: RawColumn) -> RawColumn:
    """Take None for a missing cell where the others are numbers or flags; of classes it may be one."""
    written = column.words.to_pylist()
    is_none = np.array([word.casefold() == "none" for word in written], dtype=bool)
    if not is_none.any():
        return column
    without = column.without(is_none)
    return without if _is_numbers(without) or _is_flag(without) or not len(without.words) else column


def _is_flag(column: RawColumn) -> bool:
    return 0 < len(column.words) <= len(FLAGS) and all(word.casefold() in FLAGS for word in column.words.to_pylist())


def _is_numbers(column: RawColumn) -> bool:
    return len(column.words) > 0 and bool(numbers_of(column.words).is_number_W.all())


def _called(column: RawColumn) -> str:
    return "flags" if _is_flag(column) else "numbers" if _is_numbers(column) else "text"
