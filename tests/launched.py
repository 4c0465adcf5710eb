"""What the files of ``launch/`` start, started as their platforms do; and a torchrun whose ranks need no imports."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from conftest import _child

KEPT = """import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open("started.json", "w"))"""


class Platform(NamedTuple):
    """How a platform treats what it starts.

    Args:
        stop: The signal that it sends.
        first: What it sets in the environment.
        again: What it sets as well when it starts the same again.
    """

    stop: signal.Signals
    first: dict[str, str] = {}
    again: dict[str, str] = {}


SLURM = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_NAME": "train"}
SLURM |= {"SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODEID": "0"}
SLURM |= {"SLURM_CPUS_PER_TASK": "1"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost"}
PLATFORMS = {
    "slurm.sh": Platform(signal.SIGUSR1, SLURM, {"SLURM_RESTART_COUNT": "1"}),
    "kubernetes.yaml": Platform(signal.SIGTERM),
    "skypilot.yaml": Platform(signal.SIGTERM, {"SKYPILOT_TASK_ID": "sky-1", "SKYPILOT_NUM_GPUS_PER_NODE": "1"}),
    "Dockerfile": Platform(signal.SIGTERM),
}


def container(project: Path) -> dict[str, Any]:
    """Return the container of launch/kubernetes.yaml."""
    documents = yaml.safe_load_all((project / "launch/kubernetes.yaml").read_text(encoding="utf-8"))
    job = next(document for document in documents if document["kind"] == "Job")
    return job["spec"]["template"]["spec"]["containers"][0]


def of_a_pod(project: Path, index: int = 0, **addresses: str) -> dict[str, str]:
    """Return the environment of a pod; ``addresses`` take the place of what only a cluster can resolve."""
    fields = {"controller-uid": "0f3c", "job-completion-index": str(index)}
    found = {}
    for variable in container(project)["env"]:
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        found[variable["name"]] = next((value for key, value in fields.items() if key in path), variable.get("value"))
    return {"JOB_COMPLETION_INDEX": str(index)} | found | addresses  # the first by the controller


def furnish(place: Path, project: Path, dry: bool) -> None:
    """Give a working folder what the files of launch/ call; if ``dry`` it is written down and not run."""
    commands, python = place / ".venv/bin", shlex.quote(sys.executable)
    commands.mkdir(parents=True)
    (place / "launch").symlink_to(project / "launch")
    source = f"PYTHONPATH={shlex.quote(str(project / 'src'))}"
    asked = shlex.quote(str(place / "requeued"))
    lines = {
        "my-project": f"{source} exec {python} -m my_project",
        "torchrun": f"{source} exec {python} -m torch.distributed.run",
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec',  # without flags of its own
        "scontrol": f"echo >>{asked}",
    }
    if dry:
        lines |= dict.fromkeys(("my-project", "torchrun"), f"exec {python} -c {shlex.quote(KEPT)}")
    for name, line in lines.items():
        (commands / name).write_text(f'#!/bin/sh\n{line} "$@"\n')
        (commands / name).chmod(0o755)


def start(file: str, place: Path, project: Path, flags: tuple[str, ...], **environment: str) -> subprocess.Popen[str]:
    """Start what a file says, as its platform does, in a folder that was furnished."""
    given = environment
    if file == "kubernetes.yaml":
        command = [*container(project)["command"], *container(project)["args"], *flags]
        given = of_a_pod(project) | given
    elif file == "skypilot.yaml":
        line = yaml.safe_load((project / "launch" / file).read_text(encoding="utf-8"))["run"].rstrip()
        command = ["bash", "-c", f"{line.replace('/runs', f'{place}/runs')} {shlex.join(flags)}"]  # the bucket
    elif file == "Dockerfile":
        lines = (project / "launch" / file).read_text(encoding="utf-8").splitlines()
        words = {line.split()[0]: line.partition(" ")[2] for line in lines if line.startswith(("ENTRYPOINT", "CMD"))}
        command = [*json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"]), *flags]
    else:
        command = ["bash", f"launch/{file}", *flags]
    path = f"{place}/.venv/bin:{os.environ['PATH']}"
    own = {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    output = (place / "output").open("a")
    found = os.environ | own | given  # Popen looks a command up in this process's PATH
    command[0] = str(next((p for p in [place / ".venv/bin" / command[0]] if p.exists()), command[0]))
    return subprocess.Popen(command, cwd=place, env=found, stdout=output, stderr=subprocess.STDOUT, text=True)


def started(file: str, place: Path, project: Path, flags: tuple[str, ...], **environment: str) -> tuple[Any, Any]:
    """Return the arguments of the project's command, or of torchrun, that a file starts, and its environment."""
    assert start(file, place, project, flags, **environment).wait(60) == 0, (place / "output").read_text()
    args, found = json.loads((place / "started.json").read_text())
    left_out = ("PWD", "OLDPWD", "SHLVL", "_", "PYTEST_CURRENT_TEST")
    return args, {key: value for key, value in found.items() if os.environ.get(key) != value and key not in left_out}


def _rank(project: str, place: str, args: list[str], victim: str, fault: str) -> None:
    rank, restart = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    own = {"RANK": rank} | ({"SABOTAGE": fault} if (rank, restart) == (victim, "0") else {})
    try:
        _child(project, place, args, f"{place}/output-{rank}-{restart}", own)
    except SystemExit as end:
        if end.code:
            raise


def torchruns_agent(project: str, place: str, args: list[str], victim: str, fault: str) -> None:
    """Run the agent of a real torchrun; its ranks are forked from this process, which has imported what is heavy.

    Args:
        project: The project.
        place: The working folder.
        args: The command of the project.
        victim: The rank in which ``fault`` is armed, at its first start alone.
        fault: See ``faults.sabotage``.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.chdir(place)
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="none",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=3,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, _rank)(project, place, args, victim, fault)
