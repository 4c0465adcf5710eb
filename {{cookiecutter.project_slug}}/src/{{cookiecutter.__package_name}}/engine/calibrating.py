"""calibration.json in a run's folder: fitted after ``fit`` or by ``validate``, used by the commands that come after.

It has an entry for each checkpoint, by its name, with its hash: of another checkpoint under that name it says nothing.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from . import PACKAGE, calibration
from .calibration import LEVEL, OfNumbers, OfProbabilities
from .files import plain_file, read_text, reading, write
from .keepers import BestCheckpoint
from .mistakes import Mistake
from .reliability import compared
from .runs import Run
from .splits import Manifest
from .targets import Numbers, Target, target_from

MOST = 2**28  # bytes of calibration.json


@dataclass(frozen=True)
class Kept:
    """What a run's calibration.json says of a checkpoint.

    Args:
        checkpoint: The checkpoint's hash.
        content: The entry, as plain values.
        of: What calibrates.
    """

    checkpoint: str
    content: dict[str, Any]
    of: OfProbabilities | OfNumbers


def sha256(path: str | Path) -> str:
    """Return the hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(run: Run) -> dict[str, Any]:
    """Return what calibration.json holds, nothing where there is none.

    Raises:
        Mistake: It cannot be read.
    """
    if not run.calibration.exists() and not run.calibration.is_symlink():
        return {}
    with reading(run.calibration):
        content = json.loads(read_text(run.calibration, MOST))
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise ValueError("it holds no calibrations")
        return content


def find(run: Run, checkpoint: Path) -> Kept | None:
    """Return what is kept of a checkpoint; None where there is nothing, or it is of another of this name.

    Raises:
        Mistake: It cannot be read.
    """
    entry = _entries(run).get(checkpoint.name)
    if entry is None:
        return None
    digest = sha256(checkpoint)
    if entry.get("checkpoint_sha256") != digest:
        return None
    with reading(run.calibration):
        try:
            return Kept(digest, entry, calibration.read(target_from(entry["target"]), entry))
        except KeyError as error:
            raise ValueError(f"it lacks {error}") from error


def needed(run: Run, checkpoint: Path, flag: str) -> Kept:
    """Return what is kept of a checkpoint.

    Args:
        run: The run.
        checkpoint: The checkpoint.
        flag: What asks for it, for the refusal.

    Raises:
        Mistake: There is nothing, or it cannot be had.
    """
    found = find(run, checkpoint)
    if found is not None:
        _check_flag(flag, run, found.of.target)
        return found
    manifest = Manifest.load(run.manifest, outside=True)
    _check_flag(flag, run, manifest.target)
    if not manifest.splits["val"][0]:
        raise Mistake(
            f"{flag} is fitted on the validation split, and {run} has none, so there is nothing to calibrate by; leave "
            "it out, or train with --data.val_fraction 0.2."
        )
    raise Mistake(
        f"{flag} needs a calibration of {checkpoint}, and {run.calibration} holds none of it, so nothing was done; "
        f"this fits it: python -m {PACKAGE} validate --ckpt_path {checkpoint}"
    )


def _check_flag(flag: str, run: Run, target: Target) -> None:
    of_numbers = isinstance(target, Numbers)
    if of_numbers != flag.startswith("--interval"):
        of, instead = ("probabilities", "--interval 0.9") if of_numbers else ("numbers", "--calibrate true")
        raise Mistake(f"{flag} is for {of}, and {run} predicts {target}, so nothing would change; give {instead}.")


@dataclass(frozen=True)
class Rows:
    """What a validation said of each of its samples."""

    position_N: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray


def keep(run: Run, checkpoint: Path, target: Target, rows: Rows, all_weights: np.ndarray | None) -> str:
    """Fit on a validation, write calibration.json, and return what came out, in words.

    Args:
        run: The run.
        checkpoint: The checkpoint that was validated.
        target: What is predicted.
        rows: What was said.
        all_weights: The weight of each sample of the split, None where all count the same.
    """
    weight_N = np.ones(len(rows.targets)) if all_weights is None else all_weights[rows.position_N]
    counts_N = weight_N > 0
    targets, predicted, weight_N = rows.targets[counts_N], rows.predicted[counts_N], weight_N[counts_N]
    if not len(targets) or not np.isfinite(predicted).all():
        return "not fitted, as the validation has no predictions that are finite"
    content = calibration.fit(target, targets, predicted, weight_N)
    of = calibration.read(target, content)
    if isinstance(of, OfProbabilities):
        after = of.calibrated(predicted, None)
        content |= compared(target, targets, weight_N, before=predicted, after=after)
    entry = {"checkpoint_sha256": sha256(checkpoint), "split": "val", "target": target.as_dict(), **content}
    try:
        entries = _entries(run)
    except Mistake:  # what is there cannot be used in any way
        entries = {}
    write(run.calibration, json.dumps({**entries, checkpoint.name: entry}, indent=1) + "\n")
    return told(of, entry)


def told(of: OfProbabilities | OfNumbers, entry: dict[str, Any]) -> str:
    """Say what was fitted, in a line."""
    if isinstance(of, OfNumbers):
        if of.highest < LEVEL:
            return f"{of.samples} residuals of validation, enough for intervals up to --interval {of.highest:.4f}"
        width = ", ".join(f"{value:.4g}" for value in _readable(of, LEVEL)[:4])
        how = "a factor of" if of.target.log else "±"
        more = " …" if len(of.target.names) > 4 else ""
        return f"{LEVEL:.0%} of numbers within {how} {width}{more} (by {of.samples:,} residuals of validation)"
    line = f"{of}; validation {change(entry['before'], entry['after'])}"
    if entry["after"]["NLL"]["value"] > entry["before"]["NLL"]["value"]:
        line += f"; it has no mistake, so the fit takes one of {entry['samples'] + 2:,} for wrong"
    return line


def _readable(of: OfNumbers, level: float) -> list[float]:
    half_T = of.half_widths(level)
    return (np.exp(half_T) if of.target.log else half_T).tolist()


def change(before: dict[str, Any], after: dict[str, Any] | None) -> str:
    """Say what scores were and became."""
    if after is None:
        return ", ".join(f"{name} {with_interval(score)}" for name, score in before.items())
    return ", ".join(f"{name} {score['value']:.4f} → {after[name]['value']:.4f}" for name, score in before.items())


def with_interval(score: dict[str, Any]) -> str:
    """Write a score with its interval."""
    bounds = score["interval"]
    return f"{score['value']:.4f}" + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")


def tested(
    target: Target, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, kept: Kept | None,
    settled: list[float] | None, level: float | None,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Return what ``test`` keeps and prints of calibration: the scores before and after, or how often intervals hold.

    Args:
        target: What is predicted.
        targets: The true ones.
        predicted: The predicted ones.
        weights: The weight of each sample, None where all count the same.
        kept: The calibration of the checkpoint, None where there is none.
        settled: What the model chose on validation.
        level: Of the intervals; None takes the usual one, where validation is large enough.
    """
    weight_N = np.ones(len(targets)) if weights is None else weights
    counts_N = weight_N > 0
    targets, predicted, weight_N = targets[counts_N], predicted[counts_N], weight_N[counts_N]
    about: dict[str, Any] = {"samples": len(targets), "checkpoint_sha256": kept.checkpoint if kept else None}
    if not len(targets) or not np.isfinite(predicted).all():
        return about, []
    if isinstance(target, Numbers):
        if kept is None or not isinstance(kept.of, OfNumbers) or (level is None and kept.of.highest < LEVEL):
            return {**about, "checkpoint_sha256": None}, []
        coverage = covered(kept.of, targets, predicted, level or LEVEL)
        lines = [
            f"{level or LEVEL:.4g} intervals hold {each['share']:.4f} of the true {name} ({each['interval'][0]:.4f} to "
            f"{each['interval'][1]:.4f})"
            for name, each in coverage.items()
        ]
        return {**about, "level": level or LEVEL, "coverage": coverage}, lines
    if kept is None or not isinstance(kept.of, OfProbabilities):
        scores = compared(target, targets, weight_N, before=predicted)
        return {**about, **scores}, [change(scores["before"], None)]
    scores = compared(target, targets, weight_N, before=predicted, after=kept.of.calibrated(predicted, settled))
    lines = [f"before {change(scores['before'], None)}", f"after  {change(scores['after'], None)} ({kept.of})"]
    return {**about, **scores}, lines


def covered(of: OfNumbers, targets: np.ndarray, predicted: np.ndarray, level: float) -> dict[str, dict[str, Any]]:
    """Return of each number how often its interval holds the true one, with the exact 95 % interval of that share."""
    low_NT, high_NT = of.bounds(predicted, level)
    hits_T = ((low_NT <= targets) & (targets <= high_NT)).sum(0).tolist()
    return {
        name: {"share": hits / len(targets), "interval": calibration.binomial_interval(hits, len(targets))}
        for name, hits in zip(of.target.names, hits_T, strict=True)
    }


def tested_checkpoint(run: Run) -> str | None:
    """Return the hash of the checkpoint that ``test`` scored last, where that is known."""
    try:
        content = json.loads(read_text(run.tested_calibration, MOST))
        return content["checkpoint_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Calibrates(Checkpoint):
    """Fits the calibration of ``fit``'s best checkpoint, or of the one that ``validate`` scores where none is kept.

    In ``fit`` what the best validation said lies in a file until the run ends, so that a resumed run has it, too: no
    validation runs twice, and nothing of it is in a checkpoint. (A Checkpoint, as those are called after all other
    callbacks: the best one has been chosen then.)

    Args:
        run: The run.
        checkpoint: What ``validate`` scores.
    """

    def __init__(self, run: Run, checkpoint: Path | None = None) -> None:
        self.run, self.checkpoint = run, checkpoint
        self.outputs: list[Any] = []
        self.before: Any = None

    def _best(self, trainer: Trainer) -> BestCheckpoint | None:
        return next((each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)), None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = []
        best = self._best(trainer)
        self.before = best.best_model_score if best else None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if (
            not trainer.sanity_checking
            and isinstance(outputs, dict)
            and {"position", "y", "predictions"} <= outputs.keys()
        ):
            self.outputs.append([outputs[name].detach() for name in ("position", "y", "predictions")])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        best = self._best(trainer)
        if trainer.state.fn == "fit" and (best is None or best.best_model_score is self.before):
            self.outputs = []
            return
        rows = self._gathered(trainer)
        if rows is None or not trainer.is_global_zero:
            return
        if trainer.state.fn == "fit":
            self._put(rows, trainer.global_step)
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert self.checkpoint is not None
        if _is_missing(self.run, self.checkpoint):
            print(f"calibration: {self._fitted(self.checkpoint, data, rows)}")

    def _gathered(self, trainer: Trainer) -> Rows | None:
        """Return what all ranks were told, in the order of the samples; every rank must call it."""
        mine = [np.concatenate([part.cpu().numpy() for part in parts]) for parts in zip(*self.outputs, strict=True)]
        self.outputs = []
        found: list[list[np.ndarray]] = [mine]
        if trainer.world_size > 1:
            found = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(found, mine)
        found = [of_rank for of_rank in found if of_rank]
        if not found:  # a validation_step of the user's own may return nothing
            return None
        position_N, targets, predicted = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(position_N, kind="stable")
        return Rows(position_N[order], targets[order], predicted[order])

    def _put(self, rows: Rows, step: int) -> None:
        """Keep a validation of ``fit`` until its end."""
        kept = np.empty(
            len(rows.position_N),
            [
                ("step", "i8"), ("position", "i8"), ("targets", rows.targets.dtype, rows.targets.shape[1:]),
                ("predicted", rows.predicted.dtype, rows.predicted.shape[1:]),
            ],
        )  # fmt: skip
        kept["step"], kept["position"], kept["targets"], kept["predicted"] = (
            step, rows.position_N, rows.targets, rows.predicted,
        )  # fmt: skip
        file = io.BytesIO()
        np.lib.format.write_array(file, kept, allow_pickle=False)
        try:
            write(self.run.best_validated, file.getvalue())
        except OSError as error:  # the training is worth more
            self.run.best_validated.unlink(missing_ok=True)
            print(f"note: {self.run.best_validated} could not be written ({error}), so validate has to calibrate")

    def _taken(self, step: int) -> Rows | None:
        """Return what was kept of the validation after a step."""
        file = self.run.best_validated
        with reading(file), plain_file(file):
            kept = np.load(file, mmap_mode="r", allow_pickle=False)
            if not len(kept) or kept["step"][0] != step:
                return None
            return Rows(*(np.array(kept[name]) for name in ("position", "targets", "predicted")))

    def after_fit(self, trainer: Trainer, data: Any) -> str:
        """Fit what calibrates the best checkpoint, if the training has ended with one; returns a line that says it.

        Rank zero calls it alone.
        """
        best = self._best(trainer)
        if best is None or not best.best_model_path or not self.run.best_validated.exists():
            return ""
        checkpoint = Path(best.best_model_path)
        step = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"]
        try:
            rows = self._taken(step)
            self.run.best_validated.unlink()
        except (Mistake, OSError) as error:
            return f"not fitted: {error}"
        if rows is None:
            command = f"python -m {PACKAGE} validate --ckpt_path {checkpoint}"
            return f"not fitted, as the run was killed while it saved; this does it: {command}"
        return self._fitted(checkpoint, data, rows)

    def _fitted(self, checkpoint: Path, data: Any, rows: Rows) -> str:
        try:
            return keep(self.run, checkpoint, data.target, rows, data.manifest.weights.get("val"))
        except OSError as error:  # a folder of others', or a full disk: what else the command does is worth more
            return f"not kept: {error}"


def _is_missing(run: Run, checkpoint: Path) -> bool:
    try:
        return find(run, checkpoint) is None
    except Mistake:
        return True
