"""``baseline``: what a user would try before a network, on a run's own splits, by its own scores.

    baseline                        beside the newest run of --name
    baseline RUN                    beside a run by its folder
    baseline --ckpt_path FILE       beside another checkpoint than the run's best

The majority class (shares of labels, the mean of numbers); logistic or ridge regression; of images nearest neighbours,
of tables boosted trees (HistGradientBoosting). All are scikit-learn's, as they come, fitted on the training samples of
the run, with their weights; images as evaluation sees them, averaged to 16 × 16 pixels. They are fitted in seconds: of
very many samples on a part, and that is said.

Scored is the validation split, by the metrics that the run logs. What decides is --monitor, or where that is a loss
accuracy, mAP or RMSE. The difference has a 95 % interval by a paired bootstrap over the samples. The test split is read
by ``test`` alone: where it has been, the baselines are scored on that split, too, beside what ``test`` saved, and the
one that is named is the best on validation.

Takes the flags of ``validate``, after the folder. Writes baseline.json into the run's folder, which ``report`` and
``diagnose`` show. Needs scikit-learn (the extra ``baseline``).
"""

from itertools import takewhile
from pathlib import Path

from ..engine import PACKAGE, runs
from ..engine.mistakes import Mistake
from ..engine.parser import Options
from . import _results as results
from ._baselines import SPLITS, beside
from ._page import aligned, check_packages
from ._results import Run


def main(args: list[str]) -> None:
    """Run the command."""
    check_packages("baseline", "baseline", "sklearn")
    folders = [Path(arg) for arg in takewhile(lambda arg: not arg.startswith("-"), args)]
    parser = Options(__name__, __doc__)
    results.add_run_options(parser)
    parser.add_argument("--ckpt_path", help="the network's checkpoint: best, last or a file in a run's folder")
    options, flags = parser.parse_known_args(args[len(folders) :])
    of_a_file = options.ckpt_path not in (None, "best", "last")
    if len(folders) + of_a_file > 1:
        given = " ".join([*map(str, folders), *([f"--ckpt_path={options.ckpt_path}"] if of_a_file else [])])
        raise Mistake(f"{given} names more than one run, and one is compared at a time; leave one.")
    if of_a_file:
        folders = [runs.Run.of(options.ckpt_path).folder]
    run = Run(folders[0] if folders else runs.latest(options.run_root, options.name).folder)
    kept = {None: run.checkpoint, "best": run.best, "last": run.last}
    checkpoint = kept.get(options.ckpt_path, options.ckpt_path)
    if checkpoint is None:
        raise Mistake(f"{run} has no checkpoint, so there is no network to compare; give a run that was validated.")
    compared = beside(run, Path(checkpoint), flags)
    print(f"baseline: beside {checkpoint}, judged by {compared.score}")
    for split in compared.network:
        print(f"\n{SPLITS[split]}\n{aligned(*compared.table(split))}")
    print("", *compared.remarks, sep="\n")
    for split in compared.network:
        print(compared.verdict(split))
    print(f"baseline: {run.baseline}; its page shows it: python -m {PACKAGE} report {run}")
