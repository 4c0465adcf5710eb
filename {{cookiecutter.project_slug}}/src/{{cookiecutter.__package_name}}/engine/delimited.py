"""Tables as people have them: CSV, TSV and Parquet as names of columns and rows of text, in bounded memory.

How a file is written (its encoding, its delimiter) is found out where there is one way to read it; else it is refused.
"""

import contextlib
import csv
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

from .files import is_gone, plain_file, write_rows
from .installing import of_extra
from .mistakes import CONTROL, Mistake, Mistakes, shown

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LONGEST_LINE = 2**24  # characters; a longer one is no line of a table, and would fill the memory
FIRST_RECORDS = 50  # that tell the delimiter
LARGEST_TABLE = 2**36  # bytes of a file that is read row by row
CHUNK = 512  # rows that are worked on at once: few enough that Python does not look for garbage among them
LISTED = 10  # offenders that a message lists
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
BOMS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Chunk(NamedTuple):
    """Some rows, by column.

    Args:
        numbers: The number of each row in its file, as a spreadsheet counts.
        columns: The cells of each column, without the spaces around them.
        wrong: The number and the width of each row that has too few or too many cells; it stands in no column.
    """

    numbers: list[int]
    columns: list[list[str]]
    wrong: list[tuple[int, int]]


@dataclass(frozen=True)
class RawTable:
    """A table as it is written.

    Args:
        path: Its file.
        names: The name of each column; empty for one that has none, or that holds no text and no numbers.
        delimiter: What parts its cells; empty where the format needs none.
        first: The number of the first row below the header.
        rows: Reads the rows; one without cells is a blank line.
    """

    path: Path
    names: list[str]
    delimiter: str
    first: int
    rows: Callable[[], Iterator[list[str]]]

    def chunks(self) -> Iterator[Chunk]:
        """Read the rows from the beginning, some at a time; blank lines are no rows."""
        width, start, rows = len(self.names), self.first, self.rows()
        while part := list(islice(rows, CHUNK)):
            numbers, wrong = list(range(start, start + len(part))), []
            start += len(part)
            if set(map(len, part)) != {width}:
                numbered = list(zip(numbers, part, strict=True))
                wrong = [(number, len(cells)) for number, cells in numbered if cells and len(cells) != width]
                numbers = [number for number, cells in numbered if len(cells) == width]
                part = [cells for cells in part if len(cells) == width]
            columns = [[*map(str.strip, column)] for column in zip(*part, strict=True)]
            yield Chunk(numbers, columns or [[] for _ in self.names], wrong)


T = TypeVar("T")


def asked_of(flags: Sequence[str], settings: Mapping[str, Any], lists: Collection[str]) -> dict[str, Any]:
    """Return those of settings that are flags of a table, without those that are null.

    Args:
        flags: The names of the flags.
        settings: The settings, by name.
        lists: The flags that take a list of names, or one name.
    """
    given = {name: value for name, value in settings.items() if name in flags and value is not None}
    for name in given.keys() & set(lists):
        names = given[name] if isinstance(given[name], list | tuple) else [given[name]]
        given[name] = [str(each) for each in names]
    return given


class ReadOnce(Generic[T]):
    """Keeps what was read of a table for the next call alone, if that asks for the same.

    The command line asks for the task first, the data module for the samples then.
    """

    def __init__(self) -> None:
        self.kept: tuple[object, T] | None = None

    def __call__(self, path: Path, asked: object, read: Callable[[], T]) -> T:
        """Return what was kept, if it is of this file as it is now, or else what is read."""
        try:
            found = os.stat(path)
            now = repr(asked), os.getcwd(), found.st_size, found.st_mtime_ns
        except (OSError, ValueError):  # opening it says what is wrong
            now = None
        kept, self.kept = self.kept, None
        if kept is not None and kept[0] == now:
            return kept[1]
        table = read()
        self.kept = now, table
        return table


def is_parquet(path: Path) -> bool:
    """Tell whether a table is a Parquet file."""
    return path.suffix.casefold() in (".parquet", ".pq")


def open_table(flag: str, path: Path, one_column: bool = False) -> RawTable:
    """Find out how a table is written.

    Args:
        flag: The flag that named it.
        path: Its file.
        one_column: Whether it may have no more.

    Raises:
        Mistake: It cannot be read, or could be read in two ways. The rows raise it, too.
    """
    suffix = path.suffix.casefold()
    if is_parquet(path):
        raw = _parquet(flag, path)
    elif suffix in (".csv", ".tsv", ".tab", ".txt"):
        raw = _delimited(flag, path, suffix in (".tsv", ".tab"), one_column)
    else:
        raise Mistake(
            f"{flag}={str(path)!r} is no table that is read here, so nothing is known of its columns; give a .csv, "
            ".tsv, .txt or .parquet."
        )
    named = [name for name in raw.names if name]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise Mistake(
            f"{flag}={str(path)!r} has {len(twice)} column names twice, the first is {shown(twice[0])!r}, so it is not "
            "clear which column is meant; rename one."
        )
    for name in named:
        if CONTROL.search(name) or "\n" in name or "\t" in name:
            raise Mistake(
                f"{flag}={str(path)!r} has a column named {name[:100]!r}, with control characters or line breaks, "
                "which could change what a terminal shows; rename it."
            )
    return raw


def _unreadable(flag: str, path: Path, why: str, remedy: str) -> Mistake:
    return Mistake(f"{flag}={str(path)!r} {why}, so its rows are not known; {remedy}.")


def opened(flag: str, path: Path) -> BinaryIO:
    """Open the file of a table; raises a Mistake where it cannot be."""
    try:
        return plain_file(path, LARGEST_TABLE)
    except OSError as error:
        why = "is not there" if is_gone(error) else f"cannot be read ({error.strerror})"
        raise _unreadable(flag, path, why, "give the file of the table") from error
    except ValueError as error:
        raise _unreadable(flag, path, f"cannot be read as a table: {error}", "give the file of the table") from error


def encoding_of(head: bytes) -> str:
    """Return how a text is encoded, by its first bytes."""
    for mark, encoding in BOMS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[::2], head[1::2]
    if odd and odd.count(0) > len(odd) // 2 and not even.count(0):
        return "utf-16-le"
    if even and even.count(0) > len(even) // 2 and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def _lines(flag: str, path: Path) -> Iterator[str]:
    """Read the lines of a text, with their ends."""
    with opened(flag, path) as file:
        encoding = encoding_of(file.read(4096))
        file.seek(0)
        text, number = io.TextIOWrapper(file, encoding, newline=""), 0
        try:
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    why = f"has more than {LONGEST_LINE:,} characters in line {number}"
                    raise _unreadable(flag, path, why, "give a table, with a line for each sample")
                if "\0" in line:
                    why = f"holds zero bytes (line {number})"
                    raise _unreadable(flag, path, why, "write it anew as text in UTF-8")
                yield line
        except UnicodeError as error:
            why = f"is no text in {encoding.upper().removesuffix('-SIG')}{_undecodable(flag, path, encoding)}"  # pyright: ignore[reportAttributeAccessIssue]
            name = shlex.quote(shown(path.name))
            remedy = f"save it in UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 {name} > utf8.csv"
            raise _unreadable(flag, path, why, remedy) from error


def _undecodable(flag: str, path: Path, encoding: str) -> str:
    """Say which line is not in UTF-8; nothing of other encodings, whose bytes tell no lines."""
    if encoding.startswith("utf-8"):
        with opened(flag, path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                with contextlib.suppress(UnicodeDecodeError):
                    line.decode()
                    continue
                return f" (line {number})"
    return ""


def _records(flag: str, path: Path, delimiter: str, skip: int = 0) -> Iterator[list[str]]:
    """Read the rows of a text, the header among them."""
    reader = csv.reader(
        islice(_lines(flag, path), skip, None), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
    )
    try:
        yield from reader
    except csv.Error as error:
        what = str(error).replace("\t", "\\t")
        why = f"cannot be read as a table ({what}, line {reader.line_num + skip})"
        raise _unreadable(flag, path, why, "mend the quotes there") from error


def _delimited(flag: str, path: Path, prefers_tab: bool, one_column: bool) -> RawTable:
    first_line = next(_lines(flag, path), "")
    hint = re.fullmatch(r'"?sep=(.)"?\s*', first_line)  # which spreadsheets read, and do not show
    skip = 1 if hint else 0
    delimiter = hint[1] if hint else _delimiter(flag, path, prefers_tab, one_column)
    records, before = _records(flag, path, delimiter, skip), 0
    for header in records:
        before += 1
        if any(cell.strip() for cell in header):
            break
    else:
        raise _unreadable(flag, path, "is empty", "give a table with a header and a row for each sample")
    names = [name.strip() for name in header]

    def rows() -> Iterator[list[str]]:
        return islice(_records(flag, path, delimiter, skip), before, None)

    return RawTable(path, names, delimiter, before + skip + 1, rows)


def _delimiter(flag: str, path: Path, prefers_tab: bool, one_column: bool) -> str:
    """Find what parts the cells: what parts the header, and all of the first rows alike."""
    fits: dict[str, bool] = {}
    refusal = None
    for delimiter in DELIMITERS:
        try:
            filled = (record for record in _records(flag, path, delimiter) if record)
            widths = [len(record) for record in islice(filled, FIRST_RECORDS)]
        except Mistake as error:
            refusal = error
            continue
        if widths and widths[0] > 1:
            fits[delimiter] = len(set(widths)) == 1
    if prefers_tab and "\t" in fits:
        return "\t"
    alike = [delimiter for delimiter, is_alike in fits.items() if is_alike]
    found = alike if len(alike) == 1 else list(fits)
    if len(found) == 1:
        return found[0]
    if refusal is not None:
        raise refusal
    if not found:
        has_one = any(line.strip() for line in _lines(flag, path))
        if has_one and one_column:
            return ","
        why = "has one column" if has_one else "is empty"
        raise _unreadable(flag, path, why, "give a table with two columns at least")
    names = " or ".join(DELIMITERS[delimiter] for delimiter in found)
    raise _unreadable(flag, path, f"can be parted by {names}", "quote the names that hold one of them")


def _parquet(flag: str, path: Path) -> RawTable:
    opened(flag, path).close()
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]  (the extra `parquet`)
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        remedy = f"install the project's extra: {of_extra('parquet')}; or save the table as CSV"
        raise _unreadable(flag, path, "needs pyarrow, which is not installed", remedy) from error
    types: Any = pyarrow.types

    def is_plain(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))

    def refused(error: Exception) -> Mistake:
        why = f"cannot be read as Parquet ({shown(str(error))[:200]})"
        return _unreadable(flag, path, why, "write it anew, or save it as CSV")

    errors = (pyarrow.ArrowException, OSError, ValueError)
    with opened(flag, path) as file:
        try:
            schema: Any = pyarrow.parquet.ParquetFile(file).schema_arrow
            names = [field.name.strip() if is_plain(field.type) else "" for field in schema]
        except errors as error:
            raise refused(error) from error

    def rows() -> Iterator[list[str]]:
        with opened(flag, path) as file:
            try:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=CHUNK):
                    columns = [
                        map(_text, column.to_pylist()) if name else [""] * len(column)
                        for name, column in zip(names, batch.columns, strict=True)
                    ]
                    yield from map(list, zip(*columns, strict=True))
            except errors as error:
                raise refused(error) from error

    return RawTable(path, names, "", 1, rows)


def _text(value: object) -> str:
    """Write a cell as a CSV would have it."""
    if value is None:
        return ""
    return str(value).casefold() if isinstance(value, bool) else str(value)


def safe_cells(rows: Iterable[Iterable[object]]) -> list[list[str]]:
    """Return cells that no spreadsheet takes for a formula, and that change no terminal."""
    safe = []
    for row in rows:
        cells = [shown(str(cell)) for cell in row]
        safe.append([f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t")) else cell for cell in cells])
    return safe


def write_offenders(path: Path, second: str, offenders: Sequence[tuple[int, str, str, str]]) -> str:
    """Write rows that cannot be used down, in the working folder; returns where they are, for a message.

    Args:
        path: The table.
        second: What the second of each offender's values is: the image, or the column.
        offenders: The number of the row, that second value, the cell, and what is wrong with it.
    """
    file = Path(f"{path.stem}_offenders.csv")
    try:
        write_rows(file, safe_cells([("row", second, "value", "reason"), *sorted(offenders)]))
    except (OSError, Mistake) as error:
        return f"they could not be written to {file} ({error})"
    return f"all are in {shown(str(file))}"


def refused_rows(
    flag: str, path: Path, second: str, offenders: Sequence[tuple[int, str, str, str]], remedy: str
) -> Mistakes:
    """Word which rows cannot be used, and write them all down, in the working folder.

    Args:
        flag: The flag that named the table.
        path: Its file.
        second: What the second of each offender's values is: the image, or the column.
        offenders: The number of the row, that second value, the cell, and what is wrong with it.
        remedy: What to do.
    """
    rows = sorted(offenders)
    kinds = Counter(re.sub(r" row \d+$", " row", reason) for *_, reason in rows)
    counted = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.most_common())
    listed = "; ".join(f"row {number}: {shown(value)[:80]!r}: {reason}" for number, _, value, reason in rows[:LISTED])
    number = len({number for number, *_ in rows})
    many = f"{number:,} rows" if number > 1 else "a row"
    line = (
        f"{flag}={str(path)!r} has {many} that cannot be used ({counted}), so what is learned would not be what the "
        f"table says: {shown(listed)}; {remedy}; {write_offenders(path, second, offenders)}."
    )
    return Mistakes(line, [(f"row {number}", f"{value!r}: {reason}") for number, _, value, reason in rows])
