"""The tables of the docs are those of the code."""

import re
import shlex

from conftest import SOURCE, TEMPLATE
from mutants import MUTANTS

TECHNIQUES = (TEMPLATE / "docs/techniques.md").read_text(encoding="utf-8")


def table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose heading begins with a word."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def test_every_flag_of_the_techniques_is_one(project, command, tmp_path):
    given = []
    for _, cell, _, _ in table(TECHNIQUES, "technique"):
        spans = [] if cell.startswith("the command") else re.findall("`([^`]+)`", cell)
        for span in spans:
            flags = shlex.split(span)
            if not span.startswith("--"):
                flags = [*given[-1][:-1], span]  # another value of the flag before
            given.append(flags)
    assert len(given) > 50
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
    assert rules == table(TECHNIQUES, "combination")


def test_the_generated_readme_has_the_same_table_of_techniques(project):
    assert table((project / "README.md").read_text(encoding="utf-8"), "technique") == table(TECHNIQUES, "technique")


def test_the_recipes_say_what_for_and_by_which_metric_and_command():
    for path in (SOURCE / "src").glob("*/configs/recipes/*.yaml"):
        head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        assert head.startswith(f"# {path.stem}: ")
        assert "metric: " in head
        assert "time: " in head
        assert f"fit --config {path.stem}" in head


def test_each_mutant_still_finds_the_code_that_it_changes():
    [package] = (SOURCE / "src").iterdir()
    assert not [(file, old) for file, old, _, _ in MUTANTS if old not in (package / file).read_text(encoding="utf-8")]
