"""What the tests share: projects baked with given answers, and commands run in them as a user types them.

Importing lightning costs ten seconds a process. Commands therefore run in children forked from one server process that
has imported the heavy packages, but nothing of a project; each has its own working folder, arguments and output.
"""

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parent.parent
SOURCE = TEMPLATE / "{{cookiecutter.project_slug}}"
HEAVY = ["lightning.pytorch.cli", "lightning.pytorch.loggers", "torchvision", "torchmetrics", "albumentations", "cv2"]


def bake(folder: Path, **answers: str) -> Path:
    """Scaffold a project with the given answers, defaults otherwise; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(cookiecutter(str(TEMPLATE), no_input=True, extra_context=answers, output_dir=str(folder)))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project baked with the default answers; do not change it."""
    return bake(tmp_path_factory.mktemp("baked"))


@dataclass
class Result:
    """How a command ended."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error:")]


def _child(project: str, folder: str, args: list[str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    package = next(path.parent.name for path in Path(project).glob("src/*/__main__.py"))
    sys.path.insert(0, str(Path(project) / "src"))
    module, args = (args[1], args[2:]) if args[0] == "-m" else (package, args)
    sys.argv = [module, *args]
    try:
        runpy.run_path(module, run_name="__main__") if module.endswith(".py") else runpy.run_module(
            module, run_name="__main__", alter_sys=True
        )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def server() -> Callable[..., Result]:
    """Return what runs ``python -m PACKAGE ARGS`` (or ``-m MODULE``, or ``-m FILE.py``) of a project in a folder."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    number = 0

    def run(project: Path, folder: Path, *args: str, timeout: float = 300) -> Result:
        nonlocal number
        number += 1
        log = folder / f".output-{number}"
        process = context.Process(target=_child, args=(str(project), str(folder), [*map(str, args)], str(log)))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        output = log.read_text(errors="replace")
        log.unlink()
        assert process.exitcode is not None
        return Result(process.exitcode, output)

    return run


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """Run a command of a project: see ``server``."""
    return server()
