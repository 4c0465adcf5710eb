"""`baseline` gives scikit-learn's own numbers on the run's splits, and says so where the network is behind them."""

import csv
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, rows
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from test_report import Page

KINDS = ("classes", "labels", "numbers")
NAMES = {"classes": ["low", "middle", "high"], "labels": ["left", "top"], "numbers": ["price", "size"]}
RUNS = {kind: Path("runs", kind, "version_0") for kind in KINDS}
# A network that learns nothing: everything is ahead of it but a constant, perhaps.
IDLE = (*TINY, "--trainer.max_epochs=1", "--model.optimizer.lr=1e-8", "--data.image_size=32")
OWN = {"classes": (), "labels": ("--monitor=val/f1_micro",), "numbers": ("--data.log_target=true",)}


def draw(folder: Path) -> None:
    """Draw 90 grey images of noise on levels, and tables that say what follows from the levels, with weights."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[object]]] = {kind: [] for kind in KINDS}
    for number in range(90):
        pixels = rng.integers(0, 120, (32, 32))
        left, top = rng.integers(0, 2, 2)
        pixels[:, :16] += 40 * left
        pixels[:16] += 40 * top
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{number:02d}.png")
        begins, weight = [f"{number:02d}.png"], [round(float(rng.uniform(0.2, 2)), 3)]
        tables["classes"].append([*begins, NAMES["classes"][left + top], *weight])
        tables["labels"].append([*begins, left, top, *weight])
        noise = rng.normal(size=2)
        tables["numbers"].append([*begins, 1e5 * 3.0 ** (left + noise[0] / 5), 2 + top + noise[1] / 5, *weight])
    for kind, of_kind in tables.items():
        names = ["target"] if kind == "classes" else NAMES[kind]
        with (folder / f"{kind}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image", *names, "weight"], *of_kind])


def table(folder: Path, kind: str) -> tuple[object, ...]:
    return ("--data.root", folder / "images", "--data.labels", folder / f"{kind}.csv", *IDLE, *OWN[kind])


@pytest.fixture(scope="module")
def compared(project, command, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with a run of each kind that was tested and compared, and what the commands said of each."""
    folder = tmp_path_factory.mktemp("compared")
    draw(folder)
    lines: list[tuple[object, ...]] = []
    for kind in KINDS:
        named = ("--name", kind)
        lines += [("fit", *table(folder, kind), *named), ("test", *named), ("baseline", *named)]
        lines += [("diagnose", *named), *([("report", *named)] if kind != "labels" else [])]
    said: dict[str, str] = dict.fromkeys(KINDS, "")
    for line, done in zip(lines, command.each(project, folder, lines), strict=True):
        assert done.code == 0, (line, done.output)
        said[str(line[-1])] += done.output
    return folder, said


@pytest.fixture
def copied(compared, tmp_path) -> Path:
    """A copy of that folder, to spoil."""
    shutil.copytree(compared[0], tmp_path / "copy")
    return tmp_path / "copy"


class Split:
    """A split as scikit-learn takes it: pixels averaged by fours, targets, weights."""

    def __init__(self, folder: Path, kind: str, name: str, manifest: Path | None = None) -> None:
        content = json.loads((manifest or folder / RUNS[kind] / "manifest.json").read_text())
        samples = content["splits"][name]
        pixels = np.stack([np.asarray(Image.open(folder / "images" / key)) for key, *_ in samples]) / 255
        self.keys = [key for key, *_ in samples]
        self.x_NF = pixels.reshape(-1, 16, 2, 16, 2).mean((2, 4)).reshape(len(samples), -1)
        self.weight_N = np.array([weight for *_, weight in samples])
        targets: list[Any] = [target for _, target, _ in samples]
        names = content["schema"]["target"]["names"]
        has_NK = [[name in ([target] if kind == "classes" else target) for name in names] for target in targets]
        self.y: Any = np.array(targets if kind == "numbers" else has_NK, dtype=float)
        if kind == "classes":
            self.y = self.y.argmax(1)


def weighted_neighbours(train: Split, other: Split, told_NK: np.ndarray) -> np.ndarray:
    """Return what neighbours say, found by measuring all distances."""
    distance_NN = ((other.x_NF[:, None] - train.x_NF[None]) ** 2).sum(2)
    nearest_NM = np.argsort(distance_NN, axis=1)[:, :5]
    return np.stack([np.average(told_NK[near], axis=0, weights=train.weight_N[near]) for near in nearest_NM])


def by_hand(folder: Path, kind: str, split: str, manifest: Path | None = None) -> dict[str, np.ndarray]:
    """Return what scikit-learn's models predict of a split, by name."""
    train, other = Split(folder, kind, "train", manifest), Split(folder, kind, split, manifest)
    weight_N = train.weight_N / train.weight_N.mean()
    scaler = StandardScaler().fit(train.x_NF)
    x_NF, other_NF = scaler.transform(train.x_NF), scaler.transform(other.x_NF)
    told_NK = {"classes": lambda: np.eye(3)[train.y], "labels": lambda: train.y, "numbers": lambda: np.log(train.y)}
    told_NK = told_NK[kind]()
    constant_NK = np.tile(np.average(told_NK, axis=0, weights=weight_N), (len(other.y), 1))
    near_NK = weighted_neighbours(train, other, told_NK)
    if kind == "classes":
        linear = LogisticRegression(max_iter=500).fit(x_NF, train.y, sample_weight=weight_N)
        names = ("majority class", "nearest neighbours", "logistic regression")
        return dict(zip(names, (constant_NK, near_NK, linear.predict_proba(other_NF)), strict=True))
    if kind == "labels":
        each = [LogisticRegression(max_iter=500).fit(x_NF, y_N, sample_weight=weight_N) for y_N in train.y.T]
        linear_NK = np.stack([model.predict_proba(other_NF)[:, 1] for model in each], axis=1)
        names = ("shares of the labels", "nearest neighbours", "logistic regression")
        return dict(zip(names, (constant_NK, near_NK, linear_NK), strict=True))
    penalties = np.logspace(-3, 4, 15)
    each = [RidgeCV(penalties).fit(x_NF, y_N, sample_weight=weight_N).predict(other_NF) for y_N in told_NK.T]
    names = ("mean", "nearest neighbours", "ridge regression")
    return dict(zip(names, map(np.exp, (constant_NK, near_NK, np.stack(each, axis=1))), strict=True))


def scores_by_hand(kind: str, true: Any, said: np.ndarray, weight_N: np.ndarray) -> dict[str, float]:
    """Return scikit-learn's scores by the names that a run logs."""
    weighted: dict[str, Any] = {"sample_weight": weight_N}
    if kind == "classes":
        return {
            "accuracy": accuracy_score(true, said.argmax(1), **weighted),
            "f1_macro": f1_score(true, said.argmax(1), average="macro", **weighted),
            "auroc": roc_auc_score(np.eye(3)[true], said, average="macro", **weighted),
        }
    if kind == "labels":
        return {
            "map": average_precision_score(true, said, average="macro", **weighted),
            "auroc": roc_auc_score(true, said, average="macro", **weighted),
            "f1_micro": f1_score(true, said >= 0.5, average="micro", **weighted),
            "exact_match": accuracy_score(true, (said >= 0.5).astype(int), **weighted),
        }
    found = {"rmse": root_mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}
    scores = {name: float(score(true, said, **weighted)) for name, score in found.items()}
    return scores | {"rmse_size": root_mean_squared_error(true[:, 1], said[:, 1], **weighted)}


def kept(folder: Path, kind: str) -> dict[str, Any]:
    return json.loads((folder / RUNS[kind] / "baseline.json").read_text())


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_scikit_learn_computed_by_hand(kind, split, compared):
    folder, _ = compared
    own, expected = Split(folder, kind, split), by_hand(folder, kind, split)
    found = {one["name"]: one["scores"] for one in kept(folder, kind)["baselines"][split]}
    assert list(found) == list(expected)
    for name, said in expected.items():
        scores = scores_by_hand(kind, own.y, said, own.weight_N)
        if (kind, split) == ("labels", "test"):  # decided by the thresholds that validation chose
            scores = {score: scores[score] for score in ("map", "auroc")}
        assert {score: found[name][score] for score in scores} == pytest.approx(scores, rel=1e-4, abs=1e-5), name


def test_without_weights_neighbours_are_those_of_scikit_learn(project, command, compared, tmp_path):
    shutil.copytree(compared[0] / "images", tmp_path / "images")
    lines = [line.rpartition(",")[0] for line in (compared[0] / "classes.csv").read_text().splitlines()]
    (tmp_path / "classes.csv").write_text("\n".join(lines) + "\n")
    begin = ("fit", *table(tmp_path, "classes"), "--name=classes")
    assert [done.code for done in command.each(project, tmp_path, [begin, ("baseline", "--name=classes")])] == [0, 0]
    manifest = json.loads((tmp_path / RUNS["classes"] / "manifest.json").read_text())
    for samples in manifest["splits"].values():
        samples[:] = [[*sample, 1.0] for sample in samples]
    (tmp_path / "weights.json").write_text(json.dumps(manifest))
    train, val = (Split(tmp_path, "classes", split, tmp_path / "weights.json") for split in ("train", "val"))
    said = KNeighborsClassifier().fit(train.x_NF, train.y).predict(val.x_NF)
    near = next(one for one in kept(tmp_path, "classes")["baselines"]["val"] if one["name"] == "nearest neighbours")
    assert near["scores"]["accuracy"] == pytest.approx(accuracy_score(val.y, said))


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_scores_are_those_that_the_run_logged(kind, compared):
    folder, _ = compared
    network = kept(folder, kind)["network"]
    logged = rows(folder / RUNS[kind] / "metrics.csv")
    for split in ("val", "test"):
        row = next(row for row in logged if row.get(f"{split}/loss"))
        assert network[split] == pytest.approx({name: float(row[f"{split}/{name}"]) for name in network[split]}, 1e-4)


def test_the_interval_is_that_of_a_paired_bootstrap(compared):
    folder, _ = compared
    own = Split(folder, "classes", "test")
    saved = rows(folder / RUNS["classes"] / "test_predictions.csv")
    names = json.loads((folder / RUNS["classes"] / "manifest.json").read_text())["schema"]["target"]["names"]
    network_N = np.array([names.index(row["label"]) for row in saved]) == own.y
    baseline_N = by_hand(folder, "classes", "test")["logistic regression"].argmax(1) == own.y
    rng, found = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = rng.integers(len(own.y), size=len(own.y))
        found.append(np.average((network_N * 1.0 - baseline_N)[drawn], weights=own.weight_N[drawn]))
    linear = next(one for one in kept(folder, "classes")["baselines"]["test"] if one["name"] == "logistic regression")
    difference = np.average(network_N * 1.0 - baseline_N, weights=own.weight_N)
    expected = [difference, *np.quantile(found, [0.025, 0.975])]
    assert [linear[name] for name in ("difference", "low", "high")] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_is_behind_is_called_so_everywhere(kind, compared):
    folder, said = compared
    score = {"classes": "accuracy", "labels": "f1_micro", "numbers": "rmse"}[kind]
    content = kept(folder, kind)
    assert content["score"] == score
    sign = -1 if kind == "numbers" else 1
    best = max(content["baselines"]["val"], key=lambda one: sign * one["scores"][score])
    assert sign * best["difference"] < 0
    verdict = f"the network is behind {best['name']}: val/{score} "
    terminal, _, diagnosed = said[kind].partition("diagnose: ")
    assert verdict in terminal
    assert f"judged by {score}" in terminal
    assert f"{best['name']}: test/{score} " in terminal
    assert f"behind a baseline: {verdict}" in diagnosed
    assert "The samples have weights" in terminal
    if kind == "labels":
        return
    page = Page(folder / RUNS[kind] / "report.html")
    assert "Baselines" in page.titles
    assert page.text.count(verdict) == 2  # and by diagnose
    assert all(one["name"] in page.cells for one in content["baselines"]["val"])
    assert "rmse_size" not in page.cells  # of each number, in the file alone


def test_the_test_split_is_not_read_before_test_has_read_it(project, command, compared, copied):
    (copied / RUNS["classes"] / "test_predictions.csv").unlink()
    for image in Split(compared[0], "classes", "test").keys:
        (copied / "images" / image).unlink()
    done = command(project, copied, "baseline", RUNS["classes"], "--data.root", copied / "images")
    assert done.code == 0, done.output
    content = kept(copied, "classes")
    assert list(content["network"]) == list(content["baselines"]) == ["val"]
    assert content["baselines"]["val"] == kept(compared[0], "classes")["baselines"]["val"]


def test_what_is_ahead_level_or_of_an_earlier_state_is_not_called_behind(project, command, copied):
    file = copied / RUNS["classes"] / "baseline.json"
    content = kept(copied, "classes")
    named = ("--name", "classes")

    def seen(content: dict[str, Any]) -> str:
        file.write_text(json.dumps(content))
        diagnosed, _ = command.each(project, copied, [("diagnose", *named), ("report", *named)])
        assert "behind" not in diagnosed.output
        return Page(copied / RUNS["classes"] / "report.html").text

    assert "baseline.json is of an earlier state of the run" in seen({**content, "step": -1})
    best = max(content["baselines"]["val"], key=lambda one: one["scores"]["accuracy"])["name"]
    for split, difference in (("val", 0.1), ("test", 0.0)):
        content["baselines"][split] = [{**one, "difference": difference} for one in content["baselines"][split]]
    page = seen(content)
    assert f"the network is ahead of {best}: val/accuracy" in page
    assert f"the network is level with {best}: test/accuracy" in page


def test_a_file_that_is_not_as_it_was_written_is_refused(project, command, copied):
    file, whole = copied / RUNS["classes"] / "baseline.json", kept(copied, "classes")
    for content in ("[" * 100_000, "{}", json.dumps({**whole, "network": {}}), json.dumps({**whole, "score": "x"})):
        file.write_text(content)
        command.refuses(project, copied, {("diagnose", "--name", "classes"): "baseline.json cannot be read"})


def test_wrong_input_is_refused_in_one_line(project, command, copied):
    (copied / "empty/checkpoints").mkdir(parents=True)
    shutil.copy(copied / RUNS["classes"] / "config.yaml", copied / "empty")
    best = copied / RUNS["classes"] / "checkpoints/best.ckpt"
    wrong: dict[tuple[object, ...], str] = {
        ("nowhere",): "no run's folder",
        ("--name=unknown",): "no run in",
        ("empty",): "has no checkpoint",
        (RUNS["classes"], RUNS["labels"]): "names more than one run",
        (RUNS["classes"], "--ckpt_path", best): "names more than one run",
        ("--name=classes", "--data.rot=x"): "not a flag",
        ("--name=classes", "--trainer.limit_val_batches=0"): "nothing was scored",
    }
    command.refuses(project, copied, {("baseline", *args): words for args, words in wrong.items()})


def test_a_run_without_a_validation_split_is_refused_in_one_line(project, command, compared, tmp_path):
    none = ("--data.val_fraction=0", "--trainer.limit_val_batches=0", "--name=none", "--report=false")
    fitted = command(project, tmp_path, "fit", *table(compared[0], "classes"), *none)
    assert fitted.code == 0, fitted.output
    command.refuses(project, tmp_path, {("baseline", "--name=none"): "nothing"})


def test_without_its_extra_the_command_names_it(project, command, compared, tmp_path):
    for name, args in {"baseline": ["baseline"], "crossval": ["crossval", "--against=baseline"]}.items():
        script = tmp_path / f"without_{name}.py"
        start = "import sys\nsys.modules['sklearn'] = None\nfrom my_project.__main__ import main\n"
        script.write_text(f"{start}sys.exit(main({args}))\n")
        refused = command(project, tmp_path, "-m", script).refusal
        assert "[baseline]" in refused
        assert "sklearn" in refused


def test_of_very_many_samples_a_part_is_taken_and_that_is_said(project, command, copied):
    script = copied / "few.py"
    script.write_text(
        textwrap.dedent("""\
        import sys
        from my_project.tools import _baseline_models as models
        from my_project.__main__ import main
        models.BASELINES["linear"] = models.BASELINES["linear"]._replace(most=lambda columns, outputs: 30)
        sys.exit(main(["baseline", "--name", "classes"]))
        """)
    )
    before = {one["name"]: one for one in kept(copied, "classes")["baselines"]["val"]}
    done = command(project, copied, "-m", script)
    assert done.code == 0, done.output
    size = len(Split(copied, "classes", "train").keys)
    found = re.search(rf"logistic regression: fitted on (\d+) of {size} training images", done.output)
    assert found is not None
    assert abs(int(found[1]) - 30) <= 2  # each class has its share
    after = {one["name"]: one for one in kept(copied, "classes")["baselines"]["val"]}
    assert after["nearest neighbours"] == before["nearest neighbours"]
    assert after["majority class"] == before["majority class"]


def test_crossval_compares_with_baselines_that_were_trained_on_the_same_folds(project, command, compared, tmp_path):
    folder, _ = compared
    flags = ("crossval", "--folds=3", *table(folder, "numbers"), "--name=numbers", "--trainer.logger=false")
    done = command(project, tmp_path, *flags, "--against", "baseline")
    assert done.code == 0, done.output
    results = tmp_path / "runs/numbers/folds_3/against_baseline"
    scored = {(row["variant"], row["run"]): row for row in rows(results / "runs.csv")}
    assert len(scored) == 4 * 3
    ridge, network = [], []
    for fold in ("fold_1", "fold_2", "fold_3"):
        manifest = tmp_path / f"runs/numbers/folds_3/{fold}/version_0/manifest.json"
        held_out = Split(folder, "numbers", "val", manifest)
        said = by_hand(folder, "numbers", "val", manifest)["ridge regression"]
        ridge.append(root_mean_squared_error(held_out.y, said, sample_weight=held_out.weight_N))
        assert float(scored["ridge regression", fold]["val/rmse"]) == pytest.approx(ridge[-1], 1e-4)
        assert scored["ridge regression", fold]["val/loss"] == ""
        network.append(float(scored["this", fold]["val/rmse"]))
    difference = np.array(ridge) - np.array(network)
    t = difference.mean() / (difference.std(ddof=1) * np.sqrt(1 / 3 + 1 / 2))
    comparison = {(row["metric"], row["baseline"]): row for row in rows(results / "comparison.csv")}
    row = comparison["val/rmse", "ridge regression"]
    assert float(row["mean"]) == pytest.approx(difference.mean(), 1e-4)
    assert float(row["p"]) == pytest.approx(2 * stats.t.sf(abs(t), 2), 1e-2)
    assert ("val/loss", "ridge regression") not in comparison
    assert "Differences: baseline − this" in done.output

    file = tmp_path / "runs/numbers/folds_3/fold_1/version_0/baseline.json"
    before = file.stat().st_mtime_ns
    again = command(project, tmp_path, *flags, "--against", "baseline")
    assert again.code == 0, again.output
    assert file.stat().st_mtime_ns == before
    assert rows(results / "runs.csv") == [*scored.values()]


TABLES = """
import types

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from my_project.engine.loading import Plain, SplitData
from my_project.engine.targets import Classes, Labels, Numbers
from my_project.tools._baselines import fitted

rng = np.random.default_rng(0)
x_NF = np.column_stack([rng.normal(size=(400, 2)), rng.integers(0, 4, 400), rng.integers(0, 300, 400)])
x_NF[::7, 0] = np.nan
x_NF[300:, 2] = 9  # which training has not
is_category_F = np.array([False, False, True, True])
seen, new = x_NF[:300], x_NF[300:]
logit_N = np.nan_to_num(x_NF[:, 0]) + x_NF[:, 2] % 4
weight_N = rng.uniform(0, 2, 300)
weight_N[::10] = 0
counts = weight_N > 0
share_N = weight_N[counts] / weight_N[counts].mean()
targets = {
    "classes": (Classes(["a", "b", "c"]), np.digitize(logit_N, [1, 2])),
    "labels": (Labels(["a", "b"]), np.stack([logit_N > 1, np.zeros(400)], axis=1).astype(np.uint8)),
    "numbers": (Numbers(["a"], True), np.exp(logit_N[:, None])),
}
numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
categories = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100)
prepared = make_column_transformer((numbers, [0, 1]), (categories, [2, 3]))
hand_NF = prepared.fit_transform(seen[counts])
codes = [2] if len(np.unique(seen[counts, 3])) > 255 else [2, 3]

for kind, (target, y) in targets.items():
    data = types.SimpleNamespace(
        target=target,
        train_keys=[str(row) for row in range(300)],
        train_targets=y[:300],
        train_weights=weight_N,
        baselines=SplitData.baselines,
        noun="rows",
        seed=3,
        plain=lambda keys: Plain(x_NF[[int(key) for key in keys]], is_category_F),
    )
    predicts, remarks = fitted(data)
    assert not remarks
    constant, linear, trees = predicts.values()
    said = {"constant": constant(new), "linear": linear(new), "trees": trees(new)}
    assert all(values.shape == (100, len(target.names)) for values in said.values())
    options = {"categorical_features": codes, "random_state": 3}
    y_N = y[:300][counts] if kind == "classes" else y[:300][counts, 0]
    if kind == "numbers":
        assert np.allclose(said["constant"], np.exp(np.average(np.log(y_N), weights=share_N)))
        ridge = RidgeCV(np.logspace(-3, 4, 15)).fit(hand_NF, np.log(y_N), sample_weight=share_N)
        boosted = HistGradientBoostingRegressor(**options).fit(seen[counts], np.log(y_N), sample_weight=share_N)
        expected = [np.exp(ridge.predict(prepared.transform(new))), np.exp(boosted.predict(new))]
        found = [said["linear"][:, 0], said["trees"][:, 0]]
    else:
        logistic = LogisticRegression(max_iter=500).fit(hand_NF, y_N, sample_weight=share_N)
        boosted = HistGradientBoostingClassifier(**options).fit(seen[counts], y_N, sample_weight=share_N)
        expected = [logistic.predict_proba(prepared.transform(new)), boosted.predict_proba(new)]
        found = [said["linear"], said["trees"]]
        if kind == "labels":
            assert (said["linear"][:, 1] == 0).all()  # a label that training never has
            expected, found = [each[:, 1] for each in expected], [each[:, 0] for each in found]
    for one, other in zip(expected, found, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-6), kind
print("ALL AS BY HAND")
"""


def test_of_tables_missing_numbers_and_categories_are_handled_as_by_hand(project, command, tmp_path):
    (tmp_path / "tables.py").write_text(TABLES)
    done = command(project, tmp_path, "-m", tmp_path / "tables.py")
    assert "ALL AS BY HAND" in done.output, done.output
