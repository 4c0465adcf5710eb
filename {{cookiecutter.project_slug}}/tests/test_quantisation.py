"""Quantisation-aware training rounds what integers would, keeps the network as it is, and is kept with the run."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_resume import killed, weights
from torch import nn
from torch.nn import functional

from project_package.engine import quantisation
from project_package.engine.mistakes import Mistake
from project_package.engine.quantisation import (
    QuantisationAware,
    layers_to_round,
)
from project_package.model import Classifier
from project_package.networks import Backbone, SmallCNN, SmallMLP

QAT = ("--callbacks.qat=QuantisationAware", "--trainer.max_epochs=3", "--callbacks.last.every_n_train_steps=3")
BEST = Path("runs/small/version_0/checkpoints/best.ckpt")
LAYERS = [f"features.{at}" for at in ("0.0", "0.3", "1.1", "1.4", "2.1", "2.4")] + ["head.3"]  # of SmallCNN


def saved(path: Path = BEST) -> dict:
    return torch.load(path, weights_only=True)


def by_hand(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Round by the definition: to the nearest of 256 numbers of which one is zero."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(x / step + zero), 0, 255) - zero) * step


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0)])
def test_values_become_those_of_256_integers_and_zero_stays_zero(low, high):
    x = torch.linspace(-4, 4, 1001, requires_grad=True)
    found = quantisation.rounded(x, torch.tensor(low), torch.tensor(high))
    low, high = min(low, 0), max(high, 0)
    assert np.allclose(found.detach(), by_hand(x.detach().numpy(), low, high), atol=(high - low) / 254)
    assert len(found.unique()) <= 256
    assert (found == 0).any()
    inside = (x > low + 0.01) & (x < high - 0.01)
    assert (found - x)[inside].abs().max() <= 0.51 * (high - low) / 255
    found.sum().backward()
    assert x.grad is not None
    assert (x.grad[inside] == 1).all()
    assert (x.grad[(x < low - 0.02) | (x > high + 0.02)] == 0).all()


def test_weights_become_those_of_seven_bits_for_each_channel():
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([0.01, 1, 10, 100]).view(4, 1, 1, 1)
    integers = quantisation.rounded_weights(weight) / quantisation.scale_of_weights(weight).view(4, 1, 1, 1)
    assert torch.allclose(integers, integers.round(), atol=1e-3)
    assert integers.flatten(1).abs().amax(1).round().tolist() == [64] * 4
    assert ((quantisation.rounded_weights(weight) - weight).flatten(1).abs().amax(1) > 0).all()


def test_what_follows_a_layer_decides_whether_its_outputs_are_rounded():
    layers, left = layers_to_round(SmallCNN(1, 3, width=4), torch.randn(1, 1, 8, 8))
    assert [layer.name for layer in layers] == LAYERS
    assert not left
    assert {layer.outputs_of for layer in layers} == {None}
    layers, left = layers_to_round(Backbone(3, 3, name="resnet18"), torch.randn(1, 3, 32, 32))
    after_sum = [layer for layer in layers if layer.outputs_of is not None]
    assert len(layers) == 21
    assert len(after_sum) == 8 + 3  # the last of each block, and the shortcuts
    assert all(isinstance(layer.outputs_of, nn.BatchNorm2d) for layer in after_sum)
    layers, left = layers_to_round(Backbone(3, 3, name="vit_b_16", image_size=32), torch.randn(1, 3, 32, 32))
    assert [layer.name for layer in layers] == ["model.conv_proj", "model.heads.head"]
    assert "model.encoder.layers.encoder_layer_0.mlp.0" in left


def test_before_a_norm_that_activates_as_timms_do_outputs_are_not_rounded():
    class Activates(nn.BatchNorm2d):
        def __init__(self, channels: int):
            super().__init__(channels)
            self.act = nn.SiLU()

        def forward(self, input):
            return self.act(super().forward(input))

    network = nn.Sequential(nn.Conv2d(1, 4, 3), Activates(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    layers, left = layers_to_round(network, torch.randn(1, 1, 8, 8))
    assert [(layer.name, layer.outputs_of) for layer in layers] == [("0", None), ("2", network[2]), ("4", None)]
    assert not left


def attached(model: Classifier, ranges: quantisation.Ranges | None) -> QuantisationAware:
    """Round a model as a validation does."""
    callback, model.ranges = QuantisationAware(), ranges
    data = SimpleNamespace(example=lambda count: torch.zeros(count, 1, 16, 16, dtype=torch.uint8))
    state = SimpleNamespace(fn="validate")
    trainer: object = SimpleNamespace(datamodule=data, state=state, precision="32-true")
    callback.on_validation_start(trainer, model)  # pyright: ignore[reportArgumentType]
    return callback


def test_a_run_trains_the_rounded_network_and_keeps_a_plain_one_and_its_ranges(run, capsys, monkeypatch):
    assert run("fit", *QAT) == 0
    assert "quantisation-aware: 7 layers are rounded to 8 bits\n" in capsys.readouterr().out
    assert run("fit", *QAT[1:], "--name=plain") == 0
    kept, plain = saved(), saved(Path("runs/plain/version_0/checkpoints/best.ckpt"))
    assert kept["state_dict"].keys() == plain["state_dict"].keys()
    assert any(not torch.equal(kept["state_dict"][name], plain["state_dict"][name]) for name in plain["state_dict"])
    assert "ranges" not in plain

    model = Classifier.load_from_checkpoint(BEST).eval()
    x = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        unrounded = model(x)
        callback = attached(model, kept["ranges"])
        rounded = model(x)
        callback.teardown(None, model, "validate")  # pyright: ignore[reportArgumentType]
        assert torch.equal(model(x), unrounded)
    assert 1e-4 < (rounded - unrounded).abs().max() < 1

    # The same by hand: each layer of the network with its inputs and weights rounded.
    by_layer = {getattr(model.network.get_submodule(name), "weight"): pairs for name, pairs in kept["ranges"].items()}  # noqa: B009

    def rounding(compute, x, weight, *args):
        pairs = by_layer[weight]
        assert len(pairs) == 1
        low, high = min(pairs[0][0], 0), max(pairs[0][1], 0)
        return compute(torch.tensor(by_hand(x.numpy(), low, high)).float(), quantisation.rounded_weights(weight), *args)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(functional, "conv2d", partial(rounding, functional.conv2d))
        patch.setattr(functional, "linear", partial(rounding, functional.linear))
        expected = model(x)
    assert (rounded - expected).abs().mean() < 0.2 * (unrounded - expected).abs().mean()


def test_the_ranges_are_those_of_the_training_and_follow_it_slowly(run):
    assert run("fit", *QAT, "--trainer.max_epochs=1", "--callbacks.qat.momentum=1") == 0
    (low, high), *more = saved()["ranges"]["features.0.0"]
    assert not more
    assert -2.2 < low < -1.5  # of normalised pixels
    assert 0.3 < high < 2.7
    assert run("fit", *QAT, "--trainer.max_epochs=1", "--callbacks.qat.momentum=0.001", "--name=slow") == 0
    slow, first = saved(Path("runs/slow/version_0/checkpoints/best.ckpt"))["ranges"], saved()["ranges"]
    assert slow["head.3"] != first["head.3"]


def test_commands_on_the_run_round_as_its_validation_did_unless_told(run, capsys):
    assert run("fit", *QAT) == 0
    best = next(value for name, value in saved()["callbacks"].items() if "BestCheckpoint" in name)["best_model_score"]
    losses = []
    for flags in ((), ("--callbacks.qat=null",)):
        capsys.readouterr()
        assert run("validate", *flags) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "val/loss" in line)
        losses.append(float(line.replace("│", " ").split()[-1]))  # a table by rich, where that is installed
    assert losses[0] == pytest.approx(float(best), abs=1e-6)
    assert losses[1] != losses[0]


def test_a_broken_run_goes_on_with_its_ranges_to_the_last_bit(run, monkeypatch):
    flags = (*QAT, "--trainer.logger=[]")
    assert run("fit", *flags, "--name=whole") == 0
    for at in (5, 12):
        killed(run, monkeypatch, at, *flags, "--resume=auto")
    assert run("fit", *flags, "--resume=auto") == 0
    whole, resumed = weights("whole"), weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    last = [saved(Path(f"runs/{name}/version_0/checkpoints/last.ckpt"))["ranges"] for name in ("whole", "small")]
    assert last[0] == last[1]


def test_averaged_weights_are_rounded_too_and_the_recipe_starts_from_a_run(trained, run):
    averaged = ("--callbacks.averaging=EMAWeightAveraging", "--callbacks.averaging.decay=0.5")
    first = f"--model.weights={trained / 'checkpoints/best.ckpt'}"
    assert run("fit", "--config=qat", first, *averaged, "--name=tuned") == 0
    kept = saved(Path("runs/tuned/version_0/checkpoints/best.ckpt"))
    assert list(kept["ranges"]) == LAYERS
    assert kept["state_dict"].keys() == saved(trained / "checkpoints/best.ckpt")["state_dict"].keys()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model.compile=true",), "give --model.compile false"),
        (("--callbacks.qat.momentum=0",), "--callbacks.qat.momentum=0.0 is out of range"),
        (("--trainer.precision=bf16-true",), "--trainer.precision=bf16-true keeps weights in other digits"),
    ],
)
def test_what_cannot_be_rounded_is_refused_in_one_line(flags, words, run, capsys):
    assert run("fit", *QAT, *flags) == 2
    assert words in capsys.readouterr().err


def test_a_network_without_such_layers_and_ranges_of_another_are_refused():
    without = nn.Sequential(nn.Flatten(), nn.LayerNorm(256))
    for network, ranges, words in (
        (without, None, "no convolution in Sequential"),
        (SmallMLP(1, 2, width=4), {"other": [[0.0, 1.0]]}, "ranges of other layers"),
    ):
        model = Classifier(schema={"inputs": {"channels": 1}, "target": {"kind": "classes", "names": ["a", "b"]}})
        model.network, model.prepared = network, lambda x: x.float()
        with pytest.raises(Mistake, match=words):
            attached(model, ranges)
    with pytest.raises(Mistake, match="no numbers"):
        quantisation.read_ranges({"a": "b"})
