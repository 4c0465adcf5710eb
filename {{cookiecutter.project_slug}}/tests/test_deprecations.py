"""Who used what is deprecated is found, whichever line the warning is laid to."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from deprecations import CATEGORIES


def library(name: str, code: str, **known: Any) -> Callable[..., None]:
    """Return ``called`` of a module of a library, which is made of code."""
    names = {"__name__": name, "warnings": warnings, **known}
    exec(compile(f"def called(*args):\n    {code}", f"/site-packages/{name}.py", "exec"), names)
    return names["called"]


def old(level: int = 1, category: str = "FutureWarning", text: str = "it is deprecated") -> Callable[..., None]:
    return library("torch.nn.old", f"warnings.warn({text!r}, {category}, stacklevel={level})")


@pytest.mark.parametrize("category", [*(each.__name__ for each in CATEGORIES), "UserWarning"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_is_deprecated_and_used_here_is_raised(level, category):
    with pytest.raises(Warning, match="it is deprecated"):
        old(level, category)()


def test_what_a_library_warns_of_through_functions_of_its_own_is_raised():
    with pytest.raises(FutureWarning):
        library("torch.public", "old()", old=old(2))()


def test_what_a_function_in_c_warns_of_is_laid_to_who_calls_it():
    in_c = warnings.warn  # no frame of Python's says that it warns
    library("matplotlib", "in_c('it is deprecated', DeprecationWarning)", in_c=in_c)()
    with pytest.raises(DeprecationWarning):
        in_c("it is deprecated", DeprecationWarning)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_one_library_uses_of_another_is_not(level):
    library("lightning.pytorch.trainer", "old()", old=old(level))()


def test_what_is_marked_as_deprecated_belongs_to_its_library():
    deprecated = pytest.importorskip("typing_extensions").deprecated
    marked = deprecated("it is deprecated", category=FutureWarning)(library("torch.nn.old", "..."))
    library("lightning.pytorch", "marked()", marked=marked)()
    with pytest.raises(FutureWarning):
        marked()
    with pytest.raises(FutureWarning):
        library("torch.nn.public", "marked()", marked=marked)()


def test_what_a_library_of_a_family_uses_of_it_is_raised():
    said = library("lightning_utilities.core", "warnings.warn('', FutureWarning)")
    with pytest.raises(FutureWarning):
        library("lightning.pytorch", "said()", said=said)()


def test_what_a_config_names_is_used_here():
    made = library("jsonargparse._core", "old()", old=old())
    with pytest.raises(FutureWarning):
        library("lightning.pytorch.cli", "made()", made=made)()
    parser = library("jsonargparse._core", "warnings.warn('it is deprecated', DeprecationWarning)")
    library("lightning.pytorch.cli", "parser()", parser=parser)()


def test_a_method_without_gradients_is_used_here():
    with pytest.raises(FutureWarning):
        torch.no_grad()(library("lightning.pytorch.core.module", "warnings.warn('', FutureWarning)"))()


def test_what_was_warned_of_while_another_warning_was_awaited_is_not():
    other = old(text="something else", category="UserWarning")
    with pytest.warns(UserWarning, match="something else"):
        library("lightning.pytorch.trainer", "old(), other()", old=old(), other=other)()


def test_other_warnings_are_but_shown():
    with pytest.warns(UserWarning, match="something else"):
        old(text="something else", category="UserWarning")()
