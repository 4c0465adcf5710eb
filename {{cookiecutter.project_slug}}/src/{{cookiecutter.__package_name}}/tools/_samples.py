"""Images on a page: those that a network gets wrong, and augmented ones."""

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ._page import note


def tiles(title: str, chosen: Iterable[tuple[str, str]], data: Any) -> str:
    """Return images of the validation split with captions as HTML, as the network saw them.

    Args:
        title: What they are.
        chosen: The path of each and its caption.
        data: The data module.
    """
    split = data.dataset(*data.split("val"))
    position = {path: i for i, path in enumerate(split.keys)}
    drawn = []
    for path, caption in chosen:
        image = picture(pixels(split, position[path]), path)
        drawn.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<h3>{title}</h3><div class="tiles">{"".join(drawn) or note("None.")}</div>'


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
