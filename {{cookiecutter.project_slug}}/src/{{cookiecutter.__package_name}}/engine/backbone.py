"""Every classification model of torchvision as a network of this project."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .mistakes import Mistake, unknown
from .preprocessing import Preprocessing
from .recomputing import recompute

SIDE = 224  # of a vision transformer's images, unless it is told


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
        _check_size(name, image_size)
        given = {"dropout": dropout, "stochastic_depth_prob": stochastic_depth, "image_size": image_size}
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if name.startswith("maxvit_") and image_size is not None:
            options["input_size"] = (options.pop("image_size"),) * 2
        try:
            self.model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        except (TypeError, AssertionError) as error:
            raise Mistake(
                f"--model.network.name={name!r} cannot be made with {options} ({error}), so it would have no effect; "
                "leave it out, give a value that the model takes, or choose a model that has this option."
            ) from error
        self.side = image_size or SIDE if _patch(name) else None  # that it takes alone
        if checkpointing:
            recompute(self)

    @staticmethod
    def preprocessing(
        weights: str | None, name: str = "resnet18", image_size: int | None = None, **arguments: Any
    ) -> Preprocessing | None:
        """Return what torchvision's weights of a name were trained with; a file's weights are taken for DEFAULT ones.

        Without weights a transformer declares its size alone.

        Raises:
            Mistake: The model, or its weights, cannot take images of this size.
        """
        import torchvision.models

        if name not in torchvision.models.list_models(module=torchvision.models):  # which making it refuses
            return None
        patch = _patch(name)
        _check_size(name, image_size)
        size, others = None, None
        if patch:
            size, others = image_size or SIDE, f"give --model.network.image_size too: a multiple of {patch}"
        published: Any = torchvision.models.get_model_weights(name)
        is_file = weights is not None and weights not in ("DEFAULT", *published.__members__)
        if weights is None or (is_file and not Path(weights).is_file()):  # which loading them refuses
            return Preprocessing(size=size, other_sizes=others) if size else None
        given = published["DEFAULT" if is_file else weights].transforms()
        side, scaled = given.crop_size[0], given.resize_size[0]
        if name.startswith("vit_") and not is_file:  # its weights hold a position for each patch
            sides = {entry.name: entry.transforms().crop_size[0] for entry in published}
            if (image_size or SIDE) != side:
                raise Mistake(
                    f"--model.network.image_size={image_size or SIDE} is not the size of --model.weights={weights}, so "
                    f"they would not fit; give --model.network.image_size {side}, or choose weights of another size "
                    f"({_listed(sides)})."
                )
            size, others = side, f"choose weights of another size ({_listed(sides)})"
        mean, std = tuple(given.mean), tuple(given.std)
        share, method = side / scaled, given.interpolation.value
        return Preprocessing(mean, std, size or side, method, share, fit="crop", other_sizes=others)

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
        side = self.side or x_NCHW.shape[-1]
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


def _patch(name: str) -> int | None:
    """Return the side of which a model's image size must be a multiple; None where it takes any."""
    if name.startswith("vit_"):
        return int(name.rsplit("_", 1)[1])
    return SIDE if name.startswith("maxvit_") else None


def _check_size(name: str, image_size: int | None) -> None:
    patch = _patch(name)
    if image_size is None or not patch or (image_size > 0 and image_size % patch == 0):
        return
    below = max(image_size // patch, 1) * patch
    raise Mistake(
        f"--model.network.name={name!r} cannot be made with --model.network.image_size={image_size}, for it cuts "
        f"images into parts of {patch} pixels; give a multiple of {patch}, such as {below} or {below + patch}."
    )


def _listed(sides: dict[str, int]) -> str:
    return ", ".join(f"{name} {side}" for name, side in sides.items())
