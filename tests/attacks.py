"""Runs of others: what a hostile config or checkpoint may say, and a fuzzer that says more of the same kind.

Each is given to a command of a generated project; none may run what it names, import it or fetch it. Used by faults.py.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CANARY = "canary"
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", CANARY]}}
FOREIGN = {"class_path": "foreign.Network"}
LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"
UNSAFE = {"checkpoint_path": "hostile.ckpt", "weights_only": False}
ELASTIC = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    """Write a class path with its arguments."""
    return {"class_path": name, "init_args": arguments}


# What a hostile config says, and under which setting.
CONFIGS: list[tuple[str, Any]] = [
    ("model.network", FOREIGN),
    ("model.network", "foreign.Network"),
    ("model.network", "class_path: foreign.Network\ninit_args: {}\n"),
    ("model.network", '{"class_path": "foreign.Network"}'),
    ("model.network", "  foreign.Network  "),
    ("model.network", "network.yaml"),
    ("model.network", "runs/run/version_0/network.yaml"),
    ("model.network", "http://127.0.0.1:9/network.yaml"),
    ("model.network", "file:///network.yaml"),
    ("model.network", {"class_path": "ｆoreign.Network"}),
    ("model.network", {"class_path": "foreign．Network"}),
    ("model.network", {"class_path": ["foreign.Network"]}),
    ("model.network", spec("torch.nn.Embedding", device=POPEN)),
    ("model.network", spec("torch.nn.Sequential", args=[POPEN])),
    ("model.network", {"class_path": "torch.nn.Identity", "dict_kwargs": {"x": POPEN}}),
    ("model.network", spec(f"{ELASTIC}.Popen", args=["touch", CANARY])),
    ("model.network", spec("lightning.pytorch.cli.os.system", command=f"touch {CANARY}")),
    ("model.network", spec("my_project.engine.commands.os.system", command=f"touch {CANARY}")),
    ("model.network", spec("my_project.engine.runs.subprocess.Popen", args=["touch", CANARY])),
    ("model.network", spec("lightning.pytorch.LightningModule.load_from_checkpoint", **UNSAFE)),
    ("model.network", spec("my_project.model.Classifier.load_from_checkpoint", **UNSAFE)),
    ("model.network", spec("torch.hub.load", repo_or_dir=".", model="x", source="local")),
    ("model.network", spec("torch.load", f="hostile.ckpt", weights_only=False)),
    ("model.network", spec("torch.jit.load", f="hostile.ckpt")),
    ("model.network", spec("functools.partial", func="foreign.Network")),
    ("model.network", spec("jsonargparse.set_parsing_settings", import_path_allowlist=["foreign"])),
    ("model.network.init_args.activation", FOREIGN),
    ("model.loss", FOREIGN),
    ("model.optimizer", POPEN),
    ("model.schedule", POPEN),
    ("model.schema", POPEN),
    ("data.augment", FOREIGN),
    ("data.value_range", POPEN),
    ("trainer.callbacks", [FOREIGN]),
    ("trainer.callbacks", {"class_path": "foreign.Callback"}),
    ("trainer.callbacks", [spec(LAMBDA, on_test_start="foreign.Network")]),
    ("trainer.callbacks", [spec(LAMBDA, on_test_start=POPEN)]),
    ("trainer.callbacks", [spec(LAMBDA, on_test_start="lightning.pytorch.LightningModule.load_from_checkpoint")]),
    ("trainer.logger", POPEN),
    ("trainer.logger", [FOREIGN]),
    ("trainer.profiler", FOREIGN),
    ("trainer.plugins", [POPEN]),
    ("trainer.strategy", POPEN),
    ("trainer.accelerator", FOREIGN),
    ("callbacks.pictures", FOREIGN),
    ("callbacks.averaging", POPEN),
    ("callbacks", "callbacks.yaml"),
    ("config", "other.yaml"),
    ("config", ["other.yaml"]),
    ("test", {"model": {"network": FOREIGN}}),
    ("seed_everything", POPEN),
]


def damages() -> Iterator[tuple[str, str | bytes | None]]:
    """Yield what may become of a file in a run's folder: its name and the content; None makes a folder of it."""
    for name in ("metrics.csv", "timing.csv", "failure.txt", "environment.txt", "config.yaml", "manifest.json"):
        yield from ((name, bytes(range(256)) * 20), (name, ""), (name, "\0" * 100), (name, "a,b,c,d\nx,y,z,w\n"))
        yield from ((name, '{"a": [1, null, {"b": 2}]}'), (name, None), (name, "[" * 100_000), (name, "a: &a [*a]"))
    for name in ("test_predictions.csv", "confusion_matrix.csv"):
        yield from ((name, bytes(range(256)) * 20), (name, None), (name, "a,b\n1,2,3\n"))
    rows = ("x,1", f"1,{'9' * 200_000}", "1,2,3,4\n2", "1e400,nan\n-5,inf")
    yield from (("metrics.csv", f"step,val/loss\n{row}\n") for row in rows)
    yield from (("timing.csv", f"step,seconds,data_wait,samples\n{row}\n") for row in ("1,2,x,4", "1,0,0,0"))
    yield "failure.txt", "\x1b]0;a title\x07 \x1b[2J\nTraceback"
    yield "hashes.npy", bytes(100)


# Values that a setting of a run's config may have, and settings that are read without the parser.
ODD = [[1, 2], {"a": {"b": 1}}, "odd\x1b[2J text", None, -1, True, 10**400]
READ = """
    monitor mode name data model trainer callbacks seed_everything data.batch_size data.root data.manifest
    data.image_size model.network model.optimizer model.schedule trainer.max_epochs trainer.devices
    trainer.accumulate_grad_batches trainer.gradient_clip_val callbacks.early_stopping callbacks.best
""".split()


def change(content: dict[str, Any], setting: str, value: Any) -> None:
    """Write a setting into the content of a config."""
    *above, last = setting.split(".")
    for key in above:
        part = content.get(key)
        content[key] = content = part if isinstance(part, dict) else {}
    content[last] = value


def plant(folder: Path) -> None:
    """Write what hostile configs name: a module that leaves a canary, and files that name it."""
    folder.joinpath("foreign.py").write_text(
        f"import torch\nopen({str(folder / CANARY)!r}, 'w').close()\nclass Network(torch.nn.Module): pass\n"
        "class Callback: pass\n"
    )
    for place in (folder, *folder.glob("runs/*/version_0")):
        (place / "network.yaml").write_text(yaml.safe_dump(FOREIGN))
        (place / "callbacks.yaml").write_text(yaml.safe_dump({"pictures": FOREIGN}))
        (place / "other.yaml").write_text(yaml.safe_dump({"model": {"network": FOREIGN}}))


# Where a config names a class.
COMMANDS = (
    ("test", "--trainer.limit_test_batches=1"),
    ("validate", "--trainer.limit_val_batches=1"),
    ("predict", "--data.predict_root=images/red"),
)
PLACES = """
    model.network model.loss model.optimizer model.schedule model.network.class_path model.optimizer.class_path
    trainer.callbacks trainer.logger trainer.plugins trainer.profiler trainer.strategy callbacks.averaging
    callbacks.pictures callbacks.best callbacks.early_stopping.class_path
""".split()
SLOW: Any = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
NAMES = st.sampled_from(["foreign.Network", "foreign.Callback"]) | st.sampled_from(
    [
        *("subprocess.Popen", "os.system", "posix.system", "builtins.exec"),
        *("builtins.eval", "importlib.import_module", "runpy.run_path", "pickle.load", "functools.partial"),
        *(f"{ELASTIC}.Popen", "torch.hub.load", "torch.load", "torch.utils.cpp_extension.load"),
        *("lightning.pytorch.cli.os.system", "lightning.fabric.utilities.cloud_io._load"),
        *("lightning.pytorch.LightningModule.load_from_checkpoint", "my_project.engine.runs.subprocess.Popen"),
        *("my_project.model.Classifier.load_from_checkpoint", "my_project.engine.commands.importlib.import_module"),
        *("torchvision.models.os.system", "torch.nn.modules.module.functools.partial"),
    ]
)
ARGUMENTS = st.sampled_from(
    [
        *({}, {"args": ["touch", CANARY]}, {"command": f"touch {CANARY}"}, {"name": "foreign"}, UNSAFE),
        *({"path_name": "foreign.py"}, {"func": "foreign.Network"}, {"source": f"open({CANARY!r}, 'w')"}),
    ]
)
TRUSTED = st.sampled_from(
    [
        *("torch.nn.Embedding", "torch.nn.Sequential", "torch.nn.Linear", "torch.optim.SGD", LAMBDA),
        *("my_project.networks.SmallCNN", "my_project.losses.CrossEntropy", "lightning.pytorch.loggers.CSVLogger"),
        "lightning.pytorch.callbacks.ModelCheckpoint",
    ]
)
PARAMETERS = st.sampled_from(
    ["device", "args", "on_test_start", "lr", "logger", "module", "filename", "activation", "x"]
)


@st.composite
def specs(draw: Any) -> Any:
    """Build a class spec: plain, spelt otherwise, or inside the arguments of a class that is trusted."""
    name = draw(NAMES)
    if draw(st.booleans()):
        position = draw(st.integers(0, len(name) - 1))
        odd = chr(ord(name[position]) + 0xFEE0) if name[position].isalpha() else name[position]
        name = draw(st.sampled_from([name, f" {name} ", name[:position] + odd + name[position + 1 :], f"{name}\n"]))
    made: Any = {"class_path": name, draw(st.sampled_from(["init_args", "dict_kwargs"])): draw(ARGUMENTS)}
    spellings = [
        made,
        name,
        json.dumps(made),
        yaml.safe_dump(made),
        str(made),
        [made],
        {"x": made},
        {"class_path": made},
    ]
    made = draw(st.sampled_from(spellings))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        kind = draw(st.sampled_from(["init_args", "dict_kwargs"]))
        made = {"class_path": draw(TRUSTED), kind: {draw(PARAMETERS): made}}
        made = draw(st.sampled_from([made, json.dumps(made)]))
    return draw(st.sampled_from([made] * 6 + ["network.yaml", "other.yaml"]))


def places(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the settings of a config, and those above them."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield f"{prefix}{key}"
        yield from places(value, f"{prefix}{key}.")


SEARCH_PATH = "import sys, json; print(json.dumps(sys.path))"


def fuzz(run: Path, number: int) -> tuple[int, int]:
    """Give commands that many hostile configs of a run; in its working folder, in a process of the project.

    Returns:
        How many were tried, and how many of them ran or imported what they name.
    """
    from my_project.__main__ import main  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, os.getcwd())
    config = run / "config.yaml"
    good = config.read_text()
    every = sorted({*places(yaml.safe_load(good)), "config", "test", "class_path", "trainer.callbacks"})
    tried, harmed, happened = [], [], []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # To find a signature jsonargparse asks Python for the folders that it imports from, in these very words.
        if event == "subprocess.Popen" and arguments[1] == [sys.executable, "-c", SEARCH_PATH]:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect"):
            happened.append((event, str(arguments)[:200]))

    @settings(max_examples=number, database=None, deadline=None, derandomize=True, suppress_health_check=SLOW)
    @given(st.lists(st.tuples(st.sampled_from(PLACES) | st.sampled_from(every), specs()), min_size=1, max_size=2))
    def attack(changes: list[tuple[str, Any]]) -> None:
        content = yaml.safe_load(good)
        for setting, value in changes:
            change(content, setting, value)
        config.write_text(yaml.safe_dump(content))
        happened.clear()
        command = COMMANDS[len(tried) % len(COMMANDS)]
        try:
            main([*command, f"--ckpt_path={run}/checkpoints/last.ckpt"])
        except SystemExit:
            pass
        except Exception as error:
            print(f"a traceback: {error!r} of {changes}")
        tried.append(changes)
        if happened or Path(CANARY).exists() or "foreign" in sys.modules:
            harmed.append(changes)
            Path(CANARY).unlink(missing_ok=True)
            sys.modules.pop("foreign", None)

    sys.addaudithook(watch)
    attack()
    config.write_text(good)
    for changes in harmed:
        print(f"ran or imported: {changes}")
    return len(tried), len(harmed)


if __name__ == "__main__":
    count, bad = fuzz(Path(sys.argv[1]), int(sys.argv[2]))
    print(f"{count} configs, {bad} ran or imported something")
    raise SystemExit(bool(bad))
