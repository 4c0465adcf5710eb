"""`verify` finds what is planted in a data set, and nothing else; it changes no file of it."""

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from conftest import RUN, bake, rows
from PIL import Image

SMALL = ("--data.batch_size=8",)
FLAG = "python -m my_project verify"


def picture(*seed: int, size: tuple[int, int] = (40, 44)) -> Image.Image:
    """Draw patches of colour with a little noise: no two look alike."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize(size, Image.Resampling.BICUBIC)) + rng.normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw(root: Path, number: int = 40) -> Path:
    """Draw three classes."""
    for index, name in enumerate(("cat", "dog", "owl")):
        (root / name).mkdir(parents=True)
        for i in range(number):
            picture(index, i).save(root / name / f"{i:02d}.png")
    return root


def plant(root: Path) -> dict[tuple[str, str], str]:
    """Plant one fault of each kind; returns the kind of each, by the file and the one that it is like."""
    cat, dog = root / "cat", root / "dog"
    whole = (cat / "00.png").read_bytes()
    picture(9, 0).save(cat / "cut.jpg", quality=95)
    (cat / "cut.jpg").write_bytes((cat / "cut.jpg").read_bytes()[:-600])
    (cat / "cut.png").write_bytes(whole[: len(whole) // 2])
    (cat / "empty.png").touch()
    (cat / "page.jpg").write_text("<html>404</html>")
    picture(9, 1).save(cat / "called.jpg", "PNG")
    picture(9, 2).convert("CMYK").save(cat / "cmyk.jpg", quality=95)
    picture(9, 3).quantize(64).save(cat / "palette.png")
    transparent = picture(9, 4).convert("RGBA")
    transparent.putalpha(120)
    transparent.save(cat / "transparent.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 250, (44, 40)).astype(np.uint16)).save(cat / "deep.png")
    Image.fromarray(np.random.default_rng(2).uniform(0, 250, (44, 40)).astype(np.float32)).save(cat / "float.tif")
    Image.fromarray(np.random.default_rng(3).integers(0, 9999, (44, 40)).astype(np.uint16)).save(cat / "beyond.png")
    Image.new("RGB", (40, 44), (9, 80, 200)).save(cat / "blue.png")
    Image.fromarray(np.asarray(picture(9, 5)) // 25 + 100).save(cat / "grey.png")
    picture(9, 6, size=(800, 900)).save(cat / "large.png")
    picture(9, 7, size=(40, 600)).save(cat / "long.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9, 8).save(cat / "turned.jpg", quality=95, exif=exif)
    picture(9, 9).save(cat / "pages.tif", save_all=True, append_images=[picture(9, 10)])
    shutil.copy(cat / "01.png", cat / "copy 1.png")
    shutil.copy(cat / "01.png", cat / "copy\n2.png")
    shutil.copy(cat / "02.png", dog / "conflict.png")
    Image.open(cat / "03.png").save(cat / "compressed.jpg", quality=70)
    Image.open(dog / "04.png").resize((30, 33)).save(cat / "smaller.png")
    (root / "elk").mkdir()
    for i in range(6):
        picture(7, i).save(root / "elk" / f"{i}.png")
    (cat / ".hidden.png").write_bytes(whole)
    (cat / "notes.txt").touch()
    (root / "loose.png").write_bytes(whole)
    found = {
        **dict.fromkeys(("cut.jpg", "cut.png", "empty.png", "page.jpg"), "error: unreadable"),
        "beyond.png": "error: beyond a limit",
        "called.jpg": "warning: wrong suffix",
        **dict.fromkeys(("cmyk.jpg", "palette.png"), "note: odd mode"),
        **dict.fromkeys(("deep.png", "float.tif"), "warning: another depth"),
        "transparent.png": "note: transparent parts",
        "blue.png": "warning: one colour",
        "grey.png": "warning: narrow range",
        **dict.fromkeys(("large.png", "long.png"), "warning: odd size"),
        "turned.jpg": "note: turned by EXIF",
        "pages.tif": "warning: several pages",
    }
    like = {("cat/copy 1.png", "cat/01.png"): "warning: exact copies"}
    like |= {("cat/copy\n2.png", "cat/01.png"): "warning: exact copies"}
    like |= {("dog/conflict.png", "cat/02.png"): "error: one content, two labels"}
    like |= {("dog/04.png", "cat/smaller.png"): "warning: near-copies, two labels"}
    whole_set = {("class elk", ""): "warning: tiny classes", (".", ""): "note: left out"}
    return {(f"cat/{name}", ""): kind for name, kind in found.items()} | like | whole_set


def found_in(file: Path, root: Path) -> dict[tuple[str, str], str]:
    """Read what was found, but near-copies of one class, whose splits are drawn."""

    def relative(path: str) -> str:
        return os.path.relpath(path, root) if path.startswith(str(root)) else path

    read = [row for row in rows(file) if row["finding"] not in ("near-copies", "near-copies across splits")]
    found = {(relative(row["where"]), relative(row["other"])): f"{row['severity']}: {row['finding']}" for row in read}
    assert len(found) == len(read)
    return found


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return what every file of a folder holds, and when it was changed."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def write(file: Path, lines: Sequence[Sequence[object]]) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(lines)
    return file


def test_each_planted_fault_is_found_and_nothing_else(project, command, tmp_path):
    clean, bad = draw(tmp_path / "clean"), draw(tmp_path / "bad")
    planted, before = plant(bad), state(bad)
    lost = draw(tmp_path / "lost", number=12)
    (lost / "heic").mkdir()
    (lost / "heic/1.heic").touch()
    of_clean, of_bad, of_digits, of_lost = command.each(
        project,
        tmp_path,
        [
            ("verify", "--data.root", clean, "--out", "clean.csv"),
            ("verify", "--data.root", "bad", "--out", "bad.csv", "--fix-list", "fix.txt"),
            ("verify",),
            ("verify", "--data.root", lost, "--out", "lost.csv"),
        ],
    )
    assert (of_clean.code, found_in(tmp_path / "clean.csv", clean)) == (0, {}), of_clean.output
    assert (of_digits.code, rows(tmp_path / "verify.csv")) == (0, []), of_digits.output
    assert of_bad.code == 1, of_bad.output
    assert found_in(tmp_path / "bad.csv", Path("bad")) == planted
    near = [row for row in rows(tmp_path / "bad.csv") if row["finding"].startswith("near-copies")]
    assert [row["where"].split("/")[-1] for row in near if "labels" not in row["finding"]] == ["compressed.jpg"]
    assert state(bad) == before
    assert max(map(len, of_bad.output.splitlines())) <= 80
    assert re.search(r"error: unreadable \(4\).*\n(  .*\n)+  … and 1 more", of_bad.output)
    # A name holds a line break, so the list ends its names with zero bytes, and the printed command takes it so.
    assert "\n  xargs -0 rm -- < fix.txt\n" in of_bad.output
    removed = {name.split("/")[-1] for name in (tmp_path / "fix.txt").read_text().split("\0") if name}
    assert removed == {"cut.jpg", "cut.png", "empty.png", "page.jpg", "copy 1.png", "copy\n2.png"}
    subprocess.run("xargs -0 rm -- < fix.txt", shell=True, check=True, cwd=tmp_path)
    assert {Path(name) for name in before} - {Path(name) for name in state(bad)} == {
        bad / "cat" / name for name in removed
    }
    assert of_lost.code == 1
    assert [row["severity"] for row in rows(tmp_path / "lost.csv")] == ["error"]
    assert (
        "the class folder 'heic' holds 1 .heic and no image that can be read"
        in rows(tmp_path / "lost.csv")[0]["detail"]
    )


def test_copies_across_given_splits_and_rows_of_a_table_of_labels_are_found(project, command, tmp_path):
    splits = tmp_path / "splits"
    for number, split in enumerate(("train", "val", "test")):
        for index, name in enumerate(("cat", "dog")):
            (splits / split / name).mkdir(parents=True)
            for i in range(12):
                picture(number, index, i).save(splits / split / name / f"{i:02d}.png")
    for of, to in (("test/cat/00.png", "train/cat/leak.png"), ("val/dog/01.png", "test/dog/leak.png")):
        shutil.copy(splits / of, splits / to)
    images = draw(tmp_path / "images", number=16)
    shutil.copy(images / "cat/03.png", images / "cat/copy.png")
    (images / "dog/07.png").write_bytes(b"")
    named = [[f"{path.parent.name}/{path.name}", path.parent.name] for path in sorted(images.glob("*/*"))]
    table = write(tmp_path / "labels.csv", [["image", "label"], *named[:-1]])
    wrong = write(tmp_path / "wrong.csv", [["image", "label"], ["cat/gone.png", "cat"], *named, ["", "cat"]])
    of_splits, of_table, of_wrong, fitted, refused = command.each(
        project,
        tmp_path,
        [
            ("verify", "--data.root", splits, *SMALL, "--fix-list", "fix.txt", "--out", "splits.csv"),
            (
                "verify",
                "--data.root",
                images,
                "--data.labels",
                table,
                *SMALL,
                "--fix-list",
                "rows.txt",
                "--out",
                "table.csv",
            ),
            ("verify", "--data.root", images, "--data.labels", wrong, *SMALL, "--out", "wrong.csv_"),
            ("fit", "--data.root", images, "--data.labels", wrong),
            ("verify", "--data.root", images, "--out", images / "verify.csv"),
        ],
    )
    assert of_splits.code == 1
    assert found_in(tmp_path / "splits.csv", splits) == {
        ("train/cat/leak.png", "test/cat/00.png"): "warning: copies in training and elsewhere",
        ("val/dog/01.png", "test/dog/leak.png"): "error: copies in validation and test",
    }
    # Without odd names the list is one of lines.
    subprocess.run("xargs -d '\\n' rm < fix.txt", shell=True, check=True, cwd=tmp_path)
    assert not (splits / "train/cat/leak.png").exists()
    assert (splits / "test/cat/00.png").exists()
    assert of_table.code == 1
    assert found_in(tmp_path / "table.csv", images) == {
        ("dog/07.png", ""): "error: unreadable",
        ("cat/copy.png", "cat/03.png"): "warning: exact copies",
        (".", ""): "note: left out",
    }
    [line] = [line for line in of_table.output.splitlines() if line.startswith("  awk ")]
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    kept = [[row["image"], row["label"]] for row in rows(tmp_path / "labels_kept.csv")]
    assert kept == [row for row in named[:-1] if row[0] not in ("cat/copy.png", "dog/07.png")]
    found = found_in(tmp_path / "wrong.csv_", images)
    assert [where for (where, _), kind in found.items() if kind == "error: unusable rows"] == ["row 2", "row 52"]
    assert found["dog/07.png", ""] == "error: unreadable"
    assert f"; {FLAG} finds all such" in fitted.refusal
    assert FLAG not in (tmp_path / "wrong.csv_").read_text()
    assert "lies among the data" in refused.refusal
    assert not (images / "verify.csv").exists()
    assert of_wrong.code == 1


def test_a_run_is_verified_with_its_own_data_and_splits(project, command, fitted, tmp_path):
    folder, _ = fitted
    run = folder / RUN
    done, *refusals = command.each(
        project,
        tmp_path,
        [
            ("verify", run),
            ("verify", tmp_path),
            ("verify", run, run),
            ("verify", "--data.root", tmp_path / "nothing"),
            ("verify", "--out", tmp_path / "no/folder.csv"),
            ("verify", "--data.rot", "x"),
        ],
    )
    assert done.code == 0, done.output
    assert f"--data.root {folder / 'images'}, as the run's config has it" in done.output
    assert "splits of the run: 42 train, 9 val, 9 test" in done.output
    assert rows(tmp_path / "verify.csv") == []
    said = ("is no run's folder", "names more than one run", "is not there", "is no file in a folder", "is not a flag")
    for refused, words in zip(refusals, said, strict=True):
        assert words in refused.refusal


STOPPED = """
import os, signal
from my_project.__main__ import main
from my_project.tools import _checks

class Interrupted(_checks.Checks):
    def _read_portion(self, first):
        if first == 2 * _checks.PORTION:
            os.kill(os.getpid(), signal.SIGINT)
        return super()._read_portion(first)

import my_project.tools.verify as verify
verify.Checks = Interrupted
raise SystemExit(main(["verify", "--data.root", "images", "--fix-list", "fix.txt"]))
"""

SEARCHED = """
import numpy as np
from my_project.tools._near_copies import BITS, candidates
rng = np.random.default_rng(0)
hash_N = rng.integers(0, 2**64, 3000, dtype=np.uint64)
for i in range(300):  # of each third one a copy in which 0 to 5 bits are others
    bits = rng.choice(64, i % 6, replace=False)
    hash_N[2000 + i] = hash_N[i] ^ np.uint64(sum(1 << int(bit) for bit in bits))
found = {tuple(sorted(pair)) for pair in candidates(hash_N)}
xor_NN = hash_N[:, None] ^ hash_N
near = np.argwhere(np.triu(np.bitwise_count(xor_NN) <= BITS, 1))
assert found == set(map(tuple, near.tolist())), (len(found), len(near))
assert len(found) == 200
"""


def test_ctrl_c_ends_it_in_one_line_and_leaves_no_table(project, command, tmp_path):
    draw(tmp_path / "images")
    (tmp_path / "stopped.py").write_text(STOPPED)
    (tmp_path / "searched.py").write_text(SEARCHED)
    done = command(project, tmp_path, "-m", "stopped.py")
    assert done.code == 130
    assert "Traceback" not in done.output
    assert (
        sorted(path.name for path in tmp_path.glob("*.csv"))
        == sorted(path.name for path in tmp_path.glob("fix*"))
        == []
    )
    assert command(project, tmp_path, "-m", "searched.py").code == 0


def test_without_the_tool_fit_does_not_point_to_it(project, command, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(project, plain, ignore=shutil.ignore_patterns("verify.py", ".git"))
    images = draw(tmp_path / "images", number=12)
    shutil.copy(images / "cat/00.png", images / "dog/same.png")
    for folder, words in ((project, f"allow_conflicts true; {FLAG} finds all such."), (plain, "allow_conflicts true.")):
        assert command(folder, tmp_path, "fit", "--data.root", images).refusal.endswith(words)


def draw_table(file: Path) -> list[list[str]]:
    """Draw a table of numbers, categories, dates and classes; returns its rows."""
    rng, lines = np.random.default_rng(0), []
    for _ in range(300):
        size, mass = rng.normal(50, 10), rng.lognormal(1, 0.7)
        day = np.datetime64("2021-01-01") + int(rng.integers(0, 900))
        target = "large" if size + 3 * mass + rng.normal(0, 5) > 60 else "small"
        lines.append([f"{size:.3f}", f"{mass:.4f}", str(rng.choice(["red", "green", "blue"])), str(day), target])
    write(file, [["size", "mass", "colour", "since", "target"], *lines])
    return lines


def test_faults_of_a_table_are_found_and_nothing_else(command, tmp_path):
    project, table = bake(tmp_path, data="diabetes"), tmp_path / "bad.csv"
    lines = draw_table(tmp_path / "clean.csv")
    given = [[*line, ("train", "val", "test")[i % 3]] for i, line in enumerate(lines)]
    given.append([*lines[0][:5], "test"])  # which stands in training
    write(tmp_path / "given.csv", [["size", "mass", "colour", "since", "target", "split"], *given])
    for i, line in enumerate(lines):
        notes = f"note {i}" if i % 7 else ""
        line += ["5", notes, "" if i % 5 else "1.5", "7" if i % 10 else "", {"large": "2.5", "small": "3.5"}[line[4]]]
        line[8] = line[8] and f"{i * 37 % 101}.5"
    lines[10][0] = "99999"
    lines[20][:] = lines[21]
    lines[30][4] = ""
    lines[40][1] = "heavy"
    for i in range(50, 60):  # of which some are held out
        lines[i][2] = f"violet {i}"
    names = ["size", "mass", "colour", "since", "target", "fixed", "notes", "rarely", "sometimes", "tells"]
    lines.append([*lines[60][:4], "tiny", *lines[60][5:9], "4.5"])
    write(table, [names, *lines])
    before = state(tmp_path)[str(table)]
    ambiguous = write(tmp_path / "ambiguous.csv", [["a", "target"], *([f"{i}.5", i % 25] for i in range(300))])
    of_clean, of_diabetes, of_bad, of_given, of_ambiguous, fitted = command.each(
        project,
        tmp_path,
        [
            ("verify", "--data.table", "clean.csv", "--out", "clean_found.csv"),
            ("verify", "--out", "diabetes_found.csv"),
            ("verify", "--data.table", table, "--fix-list", "rows.txt", "--out", "found.csv"),
            ("verify", "--data.table", "given.csv", *SMALL, "--out", "given_found.csv"),
            ("verify", "--data.table", ambiguous),
            ("fit", "--data.table", table),
        ],
    )
    for done, file in ((of_clean, "clean_found.csv"), (of_diabetes, "diabetes_found.csv")):
        assert (done.code, rows(tmp_path / file)) == (0, []), done.output
    assert of_bad.code == 1, of_bad.output
    found = {(row["severity"], row["finding"], row["where"], row["other"]) for row in rows(tmp_path / "found.csv")}
    assert found == {
        ("error", "unusable rows", "row 32", ""),  # no target
        ("error", "unusable rows", "row 42", ""),  # words for a number
        ("error", "refused", "column mass", ""),
        ("error", "unusable rows", "row 302", ""),  # a class of one row
        ("warning", "constant columns", "column fixed", ""),
        ("note", "columns that name rows", "column notes", ""),
        ("warning", "mostly missing", "column rarely", ""),
        ("note", "missing values", "column sometimes", ""),
        ("warning", "like the target", "", ""),
        ("warning", "outliers", "row 12", ""),
        ("warning", "equal rows", "row 23", "row 22"),
        ("note", "values that training lacks", "", ""),
    }
    assert state(tmp_path)[str(table)] == before
    [row] = rows(tmp_path / "given_found.csv")
    assert (row["severity"], row["finding"], row["where"]) == ("warning", "copies in training and elsewhere", "row 2")
    assert of_given.code == 0
    assert "which may be classes or numbers" in of_ambiguous.refusal
    assert "; python -m my_project verify finds all such" in fitted.refusal
