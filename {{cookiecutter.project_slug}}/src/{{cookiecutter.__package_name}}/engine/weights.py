"""The weights that a run starts from: drawn by a scheme, or pre-trained."""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .mistakes import Mistake, unknown
from .stages import last_layer

# 1 / sqrt(E f(x)²) for x ~ N(0, 1), where torch's calculate_gain has no value.
GAINS = {"gelu": 1.5335, "silu": 1.6765}


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
        Mistake: The weights do not exist, cannot be read, or belong to another architecture.
    """
    if Path(source).is_file():
        state = _read(Path(source))
    elif isinstance(network, Backbone):
        import torchvision.models

        weights = torchvision.models.get_model_weights(network.name)
        if source != "DEFAULT" and source not in weights.__members__:
            raise Mistake(unknown("--model.weights", source, ["DEFAULT", *weights.__members__, "a file"]))
        try:
            state = weights[source].get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise Mistake(
                f"--model.weights={source!r} could not be downloaded ({error}), so training would start from nothing; "
                "connect to a network or give a file of weights."
            ) from error
    else:
        raise Mistake(f"--model.weights={source!r} is not a file, so training would start from nothing; give its path.")
    own = network.state_dict()
    prefix = "model." if isinstance(network, Backbone) and not any(key.startswith("model.") for key in state) else ""
    state = {prefix + key: value for key, value in state.items()}
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    strange = sorted(own.keys() ^ state.keys())
    last, _ = last_layer(network)
    if strange or any(not key.startswith(last) for key in reshaped):
        differing = (strange + [key for key in reshaped if not key.startswith(last)])[:6]
        raise Mistake(
            f"--model.weights={source!r} belongs to another architecture ({', '.join(differing)} … differ), "
            "so loading it would train a wrong network; choose the network that it was made for."
        )
    if reshaped:
        print(f"{source} knows other classes: the last layer ({last}) starts afresh.")
    network.load_state_dict({key: own[key] if key in reshaped else value for key, value in state.items()})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unreadable file raises almost anything
        raise Mistake(
            f"--model.weights={str(path)!r} cannot be read as weights ({error}), so training would start from nothing; "
            "give a state dict saved by torch.save, or a checkpoint of a run."
        ) from error
    if "state_dict" not in content:
        return content
    return {
        key.removeprefix("network."): value
        for key, value in content["state_dict"].items()
        if key.startswith("network.")
    }
