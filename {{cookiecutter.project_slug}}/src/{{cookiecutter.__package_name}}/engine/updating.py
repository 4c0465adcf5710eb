"""``make update``: brings the project to another version of its template. What is yours is merged, the rest replaced.

Whatever can be refused is refused before anything changes. cruft does the work; it waits for a server for ever, and
calls conflicts a success, so the template is cloned before it begins, and what it left is looked at.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import PACKAGE
from .mistakes import Mistake, RunFailed, shown, some

PATIENCE = 300  # seconds that a program gets that runs here
PATIENCE_OF_CLONE = 300  # and a server to send the template
LINK = Path(".cruft.json")
SOURCE = Path("src") / PACKAGE
VERSIONS = Path("constraints.txt")
# The file or folder of git's own that is there as long as something goes on.
GOES_ON = {
    "MERGE_HEAD": "a merge",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "BISECT_LOG": "a bisection",
}
# A hook of git's, or an alias, that runs this hands them on: another repository.
ELSEWHERE = {
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
}
# A user's own settings under which patches would not fit.
SETTINGS = {
    "apply.ignoreWhitespace": "no",
    "apply.whitespace": "nowarn",
    "core.quotePath": "false",
    "diff.context": "3",
    "status.showUntrackedFiles": "normal",
}
UPGRADED = "# The versions that this project's tests passed with"  # as `make upgrade` begins constraints.txt
CONFLICT = re.compile(rb"^<{7} .*^={7}$.*^>{7} ", re.MULTILINE | re.DOTALL)
MANY = 20  # files of the machinery: whoever edited more has rather named another version


class Link(NamedTuple):
    """What .cruft.json says.

    Args:
        template: Where git finds the template.
        commit: That of the template's version that the project has.
        answers: What the template's questions were answered.
        directory: Where in its repository the template lies.
    """

    template: str
    commit: str
    answers: dict[str, str]
    directory: str

    def inside(self, name: str) -> str:
        """Return where in the template's repository a file of the template lies."""
        return f"{self.directory.strip('/')}/{name}".lstrip("/")


def run(
    command: Sequence[str | Path],
    folder: Path | None = None,
    more: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a program that is asked nothing, in the working folder or another; ``more`` adds to its environment.

    Raises:
        RunFailed: It is not there, or does not end.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    count = int(environment.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(SETTINGS.items(), count):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    environment |= {"GIT_CONFIG_COUNT": str(count + len(SETTINGS)), "GIT_TERMINAL_PROMPT": "0"}
    environment |= {"PWD": str(folder or Path.cwd()), **(more or {})}
    # Files, not pipes: what a program leaves running (the master of ssh's connections) would keep those open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise RunFailed(f"{command[0]} is not installed, and an update needs it.") from error
        try:
            code = process.wait(patience)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise RunFailed(f"{' '.join(map(str, command[:2]))} has not ended within {patience} s.") from error
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return subprocess.CompletedProcess(list(command), code, *texts)


def git(*args: str | Path, folder: Path | None = None) -> str:
    """Return what git says.

    Raises:
        RunFailed: It fails.
    """
    done = run(["git", *args], folder)
    if done.returncode:
        raise RunFailed(f"git {args[0]} failed: {cause(done)}")
    return done.stdout.removesuffix("\n")


def git_says(*args: str | Path, folder: Path | None = None) -> bool:
    """Tell whether a command of git's succeeds."""
    return not run(["git", *args], folder).returncode


def cause(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line in which a program says why it failed."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip(" ╭╮╰╯─│")]
    for start in (r"(error|fatal): ", r"[\w.]+(Error|Exception): "):
        if found := [line for line in lines if re.match(start, line)]:
            return found[0]
    return (lines or [f"exit code {done.returncode}"])[-1]


def without_password(url: str) -> str:
    """Return an address as it can be shown."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


def paths(text: str) -> list[str]:
    """Return the paths that git lists with -z."""
    return [path for path in text.split("\0") if path]


def changes() -> list[str]:
    """Return the paths in the repository that differ from what is committed, untracked ones too."""
    return [line[3:] for line in git("status", "--porcelain").splitlines()]


def way_back(commit: str) -> str:
    """Return the command that takes an update back."""
    return f"git reset --hard {commit[:12]} && git clean -fd ."


def note() -> Path:
    """Return where an update that works notes where it began: only a kill leaves it behind."""
    return Path(git("rev-parse", "--absolute-git-dir")) / "template-update"


def check_repository() -> str:
    """Return the commit to which the project can be taken back.

    Raises:
        Mistake: There is none, or changes of the owner's would mix with those of an update.
    """
    if not SOURCE.is_dir():
        raise Mistake(f"{Path.cwd()} holds no {SOURCE}, so there is no project to update; go to the project's folder.")
    if shutil.which("git") is None:
        raise Mistake("git is not installed, so nothing could be merged, and nothing taken back; install it.")
    if not git_says("rev-parse", "--is-inside-work-tree"):
        raise Mistake("the project is in no git repository, so nothing could be taken back; git init, and commit it.")
    if not git_says("rev-parse", "--verify", "HEAD"):
        raise Mistake("nothing is committed yet, so nothing could be taken back; git add -A, and commit it.")
    place = Path(git("rev-parse", "--absolute-git-dir"))
    going = next((what for name, what in GOES_ON.items() if (place / name).exists()), None)
    if going:
        raise Mistake(f"git is in the middle of {going}, so two changes would be mixed; end it, or abort it, first.")
    if (place / "index.lock").exists():
        raise Mistake(f"git is at work here, or was killed at it; wait for it, or remove {place / 'index.lock'}.")
    head = git("rev-parse", "HEAD")
    dirty = changes()
    begun = note().read_text(encoding="utf-8").split() if note().is_file() else []
    if dirty and begun[1:] == [head]:
        raise Mistake(
            f"an update was broken off, so files of two versions of the template are mixed; take it back: "
            f"{way_back(begun[0])}, and start it again."
        )
    if dirty and commit_named(read_here()) != commit_named(git_shows(f"HEAD:./{LINK}")):
        raise Mistake(
            f"an update is not committed yet ({some(dirty, counted=True)}), so two would be mixed; mend what it could "
            f"not merge, make install, make test, git add -A, and commit; or take it back: {way_back(head)}."
        )
    if dirty:
        raise Mistake(
            f"not all is committed ({some(dirty, counted=True)}), so your changes would be mixed with those of an "
            "update; commit them, or put them aside: git stash --include-untracked."
        )
    note().unlink(missing_ok=True)
    return head


def read_here() -> str:
    return LINK.read_text(encoding="utf-8", errors="replace") if LINK.is_file() else ""


def git_shows(what: str, folder: Path | None = None) -> str:
    """Return a file of a commit; nothing where there is none."""
    return run(["git", "show", what], folder).stdout


def commit_named(text: str) -> str:
    """Return the commit of the template's that a .cruft.json names; nothing where it is not one."""
    try:
        return json.loads(text)["commit"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def read_link() -> Link:
    """Read .cruft.json.

    Raises:
        Mistake: It is not there, or not what a bake or cruft writes.
    """
    if not LINK.is_file():
        raise Mistake(
            f"there is no {LINK}, so nothing tells which version of the template made this project; write it: "
            ".venv/bin/cruft link URL --checkout COMMIT, where COMMIT is that of the template's version that made it "
            "(its tag, such as v0.1.0; without one cruft takes the newest and has nothing to do for ever), and "
            "commit it."
        )

    def refuse(what: str) -> Mistake:
        remedy = f"git log -p {LINK} shows what it was"
        return Mistake(f"{LINK} {what}, so what this project was made of is unknown; mend it ({remedy}).")

    try:
        state: Any = json.loads(LINK.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refuse(f"cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise refuse("is no mapping")
    for key in ("template", "commit"):
        if not isinstance(state.get(key), str) or not state[key]:
            raise refuse(f"has {key!r} as {json.dumps(state.get(key))}, which is no text")
    context = state.get("context")
    answers = context.get("cookiecutter") if isinstance(context, dict) else None
    if not isinstance(answers, dict) or "project_slug" not in answers:
        raise refuse("holds no answers under context, cookiecutter")
    own = {key: value for key, value in answers.items() if not key.startswith("_")}  # as cruft takes them
    for key, value in own.items():
        if not isinstance(value, str) or not key.isidentifier():
            raise refuse(f"has the answer {key!r} as {json.dumps(value)}, which is no text")
    directory = state.get("directory") or ""
    if not isinstance(directory, str) or Path(directory).is_absolute() or ".." in Path(directory).parts:
        raise refuse(f"has 'directory' as {json.dumps(directory)}, which is no folder in the template's repository")
    return Link(state["template"], state["commit"], own, directory)


def check_answers(link: Link) -> None:
    """Compare the answers with those that were committed first for this version of the template.

    Raises:
        Mistake: They were edited since: both versions would be baked with them, and nothing of theirs would arrive.
    """
    for commit in git("log", "--format=%H", "--", f"./{LINK}").splitlines():
        text = git_shows(f"{commit}:./{LINK}")
        if commit_named(text) != link.commit:
            break
        first = json.loads(text).get("context", {}).get("cookiecutter", {})
        edited = [key for key, value in link.answers.items() if first.get(key, value) != value]
        if edited:
            key = edited[0]
            raise Mistake(
                f"{LINK} has {key}={link.answers[key]!r}, and this project was made with {first[key]!r}, so an update "
                f"would not fit; take it back (git checkout {commit[:12]} -- {LINK}), and commit that. Another answer: "
                f"bake a project of your own name with it elsewhere, and take over what differs."
            )


def clone(link: Link, to: Path) -> None:
    """Bring the template here.

    Raises:
        Mistake: It cannot be reached.
    """
    try:
        done = run(["git", "clone", "--quiet", "--bare", "--", link.template, to], patience=PATIENCE_OF_CLONE)
        reason = cause(done) if done.returncode else ""
    except RunFailed as error:
        reason = str(error)
    if reason:
        raise Mistake(
            f"the template {without_password(link.template)!r} cannot be reached ({without_password(reason)}), so "
            f"there is nothing to update from; try it later, or where it has moved mend 'template' in {LINK}, and "
            "commit that."
        )


def find_version(template: Path, link: Link, to: str) -> str:
    """Return the commit of the template's to which an update leads.

    Raises:
        Mistake: The template has not the version that the project has, or not the one that is asked for.
    """
    cookiecutters = link.inside("cookiecutter.json")
    known = re.fullmatch("[0-9a-f]{7,64}", link.commit) is not None
    if not known or not git_says("cat-file", "-e", f"{link.commit}^0", folder=template):
        raise Mistake(
            f"{LINK} names the commit {link.commit!r}, which the template {without_password(link.template)!r} does not "
            "have, so what this project was made of is unknown; mend it: 'commit' is that of the template's version "
            "that made the project."
        )
    name = ["--verify", "--quiet", "--end-of-options", f"{to or 'HEAD'}^0"]
    if not git_says("rev-parse", *name, folder=template):
        names = git("for-each-ref", "--format=%(refname:short)", "refs/tags", "refs/heads", folder=template).split()
        raise Mistake(f"the template has no {to or 'commit'}, so there is nothing to update to; it has {some(names)}.")
    target = git("rev-parse", *name, folder=template).splitlines()[-1]
    for commit in (link.commit, target):
        if not git_says("cat-file", "-e", f"{commit}:{cookiecutters}", folder=template):
            raise Mistake(
                f"the template has no {cookiecutters} at {commit[:12]}, so no project can be made of it; mend "
                f"'template', 'commit' or 'directory' in {LINK}."
            )
    return target


def bake(template: Path, link: Link, work: Path) -> Path:
    """Make the project as the template has it; returns its folder.

    Args:
        template: A clone.
        link: Of which commit, with which answers.
        work: A folder for all of it.

    Raises:
        Mistake: The answers in .cruft.json give none, or that of another package.
    """
    git("clone", "--quiet", "--no-checkout", template, work / "template")
    git("checkout", "--quiet", link.commit, folder=work / "template")
    settings = {"replay_dir": str(work / "replay"), "cookiecutters_dir": str(work / "replay")}  # not the user's
    (work / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    source = work / "template" / link.directory
    command = [sys.executable, "-P", "-m", "cookiecutter", "--no-input", "--config-file", work / "config.yaml"]
    answers = [f"{key}={value}" for key, value in link.answers.items()]
    done = run([*command, "--output-dir", work / "made", source, *answers], work)
    if done.returncode:
        raise Mistake(f"the answers in {LINK} give no project ({cause(done)}); mend them, and commit that.")
    project = next((work / "made").iterdir())
    if not (project / SOURCE).is_dir():
        made = next((path.parent.name for path in project.glob("src/*/__init__.py")), "none")
        raise Mistake(
            f"{LINK} says project_slug={link.answers['project_slug']!r}, which gives the package {made}, and this is "
            f"{PACKAGE}, so nothing would fit; mend it, and commit that."
        )
    return project


def files(project: Path) -> list[Path]:
    """Return the files of a project that nobody has worked in, without git's and the one that names its version."""
    found = (path for path in sorted(project.rglob("*")) if path.is_file() and path.name != LINK.name)
    return [path for path in found if ".git" not in path.relative_to(project).parts]


def same_bytes(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def is_same(path: Path, made: Path) -> bool:
    """Tell whether a file of the project is as the template has it."""
    return not path.is_symlink() and same_bytes(path, made)


def unedited(pristine: Path) -> list[Path]:
    """Return the files of the project that are as the template has them."""
    every = (path.relative_to(pristine) for path in files(pristine))
    return [path for path in every if is_same(path, pristine / path)]


def edits(pristine: Path) -> list[Path]:
    """Return the files of the machinery that are not as the template has them, and those of engine/ that are gone.

    A tool may be gone; files of the owner's beside them are no edits.
    """
    found = []
    for part in ("engine", "tools"):
        for made in sorted(path for path in (pristine / SOURCE / part).rglob("*") if path.is_file()):
            path = made.relative_to(pristine)
            if not is_same(path, made) and (part == "engine" or path.exists() or path.is_symlink()):
                found.append(path)
    return found


def refused(edited: Sequence[Path]) -> Mistake:
    """Word that an update would lose what the owner edited."""
    if len(edited) > MANY:
        return Mistake(
            f"{len(edited)} files of engine/ and tools/ are not those of the version that {LINK} names, such as "
            f"{edited[0]}, so it is hardly what made this project; mend 'commit' in it, or, if you did edit so many, "
            "give that up: make update REPLACE=yes (git keeps it)."
        )
    return Mistake(
        f"you edited {', '.join(map(str, edited))}, and an update replaces engine/ and tools/ whole, so that would be "
        "lost; move it into files of yours, such as a subclass, or give it up: make update REPLACE=yes (git keeps it)."
    )


def give_up(edited: Sequence[Path], pristine: Path) -> str:
    """Commit files as the template has them, and so that the owner's edits can be had back; returns the commit."""
    for path in edited:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pristine / path, path)
    git("add", "--force", "--", *edited)
    named = git_says("var", "GIT_COMMITTER_IDENT") and git_says("var", "GIT_AUTHOR_IDENT")
    identity = [] if named else ["-c", "user.name=make update", "-c", "user.email=make-update@localhost"]
    text = "Give up edits of what an update of the template replaces\n\n" + "\n".join(map(str, edited))
    git(*identity, "-c", "commit.gpgSign=false", "commit", "--quiet", "--no-verify", "--message", text)
    return git("rev-parse", "HEAD")


def merge(template: Path, to: str, work: Path) -> None:
    """Let cruft merge the difference between the two versions of the template into the project.

    Raises:
        RunFailed: It fails.
    """
    temporary = work / "temporary"
    temporary.mkdir()
    # Inside a repository the template's hook makes none, which cruft would compare as it does all files.
    git("init", "--quiet", work)
    command = [sys.executable, "-P", "-m", "cruft", "update", "--skip-apply-ask", "--template-path", template]
    plain = {"TMPDIR": str(temporary), "TYPER_STANDARD_TRACEBACK": "1"}
    done = run([*command, *(["--checkout", to] if to else [])], more=plain)
    if done.returncode:
        raise RunFailed(
            f"cruft could not make the new version ({cause(done)}); where its questions take other answers by now, "
            f"mend those in {LINK}, and commit that."
        )


def rejects() -> set[str]:
    """Return the files in which git leaves what did not fit, ignored ones too."""
    return set(paths(git("ls-files", "--others", "-z", "--", "*.rej")))


def unfinished(rejected_before: set[str], untouched: Sequence[Path], old: Path, new: Path) -> Mapping[str, str]:
    """Return what an update could not merge, and why: nobody else says so.

    Args:
        rejected_before: What ``rejects`` found before.
        untouched: The files that nobody had edited.
        old: The project as the template had it.
        new: As it has it now.
    """
    found = {}
    for path in (path.relative_to(old) for path in files(old)):
        if not (new / path).exists() and path.exists():
            found[str(path)] = "the template has it no longer, and you changed it; remove it, or keep it as yours"
    wrong = [path for path in untouched if (new / path).is_file() and not is_same(path, new / path)]
    for path in {*edits(new), *wrong}:
        found[str(path)] = "it is not as the template has it"
    for path in paths(git("diff", "--name-only", "--relative", "-z", "HEAD")):
        if Path(path).is_file() and CONFLICT.search(Path(path).read_bytes()):
            found[path] = "you and the template changed the same lines; both stand between <<<<<<< and >>>>>>>"
    for line in paths(git("ls-files", "--unmerged", "-z")):
        path = line.partition("\t")[2]
        found.setdefault(path, "you and the template changed it, and git could not merge that")
    for path in sorted(rejects() - rejected_before):
        found[path] = f"what did not fit into {path.removesuffix('.rej')}; put it there by hand, and remove this file"
    return found


def keep_versions(pristine: Path, head: str) -> bool:
    """Leave the versions alone that ``make upgrade`` wrote: merged with the template's they were tried by nobody.

    Args:
        pristine: The project as the template had it.
        head: The commit before the merge.

    Returns:
        Whether they are such.
    """
    if not (pristine / VERSIONS).is_file() or not git_shows(f"{head}:./{VERSIONS}").startswith(UPGRADED):
        return False
    git("checkout", "--quiet", head, "--", VERSIONS)
    Path(f"{VERSIONS}.rej").unlink(missing_ok=True)
    return True


def for_owners(template: Path, link: Link, target: str) -> list[str]:
    """Return what the template's CHANGELOG tells the owners of projects that are older than a version."""

    def told(commit: str) -> list[str]:
        changelog = git_shows(f"{commit}:{link.inside('CHANGELOG.md')}", template)
        sections = re.findall(r"^### For owners\n(.*?)(?=^#|\Z)", changelog, re.MULTILINE | re.DOTALL)
        return [line for section in sections for line in section.splitlines() if line.strip()]

    before = told(link.commit)
    return [line for line in told(target) if line not in before]


def update(to: str = "", replace: bool = False) -> None:
    """Update the project in the working folder, and say what came out.

    Args:
        to: A tag, a branch or a commit of the template's; its default branch if nothing.
        replace: Whether edits of the machinery are given up.

    Raises:
        Mistake: It cannot be; nothing has changed.
        RunFailed: It was broken off, or something has to be merged by hand.
    """
    before = check_repository()
    link = read_link()
    if any(importlib.util.find_spec(name) is None for name in ("cruft", "cookiecutter")):
        raise Mistake("the package cruft, which does the work, is not installed here; make install brings it.")
    check_answers(link)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        template = work / "template.git"
        clone(link, template)
        target = find_version(template, link, to)
        old, new = (git("describe", "--tags", "--always", commit, folder=template) for commit in (link.commit, target))
        pristine = bake(template, link, work / "old")
        edited = edits(pristine)
        if edited and not replace:
            raise refused(edited)
        if git_says("diff", "--quiet", link.commit, target, folder=template):
            print(f"The project has version {old} of the template; there is nothing to update.")
            return
        owners = for_owners(template, link, target)
        # git merges only what it has the common version of, which nobody may have committed before editing it.
        git("hash-object", "-w", "--no-filters", "--", *files(pristine))
        rejected = rejects()
        try:
            head = give_up(edited, pristine) if edited else before
            untouched = unedited(pristine)
            note().write_text(f"{before} {head}\n", encoding="utf-8")
            merge(template, to, work)
            are_kept = keep_versions(pristine, head)
            now = read_link()
            fresh = bake(template, now, work / "new")
            left = unfinished(rejected, untouched, pristine, fresh)
            are_kept = are_kept and not same_bytes(pristine / VERSIONS, fresh / VERSIONS)
            count = len(changes())
            note().unlink()
        except BaseException as error:
            if changes():
                why = f" ({error})" if isinstance(error, Mistake | RunFailed) else ""
                raise RunFailed(f"broken off in the middle{why}; to take it back: {way_back(before)}") from error
            git("reset", "--quiet", "--hard", before)
            note().unlink(missing_ok=True)
            raise
    print(f"Updated from version {old} of the template to {new}: {count} files differ, and nothing is committed yet.")
    if edited:
        print(f"Given up: {some([*map(str, edited)], counted=True)}; git show -R {head[:12]} shows your edits.")
    if asked := [f"{key}={value!r}" for key, value in now.answers.items() if key not in link.answers]:
        print(f"The template asks more by now; the project has its defaults, which stand in {LINK}: {', '.join(asked)}")
    if are_kept:
        print(f"{VERSIONS} stays as you have it; if its versions do not suit the new requirements: make upgrade")
    if owners:
        print("\n".join(["What the template's CHANGELOG leaves to you, by file:", *owners]))
    if left:
        listed = "\n".join(f"  {path}: {why}" for path, why in left.items())
        raise RunFailed(
            f"not everything could be merged:\n{listed}\n"
            "Mend them, then git add -A, make install, make test, and commit.\n"
            f"To take the update back: {way_back(before)}"
        )
    print(f"To take it back: {way_back(before)}")


def stop(number: int, _: object) -> None:
    """End as a Ctrl-C does."""
    raise SystemExit(128 + number)


def main(args: Sequence[str] | None = None) -> int:
    """Update the project in the working folder; returns the exit code."""
    parser = argparse.ArgumentParser(f"python -m {PACKAGE}.engine.updating", description=__doc__, allow_abbrev=False)
    parser.add_argument("--to", default="", help="a tag, branch or commit of the template's; else its default branch")
    parser.add_argument(
        "--replace", default="no", metavar="yes", help="whether edits of engine/ and tools/ are given up"
    )
    given = parser.parse_args(args)
    try:
        update(given.to, given.replace != "no")
    except (Mistake, RunFailed) as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, Mistake) else 1
    except KeyboardInterrupt:
        print("error: stopped; nothing has changed.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, stop)
    raise SystemExit(main())
