"""What engine/internals.py touches is still there, and does what is relied on: a rename upstream turns these red."""

import argparse
import inspect
import os
import signal
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path

import lightning
import pytest
import torch
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse import _typehints as typehints
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import instantiate_module
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import nn

from project_package.data import ImageData
from project_package.engine import internals
from project_package.engine.mistakes import not_compiled
from project_package.model import Classifier


def test_each_entry_is_looked_at_here():
    entries = {
        name for name, value in vars(internals).items() if getattr(value, "__module__", "") == internals.__name__
    }
    assert entries
    assert [name for name in entries if f"internals.{name}(" not in Path(__file__).read_text()] == []


def test_a_parser_says_what_a_config_may_set():
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--rate", type=float | None, default=0.5, help="How fast.")
    parser.add_argument("--of", type=int)
    parser.add_argument("--linked", type=int)
    parser.link_arguments("of", "linked")
    assert internals.arguments_of(parser) == [
        internals.Argument("rate", float | None, "How fast.", 0.5),
        internals.Argument("of", int, "", None),
    ]


def test_timm_says_how_it_converts_weights_and_loads_none():
    timm = pytest.importorskip("timm")
    converts = internals.conversion_of_timm(lambda: timm.create_model("test_vit", pretrained=True))
    assert converts is timm.models.vision_transformer.checkpoint_filter_fn
    assert internals.conversion_of_timm(lambda: timm.create_model("test_resnet", pretrained=True)) is None
    assert timm.models._builder.load_pretrained is timm.models.load_pretrained


def test_a_queue_asks_what_to_do_where_it_cannot_hand_over(monkeypatch):
    name = "_on_queue_feeder_error"
    monkeypatch.setattr(Queue, name, inspect.getattr_static(Queue, name))
    internals.end_where_handing_over_fails()
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    Queue._on_queue_feeder_error(OSError(24, "Too many open files"), None)
    Queue._on_queue_feeder_error(TypeError("cannot pickle"), None)
    assert ended == [24, 1]


def test_a_checkpoint_names_lightnings_instantiator_under_the_key_that_lightning_reads(monkeypatch):
    assert f"{instantiate_module.__module__}.{instantiate_module.__qualname__}" == internals.INSTANTIATE

    class Plain(LightningModule):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = rate

    made = []

    def instantiate(kind, arguments):
        made.append(arguments)
        return kind(**arguments)

    monkeypatch.setattr(internals.INSTANTIATE, instantiate)
    hyper_parameters = {internals.INSTANTIATOR: internals.INSTANTIATE, "rate": 0.5}
    torch.save(
        {"state_dict": {}, "hyper_parameters": hyper_parameters, "pytorch-lightning_version": lightning.__version__},
        "plain.ckpt",
    )
    assert Plain.load_from_checkpoint("plain.ckpt", weights_only=True).rate == 0.5
    assert made == [{"rate": 0.5}]


def test_a_class_that_is_chosen_instead_of_another_has_its_own_defaults_and_what_is_typed():
    def chosen(*flags: str, typed: tuple[str, ...] = ()) -> Namespace:
        parser = ArgumentParser()
        leaky = {"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.5, "inplace": True}}
        parser.add_argument("--network", type=nn.Module, default=leaky)
        with internals.classes_start_afresh(typed):
            return parser.parse_args(list(flags)).network.init_args

    assert chosen().inplace
    assert not chosen("--network=torch.nn.ReLU").inplace
    assert chosen("--network.inplace=true", "--network=torch.nn.ReLU", typed=("network.inplace",)).inplace
    assert not chosen("--network=torch.nn.ReLU", "--network.inplace=false").inplace
    earlier = Namespace(class_path="torch.nn.ReLU", init_args=Namespace(inplace=True))
    internals.discard_arguments(ArgumentParser(), earlier, {"class_path": "torch.nn.ReLU"})
    assert earlier.init_args.inplace


def test_a_short_name_means_the_class_of_the_package_that_has_it(monkeypatch):
    # Set back afterwards, for it is wrapped here; the project's own preference knows no package of this name.
    monkeypatch.setattr(typehints, "resolve_class_path_by_name", typehints.resolve_class_path_by_name)
    paths = ["mine.networks.ReLU", "torch.nn.ReLU"]
    monkeypatch.setattr(typehints, "get_all_subclass_paths", lambda *_, **__: paths)
    kind = nn.Module
    with pytest.raises(ValueError, match="Multiple subclasses"):
        typehints.resolve_class_path_by_name(kind, "ReLU")
    internals.prefer_own_classes("mine")
    assert typehints.resolve_class_path_by_name(kind, "ReLU") == "mine.networks.ReLU"


def test_the_flags_of_a_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", "-f")
    assert {"--flag", "-f"} <= set(internals.option_strings(parser))


def test_parsing_settings_are_those_of_before_afterwards():
    settings = internals.jsonargparse_common.parsing_settings
    before = dict(settings)
    with internals.parsing_settings_restored():
        set_parsing_settings(import_path_denylist=["*"])
        assert settings != before
    assert settings == before


def test_what_runs_commands_is_denied_by_default():
    assert all(internals.denied_by_default(package) for package in ("os", "subprocess", "pickle", "importlib"))
    assert not any(internals.denied_by_default(package) for package in ("torch", "lightning", "elsewhere"))


def test_a_validation_that_follows_a_batch_is_foreseen(shapes):
    class Watch(Callback):
        foreseen, validated = [], []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if internals.validates_after_this_batch(trainer):
                self.foreseen.append(trainer.global_step)

        def on_validation_start(self, trainer, pl_module):
            self.validated.append(trainer.global_step)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=2, val_check_interval=4, num_sanity_val_steps=0, callbacks=[Watch()], **options)
    trainer.fit(Classifier(), ImageData(str(shapes), batch_size=8, num_workers=0))
    assert Watch.foreseen == Watch.validated == [4, 10]


def test_lightning_handles_no_signal(shapes):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(signal.getsignal(signal.SIGTERM))

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    for alone in (False, True):
        trainer = Trainer(max_steps=1, callbacks=[Watch()], **options)
        if alone:
            internals.leave_signals_alone(trainer)
            assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None
        trainer.fit(Classifier(), ImageData(str(shapes), batch_size=8, num_workers=0))
    assert seen[0] not in (signal.SIG_DFL, seen[1])
    assert seen[1] == signal.getsignal(signal.SIGTERM)


def test_a_run_that_was_saved_in_a_validation_begins_with_it(shapes, tmp_path):
    class Saved(Callback):
        validated = []

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.validated.append((trainer.global_step, batch_idx))
            if self.validated == [(6, 0)]:
                trainer.save_checkpoint(tmp_path / "a.ckpt")
                raise InterruptedError

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            internals.validation_is_due(checkpoint)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    data = ImageData(str(shapes), batch_size=8, num_workers=0)
    trainer = Trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[Saved()], **options)
    with pytest.raises(InterruptedError):
        trainer.fit(Classifier(), data)
    trainer = Trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[Saved()], **options)
    trainer.fit(Classifier(), data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert Saved.validated == [(6, 0), (6, 0), (6, 1), (12, 0), (12, 1)]


def fused() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    return weight, torch.optim.SGD([weight], lr=0.5, fused=True)


def test_gradients_of_a_fused_optimizer_can_be_clipped_in_mixed_precision():
    _, optimizer = fused()
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(optimizer, 1.0)
    internals.allow_clipping(optimizer)
    precision.clip_gradients(optimizer, 1.0)


@pytest.mark.parametrize(("gradient", "left"), [(64.0, 0.5), (float("inf"), 1.0)])
def test_a_fused_optimizer_leaves_out_a_step_that_overflowed_without_being_asked(gradient, left, monkeypatch):
    weight, optimizer = fused()
    internals.allow_clipping(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for _ in range(2):  # the second as the first
        weight.data.fill_(1.0)
        scaler.scale(torch.tensor(1.0))
        weight.grad = torch.full((3,), gradient * scaler.get_scale() / 64)
        scaler.unscale_(optimizer)
        MixedPrecision("16-mixed", "cpu", scaler=scaler).clip_gradients(optimizer, 100.0)
        internals.skip_overflow_on_device(optimizer)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", lambda _: pytest.fail("the host waited for the device"))
            scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == [left] * 3


def test_the_loss_scale_of_a_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    assert internals.loss_scale(scaler) is None  # before its first step
    scaler.scale(torch.tensor(1.0))
    scale = internals.loss_scale(scaler)
    assert scale is not None
    assert scale.item() == scaler.get_scale() == 64.0


@pytest.mark.parametrize(("finite", "left"), [(True, 0.5), (False, 1.0)])
def test_a_fused_optimizer_withholds_its_update(finite, left):
    weight, optimizer = fused()
    internals.withhold_update(optimizer, torch.tensor(finite))
    optimizer.step()
    assert weight.tolist() == [left] * 3


def test_whether_a_strategy_finds_unused_parameters():
    assert not internals.finds_unused_parameters(DDPStrategy())
    assert not internals.finds_unused_parameters(DDPStrategy(find_unused_parameters=False))
    assert internals.finds_unused_parameters(DDPStrategy(find_unused_parameters=True))
    assert internals.finds_unused_parameters(SingleDeviceStrategy())
    assert "find_unused_parameters" in inspect.signature(nn.parallel.DistributedDataParallel).parameters


def test_the_class_and_the_options_of_a_strategy_that_has_a_name():
    path, options = internals.class_of_strategy("ddp_find_unused_parameters_true")
    assert path == f"{DDPStrategy.__module__}.DDPStrategy"
    assert options == {"find_unused_parameters": True, "start_method": "popen"}


@pytest.mark.parametrize("kind", [DDPStrategy, FSDPStrategy])
def test_how_long_ranks_wait(kind):
    strategy = kind(timeout=timedelta(seconds=5))
    assert internals.timeout_of(strategy) == timedelta(seconds=5)
    internals.set_timeout(strategy, timedelta(seconds=7))
    assert internals.timeout_of(strategy) == timedelta(seconds=7)
    assert internals.timeout_of(SingleDeviceStrategy()) is None
    assert "self._timeout" in inspect.getsource(kind)


@pytest.fixture
def one_rank():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_the_store_of_all_ranks(one_rank):
    store = internals.default_store()
    store.set("key", "value")
    assert store.check(["key"])
    assert not store.check(["other"])


@pytest.mark.parametrize("kept", [True, False])
def test_gradients_are_grouped_from_the_first_step_on_as_in_all_others(kept, one_rank):
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    if kept:
        internals.keep_order_of_sums(model)
    model(torch.ones(4, 2)).sum().backward()
    assert model.reducer._rebuild_buckets() is not kept


def test_whether_batch_norm_is_synchronised():
    for asked in (True, False):
        options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False}
        trainer = Trainer(sync_batchnorm=asked, enable_checkpointing=False, **options)
        assert internals.synchronises_batch_norm(trainer.strategy) is asked


def test_a_failure_of_the_compiler_is_told_from_one_of_the_network():
    def broken(graph, inputs):
        raise OSError("no compiler")

    class Network(nn.Linear):
        def forward(self, x):
            if x.shape[0] == 3:
                raise ValueError("mine")
            return super().forward(x)

    def raised_by(backend, *shape):
        network = Network(4, 2)
        network.compile(backend=backend)
        with pytest.raises(Exception) as caught:  # noqa: PT011  (of any class)
            network(torch.ones(*shape))
        return caught.value

    failure = raised_by(broken, 2, 4)
    assert internals.is_compilers_failure(failure)
    assert "(OSError: no compiler)" in str(not_compiled(failure))
    assert not internals.is_compilers_failure(raised_by("eager", 3, 4))
    assert not internals.is_compilers_failure(raised_by("eager", 2, 5))
