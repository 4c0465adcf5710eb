"""The model keeps what every model promises (suites.py). Add yours below in the same way."""

from functools import partial

from suites import ModelSuite

from project_package.model import Classifier
from project_package.networks import SmallCNN
from project_package.optim import OneCycle


class TestClassifier(ModelSuite):
    def make(self):
        return Classifier(partial(SmallCNN, width=8, dropout=0.3), schedule=OneCycle, mixup=0.2)
