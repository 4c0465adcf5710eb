"""timm's models: built, trained, frozen, resumed and exported as others are, with weights as timm loads them."""

import dataclasses
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD

from project_package.callbacks import LastCheckpoint
from project_package.data import ImageData
from project_package.engine.installing import of_extra
from project_package.engine.mistakes import Mistake
from project_package.engine.optimizers import parameter_groups
from project_package.engine.preprocessing import Preprocessing
from project_package.engine.stages import heads, last_layer, names_of, stages
from project_package.engine.timm_models import Timm, sizes_near
from project_package.engine.weights import load_weights
from project_package.model import Classifier

timm = pytest.importorskip("timm", reason=f"timm is an extra: {of_extra('timm')}")

# Of each family its smallest model, and the options by which it takes images of 32 pixels.
FAMILIES = {
    "resnet": ("test_resnet", {}),
    "convnext": ("test_convnext", {}),
    "vit": ("test_vit", {"image_size": 32}),
    "efficientnet": ("test_efficientnet", {}),
    "nfnet": ("test_nfnet", {}),
    "byobnet": ("test_byobnet", {}),
    "vit with relative positions": ("test_vit_relpos", {"image_size": 32}),
    "coatnet": ("test_coatnet", {"image_size": 32}),
    "mambaout": ("test_mambaout", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "regnet": ("regnetx_002", {}),
}
# What a configuration of timm says, and what becomes of it here.
FIELDS = {
    **dict.fromkeys(("hf_hub_id", "hf_hub_filename"), "--model.weights: published_weights takes this file"),
    "url": "named in the refusal, where the hub has no weights",
    **dict.fromkeys(("file", "state_dict"), "not honoured: --model.weights FILE says where weights are"),
    "source": "not honoured: a name with a source (hf-hub:…) is refused, for a name fetches no configuration",
    "architecture": "a part of --model.network.name",
    "tag": "a part of --model.network.name, or --model.weights",
    "custom_load": "not honoured: only weights in formats of PyTorch and safetensors are read",
    "input_size": "Preprocessing.size, what a fixed model is built for, and the channels that a first layer has",
    "fixed_input_size": "Preprocessing.other_sizes, and which images forward refuses",
    "interpolation": "Preprocessing.interpolation",
    "crop_pct": "Preprocessing.crop_fraction",
    "crop_mode": "Preprocessing.fit",
    "mean": "Preprocessing.mean",
    "std": "Preprocessing.std",
    **dict.fromkeys(
        ("test_input_size", "test_crop_pct", "test_pool_size"),
        "not honoured: one size holds for training and evaluation; --data.image_size gives another",
    ),
    "min_input_size": "not honoured: what a model cannot take it refuses itself",
    "num_classes": "not honoured: classes are those of the data",
    "label_offset": "not honoured: a head of other classes starts afresh",
    **dict.fromkeys(("label_names", "label_descriptions"), "not honoured: names are those of the data"),
    "pool_size": "not honoured: it follows from the size of the images",
    "first_conv": "converted_weights adapts it to the channels",
    "classifier": "head_names: what starts afresh, and is the last stage",
    **dict.fromkeys(
        ("license", "description", "origin_url", "paper_name", "paper_ids", "notes"), "not honoured: for people"
    ),
}


def make(name="test_vit", classes=3, channels=3, seed=0, **options):
    torch.manual_seed(seed)
    return Timm(channels, classes, name, **options)


def fit(shapes, name, epochs=1, ckpt_path=None, callbacks=(), model_options=None, channels=1, **options):
    """Train a model for one step an epoch."""
    size = options.get("image_size") or 32
    data = ImageData(str(shapes), num_workers=0, batch_size=16, image_size=size, channels=channels)
    network = partial(Timm, name=name, **options)
    model = Classifier(network=network, optimizer=partial(SGD, lr=0.05), schedule=None, **(model_options or {}))
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_train_batches=1,
        limit_val_batches=1,
        accelerator="cpu",
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, trainer


def test_every_field_of_a_configuration_is_honoured_or_left_out_by_name():
    assert {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)} == FIELDS.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_resumed_and_exported(family, shapes):
    name, options = FAMILIES[family]
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    unbroken, _ = fit(shapes, name, epochs=2, **options)
    fit(shapes, name, callbacks=[LastCheckpoint(dirpath="checkpoints")], **options)
    resumed, _ = fit(shapes, name, epochs=2, ckpt_path="checkpoints/last.ckpt", **options)
    for key, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    network = resumed.network
    side = options.get("image_size") or 32
    x_NCHW = torch.randn(2, 1, side, side)
    network(x_NCHW).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())  # what DDP asks for
    network.eval()
    batch = {"x_NCHW": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(network, (x_NCHW,), dynamic_shapes=batch).module()
    one_more = torch.cat((x_NCHW, x_NCHW[:1]))
    with torch.no_grad():
        assert torch.allclose(exported(one_more), network(one_more), atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet", "test_nfnet"])
def test_stages_rates_and_decay_are_those_of_timm(name):
    from timm.optim import param_groups_layer_decay

    network = make(name)
    model = network.model
    skipped = getattr(model, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(model, 0.05, no_weight_decay_list=skipped, layer_decay=0.5)
    ours = parameter_groups(network, layer_decay=0.5)
    rate = {parameter: group["lr_scale"] for group in theirs for parameter in group["params"]}
    assert rate == {parameter: group["lr_factor"] for group in ours for parameter in group["params"]}
    assert {p for group in theirs if not group["weight_decay"] for p in group["params"]} == {
        p for group in ours if "weight_decay" in group for p in group["params"]
    }


def test_embeddings_of_positions_have_no_decay_where_timm_forgets_them():
    network = make("visformer_tiny", image_size=64)
    assert {"model.pos_embed1", "model.pos_embed2", "model.pos_embed3"} <= network.no_weight_decay()
    assert "model.head.weight" not in network.no_weight_decay()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "levit_128s", "caformer_s18"])
def test_stages_hold_every_parameter_once_and_the_head_is_the_last(name):
    network = make(name)
    parts = stages(network)
    held = [parameter for part in parts for parameter in part.parameters()]
    assert len(held) == len({*held}) == len([*network.parameters()])
    head = {parameter for name in heads(network) for parameter in network.get_submodule(name).parameters()}
    if hasattr(network.model, "group_matcher"):
        assert {*parts[-1].parameters()} == head
    else:
        assert {*parts[-1].parameters()} >= head
    assert last_layer(network)[0].startswith(heads(network)[-1])
    assert len({*names_of(network, parts)}) == len(parts)


@pytest.fixture
def weights(tmp_path):
    """A file of weights for ten classes and three colours."""
    torch.save(make(classes=10, seed=5).model.state_dict(), tmp_path / "vit.pt")
    return str(tmp_path / "vit.pt")


def test_freezing_leaves_tokens_and_positions_alone_and_unfreezing_goes_by_stages(shapes, weights, capsys):
    start = torch.load(weights, weights_only=True)
    options = {"model_options": {"weights": weights, "freeze": True}, "image_size": 160, "channels": 3}
    model, trainer = fit(shapes, "test_vit", **options)
    said = capsys.readouterr().out
    assert "model.cls_token + model.pos_embed + model.patch_embed, model.blocks.0" in said
    assert "model.head starts afresh" in said
    trained = model.network.model.state_dict()
    assert all(torch.equal(start[name], trained[name]) for name in ("cls_token", "pos_embed", "blocks.0.mlp.fc1.bias"))
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == 2
    options["model_options"]["unfreeze_every"] = 1
    model, _ = fit(shapes, "test_vit", epochs=2, **options)
    moved = {name for name, value in model.network.model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name.partition(".")[0] for name in moved} == {"blocks", "norm", "head"}
    assert {name.split(".")[1] for name in moved if name.startswith("blocks")} == {"5"}


def test_a_frozen_models_own_dropout_before_the_head_works():
    network = make("test_efficientnet", dropout=0.5)
    network.requires_grad_(False).eval()
    stages(network)[-1].train()
    x_NCHW = torch.randn(8, 3, 32, 32)
    assert not torch.equal(network(x_NCHW), network(x_NCHW))
    assert not any(module.training for module in network.model.blocks.modules())


def test_dropout_and_stochastic_depth_reach_the_model_and_one_without_them_says_so():
    network = make("test_convnext", dropout=0.25, stochastic_depth=0.5)
    assert network.model.head.drop.p == 0.25
    assert max(getattr(module, "drop_prob", 0) or 0 for module in network.modules()) == 0.5
    with pytest.raises(Mistake, match="drop_path_rate"):
        make("vgg11", stochastic_depth=0.5)


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics():
    for name in ("test_resnet", "test_vit"):
        plain, saving = make(name), make(name, checkpointing=True)
        side = plain.side or 32
        x_NCHW = torch.randn(4, 3, side, side)
        kept = []
        for network in (plain, saving):
            sizes = []

            def pack(tensor, sizes=sizes):
                sizes.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                network(x_NCHW)
            kept.append(sum(sizes))
            network.load_state_dict(make(name).state_dict())
            network(x_NCHW).square().mean().backward()  # without hooks, which would hide what was changed in place
        assert kept[1] < kept[0] / 2, name
        for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, atol=1e-5)
        assert all(
            torch.allclose(value, saving.state_dict()[key], atol=1e-6)
            for key, value in plain.state_dict().items()
            if "running" in key
        )


def test_a_compiled_and_checkpointed_model_is_the_same():
    plain, both = make("test_resnet"), make("test_resnet", checkpointing=True)
    both.compile(backend="eager")
    x_NCHW = torch.randn(2, 3, 32, 32)
    for network in (plain, both):
        network(x_NCHW).square().mean().backward()
    for one, two in zip(plain.parameters(), both.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-5)


def test_outputs_of_several_heads_are_averaged():
    network = make("levit_128s", image_size=64).train()
    network.model = nn.Module()
    network.model.forward = lambda x: (x.mean((2, 3)), 3 * x.mean((2, 3)))
    x_NCHW = torch.randn(2, 3, 64, 64)
    assert torch.allclose(network(x_NCHW), 2 * x_NCHW.mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "convnext_tinny"}, "choose from convnext_tiny, "),
        ({"name": "convnext_tiny.fb_in22k_ft_in2k"}, "choose from convnext_tiny.fb_in22k_ft_in1k, "),
        ({"name": "hf-hub:someone/model"}, "is unknown"),
        ({"name": "local-dir:/tmp"}, "is unknown"),
        ({"name": "test_vit", "image_size": 33}, r"--model.network.image_size one of 16, 32, 48, 64"),
        ({"name": "resnet18", "image_size": 32}, "would have no effect"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(options, words):
    with pytest.raises(Mistake, match=words) as raised:
        make(**options)
    assert "\n" not in str(raised.value)


def test_images_of_another_size_than_a_transformers_are_refused():
    with pytest.raises(Mistake, match=r"built for images of 160 pixels and --data\.image_size is 32"):
        make()(torch.zeros(2, 3, 32, 32))
    network = make(image_size=32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert sizes_near(network.make, 3, 40) == [16, 32, 48, 64]


def test_a_missing_timm_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(Mistake, match=re.escape(of_extra("timm"))):
        make()


def test_weights_are_adapted_to_the_channels_and_the_size_and_it_is_said(weights, capsys):
    network = make(channels=1, image_size=32)
    load_weights(network, weights)
    said = capsys.readouterr().out
    assert "converted sizes (" in said
    assert "patch_embed.proj.weight" in said
    assert "pos_embed" in said
    theirs = torch.load(weights, weights_only=True)
    own = network.model.state_dict()
    assert torch.allclose(own["patch_embed.proj.weight"], theirs["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert own["pos_embed"].shape[1] < theirs["pos_embed"].shape[1]
    assert torch.equal(own["blocks.0.mlp.fc1.weight"], theirs["blocks.0.mlp.fc1.weight"])
    x_NCHW = torch.randn(2, 1, 160, 160)
    grey, colour = make(classes=10, channels=1), make(classes=10)
    for model in (grey.eval(), colour.eval()):
        load_weights(model, weights)
    assert torch.allclose(grey(x_NCHW), colour(x_NCHW.expand(-1, 3, -1, -1)), atol=1e-4)


def test_weights_with_the_names_of_another_project_are_converted_as_timm_does(tmp_path, capsys):
    theirs = make("test_convnext", seed=5).model.state_dict()
    old = {"stem.": "downsample_layers.0.", ".conv_dw.": ".dwconv.", ".mlp.fc1.": ".pwconv1.", ".mlp.fc2.": ".pwconv2."}
    old |= {"head.fc.": "head.", "head.norm.": "norm.", ".blocks.": "."}
    renamed = {}
    for name, value in theirs.items():
        if ".downsample." in name:
            stage, rest = name.removeprefix("stages.").split(".downsample.")
            name = f"downsample_layers.{stage}.{rest}"
        for new, former in old.items():
            name = (
                name.replace(new, former, 1) if new not in ("head.fc.", "head.norm.") or name.startswith(new) else name
            )
        renamed[name] = value
    torch.save({"model": renamed}, tmp_path / "convnext.pth")
    network = make("test_convnext")
    load_weights(network, str(tmp_path / "convnext.pth"))
    assert "model → converted names (stem.0.weight" in capsys.readouterr().out
    assert all(torch.equal(value, theirs[name]) for name, value in network.model.state_dict().items())


def test_statistics_without_a_counter_are_taken_as_torch_takes_them(tmp_path):
    theirs = make("test_resnet", seed=5).model.state_dict()
    kept = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "resnet.safetensors")
    network = make("test_resnet")
    load_weights(network, str(tmp_path / "resnet.safetensors"))
    assert torch.equal(network.model.fc.weight, theirs["fc.weight"])


@pytest.mark.parametrize("other", ["test_resnet", "test_vit2", "test_convnext"])
def test_weights_of_another_architecture_name_the_first_names_that_differ(other, weights):
    network = make(other)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(Mistake, match=r"another architecture \(.+ … differ\)") as raised:
        load_weights(network, weights)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache in a folder of its own, and no network."""

    def unreachable():
        raise OSError("no way to the hub")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils.get_session", unreachable)
    return tmp_path


def test_without_a_network_it_is_said_which_file_to_put_where(hub):
    with pytest.raises(Mistake) as raised:
        load_weights(make("test_vit"), "DEFAULT")
    said = str(raised.value)
    assert "cannot be downloaded (no way to the hub)" in said
    assert "hf download timm/test_vit.r160_in1k model.safetensors" in said
    assert "--model.weights FILE" in said
    assert str(hub / "models--timm--test_vit.r160_in1k") in said
    assert "\n" not in said


def test_weights_are_taken_from_the_hubs_cache(hub, capsys):
    theirs = make("test_vit", classes=1000, seed=5).model.state_dict()
    folder = hub / "models--timm--test_vit.r160_in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    save_file(theirs, folder / "snapshots/abc/model.safetensors")
    for source, name in (("DEFAULT", "test_vit"), ("DEFAULT", "test_vit.r160_in1k"), ("r160_in1k", "test_vit")):
        network = make(name)
        load_weights(network, source)
        assert torch.equal(network.model.norm.weight, theirs["norm.weight"])
        assert torch.equal(network.model.pos_embed, theirs["pos_embed"])
        assert "model.head starts afresh" in capsys.readouterr().out


def test_an_unknown_tag_lists_those_that_there_are():
    with pytest.raises(Mistake, match="choose from r160_in1k, DEFAULT, a file"):
        load_weights(make("test_vit"), "r161_in1k")


def test_weights_that_the_hub_does_not_have_are_told_by_their_address():
    with pytest.raises(Mistake, match=r"download https://.*gcvit_xxtiny.* and give that file"):
        Timm.published_weights(make("gcvit_xxtiny"), "DEFAULT")


class As(nn.Module):
    """Declares what a Timm does, and is as small as can be."""

    preprocessing = staticmethod(Timm.preprocessing)

    def __init__(self, in_channels, num_classes, **options):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny.fb_in22k_ft_in1k",  # 224 of 256
        "vit_base_patch16_224.augreg_in21k",  # bicubic, 0.5 for mean and deviation, 224 of 248
        "tf_efficientnet_b1.ns_jft_in1k",  # 240 of 272
        "dm_nfnet_f0.dm_in1k",  # squash, 192 of 213
    ],
)
def test_what_weights_are_fed_is_what_timms_own_transforms_give(name, tmp_path):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transforms = timm.data.create_transform(**config, is_training=False)
    for label, length in (("a", 9), ("b", 12)):
        (tmp_path / label).mkdir()
        for number, (width, height) in enumerate([(300, 300), (333, 257), (90, 71), (197, 641)] * 2):
            y, x = np.mgrid[:height, :width]
            waves = [128 + 90 * np.sin(x / (length + number) + 2 * c) * np.cos(y / 7) for c in range(3)]
            Image.fromarray(np.stack(waves, 2).astype(np.uint8)).save(tmp_path / label / f"{number}.png")
    data = ImageData(str(tmp_path), num_workers=0, batch_size=8, cache_gb=0, augment="none")
    data.model = model = Classifier(network=partial(As, name=name), weights="DEFAULT")
    data.setup("fit")
    model.build(data.schema, data.loss_balance)
    level_C11 = 255 * torch.tensor(config["std"]).view(3, 1, 1)
    for index, key in enumerate(data.train_keys):
        fed = model.prepared(data.train[index].x[None])[0]
        theirs = transforms(Image.open(tmp_path / key))
        assert fed.shape == theirs.shape
        assert ((fed - theirs) * level_C11).abs().max() < 1, key  # grey levels


def test_a_models_preprocessing_is_timms_own():
    for name in ("vit_base_patch16_224.augreg_in21k", "convnext_tiny.fb_in22k_ft_in1k", "test_vit", "resnet18.tv_in1k"):
        said = timm.data.resolve_model_data_config(timm.create_model(name))
        own = Timm.preprocessing("DEFAULT", name=name)
        assert own is not None
        assert own.mean == tuple(said["mean"])
        assert own.std == tuple(said["std"])
        assert own.size == said["input_size"][-1]
        assert own.interpolation == said["interpolation"]
        assert own.crop_fraction == said["crop_pct"]
        assert own.fit == "crop"
    assert Timm.preprocessing("tv_in1k", name="resnet18") == Timm.preprocessing("DEFAULT", name="resnet18.tv_in1k")
    assert Timm.preprocessing("DEFAULT", name="test_vit", image_size=32).size == 32
    assert Timm.preprocessing(None, name="resnet18") is None
    assert Timm.preprocessing(None, name="test_vit") == Preprocessing(
        size=160, other_sizes="give --model.network.image_size too"
    )
