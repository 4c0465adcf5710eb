"""completion: what a shell completes commands, flags and their values by.

It prints a script for bash, zsh, fish or tcsh, which a shell loads by itself from where its own completions lie:

    my-project completion bash > ~/.local/share/bash-completion/completions/my-project

Nothing of the project is imported when a key is pressed. Run it again after a change of a signature.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from . import PACKAGE
from .commands import Commands
from .config_schema import Makes, names_in, settings_of
from .configs import packaged
from .installing import of_extra
from .internals import option_strings
from .mistakes import Mistake
from .parser import Options

SHELLS = ("bash", "zsh", "fish", "tcsh")
COMMANDS = {
    "fit": "train",
    "validate": "score the best checkpoint on the validation split",
    "test": "score it on the test split",
    "predict": "write what is predicted of new data",
}
# Of these the arguments of all classes are flags; of others, such as the Trainer's callbacks, there are hundreds.
WITH_ARGUMENTS = ("--model.", "--callbacks.", "--trainer.logger")
CONFIGS = {  # the names of presets and recipes, and files
    "bash": 'configs_of_PROGRAM() { compgen -W "NAMES" -- "$1"; compgen -f -- "$1"; }',
    "zsh": "configs_of_PROGRAM() { compadd NAMES; _files }",
}


def main(cli: type[Commands], tools: Mapping[str, str], load: Callable[[str], Any], args: list[str]) -> None:
    """Run the command.

    Args:
        cli: The project's command line.
        tools: What each tool does, by its name.
        load: Imports a tool.
        args: What was typed.
    """
    parser = Options("completion", __doc__)
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")
    shell = parser.parse_args(args).shell
    if importlib.util.find_spec("shtab") is None:
        raise Mistake(f"completion needs the package shtab, so nothing was printed: {of_extra('completion')}")
    import shtab  # pyright: ignore[reportMissingImports]  (the extra `completion`)

    if shell not in shtab.SUPPORTED_SHELLS:
        raise Mistake(f"completion {shell} needs a later shtab, so nothing was printed: {of_extra('completion')}")
    program = _program()
    preamble = CONFIGS.get(shell, "").replace("PROGRAM", PACKAGE).replace("NAMES", " ".join(packaged()))
    with contextlib.redirect_stdout(io.StringIO()):  # of tools that are asked for their flags
        made = everything(cli, tools, load, program)
    script = shtab.complete(made, shell, preamble=preamble)
    print(
        script.replace("complete -o bashdefault -F", "complete -o bashdefault -o default -F")
    )  # files, where nothing else


def everything(
    cli: type[Commands], tools: Mapping[str, str], load: Callable[[str], Any], program: str
) -> argparse.ArgumentParser:
    """Return a parser that has all commands and flags, and reads nothing."""
    makes = Makes()
    flags = {command: dict(flags_of(settings_of(cli, command, makes), makes)) for command in COMMANDS}
    parser = argparse.ArgumentParser(program)
    commands: Any = parser.add_subparsers()
    for command, about in COMMANDS.items():
        _add(commands.add_parser(command, help=about), flags[command], makes)
    for name, about in tools.items():
        own, takes_others = own_flags(load, name)
        parents = [] if own is None else [own]
        command = commands.add_parser(
            name, help=about, parents=parents, add_help=own is None, conflict_handler="resolve"
        )
        if takes_others:
            known = set() if own is None else set(option_strings(own))
            _add(command, {flag: made for flag, made in flags["fit"].items() if flag not in known}, makes)
    commands.add_parser("schema", help="what an editor completes and checks configs by").add_argument("file", nargs="?")
    commands.add_parser("completion", help="what a shell completes by").add_argument("shell", choices=SHELLS)
    return parser


def flags_of(settings: dict[str, Any], makes: Makes, prefix: str = "--") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the flags of settings, each with the schema of its values; those of the classes that may be named too."""
    for name, made in settings.items():
        flag = f"{prefix}{name}"
        if "properties" in made:
            yield from flags_of(made["properties"], makes, f"{flag}.")
            continue
        yield flag, made
        if flag.startswith(WITH_ARGUMENTS):
            for arguments in makes.arguments_in(made):
                yield from ((f"{flag}.{argument}", of_it) for argument, of_it in arguments.items())


def values_of(made: dict[str, Any], makes: Makes) -> list[str]:
    """Return the values that a flag may have, where they can be told."""
    if "$ref" in made:
        return values_of(makes.definition(made), makes)
    found = [value for part in (*made.get("anyOf", []), *made.get("allOf", [])) for value in values_of(part, makes)]
    found += [str(value) for value in made.get("enum", [])]
    kinds = names_in(made.get("type", []))
    found += ["true", "false"] if "boolean" in kinds else []
    return list(dict.fromkeys([*found, *(["null"] if "null" in kinds and found else [])]))


def own_flags(load: Callable[[str], Any], name: str) -> tuple[argparse.ArgumentParser | None, bool]:
    """Return the parser of a tool's own flags, where it has one, and whether it takes those of Lightning, too."""

    asked: list[tuple[argparse.ArgumentParser, bool]] = []

    class Asked(Exception):
        pass

    def whole(parser: Options, *_: Any) -> None:
        asked.append((parser, False))
        raise Asked

    def known(parser: Options, *_: Any) -> None:
        asked.append((parser, True))
        raise Asked

    with (
        mock.patch.object(Options, "parse_args", whole),
        mock.patch.object(Options, "parse_known_args", known),
        contextlib.suppress(Asked, ImportError, Mistake, SystemExit),
    ):
        load(name).main(["--help"])
    return asked[0] if asked else (None, True)


def _add(parser: argparse.ArgumentParser, flags: dict[str, dict[str, Any]], makes: Makes) -> None:
    """Give a command its flags, each with its values; where a text may be a path, with the files that are there."""
    import shtab  # pyright: ignore[reportMissingImports]  (the extra `completion`)

    parser.add_argument("--print_config", action="store_true", help="prints the whole config, and ends")
    config: Any = parser.add_argument("--config", help="lays a preset, a recipe or a file over the defaults")
    config.complete = {**shtab.FILE, **dict.fromkeys(CONFIGS, f"configs_of_{PACKAGE}")}
    for flag, made in flags.items():
        values = values_of(made, makes)
        about = made.get("description", "").replace("%", "%%")
        action: Any = parser.add_argument(flag, help=about or None, choices=values or None)
        if not values and takes_text(made):
            action.complete = shtab.FILE


def takes_text(made: dict[str, Any]) -> bool:
    """Tell whether a value may be any text."""
    return "string" in names_in(made.get("type", [])) or any(map(takes_text, made.get("anyOf", [])))


def _program() -> str:
    """Return the name under which the project's command is installed."""
    entries = importlib.metadata.entry_points(group="console_scripts")
    return next((e.name for e in entries if e.value == f"{PACKAGE}.__main__:main"), PACKAGE.replace("_", "-"))
