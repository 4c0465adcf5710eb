"""What each column of a table is: numbers, categories, or nothing that a model could learn from.

Only what is certain is inferred; what could be read in two ways is refused, with the flag that decides.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from .arrow import DAY, DAYS, EXACT, Missing, RawColumn, pc
from .cells import in_flag
from .mistakes import CONTROL, Mistake, Mistakes, shown
from .summaries import Line, cut, most_frequent, range_of

Kind = Literal["number", "category"]
Role = Literal["input", "target", "weight", "new"]  # new: of rows that are to be predicted

PLAIN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
DECIMAL_COMMA = r"^[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?$"
ONE_THOUSAND = r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$"  # or a decimal comma
THOUSANDS = r"^[+-]?[1-9][0-9]{0,2}((,[0-9]{3}){2,}(\.[0-9]*)?|,[0-9]{3}\.[0-9]*)$"  # which is nothing else
DATE = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
OTHER_DATE = re.compile(r"[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{1,4}.*")
WITH_SIGN = re.compile(r"[$€£¥]?\s*[+-]?[0-9][0-9.,]*\s*[%$€£¥a-zA-Z]{0,3}")
ID_NAME = re.compile(r"(.*[_\W])?id|.*(?<=[a-z])(Id|ID)", re.IGNORECASE | re.DOTALL)
FEW_ROWS = 10  # up to which integers that count up may be more than a number of the row
MANY_ROWS = 50  # from which on text that rarely recurs is free text
MERGED = 1e-3  # the share of distinct numbers that 32 bits may merge
COARSE = 1e-6  # of the spread: a rounding below it changes nothing


@dataclass
class Column:
    """An input of a model.

    Args:
        name: Its name.
        kind: Whether its values are numbers, or positions among ``words``.
        values_N: float32 with NaN for a missing cell; or int32.
        words: Of a category its distinct values, sorted; "" is that of a missing cell.
    """

    name: str
    kind: Kind
    values_N: np.ndarray
    words: list[str] = field(default_factory=list)


class Judged(NamedTuple):
    """What was made of a column: an input, or None where it is left out; what is said of it, and what is doubtful."""

    column: Column | None
    line: Line
    remarks: list[str]


class Numbers(NamedTuple):
    """The words of a column as numbers.

    Args:
        values_W: The number that each word is, NaN where it is none.
        is_number_W: Whether it is one, or has the form of one that could be read in two ways.
        unit: What the numbers count, where the words are dates.
        unclear: Why it is not clear which numbers they are.
        too_large: The words that are integers which 64 bits do not hold.
    """

    values_W: np.ndarray
    is_number_W: np.ndarray
    unit: str
    unclear: str
    too_large: list[int]


def _matches(words: pa.StringArray, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(words, pattern).to_numpy(zero_copy_only=False).astype(bool)


def numbers_of(words: pa.StringArray) -> Numbers:
    """Tell which words are numbers, or dates, and which."""
    is_plain = _matches(words, PLAIN)
    is_date = np.zeros(len(words), dtype=bool) if is_plain.any() else _matches(words, DATE)
    if is_date.any():
        values_W = np.full(len(words), np.nan)
        values_W[is_date] = _days(words.filter(pa.array(is_date)))
        return Numbers(values_W, np.isfinite(values_W), DAYS, "", [])
    is_decimal, is_one = _matches(words, DECIMAL_COMMA), _matches(words, ONE_THOUSAND)
    is_sure = _matches(words, THOUSANDS)
    unclear = ""
    if is_sure.any():
        is_thousand, is_decimal = is_sure | is_one, np.zeros(len(words), dtype=bool)
    elif (is_decimal & ~is_one).any():
        is_thousand = np.zeros(len(words), dtype=bool)
        if _matches(words, r"\.").any():
            unclear = "numbers with a comma and others with a point, so it is not clear which one is decimal"
    else:
        is_thousand, is_decimal = is_one, np.zeros(len(words), dtype=bool)
        if is_one.any():
            unclear = "numbers with three digits behind a comma alone, so 1,234 could be a thousand or one"
    is_number = is_plain | is_decimal | is_thousand
    written = words.filter(pa.array(is_number))
    written = pc.replace_substring(written, ",", "" if is_thousand.any() else ".")
    written = pc.replace_substring_regex(written, r"^\+", "")
    values_W = np.full(len(words), np.nan)
    values_W[is_number] = pc.cast(written, pa.float64()).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        large = np.flatnonzero(np.abs(values_W) >= EXACT).tolist()
    too_large = [i for i in large if (word := words[i].as_py().lstrip("+-")).isdecimal() and int(word) > EXACT]
    return Numbers(values_W, is_number, "", unclear, too_large)


def _days(words: pa.StringArray) -> np.ndarray:
    """Return the days since 1970 of dates and times, NaN for what is none, such as February 30."""
    try:
        moments = pc.cast(words, pa.timestamp("us"))
        return moments.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(np.int64) / DAY
    except pa.ArrowInvalid:  # zones, or days that there are not
        pass
    days = np.full(len(words), np.nan)
    for i, word in enumerate(words.to_pylist()):
        stamp, zone = re.fullmatch(r"(.{10}(?:.[^Z+-]*)?)(Z|[+-].*)?", word).groups()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            moment = np.datetime64(stamp.replace(",", "."), "us")
        except ValueError:
            continue
        if zone and zone != "Z":
            digits = zone[1:].replace(":", "").ljust(4, "0")
            offset = int(digits[:2]) * 60 + int(digits[2:])
            moment -= np.timedelta64(offset if zone[0] == "+" else -offset, "m")
        days[i] = (moment - np.datetime64(0, "us")) / np.timedelta64(1, "D")
    return days


class Judge:
    """Tells what columns are.

    Args:
        flag: The flag that named the table, and its value.
        missing: What stands for a missing cell.
        rows: Returns the numbers of rows, as a spreadsheet counts, by their positions.
        note: Takes down cells that cannot be used (the number of the row, the column, the cell, the reason); returns
            where, for a message.
        role: What the columns are for.
    """

    def __init__(
        self,
        flag: str,
        missing: Missing,
        rows: Callable[[Sequence[int]], list[int]],
        note: Callable[[list[tuple[int, str, str, str]]], str],
        role: Role = "input",
    ) -> None:
        self.flag, self.missing, self.rows, self.note, self.role = flag, missing, rows, note, role

    def judge(self, column: RawColumn, asked: Kind | None = None) -> Judged:
        """Tell what a column is.

        Args:
            column: The column.
            asked: What it was said to be; None for what it looks like.

        Raises:
            Mistake: It could be two things, or some cells cannot be used.
        """
        if column.is_missing_N.all() and asked is None:
            return _dropped(column, "has no values")
        if asked == "category":
            return self._category(as_words(column), asked)
        numbers = column if column.numbers_N is not None else self.as_numbers(column, asked)
        return self._category(column, asked) if numbers is None else self._number(numbers, asked)

    def as_numbers(self, column: RawColumn, asked: Kind | None = "number") -> RawColumn | None:
        """Return a column of words as one of numbers; None where it is none.

        Raises:
            Mistake: Some cells are no numbers, although most are or all have to be.
        """
        found = numbers_of(column.words)
        codes_N = column.codes_N
        counts_W = np.bincount(codes_N[codes_N >= 0], minlength=len(column.words))
        of_numbers, others = int(counts_W[found.is_number_W].sum()), int(counts_W[~found.is_number_W].sum())
        if asked is None and (not of_numbers or of_numbers < others):
            return None
        what = "dates" if found.unit else "numbers"
        if others:
            raise self._mixed(column, found.is_number_W, what if of_numbers else "numbers", of_numbers > 0)
        if found.unclear:
            raise Mistake(
                f"the column {column.name!r} of {self.flag} holds {found.unclear}; write all with a point and without "
                f"a comma, or read them as words: {self._as_words(column.name)}."
            )
        values_W = found.values_W
        if self.missing.numbers:
            values_W = np.where(np.isin(values_W, self.missing.numbers), np.nan, values_W)
        large = np.flatnonzero(np.isin(codes_N, found.too_large)).tolist() if found.too_large else []
        too_large = list(zip(large, column.cells(large), strict=True))
        return RawColumn(column.name, np.append(values_W, np.nan)[codes_N], unit=found.unit, too_large=too_large)

    def _mixed(self, column: RawColumn, is_number_W: np.ndarray, what: str, are_most: bool) -> Mistakes:
        is_wrong = np.append(~is_number_W, False)[column.codes_N]
        positions = np.flatnonzero(is_wrong).tolist()
        cells = column.cells(positions)
        listed = self._listed(positions, cells)
        where = self._noted(positions, column.name, cells, f"{column.name} is no {what.removesuffix('s')}")
        words = list(dict.fromkeys(cells))
        if_missing = shlex.quote(json.dumps(words, ensure_ascii=False)) if len(words) <= 3 else "'[WORD]'"
        drops = " --data.drop_missing_target true" if self.role == "target" else ""
        remedies = [f"if such cells are missing ones, --data.missing {if_missing}{drops}"] if are_most else []
        remedies += (
            [f"if the column holds words, {self._as_words(column.name)}"] if self.role in ("input", "target") else []
        )
        many = f"{len(positions):,} cells that are" if len(positions) > 1 else "a cell that is"
        line = (
            f"the column {column.name!r} of {self.flag} holds {what if are_most else 'no numbers but words'} and has "
            f"{many} none: {listed}, so what they say would be lost; mend them"
            f"{', or give, ' if remedies else ''}{', or, '.join(remedies)}{where}."
        )
        each = zip(self.rows(positions), cells, strict=True)
        return Mistakes(line, [(f"row {row}", f"{column.name} is {cell!r}") for row, cell in each])

    def _as_words(self, name: str) -> str:
        """Return the flag that takes a column for words."""
        if self.role == "target":
            return "--data.task multiclass"
        return f"--data.categories {in_flag([name])}"

    def _otherwise(self, name: str) -> str:
        """Return what to do with a column of numbers that 32 bits do not hold."""
        if self.role != "input":
            return ""
        return f"; if they name things, give --data.categories {in_flag([name])}, or --data.drop {in_flag([name])}"

    def _listed(self, positions: Sequence[int], cells: Sequence[str]) -> str:
        """Name the first of some cells."""
        first = zip(cells, self.rows(positions[:3]), strict=False)
        listed = ", ".join(f"{shown(cell)[:60]!r} (row {row})" for cell, row in first)
        return listed + (" …" if len(positions) > 3 else "")

    def _noted(self, positions: Sequence[int], name: str, cells: Sequence[str], reason: str) -> str:
        """Write down cells, where they are more than were named; returns where."""
        if len(positions) <= 3:
            return ""
        rows = zip(self.rows(positions), cells, strict=True)
        return self.note([(row, name, cell, reason) for row, cell in rows])

    def check_numbers(self, column: RawColumn) -> None:
        """Refuse numbers that 32 bits do not hold at all: infinite ones, and integers that are names.

        Raises:
            Mistake: There are some.
        """
        name, numbers_N = column.name, column.numbers_N
        assert numbers_N is not None
        if column.too_large:
            positions, cells = zip(*column.too_large, strict=True)
            listed, where = self._listed(positions, cells), self._noted(positions, name, cells, f"{name} is too large")
            raise Mistake(
                f"the column {name!r} of {self.flag} holds {len(cells):,} integers above 2^53: {listed}, of which the "
                f"last digits would be lost; give them in another unit{self._otherwise(name)}{where}."
            )
        is_infinite = np.isinf(numbers_N.astype(np.float32))
        if is_infinite.any():
            positions = np.flatnonzero(is_infinite).tolist()
            cells = column.cells(positions)
            listed, where = self._listed(positions, cells), self._noted(positions, name, cells, f"{name} is infinite")
            raise Mistake(
                f"the column {name!r} of {self.flag} holds {len(positions):,} numbers that are infinite or beyond what "
                f"32 bits hold: {listed}, so nothing could be learned; mend them, or empty their cells{where}."
            )

    def _number(self, column: RawColumn, asked: Kind | None) -> Judged:
        numbers_N = column.numbers_N
        assert numbers_N is not None
        with np.errstate(over="ignore"):
            self.check_numbers(column)
        name, missing = column.name, int(np.isnan(numbers_N).sum())
        ordered = np.sort(numbers_N)[: len(numbers_N) - missing]
        steps = np.diff(ordered)
        distinct = int(np.count_nonzero(steps)) + bool(len(ordered))
        is_whole = bool((ordered == np.floor(ordered)).all())
        if asked is None:
            all_distinct = distinct == len(numbers_N)
            if distinct == 1 and not missing:
                return _dropped(column, f"is {range_of(ordered[:1], column.unit)} in all rows")
            if all_distinct and len(numbers_N) > FEW_ROWS and not column.unit and is_whole:
                if ordered[-1] - ordered[0] == len(ordered) - 1:
                    return _dropped(column, f"counts the rows, {ordered[0]:.0f} to {ordered[-1]:.0f}")
                if ID_NAME.fullmatch(name):
                    return _dropped(column, "names the rows: an integer each, all distinct")
        remarks = _merged(column, ordered, distinct)
        if asked is None and is_whole and not column.unit and ID_NAME.fullmatch(name):
            remarks.append(
                f"{shown(name)} is read as a number; if it names things, give --data.categories {in_flag([name])}, or "
                f"--data.group {name} if rows of one must not be parted"
            )
        about = range_of(ordered, column.unit) if len(ordered) else ""
        line = Line(name, "number", missing, distinct, about)
        return Judged(Column(name, "number", numbers_N.astype(np.float32)), line, remarks)

    def _category(self, column: RawColumn, asked: Kind | None) -> Judged:
        name, rows, distinct = column.name, len(column), len(column.words)
        is_missing = column.codes_N < 0
        missing = int(is_missing.sum())
        if asked is None:
            if distinct == 1 and not missing:
                return _dropped(column, f"is {cut(column.words[0].as_py(), 30)} in all rows")
            first = [word.as_py() for word in column.words[:100]]
            hint = ""
            if all(OTHER_DATE.fullmatch(word) for word in first):
                hint = "; dates are read as YYYY-MM-DD"
            elif all(WITH_SIGN.fullmatch(word) for word in first):
                hint = "; numbers are read without signs and units"
            if distinct == rows - missing and distinct > 2:
                return _dropped(column, f"names the rows: text, all distinct{hint}", distinct)
            if 2 * distinct > rows and rows > MANY_ROWS:
                return _dropped(column, f"is free text: {distinct:,} distinct in {rows:,} rows{hint}", distinct)
            remarks = [f"{shown(name)} is read as a category{hint}"] if hint else []
        else:
            remarks = []
        words = column.words.to_pylist()
        values = ["", *words] if missing else words
        order = sorted(range(len(values)), key=values.__getitem__)
        place = np.empty(len(values), np.int32)
        place[order] = np.arange(len(values), dtype=np.int32)
        values_N = place[column.codes_N + 1] if missing else place[column.codes_N]
        counts = np.bincount(column.codes_N[~is_missing], minlength=distinct)
        line = Line(name, "category", missing, distinct, most_frequent(words, counts))
        return Judged(Column(name, "category", values_N, [values[i] for i in order]), line, remarks)


def as_words(column: RawColumn) -> RawColumn:
    """Return a column as one of words, of numbers in their shortest form."""
    if column.numbers_N is None:
        return column
    values, codes_N = np.unique(column.numbers_N, return_inverse=True, equal_nan=True)
    if len(values) and np.isnan(values[-1]):
        codes_N = np.where(codes_N == len(values) - 1, -1, codes_N)
        values = values[:-1]
    words = [str(int(value)) if value == int(value) else repr(value) for value in values.tolist()]
    return RawColumn(column.name, words=pa.array(words, pa.string()), codes_N=codes_N.astype(np.int32))


def keys_of(column: RawColumn, refuse: Callable[[np.ndarray, str], None]) -> list[str]:
    """Return the keys of rows by a column that names them; ``refuse`` takes wrong positions and what is wrong."""
    if column.is_missing_N.any():
        refuse(np.flatnonzero(column.is_missing_N), f"{column.name} is missing")
    words = column.words.to_pylist()
    bad = np.array([bool(CONTROL.search(word)) or "\n" in word or "\t" in word for word in words])
    if bad.any():
        refuse(np.flatnonzero(bad[column.codes_N]), f"{column.name} holds control characters")
    if len(words) < len(column):
        counts = np.bincount(column.codes_N, minlength=len(words))
        refuse(np.flatnonzero(counts[column.codes_N] > 1), f"{column.name} stands in more than one row")
    return [words[code] for code in column.codes_N.tolist()]


def _dropped(column: RawColumn, why: str, distinct: int = 0) -> Judged:
    return Judged(None, Line(column.name, "dropped", int(column.is_missing_N.sum()), distinct, why), [])


def _merged(column: RawColumn, ordered: np.ndarray, distinct: int) -> list[str]:
    """Say that 32 bits do not tell numbers apart: times in seconds, say."""
    rounded = ordered.astype(np.float32)
    left = int(np.count_nonzero(np.diff(rounded))) + bool(len(rounded))
    if distinct - left <= MERGED * distinct:
        return []
    low, high = ordered[[len(ordered) // 10, len(ordered) - 1 - len(ordered) // 10]]
    coarseness = np.abs(rounded - ordered).max()
    if coarseness <= COARSE * ((high - low) or ordered.std()):
        return []
    return [
        f"{shown(column.name)} has {distinct:,} distinct values, of which 32 bits tell {left:,} apart (they are "
        f"rounded by up to {coarseness:.2g}); subtract a constant in the table if less counts"
    ]
