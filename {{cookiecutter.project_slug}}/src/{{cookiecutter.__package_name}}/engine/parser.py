"""The parser of a command line: its errors are one line that tells, and it reads nothing but what it is given."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from . import PACKAGE, guard
from .configs import config_text, holds
from .installing import of_package
from .internals import option_strings, prefer_own_classes
from .mistakes import Mistake, shown

prefer_own_classes(PACKAGE)


def fail(message: str) -> NoReturn:
    """End the command as a user's mistake."""
    print(f"error: {shown(message)}", file=sys.stderr)
    raise SystemExit(2)


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, exit code 2, and that does not guess at shortened flags."""

    files: ClassVar[list[Path]] = []  # the configs of this command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class, none of which is read from a file that its value names."""
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a config file: within bounds, and under the names of today."""
        self.files.append(Path(path))
        return self.parse_string(config_text(Path(path)), str(path), *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        fail(self._worded(str(message)))

    def _worded(self, message: str) -> str:
        """Say in one line what the parser found: the value, its consequence or its cause, the remedy."""
        if name := guard.denied(message):
            return str(guard.refused(name, "the run's config"))
        if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            flag = match.group(1).split("=")[0]
            near = difflib.get_close_matches(flag, option_strings(self), n=3)
            meant = f"did you mean {', '.join(near)}?" if near else "--help lists all."
            return f"{flag} is not a flag, so it would have no effect; {meant}"
        if match := re.search(r"[Oo]ption '([^']*)'(?: is not accepted|$)", message, re.MULTILINE):
            setting = match.group(1)
            file = next((file for file in self.files if holds(file, setting)), "a flag")
            return (
                f"{file} sets {setting!r}, which nothing here takes, so it would have no effect; take it out, or if it "
                "is a name of an earlier version, add it to RENAMED in engine/renames.py."
            )
        text = telling(message)
        key = re.match(r"[\w.]+(?=[=:])", text)
        if key and {f"--{key.group()}", "--config"} <= {*option_strings(self)}:  # else it is an argument of a class
            return f"--{text}"
        return text


class Options(argparse.ArgumentParser):
    """The flags of a tool's own; what it does not know is left to the CLI.

    Args:
        module: The tool's ``__name__``.
        description: Its docstring, for ``--help``.
    """

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(
            f"python -m {PACKAGE} {module.rpartition('.')[2].replace('_', '-')}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        fail(message)


def truth(word: str) -> bool:
    """Read true or false, as a flag of a tool's own has it.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {word!r}")
    return word.lower() == "true"


# What jsonargparse says of a union as a whole; the lines between tell why the value is none of its types.
FRAME = re.compile(r"Does not validate against any|Subtypes: |Errors:$|Given value|Parser key |Expected a path but ")
IN_OTHER_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\.* Got value: .*", ""),
    (r"Problem with given class_path '[^']*':", ""),
    (r"Type .* expects a function or a callable class: ", ""),
    (r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1"),
    (r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1"),
    (
        r"Expected a dot import path string.*",
        "no class of this name is known, or it is of another kind (a loss of numbers for classes, say); give one that "
        "fits, or its path, package.module.Class",
    ),
    (
        r'Invalid option "comments" for --print_config',
        lambda _: f"--print_config=comments needs the package ruamel.yaml: {of_package('ruamel.yaml')}",
    ),
    (
        r"the following arguments are required: class_weights_K.*",
        "--model.loss is a loss of classes or labels, and the targets are numbers; give one of numbers, such as "
        "MSE, MAE, Huber or Quantile",
    ),
    (
        r"No module named '(\w+)[\w.]*'",
        lambda found: f"{found[0]}; mend the path, or install the package: {of_package(found[1])}",
    ),
    (
        r"module '[\w.]+' has no attribute '\w+'",
        r"\g<0>; mend the path, or begin anew with --model.weights CHECKPOINT",
    ),
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
    value = re.search(r"(?:Given value|Got value|import path string): (\w[^(\n]{0,80})$", message, re.MULTILINE)
    setting = f"{key.group(1) if key else ''}{f'={value.group(1)}' if value else ''}"
    return f"{setting}: {' '.join(dict.fromkeys(causes))}".removeprefix(": ").replace("=None: ", "=null: ")


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
                called = getattr(kind, "called", kind.__name__)
                self.raised = Mistake(
                    f"{called} needs the package {missing_package(error)}, which is not installed; install it "
                    f"beside the project: {of_package(missing_package(error))}"
                )
            raise self.raised from error
        except Exception as error:
            self.raised, self.kind = error, kind
            raise


def missing_package(error: ModuleNotFoundError) -> str:
    """Return the package that would mend a failed import: the one that its text advises, or the module's name."""
    advised = re.findall(r"pip install (?:-U )?'?([\w.\-\[\],<>=!~]+)", str(error))
    return advised[-1] if advised else (error.name or str(error)).split(".")[0]
