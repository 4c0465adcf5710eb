"""Ranks that learn of each other's faults before they wait for each other: a line on every host instead of a hang."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from . import signals
from .mistakes import Mistake, RunFailed

NODES = ("GROUP_RANK", "SLURM_NODEID", "NODE_RANK")  # of torchrun, SLURM, Lightning


class Found(NamedTuple):
    """What a rank has to say.

    Args:
        rank: Its number.
        host: Where it runs.
        node: The host's number, which a name may share with another (in containers).
        kind: What is wrong: Mistake, RunFailed, Stopped, or the class of another error; nothing where all is well.
        text: Its text; of Stopped the signal.
    """

    rank: int
    host: str
    node: str
    kind: str
    text: str


def is_rank_zero() -> bool:
    """Tell whether this process leads the run, before any process group exists."""
    first_node = os.environ.get("NODE_RANK", "0") in ("", "0")  # which Lightning looks at later
    return getattr(rank_zero_only, "rank", 0) == 0 and first_node


def are_connected() -> bool:
    """Tell whether there are other ranks that this one can hear."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let every rank do the same, and each raise what one of them raises; every rank must come here.

    Of the ranks of a host one says it. A fault in code keeps its traceback where it was.

    Raises:
        Mistake: In another rank there is one.
        RunFailed: Another rank failed otherwise.
        Stopped: A signal asked another rank to end.
        SystemExit: Another rank of this host says it.
    """
    error: BaseException | None = None
    try:
        yield
    except (Exception, signals.Stopped) as raised:
        error = raised
    if not are_connected():
        if error is not None:
            raise error
        return
    node = next((os.environ[name] for name in NODES if name in os.environ), "")
    text = str(int(error.signal)) if isinstance(error, signals.Stopped) else " ".join(str(error or "").split())
    found = Found(distributed.get_rank(), socket.gethostname(), node, _kind(error), text)
    told: list[Found] = [found] * distributed.get_world_size()
    with signals.held_back():
        distributed.all_gather_object(told, found)
    wrong = [each for each in told if each.kind]
    if not wrong:
        return
    if error is not None and not isinstance(error, Mistake | RunFailed):
        raise error
    if stopped := [each for each in wrong if each.kind == "Stopped"]:
        raise signals.Stopped(int(stopped[0].text))
    is_mistake = all(each.kind == "Mistake" for each in wrong)
    if found.rank != min(each.rank for each in told if (each.host, each.node) == (found.host, found.node)):
        raise SystemExit(2 if is_mistake else 1)
    raise (Mistake if is_mistake else RunFailed)(_said(wrong)) from error


def _kind(error: BaseException | None) -> str:
    known = next((kind.__name__ for kind in (Mistake, RunFailed) if isinstance(error, kind)), "")
    return known or (type(error).__name__ if error else "")


def _said(wrong: list[Found]) -> str:
    first = [each for each in wrong if each.text == wrong[0].text]
    where = ", ".join(f"rank {each.rank} on {each.host}" for each in first[:8]) + (" …" if len(first) > 8 else "")
    kind = "" if wrong[0].kind in ("Mistake", "RunFailed") else f"{wrong[0].kind}: "
    return f"{where}: {kind}{wrong[0].text}"
