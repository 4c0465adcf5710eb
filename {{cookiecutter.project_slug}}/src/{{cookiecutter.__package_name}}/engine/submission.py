"""Predictions in the form of a sample submission: its columns, and its rows in their order."""

import os
from collections.abc import Sequence
from pathlib import Path

from .delimited import RawTable, open_table
from .mistakes import Mistake, shown, some
from .targets import Target

ID_NAMES = ("id", "row", "image", "image_id", "file_name", "filename", "path")


class Submission:
    """A submission in the form of a sample: which columns it has, and which sample each row is about.

    Where the columns beside the id are the names of classes, labels or numbers, they get the values; where there is one
    of another name, it gets what the prediction comes to.

    Args:
        like: A file with the ids and the columns that are wanted.
        keys: The key of each sample that is predicted.
        target: What is predicted.
        noun: What samples are called.
        to_predict: The flag that names what is new, and what it names.

    Raises:
        Mistake: The file cannot be read, asks for samples that are not predicted, or for columns that nothing is known
            of.
    """

    def __init__(
        self, like: str | Path, keys: Sequence[str], target: Target, noun: str, to_predict: tuple[str, str]
    ) -> None:
        flag, place = to_predict
        wanted = f"nothing was written; give {flag} the {place.lower()} of"
        raw = open_table("--like", Path(like))
        columns = _columns(raw, noun)
        places = _places(keys)
        self.header, self.identity = list(raw.names), _identity(raw, columns, places, noun, wanted)
        self.ids = columns[self.identity]
        unknown = [name for name in self.ids if places.get(name) is None]
        if unknown:
            why = f"has the name of two {noun} that were" if unknown[0] in places else "was not"
            raise Mistake(
                f"--like={str(like)!r} asks for {len(self.ids):,} {noun} and {len(unknown):,} of them are not known: "
                f"the first, {shown(unknown[0])!r}, {why} predicted, so {wanted} them all."
            )
        self.places = [place for name in self.ids if (place := places[name]) is not None]
        others = [name for i, name in enumerate(raw.names) if i != self.identity]
        self.numbers = {name: i for i, name in enumerate(target.columns)}
        unnamed = [name for name in others if name not in self.numbers]
        if not others or (unnamed and len(others) > 1):
            what = f"the column {shown(unnamed[0])!r}" if unnamed else "no column beside the ids"
            raise Mistake(
                f"--like={str(like)!r} has {what}, and what is predicted is {some(target.columns)}, so it is not known "
                "what to write there; give a file with one column beside the ids, or with these."
            )
        self.takes_decisions = bool(unnamed)
        if self.takes_decisions and not target.decision and len(target.names) > 1:
            raise Mistake(
                f"--like={str(like)!r} has the one column {shown(others[0])!r} and {some(target.names)} are predicted, "
                "so it is not clear which number belongs there; name it as one of them."
            )

    def rows(
        self, values: Sequence[Sequence[str]], decisions: Sequence[Sequence[str]], delimiter: str = " "
    ) -> list[list[str]]:
        """Return its rows, the header among them.

        Args:
            values: The probabilities, or the numbers, of each sample as they are written: (N, columns).
            decisions: What each prediction comes to: the class, the labels, or the numbers as they are written.
            delimiter: What parts several labels in one cell.
        """
        rows = [self.header]
        for name, place in zip(self.ids, self.places, strict=True):
            row = []
            for i, column in enumerate(self.header):
                if i == self.identity:
                    row.append(name)
                elif self.takes_decisions:
                    row.append(delimiter.join(decisions[place]))
                else:
                    row.append(values[place][self.numbers[column]])
            rows.append(row)
        return rows


def _columns(raw: RawTable, noun: str) -> list[list[str]]:
    """Read all cells, by column."""
    columns: list[list[str]] = [[] for _ in raw.names]
    for chunk in raw.chunks():
        if chunk.wrong:
            number, width = chunk.wrong[0]
            raise Mistake(
                f"row {number} of --like={str(raw.path)!r} has {width} cells and the header {len(raw.names)}, so it is "
                "not clear what it asks for; mend it."
            )
        for cells, more in zip(columns, chunk.columns, strict=True):
            cells += more
    if not columns[0]:
        raise Mistake(f"--like={str(raw.path)!r} has no rows, so it asks for no {noun}; give one that does.")
    return columns


def _places(keys: Sequence[str]) -> dict[str, int | None]:
    """Return the sample that each way to write it means: with or without folder and suffix; None where that is two.

    The whole path counts before the name alone, and a name with its suffix before one without.
    """
    ways = (
        lambda key: key,
        lambda key: os.path.splitext(key)[0],
        os.path.basename,
        lambda key: os.path.splitext(os.path.basename(key))[0],
    )
    places: dict[str, int | None] = {}
    for way in ways:
        found: dict[str, int | None] = {}
        for i, key in enumerate(keys):
            name = way(key)
            found[name] = i if name not in found else None
        places = found | places
    return places


def _identity(raw: RawTable, columns: list[list[str]], places: dict[str, int | None], noun: str, wanted: str) -> int:
    """Return the place of the column that names the samples."""
    known = [sum(name in places for name in cells) for cells in columns]
    fits = [i for i, count in enumerate(known) if 2 * count > len(columns[i])]
    distinct = [i for i in fits if len(set(columns[i])) == len(columns[i])]
    fits = distinct or fits
    called = [i for i in fits if raw.names[i].casefold() in ID_NAMES]
    fits = called if len(called) == 1 else fits
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = " and ".join(shown(repr(raw.names[i])) for i in fits[:2])
        raise Mistake(
            f"in --like={str(raw.path)!r} both {names} name {noun} that were predicted, so it is not clear which are "
            "the ids; call the right one id."
        )
    if places.keys() == set(map(str, range(len(places)))):  # rows of a table without ids
        raise Mistake(
            f"no column of --like={str(raw.path)!r} names the {noun} that were predicted, which have no ids but their "
            "places from 0 on, so nothing was written; train with --data.id NAME, the column that names them."
        )
    first = columns[max(range(len(known)), key=known.__getitem__)][0]
    raise Mistake(
        f"no column of --like={str(raw.path)!r} names the {noun} that were predicted (such as {shown(first)!r}), so "
        f"{wanted} the {noun} that it asks for."
    )
