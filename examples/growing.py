# SPDX-License-Identifier: Apache-2.0
"""Train on a table that grows: each epoch is one version, the next epoch the newest.

    python examples/growing.py

A dataset reads the table version that it was made from, whatever is written meanwhile. So an epoch
has a fixed number of steps, every row of that version comes exactly once, and a state saved in it
can be resumed. To move on, make a new dataset between two epochs; model and optimizer stay. The
tag is what keeps the version of the epoch under way from being cleaned up, and where a run that
was cut off finds it.

Here digits arrive in the middle of every epoch. ``epochs.jsonl`` has the version of each and the
ids of all rows that were trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lancedb
import pyarrow as pa
import torch
from digits import make_model, read_digits
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch import nn
from tqdm import tqdm

TAG = "training"
FIRST, MORE = 300, 300  # rows that are there, and rows that arrive in an epoch


def pin_newest(table: lancedb.table.Table) -> None:
    """Let the tag be at the newest version; the one that it leaves may then be cleaned up."""
    if TAG in table.tags.list():
        table.tags.update(TAG, table.version)
    else:
        table.tags.create(TAG, table.version)


def make_loader(table: lancedb.table.Table, epoch: int) -> LanceDataLoader:
    """All rows of the tagged version, in the order of this epoch."""
    dataset = LanceIterableTorchDataset(
        table, version=TAG, format="torch", batch_size=50, drop_last=False, shuffle=True, seed=0
    )
    loader = LanceDataLoader(dataset)
    # A new loader begins with epoch 0. Untold, it would repeat that order if no row was added.
    loader.set_epoch(epoch)
    return loader


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: LanceDataLoader,
    table: lancedb.table.Table,
    arriving: pa.Table,
) -> list[int]:
    """One epoch, in the middle of which rows arrive; returns the ids that were trained on."""
    ids = []
    model.train()
    with tqdm(loader, unit="step") as bar:
        for step, batch in enumerate(bar):
            loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ids += batch["id"].tolist()
            bar.set_postfix(loader.postfix())
            if step == len(loader) // 2:
                table.add(arriving)
    return ids


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that are told rightly."""
    return (model.eval()(images[:, None]).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train an epoch on each of the versions that the table goes through."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = read_digits()
    db = lancedb.connect(args.out / "lancedb")
    table = db.create_table("stream", rows[:FIRST], mode="overwrite")
    test = rows[FIRST + args.epochs * MORE :]
    images = torch.tensor(test["image"].to_pylist())
    labels = torch.tensor(test["label"].to_pylist())

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with open(args.out / "epochs.jsonl", "w") as file:
        for epoch in range(args.epochs):
            pin_newest(table)
            loader = make_loader(table, epoch)
            arriving = rows[FIRST + epoch * MORE :][:MORE]
            ids = train_epoch(model, optimizer, loader, table, arriving)
            line = {"epoch": epoch, "version": loader.dataset.version, "ids": ids}
            file.write(json.dumps(line) + "\n")
            print(
                f"epoch {epoch}: version {loader.dataset.version}, {len(ids)} rows trained on, "
                f"{table.count_rows()} in the table by now, "
                f"test accuracy {accuracy(model, images, labels):.1%}"
            )


if __name__ == "__main__":
    main()
