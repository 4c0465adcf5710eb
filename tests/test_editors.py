"""What an editor and a shell complete by: the schema of the configs, and the scripts of ``completion``."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import TINY, bake, draw_images
from jsonschema import Draft7Validator
from test_journeys import draw_table

QUICK = ("--trainer.max_epochs=1", "--report=false")
RUNS = {
    "digits": [
        (*TINY, "--data.root=images"),
        (
            *TINY[1:],
            "--data.root=images",
            "--config=minimal",
            "--model.network=Backbone",
            "--model.network.name=resnet18",
        ),
        (*TINY, "--data.root=images", "--config=imbalanced", "--trainer.logger=[CSVLogger,TensorBoardLogger]"),
    ],
    "table": [(), ("--model.network=TabM", "--callbacks.averaging=SWA", "--trainer.logger=false")],
}
RIGHT = """
callbacks: null
---
callbacks: {averaging: null, early_stopping: {patience: 5}, lr_monitor: {init_args: {logging_interval: step}}}
---
model: {optimizer: {lr: 0.1}, schedule: null}
---
model: {optimizer: {class_path: torch.optim.AdamW, init_args: {betas: [0.9, 0.95]}}}
---
model: {network: mylib.Net}
---
model: {network: {class_path: mylib.Net, init_args: {anything: 1}}}
---
trainer: {logger: [CSVLogger, {class_path: TensorBoardLogger, init_args: {log_graph: true}, dict_kwargs: {x: 1}}]}
---
trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: "00:12:00:00"}}]}
---
trainer: {precision: 16, devices: [0, 1], max_time: {hours: 1}, gradient_clip_val: null}
---
seed_everything: true
"""
WRONG = """
modle: {}
---
trainer: {max_epoch: 3}
---
trainer: {max_epochs: many}
---
trainer: {precision: bf16-mxed}
---
trainer: {logger: TensorBordLogger}
---
trainer: {callbacks: [RichProgresBar]}
---
data: {batch_size: 8.5}
---
data: {balance: samplr}
---
model: {l1: [0.1]}
---
model: {freeze: null}
---
model: {network: NoSuchNetwork}
---
model: {network: CrossEntropy}
---
model: {network: {class_path: {network}, init_args: {widht: 5}}}
---
model: {network: {class_path: {network}, init_args: {width: wide}}}
---
model: {network: {class_path: my_project.networks.{network}, width: 5}}
---
model: {optimizer: {class_path: AdamW, init_args: {learning_rate: 0.1}}}
---
model: {optimizer: {init_args: {learning_rate: 0.1}}}
---
callbacks: {early_stopping: {init_args: {patiense: 5}}}
---
callbacks: {early_stoping: null}
---
callbacks: {averaging: Pictures}
---
seed_everything: 1.5
---
name: 5
"""


@pytest.fixture(scope="module", params=["digits", "table"])
def described(request, command, tmp_path_factory) -> tuple[Path, Draft7Validator, str]:
    """A project with the schema of its configs, and runs of it; the validator, and the name of a network."""
    folder = tmp_path_factory.mktemp(request.param)
    project, flags = bake(folder, data=request.param), QUICK
    if request.param == "digits":
        draw_images(project / "images")
    else:
        draw_table(project / "table.csv", rows=60)
        flags = (*QUICK, "--data.table=table.csv", "--data.target=price", "--data.batch_size=16")
    lines = [("fit", f"--name=run{n}", *flags, *own) for n, own in enumerate(RUNS[request.param])]
    for done in command.each(project, project, [*lines, ("schema",)]):
        assert done.code == 0, done.output
    schema = json.loads((project / "configs.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    return project, Draft7Validator(schema), "SmallCNN" if request.param == "digits" else "MLP"


def faults(validator: Draft7Validator, text: str) -> list[str]:
    return [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(yaml.safe_load(text) or {})]


def test_the_schema_takes_every_config_that_is_there_and_that_a_run_writes(described):
    project, validator, _ = described
    written = [*project.glob("src/*/configs/**/*.yaml"), *project.glob("runs/*/*/config.yaml")]
    assert len(written) > 10
    found = {str(path): faults(validator, path.read_text()) for path in written}
    assert not {path: said for path, said in found.items() if said}
    for text in RIGHT.split("---\n"):
        assert not faults(validator, text), text


def test_the_schema_refuses_wrong_names_types_and_arguments(described):
    _, validator, network = described
    for text in WRONG.replace("{network}", network).split("---\n"):
        assert faults(validator, text), text


def test_the_schema_says_what_help_says_and_nothing_that_an_editor_would_write_out(described):
    project, validator, _ = described
    schema = validator.schema
    assert schema["properties"]["model"]["properties"]["warmup_steps"]["description"].startswith(
        "Optimizer steps in which"
    )
    assert '"default":' not in (project / "configs.schema.json").read_text()
    assert (project / "configs.schema.json").stat().st_size < 500_000


def test_vscode_is_told_where_configs_are_and_settings_of_its_owner_stay(project, command, tmp_path):
    copied = tmp_path / "my-project"
    shutil.copytree(project, copied)
    settings = copied / ".vscode/settings.json"
    settings.parent.mkdir()
    settings.write_text(mine := '{\n  // mine\n  "editor.tabSize": 2\n}\n')
    lines = [("schema",), ("schema", "mine.json"), ("schema", "none/mine.json")]
    first, named, nowhere = command.each(copied, tmp_path, lines)
    assert "cannot be written (No such file or directory)" in nowhere.refusal
    assert f"{settings} is yours; for VS Code add to it: " in first.output
    assert settings.read_text() == mine
    [(schema, places)] = json.loads(f"{{{first.output.partition('add to it: ')[2].splitlines()[0]}}}")[
        "yaml.schemas"
    ].items()
    assert list(copied.glob(places[0]))
    assert (copied / schema).read_text() == (tmp_path / "mine.json").read_text()
    assert f"# yaml-language-server: $schema={tmp_path / 'mine.json'}" in named.output


def test_without_settings_vscode_gets_those_that_name_the_schema(described):
    project = described[0]
    [(schema, places)] = json.loads((project / ".vscode/settings.json").read_text())["yaml.schemas"].items()
    assert (project / schema).is_file()
    assert all(list(project.glob(place)) for place in places if place != "configs/**/*.yaml")


SAID = {
    "digits": [(), ("--config=imbalanced", "--model.network=Backbone", "--model.network.name=resnet18")],
    "table": [("--data.table=table.csv", "--data.target=price"), ("--data.task=regression", "--model.network=TabM")],
}


def test_a_printed_config_given_back_is_the_same_and_fits_the_schema(described, command):
    project, validator, network = described
    off = ("--callbacks.early_stopping=null", "--trainer.logger=CSVLogger", "--trainer.gradient_clip_val=null")
    lines = [(*flags, *more) for flags in SAID["table" if network == "MLP" else "digits"] for more in ((), off)]
    printed = command.each(project, project, [("fit", *flags, "--print_config") for flags in lines])
    for number, done in enumerate(printed):
        assert done.code == 0, done.output
        assert "early_stopping: null" in done.output or number % 2 == 0
        (project / f"mine{number}.yaml").write_text(done.output)
        assert not faults(validator, done.output)
    again = command.each(
        project, project, [("fit", f"--config=mine{n}.yaml", "--print_config") for n in range(len(lines))]
    )
    assert [done.output for done in again] == [done.output for done in printed]


COMPLETED = {
    "": ["fit", "validate", "test", "predict", "report", "lr-range", "schema", "completion"],
    "fi": ["fit"],
    "fit --trainer.max_ep": ["--trainer.max_epochs"],
    "fit --model.network.wid": ["--model.network.width"],
    "fit --data.balance ": ["none", "sampler", "class_weights", "effective_weights"],
    "fit --data.flip ": ["true", "false"],
    "fit --model.optimizer Adam": ["Adam", "AdamW", "Adamax"],
    "fit --callbacks.early_stopping.pat": ["--callbacks.early_stopping.patience"],
    "fit --trainer.logger Wand": ["WandbLogger"],
    "fit --config imb": ["imbalanced"],
    "fit --config mi": ["mine.yaml", "minimal"],
    "predict --ckpt_path my": ["my_run"],
    "predict --lik": ["--like"],
    "fit --lik": [],
    "tune --sampler ": ["tpe", "random", "grid", "gp"],
    "tune --model.mix": ["--model.mixup", "--model.mix_probability"],
    "diagnose --trainer.max": [],
    "completion ": ["bash", "zsh", "fish", "tcsh"],
}
ASK = """
source ./script
answer=$(complete -p my-project); [[ $answer == *"-o default"* ]] || echo no files
function=${answer#*-F }; function=${function%% *}
while IFS= read -r line; do
    COMP_WORDS=(my-project) COMPREPLY=()
    read -ra words <<< "$line"
    COMP_WORDS+=("${words[@]}"); [[ $line == *" " || -z $line ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    $function my-project "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[*]}"
done
"""


def test_bash_completes_commands_flags_values_and_files(project, command, tmp_path):
    done = command(project, tmp_path, "completion", "bash")
    assert done.code == 0, done.output
    (tmp_path / "script").write_text(done.output)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "my_run").mkdir()
    lines = "\n".join(COMPLETED) + "\n"
    asked = subprocess.run(["bash", "-c", ASK], cwd=tmp_path, input=lines, capture_output=True, text=True, check=True)
    assert not asked.stderr
    answers = dict(zip(COMPLETED, map(str.split, asked.stdout.splitlines()), strict=True))
    for line, wanted in COMPLETED.items():
        assert set(wanted) <= set(answers[line]), line
        assert line in ("", "fi") or len(answers[line]) == len(wanted), line


def test_the_shells_that_it_knows_get_a_script_and_others_a_line(project, command, tmp_path):
    script = tmp_path / "without.py"
    hidden = "import sys\nsys.modules['shtab'] = None\nfrom my_project.__main__ import main\n"
    script.write_text(f"{hidden}sys.exit(main(['completion', 'bash']))\n")
    assert "shtab" in command(project, tmp_path, "-m", script).refusal
    *scripts, other = command.each(
        project, tmp_path, [("completion", shell) for shell in ("zsh", "fish", "tcsh", "ksh")]
    )
    for done in scripts:
        assert done.code == 0, done.output
        assert all(word in done.output for word in ("my-project", "trainer.max_epochs", "lr-range")), done.output[:300]
    assert "ksh" in other.refusal
