"""Writes the names that no project may have into hooks/pre_gen_project.py: those of all that a project depends on.

A hook is one file, so they stand in it; tests/test_answers.py fails where one is missing.
"""

import importlib.metadata
import re
import textwrap
from pathlib import Path

TEMPLATE = Path(__file__).parent.parent
HOOK = TEMPLATE / "hooks/pre_gen_project.py"
BEGIN, END = "# BEGIN TAKEN\n", "# END TAKEN\n"
# What a project installs and the lock does not hold, with what it needs: pre-commit, and what builds and installs.
BESIDE = """
    cfgv distlib editables hatch hatchling identify nodeenv pathspec pip pre_commit python_discovery trove_classifiers
    uv virtualenv wheel
""".split()
# What came with a distribution that is no longer there, or is not installed on every machine.
SEEN = "cuda functorch nvidia pkg_resources triton".split()


def plain(name: str) -> str:
    """Return a name as names are compared."""
    return re.sub(r"[-_.]+", "_", name).lower()


def distributions() -> set[str]:
    """Return the names in the lock, on any system, and in the requirements of a project."""
    lock = (TEMPLATE / "requirements.lock").read_text()
    project = next(TEMPLATE.glob("*cookiecutter.project_slug*/pyproject.toml")).read_text()
    names = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==", lock, re.MULTILINE)
    names += re.findall(r"\"([\w.-]+)(?:\[[^\]]*\])?[=>]=", project)
    return {plain(name) for name in names}


def imports_and_commands() -> set[str]:
    """Return what the distributions of the lock put on the path of imports and on that of commands, if installed."""
    found = set()
    for name in distributions():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        found |= {entry.name for entry in distribution.entry_points if entry.group.endswith("_scripts")}
        for file in distribution.files or ():
            first, *inner = file.parts
            if first == "..":  # to the folders of commands, manuals and headers
                found |= {file.name} if file.parent.name in ("bin", "Scripts") else set()
            elif inner or file.suffix == ".py":
                found.add(first.removesuffix(".py"))
    return {plain(name) for name in found if not re.search(r"\.(dist-info|libs|data)$|^__pycache__$", name)}


def taken() -> set[str]:
    """Return every name that stands for something in a project's environment."""
    return {*distributions(), *imports_and_commands(), *BESIDE}


def written() -> set[str]:
    """Return the names that stand in the hook."""
    block = HOOK.read_text().partition(BEGIN)[2].partition(END)[0]
    return set(block.split('"""')[1].split())


def main() -> None:
    before, _, rest = HOOK.read_text().partition(BEGIN)
    names = textwrap.fill(" ".join(sorted({*taken(), *SEEN})), 116, break_long_words=False, break_on_hyphens=False)
    data = f'TAKEN = """\n{textwrap.indent(names, "    ")}\n""".split()\n'
    HOOK.write_text(before + BEGIN + data + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
