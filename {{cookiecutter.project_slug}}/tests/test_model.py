"""The model keeps what every model promises (suites.py). Add yours below in the same way."""

from functools import partial

import numpy as np
from suites import DataSuite, ModelSuite

from project_package.data import ImageData
from project_package.engine.splits import Samples
from project_package.engine.targets import Labels, Numbers
from project_package.model import Classifier, Regressor, Tagger
from project_package.networks import SmallCNN
from project_package.optim import OneCycle


class TestClassifier(ModelSuite):
    def make(self):
        return Classifier(partial(SmallCNN, width=8, dropout=0.3), schedule=OneCycle, mixup=0.2)


class Tagged(ImageData):
    """The drawn images with two labels: where they are bright, and every fourth another one."""

    def samples(self):
        found = super().samples()
        fourth = np.arange(len(found.keys)) % 4 == 0
        target_NK = np.column_stack([found.targets == 0, found.targets == 2, fourth]).astype(np.uint8)
        return Samples(found.keys, target_NK, Labels(["left", "right", "fourth"]))


class Measured(ImageData):
    """The drawn images with two numbers: where they are bright, and something that depends on it."""

    def samples(self):
        found = super().samples()
        place = found.targets.astype(float)
        return Samples(found.keys, np.column_stack([100 + place, np.exp(place)]), Numbers(["place", "power"]))


class TestTagger(ModelSuite):
    def make(self):
        return Tagger(partial(SmallCNN, width=8, dropout=0.3), schedule=OneCycle, mixup=0.2)

    def make_data(self):
        return Tagged(str(self.drawn), batch_size=8, num_workers=0)


class TestRegressor(ModelSuite):
    def make(self):
        return Regressor(partial(SmallCNN, width=8, dropout=0.3), schedule=OneCycle)

    def make_data(self):
        return Measured(str(self.drawn), batch_size=8, num_workers=0)


class TestTagged(DataSuite):
    def make(self):
        return Tagged(str(self.drawn), batch_size=8, num_workers=0, balance="sampler")


class TestMeasured(DataSuite):
    def make(self):
        return Measured(str(self.drawn), batch_size=8, num_workers=0, balance="sampler")
