"""Settings that contradict each other: refused or warned of before training."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .mistakes import Mistake


class Rule(NamedTuple):
    """One contradiction.

    Args:
        name: What meets what.
        refused: Whether the run is refused; else it is warned of.
        reason: Why, and what to do.
        holds: Tells whether a run has it, from its model, data and trainer.
    """

    name: str
    refused: bool
    reason: str
    holds: Callable[[Any, Any, Any], bool]


def check(rules: Iterable[Rule], model: Any, data: Any, trainer: Any) -> None:
    """Refuse or warn of what contradicts itself.

    Raises:
        Mistake: A refused combination.
    """
    for rule in rules:
        if rule.holds(model, data, trainer):
            if rule.refused:
                raise Mistake(f"{rule.name}: {rule.reason}.")
            warnings.warn(f"{rule.name}: {rule.reason}.", stacklevel=2)
