"""Images that look alike though their files differ: resized, compressed anew, made a little brighter.

An image has a difference hash of 64 bits. Those that differ in three bits at most are found by sorting, without
comparing all with all: of six parts of the hash three must be equal (Manku et al. 2007, section 3). They are then
compared by their pixels. Shapes: N images.
"""

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import numpy as np

SIDE = 64  # pixels of the squares that are hashed and compared
SMALLEST = 16  # pixels of an image, below which many look alike
STEP = 1.0  # grey levels by which the right one of two must be brighter: what is flat hashes alike
FLAT = 4.0  # grey levels of deviation, below which there is nothing to compare
BITS = 3  # that may differ
PARTS = 6
CROWD = 32  # images of equal parts: in more, each is compared with the first alone
ALIKE = 0.99  # the correlation of pixels from which on two images are near-copies

_CELLS = np.repeat(np.eye(8), SIDE // 8, axis=1) / (SIDE // 8)


def _strips(count: int) -> np.ndarray:
    """Return how much of each of so many pixels goes into each of nine equal strips, (9, count)."""
    edges, pixel = np.linspace(0, count, 10), np.arange(count)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(0) * 9 / count


_STRIPS = _strips(SIDE)


def difference_hash(grey: np.ndarray) -> int | None:
    """Return which of 8 × 9 means, in each row, is brighter than the one on its left; None of a flat image.

    Args:
        grey: The image, (64, 64).
    """
    if grey.std() < FLAT:
        return None
    means = _CELLS @ grey @ _STRIPS.T
    return int.from_bytes(np.packbits(means[:, 1:] > means[:, :-1] + STEP).tobytes(), "big")


def candidates(hash_N: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the positions of hashes that differ in three bits at most; some of a large crowd are passed over."""
    if len(hash_N) < 2:
        return
    edges = np.linspace(0, 64, PARTS + 1).astype(int).tolist()
    masks = [sum(1 << bit for bit in range(low, high)) for low, high in pairwise(edges)]
    seen = set()
    for chosen in combinations(masks, PARTS - BITS):
        key_N = hash_N & np.uint64(sum(chosen))
        order = np.argsort(key_N, kind="stable")
        ends = np.flatnonzero(np.diff(key_N[order])) + 1
        starts, ends = np.append(0, ends), np.append(ends, len(order))
        for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
            crowd = order[start:end].tolist()
            pairs = combinations(crowd, 2) if len(crowd) <= CROWD else ((crowd[0], other) for other in crowd[1:])
            for pair in pairs:
                differing = int(hash_N[pair[0]] ^ hash_N[pair[1]]).bit_count()
                if differing <= BITS and pair not in seen:
                    seen.add(pair)
                    yield pair


def near_copies(hash_N: np.ndarray, grey: Callable[[int], np.ndarray | None]) -> list[list[int]]:
    """Return the positions of images that look alike, for each such set, in their order.

    Args:
        hash_N: Their hashes.
        grey: Returns the pixels of one, (64, 64); None if it cannot be read any more.
    """
    parent = list(range(len(hash_N)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in candidates(hash_N):
        if top(one) != top(other) and _alike(grey(one), grey(other)):
            first, second = sorted((top(one), top(other)))
            parent[second] = first
    sets: dict[int, list[int]] = {}
    for i in range(len(hash_N)):
        sets.setdefault(top(i), []).append(i)
    return [members for members in sets.values() if len(members) > 1]


def _alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return False
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) > ALIKE
