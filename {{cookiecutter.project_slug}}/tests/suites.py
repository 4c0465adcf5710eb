"""What every model and every data module here promises, as test classes to inherit.

Three lines test a class of your own, in any test file; a name that begins with Test is what pytest looks for::

    class TestMine(ModelSuite):
        def make(self):
            return Mine(partial(SmallCNN, width=8))

The classes here are no tests by themselves. ``self.drawn`` is where a small data set lies, and
``self.small_data()`` makes the data module of it (conftest.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.testing import assert_close

from project_package.callbacks import LastCheckpoint
from project_package.engine.loading import SplitData
from project_package.engine.task import Task


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """Make a trainer that says and writes nothing but what its callbacks do."""
    saves = any(isinstance(callback, LastCheckpoint) for callback in callbacks)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", callbacks=[*callbacks], enable_checkpointing=saves, **{**quiet, **options})


def ready(data: SplitData, stage: str = "fit") -> SplitData:
    """Set data up without a trainer."""
    data.prepare_data()
    data.setup(stage)
    return data


def assert_equal(one: Any, other: Any) -> None:
    """Compare tensors, and what holds them, bit for bit."""
    assert_close(one, other, rtol=0, atol=0, equal_nan=True)


class Suite:
    """What both suites share."""

    drawn: Path
    small_data: Callable[[], SplitData]

    @pytest.fixture(autouse=True)
    def _drawn_data(self, drawn: Path, small_data: Callable[[], SplitData]) -> None:
        self.drawn, self.small_data = drawn, small_data


class Losses(Callback):
    """Writes down the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.values.append(outputs["loss"].item())


class Killed(Exception):
    """What ends a run in its middle."""


class KilledInTheSecondEpoch(Callback):
    """Ends a run half-way through its second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == int(trainer.num_training_batches) // 2:
            raise Killed


class ModelSuite(Suite):
    """What a model promises."""

    def make(self) -> Task:
        """Make the model, untrained."""
        raise NotImplementedError

    def make_data(self) -> SplitData:
        """Make data that it can be trained on; a model of other data gives its own."""
        return self.small_data()

    def _ready(self) -> tuple[Task, Any]:
        """Make the model as a run builds it, for evaluation, and the inputs of a batch."""
        data, model = ready(self.make_data()), self.make()
        model.schema = data.schema
        model.configure_model()
        return model.eval(), next(iter(data.val_dataloader())).x

    def test_steps_lower_the_loss(self):
        losses = Losses()
        trainer(losses, max_epochs=12, overfit_batches=1).fit(self.make(), self.make_data())
        assert len(losses.values) == 12
        assert sum(losses.values[-3:]) < sum(losses.values[:3])

    def test_a_prediction_follows_its_own_input_and_no_other(self):
        model, x = self._ready()
        with torch.no_grad():
            together = model.predict(x)
            alone = torch.cat([model.predict(x[i : i + 1]) for i in range(len(x))])
        assert len(together) == len(x)
        assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert not torch.equal(together, together[:1].expand_as(together)), "the model ignores its input"

    def test_the_same_seed_gives_the_same_first_weights_and_another_seed_others(self, monkeypatch):
        def first_weights(seed: int, drawn_before: int) -> dict[str, torch.Tensor]:
            monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
            torch.rand(drawn_before)
            return dict(self._ready()[0].named_parameters())

        weights = first_weights(seed=1, drawn_before=0)
        assert_equal(first_weights(seed=1, drawn_before=9), weights)
        other = first_weights(seed=2, drawn_before=0)
        assert any(not torch.equal(other[name], value) for name, value in weights.items())

    def test_saved_and_loaded_it_predicts_the_same(self):
        model = self.make()
        trainer(LastCheckpoint(dirpath="checkpoints"), max_epochs=1).fit(model, self.make_data())
        loaded = type(model).load_from_checkpoint("checkpoints/last.ckpt")
        _, x = self._ready()
        with torch.no_grad():
            assert_equal(loaded.eval().predict(x), model.eval().predict(x))

    def test_a_run_that_goes_on_ends_bit_for_bit_as_if_never_killed(self):
        def fit(folder: str, *callbacks: Callback, ckpt_path: str | None = None) -> None:
            last = LastCheckpoint(every_n_train_steps=1, dirpath=folder)
            trainer(last, *callbacks, max_epochs=2).fit(self.make(), self.make_data(), ckpt_path=ckpt_path)

        def end(folder: str) -> tuple[Any, Any]:
            content = torch.load(f"{folder}/last.ckpt", weights_only=True)
            return content["state_dict"], [optimizer["state"] for optimizer in content["optimizer_states"]]

        fit("whole")
        with pytest.raises(Killed):
            fit("killed", KilledInTheSecondEpoch())
        fit("killed", ckpt_path="killed/last.ckpt")
        assert_equal(end("killed"), end("whole"))


class Reader(LightningModule):
    """Trains nothing, and writes down the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[Any]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.epochs[-1].append(tuple(batch))

    def configure_optimizers(self) -> None:
        return None


class DataSuite(Suite):
    """What a data module promises."""

    def make(self) -> SplitData:
        """Make the data module, with a batch that is smaller than a third of its training samples."""
        raise NotImplementedError

    def _epochs(self, workers: int, count: int = 2) -> list[list[Any]]:
        """Return the training batches of epochs, as a run gets them."""
        data, reader = self.make(), Reader()
        data.num_workers = workers
        trainer(max_epochs=count, limit_val_batches=0).fit(reader, data)
        return reader.epochs

    def test_batches_are_the_same_with_workers_and_without(self):
        alone = self._epochs(workers=0)
        for workers in (1, 2):
            assert_equal(self._epochs(workers), alone)

    def test_each_epoch_has_an_order_of_its_own(self):
        first, second = (torch.cat([batch[2] for batch in batches]) for batches in self._epochs(workers=0))
        assert len(first) == len(second) > 0
        assert not torch.equal(first, second)

    def test_evaluation_sees_every_sample_once(self):
        data = ready(self.make(), "test")
        assert data.manifest is not None
        for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
            keys, targets = data.manifest.splits[split]
            batches = list(loader)
            assert torch.cat([batch.position for batch in batches]).tolist() == list(range(len(keys)))
            assert torch.cat([batch.y for batch in batches]).tolist() == targets.tolist()

    def test_every_sample_stands_in_one_split(self):
        data = ready(self.make())
        assert data.manifest is not None
        keys = [key for split in data.manifest.splits.values() for key in split[0]]
        assert sorted(keys) == sorted(data.samples().keys)
        assert len(keys) == len(set(keys))

    def test_splits_are_drawn_again_the_same(self):
        def drawn() -> dict[str, tuple[list[str], list[Any]]]:
            manifest = ready(self.make()).manifest
            assert manifest is not None
            return {split: (keys, targets.tolist()) for split, (keys, targets) in manifest.splits.items()}

        assert drawn() == drawn()
