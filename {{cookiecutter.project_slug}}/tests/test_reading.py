"""Files that cannot be read: what each command makes of them, and that what is gone is told from what is damaged."""

import csv
import itertools
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from project_package.data import ImageData
from project_package.engine import decoding
from project_package.engine.images import Decoding, read
from project_package.engine.mistakes import Mistake
from project_package.model import Classifier

RUN = Path("runs/small/version_0")


def rows(file: Path = RUN / "predictions.csv") -> list[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


def truncated(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-900])


def html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def beyond_the_range(path: Path) -> None:
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path, "PNG")


def too_large(path: Path) -> None:
    Image.new("L", (9600, 9600)).save(path, "PNG")


def float_colours(path: Path) -> None:
    assert cv2.imwrite("float.tif", np.zeros((16, 16, 3), np.float32))
    Path("float.tif").rename(path)


BROKEN = {
    truncated: "cannot be read as an image",
    html: "none of a kind that is read",
    empty: "it is empty",
    beyond_the_range: "beyond the value range 0 to 255 (--data.value_range)",
    too_large: "92.2 megapixels, more than --data.max_megapixels 90",
    float_colours: "none of a kind that is read",
}


@pytest.fixture
def images(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the drawn images, to be broken."""
    return Path(shutil.copytree(shapes, tmp_path / "images"))


def predicts(run, root: Path | str, *flags: str) -> int:
    return run("predict", f"--data.predict_root={root}", *flags)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_predict_writes_what_it_can_read_and_names_the_rest(workers, trained, run, tmp_path, shapes, capfd):
    new = tmp_path / "new"
    shutil.copytree(shapes / "left", new / "left")
    for number, (spoil, _) in enumerate(BROKEN.items()):
        spoil(new / f"left/{number:03d}-{spoil.__name__}.jpg")
    assert predicts(run, shapes / "left") == 0
    whole = {f"left/{row['path']}": row for row in rows()}
    assert "error" not in next(iter(whole.values()))
    assert predicts(run, new, f"--data.num_workers={workers}") == 1
    found = {row.pop("path"): row for row in rows()}
    assert len(found) == 24 + len(BROKEN)
    for number, (spoil, words) in enumerate(BROKEN.items()):
        row = found.pop(f"left/{number:03d}-{spoil.__name__}.jpg")
        assert words in row.pop("error")
        assert set(row.values()) == {""}
    for path, row in found.items():
        assert row.pop("error") == ""
        expected = whole[path]
        assert row.pop("label") == expected["label"]
        assert [float(row[name]) for name in row] == pytest.approx([float(expected[name]) for name in row], abs=1e-6)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert (
        f"{len(BROKEN)} of {24 + len(BROKEN)} images could not be read, the first: left/000-truncated.jpg" in errors[0]
    )


def test_predict_of_broken_images_alone_says_so_of_each(trained, run, tmp_path):
    (tmp_path / "new").mkdir()
    for number in range(3):
        html(tmp_path / f"new/{number}.png")
    assert predicts(run, tmp_path / "new") == 1
    assert [row["label"] for row in rows()] == [""] * 3
    assert all(row["error"] for row in rows())


def test_a_file_that_vanishes_after_the_listing_has_its_row(trained, run, images, monkeypatch):
    listed = decoding.decode

    def vanishing(path, *args, **kwargs):
        if Path(path).name == "003.png":
            Path(path).unlink(missing_ok=True)
        return listed(path, *args, **kwargs)

    monkeypatch.setattr("project_package.engine.images.decode", vanishing)
    assert predicts(run, images / "right") == 1
    assert {row["path"]: row["error"] for row in rows() if row["error"]} == {"003.png": "is not there"}


def locked(monkeypatch, name: str) -> None:
    """Let nobody read files of a name, not even root, who may read whatever has no permission."""
    real = Image.open

    def guarded(path, *args, **kwargs):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", guarded)


def test_a_file_without_permission_has_its_row_and_is_not_called_damaged(trained, run, images, monkeypatch, capfd):
    locked(monkeypatch, "003.png")
    assert predicts(run, images / "right") == 1
    assert {row["error"] for row in rows()} == {"", "cannot be read (Permission denied)"}
    assert run("fit", f"--data.root={images}") == 2
    assert "give yourself the right to read it" in capfd.readouterr().err


def test_a_folder_that_may_not_be_looked_into_is_not_called_gone(trained, run, images, monkeypatch, capfd):
    real = os.stat

    def guarded(path, *args, **kwargs):
        if str(path).startswith(str(images)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", guarded)
    for command in (["predict", f"--data.predict_root={images}"], ["predict", f"--data.predict_root={images}/x.png"]):
        assert run(*command) == 2
        assert "cannot be read (Permission denied)" in capfd.readouterr().err
    assert run("fit", f"--data.root={images}") == 2
    assert "give yourself the right to read it" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["one.jpg", "one.unknown", "one", "ünï.png"])
def test_a_single_image_is_predicted_whatever_its_name(name, trained, run, shapes):
    shutil.copy(shapes / "left/000.png", name)
    assert predicts(run, name) == 0
    [row] = rows()
    assert row["path"] == name
    os.makedirs("deep/er")
    shutil.move(name, f"deep/er/{name}")
    assert predicts(run, f"deep/../deep/er/{name}") == 0
    assert rows()[0]["path"] == name


def test_what_there_is_not_to_predict_is_said(trained, run, capfd):
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("-")
    os.mkfifo("pipe")
    for flags, words in (
        (["--data.predict_root=nowhere"], "'nowhere' is not there"),
        (["--data.predict_root=nowhere/one.jpg"], "'nowhere/one.jpg' is not there"),
        (["--data.predict_root=empty"], "holds no images (left out: 1 .txt)"),
        (["--data.predict_root=pipe"], "neither a folder nor a plain file"),
        ([], "--data.predict_root is not given"),
    ):
        assert run("predict", *flags) == 2
        assert words in capfd.readouterr().err


def test_a_script_gets_no_number_for_what_could_not_be_read(trained, shapes, images):
    html(images / "left/000.png")
    data = ImageData(str(shapes), manifest=str(RUN / "manifest.json"), num_workers=0, predict_root=str(images / "left"))
    model = Classifier.load_from_checkpoint(RUN / "checkpoints/best.ckpt")
    silent = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    [batch] = Trainer(accelerator="cpu", **silent).predict(model, data)  # pyright: ignore
    unread = torch.isnan(batch["predictions"]).all(1)  # pyright: ignore
    assert unread.tolist() == [True] + 23 * [False]


def test_a_score_is_never_that_of_fewer_images(trained, run, images, capfd):
    manifest = ImageData(str(images), manifest=str(RUN / "manifest.json"), num_workers=0)
    manifest.setup("fit")
    assert manifest.manifest is not None
    for command, split, words in (
        ("test", "test", "the score would be that of fewer images; put a whole copy in its place"),
        ("validate", "val", "the score would be that of fewer images"),
        ("fit", "train", "training with it would be wrong; replace it, or remove it and start a new run"),
    ):
        spoiled = images / manifest.manifest.splits[split][0][0]
        kept = spoiled.read_bytes()
        for spoil, reason in ((truncated, "cannot be read as an image"), (too_large, "--data.max_megapixels")):
            spoil(spoiled)
            assert run(command, f"--data.root={images}", f"--data.manifest={RUN / 'manifest.json'}") == 2
            said = capfd.readouterr().err
            assert reason in said
            assert words.split(";")[0] in said
            assert words in said or spoil is too_large
        spoiled.write_bytes(kept)
    assert run("test", f"--data.root={images}") == 0


def test_the_folder_of_the_images_moved(trained, run, images, shapes, capfd):
    """Its run is tested and trained anew from the new place; without it each command says so."""
    assert run("fit", f"--data.root={images}", "--name=moved") == 0
    config = "runs/moved/version_0/config.yaml"
    images.rename("elsewhere")
    commands = [["test"], ["validate"], ["fit", "--ckpt_path=last"], ["fit", f"--config={config}"]]
    for command, *flags in commands:
        assert run(command, *flags, f"--data.root={images}", "--name=moved") == 2
        said = capfd.readouterr().err
        assert "is not there" in said
        assert "--data.root" in said
        assert "remove" not in said
    for command, *flags in commands[:3]:
        assert run(command, *flags, "--data.root=elsewhere", "--name=moved") == 0
    # Who predicts needs no training image.
    assert run("predict", f"--data.root={images}", "--name=moved", f"--data.predict_root={shapes}") == 0


def test_many_missing_images_are_counted_once_before_any_is_read(trained, run, images, capfd):
    for path in itertools.chain(images.glob("left/*.png"), images.glob("right/*.png")):
        path.unlink()
    for command, flags in (("test", []), ("validate", []), ("fit", [f"--data.manifest={RUN / 'manifest.json'}"])):
        assert run(command, f"--data.root={images}", *flags) == 2
        said = capfd.readouterr().err
        total = {"test": 12, "validate": 12, "fit": 60}[command]
        assert (
            f"{2 * total // 3} of {total} images of the run's splits are not there, the first is {images}/left/" in said
        )
    whole = images / "middle"
    assert whole.is_dir()


def test_the_test_images_alone_are_enough_to_test(trained, run, images):
    data = ImageData(str(images), manifest=str(RUN / "manifest.json"), num_workers=0)
    data.setup("test")
    assert data.manifest is not None
    for split in ("train", "val"):
        for key in data.manifest.splits[split][0]:
            (images / key).unlink()
    assert run("test", f"--data.root={images}") == 0


def test_a_limit_of_pixels_is_a_flag(run, tmp_path, capfd):
    """A panorama of 95 megapixels, in the places where an image is looked at, cached, read and predicted."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 150)):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(level, level + 100, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "wide" / name / f"{number}.png")
    panorama = Image.new("L", (19000, 5000), 200)
    panorama.save(tmp_path / "wide/light/8.png", compress_level=1)
    panorama.save(tmp_path / "new.png", compress_level=1)
    flags = [f"--data.root={tmp_path / 'wide'}", "--data.batch_size=4", "--data.val_fraction=0.2"]
    assert run("fit", *flags) == 2
    said = capfd.readouterr().err
    assert "light/8.png cannot be read: it has 95.0 megapixels, more than --data.max_megapixels 90" in said
    for more in ([], ["--data.cache_gb=0", "--data.num_workers=1"]):
        assert run("fit", *flags, *more, "--data.max_megapixels=100") == 0
    assert predicts(run, tmp_path / "new.png") == 0  # the run's own limit
    assert predicts(run, tmp_path / "new.png", "--data.max_megapixels=90") == 1
    assert predicts(run, tmp_path / "new.png", "--data.max_megapixels=0") == 2


def test_bombs_are_refused_whatever_was_read_before(tmp_path):
    large = tmp_path / "large.png"
    Image.new("1", (20000, 20000)).save(large)  # of some 50 kB
    assert read(large, Decoding(1, 8, max_megapixels=500)).shape == (8, 8, 1)
    for limit in (90, 399):
        with pytest.raises(Mistake, match=f"400.0 megapixels, more than --data.max_megapixels {limit}"):
            read(large, Decoding(1, 8, max_megapixels=limit))


def test_the_limit_changes_no_pixel_so_the_cache_serves_on(images, capsys):
    def cached(**options) -> bool:
        data = ImageData(str(images), num_workers=0, batch_size=8, **options)
        data.setup("fit")
        return "decoded into" in capsys.readouterr().out

    assert cached()
    assert not cached(max_megapixels=200)
    assert cached(background="black")
