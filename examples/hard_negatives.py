# SPDX-License-Identifier: Apache-2.0
"""Train a two-tower model with hard negatives that are mined from the table itself.

    python examples/hard_negatives.py

A query is to find its item among 600, which come in 20 kinds: items of one kind are much alike. Two
towers embed queries and items, and each pair is trained against `NEGATIVES` other items:

- **random** ones, drawn by the transform's context, so that a run can be repeated and resumed.
  Nearly all are of another kind: the model learns to tell kinds apart, and little more; or
- **hard** ones for half of them: some of those nearest to the item, found for a whole batch by one
  search of lancedb's inside the transform.

Both make the same number of steps on as many negatives, from the same start. Printed is how often
new queries find their item at once, and among the first ten, for each of a few starts (`--seeds`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceLookup,
    TransformContext,
)
from torch import nn

ITEMS, KINDS, SIZE = 600, 20, 32
NEGATIVES, NEAREST = 8, 24
EPOCHS = 5


class Tower(nn.Module):
    """A vector of features to one of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIZE, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.layers(features), dim=-1)


class WithNegatives:
    """A transform that adds other items to a batch of queries and their items.

    Parameters
    ----------
    items : LanceLookup
        The table, by id.
    hard : bool
        Whether half of the other items are near ones, or all are random ones.
    """

    def __init__(self, items: LanceLookup, hard: bool):
        self.items = items
        self.hard = hard

    def __call__(self, batch: dict, context: TransformContext) -> dict:
        own = batch["id"]
        ids = torch.from_numpy(context.integers(0, ITEMS - 1, NEGATIVES))
        ids += ids >= own[:, None]  # all but the batch's own
        if self.hard:
            near = self.items.nearest(batch["item"], NEAREST, column="item", exclude=own)["id"]
            picked = torch.from_numpy(context.integers(0, NEAREST, NEGATIVES // 2))
            ids[:, : NEGATIVES // 2] = near.gather(1, picked)
        others = self.items.fetch(ids.flatten())["item"]
        return {**batch, "negatives": others.reshape(*ids.shape, SIZE)}


def make_table(uri: Path) -> lancedb.table.Table:
    """Items, a query for each to train on, and another one to test with."""
    random = np.random.default_rng(0)
    kinds = random.normal(size=(KINDS, SIZE))
    item = kinds[np.arange(ITEMS) % KINDS] + 0.2 * random.normal(size=(ITEMS, SIZE))
    exact = np.tanh(item @ random.normal(size=(SIZE, SIZE)) / SIZE**0.5)
    features = {
        "item": item,
        "query": exact + 0.02 * random.normal(size=exact.shape),
        "new_query": exact + 0.02 * random.normal(size=exact.shape),
    }
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), SIZE)
        for name, values in features.items()
    }
    rows = pa.table({"id": np.arange(ITEMS), **columns})
    return lancedb.connect(uri).create_table("items", rows, mode="overwrite")


def train(table: lancedb.table.Table, hard: bool, seed: int) -> nn.ModuleDict:
    """The two towers, after the same steps with negatives of one kind."""
    torch.manual_seed(seed)
    towers = nn.ModuleDict({"query": Tower(), "item": Tower()})
    dataset = LanceIterableTorchDataset(
        table,
        columns=["id", "query", "item"],
        format="torch",
        transform=WithNegatives(LanceLookup(table, key="id", columns=["id", "item"]), hard),
        batch_size=20,
        shuffle=True,
        seed=seed,
    )
    optimizer = torch.optim.AdamW(towers.parameters(), lr=5e-3)
    loader = LanceDataLoader(dataset)
    for _ in loader.epochs(EPOCHS):
        for batch in loader:
            candidates = torch.cat([batch["item"][:, None], batch["negatives"]], dim=1)
            query = towers["query"](batch["query"])
            scores = torch.einsum("bd,bcd->bc", query, towers["item"](candidates)) / 0.1
            right = torch.zeros(len(scores), dtype=torch.int64)
            loss = nn.functional.cross_entropy(scores, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return towers


@torch.no_grad()
def recall(table: lancedb.table.Table, towers: nn.ModuleDict, first: int) -> float:
    """The share of new queries whose item is among the first ones."""
    rows = LanceLookup(table).fetch(range(ITEMS))
    scores = towers["query"](rows["new_query"]) @ towers["item"](rows["item"]).T
    found = scores.topk(first).indices
    return (found == rows["id"][:, None]).any(1).float().mean().item()


def main() -> None:
    """Train twice from each start, and say what hard negatives are worth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--seeds", type=int, default=2, help="how many starts")
    args = parser.parse_args()
    table = make_table(args.out / "lancedb")
    for seed in range(args.seeds):
        for kind in ("random", "hard"):
            towers = train(table, kind == "hard", seed)
            one, ten = (recall(table, towers, first) for first in (1, 10))
            print(f"seed {seed}, {kind} negatives: recall {one:.1%} at 1, {ten:.1%} at 10")


if __name__ == "__main__":
    main()
