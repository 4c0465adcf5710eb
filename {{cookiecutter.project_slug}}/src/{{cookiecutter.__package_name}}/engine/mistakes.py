"""How what cannot go on is worded: the value, its consequence, the remedy."""

import difflib
import importlib.util
import re
import traceback
from pathlib import Path
from typing import Any

from . import PACKAGE


class Mistake(ValueError):
    """A mistake in what was asked for: one line, exit code 2, no traceback. Any other error is a fault in code."""


class RunFailed(RuntimeError):
    """A run that cannot go on, through no mistake in what was asked for: one line, exit code 1."""


def said_by(error: BaseException, package: str) -> bool:
    """Tell whether a package raised an error itself: its own check of what it was given."""
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename) if frames else Path()
    spec = importlib.util.find_spec(package)
    return any(last.is_relative_to(place) for place in (spec and spec.submodule_search_locations) or ())


# What jsonargparse says of a union as a whole; the lines between tell why the value is none of its types.
FRAME = re.compile(r"Does not validate against any|Subtypes: |Errors:$|Given value|Parser key |Expected a path but ")
IN_OTHER_WORDS = (
    (r"\.* Got value: .*", ""),
    (r"Problem with given class_path '[^']*':", ""),
    (r"Type .* expects a function or a callable class: ", ""),
    (r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1"),
    (r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1"),
    (r"Expected a dot import path string.*", "no class of this name is known; give its path, package.module.Class"),
    (r"No module named '(\w+)[\w.]*'", r"\g<0>; mend the path, or install the package: pip install '\1'"),
)


def telling(message: str) -> str:
    """Return what a long error of jsonargparse's tells, in one line: the setting, its value and the cause."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    causes = [line for line in lines if line and not FRAME.match(line)] or lines
    for pattern, words in IN_OTHER_WORDS:
        causes = [re.sub(pattern, words, cause) for cause in causes]
    types = [cause.removeprefix("expected ") for cause in causes if cause.startswith("expected ")]
    causes = [cause for cause in causes if cause and not cause.startswith("expected ")]
    causes = causes or [f"expected {' or '.join(types)}".replace("NoneType", "null")]
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given|Got) value: (\w[^(\n]{0,80})$", message, re.MULTILINE)
    setting = f"{key.group(1) if key else ''}{f'={value.group(1)}' if value else ''}"
    return f"{setting}: {' '.join(dict.fromkeys(causes))}".removeprefix(": ")


class Maker:
    """Makes the objects that flags and configs name by their class, and keeps what a constructor raised.

    (jsonargparse puts its text into a long error, and of a list not even the error itself.)
    """

    raised: Exception | None = None
    kind: Any = None  # of the object that could not be made

    def __call__(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        """Make an object.

        Raises:
            Mistake: A package is missing that its constructor needs.
        """
        try:
            return kind(*args, **kwargs)
        except ModuleNotFoundError as error:
            self.raised, self.kind = error, kind
            if error.name is None or error.name.split(".")[0] != PACKAGE:
                self.raised = Mistake(
                    f"{kind.__name__} needs the package {missing_package(error)}, which is not installed; install it "
                    f"beside the project: pip install '{missing_package(error)}'."
                )
            raise self.raised from error
        except Exception as error:
            self.raised, self.kind = error, kind
            raise


def missing_package(error: ModuleNotFoundError) -> str:
    """Return the package that would mend a failed import: the one that its text advises, or the module's name."""
    advised = re.findall(r"pip install (?:-U )?'?([\w.\-\[\],<>=!~]+)", str(error))
    return advised[-1] if advised else (error.name or str(error)).split(".")[0]


def require(holds: bool, flag: str, value: float | None, allowed: str, consequence: str) -> None:
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
