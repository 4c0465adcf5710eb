"""``--fast true``: the precision, memory layout and compilation that train fastest on this machine, by measuring.

A look at each setting, a step or two, takes at most a fiftieth of the run's estimated time; measuring those that look
faster takes at most a tenth of what they would save. What was chosen is printed and stands in the run's config.yaml, so
that a resumed or repeated run does not measure again.
"""

import contextlib
import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from .quantisation import QuantisationAware

LOOK = 0.02  # of the run's estimated time that a look at every setting may take
STAKE = 0.1  # of the time that a setting seems to save, which may be spent on measuring it
COMPILE = 0.01  # of the run's estimated time that a compilation may take
COMPILING = 60.0  # seconds that one is expected to take at most
WARM_UP, ROUNDS = 2, 5
BUSY = 0.05  # seconds of work that a GPU is given at once, so that what it waits for the host does not count
HOPELESS = 5  # times the present one's time that another setting's first step may take
GAIN = 0.98  # another setting is taken if its step takes at most this share of the present one's


class Setting(NamedTuple):
    """How a step is computed.

    Args:
        precision: A precision of the Trainer's.
        channels_last: Whether images and weights have the channels last in memory; None where there are no images.
        compiled: Whether the network is compiled.
    """

    precision: str
    channels_last: bool | None
    compiled: bool

    def __str__(self) -> str:
        layout = {None: "", True: "channels last, ", False: "channels first, "}[self.channels_last]
        return f"{self.precision}, {layout}{'compiled' if self.compiled else 'eager'}"


class Step:
    """One step of training under a setting, without the optimizer.

    Args:
        setting: How it is computed.
        network: Copied, not changed.
        inputs: What the network takes, on the device.
    """

    def __init__(self, setting: Setting, network: nn.Module, inputs: Any, device: torch.device) -> None:
        self.setting, self.device = setting, device
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.network = copy.deepcopy(network).to(self.device).to(memory_format=layout).train()  # pyright: ignore
        if setting.compiled:
            self.network.compile()
        self.inputs = inputs.contiguous(memory_format=layout) if setting.channels_last else inputs
        self.seconds: list[float] = []

    def __call__(self) -> None:
        half = self.setting.precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            loss = self.network(self.inputs).float().square().mean()  # what a loss costs does not show beside a network
        loss.backward()
        self.network.zero_grad()

    def measure(self, together: int = 1) -> None:
        """Time a step, as the mean of several that are handed to the device together."""
        began = time.perf_counter()
        for _ in range(together):
            self()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds.append((time.perf_counter() - began) / together)

    @property
    def median(self) -> float:
        """The median time of a step in seconds."""
        return statistics.median(self.seconds)

    @property
    def together(self) -> int:
        """How many steps a measurement takes, once one was measured: one on a CPU, which is never idle."""
        return min(10, math.ceil(BUSY / self.median)) if self.device.type == "cuda" else 1


def look(step: Step, together: int = 1, longest: float = math.inf) -> None:
    """Measure a step once, warm; one whose first time takes longer than ``longest`` seconds is left at that."""
    for _ in range(WARM_UP):
        step.measure()
        if step.median > longest:
            return
    step.seconds.clear()
    step.measure(together)


def interleaved(steps: list[Step], together: int, rounds: int) -> Step:
    """Measure warm steps in turn, so that what else the machine does meets them alike; returns the fastest."""
    for _ in range(rounds):
        for step in steps:
            step.measure(together)
    return min(steps, key=lambda step: step.median)


def choose(
    present: Setting, count: int, make: Callable[[Setting], Step], may_compile: bool = True
) -> tuple[Setting, str]:
    """Find the fastest setting for a run.

    Args:
        present: What the run would be without; a precision other than 32-true is kept.
        count: The steps of the run.
        make: Makes the step of a setting.
        may_compile: Whether the network can be compiled.

    Returns:
        The setting, and what was measured, for people.
    """
    first = make(present)
    look(first)
    precisions = ("32-true", "bf16-mixed") if present.precision == "32-true" else (present.precision,)
    layouts = (False, True) if present.channels_last is not None else (None,)
    settings = [Setting(*both, present.compiled) for both in itertools.product(precisions, layouts)]
    together = first.together
    if len(settings) * (WARM_UP + together) > LOOK * count:
        return present, f"{present} is kept: the run is too short to gain by measuring"
    steps = [first if setting == present else make(setting) for setting in settings]
    for step in steps:
        look(step, together, HOPELESS * first.median)
    rivals = [first, *(step for step in steps if step.median <= GAIN * first.median)]
    saved = count * (first.median - min(step.median for step in rivals))
    rounds = int(STAKE * saved / (together * sum(step.median for step in rivals)))
    best = interleaved(rivals, together, min(ROUNDS, rounds)) if rounds else first
    said = "; ".join(f"{step.setting} {step.median * 1e3:.1f} ms" for step in steps)
    if may_compile and COMPILE * count * best.median > COMPILING and not present.compiled:
        compiled = make(best.setting._replace(compiled=True))
        try:
            look(compiled)
        except Exception as error:  # no compiler, or a network that it does not take
            said += f"; not compiled ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
        else:
            best = interleaved([best, compiled], together, ROUNDS)
            said += f"; {compiled.setting} {compiled.median * 1e3:.1f} ms"
    chosen = best.setting if best.median <= GAIN * first.median else present
    return chosen, f"{chosen} of {said}"


class NoProfiler(PassThroughProfiler):
    """Profiles nothing for nothing: Lightning's own makes a generator for each of some 150 hooks of a step."""

    NOTHING = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.NOTHING


class Fast(Callback):
    """Chooses before the network is built, and writes the choice into the run's config.

    Args:
        config: The run's config, which is written to its folder afterwards.
    """

    def __init__(self, config: Namespace) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        device, data = trainer.strategy.root_device, trainer.datamodule  # pyright: ignore
        model: Any = pl_module
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.schema = data.schema
            model.build_for(data)
            inputs = model.to(device).prepared(data.example(data.device_batch).to(device))
        network, model.network = model.network, None  # configure_model builds it again, as was chosen here
        of_epochs = (trainer.max_epochs or 0) * (len(data.train_keys) // data.batch_size)
        steps = trainer.max_steps if trainer.max_steps > 0 else of_epochs
        hparams: Any = model.hparams
        present = Setting(str(trainer.precision), hparams.get("channels_last"), hparams.compile)
        given = self.config.trainer
        if device.type == "cuda" and given.benchmark is None and not given.deterministic:
            torch.backends.cudnn.benchmark = given.benchmark = True  # for a run that goes on, too
        rounds = any(isinstance(callback, QuantisationAware) for callback in trainer.callbacks)  # pyright: ignore
        count = steps * trainer.accumulate_grad_batches
        chosen, said = choose(present, count, lambda setting: Step(setting, network, inputs, device), not rounds)
        chosen = trainer.strategy.broadcast(chosen)
        if trainer.is_global_zero:
            print(f"fast: {said}")
        if chosen.precision != present.precision:
            trainer.strategy.precision_plugin = MixedPrecision("bf16-mixed", device.type)
        found = {"compile": chosen.compiled}
        if chosen.channels_last is not None:
            found["channels_last"] = chosen.channels_last
        hparams.update(found)
        self.config.model.update(Namespace(found))
        self.config.fast, self.config.trainer.precision = False, chosen.precision
