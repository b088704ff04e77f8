# SPDX-License-Identifier: Apache-2.0
"""What each rank runs under torchrun: a mixture, with an all-reduce a step."""

import argparse
import datetime
import json
from pathlib import Path

import lancedb
import torch
import torch.distributed as dist
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceMixedTorchDataset,
)

WEIGHTS = {"web": 0.7, "code": 0.3}


def make_loader(uri, batch_size, workers=0):
    db = lancedb.connect(uri)
    sources = {
        name: LanceIterableTorchDataset(db.open_table(name), shuffle=True) for name in WEIGHTS
    }
    dataset = LanceMixedTorchDataset(
        sources, WEIGHTS, batch_size=batch_size, stop=960, format="torch", seed=1
    )
    return LanceDataLoader(dataset, num_workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = make_loader(args.uri, 48 // world_size, args.workers)
    if args.resume:
        loader.load_state_dict(json.loads(args.resume.read_text()))
    steps = []
    for batch in loader:
        total = torch.tensor(len(batch["id"]))
        dist.all_reduce(total)
        assert total.item() == 48
        steps.append(batch["id"].tolist())
        if len(steps) == args.steps:
            break
    record = {"steps": steps, "state": loader.state_dict(), "length": len(loader)}
    (args.out / f"rank{rank}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
