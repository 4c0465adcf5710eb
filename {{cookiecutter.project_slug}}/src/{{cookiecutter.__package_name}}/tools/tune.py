"""``tune``: search flags for their best values with Optuna; the best become a recipe.

Flags that are not listed here are those of ``fit``, for all trials. Each trial is a run of its own in
RUN_ROOT/STUDY/trial_N; its score is the best value of --monitor on the validation split. Of a worker's trials the best
keeps its checkpoints. The same command goes on with a study, to --trials in all; several at once, also on several
machines, share them. With more than one device each trial is a process of its own, and only a fidelity prunes it.
Writes best.yaml, a recipe for fit; around.yaml, a space around the best for a search after this one; tune.html and its
figures as PNG beside the trials. Needs the extra ``tune``.
"""

import argparse
import contextlib
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from ..cli import CLI
from ..engine import PACKAGE, remote, resume, runs, signals
from ..engine.configs import differences, flat, read_config
from ..engine.files import locked, opened, write
from ..engine.metrics import direction
from ..engine.mistakes import Mistake, RunFailed, require
from ..engine.parser import Options
from ..engine.sampling import derived_seed, run_seed
from ._page import Section, aligned, check_packages, figure, figures, png, table, write_page
from ._results import Run, hush, not_by_torchrun
from ._space import Dimension, around, as_flags, assign, check, grid_size, last_error, read_space
from ._words import NOUN

if TYPE_CHECKING:
    from optuna import Study, Trial

# A trial that ends so has failed, as some values make it; anything else is a fault in the code and ends the search.
FAILURES = (ValueError, RunFailed, MisconfigurationException, torch.OutOfMemoryError)
ETA = 3  # of the trials that compare, successive halving and Hyperband keep one in so many
SHOWN = 12  # trials in the terminal
STATES = ("COMPLETE", "PRUNED", "RUNNING", "WAITING", "FAIL")


class Watch(Callback):
    """Follows a run for its trial: keeps its scores, and ends it where the pruner says so.

    Args:
        trial: The trial.
        monitor: The metric.
        asks: Whether the pruner is asked after each validation.
        say: Shows how far the run is.
    """

    def __init__(self, trial: "Trial", monitor: str, asks: bool, say: Callable[[str], Any]) -> None:
        self.trial, self.monitor, self.asks, self.say = trial, monitor, asks, say
        self.scores: list[float] = []
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.scores.append(float(trainer.callback_metrics[self.monitor]))
        self.say(f"epoch {trainer.current_epoch + 1}: {self.monitor}={self.scores[-1]:.4g}")
        if self.asks:
            self.trial.report(self.scores[-1], len(self.scores))
            self.pruned |= trainer.current_epoch + 1 != trainer.max_epochs and self.trial.should_prune()
            trainer.should_stop |= self.pruned  # the run ends as any other, and its folder is whole


class Search:
    """A study and what its trials need.

    Args:
        options: The flags of ``tune``.
        flags: The flags of ``fit`` that all trials share.

    Raises:
        Mistake: The space cannot be searched with these flags.
    """

    def __init__(self, options: argparse.Namespace, flags: list[str]) -> None:
        self.options, self.flags = options, flags
        self.content = read_config(options.space)
        dimensions = read_space(self.content)
        self.base = CLI(flags, run=False)
        if self.base.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            raise Mistake("--trainer.fast_dev_run trains on a batch, so there is nothing to compare; leave it out.")
        self.monitor = self.base.config.monitor
        self.mode = direction(self.monitor, self.base.config.mode)
        check(dimensions, flags, self.monitor)
        self.fidelity = next((dimension for dimension in dimensions if dimension.kind == "fidelity"), None)
        self.space = [dimension for dimension in dimensions if dimension is not self.fidelity]
        self.seed = run_seed()
        self.as_grid = options.sampler == "grid"
        size = grid_size(self.space) if self.as_grid else options.trials or 32
        self.wanted = min(size, options.trials or size)
        remote.refuse(self.base.config.run_root, "tune")
        self.folder = Path(self.base.config.run_root) / options.study
        self.lock: resume.Lock | None = None
        self.mine: set[int] = set()  # trials of this worker

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let other workers wait."""
        with os.fdopen(opened(runs.made(self.folder) / ".lock", os.O_RDWR | os.O_CREAT), "r+b") as file:
            locked(file.fileno(), self.folder / ".lock", wait=True)
            yield

    def open(self) -> None:
        """Begin the study, or go on with it.

        Raises:
            Mistake: The storage cannot be reached, or the study is one of something else.
        """
        study = {"space": self.content, "grid": self.as_grid, NOUN: self.base.datamodule.fingerprint}
        settings = dict(flat(study | self.base.plain()))
        now = {key: value for key, value in settings.items() if not key.startswith(resume.MACHINE)}
        with self.alone():
            self.study = open_study(self.options, self.folder, f"{self.mode}imize", self.steps())
            before = self.study.user_attrs.get("settings", now)
            self.study.set_user_attr("settings", before)
        for key, old, new in differences(before, now):
            flag = key if key.partition(".")[0] in study else f"--{key}"
            raise Mistake(
                f"the study {self.options.study!r} has {flag}={old}, not {new}, so its trials could not be compared "
                "with new ones; begin another: --study NAME."
            )

    @property
    def better(self) -> Callable[..., Any]:
        """min or max: what chooses the best."""
        return min if self.mode == "min" else max

    def steps(self) -> int:
        """Return the last step at which a trial reports, or 0 where no one knows."""
        if self.fidelity:
            return ETA ** (len(self.fidelity.values) - 1)
        trainer = self.base.trainer
        return max(0, trainer.max_epochs or 0) // (trainer.check_val_every_n_epoch or 1)

    def trials(self, before: float = float("inf")) -> list[Any]:
        """Return the trials below a number that count: not those that are done again."""
        from optuna.storages import RetryHeartbeatStaleTrialCallback

        history = RetryHeartbeatStaleTrialCallback.retry_history
        found = self.study.get_trials(deepcopy=False)
        again = {number for trial in found for number in history(trial)}
        return [
            trial
            for trial in found
            if trial.number < before and trial.number not in again and "surplus" not in trial.user_attrs
        ]

    def slots(self, trials: list[Any]) -> set[Any]:
        """Return which of the wanted trials are taken, by the points of a grid or by their numbers."""
        return {tuple(trial.params.items()) if self.as_grid else trial.number for trial in trials}

    def run(self) -> None:
        """Run trials until those that are wanted are done or in the hands of other workers."""
        from optuna.trial import TrialState

        self.revive()
        with tqdm(total=self.wanted, desc="tune", unit="trial", disable=None, leave=False) as self.bar:
            while len(self.slots(self.trials())) < self.wanted or self.study.get_trials(states=[TrialState.WAITING]):
                self.study.optimize(self.objective, n_trials=1, catch=FAILURES, gc_after_trial=True)
                self.let_go()
                self.revive()
                self.tidy()
                done = [trial for trial in self.trials() if trial.state.is_finished()]
                self.bar.update(len(done) - self.bar.n)
                reasons = [trial.user_attrs.get("reason") for trial in done if trial.state == TrialState.FAIL]
                if len(reasons) == len(done) >= 5:
                    raise Mistake(
                        f"the first {len(done)} trials failed, so others would, too; mend what ended the last: "
                        f"{reasons[-1]}"
                    )

    def objective(self, trial: "Trial") -> float:
        """Train with the values that the sampler chooses; returns the score."""
        from optuna import TrialPruned

        # By number: what is drawn depends neither on the worker nor on whether the study was interrupted.
        self.study.sampler = make_sampler(self.options.sampler, derived_seed(self.seed, 3, trial.number))
        assigned = assign(self.space, lambda dimension: dimension.suggest(trial, self.as_grid))
        taken = self.slots(self.trials(before=trial.number))
        if len(taken) >= self.wanted or self.slots([trial]) & taken:
            trial.set_user_attr("surplus", True)
            raise RunFailed("another worker was quicker")
        folder = self.folder / f"trial_{trial.number:03d}"
        folder.mkdir(exist_ok=True)
        self.lock = resume.Lock(runs.Run(folder))  # which the kernel frees when this process dies
        trial.set_user_attr("folder", str(folder.absolute()))
        self.mine.add(trial.number)
        score = float("nan")
        for level, value in enumerate(self.fidelity.values if self.fidelity else [None]):
            try:
                fidelity = {self.fidelity.key: value} if self.fidelity else {}
                score, pruned = self.train(trial, folder, assigned | fidelity)
            except FAILURES as error:
                trial.set_user_attr("reason", last_error(f"error: {str(error).strip()}"))
                raise
            if self.fidelity:
                trial.report(score, ETA**level)
                pruned = value != self.fidelity.values[-1] and trial.should_prune()
            if pruned:
                raise TrialPruned
        return score

    def train(self, trial: "Trial", folder: Path, assigned: dict[str, Any]) -> tuple[float, bool]:
        """Train once; what the run says goes into the trial's output.txt.

        Returns:
            The best score, and whether the pruner ended the run.

        Raises:
            Mistake: The run ended with an error.
        """
        args = ["fit", *self.flags, *as_flags(assigned), f"--name={self.options.study}/{folder.name}"]
        watch = Watch(trial, self.monitor, not self.fidelity, self.bar.set_postfix_str)
        file = opened(folder / "output.txt", os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with os.fdopen(file, "a+", encoding="utf-8") as output:
            try:
                if self.base.trainer.world_size > 1:  # Lightning starts the command again for every device
                    command = [sys.executable, "-m", PACKAGE, *args, "--report=false"]
                    if signals.run(command, stdout=output, stderr=output):
                        raise SystemExit(2)
                    best = Run(runs.latest(folder.parent, folder.name).folder).best_validation
                    watch.scores += [best.value] if best else []
                else:
                    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                        try:
                            CLI(args, callbacks=[watch])
                        finally:
                            signals.check()  # one that came when the trial had ended
            except SystemExit as end:
                if end.code != 2:
                    raise
                output.seek(0)
                raise Mistake(last_error(output.read())) from end
        if not watch.scores:
            raise Mistake(
                f"--monitor={self.monitor} was not measured, so nothing can be compared; let each run validate, or "
                "give another metric."
            )
        return self.better(watch.scores), watch.pruned

    def let_go(self, ended: bool = True) -> None:
        """Free the last trial, once the study knows how it ended."""
        if self.lock:
            if ended:
                self.lock.run_ended()
            self.lock.release()
        self.lock = None

    def revive(self) -> None:
        """Give up the trials whose worker died, and have them done again."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            run = runs.Run(trial.user_attrs.get("folder", ""))
            if not run.lock.is_file() or resume.Lock.is_held(run):
                continue  # alive; or on a machine with folders of its own, which has a heartbeat
            with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another worker was quicker
                self.study.tell(trial.number, state=TrialState.FAIL)
                run.lock.unlink()
                retry()(self.study, trial)
                tqdm.write(f"trial {trial.number} ended with its worker; it will be done again")

    def tidy(self) -> None:
        """Keep the checkpoints of this worker's best trial alone: a search would fill the disk."""
        mine = [trial for trial in self.trials() if trial.number in self.mine and trial.state.is_finished()]
        scored = [trial for trial in mine if trial.state.name == "COMPLETE"]
        best = self.better(scored, key=lambda trial: trial.value, default=None)
        for trial in mine:
            if trial is not best:
                folder = Path(trial.user_attrs["folder"])
                for run in runs.runs_of(folder.parent, folder.name):
                    shutil.rmtree(run.checkpoints, ignore_errors=True)


def retry() -> Any:
    """Return what puts a trial back into the queue, three times at most."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    return RetryHeartbeatStaleTrialCallback(max_retry=3)


def open_study(options: argparse.Namespace, folder: Path, direction: Any, steps: int) -> "Study":
    """Open the study in its storage.

    Raises:
        Mistake: The storage is unknown, cannot be reached or would show a password.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    url = f"sqlite:///{folder / 'study.db'}" if options.storage == "sqlite" else options.storage
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    first = max(1, steps // 27)
    pruner = {
        "none": lambda: optuna.pruners.NopPruner(),
        "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=steps // 10),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(first, reduction_factor=ETA),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(first, steps or "auto", reduction_factor=ETA),
    }[options.pruner]()
    try:
        if url == "journal":
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log")))
        else:
            storage = open_database(url)
    except (SQLAlchemyError, ImportError) as error:
        raise Mistake(
            f"--storage={runs.masked(options.storage)} cannot be opened ({str(error).splitlines()[0]}), so no trial "
            "could be kept; give sqlite, journal or the URL of a database that runs."
        ) from error
    return optuna.create_study(
        storage=storage, study_name=options.study, direction=direction, pruner=pruner, load_if_exists=True
    )


def _check_address(url: str) -> None:
    """Refuse the address of a database that is none, or that holds a password.

    Raises:
        Mistake: It is, or it does.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise Mistake(
            f"--storage={runs.masked(url)} is no address of a database, so no trial could be kept; give sqlite, "
            "journal or one like postgresql://user@host/name."
        ) from error
    secrets = [key for key in address.query if re.search(rf"(?i)({runs.SECRET})", key)]
    if address.password or secrets:
        raise Mistake(
            f"--storage={runs.masked(url)} holds a password, which each trial would write down; put it where the "
            "database's driver looks for it, as PGPASSWORD or ~/.pgpass."
        )


def open_database(url: str) -> Any:
    """Open a storage in which the trials of a worker that died are done again."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    connect: Any = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in (1, 2, 3):
        try:
            return RDBStorage(
                url, connect, heartbeat_interval=30, grace_period=120, heartbeat_stale_trial_callback=retry()
            )
        except (IntegrityError, ProgrammingError):  # another machine makes the same tables at this moment
            if attempt == 3:
                raise
            time.sleep(2)
    raise AssertionError


def make_sampler(kind: str, seed: int) -> Any:
    """Return a sampler of Optuna's."""
    from optuna import samplers

    kinds: dict[str, Any] = {
        "grid": samplers.BruteForceSampler,
        "random": samplers.RandomSampler,
        "tpe": samplers.TPESampler,
        "gp": samplers.GPSampler,
    }
    return kinds[kind](seed=seed)


def report(search: Search) -> None:
    """Print the trials; write the recipe and the page."""
    sign = 1 if search.mode == "min" else -1
    trials = sorted(search.trials(), key=lambda t: (STATES.index(t.state.name), sign * (t.value or 0.0), t.number))
    labels = {dimension.key: dimension.key.rpartition(".")[2] for dimension in search.space}
    states = [trial.state.name.lower().replace("fail", "failed") for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    header = ["trial", search.monitor, "state", "validations", "seconds", *labels.values()]
    rows = []
    for trial, state in zip(trials, states, strict=True):
        score = "" if trial.value is None else trial.value
        seconds = f"{trial.duration.total_seconds():.1f}" if trial.duration else ""
        params = [trial.params.get(key, "") for key in labels]
        rows.append([trial.number, score, state, len(trial.intermediate_values), seconds, *params])
    print(f"\n{search.options.study}: {counts or 'no trial'}\n{aligned(header, rows[:SHOWN])}")
    if reasons := [trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs]:
        print(f"\nthe last that failed: {reasons[-1]}")
    if "complete" not in states:
        return
    best = trials[0]
    result = f"best {search.monitor}: {best.value:.4f} (trial {best.number} of {len(trials)})"
    path, space, page = (search.folder / name for name in ("best.yaml", "around.yaml", "tune.html"))
    with search.alone():
        content = recipe(search, best, result)
        write(path, content)
        write(space, space_around(search, best))
        drawn = draw(search, [trial for trial in trials if trial.value is not None], best, labels)
        sections = [
            Section("Result", f"<p>{escape(result)}</p><pre>{escape(content)}</pre>"),
            Section("Figures", figures(*drawn)),
            Section(f"Trials: {counts}", table(header, rows)),
        ]
        write_page(page, f"Search {search.options.study}", sections)
    print(
        f"\n{result}\npage:   {page}\nrecipe: {path}\naround: {space}\nnext:   python -m {PACKAGE} fit --config {path}"
    )


def recipe(search: Search, best: Any, result: str) -> str:
    """Return the config of the best trial, as far as it differs from the project's defaults; not where it ran."""
    assigned = {dimension.key: best.params[dimension.key] for dimension in search.space if dimension.key in best.params}
    if search.fidelity:
        assigned[search.fidelity.key] = search.fidelity.values[-1]
    found = CLI([*search.flags, *as_flags(assigned)], run=False).plain()
    # By the task of these data: the project's own may not be there, or be others.
    defaults = CLI([f"--data.task={search.base.datamodule.target.task}"], run=False).plain()
    if "data.task" not in search.base.typed:
        defaults["data"]["task"] = found["data"]["task"]
    changed = difference(found, defaults)
    return (
        f"# best: what the search {search.options.study} found.\n"
        f"# metric: {result}; time: {best.duration.total_seconds():.0f} s\n"
        f"# command: fit --config {search.folder / 'best.yaml'}\n"
    ) + yaml.safe_dump(changed, sort_keys=False)


def space_around(search: Search, best: Any) -> str:
    """Return the space of a search that refines the best trial of this one."""
    return (
        f"# The space of {search.options.study} around its best trial, {best.number}: each range a third as wide.\n"
        f"# command: tune --config {search.folder / 'best.yaml'} --space {search.folder / 'around.yaml'} --study NAME\n"
    ) + yaml.safe_dump(around(search.content, best.params), sort_keys=False, default_flow_style=None)


def difference(new: Any, old: Any, path: str = "") -> Any:
    """Return what of a config is not in another; an object of another class as a whole."""
    if not isinstance(new, dict) or not isinstance(old, dict) or new.get("class_path") != old.get("class_path"):
        return new
    changed = {"class_path": new["class_path"]} if "class_path" in new else {}
    for key, value in new.items():
        if value != old.get(key) and not f"{path}{key}".startswith(resume.MACHINE):
            changed[key] = difference(value, old.get(key), f"{path}{key}.")
    return changed


def draw(search: Search, scored: list[Any], best: Any, labels: dict[str, str]) -> list[tuple[Any, str]]:
    """Draw the scores over time and over each flag, and what mattered; each is kept as PNG, too.

    (Not by optuna.visualization, which leaves out pruned trials, cuts long names, and changes the style of every figure
    of the process.)
    """
    drawn = {"history": draw_history(search, scored, best)}
    for dimension in search.space:
        name = labels[dimension.key]
        drawn[f"slice_{dimension.key}"] = draw_slice(search, scored, best, dimension, name)
    if len(scored) >= 5:
        drawn["importance"] = draw_importance(search, scored, labels)
    for name, canvas in drawn.items():
        png(canvas, search.folder / f"{name}.png")
    return [(canvas, "") for canvas in drawn.values()]


def scatter(search: Search, scored: list[Any], best: Any, name: str, x: dict[int, Any]) -> tuple[Any, Any]:
    """Draw the scores of trials over what ``x`` has for their numbers."""
    from matplotlib.ticker import LogFormatter

    canvas, axes = figure(4.2, 2.9)
    groups = {
        "pruned": ("x", 4, [trial for trial in scored if trial.state.name == "PRUNED"]),
        "complete": ("o", 4, [trial for trial in scored if trial.state.name == "COMPLETE"]),
        "best": ("*", 11, [best]),
    }
    for group, (marker, size, trials) in groups.items():
        there = [trial for trial in trials if trial.number in x]
        x_values = [x[trial.number] for trial in there]
        scores = [trial.value for trial in there]
        axes.plot(x_values, scores, marker, label=group, linestyle="", markersize=size)
    axes.set(xlabel=name, ylabel=search.monitor)
    values = [trial.value for trial in scored]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatter())  # names as many as have room
    axes.yaxis.set_major_formatter("{x:g}")
    return canvas, axes


def draw_history(search: Search, scored: list[Any], best: Any) -> Any:
    """Draw the score of each trial and the best so far."""
    canvas, axes = scatter(search, scored, best, "trial (number)", {trial.number: trial.number for trial in scored})
    complete = sorted((trial for trial in scored if trial.state.name == "COMPLETE"), key=lambda trial: trial.number)
    better = np.minimum if search.mode == "min" else np.maximum
    so_far = better.accumulate([trial.value for trial in complete])
    axes.step([trial.number for trial in complete], so_far, where="post", label="best so far", linewidth=1)
    canvas.legend(loc="outside upper center", ncols=4)
    return canvas


def draw_slice(search: Search, scored: list[Any], best: Any, dimension: Dimension, name: str) -> Any:
    """Draw the scores over the values of a flag."""
    as_shown = str if dimension.kind == "choice" else float
    x = {trial.number: as_shown(trial.params[dimension.key]) for trial in scored if dimension.key in trial.params}
    canvas, axes = scatter(search, scored, best, name, x)
    if "log" in dimension.kind:
        low, high = dimension.values
        axes.set(xscale="log", xlim=(0.8 * low, 1.25 * high))
        if high < 100 * low:  # hardly a power of ten is in it, and names of all between would overlap
            ticks = np.geomspace(low, high, 4)
            axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            axes.set_xticks([], minor=True)
    return canvas


def draw_importance(search: Search, scored: list[Any], labels: dict[str, str]) -> Any:
    """Draw how much each flag mattered; pruned trials count with the last score that they had."""
    import optuna

    study = optuna.create_study(direction=search.study.direction)
    for trial in scored:
        study.add_trial(
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=trial.value)
        )
    shares = sorted(optuna.importance.get_param_importances(study).items(), key=lambda item: item[1])
    canvas, axes = figure(4.2, 0.8 + 0.3 * len(shares))
    bars = axes.barh([labels[key] for key, _ in shares], [share for _, share in shares])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="importance (share, PED-ANOVA)", xlim=(0, 1))
    return canvas


def main(args: list[str]) -> None:
    """Run the command."""
    check_packages("tune", "tune", "jinja2", "matplotlib", "optuna")
    import optuna

    parser = Options(__name__, __doc__)
    default = Path(__file__).with_name("space.yaml")
    parser.add_argument("--space", type=Path, default=default, help=f"what to search; {default} shows how")
    parser.add_argument("--trials", type=int, help="how many in all (32; all points of a grid)")
    parser.add_argument("--sampler", choices=("tpe", "random", "grid", "gp"), default="tpe", help="(tpe)")
    parser.add_argument("--pruner", choices=("median", "halving", "hyperband", "none"), default="median")
    parser.add_argument("--study", default="tune", help="its name and its folder in run_root (tune)")
    parser.add_argument("--storage", default="sqlite", help="sqlite, journal (for shared folders) or a database URL")
    options, flags = parser.parse_known_args(args)
    if options.storage not in ("sqlite", "journal"):
        _check_address(options.storage)
    not_by_torchrun("tune")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    hush()
    if options.trials is not None:
        require(options.trials >= 1, "--trials", options.trials, "x ≥ 1", "nothing would be tried")
    if mine := next((flag for flag in flags if re.match(r"--(name|resume|ckpt_path)(=|$)", flag)), ""):
        raise Mistake(
            f"{mine} is up to the study, which names its own fresh runs, so it would have no effect; leave it out, or "
            "name the study: --study NAME."
        )
    search = Search(options, flags)
    search.base.datamodule.prepare_data()
    search.base.datamodule.setup("fit")
    search.open()
    print(f"{search.options.study}: {search.wanted} trials of {options.space} in {search.folder}")
    try:
        search.run()
    except (SystemExit, signals.Stopped):
        search.let_go(ended=False)
        search.revive()
        print("interrupted; the same command goes on")
        raise
    finally:
        report(search)
