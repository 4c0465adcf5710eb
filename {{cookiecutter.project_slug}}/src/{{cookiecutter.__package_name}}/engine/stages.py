"""The parts of a network from its input to its head: what is frozen together and has one rate."""

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def names_of(network: nn.Module, parts: list[nn.Module]) -> list[str]:
    """Return the name that each part has in a network."""
    name_of = {id(module): name for name, module in network.named_modules()}
    return [name_of[id(part)] or "the whole network" for part in parts]


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
