"""The parts of a network from its input to its head: what is frozen together and has one rate.

They follow from its modules. A network may say them itself, by methods:

- ``own_stages(fine: bool) -> list[nn.Module]``: from the input to the head; a stage of several modules, or of
  parameters that belong to none, is an ``nn.ModuleList`` of them and of an ``nn.ParameterList``.
- ``head_names() -> list[str]``: the layers that make the logits, and start afresh for other classes.
- ``no_weight_decay() -> set[str]``: the parameters, beside vectors, that weight decay leaves alone.
"""

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def names_of(network: nn.Module, parts: list[nn.Module]) -> list[str]:
    """Return the name that each part has in a network; of one that is put together, the names of what it holds."""
    name_of = {id(part): name for name, part in (*network.named_modules(), *network.named_parameters())}

    def name(part: nn.Module | nn.Parameter) -> str:
        if id(part) in name_of:
            return name_of[id(part)] or "the whole network"
        assert isinstance(part, nn.Module)
        held = [child for child in part.children() if any(True for _ in child.parameters())]
        return " + ".join(map(name, (*held, *part.parameters(recurse=False))))

    return [name(part) for part in parts]


def last_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the layer that makes the logits."""
    layers = [pair for pair in network.named_modules() if isinstance(pair[1], nn.Linear | nn.Conv2d)]
    if said := getattr(network, "head_names", None):
        within = tuple(f"{name}." for name in said())
        layers = [(name, layer) for name, layer in layers if f"{name}.".startswith(within)] or layers
    return layers[-1]


def heads(network: nn.Module) -> list[str]:
    """Return the names of the layers that make the logits: more than one where a network has several heads."""
    said = getattr(network, "head_names", None)
    return said() if said else [last_layer(network)[0]]


def stages(network: nn.Module, fine: bool = False) -> list[nn.Module]:
    """Part a network into consecutive modules, the head last: what is frozen together and has one rate.

    Unless it says its own, a part that holds more than nine tenths of the parameters is opened, as long as it has parts
    of its own.

    Args:
        network: What is parted.
        fine: Whether rates, of which a network may have more than parts that are frozen, are meant.
    """
    if said := getattr(network, "own_stages", None):
        return said(fine)

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
