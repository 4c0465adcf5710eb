"""Loggers of libraries, which may fail without ending a run: a disk that is full, a server that does not answer.

metrics.csv is what a run is judged by. Whoever fails beside it is left out from then on, which is said in one line.
"""

import configparser
import functools
import os
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from .runs import masked

PATIENCE = 10.0  # seconds in which a server must answer
WANDB, COMET = "https://api.wandb.ai", "https://www.comet.com"
# Beside `experiment`, what Lightning and the callbacks here call.
CALLS = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "save", "after_save_checkpoint", "finalize")


class Nothing:
    """Takes any call and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., "Nothing"]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self

    def __getitem__(self, key: object) -> "Nothing":
        return self

    def __setitem__(self, key: object, value: object) -> None: ...


def _leave_out(logger: Any, error: Exception) -> None:
    if logger.has_failed:  # in the same call, which went on with nothing
        return
    logger.has_failed = True
    reason = masked(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
    print(f"note: {logger.called} failed and is left out from here on, and the run goes on: {reason}", flush=True)


def _forgiving(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def tried(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.has_failed:
            return None
        try:
            return call(self, *args, **kwargs)
        except Exception as error:
            _leave_out(self, error)
        return None

    return tried


def _fallible(kind: type[Logger]) -> type[Logger]:
    """Let a class that derives from a library's logger be left out where it fails."""
    base: Any = kind.__base__
    make = base.experiment.fget

    def experiment(self: Any) -> Any:
        if self.has_failed:
            return Nothing()
        try:
            return make(self)
        except Exception as error:
            _leave_out(self, error)
        return Nothing()

    calls = {name: _forgiving(getattr(base, name)) for name in CALLS if hasattr(base, name)}
    about = {"called": base.__name__, "has_failed": False, "experiment": property(experiment)}
    for name, value in (about | calls).items():
        setattr(kind, name, value)
    return kind


# Of other names than Lightning's, which are what a user types.


@_fallible
class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger."""


@_fallible
class Wandb(WandbLogger):
    """Lightning's WandbLogger."""


@_fallible
class MLFlow(MLFlowLogger):
    """Lightning's MLFlowLogger."""


@_fallible
class Comet(CometLogger):
    """Lightning's CometLogger."""


FALLIBLE = {TensorBoardLogger: TensorBoard, WandbLogger: Wandb, MLFlowLogger: MLFlow, CometLogger: Comet}


def why_no_answer(address: str) -> str:
    """Ask a server for anything; returns why no answer came, or nothing."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return ""
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # urllib takes a password for a port
    found = [f"no answer within {PATIENCE:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(plain, timeout=PATIENCE):  # by the proxy that the environment names
                found[0] = ""
        except urllib.error.HTTPError as error:  # of a proxy: it knows no way
            found[0] = f"{error.code} {error.reason}" if error.code in (502, 503, 504) else ""
        except Exception as error:  # what speaks no HTTP raises of many kinds
            reason = getattr(error, "reason", error)
            # A certificate is an answer; the libraries trust others than urllib does.
            found[0] = "" if isinstance(reason, ssl.SSLError) else masked(str(reason) or type(reason).__name__)

    thread = threading.Thread(target=ask, daemon=True)  # the name of a host may take minutes to be known
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def host_of(address: str) -> str:
    """Return the host of an address, without user and password."""
    return urllib.parse.urlsplit(address).hostname or address


def wandb_address() -> str:
    """Return where wandb's server is."""
    if given := os.environ.get("WANDB_BASE_URL"):
        return given
    settings = configparser.ConfigParser(interpolation=None)
    home = os.environ.get("WANDB_CONFIG_DIR") or Path("~/.config/wandb").expanduser()
    try:
        settings.read([Path(home, "settings"), Path("wandb", "settings")], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):  # wandb will say so
        return WANDB
    return settings.get("default", "base_url", fallback=WANDB)
