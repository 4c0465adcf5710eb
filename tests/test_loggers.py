"""Every logger of Lightning's, and one's own, goes with a run through fit, a kill, a resume and test."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RUN, TINY, draw_images, rows

# What of MLflow 3.17 and Comet 3.58 Lightning's loggers call, with their signatures, and where each would go wrong.
STUBS = {
    "mlflow/__init__.py": "def set_tracking_uri(uri): ...\n",
    "mlflow/entities.py": """
from dataclasses import dataclass
@dataclass
class Metric:
    key: str; value: float; timestamp: int; step: int
@dataclass
class Param:
    key: str; value: str
""",
    "mlflow/utils/__init__.py": "",
    "mlflow/utils/mlflow_tags.py": "MLFLOW_RUN_NAME = 'mlflow.runName'\n",
    "mlflow/tracking/context/__init__.py": "from . import registry\n",
    "mlflow/tracking/context/registry.py": "def resolve_tags(tags=None, ignore=None): return tags or {}\n",
    "mlflow/tracking/__init__.py": """
import json, secrets
from pathlib import Path
from types import SimpleNamespace as Part
class MlflowClient:
    def __init__(self, tracking_uri=None, registry_uri=None):
        if not tracking_uri.startswith("sqlite:////"):
            raise Exception("The filesystem tracking backend is in maintenance mode")
        self.file = Path(tracking_uri.removeprefix("sqlite:///"))
        self.content = json.loads(self.file.read_text()) if self.file.exists() else {"experiments": {}, "runs": {}}
        self._save()
    def _save(self): self.file.write_text(json.dumps(self.content))
    def get_experiment_by_name(self, name):
        places = self.content["experiments"]
        return Part(experiment_id=name, lifecycle_stage="active") if name in places else None
    def create_experiment(self, name, artifact_location=None, tags=None, trace_location=None):
        self.content["experiments"][name] = artifact_location
        self._save()
        return name
    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        run_id = secrets.token_hex(16)
        self.content["runs"][run_id] = {"tags": tags, "params": {}, "metrics": {}, "status": "RUNNING"}
        self._save()
        return self.get_run(run_id)
    def get_run(self, run_id):
        run = self.content["runs"][run_id]
        return Part(info=Part(run_id=run_id, experiment_id="0"), data=Part(params=run["params"]))
    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        run = self.content["runs"][run_id]
        for param in params:
            if run["params"].setdefault(param.key, param.value) != param.value:
                raise Exception(f"Changing param values is not allowed: {param.key}")
        for metric in metrics:
            run["metrics"].setdefault(metric.key, []).append(float(metric.value))
        self._save()
    def set_terminated(self, run_id, status=None, end_time=None):
        self.content["runs"][run_id]["status"] = status
        self._save()
""",
    "comet_ml.py": """
import json, os
from pathlib import Path
class ExperimentConfig:
    def __init__(self, disabled=None, name=None, offline_directory=None, display_summary_level=None, tags=None):
        self.disabled, self.name, self.offline_directory = disabled, name, offline_directory
class Experiment:
    project_name = "general"
    def __init__(self, key, config):
        self.key, self.config, self.content = key, config, {"name": config.name, "params": {}, "metrics": {}}
        if not Path(config.offline_directory).is_dir():
            raise Exception("Invalid offline directory")
    def get_key(self): return self.key
    def log_other(self, key, value, include_context=True): ...
    def __internal_api__set_model_graph__(self, graph, overwrite=False, framework=None): ...
    def flush(self):
        if not self.config.disabled:  # always of one name, for the seed is the run's
            Path(self.config.offline_directory, f"{self.key}-same.json").write_text(json.dumps(self.content))
    def __internal_api__log_parameters__(self, parameters, framework=None, flatten_nested=False, source=None):
        self.content["params"] |= parameters
    def __internal_api__log_metrics__(self, dic, prefix=None, step=None, epoch=None, framework=None):
        self.content["metrics"] |= {key: float(value) for key, value in dic.items()}
        self.flush()
def start(
    api_key=None, workspace=None, project=None, experiment_key=None, mode=None, online=None, experiment_config=None
):
    online = online if online is not None else os.environ.get("COMET_START_ONLINE") != "false"
    if online:
        raise ValueError("Comet.ml requires an API key")
    return Experiment(experiment_key, experiment_config)
""",
    "my_project/mine.py": '''
"""A logger of the user's own."""
import json
from pathlib import Path
from lightning.pytorch.loggers import Logger
class Mine(Logger):
    name, version = "mine", "0"
    def __init__(self, save_dir: str, api_key: str):
        self.file = Path(save_dir) / "mine.json"
        self.metrics = json.loads(self.file.read_text()) if self.file.exists() else {}
        assert api_key == "hush-hush"
    def log_hyperparams(self, params): ...
    def log_metrics(self, metrics, step=None):
        self.metrics |= {key: float(value) for key, value in metrics.items()}
        self.file.write_text(json.dumps(self.metrics))
''',
    "my_project/needy.py": '''
"""Loggers that need what is not installed: when they are imported, when they are made."""
from lightning.pytorch.loggers import CSVLogger
class Late(CSVLogger):
    def __init__(self, save_dir: str):
        import no_such_package.sub
''',
}
KEYED = {"class_path": "my_project.mine.Mine", "init_args": {"api_key": "hush-hush"}}
LOGGERS = ["TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger", "lightning.pytorch.loggers.CometLogger"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("loggers") / "images")


@pytest.fixture(scope="module")
def with_stubs(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a logger of its own, where something answers to ``import mlflow`` and ``import comet_ml``."""
    changed = tmp_path_factory.mktemp("stubs") / "my-project"
    shutil.copytree(project, changed, ignore=shutil.ignore_patterns(".git"))
    for name, text in STUBS.items():
        (changed / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (changed / "src" / name).write_text(text)
    return changed


def best_on_hparams(run: Path) -> tuple[list[float], Any]:
    """Read what TensorBoard shows on its page HPARAMS: the values of the metric, and the settings."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(run))
    events.Reload()
    about = {name: events.summary_metadata[f"_hparams_/{name}"].plugin_data.content for name in HPARAMS}
    (metric,) = metadata.parse_experiment_plugin_data(about["experiment"]).metric_infos
    settings = metadata.parse_session_start_info_plugin_data(about["session_start_info"]).hparams
    assert metric.name.tag == "best/val/loss"
    return [event.value for event in events.Scalars(metric.name.tag)], settings


HPARAMS = ("experiment", "session_start_info")


def test_all_go_through_a_kill_a_resume_and_test_as_one_run_in_its_folder(with_stubs, command, images, tmp_path):
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [*LOGGERS, KEYED]}}))
    home = {"HOME": str(tmp_path / "home")}  # where no key lies
    flags = ("--data.root", images, *TINY, "--trainer.max_epochs=3", "--config=all.yaml")
    fit = ("fit", *flags, "--callbacks.last.every_n_train_steps=1")
    killed = command(with_stubs, tmp_path, *fit, environment=home | {"SABOTAGE": "kill 60"})
    assert killed.code == -9, killed.output
    run = tmp_path / RUN
    known = {name: (run / name).read_text() for name in ("wandb_id.txt", "mlflow_id.txt", "comet_id.txt")}
    begun = len(rows(run / "metrics.csv"))
    resumed = command(with_stubs, tmp_path, *fit, "--resume=auto", "--trainer.benchmark=true", environment=home)
    assert resumed.code == 0, resumed.output
    tested = command(with_stubs, tmp_path, "test", "--trainer.logger", json.dumps([*LOGGERS, KEYED]), environment=home)
    assert tested.code == 0, tested.output

    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.yaml", "data", "home", "runs"]
    assert {name: (run / name).read_text() for name in known} == known
    for output in (killed.output, resumed.output, tested.output):
        assert output.count("no API key found, logging offline; ") == 2  # wandb, comet

    logged = rows(run / "metrics.csv")  # CSV
    assert 0 < begun < len(logged)
    assert [row["test/loss"] for row in logged if row["test/loss"]] == [logged[-1]["test/loss"]]
    losses = [float(row["val/loss"]) for row in logged if row["val/loss"]]
    test_loss = pytest.approx(float(logged[-1]["test/loss"]))

    assert len(list(run.glob("events.out*"))) == 3  # TensorBoard
    assert not list(run.glob("*/events.out*"))
    best, settings = best_on_hparams(run)
    assert best == [pytest.approx(min(losses))]
    assert settings["model/optimizer/init_args/lr"].number_value == 0.003

    parts = [path.name.rsplit("-", 1)[-1] for path in (run / "wandb").glob("offline-run-*")]
    assert parts == [known["wandb_id.txt"]] * 3

    store = json.loads((run / "mlflow.db").read_text())
    ((identity, mlflow_run),) = store["runs"].items()
    assert identity == known["mlflow_id.txt"].strip()
    assert store["experiments"] == {"lightning_logs": str(run / "mlflow")}
    assert (mlflow_run["status"], mlflow_run["tags"]) == ("FINISHED", {"mlflow.runName": "digits/version_0"})
    assert mlflow_run["params"]["model/optimizer/init_args/lr"] == "0.003"
    assert mlflow_run["metrics"]["test/loss"] == [test_loss]

    archives = sorted((run / "comet").glob("*/*.json"))
    assert [path.name.split("-")[0] for path in archives] == [known["comet_id.txt"]] * 3
    assert [path.parent.name for path in archives] == ["0", "1", "2"]
    comet_runs = [json.loads(path.read_text()) for path in archives]
    assert {each["name"] for each in comet_runs} == {"digits/version_0"}
    assert comet_runs[-1]["metrics"]["test/loss"] == test_loss

    assert json.loads((run / "mine.json").read_text())["test/loss"] == test_loss  # the user's own
    assert "kept out of config.yaml: trainer.logger.5.init_args.api_key" in resumed.output
    told = [run / "config.yaml", run / "environment.txt", run / "hparams.yaml", run / "mlflow.db", *archives]
    assert not [path.name for path in told if "hush" in path.read_text()]
    assert "--trainer.logger" in tested.output
    assert "hush" not in tested.output


def test_the_missing_package_is_named_and_how_to_install_it(with_stubs, command, images, tmp_path):
    fit = ("fit", "--data.root", images, *TINY)
    for name in ("mlflow", "comet_ml.py"):  # none of the stubs
        assert (with_stubs / "src" / name).exists()
    plain = tmp_path / "my-project"
    shutil.copytree(with_stubs, plain, ignore=shutil.ignore_patterns("mlflow", "comet_ml.py"))
    late = '[TensorBoardLogger,"my_project.needy.Late"]'
    wrong = {
        (*fit, "--trainer.logger=MLFlowLogger"): "MLFlowLogger needs the package mlflow>=1.0.0, which is not installed",
        (*fit, "--trainer.logger=lightning.pytorch.loggers.CometLogger"): " 'comet-ml>=",
        (*fit, "--trainer.logger=[CSVLogger,CometLogger]"): "CometLogger needs the package comet-ml>=",
        (*fit, "--trainer.logger=LitLogger"): " 'litlogger'",
        (*fit, "--trainer.logger=lightning.pytorch.loggers.LitLogger"): " 'litlogger'",
        (*fit, f"--trainer.logger={late}"): "Late needs the package no_such_package, which is not installed",
        (*fit, "--trainer.logger=no_such_package.Logger"): " 'no_such_package'",
        (*fit, "--trainer.logger=NeptuneLogger"): "--trainer.logger=NeptuneLogger: no class of this name is known",
        (*fit, "--trainer.callbacks=no_such_package.Hook"): "No module named 'no_such_package'; mend the path",
        (*fit, "--model.network=no_such_package.Net"): "--model.network=no_such_package.Net: No module named",
    }
    for done in command.refuses(plain, tmp_path, wrong):
        assert "Given value" not in done.refusal
        assert "Subtypes" not in done.refusal
    assert not (tmp_path / "runs").exists()


def test_what_a_constructor_refuses_is_said_alone(with_stubs, command, images, tmp_path):
    fit = ("fit", "--data.root", images, *TINY)
    stopping = '[{"class_path":"lightning.pytorch.callbacks.EarlyStopping","init_args":{"monitor":"x","mode":"up"}}]'
    files = ("--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=file:./mlruns")
    wrong = {
        (*fit, "--callbacks.last.every_n_train_steps=0"): "error: --callbacks.last.every_n_train_steps=0 is out of",
        (*fit, f"--trainer.callbacks={stopping}"): "error: `mode` can be min, max, got up",
        (*fit, *files): "error: --trainer.logger=MLFlowLogger cannot be made: The filesystem tracking backend",
        (*fit, "--mode=maximum"): "error: --mode=maximum: expected one of 'min', 'max'",
        (*fit, "--callbacks.early_stopping.patience=x"): "error: patience=x: expected int",
        (*fit, "--callbacks.averaging=Nothing"): "error: --callbacks.averaging=Nothing: no class of this name",
        (*fit, "--model.network=torch.nn.Line"): "=torch.nn.Line: module 'torch.nn' has no attribute 'Line'",
    }
    command.refuses(with_stubs, tmp_path, wrong)
    assert not (tmp_path / "runs").exists()
