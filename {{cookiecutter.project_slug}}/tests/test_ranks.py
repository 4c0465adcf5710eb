"""Ranks wait for one another for as long as is said, and the one that no longer answers is named."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed as dist
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from project_package.engine import ranks

MINUTES = "--trainer.strategy.timeout=90"
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("flags", "kind", "options"),
    [
        (("--trainer.strategy", "ddp", "--trainer.strategy.timeout", "90"), "DDPStrategy", {"start_method": "popen"}),
        ((MINUTES, "--trainer.strategy=ddp"), "DDPStrategy", {}),
        (("--config=two.yaml", MINUTES), "DDPStrategy", {"find_unused_parameters": True}),
        (("--trainer.strategy=fsdp_cpu_offload", MINUTES), "FSDPStrategy", {"cpu_offload": True}),
        (("--trainer.strategy=DDPStrategy", "--trainer.strategy.timeout=0:01:30"), "DDPStrategy", {}),
    ],
)
def test_a_strategy_that_is_named_takes_the_options_of_its_class(flags, kind, options, run, tmp_path, capsys):
    (tmp_path / "two.yaml").write_text("trainer: {strategy: ddp_find_unused_parameters_true}\n")
    flags = [flag.replace("two.yaml", str(tmp_path / "two.yaml")) for flag in flags]
    assert run("fit", "--trainer.devices=2", *flags, "--print_config") == 0
    strategy = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    assert strategy["class_path"].endswith(f".{kind}")
    assert strategy["init_args"].items() >= {"timeout": "0:01:30", **options}.items()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((MINUTES,), "name it: --trainer.strategy ddp --trainer.strategy.timeout"),
        (("--trainer.strategy=ddp", "--trainer.strategy.timeout=soon"), "timeout=soon"),
        (("--trainer.strategy=ddp", "--trainer.strategy.timeout=0"), "give seconds, or h:mm:ss"),
        (("--trainer.strategy=ddp", "--trainer.strategy.timeut=5"), "timeut"),
    ],
)
def test_an_option_that_no_strategy_takes_is_refused_in_one_line(flags, words, run, capsys):
    assert run("fit", *flags) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_time_is_seconds_or_a_clock():
    same = [ranks.time_of(value) for value in (90, "90", 90.0, "0:01:30", "00:01:30")]
    assert same == [timedelta(seconds=90)] * 5
    assert ranks.time_of("2 days, 1:00:00") == timedelta(days=2, hours=1)
    for wrong in ("soon", True, -1, "nan", "0:00:00"):
        with pytest.raises(ValueError, match="is no time"):
            ranks.time_of(wrong)


def test_ranks_wait_ten_minutes_unless_a_time_is_given_and_say_so(capsys):
    trainer = Trainer(devices=2, strategy="ddp", **QUIET)
    ranks.limit_waiting(trainer, {"trainer.strategy": "ddp"})
    assert ranks.timeout_of(trainer.strategy) == timedelta(minutes=10)
    said = "2 ranks: one that does not answer for 0:10:00 ends the run (--trainer.strategy.timeout 600)"
    assert said in capsys.readouterr().out
    for given, settings in ((timedelta(hours=1), {}), (timedelta(minutes=30), {"trainer.strategy.timeout": 1800})):
        trainer = Trainer(devices=2, strategy=DDPStrategy(timeout=given), **QUIET)
        ranks.limit_waiting(trainer, settings)
        assert ranks.timeout_of(trainer.strategy) == given
        assert f"for {given} ends" in capsys.readouterr().out
    ranks.limit_waiting(Trainer(devices=1, **QUIET), {})
    assert not capsys.readouterr().out


def test_what_a_broken_connection_says_is_told_from_an_error_in_code():
    trainer = Trainer(devices=2, strategy="ddp", **QUIET)
    closed = RuntimeError("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:98. This is typical.")
    said = "another rank ended or lost its network (Connection closed by peer [::1]:98), so no step can be made"
    assert said in str(ranks.lost(closed, trainer))
    early = dist.DistStoreError("Timed out after 5 seconds waiting for clients. 1/2 clients joined.")
    assert "not all 2 ranks came within" in str(ranks.lost(early, trainer))
    assert ranks.lost(RuntimeError("the request timed out"), trainer) is None
    assert ranks.lost(dist.DistBackendError("NCCL error: invalid usage"), trainer) is None
    assert ranks.lost(closed, None) is None


def test_ranks_that_do_not_answer_are_found(monkeypatch):
    store = dist.HashStore()
    store.set("answers/2", "")
    monkeypatch.setattr(ranks, "ANSWER", 0.5)
    monkeypatch.setattr(ranks, "default_store", lambda: store)
    monkeypatch.setattr(ranks, "dist", SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda: 4))
    assert ranks.silent_ranks() == [1, 3]
