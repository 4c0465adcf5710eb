"""Gradient checkpointing: activations computed a second time in the backward pass instead of kept."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .stages import BATCH_NORMS, stages


def recompute(network: nn.Module) -> None:
    """Let a network keep no activation within its stages, but for the head's."""
    for stage in stages(network)[:-1]:
        for part in stage if isinstance(stage, nn.ModuleList) else [stage]:
            # What has no parameters has little to keep; an activation may change what it is given, in place.
            if not isinstance(part, nn.ParameterList) and any(True for _ in part.parameters()):
                part.forward = functools.partial(_checkpointed, part, part.forward)


@torch.compiler.disable(recursive=False)  # torch.compile takes no context_fn (2.15): it compiles the stages one by one
def _checkpointed(part: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    kept = functools.partial(_contexts, part)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=kept, **options)


def _contexts(part: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_kept(part)


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
