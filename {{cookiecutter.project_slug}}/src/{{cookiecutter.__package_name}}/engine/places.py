"""Where the images of a table lie: which column names files, relative to which folder, and the file of each row.

Folders are listed once; no file is looked at by itself.
"""

import contextlib
import errno
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .folders import SYSTEM_FOLDERS, suffixes
from .mistakes import Mistake

SEVERAL, LINKED = 1, 2  # what else than a file a name may lead to: more than one, or one that is linked from elsewhere
Match = str | int | None  # the suffix that makes a name the name of a file, SEVERAL, LINKED, or None for no file
ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # parts of a path that lead nowhere or up


class Fit(NamedTuple):
    """A column, by its name, and a folder that most of its values are files in."""

    column: str
    folder: str


def fits(samples: dict[str, list[str]], root: Path, beside: Path) -> tuple[list[Fit], list[str]]:
    """Tell which columns name files, in which folder: the root, that of the table, or else one inside of these.

    Args:
        samples: Some values of each column.
        root: The root of the data.
        beside: The folder of the table.

    Returns:
        What fits in the first of these places where anything does, and all folders that were looked at.
    """
    looked: list[str] = []
    cells = {name: {_tidy(cell) for cell in values if cell} for name, values in samples.items()}
    every = {cell for values in cells.values() for cell in values}
    for level in _levels(root, beside):
        found: list[Fit] = []
        for folder in level:
            looked.append(folder)
            matches = match_files(folder, every, None)
            for name, values in cells.items():
                hits = sum(_may_be_image(cell, matches[cell]) for cell in values)
                if 2 * hits > len(values):
                    found.append(Fit(name, folder))
        if found:
            return found, looked
    return [], looked


def _may_be_image(cell: str, match: Match) -> bool:
    """Tell whether a path names a file that can be an image, be it without any suffix; a text is none."""
    suffix = os.path.splitext(cell)[1].casefold()
    return match is not None and (match != "" or not suffix or suffix in suffixes())


def _levels(root: Path, beside: Path) -> list[list[str]]:
    tops, seen = [], set()
    for folder in (root, beside):
        if (place := os.path.realpath(folder)) not in seen:
            seen.add(place)
            tops.append(str(folder))
    inner = []
    for top in tops:
        with contextlib.suppress(OSError), os.scandir(top) as entries:
            for entry in entries:
                is_other = entry.name.startswith(".") or entry.name.casefold() in SYSTEM_FOLDERS
                if not is_other and entry.is_dir() and (place := os.path.realpath(entry.path)) not in seen:
                    seen.add(place)
                    inner.append(os.path.join(top, entry.name) if top != "." else entry.name)
    return [*([top] for top in tops), sorted(inner)]


def _folder(cell: str) -> str:
    """Return what stands before the name of a file, with the slash; os.path takes as long as all the rest together."""
    return cell[: cell.rfind("/") + 1]


def _tidy(cell: str) -> str:
    return posixpath.normpath(cell) if ODD.search(cell) else cell


def match_files(folder: str, cells: Iterable[str], home: str | None, strict: bool = False) -> dict[str, Match]:
    """Tell for each path, with or without a suffix, which file it names.

    Args:
        folder: What the paths are relative to.
        cells: The paths.
        home: The folder that no link may lead out of; None where it may.
        strict: Whether a folder that may not be listed is refused; else it counts as empty.

    Raises:
        Mistake: A folder may not be listed.
    """
    matches: dict[str, Match] = dict.fromkeys(cells)
    endings: dict[str, str] = {}  # each suffix once, not once a file
    known = suffixes()
    for prefix in set(map(_folder, matches)):
        place = os.path.join(folder, prefix)
        is_linked = home is not None and not _is_below(place, home)
        try:
            entries = os.scandir(place)
        except OSError as error:
            if strict and error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
                raise Mistake(
                    f"{place} cannot be listed ({error.strerror}), so its images would be missing; give yourself the "
                    "right to read it."
                ) from error
            continue
        with entries:
            for entry in entries:
                name = prefix + entry.name
                stem, dot, suffix = name.rpartition(".")
                is_name = name in matches
                before = matches.get(stem, "") if dot else ""  # a name that is a file counts before what begins like it
                is_stem = before != "" and f".{suffix}".casefold() in known
                if not (is_stem or is_name) or not entry.is_file():
                    continue
                out = is_linked or (home is not None and entry.is_symlink() and not _is_below(entry.path, home))
                if is_name:
                    matches[name] = LINKED if out else ""
                if is_stem:
                    ending = endings.setdefault(suffix, f".{suffix}")
                    matches[stem] = SEVERAL if before is not None else LINKED if out else ending
    return matches


def _is_below(path: str, home: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(home)


class Located(NamedTuple):
    """The files of a table's rows.

    Args:
        keys: The path of each, relative to the root; of a problem what stood in the table.
        problems: The positions of those that cannot be used, with the kind of the reason.
        without_suffix: How many were named without their suffix.
    """

    keys: list[str]
    problems: list[tuple[int, str]]
    without_suffix: int


def locate(cells: list[str], folder: str, root: str, outside: bool) -> Located:
    """Find the file of each row.

    Args:
        cells: What the rows call it; becomes the keys, so that a million rows lie in memory once.
        folder: What this is relative to.
        root: What the keys are relative to.
        outside: Whether files may lie outside of the root.

    Raises:
        Mistake: A folder may not be listed.
    """
    for i, cell in enumerate(cells):
        if ODD.search(cell):
            cells[i] = _tidy(cell) if cell else ""
    prefixes = {inner: _prefix(folder, inner, root) for inner in set(map(_folder, cells))}
    leaves = {inner for inner, prefix in prefixes.items() if prefix.startswith(("/", "../")) and not outside}
    wanted = (cell for cell in cells if cell and (not leaves or _folder(cell) not in leaves))
    found = match_files(folder, wanted, None if outside else os.path.realpath(root), strict=True)
    unseen = {_composed(cell): cell for cell, match in found.items() if match is None and not cell.isascii()}
    renamed = _in_other_forms(folder, unseen) if unseen else {}
    again = match_files(folder, renamed.values(), None if outside else os.path.realpath(root))
    matches = [found.get(cell) for cell in cells]
    del found
    problems, without_suffix = [], 0
    is_same = all(prefix == inner for inner, prefix in prefixes.items())
    for i, match in enumerate(matches):
        cell = cells[i]
        if match is None and cell in renamed:
            cell, match = renamed[cell], again[renamed[cell]]
        inner = _folder(cell)
        if not cell:
            problems.append((i, "no image is named"))
        elif inner in leaves:
            problems.append((i, "the path leaves --data.root"))
        elif match == LINKED:
            problems.append((i, "a link leads out of --data.root"))
        elif match == SEVERAL:
            problems.append((i, "several files have this name, with different suffixes"))
        elif not isinstance(match, str):
            problems.append((i, "the file is not there" + (" (paths are written with /)" if "\\" in cell else "")))
        else:
            without_suffix += bool(match)
            # A path that stays as it is stays the same object.
            cells[i] = cell + match if is_same else prefixes[inner] + cell[len(inner) :] + match
    return Located(cells, problems, without_suffix)


def _prefix(folder: str, inner: str, root: str) -> str:
    """Return what comes before the name of a file in its key."""
    path = os.path.normpath(os.path.join(os.path.abspath(folder), inner))
    relative = os.path.relpath(path, os.path.abspath(root))
    if relative == ".":
        return ""
    leaves = relative == ".." or relative.startswith("../")
    return os.path.join(path if leaves and os.path.isabs(inner) else relative, "")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _in_other_forms(folder: str, unseen: dict[str, str]) -> dict[str, str]:
    """Find files whose names are written in other characters that look the same, as those of a Mac's archive are."""
    renamed = {}
    for inner in set(map(_folder, unseen.values())):
        with contextlib.suppress(OSError), os.scandir(os.path.join(folder, inner)) as entries:
            for entry in entries:
                name = inner + entry.name
                composed = "" if name.isascii() else _composed(name)
                for cell in (composed, os.path.splitext(composed)[0]):
                    if cell in unseen and entry.is_file():
                        renamed[unseen[cell]] = name
    return renamed
