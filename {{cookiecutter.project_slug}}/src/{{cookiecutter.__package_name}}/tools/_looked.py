"""Where a network looked: the parts of an image that spoke for an output, by Grad-CAM (Selvaraju et al. 2017).

Needs captum (the extra ``explain``). Shapes: N images, C channels, H × W pixels; h × w is the side of a feature map.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.installing import of_extra

# Pooling enlarges what it takes where that is small: its maps are not those of the layer before.
POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)
FINE = 7  # pixels of a side, as networks for ImageNet end with
WEIGHT = 0.65  # of the heat in a picture, where it is greatest


class NotShown(Exception):
    """Why no heat can be drawn, in words for the page."""


def heat(model: Any, x_NCHW: Tensor, outputs: Sequence[int]) -> np.ndarray:
    """Return how much each pixel spoke for an output of the network, (N, H, W), from 0 to 1 in each image.

    It leaves the model as it was: its gradients, statistics, mode, and what is drawn at random after it.

    Args:
        model: The model.
        x_NCHW: Images (uint8).
        outputs: The number of the output, of each image.

    Raises:
        NotShown: captum is missing, or the network has no feature maps.
    """
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise NotShown(f"it needs the package {package}, the extra explain: {of_extra('explain')}") from error

    network = model.network
    with _evaluated(network):
        parameter = next(network.parameters())
        x_NCHW = model.prepared(x_NCHW.to(parameter.device)).to(parameter.dtype).detach()
        layer = last_feature_maps(network, x_NCHW[:1])
        x_NCHW.requires_grad_()  # else a frozen network would have no gradient at all
        target = torch.tensor(outputs, device=x_NCHW.device)
        heat_N1hw = LayerGradCam(network, layer).attribute(x_NCHW, target, relu_attributions=True)
        shape: Any = x_NCHW.shape[2:]
        heat_N1HW = LayerAttribution.interpolate(heat_N1hw.float(), shape, "bilinear")  # pyright: ignore
    heat_NHW = heat_N1HW.detach().squeeze(1).cpu().numpy()
    return heat_NHW / np.maximum(heat_NHW.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Evaluate a network, with gradients and uncompiled; its modes and the random numbers come back."""
    modes = {module: module.training for module in network.modules()}
    normal, gradients, eager = (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
    )
    try:
        with normal, gradients, eager, torch.random.fork_rng(devices=[]):
            network.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def last_feature_maps(network: nn.Module, x_1CHW: Tensor) -> nn.Module:
    """Return the last layer that gives maps, (N, C, h, w), fine enough to tell where; if none is, the finest.

    (The very last maps of a network for large images have a pixel or four where its images are small.)

    Raises:
        NotShown: There is none, or tokens come after it, as in a transformer.
    """
    weighed = False
    maps: list[tuple[int, nn.Module]] = []  # the side and the layer

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal weighed
        weighed = weighed or isinstance(module, nn.Conv2d | nn.Linear)
        if not isinstance(output, Tensor) or not weighed or isinstance(module, POOLING):
            return
        if output.ndim == 4 and output.shape[2] == output.shape[3]:
            maps.append((output.shape[3], module))
        elif output.ndim > 2:  # tokens, (N, L, C) or (N, h, w, C)
            maps.clear()

    handles = [m.register_forward_hook(look) for m in network.modules() if not any(True for _ in m.children())]
    try:
        with torch.no_grad():
            network(x_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    fine = min(FINE, max((side for side, _ in maps), default=0))
    if fine <= 1:
        raise NotShown(f"{type(network).__name__} has no feature maps of more than a pixel before its last layers")
    return [layer for side, layer in maps if side >= fine][-1]


def overlaid(image_HWC: np.ndarray, heat_HW: np.ndarray) -> np.ndarray:
    """Return an image (uint8) in grey under its heat, in RGB."""
    from matplotlib import colormaps

    colour_HW3 = 255 * colormaps["inferno"](heat_HW)[..., :3]
    share_HW1 = WEIGHT * heat_HW[..., None]
    grey_HW1 = image_HWC.mean(2, keepdims=True)
    return ((1 - share_HW1) * grey_HW1 + share_HW1 * colour_HW3).round().astype(np.uint8)
