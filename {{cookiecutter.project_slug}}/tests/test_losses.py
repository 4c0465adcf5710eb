"""Losses equal their formulas, in float64, for hard and soft targets, with and without class weights."""

import pytest
import torch
from torch import nn

from project_package.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    LogitAdjusted,
)

N, K = 7, 4
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, K, generator=GENERATOR, dtype=torch.float64) * 3
HARD = torch.randint(K, (N,), generator=GENERATOR)
SOFT = torch.rand(N, K, generator=GENERATOR, dtype=torch.float64).softmax(1)
ONE_HOT = torch.eye(K, dtype=torch.float64)[HARD]
EVEN = torch.ones(K, dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
EACH = pytest.mark.parametrize("weights", [EVEN, WEIGHTS], ids=["even", "weighted"])
TARGETS = pytest.mark.parametrize(("target", "t_NK"), [(HARD, ONE_HOT), (SOFT, SOFT)], ids=["hard", "soft"])


def test_the_targets_are_as_meant():
    assert torch.equal(CrossEntropy(EVEN, PRIOR).soft(HARD), ONE_HOT)
    assert torch.allclose(SOFT.sum(1), torch.ones(N, dtype=torch.float64))


@EACH
@TARGETS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(weights, target, t_NK, smoothing):
    smooth_NK = (1 - smoothing) * t_NK + smoothing / K
    expected = -(weights * smooth_NK * LOGITS.log_softmax(1)).sum(1)
    assert torch.allclose(CrossEntropy(weights, PRIOR, smoothing)(LOGITS, target), expected, atol=1e-12)


@EACH
@TARGETS
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal(weights, target, t_NK, gamma):
    p_NK = LOGITS.softmax(1)
    expected = -(weights * t_NK * (1 - p_NK) ** gamma * p_NK.log()).sum(1)
    assert torch.allclose(Focal(weights, PRIOR, gamma)(LOGITS, target), expected, atol=1e-12)


def test_focal_has_a_finite_gradient_where_a_sample_is_quite_sure():
    logits = torch.tensor([[200.0, 0.0]], dtype=torch.float64, requires_grad=True)
    even = torch.ones(2, dtype=torch.float64)
    Focal(even, even / 2, gamma=0.5)(logits, torch.tensor([0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


@EACH
@TARGETS
def test_focal_without_gamma_is_cross_entropy(weights, target, t_NK):
    focal, cross_entropy = Focal(weights, PRIOR, 0.0), CrossEntropy(weights, PRIOR)
    assert torch.allclose(focal(LOGITS, target), cross_entropy(LOGITS, target), atol=1e-12)


@EACH
@TARGETS
def test_logit_adjustment_shifts_training_alone(weights, target, t_NK):
    loss = LogitAdjusted(weights, PRIOR, tau=0.7)
    shifted = -(weights * t_NK * (LOGITS + 0.7 * PRIOR.log()).log_softmax(1)).sum(1)
    plain = -(weights * t_NK * LOGITS.log_softmax(1)).sum(1)
    assert torch.allclose(loss(LOGITS, target), shifted, atol=1e-12)
    assert torch.allclose(loss.eval()(LOGITS, target), plain, atol=1e-12)


@EACH
@TARGETS
def test_binary_cross_entropy(weights, target, t_NK):
    p_NK = LOGITS.sigmoid()
    expected = -(weights * (t_NK * p_NK.log() + (1 - t_NK) * (1 - p_NK).log())).sum(1)
    assert torch.allclose(BinaryCrossEntropy(weights, PRIOR)(LOGITS, target), expected, atol=1e-12)


@TARGETS
def test_the_normaliser_is_the_weight_of_the_targets(target, t_NK):
    assert CrossEntropy(WEIGHTS, PRIOR).normaliser(target).item() == pytest.approx((t_NK * WEIGHTS).sum().item())


def test_a_weighted_mean_is_that_of_torch():
    loss = CrossEntropy(WEIGHTS, PRIOR)
    ours = loss(LOGITS, HARD).sum() / loss.normaliser(HARD)
    assert ours.item() == pytest.approx(nn.CrossEntropyLoss(WEIGHTS)(LOGITS, HARD).item())


def test_class_weights_and_oversampling_agree_in_expectation():
    """On a convex toy, the gradient of the weighted loss is the mean gradient of balanced draws."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    x = torch.randn(100, 3, generator=GENERATOR, dtype=torch.float64) + labels[:, None]
    line = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    counts = torch.bincount(labels)
    weights = 100 / (2 * counts.double())
    loss = CrossEntropy(weights, counts / 100)
    (weighted,) = torch.autograd.grad(loss(x @ line, labels).sum() / loss.normaliser(labels), line)
    drawn = torch.multinomial((1 / counts)[labels], 200_000, replacement=True, generator=GENERATOR)
    plain = CrossEntropy(torch.ones(2, dtype=torch.float64), counts / 100)
    (balanced,) = torch.autograd.grad(plain(x[drawn] @ line, labels[drawn]).mean(), line)
    assert torch.allclose(weighted, balanced, atol=0.01)
    (uneven,) = torch.autograd.grad(plain(x @ line, labels).mean(), line)
    assert not torch.allclose(weighted, uneven, atol=0.1)


@pytest.mark.parametrize(("loss", "option"), [(CrossEntropy, 1.0), (Focal, -1.0)])
def test_a_value_out_of_range_says_the_range(loss, option):
    with pytest.raises(ValueError, match="give"):
        loss(EVEN, PRIOR, option)
