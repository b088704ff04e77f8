# SPDX-License-Identifier: Apache-2.0
"""Resume torchdata's `StatefulDataLoader` around a LanceDB dataset, with worker processes.

    python examples/stateful.py --stop-after 40
    python examples/stateful.py --resume

Where a training stack brings a ``StatefulDataLoader``, give it the iterable dataset and
``batch_size=None``: it asks the dataset in each worker for its state, and goes on with as many
workers and ranks as before, each rank with a state of its own. `LanceDataLoader` has one state for
all ranks, which fits any number of workers and ranks. ``rows.jsonl`` has the ids of every step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path

import torch
from digits import make_model, make_table
from lancedb.integrations.torch import LanceIterableTorchDataset
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader


def main() -> None:
    """Train, and save a checkpoint at the end or where it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stop-after", type=int, help="step to save and stop at")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    torch.manual_seed(0)
    if not args.resume:
        make_table(args.out / "lancedb")
    dataset = LanceIterableTorchDataset(
        uri=args.out / "lancedb",
        table_name="digits",
        format="torch",
        batch_size=64,
        shuffle=True,
        seed=0,
    )
    # The fork server imports these once; else each worker would, which takes seconds.
    multiprocessing.set_forkserver_preload(["digits", "lancedb.integrations.torch"])
    loader = StatefulDataLoader(
        dataset,
        batch_size=None,
        num_workers=args.workers,
        multiprocessing_context="forkserver" if args.workers else None,
        persistent_workers=args.workers > 0,
    )
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step = 0
    if args.resume:
        checkpoint = torch.load(args.out / "stateful.pt")
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        loader.load_state_dict(checkpoint["loader"])
        step = checkpoint["step"]

    with open(args.out / "rows.jsonl", "a") as rows:
        for epoch in range(step // len(loader), args.epochs):
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                rows.write(json.dumps(batch["id"].tolist()) + "\n")
                if step == args.stop_after:
                    break
            print(f"epoch {epoch}, step {step}: loss {loss.item():.3f}")
            if step == args.stop_after:
                break

    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loader": loader.state_dict(),
        "step": step,
    }
    torch.save(checkpoint, args.out / "stateful.pt")


if __name__ == "__main__":
    main()
