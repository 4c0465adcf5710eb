"""Checkpoints that can be relied on: written whole or not at all, read without running what is in them."""

import importlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO

from . import PACKAGE
from .internals import INSTANTIATE, INSTANTIATOR
from .mistakes import Mistake, RunFailed

# Packages whose classes a checkpoint or a run's config may name; `trusted` in cli.py adds to them.
TRUSTED = {"torch.", "torchvision.", "lightning.", f"{PACKAGE}."}

FACTORIES = ("network", "loss", "optimizer", "schedule")
# Texts that may look like the path of a class and are not.
PLAIN = {"data", "name", "run_root", "ckpt_path", "weights", "dirpath", "default_root_dir", "names", "project"}
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def trust(prefixes: Iterable[str]) -> None:
    """Let checkpoints and configs of runs name classes of more packages."""
    TRUSTED.update(prefixes)


class WholeFile(TorchCheckpointIO):
    """Writes beside the target and then takes its place, so that the previous checkpoint survives whatever happens.

    (Lightning stages in the folder for temporary files, which may lie on another file system, and then copies.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
            unfinished.unlink(missing_ok=True)
            raise RunFailed(
                f"{path} could not be written ({str(error).splitlines()[0]}), so the run would go on unsaved and was "
                f"stopped; {'the previous one is unharmed: ' if path.exists() else ''}make room and go on with "
                "fit --resume auto."
            ) from error


def read(path: str | Path, to_go_on: bool = False) -> dict[str, Any]:
    """Read a checkpoint as plain values, running nothing that it holds.

    Args:
        path: The file.
        to_go_on: Whether a run is to go on from it, which takes more than weights.

    Raises:
        Mistake: The file is not local, damaged, compressed (it could fill the memory), holds code, or names a
            class of a package that is not trusted; or a run cannot go on from it.
    """
    given, path = path, Path(path)
    if not path.is_file():
        raise Mistake(f"checkpoint {str(given)!r} is not a local file, so there is nothing to load; give its path.")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does")
        content = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "hyper_parameters", "loops"):
            if not isinstance(content.get(key), dict) or not all(isinstance(name, str) for name in content[key]):
                raise ValueError(f"it holds no {key}")
        if "pytorch-lightning_version" not in content:
            raise ValueError("it holds no version")
    except Exception as error:  # a damaged file raises almost anything
        reason = str(error).strip().splitlines()
        raise Mistake(
            f"checkpoint {str(path)!r} cannot be read as plain values ({reason[0] if reason else error!r}), "
            "so it is damaged or would run code; give one that this project wrote."
        ) from error
    hparams = dict(content["hyper_parameters"])
    made_by = hparams.pop(INSTANTIATOR, INSTANTIATE)
    check_class_paths(hparams, str(path))
    strings = [name for name in FACTORIES if isinstance(hparams.get(name), str)]
    if made_by != INSTANTIATE or strings:
        raise Mistake(
            f"checkpoint {str(path)!r} would be made by {strings or made_by!r}, so loading it could run code; "
            "give one that this project wrote."
        )
    if to_go_on and not {"optimizer_states", "lr_schedulers", "callbacks"} <= content.keys():
        raise Mistake(
            f"checkpoint {str(path)!r} holds weights alone, so nothing can go on from it; start a new run from them: "
            "--model.weights CHECKPOINT."
        )
    return content


def check_class_paths(config: dict[str, Any], source: str) -> None:
    """Refuse a config that names a class of a package that is not trusted: loading it would import that.

    Raises:
        Mistake: It does.
    """
    for name in _class_paths(config):
        if not name.startswith(tuple(TRUSTED)):
            raise Mistake(
                f"{source} names {name!r}, of no package that this project trusts, so loading it could run anything; "
                f"if it is yours, add {name.split('.')[0] + '.'!r} to `trusted` in cli.py (a script imports that file)."
            )
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError as error:
            raise Mistake(
                f"{source} names {name!r}, which is not here ({error}), so it was made by another version; start a new "
                "run from its weights: --model.weights CHECKPOINT."
            ) from error
        if not isinstance(found, type):
            raise Mistake(
                f"{source} names {name!r}, which is no class, so loading it could run anything; give a class there."
            )


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in PLAIN:
                yield from _class_paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _class_paths(item)
    elif isinstance(value, str) and IMPORT_PATH.fullmatch(value.strip()):
        yield value.strip()
    elif isinstance(value, str) and {"{", "["} & set(value):  # the parser reads YAML and JSON inside a text, too
        try:
            inner = yaml.safe_load(value)
        except yaml.YAMLError:
            inner = None
        yield from [value] if inner in (None, value) else _class_paths(inner)
