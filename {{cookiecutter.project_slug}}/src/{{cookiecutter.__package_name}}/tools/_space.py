"""The space that ``tune`` searches: reading it, choosing from it, and checking it against the flags beside it."""

import contextlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ..cli import CLI
from ..engine.configs import as_text
from ..engine.metrics import MEASURED_IN_LOSS
from ..engine.mistakes import Mistake, unknown
from ._flags import SPLITS
from ._words import NOUN

if TYPE_CHECKING:
    from optuna import Trial

RANGES = ("float", "log", "int", "log_int")
KINDS = (*RANGES, "choice", "fidelity")
# A study decides these itself.
DECIDED = ("name", "resume", "ckpt_path", "trainer.fast_dev_run", "config", "run_root", "monitor", "mode")


class Dimension(NamedTuple):
    """A flag that is searched.

    Args:
        key: The flag, as the space spells it.
        kind: One of KINDS.
        values: The ends of a range, the choices, or the levels of a fidelity.
        points: How many values of a range a grid takes.
        condition: It is searched where each of these flags has one of these values.
    """

    key: str
    kind: str
    values: list[Any]
    points: int
    condition: dict[str, list[Any]]

    def grid(self) -> list[Any]:
        """Return the values that a grid takes."""
        if self.kind not in RANGES:
            return self.values
        low, high = self.values
        points = (np.geomspace if "log" in self.kind else np.linspace)(low, high, self.points).tolist()
        return sorted({round(x) if "int" in self.kind else float(f"{x:.6g}") for x in points})

    def suggest(self, trial: "Trial", as_grid: bool) -> Any:
        """Let the sampler choose a value."""
        if as_grid or self.kind == "choice":
            return trial.suggest_categorical(self.key, self.grid())
        suggest = trial.suggest_int if "int" in self.kind else trial.suggest_float
        return suggest(self.key, *self.values, log="log" in self.kind)


def read_space(content: dict[str, Any]) -> list[Dimension]:
    """Read what a space says of each flag.

    Raises:
        Mistake: It cannot be understood.
    """
    space: dict[str, Dimension] = {}
    for name_of_flag, given in content.items():
        key = str(name_of_flag)
        spec = given if isinstance(given, dict) else {"choice": given}
        for name in spec:
            if name not in (*KINDS, "points", "if"):
                raise Mistake(unknown(f"the space's {key}: the kind", str(name), [*KINDS, "points", "if"]))
        try:
            kinds = [kind for kind in KINDS if kind in spec]
            if len(kinds) != 1:
                raise ValueError(f"it has {len(kinds)} kinds")
            kind = kinds[0]
            points = spec.get("points", 4)
            only_if = spec.get("if", {})
            if not isinstance(points, int) or points < 2 or not isinstance(only_if, dict):
                raise ValueError("points is a number from 2 on, and if is a flag with its values")
            values = _values(kind, spec[kind])
        except (TypeError, ValueError) as error:
            raise Mistake(
                f"the space's {key}={json.dumps(given)} cannot be searched ({error}); give choices as [a, b, c] or one "
                "range with its kind, as in log: [1e-4, 1e-1]."
            ) from error
        condition = {flag: only if isinstance(only, list) else [only] for flag, only in only_if.items()}
        for flag, only in condition.items():
            choices = space[flag].values if flag in space and space[flag].kind == "choice" else []
            if any(value not in choices for value in only):
                raise Mistake(
                    f"the space's {key} waits for {flag}={only}, which is no choice of a flag above it, so it would "
                    f"never be searched; choose from {', '.join(space) or 'flags that you put above it'}."
                )
        space[key] = Dimension(key, kind, values, points, condition)
    spelled = [short(key) for key in space]
    if not space or len(set(spelled)) < len(spelled) or sum(d.kind == "fidelity" for d in space.values()) > 1:
        raise Mistake(
            f"the space has {', '.join(spelled) or 'no flag'}, so it is not clear what to search; give each flag once "
            "and at most one fidelity."
        )
    return list(space.values())


def _values(kind: str, given: Any) -> list[Any]:
    """Return the values of a kind; a ValueError says what is wrong with them, and ``read_space`` where."""
    from optuna import distributions

    if not isinstance(given, list):
        raise ValueError("it is no list")
    if kind == "choice":
        values = [value if isinstance(value, str | float | int | None) else json.dumps(value) for value in given]
        distributions.CategoricalDistribution(values)
        return values
    numbers: list[Any] = [float(value) for value in given]  # YAML takes 1e-4 for a text
    if "int" in kind:
        if any(not number.is_integer() for number in numbers):
            raise ValueError("its ends are no integers")
        numbers = [int(number) for number in numbers]
    if kind == "fidelity":
        if len(numbers) < 2 or numbers != sorted(set(numbers)):
            raise ValueError("its levels do not rise")
        return given
    low, high = numbers
    check_range = distributions.IntDistribution if "int" in kind else distributions.FloatDistribution
    check_range(low, high, log="log" in kind)
    return numbers


def short(key: str) -> str:
    """Return the short spelling of a flag: model.optimizer.lr for model.optimizer.init_args.lr."""
    return key.replace(".init_args", "").replace(".class_path", "")


def assign(space: list[Dimension], choose: Callable[[Dimension], Any]) -> dict[str, Any]:
    """Choose a value for every flag that is searched beside the values of those above it."""
    assigned: dict[str, Any] = {}
    for dimension in space:
        if all(flag in assigned and assigned[flag] in only for flag, only in dimension.condition.items()):
            assigned[dimension.key] = choose(dimension)
    return assigned


def grid_size(space: list[Dimension]) -> int:
    """Return the number of points of a grid."""
    keys = [dimension.key for dimension in space]
    found = set()
    for values in itertools.product(*(dimension.grid() for dimension in space)):
        point = dict(zip(keys, values, strict=True))
        assigned = assign(space, lambda dimension, point=point: point[dimension.key])
        found.add(tuple(assigned.items()))
    return len(found)


def around(content: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Return a space in which each range is a third as wide, around the best value; what is chosen stays open.

    Args:
        content: The space, as its file has it.
        best: The best trial's values; a flag that it did not search stays as it is.
    """
    narrowed = dict(content)
    for dimension in read_space(content):
        if dimension.kind not in RANGES or dimension.key not in best:
            continue
        low, high = dimension.values
        value = best[dimension.key]
        if "log" in dimension.kind:
            factor = (high / low) ** (1 / 6)
            ends = (value / factor, value * factor)
        else:
            ends = (value - (high - low) / 6, value + (high - low) / 6)
        if "int" in dimension.kind:  # its neighbours are always in it
            ends = (math.floor(ends[0]), math.ceil(ends[1]))
        else:
            ends = (float(f"{ends[0]:.4g}"), float(f"{ends[1]:.4g}"))
        spec = {dimension.kind: [max(low, ends[0]), min(high, ends[1])]}
        narrowed[dimension.key] = content[dimension.key] | spec
    return narrowed


def as_flags(assigned: dict[str, Any]) -> list[str]:
    """Return values as flags of fit."""
    return [f"--{key}={as_text(value)}" for key, value in assigned.items()]


def check(space: list[Dimension], flags: list[str], monitor: str) -> None:
    """Refuse a space that does not fit the flags beside it: tries the ends of each range and each choice.

    Raises:
        Mistake: It does not fit; the message says where.
    """
    by_key = {dimension.key: dimension for dimension in space}
    given = {short(flag.removeprefix("--").partition("=")[0]) for flag in flags if flag.startswith("--")}
    for key in by_key:
        if short(key) in given or short(key) in DECIDED:
            raise Mistake(
                f"--{key} is searched and also fixed for all trials, so its search would have no effect; leave out one."
            )
        split_moves = short(key) == "seed_everything" and "data.split_seed" not in given
        if short(key).removeprefix("data.") in SPLITS or split_moves:
            raise Mistake(
                f"the space's {key} changes which {NOUN} are validated, so trials could not be compared; leave it out"
                f"{', or fix --data.split_seed' if split_moves else ''}."
            )
        if monitor.endswith("/loss") and short(key).startswith(MEASURED_IN_LOSS):
            raise Mistake(
                f"the space's {key} changes what {monitor} measures, so trials could not be compared by it; choose by "
                "another metric, such as --monitor val/accuracy, of labels val/map, of numbers val/rmse."
            )

    def needed(dimension: Dimension) -> dict[str, Any]:
        """Return values of other flags with which a dimension is searched."""
        values: dict[str, Any] = {}
        for flag in dimension.condition:
            values |= needed(by_key[flag])
        return values | {flag: only[0] for flag, only in dimension.condition.items()}

    for dimension in space:
        for value in dimension.values:
            fixed = needed(dimension) | {dimension.key: value}
            beside = assign(space, lambda other, fixed=fixed: fixed.get(other.key, other.values[0]))
            if problem := complaint([*flags, *as_flags(beside)]):
                del beside[dimension.key]
                raise _contradiction(dimension, value, [*flags, *as_flags(beside)], as_flags(beside), problem)


def _contradiction(dimension: Dimension, value: Any, flags: list[str], searched: list[str], problem: str) -> Mistake:
    """Word what is wrong with a value of a dimension beside other flags, some of them searched."""
    if re.search("is not a flag|which nothing here takes", problem) and not complaint(flags):
        known = {short(key) for key, _ in CLI(flags, run=False).config.items()}
        if short(dimension.key) not in known:
            return Mistake(unknown("the space's flag", dimension.key, sorted(known)))
    where = " ".join(["the config", *searched])
    return Mistake(f"the space's {dimension.key}={value} contradicts {where}: {problem}")


def complaint(args: list[str]) -> str:
    """Return what is wrong with flags of fit, or nothing."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            CLI(args, run=False)
    except SystemExit:
        return last_error(said.getvalue())
    except (ValueError, MisconfigurationException) as error:
        return last_error(f"error: {error}")
    return ""


def last_error(said: str) -> str:
    """Return the last error in what a command said."""
    errors = re.findall(r"^error: (.*)", said, re.MULTILINE)
    return errors[-1] if errors else "it failed and did not say why"
