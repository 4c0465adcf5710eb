"""The fast part of the faults: one of each kind, by a fixed seed; ``make faults`` runs all of them by a new one."""

import subprocess
from contextlib import contextmanager

import pytest
from faults import (
    ROWS,
    Arena,
    contract,
    few_open_files,
    kills,
    kills_inside_a_save,
    requeued_by_slurm,
    silent_servers,
    without_locks,
)

# Of the last three the project's own tests have a quick form in test_shortages.py, of SLURM in test_stop.py.
SLOW_ONES = (contract, requeued_by_slurm, few_open_files, silent_servers, without_locks)
SLOW = [row for row in ROWS if "kill -9" in row.fault or row.ours in SLOW_ONES]
SETTINGS = (
    "one-cycle, EMA, MixUp, weighted sampling",
    "two workers that end with each epoch, saves every 4 steps",
    "numbers from a table, their logarithm, weights of samples, EMA",
    "two ranks with a worker each, weighted sampling, accumulation of 2, saves every 2 steps",
)


@pytest.fixture(scope="module")
def arena(tmp_path_factory, command) -> Arena:
    return Arena(tmp_path_factory.mktemp("faults"), seed=0, command=command, one_of_each=True)


@contextmanager
def where_mounting_is_allowed():
    try:
        yield
    except subprocess.CalledProcessError as error:
        if "mount" in error.cmd:
            pytest.skip("needs the right to mount a file system")
        raise


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_killed_run_ends_as_an_unbroken_one(setting, arena):
    assert all(kills(arena, setting, 1))


@pytest.mark.parametrize("row", [row for row in ROWS if row not in SLOW], ids=lambda row: row.fault)
def test_a_promise_holds(row, arena):
    with where_mounting_is_allowed():
        assert all(row.ours(arena))


def test_checkpoints_serve_every_command_in_a_fresh_process(arena):
    assert all(contract(arena, ("averaged (EMA)",)))


def test_a_kill_inside_a_save_leaves_a_whole_file(arena):
    with where_mounting_is_allowed():
        assert all(kills_inside_a_save(arena, 4))
