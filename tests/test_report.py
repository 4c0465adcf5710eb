"""The page of a run shows what the run left, says what is missing, and needs nothing but itself."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HUNG, RUN, TINY, rows
from PIL import Image
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

CHROMIUM = shutil.which("chromium")
LOGGED = {"WITH_REPORT": "yes"}
SECTIONS = ["Summary", "Curves", "Validation", "Test", "Data", "Timing", "Reproduce"]


class Page(HTMLParser):
    """What a page holds: its headings, the cells of its tables, all its text, and all that its tags point to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.titles, self.cells, self.links, self.tags, self.words = [], [], [], [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.tags[-1:] == ["h2"] and data.strip():
            self.titles.append(data.strip())
        if self.tags[-1:] == ["td"] and data.strip():
            self.cells.append(data.strip())

    @property
    def images(self) -> Sequence[Image.Image]:
        """Every picture, those within figures too, decoded to its end."""
        uris = [link for link in self.links if link.startswith("data:image/")]
        decoded = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]
        for image in decoded:
            image.load()
        return decoded


def draw(root: Path, classes: list[str], each: int, side: int = 10) -> Path:
    """Draw noise around a colour of each class."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        colour = rng.integers(40, 216, 3)
        for number in range(each):
            pixels = (colour + rng.integers(-40, 40, (side, side, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def ended(fitted, project, command, tmp_path_factory) -> tuple[Path, str]:
    """A folder with a run that fit has followed by its report, and that was tested; what fit said."""
    folder = tmp_path_factory.mktemp("ended") / "ended"
    shutil.copytree(fitted[0], folder)
    shutil.copy(folder / RUN / "report.html", folder / "first.html")
    tested = command(project, folder, "test")
    assert tested.code == 0, tested.output
    return folder, fitted[1]


@pytest.fixture(scope="module")
def page(ended, project, command) -> Page:
    """The report of that run."""
    return reported(command, project, ended[0])


@pytest.fixture
def copied(ended, tmp_path) -> Path:
    """A copy of that folder, to spoil."""
    shutil.copytree(ended[0], tmp_path / "copy")
    return tmp_path / "copy"


def reported(command, project, folder: Path, *args: object, page: Path = RUN / "report.html") -> Page:
    done = command(project, folder, "report", *args)
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    return Page(folder / page)


def test_fit_is_followed_by_a_report_that_says_what_is_missing(ended):
    folder, said = ended
    assert f"report: {RUN}/report.html" in said
    page = Page(folder / "first.html")
    assert "No test results yet" in page.text
    assert "Validation accuracy" in page.text
    assert "Test accuracy" not in page.text


def test_a_report_shows_every_part_of_a_run_and_asks_for_nothing_else(page):
    assert [title for title in page.titles if title != "What to look at"] == SECTIONS
    assert len(page.source) < 3e6
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert len(page.images) >= 4 + 5 * 8  # confusion matrices, augmentation
    axes = ("optimizer step", "loss", "learning rate", "true class", "recall", "confidence", "milliseconds per step")
    assert all(f">{name}</text>" in page.source for name in axes)
    assert all(name in page.text for name in ("Environment", "torch:", "max_epochs: 2", "fit --config"))


def test_the_scores_of_the_test_are_those_of_its_saved_predictions(ended, page):
    saved = rows(ended[0] / RUN / "test_predictions.csv")
    names = [name for name in saved[0] if name not in ("path", "label", "target")]
    p_NK = np.array([[float(row[name]) for name in names] for row in saved])
    y_N = np.array([names.index(row["target"]) for row in saved])
    label_N = p_NK.argmax(1)
    expected = [
        (label_N == y_N).mean(),
        f1_score(y_N, label_N, average="macro"),
        roc_auc_score(y_N, p_NK / p_NK.sum(1, keepdims=True), multi_class="ovr"),
        log_loss(y_N, p_NK / p_NK.sum(1, keepdims=True)),
        multiclass_calibration_error(torch.tensor(p_NK), torch.tensor(y_N), len(names), n_bins=15).item(),
    ]
    at = page.cells.index("Test")
    assert page.cells[at + 1] == str(len(saved))
    assert [float(cell) for cell in page.cells[at + 2 : at + 7]] == pytest.approx(expected, abs=1e-4)


def test_the_validation_is_scored_as_the_run_scored_its_best_epoch(ended, page):
    logged = [row for row in rows(ended[0] / RUN / "metrics.csv") if row["val/loss"]]
    best = min(logged, key=lambda row: float(row["val/loss"]))
    at = page.cells.index("Validation")
    shown = dict(zip(("accuracy", "f1_macro", "auroc", "loss"), page.cells[at + 2 : at + 6], strict=True))
    for name, cell in shown.items():
        assert float(cell) == pytest.approx(float(best[f"val/{name}"]), abs=1e-4), name


@pytest.mark.parametrize("count", [2, 100])
def test_a_page_reads_well_with_two_classes_and_with_a_hundred(count, project, command, tmp_path):
    names = ["<b>&$x^$", "label"] if count == 2 else [f"a species of number {number:03d}" for number in range(count)]
    images = draw(tmp_path / "images", names, 20 if count == 2 else 7, side=80 if count == 2 else 8)
    small = ("--data.image_size=64",) if count == 2 else ("--trainer.max_epochs=1",)
    fitted = command(project, tmp_path, "fit", "--data.root", images, *TINY, *small)
    tested = command(project, tmp_path, "test")
    assert (fitted.code, tested.code) == (0, 0), fitted.output + tested.output
    page = reported(command, project, tmp_path)
    assert len(page.source) < 3e6
    assert set(names) <= set(page.cells)
    assert "<b>" not in page.source
    assert len(page.images) > 40
    assert ("Classes by number" in page.text) == (count == 100)


LOOKED = """
import sys
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

from my_project.engine.backbone import Backbone
from my_project.networks import SmallCNN, SmallMLP
from my_project.tools import _looked

def draw(count, side, seed):
    # A red or a blue square on grey noise is the class; where it stands is returned, too.
    rng, edge = np.random.default_rng(seed), side // 4
    images = rng.integers(60, 100, (count, side, side, 1), dtype=np.uint8).repeat(3, 3)
    names, places = rng.integers(0, 2, count), np.zeros((count, side, side), bool)
    for image, name, place in zip(images, names, places):
        top, left = rng.integers(0, side - edge + 1, 2)
        image[top : top + edge, left : left + edge] = ([250, 40, 40], [40, 40, 250])[name]
        place[top : top + edge, left : left + edge] = True
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(names), places

torch.set_num_threads(1)
torch.manual_seed(0)
prepared = lambda x: (x.float() - 110) / 60
for side, epochs in ((8, 10), (32, 5)):
    network = SmallCNN(3, 2, width=8, dropout=0.5)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    x, y, _ = draw(512, side, 0)
    for step in range(epochs * 8):
        part = slice(step % 8 * 64, step % 8 * 64 + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(prepared(x[part])), y[part]).backward()
        optimizer.step()
    optimizer.zero_grad()
    network.requires_grad_(False)
    network.features.eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = SimpleNamespace(network=network, prepared=prepared)
    x, y, place = draw(12, side, 1)
    drawn = torch.get_rng_state()
    with torch.inference_mode():
        heat = _looked.heat(model, x, y.tolist())
    assert heat.shape == place.shape and heat.min() >= 0 and heat.max() == 1
    on, off = (np.array([of[where].mean() for of, where in zip(heat, of_kind)]) for of_kind in (place, ~place))
    print(side, on.mean(), off.mean())
    assert on.mean() > 1.7 * off.mean() and (on > off).all()
    assert torch.equal(drawn, torch.get_rng_state())
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    pictures = _looked.overlaid(x[0].permute(1, 2, 0).numpy(), heat[0])
    assert pictures.shape == (side, side, 3) and pictures.dtype == np.uint8

x = torch.zeros(1, 3, 64, 64)
for name, kind in (("resnet18", nn.ReLU), ("convnext_tiny", nn.Module), ("swin_t", nn.Module)):
    layer = _looked.last_feature_maps(Backbone(3, 2, name=name).eval(), x)
    made = []
    handle = layer.register_forward_hook(lambda module, inputs, output: made.append(output.shape))
    assert isinstance(layer, kind), (name, layer)
for network in (SmallMLP(3, 2), Backbone(3, 2, name="vit_b_16", image_size=64)):
    try:
        _looked.last_feature_maps(network.eval(), x)
        raise SystemExit(f"{network} has feature maps")
    except _looked.NotShown as error:
        assert "has no feature maps" in str(error)
"""


def test_the_heat_lies_where_the_network_looked_and_leaves_it_as_it_was(project, command, tmp_path):
    (tmp_path / "looked.py").write_text(LOOKED)
    done = command(project, tmp_path, "-m", tmp_path / "looked.py")
    assert done.code == 0, done.output


def test_the_page_shows_where_the_network_looked_or_says_why_not(project, command, tmp_path):
    images = draw(tmp_path / "images", ["one", "other"], 20)
    first = ("fit", "--data.root", images, *TINY, "--model.optimizer.lr=1e-9")  # so that there are mistakes
    done = command.each(project, tmp_path, [first, (*first, "--model.network=SmallMLP", "--name=mlp")])
    assert not any(each.code for each in done), done[0].output + done[1].output
    page = reported(command, project, tmp_path, RUN)
    assert "Beside each image what in it spoke for what the caption names" in page.text
    assert page.source.count('class="pair"') == page.text.count("; heat: ") > 0
    mlp = Path("runs/mlp/version_0")
    page = reported(command, project, tmp_path, mlp, page=mlp / "report.html")
    assert "Where the network looked is not shown: SmallMLP has no feature maps" in page.text
    script = tmp_path / "without.py"
    hidden = "import sys\nsys.modules['captum'] = None\nfrom my_project.__main__ import main\n"
    script.write_text(f"{hidden}sys.exit(main(['report', {str(RUN)!r}]))\n")
    done = command(project, tmp_path, "-m", script)
    assert done.code == 0, done.output
    page = Page(tmp_path / RUN / "report.html")
    assert "it needs the package captum, the extra explain: " in page.text
    assert f"-e '{project}[explain]'" in page.text
    assert 'class="pair"' not in page.source


def test_a_run_that_failed_early_is_shown_as_far_as_it_came(copied, project, command):
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "timing.csv", "test_predictions.csv"):
        (copied / RUN / name).unlink()
    trace = "Traceback (most recent call last):\n  File <a.py>\nKeyError: 'x'\n"
    (copied / RUN / "failure.txt").write_text(f"KeyError: 'x'\n\n{trace}")
    page = reported(command, project, copied, RUN)
    assert [title for title in page.titles if title != "What to look at"] == SECTIONS
    assert "The run failed: KeyError: 'x' traceback Traceback (most recent call last): File <a.py>" in page.text
    for part in ("No checkpoint", "No metrics.csv", "No timing.csv", "No test results yet", "Class balance"):
        assert part in page.text
    for name in ("manifest.json", "environment.txt"):
        (copied / RUN / name).unlink()
    page = reported(command, project, copied, RUN)
    assert "No manifest.json" in page.text
    assert "No environment.txt" in page.text


def test_images_that_are_gone_or_a_config_without_validation_leave_the_rest_of_the_page(copied, project, command):
    done = command(project, copied, "report", "--trainer.limit_val_batches=0")
    page = Page(copied / RUN / "report.html")
    assert done.code == 0, done.output
    assert "validates nothing" in page.text
    assert "Augmentation" in page.text
    config = (copied / RUN / "config.yaml").read_text()
    root = re.search(r"root: (.*)", config)
    assert root
    (copied / RUN / "config.yaml").write_text(config.replace(root[1], str(copied / "gone")))
    done = command(project, copied, "report")
    page = Page(copied / RUN / "report.html")
    assert done.code == 0, done.output
    assert "could not be scored" in page.text
    assert "could not be scored" in done.output
    assert "milliseconds per step" in page.source


def test_test_results_that_are_not_of_this_run_are_not_shown_as_such(ended, copied, project, command):
    saved = (ended[0] / RUN / "test_predictions.csv").read_text()
    with (ended[0] / RUN / "test_predictions.csv").open(newline="") as file:
        first = list(csv.reader(file))[1][0]
    spoiled = {"other split": saved.replace(first, "red/other.png"), "cut off": saved[:-30], "empty": ""}
    for name, text in spoiled.items():
        shutil.copytree(copied / RUN, copied / "runs" / name)
        (copied / "runs" / name / "test_predictions.csv").write_text(text)
    page = reported(command, project, copied, *(f"runs/{name}" for name in spoiled), page=Path("comparison.html"))
    assert page.text.count("test_predictions.csv is not of this run's test split") == 1
    assert page.text.count("test_predictions.csv cannot be read") == 2
    assert page.text.count("Test again: python -m my_project test --ckpt_path") == 3


def test_runs_are_compared_by_their_scores_curves_and_settings(ended, copied, project, command):
    folder, _ = ended
    other = copied / "runs/digits/version_1"
    shutil.move(copied / RUN, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("max_epochs: 2", "max_epochs: 3"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["splits"]["train"].append(manifest["splits"]["val"].pop())
    (other / "manifest.json").write_text(json.dumps(manifest))
    page = reported(command, project, folder, RUN, other, "--output=both.html", page=Path("both.html"))
    assert page.titles == ["Scores", "Curves", "What differs"]
    at = page.cells.index("trainer.max_epochs")
    assert page.cells[at : at + 3] == ["trainer.max_epochs", "2", "3"]
    assert "different validation or test images" in page.text
    assert page.source.count("digits/version_1</text>") >= 4  # a line in the legend of every metric


WRONG = {
    ("nowhere",): "no run's folder",
    (RUN, "nowhere"): "no run's folder",
    ("--name=unknown",): "no run in",
    ("--output=no/such/page.html",): "is no file in a folder",
    ("--output=runs",): "is no file in a folder",
    (RUN, "runs/other/version_0", "--ckpt_path=last"): "--ckpt_path=last has no effect on a comparison",
    (RUN, "--ckpt_path", "runs/other/version_0/checkpoints/best.ckpt"): "is of another run",
    ("--ckpt_path=nowhere/checkpoints/best.ckpt",): "no run's folder",
    ("--data.rot=x",): "not a flag",
}


def test_bad_input_is_refused_in_one_line(copied, project, command):
    other = copied / "runs/other/version_0"
    other.mkdir(parents=True)
    shutil.copy(copied / RUN / "config.yaml", other)
    command.refuses(project, copied, {("report", *args): words for args, words in WRONG.items()})


def test_without_its_extra_the_command_names_it_and_fit_prints_the_command(ended, project, command, tmp_path):
    script = tmp_path / "without.py"
    script.write_text(
        "import sys\nsys.modules['jinja2'] = None\nfrom my_project.__main__ import main\nsys.exit(main(['report']))\n"
    )
    done = command(project, ended[0], "-m", script)
    assert "jinja2" in done.refusal
    assert "[report]" in done.refusal
    fitted = command(project, tmp_path, "fit", "--data.root", ended[0] / "images", *TINY)  # without matplotlib
    assert fitted.code == 0
    assert f"python -m my_project report {RUN} (needs matplotlib" in fitted.output
    assert not (tmp_path / RUN / "report.html").exists()


def test_fit_leaves_the_report_out_where_told_and_survives_its_failure(ended, project, command, tmp_path):
    short = ("--data.root", ended[0] / "images", *TINY, "--trainer.max_epochs=1")
    without = command(project, tmp_path, "fit", *short, "--report=false", environment=LOGGED)
    assert without.code == 0
    assert "report" not in without.output
    broken = tmp_path / "broken"
    shutil.copytree(project / "src", broken / "src")
    tool = broken / "src/my_project/tools/report.py"
    tool.write_text('"""``report``: fails."""\n\n\ndef main(args):\n    raise RuntimeError("a fault of its own")\n')
    failed = command(broken, tmp_path, "fit", *short, environment=LOGGED)
    assert failed.code == 0
    assert "not written, RuntimeError('a fault of its own')" in failed.output
    tool.unlink()
    gone = command(broken, tmp_path, "fit", *short, environment=LOGGED)
    assert gone.code == 0
    assert "report" not in gone.output


def test_fit_on_two_devices_prints_the_command(ended, project, command, tmp_path):
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1")
    done = command(
        project, tmp_path, "fit", "--data.root", ended[0] / "images", *TINY, *two, ranks=2, environment=LOGGED
    )
    assert done.code == 0, done.output
    assert done.output.count("report:        python -m my_project report") == 1
    assert not (tmp_path / RUN / "report.html").exists()
    calibration = json.loads((tmp_path / RUN / "calibration.json").read_text())["best.ckpt"]
    assert calibration["samples"] == len(json.loads((tmp_path / RUN / "manifest.json").read_text())["splits"]["val"])


def browse(page: Path, log: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page in a browser; returns what it prints, and the addresses that the page made it ask for."""
    program = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    program += ["--disable-background-networking", "--disable-component-update", f"--log-net-log={log}", *flags]
    done = subprocess.run([*program, f"file://{page}"], capture_output=True, text=True, timeout=HUNG)
    asked = re.findall(r'"url":\s*"(https?://[^"]*)"', log.read_text(errors="replace"))
    of_the_browser = re.compile(r"https?://(?!fonts)[^/]*(google|gvt1|gstatic)[^/]*/")  # it looks for updates
    return done.stdout, [url for url in asked if not of_the_browser.match(url)]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_renders_the_page_without_a_network(ended, page, tmp_path):
    shots = {}
    for name, flags in {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}.items():
        shot = tmp_path / f"{name}.png"
        _, asked = browse(ended[0] / RUN / "report.html", tmp_path / "log.json", *flags, f"--screenshot={shot}")
        assert asked == []
        shots[name] = np.asarray(Image.open(shot).convert("L"))
    assert shots["light"].mean() > 180 > 80 > shots["dark"].mean()
    assert min(shot.std() for shot in shots.values()) > 5  # not blank
    # The page forbids scripts and other hosts. A copy that allows both says what a browser makes of the page, as wide
    # as a telephone, and shows that an address asked for would be seen.
    added = """<img src="http://127.0.0.1:9/absent.png"><script>onload = () => document.title = [
        [...document.images].filter(i => !i.naturalWidth).length, document.images.length,
        document.documentElement.scrollWidth - innerWidth, innerWidth].join()</script></body>"""
    copy = re.sub("<meta http-equiv[^>]*>", "", page.source).replace("</body>", added)
    (tmp_path / "copy.html").write_text(copy, encoding="utf-8")
    dom, asked = browse(tmp_path / "copy.html", tmp_path / "log.json", "--window-size=390,800", "--dump-dom")
    assert set(asked) == {"http://127.0.0.1:9/absent.png"}
    found = re.search(r"<title>(\d+),(\d+),(-?\d+),(\d+)</title>", dom)
    assert found
    broken, count, beyond, width = map(int, found.groups())
    assert (broken, beyond) == (1, 0)
    assert count > 5 * 8
    assert width < 600
