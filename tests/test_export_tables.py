"""Of a table ``export`` writes models that take raw columns, and code that makes these of a CSV without the project."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from conftest import Command, bake, rows
from safetensors import safe_open

RUN = Path("runs/diabetes/version_0")
TINY = ("--data.batch_size=16", "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=2")
TARGETS = {"multiclass": ["size"], "multilabel": ["sturdy", "cheap"], "regression": ["price", "age"]}
OF_TASK = {
    "multiclass": ("--model.network.width=8", "--model.network.numbers=periodic", "--model.scaling=robust"),
    "multilabel": ("--model.network=TabM", "--model.network.width=8", "--model.network.heads=4"),
    "regression": ("--model.network=ResNet", "--model.network.width=8", "--data.id=code"),
}
INPUTS = ("length", "mass", "since", "colour", "shop", "used")


def draw(file: Path, number: int = 120, seed: int = 0, new: bool = False) -> Path:
    """Draw a table with missing cells, dates, decimal commas and categories; a new one has some of others, too."""
    rng = np.random.default_rng(seed)
    length_N, mass_N = rng.normal(30, 8, number).round(2), rng.lognormal(1, 0.7, number).round(3)
    colour_N, shop_N, day_N = rng.integers(0, 3, number), rng.integers(0, 12, number), rng.integers(0, 900, number)
    price_N = 20 * mass_N + 5 * colour_N + length_N
    colours = [("red", "green", "blue")[colour] for colour in colour_N]
    columns = {
        "code": [f"k{row:03d}" for row in range(number)],
        "length": [f"{value:g}" for value in length_N],
        "mass": ["?" if row % 11 == 5 else f"{value:g}".replace(".", ",") for row, value in enumerate(mass_N)],
        "since": [str(np.datetime64("2019-03-01") + day) for day in day_N],
        "colour": ["violet" if new and row % 7 == 0 else colour for row, colour in enumerate(colours)],
        "shop": ["" if row % 9 == 2 else f"shop; {shop:02d}" for row, shop in enumerate(shop_N)],
        "used": [("true", "false")[day % 2] for day in day_N],
        "size": [("small", "middle", "large")[int(value)] for value in np.digitize(length_N, [26, 34])],
        "sturdy": [str(int(value > 3)) for value in mass_N],
        "cheap": [str(int(value < 90)) for value in price_N],
        "price": [f"{value:g}" for value in price_N],
        "age": [f"{value:.3f}" for value in shop_N + rng.normal(0, 0.5, number)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=";").writerows([columns.keys(), *zip(*columns.values(), strict=True)])
    return file


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return bake(tmp_path_factory.mktemp("baked"), data="diabetes")


@pytest.fixture(scope="module", params=list(TARGETS))
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def trained(task, project, command, tmp_path_factory) -> Path:
    """A folder with a run of a task, and with its export."""
    folder = tmp_path_factory.mktemp(task)
    table = draw(folder / "goods.csv")
    others = [name for other, names in TARGETS.items() if other != task for name in names]
    drops = others if task == "regression" else [*others, "code"]
    flags = (
        f"--data.table={table}",
        f"--data.target=[{', '.join(TARGETS[task])}]",
        f"--data.drop=[{', '.join(drops)}]",
    )
    done = command(project, folder, "fit", *TINY, *flags, "--data.missing=['?']", *OF_TASK[task])
    assert done.code == 0, done.output
    done = command(project, folder, "export", "--int8")
    assert done.code == 0, done.output
    (folder / "output").write_text(done.output)
    return folder


def known(folder: Path) -> dict:
    return json.loads((folder / RUN / "export/metadata.json").read_text())


def test_every_file_of_a_table_gives_what_the_checkpoint_gives(trained):
    about = known(trained)
    assert about["parity"]
    for name in ("model.onnx", "model.pt2", "from files"):
        assert about["figures"][name]["largest_difference"] <= 1e-5, name
    assert about["figures"]["model.int8.onnx"]["largest_difference"] < 0.5
    assert "rows/s" in (trained / "output").read_text()


def test_the_metadata_name_the_columns_and_what_they_hold(trained, task):
    about = known(trained)
    columns = {column["name"]: column for column in about["columns"]}
    assert list(columns) == list(INPUTS)
    assert columns["length"] == {"name": "length", "kind": "number"}
    assert columns["mass"]["comma"] == "decimal"
    assert columns["since"]["unit"] == "days since 1970-01-01"
    assert columns["colour"]["values"] == ["blue", "green", "red"]
    assert columns["shop"]["values"] == ["", *(f"shop; {shop:02d}" for shop in range(12))]
    assert "?" in about["missing_words"]
    assert about["target"]["names"] == (["large", "middle", "small"] if task == "multiclass" else TARGETS[task])
    with safe_open(trained / RUN / "export/model.safetensors", "pt") as opened:
        assert {name.partition(".")[0] for name in opened.keys()} == {"encoding", "network"}  # noqa: SIM118  (no dict)


def test_a_model_takes_any_number_of_rows_with_missing_numbers_and_unknown_values(trained):
    export = trained / RUN / "export"
    numbers = np.array([[30, 2.5, 18000], [np.nan, np.nan, np.nan], [1e30, -5, 0]], np.float32)
    categories = np.array([[1, 13, 2], [0, 0, 0], [3, 1, 1]], np.int64)
    session = onnxruntime.InferenceSession(export / "model.onnx")
    program = torch.export.load(export / "model.pt2").module()
    whole = np.asarray(session.run(None, {"numbers": numbers, "categories": categories})[0])
    assert np.isfinite(whole).all()
    for count in (1, 2, 3):
        given = {"numbers": numbers[:count], "categories": categories[:count]}
        assert np.allclose(session.run(None, given)[0], whole[:count], atol=1e-5)
        with torch.no_grad():
            traced = program(*map(torch.from_numpy, given.values())).numpy()
        assert np.allclose(traced, whole[:count], rtol=1e-5, atol=1e-5)


def test_the_example_says_what_predict_says_of_rows_that_training_has_not_seen(
    trained, project, task, command: Command
):
    new = draw(trained / "new.csv", 30, seed=1, new=True)
    done = command(project, trained, "predict", f"--data.predict_table={new}")
    assert done.code == 0, done.output
    predicted = rows(trained / RUN / "predictions.csv")
    plain = [sys.executable, "-I", "-c", "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'x'\n"]
    plain[-1] += "runpy.run_path(sys.path[0] + '/example.py', run_name='__main__')"
    ended = subprocess.run([*plain, trained / RUN / "export", new], capture_output=True, text=True, cwd=trained)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert list(said) == [row["row"] for row in predicted]
    for row in predicted:
        if task == "multiclass":
            assert said[row["row"]].split()[0] == row["label"]
        elif task == "multilabel":
            assert re.findall(r"[a-z]+ ", said[row["row"]]) == [
                f"{label} " for label in row["labels"].split("|") if label
            ] or (said[row["row"]] == "no label" and not row["labels"])
        else:
            values = [float(part.split()[1]) for part in said[row["row"]].split(", ")]
            assert np.allclose(values, [float(row["price"]), float(row["age"])], rtol=1e-4)


def test_what_cannot_be_read_is_an_error_of_the_example_in_one_line(trained):
    export = trained / RUN / "export"
    table = (trained / "goods.csv").read_text().splitlines()
    (trained / "lacking.csv").write_text("\n".join(line.partition(";")[2].partition(";")[2] for line in table))
    (trained / "short.csv").write_text("\n".join([*table[:3], "k1;3"]))
    (trained / "words.csv").write_text("\n".join([table[0], table[1].replace(table[1].split(";")[1], "long")]))
    for name, words in {"lacking": "lacks length", "short": "2 cells", "words": "length is 'long'"}.items():
        example = [sys.executable, export / "example.py", trained / f"{name}.csv"]
        ended = subprocess.run(example, capture_output=True, text=True)
        assert ended.returncode == 1
        assert ended.stderr.startswith("error: "), ended.stderr
        assert words in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_parquet_file_is_exported_as_the_csv_is(project, command, tmp_path):
    table = draw(tmp_path / "goods.csv")
    read = pyarrow.csv.read_csv(table, parse_options=pyarrow.csv.ParseOptions(delimiter=";"))
    pyarrow.parquet.write_table(read, tmp_path / "goods.parquet")
    flags = ("--data.table=goods.parquet", "--data.target=price", "--data.drop=[code, mass, age, sturdy]")
    assert command(project, tmp_path, "fit", *TINY, *flags, "--data.categories=[cheap]").code == 0
    done = command(project, tmp_path, "export")
    assert done.code == 0, done.output
    about = known(tmp_path)
    assert about["figures"]["from files"]["largest_difference"] <= 1e-5
    assert not (tmp_path / RUN / "export/model.int8.onnx").exists()
    assert {column["name"] for column in about["columns"] if column.get("unit")} == {"since"}


@pytest.mark.parametrize("kept", ["length", "shop"])
def test_an_input_without_columns_is_left_out(kept, project, command, tmp_path):
    table = draw(tmp_path / "goods.csv")
    drop = [
        name
        for name in (*INPUTS, *(name for names in TARGETS.values() for name in names), "code")
        if name not in (kept, "price")
    ]
    flags = (f"--data.table={table}", "--data.target=price", f"--data.drop=[{', '.join(drop)}]")
    assert command(project, tmp_path, "fit", *TINY, *flags).code == 0
    done = command(project, tmp_path, "export")
    assert done.code == 0, done.output
    session = onnxruntime.InferenceSession(tmp_path / RUN / "export/model.onnx")
    assert [given.name for given in session.get_inputs()] == [{"length": "numbers", "shop": "categories"}[kept]]
