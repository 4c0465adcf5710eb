"""The command line: LightningCLI with the run's folder, packaged configs, and errors in one line."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.profilers import PassThroughProfiler

from . import checkpoints, loggers, resume, runs
from .callbacks import BestCheckpoint, Callbacks, PredictionWriter
from .data import ImageData
from .fast import Fast, NoProfiler
from .mistakes import unknown
from .model import Classifier

CONFIGS = Path(__file__).parent / "configs"
# Every config starts from these, each over the one before; `--config NAME` lays another over them.
DEFAULTS = [CONFIGS / "presets" / "standard.yaml", CONFIGS / "base.yaml", CONFIGS / "logger.yaml"]


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, exit code 2, and that does not guess at shortened flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        if match := re.search(r"unrecognized arguments: (\S+)", text, re.IGNORECASE):
            flag = match.group(1).split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=3)
            text = f"{flag} is not a flag, so it would have no effect; "
            text += f"did you mean {', '.join(near)}?" if near else "--help lists all."
        fail(text)


class Options(argparse.ArgumentParser):
    """The flags of a tool's own; what it does not know is left to the CLI.

    Args:
        module: The tool's ``__name__``.
        description: Its docstring, for ``--help``.
    """

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            f"python -m {__package__} {module.rpartition('.')[2].replace('_', '-')}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(message: str) -> NoReturn:
    """End the command as a user's mistake."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def packaged() -> dict[str, Path]:
    """Return the presets and recipes that ``--config NAME`` knows."""
    return {path.stem: path for folder in ("presets", "recipes") for path in sorted((CONFIGS / folder).glob("*.yaml"))}


def named_configs(args: list[str]) -> list[str]:
    """Replace the NAME of every ``--config NAME`` by its file.

    Raises:
        ValueError: There is neither such a file nor such a name.
    """
    joined = []
    for position, arg in enumerate(args):
        flag, sign, value = arg.partition("=")
        if flag in ("--config", "-c") and sign:
            joined.append(f"{flag}={_config(value)}")
        elif position and args[position - 1] in ("--config", "-c"):
            joined.append(str(_config(arg)))
        else:
            joined.append(arg)
    return joined


def _config(name: str) -> Path:
    known = packaged()
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise ValueError(unknown("config", name, [*known, "a file"]))


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` of a run that lives in one folder.

    ``fit`` numbers a new folder; with ``--resume auto`` it goes on in that of the newest run that did not end. The
    others start from the config and the manifest of an earlier run: that of ``--ckpt_path FILE``, or the newest of
    ``--name`` for ``best`` (the default) and ``last``.

    Args:
        args: The command and its flags.
        run: Whether ``args`` begins with a command; else the parts are made and nothing is run.
        callbacks: Callbacks of a tool, beside those of the config.
    """

    def __init__(self, args: list[str], run: bool = True, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        self.run_folder: Path | None = None
        self.source: Path | None = None  # the run that a command starts from, and its checkpoint
        self.checkpoint: Any = None
        self.resumed_step: int | None = None  # None unless that run goes on in its own folder
        self.lock: resume.Lock | None = None
        self.manifest_given = any(arg.split("=")[0] == "--data.manifest" for arg in args)
        args = named_configs(args)
        missing = [str(path) for path in DEFAULTS if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is missing, so the defaults are unknown; install the package again.")
        files = [str(path) for path in DEFAULTS]
        options: Any = {}
        if {"-h", "--help"} & set(args):
            options = {"default_config_files": files}  # for the defaults that --help shows
        else:
            # As flags, because jsonargparse 4.53 loses a class path in a default config file that the signature has
            # too.
            files = (self._find_source(args) if run else None) or files
            args = [*args[:run], *(f"--config={file}" for file in files), *args[run:]]
        try:
            super().__init__(
                Classifier,
                ImageData,
                save_config_callback=None,  # RunFiles writes it
                seed_everything_default=0,
                parser_class=Parser,
                parser_kwargs=dict.fromkeys(self.subcommands(), options) if run else options,
                auto_configure_optimizers=False,
                args=args,
                run=run,
            )
        except Exception as error:
            trained = hasattr(self, "trainer") and self.trainer.global_step > 0
            if self.lock and self.run_folder and self.run_folder != self.source and not trained:
                runs.discard(self.run_folder)
            if isinstance(error, ValueError) and not hasattr(self, "trainer"):
                raise ValueError(f"{error}") from error  # whoever found it, a flag is the cause
            raise
        finally:
            if self.lock is not None:
                self.lock.release()

    def _find_source(self, args: list[str]) -> list[str] | None:
        """Find the run that a command starts from; its config then takes the place of the project's defaults."""
        given = _peek([f"--config={CONFIGS / 'base.yaml'}", *args], name="default", run_root="runs")
        command, choice = args[0] if args else "", given.get("ckpt_path")
        if choice is None and command in ("validate", "test", "predict"):
            choice = "best"
        if command == "fit" and (resume.implied() or (given.get("resume") == "auto" and choice is None)):
            self._find_unfinished(Path(given["run_root"]), given["name"])
        if self.source is None:
            if choice is None:
                return None
            if choice in ("best", "last"):
                self.source = runs.latest(Path(given["run_root"]), given["name"], f"checkpoints/{choice}.ckpt")
                self.checkpoint = self.source / "checkpoints" / f"{choice}.ckpt"
            else:
                self.checkpoint, self.source = Path(choice), Path(choice).parent.parent
            checkpoints.read(self.checkpoint if self.checkpoint.is_file() else choice, to_go_on=command == "fit")
        config = self.source / "config.yaml"
        if not config.is_file():
            raise ValueError(
                f"ckpt_path={str(self.checkpoint)!r} lies in no run's folder (no {config}), so its data and splits are "
                "unknown; keep checkpoints in the folder of their run."
            )
        checkpoints.check_class_paths(resume.read_config(config), str(config))
        if runs.is_rank_zero():
            print(f"{command}: {self.checkpoint} with the config and splits of {self.source}")
            overrides = [arg for arg in args[1:] if arg.startswith("--") and not arg.startswith("--ckpt_path")]
            if overrides and command != "fit":  # fit compares the configs
                print(f"changed by flags: {' '.join(args[1:])}")
        return [str(config)]

    def _find_unfinished(self, root: Path, name: str) -> None:
        """Choose the run and checkpoint to resume from: rank zero's choice where Lightning started this rank."""
        launched_by_lightning = not runs.is_rank_zero() and "TORCHELASTIC_RUN_ID" not in os.environ
        if not (launched_by_lightning and "RUN_RESUMED" in os.environ):
            os.environ["RUN_RESUMED"] = "\n".join(map(str, resume.find(root, name) or ()))
        if os.environ["RUN_RESUMED"]:
            run, checkpoint, step = os.environ["RUN_RESUMED"].split("\n")
            self.source, self.checkpoint, self.resumed_step = Path(run), Path(checkpoint), int(step)
        elif runs.is_rank_zero():
            print(f"resume: no unfinished run in {root / name} has a checkpoint, so a fresh one begins")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="default", help="The run's name: a folder below run_root.")
        parser.add_argument("--run_root", type=str, default="runs", help="Where runs are kept.")
        parser.add_argument(
            "--monitor", type=str, default="val/loss", help="The metric of best checkpoint, early stopping and plateau."
        )
        parser.add_argument(
            "--mode", type=str | None, default=None, help="min or max; null: min for losses and errors, max otherwise."
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto"] | None,
            default=None,
            help="auto: fit goes on with the newest run of this name that did not end, if there is one.",
        )
        parser.add_argument(
            "--report",
            type=bool,
            default=True,
            help="Whether fit on one device ends with the page of the command report, where its extra is installed.",
        )
        parser.add_argument(
            "--fast",
            type=bool,
            default=False,
            help="Measure which precision, memory layout and compilation train fastest here, and take them.",
        )
        parser.add_class_arguments(Callbacks, "callbacks")
        parser.link_arguments("monitor", "model.monitor")
        for callback in ("best", "early_stopping", "check_metric"):
            parser.link_arguments("monitor", f"callbacks.{callback}.init_args.monitor")
        for target in ("callbacks.best.init_args.mode", "callbacks.early_stopping.init_args.mode"):
            parser.link_arguments(("monitor", "mode"), target, direction)
        parser.link_arguments(("monitor", "mode"), "model.mode", direction)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the model's flags alone: Lightning would let the checkpoint's values override them in silence."""

    def before_instantiate_classes(self) -> None:
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        as_given = config.clone()
        as_given.resume = as_given.ckpt_path = None  # fit --config config.yaml repeats the run from its start
        if self.source is not None:
            config.ckpt_path, own = str(self.checkpoint), self.source / "manifest.json"
            if not self.manifest_given:
                config.data.manifest = str(own)
            elif self.subcommand == "fit" and Path(config.data.manifest).read_bytes() != own.read_bytes():
                raise ValueError(
                    f"data.manifest={config.data.manifest!r} has other splits than the run, so test images would be "
                    "trained on; leave it out, or start a new run from these weights: --model.weights CHECKPOINT."
                )
        parser = self._parser(self.subcommand)
        if self.subcommand != "fit":
            self.run_folder = self.source
        elif config.trainer.fast_dev_run:
            if self.source is not None:
                raise ValueError("trainer.fast_dev_run keeps nothing, so no run can go on with it; leave out one.")
            config.data.cache_gb = 0
        else:
            plain = yaml.safe_load(parser.dump(config, skip_none=False, skip_check=True))
            checkpoints.check_class_paths(plain, "the config")
            if self.source is not None:
                changes = resume.check_changes(self.source / "config.yaml", plain)
                if changes and runs.is_rank_zero():
                    print(f"resume: changed since the run began: {', '.join(changes)}")
            goes_on = self.resumed_step is not None
            self.run_folder = self.source if goes_on else self._new_run(Path(config.run_root), config.name)
            if runs.is_rank_zero():
                self.lock = resume.Lock(self.run_folder)  # pyright: ignore
        folder = self.run_folder
        if folder is None or self.subcommand not in ("fit", "test"):
            config.trainer.logger = False
        if config.callbacks.progress_bar is None:
            config.trainer.enable_progress_bar = False  # Lightning would add its own
        if config.trainer.enable_checkpointing is False:
            config.callbacks.best = config.callbacks.last = None
        if config.callbacks.best is None and config.callbacks.last is None:
            config.trainer.enable_checkpointing = False
        if config.trainer.logger is False:
            config.callbacks.lr_monitor = None  # it has nowhere to write
        if folder is None:
            return
        config.trainer.default_root_dir = str(folder)
        for checkpoint in (config.callbacks.best, config.callbacks.last):
            if checkpoint is not None:
                checkpoint.init_args.dirpath = checkpoint.init_args.dirpath or str(folder / "checkpoints")
        if self.resumed_step is not None and runs.is_rank_zero():
            loggers.forget(folder, self.resumed_step)
        name = f"{config.name}/{folder.name}"
        config.trainer.logger = loggers.make(_plain(config.trainer.logger), folder, name, self.resumed_step)
        checkpoint = str(config.ckpt_path or "")
        self.files = runs.RunFiles(folder, as_given, lambda config: parser.dump(config, skip_none=False), checkpoint)

    @staticmethod
    def _new_run(root: Path, name: str) -> Path:
        # Only rank zero numbers a run; ranks that Lightning launches find the folder in the environment, those of
        # torchrun get what they need from rank zero through Lightning's broadcasts.
        if runs.is_rank_zero():
            folder = runs.new(root, name)
            os.environ["RUN_FOLDER"] = str(folder)
            return folder
        return Path(os.environ.get("RUN_FOLDER", root / name / "of_rank_zero"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        extra = [*self._get(self.config_init, "callbacks").items, *self.callbacks]
        if self.subcommand == "fit" and self.run_folder is not None:
            if self._get(self.config, "fast") and self.source is None:
                extra.append(Fast(self.files.config))
            extra += [self.files, runs.Timing(self.files.folder)]
        if self.subcommand in ("test", "predict") and self.run_folder is not None:
            extra.append(PredictionWriter(self.run_folder))
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        trainer: Any = self._instantiate_trainer(trainer_config, extra)
        if type(trainer.profiler) is PassThroughProfiler:
            trainer.profiler = NoProfiler()
        return trainer

    def before_fit(self) -> None:
        """Find a user's mistakes in the data before other ranks start and anything is trained."""
        if self.source is not None:
            self.model.resumed = {"from": str(self.checkpoint)}  # so that it does not load its first weights
        if self.trainer.global_rank == 0:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")

    def after_fit(self) -> None:
        """Say what came out and what to do next."""
        if self.run_folder is None or self.lock is None:
            return
        remaining = [timer.time_remaining() for timer in self.trainer.callbacks if isinstance(timer, Timer)]  # pyright: ignore
        out_of_time = any(seconds is not None and seconds <= 0 for seconds in remaining)
        if not out_of_time:
            self.lock.run_ended()
        print()
        best = next((c for c in self.trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        if best is not None and best.best_model_score is not None:
            path = os.path.relpath(best.best_model_path)
            print(f"best {best.monitor}: {best.best_model_score:.4f}")
            print(f"checkpoint:    {path}")
            print(f"run folder:    {self.run_folder}")
            print(f"next:          python -m {__package__} test --ckpt_path {path}")
        else:
            print(f"run folder:    {self.run_folder}")


def direction(monitor: str, mode: str | None) -> str:
    """Return whether a metric should fall ("min") or rise ("max"), as its name says unless ``mode`` does."""
    return mode or ("min" if re.search(r"loss|error", monitor) else "max")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list) else getattr(value, "as_dict", lambda: value)()


def _peek(args: list[str], **defaults: str) -> dict[str, Any]:
    """Read the plain flags and configs before the parser exists, which needs to know the config they lead to."""
    values: dict[str, Any] = dict(defaults)
    for position, arg in enumerate(args):
        flag, sign, value = arg.removeprefix("--").partition("=")
        value = value if sign else next(iter(args[position + 1 :]), None)
        if arg.startswith("--config") or arg == "-c":
            content = resume.read_config(Path(value or ""))
            values |= {key: str(item) for key, item in content.items() if isinstance(item, str | int)}
        elif arg.startswith("--"):
            values[flag] = value
    return values
