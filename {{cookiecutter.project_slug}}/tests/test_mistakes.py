"""A user's mistake ends before training, with exit code 2 and one line that says what to do."""

import shutil
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from project_package.engine.endings import exit_code
from project_package.engine.mistakes import Mistake
from project_package.model import Classifier


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.optimizer.lrr=1"], "lrr"),
        (["--trainer.max_epoch=1"], "--trainer.max_epochs"),
        (["--data.root=nowhere"], "'nowhere' is not there"),
        (["--data.root=."], "no images"),
        (["--data.augment=medum"], "medium"),
        (["--data.batch_size=0"], "batch_size=0"),
        (["--model.optimizer.lr=-1"], "Invalid learning rate"),
        (["--trainer.strategy=foo"], "foo"),
        (["--model.warmup_steps=999"], "warmup_steps=999"),
        (["--data.batch_size=64"], "exceeds the 48 training images"),
        (["--data.batch_size=9", "--trainer.accumulate_grad_batches=2"], "multiple of 2"),
        (["--trainer.accumulate_grad_batches=-1"], "--trainer.accumulate_grad_batches=-1"),
        (["--trainer.accumulate_grad_batches=0"], "accumulate_grad_batches"),
        (["--data.val_fraction=0.01"], "raise it above"),
        (["--data.val_fraction=0.6", "--data.test_fraction=0.6"], "less than 1"),
        (["--data.train_fraction=2"], "train_fraction=2"),
        (["--data.manifest=nowhere.json"], "nowhere.json"),
        (["--config=nowhere"], "minimal"),
        (["--monitor=val/acuracy"], "val/accuracy"),
        (["--model.network=Backbone", "--model.network.name=resnt18"], "resnet18"),
        (["--model.weights=nowhere.pt"], "nowhere.pt"),
        (["--trainer.accelerator=gpu", "--trainer.devices=99"], ""),
        (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["--run_root=/proc/runs"], "/proc/runs"),
        (["--mode=maximum"], "maximum"),
        (["--run_root"], "expected one argument"),
        (["--config"], "expected one argument"),
        (["--trainer.val_check_interval=1000"], "val_check_interval"),
        (["--trainer.devices=[7]"], "--trainer"),
        (["--data.split_seed=-1"], "--data.split_seed=-1"),
        (["--data.image_size=0"], "--data.image_size=0"),
        (["--model.unfreeze_every=0"], "--model.unfreeze_every=0"),
        (["--model.unmixed_epochs=-1"], "--model.unmixed_epochs=-1"),
        (["--model.schedule=OneCycle", "--model.schedule.pct_start=2"], "--model.schedule cannot be made"),
        (["--model.schema={a: 1}"], "leave it out"),
    ],
)
def test_it_is_named_in_one_line(run, capfd, flags, words):
    assert run("fit", *flags) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert words in error[0]
    assert not Path("runs").exists()


def test_what_lightning_says_in_several_lines_is_said_in_one(capsys):
    def refuse():
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: You requested gpu: [0, 1] But your machine only has: [0]\n"


def test_nothing_trained_yet_is_said(run, capfd):
    assert run("test") == 2
    assert "train one with fit" in capfd.readouterr().err


def test_a_broken_image_is_named_when_it_is_read(run, shapes, tmp_path, capfd):
    root = tmp_path / "broken"
    for path in shapes.rglob("*.png"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    whole = root / "left" / "000.png"
    Image.open(whole).resize((99, 99)).save(whole)
    whole.write_bytes(whole.read_bytes()[:-400])
    for flags in ([], ["--data.num_workers=1"]):
        assert run("fit", f"--data.root={root}", "--data.val_fraction=0.2", *flags) == 2
        assert "left/000.png cannot be read" in capfd.readouterr().err


def test_a_run_that_named_classes_which_are_gone_says_so(run, capfd):
    assert run("fit", "--trainer.max_epochs=1") == 0
    config = Path("runs/small/version_0/config.yaml")
    config.write_text(config.read_text().replace("torch.optim.AdamW", "torch.gone.AdamW"))
    assert run("test") == 2
    assert "torch.gone.AdamW" in capfd.readouterr().err


def test_a_broken_image_in_mid_run_leaves_the_run_and_why(run, shapes, tmp_path, monkeypatch):
    root = tmp_path / "breaking"
    shutil.copytree(shapes, root)
    step = Classifier.training_step

    def breaking(self, batch, batch_idx):
        if self.global_step == 7:
            raise Mistake("the disk ate an image")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", breaking)
    assert run("fit", f"--data.root={root}") == 2
    assert "the disk ate an image" in Path("runs/small/version_0/failure.txt").read_text()


def test_a_checkpoint_of_other_classes_is_refused(trained, run, shapes, tmp_path, capfd):
    root = tmp_path / "others"
    for path in shapes.rglob("*.png"):
        (root / f"not-{path.parent.name}").mkdir(parents=True, exist_ok=True)
        (root / f"not-{path.parent.name}" / path.name).write_bytes(path.read_bytes())
    assert run("fit", f"--data.root={root}", "--name=others") == 0
    manifest = "runs/others/version_0/manifest.json"
    assert run("fit", "--ckpt_path=last", f"--data.root={root}", f"--data.manifest={manifest}") == 2
    assert "has other splits than the run" in capfd.readouterr().err
    assert run("validate", f"--data.root={root}", f"--data.manifest={manifest}") == 2
    assert "knows the classes left, middle, right" in capfd.readouterr().err
