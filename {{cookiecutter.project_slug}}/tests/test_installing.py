"""What is missing is answered with the command that installs it into the environment at hand."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from project_package.engine import installing
from project_package.engine.installing import of_extra, of_package

MODULE = Path("src/package/engine/installing.py")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return what sets up an environment: where the code lies, and which installers there are."""

    def environment(project: str, module: Path = MODULE, env: str = ".venv", uv: str = "", pip: bool = False) -> Path:
        folder = tmp_path / project
        (folder / module.parent).mkdir(parents=True)
        (folder / env / "bin").mkdir(parents=True, exist_ok=True)
        if module == MODULE:
            (folder / "pyproject.toml").write_text('[project]\nname = "package"\n')
        if uv == "own":
            (folder / env / "bin/uv").touch()
        for name in ("UV_PROJECT_ENVIRONMENT", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(installing, "HERE", folder / module)
        monkeypatch.setattr(installing, "IN_CONTAINER", ())
        monkeypatch.setattr(sys, "prefix", str(folder / env))
        monkeypatch.setattr(sys, "executable", str(folder / env / "bin/python"))
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if uv == "path" else None)
        found = {"pip": SimpleNamespace()} if pip else {}
        monkeypatch.setattr(installing.importlib.util, "find_spec", found.get)
        monkeypatch.chdir(folder)
        return folder

    return environment


INSTALLERS = {
    "uv on the PATH": ({"uv": "path"}, "uv pip install --python .venv/bin/python"),
    "uv beside a pip": ({"uv": "path", "pip": True}, "uv pip install --python .venv/bin/python"),
    "uv that make install brought": ({"uv": "own"}, ".venv/bin/uv pip install --python .venv/bin/python"),
    "pip alone": ({"pip": True}, ".venv/bin/python -m pip install"),
    "neither": ({}, ".venv/bin/python -m ensurepip && .venv/bin/python -m pip install"),
}


@pytest.mark.parametrize(("installers", "command"), INSTALLERS.values(), ids=INSTALLERS.keys())
def test_the_command_is_of_an_installer_that_is_there(installers, command, here):
    here("project", **installers)
    assert of_extra("export") == f"{command} -e '.[export]'"
    assert of_package("comet-ml>=3.44") == f"{command} 'comet-ml>=3.44'"
    assert of_package("psutil") == f"{command} 'psutil'"


def test_an_extra_has_the_versions_that_make_install_takes(here):
    (here("project", pip=True) / "constraints.txt").touch()
    assert of_extra("export") == ".venv/bin/python -m pip install -c constraints.txt -e '.[export]'"
    assert of_package("psutil") == ".venv/bin/python -m pip install 'psutil'"


@pytest.mark.parametrize(("uv", "called"), [("path", "uv"), ("own", ".venv/bin/uv"), ("", "uv")])
def test_what_uv_sync_would_remove_is_not_advised_where_it_keeps_the_environment(uv, called, here):
    (here("project", uv=uv, pip=True) / "uv.lock").touch()
    assert of_extra("export") == f"{called} sync --inexact --extra export"
    assert of_package("comet-ml>=3.44") == f"{called} add 'comet-ml>=3.44'"


def test_an_environment_beside_the_one_that_uv_sync_keeps_is_installed_into(here, monkeypatch):
    (here("project", env="other", uv="path") / "uv.lock").touch()
    assert of_extra("export") == "uv pip install --python other/bin/python -e '.[export]'"
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", "other")
    assert of_extra("export") == "uv sync --inexact --extra export"


def test_paths_are_whole_and_in_quotes_where_the_working_folder_is_another(here, tmp_path, monkeypatch):
    folder = here("my lab's project", pip=True)
    monkeypatch.chdir(tmp_path.parent)
    python = folder / ".venv/bin/python"
    for command, last in ((of_extra("export"), f"{folder}[export]"), (of_package("a b"), "a b")):
        words = shlex.split(command)
        assert words[0] in (str(python), str(python.relative_to(tmp_path.parent)))
        assert words[-1] in (last, str(Path(last).relative_to(tmp_path.parent)) if "[" in last else last)
    (folder / "uv.lock").touch()
    monkeypatch.chdir("/")
    assert shlex.split(of_extra("export"))[:5] == ["uv", "sync", "--inexact", "--project", str(folder)[1:]]


@pytest.mark.parametrize("kind", ["venv", "conda"])
def test_a_wheel_is_named_as_it_is_installed(kind, here, monkeypatch):
    module = Path("env/lib/python3.11/site-packages/package/engine/installing.py")
    folder = here("home", module, env="env", pip=True)
    if kind == "conda":
        (folder / "env/conda-meta").mkdir()
    named = {installing.PACKAGE: ["My.Project"]}
    monkeypatch.setattr(installing.importlib.metadata, "packages_distributions", lambda: named)
    assert of_extra("export") == "env/bin/python -m pip install 'My.Project[export]'"
    named.clear()
    assert of_extra("export").endswith(f"'{installing.PACKAGE.replace('_', '-')}[export]'")


def test_a_python_of_the_systems_is_told_that_this_is_meant(here, tmp_path, monkeypatch):
    here("project", pip=True)
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    monkeypatch.setattr(installing.sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    assert of_package("x") == ".venv/bin/python -m pip install --break-system-packages 'x'"


@pytest.mark.parametrize("why", ["no installer", "not writable"])
def test_an_image_is_changed_by_building_another(why, here, tmp_path, monkeypatch):
    module = Path("opt/lib/python3.11/site-packages/package/engine/installing.py")
    here("image", module, env="opt", pip=why == "not writable")
    monkeypatch.setattr(installing, "IN_CONTAINER", (str(tmp_path),))
    monkeypatch.setattr(os, "access", lambda *_: why != "not writable")
    line = "RUN uv pip install {} in launch/Dockerfile, and build the image again"
    assert of_extra("export") == line.format("'.[export]'")
    assert of_package("psutil") == line.format("'psutil'")


def test_a_container_to_work_in_is_an_environment_as_any_other(here, tmp_path, monkeypatch):
    here("project", uv="path")
    monkeypatch.setattr(installing, "IN_CONTAINER", (str(tmp_path),))
    assert of_extra("export") == "uv pip install --python .venv/bin/python -e '.[export]'"
