"""A logger is told what the run settles and no more than it takes; keys and passwords stay out of a run's files."""

import inspect
import os
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
import pytest
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from project_package.engine import loggers, runs
from project_package.engine.fallible import FALLIBLE
from project_package.engine.mistakes import Mistake
from project_package.engine.runs import Run

KINDS = [name for name in lightning_loggers.__all__ if name != "Logger"]


class Greedy(TensorBoardLogger):
    """Hands on whatever it is given."""

    def __init__(self, colour: str = "red", **options: Any) -> None:
        super().__init__(**options)


class Narrow(TensorBoardLogger):
    """Settles itself all but the folder."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="mine", version="")


class Foreign(Logger):  # pyright: ignore[reportImplicitAbstractClass]
    """Takes no folder, but whatever else."""

    def __init__(self, colour: str = "red", **options: Any) -> None:
        self.options = options


class Rooted(Logger):  # pyright: ignore[reportImplicitAbstractClass]
    """Calls its folder by another name."""

    def __init__(self, root_dir: str, name: str = "mine") -> None:
        self.folder = root_dir


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a user who has no keys."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "COMET_API_KEY", "COMET_START_ONLINE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Run(tmp_path)


def told(kind: type, run: Run, **given: Any) -> dict[str, Any]:
    """Return what a logger's constructor gets."""
    spec = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": given}
    first, *others = loggers.specs([spec], run, "small/version_0", step=3)
    made = FALLIBLE.get(kind, kind)
    assert first["class_path"] == f"{made.__module__}.{made.__qualname__}"
    assert [other["class_path"].rpartition(".")[2] for other in others] == ["MetricsFile"]
    return first["init_args"] | first["dict_kwargs"]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "CSVLogger"])
def test_each_logger_of_lightning_is_told_what_it_takes(name, run_here):
    kind = getattr(lightning_loggers, name)
    options = told(kind, run_here)
    inspect.signature(kind).bind(**options)
    if name != "CometLogger":  # which is told when its package is there
        assert [key for key, value in options.items() if str(run_here) in str(value)]


def test_metrics_csv_stands_for_lightnings_own_csv_logger(run_here):
    (made,) = loggers.specs([{"class_path": "lightning.pytorch.loggers.CSVLogger"}], run_here, "small/version_0")
    assert made["init_args"] == {"file": str(run_here.metrics)}


def test_ones_own_logger_is_told_what_it_takes(run_here):
    folder = str(run_here)
    greedy = {"name": "", "version": "", "default_hp_metric": False, "purge_step": 3}
    assert told(Greedy, run_here, colour="blue") == {"colour": "blue", "save_dir": folder, **greedy}
    assert told(Narrow, run_here) == {"save_dir": folder}
    assert told(Foreign, run_here, colour="blue") == {"colour": "blue"}
    assert told(Rooted, run_here) == {"root_dir": folder}


def test_mlflow_goes_on_where_it_was(run_here, monkeypatch):
    monkeypatch.setattr(loggers, "why_no_answer", lambda _: "")
    first = told(lightning_loggers.MLFlowLogger, run_here)
    assert first["tracking_uri"] == f"sqlite:///{run_here.folder}/mlflow.db"
    assert (first["run_id"], first["run_name"]) == (None, "small/version_0")
    run_here.mlflow_id.write_text("abc\n")
    server = told(lightning_loggers.MLFlowLogger, run_here, tracking_uri="http://server", run_name="mine")
    assert (server["run_id"], server["tracking_uri"]) == ("abc", "http://server")
    assert (server["run_name"], "artifact_location" in server) == ("mine", False)
    with pytest.raises(Mistake, match="MLFLOW_TRACKING_URI"):  # its own store never was
        told(lightning_loggers.MLFlowLogger, run_here)


def test_a_server_that_does_not_answer_is_left_out_or_written_to_later(run_here, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setattr(loggers, "why_no_answer", lambda address: f"{address} is silent")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_MODE", "online")
    told(lightning_loggers.WandbLogger, run_here, project="mine")
    assert os.environ["WANDB_MODE"] == "offline"
    server = {
        "class_path": "lightning.pytorch.loggers.MLFlowLogger",
        "init_args": {"tracking_uri": "http://me:x@server"},
    }
    (only,) = loggers.specs([server], run_here, "small/version_0")
    assert only["class_path"].endswith("MetricsFile")
    wandb, mlflow = capsys.readouterr().out.splitlines()
    assert wandb.startswith("wandb: api.wandb.ai does not answer (https://api.wandb.ai is silent), logging offline")
    assert mlflow.startswith("mlflow: server does not answer")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("fit --trainer.logger.api_key=abc --data.root x", "fit --trainer.logger.api_key=*** --data.root x"),
        ("fit --trainer.logger.api_key abc --name y", "fit --trainer.logger.api_key *** --name y"),
        ('fit --trainer.logger={"init_args": {"api_key": "abc", "b": 1}}', None),
        ("fit --trainer.logger {init_args: {password: abc, b: 1}}", None),
        (
            "fit --trainer.logger.tracking_uri=https://me:abc@host/x",
            "fit --trainer.logger.tracking_uri=https://***@host/x",
        ),
        ("fit --my.ACCESS_TOKEN abc", "fit --my.ACCESS_TOKEN ***"),
        ("fit --data.tokens 5 --monitor val/loss", "fit --data.tokens 5 --monitor val/loss"),
    ],
)
def test_a_key_that_is_typed_is_not_kept(typed, shown):
    assert runs.masked(typed) == (typed.replace("abc", "***") if shown is None else shown)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["--my.passphrase", "abc of abc words", "--name", "y"], "--my.passphrase *** --name y"),
        (["--my.passphrase=abc of abc words", "-x"], "--my.passphrase=*** -x"),
        (["--api-key", "abc", "--report=false"], "--api-key *** --report=false"),
        (["--api-key", "--report=false"], "--api-key --report=false"),
        (["--header", "Authorization: Bearer abc"], "--header Authorization: Bearer ***"),
        (["--header=Authorization: Basic abc"], "--header=Authorization: Basic ***"),
        (['{"password": "abc of abc", "b": 1}'], '{"password": "***", "b": 1}'),
        (["--url=postgresql://h/db?user=u&password=a,b}c&x=1"], "--url=postgresql://h/db?user=u&password=***&x=1"),
        (["--url=postgresql://me@host/db"], "--url=postgresql://me@host/db"),
    ],
)
def test_a_secret_is_masked_in_each_argument(args, shown):
    assert runs.masked_command(args) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("postgresql://h/db?user=u&password=p", "postgresql://h/db?sslpassword=p", "postgresql://h/db?p%61ssword=p"),
        *("host=h password=p", "Bearer abc", "Authorization: Basic abc", "redis://:p@host", "mysql://u:p@q@host/x"),
    ],
)
def test_a_text_with_a_secret_is_not_kept(text):
    assert runs.without_secrets({"a": [text]}) == ({"a": [None]}, ["a.0"])


@pytest.mark.parametrize(
    "text",
    [
        *("postgresql://USER@HOST/DB", "postgresql://USER@HOST:5432/DB", "https://host/x?user=u", "tokenizer=bert"),
        *("{epoch}-{val/loss:.3f}", "me@host", "compass: north", "val/loss", "git@host:me/x.git"),
    ],
)
def test_a_text_without_one_is_kept(text):
    assert runs.without_secrets({"a": [text]}) == ({"a": [text]}, [])


def test_a_key_in_a_config_is_not_kept_and_is_named():
    address = "https://me:abc@host/x"
    one = {"class_path": "a.B", "init_args": {"api_key": "abc", "experiment_key": "kept", "tracking_uri": address}}
    config = {"trainer": {"logger": [one, True], "max_epochs": 2}, "data": {"root": "https://host/x", "secret": 3}}
    kept, hidden = runs.without_secrets(config)
    assert kept["trainer"]["logger"][0]["init_args"] == {
        "api_key": None,
        "experiment_key": "kept",
        "tracking_uri": None,
    }
    assert (kept["data"], kept["trainer"]["max_epochs"]) == (config["data"], 2)
    assert hidden == ["trainer.logger.0.init_args.api_key", "trainer.logger.0.init_args.tracking_uri"]


def test_mlflow_itself_gets_one_run_from_fit_and_test(run):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    assert run("fit", "--trainer.logger=MLFlowLogger") == 0
    assert run("test") == 0
    client = MlflowClient(f"sqlite:///{Path('runs/small/version_0/mlflow.db').absolute()}")
    (found,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert found.info.status == "FINISHED"
    assert {"val/loss", "test/loss"} <= found.data.metrics.keys()
    assert "model/optimizer/init_args/lr" in found.data.params
