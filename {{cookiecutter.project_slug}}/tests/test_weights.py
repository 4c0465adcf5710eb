"""Pre-trained weights: whatever wrote them, they fit the whole network but its last layer, or are refused."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from project_package.engine.mistakes import Mistake
from project_package.engine.weights import load_weights
from project_package.networks import Backbone, SmallCNN, SmallMLP


def resnet(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(3, 3, "resnet18")


def small(seed: int) -> SmallCNN:
    torch.manual_seed(seed)
    return SmallCNN(1, 3, width=8)


def renamed(state, change):
    return {change(name): value for name, value in state.items()}


def under(prefix):
    return lambda state: renamed(state, lambda name: prefix + name)


# How projects, trainers and wrappers write the weights of a network, and what is said of it.
LAYOUTS = {
    "a state dict": (lambda state: state, ""),
    "DDP": (under("module."), "module."),
    "torch.compile": (under("_orig_mod."), "_orig_mod."),
    "both": (under("module._orig_mod."), "module._orig_mod."),
    "a compiled part": (lambda s: renamed(s, lambda n: n.replace(".", "._orig_mod.", 1)), "names without _orig_mod"),
    "a parallel part": (lambda s: renamed(s, lambda n: n.replace(".", ".module.", 1)), "names without module"),
    "recomputed activations": (
        lambda s: renamed(s, lambda n: n.replace(".", "._checkpoint_wrapped_module.", 1)),
        "names without _checkpoint_wrapped_module",
    ),
    "AveragedModel": (
        lambda s: {"n_averaged": torch.tensor(3), **under("module.")(s)},
        "no part of the network: n_averaged",
    ),
    "Lightning": (
        lambda s: {"state_dict": {**under("model.")(s), "criterion.weight": torch.ones(3)}, "loops": {}, "epoch": 3},
        "state_dict → model.; no part of the network: criterion.weight",
    ),
    "compiled in Lightning": (lambda s: {"state_dict": under("net._orig_mod.")(s)}, "state_dict → net._orig_mod."),
    "timm": (lambda s: {"epoch": 1, "arch": "x", "state_dict": s, "args": Namespace(lr=1)}, "state_dict"),
    "a usual loop": (lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: {}}}}, "model_state_dict"),
    "detection": (lambda s: {"model": s, "optimizer": {}, "lr_scheduler": {"last": 1}}, "model"),
    "net": (lambda s: {"net": under("module.")(s), "acc": 93.1}, "net → module."),
    "self-supervised": (lambda s: {"state_dict": under("module.encoder_q.")(s)}, "state_dict → module.encoder_q."),
    "deeper": (lambda s: {"checkpoint": {"models": {"classifier": s}}}, "checkpoint → models → classifier"),
    "without a head": (lambda s: {n: v for n, v in s.items() if not n.startswith(("fc", "head.3"))}, "starts afresh"),
    "another head": (
        lambda s: renamed(s, lambda n: n.replace("fc.", "fc.2.").replace("head.3.", "head.3.2.")),
        "starts afresh",
    ),
}


def assert_holds(network, state, but="nothing"):
    """Compare a network with a state dict of bare names, all but one layer."""
    own = {name.removeprefix("model."): value for name, value in network.state_dict().items()}
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith(but))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [resnet, small])
def test_weights_of_common_layouts_are_unwrapped_and_it_is_said(layout, make, tmp_path, capsys):
    state = {name.removeprefix("model."): value for name, value in make(1).state_dict().items()}
    write, words = LAYOUTS[layout]
    torch.save(write(state), tmp_path / "weights.pt")
    network = make(2)
    load_weights(network, str(tmp_path / "weights.pt"))
    said = capsys.readouterr().out
    assert len(said.splitlines()) == bool(words)
    assert words in said
    assert_holds(network, state, ("fc", "head.3") if "afresh" in words else "nothing")


@pytest.mark.parametrize(
    ("pair", "taken"),
    [
        (("state_dict", "state_dict_ema"), "state_dict_ema"),
        (("model_ema", "model"), "model_ema"),
        (("model", "ema"), "ema"),
        (("student", "teacher"), "teacher"),
        (("state_dict", "current_model_state"), "state_dict"),
        (("best", "last"), "best"),
    ],
)
def test_of_two_weights_in_a_file_it_is_said_which_were_taken(pair, taken, tmp_path, capsys):
    states = {name: small(seed).state_dict() for seed, name in enumerate(pair)}
    torch.save(states, tmp_path / "weights.pt")
    network = small(7)
    load_weights(network, str(tmp_path / "weights.pt"))
    [other] = {*pair} - {taken}
    assert f"has them as {taken}; not taken: {other}" in capsys.readouterr().out
    assert_holds(network, states[taken])


def test_averaged_weights_under_a_prefix_are_taken_before_the_others(tmp_path, capsys):
    plain, averaged = small(1).state_dict(), small(2).state_dict()
    torch.save({"state_dict": {**under("net.")(plain), **under("ema_net.module.")(averaged)}}, tmp_path / "weights.pt")
    network = small(7)
    load_weights(network, str(tmp_path / "weights.pt"))
    assert "state_dict → ema_net.module.; not taken: state_dict → net." in capsys.readouterr().out
    assert_holds(network, averaged)


def nearly(state, *changes):
    state = {**state}
    for change in changes:
        change(state)
    return state


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("features.0.0.weight"),
        lambda state: state.pop("features.2.5.running_var"),
        lambda state: state.update({"features.3.0.weight": torch.ones(1)}),
        lambda state: state.update({"features.0.0.weight": torch.ones(8, 3, 3, 3)}),
        lambda state: state.update({"features.0.1.weight": torch.ones(4)}),
        lambda state: state.update({"head.4.weight": torch.ones(1)}),
    ],
)
@pytest.mark.parametrize("layout", ["a state dict", "Lightning", "net"])
def test_weights_that_fit_all_but_one_are_refused(change, layout, tmp_path):
    state = nearly(small(1).state_dict(), change)
    torch.save(LAYOUTS[layout][0](state), tmp_path / "weights.pt")
    network = small(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(Mistake, match="another architecture"):
        load_weights(network, str(tmp_path / "weights.pt"))
    assert_holds(network, before)


def test_a_network_of_one_layer_takes_no_weights_of_another(tmp_path):
    torch.save({"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3)}, tmp_path / "weights.pt")
    network = torch.nn.Sequential(torch.nn.Linear(4, 2))
    with pytest.raises(Mistake, match="another architecture"):
        load_weights(network, str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("content", "words"),
    [([torch.ones(3)], "holds no names with tensors"), ({"epoch": 3, "model": {}}, "holds no names with tensors")],
)
def test_a_file_without_weights_is_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(Mistake, match=words):
        load_weights(small(1), str(tmp_path / "weights.pt"))


def test_a_file_that_holds_a_class_says_which_in_one_line(tmp_path):
    torch.save(small(1), tmp_path / "weights.pt")
    with pytest.raises(Mistake, match=r"it holds \w+\.networks\.SmallCNN, no plain value") as raised:
        load_weights(small(1), str(tmp_path / "weights.pt"))
    assert "\n" not in str(raised.value)


def test_weights_that_hold_themselves_are_read_once(tmp_path):
    state = small(1).state_dict()
    content: dict = {"model": state}
    content |= {"again": content, "more": {f"{n}": content for n in range(1000)}}
    torch.save(content, tmp_path / "weights.pt")
    network = small(2)
    load_weights(network, str(tmp_path / "weights.pt"))
    assert_holds(network, state)


def test_weights_of_safetensors_are_read(tmp_path):
    state = small(1).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    network = small(2)
    load_weights(network, str(tmp_path / "weights.safetensors"))
    assert_holds(network, state)


def test_weights_of_other_classes_keep_all_but_the_head(tmp_path, capsys):
    torch.manual_seed(1)
    torch.save(SmallCNN(1, 7, width=8).state_dict(), tmp_path / "seven.pt")
    network = SmallCNN(1, 3, width=8)
    fresh = network.head[3].weight.clone()
    load_weights(network, str(tmp_path / "seven.pt"))
    assert "starts afresh" in capsys.readouterr().out
    theirs = torch.load(tmp_path / "seven.pt", weights_only=True)
    assert torch.equal(network.features[0][0].weight, theirs["features.0.0.weight"])
    assert torch.equal(network.head[3].weight, fresh)


def test_weights_of_another_architecture_say_which_keys_differ(tmp_path):
    torch.save(SmallMLP(1, 3).state_dict(), tmp_path / "mlp.pt")
    with pytest.raises(ValueError, match=r"another architecture.*features\.0"):
        load_weights(SmallCNN(1, 3), str(tmp_path / "mlp.pt"))
