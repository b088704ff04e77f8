# SPDX-License-Identifier: Apache-2.0
"""Test a classifier of embeddings by k-fold cross-validation, with lancedb's permutation builder.

    python examples/kfold.py

Each fold is held out once, while a model trains on the others; the mean accuracy says more than
that of a single split. The table stays as it is: for each fold a permutation table says which rows
train and which are held out. It has sixteen bytes a row, and lives in memory.

A row's fold follows from the row itself (``split_calculated``), so that folds do not overlap, and
rows that are added later change no other row's fold. Where rows belong together, as frames of one
video do, compute it from what they share: else the model is tested on what it has nearly seen.

The embeddings are the 64 pixels of scikit-learn's digits, a ``fixed_size_list<float32>[64]``, as
vector search wants them. A batch of them is a float tensor ``(n, 64)`` without a copy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lancedb
import pyarrow as pa
import torch
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from lancedb.permutation import permutation_builder
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

FOLDS = 5


def make_table(uri: Path) -> lancedb.table.Table:
    """The digits as rows of id, embedding and label."""
    digits = load_digits()
    pixels = pa.array((digits.data / 16).astype("float32").ravel())
    embeddings = pa.FixedSizeListArray.from_arrays(pixels, 64)
    rows = pa.table({"id": range(len(embeddings)), "embedding": embeddings, "label": digits.target})
    return lancedb.connect(uri).create_table("embeddings", rows, mode="overwrite")


def leave_out(table: lancedb.table.Table, fold: int) -> lancedb.table.Table:
    """A permutation table of two splits: the rows of this fold, and all others."""
    return (
        permutation_builder(table)
        .split_calculated(
            f"CAST(id % {FOLDS} = {fold} AS INT)",
            split_names=["train", "held out"],
        )
        .execute()
    )


def make_loader(
    table: lancedb.table.Table, splits: lancedb.table.Table, split: str
) -> LanceDataLoader:
    """Shuffled batches of one split, every row once an epoch."""
    dataset = LanceIterableTorchDataset(
        table,
        permutation_table=splits,
        split=split,
        format="torch",
        batch_size=64,
        drop_last=False,
        shuffle=True,
        seed=0,
    )
    return LanceDataLoader(dataset)


def fit(loader: LanceDataLoader, epochs: int, bar: tqdm) -> nn.Module:
    """A logistic regression, begun anew for each fold."""
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(epochs):
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch["embedding"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        bar.update()
    return model


@torch.no_grad()
def predict(model: nn.Module, loader: LanceDataLoader) -> tuple[list[int], list[bool]]:
    """The ids of all rows, and whether the model is right about each."""
    ids, right = [], []
    for batch in loader:
        ids += batch["id"].tolist()
        right += (model(batch["embedding"]).argmax(1) == batch["label"]).tolist()
    return ids, right


def main() -> None:
    """Train and test a model for each fold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    table = make_table(args.out / "lancedb")
    accuracies, tested = [], []
    with tqdm(total=FOLDS * args.epochs, unit="epoch") as bar:
        for fold in range(FOLDS):
            bar.set_description(f"fold {fold + 1}/{FOLDS}")
            splits = leave_out(table, fold)
            model = fit(make_loader(table, splits, "train"), args.epochs, bar)
            ids, right = predict(model, make_loader(table, splits, "held out"))
            accuracies.append(sum(right) / len(right))
            tested += ids
    spread = max(accuracies) - min(accuracies)
    print(f"{len(tested)} rows tested, {len(set(tested))} different ones")
    print(f"mean accuracy {sum(accuracies) / FOLDS:.1%}, {spread:.1%} from worst fold to best")


if __name__ == "__main__":
    main()
