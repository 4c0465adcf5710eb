"""Checkpoints that can be relied on: written whole or not at all, read without running what is in them."""

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.fabric.plugins import TorchCheckpointIO

from .files import made_anew
from .guard import check_hyper_parameters, check_plain, check_size
from .internals import INSTANTIATE, INSTANTIATOR
from .mistakes import Mistake, RunFailed
from .renames import config_of_today

# What goes on is made of these, where it is there.
PARTS = {"callbacks": dict, "global_step": int, "lr_schedulers": list, "optimizer_states": list, "resume": dict}
MOST_VALUES = 10_000_000  # beside the weights; an optimizer of 10,000 groups has half a million


class WholeFile(TorchCheckpointIO):
    """Writes beside the target and then takes its place, so that the previous checkpoint survives whatever happens.

    (Lightning stages in the folder for temporary files, which may lie on another file system, and then copies.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with made_anew(unfinished) as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except BaseException as error:
            unfinished.unlink(missing_ok=True)
            if not isinstance(error, OSError | RuntimeError):  # torch wraps a full disk in a RuntimeError
                raise
            raise RunFailed(
                f"{path} could not be written ({str(error).splitlines()[0]}), so the run would go on unsaved and was "
                f"stopped; {'the previous one is unharmed: ' if path.exists() else ''}make room and go on with "
                "fit --resume auto."
            ) from error


def read(path: str | Path, kind: type, to_go_on: bool = False) -> dict[str, Any]:
    """Read a checkpoint as plain values, running nothing that it holds; ``guard.open_to`` must be in force.

    What earlier versions called otherwise has its name of today; ``is_renamed`` tells whether there was any.

    Args:
        path: The file.
        kind: The class of the model in it.
        to_go_on: Whether a run is to go on from it, which takes more than weights.

    Raises:
        Mistake: The file is not local, damaged, compressed (it could fill the memory), holds code, or names a
            class of a package that is not trusted; or a run cannot go on from it.
    """
    given, path = path, Path(path)
    if not path.is_file():
        way = "download it, or name its run: --run_root and --name" if "://" in str(given) else "give its path"
        raise Mistake(f"checkpoint {str(given)!r} is not a local file, so there is nothing to load; {way}.")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does")
        content = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "hyper_parameters", "loops"):
            if not isinstance(content.get(key), dict) or not all(isinstance(name, str) for name in content[key]):
                raise ValueError(f"it holds no {key}")
        for key, kind_of_part in PARTS.items():
            if key in content and not isinstance(content[key], kind_of_part):
                raise ValueError(f"its {key} is {type(content[key]).__name__}")
        if "global_step" not in content:
            raise ValueError("it holds no global_step")
        if "pytorch-lightning_version" not in content:
            raise ValueError("it holds no version")
        if {"hparams", "module_arguments"} & content.keys():  # Lightning would read them, too
            raise ValueError("it holds hyper-parameters of a Lightning before 1.0")
        check_plain(content["hyper_parameters"])
        model = config_of_today({"model": content["hyper_parameters"]})["model"]
        content["is_renamed"] = repr(model) != repr(content["hyper_parameters"])
        content["hyper_parameters"] = model
        check_size([part for key, part in content.items() if key != "state_dict"], MOST_VALUES)
    except Exception as error:  # a damaged file raises almost anything
        reason = str(error).strip().splitlines()
        raise Mistake(
            f"checkpoint {str(path)!r} cannot be read as plain values ({reason[0] if reason else error!r}), "
            "so it is damaged or would run code; give one that this project wrote."
        ) from error
    hparams = dict(content["hyper_parameters"])
    made_by = hparams.pop(INSTANTIATOR, INSTANTIATE)
    if made_by != INSTANTIATE or "_class_path" in hparams:
        raise Mistake(
            f"checkpoint {str(path)!r} would be made by {hparams.get('_class_path', made_by)!r}, so loading it could "
            "run code; give one that this project wrote."
        )
    with contextlib.suppress(ArgumentError):  # of another version: its config tells
        check_hyper_parameters(kind, hparams, f"checkpoint {str(path)!r}")
    if to_go_on and not {"optimizer_states", "lr_schedulers", "callbacks"} <= content.keys():
        raise Mistake(
            f"checkpoint {str(path)!r} holds weights alone, so nothing can go on from it; start a new run from them: "
            "--model.weights CHECKPOINT."
        )
    return content
