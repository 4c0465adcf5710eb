"""The columns of a table as they are written: CSV, TSV and Parquet, read by Apache Arrow.

A column whose cells are all numbers is kept as numbers while it is read, any other as words. A CSV is read a block at a
time, a Parquet file a column at a time, so that no more than the columns lies in memory.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from .delimited import RawTable, encoding_of, opened
from .mistakes import Mistake, shown

pc: Any = pyarrow.compute  # whose functions are made when it is imported
# The words for a missing cell, in any case.
MISSING = ("", "na", "nan", "null", "none", "n/a", "<na>")
EXACT = 2**53  # the integers from which on numbers of 64 bits leave some out
BLOCK = 2**20  # bytes of a CSV that are worked on at once; more would be no faster
DAY = 86_400_000_000  # microseconds
DAYS = "days since 1970-01-01"


@dataclass
class RawColumn:
    """A column as it is written. Its cells are numbers, or else words.

    Args:
        name: Its name.
        numbers_N: The numbers, NaN for a missing cell; None where cells are words.
        words: The distinct words.
        codes_N: The position of each cell among the words; -1 for a missing cell.
        unit: Of numbers that were dates or times: what they count.
        too_large: The position and the text of each integer that numbers do not hold exactly.
    """

    name: str
    numbers_N: np.ndarray | None = None
    words: pa.StringArray = field(default_factory=lambda: pa.array([], pa.string()))
    codes_N: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    unit: str = ""
    too_large: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.codes_N if self.numbers_N is None else self.numbers_N)

    @property
    def is_missing_N(self) -> np.ndarray:
        """Whether each cell is missing."""
        return self.codes_N < 0 if self.numbers_N is None else np.isnan(self.numbers_N)

    def kept(self, keeps_N: np.ndarray) -> "RawColumn":
        """Return it with some of its rows."""
        if self.numbers_N is not None:
            place = np.cumsum(keeps_N) - 1
            too_large = [(int(place[i]), text) for i, text in self.too_large if keeps_N[i]]
            return RawColumn(self.name, self.numbers_N[keeps_N], unit=self.unit, too_large=too_large)
        codes_N = self.codes_N[keeps_N]
        is_gone = np.ones(len(self.words), dtype=bool)
        is_gone[codes_N[codes_N >= 0]] = False
        return RawColumn(self.name, words=self.words, codes_N=codes_N).without(is_gone)

    def without(self, is_gone_W: np.ndarray) -> "RawColumn":
        """Return it with some of its words taken for missing cells."""
        place = np.append(np.where(is_gone_W, -1, np.cumsum(~is_gone_W) - 1), -1)  # the last is that of -1
        words = self.words.filter(pa.array(~is_gone_W))
        return RawColumn(self.name, words=words, codes_N=place.astype(np.int32)[self.codes_N])

    def cells(self, positions: Sequence[int] | np.ndarray) -> list[str]:
        """Return some of its cells as they are written."""
        if self.numbers_N is not None:
            return [f"{value:.17g}" for value in self.numbers_N[positions].tolist()]
        codes = self.codes_N[positions]
        return self.words.take(pa.array(codes, mask=codes < 0)).fill_null("").to_pylist()


class Missing(NamedTuple):
    """What stands for a missing cell: words, and the numbers among those that were asked for."""

    words: pa.StringArray
    numbers: list[float]

    @classmethod
    def of(cls, asked: Sequence[str] | None, with_none: bool = True) -> "Missing":
        """Return what means a missing cell: the usual words, None among them or not, and what is asked for."""
        usual = [word for word in MISSING if with_none or word != "none"]
        known = {form(word) for word in usual for form in (str, str.upper, str.capitalize)} | {"NaN"}
        numbers = []
        for word in asked or ():
            try:
                numbers.append(float(word))
            except ValueError:
                continue
        return cls(pa.array(sorted(known | set(asked or ()))), [number for number in numbers if np.isfinite(number)])


def read_columns(
    flag: str,
    raw: RawTable,
    names: Sequence[str],
    as_words: Collection[str] = (),
    missing: Sequence[str] | None = None,
    with_none: Collection[str] = (),
) -> Iterator[RawColumn]:
    """Read columns of a table, and yield them one after the other: who takes one in may let it go before the next.

    Args:
        flag: The flag that named the table.
        raw: How it is written.
        names: Which columns, in which order.
        as_words: Those of them whose cells are words even where all are numbers, as 007 is.
        missing: What means a missing cell, beside the usual words.
        with_none: The columns of which None may be a word, and no missing cell.

    Raises:
        Mistake: The file cannot be read, or rows have too few or too many cells.
    """
    absent = {name: Missing.of(missing, name not in with_none) for name in names}
    if not raw.delimiter:
        yield from _from_parquet(flag, raw, names, as_words, absent)
        return
    text = _looked_through(flag, raw)
    builders = {name: _Builder(name, name in as_words, absent[name], text.lines) for name in names}
    _build(flag, raw, text, list(builders.values()))
    late = [_Builder(builder.name, True, builder.missing) for builder in builders.values() if builder.is_late]
    if late:
        _build(flag, raw, text, late)
        builders |= {builder.name: builder for builder in late}
    pa.default_memory_pool().release_unused()
    for name in names:
        yield builders.pop(name).column()


def row_numbers(raw: RawTable, positions: Sequence[int]) -> list[int]:
    """Return the number of each row as a spreadsheet counts, by its position among the rows that are not blank."""
    if raw.delimiter and _may_have_blanks(raw):
        numbers = [number for chunk in raw.chunks() for number in chunk.numbers]
        return [numbers[position] for position in positions]
    return [raw.first + position for position in positions]


def _may_have_blanks(raw: RawTable) -> bool:
    rest = b""
    with opened("", raw.path) as file:
        while block := file.read(BLOCK):
            both = rest + block
            if b"\0" in both or any(end in both for end in (b"\n\n", b"\n\r\n", b"\r\r")):
                return True
            rest = block[-2:]
    return False


# CSV


class _Text(NamedTuple):
    """What is seen of a text at one look.

    Args:
        lines: How many line ends it has: no fewer than rows.
        has_quotes: Whether cells may be quoted.
        is_plain: Whether Arrow reads it as delimited.py does.
    """

    lines: int
    has_quotes: bool
    is_plain: bool


def _looked_through(flag: str, raw: RawTable) -> _Text:
    # Arrow takes a quote behind a space for a letter.
    spaced = [] if raw.delimiter == "\t" else [f'{raw.delimiter} "'.encode(), b'\n "', b'\r "']
    rest, lines, has_quotes = b"", 0, False
    with opened(flag, raw.path) as file:
        head = file.read(BLOCK)
        before = re.split(rb"\r\n|\n|\r", head)[: raw.first - 1]  # which Arrow skips by lines, and delimited.py by rows
        is_plain = encoding_of(head).startswith("utf-8") and not any(line.count(b'"') % 2 for line in before)
        file.seek(0)
        while block := file.read(BLOCK):
            lines += block.count(b"\n") or block.count(b"\r")
            has_quotes = has_quotes or b'"' in block
            is_plain = is_plain and b"\0" not in block
            is_plain = is_plain and not (has_quotes and any(part in rest + block for part in spaced))
            rest = block[-2:]
    return _Text(lines + 1, has_quotes, is_plain)


class _Builder:
    """Puts a column together from blocks of its cells."""

    def __init__(self, name: str, is_words: bool, missing: Missing, most: int = 0) -> None:
        self.name, self.is_words, self.missing = name, is_words, missing
        # Room for all rows, of which the system gives what is written to: parts would lie in memory twice.
        self.numbers_N = np.empty(0 if is_words else most)
        self.parts: list[Any] = []
        self.too_large: list[tuple[int, str]] = []
        self.rows = 0
        self.is_late = False  # whether words came after numbers, of which the text is gone

    def add(self, cells: pa.StringArray) -> None:
        if self.is_late:
            return
        if not self.is_words:
            numbers_N = self._numbers(cells)
            if numbers_N is not None:
                self.numbers_N[self.rows : self.rows + len(cells)] = numbers_N
                self.rows += len(cells)
                return
            self.is_words, self.is_late = True, self.rows > 0
            self.numbers_N = np.empty(0)
            self.too_large.clear()
            if self.is_late:
                return
        self.parts.append(_without(_trimmed(cells), self.missing.words).dictionary_encode())

    def _numbers(self, cells: pa.StringArray) -> np.ndarray | None:
        try:
            numbers = pc.cast(cells, pa.float64())
        except pa.ArrowInvalid:
            cells = _without(pc.utf8_trim_whitespace(cells), self.missing.words)
            try:
                numbers = pc.cast(cells, pa.float64())
            except pa.ArrowInvalid:
                return None
        numbers_N = _as_array(numbers, self.missing)
        for position in np.flatnonzero(np.abs(numbers_N) >= EXACT).tolist():
            text = cells[position].as_py().strip()
            if text.lstrip("-").isdecimal() and abs(int(text)) > EXACT:
                self.too_large.append((self.rows + position, text))
        return numbers_N

    def column(self) -> RawColumn:
        """Return the column; its parts are gone then."""
        if not self.is_words:
            return RawColumn(self.name, self.numbers_N[: self.rows], too_large=self.too_large)
        parts, self.parts = self.parts, []
        return _of_words(self.name, pa.chunked_array(parts, pa.dictionary(pa.int32(), pa.string())))


def _trimmed(cells: Any) -> Any:
    """Return cells without the spaces around them, and with line breaks of one form (Arrow may cut one in two)."""
    if pc.any(pc.match_substring(cells, "\r")).as_py():
        cells = pc.replace_substring_regex(cells, "\r\n?", "\n")
    return pc.utf8_trim_whitespace(cells)


def _without(cells: Any, missing: pa.StringArray) -> Any:
    is_missing = pc.is_in(cells, missing)
    return pc.if_else(is_missing, None, cells) if pc.any(is_missing).as_py() else cells


def _as_array(numbers: Any, missing: Missing) -> np.ndarray:
    numbers_N = numbers.to_numpy(zero_copy_only=False)
    if missing.numbers and len(numbers_N):
        numbers_N = np.where(np.isin(numbers_N, missing.numbers), np.nan, numbers_N)
    return numbers_N


def _of_words(name: str, cells: pa.ChunkedArray) -> RawColumn:
    cells = cells.unify_dictionaries()
    if not cells.num_chunks:
        return RawColumn(name)
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in cells.chunks]
    return RawColumn(name, words=cells.chunk(0).dictionary, codes_N=np.concatenate(codes))


def _build(flag: str, raw: RawTable, text: _Text, builders: list[_Builder]) -> None:
    """Read a CSV, and add its cells to some columns."""
    places = [raw.names.index(builder.name) for builder in builders]
    for batch in _blocks(flag, raw, text, places):
        for builder, cells in zip(builders, batch, strict=True):
            builder.add(cells)


class _OtherThanArrow(Exception):
    """Arrow reads a text otherwise than Python, or not at all."""


def _blocks(flag: str, raw: RawTable, text: _Text, places: list[int]) -> Iterator[list[Any]]:
    """Yield the cells of some columns of a CSV, a block at a time.

    Arrow reads most texts. What it reads in another way than delimited.py, which found out how the text is written,
    is read by that, which also words what is wrong with it.
    """
    done = 0
    try:
        for batch in _fast_blocks(flag, raw, text, places):
            yield batch
            done += len(batch[0]) if batch else 0
        return
    except (pa.ArrowException, _OtherThanArrow, UnicodeError):
        pass
    part: list[list[str]] = [[] for _ in places]
    wrong: list[tuple[int, int]] = []
    for chunk in raw.chunks():
        wrong += chunk.wrong
        skipped = min(done, len(chunk.numbers))
        done -= skipped
        for cells, place in zip(part, places, strict=True):
            cells += chunk.columns[place][skipped:]
        if part and len(part[0]) >= 2**16:
            yield [pa.array(cells, pa.string()) for cells in part]
            part = [[] for _ in places]
    if wrong:
        raise _wrong_widths(flag, raw, wrong)
    yield [pa.array(cells, pa.string()) for cells in part]


def _fast_blocks(flag: str, raw: RawTable, text: _Text, places: list[int]) -> Iterator[list[Any]]:
    if not text.is_plain:
        raise _OtherThanArrow
    columns = [f"{place}" for place in range(len(raw.names))]
    is_wrong = False

    def skip(_: Any) -> str:
        nonlocal is_wrong
        is_wrong = True
        return "skip"

    with opened(flag, raw.path) as file:
        reader = pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(column_names=columns, skip_rows=raw.first - 1, block_size=BLOCK),
            pyarrow.csv.ParseOptions(
                delimiter=raw.delimiter, newlines_in_values=text.has_quotes, invalid_row_handler=skip
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                include_columns=[columns[place] for place in places],
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            if is_wrong:
                raise _OtherThanArrow
            yield batch.columns
        if is_wrong:
            raise _OtherThanArrow


def _wrong_widths(flag: str, raw: RawTable, wrong: list[tuple[int, int]]) -> Mistake:
    listed = ", ".join(f"row {number} has {cells}" for number, cells in wrong[:10])
    more = f" and {len(wrong) - 10:,} more" if len(wrong) > 10 else ""
    return Mistake(
        f"{flag}={str(raw.path)!r} has {len(raw.names)} columns and {len(wrong):,} "
        f"row{'s' if len(wrong) > 1 else ''} with another number of cells ({listed}{more}), so it is not known which "
        "cell belongs where; mend them: quote the cells that hold the delimiter."
    )


# Parquet


def _from_parquet(
    flag: str, raw: RawTable, names: Sequence[str], as_words: Collection[str], missing: dict[str, Missing]
) -> Iterator[RawColumn]:
    with opened(flag, raw.path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            written = table.schema_arrow.names
            for name in names:
                column = written[raw.names.index(name)]
                cells = table.read(columns=[column]).column(column)
                yield _typed(name, cells, name in as_words, missing[name])
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, Mistake):
                raise
            raise Mistake(
                f"{flag}={str(raw.path)!r} cannot be read as Parquet ({shown(str(error))[:200]}), so its rows are not "
                "known; write it anew, or save it as CSV."
            ) from error


def _typed(name: str, cells: Any, is_words: bool, missing: Missing) -> RawColumn:
    """Return a column of a Parquet file: numbers and times as numbers, unless they are to be words."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        cells = cells.cast(kind)
    if pa.types.is_boolean(kind):
        cells = pc.if_else(cells, "true", "false")
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        if not is_words:
            return _of_numbers(name, cells, kind, missing)
        cells = _written(cells, kind)
    cells = _without(_trimmed(cells.cast(pa.string())), missing.words)
    return _of_words(name, cells.dictionary_encode())


def _written(cells: Any, kind: Any) -> Any:
    """Write numbers and times as a CSV would have them; whole numbers without a fraction."""
    if pa.types.is_floating(kind):
        cells = pc.if_else(pc.is_nan(cells), None, cells)
        is_whole = pc.all(pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), float(EXACT)))).as_py()
        cells = cells.cast(pa.int64(), safe=False) if is_whole else cells
    return cells.cast(pa.string())


def _of_numbers(name: str, cells: Any, kind: Any, missing: Missing) -> RawColumn:
    unit, too_large = "", []
    if pa.types.is_integer(kind):
        is_large = pc.fill_null(pc.greater(pc.abs(cells.cast(pa.float64(), safe=False)), float(EXACT)), False)
        too_large = [(i, str(cells[i].as_py())) for i in np.flatnonzero(is_large.to_numpy()).tolist()]
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        unit = DAYS
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        micros = cells.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        cells = pc.divide(micros.cast(pa.float64(), safe=False), float(DAY))
    elif pa.types.is_time(kind) or pa.types.is_duration(kind):
        unit = "days"
        whole = pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")
        micros = cells.cast(whole, safe=False).cast(pa.int64())
        cells = pc.divide(micros.cast(pa.float64(), safe=False), float(DAY))
    numbers_N = _as_array(cells.cast(pa.float64(), safe=False), missing)
    return RawColumn(name, numbers_N, unit=unit, too_large=too_large)
