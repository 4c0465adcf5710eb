"""The cells of ``make matrix`` are the same each time, and every two choices meet in one."""

import itertools

import pytest
from matrix import all_cells, choices, run


@pytest.mark.parametrize("with_torch", [False, True])
def test_every_two_values_of_two_choices_meet_in_a_cell(with_torch):
    given, cells = choices(with_torch), all_cells(with_torch)
    assert cells == all_cells(with_torch)
    for (one, values), (other, others) in itertools.combinations(given.items(), 2):
        assert {(cell.get(one), cell.get(other)) for cell in cells} >= set(itertools.product(values, others))


def test_each_answer_stands_on_its_own_beside_the_defaults():
    given = {key: values for key, values in choices(with_torch=False).items() if key not in ("python", "versions")}
    for key, values in given.items():
        for value in values[1:]:
            alone = {**{key: values[0] for key, values in given.items()}, key: value}
            assert any(alone.items() <= cell.items() for cell in all_cells(with_torch=False)), alone


def test_a_python_that_is_not_at_hand_is_named(capsys):
    assert run(7, {"python": "3.0", "versions": "known"}, keep=False) == "not at hand"
    assert "not at hand: Python 3.0" in capsys.readouterr().out
