"""``lr-range``: try every learning rate for a step; a picture and a suggestion.

Takes the flags of ``fit``. The range test (Smith 2017): the rate rises by the same factor at every step while the loss
is watched. The model trains as it would, with its optimizer, loss, augmentation and mixing, but without a schedule and
without clipping; the weights are thrown away and no run is begun. Writes lr_range.png and lr_range.html into
RUN_ROOT/NAME. Needs matplotlib and jinja2 (the extra ``report``).
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from ..cli import CLI
from ..engine import remote, runs
from ..engine.mistakes import Mistake, require
from ..engine.parser import Options
from ._page import Section, check_packages, figure, figures, png, write_page
from ._words import NOUN

DIVERGED = 4.0  # times the lowest loss: the test ends there
# What would bend the rates, or end the test.
FIXED = (
    "--model.schedule=null",
    "--model.warmup_steps=0",
    "--model.unfreeze_every=null",
    "--trainer.gradient_clip_val=null",
    "--trainer.limit_val_batches=0",
    "--trainer.max_epochs=-1",
    "--trainer.fast_dev_run=false",
    "--trainer.logger=false",
)


class Ended(Exception):
    """The test has seen enough."""


class RangeTest(Callback):
    """Gives each optimizer step its rate, and notes the loss that the step has led to.

    Args:
        rates: The rate of each step; a parameter group has it times its factor.
        bar: Moves with the steps.
    """

    def __init__(self, rates: np.ndarray, bar: tqdm) -> None:
        self.rates, self.bar = rates, bar
        self.losses: list[float] = []  # one more than rates: the first is that of the untrained network
        self.loss = 0.0

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss += loss.item()  # of a part of an accumulated batch: divided by the number of parts already
        if not math.isfinite(self.loss):
            raise Ended

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.losses.append(self.loss)
        self.loss = 0.0
        level = smoothed(np.array(self.losses))
        if len(self.losses) > len(self.rates) or level[-1] > DIVERGED * level.min():
            raise Ended
        for group in optimizer.param_groups:
            group["lr"] = self.rates[len(self.losses) - 1] * group["lr_factor"]
        self.bar.update()


def smoothed(losses: np.ndarray, beta: float = 0.9) -> np.ndarray:
    """Return the exponential moving average, corrected for its start at 0 (Kingma and Ba 2015, section 3)."""
    average = 0.0
    result = []
    for step, loss in enumerate(losses, 1):
        average = beta * average + (1 - beta) * loss
        result.append(average / (1 - beta**step))
    return np.array(result)


def suggest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Return the rate at which the average falls fastest over the logarithm of the rate, or None if it never falls.

    Only what comes before the lowest smoothed loss counts, and not the first tenth, where the average is of few values.
    """
    level = smoothed(losses)
    first = len(rates) // 10
    last = int(level.argmin()) + 1
    if last - first < 3:
        return None
    slope = np.gradient(level[:last], np.log10(rates[:last]))[first:]
    return float(rates[first + int(slope.argmin())]) if slope.min() < 0 else None


def draw(rates: np.ndarray, losses: np.ndarray, suggestion: float | None) -> Any:
    """Draw the loss of each step and its average over the rate."""
    drawn, axis = figure(4.2, 3.2)
    level = smoothed(losses)
    axis.plot(rates, losses, ".", color="C8", alpha=0.5, ms=3, label="a step's batch")
    axis.plot(rates, level, label="moving average")
    if suggestion is not None:
        axis.axvline(suggestion, color="C1", ls="--", label=f"suggestion {suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss (mean of a batch)", ylim=(0, 1.5 * level[0]))
    axis.legend()
    return drawn


def main(args: list[str]) -> None:
    """Run the command."""
    parser = Options(__name__, __doc__)
    parser.add_argument("--min-rate", type=float, default=1e-7, help="the first rate (1e-7)")
    parser.add_argument("--max-rate", type=float, default=10.0, help="the last rate (10)")
    parser.add_argument("--steps", type=int, default=200, help=f"optimizer steps; the training {NOUN} repeat (200)")
    options, rest = parser.parse_known_args(args)
    rises = 0 < options.min_rate < options.max_rate
    require(rises, "--min-rate", options.min_rate, f"0 < x < {options.max_rate}", "no rate would rise")
    require(options.steps >= 20, "--steps", options.steps, "x ≥ 20", "the curve would show nothing")
    check_packages("lr-range", "report", "matplotlib", "jinja2")
    cli = CLI([*rest, *FIXED, f"--trainer.max_steps={options.steps + 1}"], run=False)
    if cli.trainer.world_size > 1:
        raise Mistake(
            f"{cli.trainer.world_size} devices would each make the range test, so they would write over each other's "
            "page; give --trainer.devices 1."
        )
    if "unmixed_epochs" in cli.model.hparams:  # of images
        cli.model.hparams.unmixed_epochs = 0
    remote.refuse(cli.config.run_root, "lr-range")
    folder = Path(cli.config.run_root, cli.config.name)
    with tqdm(total=options.steps, desc="lr-range", unit="step") as bar:
        test = RangeTest(np.geomspace(options.min_rate, options.max_rate, options.steps), bar)
        # Alone: nothing is saved. NumericalFaults, the model's own, comes after it: no fault, if the loss diverges.
        cli.trainer.callbacks = [test]  # pyright: ignore
        with contextlib.suppress(Ended):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    losses = np.array(test.losses[1:])
    rates = test.rates[: len(losses)]
    if len(rates) < 10:
        raise Mistake(
            f"--min-rate={options.min_rate:g} let the loss diverge after {len(rates)} steps, so there is no curve; "
            "lower --min-rate."
        )
    suggestion = suggest(rates, losses)
    picture = draw(rates, losses, suggestion)
    png(picture, runs.made(folder) / "lr_range.png")
    text = "No suggestion: no rate lowered the loss; look at the data, or take more --steps."
    if suggestion is not None:
        text = f"Suggestion: --model.optimizer.lr {suggestion:.2g}"
    how = f"{len(rates)} steps; suggested is the rate at which the moving average, which lags, falls fastest."
    write_page(folder / "lr_range.html", "Learning-rate range test", [Section(text, figures((picture, how)))])
    print(f"{text}\npicture: {folder / 'lr_range.png'}\npage: {folder / 'lr_range.html'}")
