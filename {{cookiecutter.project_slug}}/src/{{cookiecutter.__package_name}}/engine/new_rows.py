"""Rows of a table that a model is to predict: its columns, in its vocabulary, checked against what it learned."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .arrow import Missing, RawColumn, read_columns, row_numbers
from .delimited import open_table, refused_rows, write_offenders
from .encoding import Columns
from .files import check_path
from .kinds import Judge, as_words, keys_of
from .mistakes import Mistake, shown, some


class NewRows(NamedTuple):
    """Rows to predict.

    Args:
        keys: What each row is known by.
        columns: The numbers (float32, NaN for a missing cell), then the categories (0 for an unknown value, i + 1 for
            the value at i of the vocabulary), (N,) each.
        remarks: What is to be said of them, a line each.
    """

    keys: list[str]
    columns: list[np.ndarray]
    remarks: list[str]


def read_rows(
    flag: str, path: str, columns: Columns, id: str | None = None, missing: Sequence[str] | None = None
) -> NewRows:
    """Read rows that are to be predicted.

    Args:
        flag: The flag that named the table.
        path: Its file.
        columns: The columns that the model learned from.
        id: The column that names the rows; None or "none" for their position.
        missing: What means a missing cell, beside the usual words.

    Raises:
        Mistake: It cannot be read, lacks columns, or holds other things in them than the model learned.
    """
    check_path(flag, path)
    raw = open_table(flag, Path(path), one_column=True)
    names = [name for name in raw.names if name]
    needed = [*columns.numbers, *columns.categories]
    id = None if id == "none" else id
    extra = [name for name in names if name not in needed and name != id]
    if absent := [name for name in needed if name not in names]:
        raise _lacking(f"{flag}={path!r}", absent, extra)
    keyed = [id] if id is not None and id in names and id not in needed else []
    read = list(read_columns(flag, raw, [*needed, *keyed], [*columns.categories, *keyed], missing))
    count = len(read[0]) if read else 0
    if not count:
        raise Mistake(f"{flag}={path!r} has a header and no rows, so there is nothing to predict; add some.")

    def rows(positions: Sequence[int]) -> list[int]:
        return row_numbers(raw, positions)

    def note(offenders: list[tuple[int, str, str, str]]) -> str:
        return f"; {write_offenders(Path(path), 'column', offenders)}"

    judge = Judge(f"{flag}={path!r}", Missing.of(missing), rows, note, "new")
    remarks, values = [], []
    for column in read[: len(columns.numbers)]:
        found = column if column.numbers_N is not None else judge.as_numbers(column)
        assert found is not None
        judge.check_numbers(found)
        remarks += [f"{shown(column.name)} is read as {found.unit}"] if found.unit else []
        values.append(np.asarray(found.numbers_N, np.float32))
    for column in read[len(columns.numbers) : len(needed)]:
        codes_N, said = _coded(as_words(column), columns.categories[column.name])
        values.append(codes_N)
        remarks += said
    if extra:
        remarks.append(f"not used, for the model did not learn from them: {shown(some(extra, counted=True))}")
    if not keyed:
        remarks += [f"the column {id!r} is not there: rows are named by their position"] if id is not None else []
        return NewRows([str(position) for position in range(count)], values, remarks)
    return NewRows(keys_of(read[-1], _refuser(flag, Path(path), read[-1], rows)), values, remarks)


def _refuser(
    flag: str, path: Path, column: RawColumn, rows: Callable[[Sequence[int]], list[int]]
) -> Callable[[np.ndarray, str], None]:
    def refuse(wrong: np.ndarray, reason: str) -> None:
        cells = zip(rows(wrong.tolist()), column.cells(wrong), strict=True)
        offenders = [(row, column.name, cell, reason) for row, cell in cells]
        raise refused_rows(flag, path, "column", offenders, "mend them or take them away")

    return refuse


def _lacking(flag: str, absent: list[str], extra: list[str]) -> Mistake:
    """Word which columns are not there, each with the one that it may be called now."""
    said, left = [], list(extra)
    for name in absent:
        folded = {other.casefold(): other for other in left}
        near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
        if near:
            left.remove(folded[near[0]])
        said.append(f"{shown(name)!r}" + (f" (is it {shown(folded[near[0]])!r}?)" if near else ""))
    others = f"; it has, beside those that are known, {shown(some(extra, counted=True))}" if extra else ""
    are = "columns" if len(absent) > 1 else "column"
    return Mistake(
        f"{flag} lacks the {are} {some(said, counted=True)} that the model learned from, so nothing can be predicted"
        f"{others}; add the {are}, or rename what is called otherwise."
    )


def _coded(column: RawColumn, vocabulary: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return the codes of a category's cells, and how many are unknown."""
    number = {word: i + 1 for i, word in enumerate(vocabulary)}
    words = column.words.to_pylist()
    code_W = np.array([*(_code(word, number) for word in words), number.get("", 0)], np.int32)
    codes_N = code_W[column.codes_N]
    unknown = codes_N == 0
    if not unknown.any():
        return codes_N, []
    unseen = [repr(shown(word)[:40]) for word, code in zip(words, code_W.tolist(), strict=False) if not code]
    unseen += ["missing cells"] if (column.codes_N[unknown] < 0).any() else []
    return codes_N, [
        f"{shown(column.name)}: {unknown.sum():,} of {len(codes_N):,} rows have a value that training had not "
        f"({some(unseen, counted=True)}): read as unknown"
    ]


def _code(word: str, number: dict[str, int]) -> int:
    """Return the code of a word; of 2.0 that of 2, of True that of true, where these alone are known."""
    if word in number:
        return number[word]
    whole, point, zeros = word.partition(".")
    if point and whole.lstrip("-").isdecimal() and not zeros.strip("0"):
        return number.get(whole, 0)
    if word.casefold() in ("true", "false"):
        return number.get(word.casefold(), number.get(word.capitalize(), number.get(word.upper(), 0)))
    return 0
