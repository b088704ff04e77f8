# SPDX-License-Identifier: Apache-2.0
"""What each rank runs under torchrun: steps among rows that a transform fails on, left out by
`on_error="skip"` and then by a function, with an all-reduce at each step."""

import argparse
import datetime
import json
import os
from pathlib import Path

import torch.distributed as dist
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from rank_steps import ORDER, steps_of


class Decode:
    """Fails on a batch in which one of some rows is."""

    def __init__(self, bad):
        self.bad = frozenset(bad)

    def __call__(self, columns):
        found = self.bad.intersection(columns["id"].tolist())
        if found:
            raise ValueError(f"cannot decode {min(found)}")
        return columns


class WriteDown:
    """Writes down each row that it is told of, in a file of this process's own."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, error, offset):
        assert str(error) == f"cannot decode {offset}"
        with open(self.folder / f"told-{os.getpid()}", "a") as file:
            file.write(f"{offset}\n")


def run(args, on_error, state):
    """Steps from `state` on, and what was left out of them."""
    dataset = LanceIterableTorchDataset(
        uri=args.uri,
        table_name="many",
        batch_size=args.global_batch // dist.get_world_size(),
        drop_last=False,
        **ORDER,
        transform=Decode(json.loads(args.bad.read_text())),
        on_error=on_error,
    )
    loader = LanceDataLoader(dataset, num_workers=args.workers)
    if state:
        loader.load_state_dict(state)
    steps = steps_of(loader, args.steps)
    return {
        "steps": steps,
        "state": loader.state_dict(),
        "skipped": loader.skipped_rows(),
        "count": loader.stats()["skipped"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("out", type=Path)
    parser.add_argument("bad", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--global-batch", type=int, default=96)
    parser.add_argument("--steps", type=int, help="stop after as many")
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    states = json.loads(args.resume.read_text()) if args.resume else {}
    record = {
        name: run(args, on_error, states.get(name))
        for name, on_error in {"skip": "skip", "function": WriteDown(args.out)}.items()
    }
    (args.out / f"rank{dist.get_rank()}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
