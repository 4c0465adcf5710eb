"""Faults, injected for real: kills at any step and inside a save, full disks, broken numbers, hostile files.

    python tests/faults.py [--seed 0]

Each is done to a generated project and, by the same harness, to plain Lightning (plain_lightning.py), so that a mended
Lightning is noticed. Writes the scorecard into docs/reliability.md and ends with ``N faults, N survived``; exit code 0
only if every promise holds.
"""

import argparse
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import attacks
import launched
import numpy as np
import psutil
import slurm
import torch
import yaml
from bakes import fuzz
from conftest import HUNG, TEMPLATE, Command, Result, bake, free_port, hosts, rows
from PIL import Image
from sklearn.metrics import f1_score, log_loss, roc_auc_score

PLAIN = Path(__file__).with_name("plain_lightning.py")
BASE = (
    *("--data.root=images", "--data.batch_size=8", "--data.num_workers=0", "--trainer.max_epochs=4"),
    *("--model.network.width=4", "--model.network.dropout=0.3", "--trainer.accelerator=cpu"),
    *("--trainer.log_every_n_steps=2", "--trainer.logger=[]", "--name=run"),
)
DDP = ("--trainer.devices=2", "--trainer.strategy=ddp")
EMA = ("--callbacks.averaging=EMAWeightAveraging", "--callbacks.averaging.decay=0.9")
SWA = ("--callbacks.averaging=SWA", "--callbacks.averaging.start_epoch=1")
# What is trained, on how many ranks.
SETTINGS: dict[str, tuple[int, tuple[str, ...]]] = {
    "the default run": (1, ()),
    "one-cycle, EMA, MixUp, weighted sampling": (
        1,
        (
            *("--model.schedule=OneCycle", "--model.mixup=0.4", "--data.balance=sampler"),
            *EMA,
            "--callbacks.early_stopping=null",
        ),
    ),
    "accumulation of 2, validation twice an epoch, saves every 3 steps": (
        1,
        (
            *("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"),
            "--callbacks.last.every_n_train_steps=3",
        ),
    ),
    "plateau, early stopping, saves every 2 steps": (
        1,
        (
            *("--model.schedule=Plateau", "--model.schedule.patience=0", "--callbacks.early_stopping.patience=3"),
            *("--callbacks.last.every_n_train_steps=2", "--trainer.val_check_interval=2"),
        ),
    ),
    "one worker, saves every 2 steps": (1, ("--data.num_workers=1", "--callbacks.last.every_n_train_steps=2")),
    "two workers, SWA": (1, ("--data.num_workers=2", *SWA)),
    "two workers that end with each epoch, saves every 4 steps": (
        1,
        ("--data.num_workers=2", "--callbacks.last.every_n_train_steps=4", "--data.augment=medium"),
    ),
    "two ranks": (2, DDP),
    "four ranks": (4, ("--trainer.devices=4", "--trainer.strategy=ddp")),
    "several labels from a table, MixUp, sampling by the rarest label": (
        1,
        (
            *("--data.labels=labels.csv", "--model.mixup=0.3", "--data.balance=sampler"),
            "--callbacks.last.every_n_train_steps=2",
        ),
    ),
    "numbers from a table, their logarithm, weights of samples, EMA": (
        1,
        (
            *("--data.labels=numbers.csv", "--data.log_target=true", "--model.loss=Huber", *EMA),
            "--callbacks.last.every_n_train_steps=3",
        ),
    ),
    "two ranks with a worker each, weighted sampling, accumulation of 2, saves every 2 steps": (
        2,
        (
            *DDP,
            *("--data.balance=sampler", "--data.num_workers=1", "--trainer.accumulate_grad_batches=2"),
            "--callbacks.last.every_n_train_steps=2",
        ),
    ),
}


STOPPED = (
    "accumulation of 2, validation twice an epoch, saves every 3 steps",
    "plateau, early stopping, saves every 2 steps",
    "two workers, SWA",
    "several labels from a table, MixUp, sampling by the rarest label",
    "numbers from a table, their logarithm, weights of samples, EMA",
    "two ranks",
    "two ranks with a worker each, weighted sampling, accumulation of 2, saves every 2 steps",
)


def draw(folder: Path) -> Path:
    """Draw 3 × 24 images, of which one class is rarer."""
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(24 if label else 16):
            pixels = np.random.default_rng([label, number]).integers(0, 170, (12, 12, 3), dtype=np.uint8)
            pixels[..., label] += 40
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def tabulate(images: Path) -> None:
    """Write tables of several labels and of numbers beside the images."""
    labels, numbers = ["image,cold,warm,even"], ["image,price,weight"]
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        key, colour = path.relative_to(images), path.parent.name
        labels.append(f"{key},{int(colour == 'blue')},{int(colour != 'blue')},{int(number % 2 == 0)}")
        numbers.append(f"{key},{1000.5 * (1 + number % 7)},{1 + number % 3}")
    for name, lines in (("labels", labels), ("numbers", numbers)):
        (images.parent / f"{name}.csv").write_text("\n".join(lines) + "\n")


def sabotage(fault: str) -> None:
    """Arm a fault in this process before its command starts: KIND N [VALUE], struck at the N-th hook of callbacks.

    A number for KIND is a signal, and VALUE names the ranks that get it. ``upload`` kills inside the N-th upload.

    ``brief`` in front of it makes the workers of loaders end with each epoch; what is wrong from the start on stands
    before a semicolon.
    """
    import lightning.pytorch.trainer.call as call

    if fault.startswith("brief"):
        fault, make = fault.removeprefix("brief").strip(), torch.utils.data.DataLoader.__init__

        def brief(*args: Any, **kwargs: Any) -> None:
            make(*args, **{**kwargs, "persistent_workers": False})

        torch.utils.data.DataLoader.__init__ = brief
        if not fault:
            return

    if "; " in fault:
        first, fault = fault.split("; ")
        sabotage(first)
    kind, at, value = [*fault.split(" "), "", ""][:3]
    if kind in GROUND:
        GROUND[kind](at)
        return
    hooks, real = 0, call._call_callback_hooks

    def struck(*args: Any, **kwargs: Any) -> None:
        nonlocal hooks
        hooks += 1
        if kind == "count":
            Path(value).write_text(str(hooks))
        elif hooks == int(at) and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif hooks == int(at) and kind.isdecimal() and os.environ.get("RANK", "0") in value:
            os.kill(os.getpid(), int(kind))
        elif hooks == int(at) and kind == "fill":
            fill(Path(value))
        elif hooks == int(at) and kind in STRIKES:
            STRIKES[kind](value)
        real(*args, **kwargs)

    if kind == "upload":
        from fsspec.implementations.local import LocalFileSystem

        uploads, put = 0, LocalFileSystem.put_file

        def killed(self: Any, source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal uploads
            uploads += 1
            if uploads == int(at):
                content = Path(source).read_bytes()
                Path(target).write_bytes(content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return put(self, source, target, *args, **kwargs)

        LocalFileSystem.put_file = killed  # pyright: ignore[reportAttributeAccessIssue]
    call._call_callback_hooks = struck
    if kind == "nan":
        steps, loss = 0, torch.nn.functional.cross_entropy

        def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
            nonlocal steps
            result = loss(*args, **kwargs)
            steps += torch.is_grad_enabled()
            return result * float("nan") if steps == int(at) and torch.is_grad_enabled() else result

        torch.nn.functional.cross_entropy = broken


def small_shared_memory(megabytes: str) -> None:
    """Give this process a /dev/shm of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "faults", "/dev/shm"], check=True)


def no_locks(_: str) -> None:
    """Let this process meet a file system without locks."""

    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.lockf = lockf


def few_files(number: str) -> None:
    """Let this process open few files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number)))


def lost_output(what: str) -> None:
    """Close an output of this process, or lead it to a full disk or to a pipe that nobody reads."""
    name, _, how = what.partition("-")
    number = {"stdout": 1, "stderr": 2}[name]
    if how == "closed":
        os.close(number)
        setattr(sys, name, None)
        return
    other = os.open("/dev/full", os.O_WRONLY)
    if how == "unread":
        read, other = os.pipe()
        os.close(read)
    os.dup2(other, number)


def cut_short(pattern: str) -> None:
    """Cut files short."""
    for path in Path().glob(pattern):
        os.truncate(path, 200)


def full_for(pattern: str) -> None:
    """Lead files to a full disk."""
    for path in Path().glob(pattern):
        path.unlink()
        path.symlink_to("/dev/full")


def other_image(path: str) -> None:
    """Put another image in the place of one, as a copy program does."""
    Image.new("RGB", (12, 12)).save(f"{path}.new.png")
    os.replace(f"{path}.new.png", path)


# What is wrong from the start of a command on, and what strikes at a hook.
GROUND = {"shm": small_shared_memory, "unlocked": no_locks, "files": few_files, "output": lost_output}
STRIKES: dict[str, Callable[[str], object]] = {
    "cut": cut_short,
    "remove": lambda pattern: [path.unlink() for path in Path().glob(pattern)],
    "full": full_for,
    "replace": other_image,
    "orphan": lambda _: multiprocessing.active_children()[-1].kill(),
}


def fill(folder: Path) -> None:
    """Leave no room on the file system of a folder."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


@contextmanager
def file_system(folder: Path, megabytes: int = 4) -> Iterator[Path]:
    """Mount a small file system of its own at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "faults", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def training_state(checkpoint: Path) -> str:
    """Return a hash of all that training changes: weights, averages, optimizer and schedule."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())

    for part in ("state_dict", "optimizer_states", "lr_schedulers", "averaging_state", "current_model_state"):
        add(content.get(part))
    return digest.hexdigest()


class Ended(NamedTuple):
    """What a run left: its exit code, output, and the hashes of its checkpoints and metrics."""

    result: Result
    run: Path
    state: tuple[str, str, str]


def ended(result: Result, place: Path) -> Ended:
    """Collect what the newest run of a place left."""
    run = max((place / "runs").glob("*/version_*"), default=place)
    files = [run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt"]
    if result.code or not all(file.is_file() for file in files):
        return Ended(result, run, ("", "", ""))
    last, best = map(training_state, files)
    return Ended(result, run, (last, best, (run / "metrics.csv").read_text()))


@dataclass
class Arena:
    """Where faults happen: a project, its images, and a folder of its own for each try."""

    folder: Path
    seed: int = 0
    command: Command = field(default_factory=Command)
    one_of_each: bool = False
    tries: int = 0

    def __post_init__(self) -> None:
        self.project = bake(self.folder / "baked")
        self.images = draw(self.folder / "images")
        tabulate(self.images)
        self.random = random.Random(self.seed)

    def some(self, cases: Sequence[Any]) -> Sequence[Any]:
        """Return all cases of a fault, or the last where one of each kind is enough."""
        return cases[-1:] if self.one_of_each else cases

    @cached_property
    def unbroken(self) -> tuple[str, str, str]:
        """What the default run leaves."""
        return self.fit(self.place()).state

    def place(self) -> Path:
        """Make a working folder that sees the images."""
        self.tries += 1
        place = self.folder / f"try-{self.tries}"
        place.mkdir()
        for name in ("images", "labels.csv", "numbers.csv"):
            (place / name).symlink_to(self.folder / name)
        return place

    def run(self, place: Path, *args: object, ranks: int = 1, fault: str = "", **environment: str) -> Result:
        """Run a command of the project (or ``-m FILE``), with a fault in it, to its end."""
        armed = environment | ({"SABOTAGE": fault} if fault else {})
        return self.command(self.project, place, *args, ranks=ranks, environment=armed)

    def start(self, place: Path) -> list[tuple[Any, Path]]:
        """Start a run that would take long, and wait for its first checkpoint."""
        started = self.command.start(self.project, place, "fit", *BASE, "--trainer.max_epochs=400")
        while not (place / "runs/run/version_0/checkpoints/last.ckpt").exists():
            time.sleep(0.05)
        return started

    def fit(self, place: Path, *flags: str, ranks: int = 1, fault: str = "", **environment: str) -> Ended:
        """Train, and return what is left."""
        result = self.run(place, "fit", *BASE, *flags, ranks=ranks, fault=fault, **environment)
        return ended(result, place)

    def plain(self, place: Path, *options: str, ranks: int = 1, fault: str = "", **environment: str) -> Result:
        """Run the plain arm."""
        return self.run(place, "-m", PLAIN, "images", *options, ranks=ranks, fault=fault, **environment)

    def refused(self, place: Path, *lines: Sequence[object], words: str) -> list[bool]:
        """Tell which commands end as a user's mistake: one line, exit code 2, nothing new but decoded images."""

        def files() -> list[str]:
            return sorted(str(path) for path in place.rglob("*") if place / "data" not in (path, *path.parents))

        before = files()
        survived = self.judged(place, lines, lambda _, result: in_one_line(result) and words in result.errors[0])
        assert before == files(), set(before) ^ set(files())
        return survived

    def judged(
        self, place: Path, lines: Sequence[Sequence[object]], survives: Callable[[Sequence[object], Result], bool]
    ) -> list[bool]:
        """Tell which commands end well, and print how the others ended."""
        survived = []
        for line, result in zip(lines, self.command.each(self.project, place, lines), strict=True):
            survived.append(survives(line, result))
            if not survived[-1]:
                print(f"not survived: {line}: {result.code} {result.output[-600:]}")
        return survived


def in_one_line(result: Result) -> bool:
    """Tell whether a command ended as a user's mistake."""
    return (result.code, len(result.errors)) == (2, 1)


def kills(arena: Arena, setting: str, tries: int) -> list[bool]:
    """Kill a run at random hooks; the same command with --resume auto must end as the unbroken run did."""
    ranks, flags = SETTINGS[setting]
    brief = "brief " if "end with each epoch" in setting else ""
    place = arena.place()
    whole = arena.fit(place, *flags, ranks=ranks, fault=f"{brief}count 0 {place}/hooks")
    assert whole.result.code == 0, whole.result.output
    hooks, survived = int((place / "hooks").read_text()), []
    for _ in range(tries):
        place, at = arena.place(), arena.random.randrange(1, hooks)
        killed = arena.fit(place, *flags, ranks=ranks, fault=f"{brief}kill {at}")
        assert killed.result.code == -signal.SIGKILL, killed.result.output
        resumed = arena.fit(place, *flags, "--resume=auto", ranks=ranks, fault=brief)
        where = f"{setting}: killed at hook {at}: "
        survived.append(same(resumed.state, whole.state, where + resumed.result.output[-700:]))
    return survived


def stored_runs(arena: Arena, tries: int) -> list[bool]:
    """Kill a run that is kept in a store, every other time inside an upload; it must go on on an empty machine."""
    survived = []
    for number in range(tries):
        store, first, second = arena.place() / "store", arena.place(), arena.place()
        flags = (f"--run_root=file://{store}", "--resume=auto")
        fault = f"upload {arena.random.randrange(7, 16)}" if number % 2 else f"kill {arena.random.randrange(60, 150)}"
        killed = arena.fit(first, *flags, fault=fault)
        assert killed.result.code == -signal.SIGKILL, killed.result.output
        result = arena.run(second, "fit", *BASE, *flags)
        (store.parent / "runs").symlink_to(store)
        done = ended(result, store.parent)
        survived.append(done.state == arena.unbroken and not (done.run / "unfinished.lock").exists())
        if not survived[-1]:
            print(f"not survived: a stored run, {fault}: {result.code} {result.output[-600:]}")
    return survived


def kills_of_plain(arena: Arena, tries: int) -> list[bool]:
    """The same for plain Lightning, resumed from its last.ckpt."""
    place = arena.place()
    whole = arena.plain(place, fault=f"count 0 {place}/hooks")
    assert whole.code == 0, whole.output
    hooks, wanted, survived = int((place / "hooks").read_text()), training_state(place / "checkpoints/last.ckpt"), []
    for _ in range(tries):
        place = arena.place()
        arena.plain(place, fault=f"kill {arena.random.randrange(hooks // 3, hooks)}")
        resumed = arena.plain(place, "--resume")
        survived.append(resumed.code == 0 and training_state(place / "checkpoints/last.ckpt") == wanted)
    return survived


def whole_processes(arena: Arena, tries: int) -> list[bool]:
    """Kill real processes, with their imports and two workers, at random times."""
    environment = {**os.environ, "PYTHONPATH": str(arena.project / "src"), "CUDA_VISIBLE_DEVICES": ""}
    flags = ("--data.num_workers=2", "--trainer.max_epochs=12", "--callbacks.last.every_n_train_steps=2")
    program = [sys.executable, "-m", "my_project", "fit", *BASE, *flags]
    wanted, survived = arena.fit(arena.place(), *flags).state, []
    for _ in range(tries):
        place = arena.place()
        metrics = place / "runs/run/version_0/metrics.csv"
        process = subprocess.Popen(program, cwd=place, env=environment, stdout=subprocess.DEVNULL)
        while not metrics.exists():
            time.sleep(0.01)
        time.sleep(arena.random.uniform(0, 1.5))
        process.kill()
        process.wait()
        program_again = [*program, "--resume=auto"]
        done = subprocess.run(program_again, cwd=place, env=environment, capture_output=True, text=True)
        resumed = ended(Result(done.returncode, done.stdout + done.stderr), place)
        survived.append(same(resumed.state, wanted, resumed.result.output))
    return survived


def killed_ranks(arena: Arena, tries: int) -> list[bool]:
    """Kill a random rank of a real torchrun at random moments: it comes back, in the time of one more start."""
    flags = (*BASE, "--trainer.max_epochs=60")
    if arena.one_of_each:  # ranks forked from what is imported
        wanted, place = arena.fit(arena.place(), *DDP, ranks=2).state, arena.place()
        args = (str(arena.project), str(place), ["fit", *BASE, *DDP, "--resume=auto"], "1", "kill 100")
        agent = arena.command.context.Process(target=launched.torchruns_agent, args=args)
        agent.start()
        agent.join(HUNG)
        output = "".join(path.read_text() for path in sorted(place.glob("output-*")))
        came_back = (place / "output-1-1").exists() and not (place / "output-1-2").exists()
        return [came_back and same(ended(Result(agent.exitcode or 0, output), place).state, wanted, output)]

    def trained(moment: float = -1, victim: int = 0) -> tuple[Ended, float]:
        place, begun = arena.place(), time.monotonic()
        launched.furnish(place, arena.project, dry=False)
        agent = launched.start("torchrun.sh", place, arena.project, flags)
        while moment >= 0 and agent.poll() is None:
            ranks = psutil.Process(agent.pid).children() if time.monotonic() - begun > moment else []
            chosen = [process for process in ranks if process.environ().get("RANK") == str(victim)]
            if chosen:
                chosen[0].kill()
                break
            time.sleep(0.01)
        code = agent.wait(HUNG)
        return ended(Result(code, (place / "output").read_text()), place), time.monotonic() - begun

    whole, seconds = trained()
    survived = []
    for _ in range(tries):
        moment, victim = arena.random.uniform(1, seconds - 1), arena.random.randrange(2)
        killed, took = trained(moment, victim)
        print(f"rank {victim} killed after {moment:.0f} s: {took:.0f} s in all, {seconds:.0f} s unbroken", flush=True)
        is_same = same(killed.state, whole.state, killed.result.output)
        survived.append(is_same and killed.run.name == "version_0" and took < 2 * seconds + 30)
    return survived


def silent_ranks(arena: Arena) -> list[bool]:
    """A rank stops answering: the others end within the time that was given, name it, and nothing is lost."""
    wanted, survived = arena.fit(arena.place(), *DDP, ranks=2).state, []
    for silent in arena.some((0, 1)):
        place = arena.place()
        fault = {"SABOTAGE": f"{int(signal.SIGSTOP)} 100 {silent}"}
        flags = ("fit", *BASE, *DDP, "--trainer.strategy.timeout=10")
        processes = arena.command.start(arena.project, place, *flags, ranks=2, environment=fault)
        other = processes[1 - silent][0]
        other.join(HUNG)
        code, result = other.exitcode, arena.command.end(processes)
        named = [line for line in result.errors if f"rank {silent} did not answer for 0:00:10" in line]
        told = "2 ranks: one that does not answer for 0:00:10 ends the run" in result.output
        resumed = arena.fit(place, *DDP, "--resume=auto", ranks=2)
        good = (code, len(named), len(result.errors)) == (1, 1, 1) and told and "Traceback" not in result.output
        survived.append(good and same(resumed.state, wanted, resumed.result.output))
        if not good:
            print(code, result.output[-1500:])
    return survived


def stop_after_a_save(arena: Arena, place: Path, process: subprocess.Popen[str], number: int) -> None:
    """Send a process a signal at a random moment of its training."""
    while process.poll() is None and not list(place.glob("runs/*/version_0/checkpoints/last.ckpt")):
        time.sleep(0.01)
    time.sleep(arena.random.uniform(0, 1))
    if number != signal.SIGUSR1:
        process.send_signal(number)
        return
    for task in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(task), number)  # SLURM tells the tasks, and not the batch script


def stopped_platforms(arena: Arena) -> list[bool]:
    """What each file of launch/ starts is stopped and started again as its platform does."""
    flags, survived = tuple(flag for flag in BASE if flag != "--name=run"), []
    long = () if arena.one_of_each else ("--trainer.max_epochs=40", "--report=false")
    flags += long
    wanted = arena.fit(arena.place(), *long).state if long else arena.unbroken
    for file, platform in launched.PLATFORMS.items():
        place = arena.place()
        launched.furnish(place, arena.project, dry=arena.one_of_each)
        results = []
        for given in (platform.first, platform.first | platform.again):
            is_first = not results
            if arena.one_of_each:
                args, environment = launched.started(file, place, arena.project, flags, **given)
                fault = f"{int(platform.stop)} 100 0" if is_first else ""
                results.append(arena.run(place, *args, fault=fault, **environment))
                continue
            process = launched.start(file, place, arena.project, flags, **given)
            if is_first:
                stop_after_a_save(arena, place, process, platform.stop)
            results.append(Result(process.wait(HUNG), (place / "output").read_text()))
        requeued = (place / "requeued").read_text() if (place / "requeued").exists() else ""
        asked = requeued == ("requeue 7_0\n" if file == "slurm.sh" else "")
        resumed = ended(results[1], place)
        as_one = asked and (results[0].code, resumed.run.name) == (128 + platform.stop, "version_0")
        survived.append(as_one and same(resumed.state, wanted, resumed.result.output))
        if not as_one:
            print(file, results[0].code, requeued, results[0].output[-800:])
    return survived


def requeued_by_slurm(arena: Arena) -> list[bool]:
    """Two tasks of an array, started by launch/slurm.sh, get USR1 as before the end of their time: each goes on.

    Skipped, with the reason, where SLURM cannot start.
    """
    place, long = arena.place(), ("--trainer.max_epochs=40", "--report=false")
    flags = [*(flag for flag in BASE if flag != "--name=run"), *long]
    wanted = [arena.fit(arena.place(), *long, f"--seed_everything={task}").state for task in (0, 1)]
    launched.furnish(place, arena.project, dry=False)
    for name in ("srun", "scontrol"):
        (place / ".venv/bin" / name).unlink()
    script = (place / "launch/slurm.sh").read_text().replace("--cpus-per-task=8", "--cpus-per-task=1")
    script = re.sub("#SBATCH --(gpus-per-node|mem)=.*\n", "", script)
    (place / "slurm.sh").write_text(script)
    try:
        with slurm.cluster(arena.folder / f"slurm-{arena.tries}") as environment:

            def asked(*command: str) -> str:
                return subprocess.run(
                    command, cwd=place, env=environment, capture_output=True, text=True, check=True
                ).stdout

            job = asked("sbatch", "--parsable", "--array=0-1", "slurm.sh", *flags).strip()
            lasts = [place / f"runs/my-project-{task}/version_0/checkpoints/last.ckpt" for task in (0, 1)]
            while not all(last.exists() for last in lasts):
                time.sleep(0.1)
            asked("scancel", "--signal=USR1", job)
            while re.search("JobState=(PENDING|RUNNING|COMPLETING)", shown := asked("scontrol", "show", "job", job)):
                time.sleep(0.5)
    except slurm.NoSlurm as error:
        print(f"skipped: {error}")
        return []
    survived = []
    for task, last in enumerate(lasts):
        output = (place / f"slurm-{job}_{task}.out").read_text()
        is_one = [path.name for path in last.parents[2].iterdir()] == ["version_0"] and shown.count("Restarts=1") == 2
        metrics = (last.parents[1] / "metrics.csv").read_text()
        state = training_state(last), training_state(last.with_name("best.ckpt")), metrics
        survived.append(is_one and same(state, wanted[task], output))
        if not is_one:
            print(shown, output)
    return survived


def pods(arena: Arena) -> list[bool]:
    """Two pods of a Job, of which one is told to end: both save and end; started again, they end as an unbroken run."""
    place, epochs = arena.place(), () if arena.one_of_each else ("--trainer.max_epochs=60",)
    devices = 1 if arena.one_of_each else 2
    wanted = arena.fit(arena.place(), *DDP[1:], f"--trainer.devices={2 * devices}", *epochs, ranks=2 * devices).state
    flags = (*BASE, *epochs, "--trainer.num_nodes=2", f"--trainer.devices={devices}")
    launched.furnish(place, arena.project, dry=False)
    results = []
    for fault in (f"{int(signal.SIGTERM)} 100 0", ""):
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        given = [launched.of_a_pod(arena.project, index, **address) for index in (0, 1)]
        if arena.one_of_each:
            args = [*launched.container(arena.project)["command"], *launched.container(arena.project)["args"], *flags]
            faults = ({}, {"SABOTAGE": fault} if fault else {})
            both = [
                arena.command.start(arena.project, place, *args[1:], environment=pod | own)
                for pod, own in zip(given, faults, strict=True)
            ]
            for processes in both:
                processes[0][0].join(HUNG)
            results.append([arena.command.end(processes) for processes in both])
            continue
        both = [launched.start("kubernetes.yaml", place, arena.project, flags, **pod) for pod in given]
        if fault:  # process 1 of the pod gets the signal, and its children do not
            stop_after_a_save(arena, place, both[1], signal.SIGTERM)
        results.append([Result(pod.wait(HUNG), (place / "output").read_text()) for pod in both])
    codes = [[result.code for result in pair] for pair in results]
    resumed = ended(results[1][0], place)
    as_one = codes == [[143, 143], [0, 0]] and resumed.run.name == "version_0"
    if not as_one:
        print(codes, resumed.run, results[0][0].output[-1500:], results[0][1].output[-1500:])
    return [as_one and same(resumed.state, wanted, resumed.result.output)]


def same(state: tuple[str, str, str], wanted: tuple[str, str, str], output: str) -> bool:
    """Compare what two runs left; says what differs."""
    if state != wanted:
        print([one == other for one, other in zip(state, wanted, strict=True)], output[-800:])
    return state == wanted


def _save_for_ever(source: str, path: str, folder_for_temporary_files: str) -> None:
    tempfile.tempdir = os.environ["TMPDIR"] = folder_for_temporary_files
    if source:
        sys.path.insert(0, source)
        from my_project.engine.checkpoints import WholeFile as Writer  # pyright: ignore[reportMissingImports]
    else:
        from lightning.fabric.plugins import TorchCheckpointIO as Writer
    for value in range(10**6):
        Writer().save_checkpoint({"x": torch.full((4_000_000,), value)}, path)


def kills_inside_a_save(arena: Arena, tries: int, plain: bool = False) -> list[bool]:
    """Kill a process that saves 32 MB over and over; the file must always hold one whole version."""
    survived = []
    with file_system(arena.folder / f"temporary-{plain}", 200) as temporary:
        for _ in range(tries):
            path = arena.place() / "last.ckpt"
            source = "" if plain else str(arena.project / "src")
            process = arena.command.context.Process(target=_save_for_ever, args=(source, str(path), str(temporary)))
            process.start()
            while not path.exists():
                time.sleep(0.01)
            time.sleep(arena.random.uniform(0.05, 0.4))
            process.kill()
            process.join()
            for left in temporary.iterdir():
                left.unlink()
            try:
                values = torch.load(path, weights_only=True)["x"]
                survived.append(bool((values == values[0]).all()))
            except Exception:  # whatever a broken file raises
                survived.append(False)
    return survived


def full_disk(arena: Arena, plain: bool = False) -> list[bool]:
    """Fill the disk after an epoch: the next save fails loudly, the last one stays, and with room the run goes on."""
    place = arena.place()
    wanted = None if plain else arena.unbroken[0]
    with file_system(place / ("checkpoints" if plain else "runs")) as disk:
        if plain:
            done = arena.plain(place, fault=f"fill 90 {disk}")
            return [done.code != 0 and _readable(disk / "last.ckpt")]
        done = arena.run(place, "fit", *BASE, fault=f"fill 90 {disk}")
        last = disk / "run/version_0/checkpoints/last.ckpt"
        loud = done.code == 1 and len(done.errors) == 1 and "could not be written" in done.errors[0]
        kept = _readable(last)
        (disk / "filler").unlink()
        return [loud and kept and arena.fit(place, "--resume=auto").state[0] == wanted]


def _readable(path: Path) -> bool:
    try:
        return bool(torch.load(path, weights_only=True)["state_dict"])
    except Exception:  # whatever a broken file raises
        return False


def full_temporary_folder(arena: Arena, plain: bool = False) -> list[bool]:
    """Temporary files have no room and lie on another file system."""
    place = arena.place()
    with file_system(place / "temporary", 1) as temporary:
        fill(temporary)
        if plain:
            return [arena.plain(place, TMPDIR=str(temporary)).code == 0 and _readable(place / "checkpoints/last.ckpt")]
        return [arena.fit(place, TMPDIR=str(temporary)).result.code == 0]


def unwritable_folder(arena: Arena, plain: bool = False) -> list[bool]:
    """Checkpoints are to be written where nobody can write."""
    if plain:
        done = arena.plain(arena.place(), "--checkpoints=/proc/none")
        return [done.code != 0]
    place = arena.place()
    folders = ("--run_root=/proc/none", "--callbacks.last.dirpath=/proc/none")
    return arena.refused(place, *(("fit", *BASE, folder) for folder in folders), words="cannot be written")


def not_a_number(arena: Arena, plain: bool = False) -> list[bool]:
    """A loss is NaN in the third epoch: the run stops there, and its checkpoint stays finite."""
    if plain:
        place = arena.place()
        done = arena.plain(place, fault="nan 20")
        return [done.code != 0 and _finite(place / "checkpoints/last.ckpt")]
    survived = []
    for ranks, flags in arena.some([(1, ()), (2, DDP)]):
        place = arena.place()
        done = arena.run(place, "fit", *BASE, *flags, ranks=ranks, fault="nan 13")
        last = place / "runs/run/version_0/checkpoints/last.ckpt"
        words = ("the loss is not finite at step 12 (epoch 2, batch 2", "rate 0.00183", ".png")
        said = any(all(word in line for word in words) for line in done.errors)
        mended = arena.fit(place, *flags, "--resume=auto", ranks=ranks)
        survived.append(done.code == 1 and said and mended.result.code == 0 and _finite(last))
        if not survived[-1]:
            print(done.code, done.errors, done.output[-500:], mended.result.output[-500:])
    return survived


def _finite(path: Path) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(bool(value.isfinite().all()) for value in state.values())


def damaged_checkpoint(arena: Arena) -> list[bool]:
    """The newest checkpoint is cut short, overwritten or empty: the one before is taken, and that is said."""
    survived = []
    damages = (
        lambda data: b"",
        lambda data: data[:9000] + bytes(999) + data[9999:],
        lambda data: data[: len(data) // 2],
    )
    for damage in arena.some(damages):
        place = arena.place()
        arena.fit(place, fault="kill 130")
        last = place / "runs/run/version_0/checkpoints/last.ckpt"
        last.write_bytes(damage(last.read_bytes()))
        resumed = arena.fit(place, "--resume=auto")
        survived.append("passed over" in resumed.result.output and resumed.state[0] == arena.unbroken[0])
        if not survived[-1]:
            print(resumed.result.output[-600:])
    return survived


def stops(arena: Arena, setting: str, tries: int) -> list[bool]:
    """Send a run SIGTERM, SIGINT or SIGHUP at random hooks, with several ranks one of them or all.

    It saves and ends with 128 + the signal, or leaves nothing where nothing was trained; the same command with --resume
    auto must end as the unbroken run did.
    """
    ranks, flags = SETTINGS[setting]
    place = arena.place()
    whole = arena.fit(place, *flags, ranks=ranks, fault=f"count 0 {place}/hooks")
    assert whole.result.code == 0, whole.result.output
    hooks, survived = int((place / "hooks").read_text()), []
    for _ in range(tries):
        place, at = arena.place(), arena.random.randrange(1, hooks)
        number = arena.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        told = arena.random.choice(["0", "1", "01"]) if ranks > 1 else "0"
        stopped = arena.fit(place, *flags, ranks=ranks, fault=f"{int(number)} {at} {told}")
        where = f"{setting}: {number.name} to {told} at hook {at}: "
        run = place / "runs/run/version_0"
        is_saved = (run / "checkpoints/last.ckpt").is_file()
        codes = {0: not (run / "unfinished.lock").exists(), 128 + number: is_saved or not (place / "runs").exists()}
        ends_well = codes.get(stopped.result.code, False) and "Traceback" not in stopped.result.output
        if not ends_well:
            print(where, stopped.result.code, is_saved, stopped.result.output[-1500:])
        resumed = arena.fit(place, *flags, "--resume=auto", ranks=ranks)
        ends_well &= not list(place.rglob("*.unfinished"))
        survived.append(ends_well and same(resumed.state, whole.state, where + resumed.result.output[-700:]))
    return survived


def restarted_by_a_scheduler(arena: Arena) -> list[bool]:
    """torchrun or SLURM start the same command again after a kill: no flag is needed."""
    survived = []
    for name in arena.some(["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"]):
        place = arena.place()
        arena.fit(place, fault="kill 100")
        environment: dict[str, Any] = {name: "1"}
        survived.append(arena.fit(place, **environment).state == arena.unbroken)
    return survived


def restarted_among_others(arena: Arena) -> list[bool]:
    """Launches that share a name are killed and started again, the first one first: each takes its own run."""
    survived = []
    known: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"RUN_ID": ""}, {}),
        ({"TORCHELASTIC_RUN_ID": ""}, {"TORCHELASTIC_RESTART_COUNT": "1"}),
        ({"SLURM_JOB_ID": ""}, {"SLURM_RESTART_COUNT": "1"}),
        ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": ""}, {"SLURM_RESTART_COUNT": "1"}),
    ]
    for launch, again in arena.some(known):
        place, states = arena.place(), []
        launches: list[dict[str, Any]] = [
            {name: value or str(number) for name, value in launch.items()} for number in (1, 2)
        ]
        for number, environment in enumerate(launches):
            arena.fit(place, f"--seed_everything={number}", fault="kill 100", **environment)
        for number, environment in enumerate(launches):
            ended_run = arena.run(place, "fit", *BASE, f"--seed_everything={number}", **environment, **again)
            last = place / f"runs/run/version_{number}/checkpoints/last.ckpt"
            states.append((ended_run.code, training_state(last)))
        wanted = [(0, arena.unbroken[0]), (0, arena.fit(arena.place(), "--seed_everything=1").state[0])]
        survived.append(states == wanted and len(list((place / "runs/run").iterdir())) == 2)
        more = arena.run(place, "fit", *BASE, "--seed_everything=0", **launches[0], **again)
        survived.append(more.code == 0 and "has ended" in more.output and "epoch" not in more.output)
        if not all(survived[-2:]):
            print(launch, states, wanted, more.output[-500:])
    return survived


def left_out_on_resume(arena: Arena) -> list[bool]:
    """A flag that the run has and the command has not is named, and can be pasted."""
    place = arena.place()
    others = ("--seed_everything=3", "--model.optimizer.lr=0.01", "--callbacks.averaging=SWA")
    arena.fit(place, *others, fault="kill 100")
    survived = []
    for flag in others:
        rest = [other for other in others if other != flag]
        survived += arena.refused(place, ("fit", *BASE, *rest, "--resume=auto"), words=f"add {flag};")
    whole = arena.fit(arena.place(), *others).state
    return [*survived, arena.fit(place, "--resume=same").state == whole != ("", "", "")]


def on_two_hosts(arena: Arena) -> list[bool]:
    """Two hosts without a shared disk, or of which one lacks the data: said on both, by no hang."""
    nodes = (*BASE, "--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp")

    def said(places: list[Path], words: str) -> bool:
        done = hosts(arena.command, arena.project, places, "fit", *nodes, timeout=300)
        good = all(in_one_line(result) and words in result.errors[0] for result in done)
        if not good:
            print([(result.code, result.output[-600:]) for result in done])
        return good and not any((places[0] / "runs").rglob("version_*"))

    survived = [said([arena.place(), arena.place()], "is not seen here")]
    for lacking in arena.some([1, 0]):
        places = [arena.place(), arena.place()]
        (places[lacking] / "images").unlink()
        survived.append(said(places, "--data.root='images'"))
    if arena.one_of_each:  # the project's own tests evaluate a run of two nodes
        return survived
    place = arena.place()
    trained = hosts(arena.command, arena.project, [place, place], "fit", *nodes, timeout=600)
    survived.append([result.code for result in trained] == [0, 0])
    tested = arena.command(arena.project, place, "test", "--name=run", timeout=300)
    survived.append(tested.code == 0 and "--trainer.num_nodes 2" in tested.output)
    if not all(survived):
        print(survived, [result.output[-600:] for result in trained], tested.output[-600:])
    return survived


def changed_on_resume(arena: Arena) -> list[bool]:
    """What would make another experiment of a run is refused; what changes its length or its machine is not."""
    place = arena.place()
    constant = ("--model.schedule=null", "--model.warmup_steps=0")
    arena.fit(place, *constant, fault="kill 100")
    resume = ("fit", *BASE, *constant, "--resume=auto")
    others = ("--model.optimizer.lr=0.5", "--model.network.width=8", "--model.loss=Focal", "--data.batch_size=4")
    others += ("--data.augment=medium", "--seed_everything=3", "--trainer.gradient_clip_val=0.1")
    others += ("--trainer.accumulate_grad_batches=2", "--model.schedule=Cosine")
    survived = arena.refused(place, *((*resume, flag) for flag in others), words="one experiment")
    longer = arena.run(place, *resume, "--trainer.max_epochs=6", "--data.num_workers=1", "--callbacks.lr_monitor=null")
    survived.append(longer.code == 0 and "trainer.max_epochs 4 → 6" in longer.output)
    if not survived[-1]:
        print(longer.output[-800:])
    place = arena.place()
    arena.fit(place, fault="kill 100")
    survived += arena.refused(place, ("fit", *BASE, "--resume=auto", "--trainer.max_epochs=6"), words="schedule")
    return survived


def changed_data(arena: Arena) -> list[bool]:
    """An image or a class was added, removed or changed since the kill."""
    survived = []
    for change in arena.some(["added", "removed", "another class", "changed"]):
        place = arena.place()
        (place / "images").unlink()
        draw(place / "images")
        arena.fit(place, fault="kill 100")
        first = place / "images/red/00.png"
        if change == "added":
            (place / "images/red/99.png").write_bytes(first.read_bytes())
        elif change == "removed":
            first.rename(place / "images/.hidden")
        elif change == "changed":
            Image.new("RGB", (12, 12)).save(first)
        else:
            (place / "images/yellow").mkdir()
            (place / "images/yellow/00.png").write_bytes(first.read_bytes())
        words = "are not there" if change == "removed" else "began with"
        survived += arena.refused(place, ("fit", *BASE, "--resume=auto"), words=words)
    return survived


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def hostile_checkpoints(arena: Arena) -> list[bool]:
    """Checkpoints that would run code, fill the memory or come from elsewhere, for every command."""
    place = arena.place()
    arena.fit(place)
    marker, good = arena.folder / "it-ran", place / "runs/run/version_0/checkpoints/last.ckpt"
    content = torch.load(good, weights_only=True)
    saved = {}
    for name in ("payload", "bomb", "class_path", "function", "hub", "instantiator", "text"):
        saved[name] = good.with_name(f"{name}.ckpt")
    torch.save({**content, "payload": _Payload(marker)}, saved["payload"])
    hparams = content["hyper_parameters"]
    evil = {"class_path": "antigravity.Network", "init_args": {}}
    torch.save({**content, "hyper_parameters": {**hparams, "network": evil}}, saved["class_path"])
    torch.save({**content, "hyper_parameters": {**hparams, "network": "os.system"}}, saved["function"])
    hub = {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(place), "model": "Net", "source": "local"}}
    torch.save({**content, "hyper_parameters": {**hparams, "network": hub}}, saved["hub"])
    torch.save({**content, "hyper_parameters": {**hparams, "_instantiator": "os.system"}}, saved["instantiator"])
    saved["text"].write_bytes(pickle.dumps(_Payload(marker)))
    with zipfile.ZipFile(io.BytesIO(good.read_bytes())) as source, zipfile.ZipFile(saved["bomb"], "w") as target:
        for entry in source.infolist():
            data = bytes(10**8) if entry.filename.endswith("data/0") else source.read(entry)
            target.writestr(entry.filename, data, zipfile.ZIP_DEFLATED)
    commands = [("test",), ("validate",), ("predict", "--data.predict_root=images/red"), ("fit", *BASE)]
    paths = [*saved.values(), "http://127.0.0.1:9/last.ckpt"]
    lines = [(*command, f"--ckpt_path={path}") for path in paths for command in commands]
    survived = arena.refused(place, *lines, words="checkpoint")
    return [*survived, not marker.exists()]


def hostile_configs(arena: Arena) -> list[bool]:
    """Configs of runs that would run code, import it or fetch it, written by hand."""
    place = arena.place()
    arena.fit(place)
    run = place / "runs/run/version_0"
    good = yaml.safe_load((run / "config.yaml").read_text())
    attacks.plant(place)
    configs = attacks.CONFIGS[::6] if arena.one_of_each else attacks.CONFIGS
    for number, (setting, value) in enumerate(configs):
        copy = place / f"runs/hostile-{number}/version_0"
        shutil.copytree(run, copy)
        content = deepcopy(good)
        attacks.change(content, setting, value)
        (copy / "config.yaml").write_text(yaml.safe_dump(content))
    lines: list[tuple[str, ...]] = []
    for number in range(len(configs)):
        folder = f"runs/hostile-{number}/version_0"
        lines += [(command, f"--name=hostile-{number}") for command in ("test", "validate", "export")]
        lines += [("predict", f"--name=hostile-{number}", "--data.predict_root=images/red"), ("report", folder)]
        lines += [("fit", *BASE, f"--ckpt_path={folder}/checkpoints/last.ckpt")]

    def survives(line: Sequence[object], result: Result) -> bool:
        without_scores = line[0] == "report" and "could not be scored" in result.output
        return in_one_line(result) or (result.code == 0 and without_scores)

    return [*arena.judged(place, lines, survives), not (place / attacks.CANARY).exists()]


def damaged_runs(arena: Arena) -> list[bool]:
    """A run's files as accidents and strangers leave them, for what reads them."""
    place = arena.place()
    arena.fit(place)
    arena.run(place, "test", "--name=run")
    run = place / "runs/run/version_0"
    good = yaml.safe_load((run / "config.yaml").read_text())
    changes: list[Callable[[Path], object]] = []
    for name, content in attacks.damages():
        changes.append(lambda copy, name=name, content=content: damage(copy / name, content))
    for setting in attacks.READ:
        for value in attacks.ODD:
            odd = deepcopy(good)
            attacks.change(odd, setting, value)
            text = yaml.safe_dump(odd)
            changes.append(lambda copy, text=text: damage(copy / "config.yaml", text))
    changes = changes[::20] if arena.one_of_each else changes
    for number, change in enumerate(changes):
        copy = place / f"runs/damaged-{number}/version_0"
        shutil.copytree(run, copy)
        change(copy)
        (copy / "unfinished.lock").touch()
    each = [place / f"runs/damaged-{number}/version_0" for number in range(len(changes))]
    lines: list[Sequence[object]] = []
    for copy in each:
        name = f"--name={copy.parent.name}"
        lines += [("report", copy), ("diagnose", copy), ("test", name), ("fit", *BASE, name, "--resume=auto")]
    return arena.judged(place, lines, lambda _, result: result.code == 0 or in_one_line(result))


def damage(file: Path, content: str | bytes | None) -> None:
    """Put something else in the place of a file."""
    file.unlink(missing_ok=True)
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def projects_own(arena: Arena, name: str, one: str) -> list[bool]:
    """A file of a project's own tests; of one of each what ``one`` chooses."""
    chosen = ("-k", one) if arena.one_of_each else ()
    file = arena.project / f"tests/{name}.py"
    result = arena.run(arena.place(), "-m", "pytest", "-p", "no:cacheprovider", file, *chosen)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?)", result.output)}
    assert counts.get("passed"), result.output[-2000:]
    return [True] * counts["passed"] + [False] * sum(n for what, n in counts.items() if what != "passed")


def fuzzed_configs(arena: Arena) -> list[bool]:
    """Configs of runs that a fuzzer builds."""
    place, number = arena.place(), 25 if arena.one_of_each else 2000
    arena.fit(place)
    attacks.plant(place)
    result = arena.command(arena.project, place, "-m", attacks.__file__, "runs/run/version_0", number, timeout=3600)
    found = re.search(r"^(\d+) configs, (\d+) ran", result.output, re.MULTILINE)
    assert found, result.output[-2000:]
    tried, harmed = map(int, found.groups())
    return [True] * (tried - harmed) + [False] * harmed


def evaluation(arena: Arena) -> list[bool]:
    """Metrics and losses on one, two and three ranks and any batch size equal scikit-learn's on the predictions."""
    place = arena.place()
    arena.fit(place, "--data.test_fraction=0.5")
    run, survived = place / "runs/run/version_0", []
    every = [(ranks, batch_size) for batch_size in (1, 6, 30) for ranks in (1, 2, 3)]
    for ranks, batch_size in [(1, 30), (2, 1), (3, 6)] if arena.one_of_each else every:
        flags = (f"--data.batch_size={batch_size * ranks}", "--data.num_workers=0", "--trainer.accelerator=cpu")
        ddp = (f"--trainer.devices={ranks}", "--trainer.strategy=ddp") if ranks > 1 else ()
        done = arena.run(place, "test", "--name=run", *flags, *ddp, ranks=ranks)
        assert done.code == 0, done.output
        wanted, logged = by_scikit_learn(run), rows(run / "metrics.csv")[-1]
        good = all(abs(float(logged[f"test/{key}"]) - value) < 1e-6 for key, value in wanted.items())
        survived.append(good and len({row["path"] for row in rows(run / "test_predictions.csv")}) == 32)
        if not survived[-1]:
            print(ranks, batch_size, wanted, logged)
    return survived


def by_scikit_learn(run: Path) -> dict[str, float]:
    """Score the predictions of a test."""
    predicted = rows(run / "test_predictions.csv")
    classes = list(predicted[0])[3:]
    true = np.array([classes.index(row["target"]) for row in predicted])
    p_NK = np.array([[float(row[name]) for name in classes] for row in predicted])
    said = p_NK.argmax(1)
    p_NK /= p_NK.sum(1, keepdims=True)
    return {
        "accuracy": float((true == said).mean()),
        "f1_macro": float(f1_score(true, said, average="macro")),
        "auroc": float(roc_auc_score(true, p_NK, multi_class="ovr")),
        "loss": float(log_loss(true, p_NK)),
    }


def evaluation_of_plain(arena: Arena) -> list[bool]:
    """Plain Lightning's logged accuracy and loss on two and three ranks against those on one."""
    seen = []
    for ranks in (1, 2, 3):
        done = arena.plain(arena.place(), "--evaluate", ranks=ranks)
        line = next(line for line in done.output.splitlines() if line.startswith("RESULT"))
        seen.append(json.loads(line.removeprefix("RESULT ").replace("'", '"')))
    return [all(abs(other[key] - seen[0][key]) < 1e-6 for key in seen[0]) for other in seen[1:]]


def workers(arena: Arena) -> list[bool]:
    """No, one and two workers, lasting or not, train the same."""
    flags = ("--data.augment=strong", "--data.balance=sampler")
    wanted = arena.fit(arena.place(), *flags).state
    counts = arena.some([(1, ""), (2, "brief"), (2, "")])
    return [
        arena.fit(arena.place(), *flags, f"--data.num_workers={count}", fault=fault).state == wanted
        for count, fault in counts
    ]


LOAD = """
import sys
import torch
from my_project.model import Classifier
path = sys.argv[1]
state = torch.load(path, weights_only=True)["state_dict"]
model = Classifier.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
with torch.no_grad():
    assert model(torch.zeros(2, 3, 12, 12, dtype=torch.uint8)).shape == (2, 3)
print("LOADED")
"""
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "plain": (1, ()),
    "averaged (EMA)": (1, EMA),
    "averaged (SWA)": (1, SWA),
    "frozen": (1, ("--model.freeze=true", "--model.weights=weights.ckpt")),
    "two ranks": (2, DDP),
    "compiled": (1, ("--model.compile=true", "--model.network=SmallMLP")),
}


def contract(arena: Arena, kinds: tuple[str, ...] = tuple(KINDS)) -> list[bool]:
    """Checkpoints of every kind of run serve every command, each in a fresh process; best and last are that."""
    survived, first = [], arena.place()
    arena.fit(first)
    for kind in kinds:
        ranks, flags = KINDS[kind]
        place = arena.place()
        (place / "weights.ckpt").symlink_to(first / "runs/run/version_0/checkpoints/last.ckpt")
        (place / "load.py").write_text(LOAD)
        arena.fit(place, *flags, ranks=ranks)
        folder, one = place / "runs/run/version_0", ("--trainer.devices=1", "--trainer.strategy=auto")
        seen = [float(row["val/loss"]) for row in rows(folder / "metrics.csv") if row["val/loss"]]
        for name, wanted in (("best", min(seen)), ("last", seen[-1])):
            path = folder / f"checkpoints/{name}.ckpt"
            done = [
                arena.run(place, "validate", f"--ckpt_path={path}", *one),
                arena.run(place, "test", f"--ckpt_path={path}", *one),
                arena.run(place, "predict", f"--ckpt_path={path}", "--data.predict_root=images/red", *one),
                arena.run(place, "-m", place / "load.py", path),
            ]
            said = float(re.findall(r"val/loss[^\d]+([\d.e-]+)", done[0].output)[-1])
            averaged_since = "SWA" in kind and name == "last"  # an epoch's weights enter the mean after its validation
            same = averaged_since or abs(said - wanted) < 1e-5
            survived.append(all(result.code == 0 for result in done) and same)
            if not survived[-1]:
                print(kind, name, said, wanted, [result.output[-500:] for result in done if result.code])
        again = arena.run(place, "fit", f"--ckpt_path={folder}/checkpoints/best.ckpt", *one)
        survived.append(again.code == 0 and (place / "runs/run/version_1/checkpoints/last.ckpt").is_file())
    return survived


def loggers(arena: Arena) -> list[bool]:
    """TensorBoard's folder and wandb's run go on, and metrics.csv has no row twice."""
    tensorboard = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "the run's folder"}}
    wanted = [tensorboard, {"class_path": "WandbLogger", "init_args": {"offline": True}}]
    flags = (f"--trainer.logger={json.dumps(wanted)}", "--callbacks.last.every_n_train_steps=2")
    whole = arena.fit(arena.place(), *flags, HOME=str(arena.folder))
    place = arena.place()
    run = place / "runs/run/version_0"
    arena.fit(place, *flags, fault="kill 100", HOME=str(arena.folder))
    identity = (run / "wandb_id.txt").read_text()
    resumed = arena.fit(place, *flags, "--resume=auto", HOME=str(arena.folder))
    goes_on = resumed.state == whole.state and (run / "wandb_id.txt").read_text() == identity
    parts = [path.name.rsplit("-", 1)[-1] for path in (run / "wandb").glob("offline-run-*")]
    return [goes_on and set(parts) == {identity} and len(list(run.glob("events.out*"))) == 2 and resumed.run == run]


def answers(arena: Arena) -> list[bool]:
    """Random and hostile answers."""
    return fuzz(arena.place(), arena.seed, 25 if arena.one_of_each else 1000)


def alive(arena: Arena) -> list[bool]:
    """A run that another process works on is left alone."""
    place = arena.place()
    started = arena.start(place)
    second = arena.fit(place, "--resume=auto")
    arena.command.end(started)
    return [second.run.name == "version_1" and "no unfinished run" in second.result.output]


def out_of_time(arena: Arena) -> list[bool]:
    """max_time ends a launch, not the run; SIGTERM ends with the code that a scheduler takes for one."""
    place, short = arena.place(), ("--trainer.max_epochs=300", "--trainer.max_time=00:00:00:02")
    first = arena.fit(place, *short)
    seen = torch.load(first.run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    second = arena.fit(place, *short, "--resume=auto")
    went_on = torch.load(second.run / "checkpoints/last.ckpt", weights_only=True)["global_step"] > seen
    place = arena.place()
    started = arena.start(place)
    os.kill(started[0][0].pid, signal.SIGTERM)
    started[0][0].join(HUNG)
    ended = arena.command.end(started).code
    lock = place / "runs/run/version_0/unfinished.lock"
    return [went_on and first.run == second.run, ended == 128 + signal.SIGTERM and lock.exists()]


def stopped(done: Result, words: str, code: int = 1) -> bool:
    """Tell whether a run ended in one line that holds some words."""
    good = done.code == code and len(done.errors) == 1 and words in done.errors[0] and "Traceback" not in done.output
    if not good:
        print(words, done.code, done.output[-3000:])
    return good


def without_locks(arena: Arena) -> list[bool]:
    """The file system has no locks: a run, its cache, and going on after a kill."""
    place = arena.place()
    killed = arena.fit(place, fault="kill 100")
    assert killed.result.code
    shutil.rmtree(place / "data")
    resumed = arena.fit(place, "--resume=auto", fault="unlocked")
    notes = resumed.result.output.count("note: there are no locks")
    return [same(resumed.state, arena.unbroken, resumed.result.output), notes == 2]


def large_images(place: Path) -> None:
    """Draw images whose batches do not go unnoticed."""
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (160, 160, 3), dtype=np.uint8)
        path = place / "large" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def little_shared_memory(arena: Arena) -> list[bool]:
    """/dev/shm holds fewer batches than the workers load ahead, or is filled by others; no run hangs."""
    place = arena.place()
    large_images(place)
    flags = ("--data.root=large", "--data.image_size=160", "--trainer.max_epochs=2", "--name=run")
    wanted, survived = arena.fit(place, *flags), []
    assert wanted.result.code == 0, wanted.result.output
    for megabytes, said in arena.some([("1", "so none load"), ("9", "so 2 load")]):
        done = arena.fit(place, *flags, "--data.num_workers=4", fault=f"shm {megabytes}")
        survived.append(same(done.state, wanted.state, done.result.output))
        survived.append(said in done.result.output and "--shm-size" in done.result.output)
        if not survived[-1]:
            print(done.result.output[-2000:])
    filled = arena.fit(
        place, *flags, "--data.num_workers=2", "--trainer.max_epochs=9", fault="shm 20; fill 50 /dev/shm"
    )
    return [*survived, stopped(filled.result, "no room in shared memory")]


def lost_workers(arena: Arena) -> list[bool]:
    """A loader's worker is killed, as by a machine without memory."""
    survived = []
    for at in arena.some([60, 100, 20]):
        done = arena.fit(arena.place(), "--data.num_workers=2", fault=f"orphan {at}")
        survived.append(stopped(done.result, "was lost, most often because"))
    return survived


def damaged_cache(arena: Arena) -> list[bool]:
    """The cache is cut short or removed while a run reads it."""
    survived = []
    for workers in arena.some([2, 0]):
        done = arena.fit(arena.place(), f"--data.num_workers={workers}", fault="cut 60 data/cache/*.npy")
        survived.append(stopped(done.result, "cut short"))
    removed = arena.fit(arena.place(), fault="remove 60 data/cache/*.npy")
    return [*survived, same(removed.state, arena.unbroken, removed.result.output)]


@contextmanager
def silent_server() -> Iterator[str]:
    """Open a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def silent_servers(arena: Arena) -> list[bool]:
    """The server of a logger does not answer: the run goes on without, soon."""
    survived = []
    with silent_server() as silent:
        nowhere = {"WANDB_BASE_URL": "http://10.255.255.1", "http_proxy": "", "https_proxy": ""}
        for where in arena.some([nowhere, {"https_proxy": silent}, {"WANDB_BASE_URL": silent}]):
            own: dict[str, Any] = {"WANDB_API_KEY": 40 * "0", "HOME": str(arena.folder), **where}
            done = arena.fit(arena.place(), "--trainer.logger=WandbLogger", **own)
            survived.append(same(done.state, arena.unbroken, done.result.output))
            survived.append("does not answer" in done.result.output and any((done.run / "wandb").glob("offline-run-*")))
    return survived


def full_for_a_logger(arena: Arena) -> list[bool]:
    """The disk is full for TensorBoard alone."""
    done = arena.fit(arena.place(), "--trainer.logger=TensorBoardLogger", fault="full 60 runs/run/*/events.out*")
    said = "note: TensorBoardLogger failed and is left out" in done.result.output
    return [same(done.state, arena.unbroken, done.result.output), said]


def outputs(arena: Arena) -> list[bool]:
    """Nobody reads what a run says, or it has no room."""
    survived = []
    for what in arena.some(
        ["stdout-full", "stderr-full", "stdout-closed", "stderr-closed", "stderr-unread", "stdout-unread"]
    ):
        done = arena.fit(arena.place(), fault=f"output {what}")
        survived.append(same(done.state, arena.unbroken, what + done.result.output))
    return survived


def few_open_files(arena: Arena) -> list[bool]:
    """A process may open 64 files."""
    survived = []
    for workers in arena.some([0, 8, 3]):
        done = arena.fit(arena.place(), f"--data.num_workers={workers}", fault="files 64")
        survived.append(same(done.state, arena.unbroken, done.result.output))
    return survived


def replaced_images(arena: Arena) -> list[bool]:
    """An image is replaced while a run reads it: it stops, and with the old one in its place it goes on."""
    place = arena.place()
    (place / "images").unlink()
    draw(place / "images")
    image = place / "images/red/00.png"
    before, times = image.read_bytes(), (image.stat().st_atime, image.stat().st_mtime)
    done = arena.fit(place, "--data.cache_gb=0", fault=f"replace 100 {image}")
    last = place / "runs/run/version_0/checkpoints/last.ckpt"
    survived = [stopped(done.result, "1 of 64 images were replaced"), _readable(last)]
    other = arena.fit(place, "--data.cache_gb=0", "--resume=auto")
    survived.append(stopped(other.result, "began with", code=2))
    image.write_bytes(before)
    os.utime(image, times)
    resumed = arena.fit(place, "--data.cache_gb=0", "--resume=auto")
    return [*survived, same(resumed.state, arena.unbroken, resumed.result.output)]


@dataclass
class Row:
    """A line of the scorecard."""

    fault: str
    promise: str
    ours: Callable[[Arena], list[bool]]
    plain: Callable[[Arena], list[bool]] | None = None


ROWS = [
    *(
        Row(
            f"`kill -9` at random hooks: {setting}",
            "with `--resume auto` the same command ends in bit-identical weights, optimizer state and metrics.csv",
            lambda arena, setting=setting: kills(arena, setting, 6 if SETTINGS[setting][0] == 1 else 4),
            (lambda arena: kills_of_plain(arena, 8)) if setting == "the default run" else None,
        )
        for setting in SETTINGS
    ),
    Row("`kill -9` of whole processes with two workers, at random times", "as above", lambda a: whole_processes(a, 4)),
    Row(
        "`kill -9` inside a save, temporary files on another file system",
        "the file holds one whole version",
        lambda arena: kills_inside_a_save(arena, 32),
        lambda arena: kills_inside_a_save(arena, 32, plain=True),
    ),
    Row(
        "`kill -9` of a run that is kept in a store, half of the times inside an upload",
        "on an empty machine the same command ends in bit-identical weights, optimizer state and metrics.csv",
        lambda arena: stored_runs(arena, 6),
    ),
    Row(
        "the disk is full",
        "the run fails loudly, the checkpoint before stays, with room it goes on",
        full_disk,
        lambda arena: full_disk(arena, plain=True),
    ),
    Row(
        "the folder of temporary files is full",
        "nothing happens",
        full_temporary_folder,
        lambda arena: full_temporary_folder(arena, plain=True),
    ),
    Row(
        "a folder for checkpoints that cannot be written",
        "refused before the first step",
        unwritable_folder,
        lambda arena: unwritable_folder(arena, plain=True),
    ),
    Row(
        "a loss is NaN, on one and two ranks",
        "the run stops with step, rate and images, exit code 1; the checkpoint stays finite",
        not_a_number,
        lambda arena: not_a_number(arena, plain=True),
    ),
    Row("no, one, two workers, lasting or not", "the same weights", workers),
    Row(
        f"checkpoints of these runs: {', '.join(KINDS)}",
        "load in a fresh process for every command and `load_from_checkpoint`; `best` and `last` are what they say",
        contract,
    ),
    Row("a kill with TensorBoard and wandb (offline)", "the same folder and run go on, no row twice", loggers),
    Row("`--resume auto` while the run is alive", "it is left alone", alive),
    Row("the newest checkpoint is damaged", "the one before is taken, which is said", damaged_checkpoint),
    *(
        Row(
            f"SIGTERM, SIGINT, SIGHUP at random hooks: {setting}",
            "saved within a step, or nothing is left; 128 + the signal; resumed as after a kill",
            lambda arena, setting=setting: stops(arena, setting, 1 if arena.one_of_each else 8),
        )
        for setting in STOPPED
    ),
    Row("`max_time` ran out; SIGTERM", "`--resume auto` goes on; exit code 143", out_of_time),
    Row("a restart by torchrun or SLURM", "resumed without a flag", restarted_by_a_scheduler),
    Row("launches of one name, killed and started again", "each takes its own run", restarted_among_others),
    Row(
        "flags left out on resume", "named, as they can be pasted; `--resume same` takes the run's", left_out_on_resume
    ),
    Row(
        "two hosts: no shared disk, or data on one alone; `test` on one of them",
        "exit code 2 and one line on both, no hang; `test` runs where it is started",
        on_two_hosts,
    ),
    Row(
        "a random rank of a real torchrun is killed at random moments",
        "it comes back in the time of one more start, and ends as an unbroken run",
        lambda arena: killed_ranks(arena, 10),
    ),
    Row(
        "a rank stops answering",
        "the others end within `--trainer.strategy.timeout` in one line that names it; nothing is lost",
        silent_ranks,
    ),
    Row(
        "what each file of `launch/` starts is stopped as its platform does",
        "128 + the signal, saved; started again it ends as an unbroken run",
        stopped_platforms,
    ),
    Row(
        "a real SLURM of one node tells two tasks of an array that their time is up",
        "each saves, is queued again once, and ends as an unbroken run",
        requeued_by_slurm,
    ),
    Row("one of two pods of a Kubernetes Job is told to end", "both end saved, 143, and go on", pods),
    Row(
        "flags changed on resume",
        "another experiment is refused, another length or machine accepted",
        changed_on_resume,
    ),
    Row("images or classes changed on resume", "refused", changed_data),
    Row("a file system without locks", "the run goes on, which is said", without_locks),
    Row(
        "`/dev/shm` of 1 and 9 MB with 4 workers; filled by others during a run",
        "fewer workers with a line and the same weights; one line, exit code 1, no hang",
        little_shared_memory,
    ),
    Row("a loader's worker is killed", "one line, exit code 1, no hang", lost_workers),
    Row("the cache is cut short or removed while it is read", "one line, exit code 1; nothing happens", damaged_cache),
    Row("a logger's server does not answer", "one line, offline, the run goes on within 15 s", silent_servers),
    Row("the disk is full for a logger", "one line, the run goes on without it", full_for_a_logger),
    Row("stdout or stderr closed, full or unread", "the run goes on to its end", outputs),
    Row("64 open files (`ulimit -n 64`)", "fewer workers with a line and the same weights", few_open_files),
    Row(
        "images replaced during a run",
        "one line at the epoch's end, exit code 1, the checkpoint before is kept",
        replaced_images,
    ),
    Row("hostile checkpoints, for every command", "refused in one line, nothing is run", hostile_checkpoints),
    Row("hostile configs of runs, by hand", "refused in one line, nothing is run or imported", hostile_configs),
    Row("a run's files, damaged in any way", "read as far as they say something, or refused in one line", damaged_runs),
    Row(
        "links, pipes, devices, huge files, names that lead out, in a run's folder",
        "nothing elsewhere is written or read, nothing hangs",
        lambda arena: projects_own(arena, "test_guard", "no_plain_file"),
    ),
    Row(
        "tables of labels, odd in any way",
        "read as they are meant, or refused in one line with all offenders in a file",
        lambda arena: projects_own(arena, "test_labels", "offender"),
    ),
    Row("hostile configs of runs, by a fuzzer", "nothing is run or imported", fuzzed_configs),
    Row(
        "projects baked from random and hostile answers",
        "refused in one line with nothing left behind, or whole, each answer as it was given",
        answers,
    ),
    Row(
        "evaluation on 1, 2, 3 ranks, batches of 1, 6, 30",
        "accuracy, macro F1, AUROC and loss equal scikit-learn's to 1e-6; every sample once",
        evaluation,
        evaluation_of_plain,
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    seed = parser.parse_args().seed
    print(f"seed {seed}")
    total, good, lines = 0, 0, []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        arena = Arena(Path(folder), seed)
        for row in ROWS:
            begun = time.monotonic()
            ours = row.ours(arena)
            plain = row.plain(arena) if row.plain else None
            total, good = total + len(ours), good + sum(ours)
            beside = f"{sum(plain)} of {len(plain)}" if plain is not None else ""
            lines.append(f"| {row.fault} | {row.promise} | {sum(ours)} of {len(ours)} | {beside} |")
            print(f"{lines[-1]} {time.monotonic() - begun:.0f} s", flush=True)
    page = TEMPLATE / "docs/reliability.md"
    before, mark, _ = page.read_text(encoding="utf-8").partition("<!-- scorecard -->\n")
    head = f"Seed {seed}, lightning {_version('lightning')}, torch {_version('torch')}.\n\n"
    head += "| fault | promise | survived | plain Lightning |\n|---|---|---|---|\n"
    page.write_text(before + mark + head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{total} faults, {good} survived")
    return 0 if good == total else 1


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    raise SystemExit(main())
