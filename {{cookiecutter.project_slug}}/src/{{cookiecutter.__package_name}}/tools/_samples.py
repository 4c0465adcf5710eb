"""Images on a page: those that a network gets wrong, and augmented ones."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import _looked
from ._page import note

LOOKED = "Beside each image what in it spoke for what the caption names, as coarse as the last feature maps (Grad-CAM)."


def tiles(
    title: str, chosen: Sequence[tuple[str, str]], data: Any, model: Any = None, outputs: Sequence[int] = ()
) -> str:
    """Return images of the validation split with captions as HTML, as the network saw them.

    Args:
        title: What they are.
        chosen: The path of each and its caption.
        data: The data module.
        model: If given, each image is followed by where it looked.
        outputs: The output of the network that it looked for, of each image.
    """
    split = data.dataset(*data.split("val"))
    position = {path: i for i, path in enumerate(split.keys)}
    images = [pixels(split, position[path]) for path, _ in chosen]
    heat, text = looked(model, images, outputs) if model is not None and chosen else ([], "")
    drawn = []
    for number, (path, caption) in enumerate(chosen):
        shown = picture(images[number], path)
        if len(heat):
            name = data.target.names[outputs[number]]
            shown += picture(_looked.overlaid(images[number], heat[number]), f"what in {path} spoke for {name}")
            shown, caption = f'<div class="pair">{shown}</div>', f"{caption}; heat: {name}"
        drawn.append(f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>")
    kind = "tiles pairs" if len(heat) else "tiles"
    return f'<h3>{title}</h3><div class="{kind}">{"".join(drawn) or note("None.")}</div>{note(text) if text else ""}'


def looked(model: Any, images: Sequence[np.ndarray], outputs: Sequence[int]) -> tuple[Sequence[np.ndarray], str]:
    """Return where a model looked in each image, and what to say of it: why not, where it cannot be told."""
    x_NCHW = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))
    try:
        return [*_looked.heat(model, x_NCHW, outputs)], LOOKED
    except _looked.NotShown as error:
        return [], f"Where the network looked is not shown: {error}."


def pixels(dataset: Any, key: Any) -> np.ndarray:
    """Return an image of a data set, (H, W, C), as the network sees it."""
    return dataset[key].x.numpy().transpose(1, 2, 0)


def augmentation(data: Any, rows: int = 5, columns: int = 8) -> str:
    """Training images as evaluation sees them, each followed by augmented ones."""
    if data is None:
        return ""
    strips = []
    for index in np.unique(np.linspace(0, len(data.train) - 1, rows).astype(int)).tolist():
        keys: list[Any] = [index]  # without a seed: as evaluation sees it
        keys += [(index, index * columns + column) for column in range(1, columns)]
        images = "".join(picture(pixels(data.train, key), data.train.keys[index]) for key in keys)
        strips.append(f'<div class="strip">{images}</div>')
    text = f"data.augment={data.augment}: first a training image as evaluation sees it, then as training may see it."
    return f"<h3>Augmentation</h3>{''.join(strips)}{note(text)}"


def picture(image_HWC: np.ndarray, alt: str) -> str:
    """Return a small image (uint8) as HTML: lossless where it is tiny, JPEG otherwise."""
    kind = "PNG" if image_HWC.shape[0] <= 32 else "JPEG"
    image = Image.fromarray(image_HWC.squeeze())
    image.thumbnail((112, 112))
    file = io.BytesIO()
    image.save(file, kind, quality=80)
    text = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/{kind.lower()};base64,{text}" alt="{escape(alt)}">'
