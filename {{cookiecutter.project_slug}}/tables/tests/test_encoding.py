"""Encoded rows equal their formulas, from training rows alone, eagerly and exported."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from project_package.engine import encoding
from project_package.engine.encoding import KNOTS, Columns, Encoding, Scaling

FEW = [f"few {index}" for index in range(3)]
MANY = [f"many {index}" for index in range(9)]
MIXED = Columns(["a", "b"], {"few": FEW, "many": MANY}, ["b"])


def numbers(count):
    return Columns([f"number {index}" for index in range(count)], {}, [])


def column(values):
    return torch.tensor(np.asarray(values)[:, None])


def encoded(values, scaling: Scaling = "quantile", rows=None):
    """Return the numbers of one column, fitted on values, of these or of other rows."""
    encoding = Encoding(numbers(1), scaling, column(values))
    return encoding(column(values if rows is None else rows).float()).numbers_NF[:, 0].numpy()


def mixed(rows, seed=0):
    draw = np.random.default_rng(seed)
    codes = [draw.integers(0, 4, rows), draw.integers(0, 10, rows)]
    x_NF = np.column_stack([draw.lognormal(size=rows), draw.normal(size=rows), *codes]).astype(np.float32)
    x_NF[::5, 1] = np.nan
    return torch.from_numpy(x_NF)


@pytest.mark.parametrize("values", [[3.0, 1, 2], [0.0, 0, 0, 5, 1, 1, 7], np.random.default_rng(0).normal(size=200)])
def test_a_quantile_is_that_of_the_rank_in_the_middle_of_ties(values):
    expected = norm.ppf((rankdata(values) - 0.5) / len(values))
    np.testing.assert_allclose(encoded(values), expected, atol=1e-5)


@pytest.mark.parametrize("draw", ["lognormal", "half zeros", "whole numbers"])
def test_of_many_distinct_values_none_is_far_from_its_quantile(draw):
    random = np.random.default_rng(1)
    values = random.lognormal(sigma=2, size=20_000)
    if draw == "half zeros":
        values[random.random(20_000) < 0.5] = 0
    if draw == "whole numbers":
        values = np.floor(values * 100)
    values = values.astype(np.float32)
    expected = norm.ppf((rankdata(values) - 0.5) / len(values))
    found = encoded(values)
    assert np.quantile(np.abs(found - expected), 0.99) < 0.04
    assert (np.diff(found[np.argsort(values)]) >= 0).all()


def test_beyond_the_training_rows_a_quantile_stays_what_it_is_at_the_end():
    low, high = encoded([1.0, 2, 3, 4], rows=[1, 4])
    np.testing.assert_array_equal(encoded([1.0, 2, 3, 4], rows=[-1e9, 0, 5, 1e9]), [low, low, high, high])


def test_between_two_values_a_quantile_is_on_the_line_between_theirs():
    first, last = encoded([1.0, 3])
    assert encoded([1.0, 3], rows=[1.5]) == pytest.approx(first + (last - first) / 4)


def test_robust_scaling_is_the_formula_of_its_paper():
    values = np.random.default_rng(2).standard_t(2, 501)
    low, middle, high = np.quantile(values.astype(np.float32), [0.25, 0.5, 0.75])
    z = (values - middle) / (high - low)
    np.testing.assert_allclose(encoded(values, "robust"), z / np.sqrt(1 + (z / 3) ** 2), atol=1e-5)
    extremes = np.sort(encoded(values, "robust", rows=[-3e38, 3e38, 1e12]))
    np.testing.assert_allclose(extremes, [-3, 3, 3], atol=1e-5)


def test_robust_scaling_takes_the_range_where_the_quartiles_are_the_same():
    values = np.r_[np.zeros(98), -1, 3]
    z = 3 / 2
    assert encoded(values, "robust", rows=[3]) == pytest.approx(z / np.sqrt(1 + (z / 3) ** 2))


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
@pytest.mark.parametrize("values", [[7.0] * 5, [np.nan] * 5, [1e-45] * 5])
def test_a_column_without_variance_is_0_whatever_comes_later(scaling, values):
    np.testing.assert_allclose(encoded(values, scaling, rows=[7, -1e30, 1e30, np.nan, 0]), 0, atol=1e-6)


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
def test_nothing_becomes_nan_or_infinite(scaling):
    values = np.array([-1e38, 0, 1e-45, 2e-45, 1, 1e38])
    assert np.isfinite(encoded(values, scaling, rows=[*values, np.nan, 3e38, -3e38])).all()


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
def test_numbers_far_from_0_keep_what_32_bits_have_of_them(scaling):
    seconds = 1.7e9 + np.arange(0, 1000 * 3600, 3600.0)
    found, expected = encoded(seconds, scaling), encoded((seconds - 1.7e9).astype(np.float64), scaling)
    np.testing.assert_allclose(found, expected, atol=0.01)
    in_32_bits = seconds.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(found, encoded(in_32_bits, scaling))


def test_a_missing_number_is_the_median_and_is_flagged_where_training_has_missing_ones():
    seen_NF = torch.tensor([[1.0, 10], [2, torch.nan], [3, 30], [9, 20]])
    encoding = Encoding(Columns(["a", "b"], {}, ["b"]), "robust", seen_NF)
    rows = encoding(torch.tensor([[torch.nan, torch.nan], [2.5, 20]]))
    assert rows.flags_NG.tolist() == [[1], [0]]
    assert rows.numbers_NF.tolist() == [[0, 0], [0, 0]]


def test_a_category_with_few_values_has_a_flag_for_each_and_one_with_many_has_codes():
    rows = Encoding(MIXED, "quantile", mixed(50))(torch.tensor([[1.0, 1, 1, 9], [1, 1, 3, 1], [1, torch.nan, 2, 4]]))
    assert rows.flags_NG.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]
    assert rows.categories_NC.tolist() == [[9], [1], [4]]
    assert rows.categories_NC.dtype == torch.long


def test_a_value_that_training_has_not_seen_has_no_flag_and_code_0():
    rows = Encoding(MIXED, "quantile", mixed(50))(torch.tensor([[1.0, 1, 0, 0]]))
    assert rows.flags_NG.tolist() == [[0, 0, 0, 0]]
    assert rows.categories_NC.tolist() == [[0]]


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
def test_rows_that_are_encoded_change_nothing_that_was_fitted(scaling):
    encoding = Encoding(MIXED, scaling, mixed(300)).train()
    before = {name: value.clone() for name, value in encoding.state_dict().items()}
    encoding(mixed(40, seed=1) * 100)
    encoding.eval()(mixed(40, seed=2))
    assert all(torch.equal(before[name], value) for name, value in encoding.state_dict().items())


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
@pytest.mark.parametrize("rows", [1, 2, 300, 3000])
def test_an_encoding_made_without_rows_loads_what_another_fitted(scaling, rows):
    fitted, empty = Encoding(MIXED, scaling, mixed(rows)), Encoding(MIXED, scaling)
    assert all(value.isfinite().all() for value in empty(mixed(9)))
    empty.load_state_dict(fitted.state_dict())
    for one, other in zip(empty(mixed(9)), fitted(mixed(9)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scaling", ["quantile", "robust"])
def test_exported_it_gives_the_same_to_the_last_bit_for_any_number_of_rows(scaling):
    encoding = Encoding(MIXED, scaling, mixed(2000)).eval()
    any_number = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(encoding, (mixed(2),), dynamic_shapes=any_number).module()
    for rows in (1, 7, 2000):
        for one, other in zip(program(mixed(rows)), encoding(mixed(rows)), strict=True):
            assert torch.equal(one, other)


def test_of_a_long_table_always_the_same_rows_are_fitted_on(monkeypatch):
    monkeypatch.setattr(encoding, "FITTED_ROWS", 400)
    monkeypatch.setattr(encoding, "NETWORK_ROWS", 100)
    state = torch.get_rng_state()
    one, other = Encoding(MIXED, "quantile", mixed(1000)), Encoding(MIXED, "quantile", mixed(1000))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    inputs = one.inputs(mixed(1000))
    assert inputs.seen_NF is not None
    assert inputs.seen_NF.shape == (100, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_is_told_what_a_row_has():
    encoding = Encoding(MIXED, "quantile", mixed(50))
    assert encoding.inputs()[:3] == (2, 1 + len(FEW), (len(MANY) + 1,))
    assert encoding.inputs().seen_NF is None
    seen_NF = encoding.inputs(mixed(50).double()).seen_NF
    assert seen_NF is not None
    assert torch.equal(seen_NF, encoding(mixed(50)).numbers_NF)


def test_columns_are_plain_values_and_come_back():
    assert Columns.from_inputs(json.loads(json.dumps(MIXED.as_dict()))) == MIXED


def test_as_many_distinct_values_as_knots_are_all_kept():
    values = np.arange(KNOTS, dtype=float)
    expected = norm.ppf((np.arange(KNOTS) + 0.5) / KNOTS)
    np.testing.assert_allclose(encoded(values), expected, atol=1e-5)
