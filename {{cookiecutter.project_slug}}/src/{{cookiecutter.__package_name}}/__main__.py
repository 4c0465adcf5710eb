"""``python -m PACKAGE fit|validate|test|predict|preview|smote``: runs a command and turns its end into an exit code."""

import logging
import re
import sys
import warnings

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from .cli import CLI
from .mistakes import RunFailed, is_users_mistake

NOISE = (  # what Lightning says that needs no answer here
    "does not have many workers",  # small images load faster without
    "smaller than the logging interval",  # means go on over epochs
    "overrides the configure_model",
    "recommended to use `self.log",  # metrics synchronise themselves
    "exists and is not empty",  # the run's folder, made for this run
    "No positive samples",  # a class may be missing from the sanity check's batches
    "isinstance(treespec",
    "litlogger",
    "to estimate number of stepping batches",
)

OUT_OF_MEMORY = (
    "The device's memory does not hold a batch of data.batch_size; lower it, or keep it and take it in parts "
    "(--trainer.accumulate_grad_batches 2), in half precision (--trainer.precision bf16-mixed), or compute activations "
    "twice (--model.network.checkpointing true, Backbone)."
)


def quiet() -> None:
    """Leave out what is no news."""
    for text in NOISE:
        warnings.filterwarnings("ignore", f"(?s).*{re.escape(text)}")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not any(text in record.getMessage() for text in NOISE))


def main(args: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    quiet()
    args = sys.argv[1:] if args is None else args
    try:
        if args[:1] == ["preview"]:
            from .tools.preview import main as preview

            preview(args[1:])
        elif args[:1] == ["smote"]:
            from .tools.smote import main as smote

            smote(args[1:])
        else:
            CLI(args)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"error: {str(error).splitlines()[0]} {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    except (ValueError, MisconfigurationException) as error:
        if not is_users_mistake(error):
            raise
        print(f"error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
