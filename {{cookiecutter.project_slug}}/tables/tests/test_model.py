"""The models of classes, labels and numbers keep the promises of every model; so does one of several heads."""

from functools import partial

import pytest
import torch
from conftest import TARGETS
from suites import DataSuite, ModelSuite

from project_package.data import TableData
from project_package.engine.loading import SplitData
from project_package.engine.task import Task
from project_package.model import Classifier, Regressor, Tagger
from project_package.networks import MLP, ResNet, TabM


class OfTask(ModelSuite):
    """Trains on the drawn table, for one of its targets."""

    task = "multiclass"

    def make_data(self) -> SplitData:
        others = [name for task, names in TARGETS.items() if task != self.task for name in names]
        return TableData(str(self.drawn), target=TARGETS[self.task], drop=others, batch_size=16)


class TestClassifier(OfTask):
    def make(self) -> Task:
        return Classifier(partial(MLP, width=16, depth=1))


class TestTagger(OfTask):
    task = "multilabel"

    def make(self) -> Task:
        return Tagger(partial(MLP, width=16, depth=1, numbers="periodic"), swap_noise=0.1, noise=0.1)


class TestRegressor(OfTask):
    task = "regression"

    def make(self) -> Task:
        return Regressor(partial(ResNet, width=16, depth=1), mixup=0.2, column_dropout=0.1)


class TestHeads(OfTask):
    def make(self) -> Task:
        return Classifier(partial(TabM, width=16, depth=1, heads=4), mixup=0.2, scaling="robust")


class TestRows(DataSuite):
    def make(self) -> SplitData:
        return self.small_data()


def test_a_batch_is_the_rows_of_the_table_as_they_are_written(goods):
    data = TableData(str(goods), target="price", drop=["size", "sturdy", "cheap", "age"], num_workers=0)
    data.setup("fit")
    header, *lines = goods.read_text().splitlines()
    cells = dict(zip(header.split(","), lines[int(data.train_keys[3])].split(","), strict=True))
    batch = data.train.__getitems__([3, (3, 77)])
    assert batch.position.tolist() == [3, 3]
    numbers, codes = batch.x[0, :2], batch.x[0, 2:]
    assert numbers.tolist() == pytest.approx([float(cells[name] or "nan") for name in ("length", "mass")], nan_ok=True)
    for name, code in zip(("colour", "shop"), codes.tolist(), strict=True):
        assert data.columns.categories[name][int(code) - 1] == cells[name]
    assert batch.y[0].item() == float(cells["price"])
    assert torch.equal(batch.x[0].nan_to_num(), batch.x[1].nan_to_num())
