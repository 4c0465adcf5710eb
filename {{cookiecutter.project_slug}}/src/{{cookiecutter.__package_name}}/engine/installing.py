"""The command that installs what is missing: as it can be pasted here, and for the environment that runs this."""

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
import tomllib
from contextlib import suppress
from pathlib import Path

from . import PACKAGE

HERE = Path(__file__).absolute()
IN_CONTAINER = ("/.dockerenv", "/run/.containerenv")


def of_extra(extra: str) -> str:
    """Return the command that installs an extra of the project's."""
    if source() and is_synced():  # --inexact, for a plain one would remove what else was added
        return f"{_uv() or 'uv'} sync --inexact{_elsewhere()} --extra {extra}"
    if is_fixed():
        return f"RUN uv pip install {_quoted(f'.[{extra}]')} in launch/Dockerfile, and build the image again"
    if source() is None:
        return f"{_installer()} {_quoted(f'{_distribution()}[{extra}]')}"
    known = _project() / "constraints.txt"  # the versions that make install takes
    kept = f" -c {shlex.quote(_shortest(known))}" if known.is_file() else ""
    return f"{_installer()}{kept} -e {_quoted(f'{_shortest(_project())}[{extra}]')}"


def of_package(package: str) -> str:
    """Return the command that installs a package, with or without bounds of its version."""
    if source() and is_synced():  # into pyproject.toml, for the next sync would remove it
        return f"{_uv() or 'uv'} add{_elsewhere()} {_quoted(package)}"
    if is_fixed():
        return f"RUN uv pip install {_quoted(package)} in launch/Dockerfile, and build the image again"
    return f"{_installer()} {_quoted(package)}"


def source() -> Path | None:
    """Return the project's folder, where it is installed from there, so that an edit of it counts."""
    with suppress(OSError, ValueError):
        text = (_project() / "pyproject.toml").read_text(encoding="utf-8")
        if HERE.parents[2].name == "src" and "project" in tomllib.loads(text):
            return _project()
    return None


def is_synced() -> bool:
    """Tell whether ``uv sync`` keeps this environment: it removes whatever the project does not name."""
    own = Path(os.environ.get("UV_PROJECT_ENVIRONMENT") or ".venv")
    return (_project() / "uv.lock").is_file() and (_project() / own).resolve() == Path(sys.prefix).resolve()


def _project() -> Path:
    """Return the project's folder; of a wheel some folder of Python's."""
    return HERE.parents[3]


def is_fixed() -> bool:
    """Tell whether this is the environment of an image, which is changed by building another."""
    kept = any(Path(mark).exists() for mark in IN_CONTAINER) or "KUBERNETES_SERVICE_HOST" in os.environ
    return kept and not ((_uv() or _has_pip()) and os.access(sys.prefix, os.W_OK))


def _installer() -> str:
    """Return what installs into this environment, up to the names of the packages."""
    python, uv = shlex.quote(_shortest(Path(sys.executable))), _uv()
    of_system = sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file()
    allowed = " --break-system-packages" if of_system else ""  # as whoever installed the project had to say
    if uv:
        return f"{uv} pip install --python {python}{allowed}"
    if _has_pip():
        return f"{python} -m pip install{allowed}"
    return f"{python} -m ensurepip && {python} -m pip install"  # an environment of uv's has none


def _uv() -> str:
    """Return how uv is called here, by its name or where make install has put it; nothing where there is none."""
    own = Path(sys.prefix, "bin", "uv")
    if shutil.which("uv"):
        return "uv"
    return shlex.quote(_shortest(own)) if own.is_file() else ""


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _elsewhere() -> str:
    """Return the flag that names the project to uv, where the working folder is another."""
    shown = _shortest(_project())
    return "" if shown == "." else f" --project {shlex.quote(shown)}"


def _distribution() -> str:
    """Return the name under which the project is installed."""
    names = importlib.metadata.packages_distributions().get(PACKAGE) or [PACKAGE.replace("_", "-")]
    return names[0]


def _shortest(path: Path) -> str:
    """Return a path from the working folder on where it lies below, and whole elsewhere."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _quoted(text: str) -> str:
    """Return a text in quotes of a shell, which brackets and signs of comparison need."""
    return f"'{text}'" if shlex.quote(text) == text else shlex.quote(text)
