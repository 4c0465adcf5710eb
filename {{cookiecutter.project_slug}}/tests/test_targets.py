"""What is predicted: classes, several labels, numbers. How they are split, balanced, written, decided and restored."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from suites import trainer

from project_package.data import ImageData
from project_package.engine.mistakes import Mistake
from project_package.engine.schema import Schema
from project_package.engine.splits import (
    Manifest,
    Samples,
    assign,
    draw_splits,
    folds,
    group,
    stratified_part,
)
from project_package.engine.targets import (
    Classes,
    Labels,
    Numbers,
    target_from,
)
from project_package.model import Regressor

SHARES = [0.7, 0.15, 0.15]


def labels_of(count: int, shares: list[float], seed: int = 0) -> np.ndarray:
    """Draw labels that are there with the given shares."""
    drawn = np.random.default_rng(seed).random((count, len(shares)))
    return (drawn < np.array(shares)).astype(np.uint8)


def apart(count: int) -> np.ndarray:
    """Every sample is a group of its own."""
    return np.arange(count)


@pytest.mark.parametrize("seed", range(5))
def test_every_label_has_its_share_in_each_part_also_a_rare_one(seed):
    target_NK = labels_of(1200, [0.5, 0.3, 0.1, 0.02, 0.01], seed)
    part = assign(target_NK, apart(1200), SHARES, seed)
    for index, share in enumerate(SHARES):
        per_label = target_NK[part == index].sum(0)
        expected = share * target_NK.sum(0)
        assert (np.abs(per_label - expected) <= np.maximum(2, 0.02 * expected)).all()
        assert abs((part == index).mean() - share) < 0.02


def test_a_label_of_four_samples_comes_into_each_of_three_parts():
    target_NK = labels_of(400, [0.5, 0.4])
    rare_N1 = np.zeros((400, 1), np.uint8)
    rare_N1[[3, 77, 200, 399]] = 1
    part = assign(np.hstack([target_NK, rare_N1]), apart(400), SHARES, 0)
    assert sorted(part[rare_N1[:, 0] == 1].tolist()) == [0, 0, 1, 2]


def test_samples_of_several_labels_that_belong_together_stay_together():
    target_NK = labels_of(600, [0.5, 0.2, 0.05])
    groups = np.arange(600) // 4
    part = assign(target_NK, groups, SHARES, 1)
    assert all(len(set(part[groups == number].tolist())) == 1 for number in range(150))
    for index, share in enumerate(SHARES):
        assert (target_NK[part == index].sum(0) > 0.6 * share * target_NK.sum(0)).all()


def test_the_draw_depends_on_its_arguments_alone():
    target_NK = labels_of(300, [0.4, 0.1])
    one, other = (assign(target_NK, apart(300), SHARES, 3) for _ in range(2))
    assert (one == other).all()
    assert (assign(target_NK, apart(300), SHARES, 4) != one).any()


@pytest.mark.parametrize("names", [["price"], ["price", "area"]])
def test_a_split_of_numbers_keeps_the_share_of_each_quantile(names):
    values_NT = np.random.default_rng(0).lognormal(0, 1, (1000, len(names)))
    part = assign(Numbers(names).strata(values_NT), apart(1000), SHARES, 0)
    for values_N in values_NT.T:
        for low, high in ((0, 25), (25, 50), (50, 75), (75, 100)):
            ends = np.percentile(values_N, [low, high])
            inside = (ends[0] <= values_N) & (values_N <= ends[1])
            assert abs((part[inside] == 1).mean() - 0.15) < 0.06


def test_a_larger_part_of_the_labels_holds_a_smaller_one_and_each_label():
    target_NK = labels_of(500, [0.5, 0.01])
    small, large = (stratified_part(target_NK, share, 0).tolist() for share in (0.1, 0.4))
    assert set(small) < set(large)
    assert target_NK[small].any(0).all()


def test_folds_of_labels_hold_out_every_label_and_carry_the_weights():
    target_NK = labels_of(200, [0.5, 0.05])
    keys = [f"{i:03d}.png" for i in range(200)]
    weights = np.arange(200.0)
    samples = Samples(keys, target_NK, Labels(["a", "b"]), weights=weights)
    manifest = draw_splits(samples, 0.2, 0.2, 0, apart(200))
    dealt = folds(manifest, 4, 0, apart(160))
    for fold in dealt:
        assert fold.splits["val"][1].any(0).all()
        for split, (names, _) in fold.splits.items():
            assert fold.weights[split].tolist() == [float(name[:3]) for name in names]
    held_out = [name for fold in dealt for name in fold.splits["val"][0]]
    assert sorted(held_out) == sorted(manifest.splits["train"][0] + manifest.splits["val"][0])


TARGETS = {
    "classes": (Classes(["a", "b"]), np.array([0, 1, 1])),
    "labels": (Labels(["a", "b;c", "d"]), np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.uint8)),
    "numbers": (Numbers(["x", "y"]), np.array([[1.5, -1e9], [0.1, 3.0], [2.0, 1 / 3]])),
    "logarithms": (Numbers(["x"], log=True), np.array([[1.5], [1e-9], [2.0]])),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("weights", [None, np.array([0.0, 1.0, 1 / 3])])
def test_a_manifest_is_read_as_it_was_written(kind, weights, tmp_path):
    target, targets = TARGETS[kind]
    nothing = targets[:0]
    splits = {"train": (["1", "2", "3"], targets), "val": ([], nothing), "test": ([], nothing)}
    kept = {} if weights is None else {"train": weights}
    manifest = Manifest(Schema({"channels": 1}, target), splits, 5, weights=kept)
    manifest.save(tmp_path / "manifest.json")
    read = Manifest.load(tmp_path / "manifest.json")
    assert read.target == target == target_from(target.as_dict())
    assert np.array_equal(read.splits["train"][1], targets)
    assert read.splits["train"][1].dtype == targets.dtype
    assert read.weights.get("train", np.empty(0)).tolist() == ([] if weights is None else weights.tolist())
    assert read.has_splits_of(manifest)


WRONG_TARGETS = {
    "another kind": {"kind": "boxes", "names": ["a"]},
    "no names": {"kind": "labels", "names": []},
    "a text for names": {"kind": "labels", "names": "abc"},
    "a name twice": {"kind": "numbers", "names": ["a", "a"], "log": False},
    "a logarithm of a text": {"kind": "numbers", "names": ["a"], "log": "yes"},
}


@pytest.mark.parametrize("case", WRONG_TARGETS)
def test_what_describes_no_target_is_refused(case):
    with pytest.raises((KeyError, TypeError)):
        target_from(WRONG_TARGETS[case])


@pytest.mark.parametrize("written", [["x"], [[float("nan")]], [[1.0, 2.0]], [[-1.0]], ["1.5"]])
def test_a_manifests_numbers_must_be_numbers(written):
    with pytest.raises((ValueError, TypeError)):
        Numbers(["x"], log=True).read(written)


@pytest.mark.parametrize("count", [8, 40])
def test_labels_of_which_each_combination_divides_evenly_are_dealt(count):
    target_NK = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * count, np.uint8)
    part = assign(target_NK, apart(len(target_NK)), [0.5, 0.25, 0.25], 0)
    assert np.bincount(part).tolist() == [2 * count, count, count]


@pytest.mark.parametrize(("count", "share"), [(240, 0.15), (200, 0.024), (1000, 0.0149), (37, 0.1)])
def test_a_split_of_numbers_has_the_size_that_is_asked_for(count, share):
    values_NT = np.random.default_rng(0).normal(size=(count, 1))
    samples = Samples([f"{i:04d}" for i in range(count)], values_NT, Numbers(["x"]))
    manifest = draw_splits(samples, share, share, 0, apart(count))
    sizes = [len(manifest.splits[split][0]) for split in ("val", "test")]
    assert sizes == [int(count * share + 0.5)] * 2


def test_a_split_that_would_be_empty_is_refused():
    samples = Samples(list("abcdefghij"), np.arange(10.0)[:, None], Numbers(["x"]))
    with pytest.raises(Mistake, match=r"--data\.test_fraction=0\.02 of 10 samples leaves none in test"):
        draw_splits(samples, 0.2, 0.02, 0, apart(10))


def test_a_group_in_validation_and_test_is_refused():
    given = ["train", "train", "val", "test"]
    groups = np.array([0, 1, 2, 2])
    samples = Samples(list("abcd"), np.array([0, 1, 0, 1]), Classes(["x", "y"]), given, groups=groups)
    with pytest.raises(Mistake, match=r"1 groups stand in validation and in test, the first with 'c' and 'd'"):
        draw_splits(samples, 0.2, 0.2, 0, groups)


def test_a_split_that_weighs_nothing_is_refused():
    given = ["train", "train", "val", "test"]
    weights = np.array([1.0, 1.0, 0.0, 1.0])
    samples = Samples(list("abcd"), np.arange(4.0)[:, None], Numbers(["x"]), given, weights=weights)
    with pytest.raises(Mistake, match="all 1 samples of val have the weight 0"):
        draw_splits(samples, 0.2, 0.2, 0, apart(4))


def test_samples_of_no_weight_do_not_set_the_scale_of_numbers(shapes: Path):
    class Outlier(Brightness):
        def samples(self):
            found = super().samples()
            far = np.where(np.arange(len(found.keys)) % 3 == 0, 1e6, 0.0)[:, None]  # these weigh nothing
            return Samples(found.keys, found.targets + far, found.target, weights=found.weights)

    data = Outlier(str(shapes), batch_size=8, num_workers=0)
    data.setup("fit")
    assert float(data.loss_balance.centre_T) < 300
    assert float(data.loss_balance.scale_T) < 300


@pytest.mark.parametrize("factor", [1e40, 1e-46])
def test_numbers_that_32_bits_do_not_hold_are_refused(factor):
    with pytest.raises(Mistake, match="more or less than 32 bits hold"):
        Numbers(["x"]).balance(factor * np.random.default_rng(0).normal(5, 1, (20, 1)))


def test_a_manifest_of_which_one_split_is_empty_has_weights_of_all(tmp_path):
    target, targets = TARGETS["classes"]
    splits = {"train": (["1", "2", "3"], targets), "val": ([], targets[:0]), "test": ([], targets[:0])}
    Manifest(Schema({}, target), splits, 0, weights={"train": np.ones(3)}).save(tmp_path / "manifest.json")
    assert set(Manifest.load(tmp_path / "manifest.json").weights) == {"train", "val", "test"}


@pytest.mark.parametrize("rows", ['[["1", "a", 1.0], ["2", "b"]]', "[[]]", '[["1"]]'])
def test_a_manifest_with_odd_rows_is_refused(rows, tmp_path):
    about = '{"version": 2, "seed": 0, "fold": null, "schema": {"inputs": {}, "target": '
    about += '{"kind": "classes", "names": ["a", "b"]}}, "splits": {"train": ROWS, "val": [], "test": []}}'
    (tmp_path / "manifest.json").write_text(about.replace("ROWS", rows))
    with pytest.raises(Mistake, match="cannot be read as a manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_the_weight_of_a_positive_example_is_that_of_the_negative_ones_over_it():
    target_NK = labels_of(1000, [0.5, 0.1])
    weights_K, prior_K = Labels(["a", "b"]).balance(target_NK, "class_weights")
    positive = target_NK.sum(0)
    assert torch.allclose(weights_K, torch.tensor((1000 - positive) / positive).float())
    assert torch.allclose(prior_K, torch.tensor(positive / 1000).float())


def test_the_sampler_goes_by_the_rarest_label_of_a_sample():
    target_NK = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], np.uint8)
    weights_N = Labels(["often", "rare"]).draw_weights(target_NK)
    assert weights_N.tolist() == [0.25, 0.25, 0.25, 1.0, 0.25]


def test_the_sampler_takes_rare_values_of_a_number_as_often_as_others():
    values_NT = np.random.default_rng(0).exponential(1.0, (5000, 1))
    weights_N = Numbers(["x"]).draw_weights(values_NT)
    drawn = torch.multinomial(weights_N, 20000, replacement=True, generator=torch.Generator().manual_seed(0))
    bins = np.histogram(values_NT[drawn.numpy(), 0], 10)[0]
    assert bins.min() > 0.8 * bins.max()


def test_labels_are_decided_by_their_own_thresholds():
    target = Labels(["a", "b", "c"])
    assert target.chosen([0.5, 0.49, 0.9]) == ["a", "c"]
    assert target.chosen([0.5, 0.49, 0.9], [0.6, 0.1, 0.95]) == ["b"]
    assert target.chosen([0.0, 0.0, 0.0]) == []


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (5e5, 1e5), (1.7e9, 100.0), (1e-6, 1e-7)])
def test_numbers_are_learned_as_standardised_ones_and_restored_in_their_unit(log, offset, spread):
    values_NT = offset + spread * np.random.default_rng(0).normal(size=(500, 1))
    values_NT = np.abs(values_NT) + spread * 1e-3 if log else values_NT
    standardised = Numbers(["x"], log).balance(values_NT)
    z_NT = standardised(torch.from_numpy(values_NT))
    assert z_NT.dtype == torch.float32
    assert abs(float(z_NT.mean())) < 1e-2
    assert abs(float(z_NT.std()) - 1) < 1e-2
    restored_NT = standardised.restored(z_NT).numpy()
    assert np.abs(restored_NT - values_NT).max() < 1e-5 * (values_NT.std() + (values_NT.max() if log else 0))


def test_a_number_that_never_differs_is_refused():
    with pytest.raises(Mistake, match="'depth' is 3 in all training samples"):
        Numbers(["price", "depth"]).balance(np.array([[1.0, 3.0], [2.0, 3.0]]))


def test_groups_of_the_data_and_copies_are_joined():
    groups = group(["a", "b", "c", "d"], same=[[1, 2]], given=np.array([7, 7, 8, 9]))
    assert groups[0] == groups[1] == groups[2] != groups[3]


class Brightness(ImageData):
    """The drawn images, and how bright each is; the first third has no weight."""

    def samples(self):
        found = super().samples()
        values = [[float(np.asarray(Image.open(self.root / key)).mean())] for key in found.keys]
        weights = np.arange(len(values)) % 3 / 2
        return Samples(found.keys, np.array(values), Numbers(["brightness"]), weights=weights)


def test_a_model_of_numbers_speaks_in_their_unit_and_weighs_its_samples(shapes: Path):
    data, model = Brightness(str(shapes), batch_size=8, num_workers=0, augment="none"), Regressor()
    fitting = trainer(max_epochs=1)
    fitting.fit(model, data)
    [logged] = fitting.validate(model, data, verbose=False)
    keys, targets = data.split("val")
    assert data.manifest is not None
    weight_N = data.manifest.weights["val"]
    x = torch.stack([data.evaluated("val")[i].x for i in range(len(keys))])
    with torch.no_grad():
        error_N = (model.eval().predict(x).numpy() - targets)[:, 0]
        z_N = (model(x) - model.standardised(torch.from_numpy(targets))).square()[:, 0].numpy()
    assert logged["val/rmse"] == pytest.approx(np.sqrt(np.average(error_N**2, weights=weight_N)), rel=1e-5)
    assert logged["val/mae"] == pytest.approx(np.average(np.abs(error_N), weights=weight_N), rel=1e-5)
    assert logged["val/loss"] == pytest.approx(np.average(z_N, weights=weight_N), rel=1e-5)
    assert 20 < np.abs(model.predict(x).detach().numpy()).mean() < 200, "standardised values came out"


class FirstStep(Callback):
    """Compares the loss of the first step with Σ weight × loss / Σ weight."""

    expected = found = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            with torch.no_grad():
                z_N = (pl_module(batch.x) - pl_module.standardised(batch.y)).square()[:, 0]
            self.expected = float((z_N * batch.weight).sum() / batch.weight.sum())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.found = float(outputs["loss"])


def test_training_weighs_its_samples(shapes: Path):
    data, step = Brightness(str(shapes), batch_size=8, num_workers=0), FirstStep()
    trainer(step, max_steps=1, limit_val_batches=0).fit(Regressor(schedule=None), data)
    assert step.found == pytest.approx(step.expected, rel=1e-5)
    assert step.expected != 0


def test_a_correction_that_weighs_classes_is_refused_for_numbers(shapes: Path):
    data = Brightness(str(shapes), batch_size=8, num_workers=0, balance="class_weights")
    with pytest.raises(Mistake, match=r"--data\.balance=class_weights weighs classes"):
        data.setup("fit")


def test_data_of_another_kind_than_asked_for_is_refused(shapes: Path):
    with pytest.raises(Mistake, match=r"--data\.task=multilabel is not what the data holds: the number brightness"):
        Brightness(str(shapes), batch_size=8, num_workers=0, task="multilabel").setup("fit")


def test_equal_images_with_two_numbers_are_told_and_stay_in_one_split(shapes: Path, tmp_path: Path):
    shutil.copytree(shapes, tmp_path / "shapes")
    shutil.copy(tmp_path / "shapes/left/000.png", tmp_path / "shapes/left/again.png")

    class Noisy(Brightness):
        def samples(self):
            found = super().samples()
            noise = np.arange(len(found.keys))[:, None] / 100
            return Samples(found.keys, found.targets + noise, found.target)

    data = Noisy(str(tmp_path / "shapes"), batch_size=8, num_workers=0)
    data.setup("fit")
    assert "are the same content with two targets (1 such)" in data.summary()
    assert data.manifest is not None
    both = {"left/000.png", "left/again.png"}
    assert sorted(len(both & set(keys)) for keys, _ in data.manifest.splits.values()) == [0, 0, 2]
