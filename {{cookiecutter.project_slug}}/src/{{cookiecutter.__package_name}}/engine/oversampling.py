"""SMOTE on rows of a table: rare classes get new rows between neighbours, in training alone.

Chawla et al. 2002; SMOTENC where there are categories beside numbers, SMOTEN where there are no numbers. By
imbalanced-learn, the extra ``smote``. Shapes: N rows, F columns, M rows with the new ones.
"""

from typing import Any

import numpy as np

from .installing import of_extra
from .mistakes import Mistake

NEIGHBOURS = 5


def oversampled(
    x_NF: np.ndarray, target_N: np.ndarray, numbers: int, names: list[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add rows until every class has as many as the largest; the given ones come first.

    Missing numbers of a new row's neighbours are their column's median, so a new row misses none.

    Args:
        x_NF: Raw rows: numbers, NaN where one is missing, then codes of categories.
        target_N: The class of each.
        numbers: How many of the columns, the first ones, are numbers.
        names: The names of the classes.
        seed: The seed of the draw.

    Returns:
        The rows x_MF and the classes target_M.

    Raises:
        Mistake: A class has a single row, or imbalanced-learn is missing.
    """
    try:
        from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Mistake(
            "--data.balance=smote needs imbalanced-learn, which is not installed, so no row could be made; install the "
            f"project's extra: {of_extra('smote')}"
        ) from error
    counts_K = np.bincount(target_N, minlength=len(names))
    rarest = int(counts_K.argmin())
    if counts_K[rarest] < 2:
        raise Mistake(
            f"--data.balance=smote makes rows between neighbours, and class {names[rarest]!r} has a single training "
            "row, which has none; add rows to it, or give --data.balance class_weights."
        )
    numbers_NF = x_NF[:, :numbers].astype(np.float64)
    centre_F = np.nanmedian(numbers_NF, axis=0) if numbers else np.zeros(0)
    centre_F = np.nan_to_num(centre_F)
    filled_NF = np.where(np.isnan(numbers_NF), centre_F, numbers_NF)
    scale_F = filled_NF.std(0)
    scale_F[scale_F == 0] = 1
    comparable_NF = np.column_stack([(filled_NF - centre_F) / scale_F, x_NF[:, numbers:]])
    categories = list(range(numbers, x_NF.shape[1]))
    options: dict[str, Any] = {"k_neighbors": min(NEIGHBOURS, int(counts_K[rarest]) - 1), "random_state": seed}
    if not categories:
        maker = SMOTE(**options)
    elif not numbers:
        maker = SMOTEN(**options)
    else:
        maker = SMOTENC(categorical_features=categories, **options)
    made_MF, target_M = maker.fit_resample(comparable_NF, target_N)[:2]
    new_MF = np.asarray(made_MF, dtype=np.float64)[len(x_NF) :]
    new_MF[:, :numbers] = new_MF[:, :numbers] * scale_F + centre_F
    return np.concatenate([x_NF, new_MF.astype(np.float32)]), np.asarray(target_M)
