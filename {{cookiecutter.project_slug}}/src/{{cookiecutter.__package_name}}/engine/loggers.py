"""Where a run is logged: CSV always, any logger of Lightning's or yours beside it, all in the run's one folder."""

import csv
import importlib
import importlib.util
import inspect
import netrc
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch.loggers as lightning_loggers
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from .configs import flat, read_config
from .fallible import COMET, FALLIBLE, host_of, wandb_address, why_no_answer
from .files import append, csv_text, plain_table, read_text, reading, write
from .keepers import BestCheckpoint
from .mistakes import Mistake
from .runs import Run, made
from .steps import is_out_of_time
from .together import is_rank_zero


class MetricsFile(Logger):
    """Writes metrics.csv, a row for each moment that something was logged; goes on with a file that is there.

    Args:
        file: The file, in the run's folder.
    """

    FLUSH = 100  # rows between two writes, beside those at each save

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)
        self.rows: list[dict[str, Any]] = []  # not written yet
        self.columns: list[str] | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.file.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        values = {name: getattr(value, "item", lambda value=value: value)() for name, value in metrics.items()}
        self.rows.append({**values, "step": step})
        if len(self.rows) >= self.FLUSH:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds them."""

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        if self.columns is None:
            self.columns = _header(self.file)
        new = {name for row in self.rows for name in row} - set(self.columns)
        if new:
            earlier = read_rows(self.file)
            self.columns = sorted({*self.columns, *new})
            write(self.file, _csv(self.columns, earlier))
        append(self.file, csv_text(_cells(self.columns, self.rows)))
        self.rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with reading(path), plain_table(path) as file:
        return next(csv.reader(file), [])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, none where there is no file."""
    if not path.is_file():
        return []
    with reading(path), plain_table(path) as file:
        return list(csv.DictReader(file))


def _csv(columns: list[str], rows: list[dict[str, str]]) -> str:
    return csv_text([columns, *_cells(columns, rows)])


def _cells(columns: list[str], rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [[row.get(name, "") for name in columns] for row in rows]


def forget(path: Path, step: int) -> None:
    """Drop the rows of metrics.csv that a resumed run will write again: those since ``step``."""
    rows = read_rows(path)
    with reading(path):
        kept = [row for row in rows if row.get("step") and int(row["step"]) < step]
    if len(kept) < len(rows):
        write(path, _csv(_header(path), kept))


Logger.register(lightning_loggers.LitLogger)  # which it is in all but name (lightning 2.6.6)


class LitLogger(lightning_loggers.LitLogger, Logger):
    """Lightning's, which is found by its short name as a true subclass alone."""


class Told(NamedTuple):
    """What a logger can be told about.

    Args:
        run: The run.
        name: Its name for people.
        step: The step from which a resumed run goes on.
        given: The logger's own options, as the user gave them.
    """

    run: Run
    name: str
    step: int | None
    given: dict[str, Any]


def specs(wanted: Any, run: Run, name: str, step: int | None = None) -> list[dict[str, Any]]:
    """Turn ``trainer.logger`` into the class paths of the run's loggers.

    Args:
        wanted: True for TensorBoard, False for none, or one or more loggers by class path.
        run: The run, whose folder every logger is given.
        name: The run's name for people.
        step: The step from which a resumed run goes on.
    """
    if wanted is False:
        return []
    if wanted in (True, None):
        wanted = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger"}
    found = []
    for spec in wanted if isinstance(wanted, list) else [wanted]:
        module, _, attribute = spec["class_path"].rpartition(".")
        kind = getattr(importlib.import_module(module), attribute)
        if kind not in (CSVLogger, MetricsFile):  # metrics.csv is there anyway
            found += _spec(spec, kind, run, name, step)
    own = f"{MetricsFile.__module__}.{MetricsFile.__qualname__}"
    return [*found, {"class_path": own, "init_args": {"file": str(run.metrics)}}]


def _spec(spec: dict[str, Any], kind: Any, run: Run, name: str, step: int | None) -> list[dict[str, Any]]:
    """Add to the options of a logger what the run settles, as far as its constructor takes it; none if it cannot be."""
    named, others = dict(spec.get("init_args") or {}), dict(spec.get("dict_kwargs") or {})
    tell = next((tell for base, tell in TELL.items() if isinstance(kind, type) and issubclass(kind, base)), _folder)
    takes, takes_others = _parameters(kind)
    told = tell(Told(run, name, step, named | others))
    if told is None:
        return []
    for option, value in told.items():
        if option in takes or option in named:
            named[option] = value
        elif takes_others:
            others[option] = value
    made = FALLIBLE.get(kind)
    if made and takes_others:  # which jsonargparse no longer finds, where the base class hands them on
        others |= {option: named.pop(option) for option in list(named) if option not in takes}
    path = f"{made.__module__}.{made.__name__}" if made else spec["class_path"]
    return [{"class_path": path, "init_args": named, "dict_kwargs": others}]


def _parameters(kind: Any) -> tuple[set[str], bool]:
    """Return the names that a constructor takes, with those that it hands on, and whether it takes others."""
    names: set[str] = set()
    for base in inspect.getmro(kind) if isinstance(kind, type) else [kind]:
        if isinstance(base, type) and "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names, False
        if base in TELL:
            break
    return names, True


def _folder(told: Told) -> dict[str, Any]:
    return dict.fromkeys(("save_dir", "root_dir"), str(told.run))


def _tensorboard(told: Told) -> dict[str, Any]:
    purge = {} if told.step is None else {"purge_step": told.step}  # hides what will be written again
    return {"save_dir": str(told.run), "name": "", "version": "", "default_hp_metric": False, **purge}


def _wandb(told: Told) -> dict[str, Any]:
    options: dict[str, Any] = {"save_dir": str(told.run)}
    if is_rank_zero() and importlib.util.find_spec("wandb"):
        # In the environment and before wandb is imported: it no longer reads what the logger's own `offline` sets.
        later = "run `wandb login`, then `wandb sync` on the run's wandb folder"
        _stay_offline("wandb", ("WANDB_MODE", "offline"), told.given.get("offline"), _has_wandb_key(), later)
        if (address := wandb_address()) and os.environ.get("WANDB_MODE", "online") == "online":
            later = "`wandb sync` on the run's wandb folder sends it later"
            _offline_without_answer("wandb", ("WANDB_MODE", "offline"), address, later)
        options["id"] = _identity(told.run.wandb_id, told.given.get("id") or told.given.get("version"), size=4)
        options["name"] = told.given.get("name") or told.name
    return options


def _comet(told: Told) -> dict[str, Any]:
    options: dict[str, Any] = {"online": None}
    if is_rank_zero() and importlib.util.find_spec("comet_ml"):
        # In the environment: where the logger's own `online` is false, it keeps nothing at all (lightning 2.6.6).
        offline = told.given.get("online") is False or told.given.get("offline")
        has_key = bool(told.given.get("api_key")) or _has_comet_key()
        archives = told.run.comet
        later = f"set COMET_API_KEY, then `comet upload {archives}/*/*.zip`"
        _stay_offline("comet", ("COMET_START_ONLINE", "false"), offline, has_key, later)
        if os.environ.get("COMET_START_ONLINE") != "false":
            address = os.environ.get("COMET_URL_OVERRIDE") or COMET
            sent = f"`comet upload {archives}/*/*.zip` sends it later"
            _offline_without_answer("comet", ("COMET_START_ONLINE", "false"), address, sent)
        # A folder for each launch: after seed_everything all give their archive one name, over the one before.
        options["offline_directory"] = str(made(archives / str(len([*archives.glob("*")]))))
        options["experiment_key"] = _identity(told.run.comet_id, told.given.get("experiment_key"), size=16)
        options["name"] = told.given.get("name") or told.name
        options["display_summary_level"] = told.given.get("display_summary_level", 0)  # else 150 lines at the end
    return options


def _mlflow(told: Told) -> dict[str, Any] | None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    options: dict[str, Any] = {"run_name": told.given.get("run_name") or told.name}
    file, store = told.run.mlflow_id, told.run.mlflow_store
    known = _known(file) if file.exists() else None  # TellLoggers wrote it
    options["run_id"] = told.given.get("run_id") or known
    if address := told.given.get("tracking_uri"):
        if is_rank_zero() and (reason := why_no_answer(address)):
            print(f"mlflow: {host_of(address)} does not answer ({reason}), so the run is not logged there")
            return None
        return options
    if not is_rank_zero():
        return options | {"tracking_uri": "http://localhost"}  # never asked: opening the store would make it here, too
    if known and not store.is_file():
        raise Mistake(
            f"{told.run} was logged to an MLflow server that its config does not name, so nothing could be added; give "
            "it by MLFLOW_TRACKING_URI or --trainer.logger.tracking_uri."
        )
    options["tracking_uri"] = f"sqlite:///{store.absolute()}"  # a folder of files is refused since MLflow 3
    options["artifact_location"] = told.given.get("artifact_location") or str(told.run.mlflow_artifacts.absolute())
    return options


# What each logger is told; those that derive from one are told the same, and any other one the run's folder.
TELL: dict[type[Logger], Callable[[Told], dict[str, Any] | None]] = {
    TensorBoardLogger: _tensorboard,
    WandbLogger: _wandb,
    CometLogger: _comet,
    MLFlowLogger: _mlflow,
}


def _identity(file: Path, given: str | None, size: int) -> str:
    """Return by what a service knows the run: on disk before it starts, so that test and a resumed run go on there."""
    if given or not file.exists():
        write(file, given or secrets.token_hex(size))
    return _known(file)


def _known(file: Path) -> str:
    with reading(file):
        return read_text(file, most=10_000).strip()


def _stay_offline(service: str, variable: tuple[str, str], asked: Any, has_key: bool, later: str) -> None:
    """Keep a service offline where that is asked for, or where there is no key and nothing else is said."""
    name, value = variable
    if asked:
        os.environ[name] = value
    elif name not in os.environ and not has_key:
        print(f"{service}: no API key found, logging offline; {later}.")
        os.environ[name] = value


def _offline_without_answer(service: str, variable: tuple[str, str], address: str, later: str) -> None:
    """Keep a service offline whose server does not answer: its own patience would hold up the run for minutes."""
    if reason := why_no_answer(address):
        print(f"{service}: {host_of(address)} does not answer ({reason}), logging offline; {later}.")
        os.environ[variable[0]] = variable[1]


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _has_comet_key() -> bool:
    if os.environ.get("COMET_API_KEY"):
        return True
    given = os.environ.get("COMET_CONFIG")
    files = [Path(given)] if given else [Path(".comet.config"), Path.home() / ".comet.config"]
    return any("api_key" in file.read_text(encoding="utf-8") for file in files if file.is_file())


class TellLoggers(Callback):
    """Hands every logger the config when a training begins, and the best metric where it takes one with the config.

    Keeps by what MLflow knows the run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MLFlowLogger) and (run_id := logger.run_id):
                write(self.run.mlflow_id, f"{run_id}\n")
            if stage == "fit":
                logger.log_hyperparams(_new_to(logger, read_config(self.run.config)))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
        if best is None or best.best_model_score is None or not trainer.is_global_zero or is_out_of_time(trainer):
            return  # TensorBoard keeps the first that it is told, and a run out of time goes on
        metrics = {f"best/{best.monitor}": float(best.best_model_score)}
        for logger in trainer.loggers:  # TensorBoard shows them on its page HPARAMS
            if {"metrics", "step"} <= inspect.signature(logger.log_hyperparams).parameters.keys():
                logger.log_hyperparams(read_config(self.run.config), metrics=metrics, step=trainer.global_step)


def _new_to(logger: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what MLflow was told before a resume: it takes no other value, and would refuse the whole."""
    if not isinstance(logger, MLFlowLogger):
        return config
    try:
        known = logger.experiment.get_run(str(logger.run_id)).data.params
    except Exception:  # of a server that is gone: the logger will say so
        return config
    settings = {key.replace(".", "/"): value for key, value in flat(config)}
    return {key: value for key, value in settings.items() if key not in known}
