"""The commands of the READMEs and of a project's docs, executed as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TEMPLATE, bake, draw_images, draw_table, pages
from test_project import OLDEST, make

DEMO = TEMPLATE / "build/demo/my-project"


def blocks_of(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are written in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return the command lines of a page's bash blocks, comments and line breaks taken out."""
    blocks = blocks_of(page, "bash")
    lines = "\n".join(block for block in blocks if not block.startswith("#!")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.fixture(scope="module")
def demonstrated() -> str:
    """What ``make demo`` prints: one clean installation, into folders of the checkout, with uv's cache of it."""
    return make("demo", TEMPLATE, OLDEST)


@pytest.mark.slow
def test_make_demo_goes_from_a_clean_checkout_to_a_number_and_predictions(demonstrated):
    accuracy = float(re.findall(r"test/accuracy\D+([\d.]+)", demonstrated)[-1])
    assert accuracy >= 0.985
    predicted = (DEMO / "runs/digits/version_0/predictions.csv").read_text().splitlines()
    assert len(predicted) == 1 + len(list((DEMO / "data/digits/7").iterdir()))
    assert sum(line.split(",")[1] == "7" for line in predicted[1:]) >= 0.98 * (len(predicted) - 1)


@pytest.mark.slow
def test_the_project_of_make_demo_is_green_in_its_own_environment(demonstrated):
    said = make("check", DEMO, OLDEST)
    assert " passed" in said
    assert "All checks passed!" in said
    assert "0 errors" in said


def test_the_templates_pages_name_no_command_that_nothing_executes():
    lines = [line for page in pages(TEMPLATE) for line in commands(page)]
    scaffolding = [line for line in lines if "cookiecutter" in line]  # with the address of a repository: not offline
    # The first is the test above, the second the run that this test belongs to.
    assert set(lines) - set(scaffolding) == {"make demo", "make test"}


# What makes a tool quick here.
TOOLS = {
    "verify": (),
    "report": (),
    "diagnose": (),
    "baseline": (),
    "lr-range": ("--steps=20",),
    "crossval": ("--folds=2",),
    "tune": ("--trials=2",),
    "export": ("--no-int8",),
}


def draw_what_pages_name(project: Path, is_table: bool) -> tuple[str, ...]:
    """Draw the data that the commands of the pages name; returns the flags for those that name none."""
    if is_table:
        for name in ("TABLE.csv", "NEW.csv"):
            draw_table(project / name)
        return ()
    images = draw_images(project / "FOLDER")
    named = [f"{path.relative_to(images)},{path.parent.name}" for path in sorted(images.rglob("*.png"))]
    (project / "TABLE.csv").write_text("\n".join(["image,colour", *named]))
    return ("--data.root", str(images))


def run_in_shell(line: str, project: Path, home: Path) -> str:
    """Run a command of no program of the project's, with its home elsewhere; returns the program's name."""
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(project / "src"), "CUDA_VISIBLE_DEVICES": ""}
    line = line.replace(".venv/bin/python", shlex.quote(sys.executable))
    ended = subprocess.run(["bash", "-c", line], cwd=project, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, line + ended.stdout + ended.stderr
    return line.split()[0]


@pytest.mark.parametrize("data", ["digits", "image_folder", "cifar10", "table"])
def test_the_commands_of_a_generated_project_work(data, command, tmp_path):
    project, is_table = bake(tmp_path, data=data), data == "table"
    read = pages(project)
    if data not in ("digits", "table"):  # the other pages are the same for every answer of a kind
        read = [page for page in read if page.name in ("README.md", "AGENTS.md", "data.md")]
    read = [page for page in read if page.name != "search.md"]  # which test_search_journey.py follows
    lines = dict.fromkeys(line for page in read for line in commands(page))
    drawn = draw_what_pages_name(project, is_table)
    if is_table:  # what a command takes that names no table
        base = project / "src/my_project/configs/base.yaml"
        text = base.read_text().replace("data/table.csv", f"{project}/TABLE.csv\n  target: price")
        base.write_text(text.replace("batch_size: 128", "batch_size: 16"))
    quick = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--model.network.width=8", "--data.batch_size=16")
    quick = quick[: 2 if is_table else 4]  # the space of a table's project has the others
    done = []
    for line in lines:
        line = line.replace("s3://BUCKET", f"file://{tmp_path}/bucket")
        program, *args = shlex.split(line.replace("$P", ".venv/bin/my-project"))
        named = [word for word in (program, *args) if word.startswith("launch/")]
        named += re.findall(r"^(?:\w+=\S+ )+(launch/\S+)", line)
        if named or line.startswith("docker run "):  # what test_launch.py checks
            assert all((project / file).is_file() for file in named), line
            continue
        if line.startswith("make "):  # `make demo` and the test after it run install and check, test_install.py others
            done.append(
                subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=project, check=True, capture_output=True)
            )
            continue
        if line.startswith("P="):  # which names the program
            continue
        if program in ("mkdir", ".venv/bin/python"):
            done.append(run_in_shell(line, project, tmp_path))
            continue
        if "torchrun" in program or "--trainer.num_nodes" in args or "--trainer.devices" in args:
            flags = args[args.index("fit") + 1 :]
            checked = command(project, project, "fit", *flags, "--print_config")
            assert checked.code == 0, line + checked.output
            done.append("launch")
            continue
        assert program == ".venv/bin/my-project", line
        first, *flags = args
        into = Path(flags.pop().replace("~", str(tmp_path))) if ">" in flags else None
        flags = [flag for flag in flags if flag != ">"]
        own = () if "--data.root" in flags or first == "predict" else drawn
        extra = (*quick, *own) if first in ("fit", "verify", "preview", "lr-range", "crossval", "tune") else ()
        ended = command(project, project, first, *flags, *extra, *TOOLS.get(first, ()))
        assert ended.code == 0, line + ended.output
        if into is not None:
            (project / into).write_text(ended.output)
        done.append(first)
    assert {"fit", "test", "predict", *(("launch", "schema", "completion", *TOOLS) if len(read) > 3 else ())} <= set(
        done
    )
    assert is_table or (project / "preview.png").is_file()


def test_the_script_of_a_generated_project_works_where_workers_are_not_forked(project, command, tmp_path):
    draw_images(tmp_path / "data/images")
    [script] = [block for page in pages(project) for block in blocks_of(page, "python")]
    assert 'if __name__ == "__main__":\n' in script
    start = "import multiprocessing\n    multiprocessing.set_start_method('spawn', force=True)"
    small = '"data/images", batch_size=8, num_workers=1'
    for old, new in {
        "max_epochs=10": "max_epochs=1",
        '"data/images"': small,
        '"__main__":': f'"__main__":\n    {start}',
    }.items():
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "script.py").write_text(script)
    done = command(project, tmp_path, "-m", tmp_path / "script.py")
    assert done.code == 0, done.output
    assert done.output.splitlines()[-1] in ("red", "green", "blue")
    assert list(tmp_path.rglob("*.ckpt"))


# As Python 3.14 starts workers on Linux.
NOT_FORKED = """
import multiprocessing
import sys

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver", force=True)
    from my_project.__main__ import main

    raise SystemExit(main(sys.argv[1:]))
"""


def test_a_run_without_forks_equals_one_with_them(project, command, tmp_path):
    draw_images(tmp_path / "images")
    (tmp_path / "script.py").write_text(NOT_FORKED)
    flags = ("fit", "--data.root=images", "--data.augment=strong", "--model.network.width=4", "--data.batch_size=8")
    flags += ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.num_workers=1")
    for name, start in (("forked", ()), ("not", ("-m", tmp_path / "script.py"))):
        done = command(project, tmp_path, *start, *flags, f"--name={name}")
        assert done.code == 0, done.output
    runs = [tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("forked", "not")]
    forked, other = (torch.load(path, weights_only=True)["state_dict"] for path in runs)
    assert all(torch.equal(forked[name], other[name]) for name in forked)


def fresh(project: Path, folder: Path, code: str) -> str:
    """Run code in a process that has imported nothing; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_answers_without_importing_torch(project, tmp_path):
    code = "import sys; from my_project.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    shown = fresh(project, tmp_path, code)
    for name in ("fit", "validate", "test", "predict", "preview", "smote", *TOOLS):
        assert f"\n  {name} " in shown


def test_the_help_of_every_command_lists_its_flags_with_the_defaults_of_this_project(command, tmp_path):
    for data in ("digits", "image_folder"):
        project = bake(tmp_path / data, data=data)
        names = ("fit", "validate", "test", "predict", *TOOLS, "preview", "smote")
        for name, done in zip(
            names, command.each(project, tmp_path, [(name, "--help") for name in names]), strict=True
        ):
            assert done.code == 0, name + done.output
            if name not in (*TOOLS, "smote"):
                root = "data/images" if data == "image_folder" else data
                assert f"(type: str, default: {root})" in " ".join(done.output.split()), name


def test_a_run_imports_nothing_that_it_does_not_use(project, tmp_path):
    draw_images(tmp_path / "images")
    flags = ["--data.root=images", "--data.augment=none", "--data.batch_size=8", "--trainer.max_epochs=1"]
    code = f"import sys; from my_project.__main__ import main; main(['fit', '--report=false', *{flags}])"
    loaded = fresh(project, tmp_path, f"{code}; print('LOADED', *sys.modules)").partition("LOADED ")[2].split()
    assert "torch" in loaded
    unused = "albumentations cv2 imblearn jinja2 onnx onnxruntime optuna safetensors sklearn timm wandb"
    assert not set(loaded) & set(unused.split())
