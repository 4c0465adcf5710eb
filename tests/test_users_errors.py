"""What a user raises is theirs: a fault in a file that a user edits keeps its traceback and its run's folder."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from test_edits import PACKAGE, draw_images

SMALL = ("--trainer.max_epochs=1", "--data.batch_size=8", "--model.network.width=4", "--trainer.logger=false")


class Fault(NamedTuple):
    """What is replaced in a file by what, and what Python says of it."""

    file: str
    old: str
    new: str
    said: str
    flags: tuple[str, ...] = ()
    more: tuple[tuple[str, str], ...] = ()


CALLBACK = "\n\nclass Callbacks:"
SHOUT = '''

class Shout(Callback):
    """Fails when the first epoch ends."""

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        assert trainer is None, "mine"


class Callbacks:'''
KEYLESS = '''

class Shout(Callback):
    """Fails when Lightning's Trainer is made."""

    @property
    def state_key(self) -> str:
        raise ValueError("mine")


class Callbacks:'''
NEW_CALLBACK = (
    ("        best: BestCheckpoint |", "        shout: Shout | None = None,\n        best: BestCheckpoint |"),
    ("given = (best,", "given = (shout, best,"),
)
GET_LR = """super().__init__(optimizer, total_steps, min_lr)

    def get_lr(self) -> list[float]:
        return [0.1 if self.last_epoch < 3 else {}["mine"] for _ in self.optimizer.param_groups]
"""
VALUE, KEY, ASSERT = 'raise ValueError("mine")', 'raise KeyError("mine")', 'assert False, "mine"'
SHAPE = "mat1 and mat2 shapes cannot be multiplied"
MISUSE = 'self.log("mine", 0.0, on_step=False, on_epoch=False)'


def before(line: str, added: str) -> tuple[str, str]:
    """Put a line before one of a function."""
    return line, f"{added}\n        {line}"


def after(line: str, added: str) -> tuple[str, str]:
    """Put a line after one of a function."""
    return line, f"{line}\n        {added}"


FAULTS = {
    "model: constructor": Fault(
        "model.py", *before("self.make_network, self.make_loss = network, loss", KEY), "KeyError: 'mine'"
    ),
    "metrics": Fault(
        "metrics.py", "return MetricCollection(", f"{VALUE}\n    return MetricCollection(", "ValueError: mine"
    ),
    "model: build": Fault("model.py", *before("self.network = self.make_network(", VALUE), "ValueError: mine"),
    "model: training step": Fault(
        "model.py", "logits_NK = self.network(x_NCHW)", "logits_NK = self.network.head(x_NCHW.mean((1, 2)))", SHAPE
    ),
    "model: a validation after training": Fault(
        "model.py", *after("logits_NK = self(batch.x)", 'assert not self.trainer.global_step, "mine"'), "AssertionError"
    ),
    "model: a wrong use of Lightning": Fault(
        "model.py", *after("logits_NK = self.network(x_NCHW)", MISUSE), "MisconfigurationException"
    ),
    "data: constructor": Fault("data.py", *after("super().__init__(root=root, **options)", VALUE), "ValueError: mine"),
    "data: samples": Fault(
        "data.py", "return find(self.root, self.layout, self.allow_conflicts)", KEY, "KeyError: 'mine'"
    ),
    "data: view": Fault("data.py", *before("return Augment(", ASSERT), "AssertionError: mine"),
    "networks: constructor": Fault("networks.py", "self.features = nn.Sequential()", VALUE, "ValueError: mine"),
    "networks: forward": Fault("networks.py", "self.head(self.features(x_NCHW))", "self.head(x_NCHW)", SHAPE),
    "networks: forward, compiled": Fault(
        "networks.py",
        "self.head(self.features(x_NCHW))",
        "self.head(x_NCHW)",
        "must have same reduction dim",
        ("--model.compile=true",),
    ),
    "losses: constructor": Fault("losses.py", "self.label_smoothing = label_smoothing", KEY, "KeyError: 'mine'"),
    "losses: forward": Fault("losses.py", *before("return F.cross_entropy(", ASSERT), "AssertionError: mine"),
    "optim: constructor": Fault(
        "optim.py", "super().__init__(optimizer, total_steps, min_lr)", VALUE, "ValueError: mine"
    ),
    "optim: a step": Fault("optim.py", "super().__init__(optimizer, total_steps, min_lr)", GET_LR, "KeyError: 'mine'"),
    "augment: pipeline": Fault("augment.py", "A.RandomCrop(size, size),", '{}["mine"],', "KeyError: 'mine'"),
    "augment: in a worker": Fault(
        "augment.py", "self.compose.set_random_seed(seed)", VALUE, "ValueError: mine", ("--data.num_workers=1",)
    ),
    "callbacks: constructor": Fault("callbacks.py", *before("given = (best,", VALUE), "ValueError: mine"),
    "callbacks: while the trainer is made": Fault(
        "callbacks.py", CALLBACK, KEYLESS, "ValueError: mine", ("--callbacks.shout=Shout",), NEW_CALLBACK
    ),
    "callbacks: in a run": Fault(
        "callbacks.py", CALLBACK, SHOUT, "AssertionError: mine", ("--callbacks.shout=Shout",), NEW_CALLBACK
    ),
    "combinations: a rule": Fault(
        "combinations.py", 'data.correction == "sampler"', '{"sampler": 1}[data.correction]', "KeyError: 'none'"
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


def with_fault(project: Path, folder: Path, file: str, *replaced: tuple[str, str]) -> Path:
    """Return a copy of the project with something else in one file."""
    edited = folder / "edited"
    shutil.copytree(project, edited, ignore=shutil.ignore_patterns(".git"))
    path = edited / PACKAGE / file
    text = path.read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return edited


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_keeps_its_traceback_and_its_runs_folder(where, project, command, images, tmp_path):
    fault = FAULTS[where]
    edited = with_fault(project, tmp_path, fault.file, (fault.old, fault.new), *fault.more)
    ended = command(edited, tmp_path, "fit", "--data.root", images, "--data.num_workers=0", *SMALL, *fault.flags)
    assert ended.code == 1, ended.output
    assert not ended.errors
    failure = (tmp_path / "runs/digits/version_0/failure.txt").read_text()
    for text in (ended.output, failure):
        assert "Traceback" in text
        assert fault.said in text
        assert re.search(rf'File ".*/{PACKAGE}/{fault.file}", line \d+, in ', text)


def test_a_fault_is_in_each_file_that_a_user_edits(project):
    files = {path.name for path in (project / PACKAGE).glob("[a-z]*.py")} - {"cli.py"}
    assert {fault.file for fault in FAULTS.values()} == files


def test_a_refusal_of_a_users_own_is_one_line_and_leaves_nothing(project, command, images, tmp_path):
    refusal = 'from .engine.mistakes import Mistake\n        raise Mistake("--data.root holds nothing of mine")'
    edited = with_fault(
        project, tmp_path, "data.py", ("return find(self.root, self.layout, self.allow_conflicts)", refusal)
    )
    ended = command(edited, tmp_path, "fit", "--data.root", images, *SMALL)
    assert ended.refusal == "error: --data.root holds nothing of mine"
    assert not (tmp_path / "runs").exists()


def test_a_fault_while_testing_leaves_the_run_as_it_is(project, command, images, tmp_path):
    assert command(project, tmp_path, "fit", "--data.root", images, *SMALL).code == 0
    before = sorted((tmp_path / "runs").rglob("*"))
    fault = ("logits_NK = self(batch.x)", f"logits_NK = self(batch.x)\n        {VALUE}")
    ended = command(with_fault(project, tmp_path, "model.py", fault), tmp_path, "test")
    assert ended.code == 1
    assert "ValueError: mine" in ended.output
    assert re.search(rf'File ".*/{PACKAGE}/model.py", line \d+, in score', ended.output)
    assert sorted((tmp_path / "runs").rglob("*")) == before
