"""What makes a run fast changes nothing else: the cache, fetching in batches, known hashes, ``--fast``."""

import os
import pickle
import shutil
import sys
import tracemalloc
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from project_package.data import ImageData
from project_package.engine import contents, fast
from project_package.engine.cache import Cache
from project_package.engine.decoding import decode
from project_package.engine.fast import Setting, choose
from project_package.engine.faults import NumericalFaults
from project_package.engine.images import Decoding
from project_package.engine.mistakes import RunFailed
from project_package.engine.optimizers import make_optimizer
from project_package.engine.sampling import EpochSampler
from project_package.model import Classifier

RUN = Path("runs/small/version_0")


def ready(root: Path, **options) -> ImageData:
    data = ImageData(str(root), **{"num_workers": 0, "batch_size": 8, "augment": "medium", **options})
    data.setup("fit")
    return data


def batches(data: ImageData) -> list[torch.Tensor]:
    return [batch.x for loader in (data.train_dataloader(), data.val_dataloader()) for batch in loader]


def files() -> list[Path]:
    return [path for path in Path("data/cache").glob("*.npy") if path.name != "hashes.npy"]


def test_with_the_cache_or_without_images_are_the_same_bytes(shapes):
    options = {"channels": 3, "image_size": 12, "stored_size": 14}
    assert all(map(torch.equal, batches(ready(shapes, **options)), batches(ready(shapes, cache_gb=0, **options))))
    assert len(files()) == 1


def test_workers_and_other_processes_open_the_file_and_get_none_of_its_bytes(shapes):
    train = ready(shapes).train
    sent = pickle.dumps(train.decoded)
    assert len(sent) < len(train) * train.decoded.size / 10
    assert np.array_equal(pickle.loads(sent)[3], train.decoded[3])
    assert all(map(torch.equal, batches(ready(shapes)), batches(ready(shapes, num_workers=2))))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_that_is_cut_short_while_it_is_read_is_one_line_and_a_removed_one_is_read_on(workers, shapes):
    data = ready(shapes, num_workers=workers)
    before = batches(data)
    (file,) = files()
    content = file.read_bytes()
    file.unlink()
    assert all(map(torch.equal, batches(data), before))
    file.write_bytes(content)
    data = ready(shapes, num_workers=workers)
    os.truncate(next(iter(files())), 200)
    with pytest.raises(RunFailed, match="it was cut short"):
        batches(data)


@pytest.mark.parametrize("damage", ["a byte", "its end", "all"])
def test_a_damaged_cache_is_built_anew(damage, shapes, capsys):
    before = batches(ready(shapes))
    (file,) = files()
    content = bytearray(file.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 255
    file.write_bytes({"a byte": content, "its end": content[:-100], "all": b"nothing"}[damage])
    capsys.readouterr()
    assert all(map(torch.equal, batches(ready(shapes)), before))
    assert "cache: " in capsys.readouterr().out


def test_a_changed_image_gives_another_cache(shapes, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    manifest = ready(root).manifest
    path = root / manifest.splits["train"][0][0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    changed = ready(root)
    assert len(files()) == 2
    assert np.array_equal(changed.train.decoded[0], decode(path, 1, 16))


def test_test_images_are_not_in_it(shapes):
    data = ready(shapes)
    assert data.val_dataloader().dataset.decoded is not None
    assert data.test_dataloader().dataset.decoded is None


def test_a_cache_over_the_budget_is_not_built_and_an_old_one_makes_room(shapes, capsys):
    needed = 60 * 16 * 16 / 1e9
    data = ready(shapes, cache_gb=needed / 2)
    assert data.cache is None
    assert "--data.cache_gb" in capsys.readouterr().out
    assert not files()
    first = ready(shapes, cache_gb=2 * needed).cache
    second = ready(shapes, image_size=15, cache_gb=2 * needed).cache
    third = ready(shapes, image_size=14, cache_gb=2 * needed).cache
    assert [cache.file.exists() for cache in (first, second, third)] == [False, True, True]


def test_an_image_that_cannot_be_read_is_named_before_training_and_leaves_no_half(run, shapes, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    data = ready(root, cache_gb=0)
    broken = root / data.manifest.splits["train"][0][0]
    broken.write_bytes(broken.read_bytes()[:-50])
    assert run("fit", f"--data.root={root}") == 2
    assert broken.name in capsys.readouterr().err
    assert {path.name for path in Path("data/cache").iterdir()} <= {"hashes.npy", "CACHEDIR.TAG"}
    assert not Path("runs").exists()


def test_two_processes_that_build_at_once_do_it_once(shapes, tmp_path):
    data = ready(shapes, cache_gb=0)
    paths = data.manifest.splits["train"][0]
    first, second = (Cache(tmp_path / "cache", shapes, paths, Decoding(1, 16)) for _ in range(2))
    built, original = [], Cache._fill

    def fill(self, file):
        built.append(self)
        original(self, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "_fill", fill)
        assert first.build(None)
        assert second.build(None)
    assert built == [first]


def test_a_large_jpeg_is_decoded_at_reduced_size_to_nearly_the_same(tmp_path):
    y, x = np.mgrid[:800, :1000]
    pixels = np.stack([x % 256, y % 256, (x + y) // 8 % 256], -1).astype(np.uint8)
    smooth = Image.fromarray(pixels).resize((100, 80)).resize((1000, 800), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "large.jpg", quality=95)
    smooth.save(tmp_path / "large.png")
    reduced, whole = (decode(tmp_path / f"large.{kind}", 3, 64).astype(int) for kind in ("jpg", "png"))
    assert np.abs(reduced - whole).mean() < 2
    with Image.open(tmp_path / "large.jpg") as image:
        image.draft(None, (64, 64))
        assert image.size == (125, 100)


def test_a_batch_is_what_its_samples_are(shapes):
    train = ready(shapes).train
    keys = [(3, 17), (0, 4), (3, 18)]
    whole, samples = train.__getitems__(keys), [train[key] for key in keys]
    for part in range(3):
        assert torch.equal(whole[part], torch.stack([sample[part] for sample in samples]))
    assert not torch.equal(whole.x[0], whole.x[2])


def test_contents_are_hashed_once(shapes, monkeypatch):
    first = ready(shapes, cache_gb=0).manifest
    monkeypatch.setattr(contents, "open", lambda *_: pytest.fail("a file was read again"), raising=False)
    assert ready(shapes, cache_gb=0).manifest.splits["val"][0] == first.splits["val"][0]


def test_a_damaged_index_of_hashes_is_made_anew(shapes):
    first = ready(shapes, cache_gb=0).manifest
    Path("data/cache/hashes.npy").write_bytes(b"nothing")
    assert ready(shapes, cache_gb=0).manifest.splits["val"][0] == first.splits["val"][0]
    assert np.load("data/cache/hashes.npy")["hash"].size == 72


def test_the_sampler_and_the_manifest_take_under_200_bytes_a_sample(shapes, tmp_path):
    count = 8_000
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = tmp_path / f"images/class_{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07d}.pgm").write_bytes(b"P5 4 4 255\n" + rng.bytes(16))
    ready(shapes, cache_gb=0)  # what it imports is not counted
    tracemalloc.start()
    data = ready(tmp_path / "images", cache_gb=0)
    list(zip(range(100), EpochSampler(data.train, 8), strict=False))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / count < 200


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


# Without MixUp, whose draws lie on the host, and one_hot, which looks at its argument on a CPU alone.
@pytest.mark.parametrize("flags", [(), ("--data.balance=class_weights", "--model.l1=1e-5")])
def test_nothing_reads_from_the_device_between_log_points(flags, run, monkeypatch, capsys):
    reads, start, step = Reads(), NumericalFaults.on_train_start, Classifier.on_train_batch_start

    def as_on_a_device(self, trainer, module):
        start(self, trainer, module)
        self.reads_at_once = False

    def counted(self, batch, batch_idx):
        step(self, batch, batch_idx)
        if batch_idx == 1:
            reads.__enter__()
        elif batch_idx == 5:  # the steps 2 to 5 of six
            reads.__exit__(None, None, None)

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # for the bar
    monkeypatch.setattr(NumericalFaults, "on_train_start", as_on_a_device)
    monkeypatch.setattr(Classifier, "on_train_batch_start", counted)
    flags = (
        *flags,
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=6",
        "--callbacks.progress_bar.every_seconds=0",
        "--callbacks.averaging=null",  # torch's AveragedModel asks how often it was updated
    )
    assert run("fit", "--model.optimizer=SGD", *flags) == 0
    assert not reads.seen
    assert "6/6" in capsys.readouterr().out


class Stub:
    """A step that takes the seconds that its setting is given."""

    def __init__(self, setting, seconds):
        self.setting, self.taken, self.seconds = setting, seconds, []

    def __call__(self):
        if isinstance(self.taken, Exception):
            raise self.taken

    def measure(self, together=1):
        self.seconds.append(self.taken)

    @property
    def median(self):
        return self.taken

    @property
    def together(self):
        return 10 if self.setting.precision == "16-true" else 1  # as on a GPU


PLAIN = Setting("32-true", False, False)
HALF = Setting("bf16-mixed", True, False)


@pytest.mark.parametrize(
    ("times", "steps", "chosen"),
    [
        ({HALF: 0.4}, 10**6, HALF),
        ({HALF: 0.4}, 500, PLAIN),  # too short a run to look
        ({HALF: 0.4}, 700, HALF),  # much is at stake
        ({HALF: 0.97}, 610, PLAIN),  # too little to be sure of it in the time
        ({HALF: 0.97}, 10**6, HALF),
        ({HALF: 0.99}, 10**6, PLAIN),  # not worth another precision
        ({HALF: 0.4, HALF._replace(compiled=True): 0.2}, 10**6, HALF._replace(compiled=True)),
        ({HALF: 0.4, HALF._replace(compiled=True): 0.2}, 5000, HALF),  # too short a run to compile
        ({HALF: 0.4, HALF._replace(compiled=True): RuntimeError("no compiler")}, 10**6, HALF),
    ],
)
def test_fast_takes_the_fastest_that_is_worth_it(times, steps, chosen):
    made, said = choose(PLAIN, steps, lambda setting: Stub(setting, times.get(setting, 1.0)))  # type: ignore[arg-type]
    assert made == chosen
    assert str(chosen) in said


def test_fast_does_not_compile_what_cannot_be_compiled():
    compiled = HALF._replace(compiled=True)
    times = {HALF: 0.4, compiled: 0.2}
    made, _ = choose(PLAIN, 10**6, lambda setting: Stub(setting, times.get(setting, 1.0)), may_compile=False)  # type: ignore[arg-type]
    assert made == HALF


def test_fast_counts_the_steps_of_a_gpu_which_is_given_several_at_once():
    present, better = Setting("16-true", False, False), Setting("16-true", True, False)
    for steps, chosen in ((500, present), (5_000, better)):
        made, _ = choose(present, steps, lambda setting: Stub(setting, 0.5 if setting == better else 1.0))  # type: ignore[arg-type]
        assert made == chosen


def test_fast_keeps_a_precision_that_was_asked_for():
    present = Setting("16-mixed", False, False)
    made, _ = choose(present, 10**6, lambda setting: Stub(setting, 0.5 if setting.channels_last else 1.0))  # type: ignore[arg-type]
    assert made == present._replace(channels_last=True)


def test_a_fast_run_writes_what_it_chose_and_its_checkpoint_serves(run, monkeypatch):
    monkeypatch.setattr(fast, "choose", lambda *_: (HALF, "HALF"))
    assert run("fit", "--fast=true") == 0
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["model"]["channels_last"] is True
    assert config["fast"] is False
    assert run("validate") == 0
    assert (
        run("fit", f"--ckpt_path={RUN}/checkpoints/last.ckpt", "--fast=true", "--model.schedule=null") == 2
    )  # as ever
    assert Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt").hparams.channels_last


def test_fast_measures_real_steps(run, capsys):
    assert run("fit", "--fast=true", "--trainer.max_epochs=100", "--trainer.max_steps=3") == 0
    assert "fast: 32-true, channels first, eager is kept: the run is too short" in capsys.readouterr().out
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    step = fast.Step(HALF, network, torch.zeros(4, 3, 4, 4), torch.device("cpu"))
    step.measure()
    assert step.median > 0
    assert all(parameter.grad is None for parameter in network.parameters())


class NoKernel(torch.optim.SGD):
    """An optimizer whose fused kernel is missing on this device, as Adagrad's is on a GPU in torch 2.11."""

    def __init__(self, params, lr=0.01, fused=None):
        super().__init__(params, lr, fused=fused)

    def step(self, closure=None):
        if self.defaults["fused"]:
            raise RuntimeError("`fused=True` requires all the params to be on supported devices")
        return super().step(closure)


def test_an_optimizer_without_a_fused_kernel_for_the_device_is_not_fused():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    for kind, fused in ((torch.optim.SGD, True), (NoKernel, None)):
        groups = [{"params": parameters, "lr_factor": 1.0}]
        optimizer = make_optimizer(partial(kind, lr=0.01), groups, torch.device("cpu"))
        assert optimizer.param_groups[0]["fused"] is fused


@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam"])
def test_optimizers_are_fused_where_they_can_be(name, run):
    assert run("fit", f"--model.optimizer={name}", "--model.optimizer.lr=0.01") == 0
    group = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert group.get("fused", None) is (True if name != "NAdam" else None)
