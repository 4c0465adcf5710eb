"""The models take images (N, C, H, W), uint8 at data.image_size. preprocessing.py turns an image file into such an
image: the project's own code, and needs no project.
"""

import runpy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..engine import decoding
from ..engine.files import write

PACKAGES = ("pillow",)  # that what is exported needs, beside those that every export does
ARGUMENT = "IMAGE"  # of example.py
INT8 = True  # whether model.int8.onnx is written unless told

PREPROCESS = '''

CHANNELS = {channels}
STORED_SIZE = {stored_size}  # a file becomes a square of this,
IMAGE_SIZE = {image_size}  # and its centre of this size is what the network takes


def preprocess(path: str | Path) -> np.ndarray:
    """Read an image file as the network takes it: (C, H, W), uint8."""
    image_HWC = decode(
        path,
        CHANNELS,
        STORED_SIZE,
        fit={fit!r},
        background={background!r},
        value_range={value_range},
        interpolation={interpolation!r},
        resize={resize_size},
        max_megapixels={max_megapixels},
    )
    edge = (STORED_SIZE - IMAGE_SIZE) // 2
    return image_HWC[edge : edge + IMAGE_SIZE, edge : edge + IMAGE_SIZE].transpose(2, 0, 1)
'''


class Predict(nn.Module):
    """What is exported: all that the model's ``predict`` does, calibrated: images (uint8) → predictions (float32)."""

    def __init__(self, model: Any, calibrates: nn.Module) -> None:
        super().__init__()
        self.model, self.calibrates = model, calibrates

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.calibrates(self.model.predict(images_NCHW).float())


def inputs(x_NCHW: Tensor, data: Any) -> dict[str, Tensor]:
    """Return the inputs of a batch by the names that the exported models give them."""
    return {"images": x_NCHW}


def facts(model: Any, data: Any) -> dict[str, Any]:
    """Describe the inputs, as values of JSON."""
    mean = model.normalised.mean_1C11.flatten().tolist()
    std = model.normalised.std_1C11.flatten().tolist()
    return {
        "channels": data.channels,
        "image_size": data.image_size,
        "fit": data.fit,
        "background": data.background,
        "value_range": data.value_range,
        "max_megapixels": data.max_megapixels,
        "interpolation": data.interpolation,
        "resize_size": data.resize_size,  # a file is scaled to this, if it is any,
        "stored_size": data.stored_size,  # or else to this; then its centre is cut out
        "normalisation": {"mean": mean, "std": std},  # of pixels from 0 to 255, inside the models
    }


def weights(model: Any) -> dict[str, Tensor]:
    """Return what model.safetensors holds."""
    return model.network.state_dict()


def write_example(about: dict[str, Any], folder: Path) -> None:
    """Write preprocessing.py and example.py."""
    decoder = Path(str(decoding.__file__)).read_text(encoding="utf-8")
    write(folder / "preprocessing.py", decoder + PREPROCESS.format(**about))
    shutil.copyfile(Path(__file__).with_name("_example.py"), folder / "example.py")


def from_files(
    data: Any, about: dict[str, Any], paths: Sequence[str], folder: Path
) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """Return what makes inputs of samples by their positions with nothing but preprocessing.py.

    Args:
        data: The data module.
        about: What the models say of themselves.
        paths: The samples.
        folder: Where preprocessing.py lies.
    """
    preprocess = runpy.run_path(str(folder / "preprocessing.py"))["preprocess"]
    return lambda positions: {"images": np.stack([preprocess(data.root / paths[i]) for i in positions])}
