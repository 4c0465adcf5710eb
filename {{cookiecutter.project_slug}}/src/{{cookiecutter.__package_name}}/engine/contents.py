"""Which files a data set holds: copies of each other, and a fingerprint of all of them."""

import contextlib
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .files import LARGEST, is_gone, made_anew
from .mistakes import Mistake
from .splits import Samples


def file_stats(root: str | Path, paths: list[str]) -> np.ndarray:
    """Return the size in bytes and the time of change in nanoseconds of each file, (N, 2); -1 where there is none."""
    stats, prefix = np.full((len(paths), 2), -1, dtype=np.int64), os.path.join(root, "")
    for i, path in enumerate(paths):
        try:
            found = os.stat(prefix + path)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):  # who reads it will say so
            continue
        stats[i] = found.st_size, found.st_mtime_ns
    return stats


def check_there(root: str | Path, paths: list[str]) -> None:
    """Refuse a manifest's files that are gone, all at once and before any is read.

    Raises:
        Mistake: The root or some files are not there.
    """
    prefix = os.path.join(root, "")
    unseen = [paths[i] for i in np.flatnonzero(file_stats(root, paths)[:, 0] < 0)]
    if unseen and _lacks(root):
        raise Mistake(
            f"--data.root={str(root)!r} is not there, so the images of the run's splits cannot be read; if the folder "
            "was moved, give its new place: --data.root NEW."
        )
    gone = [path for path in unseen if _lacks(prefix + path)]
    if gone:
        raise Mistake(
            f"{len(gone)} of {len(paths)} images of the run's splits are not there, the first is {prefix}{gone[0]}, so "
            "they can be neither trained on nor scored; bring them back, or give the folder that holds them all: "
            "--data.root NEW."
        )


def _lacks(path: str | Path) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return is_gone(error)  # what cannot be read is said when it is read
    return False


def fingerprint(samples: Samples, stats: np.ndarray) -> str:
    """Return a hash of the paths, targets, weights and sizes in bytes of a data set.

    Args:
        samples: The data set.
        stats: What ``file_stats`` says of its files.
    """
    digest = hashlib.sha256()
    sizes = map(int, stats[:, 0])  # a list of a million would take 40 MB
    for path, target, size in zip(samples.keys, samples.targets, sizes, strict=True):
        digest.update(f"{path}\0{samples.target.write(target)}\0{size}\0".encode())
    if samples.weights is not None:
        digest.update(samples.weights.tobytes())
    return digest.hexdigest()


def copies(root: str | Path, paths: list[str], stats: np.ndarray, index: str | Path | None = None) -> list[list[int]]:
    """Return the positions of files of the same content, for each content that stands in several files.

    Args:
        root: The folder that ``paths`` are relative to.
        paths: The files.
        stats: What ``file_stats`` says of them.
        index: A file that keeps the hashes, see ``content_hashes``.
    """
    _, of_size, counts = np.unique(stats[:, 0], return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[of_size] > 1)  # only files of equal size can be equal
    hashes = content_hashes(root, [paths[i] for i in suspects], stats[suspects], index)
    _, of_hash, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    copied = counts[of_hash] > 1
    same: dict[int, list[int]] = {}
    for i, number in zip(suspects[copied].tolist(), of_hash[copied].tolist(), strict=True):
        same.setdefault(number, []).append(i)
    return list(same.values())


def content_hashes(root: str | Path, paths: list[str], stats: np.ndarray, index: str | Path | None) -> np.ndarray:
    """Return 16 bytes of the SHA-256 of each file, (N,).

    Args:
        root: The folder that ``paths`` are relative to.
        paths: The files.
        stats: Their sizes and times of change, (N, 2).
        index: A file of the hashes that were taken before; those of unchanged files are not taken again. None for none.

    Raises:
        Mistake: A file cannot be read.
    """
    row = np.dtype([("key", "S16"), ("hash", "S16")])
    known = np.empty(0, row)
    if index is not None:
        with contextlib.suppress(OSError, ValueError, EOFError, MemoryError, RecursionError):  # none, or damaged
            # Mapped: numpy would make room for as many rows as the file says it has, be they there or not.
            usable = Path(index).is_file() and os.path.getsize(index) <= LARGEST
            kept = np.load(index, mmap_mode="r") if usable else known
            known = kept if kept.dtype == row and kept.ndim == 1 else known
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
            if stats[i, 0] < 0 and os.path.exists(prefix + paths[i]):
                raise OSError(0, "it is no plain file")
            with open(prefix + paths[i], "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()[:16]
        except OSError as error:
            what, remedy = f"cannot be read ({error.strerror})", "give yourself the right to read it, or remove it"
            if is_gone(error):
                what, remedy = "is not there", "bring it back, or start again without it"
            raise Mistake(
                f"{prefix}{paths[i]} {what}, so it is not known whether it is a copy of another; {remedy}."
            ) from error

    fresh = np.flatnonzero(~found)
    with ThreadPoolExecutor() as pool:
        wanted["hash"][fresh] = list(pool.map(read, fresh.tolist(), chunksize=256))
    if index is not None and len(fresh):
        with contextlib.suppress(OSError):  # without the index the next start takes the hashes again
            merged = np.concatenate([known, wanted[fresh]])
            Path(index).parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(index).with_name(f".{Path(index).name}.{os.getpid()}")
            with made_anew(unfinished) as file:
                np.save(file, merged[np.unique(merged["key"], return_index=True)[1]])
            os.replace(unfinished, index)
    return wanted["hash"]
