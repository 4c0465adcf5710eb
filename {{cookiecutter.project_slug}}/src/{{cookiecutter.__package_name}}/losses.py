"""Losses for hard targets (N,) and soft targets (N, K), with class weights.

A loss returns one value per sample, already weighted; the model divides their sum by the sum of target × weight over
all devices, so that a weighted mean is the same on one device and on eight. To add one, subclass Loss and write
``forward``; ``--model.loss NAME`` then knows it.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Loss(nn.Module):
    """What a loss of N samples over K classes starts from.

    Args:
        class_weights_K: The weight of each class; ones where classes are not weighted.
    """

    class_weights_K: Tensor

    def __init__(self, class_weights_K: Tensor) -> None:
        super().__init__()
        self.register_buffer("class_weights_K", class_weights_K)

    def soft(self, target: Tensor) -> Tensor:
        """Return the target as probabilities (N, K)."""
        if target.ndim == 2:
            return target
        return F.one_hot(target, len(self.class_weights_K)).to(self.class_weights_K.dtype)

    def normaliser(self, target: Tensor) -> Tensor:
        """Return the weight of the samples: Σ target × class weight."""
        weights = self.class_weights_K[target] if target.ndim == 1 else target @ self.class_weights_K
        return weights.sum()

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss of each sample, (N,)."""
        raise NotImplementedError


LossFactory = Callable[[Tensor], Loss]


class CrossEntropy(Loss):
    """Cross entropy: −Σ_k w_k t_k log p_k.

    Args:
        class_weights_K: The weight of each class.
        label_smoothing: The share ε of the target that is spread over all classes (Szegedy et al. 2016).
    """

    def __init__(self, class_weights_K: Tensor, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights_K)
        self.label_smoothing = label_smoothing

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_NK, target, self.class_weights_K, reduction="none", label_smoothing=self.label_smoothing
        )
