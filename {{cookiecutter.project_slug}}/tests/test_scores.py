"""Scores equal scikit-learn's and scipy's, with and without sample weights, on one device and on several."""

import multiprocessing
import time
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.stats import spearmanr
from sklearn import metrics as judge
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score, MulticlassPrecision

from project_package.engine import scores
from project_package.engine.metrics import direction
from project_package.engine.mistakes import Mistake
from project_package.engine.scores import (
    Score,
    best_thresholds,
    by_target,
    weighted,
)
from project_package.metrics import metrics

CASES = ["plain", "ties", "absent", "equal weights", "some weights 0", "weights", "two samples"]


@pytest.fixture(params=CASES)
def case(request):
    """Probabilities, classes, labels, values, numbers, and weights or None."""
    rng = np.random.default_rng(CASES.index(request.param))
    count = 2 if request.param == "two samples" else 60
    probabilities_NK = rng.dirichlet(np.ones(4), count).astype(np.float32)
    values_NT = rng.normal(50, 10, (count, 3)).astype(np.float32)
    if request.param == "ties":
        probabilities_NK, values_NT = probabilities_NK.round(1), values_NT.round(-1)
    classes_N = rng.integers(0, 4, count)
    labels_NK = (rng.random((count, 4)) < probabilities_NK).astype(np.float32)
    if request.param == "absent":
        classes_N[classes_N == 2] = 1
        labels_NK[:, 2] = 0
        probabilities_NK[:, 2] = 0
    numbers_NT = values_NT.astype(np.float64) + rng.normal(0, 8, (count, 3))
    weight_N = {
        "equal weights": np.full(count, 3.0),
        "some weights 0": rng.integers(0, 3, count).astype(float),
        "weights": rng.uniform(0.1, 5, count),
        "two samples": np.array([1.0, 4.0]),
    }.get(request.param)
    return probabilities_NK, classes_N, labels_NK, values_NT, numbers_NT, weight_N


def scored(measure, predictions, target, weight_N=None, parts=4, **options):
    """Return a score of what comes in several batches."""
    metric = Score(measure, **options)
    for rows in np.array_split(np.arange(len(target)), parts):
        weight = None if weight_N is None else torch.tensor(weight_N[rows])
        if len(rows):
            metric.update(torch.tensor(predictions[rows]), torch.tensor(target[rows]), weight=weight)
    return metric.compute().item()


def counted(weight_N, *arrays):
    """Return the samples that count, and their weights."""
    weight_N = np.ones(len(arrays[0])) if weight_N is None else weight_N
    return [array[weight_N > 0] for array in (*arrays, weight_N)]


def close(score, expected):
    return score == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def test_scores_of_classes_are_scikit_learns(case):
    probabilities_NK, classes_N, _, _, _, weight_N = case
    p, y, w = counted(weight_N, probabilities_NK, classes_N)
    predicted, given = p.argmax(1), (probabilities_NK, classes_N, weight_N)
    assert close(scored(scores.accuracy, *given), judge.accuracy_score(y, predicted, sample_weight=w))
    expected = judge.f1_score(y, predicted, average="macro", sample_weight=w)
    assert close(scored(scores.f1_of_classes, *given), expected)
    both = [k for k in range(4) if 0 < (y == k).sum() < len(y)]
    areas = [judge.roc_auc_score(y == k, p[:, k], sample_weight=w) for k in both]
    assert close(scored(scores.auroc_of_classes, *given), np.mean(areas) if areas else np.nan)


def test_scores_of_labels_are_scikit_learns(case):
    probabilities_NK, _, labels_NK, _, _, weight_N = case
    p, t, w = counted(weight_N, probabilities_NK, labels_NK)
    given, occur = (probabilities_NK, labels_NK, weight_N), t.any(0)
    precisions = [judge.average_precision_score(t[:, k], p[:, k], sample_weight=w) for k in np.flatnonzero(occur)]
    assert close(scored(scores.mean_average_precision, *given), np.mean(precisions))
    both = np.flatnonzero(occur & ~t.all(0))
    areas = [judge.roc_auc_score(t[:, k], p[:, k], sample_weight=w) for k in both]
    assert close(scored(scores.auroc, *given), np.mean(areas) if areas else np.nan)
    for thresholds in (None, 0.3, np.array([0.1, 0.2, 0.3, 0.4])):
        predicted = p >= (0.5 if thresholds is None else thresholds)
        options = {"average": "macro", "sample_weight": w, "zero_division": np.nan}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            macro = judge.f1_score(t, predicted, **options)
            micro = judge.f1_score(t, predicted, **(options | {"average": "micro"}))
        assert close(scored(scores.f1_macro, *given, thresholds=thresholds), macro)
        assert close(scored(scores.f1_micro, *given, thresholds=thresholds), micro)
        exact = judge.accuracy_score(t, predicted, sample_weight=w)
        assert close(scored(scores.exact_match, *given, thresholds=thresholds), exact)


def test_scores_of_numbers_are_scikit_learns(case):
    *_, values_NT, numbers_NT, weight_N = case
    v, t, w = counted(weight_N, values_NT, numbers_NT)
    given = (values_NT, numbers_NT, weight_N)
    judges = {
        scores.rmse: judge.root_mean_squared_error,
        scores.mae: judge.mean_absolute_error,
        scores.r2: judge.r2_score,
    }
    for measure, expected in judges.items():
        assert close(scored(measure, *given), expected(t, v, sample_weight=w))
        for column in range(3):
            one = expected(t[:, column], v[:, column], sample_weight=w)
            assert close(scored(measure, *given, column=column), one)


def test_rank_correlations_are_scipys(case):
    *_, values_NT, numbers_NT, weight_N = case
    expected = np.mean([spearmanr(values_NT[:, column], numbers_NT[:, column]).statistic for column in range(3)])
    assert close(scored(scores.spearman, values_NT, numbers_NT), expected)
    if weight_N is not None and len(set(weight_N)) == 1:
        assert close(scored(scores.spearman, values_NT, numbers_NT, weight_N), expected)


def test_a_weighted_rank_correlation_is_that_of_the_ranks():
    rng = np.random.default_rng(0)
    ranks_N2 = np.stack([rng.permutation(30) for _ in range(2)], 1).astype(float)
    weight_N = rng.uniform(0.1, 3, 30)
    covariance = np.cov(ranks_N2.T, aweights=weight_N)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert close(scored(scores.spearman, ranks_N2[:, :1] ** 3, ranks_N2[:, 1:], weight_N), expected)


@pytest.mark.parametrize("measure", [scores.mean_average_precision, scores.auroc, scores.f1_macro, scores.exact_match])
def test_a_weight_of_two_is_a_sample_that_is_there_twice(measure):
    rng = np.random.default_rng(1)
    p, t, w = rng.random((40, 3)).round(1), rng.integers(0, 2, (40, 3)), rng.integers(0, 4, 40)
    assert close(scored(measure, p, t, w), scored(measure, p.repeat(w, 0), t.repeat(w, 0)))


def test_the_least_cases_are_those_of_scikit_learn():
    one, constant = np.ones((1, 1)), np.full((5, 1), 2.0)
    assert np.isnan(scored(scores.r2, one, one))  # as r2_score has it
    assert scored(scores.rmse, one, one) == 0
    assert scored(scores.r2, constant, constant) == judge.r2_score(constant, constant) == 1
    assert scored(scores.r2, constant + 1, constant) == judge.r2_score(constant, constant + 1) == 0
    assert np.isnan(scored(scores.spearman, constant, np.arange(5.0)[:, None]))
    assert scored(scores.mean_average_precision, one, one) == 1
    assert np.isnan(scored(scores.auroc, one, one))
    assert np.isnan(scored(scores.mean_average_precision, one, 0 * one))


def test_nothing_to_score_is_nan():
    assert np.isnan(scored(scores.mae, np.ones((2, 1)), np.ones((2, 1)), np.zeros(2)))
    assert np.isnan(scored(scores.mean_average_precision, np.array([[0.2], [np.nan]]), np.ones((2, 1))))
    with pytest.warns(UserWarning, match="before"):
        assert torch.isnan(Score(scores.rmse).compute())


def test_large_numbers_keep_their_digits():
    rng = np.random.default_rng(2)
    numbers_NT = 1e9 + rng.normal(0, 1, (1000, 1))
    values_NT = numbers_NT + rng.normal(0, 0.1, (1000, 1))
    assert close(scored(scores.r2, values_NT, numbers_NT), judge.r2_score(numbers_NT, values_NT))


def test_metrics_of_a_collection_share_what_they_keep_and_each_takes_the_weights():
    measures = {"rmse": scores.rmse, "mae": scores.mae, "r2": scores.r2}
    collection = by_target(measures, ["height", "price.usd"]).clone(prefix="val/")
    rng = np.random.default_rng(3)
    values, numbers, weight = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), rng.uniform(1, 2, 30)
    names = [f"val/{name}{end}" for name in ("mae", "r2", "rmse") for end in ("", "_height", "_price_usd")]
    for _ in range(2):  # the second time after a reset
        for rows in np.array_split(np.arange(30), 3):
            batch = (torch.tensor(array[rows]) for array in (values, numbers))
            collection.update(*batch, weight=torch.tensor(weight[rows]))
        found = collection.compute()
        assert sorted(found) == names
        expected = judge.root_mean_squared_error(numbers[:, 1], values[:, 1], sample_weight=weight)
        assert close(found["val/rmse_price_usd"].item(), expected)
        assert len(collection.compute_groups) == 1
        assert len({id(metric.predictions) for metric in collection.values(copy_state=False)}) == 1
        collection.reset()


def test_one_target_has_one_score_of_a_kind_and_targets_of_one_name_have_their_own():
    assert list(by_target({"rmse": scores.rmse}, ["a"])) == ["rmse"]
    assert sorted(by_target({"rmse": scores.rmse}, ["a.b", "a_b"])) == ["rmse", "rmse_a_b_0", "rmse_a_b_1"]


def test_the_metrics_of_classes_are_replaced_by_those_that_take_weights():
    rng = np.random.default_rng(4)
    p, y = torch.tensor(rng.dirichlet(np.ones(3), 50), dtype=torch.float32), torch.tensor(rng.integers(0, 3, 50))
    plain, heavy = metrics(3).clone(prefix="val/"), weighted(metrics(3).clone(prefix="val/"))
    plain.update(p, y)
    heavy.update(p, y, weight=torch.ones(50))
    assert {name: pytest.approx(value.item()) for name, value in plain.compute().items()} == heavy.compute()
    other = weighted(metrics(3))
    other.update(p, y, weight=torch.tensor(rng.uniform(0, 3, 50)))
    assert other.compute()["accuracy"] != plain.compute()["val/accuracy"]


class Blind(MulticlassAccuracy):
    """A metric of the user's own that knows no weights."""


@pytest.mark.parametrize(
    "metric",
    [
        MulticlassPrecision(3),
        MulticlassAccuracy(3, average="macro"),
        MulticlassAccuracy(3, average="micro", top_k=2),
        MulticlassF1Score(3, average="macro", ignore_index=0),
        MulticlassAUROC(3, thresholds=10),
        Blind(3, average="micro"),
    ],
)
def test_a_metric_that_knows_no_weights_is_refused_where_samples_have_some(metric):
    with pytest.raises(Mistake, match=f"the metric mine .{type(metric).__name__}. takes no sample weights"):
        weighted(MetricCollection({"mine": metric}))


def test_a_metric_that_takes_weights_stays():
    mine = Score(scores.mae)
    assert weighted(MetricCollection({"mine": mine}))["mine"] is mine


def test_a_threshold_is_the_one_of_the_highest_f1():
    rng = np.random.default_rng(5)
    p, t, w = rng.integers(1, 100, (40, 5)) / 100, rng.integers(0, 2, (40, 5)), rng.uniform(0.2, 2, 40)
    t[:, 3] = 0
    cuts = np.arange(100) / 100 + 0.005
    for weight_N in (None, w):
        chosen = best_thresholds(p, t, weight_N)
        assert chosen[3] == 0.5
        for label in (0, 1, 2, 4):
            f1 = [judge.f1_score(t[:, label], p[:, label] >= cut, sample_weight=weight_N) for cut in cuts]
            best = judge.f1_score(t[:, label], p[:, label] >= chosen[label], sample_weight=weight_N)
            assert best == pytest.approx(max(f1))
            assert np.abs(p[:, label] - chosen[label]).min() > 0.004  # no probability is on the edge


def test_of_thresholds_that_are_as_good_the_one_nearest_to_a_half_is_taken():
    # Two cuts have an F1 of 2/3: between 0.9 and 0.4, and below 0.1.
    assert best_thresholds(np.array([[0.9], [0.4], [0.3], [0.1]]), np.array([[1], [0], [0], [1]]))[0] == 0.65
    assert best_thresholds(np.array([[0.8], [0.6]]), np.array([[1], [1]]))[0] == pytest.approx(0.3)
    assert best_thresholds(np.array([[0.2], [0.2]]), np.array([[1], [0]]))[0] == pytest.approx(0.1)


def test_thresholds_of_a_tensor_may_be_set_later():
    p, t = np.array([[0.2], [0.1]]), np.array([[1], [0]])
    metric = Score(scores.exact_match)
    metric.update(torch.tensor(p), torch.tensor(t))
    assert metric.compute() == 0.5
    metric.thresholds = torch.from_numpy(best_thresholds(*metric.gathered()))
    metric._computed = None
    assert metric.compute() == 1


def test_twenty_labels_of_fifty_thousand_samples_take_under_a_second():
    rng = np.random.default_rng(6)
    p, t, w = rng.random((50_000, 20)), rng.random((50_000, 20)) < 0.1, np.ones(50_000)
    for work in (scores.mean_average_precision, scores.auroc, scores.f1_macro, scores.exact_match, best_thresholds):
        start = time.process_time()
        work(p, t, w)
        assert time.process_time() - start < 1, work


def _rank(rank, world, place, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    p, y, w = _spread(world)
    collection = MetricCollection(
        {"map": Score(scores.mean_average_precision), "rmse": Score(scores.rmse, 1), "accuracy": Score(scores.accuracy)}
    )
    labels = MetricCollection({name: collection[name] for name in ("map", "rmse")})
    mine = np.arange(len(p))[rank * 7 : (rank + 1) * 7]  # the last rank has none
    for rows in np.array_split(mine, 2) if len(mine) else []:
        rows = torch.from_numpy(rows)
        labels.update(p[rows], torch.eye(3)[y[rows]], weight=w[rows])
        collection["accuracy"].update(p[rows], y[rows], w[rows])
    found = {name: value.item() for name, value in labels.compute().items()}
    found["accuracy"] = collection["accuracy"].compute().item()
    found["kept"] = len(collection["accuracy"].gathered()[0])
    results.put(found)
    dist.destroy_process_group()


def _spread(world):
    rng = np.random.default_rng(7)
    count = 7 * (world - 1) - 2  # the ranks that have samples have not as many
    arrays = rng.dirichlet(np.ones(3), count), rng.integers(0, 3, count), rng.uniform(0.5, 2, count)
    return [torch.from_numpy(array) for array in arrays]


def test_several_ranks_score_as_one_does_also_where_one_has_no_sample(tmp_path):
    context = multiprocessing.get_context("fork")
    results, world = context.Queue(), 3
    place = tmp_path / "store"
    ranks = [context.Process(target=_rank, args=(n, world, place, results), daemon=True) for n in range(world)]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(timeout=60)
    p, y, w = _spread(world)
    expected = {
        "map": judge.average_precision_score(torch.eye(3)[y], p, sample_weight=w),
        "rmse": judge.root_mean_squared_error(torch.eye(3)[y][:, 1], p[:, 1], sample_weight=w),
        "accuracy": judge.accuracy_score(y, p.argmax(1), sample_weight=w),
        "kept": len(y),
    }
    for one in found:
        assert one == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        *((f"val/{name}", "min") for name in ("loss", "my_loss", "mae", "RMSE", "mse", "nll", "brier", "ece")),
        *(("val/rmse_height", "min"), ("test/class_error", "min"), ("val/mae_accuracy", "min")),
        *((f"val/{name}", "max") for name in ("accuracy", "f1_macro", "map", "r2", "spearman", "recall", "piece")),
        *(("val/r2_error", "max"), ("val/spearman_mae", "max"), ("val/maestro", "max")),
    ],
)
def test_the_name_of_a_metric_tells_its_direction(metric, expected):
    assert direction(metric) == expected
