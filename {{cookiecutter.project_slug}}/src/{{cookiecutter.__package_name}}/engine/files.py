"""Files of a run: written whole or not at all, and never through a link.

What is gone is told from what cannot be read.
"""

import contextlib
import csv
import errno
import fcntl
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .mistakes import Mistake, RunFailed

LARGEST = 2**30  # bytes of a file that is read whole: the manifest of some 20 million images


def is_gone(error: BaseException | None) -> bool:
    """Tell whether an error says that a file is not there, and not that it cannot be read."""
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def check_path(flag: str, path: str | Path | None) -> None:
    """Refuse a path that is no UTF-8.

    Args:
        flag: The flag that named it.
        path: What it named.

    Raises:
        Mistake: It is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise Mistake(
            f"{flag}={str(path)!a} is no UTF-8, so it could not be written into any configuration; rename "
            "the folder, or give a link to it."
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word that a file of a run is not as it was written.

    Raises:
        Mistake: It is not.
    """
    try:
        yield
    except Mistake:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise Mistake(
            f"{path} cannot be read ({str(error)[:200]}), so what it says of the run is not known; bring it back, or "
            "move it away."
        ) from error


def plain_file(path: str | Path, most: int = LARGEST) -> BinaryIO:
    """Open a file to read it, without waiting for the other end of a pipe.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is a pipe, a device or a folder, or larger than ``most`` bytes: it would fill the memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= most:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ValueError(f"it is larger than {most:,} bytes" if stat.S_ISREG(found.st_mode) else "it is no plain file")


def read_text(path: str | Path, most: int = LARGEST, errors: str = "strict") -> str:
    """Read a whole file of a run as text; raises what ``plain_file`` does."""
    with plain_file(path, most) as file:
        return file.read(most).decode("utf-8", errors)


def plain_table(path: str | Path) -> io.TextIOWrapper:
    """Open a CSV file to read it; raises what ``plain_file`` does."""
    return io.TextIOWrapper(plain_file(path), encoding="utf-8", newline="")


def made_anew(path: Path) -> BinaryIO:
    """Open a file in place of what has its name; where that is a link, what it leads to stays as it is."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")


def opened(path: Path, flags: int) -> int:
    """Open a file that goes on, such as one of rows that are appended; returns its descriptor.

    Raises:
        Mistake: It is a link, a pipe or a device: what is written would go elsewhere.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    else:
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise Mistake(f"{path} is no plain file, so what is written there would go elsewhere; remove it.")


def locked(file: int, path: Path, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed or its process ends; workers do not inherit that.

    Where the file system has no locks, as some network's, it goes on without, and says so.

    Args:
        file: Its descriptor.
        path: The file.
        wait: Whether to wait for whoever holds it.

    Returns:
        Whether it is held now, and not by another process; None where there are no locks.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if path.parent not in WITHOUT_LOCKS:
            WITHOUT_LOCKS.add(path.parent)
            print(
                f"note: there are no locks in {path.parent} ({error.strerror}), so it goes on without; see that no "
                "two processes work there at one time",
                flush=True,
            )
        return None
    return True


WITHOUT_LOCKS: set[Path] = set()  # folders of which that was said


def append(path: Path, text: str) -> None:
    """Write at the end of a file, all of it or nothing.

    Raises:
        RunFailed: There is no room.
    """
    file = opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    size, rest = os.fstat(file).st_size, memoryview(text.encode())
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError as error:
        os.ftruncate(file, size)
        raise RunFailed(
            f"{path} could not be written ({error.strerror}), so the run was stopped; make room, and go on with "
            "--resume auto."
        ) from error
    finally:
        os.close(file)


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if path.is_dir() and not path.is_symlink():
        raise Mistake(f"{path} is a folder, so the file cannot be written; move it away.")
    try:
        with made_anew(unfinished) as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    except BaseException:  # a signal, too
        unfinished.unlink(missing_ok=True)
        raise


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV."""
    write(path, csv_text(rows))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
