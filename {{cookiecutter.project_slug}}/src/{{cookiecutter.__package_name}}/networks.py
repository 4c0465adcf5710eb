"""Networks: two small ones; those of torchvision come from engine/backbone.py, timm's from engine/timm_models.py.

A network is any ``nn.Module`` made with (in_channels, num_classes, *, options) that turns x_NCHW into logits_NK. To add
one, write the class here; ``--model.network NAME`` and ``--model.network.OPTION`` then know it. Its last child module
is the head, its children before are its stages: freeze, unfreeze_every, layer_decay and backbone_lr_factor go by them,
and a run with one of these prints them. A method ``follow``, if there is one, is told the side of the images. Shapes: N
samples, C channels, H × W pixels, K classes.
"""

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from .engine.backbone import Backbone as Backbone  # so that --model.network Backbone finds it
from .engine.timm_models import Timm as Timm

NetworkFactory = Callable[[int, int], nn.Module]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]
Norm = Literal["batch", "group", "layer", "none"]


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Make a normalisation of feature maps; "layer" is group normalisation with one group."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"group": math.gcd(8, channels), "layer": 1}
    return nn.GroupNorm(groups[norm], channels) if norm in groups else nn.Identity()


class SmallCNN(nn.Module):
    """Three stages of two 3 × 3 convolutions; trains in seconds on small images, larger ones are halved first.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Channels of the first stage; each later stage doubles them.
        dropout: Share of the features that training drops before the last layer; null for none.
        activation: The nonlinearity.
        norm: The normalisation after each convolution.
        stem_stride: Input pixels, along a side, for one of the first stage; null follows the image: 1, 2 from 64 pixels
            on, 4 from 128 pixels on.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 32,
        dropout: float | None = None,
        activation: Activation = "relu",
        norm: Norm = "batch",
        stem_stride: Literal[1, 2, 4] | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.stem_stride = activation, stem_stride
        self.features = nn.Sequential()
        channels = in_channels
        for out in (width, 2 * width, 4 * width):
            stage = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)) if len(self.features) else nn.Sequential()
            for _ in range(2):
                conv = nn.Conv2d(channels, out, 3, padding=1, bias=norm == "none")
                stage.extend([conv, norm_layer(norm, out), ACTIVATIONS[activation]()])
                channels = out
            self.features.append(stage)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout or 0.0)]
        self.head = nn.Sequential(*pool, nn.Linear(channels, num_classes))
        self.follow(0)

    def follow(self, image_size: int) -> None:
        """Give the first stage the stride for images of this side, in pixels: at full size it would cost most."""
        stride = self.stem_stride or (1 if image_size < 64 else 2 if image_size < 128 else 4)
        first, second = (module for module in self.features[0].modules() if isinstance(module, nn.Conv2d))
        first.stride, second.stride = ((2, 2) if stride >= least else (1, 1) for least in (2, 4))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))


class SmallMLP(nn.Module):
    """Fully connected layers on the image, averaged down to 16 × 16 if it is larger.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        dropout: Share of the units that training drops after each hidden layer; null for none.
        activation: The nonlinearity.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 256,
        depth: int = 2,
        dropout: float | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = activation
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten())
        units = in_channels * 16 * 16
        for _ in range(depth):
            layer = nn.Sequential(nn.Linear(units, width), ACTIVATIONS[activation](), nn.Dropout(dropout or 0.0))
            self.features.append(layer)
            units = width
        self.head = nn.Linear(units, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))
