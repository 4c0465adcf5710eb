"""What is private to Lightning, torch and jsonargparse, and used here all the same: nowhere else.

Each entry names what it touches and the version in which it was seen last; tests/test_internals.py looks whether it is
still there, for a rename would go wrong in silence.
"""

import contextlib
import multiprocessing.queues
import os
import re
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from jsonargparse import _common as jsonargparse_common
from jsonargparse import _typehints as jsonargparse_typehints
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.optim import Optimizer

# The key under which Lightning's checkpoints say how a model with nested classes is made again (lightning 2.6.6).
INSTANTIATOR = "_instantiator"
INSTANTIATE = "lightning.pytorch.cli.instantiate_module"
DISCARD = jsonargparse_typehints.discard_init_args_on_class_path_change


def option_strings(parser: Any) -> list[str]:
    """Return the flags that a parser knows (argparse's ``_option_string_actions``, Python 3.11 to 3.13)."""
    return list(parser._option_string_actions)


class Argument(NamedTuple):
    """What a parser takes by a name: its type, what --help says of it, and its default."""

    name: str
    hint: Any
    about: str
    default: Any


def arguments_of(parser: Any) -> list[Argument]:
    """Return what a config may set (argparse's ``_actions``; ``ActionTypeHint``, ``_typehint``, jsonargparse 4.53).

    Without what is linked to another setting, and what only a command line has.
    """
    actions = (each for each in parser._actions if isinstance(each, jsonargparse_typehints.ActionTypeHint))
    return [Argument(each.dest, each._typehint, each.help or "", each.default) for each in actions]


@contextlib.contextmanager
def parsing_settings_restored() -> Iterator[None]:
    """Take back afterwards what ``set_parsing_settings`` changes (``parsing_settings``, jsonargparse 4.53)."""
    before = dict(jsonargparse_common.parsing_settings)
    try:
        yield
    finally:
        jsonargparse_common.parsing_settings.update(before)


def discard_arguments(parser_or_action: Any, earlier: Any, chosen: Any, typed: Collection[str] = ()) -> None:
    """Let a class that is chosen instead of another start from its own defaults, but for what is typed.

    jsonargparse hands on whatever the other class had and this one knows, defaults too
    (``discard_init_args_on_class_path_change``, 4.53): ``--model.network MINE`` would have the default network's width.
    """
    if earlier and "init_args" in earlier and earlier["class_path"] != chosen["class_path"]:
        given = {name.rpartition(".")[2] for name in typed}
        for name in {name.partition(".")[0] for name in vars(earlier["init_args"])} - given:
            earlier["init_args"].pop(name)
    DISCARD(parser_or_action, earlier, chosen)


@contextlib.contextmanager
def classes_start_afresh(typed: Collection[str] = ()) -> Iterator[None]:
    """Parse by ``discard_arguments``; ``typed`` are the settings that flags name."""

    def discard(parser_or_action: Any, earlier: Any, chosen: Any) -> None:
        discard_arguments(parser_or_action, earlier, chosen, typed)

    jsonargparse_typehints.discard_init_args_on_class_path_change = discard
    try:
        yield
    finally:
        jsonargparse_typehints.discard_init_args_on_class_path_change = DISCARD


def prefer_own_classes(package: str) -> None:
    """Let a short name that a package's class shares with one of a library's mean the package's.

    jsonargparse refuses it (``resolve_class_path_by_name``, 4.53), as ResNet where torchvision is imported.
    """
    resolve = jsonargparse_typehints.resolve_class_path_by_name

    def resolved(kind: Any, name: str) -> str:
        try:
            return resolve(kind, name)
        except ValueError as error:
            own = re.findall(rf"\b{re.escape(package)}\.[\w.]+\b", str(error))
            if len(own) != 1:
                raise
            return own[0]

    jsonargparse_typehints.resolve_class_path_by_name = resolved


def denied_by_default(package: str) -> bool:
    """Tell whether jsonargparse lets no value name a package, as os (``default_import_path_denylist``, 4.53)."""
    return package in jsonargparse_common.default_import_path_denylist


def validates_after_this_batch(trainer: Trainer) -> bool:
    """Tell whether a validation follows the batch that just ended (``_should_check_val_fx``, lightning 2.6.6)."""
    loop: Any = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from handling signals (``_signal_connector``, ``_broadcast_sigterm_tensor``, lightning 2.6.6).

    Its handlers save and broadcast from inside themselves, which hangs where a rank is somewhere else; and before each
    batch of several ranks it asks the device whether one was told to end.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def validation_is_due(checkpoint: dict[str, Any]) -> None:
    """Have the run that goes on from a checkpoint begin with the validation in which it is saved.

    Lightning does so where the progress says that a batch of it was begun and not ended (lightning 2.6.6).
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    ended = progress["total"]["completed"]
    progress["total"].update(ready=ended + 1, started=ended + 1, processed=ended, completed=ended)
    progress["current"].update(ready=1, started=1, processed=0, completed=0)


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimizer in mixed precision.

    It refuses where ``_step_supports_amp_scaling`` is set (torch 2.15), which is for optimizers that unscale by
    themselves; ours are unscaled before clipping.
    """
    if not hasattr(optimizer, "_step_supports_amp_scaling"):
        return

    def allow(*_: Any) -> None:
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]

    allow()
    optimizer.register_step_post_hook(allow)  # after skip_overflow_on_device


def skip_overflow_on_device(optimizer: Optimizer) -> None:
    """Let a fused optimizer leave out the step that overflowed in fp16, once, after its gradients were clipped.

    torch's GradScaler hands ``found_inf`` to optimizers with ``_step_supports_amp_scaling`` (torch 2.15); for others it
    reads it from the device in every step.
    """
    if optimizer.defaults.get("fused") and hasattr(optimizer, "_step_supports_amp_scaling"):
        optimizer._step_supports_amp_scaling = True  # pyright: ignore[reportAttributeAccessIssue]


def loss_scale(scaler: Any) -> Tensor | None:
    """Return the loss scale of a GradScaler on its device (``_scale``, torch 2.15): get_scale would wait for it."""
    return scaler._scale


def withhold_update(optimizer: Optimizer, finite: Tensor) -> None:
    """Let a fused optimizer leave the weights alone unless ``finite`` (``found_inf``, as torch's GradScaler does)."""
    optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]


def finds_unused_parameters(strategy: Any) -> bool:
    """Tell whether a strategy is prepared for parameters without a gradient (``_ddp_kwargs``, lightning 2.6.6).

    Of Lightning's only plain DDP is not.
    """
    return not isinstance(strategy, DDPStrategy) or bool(strategy._ddp_kwargs.get("find_unused_parameters"))


def synchronises_batch_norm(strategy: Any) -> bool:
    """Tell whether BatchNorm counts over all devices (``_layer_sync``, lightning 2.6.6)."""
    return getattr(strategy, "_layer_sync", None) is not None


def end_where_handing_over_fails() -> None:
    """Let a loader's worker end with an error's number where it cannot hand over a batch.

    What fails in a queue's thread is printed and dropped (``_on_queue_feeder_error``, Python 3.11 to 3.13): the run
    would wait for that batch for ever.
    """

    def end(error: Exception, _: object) -> None:
        os._exit(getattr(error, "errno", None) or 1)

    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end)  # pyright: ignore


def is_compilers_failure(error: BaseException) -> bool:
    """Tell whether an error is of the compiler behind torch.compile, and none of the network's own (torch 2.15).

    By name, for importing ``torch._dynamo.exc`` takes a second.
    """
    return any(
        (c.__module__, c.__name__) == ("torch._dynamo.exc", "BackendCompilerFailed") for c in type(error).__mro__
    )


def class_of_strategy(name: str) -> tuple[str, dict[str, Any]]:
    """Return the class and the options of a strategy that Lightning has a name for (``strategy``, ``init_params``).

    Of its registry only what makes one is public (lightning 2.6.6).
    """
    entry = StrategyRegistry[name]
    return f"{entry['strategy'].__module__}.{entry['strategy'].__qualname__}", dict(entry["init_params"])


def timeout_of(strategy: Any) -> timedelta | None:
    """Return how long a strategy's collective operations wait (``_timeout``, lightning 2.6.6); None where none does."""
    return getattr(strategy, "_timeout", None)


def set_timeout(strategy: Any, timeout: timedelta) -> None:
    """Let collective operations wait so long (``_timeout``, lightning 2.6.6); before the ranks have met."""
    strategy._timeout = timeout


def default_store() -> Any:
    """Return the key-value store of all ranks (``_get_default_store``, torch 2.15); rank zero has it."""
    return distributed_c10d._get_default_store()


def keep_order_of_sums(model: Any) -> None:
    """Let DDP group its gradients from the first step on as in all others; before the first forward pass.

    It groups them anew after the first step of a launch (``_rebuild_buckets``, torch 2.15). The sum of three numbers
    depends on the order, so the first step of a run that goes on would differ from the unbroken one in the last bit.
    """
    model.reducer._push_all_rebuilt_params()
    model.reducer._rebuild_buckets()


def conversion_of_timm(make: Callable[[], Any]) -> Callable[..., Any] | None:
    """Return by what timm turns published weights into those of a model (``load_pretrained``, timm 1.0.31).

    ``make`` makes the model with ``pretrained=True``; nothing is loaded. None: they fit as they are.
    """
    from timm.models import _builder  # pyright: ignore[reportMissingImports]

    kept: list[Any] = []
    load = _builder.load_pretrained
    _builder.load_pretrained = lambda *_, filter_fn=None, **__: kept.append(filter_fn)
    try:
        make()
    finally:
        _builder.load_pretrained = load
    return kept[-1]
