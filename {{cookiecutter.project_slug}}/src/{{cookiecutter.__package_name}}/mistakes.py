"""How a user's mistake is worded and recognised: the value, its consequence, the remedy."""

import difflib
import traceback
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException


class RunFailed(RuntimeError):
    """A run that cannot go on, through no mistake in what was asked for: one line, exit code 1."""


def is_users_mistake(error: BaseException) -> bool:
    """Tell a mistake in what was asked for (raised by this package or by Lightning's checks) from a fault in code."""
    if isinstance(error, MisconfigurationException):
        return True
    if not isinstance(error, ValueError):
        return False
    if "in DataLoader worker process" in str(error):
        return "raise ValueError(" in str(error)  # the worker's traceback
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(Path(__file__).parent) and (last.line or "").startswith("raise ")


def require(holds: bool, flag: str, value: float, allowed: str) -> None:
    """Refuse a value that is out of range.

    Raises:
        ValueError: It is.
    """
    if not holds:
        raise ValueError(f"{flag}={value} is out of range, so training would be wrong; give {allowed}.")


def unknown(flag: str, value: str, known: list[str]) -> str:
    """Word the error for a name that is not known: the nearest ones first."""
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    others = [name for name in known if name not in near]
    listed = ", ".join((near + others)[:20]) + (" …" if len(known) > 20 else "")
    return f"{flag}={value!r} is unknown, so there is nothing to use; choose from {listed}."
