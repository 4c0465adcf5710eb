"""``fit --resume auto``: which run goes on, from which checkpoint, and which changes it accepts."""

import os
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from . import checkpoints, remote
from .configs import as_text, as_typed, differences, flat, named_configs, read_config, typed_settings
from .files import locked, opened, reading
from .launches import as_kept, is_counted_restart, is_of_another_task, launches_of, this_launch
from .mistakes import Mistake, RunFailed, shown
from .runs import Run, runs_of
from .together import is_rank_zero

# Anything else that differs from the run's config would make another experiment of it.
ACCEPTED = ("trainer", "callbacks", "name", "model.compile", "data.num_workers", "data.cache_gb", "data.cache_root")
ACCEPTED += ("data.max_megapixels",)
REFUSED = (
    "callbacks.averaging",
    "callbacks.qat",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.sync_batchnorm",
)
# Compared elsewhere (the samples by their fingerprint, the splits by the CLI), or of no weight for a run.
SILENT = (
    "ckpt_path",
    "config",
    "data.labels",
    "data.manifest",
    "data.outside",
    "data.predict_root",
    "data.predict_table",
    "data.root",
    "data.table",
    "fast",
    "report",
    "resume",
    "run_root",
)
# Where and how a run is trained, not what comes out: searches and cross-validations go on with other values of these.
MACHINE = (
    "callbacks.device_stats",
    "callbacks.progress_bar",
    "data.cache",
    "data.max_megapixels",
    "data.num_workers",
    "name",
    "report",
    "run_root",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.logger",
    "trainer.num_nodes",
    "trainer.strategy",
)
FOLLOW_THE_DATA = (
    "data.categories",
    "data.channels",
    "data.drop",
    "data.fit",
    "data.group",
    "data.group_column",
    "data.id",
    "data.image_column",
    "data.image_size",
    "data.interpolation",
    "data.label_columns",
    "data.label_delimiter",
    "data.mean",
    "data.numbers",
    "data.resize_size",
    "data.split_column",
    "data.std",
    "data.stored_size",
    "data.target",
    "data.task",
    "data.value_range",
    "data.weight",
    "data.weight_column",
)

# On what a run was trained, and what a command elsewhere has unless it says otherwise.
PLACE: dict[str, Any] = {
    "accelerator": "auto",
    "devices": "auto",
    "num_nodes": 1,
    "plugins": None,
    "strategy": "auto",
    "sync_batchnorm": False,
}
# What --fast true chose when a run began.
MEASURED = ("model.channels_last", "model.compile", "trainer.benchmark", "trainer.precision")
PATIENCE = 60  # seconds that a process of this launch gets to end

COMPLETED = ("categories", "drop", "numbers")  # of these the run's config has more columns than were given


class Source(NamedTuple):
    """What a command starts from.

    Args:
        run: An earlier run: its config and splits.
        checkpoint: One of its checkpoints.
        step: Where the run goes on in its own folder; None unless it does.
    """

    run: Run
    checkpoint: Path
    step: int | None = None


def of_this_launch(root: str | Path, name: str, command: Sequence[str]) -> list[Run] | None:
    """Return the runs of a name that this launch has worked on, the newest first; None where it begins just now.

    Of a job that trains several runs those of this very command count, if there are any. A launch that nobody has
    named (torchrun without --rdzv-id) may have worked on the newest run and on no other.
    """
    launch, found = this_launch(), runs_of(root, name)
    if not launch.identity:
        return found[:1] if is_counted_restart() else None
    of_launch = [run for run in found if any(work.identity == launch.identity for work in launches_of(run))]
    if not is_counted_restart() and (launch.is_counted or not of_launch):
        return None
    return [run for run in of_launch if is_by(run, command)] or of_launch


def is_by(run: Run, command: Sequence[str]) -> bool:
    """Tell whether this launch has worked on a run by a command."""
    mine, kept = this_launch().identity, as_kept(command)
    return bool(mine) and any((work.identity, work.command) == (mine, kept) for work in launches_of(run))


def others_of(root: str | Path, name: str) -> list[Run]:
    """Return the runs of a name that a command may go on with at its first start, the newest first.

    By hand, and by SLURM or torchrun, any run that nobody works on. A launch that nobody counts (RUN_ID, Kubernetes)
    takes none of another launch, which may only be waiting for its next machine.
    """
    mine = this_launch()
    found = [run for run in runs_of(root, name) if not is_of_another_task(run)]
    if not mine.identity or mine.is_counted:
        return found
    return [run for run in found if {work.identity for work in launches_of(run)} <= {"", mine.identity}]


def find(candidates: Iterable[Run], kind_of: Callable[[Run], type]) -> Source | None:
    """Return the first run that neither ended nor runs, its newest readable checkpoint, and the step.

    ``last.ckpt`` comes before ``best.ckpt``. What is passed over is said. ``kind_of`` returns the class of a run's
    model.
    """
    for run in candidates:
        if run.ended:
            continue
        remote.fetch(run.folder)
        if not run.config.is_file() or Lock.is_held(run):
            continue
        for path in _kept(run):
            if not path.is_file():
                continue
            try:
                content = checkpoints.read(path, kind_of(run), to_go_on=True)
                if not content.get("resume", {}).get("between_steps", True):
                    raise Mistake(f"{path} was saved between the accumulated batches of a step")
            except Mistake as error:
                if is_rank_zero():
                    print(f"resume: passed over, {error}")
                continue
            return Source(run, path, content["global_step"])
    return None


def wait_for(candidates: Sequence[Run]) -> None:
    """Wait until no process of before works on this launch's newest run: one that is to end may take a while.

    Raises:
        RunFailed: One still does.
    """
    if not this_launch().identity:
        return
    for waited in range(PATIENCE):
        if not candidates or candidates[0].ended or not Lock.is_held(candidates[0]):
            return
        if not waited and is_rank_zero():
            print(f"resume: waits up to {PATIENCE} s for the process that works on {candidates[0]}", flush=True)
        time.sleep(1)
    raise RunFailed(
        f"another process of this launch ({shown(this_launch().identity)}) still works on {candidates[0]}, so both "
        "would write into it; start it again when that one has ended."
    )


def _kept(run: Run) -> list[Path]:
    """Return where a run keeps its two checkpoints, by its config."""
    callbacks = read_config(run.config).get("callbacks") or {}
    places = []
    with reading(run.config):
        for path in (run.last, run.best):
            given = ((callbacks.get(path.stem) or {}).get("init_args") or {}).get("dirpath")
            places.append(Path(given) / path.name if given else path)
    return places


def check_changes(config_file: Path, config: dict[str, Any]) -> list[str]:
    """Compare a run's config with the one that it is to go on with; returns the accepted changes, for people.

    Raises:
        Mistake: A change that the run cannot take.
    """
    accepted = []
    for key, old, new in differences(read_config(config_file), config):
        if old is None and not new:  # a setting that the version of the run did not have
            continue
        if _is_silent(key, new):
            continue
        if not _is_accepted(key):
            raise Mistake(
                f"{as_typed(key)}={new} differs from the run's {old}, so the run would no longer be one experiment; "
                "leave it out, or start a new run from these weights: --model.weights CHECKPOINT."
            )
        part = ".".join(key.split(".")[:2])
        accepted.append(f"{key} {old} → {new}" if key == part else part)
    return list(dict.fromkeys(accepted))


def _is_silent(key: str, new: Any) -> bool:
    return key in SILENT or (new in (None, "auto") and key in FOLLOW_THE_DATA)


def _is_accepted(key: str) -> bool:
    return not key.startswith(REFUSED) and any(key == part or key.startswith(f"{part}.") for part in ACCEPTED)


def check_left_out(run: Run, config: dict[str, Any], fresh: dict[str, Any], typed_now: Sequence[str]) -> dict[str, Any]:
    """Compare what a run goes on with and what the same command would mean as a fresh run.

    Args:
        run: The run.
        config: What it goes on with: its own config, and the flags of this command over it.
        fresh: The config of this command alone: the project's defaults, and the flags over them.
        typed_now: The command.

    Returns:
        Settings of the run's length and machine that this command leaves out.

    Raises:
        Mistake: The command leaves out a flag that makes the run what it is.
    """
    measured = MEASURED if fresh.get("fast") else ()
    began = _flags_that_began(run)
    lacking = [flag for flag in began or [] if flag not in _pairs(as_kept(typed_now))]
    left_out, accepted = {}, {}
    for key, has, means in differences(config, fresh):
        was_given = key in FOLLOW_THE_DATA and any(_sets(flag, [key]) for flag in lacking)
        if key not in measured and (was_given or not _is_silent(key, means)):
            (accepted if _is_accepted(key) else left_out)[key] = has, means
    if not left_out:
        return {key: has for key, (has, _) in accepted.items()}
    parts = [key.removesuffix(".class_path") for key in left_out]  # a class is named with all of its arguments
    if began is None:
        given = ((key, value) for key, value in flat(config) if value is not None or key in left_out)
        flags = as_flags({key: value for key, value in given if _is_of(key, parts)})
        changed = {}
    else:
        flags = [part for flag in _needed(lacking, parts) for part in flag]
        changed = {key: both for key, both in left_out.items() if not any(_sets(flag, [key]) for flag in began)}
    said = []
    if flags:
        said.append(f"this command leaves out flags of {run}; add {shlex.join(flags)}")
    if changed:
        was = ", ".join(f"{as_typed(key)} {has} → {means}" for key, (has, means) in changed.items())
        said.append(f"the project's defaults are not what they were when {run} began ({was})")
    raise Mistake(
        f"as a new run it would be another experiment: {', and '.join(said)}; or go on with the run's config as it "
        "stands: --resume same."
    )


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as flags, a class before its arguments."""
    order = sorted(settings, key=as_typed)
    return [part for key in order for part in (as_typed(key), as_text(settings[key]))]


def _flags_that_began(run: Run) -> list[list[str]] | None:
    """Return the flags that a run began with, each with its value if that stands apart; None of an earlier version."""
    works = launches_of(run)
    return _pairs(works[0].command) if works else None


def _pairs(command: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = []
    for arg in command[1:]:
        if arg.startswith(("--", "-c")) or not found:
            found.append([arg])
        else:
            found[-1].append(arg)
    return found


def _needed(lacking: list[list[str]], parts: list[str]) -> list[list[str]]:
    """Return the flags that some settings follow from; with a config come all that came over it."""
    needed = [flag for flag in lacking if _sets(flag, parts)]
    return lacking if any(flag[0].startswith(("--config", "-c")) for flag in needed) else needed


def _sets(flag: list[str], parts: Collection[str]) -> bool:
    """Tell whether a flag, or the config that it names, says something of a setting or of what it is a part of."""
    try:
        typed = typed_settings(named_configs(flag))
    except Mistake:  # a config of the user's that is no longer there
        return False
    return any(_is_of(key, parts) or _is_of(part, [key]) for key in typed for part in parts)


def _is_of(key: str, parts: Collection[str]) -> bool:
    flag = f"{as_typed(key)}."
    return any(flag.startswith(f"{as_typed(part)}.") for part in parts)


def as_the_run_has_it(config_file: Path, data: Any) -> None:
    """Give flags that the data completed when the run began the run's values: `a` is its [a], [notes] may be a part.

    Args:
        config_file: The run's config.
        data: The data's settings, which are changed.
    """
    settled = read_config(config_file).get("data") or {}
    for name in (key.removeprefix("data.") for key in FOLLOW_THE_DATA):
        old, new = settled.get(name), data.get(name)
        if not isinstance(old, list) or new is None or new == "auto":
            continue
        given = new if isinstance(new, list) else [new]
        if given == old or (name in COMPLETED and set(given) <= set(old)):
            data[name] = old


class Lock:
    """Marks a run that has not ended; held by the process that works on it.

    Args:
        run: The run; or any folder that one process at a time may work on.

    Raises:
        Mistake: Another process works on the run.
    """

    held: ClassVar[set[Path]] = set()  # by this process, which the kernel lets lock again

    def __init__(self, run: Run) -> None:
        self.path = run.lock
        self.file = opened(self.path, os.O_RDWR | os.O_CREAT)
        if locked(self.file, self.path) is False:
            raise Mistake(f"another process works on {run}, so its files would be mixed up; wait for it or stop it.")
        self.held.add(self.path.resolve())
        os.truncate(self.file, 0)
        os.write(self.file, _address().encode())
        self.copy = remote.copy_of(run.folder)
        if self.copy is not None:
            self.copy.claim(_address())

    def run_ended(self) -> None:
        """The run needs no resume."""
        if self.copy is not None:
            self.copy.end()
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other processes go on with the run."""
        if self.copy is not None:
            self.copy.release()
        self.held.discard(self.path.resolve())
        os.close(self.file)

    @classmethod
    def is_held(cls, run: Run) -> bool:
        """Tell whether a process of another launch works on a run."""
        if run.lock.resolve() in cls.held:
            return True
        copy = remote.copy_of(run.folder)
        if copy is not None and copy.is_worked_on(_address()):
            return True
        try:
            lock = opened(run.lock, os.O_RDWR)
        except FileNotFoundError:  # the run has just ended
            return False
        with os.fdopen(lock, "r+", encoding="utf-8") as file:
            if locked(file.fileno(), run.lock) is False:
                return is_rank_zero() or file.read() != _address()  # rank zero of this launch may be ahead
            return False


def _address() -> str:
    """Return what the ranks of a launch have in common, and no other launch has."""
    names = ("MASTER_ADDR", "MASTER_PORT") if "TORCHELASTIC_RUN_ID" in os.environ else ()
    return " ".join([this_launch().identity or "-", *(os.environ.get(name, "-") for name in names)])
