"""How fast a generated project is, beside a raw loop, bare Lightning, the usual pattern and others' loaders.

    python benchmarks/speed.py [--only step digits fast loader start growth gpu] [--device cpu|cuda] [--million]

The arms of a comparison take turns (A B A B …) in one process with one number of threads; the table gives the median of
the rounds and the range from the lowest to the highest. Compiling and warming up are left out and shown where they
matter. Beside each speed stands a check that nobody won by doing less. Each section takes its own earlier place in
results/speed.md and results/results.json. With ``--device cuda`` step, digits and fast run on the GPU and have sections
of their own, and gpu runs, which needs one.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from cookiecutter.main import cookiecutter
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

HERE = Path(__file__).parent


class Result(NamedTuple):
    """A line of the table.

    Args:
        name: What was measured.
        value: The median.
        interval: The lowest and the highest round.
        target: What it should be, in words; empty where none is set.
        unit: Of the value.
        peer: What it was measured against.
        met: Whether the target holds; None where none is set.
    """

    name: str
    value: float
    interval: tuple[float, float]
    target: str
    unit: str
    peer: str
    met: bool | None


RESULTS: list[Result] = []
NOTES: list[str] = []


def record(
    name: str, values: list[float], unit: str, peer: str = "", at_least: Any = None, at_most: Any = None
) -> None:
    """Add a line to the table, and print it."""
    value = statistics.median(values)
    target, met = "", None
    if at_least is not None:
        target, met = f"≥ {at_least}", value >= at_least
    elif at_most is not None:
        target, met = f"≤ {at_most}", value <= at_most
    RESULTS.append(Result(name, value, (min(values), max(values)), target, unit, peer, met))
    print(
        f"{name}: {value:.3g} {unit} ({min(values):.3g} to {max(values):.3g}) {target} {'' if met is None else met}",
        flush=True,
    )


def note(text: str) -> None:
    """Add a check or a limit that belongs beside the figures."""
    NOTES.append(text)
    print(text, flush=True)


def in_turn(rounds: int, arms: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run the arms one after the other, several times; returns what each gave."""
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            gc.collect()
            seen[name].append(arm())
    return seen


def ratios(seen: dict[str, list[float]], above: str, below: str) -> list[float]:
    """Divide what two arms gave, round by round."""
    return [a / b for a, b in zip(seen[above], seen[below], strict=True)]


@contextlib.contextmanager
def hidden() -> Iterator[io.StringIO]:
    """Keep what is printed; the progress bar is shown a terminal, so that it does its work."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with contextlib.redirect_stderr(terminal), contextlib.redirect_stdout(terminal):
        yield terminal


class Clock(Callback):
    """Takes the time of a training loop, from its first batch to its end."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.began
        self.steps = trainer.global_step
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


class Plain(LightningModule):
    """The same experiment in a bare LightningModule, or with the logging that templates usually have."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, optimizer: Any, usual: bool) -> None:
        super().__init__()
        self.network, self.make, self.usual = network, optimizer, usual
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.accuracy: Any = nn.ModuleDict({s: MulticlassAccuracy(10, average="micro") for s in ("fit", "validate")})
        self.f1: Any = nn.ModuleDict({s: MulticlassF1Score(10) for s in ("fit", "validate")})

    def _step(self, batch: Any, name: str) -> Tensor:
        logits = self.network((batch[0] - self.mean) / self.std)
        loss = F.cross_entropy(logits, batch[1])
        if self.usual:
            self.accuracy[name](logits, batch[1])
            self.f1[name](logits, batch[1])
            at_steps = name == "fit"
            self.log(f"{name}/loss", loss, on_step=at_steps, on_epoch=True, prog_bar=True)
            self.log(f"{name}/accuracy", self.accuracy[name], on_step=at_steps, on_epoch=True, prog_bar=True)
            self.log(f"{name}/f1", self.f1[name], on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "fit")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "validate")

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.make(self.network)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def project(folder: Path) -> None:
    """Bake a project with the default answers and make it importable."""
    baked = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=str(folder / "baked")))
    sys.path.insert(0, str(baked / "src"))
    os.environ["PYTHONPATH"] = str(baked / "src")
    os.chdir(folder)


def digits_experiment(
    network: str, epochs: int, device: str, extra: tuple[str, ...] = ()
) -> dict[str, Callable[[], float]]:
    """Return arms that train the digits and give steps a second: ours, a raw loop, bare Lightning, the usual pattern.

    All train the same network on the same batches with the same optimizer, schedule and clipping. ``ours`` is the
    command ``fit``.
    """
    from my_project.cli import CLI  # pyright: ignore[reportMissingImports]
    from my_project.engine.sampling import derived_seed, run_seed  # pyright: ignore[reportMissingImports]
    from my_project.metrics import metrics  # pyright: ignore[reportMissingImports]
    from torchmetrics import MeanMetric

    losses: dict[str, float] = {}
    flags = [*network.split(), f"--trainer.max_epochs={epochs}", f"--trainer.accelerator={device}", *extra]

    def parts() -> Any:
        with hidden():
            cli = CLI([*flags, "--trainer.logger=false"], run=False)
            data, model = cli.datamodule, cli.model
            data.prepare_data()
            data.setup("fit")
            with torch.random.fork_rng(devices=[]):  # the first weights of `fit`
                torch.manual_seed(derived_seed(run_seed(), 1))
                model.build(data.schema, data.loss_balance)
        return data, model

    def make(model: Any, steps: int) -> Callable[[nn.Module], Any]:
        from my_project.engine.optimizers import parameter_groups, with_warmup  # pyright: ignore[reportMissingImports]

        def optimizer_of(network: nn.Module) -> Any:
            optimizer = model.make_optimizer(parameter_groups(network), fused=True)
            share = model.hparams.warmup_steps
            warmup = int(share * steps if share < 1 else share)
            return optimizer, with_warmup(optimizer, model.make_schedule, steps, warmup)[0]

        return optimizer_of

    def on_device(loader: Any) -> Any:
        """Move batches as Lightning does: from pinned memory, without waiting."""
        return (type(batch)(*(part.to(device, non_blocking=True) for part in batch)) for batch in loader)

    def batches(data: Any, epoch: int) -> Any:
        loader = data.train_dataloader()
        loader.position = lambda: (epoch, 0)
        return loader

    def ours() -> float:
        clock = Clock()
        with hidden():
            CLI(["fit", *flags], callbacks=[clock])
        losses["ours"] = clock.metrics.get("val/loss", 0.0)
        return clock.steps / clock.seconds

    def raw() -> float:
        data, model = parts()
        model.to(device)
        loader = batches(data, 0)
        validation = data.val_dataloader()
        count = len(loader) * epochs
        optimizer, scheduler = make(model, count)(model.network)
        scores, mean_loss = metrics(10).to(device), MeanMetric().to(device)
        began = time.perf_counter()
        for epoch in range(epochs):
            loader.position = lambda epoch=epoch: (epoch, 0)
            model.network.train()
            for batch in on_device(loader):
                loss = F.cross_entropy(model.network(model.normalised(batch.x)), batch.y)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
            model.network.eval()
            scores.reset()
            mean_loss.reset()
            with torch.inference_mode():
                for batch in on_device(validation):
                    logits = model.network(model.normalised(batch.x))
                    mean_loss.update(F.cross_entropy(logits, batch.y), len(logits))
                    scores.update(logits.softmax(1), batch.y)
            scores.compute()
            losses["raw"] = float(mean_loss.compute())
        return count / (time.perf_counter() - began)

    def lightning(usual: bool = False, features: bool = False) -> float:
        data, model = parts()
        clock = Clock()
        count = len(data.train_dataloader()) * epochs
        plain = Plain(model.network, model.normalised.mean_1C11, model.normalised.std_1C11, make(model, count), usual)
        extras: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        callbacks: list[Callback] = [clock]
        if usual or features:
            folder = tempfile.mkdtemp(dir=".")
            extras = {"logger": [TensorBoardLogger(folder), CSVLogger(folder)]}
            callbacks += [ModelCheckpoint(folder, monitor="validate/loss", save_last=True)] if usual else []
            callbacks += [ModelCheckpoint(folder), LearningRateMonitor()] if features else []
            callbacks += [TQDMProgressBar(refresh_rate=10 if features else 1)]
        with hidden():
            trainer = Trainer(
                max_epochs=epochs, accelerator=device, callbacks=callbacks, gradient_clip_val=1.0,
                use_distributed_sampler=False, num_sanity_val_steps=0, enable_model_summary=False, **extras,
            )  # fmt: skip
            if usual:
                trainer.fit(plain, data.train_dataloader(), data.val_dataloader())
            else:
                trainer.fit(plain, data.train_dataloader())
        return clock.steps / clock.seconds

    arms = {"ours": ours, "raw": raw, "bare": lightning, "usual": lambda: lightning(usual=True)}
    arms["features"] = lambda: lightning(features=True)
    arms["losses"] = lambda: abs(losses["ours"] - losses["raw"])
    return arms


def as_it_is(batch: Any) -> Any:
    """Collate nothing."""
    return batch


def step(device: str = "cpu") -> None:
    """The time that a step costs over a bare Lightning Trainer, everything on."""
    from my_project.data import ImageData  # pyright: ignore[reportMissingImports]

    made: dict[int, list[Any]] = {}
    whole = ImageData.train_dataloader

    def in_memory(self: Any) -> Any:  # the loader is measured elsewhere
        if not made:
            loader = whole(self)
            made[0] = [batch for _ in range(20 if device == "cpu" else 8) for batch in loader]
        pinned = device == "cuda"
        return torch.utils.data.DataLoader(made[0], batch_size=None, collate_fn=as_it_is, pin_memory=pinned)  # pyright: ignore

    ImageData.train_dataloader = in_memory
    quiet = ("--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0", "--callbacks.best=null")
    quiet += ("--callbacks.early_stopping=null", "--callbacks.check_metric=null", "--data.augment=none")
    quiet += ("--trainer.log_every_n_steps=50",)  # Lightning's default
    small = "--model.network=SmallMLP --model.network.width=16 --model.network.depth=1 --data.batch_size=16"
    arms = digits_experiment(small, 1, device, quiet)
    del arms["losses"], arms["raw"]
    try:
        seen = in_turn(7, arms)
    finally:
        ImageData.train_dataloader = whole
    for name, what, target in (
        ("ours", "everything on (sums, CSV, TensorBoard, checkpoint, bar)", 0.10),
        ("features", "Lightning's own loggers, bar, checkpoint and rate monitor, nothing logged", None),
        ("usual", "the usual pattern", None),
    ):
        added = [1e3 / a - 1e3 / b for a, b in zip(seen[name], seen["bare"], strict=True)]
        record(f"time a step over bare Lightning, {what}", added, "ms", "bare Lightning", at_most=target)
    record("a step of bare Lightning", [1e3 / a for a in seen["bare"]], "ms")
    note(f"step: {len(made[0])} steps a round of a small MLP on batches of 16 in memory, clipped, with a schedule.")


def digits(device: str = "cpu") -> None:
    """The default run against a raw loop with the same validation and metrics."""
    once = digits_experiment("", 1, device)
    for arm in ("ours", "raw"):
        once[arm]()  # the cache of images and the allocator, too
    arms = digits_experiment("", 8, device)
    for name in ("bare", "features", "losses"):
        arms.pop(name)
    arms["unsaved"] = digits_experiment("", 8, device, ("--callbacks.best=null", "--callbacks.last=null"))["ours"]
    seen = in_turn(5, arms)
    record("digits, default run: steps a second", ratios(seen, "ours", "raw"), "×", "raw loop", at_least=0.85)
    record("digits, default run without checkpoints", ratios(seen, "unsaved", "raw"), "×", "raw loop, which saves none")
    record("digits, usual pattern: steps a second", ratios(seen, "usual", "raw"), "×", "raw loop")
    record("digits, default run", seen["ours"], "steps/s")
    note(f"digits: after an epoch the validation loss of `fit` and of the raw loop differ by {once['losses']():.1e}.")


def fast(device: str = "cpu") -> None:
    """The choice of ``--fast`` against the best cell of the grid dtype × layout × compile."""
    from my_project.engine.fast import Setting, Step, choose, interleaved  # pyright: ignore[reportMissingImports]
    from my_project.networks import Backbone  # pyright: ignore[reportMissingImports]

    sizes = ((64, 32), (224, 8)) if device == "cpu" else ((224, 256),)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True  # as --fast sets it
    for size, batch in sizes:
        network = Backbone(3, 10, "resnet18")
        images = torch.rand(batch, 3, size, size, device=device)

        def make(setting: Any, network: Any = network, images: Any = images) -> Any:
            return Step(setting, network, images, torch.device(device))

        settings = [Setting(p, c, k) for k in (False, True) for p in ("32-true", "bf16-mixed") for c in (False, True)]
        cells, compiling = {}, 0.0
        for setting in settings:
            began = time.perf_counter()
            cells[setting] = make(setting)
            cells[setting]()
            cells[setting].measure()
            compiling += (time.perf_counter() - began) * setting.compiled
        together = cells[settings[0]].together
        for cell in cells.values():
            cell.seconds.clear()
        interleaved(list(cells.values()), together)
        chosen, said = choose(settings[0], 10_000_000, make)
        best = min(cells.values(), key=lambda cell: cell.median)
        name = f"ResNet-18 at {size}×{size}, --fast"
        rounds = [b / c for b, c in zip(best.seconds, cells[chosen].seconds, strict=True)]
        record(f"{name}: throughput against the best of 8 cells", rounds, "×", str(best.setting), at_least=0.97)
        gains = [d / c for d, c in zip(cells[settings[0]].seconds, cells[chosen].seconds, strict=True)]
        record(f"{name}: throughput against the default", gains, "×", str(settings[0]), at_least=0.98)
        note(f"fast, {size}×{size}, batch {batch}: {said}. Compiling the four cells took {compiling:.0f} s.")


def photographs(folder: Path, count: int, width: int, height: int) -> float:
    """Draw JPEGs with the spectrum of photographs (amplitude ~ 1/f), two classes; returns their mean size in kB."""
    rng = np.random.default_rng(0)
    margin = 64
    fy, fx = np.fft.fftfreq(height + margin)[:, None], np.fft.fftfreq(width + margin)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / width) ** 1.25
    canvases = []
    for _ in range(8):
        noise = rng.normal(size=(4, height + margin, width + margin))
        grey, *colours = np.fft.ifft2(np.fft.fft2(noise) * amplitude).real
        pixels = np.stack([grey + 0.3 * colour for colour in colours], -1)
        canvases.append(((pixels / pixels.std()) * 50 + 120).clip(0, 255).astype(np.uint8))
    total = 0
    for number in range(count):
        target = folder / f"class_{number % 2}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        top, left = rng.integers(0, margin, 2)
        image = canvases[number % len(canvases)][top : top + height, left : left + width]
        Image.fromarray(image).save(target, quality=90)
        total += target.stat().st_size
    return total / count / 1e3


class Decoded(torch.utils.data.Dataset[Any]):
    """JPEGs that are decoded at the size that ours need, and thrown away."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            image.draft(None, (256, 256))  # pyright: ignore[reportArgumentType]
            image.load()
        return torch.zeros(1), 0


def loader(workers: int = 2) -> None:
    """Images a second through the training loader, against those of torchvision's reference scripts and of timm."""
    import timm.data
    import torchvision.transforms as transforms
    from my_project.data import ImageData  # pyright: ignore[reportMissingImports]
    from torchvision.datasets import ImageFolder

    statistics_ = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for count, width, height, taken in ((5000, 500, 375, 1600), (800, 1600, 1200, 704)):
        folder = Path(f"photographs-{width}").absolute()
        kilobytes = photographs(folder, count, width, height)
        crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
        crop += [transforms.ConvertImageDtype(torch.float), transforms.Normalize(*statistics_)]
        peer = ImageFolder(str(folder), transforms.Compose(crop))
        options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "num_workers": workers}
        reference = torch.utils.data.DataLoader(peer, **options)
        timms = timm.data.create_loader(  # pyright: ignore
            ImageFolder(str(folder)),  # pyright: ignore
            (3, 224, 224), 64, is_training=True, use_prefetcher=False, color_jitter=0.0,
            num_workers=workers, persistent_workers=False,
        )  # fmt: skip

        def ours(cache_gb: float | None, folder: Path = folder) -> Any:
            data = ImageData(
                str(folder), image_size=224, stored_size=256, channels=3, augment="crop", flip=True, cache_gb=cache_gb,
                val_fraction=0.1, test_fraction=0, num_workers=workers,
            )  # fmt: skip
            data.setup("fit")
            return data.train_dataloader()

        began = time.perf_counter()
        cached = ours(None)
        built = time.perf_counter() - began
        checks: dict[str, tuple[float, ...]] = {}

        def rate(name: str, source: Any, taken: int = taken, checks: Any = checks) -> float:
            batches = iter(source)
            x, seen = next(batches)[0].float(), 0
            for _ in range(2 * workers):  # what the workers fetch ahead while they start
                next(batches)
            if x.max() > 20:
                x = (x / 255 - torch.tensor(statistics_[0]).view(3, 1, 1)) / torch.tensor(statistics_[1]).view(3, 1, 1)
            if name != "Pillow":
                checks[name] = (*x.shape[1:], round(float(x.mean()), 2), round(float(x.std()), 2))
            began = time.perf_counter()
            for batch in batches:
                seen += len(batch[0])
                if seen >= taken - 64 * (2 * workers + 2):
                    break
            seconds = time.perf_counter() - began
            del batches
            source._iterator = None  # ends workers that would go on reading ahead
            return seen / seconds

        alone = torch.utils.data.DataLoader(Decoded(folder), **options)
        arms = {"torchvision": reference, "uncached": ours(0), "cached": cached, "timm": timms, "Pillow": alone}
        seen = in_turn(3, {name: lambda name=name, arm=arm: rate(name, arm) for name, arm in arms.items()})
        size, large = f"{width}×{height}", width > 1000
        record(f"JPEGs of {size}: torchvision's loader", seen["torchvision"], "images/s")
        for name, target in (("uncached", 3.0 if large else 1.5), ("cached", None if large else 6.0), ("timm", None)):
            what = name if name == "timm" else f"ours, {name}"
            record(f"JPEGs of {size}: {what}", ratios(seen, name, "torchvision"), "×", "torchvision", at_least=target)
        what = "Pillow decoding at that size and nothing else, the most that a loader on it could reach"
        record(f"JPEGs of {size}: {what}", ratios(seen, "Pillow", "torchvision"), "×", "torchvision")
        note(
            f"loader, {size} ({kilobytes:.0f} kB each), {workers} workers, batches of 64: the cache was built in "
            f"{built:.1f} s; shape, mean and deviation of a batch after normalising: {checks}."
        )


START = """
import sys, time
began = float(sys.argv.pop(1))
from lightning.pytorch import Callback
class First(Callback):
    def on_train_batch_end(self, *args, **kwargs):
        print("FIRST", time.time() - began, flush=True)
        import os; os._exit(0)
from my_project.engine.endings import quiet
from my_project.cli import CLI
quiet()
CLI(["fit", *sys.argv[1:]], callbacks=[First()])
"""
RAW_START = """
import sys, time
began = float(sys.argv.pop(1))
import my_project.cli, my_project.engine.fast, albumentations, torch.utils.tensorboard
import torch
from my_project.data import ImageData
from my_project.networks import SmallCNN
data = ImageData("digits", num_workers=0)
data.prepare_data(); data.setup("fit")
batch = next(iter(data.train_dataloader()))
network = SmallCNN(1, 10, 24)
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
torch.nn.functional.cross_entropy(network(batch.x / 255), batch.y).backward()
optimizer.step()
print("FIRST", time.time() - began)
"""


def start() -> None:
    """Seconds from the command to the first optimizer step, and to the help."""
    from my_project.__main__ import main  # pyright: ignore[reportMissingImports]

    with hidden():
        main(["fit", "--trainer.max_epochs=1"])  # the digits and their cache are there

    def seconds(program: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", program, str(time.time())], capture_output=True, text=True, check=True
        )
        return float(done.stdout.split("FIRST")[1].split()[0])

    seen = in_turn(4, {"fit": lambda: seconds(START), "raw": lambda: seconds(RAW_START)})
    record("fit to the first optimizer step", ratios(seen, "fit", "raw"), "×", "imports + the step", at_most=1.15)
    record("fit to the first optimizer step, in seconds", seen["fit"], "s")

    def help_() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "my_project", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    record("--help", [help_() for _ in range(5)], "s", at_most=0.5)


GROWTH = """
import resource, sys, time
import my_project.cli
from my_project.data import ImageData
from my_project.engine.sampling import EpochSampler
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
imported, began = memory(), time.perf_counter()
data = ImageData(sys.argv[1], image_size=4, channels=1, cache_gb=0, num_workers=0, batch_size=64)
data.setup("fit")
ready = time.perf_counter()
next(iter(data.train_dataloader()))
first = time.perf_counter()
data.manifest.save("manifest-of-growth.json")
print("GROWTH", ready - began, first - ready, imported, memory())
"""


def growth(million: bool) -> None:
    """Time and memory of a start against the number of files."""
    times: dict[int, float] = {}
    for count in (1_000, 10_000, 100_000, *((1_000_000,) if million else ())):
        folder = Path(f"files-{count}").absolute()
        rng = np.random.default_rng(0)
        for number in range(count):
            place = folder / f"class_{number % 10}"
            if number < 10:
                place.mkdir(parents=True)
            (place / f"{number:07d}.pgm").write_bytes(b"P5 4 4 255\n" + rng.bytes(16))  # equal in size: all are hashed

        def measured(folder: Path = folder) -> list[float]:
            done = subprocess.run(
                [sys.executable, "-c", GROWTH, str(folder)], capture_output=True, text=True, check=True
            )
            return [float(value) for value in done.stdout.split("GROWTH")[1].split()]

        indexing = measured()[0]
        setup, epoch, imported, peak = measured()
        times[count] = setup + epoch
        seconds, megabytes = (60, 1000) if count == 1_000_000 else (None, None)
        record(f"start with {count:,} files, hashes known", [setup + epoch], "s", at_most=seconds)
        record(f"start with {count:,} files: memory at its highest", [peak], "MB", at_most=megabytes)
        note(
            f"growth, {count:,} files: listing, splitting and starting {setup:.2f} s, the first batch of an epoch "
            f"{epoch:.2f} s; the first start, which hashes all files, {indexing:.2f} s; memory {imported:.0f} MB after "
            f"the imports, {peak:.0f} MB at its highest, {(peak - imported) * 1e6 / count:.0f} bytes a file."
        )
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    most = max(times)
    record(f"time a file, {most:,} against {most // 10:,} files", [times[most] / times[most // 10] / 10], "×")


def gpu() -> None:
    """A GPU: one flag against Lightning's defaults, the cache against resident data, host waits, a ViT's share."""
    from my_project.cli import CLI  # pyright: ignore[reportMissingImports]

    device = torch.device("cuda")
    folder = Path("photographs")
    photographs(folder, 2048, 500, 375)
    for path in list(folder.rglob("*.jpg")):  # epochs of some length; the bytes after an image's end are not read
        for number in range(7):
            path.with_stem(f"{path.stem}-{number}").write_bytes(path.read_bytes() + bytes([number]))

    def trained(*flags: str) -> float:
        clock = Clock()
        with hidden():
            CLI(
                [
                    "fit", "--data.root=photographs", "--data.image_size=224", "--data.stored_size=256",
                    "--data.augment=crop", "--data.flip=true", "--data.num_workers=14", "--data.batch_size=256",
                    "--data.test_fraction=0",
                    "--model.network=Backbone", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0",
                    "--callbacks.best=null", "--callbacks.early_stopping=null", "--callbacks.check_metric=null",
                    "--trainer.max_epochs=3", "--trainer.log_every_n_steps=50", *flags,
                ],
                callbacks=[clock],
            )  # fmt: skip
        rows = Path("runs/digits").glob("version_*/timing.csv")
        newest = max(rows, key=lambda path: path.stat().st_mtime).read_text().splitlines()[2:]  # the first warms up
        numbers = [[float(value) for value in row.split(",")] for row in newest]
        seconds, waited, images = (sum(column) for column in list(zip(*numbers, strict=True))[1:])
        note(f"gpu, {' '.join(flags)}: {images / seconds:.0f} images/s, {waited / seconds:.0%} of it waiting for data.")
        return images / seconds

    def resident(name: str, batch: int) -> tuple[float, float]:
        """Images a second of a compiled bf16 loop on data that lies on the device, and its share of the matrix rate."""
        import torchvision

        network = getattr(torchvision.models, name)(num_classes=2).to(device, memory_format=torch.channels_last)
        network.compile()
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        x = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
        y = torch.randint(2, (batch,), device=device)

        def once() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(network(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        for _ in range(10):
            once()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(50):
            once()
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / 50
        from torch.utils.flop_counter import FlopCounterMode

        eager = getattr(torchvision.models, name)(num_classes=2).to(device)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(eager(x[:8]), y[:8]).backward()
        return batch / seconds, counter.get_total_flops() * batch / 8 / seconds

    def matrix_rate() -> float:
        a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        for _ in range(5):
            torch.mm(a, a)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(50):
            torch.mm(a, a)
        torch.cuda.synchronize()
        return 50 * 2 * 8192**3 / (time.perf_counter() - began)

    tuned = ("--model.network.name=resnet50", "--trainer.precision=bf16-mixed", "--model.channels_last=true")
    record("host synchronisations between log points", [synchronisations()], "", at_most=0)
    best = resident("resnet50", 256)[0]
    record("ResNet-50 at 224², resident data", [best], "images/s")
    ours = trained(*tuned, "--model.compile=true")
    record("ResNet-50 at 224², all features on, from the cache", [ours / best], "×", "resident data", at_least=0.97)
    plain = trained("--model.network.name=resnet50", "--callbacks.last=null", "--trainer.logger=[]")
    # Of a long run the first minute: a short one is not worth measuring, and keeps what it has.
    one_flag = trained(
        "--model.network.name=resnet50", "--fast=true", "--trainer.max_epochs=4000", "--trainer.max_time=00:00:01:00"
    )
    record("--fast", [one_flag / plain], "×", "fp32, channels first, eager", at_least=4)
    rate, flops = resident("vit_b_16", 256)
    share = flops / matrix_rate()
    record("ViT-B/16 at 224²: share of the measured bf16 matrix rate", [share], "×", "matrix product", at_least=0.5)
    record("ViT-B/16 at 224²", [rate], "images/s")


def synchronisations() -> float:
    """Count the waits for the device in the steps between two log points."""
    from my_project.cli import CLI  # pyright: ignore[reportMissingImports]
    from torch.profiler import ProfilerActivity, profile

    counts: list[int] = []

    class Count(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 102:
                self.profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
                self.profile.__enter__()

        def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 112:  # the epoch, and with it a validation, ends at 114
                self.profile.__exit__(None, None, None)
                waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
                seen = {event.key: event.count for event in self.profile.key_averages() if event.key in waits}
                note(f"gpu, waits in the steps 102 to 112, the profiler's own at its end among them: {seen}.")
                counts.append(sum(seen.values()) - 1)

    with hidden():
        CLI(["fit", "--trainer.max_epochs=8", "--trainer.log_every_n_steps=20"], callbacks=[Count()])
    return float(counts[0])


def machine(device: str) -> str:
    """Describe what the figures were taken on."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in described if "model name" in line), platform.machine())
    hardware = f"{len(os.sched_getaffinity(0))} cores of {processor}"
    if device == "cuda":
        hardware = f"{torch.cuda.get_device_name()}, {hardware}"
    commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = [f"{name} {version(name)}" for name in ("torch", "torchvision", "lightning", "timm")]
    return ", ".join([hardware, *versions, f"Python {platform.python_version()}", f"commit {commit.stdout.strip()}"])


def write(section: str, device: str) -> None:
    """Put the figures of a section into results.json and speed.md, in the place of its earlier ones."""
    listed, page = HERE / "results/results.json", HERE / "results/speed.md"
    known = json.loads(listed.read_text()) if listed.is_file() else []
    kept = [entry for entry in known if entry["section"] != section]
    listed.write_text(
        json.dumps(kept + [result._asdict() | {"section": section} for result in RESULTS], indent=1) + "\n"
    )
    lines = ["| what | median | range of the rounds | against | target | met |", "|---|---|---|---|---|---|"]
    for result in RESULTS:
        low, high = result.interval
        met = {True: "yes", False: "**no**", None: ""}[result.met]
        span = "" if low == high else f"{low:.3g} to {high:.3g}"
        cells = (result.name, f"{result.value:.3g} {result.unit}", span, result.peer, result.target, met)
        lines.append(f"| {' | '.join(cells)} |")
    body = [f"## {section}", "", machine(device), "", *lines, "", *(f"- {text}" for text in NOTES)]
    parts = page.read_text().split("\n\n## ") if page.is_file() else ["# Speed"]
    blocks = {part.split("\n", 1)[0]: f"## {part.rstrip()}" for part in parts[1:]} | {section: "\n".join(body)}
    order = [name for name in (*SECTIONS, *map(on_a_gpu, ON_GPU), "gpu") if name in blocks]
    page.write_text("\n\n".join([parts[0].rstrip(), *(blocks[name] for name in order)]) + "\n")
    RESULTS.clear()
    NOTES.clear()


SECTIONS = ("step", "digits", "fast", "loader", "start", "growth")
ON_GPU = ("step", "digits", "fast")


def on_a_gpu(section: str) -> str:
    """Return the title of a section that was measured on a GPU and stands beside that of the CPU."""
    return f"{section} on a GPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS, "gpu"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--million", action="store_true", help="Measure the growth to a million files.")
    options = parser.parse_args()
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device, known = options.device, SECTIONS if options.device == "cpu" else (*ON_GPU, "gpu")
    wrong = set(options.only or ()) - set(known)
    if wrong:
        parser.error(f"--only {' '.join(sorted(wrong))} is not measured with --device {device}; choose from {known}")
    arms = {name: lambda arm=arm: arm(device) for name, arm in (("step", step), ("digits", digits), ("fast", fast))}
    arms |= {"loader": loader, "start": start, "growth": lambda: growth(options.million), "gpu": gpu}
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        project(Path(folder))
        from my_project.engine.endings import quiet  # pyright: ignore[reportMissingImports]

        quiet()
        for name in options.only or known:
            arms[name]()
            write(on_a_gpu(name) if device == "cuda" and name in ON_GPU else name, device)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
