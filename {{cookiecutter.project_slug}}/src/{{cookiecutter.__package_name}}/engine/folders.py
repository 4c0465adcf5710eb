"""Folders of images: which files count, which class and split each has, and what is left out.

A data set is ``root/class/**/image.jpg``, or ``root/{train,val,test}/class/**/image.jpg`` where the splits are given.
What could be read in two ways is refused, for a wrong guess trains the wrong thing in silence.
"""

import contextlib
import functools
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from .decoding import formats
from .files import is_gone
from .mistakes import CONTROL, Mistake
from .splits import Samples

Layout = Literal["auto", "classes", "splits"]

# How people call their splits, in any case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset", "val_set"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "test_set", "eval", "evaluation", "holdout"), "test"),
}
# Folders that systems put beside the images: thumbnails, recycle bins, snapshots, the remains of archives.
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "recycled", "#snapshot", "@tmp"),
    *("@recently-snapshot", "system volume information", "__macosx", "lost+found", "_vti_cnf", "found.000"),
}
NEEDED = {".heic": "pillow-heif", ".heif": "pillow-heif", ".dcm": "a conversion", ".nii": "a conversion"}
FEW = 20  # classes that are listed one by one


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that the installed Pillow reads as images."""
    read = set(formats())
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in read)


@dataclass
class Listing:
    """The images below a folder.

    Args:
        paths: Relative to the folder and sorted.
        left_out: What was passed over, and how often.
        other_files: For each folder the files in it that are no images, by suffix.
    """

    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    other_files: dict[str, Counter[str]] = field(default_factory=dict)

    def said(self) -> str:
        """Say what was left out, in one line; nothing where nothing was."""
        return ", ".join(f"{count} {what}" for what, count in self.left_out.most_common())


def list_images(root: Path) -> Listing:
    """List the images below a folder; hidden files, folders of the system and other files are left out and counted.

    Links to folders are followed, but each real folder is listed once.

    Raises:
        Mistake: A folder cannot be read, or a name is no UTF-8.
    """
    listing, seen, links = Listing(), set(), [("", str(root))]
    while links:
        prefix, path = links.pop(0)
        try:
            found = os.stat(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if (found.st_dev, found.st_ino) in seen:
            listing.left_out["links to a folder that is listed already"] += 1
            continue
        links += _list(path, prefix, listing, seen)
        links.sort()  # real folders come first; what only links lead to follows in the order of its names
    listing.paths.sort()
    return listing


def _list(path: str, prefix: str, listing: Listing, seen: set[tuple[int, int]]) -> list[tuple[str, str]]:
    """List one folder and the real ones below it; returns the links to folders, with their prefix."""
    links, folders = [], [(prefix, path)]
    while folders:
        prefix, path = folders.pop()
        found = os.stat(path)
        seen.add((found.st_dev, found.st_ino))
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            raise _unreadable(path, error) from error
        if own := _written_by_us({entry.name for entry in entries}):
            listing.left_out[own] += 1
            continue
        for entry in entries:
            name = entry.name
            if not (name.isascii() and name.isprintable()):
                _check_name(name, path)
            if name.startswith("."):
                listing.left_out["hidden"] += 1
            elif entry.is_dir():
                if name.casefold() in SYSTEM_FOLDERS:
                    listing.left_out[f"system folder ({name})"] += 1
                else:
                    (links if entry.is_symlink() else folders).append((f"{prefix}{name}/", entry.path))
            elif not entry.is_file():
                listing.left_out["broken links" if entry.is_symlink() else "no plain files"] += 1
            elif (suffix := os.path.splitext(name)[1].casefold()) in suffixes():
                listing.paths.append(prefix + name)
            else:
                needs = f" (needs {NEEDED[suffix]})" if suffix in NEEDED else ""
                listing.left_out[f"{suffix or 'without a suffix'}{needs}"] += 1
                listing.other_files.setdefault(prefix, Counter())[suffix or "without a suffix"] += 1
    return links


def _written_by_us(names: set[str]) -> str:
    """Tell what of a project's own a folder is, by the names in it; nothing for a folder of a data set."""
    if "CACHEDIR.TAG" in names:
        return "cache folder"
    is_run = "unfinished.lock" in names or {"config.yaml", "environment.txt"} <= names
    return "folder of a run" if is_run else ""


def _unreadable(path: str, error: OSError) -> Mistake:
    return Mistake(
        f"{path} cannot be read ({error.strerror}), so its images would be missing; give yourself the right to read it."
    )


def _check_name(name: str, folder: str) -> None:
    if CONTROL.search(name):
        raise Mistake(
            f"a name in {folder!r}, {name!r}, holds control characters, so it could change what a terminal shows; "
            "rename it."
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Mistake(
            f"a name in {folder!r}, {os.fsencode(name)!r}, is no UTF-8 (of a zip from Windows?), so it could not be "
            "written into any table; rename it, for example with convmv."
        ) from error


def find(root: str | Path, layout: Layout = "auto", allow_conflicts: bool = False) -> Samples:
    """List a labelled folder of images.

    Args:
        root: The folder.
        layout: Whether its folders are "classes" or "splits"; "auto" sees it, where there is one way to see it.
        allow_conflicts: Whether names of classes may look alike.

    Raises:
        Mistake: The folder is missing, holds no images, fewer than two classes, or could be read in two ways.
    """
    root = Path(root)
    kind = _kind(root)
    if kind == "none":
        raise Mistake(
            f"--data.root={str(root)!r} is not there, so there is nothing to train on; give the folder that holds one "
            "folder of images per class, or if it was moved its new place: --data.root FOLDER."
        )
    if kind != "folder":
        raise Mistake(
            f"--data.root={str(root)!r} is not a folder, so there is nothing to train on; give the folder that holds "
            "one folder of images per class."
        )
    listing = list_images(root)
    by_split = layout == "splits" or (layout == "auto" and _is_split(root, listing.paths))
    depth = 1 if by_split else 0
    if beside := _splits_beside(root):
        listing.left_out[f"folders beside it that are called like splits ({_some(beside)})"] = len(beside)
    loose = [path for path in listing.paths if path.count("/") <= depth]
    if loose:
        listing.left_out[f"in no class folder (such as {loose[0]})"] = len(loose)
    paths = [path for path in listing.paths if path.count("/") > depth]
    listing.paths = paths
    if not paths:
        higher = _one_higher(root) if loose else ""
        raise Mistake(
            f"--data.root={str(root)!r} holds no images in class folders, so there is nothing to train on; "
            f"{higher}it must look like ROOT/CLASS/IMAGE{_left_out(listing)}."
        )
    names = [path.split("/", depth + 1)[depth] for path in paths]
    if len(set(names)) < 2:
        raise _one_class(root, paths, depth)
    _check_empty(listing, depth, set(names))
    names = [name if name.isascii() else unicodedata.normalize("NFC", name) for name in names]
    classes = sorted(set(names))
    if not allow_conflicts:
        _check_alike(classes)
    if len(classes) < 2:
        raise _one_class(root, paths, depth)
    given = [_split_of(path) for path in paths] if by_split else None
    return Samples.labelled(paths, names, given, listing.said())


def _splits_beside(root: Path) -> list[str]:
    """Return the splits that lie beside a root which is one itself, as the test beside ROOT/train."""
    here = Path(os.path.abspath(root))
    if here.name.casefold() not in SPLIT_NAMES:
        return []
    with contextlib.suppress(OSError):
        entries = [entry.name for entry in os.scandir(here.parent) if entry.is_dir() and entry.name != here.name]
        return [name for name in entries if name.casefold().strip() in SPLIT_NAMES]
    return []


def _one_higher(root: Path) -> str:
    """Say which folder may be meant where one of a class was given; nothing where none lies beside it."""
    here = Path(os.path.abspath(root))
    above = here.parent
    if above.name.casefold() in SPLIT_NAMES:
        above = above.parent
    beside = []
    with contextlib.suppress(OSError):  # nothing is known of what lies there
        beside = [entry.name for entry in os.scandir(here.parent) if entry.is_dir() and not entry.name.startswith(".")]
    if len(beside) < 2:
        return ""
    given = str(above) if root.is_absolute() else os.path.relpath(above)
    return f"if this is the folder of one class, give the one above, --data.root={given!r}; "


def _one_class(root: Path, paths: list[str], depth: int) -> Mistake:
    """Word that all images are in one folder: of the one class, or a step above the classes."""
    folders = [path.split("/", depth)[depth].rpartition("/")[0] for path in paths]
    shared = os.path.commonpath(folders).split("/")
    called = [name.casefold().strip() in SPLIT_NAMES for name in shared]
    if True in called[1:]:  # the folder that holds splits is the right one, even where it holds but one
        shared = shared[: called.index(True, 1)]
    inner = sorted({folder.split("/")[len(shared)] for folder in folders if folder.count("/") >= len(shared)})
    if len(inner) < 2 and True not in called[1:]:
        remedy = "add a second class"
    elif depth:
        remedy = f"if {_some(inner)} are the classes, move them up, to {root / paths[0].split('/')[0]}/CLASS"
    else:
        remedy = f"if {_some(inner)} are the classes or splits, give the folder that holds them, "
        remedy += f"--data.root={str(root.joinpath(*shared))!r}"
    return Mistake(
        f"--data.root={str(root)!r} holds one class, {shared[0]!r}, so there is nothing to tell apart; {remedy}."
    )


def new_images(flag: str, root: str | Path | None) -> tuple[Path, Listing]:
    """List the images that are to be predicted: those below a folder, or one file, whatever its suffix.

    Args:
        flag: The flag that named them.
        root: What it named.

    Returns:
        A folder, and what is below it.

    Raises:
        Mistake: There are none.
    """
    if root is None:
        raise Mistake(f"{flag} is not given, so there is nothing to predict; give a folder of images or one image.")
    path = Path(root)
    kind = _kind(path)
    if kind == "file":
        _check_name(path.name, str(path.parent))
        return path.parent, Listing([path.name])
    if kind != "folder":
        what = "not there" if kind == "none" else "neither a folder nor a plain file"
        raise Mistake(
            f"{flag}={str(root)!r} is {what}, so there is nothing to predict; give a folder of images or one image."
        )
    listing = list_images(path)
    if not listing.paths:
        raise Mistake(
            f"{flag}={str(root)!r} holds no images{_left_out(listing)}, so there is nothing to predict; give a folder "
            "of images or one image."
        )
    return path, listing


def _kind(path: Path) -> Literal["folder", "file", "other", "none"]:
    """Tell what lies at a path.

    Raises:
        Mistake: It may not be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if is_gone(error):
            return "none"
        raise _unreadable(str(path), error) from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _check_alike(classes: list[str]) -> None:
    """Refuse names of classes that people take for one another."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).strip().casefold(), name)
        if other != name:
            raise Mistake(
                f"the class folders {other!r} and {name!r} look alike, so one class would be learned as two; join "
                "them, or give --data.allow_conflicts true."
            )


def _left_out(listing: Listing) -> str:
    return f" (left out: {listing.said()})" if listing.left_out else ""


def _split_of(path: str) -> str:
    return SPLIT_NAMES[path.split("/", 1)[0].casefold().strip()]


def _is_split(root: Path, paths: list[str]) -> bool:
    """Tell whether the folders at the top are splits.

    Raises:
        Mistake: They could be both.
    """
    inner: dict[str, set[str]] = {}  # of each folder at the top, the folders in it that hold images
    flat: set[str] = set()  # folders at the top that hold images themselves
    for path in paths:
        parts = path.split("/", 2)
        if len(parts) == 2:
            flat.add(parts[0])
        if len(parts) > 1:
            inner.setdefault(parts[0], set()).update(parts[1:2] if len(parts) > 2 else ())
    called = {top: SPLIT_NAMES[top.casefold().strip()] for top in inner if top.casefold().strip() in SPLIT_NAMES}
    nested = {top for top in inner if inner[top]}
    if called and not nested & called.keys():
        if len(called) == len(inner):
            raise _ambiguous(root, f"{_some(called)} hold images and no class folders", sorted(called))
        return False  # a class may be called so, as the train beside bus and car
    if len(called) == len(inner) and called:
        if "train" not in called.values():
            raise _ambiguous(root, f"there is {_some(called)} and no train", sorted(called))
        if len(set(called.values())) < len(called):
            raise _ambiguous(root, f"{_some(called)} name one split twice", sorted(called))
        return True
    if called:
        others = sorted(inner.keys() - called.keys())
        raise _ambiguous(root, f"{_some(called)} are called like splits and {_some(others)} not", sorted(called))
    for top in sorted(nested - flat):
        if len(inner[top] & inner.keys()) > 1:
            raise _ambiguous(root, f"{top} holds the folders that lie beside it, {_some(inner[top])}", [top])
    alike = [top for top in nested - flat if len(inner[top]) > 1 and _is_shared(inner[top], inner, top)]
    if len(alike) > 1 and len(alike) == len(inner):
        what = f"{_some(alike)} hold the same folders, {_some(inner[alike[0]])}"
        raise _ambiguous(root, what, sorted(alike))
    for top in sorted(nested - flat):
        splits = {SPLIT_NAMES.get(name.casefold().strip()) for name in inner[top]}
        if "train" in splits and None not in splits and len(inner) > 1:
            raise _ambiguous(root, f"{top} holds folders called like splits, {_some(inner[top])}", [top])
    return False


def _is_shared(folders: set[str], inner: dict[str, set[str]], top: str) -> bool:
    return any(folders == others for other, others in inner.items() if other != top)


def _ambiguous(root: Path, what: str, tops: list[str]) -> Mistake:
    return Mistake(
        f"in --data.root={str(root)!r} {what}, so it is not clear which folders are the classes and a wrong guess "
        f"would train the wrong thing; did you mean --data.root={str(root / tops[0])!r}? Splits are called train, val "
        "and test; --data.layout classes or --data.layout splits decides."
    )


def _some(names: Iterator[str] | dict[str, str] | list[str] | set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:4]) + (" …" if len(shown) > 4 else "")


def _check_empty(listing: Listing, depth: int, names: set[str]) -> None:
    """Refuse a class folder that has files of which none counts: its class would vanish in silence."""
    of_class: dict[str, Counter[str]] = {}
    for prefix, counts in listing.other_files.items():
        parts = prefix.split("/")
        if len(parts) > depth + 1:
            of_class.setdefault(parts[depth], Counter()).update(counts)
    for name in sorted(of_class.keys() - names):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in of_class[name].most_common(3))
        raise Mistake(
            f"the class folder {name!r} holds {kinds} and no image that can be read, so the class would be missing; "
            "convert them, or take the folder away."
        )
