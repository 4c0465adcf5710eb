"""Editing is the main use: edits as a user makes them, each small and in one file, then train, test and resume."""

import shutil
from pathlib import Path

import pytest
from conftest import draw_images

PACKAGE = Path("src/my_project")
SMALL = (
    *("--trainer.max_epochs=2", "--data.batch_size=8", "--trainer.log_every_n_steps=2"),
    *("--model.schedule=null", "--model.warmup_steps=0"),  # the run is lengthened later
)


NETWORK = '''

class Tiny(nn.Module):
    """One convolution."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.conv(x_NCHW).relu().mean((2, 3)))
'''
LOSS = '''

class Margin(Loss):
    """A multi-class hinge."""

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        true_N1 = (logits_NK * self.soft(target)).sum(1, keepdim=True)
        return (1 + logits_NK - true_N1).relu().sum(1)
'''
NUMBER_LOSS = '''

class LogCosh(nn.Module):
    """log cosh of the error: square near 0, absolute far from it."""

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        error_NT = values_NT - target_NT
        return error_NT + F.softplus(-2 * error_NT) - 0.6931472
'''
MEASURE = '''def worst(values_NT: Any, target_NT: Any, weight_N: Any) -> float:
    """The largest error."""
    return abs(values_NT - target_NT).max()


# The measures of numbers'''
CALLBACK = '''

class Shout(Callback):
    """Says what epoch ended."""

    def __init__(self, word: str = "epoch") -> None:
        self.word = word

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(f"{self.word} {trainer.current_epoch} ended")


class Callbacks:'''
AUGMENTATION = '''def mine(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """Turn by quarters."""
    return [A.RandomRotate90(), A.RandomCrop(size, size)]


Pipeline ='''
DATA = """        with open(self.root / "labels.csv", encoding="utf-8") as file:
            rows = [line.strip().split(",") for line in file]
        return Samples.labelled([path for path, _ in rows], [label for _, label in rows])
"""
# file, what is replaced (None appends), by what, flags, what the output must show
EDITS = {
    "network": ("networks.py", None, NETWORK, ["--model.network=Tiny", "--model.network.width=6"], ""),
    "loss": ("losses.py", None, LOSS, ["--model.loss=Margin"], ""),
    "metric": (
        "metrics.py",
        '            "auroc": MulticlassAUROC(num_classes),\n',
        '            "auroc": MulticlassAUROC(num_classes),\n'
        '            "top2": MulticlassAccuracy(num_classes, top_k=2, average="micro"),\n',
        ["--monitor=val/top2"],
        "val/top2",
    ),
    "loss of numbers": ("losses.py", None, NUMBER_LOSS, ["--data.labels=numbers.csv", "--model.loss=LogCosh"], "r2"),
    "metric of numbers": (
        "metrics.py",
        "# The measures of numbers",
        MEASURE,
        ["--data.labels=numbers.csv", "--monitor=val/worst", "--mode=min"],
        "best val/worst",
    ),
    "augmentation": ("augment.py", "Pipeline =", AUGMENTATION, ["--data.augment=mine"], ""),
    "callback": ("callbacks.py", "\n\nclass Callbacks:", CALLBACK, ["--callbacks.shout=Shout"], "epoch 0 ended"),
    "data set": ("data.py", "        return find(self.root, self.layout, self.allow_conflicts)\n", DATA, [], ""),
}
MORE = {  # the rest of the same edit, in the same file
    "metric of numbers": [
        (
            "from torchmetrics import MetricCollection\n",
            "from typing import Any\n\nfrom torchmetrics import MetricCollection\n",
        ),
        ('"spearman": scores.spearman}', '"spearman": scores.spearman, "worst": worst}'),
    ],
    "augmentation": [('"none": None,', '"none": None,\n    "mine": mine,')],
    "callback": [
        ("import Callback\n", "import Callback, LightningModule, Trainer\n"),
        ("        best: BestCheckpoint |", "        shout: Shout | None = None,\n        best: BestCheckpoint |"),
        ("given = (best,", "given = (shout, best,"),
        ("        best: Keeps the best", "        shout: Says what epoch ended.\n        best: Keeps the best"),
    ],
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_fifteen_lines_in_one_file_trains_tests_and_resumes(name, project, command, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(project, edited, ignore=shutil.ignore_patterns(".git"))
    file, old, new, flags, shown = EDITS[name]
    path = edited / PACKAGE / file
    before = path.read_text()
    assert old is None or before.count(old) == 1
    text = before + new if old is None else before.replace(old, new)
    for part, replacement in MORE.get(name, []):
        assert part in text
        text = text.replace(part, replacement, 1)
    added = [line for line in text.splitlines() if line.strip() and line not in before.splitlines()]
    assert len(added) <= 15
    path.write_text(text)
    images = draw_images(tmp_path / "images")
    paths = sorted(images.rglob("*.png"))
    table = [f"{path.relative_to(images)},{number % 9 + 0.5}" for number, path in enumerate(paths)]
    (tmp_path / "numbers.csv").write_text("\n".join(["image,number", *table]))
    if name == "data set":
        rows = [f"{p.relative_to(images)},{p.parent.name}" for p in sorted(images.rglob("*.png"))]
        (images / "labels.csv").write_text("\n".join(rows))
        for index, row in enumerate(rows):  # labels no longer stand in folders
            flat, label = f"{index}.png", row.split(",")[1]
            shutil.move(images / row.split(",")[0], images / flat)
            rows[index] = f"{flat},{label}"
        (images / "labels.csv").write_text("\n".join(rows))
    fitted = command(edited, tmp_path, "fit", "--data.root", images, *SMALL, *flags)
    assert fitted.code == 0, fitted.output
    assert shown in fitted.output
    tested = command(edited, tmp_path, "test")
    assert tested.code == 0, tested.output
    assert (tmp_path / "runs/digits/version_0/test_predictions.csv").is_file()
    resumed = command(edited, tmp_path, "fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert resumed.code == 0, resumed.output
    assert "epoch 2 step 15" in resumed.output
    assert "epoch 1 " not in resumed.output.replace("epoch 1 ended", "")


SCRIPT = """
from functools import partial
import sys
from lightning.pytorch import Trainer
from torch.optim import SGD
from my_project.callbacks import standard
from my_project.data import ImageData
from my_project.model import Classifier
from my_project.networks import SmallCNN

model = Classifier(network=partial(SmallCNN, width=8), optimizer=partial(SGD, lr=0.05, momentum=0.9))
data = ImageData(sys.argv[1], batch_size=8, num_workers=0)
trainer = Trainer(max_epochs=2, callbacks=standard(), accelerator="cpu", log_every_n_steps=2)
trainer.fit(model, data)
best = trainer.checkpoint_callback.best_model_path
again = Classifier.load_from_checkpoint(best, weights_only=True)
assert again.hparams.network["class_path"] == "my_project.networks.SmallCNN"
assert again.hparams.network["init_args"]["width"] == 8
scores = trainer.test(again, data)
assert set(scores[0]) == {"test/accuracy", "test/auroc", "test/f1_macro", "test/loss"}
print("the script is done")
"""


def test_the_parts_serve_in_a_script_with_the_same_checkpoints(project, command, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = command(project, tmp_path, "-m", "script.py", draw_images(tmp_path / "images"))
    assert "the script is done" in done.output, done.output
