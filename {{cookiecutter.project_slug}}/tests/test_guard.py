"""A run's folder may be anybody's: nothing that its config or its checkpoint names is run, imported or fetched."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from project_package.__main__ import main
from project_package.engine import PACKAGE, guard
from project_package.engine.checkpoints import WholeFile
from project_package.engine.checkpoints import read as read_checkpoint
from project_package.engine.configs import read_config
from project_package.engine.contents import content_hashes, file_stats
from project_package.engine.files import append, read_text, write
from project_package.engine.loggers import MetricsFile, _identity
from project_package.engine.mistakes import Mistake
from project_package.engine.renames import RENAMED, command_of_today
from project_package.engine.runs import Run
from project_package.engine.splits import Manifest
from project_package.model import Classifier

CANARY = Path("canary")
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(CANARY)]}}
FOREIGN = {"class_path": "foreign.Network"}
LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"
UNSAFE = {"checkpoint_path": "hostile.ckpt", "weights_only": False}


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    """Write a class path with its arguments."""
    return {"class_path": name, "init_args": arguments}


# What a hostile config says, and under which setting.
ATTACKS: list[tuple[str, Any]] = [
    ("model.network", FOREIGN),
    ("model.network", "class_path: foreign.Network\ninit_args: {}\n"),  # YAML in a text
    ("model.network", "network.yaml"),  # a file beside the config
    ("model.network", "http://127.0.0.1:9/network.yaml"),
    ("model.network", {"class_path": "ｆoreign.Network"}),  # letters outside ASCII
    ("model.network", spec("torch.nn.Embedding", device=POPEN)),  # a parameter that takes anything
    ("model.network", spec(f"{PACKAGE}.engine.runs.subprocess.Popen", args=["touch", str(CANARY)])),
    ("model.network", spec("lightning.pytorch.LightningModule.load_from_checkpoint", **UNSAFE)),
    ("trainer.callbacks", [spec(LAMBDA, on_test_start="foreign.Network")]),
    ("trainer.logger", POPEN),
    ("callbacks", "callbacks.yaml"),
    ("config", ["other.yaml"]),
]


def errors_of(said: str) -> list[str]:
    """Return the lines of an output in which the user was refused; beside them there may be Lightning's remarks."""
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


def change(run: Path, setting: str, value: Any) -> None:
    """Write a setting into a run's config."""
    content = yaml.safe_load((run / "config.yaml").read_text())
    *above, last = setting.split(".")
    part = content
    for key in above:
        part = part.setdefault(key, {})
    part[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the working folder that leaves a canary when it is imported, and files that name it."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("foreign.py").write_text(
        f"import torch\nopen({str(CANARY.absolute())!r}, 'w').close()\nclass Network(torch.nn.Module): pass\n"
        "class Callback: pass\n"
    )
    for folder in (Path(), Path("runs/small/version_0")):
        (folder / "network.yaml").write_text(yaml.safe_dump(FOREIGN))
        (folder / "callbacks.yaml").write_text(yaml.safe_dump({"pictures": FOREIGN}))
        (folder / "other.yaml").write_text(yaml.safe_dump({"model": {"network": FOREIGN}}))
    torch.save({"state_dict": Reduced(), "hyper_parameters": {}}, "hostile.ckpt")
    yield
    sys.modules.pop("foreign", None)


class Reduced:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {CANARY.absolute()}",)


# jsonargparse says it of the functions that are named here, not of a use of ours.
NAMED = pytest.mark.filterwarnings(r"ignore:\s*With fail_untyped:DeprecationWarning")


def nothing_ran() -> bool:
    return not CANARY.exists() and "foreign" not in sys.modules


@NAMED
@pytest.mark.parametrize(("setting", "value"), ATTACKS, ids=[f"{i}-{key}" for i, (key, _) in enumerate(ATTACKS)])
def test_what_a_config_names_is_not_imported(setting, value, trained, foreign, run, capfd):
    change(trained, setting, value)
    assert run("test", "--trainer.limit_test_batches=1") == 2
    assert nothing_ran()
    assert len(errors_of(capfd.readouterr().err)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", FOREIGN),
        ("network", spec("torch.nn.Embedding", device=POPEN)),
        ("network", spec("torch.nn.Embedding", device=str(POPEN))),
        ("network", spec("lightning.pytorch.LightningModule.load_from_checkpoint", **UNSAFE)),
        ("optimizer", POPEN),
        ("schema", POPEN),
        ("_class_path", "foreign.Network"),
        ("_instantiator", "os.system"),
    ],
)
@NAMED
@pytest.mark.parametrize("place", ["hyper_parameters", "hparams"])
def test_what_a_checkpoint_names_is_not_imported(name, value, place, trained, foreign):
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    content[place] = {**content["hyper_parameters"], name: value}
    torch.save(content, trained / "checkpoints/last.ckpt")
    try:
        Classifier.load_from_checkpoint(trained / "checkpoints/last.ckpt", weights_only=False)
    except Mistake:
        pass
    else:
        assert name == "schema"  # plain values
    assert nothing_ran()


@pytest.mark.parametrize(
    "text", ["{epoch}-{val/loss:.3f}", "perf.txt", "plants.v2", "val.loss", "[lr=0.1]", "{a: b}", "a.b: c"]
)
def test_ordinary_text_is_no_code(text, trained, run):
    keeper = "lightning.pytorch.callbacks.ModelCheckpoint"
    change(trained, "trainer.callbacks", [spec(keeper, filename=text, monitor="val.loss")])
    change(trained, "name", text)
    assert run("test", f"--ckpt_path={trained}/checkpoints/last.ckpt", "--trainer.limit_test_batches=1") == 0


def test_what_is_typed_may_name_any_package(trained, foreign, run, capfd):
    Path("mine.py").write_text("from lightning.pytorch import Callback\nclass Mine(Callback): pass\n")
    callback = "--trainer.callbacks=[{class_path: mine.Mine}]"
    assert run("test", callback, "--trainer.limit_test_batches=1") == 0
    assert run("fit", callback, "--trainer.max_steps=1") == 0
    assert "add 'mine' to `trusted`" in capfd.readouterr().out
    guard.TRUSTED.discard("mine")
    last = "--ckpt_path=runs/small/version_1/checkpoints/last.ckpt"
    assert run("test", last) == 2
    assert "add 'mine' to `trusted`" in capfd.readouterr().err
    guard.trust(["mine."])
    assert run("test", last, "--trainer.limit_test_batches=1") == 0
    guard.TRUSTED.discard("mine")


@pytest.mark.parametrize(
    "setting", ["model.l0", "model.network.init_args.breadth", "data.folds", "callbacks.early", "x"]
)
def test_a_setting_that_nothing_takes_is_named_with_its_file(setting, trained, run, capfd):
    change(trained, setting, 1)
    assert run("test") == 2
    said = capfd.readouterr().err
    assert str(trained / "config.yaml") in said
    assert setting.rpartition(".")[2] in said
    assert "RENAMED" in said


def test_what_was_renamed_is_understood_in_configs_flags_and_checkpoints(trained, run, monkeypatch, capfd):
    monkeypatch.setitem(RENAMED, "model.l0", "model.l1")
    monkeypatch.setitem(RENAMED, "data.batch", "data.batch_size")
    monkeypatch.setitem(RENAMED, ".nets.SmallCNN", ".networks.SmallCNN")
    content = yaml.safe_load((trained / "config.yaml").read_text())
    content["model"]["l0"] = content["model"].pop("l1")
    content["model"]["class_names"] = ["left", "middle", "right"]
    content["model"]["network"]["class_path"] = f"{PACKAGE}.nets.SmallCNN"
    (trained / "config.yaml").write_text(yaml.safe_dump(content))
    checkpoint = trained / "checkpoints/best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["network"]["class_path"] = f"{PACKAGE}.nets.SmallCNN"
    content["hyper_parameters"]["l0"] = content["hyper_parameters"].pop("l1")
    torch.save(content, checkpoint)
    assert run("test", "--data.batch=8", "--trainer.limit_test_batches=1") == 0
    assert "note: --data.batch=8 is --data.batch_size=8 by now" in capfd.readouterr().out
    model = Classifier.load_from_checkpoint(checkpoint)
    assert model.hparams.network["class_path"] == f"{PACKAGE}.networks.SmallCNN"
    assert run("test", f"--model.network={PACKAGE}.nets.SmallCNN", "--trainer.limit_test_batches=1") == 0
    assert f"{PACKAGE}.networks.SmallCNN by now" in capfd.readouterr().out


def test_a_class_of_the_owners_in_an_old_place_is_theirs(monkeypatch):
    own = type("Backbone", (), {"__module__": f"{PACKAGE}.networks"})
    given = ["fit", f"--model.network={PACKAGE}.networks.Backbone", "--callbacks.projector.init_args.images", "5"]
    used = ["fit", f"--model.network={PACKAGE}.engine.backbone.Backbone", "--callbacks.projector.samples", "5"]
    assert command_of_today(given) == used
    monkeypatch.setattr(f"{PACKAGE}.networks.Backbone", own, raising=False)
    assert command_of_today(given)[1] == given[1]


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
        "a: &a [*a]",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: [" + "1, " * 300_000 + "1]",
        "a: !!python/object/apply:os.system ['touch canary']",
        "- 1",
        "1: 2",
        "a: [",
        "a: \x00",
    ],
    ids=["doubling", "of itself", "deep", "long", "tag", "list", "number", "unclosed", "control"],
)
def test_a_config_of_no_use_is_refused_at_once(text, run, capfd):
    Path("odd.yaml").write_text(text)
    assert run("fit", "--config=odd.yaml") == 2
    assert "odd.yaml" in capfd.readouterr().err
    assert nothing_ran()


def test_a_pipe_is_no_config():
    os.mkfifo("pipe")
    with pytest.raises(Mistake, match="no plain file"):
        read_config(Path("pipe"))


def test_the_home_folder_is_written_out(run, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Path("mine.yaml").write_text("model: {weights: ~/nowhere}")
    assert run("fit", "--config=~/mine.yaml", "--data.cache_root=~/cache") == 2
    assert run("fit", "--data.root=~/nowhere") == 2
    assert capfd.readouterr().err.count(f"{Path.cwd()}/nowhere") == 2


LINKS = [
    *("predictions.csv", ".predictions.csv.unfinished", "test_predictions.csv", "confusion_matrix.csv"),
    *("failure.txt", ".config.yaml.unfinished", "environment.txt", ".manifest.json.unfinished", "unfinished.lock"),
    *("launches.jsonl", "calibration.json", "best_validated.npy", "test_calibration.json"),
]


@pytest.mark.parametrize("name", LINKS)
def test_no_command_writes_through_a_link_in_a_runs_folder(name, trained, run, shapes):
    victim = Path("victim")
    victim.write_text("as it was")
    (trained / name).unlink(missing_ok=True)
    (trained / name).symlink_to(victim.absolute())
    if name != "unfinished.lock":
        (trained / "unfinished.lock").touch()
    best = f"--ckpt_path={trained}/checkpoints/best.ckpt"
    run("test", best, "--trainer.limit_test_batches=1")
    run("predict", best, f"--data.predict_root={shapes}/left")
    run("fit", "--resume=auto")
    assert victim.read_text() == "as it was"


def test_files_that_go_on_are_no_links_and_no_pipes(tmp_path):
    victim, link, pipe = tmp_path / "victim", tmp_path / "link", tmp_path / "pipe"
    victim.write_text("as it was")
    link.symlink_to(victim)
    os.mkfifo(pipe)
    for place in (link, pipe, Path("/dev/null")):
        with pytest.raises(Mistake, match="no plain file"):
            append(place, "more")
        logged = MetricsFile(str(place))
        logged.columns = ["step"]
        logged.log_metrics({}, 1)
        with pytest.raises(Mistake, match="no plain file"):
            logged.save()
    write(link, "new")
    assert (link.read_text(), link.is_symlink(), victim.read_text()) == ("new", False, "as it was")
    append(link, " and more")
    assert link.read_text() == "new and more"


@pytest.mark.parametrize("name", [".best.ckpt.unfinished", "best.ckpt"])
def test_a_checkpoint_is_not_saved_through_a_link(name, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / name).symlink_to(victim)
    WholeFile().save_checkpoint({"a": 1}, tmp_path / "best.ckpt")
    assert victim.read_text() == "as it was"
    assert torch.load(tmp_path / "best.ckpt", weights_only=True) == {"a": 1}


@pytest.mark.parametrize(
    "key", ["/etc/hostname", "../../secret.png", "left/../../x.png", "left/\x1b[2J.png", "left/\u202egnp.exe", 5]
)
def test_a_manifest_names_nothing_outside_of_the_data(key, trained, run, capfd):
    content = json.loads((trained / "manifest.json").read_text())
    content["splits"]["val"][0][0] = key
    (trained / "manifest.json").write_text(json.dumps(content))
    assert run("validate") == 2
    said = capfd.readouterr().err
    assert "manifest.json" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"version": 99}', "\x00", "{}"])
def test_a_manifest_that_is_none_is_refused_in_one_line(text, trained, run, capfd):
    (trained / "manifest.json").write_text(text)
    assert run("validate") == 2
    assert len(errors_of(capfd.readouterr().err)) == 1


def test_where_the_images_of_a_run_lie_is_said(trained, run, shapes, capfd):
    flags = ("--data.num_workers=0", "--trainer.limit_test_batches=1")
    assert main(["test", f"--ckpt_path={trained}/checkpoints/best.ckpt", *flags]) == 0
    assert f"--data.root {shapes}, as the run's config has it" in capfd.readouterr().out


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_what_is_no_plain_file_is_no_image(kind, trained, run, shapes, tmp_path, capfd):
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    key = json.loads((trained / "manifest.json").read_text())["splits"]["test"][0][0]
    (root / key).unlink()
    if kind == "pipe":
        os.mkfifo(root / key)
    else:
        (root / key).symlink_to("/dev/zero")
    assert run("test", f"--data.root={root}") == 2
    assert "no plain file" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["link to a device", "other columns", "empty", "words"])
def test_hashes_that_are_none_are_taken_again(kind, run):
    index = Path("data/cache/hashes.npy")
    index.parent.mkdir(parents=True)
    if kind == "link to a device":
        index.symlink_to("/dev/zero")
    elif kind == "other columns":
        np.save(index, np.zeros((3, 2)))
    else:
        index.write_bytes(b"" if kind == "empty" else b"no numbers")
    assert run("fit", "--trainer.max_steps=1") == 0


@pytest.mark.parametrize("flag", ["--data.batch_size", "--model.network", "--seed_everything"])
def test_a_null_where_something_is_needed_is_named(flag, run, capfd):
    assert run("fit", f"{flag}=null") == 2
    assert f"{flag}=null" in capfd.readouterr().err


@pytest.mark.parametrize("part", ["data", "model", "trainer", "callbacks"])
@pytest.mark.parametrize("value", [None, 5, [1], "text"])
def test_a_part_of_a_config_that_is_no_mapping_is_refused(part, value, run, capfd):
    if part == "callbacks" and value is None:
        pytest.skip("it sets nothing")
    Path("odd.yaml").write_text(yaml.safe_dump({part: value}))
    assert run("fit", "--config=odd.yaml") == 2
    assert "no mapping" in capfd.readouterr().err


def test_control_characters_are_written_out_and_names_with_them_refused(run, shapes, tmp_path, capfd):
    assert run("fit", "--data.root=\x1b[2Jx") == 2
    shutil.copytree(shapes, tmp_path / "copy")
    (tmp_path / "copy/left/000.png").rename(tmp_path / "copy/left/\x1b[2J.png")
    assert run("fit", f"--data.root={tmp_path / 'copy'}") == 2
    said = capfd.readouterr().err
    assert said.count("\\x1b[2J") == 2
    assert "\x1b" not in said


WRITES = [
    ("trainer.profiler", spec("lightning.pytorch.profilers.SimpleProfiler", dirpath="elsewhere", filename="x")),
    ("trainer.callbacks", [spec("lightning.pytorch.callbacks.OnExceptionCheckpoint", dirpath="elsewhere")]),
    (
        "trainer.callbacks",
        [
            spec(
                f"{PACKAGE}.engine.predictions.PredictionWriter",
                run=spec(f"{PACKAGE}.engine.runs.Run", folder="elsewhere"),
            )
        ],
    ),
    ("trainer.logger", spec("lightning.pytorch.loggers.CSVLogger", save_dir="elsewhere")),
    ("trainer.logger", spec(f"{PACKAGE}.engine.loggers.MetricsFile", file="elsewhere/x.csv")),
]


@pytest.mark.parametrize(("setting", "value"), WRITES)
def test_an_evaluation_of_a_run_writes_nowhere_else(setting, value, trained, run):
    Path("elsewhere").mkdir()
    change(trained, setting, value)
    run("test", "--trainer.limit_test_batches=1")
    assert not any(Path("elsewhere").iterdir())


@pytest.mark.parametrize(
    "value",
    [
        spec("lightning.pytorch.loggers.MLFlowLogger", tracking_uri="http://127.0.0.1:9"),
        {
            "class_path": "lightning.pytorch.loggers.WandbLogger",
            "dict_kwargs": {"settings": {"base_url": "HTTP://127.0.0.1:9"}},
        },
    ],
)
def test_an_evaluation_of_a_run_connects_to_no_address_of_its_config(value, trained, run, capfd):
    change(trained, "trainer.logger", value)
    assert run("test", "--trainer.limit_test_batches=1") == 0
    assert "logger at an address" in capfd.readouterr().out


def test_a_flag_of_torch_does_not_open_all_of_it(trained, run, capfd):
    change(trained, "model.network", spec("torch.hub.load", repo_or_dir=".", model="x", source="local"))
    assert run("test", "--model.optimizer=torch.optim.SGD") == 2
    assert "torch.hub" in capfd.readouterr().err


def test_a_function_that_is_typed_makes_the_network(trained, run, monkeypatch):
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("built.py").write_text(
        "from torch import nn\n\n\ndef small(in_channels: int, num_classes: int) -> nn.Module:\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, num_classes))\n"
    )
    assert run("fit", "--model.network=built.small", "--trainer.max_steps=1", "--trainer.limit_val_batches=1") == 0
    guard.TRUSTED.discard("built")
    last = "--ckpt_path=runs/small/version_1/checkpoints/last.ckpt"
    assert run("test", last, "--trainer.limit_test_batches=1") == 2
    assert run("test", last, "--model.network=built.small", "--trainer.limit_test_batches=1") == 0


@pytest.mark.parametrize("part", ["checkpoints", "wandb", "comet", "mlflow.db"])
def test_a_part_of_a_run_that_is_a_link_is_refused(part, trained, run, capfd):
    elsewhere = Path("elsewhere").absolute()
    if (trained / part).is_dir():
        (trained / part).rename(elsewhere)
    (trained / part).symlink_to(elsewhere)
    assert run("test", f"--ckpt_path={trained}/checkpoints/best.ckpt" if elsewhere.exists() else "--verbose=true") == 2
    assert "is a link" in capfd.readouterr().err


def special(place: Path, kind: str) -> None:
    """Make what is no plain file, or a huge one that takes no room."""
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to a device":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    else:
        place.touch()
        os.truncate(place, 2**40)


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder", "huge"])
def test_what_a_run_holds_does_not_fill_the_memory(kind, tmp_path):
    place = tmp_path / "file"
    special(place, kind)
    with pytest.raises(ValueError, match=r"no plain file|larger than"):
        read_text(place)
    for read in (Manifest.load, read_config, lambda path: _identity(path, None, 4)):
        with pytest.raises(Mistake, match=r"no plain file|larger than"):
            read(place)


FILES = ["config.yaml", "manifest.json", "environment.txt", "metrics.csv", "timing.csv", "launches.jsonl"]
FILES += ["calibration.json", "best_validated.npy"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "huge"])
def test_a_run_with_such_a_file_goes_on_or_is_refused(name, kind, trained, run, capfd):
    (trained / "unfinished.lock").touch()
    special(trained / name, kind)
    assert run("fit", "--resume=auto") in (0, 2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_config_of_more_than_a_megabyte_is_not_parsed(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [" + "1, " * 400_000 + "1]")
    with pytest.raises(Mistake, match="larger than"):
        read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("callbacks", [1]), ("callbacks", 5), ("callbacks.last", 5), ("callbacks.best", [1])),
        *(("callbacks.last.init_args", [1]), ("callbacks.last.init_args.dirpath", 5)),
    ],
)
def test_a_resume_refuses_odd_callbacks_in_one_line(setting, value, trained, run, capfd):
    (trained / "unfinished.lock").touch()
    change(trained, setting, value)
    assert run("fit", "--resume=auto") == 2
    said = capfd.readouterr().err
    assert "config.yaml" in said
    assert len(errors_of(said)) == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("global_step", None), ("global_step", "x"), ("resume", []), ("callbacks", 5)),
        *(("optimizer_states", {}), ("lr_schedulers", 1)),
    ],
)
def test_a_resume_passes_over_a_checkpoint_of_odd_parts(part, value, trained, run, capfd):
    (trained / "unfinished.lock").touch()
    for name in ("last", "best"):
        content = torch.load(trained / f"checkpoints/{name}.ckpt", weights_only=True)
        content[part] = value
        if value is None:
            del content[part]
        torch.save(content, trained / f"checkpoints/{name}.ckpt")
    assert run("fit", "--resume=auto", "--trainer.max_steps=1") == 0
    said = capfd.readouterr().out
    assert said.count("passed over") == 2
    assert part in said


@pytest.mark.parametrize("part", ["callbacks", "loops", "lr_schedulers", "optimizer_states", "resume", "more"])
def test_lists_that_double_are_refused_in_any_part_of_a_checkpoint(part, trained, run, capfd):
    doubled: list[Any] = []
    for _ in range(40):
        doubled = [doubled, doubled]
    file = trained / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    content[part] = doubled if part in ("lr_schedulers", "optimizer_states") else {"a": doubled}
    torch.save(content, file)
    with pytest.raises(Mistake, match="more than"):
        read_checkpoint(file, Classifier)


def test_an_optimizer_of_many_groups_is_read(trained):
    file = trained / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    group = content["optimizer_states"][0]["param_groups"][0]
    content["optimizer_states"][0]["param_groups"] = [dict(group) for _ in range(10_000)]
    torch.save(content, file)
    assert read_checkpoint(file, Classifier)


@pytest.mark.parametrize(
    ("name", "content"), [("metrics.csv", "step,a\nx,1\n"), ("environment.txt", b"\xff\xfe"), ("metrics.csv", b"\xff")]
)
def test_a_resume_reads_damaged_files_or_refuses_in_one_line(name, content, trained, run, capfd):
    (trained / "unfinished.lock").touch()
    (trained / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code = run("fit", "--resume=auto")
    said = capfd.readouterr().err
    assert code == (0 if name == "environment.txt" else 2), said
    assert name == "environment.txt" or [name in error for error in errors_of(said)] == [True]


@pytest.mark.parametrize("name", ["version_²", "version_٣", "version_x", "version_-1", "mine"])
def test_only_plain_digits_number_a_run(name):
    assert Run(name).number == -1


def test_hashes_that_claim_more_rows_than_they_have_are_taken_again(tmp_path):
    image, index, victim = tmp_path / "a", tmp_path / "hashes.npy", tmp_path / "victim"
    image.write_text("a")
    victim.write_text("as it was")
    with index.open("wb") as file:
        header = {"descr": [("key", "S16"), ("hash", "S16")], "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / f".hashes.npy.{os.getpid()}").symlink_to(victim)
    stats = file_stats(tmp_path, ["a"])
    taken = content_hashes(tmp_path, ["a"], stats, index)
    assert np.load(index)["hash"].tolist() == taken.tolist()
    assert content_hashes(tmp_path, ["a"], stats, index).tolist() == taken.tolist()
    assert victim.read_text() == "as it was"


def test_null_for_the_callbacks_of_a_config_sets_nothing(trained, run):
    (trained / "unfinished.lock").touch()
    change(trained, "callbacks", None)
    assert run("fit", "--resume=same") == 0
    Path("none.yaml").write_text("callbacks:\n")
    assert run("fit", "--config=none.yaml", "--trainer.max_steps=1") == 0
