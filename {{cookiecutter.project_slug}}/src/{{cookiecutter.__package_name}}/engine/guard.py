"""Nobody let in: what a run's folder or a checkpoint names is imported only from packages that are trusted.

Threat: somebody hands over the folder of a run, with a config, a checkpoint, a manifest of their own making. They may
write anything into these; they cannot write into the project, its environment or the flags that are typed. No command
on such a folder may run, import or fetch what its files name.

- The parser itself asks before each import, of the name that is given and of the place where what it finds is defined
  (subprocess, of a Popen that a trusted module happens to import), so no spelling of a name gets around it.
- Nothing is made of a class spec where a parameter takes anything; texts are never read as files or addresses.
- A spec names no method and no function of Lightning's, which may load what their arguments say.
- What is typed is the user's word: the packages that a flag or a ``--config FILE`` names are trusted for that command.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from . import PACKAGE
from .internals import denied_by_default, parsing_settings_restored
from .mistakes import CONTROL, Mistake

# What a run's config or a checkpoint may name; `trusted` in cli.py adds to it.
TRUSTED = {PACKAGE, "lightning.fabric", "lightning.pytorch", "torch.nn", "torch.optim", "torchvision.models"}
CLASS_PATH = re.compile(r"([A-Za-z_]\w*\.)+[A-Z]\w*")  # a file, such as weights.pth, is none
DENIED = re.compile(r"Importing '([^']*)' is not allowed")
LARGEST = 400_000  # values in a config or in the hyper-parameters of a checkpoint


def trust(packages: Iterable[str]) -> None:
    """Let checkpoints and configs of runs name classes of more packages."""
    TRUSTED.update(package.rstrip(".") for package in packages)


@contextlib.contextmanager
def open_to(packages: Iterable[str] | None) -> Iterator[None]:
    """Parse with every door closed but that to some packages; None opens that to all.

    The settings of jsonargparse are those of before afterwards, but that nothing remote is read.
    """
    with parsing_settings_restored():
        set_parsing_settings(
            instantiate_subclass_spec_in_any=False,
            config_read_mode_fsspec_enabled=False,  # Lightning turns it on
            config_read_mode_urls_enabled=False,
        )
        if packages is not None:
            set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=sorted(packages))
        yield


def packages_in(settings: Any) -> set[str]:
    """Return the packages of the classes that a user's own settings name, at any depth."""
    if isinstance(settings, str):
        package = settings.partition(".")[0]
        return {package} if CLASS_PATH.fullmatch(settings) and not denied_by_default(package) else set()
    if isinstance(settings, dict):
        settings = settings.values()
    elif not isinstance(settings, Iterable):
        return set()
    return set().union(*map(packages_in, settings))


def refused(name: str, source: str) -> Mistake:
    """Word that a package is not trusted."""
    package = name.partition(".")[0]
    if package in ("torch", "torchvision", "lightning"):
        package = name.rpartition(".")[0]
    remedy = "take it out"
    if not denied_by_default(package):
        remedy = f"if it is yours, add {package!r} to `trusted` in cli.py (a script imports that file)"
    return Mistake(
        f"{source} names {name!r}, of no package that this project trusts, so loading it could run anything; {remedy}."
    )


def denied(message: str) -> str:
    """Return the name that the parser would not import, of its message; nothing of another message."""
    found = DENIED.search(message)
    return found.group(1) if found else ""


def check_specs(config: Any, source: str) -> None:
    """Refuse a parsed config that would make something by a method or a function of Lightning's.

    Raises:
        Mistake: It would.
    """
    for name, named in specs_of(config):
        of_lightning = str(getattr(named, "__module__", "")).startswith("lightning.")
        if not isinstance(named, type) and (of_lightning or inspect.ismethod(named)):
            raise Mistake(
                f"{source} names {name!r}, which is no class, so loading it could run anything; give a class there."
            )


def check_hyper_parameters(kind: type, hyper_parameters: dict[str, Any], source: str) -> None:
    """Refuse the hyper-parameters of a checkpoint that name what is not trusted; ``open_to`` must be in force.

    Args:
        kind: The class that would be made with them.
        hyper_parameters: As they are in the checkpoint.
        source: The checkpoint.

    Raises:
        Mistake: They do.
        ArgumentError: They do not fit, as those of another version.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "module", fail_untyped=False)
    try:
        parsed = parser.parse_object({"module": hyper_parameters})
    except ArgumentError as error:
        if name := denied(str(error)):
            raise refused(name, source) from error
        raise
    check_specs(parsed, source)


def outside(config: Any) -> list[str]:
    """Return the names in a parsed config that are of no trusted package."""
    return [name for name, named in specs_of(config) if not _is_of(named, TRUSTED)]


def specs_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a parsed config would be made of: each name, and the class or function that it stands for."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        name = value.get("class_path")
        if isinstance(name, str) and (named := _loaded(name)) is not None:
            yield name, named
        for item in value.values():
            yield from specs_of(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from specs_of(item)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}", value


def _loaded(name: str) -> Any:
    """Return what the parser imported under a name; None where it did not: it is text then."""
    module, found = name, None
    while found is None and "." in module:
        module = module.rpartition(".")[0]
        found = sys.modules.get(module)
    for attribute in name.removeprefix(f"{module}.").split("."):
        found = getattr(found, attribute, None)
    return found


def _is_of(named: Any, packages: Iterable[str]) -> bool:
    place = f"{getattr(named, '__module__', '')}."
    return any(place.startswith(f"{package}.") for package in packages)


def check_plain(content: Any) -> None:
    """Refuse plain values that no program of ours wrote: too many, too large, or such as change a terminal.

    Raises:
        ValueError: With their repetitions written out they would fill the memory, a list holds itself, a number has
            more than 64 bits, or a text holds control characters.
    """
    check_size(content, LARGEST, _check_one)


def check_size(content: Any, most: int, check: Callable[[Any], None] = lambda value: None) -> None:
    """Refuse values that would fill the memory with their repetitions written out.

    Args:
        content: The values.
        most: How many there may be.
        check: Looks at each that holds no others.

    Raises:
        ValueError: There are more, or one holds itself.
    """
    if _size(content, {}, check) > most:
        raise ValueError(f"it holds more than {most} values, or itself")


def _check_one(value: Any) -> None:
    if isinstance(value, str) and CONTROL.search(value):
        raise ValueError(f"it holds control characters, {value[:80]!r}")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError("it holds a number of more than 64 bits")


def _size(value: Any, known: dict[int, float], check: Callable[[Any], None]) -> float:
    """Return the number of values, each object being visited once."""
    if not isinstance(value, dict | list | tuple | set):
        check(value)
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # as long as it is being counted: for one that holds itself
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known, check) for item in items)
    return known[id(value)]
