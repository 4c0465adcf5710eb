"""Networks: two small ones and every classification model of torchvision; their pre-trained weights.

A network is any ``nn.Module`` made with (in_channels, num_classes, *, options) that turns x_NCHW into logits_NK. To add
one, write the class here; ``--model.network NAME`` and ``--model.network.OPTION`` then know it.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mistakes import unknown

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
# 1 / sqrt(E f(x)²) for x ~ N(0, 1), where torch's calculate_gain has no value.
GAINS = {"gelu": 1.5335, "silu": 1.6765}


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Make a normalisation of feature maps; "layer" is group normalisation with one group."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"group": math.gcd(8, channels), "layer": 1}
    return nn.GroupNorm(groups[norm], channels) if norm in groups else nn.Identity()


class SmallCNN(nn.Module):
    """Three stages of two 3 × 3 convolutions; trains in seconds on small images.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Channels of the first stage; each later stage doubles them.
        dropout: Share of the features that training drops before the last layer; null for none.
        activation: The nonlinearity.
        norm: The normalisation after each convolution.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 32,
        dropout: float | None = None,
        activation: Activation = "relu",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.activation = activation
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


class Backbone(nn.Module):
    """A classification model of torchvision; grey images are repeated to its three channels.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        name: The model's name, such as resnet18, convnext_tiny or vit_b_16.
        dropout: Share of the features that training drops; null keeps the model's own, where it has one.
        stochastic_depth: Share of the residual branches that training drops in the last block (Huang et al. 2016); null
            keeps the model's own, where it has one.
        image_size: The side in pixels that a vision transformer is built for; null keeps its own, mostly 224. Networks
            of convolutions take any.
        checkpointing: Compute activations a second time in the backward pass instead of keeping them: less memory,
            about a third more time.

    Raises:
        ValueError: torchvision has no classification model of this name, or the model has no such option.
    """

    activation = "relu"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        name: str = "resnet18",
        dropout: float | None = None,
        stochastic_depth: float | None = None,
        image_size: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(unknown("network.name", name, known))
        self.name = name
        given = {"dropout": dropout, "stochastic_depth_prob": stochastic_depth, "image_size": image_size}
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        try:
            self.model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        except (TypeError, AssertionError) as error:
            raise ValueError(
                f"network.name={name!r} cannot be made with {options} ({error}), so it would have no effect; "
                "leave it out, give a value that the model takes, or choose a model that has this option."
            ) from error
        if checkpointing:
            for part in stages(self)[:-1]:
                part.forward = functools.partial(_checkpointed, part, part.forward)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        side = getattr(self.model, "image_size", x_NCHW.shape[-1])  # vision transformers have one
        if x_NCHW.shape[-1] != side:
            raise ValueError(
                f"network.name={self.name!r} is built for images of {side} pixels and data.image_size is "
                f"{x_NCHW.shape[-1]}, so it cannot take them; give the same to --data.image_size and "
                "--model.network.image_size."
            )
        if x_NCHW.shape[1] == 1:
            x_NCHW = x_NCHW.expand(-1, 3, -1, -1)
        logits = self.model(x_NCHW)
        return logits if isinstance(logits, Tensor) else logits.logits  # inception and googlenet add auxiliary outputs


def _checkpointed(part: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(  # pyright: ignore[reportReturnType]
        forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(part))
    )


@contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice while its activations are computed a second time."""
    norms = [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum


def last_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the layer that makes the logits."""
    return [pair for pair in network.named_modules() if isinstance(pair[1], nn.Linear | nn.Conv2d)][-1]


def stages(network: nn.Module) -> list[nn.Module]:
    """Part a network into consecutive modules, the head last: what is frozen together and has one rate.

    A part that holds more than nine tenths of the parameters is opened, as long as it has parts of its own.
    """

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    parts, total = [network], size(network)
    while True:
        large = next(
            (i for i, part in enumerate(parts) if size(part) > 0.9 * total and any(map(size, part.children()))), None
        )
        if large is None:
            return parts
        parts[large : large + 1] = [child for child in parts[large].children() if size(child)]


def initialise(network: nn.Module, scheme: Literal["he", "xavier", "orthogonal"], activation: str) -> None:
    """Draw the weights of convolutions and linear layers anew; biases become zero.

    The gain follows the activation, the last layer's is 1. He: normal with variance gain² / fan_in (He et al. 2015).
    Xavier: uniform with variance 2 gain² / (fan_in + fan_out) (Glorot and Bengio 2010).
    """
    gain = GAINS.get(activation) or nn.init.calculate_gain(activation)  # pyright: ignore[reportArgumentType]
    head = last_layer(network)[1]
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        own_gain = 1.0 if module is head else gain
        if scheme == "he":
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=own_gain / math.sqrt(fan_in))
        elif scheme == "xavier":
            nn.init.xavier_uniform_(module.weight, own_gain)
        else:
            nn.init.orthogonal_(module.weight, own_gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def load_weights(network: nn.Module, source: str) -> None:
    """Fill a network with pre-trained weights; a last layer for other classes keeps its fresh values and that is said.

    Args:
        network: What to fill.
        source: A file (a state dict, or a checkpoint of an earlier run), or for a Backbone the name of torchvision's
            weights, such as DEFAULT, which are downloaded once.

    Raises:
        ValueError: The weights do not exist, cannot be read, or belong to another architecture.
    """
    if Path(source).is_file():
        state = _read(Path(source))
    elif isinstance(network, Backbone):
        import torchvision.models

        weights = torchvision.models.get_model_weights(network.name)
        if source != "DEFAULT" and source not in weights.__members__:
            raise ValueError(unknown("model.weights", source, ["DEFAULT", *weights.__members__, "a file"]))
        try:
            state = weights[source].get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise ValueError(
                f"model.weights={source!r} could not be downloaded ({error}), so training would start from nothing; "
                "connect to a network or give a file of weights."
            ) from error
    else:
        raise ValueError(
            f"model.weights={source!r} is not a file, so training would start from nothing; give its path."
        )
    own = network.state_dict()
    prefix = "model." if isinstance(network, Backbone) and not any(key.startswith("model.") for key in state) else ""
    state = {prefix + key: value for key, value in state.items()}
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    strange = sorted(own.keys() ^ state.keys())
    last, _ = last_layer(network)
    if strange or any(not key.startswith(last) for key in reshaped):
        differing = (strange + [key for key in reshaped if not key.startswith(last)])[:6]
        raise ValueError(
            f"model.weights={source!r} belongs to another architecture ({', '.join(differing)} … differ), "
            "so loading it would train a wrong network; choose the network that it was made for."
        )
    if reshaped:
        print(f"{source} knows other classes: the last layer ({last}) starts afresh.")
    network.load_state_dict({key: own[key] if key in reshaped else value for key, value in state.items()})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unreadable file raises almost anything
        raise ValueError(
            f"model.weights={str(path)!r} cannot be read as weights ({error}), so training would start from nothing; "
            "give a state dict saved by torch.save, or a checkpoint of a run."
        ) from error
    if "state_dict" not in content:
        return content
    return {
        key.removeprefix("network."): value
        for key, value in content["state_dict"].items()
        if key.startswith("network.")
    }
