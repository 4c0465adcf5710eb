"""A launch goes on with its own run, and with what its command means."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from project_package.engine import launches, resume, runs
from project_package.engine.commands import Commands
from project_package.engine.launches import (
    filled_in,
    is_of_another_task,
    launches_of,
    note_launch,
    this_launch,
)
from project_package.engine.mistakes import Mistake, RunFailed
from project_package.engine.runs import Run

RUN = Path("runs/small/version_0")
OF_SLURM = {"SLURM_JOB_ID": "71"}
OF_ARRAY = {"SLURM_JOB_ID": "74", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "3"}
AGAIN = {"SLURM_RESTART_COUNT": "1"}
OF_TORCHRUN = {"TORCHELASTIC_RUN_ID": "abc"}


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what this machine's own scheduler says."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "JOB_COMPLETION", "RUN_ID", "GROUP_WORLD", "LOCAL_WORLD")):
            monkeypatch.delenv(name)


def launched(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], host: str = "machine") -> None:
    """Be a process of another launch."""
    for name in ("RUN_ID", "JOB_COMPLETION_INDEX", "NODE_RANK", "GROUP_WORLD_SIZE", *OF_ARRAY, *AGAIN, *OF_TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("socket.gethostname", lambda: host)


@pytest.mark.parametrize(
    ("given", "host", "identity", "task"),
    [
        ({}, "machine", "", ""),
        (OF_SLURM, "machine", "SLURM job 71", ""),
        (OF_ARRAY, "machine", "SLURM job 71, task 3", "3"),
        (OF_ARRAY | {"SLURM_ARRAY_TASK_ID": "0"}, "machine", "SLURM job 71, task 0", "0"),
        (OF_ARRAY | OF_TORCHRUN, "machine", "SLURM job 71, task 3", "3"),
        (OF_TORCHRUN, "machine", "torchrun abc", ""),
        ({"TORCHELASTIC_RUN_ID": "none"}, "machine", "", ""),
        ({"RUN_ID": "mine"} | OF_SLURM, "machine", "RUN_ID mine", ""),
        ({"RUN_ID": "mine"} | OF_ARRAY, "machine", "RUN_ID mine, task 3", "3"),
        ({"JOB_COMPLETION_INDEX": "4"}, "sweep-4", "Kubernetes job sweep, index 4", "4"),
        ({"JOB_COMPLETION_INDEX": "0"} | OF_TORCHRUN, "sweep-0-x7k2p", "Kubernetes job sweep, index 0", "0"),
        ({"JOB_COMPLETION_INDEX": "1", "GROUP_WORLD_SIZE": "2"}, "sweep-1", "Kubernetes job sweep", ""),
        ({"JOB_COMPLETION_INDEX": "4"}, "node-17", "", ""),
        ({"RUN_ID": "u", "JOB_COMPLETION_INDEX": "1"}, "x", "RUN_ID u, task 1", "1"),
        ({"RUN_ID": "u", "JOB_COMPLETION_INDEX": "1", "NODE_RANK": "1"}, "x", "RUN_ID u", ""),
    ],
)
def test_a_launch_is_known_by_what_outlives_a_restart(given, host, identity, task, monkeypatch):
    launched(monkeypatch, given, host)
    assert (this_launch().identity, this_launch().task) == (identity, task)


def begun(name: str, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], *command: str, ended: bool = False) -> Run:
    """Make the folder of a run that a launch has worked on."""
    launched(monkeypatch, given)
    run = runs.new_run(Path("runs"), name)
    if not ended:
        run.lock.touch()
    note_launch(run, command or ("fit",))
    return run


def numbers(found: list[Run] | None) -> list[int] | None:
    return None if found is None else [run.number for run in found]


def test_a_restart_takes_the_runs_of_its_own_launch(monkeypatch):
    for task in ("1", "2", "3"):
        begun("a", monkeypatch, OF_ARRAY | {"SLURM_ARRAY_TASK_ID": task})
    begun("a", monkeypatch, OF_TORCHRUN)
    begun("a", monkeypatch, {})

    def taken(**given: str) -> list[int] | None:
        launched(monkeypatch, given)
        return numbers(resume.of_this_launch(Path("runs"), "a", ["fit", "--resume=auto"]))

    assert taken(**OF_ARRAY) is None
    assert taken(**OF_ARRAY, **AGAIN) == [2]
    assert taken(**{**OF_ARRAY, "SLURM_ARRAY_TASK_ID": "1"}, **AGAIN) == [0]
    assert taken(**{**OF_ARRAY, "SLURM_ARRAY_TASK_ID": "9"}, **AGAIN) == []
    assert taken(**OF_TORCHRUN, TORCHELASTIC_RESTART_COUNT="2") == [3]
    assert taken(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="2") == [4]
    assert taken(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="0") is None
    assert taken(SLURM_RESTART_COUNT="odd") is None


def test_a_recreated_pod_and_a_run_id_need_no_count(monkeypatch):
    run = begun("a", monkeypatch, {"RUN_ID": "mine"})
    begun("a", monkeypatch, {"RUN_ID": "other"})
    launched(monkeypatch, {"RUN_ID": "mine"})
    assert numbers(resume.of_this_launch(Path("runs"), "a", ["fit"])) == [run.number]
    launched(monkeypatch, {"RUN_ID": "new"})
    assert resume.of_this_launch(Path("runs"), "a", ["fit"]) is None


def test_a_first_start_with_an_id_takes_no_run_of_another_launch(monkeypatch):
    for given in ({"RUN_ID": "other"}, OF_SLURM, {}):
        begun("a", monkeypatch, given)
    launched(monkeypatch, {"RUN_ID": "mine"})
    assert numbers(resume.others_of(Path("runs"), "a")) == [2]
    launched(monkeypatch, {})
    assert numbers(resume.others_of(Path("runs"), "a")) == [2, 1, 0]


def test_of_several_runs_of_a_job_each_command_finds_its_own(monkeypatch):
    for seed, ended in (("1", True), ("2", False)):
        begun("a", monkeypatch, OF_SLURM, "fit", "--seed_everything", seed, ended=ended)
    launched(monkeypatch, OF_SLURM | AGAIN)
    for seed, found in (("1", [0]), ("2", [1]), ("3", [1, 0])):
        command = ["fit", "--seed_everything", seed, "--resume", "auto"]
        before = resume.of_this_launch(Path("runs"), "a", command)
        assert numbers(before) == found
        assert resume.is_by(before[0], command) == (seed != "3")


def test_by_hand_no_other_task_of_an_array_gives_its_run_away(monkeypatch):
    of_task = begun("a", monkeypatch, OF_ARRAY)
    launched(monkeypatch, {"SLURM_ARRAY_JOB_ID": "80", "SLURM_ARRAY_TASK_ID": "4"})
    assert is_of_another_task(of_task)
    launched(monkeypatch, {"SLURM_ARRAY_JOB_ID": "80", "SLURM_ARRAY_TASK_ID": "3"})
    assert not is_of_another_task(of_task)
    launched(monkeypatch, {})
    assert not is_of_another_task(of_task)


def test_a_line_that_was_cut_off_says_nothing_and_none_says_a_secret(monkeypatch):
    command = ("fit", "--resume", "auto", "--trainer.logger.api_key", "hidden", "--config=baseline")
    run = begun("a", monkeypatch, OF_SLURM, *command)
    with run.launches.open("a") as file:
        file.write('{"launch": "SLURM')
    assert [work.identity for work in launches_of(run)] == ["SLURM job 71"]
    assert launches_of(run)[0].command == ["fit", "--trainer.logger.api_key", "***", "--config=baseline"]
    for odd in ("[]\n", "1\n", '{"launch": 1}\n', "[" * 10**5, "\x00", '{"launch": "a", "task": "", "command": 1}\n'):
        run.launches.write_text(odd)
        assert launches_of(run) == []


def test_a_launch_waits_for_its_process_of_before(monkeypatch):
    run = begun("a", monkeypatch, OF_SLURM)
    monkeypatch.setattr(resume, "PATIENCE", 3)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    held = [True, True, False]
    monkeypatch.setattr(resume.Lock, "is_held", lambda run: held.pop(0))
    resume.wait_for([run])
    assert not held
    monkeypatch.setattr(resume.Lock, "is_held", lambda run: True)
    with pytest.raises(RunFailed, match="still works on"):
        resume.wait_for([run])
    launched(monkeypatch, {})
    resume.wait_for([run])


def test_a_name_holds_what_the_environment_says(monkeypatch, run, capfd):
    launched(monkeypatch, {"SLURM_ARRAY_TASK_ID": "3"})
    assert filled_in("sweep-{SLURM_ARRAY_TASK_ID}") == "sweep-3"
    for name in ("plain", "a{b", "{}", "{1}", "../as-typed"):
        assert filled_in(name) == name
    with pytest.raises(Mistake, match="variable NOWHERE, which is not set"):
        filled_in("a-{NOWHERE}")
    for value in ("../..", "/tmp/x", "a/../../b", "a\nb", "\x1b[2J", "\udcff", ".."):
        monkeypatch.setattr("os.environ", {"V": value})
        with pytest.raises(Mistake, match="leads out"):
            filled_in("{V}")


def test_the_config_of_a_run_holds_the_filled_name(monkeypatch, run):
    monkeypatch.setenv("TASK", "3")
    assert run("fit", "--trainer.max_steps=1", "--name=a-{TASK}") == 0
    folder = Path("runs/a-3/version_0")
    assert yaml.safe_load((folder / "config.yaml").read_text())["name"] == "a-3"
    monkeypatch.delenv("TASK")
    assert run("fit", "--name=a-{TASK}") == 2
    assert run("validate", "--name=a-3", "--ckpt_path=last") == 0


def test_a_launch_whose_run_has_ended_trains_no_more(monkeypatch, run, capfd):
    launched(monkeypatch, {"RUN_ID": "mine"})
    assert run("fit", "--trainer.max_steps=1") == 0
    capfd.readouterr()
    assert run("fit", "--trainer.max_steps=1") == 0
    assert f"{RUN}, the run of this launch (RUN_ID mine), has ended" in capfd.readouterr().out
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    launched(monkeypatch, OF_SLURM | AGAIN)
    assert run("fit", "--trainer.max_steps=1") == 0
    assert "no unfinished run of this launch (SLURM job 71)" in capfd.readouterr().out
    assert Path("runs/small/version_1").is_dir()


def test_two_requeued_tasks_of_one_name_each_take_their_own(monkeypatch, run, capfd):
    flags = ("--trainer.max_steps=1", "--callbacks.last.every_n_train_steps=1")
    for task in ("1", "2"):
        launched(monkeypatch, OF_ARRAY | {"SLURM_ARRAY_TASK_ID": task})
        assert run("fit", *flags, f"--seed_everything={task}") == 0
        Path(f"runs/small/version_{int(task) - 1}/unfinished.lock").touch()
    for task in ("1", "2"):
        launched(monkeypatch, OF_ARRAY | AGAIN | {"SLURM_ARRAY_TASK_ID": task})
        capfd.readouterr()
        assert run("fit", *flags, f"--seed_everything={task}") == 0
        assert f"config and splits of runs/small/version_{int(task) - 1}" in capfd.readouterr().out
    assert len(list(RUN.parent.iterdir())) == 2


def test_a_run_that_another_launch_began_says_by_which(monkeypatch, run, capfd):
    launched(monkeypatch, OF_SLURM)
    assert run("fit", "--trainer.max_steps=1") == 0
    (RUN / "unfinished.lock").touch()
    launched(monkeypatch, OF_TORCHRUN)
    assert run("fit", "--trainer.max_steps=1", "--resume=auto") == 0
    assert f"{RUN} was begun by SLURM job 71" in capfd.readouterr().out
    assert [work.identity for work in launches_of(Run(RUN))] == ["SLURM job 71", "torchrun abc"]


def test_a_name_that_two_launches_share_is_said(monkeypatch, run, capfd):
    begun("small", monkeypatch, OF_ARRAY)
    launched(monkeypatch, OF_ARRAY | {"SLURM_ARRAY_TASK_ID": "4"})
    monkeypatch.setattr(resume.Lock, "is_held", lambda run: True)
    assert run("fit", "--trainer.max_steps=1") == 0
    said = capfd.readouterr().out
    assert "which SLURM job 71, task 3 trains" in said
    assert "--name 'small-{SLURM_ARRAY_TASK_ID}' keeps them apart" in said


# What a command means


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fit do all but train, and find the newest run's checkpoint readable."""

    look = Commands.before_fit

    def before_fit(cli):
        look(cli)
        cli.trainer.fit = lambda model, datamodule, **options: fit(cli.trainer, model, datamodule)

    def fit(trainer, model, datamodule):
        trainer.datamodule = datamodule
        files = next(callback for callback in trainer.callbacks if isinstance(callback, runs.RunFiles))
        files.setup(trainer, model, "fit")

    def find(candidates, kind_of):
        return next((resume.Source(run, run.last, 1) for run in candidates if not run.ended), None)

    monkeypatch.setattr(Commands, "before_fit", before_fit)
    monkeypatch.setattr(resume, "find", find)


NETWORK = ("--model.network=SmallMLP", "--data.image_size=12", "--data.channels=3")
COMMANDS = [
    (),
    ("--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.weight_decay=0.2"),
    ("--config", "mine.yaml", "--model.optimizer.lr=0.2"),
    ("--config", "stabilise", "--model.schedule", "Cosine"),
    ("--config=long_schedule", "--trainer.max_epochs=20"),
    ("--config", "imbalanced", "--data.split_seed", "4"),
    ("--seed_everything", "true", "--data.augment", "medium", "--data.value_range", "[0, 255]"),
    ("--monitor", "val/loss", "--mode", "min", "--callbacks.early_stopping", "null"),
    ("--callbacks.averaging", "EMAWeightAveraging", "--callbacks.averaging.decay", "0.9"),
    NETWORK,
    ("--trainer.profiler", "simple", "--trainer.deterministic", "true", "--data.cache_gb", "0"),
]
OF_AN_EARLIER_VERSION = [("--seed_everything=3", "--model.optimizer.lr=0.01"), COMMANDS[1], COMMANDS[8]]
MINE = """
model: {optimizer: {class_path: SGD, init_args: {lr: 0.1, momentum: 0.9}}}
trainer: {max_epochs: 7}
"""


@pytest.mark.parametrize(
    ("flags", "known"), [*((flags, True) for flags in COMMANDS), *((flags, False) for flags in OF_AN_EARLIER_VERSION)]
)
def test_the_same_command_goes_on_and_what_it_leaves_out_can_be_pasted(flags, known, run, capfd, only_parsed):
    Path("mine.yaml").write_text(MINE)
    base = ("--resume=auto", "--trainer.max_epochs=7")
    assert run("fit", *base, *flags) == 0
    if not known:
        (RUN / "launches.jsonl").unlink()

    def again(*more: str) -> int:
        (RUN / "unfinished.lock").touch()
        return run("fit", *base, *more)

    assert again(*flags) == 0
    capfd.readouterr()
    if again() == 0:
        said = capfd.readouterr().out
        assert not flags or "not typed, but as the run has it" in said or "changed since the run began" in said
    else:
        found = re.search(r"leaves out flags of .*; add (.*); or go on", capfd.readouterr().err)
        assert found is not None
        assert again(*shlex.split(found.group(1))) == 0
    assert again("--resume=same") == 0
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]


def test_the_settings_that_fast_chose_are_no_change(run, only_parsed, capfd):
    assert run("fit", "--fast=true") == 0
    content = yaml.safe_load((RUN / "config.yaml").read_text())
    content["model"] |= {"channels_last": True, "compile": True}
    content["trainer"] |= {"precision": "bf16-mixed"}
    (RUN / "config.yaml").write_text(yaml.safe_dump(content | {"fast": False}))
    (RUN / "unfinished.lock").touch()
    assert run("fit", "--fast=true", "--resume=auto") == 0


def test_a_default_that_changed_is_told_from_a_flag_that_is_left_out(run, only_parsed, capfd):
    assert run("fit", "--data.split_seed=4") == 0
    content = yaml.safe_load((RUN / "config.yaml").read_text())
    content["model"]["warmup_steps"] = 3  # as the project had it then
    (RUN / "config.yaml").write_text(yaml.safe_dump(content))
    (RUN / "unfinished.lock").touch()
    assert run("fit", "--data.split_seed=4", "--resume=auto") == 2
    said = capfd.readouterr().err
    assert "the project's defaults are not what they were" in said
    assert "--model.warmup_steps 3.0 →" in said
    assert run("fit", "--resume=auto") == 2
    assert "add --data.split_seed=4, and the project's defaults" in capfd.readouterr().err


def test_a_command_that_only_the_runs_config_explains_is_refused(run, only_parsed, capfd):
    assert run("fit", "--model.network=SmallMLP", "--model.network.width=8") == 0
    (RUN / "unfinished.lock").touch()
    assert run("fit", "--model.network.no_such=1", "--resume=auto") == 2
    assert run("fit", "--model.network.hidden=2", "--resume=auto") == 2


def test_with_nothing_to_be_the_same_as_it_is_refused(run, capfd):
    assert run("fit", "--resume=same") == 2
    assert "--resume auto begins a fresh one" in capfd.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fit", "--name", "a b"], "fit --name 'a b' --resume auto"),
        (["fit", "--resume", "auto", "--name=a"], "fit --name=a --resume auto"),
        (["fit", "--resume=same"], "fit --resume auto"),
        (["fit", "--ckpt_path", "last"], "fit --resume same"),
        (["fit", "--data.drop", "[a, b]"], "fit --data.drop '[a, b]' --resume auto"),
        (["fit", "--trainer.logger.api_key=x"], "fit '--trainer.logger.api_key=***' --resume auto"),
        (["crossval", "--folds", "3"], "crossval --folds 3"),
    ],
)
def test_the_line_after_a_stop_can_be_pasted(given, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["__main__.py", *given])
    assert runs.command_to_go_on().endswith(f"-m {launches.__name__.split('.')[0]} {said}")
    assert runs.command_to_go_on().startswith("python ")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert runs.command_to_go_on().startswith("torchrun --nproc-per-node 2 -m ")


# Other machines


def test_a_run_is_evaluated_on_the_machine_at_hand(trained, run, capfd):
    content = yaml.safe_load((RUN / "config.yaml").read_text())
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"find_unused_parameters": True}}
    elsewhere = {"num_nodes": 2, "devices": 8, "strategy": strategy, "accelerator": "cuda", "sync_batchnorm": True}
    content["trainer"] |= elsewhere | {"precision": "bf16-true"}
    (RUN / "config.yaml").write_text(yaml.safe_dump(content))
    for command in ("validate", "test"):
        assert run(command) == 0
        said = capfd.readouterr()
        assert "--trainer.num_nodes 2" in said.out
    assert run("test", "--trainer.strategy=ddp", "--trainer.devices=1") == 0


def test_launches_are_lines_of_json(trained):
    lines = (RUN / "launches.jsonl").read_text().splitlines()
    assert [json.loads(line)["command"][0] for line in lines] == ["fit"]
