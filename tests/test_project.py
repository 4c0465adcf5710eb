"""A baked project passes its own tests, and is clean before and after baking."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SOURCE, TEMPLATE, bake


def run(*program: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_is_linted_and_formatted_before_baking():
    run("ruff", "check", "--config", "pyproject.toml", ".", folder=TEMPLATE)
    run("ruff", "format", "--check", "--config", "pyproject.toml", ".", folder=TEMPLATE)


def test_the_template_is_typed_before_baking():
    run("basedpyright", "--pythonpath", sys.executable, folder=TEMPLATE)


@pytest.mark.parametrize("slug", ["a", "a-project-whose-name-is-rather-long-for-a-python-package"])
def test_a_project_of_any_name_is_linted_and_formatted(slug, tmp_path):
    project = bake(tmp_path, project_slug=slug)
    run("ruff", "check", ".", folder=project)
    run("ruff", "format", "--check", ".", folder=project)


def test_a_project_is_typed(project):
    (project / ".venv").mkdir(exist_ok=True)
    run("basedpyright", "--pythonpath", sys.executable, folder=project)


OLDEST, NEWEST = (3, 11), (3, 13)  # of the Pythons that are claimed and at hand
FAR = {"data": "image_folder", "logger": "wandb", "license": "none", "ci": "none", "tools": "no"}


def python(version: tuple[int, int]) -> str:
    """Return a Python of a version, or else the one that runs the tests."""
    wanted = "python" + ".".join(map(str, version))
    installed = [
        shutil.which(wanted),
        *Path.home().glob(f".pyenv/versions/{wanted.removeprefix('python')}.*/bin/python"),
    ]
    return str(next((path for path in installed if path and runs(path)), sys.executable))


def runs(path: str | Path) -> bool:
    return subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "version"), [({}, OLDEST), (FAR, NEWEST)], ids=["default answers", "far from them"]
)
def test_a_fresh_project_is_green_in_its_own_environment(answers, version, tmp_path):
    project = bake(tmp_path, **answers)
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "UV_PYTHON")}
    path = f"{TEMPLATE / '.cache/bootstrap/bin'}{os.pathsep}{kept['PATH']}"
    for target in ("install", "check"):
        environment = {**kept, "PATH": path, "UV_PYTHON": python(version)}
        done = subprocess.run(["make", target], cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_a_new_repository_has_the_branch_that_the_workflow_listens_to(project):
    workflow = (project / ".github/workflows/ci.yml").read_text()
    branch = (project / ".git/HEAD").read_text().strip().rpartition("/")[2]
    assert f"branches: [{branch}]" in workflow


def test_the_workflow_has_no_finding_of_a_security_linter(project):
    done = subprocess.run(
        [Path(sys.executable).parent / "zizmor", "--offline", "--no-progress", project / ".github"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def code(path: Path) -> int:
    """Count lines of code: neither blank, nor a comment, nor a docstring."""
    lines = path.read_text().splitlines()
    documented = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            documented.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    plain = (line for number, line in enumerate(lines, 1) if number not in documented)
    return sum(1 for line in plain if line.strip() and not line.strip().startswith("#"))


@pytest.mark.parametrize(("files", "most"), [("src/*/*.py", 3020), ("src/*/tools/*.py", 1960)])
def test_the_package_stays_small(files, most):
    assert sum(code(path) for path in SOURCE.glob(files)) <= most
