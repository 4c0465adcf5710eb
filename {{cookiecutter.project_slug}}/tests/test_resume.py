"""A run that was broken off goes on as if it had not been, and what would spoil it is refused."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional

from project_package.callbacks import standard
from project_package.data import ImageData
from project_package.engine import checkpoints, faults
from project_package.engine.mistakes import RunFailed
from project_package.model import Classifier

RUN = Path("runs/small/version_0")
LAST = RUN / "checkpoints/last.ckpt"
FLAGS = ("--model.network.dropout=0.3", "--trainer.max_epochs=3", "--callbacks.last.every_n_train_steps=3")


def killed(run, monkeypatch: pytest.MonkeyPatch, at: int, *flags: str) -> None:
    """Train until a step, counted from the run's start, fails."""
    step = Classifier.training_step

    def failing(self, batch, batch_idx):
        if self.trainer.global_step + 1 == at:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run("fit", *flags)


def weights(name: str = "small") -> dict:
    return torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]


# Three epochs of six steps, saved at every third. Killed in mid-epoch (5, 17), after a validation (8), at an end (12).
@pytest.mark.parametrize(("schedule", "kills"), [("OneCycle", (5, 12)), ("Plateau", (8, 17))])
def test_it_ends_in_the_same_weights(schedule, kills, run, monkeypatch):
    flags = (*FLAGS, f"--model.schedule={schedule}", "--trainer.logger=[]")
    assert run("fit", *flags, "--name=whole") == 0
    for at in kills:
        killed(run, monkeypatch, at, *flags, "--resume=auto")
        assert (RUN / "unfinished.lock").is_file()
    assert run("fit", *flags, "--resume=auto") == 0
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    assert not (RUN / "unfinished.lock").exists()
    whole, resumed = weights("whole"), weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (RUN / "metrics.csv").read_text() == Path("runs/whole/version_0/metrics.csv").read_text()


def test_without_a_run_to_go_on_with_a_fresh_one_begins(trained, run, capsys):
    assert run("fit", "--resume=auto") == 0
    assert "no unfinished run" in capsys.readouterr().out
    assert Path("runs/small/version_1").is_dir()


def test_checkpoints_that_are_kept_elsewhere_are_found(run, monkeypatch, tmp_path):
    flags = (*FLAGS, f"--callbacks.last.dirpath={tmp_path / 'elsewhere'}")
    killed(run, monkeypatch, 9, *flags)
    assert run("fit", *flags, "--resume=auto") == 0
    assert not (RUN / "unfinished.lock").exists()
    assert [path.name for path in Path("runs/small").iterdir()] == ["version_0"]


def test_another_experiment_is_refused(run, capfd, monkeypatch):
    killed(run, monkeypatch, 9, *FLAGS)
    for flag in ("--model.optimizer.lr=0.5", "--data.batch_size=4", "--trainer.max_epochs=9"):
        assert run("fit", *FLAGS, "--resume=auto", flag) == 2
        assert "--model.weights" in capfd.readouterr().err


def test_a_run_that_ended_in_mid_epoch_sees_each_sample_once_when_it_is_lengthened(run):
    flags = ("--model.schedule=null", "--model.warmup_steps=0", "--trainer.max_epochs=-1")
    assert run("fit", *flags, "--trainer.max_steps=16", "--name=whole") == 0
    assert run("fit", *flags, "--trainer.max_steps=9") == 0
    assert run("fit", *flags, "--trainer.max_steps=16", "--ckpt_path=last") == 0
    whole, branch = weights("whole"), torch.load("runs/small/version_1/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(whole[name], branch["state_dict"][name]) for name in whole)


def test_early_stopping_that_was_decided_before_a_kill_stays_decided(run):
    flags = ("--callbacks.early_stopping.patience=1", "--model.optimizer.lr=0", "--trainer.max_epochs=9")
    assert run("fit", *flags) == 0
    before = LAST.read_bytes()
    (RUN / "unfinished.lock").touch()
    assert run("fit", *flags, "--resume=auto") == 0
    assert LAST.read_bytes() == before


def test_the_config_of_a_resumed_run_repeats_it_from_its_start(run, monkeypatch):
    flags = (*FLAGS, "--trainer.max_epochs=2")
    killed(run, monkeypatch, 9, *flags)
    assert run("fit", *flags, "--resume=auto") == 0
    assert run("fit", f"--config={RUN / 'config.yaml'}", "--name=again") == 0
    first, again = weights(), weights("again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_loaded_model_can_be_trained_anew_in_a_script(trained, shapes):
    model = Classifier.load_from_checkpoint(LAST)
    trainer = Trainer(max_epochs=1, callbacks=standard(), accelerator="cpu", log_every_n_steps=0)
    trainer.fit(model, ImageData(str(shapes), batch_size=8, num_workers=0))
    assert {path.name for path in Path(str(trainer.log_dir), "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_its_checkpoint(run, capfd, monkeypatch):
    loss, steps = functional.cross_entropy, 0

    def broken(*args, **kwargs):
        nonlocal steps
        steps += torch.is_grad_enabled()
        return loss(*args, **kwargs) * (float("nan") if steps > 8 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "cross_entropy", broken)
        assert run("fit") == 1
    assert "the loss is not finite at step 8 (epoch 1, batch 2" in capfd.readouterr().err
    assert (RUN / "failure.txt").read_text().startswith("the loss is not finite at step 8")
    assert all(value.isfinite().all() for value in weights().values())
    assert run("fit", "--resume=auto") == 0
    assert not (RUN / "failure.txt").exists()
    assert not (RUN / "unfinished.lock").exists()


def test_overflows_of_fp16_are_a_fault_when_there_are_twenty_in_a_row(shapes):
    class Scaler:
        _scale = torch.tensor(2.0**16)

    trainer = Trainer(max_epochs=8, logger=False, enable_progress_bar=False, accelerator="cpu", log_every_n_steps=1)
    trainer.precision_plugin.scaler = Scaler()
    guard = faults.NumericalFaults()
    trainer.fit(Classifier(), ImageData(str(shapes), batch_size=8, num_workers=0))
    guard.on_train_start(trainer, trainer.model)

    def steps(overflowing: int) -> None:
        guard.on_train_batch_end(trainer, trainer.model)
        for _ in range(overflowing):
            guard.scaler._scale = guard.scaler._scale / 2
            guard.on_train_batch_end(trainer, trainer.model)

    steps(19)
    steps(19)
    with pytest.raises(RunFailed, match="20 steps in a row"):
        steps(20)


def test_a_weight_that_is_not_finite_is_a_fault_in_fp16_too(shapes):
    trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False, accelerator="cpu", log_every_n_steps=1)
    trainer.fit(Classifier(), ImageData(str(shapes), batch_size=8, num_workers=0))
    trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu")
    guard = faults.NumericalFaults()
    guard.on_train_start(trainer, trainer.model)
    guard.first_batch = 0
    guard.check(trainer, trainer.model, weights=True)
    next(trainer.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(RunFailed, match="a weight is not finite"):
        guard.check(trainer, trainer.model, weights=True)


def test_out_of_memory_names_the_flags_that_help(run, capfd, monkeypatch):
    def full(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Classifier, "training_step", full)
    assert run("fit") == 1
    assert "--trainer.accumulate_grad_batches 2" in capfd.readouterr().err


def test_a_checkpoint_that_could_run_code_is_refused(trained, run, capfd):
    content = torch.load(LAST, weights_only=True)
    hostile = RUN / "checkpoints/hostile.ckpt"
    network = {"class_path": "elsewhere.Network", "init_args": {}}
    torch.save({**content, "hyper_parameters": {**content["hyper_parameters"], "network": network}}, hostile)
    with pytest.raises(ValueError, match=r"elsewhere.*trusted"):
        Classifier.load_from_checkpoint(hostile)
    assert run("test", f"--ckpt_path={hostile}") == 2
    assert "trusted" in capfd.readouterr().err
    with zipfile.ZipFile(io.BytesIO(LAST.read_bytes())) as source, zipfile.ZipFile(hostile, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        checkpoints.read(hostile, Classifier)


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = checkpoints.WholeFile()
    writer.save_checkpoint({"state_dict": {}, "version": 1}, path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunFailed, match="No space left"):
        writer.save_checkpoint({"state_dict": {}, "version": 2}, path)
    assert torch.load(path, weights_only=True)["version"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
