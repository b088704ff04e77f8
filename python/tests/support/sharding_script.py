# SPDX-License-Identifier: Apache-2.0
"""What each of two ranks runs: loaders that Accelerate and Fabric take over."""

import json
import sys
from pathlib import Path

import lightning
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import DataLoader

OPTIONS = {"table_name": "points", "columns": ["id"], "format": "torch", "batch_size": 50}


def error_of(loader) -> str:
    try:
        next(iter(loader))
    except RuntimeError as error:
        return str(error)
    return "no error"


def ids(loader) -> list[int]:
    return [id for batch in loader for id in batch["id"].tolist()]


def gathered(accelerator, loader) -> list[int]:
    """What each process has of every row, where ranks may have batches of different sizes."""
    found = []
    for batch in accelerator.prepare(loader):
        padded = accelerator.pad_across_processes(batch["id"], dim=0, pad_index=-1)
        found += accelerator.gather_for_metrics(padded).tolist()
    return [id for id in found if id != -1]


def main() -> None:
    uri, out = Path(sys.argv[1]), Path(sys.argv[2])
    accelerator = Accelerator(cpu=True)
    streamed = LanceIterableTorchDataset(uri=uri, shuffle=True, **OPTIONS)
    mapped = LanceTorchDataset(uri=uri, **OPTIONS)
    found = {}
    for name, dataset, shuffle in (("streamed", streamed, None), ("mapped", mapped, True)):
        loader = LanceDataLoader(dataset, shuffle=shuffle)
        found[f"{name} by accelerate"] = ids(accelerator.prepare(loader))
        found[f"{name} is left alone"] = accelerator.prepare(loader) is loader
        fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
        fabric.launch()
        found[f"{name} by fabric"] = ids(fabric.setup_dataloaders(loader))
        loader.set_epoch(0)
        found[f"{name} skipped"] = ids(skip_first_batches(loader, 5))
    few = {"uri": uri, **OPTIONS, "filter": "id < 105", "batch_size": 10}
    evaluated = LanceDataLoader(LanceIterableTorchDataset(drop_last=False, **few))
    found["gathered"] = gathered(accelerator, evaluated)
    evaluated = DataLoader(LanceTorchDataset(**few), batch_size=10)
    found["plain, gathered"] = gathered(accelerator, evaluated)
    found["plain"] = ids(accelerator.prepare(DataLoader(mapped, batch_size=50, shuffle=True)))
    plain = accelerator.prepare(DataLoader(streamed, batch_size=None))
    if accelerator.is_main_process:  # the only one that would read
        found["dispatched"] = error_of(plain)
    accelerator.wait_for_everyone()
    apart = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False))
    found["sharded"] = error_of(apart.prepare(DataLoader(streamed, batch_size=None)))
    (out / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main()
