"""The suites of a project's tests serve a user's own classes in three lines, and they can fail."""

import re
import shutil

from test_edits import PACKAGE

NETWORKS = '''

class Line(nn.Module):
    """A linear model."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)
        self.layer(torch.zeros(1, in_channels * 16 * 16))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layer(x_NCHW.flatten(1))


class Blind(Line):
    """Ignores its input."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layer(0 * x_NCHW.flatten(1))


class Peeking(Line):
    """Lets an answer depend on the others of its batch."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layer((x_NCHW - x_NCHW.mean(0)).flatten(1))


class Forgetful(Line):
    """Keeps what it learned where no checkpoint looks."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.steps = 0.0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x_NCHW) * (1 + self.steps)


class Unseeded(Line):
    """Draws its first weights from a stream of its own."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.layer.weight.data.normal_(generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(0)
'''
DATA = '''

class Mine(ImageData):
    """Reads the images that a list names."""

    def samples(self) -> Samples:
        found = find(self.root)
        return Samples.labelled(found.keys, [key.split("/")[0] for key in found.keys])


class Noise:
    """A view that adds noise of the process's own stream."""

    def __init__(self, view: Augment) -> None:
        self.view = view

    def __call__(self, image: np.ndarray, seed: int | None) -> np.ndarray:
        return self.view(image, seed) ^ np.random.randint(0, 2, dtype=np.uint8)


class Differing(ImageData):
    """Its workers draw what the main process does not."""

    def inputs(self, keys: list[str]) -> dict[str, Any]:
        known = super().inputs(keys)
        self.view = Noise(self.view)
        return known


class Monotonous(ImageData):
    """Every epoch has the same order."""

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        loader.sampler.set_epoch = lambda epoch: None
        return loader


class Wasteful(ImageData):
    """Drops what does not fill a batch of the evaluation."""

    def val_dataloader(self) -> Any:
        return list(super().val_dataloader())[:-1]
'''
TESTS = """
from suites import DataSuite, ModelSuite

from my_project import data, networks
from my_project.model import Classifier


class TestLine(ModelSuite):
    def make(self):
        return Classifier(networks.Line)


class TestMine(DataSuite):
    def make(self):
        return data.Mine(str(self.drawn), batch_size=8)
"""
BROKEN = {
    "Blind": "test_a_prediction_follows_its_own_input_and_no_other",
    "Peeking": "test_a_prediction_follows_its_own_input_and_no_other",
    "Forgetful": "test_saved_and_loaded_it_predicts_the_same",
    "Unseeded": "test_the_same_seed_gives_the_same_first_weights_and_another_seed_others",
    "Differing": "test_batches_are_the_same_with_workers_and_without",
    "Monotonous": "test_each_epoch_has_an_order_of_its_own",
    "Wasteful": "test_evaluation_sees_every_sample_once",
}


def test_a_suite_passes_a_users_own_class_and_fails_a_broken_one(project, command, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(project, edited, ignore=shutil.ignore_patterns(".git"))
    networks, data = (edited / PACKAGE / name for name in ("networks.py", "data.py"))
    networks.write_text(networks.read_text().replace("from torch import", "import torch\nfrom torch import") + NETWORKS)
    data.write_text(data.read_text().replace("from typing import", "import numpy as np\nfrom typing import") + DATA)
    tests = TESTS
    for name in BROKEN:
        made = (
            f"data.{name}(str(self.drawn), batch_size=8)"
            if f"class {name}(" in DATA
            else f"Classifier(networks.{name})"
        )
        suite = "DataSuite" if f"class {name}(" in DATA else "ModelSuite"
        tests += f"\n\nclass Test{name}({suite}):\n    def make(self):\n        return {made}\n"
    (edited / "tests/test_mine.py").write_text(tests)
    done = command(edited, edited, "-m", "pytest", "-rfE", "-p", "no:cacheprovider", "tests/test_mine.py")
    failed = set(re.findall(r"FAILED tests/test_mine.py::Test(\w+)::(\w+)", done.output))
    assert done.code == 1, done.output
    assert set(BROKEN.items()) <= failed, done.output
    assert {name for name, _ in failed} == set(BROKEN), done.output  # the others pass
    assert " error" not in done.output.splitlines()[-1]
