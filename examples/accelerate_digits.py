# SPDX-License-Identifier: Apache-2.0
"""Train with Hugging Face Accelerate, stop in mid-epoch, resume on any number of processes.

    torchrun --nproc-per-node 2 examples/accelerate_digits.py --stop-after 40
    torchrun --nproc-per-node 1 examples/accelerate_digits.py --resume

``prepare`` replaces loaders by ones that shard batches over the processes. A `LanceDataLoader`
shards already: ``prepare`` leaves it as it is, and ``save_state`` and ``load_state`` save and
load its position beside the model, as with ``use_stateful_dataloader``. Two things are left to
you: move batches to the device, and set the dataset's batch size for one process. There is no
``skip_first_batches``, which would read what it skips: the loader continues with the next batch.
``rows-*.jsonl`` has the ids of every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from digits import make_model, make_table
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from torch import nn

GLOBAL_BATCH = 64


def make_loader(uri: Path, num_processes: int) -> LanceDataLoader:
    """This process's batches; all processes together see GLOBAL_BATCH rows a step."""
    dataset = LanceIterableTorchDataset(
        uri=uri,
        table_name="digits",
        format="torch",
        batch_size=GLOBAL_BATCH // num_processes,
        shuffle=True,
        seed=0,
    )
    return LanceDataLoader(dataset)


def main() -> None:
    """Train, and save a checkpoint at the end or where it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-after", type=int, help="save and stop after as many steps")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.is_main_process and not args.resume:
        make_table(args.out / "lancedb")
    accelerator.wait_for_everyone()

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = make_loader(args.out / "lancedb", accelerator.num_processes)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if args.resume:
        accelerator.load_state(args.out / "accelerate")

    name = f"rows-{accelerator.process_index}-of-{accelerator.num_processes}.jsonl"
    step = 0
    with open(args.out / name, "w") as rows:
        for epoch in loader.epochs(args.epochs):
            for batch in loader:
                batch = send_to_device(batch, accelerator.device)
                loss = nn.functional.cross_entropy(model(batch["image"][:, None]), batch["label"])
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                step += 1
                rows.write(json.dumps(batch["id"].tolist()) + "\n")
                if step == args.stop_after:
                    break
            if step == args.stop_after:
                break
            accelerator.print(f"epoch {epoch}, step {step}: loss {loss.item():.3f}")

    accelerator.save_state(args.out / "accelerate")
    accelerator.end_training()


if __name__ == "__main__":
    main()
