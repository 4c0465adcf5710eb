"""Runs in object storage: ``--run_root s3://BUCKET/FOLDER``, or ``gs://``, ``file:///FOLDER``.

A run's files lie in a folder of this machine, below ``runs/`` in the working folder, where all the rest reads and
writes them. Here they are fetched before a command reads them, and put into the store after each save. The store has
the last word: what it holds replaces an older copy. A copy that is ahead of it, as an upload failed, goes on.
"""

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import platform
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from . import signals
from .files import locked, opened, write
from .installing import of_extra
from .mistakes import CONTROL, Mistake, RunFailed, shown
from .together import is_rank_zero

PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "file": ""}  # and the package that speaks it
SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}},
    },  # tried again here
    "gs": {"use_listings_cache": False},
    "file": {"auto_mkdir": True},
}
WHOLE = ("s3", "gs")  # an object appears whole or not at all; elsewhere a file takes another's place
COPIES = Path("runs")
LOCK, FAILURE, LAUNCHES, METRICS = "unfinished.lock", "failure.txt", "launches.jsonl", "metrics.csv"
GONE = (FAILURE, "best_validated.npy")  # once a fault is overcome, or the run has ended
RECORD = ".stored.json"  # of a copy: what the store holds of it
TOKEN = ".token"  # of a copy: by what the lock knew the last process that worked on it here
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
PAUSES = (1.0, 3.0, 9.0)  # seconds between attempts
LONGEST, HURRIED = 30.0, 5.0  # seconds after which there is no other; when a signal has asked the command to end
PATIENCE = 1800.0  # seconds for which a training goes on without the store
BEAT, WATCH = 10.0, 25.0  # seconds after which a lock is written again; for which another process watches it
MOST_FILES = 100_000
T = TypeVar("T")


def is_remote(root: str | Path) -> bool:
    """Tell whether a ``run_root`` is an address and no folder."""
    return re.match(r"[A-Za-z][\w+.-]+:/", str(root)) is not None


def local(root: str | Path) -> Path:
    """Return the folder of runs on this machine.

    Raises:
        Mistake: The root is an address that cannot be used.
    """
    return store(str(root)).folder if is_remote(root) else Path(root)


def refuse(root: str | Path, command: str) -> None:
    """Refuse a remote root for a command that keeps more than one run.

    Raises:
        Mistake: It is one.
    """
    if is_remote(root):
        raise Mistake(
            f"--run_root={_masked(str(root))} is no folder of this machine, and {command} keeps files that many "
            "processes read and write at once, so none could be relied on there; give a folder (a shared disk)."
        )


def _masked(url: str) -> str:
    return shown(re.sub(r"(?<=://)[^/]*@", "***@", url.partition("?")[0]))


STORES: dict[tuple[str, Path], "Store"] = {}  # by address and working folder


def store(url: str) -> "Store":
    """Return the store at an address; raises what Store does."""
    key = (url, Path.cwd())
    if key not in STORES:
        STORES[key] = Store(url)
    return STORES[key]


class Entry(NamedTuple):
    """A file in the store.

    Args:
        size: Its bytes.
        mark: Changes whenever it is written.
        is_plain: Whether it is a file, and no link or pipe.
    """

    size: int
    mark: str
    is_plain: bool

    @classmethod
    def of(cls, info: dict[str, Any]) -> "Entry":
        """Return what a store says of a file."""
        marks = (str(info[key]) for key in ("size", "ETag", "generation", "etag", "mtime", "created") if key in info)
        return cls(info["size"], " ".join(marks), info["type"] == "file" and not info.get("islink"))


class Store:
    """A folder of an object store in which runs are kept.

    Args:
        url: Its address.

    Raises:
        Mistake: It is of no known kind, its package is not installed, or it holds a key.
    """

    def __init__(self, url: str) -> None:
        protocol, _, path = url.partition("://")
        asked = f"--run_root={_masked(url)}"
        if protocol not in PROTOCOLS:
            raise Mistake(
                f"{asked} is no folder and no address of a known kind, so no run could be kept there; give a folder, "
                "or s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, file:///FOLDER."
            )
        if re.search(r"[@?#\\]", path) or CONTROL.search(path):
            raise Mistake(
                f"{asked} holds a key or an option, and run_root is written into files; give it without, and keys as "
                "the store's own tools read them (environment variables, or their file in your home)."
            )
        parts = path.strip("/").split("/")
        if not {"", ".", ".."}.isdisjoint(parts) or (protocol == "file" and not path.startswith("/")):
            raise Mistake(
                f"{asked} names no folder of a store, so no run could be kept; give one, as in s3://BUCKET/runs."
            )
        package = PROTOCOLS[protocol]
        if package and importlib.util.find_spec(package) is None:
            raise Mistake(f"{asked} needs the package {package}, which is not installed: {of_extra(protocol)}")
        self.url, self.protocol = url.rstrip("/"), protocol
        self.base = ("/" if protocol in ("file", "memory") else "") + "/".join(parts)
        self.folder = COPIES.joinpath(protocol, *parts)
        self.files: Any = fsspec.filesystem(protocol, skip_instance_cache=True, **SETTINGS.get(protocol, {}))
        if protocol == "s3":
            self.files.retries = 1
        self.copies: dict[Path, Copy] = {}

    def ask(self, act: Callable[[], T], pauses: tuple[float, ...] | None = None) -> T:
        """Do something with the store, again after a pause if that may help.

        Raises:
            Mistake: The store does not admit this user, or is not there.
            RunFailed: It cannot be reached.
            FileExistsError: What was to be made is there.
        """
        began = time.monotonic()
        for pause in (*(PAUSES if pauses is None else pauses), None):
            try:
                return act()
            except FileExistsError:
                raise
            except Exception as error:  # of whatever library speaks to the store
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                asked = f"--run_root={self.url}"
                is_last = pause is None or time.monotonic() - began > (HURRIED if signals.noted() else LONGEST)
                if not is_last:  # also where it does not know the user, or the bucket: keys may be about to be renewed
                    time.sleep(pause or 0)
                    continue
                if isinstance(error, FileNotFoundError):
                    raise Mistake(
                        f"{asked} is not there ({reason}), so no run could be kept; make the bucket."
                    ) from error
                if isinstance(error, PermissionError) or "Credential" in reason:
                    raise Mistake(
                        f"{asked} does not admit you ({reason}), so no run could be kept; give keys as the store's own "
                        "tools read them (environment variables, or their file in your home)."
                    ) from error
                raise RunFailed(f"{asked} cannot be reached ({reason}); try again when it can.") from error
        raise AssertionError

    def runs(self, name: str) -> list[Path]:
        """Look which runs of a name there are; returns the folders of their copies."""
        _check_name(name)
        prefix = f"{self.base}/{name}/"

        def listed() -> dict[str, Any]:
            self.files.invalidate_cache()
            with contextlib.suppress(
                FileNotFoundError
            ):  # nothing yet; a bucket that is not there is told when it is written
                return self.files.find(prefix.rstrip("/"), detail=True)
            return {}

        found: dict[str, dict[str, Entry]] = {}
        for path, info in self.ask(listed).items():
            version, _, file = str(path).removeprefix(prefix).partition("/")
            if re.fullmatch(r"version_(0|[1-9][0-9]{0,8})", version) and str(path).startswith(prefix):
                found.setdefault(version, {})[file] = Entry.of(info)
        folders = []
        for version, files in found.items():
            folder = self.folder / name / version
            copy = self.copies.setdefault(folder.absolute(), Copy(self, folder, f"{prefix}{version}"))
            if not copy.token:
                copy.look(files)
                copy.fetch(lambda file: file == LAUNCHES)
            folders.append(folder)
        return folders

    def claim(self, name: str, number: int) -> int:
        """Take the next number that no machine has; returns it.

        Args:
            name: The run's name.
            number: The least that is free on this machine.
        """
        taken = [int(folder.name.removeprefix("version_")) for folder in self.runs(name)]
        number = max([number - 1, *taken]) + 1
        while True:
            folder = self.folder / name / f"version_{number}"
            copy = Copy(self, folder, f"{self.base}/{name}/{folder.name}")
            try:
                copy.create_lock()
            except FileExistsError:  # by a machine that started at the same moment
                number += 1
                continue
            self.copies[folder.absolute()] = copy
            return number


def _check_name(name: str) -> None:
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or re.search(r"[?#\\]", name) or CONTROL.search(name):
        raise Mistake(f"--name={name!r} cannot be a folder of a store; give letters, digits, - and _.")


class Copy:
    """The copy of a stored run on this machine.

    Args:
        store: Where the run is kept.
        folder: Where the copy lies.
        place: The run's path in the store.
    """

    def __init__(self, store: Store, folder: Path, place: str) -> None:
        self.store, self.folder, self.place = store, folder.absolute(), place
        self.there: dict[str, Entry] = {}  # the files in the store, as last seen
        self.before: dict[str, list[int]] = {}  # those of the copy before a command wrote any
        self.token = ""  # in the lock while this process works on the run
        self.address = ""
        self.let_go = threading.Event()
        self.beating: threading.Thread | None = None
        self.is_new = self.was_fetched = False
        self.leftovers: list[str] = []  # of uploads that were killed
        self.failing_since: float | None = None

    # What is in sync: name → the store's mark, and size and time of the copy's file.

    @property
    def record(self) -> dict[str, list[Any]]:
        try:
            content = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            return {name: [str(mark), int(size), int(when)] for name, (mark, size, when) in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _note(self, name: str, mark: str) -> None:
        known = self.record | {name: [mark, *self.state(name)]}
        write(self.folder / RECORD, json.dumps(known))

    def state(self, name: str) -> list[int]:
        """Return size and time of a file of the copy; nothing where there is none."""
        with contextlib.suppress(OSError):
            found = os.stat(self.folder / name)
            return [found.st_size, found.st_mtime_ns]
        return []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let other processes of this machine, ranks for one, wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".fetching", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # From the store.

    def look(self, files: dict[str, Entry]) -> None:
        """Take note of what the store holds, and whether the run has ended."""
        self.there = {name: entry for name, entry in files.items() if name and not re.search(r"(^|/)\.\w", name)}
        self.leftovers = [name for name in files if name.endswith(".unfinished")]
        self.folder.mkdir(parents=True, exist_ok=True)
        if LOCK in self.there:
            (self.folder / LOCK).touch()
        else:
            (self.folder / LOCK).unlink(missing_ok=True)

    def fetch(self, only: Callable[[str], bool] = lambda name: True) -> None:
        """Bring the copy up to date.

        Args:
            only: Tells of a file whether it is needed.

        Raises:
            Mistake: The store holds what is no file of a run.
            RunFailed: The store cannot be reached, or holds more than fits on the disk.
        """
        with self._alone():
            if self._is_at_work_here():
                self._begin()
                return
            names = [name for name in self.there if name != LOCK]
            record = self.record
            overtaken = (
                any(
                    record[name][0] != self.there[name].mark if name in record else bool(self.state(name))
                    for name in names
                )
                or not {name for name in record if self.state(name)} <= self.there.keys()
            )
            if overtaken:
                if FAILURE not in self.there:  # it has been overcome
                    (self.folder / FAILURE).unlink(missing_ok=True)
                needed = [n for n in names if record.get(n) != [self.there[n].mark, *self.state(n)]]
            else:
                needed = [name for name in names if not self.state(name)]
            needed = [name for name in needed if only(name)]
            self._check(needed)
            room = shutil.disk_usage(self.folder).free
            size = sum(self.there[name].size for name in needed)
            if size > room:
                raise RunFailed(
                    f"{self.store.url} holds {size / 1e9:.1f} GB of {self.folder.name} that are needed, and there is "
                    f"room for {room / 1e9:.1f} GB in {self.folder}; make room, or work in another folder."
                )
            for name in sorted(needed, key=_turn, reverse=True):  # so that metrics.csv is no older than its checkpoint
                self.store.ask(functools.partial(self._fetch, name))
            self._begin()

    def _is_at_work_here(self) -> bool:
        """Tell whether another process of this machine works on the run: then the copy is ahead of the store."""
        if self.token:  # to close its lock's file would let it go
            return False
        with contextlib.suppress(OSError, Mistake), os.fdopen(opened(self.folder / LOCK, os.O_RDWR), "r+b") as file:
            return locked(file.fileno(), self.folder / LOCK) is False
        return False

    def _begin(self) -> None:
        """From here on it is known what this process writes."""
        self.was_fetched = True
        self.before = {name: self.state(name) for name in self._files()}

    def _check(self, names: list[str]) -> None:
        for name in names:
            parts = name.split("/")
            strange = not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or CONTROL.search(name) or len(parts) > 20
            if strange or not self.there[name].is_plain or any(len(part.encode()) > 200 for part in parts):
                raise Mistake(
                    f"{self.store.url} holds {shown(name)!r} in {self.folder.name}, which is no file that a run writes "
                    "(a link, or a name that leads elsewhere), so it was not read; remove it there."
                )
            folder = (self.folder / name).parent
            if folder.exists() and not folder.resolve().is_relative_to(self.folder.resolve()):
                raise Mistake(f"{folder} is a link, so what is fetched would be written elsewhere; remove it.")
        if len(names) > MOST_FILES:
            raise Mistake(f"{self.place} holds {len(names):,} files, so it is no run; remove what is none of its.")

    def _fetch(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        try:
            entry = self._entry(name)
            self.store.files.get_file(f"{self.place}/{name}", str(unfinished))
        except FileNotFoundError as error:  # which was listed
            raise OSError(f"{name} is gone there") from error
        if unfinished.stat().st_size != entry.size:
            raise OSError(f"{name} came with {unfinished.stat().st_size:,} of {entry.size:,} bytes")
        _flush(unfinished)
        os.replace(unfinished, target)
        self._note(name, entry.mark)

    def _entry(self, name: str) -> Entry:
        self.store.files.invalidate_cache()
        info = self.store.files.info(f"{self.place}/{name}")
        return Entry.of(info)

    # To the store.

    def _files(self) -> list[str]:
        """List the copy's files in the order in which they are put."""
        found = []
        for top, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                path = Path(top, name)
                if not name.startswith(".") and name != LOCK and path.is_file() and not path.is_symlink():
                    found.append(path.relative_to(self.folder).as_posix())
        return sorted(found, key=_turn)

    def put(self, everything: bool, pauses: tuple[float, ...] | None = None) -> None:
        """Put what has changed into the store.

        Args:
            everything: Also what nobody needs to go on, the files of loggers for one.
            pauses: Seconds between attempts.

        Raises:
            RunFailed: It cannot be reached, or another process has taken the run over.
        """
        record = self.record
        for name in self._files():
            if not self.token and LOCK in self.there and name == METRICS:
                continue  # the rows of a run that has not ended are its own
            state = self.state(name)
            in_sync = name in record and record[name][1:] == state
            of_others = not self.token and self.before.get(name) == state  # this process trains nothing
            if not in_sync and not of_others and (everything or _is_needed(name)):
                self._check_lock(pauses)
                self.store.ask(functools.partial(self._put, name), pauses)
        for gone in GONE:
            if self.token and gone in record and not self.state(gone):
                self.store.ask(functools.partial(self._remove, gone), pauses)
                write(
                    self.folder / RECORD,
                    json.dumps({name: known for name, known in self.record.items() if name != gone}),
                )

    def _put(self, name: str) -> None:
        files, target = self.store.files, f"{self.place}/{name}"
        state = self.state(name)
        try:
            if self.store.protocol in WHOLE:
                files.put_file(str(self.folder / name), target)
            else:
                folder, _, file = target.rpartition("/")
                unfinished = f"{folder}/.{file}.{self.token or secrets.token_hex(4)}.unfinished"
                files.put_file(str(self.folder / name), unfinished)
                files.mv(unfinished, target)
        except FileNotFoundError:
            if self.state(name):
                raise
            return  # whoever wrote it has removed it
        entry = self._entry(name)
        if entry.size != state[0]:
            raise OSError(f"{name} has {entry.size:,} of {state[0]:,} bytes there")
        if self.state(name) == state:  # else it is put again
            self._note(name, entry.mark)

    def after_save(self) -> None:
        """Put a save into the store; training goes on without it for a while.

        Raises:
            RunFailed: The store could not be reached for long, or another process has taken the run over.
        """
        try:
            self.put(everything=False, pauses=None if self.failing_since is None else ())
        except TakenOver:
            raise
        except (Mistake, RunFailed) as error:
            now = time.monotonic()
            self.failing_since = now if self.failing_since is None else self.failing_since
            if now - self.failing_since > PATIENCE:
                raise self._failed(error) from error
            print(f"{error} The run goes on, its files are in {self.folder}; the next save tries again", flush=True)
        else:
            if self.failing_since is not None:
                print(f"{self.store.url} is reached again and has all that was saved", flush=True)
            self.failing_since = None

    def _failed(self, error: Exception) -> RunFailed:
        return RunFailed(
            f"not all of the run is in {self.store.url}, its files are in {self.folder}: {error} The same command with "
            "--resume auto goes on from there."
        )

    # Who works on the run.

    def create_lock(self) -> None:
        """Make the lock of a new run.

        Raises:
            FileExistsError: There is one.
        """
        token = secrets.token_hex(8)
        try:
            self.store.ask(functools.partial(self._create, token))
        except FileExistsError:
            if self.store.ask(self._lock)[0] != token:  # else it was made, and the answer was lost
                raise
        self.token, self.is_new = token, True

    def _create(self, token: str) -> None:
        with self.store.files.open(f"{self.place}/{LOCK}", "xb") as file:
            file.write(self._signed(token))

    def claim(self, address: str) -> None:
        """Work on the run, also where another process did; the lock is written again and again from here on.

        Args:
            address: What the ranks of this launch have in common.
        """
        self.address, token = address, self.token or secrets.token_hex(8)
        self.store.ask(lambda: self._write_lock(token, self._signed(token)))
        self.token = token
        self._check_lock()
        write(self.folder / TOKEN, token)
        for name in self.leftovers:
            self.store.ask(functools.partial(self._remove, name))
        self.let_go.clear()
        self.beating = threading.Thread(target=self._beat, args=(token,), daemon=True)
        self.beating.start()

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # as when the answer to an earlier attempt was lost
            self.store.files.rm_file(f"{self.place}/{name}")

    def _signed(self, token: str) -> bytes:
        return f"{token}\n{platform.node()}\n{self.address}\n{time.time()}\n".encode()

    def _beat(self, token: str) -> None:
        while not self.let_go.wait(BEAT):
            with contextlib.suppress(Exception):  # the next save tells
                if self._lock()[0] == token and not self.let_go.is_set():
                    self._write_lock(token, self._signed(token))

    def _stop_beating(self) -> None:
        """Write the lock no more; what was being written must not come after what is done to it next."""
        self.let_go.set()
        if self.beating is not None:
            self.beating.join(LONGEST / 3)

    def _write_lock(self, token: str, content: bytes) -> None:
        """Write the lock whole: who reads it while it is empty takes the run for one that nobody works on."""
        files, lock = self.store.files, f"{self.place}/{LOCK}"
        if self.store.protocol in WHOLE:
            files.pipe_file(lock, content)
            return
        unfinished = f"{self.place}/.{LOCK}.{token}.unfinished"
        files.pipe_file(unfinished, content)
        files.mv(unfinished, lock)

    def _lock(self) -> list[str]:
        """Return the lines of the lock: a token, a machine, an address, a time."""
        self.store.files.invalidate_cache()
        try:
            with self.store.files.open(f"{self.place}/{LOCK}", "rb", cache_type="none") as file:
                return file.read(1000).decode(errors="replace").split("\n")
        except FileNotFoundError:
            return [""]

    def is_worked_on(self, address: str) -> bool:
        """Tell whether a process of another launch works on the run; takes a while where that cannot be told at once.

        Args:
            address: What the ranks of this launch have in common.
        """
        before = self.store.ask(self._lock)
        last_here = (self.folder / TOKEN).read_text() if (self.folder / TOKEN).is_file() else ""  # its lock is free
        if self.token or before[0] in ("", last_here) or (not is_rank_zero() and before[2:3] == [address]):
            return False
        if is_rank_zero():
            print(f"waiting whether {shown(before[1][:80])} still works on {self.folder.name}", flush=True)
        until = time.monotonic() + WATCH
        while time.monotonic() < until:
            time.sleep(WATCH / 10)
            now = self.store.ask(self._lock)
            if now != before:
                return now[0] != "" and (is_rank_zero() or now[2:3] != [address])
        return False

    def _check_lock(self, pauses: tuple[float, ...] | None = None) -> None:
        if not self.token:
            return
        lines = self.store.ask(self._lock, pauses)
        if lines[0] != self.token:
            another = f"taken over by a process on {shown(''.join(lines[1:2])[:80])}"
            who = another if lines[0] else "ended or removed by another process"
            raise TakenOver(f"{self.place} was {who}, so this one stopped; its copy is in {self.folder}.")

    def end(self) -> None:
        """Mark the run as one that needs no resume, when all of it is there."""
        self.finish()
        self._stop_beating()
        try:
            self._check_lock()
            self.store.ask(functools.partial(self._remove, LOCK))
        except TakenOver:
            raise
        except (Mistake, RunFailed) as error:
            raise self._failed(error) from error
        self._has_let_go()

    def finish(self) -> None:
        """Put all of the run into the store.

        Raises:
            RunFailed: It cannot be reached.
        """
        try:
            self.put(everything=True)
        except TakenOver:
            raise
        except (Mistake, RunFailed) as error:
            raise self._failed(error) from error

    def release(self) -> None:
        """Put what can be put at once, and let others go on with the run."""
        if not self.token:
            return
        self._stop_beating()
        try:
            self.put(everything=True, pauses=PAUSES[:1])
            self._check_lock(PAUSES[:1])
            self.store.ask(lambda: self._write_lock(self.token, b"\n"), pauses=PAUSES[:1])
        except (Mistake, RunFailed) as error:
            print(self._failed(error) if not isinstance(error, TakenOver) else error, flush=True)
        self._has_let_go()

    def _has_let_go(self) -> None:
        self.token, self.is_new = "", False
        self._begin()

    def discard(self) -> None:
        """Leave nothing of a new run that was refused before its first step."""
        self._stop_beating()
        if self.is_new:
            with contextlib.suppress(Mistake, RunFailed):
                for name in [*self.record, LOCK]:
                    self.store.ask(functools.partial(self._remove, name), pauses=())
        self.token, self.is_new, self.was_fetched = "", False, False


class TakenOver(RunFailed):
    """Another process goes on with the run."""


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _turn(name: str) -> tuple[int, str]:
    """Return when a file is put: a run goes on from its last checkpoint, which needs all the others."""
    return ((BEST, LAST).index(name) if name in (BEST, LAST) else -1, name)


def _is_needed(name: str) -> bool:
    """Tell whether a run goes on with a file, so that each save puts it; the files of loggers wait for the end."""
    return name.startswith("checkpoints/") or ("/" not in name and not name.startswith("events.out"))


def copy_of(folder: Path) -> Copy | None:
    """Return the copy of a stored run that lies in a folder; None where that is a run of this machine alone."""
    found = (each.copies.get(folder.absolute()) for each in STORES.values())
    return next((copy for copy in found if copy is not None), None)


def check_inside(folder: Path, place: str | None) -> None:
    """Refuse another place of checkpoints than the folder of a run that is kept in a store.

    Raises:
        Mistake: It is another.
    """
    copy = copy_of(folder)
    if copy is not None and place and Path(place).absolute() != folder.absolute() / "checkpoints":
        raise Mistake(
            f"dirpath={place!r} lies outside of the run's folder, so its checkpoints would not be put into "
            f"{copy.store.url}; leave --callbacks.best.dirpath and --callbacks.last.dirpath out."
        )


def fetch(folder: Path, *checkpoints: str) -> None:
    """Bring a run that is kept in a store up to date, if it is; all of it, or what is read with some checkpoints."""
    copy = copy_of(folder)
    if copy is None:
        return
    wanted = {f"checkpoints/{name}.ckpt" for name in checkpoints}
    copy.fetch(lambda name: not wanted or name in wanted or (_is_needed(name) and not name.startswith("checkpoints/")))


def is_there(path: Path) -> bool:
    """Tell whether a run has a checkpoint, in its folder or in the store."""
    copy = copy_of(path.parent.parent)
    return path.is_file() or (copy is not None and f"checkpoints/{path.name}" in copy.there)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put what a command writes into a run that is kept in a store back there, also where the command fails."""
    failed = True
    try:
        yield
        failed = False
    finally:
        try:
            _put_back(strictly=not failed)
        finally:
            STORES.clear()


def _put_back(strictly: bool) -> None:
    if not is_rank_zero():
        return
    for copy in [copy for each in STORES.values() for copy in each.copies.values() if copy.was_fetched]:
        try:
            copy.put(everything=True, pauses=None if strictly else ())
        except (Mistake, RunFailed) as error:
            failed = RunFailed(f"what was written is not in {copy.store.url}, it is in {copy.folder}: {error}")
            if strictly:
                raise failed from error
            print(failed)


class Upload(Checkpoint):
    """Puts each save into the store, after the callbacks that save.

    Args:
        copy: The copy of the run.
    """

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.saved: list[list[int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.copy.after_save()
            self.saved = self._state()

    def _state(self) -> list[list[int]]:
        return [self.copy.state(BEST), self.copy.state(LAST)]

    def _upload(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or self.saved == self._state():
            return
        for logger in trainer.loggers:  # the rows before a checkpoint must be there with it
            logger.save()
        self.saved = self._state()
        self.copy.after_save()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._upload(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._upload(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._upload(trainer)
