"""Augmentation of rows does what it says, in training alone, and follows from the seed."""

import numpy as np
import pytest
import torch

from project_package.augment import mixed, noisy, swapped, without_columns
from project_package.engine.encoding import Encoded

ROWS, NUMBERS, CODES = 4000, 3, 2


@pytest.fixture
def x_NF() -> torch.Tensor:
    """Raw rows: in column f every number is its row plus f thousandths, and every code its row."""
    torch.manual_seed(0)
    rows_N = torch.arange(ROWS).float()
    return torch.stack([rows_N + column / 1000 for column in range(NUMBERS)] + [rows_N] * CODES, 1)


def encoded(rows: int = 6) -> Encoded:
    torch.manual_seed(0)
    return Encoded(torch.randn(rows, 3), torch.eye(rows, 2), torch.arange(rows)[:, None].expand(-1, 2))


def test_swap_noise_takes_a_share_of_the_cells_from_the_same_column_of_other_rows(x_NF):
    noised_NF = swapped(x_NF, 0.2)
    share = (noised_NF != x_NF).float().mean(0)
    assert share == pytest.approx([0.2] * 5, abs=0.03)
    for column in range(NUMBERS):
        assert np.isin(noised_NF[:, column].numpy(), x_NF[:, column].numpy()).all()


def test_column_dropout_hides_numbers_as_missing_and_categories_as_unknown(x_NF):
    hidden_NF = without_columns(x_NF + 1, NUMBERS, 0.3)
    assert hidden_NF[:, :NUMBERS].isnan().float().mean(0) == pytest.approx([0.3] * NUMBERS, abs=0.03)
    assert (hidden_NF[:, NUMBERS:] == 0).float().mean(0) == pytest.approx([0.3] * CODES, abs=0.03)
    kept_NF = ~hidden_NF[:, :NUMBERS].isnan()
    assert torch.equal(hidden_NF[:, :NUMBERS][kept_NF], (x_NF + 1)[:, :NUMBERS][kept_NF])


def test_noise_has_the_deviation_that_is_asked_for_and_leaves_flags_and_codes_alone():
    rows = Encoded(torch.zeros(ROWS, 3), torch.ones(ROWS, 2), torch.ones(ROWS, 1, dtype=torch.long))
    result = noisy(rows, 0.5)
    assert result.numbers_NF.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(result.flags_NG, rows.flags_NG)
    assert torch.equal(result.categories_NC, rows.categories_NC)


def test_mixup_interpolates_rows_and_targets_by_one_share_and_keeps_codes_of_either_row():
    rows, target_NK = encoded(), torch.eye(6)
    result, soft_NK = mixed(rows, target_NK, 1.0)
    share = soft_NK[0, 0].item()
    assert 0 < share < 1
    for one, other in ((result.numbers_NF, rows.numbers_NF), (result.flags_NG, rows.flags_NG), (soft_NK, target_NK)):
        torch.testing.assert_close(one, share * other + (1 - share) * other.roll(1, 0))
    is_own, is_others = (
        result.categories_NC == rows.categories_NC,
        result.categories_NC == rows.categories_NC.roll(1, 0),
    )
    assert (is_own | is_others).all()


def test_each_is_off_at_zero(x_NF):
    rows, target = encoded(), torch.eye(6)
    assert swapped(x_NF, 0) is x_NF
    assert without_columns(x_NF, NUMBERS, 0) is x_NF
    assert noisy(rows, 0) is rows
    assert mixed(rows, target, 0) == (rows, target)
