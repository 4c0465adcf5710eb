"""How a command ends: its exit code, what is said of an error, and what Lightning says that is no news."""

import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from .mistakes import Mistake, RunFailed, said_by, shown
from .workers import shortage

NOISE = (  # what Lightning says that needs no answer here
    "does not have many workers",  # small images load faster without
    "smaller than the logging interval",  # means go on over epochs
    "overrides the configure_model",
    "recommended to use `self.log",  # metrics synchronise themselves
    "exists and is not empty",  # the run's folder, made for this run
    "No negative samples",  # of two classes, likewise
    "No positive samples",  # a class may be missing from the sanity check's batches
    "isinstance(treespec",
    "litlogger",
    "loading a checkpoint outside the 'fit' stage",  # it holds the averaged weights
    "to estimate number of stepping batches",
    "functional.all_gather is deprecated",  # Lightning's own
    "ended before the epoch ended and your dataloader is not resumable",  # the sampler finds its place
    "The WeightAveraging state cannot be restored",  # the checkpoint has the averaged weights in place of the others
)

OUT_OF_MEMORY = (
    "The device's memory does not hold a batch of --data.batch_size; lower it, or keep it and take it in parts "
    "(--trainer.accumulate_grad_batches 2), in half precision (--trainer.precision bf16-mixed), or compute activations "
    "twice (--model.network.checkpointing true, Backbone and Timm)."
)


def quiet() -> None:
    """Leave out what is no news."""
    for text in NOISE:
        warnings.filterwarnings("ignore", f"(?s).*{re.escape(text)}")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not any(text in record.getMessage() for text in NOISE))


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; returns 0, 1 for a run that failed, or 2 for a mistake in what was asked for.

    Any other error is a fault in code and passes with its traceback: Python then ends with 1.
    """
    try:
        command()
    except RunFailed as error:
        return _said(error, 1)
    except torch.OutOfMemoryError as error:
        print(f"error: {str(error).splitlines()[0]} {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    except Exception as error:
        if failed := shortage(error):
            return _said(failed, 1)
        if not is_refusal(error):
            raise
        return _said(error, 2)
    return 0


def _said(error: Exception, code: int) -> int:
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # of a loader's worker
        text = text.splitlines()[-1]
    text = re.sub(r"^[\w.]+(Mistake|RunFailed): ", "", " ".join(text.split()))
    print(f"error: {shown(text)}", file=sys.stderr)
    return code


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error is about what was asked for, and no fault in code: ours, or Lightning's word on flags."""
    if isinstance(error, Mistake):
        return True
    of_lightning = isinstance(error, MisconfigurationException) or (
        isinstance(error, TypeError | ValueError) and said_by(error, "lightning")
    )
    return of_lightning and not raised_by_user(error)


def raised_by_user(error: BaseException) -> bool:
    """Tell whether an error of Lightning's came out of a file that the project's owner edits, as a fault in it does."""
    engine = Path(__file__).parent
    project, machinery = engine.parent, (engine, engine.parent / "tools")
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return any(
        file.is_relative_to(project)
        and not any(file.is_relative_to(folder) for folder in machinery)
        and file.name not in ("__main__.py", "cli.py")
        for file in files
    )
