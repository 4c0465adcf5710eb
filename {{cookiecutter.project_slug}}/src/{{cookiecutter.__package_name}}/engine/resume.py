"""``fit --resume auto``: which run goes on, from which checkpoint, and which changes it accepts."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from . import checkpoints, remote
from .configs import as_typed, differences, read_config
from .files import opened, reading
from .mistakes import Mistake
from .runs import Run, is_rank_zero, runs_of

# Anything else that differs from the run's config would make another experiment of it.
ACCEPTED = ("trainer", "callbacks", "name", "model.compile", "data.num_workers", "data.cache_gb", "data.cache_root")
ACCEPTED += ("data.max_megapixels",)
REFUSED = (
    "callbacks.averaging",
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
    "data.group",
    "data.group_column",
    "data.id",
    "data.image_column",
    "data.image_size",
    "data.label_columns",
    "data.label_delimiter",
    "data.numbers",
    "data.split_column",
    "data.stored_size",
    "data.target",
    "data.task",
    "data.value_range",
    "data.weight",
    "data.weight_column",
)

COMPLETED = ("categories", "drop", "numbers")  # of these the run's config has more columns than were given


def implied() -> bool:
    """Tell whether a scheduler has started this command again: torchrun after a failure, SLURM after a requeue."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


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


def find(root: str | Path, name: str, kind_of: Callable[[Run], type]) -> Source | None:
    """Return the newest run of a name that neither ended nor runs, its newest readable checkpoint, and the step.

    ``last.ckpt`` comes before ``best.ckpt``. What is passed over is said. A scheduler that starts a command again means
    the newest run and no other. ``kind_of`` returns the class of a run's model.
    """
    found = runs_of(root, name)
    for run in found[:1] if implied() else found:
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
        if key in SILENT or (new in (None, "auto") and key in FOLLOW_THE_DATA):
            continue
        if key.startswith(REFUSED) or not any(key == part or key.startswith(f"{part}.") for part in ACCEPTED):
            raise Mistake(
                f"{as_typed(key)}={new} differs from the run's {old}, so the run would no longer be one experiment; "
                "leave it out, or start a new run from these weights: --model.weights CHECKPOINT."
            )
        part = ".".join(key.split(".")[:2])
        accepted.append(f"{key} {old} → {new}" if key == part else part)
    return list(dict.fromkeys(accepted))


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
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released with the process, not inherited by workers
        except OSError as error:
            raise Mistake(
                f"another process works on {run}, so its files would be mixed up; wait for it or stop it."
            ) from error
        self.held.add(self.path.resolve())
        os.truncate(self.file, 0)
        os.write(self.file, _launch().encode())
        self.copy = remote.copy_of(run.folder)
        if self.copy is not None:
            self.copy.claim(_launch())

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
        if copy is not None and copy.is_worked_on(_launch()):
            return True
        with os.fdopen(opened(run.lock, os.O_RDWR), "r+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return is_rank_zero() or file.read() != _launch()  # rank zero of this launch may be ahead
            return False


def _launch() -> str:
    names = ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"]
    names += ["MASTER_ADDR", "MASTER_PORT"] if "TORCHELASTIC_RUN_ID" in os.environ else []
    return " ".join(os.environ.get(name, "-") for name in names)
