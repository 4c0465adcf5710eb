"""A project works as a wheel, by ``uv run``, below any path, and where only the working folder can be written."""

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import bake
from test_project import NEWEST, UV, make, python, unbound

pytestmark = pytest.mark.slow
long = pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="installs once more")
ODD = "mein Ordner, größer"
JOURNEY = (
    ("fit", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
    ("test",),
    ("predict", "--data.predict_root=data/digits/7"),
)
# Permissions do not bind root unless it gives up the right to overlook them.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all")
BOUND = () if os.geteuid() else BOUND


def run(*command: str | Path, at: Path, **variables: str) -> str:
    """Run a command with the template's uv; returns what it prints."""
    environment = {**unbound(), "UV_PYTHON": python(NEWEST), **variables}
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-4000:] + done.stderr[-4000:])
    return done.stdout + done.stderr


def build(project: Path) -> Path:
    """Build a project; returns its wheel."""
    run(UV, "build", "--quiet", at=project)
    [wheel] = (project / "dist").glob("*.whl")
    return wheel


def written(package: Path) -> list[Path]:
    """Return what belongs to a package: its code, its configs, and the data that comes with it."""
    return [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def forbid_writing(folder: Path) -> None:
    """Take the right to write below a folder from everybody."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def allow_writing(folder: Path) -> None:
    """Give the right back, so that pytest can remove the folder."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)


def go(program: Sequence[str | Path], at: Path, **variables: str) -> None:
    """Fit, test and predict in a folder."""
    at.mkdir(parents=True, exist_ok=True)
    for line in JOURNEY:
        run(*program, *line, at=at, **variables)
    assert (at / "runs/digits/version_0/predictions.csv").stat().st_size > 1000


def test_a_wheel_works_below_an_odd_path_where_it_cannot_be_written(tmp_path):
    """Its source is gone by then, and no bytecode can be kept beside it."""
    project, here = bake(tmp_path / "made"), tmp_path / ODD
    wheel, package = shutil.copy(build(project), tmp_path), project / "src/my_project"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"my_project", "my_project-0.1.0.dist-info"}
    assert {f"my_project/{path.relative_to(package)}" for path in written(package)} <= set(names)
    shutil.rmtree(project)
    run(UV, "venv", here / "environment", at=tmp_path)
    environment = here / "environment"
    run(UV, "pip", "install", "--python", environment / "bin/python", wheel, at=tmp_path)
    forbid_writing(environment)
    try:
        home = here / "home"
        home.mkdir()
        home.chmod(0o500)
        probe = (
            *BOUND,
            environment / "bin/python",
            "-c",
            "import my_project, pathlib; pathlib.Path(my_project.__file__).open('a')",
        )
        assert subprocess.run(probe, capture_output=True).returncode == 1
        go((*BOUND, environment / "bin/my-project"), here / "work", HOME=str(home))
    finally:
        allow_writing(here)


def installed(project: Path) -> set[str]:
    """Return the names of what is installed, but for what makes an environment."""
    listed = json.loads(run(UV, "pip", "list", "--quiet", "--format", "json", at=project))
    return {package["name"] for package in listed} - {"pip", "setuptools", "wheel"}


@long
def test_uv_run_works_at_once_and_uv_sync_brings_what_make_install_brings(tmp_path):
    project = bake(tmp_path / ODD)
    run(UV, "sync", at=project)
    synced = installed(project)
    go((UV, "run", "my-project"), project)
    shutil.rmtree(project / ".venv")
    make("install", project, NEWEST)
    assert installed(project) == synced


@long
def test_a_project_below_an_odd_path_passes_its_tests(tmp_path):
    project = bake(tmp_path / ODD)
    make("install", project, NEWEST)
    go((project / ".venv/bin/my-project",), tmp_path / "work")
    assert " passed" in make("test", project, NEWEST)


@long
def test_a_project_whose_folder_cannot_be_written_works_from_another(tmp_path):
    project = bake(tmp_path)
    make("install", project, NEWEST)
    forbid_writing(project)
    try:
        go((*BOUND, project / ".venv/bin/my-project"), tmp_path / "work")
    finally:
        allow_writing(project)
