"""The data's promises: those of every data module (suites.py), and what is said here of splits, images and draws."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from suites import DataSuite

from project_package.augment import PIPELINES
from project_package.data import ImageData
from project_package.engine.builtin import write_digits
from project_package.engine.decoding import decode
from project_package.engine.folders import find
from project_package.engine.sampling import EpochSampler
from project_package.engine.splits import Manifest, assign


def ready(root: Path, **options) -> ImageData:
    data = ImageData(str(root), num_workers=0, batch_size=8, **options)
    data.setup("fit")
    return data


class TestImageData(DataSuite):
    def make(self):
        return ImageData(str(self.drawn), batch_size=8, num_workers=0, augment="medium", channels=3)


def test_the_digits_are_those_of_scikit_learn(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    write_digits(tmp_path / "digits")
    for number, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        with Image.open(tmp_path / f"digits/{digit}/{number:05d}.png") as written:
            assert (np.asarray(written) == (image * (255 / 16)).round()).all()
    assert len(list(tmp_path.rglob("*.png"))) == 1797


def batches(data: ImageData, context: str | None = None) -> list[torch.Tensor]:
    loader = data.train_dataloader()
    loader.multiprocessing_context = context
    return [tensor for batch in loader for tensor in batch[:3]]


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_load_the_same(context, shapes):
    """As on macOS, and on Linux since Python 3.14."""
    options = {"augment": "strong", "channels": 3, "balance": "sampler"}
    expected = batches(ready(shapes, **options))
    data = ready(shapes, **options)
    data.num_workers = 1
    assert data.cache
    assert all(map(torch.equal, batches(data, context), expected))


def own(A, size, flip):
    return [A.Lambda(image=lambda image, **_: image[:size, :size])]


@pytest.mark.parametrize("name", [*PIPELINES, "own"])
def test_a_data_set_is_handed_to_workers_without_its_pixels(name, shapes, monkeypatch):
    monkeypatch.setitem(PIPELINES, "own", own)
    data = ready(shapes, augment=name)
    again = pickle.loads(pickle.dumps(data.train))
    assert len(pickle.dumps(data.train)) < 100 * len(data.train) < len(data.train) * data.train.decoded.size
    assert all(map(torch.equal, again[3, 7][:3], data.train[3, 7][:3]))
    assert all(map(torch.equal, again.__getitems__([1, 2])[:3], data.train.__getitems__([1, 2])[:3]))


def test_what_else_workers_are_handed_can_be(shapes):
    data = ready(shapes, cache_gb=0, predict_root=str(shapes / "left"))
    data.setup("predict")
    data.num_workers = 1
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        given = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
        dataset, collate, start = pickle.loads(pickle.dumps(given))
        start(0)
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # this process is no worker
        expected = loader.dataset.__getitems__([0, 1])[:3]
        assert all(map(torch.equal, collate(dataset.__getitems__([0, 1]))[:3], expected))


@pytest.mark.parametrize("change", ["another size", "another time", "removed"])
def test_images_that_are_replaced_during_training_are_named(change, shapes, tmp_path):
    root = shutil.copytree(shapes, tmp_path / "copied")
    kept, data = ready(root), ready(root, cache_gb=0)
    assert data.changed() == ""
    image = root / "left/003.png"
    if change == "removed":
        image.unlink()
    elif change == "another time":
        os.utime(image, (0, 0))
    else:
        image.write_bytes(image.read_bytes() + b"more")
    assert data.changed() == f"1 of 72 images were replaced, changed or removed ({image})"
    assert kept.changed() == ""  # it reads the cache


def test_a_worker_imports_no_lightning():
    package = ImageData.__module__.rpartition(".")[0]
    code = f"import sys, {package}.augment, {package}.engine.cache, {package}.engine.images; print(*sys.modules)"
    source = Path(__file__).parent.parent / "src"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    assert "torch" in done.stdout.split()
    assert "lightning" not in done.stdout.split()


def test_every_split_holds_its_share_of_every_class(shapes):
    splits = ready(shapes).manifest.splits
    assert {split: Counter(labels.tolist()) for split, (_, labels) in splits.items()} == {
        "train": {0: 16, 1: 16, 2: 16},
        "val": {0: 4, 1: 4, 2: 4},
        "test": {0: 4, 1: 4, 2: 4},
    }


def test_splits_follow_the_seed_and_nothing_else(shapes):
    def test_paths(**options):
        data = ready(shapes, **options)
        data.setup("test")
        return data.manifest.splits["test"][0]

    assert test_paths(split_seed=3) == test_paths(split_seed=3, augment="strong", balance="sampler", train_fraction=0.5)
    assert test_paths(split_seed=3) != test_paths(split_seed=4)


def test_a_manifest_reads_back_what_was_written(shapes, tmp_path):
    manifest = ready(shapes).manifest
    manifest.save(tmp_path / "manifest.json")
    again = Manifest.load(tmp_path / "manifest.json")
    assert again.schema == manifest.schema
    for split, (paths, labels) in manifest.splits.items():
        assert again.splits[split][0] == paths
        assert again.splits[split][1].tolist() == labels.tolist()


def test_copies_of_an_image_stay_in_one_split(shapes, tmp_path):
    root = tmp_path / "copies"
    for path in find(shapes).keys:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((shapes / path).read_bytes())
        (root / path).with_suffix(".copy.png").write_bytes((shapes / path).read_bytes())
    splits = ready(root).manifest.splits
    for paths, _ in splits.values():
        assert {path.replace(".copy", "") for path in paths if ".copy" in path} <= set(paths)


def test_groups_are_not_torn_apart():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 400)
    part = assign(rng.integers(0, 4, 400), groups, [0.7, 0.15, 0.15], seed=1)
    assert all(len(set(part[groups == group])) == 1 for group in np.unique(groups))
    assert np.bincount(part) / 400 == pytest.approx([0.7, 0.15, 0.15], abs=0.06)


def test_given_folders_are_respected(shapes, tmp_path):
    for path in find(shapes).keys:
        name, file = path.split("/")
        target = tmp_path / "given" / ("test" if file < "006.png" else "train") / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((shapes / path).read_bytes())
    splits = ready(tmp_path / "given").manifest.splits
    assert sorted(splits["test"][0]) == sorted(p for p in find(tmp_path / "given").keys if p.startswith("test/"))
    assert all(path.startswith("train/") for path in splits["val"][0])


def test_a_smaller_train_fraction_is_part_of_a_larger_one(shapes):
    half = ready(shapes, train_fraction=0.5).train
    assert Counter(half.targets.tolist()) == {0: 8, 1: 8, 2: 8}
    assert set(ready(shapes, train_fraction=0.25).train.keys) < set(half.keys)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_of_image_decodes_to_the_same_grey(mode, tmp_path):
    pixels = np.full((20, 30), 128, dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels if mode != "1" else pixels * 0 + 255).convert(mode)
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    # Not compressed, Pillow 12 cannot read what it wrote.
    image.save(path, compression="jpeg") if mode == "YCbCr" else image.save(path)
    value_range = (0, 65535) if mode == "I;16" else (0, 255)
    decoded = decode(path, channels=3, size=8, value_range=value_range)
    assert decoded.shape == (8, 8, 3)
    assert decoded.astype(int) == pytest.approx(255 if mode == "1" else 128, abs=2)


def test_a_photograph_taken_upright_stands_upright(tmp_path):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    decoded = decode(tmp_path / "turned.jpg", channels=1, size=16)
    assert decoded[:7].max() < 10
    assert decoded[9:].min() > 245


def test_two_ranks_draw_together_what_one_draws():
    def draw(weights, ranks):
        samplers = [EpochSampler(range(50), 8, 5, weights, ranks, rank) for rank in range(ranks)]  # type: ignore[arg-type]
        for sampler in samplers:
            sampler.set_epoch(3)
        return [sample for step in zip(*samplers, strict=True) for sample in step]

    for weights in (None, torch.arange(1.0, 51.0)):
        assert draw(weights, 2) == draw(weights, 1)
        assert len(draw(weights, 1)) == 48


def test_evaluation_sees_every_sample_once_on_any_number_of_ranks():
    for ranks in (1, 2, 3):
        seen = [index for rank in range(ranks) for index in EpochSampler(range(31), num_replicas=ranks, rank=rank)]  # type: ignore[arg-type]
        assert sorted(seen) == list(range(31))  # type: ignore[type-var]


def test_balanced_classes_are_drawn_equally_often(shapes, tmp_path):
    manifest = ready(shapes).manifest
    paths, labels = manifest.splits["train"]
    rare = np.flatnonzero((labels != 0) | (np.arange(len(labels)) < 2))
    manifest.splits["train"] = ([paths[i] for i in rare], labels[rare])
    manifest.save(tmp_path / "manifest.json")
    data = ready(shapes, manifest=str(tmp_path / "manifest.json"), balance="sampler")
    sampler = data.train_dataloader().sampler
    counts = np.zeros(3)
    for epoch in range(60):
        sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        counts += np.bincount(data.train.targets[[index for index, _ in sampler]], minlength=3)
    share, error = counts / counts.sum(), (1 / 3 * 2 / 3 / counts.sum()) ** 0.5
    assert np.abs(share - 1 / 3).max() < 4 * error
