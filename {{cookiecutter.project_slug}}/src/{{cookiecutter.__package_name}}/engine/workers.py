"""The processes that load batches: how many there is room for, and what is said where one is lost."""

import os
import re
import signal
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import Dataset

from .mistakes import RunFailed

SHARED = "/dev/shm"  # where torch lays what a worker hands over
AHEAD = 2  # batches that torch lets each worker load ahead
IN_HAND = 2  # batches of a loader that are in use
PAGE = 4096
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
            f"{needed / 1e6:.0f} MB for batches, so {fitting or 'none'} load{'s' * (fitting < 2)} them, which changes "
            f"the speed alone; docker run --shm-size {-(-2 * needed // 10**9)}g gives more"
        )
    return fitting


def _say_once(text: str) -> None:
    if text not in said:
        print(text, flush=True)
        said.add(text)


def lost(error: BaseException) -> RunFailed | None:
    """Word that a worker ended by itself; None for any other error."""
    found = re.match(r"DataLoader worker \(pid\S* [\d, ]+\) (.*)", str(error), re.DOTALL)
    if found is None or not isinstance(error, RuntimeError):
        return None
    by_signal = re.match(r"is killed by signal: ([^.]+)", found[1])
    by_code = re.search(r"exit code (\d+)", found[1])
    reason, remedy = "ended unexpectedly", "with --data.num_workers 0 its own words are seen"
    if by_signal and by_signal[1] == signal.strsignal(signal.SIGKILL):
        reason = "was killed, most often because the machine's memory ran out"
        remedy = "lower --data.num_workers or --data.batch_size, or give the machine more memory"
    elif by_signal:
        reason = f"was ended by a signal ({by_signal[1]})"
    elif by_code and int(by_code[1]) > 1:
        reason, remedy = f"could not hand over a batch ({os.strerror(int(by_code[1]))})", ROOM
    return RunFailed(f"a process that loads batches {reason}, so the run was stopped; {remedy}.")


ROOM = "lower --data.num_workers, or give more room (docker run --shm-size, ulimit -n)"
