"""The command line: LightningCLI with the run's folder, packaged configs, and errors in one line."""

import argparse
import contextlib
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import yaml
from jsonargparse import add_instantiator
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.profilers import PassThroughProfiler

from . import PACKAGE, checkpoints, guard, loggers, ranks, remote, resume, runs, signals
from .calibrating import Calibrates, Kept, find, needed
from .calibration import OfNumbers, check_level
from .configs import (
    CONFIGS,
    DEFAULTS,
    as_typed,
    defaults_of,
    flat,
    named_configs,
    read_config,
    typed_settings,
    with_home,
)
from .endings import is_refusal
from .fast import Fast, NoProfiler
from .internals import classes_start_afresh, is_compilers_failure, leave_signals_alone
from .keepers import BestCheckpoint, LastCheckpoint
from .launches import filled_in, launches_of, note_launch, this_launch
from .loading import SplitData
from .metrics import MONITOR, direction
from .mistakes import Mistake, not_compiled, said_by, shown
from .parser import Maker, Parser, fail
from .predictions import PredictionWriter
from .preemption import StopOnSignal
from .resume import Source
from .runs import Run
from .splits import Manifest
from .steps import is_out_of_time
from .together import is_rank_zero
from .workers import shortage


class Addressed(argparse.ArgumentParser):
    """Reads which run a command is about: the parser proper needs that run's config before it can read anything."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--config", "-c", action=_Layer)
        self.add_argument("--name", default="default")
        self.add_argument("--run_root", default="runs")
        self.add_argument("--ckpt_path")
        self.add_argument("--resume")
        self.add_argument("--data.manifest", dest="manifest")

    def read(self, args: list[str]) -> argparse.Namespace:
        """Return the values of flags and configs, the later over the earlier."""
        found = self.parse_known_args([f"--config={CONFIGS / 'base.yaml'}", *args])[0]
        found.name = filled_in(found.name)
        return found

    def error(self, message: str) -> NoReturn:
        fail(message)


def _shown_defaults() -> dict[str, Any]:
    """Return what ``--help`` shows as this project's defaults: of the configs what is no class with arguments."""
    shown: dict[str, Any] = {}
    for path in DEFAULTS:
        settings = flat(read_config(path))
        shown |= {key: value for key, value in settings if not re.search(r"\.(class_path|init_args)\b", key)}
    return shown


class _Layer(argparse.Action):
    """Lays the plain values of a config file over those of before."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        content = read_config(Path(values))
        content["manifest"] = (content.get("data") or {}).get("manifest")
        vars(namespace).update({key: str(item) for key, item in content.items() if isinstance(item, str | int)})


class Commands(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` of a run that lives in one folder.

    ``fit`` numbers a new folder; with ``--resume auto`` it goes on in that of the newest run that did not end. The
    others start from the config and the manifest of an earlier run: that of ``--ckpt_path FILE``, or the newest of
    ``--name`` for ``best`` (the default) and ``last``.

    A subclass names the parts (cli.py).

    Args:
        args: The command and its flags.
        run: Whether ``args`` begins with a command; else the parts are made and nothing is run.
        callbacks: Callbacks of a tool, beside those of the config.
    """

    tasks: ClassVar[Mapping[str, type[LightningModule]]]  # by what --data.task calls it
    data_module: ClassVar[type[SplitData]]
    callback_options: ClassVar[type]
    trusted: ClassVar[tuple[str, ...]] = ()  # packages, beside those of guard.TRUSTED

    def __init_subclass__(cls) -> None:
        guard.trust(cls.trusted)

    def __init__(self, args: list[str], run: bool = True, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        self.command = args[0] if run and args else ""
        self.source: Source | None = None  # what the command starts from
        self.run: Run | None = None  # where its files go
        self.lock: resume.Lock | None = None
        Parser.files.clear()
        args = named_configs([with_home(arg) for arg in args])
        missing = [str(path) for path in DEFAULTS if not path.is_file()]
        if missing:
            raise Mistake(f"{missing[0]} is missing, so the defaults are unknown; install the package again.")
        self.helps = bool({"-h", "--help"} & set(args))
        self.typed = typed_settings(args)  # the user's word
        trusted = guard.trusted_with(guard.names_in(self.typed))
        if not self.helps:
            self.asked = Addressed().read(args)
            with guard.open_to(trusted):
                self.source = self._find_source(args) if run else None
        task = self._task_of(self.source.run) if self.source else self._task_asked_for()
        files = [self.source.run.config] if self.source else defaults_of(task)
        if not self.helps:
            args = ranks.with_class_of_strategy(args, self._settings(files))
            # As flags, because jsonargparse 4.53 loses a class path in a default config file that the signature has.
            args = [*args[:run], *(f"--config={file}" for file in files), *args[run:]]
        packages = trusted if self.source else None  # a run's folder may be anybody's
        try:
            with guard.open_to(packages):
                super().__init__(
                    self._model_for(task),
                    self.data_module,
                    save_config_callback=None,  # RunFiles writes it
                    seed_everything_default=0,
                    parser_class=Parser,
                    auto_configure_optimizers=False,
                    args=args,
                    run=run,
                )
        except signals.Stopped as stop:
            self._leave(stop)
            # All ranks know of a stop that was noted, and the one that launched this may still put what it saved away.
            ranks.end_after_parent(*([] if signals.was_raised() else [ranks.TIMEOUT.total_seconds()]))
            raise
        except Exception as error:
            refusal = not_compiled(error) if is_compilers_failure(error) and self.model.hparams.compile else None
            refusal = refusal or shortage(error) or ranks.lost(error, getattr(self, "trainer", None))
            self._leave(refusal or error)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            if self.lock is not None:
                self.lock.release()

    def _settings(self, files: list[Path]) -> dict[str, Any]:
        """Return what configs and the command line over them set, by dotted names."""
        return {key: value for file in files for key, value in flat(read_config(file))} | self.typed

    def _task_asked_for(self) -> str:
        """Return what is predicted, as --data.task calls it: by a flag, a table of labels, or a manifest."""
        settings = self._settings(DEFAULTS)
        data = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
        task = data.get("task") or "auto"
        if self.helps:  # there may be no table yet
            return "multiclass" if task == "auto" else str(task)
        if task == "auto" and (said := self.data_module.task_of_table(data)):
            task = said
        elif task == "auto" and data.get("manifest"):
            task = Manifest.load(data["manifest"], outside=True).target.task
        return "multiclass" if task == "auto" else str(task)

    def _task_of(self, run: Run) -> str:
        """Return what a run predicts, by its config; those of earlier versions tell classes apart."""
        data = read_config(run.config).get("data") if run.config.is_file() else None
        task = (data or {}).get("task")
        task = "multiclass" if task in (None, "auto") else str(task)
        asked = self.typed.get("data.task")
        if asked not in (None, "auto", task):
            raise Mistake(
                f"--data.task={asked} is not that of {run}, whose model is for {task}; leave it out, or train anew."
            )
        return task

    def _model_of(self, run: Run) -> type[LightningModule]:
        return self._model_for(self._task_of(run))

    def _model_for(self, task: str) -> type[LightningModule]:
        if task not in self.tasks:
            known = ", ".join(self.tasks)
            raise Mistake(
                f"--data.task={task} has no model in cli.py, which names those for {known}, so nothing could be "
                "trained on such targets; give one of these, or add a model to `tasks` there."
            )
        return self.tasks[task]

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]  (a static one)
        """Return the command that is asked for: making the parsers of the others would take half of the start."""
        known = LightningCLI.subcommands()
        return {self.command: known[self.command]} if self.command in known else known

    def _leave(self, error: BaseException) -> None:
        """Leave nothing of a run that was refused or stopped before its first step, and of any other why it failed."""
        trainer, stopped = getattr(self, "trainer", None), isinstance(error, signals.Stopped)
        if trainer is not None and signals.was_raised():  # the other ranks may wait for this one
            getattr(trainer.strategy.launcher, "kill", lambda _: None)(signals.noted())
        if self.lock is None or self.run is None:
            return
        trained = trainer is not None and trainer.global_step > 0
        if stopped and trained:
            return
        if trained or not (stopped or is_refusal(error)):
            runs.note_failure(self.run, error)
        elif self.source is None or self.run.folder != self.source.run.folder:
            runs.discard(self.run.folder)

    def _find_source(self, args: list[str]) -> Source | None:
        """Find what a command starts from; its run's config then takes the place of the project's defaults."""
        command, asked, self.args = self.command, self.asked, args
        root, name, choice = asked.run_root, asked.name, asked.ckpt_path
        if choice is None and command in ("validate", "test", "predict"):
            choice = "best"
        source = None
        if command == "fit":
            before = resume.of_this_launch(root, name, args)
            if before is not None or (asked.resume in ("auto", "same") and choice is None):
                source = self._find_unfinished(root, name, before)
        if source is None:
            if choice is None:
                return None
            if choice in ("best", "last"):
                run = runs.latest(root, name, choice)
                source = Source(run, getattr(run, choice))
                choice = source.checkpoint
            else:
                source = Source(Run.of(choice), Path(choice))
            checkpoints.read(choice, self._model_of(source.run), to_go_on=command == "fit")
        config = source.run.config
        if not config.is_file():
            raise Mistake(
                f"--ckpt_path={str(source.checkpoint)!r} lies in no run's folder (no {config}), so its data and splits "
                "are unknown; keep checkpoints in the folder of their run."
            )
        if is_rank_zero():
            print(f"{command}: {source.checkpoint} with the config and splits of {source.run}")
            overrides = [arg for arg in args[1:] if arg.startswith("--") and not arg.startswith("--ckpt_path")]
            if overrides and command != "fit":  # fit compares the configs
                print(f"changed by flags: {runs.masked_command(args[1:])}")
        return source

    def _find_unfinished(self, root: str, name: str, before: list[Run] | None) -> Source | None:
        """Choose the run and checkpoint to resume from: rank zero's choice where Lightning started this rank.

        Args:
            root: Where runs are kept.
            name: The run's name.
            before: The runs of this launch, where it was started again.

        Raises:
            Mistake: There is none, and a fresh one is not what was asked for.
            SystemExit: This launch's run has ended.
        """
        launched_by_lightning = not is_rank_zero() and "TORCHELASTIC_RUN_ID" not in os.environ
        if launched_by_lightning and "RUN_RESUMED" in os.environ:
            chosen = os.environ["RUN_RESUMED"].split("\n")
            return Source(Run(chosen[0]), Path(chosen[1]), int(chosen[2])) if len(chosen) == 3 else None
        if before:
            resume.wait_for(before)
            if before[0].ended and resume.is_by(before[0], self.args) and not self.callbacks:  # else a tool's
                if is_rank_zero():
                    print(f"{before[0]}, the run of this launch ({shown(this_launch().identity)}), has ended")
                raise SystemExit(0)
        candidates = resume.others_of(root, name) if before is None else before
        source = resume.find(candidates, self._model_of)
        os.environ["RUN_RESUMED"] = "\n".join(map(str, source or ()))
        if source is None and self.asked.resume == "same":
            raise Mistake(
                f"--resume same goes on with a run as it stands, and no unfinished one in {root}/{name} has a "
                "checkpoint; --resume auto begins a fresh one."
            )
        if is_rank_zero():
            self._say_which(f"{root}/{name}", source, before)
        return source

    @staticmethod
    def _say_which(folder: str, source: Source | None, before: list[Run] | None) -> None:
        """Say of which launch the run is that goes on, or that there is none."""
        mine = this_launch().identity
        if source is None:
            whose = f" of this launch ({shown(mine)})" if before is not None and mine else ""
            print(f"resume: no unfinished run{whose} in {folder} has a checkpoint, so a fresh one begins")
        elif before is None and (works := launches_of(source.run)) and works[0].identity not in ("", mine):
            print(f"resume: {source.run} was begun by {shown(works[0].identity)}")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        about = "The run's name: a folder below run_root; {VARIABLE} stands for the environment's value."
        parser.add_argument("--name", type=str, default="default", help=about)
        about = "Where runs are kept: a folder, or s3://BUCKET/FOLDER, gs://."
        parser.add_argument("--run_root", type=str, default="runs", help=about)
        parser.add_argument(
            "--monitor", type=str, default=MONITOR, help="The metric of best checkpoint, early stopping and plateau."
        )
        parser.add_argument(
            "--mode",
            type=Literal["min", "max"] | None,
            default=None,
            help="Whether the metric should fall or rise; null: min for losses and errors, max otherwise.",
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto", "same"] | None,
            default=None,
            help="auto: fit goes on with the newest run of this name that did not end, if there is one and it is what "
            "this command would begin; same: with its config as it stands.",
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
        if self.command == "predict":
            about = "A sample submission (CSV): also write submission.csv, its columns and its rows in its order."
            parser.add_argument("--like", type=str | None, default=None, help=about)
            about = "Whether probabilities are calibrated, as the validation split tells; no decision changes."
            parser.add_argument("--calibrate", type=bool, default=False, help=about)
        if self.command in ("test", "predict"):
            about = "The share of true numbers that intervals hold: predict writes low_NAME and high_NAME, test counts."
            parser.add_argument("--interval", type=float | None, default=None, help=about)
        parser.add_class_arguments(self.callback_options, "callbacks")
        parser.link_arguments("monitor", "model.monitor")
        for callback in ("best", "early_stopping", "check_metric"):
            parser.link_arguments("monitor", f"callbacks.{callback}.init_args.monitor")
        for target in ("callbacks.best.init_args.mode", "callbacks.early_stopping.init_args.mode"):
            parser.link_arguments(("monitor", "mode"), target, direction)
        parser.link_arguments(("monitor", "mode"), "model.mode", direction)
        parser.link_arguments("run_root", "trainer.logger.init_args.save_dir")  # nobody is asked for it; see loggers
        if self.helps:
            parser.set_defaults(_shown_defaults())

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.source is not None and self.command != "fit":
            args = [*args[:2], *self._of_this_machine(), *args[2:]]
        with classes_start_afresh(self.typed):
            self.config = parser.parse_args(args)
        self._settle(self.own)
        try:
            parser.validate(self.config, skip_unset=False)  # a null, too, must be of the type that is asked for
        except (TypeError, KeyError) as error:
            parser.error(str(error), error)
        of_table = {f"data.{name}" for name in self.data_module.of_a_table}
        if self.source is not None and self.command != "fit" and (unused := sorted(of_table & self.typed.keys())):
            raise Mistake(
                f"{as_typed(unused[0])} would change nothing: {self.command} takes the targets from the run's "
                f"{self.source.run.manifest.name}; leave it out, or train anew with it."
            )
        if self.source is not None:
            # Lightning would let the checkpoint's values override the model's flags in silence (PL#21455); it gets the
            # path when the flags are settled.
            self.own.ckpt_path = None
            guard.check_specs(self.own, str(self.source.run.config))
            if "outside" in self.own.data and "data.outside" not in self.typed:  # a run's folder may be anybody's
                self.own.data.outside = False
            self._say_places()

    def _settle(self, own: Any) -> None:
        """Give what stands for another value that value: a variable in the name, true for a seed that was chosen."""
        own.name = filled_in(own.name)
        if own.seed_everything is True and self.source is not None and self.source.step is not None:
            own.seed_everything = read_config(self.source.run.config).get("seed_everything", True)

    def _of_this_machine(self) -> list[str]:
        """Return the flags of the machine as the project has them: a run may have been trained on another one."""
        assert self.source is not None
        of_project = {
            key: value for path in DEFAULTS for key, value in (read_config(path).get("trainer") or {}).items()
        }
        of_run = read_config(self.source.run.config).get("trainer") or {}
        here = {f"trainer.{key}": of_project.get(key, value) for key, value in resume.PLACE.items()}
        there = {f"trainer.{key}": value for key, value in of_run.items() if key in resume.PLACE}
        others = {key: value for key, value in there.items() if value != here[key] and key not in self.typed}
        if others and is_rank_zero():
            print(f"not as the run was trained, but on this machine as it is: {shlex.join(resume.as_flags(others))}")
        return resume.as_flags(here)

    def _say_places(self) -> None:
        """Say which folders a run's config names, before they are read."""
        for name in self.data_module.places:
            place, is_read = self.own.data.get(name), self.command == "fit" or name not in self.data_module.of_a_table
            if place and is_read and f"data.{name}" not in self.typed and is_rank_zero():
                print(f"--data.{name} {place}, as the run's config has it")

    @property
    def own(self) -> Any:
        """The config of the command that is run."""
        command = self.config.get("subcommand")
        return self.config[command] if command else self.config

    def plain(self, own: Any = None) -> dict[str, Any]:
        """Return the config as values of YAML; or another config of the same command."""
        whole, command = self.config, self.config.get("subcommand")
        if own is not None:
            whole = whole.clone()
            whole[command] = own
        content = yaml.safe_load(self.parser.dump(whole, skip_unset=False, skip_validation=True))
        return content[command] if command else content

    def before_instantiate_classes(self) -> None:
        if self.subcommand is None:
            return
        config, source = self.own, self.source
        as_given = config.clone()
        as_given.resume = as_given.ckpt_path = None  # fit --config config.yaml repeats the run from its start
        if source is not None:
            config.ckpt_path = str(source.checkpoint)
            config.data.manifest = self._splits(source, config.data.manifest)
        if self.subcommand == "fit":
            self._choose_folder(config)
        else:
            assert source is not None
            self.run = source.run
            self._leave_out(config.trainer)
        if self.run is None or self.subcommand not in ("fit", "test"):
            config.trainer.logger = False
        if config.callbacks.progress_bar is None:
            config.trainer.enable_progress_bar = False  # Lightning would add its own
        if config.trainer.enable_checkpointing is False:
            config.callbacks.best = config.callbacks.last = None
        if config.callbacks.best is None and config.callbacks.last is None:
            config.trainer.enable_checkpointing = False
        if config.trainer.logger is False:
            config.callbacks.lr_monitor = None  # it has nowhere to write
        if self.run is not None:
            self._settle_in(self.run, config, as_given)

    def _leave_out(self, trainer: Any) -> None:
        """Take nothing for an evaluation that would write or connect elsewhere, unless it is typed."""
        left_out = []
        if "trainer.profiler" not in self.typed and trainer.profiler is not None:
            left_out.append("profiler")
            trainer.profiler = None
        given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
        given = [callback for callback in given if callback]
        kept = [callback for callback in given if guard.is_yours(callback.class_path)]
        if "trainer.callbacks" not in self.typed and len(kept) < len(given):
            left_out.append("callbacks of libraries")
            trainer.callbacks = kept
        if not any(key.startswith("trainer.logger") for key in self.typed) and guard.is_remote(_plain(trainer.logger)):
            left_out.append("logger at an address")
            trainer.logger = False
        if left_out and is_rank_zero():
            print(f"left out of the run's config, which may be anybody's: {', '.join(left_out)}; type what you want")

    def _splits(self, source: Source, manifest: str | None) -> str:
        """Return the manifest to use: the run's, unless a flag names another, which a training cannot take."""
        own = source.run.manifest
        if self.asked.manifest is None or manifest is None:
            return str(own)
        if self.subcommand == "fit" and not _load(manifest).has_splits_of(_load(own)):
            raise Mistake(
                f"--data.manifest={manifest!r} has other splits than the run, so test samples would be trained on; "
                "leave it out, or start a new run from these weights: --model.weights CHECKPOINT."
            )
        return manifest

    def _choose_folder(self, config: Any) -> None:
        """Choose where a training's files go, and refuse what the run that it goes on with cannot take."""
        if config.trainer.fast_dev_run:
            if self.source is not None:
                raise Mistake("--trainer.fast_dev_run keeps nothing, so no run can go on with it; leave out one.")
            if "cache_gb" in config.data:
                config.data.cache_gb = 0
            return
        if self.source is not None:
            resume.as_the_run_has_it(self.source.run.config, config.data)
            changes = resume.check_changes(self.source.run.config, self.plain())
            if changes and is_rank_zero():
                print(f"resume: changed since the run began: {', '.join(changes)}")
            if self.source.step is not None and self.asked.ckpt_path is None and config.resume != "same":
                self._check_left_out()
        if self.source is not None and self.source.step is not None:
            self.run = self.source.run
        else:
            if remote.is_remote(config.run_root) and config.run_root != self.asked.run_root:
                raise Mistake(
                    f"--run_root={config.run_root} is in the run's config, which may be anybody's, so nothing was put "
                    "there; type it if the new run is to be kept there, or give a folder: --run_root runs."
                )
            self._trust_what_is_typed(config)
        with signals.held_back():  # else a folder could be left that nobody knows of
            self.run = self.run or self._new_run(config.run_root, config.name)
            if is_rank_zero():
                self.lock = resume.Lock(self.run)
                note_launch(self.run, self.args)
        if is_rank_zero() and not remote.is_remote(config.run_root):  # where it would take a while to know
            self._say_who_shares(self.run, config.run_root, config.name)

    def _check_left_out(self) -> None:
        """Refuse a command that would mean another experiment as a fresh run than the run that it goes on with."""
        assert self.source is not None
        run = self.source.run
        defaults = [f"--config={file}" for file in defaults_of(self._task_of(run))]
        said = io.StringIO()
        try:
            with classes_start_afresh(self.typed), contextlib.redirect_stderr(said):
                whole = self.parser.parse_args([self.command, *defaults, *self.args[1:]])
        except SystemExit as end:
            reason = said.getvalue().strip().removeprefix("error: ")
            raise Mistake(
                f"without the config of {run} this command is refused ({reason}), so it is not the one that began it; "
                "add its flags, or go on with the run's config as it stands: --resume same."
            ) from end
        fresh = whole[self.command]
        self._settle(fresh)
        resume.as_the_run_has_it(run.config, fresh.data)
        try:
            left_out = resume.check_left_out(run, self.plain(), self.plain(fresh), self.args)
        except Mistake as error:
            if not resume.is_by(run, self.args):
                raise
            if is_rank_zero():  # a scheduler has started the very same command again, and nobody can answer
                print(f"note: goes on with the run's config as it stands; {error}")
            return
        if left_out and is_rank_zero():
            print(f"resume: not typed, but as the run has it: {shlex.join(resume.as_flags(left_out))}")

    @staticmethod
    def _say_who_shares(own: Run, root: str, name: str) -> None:
        """Say that another launch trains under this name: which run is whose would be hard to tell."""
        launch = this_launch()
        for run in runs.runs_of(root, name):
            is_held = False
            with contextlib.suppress(OSError, Mistake):  # it may end just now; whatever lies there is not this run's
                is_held = run.folder != own.folder and not run.ended and resume.Lock.is_held(run)
            if not is_held:
                continue
            other = next((work.identity for work in reversed(launches_of(run)) if work.identity), "")
            if other != launch.identity:
                remedy = f"--name '{name}-{launch.placeholder}'" if launch.variable else "another --name"
                print(
                    f"note: {run}, which {shown(other) or 'another process'} trains, has the same name as this run, so "
                    f"which is whose only {run.launches.name} in them tells; {remedy} keeps them apart."
                )
                return

    @staticmethod
    def _trust_what_is_typed(config: Any) -> None:
        """Trust the packages of a fresh run's config in this process, and say that others will not."""
        names = guard.outside(config)
        packages = sorted(set(map(guard.package_of, names)))
        guard.trust(packages)
        if names and is_rank_zero():
            print(
                f"note: {', '.join(names)}: of no package that cli.py trusts, so test and predict will refuse this run "
                f"unless a flag names it again; add {', '.join(map(repr, packages))} to `trusted` there if it is yours."
            )

    @staticmethod
    def _new_run(root: str, name: str) -> Run:
        # Only rank zero numbers a run; ranks that Lightning launches find the folder in the environment, those of
        # torchrun get what they need from rank zero through Lightning's broadcasts.
        if is_rank_zero():
            run = runs.new_run(root, name)
            os.environ["RUN_FOLDER"] = str(run)
            return run
        return Run(os.environ.get("RUN_FOLDER", Path(root, name, "of_rank_zero")))

    def _settle_in(self, run: Run, config: Any, as_given: Any) -> None:
        """Hand the run's folder to everything that writes."""
        run.check_links()
        step = self.source.step if self.source else None
        config.trainer.default_root_dir = str(run)
        for checkpoint in (config.callbacks.best, config.callbacks.last):
            if checkpoint is not None:
                remote.check_inside(run.folder, checkpoint.init_args.dirpath)
                checkpoint.init_args.dirpath = checkpoint.init_args.dirpath or str(run.checkpoints)
        if step is not None and is_rank_zero():
            loggers.forget(run.metrics, step)
        name = f"{config.name}/{run.folder.name}"
        config.trainer.logger = loggers.specs(_plain(config.trainer.logger), run, name, step)
        self.files = runs.RunFiles(run, as_given, self.plain, str(config.ckpt_path or ""))

    def instantiate_classes(self) -> None:
        maker: Any = Maker()
        add_instantiator(maker, object)  # for all parsers, in place of the last one; Lightning's own come before it
        try:
            super().instantiate_classes()
            self.datamodule.model = self.model
            return
        except (TypeError, ValueError) as error:
            if maker.raised is None or not said_by(error, "jsonargparse"):
                raise
        called = getattr(maker.kind, "called", None)
        if called and not isinstance(maker.raised, Mistake):
            reason = runs.masked(" ".join(str(maker.raised).split()))
            raise Mistake(f"--trainer.logger={called} cannot be made: {reason}") from maker.raised
        raise maker.raised

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        made: Any = self.config_init[self.subcommand] if self.subcommand else self.config_init
        extra = [*made.callbacks.items, *self.callbacks]
        if self.subcommand == "fit" and self.run is not None:
            if self.own.fast and self.source is None:
                extra.append(Fast(self.files.config))
            extra += [self.files, runs.Timing(self.run), ranks.SameSums()]
            copy = remote.copy_of(self.run.folder)
            if made.trainer.enable_checkpointing is not False:
                extra.append(Calibrates(self.run))
                extra += [StopOnSignal()] if copy is None else [StopOnSignal(), remote.Upload(copy)]
        if self.subcommand in ("fit", "test") and self.run is not None:
            extra.append(loggers.TellLoggers(self.run))
        if self.subcommand in ("test", "predict") and self.run is not None:
            extra.append(PredictionWriter(self.run, self.own.get("like"), self._calibration(), self.own.interval))
        keeps = made.trainer.enable_checkpointing is not False
        if self.subcommand == "validate" and self.run is not None and keeps and self._is_as_trained():
            assert self.source is not None
            extra.append(Calibrates(self.run, self.source.checkpoint))
        options = {**vars(made.trainer), **kwargs}
        given = options["callbacks"] or []
        options["callbacks"] = [*(given if isinstance(given, list) else [given]), *extra]
        refuse_finders(options["callbacks"])
        try:
            trainer: Any = Trainer(**options)
        except (TypeError, ValueError, MisconfigurationException) as error:
            if not is_refusal(error):
                raise
            raise Mistake(f"{' '.join(str(error).split())} (a flag of --trainer)") from error
        leave_signals_alone(trainer)
        if type(trainer.profiler) is PassThroughProfiler:
            trainer.profiler = NoProfiler()
        ranks.limit_waiting(trainer, self.typed)
        return trainer

    def _calibration(self) -> Kept | None:
        """Return what calibrates, where it is asked for; of ``test`` where it is kept."""
        assert self.run is not None
        assert self.source is not None
        level, checkpoint = self.own.interval, self.source.checkpoint
        calibrates = self.own.get("calibrate")
        if calibrates and any(key.startswith("callbacks.qat") for key in self.typed):
            raise Mistake(
                "--callbacks.qat changes whether the network is rounded, and --calibrate=true knows the one that was "
                "validated, so it would be wrong of the other; leave one of them out."
            )
        if calibrates:
            kept = needed(self.run, checkpoint, "--calibrate=true")  # refuses numbers, which --interval is for
            if level is None:
                return kept
        if level is not None:
            check_level(level)
            kept = needed(self.run, checkpoint, f"--interval={level:g}")
            assert isinstance(kept.of, OfNumbers)
            kept.of.half_widths(level)  # refuses a level for which there are too few samples
            return kept
        if self.subcommand == "predict":
            return None
        try:
            return find(self.run, checkpoint)
        except Mistake as error:  # of a file that test does not need
            print(f"calibration: {error}")
            return None

    def _is_as_trained(self) -> bool:
        """Tell whether ``validate`` scores the run's own model on its own validation split."""
        other = ("data.manifest", "trainer.fast_dev_run", "trainer.overfit_batches", "model.", "callbacks.qat")
        other += ("data.background", *resume.FOLLOW_THE_DATA)  # the network would be fed otherwise
        share = self.typed.get("trainer.limit_val_batches", 1.0)  # 1 is one batch
        return isinstance(share, float) and share == 1 and not any(key.startswith(other) for key in self.typed)

    def before_fit(self) -> None:
        """Find a user's mistakes in the data before other ranks start and anything is trained."""
        if self.source is not None:
            self.model.resumed = {"from": str(self.source.checkpoint)}  # so that it does not load its first weights
        if self.trainer.global_rank == 0:
            try:
                self._look_at_data()
            except Exception as error:
                environment: Any = getattr(self.trainer.strategy, "cluster_environment", None)
                if self.trainer.num_nodes == 1 or environment is None or not environment.creates_processes_externally:
                    raise
                self.datamodule.unfetched = error  # other hosts wait for this one; all hear of it in its setup

    def _look_at_data(self) -> None:
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        target = self.datamodule.target
        if self._model_for(target.task) is not type(self.model):
            raise Mistake(
                f"--model is a {type(self.model).__name__}, and the data has {target}, so it could not be trained; "
                f"give --data.task {target.task}."
            )
        print(self.datamodule.summary(), flush=True)
        if self.source is None:
            self._say_defaults()

    def _say_defaults(self) -> None:
        """Say what the task changes of the project's defaults."""
        for file in defaults_of(self.datamodule.target.task)[len(DEFAULTS) :]:
            settings = ((key, value) for key, value in flat(read_config(file)) if key not in self.typed)
            if said := ", ".join(f"{as_typed(key)} {value}" for key, value in settings):
                print(f"{file.stem}: {said}, as {os.path.relpath(file, CONFIGS.parent.parent.parent)} has it")

    def before_validate(self) -> None:
        self._refuse_to_score_nothing("limit_val_batches")

    def before_test(self) -> None:
        self._refuse_to_score_nothing("limit_test_batches")

    def _refuse_to_score_nothing(self, limit: str) -> None:
        if getattr(self.trainer, limit) == 0:
            raise Mistake(
                f"--trainer.{limit}=0, which the run's config may hold, leaves nothing to score; give "
                f"--trainer.{limit} 1.0."
            )

    def after_predict(self) -> None:
        """Fail where not all could be read."""
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, PredictionWriter) and callback.unread:
                if not self.trainer.is_global_zero:  # which says it for all
                    raise SystemExit(1)
                raise callback.unread

    def after_fit(self) -> None:
        """Say what came out and what to do next."""
        if self.run is None or self.lock is None:
            return
        calibration = ""
        if not is_out_of_time(self.trainer):
            for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, Calibrates):
                    calibration = callback.after_fit(self.trainer, self.datamodule)
            self.lock.run_ended()
        elif self.lock.copy is not None:
            self.lock.copy.finish()
        print()
        callbacks = self.trainer.checkpoint_callbacks
        best = next((callback for callback in callbacks if isinstance(callback, BestCheckpoint)), None)
        last = next((callback for callback in callbacks if isinstance(callback, LastCheckpoint)), None)
        path = last.path if last is not None and last.path.is_file() else None
        if best is not None and best.best_model_score is not None:
            path = best.best_model_path
            print(f"best {best.monitor}: {best.best_model_score:.4f}")
        elif best is not None:
            print(f"no validation ran, so there is no best checkpoint{'' if path else ', and no last one'}")
        if path is not None:
            print(f"checkpoint:    {os.path.relpath(path)}")
        if calibration:
            print(f"calibration:   {calibration}")
        print(f"run folder:    {self.run}")
        if path is not None:
            has_test = self.datamodule.manifest.splits["test"][0]
            command = "test" if has_test else f"predict {' '.join(self.data_module.to_predict)}"
            of_run = f"--ckpt_path {os.path.relpath(path)}"
            if self.lock.copy is not None:
                of_run = f"--run_root {self.own.run_root} --name {self.own.name} --ckpt_path {Path(path).stem}"
            print(f"next:          python -m {PACKAGE} {command} {of_run}")


def refuse_finders(callbacks: Sequence[Callback]) -> None:
    """Refuse Lightning's own searches for a rate or a batch size: they set what this project's models do not have.

    Raises:
        Mistake: There is one.
    """
    lr_range = CONFIGS.parent / "tools" / "lr_range.py"
    instead = f"run python -m {PACKAGE} lr-range" if lr_range.is_file() else "try rates by --model.optimizer.lr"
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, LearningRateFinder):
            raise Mistake(
                f"the callback {name} sets an attribute of the model that its optimizer does not look at, so the run "
                f"would train at another rate than it says; leave it out and {instead}."
            )
        if isinstance(callback, BatchSizeFinder):
            raise Mistake(
                f"the callback {name} would change the batch of an optimizer step, and so the experiment; leave it out "
                "and give --data.batch_size, and where memory does not hold it, --trainer.accumulate_grad_batches 2."
            )


def _load(manifest: str | Path) -> Manifest:
    return Manifest.load(manifest, outside=True)  # to compare it: no file is read by it


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list) else getattr(value, "as_dict", lambda: value)()
