# SPDX-License-Identifier: Apache-2.0
"""Train on several ranks with plain DDP, stop in mid-epoch, resume on any number of ranks.

    torchrun --nproc-per-node 2 examples/ddp.py --stop-after 40
    torchrun --nproc-per-node 1 examples/ddp.py --resume

The dataset finds its rank by itself, and takes the rows that are this rank's: there is no
``DistributedSampler``. The state of the loader is the same on every rank, so rank 0 saves it with
the model and every rank loads it. What must stay is the number of rows in a global step: with
half the ranks, each takes batches of twice the size. ``rows-*.jsonl`` has the ids of every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.distributed as dist
from digits import make_model, make_table
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch import nn
from torch.nn.parallel import DistributedDataParallel

GLOBAL_BATCH = 64


def make_loader(uri: Path) -> LanceDataLoader:
    """This rank's batches; all ranks together see GLOBAL_BATCH rows a step."""
    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="digits",
        format="torch",
        batch_size=GLOBAL_BATCH // dist.get_world_size(),
        shuffle=True,
        seed=0,
    )
    return LanceDataLoader(dataset)


def main() -> None:
    """Train, and save a checkpoint at the end or where it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-after", type=int, help="global step to save and stop at")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)

    if rank == 0 and not args.resume:
        make_table(args.out / "lancedb")
    dist.barrier()
    loader = make_loader(args.out / "lancedb")
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step = 0
    if args.resume:
        checkpoint = torch.load(args.out / "ddp.pt")
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        loader.load_state_dict(checkpoint["loader"])
        step = checkpoint["step"]

    with open(args.out / f"rows-{rank}-of-{world_size}.jsonl", "w") as rows:
        for epoch in loader.epochs(args.epochs):
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                rows.write(json.dumps(batch["id"].tolist()) + "\n")
                if step == args.stop_after:
                    break
            print(f"rank {rank}, epoch {epoch}, step {step}: loss {loss.item():.3f}")
            if step == args.stop_after:
                break

    if rank == 0:
        checkpoint = {
            "model": model.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "loader": loader.state_dict(),
            "step": step,
        }
        torch.save(checkpoint, args.out / "ddp.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
