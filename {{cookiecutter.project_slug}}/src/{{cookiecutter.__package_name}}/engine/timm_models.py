"""Every classification model of timm as a network of this project; the package is an extra."""

import difflib
import functools
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .installing import of_extra
from .internals import conversion_of_timm
from .mistakes import Mistake, unknown
from .preprocessing import Fit, Preprocessing
from .recomputing import recompute
from .stages import stages

# Of a file in a repository of the Hugging Face hub, where timm names none.
FILES = ("model.safetensors", "pytorch_model.bin")
HUB_TIMEOUT = 10  # seconds in which the hub answers
NOT_FOUND = 404
EMBEDDINGS = re.compile(r"(.*\.)?(\w*pos_embed\w*|(cls|dist|reg|mask)_token\w*)")
CROP_MODES: dict[str, Fit] = {"center": "crop", "squash": "stretch", "border": "pad"}
# What a model raises that cannot be made with an option, and one that an image does not fit.
REFUSALS = (AssertionError, TypeError, ValueError, KeyError, RuntimeError)


class Timm(nn.Module):
    """A classification model of timm, made for the channels of the images: its first layer is adapted to them.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        name: The model's name, such as convnext_tiny.fb_in22k_ft_in1k: an architecture, and a tag for its weights.
        dropout: Share of the features that training drops before the head; null keeps the model's own.
        stochastic_depth: Share of the residual branches that training drops in the last block (Huang et al. 2016); null
            keeps the model's own.
        image_size: The side in pixels that a transformer is built for; null keeps its own. Networks of convolutions
            take any.
        checkpointing: Compute activations a second time in the backward pass instead of keeping them: less memory,
            about a third more time.

    Raises:
        Mistake: timm is missing, has no model of this name, or the model cannot be made with an option.
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
        self.name = name
        config = config_of(name)
        given = {"drop_rate": dropout, "drop_path_rate": stochastic_depth, "img_size": image_size}
        options = {key: value for key, value in given.items() if value is not None}
        self.make = functools.partial(
            _timm().create_model, name, num_classes=num_classes, in_chans=in_channels, **options
        )
        side = image_size or config["input_size"][-1]
        self.side = side if image_size or config.get("fixed_input_size") else None  # what alone it takes
        try:
            self.model = self.make()
            if image_size:
                _look_at(self.model, in_channels, side)
        except REFUSALS as error:
            self._refuse(error, options, in_channels)
        if not hasattr(self.model, "get_classifier"):
            raise Mistake(
                f"--model.network.name={name!r} has no layer for classes, so nothing could be predicted; choose a "
                "model that has one."
            )
        parts = [*self.model.modules()]
        if dropout and not any(dropout in (getattr(m, "drop_rate", 0), getattr(m, "p", 0)) for m in parts):
            raise Mistake(_no_effect(name, "dropout", dropout))
        if stochastic_depth and not any(getattr(part, "drop_prob", None) for part in parts):
            raise Mistake(_no_effect(name, "stochastic_depth", stochastic_depth))
        if checkpointing:
            recompute(self)

    def _refuse(self, error: Exception, options: dict[str, Any], in_channels: int) -> NoReturn:
        """Word what hinders a model from being made; of an image size that does not suit, which others do."""
        side = options.get("img_size")
        if isinstance(error, RuntimeError) and side is None:  # no option of it: memory, or a fault
            raise error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        line = f"--model.network.name={self.name!r} cannot be made with {options} ({reason}), so "
        others = [] if side is None else sizes_near(self.make, in_channels, side)
        if others:
            listed = ", ".join(map(str, others))
            raise Mistake(
                f"{line}it would take no image; give --model.network.image_size one of {listed}, and the same to "
                "--data.image_size."
            ) from error
        raise Mistake(
            f"{line}it would have no effect; leave it out, give a value that the model takes, or choose a model that "
            "has this option."
        ) from error

    @staticmethod
    def preprocessing(
        weights: str | None, name: str = "resnet18", image_size: int | None = None, **_: Any
    ) -> Preprocessing | None:
        """Return what pre-trained weights were made for, by timm's own words; without weights, a fixed size alone.

        Its size is the one of training: ``test_input_size`` and ``test_crop_pct``, of which some models profit in
        evaluation, are left out, for here one size holds for training and for evaluation.
        """
        architecture = name.partition(".")[0]
        tags = _tags(architecture)
        config = config_of(f"{architecture}.{weights}" if weights in tags else name)
        fixed = bool(image_size or config.get("fixed_input_size"))
        height, width = config["input_size"][1:]
        size = image_size or (height if height == width else None)
        other = "give --model.network.image_size too" if fixed else None
        if weights is None:
            return Preprocessing(size=size, other_sizes=other) if fixed else None
        said = _timm().data.resolve_data_config(pretrained_cfg=config)
        return Preprocessing(
            mean=tuple(said["mean"]),
            std=tuple(said["std"]),
            size=size,
            interpolation=said["interpolation"],
            crop_fraction=said["crop_pct"],
            fit=CROP_MODES[said["crop_mode"]],
            other_sizes=other,
        )

    def own_stages(self, fine: bool) -> list[nn.Module]:
        """Part the model as its ``group_matcher`` says: finely for rates, by large parts, its head alone, to freeze."""
        if not hasattr(self.model, "group_matcher"):
            return stages(self.model)
        from timm.models import group_parameters  # pyright: ignore[reportMissingImports]

        try:
            matcher = self.model.group_matcher(coarse=not fine)
        except AssertionError:  # rdnet has fine groups alone
            matcher = self.model.group_matcher(coarse=False)
        names = group_parameters(self.model, matcher)
        stage_of = {self.model.get_parameter(name): stage for stage, group in names.items() for name in group}
        # timm puts the head together with what stands before it and matches nothing, mostly a norm.
        last = max(stage_of.values()) + (not fine)
        for name in self.head_names():
            stage_of |= dict.fromkeys(self.get_submodule(name).parameters(), last)
        return _grouped(self.model, stage_of)

    def head_names(self) -> list[str]:
        """Return the names of the layers that make the logits, as timm's configuration has them."""
        said = self.model.pretrained_cfg.get("classifier") or ()
        names = [said] if isinstance(said, str) else [*said]
        name_of = {part: name for name, part in self.model.named_modules()}
        if not names or not {*names} <= {*name_of.values()}:
            layers = self.model.get_classifier()
            names = [name_of[layer] for layer in (layers if isinstance(layers, tuple | list) else [layers])]
        return [f"model.{name}" for name in names]

    def no_weight_decay(self) -> set[str]:
        """Return what timm leaves out of weight decay, and every embedding of positions and token."""
        patterns = getattr(self.model, "no_weight_decay", set)()
        names = [name for name, _ in self.model.named_parameters()]
        return {
            f"model.{name}"
            for name in names
            if EMBEDDINGS.fullmatch(name) or any(fnmatch(name, pattern) for pattern in patterns)
        }

    def published_weights(self, source: str) -> Path:
        """Return the file of weights that a tag means, DEFAULT the name's: from the hub's cache, or from the hub.

        Raises:
            Mistake: timm has none of this tag, or they are neither in the cache nor to be had.
        """
        architecture = self.name.partition(".")[0]
        tags = _tags(architecture)
        if source != "DEFAULT" and source not in tags:
            raise Mistake(unknown("--model.weights", source, ["DEFAULT", *tags, "a file"]))
        name = f"{architecture}.{source}" if source != "DEFAULT" else self.name
        config = config_of(name)
        if repository := config.get("hf_hub_id"):
            return _from_hub(source, name, repository, config.get("hf_hub_filename"))
        where = config.get("url")
        raise Mistake(
            f"--model.weights={source!r}: timm has no weights of {name} on the hub, so training would start from "
            + (
                f"nothing; download {where} and give that file."
                if where
                else f"nothing; give one of {', '.join(tags)}."
            )
        )

    def converted_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring weights to the model as timm does: other projects' names, other image sizes, other channels."""
        try:
            state = self.conversion({**state}, self.model)
        except Exception:  # made for weights of this architecture: of others it asks for what is not there
            return state
        own = self.model.state_dict()
        first = self.model.pretrained_cfg.get("first_conv") or ()
        for name in [first] if isinstance(first, str) else first:
            key = f"{name}.weight"
            theirs, ours = state.get(key), own.get(key)
            if theirs is not None and ours is not None:
                state[key] = _of_other_channels(theirs, ours)
        counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
        return counters | {name: value for name, value in state.items() if isinstance(value, Tensor)}

    @functools.cached_property
    def conversion(self) -> Callable[..., Any]:
        """What timm passes weights of this architecture through."""

        def make() -> None:
            with torch.device("meta"):
                self.make(pretrained=True)

        return conversion_of_timm(make) or (lambda state, model: state)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.side is not None and x_NCHW.shape[-1] != self.side:
            raise Mistake(
                f"--model.network.name={self.name!r} is built for images of {self.side} pixels and --data.image_size "
                f"is {x_NCHW.shape[-1]}, so it cannot take them; give the same to --data.image_size and "
                "--model.network.image_size."
            )
        logits = self.model(x_NCHW)
        return logits if isinstance(logits, Tensor) else torch.stack([*logits]).mean(0)  # a distilled model's heads


class _Head(nn.ModuleList):
    """The stage of the head. A model may drop features before it by itself, and asks whether itself it trains."""

    def __init__(self, parts: list[nn.Module], model: nn.Module) -> None:
        super().__init__(parts)
        self.model = (model,)  # a tuple, for it is no part of this one

    def train(self, mode: bool = True) -> "_Head":
        self.model[0].training = mode
        return super().train(mode)


def _grouped(model: nn.Module, stage_of: dict[nn.Parameter, int]) -> list[nn.Module]:
    """Put the largest modules that lie in one stage together, and the parameters beside them.

    What has no parameters, such as dropout, belongs to what comes next.
    """
    parts: dict[int, list[nn.Module]] = {stage: [] for stage in sorted({*stage_of.values()})}
    waiting: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        found = {stage_of[parameter] for parameter in module.parameters()}
        if not found:
            waiting.append(module)
        elif len(found) == 1:
            parts[found.pop()].extend([*waiting, module])
            waiting.clear()
        else:
            for parameter in module.parameters(recurse=False):
                parts[stage_of[parameter]].append(nn.ParameterList([parameter]))
            for child in module.children():
                visit(child)

    visit(model)
    *body, head = parts.values()
    return [*map(nn.ModuleList, body), _Head([*head, *waiting], model)]


def _timm() -> Any:
    """Import timm.

    Raises:
        Mistake: It is not installed.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
        import timm.data  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise Mistake(
            f"--model.network Timm needs the package {error.name}, so there is no network; install the project's "
            f"extra: {of_extra('timm')}"
        ) from error
    return timm


def _tags(architecture: str) -> list[str]:
    """Return the tags of an architecture's weights."""
    names = _timm().list_models(f"{architecture}.*", pretrained=True)
    return [name.partition(".")[2] for name in names]


def config_of(name: str) -> dict[str, Any]:
    """Return what timm says of a model and of the weights of its tag.

    Raises:
        Mistake: It has no model, or no weights, of this name.
    """
    timm = _timm()
    architectures, names = timm.list_models(), timm.list_models(include_tags=True)
    if name not in architectures and name not in names:
        tagged = [known for known in names if known.startswith(f"{name.partition('.')[0]}.")]
        near = difflib.get_close_matches(name, architectures, n=20, cutoff=0.5)
        raise Mistake(unknown("--model.network.name", name, tagged or near or architectures))
    return timm.models.get_pretrained_cfg(name).to_dict()


def _from_hub(source: str, name: str, repository: str, filename: str | None) -> Path:
    """Return a file of the Hugging Face hub, from its cache if it is there."""
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache  # pyright: ignore[reportMissingImports]
    from huggingface_hub.constants import HF_HUB_CACHE  # pyright: ignore[reportMissingImports]
    from huggingface_hub.utils import get_session  # pyright: ignore[reportMissingImports]

    repository, _, revision = repository.partition("@")
    at: dict[str, Any] = {"revision": revision or None}
    files = (filename,) if filename else FILES
    for file in files:
        cached = try_to_load_from_cache(repository, file, **at)
        if isinstance(cached, str):
            return Path(cached)
    try:
        # A question of its own: hf_hub_download asks six times, for a minute, where there is no network.
        answers = (get_session().head(hf_hub_url(repository, file, **at), timeout=HUB_TIMEOUT) for file in files)
        there = (file for file, answer in zip(files, answers, strict=True) if answer.status_code != NOT_FOUND)
        return Path(hf_hub_download(repository, next(there, files[-1]), etag_timeout=HUB_TIMEOUT, **at))
    except Exception as error:  # the hub's client raises almost anything, its own and its transport's
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        raise Mistake(
            f"--model.weights={source!r}: the weights of {name} are not in the cache and cannot be downloaded "
            f"({cause}), so training would start from nothing; connect to a network; or, where there is one, run "
            f"`hf download {repository} {files[0]}` and bring that file (--model.weights FILE), or its folder to "
            f"{folder}."
        ) from error


def _no_effect(name: str, option: str, value: float) -> str:
    return (
        f"--model.network.{option}={value} is not known to {name}, so it would have no effect; leave it out, or choose "
        "a model that has it."
    )


def _of_other_channels(theirs: Tensor, ours: Tensor) -> Tensor:
    """Return weights of a first convolution for the model's channels; others as they are."""
    from timm.models import adapt_input_conv  # pyright: ignore[reportMissingImports]

    fits = theirs.ndim == ours.ndim == 4 and theirs.shape[2:] == ours.shape[2:] and len(theirs) == len(ours)
    if not fits or theirs.shape[1] == ours.shape[1] or theirs.shape[1] != 3:
        return theirs
    return adapt_input_conv(ours.shape[1], theirs)


@torch.no_grad()
def _look_at(model: nn.Module, channels: int, side: int) -> None:
    """Show a model one image of a size."""
    model.eval()(torch.zeros(1, channels, side, side))
    model.train()


def sizes_near(make: Callable[..., nn.Module], channels: int, side: int) -> list[int]:
    """Return up to four image sizes near one that a model does not take, which it takes."""
    near = {round(side / step) * step + more * step for step in (8, 14, 16, 28, 32, 56, 224) for more in (-1, 0, 1)}
    fitting: list[int] = []
    for size in sorted(near - {side}, key=lambda size: abs(size - side)):
        if size < 1 or len(fitting) == 4:
            continue
        try:
            with torch.device("meta"):  # neither memory nor time
                _look_at(make(img_size=size), channels, size)
        except REFUSALS:
            continue
        fitting.append(size)
    return sorted(fitting)
