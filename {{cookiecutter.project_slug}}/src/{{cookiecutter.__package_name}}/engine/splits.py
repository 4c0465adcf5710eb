"""Train, validation and test splits: stratified, grouped, disjoint by content, and kept in a file.

It knows samples by their keys (paths, rows) and targets by their strata alone.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .cells import FLAGS
from .files import read_text, write
from .mistakes import CONTROL, Mistake, all_such
from .sampling import derived_seed
from .schema import Schema
from .targets import Classes, Target

SPLITS = ("train", "val", "test")
# How people call their splits, in any case.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
}
BETWEEN_WORDS = re.compile(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Samples:
    """The samples of a data set.

    Args:
        keys: What each sample is known by: of an image its path, relative to the root.
        targets: One target per sample.
        target: What the targets mean.
        given: The split that the data set itself names for each sample, or None where it names none.
        left_out: What was passed over, for people.
        groups: The number of each sample's group (a patient, a video), which stays in one split, (N,); or None.
        weights: The weight of each sample in the loss and the scores, (N,); None where all count the same.
        remarks: What was doubtful, a line each, for people.
    """

    keys: list[str]
    targets: np.ndarray
    target: Target
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
        weights: The weight of each sample of each split; none where all count the same.
    """

    schema: Schema
    splits: dict[str, tuple[list[str], np.ndarray]]
    seed: int
    fold: str | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    VERSION = 2

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.schema.target

    def has_splits_of(self, other: "Manifest") -> bool:
        """Tell whether the same samples have the same targets and stand in the same splits."""

        def written(manifest: Manifest) -> dict[str, list[list[Any]]]:
            return {split: sorted(manifest.rows(split), key=lambda row: row[0]) for split in SPLITS}

        return written(self) == written(other)

    def agrees_with(self, samples: Samples, splits: Iterable[str] = SPLITS) -> bool:
        """Tell whether a data set has the samples of some splits, with these targets and weights."""
        if self.target != samples.target:
            return False
        place = {key: number for number, key in enumerate(samples.keys)}
        for split in splits:
            keys, targets = self.splits[split]
            rows = [place.get(key, -1) for key in keys]
            weights = self.weights.get(split, np.ones(len(keys)))
            if -1 in rows or not np.array_equal(samples.targets[rows], targets):
                return False
            theirs = np.ones(len(keys)) if samples.weights is None else samples.weights[rows]
            if not np.array_equal(weights, theirs):
                return False
        return True

    def rows(self, split: str) -> Iterator[list[Any]]:
        """Yield [key, target], or [key, target, weight], for each sample of a split, as plain values."""
        keys, targets = self.splits[split]
        weights = self.weights.get(split)
        for number, (key, value) in enumerate(zip(keys, targets, strict=True)):
            weight = [] if weights is None else [float(weights[number])]
            yield [key, self.target.write(value), *weight]

    def save(self, path: str | Path) -> None:
        """Write the manifest as JSON, a line for each sample: split → [key, target], or [key, target, weight]."""
        about = {"version": self.VERSION, "seed": self.seed, "fold": self.fold, "schema": self.schema.as_dict()}
        encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder for each row
        lines = [encode(about)[:-1] + ', "splits": {']
        for split in self.splits:
            written = map(encode, self.rows(split))
            lines.append(f"{json.dumps(split)}: [\n" + ",\n".join(written) + "\n],")
        write(Path(path), "\n".join(lines)[:-1] + "\n}}\n")

    @classmethod
    def load(cls, path: str | Path, outside: bool = False) -> "Manifest":
        """Read a manifest back, of this version or the one before.

        Args:
            path: The file.
            outside: Whether its keys may lead out of the data set's folder.

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
                check_keys(keys, outside)
            if any(CONTROL.search(name) for name in manifest.target.columns):
                raise ValueError("a class has control characters in its name")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
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
        schema, splits, weights = Schema.from_dict(content["schema"]), {}, {}
        for split in SPLITS:
            rows = content["splits"][split]
            splits[split] = ([row[0] for row in rows], schema.target.read([row[1] for row in rows]))
            if any(len(row) > 2 for row in rows):
                weights[split] = np.array([row[2] for row in rows], dtype=np.float64)
                if not (np.isfinite(weights[split]).all() and (weights[split] >= 0).all()):
                    raise ValueError("a weight is negative or no number")
        if weights:  # a split without samples has none
            weights = {split: weights.get(split, np.ones(len(splits[split][0]))) for split in SPLITS}
        return cls(schema, splits, content["seed"], content["fold"], weights)

    @classmethod
    def _of_version_1(cls, content: dict[str, Any]) -> "Manifest":
        # split → class → paths, of images alone; their size and channels stand in the run's config.
        target, splits = Classes(content["classes"]), {}
        for split in SPLITS:
            rows = sorted((key, name) for name in target.names for key in content["splits"][split][name])
            splits[split] = ([key for key, _ in rows], target.read([name for _, name in rows]))
        return cls(Schema({}, target), splits, content["seed"])


def split_words(column: str) -> tuple[dict[str, str], bool]:
    """Return which split the words in a column of splits mean, by its name; and whether flags do, as in is_valid."""
    named = [SPLIT_WORDS[word] for word in map(str.casefold, BETWEEN_WORDS.split(column)) if word in SPLIT_WORDS]
    means: dict[str, str] = dict(SPLIT_WORDS)
    if len(named) == 1:  # is_valid, is_test, is_train
        others = "val" if named[0] == "train" else "train"
        means |= {word: named[0] if flag else others for word, flag in FLAGS.items()}
    return means, len(named) == 1


def check_keys(keys: Sequence[str], outside: bool = False) -> None:
    """Refuse keys that would lead out of the data set's folder, or change a terminal.

    Args:
        keys: The keys.
        outside: Whether they may lead out of it.

    Raises:
        ValueError: One is absolute, goes up, or holds control characters.
    """
    for key in keys:
        leads_out = key.startswith("/") or ".." in key.split("/")
        if CONTROL.search(key):
            raise ValueError(f"{key!r} holds control characters")
        if leads_out and not outside:
            raise ValueError(f"{key!r} leads out of the folder of the data, which --data.outside true allows")


def assign(labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Deal samples into parts, stratified by label, with every group in one part.

    Groups of several samples are dealt first, the largest first, each to the part that lacks most of its classes;
    single samples then fill each class up to its quota. The draw depends on the arguments alone.

    Args:
        labels: The class index of each sample, (N,); or whether it has each of several labels, (N, L).
        groups: The group of each sample, (N,).
        fractions: The share of each part; together 1.
        seed: The seed of the draw.

    Returns:
        The part of each sample, (N,).
    """
    if labels.ndim == 2:
        return _assign_iteratively(labels, groups, fractions, seed)
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


def _assign_iteratively(labels_NL: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Deal samples of several labels each, the rarest label first (iterative stratification, Sechidis et al. 2011).

    What a part is still to get of a label is counted in whole samples, so that a rare label, too, comes into each part.
    Whole shares of samples with the very same labels are dealt at once; the rest, and groups, one after the other.
    """
    rng, parts = np.random.default_rng(seed), len(fractions)
    part = np.full(len(labels_NL), -1)
    lack_LP = np.array([_rounded(count, fractions) for count in labels_NL.sum(0, dtype=np.int64).tolist()], dtype=float)
    room_P = np.array(_rounded(len(labels_NL), fractions), dtype=float)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(labels_NL))
    single = order[sizes[group_of[order]] == 1]
    _, set_of = np.unique(np.packbits(labels_NL[single] > 0, axis=1), axis=0, return_inverse=True)
    single = single[np.argsort(set_of.ravel(), kind="stable")]
    for same in np.split(single, np.cumsum(np.bincount(set_of.ravel()))[:-1]):
        at_once = [int(len(same) * fraction) for fraction in fractions]
        for index, taken in enumerate(np.split(same, np.cumsum(at_once))[:-1]):
            part[taken] = index
        lack_LP -= np.outer(labels_NL[same[0]] > 0, at_once) if len(same) else 0
        room_P -= at_once
    left = order[part[order] < 0]
    left = left[np.argsort(group_of[left], kind="stable")]
    units = np.split(left, np.flatnonzero(np.diff(group_of[left])) + 1) if len(left) else []
    units = sorted((units[i] for i in rng.permutation(len(units))), key=len, reverse=True)
    in_unit_UL = np.array([labels_NL[unit].sum(0, dtype=np.int64) for unit in units], dtype=np.int64)
    in_unit_UL = in_unit_UL.reshape(len(units), labels_NL.shape[1])
    waiting = np.ones(len(units), dtype=bool)
    while waiting.any():
        count_L = (in_unit_UL[waiting] > 0).sum(0)
        rarest = int(np.where(count_L > 0, count_L, np.iinfo(np.int64).max).argmin())
        due = np.flatnonzero(waiting & (in_unit_UL[:, rarest] > 0)) if count_L.any() else np.flatnonzero(waiting)
        for unit in due.tolist():
            lack_P = lack_LP[rarest] if count_L.any() else room_P
            # Of equals the part with the most room, then the last, for training has most anyway.
            chosen = int(np.lexsort((np.arange(parts), room_P, lack_P))[-1])
            part[units[unit]] = chosen
            lack_LP[:, chosen] -= in_unit_UL[unit]
            room_P[chosen] -= len(units[unit])
        waiting[due] = False
    return part


def _dealt(target: Target, labels: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Deal samples as ``assign`` does; where no name needs its share, the parts have their exact sizes."""
    part = assign(labels, groups, fractions, seed)
    return part if target.to_learn else _evened(part, groups, fractions, seed)


def _evened(part: np.ndarray, groups: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Give each part its number of samples again, where the bins of a number were rounded one by one."""
    rng, part = np.random.default_rng(seed), part.copy()
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    is_single = sizes[group_of] == 1
    for index, wanted in list(enumerate(_rounded(len(part), fractions)))[1:]:
        missing = wanted - np.count_nonzero(part == index)
        source, target = (0, index) if missing > 0 else (index, 0)
        movable = rng.permutation(np.flatnonzero(is_single & (part == source)))
        part[movable[: abs(missing)]] = target
    return part


def _rounded(count: int, fractions: Sequence[float]) -> list[int]:
    rest = [int(count * fraction + 0.5) for fraction in fractions[1:]]
    return [count - sum(rest), *rest]


def draw_splits(
    samples: Samples, val_fraction: float, test_fraction: float, seed: int, groups: np.ndarray, outside: bool = False
) -> Manifest:
    """Split a data set; splits that it gives are respected, and what it does not give is cut from training.

    Args:
        samples: The data set.
        val_fraction: The validation share of all samples that have no given split.
        test_fraction: The test share of the same.
        seed: The seed of the draw.
        groups: The group of each sample, (N,): each stays in one split.
        outside: Whether keys may lead out of the data set's folder.

    Raises:
        Mistake: The fractions leave nothing to train on, a class is too small for its split, or a given validation
            or test split holds a class that training lacks.
    """
    try:
        check_keys(samples.keys, outside)
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
    torn = [] if samples.groups is None else np.intersect1d(groups[given == "val"], groups[given == "test"])
    if len(torn):
        first, second = (
            samples.keys[np.flatnonzero((groups == torn[0]) & (given == split))[0]] for split in SPLITS[1:]
        )
        raise Mistake(
            f"{len(torn)} groups stand in validation and in test, the first with {first!r} "
            f"and {second!r}, so the test would score what the checkpoint was chosen by; give each group one split."
        )
    pool = np.flatnonzero(result == "train")
    if len(pool) and wanted:
        strata = samples.target.strata(samples.targets[pool])
        shares = [1 - sum(wanted.values()), *wanted.values()]
        part = _dealt(samples.target, strata, groups[pool], shares, seed)
        result[pool] = np.array(["train", *wanted])[part]
    splits = {split: _rows(samples.keys, samples.targets, result == split) for split in SPLITS}
    _check(splits, samples.target, wanted)
    weights = {} if samples.weights is None else {split: samples.weights[result == split] for split in SPLITS}
    for split, of_split in weights.items():
        if len(of_split) and not of_split.any():
            raise Mistake(
                f"all {len(of_split)} samples of {split} have the weight 0, so it would count nothing; weigh some, "
                "or give other splits: --data.split_seed."
            )
    return Manifest(Schema({}, samples.target), splits, seed, weights=weights)


def check_conflicts(samples: Samples, same: Iterable[Sequence[int]]) -> str:
    """Refuse equal samples of different classes: whatever is learned of one is wrong of the other.

    Several labels may be incomplete, and numbers are measured: these are told.

    Args:
        samples: The data set.
        same: Positions of samples that are equal, for each such set.

    Returns:
        What is told of them; nothing where there are none.

    Raises:
        Mistake: There are some of different classes.
    """
    targets = samples.targets
    conflicts = [group for group in same if (targets[list(group)] != targets[group[0]]).any()]
    if conflicts:
        first = conflicts[0][0]
        other = next(i for i in conflicts[0] if np.any(targets[i] != targets[first]))
        shown = [f"{samples.keys[i]} ({', '.join(samples.target.told(targets[i]))})" for i in (first, other)]
        if not samples.target.is_exclusive:
            return (
                f"{shown[0]} and {shown[1]} are the same content with two targets ({len(conflicts)} such); they stay "
                "in one split"
            )
        raise Mistake(
            f"{shown[0]} and {shown[1]} are the same content under two labels ({len(conflicts)} such), so a score "
            f"would count one of them wrong; take away the wrong one, or give --data.allow_conflicts true{all_such()}."
        )
    return ""


def _rows(keys: list[str], targets: np.ndarray, mask: np.ndarray) -> tuple[list[str], np.ndarray]:
    return [keys[i] for i in np.flatnonzero(mask)], targets[mask]


def _check(splits: dict[str, tuple[list[str], np.ndarray]], target: Target, wanted: dict[str, float]) -> None:
    counts = {split: target.counts(targets) for split, (_, targets) in splits.items()}
    for index, name in enumerate(target.to_learn):
        total = sum(int(count[index]) for count in counts.values())
        if counts["train"][index] == 0:
            where = "validation or test" if total else "no split"
            raise Mistake(
                f"{target.noun} {name!r} stands in {where} but has no training samples, so it cannot be learned; "
                f"add some of it to training or remove the {target.noun}."
            )
        for split, fraction in wanted.items():
            if counts[split][index] == 0:
                raise Mistake(
                    f"--data.{split}_fraction={fraction} leaves {target.noun} {name!r} ({total} samples) without any "
                    f"in {split}, so its score would be unknown; raise it above {0.5 / total:.3f}, add samples (or "
                    f"fewer groups), or drop the {target.noun}."
                )
    if not splits["train"][0]:
        raise Mistake("no sample is left to train on; give the training split some, or lower --data.val_fraction.")
    for split, fraction in wanted.items():
        if not splits[split][0]:
            raise Mistake(
                f"--data.{split}_fraction={fraction} of {sum(len(keys) for keys, _ in splits.values())} samples "
                f"leaves none in {split}, so there would be nothing to score; raise it, or give 0."
            )


def group(
    keys: list[str],
    pattern: str | None = None,
    same: Sequence[Sequence[int]] = (),
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Number the groups of samples that must not be torn apart: same match of ``pattern``, same content, same group
    of the data's own.

    Args:
        keys: One key per sample, such as its path.
        pattern: A regular expression; what it (or its first group) matches names the group.
        same: Positions of samples that are equal, for each such set.
        given: The number of each sample's group, as the data names it, (N,).

    Returns:
        The group of each sample, (N,).

    Raises:
        Mistake: The pattern is no regular expression.
    """
    if not same and pattern is None and given is None:
        return np.arange(len(keys), dtype=np.int64)
    parent = list(range(len(keys)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, *others in same:
        for i in others:
            parent[top(i)] = top(first)
    if given is not None:
        first_of: dict[int, int] = {}
        for i, number in enumerate(given.tolist()):
            parent[top(i)] = top(first_of.setdefault(number, i))
    if pattern is not None:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise Mistake(
                f"--data.group_pattern={pattern!r} is no regular expression ({error}), so samples of one subject could "
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
    labels, target = manifest.target.strata(targets), manifest.target
    fold, rest = np.zeros(len(labels), dtype=np.int64), np.arange(len(labels))
    for i in range(number - 1, 0, -1):  # one after the other: shares rounded all at once would starve one of them
        share = 1 / (i + 1)
        held_out = _dealt(target, labels[rest], groups[rest], [1 - share, share], derived_seed(seed, i)) == 1
        fold[rest[held_out]] = i
        rest = rest[~held_out]
    for index, name in enumerate(target.to_learn):
        held = target.holds(targets, index)
        per_fold = np.bincount(fold[held], minlength=number)
        if per_fold.min() == 0 or per_fold.max() == per_fold.sum():
            groups_of_class = len(np.unique(groups[held]))
            raise Mistake(
                f"--folds={number} leaves a fold that holds out none or all of {target.noun} {name!r} "
                f"({per_fold.sum()} samples in {groups_of_class} groups), so its score would be unknown; take at most "
                f"{max(2, groups_of_class)} folds, add samples of it, or drop the {target.noun}."
            )
    if len(np.unique(fold)) < number:
        raise Mistake(
            f"--folds={number} leaves a fold that holds out nothing, for there are {len(np.unique(groups))} groups; "
            "take fewer folds."
        )
    dealt = []
    for i in range(number):
        parts = {"train": fold != i, "val": fold == i}
        splits = {split: _rows(keys, targets, mask) for split, mask in parts.items()}
        weights = dict(manifest.weights)
        if weights:
            _, order = _order_of_folds(manifest)
            weights_N = np.concatenate([manifest.weights[split] for split in parts])[order]
            weights |= {split: weights_N[mask] for split, mask in parts.items()}
        splits["test"] = manifest.splits["test"]
        dealt.append(Manifest(manifest.schema, splits, seed, f"{i + 1}/{number}", weights))
    return dealt


def rows_of_folds(manifest: Manifest) -> tuple[list[str], np.ndarray]:
    """Return the keys and targets that folds are dealt from: training and validation, in the order of the keys."""
    keys, order = _order_of_folds(manifest)
    targets = np.concatenate([manifest.splits[split][1] for split in ("train", "val")])
    return [keys[i] for i in order], targets[order]


def _order_of_folds(manifest: Manifest) -> tuple[list[str], list[int]]:
    keys = [key for split in ("train", "val") for key in manifest.splits[split][0]]
    return keys, sorted(range(len(keys)), key=keys.__getitem__)


def stratified_part(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of every class, at least one sample; a larger share contains a smaller one.

    Args:
        labels: The class index of each sample, (N,); or whether it has each of several labels, (N, L): the draw is
            then a plain one that keeps at least one sample of each label.
        fraction: The share.
        seed: The seed of the draw.

    Returns:
        Sorted positions into ``labels``.
    """
    rng = np.random.default_rng(seed)
    if labels.ndim == 2:
        order = rng.permutation(len(labels))
        first_of_each = labels[order].argmax(0)[labels.any(0)]
        return np.union1d(order[: max(1, round(len(order) * fraction))], order[first_of_each])
    kept = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        kept.append(members[: max(1, round(len(members) * fraction))])
    return np.sort(np.concatenate(kept))
