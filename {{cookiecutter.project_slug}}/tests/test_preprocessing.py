"""What a network declares of its images is what it is fed, from the file to the checkpoint; flags overrule it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
import yaml
from lightning.pytorch import Trainer
from PIL import Image, ImageOps
from sandbox import exit_code
from torch import nn
from torchvision.transforms import InterpolationMode, functional

from project_package.callbacks import LastCheckpoint
from project_package.data import ImageData
from project_package.engine.cache import Cache
from project_package.engine.decoding import decode
from project_package.engine.images import Decoding, Normalise
from project_package.engine.preprocessing import (
    MEAN,
    STD,
    Preprocessing,
    scaled_side,
)
from project_package.model import Classifier
from project_package.networks import Backbone, SmallCNN

tv: Any = functional  # whose annotations know no images
SHAPES = [(300, 300), (401, 300), (300, 517), (333, 257), (90, 71), (40, 200), (641, 97)]  # width × height
# The weights of each size, share and filter that torchvision has, but for the largest sizes.
PUBLISHED = [
    ("resnet18", "IMAGENET1K_V1"),  # 224 of 256
    ("resnet50", "IMAGENET1K_V2"),  # 224 of 232
    ("swin_t", "IMAGENET1K_V1"),  # bicubic
    ("efficientnet_b1", "IMAGENET1K_V2"),  # 240 of 255: an odd margin
    ("inception_v3", "IMAGENET1K_V1"),  # 299 of 342
    ("vit_l_16", "IMAGENET1K_V1"),  # 224 of 242
    ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),  # 384 of 384
    ("vgg16", "IMAGENET1K_FEATURES"),  # another mean, and a deviation of 1 / 255
]


class Mean(nn.Module):
    """A network that takes any image."""

    def __init__(self, in_channels, num_classes, **options):
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))

    def forward(self, x_NCHW):
        return self.head(x_NCHW)


class Net(Mean):
    """Declares what it was made for."""

    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2,), size=12, interpolation="bicubic", crop_fraction=0.8)


class As(Mean):
    """Declares what a Backbone does, and is as small as can be."""

    preprocessing = staticmethod(Backbone.preprocessing)


class Own(Mean):
    """Has a method of the same name."""

    def preprocessing(self, x_NCHW):
        raise AssertionError


def made(root, network, weights=None, **options):
    """Set up data for a model and build it, as fit does."""
    data = ImageData(str(root), **{"num_workers": 0, "batch_size": 8, "cache_gb": 0, "augment": "none", **options})
    data.model = model = Classifier(network=network, weights=weights)
    data.setup("fit")
    model.build(data.schema, data.loss_balance)
    return data, model


def fit(root, network, epochs=1, ckpt_path=None, weights=None, **options):
    """Train for an epoch or so without the command line."""
    data = ImageData(str(root), **{"num_workers": 0, "batch_size": 8, "cache_gb": 0, **options})
    model = Classifier(network=network, weights=weights, schedule=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    last = LastCheckpoint(dirpath="checkpoints")
    Trainer(max_epochs=epochs, callbacks=[last], accelerator="cpu", **quiet).fit(model, data, ckpt_path=ckpt_path)
    return data, model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn photographs of many shapes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number, (width, height) in enumerate(SHAPES * 2):
            y, x = np.mgrid[:height, :width]
            waves = [128 + 90 * np.sin(x / 9 + 2 * c) * np.cos(y / (7 + number)) for c in range(3)]
            pixels = (np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


@pytest.mark.parametrize(("name", "weights"), PUBLISHED)
def test_what_published_weights_are_fed_is_what_their_own_transforms_give(name, weights, pictures):
    transforms = torchvision.models.get_model_weights(name)[weights].transforms()
    network = partial(As, name=name, image_size=384) if "SWAG" in weights else partial(As, name=name)
    data, model = made(pictures, network, weights)
    level_C11 = 255 * torch.tensor(transforms.std).view(3, 1, 1)
    for index, key in enumerate(data.train_keys):
        fed = model.prepared(data.train[index].x[None])[0]  # without a seed: as evaluation sees it
        theirs = transforms(Image.open(pictures / key))
        assert fed.shape == theirs.shape
        assert ((fed - theirs) * level_C11).abs().max() < 0.01, key


@pytest.mark.parametrize(("sides", "most"), [((1600, 1204), 2), ((1601, 1203), 0), ((640, 480), 0)])
def test_a_jpeg_is_fed_pixel_for_pixel_and_a_large_one_nearly_so(sides, most, tmp_path, pictures):
    large = Image.open(pictures / "a" / "01.png").resize(sides, Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    fed = decode(tmp_path / "large.jpg", 3, 112, resize=128)
    theirs = tv.center_crop(tv.resize(Image.open(tmp_path / "large.jpg"), [128]), [112])
    difference = np.abs(fed.astype(int) - np.asarray(theirs))
    assert difference.max() <= most
    assert bool(difference.any()) == bool(most)


@pytest.mark.parametrize("filter", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_filter_is_pillows(filter, pictures):
    path, method = pictures / "a" / "01.png", InterpolationMode(filter)
    expected = tv.center_crop(tv.resize(Image.open(path), [70], method), [57])
    assert np.array_equal(decode(path, 3, 57, interpolation=filter, resize=70), np.asarray(expected))
    at_once = ImageOps.fit(Image.open(path), (57, 57), Image.Resampling[filter.upper()])
    assert np.array_equal(decode(path, 3, 57, interpolation=filter), np.asarray(at_once))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_an_image_that_is_padded_or_stretched_is_cut_as_well(fit, pictures):
    path = pictures / "a" / "01.png"
    whole = decode(path, 3, 70, fit=fit)
    assert np.array_equal(decode(path, 3, 60, fit=fit, resize=70), whole[5:65, 5:65])


def test_a_scaled_image_that_would_fill_the_memory_is_not_read(tmp_path):
    Image.new("L", (60_000, 2)).save(tmp_path / "thread.png")
    with pytest.raises(ValueError, match="scaled to 1"):
        decode(tmp_path / "thread.png", 3, 224, resize=256)


@pytest.mark.parametrize("network", [SmallCNN, Own, partial(Backbone, name="squeezenet1_1")])
def test_without_a_declaration_nothing_changes(network, pictures):
    data, model = made(pictures, network)
    assert data.decoding == Decoding(3, 64)
    assert not any("declares" in line for line in data.remarks)
    assert torch.equal(model.normalised.mean_1C11, 255 * torch.tensor(MEAN).view(1, 3, 1, 1))
    assert torch.equal(model.normalised.std_1C11, 255 * torch.tensor(STD).view(1, 3, 1, 1))
    image = Image.open(pictures / data.train_keys[0])
    expected = ImageOps.fit(image, (64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train[0].x.numpy().transpose(1, 2, 0), np.asarray(expected))


def test_a_network_of_ones_own_declares_in_a_class_attribute(pictures):
    data, model = made(pictures, Net)
    assert data.schema.inputs["mean"] == [0.5, 0.4, 0.3]
    assert (data.image_size, data.resize_size, data.interpolation) == (12, 15, "bicubic")
    fed = model.prepared(data.train[0].x[None])[0]
    image = tv.center_crop(tv.resize(Image.open(pictures / data.train_keys[0]), [15], InterpolationMode.BICUBIC), [12])
    theirs = tv.normalize(tv.to_tensor(image), [0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert torch.allclose(fed, theirs, atol=1e-5)
    line = "preprocessing: Net declares 12 of 15 pixels, bicubic, mean [0.5, 0.4, 0.3], deviation [0.2]"
    assert data.remarks[0] == line


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("mean", [0.1, 0.2, 0.3], "--data.mean [0.1, 0.2, 0.3]"),
        ("std", [0.1], "--data.std [0.1]"),
        ("interpolation", "lanczos", "--data.interpolation lanczos"),
        ("image_size", 16, "--data.image_size 16"),
        ("stored_size", 18, "--data.stored_size 18"),
        ("resize_size", 20, "--data.resize_size 20"),
    ],
)
def test_a_flag_overrules_and_that_is_said(flag, value, said, pictures):
    data, _ = made(pictures, Net, **{flag: value})
    assert data.schema.inputs[flag] == value == getattr(data, flag)
    assert data.remarks[0].endswith(f"; overruled by {said}")
    others = {"mean", "std", "interpolation", "image_size"} - {flag}
    plain, _ = made(pictures, Net)
    assert {name: data.schema.inputs[name] for name in others} == {name: plain.schema.inputs[name] for name in others}


def test_a_share_of_two_whole_numbers_gives_the_scaled_side_back():
    wrong = [
        (size, side) for size in range(8, 400) for side in range(size, 500) if scaled_side(size, size / side) != side
    ]
    assert not wrong
    assert scaled_side(224, 0.95) == 235  # rounded down, as timm does


def test_grey_images_take_the_mean_over_the_channels(shapes):
    _, model = made(shapes, Net)
    assert model.normalised.mean_1C11.flatten().tolist() == pytest.approx([255 * 0.4])
    assert Normalise(1, std=(0.2,)).std_1C11.flatten().tolist() == pytest.approx([255 * 0.2])


def test_a_cache_of_another_filter_or_cut_is_another_file(pictures, tmp_path):
    kinds = [Decoding(3, 8), Decoding(3, 8, interpolation="bicubic"), Decoding(3, 8, resize=9)]
    assert len({Cache(tmp_path, pictures, ["a/00.png"], kind).file for kind in kinds}) == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mean": (0.5, 0.5)}, r"mean=\[0.5, 0.5\]"),
        ({"std": (0.0,)}, r"std=\[0.0\]"),
        ({"interpolation": "cubic"}, "interpolation='cubic'"),
        ({"fit": "center"}, "fit='center'"),
        ({"size": 0}, "size=0"),
        ({"crop_fraction": 1.5}, "crop_fraction=1.5"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Preprocessing(**values)


def test_a_transformer_declares_its_size_and_no_other_is_taken(shapes):
    data, _ = made(shapes, partial(As, name="vit_b_32"))
    assert data.decoding == Decoding(1, 224)
    data, _ = made(shapes, partial(As, name="vit_b_32", image_size=96))
    assert data.image_size == 96
    with pytest.raises(ValueError, match=r"--data.image_size=100 .* 224 pixels .* a multiple of 32"):
        made(shapes, partial(As, name="vit_b_32"), image_size=100)
    with pytest.raises(ValueError, match="such as 96 or 128"):
        made(shapes, partial(As, name="vit_b_32", image_size=100))
    with pytest.raises(ValueError, match="such as 224 or 448"):
        made(shapes, partial(As, name="maxvit_t", image_size=32))


def test_weights_of_a_transformer_name_those_of_other_sizes(shapes):
    with pytest.raises(ValueError, match=r"image_size=100 .* 224 pixels .*IMAGENET1K_SWAG_E2E_V1 384"):
        made(shapes, partial(As, name="vit_b_16"), "DEFAULT", image_size=100)
    with pytest.raises(ValueError, match=r"network.image_size=384 .* 224.*IMAGENET1K_SWAG_E2E_V1 384"):
        made(shapes, partial(As, name="vit_b_16", image_size=384), "DEFAULT")
    with pytest.raises(ValueError, match=r"image_size=224 .* give --model.network.image_size 518"):
        made(shapes, partial(As, name="vit_h_14"), "DEFAULT")


def test_weights_are_fed_as_they_were_trained_and_so_is_all_that_follows(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = tmp_path / "hub" / "checkpoints" / published.url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    network = partial(Backbone, name="squeezenet1_1")
    data, model = fit(shapes, network, weights="DEFAULT", mean=[0.5], image_size=32)
    sizes = {"image_size": 32, "stored_size": 36, "resize_size": 36, "mean": [0.5], "std": [*STD]}
    assert sizes.items() <= data.schema.inputs.items()  # 32 / (224 / 256), less a multiple of 4 of margin
    kept = Classifier.load_from_checkpoint("checkpoints/last.ckpt")
    assert torch.equal(kept.normalised.mean_1C11, model.normalised.mean_1C11)
    # A run that goes on, and a model that is evaluated, are fed as before whatever is declared.
    with pytest.raises(ValueError, match=r"--data.resize_size=None is not what the run was fed, 36"):
        fit(shapes, network, epochs=2, ckpt_path="checkpoints/last.ckpt", image_size=32)
    again = ImageData(str(shapes), num_workers=0, cache_gb=0)
    again.model = Classifier(network=network)
    again.model.resumed = {"from": "checkpoints/last.ckpt"}  # as the command line has it
    again.setup("fit")
    assert again.schema.inputs == data.schema.inputs
    fresh = ImageData(str(shapes), num_workers=0, cache_gb=0)
    Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").validate(kept, fresh, verbose=False)
    assert fresh.decoding == data.decoding
    # So are a file of weights and a run that starts from another one's.
    assert made(shapes, network, str(file))[0].decoding == Decoding(1, 256, resize=256)
    other, _ = made(shapes, network, "checkpoints/last.ckpt")
    assert other.schema.inputs == data.schema.inputs
    assert "--model.weights checkpoints/last.ckpt declares 32 of 36 pixels" in other.remarks[0]


def test_a_run_keeps_what_was_declared_and_every_command_follows(shapes, tmp_path, capsys):
    file = tmp_path / "weights.pt"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    small = ["--data.num_workers=0", "--trainer.accelerator=cpu", "--name=small", f"--data.root={shapes}"]
    network = ["--model.network=Backbone", "--model.network.name=squeezenet1_1", f"--model.weights={file}"]
    once = ["--trainer.max_epochs=1", "--data.batch_size=8", "--trainer.logger=false", "--report=false"]
    once += ["--model.schedule=null", "--model.warmup_steps=0"]
    assert exit_code(["fit", *small, *network, *once, "--data.image_size=33"]) == 0
    told = capsys.readouterr().out
    assert "preprocessing: Backbone squeezenet1_1 declares 224 of 256 pixels, bilinear, fit crop, mean" in told
    assert "overruled by --data.image_size 33\n" in told
    settings = yaml.safe_load(Path("runs/small/version_0/config.yaml").read_text())["data"]
    expected = {"image_size": 33, "stored_size": 37, "resize_size": 37, "fit": "crop", "interpolation": "bilinear"}
    assert {name: settings[name] for name in (*expected, "mean", "std")} == {**expected, "mean": [*MEAN], "std": [*STD]}
    file.unlink()
    assert exit_code(["validate", *small]) == 0
    assert exit_code(["predict", *small, f"--data.predict_root={shapes}"]) == 0
    row = Path("runs/small/version_0/predictions.csv").read_text().splitlines()[1].split(",")
    model = Classifier.load_from_checkpoint("runs/small/version_0/checkpoints/best.ckpt").eval()
    image = tv.center_crop(tv.resize(Image.open(shapes / row[0]), [37]), [33])
    with torch.no_grad():
        probabilities = model.predict(torch.from_numpy(np.asarray(image).copy())[None, None])
    assert probabilities[0].tolist() == pytest.approx([float(cell) for cell in row[2:]], abs=1e-5)
    assert exit_code(["fit", *small, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert (
        exit_code(
            ["fit", *small, *once, "--model.network=Backbone", "--model.network.name=vit_b_32", "--data.image_size=100"]
        )
        == 2
    )
    assert "--data.image_size=100 is not what Backbone vit_b_32 takes, 224 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("mean", "abc"), ("std", [0.0]), ("resize_size", 0), ("fit", "x")])
def test_a_checkpoint_whose_images_cannot_be_is_refused(name, value, tmp_path, shapes):
    inputs = {
        "mean": [*MEAN],
        "std": [*STD],
        "interpolation": "bilinear",
        "image_size": 8,
        "resize_size": 8,
        "fit": "crop",
    }
    schema = {"inputs": {**inputs, name: value}}
    torch.save({"hyper_parameters": {"schema": schema}, "state_dict": {}}, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="says of its images what cannot be"):
        made(shapes, SmallCNN, str(tmp_path / "odd.ckpt"))


def test_a_run_of_an_earlier_version_means_what_it_meant(shapes):
    fit(shapes, SmallCNN)
    checkpoint = torch.load("checkpoints/last.ckpt", weights_only=True)
    inputs = checkpoint["hyper_parameters"]["schema"]["inputs"]
    for name in ("mean", "std", "interpolation", "resize_size"):
        del inputs[name]
    checkpoint["hyper_parameters"]["network"]["class_path"] = f"{Net.__module__}.Net"
    torch.save(checkpoint, "checkpoints/last.ckpt")
    for network, weights in (
        (SmallCNN, "checkpoints/last.ckpt"),
        (partial(As, name="resnet18"), "checkpoints/last.ckpt"),
    ):
        data, model = made(shapes, network, weights)
        assert data.decoding == Decoding(1, 16)
        assert torch.equal(model.normalised.mean_1C11, Normalise(1).mean_1C11)
    data = ImageData(str(shapes), num_workers=0, cache_gb=0)
    data.model = Classifier(network=Net)
    data.model.resumed = {"from": "checkpoints/last.ckpt"}
    data.setup("fit")
    assert data.decoding == Decoding(1, 16)
    assert Normalise.as_declared(inputs).mean_1C11.item() == Normalise(1).mean_1C11.item()
