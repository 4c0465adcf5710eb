"""What a machine has too little of: room for the processes that load batches, memory, files, disk."""

import contextlib
import errno
import os
import re
import resource
import signal
import traceback
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import Dataset

from .mistakes import RunFailed

SHARED = "/dev/shm"  # where torch lays what a worker hands over
AHEAD = 2  # batches that torch lets each worker load ahead
IN_HAND = 2  # batches of a loader that are in use
PAGE = 4096
FILES = 24  # that a worker needs at most in the main process: four, and four for each tensor that is on its way
said: set[str] = set()


def bytes_of_sample(dataset: Dataset[Any]) -> int:
    """Return how many bytes a sample takes in a batch."""
    sizes: list[int] = []
    apply_to_collection(dataset[0], Tensor, lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)


def affordable(workers: int, batch_bytes: int, ranks: int) -> int:
    """Return how many workers have room for their batches in shared memory; says where they are fewer than asked for.

    Args:
        workers: Those that are asked for.
        batch_bytes: What a batch takes, or one of each loader that works at the same time.
        ranks: Processes on this machine that each have as many.
    """
    files = _files_to_open(workers * FILES)
    if workers * FILES > files:
        fewer = files // FILES
        _say_once(
            f"note: this process may open {files} more files and {workers} worker{'s' * (workers > 1)} would need "
            f"{workers * FILES}, so {_that_load(fewer)}; ulimit -n {1024 + workers * FILES} gives more"
        )
        workers = fewer
    try:
        found = os.statvfs(SHARED)
    except OSError:  # not Linux
        return workers
    free, batch = found.f_bavail * found.f_frsize, (batch_bytes + 4 * PAGE) * ranks
    fitting = min(workers, max(0, (free // batch - IN_HAND) // AHEAD))
    if fitting < workers:
        needed = batch * (workers * AHEAD + IN_HAND)
        _say_once(
            f"note: {SHARED} has {free / 1e6:.0f} MB free and {workers} worker{'s' * (workers > 1)} would need "
            f"{needed / 1e6:.0f} MB for batches, so {_that_load(fitting)}; "
            f"docker run --shm-size {-(-2 * needed // 10**9)}g gives more"
        )
    return fitting


def _that_load(workers: int) -> str:
    return f"{workers or 'none'} load{'s' * (workers < 2)} them, which changes the speed alone"


def _files_to_open(needed: int) -> int:
    """Return how many files this process may still open; raises its limit where that is too low and may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = 2**20
    soft, hard = (unlimited if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    taken = len(os.listdir("/dev/fd")) + 16  # those, and some for what else a step opens
    if taken + needed > soft:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, taken + needed), hard))
            soft = min(hard, taken + needed)
    return max(0, soft - taken)


def _say_once(text: str) -> None:
    if text not in said:
        print(text, flush=True)
        said.add(text)


def _is_of_a_worker(error: BaseException) -> bool:
    """Tell whether torch says that a worker ended, or met its end while it took a batch from it."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError | EOFError) and any(frame.name == "_try_get_data" for frame in frames)


def lost(error: BaseException) -> RunFailed | None:
    """Word that a worker ended by itself; None for any other error."""
    if not _is_of_a_worker(error):
        return None
    text = f"{error.__cause__} {error}"  # the first knows the signal
    by_signal = re.search(r"is killed by signal: ([^.]+)", text)
    by_code = re.search(r"exit code (\d+)", text)
    reason = "was lost, most often because the machine's memory ran out"
    remedy = "lower --data.num_workers or --data.batch_size; with --data.num_workers 0 its own words are seen"
    if by_signal and by_signal[1] != signal.strsignal(signal.SIGKILL):
        reason = f"was ended by a signal ({by_signal[1]})"
    elif by_code and int(by_code[1]) > 1:
        reason, remedy = f"could not hand over a batch ({os.strerror(int(by_code[1]))})", ROOM
    return RunFailed(f"a process that loads batches {reason}, so the run was stopped; {remedy}.")


def shortage(error: BaseException) -> RunFailed | None:
    """Word that the machine lacks something; None for an error of any other kind."""
    if failed := lost(error):
        return failed
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)):
        return RunFailed(
            f"the machine's memory does not hold what was asked for ({' '.join(str(error).split())[:200]}), so the run "
            "was stopped; lower --data.batch_size or --data.num_workers, or give the machine more memory."
        )
    if isinstance(error, OSError) and error.errno in SCARCE:
        place = f": {error.filename}" if error.filename else ""
        return RunFailed(f"{error.strerror}{place}, so the run was stopped; {SCARCE[error.errno]}.")
    return None


MAKE_ROOM = "make room, and start it again"
SCARCE = {
    errno.EMFILE: "allow more open files (ulimit -n 4096)",
    errno.ENFILE: "allow the machine more open files, or end other programs",
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EIO: "look after the disk, and start it again",
    errno.ESTALE: "see that the network's file system is there, and start it again",
    errno.EROFS: "give a folder that can be written",
}
ROOM = "lower --data.num_workers, or give more room (docker run --shm-size, ulimit -n)"
