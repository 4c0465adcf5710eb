"""``fit --resume auto``: which run goes on, from which checkpoint, and which changes it accepts."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from . import checkpoints, runs

# Anything else that differs from the run's config would make another experiment of it.
ACCEPTED = ("trainer", "callbacks", "name", "model.compile", "data.num_workers")
SILENT = (
    "ckpt_path",
    "resume",
    "config",
    "run_root",
    "data.manifest",
    "data.predict_root",
    "data.root",
)  # images are compared
REFUSED = ("trainer.gradient_clip", "trainer.limit_train_batches", "trainer.overfit_batches", "trainer.sync_batchnorm")
REFUSED += ("callbacks.averaging",)
FOLLOW_THE_DATA = ("data.image_size", "data.stored_size", "data.channels")


def implied() -> bool:
    """Tell whether a scheduler has started this command again: torchrun after a failure, SLURM after a requeue."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def find(root: Path, name: str) -> Path | None:
    """Return the newest readable checkpoint of the newest run of a name that did not end and is not running.

    ``last.ckpt`` comes before ``best.ckpt``. What is passed over is said.
    """
    for run in sorted((root / name).glob("version_*"), key=runs.number, reverse=True):
        if not (run / Lock.FILE).exists() or not (run / "config.yaml").is_file() or Lock.is_held(run):
            continue
        for path in (run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt"):
            if not path.is_file():
                continue
            try:
                content = checkpoints.read(path)
                if not content.get("resume", {}).get("between_steps", True):
                    raise ValueError(f"{path} was saved between the accumulated batches of a step")
            except ValueError as error:
                if runs.is_rank_zero():
                    print(f"resume: passed over, {error}")
                continue
            return path
    return None


def check_changes(config_file: Path, config: dict[str, Any]) -> list[str]:
    """Compare a run's config with the one that it is to go on with; returns the accepted changes, for people.

    Raises:
        ValueError: A change that the run cannot take.
    """
    before = dict(_flat(yaml.safe_load(config_file.read_text(encoding="utf-8"))))
    after = dict(_flat(config))
    accepted = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new or (new is None and key in FOLLOW_THE_DATA):
            continue
        if key in SILENT:
            continue
        if key.startswith(REFUSED) or not any(key == part or key.startswith(f"{part}.") for part in ACCEPTED):
            raise ValueError(
                f"{key}={new} differs from the run's {old}, so the run would no longer be one experiment; "
                "leave it out, or start a new run from these weights: --model.weights CHECKPOINT."
            )
        part = ".".join(key.split(".")[:2])
        accepted.append(f"{key} {old} → {new}" if key == part else part)
    return list(dict.fromkeys(accepted))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


class Lock:
    """Marks a run that has not ended; held by the process that works on it.

    Args:
        run: The run's folder.

    Raises:
        ValueError: Another process works on the run.
    """

    FILE = "unfinished.lock"

    def __init__(self, run: Path) -> None:
        self.path = run / self.FILE
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released with the process, not inherited by workers
        except OSError as error:
            raise ValueError(
                f"another process works on {run}, so its files would be mixed up; wait for it or stop it."
            ) from error
        os.truncate(self.file, 0)
        os.write(self.file, _launch().encode())

    def run_ended(self) -> None:
        """The run needs no resume."""
        self.path.unlink(missing_ok=True)
        os.close(self.file)

    @classmethod
    def is_held(cls, run: Path) -> bool:
        """Tell whether a process of another launch works on a run."""
        with (run / cls.FILE).open("r+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return runs.is_rank_zero() or file.read() != _launch()  # rank zero of this launch may be ahead
            return False


def _launch() -> str:
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID")
    return " ".join(os.environ.get(name, "-") for name in names)
