"""Nobody let in: what a run's folder or a checkpoint names is imported only from packages that are trusted.

Threat: somebody hands over the folder of a run, with a config, a checkpoint, a manifest of their own making. They may
write anything into these; they cannot write into the project, its environment or the flags that are typed. No command
on such a folder may run, import or fetch what its files name.

- The parser itself asks before each import, of the name that is given and of the place where what it finds is defined
  (subprocess, of a Popen that a trusted module happens to import), so no spelling of a name gets around it.
- Nothing is made of a class spec where a parameter takes anything; texts are never read as files or addresses.
- A spec names a class; a function only where it is the owner's: those of libraries may load what their arguments say.
- An evaluation takes no callback, profiler or address of a logger from a run's config, unless it is the owner's.
- What is typed is the user's word: the packages that a flag or a ``--config FILE`` names are trusted for that command.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from . import PACKAGE
from .internals import denied_by_default, parsing_settings_restored
from .mistakes import CONTROL, Mistake

# What a run's config or a checkpoint may name; `trusted` in cli.py adds to it.
LIBRARIES = {"lightning.fabric", "lightning.pytorch", "torch.nn", "torch.optim", "torchvision.models"}
TRUSTED = {PACKAGE, *LIBRARIES}
admitted: ContextVar[frozenset[str]] = ContextVar("admitted", default=frozenset())  # the packages of ``open_to``
IMPORT_PATH = re.compile(r"([A-Za-z_]\w*\.)+[A-Za-z_]\w*")
# Settings whose values may look like one and are not, as weights.pth.
TEXTS = {"weights", "filename", "dirpath", "default_root_dir", "save_dir", "name", "project", "monitor"}
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
    before = admitted.set(frozenset(packages or ()))
    with parsing_settings_restored():
        set_parsing_settings(
            instantiate_subclass_spec_in_any=False,
            config_read_mode_fsspec_enabled=False,  # Lightning turns it on
            config_read_mode_urls_enabled=False,
        )
        if packages is not None:
            set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=sorted(packages))
        try:
            yield
        finally:
            admitted.reset(before)


def names_in(settings: dict[str, Any]) -> set[str]:
    """Return what a user's own settings name where a class or a function may stand, at any depth."""
    expected = (
        value
        for key, value in settings.items()
        if key.startswith(("model", "trainer", "callbacks")) and key.rpartition(".")[2] not in TEXTS
    )
    return {text for value in expected for text in _texts(value) if IMPORT_PATH.fullmatch(text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in TEXTS:
                yield from _texts(item)


def package_of(name: str) -> str:
    """Return what has to be trusted for a name: a package, and of the large libraries a module."""
    package = name.partition(".")[0]
    return name.rpartition(".")[0] if package in ("torch", "torchvision", "lightning") else package


def trusted_with(names: Iterable[str]) -> set[str]:
    """Return the trusted packages, and those of the names that a user typed."""
    return TRUSTED | {package for package in map(package_of, names) if not denied_by_default(package.partition(".")[0])}


def refused(name: str, source: str) -> Mistake:
    """Word that a package is not trusted."""
    package = package_of(name)
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
    """Refuse a parsed config that would make something by a function or a method of others.

    Args:
        config: As parsed; ``open_to`` must still be in force.
        source: Where it comes from.

    Raises:
        Mistake: It would.
    """
    owners = admitted.get() - LIBRARIES
    for name, named in specs_of(config):
        is_function = not inspect.ismethod(named) and _is_of(named, owners)
        if not isinstance(named, type) and not is_function:
            raise Mistake(
                f"{source} names {name!r}, which is no class, so loading it could run anything; give a class there."
            )


def is_yours(name: str) -> bool:
    """Tell whether a class is of the project's owner, and not of a library or of the project's machinery."""
    machinery = {f"{PACKAGE}.engine", f"{PACKAGE}.tools"}
    place = f"{name}."
    return not any(place.startswith(f"{package}.") for package in LIBRARIES | machinery)


def is_remote(options: Any) -> bool:
    """Tell whether the options of a logger name an address."""
    return any(re.search(r"^(?!sqlite|file)[a-z][\w+.-]*://", text.strip(), re.I) for text in _texts(options))


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
