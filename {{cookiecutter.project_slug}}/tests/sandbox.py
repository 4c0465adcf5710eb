"""A working folder for each test, and the command line run in it, in this process.

conftest.py, which draws the data, says what a small command is: the fixture ``small_command``.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from project_package.__main__ import main

torch.set_num_threads(1)  # for networks as small as these, threads cost more than they bring


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder for a while; the environment is as before then."""
    before = dict(os.environ)
    with contextlib.chdir(folder):
        yield
    os.environ.clear()  # Lightning keeps the seed there
    os.environ.update(before)


def exit_code(args: list[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        return main(args)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path) -> Iterator[None]:
    """Let each test work in a folder of its own, and end what it left of ranks."""
    with working_in(tmp_path):
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def run(small_command: Callable[..., int]) -> Callable[..., int]:
    """Run a command as its user would, on the drawn data, small and without workers; returns the exit code."""
    return small_command


@pytest.fixture(scope="session")
def finished_runs(small_command: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with one that has finished; do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    with working_in(folder):
        assert small_command("fit") == 0
    return folder / "runs"


@pytest.fixture
def trained(finished_runs: Path, own_folder: None) -> Path:
    """The folder of a finished ``run("fit")``: a copy, in the test's own working folder."""
    shutil.copytree(finished_runs, "runs")
    return Path("runs/small/version_0")
