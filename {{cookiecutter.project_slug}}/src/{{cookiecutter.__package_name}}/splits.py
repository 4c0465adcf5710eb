"""Train, validation and test splits: stratified, grouped, disjoint by content, and kept in a file."""

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .images import Samples, file_stats
from .sampling import derived_seed

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Manifest:
    """Which image stands in which split.

    Args:
        classes: The class names; a label is a position in this list.
        splits: For "train", "val" and "test" the paths and the labels of its samples.
        seed: The seed that the splits were drawn with.
    """

    classes: list[str]
    splits: dict[str, tuple[list[str], np.ndarray]]
    seed: int

    def save(self, path: str | Path) -> None:
        """Write the manifest as JSON: split → class → paths."""
        splits: dict[str, dict[str, list[str]]] = {}
        for split, (paths, labels) in self.splits.items():
            by_class: dict[str, list[str]] = {name: [] for name in self.classes}
            for name, label in zip(paths, labels.tolist(), strict=True):
                by_class[self.classes[label]].append(name)
            splits[split] = by_class
        content = {"seed": self.seed, "classes": self.classes, "splits": splits}
        Path(path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Read a manifest back.

        Raises:
            ValueError: The file is missing or is no manifest, or one image stands in two splits.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            classes = content["classes"]
            splits = {}
            for split in SPLITS:
                rows = [(name, label) for label, key in enumerate(classes) for name in content["splits"][split][key]]
                rows.sort()
                splits[split] = ([name for name, _ in rows], np.array([label for _, label in rows], dtype=np.int64))
            seed = content["seed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"data.manifest={str(path)!r} cannot be read as a manifest ({error!r}), so the splits are unknown; "
                "give the manifest.json of a run, or leave the flag out to split anew."
            ) from error
        twice = [name for name, count in Counter(p for paths, _ in splits.values() for p in paths).items() if count > 1]
        if twice:
            raise ValueError(
                f"data.manifest={str(path)!r} names {twice[0]!r} more than once, so a score could count training "
                "images; "
                "leave it in one split."
            )
        return cls(classes, splits, seed)


def fingerprint(samples: Samples, root: str | Path) -> str:
    """Return a hash of the paths, labels and sizes in bytes of a data set."""
    digest = hashlib.sha256()
    sizes = file_stats(root, samples.paths)[:, 0].tolist()
    for path, label, size in zip(samples.paths, samples.labels.tolist(), sizes, strict=True):
        digest.update(f"{path}\0{samples.classes[label]}\0{size}\0".encode())
    return digest.hexdigest()


def assign(labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Deal samples into parts, stratified by label, with every group in one part.

    Groups of several samples are dealt first, the largest first, each to the part that lacks most of its classes;
    single samples then fill each class up to its quota. The draw depends on the arguments alone.

    Args:
        labels: The class index of each sample, (N,).
        groups: The group of each sample, (N,).
        fractions: The share of each part; together 1.
        seed: The seed of the draw.

    Returns:
        The part of each sample, (N,).
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    quota = np.array([_rounded(count, fractions) for count in counts.tolist()])  # classes × parts
    part = np.full(len(labels), -1)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.flatnonzero(sizes[group_of] > 1)
    if len(members):
        members = members[np.argsort(group_of[members], kind="stable")]
        bundles = np.split(members, np.flatnonzero(np.diff(group_of[members])) + 1)
        order = rng.permutation(len(bundles))
        for bundle in sorted((bundles[i] for i in order), key=len, reverse=True):
            in_class = np.bincount(labels[bundle], minlength=len(counts))
            # What a part still lacks of these classes, in shares of its quota: a small part is not starved by a big
            # one.
            lack = in_class @ (quota / np.maximum(quota.max(axis=1, keepdims=True), 1))
            room = (quota - in_class[:, None]).clip(max=0).sum(axis=0)
            chosen = int(np.lexsort((-lack, -room))[0])
            part[bundle] = chosen
            quota[:, chosen] -= in_class
    for label in range(len(counts)):
        free = rng.permutation(np.flatnonzero((labels == label) & (part < 0)))
        # Take the last parts' quotas first: what rounding and groups leave over falls to the first part, training.
        for index in range(len(fractions) - 1, 0, -1):
            taken, free = np.split(free, [min(max(quota[label, index], 0), len(free))])
            part[taken] = index
        part[free] = 0
    return part


def _rounded(count: int, fractions: Sequence[float]) -> list[int]:
    rest = [int(count * fraction + 0.5) for fraction in fractions[1:]]
    return [count - sum(rest), *rest]


def make(
    samples: Samples,
    root: str | Path,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    group_pattern: str | None = None,
    index: str | Path | None = None,
) -> Manifest:
    """Split a data set; splits that its folder gives are respected, and what it does not give is cut from training.

    Args:
        samples: The data set.
        root: Its folder.
        val_fraction: The validation share of all samples that no folder assigns.
        test_fraction: The test share of the same.
        seed: The seed of the draw.
        group_pattern: A regular expression; images whose paths match with the same (first group of the) match stay in
            one split.
        index: A file that keeps the hashes of contents, by which copies are told.

    Raises:
        ValueError: The fractions leave nothing to train on, a class is too small for its split, or a given validation
            or test split holds a class that training lacks.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} leave nothing to train on; "
            "give two shares from 0 to 1 that add up to less than 1."
        )
    paths, labels = samples.paths, samples.labels
    groups = group(paths, root, group_pattern, index)
    given = np.array(samples.given if samples.given is not None else ["train"] * len(paths))
    wanted = {
        split: fraction
        for split, fraction in (("val", val_fraction), ("test", test_fraction))
        if fraction > 0 and not (given == split).any()
    }
    result = given.copy()
    # Evaluation stays whole: an image that is given for it, or shares a group with one, leaves training.
    held_out = np.isin(groups, groups[given != "train"])
    result[(given == "train") & held_out] = ""
    dropped = int((result == "").sum())
    if dropped:
        print(
            f"{dropped} training images stand in validation or test too (same content or group): left out of training."
        )
    pool = np.flatnonzero(result == "train")
    if len(pool) and wanted:
        part = assign(labels[pool], groups[pool], [1 - sum(wanted.values()), *wanted.values()], seed)
        result[pool] = np.array(["train", *wanted])[part]
    manifest = Manifest(samples.classes, {s: _rows(paths, labels, result == s) for s in SPLITS}, seed)
    _check(manifest, wanted)
    return manifest


def _rows(paths: list[str], labels: np.ndarray, mask: np.ndarray) -> tuple[list[str], np.ndarray]:
    return [paths[i] for i in np.flatnonzero(mask)], labels[mask]


def _check(manifest: Manifest, wanted: dict[str, float]) -> None:
    counts = {s: np.bincount(labels, minlength=len(manifest.classes)) for s, (_, labels) in manifest.splits.items()}
    for index, name in enumerate(manifest.classes):
        total = sum(int(count[index]) for count in counts.values())
        if counts["train"][index] == 0:
            where = "validation or test" if total else "no split"
            raise ValueError(
                f"class {name!r} stands in {where} but has no training images, so it cannot be learned; "
                "add images of it to training or remove the class."
            )
        for split, fraction in wanted.items():
            if counts[split][index] == 0:
                raise ValueError(
                    f"{split}_fraction={fraction} leaves class {name!r} ({total} images) without {split} images, "
                    f"so its score would be unknown; raise it above {0.5 / total:.3f}, add images (or fewer groups), "
                    "or drop the class."
                )


def content_hashes(root: str | Path, paths: list[str], stats: np.ndarray, index: str | Path | None) -> np.ndarray:
    """Return 16 bytes of the SHA-256 of each file, (N,).

    Args:
        root: The folder that ``paths`` are relative to.
        paths: The files.
        stats: Their sizes and times of change, (N, 2).
        index: A file of the hashes that were taken before; those of unchanged files are not taken again. None for none.

    Raises:
        ValueError: A file cannot be read.
    """
    row = np.dtype([("key", "S16"), ("hash", "S16")])
    known = np.empty(0, row)
    if index is not None:
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
            known = np.load(index)
    prefix = os.path.join(os.path.abspath(root), "")
    wanted = np.empty(len(paths), row)
    names = (f"{prefix}{path}\0{size}\0{time}" for path, (size, time) in zip(paths, stats.tolist(), strict=True))
    keys = (hashlib.sha256(name.encode()).digest()[:16] for name in names)
    wanted["key"] = np.fromiter(keys, "S16", len(paths))
    place = np.searchsorted(known["key"], wanted["key"]).clip(max=max(len(known) - 1, 0))
    found = known["key"][place] == wanted["key"] if len(known) else np.zeros(len(paths), bool)
    wanted["hash"][found] = known["hash"][place[found]] if len(known) else b""

    def read(i: int) -> bytes:
        try:
            with open(prefix + paths[i], "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()[:16]
        except OSError as error:
            raise ValueError(
                f"{prefix}{paths[i]} cannot be read ({error}), so nothing is known of it; remove it."
            ) from error

    fresh = np.flatnonzero(~found)
    with ThreadPoolExecutor() as pool:
        wanted["hash"][fresh] = list(pool.map(read, fresh.tolist(), chunksize=256))
    if index is not None and len(fresh):
        with contextlib.suppress(OSError):  # without the index the next start takes the hashes again
            merged = np.concatenate([known, wanted[fresh]])
            Path(index).parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(index).with_name(f".{Path(index).name}.{os.getpid()}")
            with unfinished.open("wb") as file:
                np.save(file, merged[np.unique(merged["key"], return_index=True)[1]])
            os.replace(unfinished, index)
    return wanted["hash"]


def group(paths: list[str], root: str | Path, pattern: str | None, index: str | Path | None = None) -> np.ndarray:
    """Number the groups of samples that must not be torn apart: same match of ``pattern``, or same content.

    ``index`` keeps the hashes of contents, see ``content_hashes``.

    Returns:
        The group of each sample, (N,).

    Raises:
        ValueError: The pattern is no regular expression.
    """
    parent = list(range(len(paths)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[object, int] = {}
    stats = file_stats(root, paths)
    _, of_size, counts = np.unique(stats[:, 0], return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[of_size] > 1)  # only files of equal size can be equal
    hashes = content_hashes(root, [paths[i] for i in suspects], stats[suspects], index)
    _, of_hash, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    copied = counts[of_hash] > 1
    for i, number in zip(suspects[copied].tolist(), of_hash[copied].tolist(), strict=True):
        parent[top(i)] = top(first.setdefault(number, i))
    if pattern is not None:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"data.group_pattern={pattern!r} is no regular expression ({error}), so images cannot be grouped; mend "
                "it."
            ) from error
        for i, path in enumerate(paths):
            if match := expression.search(path):
                parent[top(i)] = top(first.setdefault(match.group(1 if expression.groups else 0), i))
    return np.array([top(i) for i in range(len(paths))], dtype=np.int64)


def folds(
    manifest: Manifest, root: str | Path, number: int, seed: int, pattern: str | None, index: str | Path | None = None
) -> list[Manifest]:
    """Deal training and validation anew so that each image is held out in one fold; the test split stays.

    Stratified by class, every group (see ``group``) in one fold. In a fold the validation split is what is held out.
    The numbers of a class differ by at most one between folds unless groups forbid it.

    Raises:
        ValueError: A fold holds out no image of a class, or all of them.
    """
    rows = sorted((path, y) for s in ("train", "val") for path, y in zip(*manifest.splits[s], strict=True))
    paths, labels = [path for path, _ in rows], np.array([y for _, y in rows])
    groups = group(paths, root, pattern, index)
    fold, rest = np.zeros(len(labels), dtype=np.int64), np.arange(len(labels))
    for i in range(number - 1, 0, -1):  # one after the other: shares rounded all at once would starve one of them
        share = 1 / (i + 1)
        held_out = assign(labels[rest], groups[rest], [1 - share, share], derived_seed(seed, i)) == 1
        fold[rest[held_out]] = i
        rest = rest[~held_out]
    for label, name in enumerate(manifest.classes):
        per_fold = np.bincount(fold[labels == label], minlength=number)
        if per_fold.min() == 0 or per_fold.max() == per_fold.sum():
            groups_of_class = len(np.unique(groups[labels == label]))
            raise ValueError(
                f"folds={number} leave a fold that holds out none or all of class {name!r} ({per_fold.sum()} images in "
                f"{groups_of_class} groups), so its score would be unknown; take at most {max(2, groups_of_class)} "
                "folds, add images of it, or drop the class."
            )
    dealt = ({"train": _rows(paths, labels, fold != i), "val": _rows(paths, labels, fold == i)} for i in range(number))
    return [Manifest(manifest.classes, {**each, "test": manifest.splits["test"]}, seed) for each in dealt]


def stratified_part(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of every class, at least one sample; a larger share contains a smaller one.

    Returns:
        Sorted positions into ``labels``.
    """
    rng = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        kept.append(members[: max(1, round(len(members) * fraction))])
    return np.sort(np.concatenate(kept))
