# SPDX-License-Identifier: Apache-2.0
"""What each rank runs under torchrun: steps with an all-reduce each, and a record of the rows."""

import argparse
import datetime
import json
from pathlib import Path

import torch.distributed as dist
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from rank_steps import ORDER, steps_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--global-batch", type=int, default=96)
    parser.add_argument("--steps", type=int, help="stop after as many")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--keep-all", action="store_true")
    args = parser.parse_args()
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dataset = LanceIterableTorchDataset(
        uri=args.uri,
        table_name="many",
        batch_size=args.global_batch // world_size,
        drop_last=not args.keep_all,
        **ORDER,
    )
    loader = LanceDataLoader(dataset, num_workers=args.workers)
    if args.resume:
        loader.load_state_dict(json.loads(args.resume.read_text()))
    steps = steps_of(loader, args.steps)
    record = {"steps": steps, "state": loader.state_dict(), "length": len(loader)}
    (args.out / f"rank{rank}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
