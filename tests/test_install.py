"""``make install`` installs into ``.venv`` alone, and makes it anew where the folder was renamed, moved or copied.

Nothing is downloaded: uv and pip are stand-ins that write down what they were asked.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import bake
from test_project import NEWEST, make

UV = """#!/bin/sh
echo "uv $* VIRTUAL_ENV=$VIRTUAL_ENV PYTHONPATH=$PYTHONPATH UV_SYSTEM_PYTHON=$UV_SYSTEM_PYTHON" >> "{log}"
if [ "$1" = venv ]; then exec {python} -m venv --without-pip .venv; fi
if [ "$1" = export ]; then for last in "$@"; do :; done; cat "{log}.newest" > "$last"; fi
if [ -e "{log}.fails" ]; then cat "{log}.fails" >&2; exit 2; fi
"""
PYTHON3 = """#!/bin/sh
echo "python3 $* VIRTUAL_ENV=$VIRTUAL_ENV PIP_TARGET=$PIP_TARGET" >> "{log}"
{python} -m venv --without-pip .venv || exit 1
for packages in .venv/lib/python3*/site-packages; do
    mkdir -p $packages/pip
    touch $packages/pip/__init__.py
    echo 'import os, shutil, sys; print("pip", *sys.argv[1:], sys.prefix, os.environ.get("PIP_TARGET"),' \
        'os.environ.get("PYTHONPATH"), file=open("{log}", "a")); shutil.copy("{uv}", sys.prefix + "/bin/uv")' \
        > $packages/pip/__main__.py
done
"""


class Installer:
    """Runs ``make install`` with a stand-in of uv, or of Python's own venv and of a pip that installs such a uv."""

    def __init__(self, folder: Path, with_uv: bool) -> None:
        self.log, programs = folder / "log", folder / "programs"
        programs.mkdir()
        uv, python3 = programs / "uv" if with_uv else folder / "uv", programs / "python3"
        uv.write_text(UV.format(log=self.log, python=sys.executable))
        uv.chmod(0o755)
        if not with_uv:
            python3.write_text(PYTHON3.format(log=self.log, python=sys.executable, uv=uv))
            python3.chmod(0o755)
        self.path = f"{programs}:/usr/bin:/bin"
        assert with_uv or shutil.which("uv", path=self.path) is None

    def run(self, project: Path, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        given = {"PATH": self.path, "HOME": str(project), **environment}
        return subprocess.run(["make", target], cwd=project, env=given, capture_output=True, text=True)

    def fail(self, said: str) -> None:
        """Let uv's next installation end so."""
        self.log.with_suffix(".fails").write_text(said)

    def __call__(self, project: Path, **environment: str) -> str:
        done = self.run(project, "install", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(params=[True, False], ids=["uv", "pip"])
def install(request, tmp_path) -> Installer:
    return Installer(tmp_path, request.param)


def add_command(project: Path) -> None:
    """Write a command into an environment, as pip and uv do."""
    command = project / ".venv/bin/torchrun"
    command.write_text(f"#!{project}/.venv/bin/python\n")


@pytest.mark.parametrize(
    "name", ["renamed", "my renamed project", "deeper/and/deeper/my-project", "mein-größeres", "c++ (copy)"]
)
def test_a_folder_that_was_renamed_gets_a_new_environment(name, install, tmp_path):
    project, target = bake(tmp_path / "made"), tmp_path / name
    install(project)
    add_command(project)
    target.parent.mkdir(parents=True, exist_ok=True)
    project.rename(target)
    assert "The folder was renamed, moved or copied" in install(target)
    assert not (target / ".venv/bin/torchrun").exists()
    assert str(target) in (target / ".venv/bin/activate").read_text()
    assert "anew" not in install(target)


def test_a_folder_whose_new_path_is_the_end_of_the_old_one_gets_a_new_environment(install, tmp_path):
    """As of a backup that was mounted below another root."""
    project, target = bake(tmp_path / "mnt" / tmp_path.relative_to("/")), tmp_path / "my-project"
    install(project)
    project.rename(target)
    assert "The folder was renamed, moved or copied" in install(target)
    assert "anew" not in install(target)


def test_a_copy_gets_an_environment_of_its_own_and_the_original_keeps_its(install, tmp_path):
    project, copied = bake(tmp_path / "made"), tmp_path / "copied"
    install(project)
    add_command(project)
    shutil.copytree(project, copied, symlinks=True)
    assert "made anew" in install(copied)
    assert (project / ".venv/bin/torchrun").exists()
    assert "anew" not in install(project)


def test_an_environment_that_is_a_link_is_left_as_its_owner_has_it(install, tmp_path):
    project, other = bake(tmp_path / "made"), bake(tmp_path / "other")
    install(project)
    add_command(project)
    (other / ".venv").symlink_to(project / ".venv")
    assert "anew" not in install(other)
    assert (other / ".venv/bin/torchrun").exists()


@pytest.mark.parametrize("gone", ["the Python", "the folder of a link"])
def test_an_environment_without_its_python_is_made_anew(gone, install, tmp_path):
    project = bake(tmp_path / "made")
    if gone == "the Python":
        install(project)
        add_command(project)
        for path in (project / ".venv/bin").glob("python*"):
            path.unlink()
            path.symlink_to("/no/such/python")
    else:
        (project / ".venv").symlink_to(tmp_path / "nowhere")
    assert "The Python of .venv is gone: it is made anew." in install(project)
    assert (project / ".venv/bin/python").exists()
    assert not (project / ".venv/bin/torchrun").exists()


def test_an_environment_that_works_is_kept(install, tmp_path):
    project = bake(tmp_path / "made")
    install(project)
    add_command(project)
    install(project)
    assert " venv" not in install.log.read_text()
    assert (project / ".venv/bin/torchrun").exists()


def test_whatever_the_shell_has_set_the_installation_goes_into_the_projects_environment(install, tmp_path):
    project, elsewhere = bake(tmp_path / "made"), str(tmp_path / "elsewhere")
    names = (
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PYTHONPATH",
        "UV_TARGET",
        "PIP_ROOT",
    )
    install(project, UV_SYSTEM_PYTHON="1", **dict.fromkeys(names, elsewhere))
    asked = install.log.read_text()
    assert "--constraints constraints.txt --editable . --group dev" in asked
    assert elsewhere not in asked
    assert "UV_SYSTEM_PYTHON=1" not in asked
    assert "--python .venv/bin/python" in asked or f"{project}/.venv" in asked
    assert not Path(elsewhere).exists()


UNREACHABLE = {
    "now": """error: Request failed after 3 retries in 5.8s
  cause: Failed to fetch: https://download.pytorch.org/whl/cu128/torch/
  cause: error sending request for url (https://download.pytorch.org/whl/cu128/torch/)
  cause: dns error
  cause: failed to lookup address information: Name or service not known
""",
    "before": """error: Request failed after 3 retries
  Caused by: Failed to fetch: `https://download.pytorch.org/whl/cu128/torch/`
  Caused by: error sending request for url (https://download.pytorch.org/whl/cu128/torch/)
  Caused by: dns error
  Caused by: failed to lookup address information: Name or service not known
""",
}


@pytest.mark.parametrize("target", ["install", "upgrade"])
@pytest.mark.parametrize("said", UNREACHABLE.values(), ids=UNREACHABLE)
def test_an_index_that_cannot_be_reached_is_one_line(said, target, install, tmp_path):
    project = bake(tmp_path / "made", torch="cu128")
    install.fail(said)
    done = install.run(project, target)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert lines == [
        "error: https://download.pytorch.org/whl/cu128/torch/ cannot be reached (failed to lookup address information: "
        "Name or service not known), so nothing was installed; see to the network or the proxy, then run this again."
    ]


def test_another_failure_of_uv_is_told_in_its_own_words(install, tmp_path):
    project, said = bake(tmp_path / "made"), "error: No solution found\n  cause: Because there is no version of torch\n"
    install.fail(said)
    done = install.run(project, "install")
    assert done.returncode != 0
    assert said in done.stderr


# As of a project with torch=cu128; the workflow installs another build by what is kept.
NEWEST_VERSIONS = """cuda-bindings==12.9.4 ; sys_platform == 'linux'
nvidia-cublas-cu12==12.8.4 ; sys_platform == 'linux'
six==9.9
torch==2.15.0 ; sys_platform == 'darwin'
torch==2.15.0+cu128 ; sys_platform != 'darwin'
torchmetrics==1.9.0
torchvision==0.29.2+cu128
triton==3.9.0
"""
KEPT = [
    "six==9.9",
    "torch==2.15.0 ; sys_platform == 'darwin'",
    "torch==2.15.0 ; sys_platform != 'darwin'",
    "torchmetrics==1.9.0",
    "torchvision==0.29.2",
]


@pytest.mark.parametrize("code", [0, 1])
def test_an_upgrade_is_kept_only_where_the_tests_pass_with_it(code, install, tmp_path):
    project = bake(tmp_path / "made")
    install(project)
    before = (project / "constraints.txt").read_text()
    packages = next(project.glob(".venv/lib/python3*/site-packages"))
    (packages / "pytest.py").write_text(f"raise SystemExit({code})")
    install.log.with_suffix(".newest").write_text(NEWEST_VERSIONS)
    done = install.run(project, "upgrade")
    assert "--constraints .venv/newest/constraints.txt --editable . --group dev" in install.log.read_text()
    after = (project / "constraints.txt").read_text()
    if code:
        assert done.returncode != 0
        assert "constraints.txt is as it was" in done.stderr
        assert after == before
    else:
        assert done.returncode == 0, done.stderr
        assert [line for line in after.splitlines() if not line.startswith("#")] == KEPT
        assert "passed with" in after.splitlines()[0]


@pytest.mark.parametrize("install", [True], indirect=True)
def test_a_project_without_constraints_is_installed_with_the_newest_versions(install, tmp_path):
    project = bake(tmp_path / "made")
    (project / "constraints.txt").unlink()
    install(project)
    assert "--python .venv/bin/python --editable . --group dev" in install.log.read_text()


@pytest.mark.slow
@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="installs everything")
def test_the_commands_of_a_real_project_work_after_it_was_renamed(tmp_path):
    project = bake(tmp_path / "made")
    make("install", project, NEWEST)
    renamed = project.rename(tmp_path / "renamed")
    make("install", renamed, NEWEST)
    for name in ("torchrun", "tensorboard", "pytest", "my-project"):
        done = subprocess.run([renamed / ".venv/bin" / name, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    code = "import my_project; print(my_project.__file__)"
    done = subprocess.run([renamed / ".venv/bin/python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(renamed / "src/my_project/__init__.py")
