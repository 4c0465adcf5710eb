"""The search that a table project's page describes, followed as it stands there.

The page's numbers of trials and folds are made small by flags behind them; all else is as a reader types it.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from conftest import Command, Result, bake, rows

optuna.logging.set_verbosity(optuna.logging.WARNING)
PAGE = "docs/search.md"
SMALL = {
    "tune": ("--trials=4", "--pruner=none", "--trainer.max_epochs=3", "--trainer.logger=[]"),
    "crossval": ("--folds=2", "--trainer.max_epochs=3"),
    "fit": (),
    "test": (),
}
TESTED = "runs/final/version_0/test_predictions.csv"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def table_project(tmp_path_factory) -> Path:
    return bake(tmp_path_factory.mktemp("baked"), data="diabetes")


@pytest.fixture(scope="module")
def followed(table_project: Path, command: Command, tmp_path_factory) -> tuple[Path, list[tuple[list[str], Result]]]:
    """The folder in which the page was followed, and each command with how it ended."""
    folder = tmp_path_factory.mktemp("followed")
    page = (table_project / PAGE).read_text(encoding="utf-8")
    for space in blocks(page, "yaml"):
        name = re.match(r"# (\w+\.yaml)\n", space)
        assert name, space
        (folder / name[1]).write_text(space)
    done: list[tuple[list[str], Result]] = []
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            program, *args = shlex.split(line, comments=True)
            assert program == ".venv/bin/my-project", line
            assert not (folder / TESTED).exists(), f"before {line}"
            result = command(table_project, folder, *args, *SMALL[args[0]])
            assert result.code == 0, (line, result.output)
            done.append((args, result))
    return folder, done


def trials(folder: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/runs/{study}/study.db").trials


def best(folder: Path, study: str) -> optuna.trial.FrozenTrial:
    return min(trials(folder, study), key=lambda trial: trial.value or 0.0)


def searched(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the page's space searches, out of a run's config."""
    model = config["model"]
    values: dict[str, Any] = {"model.optimizer.lr": model["optimizer"]["init_args"]["lr"]}
    values |= {f"model.network.{key}": model["network"]["init_args"][key] for key in ("depth", "width", "dropout")}
    return values | {"data.batch_size": config["data"]["batch_size"], "model.init": model["init"]}


def config_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_the_page_goes_from_two_searches_by_crossval_to_one_test(followed):
    _, done = followed
    assert [args[0] for args, _ in done] == ["tune", "tune", "crossval", "fit", "test"]
    assert [args[args.index("--sampler") + 1] for args, _ in done[:2]] == ["random", "tpe"]


def test_the_first_search_tries_every_flag_of_the_recipe_over_its_whole_range(followed):
    folder, _ = followed
    space = yaml.safe_load((folder / "wide.yaml").read_text())
    tried = trials(folder, "wide")
    assert len(tried) == 4
    assert all(trial.params.keys() == space.keys() for trial in tried)
    assert space.keys() == searched(config_of(folder / "runs/wide/trial_000/version_0")).keys()
    assert (folder / "runs/wide/tune.html").is_file()


def test_the_second_search_lies_around_the_best_of_the_first(followed):
    folder, done = followed
    space = yaml.safe_load((folder / "wide.yaml").read_text())
    centre = best(folder, "wide").params
    for trial in trials(folder, "near"):
        assert trial.params.keys() == centre.keys()
        for key, spec in space.items():
            if isinstance(spec, list):
                assert trial.params[key] in spec
                continue
            ((kind, ends),) = spec.items()
            scale = np.log if "log" in kind else float
            low, high, tried, middle = (scale(float(value)) for value in (*ends, trial.params[key], centre[key]))
            is_neighbour = "int" in kind and abs(trial.params[key] - centre[key]) <= 1
            assert low <= tried <= high
            assert is_neighbour or abs(tried - middle) <= (high - low) / 6 + 0.02 * abs(middle), key
    said = [result.output for _, result in done[:2]]
    for study, output in zip(("wide", "near"), said, strict=True):
        line = f"best val/loss: {best(folder, study).value:.4f}"
        assert line in output
        assert line in (folder / f"runs/{study}/best.yaml").read_text().splitlines()[1]


def test_crossval_compares_the_defaults_with_what_was_found(followed):
    folder, done = followed
    found, results = best(folder, "near").params, folder / "runs/judged/folds_2/against_best"
    for fold in ("fold_1", "fold_2"):
        assert searched(config_of(results / fold / "version_0")) == pytest.approx(found)
        default = config_of(results.parent / fold / "version_0")
        assert default["data"]["batch_size"] == 128
        assert default["model"]["network"]["init_args"]["dropout"] is None
    compared = {row["metric"] for row in rows(results / "comparison.csv")}
    assert {"val/loss", "val/rmse"} <= compared
    assert (results / "crossval.html").is_file()
    assert "comparison" in done[2][1].output


def test_the_test_split_is_read_by_the_last_command_alone(followed):
    folder, done = followed
    run = folder / "runs/final/version_0"
    assert searched(config_of(run)) == pytest.approx(best(folder, "near").params)
    assert list(folder.rglob("test_predictions.csv")) == [folder / TESTED]
    assert all("test/" not in result.output for _, result in done[:-1])
    assert "test/rmse" in done[-1][1].output
    assert len(rows(folder / TESTED)) == 66


def test_a_search_in_a_project_whose_own_table_is_not_there_leaves_a_recipe(command, tmp_path):
    project = bake(tmp_path / "baked", data="table")
    (tmp_path / "space.yaml").write_text("model.network.width: [8, 16]\n")
    (tmp_path / "rows.csv").write_text("x,price\n" + "".join(f"{i * 37 % 97},{i * 1.5}\n" for i in range(400)))
    given = ("--data.table=rows.csv", "--data.target=price", "--trainer.max_epochs=1", "--trainer.logger=[]")
    done = command(project, tmp_path, "tune", "--space=space.yaml", "--trials=1", *given)
    assert done.code == 0, done.output
    assert "the last that failed" not in done.output
    recipe = yaml.safe_load((tmp_path / "runs/tune/best.yaml").read_text())
    assert recipe["data"] == {"table": "rows.csv", "target": "price"}
    again = command(project, tmp_path, "crossval", "--folds=2", "--config=runs/tune/trial_000/version_0/config.yaml")
    assert again.code == 0, again.output  # a run's own config, too
