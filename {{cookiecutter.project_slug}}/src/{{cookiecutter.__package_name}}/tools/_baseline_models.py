"""What a user would try before a network, by scikit-learn: fitted on training samples, it predicts in the same columns.

Each takes the samples' weights. Of classes one model gives all probabilities; of several labels or numbers there is a
model for each. Shapes: N samples, F columns, K classes or labels or numbers, M nearest neighbours.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine.loading import Plain
from ..engine.splits import stratified_part
from ..engine.targets import Classes, Numbers, Target

NEIGHBOURS = 5
PENALTIES = np.logspace(-3, 4, 15)  # of ridge regression, of which leave-one-out chooses
MOST_VALUES = 100  # of a category, each with a column of its own; rarer ones share one
MOST_CODES = 255  # of a category that trees know as one
MOST_SAMPLES = 100_000


class Known(NamedTuple):
    """Training samples.

    Args:
        plain: What they are, as numbers.
        targets: As ``target`` has them.
        target: What is predicted.
        weight_N: The weight of each, 1 on average.
        seed: Of what is drawn.
    """

    plain: Plain
    targets: np.ndarray
    target: Target
    weight_N: np.ndarray
    seed: int

    @property
    def told_NK(self) -> np.ndarray:
        """The targets as columns: whether a sample has a class or label; of numbers what is learned of them."""
        if isinstance(self.target, Numbers):
            return self.target.learned(self.targets)
        names = range(len(self.target.names))
        return np.stack([self.target.holds(self.targets, k) for k in names], axis=1).astype(float)

    def part(self, most: int) -> "Known":
        """Return so many of the samples at most, and of each class its share."""
        kept = share_of(self.target, self.targets, most, self.seed)
        plain = self.plain._replace(x_NF=self.plain.x_NF[kept])
        weight_N = self.weight_N[kept]
        return self._replace(plain=plain, targets=self.targets[kept], weight_N=weight_N / weight_N.mean())


def share_of(target: Target, targets: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return the positions of so many samples at most, (N,), drawn so that each class keeps its share."""
    if len(targets) <= most:
        return np.arange(len(targets))
    return stratified_part(target.strata(targets), most / len(targets), seed)


Predict = Callable[[np.ndarray], np.ndarray]  # x_NF → probabilities_NK or values_NT, in the user's unit
Columns = Callable[[np.ndarray], np.ndarray]  # the same, before numbers are in the user's unit


class Baseline(NamedTuple):
    """A model that is no network.

    Args:
        name: What people call it, by the kind of target (Task).
        fit: Learns from training samples.
        most: From how many at most, by the numbers of columns and outputs: more would take minutes.
    """

    name: dict[str, str]
    fit: Callable[[Known], Columns]
    most: Callable[[int, int], int]

    def fitted(self, known: Known) -> Predict:
        """Return what predicts, in the columns of the target."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that steps ran out, that a column is constant
            columns = self.fit(known)
        target = known.target

        def predict(x_NF: np.ndarray) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a category that training has not seen
                values_NK = columns(x_NF)
            return target.unlearned(values_NK) if isinstance(target, Numbers) else values_NK

        return predict


def constant(known: Known) -> Columns:
    """Say the same always: the share of each class or label, the mean of numbers."""
    mean_K = np.average(known.told_NK, axis=0, weights=known.weight_N)
    return lambda x_NF: np.tile(mean_K, (len(x_NF), 1))


def neighbours(known: Known) -> Columns:
    """Say the mean of the nearest training samples, by their weights."""
    from sklearn.neighbors import NearestNeighbors

    told_NK, count = known.told_NK, min(NEIGHBOURS, len(known.targets))
    near = NearestNeighbors(n_neighbors=count).fit(known.plain.x_NF)

    def predict(x_NF: np.ndarray) -> np.ndarray:
        nearest_NM = near.kneighbors(x_NF, return_distance=False)
        weight_NM = known.weight_N[nearest_NM]
        return np.einsum("nm,nmk->nk", weight_NM / weight_NM.sum(1, keepdims=True), told_NK[nearest_NM])

    return predict


def linear(known: Known) -> Columns:
    """Logistic or ridge regression, of standardised numbers and a column for each value of a category."""
    from sklearn.linear_model import LogisticRegression, RidgeCV

    prepared = preparation(known.plain)
    x_NF = prepared.fit_transform(known.plain.x_NF)
    predict = of_each_column(x_NF, known, lambda _: LogisticRegression(max_iter=500), lambda: RidgeCV(PENALTIES))
    return lambda x_NF: predict(prepared.transform(x_NF))


def preparation(plain: Plain) -> Any:
    """Return what a linear model needs first: the median for what is missing, and a column that says so; one scale."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_VALUES)
    return ColumnTransformer(
        [("numbers", numbers, ~plain.is_category_F), ("categories", categories, plain.is_category_F)]
    )


def trees(known: Known) -> Columns:
    """Gradient-boosted trees, which take missing numbers and categories as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    values_F = [len(np.unique(x_N)) for x_N in known.plain.x_NF.T]
    is_one_F = known.plain.is_category_F & (np.array(values_F) <= MOST_CODES)  # of more the code counts as a number
    options: dict[str, Any] = {"categorical_features": is_one_F, "random_state": known.seed % 2**32}

    def classifier(y_N: np.ndarray) -> Any:
        # Early stopping holds out a tenth of many samples, and needs two of each class for that.
        counts = np.unique(y_N, return_counts=True)[1]
        early: Any = "auto" if counts.min() >= 2 and len(counts) <= 100 else False
        return HistGradientBoostingClassifier(early_stopping=early, **options)

    return of_each_column(known.plain.x_NF, known, classifier, lambda: HistGradientBoostingRegressor(**options))


def of_each_column(
    x_NF: Any, known: Known, classifier: Callable[[np.ndarray], Any], regressor: Callable[[], Any]
) -> Columns:
    """Fit one model of all classes, or one for each label or number.

    Args:
        x_NF: The training samples, as the model takes them.
        known: Their targets and weights.
        classifier: Makes a model of scikit-learn's, for targets (N,).
        regressor: The same, for numbers.
    """
    is_number, weight_N = isinstance(known.target, Numbers), known.weight_N
    if isinstance(known.target, Classes) and len(np.unique(known.targets)) > 1:
        model = classifier(known.targets).fit(x_NF, known.targets, sample_weight=weight_N)
        names = len(known.target.names)

        def predict(x_NF: Any) -> np.ndarray:
            probabilities_NK = np.zeros((x_NF.shape[0], names))
            probabilities_NK[:, model.classes_] = model.predict_proba(x_NF)  # a class may have no sample in a part
            return probabilities_NK

        return predict

    def of_one(told_N: np.ndarray) -> Columns:
        if told_N.min() == told_N.max():
            return lambda x_NF: np.full(x_NF.shape[0], told_N[0])
        if is_number:
            return regressor().fit(x_NF, told_N, sample_weight=weight_N).predict
        model = classifier(told_N).fit(x_NF, told_N, sample_weight=weight_N)
        return lambda x_NF: model.predict_proba(x_NF)[:, 1]

    models = [of_one(told_N) for told_N in known.told_NK.T]
    return lambda x_NF: np.stack([model(x_NF) for model in models], axis=1)


def _named(of_classes: str, of_labels: str, of_numbers: str) -> dict[str, str]:
    return {"multiclass": of_classes, "multilabel": of_labels, "regression": of_numbers}


def _within(work: float, least: int) -> Callable[[int, int], int]:
    """Return how many samples are so much work: a value of one column for one output is 1."""
    return lambda columns, outputs: int(np.clip(work / (columns * outputs), least, MOST_SAMPLES))


CONSTANT = Baseline(_named("majority class", "shares of the labels", "mean"), constant, _within(np.inf, 1))
# The others, by what SplitData.baselines calls them.
BASELINES = {
    "neighbours": Baseline(_named(*["nearest neighbours"] * 3), neighbours, lambda columns, outputs: 20_000),
    "linear": Baseline(
        _named("logistic regression", "logistic regression", "ridge regression"), linear, _within(1e8, 5_000)
    ),
    "trees": Baseline(_named(*["boosted trees"] * 3), trees, _within(2e7, 5_000)),
}
