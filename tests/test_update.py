"""Updates: a project of the last release, edited as an owner does and with a run of before, and whatever is refused."""

import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import SOURCE, TEMPLATE, draw_images
from cookiecutter.main import cookiecutter

PACKAGE = Path("src/my_project")
UPDATE = "import my_project.engine.updating as u; raise SystemExit(u.main())"
NOBODY = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
FLAGS = (
    *("--trainer.max_epochs=4", "--data.batch_size=8", "--trainer.log_every_n_steps=2", "--trainer.accelerator=cpu"),
    *("--model.network=Tiny", "--model.loss=Margin", "--data.augment=mine", "--callbacks.shout=Shout"),
    *("--monitor=val/top2", "--callbacks.last.every_n_train_steps=1"),
)


def git(folder: Path, *args: str | Path) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.quotePath=false", *args]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | NOBODY
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (args, done.stderr)
    return done.stdout.strip()


def commit(folder: Path, subject: str = "a change") -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", subject)
    return git(folder, "rev-parse", "HEAD")


def make(template: Path | str, folder: Path, **options: Any) -> Path:
    """Make a project of a template, as ``bake`` does of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(cookiecutter(str(template), no_input=True, output_dir=str(folder), **options))


def link_of(project: Path) -> dict[str, Any]:
    return json.loads((project / ".cruft.json").read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files in a folder, without caches of Python's."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A clone of the template with its present state committed, and on the branch ``next`` a version after it."""
    if not (TEMPLATE / ".git").exists():
        pytest.skip("the template lies here without its history")
    clone = tmp_path_factory.mktemp("a template") / "clöne.git"
    git(TEMPLATE, "clone", "--quiet", "--no-hardlinks", TEMPLATE, clone)
    git(clone, "checkout", "--quiet", "-B", "main")
    git(clone, "rm", "-r", "--quiet", ".")
    for name in git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (TEMPLATE / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, clone / name)
    commit(clone, "The state at present")
    git(clone, "remote", "remove", "origin")
    git(clone, "checkout", "--quiet", "-b", "next")
    change(clone / SOURCE.name)
    changelog = clone / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    changelog.write_text(
        text.replace("## 0.1.0", "### For owners\n\n- `losses.py`: look\n\n## 0.1.0", 1), encoding="utf-8"
    )
    commit(clone, "A version after it")
    git(clone, "checkout", "--quiet", "-b", "narrow", "main")
    questions = (clone / "cookiecutter.json").read_text(encoding="utf-8")
    (clone / "cookiecutter.json").write_text(questions.replace('"digits", ', "", 1), encoding="utf-8")
    commit(clone, "An answer is gone")
    git(clone, "checkout", "--quiet", "main")
    return clone


def change(source: Path) -> None:
    """Change the project in a template: two files of its machinery, two of its owner's, one comes and one goes."""
    package = next(source.glob("src/*"))
    for name in ("engine/rules.py", "tools/report.py", "tools/verify.py"):
        with (package / name).open("a") as file:
            file.write("# of the next version\n")
    losses = (package / "losses.py").read_text()
    (package / "losses.py").write_text("# of the next version\n" + losses)
    versions = (source / "constraints.txt").read_text()
    (source / "constraints.txt").write_text(versions.replace("numpy==", "numpy==0."))
    (package / "engine/newcomer.py").write_text("# of the next version\n")
    (source / "launch/skypilot.yaml").unlink()


@pytest.fixture(scope="module")
def fresh(template, tmp_path_factory) -> Path:
    """A project of the template's present version, whose updater the tests run; do not change it."""
    return make(template, tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def project(fresh, tmp_path) -> Path:
    """The same, committed."""
    copy = tmp_path / "my project ü"
    shutil.copytree(fresh, copy)
    commit(copy, "first")
    assert git(copy, "ls-files", ".cruft.json")
    return copy


class Ended:
    """How an update ended."""

    def __init__(self, code: int, said: str) -> None:
        self.code, self.said = code, said


def update(project: Path, fresh: Path, *args: str, program: str = UPDATE, **environment: str) -> Ended:
    """Run the updater of a fresh project on another one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment = {**kept, **NOBODY, "PYTHONPATH": str(fresh / "src"), **environment}
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout + done.stderr)


def refusal(project: Path, fresh: Path, *args: str, **more: str) -> str:
    """Expect an update to be refused in one line, with nothing changed; returns the line."""

    def state() -> tuple[str, str, dict[str, bytes]]:
        found = {name: content for name, content in files(project).items() if not name.startswith(".git/objects")}
        return git(project, "status", "--porcelain"), git(project, "stash", "list"), found

    before = state() if (project / ".git").exists() else files(project)
    ended = update(project, fresh, *args, **more)
    assert ended.code == 2, ended.said
    assert state() if (project / ".git").exists() else files(project) == before
    [line] = ended.said.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def journey(template, fresh, command, tmp_path_factory) -> tuple[Path, Path, Path, dict[str, list[str]]]:
    """A project of the last release with six edits and a run that was killed, updated to the template's present state.

    Returns the project, the folder of its run, the fresh project, and of each edited file what the owner wrote.
    """
    release = git(template, "log", "--grep=^Release [0-9]", "--format=%H", "-1", "main")
    if not release:
        pytest.skip("the template's history here does not reach back to its last release")
    folder = tmp_path_factory.mktemp("journey")
    git(folder, "clone", "--quiet", "--no-checkout", template, folder / "old")
    git(folder / "old", "checkout", "--quiet", release)
    project = make(folder / "old", folder / "made")
    if not (project / ".cruft.json").exists():  # of 0.1.0; so the template's CHANGELOG tells its owners
        link = ["cruft", "link", str(template), "--checkout", release, "--no-input", "--default-config"]
        subprocess.run([sys.executable, "-m", *link], cwd=project, check=True, capture_output=True)
    state = {**link_of(project), "template": str(template)}
    (project / ".cruft.json").write_text(json.dumps(state, indent=2))
    commit(project, "first")
    written = edit(project, runpy.run_path(str(folder / "old/tests/test_edits.py")))
    commit(project, "edits")
    (project / PACKAGE / "tools/smote.py").unlink()
    (project / PACKAGE / "engine/mine.py").write_text('"""Mine."""\n')
    commit(project, "a tool is gone")
    images = draw_images(folder / "images")
    rows = [f"{path.relative_to(images)},{path.parent.name}" for path in sorted(images.rglob("*.png"))]
    (images / "labels.csv").write_text("\n".join(rows))
    killed = command(
        project, folder, "fit", "--data.root", images, *FLAGS, environment={"SABOTAGE": "kill 120", "OF_BEFORE": "yes"}
    )
    assert killed.code == -signal.SIGKILL, killed.output
    assert list(folder.glob("runs/*/version_0/checkpoints/last.ckpt")), killed.output
    ended = update(project, fresh)
    assert ended.code == 0, ended.said
    assert "nothing is committed yet" in ended.said
    return project, folder, fresh, written


def edit(project: Path, edits: dict[str, Any]) -> dict[str, list[str]]:
    """Make the edits of test_edits.py, those of the release; returns the lines of each file that are new."""
    written: dict[str, list[str]] = {}
    for name in ("network", "loss", "metric", "augmentation", "callback", "data set"):
        file, old, new, *_ = edits["EDITS"][name]
        path = project / PACKAGE / file
        before = path.read_text()
        text = before + new if old is None else before.replace(old, new)
        for part, replacement in edits["MORE"].get(name, []):
            text = text.replace(part, replacement, 1)
        path.write_text(text)
        written[file] = [line for line in text.splitlines() if line not in before.splitlines()]
        assert written[file]
    return written


def test_every_edit_survives_and_the_machinery_is_that_of_the_new_version(journey):
    project, _, fresh, written = journey
    for file, lines in written.items():
        text = (project / PACKAGE / file).read_text().splitlines()
        assert [line for line in lines if line not in text] == []
    for part in ("engine", "tools"):
        wanted = files(fresh / PACKAGE / part)
        found = files(project / PACKAGE / part)
        assert (found.pop("mine.py", None) is not None) == (part == "engine")
        if part == "tools":
            wanted.pop("smote.py")
        assert found == wanted
    assert link_of(project)["commit"] == link_of(fresh)["commit"]
    for name, content in files(fresh).items():
        if not name.startswith((".git/", ".cruft", "src/my_project/tools/smote")) and Path(name).name not in written:
            assert (project / name).read_bytes() == content, name
    assert ".git" not in git(project, "ls-files").replace(".gitignore", "").replace(".github", "")


def test_a_run_of_before_goes_on_and_is_tested(journey, command):
    project, folder, _, _ = journey
    images = folder / "images"
    resumed = command(project, folder, "fit", "--data.root", images, *FLAGS, "--resume=auto")
    assert resumed.code == 0, resumed.output
    [run] = folder.glob("runs/*/version_*")
    assert f"{run.relative_to(folder)}" in resumed.output
    assert "epoch 3 ended" in resumed.output
    assert "epoch 0 ended" not in resumed.output
    engine = (project / PACKAGE / "engine/__init__.py").read_text()
    version = re.search('VERSION = "(.*)"', engine)
    assert version is not None
    assert (run / "config.yaml").read_text().startswith(f"# engine/ {version[1]}\n")
    assert f"and this is {version[1]}" in resumed.output
    tested = command(project, folder, "test")
    assert tested.code == 0, tested.output
    assert (run / "test_predictions.csv").is_file()


def test_the_updated_project_passes_tests_of_its_own(journey, command):
    project, _, _, _ = journey
    done = command(project, project, "-m", "pytest", "tests/test_losses.py", "-p", "no:cacheprovider")
    assert done.code == 0, done.output


def test_edited_machinery_is_named_and_given_up_where_that_is_asked_for(project, fresh):
    for name in ("engine/rules.py", "engine/files.py", "tools/report.py"):
        with (project / PACKAGE / name).open("a") as file:
            file.write("# mine\n")
    (project / PACKAGE / "engine/steps.py").unlink()
    (project / PACKAGE / "tools/verify.py").unlink()
    mine = commit(project)
    line = refusal(project, fresh, "--to=next")
    for name in ("engine/files.py", "engine/rules.py", "engine/steps.py", "tools/report.py"):
        assert f"src/my_project/{name}" in line
    assert "verify" not in line
    assert "make update REPLACE=yes" in line
    ended = update(project, fresh, "--to=next", "--replace=yes")
    assert ended.code == 0, ended.said
    given_up = git(project, "rev-parse", "HEAD")
    assert f"git show -R {given_up[:12]} shows your edits" in ended.said
    assert git(project, "rev-parse", "HEAD^") == mine
    wanted = files(fresh / PACKAGE)
    for name in ("engine/rules.py", "tools/report.py", "losses.py"):
        wanted[name] = wanted[name] + b"# of the next version\n"
    wanted["losses.py"] = b"# of the next version\n" + files(fresh / PACKAGE)["losses.py"]
    wanted["engine/newcomer.py"] = b"# of the next version\n"
    wanted.pop("tools/verify.py")
    assert files(project / PACKAGE) == wanted
    assert not (project / "launch/skypilot.yaml").exists()
    assert "numpy==0." in (project / "constraints.txt").read_text()
    assert "`losses.py`: look" in ended.said
    [way_back] = re.findall("To take it back: (.*)", ended.said)
    assert way_back == f"git reset --hard {mine[:12]} && git clean -fd ."
    subprocess.run(way_back, shell=True, cwd=project, check=True, capture_output=True)
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == (mine, "")


def test_what_cannot_be_merged_fails_and_is_listed_with_the_way_back(project, fresh):
    """Edited before the first commit: git does not have the version that both changed."""
    shutil.rmtree(project / ".git")
    losses = project / PACKAGE / "losses.py"
    losses.write_text("# mine\n" + losses.read_text())
    versions = "# The versions that this project's tests passed with: of make upgrade.\nnumpy==9.9\n"
    (project / "constraints.txt").write_text(versions)
    (project / ".gitignore").write_text((project / ".gitignore").read_text() + "*.rej\n")
    git(project, "init", "--quiet")
    first = commit(project, "first, with an edit")
    ended = update(project, fresh, "--to=next")
    assert ended.code == 1
    assert "src/my_project/losses.py: you and the template changed the same lines" in ended.said
    assert f"git reset --hard {first[:12]} && git clean -fd ." in ended.said
    assert ended.said.count("\n  ") == 1
    assert (project / "constraints.txt").read_text() == versions
    assert "constraints.txt stays as you have it" in ended.said
    assert "newcomer" in git(project, "status", "--porcelain")
    line = refusal(project, fresh, "--to=next")
    assert "an update is not committed yet" in line
    assert f"take it back: git reset --hard {first[:12]}" in line


def test_what_does_not_fit_into_a_file_fails_too(project, fresh):
    """Where the template has removed a file that the owner edited, git merges nothing, but applies what fits."""
    with (project / "launch/skypilot.yaml").open("a") as file:
        file.write("# mine\n")
    losses = project / PACKAGE / "losses.py"
    losses.write_text("# mine\n" + losses.read_text())
    (project / ".gitignore").write_text((project / ".gitignore").read_text() + "*.rej\n")
    (project / "data").mkdir()
    (project / "data/before.rej").touch()
    commit(project)
    ended = update(project, fresh, "--to=next")
    assert ended.code == 1
    assert "  launch/skypilot.yaml: the template has it no longer, and you changed it" in ended.said
    assert "  src/my_project/losses.py.rej: what did not fit into src/my_project/losses.py" in ended.said
    assert ended.said.count("\n  ") == 2


def test_a_project_that_has_the_version_is_left_alone(project, fresh):
    for to in ("", link_of(fresh)["commit"], "main"):
        ended = update(project, fresh, f"--to={to}")
        assert ended.code == 0
        assert "there is nothing to update" in ended.said
        assert git(project, "status", "--porcelain") == ""


def change_link(project: Path, **values: Any) -> None:
    (project / ".cruft.json").write_text(json.dumps({**link_of(project), **values}))
    commit(project)


LINKS: Mapping[str, tuple[dict[str, Any], str]] = {
    "another commit": ({"commit": "0" * 40}, "which the template"),
    "no commit": ({"commit": "main"}, "which the template"),
    "an option": ({"commit": "--output=x"}, "which the template"),
    "a number": ({"commit": 3}, "which is no text"),
    "nowhere": ({"template": "/no/such/place"}, "cannot be reached"),
    "a program": ({"template": "ext::touch pwned"}, "cannot be reached"),
    "an upload-pack": ({"template": "--upload-pack=touch pwned"}, "cannot be reached"),
    "a password": ({"template": "http://user:hush@127.0.0.1:9/x.git"}, "'http://127.0.0.1:9/x.git' cannot be reached"),
    "no answers": ({"context": {}}, "holds no answers"),
    "a list": ({"context": {"cookiecutter": []}}, "holds no answers"),
    "no text": ({"context": {"cookiecutter": {"project_slug": ["x"]}}}, "which is no text"),
    "no choice": ({"context": {"cookiecutter": {"project_slug": "my-project", "data": "x"}}}, "made with 'digits'"),
    "another name": ({"context": {"cookiecutter": {"project_slug": "other"}}}, "made with 'my-project'"),
    "a bad name": ({"context": {"cookiecutter": {"project_slug": "class"}}}, "made with 'my-project'"),
    "above": ({"directory": "../x"}, "which is no folder"),
    "another folder": ({"directory": "docs"}, "has no docs/cookiecutter.json"),
}


@pytest.mark.parametrize("name", LINKS)
def test_an_edited_link_is_refused(name, project, fresh):
    values, words = LINKS[name]
    change_link(project, **values)
    line = refusal(project, fresh, "--to=next")
    assert words in line
    assert "hush" not in line
    assert not (project / "pwned").exists()


ANSWERS = {
    "data=x": "give no project",
    "project_slug=other": "gives the package other",
    "project_slug=class": "choose another",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_were_wrong_from_the_beginning_are_refused(answer, project, fresh):
    shutil.rmtree(project / ".git")
    git(project, "init", "--quiet")
    key, _, value = answer.partition("=")
    change_link(project, context={"cookiecutter": {"project_slug": "my-project", key: value}})
    assert ANSWERS[answer] in refusal(project, fresh, "--to=next")


def test_a_commit_that_is_not_the_projects_is_refused_also_where_the_template_has_nothing_newer(project, fresh):
    """As `cruft link` without a commit leaves it: there would be nothing to update for ever."""
    template = json.loads((project / ".cruft.json").read_text())["template"]
    newest = git(Path(template), "rev-parse", "next")
    change_link(project, commit=newest)
    assert "not those of the version" in (line := refusal(project, fresh, "--to=next")) or "you edited" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00", "é".encode("latin-1")])
def test_a_link_that_is_no_json_is_refused(text, project, fresh):
    (project / ".cruft.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    commit(project)
    assert "what this project was made of is unknown; mend it" in refusal(project, fresh)


def test_without_a_link_the_way_to_one_is_said(project, fresh):
    (project / ".cruft.json").unlink()
    commit(project)
    assert "cruft link URL --checkout COMMIT" in refusal(project, fresh)


def test_a_version_that_is_not_there_is_refused(project, fresh):
    for to in ("v99", "--help", "a b", "next:README.md"):
        assert "so there is nothing to update to; it has " in refusal(project, fresh, f"--to={to}")


def test_a_tree_that_is_not_clean_is_refused(project, fresh):
    (project / "new.txt").touch()
    assert "new.txt" in refusal(project, fresh)
    (project / "new.txt").unlink()
    (project / "README.md").write_text("# Mine\n")
    assert "README.md" in refusal(project, fresh)
    git(project, "add", "--all")
    assert "README.md" in refusal(project, fresh)


@pytest.mark.parametrize("what", ["merge", "rebase", "cherry-pick", "revert"])
def test_a_repository_in_the_middle_of_something_is_left_alone(what, project, fresh):
    readme = project / "README.md"
    git(project, "checkout", "--quiet", "-b", "other")
    readme.write_text("# Theirs\n")
    commit(project)
    git(project, "checkout", "--quiet", "-")
    for text in ("# Mine\n", "# Mine, too\n"):
        readme.write_text(text)
        commit(project)
    with pytest.raises(AssertionError):
        git(project, what, {"revert": "HEAD^"}.get(what, "other"))
    assert f"in the middle of a {what}" in refusal(project, fresh)


def test_no_repository_and_no_commit_are_refused(project, fresh, tmp_path):
    shutil.rmtree(project / ".git")
    assert "in no git repository" in refusal(project, fresh)
    git(project, "init", "--quiet")
    assert "nothing is committed yet" in refusal(project, fresh)
    assert "holds no src/my_project" in refusal(tmp_path, fresh)


def test_a_server_that_does_not_answer_is_given_up(project, fresh):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        change_link(project, template=f"git://127.0.0.1:{silent.getsockname()[1]}/x.git")
        program = UPDATE.replace("; ", "; u.PATIENCE_OF_CLONE = 1; ", 1)
        assert "has not ended within 1 s" in refusal(project, fresh, program=program)


def test_without_cruft_make_install_is_named(project, fresh):
    program = "import sys; sys.modules['cruft'] = None; " + UPDATE
    assert "make install" in refusal(project, fresh, program=program)


def broken_off(where: str, how: str) -> str:
    """Return a program that updates and is struck in the middle."""
    return (
        "import os, signal, pathlib, my_project.engine.updating as u\n"
        f"real = u.{where}\n"
        "def struck(*args):\n"
        f"    {how}\n"
        "    return real(*args)\n"
        f"u.{where} = struck\n"
        "signal.signal(signal.SIGTERM, u.stop)\n"
        "raise SystemExit(u.main())"
    )


def test_an_update_that_is_stopped_before_the_merge_leaves_nothing(project, fresh):
    with (project / PACKAGE / "engine/rules.py").open("a") as file:
        file.write("# mine\n")
    before = commit(project)
    stopped = broken_off("merge", "os.kill(os.getpid(), signal.SIGTERM)")
    ended = update(project, fresh, "--to=next", "--replace=yes", program=stopped)
    assert ended.code == 128 + signal.SIGTERM, ended.said
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == (before, "")


def test_a_version_that_cannot_be_made_of_the_answers_changes_nothing(project, fresh):
    before = git(project, "rev-parse", "HEAD")
    ended = update(project, fresh, "--to=narrow")
    assert ended.code == 1
    assert re.match("error: cruft could not make the new version .*digits.*mend those in .cruft.json", ended.said)
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == (before, "")
    assert "there is nothing to update" in update(project, fresh).said


def test_after_a_kill_in_the_middle_of_the_merge_the_way_back_is_said_and_leads_there(project, fresh):
    before = git(project, "rev-parse", "HEAD")
    how = "pathlib.Path('README.md').write_text('half'); pathlib.Path('half.py').touch(); "
    ended = update(project, fresh, "--to=next", program=broken_off("merge", how + "raise KeyboardInterrupt"))
    assert ended.code == 1
    assert "broken off in the middle" in ended.said
    git(project, "checkout", "--quiet", "README.md")
    (project / "half.py").unlink()
    ended = update(project, fresh, "--to=next", program=broken_off("merge", how + "os.kill(os.getpid(), 9)"))
    assert ended.code == -signal.SIGKILL
    line = refusal(project, fresh, "--to=next")
    [way_back] = re.findall("take it back: (.*), and start", line)
    subprocess.run(way_back, shell=True, cwd=project, check=True, capture_output=True)
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == (before, "")
    assert update(project, fresh).code == 0
    (project / "half.py").touch()
    assert "not all is committed" in refusal(project, fresh)


def test_make_update_updates_then_installs_then_tests(fresh):
    command = ["make", "--dry-run", "update", "TO=v0.2.0", "REPLACE=yes"]
    said = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=True).stdout
    order = r"my_project\.engine\.updating --to 'v0\.2\.0' --replace 'yes'.* pip install .*-m pytest"
    assert re.search(order, said, re.DOTALL), said


def test_the_updater_imports_nothing_heavy(fresh):
    program = (
        "import sys, my_project.engine.updating; print([n for n in ('torch', 'numpy', 'yaml') if n in sys.modules])"
    )
    assert update(fresh, fresh, program=program).said == "[]\n"


# What the hook writes.


def test_a_bake_writes_what_cruft_would_have_written(template, fresh, tmp_path):
    command = [sys.executable, "-m", "cruft", "create", str(template), "--no-input", "--default-config"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (fresh / ".cruft.json").read_text() == (tmp_path / "my-project/.cruft.json").read_text()


@pytest.fixture
def clone(template, tmp_path) -> Path:
    git(tmp_path, "clone", "--quiet", template, tmp_path / "plain clone")
    return tmp_path / "plain clone"


ADDRESSES = {
    "https://user:hush@example.org/x.git?token=hush#hush": "https://example.org/x.git",
    "https://hush@example.org/x.git": "https://example.org/x.git",
    "https://user:hu@sh@example.org/x.git": "https://example.org/x.git",
    "ssh://git:hush@example.org:22/x.git": "ssh://git@example.org:22/x.git",
    "git@example.org:owner/x.git": "git@example.org:owner/x.git",
    "ftp://example.org/x": "ftp://example.org/x",
}


def test_a_clone_names_what_it_was_cloned_from_and_never_a_password(clone, tmp_path):
    for number, (given, written) in enumerate(ADDRESSES.items()):
        git(clone, "remote", "set-url", "origin", given)
        git(clone, "config", "url.https://hush@example.org/.insteadOf", "https://example.org/")
        project = make(clone, tmp_path / str(number))
        assert link_of(project)["template"] == written
        assert "hush" not in (project / ".cruft.json").read_text()
        assert link_of(project)["context"]["cookiecutter"]["_template"] == written


def test_a_clone_with_commits_of_its_own_or_a_lost_source_names_itself(clone, tmp_path):
    source = git(clone, "config", "remote.origin.url")
    git(clone, "remote", "set-url", "origin", "../gone")
    assert link_of(make(clone, tmp_path / "1"))["template"] == str(clone)
    git(clone, "remote", "set-url", "origin", source)
    assert link_of(make(clone, tmp_path / "2"))["template"] == source
    mine = commit(clone)
    link = link_of(make(clone, tmp_path / "3"))
    assert (link["template"], link["commit"]) == (str(clone), mine)


def test_an_abbreviation_becomes_the_address_that_git_knows(template, tmp_path):
    settings = {"abbreviations": {"here": f"file://{template.parent}/{{0}}"}, "default_context": {}}
    settings |= {name: str(tmp_path / name) for name in ("cookiecutters_dir", "replay_dir")}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    project = make("here:clöne.git", tmp_path / "out", checkout="next", config_file=str(tmp_path / "config.yaml"))
    link = link_of(project)
    assert (link["template"], link["checkout"]) == (f"file://{template}", "next")
    assert link["commit"] == git(template, "rev-parse", "next")


def test_a_template_and_a_project_may_lie_in_folders_of_larger_repositories(clone, tmp_path):
    source, outer = tmp_path / "source", tmp_path / "outer"
    shutil.copytree(clone, source / "in/a template", ignore=shutil.ignore_patterns(".git"))
    for repository in (source, outer):
        repository.mkdir(exist_ok=True)
        git(repository, "init", "--quiet")
        (repository / "README.md").write_text("of the whole")
        commit(repository)
    project = make(source, outer / "a b/ünder", directory="in/a template")
    assert link_of(project)["directory"] == "in/a template"
    commit(outer)
    change(source / "in/a template" / SOURCE.name)
    commit(source)
    handed_on = {"GIT_DIR": str(tmp_path / "none"), "GIT_WORK_TREE": str(tmp_path)}
    ended = update(project, project, **handed_on)
    assert ended.code == 0, ended.said
    assert (project / PACKAGE / "engine/newcomer.py").is_file()
    changed = git(outer, "diff", "--name-only", "HEAD").splitlines()
    assert len(changed) > 4
    assert all(name.startswith("a b/ünder/my-project/") for name in changed)
    assert not (outer / "src").exists()


def test_a_template_that_git_does_not_know_leaves_no_link(clone, tmp_path):
    outer, plain = tmp_path / "outer", tmp_path / "outer/plain"
    shutil.copytree(clone, plain, ignore=shutil.ignore_patterns(".git"))
    assert not (make(plain, tmp_path / "1") / ".cruft.json").exists()
    git(outer, "init", "--quiet")  # of something else
    git(outer, "commit", "--quiet", "--allow-empty", "--message", "first")
    assert not (make(plain, tmp_path / "2") / ".cruft.json").exists()
    with zipfile.ZipFile(tmp_path / "template.zip", "w") as archive:
        archive.mkdir("plain")
        for path in sorted(plain.rglob("*")):
            archive.write(path, path.relative_to(outer))
    assert not (make(tmp_path / "template.zip", tmp_path / "3") / ".cruft.json").exists()


def test_changes_of_the_template_that_are_not_committed_are_told(clone, tmp_path, capfd):
    told = "The template has changes that are not committed"
    (clone / "notes.txt").touch()
    make(clone, tmp_path / "1")
    assert told not in capfd.readouterr().out
    change(clone / SOURCE.name)
    assert (make(clone, tmp_path / "2") / ".cruft.json").is_file()
    assert told in capfd.readouterr().out


def test_baking_over_a_project_keeps_the_link_where_files_of_before_are_kept(clone, tmp_path, capfd):
    project = make(clone, tmp_path / "out")
    before = (project / ".cruft.json").read_text()
    git(clone, "checkout", "--quiet", "next")
    make(clone, tmp_path / "out", overwrite_if_exists=True, skip_if_file_exists=True)
    assert (project / ".cruft.json").read_text() == before
    assert ".cruft.json stays as it was" in capfd.readouterr().out
    (project / ".cruft.json").unlink()
    make(clone, tmp_path / "out", overwrite_if_exists=True, skip_if_file_exists=True)
    assert not (project / ".cruft.json").exists()
    assert "cruft link URL --checkout COMMIT" in capfd.readouterr().out
    make(clone, tmp_path / "out", overwrite_if_exists=True)
    assert link_of(project)["commit"] == git(clone, "rev-parse", "HEAD")


# The version.


def test_the_engines_version_is_that_of_the_template():
    """Between two releases it is the next one's, with .dev0."""
    engine = (next(SOURCE.glob("src/*")) / "engine/__init__.py").read_text(encoding="utf-8")
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f'VERSION = "{version}"' in engine
    releases = re.findall(
        r"^## (\d+\.\d+\.\d+) ", (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    if version.endswith(".dev0"):
        assert version.removesuffix(".dev0") not in releases
    else:
        assert version == releases[0]
