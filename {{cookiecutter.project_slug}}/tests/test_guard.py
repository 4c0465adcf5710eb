"""A run's folder may be anybody's: nothing that its config or its checkpoint names is run, imported or fetched."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from project_package.engine import PACKAGE, guard
from project_package.engine.configs import RENAMED, read_config
from project_package.engine.mistakes import Mistake
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


def nothing_ran() -> bool:
    return not CANARY.exists() and "foreign" not in sys.modules


@pytest.mark.parametrize(("setting", "value"), ATTACKS, ids=[f"{i}-{key}" for i, (key, _) in enumerate(ATTACKS)])
def test_what_a_config_names_is_not_imported(setting, value, trained, foreign, run, capfd):
    change(trained, setting, value)
    assert run("test", "--trainer.limit_test_batches=1") == 2
    assert nothing_ran()
    assert capfd.readouterr().err.count("\n") == 1


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


def test_a_renamed_setting_is_read_under_its_name_of_today(trained, run, monkeypatch):
    content = yaml.safe_load((trained / "config.yaml").read_text())
    content["model"]["l0"] = content["model"].pop("l1")
    content["model"]["class_names"] = ["left", "middle", "right"]
    (trained / "config.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setitem(RENAMED, "model.l0", "model.l1")
    assert run("test", "--trainer.limit_test_batches=1") == 0


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
    Path("mine.yaml").write_text("data: {root: ~/nowhere}")
    assert run("fit", "--config=~/mine.yaml", "--data.cache_root=~/cache") == 2
    assert run("fit", "--data.root=~/nowhere") == 2
    assert capfd.readouterr().err.count(f"{Path.cwd()}/nowhere") == 2
