"""A baked project passes its own tests, and is clean before and after baking."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
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
@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_a_project_of_any_name_is_linted_and_formatted(data, slug, tmp_path):
    project = bake(tmp_path, data=data, project_slug=slug)
    run("ruff", "check", ".", folder=project)
    run("ruff", "format", "--check", ".", folder=project)


def test_a_project_of_a_table_is_typed(tmp_path):
    """Before baking its own files lie beside those that they take the place of, so they are typed here."""
    project = bake(tmp_path, data="diabetes")
    (project / ".venv").symlink_to(sys.prefix)  # where the project looks for its packages
    run("basedpyright", folder=project)


# Of packages that come with extras, or with those that do.
OPTIONAL = (
    "captum imblearn matplotlib onnx onnxruntime onnxscript optuna psutil psycopg pyarrow sklearn sqlalchemy timm"
)


def test_types_hold_where_optional_packages_are_absent(project, tmp_path):
    mine = shutil.copytree(project, tmp_path / "project")
    packages = Path(sysconfig.get_path("purelib"))
    seen = mine / ".venv" / packages.relative_to(sys.prefix)
    seen.mkdir(parents=True)
    for path in packages.iterdir():
        if path.name not in OPTIONAL.split():
            (seen / path.name).symlink_to(path)
    run("basedpyright", folder=mine)


OLDEST, NEWEST = (3, 11), (3, 13)  # of the Pythons that are claimed and at hand
FAR = {"data": "table", "logger": "wandb", "license": "none", "ci": "none", "tools": "no"}


UV = TEMPLATE / ".cache/bootstrap/bin/uv"


def find_python(version: str) -> str | None:
    """Return a Python of a version such as ``3.13``, if there is one that works."""
    wanted = f"python{version}"
    asked = [UV, "python", "find", "--no-python-downloads", "--system", version]
    found = [shutil.which(wanted), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    if UV.exists():
        found.append(subprocess.run(asked, cwd="/", capture_output=True, text=True).stdout.strip())
    return next((str(path) for path in found if path and runs(path)), None)


def python(version: tuple[int, int]) -> str:
    """Return a Python of a version, or else the one that runs the tests."""
    return find_python(".".join(map(str, version))) or sys.executable


def runs(path: str | Path) -> bool:
    return subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0


def unbound() -> dict[str, str]:
    """Return the shell's variables, but for those that lead to another environment, with the template's uv first."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return {**kept, "PATH": f"{UV.parent}{os.pathsep}{kept['PATH']}"}


def make(target: str, folder: Path, version: tuple[int, int], tests: str = "") -> str:
    """Make a target as a user does, in no environment but the folder's own, with a Python; returns what it prints."""
    environment = {**unbound(), "UV_PYTHON": python(version), "PYTEST_ADDOPTS": tests}
    done = subprocess.run(["make", target], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_fresh_project_is_green_in_its_own_environment(tmp_path):
    """Far from the default answers; the project with those is the one of ``make demo``, in test_journeys.py."""
    project = bake(tmp_path, **FAR)
    make("install", project, NEWEST)
    make("check", project, NEWEST)


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


PACKAGE = SOURCE / "src/{{cookiecutter.__package_name}}"


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, such as ``engine.runs``."""
    found = set()
    above = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*above[: len(above) - node.level + 1], *(node.module or "").split(".")]
            names = [".".join([*base, alias.name]) for alias in node.names]
            found |= {name.lstrip(".") for name in ([".".join(base)] if node.module else names)}
    return found


def test_the_engine_knows_nothing_of_the_project_and_nothing_imports_a_tool():
    for path in PACKAGE.rglob("*.py"):
        group = path.relative_to(PACKAGE).parts[0]
        modules = imported(path)
        if group == "engine":
            assert all(module.split(".")[0] == "engine" for module in modules), (path, modules)
        elif group == "tools":
            assert all(module.split(".")[0] in ("cli", "engine", "tools") for module in modules), (path, modules)
        else:
            assert not any(module.split(".")[0] == "tools" for module in modules), (path, modules)
        if group not in ("cli.py", "__main__.py", "tools"):
            assert "cli" not in modules, path


def refusals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of everything that a file raises or refuses."""
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(called, ast.Call):
            continue
        if isinstance(node, ast.Raise) or getattr(called.func, "id", "") in ("require", "unknown", "fail", "Rule"):
            texts = (inner.value for inner in ast.walk(called) if isinstance(inner, ast.Constant))
            yield called.lineno, "".join(text for text in texts if isinstance(text, str))


def test_a_flag_in_an_error_stands_as_it_is_typed():
    bare = re.compile(r"(?<![\w./-])(data|model|trainer|callbacks)\.[a-z]+")
    found = [(path.name, *said) for path in PACKAGE.rglob("*.py") for said in refusals(path) if bare.search(said[1])]
    assert not found


def test_names_of_private_attributes_stand_in_one_file():
    """Of Lightning, torch and jsonargparse; a leading underscore of ours belongs to the class that it stands in."""
    private = re.compile(r"(?<![\w.])(?!self\b|cls\b)[\w\])]+\._(?!_)\w+")
    for path in PACKAGE.rglob("*.py"):
        if path.name != "internals.py":
            found = [line for line in path.read_text().splitlines() if private.search(line.split("#")[0])]
            ours = ("import", "super()._", "._replace(", "os._exit(")  # the last two are public
            assert not [line for line in found if not any(word in line for word in ours)], path
