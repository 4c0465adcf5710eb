"""What a signal that asks a command to end does: it raises Stopped, or is noted while a training can still be saved.

This file imports the standard library alone, so that it is in force before anything heavy is imported.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_SLURM = (signal.SIGUSR1, signal.SIGUSR2)  # sbatch --signal=USR1@120: the time is nearly up, the job may come back
# Whoever has one of these in the environment gets a signal handed on that the whole group of processes got already.
HANDED_ON = "SIGNALS_ARE_HANDED_ON"
LAUNCHERS = {HANDED_ON, "TORCHELASTIC_RUN_ID"}
FORWARDED = 5.0  # seconds that this may take


class Stopped(BaseException):
    """A signal asked the command to end. (No Exception, so that nobody takes it for a fault and goes on.)

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """128 + the signal, as a shell has it."""
        return 128 + self.signal


class _State:
    received: signal.Signals | None = None
    since = 0.0
    is_noted_only = False  # and not raised
    was_raised = False
    is_whole = False  # what the command was for is done
    owner = 0  # the process: children that are forked inherit the handler
    before_a_sudden_end: Callable[[int], object] | None = None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Handle signals inside of the block, and as before after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _forget()
    of_here = ENDING + (OF_SLURM if "SLURM_JOB_ID" in os.environ else ())
    before = {number: signal.getsignal(number) for number in of_here}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _forget()


def _forget() -> None:
    _State.received, _State.is_noted_only, _State.was_raised, _State.is_whole = None, False, False, False
    _State.owner, _State.before_a_sudden_end = os.getpid(), None


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.owner:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif _State.received is None:
        _State.received, _State.since = signal.Signals(number), time.monotonic()
        if not _State.is_noted_only:
            _State.was_raised = True
            raise Stopped(number)
    elif not LAUNCHERS & os.environ.keys() or time.monotonic() - _State.since > FORWARDED:
        _end_at_once(_State.received)


def _end_at_once(number: signal.Signals) -> None:
    """End without anything else: whoever asks twice does not want to wait. Files are written whole or not at all."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        if _State.before_a_sudden_end is not None:
            _State.before_a_sudden_end(signal.SIGKILL)
    os._exit(0 if _State.is_whole else 128 + number)


def note_only(before_a_sudden_end: Callable[[int], object] | None = None) -> None:
    """From here on note a signal, and raise nothing.

    Args:
        before_a_sudden_end: Sends a signal to the processes that cannot live without this one.
    """
    _State.is_noted_only, _State.before_a_sudden_end = True, before_a_sudden_end


def noted() -> int:
    """Return the signal that was received, or 0."""
    return int(_State.received or 0)


def check() -> None:
    """Raise a signal that was noted, or whose exception somebody swallowed; from here on signals are raised again.

    Raises:
        Stopped: There is one.
    """
    _State.is_noted_only = False
    if _State.received is not None:
        raise Stopped(_State.received)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Note signals inside of the block, which is short, and raise them after it."""
    outer = _State.is_noted_only
    _State.is_noted_only = True
    try:
        yield
    finally:
        _State.is_noted_only = outer
    if not outer:
        check()


def is_whole() -> None:
    """Tell that what the command was for is done: a signal ends what comes after it, and the exit code stays 0."""
    _State.is_whole, _State.is_noted_only = True, False


def check_whole() -> None:
    """Raise a signal whose exception somebody swallowed, where what the command was for is not known to be done.

    Raises:
        Stopped: There is one.
    """
    if _State.was_raised and not _State.is_whole:
        check()


def was_raised() -> bool:
    """Tell whether a signal was raised where it struck, and not noted."""
    return _State.was_raised


def has_ended(error: BaseException) -> bool:
    """Tell whether a signal ended the command: a library may have turned Stopped into an error of its own."""
    return isinstance(error, Stopped) or _State.was_raised


def exit_code(error: BaseException) -> int:
    """Say that a signal has ended the command; returns the exit code.

    Args:
        error: What came out of the command, see ``has_ended``.
    """
    if _State.is_whole:
        return 0
    if not isinstance(error, Stopped):
        error = Stopped(_State.received or signal.SIGTERM)
    if is_first_process():
        print(error, file=sys.stderr)
        requeue(error.signal)
    return error.exit_code


def end_with(code: int) -> None:
    """From here on let a signal end this process with the exit code of its command, which is over."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))


def is_first_process() -> bool:
    """Tell whether this process is the first of those that train together."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def requeue(number: int) -> None:
    """Have SLURM start this job again, if that is what its signal was for."""
    if number not in OF_SLURM or "SLURM_JOB_ID" not in os.environ or HANDED_ON in os.environ:
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        reason = asked.stderr.strip() if asked.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        said = f"could not be queued again ({' '.join(reason.split())}); start it again by sbatch"
    else:
        said = "is queued again and will go on from here"
    print(f"SLURM job {job} {said}", file=sys.stderr)


def run(command: list[str], **options: Any) -> int:
    """Run a command that trains, to its end; a signal is handed on, so that it can save.

    Returns:
        Its exit code.

    Raises:
        Stopped: A signal asked this process to end, and the command has ended.
    """
    # In a session of its own a terminal's Ctrl-C reaches it once, from here.
    environment = {**os.environ, HANDED_ON: "1"}
    process = subprocess.Popen(command, start_new_session=True, env=environment, **options)
    try:
        return process.wait()
    except Stopped as stop:
        process.send_signal(stop.signal)
        process.wait()
        raise


def leave_to_the_main_process() -> None:
    """Let a loader's worker go on whatever the whole group of processes is told: the main process ends it."""
    for number in (signal.SIGINT, signal.SIGHUP, *OF_SLURM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by_the_main_process, daemon=True).start()


def _end_when_told_by_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
