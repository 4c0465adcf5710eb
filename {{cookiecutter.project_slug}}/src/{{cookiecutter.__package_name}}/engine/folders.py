"""Folders of images: which files count, which class and split each has, and what is left out.

A data set is ``root/class/**/image.jpg``, or ``root/{train,val,test}/class/**/image.jpg`` where the splits are given.
What could be read in two ways is refused, for a wrong guess trains the wrong thing in silence.
"""

import contextlib
import functools
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from .decoding import formats
from .files import check_path, is_gone
from .mistakes import CONTROL, Mistake, some
from .splits import BETWEEN_WORDS, SPLIT_WORDS, Samples

Layout = Literal["auto", "classes", "splits"]

# What people add to the names of their splits, in any case: training_set, TestData, images-val.
ADDED_WORDS = {"set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder"}
# Folders that systems put beside the images: thumbnails, recycle bins, snapshots, the remains of archives.
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "recycled", "#snapshot", "@tmp"),
    *("@recently-snapshot", "system volume information", "__macosx", "lost+found", "_vti_cnf", "found.000"),
    *("network trash folder", "temporary items", "thevolumesettingsfolder", "@__thumb"),
}
NEEDED = {".heic": "pillow-heif", ".heif": "pillow-heif", ".dcm": "a conversion", ".nii": "a conversion"}


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
        inside: For each folder that was looked into, what was passed over in it.
        known: Folders that are the project's own, or whose images are listed elsewhere.
    """

    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    inside: dict[str, Counter[str]] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)

    def leave_out(self, folder: str, what: str, needs: str = "") -> None:
        """Count what was passed over in a folder."""
        self.left_out[what + needs] += 1
        self.inside[folder][what] += 1

    def said(self) -> str:
        """Say what was left out, in one line; nothing where nothing was."""
        return ", ".join(f"{count} {what}" for what, count in self.left_out.most_common())


def list_images(root: Path) -> Listing:
    """List the images below a folder; hidden files, folders of the system and other files are left out and counted.

    Links to folders are followed, but each real folder is listed once, and none that holds the link or the root.

    Raises:
        Mistake: A folder cannot be read, or a name is no UTF-8.
    """
    listing, seen = Listing(), set()
    links = _list(str(root), "", listing, seen)
    while links:
        links.sort(key=_by_depth)
        prefix, path = links.pop(0)
        if _place(path) not in seen and _leads_up(path, root):
            listing.left_out["links to a folder above"] += 1
            listing.known.append(prefix)
        else:
            links += _list(path, prefix, listing, seen)
    listing.paths.sort()
    return listing


def _by_depth(link: tuple[str, str]) -> tuple[int, str]:
    """Order links: the class folders that are links come before what a link in one of them leads to."""
    return link[0].count("/"), link[0]


def _place(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_dev, found.st_ino


def _leads_up(link: str, root: Path) -> bool:
    """Tell whether a link leads to a folder that holds it or the root: images of other classes would become its own."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(place)).is_relative_to(target) for place in (root, os.path.dirname(link)))


def _list(path: str, prefix: str, listing: Listing, seen: set[tuple[int, int]]) -> list[tuple[str, str]]:
    """List one folder and the real ones below it; returns the links to folders, with their prefix."""
    links, folders = [], [(prefix, path)]
    while folders:
        prefix, path = folders.pop()
        place = _place(path)
        if place in seen:
            listing.left_out["links to a folder that is listed already"] += 1
            listing.known.append(prefix)
            continue
        seen.add(place)
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            raise _unreadable(path, error) from error
        if own := _written_by_us({entry.name for entry in entries}):
            listing.left_out[own] += 1
            listing.known.append(prefix)
            continue
        listing.inside[prefix] = Counter()
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                listing.leave_out(prefix, "hidden")
            elif entry.is_dir():
                if name.casefold() in SYSTEM_FOLDERS:
                    listing.leave_out(prefix, f"system folder ({name})")
                else:
                    _check_name(name, path)
                    (links if entry.is_symlink() else folders).append((f"{prefix}{name}/", entry.path))
            elif not entry.is_file():
                listing.leave_out(prefix, "broken links" if entry.is_symlink() else "no plain files")
            elif (suffix := os.path.splitext(name)[1].casefold()) in suffixes():
                _check_name(name, path)
                listing.paths.append(prefix + name)
            else:
                needs = f" (needs {NEEDED[suffix]})" if suffix in NEEDED else ""
                listing.leave_out(prefix, _printable(suffix) or "without a suffix", needs)
    return links


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


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
    if name.isascii() and name.isprintable():
        return
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
    check_path("--data.root", root)
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
    splits = {} if layout == "classes" else _splits(root, listing.paths, is_sure=layout == "splits")
    depth = 1 if splits else 0
    if splits:
        _leave_out_others(listing, splits)
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
    _check_empty(listing, splits, paths)
    names = [name if name.isascii() else unicodedata.normalize("NFC", name) for name in names]
    classes = sorted(set(names))
    if not allow_conflicts:
        _check_alike(classes)
    if len(classes) < 2:
        raise _one_class(root, paths, depth)
    given = [splits[path.split("/", 1)[0]] for path in paths] if splits else None
    if given:
        _check_doubled(root, set(zip(given, names, strict=True)))
    return Samples.labelled(paths, names, given, listing.said())


def _splits_beside(root: Path) -> list[str]:
    """Return the splits that lie beside a root which is one itself, as the test beside ROOT/train."""
    here = Path(os.path.abspath(root))
    if not _split_called(here.name):
        return []
    with contextlib.suppress(OSError):
        entries = [entry.name for entry in os.scandir(here.parent) if entry.is_dir() and entry.name != here.name]
        return [name for name in entries if _split_called(name)]
    return []


def _one_higher(root: Path) -> str:
    """Say which folder may be meant where one of a class was given; nothing where none lies beside it."""
    here = Path(os.path.abspath(root))
    above = here.parent
    if _split_called(above.name):
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
    called = [_split_called(name) is not None for name in shared]
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
    check_path(flag, root)
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


def _split_in(name: str) -> str | None:
    """Return the split that a name has a word of, as seg_train and val2017 have; None where it has none or two."""
    found = {split for word in BETWEEN_WORDS.split(name) if (split := _split_of(word.casefold()))}
    return found.pop() if len(found) == 1 else None


def _split_called(name: str) -> str | None:
    """Return the split that a name means and nothing else, as Training_Set and test do."""
    words = [word.casefold() for word in BETWEEN_WORDS.split(name) if word]
    is_plain = all(word in ADDED_WORDS or _split_of(word) for word in words)
    return _split_in(name) if is_plain and not re.search(r"\d", name) else None


def _split_of(word: str) -> str | None:
    """Return the split of one word, such as test or trainset."""
    parted = [word.removesuffix(added) for added in ADDED_WORDS]
    return next((SPLIT_WORDS[part] for part in [word, *parted] if part in SPLIT_WORDS), None)


def _splits(root: Path, paths: list[str], is_sure: bool) -> dict[str, str]:
    """Tell which folder at the top is which split; nothing where they are classes.

    Args:
        root: The folder.
        paths: The images in it.
        is_sure: Whether they were said to be splits.

    Raises:
        Mistake: They could be both, or none is a split although it was said.
    """
    inner: dict[str, set[str]] = {}  # of each folder at the top, the folders in it that hold images
    flat: set[str] = set()  # folders at the top that hold images themselves
    for path in paths:
        parts = path.split("/", 2)
        if len(parts) == 2:
            flat.add(parts[0])
        if len(parts) > 1:
            inner.setdefault(parts[0], set()).update(parts[1:2] if len(parts) > 2 else ())
    called = {top: split for top in inner if (split := _split_called(top))}
    hinted = {top: split for top in inner if (split := _split_in(top))}
    if is_sure:
        if inner and not hinted:
            raise Mistake(
                f"--data.layout=splits: of the folders in --data.root={str(root)!r}, {_some(inner)}, none is called "
                "like a split, so there is nothing to train on; call them train, val and test, or give --data.layout "
                "classes."
            )
        return called or hinted
    nested = {top for top in inner if inner[top]}
    if called and len(called) == len(inner):
        bare = [top for top in called if top not in nested]
        if bare and (len(bare) == len(called) or "train" in {called[top] for top in bare}):
            raise _ambiguous(root, f"{_some(bare)} hold images and no class folders", paths, called)
        if "train" not in called.values():
            raise _ambiguous(root, f"there is {_some(called)} and no train", paths, called)
        if len(set(called.values())) < len(called):
            raise _ambiguous(root, f"{_some(called)} name one split twice", paths, called)
        return called
    if called.keys() & nested or len(set(hinted.values())) > 1:  # else a class is called so, as the train beside bus
        others = inner.keys() - hinted.keys()
        what = f"{_some(hinted)} are called like splits" + (f" and {_some(others)} not" if others else "")
        raise _ambiguous(root, what, paths, hinted)
    for top in sorted(nested - flat):
        if len(inner[top] & inner.keys()) > 1:
            raise _ambiguous(root, f"{top} holds the folders that lie beside it, {_some(inner[top])}", paths, [top])
    alike = sorted(top for top in nested - flat if _is_shared(inner[top], inner, top))
    if len(alike) > 1 and 2 * len(alike) > len(inner):
        what = f"{_some(alike)} hold the same folders, {_some(inner[alike[0]])}"
        raise _ambiguous(root, what, paths, alike)
    for top in sorted(nested - flat):
        splits = {_split_in(name) for name in inner[top]}
        if "train" in splits and None not in splits and len(inner) > 1:
            raise _ambiguous(root, f"{top} holds folders called like splits, {_some(inner[top])}", paths, [top])
    return {}


def _is_shared(folders: set[str], inner: dict[str, set[str]], top: str) -> bool:
    """Tell whether most of the folders in one are in another one, too."""
    for other, others in inner.items():
        shared = len(folders & others)
        if other != top and shared > 1 and 2 * shared > min(len(folders), len(others)):
            return True
    return False


def _ambiguous(root: Path, what: str, paths: list[str], tops: Iterable[str]) -> Mistake:
    """Word that folders could be classes or splits; never is the test split the one that is meant."""
    order = ["train", None, "val"]
    meant = sorted((order.index(_split_in(top)), top) for top in tops if _split_in(top) in order)
    remedy = f"; did you mean --data.root={str(root / _classes_in(meant[0][1], paths))!r}?" if meant else "."
    return Mistake(
        f"in --data.root={str(root)!r} {what}, so it is not clear which folders are the classes and a wrong guess "
        f"would train the wrong thing{remedy} Splits are called train, val and test; --data.layout classes or "
        "--data.layout splits decides."
    )


def _classes_in(top: str, paths: list[str]) -> str:
    """Return the folder in a folder that holds more than one, as the inner one of seg_train/seg_train/CLASS."""
    folders = {path.rpartition("/")[0] for path in paths if path.startswith(top + "/")}
    shared = os.path.commonpath(folders)
    return os.path.dirname(shared) if shared in folders and shared != top else shared


def _leave_out_others(listing: Listing, splits: dict[str, str]) -> None:
    """Leave out the folders beside splits that are none; images in no folder are counted elsewhere."""
    others = {path.split("/", 1)[0] for path in listing.paths if "/" in path} - splits.keys()
    if others:
        listing.left_out[f"folders that are no split ({_some(others)})"] = len(others)
        listing.paths = [path for path in listing.paths if path.split("/", 1)[0] not in others]


def _check_doubled(root: Path, found: set[tuple[str, str]]) -> None:
    """Refuse splits that hold their classes one folder deeper, as train/train/CLASS and test/test/CLASS."""
    if all(_split_in(name) == split for split, name in found):
        names = _some({name for _, name in found})
        raise Mistake(
            f"in --data.root={str(root)!r} each split holds one folder called like itself ({names}), so the splits "
            "would be learned as classes; move the class folders up, to ROOT/SPLIT/CLASS."
        )


def _some(names: Iterable[str]) -> str:
    return some(sorted(names))


def _check_empty(listing: Listing, splits: dict[str, str], paths: list[str]) -> None:
    """Refuse a class folder of which no file counts: its class would vanish in silence.

    An empty one beside splits that hold its class is none of that class.
    """
    depth = 1 if splits else 0
    inside: dict[str, Counter[str]] = {}
    for prefix, counts in listing.inside.items():
        parts = prefix.split("/")[:-1]
        if len(parts) > depth and (not splits or parts[0] in splits):
            inside.setdefault("/".join(parts[: depth + 1]), Counter()).update(counts)
    full = {"/".join(path.split("/", depth + 1)[: depth + 1]) for path in paths}
    classes = {folder.split("/")[-1] for folder in full}
    for folder in sorted(inside.keys() - full):
        is_known = any(known.startswith(folder + "/") for known in listing.known)
        if is_known or (not inside[folder] and splits and folder.split("/")[-1] in classes):
            continue
        kinds = ", ".join(f"{count} {what}" for what, count in inside[folder].most_common(3))
        holds = f"holds {kinds} and no image that can be read" if kinds else "is empty"
        raise Mistake(
            f"the class folder {folder!r} {holds}, so its images would be missing; fill it with images that can be "
            "read, or take the folder away."
        )
