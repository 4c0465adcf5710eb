"""Every answer acts as it says, hostile ones are refused, and nothing is lost on the way."""

import itertools
import json
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import SOURCE, TEMPLATE, bake, dead_links, pages
from cookiecutter.exceptions import FailedHookException

ANSWERS = json.loads((TEMPLATE / "cookiecutter.json").read_text())
CHOICES = {key: values for key, values in ANSWERS.items() if isinstance(values, list) and not key.startswith("_")}
YOURS = """
    __init__ __main__ augment callbacks cli combinations data losses metrics model networks optim
""".split()
ENGINE = """
    __init__ batches calibrating calibration cells checkpoints commands completion config_schema configs delimited
    endings factories fallible fast faults files guard installing internals keepers launches loading loggers metrics
    mistakes optimizers output parser per_sample predictions preemption quantisation ranks reliability remote renames
    resume rules runs sampling schema scores signals splits stages steps submission targets task together updating
    watching weights workers
""".split()
ENGINE_OF = {
    "images": """
        backbone builtin cache columns contents decoding folders image_files images labels looks places
        preprocessing recomputing timm_models
    """.split(),
    "table": """
        arrow builtin_tables encoding heads kinds leaks new_rows outcomes oversampling summaries table_files tables
    """.split(),
}
DATA_OF = {"images": "digits.csv.gz", "table": "diabetes.csv"}
TEST_FILES = """
    conftest deprecations sandbox suites test_calibration test_deprecations test_installing test_loggers test_losses
    test_ranks test_shortages
""".split()
TEST_FILES_OF = {
    "images": """
        test_data test_folders test_guard test_internals test_labels test_launches test_mistakes test_model test_pixels
        test_preprocessing test_quantisation test_reading test_remote test_resume test_run test_schedules test_scores
        test_speed test_stop test_targets test_techniques test_timm test_weights
    """.split(),
    "table": "test_augment test_encoding test_model test_networks test_rows test_tables".split(),
}
TOOL_FILES = """
    __init__.py _baseline_models.py _baselines.py _checks.py _example.py _exported.py _findings.py _flags.py
    _integers.py _page.py
    _predictions.py _report_classes.py _report_figures.py _report_labels.py _report_numbers.py _results.py _samples.py
    _space.py _words.py baseline.py crossval.py diagnose.py export.py lr_range.py page.html page.mplstyle report.py
    space.yaml tune.py verify.py
""".split()
LAUNCH = ("Dockerfile", "kubernetes.yaml", "skypilot.yaml", "slurm.sh", "torchrun.sh")
PAGES = ("data", "machines", "resuming", "techniques", "updating")
RECIPES = ("imbalanced", "long_schedule", "stabilise")
RECIPES_OF = {"images": ("baseline", "finetune", "qat", "small_data"), "table": ("tabular", "tabular_strong")}
TOOL_FILES_OF = {"images": ("_looked.py", "_near_copies.py", "preview.py", "smote.py"), "table": ("_preprocessing.py",)}
TABLES = ("diabetes", "table", "california")


def files(project: Path) -> set[str]:
    found = (path for path in project.rglob("*") if path.is_file() and ".git/" not in str(path))
    return {str(path.relative_to(project)) for path in found}


def expected_files(answers: dict[str, str]) -> set[str]:
    common = {".dockerignore", ".gitignore", ".pre-commit-config.yaml", "Makefile", "README.md"}
    common |= {"AGENTS.md", "constraints.txt", "pyproject.toml"}
    common |= {".cruft.json"} if (TEMPLATE / ".git").exists() else set()
    common |= {f"launch/{name}" for name in LAUNCH}
    kind = "table" if answers["data"] in TABLES else "images"
    common |= {f"tests/{name}.py" for name in (*TEST_FILES, *TEST_FILES_OF[kind])}
    common |= {f"docs/{name}.md" for name in (*PAGES, *(["tools"] if answers["tools"] == "yes" else []))}
    common |= {"docs/search.md"} if kind == "table" and answers["tools"] == "yes" else set()
    common |= {f"src/my_project/{name}.py" for name in YOURS}
    common |= {f"src/my_project/engine/{name}.py" for name in (*ENGINE, *ENGINE_OF[kind])}
    common |= {f"src/my_project/engine/{DATA_OF[kind]}"}
    if answers["tools"] == "yes":
        common |= {f"src/my_project/tools/{name}" for name in (*TOOL_FILES, *TOOL_FILES_OF[kind])}
    common |= {f"src/my_project/configs/{name}.yaml" for name in ("base", "logger")}
    common |= {f"src/my_project/configs/presets/{name}.yaml" for name in ("debug", "minimal", "standard")}
    common |= {"src/my_project/configs/tasks/regression.yaml"} if kind == "images" else set()
    common |= {f"src/my_project/configs/recipes/{name}.yaml" for name in (*RECIPES, *RECIPES_OF[kind])}
    common |= {"LICENSE"} if answers["license"] != "none" else set()
    common |= {".github/workflows/ci.yml"} if answers["ci"] == "github" else set()
    return common


def combinations() -> list[dict[str, str]]:
    """Every value of every question, and every pair that acts on the same files."""
    defaults = {key: values[0] for key, values in CHOICES.items()}
    single = [defaults | {key: value} for key, values in CHOICES.items() for value in values[1:]]
    pairs = [defaults | {"data": d, "logger": lo} for d, lo in itertools.product(CHOICES["data"], CHOICES["logger"])]
    return [*single, *pairs]


@pytest.mark.parametrize("answers", combinations(), ids=lambda answers: "-".join(answers.values()))
def test_each_answer_bakes_exactly_its_files_and_valid_ones(answers, tmp_path):
    project = bake(tmp_path, **answers)
    assert files(project) == expected_files(answers)
    meta = tomllib.loads((project / "pyproject.toml").read_text())
    needs = " ".join(meta["project"]["dependencies"])
    assert ("wandb" in needs) == (answers["logger"] == "wandb")
    assert ("tensorboard" in needs) == (answers["logger"] == "tensorboard")
    assert ("scikit-learn" in needs) == (answers["data"] == "california")
    is_table = answers["data"] in TABLES
    assert all((name in needs) != is_table for name in ("albumentations", "torchvision"))
    assert ("pyarrow" in needs) == is_table
    assert meta["project"].get("license") == (None if answers["license"] == "none" else answers["license"])
    uv = meta["tool"].get("uv", {})
    backend = {"pypi": None, "rocm": "rocm7.2"}.get(answers["torch"], answers["torch"])
    assert uv.get("pip", {}).get("torch-backend") == backend
    indexes = [] if backend in (None, "auto") else [f"https://download.pytorch.org/whl/{backend}"]
    assert [index["url"] for index in uv.get("index", ())] == indexes
    sourced = {
        "torch",
        *([] if is_table else ["torchvision"]),
        *(["triton-rocm"] if answers["torch"] == "rocm" else []),
    }
    assert set(uv.get("sources", ())) == (sourced if indexes else set())
    configs = project / "src/my_project/configs"
    base = yaml.safe_load((configs / "base.yaml").read_text())
    named = {"image_folder": "data/images", "table": "data/table.csv"}
    assert base["data"]["table" if is_table else "root"] == named.get(answers["data"], answers["data"])
    logger = yaml.safe_load((configs / "logger.yaml").read_text())["trainer"]["logger"]
    assert logger == ("WandbLogger" if answers["logger"] == "wandb" else True)
    for path in project.rglob("*"):
        if path.is_file() and ".git/" not in str(path) and path.suffix != ".gz":
            text = path.read_text()
            assert "cookiecutter." not in text.replace("cookiecutter.json", ""), path
            assert "{{" not in text.replace("${{", ""), path  # as a workflow writes a value
            assert "{%" not in text, path
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
    agents = (project / "AGENTS.md").read_text(encoding="utf-8")
    assert len(agents.splitlines()) <= 40
    named = re.findall(r"`((?:src|tests)/[\w./]+|[a-z]+\.py|[a-z]+/)`", agents)
    assert len(named) > 10
    for name in set(named) - {"runs/", "data/"}:  # which a run makes
        assert any((folder / name).exists() for folder in (project, configs.parent)), name
    for page in pages(project):
        assert not dead_links(page), page
        if answers["tools"] == "no":
            assert not re.search("the command `(?!predict )|`preview`|tools/", page.read_text(encoding="utf-8")), page


def baked_as(source: Path, kind: str) -> str | None:
    """Return where a file of the template goes in a project of a kind; None where it does not."""
    relative = str(source.relative_to(SOURCE))
    if relative.startswith("tables/"):
        relative = relative.removeprefix("tables/").replace("src/package", "src/my_project")
        return relative if kind == "table" else None
    own = SOURCE / "tables" / relative.replace("{{cookiecutter.__package_name}}", "package")
    if kind == "table" and own.exists():  # which takes its place
        return None
    return relative.replace("{{cookiecutter.__package_name}}", "my_project")


@pytest.mark.parametrize(("data", "kind"), [("digits", "images"), ("diabetes", "table")])
def test_baked_python_and_configs_equal_their_source(data, kind, tmp_path):
    answers = {key: values[0] for key, values in CHOICES.items()} | {"data": data}
    project, wanted = bake(tmp_path, data=data), expected_files(answers)
    for source in [*SOURCE.rglob("*.py"), *SOURCE.rglob("configs/*/*.yaml")]:
        relative, text = baked_as(source, kind), source.read_text()
        assert "cookiecutter." not in text.replace("cookiecutter.json", "")
        if relative not in wanted:
            continue
        if relative.startswith("tests/"):
            text = text.replace("project_package", "my_project")
        assert (project / relative).read_text() == text
    built_in = f"engine/{DATA_OF[kind]}"
    source = SOURCE / "src/{{cookiecutter.__package_name}}" / built_in
    assert (project / "src/my_project" / built_in).read_bytes() == source.read_bytes()


def test_there_are_at_most_ten_questions_each_with_a_prompt():
    questions = [key for key in ANSWERS if not key.startswith("_")]
    assert len(questions) <= 10
    assert set(ANSWERS["__prompts__"]) == set(questions)


def test_scaffolding_takes_under_two_seconds(tmp_path):
    """Of a processor's time, which a busy machine does not lengthen."""
    program = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(tmp_path), str(TEMPLATE)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


FREE = {
    "quotes": 'it\'s "quoted" \'\'\'thrice\'\'\' and """more"""',
    "backslashes": r"C:\new\table \\server \u0041",
    "not Latin": "Δοκιμή 试验 тест עברית",
    "emoji": "🔥 rockets 🚀👩‍🔬",
    "braces": "{curly} {{double} % {#",
    "markdown": "*bold* _it_ [link](x) <b>html</b> `code` # head",
    "yaml and toml": "key: value # comment = [1] & *x",
}


@pytest.mark.parametrize("text", FREE.values(), ids=FREE.keys())
def test_free_text_arrives_intact(text, tmp_path):
    project = _baked_as_typed(tmp_path, description=text, author=text)
    meta = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert meta["project"]["description"] == text
    assert meta["project"]["authors"] == [{"name": text}]
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert text in readme.splitlines()[2].replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert text in (project / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{{ cookiecutter.author }}", "{# gone #}"])
def test_jinja_syntax_typed_at_a_prompt_arrives_intact(text, tmp_path):
    typed = {"description": text, "author": text, "project_name": f"Typed {text}", "project_slug": "typed"}
    project = _baked_as_typed(tmp_path, **typed)
    meta = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert meta["project"]["description"] == text
    assert text in (project / "LICENSE").read_text(encoding="utf-8")


def _baked_as_typed(folder: Path, **typed: str) -> Path:
    """Bake with answers given at the prompts, as a person would."""
    questions = [key for key in ANSWERS if not key.startswith("_")]
    keys = "".join(typed.get(key, "") + "\n" for key in questions)
    program = [sys.executable, "-m", "cookiecutter", "-o", str(folder), str(TEMPLATE)]
    done = subprocess.run(program, input=keys, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return next(path for path in folder.iterdir())


HOSTILE_SLUGS = [
    *("class", "match", "None", "torch", "lightning", "pytorch-lightning", "scikit-learn", "numpy", "json", "pytest"),
    *("CON", "aux", "com1", "1st", "-x", "x-", "ünder", "a b", "a;b", "a$(id)", "a'b", "a\tb", "tests", "x" * 65),
    *("../x", "/tmp/x", "a/b", "..", ".", "a\\b", "", " "),
]


@pytest.mark.parametrize("slug", HOSTILE_SLUGS)
def test_a_slug_that_would_break_the_project_is_refused_and_leaves_nothing(slug, tmp_path, capfd):
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(FailedHookException):
        bake(inner, project_slug=slug)
    said = capfd.readouterr().err
    assert f"error: project_slug={slug!r}" in said
    assert any(word in said for word in ("choose another", "use up to", "begin with")), said
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert not list(inner.iterdir())
    assert not Path("/tmp/x").exists()


@pytest.mark.parametrize("key", ["project_name", "description", "author"])
@pytest.mark.parametrize("text", ["two\nlines", "tab\there", "bell\x07", "delete\x7f", "next\x85", "line\u2028", " "])
def test_control_characters_are_refused_and_leave_nothing(key, text, tmp_path, capfd):
    with pytest.raises(FailedHookException):
        bake(tmp_path, project_slug="x1", **{key: text})
    assert f"error: {key}" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_answer_is_data_never_code(tmp_path):
    evil = '"""); import pathlib; pathlib.Path("pwned").touch(); ("""'
    project = bake(tmp_path, description=evil, author=evil)
    assert not list(tmp_path.rglob("pwned"))
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["description"] == evil
