"""A table of labels beside images: which image each row names, what is learned of it, and the rows that cannot be used.

How a file is read stands in delimited.py, which column is what in columns.py, where the images lie in places.py.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .builtin import is_built_in
from .cells import FLAGS, class_name, in_order, look_alike
from .columns import Asked, Column, Roles, parts_of, profile, read_numbers, settle
from .delimited import RawTable, ReadOnce, open_table, refused_rows
from .files import check_path
from .mistakes import CONTROL, Mistake, all_such, shown, some
from .places import Located, locate
from .splits import SPLITS, Samples, split_words
from .targets import Classes, Labels, Numbers, Target, check_task

VOID = {"nan", "none", "null", "na", "n/a"}
LARGEST_TARGETS = 2**34  # bytes of all targets together
BAD = 2  # stands for a cell that is neither 0 nor 1, until it is refused

__all__ = ["Asked", "Table", "read_labels"]


class Table(NamedTuple):
    """What a table says.

    Args:
        root: The folder that the keys of the samples are relative to.
        samples: The samples.
        settled: The flags that were inferred, by name, as a run's config keeps them.
        remark: What was inferred, in one line for people.
    """

    root: Path
    samples: Samples
    settled: dict[str, Any]
    remark: str


_last: ReadOnce[Table] = ReadOnce()


def read_labels(asked: Asked) -> Table:
    """Read a table of labels.

    What was read is kept for the next call alone: the command line asks for the task, the data module for the samples.

    Args:
        asked: The flags.

    Raises:
        Mistake: It cannot be read, a column could be more than one thing, or some rows cannot be used.
    """
    for name in ("labels", "root"):
        check_path(f"--data.{name}", getattr(asked, name))
    path = Path(asked.labels)
    return _last(path, asked, lambda: _read(asked, path))


def _read(asked: Asked, path: Path) -> Table:
    check_task(asked.task)
    raw = open_table("--data.labels", path)
    root = Path(asked.root)
    takes_place = is_built_in(asked.root) or not root.exists()
    if takes_place:
        root = path.parent
    if not root.is_dir():
        raise Mistake(
            f"--data.root={asked.root!r} is not a folder, so there are no images; give the folder of the images."
        )
    columns = profile(raw)
    if not columns or not columns[0].rows:
        raise Mistake(f"--data.labels={asked.labels!r} has no rows, so there is nothing to learn; add one an image.")
    roles = settle(asked, raw, columns, root)
    for column in columns:
        column.forget()
    if asked.log_target and roles.task != "regression":
        raise Mistake(
            f"--data.log_target=true is for numbers, and --data.task is {roles.task}, so there is no logarithm to "
            "learn; leave it out."
        )
    samples, located = _Rows(asked, roles, path).samples(raw, str(root))
    settled = {
        "root": str(root),
        "task": roles.task,
        "image_column": roles.image.name,
        "label_columns": [column.name for column in roles.labels],
        "label_delimiter": roles.delimiter,
        "split_column": roles.split and roles.split.name,
        "group_column": roles.group and roles.group.name,
        "weight_column": roles.weight and roles.weight.name,
    }
    remark = _remark(asked, roles, samples, located, str(root) if takes_place else "")
    return Table(root, samples, settled, remark)


def _remark(asked: Asked, roles: Roles, samples: Samples, located: Located, new_root: str) -> str:
    """Say in one line what a table was taken for."""
    suffix = " without suffix" if located.without_suffix else ""
    said = [f"{len(samples.keys):,} images in {roles.folder} by {roles.image.name}{suffix}"]
    names = some([column.name for column in roles.labels], counted=True)
    number = len(samples.target.names)
    if isinstance(samples.target, Classes):
        said.append(f"{number} classes by {names}")
    elif isinstance(samples.target, Labels):
        parted = f", parted by {roles.delimiter!r}" if roles.delimiter else ""
        note = f" ({roles.note})" if roles.note else ""
        said.append(f"{number} labels, several an image, by {names}{parted}{note}")
    else:
        log = ", of which the logarithm is learned" if asked.log_target else ""
        said.append(f"{'a number' if number == 1 else f'{number} numbers'} by {names}{log}")
    for what, column in (("splits", roles.split), ("groups", roles.group), ("weights", roles.weight)):
        said += [f"{what} by {column.name}"] if column else []
    said += [f"not used: {some(roles.unused, counted=True)}"] if roles.unused else []
    said += [f"--data.root is {new_root}, the folder of the table"] if new_root else []
    return shown(f"labels: {asked.labels} names " + "; ".join(said))


class _Codes:
    """The cells of a column as numbers: the position of each among its distinct values."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}
        self.parts: list[np.ndarray] = []

    def add(self, cells: Iterable[str]) -> None:
        number = self.number
        self.parts.append(np.array([number.setdefault(cell, len(number)) for cell in cells], dtype=np.int32))

    @property
    def codes(self) -> np.ndarray:
        """The position of each cell's value among ``values``, (N,)."""
        self.parts = [np.concatenate([np.empty(0, np.int32), *self.parts])] if len(self.parts) != 1 else self.parts
        return self.parts[0]

    @property
    def values(self) -> list[str]:
        return list(self.number)

    def rows_of(self, is_wrong: Sequence[bool]) -> list[int]:
        """Return the rows whose value is wrong."""
        return np.flatnonzero(np.array(is_wrong, dtype=bool)[self.codes]).tolist() if any(is_wrong) else []


class _Rows:
    """Reads the rows of a table, and collects all that cannot be used.

    Args:
        asked: The flags.
        roles: Which column is what.
        path: The file of the table.
    """

    def __init__(self, asked: Asked, roles: Roles, path: Path) -> None:
        self.asked, self.roles, self.path = asked, roles, path
        self.cells: list[str] = []  # of the image column
        self.numbers: list[np.ndarray] = []  # of the rows
        self.coded = {
            column.name: _Codes() for column in (roles.split, roles.group, roles.weight) if column is not None
        }
        self.written = _Codes()  # of the labels in one cell
        self.parts: list[np.ndarray] = []  # of the labels in columns of their own
        self.offenders: list[tuple[int, str, str, str]] = []

    def samples(self, raw: RawTable, root: str) -> tuple[Samples, Located]:
        """Return the samples.

        Raises:
            Mistake: Some rows cannot be used.
        """
        self._collect(raw)
        number_of = np.concatenate(self.numbers)
        self.numbers.clear()
        if not len(self.cells):
            self._refuse()
        target, targets, remarks = self._targets(number_of)
        given, groups = self._given(number_of), self._groups(number_of)
        weights = self._weights(number_of)
        if given is not None:
            self._check_learned(target, targets, given, number_of)
        located = locate(self.cells, self.roles.folder, root, self.asked.outside)
        for i, reason in located.problems:
            self._offend(number_of[i], located.keys[i], located.keys[i], reason)
        # Whether a path may stand there twice; a set of a million would double what they take.
        hashes = np.fromiter(map(hash, located.keys), np.int64, len(located.keys))
        hashes.sort()
        if (hashes[1:] == hashes[:-1]).any():
            self._check_repeated(located, target, targets, number_of)
        if self.offenders:
            self._refuse()
        return Samples(located.keys, targets, target, given, "", groups, weights, remarks), located

    def _offend(self, number: int, image: str, value: str, reason: str) -> None:
        self.offenders.append((int(number), image, value, reason))

    def _collect(self, raw: RawTable) -> None:
        roles = self.roles
        width, place = len(raw.names), roles.image.position
        others = [column for column in (roles.split, roles.group, roles.weight) if column is not None]
        for chunk in raw.chunks():
            for number, cells in chunk.wrong:
                self._offend(number, "", str(cells), f"the row has {cells} cells and the header {width}")
            if not chunk.numbers:
                continue
            images = chunk.columns[place]
            if CONTROL.search("\n".join(images)):
                for number, image in zip(chunk.numbers, images, strict=True):
                    if CONTROL.search(image):
                        self._offend(number, image, image, "the path holds control characters")
            self.cells += images
            self.numbers.append(np.array(chunk.numbers))
            for column in others:
                self.coded[column.name].add(chunk.columns[column.position])
            labels = [(column, chunk.columns[column.position]) for column in roles.labels]
            if roles.form in ("names", "listed"):
                self.written.add(labels[0][1])
            elif roles.form == "numbers":
                self._add_numbers(labels, chunk.numbers, images)
            else:
                self._add_flags(labels, chunk.numbers, images)
        if not self.numbers:
            self.numbers.append(np.empty(0, np.int64))

    def _add_numbers(self, labels: list[tuple[Column, list[str]]], numbers: list[int], images: list[str]) -> None:
        values_NT = np.stack([read_numbers(column, cells) for column, cells in labels], axis=1)
        is_wrong = ~np.isfinite(values_NT)
        too_low = values_NT <= 0 if self.asked.log_target else np.zeros_like(is_wrong)
        for i, j in np.argwhere(is_wrong | too_low).tolist():
            reason = "is no finite number" if is_wrong[i, j] else "has no logarithm (--data.log_target true)"
            self._offend(numbers[i], images[i], labels[j][1][i], f"{labels[j][0].name} {reason}")
        self.parts.append(values_NT)

    def _add_flags(self, labels: list[tuple[Column, list[str]]], numbers: list[int], images: list[str]) -> None:
        flags = [bytes([FLAGS.get(cell.casefold(), BAD) for cell in cells]) for _, cells in labels]
        flags_NK = np.stack([np.frombuffer(column, np.uint8) for column in flags], axis=1)
        for i, j in np.argwhere(flags_NK == BAD).tolist():
            self._offend(numbers[i], images[i], labels[j][1][i], f"{labels[j][0].name} is neither 0 nor 1")
        if self.roles.form == "one_hot":
            for i in np.flatnonzero((flags_NK == 1).sum(axis=1) != 1).tolist():
                ones = [column.name for (column, _), flag in zip(labels, flags_NK[i], strict=True) if flag == 1]
                self._offend(numbers[i], images[i], ";".join(ones), "not exactly one class is 1")
            self.parts.append(flags_NK.argmax(axis=1))
        else:
            self.parts.append(flags_NK)

    def _targets(self, number_of: np.ndarray) -> tuple[Classes | Labels | Numbers, np.ndarray, list[str]]:
        roles = self.roles
        names = [column.name for column in roles.labels]
        if roles.form == "numbers":
            if twice := sorted({f"true_{name}" for name in names} & set(names)):
                raise Mistake(
                    f"the column {twice[0]!r} of --data.labels={self.asked.labels!r} would have the name that "
                    "predictions give the true value of another; rename it."
                )
            return Numbers(names, self.asked.log_target), np.concatenate(self.parts), []
        if roles.form == "flags":
            return Labels(names), np.concatenate(self.parts), []
        if roles.form == "one_hot":
            return Classes(names), np.concatenate(self.parts).astype(np.int64), []
        cells, codes = self.written.values, self.written.codes
        self._offend_rows(self.written, [bool(CONTROL.search(cell)) for cell in cells], number_of, "control characters")
        if roles.form == "names":
            reason = "no class is named (if that means no label: --data.task multilabel)"
            column = roles.labels[0]
            self._offend_rows(self.written, [column.lacks(cell) for cell in cells], number_of, reason)
            is_whole = column.is_whole and column.kinds["whole"] > 0
            written = [["" if column.lacks(cell) else class_name(cell, is_whole)] for cell in cells]
        else:
            delimiter = roles.delimiter or ""
            written = [[class_name(part) for part in parts_of(cell, delimiter)] for cell in cells]
            void = [any(part.casefold() in VOID for part in parts) for parts in written]
            reason = "a label is called nan or none: leave the cell empty if it means that there is no label"
            self._offend_rows(self.written, void, number_of, reason)
        names = in_order({name for parts in written for name in parts if name})
        if len(names) < 2 and roles.form == "names":
            raise Mistake(
                f"the column {roles.labels[0].name!r} of --data.labels={self.asked.labels!r} holds one class, "
                f"{some(names, counted=True)!r}, so there is nothing to tell apart; add a second class."
            )
        remarks = look_alike(names)
        place = {name: i for i, name in enumerate(names)}
        if roles.form == "names":
            return Classes(names), np.array([place.get(name, 0) for (name,) in written], np.int64)[codes], remarks
        if len(codes) * len(names) > LARGEST_TARGETS:
            raise Mistake(
                f"--data.labels={self.asked.labels!r} has {len(names):,} labels for {len(codes):,} images, so the "
                "targets would fill the memory; leave the rare ones out, or give --data.label_delimiter."
            )
        combination_NK = np.zeros((len(written), len(names)), np.uint8)
        for i, parts in enumerate(written):
            combination_NK[i, [place[part] for part in parts]] = 1
        return Labels(names), combination_NK[codes], remarks

    def _offend_rows(self, coded: _Codes, is_wrong: Sequence[bool], number_of: np.ndarray, reason: str) -> None:
        values = coded.values
        for i in coded.rows_of(is_wrong):
            self._offend(number_of[i], self.cells[i], values[coded.codes[i]], reason)

    def _given(self, number_of: np.ndarray) -> list[str] | None:
        """Return the split that the table names for each row."""
        column = self.roles.split
        if column is None:
            return None
        coded = self.coded[column.name]
        means, takes_flags = split_words(column.name)
        splits = [means.get(value.casefold(), "") for value in coded.values]
        reason = f"{column.name} names no split (train, val or test{', or true or false' if takes_flags else ''})"
        self._offend_rows(coded, [not split for split in splits], number_of, reason)
        if "train" not in splits:
            words = shown(some([*map(repr, coded.values)], counted=True))
            raise Mistake(
                f"the column {column.name!r} of --data.labels={self.asked.labels!r} ({words}) names no row for "
                "training, so there is nothing to train on; write train there, or rename the column if it is no split."
            )
        return [splits[code] for code in coded.codes.tolist()]

    def _groups(self, number_of: np.ndarray) -> np.ndarray | None:
        column = self.roles.group
        if column is None:
            return None
        coded = self.coded[column.name]
        self._offend_rows(coded, [not value for value in coded.values], number_of, f"{column.name} names no group")
        return coded.codes.astype(np.int64)

    def _weights(self, number_of: np.ndarray) -> np.ndarray | None:
        column = self.roles.weight
        if column is None:
            return None
        coded = self.coded[column.name]
        values = read_numbers(column, coded.values)
        with np.errstate(invalid="ignore"):
            is_right = np.isfinite(values) & (values >= 0)
        reason = f"{column.name} is no number from 0 up"
        self._offend_rows(coded, (~is_right).tolist(), number_of, reason)
        if is_right.all() and not values.any():
            raise Mistake(
                f"the weights in the column {column.name!r} of --data.labels={self.asked.labels!r} are all 0, so "
                "nothing would count; give one above 0."
            )
        return values[coded.codes]

    def _check_learned(
        self, target: Classes | Labels | Numbers, targets: np.ndarray, given: list[str], number_of: np.ndarray
    ) -> None:
        """Refuse rows of validation and test with what no row of training has."""
        if isinstance(target, Numbers):
            return
        is_train = np.array([split == "train" for split in given])
        is_held_out = np.array([split in SPLITS[1:] for split in given])
        if isinstance(target, Classes):
            lacks = np.bincount(targets[is_train], minlength=len(target.names)) == 0
            wrong = [(i, [targets[i]]) for i in np.flatnonzero(is_held_out & lacks[targets]).tolist()]
        else:
            lacks = ~(targets[is_train] == 1).any(axis=0)
            lacking = (targets == 1) & lacks & is_held_out[:, None]
            wrong = [(i, np.flatnonzero(lacking[i])) for i in np.flatnonzero(lacking.any(axis=1)).tolist()]
        for i, labels in wrong:
            names = ";".join(target.names[label] for label in labels)
            self._offend(number_of[i], self.cells[i], names, f"stands in {given[i]} and in no row of training")

    def _check_repeated(self, located: Located, target: Target, targets: np.ndarray, number_of: np.ndarray) -> None:
        first: dict[str, int] = {}
        problems = {i for i, _ in located.problems}
        for i, key in enumerate(located.keys):
            if i in problems:
                continue
            before = first.setdefault(key, i)
            if before != i:
                is_same = np.array_equal(targets[before], targets[i], equal_nan=targets.dtype.kind == "f")
                what = "the row repeats row" if is_same else "the image has another target in row"
                self._offend(number_of[i], key, ", ".join(target.told(targets[i])), f"{what} {number_of[before]}")

    def _refuse(self) -> None:
        """Say which rows cannot be used, and write them all down."""
        remedy = "mend them or take them away"
        if any("--data.root" in reason for *_, reason in self.offenders):
            remedy += f" (or give --data.root {self.roles.folder}, or --data.outside true)"
        raise refused_rows("--data.labels", self.path, "image", self.offenders, remedy + all_such())
