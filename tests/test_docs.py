"""The tables of the docs are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import SOURCE, TEMPLATE, bake, dead_links, pages
from mutants import MUTANTS


def techniques(folder: Path) -> str:
    """Return the page on techniques of a project, or of the template: what its project's page does not hold."""
    return (folder / "docs/techniques.md").read_text(encoding="utf-8")


def table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose heading begins with a word."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def inline(page: Path) -> list[str]:
    """Return what a page writes as code within its lines."""
    return re.findall("`([^`]+)`", re.sub("```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize("data", ["digits", "table"])
def test_every_flag_of_the_docs_is_one(data, command, tmp_path):
    project, given = bake(tmp_path, data=data), []
    columns = {"age": "{n}.5", "a": "{bit}", "b": "{bit}", "w": "1", "patient": "p{n}", "part": "{part}", "NAME": "{n}"}
    columns |= {"price": "{n}.25", "width": "{n}.5", "height": "{n}.5", "postcode": "100{bit}", "notes": "n {n}"}
    columns |= {"url": "u {n}", "name": "name {bit}", "target": "{word}"}
    rows = [
        ",".join(columns.values()).format(n=n, bit=n % 2, part=("train", "val", "test")[n % 3], word="ab"[n // 3 % 2])
        for n in range(60)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.csv").write_text("\n".join([",".join(columns), *rows]))
    for _, cell, _, _ in table(techniques(project), "technique"):
        spans = [] if cell.startswith("the command") else re.findall("`([^`]+)`", cell)
        for span in spans:
            flags = shlex.split(span)
            if not span.startswith("--"):
                flags = [*given[-1][:-1], span]  # another value of the flag before
            given.append(flags)
    assert len(given) > 50
    of_fit = re.compile(r"--(data|model|trainer|callbacks|monitor|report|fast)\b.* ")
    elsewhere = [shlex.split(span) for page in pages(project) for span in inline(page) if of_fit.match(span)]
    given += [flags for flags in elsewhere if flags not in given]
    if data == "table":  # which is read, for what is learned follows from it
        named = {"FILE": "data/table.csv", "NEW": "data/table.csv", "TABLE.csv": "data/table.csv"}
        given = [[named.get(flag, flag) for flag in flags] for flags in given if "california" not in flags]  # a network
        given = [[*flags, "--data.target=price"] if "--data.log_target" in flags else flags for flags in given]
    results = command.each(project, tmp_path, [("fit", *flags, "--print_config") for flags in given])
    assert not [(flags, done.errors) for flags, done in zip(given, results, strict=True) if done.code]


def test_the_contradictions_are_those_of_the_code(project, command, tmp_path):
    (tmp_path / "script.py").write_text(
        "from my_project.combinations import RULES\n"
        "for rule in RULES:\n"
        "    print('RULE', '|'.join([rule.name, 'refused' if rule.refused else 'warned of', rule.reason]))"
    )
    done = command(project, tmp_path, "-m", "script.py")
    rules = [line[5:].split("|") for line in done.output.splitlines() if line.startswith("RULE ")]
    assert rules == table(techniques(TEMPLATE), "combination")


@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_the_tables_of_presets_and_recipes_name_those_that_are_there(data, tmp_path):
    project = bake(tmp_path, data=data)
    for first, folder in (("preset", "presets"), ("recipe", "recipes")):
        files = (project / "src/my_project/configs" / folder).glob("*.yaml")
        assert {row[0].strip("`") for row in table(techniques(project), first)} == {path.stem for path in files}


def test_the_architecture_names_every_file_of_the_engine():
    text = (TEMPLATE / "docs/architecture.md").read_text(encoding="utf-8")
    files = (path.name for path in (SOURCE / "src").glob("*/engine/*.py") if path.name != "__init__.py")
    assert sorted(row[0].strip("`") for row in table(text, "file")) == sorted(files)


def test_the_templates_pages_link_to_files_that_are_there():
    assert not {page.name: dead_links(page) for page in pages(TEMPLATE) if dead_links(page)}


def test_the_pages_name_targets_of_make_that_are_there(project):
    targets = set()
    for folder in (project, TEMPLATE):  # the template's pages name a project's targets, too
        targets |= set(re.findall(r"^(\w+):", (folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        named = {name for page in pages(folder) for span in inline(page) for name in re.findall(r"\bmake (\w+)$", span)}
        assert named
        assert named <= targets


def test_every_decision_has_its_date():
    text = (TEMPLATE / "docs/decisions.md").read_text(encoding="utf-8")
    undated = [
        part.splitlines()[0] for part in text.split("\n### ")[1:] if not re.search(r"\n\n\*2\d{3}-\d\d-\d\d", part)
    ]
    assert not undated


def test_the_recipes_say_what_for_and_by_which_metric_and_command():
    for path in [*SOURCE.glob("src/*/configs/recipes/*.yaml"), *SOURCE.glob("tables/src/*/configs/recipes/*.yaml")]:
        head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        assert head.startswith(f"# {path.stem}: ")
        assert "metric: " in head
        assert "time: " in head
        assert f"fit --config {path.stem}" in head


def test_each_mutant_still_finds_the_code_that_it_changes():
    [package] = (SOURCE / "src").iterdir()
    assert not [(file, old) for file, old, _, _ in MUTANTS if old not in (package / file).read_text(encoding="utf-8")]


def test_the_benchmarks_import_what_a_project_has(project, tmp_path):
    """They are run by hand: a name that moved would be found months later."""
    of_table = bake(tmp_path, data="diabetes")
    wanted = re.compile(r"from (my_project[\w.]*) import ([\w, ]+)|import (my_project[\w.]*)")
    for path in (TEMPLATE / "benchmarks").glob("*.py"):
        for module, names, whole in wanted.findall(path.read_text(encoding="utf-8")):
            file = Path("src", *(module or whole).split(".")).with_suffix(".py")
            there = [each / file for each in (project, of_table) if (each / file).is_file()]
            assert there, f"{path.name}: {file}"
            text = "\n".join(found.read_text(encoding="utf-8") for found in there)
            for name in filter(None, (part.split(" as ")[0].strip() for part in names.split(","))):
                assert re.search(rf"^(class|def) {name}\b|^{name}\b.* = |import .*\b{name}\b", text, re.MULTILINE), name
