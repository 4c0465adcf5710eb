"""What a bake does beside its answers: it keeps what is there, leaves repositories of others alone, and cleans up."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from bakes import literal
from conftest import SOURCE, TEMPLATE, bake
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context
from packaging.requirements import Requirement
from taken import taken, written

NOTHING = {"ci": "none", "tools": "no"}


def bake_over(folder: Path, **answers: str) -> Path:
    """Bake over what is there, and skip files that exist: ``cookiecutter -f -s``."""
    return Path(
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            overwrite_if_exists=True,
            skip_if_file_exists=True,
        )
    )


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        ["git", *identity, *args], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# Files of an owner's own, and files of the template's that the owner has edited.
OWN = {
    ".github/workflows/release.yml": "on: push",
    ".github/dependabot.yml": "version: 2",
    "src/my_project/tools/mine.py": '"""mine: of my own."""',
    "src/my_project/tools/deeper/data.txt": "1",
    "docs/mine.md": "# Mine",
    "tests/test_mine.py": "import project_package  # a word of my own",
    "tests/notes.txt": "project_package",
}
EDITED = {
    ".github/workflows/ci.yml": "on: pull_request",
    "src/my_project/tools/report.py": '"""report: as I like it."""',
    "src/my_project/model.py": "# mine",
    "src/my_project/configs/presets/debug.yaml": "trainer: {}",
    "src/my_project/tools/page.html": "<html>",
    "docs/tools.md": "# Tools",
    "tests/test_model.py": "from project_package.model import Classifier",
    "tests/test_latin.py": "# caf\xe9",
}


@pytest.mark.parametrize("answers", [NOTHING, {}, {"data": "cifar10", "logger": "wandb"}], ids=["none", "all", "other"])
def test_baking_over_a_project_keeps_what_its_owner_wrote(answers, tmp_path, capfd):
    project = bake(tmp_path)
    before = contents(project)
    for name, text in {**OWN, **EDITED}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(text.encode("latin-1"))
    git(project, "checkout", "-q", "-b", "feature")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "mine")
    capfd.readouterr()
    assert bake_over(tmp_path, **answers) == project
    after = contents(project)
    assert {name: after.get(name) for name in (*OWN, *EDITED)} == {
        name: text.encode("latin-1") for name, text in {**OWN, **EDITED}.items()
    }
    assert git(project, "symbolic-ref", "HEAD").strip() == "refs/heads/feature"
    assert git(project, "log", "--oneline")
    unwanted = {name for name in before if name.startswith((".github/", "src/my_project/tools/"))} - {*OWN, *EDITED}
    if answers is NOTHING:
        assert not unwanted & set(after)
        said = capfd.readouterr().out
        assert "Kept" in said
        assert "src/my_project/tools/mine.py" in said
    else:
        assert unwanted <= set(after)


def test_a_template_named_from_the_working_folder_is_found_too(tmp_path):
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-f", "-s", "-o", str(tmp_path)]
    for template, extra in ((".", ()), (f"../{TEMPLATE.name}", ("ci=none", "tools=no"))):
        environment = {**os.environ, "PWD": str(TEMPLATE)}
        done = subprocess.run(
            [*command, template, *extra], cwd=TEMPLATE, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "my-project/tests/test_own.py").write_text("project_package")
    project = tmp_path / "my-project"
    assert "my_project" in (project / "tests/test_model.py").read_text()
    assert (project / "tests/test_own.py").read_text() == "project_package"
    assert not (project / ".github").exists()
    assert not (project / "src/my_project/tools").exists()


def run_hook(name: str, folder: Path, changed: tuple[str, str] = ("", ""), **answers: str) -> tuple[int, str]:
    """Run a hook as cookiecutter does, from a process that stands elsewhere; returns its exit code and output."""
    standard = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    known = {key: value[0] if isinstance(value, list) else value for key, value in standard.items()}
    known |= {
        "project_slug": "my-project",
        "__typed_slug": "my-project",
        "__package_name": "my_project",
        "__kind": "images",
    } | answers
    context = {"cookiecutter": known}
    text = (TEMPLATE / f"hooks/{name}.py").read_text()
    script = folder.parent / "tmphook.py"
    script.write_text(create_env_with_context(context).from_string(text).render(**context).replace(*changed))
    program = (
        "import os, subprocess, sys; raise SystemExit(subprocess.call([sys.executable, sys.argv[1]], cwd=sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, script, folder],
        cwd=folder.parent,
        env={**os.environ, "PWD": str(folder.parent)},
        capture_output=True,
        text=True,
    )
    assert not script.exists()
    return done.returncode, done.stdout + done.stderr


def test_a_folder_that_is_not_empty_is_left_alone_where_the_template_cannot_be_compared(tmp_path):
    folder = tmp_path / "my-project"
    folder.mkdir()
    assert run_hook("pre_gen_project", folder) == (0, "")
    (folder / "mine.txt").touch()
    code, said = run_hook("pre_gen_project", folder)
    assert code == 1
    assert said.startswith(f"error: {folder} is not empty")
    assert run_hook("pre_gen_project", folder, _repo_dir=str(TEMPLATE)) == (0, "")


def test_a_fresh_project_is_whole_where_the_template_cannot_be_found(tmp_path):
    """As with cruft, which does not say where it is."""
    project = tmp_path / "my-project"
    shutil.copytree(SOURCE, project)
    next(project.glob("src/*")).rename(project / "src/my_project")
    code, said = run_hook("post_gen_project", project, ci="none", tools="no")
    assert code == 0, said
    assert not (project / ".github").exists()
    assert not (project / "src/my_project/tools").exists()
    assert "from my_project.model import" in (project / "tests/test_model.py").read_text()


@pytest.mark.parametrize("inside", ["repository", "deeper", "worktree", "submodule"])
def test_a_project_inside_a_repository_gets_none_of_its_own_and_says_so(inside, tmp_path, capfd):
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "commit", "-q", "--allow-empty", "-m", "first")
    place = {"repository": outer, "deeper": outer / "a/b", "worktree": tmp_path / "tree", "submodule": outer / "sub"}[
        inside
    ]
    if inside == "worktree":
        git(outer, "worktree", "add", "-q", str(place))
    elif inside == "submodule":
        git(outer, "clone", "-q", str(outer), str(tmp_path / "other"))
        git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "other"), "sub")
    capfd.readouterr()
    project = bake(place)
    assert not (project / ".git").exists()
    where = place if inside in ("worktree", "submodule") else outer
    assert f"It lies in the git repository {where}, so it has none of its own" in capfd.readouterr().out
    git(place, "add", ".")
    assert "my-project/README.md" in git(place, "ls-files")


@pytest.mark.parametrize("rule", ["/build/", "*", "my-project"])
def test_a_project_in_a_folder_that_the_repository_ignores_gets_its_own(rule, tmp_path, capfd):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(rule + "\n")
    project = bake(tmp_path / "build")
    assert (project / ".git/HEAD").read_text() == "ref: refs/heads/main\n"
    assert "It lies in" not in capfd.readouterr().out


def test_what_git_hands_on_in_its_environment_leads_nowhere(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "theirs")
    before = sorted(path for path in other.rglob("*"))
    handed_on = {"GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / "index"}
    handed_on |= {
        "GIT_OBJECT_DIRECTORY": other / "objects",
        "GIT_TEMPLATE_DIR": other,
        "GIT_COMMON_DIR": other / ".git",
    }
    for name, value in handed_on.items():
        monkeypatch.setenv(name, str(value))
    project = bake(tmp_path / "baked")
    assert (project / ".git/HEAD").read_text() == "ref: refs/heads/main\n"
    assert (other / ".git/HEAD").read_text() == "ref: refs/heads/theirs\n"
    assert sorted(path for path in other.rglob("*")) == before


@pytest.mark.parametrize("body", ["exit 3", "sleep 60", "echo fatal >&2; exit 128"])
def test_a_git_that_fails_or_hangs_costs_the_repository_alone(body, tmp_path, monkeypatch):
    programs, project = tmp_path / "bin", tmp_path / "my-project"
    programs.mkdir()
    project.mkdir()
    (programs / "git").write_text(f"#!/bin/sh\n{body}\n")
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    code, said = run_hook("post_gen_project", project, changed=("timeout=30", "timeout=0.5"))
    assert code == 0
    assert "git could not start a repository; for one: git init" in said
    assert "fatal" not in said


def test_without_git_the_project_is_whole_and_it_is_said(tmp_path, monkeypatch):
    project = tmp_path / "my-project"
    project.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = run_hook("post_gen_project", project)
    assert code == 0
    assert "git is not installed, so the project has no repository yet." in said


def refusal(folder: Path, capfd: pytest.CaptureFixture[str], **context: object) -> str:
    """Bake what must be refused; returns the line, and looks that nothing is left."""
    folder.mkdir(exist_ok=True)
    before = sorted(folder.rglob("*"))
    with pytest.raises(FailedHookException):
        cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder), **context)  # pyright: ignore
    assert sorted(folder.rglob("*")) == before
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("answer", [None, True, False, {"a": "b"}, {}])
@pytest.mark.parametrize("key", ["project_name", "project_slug", "description", "author"])
def test_an_answer_of_a_configuration_that_is_no_text_is_refused(key, answer, tmp_path, capfd):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"replay_dir": str(tmp_path), "default_context": {key: answer}}))
    line = refusal(tmp_path / "out", capfd, config_file=str(config))
    assert f"{key}={json.dumps(answer)} is no text" in line


@pytest.mark.parametrize(
    "answers",
    [
        {"__typed_slug": "fine", "project_slug": "torch"},
        {"__typed_slug": "fine"},
        {"__package_name": "os"},
        {"__package_name": "fine", "project_slug": "json"},
        {"__package_name": "my_project; import os"},
        {"__typed_slug": "fine", "project_slug": "refused", "__package_name": "fine"},
        {"__typed_slug": "fine", "project_slug": "../outside", "__package_name": "fine"},
        {"__typed_slug": ""},
        {"__typed_slug": "fine", "project_slug": "deeper/in"},
    ],
    ids=str,
)
def test_a_private_answer_cannot_bypass_the_checks_of_the_public_one(answers, tmp_path, capfd):
    refusal(tmp_path / "out", capfd, extra_context=answers)
    assert not (tmp_path / "outside").exists()


def test_hooks_leave_no_script_with_answers_in_the_temporary_folder(tmp_path, monkeypatch, capfd):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    bake(tmp_path / "baked")
    refusal(tmp_path / "out", capfd, extra_context={"project_slug": "torch"})
    assert not list(temporary.iterdir())
    assert (TEMPLATE / "hooks/pre_gen_project.py").is_file()


# Names of projects


def test_the_names_that_are_taken_are_those_of_the_lock():
    """Else: .venv/bin/python tests/taken.py"""
    assert not taken() - written()


def test_the_names_of_the_projects_tests_are_those_of_its_folder():
    text = (TEMPLATE / "hooks/pre_gen_project.py").read_text()
    listed = text.partition('OWN_TESTS = """')[2].partition('"""')[0].split()
    files = [*SOURCE.glob("tests/*.py"), *SOURCE.glob("tables/tests/*.py")]
    assert sorted(listed) == sorted({path.stem for path in files})


TAKEN = [
    *("onnx", "ONNX", "safetensors", "Pydantic-Core", "conftest", "test_run", "test-model", "suites", "scikit.learn"),
    *("mpl-toolkits", "attr", "google", "py", "cv2", "PIL", "dateutil", "hatchling", "pre-commit", "uv", "pip", "pip3"),
    *(
        "python",
        "python3",
        "Python3.12",
        "activate",
        "torchrun",
        "f2py",
        "py.test",
        "distutils",
        "imp",
        "sitecustomize",
    ),
    *("git", "make", "dist", "docs", "opencv--python_headless", "typing.extensions", "nvidia-nccl-cu13", "antigravity"),
]


@pytest.mark.parametrize("slug", TAKEN)
def test_a_name_that_stands_for_something_in_the_environment_is_refused(slug, tmp_path, capfd):
    assert "choose another" in refusal(tmp_path / "out", capfd, extra_context={"project_slug": slug})


@pytest.mark.parametrize("slug", ["my.project", "a..b", "a-.b", "A.b_c-D", "x", "torch-lab", "test-project", "my-onnx"])
def test_a_name_that_is_a_distribution_name_can_be_installed(slug, tmp_path):
    meta = tomllib.loads((bake(tmp_path, project_slug=slug) / "pyproject.toml").read_text())["project"]
    assert meta["name"] == slug
    [(command, target)] = meta["scripts"].items()
    assert command == slug
    assert target.removesuffix(".__main__:main").isidentifier()
    [needs] = meta["optional-dependencies"]["tools"]
    assert Requirement(needs).name == slug


@pytest.mark.parametrize(
    "text",
    [
        *(
            "- x",
            "+ x",
            "* x",
            "1. x",
            "2) x",
            "123456789. x",
            "1.",
            "-",
            "---",
            "- - -",
            "***",
            "___",
            "===",
            "    four",
        ),
        *(
            "  two",
            "ends  ",
            " - x",
            "> x",
            "# x",
            "~~~",
            "```",
            "| a | b |",
            "[x]: y",
            "&amp;",
            "<b>x</b>",
            "a\\",
            "\\",
        ),
        *("1.5 times", "2024", "U.S. state-of-the-art", "x - y", "`", "$x$", "![x](y)", "*x* _y_"),
    ],
)
def test_a_readme_shows_an_answer_as_it_is(text, tmp_path):
    project = bake(tmp_path, project_name=text, project_slug="shown", description=text)
    assert literal(project / "README.md") == [("heading", text), ("paragraph", text)]
