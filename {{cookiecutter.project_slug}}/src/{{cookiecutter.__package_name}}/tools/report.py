"""``report``: write report.html, one page that shows a run and needs nothing else; RUN RUN ... compares runs.

    report                          the newest run of --name
    report RUN                      a run by its folder
    report RUN RUN ...              what differs between runs, as comparison.html
    report --ckpt_path FILE         a run with another checkpoint than its best

``--calibrate true`` shows probabilities as calibration.json has them; how far they are calibrated is shown in any case.
The validation split is scored anew, with the flags of ``validate``, which come after the folders; the test split is
shown as ``test`` saved it. Needs matplotlib and jinja2 (the extra ``report``).
"""

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from ..cli import CLI
from ..engine import PACKAGE, runs
from ..engine.calibrating import Kept, find, needed, tested_checkpoint
from ..engine.endings import is_refusal
from ..engine.files import read_text, reading
from ..engine.mistakes import Mistake
from ..engine.parser import Options, truth
from ..engine.resume import SILENT
from ..engine.targets import Target
from . import _page as page
from . import _report_classes, _report_labels, _report_numbers
from . import _results as results
from ._baselines import SPLITS, Comparison
from ._page import INK, Section, curve, facts, figure, figures, label, note, table
from ._predictions import Predictions
from ._results import Collect, Run
from ._samples import augmentation
from ._words import NOUN

# What is shown of each kind of target; each module has the same functions.
VIEWS: dict[str, Any] = {
    "multiclass": _report_classes,
    "multilabel": _report_labels,
    "regression": _report_numbers,
}
Parts = list[tuple[str, Callable[[], str]]]


def main(args: list[str]) -> None:
    """Run the command."""
    page.check_packages("report", "report", "matplotlib", "jinja2")
    folders = [Path(arg) for arg in takewhile(lambda arg: not arg.startswith("-"), args)]
    parser = Options(__name__, __doc__)
    results.add_run_options(parser)
    parser.add_argument("--ckpt_path", help="the checkpoint to score: best, last or a file in a run's folder")
    parser.add_argument("--output", type=Path, help="the page; RUN/report.html or comparison.html unless given")
    about = "whether to show calibrated probabilities (default: false)"
    parser.add_argument("--calibrate", type=truth, default=False, metavar="true", help=about)
    options, flags = parser.parse_known_args(args[len(folders) :])
    of_a_file = options.ckpt_path not in (None, "best", "last")
    if not folders:
        chosen = runs.Run.of(options.ckpt_path) if of_a_file else runs.latest(options.run_root, options.name)
        folders = [chosen.folder]
    found = [Run(folder) for folder in dict.fromkeys(folders)]
    if len(found) > 1 and (flags or options.ckpt_path or options.calibrate):
        given = [*flags, *([f"--ckpt_path={options.ckpt_path}"] if options.ckpt_path else [])]
        given += ["--calibrate=true"] if options.calibrate else []
        raise Mistake(f"{' '.join(given)} has no effect on a comparison, which scores nothing anew; leave it out.")
    if of_a_file:
        owner = runs.Run.of(Path(options.ckpt_path).absolute())
        if owner.config.is_file() and owner.folder.resolve() != found[0].folder.resolve():
            raise Mistake(
                f"--ckpt_path={options.ckpt_path} is of another run than {folders[0]}, so the page would show two runs "
                "as one; leave one of them out."
            )
    output = options.output or (found[0].report if len(found) == 1 else Path("comparison.html"))
    if not output.parent.is_dir() or output.is_dir():
        raise Mistake(
            f"--output={output} is no file in a folder that is there, so the page could not be kept; give one, such as "
            "--output=page.html."
        )
    print(f"report: of {', '.join(str(run.folder) for run in found)}")
    for run in found:
        print(f"its {NOUN}: {run.setting(f'data.{CLI.data_module.places[0]}', '')}")
    parts = compare(found) if len(found) > 1 else show(found[0], flags, options.ckpt_path, options.calibrate)
    with tqdm(parts, "report", leave=False) as bar:
        sections = [Section(title, draw()) for title, draw in bar]
    title = found[0].name if len(found) == 1 else f"{len(found)} runs"
    page.write_page(output, title, [section for section in sections if section.html])
    print(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def show(run: Run, flags: list[str], choice: str | None, calibrate: bool = False) -> Parts:
    """Score the validation split; returns the sections of the page of one run."""
    checkpoints = {None: run.checkpoint, "best": run.best, "last": run.last}
    checkpoint = checkpoints.get(choice, choice)
    cli = None
    validation: Predictions | str = "No checkpoint, so nothing could be scored: the run ended before its first one."
    if checkpoint is not None:
        collect = Collect()
        try:
            cli = results.from_checkpoint("validate", checkpoint, *flags, callbacks=[collect])
            validation = collect.predictions(cli.datamodule)
        except (Mistake, MisconfigurationException) as error:
            if choice is not None or flags or not is_refusal(error):
                raise
            validation = f"The validation split could not be scored: {str(error).strip().splitlines()[-1]}"
            print(f"report: {validation}")
    tested = run.tested()
    if checkpoint is not None:
        path = Path(checkpoint)
        kept = needed(run, path, "--calibrate=true") if calibrate else calibration_of(run, path)
        validation = with_calibration(validation, kept, calibrate)
        if kept is not None and kept.checkpoint == tested_checkpoint(run):
            tested = with_calibration(tested, kept, calibrate)
    return [
        ("Summary", lambda: summary(run, validation, tested)),
        ("What to look at", lambda: findings(run)),
        ("Curves", lambda: curves(run)),
        ("Validation", lambda: evaluation(validation, str(checkpoint)) + examples(validation, cli)),
        ("Test", lambda: evaluation(tested, "what test saved")),
        ("Baselines", lambda: baselines(run)),
        ("Data", lambda: balance(run) + augmentation(cli and cli.datamodule)),
        ("Timing", lambda: timing(run)),
        ("Reproduce", lambda: reproduce(run)),
    ]


def calibration_of(run: Run, checkpoint: Path) -> Kept | None:
    """Return what is kept of a checkpoint, if that can be read."""
    try:
        return find(run, checkpoint)
    except Mistake as error:
        print(f"report: {error}")
        return None


def with_calibration(p: Predictions | str, kept: Kept | None, calibrate: bool) -> Predictions | str:
    """Return predictions with what calibrates them, or calibrated by it."""
    if isinstance(p, str) or kept is None or p.target != kept.of.target:
        return p
    p = replace(p, calibration=kept.of)
    return p.calibrated() if calibrate else p


def summary(run: Run, validation: Predictions | str, tested: Predictions | str) -> str:
    """What came out, in numbers, and what is missing."""
    shown: list[tuple[str, str, str]] = []
    rows: list[list[Any]] = []
    header: list[str] = []
    notes: list[str] = []
    remarks: dict[str, None] = {}  # each once, in their order
    for split, p in (("Test", tested), ("Validation", validation)):
        if isinstance(p, str):
            notes.append(note(f"{split}: {p}"))
            continue
        views = VIEWS[p.target.task]
        header = ["split", NOUN, *p.scores()]
        rows.append([split, len(p.paths), *views.score_cells(p)])
        shown += views.cards(split, p)
        remarks |= {f"{split}: {CALIBRATED}" if p.uncalibrated is not None else "": None}
        remarks |= {views.remark(p): None, WEIGHTED if p.weights is not None else "": None}
    if best := run.best_validation:
        shown.append((f"Best {run.monitor}", f"{best.value:.4f}", f"epoch {run.epoch(best.step)}, step {best.step:,}"))
    path = run.setting("model.network.init_args.name", run.setting("model.network.class_path", ""))
    network = path.rpartition(".")[2]
    shown.append(("Network", network, predicted(run.target) if run.target else ""))
    notes += [note(text) for text in remarks if text]
    state = "ended" if run.ended else "failed" if run.error else "not ended, or goes on"
    shown.append(("Last epoch", run.epoch(np.inf) if run.curves else "unknown", f"the run has {state}"))
    return facts(*shown) + (table(header, rows) if rows else "") + "".join(notes) + failure(run)


def failure(run: Run) -> str:
    """Why the run failed, if it did; of a fault in code where."""
    if not run.error:
        return ""
    traceback = f"<details><summary>traceback</summary><pre>{escape(run.traceback.strip())}</pre></details>"
    return note(f"The run failed: {run.error}") + (traceback if run.traceback else "")


CALIBRATED = "probabilities are calibrated (--calibrate true); no decision is another one."
WEIGHTED = f"The samples have weights, which count in the scores; numbers of {NOUN} are without them."


def predicted(target: Target) -> str:
    """Say how many there are of what is predicted."""
    count = len(target.names)
    several = {"class": "classes"}.get(target.noun, f"{target.noun}s")
    return f"{count} {several if count != 1 else target.noun}"


def findings(run: Run) -> str:
    """What ``diagnose`` says of the run, where that tool is there."""
    try:
        from . import diagnose
    except ImportError:
        return ""
    if not (run.curves or run.error) or run.target is None:
        return ""
    seen = diagnose.Run(run.folder)
    found = [
        f"<dt>{escape(name)}</dt><dd>{escape(evidence)}. Try {escape(advice)}.</dd>"
        for name, evidence, advice in diagnose.diagnose(seen)
    ]
    return f'<dl class="advice">{"".join(found)}</dl>' if found else note(f"diagnose: {diagnose.none_found(seen)}")


def curves(run: Run) -> str:
    """Loss, metrics, rate and gradient norm over the steps."""
    kinds: dict[str, list[tuple[str, str]]] = {}  # what a figure shows → the columns in it and their names there
    for name in sorted(run.curves):
        split, _, metric = name.partition("/")
        if name.startswith("lr-"):
            kinds.setdefault("learning rate", []).append((name, name.removeprefix("lr-")))
        elif split in ("train", "val"):
            base, number = of_one_number(run, split, metric)
            kind = "gradient norm" if metric == "grad_norm" else base.replace("_", " ")
            kinds.setdefault(f"{kind} of each" if number else kind, []).append((name, number or split))
    order = {"loss": 0, "accuracy": 1, "learning rate": 3, "gradient norm": 4}
    best = run.best_validation
    drawn = []
    for kind in sorted(kinds, key=lambda kind: (order.get(kind, 2), kind)):
        canvas, axes = figure(4.2, 2.7)
        for name, text in kinds[kind]:
            colour = {"train": "C1", "val": "C0"}.get(text)
            curve(axes, *run.curves[name], label=label(text, 30), color=colour)
        if best and any(name.startswith("val/") for name, _ in kinds[kind]):
            axes.axvline(best.step, color=INK, linewidth=0.8, linestyle=":", label="best checkpoint")
        axes.set(xlabel="optimizer step", ylabel=label(kind))
        if kind == "gradient norm":
            values = run.curves["train/grad_norm"].values
            axes.set_yscale("log" if 0 < 10 * values.min() < values.max() else "linear")
        if kind in ("mae of each", "rmse of each"):  # each has a unit of its own
            axes.set_yscale("log")
        axes.legend()
        drawn.append((canvas, ""))
    nothing = "No metrics.csv: nothing was logged (--trainer.logger false), or the run failed before its first line."
    return figures(*drawn) if drawn else note(nothing)


def of_one_number(run: Run, split: str, metric: str) -> tuple[str, str]:
    """Return which score of which of several numbers a metric is, and nothing for that where it is of all."""
    for name in run.target.names if run.target else []:
        base = metric.removesuffix(f"_{name.replace('.', '_')}")
        if base != metric and f"{split}/{base}" in run.curves:
            return base, name
    return metric, ""


def evaluation(p: Predictions | str, source: str) -> str:
    """What the predictions of a split are worth."""
    if isinstance(p, str):
        return note(p)
    text = f"{len(p.paths):,} {NOUN} of {predicted(p.target)}; from {source}."
    return note(text) + VIEWS[p.target.task].evaluation(p)


def baselines(run: Run) -> str:
    """What ``baseline`` found: the network beside what a user would try first."""
    if not run.baseline.is_file():
        return ""
    kept = Comparison.of(run)
    if kept is None:
        return note(
            f"{run.baseline.name} is of an earlier state of the run; make it anew: python -m {PACKAGE} baseline"
        )
    parts = [f"<p>{escape(kept.verdict())}.</p>"]
    for split, name in SPLITS.items():
        if split in kept.network:
            parts += [f"<h3>{name.capitalize()}</h3>", table(*kept.table(split))]
    if "test" in kept.network:
        parts.append(note(f"On the test split {kept.verdict('test')}."))
    about = f"The network is {kept.checkpoint}; the intervals are those of a paired bootstrap over the {kept.noun}."
    return "".join([*parts, *map(note, [about, *kept.remarks])])


def examples(p: Predictions | str, cli: Any) -> str:
    """The samples of which the network is most wrong, as it saw them."""
    return "" if isinstance(p, str) else VIEWS[p.target.task].examples(p, cli.datamodule, cli.model)


def balance(run: Run) -> str:
    """What stands in each split."""
    if run.target is None:
        return note("No manifest.json: the run failed before its splits were drawn.")
    return VIEWS[run.target.task].balance(run)


def timing(run: Run) -> str:
    """How fast the training went, and how long of it waited for data."""
    if run.durations is None:
        return note("No timing.csv: the run is older than that file, or failed before its first log point.")
    steps, seconds, waiting, samples = run.durations
    to_ms = 1000 * run.setting("data.batch_size", 1) / samples  # of one step
    canvas, axes = figure(4.2, 2.7)
    curve(axes, steps, seconds * to_ms, color="C0", label="the whole step")
    curve(axes, steps, waiting * to_ms, color="C1", label="waiting for data")
    axes.set(xlabel="optimizer step", ylabel="milliseconds per step", ylim=(0, None))
    axes.legend()
    return facts(
        ("Training", f"{seconds.sum() / 60:.1f} min", "validation and saving left out"),
        ("Throughput", f"{samples.sum() / seconds.sum():,.0f} {NOUN}/s", f"{samples.sum():,.0f} {NOUN}"),
        ("A step", f"{np.median(seconds * to_ms):.1f} ms", "median"),
        ("Waiting for data", f"{waiting.sum() / seconds.sum():.1%}", "of the training time"),
    ) + figures((canvas, "The time of an optimizer step, and how long of it training waited for data."))


def reproduce(run: Run) -> str:
    """The command, the environment and the config."""
    again = ["python", "-m", PACKAGE, "fit", "--config", str(run.config), "--data.manifest", str(run.manifest)]
    environment = "No environment.txt."
    if run.environment.is_file():
        with reading(run.environment):
            environment = read_text(run.environment, errors="replace")
    with reading(run.config):
        config = read_text(run.config)
    return (
        f"<p>The same run again, with the same splits:</p><pre>{escape(shlex.join(again))}</pre>"
        f"<h3>Environment</h3><pre>{escape(environment)}</pre>"
        f"<details><summary>{run.config.name}</summary><pre>{escape(config)}</pre></details>"
    )


def compare(found: list[Run]) -> Parts:
    """Return the sections of a page that compares runs."""
    if len({run.name for run in found}) < len(found):
        shared = os.path.commonpath([run.folder.absolute() for run in found])
        for run in found:
            run.name = str(run.folder.absolute().relative_to(shared))
    return [
        ("Scores", lambda: compared_scores(found)),
        ("Curves", lambda: compared_curves(found)),
        ("What differs", lambda: differences(found)),
    ]


def compared_scores(found: list[Run]) -> str:
    """The metrics of each run at its best checkpoint and at its end, and those of its test."""
    logged = {name for run in found for name in run.curves if name.startswith(("train/", "val/"))}
    metrics = sorted(logged - {"train/grad_norm"}, key=lambda name: (name.startswith("train/"), name))
    best: list[list[Any]] = []
    final: list[list[Any]] = []
    test: dict[str, list[list[Any]]] = {}  # of each kind of target the header and the rows
    notes: list[str] = []
    for run in found:
        best_step = run.best_validation.step if run.best_validation else -1
        for rows, step in ((best, best_step), (final, np.inf)):
            rows.append([run.name, run.epoch(step), *(run.last_value(metric, step) for metric in metrics)])
        p = run.tested()
        if isinstance(p, str):
            notes.append(note(f"{run.name}: {p}"))
        else:
            of_kind = test.setdefault(p.target.task, [["run", NOUN, *p.scores()]])
            of_kind.append([run.name, len(p.paths), *VIEWS[p.target.task].score_cells(p)])
    held_out = [[run.splits[split][0] for split in ("val", "test") if run.splits] for run in found]
    if any(paths != held_out[0] for paths in held_out):
        notes.insert(0, note(f"The runs have different validation or test {NOUN}, so their scores compare loosely."))
    said = {str(run.target): run.name for run in reversed(found) if run.target is not None}
    if len(said) > 1:
        each = ", ".join(f"{name} {what}" for what, name in reversed(said.items()))
        notes.insert(0, note(f"The runs predict different things ({each}), so their scores do not compare."))
    header = ["run", "epoch", *metrics]
    tests = "".join(table(of_kind, rows) for of_kind, *rows in test.values())
    return (
        f"<h3>At the best checkpoint</h3>{table(header, best)}<h3>At the end</h3>{table(header, final)}"
        f"<h3>Test</h3>{tests}{''.join(notes)}"
    )


def compared_curves(found: list[Run]) -> str:
    """The validation curves of all runs, one figure a metric."""
    drawn = []
    for metric in sorted({name for run in found for name in run.curves if name.startswith("val/")}):
        canvas, axes = figure(4.2, 3.0)
        for number, run in enumerate(found):
            colour, style = f"C{number}", ("-", "--", ":", "-.")[number // 10 % 4]
            if metric in run.curves:
                curve(axes, *run.curves[metric], label=label(run.name, 30), color=colour, linestyle=style)
        axes.set(xlabel="optimizer step", ylabel=label(metric, 30))
        axes.legend()
        drawn.append((canvas, ""))
    return figures(*drawn) if drawn else note("No run logged a validation.")


def differences(found: list[Run]) -> str:
    """The settings that are not the same in all runs."""
    keys = sorted({key for run in found for key in run.settings if key not in (*SILENT, "name")})
    rows = [[key, *(str(run.settings.get(key, "–")) for run in found)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return table(["setting", *(run.name for run in found)], rows) if rows else note("All settings are the same.")
