"""Resolves what the template and any project made by it need in one go: the versions that all tests run with.

Writes ``constraints.txt`` of a project and the template's own ``requirements.lock``. ``make lock`` calls it with the
path of uv.
"""

import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parent.parent
CONSTRAINTS = next(TEMPLATE.glob("*cookiecutter.project_slug*")) / "constraints.txt"
LOCK = TEMPLATE / "requirements.lock"
HEADER = """\
# The versions that the template's tests ran with: make install, the workflow and the container take them.
# make upgrade writes the newest; where you need another of one package, change its line.
"""
# A build of torch names its own of these exactly, and another build names others.
OF_A_BUILD = re.compile(r"(nvidia|cuda|triton)\b")


def requirements(project: Path) -> set[str]:
    """Return all that a project asks for: to run, for its extras, to work on it."""
    content = tomllib.loads((project / "pyproject.toml").read_text())
    meta = content["project"]
    asked = (meta["dependencies"], *meta["optional-dependencies"].values(), *content["dependency-groups"].values())
    return {line for line in itertools.chain(*asked) if not line.startswith(f"{meta['name']}[")}


def resolve(uv: str, *args: str | Path) -> None:
    """Resolve for every system and every Python that is claimed."""
    flags = ("--quiet", "--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--upgrade")
    subprocess.run([uv, "pip", "compile", *flags, *args], check=True)


def main(uv: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        projects, together, versions = (Path(folder) / name for name in ("projects.in", "together", "versions"))
        asked = set()
        for data in ("image_folder", "table"):
            answers = {"data": data, "project_slug": data}
            baked = cookiecutter(str(TEMPLATE), no_input=True, output_dir=folder, extra_context=answers)
            asked |= requirements(Path(baked))
        projects.write_text("\n".join(sorted(asked)))
        template = TEMPLATE / "pyproject.toml"
        resolve(uv, "--output-file", together, template, projects)
        resolve(uv, "--output-file", versions, "--constraints", together, projects)
        resolve(uv, "--output-file", LOCK, "--constraints", together, "--generate-hashes", template)
        lines = [line for line in versions.read_text().splitlines() if not OF_A_BUILD.match(line)]
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
