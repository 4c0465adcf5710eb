"""A run's folder: choosing it, finding it again, and what describes the run in it."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer

from .faults import is_log_point
from .mistakes import RunFailed

PACKAGES = ("lightning", "torch", "torchvision", "torchmetrics", "albumentations", "numpy", "pillow", "jsonargparse")


def is_rank_zero() -> bool:
    """Tell whether this process leads the run, before any process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def number(run: Path) -> int:
    """Return N of a folder ``version_N``, or -1."""
    suffix = run.name.removeprefix("version_")
    return int(suffix) if suffix.isdigit() else -1


def made(folder: Path) -> Path:
    """Make a folder for what a command writes.

    Raises:
        ValueError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{str(folder)!r} cannot be made ({error}), so nothing could be kept; give another folder with --run_root."
        ) from error
    return folder


def new(root: Path, name: str) -> Path:
    """Create and return ``root/name/version_N`` with the next free N.

    Raises:
        ValueError: The folder cannot be written.
    """
    base = root / name
    try:
        base.mkdir(parents=True, exist_ok=True)
        while True:
            run = base / f"version_{max((number(path) for path in base.iterdir()), default=-1) + 1}"
            try:
                run.mkdir()
            except FileExistsError:  # a run that started at the same moment took it
                continue
            return run
    except OSError as error:
        raise ValueError(
            f"run_root={str(root)!r} cannot be written ({error}), so nothing could be kept; give another with "
            "--run_root."
        ) from error


def write(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="")
    os.replace(unfinished, path)


def discard(run: Path) -> None:
    """Remove a run that never trained, and the folders that are empty without it."""
    shutil.rmtree(run, ignore_errors=True)
    for folder in (run.parent, run.parent.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def latest(root: Path, name: str, file: str = "config.yaml") -> Path:
    """Return the newest run of a name that holds ``file``.

    Raises:
        ValueError: There is none.
    """
    found = [path for path in (root / name).glob("version_*") if (path / file).is_file()]
    if not found:
        raise ValueError(
            f"no run in {root / name} holds {file}, so there is nothing to start from; "
            "train one with fit, or name it with --name, --run_root or --ckpt_path FILE."
        )
    return max(found, key=number)


def environment() -> str:
    """Describe what a run depends on beside its config: versions, hardware, the state of the code, the command."""
    lines = [f"command: {' '.join(sys.argv)}", f"python: {platform.python_version()} on {platform.platform()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines += [f"gpu: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
        if commit.returncode == 0:
            lines.append(f"git: {commit.stdout.strip()}{' with uncommitted changes' if changes.stdout else ''}")
    except (OSError, subprocess.TimeoutExpired):
        pass
    return "\n".join(lines) + "\n"


class RunFiles(Callback):
    """Writes config.yaml, manifest.json and environment.txt before the first step, failure.txt where a run fails.

    Hands the config to every logger.

    Args:
        folder: The run's folder.
        config: The parsed config.
        dump: Turns it into YAML.
        checkpoint: What the run goes on from, or nothing.
    """

    def __init__(self, folder: Path, config: Namespace, dump: Callable[[Namespace], str], checkpoint: str) -> None:
        self.folder, self.config, self.dump, self.checkpoint = folder, config, dump, checkpoint
        self.trains = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        chosen = trainer.strategy.broadcast(self.checkpoint)
        if chosen != self.checkpoint:
            raise RunFailed(f"rank 0 goes on from {chosen}, this rank from {self.checkpoint}; start the run again.")
        if not trainer.is_global_zero or stage != "fit":
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        for chosen in ("image_size", "stored_size", "channels"):  # what followed the data is settled from here on
            self.config.data[chosen] = getattr(data, chosen)
        self.config.data.root = str(data.root.absolute())
        (self.folder / "failure.txt").unlink(missing_ok=True)
        text = self.dump(self.config)
        begun = self.folder / "environment.txt"
        earlier = begun.read_text(encoding="utf-8") + "\n" if begun.is_file() else ""
        write(begun, earlier + environment())
        if not earlier:
            data.manifest.save(self.folder / "manifest.json")
        write(self.folder / "config.yaml", text)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trains = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not trainer.is_global_zero:
            return
        if isinstance(exception, Exception) and self.trains:  # no interruption from outside, nor a flag refused
            kind = "" if isinstance(exception, RunFailed) else f"{type(exception).__name__}: "
            with contextlib.suppress(OSError):  # the disk may be full
                write(self.folder / "failure.txt", f"{kind}{exception}\n")
        if (self.folder / "checkpoints/last.ckpt").is_file():
            print(f"{self.folder} is unfinished; the same command with --resume auto goes on with it")


class Timing(Callback):
    """Writes timing.csv: at each log point the time of training since the one before, validation and saving left out.

    Its columns are the step, the seconds, those of them in which training waited for data, and the images.

    Args:
        folder: The run's folder.
    """

    COLUMNS = "step,seconds,data_wait,images\n"

    def __init__(self, folder: Path) -> None:
        self.file = folder / "timing.csv"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waited, self.worked, self.images, self.mark = 0.0, 0.0, 0, time.perf_counter()
        if trainer.is_global_zero and not self.file.exists():
            self.file.write_text(self.COLUMNS)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self.waited += now - self.mark
        self.mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.worked += now - self.mark
        self.images += len(batch[0]) * trainer.world_size
        if is_log_point(trainer) and trainer.is_global_zero:
            with self.file.open("a") as file:
                file.write(f"{trainer.global_step},{self.waited + self.worked:.6f},{self.waited:.6f},{self.images}\n")
            self.waited, self.worked, self.images = 0.0, 0.0, 0
        self.mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()
