"""Config files: found by name, read as plain values of today's names, compared setting by setting."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .files import read_text
from .guard import check_plain
from .mistakes import Mistake, unknown
from .renames import config_of_today

LARGEST = 10**6  # bytes of a config; YAML reads some 150,000 of them in a second
CONFIGS = Path(__file__).parent.parent / "configs"
# Every config starts from these, each over the one before; `--config NAME` lays another over them.
DEFAULTS = [CONFIGS / "presets" / "standard.yaml", CONFIGS / "base.yaml", CONFIGS / "logger.yaml"]


def defaults_of(task: str) -> list[Path]:
    """Return what every config of a task starts from."""
    of_task = CONFIGS / "tasks" / f"{task}.yaml"
    return [*DEFAULTS, of_task] if of_task.is_file() else DEFAULTS


def packaged() -> dict[str, Path]:
    """Return the presets and recipes that ``--config NAME`` knows."""
    return {path.stem: path for folder in ("presets", "recipes") for path in sorted((CONFIGS / folder).glob("*.yaml"))}


def named_configs(args: list[str]) -> list[str]:
    """Replace the NAME of every ``--config NAME`` by its file.

    Raises:
        Mistake: There is neither such a file nor such a name.
    """
    joined = []
    for position, arg in enumerate(args):
        flag, sign, value = arg.partition("=")
        if flag in ("--config", "-c") and sign:
            joined.append(f"{flag}={_named(value)}")
        elif position and args[position - 1] in ("--config", "-c"):
            joined.append(str(_named(arg)))
        else:
            joined.append(arg)
    return joined


def below_flags(args: list[str]) -> list[str]:
    """Move the configs of a command line before its flags, which then come over them wherever they stand."""
    configs, others = [], []
    waiting = iter(args[1:])
    for arg in waiting:
        if arg in ("--config", "-c") and (value := next(waiting, None)) is not None:
            configs += [arg, value]
        else:
            (configs if arg.startswith(("--config=", "-c=")) else others).append(arg)
    return [args[0], *configs, *others]


def _named(name: str) -> Path:
    known = packaged()
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.is_file():
        return path
    raise Mistake(unknown("--config", name, [*known, "a file"]))


def typed_settings(args: list[str]) -> dict[str, Any]:
    """Return what a command line sets, by dotted names: its flags, and what the configs hold that it names."""
    found: dict[str, Any] = {}
    for position, arg in enumerate(args):
        flag, sign, value = arg.partition("=")
        if not flag.startswith("-"):
            continue
        if not sign:
            value = "".join(args[position + 1 : position + 2])
        if flag in ("--config", "-c") and value:  # else the parser says that it is missing
            found |= flat(read_config(Path(value)))
        elif flag.startswith("--"):
            with contextlib.suppress(yaml.YAMLError):
                found[flag.removeprefix("--")] = yaml.safe_load(value)
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file.

    Raises:
        Mistake: It cannot be read, is no mapping, or is larger than any config.
    """
    content, _ = _read(path)
    return content


def config_text(path: Path) -> str:
    """Read a config file for the parser: its text, or where it is of an earlier version that of today."""
    content, text = _read(path)
    return text if content == _parsed(text) else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = read_text(path, LARGEST)
        content = expanded(_parsed(text))  # a copy, which may be changed
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise Mistake(
            f"config {str(path)!r} cannot be read ({' '.join(str(error).split())}), so its settings are unknown; "
            "mend it."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Mistake(f"config {str(path)!r} is no mapping of flags to values, so it has no effect; mend it.")
    if content.pop("config", None):
        raise Mistake(f"config {str(path)!r} names another one, which is not read; give both: --config A --config B.")
    if content.get("callbacks") is None:  # sets nothing
        content.pop("callbacks", None)
    for part in ("model", "data", "trainer", "callbacks"):
        if part in content and not isinstance(content[part], dict):
            raise Mistake(
                f"config {str(path)!r} has {part!r} as {content[part]!r}, which is no mapping of settings; mend it."
            )
    return config_of_today(content), text


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """Return what a text of YAML holds: parsed once, for a command asks several times."""
    content = yaml.safe_load(text) or {}
    check_plain(content)
    return content


def expanded(value: Any) -> Any:
    """Return the values of a config with the ~ before a path written out, as a shell does."""
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def with_home(arg: str) -> str:
    """Return an argument with the ~ in --flag=~/path written out, which a shell leaves as it stands."""
    flag, sign, value = arg.partition("=")
    return f"{flag}={expanded(value)}" if sign and flag.startswith("-") else arg


def holds(path: Path, setting: str) -> bool:
    """Tell whether a config file sets something."""
    found = (as_typed(key) for key, _ in flat(read_config(path)))
    return any(key.endswith((f"-{setting}", f".{setting}")) for key in found)


def as_typed(key: str) -> str:
    """Return the flag of a setting: --model.optimizer.lr of model.optimizer.init_args.lr."""
    return "--" + key.replace(".init_args", "").removesuffix(".class_path")


def as_text(value: Any) -> str:
    """Return a setting's value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that differ between two configs: the dotted name, the value before and the one after."""
    old, new = dict(flat(before)), dict(flat(after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a config by their dotted names."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
