# SPDX-License-Identifier: Apache-2.0
"""Train with Lightning, on one device or several, and resume in mid-epoch.

    python examples/lightning_digits.py --stop-after 40
    python examples/lightning_digits.py --resume

The data module keeps the loader's state in Lightning's checkpoints. (Lightning saves the state of
a loader by itself, but loads it too late, and begins the epoch again, where something has asked for
``trainer.estimated_stepping_batches`` before, as learning rate schedules do.) The loader shards
rows over the ranks, and Lightning leaves it alone. Give the dataset the batch size of one rank, and
resume on as many ranks as before: Lightning counts the batches of an epoch, not its rows.
``rows-*.jsonl`` has the ids of every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightning
import torch
from digits import make_model, make_table
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch import nn

GLOBAL_BATCH = 64


class Digits(lightning.LightningDataModule):
    """The digits, as batches of one rank."""

    def __init__(self, uri: Path):
        super().__init__()
        self.uri = uri
        self.loader: LanceDataLoader | None = None
        self.state: dict | None = None

    def prepare_data(self) -> None:
        if not (self.uri / "digits.lance").exists():
            make_table(self.uri)

    def train_dataloader(self) -> LanceDataLoader:
        dataset = LanceIterableTorchDataset(
            uri=self.uri,
            table_name="digits",
            format="torch",
            batch_size=GLOBAL_BATCH // self.trainer.world_size,
            shuffle=True,
            seed=0,
        )
        self.loader = LanceDataLoader(dataset)
        if self.state is not None:
            self.loader.load_state_dict(self.state)
        return self.loader

    def state_dict(self) -> dict:
        return {} if self.loader is None else {"loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.state = state.get("loader")


class Classifier(lightning.LightningModule):
    """The CNN, with a learning rate that goes up and down over the whole run."""

    def __init__(self, out: Path):
        super().__init__()
        self.model = make_model()
        self.out = out

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        self.rows = open(self.out / f"rows-{rank}-of-{ranks}.jsonl", "w")  # noqa: SIM115
        print(f"{self.trainer.estimated_stepping_batches} steps in all")

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.rows.write(json.dumps(batch["id"].tolist()) + "\n")
        return nn.functional.cross_entropy(self.model(batch["image"][:, None]), batch["label"])

    def on_train_end(self) -> None:
        self.rows.close()


class StopAfter(lightning.Callback):
    """Saves a checkpoint at a step and ends the run, as if it had been cut off there."""

    def __init__(self, step: int | None, checkpoint: Path):
        self.step = step
        self.checkpoint = checkpoint

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True


def main() -> None:
    """Train, and save a checkpoint at the end or where it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--stop-after", type=int, help="step to save and stop at")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    lightning.seed_everything(0, verbose=False)
    checkpoint = args.out / "lightning.ckpt"
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        max_epochs=args.epochs,
        callbacks=[StopAfter(args.stop_after, checkpoint)],
        default_root_dir=args.out,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(
        Classifier(args.out),
        datamodule=Digits(args.out / "lancedb"),
        ckpt_path=checkpoint if args.resume else None,
    )
    if args.stop_after is None:
        trainer.save_checkpoint(checkpoint)


if __name__ == "__main__":
    main()
