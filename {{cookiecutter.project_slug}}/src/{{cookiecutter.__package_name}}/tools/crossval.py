"""``crossval``: train k folds or n seeds; mean, interval, learning curve, comparison.

  crossval --folds 5                  hold out every sample once, but those of the test split
  crossval --seeds 5                  one split, five seeds
  crossval --fractions 0.1 0.3 1      the learning curve: each fold with shares of its training samples
  crossval --against other.yaml       another config on the same folds, compared in pairs
  crossval --against baseline         what the command baseline fits, on the same folds, compared in pairs
  crossval --predict NEW              the mean of the folds' predictions for new samples

Takes the flags of fit. Each fold is an ordinary run below RUN_ROOT/NAME/folds_5; its held-out part is the validation
split, and the test split stays out of all of them. The same command again keeps the runs that have ended and goes on
with the others. Writes crossval.html, runs.csv and summary.csv there; those of --fractions lie in its folder fractions,
those of --against OTHER, with comparison.csv, in against_OTHER. Needs matplotlib and jinja2 (the extra report), and
against baseline scikit-learn (the extra baseline).
"""

import contextlib
import csv
import hashlib
import io
import json
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
from ..engine import PACKAGE, remote, resume, runs, signals
from ..engine.configs import differences, flat, read_config
from ..engine.files import read_text, reading, write, write_rows
from ..engine.metrics import MEASURED_IN_LOSS
from ..engine.mistakes import Mistake, RunFailed, require
from ..engine.parser import Options
from ..engine.predictions import SomeUnread, write_predictions
from ..engine.sampling import run_seed
from ..engine.splits import Manifest, folds, rows_of_folds
from ..engine.targets import Target
from . import _results
from ._baselines import Comparison, beside
from ._flags import SAMPLES
from ._page import Section, aligned, check_packages, figure, figures, label, note, table, write_page
from ._results import from_checkpoint, hush, not_by_torchrun
from ._words import NOUN, ONE

# The unit of a metric, and what its mean can be at least and at most; nothing is known of others.
SHARE = (" (share, 0 to 1)", 0.0, 1.0)
ERROR = (" (in the target's unit)", 0.0, np.inf)
KNOWN = {
    "accuracy": SHARE,
    "auroc": SHARE,
    "f1_macro": SHARE,
    "f1_micro": SHARE,
    "map": SHARE,
    "exact_match": SHARE,
    "rmse": ERROR,
    "mae": ERROR,
    "r2": (" (R²)", -np.inf, 1.0),
    "spearman": (" (Spearman's ρ)", -1.0, 1.0),
}
BASELINE = "baseline"  # as --against has it; a config of that name is given by its path
BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]"


class Scored(NamedTuple):
    """A run that has ended: its variant, fold and folder, its training samples, the metrics of its held-out ones."""

    variant: str
    fold: str
    folder: Path
    samples: int
    metrics: dict[str, float]


def estimate(values: np.ndarray, overlap: float, paired: bool = False) -> dict[str, float]:
    """Estimate a mean with Student's t: mean, standard deviation (n − 1), ends of the 95 % interval of the mean.

    Folds share training samples, which makes s²/n too small a variance of their mean; s² (1/n + overlap) corrects it
    (Nadeau and Bengio 2003).

    Args:
        values: One value of each run, (n,).
        overlap: Held-out over training samples; 0 for values that are independent.
        paired: Whether they are differences; then also Cohen's d_z (mean over standard deviation; Cohen 1988) and p of
            the t test with the same variance. (Wilcoxon's p cannot fall below 0.0625 with five folds.)
    """
    from scipy.special import stdtr, stdtrit

    n = len(values)
    mean = float(values.mean())
    std = float(values.std(ddof=1))
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
        self.options = options
        self.of_baselines: list[Scored] = []
        cli = self._parts(args)
        self.config = cli.config
        self.devices = cli.trainer.world_size
        unscored = f"keeps no {options.score}.ckpt, so there would be nothing to score; leave it out."
        if cli.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            raise Mistake(f"--trainer.fast_dev_run {unscored}")
        if cli.trainer.limit_val_batches == 0:  # pyright: ignore[reportAttributeAccessIssue]
            raise Mistake("--trainer.limit_val_batches=0 leaves nothing to score; leave it out.")
        if self.config.callbacks[options.score] is None:
            raise Mistake(f"--callbacks.{options.score}=null {unscored}")
        self._draw(cli.datamodule)
        self._vary(args, cli)
        if options.predict:
            CLI.data_module.check_new("--predict", options.predict)

    def _draw(self, data: Any) -> None:
        """Draw the folds, or give each seed the same splits."""
        kind, number = ("seed", self.options.seeds) if self.options.seeds else ("fold", self.options.folds)
        self.name = f"{self.config.name}/{kind}s_{number}"
        remote.refuse(self.config.run_root, "crossval")
        self.folder = Path(self.config.run_root, self.name)
        data.prepare_data()
        data.setup("fit")
        manifest: Manifest = data.manifest
        if kind == "seed":
            drawn = [manifest] * number
        else:
            keys, _ = rows_of_folds(manifest)
            drawn = folds(manifest, number, data.seed, data.groups(keys))
        self.folds: dict[str, Manifest] = {}
        self.flags: dict[str, list[str]] = {}  # of fit, for each fold
        for i, splits in enumerate(drawn):
            fold = f"{kind}_{i + 1}"
            self.folds[fold] = splits
            self.flags[fold] = [f"--data.manifest={self.folder / fold}.json"]
            if kind == "seed":  # train_fraction's, too
                self.flags[fold] += [f"--seed_everything={run_seed() + i}", f"--data.split_seed={data.seed}"]
        held_out = sum(len(splits.splits["val"][0]) for splits in drawn)
        training = sum(len(splits.splits["train"][0]) for splits in drawn)
        self.overlap = held_out / training if kind == "fold" else 0.0
        paths = repr([splits.splits["val"][0] for splits in drawn])
        self.drawn = {NOUN: data.fingerprint, "folds": hashlib.sha256(paths.encode()).hexdigest()}

    def _vary(self, args: list[str], cli: CLI) -> None:
        """Find the flags of each variant: one alone, one for each of --fractions, or this one and --against."""
        fractions, other = sorted(self.options.fractions or ()), self.options.against
        self.results = self.folder
        more: dict[str, list[str]] = {"": []}
        if fractions:
            self.results = self.folder / "fractions"
            more = {f"fractions/{part:g}": [f"--data.train_fraction={part}"] for part in fractions}
        elif other:
            against = f"against_{Path(other).stem}"
            self.results = self.folder / against
            if other != BASELINE:
                more[against] = [f"--config={other}"]
        self.variants: dict[str, tuple[list[str], CLI]] = {}
        losses = []
        for variant, flags in more.items():
            given = [*args, *flags]
            parts = self._parts(given) if flags else cli
            settings = dict(flat(parts.plain()))
            for key in (f"data.{name}" for name in SAMPLES):
                this, its = self.config.get(key), settings.get(key)
                if this != its:
                    raise Mistake(
                        f"--{key}={its} of {other} is not {this}, so the folds would be of other {NOUN} or targets; "
                        "leave it out of that file."
                    )
            losses.append({key: value for key, value in settings.items() if key.startswith(MEASURED_IN_LOSS)})
            self.variants[variant] = (given, parts)
        self.two_losses = any(each != losses[0] for each in losses)

    @staticmethod
    def _parts(args: list[str]) -> CLI:
        return CLI([*args, "--trainer.logger=false"], run=False)

    def run(self) -> list[Scored]:
        """Train and score what has not ended yet; returns all runs."""
        lock = resume.Lock(runs.Run(runs.made(self.folder)))
        todo = [(variant, fold) for fold in self.folds for variant in self.variants]
        scored: list[Scored] = []
        try:
            self._describe()
            with tqdm(total=len(todo), bar_format=BAR, desc="crossval ", mininterval=0.5) as bar:
                for variant, fold in todo:
                    scored.append(self._score(variant, fold, bar))
                    if self.options.against == BASELINE:
                        self._score_baselines(scored[-1])
                    if scored[-1].metrics.keys() != scored[0].metrics.keys():
                        file = self._scores(runs.Run(scored[-1].folder))
                        raise Mistake(
                            f"{file} and that of {scored[0].folder} hold different metrics, so they have no mean; "
                            "remove both, and start again."
                        )
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
            config, _ = runs.without_secrets(cli.plain() | self.drawn)
            file = self.folder / variant / "crossval.yaml"
            if any(file.parent.glob("[fs]*_[0-9]*/version_*")):
                for key, old, new in differences(read_config(file), config):
                    if not key.startswith(resume.MACHINE):
                        flag = key if key in self.drawn else f"--{key}"
                        raise Mistake(
                            f"{flag}={new} differs from {old} of the runs in {file.parent}, so their mean would be of "
                            "two experiments; give what they had, or another name: --name NAME."
                        )
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, yaml.safe_dump(config, sort_keys=False))
        for fold, manifest in self.folds.items():
            manifest.save(self.folder / f"{fold}.json")

    def _newest(self, name: str) -> runs.Run | None:
        # What is scored counts: someone may have trained more beside it.
        found = runs.runs_of(Path(self.config.run_root), name)
        return max(found, key=lambda run: (self._scores(run).is_file(), run.number), default=None)

    def _scores(self, run: runs.Run) -> Path:
        return run.folder / f"score_{self.options.score}.json"

    def _checkpoint(self, run: runs.Run) -> Path:
        return run.best if self.options.score == "best" else run.last

    def _is_whole(self, run: runs.Run) -> bool:
        return self._checkpoint(run).is_file() and run.ended

    def _score(self, variant: str, fold: str, bar: tqdm) -> Scored:
        """Return the scores of a fold, trained and validated unless they are there."""
        name = "/".join(part for part in (self.name, variant, fold) if part)
        run = self._newest(name)
        if run is None or not (self._scores(run).is_file() or self._is_whole(run)):
            given, _ = self.variants[variant]
            args = ["fit", *given, *self.flags[fold], f"--name={name}", f"--run_root={self.config.run_root}"]
            if run is not None:
                args.append("--resume=auto")
            self._fit(args, bar)
            run = self._newest(name)
            if run is None or not self._is_whole(run):
                raise RunFailed(f"{name} has not ended (--trainer.max_time?), so it has no score; start again.")
        file = self._scores(run)
        if not file.is_file():
            done = from_checkpoint("validate", self._checkpoint(run))
            metrics = {name: float(value) for name, value in done.trainer.callback_metrics.items()}
            write(file, json.dumps({NOUN: len(done.datamodule.train_keys), "metrics": metrics}) + "\n")
        with reading(file):
            content = json.loads(read_text(file))
            metrics = {name: float(value) for name, value in content["metrics"].items()}
            return Scored(variant, fold, run.folder, int(content[NOUN]), metrics)

    def _score_baselines(self, network: Scored) -> None:
        """Score the baselines on what the network of a fold was scored on; what is there of them is kept."""
        run = _results.Run(network.folder)
        checkpoint = self._checkpoint(run)
        kept = Comparison.of(run)
        if kept is None or kept.checkpoint != checkpoint.name:
            kept = beside(run, checkpoint, [])
        for one in kept.baselines["val"]:
            metrics = {f"val/{name}": value for name, value in one.scores.items()}
            self.of_baselines.append(network._replace(variant=f"{BASELINE}/{one.name}", metrics=metrics))

    def _fit(self, args: list[str], bar: tqdm) -> None:
        if self.devices == 1:
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    CLI([*args, "--callbacks.progress_bar=null"], callbacks=[progress(bar)])
                finally:
                    signals.check()  # one that came when the run had ended
            return
        # Lightning starts the whole command again for every rank, so that it cannot be this one.
        if code := signals.run([sys.executable, "-m", PACKAGE, *args, "--report=false"]):
            raise RunFailed(f"a run ended with exit code {code}, so it has no score; mend it and start again.")

    def predict(self, scored: list[Scored], new: str) -> None:
        """Write the mean of the runs' predictions for new samples as predictions.csv, in the form of ``predict``.

        Several labels are decided at the mean of the runs' thresholds.

        Raises:
            SomeUnread: One could not be read, by any of the runs.
        """
        data, target = CLI.data_module, next(iter(self.folds.values())).target
        flag, _ = data.to_predict
        first = 1 + len(target.decision)  # of the columns with values
        end = first + len(target.columns)  # where the column error stands, if there is one
        values: list[list[list[float]]] = []
        thresholds: list[list[float]] = []
        errors: dict[str, str] = {}
        paths: list[str] = []

        def keep(trainer: Trainer, model: Any) -> None:
            thresholds.append(target.thresholds(model.settled) or [])

        for each in tqdm(scored, desc="predict"):
            run = runs.Run(each.folder)
            with contextlib.suppress(SomeUnread):  # the rows tell
                given, kept = f"{flag}={new}", LambdaCallback(on_predict_start=keep)
                from_checkpoint("predict", self._checkpoint(run), given, callbacks=[kept])
            with run.predictions.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            values.append([[float(cell or "nan") for cell in row[first:end]] for row in rows])
            errors |= {row[0]: row[end] for row in rows if len(row) > end and row[end]}
            paths = [row[0] for row in rows]
        means = np.mean(values, axis=0).tolist()
        settled = np.mean(thresholds, axis=0).tolist()  # of nothing is nothing
        cells = ([*target.decided(mean, settled), *mean] for mean in means)
        file = runs.Run(self.folder).predictions
        write_predictions(
            file, data.key, target, [(path, of, errors.get(path, "")) for path, of in zip(paths, cells, strict=True)]
        )
        print(f"predictions: {file}")
        if errors:
            raise SomeUnread([f"{path} {why}" for path, why in errors.items()], f"{len(paths)} {data.noun}", file)

    def notes(self) -> list[str]:
        """Say what the numbers are, and what they are not."""
        variance = f"s²/n over seeds alone: what other {NOUN} would change is not in it"
        if self.overlap:
            variance = f"s² (1/n + {self.overlap:.2g}), as runs share {NOUN} (Nadeau and Bengio 2003)"
        said = [
            f"Scored is each run's {self.options.score} checkpoint. The best is chosen by the {NOUN} that score it, "
            "so it is optimistic; early stopping, too, may end a run by them.",
            f"Low to high is the 95 % interval of the mean: Student's t with {variance}.",
        ]
        if self.options.against:
            said.append(f"Differences: {self.options.against} − this; p of that t test; d_z = mean/std (Cohen 1988).")
        if self.options.against == BASELINE:
            said.append("Baselines are fitted on each fold's training samples, see the command baseline.")
        if self.two_losses:
            said.append("The losses measure different things, so they are not compared.")
        return [*said, f"No {ONE} of the test split was trained on or scored."]


def known(name: str, target: Target) -> tuple[str, float, float]:
    """Return the unit of a metric, and what it can be at least and at most."""
    metric = name.partition("/")[2]
    if metric == "loss":
        return f" ({target.loss_unit})", 0.0, np.inf
    # Of several numbers each has its own: rmse_NAME.
    return KNOWN.get(metric) or KNOWN.get(metric.partition("_")[0], ("", -np.inf, np.inf))


def draw(
    name: str, unit: str, values: dict[str, np.ndarray], means: dict[str, dict[str, float]], counts: Sequence[float]
) -> Any:
    """Draw a metric: every fold a grey line or dot, the means with their intervals; over samples a learning curve."""
    drawn, axes = figure(4.2, 2.9)
    x = counts or range(len(values))
    mean = np.array([each["mean"] for each in means.values()])
    low = np.array([each["low"] for each in means.values()])
    high = np.array([each["high"] for each in means.values()])
    axes.plot(x, list(values.values()), "o-", color="C8", alpha=0.5, ms=3, lw=0.8)
    axes.errorbar(x, mean, (mean - low, high - mean), fmt="o-" if counts else "o", color="C0", capsize=4)
    axes.set_ylabel(label(name, 40) + unit)
    if counts:
        axes.set(xscale="log", xlabel=f"training {NOUN}")
        axes.set_xticks(x, [f"{count:.0f}" for count in counts])
        axes.set_xticks([], minor=True)
    else:
        axes.set_xticks(x, [label(variant) for variant in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    return drawn


def publish(cross: CrossValidation, scored: list[Scored]) -> None:
    """Print and write the runs, their means and the comparison."""
    by_variant: dict[str, list[Scored]] = {}
    for one in [*scored, *cross.of_baselines]:
        by_variant.setdefault(one.variant.rpartition("/")[2] or "this", []).append(one)
    counts = []
    if cross.options.fractions:
        counts = [float(np.mean([one.samples for one in group])) for group in by_variant.values()]
    tables: dict[str, list[dict[str, Any]]] = {"summary": [], "comparison": [], "runs": []}
    drawn, target = [], next(iter(cross.folds.values())).target
    for metric in sorted(scored[0].metrics):
        values = {
            name: np.array([one.metrics[metric] for one in group])
            for name, group in by_variant.items()
            if metric in group[0].metrics  # a baseline has no loss
        }
        means = {name: estimate(each, cross.overlap) for name, each in values.items()}
        unit, least, most = known(metric, target)
        measured = np.concatenate(list(values.values()))
        if not np.all((least <= measured) & (measured <= most)):  # a loss or a metric of the user's own, or nan
            least, most = -np.inf, np.inf
        for name, mean in means.items():
            mean["low"] = min(max(mean["low"], least), most)
            mean["high"] = min(max(mean["high"], least), most)
            tables["summary"].append({"variant": name, "metric": metric, "runs": len(cross.folds)} | mean)
        drawn.append((draw(metric, unit, values, means, counts), ""))
        if cross.options.against and not (cross.two_losses and metric.endswith("loss")):
            this, *others = values.items()
            for name, other in others:
                of_which = {"baseline": name} if cross.of_baselines else {}
                compared = estimate(other - this[1], cross.overlap, paired=True)
                tables["comparison"].append({"metric": metric} | of_which | compared)
    for name, group in by_variant.items():
        for one in group:
            row = {"variant": name, "run": one.fold, f"training_{NOUN}": one.samples}
            metrics = {metric: one.metrics.get(metric, "") for metric in scored[0].metrics}
            tables["runs"].append(row | metrics | {"folder": str(one.folder)})
    notes = cross.notes()
    if any(known(metric, target) == ERROR for metric in scored[0].metrics):
        notes.append("RMSE and MAE are in the target's unit; of several targets they are the mean over these.")
    caption = note("Blue: the mean and its 95 % interval. Grey: each fold or seed.")
    sections = [Section("Method", "".join(map(note, notes))), Section("Pictures", figures(*drawn) + caption)]
    runs.made(cross.results)
    for name, rows in tables.items():
        if not rows:
            continue
        header, cells = list(rows[0]), [list(row.values()) for row in rows]
        write_rows(cross.results / f"{name}.csv", [header, *cells])
        sections.append(Section(name.capitalize(), table(header, cells)))
        if name != "runs":
            print(f"\n{name}\n{aligned(header, cells)}")
    page = cross.results / "crossval.html"
    write_page(page, f"Cross-validation: {cross.name}", sections)
    print("", *notes, f"page: {page}", sep="\n")


def main(args: list[str]) -> None:
    """Run the command."""
    parser = Options(__name__, __doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--folds", type=int, default=5, help=f"how many parts the {NOUN} are dealt to (5)")
    kinds.add_argument("--seeds", type=int, help="instead of folds: how many seeds, from seed_everything on")
    parser.add_argument("--score", choices=("last", "best"), default="last", help="which checkpoint (last)")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--fractions", type=float, nargs="+", help=f"shares of the training {NOUN}: a learning curve")
    more.add_argument(
        "--against", metavar="CONFIG", help="another config over the same flags, compared in pairs; or baseline"
    )
    more.add_argument(
        "--predict", metavar=CLI.data_module.to_predict[1], help=f"new {NOUN}: the runs' mean predictions, as a CSV"
    )
    options, rest = parser.parse_known_args(args)
    flag, number = ("--folds", options.folds) if options.seeds is None else ("--seeds", options.seeds)
    require(number >= 2, flag, number, "x ≥ 2", "there would be no spread to measure")
    not_by_torchrun("crossval")
    check_packages("crossval", "report", "matplotlib", "jinja2", "scipy")
    if options.against == BASELINE:
        check_packages("crossval --against baseline", "baseline", "sklearn")
    hush()
    cross = CrossValidation(options, rest)
    scored = cross.run()
    publish(cross, scored)
    if options.predict:
        cross.predict(scored, options.predict)
