"""Turn each technique into a no-op, one after the other, and expect the project's tests to turn red.

    python tests/mutants.py

A mutant replaces a piece of one file of a baked project and names the tests that must catch it. Ends with
``N mutants, N caught``; exit code 0 only if all are.
"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import Command, Result, bake

# file, what is replaced, by what, the tests (pytest's -k) that must fail
MUTANTS = [
    ("losses.py", "label_smoothing=self.label_smoothing", "label_smoothing=0.0", "test_cross_entropy"),
    ("losses.py", ".pow(gamma)", ".pow(0.0)", "test_focal"),
    ("losses.py", "self.tau * self.class_prior_K.log()", "0.0", "logit_adjustment"),
    ("losses.py", "if self.training else 0.0", "", "logit_adjustment"),
    ("losses.py", "(self.class_weights_K * terms_NK)", "(terms_NK)", "binary_cross_entropy"),
    ("losses.py", "else target @ self.class_weights_K", "else target.sum(1)", "weights_of_samples"),
    ("losses.py", "positive_NK = weights_K * target_NK", "positive_NK = target_NK", "entropy_of_labels"),
    ("losses.py", "p_NK - clip", "p_NK", "asymmetric"),
    ("losses.py", "(not_p_NK + clip)", "(not_p_NK)", "asymmetric"),
    ("losses.py", "delta=self.delta", "delta=1.0", "losses_of_numbers"),
    ("losses.py", "(self.q - 1) * error_NT", "-0.5 * error_NT", "losses_of_numbers"),
    ("engine/calibration.py", ".log() / self.temperature)", ".log())", "calibration_that_predict_takes"),
    ("engine/calibration.py", "torch.where(is_first_NK, q_NK, torch.minimum(q_NK, below_N1))", "q_NK",
     "no_class_changes"),
    ("engine/calibration.py", "torch.maximum(q_NK, least_K), torch.minimum(q_NK, least_K * BELOW_1)", "q_NK, q_NK",
     "no_label_changes"),
    ("engine/calibration.py", "logit / self.temperature_K.to(p.dtype)", "logit", "keep_their_thresholds"),
    ("engine/calibration.py", "1 / (len(targets) + 2), 0.0)", "0.0, 0.0)", "nothing_is_wrong"),
    ("engine/calibration.py", "slope += weight_N[part] @", "slope += np.ones(len(z_NK)) @", "weight_of_two"),
    ("engine/calibration.py", "math.ceil((self.samples + 1) * level", "math.ceil(self.samples * level",
     "hold_as_often"),
    ("engine/calibration.py", "np.abs(target.learned(targets) - target.learned(predicted))",
     "np.abs(targets - predicted)", "hold_as_often"),
    ("engine/calibrating.py", 'entry.get("checkpoint_sha256") != digest', "False", "another_checkpoint_is"),
    ("engine/calibrating.py", "best.best_model_score is self.before", "False", "calibration_of_an_unbroken"),
    ("engine/calibrating.py", 'kept["step"][0] != step', "False", "taken_for_another"),
    ("engine/per_sample.py", 'self.loss.reduction = "none"', "pass", "any_loss"),
    ("engine/scores.py", " if weight is None else weight.detach()", "", "scikit_learns"),
    ("engine/scores.py", "np.diff(value_N)", "np.ones(len(value_N) - 1)", "scores_of_labels"),
    ("engine/scores.py", "dist_sync_fn=_gather", "dist_sync_fn=None", "several_ranks"),
    ("engine/scores.py", "and \"weight\" not in", "and \"target\" not in", "knows_no_weights"),
    ("engine/targets.py", "weights = 1 / counts", "pass", "class_weights_follow"),
    ("engine/targets.py", "weights = 1 / _effective(counts)", "pass", "class_weights_follow"),
    ("engine/targets.py", "weights = np.maximum(negative, 1) / positive", "pass", "positive_example"),
    ("engine/targets.py", "(targets / counts).max(1)", "(targets / counts).min(1)", "rarest_label"),
    ("engine/targets.py", "list(settled or [0.5]", "list([0.5]", "own_thresholds"),
    ("engine/targets.py", "learned_NT = y_NT.log() if self.log else y_NT", "learned_NT = y_NT", "in_their_unit"),
    ("engine/targets.py", "np.searchsorted(np.unique(edges)", "np.searchsorted(edges[:1]", "each_quantile"),
    ("engine/splits.py", "lack_LP[:, chosen] -= in_unit_UL[unit]", "pass", "four_samples"),
    ("engine/splits.py", "parent[top(i)] = top(first_of.setdefault(number, i))", "pass", "groups_of_the_data"),
    ("engine/task.py", "(loss_N * batch.weight).sum()", "loss_N.sum()", "weighs_its"),
    ("engine/task.py", "(weight_N * batch.weight).sum()", "weight_N.sum()", "weighs_its"),
    ("engine/targets.py", "torch.from_numpy(1.0 / self", "torch.from_numpy(1.0 + 0 * self", "drawn_equally"),
    ("engine/loading.py", "if self.train_fraction < 1:", "if False:", "train_fraction"),
    ("engine/splits.py", "parent[top(i)] = top(first)", "pass", "copies_of_an_image"),
    ("engine/sampling.py", "derived_seed(self.seed, epoch)", "derived_seed(self.seed)", "order_of_its_own"),
    ("optim.py", "gamma=gamma)", "gamma=1.0)", "closed_form and Step"),
    ("optim.py", "gamma=final_factor ** (1 / total_steps)", "gamma=1.0", "closed_form and Exponential"),
    ("optim.py", "end_factor=final_factor", "end_factor=1.0", "closed_form and Linear"),
    ("optim.py", "T_0=math.ceil(total_steps / cycles)", "T_0=total_steps", "closed_form and CosineRestarts"),
    ("optim.py", "(2 * cycles)", "2", "closed_form and Cyclic"),
    ("optim.py", "pct_start=pct_start", "pct_start=0.9", "closed_form and OneCycle"),
    ("engine/optimizers.py", "if warmup_steps == 0:", "if True:", "closed_form and 5-Cosine"),
    ("engine/optimizers.py", 'group["weight_decay"] = 0.0', "pass", "decay_leaves"),
    ("engine/optimizers.py", "layer_decay**from_head", "1.0", "rates_fall"),
    ("engine/optimizers.py", "backbone_lr_factor if from_head", "1.0 if from_head", "rates_fall"),
    ("engine/task.py", "schedule = partial(schedule, mode=hparams.mode)", "pass", "plateau_watches"),
    ("engine/optimizers.py", 'group["lr"] *= group["lr_factor"]', "pass", "rates_fall"),
    ("engine/task.py", "if self.hparams.l1:", "if False:", "l1_makes"),
    ("engine/keepers.py", "if self.warmup and step_idx is not None:", "if False:", "equal_the_recurrence"),
    ("engine/task.py", "if hparams.init:", "if False:", "scheme_reaches"),
    ("engine/task.py", ".requires_grad_(False).eval()", ".requires_grad_(False)", "frozen_backbone"),
    ("engine/task.py", "if hparams.freeze and not hparams.unfreeze_every:", "if False:", "frozen_backbone"),
    ("engine/task.py", "self.current_epoch // every if every else 0", "0", "unfreezing_goes"),
    ("model.py", "return self.mix(x_NCHW, target)", "return x_NCHW, target", "mixing_trains"),
    ("model.py", "self.hparams.unmixed_epochs and self.current_epoch >= last_mixed", "False", "mixing_trains"),
    ("model.py", ", hparams.mix_probability)", ", 1.0)", "mixing_trains"),
    ("engine/task.py", 'if hparams.get("channels_last"):', "if False:", "channels_last"),
    ("engine/task.py", "if hparams.compile:", "if False:", "compiled_run"),
    ("engine/task.py", "            check(self.rules, self, data, self.trainer)",
     "            pass", "contradiction_stops"),
    ("networks.py", "nn.Flatten(), nn.Dropout(dropout or 0.0)]", "nn.Flatten(), nn.Identity()]", "dropout_are"),
    ("networks.py", "(1 if image_size < 64 else 2 if image_size < 128 else 4)", "1", "the_first_stage_follows"),
    ("model.py", "self.follow(schema.inputs)", "pass", "the_networks_stride"),
    ("model.py", 'self.follow(checkpoint["hyper_parameters"]["schema"]["inputs"])', "pass", "the_networks_stride"),
    ("networks.py", "ACTIVATIONS[activation]()])", "nn.ReLU()])", "activations_are"),
    ("networks.py", 'if norm == "batch":', "if True:", "norms_are"),
    ("engine/backbone.py", "if checkpointing:", "if False:", "gradient_checkpointing"),
    ("engine/recomputing.py", "norm.momentum = 0.0", "pass", "gradient_checkpointing"),
    ("engine/recomputing.py", " and any(True for _ in part.parameters())", "", "gradient_checkpointing"),
    ("engine/timm_models.py", "if checkpointing:", "if False:", "gradient_checkpointing"),
    ("engine/timm_models.py", '"drop_rate": dropout, ', "", "stochastic_depth_reach"),
    ("engine/timm_models.py", '"drop_path_rate": stochastic_depth, ', "", "stochastic_depth_reach"),
    ("engine/timm_models.py", "coarse=not fine", "coarse=True", "rates_and_decay"),
    ("engine/timm_models.py", "last = max(stage_of.values()) + (not fine)", "last = max(stage_of.values())",
     "head_is_the_last"),
    ("engine/timm_models.py", "self.model[0].training = mode", "pass", "own_dropout"),
    ("engine/timm_models.py", "EMBEDDINGS.fullmatch(name) or ", "", "where_timm_forgets"),
    ("engine/timm_models.py", "state[key] = _of_other_channels(theirs, ours)", "pass", "adapted_to_the_channels"),
    ("engine/timm_models.py", "return counters | {", "return {", "without_a_counter"),
    ("engine/timm_models.py", "torch.stack([*logits]).mean(0)", "logits[0]", "several_heads"),
    ("engine/timm_models.py", 'crop_fraction=said["crop_pct"]', "crop_fraction=None", "timms_own"),
    ("engine/timm_models.py", 'fit=CROP_MODES[said["crop_mode"]]', 'fit="crop"', "timms_own_transforms"),
    ("engine/optimizers.py", " and parameter not in kept", "", "rates_and_decay"),
    ("engine/weights.py", "theirs, group = group, convert(group)", "theirs = group", "names_of_another_project"),
    ("engine/backbone.py", '"stochastic_depth_prob": stochastic_depth, "image_size"', '"image_size"', "stochastic"),
    ("engine/preprocessing.py", "resize - (resize - image_size) % 4", "resize", "published_weights_are"),
    ("engine/preprocessing.py", "math.floor(size / crop_fraction + 1e-6)", "int(size / crop_fraction)",
     "whole_numbers_gives"),
    ("engine/preprocessing.py", 'given["interpolation"] or what.interpolation', '"bilinear"', "published_weights_are"),
    ("engine/preprocessing.py", 'if fed and "mean" in fed:', "if False:", "weights_are_fed"),
    ("engine/preprocessing.py", "weights if fed is None else None", "weights", "earlier_version"),
    ("engine/preprocessing.py", "if by is not None and what.other_sizes and", "if False and", "declares_its_size"),
    ("engine/decoding.py", "3 * side * share", "side * share", "a_jpeg_is_fed"),
    ("engine/images.py", 'for name in ("mean", "std") if name in inputs', 'for name in ()', "ones_own_declares"),
    ("engine/image_files.py", 'if self.stage == "fit" and "from" in resumed:', "if False:", "earlier_version"),
    ("engine/cache.py", "{tuple(decoding[:-1])}", "{tuple(decoding[:5])}", "another_filter"),
    ("engine/weights.py", "std=own_gain / math.sqrt(fan_in)", "std=0.02", "first_weights"),
    ("engine/weights.py", "nn.init.xavier_uniform_(module.weight, own_gain)", "pass", "first_weights"),
    ("engine/weights.py", "nn.init.orthogonal_(module.weight, own_gain)", "pass", "first_weights"),
    ("engine/weights.py", "network.load_state_dict(own | taken.values)", "pass", "weights_of_other"),
    ("engine/weights.py", "if not wrong:", "if len(wrong) < 2:", "fit_all_but_one"),
    ("engine/weights.py", "next((weights for weights in fitting if weights.averaged), fitting[0])",
     "fitting[0]", "weights_in_a_file"),
    ("augment.py", "return Augment, (self.name, self.size, self.flip)",
     "return super().__reduce__()", "handed_to_workers"),
    ("engine/sampling.py", "batches * (self.batch_size or 1)", "0", "same_weights"),
    ("engine/sampling.py", "self.sampler.set_epoch(epoch)", "self.sampler.set_epoch(0)", "order_of_its_own"),
    ("engine/optimizers.py", "config.scheduler.step(trainer.callback_metrics[config.monitor])",
     "pass", "plateau_watches"),
    ("engine/task.py", "self.sums = kept[self.global_rank].to(self.device)", "pass", "same_weights"),
    ("engine/task.py", 'if self.resumed.get("horizon", self.horizon) != self.horizon:',
     "if False:", "another_experiment"),
    ("engine/resume.py", "return not key.startswith(REFUSED) and any(", "return True or any(", "another_experiment"),
    ("engine/resume.py", "work.identity == launch.identity", "True", "its_own_launch"),
    ("engine/loggers.py", 'int(row["step"]) < step', "True", "same_weights"),
    ("engine/faults.py", "self.finite & loss.detach().isfinite()", "self.finite", "not_finite"),
    ("engine/faults.py", "if -overflows >= OVERFLOWS_IN_A_ROW:", "if False:", "overflows"),
    ("engine/guard.py", 'import_path_denylist=["*"]', "import_path_denylist=[]", "what_a_config_names"),
    ("engine/guard.py", "instantiate_subclass_spec_in_any=False",
     "instantiate_subclass_spec_in_any=True", "a_checkpoint_names"),
    ("engine/guard.py", "if not isinstance(named, type) and not", "if False and not", "what_a_config_names"),
    ("engine/parser.py", '"sub_configs": False', '"sub_configs": True', "what_a_config_names"),
    ("engine/checkpoints.py", "entry.compress_type != zipfile.ZIP_STORED", "False", "could_run_code"),
    ("engine/checkpoints.py", 'with made_anew(unfinished) as file:',
     'with path.open("wb") as file:', "save_that_fails"),
    ("engine/quantisation.py", "if self.range_P2 is None else rounded_weights(module.weight.float())",
     "", "trains_the_rounded_network"),
    ("engine/quantisation.py", "x = self._rounded(point, x)", "pass", "trains_the_rounded_network"),
    ("engine/quantisation.py", "before + self.momentum * (seen_P2 - before)", "before", "follow_it_slowly"),
    ("engine/quantisation.py", 'checkpoint["ranges"] = ranges', "pass", "goes_on_with_its_ranges"),
    ("engine/quantisation.py", " and one.sum_given == call.sum_made", "", "decides_whether"),
    ("engine/task.py", 'self.ranges = read_ranges(checkpoint.get("ranges"))', "pass", "round_as_its_validation"),
    ("engine/keepers.py", "self.epoch - self.start_epoch if", "0 if", "swa_keeps"),
    ("augment.py", "self.compose.set_random_seed(seed)", "pass", "follows_its_seed"),
    ("augment.py", "A.HorizontalFlip(p=0.5 * flip)", "A.NoOp()", "never_mirror"),
    ("augment.py", "A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.1, 0.3)",
     "A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.5, 0.6)", "cutout"),
]  # fmt: skip


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    project = bake(folder)
    run = Command()

    def caught(number: int) -> bool:
        file, old, new, tests = MUTANTS[number]
        mutant = folder / f"mutant-{number}"
        shutil.copytree(project, mutant, ignore=shutil.ignore_patterns(".git"))
        path = mutant / "src/my_project" / file
        text = path.read_text()
        assert old in text, f"{file} no longer holds {old!r}"
        path.write_text(text.replace(old, new))
        done: Result = run(mutant, mutant, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", tests)
        red = (done.code == 1 and " failed" in done.output) or "FAILED" in done.output
        print(f"{'caught' if red else 'SURVIVED'}: {file}: {old} → {new or 'nothing'}", flush=True)
        shutil.rmtree(mutant)
        return red

    with ThreadPoolExecutor(2) as two:
        reds = sum(two.map(caught, range(len(MUTANTS))))
    print(f"{len(MUTANTS)} mutants, {reds} caught")
    return 0 if reds == len(MUTANTS) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two go on at a time
    sys.exit(main())
