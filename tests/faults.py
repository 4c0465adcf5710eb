"""Faults, injected for real: kills at any step and inside a save, full disks, broken numbers, hostile files.

    python tests/faults.py [--seed 0]

Each is done to a generated project and, by the same harness, to plain Lightning (plain_lightning.py). Ends with ``N
faults, N survived`` and writes the scorecard into docs/reliability.md; exit code 0 only if every promise holds.
"""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BASE = (
    *("--data.root=images", "--data.batch_size=8", "--data.num_workers=0", "--trainer.max_epochs=4"),
    *("--model.network.width=4", "--model.network.dropout=0.3", "--trainer.accelerator=cpu"),
    *("--trainer.log_every_n_steps=2", "--trainer.logger=[]", "--name=run"),
)
EMA = ("--callbacks.averaging=EMAWeightAveraging", "--callbacks.averaging.decay=0.9")
SETTINGS: dict[str, tuple[str, ...]] = {
    "the default run": (),
    "one-cycle, EMA, MixUp, weighted sampling": (
        *(
            "--model.schedule=OneCycle",
            "--model.mixup=0.4",
            "--data.balance=sampler",
            "--callbacks.early_stopping=null",
        ),
        *EMA,
    ),
    "accumulation of 2, validation twice an epoch, saves every 3 steps": (
        *("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"),
        "--callbacks.last.every_n_train_steps=3",
    ),
    "plateau, early stopping, saves every 2 steps": (
        *("--model.schedule=Plateau", "--model.schedule.patience=0", "--callbacks.early_stopping.patience=3"),
        *("--callbacks.last.every_n_train_steps=2", "--trainer.val_check_interval=2"),
    ),
    "one worker": ("--data.num_workers=1", "--callbacks.last.every_n_train_steps=2"),
    "two workers, SWA": ("--data.num_workers=2", "--callbacks.averaging=SWA", "--callbacks.averaging.start_epoch=1"),
}


def draw(folder: Path) -> Path:
    """Draw 3 × 24 images, of which one class is rarer."""
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(24 if label else 16):
            pixels = np.random.default_rng([label, number]).integers(0, 170, (12, 12, 3), dtype=np.uint8)
            pixels[..., label] += 40
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def sabotage(kind: str) -> None:
    """Arm a fault in this process, before the command starts: ``hook N`` kills it at the N-th hook of a callback."""
    import lightning.pytorch.trainer.call as call

    name, _, value = kind.partition(" ")
    if name in ("hook", "count"):
        real, seen = call._call_callback_hooks, 0

        def counted(*args: Any, **kwargs: Any) -> None:
            nonlocal seen
            seen += 1
            if name == "hook" and seen == int(value):
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "count":
                Path(value).write_text(str(seen))
            real(*args, **kwargs)

        call._call_callback_hooks = counted


def weights(checkpoint: Path) -> str:
    """Return a hash of everything that training changes: weights, averages, optimizer and schedule."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())

    for part in ("state_dict", "optimizer_states", "lr_schedulers", "averaging_state", "current_model_state"):
        add(content.get(part))
    return digest.hexdigest()
