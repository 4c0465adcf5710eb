"""``python -m PACKAGE COMMAND``: runs a command of Lightning's or a tool, and turns its end into an exit code."""

import importlib
import importlib.util
import logging
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

# What is heavy is imported in main, so that --help answers at once.

HELP = """usage: python -m {package} COMMAND [FLAG ...]

  fit        train, into a folder runs/NAME/version_N; --resume auto goes on with a run that was killed
  validate   score a run's best checkpoint on the validation split
  test       score it on the test split, which nothing else reads
  predict    write the classes of new images: --data.predict_root FOLDER
{tools}
COMMAND --help lists its flags. --config NAME lays a preset, a recipe or a file over the defaults."""

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
    "to estimate number of stepping batches",
)

OUT_OF_MEMORY = (
    "The device's memory does not hold a batch of data.batch_size; lower it, or keep it and take it in parts "
    "(--trainer.accumulate_grad_batches 2), in half precision (--trainer.precision bf16-mixed), or compute activations "
    "twice (--model.network.checkpointing true, Backbone)."
)


def tools() -> dict[str, str]:
    """Return the commands of ``tools/`` and what each does: the first line of its file."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("tools/[a-z]*.py")):
        with path.open(encoding="utf-8") as file:
            found[path.stem.replace("_", "-")] = file.readline().strip('".\n').partition(": ")[2]
    return found


def quiet() -> None:
    """Leave out what is no news."""
    for text in NOISE:
        warnings.filterwarnings("ignore", f"(?s).*{re.escape(text)}")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not any(text in record.getMessage() for text in NOISE))


def report(cli: Any) -> None:
    """Write the page of a run that has ended, or say how; whatever goes wrong with it, the run is a success."""
    if not cli.config.fit.report or "report" not in tools() or cli.lock is None or cli.lock.path.exists():
        return
    command = f"python -m {__package__} report {cli.run_folder}"
    absent = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if absent or cli.trainer.world_size > 1:  # the other ranks would wait for this one
        needs = f" (needs {' and '.join(absent)}: pip install -e '.[report]')" if absent else ""
        print(f"report:        {command}{needs}")
        return
    try:
        importlib.import_module(".tools.report", __package__).main([str(cli.run_folder)])
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        reason = " ".join(f"{error!r}".split())[:200]
        print(f"report:        not written, {reason}; the run is whole, and this says more: {command}")


def main(args: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        listed = "".join(f"  {name:<10} {what}\n" for name, what in tools().items())
        print(HELP.format(package=__package__, tools=listed))
        return 0
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from .mistakes import RunFailed, is_users_mistake

    quiet()
    try:
        if args[0] in tools():
            importlib.import_module(f".tools.{args[0].replace('-', '_')}", __package__).main(args[1:])
        else:
            from .cli import CLI

            cli = CLI(args)
            if args[0] == "fit":
                report(cli)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SIGTERMException:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
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
