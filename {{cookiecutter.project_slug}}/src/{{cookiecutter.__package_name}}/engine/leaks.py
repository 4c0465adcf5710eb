"""What is doubtful of a table: columns that give the target away, columns that tell nothing, rows that recur."""

from collections.abc import Sequence

import numpy as np

from .cells import in_flag
from .kinds import Column
from .mistakes import shown, some
from .tables import Table
from .targets import Classes, Labels, Target

CERTAIN = 0.999  # the R² or the area under the ROC curve from which on a column alone predicts the target
MOST_ROWS = 100_000  # that a column is tried on
MOST_CLASSES = 20  # that a column is tried on, the most frequent ones
FEWEST = 10  # rows of a class, below which it could be told apart by chance
MANY = 0.1  # the share of equal rows from which on they are no copies, but a table of few combinations
UNSEEN = 0.05  # the share of held-out rows with unknown values from which on it is said


def doubts(table: Table, train_positions: np.ndarray) -> list[str]:
    """Say what is doubtful before training, a line each; what tells of the target is seen in training rows alone.

    Args:
        table: The table.
        train_positions: Which of its rows are trained on.
    """
    columns, targets, target = table.columns, table.samples.targets, table.samples.target
    train_positions = np.asarray(train_positions)
    said = leaks(columns, targets, target, train_positions)
    said += [*idle(columns, train_positions), *unseen(columns, train_positions)]
    equal = sum(map(len, equal_rows(columns, targets)))
    if equal > MANY * len(targets):
        said.append(
            f"{equal:,} of {len(targets):,} rows are equal to another one in all inputs and the target: there "
            "are few combinations, so equal rows are not kept in one split"
        )
    return said


def leaks(columns: Sequence[Column], targets: np.ndarray, target: Target, positions: np.ndarray) -> list[str]:
    """Say which columns predict the target alone, by some rows."""
    truths, measure = _truths(targets[positions], target)
    most = MOST_ROWS // max(1, len(truths) // 2)
    if len(positions) > most:
        chosen = np.sort(np.random.default_rng(0).permutation(len(positions))[:most])
        positions, truths = positions[chosen], [truth_N[chosen] for truth_N in truths]
    said = []
    for column in columns:
        values_N = column.values_N[positions]
        if _is_target(column, values_N, targets[positions], target):
            why = f"leak? {shown(column.name)} equals the target in all training rows"
        else:
            score = _score(values_N, column.kind == "number", truths, target)
            if not score > CERTAIN:
                continue
            why = f"leak? {shown(column.name)} alone predicts the target ({measure} {score:.4f} on training rows)"
        said.append(f"{why}; if it is not known before the target, give --data.drop {in_flag([column.name])}")
    return said


def _truths(targets: np.ndarray, target: Target) -> tuple[list[np.ndarray], str]:
    """Return what is to be predicted as vectors of numbers, and what measures it."""
    if isinstance(target, Classes):
        counts = np.bincount(targets, minlength=len(target.names))
        frequent = [int(k) for k in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[k]]
        frequent = frequent[1:] if len(frequent) == 2 else frequent  # of two classes one says all
        return [(targets == k).astype(np.float64) for k in frequent], "AUC"
    if isinstance(target, Labels):
        return [target_N.astype(np.float64) for target_N in targets.T[:MOST_CLASSES]], "AUC"
    return list(targets.T.astype(np.float64)), "R²"


def _is_target(column: Column, values_N: np.ndarray, targets: np.ndarray, target: Target) -> bool:
    if isinstance(target, Classes):
        if column.kind == "category":
            place = {name: i for i, name in enumerate(target.names)}
            return bool((np.array([place.get(word, -1) for word in column.words])[values_N] == targets).all())
        try:
            named = np.array([float(name) for name in target.names], np.float32)
        except ValueError:
            return False
        return bool((named[targets] == values_N).all())
    if column.kind == "category":
        return False
    return any(bool((values_N == target_N.astype(np.float32)).all()) for target_N in targets.T)


def _score(values_N: np.ndarray, is_ordered: bool, truths: list[np.ndarray], target: Target) -> float:
    """Return how well a column alone predicts, at best of several numbers or labels, on the average of classes."""
    _, group_N = np.unique(values_N, return_inverse=True, equal_nan=True)
    size_G = np.bincount(group_N)
    if len(size_G) < 2:
        return 0.0
    scores, weights = [], []
    for truth_N in truths:
        predicted_N = _left_out(truth_N, group_N, size_G, is_ordered)
        if target.task == "regression":
            total = ((truth_N - truth_N.mean()) ** 2).sum()
            scores.append(1 - ((truth_N - predicted_N) ** 2).sum() / total if total > 0 else 0.0)
        else:
            positive = truth_N.sum()
            if min(positive, len(truth_N) - positive) < FEWEST:
                continue
            itself = _auc(truth_N, group_N) if is_ordered else 0.0
            scores.append(max(_auc(truth_N, predicted_N), itself, 1 - itself if is_ordered else 0.0))
            weights.append(positive)
    if not scores:
        return 0.0
    return float(np.average(scores, weights=weights)) if isinstance(target, Classes) else float(max(scores))


def _left_out(truth_N: np.ndarray, group_N: np.ndarray, size_G: np.ndarray, is_ordered: bool) -> np.ndarray:
    """Predict each row by the others with its value, (N,).

    A row that is alone with its value is predicted by those with the next lower and the next higher one; where values
    have no order, by all others.
    """
    sum_G = np.bincount(group_N, weights=truth_N)
    alone_G = np.full(len(size_G), np.nan)
    if is_ordered:
        mean_G = sum_G / size_G
        alone_G[1:-1] = (mean_G[:-2] + mean_G[2:]) / 2
        alone_G[0], alone_G[-1] = mean_G[1], mean_G[-2]
        alone_N = alone_G[group_N]
    else:
        alone_N = (truth_N.sum() - truth_N) / (len(truth_N) - 1)
    size_N = size_G[group_N]
    return np.where(size_N > 1, (sum_G[group_N] - truth_N) / np.maximum(size_N - 1, 1), alone_N)


def _auc(truth_N: np.ndarray, score_N: np.ndarray) -> float:
    """Return the area under the ROC curve, equal scores counting half."""
    _, place_N, size = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(size) - (size - 1) / 2)[place_N]
    positive = truth_N.sum()
    return float((rank_N[truth_N > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(truth_N) - positive)))


def constant(column: Column, positions: np.ndarray) -> str | None:
    """Return what a column is in all of some rows, which it tells nothing of then; None where it differs."""
    values_N = column.values_N[positions]
    if column.kind == "category":
        codes = np.unique(values_N)
        return repr(column.words[int(codes[0])]) if len(codes) == 1 else None
    present_N = values_N[~np.isnan(values_N)]
    if not len(present_N):
        return "missing"
    is_one = len(present_N) == len(values_N) and bool((present_N == present_N[0]).all())
    return f"{present_N[0]:g}" if is_one else None


def idle(columns: Sequence[Column], positions: np.ndarray) -> list[str]:
    """Say which columns tell nothing of the training rows."""
    values = ((column, constant(column, positions)) for column in columns)
    return [
        f"{shown(column.name)} is {value} in all training rows, so it tells nothing and is not learned from"
        for column, value in values
        if value is not None
    ]


def unseen(columns: Sequence[Column], positions: np.ndarray, share: float = UNSEEN) -> list[str]:
    """Say which columns have values in more than a share of the held-out rows that no training row has."""
    said, rest = [], np.delete(np.arange(len(columns[0].values_N)), positions)
    for column in columns:
        if column.kind == "category" and len(rest) and constant(column, positions) is None:
            is_known = np.zeros(len(column.words), dtype=bool)
            is_known[column.values_N[positions]] = True
            unknown = ~is_known[column.values_N[rest]]
            if unknown.mean() > share:
                words = some([repr(shown(column.words[i])[:30]) for i in np.flatnonzero(~is_known)[:5]])
                said.append(
                    f"{shown(column.name)} has values in {unknown.sum():,} of {len(rest):,} held-out rows that no "
                    f"training row has ({words}): they are read as unknown"
                )
    return said


def same_rows(columns: Sequence[Column], targets: np.ndarray) -> list[list[int]]:
    """Return the positions of rows that are equal in all inputs and the target, for each such set.

    Where they are more than a tenth of the rows there are none: a table of few combinations, which ``doubts`` says.
    """
    found = equal_rows(columns, targets)
    return [] if sum(map(len, found)) > MANY * len(targets) else [positions.tolist() for positions in found]


def equal_rows(columns: Sequence[Column], targets: np.ndarray) -> list[np.ndarray]:
    """Return the positions of the rows that are equal, in their order, for each set of such rows."""
    hash_N = _hashes(columns, targets)
    order = np.argsort(hash_N, kind="stable")
    ends = np.flatnonzero(np.diff(hash_N[order])) + 1
    starts, ends = np.append(0, ends), np.append(ends, len(order))
    several = ends - starts > 1
    return [order[start:end] for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True)]


def _hashes(columns: Sequence[Column], targets: np.ndarray) -> np.ndarray:
    """Return a hash of each row, of 64 bits."""
    hash_N = np.zeros(len(targets), np.uint64)
    vectors = [*targets.T] if targets.ndim == 2 else [targets]
    for values_N in [*(column.values_N for column in columns), *vectors]:
        if values_N.dtype.kind == "f":
            bits = np.uint32 if values_N.dtype.itemsize == 4 else np.uint64
            # One NaN for all, and one zero.
            values_N = np.where(np.isnan(values_N), values_N.dtype.type(np.nan), values_N + values_N.dtype.type(0))
            values_N = values_N.view(bits)
        hash_N ^= values_N.astype(np.uint64)
        hash_N *= np.uint64(0x9E3779B97F4A7C15)
        hash_N ^= hash_N >> np.uint64(29)
        hash_N *= np.uint64(0xBF58476D1CE4E5B9)
        hash_N ^= hash_N >> np.uint64(32)
    return hash_N
