"""A cache of decoded images: uint8 pixels in one file that workers, ranks and runs share.

It holds the very bytes that decoding gives, so that a run with it equals a run without. Its name follows from the
paths, sizes and times of change of the images, their side and channels: other images make another file.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .contents import file_stats
from .files import locked
from .images import Decoding, read
from .mistakes import RunFailed

VERSION = 2  # raise it when decode gives other pixels
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"  # of https://bford.info/cachedir: backups leave it out
# The time of change of a whole file: whatever is written to it later leaves another.
STAMP = 1_000_000_000
PORTION = 32  # images that a thread decodes at a time


class Pixels:
    """Decoded images by position; every process that is handed them opens the file anew.

    They are read, not mapped: a file that is cut short under a memory map kills the process without a word. From the
    page cache that takes as long, and holds no memory.

    Args:
        file: Holds the images of the cache as uint8, (M, size, size, channels).
        rows: The row of each image in it, (N,).
    """

    def __init__(self, file: Path, rows: np.ndarray) -> None:
        self.file, self.rows = file, rows
        self.descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        (_, *self.shape), self.start = header(file)
        self.size = int(np.prod(self.shape))

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            found = os.pread(self.descriptor, self.size, self.start + int(self.rows[index]) * self.size)
        except OSError as error:
            raise self._lost(str(error.strerror)) from error
        if len(found) < self.size:
            raise self._lost("it was cut short")
        return np.frombuffer(found, np.uint8).reshape(self.shape)

    def _lost(self, reason: str) -> RunFailed:
        return RunFailed(
            f"the cache of decoded images {self.file} cannot be read any more ({reason}), so the run was stopped; "
            "remove it, and start again: it will be made anew."
        )

    def __reduce__(self) -> tuple[Any, ...]:  # a descriptor is of one process
        return Pixels, (self.file, self.rows)


def header(file: Path) -> tuple[tuple[int, ...], int]:
    """Return the shape of the images of a cache, and where in the file they begin.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such file, or not as long as it says.
    """
    with file.open("rb") as opened:
        np.lib.format.read_magic(opened)
        shape, _, kind = np.lib.format.read_array_header_1_0(opened)
        start = opened.tell()
        if kind != np.uint8 or os.fstat(opened.fileno()).st_size < start + int(np.prod(shape)):
            raise ValueError(f"{file} is cut short")
    return shape, start


class Cache:
    """The decoded images of a data set.

    Args:
        folder: Where caches lie.
        root: The folder that ``paths`` are relative to.
        paths: The images, in any order.
        decoding: How they are decoded.
    """

    def __init__(self, folder: str | Path, root: Path, paths: list[str], decoding: Decoding) -> None:
        self.root, self.paths, self.decoding = root, sorted(paths), decoding
        self.shape = (len(paths), decoding.size, decoding.size, decoding.channels)
        key = hashlib.sha256(f"{VERSION} {len(paths)} {tuple(decoding[:-1])} ".encode())  # the limit changes no pixel
        key.update("\0".join(self.paths).encode())
        stats = file_stats(root, self.paths)
        self.files_exist = bool((stats >= 0).all())
        key.update(stats.tobytes())
        self.file = Path(folder, f"{key.hexdigest()[:24]}.npy")

    def pixels(self, paths: list[str]) -> Pixels | None:
        """Return some of the images, in the order of ``paths``; None unless the cache holds them all."""
        known = np.array(self.paths, dtype=object)
        rows = np.searchsorted(known, np.array(paths, dtype=object)).clip(max=len(known) - 1)
        if not (known[rows] == paths).all():
            return None
        try:
            return Pixels(self.file, rows)
        except (OSError, ValueError):  # removed since: they are decoded again
            return None

    def is_whole(self) -> bool:
        """Tell whether the file is there, as it was written."""
        try:
            whole = self.file.stat().st_mtime_ns == STAMP and header(self.file)[0] == self.shape
        except (OSError, ValueError):
            return False
        if whole:
            with contextlib.suppress(OSError):  # the folder of another user
                os.utime(self.file, ns=(time.time_ns(), STAMP))
        return whole

    def build(self, budget_gb: float | None) -> bool:
        """Decode all images unless the file is whole; of several processes one does, and the others wait for it.

        Args:
            budget_gb: What all caches in the folder may take; None is half of the memory and of the disk.

        Returns:
            Whether the file is whole now; it is not where it would not fit.

        Raises:
            Mistake: An image cannot be read.
        """
        if self.is_whole():
            return True
        if not self.files_exist:  # whoever needs them will say so
            return False
        unfinished = self.file.with_name(f".{self.file.name}.unfinished")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            (self.file.parent / "CACHEDIR.TAG").write_text(TAG)
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644), "r+b"))
                if locked(file.fileno(), unfinished, wait=True) is None:  # each process makes a file of its own
                    unfinished.unlink(missing_ok=True)
                    unfinished = unfinished.with_name(f"{unfinished.name}-{secrets.token_hex(4)}")
                    file = stack.enter_context(unfinished.open("x+b"))
                if self.is_whole():
                    return True
                if not self._make_room(budget_gb):
                    unfinished.unlink()
                    return False
                self._fill(file)
                os.utime(unfinished, ns=(time.time_ns(), STAMP))
                os.replace(unfinished, self.file)
        except BaseException as error:
            unfinished.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            print(f"cache: {self.file} cannot be written ({error}), so images are decoded again in every epoch")
            return False
        return True

    def _make_room(self, budget_gb: float | None) -> bool:
        """Remove the caches that were not used for longest, if that makes room."""
        needed = int(np.prod(self.shape))
        others = sorted(self.file.parent.glob(24 * "[0-9a-f]" + ".npy"), key=lambda path: path.stat().st_atime)
        taken = sum(path.stat().st_size for path in others)
        disk = shutil.disk_usage(self.file.parent).free + taken
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        budget = min(disk, memory) / 2 if budget_gb is None else min(disk, budget_gb * 1e9)
        if needed > budget:
            print(
                f"cache: {needed / 1e9:.1f} GB of decoded images are more than the {budget / 1e9:.1f} GB that they may "
                "take, so images are decoded again in every epoch; --data.cache_gb changes that"
            )
            return False
        while taken + needed > budget:
            taken -= others[0].stat().st_size
            others.pop(0).unlink()
        return True

    def _fill(self, file: Any) -> None:
        began, count = time.monotonic(), len(self.paths)
        file.truncate(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        end = file.tell() + int(np.prod(self.shape))
        # Take the blocks now: better no room before the work than after it.
        getattr(os, "posix_fallocate", lambda number, start, length: os.truncate(number, length))(file.fileno(), 0, end)
        start, size = file.tell(), int(np.prod(self.shape[1:]))

        def decode_from(first: int) -> int:
            portion = self.paths[first : first + PORTION]
            for row, path in enumerate(portion, first):
                pixels = np.ascontiguousarray(read(self.root / path, self.decoding))
                if os.pwrite(file.fileno(), pixels.data, start + row * size) < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(portion)

        pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without holding Python's lock
        shown = sys.stderr.isatty()
        try:
            with tqdm(desc="cache", total=count, unit=" images", disable=not shown, leave=False) as bar:
                for done in pool.map(decode_from, range(0, count, PORTION)):
                    bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
        os.fsync(file.fileno())
        taken, seconds = end / 1e6, time.monotonic() - began
        print(f"cache: {count} images decoded into {self.file} ({taken:.1f} MB, {seconds:.1f} s)")


def opened_cache(
    folder: str | Path, root: Path, paths: list[str], decoding: Decoding, budget_gb: float | None, build: bool
) -> Cache | None:
    """Open the cache of some images; None where there is none.

    Args:
        folder: Where caches lie.
        root: The folder that ``paths`` are relative to.
        paths: The images.
        decoding: How they are decoded.
        budget_gb: What all caches may take; None is half of the memory and of the disk, 0 keeps none.
        build: Whether to make it where it is not there yet.
    """
    if budget_gb == 0:
        return None
    cache = Cache(folder, root, paths, decoding)
    return cache if (cache.build(budget_gb) if build else cache.is_whole()) else None
