"""What a cell of a table says: a number, a flag, nothing; and how the classes that cells name are called."""

import json
import re
import shlex
import unicodedata
from collections.abc import Iterable

from .mistakes import shown

FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "0.0": 0, "1.0": 1, "n": 0, "y": 1, "f": 0, "t": 1}
YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # which are no text in a flag
KIND = re.compile(
    r"(?P<integer>[+-]?[0-9]+)|(?P<whole>[+-]?[0-9]+\.0*)|(?P<float>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
    r"|(?P<thousand>[+-]?[1-9][0-9]{0,2},[0-9]{3})|(?P<comma>[+-]?[0-9]*,[0-9]+(?:e[+-]?[0-9]+)?)"
    r"|(?P<void>[+-]?(?:nan|inf|infinity|na|n/a|null))",
    re.IGNORECASE,
)


def in_flag(names: Iterable[str]) -> str:
    """Return a list of names as a flag takes it, such as '[a, b]' in quotes."""
    return shlex.quote("[" + ", ".join(map(_in_list, names)) + "]")


def _in_list(name: str) -> str:
    is_plain = re.fullmatch(r"[A-Za-z_][\w.-]*(?: [\w.-]+)*", name) and name.casefold() not in YAML_WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def class_name(cell: str, is_whole: bool = False) -> str:
    """Return a class as it is called: in one form of Unicode, and an integer without the fraction of a spreadsheet."""
    if is_whole:
        return str(int(cell.split(".")[0]))  # a float would merge numbers of 17 digits
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names; integers by their value."""
    names = list(names)
    if names and all(name.isdecimal() and len(name) < 16 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def look_alike(names: Iterable[str]) -> list[str]:
    """Say which names people could take for one another."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).strip().casefold(), name)
        if other != name:
            pairs.append(f"{other!r} and {name!r}")
    more = f" and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
    return (
        [shown(f"{pairs[0]}{more} look alike and are learned as two: write them alike if they are one")]
        if pairs
        else []
    )
