"""``export`` writes files that give what the checkpoint gives, without the project, or says that they do not."""

import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision.models
from conftest import HUNG, OTHER_TASKS, RUN, TINY, draw_images, of_task, rows
from PIL import Image
from safetensors import safe_open
from sklearn import metrics
from test_edits import PACKAGE

MODELS = ("model.onnx", "model.int8.onnx", "model.pt2")
FILES = {*MODELS, "model.safetensors", "preprocessing.py", "example.py", "metadata.json"}
STUBBORN = '''

class Restless(SmallCNN):
    """Drops features when it is evaluated, too."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.features(x_NCHW), 0.5, training=True))


class Choosy(SmallCNN):
    """Decides by the values of a tensor."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW if x_NCHW.sum() > 0 else -x_NCHW))


class Exotic(SmallCNN):
    """Uses what ONNX does not have."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        import torch

        logits_NK = super().forward(x_NCHW)
        return torch.linalg.matrix_exp(logits_NK[:, :, None] * logits_NK[:, None] / 100)[:, 0]

'''


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Colour noise, some of it turned by EXIF, transparent, or grey of 16 bits."""
    root = draw_images(tmp_path_factory.mktemp("export") / "images")
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        image = Image.open(path)
        if number % 4 == 0:
            turned = Image.Exif()
            turned[0x0112] = 6
            image.save(path, exif=turned)
        elif number % 4 == 1:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
            image.save(path)
        elif number % 4 == 2:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256).save(path)
    return root


@pytest.fixture(scope="module")
def trained(images, project, command, tmp_path_factory) -> Path:
    """A folder with a run of averaged weights that crops, and with its export."""
    folder = tmp_path_factory.mktemp("trained")
    sizes = ("--data.image_size=8", "--data.stored_size=11", "--data.channels=3", "--model.network.width=8")
    averaged = ("--callbacks.averaging=EMAWeightAveraging", "--callbacks.averaging.decay=0.5")
    fitted = command(
        project, folder, "fit", "--data.root", images, *TINY[1:], *sizes, *averaged, "--trainer.max_epochs=12"
    )
    assert fitted.code == 0, fitted.output
    done = command(project, folder, "export")
    assert done.code == 0, done.output
    (folder / "output").write_text(done.output)
    return folder


@pytest.fixture(scope="module")
def predicted(trained, images, project, command) -> list[dict[str, str]]:
    """What ``predict`` says of every image."""
    done = command(project, trained, "predict", "--data.predict_root", images)
    assert done.code == 0, done.output
    return rows(trained / RUN / "predictions.csv")


def run_model(file: Path, images_NCHW: np.ndarray) -> np.ndarray:
    if file.suffix == ".onnx":
        return np.asarray(onnxruntime.InferenceSession(file).run(None, {"images": images_NCHW})[0])
    with torch.no_grad():
        return torch.export.load(file).module()(torch.from_numpy(images_NCHW)).numpy()


def facts(file: Path) -> dict:
    """Read what a file says of itself."""
    if file.suffix == ".onnx":
        return {item.key: json.loads(item.value) for item in onnx.load(file).metadata_props}
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return {key: json.loads(value) for key, value in opened.metadata().items()}
    inner = {"metadata.json": ""}
    torch.export.load(file, extra_files=inner)
    return json.loads(inner["metadata.json"])


def test_the_folder_holds_the_models_and_what_runs_them(trained):
    assert {path.name for path in (trained / RUN / "export").iterdir()} == FILES
    assert not [path for path in (trained / RUN).iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_any_number_of_images_without_the_project(name, trained):
    assert importlib.util.find_spec("my_project") is None
    file = trained / RUN / "export" / name
    if file.suffix == ".onnx":
        onnx.checker.check_model(file, full_check=True)
    images_NCHW = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    all_NK = run_model(file, images_NCHW)
    assert all_NK.shape == (64, 3)
    assert np.allclose(all_NK.sum(1), 1, atol=1e-5)
    for count in (1, 3):
        assert np.allclose(run_model(file, images_NCHW[:count]), all_NK[:count], atol=1e-5)


@pytest.mark.parametrize("name", [*MODELS, "model.safetensors"])
def test_a_model_knows_its_classes_and_its_splits_and_nothing_of_the_machine(name, trained):
    file = trained / RUN / "export" / name
    known, whole = facts(file), json.loads((file.parent / "metadata.json").read_text())
    assert known["class_names"] == ["blue", "green", "red"]
    manifest = subprocess.run(["sha256sum", trained / RUN / "manifest.json"], capture_output=True, text=True)
    assert known["manifest_sha256"] == manifest.stdout.split()[0]
    assert known.items() <= whole.items()
    content = file.read_bytes()
    assert str(trained).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_the_weights_are_those_of_the_checkpoint_averaged_ones_included(trained):
    checkpoint = torch.load(trained / RUN / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    with safe_open(trained / RUN / "export/model.safetensors", "pt") as weights:
        names = set(weights.keys())
        assert names == {name.removeprefix("network.") for name in checkpoint if name.startswith("network.")}
        assert all(torch.equal(weights.get_tensor(name), checkpoint[f"network.{name}"]) for name in names)


def test_the_example_classifies_files_of_any_kind_as_predict_does_without_the_project(trained, images, predicted):
    example = trained / RUN / "export/example.py"
    code = [line for line in example.read_text().splitlines()[1:] if line.strip()]
    assert len(code) == 25
    paths = [str(images / row["path"]) for row in predicted]
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, example, *paths], capture_output=True, text=True, cwd=images, env=bare)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len({row["label"] for row in predicted}) > 1
    for line, path, row in zip(lines, paths, predicted, strict=True):
        name, probability = line.removeprefix(f"{path}: ").split()
        assert name == row["label"]
        assert abs(float(probability) - float(row[name])) < 1e-4
    broken = [trained / "empty.jpg", trained / "gone.png"]
    broken[0].touch()
    program = [sys.executable, example, broken[0], paths[0], broken[1], paths[1]]
    done = subprocess.run(program, capture_output=True, text=True, cwd=images, env=bare)
    assert done.returncode == 1
    assert done.stdout.splitlines() == lines[:2]
    errors = done.stderr.splitlines()
    assert errors == [
        f"error: {broken[0]} cannot be read as an image (it is empty)",
        f"error: {broken[1]} is not there",
    ]


def test_the_figures_are_those_of_the_whole_validation_split(trained, predicted):
    figures = json.loads((trained / RUN / "export/metadata.json").read_text())["figures"]
    val = json.loads((trained / RUN / "manifest.json").read_text())["splits"]["val"]
    target = dict(val)
    hits = [row["label"] == target[row["path"]] for row in predicted if row["path"] in target]
    for name in ("checkpoint", "model.onnx", "model.pt2", "from files"):
        assert figures[name]["val_accuracy"] == pytest.approx(sum(hits) / len(target))
        assert figures[name]["largest_difference"] <= 1e-4
        assert figures[name]["same_class"] == 1
    assert 1e-5 < figures["model.int8.onnx"]["largest_difference"] < 0.2
    assert figures["model.onnx"]["bytes"] == (trained / RUN / "export/model.onnx").stat().st_size
    output = (trained / "output").read_text()
    assert f"{RUN}/checkpoints/best.ckpt" in output
    assert all(name in output for name in figures)


def test_another_export_takes_the_place_of_the_first_however_the_run_was_trained(trained, project, command, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / RUN / "export/stale").touch()
    (tmp_path / RUN / "export-failed").mkdir()
    trained_so = ("--model.compile=true", "--model.channels_last=true", "--model.freeze=true")
    done = command(project, tmp_path, "export", "--no-int8", "--trainer.precision=bf16-mixed", *trained_so)
    assert done.code == 0, done.output
    assert {path.name for path in (tmp_path / RUN / "export").iterdir()} == FILES - {"model.int8.onnx"}
    assert not (tmp_path / RUN / "export-failed").exists()


def test_a_model_of_timm_is_exported(images, project, command, tmp_path):
    network = ("--model.network=Timm", "--model.network.name=test_convnext", "--data.image_size=32")
    fitted = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], *network, "--trainer.max_epochs=1")
    assert fitted.code == 0, fitted.output
    done = command(project, tmp_path, "export", f"--ckpt_path={RUN}/checkpoints/last.ckpt")
    assert done.code == 0, done.output
    assert facts(tmp_path / RUN / "export/model.onnx")["network"]["init_args"]["name"] == "test_convnext"


def test_a_backbone_of_torchvision_is_exported_with_what_its_weights_declare(images, project, command, tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "weights.pt")
    weights = f"--model.weights={tmp_path / 'weights.pt'}"
    backbone = ("--model.network=Backbone", "--model.network.name=squeezenet1_1", weights)
    small = ("--data.image_size=33", "--data.channels=1", "--data.interpolation=bicubic", "--trainer.max_epochs=1")
    fitted = command(project, tmp_path, "fit", "--data.root", images, *TINY[1:], *backbone, *small)
    assert fitted.code == 0, fitted.output
    done = command(project, tmp_path, "export", f"--ckpt_path={RUN}/checkpoints/last.ckpt")
    assert done.code == 0, done.output
    about = facts(tmp_path / RUN / "export/model.onnx")
    assert about["checkpoint"] == "last.ckpt"
    sizes = {"image_size": 33, "stored_size": 37, "resize_size": 37}
    assert {**sizes, "fit": "crop", "interpolation": "bicubic"}.items() <= about.items()
    scaled = runpy.run_path(str(tmp_path / RUN / "export/preprocessing.py"))["preprocess"](next(images.rglob("*.png")))
    assert scaled.shape == (1, 33, 33)


def test_ctrl_c_leaves_the_earlier_export_as_it_was(trained, project, command, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in (tmp_path / RUN / "export").iterdir()}
    started = command.start(project, tmp_path, "export")
    process, deadline = started[0][0], time.monotonic() + HUNG
    while process.is_alive() and time.monotonic() < deadline and not list((tmp_path / RUN).glob(".export-*/*.pt2")):
        process.join(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(HUNG)
    ended = command.end(started)
    assert ended.code == 130
    assert ended.output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in ended.output
    assert {path.name: path.read_bytes() for path in (tmp_path / RUN / "export").iterdir()} == before
    assert not list((tmp_path / RUN).glob(".export-*"))


@pytest.fixture(scope="module")
def edited(project, tmp_path_factory) -> Path:
    """A project with networks that cannot be exported."""
    folder = tmp_path_factory.mktemp("edited") / "edited"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".git"))
    with (folder / PACKAGE / "networks.py").open("a") as file:
        file.write(STUBBORN)
    return folder


@pytest.mark.parametrize(("network", "code"), [("Restless", 1), ("Choosy", 2)])
def test_a_network_that_does_not_survive_the_export_fails_in_one_line(network, code, images, edited, command, tmp_path):
    flags = ("--model.network", network, "--trainer.max_epochs=1", "--model.network.width=8")
    fitted = command(edited, tmp_path, "fit", "--data.root", images, *TINY[1:], *flags)
    assert fitted.code == 0, fitted.output
    (tmp_path / RUN / "export").mkdir()
    (tmp_path / RUN / "export/earlier").touch()
    done = command(edited, tmp_path, "export", "--no-int8")
    assert done.code == code, done.output
    assert len(done.errors) == 1
    assert [path.name for path in (tmp_path / RUN / "export").iterdir()] == ["earlier"]
    assert not list((tmp_path / RUN).glob(".export-*"))
    failed = tmp_path / RUN / "export-failed/metadata.json"
    assert failed.is_file() == (network == "Restless")
    if failed.is_file():
        kept = json.loads(failed.read_text())
        worst = max(kept["figures"][name]["largest_difference"] for name in ("model.onnx", "model.pt2"))
        assert not kept["parity"]
        assert worst > 1e-4
        assert f"{worst:.2g}" in done.errors[0]


def test_an_operator_that_cannot_be_exported_is_named(images, edited, command, tmp_path):
    flags = ("--model.network=Exotic", "--trainer.max_epochs=1", "--model.network.width=8")
    fitted = command(edited, tmp_path, "fit", "--data.root", images, *TINY[1:], *flags)
    assert fitted.code == 0, fitted.output
    assert "at the operator aten.linalg_matrix_exp" in command(edited, tmp_path, "export").refusal


@pytest.fixture(scope="module")
def for_integers(trained, images, project, command, tmp_path_factory) -> Path:
    """A folder with a run that goes on from ``trained`` by quantisation-aware training, and with its export."""
    folder = tmp_path_factory.mktemp("integers")
    sizes = ("--data.image_size=8", "--data.stored_size=11", "--data.channels=3", "--model.network.width=8")
    weights = f"--model.weights={trained / RUN / 'checkpoints/best.ckpt'}"
    flags = (*TINY[1:], *sizes, "--config=qat", weights, "--callbacks.qat.momentum=0.5", "--trainer.max_epochs=4")
    predict = ("predict", "--data.predict_root", images)
    lines = [("fit", "--data.root", images, *flags), ("export",), predict]
    done = command.each(project, folder, lines)
    assert not any(each.code for each in done), "".join(each.output for each in done)
    shutil.copy(folder / RUN / "predictions.csv", folder / "rounded.csv")
    plain = command(project, folder, *predict, "--callbacks.qat=null")
    assert plain.code == 0, plain.output
    (folder / "output").write_text(done[1].output)
    return folder


def test_the_integers_are_those_that_training_rounded_to(for_integers, images):
    export = for_integers / RUN / "export"
    assert {path.name for path in export.iterdir()} == FILES
    figures = json.loads((export / "metadata.json").read_text())["figures"]
    assert {"model.int8.onnx", "calibrated.int8.onnx"} < set(figures)
    assert "calibrated.int8.onnx" in (for_integers / "output").read_text()
    assert figures["model.onnx"]["largest_difference"] < 1e-4
    kinds = [node.op_type for node in onnx.load(export / "model.int8.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 7  # the inputs of six convolutions and of the last layer
    assert figures["model.int8.onnx"]["bytes"] < 0.6 * figures["model.onnx"]["bytes"]
    rounded, plain = (rows(path) for path in (for_integers / "rounded.csv", for_integers / RUN / "predictions.csv"))
    names = ("blue", "green", "red")
    said_NK, float_NK = (np.array([[float(row[name]) for name in names] for row in each]) for each in (rounded, plain))
    preprocess = runpy.run_path(str(export / "preprocessing.py"))["preprocess"]
    images_NCHW = np.stack([preprocess(images / row["path"]) for row in rounded])
    integers_NK = run_model(export / "model.int8.onnx", images_NCHW)
    assert np.abs(integers_NK - said_NK).mean() < 0.3 * np.abs(integers_NK - float_NK).mean()


def test_a_layer_that_is_not_in_the_exported_graph_is_named(for_integers, project, command, tmp_path):
    shutil.copytree(for_integers / "runs", tmp_path / "runs")
    file = tmp_path / RUN / "checkpoints/best.ckpt"
    content = torch.load(file, weights_only=True)
    content["ranges"]["features.9.0"] = [[0.0, 1.0]]
    torch.save(content, file)
    done = command(project, tmp_path, "export", "--callbacks.qat=null")
    assert "its layer features.9.0 is no Conv and no Gemm there" in done.refusal
    assert "export --no-int8" in done.refusal


def test_what_is_missing_is_said_in_one_line(edited, command, tmp_path):
    done = command(edited, tmp_path, "export")
    assert "holds checkpoints/best.ckpt" in done.refusal
    absent = edited / "src/onnxscript.py"
    absent.write_text("raise ImportError('no', name='onnxscript')\n")
    done = command(edited, tmp_path, "export")
    absent.unlink()
    assert "onnxscript" in done.refusal
    assert "[export]" in done.refusal


def test_another_opset_is_written_and_said(trained, images, project, command, tmp_path):
    shutil.copytree(trained / RUN, tmp_path / RUN)
    done = command(project, tmp_path, "export", "--no-int8", "--opset", "18", "--data.root", images)
    assert done.code == 0, done.output
    models = {opset: folder / RUN / "export/model.onnx" for opset, folder in ((20, trained), (18, tmp_path))}
    for opset, file in models.items():
        assert [entry.version for entry in onnx.load(file).opset_import if not entry.domain] == [opset]
        assert facts(file)["opset"] == opset
    images_NCHW = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)
    assert np.allclose(run_model(models[18], images_NCHW), run_model(models[20], images_NCHW), atol=1e-5)


def test_an_opset_that_torch_or_onnxruntime_does_not_take_is_refused_and_nothing_is_lost(trained, project, command):
    before = sorted((trained / RUN).rglob("*"))
    newest = onnx.defs.onnx_opset_version()
    flag = "--opset"
    wrong = {
        ("export", flag, str(value)): f"--opset={value} is out of range" for value in (-1, 0, 7, 17, newest + 1, 999)
    }
    wrong |= {("export", f"{flag}={value}"): "--opset: invalid int value" for value in ("x", "18.0", "")}
    wrong |= {("export", flag, str(newest)): f"--opset={newest} cannot be exported"}  # onnx is ahead of onnxruntime
    for done in command.refuses(project, trained, wrong)[:6]:
        assert f"18 ≤ x ≤ {newest}, or leave it out for 20" in done.refusal
    assert sorted((trained / RUN).rglob("*")) == before
    said = command(project, trained, "export", "--help").output
    assert "--opset N" in said
    assert "default: 20" in said


def test_a_run_that_was_trained_on_everything_is_exported(images, project, command, tmp_path):
    everything = ("--data.val_fraction=0", "--data.test_fraction=0", "--trainer.limit_val_batches=0")
    fitted = command(project, tmp_path, "fit", "--data.root", images, *TINY, *everything)
    assert fitted.code == 0, fitted.output
    done = command(project, tmp_path, "export", "--ckpt_path=last", "--no-int8")
    assert done.code == 0, done.output
    assert "train accuracy" in done.output
    assert json.loads((tmp_path / RUN / "export/metadata.json").read_text())["parity"]


@pytest.mark.parametrize("task", ["classes", "multilabel"])
def test_calibrated_models_give_what_calibrated_predictions_hold(
    task, trained, images, targets, project, command, tmp_path
):
    new = images
    if task == "classes":
        shutil.copytree(trained / RUN, tmp_path / RUN)
    else:
        new = targets
        fitted = command(project, tmp_path, "fit", *of_task(targets, task), "--trainer.max_epochs=5")
        assert fitted.code == 0, fitted.output
    lines = [("predict", f"--data.predict_root={new}", "--calibrate=true"), ("export", "--calibrate=true")]
    for done in command.each(project, tmp_path, lines):
        assert done.code == 0, done.output
    folder = tmp_path / RUN / "export"
    about = json.loads((folder / "metadata.json").read_text())
    entry = json.loads((tmp_path / RUN / "calibration.json").read_text())["best.ckpt"]
    assert about["parity"]
    assert about["temperature"] == entry["temperature"] != [1.0] * len(entry["temperature"])
    names, column = about["target"]["names"], "label" if task == "classes" else "labels"
    preprocess = runpy.run_path(str(folder / "preprocessing.py"))["preprocess"]
    predicted = rows(tmp_path / RUN / "predictions.csv")
    images_NCHW = np.stack([preprocess(str(new / row["path"])) for row in predicted])
    expected_NK = np.array([[float(row[name]) for name in names] for row in predicted])
    for name in ("model.onnx", "model.pt2"):
        found_NK = run_model(folder / name, images_NCHW)
        assert np.allclose(found_NK, expected_NK, atol=1e-4)
        if task == "classes":
            decided = [names[k] for k in found_NK.argmax(1)]
        else:
            decided = [";".join(np.array(names)[reached]) for reached in found_NK >= np.array(about["thresholds"])]
        assert decided == [row[column] for row in predicted]
    assert np.abs(run_model(folder / "model.int8.onnx", images_NCHW) - expected_NK).mean() < 0.1


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_labels_and_large_numbers_leave_as_predict_writes_them(task, targets, project, command, tmp_path):
    flags = (*of_task(targets, f"{task}_weighted"), "--trainer.max_epochs=5", "--model.optimizer.lr=0.01")
    lines = (("fit", *flags), ("predict", f"--data.predict_root={targets}"), ("export",))
    for done in command.each(project, tmp_path, lines):
        assert done.code == 0, done.output
    folder = tmp_path / RUN / "export"
    about = json.loads((folder / "metadata.json").read_text())
    known, predicted = (
        facts(folder / "model.onnx"),
        {row["path"]: row for row in rows(tmp_path / RUN / "predictions.csv")},
    )
    names, figures = known["target"]["names"], about["figures"]
    assert about["parity"]
    assert "class_names" not in known
    settled = torch.load(tmp_path / RUN / "checkpoints/best.ckpt", weights_only=True).get("settled")
    assert known.get("thresholds") == settled
    assert (settled is None) == (task == "regression")

    val = json.loads((targets / f"{task}_weighted.json").read_text())["splits"]["val"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_outputs()[0].name == {"multilabel": "probabilities", "regression": "values"}[task]
    assert session.get_outputs()[0].type == "tensor(float)"
    preprocess = runpy.run_path(str(folder / "preprocessing.py"))["preprocess"]
    images_NCHW = np.stack([preprocess(targets / path) for path, _, _ in val])
    given = np.asarray(session.run(None, {"images": images_NCHW})[0])
    expected = np.array([[float(predicted[path][name]) for name in names] for path, _, _ in val])
    assert np.allclose(given, expected, rtol=1e-4)

    weights = [weight for _, _, weight in val]
    if task == "multilabel":
        true = np.array([[name in labels for name in names] for _, labels, _ in val])
        score = metrics.f1_score(true, expected >= settled, average="micro", sample_weight=weights)
        assert figures["checkpoint"]["same_label"] == figures["model.onnx"]["same_label"] == 1
    else:
        score = metrics.root_mean_squared_error([numbers for _, numbers, _ in val], expected, sample_weight=weights)
        assert expected[:, 0].min() > 5e4
        assert "same_number" not in figures["checkpoint"]
    name = {"multilabel": "val_f1_micro", "regression": "val_rmse"}[task]
    assert figures["checkpoint"][name] == pytest.approx(score)
    assert figures["model.onnx"][name] == pytest.approx(score, rel=1e-4)
    assert 1e-5 < figures["model.int8.onnx"]["largest_difference"] < 0.3

    paths = [targets / path for path, _, _ in val]
    done = subprocess.run([sys.executable, folder / "example.py", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line, path, (key, _, _) in zip(done.stdout.splitlines(), paths, val, strict=True):
        told = line.removeprefix(f"{path}: ")
        if task == "multilabel":
            labels = "" if told == "no label" else ";".join(part.split()[0] for part in told.split(", "))
            assert labels == predicted[key]["labels"]
        else:
            values = {name: float(value) for name, value in (part.split() for part in told.split(", "))}
            assert values == {name: pytest.approx(float(predicted[key][name]), rel=1e-4) for name in names}


def test_numbers_that_float32_cannot_tell_apart_are_not_exported(targets, project, command, tmp_path):
    content = json.loads((targets / "regression.json").read_text())
    content["schema"]["target"]["log"] = False
    for samples in content["splits"].values():
        for sample in samples:
            sample[1][0] = 1.7e9 + sample[1][0] / 100  # seconds of a few hours
    manifest = tmp_path / "times.json"
    manifest.write_text(json.dumps(content))
    flags = (*of_task(targets, "regression"), f"--data.manifest={manifest}", "--trainer.max_epochs=1")
    assert command(project, tmp_path, "fit", *flags).code == 0
    done = command(project, tmp_path, "export", "--no-int8")
    assert done.code == 1, done.output
    assert "of a value in standard deviations" in done.errors[0]
    assert "float32, of 7 digits" in done.errors[0]
