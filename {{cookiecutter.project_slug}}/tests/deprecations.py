"""What is deprecated, and used by your code or the engine's, fails the test that runs into it.

What libraries use of one another does not: their next release mends it. A filter of pytest's cannot tell the two apart,
for it knows nothing but the line that a warning is laid to, which is often the library's own; so the stack is asked. To
let something pass, add it to ``filterwarnings`` in pyproject.toml, with ``ignore``.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

CATEGORIES = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
DEPRECATED = re.compile("deprecat", re.IGNORECASE)  # torch says much of it in a UserWarning
FAMILY = {"lightning_utilities": "lightning", "lightning_fabric": "lightning", "pytorch_lightning": "lightning"}
BETWEEN = ("torch.nn.modules.module", "torch.utils._contextlib")  # forward and @torch.no_grad() of others
SPEC = find_spec("project_package")
PACKAGE = getattr(SPEC, "submodule_search_locations", [])
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "all"  # else only the first of a kind, which may be Lightning's


def raising(folders: Iterable[Path]) -> Callable[..., None]:
    """Return a ``warnings.showwarning`` that raises what code below the folders uses, though it is deprecated."""
    ours, shown = tuple(f"{folder.resolve()}{os.sep}" for folder in folders), warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if not issubclass(category, CATEGORIES) and not DEPRECATED.search(str(message)):
            shown(message, category, *where, **options)
        elif user(sys._getframe(1), ours).f_code.co_filename.startswith(ours):
            raise message if isinstance(message, Warning) else category(message)

    return show


def user(frame: FrameType, ours: tuple[str, ...]) -> FrameType:
    """Return the frame that used what a warning is about: the first beyond the library that warns."""
    library, is_configured = "", False
    while frame.f_back and family(module(frame)) in ("warnings", "_py_warnings", "typing_extensions"):
        marked = frame.f_locals.get("arg")  # what @deprecated stands over
        library = library or family(getattr(marked, "__module__", ""))
        frame = frame.f_back
    if frame.f_code.co_filename.startswith(ours):
        return frame
    if not library and not any("warn" in name for name in frame.f_code.co_names):
        return frame  # what it calls warns from C
    if module(frame).startswith("_pytest."):
        return frame  # pytest.warns says again what it was not asked for
    library = library or family(module(frame))
    while frame.f_back:
        if family(module(frame)) == "jsonargparse" != library:
            is_configured = True  # it makes what a config names, for Lightning's command line
        elif module(frame) == "lightning.pytorch.cli" and is_configured:
            pass
        elif family(module(frame)) not in (library, *sys.stdlib_module_names) and module(frame) not in BETWEEN:
            break
        frame = frame.f_back
    return frame


def module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")


def family(name: str) -> str:
    return FAMILY.get(name.partition(".")[0], name.partition(".")[0])


def watch() -> None:
    warnings.showwarning = raising([Path(__file__).parent, *map(Path, PACKAGE)])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    watch()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    watch()
    return (yield)


watch()  # what conftest.py imports; pytest ends it each time
