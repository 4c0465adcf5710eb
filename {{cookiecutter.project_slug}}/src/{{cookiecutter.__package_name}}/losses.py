"""Losses for hard targets (N,) and soft targets (N, K), with class weights.

A loss returns one value per sample, already weighted; the model divides their sum by the sum of target × weight over
all devices, so that a weighted mean is the same on one device and on eight. To add one, subclass Loss and write
``forward``; ``--model.loss NAME`` then knows it. A loss that needs more than logits and targets (which sample it is,
say) takes another argument here, which model.py hands over. Shapes: N samples, K classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine.mistakes import require


class Loss(nn.Module):
    """What a loss of N samples over K classes starts from.

    Args:
        class_weights_K: The weight of each class; ones where classes are not weighted.
        class_prior_K: The share of each class in the training split.
    """

    class_weights_K: Tensor
    class_prior_K: Tensor

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor) -> None:
        super().__init__()
        self.register_buffer("class_weights_K", class_weights_K)
        self.register_buffer("class_prior_K", class_prior_K)
        # Whether two batches of one size may differ in weight, so that ranks must add theirs up.
        self.weighted = bool((class_weights_K != 1).any())

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


LossFactory = Callable[[Tensor, Tensor], Loss]


class CrossEntropy(Loss):
    """Cross entropy: −Σ_k w_k t_k log p_k.

    Args:
        class_weights_K: The weight of each class.
        class_prior_K: Not used.
        label_smoothing: The share ε of the target that is spread over all classes (Szegedy et al. 2016).
    """

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights_K, class_prior_K)
        require(
            0 <= label_smoothing < 1, "--model.loss.label_smoothing", label_smoothing, "0 ≤ x < 1", "it is no share"
        )
        self.label_smoothing = label_smoothing

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits_NK, target, self.class_weights_K, reduction="none", label_smoothing=self.label_smoothing
        )


class Focal(Loss):
    """Focal loss: −Σ_k w_k t_k (1 − p_k)^γ log p_k (Lin et al. 2017); γ = 0 is cross entropy.

    Args:
        class_weights_K: The weight of each class.
        class_prior_K: Not used.
        gamma: How much less an easy sample counts.
    """

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor, gamma: float = 2.0) -> None:
        super().__init__(class_weights_K, class_prior_K)
        require(gamma >= 0, "--model.loss.gamma", gamma, "x ≥ 0", "easy samples would count most")
        self.gamma = gamma

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        log_p_NK = logits_NK.log_softmax(1)
        # 1 − p from the other classes' logits would be exact near 1; −expm1(log p) is, at no cost.
        # The least value keeps the gradient of a power below 1 finite for a sample that is quite sure.
        easiness_NK = (-log_p_NK.expm1()).clamp_min(torch.finfo(log_p_NK.dtype).tiny).pow(self.gamma)
        return -(self.class_weights_K * self.soft(target) * easiness_NK * log_p_NK).sum(1)


class LogitAdjusted(Loss):
    """Cross entropy of logits + τ log(class prior), which trains for balanced error (Menon et al. 2021).

    Args:
        class_weights_K: The weight of each class.
        class_prior_K: The share of each class in the training split.
        tau: How far to adjust; 1 is the full prior.
    """

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor, tau: float = 1.0) -> None:
        super().__init__(class_weights_K, class_prior_K)
        self.tau = tau

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        # Evaluation scores the plain logits: the adjustment belongs to the training loss alone.
        shift_K = self.tau * self.class_prior_K.log() if self.training else 0.0
        return F.cross_entropy(logits_NK + shift_K, target, self.class_weights_K, reduction="none")


class BinaryCrossEntropy(Loss):
    """One binary cross entropy per class, summed: −Σ_k w_k [t_k log σ(z_k) + (1 − t_k) log(1 − σ(z_k))].

    The weight of a sample's term is that of the class the term is about.
    """

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        terms_NK = F.binary_cross_entropy_with_logits(logits_NK, self.soft(target), reduction="none")
        return (self.class_weights_K * terms_NK).sum(1)
