"""The range test draws the loss over the rate, suggests one that trains, and leaves everything else as it was."""

import re
from pathlib import Path

import pytest
from conftest import OTHER_TASKS, draw_images, of_task

FLAGS = ("--model.network.width=8", "--data.batch_size=16", "--data.num_workers=0", "--trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("range") / "images")


def suggestion(output: str) -> float:
    found = re.search(r"Suggestion: --model.optimizer.lr (\S+)", output)
    assert found, output
    return float(found.group(1))


def test_it_passes_over_few_images_several_times_and_writes_a_picture_and_a_page_alone(
    images, project, command, tmp_path
):
    # 42 training images are two steps an epoch; a schedule, a warm-up and a short run must not bend the rates.
    short = ("--trainer.max_epochs=1", "--model.warmup_steps=1", "--model.schedule=OneCycle")
    first, again = (
        command(project, tmp_path, "lr-range", "--data.root", images, *FLAGS, *short, "--steps=60") for _ in range(2)
    )
    assert first.code == 0, first.output
    assert suggestion(first.output) == suggestion(again.output)
    assert 1e-5 < suggestion(first.output) < 1
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert written == {"runs/digits/lr_range.png", "runs/digits/lr_range.html"}
    assert (tmp_path / "runs/digits/lr_range.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "runs/digits/lr_range.html").read_text()
    assert "learning rate" in page
    assert "training loss" in page


def test_the_suggestion_trains_better_than_a_hundredth_and_a_hundred_times_of_it(images, project, command, tmp_path):
    flags = ("--data.root", images, *FLAGS, "--model.optimizer=SGD", "--model.optimizer.weight_decay=0")
    done = command(project, tmp_path, "lr-range", *flags, "--steps=100")
    rate, losses = suggestion(done.output), []
    for factor in (1, 0.01, 100):
        plain = ("--trainer.max_epochs=3", "--model.schedule=null", "--model.warmup_steps=0", "--trainer.logger=false")
        fitted = command(project, tmp_path, "fit", *flags, *plain, f"--model.optimizer.lr={rate * factor}")
        best = re.search(r"best val/loss: (\S+)", fitted.output)
        losses.append(float(best.group(1)) if best else float("inf"))
    assert losses[0] < min(losses[1:])


def test_accumulated_batches_mixing_and_rates_by_stage_are_part_of_it(images, project, command, tmp_path):
    more = ("--trainer.accumulate_grad_batches=2", "--model.mixup=0.2", "--model.layer_decay=0.5")
    done = command(project, tmp_path, "lr-range", "--data.root", images, *FLAGS, *more, "--steps=40")
    assert done.code == 0, done.output
    assert suggestion(done.output) > 0


def test_what_cannot_be_tested_is_refused_in_one_line_and_leaves_nothing(images, project, command, tmp_path):
    wrong = {
        ("--min-rate=1", "--max-rate=0.1"): "--min-rate=1.0",
        ("--steps=3",): "--steps=3",
        ("--min-rate=1e20", "--max-rate=1e30", "--model.optimizer=SGD"): "lower --min-rate",
        ("--trainer.devices=2",): "--trainer.devices 1",
        ("--data.batch_size=100",): "data.batch_size=100",
    }
    begin = ("lr-range", "--data.root", images, *FLAGS)
    command.refuses(project, tmp_path, {(*begin, *flags): reason for flags, reason in wrong.items()})
    assert not (tmp_path / "runs").exists()


def test_labels_and_numbers_have_a_range_and_a_preview_too(targets, project, command, tmp_path):
    tools = [("lr-range", "--steps=40"), ("preview",)]
    lines = [(*tool, *of_task(targets, task), f"--name={task}") for task in OTHER_TASKS for tool in tools]
    results = command.each(project, tmp_path, lines)
    assert [done.code for done in results] == [0] * 4, "".join(done.output for done in results)
    assert all(suggestion(done.output) > 0 for done in results[::2])
    assert all((tmp_path / f"runs/{task}/lr_range.html").is_file() for task in OTHER_TASKS)
    assert (tmp_path / "preview.png").is_file()
