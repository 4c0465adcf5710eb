"""Factories: what makes a network, a loss, an optimizer or a schedule, as the command line or a script gives it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .mistakes import Mistake


class Recipe(NamedTuple):
    """What a factory makes objects of, and the arguments that it gives them."""

    kind: Any
    arguments: dict[str, Any]

    def makes(self, kind: type) -> bool:
        """Tell whether the objects are of a kind."""
        return isinstance(self.kind, type) and issubclass(self.kind, kind)


def recipe(factory: Callable[..., Any] | None) -> Recipe:
    """Read a factory: a class, a functools.partial of one, or what jsonargparse wraps one in."""
    if not isinstance(factory, functools.partial):
        return Recipe(factory, {})
    # jsonargparse hands over partial(instantiator, class, **arguments)
    kind = factory.func if isinstance(factory.func, type) else factory.args[-1]
    return Recipe(kind, dict(factory.keywords))


def written(name: str, factory: Callable[..., Any]) -> dict[str, Any]:
    """Write a factory as the plain class path and arguments that the command line would have made it from.

    Raises:
        Mistake: The factory is neither a class nor a functools.partial of one.
    """
    kind, arguments = recipe(factory)
    if not isinstance(kind, type):
        raise Mistake(
            f"{name}={factory!r} cannot be written into a checkpoint, so it could not be loaded again; "
            "give a class, or functools.partial of a class with plain arguments."
        )
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
