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

import math
from dataclasses import dataclass
from typing import Literal, get_args

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
        check_values("Preprocessing.mean", self.mean, "Preprocessing.std", self.std)
        known = {"interpolation": (get_args(Interpolation), self.interpolation), "fit": (get_args(Fit), self.fit)}
        for name, (choices, value) in known.items():
            if value not in choices and not (name == "fit" and value is None):
                raise Mistake(
                    f"Preprocessing.{name}={value!r} is unknown, so no image could be scaled; give one of "
                    f"{', '.join(choices)}."
                )
        if self.size is not None and self.size < 1:
            raise Mistake(f"Preprocessing.size={self.size} leaves no pixel; give a whole number from 1.")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise Mistake(f"Preprocessing.crop_fraction={self.crop_fraction} is no share; give 0 < x ≤ 1.")


def check_values(mean_name: str, mean: tuple[float, ...], std_name: str, std: tuple[float, ...]) -> None:
    """Refuse a mean and a deviation that images cannot be normalised with.

    Raises:
        Mistake: They are not one or three finite numbers, or a deviation is not above 0.
    """
    for name, values in ((mean_name, mean), (std_name, std)):
        if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
            raise Mistake(
                f"{name}={list(values)} is not one number or three, so images could not be normalised; give "
                "a number for each colour, of pixels from 0 to 1."
            )
    if min(std) <= 0:
        raise Mistake(f"{std_name}={list(std)} would be divided by; give numbers above 0.")
