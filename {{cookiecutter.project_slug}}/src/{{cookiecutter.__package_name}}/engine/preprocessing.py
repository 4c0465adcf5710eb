"""What a network declares of the images that it was made for: values, size, scaling.

A network of your own declares it in three lines::

    class Net(nn.Module):
        preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=224)

One whose weights decide has a static method, which is called with ``--model.weights`` and the network's own arguments::

        @staticmethod
        def preprocessing(weights: str | None, name: str = "small", **arguments) -> Preprocessing | None:

None, and a network without either, declares nothing: then nothing changes. Flags (``--data.mean``, ``--data.std``,
``--data.interpolation``, ``--data.fit``, ``--data.image_size``, ``--data.stored_size``) overrule it.
"""

import argparse
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch

from .factories import recipe
from .mistakes import Mistake

Fit = Literal["crop", "pad", "stretch"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]  # as Pillow calls them

# Those of ImageNet, which a network is fed that declares none.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What a network is fed.

    Args:
        mean: The mean of each channel, of pixels from 0 to 1: three, or one for all. Grey takes the mean of them.
        std: Their deviation, likewise.
        size: Side of its input, in pixels; None follows the data.
        interpolation: How images are scaled.
        crop_fraction: The share of a scaled image's side that the network sees: images are scaled to size /
            crop_fraction, rounded down, then the centre of size is cut, pixel for pixel as torchvision's Resize and
            CenterCrop do. None follows the flags, which know no share.
        fit: What is done to an image that is not square: crop (torchvision's way; timm's center), pad (timm's border)
            or stretch (timm's squash). None follows the flags.
        other_sizes: Of a network that takes no size but this one: what makes it for another, for people.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    size: int | None = None
    interpolation: Interpolation = "bilinear"
    crop_fraction: float | None = None
    fit: Fit | None = None
    other_sizes: str | None = None

    def __post_init__(self) -> None:
        check_values("Preprocessing.mean", self.mean)
        check_values("Preprocessing.std", self.std, least=0)
        choices = {"interpolation": (*get_args(Interpolation),), "fit": (*get_args(Fit), None)}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise Mistake(
                    f"Preprocessing.{name}={value!r} is unknown, so no image could be scaled; give one of "
                    f"{', '.join(map(str, known))}."
                )
        if self.size is not None and self.size < 1:
            raise Mistake(f"Preprocessing.size={self.size} leaves no pixel; give a whole number from 1.")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise Mistake(f"Preprocessing.crop_fraction={self.crop_fraction} is no share of a side; give 0 < x ≤ 1.")

    def __str__(self) -> str:
        fraction = self.crop_fraction
        of = f" of {scaled_side(self.size, fraction)}" if self.size and fraction and fraction < 1 else ""
        share = f"{fraction:.3g} of the scaled side" if not self.size and fraction else ""
        size = f"{self.size}{of} pixels" if self.size else share
        fit = f"fit {self.fit}" if self.fit else ""
        values = [f"{name} {rounded(numbers)}" for name, numbers in (("mean", self.mean), ("deviation", self.std))]
        return ", ".join(part for part in (size, self.interpolation, fit, *values) if part)


def rounded(numbers: Sequence[float]) -> str:
    """Write numbers as a flag takes them."""
    return f"[{', '.join(f'{number:.4g}' for number in numbers)}]"


def check_values(name: str, values: Sequence[float], least: float = -math.inf) -> None:
    """Refuse a mean or a deviation by which images cannot be normalised.

    Raises:
        Mistake: It is not one or three finite numbers above ``least``.
    """
    if len(values) not in (1, 3) or not all(math.isfinite(value) and value > least for value in values):
        above = f" above {least:g}" if least > -math.inf else ""
        raise Mistake(
            f"{name}={[*values]} is not one finite number{above} or three, so images could not be normalised; give one "
            "for each colour, of pixels from 0 to 1."
        )


def scaled_side(size: int, crop_fraction: float) -> int:
    """Return the side that images are scaled to, of which a network of this size sees a share."""
    return math.floor(size / crop_fraction + 1e-6)  # a share of two whole numbers may be rounded up


class Declared(NamedTuple):
    """What is declared, and by whom."""

    by: str
    what: Preprocessing


def declared(model: Any) -> Declared | None:
    """Return what a model's network declares, before it is built.

    Weights of an earlier run were fed as its schema says, whatever its network declares of others.

    Raises:
        Mistake: The network's arguments or the weights contradict what it can take.
    """
    weights: Any = getattr(model.hparams, "weights", None)
    fed = inputs_of(weights) if weights is not None else None
    kind, arguments = recipe(getattr(model, "make_network", None))
    own = inspect.getattr_static(kind, "preprocessing", None)  # a method is the network's own affair
    what = own if isinstance(own, Preprocessing) else None
    if isinstance(own, staticmethod | classmethod):
        what = kind.preprocessing(weights if fed is None else None, **arguments)
    if fed and "mean" in fed:
        of_run = _of_run(fed)
        if what is not None and what.other_sizes:
            of_run = replace(of_run, size=what.size, other_sizes=what.other_sizes)
        return None if of_run == Preprocessing() else Declared(f"--model.weights {weights}", of_run)
    name = " ".join([getattr(kind, "__name__", "the network"), *filter(None, [arguments.get("name")])])
    return None if what is None else Declared(name, what)


def _of_run(fed: Mapping[str, Any]) -> Preprocessing:
    """Return what the inputs of a run's schema amount to, size and scaling only where those were declared, too."""
    values = Preprocessing(tuple(fed["mean"]), tuple(fed["std"]), interpolation=fed["interpolation"])
    if fed["resize_size"] is None:
        return values
    size, share = fed["image_size"], fed["image_size"] / fed["resize_size"]
    return replace(values, size=size, crop_fraction=share, fit=fed["fit"])


def inputs_of(checkpoint: str) -> dict[str, Any] | None:
    """Return what a checkpoint's schema says of the inputs that its network was fed; None of one without a schema.

    Nothing that it holds is run, and its weights are not read.

    Raises:
        Mistake: What it says cannot be.
    """
    if not Path(checkpoint).is_file():
        return None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        fed = dict(content["hyper_parameters"]["schema"]["inputs"])
    except Exception:  # no file of this project: whoever loads it says what is wrong with it
        return None
    try:
        if "mean" in fed:  # a run of an earlier version says nothing of it
            _of_run(fed)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Mistake(
            f"checkpoint {str(checkpoint)!r} says of its images what cannot be ({error!r}), so they would be fed "
            "otherwise than it was trained; give one that this project wrote."
        ) from error
    return fed


# Flags of data.
NAMES: tuple[str, ...] = ("image_size", "stored_size", "resize_size", "fit", "interpolation", "mean", "std")


def followed(flags: Mapping[str, Any], fed: Mapping[str, Any]) -> dict[str, Any]:
    """Give flags that are not given the values of a schema; those of its other sizes only where its size holds."""
    sizes = {"stored_size", "resize_size"}
    is_other = flags["image_size"] not in (None, fed.get("image_size"))
    kept = {name: value for name, value in fed.items() if not (is_other and name in sizes)}
    return {name: kept.get(name) if value is None else value for name, value in flags.items()}


def settled(given: Mapping[str, Any], by: Declared | None, image_size: int) -> dict[str, Any]:
    """Choose what the network is fed: by flags, else by what is declared, else as without a declaration.

    Args:
        given: The flags by name (NAMES), None where none is given.
        by: What is declared.
        image_size: The side of the network's input: the flag's, the declared one, or that of the images.

    Raises:
        Mistake: The network does not take this size, or the sizes leave nothing to crop.
    """
    what = by.what if by is not None else Preprocessing()
    if by is not None and what.other_sizes and image_size != what.size:
        raise Mistake(
            f"--data.image_size={image_size} is not what {by.by} takes, {what.size} pixels and nothing else, so no "
            f"image could be fed to it; leave it out, or {what.other_sizes}."
        )
    stored, resize = given["stored_size"], given["resize_size"]
    if resize is None and what.crop_fraction is not None:
        resize = stored or scaled_side(image_size, what.crop_fraction)
    if stored is None:
        # The margin is a multiple of 4, so that the centre of the centre lies where torchvision's rounding puts it.
        stored = image_size if resize is None else resize - (resize - image_size) % 4
    if stored < image_size:
        raise Mistake(
            f"--data.stored_size={stored} is smaller than --data.image_size={image_size}, so no crop fits; raise it."
        )
    if resize is not None and resize < stored:
        raise Mistake(
            f"--data.resize_size={resize} is smaller than --data.stored_size={stored}, so nothing could be cut out of "
            "it; raise it."
        )
    return {
        "image_size": image_size,
        "stored_size": stored,
        "resize_size": resize,
        "fit": given["fit"] or what.fit or "crop",
        "interpolation": given["interpolation"] or what.interpolation,
        "mean": [*map(float, given["mean"] or what.mean)],
        "std": [*map(float, given["std"] or what.std)],
    }


# What a run of an earlier version was fed, whose schema says nothing of it.
EARLIER: dict[str, Any] = {"resize_size": None, "interpolation": "bilinear", "mean": [*MEAN], "std": [*STD]}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse inputs of a schema that feed a network otherwise than those of a run that it goes on with.

    Raises:
        Mistake: They do.
    """
    for name, earlier in EARLIER.items():
        was = before.get(name, earlier)
        if was != now[name]:
            raise Mistake(
                f"--data.{name}={now[name]} is not what the run was fed, {was}, so it would no longer be one "
                f"experiment; give --data.{name} {was}, or the weights that it began with."
            )


def said(given: Mapping[str, Any], by: Declared, values: Mapping[str, Any]) -> str:
    """Say in one line what was declared, and which flags overrule it."""
    what = by.what
    theirs = settled(dict.fromkeys(NAMES), by, what.size or values["image_size"])
    silent = {"image_size": what.size is None, "fit": what.fit is None}
    silent |= dict.fromkeys(("stored_size", "resize_size"), what.crop_fraction is None)
    overruled = [
        f"--data.{name} {rounded(value) if isinstance(value, list) else value}"
        for name, value in values.items()
        if given[name] is not None and value != theirs[name] and not silent.get(name)
    ]
    return f"preprocessing: {by.by} declares {what}{'; overruled by ' if overruled else ''}{' '.join(overruled)}"
