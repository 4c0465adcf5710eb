"""A run's folder: its files by name, choosing it, finding it again, and what describes the run in it."""

import contextlib
import importlib.metadata
import itertools
import os
import platform
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import traceback
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from . import PACKAGE, VERSION, remote
from .files import append, read_text, reading, write
from .mistakes import Mistake, RunFailed
from .steps import is_log_point
from .together import are_connected, together

PACKAGES = ("lightning", "torch", "torchvision", "torchmetrics", "albumentations", "numpy", "pillow", "pyarrow")
PACKAGES += ("jsonargparse",)


BEST, LAST = "best.ckpt", "last.ckpt"
PATIENCE = 10  # seconds that a shared disk may take to show one host what another has written


class Run:
    """Where the files of a run lie.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = self.folder / "config.yaml"
        self.manifest = self.folder / "manifest.json"
        self.environment = self.folder / "environment.txt"
        self.metrics = self.folder / "metrics.csv"
        self.timing = self.folder / "timing.csv"
        self.failure = self.folder / "failure.txt"
        self.lock = self.folder / "unfinished.lock"
        self.launches = self.folder / "launches.jsonl"
        self.wandb_id = self.folder / "wandb_id.txt"
        self.comet_id = self.folder / "comet_id.txt"
        self.comet = self.folder / "comet"
        self.mlflow_id = self.folder / "mlflow_id.txt"
        self.mlflow_store = self.folder / "mlflow.db"
        self.mlflow_artifacts = self.folder / "mlflow"
        self.checkpoints = self.folder / "checkpoints"
        self.best, self.last = self.checkpoints / BEST, self.checkpoints / LAST
        self.predictions = self.folder / "predictions.csv"
        self.submission = self.folder / "submission.csv"
        self.test_predictions = self.folder / "test_predictions.csv"
        self.confusion_matrix = self.folder / "confusion_matrix.csv"
        self.calibration = self.folder / "calibration.json"
        self.best_validated = self.folder / "best_validated.npy"  # until the run ends
        self.tested_calibration = self.folder / "test_calibration.json"
        self.baseline = self.folder / "baseline.json"
        self.report = self.folder / "report.html"
        self.export = self.folder / "export"

    @classmethod
    def of(cls, checkpoint: str | Path) -> "Run":
        """Return the run that a checkpoint belongs to."""
        path = Path(checkpoint)
        return cls((path if len(path.parts) > 2 else path.absolute()).parent.parent)

    @property
    def number(self) -> int:
        """N of a folder ``version_N``, or -1."""
        suffix = self.folder.name.removeprefix("version_")
        return int(suffix) if suffix.isascii() and suffix.isdecimal() else -1

    @property
    def ended(self) -> bool:
        """Whether the run needs no resume."""
        return not self.lock.exists()

    def check_links(self) -> None:
        """Refuse a run of which a part is a link: what is written there would go elsewhere.

        Raises:
            Mistake: One is.
        """
        parts = (self.checkpoints, self.comet, self.mlflow_store, self.mlflow_artifacts, self.folder / "wandb")
        for part in parts:
            if part.is_symlink():
                raise Mistake(
                    f"{part} is a link, so what is written there would change files elsewhere; remove it, and for "
                    "another place of checkpoints give --callbacks.best.dirpath and --callbacks.last.dirpath."
                )

    def __str__(self) -> str:
        return str(self.folder)


def runs_of(root: str | Path, name: str) -> list[Run]:
    """Return the runs of a name, the newest first; of those in a store ``remote.fetch`` brings the files."""
    found = remote.store(str(root)).runs(name) if remote.is_remote(root) else Path(root, name).glob("version_*")
    return sorted(map(Run, found), key=lambda run: run.number, reverse=True)


def made(folder: Path) -> Path:
    """Make a folder for what a command writes.

    Raises:
        Mistake: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(folder: Path, error: OSError) -> Mistake:
    return Mistake(
        f"{str(folder)!r} cannot be written ({error}), so nothing could be kept; give another folder with --run_root."
    )


def new_run(root: str | Path, name: str) -> Run:
    """Create and return ``root/name/version_N`` with the next free N.

    Raises:
        Mistake: The folder cannot be written.
    """
    base = made(remote.local(root) / name)
    try:
        while True:
            number = max((Run(path).number for path in base.iterdir()), default=-1) + 1
            if remote.is_remote(root):
                number = remote.store(str(root)).claim(name, number)
            run = base / f"version_{number}"
            try:
                run.mkdir(exist_ok=remote.is_remote(root))  # there, the lock decides
            except FileExistsError:  # a run that started at the same moment took it
                continue
            return Run(run)
    except OSError as error:
        raise _unwritable(base, error) from error


def discard(folder: Path) -> None:
    """Remove the folder of a run that never trained, and the folders that are empty without it."""
    if copy := remote.copy_of(folder):
        copy.discard()
    shutil.rmtree(folder, ignore_errors=True)
    for above in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):  # a volume may be mounted there
            if above.is_dir() and not any(above.iterdir()):
                above.rmdir()


def latest(root: str | Path, name: str, file: str = "config") -> Run:
    """Return the newest run of a name that holds a file of Run's.

    Raises:
        Mistake: There is none, or a newer run holds the other of its two checkpoints: the older one's would pass for
            its own.
    """
    other = {"best": "last", "last": "best"}.get(file)
    for run in runs_of(root, name):
        remote.fetch(run.folder, *([file] if other else ["best", "last"]))
        if getattr(run, file).is_file():
            return run
        if other is not None and remote.is_there(getattr(run, other)):
            reason = "no validation has run in it, or it keeps none" if file == "best" else "it keeps none"
            raise Mistake(
                f"the newest run, {run}, has no {file} checkpoint ({reason}), so there is nothing to start from; take "
                f"its other one, --ckpt_path {other}, or the file of another run, --ckpt_path FILE."
            )
    lacking = getattr(Run(""), file)
    raise Mistake(
        f"no run in {root}/{name} holds {lacking}, so there is nothing to start from; "
        "train one with fit, or name it with --name, --run_root or --ckpt_path FILE."
    )


# What a key or a password is called, and where one stands in a text: USER:SECRET@ of an address, a part of its query or
# of a list (host=h password=p), what a header holds.
SECRET = (
    r"(?:api|access|secret|private)[_-]?key|authorization|token|password|passwd|passphrase|secret|pwd|(?<![a-z])pass"
)
IN_ADDRESS = r"(?<=://)[^\s\"'/@:?]*:[^\s\"']+@"
IN_QUERY = rf"([?&;][^\s\"'=&;]*(?:{SECRET})=)[^\s\"'&;]+"
IN_LIST = r"(?:^|[\s;,{\"'])" + rf"[\w.-]*(?:{SECRET})[\"']?\s*[=:]\s*\S"
IN_HEADER = r"\b(bearer\s+|authorization[\"']?\s*[=:]\s*[\"']?\w+\s+)[^\s\"',}]+"
IN_TEXT = re.compile(f"(?i){IN_ADDRESS}|{IN_QUERY}|{IN_LIST}|{IN_HEADER}")


def masked(text: str) -> str:
    """Return what was typed without the keys and passwords in it."""
    shown = re.sub(IN_ADDRESS, "***@", text)
    shown = re.sub(f"(?i){IN_QUERY}", r"\1***", shown)
    shown = re.sub(f"(?i){IN_HEADER}", r"\1***", shown)
    value = r"(?<=\")[^\"]*|(?<=')[^']*|[^\s\"',}]+"
    return re.sub(rf"(?i)((?:{SECRET})[\"']?[=:\s]\s*[\"']?)(?!(?:\w+ )?\*\*\*)(?:{value})", r"\1***", shown)


def masked_command(args: Sequence[str]) -> str:
    """Return a command line without keys and passwords."""
    return " ".join(masked_args(args))


def masked_args(args: Sequence[str]) -> list[str]:
    """Return the arguments of a command without keys and passwords; one that is quoted may hold spaces."""
    shown, is_secret = [], False
    for arg in args:
        flag = re.match(rf"(?i)(-[\w.-]*(?:{SECRET}))(=|$)", arg)
        if is_secret and not arg.startswith("--"):
            shown.append("***")
        elif flag:
            shown.append(flag.group() + ("***" if flag.group(2) else ""))
        else:
            shown.append(masked(arg))
        is_secret = flag is not None and not flag.group(2)
    return shown


def without(flag: str, args: Sequence[str]) -> list[str]:
    """Return a command line without a flag and its value."""
    kept = [arg for i, arg in enumerate(args) if arg != flag and (i == 0 or args[i - 1] != flag)]
    return [arg for arg in kept if not arg.startswith(f"{flag}=")]


def _with_name(flags: list[str]) -> list[str]:
    """Return flags with the environment's values in the run's name, which a shell elsewhere does not have."""
    names = {i for i, flag in enumerate(flags) if flag.startswith("--name=") or flags[i - 1 : i] == ["--name"]}
    return [
        re.sub(r"\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), flag) if i in names else flag
        for i, flag in enumerate(flags)
    ]


def command_to_go_on() -> str:
    """Return the command that goes on with what this process does, to be pasted, without keys and passwords."""
    command, *flags = sys.argv[1:] or [""]
    if command == "fit":
        rest = without("--resume", flags)
        from_another = without("--ckpt_path", rest)  # a run that began with another's checkpoint and config
        is_same = from_another != rest or "--resume=same" in flags or ("--resume", "same") in itertools.pairwise(flags)
        flags = [*_with_name(from_another), "--resume", "same" if is_same else "auto"]
    start, local, nodes = "python", os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if local and "TORCHELASTIC_RUN_ID" in os.environ:
        of_nodes = "" if nodes == "1" else f" --nnodes {nodes} …"  # the rest is the cluster's
        start = f"torchrun{of_nodes} --nproc-per-node {local}"
    return f"{start} -m {PACKAGE} {shlex.join(masked_args([command, *flags]))}"


def without_secrets(settings: Any, name: str = "") -> tuple[Any, list[str]]:
    """Return the settings of a config with null for each key and password, and the names of those."""
    if isinstance(settings, dict | list):
        keyed = settings.items() if isinstance(settings, dict) else enumerate(settings)
        parts = {key: without_secrets(value, f"{name}.{key}" if name else str(key)) for key, value in keyed}
        kept = {key: value for key, (value, _) in parts.items()}
        hidden = [each for _, names in parts.values() for each in names]
        return (kept if isinstance(settings, dict) else list(kept.values())), hidden
    is_secret = isinstance(settings, str) and (
        re.search(rf"(?i)(?:^|[._-])(?:{SECRET})$", name) or IN_TEXT.search(urllib.parse.unquote(settings))
    )
    return (None, [name]) if is_secret else (settings, [])


def environment() -> str:
    """Describe what a run depends on beside its config: versions, hardware, the state of the code, the command."""
    lines = [f"command: {masked_command(sys.argv)}", f"python: {platform.python_version()} on {platform.platform()}"]
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


def note_failure(run: Run, error: BaseException) -> None:
    """Write failure.txt: why a run failed, and of a fault in code the traceback."""
    lines = [str(error)]
    if not isinstance(error, RunFailed):
        lines = [f"{type(error).__name__}: {error}", "", *traceback.format_exception(error)]
    with contextlib.suppress(OSError):  # the disk may be full
        write(run.failure, "\n".join(lines).rstrip() + "\n")


class RunFiles(Callback):
    """Writes config.yaml, manifest.json and environment.txt before the first step, without keys and passwords.

    Args:
        run: The run.
        config: The parsed config.
        plain: Turns it into values of YAML.
        checkpoint: What the run goes on from, or nothing.
    """

    def __init__(
        self, run: Run, config: Namespace, plain: Callable[[Namespace], dict[str, Any]], checkpoint: str
    ) -> None:
        self.run, self.config = run, config
        self.plain, self.checkpoint = plain, checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if are_connected():
            self._check_shared(trainer)
        if not trainer.is_global_zero or stage != "fit":
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in data.settled.items():  # what followed the data, from here on does not
            if name in self.config.data:
                self.config.data[name] = value
        if hasattr(data, "root"):
            self.config.data.root = str(data.root.absolute())
        self.run.failure.unlink(missing_ok=True)
        content, hidden = without_secrets(self.plain(self.config))
        for key in ("ckpt_path", "weights_only"):  # flags of fit alone, which tune and crossval would not know
            if content.get(key) is None:
                content.pop(key, None)
        if hidden:
            print(f"kept out of config.yaml: {', '.join(hidden)}; give it again, or by its environment variable")
        begun = self.run.environment
        with reading(begun):
            earlier = read_text(begun, errors="replace") + "\n" if begun.is_file() else ""
        write(begun, earlier + environment())
        if not earlier:
            data.manifest.save(self.run.manifest)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write(self.run.config, f"# engine/ {VERSION}\n{text}")  # a comment, which every version reads

    def _check_shared(self, trainer: Trainer) -> None:
        """Refuse a host that does not see the run's folder, and a rank that chose another checkpoint.

        Raises:
            Mistake: There is such a host.
            RunFailed: There is such a rank.
        """
        mark = self.run.folder / f".seen-{secrets.token_hex(8)}"
        with together():
            if trainer.is_global_zero:
                write(mark, "")
        mark, checkpoint, host = trainer.strategy.broadcast((mark, self.checkpoint, socket.gethostname()))
        try:
            with together():
                if not _is_seen(mark):
                    raise Mistake(
                        f"{str(mark.parent)!r}, the run's folder of rank 0 on {host}, is not seen here, so no "
                        "checkpoint could be read; give every host the same disk, and --run_root FOLDER on it."
                    )
                if checkpoint != self.checkpoint:
                    raise RunFailed(
                        f"goes on from {self.checkpoint or 'nothing'}, rank 0 from {checkpoint or 'nothing'}, so they "
                        "would train two runs; start the run again."
                    )
        finally:
            if trainer.is_global_zero:
                mark.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero and self.run.last.is_file():
            print(f"{self.run} is unfinished; to go on with it: {command_to_go_on()}")


def _is_seen(path: Path) -> bool:
    """Tell whether a file that another host has just written is there; a shared disk may show it later."""
    for _ in range(PATIENCE):
        if path.parent.is_dir() and path.name in os.listdir(path.parent):  # which asks the server, not a cache
            return True
        time.sleep(1)
    return False


class Timing(Callback):
    """Writes timing.csv: at each log point the time of training since the one before, validation and saving left out.

    Its columns are the step, the seconds, those of them in which training waited for data, and the samples.

    Args:
        run: The run.
    """

    COLUMNS = "step,seconds,data_wait,samples\n"

    def __init__(self, run: Run) -> None:
        self.file = run.timing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_anew()
        self.mark = time.perf_counter()
        if trainer.is_global_zero and not self.file.exists():
            write(self.file, self.COLUMNS)

    def _start_anew(self) -> None:
        self.waited = self.worked = 0.0
        self.samples = 0

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
        self.samples += len(batch[0]) * trainer.world_size
        if is_log_point(trainer) and trainer.is_global_zero:
            seconds = f"{self.waited + self.worked:.6f},{self.waited:.6f}"
            append(self.file, f"{trainer.global_step},{seconds},{self.samples}\n")
            self._start_anew()
        self.mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()
