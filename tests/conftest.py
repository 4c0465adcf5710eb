"""What the tests share: projects baked with given answers, and commands run in them as a user types them.

Importing lightning costs ten seconds a process. Commands therefore run in children forked from one server process that
has imported the heavy packages, but nothing of a project; each has its own working folder, arguments and output.
"""

import csv
import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from cookiecutter.main import cookiecutter
from PIL import Image

TEMPLATE = Path(__file__).parent.parent
SOURCE = TEMPLATE / "{{cookiecutter.project_slug}}"
HEAVY = ["lightning.pytorch.cli", "lightning.pytorch.loggers", "torchvision", "torchmetrics", "albumentations", "cv2"]
HEAVY += ["matplotlib.figure", "optuna", "optuna.storages._rdb.storage"]
SEVERAL = Path(__file__).with_name("several.py")
HUNG = 1800  # seconds after which a command is taken for hung, however busy the machine is
RUN = Path("runs/digits/version_0")
TINY = (
    *("--model.network.width=8", "--data.batch_size=16", "--data.num_workers=0", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
)


DEPRECATIONS = runpy.run_path(str(SOURCE / "tests/deprecations.py"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    warnings.showwarning = DEPRECATIONS["raising"]([Path(__file__).parent])
    return (yield)


def pytest_configure() -> None:
    # The runs are tiny and two go on at a time: more threads wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The files that take longest: each is run by one process, and those that begin first leave none for the end.
LONGEST = "journeys project update faults loggers flags tune report recipes crossval watching edits export".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


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


def pages(folder: Path) -> list[Path]:
    """Return what is there to read in a project or in the template: the READMEs and ``docs/``."""
    return [*sorted(folder.glob("*.md")), *sorted(folder.glob("docs/*.md"))]


def dead_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file beside it."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not (page.parent / unquote(link)).exists()]


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def draw_images(root: Path) -> Path:
    """Draw 3 × 20 images in colour: red, green and blue noise."""
    for index, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng([index, number]).integers(0, 90, (12, 14, 3), dtype=np.uint8)
            pixels[..., index] += 150
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


def draw_table(file: Path, rows: int = 600) -> None:
    """Draw what the pages of a table's project name: a price, an age, and columns of text."""
    file.parent.mkdir(exist_ok=True)
    drawn = (f"{9.5 * (n % 7) + n / 8},{20 + n % 31},{'ab'[n % 2]},{1000 + n % 9},text {n}" for n in range(rows))
    file.write_text("\n".join(["price,age,kind,postcode,notes", *drawn]) + "\n")


@dataclass
class Result:
    """How a command ended."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error:")]

    @property
    def refusal(self) -> str:
        """The one line in which the user was refused."""
        assert self.code == 2, self.output
        assert len(self.errors) == 1
        assert "Traceback" not in self.output
        return self.errors[0]


def _raise_what_is_deprecated(*folders: Path) -> None:
    """As a project's tests do in deprecations.py; a command in a process of its own knows no filter of pytest's."""
    for category in DEPRECATIONS["CATEGORIES"]:
        warnings.simplefilter("always", category)
    warnings.filterwarnings("always", "(?is).*deprecat")
    warnings.showwarning = DEPRECATIONS["raising"](folders)


def _child(project: str, folder: str, args: list[str], log: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    multiprocessing.set_start_method("fork", force=True)  # for the workers of a loader, as on any Linux
    tempfile.tempdir = None  # the server remembers the folder of its own TMPDIR
    if "RANK" in environment:
        from lightning.fabric.utilities.rank_zero import rank_zero_only

        setattr(rank_zero_only, "rank", int(environment["RANK"]))  # noqa: B010  (imported before there were ranks)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if "OF_BEFORE" not in environment:  # what a release uses may be deprecated by now
        _raise_what_is_deprecated(Path(project) / "src")
    os.chdir(folder)
    package = next(path.parent.name for path in Path(project).glob("src/*/__main__.py"))
    sys.path.insert(0, str(Path(project) / "src"))
    module, args = (args[1], args[2:]) if args[0] == "-m" else (package, args)
    sys.argv = [module, *args]
    if args[:1] == ["fit"] and "WITH_REPORT" not in os.environ:
        sys.modules["matplotlib"] = None  # pyright: ignore  (as without the extra: a page after every fit takes time)
    if "SABOTAGE" in os.environ:
        from faults import sabotage

        sabotage(os.environ["SABOTAGE"])
    try:
        runpy.run_path(module, run_name="__main__") if module.endswith(".py") else runpy.run_module(
            module, run_name="__main__", alter_sys=True
        )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _torchruns_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what torchrun would set for a rank, so that ranks need no process of torchrun's own."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return shared | own | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Command:
    """Runs ``python -m PACKAGE ARGS`` (or ``-m MODULE``, or ``-m FILE.py``) of a project in a folder."""

    def __init__(self) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(HEAVY)
        self.number = 0

    def __call__(
        self,
        project: Path,
        folder: Path,
        *args: object,
        ranks: int = 1,
        timeout: float = HUNG,
        environment: dict[str, str] | None = None,
    ) -> Result:
        """Run it to its end; with several ranks, as torchrun would start them."""
        started = self.start(project, folder, *args, ranks=ranks, environment=environment)
        deadline = time.monotonic() + timeout
        while any(process.is_alive() for process, _ in started) and time.monotonic() < deadline:
            started[0][0].join(0.05)
            if any(process.exitcode for process, _ in started):  # torchrun, too, ends the others then
                deadline = min(deadline, time.monotonic() + 30)
        return self.end(started)

    def each(self, project: Path, folder: Path, lines: Iterable[Sequence[object]]) -> list[Result]:
        """Run commands one after the other in one process, where none changes what the next one meets."""
        commands = [[str(arg) for arg in line] for line in lines]
        (folder / ".commands.json").write_text(json.dumps(commands))
        done = self(project, folder, "-m", SEVERAL, folder / ".commands.json")
        (folder / ".commands.json").unlink()
        *parts, _ = re.split(r"^ENDED (\d+)\n", done.output, flags=re.MULTILINE)
        assert (done.code, len(parts)) == (0, 2 * len(commands)), done.output[-3000:]
        return [Result(int(code), output) for output, code in zip(parts[::2], parts[1::2], strict=True)]

    def refuses(self, project: Path, folder: Path, wrong: Mapping[tuple[object, ...], str]) -> list[Result]:
        """Run commands, and expect each to be refused in a line that holds its words; returns how they ended."""
        results = self.each(project, folder, wrong)
        for (line, words), done in zip(wrong.items(), results, strict=True):
            assert words in done.refusal, line
        return results

    def start(
        self, project: Path, folder: Path, *args: object, ranks: int = 1, environment: dict[str, str] | None = None
    ) -> list[tuple[Any, Path]]:
        """Start it; returns the processes and where their output goes."""
        port, started = free_port(), []
        for rank in range(ranks):
            self.number += 1
            log = folder / f".output-{self.number}"
            own = _torchruns_environment(rank, ranks, port) if ranks > 1 else {}
            given = (str(project), str(folder), [*map(str, args)], str(log), own | (environment or {}))
            process = self.context.Process(target=_child, args=given)
            process.start()
            started.append((process, log))
        return started

    def end(self, started: list[tuple[Any, Path]]) -> Result:
        """End what still runs, as ``kill -9`` does; returns how the first failed process ended."""
        output, codes = "", []
        for process, _ in started:
            if process.is_alive():
                process.kill()
            process.join()
            codes.append(process.exitcode)
        for _, log in started:
            output += log.read_text(errors="replace") if log.exists() else ""
            log.unlink(missing_ok=True)
        return Result(next((code for code in codes if code), 0), output)


def hosts(command: Command, project: Path, folders: Sequence[Path], *args: object, timeout: float) -> list[Result]:
    """Run a command on hosts of one rank each, as torchrun would, each in a folder of its own."""
    port, started = free_port(), []
    for rank, folder in enumerate(folders):
        node = {"GROUP_RANK": str(rank), "GROUP_WORLD_SIZE": str(len(folders)), "LOCAL_RANK": "0"}
        environment = _torchruns_environment(rank, len(folders), port) | node | {"LOCAL_WORLD_SIZE": "1"}
        started.append(command.start(project, folder, *args, environment=environment))
    deadline = time.monotonic() + timeout
    for [(process, _)] in started:
        process.join(max(0, deadline - time.monotonic()))
    return [command.end(each) for each in started]


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a command of a project."""
    return Command()


@pytest.fixture(scope="session")
def fitted(project, command, tmp_path_factory) -> tuple[Path, str]:
    """A folder with images and a run on them that was followed by its report, and what fit said; do not change it."""
    folder = tmp_path_factory.mktemp("fitted")
    images = draw_images(folder / "images")
    done = command(project, folder, "fit", "--data.root", images, *TINY, environment={"WITH_REPORT": "yes"})
    assert done.code == 0, done.output
    return folder, done.output


OTHER_TASKS = ("multilabel", "regression")


def draw_targets(folder: Path) -> Path:
    """Draw 60 images, and beside them TASK.json: manifests with several labels, and with large numbers, learned by log.

    Which of the three colours are bright is what the labels say; the numbers follow from it, and from the grey of the
    picture. In TASK_weighted.json every third sample has twice the weight.
    """
    rng = np.random.default_rng(0)
    samples: dict[str, list[list[Any]]] = {task: [] for task in OTHER_TASKS}
    for number in range(60):
        has_C, key = rng.integers(0, 2, 3), f"{'ab'[number % 2]}/{number:02d}.png"
        pixels = (rng.integers(0, 90, (12, 14, 3)) + 150 * has_C).astype(np.uint8)
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / key)
        weight = 1.0 + (number % 3 == 0)
        samples["multilabel"].append([key, [("red", "green", "blue")[i] for i in np.flatnonzero(has_C)], weight])
        price = 1e5 * 4.0 ** has_C[0] * (1 + pixels.mean() / 255)
        samples["regression"].append([key, [float(price), float(1.5 + has_C[1])], weight])
    targets = {
        "multilabel": {"kind": "labels", "names": ["red", "green", "blue"]},
        "regression": {"kind": "numbers", "names": ["price", "size"], "log": True},
    }
    for task, rows_of_task in samples.items():
        parts = {"train": rows_of_task[:36], "val": rows_of_task[36:50], "test": rows_of_task[50:]}
        about = {"version": 2, "seed": 0, "fold": None, "schema": {"inputs": {}, "target": targets[task]}}
        (folder / f"{task}_weighted.json").write_text(json.dumps({**about, "splits": parts}))
        plain = {split: [sample[:2] for sample in of_split] for split, of_split in parts.items()}
        (folder / f"{task}.json").write_text(json.dumps({**about, "splits": plain}))
    return folder


def of_task(images: Path, task: str) -> tuple[str, ...]:
    """Return the flags that train on what ``draw_targets`` drew, for a task, or TASK_weighted."""
    return (f"--data.root={images}", f"--data.manifest={images / task}.json", *TINY)


@pytest.fixture(scope="session")
def targets(tmp_path_factory) -> Path:
    """Images with several labels and with numbers; do not change them."""
    return draw_targets(tmp_path_factory.mktemp("targets") / "images")
