"""Probabilities mean what they say once they are calibrated, intervals hold as often as they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch.nn import functional

from project_package.cli import CLI
from project_package.engine import calibrating, calibration, reliability
from project_package.engine.calibration import (
    OfProbabilities,
    Temperature,
    Temperatures,
    fit_temperature,
)
from project_package.engine.mistakes import Mistake
from project_package.engine.splits import Manifest
from project_package.engine.targets import Classes, Labels, Numbers

RUN = Path("runs/small/version_0")
BEST = RUN / "checkpoints/best.ckpt"


def softmax(logits_NK):
    return torch.from_numpy(logits_NK).softmax(1).numpy()


def sigmoid(logits):
    return torch.from_numpy(logits).sigmoid().numpy()


def over_sure(seed=0, count=2000, times=5.0):
    """Draw classes by the odds that logits say, and probabilities by logits that are larger."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 1.5, (count, 4))
    target_N = np.array([rng.choice(4, p=p) for p in softmax(logits_NK)])
    return Classes(list("abcd")), target_N, softmax(times * logits_NK).astype(np.float32)


def over_sure_labels(count=2000, times=(5.0, 1.0, 0.5)):
    rng = np.random.default_rng(1)
    logits_NK = rng.normal(0, 1.5, (count, 3))
    target_NK = (rng.random((count, 3)) < sigmoid(logits_NK)).astype(np.uint8)
    return Labels(list("abc")), target_NK, sigmoid(np.array(times) * logits_NK).astype(np.float32)


def test_a_network_that_is_five_times_too_sure_gets_its_temperature():
    target, target_N, p_NK = over_sure()
    [found] = fit_temperature(target, target_N, p_NK, np.ones(len(p_NK)))
    assert found == pytest.approx(5, rel=0.1)
    after_NK = OfProbabilities(target, [found]).calibrated(p_NK, None)
    scores = reliability.compared(target, target_N, np.ones(len(p_NK)), before=p_NK, after=after_NK)
    for name in reliability.SCORES:
        before, after = scores["before"][name], scores["after"][name]
        assert after["interval"][1] < before["interval"][0]
        assert before["interval"][0] < before["value"] < before["interval"][1]
    assert scores["before"]["ECE"]["value"] > 0.25
    assert scores["after"]["ECE"]["value"] < 0.04


def test_each_label_gets_a_temperature_of_its_own():
    target, target_NK, p_NK = over_sure_labels()
    found_K = fit_temperature(target, target_NK, p_NK, np.ones(len(p_NK)))
    assert found_K == pytest.approx([5, 1, 0.5], rel=0.15)
    alone = [fit_temperature(Labels(["a"]), target_NK[:, [k]], p_NK[:, [k]], np.ones(len(p_NK)))[0] for k in range(3)]
    assert found_K == pytest.approx(alone, rel=1e-6)


def test_the_temperature_is_the_one_that_torchs_optimizer_finds():
    target, target_N, p_NK = over_sure(count=300)
    weight_N = np.random.default_rng(2).uniform(0.1, 3, 300)
    z_NK, weights = torch.tensor(p_NK).double().clamp_min(calibration.TINY).log(), torch.tensor(weight_N)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        losses_N = functional.cross_entropy(z_NK / log_t.exp(), torch.tensor(target_N), reduction="none")
        (total := (weights * losses_N).sum() / weights.sum()).backward()
        return total

    optimizer.step(loss)
    assert fit_temperature(target, target_N, p_NK, weight_N) == pytest.approx([log_t.exp().item()], rel=1e-5)


def test_a_weight_of_two_counts_as_two_samples():
    target, target_N, p_NK = over_sure(count=200)
    twice = np.repeat(np.arange(200), np.where(np.arange(200) < 70, 2, 1))
    weighted = fit_temperature(target, target_N, p_NK, np.where(np.arange(200) < 70, 2.0, 1.0))
    assert weighted == pytest.approx(fit_temperature(target, target_N[twice], p_NK[twice], np.ones(270)))


def test_where_nothing_is_wrong_it_is_never_certain_and_does_not_depend_on_how_sure_the_network_was():
    classes, labels = [], []
    for times in (0.2, 1.0, 5.0):
        target, _, p_NK = over_sure(count=200, times=times)
        found = fit_temperature(target, p_NK.argmax(1), p_NK, np.ones(200))
        classes.append(OfProbabilities(target, found).calibrated(p_NK, None).max(1).mean())
        target, _, p_NK = over_sure_labels(200, times=(times, times, times))
        found = fit_temperature(target, (p_NK > 0.5).astype(np.uint8), p_NK, np.ones(200))
        q_NK = OfProbabilities(target, found).calibrated(p_NK, None)
        labels += np.maximum(q_NK, 1 - q_NK).mean(0).tolist()
    assert 0.9 < classes[0] < 1 - 0.2 / 202
    assert classes == pytest.approx([classes[0]] * 3, abs=1e-6)
    assert 0.9 < min(labels) < max(labels) < 1 - 0.2 / 202
    assert labels == pytest.approx(labels[:3] * 3, abs=1e-3)  # near 1 float32 has few digits


def test_a_temperature_is_found_of_anything():
    target = Classes(list("ab"))
    for p_NK in ([[1, 0], [0, 1], [1, 0]], [[0.5, 0.5]] * 3, [[1e-40, 1]] * 3, [[0.2, 0.8], [0.8, 0.2], [0.7, 0.3]]):
        given = np.array(p_NK, np.float32)
        for target_N in ([0, 1, 1], [1, 0, 1], [1, 1, 1]):
            [found] = fit_temperature(target, np.array(target_N), given, np.ones(3))
            assert calibration.COLDEST <= found <= calibration.HOTTEST
            calibration.read(target, {"temperature": [found]})


@pytest.fixture(params=["64 bits", "32 bits, as an export"])
def precision(request, monkeypatch):
    """Whether calibration computes as in predict or as in an exported model."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: "export" in request.param)
    return request.param


def hard_probabilities(rng, columns, softly):
    """Draw probabilities that are all but the same, 0, 1, or far apart."""
    logits = rng.normal(0, 10.0 ** rng.uniform(-8, 4), (50, columns))
    p = (softmax(logits) if softly else sigmoid(logits)).astype(np.float32)
    p[rng.random(p.shape) < 0.05] = p[0, 0]
    p[0], p[1], p[2] = 0, 1, np.float32(0.5)
    p[3, 0] = np.nextafter(p[3, -1], np.float32(0))
    return p


@pytest.mark.parametrize("seed", range(60))
def test_no_class_changes(seed, precision):
    rng = np.random.default_rng(seed)
    p_NK = hard_probabilities(rng, int(rng.integers(2, 9)), softly=True)
    for temperature in (0.01, 0.9, 1.0, 10.0 ** rng.uniform(-2, 2), 100.0):
        q_NK = Temperature(temperature)(torch.from_numpy(p_NK))
        assert (q_NK.argmax(1).numpy() == p_NK.argmax(1)).all()
        assert (q_NK.float().argmax(1).numpy() == p_NK.argmax(1)).all() or "64" in precision
        assert torch.isfinite(q_NK).all()
        assert ((q_NK >= 0) & (q_NK <= 1)).all()
        assert torch.allclose(q_NK.sum(1), torch.ones(50, dtype=q_NK.dtype), atol=1e-5)


@pytest.mark.parametrize("seed", range(60))
def test_no_label_changes(seed, precision):
    rng = np.random.default_rng(seed)
    p_NK = hard_probabilities(rng, 4, softly=False)
    near = p_NK[rng.integers(0, 50, 4), np.arange(4)].astype(np.float64)
    for threshold_K in (near, near * (1 + 3e-8), near * (1 - 3e-8), np.full(4, 0.5), np.array([0, 1, 1e-40, 1 - 3e-8])):
        for temperature in (0.01, 1.0, 10.0 ** rng.uniform(-2, 2), 100.0):
            module = Temperatures([temperature] * 4, threshold_K.tolist())
            q_NK = module(torch.from_numpy(p_NK)).double().numpy()
            reached_NK = p_NK.astype(np.float64) >= threshold_K
            assert ((q_NK >= np.array(module.calibrated_K.tolist())) == reached_NK).all()
            assert np.isfinite(q_NK).all()
            assert ((q_NK >= 0) & (q_NK <= 1)).all()


def test_logits_of_ten_thousand_keep_their_class_and_their_order():
    p_NK = softmax(np.array([[1e4, -1e4, 0], [-1e4, 1e4, 5], [3, 3, -1e4]])).astype(np.float32)
    q_NK = OfProbabilities(Classes(list("abc")), [4.0]).calibrated(p_NK, None)
    assert q_NK.argmax(1).tolist() == [0, 1, 0]
    assert (q_NK[:, 2] < 1e-6).all()


def test_what_could_not_be_read_stays_unknown():
    for of in (OfProbabilities(Classes(["a", "b"]), [2.0]), OfProbabilities(Labels(["a", "b"]), [2.0, 3.0])):
        q_NK = of.calibrated(np.array([[np.nan, np.nan], [0.2, 0.8]], np.float32), [0.5, 0.5])
        assert np.isnan(q_NK).tolist() == [[True, True], [False, False]]


def test_labels_keep_their_thresholds_at_one_half_where_none_were_chosen():
    of = OfProbabilities(Labels(["a", "b"]), [2.0, 3.0])
    assert of.settled(None) is None
    assert of.settled([0.5, 0.2]) == pytest.approx([0.5, 1 / (1 + 4 ** (1 / 3))])


def test_the_scores_are_those_that_their_definitions_give():
    target, target_N, p_NK = over_sure(count=500)
    weight_N = np.random.default_rng(3).uniform(0.1, 3, 500)
    found = {
        name: score["value"] for name, score in reliability.compared(target, target_N, weight_N, p=p_NK)["p"].items()
    }
    p_NK = p_NK.astype(np.float64)
    error, _ = reliability.calibration(p_NK.max(1), p_NK.argmax(1) == target_N, weight_N)
    true_N = np.maximum(p_NK[np.arange(500), target_N], reliability.LEAST)
    square_N = ((p_NK - np.eye(4)[target_N]) ** 2).sum(1)
    expected = [error, np.average(-np.log(true_N), weights=weight_N), np.average(square_N, weights=weight_N)]
    assert [*found.values()] == pytest.approx(expected)


@pytest.mark.parametrize("is_log", [False, True])
def test_intervals_hold_as_often_as_they_say(is_log):
    level, sets, validated, new = 0.9, 200, 40, 400
    target, held, hits = Numbers(["a"], is_log), [], 0
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        true_N1 = rng.lognormal(1, 1, (validated + new, 1)) + 1
        off_N1 = rng.standard_t(3, true_N1.shape)
        said_N1 = true_N1 * np.exp(0.2 * off_N1) if is_log else true_N1 + off_N1
        of = calibration.OfNumbers.fitted(target, true_N1[:validated], said_N1[:validated])
        low_N1, high_N1 = of.bounds(said_N1[validated:], level)
        assert (low_N1 > 0).all() or not is_log
        inside = (low_N1 <= true_N1[validated:]) & (true_N1[validated:] <= high_N1)
        held.append(inside.mean())
        hits += int(inside[0, 0])
    low, high = calibration.binomial_interval(hits, sets, 0.999)
    # The residual of rank 37 of 40: the share that lies within is a draw of a beta distribution with mean 37 / 41.
    share = beta(37, 4)
    assert level <= share.mean()
    assert low < share.mean() < high
    assert np.mean(held) == pytest.approx(share.mean(), abs=4 * share.std() / sets**0.5)


def test_several_numbers_have_an_interval_each():
    rng = np.random.default_rng(0)
    true_NT = rng.normal(0, 1, (99, 2))
    of = calibration.OfNumbers.fitted(Numbers(["a", "b"]), true_NT, true_NT + rng.normal(0, [1, 100], (99, 2)))
    narrow, wide = of.half_widths(0.9)
    assert 10 * narrow < wide
    assert of.only(1).half_widths(0.9) == [wide]
    assert calibration.read(
        of.target, {"samples": 99, "ranks": of.rank_R.tolist(), "residuals": of.residual_TR.tolist()}
    )


def test_of_very_many_residuals_so_many_are_kept_that_intervals_are_hardly_wider():
    residual_N1 = np.random.default_rng(0).normal(0, 1, (60_000, 1))
    of = calibration.OfNumbers.fitted(Numbers(["a"]), residual_N1, np.zeros_like(residual_N1))
    assert len(of.rank_R) <= 1.1 * calibration.RANKS + 1
    for level in (0.5, 0.9, 0.9999):
        exact = np.sort(np.abs(residual_N1[:, 0]))[int(np.ceil(60_001 * level)) - 1]
        assert exact <= of.half_widths(level)[0] <= exact * 1.01


@pytest.mark.parametrize(
    ("level", "words"), [(0.95, "give 0.9 or less"), (0, "no share"), (1, "no share"), (9, "no share")]
)
def test_a_level_that_validation_cannot_promise_is_refused(level, words):
    true_N1 = np.arange(9.0)[:, None]
    of = calibration.OfNumbers.fitted(Numbers(["a"]), true_N1, np.zeros((9, 1)))
    assert of.half_widths(0.9) == [8]
    with pytest.raises(Mistake, match=words):
        of.half_widths(level)


def test_the_interval_of_a_share_is_exact():
    for hits, count in ((0, 10), (10, 10), (1, 3), (177, 200), (3000, 3001)):
        low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0
        high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1
        assert calibration.binomial_interval(hits, count) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    "content",
    [
        *({"temperature": value} for value in ([], [1, 2], ["1e9"], [-1], [float("nan")], "x", None, {}, [[1]])),
        {},
    ],
)
def test_a_temperature_that_is_none_is_not_taken(content):
    with pytest.raises((KeyError, TypeError, ValueError)):
        calibration.read(Classes(["a", "b"]), content)


@pytest.mark.parametrize(
    ("samples", "ranks", "residuals"),
    [
        *((3, [1, 2, 3], value) for value in ([[3, 2, 1]], [[1, 2]], [], [[1, 2, float("nan")]], "x")),
        *((3, value, [[1, 2, 3]]) for value in ([1, 2, 4], [0, 2, 3], [1, 1, 3], [1.5, 2, 3], [])),
        *((value, [1, 2, 3], [[1, 2, 3]]) for value in ("3", None, 5)),
    ],
)
def test_residuals_that_are_none_are_not_taken(samples, ranks, residuals):
    with pytest.raises((KeyError, TypeError, ValueError)):
        calibration.read(Numbers(["a"]), {"samples": samples, "ranks": ranks, "residuals": residuals})


# Of a run.


def kept(run=RUN):
    return json.loads((run / "calibration.json").read_text())


def predict(run, drawn, *flags):
    """Return the columns of predictions.csv, and its labels."""
    new, _ = CLI.data_module.to_predict
    assert run("predict", f"{new}={drawn}", *flags) == 0
    header, *rows = [line.split(",") for line in (RUN / "predictions.csv").read_text().splitlines()]
    return header, [row[1] for row in rows], np.array([row[2:] for row in rows], float)


def test_a_run_ends_with_a_calibration_that_predict_takes_where_asked(trained, run, drawn, capsys):
    assert run("test") == 0
    said = capsys.readouterr().out
    entry = kept()["best.ckpt"]
    count = len(Manifest.load(RUN / "manifest.json", outside=True).splits["val"][0])
    assert entry["samples"] == count
    assert said.count("ECE") == 2
    tested = json.loads((RUN / "test_calibration.json").read_text())
    assert all(len(tested[stage]["ECE"]["interval"]) == 2 for stage in ("before", "after"))
    before = BEST.read_bytes()
    plain, calibrated = predict(run, drawn), predict(run, drawn, "--calibrate=true")
    assert plain[:2] == calibrated[:2]
    [temperature] = entry["temperature"]
    expected_NK = softmax(np.log(plain[2]) / temperature)
    assert calibrated[2] == pytest.approx(expected_NK, abs=1e-6)
    assert abs(calibrated[2] - plain[2]).max() > 1e-4
    assert BEST.read_bytes() == before


def test_another_checkpoint_is_refused_until_it_is_validated(trained, run, drawn, capfd):
    new = f"{CLI.data_module.to_predict[0]}={drawn}"
    assert run("predict", new, "--calibrate=true", "--ckpt_path=last") == 2
    assert "validate --ckpt_path" in capfd.readouterr().err
    assert run("validate", "--ckpt_path=last") == 0
    assert kept().keys() == {"best.ckpt", "last.ckpt"}
    assert run("predict", new, "--calibrate=true", "--ckpt_path=last") == 0
    BEST.write_bytes((RUN / "checkpoints/last.ckpt").read_bytes() + b"\0")  # trained on
    assert calibrating.find(calibrating.Run(RUN), BEST) is None


def test_a_run_of_before_is_calibrated_by_validate_to_the_same(trained, run):
    first = kept()["best.ckpt"]
    for content in (None, "[]", '{"best.ckpt": {"checkpoint_sha256": 5}}', "{"):
        (RUN / "calibration.json").unlink(missing_ok=True)
        if content:
            (RUN / "calibration.json").write_text(content)
        assert run("validate") == 0
        again = kept()["best.ckpt"]
        assert again["temperature"] == pytest.approx(first["temperature"], rel=1e-4)
        assert again["checkpoint_sha256"] == first["checkpoint_sha256"]


def test_a_validation_of_other_samples_calibrates_nothing(trained, run):
    (RUN / "calibration.json").unlink()
    assert run("validate", "--trainer.limit_val_batches=1") == 0
    assert not (RUN / "calibration.json").exists()
    if CLI.data_module.noun == "images":
        assert run("validate", "--data.fit=stretch") == 0
        assert not (RUN / "calibration.json").exists()
    assert run("validate", "--trainer.limit_val_batches=1.0") == 0
    assert kept().keys() == {"best.ckpt"}


def test_without_a_validation_split_there_is_none_and_asking_is_refused(run, drawn, capfd):
    assert run("fit", "--data.val_fraction=0", "--trainer.limit_val_batches=0", "--trainer.max_epochs=1") == 0
    assert not (RUN / "calibration.json").exists()
    new = f"{CLI.data_module.to_predict[0]}={drawn}"
    capfd.readouterr()
    assert run("predict", new, "--calibrate=true", "--ckpt_path=last") == 2
    said = capfd.readouterr().err
    assert "--calibrate=true" in said
    assert "--data.val_fraction" in said
    assert said.count("\n") == 1
    assert run("test", "--ckpt_path=last") == 0
    assert "ECE" in capfd.readouterr().out


@pytest.mark.parametrize("flag", ["--interval=0.9", "--interval=1.5"])
def test_intervals_of_classes_are_refused(flag, trained, run, drawn, capfd):
    assert run("predict", f"{CLI.data_module.to_predict[0]}={drawn}", flag) == 2
    said = capfd.readouterr().err
    assert flag in said
    assert said.count("\n") == 1


# The loss is the least at the end, so the best by mode max came first; and the usual way, where each may be the best.
@pytest.mark.parametrize(("mode", "averaged"), [("min", True), ("max", False)])
def test_a_resumed_run_ends_with_the_calibration_of_an_unbroken_one(mode, averaged, run, monkeypatch):
    flags = ["--trainer.max_epochs=4", f"--mode={mode}", "--trainer.val_check_interval=0.5", "--monitor=val/loss"]
    flags += ["--callbacks.averaging=EMAWeightAveraging", "--callbacks.averaging.decay=0.5"] if averaged else []
    assert run("fit", *flags, "--name=whole") == 0
    model = CLI.tasks["multiclass"]
    step = model.training_step

    def failing(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(model, "training_step", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run("fit", *flags)
    assert not (RUN / "calibration.json").exists()
    assert run("fit", *flags, "--resume=auto") == 0
    whole, resumed = kept(Path("runs/whole/version_0"))["best.ckpt"], kept()["best.ckpt"]
    del whole["checkpoint_sha256"], resumed["checkpoint_sha256"]
    assert whole == resumed
    assert not (RUN / "best_validated.npy").exists()
    (RUN / "calibration.json").unlink()
    assert run("validate") == 0  # what was kept is of the checkpoint itself
    assert kept()["best.ckpt"]["temperature"] == pytest.approx(whole["temperature"], rel=1e-4)


def test_what_is_kept_for_a_resume_is_not_taken_for_another_checkpoint(run, monkeypatch, capsys):
    taken = calibrating.Calibrates._taken

    def of_another_step(self, step):
        return taken(self, step + 1)

    monkeypatch.setattr(calibrating.Calibrates, "_taken", of_another_step)
    assert run("fit", "--trainer.max_epochs=1") == 0
    assert "not fitted" in capsys.readouterr().out
    assert not (RUN / "calibration.json").exists()


def test_a_training_is_the_same_with_and_without_it(run, monkeypatch):
    assert run("fit") == 0
    monkeypatch.setattr(calibrating.Calibrates, "on_validation_end", lambda *args: None)
    assert run("fit", "--name=without") == 0
    one, other = (
        torch.load(f"runs/{name}/version_0/checkpoints/best.ckpt", weights_only=True) for name in ("small", "without")
    )
    assert one.keys() == other.keys()
    assert one["callbacks"].keys() == other["callbacks"].keys()
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
