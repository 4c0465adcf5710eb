"""Launches: what tells one from another, whether it was started again, and which ones have worked on a run.

A launch is a job or an array's task of SLURM's, an index of a Kubernetes job, a start of torchrun's with an id, or what
the user calls RUN_ID. It stays the same when a scheduler starts its command again.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .configs import packaged
from .files import append, read_text
from .mistakes import Mistake
from .renames import command_of_today
from .runs import Run, masked_args, without

LARGEST = 10**7  # bytes of what is kept of a run's launches
COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}")


class Launch(NamedTuple):
    """What a launch is known by.

    Args:
        identity: Its name, for people; nothing where nobody gave one.
        task: Its number among those that were started together: of an array, of an Indexed Job; or nothing.
        is_counted: Whether a count tells that it was started again; a recreated pod has none, nor has RUN_ID.
        variable: What tells it from those that were started beside it.
    """

    identity: str = ""
    task: str = ""
    is_counted: bool = True
    variable: str = ""

    @property
    def placeholder(self) -> str:
        """What stands for the variable in a run's name."""
        return "{" + self.variable + "}"


class Work(NamedTuple):
    """A launch's work on a run.

    Args:
        identity: As of ``Launch``.
        task: Likewise.
        command: The command, without ``--resume`` and secrets.
    """

    identity: str
    task: str
    command: list[str]


def this_launch() -> Launch:
    """Return which launch this process belongs to."""
    given = os.environ
    index = given.get("JOB_COMPLETION_INDEX", "")
    is_node = index != "" and given.get("NODE_RANK") == index  # as launch/kubernetes.yaml has it
    if is_node or int(_number(given.get("GROUP_WORLD_SIZE"))) > 1:  # pods of one run: the index is a node's
        index_of_run, variable = "", ""
    else:
        index_of_run, variable = index, "JOB_COMPLETION_INDEX" if index else ""
    array, job = given.get("SLURM_ARRAY_JOB_ID"), given.get("SLURM_JOB_ID")
    task = given.get("SLURM_ARRAY_TASK_ID", "") if array else ""
    if name := given.get("RUN_ID"):
        task, variable = task or index_of_run, "SLURM_ARRAY_TASK_ID" if task else variable
        return Launch(f"RUN_ID {name}{task and f', task {task}'}", task, False, variable or "RUN_ID")
    if task:
        return Launch(f"SLURM job {array}, task {task}", task, variable="SLURM_ARRAY_TASK_ID")
    if job:
        return Launch(f"SLURM job {job}", variable="SLURM_JOB_ID")
    # Before torchrun's id, which is drawn anew in a recreated pod (--standalone).
    if index and (found := re.fullmatch(rf"(.+)-{re.escape(index)}(?:-[a-z0-9]+)?", socket.gethostname())):
        name = f"Kubernetes job {found.group(1)}{index_of_run and f', index {index_of_run}'}"
        return Launch(name, index_of_run, False, variable)
    if (name := given.get("TORCHELASTIC_RUN_ID")) not in (None, "", "none"):
        return Launch(f"torchrun {name}")
    return Launch()


def is_counted_restart() -> bool:
    """Tell whether a scheduler has started this command again: torchrun after a failure, SLURM after a requeue."""
    return any(int(_number(os.environ.get(name))) > 0 for name in COUNTS)


def _number(text: str | None) -> str:
    return text if text and text.isascii() and text.isdecimal() else "0"


def as_kept(args: Sequence[str]) -> list[str]:
    """Return a command as it is kept: without ``--resume``, which a restart may lack, and without secrets."""
    names = {str(path): name for name, path in packaged().items()}
    named = [
        f"{flag}{sign}{names.get(value, value)}" if sign else names.get(arg, arg)
        for arg in args
        for flag, sign, value in [arg.partition("=")]
    ]
    return masked_args(without("--resume", named))


def note_launch(run: Run, args: Sequence[str]) -> None:
    """Write down that this launch works on a run."""
    launch = this_launch()
    line = {"launch": launch.identity, "task": launch.task, "command": as_kept(args)}
    append(run.launches, json.dumps(line) + "\n")


def launches_of(run: Run) -> list[Work]:
    """Return which launches have worked on a run, the one that began it first; what cannot be read says nothing."""
    found: list[Work] = []
    lines: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        lines = read_text(run.launches, LARGEST).splitlines()
    for line in lines:
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):  # a kill may have cut it off
            content: Any = json.loads(line)
            command = command_of_today([*map(str, content["command"])])
            found.append(Work(str(content["launch"]), str(content["task"]), command))
    return found


def is_of_another_task(run: Run) -> bool:
    """Tell whether a run belongs to another task of an array or another index of a Kubernetes job than this one."""
    mine = this_launch().task
    tasks = {work.task for work in launches_of(run)} - {""}
    return bool(mine and tasks) and mine not in tasks


def filled_in(name: str) -> str:
    """Return a run's name with the environment's value for each {VARIABLE} in it.

    Raises:
        Mistake: One is not set, or holds what cannot be a name.
    """
    for variable in VARIABLE.findall(name):
        if not os.environ.get(variable):
            raise Mistake(
                f"--name={name!r} asks for the variable {variable}, which is not set here, so the run would share its "
                "name with others; set it, or give a name without it."
            )
    filled = VARIABLE.sub(lambda found: os.environ[found.group(1)], name)
    path = Path(filled)
    is_name = filled.isprintable() and not path.is_absolute() and ".." not in path.parts and path.parts
    if filled != name and not is_name:
        raise Mistake(
            f"--name={name!r} would be {filled!r} here, which leads out of --run_root or cannot be read; give what can "
            "be a folder's name."
        )
    return filled
