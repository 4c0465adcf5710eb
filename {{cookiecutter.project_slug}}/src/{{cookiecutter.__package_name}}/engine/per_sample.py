"""A loss of numbers, whichever it is, as one value for each sample."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .mistakes import Mistake


class PerSample(nn.Module):
    """Makes any loss of (values_NT, target_NT) return one value for each sample, (N,): its mean over the targets.

    torch's own losses return the mean of a batch unless their ``reduction`` is "none", which is set here.

    Args:
        loss: Returns a value for each element, (N, T), or for each sample, (N,).

    Raises:
        Mistake: It takes other arguments.
    """

    several_labels = False

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss: Any = loss
        self.weighted = False  # as a Loss has it: two batches of one size weigh the same
        if isinstance(getattr(loss, "reduction", None), str):
            self.loss.reduction = "none"
        try:
            inspect.signature(loss.forward).bind(None, None)
        except TypeError as error:
            raise Mistake(
                f"--model.loss={self.name} is not called with (values, target) alone ({error}), so it has no value for "
                "numbers; give a loss of these two, such as MSE."
            ) from error

    @property
    def name(self) -> str:
        """The name of the loss."""
        return type(self.loss).__name__

    def forward(self, values_NT: Tensor, target_NT: Tensor) -> Tensor:
        """Return the loss of each sample, (N,).

        Raises:
            Mistake: The loss returns something else than a value for each element or sample.
        """
        # Under mixed precision values come in half precision; some of torch's losses fail at two types.
        dtype = torch.promote_types(values_NT.dtype, target_NT.dtype)
        loss: Tensor = self.loss(values_NT.to(dtype), target_NT.to(dtype))
        if loss.shape == values_NT.shape:
            return loss.mean(1)
        if loss.shape != values_NT.shape[:1]:
            raise Mistake(
                f"--model.loss={self.name} returns {tuple(loss.shape) or 'one number'} for values of shape "
                f"{tuple(values_NT.shape)}, so samples could be neither weighted nor counted right over batches and "
                "devices; let it return a value for each element, as torch's losses do with reduction='none'."
            )
        return loss
