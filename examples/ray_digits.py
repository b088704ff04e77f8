# SPDX-License-Identifier: Apache-2.0
"""Train with Ray Train on two workers, which fail in mid-epoch and go on from a checkpoint.

    python examples/ray_digits.py --fail-after 45

Each of Ray's workers finds its rank by itself and takes its rows: there is no
``prepare_data_loader``. It would shard nothing twice, but asks for one batch ahead, so that a state
would leave a batch out; the loader refuses to give one then. Move batches to the device yourself.

The loader's state is the same on every worker, so it goes into the checkpoint that the first one
reports. The dataset is made in the workers, from where the table is: a table object of the driver
would not be on their machines. ``rows-*.jsonl`` has the ids of every step; those between checkpoint
and failure come twice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import ray
import ray.train
import torch
from digits import make_model, make_table
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

GLOBAL_BATCH = 64
SAVE_EVERY = 14


def train(config: dict) -> None:
    """What each worker runs, anew after a failure."""
    torch.manual_seed(0)
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    dataset = LanceIterableTorchDataset(
        uri=config["uri"],
        table_name="digits",
        format="torch",
        batch_size=GLOBAL_BATCH // ranks,
        shuffle=True,
        seed=0,
    )
    loader = LanceDataLoader(dataset)
    model = prepare_model(make_model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / "state.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]

    with open(Path(config["out"]) / f"rows-{rank}-of-{ranks}.jsonl", "a") as rows:
        for epoch in loader.epochs(config["epochs"]):
            for batch in loader:
                loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                rows.write(json.dumps({"step": step, "ids": batch["id"].tolist()}) + "\n")
                rows.flush()
                if step % SAVE_EVERY == 0:
                    saved = {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "loader": loader.state_dict(),
                        "step": step,
                    }
                    report({"epoch": epoch, "step": step, "loss": loss.item()}, saved, rank)
                if step == config["fail_after"] and checkpoint is None:
                    raise RuntimeError(f"failing after step {step}, as told")


def report(metrics: dict, saved: dict, rank: int) -> None:
    """Tell Ray how far the run is, with the first worker's checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            torch.save(saved, Path(folder) / "state.pt")
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def main() -> None:
    """Start a local Ray and train on it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fail-after", type=int, help="step at which the workers fail, once")
    args = parser.parse_args()
    out = args.out.absolute()
    make_table(out / "lancedb")
    ray.init(num_cpus=args.workers, include_dashboard=False)
    trainer = TorchTrainer(
        train,
        train_loop_config={
            "uri": str(out / "lancedb"),
            "out": str(out),
            "epochs": args.epochs,
            "fail_after": args.fail_after,
        },
        scaling_config=ScalingConfig(num_workers=args.workers),
        run_config=RunConfig(
            storage_path=str(out / "ray"), failure_config=FailureConfig(max_failures=1)
        ),
    )
    print(trainer.fit().metrics)
    ray.shutdown()


if __name__ == "__main__":
    main()
