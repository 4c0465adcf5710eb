"""``smote``: train the last layer of a run again, rare classes interpolated.

Synthetic minority over-sampling (Chawla et al. 2002) makes double exposures of pixels; between the embeddings of a
trained, frozen network it is sensible. Takes the flags of ``validate``; writes ``checkpoints/smote.ckpt`` beside the
checkpoint it started from, which stays as it is. Needs imbalanced-learn (the extra ``smote``).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..cli import CLI
from ..engine.files import made_anew
from ..engine.loading import collate
from ..engine.mistakes import Mistake
from ..engine.stages import heads, last_layer
from ..engine.targets import Classes
from ._page import check_packages


class OfClasses(CLI):
    """What is validated first, before anything is interpolated."""

    def before_validate(self) -> None:
        """Refuse a run that predicts no classes.

        Raises:
            Mistake: It predicts several labels or numbers.
        """
        super().before_validate()
        task = self.own.data.task
        if task not in ("auto", Classes.task):
            raise Mistake(
                f"smote interpolates between images of a rare class, and the run predicts none (--data.task {task}), "
                "so there is nothing to do; against rare labels or numbers train with --data.balance sampler."
            )


@torch.no_grad()
def embeddings(network: nn.Module, normalised: Any, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what the last layer sees of each sample, (N, D), without augmentation, and the labels, (N,)."""
    seen: list[Tensor] = []
    labels: list[Tensor] = []
    _, head = last_layer(network)
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).cpu()))
    network.eval()
    for batch in DataLoader(dataset, batch_size=256, collate_fn=collate):
        network(normalised(batch.x))
        labels.append(batch.y)
    hook.remove()
    return torch.cat(seen).numpy(), torch.cat(labels).numpy()


def resampled(x_ND: np.ndarray, y_N: np.ndarray, names: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate until every class has as many samples as the largest.

    Raises:
        Mistake: A class has a single sample, or imbalanced-learn is missing.
    """
    check_packages("smote", "smote", "imblearn")
    from imblearn.over_sampling import SMOTE  # pyright: ignore[reportMissingImports]  (the extra `smote`)

    counts = np.bincount(y_N)
    rarest = int(counts.argmin())
    if counts[rarest] < 2:
        raise Mistake(
            f"class {names[rarest]!r} has a single training image, so there is nothing to interpolate; add images to "
            "it."
        )
    # Of a rare class every other sample is a neighbour, and no more than there are.
    return SMOTE(k_neighbors=min(5, int(counts[rarest]) - 1), random_state=seed).fit_resample(x_ND, y_N)[:2]


def fit_head(head: nn.Linear, x_ND: np.ndarray, y_N: np.ndarray, decay: float = 1e-4) -> None:
    """Train a linear layer to the end: cross entropy with a little weight decay, by L-BFGS."""
    x = torch.from_numpy(x_ND).float()
    y = torch.from_numpy(y_N)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), y) + decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def main(args: list[str]) -> None:
    """Run the command: validate, train the last layer again, validate, write the checkpoint."""
    cli = OfClasses(["validate", *args])
    assert cli.source
    model, data = cli.model.float().cpu(), cli.datamodule
    if data.is_weighted:
        raise Mistake(
            "the samples have weights, which interpolated ones have not, so they would be lost; train with "
            "--data.balance sampler or class_weights."
        )
    name, head = last_layer(model.network)
    if not isinstance(head, nn.Linear) or len(heads(model.network)) > 1:
        raise Mistake(
            f"the network's last layer, {name}, is no linear layer, or one of several, so it cannot be trained on "
            "embeddings; give the checkpoint of a network that ends in one, with --ckpt_path."
        )
    x_ND, y_N = embeddings(model.network, model.normalised, data.train)
    many_x_ND, many_y_N = resampled(x_ND, y_N, data.target.names, data.seed)
    fit_head(head.requires_grad_(True), many_x_ND, many_y_N)
    cli.trainer.validate(model, datamodule=data)
    checkpoint = torch.load(cli.source.checkpoint, map_location="cpu", weights_only=True)
    checkpoint["state_dict"] |= {f"network.{name}.{key}": value for key, value in head.state_dict().items()}
    target = cli.source.checkpoint.with_name("smote.ckpt")
    with made_anew(target) as file:
        torch.save(checkpoint, file)
    print(f"{len(y_N)} images of {len(data.target.names)} classes; the new last layer is in {target}")
    print(f"next: test --ckpt_path {target}")
