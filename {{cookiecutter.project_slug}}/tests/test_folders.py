"""Folders as people have them: what is read, what is left out and said, what is refused because it means two things."""

import itertools
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from project_package.data import ImageData
from project_package.engine.folders import find, list_images
from project_package.engine.mistakes import Mistake

numbers = itertools.count()


def draw(path: Path, image_format: str | None = None) -> Path:
    """Draw an image that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(numbers)).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, image_format)
    return path


def tree(root: Path, *folders: str, images: int = 4) -> Path:
    """Draw images into folders."""
    for folder in folders:
        for number in range(images):
            draw(root / folder / f"{number}.png")
    return root


def split_tree(root: Path, *splits: str) -> Path:
    return tree(root, *(f"{split}/{name}" for split in splits for name in ("cat", "dog")))


@pytest.mark.parametrize(
    "names",
    [
        *[
            ("train", "val", "test"),
            ("Training", "Testing"),
            ("TRAIN", "Valid"),
            ("train ", "dev"),
            ("trainset", "testset"),
        ],
        *[("training_set", "test_set"), ("Training Set", "testing-set", "validation_set"), ("train_data", "test_data")],
        *[("images_train", "images_test"), ("TrainImages", "valimgs", "TestData"), ("split.train", "split.eval")],
    ],
)
def test_splits_are_known_by_the_names_that_people_give_them(names, tmp_path):
    samples = find(split_tree(tmp_path, *names))
    assert samples.target.names == ["cat", "dog"]
    assert samples.given is not None
    assert len(set(samples.given)) == len(names)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("val/cat", "val/dog", "test/cat", "test/dog"), "no train"),
        (("train/cat", "train/dog", "val/cat", "val/dog", "extra/cat", "extra/dog"), "extra"),
        (("train/cat", "train/dog", "valid/cat", "validation/cat"), "name one split twice"),
        (("train", "test"), "no class folders"),
        (("part1/cat", "part1/dog", "part2/cat", "part2/dog"), "hold the same folders"),
        (("cat", "dog", "animals/cat", "animals/dog"), "lie beside it"),
        (
            ("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_pred/seg_pred"),
            "seg_pred not",
        ),
        (("train2017", "val2017"), "train2017, val2017 are called like splits,"),
        (("my-train", "my-valid"), "my-train, my-valid are called like splits,"),
        (("x.train/a", "x.train/b", "x.test/a", "other"), "x.test, x.train are called like splits and other not"),
        (("train", "test", "bus"), "test, train are called like splits and bus not"),
        (("train", "test/cat", "test/dog"), "train hold images and no class folders"),
        (("site1/a", "site1/b", "site1/c", "site2/a", "site2/b"), "hold the same folders"),
        (("site1/a", "site1/b", "site1/c", "site2/b", "site2/c", "site2/d", "thumbs"), "hold the same folders"),
        (("data/my_train/cat", "data/my_val/cat", "other"), "data holds folders called like splits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_could_be_splits_or_classes_is_refused_and_a_flag_decides(folders, words, tmp_path):
    with pytest.raises(Mistake, match=words) as refusal:
        find(tree(tmp_path, *folders))
    assert "did you mean --data.root=" in str(refusal.value)
    assert "--data.layout classes" in str(refusal.value)
    tops = {folder.split("/")[0] for folder in folders}
    assert set(find(tmp_path, "classes").target.names) == tops


@pytest.mark.parametrize("name", ["train", "test_tube", "freight train", "valid", "dev_1", "train_test"])
def test_a_class_may_be_called_like_a_split(name, tmp_path):
    assert find(tree(tmp_path, "car", "bus", name)).target.names == ["bus", "car", name]


def test_classes_that_share_a_word_are_classes(tmp_path):
    assert len(find(tree(tmp_path, "freight_train", "bullet_train", "train_1")).target.names) == 3


@pytest.mark.parametrize(
    ("folders", "meant"),
    [
        (("seg_test/seg_test/a", "seg_test/seg_test/b", "seg_train/seg_train/a", "seg_train/seg_train/b"), "seg_train"),
        (("my_test/cat", "my_test/dog", "my_train/cat", "my_train/dog"), ""),
        (("val2017", "train2017", "test2017"), ""),
    ],
    ids=str,
)
def test_the_training_split_is_the_one_that_may_be_meant(folders, meant, tmp_path):
    tree(tmp_path, *folders)
    top = next(folder.split("/")[0] for folder in folders if "train" in folder)
    with pytest.raises(Mistake) as refusal:
        find(tmp_path)
    assert f"did you mean --data.root={str(tmp_path / top / meant)!r}?" in str(refusal.value)


def test_a_test_split_is_never_the_one_that_may_be_meant(tmp_path):
    with pytest.raises(Mistake, match="no train") as refusal:
        find(tree(tmp_path, "testing_set/cat", "testing_set/dog"))
    assert "did you mean" not in str(refusal.value)


def test_folders_beside_given_splits_are_left_out_and_counted(tmp_path):
    split_tree(tmp_path, "train", "val", "extra", "old_test")
    draw(tmp_path / "loose.png")
    samples = find(tmp_path, "splits")
    assert (len(samples.keys), set(samples.given or ())) == (16, {"train", "val"})
    assert "2 folders that are no split (extra, old_test)" in samples.left_out
    assert "1 in no class folder" in samples.left_out


def test_splits_by_a_word_in_their_names_are_taken_where_it_is_said_that_they_are_splits(tmp_path):
    split_tree(tmp_path, "my-train", "my-valid", "pred")
    samples = find(tmp_path, "splits")
    assert set(samples.given or ()) == {"train", "val"}
    assert "1 folders that are no split (pred)" in samples.left_out


def test_folders_of_which_none_is_a_split_are_no_splits(tmp_path):
    with pytest.raises(Mistake, match=r"cat, dog, none is called like a split.*--data\.layout classes"):
        find(tree(tmp_path, "cat/a", "dog/a"), "splits")


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("seg_train", "seg_test"), ("Training_Set", "test set")]
)
def test_splits_within_folders_of_their_name_are_no_classes(train, test, tmp_path):
    tree(tmp_path, *(f"{split}/{split}/{name}" for split in (train, test) for name in ("cat", "dog")))
    with pytest.raises(Mistake, match="move the class folders up"):
        find(tmp_path, "splits")
    tree(tmp_path / "tubes", "train/test_tube", "train/test_strip", "test/test_tube", "test/test_strip")
    assert find(tmp_path / "tubes").target.names == ["test_strip", "test_tube"]


def test_folders_within_classes_are_of_the_class(tmp_path):
    samples = find(tree(tmp_path, "cat/2021", "cat/2022", "dog/2022/june"))
    assert samples.target.names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folders", "right"),
    [
        (("pets/cat", "pets/dog"), "pets"),
        (("a/b/cat", "a/b/dog"), "a/b"),
        (("a/b/c d/cat/old", "a/b/c d/dog"), "a/b/c d"),
        (("images/train/cat", "images/train/dog", "images/test/cat", "images/test/dog"), "images"),
        (("a/images/train/cat", "a/images/train/dog"), "a/images"),
        (("pets/cat", "pets/dog", "pets"), "pets"),
        (("images/Training/cat", "images/Training/dog", "images/val/cat", "thumbs"), "images"),
    ],
    ids=str,
)
def test_a_folder_too_high_names_the_right_one_at_once(folders, right, tmp_path):
    tree(tmp_path, *folders)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/all.xml").write_text("-")
    with pytest.raises(Mistake, match=f"--data.root='{tmp_path}/{right}'"):
        find(tmp_path)
    assert len(find(tmp_path / right).target.names) == 2


def test_one_class_is_one_class(tmp_path):
    tree(tmp_path, "a/b/cat")
    with pytest.raises(Mistake, match="add a second class"):
        find(tmp_path)
    tree(tmp_path / "split", "train/images/cat", "train/images/dog", "val/images/cat")
    with pytest.raises(Mistake, match=f"move them up, to {tmp_path}/split/train/CLASS"):
        find(tmp_path / "split")


@pytest.mark.parametrize(
    ("given", "right"), [("pets/cat", "pets"), ("parted/train/cat", "parted"), ("parted/Validation/dog", "parted")]
)
def test_a_folder_too_low_names_the_one_above(given, right, tmp_path, monkeypatch):
    tree(tmp_path, "pets/cat", "pets/dog")
    split_tree(tmp_path / "parted", "train", "Validation")
    with pytest.raises(Mistake, match=f"give the one above, --data.root='{tmp_path}/{right}'"):
        find(tmp_path / given)
    monkeypatch.chdir(tmp_path / given)
    with pytest.raises(Mistake, match=r"give the one above, --data.root='\.\.(/\.\.)?';"):
        find(".")
    find(tmp_path / right)


def test_splits_beside_the_root_are_said_to_be_left_out(tmp_path):
    split_tree(tmp_path, "train", "Valid", "test")
    assert "2 folders beside it that are called like splits (Valid, test)" in find(tmp_path / "train").left_out
    assert "beside" not in find(tmp_path).left_out


def test_loose_images_with_nothing_beside_them_are_not_sent_higher(tmp_path):
    tree(tmp_path / "alone", ".")
    with pytest.raises(Mistake, match="it must look like ROOT/CLASS/IMAGE") as refusal:
        find(tmp_path / "alone")
    assert "above" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["gone", "a broken link", "a file", "below a file"])
def test_a_root_that_is_gone_is_told_from_one_that_is_no_folder(kind, tmp_path):
    (tmp_path / "file").write_text("-")
    (tmp_path / "link").symlink_to("nowhere")
    root = tmp_path / {"gone": "x", "a broken link": "link", "a file": "file", "below a file": "file/x"}[kind]
    with pytest.raises(Mistake, match="is not a folder" if kind == "a file" else "is not there") as refusal:
        find(root)
    assert ("--data.root FOLDER" in str(refusal.value)) == (kind != "a file")


def test_images_outside_of_class_folders_are_counted(tmp_path):
    split_tree(tmp_path, "train", "test")
    draw(tmp_path / "train/loose.png")
    draw(tmp_path / "lost.png")
    assert "2 in no class folder" in find(tmp_path).left_out


@pytest.mark.parametrize("suffix", ["jfif", "avif", "webp", "tif", "JPEG", "jp2", "tga", "PPM"])
def test_what_pillow_reads_counts(suffix, tmp_path):
    tree(tmp_path, "dog")
    draw(tmp_path / f"cat/one.{suffix}")
    samples = find(tmp_path)
    assert samples.target.names == ["cat", "dog"]
    assert not samples.left_out


def test_other_files_are_left_out_and_counted(tmp_path):
    tree(tmp_path, "cat", "dog")
    for name in ("cat/a.heic", "cat/b.HEIC", "cat/c.heic", "dog/notes.txt", "dog/readme", "dog/.hidden.png"):
        (tmp_path / name).write_bytes(b"-")
    said = find(tmp_path).left_out
    for words in ("3 .heic (needs pillow-heif)", "1 .txt", "1 without a suffix", "1 hidden"):
        assert words in said


@pytest.mark.parametrize("name", ["a.heic", "a.eps", "a.npy", "a.txt"])
def test_a_class_folder_of_which_no_file_counts_is_refused(name, tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / name).write_bytes(b"-")
    with pytest.raises(Mistake, match=r"'bird' holds 1 \.\w+"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: (folder / "gone.png").symlink_to("nowhere.png"), "'bird' holds 1 broken links and no image"),
        (lambda folder: os.mkfifo(folder / "pipe.png"), "'bird' holds 1 no plain files"),
        (lambda folder: draw(folder / ".hidden.png"), "'bird' holds 1 hidden"),
        (lambda folder: draw(folder / "@eaDir/0.png"), r"'bird' holds 1 system folder \(@eaDir\)"),
        (lambda folder: (folder / "a/b").mkdir(parents=True), "'bird' is empty"),
        (lambda folder: None, "'bird' is empty"),
    ],
    ids=["broken link", "pipe", "hidden", "system", "empty folders", "empty"],
)
def test_a_class_folder_of_which_nothing_can_be_read_is_refused(make, words, tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "bird").mkdir()
    make(tmp_path / "bird")
    with pytest.raises(Mistake, match=words):
        find(tmp_path)


def test_a_class_folder_of_one_split_of_which_no_file_counts_is_refused(tmp_path):
    split_tree(tmp_path, "train", "val")
    (tmp_path / "annotations/old").mkdir(parents=True)
    (tmp_path / "annotations/old/all.xml").write_text("-")
    (tmp_path / "test/dog").mkdir(parents=True)
    draw(tmp_path / "test/cat/0.png")
    assert len(find(tmp_path).keys) == 17  # an empty folder says that the split has none of the class
    (tmp_path / "test/dog/a.heic").write_text("-")
    with pytest.raises(Mistake, match=r"'test/dog' holds 1 \.heic"):
        find(tmp_path)
    (tmp_path / "test/dog/a.heic").unlink()
    (tmp_path / "train/bird").mkdir()
    with pytest.raises(Mistake, match="'train/bird' is empty"):
        find(tmp_path)


SYSTEM = ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information", "Temporary Items"]


@pytest.mark.parametrize("name", [*SYSTEM, "Network Trash Folder", "TheVolumeSettingsFolder", "@__thumb"])
def test_folders_of_other_systems_are_no_data(name, tmp_path):
    tree(tmp_path, "cat", "dog", f"cat/{name}/0.png", name)
    samples = find(tmp_path)
    assert len(samples.keys) == 8
    assert f"2 system folder ({name})" in samples.left_out


def test_each_real_folder_is_listed_once_whatever_links_lead_to_it(tmp_path):
    tree(tmp_path / "root", "cat", "dog")
    (tmp_path / "root/cat/loop").symlink_to("..")
    (tmp_path / "root/a-cat-again").symlink_to("cat")
    samples = find(tmp_path / "root")
    assert samples.target.names == ["cat", "dog"]
    assert len(samples.keys) == 8
    assert "2 links to a folder that is listed already" in samples.left_out


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    tree(tmp_path / "all/root", "cat", "dog")
    tree(tmp_path / "all", "other")
    tree(tmp_path / "store", "cow", "pig")
    (tmp_path / "all/root/cat/loop").symlink_to("../..")
    (tmp_path / "all/root/cow").symlink_to(tmp_path / "store/cow")
    (tmp_path / "all/root/cow/up").symlink_to("..")
    (tmp_path / "all/root/pig").symlink_to(tmp_path / "store/pig")
    samples = find(tmp_path / "all/root")
    assert len(samples.keys) == 16
    assert samples.target.names == ["cat", "cow", "dog", "pig"]
    assert {key.count("/") for key in samples.keys} == {1}
    assert "2 links to a folder above" in samples.left_out


def test_a_real_folder_within_a_link_is_listed_once(tmp_path):
    tree(tmp_path / "data", "x", "y")
    tree(tmp_path / "root", "cat")
    (tmp_path / "root/a").symlink_to(tmp_path / "data/x")
    (tmp_path / "root/b").symlink_to(tmp_path / "data")
    samples = find(tmp_path / "root")
    assert len(samples.keys) == 12
    assert sorted({key.rpartition("/")[0] for key in samples.keys}) == ["a", "b/y", "cat"]


def test_what_links_in_a_class_lead_to_comes_after_classes_that_are_links(tmp_path):
    tree(tmp_path / "data", "x", "y")
    tree(tmp_path / "root", "other")
    (tmp_path / "root/a").symlink_to(tmp_path / "data/x")
    (tmp_path / "data/x/more").symlink_to(tmp_path / "data/y")
    (tmp_path / "root/b").symlink_to(tmp_path / "data/y")
    assert find(tmp_path / "root").target.names == ["a", "b", "other"]


def test_a_root_of_links_is_read(tmp_path):
    tree(tmp_path / "store", "x", "y")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cat").symlink_to(tmp_path / "store/x")
    (tmp_path / "root/dog").symlink_to(tmp_path / "store/y")
    assert len(find(tmp_path / "root").keys) == 8


def test_what_is_no_plain_file_is_left_out(tmp_path):
    tree(tmp_path, "cat", "dog")
    os.mkfifo(tmp_path / "cat/pipe.png")
    (tmp_path / "cat/zero.png").symlink_to("/dev/zero")
    (tmp_path / "cat/gone.png").symlink_to("nowhere.png")
    listing = list_images(tmp_path)
    assert len(listing.paths) == 8
    assert sum(listing.left_out.values()) == 3


def test_names_that_are_not_utf8_are_refused_by_name(tmp_path):
    tree(tmp_path, "cat", "dog")
    os.rename(os.fsencode(tmp_path / "cat/0.png"), os.fsencode(tmp_path / "cat") + b"/gr\xfcn.png")
    with pytest.raises(Mistake, match=r"gr\\xfcn\.png"):
        find(tmp_path)


@pytest.mark.parametrize("name", [b"gr\xfcn", b"Icon\r"])
def test_a_folder_whose_name_cannot_be_written_is_refused(name, tmp_path):
    tree(tmp_path, "cat", "dog")
    os.rename(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(Mistake, match="a name in"):
        find(tmp_path)


@pytest.mark.parametrize(
    "name", [b"Icon\r", b".gr\xfcn.png", b"gr\xfcn.txt", b"notes.gr\xfcn", b"a.\x1b[31m", b".\x1b"]
)
def test_names_of_what_is_left_out_may_be_any(name, tmp_path):
    tree(tmp_path, "cat", "dog")
    with open(os.fsencode(tmp_path / "cat") + b"/" + name, "wb"):
        pass
    samples = find(tmp_path)
    assert len(samples.keys) == 8
    assert samples.left_out.startswith("1 ")
    assert samples.left_out.encode().isascii()
    assert samples.left_out.isprintable()


@pytest.mark.parametrize("flag", ["root", "predict_root", "cache_root"])
def test_a_folder_given_that_is_no_utf8_is_refused_in_one_line(flag, run, tmp_path, capfd):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn")
    tree(Path(folder), "cat", "dog")
    assert run("fit", f"--data.{flag}={folder}") == 2
    said = capfd.readouterr().err
    assert f"--data.{flag}=" in said
    assert "is no UTF-8" in said
    assert said.count("\n") == 1


def test_half_a_character_in_a_configuration_is_no_folder():
    with pytest.raises(Mistake, match=r"'data/\\ud800' is no UTF-8"):
        ImageData("data/\ud800")


def test_one_class_in_two_unicode_forms_is_one(tmp_path):
    composed, parted = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path, composed, parted, "tea")
    samples = find(tmp_path)
    assert samples.target.names == [composed, "tea"]
    assert len(samples.keys) == 12


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT", "ｃａｔ"])
def test_class_names_that_look_alike_are_refused_unless_they_are_meant(other, tmp_path):
    tree(tmp_path, "cat", other)
    with pytest.raises(Mistake, match="look alike"):
        find(tmp_path)
    assert len(find(tmp_path, allow_conflicts=True).target.names) == 2


def test_equal_content_under_two_labels_is_refused_unless_it_is_meant(tmp_path):
    root = tree(tmp_path / "root", "cat", "dog", images=12)
    (root / "dog/copy.png").write_bytes((root / "cat/3.png").read_bytes())
    options = {"num_workers": 0, "batch_size": 2}
    with pytest.raises(Mistake, match=r"cat/3\.png \(cat\) and dog/copy\.png \(dog\) are the same content"):
        ImageData(str(root), **options).setup("fit")
    ImageData(str(root), allow_conflicts=True, **options).setup("fit")


def test_a_run_in_the_folder_of_the_images_is_no_data_for_the_next(run, tmp_path):
    tree(tmp_path, "cat", "dog", images=12)
    for _ in range(2):
        assert run("fit", "--data.root=.", "--data.batch_size=4", "--trainer.max_epochs=1") == 0


def test_what_is_there_and_what_is_left_out_is_said_before_training(run, shapes, tmp_path, capsys):
    (tmp_path / "shapes").symlink_to(shapes)
    assert run("fit", "--config=debug") == 0
    said = capsys.readouterr().out
    assert "data: 48 train, 12 val, 12 test" in said
    assert "  left    16 / 4 / 4" in said


def test_many_classes_are_summed_up(tmp_path):
    tree(tmp_path, *(f"class{number:02d}" for number in range(25)))
    data = ImageData(str(tmp_path), num_workers=0, val_fraction=0.25, test_fraction=0.25)
    data.setup("fit")
    assert "25 classes, each of 2 to 2 train, 1 to 1 val, 1 to 1 test: class00 … class24" in data.summary()


def test_a_single_file_is_predicted(run, shapes):
    assert run("fit", "--trainer.max_epochs=1") == 0
    assert run("predict", f"--data.predict_root={shapes / 'left/000.png'}") == 0
    rows = Path("runs/small/version_0/predictions.csv").read_text().splitlines()
    assert len(rows) == 2
    assert rows[1].startswith("000.png,")
