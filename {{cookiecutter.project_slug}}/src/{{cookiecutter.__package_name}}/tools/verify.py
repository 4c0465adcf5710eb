"""``verify``: is the data set sound? Reads all of it before a long run, and says what is wrong, odd or lost.

    verify                      the data that fit would take, with the same flags
    verify --data.SOMETHING     other data, by the flags of fit
    verify RUN                  the data and the splits of a run, by its folder
    verify --fix-list FILE      also write down what could be removed, for a command that is printed

Of images every file is read to its end; of a table every cell. The data are not changed. What is found stands in the
terminal, and in verify.csv, a row for each finding: error (fit refuses it, or a score would be wrong), warning (it may
harm), note (good to know). Ends with 1 if there are errors, with 0 if there are none, with 2 if a flag is wrong.

The list of --fix-list holds what can go without a loss: of images the files that cannot be read and all but one of
exact copies; of a table the numbers of such rows. What has two labels is left to you.
"""

import contextlib
import io
import json
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace

from ..cli import CLI
from ..engine import runs
from ..engine.configs import read_config
from ..engine.mistakes import Mistake, RunFailed, shown
from ..engine.parser import Options
from ..engine.splits import Manifest, Samples
from ..engine.targets import Classes, Labels
from ._checks import COPIES, Checks
from ._findings import REFUSED, Findings, Kind, in_line, wrapped
from ._results import hush

LEAK = Kind("error", "copies in validation and test", "the test would score what the checkpoint was chosen by")
COPIED = Kind("warning", "copies in training and elsewhere", "fit leaves them out of training")
CONFLICT = Kind("error", "one content, two labels", "one of the labels is wrong, and fit refuses it")
CONTRADICTION = Kind("warning", "one content, two targets", "one of them may be wrong")
TINY = Kind("warning", "tiny classes", "a score of so few samples says little")
RARE = Kind("warning", "rare classes", "they may be ignored; --data.balance weighs them")
LEFT_OUT = Kind("note", "left out", "fit does not see them")
DOUBT = Kind("note", "doubtful", "read as it says")

FEWEST = 10  # samples of a class, below which it is tiny
RARER = 10  # times rarer than the median class


class OfData(CLI):
    """Makes the data module alone: a model or a device that is not there says nothing of the data."""

    def _task_asked_for(self) -> str:
        try:
            return super()._task_asked_for()
        except Mistake:  # of the table, which is read again below
            return "multiclass"

    def before_instantiate_classes(self) -> None:
        """Keep of the settings those of the data."""
        self.config = Namespace(data=self.config.data)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make none."""


def main(args: list[str]) -> None:
    """Run the command."""
    folders = [*takewhile(lambda arg: not arg.startswith("-"), args)]
    parser = Options(__name__, __doc__)
    parser.add_argument("--out", type=Path, default=Path("verify.csv"), help="the table of findings (verify.csv)")
    parser.add_argument("--fix-list", type=Path, help="where to write what could be removed, one path or row a line")
    options, flags = parser.parse_known_args(args[len(folders) :])
    if len(folders) > 1:
        raise Mistake(f"{' '.join(folders)} names more than one run, and one is verified at a time; leave one.")
    flags = [*(of_run(runs.Run(folders[0]), flags) if folders else []), *flags]
    hush()
    data: Any = OfData(flags, run=False).datamodule
    found = Findings()
    checks = Checks(data, found)
    for file, flag in ((options.out, "--out"), (options.fix_list, "--fix-list")):
        if file is not None:
            check_place(file, flag, checks)
    data.prepare_data()
    samples = checks.read()
    splits = None
    if samples is not None:
        for remark in samples.remarks:
            found.add(DOUBT, "", remark)
        if samples.left_out:
            found.add(LEFT_OUT, checks.place, samples.left_out)
        check_classes(samples, found)
        splits = splits_of(data, samples, checks, found)
    split_of = {key: split for split in splits.splits for key in splits.splits[split][0]} if splits else {}
    check_copies(samples, checks, found, split_of if data.manifest_path else {})
    if samples is not None:
        checks.compare(samples, split_of)
    ends = wrapped(f"verify: {counted(found)}; a row for each is in {in_line(str(options.out))}")
    told = [checks.summary(), *([table_of(data, splits)] if splits else []), found.told()]
    try:
        found.save(options.out)  # before it is printed: who reads that may go away
        is_odd = options.fix_list is not None and found.save_list(options.fix_list)
    except OSError as error:
        print(*filter(None, told), sep="\n")
        raise RunFailed(
            f"what is found could not be written down ({error}); make room, or give another --out."
        ) from error
    print(*filter(None, told), "", ends, sep="\n")
    if options.fix_list:
        tell_of_list(options.fix_list, found, checks, is_odd)
    if found.counts()["error"]:
        raise SystemExit(1)


def of_run(run: runs.Run, flags: Sequence[str]) -> list[str]:
    """Return what a run says of its data, as flags: the rest of its config, which may be anybody's, is not read."""
    if not run.config.is_file():
        raise Mistake(f"{run} is no run's folder (no {run.config}), so its data are unknown; give runs/NAME/version_N.")
    content = read_config(run.config)
    data: dict[str, Any] = {
        **content.get("data", {}),
        "manifest": str(run.manifest) if run.manifest.is_file() else None,
    }
    data.pop("outside", None)
    for name in CLI.data_module.places:
        if data.get(name) and not any(flag.partition("=")[0] == f"--data.{name}" for flag in flags):
            print(f"--data.{name} {in_line(str(data[name]))}, as the run's config has it")
    settings = {f"data.{name}": value for name, value in data.items() if value is not None}
    settings |= {"seed_everything": content["seed_everything"]} if "seed_everything" in content else {}
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]


def check_place(file: Path, flag: str, checks: Checks) -> None:
    """Refuse to write where nothing can be written, or among the data.

    Raises:
        Mistake: It is such a place.
    """
    if not file.parent.is_dir() or file.is_dir() or not os.access(file.parent, os.W_OK):
        raise Mistake(
            f"{flag}={str(file)!r} is no file in a folder that can be written to, so what is found could not be kept; "
            f"give one, such as {flag} /tmp/{file.name}."
        )
    if checks.holds(Path(os.path.realpath(file))):
        raise Mistake(
            f"{flag}={str(file)!r} lies among the data, {checks.place!r}, which are not written to; give a file "
            f"elsewhere: {flag} /tmp/{file.name}."
        )


def check_classes(samples: Samples, found: Findings) -> None:
    """Find classes of few samples, and those far rarer than others."""
    target = samples.target
    counts = target.counts(samples.targets) if isinstance(target, Classes | Labels) else np.empty(0)
    for name, count in zip(target.to_learn, counts.tolist(), strict=False):
        if count < FEWEST:
            found.add(TINY, f"{target.noun} {name}", f"{count} samples")
        elif count * RARER < np.median(counts):
            found.add(RARE, f"{target.noun} {name}", f"{count:,} samples, the median is {np.median(counts):,.0f}")


def splits_of(data: Any, samples: Samples, checks: Checks, found: Findings) -> Manifest | None:
    """Return the splits of the run, or those that fit would draw; None where it would refuse."""
    said = io.StringIO()  # the samples that fit leaves out are found below
    try:
        with contextlib.redirect_stdout(said):
            if data.manifest_path is None:
                splits = data.drawn(samples, checks.same)
            else:
                splits = data.manifest = Manifest.load(data.manifest_path, data.outside)
                data.check_there([key for keys, _ in splits.splits.values() for key in keys])
                data.check_agrees(samples)
    except Mistake as mistake:
        found.add_refusal(mistake)
        return None
    size = len(splits.splits["train"][0])
    if data.batch_size > size:
        found.add(
            REFUSED, "", f"a batch of {data.batch_size} exceeds the {size} training {data.noun} (--data.batch_size)"
        )
    return splits


def check_copies(samples: Samples | None, checks: Checks, found: Findings, split_of: dict[str, str]) -> None:
    """Find equal samples: in two splits that were given, under two labels, or simply twice."""
    order = ["test", "val", "train", ""]  # evaluation stays whole: what it has is kept
    for group in checks.same:
        given = [(samples.given[i] if samples and samples.given else split_of.get(checks.keys[i], "")) for i in group]
        kept, *others = sorted(zip(map(order.index, given), group, strict=True))
        splits = {split for split in given if split}
        is_torn = samples is not None and (samples.targets[group] != samples.targets[group[0]]).any()
        for place, i in others:
            where, other = checks.name(i), checks.name(kept[1])
            if is_torn and samples is not None:
                differs = (samples.targets[group] != samples.targets[i]).reshape(len(group), -1).any(1)
                unlike = group[int(differs.argmax())]
                other = checks.name(unlike)
                kind = CONFLICT if samples.target.is_exclusive and not checks.data.allow_conflicts else CONTRADICTION
                told = ["; ".join(samples.target.told(samples.targets[j])) for j in (i, unlike)]
                found.add(kind, where, " and ".join(told), other)
                continue
            if len(splits) > 1 and place != kept[0]:
                kind = LEAK if order[place] == "val" else COPIED
                found.add(kind, where, f"in {order[place]} and in {order[kept[0]]}", other)
            else:
                found.add(COPIES, where, "", other)
            found.to_remove.append(checks.removable(i))


def table_of(data: Any, splits: Manifest) -> str:
    """Write the splits for people, with the samples of each class."""
    whose = "of the run" if data.manifest_path else f"that fit would draw (seed {data.seed})"
    sizes = ", ".join(f"{len(keys):,} {split}" for split, (keys, _) in splits.splits.items())
    targets = {split: targets for split, (_, targets) in splits.splits.items()}
    return f"\nsplits {whose}: {sizes}\n{shown(splits.target.table(targets))}"


def counted(found: Findings) -> str:
    """Say how many findings of each severity there are."""
    return ", ".join(f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in found.counts().items())


def tell_of_list(file: Path, found: Findings, checks: Checks, is_odd: bool) -> None:
    """Say what could be removed, and print the command that would do it."""
    count = len({*found.to_remove} - {""})
    print(wrapped(f"verify: {count:,} {checks.of_list} could go: {in_line(str(file))} lists them"))
    undecided = sum(each.kind in (CONFLICT, CONTRADICTION) for each in found.found)
    if undecided:
        print(wrapped(f"not listed: {undecided:,} with another label elsewhere; of each pair remove the wrong one"))
    if count and (command := checks.command(file, is_odd)):
        print(f"this would do it, and is not run here:\n  {command}")
