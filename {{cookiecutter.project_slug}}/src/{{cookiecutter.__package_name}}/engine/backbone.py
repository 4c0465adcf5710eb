"""Every classification model of torchvision as a network of this project."""

from typing import Any

from torch import Tensor, nn

from .mistakes import Mistake, unknown
from .recomputing import recompute


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
            recompute(self)

    def published_weights(self, source: str) -> Any:
        """Return weights that torchvision has for the model; they are downloaded once.

        Raises:
            Mistake: It has none of this name, or they cannot be downloaded.
        """
        import torchvision.models

        published: Any = torchvision.models.get_model_weights(self.name)
        if source != "DEFAULT" and source not in published.__members__:
            raise Mistake(unknown("--model.weights", source, ["DEFAULT", *published.__members__, "a file"]))
        try:
            return published[source].get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise Mistake(
                f"--model.weights={source!r} could not be downloaded ({error}), so training would start from nothing; "
                "connect to a network or give a file of weights."
            ) from error

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
