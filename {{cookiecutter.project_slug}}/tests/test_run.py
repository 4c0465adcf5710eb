"""A run from its start to its predictions."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from project_package.__main__ import main
from project_package.data import ImageData
from project_package.engine.splits import Manifest
from project_package.model import Classifier

RUN = Path("runs/small/version_0")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_describes_it_and_is_found_again(run, shapes, capsys):
    assert run("fit") == 0
    assert "checkpoints/best.ckpt" in capsys.readouterr().out
    names = {"calibration.json", "checkpoints", "config.yaml", "environment.txt", "launches.jsonl", "manifest.json"}
    names.add("timing.csv")
    assert {path.name for path in RUN.iterdir()} == names
    assert run("test") == 0
    assert len(read(RUN / "test_predictions.csv")) == 12
    assert len(read(RUN / "confusion_matrix.csv")) == 3
    assert run("predict", f"--data.predict_root={shapes / 'left'}") == 0
    rows = read(RUN / "predictions.csv")
    assert len(rows) == 24
    sums = [float(row["left"]) + float(row["middle"]) + float(row["right"]) for row in rows]
    assert sums == pytest.approx([1] * 24, abs=1e-5)


def test_the_network_learns(run):
    assert run("fit", "--trainer.max_epochs=12", "--model.optimizer.lr=0.01") == 0
    assert run("test") == 0
    rows = read(RUN / "test_predictions.csv")
    assert sum(row["label"] == row["target"] for row in rows) >= 11


def test_metrics_are_appended_not_replaced(run):
    assert run("fit", "--trainer.logger=[]") == 0
    fitted = read(RUN / "metrics.csv")
    assert run("test") == 0
    rows = read(RUN / "metrics.csv")
    assert len(rows) == len(fitted) + 1
    assert 0 <= float(rows[-1]["test/accuracy"]) <= 1


def test_the_saved_config_repeats_the_run(trained, run):
    assert run("fit", "--config", str(RUN / "config.yaml")) == 0
    first, second = (
        torch.load(Path(f"runs/small/version_{n}/checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for n in (0, 1)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_flag_comes_over_a_config_wherever_it_stands(run):
    Path("mine.yaml").write_text("model: {optimizer: {class_path: SGD, init_args: {lr: 0.5}}}\ndata: {batch_size: 4}\n")
    one_epoch = ("--trainer.max_epochs=1", "--data.batch_size=6")
    for flags in (("--config=mine.yaml",), ("--config", "mine.yaml"), ("-c", "mine.yaml", "--config=minimal")):
        assert run("fit", *one_epoch, "--model.optimizer=SGD", "--model.optimizer.lr=0.25", *flags) == 0
    for config in Path("runs/small").glob("*/config.yaml"):
        content = yaml.safe_load(config.read_text())
        assert content["data"]["batch_size"] == 6
        assert content["model"]["optimizer"]["init_args"]["lr"] == 0.25


def test_a_checkpoint_is_loaded_without_the_command_line(trained, shapes):
    model = Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert model.schema.target.names == ["left", "middle", "right"]
    data = ImageData(str(shapes), manifest=str(RUN / "manifest.json"), num_workers=0)
    data.setup("fit")
    x_NCHW = torch.stack([data.train[i].x for i in range(4)])
    with torch.no_grad():
        assert model.eval()(x_NCHW).shape == (4, 3)


def test_a_model_is_loaded_to_the_cpu_wherever_it_was_trained(trained, monkeypatch):
    seen = []

    def load(cls, path, map_location=None, *args, **kwargs):
        seen.append(map_location)

    monkeypatch.setattr(LightningModule, "load_from_checkpoint", classmethod(load))
    Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt", map_location="meta")
    Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt", "meta")
    assert seen == ["cpu", "meta", "meta"]


def test_nothing_but_test_reads_the_test_split(run, shapes, tmp_path, capfd):
    for path in shapes.rglob("*.png"):
        split = "test" if int(path.stem) < 4 else "train"
        target = tmp_path / "parted" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(f"no image: {target}".encode() if split == "test" else path.read_bytes())
    root = f"--data.root={tmp_path / 'parted'}"
    assert run("fit", root) == 0
    assert run("validate", root) == 0
    assert run("test", root) == 2
    assert "cannot be read as an image" in capfd.readouterr().err


def other_splits(manifest: Path, target: Path) -> Path:
    """Write a manifest in which a test sample has changed places with a training sample of its class."""
    content = json.loads(manifest.read_text())
    train, test = content["splits"]["train"], content["splits"]["test"]
    index = next(i for i, row in enumerate(train) if row[1] == test[0][1])
    train[index], test[0] = test[0], train[index]
    target.write_text(json.dumps(content))
    return target


def test_a_run_goes_on_with_its_own_splits_and_is_tested_on_those_that_are_named(run, trained, capfd):
    other = other_splits(trained / "manifest.json", Path("splits.json"))
    assert run("test", f"--data.manifest={other}") == 0
    tested = {row["path"] for row in read(trained / "test_predictions.csv")}
    assert tested == {key for key, _ in json.loads(other.read_text())["splits"]["test"]}
    flags = (
        "--model.schedule=null",
        "--model.warmup_steps=0",
        "--trainer.max_epochs=1",
        "--name=again",
        f"--data.manifest={other}",
    )
    assert run("fit", *flags) == 0
    other.write_text((trained / "manifest.json").read_text())  # the file that was named is another by now
    longer = ("--trainer.max_epochs=2", "--ckpt_path=last")
    assert run("fit", *flags, *longer) == 2
    assert "has other splits than the run" in capfd.readouterr().err
    copy = Path("runs/again/version_0/manifest.json")
    assert run("fit", *flags[:-1], f"--data.manifest={copy.absolute()}", *longer) == 0


def test_a_manifest_of_version_1_is_read(run, shapes, trained):
    content = json.loads((trained / "manifest.json").read_text())
    names = content["schema"]["target"]["names"]
    splits = {
        split: {name: [key for key, written in rows if written == name] for name in names}
        for split, rows in content["splits"].items()
    }
    Path("old.json").write_text(json.dumps({"seed": 0, "classes": names, "splits": splits}))
    old, new = Manifest.load("old.json"), Manifest.load(trained / "manifest.json")
    assert old.has_splits_of(new)
    assert run("fit", "--data.manifest=old.json", "--name=old", "--trainer.max_epochs=1") == 0
    assert json.loads(Path("runs/old/version_0/manifest.json").read_text())["version"] == 2


def test_a_checkpoint_is_named_from_its_own_folder(run, trained, monkeypatch):
    monkeypatch.chdir(trained / "checkpoints")
    assert run("validate", "--ckpt_path=best.ckpt") == 0


def test_class_weights_reach_the_loss(run):
    assert run("fit", "--data.balance=class_weights") == 0
    state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["loss.class_weights_K"].tolist() == pytest.approx([1, 1, 1])


def test_presets_switch_callbacks_and_one_flag_brings_them_back(run):
    assert run("fit", "--config", "minimal", "--callbacks.early_stopping.patience=3") == 0
    callbacks = yaml.safe_load((RUN / "config.yaml").read_text())["callbacks"]
    assert callbacks["early_stopping"]["init_args"]["patience"] == 3
    assert callbacks["lr_monitor"] is None


def test_debug_leaves_nothing_behind(run):
    assert run("fit", "--config", "debug") == 0
    assert not Path("runs").exists()


def test_one_metric_feeds_checkpoint_and_early_stopping(run):
    assert run("fit", "--monitor=val/accuracy") == 0
    callbacks = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    best = next(state for key, state in callbacks.items() if "BestCheckpoint" in key)
    assert best["monitor"] == "val/accuracy"
    assert math.isclose(best["best_model_score"], best["current_score"], abs_tol=1)
    assert any("EarlyStopping" in key and "'mode': 'max'" in key for key in callbacks)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.check_val_every_n_epoch=9"], "(--trainer.check_val_every_n_epoch 9), the run ends after 12"),
        (["--trainer.limit_val_batches=0"], "--trainer.limit_val_batches 0"),
        (["--trainer.max_steps=5"], "the first would come after 6 batches"),
        (["--trainer.check_val_every_n_epoch=2", "--trainer.max_steps=11"], "(--trainer.max_steps 11)"),
        (
            ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=13"],
            "(--trainer.val_check_interval 13)",
        ),
        (["--trainer.max_steps=2", "--trainer.accumulate_grad_batches=2", "--data.batch_size=16"], "ends after 4"),
    ],
    ids=str,
)
def test_a_run_without_validation_says_so_at_its_start_and_the_way_on(flags, words, run, capfd):
    assert run("fit", *flags) == 0
    said = capfd.readouterr().out
    assert "no validation will run" in said
    assert words in said
    assert said.index("no validation will run") < said.index("no validation ran, so there is no best checkpoint")
    assert "test --ckpt_path runs/small/version_0/checkpoints/last.ckpt" in said
    assert run("test") == 2
    refused = capfd.readouterr().err
    assert "has no best checkpoint" in refused
    assert "--ckpt_path last" in refused
    assert run("test", "--ckpt_path=last") == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_steps=6"],
        ["--trainer.check_val_every_n_epoch=2", "--trainer.max_steps=12"],
        ["--trainer.val_check_interval=0.5", "--trainer.max_steps=3"],
        ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=12"],
        ["--trainer.max_steps=2", "--trainer.accumulate_grad_batches=4", "--data.batch_size=32"],
    ],
    ids=str,
)
def test_a_run_that_is_validated_at_its_very_end_is_not_said_to_go_without(flags, run, capfd):
    assert run("fit", *flags) == 0
    said = capfd.readouterr().out
    assert "no validation" not in said
    assert (RUN / "checkpoints/best.ckpt").is_file()


def test_an_older_runs_best_checkpoint_does_not_pass_for_that_of_a_run_that_has_none(trained, run, capfd):
    assert run("fit", "--trainer.limit_val_batches=0") == 0
    for command in ("test", "validate", "predict"):
        assert run(command) == 2
        assert "the newest run, runs/small/version_1, has no best checkpoint" in capfd.readouterr().err
    assert run("test", f"--ckpt_path={trained / 'checkpoints/best.ckpt'}") == 0
    assert run("fit", "--callbacks.last=null") == 0
    assert run("test") == 0
    assert run("test", "--ckpt_path=last") == 2
    assert "--ckpt_path best" in capfd.readouterr().err


def test_one_line_trains_on_everything_and_predicts(run, shapes, capfd):
    everything = ["--data.val_fraction=0", "--data.test_fraction=0"]
    assert run("fit", *everything) == 2
    assert "train without: --trainer.limit_val_batches 0" in capfd.readouterr().err
    assert run("fit", *everything, "--trainer.limit_val_batches=0", "--trainer.logger=[]", "--report=true") == 0
    said = capfd.readouterr().out
    assert "data: 72 train, 0 val, 0 test" in said
    assert "next:          python -m" in said
    assert "predict --data.predict_root FOLDER --ckpt_path" in said
    assert "report:        not written" not in said
    assert run("predict", f"--data.predict_root={shapes / 'left'}", "--ckpt_path=last") == 0
    assert len(read(RUN / "predictions.csv")) == 24
    for command, words in (
        ("test", "the test split is empty"),
        ("validate", "--trainer.limit_val_batches=0, which the run's config may hold, leaves nothing to score"),
    ):
        assert run(command, "--ckpt_path=last") == 2
        assert words in capfd.readouterr().err
    assert run("fit", "--ckpt_path=last", "--trainer.limit_val_batches=0", "--callbacks.last=null") == 0


def test_another_network_than_the_default_one_has_its_own_defaults(capfd):
    def shown(*flags: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["fit", *flags, "--print_config"])
        return yaml.safe_load(capfd.readouterr().out)["model"]["network"]["init_args"]

    assert shown("--model.network=SmallMLP")["width"] == 256
    assert shown("--model.network=SmallMLP", "--model.network.width=64")["width"] == 64
    assert shown("--model.network.width=64", "--model.network=SmallMLP")["width"] == 64
