# SPDX-License-Identifier: Apache-2.0
"""Train on a mixture of three tables whose weights change on the way, and resume anywhere.

    python examples/mixture.py --out mixture
    torchrun --nproc-per-node 2 examples/mixture.py --out mixture --workers 2

Rows of "clean" are labelled rightly, of "noisy" mostly, and "rare" has a class that others lack.
The run begins with noisy rows, as there are many of them, and ends with clean and rare ones. A
checkpoint is written every few steps; started again after any crash, with any number of ranks and
workers, the run goes on with the very next batch. ``steps.jsonl`` has the ids of each global step.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)
from torch import nn

SIZES = {"noisy": 4000, "clean": 1500, "rare": 120}
WEIGHTS = [
    (0, {"noisy": 0.8, "clean": 0.15, "rare": 0.05}),
    (4800, {"noisy": 0.3, "clean": 0.5, "rare": 0.2}),
    (9600, {"clean": 0.8, "rare": 0.2}),
]
GLOBAL_BATCH, EPOCH_ROWS, EPOCHS, CLASSES = 96, 4800, 3, 4


def make_tables(db: lancedb.db.DBConnection) -> None:
    """Points around the centre of their class."""
    centres = np.eye(CLASSES, 8, dtype=np.float32) * 3
    for number, (name, rows) in enumerate(SIZES.items()):
        rng = np.random.default_rng(number)
        label = np.full(rows, 3) if name == "rare" else rng.integers(0, 3, rows)
        points = centres[label] + rng.standard_normal((rows, 8), dtype=np.float32)
        if name == "noisy":
            label = np.where(rng.random(rows) < 0.3, rng.integers(0, 3, rows), label)
        data = {
            "id": np.arange(rows) + 10_000 * number,
            "x": pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), 8),
            "label": label.astype(np.int64),
        }
        db.create_table(name, pa.table(data))


def make_loader(db: lancedb.db.DBConnection, world_size: int, workers: int) -> LanceDataLoader:
    """This rank's loader over the mixture."""
    sources = {
        name: LanceIterableTorchDataset(db.open_table(name), version=1, shuffle=True)
        for name in SIZES
    }
    dataset = LanceMixedTorchDataset(
        sources,
        WEIGHTS,
        batch_size=GLOBAL_BATCH // world_size,
        stop=EPOCH_ROWS,
        format="torch",
        seed=0,
    )
    return LanceDataLoader(dataset, num_workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mixture"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="steps after which to end as if killed")
    args = parser.parse_args()
    ranked = "RANK" in os.environ
    if ranked:
        dist.init_process_group("gloo")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if ranked else (0, 1)
    args.out.mkdir(exist_ok=True, parents=True)
    db = lancedb.connect(args.out / "lancedb")
    if rank == 0 and "rare" not in db.list_tables().tables:
        make_tables(db)
    if ranked:
        dist.barrier()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = make_loader(db, world_size, args.workers)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    steps = 0
    for epoch in loader.epochs(EPOCHS):
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch["x"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                if ranked:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world_size
            optimizer.step()
            ids = [batch["id"].tolist()]
            if ranked:
                ids = [None] * world_size
                dist.all_gather_object(ids, batch["id"].tolist())
            steps += 1
            if rank == 0:
                with (args.out / "steps.jsonl").open("a") as log:
                    log.write(json.dumps([id for part in ids for id in part]) + "\n")
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                }
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
            if steps == args.stop_after:
                if ranked:
                    dist.barrier()
                os._exit(0)
        if rank == 0:
            print(f"epoch {epoch}: {loader.postfix()}")
    if rank == 0:
        rare = torch.from_numpy(np.eye(CLASSES, 8, dtype=np.float32)[3:] * 3)
        print("the rare class is learned:", model(rare).argmax().item() == 3)
    if ranked:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
