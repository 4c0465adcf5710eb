"""schema: what an editor completes and checks configs by.

It writes what the settings of a config are, as JSON Schema, and tells VS Code (with Red Hat's extension YAML) which
files are configs; other editors with a language server for YAML read it, too. Run it again after a change of a
signature.

It follows from the signatures, as --help does; fit does not read it. A config may say a part of the settings, so none
is required. What is surely wrong is refused: a name that nothing takes, a value of another type, an argument that the
class does not have. Of a class that is none of this project's or Lightning's nothing is known: its path is let through.
"""

import collections.abc
import functools
import inspect
import json
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from . import PACKAGE
from .commands import Commands
from .files import write
from .installing import source
from .internals import Argument, arguments_of
from .mistakes import Mistake
from .parser import Options

FILE = "configs.schema.json"
LIBRARIES = ("lightning.", "torch.optim.")  # whose classes are options; of others a path may be given
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
PATH = {"type": "string", "pattern": r"\w\.\w", "description": "The path of a class: package.module.Class"}


class _Made(Exception):
    """The parser is complete; nothing is parsed or run."""


def parser_of(cli: type[Commands], command: str, task: str) -> ArgumentParser:
    """Return the parser of a command for what is predicted, with this project's defaults."""
    kept = []

    class Only(cli):
        def add_arguments_to_parser(self, parser: Any) -> None:
            super().add_arguments_to_parser(parser)
            kept.append(parser)

        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise _Made

    try:
        Only([command, f"--data.task={task}", "--help"])
    except _Made:
        return kept[0]
    raise AssertionError("the command line was not parsed")


def config_schema(cli: type[Commands]) -> dict[str, Any]:
    """Return the schema of the configs of ``fit``: of each task its settings, together."""
    makes = Makes()
    settings = settings_of(cli, "fit", makes)
    settings["callbacks"]["type"] = ["object", "null"]
    settings["$schema"] = {"type": "string"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",  # the latest that editors of YAML know in full
        "title": f"Settings of {PACKAGE}",
        **_mapping(settings),
        "definitions": makes.definitions,
    }


def settings_of(cli: type[Commands], command: str, makes: "Makes") -> dict[str, Any]:
    """Return the schemas of a command's settings, those of a group below its name."""
    arguments = [argument for task in cli.tasks for argument in arguments_of(parser_of(cli, command, task))]
    makes.asked_for |= {kind for argument in arguments for kind in _classes_in(argument.hint)}
    settings: dict[str, Any] = {}
    for argument in arguments:
        _place(settings, argument.name.split("."), makes.setting(argument))
    return settings


def write_schema(cli: type[Commands]) -> str:
    """Return the schema as text."""
    return json.dumps(config_schema(cli), ensure_ascii=False) + "\n"


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _place(settings: dict[str, Any], keys: list[str], found: dict[str, Any]) -> None:
    """Put a setting where its dotted name says; where another task has it otherwise, either holds."""
    *parts, name = keys
    for part in parts:
        settings = settings.setdefault(part, _mapping({}))["properties"]
    before = settings.setdefault(name, found)
    known = before.get("anyOf", [before])
    if found not in known and found != before:
        settings[name] = {"description": before["description"], "anyOf": [*known, found]}


class Makes:
    """Makes the schema of each type; that of a group of classes stands once, under ``definitions``."""

    def __init__(self) -> None:
        self.asked_for: set[type] = set()  # the classes that settings ask for
        self.definitions: dict[str, Any] = {}
        self.names: dict[tuple[Any, ...], str] = {}

    def setting(self, argument: Argument) -> dict[str, Any]:
        """Return the schema of a setting, with what --help says of it."""
        made = self.type_of(argument.hint)
        # No `default`: an editor would write out every one of a group.
        about = {"description": f"{argument.about} (default: {_as_default(argument.default)})".strip()}
        return {**made, **about} if "$ref" not in made else {"allOf": [made], **about}  # beside $ref nothing counts

    def type_of(self, hint: Any) -> dict[str, Any]:
        """Return the schema of a type; an empty one where nothing is known of it."""
        hint = type(None) if hint is None else hint
        origin, args = get_origin(hint), get_args(hint)
        if hint in PLAIN:
            return {"type": PLAIN[hint]}
        if origin is Literal:
            return {"enum": list(args)}
        if origin in (Union, types.UnionType):
            classes = [arg for arg in args if isinstance(arg, type) and offered(arg)]
            others = [arg for arg in args if arg not in classes]
            return _any_of([*([self.classes(classes)] if classes else []), *map(self.type_of, others)])
        if (origin or hint) in LISTS:
            items = _any_of([self.type_of(arg) for arg in args if arg is not ...]) if args else {}
            size = {"minItems": len(args), "maxItems": len(args)} if origin is tuple and ... not in args else {}
            return {"type": "array", **({"items": items} if items else {}), **size}
        if (origin or hint) in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
            return {"type": "object"}
        if origin is collections.abc.Callable and args:  # the first arguments are those that it is called with
            called, made = args
            number = len(called) if isinstance(called, list) else 0
            return self.classes([made], number) if isinstance(made, type) and offered(made) else {}
        return self.classes([hint]) if isinstance(hint, type) and offered(hint) else {}

    def classes(self, bases: list[type], skipped: int | None = None) -> dict[str, Any]:
        """Return the schema of what makes an object of one of some classes.

        Args:
            bases: The classes, of which any subclass may be named.
            skipped: Of what is called later: how many of the first arguments it is called with.
        """
        group = (*bases, skipped)
        if group not in self.names:
            name = "-or-".join(base.__name__ for base in bases)
            self.names[group] = name = f"{name}-{len(self.names)}"
            kinds = dict.fromkeys(kind for base in bases for kind in offered(base))
            # What makes a network makes no loss, though a loss is a module, too.
            others = (
                *(kind for kind in self.asked_for if kind not in bases and issubclass(kind, bases[0])),
                LightningModule,
            )
            if skipped is not None:
                kinds = [kind for kind in kinds if _takes(kind, skipped) and not issubclass(kind, others)]
            self.definitions[name] = {}  # a class may take one of its own kind
            self.definitions[name] = self._of_classes([*kinds], skipped or 0)
        return {"$ref": f"#/definitions/{self.names[group]}"}

    def definition(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return what a $ref stands for."""
        return self.definitions[made["$ref"].rpartition("/")[2]]

    def arguments_in(self, made: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the arguments of each class that a setting may name."""
        for part in (*made.get("anyOf", []), *made.get("allOf", [])):
            yield from self.arguments_in(part)
        if "$ref" in made:
            for rule in self.definition(made)["anyOf"][2]["allOf"][:-1]:
                yield rule["then"]["properties"]["init_args"].get("properties", {})

    def _of_classes(self, kinds: list[type], skipped: int) -> dict[str, Any]:
        short = {kind.__name__: kind for kind in sorted(kinds, key=_is_own)}  # one's own come last: they take a name
        named = {"anyOf": [{"enum": sorted(short)}, PATH]}
        rules, all_arguments = [], {}
        for kind in kinds:
            arguments = self._arguments(kind, skipped)
            all_arguments |= arguments.get("properties", {})
            spelled = sorted({*paths(kind), *([kind.__name__] if short[kind.__name__] is kind else [])})
            of_kind = {"properties": {"class_path": {"enum": spelled}}, "required": ["class_path"]}
            rules.append({"if": of_kind, "then": {"properties": {"init_args": arguments}}})
        # Without a class path they are of the class that a config below has named.
        parts = {"class_path": {}, "init_args": {}, "dict_kwargs": {}}
        loose = {key: {} for key in all_arguments}
        no_path = {"then": {"properties": {"init_args": _mapping(loose)}, "propertyNames": {"enum": [*parts, *loose]}}}
        rules.append({"if": {"not": {"required": ["class_path"]}}, **no_path})
        rules[-1]["else"] = {"propertyNames": {"enum": [*parts]}}
        properties = {"class_path": named, "init_args": {"type": "object"}, "dict_kwargs": {"type": "object"}}
        return {"anyOf": [*named["anyOf"], {"type": "object", "properties": properties, "allOf": rules}]}

    def _arguments(self, kind: type, skipped: int) -> dict[str, Any]:
        """Return the schema of what a class is made with."""
        parser, properties = ArgumentParser(exit_on_error=False), {}
        try:
            parser.add_class_arguments(kind, skip={skipped} if skipped else None, fail_untyped=False, sub_configs=False)
        except Exception:  # of a library's: whatever it is, nothing is known of the class then
            return {"type": "object"}
        for argument in arguments_of(parser):
            _place(properties, argument.name.split("."), self.setting(argument))
        return _mapping(properties)


@functools.cache
def offered(base: type) -> list[type]:
    """Return the classes that a config may name by their short name: this project's, and those of some libraries.

    Of the engine's those that the project's own modules import, and the one that is asked for.
    """
    found = [kind for kind in dict.fromkeys(_below(base)) if _is_option(kind, base)]
    return found if base.__module__ != "builtins" else []


def _below(base: type) -> Iterator[type]:
    yield base
    for kind in type.__subclasses__(base):
        yield from _below(kind)


def _is_option(kind: type, base: type) -> bool:
    module = f"{kind.__module__}."
    if inspect.isabstract(kind) or kind.__name__.startswith("_") or "<locals>" in kind.__qualname__:
        return False
    if module.startswith(f"{PACKAGE}.engine."):
        stands_for = any(other.__name__ == kind.__name__ for other in kind.__mro__[1:])  # one of Lightning's
        return kind is base or stands_for or any(vars(own).get(kind.__name__) is kind for own in _own_modules())
    if module.startswith(f"{PACKAGE}.tools."):
        return False
    return module.startswith((f"{PACKAGE}.", *LIBRARIES)) and bool(paths(kind))


def _takes(kind: type, number: int) -> bool:
    """Tell whether a class has a number of arguments without a default, as what calls it gives them."""
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = inspect.signature(kind).parameters.values()
    return sum(each.kind in by_place and each.default is each.empty for each in takes) >= number


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for arg in get_args(hint):
        yield from _classes_in(arg)


@functools.cache
def _own_modules() -> Iterable[types.ModuleType]:
    beside = (f"{PACKAGE}.engine", f"{PACKAGE}.tools")
    return [
        module
        for name, module in [*sys.modules.items()]
        if name.startswith(f"{PACKAGE}.") and not name.startswith(beside)
    ]


def _is_own(kind: type) -> bool:
    return kind.__module__.startswith(f"{PACKAGE}.")


def paths(kind: type) -> list[str]:
    """Return the paths by which a class can be imported, the shortest first."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: number + 1]) for number in range(len(parts))]
    public = [module for module in modules if not any(part.startswith("_") for part in module.split("."))]
    return [f"{name}.{kind.__name__}" for name in public if vars(sys.modules[name]).get(kind.__name__) is kind]


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if {} in schemas:
        return {}
    plain = [name for made in schemas if made.keys() == {"type"} for name in names_in(made["type"])]
    others = [made for made in schemas if made.keys() != {"type"}]
    joined = [*others, *([{"type": plain[0] if len(plain) == 1 else list(dict.fromkeys(plain))}] if plain else [])]
    return joined[0] if len(joined) == 1 else {"anyOf": joined}


def _as_default(value: Any) -> str:
    """Return a default as it would be typed, of a class its name."""
    path = value.get("class_path") if hasattr(value, "get") else None
    return path.rpartition(".")[2] if path else value if isinstance(value, str) else json.dumps(value, default=str)


def names_in(kind: str | list[str]) -> list[str]:
    """Return the types that a schema names."""
    return kind if isinstance(kind, list) else [kind]


def main(cli: type[Commands], args: list[str]) -> None:
    """Run the command."""
    parser = Options("schema", __doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, help=f"where to write it; {FILE} in the project's folder unless given"
    )
    given = parser.parse_args(args).file
    folder = source() or Path.cwd()
    file = given or folder / FILE
    try:
        write(file, write_schema(cli))
        told = _told_to_vscode(folder) if given is None else ""
    except OSError as error:
        raise Mistake(
            f"{error.filename or file} cannot be written ({error.strerror}), so an editor would not know the settings; "
            "name a file elsewhere: schema FILE."
        ) from error
    print(f"{file}: the settings of configs")
    if told:
        print(told)
    print(f"elsewhere a config begins with the line: # yaml-language-server: $schema={file.absolute()}")


def _told_to_vscode(folder: Path) -> str:
    """Tell VS Code which files are configs, unless it has settings already; return what was done."""
    places = [f"src/{PACKAGE}/configs/**/*.yaml", "configs/**/*.yaml", "runs/**/config.yaml"]
    wanted = {"yaml.schemas": {f"./{FILE}": places}}
    file = folder / ".vscode" / "settings.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        write(file, json.dumps(wanted, indent=4) + "\n")
        return f"{file}: tells VS Code which files are configs"
    if FILE in file.read_text(encoding="utf-8", errors="replace"):
        return f"{file}: names it already"
    return f"{file} is yours; for VS Code add to it: {json.dumps(wanted)[1:-1]}"
