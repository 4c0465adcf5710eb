"""Flags of tables that the tools speak of: what splits follow from, and what ``diagnose`` advises."""

# Which samples there are, and what is predicted of them: runs that are compared have these in common. The columns that
# are learned from may differ.
SAMPLES = ("table", "target", "task", "id", "drop_missing_target", "log_target")
# Which samples are validated follows from these: the easiest split would win.
SPLITS = ("table", "manifest", "split_seed", "val_fraction", "test_fraction", "group_pattern", "target", "task", "id")
SPLITS += ("drop_missing_target", "split_column", "group", "weight")

# Advice, see diagnose.py.
COLLAPSED = (
    "--model.optimizer.lr {higher:.2g} (lr-range finds a rate), then --model.network.width {width} or another network, "
    "and a look at whether the columns tell anything of the numbers"
)
OVERFITTING = (
    "--model.optimizer.weight_decay {decay:.2g}, then --model.network.dropout 0.3, then --model.swap_noise 0.1, then "
    "--model.mixup 0.2, then --model.network TabM, then --callbacks.early_stopping.patience 10, then more rows"
)
OVERFITTING_NUMBERS = OVERFITTING
UNDERFITTING = (
    "baseline, which tells how much there is to learn, then --model.network.width {width}, then "
    "--model.network.numbers periodic, then less weight decay, dropout, noise and mixing, then a better rate (lr-range)"
)
LARGER = "--config tabular_strong"
STARVED = "--data.num_workers 0, as rows lie in memory, then --data.batch_size {batch}"
