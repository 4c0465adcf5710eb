"""``crossval``: train k folds or n seeds; mean, interval, learning curve, comparison.

  crossval --folds 5                  hold out every image once, but those of the test split
  crossval --seeds 5                  one split, five seeds
  crossval --fractions 0.1 0.3 1      the learning curve: each fold with shares of its training images
  crossval --against other.yaml       another config on the same folds, compared in pairs
  crossval --predict FOLDER           the mean of the folds' probabilities for new images

Takes the flags of fit. Each fold is an ordinary run below RUN_ROOT/NAME/folds_5; its held-out part is the validation
split, and the test split stays out of all of them. The same command again keeps the runs that have ended and goes on
with the others. Writes crossval.html, runs.csv and summary.csv there; those of --fractions lie in its folder fractions,
those of --against OTHER, with comparison.csv, in against_OTHER. Needs matplotlib and jinja2 (the extra report).
"""

import contextlib
import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from tqdm import tqdm

from ..cli import CLI
from ..engine import resume, runs
from ..engine.commands import Options
from ..engine.files import write
from ..engine.folders import list_images
from ..engine.mistakes import Mistake, RunFailed, require
from ..engine.sampling import run_seed
from ..engine.splits import folds, rows_of_folds
from ._page import Section, aligned, check_packages, figure, figures, label, note, table, write_page
from ._results import PACKAGE, from_checkpoint, hush, not_by_torchrun, plain

# The unit of a metric, and what its mean can be at most; nothing is known of others.
SHARE = dict.fromkeys(("accuracy", "auroc", "f1_macro"), (" (share, 0 to 1)", 0.0, 1.0))
KNOWN = {"loss": (" (nats per image)", 0.0, np.inf)} | SHARE
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]"


class Scored(NamedTuple):
    """A run that has ended: its variant, fold and folder, its training images, the metrics of its held-out images."""

    variant: str
    fold: str
    folder: Path
    images: int
    metrics: dict[str, float]


def estimate(values: np.ndarray, overlap: float, paired: bool = False) -> dict[str, float]:
    """Estimate a mean with Student's t: mean, standard deviation (n − 1), ends of the 95 % interval of the mean.

    Folds share training images, which makes s²/n too small a variance of their mean; s² (1/n + overlap) corrects it
    (Nadeau and Bengio 2003).

    Args:
        values: One value of each run, (n,).
        overlap: Held-out over training images; 0 for values that are independent.
        paired: Whether they are differences; then also Cohen's d_z (mean over standard deviation; Cohen 1988) and p of
            the t test with the same variance. (Wilcoxon's p cannot fall below 0.0625 with five folds.)
    """
    from scipy.special import stdtr, stdtrit  # albumentations brings scipy

    n, mean, std = len(values), float(values.mean()), float(values.std(ddof=1))
    error = std * (1 / n + overlap) ** 0.5
    half = float(stdtrit(n - 1, 0.975)) * error if std else float("nan")  # equal scores tell nothing of their spread
    result = {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
    if paired:  # differences that are all the same have neither
        p = float(2 * stdtr(n - 1, -abs(mean) / error)) if std else float("nan")
        result |= {"d_z": mean / std if std else float("nan"), "p": p}
    return result


def progress(bar: tqdm) -> Callback:
    """Return what moves a bar, whose unit is the run, at each validation."""
    done = int(bar.n)

    def move(trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            bar.update(done + max(0.0, (trainer.current_epoch + 1) / (trainer.max_epochs or -1)) - bar.n)

    return LambdaCallback(on_validation_end=move)  # averaging copies all callbacks, which a bar does not stand


class CrossValidation:
    """The runs of all variants on all folds, in one folder.

    Args:
        options: The command's own flags.
        args: Those of fit.

    Raises:
        Mistake: The folds cannot be drawn or compared, or nothing would be kept to score.
    """

    def __init__(self, options: Any, args: list[str]) -> None:
        self.options, self.checkpoint = options, Path("checkpoints", f"{options.score}.ckpt")
        cli = self._parts(args)
        self.config, data, self.devices = cli.config, cli.datamodule, cli.trainer.world_size
        if cli.trainer.fast_dev_run or self.config.callbacks[options.score] is None:  # pyright: ignore
            raise Mistake(f"no {options.score}.ckpt would be kept to score; leave out what turns it off.")
        kind, number = ("seed", options.seeds) if options.seeds else ("fold", options.folds)
        self.name = f"{self.config.name}/{kind}s_{number}"
        self.folder = Path(self.config.run_root, self.name)
        data.prepare_data()
        data.setup("fit")
        manifest: Any = data.manifest
        if options.seeds:
            drawn = [manifest] * number
        else:
            drawn = folds(manifest, number, data.seed, data.groups(rows_of_folds(manifest)[0]))
        self.folds = {f"{kind}_{i + 1}": manifest for i, manifest in enumerate(drawn)}
        self.flags = {fold: [f"--data.manifest={self.folder / fold}.json"] for fold in self.folds}
        for i, own in enumerate(self.flags.values() if options.seeds else ()):
            own += [f"--seed_everything={run_seed() + i}", f"--data.split_seed={data.seed}"]  # train_fraction's
        held_out, training = (sum(len(each.splits[s][0]) for each in drawn) for s in ("val", "train"))
        self.overlap = 0.0 if options.seeds else held_out / training
        digest = hashlib.sha256(repr([each.splits["val"][0] for each in drawn]).encode()).hexdigest()
        self.drawn = {"images": data.fingerprint, "folds": digest}
        against = f"against_{Path(options.against).stem}" if options.against else ""
        self.results = self.folder / ("fractions" if options.fractions else against)
        flags = {f"fractions/{part:g}": [f"--data.train_fraction={part}"] for part in sorted(options.fractions or ())}
        flags = flags or {"": []} | ({against: [f"--config={options.against}"]} if against else {})
        given = {variant: [*args, *more] for variant, more in flags.items()}
        self.variants = {variant: (own, self._parts(own) if variant else cli) for variant, own in given.items()}
        for _, other in self.variants.values():
            if other.config.data.root != self.config.data.root:
                raise Mistake(
                    f"--data.root={other.config.data.root} of {options.against} is not {self.config.data.root}, so the "
                    "folds would be of other images; leave it out of that file."
                )
        settings = [dict(resume.flat(plain(each))) for _, each in self.variants.values()]
        of_loss = [{k: v for k, v in s.items() if k.startswith(("model.loss", "data.balance"))} for s in settings]
        self.two_losses = any(other != of_loss[0] for other in of_loss)
        if options.predict and not list_images(Path(options.predict)).paths:
            raise Mistake(f"--predict={options.predict} holds no images, so there is nothing to predict.")

    @staticmethod
    def _parts(args: list[str]) -> CLI:
        return CLI([*args, "--trainer.logger=false"], run=False)

    def run(self) -> list[Scored]:
        """Train and score what has not ended yet; returns all runs."""
        lock = resume.Lock(runs.Run(runs.made(self.folder)))
        todo, scored = [(variant, fold) for fold in self.folds for variant in self.variants], []
        try:
            self._describe()
            with tqdm(total=len(todo), bar_format=BAR, desc="crossval ", mininterval=0.5) as bar:
                for variant, fold in todo:
                    scored.append(self._score(variant, fold, bar))
                    bar.update(len(scored) - bar.n)
                    shown = " ".join(f"{name}={value:.4f}" for name, value in sorted(scored[-1].metrics.items()))
                    bar.write(f"{variant} {fold}: {shown} ({scored[-1].folder})".lstrip())
            return scored
        finally:
            lock.run_ended()
            lock.release()
            if not any(self.folder.rglob("version_*")):
                runs.discard(self.folder)
            elif scored and len(scored) < len(todo):
                print(f"crossval: {len(scored)} of {len(todo)} runs have ended and are kept; the same command goes on")

    def _describe(self) -> None:
        """Write each variant's config and the splits, once they are found to be those of the runs that are there."""
        for variant, (_, cli) in self.variants.items():
            config = plain(cli) | self.drawn
            file = self.folder / variant / "crossval.yaml"
            if any(file.parent.glob("[fs]*_[0-9]*/version_*")):
                for key, old, new in resume.differences(resume.read_config(file), config):
                    if not key.startswith(resume.MACHINE):
                        raise Mistake(
                            f"{key}={new} differs from {old} of the runs in {file.parent}, so their mean would be of "
                            "two experiments; give what they had, or another --name."
                        )
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, yaml.safe_dump(config, sort_keys=False))
        for fold, manifest in self.folds.items():
            manifest.save(self.folder / f"{fold}.json")

    def _newest(self, name: str) -> Path | None:
        # What is scored counts: someone may have trained more beside it.
        found = Path(self.config.run_root, name).glob("version_*")
        return max(found, key=lambda run: (self._scores(run).is_file(), runs.Run(run).number), default=None)

    def _scores(self, run: Path) -> Path:
        return run / f"score_{self.options.score}.json"

    def _is_whole(self, run: Path) -> bool:
        return (run / self.checkpoint).is_file() and runs.Run(run).ended

    def _score(self, variant: str, fold: str, bar: tqdm) -> Scored:
        """Return the scores of a fold, trained and validated unless they are there."""
        name = "/".join(part for part in (self.name, variant, fold) if part)
        run = self._newest(name)
        if run is None or not (self._scores(run).is_file() or self._is_whole(run)):
            place = [f"--name={name}", f"--run_root={self.config.run_root}"]
            args = ["fit", *self.variants[variant][0], *self.flags[fold], *place]
            self._fit([*args, *(["--resume=auto"] if run else [])], bar)
            run = self._newest(name)
            if run is None or not self._is_whole(run):
                raise RunFailed(f"{name} has not ended (trainer.max_time?), so it has no score; start again.")
        file = self._scores(run)
        if not file.is_file():
            done = from_checkpoint("validate", run / self.checkpoint)
            metrics = {name: float(value) for name, value in done.trainer.callback_metrics.items()}
            write(file, json.dumps({"images": len(done.datamodule.train_keys), "metrics": metrics}) + "\n")
        return Scored(variant, fold, run, **json.loads(file.read_text()))

    def _fit(self, args: list[str], bar: tqdm) -> None:
        if self.devices == 1:
            with contextlib.redirect_stdout(io.StringIO()):
                CLI([*args, "--callbacks.progress_bar=null"], callbacks=[progress(bar)])
            return
        # Lightning starts the whole command again for every rank, so that it cannot be this one.
        code = subprocess.run([sys.executable, "-m", PACKAGE, *args, "--report=false"], check=False).returncode
        if code:
            raise RunFailed(f"a run ended with exit code {code}, so it has no score; mend it and start again.")

    def predict(self, scored: list[Scored], images: str) -> Path:
        """Write the mean of the runs' probabilities for new images as predictions.csv, in the form of ``predict``."""
        probabilities, header, rows = [], [], []
        for each in tqdm(scored, desc="predict"):
            from_checkpoint("predict", each.folder / self.checkpoint, f"--data.predict_root={images}")
            with runs.Run(each.folder).predictions.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            probabilities.append(np.array([row[2:] for row in rows], dtype=float))
        mean_NK, classes = np.mean(probabilities, axis=0), header[2:]
        means = [[row[0], classes[p_K.argmax()], *p_K.tolist()] for row, p_K in zip(rows, mean_NK, strict=True)]
        write_csv(self.folder / "predictions.csv", header, means)
        return self.folder / "predictions.csv"

    def notes(self) -> list[str]:
        """Say what the numbers are, and what they are not."""
        kind = f"s² (1/n + {self.overlap:.2g}), as runs share images (Nadeau and Bengio 2003)"
        kind = kind if self.overlap else "s²/n over seeds alone: what other images would change is not in it"
        against = f"Differences: {self.options.against} − this; p of that t test; d_z = mean/std (Cohen 1988)."
        return [
            f"Scored is each run's {self.options.score} checkpoint. The best is chosen by the images that score it, "
            "so it is optimistic; early stopping, too, may end a run by them.",
            f"Low to high is the 95 % interval of the mean: Student's t with {kind}.",
            *([against] if self.options.against else []),
            *(["The losses measure different things, so they are not compared."] if self.two_losses else []),
            "No image of the test split was trained on or scored.",
        ]


def draw(name: str, values: dict[str, np.ndarray], means: dict[str, dict[str, float]], images: Sequence[float]) -> Any:
    """Draw a metric: every fold a grey line or dot, the means with their intervals; over images a learning curve."""
    drawn, axes = figure(4.2, 2.9)
    ends = np.array([(m["mean"], m["low"], m["high"]) for m in means.values()]).T
    x, (mean, low, high) = images or range(len(values)), ends
    axes.plot(x, list(values.values()), "o-", color="C8", alpha=0.5, ms=3, lw=0.8)
    axes.errorbar(x, mean, (mean - low, high - mean), fmt="o-" if images else "o", color="C0", capsize=4)
    axes.set_ylabel(name + KNOWN.get(name.partition("/")[2], ("",))[0])
    if images:
        axes.set(xscale="log", xlabel="training images")
        axes.set_xticks(x, [f"{count:.0f}" for count in images])
        axes.set_xticks([], minor=True)
    else:
        axes.set_xticks(x, [label(variant) for variant in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    return drawn


def publish(cross: CrossValidation, scored: list[Scored]) -> None:
    """Print and write the runs, their means and the comparison."""
    of = {
        variant.rpartition("/")[2] or "this": [one for one in scored if one.variant == variant]
        for variant in cross.variants
    }
    counted = of.values() if cross.options.fractions else ()
    images = [float(np.mean([one.images for one in group])) for group in counted]
    tables: dict[str, list[dict[str, Any]]] = {"summary": [], "comparison": [], "runs": []}
    drawn = []
    for metric in sorted(scored[0].metrics):
        values = {name: np.array([one.metrics[metric] for one in group]) for name, group in of.items()}
        _, least, most = KNOWN.get(metric.partition("/")[2], ("", -np.inf, np.inf))
        means = {name: estimate(each, cross.overlap) for name, each in values.items()}
        for mean in means.values():
            mean |= {end: min(max(mean[end], least), most) for end in ("low", "high")}
        drawn.append((draw(metric, values, means, images), ""))
        head = {"metric": metric, "runs": len(cross.folds)}
        tables["summary"] += [{"variant": name} | head | mean for name, mean in means.items()]
        if cross.options.against and not (cross.two_losses and metric.endswith("loss")):
            this, other = values.values()
            tables["comparison"].append({"metric": metric} | estimate(other - this, cross.overlap, paired=True))
    for name, one in ((name, one) for name, group in of.items() for one in group):
        row = {"variant": name, "run": one.fold, "training_images": one.images}
        tables["runs"].append(row | one.metrics | {"folder": str(one.folder)})
    said = cross.notes()
    caption = note("Blue: the mean and its 95 % interval. Grey: each fold or seed.")
    sections = [Section("Method", "".join(map(note, said))), Section("Pictures", figures(*drawn) + caption)]
    for name, rows in ((name, rows) for name, rows in tables.items() if rows):
        header, cells = list(rows[0]), [list(row.values()) for row in rows]
        write_csv(cross.results / f"{name}.csv", header, cells)
        sections.append(Section(name.capitalize(), table(header, cells)))
        if name != "runs":
            print(f"\n{name}\n{aligned(header, cells)}")
    write_page(cross.results / "crossval.html", f"Cross-validation: {cross.name}", sections)
    print("", *said, f"page: {cross.results / 'crossval.html'}", sep="\n")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write rows as CSV; columns by position, for a class may be called "label"."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write(path, text.getvalue())


def main(args: list[str]) -> None:
    """Run the command."""
    parser = Options(__name__, __doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--folds", type=int, default=5, help="how many parts the images are dealt to (5)")
    kinds.add_argument("--seeds", type=int, help="instead of folds: how many seeds, from seed_everything on")
    parser.add_argument("--score", choices=("last", "best"), default="last", help="which checkpoint (last)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--fractions", type=float, nargs="+", help="shares of the training images: a learning curve")
    more.add_argument("--against", metavar="CONFIG", help="another config, laid over the same flags, to compare with")
    more.add_argument("--predict", metavar="FOLDER", help="new images: the runs' mean probabilities, as a CSV")
    options, rest = parser.parse_known_args(args)
    flag, number = ("--folds", options.folds) if options.seeds is None else ("--seeds", options.seeds)
    require(number >= 2, flag, number, "x ≥ 2", "there would be no spread to measure")
    not_by_torchrun("crossval")
    check_packages("crossval", "report", "matplotlib", "jinja2")
    hush()
    cross = CrossValidation(options, rest)
    scored = cross.run()
    publish(cross, scored)
    if options.predict:
        print(f"predictions: {cross.predict(scored, options.predict)}")
