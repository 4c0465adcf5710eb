"""What a run shows its loggers beside curves: augmented images, the confusion matrix and, by a flag, embeddings."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OTHER_TASKS, RUN, TINY, draw_images, of_task, rows
from PIL import Image


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("watching") / "images")


def pictures(run: Path) -> dict[str, list[tuple[int, Image.Image]]]:
    """Read the pictures of a run's event files: (step, picture) by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), {"images": 0})
    events.Reload()
    names = events.Tags()["images"]
    return {
        name: [(e.step, Image.open(io.BytesIO(e.encoded_image_string))) for e in events.Images(name)] for name in names
    }


def test_tensorboard_gets_the_images_of_training_and_what_the_best_validations_mix_up(
    fitted, project, command, tmp_path
):
    shutil.copytree(fitted[0] / "runs", tmp_path / "runs")
    seen = pictures(tmp_path / RUN)
    assert set(seen) == {"train/images", "val/confusion"}
    [(step, grid)] = seen["train/images"]
    assert (step, grid.size) == (0, (8 * 62, 2 * 62))  # 16 images of 12 pixels, enlarged five times
    losses = [float(row["val/loss"]) for row in rows(tmp_path / RUN / "metrics.csv") if row["val/loss"]]
    improved = sum(loss < min(losses[:i], default=float("inf")) for i, loss in enumerate(losses))
    assert len(seen["val/confusion"]) == improved
    tested = command(project, tmp_path, "test")
    assert tested.code == 0, tested.output
    assert len(pictures(tmp_path / RUN)["test/confusion"]) == 1


def test_pictures_change_nothing_in_a_run_and_can_be_switched_off(project, command, images, tmp_path):
    runs = []
    for name, flag in (("with", "--callbacks.projector=Projector"), ("without", "--callbacks.pictures=null")):
        done = command(project, tmp_path, "fit", "--data.root", images, *TINY, f"--name={name}", flag)
        assert done.code == 0, done.output
        runs.append(tmp_path / "runs" / name / "version_0")
    assert (runs[0] / "metrics.csv").read_text() == (runs[1] / "metrics.csv").read_text()
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert pictures(runs[0])
    assert not pictures(runs[1])


def test_the_projector_gets_an_embedding_a_name_and_a_thumbnail_of_each_validation_image(
    project, command, images, tmp_path
):
    done = command(
        project,
        tmp_path,
        "fit",
        "--data.root",
        images,
        *TINY,
        "--callbacks.projector=Projector",
        "--data.val_fraction=0.3",
    )
    assert done.code == 0, done.output
    config = (tmp_path / RUN / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 1
    [tensors] = (tmp_path / RUN).rglob("tensors.tsv")
    vectors = [line.split("\t") for line in tensors.read_text().splitlines()]
    names = (tensors.parent / "metadata.tsv").read_text().split()
    assert len(vectors) == len(names) == 18
    assert {len(vector) for vector in vectors} == {32}  # what the last layer of a network of width 8 sees
    assert set(names) == {"red", "green", "blue"}
    with Image.open(tensors.parent / "sprite.png") as sprite:
        assert sprite.size == (5 * 12, 5 * 12)  # a square that holds 18
        pixel: Any = sprite.getpixel((6, 6))
    assert pixel[("red", "green", "blue").index(names[0])] == max(pixel)


@pytest.mark.parametrize("logger", ["[]", "false", "WandbLogger"])
def test_pictures_work_with_other_loggers_and_with_none(logger, project, command, images, tmp_path):
    flags = (f"--trainer.logger={logger}", "--callbacks.projector=Projector")
    done = command(
        project, tmp_path, "fit", "--data.root", images, *TINY, *flags, environment={"WANDB_MODE": "offline"}
    )
    assert done.code == 0, done.output
    shown = {path.name.split("_")[0] for path in (tmp_path / RUN).rglob("*.png")}
    assert shown == ({"images", "confusion"} if logger == "WandbLogger" else set())


def test_a_resumed_run_shows_no_picture_twice(project, command, images, tmp_path):
    flags = ("fit", "--data.root", images, *TINY, "--model.schedule=null", "--model.warmup_steps=0")
    whole = command(project, tmp_path, *flags, "--name=whole", "--callbacks.projector=Projector")
    assert whole.code == 0, whole.output
    half = command(project, tmp_path, *flags, "--name=half", "--trainer.max_epochs=1")
    assert half.code == 0, half.output
    (tmp_path / "runs/half/version_0/unfinished.lock").touch()
    resumed = command(
        project,
        tmp_path,
        *flags,
        "--name=half",
        "--resume=auto",
        "--trainer.max_epochs=2",
        "--callbacks.projector=Projector",
    )
    assert resumed.code == 0, resumed.output
    first, second = (tmp_path / f"runs/{name}/version_0" for name in ("whole", "half"))
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    steps = {
        run: {name: [step for step, _ in found] for name, found in pictures(run).items()} for run in (first, second)
    }
    assert steps[first] == steps[second]
    assert (second / "projector_config.pbtxt").is_file()


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_labels_and_numbers_have_pictures_and_embeddings_but_no_confusion(task, targets, project, command, tmp_path):
    done = command(project, tmp_path, "fit", *of_task(targets, task), "--callbacks.projector=Projector")
    assert done.code == 0, done.output
    assert set(pictures(tmp_path / RUN)) == {"train/images"}
    [file] = (tmp_path / RUN).rglob("metadata.tsv")
    val = json.loads((targets / f"{task}.json").read_text())["splits"]["val"]
    write = {
        "multilabel": lambda labels: ";".join(labels) or "none",
        "regression": lambda numbers: ", ".join(f"{number:.12g}" for number in numbers),
    }[task]
    assert file.read_text().splitlines() == [write(target) for _, target in val]
