"""What the columns of a table are: the image, the labels and their task, the split, the group, the weight.

Only what is certain is inferred; what could be read in two ways is refused, with the flag that decides.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .cells import FLAGS, KIND
from .delimited import RawTable, asked_of
from .folders import suffixes
from .mistakes import Mistake, shown, some, unknown
from .places import fits
from .targets import FEW, AskedTask, Task

# How it is written: a name in a cell, a column of 0 and 1 for each class or label, several names in a cell, numbers.
Form = Literal["names", "one_hot", "listed", "flags", "numbers"]

DELIMITERS = (";", "|", ",", " ")  # of several labels in one cell
IMAGE_NAMES = {"image", "images", "file_name", "filename", "file", "path", "filepath", "file_path", "fname", "img"}
IMAGE_NAMES |= {"image_path", "image_name", "image_id", "image_file", "img_path", "id"}
MOST_DISTINCT = 200_000  # values that are kept, of all columns together
SAMPLE = 1000  # values of a column that are looked for among the files


class Asked(NamedTuple):
    """What was asked of a table: the flags, ``--data.NAME``."""

    labels: str
    root: str
    task: AskedTask | str = "auto"
    image_column: str | None = None
    label_columns: list[str] | None = None
    label_delimiter: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    weight_column: str | None = None
    outside: bool = False
    log_target: bool = False

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the flags."""
        return cls._fields

    @classmethod
    def by(cls, settings: Mapping[str, Any]) -> "Asked":
        """Return what is asked of a table by settings, of which others may be among them."""
        return cls(**asked_of(cls.names(), settings, lists=("label_columns",)))


@dataclass
class Column:
    """What is known of a column after one reading.

    Args:
        name: Its name.
        position: Its place in a row.
        most: How many distinct values are kept.
        decimal_comma: Whether a comma may stand in a number.
    """

    name: str
    position: int
    most: int
    decimal_comma: bool
    rows: int = 0
    empty: int = 0
    values: set[str] = field(default_factory=set)
    is_cut: bool = False
    kinds: Counter[str] = field(default_factory=Counter)  # of its distinct values
    sample: list[str] = field(default_factory=list)

    def add(self, cells: Sequence[str]) -> None:
        """Take note of some cells."""
        self.rows += len(cells)
        self.empty += cells.count("")
        if len(self.sample) < SAMPLE:
            self.sample += cells[: SAMPLE // 4]
        new = set(cells) - self.values
        new.discard("")
        # Of a column with many values a part tells the kind.
        for value in islice(new, 100) if self.is_cut else new:
            found = KIND.fullmatch(value)
            kind = str(found.lastgroup) if found else "text"
            self.kinds["text" if kind in ("comma", "thousand") and not self.decimal_comma else kind] += 1
        if not self.is_cut:
            self.values |= new
            self.is_cut = len(self.values) > self.most

    def forget(self) -> None:
        """Let go of what would fill the memory: the first of too many values."""
        self.sample.clear()
        if self.is_cut:
            self.values.clear()

    @property
    def repeats(self) -> bool:
        """Whether its values recur, as classes do and names of files do not."""
        return not self.is_cut and 2 * len(self.values) <= self.rows - self.empty

    @property
    def is_flag(self) -> bool:
        """Whether it holds 0 and 1, or words for these, and no more."""
        return bool(self.values) and not self.is_cut and all(value.casefold() in FLAGS for value in self.values)

    @property
    def has_fractions(self) -> bool:
        """Whether it is one of numbers, and some are no integers."""
        fractions = sum(self.kinds[kind] for kind in ("float", "comma", "thousand"))
        numbers = fractions + self.kinds["integer"] + self.kinds["whole"]
        return fractions > 0 and numbers > self.kinds["text"]

    def lacks(self, cell: str) -> bool:
        """Tell whether a cell says that there is no class."""
        return not cell or cell.casefold() == "nan" or (self.is_whole and not set(cell) & set("0123456789"))

    @property
    def is_whole(self) -> bool:
        """Whether it is one of integers, be they written as 1.0."""
        return {kind for kind, count in self.kinds.items() if count} <= {"integer", "whole", "void"} and bool(
            self.kinds["integer"] + self.kinds["whole"]
        )


class Roles(NamedTuple):
    """Which column is what.

    Args:
        image: The column of the images.
        folder: The folder that its values are relative to.
        task: What is learned.
        form: How it is written.
        labels: The columns of the labels.
        delimiter: What parts several labels in one cell.
        split: The column of the split, or None.
        group: The column of the group, or None.
        weight: The column of the weight, or None.
        unused: The names of all others.
        note: What else people should know.
    """

    image: Column
    folder: str
    task: Task
    form: Form
    labels: list[Column]
    delimiter: str | None
    split: Column | None
    group: Column | None
    weight: Column | None
    unused: list[str]
    note: str


def profile(table: RawTable) -> list[Column]:
    """Read a table once, and keep what tells its columns apart; those without a name are left out."""
    named = [i for i, name in enumerate(table.names) if name]
    most = max(1000, MOST_DISTINCT // max(1, len(named)))
    may_have_commas = table.delimiter not in ("", ",")
    columns = [Column(table.names[i], i, most, may_have_commas) for i in named]
    for chunk in table.chunks():
        for column in columns:
            column.add(chunk.columns[column.position])
    return columns


def settle(asked: Asked, table: RawTable, columns: list[Column], root: Path) -> Roles:
    """Tell which column is what.

    Raises:
        Mistake: A flag names no column, or a column could be more than one thing.
    """
    by_name = {column.name: column for column in columns}
    taken = {name for name in (asked.image_column, *(asked.label_columns or ())) if name is not None}
    split = _by_name(asked, "split_column", by_name, ("split", "is_valid"), taken)
    group = _by_name(asked, "group_column", by_name, ("group",), taken)
    weight = _by_name(asked, "weight_column", by_name, ("weight",), taken)
    roles = [column.name for column in (split, group, weight) if column]
    chosen = [_named(asked, "label_columns", name, by_name) for name in asked.label_columns or ()]
    given = [*([asked.image_column] if asked.image_column is not None else []), *(asked.label_columns or ()), *roles]
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise Mistake(
            f"the column {twice[0]!r} of --data.labels={asked.labels!r} is asked to be two things, so one of them "
            "would be wrong; give each flag a column of its own."
        )
    free = [column for column in columns if column.name not in roles and column not in chosen]
    image, folder = _image(asked, table, by_name, free, root)
    left = [column for column in free if column is not image and (column.values or column.is_cut)]
    labels = chosen or left
    if not labels:
        took = f" ({', '.join(roles)} by name)" if roles else ""
        raise Mistake(
            f"--data.labels={asked.labels!r} has no column of labels beside {image.name!r}{took}, so there is nothing "
            "to learn; add one, or name it: --data.label_columns '[NAME]'."
        )
    task, form, delimiter, note = _form(asked, labels, is_chosen=bool(chosen))
    used = {image.name, *roles, *(column.name for column in labels)}
    unused = [column.name for column in columns if column.name not in used]
    return Roles(image, folder, task, form, labels, delimiter, split, group, weight, unused, note)


def _named(asked: Asked, flag: str, name: str, by_name: dict[str, Column]) -> Column:
    if name.strip() not in by_name:
        raise Mistake(unknown(f"--data.{flag}", name, list(by_name)))
    return by_name[name.strip()]


def _by_name(
    asked: Asked, flag: str, by_name: dict[str, Column], known: Sequence[str], taken: set[str]
) -> Column | None:
    """Return the column that a flag names, or else the one that is called so and is not asked to be another."""
    asked_for = getattr(asked, flag)
    if asked_for == "none" and asked_for not in by_name:
        return None
    if asked_for is not None:
        return _named(asked, flag, asked_for, by_name)
    found = [by_name[name] for name in known if name in by_name and name not in taken]
    if len(found) > 1:
        names = " and ".join(repr(column.name) for column in found)
        raise Mistake(
            f"--data.labels={asked.labels!r} has the columns {names}, so it is not clear which one counts; give "
            f"--data.{flag} {found[0].name}."
        )
    return found[0] if found else None


# The images


def _image(
    asked: Asked, table: RawTable, by_name: dict[str, Column], free: list[Column], root: Path
) -> tuple[Column, str]:
    """Find the column of the images, and the folder that its values are relative to."""
    headless = [name for name in table.names if _has_image_suffix(name)]
    if headless:
        raise _no_header(asked, headless[0])
    candidates = free
    if asked.image_column is not None:
        candidates = [_named(asked, "image_column", asked.image_column, by_name)]
    samples = {column.name: column.sample for column in candidates}
    found, looked = fits(samples, root, table.path.parent)
    names = list(dict.fromkeys(fit.column for fit in found))
    if len(names) > 1:
        names = _likelier(names, by_name)
    if len(names) > 1:
        listed = ", ".join(map(repr, names[:4]))
        raise Mistake(
            f"in --data.labels={asked.labels!r} the columns {listed} all name files, so it is not clear which are the "
            f"images; give --data.image_column {names[0]}."
        )
    if not names:
        which = f"no column of --data.labels={asked.labels!r} names"
        if asked.image_column is not None:
            which = f"--data.image_column={asked.image_column!r} does not name"
        values = next((value for column in candidates for value in column.sample if value), "")
        such = f" (such as {shown(values[:60])!r})" if values else ""
        more = f" and {len(looked) - 6} more" if len(looked) > 6 else ""
        raise Mistake(
            f"{which} files{such} in {shown(', '.join(looked[:6]))}{more}, so there are no images; give the folder "
            "that the paths are relative to, --data.root FOLDER, and the column: --data.image_column NAME."
        )
    image = by_name[names[0]]
    folders = [fit.folder for fit in found if fit.column == image.name]
    if len(folders) > 1:
        raise Mistake(
            f"the values of {image.name!r} in --data.labels={asked.labels!r} are files in {folders[0]} and in "
            f"{folders[1]}, so it is not clear which are the images; give --data.root {folders[0]}."
        )
    if fits({image.name: [image.name]}, Path(folders[0]), Path(folders[0]))[0]:
        raise _no_header(asked, image.name)
    return image, folders[0]


def _has_image_suffix(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(stem and dot) and f".{suffix.casefold()}" in suffixes()


def _no_header(asked: Asked, name: str) -> Mistake:
    return Mistake(
        f"the first row of --data.labels={asked.labels!r} names the image {shown(name)!r}, so it is no header and that "
        "image would be lost; write the names of the columns above it, such as image,label."
    )


def _likelier(names: list[str], by_name: dict[str, Column]) -> list[str]:
    """Of columns that all name files return the one whose values do not recur, or the one that is called an image."""
    unlike = [name for name in names if not by_name[name].repeats]
    if len(unlike) == 1:
        return unlike
    called = [name for name in unlike or names if name.casefold() in IMAGE_NAMES]
    return called if len(called) == 1 else names


# The labels


def _form(asked: Asked, labels: list[Column], is_chosen: bool) -> tuple[Task, Form, str | None, str]:
    """Tell the task and how it is written; returns what parts labels, and a note for people, too."""
    task = asked.task
    names = [column.name for column in labels]
    if asked.label_delimiter is not None and (len(labels) > 1 or task in ("multiclass", "regression")):
        what = f"--data.task={task}" if len(labels) == 1 else f"the {len(labels)} columns {some(names)}"
        raise Mistake(
            f"--data.label_delimiter={asked.label_delimiter!r} parts several labels in one cell, so it says nothing of "
            f"{what}; leave it out, or give --data.task multilabel and one column, --data.label_columns '[NAME]'."
        )
    if asked.label_delimiter == "":
        raise Mistake("--data.label_delimiter='' parts nothing, so labels would be letters; give a character.")
    if not is_chosen and len(labels) > 1 and not _is_of_one_kind(labels, task):
        raise Mistake(
            f"--data.labels={asked.labels!r} has {len(labels)} columns that could be labels, {some(names)}, so it is "
            f"not clear what to learn; give --data.label_columns '[{names[-1]}]', or several: '[A, B]'."
        )
    if task == "auto":
        task = _task(asked, labels)
    if task == "regression":
        for column in labels:
            _check_decimals(asked, column)
        return "regression", "numbers", None, ""
    if task == "multiclass":
        if len(labels) == 1:
            return "multiclass", "names", None, ""
        _check_flags(asked, labels, "multiclass")
        return "multiclass", "one_hot", None, ""
    if len(labels) == 1 and not (labels[0].is_flag and asked.label_delimiter is None):
        return "multilabel", "listed", _delimiter(asked, labels[0]), ""
    _check_flags(asked, labels, "multilabel")
    note = "" if asked.task != "auto" else "for one class an image: --data.task multiclass"
    return "multilabel", "flags", None, note


def _is_of_one_kind(labels: list[Column], task: str) -> bool:
    are_flags = all(column.is_flag for column in labels)
    are_numbers = all(column.has_fractions for column in labels)
    if task == "auto":
        return are_flags or are_numbers
    return are_numbers if task == "regression" else are_flags


def _task(asked: Asked, labels: list[Column]) -> Task:
    if len(labels) > 1:
        if all(column.is_flag for column in labels):
            return "multilabel"
        if all(column.has_fractions for column in labels):
            return "regression"
        names = [column.name for column in labels]
        raise _ambiguous(asked, f"--data.label_columns={names} are neither all 0 and 1 nor all fractions")
    column = labels[0]
    if asked.label_delimiter is not None:
        return "multilabel"
    if column.is_flag:
        return "multiclass"
    what = f"the column {column.name!r}"
    if column.has_fractions:
        if column.kinds["comma"] + column.kinds["thousand"] and _is_list(column, ",") is not False:
            remedy = "--data.task regression, or --data.label_delimiter ','"
            raise _ambiguous(asked, f"{what} may hold decimal commas or several labels", remedy)
        return "regression"
    if column.is_whole:
        if column.kinds["whole"]:
            raise _ambiguous(asked, f"{what} holds integers written as fractions, which may be classes or numbers")
        if len(column.values) <= FEW and column.repeats:
            return "multiclass"
        many = f"more than {FEW}" if column.is_cut else len(column.values)
        raise _ambiguous(asked, f"{what} holds {many} different integers, which may be classes or numbers")
    for delimiter in DELIMITERS:
        is_list = _is_list(column, delimiter)
        if is_list:
            return "multilabel"
        if is_list is None:
            remedy = f"--data.task multiclass, or --data.label_delimiter '{delimiter}'"
            raise _ambiguous(asked, f"the values of {what} may be names or labels parted by {delimiter!r}", remedy)
    if any(value.startswith(("[", "{")) for value in column.values):
        raise _ambiguous(
            asked, f"{what} holds lists in brackets", "the labels of a cell as A;B, or --data.task multiclass"
        )
    if not column.repeats:
        raise _ambiguous(asked, f"most values of {what} stand in one row alone, as those of classes do not")
    return "multiclass"


def _ambiguous(
    asked: Asked, what: str, remedy: str = "--data.task multiclass, multilabel or regression, which decides"
) -> Mistake:
    return Mistake(f"of --data.labels={asked.labels!r} {what}, so a guess could learn the wrong thing; give {remedy}.")


def parts_of(value: str, delimiter: str) -> list[str]:
    """Return the labels in a cell."""
    return [part for part in map(str.strip, value.split(delimiter)) if part]


def _is_list(column: Column, delimiter: str) -> bool | None:
    """Tell whether the cells of a column hold several labels; None where they may or may not.

    They do where most parts recur in other cells and their number varies. Spaces and commas stand in names, too
    ("dense forest" beside "forest"): there each part must also stand alone, or far more combinations than parts.
    """
    if not any(delimiter in value for value in column.values):
        return False
    combinations = {frozenset(parts_of(value, delimiter)) for value in column.values}
    stands_in = Counter(part for parts in combinations for part in parts)
    recurring = sum(count > 1 for count in stands_in.values())
    is_shared = 2 * recurring > len(stands_in)
    numbers = {len(parts) for parts in combinations}
    stand_alone = all(frozenset((part,)) in combinations for part in stands_in)
    are_combined = 4 * len(stands_in) <= len(combinations) and max(numbers) > 2
    is_rare = delimiter in ";|"  # in the name of a class
    if is_shared and len(numbers) > 1 and (stand_alone or are_combined or is_rare):
        return True
    return None if is_rare or is_shared else False


def _delimiter(asked: Asked, column: Column) -> str:
    """Return what parts the labels of a cell."""
    if asked.label_delimiter is not None:
        return asked.label_delimiter
    certain = [delimiter for delimiter in DELIMITERS if _is_list(column, delimiter)]
    present = [delimiter for delimiter in DELIMITERS if any(delimiter in value for value in column.values)]
    found = certain[:1] or present
    if len(found) == 1:
        return found[0]
    raise Mistake(
        f"it is not clear what parts the labels in the column {column.name!r} of --data.labels={asked.labels!r}, so "
        "they would be read wrong; give --data.label_delimiter ';' or what it is."
    )


def _check_flags(asked: Asked, labels: Sequence[Column], task: str) -> None:
    for column in labels:
        # One cell that is neither is a row's fault; most of them are the column's.
        known = sum(value.casefold() in FLAGS for value in column.values)
        if column.is_cut or 2 * known < len(column.values) or not known:
            value = next(iter(sorted(value for value in column.values if value.casefold() not in FLAGS)), "")
            raise Mistake(
                f"--data.task={task} of several columns reads 0 and 1, and the column {column.name!r} of "
                f"--data.labels={asked.labels!r} holds {shown(value)[:60]!r}, so it says no such thing; give the "
                "columns that do: --data.label_columns '[A, B]'."
            )


def _check_decimals(asked: Asked, column: Column) -> None:
    kinds = column.kinds
    if not column.is_whole and not any(kinds[kind] for kind in ("integer", "whole", "float", "comma", "thousand")):
        raise Mistake(
            f"the column {column.name!r} of --data.labels={asked.labels!r} holds no numbers (such as "
            f"{shown(next(iter(column.sample), ''))[:60]!r}), so there is nothing for --data.task=regression to learn; "
            "give the columns that do: --data.label_columns '[A, B]'."
        )
    if kinds["thousand"] and not kinds["comma"]:
        raise Mistake(
            f"the numbers of the column {column.name!r} of --data.labels={asked.labels!r} all have three digits behind "
            "a comma, so 1,234 could be a thousand or one; write them with a point, or without a comma."
        )
    if kinds["comma"] + kinds["thousand"] and kinds["float"] + kinds["whole"]:
        raise Mistake(
            f"the column {column.name!r} of --data.labels={asked.labels!r} holds numbers with a comma and others "
            "with a point, so it is not clear which one is decimal; write all with a point."
        )


def read_numbers(column: Column, cells: Iterable[str]) -> np.ndarray:
    """Return the numbers in the cells of a column, (N,); NaN for what is none."""
    if column.kinds["comma"] + column.kinds["thousand"]:
        cells = [cell.replace(",", ".") for cell in cells]
    cells = list(cells)
    try:
        if "_" in "".join(cells):  # Python reads 1_000
            raise ValueError("_")
        return np.array([*map(float, cells)], dtype=np.float64)
    except ValueError:
        return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: str) -> float:
    found: Any = KIND.fullmatch(cell)
    return float(cell) if found and found.lastgroup in ("integer", "whole", "float") else float("nan")
