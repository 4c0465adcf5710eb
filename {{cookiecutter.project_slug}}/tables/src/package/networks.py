"""Networks for tables: an MLP, a ResNet, and TabM, which is an ensemble of MLPs in one.

A network is any ``nn.Module`` made with (inputs, outputs, *, options) that turns ``Encoded`` rows (engine/encoding.py)
into outputs, (N, K) or (N, T); one of several heads gives (N, H, K), and training and prediction take the mean over
them. To add one, write the class here, with an ``Embedding`` of its inputs in front; ``--model.network NAME`` and
``--model.network.OPTION`` then know it. Its last child module is the head, its children before are its stages: freeze,
unfreeze_every, layer_decay and backbone_lr_factor go by them, and a run with one of these prints them.

Shapes: N rows, F numbers, B bins, D components of an embedding, H heads, K classes or labels, T numbers to learn.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .engine.encoding import Encoded, Inputs

NetworkFactory = Callable[[Inputs, int], nn.Module]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]
Norm = Literal["batch", "layer", "none"]
NumberEmbedding = Literal["plain", "periodic", "piecewise"]
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "none": lambda _: nn.Identity(),
}
CATEGORY_WIDTH = 8  # components of the embedding of a category that has codes


def drawn(*shape: int, fan_in: int) -> nn.Parameter:
    """Draw weights as nn.Linear does, uniform within ±1/√fan_in."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Periodic(nn.Module):
    """Embeds each number by sines and cosines of learned frequencies, and a linear layer (Gorishniy et al. 2022, PLR).

    Args:
        count: Numbers of a row.
        width: Components of each embedding.
        frequencies: Sines of each number.
        scale: The deviation of the first frequencies: the larger it is, the finer is what training sees at once.
    """

    def __init__(self, count: int, width: int, frequencies: int = 48, scale: float = 0.05) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, frequencies), 0, scale))
        self.weight = drawn(count, 2 * frequencies, width, fan_in=2 * frequencies)
        self.bias = drawn(count * width, fan_in=2 * frequencies)  # a vector, so that weight decay leaves it alone

    def forward(self, x_NF: Tensor) -> Tensor:
        angles_NFB = 2 * math.pi * self.frequencies * x_NF.unsqueeze(2)
        waves_NFB = torch.cat([angles_NFB.cos(), angles_NFB.sin()], 2)
        return (torch.einsum("nfb,fbd->nfd", waves_NFB, self.weight).flatten(1) + self.bias).relu()


class Piecewise(nn.Module):
    """Embeds each number by a learned line that bends at quantiles of the training rows.

    A piecewise-linear encoding (Gorishniy et al. 2022): bin b gives how far a number has come through it, 0 to 1. The
    bends are 0 at first, as in TabM (Gorishniy et al. 2025, version B), so that training starts with straight lines.

    Args:
        count: Numbers of a row.
        width: Components of each embedding.
        bins: The most bins of a number; ties leave fewer.
        seen_NF: Scaled numbers of training rows; None where the edges come from a checkpoint.
    """

    edges_FB: Tensor
    steepness_FB: Tensor

    def __init__(self, count: int, width: int, bins: int, seen_NF: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("edges_FB", torch.zeros(count, bins))
        self.register_buffer("steepness_FB", torch.zeros(count, bins))  # 0 of a bin that is not there
        self.slope = drawn(count * width, fan_in=width)
        self.bias = drawn(count * width, fan_in=width)
        self.bends = nn.Parameter(torch.zeros(count, bins, width))
        for column, seen_N in enumerate([] if seen_NF is None else seen_NF.T):
            edges = seen_N.double().quantile(torch.linspace(0, 1, bins + 1).double()).unique()
            self.edges_FB[column, : len(edges) - 1] = edges[:-1]
            self.steepness_FB[column, : len(edges) - 1] = 1 / edges.diff()

    def forward(self, x_NF: Tensor) -> Tensor:
        x_NF1 = x_NF.unsqueeze(2)
        done_NFB = ((x_NF1 - self.edges_FB) * self.steepness_FB).clamp(0, 1)
        bent_ND = torch.einsum("nfb,fbd->nfd", done_NFB, self.bends).flatten(1)
        line_NFD = x_NF1 * self.slope.view(x_NF.shape[1], -1)
        return line_NFD.flatten(1) + self.bias + bent_ND


def category_embedding(size: int) -> nn.Embedding:
    """Make the embedding of a category column; that of an unknown value, which no training row has, starts as 0."""
    weight = drawn(size, CATEGORY_WIDTH, fan_in=CATEGORY_WIDTH).detach()
    weight[0] = 0
    return nn.Embedding.from_pretrained(weight, freeze=False)


class Embedding(nn.Module):
    """Turns encoded rows into one vector each: the numbers, embedded or not, the flags, and categories' embeddings.

    ``widths`` has the components of each input, and ``features`` is their sum.

    Args:
        inputs: What a row has.
        numbers: How numbers are embedded: plain leaves them, periodic and piecewise see classes above.
        width: Components of the embedding of a number.
        bins: Bins of piecewise.
    """

    def __init__(self, inputs: Inputs, numbers: NumberEmbedding = "piecewise", width: int = 16, bins: int = 32) -> None:
        super().__init__()
        count = inputs.numbers
        if numbers == "plain" or not count:
            self.numbers, width = nn.Identity(), 1
        elif numbers == "periodic":
            self.numbers = Periodic(count, width)
        else:
            self.numbers = Piecewise(count, width, bins, inputs.seen_NF)
        self.categories = nn.ModuleList(category_embedding(size) for size in inputs.categories)
        self.widths = [width] * count + [1] * inputs.flags + [CATEGORY_WIDTH] * len(inputs.categories)
        self.features = sum(self.widths)

    def forward(self, encoded: Encoded) -> Tensor:
        categories = [embed(encoded.categories_NC[:, place]) for place, embed in enumerate(self.categories)]
        return torch.cat([self.numbers(encoded.numbers_NF), encoded.flags_NG, *categories], 1)


class MLP(nn.Module):
    """Fully connected layers.

    Args:
        inputs: What a row has.
        outputs: Number of outputs.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        dropout: Share of the units that training drops after each hidden layer; null for none.
        activation: The nonlinearity.
        norm: The normalisation before it.
        numbers: How numbers are embedded: not at all, by periodic functions, or by piecewise linear ones.
        embedding: Components of the embedding of each number.
        bins: Pieces of a piecewise linear function, at quantiles of the training rows.
    """

    def __init__(
        self,
        inputs: Inputs,
        outputs: int,
        width: int = 256,
        depth: int = 3,
        dropout: float | None = None,
        activation: Activation = "relu",
        norm: Norm = "none",
        numbers: NumberEmbedding = "piecewise",
        embedding: int = 16,
        bins: int = 32,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.embedding = Embedding(inputs, numbers, embedding, bins)
        self.features = nn.Sequential()
        units = self.embedding.features
        for _ in range(depth):
            parts = [NORMS[norm](width), ACTIVATIONS[activation](), nn.Dropout(dropout or 0.0)]
            self.features.append(nn.Sequential(nn.Linear(units, width), *parts))
            units = width
        self.head = nn.Linear(units, outputs)

    def forward(self, encoded: Encoded) -> Tensor:
        return self.head(self.features(self.embedding(encoded)))


class Residual(nn.Module):
    """A block of the ResNet: x + what its layers make of x."""

    def __init__(self, width: int, hidden: int, dropout: float, activation: Activation, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            NORMS[norm](width),
            nn.Linear(width, hidden),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND + self.layers(x_ND)


class ResNet(nn.Module):
    """Residual blocks of fully connected layers (Gorishniy et al. 2021).

    Args:
        inputs: What a row has.
        outputs: Number of outputs.
        width: Units between blocks; within one there are twice as many.
        depth: Number of blocks.
        dropout: Share of the units that training drops within each block; null for none.
        activation: The nonlinearity.
        norm: The normalisation at the start of each block.
        numbers: How numbers are embedded: not at all, by periodic functions, or by piecewise linear ones.
        embedding: Components of the embedding of each number.
        bins: Pieces of a piecewise linear function, at quantiles of the training rows.
    """

    def __init__(
        self,
        inputs: Inputs,
        outputs: int,
        width: int = 192,
        depth: int = 3,
        dropout: float | None = None,
        activation: Activation = "relu",
        norm: Norm = "batch",
        numbers: NumberEmbedding = "piecewise",
        embedding: int = 16,
        bins: int = 32,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.embedding = Embedding(inputs, numbers, embedding, bins)
        self.first = nn.Linear(self.embedding.features, width)
        blocks = [Residual(width, 2 * width, dropout or 0.0, activation, norm) for _ in range(depth)]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(NORMS[norm](width), ACTIVATIONS[activation](), nn.Linear(width, outputs))

    def forward(self, encoded: Encoded) -> Tensor:
        return self.head(self.features(self.first(self.embedding(encoded))))


class SharedLinear(nn.Linear):
    """One linear layer for several networks, each with scales of its inputs and outputs and a bias (BatchEnsemble).

    Wen et al. 2020; what is drawn is drawn as in TabM: scales are 1 and the biases of all heads the same at first.

    Args:
        inputs: Components of an input.
        outputs: Components of an output.
        heads: The number of networks.
    """

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.scale_in = nn.Parameter(torch.ones(heads, inputs))
        self.scale_out = nn.Parameter(torch.ones(heads, outputs))
        self.shifts = nn.Parameter(drawn(outputs, fan_in=inputs).detach().repeat(heads))  # a vector: never decayed

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * self.scale_in) * self.scale_out + self.shifts.view(self.scale_out.shape)


class Heads(nn.Linear):
    """A linear layer of its own for each of several networks: (N, H, D) → (N, H, outputs).

    Args:
        inputs: Components of an input.
        outputs: Components of an output.
        heads: The number of networks.
    """

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__(inputs, heads * outputs)
        self.heads = heads

    def forward(self, input: Tensor) -> Tensor:
        weight_HKD = self.weight.view(self.heads, -1, self.in_features)
        return torch.einsum("nhd,hkd->nhk", input, weight_HKD) + self.bias.view(self.heads, -1)


class TabM(nn.Module):
    """An ensemble of MLPs that share their weights and have scales and biases of their own (Gorishniy et al. 2025).

    Gives (N, H, outputs): the loss and the prediction are means over the heads.

    Args:
        inputs: What a row has.
        outputs: Number of outputs.
        heads: Number of MLPs; the time of a step grows with it.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        dropout: Share of the units that training drops after each hidden layer; null for none.
        activation: The nonlinearity.
        numbers: How numbers are embedded: not at all, by periodic functions, or by piecewise linear ones.
        embedding: Components of the embedding of each number.
        bins: Pieces of a piecewise linear function, at quantiles of the training rows.
    """

    def __init__(
        self,
        inputs: Inputs,
        outputs: int,
        heads: int = 32,
        width: int = 256,
        depth: int = 3,
        dropout: float | None = None,
        activation: Activation = "relu",
        numbers: NumberEmbedding = "piecewise",
        embedding: int = 16,
        bins: int = 32,
    ) -> None:
        super().__init__()
        self.activation, self.heads = activation, heads
        self.embedding = Embedding(inputs, numbers, embedding, bins)
        self.features = nn.Sequential()
        units = self.embedding.features
        for number in range(depth):
            layer = SharedLinear(units, width, heads)
            if number == 0:  # what makes the heads differ
                layer.scale_in = nn.Parameter(self.first_signs())
            self.features.append(nn.Sequential(layer, ACTIVATIONS[activation](), nn.Dropout(dropout or 0.0)))
            units = width
        self.head = Heads(units, outputs, heads)

    def forward(self, encoded: Encoded) -> Tensor:
        x_NHD = self.embedding(encoded).unsqueeze(1).expand(-1, self.heads, -1)
        return self.head(self.features(x_NHD))

    def first_signs(self) -> Tensor:
        """Draw a sign for each input in each head, the same for all components of its embedding; (H, D)."""
        signs_HF = torch.randint(2, (self.heads, len(self.embedding.widths))) * 2.0 - 1
        return signs_HF.repeat_interleave(torch.tensor(self.embedding.widths), 1)
