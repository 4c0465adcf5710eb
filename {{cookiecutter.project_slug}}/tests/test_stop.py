"""A signal ends a command within a step: saved, with the exit code that a scheduler knows, and nothing half-made."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from project_package import __main__
from project_package.engine import checkpoints, signals
from project_package.engine.preemption import StopOnSignal
from project_package.engine.task import Task

RUN = Path("runs/small/version_0")
LAST = RUN / "checkpoints/last.ckpt"
FLAGS = ("--trainer.max_epochs=3", "--trainer.logger=[]", "--model.schedule=OneCycle")
AVERAGED = (
    "--callbacks.averaging=EMAWeightAveraging",
    "--callbacks.averaging.decay=0.9",
    "--callbacks.averaging.warmup=true",
)
RARELY_VALIDATED = (
    "--trainer.check_val_every_n_epoch=3",
    "--callbacks.averaging=SWA",
    "--callbacks.averaging.start_epoch=0",
    "--callbacks.early_stopping=null",
)
ACCUMULATED = ("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5")


def signalled(
    monkeypatch: pytest.MonkeyPatch, hook: str, at: int, number: int = signal.SIGTERM, times: int = 1
) -> None:
    """Send this process a signal when a hook of the model is called for the ``at``-th time."""
    method, calls = getattr(Task, hook), 0

    def sending(self, *args, **kwargs):
        nonlocal calls
        calls += not self.trainer.sanity_checking
        if calls == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return method(self, *args, **kwargs)

    monkeypatch.setattr(Task, hook, sending)


def end_of(name: str) -> tuple[dict[str, torch.Tensor], str]:
    """Return what a run came to: its weights, with those that are averaged, and its metrics."""
    run = Path(f"runs/{name}/version_0")
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    states = {**content["state_dict"], **content.get("current_model_state", {})}
    return states, (run / "metrics.csv").read_text()


def same(first: tuple[dict[str, torch.Tensor], str], second: tuple[dict[str, torch.Tensor], str]) -> bool:
    weights, others = first[0], second[0]
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


# Of three epochs of six steps, each with a validation: within the second epoch, at the last batch of one, and in a
# validation. With accumulation an epoch has twelve batches and two validations; where one falls between the batches of
# a step, it ends, and the step as well.
@pytest.mark.parametrize(
    ("flags", "hook", "at", "step"),
    [
        (AVERAGED, "on_train_batch_start", 8, 8),
        (AVERAGED, "on_train_batch_start", 6, 6),
        (AVERAGED, "validation_step", 3, 12),
        (ACCUMULATED, "on_train_batch_start", 9, 5),
        (ACCUMULATED, "on_train_batch_start", 6, 3),
        (ACCUMULATED, "validation_step", 1, 3),
        (ACCUMULATED, "validation_step", 3, 6),
        ((*ACCUMULATED, "--trainer.val_check_interval=5"), "validation_step", 1, 3),
        (RARELY_VALIDATED, "on_train_batch_start", 6, 6),
        (RARELY_VALIDATED, "on_train_batch_start", 9, 9),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(flags, hook, at, step, run, monkeypatch, capfd):
    assert run("fit", *FLAGS, *flags, "--name=whole") == 0
    with monkeypatch.context() as patch:
        signalled(patch, hook, at)
        assert run("fit", *FLAGS, *flags) == 143
    said = capfd.readouterr()
    assert said.err.strip().endswith("stopped by SIGTERM")
    assert "unfinished" in said.out
    assert not (RUN / "failure.txt").exists()
    assert torch.load(LAST, weights_only=True)["global_step"] == step
    assert run("fit", *FLAGS, *flags, "--resume=auto") == 0
    assert same(end_of("whole"), end_of("small"))
    assert end_of("whole")[1] == end_of("small")[1]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
)
def test_before_the_first_step_nothing_is_left(number, code, said, run, monkeypatch, capfd):
    signalled(monkeypatch, "configure_optimizers", 1, number)
    assert run("fit") == code
    assert capfd.readouterr().err.strip().endswith(said)
    assert not Path("runs").exists()


def test_a_run_that_is_whole_stays_whole_when_its_report_is_stopped(run, monkeypatch, capfd):
    monkeypatch.setattr(__main__, "tools", lambda: {"report": ""})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    def stopped(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(__main__, "tool", stopped)
    assert run("fit", "--report=true") == 0
    assert not (RUN / "unfinished.lock").exists()
    assert "the run is whole" in capfd.readouterr().out


def test_a_signal_inside_a_save_waits_for_its_end(run, monkeypatch):
    save = checkpoints.WholeFile.save_checkpoint

    def signalled_save(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(checkpoints.WholeFile, "save_checkpoint", signalled_save)
    assert run("fit", "--callbacks.last.every_n_train_steps=2") == 143
    assert torch.load(LAST, weights_only=True)["global_step"] == 2
    assert [path.name for path in LAST.parent.iterdir()] == ["last.ckpt"]


def test_a_second_signal_ends_at_once(run, monkeypatch):
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    signalled(monkeypatch, "on_train_batch_start", 8, times=2)
    with pytest.raises(Ended, match="143"):
        run("fit", *FLAGS)
    assert torch.load(LAST, weights_only=True)["global_step"] == 6


def test_a_signal_whose_exception_is_swallowed_still_ends_the_command(trained, run, monkeypatch, capfd):
    evaluate = Task.on_test_epoch_end

    def swallowing(self):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self)

    monkeypatch.setattr(Task, "on_test_epoch_end", swallowing)
    assert run("test") == 143
    assert capfd.readouterr().err.strip().endswith("stopped by SIGTERM")


def test_a_signal_that_another_rank_got_counts_here_as_well(run, monkeypatch, capfd):
    monkeypatch.setattr(StopOnSignal, "_shared", lambda self, trainer, batches=0: setattr(self, "number", 15) or 15)
    assert run("fit", *FLAGS) == 143
    assert capfd.readouterr().err.strip().endswith("stopped by SIGTERM")


def test_an_evaluation_that_is_stopped_writes_nothing(trained, run, monkeypatch, capfd):
    signalled(monkeypatch, "test_step", 1, signal.SIGINT)
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert run("test") == 130
    assert capfd.readouterr().err.strip().endswith("interrupted")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("variables", "job"), [({}, "7"), ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2")]
)
def test_slurm_is_asked_once_to_start_the_job_again(variables, job, run, monkeypatch, capfd):
    asked: list[list[str]] = []

    def scontrol(command: list[str], **options) -> subprocess.CompletedProcess:
        asked.extend([command] if command[0] == "scontrol" else [])
        return subprocess.CompletedProcess(command, 0, "", "")

    for name, value in ({"SLURM_JOB_ID": "7"} | variables).items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        signalled(patch, "on_train_batch_start", 8, signal.SIGUSR1)
        patch.setattr(signals.subprocess, "run", scontrol)
        assert run("fit", *FLAGS) == 128 + signal.SIGUSR1
    assert asked == [["scontrol", "requeue", job]]
    assert f"SLURM job {job} is queued again" in capfd.readouterr().err
    assert torch.load(LAST, weights_only=True)["global_step"] == 8
    assert not list(RUN.rglob("hpc_ckpt*"))


def test_what_a_user_has_switched_off_stays_off(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with signals.watched():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_of_ones_own_keeps_its_traceback_also_when_a_signal_was_noted(run, monkeypatch):
    step: Callable = Task.on_train_batch_start

    def failing(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("mine")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "on_train_batch_start", failing)
    with pytest.raises(RuntimeError, match="mine"):
        run("fit", *FLAGS)
    assert "mine" in (RUN / "failure.txt").read_text()
