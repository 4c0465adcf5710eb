"""A run that is kept in a store goes on on any machine as if it had not been broken off; the store is memory here."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from project_package.engine import remote, runs
from project_package.engine.installing import of_extra

ROOT = "memory://bucket/runs"
RUN = "/bucket/runs/small/version_0"
COPY = Path("runs/memory/bucket/runs/small/version_0")
FLAGS = ("--model.network.dropout=0.3", "--trainer.max_epochs=3", "--callbacks.last.every_n_train_steps=4")
FLAGS += ("--trainer.logger=[]", f"--run_root={ROOT}")


class Dead(BaseException):
    """The process was killed."""


class Link(MemoryFileSystem):
    """A store whose link may fail."""

    fails: Callable[[str, str], None]
    calls: list[tuple[str, str]]

    def _asked(self, what: str, path: Any) -> None:
        Link.calls.append((what, str(path)))
        Link.fails(what, str(path))

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            self._asked("put", rpath)
        except BaseException:
            super().pipe_file(rpath, Path(lpath).read_bytes()[:100])  # the half of it
            raise
        return super().put_file(lpath, rpath, *args, **kwargs)

    def get_file(self, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked("get", rpath)
        return super().get_file(rpath, *args, **kwargs)

    def pipe_file(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked("pipe", path)
        return super().pipe_file(path, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked("mv", path2)
        return super().mv(path1, path2, *args, **kwargs)

    def rm_file(self, path: Any) -> Any:
        self._asked("rm", path)
        return super().rm_file(path)

    def find(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked("find", path)
        return super().find(path, *args, **kwargs)


@pytest.fixture(autouse=True)
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Link]]:
    """An empty store, and pauses that take no time."""
    fsspec.register_implementation("memory", Link, clobber=True)
    Link.store.clear()
    Link.pseudo_dirs[:] = [""]
    Link.calls, Link.fails = [], staticmethod(lambda what, path: None)
    monkeypatch.setitem(remote.PROTOCOLS, "memory", "")
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(remote, "BEAT", 1000.0)
    monkeypatch.setattr(remote, "WATCH", 0.01)
    yield Link
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
    remote.STORES.clear()


@contextlib.contextmanager
def machine(name: str) -> Iterator[None]:
    """Work in a folder of its own, as on another machine."""
    Path(name).mkdir(exist_ok=True)
    with contextlib.chdir(name):
        yield


def dies(at: int, what: tuple[str, ...] = ("put", "mv", "pipe", "rm"), ending: str = "") -> Callable[[str, str], None]:
    """Return what kills the process at its n-th change of the store: from then on nothing arrives there."""
    left = [at]

    def fails(asked: str, path: str) -> None:
        counts = asked in what and path.endswith(ending)
        if left[0] <= 0 or (counts and left[0] == 1):
            left[0] = 0
            raise Dead
        left[0] -= counts

    return fails


def result() -> tuple[dict, bytes]:
    """Return the last weights and the metrics that the store holds of the newest run."""
    files = fsspec.filesystem("memory", skip_instance_cache=True)
    run = max(files.ls(RUN.rpartition("/")[0], detail=False))
    files.get_file(f"{run}/checkpoints/last.ckpt", "last.ckpt")
    return torch.load("last.ckpt", weights_only=True)["state_dict"], files.cat_file(f"{run}/metrics.csv")


@pytest.fixture(scope="module")
def whole(small_command: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, bytes]:
    """What a run that nothing broke off ends in."""
    with contextlib.chdir(tmp_path_factory.mktemp("whole")):
        assert small_command("fit", *FLAGS[:-1]) == 0
        folder = Path("runs/small/version_0")
        content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        return content, (folder / "metrics.csv").read_bytes()


def assert_equal(one: tuple[dict, bytes], other: tuple[dict, bytes]) -> None:
    assert one[1] == other[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_what_a_run_leaves_is_in_the_store(run, whole):
    assert run("fit", *FLAGS) == 0
    assert_equal(result(), whole)
    kept = {path.removeprefix(f"{RUN}/") for path in Link.store}
    assert {"config.yaml", "manifest.json", "environment.txt", "timing.csv", "checkpoints/best.ckpt"} <= kept
    assert not {name for name in kept if "unfinished" in name or name.startswith(".")}
    here = {path.relative_to(COPY).as_posix() for path in COPY.rglob("*") if path.is_file()}
    assert kept == {name for name in here if not name.startswith(".")}


# Of the changes of the store: in the first files, inside the first checkpoint, later ones, in the end.
@pytest.mark.parametrize("at", [9, 16, 21, 30])
def test_a_run_whose_machine_vanished_goes_on_on_another(at, run, whole, link):
    with machine("first"):
        link.fails = staticmethod(dies(at))
        with contextlib.suppress(Dead):
            run("fit", *FLAGS)
    link.fails = staticmethod(lambda what, path: None)
    with machine("second"):
        assert run("fit", *FLAGS, "--resume=auto") == 0
    assert_equal(result(), whole)


def broken(what: str, ending: str, times: float) -> Any:
    """Return what fails so many times, for files whose name ends so."""
    left = [times]

    def fails(asked: str, path: str) -> None:
        if asked == what and path.endswith(ending) and left[0] > 0:
            left[0] -= 1
            raise OSError("connection reset by peer")

    return staticmethod(fails)


def test_averaged_weights_are_kept_in_the_store_too(run, link):
    assert run("fit", *FLAGS, "--callbacks.averaging=EMAWeightAveraging") == 0
    assert any(path.endswith("checkpoints/last.ckpt") for path in link.store)


def test_a_blip_is_not_noticed(run, whole, link, capsys):
    link.fails = broken("put", ".unfinished", 3)
    assert run("fit", *FLAGS) == 0
    assert "cannot be reached" not in capsys.readouterr().out
    assert_equal(result(), whole)


def test_training_goes_on_without_the_store_for_a_while(run, whole, link, capsys):
    link.fails = broken("mv", "last.ckpt", 9)
    assert run("fit", *FLAGS) == 0
    out = capsys.readouterr().out
    assert "connection reset by peer" in out
    assert "the next save tries again" in out
    assert "is reached again" in out
    assert_equal(result(), whole)


def test_a_store_that_stays_away_fails_the_run_and_its_files_go_on_from_the_copy(run, whole, link, capsys):
    link.fails = broken("mv", "last.ckpt", 10**9)
    assert run("fit", *FLAGS) == 1
    assert str(COPY) in capsys.readouterr().err
    assert f"{RUN}/unfinished.lock" in link.store
    assert f"{RUN}/checkpoints/last.ckpt" not in link.store
    link.fails = broken("mv", "last.ckpt", 0)
    assert run("fit", *FLAGS, "--resume=auto") == 0
    assert f"{RUN}/unfinished.lock" not in link.store
    assert f"{RUN}/failure.txt" not in link.store
    assert_equal(result(), whole)


def test_a_store_that_stays_away_for_long_stops_the_training(run, link, monkeypatch, capsys):
    monkeypatch.setattr(remote, "PATIENCE", -1.0)
    link.fails = broken("mv", "last.ckpt", 10**9)
    assert run("fit", *FLAGS) == 1
    captured = capsys.readouterr()
    assert str(COPY) in captured.err
    assert "epoch 1" not in captured.out


def test_two_machines_never_take_one_number(run, link):
    for name in ("first", "second"):
        with machine(name):
            runs.new_run(ROOT, "small")
    with machine("third"):  # which looked before the second took its number
        other = remote.Store(ROOT)
        other.runs = lambda name: [Path("version_0")]
        assert other.claim("small", 0) == 2
    assert {path.split("/")[4] for path in link.store} == {"version_0", "version_1", "version_2"}


def test_a_process_stops_when_another_machine_takes_its_run_over(run, whole, link, capsys):
    def taken(what: str, path: str) -> None:
        if what == "put" and "last.ckpt" in path and len(link.store) > 5:
            link.fails = staticmethod(lambda what, path: None)
            with machine("second"):
                remote.STORES.clear()
                remote.store(ROOT).runs("small")
                remote.copy_of(COPY).claim("another")

    with machine("first"):
        link.fails = staticmethod(taken)
        assert run("fit", *FLAGS) == 1
        assert "taken over by a process on" in capsys.readouterr().err
    remote.STORES.clear()
    with machine("second"):
        assert run("fit", *FLAGS, "--resume=auto") == 0
    assert_equal(result(), whole)


def test_other_commands_fetch_what_they_read_and_put_what_they_write(run, link, shapes, capsys):
    of_run = ("--run_root", ROOT)
    with machine("first"):
        assert run("fit", *FLAGS) == 0
    link.calls.clear()
    with machine("second"):
        assert run("validate", *of_run) == 0
        assert not (COPY / "checkpoints/last.ckpt").exists()
        assert run("test", *of_run, "--ckpt_path=last") == 0
        assert run("predict", *of_run, f"--data.predict_root={shapes}") == 0
    put = {
        path.rpartition("/")[2].split(".")[1 if "unfinished" in path else 0]
        for what, path in link.calls
        if what == "put"
    }
    assert put == {"metrics", "test_predictions", "test_calibration", "confusion_matrix", "predictions"}
    assert {f"{RUN}/predictions.csv", f"{RUN}/test_predictions.csv"} <= link.store.keys()
    for name in ("validate", "fit"):
        assert run(name, f"--ckpt_path={ROOT}/small/version_0/checkpoints/last.ckpt") == 2
        assert "--run_root and --name" in capsys.readouterr().err


def test_a_run_without_the_checkpoint_asked_for_is_not_passed_over_for_an_older_one(run, link, capsys):
    assert run("fit", *FLAGS) == 0
    assert run("fit", *FLAGS, "--callbacks.best=null") == 0
    with machine("second"):
        assert run("test", "--run_root", ROOT) == 2
        assert "has no best checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../../../evil.txt", "checkpoints/../../x", "a\\b", "checkpoints/\x1b[31m.ckpt"])
def test_a_name_that_leads_elsewhere_is_refused(name, run, link, capsys):
    folder = remote.store(ROOT).files
    for file, content in {"config.yaml": b"a: 1", "unfinished.lock": b"", name: b"evil"}.items():
        with folder.open(f"{RUN}/x", "wb") as written:
            written.write(content)
        link.store[f"{RUN}/{file}"] = link.store.pop(f"{RUN}/x")
    assert run("fit", "--run_root", ROOT, "--resume=auto") == 2
    assert "no file that a run writes" in capsys.readouterr().err
    assert {path.name for path in Path().rglob("*.txt")} == set()


def test_links_and_pipes_of_a_folder_are_refused(tmp_path, run, capsys):
    root = tmp_path / "store"
    (root / "small/version_0/checkpoints").mkdir(parents=True)
    (root / "small/version_0/config.yaml").symlink_to("/etc/hostname")
    (root / "small/version_0/unfinished.lock").touch()
    assert run("fit", f"--run_root=file://{root}", "--resume=auto") == 2
    assert "'config.yaml'" in capsys.readouterr().err
    (root / "small/version_0/config.yaml").unlink()
    os.mkfifo(root / "small/version_0/config.yaml")
    assert run("fit", f"--run_root=file://{root}", "--resume=auto") == 2


@pytest.mark.parametrize(
    ("root", "said"),
    {
        "ftp://host/runs": "s3://BUCKET/FOLDER",
        "s3:/bucket": "s3://BUCKET/FOLDER",
        "s3://key:secret@bucket/runs": "holds a key",
        "gs://bucket/runs?token=secret": "holds a key",
        "s3://": "names no folder",
        "file://host/../runs": "names no folder",
        "memory://bucket/../runs": "names no folder",
    }.items(),
)
def test_a_root_that_cannot_be_used_is_one_line(root, said, run, capsys):
    for command in ("fit", "test"):
        assert run(command, f"--run_root={root}") == 2
        error = capsys.readouterr().err
        assert said in error
        assert "secret" not in error
        assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_package_that_is_not_installed_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(remote.PROTOCOLS, "gs", "no_such_package")
    assert run("fit", "--run_root=gs://bucket/runs") == 2
    assert of_extra("gs") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError("403"), 2, "does not admit you"),
        (FileNotFoundError("no such bucket"), 2, "make the bucket"),
        (ConnectionError("no route to host"), 1, "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_before_training(error, code, said, run, link, capsys, monkeypatch):
    def fails(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Link, "open", fails)
    monkeypatch.setattr(Link, "find", fails)
    assert run("fit", *FLAGS) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "epoch 0" not in captured.out
    assert not COPY.exists()


def test_checkpoints_elsewhere_are_refused(run, capsys):
    assert run("fit", *FLAGS, "--callbacks.last.dirpath=/tmp/elsewhere") == 2
    assert "leave --callbacks.best.dirpath" in capsys.readouterr().err
    assert not link_has_runs()


def link_has_runs() -> bool:
    return any("version_" in path for path in Link.store)


def test_a_refused_run_leaves_nothing_in_the_store(run):
    assert run("fit", *FLAGS, "--monitor=val/nonsense") == 2
    assert not link_has_runs()
    assert not COPY.exists()


def test_a_run_that_another_machine_works_on_is_left_alone(run, link, monkeypatch, capsys):
    with machine("first"):
        with contextlib.suppress(Dead):
            link.fails = staticmethod(dies(2, ("mv",), "last.ckpt"))
            run("fit", *FLAGS)
        link.fails = staticmethod(lambda what, path: None)
        remote.store(ROOT).runs("small")
        monkeypatch.setattr(remote, "BEAT", 0.01)
        monkeypatch.setattr(remote, "WATCH", 10.0)
        copy = remote.copy_of(COPY)
        copy.claim("first")
    remote.STORES.clear()
    with machine("second"):
        assert run("fit", *FLAGS, "--resume=auto") == 0
    copy.let_go.set()
    out = capsys.readouterr().out
    assert "waiting whether" in out
    assert "no unfinished run" in out
    assert Path("second", COPY.with_name("version_1")).is_dir()


def test_a_test_of_a_run_that_has_not_ended_leaves_its_metrics_alone(run, link):
    with machine("first"), contextlib.suppress(Dead):
        link.fails = staticmethod(dies(2, ("mv",), "last.ckpt"))
        run("fit", *FLAGS)
    link.fails = staticmethod(lambda what, path: None)
    before = bytes(link.store[f"{RUN}/metrics.csv"].getbuffer())
    with machine("second"):
        assert run("test", "--run_root", ROOT, "--ckpt_path=last") == 0
    assert bytes(link.store[f"{RUN}/metrics.csv"].getbuffer()) == before
    assert f"{RUN}/test_predictions.csv" in link.store
