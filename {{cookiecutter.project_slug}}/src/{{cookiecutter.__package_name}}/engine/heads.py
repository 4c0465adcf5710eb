"""Networks with several heads, each a model of its own: what training and evaluation take the mean of.

Shapes: N samples, H heads, K outputs.
"""

from collections.abc import Callable

from torch import Tensor


def each_head(outputs: Tensor) -> Tensor:
    """Return outputs with a place for the heads, (N, H, K); a network that gives (N, K) has one."""
    return outputs if outputs.ndim == 3 else outputs.unsqueeze(1)


def over_heads(loss: Callable[[Tensor, Tensor], Tensor], outputs_NHK: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each sample, the mean over heads, (N,).

    Args:
        loss: Gives a value for each sample, from (N, K) and targets.
        outputs_NHK: The outputs.
        target: A target for each sample, whatever its shape.
    """
    samples, heads = outputs_NHK.shape[:2]
    if heads == 1:
        return loss(outputs_NHK[:, 0], target)
    return loss(outputs_NHK.flatten(0, 1), target.repeat_interleave(heads, 0)).view(samples, heads).mean(1)
