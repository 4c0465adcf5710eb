"""Every recipe trains, on the digits and where some of them are rare, and flags win over recipes over presets."""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import OTHER_TASKS, RUN, SOURCE, of_task

RECIPES = sorted(path.stem for path in (SOURCE / "src").glob("*/configs/recipes/*.yaml"))
LONG = pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="LONG_TESTS=1 trains on all digits as well")
QUICK = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=2",
    "--model.network.width=8",
    "--trainer.logger=false",
    "--report=false",
)


def imbalanced(digits: Path, folder: Path) -> Path:
    """Link the digits, of the classes 5 to 9 every twentieth image, eight at the least."""
    for path in sorted(digits.rglob("*.png")):
        of_class = sorted(path.parent.iterdir())
        step = 20 if path.parent.name >= "5" else 1
        if of_class.index(path) % step == 0:
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def digits(project, command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    done = command(project, folder, "fit", "--config=debug")
    assert done.code == 0, done.output
    return folder / "data/digits"


@pytest.mark.parametrize("rare", [True, pytest.param(False, marks=LONG)], ids=["rare", "digits"])
def test_the_recipes_train(rare, digits, project, command, tmp_path):
    root = imbalanced(digits, tmp_path / "rare") if rare else digits
    begin = ("fit", "--data.root", root, *QUICK)
    lines = [[*begin, "--name=first"]]
    for recipe in RECIPES:
        lines.append([*begin, f"--config={recipe}", f"--name={recipe}"])
        if recipe == "finetune":
            lines[-1].append("--model.weights=runs/first/version_0/checkpoints/last.ckpt")
    for name, done in zip(["first", *RECIPES], command.each(project, tmp_path, lines), strict=True):
        assert done.code == 0, name + done.output
        assert (tmp_path / f"runs/{name}/version_0/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_the_recipes_train_for_labels_and_numbers_but_the_one_for_classes(task, targets, project, command, tmp_path):
    flags = (*of_task(targets, task), *QUICK)
    lines = [["fit", *flags, "--name=first"]]
    for recipe in RECIPES:
        lines.append(["fit", f"--config={recipe}", *flags, f"--name={recipe}"])
        if recipe == "finetune":
            lines[-1].append("--model.weights=runs/first/version_0/checkpoints/last.ckpt")
    done = dict(zip(["first", *RECIPES], command.each(project, tmp_path, lines), strict=True))
    why = {"multilabel": "use BinaryCrossEntropy", "regression": "such as MSE, MAE, Huber or Quantile"}[task]
    assert why in done.pop("imbalanced").refusal
    assert {name: result.output for name, result in done.items() if result.code} == {}


def test_flags_win_over_recipes_and_later_configs_over_earlier(digits, project, command, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {mixup: 0.3}\n")
    layers = ("--config=long_schedule", "--config=minimal", "--config=mine.yaml", "--trainer.max_epochs=1")
    done = command(project, tmp_path, "fit", "--data.root", digits, *layers, "--trainer.limit_train_batches=2")
    assert done.code == 0, done.output
    config = yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1  # a flag
    assert config["model"]["mixup"] == 0.3  # a file over the recipe's 0.2
    assert config["model"]["warmup_steps"] == 0.05  # the recipe
    assert config["trainer"]["gradient_clip_val"] is None  # the preset


def test_a_recipe_that_is_not_there_lists_those_that_are(project, command, tmp_path):
    done = command(project, tmp_path, "fit", "--config=basline")
    assert all(name in done.refusal for name in RECIPES)


def test_smote_trains_the_last_layer_again_on_training_images_alone(digits, project, command, tmp_path):
    root = imbalanced(digits, tmp_path / "rare")
    small = ("--data.root", root, "--trainer.max_epochs=3", "--model.network.width=8", "--trainer.logger=false")
    fitted = command(project, tmp_path, "fit", *small)
    assert fitted.code == 0, fitted.output
    done = command(project, tmp_path, "smote")
    assert done.code == 0, done.output
    first, second = (
        torch.load(tmp_path / RUN / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "smote")
    )
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"network.head.3.weight", "network.head.3.bias"}
    scores = [float(score) for score in re.findall(r"val/f1_macro\D+([\d.]+)", done.output)]
    assert scores[-1] > scores[0]
    tested = command(project, tmp_path, "test", f"--ckpt_path={RUN}/checkpoints/smote.ckpt")
    assert tested.code == 0, tested.output
