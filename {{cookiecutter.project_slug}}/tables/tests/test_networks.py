"""Networks for tables: their formulas, their parts, and what an export makes of them."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from project_package.engine.encoding import Columns, Encoded, Encoding, Inputs
from project_package.engine.stages import last_layer, stages
from project_package.networks import (
    MLP,
    Embedding,
    Heads,
    Periodic,
    Piecewise,
    ResNet,
    SharedLinear,
    TabM,
)

NETWORKS = {
    "MLP": partial(MLP, width=16),
    "ResNet": partial(ResNet, width=16),
    "TabM": partial(TabM, width=16, heads=4),
}
COLUMNS = Columns(["a", "b"], {"few": ["x", "y"], "many": [str(value) for value in range(9)]}, ["b"])


def rows(count, seed=0):
    draw = np.random.default_rng(seed)
    codes = [draw.integers(0, 3, count), draw.integers(0, 10, count)]
    x_NF = np.column_stack([draw.normal(size=count), draw.normal(size=count), *codes]).astype(np.float32)
    x_NF[::5, 1] = np.nan
    return torch.from_numpy(x_NF)


class Whole(nn.Module):
    """A network behind the encoding of its rows, as a model has them."""

    def __init__(self, name, numbers):
        super().__init__()
        torch.manual_seed(0)
        self.encoding = Encoding(COLUMNS, "robust", rows(500))
        self.network = NETWORKS[name](self.encoding.inputs(rows(500)), 3, numbers=numbers)

    def forward(self, x_NF):
        return self.network(self.encoding(x_NF))


@pytest.fixture(params=["plain", "periodic", "piecewise"])
def numbers(request):
    return request.param


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def test_a_row_becomes_its_outputs_in_each_head(name, numbers):
    shape = (7, 4, 3) if name == "TabM" else (7, 3)
    assert Whole(name, numbers)(rows(7)).shape == shape


def test_every_parameter_is_trained(name, numbers):
    model = Whole(name, numbers)
    model(rows(64)).square().mean().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_the_first_stage_embeds_and_the_last_is_the_head(name, numbers):
    network = Whole(name, numbers).network
    first, *_, last = network.children()
    assert isinstance(first, Embedding)
    assert last is network.head
    assert last_layer(network)[1] in list(last.modules())
    assert stages(network)[-1] is last
    assert network.activation == "relu"


def test_a_row_is_judged_without_the_others(name, numbers):
    model = Whole(name, numbers).eval()
    together, alone = model(rows(7)), torch.cat([model(row_NF) for row_NF in rows(7).split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_one_made_without_rows_loads_the_weights_of_another(name, numbers):
    fitted = Whole(name, numbers).eval()
    empty = NETWORKS[name](Inputs(2, 3, (10,)), 3, numbers=numbers).eval()
    empty.load_state_dict(fitted.network.state_dict())
    encoded = fitted.encoding(rows(9))
    assert torch.equal(empty(encoded), fitted.network(encoded))


def test_exported_it_gives_the_same_for_any_number_of_rows(name, numbers):
    model = Whole(name, numbers).eval()
    any_number = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (rows(2),), dynamic_shapes=any_number).module()
    for count in (1, 7):
        torch.testing.assert_close(program(rows(count)), model(rows(count)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "numbers"), [("MLP", "piecewise"), ("ResNet", "plain"), ("TabM", "periodic")])
def test_onnx_gives_the_same_for_any_number_of_rows(name, numbers, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Whole(name, numbers).eval()
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (rows(2),),
            input_names=["rows"],
            dynamic_shapes=({0: "batch"},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(tmp_path / "model.onnx", external_data=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        found = session.run(None, {"rows": rows(count).numpy()})[0]
        np.testing.assert_allclose(found, model(rows(count)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("columns", [Columns(["a"], {}, []), Columns([], {"few": ["x", "y"]}, [])])
def test_a_table_may_have_numbers_alone_or_categories_alone(name, columns):
    encoding = Encoding(columns, "robust", torch.ones(9, 1))
    network = NETWORKS[name](encoding.inputs(torch.ones(9, 1)), 1)
    assert network(encoding(torch.ones(9, 1))).isfinite().all()


def test_piecewise_embeddings_are_their_formula():
    torch.manual_seed(0)
    seen_NF = torch.randn(400, 2)
    seen_NF[:200, 1] = 0.5  # ties: fewer bins
    embed = Piecewise(2, 3, bins=4, seen_NF=seen_NF)
    nn.init.normal_(embed.bends)
    x_NF = torch.randn(20, 2) * 2
    bends, slope, bias = (
        part.detach().numpy() for part in (embed.bends, embed.slope.view(2, 3), embed.bias.view(2, 3))
    )
    expected = np.zeros((20, 2, 3))
    for column in range(2):
        edges = np.unique(np.quantile(seen_NF[:, column].double().numpy(), [0, 0.25, 0.5, 0.75, 1]))
        for row, value in enumerate(x_NF[:, column].tolist()):
            expected[row, column] = slope[column] * value + bias[column]
            for place, (low, high) in enumerate(pairwise(edges)):
                expected[row, column] += np.clip((value - low) / (high - low), 0, 1) * bends[column, place]
    np.testing.assert_allclose(embed(x_NF).detach().view(20, 2, 3).numpy(), expected, atol=1e-5)


def test_piecewise_embeddings_are_straight_lines_at_first():
    embed = Piecewise(1, 8, bins=16, seen_NF=torch.randn(400, 1))
    values_ND = embed(torch.linspace(-3, 3, 7).unsqueeze(1)).detach()
    torch.testing.assert_close(values_ND.diff(dim=0), values_ND.diff(dim=0)[:1].expand(6, -1))


def test_a_column_without_variance_has_no_bins_and_breaks_nothing():
    embed = Piecewise(1, 8, bins=16, seen_NF=torch.zeros(9, 1))
    assert not embed.steepness_FB.any()
    assert embed(torch.tensor([[0.0], [5.0]])).isfinite().all()


def test_periodic_embeddings_are_their_formula():
    torch.manual_seed(0)
    embed = Periodic(2, 3, frequencies=5)
    x_NF = torch.randn(7, 2)
    weight, bias = embed.weight.detach().numpy(), embed.bias.detach().view(2, 3).numpy()
    for column in range(2):
        angles = 2 * np.pi * x_NF[:, column, None].numpy() * embed.frequencies[column].detach().numpy()
        waves = np.concatenate([np.cos(angles), np.sin(angles)], 1)
        expected = np.maximum(waves @ weight[column] + bias[column], 0)
        np.testing.assert_allclose(embed(x_NF).detach().view(7, 2, 3)[:, column].numpy(), expected, atol=1e-5)


def test_a_value_that_training_has_not_seen_is_embedded_as_0_at_first():
    embed = Embedding(Inputs(1, 0, (10,)), "plain")
    row = Encoded(torch.ones(1, 1), torch.ones(1, 0), torch.zeros(1, 1, dtype=torch.long))
    assert embed(row).tolist() == [[1] + [0] * 8]


def test_each_head_of_tabm_is_an_mlp_of_shared_weights():
    torch.manual_seed(0)
    network: Any = TabM(Inputs(3, 0, ()), 2, heads=4, width=5, depth=2, numbers="plain").eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
    x_NF = torch.randn(6, 3)
    outputs_NHK = network(Encoded(x_NF, torch.ones(6, 0), torch.ones(6, 0))).detach()
    for head in range(4):
        hidden = x_NF
        for layer, *_ in network.features:
            assert isinstance(layer, SharedLinear)
            shift = layer.shifts.view(4, -1)[head]
            hidden = (((hidden * layer.scale_in[head]) @ layer.weight.T) * layer.scale_out[head] + shift).relu()
        weight, bias = network.head.weight.view(4, 2, 5)[head], network.head.bias.view(4, 2)[head]
        torch.testing.assert_close(outputs_NHK[:, head], hidden @ weight.T + bias)


def test_heads_of_tabm_start_from_different_inputs_and_outputs_alone():
    torch.manual_seed(0)
    network: Any = TabM(Inputs(3, 2, ()), 1, heads=4, width=5, depth=2, numbers="plain")
    first, second = (block[0] for block in network.features)
    assert set(first.scale_in.unique().tolist()) == {-1, 1}
    assert len(first.scale_in.unique(dim=0)) == 4
    assert (first.scale_out == 1).all()
    assert (second.scale_in == 1).all()
    assert (first.shifts.view(4, 5) == first.shifts.view(4, 5)[0]).all()
    assert isinstance(network.head, Heads)
    assert len(network.head.weight.view(4, 5).unique(dim=0)) == 4


def test_the_components_of_an_embedding_share_their_first_sign():
    torch.manual_seed(0)
    network: Any = TabM(Inputs(2, 1, (10,)), 1, heads=4, width=5, numbers="periodic", embedding=3)
    signs_HD = network.features[0][0].scale_in
    assert signs_HD.shape == (4, 2 * 3 + 1 + 8)
    for start, end in ((0, 3), (3, 6), (7, 15)):
        assert (signs_HD[:, start:end] == signs_HD[:, start, None]).all()
    assert set(signs_HD.unique().tolist()) == {-1, 1}
