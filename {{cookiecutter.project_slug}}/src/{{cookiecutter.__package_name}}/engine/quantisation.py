"""Quantisation-aware training: a network learns with the numbers that 8-bit integers hold (Jacob et al. 2018).

What is rounded is what ``export`` writes: of each convolution and each linear layer on vectors its weights, its inputs,
and, unless a ReLU follows, its outputs (those of its BatchNorm where one follows, which export folds into the layer).
The gradient passes a rounding as if it were none, and stops where a value lies outside its range. The network itself
stays as it is, and so do its names in checkpoints.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from .mistakes import Mistake, require
from .stages import BATCH_NORMS

# Seven bits of weights: processors without VNNI add products of 8 bits in 16, which overflows.
MOST_WEIGHT = 64  # integers from -64 to 64, symmetric, a scale for each output channel
MOST_VALUE = 255  # of inputs and outputs, from 0
LEAST_SCALE = 1e-12
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
Ranges = dict[str, list[list[float]]]  # layer → the range of its inputs and, where they are rounded, its outputs


class Layer(NamedTuple):
    """A layer that is rounded.

    Args:
        name: Its name in the network.
        module: The layer.
        outputs_of: Whose outputs are rounded as its own: itself or its BatchNorm; None where none are.
    """

    name: str
    module: nn.Module
    outputs_of: nn.Module | None


def scale_and_zero(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and the zero point of integers that hold a range, which zero belongs to."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / MOST_VALUE).clamp_min(LEAST_SCALE)
    return scale, (-low / scale).round().clamp(0, MOST_VALUE).to(torch.int32)


def scale_of_weights(weight: Tensor) -> Tensor:
    """Return the scale of the integers of each output channel, (O,)."""
    return (weight.detach().flatten(1).abs().amax(1) / MOST_WEIGHT).clamp_min(LEAST_SCALE)


def rounded_weights(weight: Tensor) -> Tensor:
    """Return weights as their integers give them back."""
    scale_O = scale_of_weights(weight)
    zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale_O, zero_O, 0, -MOST_WEIGHT, MOST_WEIGHT)


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return values as the integers of a range give them back."""
    return torch.fake_quantize_per_tensor_affine(x.float(), *scale_and_zero(low, high), 0, MOST_VALUE)


class _Call(NamedTuple):
    """One use of a module: the tensors that went in and came out, and their sums then, as some change in place."""

    module: nn.Module
    given: Tensor
    sum_given: float
    made: Tensor
    sum_made: float


@torch.no_grad()
def layers_to_round(network: nn.Module, x: Tensor) -> tuple[list[Layer], list[str]]:
    """Find what of a network is rounded by running it once.

    Args:
        network: The network.
        x: Inputs of it.

    Returns:
        The layers, and the names of those with weights that stay as they are: of another kind, or used never or twice.
    """
    calls: list[_Call] = []
    sums: list[float] = []

    def before(module: nn.Module, inputs: Any) -> None:
        sums.append(_sum(inputs))

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        sum_given = sums.pop()  # a norm may hold a module that was called within
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append(_Call(module, inputs[0], sum_given, output, _sum([output])))

    # timm's norms have an activation within.
    leaves = {m: name for name, m in network.named_modules() if isinstance(m, BATCH_NORMS) or not [*m.children()]}
    handles: list[Any] = [module.register_forward_pre_hook(before) for module in leaves]
    handles += [module.register_forward_hook(after) for module in leaves]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        network(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training

    head = next((module for module in reversed(leaves) if isinstance(module, nn.Conv2d | nn.Linear)), None)
    found, left = [], []
    for module, name in leaves.items():
        own = [call for call in calls if call.module is module]
        if not isinstance(module, nn.Conv2d | nn.Linear):
            if getattr(module, "weight", None) is not None and not isinstance(module, BATCH_NORMS):
                left.append(name)
        elif len(own) != 1 or not _is_plain(module, own[0].given):
            left.append(name)
        else:
            norm = _next(calls, own[0], BATCH_NORMS)
            last = norm or own[0]
            activates = norm is not None and any(True for _ in norm.module.children())
            cut = module is head or activates or _next(calls, last, (nn.ReLU, nn.ReLU6)) is not None
            found.append(Layer(name, module, None if cut else last.module))
    return found, left


def _sum(inputs: Any) -> float:
    return inputs[0].double().abs().sum().item() if inputs and isinstance(inputs[0], Tensor) else 0.0


def _is_plain(module: nn.Module, given: Tensor) -> bool:
    """Tell whether a layer computes what torch's own does, as one operator of ONNX does, too."""
    if isinstance(module, nn.Conv2d):
        return type(module) is nn.Conv2d and module.padding_mode == "zeros"
    return type(module) is nn.Linear and given.ndim == 2


def _next(calls: Sequence[_Call], call: _Call, kinds: tuple[type[nn.Module], ...]) -> _Call | None:
    """Return the use of a module of a kind that took what a call made."""
    takers = (one for one in calls if one.given is call.made and one.sum_given == call.sum_made)
    return next((one for one in takers if isinstance(one.module, kinds)), None)


class QuantisationAware(Callback):
    """Trains with weights and inputs of layers rounded as 8-bit integers hold them; ``export`` then writes these.

    The ranges of inputs and outputs follow the batches; the first batch, which has none yet, is not rounded. They are
    kept in checkpoints, and validation, ``validate``, ``test`` and ``predict`` round by them, too: their numbers are
    those of the integers; with ``--callbacks.qat null`` those of the same weights unrounded.

    Args:
        momentum: The share that each batch has in the ranges.
    """

    def __init__(self, momentum: float = 0.02) -> None:
        require(0 < momentum <= 1, "--callbacks.qat.momentum", momentum, "0 < x ≤ 1", "no batch would set the ranges")
        self.momentum = momentum
        self.points: list[tuple[str, int]] = []  # a layer, and 0 for its inputs or 1 for its outputs
        self.range_P2: Tensor | None = None
        self.seen: list[Tensor | None] = []  # in the current batch
        self.observing = False
        self.undo: list[Any] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for step in self.undo:
            step()
        self.undo, self.range_P2 = [], None

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the roundings in, once, and say what is not rounded."""
        if self.undo:
            return
        if pl_module.hparams.get("compile"):
            raise Mistake(
                "--model.compile=true compiles the network once, and what --callbacks.qat rounds follows the batches, "
                "so it would be rounded wrongly; give --model.compile false."
            )
        if str(trainer.precision) not in PRECISIONS:
            raise Mistake(
                f"--trainer.precision={trainer.precision} keeps weights in other digits than those that are rounded to "
                f"integers, so no layer could compute; give one of {', '.join(PRECISIONS)}, or --callbacks.qat null."
            )
        model, data = pl_module, getattr(trainer, "datamodule", None)
        network: Any = model.network
        assert data is not None
        x = data.example(2).to(model.device)
        layers, left = layers_to_round(network, model.prepared(x))  # pyright: ignore[reportCallIssue]
        if not layers:
            raise Mistake(
                f"--callbacks.qat finds no convolution in {type(network).__name__}, and no linear layer on vectors, so "
                "nothing would be rounded; --callbacks.qat null."
            )
        self.points = []
        for layer in layers:
            self._round_layer(layer)
        kept: Ranges | None = model.ranges  # pyright: ignore[reportAssignmentType]
        if kept is not None:
            kept_P2 = [kept[name][which] for name, which in self.points if len(kept.get(name, [])) > which]
            if len(kept_P2) < len(self.points):
                raise Mistake(
                    "the checkpoint has ranges of other layers than the network's, so nothing could be rounded by "
                    "them; --callbacks.qat null."
                )
            self.range_P2 = torch.tensor(kept_P2)
        self.seen = [None] * len(self.points)
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            text = f"{len(layers)} layers are rounded to 8 bits"
            shown = ", ".join(left[:5]) + (" …" if len(left) > 5 else "")
            print(f"quantisation-aware: {text}{f'; not rounded: {shown}' if left else ''}")

    def _round_layer(self, layer: Layer) -> None:
        module: Any = layer.module
        before = vars(module).get("forward")  # of gradient checkpointing
        module.forward = partial(self._forward, module, self._point(layer.name, 0))
        self.undo.append(partial(setattr, module, "forward", before) if before else partial(delattr, module, "forward"))
        if layer.outputs_of is not None:
            hook = partial(self._after, self._point(layer.name, 1))
            self.undo.append(layer.outputs_of.register_forward_hook(hook).remove)

    def _point(self, name: str, which: int) -> int:
        self.points.append((name, which))
        return len(self.points) - 1

    def _forward(self, module: Any, point: int, x: Tensor) -> Tensor:
        x = self._rounded(point, x)
        weight = module.weight if self.range_P2 is None else rounded_weights(module.weight.float())
        if isinstance(module, nn.Linear):
            return F.linear(x, weight, module.bias)
        return F.conv2d(x, weight, module.bias, module.stride, module.padding, module.dilation, module.groups)

    def _after(self, point: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._rounded(point, output)

    def _rounded(self, point: int, x: Tensor) -> Tensor:
        """Note the range of values, if training does, and round them by that of the batches before."""
        if self.observing:
            self.seen[point] = torch.stack(x.detach().float().aminmax())
        if self.range_P2 is None:
            return x
        if self.range_P2.device != x.device:
            self.range_P2 = self.range_P2.to(x.device)
        return rounded(x, *self.range_P2[point])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.observing = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.observing = False

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the batch move the ranges: on all ranks alike, and before anything saves them."""
        seen = [of_point for of_point in self.seen if of_point is not None]
        if len(seen) < len(self.points):  # the first batches may leave a part of a network out
            return
        with torch.no_grad():
            seen_P2 = torch.stack(seen)
            outward = torch.tensor([-1.0, 1.0], device=seen_P2.device)
            seen_P2 = trainer.strategy.reduce(seen_P2 * outward, reduce_op="max") * outward
            before = self.range_P2
            self.range_P2 = seen_P2 if before is None else before + self.momentum * (seen_P2 - before)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.range_P2 is None:
            return
        ranges: Ranges = {}
        for (name, _), of_point in zip(self.points, self.range_P2.tolist(), strict=True):
            ranges.setdefault(name, []).append(of_point)  # inputs come before outputs
        checkpoint["ranges"] = ranges


def read_ranges(content: Any) -> Ranges | None:
    """Return the ranges that a checkpoint holds.

    Raises:
        Mistake: They are none.
    """
    if content is None:
        return None
    try:
        ranges = {str(name): [[float(low), float(high)] for low, high in pairs] for name, pairs in content.items()}
        if not all(1 <= len(pairs) <= 2 for pairs in ranges.values()):
            raise ValueError
    except (AttributeError, TypeError, ValueError) as error:
        raise Mistake(
            "the checkpoint holds ranges that are no numbers, so what is rounded by them would be wrong; give one that "
            "this project wrote."
        ) from error
    return ranges
