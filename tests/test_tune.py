"""``tune`` as a user types it: what it finds, how it goes on, what it refuses."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import HUNG, OTHER_TASKS, Command, draw_images, of_task

optuna.logging.set_verbosity(optuna.logging.WARNING)
TINY = (
    *("--model.network.width=4", "--data.batch_size=8", "--data.num_workers=0", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=2", "--trainer.logger=[]"),
)
LONG = pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes 15 seconds: LONG_TESTS=1")
SPACE = "model.optimizer.lr: {log: [1e-4, 1e-1]}\ndata.augment: [none, light]\n"
STATE = optuna.trial.TrialState


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_images(tmp_path_factory.mktemp("tune") / "images")


@pytest.fixture
def tune(project, command: Command, images, tmp_path):
    """Run the command on tiny images, with a space of its own."""

    def run(*flags: str, space: str = SPACE, folder: Path = tmp_path, start: bool = False) -> Any:
        folder.mkdir(exist_ok=True)
        (folder / "space.yaml").write_text(space)
        args = (project, folder, "tune", "--space=space.yaml", "--data.root", images, *TINY, *flags)
        return command.start(*args) if start else command(*args)

    return run


@pytest.fixture(scope="module")
def searched(project, command: Command, images, tmp_path_factory) -> tuple[Path, str]:
    """A folder with a search that has ended, and what it said."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "space.yaml").write_text(SPACE)
    done = command(project, folder, "tune", "--space=space.yaml", "--data.root", images, *TINY, "--trials=6")
    assert done.code == 0, done.output
    return folder, done.output


def trials(folder: Path, study: str = "tune") -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder}/runs/{study}/study.db"
    return optuna.load_study(study_name=study, storage=storage).trials


def found(folder: Path) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state, trial.params, trial.value) for trial in trials(folder)]


def test_the_best_trial_is_a_recipe_that_fit_repeats_to_the_same_score(searched, project, command, tmp_path):
    root, output = searched
    folder = root / "runs/tune"
    best: Any = min((t for t in trials(root) if t.state == STATE.COMPLETE), key=lambda t: t.value or 0.0)
    assert f"best val/loss: {best.value:.4f} (trial {best.number} of 6)" in output
    page = (folder / "tune.html").read_text()
    assert page.count("<svg") == 4  # over time, over each flag, importance
    assert all(word in page for word in ("PED-ANOVA", "best so far", "val/loss", "augment"))
    pictures = {"history", "importance", "slice_data.augment", "slice_model.optimizer.lr"}
    assert {path.stem for path in folder.glob("*.png") if path.read_bytes().startswith(b"\x89PNG")} == pictures
    for trial in trials(root):
        run = folder / f"trial_{trial.number:03d}/version_0"
        assert (run / "config.yaml").is_file()
        assert (run / "metrics.csv").is_file()
    assert not list(folder.rglob("unfinished.lock"))
    assert [path.parts[-4] for path in folder.rglob("last.ckpt")] == [f"trial_{best.number:03d}"]
    machine = ("--trainer.accelerator=cpu", "--trainer.logger=[]", "--data.num_workers=0")  # which no recipe holds
    again = command(project, tmp_path, "fit", "--config", folder / "best.yaml", *machine)
    assert again.code == 0, again.output
    assert f"best val/loss: {best.value:.4f}" in again.output
    configs = [folder / f"trial_{best.number:03d}/version_0", tmp_path / "runs/digits/version_0"]
    first, second = (yaml.safe_load((run / "config.yaml").read_text()) for run in configs)
    assert {key for key in first if first[key] != second[key]} == {"name"}
    assert not {"name", "run_root", "report"} & yaml.safe_load((folder / "best.yaml").read_text()).keys()


def test_a_search_leaves_a_space_around_its_best_trial(searched):
    folder = searched[0] / "runs/tune"
    best: Any = min((t for t in trials(searched[0]) if t.state == STATE.COMPLETE), key=lambda t: t.value or 0.0)
    rate = best.params["model.optimizer.lr"]
    space = yaml.safe_load((folder / "around.yaml").read_text())
    low, high = space["model.optimizer.lr"]["log"]
    assert low == pytest.approx(max(1e-4, rate / 10**0.5), rel=1e-3)  # a third of three decades
    assert high == pytest.approx(min(1e-1, rate * 10**0.5), rel=1e-3)
    assert space["data.augment"] == ["none", "light"]


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_a_search_for_labels_or_numbers_goes_where_its_metric_is_better(task, targets, project, command, tmp_path):
    monitor, better = {"multilabel": ("val/map", max), "regression": ("val/rmse", min)}[task]
    flags = (*of_task(targets, task), "--trainer.logger=[]", f"--monitor={monitor}", "--pruner=none")
    done = command(project, tmp_path, "tune", "--trials=3", *flags)  # the space that comes with a project
    assert done.code == 0, done.output
    scores: list[Any] = [trial.value for trial in trials(tmp_path)]
    assert len(scores) == 3
    assert None not in scores, [trial.user_attrs.get("reason") for trial in trials(tmp_path)]
    assert f"best {monitor}: {better(scores):.4f}" in done.output


@LONG
def test_an_interrupted_study_has_the_trials_of_an_unbroken_one(tune, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ("--sampler=tpe", "--seed_everything=7")
    assert tune("--trials=3", *flags, folder=whole).code == 0
    for number in (1, 3):
        done = tune(f"--trials={number}", *flags, folder=parts)
        assert done.code == 0, done.output
        assert len(trials(parts)) == number
    assert found(parts) == found(whole)
    assert len({trial.params["model.optimizer.lr"] for trial in trials(whole)}) == 3


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--sampler=gp", "--pruner=halving", "--trials=12"), marks=LONG),
        ("--sampler=random", "--pruner=hyperband", "--trials=6", "--monitor=val/f1_macro", "--storage=journal"),
    ],
    ids=lambda flags: flags[0],
)
def test_samplers_and_pruners_work_together(flags, tune, tmp_path):
    done = tune(*flags, "--trainer.max_epochs=3")
    assert done.code == 0, done.output
    wanted = int(flags[2].partition("=")[2])
    (counts,) = re.findall(r"^tune: (.* (?:complete|pruned).*)$", done.output, re.MULTILINE)
    assert sum(map(int, re.findall(r"(\d+) (?:complete|pruned)", counts))) == wanted
    assert "pruned" in counts
    assert (tmp_path / "runs/tune/best.yaml").is_file()
    assert (tmp_path / "runs/tune/study.log").is_file() == ("--storage=journal" in flags)


def test_a_grid_takes_each_point_once_and_knows_conditions(tune, tmp_path):
    space = """
        data.augment: [none, light]
        model.mixup: {float: [0.1, 0.3], points: 3, if: {data.augment: light}}
    """
    done = tune("--sampler=grid", "--pruner=none", "--trainer.max_epochs=1", space=space)
    assert done.code == 0, done.output
    points = [tuple(trial.params.items()) for trial in trials(tmp_path)]
    wanted = [(("data.augment", "none"),)]
    wanted += [(("data.augment", "light"), ("model.mixup", mixup)) for mixup in (0.1, 0.2, 0.3)]
    assert Counter(points) == Counter(wanted)
    around = yaml.safe_load((tmp_path / "runs/tune/around.yaml").read_text())["model.mixup"]
    assert {key: around[key] for key in ("points", "if")} == {"points": 3, "if": {"data.augment": "light"}}
    assert 0.1 <= around["float"][0] < around["float"][1] <= 0.3


@LONG
def test_the_share_of_the_data_can_be_a_fidelity(tune, tmp_path):
    space = SPACE + "data.train_fraction: {fidelity: [0.3, 0.6, 1.0]}\n"
    done = tune("--pruner=halving", "--trials=4", space=space)
    assert done.code == 0, done.output
    shares = []
    for trial in trials(tmp_path):
        runs = sorted((tmp_path / f"runs/tune/trial_{trial.number:03d}").glob("version_*"))
        configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
        shares.append([config["data"]["train_fraction"] for config in configs])
        assert list(trial.intermediate_values) == [1, 3, 9][: len(runs)]
        assert (trial.state == STATE.COMPLETE) == (len(runs) == 3)
    assert [0.3] in shares
    assert [0.3, 0.6, 1.0] in shares


def test_workers_share_the_trials_and_a_killed_one_s_is_done_again(tune, tmp_path):
    slow = ("--trials=3", "--trainer.max_epochs=12", "--pruner=none", "--callbacks.early_stopping=null")
    started = tune(*slow, start=True)
    begun = tmp_path / "runs/tune/trial_000/version_0/checkpoints/last.ckpt"
    while not begun.is_file() and started[0][0].is_alive():
        time.sleep(0.01)
    os.kill(started[0][0].pid, signal.SIGKILL)
    started[0][0].join()
    assert trials(tmp_path)[0].state == STATE.RUNNING
    workers = [tune(*slow, start=True) for _ in range(2)]
    for process, _ in (worker[0] for worker in workers):
        process.join(HUNG)
    output = "".join(log.read_text() for worker in workers for _, log in worker)
    assert [worker[0][0].exitcode for worker in workers] == [0, 0], output
    killed, *others = trials(tmp_path)
    assert killed.state == STATE.FAIL
    assert output.count("trial 0 ended with its worker; it will be done again") == 1
    kept = [trial for trial in others if "surplus" not in trial.user_attrs]
    assert [trial.state for trial in kept] == [STATE.COMPLETE] * 3
    assert killed.params in [trial.params for trial in kept]
    assert len({trial.params["model.optimizer.lr"] for trial in kept}) == 3


@LONG
@pytest.mark.parametrize("tool", [("tune", "--trials=1", "--study=digits"), ("crossval", "--folds=2")])
def test_several_devices_train_each_run_in_processes_of_its_own(tool, project, command, images, tmp_path):
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1")
    importable = {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    done = command(project, tmp_path, *tool, "--data.root", images, *TINY, *two, environment=importable)
    assert done.code == 0, done.output
    assert list(tmp_path.glob("runs/digits/**/version_0/checkpoints/last.ckpt"))
    assert (tmp_path / "runs/digits/best.yaml").exists() == (tool[0] == "tune")


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tune, tmp_path):
    started = tune("--trials=30", "--trainer.max_epochs=10", "--pruner=none", start=True)
    while not (tmp_path / "runs/tune/trial_001/version_0/checkpoints/last.ckpt").is_file():
        assert started[0][0].is_alive()
        time.sleep(0.01)
    os.kill(started[0][0].pid, signal.SIGINT)
    started[0][0].join(HUNG)
    output = started[0][1].read_text()
    assert started[0][0].exitcode not in (0, None), output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert (tmp_path / "runs/tune/best.yaml").is_file()
    states = [trial.state for trial in trials(tmp_path)]
    assert states[0] == STATE.COMPLETE
    assert STATE.RUNNING not in states
    assert states[-1] == STATE.WAITING  # the interrupted one


def test_a_trial_that_diverges_or_is_refused_has_failed_and_the_search_goes_on(tune, tmp_path):
    space = "model.optimizer.lr: [0.001, 1.0e+30, -1]\n"
    done = tune("--sampler=grid", "--model.optimizer=SGD", "--trainer.gradient_clip_val=null", space=space)
    assert done.code == 0, done.output
    reasons = [trial.user_attrs.get("reason", "") for trial in trials(tmp_path)]
    assert "the last that failed: " in done.output
    assert sum("is not finite" in reason for reason in reasons) == 1
    assert sum("model.optimizer cannot be made" in reason for reason in reasons) == 1
    assert [trial.state for trial in trials(tmp_path)].count(STATE.COMPLETE) == 1


WRONG = [
    ("model.optimizer.lrr: {log: [1e-4, 1e-1]}", "choose from model.optimizer.lr,"),
    ("modle.mixup: [0, 1]", "model.mixup"),
    ("model.mixup: {lgo: [0.1, 1]}", "choose from log,"),
    ("model.mixup: {log: [0, 1]}", "cannot be searched"),
    ("model.mixup: {float: [1, 0]}", "cannot be searched"),
    ("model.mixup: []", "cannot be searched"),
    ("model.mixup: 0.1", "cannot be searched"),
    ("model.mixup: {float: [0, 1], int: [0, 1]}", "cannot be searched"),
    ("model.mixup: {float: [0, 1], if: {data.augment: light}}", "no choice of a flag above it"),
    ("model.l1: {float: [0, 1]}\nmodel.mixup: {float: [0, 1], if: {model.l1: 0.0}}", "no choice of a flag above it"),
    ("model.mixup: {float: [0, 1], if: data.augment}", "cannot be searched"),
    ("model.mixup: {float: [0, 1], points: 0}", "cannot be searched"),
    ("model.network.width: {int: [4.5, 8]}", "cannot be searched"),
    ("1: [2, 3]", "1"),
    ("data.split_seed: [0, 1]", "changes which images are validated"),
    ("seed_everything: [0, 1]", "fix --data.split_seed"),
    ("model.optimizer.lr: [1]\nmodel.optimizer.init_args.lr: [2]", "give each flag once"),
    ("data.train_fraction: {fidelity: [1.0, 0.1]}", "do not rise"),
    ("data.train_fraction: {float: [0.5, 1.5]}", "data.train_fraction=1.5 contradicts the config: "),
    ("model.network.name: [resnet18]", "model.network.name"),
    ("model.network: [SmallCNN, Backbone]\nmodel.network.norm: [batch]", "model.network=Backbone contradicts"),
    ("data.batch_size: [4, 8]", "data.batch_size is searched and also fixed"),
    ("model.loss.label_smoothing: [0, 0.1]", "--monitor val/accuracy"),
    ("data.log_target: [false, true]", "--monitor val/accuracy, of labels val/map, of numbers val/rmse"),
    ("data.label_columns: [a, b]", "changes which images are validated"),
    ("", "no flag"),
    ("- a", "mapping"),
]


def test_a_space_that_is_wrong_is_refused_before_the_first_trial(project, command, images, tmp_path):
    lines = []
    for number, (space, _) in enumerate(WRONG):
        (tmp_path / f"{number}.yaml").write_text(space)
        lines.append(("tune", f"--space={number}.yaml", "--data.root", images, *TINY))
    for done, (space, said) in zip(command.each(project, tmp_path, lines), WRONG, strict=True):
        assert said in done.refusal, space
    assert not (tmp_path / "runs").exists()


def test_a_study_of_another_space_config_or_data_is_refused(searched, tune, images, tmp_path):
    shutil.copytree(searched[0] / "runs", tmp_path / "runs")
    other = tune("--trials=7", space=SPACE.replace("1e-4", "1e-3")).refusal
    assert "space.model.optimizer.lr.log" in other
    assert "trainer.max_epochs=2, not 3" in tune("--trials=7", "--trainer.max_epochs=3").refusal
    image = next(images.rglob("*.png"))
    image.rename(tmp_path / image.name)
    try:
        assert "images=" in tune("--trials=7").refusal
    finally:
        (tmp_path / image.name).rename(image)


def test_it_is_no_rank_of_torchrun(project, command, tmp_path):
    for tool in ("tune", "crossval"):
        done = command(project, tmp_path, tool, environment={"TORCHELASTIC_RUN_ID": "1"})
        assert "torchrun starts one run" in done.refusal


def test_a_flag_that_is_wrong_is_refused(project, command, images, tmp_path):
    wrong = {
        ("--storage=postgresql://u:secret@127.0.0.1/x",): "PGPASSWORD",
        ("--storage=postgresql://127.0.0.1:1/x",): "cannot be opened",
        ("--storage=nowhere", "--trials=1"): "no address of a database",
        ("--trials=0",): "--trials=0",
        ("--name=mine", "--trials=1"): "--study",
        ("--trainer.fast_dev_run=true",): "fast_dev_run",
        ("--run_root=space.yaml/runs",): "--run_root",
        ("--sampler=best",): "--sampler",
    }
    (tmp_path / "space.yaml").write_text(SPACE)
    begin = ("tune", "--space=space.yaml", "--data.root", images, *TINY)
    for done in command.refuses(project, tmp_path, {(*begin, *flags): said for flags, said in wrong.items()}):
        assert "secret" not in done.refusal


def postgres() -> Path | None:
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@LONG
@pytest.mark.skipif(postgres() is None, reason="needs Debian's postgresql")
def test_workers_share_a_study_on_a_real_postgresql_server(tune, tmp_path):
    user = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
    folder = Path(subprocess.run([*user, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    tool = [*user, str(postgres() / "pg_ctl"), "-D", str(folder / "data")]  # pyright: ignore
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*tool, "initdb", "-o", "--auth=trust --username=tuner --no-sync"], **quiet)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([*tool, "start", "-w", "-o", options], **quiet)
    try:
        url = f"postgresql://tuner@/postgres?host={folder}"
        # Each has a folder of its own, as on machines that share nothing but the server.
        each = [tmp_path / name for name in ("one", "two")]
        workers = [tune("--trials=6", f"--storage={url}", folder=place, start=True) for place in each]
        for worker in workers:
            worker[0][0].join(HUNG)
        output = "".join(worker[0][1].read_text() for worker in workers)
        assert [worker[0][0].exitcode for worker in workers] == [0, 0], output
        storage = url.replace("postgresql:", "postgresql+psycopg:")
        done = optuna.load_study(study_name="tune", storage=storage).trials
        assert sum(trial.state in (STATE.COMPLETE, STATE.PRUNED) for trial in done) == 6
        assert len(list(tmp_path.glob("*/runs/tune/trial_*/version_0/config.yaml"))) == 6
        assert all(list(place.glob("runs/tune/trial_*")) for place in each)
    finally:
        subprocess.run([*tool, "stop", "-m", "immediate"], **quiet)
        shutil.rmtree(folder)


SECRET_ADDRESSES = (
    *("postgresql://me:hush1@host/name", "postgresql://me:hu/sh1@host", "mysql://:hush1@host/name"),
    *("postgresql://me@host/name?password=hush1", "postgresql://me@host/name?sslpassword=hush1"),
)


def test_an_address_with_a_password_is_refused_and_not_shown(project, command, images, tmp_path):
    (tmp_path / "space.yaml").write_text("model.mixup: [0, 1]")
    fixed = ("tune", "--space=space.yaml", f"--data.root={images}")
    wrong = {(*fixed, f"--storage={address}"): "PGPASSWORD" for address in SECRET_ADDRESSES}
    wrong[(*fixed, "--storage=nowhere")] = "no address of a database"
    assert all("hush1" not in done.output for done in command.refuses(project, tmp_path, wrong))
    assert not (tmp_path / "runs").exists()
