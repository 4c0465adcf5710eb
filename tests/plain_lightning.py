"""The usual pattern on plain Lightning, the other arm of the fault tests: ``plain_lightning.py FOLDER [OPTION ...]``.

Trains on FOLDER/CLASS/IMAGE with shuffling, dropout and a checkpoint of the best and the last epoch; ``--resume`` goes
on from checkpoints/last.ckpt; ``--evaluate`` logs the accuracy and loss of all images on the ranks there are.
"""

import argparse
import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


class Model(LightningModule):
    """A small network whose step and metrics are logged as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.network = nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(4, 3))

    def training_step(self, batch):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch):
        logits = self.network(batch[0])
        self.log("loss", functional.cross_entropy(logits, batch[1]), sync_dist=True)
        self.log("accuracy", (logits.argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.003)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--checkpoints", default="checkpoints")
    options = parser.parse_args()
    seed_everything(0)
    plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    augmented = v2.Compose([v2.RandomHorizontalFlip(), plain])
    save = ModelCheckpoint(options.checkpoints, "best", monitor="loss", save_last=True)
    ranks = {"devices": int(os.environ.get("WORLD_SIZE", "1")), "accelerator": "cpu"}
    trainer = Trainer(max_epochs=4, callbacks=[save], logger=False, enable_progress_bar=False, **ranks)
    validation = DataLoader(ImageFolder(options.folder, plain), 8)
    if options.evaluate:
        print("RESULT", trainer.validate(Model(), validation, verbose=False)[0])
        return
    last = Path(options.checkpoints, "last.ckpt")
    training = DataLoader(ImageFolder(options.folder, augmented), 8, shuffle=True, drop_last=True)
    trainer.fit(Model(), training, validation, ckpt_path=last if options.resume and last.exists() else None)


if __name__ == "__main__":
    main()
