"""What a data loader yields, and what its workers run beside a data set.

Where Python does not fork (macOS, and Linux since Python 3.14) a worker imports what it is handed. This file and
images.py import no Lightning, which would take each worker ten seconds. Lambdas and open files cannot be handed over.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from .mistakes import RunFailed
from .signals import leave_to_the_main_process
from .workers import ROOM


class Batch(NamedTuple):
    """What a data loader yields: the inputs, the targets, and the position of each sample in its split.

    ``weight`` is the weight of each sample in the loss and the scores, None where all count the same.

    ``errors`` says of each sample why it could not be read, nothing where it could; it is empty where all could. Only
    what ``predict`` reads may have some: whatever else cannot be read ends the command.
    """

    x: Tensor
    y: Tensor
    position: Tensor
    errors: Sequence[str] = ()
    weight: Tensor | None = None


def collate(batch: Any) -> Any:
    """Collate the samples of a data set that does not fetch whole batches; a worker lays them into shared memory.

    Raises:
        RunFailed: There is no room for them. (torch would lose a batch that finds none on its way, and wait for ever.)
    """
    if get_worker_info() is None:
        return _collated(batch)
    try:
        batch = _collated(batch)
        for part in batch if isinstance(batch, Batch) else ():
            if isinstance(part, Tensor):
                part.share_memory_()
    except RuntimeError as error:
        if "shared memory" not in str(error) and "open files" not in str(error):
            raise
        raise RunFailed(
            f"a batch found no room in shared memory ({str(error).rpartition('>: ')[2]}), so the run was stopped; "
            f"{ROOM}."
        ) from error
    return batch


def _collated(batch: Any) -> Any:
    if isinstance(batch, Batch):
        return batch
    if not isinstance(batch[0], Batch):
        return default_collate(batch)
    x, y, position = (default_collate([getattr(sample, name) for sample in batch]) for name in ("x", "y", "position"))
    errors = [sample.errors[0] if sample.errors else "" for sample in batch]
    weights = [sample.weight for sample in batch]
    weight = None if weights[0] is None else default_collate(weights)
    return Batch(x, y, position, errors if any(errors) else (), weight)


def set_up_worker(worker: int) -> None:
    """Keep OpenCV's threads from fighting a loader's workers, and signals from ending one that is still needed."""
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    if get_worker_info() is None:
        return
    leave_to_the_main_process()
    if "lightning" in sys.modules:  # forked: to import it would take ten seconds
        from .internals import end_where_handing_over_fails

        end_where_handing_over_fails()
