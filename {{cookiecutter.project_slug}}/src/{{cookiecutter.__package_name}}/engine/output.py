"""What a command says, and where it goes: an output that is closed or full loses words and ends nothing.

The standard library alone: ``__main__`` calls this before anything heavy is imported.
"""

import contextlib
import io
import os
import sys


class Lossy(io.FileIO):
    """An output that nobody may read any more (``fit | head``) or that is full: from then on it goes nowhere."""

    def write(self, data: object, /) -> int | None:
        try:
            return super().write(data)  # pyright: ignore[reportArgumentType]
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for other processes that inherit it, too
            os.close(nowhere)
            return memoryview(data).nbytes  # pyright: ignore[reportArgumentType]


def outlive_output() -> None:
    """Let this process go on where its output is closed or full, or cannot spell a name."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get its number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and not _writes_to(stream, number):
            continue  # a test's, or a notebook's
        is_unbuffered = stream is not None and isinstance(stream.buffer, io.FileIO)
        lossy = Lossy(number, "wb", closefd=False)
        made = io.TextIOWrapper(
            lossy if is_unbuffered else io.BufferedWriter(lossy),  # pyright: ignore[reportArgumentType]
            stream.encoding if stream is not None else "utf-8",
            "backslashreplace",
            line_buffering=stream is None or stream.line_buffering,
            write_through=is_unbuffered,
        )
        setattr(sys, name, made)


def _writes_to(stream: object, number: int) -> bool:
    """Tell whether a stream is one that Python made of a descriptor."""
    if not isinstance(stream, io.TextIOWrapper):
        return False
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO) or raw.fileno() != number:
        return False
    with contextlib.suppress(OSError):
        stream.flush()
    return True


def begin_in_utf8() -> None:
    """Start Python again with UTF-8 where it was started without: names of files and classes are in it."""
    is_asked = sys.flags.utf8_mode or sys.flags.ignore_environment
    if sys.getfilesystemencoding().casefold() != "utf-8" and not is_asked:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
