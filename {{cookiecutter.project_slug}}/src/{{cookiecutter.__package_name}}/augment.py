"""Named augmentation pipelines for training images.

A pipeline is a function of (albumentations, the side of the result, whether images may be mirrored) that lists
transforms. To add one, write it here and name it in PIPELINES: ``--data.augment`` and ``preview`` then know it. This
is the only file that knows albumentations.
"""

import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .engine.mistakes import Mistake, unknown


def light(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """Small shifts, rotations, scalings and shears; a mirror image where the label allows it."""
    return [
        A.Affine(translate_percent=(-0.1, 0.1), rotate=(-12, 12), scale=(0.85, 1.15), shear=(-10, 10), p=0.9),
        A.RandomCrop(size, size),
        A.HorizontalFlip(p=0.5 * flip),
    ]


def medium(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """A random crop, a mirror image and changes of colour: the usual choice for photographs."""
    return [
        A.RandomResizedCrop((size, size), scale=(0.5, 1.0)),
        A.HorizontalFlip(p=0.5 * flip),
        A.Rotate((-10, 10), p=0.5),
        A.ColorJitter(0.2, 0.2, 0.2, 0.05, p=0.8),
    ]


def crop(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """A random crop and a mirror image, no more: what networks for ImageNet are trained with."""
    return [A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), A.HorizontalFlip(p=0.5 * flip)]


def strong(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """A wide crop, two of many changes as in RandAugment, and an erased patch: for long runs and small data sets."""
    changes = [
        A.Affine(rotate=(-30, 30), fill=128),
        A.Affine(shear=(-17, 17), fill=128),
        A.Affine(translate_percent=(-0.2, 0.2), fill=128),
        A.ColorJitter(0.5, 0.5, 0.5, 0.1),
        A.RandomBrightnessContrast(0.4, 0.4),
        A.Posterize((4, 7)),
        A.Sharpen(),
        A.GaussianBlur((3, 5)),
        A.GaussNoise((0.02, 0.1)),
    ]
    return [
        A.RandomResizedCrop((size, size), scale=(0.25, 1.0)),
        A.HorizontalFlip(p=0.5 * flip),
        A.SomeOf(changes, n=2, replace=False, p=1.0),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), p=0.5),
    ]


def medical(A: ModuleType, size: int, flip: bool) -> list[Any]:
    """What keeps a diagnosis: small turns and shifts without a mirror, brightness and noise; no colour, no erasing."""
    return [
        A.Affine(translate_percent=(-0.05, 0.05), rotate=(-7, 7), scale=(0.95, 1.05), border_mode=0, fill=0, p=0.9),
        A.RandomCrop(size, size),
        A.RandomBrightnessContrast(0.1, 0.1, p=0.5),
        A.GaussNoise((0.0, 0.03), p=0.3),
    ]


Pipeline = Callable[[ModuleType, int, bool], list[Any]]
PIPELINES: dict[str, Pipeline | None] = {
    "none": None,
    "light": light,
    "crop": crop,
    "medium": medium,
    "strong": strong,
    "medical": medical,
}


def check_name(name: str) -> None:
    """Refuse a pipeline that does not exist.

    Raises:
        Mistake: No pipeline has this name.
    """
    if name not in PIPELINES:
        raise Mistake(unknown("--data.augment", name, list(PIPELINES)))


class Augment:
    """Turns a decoded image into what the network sees.

    Args:
        name: One of PIPELINES.
        size: The side of the result, in pixels.
        flip: Whether a mirror image keeps its label (never for digits and letters).
    """

    def __init__(self, name: str, size: int, flip: bool) -> None:
        self.name, self.size, self.flip = name, size, flip
        pipeline = PIPELINES[name]
        self.compose = None if pipeline is None else self._compose(pipeline)

    def __reduce__(self) -> tuple[Any, ...]:  # a worker makes its own: a pipeline may hold what cannot be handed over
        return Augment, (self.name, self.size, self.flip)

    def _compose(self, pipeline: Pipeline) -> Any:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # without it the import calls home
        import albumentations as A
        import cv2

        cv2.setNumThreads(0)  # its threads fight the loader's workers
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of an argument it does not know
            warnings.filterwarnings("ignore", "Using lambda")  # it need not travel: each worker makes its own
            return A.Compose(pipeline(A, self.size, self.flip))

    def __call__(self, image: np.ndarray, seed: int | None) -> np.ndarray:
        """Augment an image (HWC, uint8) as ``seed`` says; without a seed, cut the centre."""
        if seed is None or self.compose is None:
            top, left = (image.shape[0] - self.size) // 2, (image.shape[1] - self.size) // 2
            return image[top : top + self.size, left : left + self.size]
        # One seed per sample: albumentations' own stream repeats itself in every worker and every epoch.
        self.compose.set_random_seed(seed)
        return self.compose(image=image)["image"].reshape(self.size, self.size, image.shape[2])
