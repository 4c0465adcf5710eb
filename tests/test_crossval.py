"""Cross-validation holds every image out once, averages honestly, compares in pairs, and goes on where it was ended."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HUNG, OTHER_TASKS, draw_images, of_task, rows
from scipy import stats

TINY = (
    *("--model.network.width=8", "--data.batch_size=16", "--data.num_workers=0", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=2", "--trainer.logger=false", "--model.warmup_steps=0"),
)
FOLDS = Path("runs/digits/folds_3")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("crossval") / "images")


@pytest.fixture(scope="module")
def validated(images, project, command, tmp_path_factory) -> Path:
    """The folder in which three folds were trained; do not train others of that name there."""
    folder = tmp_path_factory.mktemp("validated")
    done = command(project, folder, "crossval", "--folds=3", "--data.root", images, *TINY)
    assert done.code == 0, done.output
    return folder


def splits(manifest: Path) -> dict[str, set[str]]:
    content = json.loads(manifest.read_text())["splits"]
    return {name: {path for path, _ in samples} for name, samples in content.items()}


def scores(folder: Path) -> list[dict[str, str]]:
    return [{key: text for key, text in row.items() if key != "folder"} for row in rows(folder / "runs.csv")]


def test_every_image_is_held_out_once_in_equal_shares_of_each_class_and_no_test_image_ever(validated):
    folds = [splits(validated / FOLDS / f"fold_{i}/version_0/manifest.json") for i in (1, 2, 3)]
    held_out = [path for fold in folds for path in fold["val"]]
    assert len(held_out) == len(set(held_out)) == 51
    for fold in folds:
        assert fold["train"] | fold["val"] == set(held_out)
        assert fold["test"] == folds[0]["test"]
        assert not fold["test"] & set(held_out)
        of_class = [sum(path.startswith(name) for path in fold["val"]) for name in ("red", "green", "blue")]
        assert all(count in (5, 6) for count in of_class)


def test_the_interval_is_that_of_nadeau_and_bengio(validated):
    losses = np.array([float(row["val/loss"]) for row in rows(validated / FOLDS / "runs.csv")])
    summary = next(row for row in rows(validated / FOLDS / "summary.csv") if row["metric"] == "val/loss")
    half = stats.t.ppf(0.975, 2) * losses.std(ddof=1) * np.sqrt(1 / 3 + 51 / 102)
    low = max(0, losses.mean() - half)  # a mean loss below 0 is none
    expected = [losses.mean(), losses.std(ddof=1), low, losses.mean() + half]
    assert np.allclose([float(summary[key]) for key in ("mean", "std", "low", "high")], expected)
    assert "Nadeau and Bengio" in (validated / FOLDS / "crossval.html").read_text()


def test_a_fold_is_the_run_that_fit_makes_with_its_manifest(images, validated, project, command, tmp_path):
    manifest = f"--data.manifest={validated / FOLDS}/fold_2.json"
    done = command(project, tmp_path, "fit", "--data.root", images, *TINY, manifest)
    assert done.code == 0, done.output
    alone, fold = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (tmp_path / "runs/digits/version_0", validated / FOLDS / "fold_2/version_0")
    )
    assert all(torch.equal(alone[name], fold[name]) for name in alone)


def test_ctrl_c_loses_no_finished_fold_and_the_same_command_ends_with_the_same_numbers(
    images, validated, project, command, tmp_path
):
    flags = ("crossval", "--folds=3", "--data.root", images, *TINY)
    started = command.start(project, tmp_path, *flags)
    while not (tmp_path / FOLDS / "fold_1/version_0/score_last.json").exists() and started[0][0].is_alive():
        started[0][0].join(0.02)
    os.kill(started[0][0].pid, signal.SIGINT)
    started[0][0].join(HUNG)
    ended = command.end(started)
    assert ended.code != 0
    assert "the same command goes on" in ended.output
    kept = (tmp_path / FOLDS / "fold_1/version_0/checkpoints/last.ckpt").stat().st_mtime_ns
    done = command(project, tmp_path, *flags)
    assert done.code == 0, done.output
    assert (tmp_path / FOLDS / "fold_1/version_0/checkpoints/last.ckpt").stat().st_mtime_ns == kept
    assert scores(tmp_path / FOLDS) == scores(validated / FOLDS)


def test_damaged_scores_are_refused_in_one_line(images, validated, project, command, tmp_path):
    shutil.copytree(validated / "runs", tmp_path / "runs")
    file = tmp_path / FOLDS / "fold_1/version_0/score_last.json"
    given = ("crossval", "--folds=3", "--data.root", images, *TINY)
    for content in ("[" * 100_000, '{"images": 1, "metrics": {"val/loss": "x"}}'):
        file.write_text(content)
        command.refuses(project, tmp_path, {given: "score_last.json"})
    whole = (validated / FOLDS / "fold_1/version_0/score_last.json").read_text()
    file.write_text(whole.replace('"val/loss"', '"val/other"'))
    command.refuses(project, tmp_path, {given: "score_last.json"})


def test_other_settings_than_those_of_the_finished_folds_are_refused(images, validated, project, command):
    before = (validated / FOLDS / "runs.csv").read_bytes()
    (validated / "other.yaml").write_text("data: {root: other}\n")
    wrong = {
        "--model.l1=0.1": "--model.l1=0.1 differs from 0.0",
        "--against=other.yaml": "data.root=other of other.yaml",
        "--trainer.limit_val_batches=0": "leaves nothing to score",
        "--predict=none": "--predict='none' is not there",
    }
    begin = ("crossval", "--folds=3", "--data.root", images, *TINY)
    command.refuses(project, validated, {(*begin, flag): reason for flag, reason in wrong.items()})
    assert (validated / FOLDS / "runs.csv").read_bytes() == before


def test_another_config_is_compared_in_pairs_on_the_same_folds(images, validated, project, command):
    (validated / "slow.yaml").write_text("model: {optimizer: {class_path: AdamW, init_args: {lr: 1.0e-5}}}\n")
    done = command(project, validated, "crossval", "--folds=3", "--data.root", images, *TINY, "--against", "slow.yaml")
    assert done.code == 0, done.output
    runs = rows(validated / FOLDS / "against_slow/runs.csv")
    assert not (validated / FOLDS / "comparison.csv").exists()  # beside what only one config has given
    this, other = (
        np.array([float(row["val/loss"]) for row in runs if row["variant"] == name])
        for name in ("this", "against_slow")
    )
    compared = next(
        row for row in rows(validated / FOLDS / "against_slow/comparison.csv") if row["metric"] == "val/loss"
    )
    difference = other - this
    t = difference.mean() / (difference.std(ddof=1) * np.sqrt(1 / 3 + 1 / 2))
    assert float(compared["mean"]) == pytest.approx(difference.mean())
    assert float(compared["d_z"]) == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert float(compared["p"]) == pytest.approx(2 * stats.t.sf(abs(t), 2))
    held_out = [
        splits(validated / FOLDS / f"{name}/version_0/manifest.json") for name in ("fold_1", "against_slow/fold_1")
    ]
    assert held_out[0] == held_out[1]


def test_an_ensemble_predicts_the_mean_of_its_folds(images, validated, project, command, tmp_path):
    beside = ("--name=digits/folds_3/fold_1", "--model.optimizer.lr=1e-6", "--trainer.max_epochs=1")
    assert command(project, validated, "fit", "--data.root", images, *TINY, *beside).code == 0  # no fold of ours
    done = command(
        project, validated, "crossval", "--folds=3", "--data.root", images, *TINY, "--predict", images / "red"
    )
    assert done.code == 0, done.output
    each = [rows(validated / FOLDS / f"fold_{i}/version_0/predictions.csv") for i in (1, 2, 3)]
    mean = rows(validated / FOLDS / "predictions.csv")
    assert len(mean) == 20
    for position, row in enumerate(mean):
        expected = np.mean(
            [[float(fold[position][name]) for name in ("red", "green", "blue")] for fold in each], axis=0
        )
        assert np.allclose([float(row[name]) for name in ("red", "green", "blue")], expected)
        assert float(row[row["label"]]) == pytest.approx(expected.max())
    new = shutil.copytree(images / "red", tmp_path / "new")
    (new / "07.png").write_bytes(b"")
    done = command(project, validated, "crossval", "--folds=3", "--data.root", images, *TINY, "--predict", new)
    assert done.code == 1, done.output
    assert done.errors == [
        line for line in done.errors if "1 of 20 images could not be read, the first: 07.png" in line
    ]
    again = rows(validated / FOLDS / "predictions.csv")
    assert "it is empty" in again[7].pop("error")
    assert list(again.pop(7).values()) == ["07.png", "", "", "", ""]
    assert [row for row in again if row.pop("error") == ""] == mean[:7] + mean[8:]


def test_seeds_share_one_split_and_begin_with_weights_of_their_own(images, project, command, tmp_path):
    done = command(project, tmp_path, "crossval", "--seeds=2", "--data.root", images, *TINY, "--trainer.max_epochs=1")
    assert done.code == 0, done.output
    seeds = [tmp_path / f"runs/digits/seeds_2/seed_{i}/version_0" for i in (1, 2)]
    assert splits(seeds[0] / "manifest.json") == splits(seeds[1] / "manifest.json")
    losses = [row["val/loss"] for row in rows(tmp_path / "runs/digits/seeds_2/runs.csv")]
    assert losses[0] != losses[1]


def test_a_learning_curve_trains_on_shares_of_the_same_folds(images, project, command, tmp_path):
    flags = ("--folds=2", "--fractions", "1", "0.7", "--data.root", images, *TINY, "--trainer.max_epochs=1")
    done = command(project, tmp_path, "crossval", *flags)
    assert done.code == 0, done.output
    runs = rows(tmp_path / "runs/digits/folds_2/fractions/runs.csv")
    counts = {(row["variant"], row["run"]): int(row["training_images"]) for row in runs}
    assert 0.6 < counts["0.7", "fold_1"] / counts["1", "fold_1"] < 0.8
    assert "training images" in (tmp_path / "runs/digits/folds_2/fractions/crossval.html").read_text()


def test_what_cannot_be_validated_is_refused_in_one_line_and_leaves_nothing(images, project, command, tmp_path):
    wrong = {
        ("--folds=1",): "--folds=1",
        ("--seeds=1",): "--seeds=1",
        ("--folds=3", "--seeds=2"): "not allowed with",
        ("--folds=40",): "--folds=40 leaves a fold",
        ("--against=nothing.yaml",): "nothing.yaml",
        ("--fractions", "2"): "data.train_fraction=2",
        ("--callbacks.last=null",): "no last.ckpt",
        ("--data.batch_size=100",): "data.batch_size=100",
    }
    begin = ("crossval", "--data.root", images, *TINY)
    command.refuses(project, tmp_path, {(*begin, *flags): reason for flags, reason in wrong.items()})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_folds_of_labels_and_numbers_keep_their_weights_and_predict_together(task, targets, project, command, tmp_path):
    flags = ("crossval", "--folds=3", *of_task(targets, f"{task}_weighted"), "--trainer.logger=false")
    done = command(project, tmp_path, *flags, "--predict", targets / "a")
    assert done.code == 0, done.output
    content = json.loads((targets / f"{task}_weighted.json").read_text())
    names = content["schema"]["target"]["names"]
    samples = sorted(content["splits"]["train"] + content["splits"]["val"])
    runs = [tmp_path / FOLDS / f"fold_{i}/version_0" for i in (1, 2, 3)]
    folds = [json.loads((run / "manifest.json").read_text()) for run in runs]
    assert [fold["schema"]["target"] for fold in folds] == [content["schema"]["target"]] * 3
    assert sorted(sample for fold in folds for sample in fold["splits"]["val"]) == samples
    assert all(sorted(fold["splits"]["train"] + fold["splits"]["val"]) == samples for fold in folds)

    each = [rows(run / "predictions.csv") for run in runs]
    settled = [torch.load(run / "checkpoints/last.ckpt", weights_only=True).get("settled") for run in runs]
    for position, row in enumerate(rows(tmp_path / FOLDS / "predictions.csv")):
        mean = np.mean([[float(fold[position][name]) for name in names] for fold in each], axis=0)
        assert np.allclose([float(row[name]) for name in names], mean, rtol=1e-8)
        if task == "multilabel":
            reached = mean >= np.mean(settled, axis=0)
            assert row["labels"] == ";".join(name for name, is_there in zip(names, reached, strict=True) if is_there)
        else:
            assert list(row) == ["path", *names]

    summary = {row["metric"]: row for row in rows(tmp_path / FOLDS / "summary.csv")}
    wanted = {"multilabel": ("map", "f1_micro", "exact_match"), "regression": ("rmse", "mae_price", "r2", "spearman")}
    assert {f"val/{metric}" for metric in wanted[task]} <= summary.keys()
    page = (tmp_path / FOLDS / "crossval.html").read_text()
    assert ("RMSE and MAE are in the target" in page) == (task == "regression")
    least = {"multilabel": 0, "regression": -1}[task]
    shares = [row for name, row in summary.items() if re.search("map|f1|exact|auroc|spearman", name)]
    assert all(least <= float(row["low"]) and float(row["high"]) <= 1 for row in shares)
    assert all(float(row["low"]) >= 0 for name, row in summary.items() if re.search("rmse|mae", name))


def test_the_errors_of_two_configs_are_compared_in_pairs(targets, project, command, tmp_path):
    samples = json.loads((targets / "regression.json").read_text())["splits"]
    lines = [f"{path},{price}" for split in samples.values() for path, (price, _) in split]
    (tmp_path / "prices.csv").write_text("\n".join(["path,price", *lines]) + "\n")
    table = ("--data.labels=prices.csv", f"--data.root={targets}")
    flags = ("crossval", "--folds=2", *TINY, *table, "--trainer.logger=false", "--trainer.max_epochs=1")
    (tmp_path / "mae.yaml").write_text("model: {loss: MAE}\n")
    (tmp_path / "other.yaml").write_text("data: {log_target: true}\n")
    done, refused = command.each(
        project, tmp_path, [(*flags, "--against", name) for name in ("mae.yaml", "other.yaml")]
    )
    assert done.code == 0, done.output
    assert "data.log_target=True of other.yaml" in refused.refusal
    folder = tmp_path / "runs/digits/folds_2/against_mae"
    compared = {row["metric"]: row for row in rows(folder / "comparison.csv")}
    assert "val/loss" not in compared
    of_runs = {(row["variant"], row["run"]): float(row["val/rmse"]) for row in rows(folder / "runs.csv")}
    differences = [of_runs["against_mae", fold] - of_runs["this", fold] for fold in ("fold_1", "fold_2")]
    assert float(compared["val/rmse"]["mean"]) == pytest.approx(np.mean(differences))


def test_folds_of_a_table_keep_its_groups(targets, project, command, tmp_path):
    samples = json.loads((targets / "regression.json").read_text())["splits"]
    lines = ["path,price,group"]
    for number, (path, (price, _)) in enumerate(sample for split in samples.values() for sample in split):
        lines.append(f"{path},{price},{number % 13}")
    table = tmp_path / "prices.csv"
    table.write_text("\n".join(lines[:1] + sorted(lines[1:], reverse=True)) + "\n")
    group_of = {path: group for path, _, group in (line.split(",") for line in lines[1:])}
    read = (f"--data.labels={table}", f"--data.root={targets}", "--data.log_target=true", "--trainer.max_epochs=1")
    done = command(project, tmp_path, "crossval", "--folds=3", *TINY, *read)
    assert done.code == 0, done.output
    folds = [json.loads((tmp_path / FOLDS / f"fold_{i}/version_0/manifest.json").read_text()) for i in (1, 2, 3)]
    assert all(fold["schema"]["target"] == {"kind": "numbers", "names": ["price"], "log": True} for fold in folds)
    parts = [{group_of[path] for path, _ in fold["splits"]["val"]} for fold in folds]
    parts.append({group_of[path] for path, _ in folds[0]["splits"]["test"]})
    assert sum(map(len, parts)) == len(set().union(*parts)) == 13
