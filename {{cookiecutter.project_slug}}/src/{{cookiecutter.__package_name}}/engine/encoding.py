"""How the columns of a table become what a network takes: scaled numbers, flags, and codes of categories.

A batch of a table is x_NF (float32): its numbers in the user's unit (NaN is missing), then a code for each category
column: 0 for a value that training has not seen, i + 1 for value i of the vocabulary. What is fitted is fitted on
training rows alone and lives in buffers, so that checkpoints and exports carry it.

Shapes: N rows, F columns (of the table, or of its numbers), G flags, C categories with codes, Q knots.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

FEW_VALUES = 8  # a category column with so many values gets a flag for each, one with more has codes
KNOTS = 256  # of a number's quantile map
FITTED_ROWS = 200_000  # of a longer table so many are drawn, always the same: what is fitted changes little with more
NETWORK_ROWS = 50_000  # and so many for what a network fits
SMOOTH_LIMIT = 3.0  # what robust scaling never exceeds
Scaling = Literal["robust", "quantile"]


@dataclass(frozen=True)
class Columns:
    """The columns that a network takes, in the order of a batch.

    Args:
        numbers: The names of the number columns.
        categories: The training vocabulary of each category column, sorted.
        missing: The number columns that have missing values in training.
    """

    numbers: list[str]
    categories: dict[str, list[str]]
    missing: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, a checkpoint or an export."""
        categories = [[name, list(values)] for name, values in self.categories.items()]
        return {"numbers": list(self.numbers), "categories": categories, "missing": list(self.missing)}

    @classmethod
    def from_inputs(cls, inputs: dict[str, Any]) -> "Columns":
        """Return the columns that ``as_dict`` described.

        Raises:
            KeyError, TypeError, ValueError: It describes none.
        """
        categories = {name: list(values) for name, values in inputs["categories"]}
        return cls(list(inputs["numbers"]), categories, list(inputs["missing"]))


class Encoded(NamedTuple):
    """Rows as a network takes them.

    ``numbers_NF`` are scaled, the median where one is missing. ``flags_NG`` are 0 or 1: whether a number is missing,
    then the values of categories that have few of them. ``categories_NC`` are the codes of the others, 0 for a value
    that training has not seen.
    """

    numbers_NF: Tensor
    flags_NG: Tensor
    categories_NC: Tensor


class Inputs(NamedTuple):
    """What a network is made for.

    ``numbers`` and ``flags`` are counts, ``categories`` the number of codes of each column that has them, the unknown
    included. ``seen_NF`` are scaled numbers of training rows, from which a network may fit; None where its weights
    come from a checkpoint.
    """

    numbers: int
    flags: int
    categories: tuple[int, ...]
    seen_NF: Tensor | None = None


class Quantiles(nn.Module):
    """Turns each number into the standard normal quantile of its rank among training rows.

    The map is linear between knots and constant beyond the first and the last. A knot is a value of a training row,
    its rank the middle of its ties. Where there are more distinct values than knots, those are taken that lie equally
    far apart in the result, at most 0.04.

    Args:
        columns: The number of columns.
    """

    knots_FQ: Tensor
    scores_FQ: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("knots_FQ", torch.zeros(columns, KNOTS))
        self.register_buffer("scores_FQ", torch.zeros(columns, KNOTS))

    def fit(self, column: int, values_N: np.ndarray) -> None:
        """Fit a column on its values of training rows (float32, sorted, none missing)."""
        knots, counts = np.unique(values_N, return_counts=True)
        ranks = (np.cumsum(counts) - counts / 2) / len(values_N)
        scores = torch.special.ndtri(torch.from_numpy(ranks)).numpy()
        if len(knots) > KNOTS:
            levels = np.linspace(scores[0], scores[-1], KNOTS)
            taken = np.unique(np.searchsorted(scores, levels).clip(max=len(knots) - 1))
            knots, scores = knots[taken], scores[taken]
        room = (0, KNOTS - len(knots))
        self.knots_FQ[column] = torch.from_numpy(np.pad(knots, room, "edge"))
        self.scores_FQ[column] = torch.from_numpy(np.pad(scores, room, "edge"))

    def forward(self, x_NF: Tensor) -> Tensor:
        x_FN = x_NF.T.contiguous()
        above_FN = self.knots_up_to(x_FN).clamp(1, KNOTS - 1)
        below_FN = above_FN - 1
        left_FN, right_FN = self.knots_FQ.gather(1, below_FN), self.knots_FQ.gather(1, above_FN)
        width_FN = (right_FN - left_FN).clamp_min(torch.finfo(torch.float32).tiny)  # the padding's is 0
        share_FN = ((x_FN - left_FN) / width_FN).clamp(0, 1)
        low_FN, high_FN = self.scores_FQ.gather(1, below_FN), self.scores_FQ.gather(1, above_FN)
        return (low_FN + share_FN * (high_FN - low_FN)).T

    def knots_up_to(self, x_FN: Tensor) -> Tensor:
        """Count the knots of each column that are no larger than a value. ONNX has no search, so it compares all."""
        if torch.compiler.is_exporting():
            return (x_FN.unsqueeze(2) >= self.knots_FQ.unsqueeze(1)).sum(2)
        return torch.searchsorted(self.knots_FQ, x_FN, right=True)


class Robust(nn.Module):
    """Centres each number at the median, divides it by the interquartile range and bends large ones smoothly to ±3.

    z ↦ z / √(1 + (z / 3)²), as RealMLP does (Holzmüller et al. 2024). Where the quartiles are the same, half the whole
    range takes the place of theirs.

    Args:
        columns: The number of columns.
    """

    centre_F: Tensor
    factor_F: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("centre_F", torch.zeros(columns))
        self.register_buffer("factor_F", torch.zeros(columns))

    def fit(self, column: int, values_N: np.ndarray) -> None:
        """Fit a column on its values of training rows (float32, sorted, none missing)."""
        low, centre, high = np.quantile(values_N.astype(np.float64), [0.25, 0.5, 0.75])
        half = (float(values_N[-1]) - float(values_N[0])) / 2
        self.centre_F[column] = float(centre)
        self.factor_F[column] = min(1 / (high - low or half or np.inf), 1e30)  # a constant column becomes 0

    def forward(self, x_NF: Tensor) -> Tensor:
        z_NF = ((x_NF - self.centre_F) * self.factor_F).clamp(-1e6, 1e6)  # the square of more can overflow
        return z_NF / (1 + (z_NF / SMOOTH_LIMIT).square()).sqrt()


SCALINGS: dict[str, type[Quantiles | Robust]] = {"quantile": Quantiles, "robust": Robust}


class Encoding(nn.Module):
    """Turns raw rows of a table into what a network takes.

    Missing numbers become the median of training rows; those of ``columns.missing`` are flagged. The shapes of the
    buffers follow from ``columns`` alone, so that an encoding made without rows can load them.

    Args:
        columns: The columns.
        scaling: How numbers are scaled: robust or quantile.
        seen_NF: Raw training rows, as a batch has them; None where the buffers come from a checkpoint.
    """

    median_F: Tensor
    missing_G: Tensor
    flag_column_G: Tensor
    flag_code_G: Tensor
    coded_C: Tensor

    def __init__(self, columns: Columns, scaling: Scaling = "robust", seen_NF: Tensor | None = None) -> None:
        super().__init__()
        self.numbers = len(columns.numbers)
        sizes = [len(values) for values in columns.categories.values()]
        flags = [(index, code + 1) for index, size in enumerate(sizes) if size <= FEW_VALUES for code in range(size)]
        coded = [index for index, size in enumerate(sizes) if size > FEW_VALUES]
        self.sizes = tuple(sizes[index] + 1 for index in coded)
        places = {
            "missing_G": [columns.numbers.index(name) for name in columns.missing],
            "flag_column_G": [index for index, _ in flags],
            "flag_code_G": [code for _, code in flags],
            "coded_C": coded,
        }
        for name, values in places.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        self.register_buffer("median_F", torch.zeros(self.numbers))
        self.scale = SCALINGS[scaling](self.numbers)
        if seen_NF is not None:
            for column, values_N in enumerate(_columns(seen_NF, self.numbers)):
                if len(values_N):
                    self.median_F[column] = float(np.median(values_N.astype(np.float64)))
                    self.scale.fit(column, values_N)

    def forward(self, x_NF: Tensor) -> Encoded:
        raw_NF = x_NF[:, : self.numbers]
        codes_NC = x_NF[:, self.numbers :].long()
        missing_NF = raw_NF.isnan()
        numbers_NF = self.scale(torch.where(missing_NF, self.median_F, raw_NF))
        is_missing_NG = missing_NF.index_select(1, self.missing_G)
        is_value_NG = codes_NC.index_select(1, self.flag_column_G) == self.flag_code_G
        flags_NG = torch.cat([is_missing_NG, is_value_NG], 1).to(numbers_NF.dtype)
        return Encoded(numbers_NF, flags_NG, codes_NC.index_select(1, self.coded_C))

    @torch.no_grad()
    def inputs(self, seen_NF: Tensor | None = None) -> Inputs:
        """Return what a network for these columns is made for.

        Args:
            seen_NF: Raw training rows, from which the network may fit; None where its weights come from a checkpoint.
        """
        flags = len(self.missing_G) + len(self.flag_code_G)
        scaled_NF = None if seen_NF is None else self(seen_NF[_drawn(len(seen_NF), NETWORK_ROWS)].float()).numbers_NF
        return Inputs(self.numbers, flags, self.sizes, scaled_NF)


def _drawn(rows: int, most: int) -> Tensor:
    """Return the positions of the rows that are fitted on: all of them, or always the same of many."""
    if rows <= most:
        return torch.arange(rows)
    return torch.from_numpy(np.sort(np.random.default_rng(0).choice(rows, most, replace=False)))


def _columns(seen_NF: Tensor, numbers: int) -> Iterator[np.ndarray]:
    """Yield the values of each number column that are not missing, sorted, in the precision of a batch."""
    drawn = _drawn(len(seen_NF), FITTED_ROWS)
    for column in range(numbers):
        values_N = seen_NF[:, column][drawn].float().numpy()
        yield np.sort(values_N[~np.isnan(values_N)])
