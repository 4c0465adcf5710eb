"""Projects of every two answers, on each Python that is claimed, with the lowest versions, the known ones and today's.

``make matrix`` runs all of it; ``make matrix MATRIX="--only python=3.14 data=digits"`` the cells that have these words.
``--list`` prints all. A cell is a project with an environment of its own, in ``build/matrix``, removed when it ends:

- ``versions=known``: ``make install`` and ``make check``, as its owner does;
- ``versions=lowest`` and ``newest``: the ends of what ``pyproject.toml`` admits, with every extra; then the tests;
- ``versions=bare``: no extra; its types and lint.

In each a model is fitted, tested, used and, where there are tools, exported. ``wheel=yes`` is tests/test_wheel.py with
all that it has. Each cell is a line; what a red one printed stays in ``build/matrix``. The exit code is 1 if one is
red; a Python that is not at hand is named, and is not red. Options of pytest are taken from PYTEST_ADDOPTS.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import TEMPLATE, draw_images, draw_table
from test_project import UV, find_python, unbound

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
VERSIONS = ("known", "lowest", "newest")
FOLDER = TEMPLATE / "build/matrix"
LONG = 7200  # seconds after which a step is taken for hung, however busy the machine is
TABLES = ("diabetes", "table", "california")

Cell = dict[str, str]


def choices(with_torch: bool) -> dict[str, tuple[str, ...]]:
    """Return the answers that are choices, the default first, then the Pythons and the versions."""
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    answers = {key: tuple(values) for key, values in asked.items() if isinstance(values, list) and key[0] != "_"}
    if not with_torch:  # torch's own indexes are not reached from everywhere
        del answers["torch"]
    return {**answers, "python": PYTHONS, "versions": VERSIONS}


def pairs(choices: Mapping[str, Sequence[str]], begun: Sequence[Cell]) -> list[Cell]:
    """Return cells in which every two values of two choices meet.

    The cells that are begun come first. What they leave open, and the cells after them, are filled greedily: with the
    value that meets most others for the first time, and among equals with the one that was taken least.
    """
    missing = {
        frozenset([(one, a), (other, b)])
        for one, other in itertools.combinations(choices, 2)
        for a, b in itertools.product(choices[one], choices[other])
    }
    order = sorted(map(sorted, missing))
    taken, cells, waiting = Counter[tuple[str, str]](), [], [dict(cell) for cell in begun]
    while waiting or missing:
        cell = waiting.pop(0) if waiting else dict(next(pair for pair in order if frozenset(pair) in missing))
        for key in sorted(choices.keys() - cell.keys(), key=lambda key: -len(choices[key])):
            new = {
                value: sum(frozenset([(key, value), item]) in missing for item in cell.items())
                for value in choices[key]
            }
            cell[key] = max(choices[key], key=lambda value: (new[value], -taken[key, value]))
        missing -= set(map(frozenset, itertools.combinations(cell.items(), 2)))
        taken.update(cell.items())
        cells.append({key: cell[key] for key in choices})
    return cells


def all_cells(with_torch: bool) -> list[Cell]:
    """Return the corners of the claimed range, each answer on its own, what pairs need, and what is apart."""
    given = choices(with_torch)
    answers = {key: values for key, values in given.items() if key not in ("python", "versions")}
    default = {key: values[0] for key, values in answers.items()}
    oldest, newest = {"python": PYTHONS[0], "versions": "lowest"}, {"python": PYTHONS[-1], "versions": "newest"}
    corners = [{**default, "data": data, **corner} for corner in (oldest, newest) for data in ("digits", "diabetes")]
    alone = [{**default, key: value} for key, values in answers.items() for value in values[1:]]
    bare = [{**default, "data": data, "python": PYTHONS[-2], "versions": "bare"} for data in ("digits", "diabetes")]
    known = {**default, "python": PYTHONS[1], "versions": "known"}
    wheel = {"python": PYTHONS[-2], "versions": "newest", "wheel": "yes"}
    return [*pairs(given, [known, *corners, *alone]), *bare, wheel]


def words(cell: Cell) -> list[str]:
    """Return what a cell is chosen by, such as ``data=table`` and ``python=3.14``."""
    return [f"{key}={value}" for key, value in cell.items()]


def name(cell: Cell) -> str:
    """Return what a cell is in the table: its Python, its versions, and its answers but for the defaults."""
    default = {key: values[0] for key, values in choices(with_torch=True).items()}
    kept = {**cell, "python": "", "versions": ""}
    answers = [f"{key}={value}" for key, value in kept.items() if value and value != default.get(key)]
    return f"{cell['python']}  {cell['versions']:<6}  {' '.join(answers) or 'the default answers'}"


@dataclass
class Place:
    """Where a cell is made: its folder, its project, the Python, and the file that takes what the commands print."""

    folder: Path
    python: str
    log: Path

    @property
    def project(self) -> Path:
        return self.folder / "my-project"

    def run(self, *command: str | Path, at: Path | None = None) -> bool:
        """Run a command; tells whether it went well."""
        environment = {**unbound(), "UV_PYTHON": self.python, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        if "CI" in os.environ:  # a machine without a GPU, whose disk CUDA would fill
            environment |= {"UV_TORCH_BACKEND": "cpu"}
        with self.log.open("a") as log:
            print("\n$", *command, file=log, flush=True)
            try:
                done = subprocess.run(
                    command, cwd=at or self.project, env=environment, stdout=log, stderr=log, timeout=LONG
                )
            except subprocess.TimeoutExpired:
                print(f"It ran longer than {LONG} s.", file=log)
                return False
        return done.returncode == 0


def install(place: Place, versions: str) -> bool:
    """Make a project's environment, as its owner does or with other versions."""
    if versions == "known":
        return place.run("make", "install")
    about = tomllib.loads((place.project / "pyproject.toml").read_text())
    every = ",".join(about["project"]["optional-dependencies"])
    linters = [package for package in about["dependency-groups"]["dev"] if package.startswith(("ruff", "basedpyright"))]
    what = ["--editable", ".", *linters] if versions == "bare" else ["--editable", f".[{every}]", "--group", "dev"]
    resolution = "lowest-direct" if versions == "lowest" else "highest"
    # Nothing is built but the project: a version without a wheel for this Python is none that is admitted.
    into = ("--python", ".venv/bin/python", "--no-build", "--resolution", resolution)
    return place.run(UV, "venv", "--quiet", "--python", place.python, ".venv") and place.run(
        UV, "pip", "install", *into, *what
    )


def journey(place: Place, cell: Cell) -> Iterator[tuple[str, bool]]:
    """Fit, test, predict and export in another folder; yields what was done and whether it went well."""
    folder, program = place.folder / "journey", place.project / ".venv/bin/my-project"
    folder.mkdir()
    if cell["data"] in TABLES:
        draw_table(folder / "TABLE.csv")
        data = () if cell["data"] == "diabetes" else ("--data.table=TABLE.csv", "--data.target=price")
        new = f"--data.predict_table={'TABLE.csv' if data else 'data/diabetes.csv'}"
    else:
        images = draw_images(folder / "images")
        data = () if cell["data"] == "digits" else ("--data.root=images", "--data.batch_size=16")
        new = f"--data.predict_root={images / 'red'}" if data else "--data.predict_root=data/digits/7"
    lines = [("fit", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", *data), ("test",), ("predict", new)]
    lines += [("export",)] * (cell["tools"] == "yes" and cell["versions"] != "bare")
    for line in lines:
        yield line[0], place.run(program, *line, at=folder)


def check(place: Place, versions: str) -> Iterator[tuple[str, bool]]:
    """Run a project's own tests, its types and its lint, as far as they belong to the versions."""
    if versions == "known":
        yield "make check", place.run("make", "check")
    elif versions == "bare":
        yield "lint", place.run(".venv/bin/ruff", "check", ".")
        yield "format", place.run(".venv/bin/ruff", "format", "--check", ".")
        yield "types", place.run(".venv/bin/basedpyright")
    else:
        yield "tests", place.run("make", "test")


def steps(place: Place, cell: Cell) -> Iterator[tuple[str, bool]]:
    """Do all that belongs to a cell; yields what was done and whether it went well."""
    if "wheel" in cell:
        os.environ["LONG_TESTS"] = "1"
        yield "tests", place.run(sys.executable, "-m", "pytest", "tests/test_wheel.py", at=TEMPLATE)
        return
    answers = [word for word in words(cell) if word.split("=")[0] not in ("python", "versions")]
    baked = place.run(
        sys.executable, "-m", "cookiecutter", "--no-input", "-o", place.folder, TEMPLATE, *answers, at=TEMPLATE
    )
    yield "bake", baked
    if baked:
        installed = install(place, cell["versions"])
        yield "install", installed
        if installed:
            yield from journey(place, cell)
            yield from check(place, cell["versions"])


def run(number: int, cell: Cell, keep: bool) -> str:
    """Run a cell and print its line; returns ``green``, ``red`` or ``not at hand``."""
    python = find_python(cell["python"])
    if python is None:
        print(f"{number:>3}  {name(cell):<52}       -  not at hand: Python {cell['python']}", flush=True)
        return "not at hand"
    place = Place(FOLDER / f"{number:02}", python, FOLDER / f"{number:02}.log")
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    place.log.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        failed = [what for what, well in steps(place, cell) if not well]
    except Exception as error:  # such as a pyproject.toml that is none; the cells after this one go on
        place.log.open("a").write(f"{traceback.format_exc()}\n")
        failed = [type(error).__name__]
    finally:
        if not keep:
            shutil.rmtree(place.folder, ignore_errors=True)
    said = f"red: {', '.join(failed)}; {place.log.relative_to(TEMPLATE)}" if failed else "green"
    print(f"{number:>3}  {name(cell):<52}  {time.monotonic() - began:>4.0f} s  {said}", flush=True)
    if not failed:
        place.log.unlink()
    return "red" if failed else "green"


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="cells with each, such as data=table wheel=yes"
    )
    parser.add_argument("--begin", type=int, default=1, metavar="N", help="at the cell of this number")
    parser.add_argument(
        "--torch", action="store_true", help="pairs with the answers to torch as well; needs its indexes"
    )
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument("--keep", action="store_true", help="leave each project and its environment in build/matrix")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would a cell
    numbered = enumerate(all_cells(given.torch), start=1)
    chosen = [
        (number, cell) for number, cell in numbered if number >= given.begin and set(given.only) <= {*words(cell)}
    ]
    if not chosen:
        parser.error(f"no cell has {' '.join(given.only)}; --list prints them")
    if given.list:
        for number, cell in chosen:
            print(f"{number:>3}  {name(cell)}")
        return 0
    ends = Counter(run(number, cell, given.keep) for number, cell in chosen)
    print(", ".join(f"{ends[end]} {end}" for end in ("green", "red", "not at hand") if ends[end]))
    return 1 if ends["red"] else 0


if __name__ == "__main__":
    sys.exit(main())
