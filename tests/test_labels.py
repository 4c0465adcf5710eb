"""Labels from a table, as they are typed: classes, several labels, numbers, from the table to a submission."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import OTHER_TASKS, of_task, rows
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from sklearn import metrics
from sklearn.datasets import load_digits

SMALL = ("--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.logger=false", "--report=false")


def write_table(path: Path, header: Sequence[str], lines: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def config_of(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())["data"]


BREEDS = ("beagle", "boxer", "pug")


def draw_dog(path: Path, breed: int, number: int) -> None:
    pixels = np.random.default_rng([breed, number]).integers(0, 90, (12, 14, 3), dtype=np.uint8)
    pixels[..., breed] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def dogs(tmp_path_factory) -> Path:
    """As Kaggle has it: train.csv beside train/ with ids without suffix, test/, and two sample submissions."""
    folder = tmp_path_factory.mktemp("kaggle") / "dogs"
    lines = []
    for number in range(60):
        draw_dog(folder / f"train/{number:03x}.png", number % 3, number)
        lines.append([f"{number:03x}", BREEDS[number % 3]])
    write_table(folder / "train.csv", ["id", "breed"], lines)
    asked = []
    for number in (5, 3, 4, 0, 2, 1):
        draw_dog(folder / f"test/t{number}.png", number % 3, 100 + number)
        asked.append(f"t{number}")
    write_table(folder / "sample_submission.csv", ["id", "breed"], [[name, "pug"] for name in asked])
    header = ["id", "pug", "beagle", "boxer"]
    write_table(folder / "probabilities.csv", header, [[name, 0.33, 0.33, 0.34] for name in asked])
    return folder


def test_a_folder_of_kaggles_goes_from_its_table_to_a_submission(dogs, project, command, tmp_path):
    flags = ("--data.labels", dogs / "train.csv", "--data.root", dogs, "--data.batch_size=8", *SMALL)
    done = command(project, tmp_path, "fit", *flags, "--model.network.width=8", "--trainer.max_epochs=6")
    assert done.code == 0, done.output
    assert "labels: " in done.output
    assert "3 classes by breed" in done.output
    run = tmp_path / "runs/digits/version_0"
    data = config_of(run)
    assert (data["task"], data["image_column"], data["label_columns"]) == ("multiclass", "id", ["breed"])
    assert Path(data["labels"]) == dogs / "train.csv"
    for sample in ("sample_submission.csv", "probabilities.csv"):
        said = command(project, tmp_path, "predict", "--data.predict_root", dogs / "test", "--like", dogs / sample)
        assert said.code == 0, said.output
        asked, written = rows(dogs / sample), rows(run / "submission.csv")
        assert [list(row) for row in written] == [list(row) for row in asked]
        assert [row["id"] for row in written] == [row["id"] for row in asked]
        if sample == "sample_submission.csv":
            assert [row["breed"] for row in written] == [BREEDS[int(row["id"][1]) % 3] for row in written]
        else:
            shares = np.array([[float(row[name]) for name in BREEDS] for row in written])
            assert shares.sum(1) == pytest.approx(1, abs=1e-6)
            assert shares.argmax(1).tolist() == [int(row["id"][1]) % 3 for row in written]


def test_a_submission_that_cannot_be_filled_is_refused_before_anything_is_predicted(dogs, project, command, tmp_path):
    flags = ("--data.labels", dogs / "train.csv", "--data.root", dogs, "--data.batch_size=8", *SMALL)
    done = command(project, tmp_path, "fit", *flags, "--model.network.width=8", "--trainer.max_epochs=1")
    assert done.code == 0, done.output
    more = write_table(tmp_path / "more.csv", ["id", "breed"], [["t0", ""], ["t1", ""], ["t2", ""], ["missing", ""]])
    of_cats = write_table(tmp_path / "cats.csv", ["id", "siamese", "persian"], [["t0", 0, 0]])
    predict = ("predict", "--data.predict_root", dogs / "test", "--like")
    command.refuses(
        project, tmp_path, {(*predict, more): "'missing', was not predicted", (*predict, of_cats): "siamese"}
    )
    run = tmp_path / "runs/digits/version_0"
    assert not [path for path in run.iterdir() if path.name in ("predictions.csv", "submission.csv")]


def test_a_refused_table_leaves_its_offenders_and_nothing_else(dogs, project, command, tmp_path):
    lines = [[f"{number:03x}", BREEDS[number % 3]] for number in range(60)]
    lines += [["000", "boxer"], ["nowhere", "pug"], ["001", "boxer"], ["005", ""]]
    table = write_table(tmp_path / "wrong.csv", ["id", "breed"], lines)
    flags = ("fit", "--data.labels", table, "--data.root", dogs / "train", *SMALL)
    [done] = command.refuses(project, tmp_path, {flags: "has 4 rows that cannot be used"})
    assert "wrong_offenders.csv" in done.refusal
    offenders = rows(tmp_path / "wrong_offenders.csv")
    assert {int(row["row"]) for row in offenders} >= {62, 63, 65}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.csv", "wrong_offenders.csv"]


def test_the_ink_of_a_digit_is_learned_to_a_rounding(project, command, tmp_path):
    lines = []
    for number, image in enumerate(load_digits()["images"]):  # pyright: ignore[reportArgumentType, reportCallIssue]
        pixels = (image * 15.9375).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:04d}.png")
        lines.append([f"{number:04d}.png", f"{pixels.mean():.4f}"])
    table = write_table(tmp_path / "ink.csv", ["image", "ink"], lines)
    network = ("--model.network=SmallMLP", "--model.network.depth=0")  # the mean of pixels is linear
    done = command(project, tmp_path, "fit", "--data.labels", table, *network, *SMALL, "--name=ink")
    assert done.code == 0, done.output
    assert "regression: --data.augment none" in done.output
    tested = command(project, tmp_path, "test", "--name=ink")
    assert tested.code == 0, tested.output
    predicted = rows(tmp_path / "runs/ink/version_0/test_predictions.csv")
    assert list(predicted[0]) == ["path", "true_ink", "ink"]
    true, said = (np.array([float(row[name]) for row in predicted]) for name in ("true_ink", "ink"))
    assert metrics.r2_score(true, said) > 0.999


def test_an_angle_is_learned_as_two_numbers(project, command, tmp_path):
    lines, rng = [], np.random.default_rng(0)
    for number in range(1200):
        angle = rng.uniform(0, 2 * np.pi)
        picture = Image.new("L", (96, 96))
        tip, left, right = (
            tuple(48 + length * np.array([np.cos(angle + turn), -np.sin(angle + turn)]))
            for length, turn in ((40, 0.0), (28, 2.5), (28, -2.5))
        )
        ImageDraw.Draw(picture).polygon([tip, left, right], fill=255)
        picture.resize((16, 16), Image.Resampling.BOX).save(tmp_path / f"{number:04d}.png")
        lines.append([f"{number:04d}", f"{np.sin(angle):.6f}", f"{np.cos(angle):.6f}"])
    table = write_table(tmp_path / "angle.csv", ["picture", "sine", "cosine"], lines)
    flags = ("--data.labels", table, "--model.network=SmallMLP", "--data.batch_size=32", "--trainer.max_epochs=40")
    done = command(project, tmp_path, "fit", *flags, *SMALL, "--name=angle")
    assert done.code == 0, done.output
    assert "2 numbers by sine, cosine" in done.output
    tested = command(project, tmp_path, "test", "--name=angle")
    assert tested.code == 0, tested.output
    predicted = rows(tmp_path / "runs/angle/version_0/test_predictions.csv")
    true, said = (
        np.arctan2(*np.array([[float(row[f"{prefix}{name}"]) for name in ("sine", "cosine")] for row in predicted]).T)
        for prefix in ("true_", "")
    )
    error = np.abs((said - true + np.pi) % (2 * np.pi) - np.pi)
    assert np.degrees(error).mean() <= 3


SHAPES = ("disc", "square", "triangle", "cross", "bar", "ring")


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int) -> None:
    box = (x - r, y - r, x + r, y + r)
    if shape == "disc":
        pen.ellipse(box, fill=255)
    elif shape == "square":
        pen.rectangle(box, fill=255)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=255)
    elif shape == "ring":
        pen.ellipse(box, outline=255, width=2)
    else:
        lines = [(x - r, y, x + r, y)] if shape == "bar" else [box, (x - r, y + r, x + r, y - r)]
        for line in lines:
            pen.line(line, fill=255, width=2)


def test_the_shapes_in_an_image_are_told_also_a_rare_one(project, command, tmp_path):
    """Of six shapes an image has up to five, at random places and sizes; a ring has one of fifty."""
    lines, rng = [], np.random.default_rng(0)
    for number in range(3000):
        has_K = rng.random(6) < [0.4] * 5 + [0.02]
        has_K[0] &= has_K.sum() < 6
        picture = Image.new("L", (32, 32))
        for shape in rng.permutation(np.flatnonzero(has_K)):
            radius = int(rng.integers(3, 6))
            x, y = rng.integers(radius + 1, 31 - radius, 2).tolist()
            draw_shape(ImageDraw.Draw(picture), SHAPES[shape], x, y, radius)
        picture.save(tmp_path / f"{number:04d}.png")
        lines.append([f"{number:04d}.png", *has_K.astype(int)])
    table = write_table(tmp_path / "shapes.csv", ["image", *SHAPES], lines)
    model = ("--model.network.width=16", "--model.optimizer.lr=0.005", "--model.optimizer.weight_decay=0.05")
    flags = (
        "--data.labels",
        table,
        "--data.test_fraction=0.25",
        "--data.balance=sampler",
        "--data.augment=none",
        *model,
    )
    done = command(project, tmp_path, "fit", *flags, *SMALL, "--trainer.max_epochs=15", "--name=shapes")
    assert done.code == 0, done.output
    assert "6 labels, several an image, by disc, square, triangle, cross" in done.output
    tested = command(project, tmp_path, "test", "--name=shapes")
    assert tested.code == 0, tested.output
    predicted = rows(tmp_path / "runs/shapes/version_0/test_predictions.csv")
    true_NK = np.array([[name in row["target"].split(";") for name in SHAPES] for row in predicted])
    share_NK = np.array([[float(row[name]) for name in SHAPES] for row in predicted])
    precision_K = [metrics.average_precision_score(*both) for both in zip(true_NK.T, share_NK.T, strict=True)]
    assert np.mean(precision_K) >= 0.99
    assert precision_K[-1] >= 0.95


def expected_scores(task: str, table: list[dict[str, str]], weight: list[float]) -> dict[str, float]:
    """Return what scikit-learn says of a test's predictions."""
    columns = list(table[0])
    if task == "multilabel":
        names = columns[3:]
        true = np.array([[name in row["target"].split(";") for name in names] for row in table])
        said = np.array([[name in row["labels"].split(";") for name in names] for row in table])
        shares = np.array([[float(row[name]) for name in names] for row in table])
        return {
            "map": metrics.average_precision_score(true, shares, sample_weight=weight),
            "auroc": metrics.roc_auc_score(true, shares, sample_weight=weight),
            "f1_macro": metrics.f1_score(true, said, average="macro", sample_weight=weight),
            "f1_micro": metrics.f1_score(true, said, average="micro", sample_weight=weight),
            "exact_match": metrics.accuracy_score(true, said, sample_weight=weight),
        }
    names = columns[1 + len(columns) // 2 :]
    true, said = (np.array([[float(row[p + name]) for name in names] for row in table]) for p in ("true_", ""))
    scores = {}
    for name, true_N, said_N in zip(names, true.T, said.T, strict=True):
        scores[f"rmse_{name}"] = metrics.root_mean_squared_error(true_N, said_N, sample_weight=weight)
        scores[f"mae_{name}"] = metrics.mean_absolute_error(true_N, said_N, sample_weight=weight)
        scores[f"r2_{name}"] = metrics.r2_score(true_N, said_N, sample_weight=weight)
        if len(set(weight)) == 1:
            scores[f"spearman_{name}"] = float(np.asarray(spearmanr(true_N, said_N))[0])
    for score in ("rmse", "mae", "r2"):
        scores[score] = float(np.mean([scores[f"{score}_{name}"] for name in names]))
    return scores


@pytest.mark.parametrize("weighted", ["", "_weighted"])
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_a_test_on_one_two_and_three_ranks_equals_scikit_learn(task, weighted, targets, project, command, tmp_path):
    done = command(project, tmp_path, "fit", *of_task(targets, f"{task}{weighted}"), "--report=false")
    assert done.code == 0, done.output
    run = tmp_path / "runs/digits/version_0"
    for ranks in (1, 2, 3):
        ddp = (f"--trainer.devices={ranks}", "--trainer.strategy=ddp") if ranks > 1 else ()
        tested = command(project, tmp_path, "test", *ddp, ranks=ranks)
        assert tested.code == 0, tested.output
        table = rows(run / "test_predictions.csv")
        weight = [2.0 if weighted and int(Path(row["path"]).stem) % 3 == 0 else 1.0 for row in table]
        assert len({row["path"] for row in table}) == len(table) == 10
        logged = rows(run / "metrics.csv")[-1]
        for name, value in expected_scores(task, table, weight).items():
            assert float(logged[f"test/{name}"]) == pytest.approx(value, rel=1e-6, abs=1e-6), (ranks, name)


def test_images_outside_of_the_root_are_read_only_where_each_command_is_told_to(dogs, project, command, tmp_path):
    (tmp_path / "tables").mkdir()
    lines = [[f"../dogs/train/{number:03x}.png", BREEDS[number % 3]] for number in range(60)]
    write_table(tmp_path / "tables/train.csv", ["image", "breed"], lines)
    (tmp_path / "dogs").symlink_to(dogs)
    flags = ("--data.labels=tables/train.csv", "--data.root=tables", "--data.batch_size=8", *SMALL)
    begin = ("fit", *flags, "--model.network.width=8", "--trainer.max_epochs=1")
    command.refuses(project, tmp_path, {begin: "--data.outside true"})
    done = command(project, tmp_path, *begin, "--data.outside=true")
    assert done.code == 0, done.output
    command.refuses(project, tmp_path, {("test",): "--data.outside true allows"})
    tested = command(project, tmp_path, "test", "--data.outside=true")
    assert tested.code == 0, tested.output


def test_a_killed_run_on_a_table_goes_on_by_the_same_command(dogs, project, command, tmp_path):
    flags = ("--data.labels", dogs / "train.csv", "--data.root", dogs, "--data.batch_size=8", *SMALL)
    flags = ("fit", *flags, "--model.network.width=8", "--trainer.max_epochs=3", "--resume=auto")
    killed = command(project, tmp_path, *flags, environment={"SABOTAGE": "kill 100"})
    assert killed.code == -9, killed.output
    again = command(project, tmp_path, *flags)
    assert again.code == 0, again.output
    assert [path.name for path in (tmp_path / "runs/digits").iterdir()] == ["version_0"]


def test_what_contradicts_a_run_or_a_manifest_is_refused(dogs, project, command, tmp_path):
    begin = (
        "fit",
        "--data.root",
        dogs,
        "--data.batch_size=8",
        *SMALL,
        "--model.network.width=8",
        "--trainer.max_epochs=1",
    )
    done = command(project, tmp_path, *begin, "--data.labels", dogs / "train.csv")
    assert done.code == 0, done.output
    lines = rows(dogs / "train.csv")
    other = [[row["id"], "pug" if number == 7 else row["breed"]] for number, row in enumerate(lines)]
    changed = write_table(tmp_path / "changed.csv", ["id", "breed"], other)
    numbers = write_table(tmp_path / "n.csv", ["id", "age"], [[row["id"], i + 0.5] for i, row in enumerate(lines)])
    manifest = f"--data.manifest={tmp_path}/runs/digits/version_0/manifest.json"
    wrong = {
        (*begin, "--data.labels", changed, manifest): "has other images, targets or weights than --data.labels",
        (*begin, "--data.labels", numbers, manifest): "has other images, targets or weights than --data.labels",
        (*begin, "--data.group_column=patient"): "--data.group_column=patient is of a table",
        ("test", "--data.labels", changed): "--data.labels would change nothing",
        ("test", "--data.weight_column=w"): "--data.weight_column would change nothing",
        ("test", "--data.task=regression"): "--data.task=regression is not that of",
    }
    command.refuses(project, tmp_path, wrong)
    same = command(project, tmp_path, *begin, "--data.labels", dogs / "train.csv", manifest, "--name=again")
    assert same.code == 0, same.output


MISTAKES = {
    ("--data.task=regression",): "'breed'",
    ("--data.label_columns=[race]",): "race",
    ("--data.image_column=name",): "name",
    (
        "--model.loss=MSE",
    ): "--model.loss=MSE: no class of this name is known, or it is of another kind (a loss of numbers",
    ("--data.log_target=true",): "--data.log_target=true",
    ("--data.task=boxes",): "--data.task=boxes",
}


def test_flags_that_do_not_fit_the_table_are_refused_in_one_line(dogs, project, command, tmp_path):
    begin = ("fit", "--data.labels", dogs / "train.csv", "--data.root", dogs, *SMALL)
    command.refuses(project, tmp_path, {(*begin, *flags): words for flags, words in MISTAKES.items()})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_what_needs_classes_is_refused_for_other_targets(task, targets, project, command, tmp_path):
    begin = ("fit", *of_task(targets, task), "--report=false")
    words = {"multilabel": "a second label would count against the first", "regression": "the targets are numbers"}
    wrong = {(*begin, f"--model.loss={loss}"): words[task] for loss in ("LogitAdjusted", "CrossEntropy")}
    if task == "regression":
        wrong[(*begin, "--data.balance=class_weights")] = "--data.balance=class_weights weighs classes"
        wrong[(*begin, "--trainer.precision=bf16-true")] = "three digits"
    command.refuses(project, tmp_path, wrong)
