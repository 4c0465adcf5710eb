"""Lightning's Trainer flags work as documented, on one device and on two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import HUNG, RUN, TINY, bake, draw_images
from conftest import rows as read
from PIL import Image
from sklearn.metrics import f1_score, log_loss


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("flags") / "images")


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (
            [
                *("--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=0.5", "--trainer.profiler=simple"),
                *("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"),
                "--callbacks.device_stats=DeviceStatsMonitor",
            ],
            ["bfloat16", "run_training_batch"],
        ),
        (
            [
                *("--trainer.precision=bf16-true", "--model.optimizer=RMSprop", "--model.schedule=Plateau"),
                "--callbacks.averaging=EMAWeightAveraging",
            ],
            [],
        ),
        (["--trainer.fast_dev_run=true", "--model.network=SmallMLP"], ["fast_dev_run"]),
        (
            [
                *("--trainer.overfit_batches=2", "--trainer.logger=[]", "--trainer.max_time=01:00:00:00"),
                "--model.network=Backbone",  # resnet18, which has no dropout
            ],
            [],
        ),
    ],
    ids=["mixed precision", "low precision", "fast_dev_run", "overfitting"],
)
def test_flags_of_the_trainer_work(flags, shown, project, command, images, tmp_path):
    done = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], *flags)
    assert done.code == 0, done.output
    assert all(words in done.output for words in shown)
    assert (tmp_path / RUN / "checkpoints/best.ckpt").exists() == ("--trainer.fast_dev_run=true" not in flags)


def test_any_classifier_of_torchvision_trains_and_its_weights_start_another_run(project, command, images, tmp_path):
    backbone = ("--model.network=Backbone", "--model.network.name=squeezenet1_1", "--data.image_size=32")
    done = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], *backbone)
    assert done.code == 0, done.output
    weights = f"--model.weights={tmp_path / RUN}/checkpoints/last.ckpt"
    again = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], *backbone, weights)
    assert again.code == 0, again.output
    others = tmp_path / "others"
    for path in images.rglob("*.png"):
        target = others / (path.parent.name if int(path.stem) % 2 else f"odd {path.parent.name}") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    new = command(
        project, tmp_path, "fit", "--data.root", others, "--data.test_fraction=0.2", *TINY[1:], *backbone, weights
    )
    assert new.code == 0, new.output
    assert "starts afresh" in new.output
    wrong = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], weights)
    assert wrong.code == 2
    assert "another architecture" in wrong.errors[0]


def test_the_folder_of_one_class_with_eight_of_600_images_trains_with_one_flag(project, command, tmp_path):
    for label in range(12):
        folder = tmp_path / "mine" / f"class {label}"
        folder.mkdir(parents=True)
        for number in range(8 if label == 7 else 53):
            pixels = np.random.default_rng([label, number]).integers(0, 99, (20, 30, 3), dtype=np.uint8)
            pixels[:, label : label + 6] += 120
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
    done = command(project, tmp_path, "fit", "--data.root=mine", "--trainer.max_epochs=2", "--model.network.width=8")
    assert done.code == 0, done.output
    config = yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())
    assert (config["data"]["image_size"], config["data"]["channels"]) == (20, 3)


def test_the_resolved_config_reaches_every_logger(fitted):
    run = fitted[0] / RUN
    logged = yaml.safe_load((run / "hparams.yaml").read_text())  # TensorBoard's
    assert logged == yaml.safe_load((run / "config.yaml").read_text())


def spawn(project: Path, folder: Path, *program: str) -> str:
    """Run a program that starts ranks of its own."""
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("PL_GLOBAL_SEED", "RUN_FOLDER"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", *program], cwd=folder, env=environment, capture_output=True, text=True, timeout=HUNG
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


LONG = 50 if "LONG_TESTS" in os.environ else 12  # epochs, of two steps
DDP = ("--trainer.devices=2", "--trainer.strategy=ddp")


def test_devices_that_lightning_starts_share_one_folder(project, images, tmp_path):
    spawn(project, tmp_path, "my_project", "fit", "--data.root", str(images), *TINY, *DDP)
    assert [path.name for path in (tmp_path / "runs/digits").iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--data.balance=sampler", "--model.schedule=OneCycle", f"--trainer.max_epochs={LONG}"],
        ["--data.balance=class_weights", "--model.schedule=Step", "--model.loss=Focal"],
        ["--data.balance=effective_weights", "--trainer.accumulate_grad_batches=2", "--model.schedule=Exponential"],
    ],
    ids=lambda flags: flags[0],
)
def test_two_devices_train_what_one_trains(flags, project, command, tmp_path):
    """Weighted losses, schedules, draws and metrics, where one class is rare."""
    images = draw_images(tmp_path / "images")
    for path in sorted((images / "red").iterdir())[8:]:
        path.unlink()
    same = ("--data.root", images, *TINY[1:], "--trainer.max_epochs=8", "--model.network=SmallMLP", *flags)
    same += ("--callbacks.early_stopping=null",)
    rows = {}
    for name, ranks, ddp in (("alone", 1, ()), ("both", 2, DDP)):
        done = command(project, tmp_path, "fit", *same, *ddp, f"--name={name}", ranks=ranks)
        assert done.code == 0, done.output
        rows[name] = read(tmp_path / f"runs/{name}/version_0/metrics.csv")
    assert len(rows["alone"]) == len(rows["both"]) > 24
    for one, two in zip(rows["alone"], rows["both"], strict=True):
        for key, value in one.items():
            assert (value or 0) == (two[key] or 0) or float(two[key]) == pytest.approx(float(value), abs=1e-5), key


def test_torchrun_shares_one_folder_and_its_test_equals_scikit_learn(project, command, images, tmp_path):
    small = ("--data.root", str(images), *TINY)
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "my_project")
    spawn(project, tmp_path, *launch, "fit", *small, *DDP)
    assert [path.name for path in (tmp_path / "runs/digits").iterdir()] == ["version_0"]
    tested = command(project, tmp_path, "test", "--data.test_fraction=0.15", *DDP, ranks=2)
    assert tested.code == 0, tested.output
    rows = read(tmp_path / RUN / "test_predictions.csv")
    assert len({row["path"] for row in rows}) == len(rows) == 9
    classes = ["blue", "green", "red"]
    true = [classes.index(row["target"]) for row in rows]
    said = [classes.index(row["label"]) for row in rows]
    probabilities = [[float(row[name]) for name in classes] for row in rows]
    logged = read(tmp_path / RUN / "metrics.csv")[-1]
    assert float(logged["test/accuracy"]) == pytest.approx(np.mean(np.equal(true, said)), abs=1e-6)
    assert float(logged["test/f1_macro"]) == pytest.approx(f1_score(true, said, average="macro"), abs=1e-6)
    assert float(logged["test/loss"]) == pytest.approx(log_loss(true, probabilities, labels=[0, 1, 2]), abs=1e-4)


def test_two_ranks_predict_what_they_can_read_and_say_once_what_they_cannot(fitted, project, command, tmp_path):
    shutil.copytree(fitted[0] / "runs", tmp_path / "runs")
    new = shutil.copytree(fitted[0] / "images/red", tmp_path / "new")
    for number in (2, 3, 7):  # of both ranks
        (new / f"{number:02d}.png").write_text("no image")
    done = command(project, tmp_path, "predict", f"--data.predict_root={new}", *DDP, ranks=2)
    assert done.code == 1, done.output
    assert len(done.errors) == 1
    assert "3 of 20 images could not be read, the first: 02.png" in done.errors[0]
    rows = read(tmp_path / RUN / "predictions.csv")
    assert [row["path"] for row in rows] == sorted(path.name for path in new.iterdir())
    assert [row["path"] for row in rows if row["error"]] == ["02.png", "03.png", "07.png"]
    assert all(bool(row["label"]) != bool(row["error"]) for row in rows)


def test_checkpoints_hold_plain_values(fitted):
    content = torch.load(fitted[0] / RUN / "checkpoints/last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["schema"]["target"]["names"] == ["blue", "green", "red"]


def test_lightnings_own_finders_are_refused_and_the_way_to_go_is_named(project, command, images, tmp_path):
    (tmp_path / "finder.yaml").write_text(
        "trainer: {callbacks: [{class_path: BatchSizeFinder, init_args: {mode: binsearch}}]}"
    )
    full = "lightning.pytorch.callbacks.LearningRateFinder"
    both = json.dumps([{"class_path": "ModelSummary", "init_args": {"max_depth": 2}}, {"class_path": full}])
    begin = ("fit", "--data.root", images, *TINY)
    rate, batch = "python -m my_project lr-range", "--trainer.accumulate_grad_batches"
    wrong = {
        (*begin, "--trainer.callbacks=LearningRateFinder"): rate,
        (*begin, "--trainer.callbacks+=LearningRateFinder", "--trainer.fast_dev_run=true"): rate,
        (*begin, "--trainer.callbacks", both): rate,
        (*begin, "--trainer.callbacks=BatchSizeFinder"): batch,
        (*begin, "--config=finder.yaml"): batch,
    }
    command.refuses(project, tmp_path, wrong)
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.rglob("version_*"))


def test_a_finder_among_the_owners_callbacks_is_refused_and_names_no_command_that_is_not_there(
    command, images, tmp_path
):
    project = bake(tmp_path / "baked", tools="no")
    path = project / "src/my_project/callbacks.py"
    text = path.read_text()
    for old, new in (
        ("import DeviceStatsMonitor,", "import DeviceStatsMonitor, LearningRateFinder,"),
        (
            "        best: BestCheckpoint |",
            "        finder: LearningRateFinder | None = None,\n        best: BestCheckpoint |",
        ),
        ("given = (best,", "given = (finder, best,"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    done = command(project, tmp_path, "fit", "--data.root", images, *TINY, "--callbacks.finder=LearningRateFinder")
    assert "try rates by --model.optimizer.lr" in done.refusal
    assert "lr-range" not in done.refusal
