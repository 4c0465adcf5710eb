"""What earlier versions called settings and classes: their runs, the configs and the commands made then are understood.

Whoever renames one adds a row, and no reader of configs, flags or checkpoints needs to know.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

from . import PACKAGE
from .together import is_rank_zero

# A setting by its dotted name as a config has it, or a class by its place in this package, which begins with a dot; and
# what it is called now: None for a setting that is no longer said.
RENAMED: dict[str, str | None] = {
    "model.class_names": None,  # model.schema has them, which follows the data
    "model.in_channels": None,
    "callbacks.pictures.init_args.images": None,
    "callbacks.projector.init_args.images": "callbacks.projector.init_args.samples",
    ".callbacks.BestCheckpoint": ".engine.keepers.BestCheckpoint",
    ".callbacks.CheckMetric": ".engine.keepers.CheckMetric",
    ".callbacks.EarlyStopping": ".engine.keepers.EarlyStopping",
    ".callbacks.LastCheckpoint": ".engine.keepers.LastCheckpoint",
    ".callbacks.ProgressBar": ".engine.keepers.ProgressBar",
    ".callbacks.SWA": ".engine.keepers.SWA",
    ".networks.Backbone": ".engine.backbone.Backbone",
    ".watching.Pictures": ".engine.watching.Pictures",
    ".watching.Projector": ".engine.watching.Projector",
}


def config_of_today(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config under the names of today; what is in it may be changed."""
    content = _classes_of_today(content, _classes())
    for old, new in RENAMED.items():
        if not old.startswith("."):
            _rename(content, old, new)
    return content


def command_of_today(args: Sequence[str]) -> list[str]:
    """Return the flags of a command under the names of today; those that are no longer said are left to the parser."""
    settings = {_as_flag(old): _as_flag(new) for old, new in RENAMED.items() if new and not old.startswith(".")}
    classes = _classes()
    found = []
    for arg in args:
        for old, new in settings.items():
            flag, sign, value = arg.partition("=")
            if f"{_as_flag(flag[2:])}.".startswith((f"{old}.", f"{old}+")):
                arg = new + _as_flag(flag[2:]).removeprefix(old) + sign + value
        for old, new in classes.items():
            arg = re.sub(rf"(?<![\w.]){re.escape(old)}(?![\w.])", new, arg)
        found.append(arg)
    return found


def say_new_names(given: Sequence[str], used: Sequence[str]) -> None:
    """Say of each argument that was understood under another name what it is called now."""
    for old, new in zip(given, used, strict=True):
        if old != new and is_rank_zero():
            print(f"note: {old} is {new} by now; the old name is understood")


def _as_flag(key: str) -> str:
    return "--" + key.replace(".init_args", "")


def _classes() -> dict[str, str]:
    """Return the classes that have moved, unless the owner has made one in the old place."""
    moved = {f"{PACKAGE}{old}": f"{PACKAGE}{new}" for old, new in RENAMED.items() if old.startswith(".")}
    return {old: new for old, new in moved.items() if not _is_defined(old)}


def _is_defined(path: str) -> bool:
    """Tell whether a class is made in a module, and not only imported there; the owner's modules are, by then."""
    module, _, name = path.rpartition(".")
    return getattr(getattr(sys.modules.get(module), name, None), "__module__", None) == module


def _classes_of_today(value: Any, classes: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _classes_of_today(item, classes) for key, item in value.items()}
    if isinstance(value, list):
        return [_classes_of_today(item, classes) for item in value]
    return classes.get(value, value) if isinstance(value, str) else value


def _rename(content: dict[str, Any], old: str, new: str | None) -> None:
    *above, last = old.split(".")
    part: Any = content
    for key in above:
        part = part.get(key) if isinstance(part, dict) else None
    if not isinstance(part, dict) or last not in part:
        return
    value = part.pop(last)
    if new is not None:
        *above, last = new.split(".")
        for key in above:
            content = content.setdefault(key, {})
        content.setdefault(last, value)
