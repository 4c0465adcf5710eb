"""Networks: two small ones and every classification model of torchvision; their pre-trained weights.

A network is any ``nn.Module`` made with (in_channels, num_classes, *, options) that turns x_NCHW into logits_NK. To add
one, write the class here; ``--model.network NAME`` and ``--model.network.OPTION`` then know it.
"""

import difflib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

NetworkFactory = Callable[[int, int], nn.Module]


class SmallCNN(nn.Module):
    """Three stages of two 3 × 3 convolutions with batch normalisation; trains in seconds on small images.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Channels of the first stage; each later stage doubles them.
        dropout: Share of the features that training drops before the last layer.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in range(3):
            out = width * 2**stage
            if stage:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes)
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))


class SmallMLP(nn.Module):
    """Fully connected layers on the flattened image.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        dropout: Share of the units that training drops after each hidden layer.
    """

    def __init__(
        self, in_channels: int, num_classes: int, width: int = 256, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(16), nn.Flatten()]
        features = in_channels * 16 * 16
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            features = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(features, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))


class Backbone(nn.Module):
    """A classification model of torchvision; grey images are repeated to its three channels.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        name: The model's name, such as resnet18, convnext_tiny or vit_b_16.

    Raises:
        ValueError: torchvision has no classification model of this name.
    """

    def __init__(self, in_channels: int, num_classes: int, name: str = "resnet18") -> None:
        super().__init__()
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(unknown("network.name", name, known))
        self.name = name
        self.model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.shape[1] == 1:
            x_NCHW = x_NCHW.expand(-1, 3, -1, -1)
        logits = self.model(x_NCHW)
        return logits if isinstance(logits, Tensor) else logits.logits  # inception and googlenet add auxiliary outputs


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
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
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


def unknown(flag: str, value: str, known: list[str]) -> str:
    """Word the error for a name that is not known: the nearest ones first."""
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    others = [name for name in known if name not in near]
    listed = ", ".join((near + others)[:12]) + (" …" if len(known) > 12 else "")
    return f"{flag}={value!r} is unknown, so there is nothing to use; choose from {listed}."
