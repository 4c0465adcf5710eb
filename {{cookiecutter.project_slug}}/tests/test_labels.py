"""Tables of labels as people have them: what is inferred and said, what is refused because it means two things, and
the rows that cannot be used."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from project_package.engine.installing import of_extra
from project_package.engine.labels import Asked, Table, read_labels
from project_package.engine.mistakes import Mistake
from project_package.engine.submission import Submission
from project_package.engine.targets import Classes, Labels, Numbers

NAMES = ("a", "b", "c", "d", "e", "f")


def images(folder: Path, *names: str, suffix: str = ".png") -> Path:
    """Put files where images are looked for; what is in them is read by nobody here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        (folder / f"{name}{suffix}").touch()
    return folder


def table(path: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


def rows(header: str, *values: str, suffix: str = ".png") -> list[str]:
    """Write a table with a row for each of the images a, b, c, …"""
    return [header, *(f"{name}{suffix},{value}" for name, value in zip(NAMES, values, strict=False))]


def read(path: Path, root: Path | None = None, **flags: Any) -> Table:
    """Read a table as a command does that asks for nothing but these flags."""
    return read_labels(Asked(str(path), str(root or path.parent), **flags))


def read_rows(folder: Path, *lines: str, **flags: Any) -> Table:
    images(folder)
    return read(table(folder / "labels.csv", *lines), **flags)


def refused(path: Path, root: Path | None = None, **flags: Any) -> str:
    """Return the one line in which a table is refused."""
    with pytest.raises(Mistake) as refusal:
        read(path, root, **flags)
    said = str(refusal.value)
    assert "\n" not in said
    assert said.endswith((".", ".csv."))
    return said


def offenders(stem: str = "labels") -> list[tuple[str, str, str, str]]:
    with Path(f"{stem}_offenders.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["row", "image", "value", "reason"]
    return [(row, image, value, reason) for row, image, value, reason in found]


# Where the images lie


def test_suffixless_ids_beside_their_folder_are_found_as_kaggle_has_them(tmp_path):
    images(tmp_path / "train", suffix=".jpg")
    images(tmp_path / "test", "x", "y", suffix=".jpg")
    read_in = read(table(tmp_path / "train.csv", *rows("id,breed", *"pqpqpq", suffix="")))
    assert read_in.samples.keys == [f"train/{name}.jpg" for name in NAMES]
    assert read_in.samples.target == Classes(["p", "q"])
    assert read_in.samples.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert read_in.samples.targets.dtype == np.int64
    assert read_in.settled == {
        "root": str(tmp_path),
        "task": "multiclass",
        "image_column": "id",
        "label_columns": ["breed"],
        "label_delimiter": None,
        "split_column": None,
        "group_column": None,
        "weight_column": None,
    }
    assert f"6 images in {tmp_path / 'train'} by id without suffix; 2 classes by breed" in read_in.remark
    assert "\n" not in read_in.remark


@pytest.mark.parametrize("root", ["digits", "nowhere"])
def test_the_folder_of_the_table_takes_the_place_of_a_root_that_is_not_there(root, tmp_path):
    path = table(images(tmp_path / "set") / "labels.csv", *rows("image,label", *"pqpqpq"))
    found = read(path, Path(root))
    assert found.root == tmp_path / "set"
    assert f"--data.root is {tmp_path / 'set'}, the folder of the table" in found.remark


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        *[
            ("{0}.png", "{0}.png"),
            ("./{0}.png", "{0}.png"),
            ("deep/{0}", "deep/{0}.jpg"),
            ("deep//{0}.jpg", "deep/{0}.jpg"),
        ],
        *[("deep/../{0}.png", "{0}.png"), ("{root}/{0}.png", "{0}.png"), ("{root}/deep/{0}", "deep/{0}.jpg")],
    ],
)
def test_paths_are_kept_relative_to_the_root(cell, key, tmp_path):
    images(images(tmp_path) / "deep", suffix=".jpg")
    lines = [f"{cell.format(name, root=tmp_path)},{name in 'ace'}" for name in NAMES]
    assert read(table(tmp_path / "t.csv", "path,label", *lines)).samples.keys == [key.format(name) for name in NAMES]


def test_paths_may_be_relative_to_the_table_above_the_root(tmp_path):
    root = images(tmp_path / "pictures")
    path = table(tmp_path / "t.csv", "path,label", *(f"pictures/{name}.png,{name in 'ace'}" for name in NAMES))
    assert read(path, root).samples.keys == [f"{name}.png" for name in NAMES]


@pytest.mark.parametrize("cell", ["../other/{0}.png", "{other}/{0}.png", "link/{0}.png", "l{0}"])
def test_paths_that_leave_the_root_are_refused_unless_they_are_meant(cell, tmp_path):
    root, other = images(tmp_path / "root", "own"), images(tmp_path / "other")
    (root / "link").symlink_to(other)
    for name in NAMES:
        (root / f"l{name}.png").symlink_to(other / f"{name}.png")
    lines = [f"{cell.format(name, other=other)},{name in 'ace'}" for name in NAMES]
    path = table(root / "t.csv", "path,label", *lines)
    said = refused(path)
    assert "has 6 rows that" in said
    assert "--data.outside true" in said
    found = read(path, outside=True).samples.keys
    assert found[0] == cell.format("a", other=other) + (".png" if cell.startswith("l{") else "")
    assert all((root / key).is_file() for key in found)


def test_links_inside_of_the_root_are_followed(tmp_path):
    images(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    path = table(tmp_path / "t.csv", "path,label", *(f"link/{name}.png,{name in 'ace'}" for name in NAMES))
    assert read(path).samples.keys[0] == "link/a.png"


def test_a_name_in_the_characters_of_a_mac_is_found(tmp_path):
    images(tmp_path, "cafe\u0301", "b", "c", "d")
    path = table(tmp_path / "t.csv", "image,label", "caf\xe9,p", "b,q", "c,p", "d,q")
    assert read(path).samples.keys[0] == "cafe\u0301.png"


def test_an_id_of_two_files_is_an_offender(tmp_path):
    images(images(tmp_path), "a", suffix=".jpg")
    said = refused(table(tmp_path / "labels.csv", *rows("id,label", *"pqpqpq", suffix="")))
    assert "1 × several files have this name, with different suffixes" in said


def test_a_name_that_is_a_file_counts_before_what_begins_like_it(tmp_path):
    images(images(tmp_path), "a.png", suffix=".jpg")
    assert read(table(tmp_path / "t.csv", *rows("image,label", *"pqpqpq"))).samples.keys[0] == "a.png"


def test_images_in_two_folders_are_refused_with_the_flag_that_decides(tmp_path):
    images(tmp_path / "images")
    images(tmp_path / "masks")
    path = table(tmp_path / "t.csv", *rows("id,label", *"pqpqpq", suffix=""))
    assert f"--data.root {tmp_path / 'images'}" in refused(path)
    assert read(path, tmp_path / "masks").samples.keys[0] == "a.png"


def test_two_columns_of_files_are_refused_with_the_flag_that_decides(tmp_path):
    images(images(tmp_path), "ma", "mb", "mc", "md")
    path = table(tmp_path / "t.csv", "left,right,label", *(f"{n}.png,m{n}.png,{n in 'ac'}" for n in "abcd"))
    assert "--data.image_column left" in refused(path)
    found = read(path, image_column="right", label_columns=["label"])
    assert found.samples.keys[0] == "ma.png"
    assert "not used: left" in found.remark


def test_labels_that_are_names_of_files_too_do_not_hide_the_images(tmp_path):
    images(tmp_path, *"012345")
    path = table(tmp_path / "t.csv", "id,label", *(f"{n},{n % 2}" for n in range(6)))
    assert read(path).samples.keys == [f"{n}.png" for n in range(6)]


def test_where_no_column_names_files_the_folders_are_said(tmp_path):
    images(tmp_path / "inner", "x")
    said = refused(table(tmp_path / "t.csv", *rows("id,label", *"pqpqpq")))
    assert f"in {tmp_path}, {tmp_path / 'inner'}, so there are no images" in said
    assert "--data.root FOLDER" in said
    assert "'label' does not name" in refused(tmp_path / "t.csv", image_column="label")


def test_a_text_beside_each_image_is_no_image(tmp_path):
    images(images(tmp_path), suffix=".txt")
    path = table(tmp_path / "t.csv", "image,caption,label", *(f"{n}.png,{n}.txt,{n in 'ace'}" for n in NAMES))
    assert read(path, label_columns=["label"]).settled["image_column"] == "image"


# What is learned


TASKS = {
    "text": ("label", list("pqpqpq"), Classes(["p", "q"]), [0, 1, 0, 1, 0, 1]),
    "integers": ("label", ["10", "9", "10", "9", "10", "9"], Classes(["9", "10"]), [1, 0, 1, 0, 1, 0]),
    "booleans": ("ok", ["true", "false"] * 3, Classes(["false", "true"]), [1, 0, 1, 0, 1, 0]),
    "names with spaces": ("d", ["red fox", "wolf"] * 3, Classes(["red fox", "wolf"]), [0, 1] * 3),
    "breeds": (
        *("d", ["golden retriever", "labrador retriever", "poodle"] * 2),
        *(Classes(["golden retriever", "labrador retriever", "poodle"]), [0, 1, 2] * 2),
    ),
    "zeros": ("d", ["007", "010"] * 3, Classes(["007", "010"]), [0, 1] * 3),
    "fractions": (
        "age",
        ["1.5", "2", "-3e1", ".5", "4.0", "+1"],
        Numbers(["age"]),
        [[1.5], [2], [-30], [0.5], [4], [1]],
    ),
    "several fractions": ("x,y", ["1.5,2.5"] * 6, Numbers(["x", "y"]), [[1.5, 2.5]] * 6),
    "flags": ("x,y", ["0,1", "1,1", "0,0"] * 2, Labels(["x", "y"]), [[0, 1], [1, 1], [0, 0]] * 2),
    "words": ("x,y", ["yes,False", "no,TRUE"] * 3, Labels(["x", "y"]), [[1, 0], [0, 1]] * 3),
    "semicolons": (
        *("tags", ["p;q", "p", "", "q; r", "r;p", "r"]),
        *(Labels(["p", "q", "r"]), [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]),
    ),
    "spaces": ("tags", ["p q", "p", "q", "q p r", "r", "p"], Labels(["p", "q", "r"]), None),
    "bars": ("tags", ["p|q", "p", "q", "q|p|p", "p", ""], Labels(["p", "q"]), None),
    "numbers of labels": ("tags", ["1 10", "1", "9", "10 9 1", "9", "10"], Labels(["1", "9", "10"]), None),
}


@pytest.mark.parametrize(("header", "values", "target", "targets"), TASKS.values(), ids=TASKS.keys())
def test_the_task_is_inferred_where_it_is_certain(header, values, target, targets, tmp_path):
    found = read_rows(tmp_path, *rows(f"image,{header}", *values))
    assert found.samples.target == target
    assert found.settled["task"] == target.task
    assert targets is None or found.samples.targets.tolist() == targets
    again = read(tmp_path / "labels.csv", **{**found.settled, "root": None})  # as a run's config has it
    assert again.samples.targets.tolist() == found.samples.targets.tolist()
    assert again.samples.targets.dtype == {"multiclass": np.int64, "multilabel": np.uint8}.get(target.task, np.float64)


AMBIGUOUS = {
    "an age or a class": ("age", ["31", "32", "33", "34", "35", "36"], "--data.task"),
    "integers of a spreadsheet": ("grade", ["1.0", "2.0"] * 3, "--data.task"),
    "captions": ("text", [f"caption {n}" for n in NAMES], "--data.task"),
    "names in pairs": (
        "what",
        ["red car", "blue car", "red bus", "blue bus", "red car", "blue car"],
        "label_delimiter ' '",
    ),
    "names with an adjective": (
        "what",
        ["dense forest", "forest", "urban", "dense urban", "forest", "urban"],
        "--data.task",
    ),
    "rare semicolons": ("what", ["p;q", "r", "r", "p;q", "r", "r"], "--data.label_delimiter ';'"),
    "lists": ("what", ["\"['p', 'q']\"", "['r']"] * 3, "--data.task"),
    "two kinds": ("x,y", ["p,1.5", "q,2.5"] * 3, "--data.label_columns '[y]'"),
    "an index beside it": ("n,label", [f"{n},{n % 2}" for n in range(6)], "--data.label_columns '[label]'"),
    "nothing": ("weight", ["1", "2"] * 3, "--data.label_columns"),
}


@pytest.mark.parametrize(("header", "values", "remedy"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_could_be_read_in_two_ways_is_refused_with_the_flag_that_decides(header, values, remedy, tmp_path):
    images(tmp_path)
    assert remedy in refused(table(tmp_path / "labels.csv", *rows(f"image,{header}", *values)))


def test_a_flag_decides_what_a_column_is(tmp_path):
    lines = rows("image,age", "31", "32.0", "33", "34", "31", "36")
    assert read_rows(tmp_path, *lines, task="regression").samples.targets[:2].tolist() == [[31], [32]]
    assert read_rows(tmp_path, *lines, task="multiclass").samples.target == Classes(["31", "32", "33", "34", "36"])
    lines = rows("image,what", "red car", "blue bus", "red bus", "blue car", "", "red car")
    assert read_rows(tmp_path, *lines, label_delimiter=" ").samples.target == Labels(["blue", "bus", "car", "red"])
    lines = rows("image,weight", "1.5", "2.5", "1", "2", "1", "2")
    found = read_rows(tmp_path, *lines, label_columns=["weight"])
    assert found.samples.target == Numbers(["weight"])
    assert found.samples.weights is None


def test_columns_of_zero_and_one_are_labels_and_on_request_classes(tmp_path):
    lines = rows("image,cat,dog", "0,1", "1,0", "0,1", "1,0", "0,1", "1,0")
    found = read_rows(tmp_path, *lines)
    assert found.samples.target == Labels(["cat", "dog"])
    assert "--data.task multiclass" in found.remark
    found = read_rows(tmp_path, *lines, task="multiclass")
    assert found.samples.target == Classes(["cat", "dog"])
    assert found.samples.targets.tolist() == [1, 0, 1, 0, 1, 0]
    lines[2] = "b.png,1,1"
    assert "1 × not exactly one class is 1" in refused(table(tmp_path / "labels.csv", *lines), task="multiclass")


def test_flags_that_contradict_the_table_are_refused(tmp_path):
    images(tmp_path)
    path = table(tmp_path / "labels.csv", *rows("image,label", *"pqpqpq"))
    assert "did you mean" in refused(path, label_columns=["labels"]) or "choose from" in refused(
        path, label_columns=["labels"]
    )
    assert "is asked to be two things" in refused(path, label_columns=["label"], group_column="label")
    assert "--data.label_delimiter" in refused(path, label_delimiter=";", task="multiclass")
    assert "parts nothing" in refused(path, label_delimiter="")
    assert "there is no logarithm to learn" in refused(path, log_target=True)
    assert "holds no numbers (such as 'p')" in refused(path, task="regression")
    assert "one class" in refused(table(path, *rows("image,label", *"pppppp")), task="multiclass")
    assert "is unknown" in refused(path, task="detection")


def test_names_of_classes_that_look_alike_are_said_to_be_two(tmp_path):
    found = read_rows(tmp_path, *rows("image,label", "Cat", "cat", "Cat", "cat", "dog", "dog"))
    assert found.samples.remarks == [
        "'Cat' and 'cat' look alike and are learned as two: write them alike if they are one"
    ]


def test_one_class_in_two_unicode_forms_is_one(tmp_path):
    found = read_rows(tmp_path, *rows("image,label", "caf\xe9", "cafe\u0301", "tea", "tea", "caf\xe9", "tea"))
    assert found.samples.target == Classes(["caf\xe9", "tea"])


# Split, group, weight


@pytest.mark.parametrize(
    ("header", "words", "given"),
    [
        ("split", ["train", "Valid", "TEST"], ["train", "val", "test"]),
        ("split", ["training", "validation", "testing"], ["train", "val", "test"]),
        ("is_valid", ["False", "True", "False"], ["train", "val", "train"]),
        ("is_valid", ["0", "1", "0"], ["train", "val", "train"]),
        ("is_valid", ["no", "yes", "test"], ["train", "val", "test"]),
    ],
)
def test_the_split_of_each_row_is_taken_from_the_table(header, words, given, tmp_path):
    lines = [f"{name}.png,p,{word}" for name, word in zip(NAMES, words * 2, strict=True)]
    lines += [f"{name}.png,q,train" if header == "split" else f"{name}.png,q,0" for name in "gh"]
    images(tmp_path, "g", "h")
    found = read_rows(tmp_path, f"image,label,{header}", *lines)
    assert found.samples.given == given * 2 + ["train", "train"]
    assert f"splits by {header}" in found.remark


def test_the_flag_of_a_test_split_is_taken_by_its_flag_alone(tmp_path):
    lines = rows("image,label,is_test", "p,0", "q,0", "p,1", "q,1", "p,0", "q,0")
    images(tmp_path)
    assert "2 columns that could be labels, label, is_test" in refused(table(tmp_path / "t.csv", *lines))
    found = read(tmp_path / "t.csv", split_column="is_test")
    assert found.samples.given == ["train", "train", "test", "test", "train", "train"]


@pytest.mark.parametrize(
    ("name", "given"),
    [("is_train", ["val", "train"]), ("isTest", ["train", "test"]), ("Validation", ["train", "val"]), ("split", None)],
)
def test_what_zero_and_one_mean_of_a_split_is_told_by_its_name_alone(name, given, tmp_path):
    images(tmp_path)
    path = table(tmp_path / "labels.csv", *rows(f"image,label,{name}", "p,0", "q,0", "p,1", "q,1", "p,1", "q,0"))
    if given is None:
        assert "names no row for training" in refused(path, split_column=name)
    else:
        assert read(path, split_column=name).samples.given == [given[flag] for flag in (0, 0, 1, 1, 1, 0)]


def test_groups_and_weights_are_taken_by_name_or_by_flag(tmp_path):
    lines = rows("image,label,group,weight", "p,x,1", "q,x,0.5", "p,y,0", "q,y,2", "p,z,1", "q,z,1")
    samples = read_rows(tmp_path, *lines).samples
    assert samples.groups is not None
    assert samples.weights is not None
    assert samples.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert samples.weights.tolist() == [1, 0.5, 0, 2, 1, 1]
    lines = rows("image,label,patient,w", "p,x,1", "q,x,0.5", "p,y,0", "q,y,2", "p,z,1", "q,z,1")
    samples = read_rows(tmp_path, *lines, group_column="patient", weight_column="w").samples
    assert samples.groups is not None
    assert samples.weights is not None
    assert (samples.groups.tolist(), samples.weights.sum()) == ([0, 0, 1, 1, 2, 2], 5.5)


# Rows that cannot be used


OFFENDERS = {
    "a missing file": ("image,label", "zz.png,p", "the file is not there", {}),
    "a path of Windows": ("image,label", "x\\y.png,p", "the file is not there (paths are written with /)", {}),
    "no file": ("image,label", ",p", "no image is named", {}),
    "a repeated row": ("image,label", "a.png,p", "the row repeats row 2", {}),
    "the same file in other words": ("image,label", "./a.png,p", "the row repeats row 2", {}),
    "a second class": ("image,label", "a.png,q", "the image has another target in row 2", {}),
    "a class called nan": (
        "image,label",
        "g.png,NaN",
        "no class is named (if that means no label: --data.task multilabel)",
        {},
    ),
    "an integer called NA": (
        "image,n",
        "g.png,NA",
        "no class is named (if that means no label: --data.task multilabel)",
        {},
    ),
    "NA among integers as fractions": (
        *("image,whole", "g.png,null", "no class is named (if that means no label: --data.task multilabel)"),
        {"task": "multiclass"},
    ),
    "no class": ("image,label", "g.png,", "no class is named (if that means no label: --data.task multilabel)", {}),
    "too few cells": ("image,label", "g.png", "the row has 1 cells and the header 2", {}),
    "too many cells": ("image,label", "g.png,p,q", "the row has 3 cells and the header 2", {}),
    "no number": ("image,age", "g.png,old", "age is no finite number", {}),
    "NaN": ("image,age", "g.png,NaN", "age is no finite number", {}),
    "infinity": ("image,age", "g.png,-inf", "age is no finite number", {}),
    "a number too large": ("image,age", "g.png,1e999", "age is no finite number", {}),
    "a number with underscores": ("image,age", "g.png,1_000.5", "age is no finite number", {}),
    "an empty number": ("image,age", "g.png,", "age is no finite number", {}),
    "no logarithm": ("image,age", "g.png,0", "age has no logarithm (--data.log_target true)", {"log_target": True}),
    "a split": (
        "image,label,split",
        "g.png,p,tarin",
        "split names no split (train, val or test)",
        {},
    ),
    "a class for validation": ("image,label,split", "g.png,r,val", "stands in val and in no row of training", {}),
    "a group": ("image,label,group", "g.png,p,", "group names no group", {}),
    "a weight below zero": ("image,label,weight", "g.png,p,-1", "weight is no number from 0 up", {}),
    "no weight": ("image,label,weight", "g.png,p,", "weight is no number from 0 up", {}),
    "control characters": ("image,label", "g.png,p\x1b[31m", "control characters", {}),
    "neither": ("image,x,y", "g.png,1,2", "y is neither 0 nor 1", {"task": "multilabel", "label_columns": ["x", "y"]}),
}
FILL = {
    "n": "12",
    "whole": ("1.0", "2.0"),
    "label": "pq",
    "age": ("1.5", "2.5"),
    "split": ("train",),
    "group": "xy",
    "weight": "12",
    "x": "01",
    "y": "10",
}


@pytest.mark.parametrize(("header", "row", "reason", "flags"), OFFENDERS.values(), ids=OFFENDERS.keys())
def test_a_row_that_cannot_be_used_is_listed_with_its_reason(header, row, reason, flags, tmp_path):
    images(tmp_path, *NAMES, "g")
    fill = [FILL[name] for name in header.split(",")[1:]]
    lines = [f"{name}.png," + ",".join(values[i % len(values)] for values in fill) for i, name in enumerate(NAMES)]
    said = refused(table(tmp_path / "labels.csv", header, *lines, row), **flags)
    assert f"row 8: {row.split(',')[-1]!r}" in said or "row 8: " in said
    assert reason in said
    found = offenders()
    assert [(number, why) for number, _, _, why in found] == [("8", reason)]


def test_offenders_are_counted_by_kind_listed_up_to_ten_and_all_written(tmp_path):
    images(tmp_path)
    lines = [f"gone{n}.png,p" for n in range(30)] + ["b.png,q", "b.png,p"]
    more = [f"ok{n}" for n in range(70)]
    images(tmp_path, *more)
    path = table(
        tmp_path / "my labels.csv", *rows("image,label", *"pqpqpq"), *lines, *(f"{name}.png,p" for name in more)
    )
    said = refused(path)
    assert "has 32 rows that" in said
    assert "30 × the file is not there, 1 × the row repeats row, 1 × the image has another target in row" in said
    assert said.count("the file is not there") == 11
    assert said.endswith("all are in my labels_offenders.csv.")
    assert len(offenders("my labels")) == 32


def test_a_label_that_training_lacks_is_an_offender_for_several_labels(tmp_path):
    lines = rows("image,tags,split", "p,train", "q,train", "p;q,train", "q;p,val", "p;r,test", "r,val")
    images(tmp_path)
    assert "r" in refused(table(tmp_path / "labels.csv", *lines), label_delimiter=";")
    assert [(row, value) for row, _, value, _ in offenders()] == [("6", "r"), ("7", "r")]


def test_a_table_without_a_row_for_training_is_refused(tmp_path):
    images(tmp_path)
    path = table(tmp_path / "t.csv", *rows("image,label,split", *["p,test", "q,test"] * 3))
    assert "names no row for training" in refused(path)


def test_weights_that_are_all_zero_are_refused(tmp_path):
    images(tmp_path)
    path = table(tmp_path / "t.csv", *rows("image,label,weight", *["p,0", "q,0"] * 3))
    assert "are all 0" in refused(path)


def test_a_label_called_nan_is_an_offender(tmp_path):
    path = table(images(tmp_path / "set") / "labels.csv", *rows("image,label", "p;q", "nan", "q;None", "p", "q", "p;q"))
    with pytest.raises(Mistake, match="2 × a label is called nan or none"):
        read(path, tmp_path / "set", task="multilabel")


def test_large_integers_stay_classes_of_their_own(tmp_path):
    whole = ["12345678901234567", "12345678901234568", "5.0"] * 2
    path = table(images(tmp_path / "set") / "labels.csv", *rows("image,label", *whole))
    found = read(path, tmp_path / "set", task="multiclass")
    assert found.samples.target.names == ["12345678901234567", "12345678901234568", "5"]


def test_a_number_with_the_name_of_a_true_value_is_refused(tmp_path):
    path = table(images(tmp_path / "set") / "labels.csv", *rows("image,v,true_v", *["0.5,1.5", "0.25,2.5"] * 3))
    with pytest.raises(Mistake, match="'true_v'"):
        read(path, tmp_path / "set")


def test_none_switches_a_column_off_that_is_known_by_its_name(tmp_path):
    path = table(images(tmp_path / "set") / "labels.csv", *rows("image,length,weight", *["0.5,1.5", "0.25,-2.5"] * 3))
    found = read(path, tmp_path / "set", weight_column="none")
    assert found.samples.weights is None
    assert found.samples.target.names == ["length", "weight"]


def test_what_is_written_of_offenders_is_no_formula(tmp_path):
    images(tmp_path)
    refused(table(tmp_path / "labels.csv", *rows("image,label", *"pqpqpq"), "=HYPERLINK(1),p", "@x,p"))
    assert [image for _, image, _, _ in offenders()] == ["'=HYPERLINK(1)", "'@x"]


def test_offenders_that_cannot_be_written_are_said_all_the_same(tmp_path):
    images(tmp_path)
    (tmp_path / "labels_offenders.csv").mkdir()
    said = refused(table(tmp_path / "labels.csv", *rows("image,label", *"pqpqpq"), "zz.png,p"))
    assert "could not be written" in said


# How a file is written


WRITTEN = {
    "BOM": {"encoding": "utf-8-sig"},
    "CRLF": {"end": "\r\n"},
    "CR": {"end": "\r"},
    "UTF-16": {"encoding": "utf-16"},
    "UTF-16 without a mark": {"encoding": "utf-16-le"},
    "UTF-16, the other way, without a mark": {"encoding": "utf-16-be"},
    "UTF-32": {"encoding": "utf-32"},
}


@pytest.mark.parametrize("how", WRITTEN.values(), ids=WRITTEN.keys())
def test_a_text_is_read_however_it_is_encoded(how, tmp_path):
    images(tmp_path)
    path = table(tmp_path / "t.csv", *rows("image,label", *["\xe4", "q"] * 3), **how)
    found = read(path)
    assert found.settled["image_column"] == "image"
    assert found.samples.target == Classes(["q", "\xe4"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "CSV"])
def test_the_delimiter_is_found_out(delimiter, suffix, tmp_path):
    images(tmp_path)
    lines = [line.replace(",", f" {delimiter} ") for line in rows("image,label", *"pqpqpq")]
    assert read(table(tmp_path / f"t.{suffix}", *lines)).samples.target == Classes(["p", "q"])


def test_quotes_keep_delimiters_and_line_breaks(tmp_path):
    lines = [f'{name}.png, "a caption, of\n{name} with ""quotes"""," {"pq"[n % 2]} "' for n, name in enumerate(NAMES)]
    found = read_rows(tmp_path, "image,caption, label ", *lines, label_columns=["label"])
    assert found.samples.target == Classes(["p", "q"])
    assert found.samples.keys[-1] == "f.png"


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path):
    images(tmp_path)
    lines = ["", "image,label", *(f'{name}.png,"p\n{n % 2}"' for n, name in enumerate("abcd")), "", "zz.png,q"]
    assert "row 8: 'zz.png'" in refused(table(tmp_path / "labels.csv", *lines), task="multiclass")


@pytest.mark.parametrize("lines", [["sep=;", "image;label"], ["image;label"], ["image;label;"]])
def test_semicolons_with_decimal_commas_are_read(lines, tmp_path):
    end = ";" if lines[-1].endswith(";") else ""
    values = [
        f"{name}.png;{value}{end}"
        for name, value in zip(NAMES, ["0,5", "-1,25", "3", "4,0", "5,125", "6"], strict=True)
    ]
    found = read_rows(tmp_path, *lines, *values)
    assert found.samples.targets.ravel().tolist() == [0.5, -1.25, 3, 4, 5.125, 6]


@pytest.mark.parametrize("values", [["1,234", "5,678"], ["1,5", "2.5"]])
def test_commas_that_may_be_thousands_are_refused(values, tmp_path):
    images(tmp_path)
    lines = [f"{name}.png;{values[n % 2]}" for n, name in enumerate(NAMES)]
    assert "write" in refused(table(tmp_path / "t.csv", "image;age", *lines))


UNREADABLE = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n  \n", "is empty"),
    "a header only": (b"image,label\n", "has no rows"),
    "one column": (b"image\na.png\n", "has one column"),
    "zero bytes": (b"image,label\na.png,p\0\nb.png,q\n", "holds zero bytes (line 2)"),
    "Latin-1": ("image,label\na.png,\xe9\n".encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8"),
    "half of UTF-16": ("image,label\na.png,p\n".encode("utf-16")[:-1], "is no text in UTF-16"),
    "names twice": (b"image,label,label\na.png,p,q\n", "has 1 column names twice, the first is 'label'"),
    "Latin-1 further below": (b"image,label\na.png,p\nb.png,\xe9\n", "is no text in UTF-8 (line 3)"),
    "a tab in a name": (b'image,"la\tbel"\na.png,p\n', "'la\\tbel'"),
    "control characters in a name": (b"image,la\x1bbel\na.png,p\n", "'la\\x1bbel'"),
    "no header": (b"a.png,p\nb.png,q\n", "is no header"),
    "no header, without suffix": (b"a,p\nb,q\nc,p\nd,q\n", "is no header"),
    "an open quote": (b'image,label\na.png,"p\nb.png,q\n', "mend the quotes there"),
    "a gigantic cell": (b"image,label\na.png," + b"x" * 200_000 + b"\n", "field larger than field limit"),
    "a gigantic line": (b"image,label\n" + b"x" * 2**25, "characters in line 2"),
    "two delimiters": (b"image,a;b\na.png,1;2\nb.png,2;3\n", "can be parted by comma or semicolon"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be"),
}


@pytest.mark.parametrize(("content", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_file_that_is_no_table_is_refused_in_one_line(content, reason, tmp_path):
    images(tmp_path)
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    said = refused(path)
    assert reason in said or (reason == "cannot be" and "not known" in said), said


def test_what_is_no_plain_file_is_refused_and_nothing_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv", "none.csv", "t.xlsx", "none.parquet"):
        assert "so" in refused(tmp_path / name)


def test_ten_thousand_columns_are_read(tmp_path):
    images(tmp_path)
    header = ",".join(f"label{n}" for n in range(10_000))
    lines = [f"{name}.png," + ",".join("01"[(n + i) % 3 == 0] for n in range(10_000)) for i, name in enumerate(NAMES)]
    found = read_rows(tmp_path, f"image,{header}", *lines)
    assert found.samples.targets.shape == (6, 10_000)
    assert len(found.remark) < 500


def test_many_classes_are_read_and_columns_without_a_name_are_left_out(tmp_path):
    names = [f"i{n}" for n in range(2000)]
    images(tmp_path, *names)
    lines = [f"{n},{name},class{n // 2}" for n, name in enumerate(names)]
    found = read(table(tmp_path / "t.csv", ",id,label", *lines))
    assert len(found.samples.target.names) == 1000
    assert found.settled["label_columns"] == ["label"]


def test_a_table_is_kept_for_the_second_question_alone(tmp_path):
    images(tmp_path)
    path = table(tmp_path / "t.csv", *rows("image,label", *"pqpqpq"))
    first = read(path)
    assert read(path) is first
    assert read(path) is not first
    table(path, *rows("image,label", *"pqrpqr"))
    assert read(path).samples.target.names == ["p", "q", "r"]


def test_a_parquet_file_is_read_like_a_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images(tmp_path)
    columns = {
        "image": pyarrow.array([f"{name}.png" for name in NAMES]).dictionary_encode(),
        "age": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0],
        "is_valid": [False, True] * 3,
        "boxes": [[1, 2]] * 6,
        "group": [1, 1, 2, 2, 3, 3],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet").samples
    assert found.target == Numbers(["age"])
    assert found.given == ["train", "val"] * 3
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    assert "cannot be read as Parquet" in refused(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert of_extra("parquet") in refused(tmp_path / "t.parquet")


# A submission


KEYS = ["x/b.jpg", "x/a.jpg", "x/c.jpg"]
PROBABILITIES = [["0.25", "0.75"], ["1", "0"], ["0.5", "0.5"]]
CHOSEN = [["q"], ["p"], ["p"]]


def submission_rows(like, keys, target, values, chosen):
    return Submission(like, keys, target, "images", ("--data.predict_root", "FOLDER")).rows(values, chosen)


@pytest.mark.parametrize("form", ["{0}", "{0}.jpg", "x/{0}.jpg", "x/{0}"])
def test_a_submission_has_the_columns_and_rows_of_its_sample(form, tmp_path):
    ids = [form.format(name) for name in "abc"]
    like = table(tmp_path / "like.csv", "id,q,p", *(f"{name},0.5,0.5" for name in ids))
    found = submission_rows(like, KEYS, Classes(["p", "q"]), PROBABILITIES, CHOSEN)
    assert found == [["id", "q", "p"], [ids[0], "0", "1"], [ids[1], "0.75", "0.25"], [ids[2], "0.5", "0.5"]]
    like = table(tmp_path / "like.csv", "label,id", *(f"p,{name}" for name in reversed(ids)))
    found = submission_rows(like, KEYS, Classes(["p", "q"]), PROBABILITIES, CHOSEN)
    assert found == [["label", "id"], ["p", ids[2]], ["q", ids[1]], ["p", ids[0]]]


def test_a_submission_of_labels_and_of_numbers(tmp_path):
    like = table(tmp_path / "like.csv", "image_name,tags", "a,x", "b,x")
    found = submission_rows(like, KEYS, Labels(["p", "q"]), PROBABILITIES, [["q"], [], ["p", "q"]])
    assert found[1:] == [["a", ""], ["b", "q"]]
    like = table(tmp_path / "like.csv", "id,score", "c,0", "b,0")
    found = submission_rows(like, KEYS, Numbers(["age"]), [["1.5"], ["2.5"], ["3.5"]], [["1.5"], ["2.5"], ["3.5"]])
    assert found[1:] == [["c", "3.5"], ["b", "1.5"]]
    like = table(tmp_path / "like.csv", "id,y", "c,0", "b,0")
    values = [["1.5", "2"], ["2.5", "3"], ["3.5", "4"]]
    found = submission_rows(like, KEYS, Numbers(["x", "y"]), values, values)
    assert found[1:] == [["c", "4"], ["b", "2"]]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["id,label", "a,p", "zz,p", "b,p"], "1 of them are not known: the first, 'zz', was not predicted"),
        (["id,label", "zz,p"], "no column of"),
        (["id,p,r", "a,0,0"], "has the column 'r'"),
        (["id,label", "a,p,q"], "has 3 cells and the header 2"),
        (["id,label"], "has no rows"),
        (["id,p,q,", "a,0,0,"], "has the column ''"),
        (["one,two,label", "a,b,p", "b,a,p"], "both 'one' and 'two' name images"),
    ],
)
def test_a_submission_that_cannot_be_filled_is_refused(lines, reason, tmp_path):
    like = table(tmp_path / "like.csv", *lines)
    with pytest.raises(Mistake, match=r"^[^\n]+$") as refusal:
        submission_rows(like, KEYS, Classes(["p", "q"]), PROBABILITIES, CHOSEN)
    assert reason in str(refusal.value)


def test_one_column_for_two_numbers_is_refused(tmp_path):
    like = table(tmp_path / "like.csv", "id,score", "c,0")
    values = [["1", "2"]] * 3
    with pytest.raises(Mistake, match="not clear which number belongs there"):
        submission_rows(like, KEYS, Numbers(["x", "y"]), values, values)


def test_a_submission_of_a_name_that_two_images_have_is_refused(tmp_path):
    like = table(tmp_path / "like.csv", "id,label", "a,p", "b,p")
    with pytest.raises(Mistake, match="has the name of two images"):
        submission_rows(like, [*KEYS, "y/a.jpg"], Classes(["p", "q"]), [*PROBABILITIES, ["1", "0"]], [*CHOSEN, ["p"]])
