"""Losses equal their formulas, in float64: of classes (hard, soft, weighted), of several labels, of numbers."""

import pytest
import torch
from sklearn.metrics import mean_pinball_loss
from torch import nn

from project_package.engine.mistakes import Mistake
from project_package.engine.per_sample import PerSample
from project_package.losses import (
    MAE,
    MSE,
    Asymmetric,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Huber,
    LogitAdjusted,
    Quantile,
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
def test_the_weights_of_samples_are_those_of_their_targets(target, t_NK):
    assert torch.allclose(CrossEntropy(WEIGHTS, PRIOR).weights(target), (t_NK * WEIGHTS).sum(1))


def test_a_weighted_mean_is_that_of_torch():
    loss = CrossEntropy(WEIGHTS, PRIOR)
    ours = loss(LOGITS, HARD).sum() / loss.weights(HARD).sum()
    assert ours.item() == pytest.approx(nn.CrossEntropyLoss(WEIGHTS)(LOGITS, HARD).item())


def test_class_weights_and_oversampling_agree_in_expectation():
    """On a convex toy, the gradient of the weighted loss is the mean gradient of balanced draws."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    x = torch.randn(100, 3, generator=GENERATOR, dtype=torch.float64) + labels[:, None]
    line = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    counts = torch.bincount(labels)
    weights = 100 / (2 * counts.double())
    loss = CrossEntropy(weights, counts / 100)
    (weighted,) = torch.autograd.grad(loss(x @ line, labels).sum() / loss.weights(labels).sum(), line)
    drawn = torch.multinomial((1 / counts)[labels], 200_000, replacement=True, generator=GENERATOR)
    plain = CrossEntropy(torch.ones(2, dtype=torch.float64), counts / 100)
    (balanced,) = torch.autograd.grad(plain(x[drawn] @ line, labels[drawn]).mean(), line)
    assert torch.allclose(weighted, balanced, atol=0.01)
    (uneven,) = torch.autograd.grad(plain(x @ line, labels).mean(), line)
    assert not torch.allclose(weighted, uneven, atol=0.1)


@pytest.mark.parametrize(
    ("loss", "option"),
    [(CrossEntropy, {"label_smoothing": 1.0}), (Focal, {"gamma": -1.0}), (Asymmetric, {"clip": 1.0})],
)
def test_a_value_out_of_range_says_the_range(loss, option):
    with pytest.raises(Mistake, match="give"):
        loss(EVEN, PRIOR, **option)


# Several labels: targets are 0 and 1 for each label, or, mixed, between them

LABELS = torch.randint(2, (N, K), generator=GENERATOR).double()
MIXED = torch.rand(N, K, generator=GENERATOR, dtype=torch.float64)
OF_LABELS = pytest.mark.parametrize("t_NK", [LABELS, MIXED], ids=["labels", "mixed"])


def of_labels(loss, *args, **options):
    """Make a loss as a model does whose samples have several labels."""
    made = loss(*args, **options)
    made.several_labels = True
    return made


def asymmetric(t_NK, weights, gamma_positive, gamma_negative, clip):
    """Ridnik et al. 2021, equations 1, 4 and 5, with a weight of the positive samples."""
    p = LOGITS.sigmoid()
    shifted = (p - clip).clamp(min=0)
    positive = (1 - p) ** gamma_positive * p.log()
    negative = shifted**gamma_negative * (1 - shifted).log()
    return -(weights * t_NK * positive + (1 - t_NK) * negative).mean(1)


@EACH
@OF_LABELS
def test_binary_cross_entropy_of_labels_is_torchs_with_positive_weights(weights, t_NK):
    expected = nn.BCEWithLogitsLoss(reduction="none", pos_weight=weights)(LOGITS, t_NK).mean(1)
    assert torch.allclose(of_labels(BinaryCrossEntropy, weights, PRIOR)(LOGITS, t_NK), expected, atol=1e-12)


@EACH
@OF_LABELS
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_labels(weights, t_NK, gamma):
    found = of_labels(Focal, weights, PRIOR, gamma)(LOGITS, t_NK)
    assert torch.allclose(found, asymmetric(t_NK, weights, gamma, gamma, 0.0), atol=1e-12)


def test_focal_loss_of_labels_is_torchvisions():
    sigmoid_focal_loss = pytest.importorskip("torchvision.ops").sigmoid_focal_loss  # projects of tables have none
    expected = sigmoid_focal_loss(LOGITS, LABELS, alpha=-1, gamma=2.0).mean(1)
    assert torch.allclose(of_labels(Focal, EVEN, PRIOR)(LOGITS, LABELS), expected, atol=1e-12)


@EACH
@OF_LABELS
@pytest.mark.parametrize("options", [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 0.5, 0.0), (0.0, 0.0, 0.3)])
def test_asymmetric_loss(weights, t_NK, options):
    gamma_negative, gamma_positive, clip = options
    found = of_labels(Asymmetric, weights, PRIOR, *options)(LOGITS, t_NK)
    assert torch.allclose(found, asymmetric(t_NK, weights, gamma_positive, gamma_negative, clip), atol=1e-12)


def test_an_easy_sample_without_a_label_does_not_count():
    logits = torch.tensor([[-4.0]], requires_grad=True)  # a probability of 0.018
    loss = of_labels(Asymmetric, torch.ones(1), torch.ones(1))(logits, torch.zeros(1, 1))
    loss.sum().backward()
    assert (loss.item(), logits.grad.item()) == (0.0, 0.0)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, Focal, Asymmetric])
def test_samples_with_several_labels_weigh_the_same(loss):
    assert torch.equal(of_labels(loss, WEIGHTS, PRIOR).weights(LABELS), torch.ones(N, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"gamma": 0.5}, {"gamma_positive": 0.5, "clip": 0.0}, {"clip": 0.05}], ids=str)
def test_labels_at_extreme_logits_have_finite_losses_and_gradients(options, dtype):
    kind = Asymmetric if "clip" in options else Focal if options else BinaryCrossEntropy
    largest = min(torch.finfo(dtype).max, 1e5)
    logits = torch.tensor([[largest, -largest], [largest, -largest], [0.0, 100.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    loss = of_labels(kind, torch.tensor([4.0, 4.0]), torch.ones(2) / 2, **options)(logits, target)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] != 0).any()  # what is quite wrong is still learned from


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, Focal])
def test_a_wrong_label_has_a_gradient_however_sure_the_network_is(loss):
    logits = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    of_labels(loss, torch.ones(1), torch.ones(1))(logits, torch.tensor([[0.0], [1.0]])).sum().backward()
    assert torch.allclose(logits.grad, torch.tensor([[1.0], [-1.0]]))


# Numbers

VALUES = torch.randn(N, 2, generator=GENERATOR, dtype=torch.float64) * 2
NUMBERS = torch.randn(N, 2, generator=GENERATOR, dtype=torch.float64)
ERRORS = VALUES - NUMBERS


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MSE(), ERRORS**2),
        (MAE(), ERRORS.abs()),
        (Huber(), nn.HuberLoss(reduction="none")(VALUES, NUMBERS)),
        (Huber(0.3), nn.HuberLoss(reduction="none", delta=0.3)(VALUES, NUMBERS)),
        (Huber(1e9), ERRORS**2 / 2),
        (Quantile(), ERRORS.abs() / 2),
        (Quantile(0.9), torch.where(ERRORS < 0, -0.9 * ERRORS, 0.1 * ERRORS)),
    ],
    ids=["mse", "mae", "huber", "huber 0.3", "wide huber", "median", "quantile"],
)
def test_losses_of_numbers(loss, expected):
    assert torch.allclose(loss(VALUES, NUMBERS), expected, atol=1e-12)
    assert torch.allclose(PerSample(loss)(VALUES, NUMBERS), expected.mean(1), atol=1e-12)


def test_the_pinball_loss_is_scikit_learns():
    for q in (0.1, 0.5, 0.9):
        assert Quantile(q)(VALUES, NUMBERS).mean().item() == pytest.approx(mean_pinball_loss(NUMBERS, VALUES, alpha=q))


SKEWED = torch.randn(501, 1, generator=GENERATOR, dtype=torch.float64).exp()


@pytest.mark.parametrize(
    ("loss", "learned"),
    [
        (MSE(), SKEWED.mean()),
        (MAE(), SKEWED.median()),
        (Quantile(0.1), SKEWED.quantile(0.1)),
        (Quantile(0.9), SKEWED.quantile(0.9)),
        (Huber(100.0), SKEWED.mean()),
        (Huber(0.001), SKEWED.median()),
    ],
    ids=["mse: mean", "mae: median", "quantile 0.1", "quantile 0.9", "wide huber: mean", "narrow huber: median"],
)
def test_the_constant_that_a_loss_learns(loss, learned):
    constants_C = torch.linspace(0, 10, 4001, dtype=torch.float64)
    best = constants_C[loss(constants_C.expand(len(SKEWED), -1), SKEWED.expand(-1, 4001)).mean(0).argmin()]
    assert best.item() == pytest.approx(learned.item(), abs=0.01)


@pytest.mark.parametrize(
    "loss", [MSE(), MAE(), Huber(), Quantile(0.9), nn.SmoothL1Loss()], ids=lambda loss: type(loss).__name__
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_far_off_have_finite_losses_and_gradients(loss, dtype):
    values = torch.tensor([[6e4, -6e4], [0.0, 1e-4]], dtype=dtype, requires_grad=True)
    found = PerSample(loss)(values, torch.zeros(2, 2))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize(("loss", "option"), [(Huber, 0.0), (Quantile, 0.0), (Quantile, 1.0)])
def test_an_option_of_a_loss_of_numbers_out_of_range_says_the_range(loss, option):
    with pytest.raises(Mistake, match="give"):
        loss(option)


class RowMean(nn.Module):
    """A loss of one's own that returns a value for each sample."""

    def forward(self, values, target):
        return (values - target).abs().mean(1)


class Mean(nn.Module):
    """A loss of one's own that returns the mean of a batch."""

    def forward(self, values, target):
        return (values - target).abs().mean()


class Columns(Mean):
    """A loss of one's own that returns a value for each target."""

    def forward(self, values, target):
        return (values - target).abs().mean(0)


@pytest.mark.parametrize("loss", [nn.SmoothL1Loss(), nn.L1Loss(reduction="sum"), nn.MSELoss(), RowMean()])
def test_any_loss_returns_a_value_for_each_sample(loss):
    assert PerSample(loss)(VALUES, NUMBERS).shape == (N,)


def test_torchs_losses_are_those_of_this_project():
    assert torch.allclose(PerSample(nn.L1Loss())(VALUES, NUMBERS), PerSample(MAE())(VALUES, NUMBERS))


@pytest.mark.parametrize("loss", [Mean(), Columns()])
def test_a_loss_that_returns_no_value_for_each_sample_is_refused(loss):
    with pytest.raises(Mistake, match=f"--model.loss={type(loss).__name__} returns .* reduction='none'"):
        PerSample(loss)(VALUES, NUMBERS)


def test_a_loss_of_more_than_values_and_targets_is_refused():
    with pytest.raises(Mistake, match=r"--model.loss=GaussianNLLLoss .* give a loss of these two"):
        PerSample(nn.GaussianNLLLoss())
