"""What ``verify`` finds: a list for people in the terminal, a table for programs, and the list of what to remove."""

import shlex
import shutil
import textwrap
from pathlib import Path
from typing import NamedTuple

from ..engine.delimited import is_parquet, safe_cells
from ..engine.files import write, write_rows
from ..engine.mistakes import Mistake, Mistakes, all_such, shown

SEVERITIES = ("error", "warning", "note")
COLUMNS = ("severity", "finding", "where", "detail", "other")
EXAMPLES = 3  # of each finding, in the terminal
WIDEST = 100  # columns of a terminal that are used


class Kind(NamedTuple):
    """A kind of finding.

    Args:
        severity: An error is what ``fit`` refuses, or what makes a score wrong; a warning what may harm; a note what is
            good to know.
        name: What it is called.
        meaning: What it does to a training, for people.
    """

    severity: str
    name: str
    meaning: str


class Finding(NamedTuple):
    """Something that was found.

    Args:
        kind: What it is.
        where: A path, a row, a column or a class; empty for the whole.
        detail: What there is.
        other: The path or row that it is like.
    """

    kind: Kind
    where: str
    detail: str
    other: str = ""


REFUSED = Kind("error", "refused", "fit would end with this")
UNUSABLE = Kind("error", "unusable rows", "fit ends with these")


class Findings:
    """What was found so far, and which files or rows could be taken away."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.to_remove: list[str] = []  # paths, or numbers of rows

    def add(self, kind: Kind, where: str, detail: str, other: str = "") -> None:
        """Take note of something."""
        self.found.append(Finding(kind, where, detail, other))

    def add_refusal(self, mistake: Mistake, where: str = "") -> None:
        """Take note of what the loader refuses: row by row, where it says which."""
        for place, detail in mistake.each if isinstance(mistake, Mistakes) else [(where, str(mistake))]:
            self.add(UNUSABLE if place.startswith("row ") else REFUSED, place, detail.replace(all_such(), ""))

    def counts(self) -> dict[str, int]:
        """Return how many there are of each severity."""
        return {severity: sum(each.kind.severity == severity for each in self.found) for severity in SEVERITIES}

    def told(self) -> str:
        """Write the findings of each kind for people, the worst first: how many, what that means, three examples."""
        of_kind: dict[Kind, list[Finding]] = {}
        for each in self.found:
            of_kind.setdefault(each.kind, []).append(each)
        lines = []
        for severity in SEVERITIES:
            for kind, each in of_kind.items():
                if kind.severity == severity:
                    lines += ["", wrapped(f"{severity}: {kind.name} ({len(each):,}): {kind.meaning}")]
                    lines += [wrapped(_sentence(finding), 2) for finding in each[:EXAMPLES]]
                    if len(each) > EXAMPLES:
                        lines.append(f"  … and {len(each) - EXAMPLES:,} more")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write a row for each finding, the worst first."""
        ordered = sorted(self.found, key=lambda each: SEVERITIES.index(each.kind.severity))
        rows = [(each.kind.severity, each.kind.name, each.where, each.detail, each.other) for each in ordered]
        write_rows(path, safe_cells([COLUMNS, *rows]))

    def save_list(self, path: Path) -> bool:
        """Write what could be removed, a line each; returns whether they end with zero bytes, for names that hold line
        breaks.
        """
        names = [name for name in dict.fromkeys(self.to_remove) if name]
        is_odd = any("\n" in name for name in names)
        write(path, "".join(f"{name}{chr(0) if is_odd else chr(10)}" for name in names))
        return is_odd


def _sentence(finding: Finding) -> str:
    where = f"{finding.where} and {finding.other}" if finding.other else finding.where
    return in_line(": ".join(filter(None, (where, finding.detail))))


def in_line(text: str) -> str:
    """Return a text in one line, without what would change a terminal."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def wrapped(text: str, indent: int = 0) -> str:
    """Break a text into lines of the terminal; a path is not torn, so that it can be copied."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = textwrap.TextWrapper(width, " " * indent, " " * (indent + 4), break_long_words=False)
    lines.break_on_hyphens = False
    return lines.fill(text)


def without_rows(listed: Path, table: Path, last: int) -> str:
    """Return a command that copies a table without the rows of a list; nothing where a row is not a line of it.

    Args:
        listed: The list, with the number of a row in each line.
        table: The table.
        last: The number of its last row.
    """
    if is_parquet(table):
        return ""
    with table.open("rb") as file:
        lines = sum(1 for _ in file)
    if lines != last:
        return ""
    program = "NR == FNR {gone[$1]; next} !(FNR in gone)"
    copy = f"{table.stem}_kept{table.suffix}"
    return f"awk '{program}' {' '.join(shlex.quote(str(path)) for path in (listed, table))} > {shlex.quote(copy)}"
