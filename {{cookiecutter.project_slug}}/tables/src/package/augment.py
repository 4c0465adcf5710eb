"""Augmentation of rows, a batch at a time on the device. The model calls it in training alone; each is off at 0.

What is drawn follows from the seed, the epoch and the batch, so a run that goes on draws the same. Shapes: N rows,
F columns.
"""

import torch
from torch import Tensor

from .engine.encoding import Encoded


def swapped(x_NF: Tensor, share: float) -> Tensor:
    """Give a share of the cells the value that another row of the batch has there (swap noise; Jahrer 2017).

    Args:
        x_NF: Raw rows.
        share: The probability of each cell.
    """
    if not share:
        return x_NF
    others_NF = torch.randint(len(x_NF), x_NF.shape, device=x_NF.device)
    is_swapped_NF = torch.rand(x_NF.shape, device=x_NF.device) < share
    return torch.where(is_swapped_NF, x_NF.gather(0, others_NF), x_NF)


def without_columns(x_NF: Tensor, numbers: int, share: float) -> Tensor:
    """Hide a share of the cells: numbers are missing then, categories unknown (column dropout).

    Args:
        x_NF: Raw rows.
        numbers: How many of the columns, the first ones, are numbers.
        share: The probability of each cell.
    """
    if not share:
        return x_NF
    hidden_F = torch.zeros(x_NF.shape[1], device=x_NF.device)
    hidden_F[:numbers] = torch.nan
    is_hidden_NF = torch.rand(x_NF.shape, device=x_NF.device) < share
    return torch.where(is_hidden_NF, hidden_F, x_NF)


def noisy(encoded: Encoded, deviation: float) -> Encoded:
    """Add Gaussian noise to the scaled numbers."""
    if not deviation:
        return encoded
    noise_NF = torch.randn_like(encoded.numbers_NF) * deviation
    return encoded._replace(numbers_NF=encoded.numbers_NF + noise_NF)


def mixed(encoded: Encoded, target: Tensor, alpha: float) -> tuple[Encoded, Tensor]:
    """Mix each row with another of the batch, and its target as well (MixUp; Zhang et al. 2018).

    Numbers, flags and targets are interpolated; of a category with a code the row keeps its own with the probability
    of its share, for there is nothing between two codes.

    Args:
        encoded: Rows.
        target: Their targets: shares of classes or labels, (N, K), or standardised numbers, (N, T).
        alpha: α of the Beta distribution of the share, one for the batch.
    """
    if not alpha:
        return encoded, target
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    numbers_NF, flags_NG, codes_NC = encoded
    is_kept_NC = torch.rand(codes_NC.shape, device=codes_NC.device) < share
    rows = Encoded(
        torch.lerp(numbers_NF.roll(1, 0), numbers_NF, share),
        torch.lerp(flags_NG.roll(1, 0), flags_NG, share),
        torch.where(is_kept_NC, codes_NC, codes_NC.roll(1, 0)),
    )
    return rows, torch.lerp(target.roll(1, 0), target, share)
