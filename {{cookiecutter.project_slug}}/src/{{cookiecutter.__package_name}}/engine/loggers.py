"""Where a run is logged: CSV always, TensorBoard or Weights & Biases beside it, all in the run's one folder."""

import csv
import importlib.util
import io
import netrc
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from .files import write
from .mistakes import Mistake
from .runs import Run, is_rank_zero


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
        with self.file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerows(self.rows)
        self.rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _csv(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def forget(path: Path, step: int) -> None:
    """Drop the rows of metrics.csv that a resumed run will write again: those since ``step``."""
    rows = read_rows(path)
    kept = [row for row in rows if row.get("step") and int(row["step"]) < step]
    if len(kept) < len(rows):
        write(path, _csv(_header(path), kept))


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
        wanted = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {}}
    made = []
    for given in wanted if isinstance(wanted, list) else [wanted]:
        kind = given["class_path"].rsplit(".", 1)[-1]
        options = dict(given.get("init_args") or {}) | {"save_dir": str(run)}
        if kind == "TensorBoardLogger":
            options |= {"name": "", "version": "", "default_hp_metric": False}
            options |= {} if step is None else {"purge_step": step}  # hides what will be written again
        elif kind == "WandbLogger":
            options = _wandb(options, run, name)
        elif kind == "CSVLogger":
            continue
        made.append({**given, "init_args": options})
    own = f"{MetricsFile.__module__}.{MetricsFile.__qualname__}"
    return [*made, {"class_path": own, "init_args": {"file": str(run.metrics)}}]


def _wandb(options: dict[str, Any], run: Run, name: str) -> dict[str, Any]:
    if importlib.util.find_spec("wandb") is None:
        raise Mistake(
            "--trainer.logger=WandbLogger needs the package wandb, so nothing could be logged; "
            "install it beside the project: pip install wandb."
        )
    if not is_rank_zero():
        return options  # rank zero alone talks to wandb
    # The id is on disk before wandb starts, so that test and a resumed run go on with the same wandb run.
    id_file = run.wandb_id
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
