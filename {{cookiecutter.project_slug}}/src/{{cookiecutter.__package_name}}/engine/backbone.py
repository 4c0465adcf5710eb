"""Every classification model of torchvision as a network of this project."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mistakes import Mistake, unknown
from .stages import BATCH_NORMS, stages


class Backbone(nn.Module):
    """A classification model of torchvision; grey images are repeated to its three channels.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        name: The model's name, such as resnet18, convnext_tiny or vit_b_16.
        dropout: Share of the features that training drops; null keeps the model's own, where it has one.
        stochastic_depth: Share of the residual branches that training drops in the last block (Huang et al. 2016); null
            keeps the model's own, where it has one.
        image_size: The side in pixels that a vision transformer is built for; null keeps its own, mostly 224. Networks
            of convolutions take any.
        checkpointing: Compute activations a second time in the backward pass instead of keeping them: less memory,
            about a third more time.

    Raises:
        Mistake: torchvision has no classification model of this name, or the model has no such option.
    """

    activation = "relu"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        name: str = "resnet18",
        dropout: float | None = None,
        stochastic_depth: float | None = None,
        image_size: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise Mistake(unknown("--model.network.name", name, known))
        self.name = name
        given = {"dropout": dropout, "stochastic_depth_prob": stochastic_depth, "image_size": image_size}
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        try:
            self.model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        except (TypeError, AssertionError) as error:
            raise Mistake(
                f"--model.network.name={name!r} cannot be made with {options} ({error}), so it would have no effect; "
                "leave it out, give a value that the model takes, or choose a model that has this option."
            ) from error
        if checkpointing:
            for part in stages(self)[:-1]:
                part.forward = functools.partial(_checkpointed, part, part.forward)

    def published_weights(self) -> Any:
        """Return the weights that torchvision has for the model, by name."""
        import torchvision.models

        return torchvision.models.get_model_weights(self.name)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        side = getattr(self.model, "image_size", x_NCHW.shape[-1])  # vision transformers have one
        if x_NCHW.shape[-1] != side:
            raise Mistake(
                f"--model.network.name={self.name!r} is built for images of {side} pixels and --data.image_size is "
                f"{x_NCHW.shape[-1]}, so it cannot take them; give the same to --data.image_size and "
                "--model.network.image_size."
            )
        if x_NCHW.shape[1] == 1:
            x_NCHW = x_NCHW.expand(-1, 3, -1, -1)
        logits = self.model(x_NCHW)
        return logits if isinstance(logits, Tensor) else logits.logits  # inception and googlenet add auxiliary outputs


@torch.compiler.disable(recursive=False)  # torch.compile takes no context_fn (2.15): it compiles the stages one by one
def _checkpointed(part: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(  # pyright: ignore[reportReturnType]
        forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(part))
    )


@contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice while its activations are computed a second time."""
    norms = [m for m in part.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
