"""What is fitted is fitted on training rows alone; what is made of rows is said and counted."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, TARGETS, draw, flags_of
from suites import ready

from project_package.data import TableData
from project_package.engine import builtin_tables
from project_package.engine.mistakes import Mistake
from project_package.engine.oversampling import oversampled
from project_package.engine.splits import Manifest
from project_package.model import Classifier, Regressor

RUN = Path("runs/small/version_0")
OTHERS = [name for task, names in TARGETS.items() for name in names]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return file


def data_of(file: Path, target: str = "price", **options) -> TableData:
    drop = [name for name in OTHERS if name != target]
    return TableData(str(file), target=target, drop=drop, batch_size=16, **options)


def model_of(data: TableData) -> Regressor:
    model = Regressor()
    model.schema = data.schema
    model.build_for(data)
    return model


def fitted(data: TableData) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return all that a run fits before its first step: the schema, and every tensor of the untrained model."""
    return data.schema.as_dict(), dict(model_of(data).state_dict())


def test_no_row_outside_of_training_can_change_what_is_fitted(goods, tmp_path):
    rows = rows_of(goods)
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "train", "val", "test")[number % 5]
    before = fitted(ready(data_of(write(tmp_path / "before.csv", rows))))
    for row in rows:
        if row["split"] != "train":  # another range, a missing cell, a new category, a huge target
            row |= {"length": "99999", "mass": "", "colour": "purple", "shop": "shop 99", "price": "1000000"}
    after = fitted(ready(data_of(write(tmp_path / "after.csv", rows))))
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, value in before[1].items():
        assert torch.equal(value, after[1][name]), name


def test_a_training_row_changes_it(goods, tmp_path):
    rows = rows_of(goods)
    for row in rows:
        row["split"] = "train"
    rows[0]["split"], rows[1]["split"] = "val", "test"
    before = fitted(ready(data_of(write(tmp_path / "before.csv", rows))))
    rows[5] |= {"length": "99999", "colour": "purple"}
    after = fitted(ready(data_of(write(tmp_path / "after.csv", rows))))
    assert before[0] != after[0]
    assert not torch.equal(before[1]["encoding.scale.factor_F"], after[1]["encoding.scale.factor_F"])


def test_rows_without_weight_are_not_fitted_on(goods, tmp_path):
    rows = [{**row, "weight": "1", "split": "train"} for row in rows_of(goods)]
    rows[0]["split"], rows[1]["split"] = "val", "test"
    plain = fitted(ready(data_of(write(tmp_path / "plain.csv", rows), weight="weight")))
    more = [*rows, {**rows[2], "length": "99999", "weight": "0"}]
    weighted = fitted(ready(data_of(write(tmp_path / "more.csv", more), weight="weight")))
    for name in ("encoding.scale.centre_F", "encoding.scale.factor_F", "encoding.median_F"):
        assert torch.equal(plain[1][name], weighted[1][name]), name


def test_a_column_that_is_the_same_in_training_is_not_learned_from_and_named(goods, tmp_path):
    rows = [{**row, "same": "7", "split": "train"} for row in rows_of(goods)]
    rows[0] |= {"same": "8", "split": "val"}
    rows[1]["split"] = "test"
    data = ready(data_of(write(tmp_path / "same.csv", rows)))
    assert "same" not in data.columns.numbers
    assert "same is 7 in all training rows, so it tells nothing and is not learned from" in data.summary()


def test_a_category_that_training_has_not_seen_is_unknown_and_others_are_told_apart(goods):
    data = ready(data_of(goods))
    codes_N = data.x_NF[:, 2]
    assert set(codes_N.tolist()) == {1, 2, 3}
    assert data.columns.categories["colour"] == sorted(COLOURS)


def test_the_test_refuses_a_table_whose_rows_have_moved(run, goods, tmp_path, capfd):
    moved = tmp_path / "moved.csv"
    moved.write_text(goods.read_text())
    assert run("fit", f"--data.table={moved}") == 0
    header, first, *rest = goods.read_text().splitlines()
    moved.write_text("\n".join([header, *rest, first]) + "\n")
    assert run("test", f"--data.table={moved}") == 2
    assert "has other rows, targets or weights than the manifest" in capfd.readouterr().err
    assert not (RUN / "test_predictions.csv").exists()


def test_new_rows_are_predicted_whatever_the_order_of_their_columns(run, trained, goods, tmp_path, capfd):
    rows = rows_of(goods)[:7]
    new = [{"shop": row["shop"], "mass": row["mass"], "colour": row["colour"], "length": row["length"]} for row in rows]
    new[3]["colour"] = "purple"
    assert run("predict", f"--data.predict_table={write(tmp_path / 'new.csv', new)}") == 0
    said = capfd.readouterr().out
    assert "colour" in said
    assert "purple" in said
    found = rows_of(RUN / "predictions.csv")
    assert [row["row"] for row in found] == [str(number) for number in range(7)]
    assert {row["label"] for row in found} <= {"small", "middle", "large"}
    model = Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt").eval()
    data = ready(TableData(str(goods), target="size", drop=[name for name in OTHERS if name != "size"], batch_size=16))
    with torch.no_grad():
        expected_NK = model.predict(data.x_NF[:3])
    names = model.schema.target.names
    given_NK = [[float(row[name]) for name in names] for row in found[:3]]
    np.testing.assert_allclose(given_NK, expected_NK.numpy(), atol=1e-6)


def test_each_fold_fits_its_own_scales(goods):
    from project_package.engine.splits import folds, rows_of_folds

    data = ready(data_of(goods))
    keys, _ = rows_of_folds(data.manifest)
    drawn = folds(data.manifest, 3, 0, data.groups(keys))
    medians = set()
    for number, manifest in enumerate(drawn):
        manifest.save(f"fold_{number}.json")
        of_fold = ready(data_of(goods, manifest=f"fold_{number}.json"))
        model = model_of(of_fold)
        rows_N = [int(key) for key in manifest.splits["train"][0]]
        length_N = np.array([float(row["length"]) for row in rows_of(goods)])[rows_N]
        assert model.encoding.median_F[0].item() == pytest.approx(np.median(length_N), rel=1e-6)
        medians.add(model.encoding.median_F[0].item())
    assert len(medians) > 1


def test_smote_makes_rows_of_rare_classes_between_their_neighbours_in_training_alone(goods, tmp_path):
    pytest.importorskip("imblearn")
    rows = rows_of(goods)
    for row in rows:
        row["rare"] = "yes" if float(row["length"]) > 39 else "no"
    file = write(tmp_path / "rare.csv", rows)
    plain = ready(TableData(str(file), target="rare", drop=OTHERS, batch_size=16))
    data = ready(TableData(str(file), target="rare", drop=OTHERS, batch_size=16, balance="smote"))
    assert plain.manifest.has_splits_of(data.manifest)
    counts_K = np.bincount(data.train_targets)
    assert counts_K[0] == counts_K[1]
    known = len(plain.train_keys)
    assert torch.equal(data.train.x_NF[:known].nan_to_num(), plain.x_NF[plain.train.rows_N].nan_to_num())
    made_NF, is_rare_N = data.train.x_NF[known:], plain.train_targets == 1
    rare_NF = data.train.x_NF[:known][torch.from_numpy(is_rare_N)]
    assert (made_NF[:, 0] >= rare_NF[:, 0].min()).all()
    assert (made_NF[:, 0] <= rare_NF[:, 0].max()).all()
    assert set(made_NF[:, 2].tolist()) <= set(rare_NF[:, 2].tolist())
    assert len(data.val_dataloader().dataset) == len(plain.val_dataloader().dataset)
    for name in ("scale.centre_F", "median_F"):  # fitted on the rows of the table
        options = {"seen_NF": plain.training_inputs}
        assert torch.equal(
            _encoding(data, data.training_inputs).state_dict()[name], _encoding(plain, **options).state_dict()[name]
        )


def _encoding(data: TableData, seen_NF: torch.Tensor | None) -> torch.nn.Module:
    from project_package.engine.encoding import Encoding

    return Encoding(data.columns, "robust", seen_NF)


@pytest.mark.parametrize(("numbers", "columns"), [(2, 2), (1, 3), (0, 2)])
def test_smote_takes_numbers_alone_both_kinds_and_categories_alone(numbers, columns):
    pytest.importorskip("imblearn")
    rng = np.random.default_rng(0)
    x_NF = np.column_stack([rng.normal(size=(40, numbers)), rng.integers(1, 4, (40, columns - numbers))])
    x_NF = x_NF.astype(np.float32)
    target_N = (np.arange(40) < 4).astype(int)
    x_MF, target_M = oversampled(x_NF, target_N, numbers, ["no", "yes"], 0)
    assert np.bincount(target_M).tolist() == [36, 36]
    assert np.array_equal(x_MF[:40], x_NF)
    assert np.isin(x_MF[:, numbers:], [1, 2, 3]).all()


def test_smote_refuses_a_class_of_a_single_row_and_weights(goods, tmp_path):
    pytest.importorskip("imblearn")
    with pytest.raises(Mistake, match="class 'yes' has a single training row"):
        oversampled(np.zeros((5, 1), np.float32), np.array([0, 0, 0, 0, 1]), 1, ["no", "yes"], 0)
    rows = [{**row, "weight": "2"} for row in rows_of(goods)]
    data = TableData(
        str(write(tmp_path / "w.csv", rows)), target="size", drop=OTHERS[1:], weight="weight", batch_size=16
    )
    data.correction = "smote"
    with pytest.raises(Mistake, match="makes rows without a weight"):
        ready(data)


def test_smote_of_numbers_is_refused_and_named(goods):
    with pytest.raises(Mistake, match=r"--data\.balance=smote weighs classes"):
        ready(data_of(goods, balance="smote"))


def test_a_table_of_no_column_that_differs_is_refused(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text("a,target\n" + "1,yes\n1,no\n" * 20)
    with pytest.raises(Mistake):
        ready(TableData(str(file), batch_size=4))


def test_the_housing_data_come_from_what_scikit_learn_downloads(tmp_path, monkeypatch):
    """By scikit-learn's own code, from a small archive of the same form."""
    pytest.importorskip("sklearn")
    import hashlib
    import io
    import tarfile

    from sklearn.datasets import _california_housing as source

    lines = [f"-122.2{i},37.8{i},{20 + i},{800 + i},{120 + i},{300 + i},{110 + i},8.3,{250000 + i}" for i in range(9)]
    content = ("\n".join(lines) + "\n").encode()
    archive = tmp_path / "cal_housing.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("CaliforniaHousing/cal_housing.data")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    known = {"url": archive.as_uri(), "checksum": hashlib.sha256(archive.read_bytes()).hexdigest()}
    monkeypatch.setattr(source, "ARCHIVE", source.ARCHIVE._replace(**known))
    file = builtin_tables.built_in("california")
    rows = rows_of(file)
    assert len(rows) == 9
    assert float(rows[3]["median_house_value"]) == 250003
    assert float(rows[3]["latitude"]) == pytest.approx(37.83)
    assert rows[3]["average_rooms"] == f"{803 / 113:.12g}"


def test_without_a_network_the_housing_data_say_so(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    from sklearn.datasets import _california_housing as source

    monkeypatch.setattr(source, "ARCHIVE", source.ARCHIVE._replace(url=(tmp_path / "gone").as_uri()))
    with pytest.raises(Mistake, match=r"could not be downloaded .*connect to a network for the first run"):
        builtin_tables.built_in("california")
    assert not Path("data/california.csv").exists()


def test_without_scikit_learn_the_housing_data_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(Mistake, match=r"--data\.table=california needs scikit-learn, which is not installed"):
        builtin_tables.built_in("california")


def test_the_patients_are_those_of_scikit_learn():
    data = pytest.importorskip("sklearn.datasets").load_diabetes(scaled=False)
    rows = rows_of(builtin_tables.built_in("diabetes"))
    wanted = np.column_stack([data.data, data.target])
    assert [list(row.values()) for row in rows] == [[f"{value:.12g}" for value in row] for row in wanted]
    assert [name for name in rows[0] if name in data.feature_names] == ["age", "sex", "bmi"]


def test_the_built_in_table_is_written_once_and_has_its_target(run):
    assert run("fit", "--data.table=diabetes", "--data.target=null", "--data.drop=null") == 0
    manifest = Manifest.load(RUN / "manifest.json")
    assert manifest.target.names == ["progression"]
    assert json.loads(json.dumps(manifest.schema.inputs))["numbers"][:2] == ["age", "sex"]
    assert len(rows_of(Path("data/diabetes.csv"))) == 442


def test_a_bad_table_is_refused_in_one_line_and_leaves_nothing(run, tmp_path, capfd):
    bad = draw(tmp_path / "bad.csv")
    bad.write_text(bad.read_text().replace("red", "red,too much", 1))
    assert run("fit", f"--data.table={bad}") == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("task", TARGETS)
def test_each_task_runs_from_training_to_predictions(run, goods, task, capfd):
    assert run("fit", task=task) == 0
    assert run("test") == 0
    assert run("predict", f"--data.predict_table={goods}") == 0
    predicted = rows_of(RUN / "predictions.csv")
    assert len(predicted) == 120
    assert len(rows_of(RUN / "test_predictions.csv")) == 18
    assert flags_of(task)[0].removeprefix("--data.target=") in str(TARGETS[task]).replace("'", "")


def test_the_same_command_goes_on_with_a_killed_run_to_the_same_weights(run, monkeypatch):
    # A name for a list of one, and a part of the columns that are left out: the run's config has them all.
    flags = ("--data.target=size", f"--data.drop=[{', '.join(name for name in OTHERS if name != 'size')}]")
    flags += ("--model.swap_noise=0.2", "--model.mixup=0.2", "--model.network.dropout=0.1", "--trainer.max_epochs=2")
    assert run("fit", *flags, "--name=whole") == 0
    step = Classifier.training_step

    def failing(self, batch, batch_idx):
        if self.trainer.global_step == 7:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run("fit", *flags, "--callbacks.last.every_n_train_steps=3")
    assert (RUN / "unfinished.lock").is_file()
    assert run("fit", *flags, "--callbacks.last.every_n_train_steps=3", "--resume=auto") == 0
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    whole, resumed = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (Path("runs/whole/version_0"), RUN)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_does_not_go_on_to_learn_something_else(trained, run, capsys):
    (trained / "unfinished.lock").touch()
    for flag in (
        "--data.target=colour",
        "--data.target=[size, colour]",
        "--data.drop=[length]",
        "--data.numbers=[shop]",
    ):
        assert run("fit", flag, "--resume=auto") == 2
        assert f"{flag.partition('=')[0]}=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ("--data.categories=[shop]",),
        ("--model.network=TabM", "--model.network.numbers=periodic", "--seed_everything=3"),
        ("--config=stabilise", "--model.schedule=Cosine"),
    ],
)
def test_a_flag_that_is_left_out_is_named_and_can_be_pasted(flags, run, capfd):
    short = ("--resume=auto", "--trainer.max_steps=1", "--callbacks.last.every_n_train_steps=1")
    assert run("fit", *short, *flags) == 0
    (RUN / "unfinished.lock").touch()
    assert run("fit", *short) == 2
    found = re.search(r"leaves out flags of .*; add (.*); or go on", capfd.readouterr().err)
    assert found is not None
    for added in (shlex.split(found.group(1)), flags, ("--resume=same",)):
        (RUN / "unfinished.lock").touch()
        assert run("fit", *short, *added) == 0
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]


def test_one_word_for_a_missing_cell_means_the_same_in_new_rows(run, goods, tmp_path, capfd):
    rows = rows_of(goods)
    for number, row in enumerate(rows):
        row |= {"mass": row["mass"] or "unknown", "colour": "n" if number % 2 else row["colour"]}
    table = write(tmp_path / "words.csv", rows)
    assert run("fit", f"--data.table={table}", "--data.missing=unknown") == 0
    assert run("predict", f"--data.table={table}", f"--data.predict_table={table}") == 0
    assert "read as unknown" not in capfd.readouterr().out  # n is a letter of the word, and a colour
    model = Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt").eval()
    drop = [name for name in OTHERS if name != "size"]
    data = ready(TableData(str(table), target="size", drop=drop, missing="unknown", batch_size=16))
    names = model.schema.target.names
    said_NK = [[float(row[name]) for name in names] for row in rows_of(RUN / "predictions.csv")]
    with torch.no_grad():
        np.testing.assert_allclose(said_NK, model.predict(data.x_NF).numpy(), atol=1e-6)


@pytest.mark.parametrize("log", [False, True])
def test_numbers_get_intervals_of_the_level_that_is_asked_for(log, run, goods, capfd):
    names = ["price"] if log else ["price", "age"]
    flags = ("--data.log_target=true", "--data.target=[price]") if log else ()
    assert run("fit", "--data.val_fraction=0.3", *flags, task="regression") == 0
    new = f"--data.predict_table={goods}"
    assert run("predict", new, "--interval=0.9") == 0
    predicted = rows_of(RUN / "predictions.csv")
    assert [*predicted[0]][1:] == names + [f"{end}_{name}" for name in names for end in ("low", "high")]
    kept = json.loads((RUN / "calibration.json").read_text())["best.ckpt"]
    rank = int(np.ceil((kept["samples"] + 1) * 0.9))
    validated, _ = Manifest.load(RUN / "manifest.json", outside=True).splits["val"]
    assert len(validated) == kept["samples"]
    for number, name in enumerate(names):
        half = kept["residuals"][number][rank - 1]
        said_N, low_N, high_N = (
            np.array([float(row[key]) for row in predicted]) for key in (name, f"low_{name}", f"high_{name}")
        )
        ends = (said_N / np.exp(half), said_N * np.exp(half)) if log else (said_N - half, said_N + half)
        assert np.allclose((low_N, high_N), ends)
        true_N = np.array([float(row[name]) for row in rows_of(goods)])
        is_inside_N = (low_N <= true_N * (1 + 1e-9)) & (true_N <= high_N * (1 + 1e-9))
        assert is_inside_N[[int(row) for row in validated]].sum() == rank
    capfd.readouterr()
    assert run("test", "--interval=0.5") == 0
    assert capfd.readouterr().out.count("0.5 intervals hold") == len(names)
    assert json.loads((RUN / "test_calibration.json").read_text())["coverage"].keys() == set(names)
    for flag in ("--interval=0.99", "--interval=2", "--calibrate=true"):
        assert run("predict", new, flag) == 2
        said = capfd.readouterr().err
        assert flag in said
        assert said.count("error:") == 1


def test_labels_are_the_same_once_their_probabilities_are_calibrated(run, goods):
    assert run("fit", task="multilabel") == 0
    found = []
    for calibrate in ("false", "true"):
        assert run("predict", f"--data.predict_table={goods}", f"--calibrate={calibrate}") == 0
        found.append(rows_of(RUN / "predictions.csv"))
    plain, calibrated = found
    assert [row["labels"] for row in plain] == [row["labels"] for row in calibrated]
    assert len({row["labels"] for row in plain}) > 1
    kept = json.loads((RUN / "calibration.json").read_text())["best.ckpt"]["temperature"]
    for name, temperature in zip(TARGETS["multilabel"], kept, strict=True):
        p_N, q_N = (np.array([float(row[name]) for row in rows]) for rows in found)
        expected_N = 1 / (1 + ((1 - p_N) / p_N) ** (1 / temperature))
        assert np.allclose(q_N, expected_N, atol=1e-5)
