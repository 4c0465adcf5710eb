"""The weights that a run starts from: drawn by a scheme, or pre-trained."""

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .mistakes import Mistake, some
from .stages import heads, last_layer
from .together import is_rank_zero

# 1 / sqrt(E f(x)²) for x ~ N(0, 1), where torch's calculate_gain has no value.
GAINS = {"gelu": 1.5335, "silu": 1.6765}

# What torch.compile, FSDP, recomputed activations and DDP put into names, at the front or in the middle.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
AVERAGED = re.compile(r"(^|_)(ema|swa|teacher)(_|$)|averag", re.IGNORECASE)


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


class Weights(NamedTuple):
    """Weights in a file that fit a network.

    Args:
        place: The keys and the prefix under which they lie there, such as ``state_dict`` and ``model.``.
        values: Each by the network's own name for it, without those of a last layer that does not fit.
        beside: Names in the same mapping that have another prefix.
    """

    place: tuple[str, ...]
    values: dict[str, Tensor]
    beside: list[str]

    def __str__(self) -> str:
        return " → ".join(self.place) or "bare names"

    @property
    def averaged(self) -> bool:
        """Whether they are called an average over a training."""
        return any(AVERAGED.search(part) for key in self.place for part in key.split("."))


def load_weights(network: nn.Module, source: str) -> None:
    """Fill a network with pre-trained weights; a last layer for other classes keeps its fresh values and that is said.

    They may lie anywhere in a file and under any prefix: in another project's checkpoint, or as DDP, torch.compile and
    averaging name them. They fit if they have every weight of the network but those of its last layer, in its shape,
    and no others beside them. Of several that fit averaged ones are taken, else the first. What was taken is said.

    Args:
        network: What to fill.
        source: A file (a state dict, or a checkpoint of any project), or a name that the network knows weights by:
            DEFAULT, or of a Backbone those of torchvision, of a Timm its tags. They are downloaded once.

    Raises:
        Mistake: The weights do not exist, cannot be read, or belong to another architecture.
    """
    if Path(source).is_file():
        content = _read(Path(source))
    elif published := getattr(network, "published_weights", None):
        found = published(source)
        content = _read(found) if isinstance(found, Path) else found
    else:
        raise Mistake(f"--model.weights={source!r} is not a file, so training would start from nothing; give its path.")
    fitting, differing = _find(network, content)
    if not fitting:
        raise Mistake(
            f"--model.weights={source!r} belongs to another architecture ({', '.join(differing[:6])} … differ), "
            "so loading it would train a wrong network; choose the network that it was made for."
        )
    taken = next((weights for weights in fitting if weights.averaged), fitting[0])
    own = network.state_dict()
    if is_rank_zero():
        _say(source, taken, [weights for weights in fitting if weights is not taken])
        if len(taken.values) < len(own):
            print(f"{source} has another last layer, for other classes: {' and '.join(heads(network))} starts afresh.")
    network.load_state_dict(own | taken.values)


def _say(source: str, taken: Weights, others: list[Weights]) -> None:
    """Say in one line what was unwrapped."""
    if not taken.place and not others:
        return
    line = f"weights: {source} has them as {taken}"
    if others:
        line += f"; not taken: {', '.join(map(str, others))}"
    if taken.beside:
        line += f"; no part of the network: {', '.join(taken.beside[:3])}{' …' if len(taken.beside) > 3 else ''}"
    print(line)


def _find(network: nn.Module, content: Any) -> tuple[list[Weights], list[str]]:
    """Return the weights that fit a network, and the names in which those differ that come nearest to it."""
    last = heads(network)
    shared = _shared_prefix([*network.state_dict()], last[-1])  # such as a Backbone's, whose files do not have it
    own = {name.removeprefix(shared): value for name, value in network.state_dict().items()}
    head = tuple(f"{name.removeprefix(shared)}." for name in last)
    body = [name for name in own if not name.startswith(head)]
    free = head if body else "\0"  # a network that is one layer has no other part by which its weights are known
    convert = getattr(network, "converted_weights", None)
    fitting: list[Weights] = []
    nearest: list[str] = []

    def differing(group: dict[str, Tensor]) -> list[str]:
        return [name for name in _differing(own, group) if not name.startswith(free)]

    for keys, state in _state_dicts(content):
        for dropped in ((), WRAPPERS[:-1], WRAPPERS):
            named = {_without(name, dropped): value for name, value in state.items()}
            if dropped and named.keys() == state.keys():
                continue
            note = (f"names without {' and '.join(sorted(_parts(state) & {*dropped}))}",) if dropped else ()
            known = len(fitting)
            for prefix in _prefixes(named, (body or [*own])[0]):
                group = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
                wrong, place = differing(group), (*keys, *([prefix] if prefix else []), *note)
                if wrong and convert:
                    theirs, group = group, convert(group)
                    wrong, place = differing(group), (*place, _conversion(theirs, group))
                if not nearest or len(wrong) < len(nearest):
                    nearest = wrong
                if not wrong:
                    afresh = head if _differing(own, group) else "\0"
                    values = {shared + n: value for n, value in group.items() if not n.startswith(afresh)}
                    beside = [name for name in named if not name.startswith(prefix)]
                    fitting.append(Weights(place, values, beside))
            if len(fitting) > known:
                break
    return fitting, nearest or sorted(own)


def _conversion(theirs: Mapping[str, Tensor], group: Mapping[str, Tensor]) -> str:
    """Word what a network changed in weights to take them."""
    renamed = [name for name in group if name not in theirs]
    resized = [name for name in group if name in theirs and theirs[name].shape != group[name].shape]
    return "converted " + " and ".join(
        f"{what} ({some(names)})" for what, names in (("names", renamed), ("sizes", resized)) if names
    )


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every mapping of names to tensors, and the keys that lead to it."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()  # a file may hold a mapping many times, or in itself
    for keys, mapping in waiting:
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        items = [(name, value) for name, value in mapping.items() if isinstance(name, str)]
        tensors = {name: value for name, value in items if isinstance(value, Tensor)}
        if tensors:
            yield keys, tensors
        waiting += [((*keys, name), value) for name, value in items]


def _prefixes(names: Mapping[str, Tensor], first: str) -> list[str]:
    """Return what stands before a network's first name wherever it occurs, or nothing where it does not."""
    return [name.removesuffix(first) for name in names if f".{name}".endswith(f".{first}")] or [""]


def _differing(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return the names that one of two has alone, and those of different shapes."""
    return [
        *sorted(own.keys() ^ given.keys()),
        *(name for name in own if name in given and own[name].shape != given[name].shape),
    ]


def _shared_prefix(names: list[str], last: str) -> str:
    """Return what all names of a network begin with, up to a dot; the name of its last layer keeps a rest."""
    prefix = ""
    for part in last.split(".")[:-1]:
        if not all(name.startswith(f"{prefix}{part}.") for name in names):
            break
        prefix += f"{part}."
    return prefix


def _without(name: str, dropped: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in dropped)


def _parts(names: Mapping[str, Any]) -> set[str]:
    return {part for name in names for part in name.split(".")}


def _read(path: Path) -> Any:
    """Read a file of weights as plain values, running nothing that it holds."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            # Many projects keep their flags beside the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unreadable file raises almost anything
        strange = re.search(r"(?:GLOBAL|class|type) ([\w.]+\.\w+)", str(error))
        reason = f"it holds {strange[1]}, no plain value" if strange else (str(error).splitlines() or [repr(error)])[0]
        raise Mistake(
            f"--model.weights={str(path)!r} cannot be read as weights ({reason}), so training would start from "
            "nothing; give a state dict saved by torch.save, or a checkpoint of a run."
        ) from error
    if not any(True for _ in _state_dicts(content)):
        raise Mistake(
            f"--model.weights={str(path)!r} holds no names with tensors, so training would start from nothing; "
            "give a state dict saved by torch.save, or a checkpoint of a run."
        )
    return content
