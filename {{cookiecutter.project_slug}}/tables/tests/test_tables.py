"""Tables as people have them: what is inferred and said, what is refused because it means two things, and the rows to
predict."""

import csv
import datetime
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from project_package.engine import arrow
from project_package.engine.delimited import open_table
from project_package.engine.leaks import doubts, same_rows
from project_package.engine.mistakes import Mistake
from project_package.engine.new_rows import NewRows, read_rows
from project_package.engine.tables import (
    Asked,
    Column,
    Table,
    fingerprint,
    read_table,
)
from project_package.engine.targets import Classes, Labels, Numbers

ROWS = 40


def noise(seed: int = 0, rows: int = ROWS) -> list[str]:
    return [f"{value:.3f}" for value in np.random.default_rng(seed).normal(size=rows)]


def cycle(*values: Any, rows: int = ROWS) -> list[str]:
    return [str(value) for value in itertools.islice(itertools.cycle(values), rows)]


def text(columns: dict[str, list[Any]], delimiter: str = ",") -> str:
    return "\n".join(delimiter.join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)]) + "\n"


def written(content: str | bytes | dict[str, list[Any]], name: str = "t.csv") -> str:
    content = text(content) if isinstance(content, dict) else content
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def basic(**more: list[Any]) -> dict[str, list[Any]]:
    return {"x": noise(1), "colour": cycle("red", "blue", "red"), "target": noise(2), **more}


def read(content: str | bytes | dict[str, list[Any]], name: str = "t.csv", **flags: Any) -> Table:
    return read_table(Asked.by({"table": written(content, name), **flags}))


def refused(content: str | bytes | dict[str, list[Any]], name: str = "t.csv", **flags: Any) -> str:
    """Return the one line in which a table is refused."""
    with pytest.raises(Mistake) as refusal:
        read(content, name, **flags)
    said = str(refusal.value)
    assert "\n" not in said
    assert said.endswith((".", ")"))
    return said


def column(table: Table, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)


def line(table: Table, name: str) -> str:
    return next(line for line in table.summary.splitlines() if line.split()[:1] == [name])


def offenders() -> list[list[str]]:
    with Path("t_offenders.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["row", "column", "value", "reason"]
    return found


# What is inferred, and said


def test_numbers_and_categories_are_told_apart_and_shown():
    table = read(basic(x=["", "NA", *noise(1)[2:]]))
    x, colour = table.columns
    assert (x.name, x.kind, x.values_N.dtype) == ("x", "number", np.float32)
    assert np.isnan(x.values_N[:2]).all()
    assert x.values_N[2] == np.float32(noise(1)[2])
    assert (colour.kind, colour.words, colour.values_N[:3].tolist()) == ("category", ["blue", "red"], [1, 0, 1])
    assert table.samples.target == Numbers(["target"])
    assert table.samples.targets[:, 0].tolist() == [float(value) for value in noise(2)]
    assert table.samples.keys == [str(row) for row in range(ROWS)]
    header, names, *lines = table.summary.splitlines()
    assert header == "table: t.csv: 40 rows, target target (a number; the column of that name)"
    assert names.split() == ["column", "kind", "missing", "distinct"]
    assert [row.split()[:4] for row in lines] == [
        ["x", "number", "2", "38"],
        ["colour", "category", "0", "2"],
        ["target", "target", "0", "39"],
    ]
    assert lines[1].endswith("red (27) · blue (13)")


def test_a_missing_cell_of_a_category_is_the_empty_word():
    colour = column(read(basic(colour=cycle("red", "", "None", "blue"))), "colour")
    assert colour.words == ["", "blue", "red"]
    assert colour.values_N[:4].tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("constant", ["3"] * ROWS, "is 3 in all rows"),
        ("word", ["w"] * ROWS, "is w in all rows"),
        ("void", [""] * ROWS, "has no values"),
        ("row", list(range(5, ROWS + 5)), "counts the rows, 5 to 44"),
        ("name", [f"n{i}" for i in range(ROWS)], "names the rows: text, all distinct"),
        ("customer_id", list(range(3, 7 * ROWS, 7)), "names the rows: an integer each, all distinct"),
    ],
)
def test_what_tells_nothing_is_left_out_and_kept_where_that_is_asked(name, values, why):
    table = read(basic(**{name: values}))
    assert [column.name for column in table.columns] == ["x", "colour"]
    assert line(table, name).split(None, 2)[1] == "dropped"
    assert why in line(table, name)
    assert table.settled["drop"] == [name]
    if name != "void":
        kept = read(basic(**{name: values}), categories=name)
        assert column(kept, name).kind == "category"


def test_free_text_is_left_out():
    values = [f"comment {i % 60}" for i in range(100)]
    table = read({"x": noise(1, 100), "text": values, "target": noise(2, 100)})
    assert "is free text: 60 distinct in 100 rows" in line(table, "text")


def test_dates_become_days_since_1970_with_their_zones():
    dates = [f"2020-01-{day % 28 + 1:02d}" for day in range(ROWS)]
    table = read(basic(date=dates, time=[f"{date}T12:00:00+02:00" for date in dates]))
    first = (datetime.date(2020, 1, 1) - datetime.date(1970, 1, 1)).days
    assert column(table, "date").values_N[:2].tolist() == [first, first + 1]
    assert column(table, "time").values_N[0] == np.float32(first + 10 / 24)
    assert "2020-01-01 to 2020-01-28, as days since 1970" in line(table, "date")


def test_decimal_commas_and_sure_thousands_are_read():
    comma = {name: [value.replace(".", ",") for value in values] for name, values in basic().items()}
    assert fingerprint(read(text(comma, ";"))) == fingerprint(read(basic()))
    prices = [f'"{1_000_000 + 7 * i:,}"' for i in range(0, 3 * ROWS, 3)]
    assert column(read(basic(price=prices)), "price").values_N[1] == 1_000_021


def test_words_after_many_numbers_keep_what_was_written_above_them(monkeypatch):
    monkeypatch.setattr(arrow, "BLOCK", 256)
    code = column(read(basic(code=["007", *cycle(7, rows=18), *cycle("a", "b", rows=21)])), "code")
    assert code.words == ["007", "7", "a", "b"]


def test_a_column_of_numbers_may_be_a_category_and_words_stand_for_missing_ones():
    table = read(basic(floor=cycle(1, 2, "-999")), categories="floor", missing="-999")
    assert column(table, "floor").words == ["", "1", "2"]
    assert np.isnan(column(read(basic(floor=cycle(1, 2, "-999.0")), missing="-999"), "floor").values_N[2])


@pytest.mark.parametrize(
    ("encoding", "delimiter", "before", "name"),
    [
        ("utf-8-sig", ",", "", "t.csv"),
        ("utf-16", ",", "", "t.csv"),
        ("utf-8", ";", "sep=;\n", "t.csv"),
        ("utf-8", "\t", "", "t.tsv"),
        ("utf-8", "|", "\n\n", "t.txt"),
    ],
)
def test_a_table_is_the_same_however_it_is_written(encoding, delimiter, before, name):
    content = (before + text(basic(), delimiter)).encode(encoding)
    assert fingerprint(read(content, name)) == fingerprint(read(basic()))


def test_quoted_cells_hold_delimiters_and_line_breaks():
    table = read(basic(colour=cycle('"a,b"', ' "c\nd"', '"say ""e"""')))
    assert column(table, "colour").words == ["a,b", "c\nd", 'say "e"']


def test_arrow_and_python_read_alike(monkeypatch):
    cells = [
        "",
        "a",
        '"b,c"',
        '"x""y"',
        "1",
        "+2.5",
        "007",
        " pad ",
        '"n\nl"',
        '"r\r\nl"',
        "NA",
        "é",
        "-1e5",
        "'",
        "inf",
    ]
    draw, looked_through = np.random.default_rng(0), arrow._looked_through
    for number in range(60):
        lines = [",".join(draw.choice(cells, 3)) for _ in range(draw.integers(1, 9))]
        path = Path(written("\n".join(["p,q,r", *lines, ""]), f"{number}.csv"))
        found = []
        for is_plain in (True, False):
            monkeypatch.setattr(arrow, "BLOCK", 64 if is_plain else 2**20)
            monkeypatch.setattr(
                arrow,
                "_looked_through",
                looked_through if is_plain else lambda *file: looked_through(*file)._replace(is_plain=False),
            )
            raw = open_table("--data.table", path)
            columns = arrow.read_columns("--data.table", raw, raw.names, ["p"])
            found.append([(one.cells(range(len(one))), one.is_missing_N.tolist()) for one in columns])
        assert found[0] == found[1], path.read_text()


def test_parquet_keeps_its_types():
    table = pa.table(
        {
            "flag": pa.array([True, False, None, True] * 10),
            "day": pa.array([datetime.date(2020, 1, 1 + i % 9) for i in range(ROWS)]),
            "time": pa.array([datetime.datetime(2020, 1, 1, i % 24) for i in range(ROWS)]),
            "code": pa.array(["a", None] * 20).dictionary_encode(),
            "whole": pa.array([1.0, None] * 20),
            "nested": pa.array([[1]] * ROWS),
            "target": pa.array(np.arange(ROWS) % 2 == 0),
        }
    )
    pyarrow.parquet.write_table(table, "t.parquet")
    found = read_table(Asked("t.parquet", categories=["whole"]))
    assert {one.name: (one.kind, one.words) for one in found.columns} == {
        "flag": ("category", ["", "false", "true"]),
        "day": ("number", []),
        "time": ("number", []),
        "code": ("category", ["", "a"]),
        "whole": ("category", ["", "1"]),
    }
    assert column(found, "time").values_N[6] == 18262.25
    assert found.samples.target == Classes(["false", "true"])
    assert found.samples.remarks == ["1 column without a name, or without text and numbers, left out"]


def test_a_table_of_many_columns_is_summed_up():
    table = read({**{f"x{i}": noise(i) for i in range(60)}, "constant": ["1"] * ROWS, "target": noise(99)})
    assert len(table.summary.splitlines()) == 3
    assert "60  x0, x1, x2, x3 …: 0 with missing cells, 3" in table.summary
    assert "constant is 1 in all rows" in table.summary


def test_what_was_inferred_gives_the_same_table_again():
    content = basic(row=list(range(ROWS)), id=[f"k{i}" for i in range(ROWS)], group=cycle(*range(8)))
    table = read(content)
    assert table.settled == {
        "target": ["target"],
        "task": "regression",
        "numbers": ["x"],
        "categories": ["colour"],
        "drop": ["row"],
        "group": "group",
        "split_column": "none",
        "weight": "none",
        "id": "id",
    }
    again = read(content, **table.settled)
    assert again.settled == table.settled
    assert fingerprint(again) == fingerprint(table)
    assert fingerprint(read(basic())) != fingerprint(table)


def test_what_was_read_is_kept_for_the_next_call_alone():
    name = written(basic())
    table = read_table(Asked(name))
    assert read_table(Asked(name)) is table
    assert read_table(Asked(name)) is not table


# The target


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (cycle("b", "a"), Classes(["a", "b"])),
        (cycle(0, 1), Classes(["0", "1"])),
        (cycle("yes", "no"), Classes(["no", "yes"])),
        (cycle(10, 9, 2), Classes(["2", "9", "10"])),
        (cycle("None", "mild"), Classes(["None", "mild"])),
        (noise(2), Numbers(["target"])),
        ([*range(3, ROWS + 3)], Numbers(["target"])),
    ],
)
def test_the_task_follows_from_the_target(values, target):
    assert read(basic(target=values)).samples.target == target


def test_several_targets_are_numbers_or_labels():
    flags = basic(target=cycle(0, 1), b=cycle("no", "yes", "no"))
    numbers = read(basic(b=noise(3)), target=["b", "target"])
    assert numbers.samples.target == Numbers(["b", "target"])
    assert numbers.samples.targets.shape == (ROWS, 2)
    labels = read(flags, target=["target", "b"])
    assert labels.samples.target == Labels(["target", "b"])
    assert labels.samples.targets[:3].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert "of several kinds (b flags, x numbers, colour text)" in refused(flags, target=["b", "x", "colour"])


@pytest.mark.parametrize(
    ("values", "flags", "said"),
    [
        (cycle(*range(25), rows=400), {}, "holds 25 different integers, which may be classes or numbers"),
        (cycle("1.0", "2.0"), {}, "holds integers written as fractions"),
        ([f"w{i}" for i in range(ROWS)], {}, "most stands in one row alone"),
        ([*cycle("a", "b", rows=ROWS - 1), "c"], {}, "the class c of --data.table='t.csv': one row alone has it"),
        (["1.5"] * ROWS, {}, "is '1.5' in all rows"),
        (["a"] * ROWS, {}, "is 'a' in all rows"),
        ([""] * ROWS, {}, "is missing in all rows"),
        (["", "NA", *noise(2)[2:]], {}, "is missing in 2 of 40 rows (rows 2, 3)"),
        ([*noise(2)[2:], "?", "?"], {}, """--data.missing '["?"]' --data.drop_missing_target true"""),
        (noise(2), {"log_target": True}, "has no logarithm"),
        (cycle("a", "b"), {"log_target": True}, "--data.log_target=true is for numbers"),
        (cycle("a", "b"), {"task": "regression"}, "holds no numbers but words"),
        (cycle("a", "b"), {"task": "multilabel"}, "reads columns of 0 and 1"),
        (noise(2), {"task": "ranking"}, "--data.task='ranking' is unknown"),
        (cycle("a\x1b", "b"), {}, "control characters"),
        (
            ["2020-01-01", "2020-01-02", "2020-01-03", *cycle("2020-01-04", rows=37)],
            {"task": "regression"},
            "holds dates",
        ),
    ],
)
def test_a_target_that_could_be_learned_wrong_is_refused(values, flags, said):
    rows = len(values)
    content = {"x": noise(1, rows), "target": values}
    assert said in refused(content, **flags)


def test_a_logarithm_is_refused_by_the_column_that_has_none():
    content = basic(target=[*range(3, ROWS + 3)], b=[-1, *range(1, ROWS)])
    assert "row 2: '-1': b has no logarithm" in refused(content, target=["target", "b"], log_target=True)
    assert read(content, log_target=True).samples.target == Numbers(["target"], True)


def test_rows_without_a_target_are_left_out_where_that_is_asked_and_counted():
    table = read(basic(target=["", *noise(2)[1:-1], "nan"]), drop_missing_target=True)
    assert table.samples.keys == [str(row) for row in range(1, ROWS - 1)]
    assert column(table, "x").values_N[0] == np.float32(noise(1)[1])
    assert table.samples.remarks == ["left out for want of target: 2 of 40 rows"]


# Rows


def test_splits_groups_weights_and_ids_are_found_or_asked_for():
    content = basic(
        split=cycle("train", "dev", "Test", "train"),
        group=cycle("p", "p", "q"),
        w=cycle(1, 2.5),
        id=[f"r{i}" for i in range(ROWS)],
    )
    table = read(content, weight="w")
    samples = table.samples
    assert samples.given is not None and samples.given[:3] == ["train", "val", "test"]  # noqa: PT018
    assert samples.groups is not None and samples.groups[:3].tolist() == [0, 0, 1]  # noqa: PT018
    assert samples.weights is not None and samples.weights[:3].tolist() == [1, 2.5, 1]  # noqa: PT018
    assert samples.keys[:2] == ["r0", "r1"]
    assert [one.name for one in table.columns] == ["x", "colour"]
    assert table.summary.splitlines()[0].endswith("id by id, splits by split, groups by group, weights by w")
    none = read(content, weight="w", split_column="none", group="none")
    assert [one.name for one in none.columns] == ["x", "colour", "split", "group"]
    assert none.samples.given is none.samples.groups is None
    valid = read(basic(is_valid=cycle("True", "False")), split_column="is_valid")
    assert valid.samples.given is not None and valid.samples.given[:2] == ["val", "train"]  # noqa: PT018


def test_a_column_called_split_that_names_none_is_an_input():
    table = read(basic(split=cycle("x", "y")))
    assert column(table, "split").words == ["x", "y"]
    assert "is taken for an input" in table.samples.remarks[0]


@pytest.mark.parametrize(
    ("more", "flags", "said"),
    [
        ({"weight": cycle(1, 2)}, {}, "give --data.weight weight, or --data.weight none"),
        ({"id": cycle(1, 2)}, {}, "--data.group id if rows of one must not be parted"),
        ({"k": ["a", *cycle("b", rows=39)]}, {"id": "k"}, "39 × k stands in more than one row"),
        ({"k": ["", *map(str, range(39))]}, {"id": "k"}, "k is missing"),
        ({"k": ["a\x1b", *map(str, range(39))]}, {"id": "k"}, "k holds control characters"),
        ({"k": cycle("train", "x")}, {"split_column": "k"}, "20 × k names no split"),
        ({"k": cycle("val", "test")}, {"split_column": "k"}, "names no row for training"),
        ({"k": cycle("a", "")}, {"group": "k"}, "20 × k names no group"),
        ({"k": cycle(1, -1)}, {"weight": "k"}, "20 × k is no number from 0 up"),
        ({"k": cycle(0)}, {"weight": "k"}, "are all 0"),
        ({}, {"drop": "colur"}, "--data.drop='colur' is unknown, so there is nothing to use; choose from colour"),
        ({}, {"target": "tagret"}, "choose from target"),
        ({}, {"weight": "wait"}, "--data.weight='wait' is unknown"),
        ({}, {"drop": "x", "numbers": "x"}, "is asked to be two things"),
        ({}, {"drop": ["x", "colour"]}, "has no column to learn from"),
    ],
)
def test_columns_that_could_be_two_things_and_rows_that_cannot_be_used_are_refused(more, flags, said):
    assert said in refused(basic(**more), **flags)


# Cells


@pytest.mark.parametrize(
    ("values", "flags", "said"),
    [
        (["?", "?", *noise()[2:]], {}, """2 cells that are none: '?' (row 2), '?' (row 3)"""),
        (["?", *noise()[1:]], {}, """--data.missing '["?"]', or, if the column holds words, --data.categories '[k]'"""),
        (cycle("a", "b"), {"numbers": "k"}, "holds no numbers but words"),
        (["inf", "-Infinity", "1e999", "1e39", *noise()[4:]], {}, "4 numbers that are infinite or beyond"),
        ([2**53 + 1, *range(39)], {}, "1 integers above 2^53: '9007199254740993' (row 2)"),
        ([f"{2**53 + 1}", "+5", *noise()[2:]], {}, "integers above 2^53"),
        (cycle('"1,234"', '"5,678"'), {}, "1,234 could be a thousand or one"),
        (cycle('"1,5"', "2.5"), {}, "not clear which one is decimal"),
        (
            [f"2020-02-{day % 30 + 1:02d}" for day in range(ROWS)],
            {},
            "holds dates and has a cell that is none: '2020-02-30'",
        ),
    ],
)
def test_cells_that_would_be_read_wrong_are_refused_with_the_flag_that_mends_it(values, flags, said):
    assert said in refused(basic(k=values), **flags)


def test_all_offenders_are_written_down():
    said = refused("\n" + text(basic(k=[*noise()[:30], *(f"w{i}" for i in range(10))])))
    assert "10 cells that are none: 'w0' (row 33)" in said
    assert said.endswith("; all are in t_offenders.csv.")
    assert offenders()[1] == ["34", "k", "w1", "k is no number"]
    assert len(offenders()) == 10


def test_numbers_that_32_bits_merge_are_said():
    table = read(basic(time=[f"{1.7e9 + 3.5 * i:.1f}" for i in range(ROWS)]))
    assert "time has 40 distinct values, of which 32 bits tell 2 apart" in table.samples.remarks[0]
    assert not read(basic(x=[f"{value:.17g}" for value in np.random.default_rng(0).random(ROWS)])).samples.remarks


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("x,target\n", "has a header and no rows"),
        ("x,target\n1,2\n", "has one row"),
        ("target\n1\n2\n", "has one column"),
        ("x,x,target\n1,2,3\n", "column names twice, the first is 'x'"),
        ("x,target\n1,2\n3\n\n4,5,6\n7,8\n", "2 rows with another number of cells (row 3 has 1, row 5 has 3)"),
        ("x,target\nMünchen,2\n".encode("latin-1"), "is no text in UTF-8 (line 2)"),
        ("x,target\n1\0,2\n", "holds zero bytes"),
        ('x,target\n"1,2\n3,4\n', "mend the quotes there"),
        ("x,y\n1,2\n3,4\n", "has the columns x, y and none is called target"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, said):
    assert said in refused(content)


def test_a_file_that_is_not_there_or_no_parquet_is_refused():
    with pytest.raises(Mistake, match="is not there"):
        read_table(Asked("gone.csv"))
    assert "cannot be read as Parquet" in refused(b"PAR1 and no more", "t.parquet")
    assert "no table that is read here" in refused("x", "t.xlsx")


# Before training


def test_columns_that_give_the_target_away_are_named_with_their_figure():
    values = np.random.default_rng(0).normal(size=300)
    content = {
        "double": [f"{2 * value:.5f}" for value in values],
        "same": [f"{value:.5f}" for value in values],
        "bent": [f"{(value - 9) ** 2:.5f}" for value in values],
        "near": [f"{value + 0.3 * other:.3f}" for value, other in zip(values, values[::-1], strict=True)],
        "x": noise(4, 300),
        "kind": cycle("a", "b", rows=300),
        "target": [f"{value:.5f}" for value in values],
    }
    said = doubts(read(content), np.arange(200))
    assert [line.split()[1] for line in said] == ["double", "same", "bent"]
    assert said[0].startswith("leak? double alone predicts the target (R² 0.999")
    assert said[0].endswith("--data.drop '[double]'")
    assert said[1].startswith("leak? same equals the target in all training rows")


def test_columns_that_give_a_class_away_are_named():
    content = {
        "code": cycle("p", "q", "r", rows=300),
        "level": [f"{i % 3 + 0.001 * i:.3f}" for i in range(300)],
        "x": noise(4, 300),
        "kind": cycle("a", "b", rows=300),
        "target": cycle("one", "two", "three", rows=300),
    }
    said = doubts(read(content), np.arange(250))
    assert [line.split()[1] for line in said] == ["code", "level"]
    assert "(AUC 1.0000 on training rows)" in said[0]
    binary = {**content, "target": cycle(0, 1, 1, rows=300)}
    assert [line.split()[1] for line in doubts(read(binary), np.arange(250))] == ["code", "level"]


def test_held_out_rows_cannot_hide_a_leak_or_make_one():
    leaking, noisy = basic(k=noise(2)), basic(k=noise(3))
    leaking["k"][30:] = noise(5)[30:]
    noisy["k"][30:] = noise(2)[30:]
    assert [line.split()[:2] for line in doubts(read(leaking), np.arange(30))] == [["leak?", "k"]]
    assert doubts(read(noisy), np.arange(30)) == []


def test_what_tells_nothing_in_training_is_said():
    table = read(
        basic(k=[*cycle(1, rows=30), *noise()[30:]], m=[*cycle("", rows=30), *noise()[30:]], c=["a"] * 39 + ["b"])
    )
    said = doubts(table, np.arange(30))
    assert [line.split(" ", 1)[0] for line in said] == ["k", "m", "c"]
    rare = read(basic(c=[*cycle("a", "b", rows=30), *cycle("z", rows=10)]))
    assert "c has values in 10 of 10 held-out rows that no training row has ('z')" in doubts(rare, np.arange(30))[0]


def test_equal_rows_are_found_unless_there_are_few_combinations():
    content = basic()
    for values in content.values():
        values[7] = values[3]
        values[39] = values[3]
    table = read(content)
    assert same_rows(table.columns, table.samples.targets) == [[3, 7, 39]]
    content["target"][7] = "9"
    table = read(content)
    assert same_rows(table.columns, table.samples.targets) == [[3, 39]]
    few = read({"x": cycle(0, 1, 2), "c": cycle("a", "b"), "target": cycle(0, 1, 1)})
    assert same_rows(few.columns, few.samples.targets) == []
    assert "40 of 40 rows are equal to another one" in doubts(few, np.arange(30))[-1]


# Rows to predict


KNOWN = SimpleNamespace(numbers=["x", "day"], categories={"colour": ["", "blue", "red"], "floor": ["1", "2"]})


def new(content: str | dict[str, list[Any]], **flags: Any) -> NewRows:
    return read_rows("--data.predict_table", written(content), KNOWN, **flags)


def test_rows_to_predict_are_read_in_the_order_and_the_vocabulary_of_training():
    rows = new("floor,day,colour,x,note\n2.0,3,red,1.5,n\n3,,,-999,n\n1,4,green,2,n\n", missing=["-999"])
    x, day, colour, floor = rows.columns
    assert x.tolist()[::2] == [1.5, 2]
    assert np.isnan([x[1], day[1]]).all()
    assert (x.dtype, colour.dtype) == (np.float32, np.int32)
    assert colour.tolist() == [3, 1, 0]
    assert floor.tolist() == [2, 0, 1]
    assert rows.keys == ["0", "1", "2"]
    assert rows.remarks == [
        "colour: 1 of 3 rows have a value that training had not ('green'): read as unknown",
        "floor: 1 of 3 rows have a value that training had not ('3'): read as unknown",
        "not used, for the model did not learn from them: note",
    ]


def test_a_single_row_is_predicted_and_named_by_its_id():
    assert new("floor,day,colour,x,k\n2,3,red,1.5,a7\n", id="k").keys == ["a7"]
    without = new("floor,day,colour,x\n2,3,red,1.5\n", id="k")
    assert (without.keys, without.remarks) == (["0"], ["the column 'k' is not there: rows are named by their position"])


def test_a_model_of_one_column_predicts_from_one_column():
    known = SimpleNamespace(numbers=["x"], categories={})
    rows = read_rows("--data.predict_table", written("x\n1\n2.5\n"), known)
    assert rows.columns[0].tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("day,colour,X,storey\n3,red,1.5,2\n", "lacks the columns 'x' (is it 'X'?), 'floor'"),
        ("floor,day,colour,x\n", "has a header and no rows"),
        ("floor,day,colour,x\n2,3,red,warm\n2,3,red,1\n", "'warm' (row 2)"),
        ("floor,day,colour,x\n2,3,red,warm\n2,3,red,cold\n", "holds no numbers but words"),
        ("floor,day,colour,x\n2,3,red,inf\n", "infinite"),
        ("floor,day,colour,x\n2,3,red\n", "another number of cells"),
    ],
)
def test_rows_that_a_model_did_not_learn_to_read_are_refused(content, said):
    with pytest.raises(Mistake) as refusal:
        new(content)
    assert said in str(refusal.value)
    assert "--data.categories" not in str(refusal.value)
