"""What a machine lacks ends in one line or in nothing: locks, room, open files, workers, servers, an output."""

import errno
import fcntl
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from project_package.engine import (
    fallible,
    files,
    loggers,
    output,
    resume,
    runs,
    workers,
)
from project_package.engine.batches import Batch, collate, set_up_worker
from project_package.engine.files import append, locked
from project_package.engine.mistakes import RunFailed
from project_package.engine.workers import affordable, lost, shortage


def test_a_run_goes_on_where_there_are_no_locks_and_says_so_once(tmp_path, monkeypatch, capsys):
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    run = runs.Run(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "lockf", lockf)
        resume.Lock(run).release()
        assert not resume.Lock.is_held(run)
    assert capsys.readouterr().out.count("there are no locks in") == 1
    with run.lock.open("r+") as file:
        assert locked(file.fileno(), run.lock)


def test_a_lock_that_another_process_holds_is_held(tmp_path, monkeypatch):
    for number in (errno.EAGAIN, errno.EACCES):
        monkeypatch.setattr(fcntl, "lockf", lambda *_, number=number: (_ for _ in ()).throw(OSError(number, "held")))
        assert locked(0, tmp_path / "lock") is False


def test_a_row_that_finds_no_room_leaves_none_of_it(tmp_path, monkeypatch):
    file, write = tmp_path / "metrics.csv", os.write
    append(file, "step\n1\n")

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunFailed, match=r"could not be written .No space"):
        append(file, "123456789\n")
    assert file.read_text() == "step\n1\n"


@pytest.mark.parametrize(("megabytes", "fitting"), [(100, 4), (10, 4), (8, 3), (4, 1), (3, 0), (0, 0)])
def test_as_many_workers_load_as_shared_memory_holds_batches_of(megabytes, fitting, monkeypatch, capsys):
    monkeypatch.setattr(workers, "said", set())
    found = SimpleNamespace(f_bavail=megabytes * 1_020_000, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert [affordable(4, 1_000_000, 1) for _ in range(2)] == [fitting, fitting]
    assert capsys.readouterr().out.count("--shm-size") == (fitting < 4)
    assert affordable(4, 500_000, 2) in (fitting, fitting - 1)  # pages


def test_as_many_workers_load_as_files_may_be_opened_for(monkeypatch, capsys):
    monkeypatch.setattr(workers, "said", set())
    taken = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 80, taken + 80))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert affordable(4, 1, 1) == 2
    assert "ulimit -n" in capsys.readouterr().out


class Lost(Dataset[Batch]):
    """Samples of which one ends the worker that loads it."""

    def __init__(self, end: Any) -> None:
        self.end = end

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: int) -> Batch:
        return Batch(torch.zeros(1), self.end() if key == 5 else torch.zeros(1), torch.tensor(key))


def read_to_the_end(loader: DataLoader[Batch]) -> None:
    """Take all batches; torch's word on a worker may come after the first sign of its end, as a signal."""
    try:
        list(loader)
    finally:
        for worker in multiprocessing.active_children():
            worker.join()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was lost, most often because the machine's memory ran out"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "was (lost|ended by a signal .Bus error)"),
        (lambda: os._exit(1), "was lost"),
    ],
    ids=["killed", "bus error", "exit"],
)
def test_a_lost_worker_is_one_line(end, reason):
    loader = DataLoader(Lost(end), 2, num_workers=1, collate_fn=collate, multiprocessing_context="fork")
    with pytest.raises((RuntimeError, OSError, EOFError)) as raised:
        read_to_the_end(loader)
    with pytest.raises(RunFailed, match=reason):
        raise lost(raised.value) or AssertionError


class Unpicklable:
    def __reduce__(self) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for():
    loader = DataLoader(
        Lost(None),
        2,
        num_workers=1,
        collate_fn=lambda batch: Unpicklable(),
        worker_init_fn=set_up_worker,
        multiprocessing_context="fork",
    )
    with pytest.raises(RuntimeError) as raised:
        read_to_the_end(loader)
    # The kernel may tell of the worker's end before its exit code is known.
    assert re.search(r"could not hand over a batch \(Too many open files\)|was lost", str(lost(raised.value)))


def test_a_batch_without_room_in_shared_memory_is_one_line(monkeypatch):
    def no_room(self: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    loader = DataLoader(
        Lost(lambda: torch.zeros(1)), 2, num_workers=1, collate_fn=collate, multiprocessing_context="fork"
    )
    with pytest.raises(RunFailed, match=r"no room in shared memory .No space left"):
        list(loader)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "memory does not hold"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: 9 bytes"), "memory does not hold"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "No space left on device: /a, so the run"),
    ],
)
def test_what_a_machine_lacks_is_one_line(error, words):
    assert words in str(shortage(error))
    assert shortage(KeyError("x")) is shortage(OSError(errno.ENOENT, "No such file")) is None


SAY = """
from {module} import outlive_output
outlive_output()
import os, sys
for _ in range(3):
    print("Blüte", flush=True)
    print("words", file=sys.stderr, flush=True)
assert os.open({file!r}, os.O_RDWR | os.O_CREAT) > 2
os.system("echo of another program")
"""


def say(tmp_path: Path, redirection: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    source = Path(output.__file__).parents[2]
    program = tmp_path / "say.py"
    program.write_text(SAY.format(module=output.__name__, file=str(tmp_path / "file")), encoding="utf-8")
    own = {**os.environ, "PYTHONPATH": str(source), **environment}
    line = f"{sys.executable} {program} {redirection}"
    return subprocess.run(["bash", "-c", line], env=own, capture_output=True, timeout=60)


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_an_output_that_is_closed_or_full_ends_nothing(redirection, tmp_path):
    done = say(tmp_path, redirection)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""  # what is printed goes into no file that was opened since


def test_an_output_that_nobody_reads_ends_nothing(tmp_path):
    assert say(tmp_path, "| head -0; exit ${PIPESTATUS[0]}").returncode == 0


def test_names_are_said_where_an_output_cannot_spell_them(tmp_path):
    done = say(tmp_path, "", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert rb"Bl\xfcte" in done.stdout


def test_python_starts_again_in_utf8(tmp_path):
    program = f"from {output.__name__} import begin_in_utf8; begin_in_utf8(); import sys; print(sys.flags.utf8_mode)"
    own = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(Path(output.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | own, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"1\n")


def test_a_server_that_takes_connections_and_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(fallible, "PATIENCE", 0.2)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        reason = fallible.why_no_answer(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert reason
    assert fallible.why_no_answer("sqlite:///store.db") == ""


class Full:
    """Any experiment on a full disk."""

    def __getattr__(self, name: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", fallible.FALLIBLE.values(), ids=lambda kind: kind.__name__)
def test_a_logger_that_fails_is_left_out_and_said_once(kind, capsys):
    logger = kind.__new__(kind)
    logger._experiment, logger._initialized, logger._prefix = Full(), True, ""
    for _ in range(2):
        logger.log_metrics({"loss": 1.0}, step=1)
        logger.log_hyperparams({"a": 1})
        logger.experiment.add_image("x", 1)
        logger.finalize("success")
    assert capsys.readouterr().out.count(f"{kind.called} failed and is left out") == 1


def test_loggers_of_libraries_may_fail_and_get_what_they_are_given(tmp_path):
    spec = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger"}
    first, _ = loggers.specs([spec], runs.Run(tmp_path), "small/version_0")
    assert first["class_path"] == f"{fallible.__name__}.TensorBoard"
    assert files.locked is locked
