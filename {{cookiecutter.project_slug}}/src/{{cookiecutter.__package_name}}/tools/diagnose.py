"""``diagnose``: say what the curves of a run point to, by which evidence, and which flags to try next.

    diagnose                        the newest run of --name
    diagnose RUN                    a run by its folder

Reads config.yaml, manifest.json, metrics.csv, timing.csv, failure.txt and baseline.json. What a run is too short to
show is not said.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..engine import runs
from ..engine.mistakes import Mistake
from ..engine.parser import Options
from ..engine.targets import Labels, Numbers
from . import _flags, _results
from ._baselines import Comparison
from ._words import NOUN

# A level is the median of a part of a curve: one lucky or unlucky validation decides nothing. The chance loss is that
# of a network that knows nothing. Chosen on runs of the digits with one seed, checked with another.
ENOUGH = 8  # validations: fewer show no trend
FEW = 4  # validations, for what is plain early
LEARNT = 0.75  # of what is to learn beyond what is known without looking, see Level; less is little
DONE = 0.98  # accuracy in training, mAP, R²: little is left to learn
GAP = 0.1  # of accuracy between training and validation: augmentation makes a healthy one small or negative
RISE = 0.05  # of the chance loss, from the least val/loss on: healthy runs drift by 0.01
FALL = 0.05  # of the chance loss, in the last quarter: more was to come
FLAT = 0.2  # of the loss: what learning gains at least from the middle of a run to its end, where the rate stays
JUMP = 0.25  # of the loss, between two validations: near its end a healthy run moves by less
JUMP_OF_CHANCE = 0.017  # and of the chance loss: near zero a loss jumps by multiples and means nothing
ROSE, WORSE = 1.2, 1.5  # times the chance loss, in training and validation: worse than knowing nothing
UNSPENT = 0.3  # of the highest rate, at the end: the schedule did not come down
LITTLE = 0.35  # of the chance loss: a healthy run gains more
LINEAR = 0.2  # of what was gained, in the last third of the rate spent: 0.33 on a straight line, 0.03 in a healthy run
SPIKE, GROWTH = 20, 10  # times the median gradient norm, and times that of the start
RATIO = 5  # of the largest class to the smallest
MISSED = 0.05  # by which macro F1 is below accuracy: rare classes are wrong more often
BEHIND = 0.1  # by which macro F1 of labels is below micro F1: rare labels are missed
NOTHING = 0.02  # micro F1 of labels: hardly one is predicted
CONSTANT = 0.05  # R² of what is hardly better than saying the mean
BEGINS = 3  # times the chance loss of numbers: a network that was just made says more than nothing
FEW_CARRY, CARRY = 0.01, 0.5  # a hundredth of the samples has so much of the squares: 0.08 of a normal distribution
LEAST = 20  # samples whose numbers say anything of a distribution
NARROW = 0.05  # deviations that the middle half of the numbers takes: 1.35 of a normal distribution
SMALL_BATCH = 8  # samples on a device: mean and variance of so few say little of the data's
DIFFERING = 0.05  # of the chance loss, between training by a batch's statistics and validation by running ones
WAITING, WORTH = 0.5, 60  # of the time, and seconds in all: less is not worth a flag
# Models of torchvision without BatchNorm, unless their names end in _bn.
WITHOUT_NORM = ("alexnet", "convnext", "squeezenet", "swin", "vgg", "vit")

Evidence = str | Literal[False]  # what shows a fault, if there is one


class Finding(NamedTuple):
    """What a run suffers from.

    Args:
        name: The fault.
        evidence: Figures and steps that show it.
        advice: The flags to try, in the order that practice recommends.
    """

    name: str
    evidence: str
    advice: str


class Curve(_results.Curve):
    """A column of metrics.csv where its values are finite."""

    def level(self, start: float = 0.0, end: float = 1.0) -> float:
        """Return the median between two shares of the curve, of three values at least; NaN for an empty curve."""
        first = min(int(start * len(self.steps)), max(0, len(self.steps) - 3))
        part = self.values[first : max(int(np.ceil(end * len(self.steps))), first + 3)]
        return float(np.median(part)) if len(part) else np.nan

    def gain(self) -> float:
        """Return the share of a loss that was gained from the middle of the run to its end."""
        return 1 - self.level(0.8) / self.level(0.4, 0.6)


class Level(NamedTuple):
    """How far a run came, in the terms of what it predicts.

    Args:
        learnt: The share of what is to learn beyond what is known without looking at a sample.
        done: The score that is 1 where nothing is left to learn.
        gap: By how much training is ahead of validation.
        evidence: The scores at the end, for people.
    """

    learnt: float
    done: float
    gap: float
    evidence: str


class Run(_results.Run):
    """What a run's folder says of it, and what follows from its curves.

    Attributes:
        classes: The number of training samples of each class or label and its name, the fewest first.
        epochs: How many the run has begun.
        rate: The highest rate of all parameter groups.
        unspent: The last rate over the highest.
        not_finite: Where the run broke off at a loss or weight that is not finite; empty unless it did.
        clipped: Whether gradients were clipped.
        chance: The loss of a network that knows nothing but how frequent what is.
        ignorant: The loss of a network that was just made.
        flat: Whether neither loss gained much in the second half.
        level: How far it came.
        compared: What ``baseline`` found, None where it was not asked.

    Raises:
        Mistake: It is no run's folder, or one without curves.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not (self.curves or self.error) or self.target is None:
            raise Mistake(f"{str(folder)!r} has no curves or no manifest, so it says nothing; give a trained run.")
        counts_K = self.target.counts(self.splits["train"][1])
        self.classes = sorted(zip(counts_K.tolist(), self.target.to_learn, strict=True))
        self.epochs = 1 + int(max(self.curve("epoch").values, default=0))
        self.loss = self.curve("train/loss")
        self.val_loss = self.curve("val/loss")
        self.accuracy = self.curve("train/accuracy")
        self.val_accuracy = self.curve("val/accuracy")
        self.val_f1 = self.curve("val/f1_macro")
        self.norm = self.curve("train/grad_norm")
        self.validations = len(self.val_loss.steps) if len(self.loss.steps) else 0

        rates = [curve for name, curve in self.curves.items() if name.startswith("lr-")] or [_results.NO_CURVE]
        self.rate = Curve(rates[0].steps, np.max([curve.values for curve in rates], axis=0))
        if len(self.rate.values):
            self.unspent = self.rate.values[-1] / self.rate.values.max()
        else:
            self.unspent = float(self.setting("model.schedule") is None)

        broken = re.match(r".* is not finite .*, rate [^,]+(?=, )", self.error)  # how NumericalFaults words it
        self.not_finite = f"{broken.group()})" if broken else ""
        self.clipped = self.setting("trainer.gradient_clip_val") is not None
        chance_of, level_of = KINDS[self.target.task]
        self.chance, self.ignorant = chance_of(self)
        self.flat = self.loss.gain() < FLAT and self.val_loss.gain() < FLAT
        self.level = level_of(self)
        self.compared = Comparison.of(self)

    @property
    def loss_name(self) -> str:
        """The class of the loss."""
        return str(self.setting("model.loss.class_path")).rpartition(".")[2]

    @property
    def first_loss(self) -> float:
        """The first that was logged, 0 where there is none; it stands in where no chance loss is known."""
        return float(self.loss.values[:1].sum())

    def curve(self, name: str) -> Curve:
        """Return a column of metrics.csv, empty where there is none."""
        steps, values = self.curves.get(name, _results.NO_CURVE)
        finite = np.isfinite(values)
        return Curve(steps[finite].astype(int), values[finite])


def chance_of_classes(run: Run) -> tuple[float, float]:
    """Return the loss of knowing nothing of K classes, twice: log K."""
    by_logarithm = run.loss_name in ("CrossEntropy", "LogitAdjusted")
    chance = float(np.log(len(run.classes)) if by_logarithm else run.first_loss)
    return chance, chance


def level_of_classes(run: Run) -> Level:
    """Return how far accuracy came above always guessing the largest class."""
    train, validation = run.accuracy.level(0.8), run.val_accuracy.level(0.8)
    largest = run.classes[-1][0] / max(1, sum(count for count, _ in run.classes))
    evidence = f"train/accuracy {train:.3f} at the end, val/accuracy {validation:.3f}"
    return Level((validation - largest) / (1 - largest), train, train - validation, evidence)


def chance_of_labels(run: Run) -> tuple[float, float]:
    """Return the binary cross entropy of saying each label's share, and that of saying 0.5."""
    assert isinstance(run.target, Labels)
    if run.loss_name != "BinaryCrossEntropy":
        return run.first_loss, run.first_loss
    weights, prior = run.target.balance(run.splits["train"][1], run.setting("data.balance", "none"))
    positive_K, negative_K = (weights * prior).double().numpy(), (1 - prior).double().numpy()
    best_K = np.clip(positive_K / (positive_K + negative_K), 1e-12, 1 - 1e-12)
    chance = -(positive_K * np.log(best_K) + negative_K * np.log(1 - best_K)).mean()
    return float(chance), float((positive_K + negative_K).mean() * np.log(2))


def level_of_labels(run: Run) -> Level:
    """Return how far mAP came above the labels' shares, which are the average precision of guesses."""
    score = run.curve("val/map").level(0.8)
    guessed = float(np.mean([count for count, _ in run.classes])) / max(1, len(run.splits["train"][0]))
    train, validation = run.loss.level(0.8), run.val_loss.level(0.8)
    evidence = (
        f"val/map {score:.3f} at the end, {guessed:.3f} by guesses; train/loss {train:.3g}, val/loss {validation:.3g}"
    )
    return Level((score - guessed) / (1 - guessed), score, (validation - train) / run.chance, evidence)


def standardised(run: Run) -> np.ndarray:
    """Return the numbers of the training split as the network learns them, (N, T)."""
    assert isinstance(run.target, Numbers)
    learned_NT = run.target.learned(run.splits["train"][1])
    return (learned_NT - learned_NT.mean(0)) / np.maximum(learned_NT.std(0), np.finfo(float).tiny)


def chance_of_numbers(run: Run) -> tuple[float, float]:
    """Return the loss of saying the same number always, the best one, and what a network just made may have."""
    delta = run.setting("model.loss.init_args.delta", 1.0)
    beta = run.setting("model.loss.init_args.beta", 1.0)
    q = run.setting("model.loss.init_args.q", 0.5)
    losses: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of target − value
        "MSE": np.square,
        "MAE": np.abs,
        "Huber": lambda e: np.where(np.abs(e) < delta, e**2 / 2, delta * (np.abs(e) - delta / 2)),
        "SmoothL1Loss": lambda e: np.where(np.abs(e) < beta, e**2 / (2 * beta), np.abs(e) - beta / 2),
        "Quantile": lambda e: np.maximum(q * e, (q - 1) * e),
    }
    losses |= {"MSELoss": losses["MSE"], "L1Loss": losses["MAE"], "HuberLoss": losses["Huber"]}
    if run.loss_name not in losses:
        return run.first_loss, run.first_loss
    loss = losses[run.loss_name]
    means = []
    for target_N in standardised(run).T:
        said = [0.0, *np.quantile(target_N, np.linspace(0, 1, 101))]
        means.append(min(float(loss(target_N - value).mean()) for value in said))
    chance = float(np.mean(means))
    return chance, BEGINS * chance


def level_of_numbers(run: Run) -> Level:
    """Return how far R² came above 0, which the mean has; the gap is that of errors over those of saying the median."""
    target_NT = run.splits["train"][1]
    without = float(np.abs(target_NT - np.median(target_NT, axis=0)).mean())
    train, validation = run.curve("train/mae").level(0.8), run.curve("val/mae").level(0.8)
    score = run.curve("val/r2").level(0.8)
    evidence = f"val/r2 {score:.3f} at the end; train/mae {train:.4g}, val/mae {validation:.4g}"
    return Level(score, score, (validation - train) / without, evidence)


# Of each kind of target the loss of a network that knows nothing, and how far a run came.
KINDS: dict[str, tuple[Callable[[Run], tuple[float, float]], Callable[[Run], Level]]] = {
    "multiclass": (chance_of_classes, level_of_classes),
    "multilabel": (chance_of_labels, level_of_labels),
    "regression": (chance_of_numbers, level_of_numbers),
}


def rate_too_high(run: Run) -> Evidence:
    """A loss became much worse than chance, though nothing was learnt by heart, or even infinite."""
    if run.not_finite and run.clipped:
        return f"{run.not_finite}, though gradients were clipped"
    worst = int(run.loss.values.argmax()) if run.validations else 0
    if run.validations and run.loss.values[worst] > ROSE * run.ignorant:
        return f"train/loss {run.loss.values[worst]:.3g} at step {run.loss.steps[worst]}, by chance {run.chance:.3g}"
    later = run.val_loss.values[run.validations // 5 :]
    bad = int((later > WORSE * run.ignorant).sum())
    holds = run.validations >= ENOUGH and bad >= 0.1 * len(later) and run.loss.level(0.8) > 0.2 * run.chance
    return holds and f"val/loss up to {later.max():.3g}, {bad} of {len(later)} times, by chance {run.chance:.3g}"


def rate_too_low(run: Run) -> Evidence:
    """Little was learnt, without a jump, and progress per rate spent did not slow down."""
    if run.validations < FEW or run.level.learnt > LEARNT:
        return False
    progress = run.val_loss.steps
    if len(run.rate.steps) > 1:  # how far training went, in rates added up: it takes the schedule out of the curve
        spent = np.cumsum(np.diff(run.rate.steps) * run.rate.values[1:])
        progress = np.interp(progress, run.rate.steps[1:], spent)
    late = float(np.interp(2 / 3 * progress[-1], progress, run.val_loss.values))
    end = run.val_loss.level(0.9)
    gained = run.chance - end
    falls = bool((np.diff(run.val_loss.values) < 0.01 * run.chance).mean() > 0.9)
    holds = falls and late - end > LINEAR * gained and 0 < gained < LITTLE * run.chance
    return holds and f"val/loss fell steadily to the end, but only to {end:.3g}, from {run.chance:.3g} by chance"


def exploding_gradients(run: Run) -> Evidence:
    """The gradient norm has spikes, or has grown far beyond that of the start, or all measure."""
    if run.not_finite and not run.clipped:
        return f"{run.not_finite}; gradients were not clipped"
    if len(run.norm.steps) < 2 * ENOUGH:
        return False
    start = run.norm.level(0.0, 0.1)
    usual = run.norm.level()
    worst = int(run.norm.values.argmax())
    most, step = run.norm.values[worst], run.norm.steps[worst]
    # Near its end a good run has tiny norms and now and then an ordinary one: a spike exceeds the start's, too.
    holds = most > max(SPIKE * usual, GROWTH * start) or run.norm.level(0.67) > GROWTH * start
    return holds and f"train/grad_norm {most:.3g} at step {step}; its median is {usual:.3g}, the start's {start:.3g}"


def unstable_BatchNorm(run: Run) -> Evidence:
    """Batches are small, and the loss by their statistics is not that by the running ones of validation."""
    name = run.setting("model.network.init_args.name", "")
    normed = run.setting("model.network.init_args.norm") == "batch"
    normed |= name != "" and (not name.startswith(WITHOUT_NORM) or name.endswith("_bn"))
    devices = run.setting("trainer.devices")
    passes = (devices if isinstance(devices, int) else 1) * run.setting("trainer.accumulate_grad_batches", 1)
    batch = run.setting("data.batch_size", np.inf) / passes
    train, validation = run.loss.level(0.5), run.val_loss.level(0.5)
    small = normed and batch <= SMALL_BATCH and run.validations >= FEW and not run.setting("model.freeze")
    holds = small and abs(train - validation) > DIFFERING * run.chance
    return holds and f"batches of {batch:g}; train/loss, by their statistics, {train:.3g}, val/loss {validation:.3g}"


def fluctuating_validation_loss(run: Run) -> Evidence:
    """In the second half val/loss jumps up and down."""
    if run.validations < ENOUGH:
        return False
    half = run.validations // 2
    since, values = run.val_loss.steps[half], run.val_loss.values[half:]
    moves = np.diff(values)
    jump = float(np.median(np.abs(moves)))
    far = jump > max(JUMP * float(np.median(values)), JUMP_OF_CHANCE * run.chance)
    up_and_down = 0.25 < float((moves > 0).mean()) < 0.75
    seen = f"{jump:.3g} each time since step {since}, from {values.min():.3g} to {values.max():.3g}"
    return far and up_and_down and f"val/loss moves by {seen}"


def plateau(run: Run) -> Evidence:
    """Neither loss gains in the second half, the rate stays high, and there is something left to learn."""
    if run.validations < ENOUGH or not run.flat or run.level.done > DONE:
        return False
    if rate_too_low(run) or collapsed_to_the_mean(run):
        return False
    half = run.val_loss.level(0.4, 0.6)
    step = run.val_loss.steps[run.validations // 2]
    now = f"{run.val_loss.level(0.8):.3g} at the end, at {run.unspent:.0%} of the highest rate"
    return run.unspent > UNSPENT and f"val/loss {half:.3g} around step {step} and {now}"


def stopped_too_early(run: Run) -> Evidence:
    """The run ended where val/loss still fell and the rate had not come down."""
    if not run.ended or run.validations < FEW or run.unspent < UNSPENT or rate_too_low(run):
        return False
    values = run.val_loss.values
    quarter = max(1, run.validations // 4)
    before = float(np.median(values[-2 * quarter : -quarter]))
    end = float(np.median(values[-quarter:]))
    cut_short = run.epochs < run.setting("trainer.max_epochs", -1) and run.val_loss.gain() > FLAT
    holds = cut_short or before - end > FALL * run.chance
    return holds and f"val/loss still fell in the last quarter of {run.epochs} epochs, from {before:.3g} to {end:.3g}"


def overfitting(run: Run) -> Evidence:
    """val/loss rises while train/loss falls, or accuracy in training is far ahead of a validation that stands still."""
    if run.validations < ENOUGH:
        return False
    values = run.val_loss.values
    end, train_end = run.val_loss.level(0.8), run.loss.level(0.8)
    smooth = np.array([np.median(values[max(0, i - 2) : i + 1]) for i in range(len(values))])
    least = smooth.min()
    step = run.val_loss.steps[smooth.argmin()]
    before_it = max(0, int(np.searchsorted(run.loss.steps, step)) - 1)
    then = run.loss.values[before_it]
    if end - least > RISE * run.chance and train_end < (1 - FLAT) * then:
        rose = f"val/loss rose from {least:.3g} around step {step} to {end:.3g}"
        return f"{rose}, while train/loss fell from {then:.3g} to {train_end:.3g}"
    return run.level.gap > GAP and run.val_loss.gain() < FLAT and run.level.evidence


def underfitting(run: Run) -> Evidence:
    """Little was learnt of the training samples themselves, and the curves are flat; its causes are named alone."""
    little = run.validations >= ENOUGH and run.level.learnt < LEARNT and run.level.gap < GAP and run.flat
    named = rate_too_low(run) or rate_too_high(run) or collapsed_to_the_mean(run) or outliers_rule_the_loss(run)
    return little and not named and run.level.evidence


def imbalance(run: Run) -> Evidence:
    """Classes differ in number, and macro F1 falls behind accuracy."""
    (least, rare), (most, frequent) = run.classes[0], run.classes[-1]
    f1, accuracy = run.val_f1.level(0.8), run.val_accuracy.level(0.8)
    holds = most >= RATIO * least and accuracy - f1 > MISSED
    scores = f"val/f1_macro {f1:.3f}, val/accuracy {accuracy:.3f}"
    return holds and f"{most} {NOUN} of {frequent!r}, {least} of {rare!r}; {scores}"


def labels_never_predicted(run: Run) -> Evidence:
    """Labels do not reach a probability of 0.5: all, or rare ones, so that macro F1 falls behind micro F1."""
    macro, micro = run.val_f1.level(0.8), run.curve("val/f1_micro").level(0.8)
    if run.validations < FEW:
        return False
    (least, rare), (most, frequent) = run.classes[0], run.classes[-1]
    scores = f"val/f1_macro {macro:.3f}, val/f1_micro {micro:.3f}, where a label counts from 0.5 on"
    if micro < NOTHING:
        return f"hardly any label is predicted; {scores}"
    holds = most >= RATIO * least and micro - macro > BEHIND
    return holds and f"{most} training {NOUN} have {frequent!r}, {least} have {rare!r}; {scores}"


def collapsed_to_the_mean(run: Run) -> Evidence:
    """What is said is hardly better than the same number always, and the loss stands still."""
    score, end = run.curve("val/r2").level(0.8), run.loss.level(0.8)
    holds = run.validations >= FEW and score < CONSTANT and run.flat and end > (1 - GAP) * run.chance
    named = rate_too_low(run) or rate_too_high(run) or outliers_rule_the_loss(run)
    same = f"train/loss {end:.3g}, {run.chance:.3g} by saying the same number always"
    return holds and not named and f"val/r2 {score:.3f} at the end; {same}"


def outliers_rule_the_loss(run: Run) -> Evidence:
    """A few samples have most of what a squared error counts, or the others differ by hardly a deviation."""
    if not isinstance(run.target, Numbers):
        return False
    squared = run.loss_name in ("MSE", "MSELoss")
    for name, far_N, target_N in zip(run.target.names, standardised(run).T, run.splits["train"][1].T, strict=True):
        few = max(1, round(FEW_CARRY * len(far_N)))
        share = np.sort(far_N**2)[-few:].sum() / max((far_N**2).sum(), np.finfo(float).tiny)
        lower, upper = np.quantile(far_N, [0.25, 0.75])
        if len(far_N) >= LEAST and ((squared and share > CARRY) or upper - lower < NARROW):
            middle, least, most = np.median(target_N), target_N.min(), target_N.max()
            seen = f"{name!r} is {middle:.4g} in the middle, and from {least:.4g} to {most:.4g}"
            return f"{few} of {len(far_N)} training {NOUN} have {share:.0%} of the squared deviation; {seen}"
    return False


def starved_loader(run: Run) -> Evidence:
    """Training waited for data most of the time."""
    if run.durations is None:
        return False
    seconds, waited = run.durations.seconds.sum(), run.durations.waiting.sum()
    return waited > max(WORTH, WAITING * seconds) and f"training waited for data {waited:.0f} of {seconds:.0f} seconds"


def behind_a_baseline(run: Run) -> Evidence:
    """The command ``baseline`` found a model that is no network and scores better on the validation split."""
    return run.compared is not None and run.compared.behind()


STEADIER = (
    "--model.optimizer.lr {lower:.2g}, then --model.schedule Plateau, then --model.optimizer.betas '[0.9, 0.95]', then "
    "--trainer.gradient_clip_val {clip:g}, then --data.batch_size {batch}, then --model.optimizer.weight_decay "
    "{decay:.2g}; all at once: --config stabilise"
)
# Causes come before what follows from them.
RULES = {
    outliers_rule_the_loss: "{log}--model.loss Huber, then --model.loss MAE, and a look at these rows: is it one unit?",
    rate_too_high: STEADIER,
    rate_too_low: "--model.optimizer.lr {higher:.2g}; lr-range finds a rate",
    exploding_gradients: "--trainer.gradient_clip_val {clip:g}, then --model.warmup_steps 0.1, then " + STEADIER,
    unstable_BatchNorm: "--data.batch_size {batch}, then --model.network.norm group, then --model.freeze true",
    fluctuating_validation_loss: STEADIER,
    plateau: "--model.schedule Plateau, then --model.schedule Cosine, then --model.optimizer.lr {lower:.2g}",
    stopped_too_early: "{longer}--trainer.max_epochs {epochs}",
    collapsed_to_the_mean: _flags.COLLAPSED,
    overfitting: _flags.OVERFITTING,
    underfitting: _flags.UNDERFITTING,
    imbalance: "--model.loss LogitAdjusted, then --data.balance effective_weights, then --data.balance sampler",
    labels_never_predicted: "--data.balance class_weights, then --data.balance sampler, then --model.loss Asymmetric",
    behind_a_baseline: "--model.optimizer.lr {higher:.2g} (lr-range finds a rate), then --trainer.max_epochs {epochs}, "
    "then {larger} or another network, then tune; where it stays behind, {baseline} is the model to take",
    starved_loader: _flags.STARVED,
}

# The kind of target that a rule is about; the others are about all.
ONLY = {
    outliers_rule_the_loss: "regression",
    collapsed_to_the_mean: "regression",
    imbalance: "multiclass",
    labels_never_predicted: "multilabel",
}
# What to try instead of numbers.
OF_NUMBERS = {overfitting: _flags.OVERFITTING_NUMBERS}


def diagnose(seen: Run) -> list[Finding]:
    """Return what the curves of a run point to, causes first."""
    rate = seen.setting("model.optimizer.init_args.lr", 0.001)
    decay = seen.setting("model.optimizer.init_args.weight_decay", 0.001)
    values = {
        "lower": rate / 3,
        "higher": rate * 10,
        "decay": 3 * decay or 0.01,
        "clip": seen.setting("trainer.gradient_clip_val", 2.0) / 2,
        "batch": 2 * seen.setting("data.batch_size", 16),
        "width": 2 * seen.setting("model.network.init_args.width", 32),
        "workers": 2 * seen.setting("data.num_workers", 1) or 2,
        "epochs": 2 * seen.epochs,
        "patience": max(20, 3 * seen.setting("callbacks.early_stopping.init_args.patience", 0)),
    }
    is_cut_short = seen.epochs < seen.setting("trainer.max_epochs", -1)
    values["longer"] = f"--callbacks.early_stopping.patience {values['patience']}, then " if is_cut_short else ""
    values["baseline"] = seen.compared.best().name if seen.compared else ""
    values["larger"] = _flags.LARGER.format(**values)
    assert seen.target is not None
    task = seen.target.task
    if task == Numbers.task:
        can_be_log = not getattr(seen.target, "log", True) and (seen.splits["train"][1] > 0).all()
        values["log"] = "--data.log_target true, then " if can_be_log else ""
    rules = RULES | (OF_NUMBERS if task == Numbers.task else {})
    findings = []
    for rule, advice in rules.items():
        if ONLY.get(rule, task) == task and (evidence := rule(seen)):
            findings.append(Finding(rule.__name__.replace("_", " "), evidence, advice.format(**values)))
    return findings


def none_found(seen: Run) -> str:
    """Say that there is no finding, and whether the run was long enough for one."""
    if seen.validations >= ENOUGH:
        return "no fault found"
    return f"no fault found, but most show after {ENOUGH} validations alone, and there are {seen.validations}"


def main(args: list[str]) -> None:
    """Run the command."""
    parser = Options(__name__, __doc__)
    parser.add_argument("run", nargs="?", type=Path, help="the run's folder; the newest of --name unless given")
    _results.add_run_options(parser)
    options = parser.parse_args(args)
    run = Run(options.run or runs.latest(options.run_root, options.name).folder)
    findings = diagnose(run)
    print(f"diagnose: {run.folder}")
    if run.error:
        print(f"the run failed: {run.error}")
    for finding in findings:
        print(f"{finding.name}: {finding.evidence}\n  try {finding.advice}")
    if not findings:
        print(none_found(run))
