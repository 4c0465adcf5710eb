"""Bakes projects from random and hostile answers: each is refused in one line and leaves nothing, or is whole.

``python tests/bakes.py [--count N] [--seed N]``; ``make faults`` bakes a thousand, ``make test`` a few.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import random
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from conftest import SOURCE, TEMPLATE
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from markdown_it import MarkdownIt
from test_answers import TABLES, baked_as, expected_files

CHOICES = {
    "license": ["MIT", "BSD-3-Clause", "Apache-2.0", "none"],
    "data": ["digits", "image_folder", "cifar10", "diabetes", "table", "california"],
    "logger": ["tensorboard", "wandb"],
    "ci": ["github", "none"],
    "torch": ["pypi", "auto", "cpu", "cu126", "cu128", "cu130", "rocm"],
    "tools": ["yes", "no"],
}
TEXTS = ("project_name", "description", "author")
QUESTIONS = ("project_name", "project_slug", "description", "author", *CHOICES)
CANARY = "canary-ran"
FRAGMENTS = [
    *(
        "- ",
        "+ ",
        "1. ",
        "23) ",
        "---",
        "===",
        "***",
        "# ",
        "> ",
        "    ",
        " ",
        "  ",
        "word",
        "Ünïcödé",
        "试验",
        "עברית",
        "🔥👩‍🔬",
    ),
    *(
        '"',
        "'",
        '"""',
        "'''",
        "\\",
        "\\\\",
        "`",
        "$(touch canary-ran)",
        "`touch canary-ran`",
        "; touch canary-ran",
        "&amp;",
    ),
    *(
        '"""); open("canary-ran", "w"); ("""',
        "${HOME}",
        "%s",
        "<b>",
        "</script>",
        "[x](y)",
        "[x]: y",
        "![x](y)",
        "_it_",
    ),
    *(
        "| a | b |",
        "key: value",
        "*x",
        "&x",
        "!!python/object:os.system",
        "\\u0041",
        "\\n",
        "~~~",
        "www.x.org",
        "a@b.c",
    ),
]
CONTROL = ["\n", "\t", "\x07", "\x7f", "\x85", "\u2028", "\u2029", "\x00"]
JINJA = ["{{ 7 * 7 }}", "{% raw %}", "{# gone #}", "{{ cookiecutter.author }}", "{{", "%}"]
NO_TEXTS = [None, True, False, {"a": "b"}, {}]
NAMES = [
    *(
        "my",
        "project",
        "lab",
        "X",
        "a1",
        "net",
        "2d",
        "cats",
        "class",
        "json",
        "None",
        "match",
        "aux",
        "com1",
        "python3",
    ),
    *(
        "tests",
        "conftest",
        "test_run",
        "activate",
        "src",
        "..",
        "/",
        "/tmp/x",
        "a/b",
        "ü",
        " ",
        ";",
        "$",
        "\\",
        "'",
        "pip",
    ),
]


def text_of(draw: random.Random, extra: list[str]) -> str:
    """Return a text of a few fragments, now and then one that no project can carry."""
    pieces = draw.choices(FRAGMENTS, k=draw.randint(1, 5))
    if draw.random() < 0.1:
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(CONTROL))
    if extra and draw.random() < 0.3:
        pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(extra))
    return "".join(pieces)


def slug_of(draw: random.Random) -> str:
    """Return a name: of plain words and separators, of something that is installed, or of odd fragments."""
    kind = draw.random()
    if kind < 0.5:
        words = draw.choices(["my", "project", "Lab", "a1", "net", "cats", "x", "img"], k=draw.randint(1, 4))
        return "".join(word + draw.choice(["-", ".", "_", "", "..", "-_"]) for word in words).strip("-._") or "x"
    if kind < 0.75:
        name = draw.choice([*sys.stdlib_module_names, *importlib.metadata.packages_distributions()])
        return draw.choice([name, name.upper(), name.replace("_", "-"), name.replace("_", ".")])
    return draw.choice(["", "-"]).join(draw.choices(NAMES, k=draw.randint(1, 3)))


def answers_of(draw: random.Random, typed: bool) -> dict[str, Any]:
    """Return an answer to each question; those of a configuration can be no text, and Jinja in them is rendered."""
    answers: dict[str, Any] = {key: draw.choice(values) for key, values in CHOICES.items()}
    answers |= {key: text_of(draw, JINJA if typed else []) for key in TEXTS}
    answers["project_slug"] = slug_of(draw)
    if not typed and draw.random() < 0.2:
        answers[draw.choice([*TEXTS, "project_slug"])] = draw.choice(NO_TEXTS)
    if not typed and draw.random() < 0.1:
        answers[draw.choice(["__typed_slug", "__package_name"])] = draw.choice(["evil", "../evil", "os", "my_project"])
    return answers


@contextmanager
def printed(to: Path) -> Iterator[None]:
    """Send what this process and its children print to a file."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    with to.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


def bake_with(answers: dict[str, Any], folder: Path, typed: bool) -> tuple[str, bool]:
    """Bake into ``folder/out`` with answers typed at the prompts, or from a user's configuration.

    Returns:
        What was printed, and whether it was refused by the template.
    """
    out, temporary, log = folder / "out", folder / "temporary", folder / "log"
    for place in (out, temporary):
        place.mkdir(parents=True)
    configuration = {"replay_dir": str(folder / "replay"), "default_context": {} if typed else answers}
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration))

    def ask(name: str, default: object, *_: object) -> object:
        return answers.get(name, default)

    refused = False
    with (
        mock.patch.dict(os.environ, {"TMPDIR": str(temporary)}),
        mock.patch.object(tempfile, "tempdir", None),
        mock.patch("cookiecutter.prompt.read_user_variable", ask),
        mock.patch("cookiecutter.prompt.read_user_choice", ask),
        mock.patch("cookiecutter.prompt.read_user_yes_no", ask),
        printed(log),
    ):
        try:
            cookiecutter(
                str(TEMPLATE), no_input=not typed, output_dir=str(out), config_file=str(folder / "config.yaml")
            )
        except FailedHookException:
            refused = True
        except Exception:  # of cookiecutter's or of the template's: a crash
            traceback.print_exc()
    return log.read_text(errors="replace"), refused


def faults_of(answers: dict[str, Any], folder: Path, typed: bool) -> list[str]:
    """Bake, and return what is wrong with what came of it."""
    said, refused = bake_with(answers, folder, typed)
    out = folder / "out"
    left = [path.name for path in out.iterdir()]
    found = [f"left in the temporary folder: {path}" for path in (folder / "temporary").iterdir()]
    found += [f"ran: {path}" for path in folder.rglob(CANARY)]
    known = {"out", "temporary", "log", "replay", "config.yaml"}
    found += [f"outside of the project: {path}" for path in folder.iterdir() if path.name not in known]
    if refused:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if len(errors) != 1 or "Traceback (most recent call last)" in said.partition("Stopping generation")[0]:
            found.append(f"not refused in one line: {said}")
        return found + [f"left behind: {name}" for name in left]
    if left != [answers["project_slug"]]:
        return [*found, f"baked {left}: {said}"]
    return found + list(faults_of_project(answers, out / left[0]))


def faults_of_project(answers: dict[str, Any], project: Path) -> Iterator[str]:
    """Yield what is wrong with a project: each answer arrives as it is, and the name is nobody else's."""
    slug = answers["project_slug"]
    package = next((project / "src").iterdir()).name
    meta = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if (meta["name"], meta["description"], meta["authors"]) != (
        slug,
        answers["description"],
        [{"name": answers["author"]}],
    ):
        yield f"pyproject.toml says {meta}"
    if meta["scripts"] != {slug: f"{package}.__main__:main"}:
        yield f"the command is {meta['scripts']}"
    shown = literal(project / "README.md")
    if shown != [("heading", answers["project_name"]), ("paragraph", answers["description"])]:
        yield f"the README shows {shown}"
    if answers["license"] != "none" and answers["author"] not in (project / "LICENSE").read_text(encoding="utf-8"):
        yield "the licence names another author"
    if not package.isidentifier() or importlib.util.find_spec(package):
        yield f"the package {package} is another's, too"
    if (Path(sys.executable).parent / slug).exists():
        yield f"the command {slug} is another's, too"
    if (project / ".git/HEAD").read_text() != "ref: refs/heads/main\n":
        yield "the branch is not main"
    kind = "table" if answers["data"] in TABLES else "images"
    expected = expected_files(answers)
    for source in SOURCE.rglob("*.py"):
        relative = baked_as(source, kind)
        if relative is None:
            continue
        wanted = source.read_bytes() if relative in expected else None
        if wanted is not None and relative.startswith("tests/"):
            wanted = wanted.replace(b"project_package", package.encode())
        path = project / relative.replace("src/my_project/", f"src/{package}/")
        if (path.read_bytes() if path.exists() else None) != wanted:
            yield f"{relative} is not the template's"


def literal(page: Path) -> list[tuple[str, str]]:
    """Return what stands first in a page, as a reader sees it: of the first two blocks the kind and the text."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    found = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "inline":
            plain = all(child.type in ("text", "text_special") for child in token.children or ())
            text = "".join(child.content for child in token.children or ())
            found.append((before.type.removesuffix("_open"), text if plain else token.content))
    return found[:2]


def fuzz(folder: Path, seed: int, count: int) -> list[bool]:
    """Bake ``count`` times; returns for each whether it was refused or whole, and prints what was neither."""
    survived = []
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        typed = draw.random() < 0.5
        answers = answers_of(draw, typed)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found = faults_of(answers, Path(place), typed)
        survived.append(not found)
        for fault in found:
            print(number, answers, fault[-3000:])
    return survived


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bakes-") as folder:
        survived = fuzz(Path(folder), options.seed, options.count)
    print(f"seed {options.seed}: {len(survived)} bakes, {sum(survived)} refused in one line or whole")
    return 0 if all(survived) else 1


if __name__ == "__main__":
    raise SystemExit(main())
