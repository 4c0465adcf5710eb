"""A network beside its baselines: on the samples of a split, by the scores that the run logs.

``beside`` fits and scores; ``Comparison`` is what is kept of it in the run's baseline.json, with the words for it.
scikit-learn is needed to fit alone. Shapes: N samples.
"""

import copy
import inspect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine import scores
from ..engine.files import read_text, reading, write
from ..engine.metrics import direction
from ..engine.mistakes import Mistake, shown
from ..engine.scores import Score
from ..engine.targets import Target
from ._baseline_models import BASELINES, CONSTANT, Known, Predict, share_of
from ._page import amount
from ._predictions import Predictions
from ._results import Collect, Run, from_checkpoint

SPLITS = {"val": "validation", "test": "test"}
HEADLINES = {"multiclass": "accuracy", "multilabel": "map", "regression": "rmse"}  # unless --monitor is a score
AT_ONCE = 20_000  # samples whose numbers are in memory
WORK = 2e7  # values of all draws of a bootstrap: of more predictions there are fewer draws
FEWEST, DRAWS = 200, 1000
MOST_DRAWN = 2_000_000  # values of a split: of more there is no interval


@dataclass(frozen=True)
class Scored:
    """What a baseline is worth on a split.

    Args:
        name: What people call it.
        scores: By the names that the run logs them under.
        difference: By how much the network's score is higher.
        low: The 2.5th percentile of that, by a paired bootstrap over the samples; NaN where there is none.
        high: The 97.5th.
    """

    name: str
    scores: dict[str, float]
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """The network and the baselines on the splits of a run.

    Args:
        checkpoint: The name of the network's file.
        step: The last that the run had logged: it may go on.
        noun: What the samples are called.
        score: Which one decides.
        mode: Whether it should fall (min) or rise (max).
        network: The network's scores on each split.
        baselines: Those of the baselines.
        remarks: What people should know, a line each.
    """

    checkpoint: str
    step: int
    noun: str
    score: str
    mode: str
    network: dict[str, dict[str, float]]
    baselines: dict[str, list[Scored]]
    remarks: list[str]

    def save(self, path: Path) -> None:
        """Write it as JSON; what is not finite is null there."""
        baselines = {split: [vars(one) for one in of_split] for split, of_split in self.baselines.items()}
        content = vars(self) | {"baselines": baselines}
        write(path, json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """Read it back.

        Raises:
            Mistake: The file is not as it was written.
        """
        with reading(path):
            content = json.loads(read_text(path))
            baselines = {}
            for split, written in content["baselines"].items():
                baselines[split] = [
                    Scored(shown(str(one["name"])), _scores(one["scores"]), *(_number(one[name]) for name in ENDS))
                    for one in written
                ]
            network = {split: _scores(of_split) for split, of_split in content["network"].items()}
            score = shown(str(content["score"]))
            of_all = [*network.values(), *(one.scores for of_split in baselines.values() for one in of_split)]
            if network.keys() != baselines.keys() or not network.keys() <= SPLITS.keys() or "val" not in network:
                raise ValueError("it is not of the splits of a run")
            if not all(baselines.values()) or any(score not in of_one for of_one in of_all):
                raise ValueError(f"a score is missing, such as {score}")
            texts = [shown(str(content[name])) for name in ("checkpoint", "noun", "mode")]
            remarks = [shown(str(remark)) for remark in content["remarks"]]
            checkpoint, noun, mode = texts
            return cls(checkpoint, int(content["step"]), noun, score, mode, network, baselines, remarks)

    @classmethod
    def of(cls, run: Run) -> "Comparison | None":
        """Return what is kept in a run's folder, None where it is not there or of an earlier state of the run."""
        if not run.baseline.is_file():
            return None
        kept = cls.load(run.baseline)
        return kept if kept.step == last_step(run) else None

    def best(self) -> Scored:
        """Return the best baseline on the validation split, by which it is chosen for the test split, too."""
        return max(self.baselines["val"], key=self._merit)

    def _merit(self, one: Scored) -> float:
        value = one.scores[self.score]
        if math.isnan(value):
            return -math.inf
        return -value if self.mode == "min" else value

    def verdict(self, split: str = "val") -> str:
        """Say whether the network is ahead of the best baseline or behind it, and by how much."""
        best = next(one for one in self.baselines[split] if one.name == self.best().name)
        network, other = self.network[split][self.score], best.scores[self.score]
        if not math.isfinite(best.difference):
            return f"{split}/{self.score} of the network or of {best.name} is not defined, so they are not compared"
        where = "level with"
        if best.difference:
            where = "ahead of" if (best.difference > 0) == (self.mode == "max") else "behind"
        chance = ", which may be chance" if where != "level with" and best.low <= 0 <= best.high else ""
        return (
            f"the network is {where} {best.name}: {split}/{self.score} {amount(network)} against {amount(other)}, a "
            f"difference of {amount(best.difference)}{between(best)}{chance}"
        )

    def behind(self) -> str:
        """Return the verdict on the validation split where the network is behind, else nothing."""
        best = self.best()
        is_behind = best.difference < 0 if self.mode == "max" else best.difference > 0
        return self.verdict() if is_behind else ""

    def table(self, split: str) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of a table of a split: the network first, then the best baseline on."""
        every = self.network[split]
        # Of several numbers the scores of each, rmse_NAME, are in the file.
        names = [n for n in every if n == self.score or not any(n.startswith(f"{base}_") for base in every)]
        ordered = sorted(self.baselines[split], key=self._merit, reverse=True)
        rows = [["the network", *(amount(self.network[split][name]) for name in names), "", ""]]
        for one in ordered:
            interval = between(one).removeprefix(" (95 %: ").removesuffix(")")
            rows.append([one.name, *(amount(one.scores[name]) for name in names), amount(one.difference), interval])
        return ["", *names, f"network − this ({self.score})", "95 %"], rows


ENDS = ("difference", "low", "high")


def between(one: Scored) -> str:
    """Write the interval of a difference, nothing where there is none."""
    return f" (95 %: {amount(one.low)} to {amount(one.high)})" if math.isfinite(one.low) else ""


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _scores(written: dict[str, Any]) -> dict[str, float]:
    return {shown(name): _number(value) for name, value in written.items()}


def last_step(run: Run) -> int:
    """Return the last step at which a run logged its training or validation, 0 where it logged nothing."""
    steps = (curve.steps[-1] for name, curve in run.curves.items() if name.startswith(("train/", "val/")))
    return int(max(steps, default=0))


def beside(run: Run, checkpoint: Path, flags: list[str]) -> Comparison:
    """Compare the network of a checkpoint with the baselines, and keep that in its run's folder.

    Raises:
        Mistake: There is nothing to score, or the network's predictions cannot be scored.
    """
    collect = Collect()
    done = from_checkpoint("validate", checkpoint, *flags, callbacks=[collect])
    validation, tested = collect.predictions(done.datamodule), run.tested()
    if isinstance(validation, str):
        raise Mistake(f"{validation} There is nothing to compare with baselines; give another run.")
    scored: list[Predictions] = [validation]
    if not isinstance(tested, str):
        scored.append(tested)
    elif run.test_predictions.is_file():
        print(f"baseline: {tested}")
    compared = compare(done.model, done.datamodule, run, checkpoint, scored)
    compared.save(run.baseline)
    return compared


def compare(model: Any, data: Any, run: Run, checkpoint: Path, scored: Sequence[Predictions]) -> Comparison:
    """Fit the baselines on the network's training samples, and score them on what it was scored on.

    Args:
        model: The network's, whose metrics are the scores.
        data: The data module, after ``validate``.
        run: The run.
        checkpoint: The network's file.
        scored: What the network says of the validation split, and of the test split where the run was tested.
    """
    metrics = getattr(model, "scores", None)
    if metrics is None:
        raise Mistake(
            f"{type(model).__name__} keeps no scores, so there is nothing to compare by; give it some in `build`: "
            "self.keep_scores(…)."
        )
    predicts, remarks = fitted(data)
    network: dict[str, dict[str, float]] = {}
    baselines: dict[str, list[Scored]] = {}
    settled: dict[str, Any] = {}  # what each baseline chose on validation, as the network did
    score = mode = ""
    for split, p in zip(SPLITS, scored, strict=False):
        of_network = Scores(metrics[split], p, p.settled if split == "test" else None)
        network[split] = of_network.all(p.predicted)
        if not score:
            score, mode = deciding(run, data.target, list(network[split]))
        baselines[split] = []
        for name, values in _predicted(data, p.paths, predicts).items():
            of_this = Scores(metrics[split], p, settled.get(name))
            if split == "val" and model.settles is not None:
                settled[name] = model.settles(*replace(p, predicted=values).counted).tolist()
            found = of_this.all(values)
            low, high = paired(of_network.one(score, p.predicted), of_this.one(score, values), p)
            baselines[split].append(Scored(name, found, network[split][score] - found[score], low, high))
    return Comparison(
        checkpoint.name, last_step(run), data.noun, score, mode, network, baselines, [*remarks, *_weighted(scored)]
    )


def deciding(run: Run, target: Target, names: list[str]) -> tuple[str, str]:
    """Return the score that decides, and whether it should fall or rise: the run's monitor, unless that is its loss."""
    monitor = run.monitor.removeprefix("val/")
    if monitor in names:
        return monitor, direction(run.monitor, run.setting("mode"))
    name = HEADLINES[target.task] if HEADLINES[target.task] in names else names[0]
    return name, direction(f"val/{name}")


def fitted(data: Any) -> tuple[dict[str, Predict], list[str]]:
    """Fit the baselines on the samples that the network was trained on.

    Returns:
        What predicts, by name; and what was left out, for people.
    """
    target, weight_N = data.target, np.ones(len(data.train_keys))
    if data.train_weights is not None:
        weight_N = data.train_weights.astype(np.float64)
    counted = np.flatnonzero(weight_N)  # a sample of weight 0 is as if it were not there
    keys, targets, weight_N = [data.train_keys[i] for i in counted], data.train_targets[counted], weight_N[counted]
    first = data.plain(keys[:1])  # all that a constant needs
    task, size = target.task, (first.x_NF.shape[1], len(target.names))
    predicts = {CONSTANT.name[task]: CONSTANT.fitted(Known(first, targets, target, weight_N, data.seed))}
    chosen = [BASELINES[name] for name in data.baselines]
    kept = share_of(target, targets, max(baseline.most(*size) for baseline in chosen), data.seed)
    known = Known(data.plain([keys[i] for i in kept]), targets[kept], target, weight_N[kept], data.seed)
    remarks = []
    for baseline in chosen:
        part, name = known.part(baseline.most(*size)), baseline.name[task]
        predicts[name] = baseline.fitted(part)
        if len(part.targets) < len(keys):
            count = f"{len(part.targets):,} of {len(keys):,} training {data.noun}"
            remarks.append(f"{name}: fitted on {count}, drawn by the seed, as more would take minutes")
    return predicts, remarks


def _predicted(data: Any, keys: list[str], predicts: dict[str, Predict]) -> dict[str, np.ndarray]:
    """Return what each baseline says of samples, by name."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in predicts}
    for first in range(0, len(keys), AT_ONCE):
        x_NF = data.plain(keys[first : first + AT_ONCE]).x_NF
        for name, predict in predicts.items():
            parts[name].append(predict(x_NF))
    return {name: np.concatenate(of_name) for name, of_name in parts.items()}


def _weighted(scored: Sequence[Predictions]) -> list[str]:
    if all(p.weights is None for p in scored):
        return []
    return ["The samples have weights, which count in what is fitted and in the scores."]


class Scores:
    """The metrics of a model on a split.

    Args:
        metrics: The model's, which stay as they are.
        p: What the network says of the split, with its targets and weights.
        settled: What the predictions are decided by, as validation chose it; None is the metrics' own.
    """

    def __init__(self, metrics: Any, p: Predictions, settled: Any) -> None:
        self.metrics = metrics.clone().cpu()
        self.prefix = metrics.prefix or ""
        if settled is not None:
            scores.decide_at(self.metrics, settled)
        self.target = torch.from_numpy(p.targets)
        self.weight = None if p.weights is None else torch.from_numpy(p.weights)

    def all(self, predicted: np.ndarray) -> dict[str, float]:
        """Return all scores of predictions by their names, without that of the split."""
        self.metrics.reset()
        self.metrics.update(torch.from_numpy(predicted), self.target, weight=self.weight)
        found = {name.removeprefix(self.prefix): float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        return found

    def one(self, name: str, predicted: np.ndarray) -> Any:
        """Return what gives one score of some of the samples, by their positions."""
        metric = copy.deepcopy(self.metrics[name])
        measure = scores.measure_of(metric)
        metric = metric if measure is None else Score(measure)  # torchmetrics' own takes longer
        values, takes_weight = torch.from_numpy(predicted), "weight" in inspect.signature(metric.update).parameters

        def score(drawn: torch.Tensor) -> float:
            metric.reset()
            weight = {} if self.weight is None or not takes_weight else {"weight": self.weight[drawn]}
            metric.update(values[drawn], self.target[drawn], **weight)
            return float(metric.compute())

        return score


def paired(network: Any, other: Any, p: Predictions) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a difference of scores, over draws of as many samples.

    Both are scored on the same draws: what is hard for both does not count. NaN where there are too many samples, or
    too few, or no draw has both scores.
    """
    count = len(p.paths)
    values = count * p.predicted.shape[1]
    if count < 2 or values > MOST_DRAWN:
        return math.nan, math.nan
    rng, found = np.random.default_rng(0), []
    for _ in range(int(np.clip(WORK / values, FEWEST, DRAWS))):
        drawn = torch.from_numpy(rng.integers(count, size=count))
        found.append(network(drawn) - other(drawn))
    defined = np.array(found)[np.isfinite(found)]
    if not len(defined):
        return math.nan, math.nan
    return float(np.quantile(defined, 0.025)), float(np.quantile(defined, 0.975))
