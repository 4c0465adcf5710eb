"""Turns rows of a table into what the exported models take. Needs numpy alone, nothing of the project.

    about = json.loads(Path("metadata.json").read_text(encoding="utf-8"))
    session.run(None, preprocess(read("new.csv", about), about))

A row is a dict of columns: text as a CSV has it, or what JSON, a database or pandas give: numbers, dates, None.
"""

import csv
import datetime
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?)?)"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
)
DELIMITERS = (",", ";", "\t", "|")
HINT = re.compile(r'"?sep=(.)"?\s*')  # the first line of some spreadsheets' files
LARGEST = float(np.finfo(np.float32).max)


class Unreadable(ValueError):
    """A row cannot be turned into what the models take."""


def read(path: str | Path, about: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV, in UTF-8 or in the encoding of the table that the model was trained on.

    Args:
        path: The file.
        about: What metadata.json says.

    Raises:
        Unreadable: It lacks columns, or a row has too few or too many cells.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    encoding = about["encoding"] if b"\0" in head else "utf-8-sig"
    wanted = {column["name"] for column in about["columns"]}
    absent = wanted
    for delimiter in DELIMITERS:
        with open(path, encoding=encoding, newline="") as file:
            hint = HINT.fullmatch(file.readline())
            if hint is None:
                file.seek(0)
            rows = csv.reader(file, delimiter=hint[1] if hint else delimiter, skipinitialspace=delimiter != "\t")
            names = [name.strip() for name in next((row for row in rows if any(map(str.strip, row))), [])]
            absent = min(absent, wanted - set(names), key=len)
            if absent:
                continue
            for row in filter(None, rows):  # blank lines are no rows
                if len(row) != len(names):
                    raise Unreadable(f"{path}: line {rows.line_num} has {len(row)} cells, and the header {len(names)}")
                yield dict(zip(names, map(str.strip, row), strict=True))
            return
    raise Unreadable(f"{path} lacks {', '.join(sorted(absent))}")


def preprocess(rows: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return rows as the models take them.

    Args:
        rows: Each with a value for each column; others are not looked at.
        about: What metadata.json says.

    Returns:
        ``numbers`` (N, F), float32 in the unit of the table, NaN where one is missing; ``categories`` (N, C), int64:
        0 for a value that training has not seen, i + 1 for value i of the column. One that would have no columns is
        left out.

    Raises:
        Unreadable: A column is missing, or a number is none.
    """
    numbers = [column for column in about["columns"] if column["kind"] == "number"]
    categories = [column for column in about["columns"] if column["kind"] == "category"]
    codes = [{value: code + 1 for code, value in enumerate(column["values"])} for column in categories]
    numbers_NF: list[list[float]] = []
    categories_NC: list[list[int]] = []
    for position, row in enumerate(rows):
        try:
            numbers_NF.append([_number(row[column["name"]], column, about) for column in numbers])
            categories_NC.append(
                [_code(row[column["name"]], known, about) for column, known in zip(categories, codes, strict=True)]
            )
        except KeyError as error:
            raise Unreadable(f"row {position} lacks the column {error}") from error
        except ValueError as error:
            raise Unreadable(f"row {position}: {error}") from error
    inputs: dict[str, np.ndarray] = {}
    if numbers:
        inputs["numbers"] = np.array(numbers_NF, np.float32).reshape(-1, len(numbers))
    if categories:
        inputs["categories"] = np.array(categories_NC, np.int64).reshape(-1, len(categories))
    return inputs


def _text(value: Any, about: Mapping[str, Any]) -> str:
    """Return a value as a CSV has it; nothing for a missing one."""
    text = str(value).strip()  # None and nan are among the words
    return "" if text == "NaT" or text in about["missing_words"] else text


def _number(value: Any, column: Mapping[str, Any], about: Mapping[str, Any]) -> float:
    """Return a value as a number; NaN for a missing one."""
    text = _text(value, about)
    if not text:
        return math.nan
    if PLAIN.fullmatch(text):
        number = float(text)
    elif DATE.fullmatch(text):
        number = _days(text)
    elif isinstance(value, datetime.timedelta):
        number = value / datetime.timedelta(days=1)
    elif isinstance(value, datetime.time):
        number = (value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6) / 86400
    else:
        by_comma = {"decimal": text.replace(",", "."), "thousands": text.replace(",", "")}
        text = by_comma.get(column.get("comma", ""), text)
        if not PLAIN.fullmatch(text):
            raise ValueError(f"{column['name']} is {value!r}, which is no number")
        number = float(text)
    if abs(number) > LARGEST:
        raise ValueError(f"{column['name']} is {value!r}, which 32 bits do not hold")
    return math.nan if number in about["missing_numbers"] else number


def _days(text: str) -> float:
    """Return the days from 1970-01-01 to a date or time; one without a zone is in UTC."""
    stamp, sign, hours, minutes = DATE.fullmatch(text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    moment = np.datetime64(stamp.replace(",", ".").replace(" ", "T"), "us")
    if sign:
        offset = np.timedelta64(60 * int(hours) + int(minutes or 0), "m")
        moment = moment - offset if sign == "+" else moment + offset
    return float((moment - np.datetime64(0, "us")) / np.timedelta64(1, "D"))


def _code(value: Any, known: Mapping[str, int], about: Mapping[str, Any]) -> int:
    """Return the code of a value; of 2.0 that of 2, of True that of true, where these alone are known."""
    text = _text(value, about)
    if text in known:
        return known[text]
    whole, point, zeros = text.partition(".")
    if point and whole.lstrip("-").isdecimal() and not zeros.strip("0"):
        return known.get(whole, 0)
    if text.casefold() in ("true", "false"):
        return next((known[form] for form in (text.lower(), text.capitalize(), text.upper()) if form in known), 0)
    return 0
