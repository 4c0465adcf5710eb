"""``report``: write report.html, one page that shows a run and needs nothing else; RUN RUN ... compares runs.

    report                          the newest run of --name
    report RUN                      a run by its folder
    report RUN RUN ...              what differs between runs, as comparison.html
    report --ckpt_path FILE         a run with another checkpoint than its best

The validation split is scored anew, with the flags of ``validate``, which come after the folders; the test split is
shown as ``test`` saved it. Needs matplotlib and jinja2 (the extra ``report``).
"""

import os
import shlex
from collections.abc import Callable, Iterator
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from ..engine import PACKAGE, runs
from ..engine.endings import is_refusal
from ..engine.files import read_text, reading
from ..engine.mistakes import Mistake
from ..engine.parser import Options
from ..engine.resume import SILENT
from ..engine.splits import SPLITS
from . import _page as page
from . import _results as results
from ._page import INK, Section, curve, facts, figure, figures, label, note, table
from ._results import BINS, Collect, Predictions, Run

MANY = 20  # classes from which on a figure no longer names all of them
Parts = list[tuple[str, Callable[[], str]]]


def main(args: list[str]) -> None:
    """Run the command."""
    page.check_packages("report", "report", "matplotlib", "jinja2")
    folders = [Path(arg) for arg in takewhile(lambda arg: not arg.startswith("-"), args)]
    parser = Options(__name__, __doc__)
    results.add_run_options(parser)
    parser.add_argument("--ckpt_path", help="the checkpoint to score: best, last or a file in a run's folder")
    parser.add_argument("--output", type=Path, help="the page; RUN/report.html or comparison.html unless given")
    options, flags = parser.parse_known_args(args[len(folders) :])
    of_a_file = options.ckpt_path not in (None, "best", "last")
    if not folders:
        chosen = runs.Run.of(options.ckpt_path) if of_a_file else runs.latest(options.run_root, options.name)
        folders = [chosen.folder]
    found = [Run(folder) for folder in dict.fromkeys(folders)]
    if len(found) > 1 and (flags or options.ckpt_path):
        given = [*flags, *([f"--ckpt_path={options.ckpt_path}"] if options.ckpt_path else [])]
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
        print(f"its images: {run.setting('data.root', '')}")
    parts = compare(found) if len(found) > 1 else show(found[0], flags, options.ckpt_path)
    with tqdm(parts, "report", leave=False) as bar:
        sections = [Section(title, draw()) for title, draw in bar]
    title = found[0].name if len(found) == 1 else f"{len(found)} runs"
    page.write_page(output, title, [section for section in sections if section.html])
    print(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def show(run: Run, flags: list[str], choice: str | None) -> Parts:
    """Score the validation split; returns the sections of the page of one run."""
    kept = {None: run.checkpoint, "best": run.best, "last": run.last}
    checkpoint = kept.get(choice, choice)
    data = None
    validation: Predictions | str = "No checkpoint, so nothing could be scored: the run ended before its first one."
    if checkpoint is not None:
        collect = Collect()
        try:
            data = results.from_checkpoint("validate", checkpoint, *flags, callbacks=[collect]).datamodule
            validation = collect.predictions(data)
        except (Mistake, MisconfigurationException) as error:
            if choice is not None or flags or not is_refusal(error):
                raise
            validation = f"The validation split could not be scored: {str(error).strip().splitlines()[-1]}"
            print(f"report: {validation}")
    tested = run.tested()
    return [
        ("Summary", lambda: summary(run, validation, tested)),
        ("What to look at", lambda: findings(run)),
        ("Curves", lambda: curves(run)),
        ("Validation", lambda: evaluation(validation, str(checkpoint)) + examples(validation, data)),
        ("Test", lambda: evaluation(tested, "what test saved")),
        ("Data", lambda: balance(run) + augmentation(data)),
        ("Timing", lambda: timing(run)),
        ("Reproduce", lambda: reproduce(run)),
    ]


def summary(run: Run, validation: Predictions | str, tested: Predictions | str) -> str:
    """What came out, in numbers, and what is missing."""
    shown: list[tuple[str, str, str]] = []
    rows: list[list[Any]] = []
    notes: list[str] = []
    for split, p in (("Test", tested), ("Validation", validation)):
        if isinstance(p, str):
            notes.append(note(f"{split}: {p}"))
            continue
        scores = results.scores(p)
        accuracy, count = scores["accuracy"], len(p.paths)
        rows.append([split, count, *scores.values()])
        shown.append((f"{split} accuracy", f"{accuracy:.3f}", results.interval(accuracy, count)))
        shown.append((f"{split} macro F1", f"{scores['macro F1']:.3f}", f"{count:,} images"))
    if best := run.best_validation:
        shown.append((f"Best {run.monitor}", f"{best.value:.4f}", f"epoch {run.epoch(best.step)}, step {best.step:,}"))
    path = run.setting("model.network.init_args.name", run.setting("model.network.class_path", ""))
    network = path.rpartition(".")[2]
    shown.append(("Network", network, f"{len(run.target.names)} classes" if run.target else ""))
    state = "ended" if run.ended else "failed" if run.error else "not ended, or goes on"
    shown.append(("Last epoch", run.epoch(np.inf) if run.curves else "unknown", f"the run has {state}"))
    return facts(*shown) + (table(SCORES, rows) if rows else "") + "".join(notes) + failure(run)


def failure(run: Run) -> str:
    """Why the run failed, if it did; of a fault in code where."""
    if not run.error:
        return ""
    traceback = f"<details><summary>traceback</summary><pre>{escape(run.traceback.strip())}</pre></details>"
    return note(f"The run failed: {run.error}") + (traceback if run.traceback else "")


SCORES = ["split", "images", "accuracy", "macro F1", "macro AUROC", "log loss", "ECE"]


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
            kind = "gradient norm" if metric == "grad_norm" else metric.replace("_", " ")
            kinds.setdefault(kind, []).append((name, split))
    order = {"loss": 0, "accuracy": 1, "learning rate": 3, "gradient norm": 4}
    best = run.best_validation
    drawn = []
    for kind in sorted(kinds, key=lambda kind: (order.get(kind, 2), kind)):
        canvas, axes = figure(4.2, 2.7)
        for name, text in kinds[kind]:
            colour = {"train": "C1", "val": "C0"}.get(text)
            curve(axes, *run.curves[name], label=label(text, 30), color=colour)
        if best and "val" in dict(kinds[kind]).values():
            axes.axvline(best.step, color=INK, linewidth=0.8, linestyle=":", label="best checkpoint")
        axes.set(xlabel="optimizer step", ylabel=label(kind))
        if kind == "gradient norm":
            values = run.curves["train/grad_norm"].values
            axes.set_yscale("log" if 0 < 10 * values.min() < values.max() else "linear")
        axes.legend()
        drawn.append((canvas, ""))
    nothing = "No metrics.csv: nothing was logged (--trainer.logger false), or the run failed before its first line."
    return figures(*drawn) if drawn else note(nothing)


def evaluation(p: Predictions | str, source: str) -> str:
    """What the predictions of a split are worth: confusions, classes, rankings, calibration."""
    if isinstance(p, str):
        return note(p)
    return (
        note(f"{len(p.paths):,} images of {len(p.classes)} classes; from {source}.")
        + f"<h3>Confusion matrix</h3>{figures(confusion(p, False), confusion(p, True))}{confusions(p)}"
        + f"<h3>Classes</h3>{classes(p)}<h3>Each class against the rest</h3>{figures(*rankings(p))}"
        + f"<h3>Calibration</h3>{figures(*reliability(p))}"
    )


def confusion(p: Predictions, share: bool) -> tuple[Any, str]:
    """Draw the confusion matrix, in images or in percent of the true class."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import MaxNLocator

    counts_KK = p.counts_KK
    count = len(p.classes)
    shown_KK, unit = counts_KK, "images"
    if share:
        shown_KK = 100 * counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
        unit = "% of the true class"
    most = max(float(shown_KK.max()), 1)
    canvas, axes = figure(4.4, 3.8)
    # From nothing to blue: on a dark page, too, an empty cell is the page.
    ramp = LinearSegmentedColormap.from_list("ramp", [to_rgba("C0", alpha) for alpha in (0, 1)])
    image = axes.imshow(shown_KK, cmap=ramp, vmin=0, vmax=most, interpolation="none")
    if count <= 12:
        for (row, column), value in np.ndenumerate(shown_KK):
            if value:
                ink = "white" if value > 0.55 * most else INK
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    if count <= MANY:
        names = [label(name, 14) for name in p.classes]
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(count), names)
    axes.grid(False)
    axes.set(xlabel="predicted class", ylabel="true class")
    scale = canvas.colorbar(image, ax=axes, shrink=0.8, label=unit, ticks=MaxNLocator(5, integer=True))
    scale.outline.set_visible(False)
    where = "" if count <= MANY else " Classes by number, in the order of their names."
    return canvas, ("Each row adds up to 100 %." if share else "A row for each true class.") + where


def confusions(p: Predictions, most: int = 10) -> str:
    """The pairs of classes that are taken for each other most often."""
    wrong_KK = p.counts_KK * (1 - np.eye(len(p.classes), dtype=int))
    support_K = p.counts_KK.sum(1)
    worst = np.argsort(-wrong_KK, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong_KK))]
    rows = []
    for true, said in zip(*np.unravel_index(worst, wrong_KK.shape), strict=True):
        count = int(wrong_KK[true, said])
        rows.append([p.classes[true], p.classes[said], count, f"{count / support_K[true]:.1%}"])
    header = ["true class", "taken for", "images", "of the true class"]
    return table(header, rows) if rows else note("No image is taken for another class.")


def classes(p: Predictions) -> str:
    """Precision, recall, F1 and support of each class; the worst first where there are many."""
    scores_K3 = np.stack(results.per_class(p), axis=1)
    support_K = p.counts_KK.sum(1)
    many = len(p.classes) > MANY
    order = np.argsort(scores_K3[:, 2], kind="stable") if many else np.arange(len(p.classes))
    rows = [[p.classes[k], *scores_K3[k].tolist(), int(support_K[k])] for k in order.tolist()]
    means = [float(np.mean(scores_K[~np.isnan(scores_K)])) for scores_K in scores_K3.T]
    rows.append(["mean over classes", *means, len(p.paths)])
    text = "Support: images of the class. A dash: nothing to divide by, left out of the mean."
    if many:
        text += " Lowest F1 first."
    return table(["class", "precision", "recall", "F1", "support"], rows) + note(text)


def rankings(p: Predictions) -> Iterator[tuple[Any, str]]:
    """Draw the ROC and the precision-recall curves: the mean over the classes, and the worst of them by name."""
    roc, recall = results.ranking(p)
    yield ranking(p, roc, "ROC", "AUROC", "false-positive rate", "true-positive rate")
    yield ranking(p, recall, "Precision and recall", "average precision", "recall", "precision")


def ranking(
    p: Predictions, by_class: dict[int, results.Ranked], title: str, area: str, x_name: str, y_name: str, worst: int = 4
) -> tuple[Any, str]:
    """Draw one kind of curve of each class against the rest."""
    canvas, axes = figure(4.2, 4.2)
    grid = np.linspace(0, 1, 201)
    on_grid = {k: np.interp(grid, of_class.x, of_class.y) for k, of_class in by_class.items()}
    named = sorted(by_class, key=lambda k: by_class[k].area)[:worst]
    if len(by_class) <= MANY:
        for k in by_class.keys() - named:
            axes.plot(grid, on_grid[k], color=INK, alpha=0.2, linewidth=0.8)
    for number, k in enumerate(named):
        name = p.classes[k] if len(p.classes[k]) <= 16 else f"{k} {p.classes[k]}"  # names may differ in the middle
        text = f"{label(name, 16)}: {by_class[k].area:.3f}"
        curve(axes, by_class[k].x, by_class[k].y, color=f"C{number}", linewidth=1.2, label=text)
    if by_class:
        text = f"mean: {np.mean([of_class.area for of_class in by_class.values()]):.3f}"
        axes.plot(grid, np.mean([*on_grid.values()], axis=0), color=INK, linewidth=2, label=text)
        canvas.legend(title=area, loc="outside upper center", ncols=2)
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return canvas, f"{title}: the mean over the classes, and those of the smallest area."


def reliability(p: Predictions) -> Iterator[tuple[Any, str]]:
    """Draw how often the network is right where it is how sure, and how sure it is how often."""
    error, accuracy_B = results.calibration(p)
    edges = np.linspace(0, 1, BINS + 1)
    right = p.hit_N
    canvas, axes = figure(4.2, 3.2)
    axes.bar(edges[:-1], accuracy_B, 0.92 / BINS, align="edge", color="C0", label="accuracy")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--", label="accuracy = confidence")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    canvas.legend(loc="outside upper center", ncols=2)
    sure, accuracy = float(p.confidence_N.mean()), float(right.mean())
    means = f"mean confidence {sure:.3f}, accuracy {accuracy:.3f}: {'over' if sure > accuracy else 'under'}-confident"
    yield canvas, f"Expected calibration error {error:.3f} ({BINS} bins of equal width, Guo et al. 2017); {means}."
    canvas, axes = figure(4.2, 3.2)
    both = [p.confidence_N[right], p.confidence_N[~right]]
    axes.hist(both, edges, stacked=True, rwidth=0.92, color=["C0", "C1"], label=["right", "wrong"])
    axes.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    canvas.legend(loc="outside upper center", ncols=2)
    yield canvas, f"How sure the network is how often: {len(both[0]):,} images right, {len(both[1]):,} wrong."


def examples(p: Predictions | str, data: Any, most: int = 12) -> str:
    """The surest mistakes and the least sure hits, as the network saw them."""
    if isinstance(p, str):
        return ""
    split = data.dataset(*data.split("val"))
    position = {path: i for i, path in enumerate(split.paths)}
    least_sure_first = np.argsort(p.confidence_N, kind="stable")
    hit_N = p.hit_N[least_sure_first]
    hits = least_sure_first[hit_N]
    mistakes = least_sure_first[~hit_N][::-1]
    parts = []
    for title, chosen in (("Surest mistakes", mistakes), ("Least sure hits", hits)):
        tiles = []
        for i in chosen[:most].tolist():
            text = p.classes[p.target_N[i]]
            if not p.hit_N[i]:
                text += f", not {p.classes[p.label_N[i]]}"
            caption = escape(f"{text} ({p.confidence_N[i]:.2f})")
            image = page.picture(pixels(split, position[p.paths[i]]), p.paths[i])
            tiles.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
        parts.append(f'<h3>{title}</h3><div class="tiles">{"".join(tiles) or note("None.")}</div>')
    return "".join(parts) + note("The true class, what it was taken for, and how sure the network was of that.")


def pixels(dataset: Any, key: Any) -> np.ndarray:
    """Return an image of a data set, (H, W, C), as the network sees it."""
    return dataset[key].x.numpy().transpose(1, 2, 0)


def balance(run: Run) -> str:
    """How many images of each class stand in each split."""
    if run.target is None:
        return note("No manifest.json: the run failed before its splits were drawn.")
    names = run.target.names
    counts_3K = np.stack([run.target.counts(run.splits[split][1]) for split in SPLITS])
    splits = ("training", "validation", "test")
    canvas, axes = figure(4.2, 1.1 + 0.24 * len(names) if len(names) <= MANY else 2.7)
    if len(names) <= MANY:
        before_3K = counts_3K.cumsum(0) - counts_3K
        for counts_K, before_K, split in zip(counts_3K, before_3K, splits, strict=True):
            axes.barh(range(len(names)), counts_K, 0.75, before_K, label=split)
        axes.set(xlabel="images", ylabel="class", ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.grid(False, axis="y")
    else:
        order = counts_3K.sum(0).argsort()[::-1]
        for counts_K, split in zip(counts_3K, splits, strict=True):
            axes.step(range(1, len(names) + 1), counts_K[order], where="mid", label=split)
        axes.set(xlabel="class, from the most images to the fewest", ylabel="images", ylim=(0, None))
    canvas.legend(loc="outside upper center", ncols=3)
    ratio = counts_3K[0].max() / max(counts_3K[0].min(), 1)
    text = f"In training the largest class has {ratio:.1f} times the images of the smallest."
    rows = [[name, *counts_3K[:, k].tolist()] for k, name in enumerate(names)]
    rows.append(["all", *counts_3K.sum(1).tolist()])
    return f"<h3>Class balance</h3>{note(text)}{figures((canvas, ''))}{table(['class', *splits], rows)}"


def augmentation(data: Any, rows: int = 5, columns: int = 8) -> str:
    """Training images as evaluation sees them, each followed by augmented ones."""
    if data is None:
        return ""
    strips = []
    for index in np.unique(np.linspace(0, len(data.train) - 1, rows).astype(int)).tolist():
        keys: list[Any] = [index]  # without a seed: as evaluation sees it
        keys += [(index, index * columns + column) for column in range(1, columns)]
        images = "".join(page.picture(pixels(data.train, key), data.train.paths[index]) for key in keys)
        strips.append(f'<div class="strip">{images}</div>')
    text = f"data.augment={data.augment}: first a training image as evaluation sees it, then as training may see it."
    return f"<h3>Augmentation</h3>{''.join(strips)}{note(text)}"


def timing(run: Run) -> str:
    """How fast the training went, and how long of it waited for data."""
    if run.durations is None:
        return note("No timing.csv: the run is older than that file, or failed before its first log point.")
    steps, seconds, waiting, images = run.durations
    to_ms = 1000 * run.setting("data.batch_size", 1) / images  # of one step
    canvas, axes = figure(4.2, 2.7)
    curve(axes, steps, seconds * to_ms, color="C0", label="the whole step")
    curve(axes, steps, waiting * to_ms, color="C1", label="waiting for data")
    axes.set(xlabel="optimizer step", ylabel="milliseconds per step", ylim=(0, None))
    axes.legend()
    return facts(
        ("Training", f"{seconds.sum() / 60:.1f} min", "validation and saving left out"),
        ("Throughput", f"{images.sum() / seconds.sum():,.0f} images/s", f"{images.sum():,.0f} images"),
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
    test: list[list[Any]] = []
    notes: list[str] = []
    for run in found:
        best_step = run.best_validation.step if run.best_validation else -1
        for rows, step in ((best, best_step), (final, np.inf)):
            rows.append([run.name, run.epoch(step), *(run.last_value(metric, step) for metric in metrics)])
        p = run.tested()
        if isinstance(p, str):
            notes.append(note(f"{run.name}: {p}"))
        else:
            test.append([run.name, len(p.paths), *results.scores(p).values()])
    held_out = [[run.splits[split][0] for split in ("val", "test") if run.splits] for run in found]
    if any(paths != held_out[0] for paths in held_out):
        notes.insert(0, note("The runs have different validation or test images, so their scores compare loosely."))
    header = ["run", "epoch", *metrics]
    return (
        f"<h3>At the best checkpoint</h3>{table(header, best)}<h3>At the end</h3>{table(header, final)}"
        f"<h3>Test</h3>{table(['run', *SCORES[1:]], test) if test else ''}{''.join(notes)}"
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
