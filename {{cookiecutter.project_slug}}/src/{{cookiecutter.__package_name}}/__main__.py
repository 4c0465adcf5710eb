"""``python -m PACKAGE fit|validate|test|predict|preview|smote``: runs a command and turns its end into an exit code."""

import logging
import re
import signal
import sys
import warnings

# What is heavy is imported in main, so that --help answers at once.

HELP = f"""usage: python -m {__package__} COMMAND [FLAG ...]

  fit        train, into a folder runs/NAME/version_N; --resume auto goes on with a run that was killed
  validate   score a run's best checkpoint on the validation split
  test       score it on the test split, which nothing else reads
  predict    write the classes of new images: --data.predict_root FOLDER
  preview    write preview.png, a grid of augmented training images; takes the flags of fit
  smote      train the last layer of a run again, rare classes interpolated

COMMAND --help lists its flags. --config NAME lays a preset, a recipe or a file over the defaults."""

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
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from .mistakes import RunFailed, is_users_mistake

    quiet()
    try:
        if args[0] == "preview":
            from .tools.preview import main as preview

            preview(args[1:])
        elif args[0] == "smote":
            from .tools.smote import main as smote

            smote(args[1:])
        else:
            from .cli import CLI

            CLI(args)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SIGTERMException:
        return 128 + signal.SIGTERM
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
