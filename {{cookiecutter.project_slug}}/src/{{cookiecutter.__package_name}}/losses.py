"""Losses: for classes, for several labels, for numbers, in this order.

A loss of classes or labels returns one value per sample, already weighted; the model divides their sum by the sum of
``weights`` over all devices, so that a weighted mean is the same on one device and on eight. To add one, subclass Loss
and write ``forward``; ``--model.loss NAME`` then knows it. A loss that needs more than logits and targets (which sample
it is, say) takes another argument here, which model.py hands over. A loss of numbers is any module that returns a value
for each element. Shapes: N samples, K classes or labels, T numbers.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine.mistakes import require


class Loss(nn.Module):
    """What a loss of N samples over K classes or labels starts from.

    Targets are classes (N,), or the share of each class (N, K), as MixUp makes it. With several labels they are (N, K),
    1 for each label that a sample has, and each label is decided on its own by a sigmoid.

    Args:
        class_weights_K: The weight of each class, or of the positive samples of each label; ones are no weights.
        class_prior_K: The share of each class or label in the training split.
    """

    needs_classes: ClassVar[bool] = False  # a loss that means nothing unless each sample has exactly one class
    needs_labels: ClassVar[bool] = False  # a loss that means nothing unless each label is decided on its own
    several_labels = False  # set by a model whose samples have several labels
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

    def weights(self, target: Tensor) -> Tensor:
        """Return the weight of each sample in a mean, (N,): Σ_k target × class weight, or 1 with several labels."""
        if self.several_labels:
            return self.class_weights_K.new_ones(len(target))
        return self.class_weights_K[target] if target.ndim == 1 else target @ self.class_weights_K

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss of each sample, (N,)."""
        raise NotImplementedError


LossFactory = Callable[[Tensor, Tensor], Loss]

# Of classes


class CrossEntropy(Loss):
    """Cross entropy: −Σ_k w_k t_k log p_k.

    Args:
        class_weights_K: The weight of each class.
        class_prior_K: Not used.
        label_smoothing: The share ε of the target that is spread over all classes (Szegedy et al. 2016).
    """

    needs_classes = True

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


class LogitAdjusted(Loss):
    """Cross entropy of logits + τ log(class prior), which trains for balanced error (Menon et al. 2021).

    Args:
        class_weights_K: The weight of each class.
        class_prior_K: The share of each class in the training split.
        tau: How far to adjust; 1 is the full prior.
    """

    needs_classes = True

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor, tau: float = 1.0) -> None:
        super().__init__(class_weights_K, class_prior_K)
        self.tau = tau

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        # Evaluation scores the plain logits: the adjustment belongs to the training loss alone.
        shift_K = self.tau * self.class_prior_K.log() if self.training else 0.0
        return F.cross_entropy(logits_NK + shift_K, target, self.class_weights_K, reduction="none")


# Of classes and of several labels


class BinaryCrossEntropy(Loss):
    """One binary cross entropy per class, summed: −Σ_k w_k [t_k log σ(z_k) + (1 − t_k) log(1 − σ(z_k))].

    The weight of a sample's term is that of the class the term is about. With several labels it is the mean over labels
    of −[w_k t_k log σ(z_k) + (1 − t_k) log(1 − σ(z_k))].
    """

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        if self.several_labels:
            return _of_labels(logits_NK, target, self.class_weights_K)
        terms_NK = F.binary_cross_entropy_with_logits(logits_NK, self.soft(target), reduction="none")
        return (self.class_weights_K * terms_NK).sum(1)


class Focal(Loss):
    """Focal loss: −Σ_k w_k t_k (1 − p_k)^γ log p_k (Lin et al. 2017); γ = 0 is cross entropy.

    With several labels it is the mean over labels of −[w_k t_k (1 − p_k)^γ log p_k + (1 − t_k) p_k^γ log(1 − p_k)] with
    p = σ(z).

    Args:
        class_weights_K: The weight of each class, or of the positive samples of each label.
        class_prior_K: Not used.
        gamma: How much less an easy sample counts.
    """

    def __init__(self, class_weights_K: Tensor, class_prior_K: Tensor, gamma: float = 2.0) -> None:
        super().__init__(class_weights_K, class_prior_K)
        require(gamma >= 0, "--model.loss.gamma", gamma, "x ≥ 0", "easy samples would count most")
        self.gamma = gamma

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        if self.several_labels:
            return _of_labels(logits_NK, target, self.class_weights_K, self.gamma, self.gamma)
        log_p_NK = logits_NK.log_softmax(1)
        # 1 − p from the other classes' logits would be exact near 1; −expm1(log p) is, at no cost.
        easiness_NK = _power(-log_p_NK.expm1(), self.gamma)
        return -(self.class_weights_K * self.soft(target) * easiness_NK * log_p_NK).sum(1)


# Of several labels


class Asymmetric(Loss):
    """Asymmetric loss for several labels of which few are there: the mean over labels of
    −[w_k t_k (1 − p_k)^γ₊ log p_k + (1 − t_k) q_k^γ₋ log(1 − q_k)] with p = σ(z), q = max(p − clip, 0).

    Ridnik et al. 2021; the defaults are those of its authors' experiments. It is a focal loss where both γ are equal
    and nothing is clipped.

    Args:
        class_weights_K: The weight of the positive samples of each label.
        class_prior_K: Not used.
        gamma_negative: How much less an easy sample without a label counts.
        gamma_positive: How much less an easy sample with a label counts.
        clip: The probability below which a sample without a label does not count at all.
    """

    needs_labels = True

    def __init__(
        self,
        class_weights_K: Tensor,
        class_prior_K: Tensor,
        gamma_negative: float = 4.0,
        gamma_positive: float = 0.0,
        clip: float = 0.05,
    ) -> None:
        super().__init__(class_weights_K, class_prior_K)
        worse = "easy samples would count most"
        require(gamma_negative >= 0, "--model.loss.gamma_negative", gamma_negative, "x ≥ 0", worse)
        require(gamma_positive >= 0, "--model.loss.gamma_positive", gamma_positive, "x ≥ 0", worse)
        require(0 <= clip < 1, "--model.loss.clip", clip, "0 ≤ x < 1", "it is no share")
        self.gamma_negative, self.gamma_positive, self.clip = gamma_negative, gamma_positive, clip

    def forward(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        weights_K, gammas = self.class_weights_K, (self.gamma_positive, self.gamma_negative)
        return _of_labels(logits_NK, target, weights_K, *gammas, self.clip)


def _of_labels(
    logits_NK: Tensor,
    target_NK: Tensor,
    weights_K: Tensor,
    gamma_positive: float = 0.0,
    gamma_negative: float = 0.0,
    clip: float = 0.0,
) -> Tensor:
    """Return the asymmetric loss (N,), of which the focal loss and binary cross entropy are special cases."""
    # In half precision a large logit times a weight would be infinite.
    logits_NK = logits_NK.to(torch.promote_types(logits_NK.dtype, torch.float32))
    p_NK, not_p_NK = logits_NK.sigmoid(), (-logits_NK).sigmoid()
    # The logarithm of a sigmoid has no gradient where the sigmoid is rounded to 0; logsigmoid has.
    log_not_q_NK = (not_p_NK + clip).clamp_max(1).log() if clip else F.logsigmoid(-logits_NK)
    positive_NK = weights_K * target_NK * _power(not_p_NK, gamma_positive) * F.logsigmoid(logits_NK)
    negative_NK = (1 - target_NK) * _power(p_NK - clip, gamma_negative) * log_not_q_NK
    return -(positive_NK + negative_NK).mean(1)


def _power(share: Tensor, gamma: float) -> Tensor:
    # The least value keeps the gradient of a power below 1 finite for a sample that is quite sure.
    return share.clamp_min(torch.finfo(share.dtype).tiny).pow(gamma)


# Of numbers: from (values_NT, target_NT), both in standard deviations of the training targets, to a value for each


class MSE(nn.Module):
    """The squared error; learns the mean."""

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        return (values_NT - target_NT).square()


class MAE(nn.Module):
    """The absolute error; learns the median, so outliers do not move it."""

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        return (values_NT - target_NT).abs()


class Huber(nn.Module):
    """Half the squared error up to δ, linear beyond it (Huber 1964): between MSE and MAE.

    Args:
        delta: Where it becomes linear, in standard deviations of the target.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        require(delta > 0, "--model.loss.delta", delta, "x > 0", "every error would be 0")
        self.delta = delta

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        return F.huber_loss(values_NT, target_NT, reduction="none", delta=self.delta)


class Quantile(nn.Module):
    """The pinball loss max(q e, (q − 1) e) of the error e = target − value; learns the quantile q (Koenker 1978).

    Args:
        q: The share of targets that lie below what is predicted; 0.5 is half of MAE.
    """

    def __init__(self, q: float = 0.5) -> None:
        super().__init__()
        require(0 < q < 1, "--model.loss.q", q, "0 < x < 1", "the prediction would run away from all targets")
        self.q = q

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        error_NT = target_NT - values_NT
        return torch.maximum(self.q * error_NT, (self.q - 1) * error_NT)


NumberLossFactory = Callable[[], nn.Module]
