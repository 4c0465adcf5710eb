"""What the data tells a model: travels from the data into manifest, checkpoint, predictions and export."""

from dataclasses import dataclass
from typing import Any

from .targets import Target, target_from


@dataclass(frozen=True)
class Schema:
    """The inputs and the target of a data set.

    Args:
        inputs: What a sample is; of images: channels, image_size, stored_size.
        target: What is predicted of it.
    """

    inputs: dict[str, Any]
    target: Target

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"inputs": dict(self.inputs), "target": self.target.as_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Schema":
        """Return the schema that ``as_dict`` described.

        Raises:
            KeyError, TypeError: It describes none.
        """
        return cls(dict(content["inputs"]), target_from(content["target"]))
