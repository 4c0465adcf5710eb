"""Every other technique does what it says: these tests fail when it does nothing."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from scipy.stats import beta, kstest
from torch import nn
from torch.optim import SGD, AdamW

from project_package.augment import PIPELINES, Augment
from project_package.callbacks import SWA, EMAWeightAveraging, LastCheckpoint
from project_package.combinations import RULES
from project_package.data import ImageData
from project_package.engine.batches import Batch
from project_package.engine.images import Normalise
from project_package.engine.optimizers import parameter_groups
from project_package.engine.stages import stages
from project_package.engine.weights import initialise
from project_package.losses import (
    Asymmetric,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    LogitAdjusted,
)
from project_package.model import Classifier
from project_package.networks import ACTIVATIONS, Backbone, SmallCNN, SmallMLP
from project_package.optim import Cosine, OneCycle, Plateau

SMALL = partial(SmallCNN, width=8)


class Watch(Callback):
    """Writes down what a run does at each of its steps."""

    def __init__(self):
        self.weights, self.gradients, self.labels = [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append({name: p.grad is not None for name, p in pl_module.network.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.labels += batch.y.tolist()
        self.weights.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


def fit(shapes, ckpt_path=None, callbacks=(), data_options=None, epochs=2, precision="32-true", **model_options):
    """Train a small model without the command line."""
    options = {"num_workers": 0, "batch_size": 8, **(data_options or {})}
    data = ImageData(str(shapes), **options)
    model = Classifier(**{"network": SMALL, "optimizer": partial(SGD, lr=0.05), "schedule": None, **model_options})
    watch = Watch()
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[watch, *callbacks],
        logger=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        precision=precision,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, watch, trainer


def test_l1_makes_weights_sparser_and_leaves_norms_and_biases_alone(shapes):
    plain, _, _ = fit(shapes, epochs=6)
    sparse, _, _ = fit(shapes, epochs=6, l1=0.01)

    def small(model, vectors):
        values = torch.cat([p.flatten() for p in model.network.parameters() if (p.ndim > 1) != vectors])
        return (values.abs() < 1e-3).float().mean().item()

    assert small(sparse, vectors=False) > 5 * small(plain, vectors=False)
    assert small(sparse, vectors=True) == pytest.approx(small(plain, vectors=True), abs=0.1)


def test_decay_leaves_norms_and_biases_alone(shapes):
    torch.manual_seed(0)
    network = SmallCNN(1, 3, width=8)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = AdamW(parameter_groups(network), lr=0.1, weight_decay=0.5)
    optimizer.step()
    for parameter in network.parameters():
        assert parameter.mean().item() == pytest.approx(0.95 if parameter.ndim > 1 else 1.0)


def test_rates_fall_from_the_head_to_the_first_stage(shapes):
    model, _, trainer = fit(shapes, layer_decay=0.5, backbone_lr_factor=0.1, epochs=1)
    rate_of = {id(p): group["lr"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    parts = stages(model.network)
    rates = [{rate_of[id(p)] for p in part.parameters()} for part in parts]
    assert all(len(rate) == 1 for rate in rates)
    expected = [0.05 * 0.5 ** (len(parts) - 1 - depth) * 0.1 for depth in range(len(parts) - 1)] + [0.05]
    assert [rate.pop() for rate in rates] == pytest.approx(expected)
    assert len(rate_of) == len(list(model.network.parameters()))


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(5)
    torch.save(SmallCNN(1, 3, width=8).state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def moved(watch, since=0):
    first, last = watch.weights[since], watch.weights[-1]
    return {name.split(".")[0] + "." + name.split(".")[1] for name in first if not torch.equal(first[name], last[name])}


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics_before_and_after_a_resume(shapes, pretrained):
    last = LastCheckpoint(dirpath="checkpoints")
    _, watch, trainer = fit(shapes, weights=pretrained, freeze=True, callbacks=[last])
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == 2
    start = torch.load(pretrained, weights_only=True)
    frozen = [name for name in start if name.startswith("features")]
    assert all(torch.equal(start[name], watch.weights[-1][name]) for name in frozen)
    assert not torch.equal(start["head.3.weight"], watch.weights[-1]["head.3.weight"])
    assert {name for name, has in watch.gradients[-1].items() if has} == {"head.3.weight", "head.3.bias"}
    options = {"weights": pretrained, "freeze": True, "ckpt_path": "checkpoints/last.ckpt"}
    _, again, _ = fit(shapes, epochs=4, **options)
    assert len(again.weights) == 12
    assert all(torch.equal(start[name], again.weights[-1][name]) for name in frozen)
    assert moved(again) == {"head.3"}


def test_unfreezing_goes_stage_by_stage_and_survives_a_resume(shapes, pretrained):
    options = {"weights": pretrained, "freeze": True, "unfreeze_every": 1}
    last = LastCheckpoint(dirpath="checkpoints")
    _, watch, _ = fit(shapes, epochs=3, callbacks=[last], **options)
    trained = [{n.split(".")[0] + n.split(".")[1] for n, has in step.items() if has} for step in watch.gradients]
    assert trained[0] == {"head3"}
    assert trained[6] == {"head3", "features2"}
    assert trained[12] == {"head3", "features2", "features1"}
    _, again, _ = fit(shapes, epochs=4, ckpt_path="checkpoints/last.ckpt", **options)
    assert {n.split(".")[0] + n.split(".")[1] for n, has in again.gradients[0].items() if has} == {
        "head3", "features2", "features1", "features0",
    }  # fmt: skip


@pytest.mark.parametrize("warmup", [False, True])
def test_averaged_weights_equal_the_recurrence_and_are_what_is_kept(warmup, shapes):
    ema = EMAWeightAveraging(decay=0.9, warmup=warmup)
    last = LastCheckpoint(dirpath="checkpoints")
    _, watch, _ = fit(shapes, callbacks=[ema, last])
    expected = watch.weights[0]["head.3.weight"].clone()
    for step, weights in enumerate(watch.weights[1:], 1):
        share = (1 + step) / (10 + step) if warmup else 0.9
        expected = share * expected + (1 - share) * weights["head.3.weight"]
    kept = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.head.3.weight"]
    assert torch.allclose(kept, expected, atol=1e-6)
    assert not torch.allclose(kept, watch.weights[-1]["head.3.weight"], atol=1e-4)


@pytest.mark.parametrize("averaging", [partial(EMAWeightAveraging, decay=0.9), partial(SWA, start_epoch=1)])
def test_averaging_leaves_what_is_constant_as_it_is(averaging, shapes):
    averaged = averaging()
    options = {"data_options": {"batch_size": 8, "channels": 3, "balance": "class_weights"}}
    model, _, _ = fit(shapes, epochs=3, callbacks=[averaged], **options)
    expected = Normalise(3)
    assert torch.equal(model.normalised.mean_1C11, expected.mean_1C11)
    assert torch.equal(model.normalised.std_1C11, expected.std_1C11)
    assert torch.equal(model.loss.class_weights_K, torch.ones(3))


def test_swa_is_the_training_itself_until_it_starts(shapes):
    last = LastCheckpoint(dirpath="checkpoints")
    _, watch, _ = fit(shapes, epochs=2, callbacks=[SWA(start_epoch=5), last])
    kept = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.head.3.weight"]
    assert torch.equal(kept, watch.weights[-1]["head.3.weight"])


def test_swa_keeps_the_mean_of_the_last_epochs(shapes):
    last = LastCheckpoint(dirpath="checkpoints")
    _, watch, _ = fit(shapes, epochs=4, callbacks=[SWA(start_epoch=2), last])
    expected = (watch.weights[17]["head.3.weight"] + watch.weights[23]["head.3.weight"]) / 2
    kept = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.head.3.weight"]
    assert torch.allclose(kept, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3), ("gelu", 1.5335), ("silu", 1.6765)]
)
@pytest.mark.parametrize("scheme", ["he", "xavier", "orthogonal"])
def test_first_weights_have_the_variance_of_their_formula(scheme, activation, gain):
    torch.manual_seed(0)
    network = SmallMLP(3, 64, width=512, activation=activation)
    initialise(network, scheme, activation)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        own = 1.0 if layer is layers[-1] else gain
        out, into = layer.weight.shape
        variance = {"he": own**2 / into, "xavier": 2 * own**2 / (into + out), "orthogonal": own**2 / max(into, out)}
        assert layer.weight.var().item() == pytest.approx(variance[scheme], rel=0.05)
        assert not layer.bias.any()
        if scheme == "orthogonal":
            product = layer.weight @ layer.weight.T / own**2
            assert torch.allclose(product, torch.eye(out), atol=1e-4)


def test_the_gain_of_an_activation_keeps_the_second_moment():
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    for name, gain in (("gelu", 1.5335), ("silu", 1.6765)):
        assert (ACTIVATIONS[name]()(x) * gain).pow(2).mean().item() == pytest.approx(1, abs=0.01)


def test_the_scheme_reaches_a_run(shapes):
    _, watch, _ = fit(shapes, init="orthogonal", optimizer=partial(SGD, lr=0.0), epochs=1)
    weight = watch.weights[-1]["features.1.4.weight"].flatten(1)
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(len(weight)), atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("network", [SmallCNN, SmallMLP])
def test_activations_are_chosen_by_name(network, activation):
    kinds = {type(module) for module in network(1, 3, activation=activation).modules()}
    assert kinds & set(ACTIVATIONS.values()) == {ACTIVATIONS[activation]}


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("layer", nn.GroupNorm)]
)
def test_norms_are_chosen_by_name(norm, kind):
    network = SmallCNN(1, 3, norm=norm)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(norms) == 6
    assert all(type(module) is kind for module in norms)
    assert norm != "layer" or all(module.num_groups == 1 for module in norms)


@pytest.mark.parametrize(
    ("stride", "sides"),
    [
        (None, {8: 8, 63: 63, 64: 32, 127: 64, 128: 32}),
        (1, {128: 128}),
        (2, {8: 4, 128: 64}),
        (4, {16: 4, 64: 16}),
    ],
)
def test_the_first_stage_follows_the_images_side_unless_its_stride_is_given(stride, sides):
    network = SmallCNN(1, 3, width=8, stem_stride=stride).eval()
    for side, first in sides.items():
        network.follow(side)
        assert network.features[0](torch.zeros(1, 1, side, side)).shape[-1] == first
        assert network(torch.zeros(1, 1, side, side)).shape == (1, 3)


@pytest.mark.parametrize(("side", "stride"), [(16, 1), (64, 2)])
def test_the_networks_stride_is_that_of_the_images_it_is_trained_on(side, stride, shapes):
    last = LastCheckpoint(dirpath="checkpoints")
    model, _, trainer = fit(shapes, callbacks=[last], data_options={"image_size": side}, epochs=1)
    assert model.network.features[0][0].stride == (stride, stride)
    for other in (16, 64):
        again, data = Classifier(network=SMALL), ImageData(str(shapes), num_workers=0, batch_size=8, image_size=other)
        trainer.validate(again, data, ckpt_path="checkpoints/last.ckpt")
        assert again.network.features[0][0].stride == (stride, stride)
    content = torch.load("checkpoints/last.ckpt", weights_only=True)
    del content["hyper_parameters"]["schema"]["inputs"]["mean"]  # as a run of before, whose network was told nothing
    torch.save(content, "before.ckpt")
    assert Classifier.load_from_checkpoint("before.ckpt").network.features[0][0].stride == (1, 1)


def test_width_depth_and_dropout_are_flags():
    assert len([m for m in SmallMLP(1, 3, depth=5).modules() if isinstance(m, nn.Linear)]) == 6
    assert SmallCNN(1, 3, width=10).features[2][1].out_channels == 40
    x = torch.ones(4, 1, 8, 8)
    network = SmallCNN(1, 3, width=8, dropout=0.5).train()
    torch.manual_seed(0)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_stochastic_depth_reaches_the_blocks_and_a_model_without_it_says_so():
    from torchvision.ops import StochasticDepth

    network = Backbone(3, 4, "efficientnet_b0", stochastic_depth=0.5)
    assert max(m.p for m in network.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="stochastic_depth_prob"):
        Backbone(3, 4, "resnet18", stochastic_depth=0.5)


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    plain = Backbone(3, 4, "resnet18").train()
    saving = Backbone(3, 4, "resnet18", checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 32, 32)
    kept = {}
    for name, network in (("plain", plain), ("saving", saving)):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(x).square().mean()
        kept[name] = sum(sizes)
        loss.backward()
    assert kept["saving"] < kept["plain"] / 3
    for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-5)
    for name, value in plain.state_dict().items():
        if "running" in name:
            assert torch.allclose(value, saving.state_dict()[name], atol=1e-6), name


def test_gradient_checkpointing_and_compiling_go_together():
    torch.manual_seed(0)
    plain = Backbone(3, 4, "resnet18").train()
    both = Backbone(3, 4, "resnet18", checkpointing=True).train()
    both.load_state_dict(plain.state_dict())
    both.compile(backend="eager")
    x = torch.randn(4, 3, 32, 32)
    for network in (plain, both):
        network(x).square().mean().backward()
    for one, two in zip(plain.parameters(), both.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-5)
    for name, value in plain.state_dict().items():
        if "running" in name:
            assert torch.allclose(value, both.state_dict()[name], atol=1e-6), name


def test_channels_last_changes_the_layout_and_not_the_result(shapes):
    plain, _, _ = fit(shapes, epochs=1, precision="64-true")
    last, _, _ = fit(shapes, epochs=1, precision="64-true", channels_last=True)
    assert last.network.features[1][1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.network.features[1][1].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain.network.head[3].weight, last.network.head[3].weight, atol=1e-12)


def test_a_compiled_run_trains_the_same_and_its_checkpoint_serves_plain_and_compiled_runs(shapes, monkeypatch):
    made = []

    def captured(graph, inputs):  # what torch.compile hands to a backend; compiling it to machine code is torch's
        made.append(graph)
        return graph.forward

    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend=captured))
    last = LastCheckpoint(dirpath="checkpoints")
    model, watch, _ = fit(shapes, compile=True, callbacks=[last], epochs=1)
    assert made
    _, plain, _ = fit(shapes, epochs=1)
    assert all(torch.allclose(watch.weights[-1][name], value, atol=1e-6) for name, value in plain.weights[-1].items())
    state = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == model.state_dict().keys()
    assert not any("_orig_mod" in name for name in state)
    for again in (True, False):
        _, resumed, _ = fit(shapes, compile=again, ckpt_path="checkpoints/last.ckpt")
        assert len(resumed.weights) == 6  # the second epoch alone


def test_a_vision_transformer_follows_the_size_it_is_given():
    made = Backbone(1, 3, "vit_b_32", image_size=32)
    assert made(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="built for images of 32 pixels"):
        made(torch.zeros(2, 1, 64, 64))
    with pytest.raises(ValueError, match="cannot be made with"):
        Backbone(1, 3, "vit_b_32", image_size=33)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_follows_beta_and_its_targets_sum_to_one(kind, shapes):
    model, _, _ = fit(shapes, epochs=1, **{kind: 0.4})
    x_NCHW, y_N = torch.zeros(2, 1, 64, 64), torch.tensor([0, 1])
    torch.manual_seed(0)
    targets = torch.stack([model.mix(x_NCHW, y_N)[1] for _ in range(800)])
    assert torch.allclose(targets.sum(2), torch.ones(800, 2))
    drawn = targets[:, 0, 0].numpy()
    if kind == "mixup":
        assert kstest(drawn, beta(0.4, 0.4).cdf).pvalue > 0.01
    else:
        assert kstest(drawn, beta(0.4, 0.4).cdf).pvalue < 0.5  # cut at the border, so not quite Beta
        assert 0.4 < drawn.mean() < 0.8
    assert kstest(drawn, beta(2.0, 2.0).cdf).pvalue < 1e-6


class Targets(CrossEntropy):
    """Remembers the targets that it was given."""

    seen: list = []

    def forward(self, logits_NK, target):
        if self.training:
            self.seen.append(target)
        return super().forward(logits_NK, target)


class Answer(nn.Module):
    """Says class 0 of every image, whatever it is mixed with."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.layer(0 * x_NCHW.mean((1, 2, 3))[:, None]) * 0 + torch.tensor([1.0, 0.0, 0.0])


def test_mixing_trains_on_soft_labels_for_its_epochs_and_share_and_scores_hard_ones(shapes):
    Targets.seen.clear()
    fit(shapes, epochs=3, mixup=1.0, unmixed_epochs=1, loss=Targets)
    assert [target.ndim for target in Targets.seen] == [2] * 12 + [1] * 6
    Targets.seen.clear()
    fit(shapes, epochs=10, mixup=1.0, mix_probability=0.5, loss=Targets)
    assert 15 < sum(target.ndim == 2 for target in Targets.seen) < 45
    model, watch, _ = fit(shapes, epochs=1, mixup=1.0, network=Answer)
    assert model.sums.tolist()[2:] == [watch.labels.count(0), 48]


def test_the_first_weights_and_the_draws_of_mixing_do_not_depend_on_the_device(shapes):
    data = ImageData(str(shapes), num_workers=0)
    data.setup("fit")
    schema = data.schema.as_dict()
    models = [Classifier(network=SMALL, mixup=0.2, cutmix=1.0, schema=schema) for _ in range(2)]
    models[0].configure_model()
    with torch.device("meta"):  # Lightning's way of building a network where the run is
        models[1].configure_model()
    weights = [model.network.state_dict() for model in models]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    kinds = models[1].mix.transforms[0].transforms
    assert {kind._dist.sample().device.type for kind in kinds} == {"cpu"}  # on a GPU each draw would wait for it


@pytest.mark.parametrize(
    ("balance", "formula"),
    [
        ("class_weights", lambda n: 1 / n),
        ("effective_weights", lambda n: 0.001 / (1 - 0.999**n)),
        ("sampler", lambda n: n / n),
    ],
)
def test_class_weights_follow_their_formula(balance, formula, shapes):
    data = ImageData(str(shapes), num_workers=0, balance=balance)
    data.setup("fit")
    counts = np.array([900, 90, 10])
    data.train_targets = np.repeat([0, 1, 2], counts)
    weights = data.loss_balance.weights_K.numpy()
    assert weights / weights[0] == pytest.approx(formula(counts) / formula(counts)[0], rel=1e-5)
    assert (weights * counts).sum() == pytest.approx(1000, rel=1e-5)
    assert data.loss_balance.prior_K.tolist() == pytest.approx([0.9, 0.09, 0.01])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_follows_its_seed_and_keeps_the_shape(name):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    view = Augment(name, 32, flip=True)
    assert view(image, 7).shape == (32, 32, 3)
    assert np.array_equal(view(image, 7), Augment(name, 32, flip=True)(image, 7))
    assert np.array_equal(view(image, None), image[4:36, 4:36])
    assert (name == "none") == np.array_equal(view(image, 7), view(image, 8))


def test_medical_and_unflipped_pipelines_never_mirror():
    image = np.zeros((32, 32, 1), dtype=np.uint8)
    image[:, 20:] = 200
    for name in ("light", "medium", "medical"):
        view = Augment(name, 32, flip=name == "medical")
        columns = np.stack([view(image, seed).astype(float).mean((0, 2)) for seed in range(60)])
        assert (columns[:, -6:].mean(1) > columns[:, :6].mean(1)).all(), name
    mirrored = [Augment("light", 32, flip=True)(image, seed).astype(float).mean((0, 2)) for seed in range(60)]
    assert 15 < sum(column[:6].mean() > column[-6:].mean() for column in mirrored) < 45


def test_light_shifts_stay_within_their_bounds():
    image = np.zeros((100, 100, 1), dtype=np.uint8)
    image[48:52, 48:52] = 255
    view = Augment("light", 100, flip=False)
    for seed in range(100):
        row, column, _ = np.argwhere(view(image, seed) > 60).mean(0)
        assert abs(row - 49.5) < 12
        assert abs(column - 49.5) < 12


def test_cutout_removes_the_area_it_says():
    import albumentations as A

    hole = next(t for t in PIPELINES["strong"](A, 64, False) if type(t).__name__ == "CoarseDropout")
    hole.p = 1.0
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    for seed in range(30):
        hole.set_random_seed(seed)
        share = (hole(image=white)["image"] == 0).all(2).mean()
        assert 0.1**2 * 0.8 <= share <= 0.3**2 * 1.2


class HardOnly(CrossEntropy):
    """A loss that cannot take soft labels."""

    hard_labels_only = True


CONTRADICTIONS = [
    ({"loss": partial(LogitAdjusted, tau=0.5)}, {}, "several labels + a loss for one class"),
    ({"loss": Asymmetric}, {}, "one class per sample + a loss for several labels"),
    ({"loss": LogitAdjusted}, {"balance": "sampler"}, "weighted sampler or class weights + logit adjustment"),
    ({"loss": Focal}, {"balance": "sampler"}, "weighted sampler + focal loss"),
    ({"loss": HardOnly, "mixup": 1.0}, {}, "mixed samples + a loss for hard labels"),
    ({"loss": partial(CrossEntropy, label_smoothing=0.1), "cutmix": 1.0}, {}, "mixed samples + label smoothing"),
    ({"mixup": 1.0}, {}, "mixed samples + numbers"),
    ({"cutmix": 1.0}, {}, "mixed samples + sample weights"),
    ({}, {}, "sample weights + accumulated batches"),
    ({}, {}, "numbers or sample weights + half precision throughout"),
    ({"schedule": OneCycle}, {}, "early stopping + one-cycle"),
    ({"schedule": Plateau}, {}, "plateau + no validation"),
    ({}, {"batch_size": 1}, "BatchNorm + one sample per device"),
    ({"unfreeze_every": 1}, {}, "unfreezing + nothing frozen"),
    ({"freeze": True}, {}, "freezing + random weights"),
    ({"freeze": True, "weights": "w.pt", "network": nn.Flatten}, {}, "freezing everything"),
    ({"init": "he", "weights": "w.pt"}, {}, "weights + another initialisation"),
    ({"freeze": True, "weights": "w.pt", "unfreeze_every": 1}, {}, "gradual unfreezing + plain DDP"),
]


class Stub:
    """A trainer as far as the rules look at one."""

    def __init__(self, **values):
        self.world_size, self.accumulate_grad_batches, self.limit_val_batches = 1, 1, 1.0
        self.early_stopping_callbacks, self.strategy = [], object()
        self.precision, self.gradient_clip_val = "bf16-mixed", 1.0
        self.__dict__.update(values)


@pytest.mark.parametrize(("model_options", "data_options", "name"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_what_contradicts_itself_is_found(model_options, data_options, name, shapes, monkeypatch):
    def built(options):
        model = Classifier(**{"network": SMALL, "schedule": Cosine, **options})
        model.network = (lambda *_: nn.Flatten())() if options.get("network") is nn.Flatten else SmallCNN(1, 3, width=8)
        model.loss = model.make_loss(torch.ones(3), torch.ones(3) / 3)
        model.mix = object() if options.get("mixup") or options.get("cutmix") else None
        model.schema = of_task("multiclass")
        return model

    rule = next(rule for rule in RULES if rule.name == name)
    trainer = Stub()
    if name == "early stopping + one-cycle":
        trainer.early_stopping_callbacks = [object()]
    if name == "plateau + no validation":
        trainer.limit_val_batches = 0
    if name == "gradual unfreezing + plain DDP":
        trainer.world_size, trainer.strategy = 2, DDPStrategy()
    if name == "sample weights + accumulated batches":
        trainer.accumulate_grad_batches = 2
    if name == "numbers or sample weights + half precision throughout":
        trainer.precision = "bf16-true"
    data, model = ImageData(str(shapes), **{"batch_size": 8, **data_options}), built(model_options)
    model.loss.several_labels = name == "several labels + a loss for one class"
    if "numbers" in name:
        model.schema = of_task("regression")
    with monkeypatch.context() as patch:
        patch.setattr(ImageData, "is_weighted", "sample weights" in name)
        assert rule.holds(model, data, trainer)
    assert not rule.holds(built({}), ImageData(str(shapes), batch_size=8), Stub())


def of_task(task):
    """Return a schema as far as the rules look at one."""
    return SimpleNamespace(target=SimpleNamespace(task=task))


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, Focal, Asymmetric])
def test_a_loss_of_several_labels_contradicts_nothing(loss, shapes):
    model = Classifier(network=SMALL)
    model.loss = loss(torch.ones(3), torch.ones(3) / 3)
    model.loss.several_labels = True
    model.network, model.mix, model.schema = SmallCNN(1, 3, width=8), object(), of_task("multilabel")
    data = ImageData(str(shapes), batch_size=8)
    assert not [rule.name for rule in RULES if rule.holds(model, data, Stub())]


def test_sample_weights_are_not_rounded(shapes, monkeypatch):
    monkeypatch.setattr(ImageData, "is_weighted", True)
    rule = next(rule for rule in RULES if "half precision" in rule.name)
    model = Classifier()
    model.schema = of_task("multiclass")
    for precision, refused in (("16-true", True), ("bf16-true", True), ("bf16-mixed", False), ("32-true", False)):
        assert rule.holds(model, ImageData(str(shapes)), Stub(precision=precision)) == refused


def test_every_rule_has_its_contradiction():
    assert [rule.name for rule in RULES] == [name for _, _, name in CONTRADICTIONS]


def test_a_contradiction_stops_a_run_before_training(shapes):
    with pytest.raises(ValueError, match="unfreezing"):
        fit(shapes, unfreeze_every=1)
    with pytest.warns(UserWarning, match="label smoothing"):
        fit(shapes, epochs=1, mixup=0.2, loss=partial(CrossEntropy, label_smoothing=0.1))


class Prototypes(CrossEntropy):
    """A loss with parameters of its own."""

    def __init__(self, *balance):
        super().__init__(*balance)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, logits_NK, target):
        return super().forward(logits_NK * self.scale, target)


def test_parameters_outside_of_the_network_are_trained_and_kept(shapes):
    model, _, _ = fit(shapes, loss=Prototypes)
    assert not torch.equal(model.loss.scale, torch.ones(3))
    assert "loss.scale" in model.state_dict()


def test_the_means_of_training_are_exact_in_half_precision(shapes):
    model, _, _ = fit(shapes, epochs=1, data_options={"batch_size": 8})
    with torch.autocast("cpu", torch.bfloat16):
        model.sums = None
        loss_N, weight_N = torch.full((300,), 0.01, dtype=torch.bfloat16), torch.ones(300, dtype=torch.bfloat16)
        batch = Batch(loss_N, loss_N, torch.arange(300))
        for _ in range(3):
            model.training_loss(batch, loss_N, weight_N)
    assert model.sums.dtype == torch.float32
    assert model.sums[-1] == 900
