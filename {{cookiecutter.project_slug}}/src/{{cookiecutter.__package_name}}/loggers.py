"""Where a run is logged: CSV always, TensorBoard or Weights & Biases beside it, all in the run's one folder."""

import csv
import importlib.util
import io
import netrc
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from . import runs


class CSVLogger(loggers.CSVLogger):
    """Lightning's CSVLogger that goes on with an existing metrics.csv instead of deleting it.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="")

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.save_dir)
        return self._experiment  # pyright: ignore[reportReturnType]

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: config.yaml holds them."""


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])


def forget(folder: Path, step: int) -> None:
    """Drop the rows of metrics.csv that a resumed run will write again: those since ``step``."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row.get("step") and int(row["step"]) < step]
    if len(kept) < len(rows):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(kept)
        runs.write(path, text.getvalue())


def make(wanted: Any, folder: Path, name: str, step: int | None = None) -> list[dict[str, Any]]:
    """Turn ``trainer.logger`` into the class paths of the run's loggers.

    Args:
        wanted: True for TensorBoard, False for none, or one or more loggers by class path.
        folder: The run's folder, which every logger is given.
        name: The run's name for people.
        step: The step from which a resumed run goes on.
    """
    if wanted is False:
        return []
    if wanted in (True, None):
        wanted = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {}}
    made = []
    for given in wanted if isinstance(wanted, list) else [wanted]:
        kind = given["class_path"].rsplit(".", 1)[-1]
        options = dict(given.get("init_args") or {}) | {"save_dir": str(folder)}
        if kind == "TensorBoardLogger":
            options |= {"name": "", "version": "", "default_hp_metric": False}
            options |= {} if step is None else {"purge_step": step}  # hides what will be written again
        elif kind == "WandbLogger":
            options = _wandb(options, folder, name)
        elif kind == "CSVLogger":
            continue
        made.append({**given, "init_args": options})
    own = f"{CSVLogger.__module__}.{CSVLogger.__qualname__}"
    return [*made, {"class_path": own, "init_args": {"folder": str(folder)}}]


def _wandb(options: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    if importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "trainer.logger=WandbLogger needs the package wandb, so nothing could be logged; "
            "install it beside the project: pip install wandb."
        )
    if not runs.is_rank_zero():
        return options  # rank zero alone talks to wandb
    # The id is on disk before wandb starts, so that test and a resumed run go on with the same wandb run.
    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    # In the environment and before wandb is imported: it no longer reads what the logger's own `offline` sets.
    if options.get("offline"):
        os.environ["WANDB_MODE"] = "offline"
    elif "WANDB_MODE" not in os.environ and not _has_wandb_key():
        print(
            "wandb: no API key found, logging offline; run `wandb login`, then `wandb sync` on the run's wandb folder."
        )
        os.environ["WANDB_MODE"] = "offline"
    return options | {"id": id_file.read_text().strip(), "name": options.get("name") or name}


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False
