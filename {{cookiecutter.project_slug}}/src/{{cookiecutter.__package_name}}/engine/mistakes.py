"""How what cannot go on is worded: the value, its consequence, the remedy."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import PACKAGE


class Mistake(ValueError):
    """A mistake in what was asked for: one line, exit code 2, no traceback. Any other error is a fault in code."""


class Mistakes(Mistake):
    """Several mistakes of one kind, of which the line names a few.

    Args:
        line: What is said of them.
        each: Where each one is, and what it is.
        columns: The columns of a table that they are about, where these could be left out.
        targets: The values of the target that they are about, likewise.
    """

    def __init__(
        self,
        line: str,
        each: Sequence[tuple[str, str]] = (),
        columns: Sequence[str] = (),
        targets: Sequence[str] = (),
    ) -> None:
        super().__init__(line)
        self.each, self.columns, self.targets = list(each), list(columns), list(targets)


class RunFailed(RuntimeError):
    """A run that cannot go on, through no mistake in what was asked for: one line, exit code 1."""


# What changes a terminal, or the order in which it shows a text.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def all_such() -> str:
    """Return what finds all faults of a data set at once, where that tool is there, for the end of a message."""
    tool = Path(__file__).parent.parent / "tools" / "verify.py"
    return f"; python -m {PACKAGE} verify finds all such" if tool.is_file() else ""


def shown(text: str) -> str:
    """Return a text with its control characters written out, which would change a terminal."""
    return CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def some(names: Sequence[str], counted: bool = False) -> str:
    """Return the first of many names, for a message, and how many there are if ``counted``."""
    more = f" … ({len(names)})" if counted else " …"
    return ", ".join(names[:4]) + (more if len(names) > 4 else "")


def said_by(error: BaseException, package: str) -> bool:
    """Tell whether a package raised an error itself: its own check of what it was given."""
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename) if frames else Path()
    spec = importlib.util.find_spec(package)
    return any(last.is_relative_to(place) for place in (spec and spec.submodule_search_locations) or ())


def require(holds: bool, flag: str, value: object, allowed: str, consequence: str) -> None:
    """Refuse a value that is out of range.

    Args:
        holds: Whether it is in range.
        flag: The flag as it is typed.
        value: Its value.
        allowed: The range.
        consequence: What would happen to the user.

    Raises:
        Mistake: It does not hold.
    """
    if not holds:
        raise Mistake(f"{flag}={value} is out of range, so {consequence}; give {allowed}.")


def unknown(flag: str, value: str, known: list[str]) -> str:
    """Word the error for a name that is not known: the nearest ones first."""
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    others = [name for name in known if name not in near]
    listed = ", ".join((near + others)[:20]) + (" …" if len(known) > 20 else "")
    return f"{flag}={value!r} is unknown, so there is nothing to use; choose from {listed}."


def not_compiled(error: BaseException) -> Mistake:
    """Word what torch.compile raises where it cannot work: no compiler, or an operation that it does not take."""
    cause = getattr(error, "inner_exception", error)
    reason = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no reason given'])[0]}"
    return Mistake(
        f"--model.compile=true: torch.compile cannot compile the network here ({reason}), so it would not run; give "
        "--model.compile false, or install the compiler that it asks for (such as g++)."
    )
