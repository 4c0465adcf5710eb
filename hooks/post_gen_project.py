"""Remove what the answers leave out, name the package in the tests, start a git repository, say what comes next.

The folder may hold a project already (``cookiecutter -f -s``). Only what is the template's, letter by letter, is
removed or rewritten; all else is its owner's.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

# cookiecutter would leave this script, and the answers in it, in the folder of temporary files.
if Path(__file__).stem != "post_gen_project":
    Path(__file__).unlink()

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
PACKAGE = f"src/{ANSWERS['__package_name']}"
IS_TABLE = ANSWERS["__kind"] == "table"
OF_IMAGES = """
    configs/recipes/baseline.yaml configs/recipes/finetune.yaml configs/recipes/qat.yaml configs/recipes/small_data.yaml
    configs/tasks engine/backbone.py engine/builtin.py engine/cache.py engine/columns.py engine/contents.py
    engine/decoding.py engine/digits.csv.gz engine/folders.py engine/image_files.py engine/images.py engine/labels.py
    engine/looks.py engine/places.py engine/preprocessing.py engine/recomputing.py engine/timm_models.py
    tools/_looked.py tools/_near_copies.py tools/preview.py tools/smote.py
""".split()
OF_TABLES = """
    engine/arrow.py engine/builtin_tables.py engine/diabetes.csv engine/encoding.py engine/heads.py engine/kinds.py
    engine/leaks.py engine/new_rows.py engine/outcomes.py engine/oversampling.py engine/summaries.py
    engine/table_files.py engine/tables.py
""".split()
TESTS_OF_IMAGES = """
    data folders guard internals labels launches mistakes model pixels preprocessing quantisation reading remote resume
    run schedules scores speed stop targets techniques timm weights
""".split()
OF_OTHER_DATA = {
    **{f"{PACKAGE}/{path}": IS_TABLE for path in OF_IMAGES},
    **{f"tests/test_{name}.py": IS_TABLE for name in TESTS_OF_IMAGES},
    **{f"{PACKAGE}/{path}": not IS_TABLE for path in OF_TABLES},
    "tables": not IS_TABLE,
}
REMOVALS = {
    ".github": ANSWERS["ci"] != "github",
    f"{PACKAGE}/tools": ANSWERS["tools"] == "no",
}


def find_template():
    """Return the folder of the template, or None; cookiecutter names it from where it was started."""
    started = Path(os.environ.get("PWD", "/")), Path(f"/proc/{os.getppid()}/cwd")
    folders = [started[0] / ANSWERS["_repo_dir"]] if "_repo_dir" in ANSWERS else []  # cruft says nothing of it
    folders.append(started[1])
    return next((folder for folder in folders if (folder / "hooks/post_gen_project.py").is_file()), None)


TEMPLATE = find_template()


def sources_of(path):
    """Return the files of the template that a file of the project may be made of."""
    sources = next(TEMPLATE.glob("*cookiecutter.project_slug*"))
    candidates = [sources / path, sources / "tables" / path]  # a table's project has some of the latter
    if path.is_relative_to(PACKAGE):
        inner = path.relative_to(PACKAGE)
        candidates = [next(sources.glob("src/*")) / inner, sources / "tables/src/package" / inner]
    return list(filter(Path.is_file, candidates))


def is_the_templates(path):
    """Tell whether a file is as the template has it. Without a template to look at the folder was empty before."""
    if path.is_symlink() or not path.is_file():
        return False
    if TEMPLATE is None:
        return True
    answers, raw = re.compile(rb"\{\{ cookiecutter\.(\w+) \}\}"), re.compile(rb"\{[%] (end)?raw %\}")
    content = path.read_bytes()
    for source in sources_of(path):
        plain = source.read_bytes()
        baked = answers.sub(lambda match: str(ANSWERS[match[1].decode()]).encode(), raw.sub(b"", plain))
        if content in (plain, baked):
            return True
    return False


def remove(path):
    """Remove the template's files at a path and the folders that are empty then; returns what stays."""
    if path.name == "__pycache__":
        shutil.rmtree(path)
        return []
    if path.is_dir() and not path.is_symlink():
        kept = [file for inner in sorted(path.iterdir()) for file in remove(inner)]
        if not any(path.iterdir()):
            path.rmdir()
        return kept
    if not is_the_templates(path):
        return [path]
    path.unlink()
    return []


def lay_over():
    """Move what tables have of their own over the project's; a file there that is its owner's stays."""
    for source in sorted(path for path in Path("tables").rglob("*") if is_the_templates(path)):
        inner = source.relative_to("tables")
        target = Path(PACKAGE) / inner.relative_to("src/package") if inner.is_relative_to("src/package") else inner
        if target.exists() and not is_the_templates(target):
            source.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    if Path("tables").is_dir():
        remove(Path("tables"))


def git(*args):
    """Run git, with a time limit."""
    # A hook of git's, or a git alias, that runs cookiecutter hands on GIT_DIR: the repository of others.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    kept = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "encoding": "utf-8"}
    return subprocess.run(["git", *args], env=environment, timeout=30, check=False, errors="replace", **kept)


def start_repository():
    """Start a git repository, unless the folder has one or would be a part of another; returns what to say of it."""
    here = Path.cwd()
    if (here / ".git").exists():
        return ""
    if shutil.which("git") is None:
        return "git is not installed, so the project has no repository yet."
    outer = next((folder for folder in here.parents if is_repository(folder)), None)
    try:
        if outer is not None and git("check-ignore", "--quiet", ".").returncode:
            return f"It lies in the git repository {outer}, so it has none of its own; for one: git init"
        # The branch that the workflow listens to, also where git's own default is another.
        failed = git("init", "--quiet").returncode or git("symbolic-ref", "HEAD", "refs/heads/main").returncode
    except (OSError, subprocess.TimeoutExpired):
        failed = True
    return "git could not start a repository; for one: git init" if failed else ""


def is_repository(folder):
    """Tell whether git would take a folder for a repository: of a submodule and a worktree .git is a file."""
    return (folder / ".git").is_file() or (folder / ".git/HEAD").is_file()


def link():
    """Write .cruft.json, which names the template and its commit for ``make update``; returns what to say of it.

    A template that git does not know, as a zip file, leaves none; under cruft, which hands on ``_commit``, cruft does.
    """
    if TEMPLATE is None or "_commit" in ANSWERS or shutil.which("git") is None:
        return ""
    file = Path(".cruft.json")
    try:
        commit = in_template("rev-parse", "--verify", "HEAD^{commit}")
        # A template that lies untracked in a repository of something else is no part of it.
        if not commit or not in_template("rev-parse", "--verify", "HEAD:./cookiecutter.json"):
            return ""
        url, checkout = address_of_template(commit)
        own = ("cookiecutter.json", "hooks", next(TEMPLATE.glob("*cookiecutter.project_slug*")).name)
        changes = in_template("--no-optional-locks", "status", "--porcelain", "--", *own)
        directory = in_template("rev-parse", "--show-prefix").rstrip("/") or None
    except (OSError, subprocess.TimeoutExpired):
        return "git does not answer, so .cruft.json, which make update needs, was not written."
    if any(sources_of(path) and not is_the_templates(path) for path in Path("src").rglob("*.py")):
        if file.exists():
            return ".cruft.json stays as it was: files of before stayed, too, and an update begins with their version."
        return (
            "Files of before stayed, so .cruft.json, which make update needs, was not written; "
            "cruft link URL --checkout COMMIT does it, with the template's commit that they are from."
        )
    # As cruft would: the answers, and no path of this machine but that of a template that lies on it alone.
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    answers = {key: ANSWERS[key] for key in asked if key != "__prompts__"}
    context = {"cookiecutter": {**answers, "_template": url, "_commit": commit}}
    state = {"template": url, "commit": commit, "checkout": checkout, "context": context, "directory": directory}
    text = json.dumps(state, ensure_ascii=False, indent=2) + "\n"
    if file.is_symlink():
        file.unlink()
    file.write_text(text, encoding="utf-8")
    return "The template has changes that are not committed: an update will take them for yours." if changes else ""


def in_template(*args):
    """Return what git says in the template's folder; nothing where it fails."""
    done = git("-C", str(TEMPLATE), *args)
    return done.stdout.removesuffix("\n") if done.returncode == 0 else ""


def address_of_template(commit):
    """Return where git can clone the template from, and the branch or tag that was asked for.

    That of the repository from which cookiecutter cloned it, or from which the commit in a clone on this machine came;
    else the path of that clone.
    """
    typed = ANSWERS.get("_template", "")
    is_cookiecutters = re.match("[^/]*:", typed) and not Path(os.environ.get("PWD", "/"), typed).exists()
    known = in_template("for-each-ref", "--format=%(refname)", f"--contains={commit}", "refs/remotes/").split("\n")
    top = in_template("rev-parse", "--show-toplevel")
    for name in sorted(in_template("remote").split("\n"), key=lambda name: name != "origin"):
        if is_cookiecutters or any(ref.startswith(f"refs/remotes/{name}/") for ref in known):
            # As it is written there: the address behind an insteadOf may hold a password.
            url = public(in_template("config", "--get", f"remote.{name}.url"))
            if re.match("[^/]*:", url):
                return url, ANSWERS.get("_checkout") if is_cookiecutters else None
            if url and Path(top, url).exists():
                return str(Path(top, url).resolve()), None
    return top, None


def public(url):
    """Return an address without the password or the token that it may hold."""
    parts = re.fullmatch(r"([\w+.-]+://)(?:([^/]*)@)?(.*)", url)
    if parts is None:
        return url
    scheme, user, rest = parts.groups()
    if scheme.startswith("http"):
        return scheme + re.split("[?#]", rest)[0]
    return f"{scheme}{user.split(':')[0]}@{rest}" if user else scheme + rest


def remove_unwanted(table):
    """Remove what is not wanted; returns what stays because it is its owner's."""
    paths = [Path(path) for path, unwanted in table.items() if unwanted]
    return [file for path in paths if path.exists() for file in remove(path)]


kept = remove_unwanted(OF_OTHER_DATA)
if IS_TABLE:
    lay_over()
kept += remove_unwanted(REMOVALS)

# The tests hold no package's name, so that they can be checked before they are baked: they import `project_package`.
for path in Path("tests").glob("*.py"):
    if is_the_templates(path):
        text = path.read_bytes()
        path.write_bytes(text.replace(b"project_package", ANSWERS["__package_name"].encode()))

slug = ANSWERS["project_slug"]
said = [start_repository(), link()]
if kept:
    said.append(f"Kept, though the answers leave it out, because it is yours: {', '.join(map(str, kept))}")
print(f"""
Your project is in {slug}. Next:

    cd {slug} && make install
    .venv/bin/{slug} fit
    .venv/bin/{slug} test
""")
for line in filter(None, said):
    print(line)
