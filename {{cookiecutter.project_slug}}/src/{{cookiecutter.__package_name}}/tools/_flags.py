"""Flags of images that the tools speak of: what splits follow from, and what ``diagnose`` advises."""

# Which samples there are, and what is predicted of them: runs that are compared have these in common.
SAMPLES = ("root", "labels", "task", "image_column", "label_columns", "label_delimiter", "log_target")
# Which samples are validated follows from these: the easiest split would win.
SPLITS = ("root", "manifest", "split_seed", "val_fraction", "test_fraction", "group_pattern", "labels", "task")
SPLITS += ("image_column", "label_columns", "label_delimiter", "split_column", "group_column", "weight_column")

# Advice, see diagnose.py.
COLLAPSED = (
    "--model.optimizer.lr {higher:.2g} (lr-range finds a rate), then --data.augment none, then --model.network.width "
    "{width} or another network, and a look at whether the numbers belong to their images"
)
OVERFITTING = (
    "--data.augment strong, then --model.mixup 0.2, then --model.optimizer.weight_decay {decay:.2g}, then "
    "--model.network.dropout 0.3, then --callbacks.early_stopping.patience 10, then more images"
)
OVERFITTING_NUMBERS = (  # a number would change with the image, or be mixed with others
    "--model.optimizer.weight_decay {decay:.2g}, then --model.network.dropout 0.3, then "
    "--callbacks.early_stopping.patience 10, then --data.augment medium if numbers stay right, then more images"
)
UNDERFITTING = (
    "--model.network.width {width} or another network, then less weight decay, dropout, mixing and augmentation, then "
    "a better rate (lr-range)"
)
LARGER = "--model.network.width {width}"
STARVED = "--data.num_workers {workers}, then a --data.stored_size near the image size, then smaller files"
