"""The files of launch/: what their platforms' own checkers say of them. (That what they start goes on: test_faults.)"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import bake
from launched import PLATFORMS, container, furnish, start, started

BIN = Path(sys.executable).parent
# Of SkyPilot's fields those that are used: docs.skypilot.co/en/latest/reference/yaml-spec.html
SKYPILOT = {
    "": {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"},
    "resources": {"infra", "accelerators", "cpus", "memory", "use_spot", "disk_size", "image_id", "job_recovery"},
    "resources.job_recovery": {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"},
    "file_mounts./runs": {"name", "source", "store", "persistent", "mode"},
}


@pytest.fixture(scope="module", params=[("digits", "my-project"), ("diabetes", "My.Other_project")], ids=["my", "odd"])
def baked(request, tmp_path_factory) -> Path:
    data, slug = request.param
    return bake(tmp_path_factory.mktemp("launch"), data=data, project_slug=slug)


def checked(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkers_find_nothing(baked):
    launch = baked / "launch"
    checked(BIN / "shellcheck", *launch.glob("*.sh"))
    checked(BIN / "hadolint", launch / "Dockerfile")
    checked(BIN / "kubernetes-validate", "--strict", launch / "kubernetes.yaml")


def test_a_misspelt_key_is_found(baked, tmp_path):
    text = (baked / "launch/kubernetes.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("backoffLimit", "backofLimit"))
    with pytest.raises(AssertionError, match="backofLimit"):
        checked(BIN / "kubernetes-validate", "--strict", tmp_path / "wrong.yaml")


def test_scripts_can_be_run_and_nothing_is_ignored(baked):
    assert {path.name for path in (baked / "launch").iterdir() if path.stat().st_mode & 0o111} == {
        "slurm.sh",
        "torchrun.sh",
    }
    done = subprocess.run(["git", "check-ignore", "launch", ".dockerignore"], cwd=baked, capture_output=True)
    assert not done.stdout


def test_skypilots_fields_are_those_of_its_documentation(baked):
    task = yaml.safe_load((baked / "launch/skypilot.yaml").read_text())
    for place, known in SKYPILOT.items():
        part = task
        for key in filter(None, place.split(".", 1) if place.startswith("file_mounts") else place.split(".")):
            part = part[key]
        assert set(part) <= known
    assert task["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED"
    assert task["resources"]["use_spot"] is True


def test_a_pod_is_given_up_for_a_mistake_alone_and_has_time_to_save(baked):
    documents = list(yaml.safe_load_all((baked / "launch/kubernetes.yaml").read_text()))
    job, service = (next(one for one in documents if one["kind"] == kind) for kind in ("Job", "Service"))
    pod, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    rules = {rule["action"]: rule for rule in job["spec"]["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [2]
    assert rules["Ignore"]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert len(f"{name}-99") <= 63
    assert service["metadata"]["name"] == pod["subdomain"]
    address = next(one["value"] for one in container(baked)["env"] if one["name"] == "MASTER_ADDR")
    assert address == f"{name}-0.{pod['subdomain']}"


def test_the_command_of_an_image_is_a_list_that_no_root_runs(baked):
    lines = (baked / "launch/Dockerfile").read_text().splitlines()
    words = {line.split()[0]: line.partition(" ")[2] for line in lines if line.isupper() or line[:1].isupper()}
    assert json.loads(words["ENTRYPOINT"]) == [baked.name]
    assert json.loads(words["CMD"]) == ["fit", "--resume", "auto"]
    assert words["USER"] == str(1000)
    ignored = (baked / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert kept == {"LICENSE", "README.md", "constraints.txt", "pyproject.toml", "src"}


def test_torchrun_is_started_with_what_lets_a_killed_rank_come_back(project, tmp_path):
    furnish(tmp_path, project, dry=True)
    args, environment = started("torchrun.sh", tmp_path, project, ("--data.root=x",), DEVICES="3", RUN_ID="mine")
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    flags = dict(itertools.pairwise(args))
    assert flags["--nproc-per-node"] == flags["--trainer.devices"] == "3"
    assert flags["--rdzv-id"] == "mine"
    assert int(flags["--max-restarts"]) > 0
    assert args[-3:] == ["--resume", "auto", "--data.root=x"]


def test_slurm_gives_each_task_its_cores_and_no_signal_to_the_script_costs_a_save(project, tmp_path):
    furnish(tmp_path, project, dry=True)
    args, _ = started("slurm.sh", tmp_path, project, ("--data.root=x",), **PLATFORMS["slurm.sh"].first)
    assert args[:3] == ["fit", "--name", "my-project-{SLURM_ARRAY_TASK_ID}"]
    text = (project / "launch/slurm.sh").read_text()
    assert "trap '' TERM" in text
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0' in text


def test_torchrun_has_an_id_of_its_own_and_several_machines_need_one(project, tmp_path):
    ids = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        furnish(tmp_path / name, project, dry=True)
        args, _ = started("torchrun.sh", tmp_path / name, project, ())
        ids.append(dict(itertools.pairwise(args))["--rdzv-id"])
    assert "none" not in ids
    assert ids[0] != ids[1]
    assert start("torchrun.sh", tmp_path / "one", project, (), NODES="2").wait(60) != 0
