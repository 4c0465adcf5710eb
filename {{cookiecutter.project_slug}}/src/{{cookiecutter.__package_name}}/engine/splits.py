"""Train, validation and test splits: stratified, grouped, disjoint by content, and kept in a file.

It knows samples by their keys (paths, rows) and targets by their strata alone.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_text, write
from .mistakes import CONTROL, Mistake
from .sampling import derived_seed
from .schema import Schema
from .targets import Classes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Samples:
    """The samples of a data set.

    Args:
        keys: What each sample is known by: of an image its path, relative to the root.
        targets: One target per sample.
        target: What the targets mean.
        given: The split that the data set itself names for each sample, or None where it names none.
        left_out: What was passed over, for people.
        groups: The number of the group of each sample, (N,), or None: a group stays in one split.
        weights: The weight of each sample in the loss and the scores, (N,), or None.
        remarks: What was inferred or may surprise, for people.
    """

    keys: list[str]
    targets: np.ndarray
    target: Any
    given: list[str] | None = None
    left_out: str = ""
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    remarks: Sequence[str] = ()

    @classmethod
    def labelled(
        cls, keys: Iterable[str], names: Iterable[str], given: list[str] | None = None, left_out: str = ""
    ) -> "Samples":
        """Return samples of which each has the name of its class."""
        written = list(names)
        target = Classes(sorted(set(written)))
        return cls(list(keys), target.read(written), target, given, left_out)


@dataclass(frozen=True)
class Manifest:
    """Which sample stands in which split.

    Args:
        schema: What the samples are, and what is predicted of them.
        splits: For "train", "val" and "test" the keys and the targets of its samples.
        seed: The seed that the splits were drawn with.
        fold: Which fold of how many it is, such as "2/5"; None unless crossval drew it.
    """

    schema: Schema
    splits: dict[str, tuple[list[str], np.ndarray]]
    seed: int
    fold: str | None = None

    VERSION = 2

    @property
    def target(self) -> Classes:
        """What is predicted."""
        return self.schema.target

    def has_splits_of(self, other: "Manifest") -> bool:
        """Tell whether the same samples have the same targets and stand in the same splits."""

        def written(manifest: Manifest) -> dict[str, list[tuple[str, str]]]:
            return {
                split: sorted((key, manifest.target.write(value)) for key, value in zip(keys, targets, strict=True))
                for split, (keys, targets) in manifest.splits.items()
            }

        return written(self) == written(other)

    def save(self, path: str | Path) -> None:
        """Write the manifest as JSON, a line for each sample: split → [key, target]."""
        about = {"version": self.VERSION, "seed": self.seed, "fold": self.fold, "schema": self.schema.as_dict()}
        lines = [json.dumps(about, ensure_ascii=False)[:-1] + ', "splits": {']
        for split, (keys, targets) in self.splits.items():
            rows = zip(keys, targets.tolist(), strict=True)
            written = (json.dumps([key, self.target.write(value)], ensure_ascii=False) for key, value in rows)
            lines.append(f"{json.dumps(split)}: [\n" + ",\n".join(written) + "\n],")
        write(Path(path), "\n".join(lines)[:-1] + "\n}}\n")

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Read a manifest back, of this version or the one before.

        Raises:
            Mistake: The file is missing or is no manifest, or one sample stands in two splits.
        """
        try:
            content = json.loads(read_text(path))
            version = content.get("version", 1)
            if version not in (1, cls.VERSION):
                raise ValueError(f"it is of version {version}")
            manifest = cls._of_version_1(content) if version == 1 else cls._of_version_2(content)
            for keys, _ in manifest.splits.values():
                check_keys(keys)
            if any(CONTROL.search(name) for name in manifest.target.columns):
                raise ValueError("a class has control characters in its name")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Mistake(
                f"--data.manifest={str(path)!r} cannot be read as a manifest ({error!r}), so the splits are unknown; "
                "give the manifest.json of a run, or leave the flag out to split anew."
            ) from error
        counts = Counter(key for keys, _ in manifest.splits.values() for key in keys)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise Mistake(
                f"--data.manifest={str(path)!r} names {twice[0]!r} more than once, so a score could count samples that "
                "were trained on; leave it in one split."
            )
        return manifest

    @classmethod
    def _of_version_2(cls, content: dict[str, Any]) -> "Manifest":
        schema, splits = Schema.from_dict(content["schema"]), {}
        for split in SPLITS:
            rows = content["splits"][split]
            splits[split] = ([key for key, _ in rows], schema.target.read([written for _, written in rows]))
        return cls(schema, splits, content["seed"], content["fold"])

    @classmethod
    def _of_version_1(cls, content: dict[str, Any]) -> "Manifest":
        # split → class → paths, of images alone; their size and channels stand in the run's config.
        target, splits = Classes(content["classes"]), {}
        for split in SPLITS:
            rows = sorted((key, name) for name in target.names for key in content["splits"][split][name])
            splits[split] = ([key for key, _ in rows], target.read([name for _, name in rows]))
        return cls(Schema({}, target), splits, content["seed"])


def check_keys(keys: Sequence[str]) -> None:
    """Refuse keys that would lead out of the data set's folder, or change a terminal.

    Raises:
        ValueError: One is absolute, goes up, or holds control characters.
    """
    for key in keys:
        if key.startswith("/") or ".." in key.split("/") or CONTROL.search(key):
            raise ValueError(f"{key!r} is no name below the folder of the data")


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


def draw_splits(samples: Samples, val_fraction: float, test_fraction: float, seed: int, groups: np.ndarray) -> Manifest:
    """Split a data set; splits that it gives are respected, and what it does not give is cut from training.

    Args:
        samples: The data set.
        val_fraction: The validation share of all samples that have no given split.
        test_fraction: The test share of the same.
        seed: The seed of the draw.
        groups: The group of each sample, (N,): each stays in one split.

    Raises:
        Mistake: The fractions leave nothing to train on, a class is too small for its split, or a given validation
            or test split holds a class that training lacks.
    """
    try:
        check_keys(samples.keys)
    except ValueError as error:
        raise Mistake(
            f"of the samples {error}, so a run could not be tested from its manifest; give names below --data.root."
        ) from error
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise Mistake(
            f"--data.val_fraction={val_fraction} and --data.test_fraction={test_fraction} leave nothing to train on; "
            "give two shares from 0 to 1 that add up to less than 1."
        )
    given = np.array(samples.given if samples.given is not None else ["train"] * len(samples.keys))
    wanted = {
        split: fraction
        for split, fraction in (("val", val_fraction), ("test", test_fraction))
        if fraction > 0 and not (given == split).any()
    }
    result = given.copy()
    # Evaluation stays whole: a sample that is given for it, or shares a group with one, leaves training.
    held_out = np.isin(groups, groups[given != "train"])
    result[(given == "train") & held_out] = ""
    dropped = int((result == "").sum())
    if dropped:
        print(
            f"{dropped} training samples stand in validation or test too (same content or group): left out of training."
        )
    pool = np.flatnonzero(result == "train")
    if len(pool) and wanted:
        strata = samples.target.strata(samples.targets[pool])
        part = assign(strata, groups[pool], [1 - sum(wanted.values()), *wanted.values()], seed)
        result[pool] = np.array(["train", *wanted])[part]
    splits = {split: _rows(samples.keys, samples.targets, result == split) for split in SPLITS}
    _check(splits, samples.target, wanted)
    return Manifest(Schema({}, samples.target), splits, seed)


def check_conflicts(samples: Samples, same: Iterable[Sequence[int]]) -> None:
    """Refuse equal samples with different targets: whatever is learned of one is wrong of the other.

    Args:
        samples: The data set.
        same: Positions of samples that are equal, for each such set.

    Raises:
        Mistake: There are some.
    """
    conflicts = [group for group in same if len({int(samples.targets[i]) for i in group}) > 1]
    if conflicts:
        first = conflicts[0][0]
        other = next(i for i in conflicts[0] if samples.targets[i] != samples.targets[first])
        shown = [f"{samples.keys[i]} ({samples.target.write(int(samples.targets[i]))})" for i in (first, other)]
        raise Mistake(
            f"{shown[0]} and {shown[1]} are the same content under two labels ({len(conflicts)} such), so a score "
            "would count one of them wrong; take away the wrong one, or give --data.allow_conflicts true."
        )


def _rows(keys: list[str], targets: np.ndarray, mask: np.ndarray) -> tuple[list[str], np.ndarray]:
    return [keys[i] for i in np.flatnonzero(mask)], targets[mask]


def _check(splits: dict[str, tuple[list[str], np.ndarray]], target: Classes, wanted: dict[str, float]) -> None:
    counts = {split: target.counts(targets) for split, (_, targets) in splits.items()}
    for index, name in enumerate(target.names):
        total = sum(int(count[index]) for count in counts.values())
        if counts["train"][index] == 0:
            where = "validation or test" if total else "no split"
            raise Mistake(
                f"class {name!r} stands in {where} but has no training samples, so it cannot be learned; "
                "add some of it to training or remove the class."
            )
        for split, fraction in wanted.items():
            if counts[split][index] == 0:
                raise Mistake(
                    f"--data.{split}_fraction={fraction} leaves class {name!r} ({total} samples) without any in "
                    f"{split}, so its score would be unknown; raise it above {0.5 / total:.3f}, add samples (or fewer "
                    "groups), or drop the class."
                )


def group(keys: list[str], pattern: str | None = None, same: Sequence[Sequence[int]] = ()) -> np.ndarray:
    """Number the groups of samples that must not be torn apart: same match of ``pattern``, or same content.

    Args:
        keys: One key per sample, such as its path.
        pattern: A regular expression; what it (or its first group) matches names the group.
        same: Positions of samples that are equal, for each such set.

    Returns:
        The group of each sample, (N,).

    Raises:
        Mistake: The pattern is no regular expression.
    """
    parent = list(range(len(keys)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, *others in same:
        for i in others:
            parent[top(i)] = top(first)
    if pattern is not None:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise Mistake(
                f"--data.group_pattern={pattern!r} is no regular expression ({error}), so images of one subject could "
                "stand in training and test; mend it."
            ) from error
        named: dict[str, int] = {}
        for i, key in enumerate(keys):
            if match := expression.search(key):
                parent[top(i)] = top(named.setdefault(match.group(1 if expression.groups else 0), i))
    return np.array([top(i) for i in range(len(keys))], dtype=np.int64)


def folds(manifest: Manifest, number: int, seed: int, groups: np.ndarray) -> list[Manifest]:
    """Deal training and validation anew so that each sample is held out in one fold; the test split stays.

    Stratified, every group in one fold. In a fold the validation split is what is held out. The numbers of a class
    differ by at most one between folds unless groups forbid it.

    Args:
        manifest: The splits to start from.
        number: How many folds.
        seed: The seed of the draw.
        groups: The group of each sample, (N,), in the order of ``rows_of_folds``.

    Raises:
        Mistake: A fold holds out no sample of a class, or all of them.
    """
    keys, targets = rows_of_folds(manifest)
    labels = manifest.target.strata(targets)
    fold, rest = np.zeros(len(labels), dtype=np.int64), np.arange(len(labels))
    for i in range(number - 1, 0, -1):  # one after the other: shares rounded all at once would starve one of them
        share = 1 / (i + 1)
        held_out = assign(labels[rest], groups[rest], [1 - share, share], derived_seed(seed, i)) == 1
        fold[rest[held_out]] = i
        rest = rest[~held_out]
    for label, name in enumerate(manifest.target.names):
        per_fold = np.bincount(fold[labels == label], minlength=number)
        if per_fold.min() == 0 or per_fold.max() == per_fold.sum():
            groups_of_class = len(np.unique(groups[labels == label]))
            raise Mistake(
                f"--folds={number} leaves a fold that holds out none or all of class {name!r} ({per_fold.sum()} "
                f"samples in {groups_of_class} groups), so its score would be unknown; take at most "
                f"{max(2, groups_of_class)} folds, add samples of it, or drop the class."
            )
    dealt = ({"train": _rows(keys, targets, fold != i), "val": _rows(keys, targets, fold == i)} for i in range(number))
    return [
        Manifest(manifest.schema, {**each, "test": manifest.splits["test"]}, seed, f"{i + 1}/{number}")
        for i, each in enumerate(dealt)
    ]


def rows_of_folds(manifest: Manifest) -> tuple[list[str], np.ndarray]:
    """Return the keys and targets that folds are dealt from: training and validation, in the order of the keys."""
    parts = [manifest.splits[split] for split in ("train", "val")]
    keys = [key for part, _ in parts for key in part]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [keys[i] for i in order], np.concatenate([targets for _, targets in parts])[order]


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
