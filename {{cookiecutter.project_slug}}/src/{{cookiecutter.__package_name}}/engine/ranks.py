"""Several ranks: how long they wait for one another, and what is said of one that no longer answers.

A collective operation waits for every rank. Lightning lets it wait for half an hour without a word; here it is ten
minutes, which is said, and ``--trainer.strategy.timeout 60`` changes it.
"""

import atexit
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jsonargparse.typing import register_type
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import StrategyRegistry
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from .configs import as_text
from .internals import class_of_strategy, default_store, keep_order_of_sums, set_timeout, timeout_of
from .mistakes import Mistake, RunFailed
from .together import is_rank_zero

TIMEOUT = timedelta(minutes=10)
FLAG = "--trainer.strategy"
ANSWER = 5.0  # seconds in which a rank that is alive says so, after a collective operation has failed
BROKEN = re.compile(
    r"gloo.*(timed out|timeout|closed by peer|reset by peer|broken pipe|refused|unreachable)|ncclRemoteError",
    re.IGNORECASE | re.DOTALL,
)


def time_of(value: Any) -> timedelta:
    """Read a time: seconds, or ``0:10:00``, as Python writes it.

    Raises:
        ValueError: It is none, or not above zero.
    """
    clock = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d+):(\d+(?:\.\d+)?)", str(value))
    days, hours, minutes, seconds = (float(part or 0) for part in clock.groups()) if clock else (0, 0, 0, value)
    with suppress(TypeError, ValueError, OverflowError):
        given = timedelta(days, float(seconds), hours=hours, minutes=minutes)
        if given > timedelta(0) and not isinstance(value, bool):
            return given
    raise ValueError(f"{value} is no time above zero; give seconds, or h:mm:ss")


register_type(timedelta, deserializer=time_of)


def with_class_of_strategy(args: list[str], settings: Mapping[str, Any]) -> list[str]:
    """Return flags in which a strategy that is named and has an option is given by its class: options belong to one.

    Args:
        args: The flags.
        settings: What flags and configs set, by dotted names.

    Raises:
        Mistake: An option is given, and no strategy.
    """
    option = next((arg for arg in args if arg.startswith(f"{FLAG}.")), None)
    if option is None or any(key.startswith("trainer.strategy.class_path") for key in settings):
        return args
    name = settings.get("trainer.strategy", "auto")
    if name == "auto":
        raise Mistake(
            f"{option.partition('=')[0]} is an option of a strategy, and {FLAG} auto may choose one that has none; "
            f"name it: {FLAG} ddp {option.partition('=')[0]} …"
        )
    if name not in StrategyRegistry.available_strategies():
        return args
    path, options = class_of_strategy(name)
    chosen = [f"{FLAG}={path}", *(f"{FLAG}.{key}={as_text(value)}" for key, value in options.items())]
    left = [arg for at, arg in enumerate(args) if not _names_strategy(arg, args[at - 1] if at else "")]
    at = left.index(option)
    return [*left[:at], *chosen, *left[at:]]


def _names_strategy(arg: str, before: str) -> bool:
    return arg == FLAG or arg.startswith(f"{FLAG}=") or before == FLAG


def limit_waiting(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Let ranks wait for one another for ten minutes, unless another time is given, and say so.

    Args:
        trainer: Its strategy is changed.
        settings: What flags and configs set, by dotted names.
    """
    strategy, given = trainer.strategy, "trainer.strategy.timeout" in settings
    if trainer.world_size == 1:
        return
    if not given and timeout_of(strategy) == default_pg_timeout:
        set_timeout(strategy, TIMEOUT)
    if is_rank_zero() and (timeout := timeout_of(strategy)) is not None:
        flag = f"{FLAG}.timeout" if "trainer.strategy" in settings else f"{FLAG} ddp {FLAG}.timeout"
        print(
            f"{trainer.world_size} ranks: one that does not answer for {timeout} ends the run "
            f"({flag} {timeout.total_seconds():.0f})"
        )


class SameSums(Callback):
    """Sums gradients in one order in every step, where a run that goes on is promised the same bits on three ranks.

    (Two have no order. The price is that sums begin when the whole gradient is there; so on GPUs only with
    --trainer.deterministic true, without which two runs differ anyway.)
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = trainer.strategy.model
        is_exact = trainer.strategy.root_device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        if trainer.world_size > 2 and is_exact and isinstance(model, DistributedDataParallel):
            keep_order_of_sums(model)


def lost(error: BaseException, trainer: Trainer | None) -> RunFailed | None:
    """Word an error that says that another rank no longer answers or has ended; None where it says another thing."""
    broken = isinstance(error, dist.DistNetworkError | dist.DistStoreError) or (
        isinstance(error, RuntimeError) and BROKEN.search(str(error))
    )
    if trainer is None or not broken:
        return None
    reason = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).split(". This ")[0][:200].rstrip(".")
    after = "the same command with --resume auto goes on from the last checkpoint."
    timeout = timeout_of(trainer.strategy)
    if not re.search("timed out|timeout", reason, re.IGNORECASE):
        end_after_parent()
        return RunFailed(
            f"another rank ended or lost its network ({reason}), so no step can be made; what it said last says why; "
            f"{after}"
        )
    if not dist.is_initialized():
        return RunFailed(f"not all {trainer.world_size} ranks came within {timeout} ({reason}); start all of them.")
    silent = silent_ranks()
    if dist.get_rank() == 0:
        time.sleep(ANSWER / 2)  # the others ask its store
    _end_silent_children(trainer, silent)
    end_after_parent()
    names = f"rank {', '.join(map(str, silent))}" if silent else "a rank"
    return RunFailed(
        f"{names} did not answer for {timeout} ({FLAG}.timeout), so no step could be made; see what holds it, or give "
        f"a longer time, and {after}"
    )


def silent_ranks() -> list[int]:
    """Return the ranks that do not answer: each that is alive calls this after a collective operation has failed."""
    store, rank, world = default_store(), dist.get_rank(), dist.get_world_size()
    answered: set[int] = set()

    def ask() -> None:
        with suppress(RuntimeError):  # rank zero, which has the store, has ended
            store.set(f"answers/{rank}", "")
            while len(answered) < world:
                answered.update(other for other in range(world) if store.check([f"answers/{other}"]))
                time.sleep(0.1)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER)
    return sorted(set(range(world)) - answered) if answered else [0]


def _end_silent_children(trainer: Trainer, silent: list[int]) -> None:
    """End at this process's end those of its children that do not answer: a stopped one would stay for ever."""
    first = trainer.global_rank - trainer.local_rank
    for child, process in enumerate(getattr(trainer.strategy.launcher, "procs", ()), start=first + 1):
        if child in silent:
            atexit.register(process.kill)  # not before: Lightning kills this process where a child has failed


def end_after_parent(seconds: float = 2 * ANSWER) -> None:
    """Wait for the process that launched this rank to end: Lightning kills it with SIGKILL where this one fails.

    Args:
        seconds: The longest wait.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ or not os.environ.get("LOCAL_RANK"):
        return
    parent, until = os.getppid(), time.monotonic() + seconds
    while os.environ["LOCAL_RANK"] != "0" and os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.1)
