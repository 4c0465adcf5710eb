"""A real SLURM of one node (Debian's packages slurmctld, slurmd, slurm-client and munge), where it can start."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import free_port

DAEMONS = {name: f"/usr/sbin/{name}" for name in ("munged", "slurmctld", "slurmd")}
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "srun")


class NoSlurm(Exception):
    """SLURM is not here, or cannot start."""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster of this machine; yields the environment in which its commands find it.

    Args:
        folder: Where its files go.

    Raises:
        NoSlurm: It cannot start.
    """
    lacking = [name for name, path in DAEMONS.items() if not os.access(path, os.X_OK)]
    lacking += [name for name in COMMANDS if shutil.which(name) is None]
    if lacking or os.geteuid() != 0:
        raise NoSlurm(f"no {', '.join(lacking)}" if lacking else "only root can start it")
    settings, environment = _configured(folder), {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    key = ["--key-file", str(folder / "key"), "--seed-file", str(folder / "seed"), "--pid-file", str(folder / "pid")]
    started = []
    try:
        for command in (
            [DAEMONS["munged"], "--foreground", "--force", "--socket", str(folder / "socket"), *key],
            [DAEMONS["slurmctld"], "-D", "-f", str(settings)],
            [DAEMONS["slurmd"], "-D", "-f", str(settings)],
        ):
            nowhere = subprocess.DEVNULL
            started.append(subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere))
            while started[0].poll() is None and not (folder / "socket").exists():
                time.sleep(0.1)
        deadline = time.monotonic() + 60
        while "idle" not in (asked := _run("sinfo", "-h", "-o", "%T", environment=environment)):
            if time.monotonic() > deadline:
                raise NoSlurm(f"its node does not come up: {asked}")
            time.sleep(1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _run(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def _configured(folder: Path) -> Path:
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    settings = folder / "slurm.conf"
    # A job that is queued again begins when its credentials have run out.
    settings.write_text(f"""
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
    return settings
